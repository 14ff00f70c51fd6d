"""python -m kdlib COMMAND: everything that make does, on any system.

    course   run the notebooks headless and say where the results are
    run      run one notebook            sweep    run a grid of parameters, --jobs N at a time
    train    distil from the command line (torchrun works)
    figures  redraw the slide figures    store    keep my records as reference results
    get      fetch real rows             bench    measure speed and memory
    test     run the tests               doctor   what would stop the course here, and what fits which GPU
"""
import argparse
import os
import signal
import sys
from pathlib import Path


def value(text: str):
    """A parameter as Python reads it: 2e-5 is a number, true and True are truths, the rest is text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)


def pair(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise argparse.ArgumentTypeError(f"{text!r} should look like name=value")
    return name, rest


def axis(text: str) -> tuple[str, list[str]]:
    """One axis of a grid; a value that is missing is refused by `unique`, in a sentence of its own."""
    name, equals, rest = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} should look like name=value,value")
    return name, [v.strip() for v in rest.split(",")]


def unique(pairs: list[tuple], option: str) -> dict:
    """The pairs as a dict. ValueError for a name that is given twice, or without a value."""
    names = [name for name, _ in pairs]
    for name, given in pairs:
        if names.count(name) > 1:
            raise ValueError(f"{option} {name}=… is given twice")
        if not all(given if isinstance(given, list) else [given]):
            raise ValueError(f"{option} {name}={','.join(given)}: a value is missing")
    return dict(pairs)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m kdlib", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    profile = dict(default="", help="smoke, laptop (default), lab or full")

    course = commands.add_parser("course", help="run the notebooks headless")
    course.add_argument("--profile", **profile)
    course.add_argument("notebooks", nargs="*", help="some of them (default: all)")
    course.add_argument("--inplace", action="store_true", help="keep the outputs in notebooks/ (fresh runs, for committing)")

    run = commands.add_parser("run", help="run one notebook headless")
    run.add_argument("notebook")
    run.add_argument("--profile", **profile)
    run.add_argument("-p", dest="parameters", action="append", type=pair, default=[], metavar="NAME=VALUE")

    sweep = commands.add_parser("sweep", help="run every point of a grid; finished points are skipped", description=(
        "Run a notebook once a point of the grid. Finished points are skipped, so the same command goes on after an "
        "interruption; a failed point stops no other one and makes the exit code 1."))
    sweep.add_argument("notebook")
    sweep.add_argument("--profile", **profile)
    sweep.add_argument("--grid", action="append", type=axis, required=True, metavar="NAME=V1,V2,…",
                       help="an axis; once for each parameter that varies")
    sweep.add_argument("-p", dest="parameters", action="append", type=pair, default=[], metavar="NAME=VALUE",
                       help="a parameter that is the same for all points")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N",
                       help="points at a time; each gets cores/N threads unless OMP_NUM_THREADS is set (default: 1)")

    train = commands.add_parser("train", help="distil from the command line; --help lists Trainer's options too", add_help=False)
    train.add_argument("rest", nargs=argparse.REMAINDER)

    figures = commands.add_parser("figures", help="redraw the slide figures from data/results; exit code 1 if a record is missing", description=(
        "Redraw figures from data/results, in the lecture's order, with manifest.json and a gallery, index.html. Nothing is trained, torch is not loaded."))
    figures.add_argument("notebooks", nargs="*", help="figures of these notebooks, such as 04 (default: all)")
    figures.add_argument("--format", default="png,svg,pdf,csv", metavar="F1,F2,…", help="some of png, svg, pdf, csv (default: all)")
    figures.add_argument("--style", default="slides", help="slides (default: 16:9), paper or dark")
    figures.add_argument("--out", type=Path, help="a folder (default: figures/, or a folder under runs/ for other formats, styles and profiles)")
    figures.add_argument("--profile", default="laptop", choices=["smoke", "laptop", "lab", "full"])

    store = commands.add_parser("store", help="collect my records of a notebook into data/results")
    store.add_argument("notebook")
    store.add_argument("profile", choices=["smoke", "laptop", "lab", "full"])
    store.add_argument("--name", default="", help="of the file, where a sweep should stand beside the profile's own")

    get = commands.add_parser("get", help="fetch real rows, votes and a small pretrained BERT")
    get.add_argument("what", choices=["real"])
    get.add_argument("--from", dest="source", type=Path, help="a local folder of the same layout")
    get.add_argument("--part", action="append", help="chaosnli, mnli or minilm (default: all)")

    bench = commands.add_parser("bench", help="measure speed and memory, as ratios")
    bench.add_argument("what", nargs="?", choices=["vocab_loss"], help="one benchmark that is not part of the others: the loss at 128,256 words")
    bench.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    bench.add_argument("--out", type=Path, help="of vocab_loss: keep its table in this file too")

    doctor = commands.add_parser("doctor", help="check this machine, with a fix for each finding; exit code 1 if something stops the course")
    doctor.add_argument("--plan", action="store_true", help="which recipe for Llama 3B → 1B fits which GPU")
    doctor.add_argument("--gpu", action="append", metavar="NAME|GB", help="plan for this one alone (P100, H100, … or a number of GB); may be repeated")
    doctor.add_argument("--measure", action="store_true", help="set the memory estimate beside measurements, minutes")

    test = commands.add_parser("test", help="run the tests")
    test.add_argument("--slow", action="store_true", help="the slow rest instead of the fast ones")
    return top


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:                               # Trainer's options are its own parser's business
        from .train import main as train
        return train(arguments[1:])
    given = parser().parse_args(arguments)
    try:
        return COMMANDS[given.command](given) or 0
    except (ValueError, OSError) as error:      # what the user can mend: one line, no traceback
        print(f"kdlib {given.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"kdlib {given.command}: interrupted", file=sys.stderr)
        return 130


def _course(given) -> int:
    from . import batch
    return batch.course(given.profile, tuple(given.notebooks) or batch.COURSE, inplace=given.inplace)


def _run(given) -> int:
    from . import batch
    outcome = batch.run_notebook(given.notebook, given.profile, {k: value(v) for k, v in unique(given.parameters, "-p").items()})
    print(f"executed notebook  {outcome.executed}")
    if outcome.code:
        print(f"failed ({outcome.code}): {outcome.error}", file=sys.stderr)
    return outcome.code


def _sweep(given) -> int:
    from . import batch
    grid = {name: [value(v) for v in values] for name, values in unique(given.grid, "--grid").items()}
    parameters = {name: value(text) for name, text in unique(given.parameters, "-p").items()}
    signal.signal(signal.SIGTERM, signal.default_int_handler)          # Slurm's scancel and a plain kill end it as Ctrl-C does
    return batch.sweep(given.notebook, grid, given.profile, parameters=parameters, jobs=given.jobs)


def _figures(given) -> int:
    from . import gallery
    from .run import ROOT, runs_root
    formats = tuple(f.strip().lower() for f in given.format.split(","))
    # figures/ is the gallery of slides in all formats under laptop: other wishes must not empty it
    other = [part for part, usual in ((given.profile, "laptop"), (given.style, "slides"), ("-".join(formats), "png-svg-pdf-csv")) if part != usual]
    out = given.out or (runs_root() / "-".join(["figures", *other]) if other else ROOT / "figures")
    table = gallery.redraw(out, given.profile, notebooks=given.notebooks, formats=formats, style=given.style,
                           jobs=1 if given.notebooks else min(2, os.cpu_count() or 1))
    for entry in table.to_dict("records"):
        if isinstance(entry.get("mixed_versions"), dict):
            print(f"{entry['figure']}: records of mixed versions:", ", ".join(f"{k} {' and '.join(v)}" for k, v in entry["mixed_versions"].items()))
    missing = table[table["files"].str.len() == 0]
    print(f"{len(table) - len(missing)} figures in {out}{'; open index.html there' if len(table) > len(missing) else ''}")
    for entry in missing.to_dict("records"):
        print(f"not drawn: {entry['figure']} ({entry['missing']})", file=sys.stderr)
    return 1 if len(missing) else 0


def _store(given) -> int:
    from . import batch, results
    print(results.store(batch.notebook_path(given.notebook).stem, given.profile, name=given.name))
    return 0


def _get(given) -> int:
    from .get import get_real
    get_real(given.part, given.source)
    return 0


def _bench(given) -> int:
    if given.what == "vocab_loss":
        from .bench_vocab import main as vocab_loss
        return vocab_loss(given.quick, given.out)
    if given.out:
        raise ValueError("--out is for vocab_loss alone; the other benchmarks print their lines")
    from .bench import main as bench
    return bench(quick=given.quick)


def _doctor(given) -> int:
    from . import doctor
    return doctor.main(show_plan=given.plan, show_measured=given.measure, gpus=given.gpu)


def _test(given) -> int:
    import subprocess

    from .run import ROOT
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "slow" if given.slow else "not slow"], cwd=ROOT).returncode


COMMANDS = {"course": _course, "run": _run, "sweep": _sweep, "figures": _figures, "store": _store, "get": _get,
            "bench": _bench, "doctor": _doctor, "test": _test}

def command() -> int:
    """`main` as a shell calls it: what the user can mend is one line, not a traceback; `main` says so itself but for `train`."""
    try:
        return main()
    except (ValueError, OSError) as error:
        print(f"kdlib train: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(command())
