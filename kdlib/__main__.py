"""python -m kdlib COMMAND: everything that make does, on any system.

    course   run the notebooks headless and say where the results are
    run      run one notebook            sweep    run a grid of parameters, --jobs N at a time
    sbatch   write (or submit) a Slurm script for a notebook or a grid
    status   what became of the runs     train    distil from the command line (torchrun works)
    figures  redraw the slide figures    store    keep my records as reference results
    get      fetch models and rows       bench    measure speed and memory
    test     run the tests               doctor   what would stop the course here, and what fits which GPU
"""
import argparse
import os
import shlex
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


def share(text: str) -> tuple[int, int]:
    """I/N as two numbers, 1 ≤ I ≤ N."""
    parts = text.split("/")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise argparse.ArgumentTypeError(f"{text!r} should look like 3/8, the third of eight shares")
    return int(parts[0]), int(parts[1])


def _how(command) -> None:
    """What every headless run can be told."""
    command.add_argument("--max-minutes", type=float, metavar="M", help="stop training after M minutes, score what there is, exit code 75")
    command.add_argument("--nproc", type=int, default=1, metavar="N", help="train in N processes, one a GPU (torchrun)")


def _apply(given) -> None:
    """A deadline and processes reach notebooks through the environment: no notebook has to know them."""
    from .engine import deadline
    if given.nproc < 1:
        raise ValueError(f"--nproc must be 1 or more, not {given.nproc}")
    if given.max_minutes is not None:
        os.environ["KD_MAX_MINUTES"] = str(given.max_minutes)
    if given.nproc > 1:
        os.environ["KD_NPROC"] = str(given.nproc)
    deadline.fix()


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
    for one in (course, run):
        _how(one)

    sweep = commands.add_parser("sweep", help="run every point of a grid; finished points are skipped", description=(
        "Run a notebook once a point of the grid. Finished points are skipped, so the same command goes on after an "
        "interruption; a failed point stops no other one and makes the exit code 1."))
    sweep.add_argument("notebook")
    sweep.add_argument("--profile", **profile)
    sweep.add_argument("--grid", action="append", type=axis, default=[], metavar="NAME=V1,V2,…",
                       help="an axis; once for each parameter that varies")
    sweep.add_argument("-p", dest="parameters", action="append", type=pair, default=[], metavar="NAME=VALUE",
                       help="a parameter that is the same for all points")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N",
                       help="points at a time; each gets cores/N threads unless OMP_NUM_THREADS is set (default: 1)")
    sweep.add_argument("--task", type=share, default=(1, 1), metavar="I/N", help="the I-th of N shares of the points (an array task)")
    _how(sweep)

    sbatch = commands.add_parser("sbatch", help="write (or submit) a Slurm script for a notebook or a grid", description=(
        "Print one sbatch script: an array with a task for each point of the grid. Works without Slurm; --submit hands it to sbatch."))
    sbatch.add_argument("notebook")
    sbatch.add_argument("--profile", **profile)
    sbatch.add_argument("--grid", action="append", type=axis, default=[], metavar="NAME=V1,V2,…", help="an axis; once for each parameter that varies")
    sbatch.add_argument("-p", dest="parameters", action="append", type=pair, default=[], metavar="NAME=VALUE")
    sbatch.add_argument("--cluster", default="", metavar="NAME|FILE.yaml", help="explorer, or a YAML file of yours: partition, limits, modules, …")
    for option, words in (("partition", "the queue, such as gpu"), ("gres", "such as gpu:a100:1"), ("time", "limit, 08:00:00"), ("mem", "such as 64G")):
        sbatch.add_argument(f"--{option}", default="", help=words)
    sbatch.add_argument("--cpus", type=int, metavar="N", help="cores")
    sbatch.add_argument("--at-once", type=int, metavar="N", help="array tasks that run at a time (Slurm's %%N)")
    sbatch.add_argument("--until-done", action="store_true", help="a job that the limit stops requeues itself and goes on")
    sbatch.add_argument("--nproc", type=int, default=1, metavar="N", help="train in N processes, one a GPU (torchrun)")
    sbatch.add_argument("--submit", action="store_true", help="hand it to sbatch and print the job's number")
    sbatch.add_argument("--yes", action="store_true", help="yes, more than 1,000 points")

    status = commands.add_parser("status", help="what became of the runs: done, running, partial, failed and why")
    status.add_argument("notebook", nargs="?", default="", help="one notebook's runs (default: all)")

    train = commands.add_parser("train", help="distil without a notebook: train glue --help lists Trainer's options too", add_help=False)
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

    get = commands.add_parser("get", help="fetch first: all that notebooks need under a profile, or the real rows", description=(
        "get PROFILE [NN …] fetches the models, tokenizers and rows that notebooks need (all notebooks if none is named) into the hub's cache; a job "
        "then needs no network. Access is checked before the first byte, and the same command goes on after an interruption. get real fetches real rows, "
        "votes and a small pretrained BERT under KD_REAL."))
    get.add_argument("what", choices=["real", "smoke", "laptop", "lab", "full"])
    get.add_argument("notebooks", nargs="*", help="some of them, such as 04 07 (default: all)")
    get.add_argument("-p", dest="parameters", action="append", type=pair, default=[], metavar="NAME=VALUE", help="as the run will have them")
    get.add_argument("--list", action="store_true", help="say what would be fetched, and whether it may be; fetch nothing")
    get.add_argument("--from", dest="source", type=Path, help="of real: a local folder of the same layout")
    get.add_argument("--part", action="append", help="of real: chaosnli, mnli or minilm (default: all)")

    bench = commands.add_parser("bench", help="measure speed and memory, as ratios")
    bench.add_argument("what", nargs="?", default="speed", choices=["speed", "wide_loss", "batch_run"],
                       help="speed (default), or one that is not part of it: the loss at 128,256 tokens, or what a batch run costs")
    bench.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    bench.add_argument("--out", type=Path, help="of wide_loss: keep its table in this file too")

    doctor = commands.add_parser("doctor", help="check this machine, with a fix for each finding; exit code 1 if something stops the course")
    doctor.add_argument("notebook", nargs="?", default="", help="check what this notebook needs, and nothing else: a job does that first")
    doctor.add_argument("--profile", **profile)
    doctor.add_argument("-p", dest="parameters", action="append", type=pair, default=[], metavar="NAME=VALUE")
    doctor.add_argument("--need-gpu", action="store_true", help="a machine without a GPU that torch can use stops it")
    doctor.add_argument("--plan", action="store_true", help="which recipe for Llama 3B → 1B fits which GPU")
    doctor.add_argument("--gpu", action="append", metavar="NAME|GB", help="plan for this one alone (P100, H100, … or a number of GB); may be repeated")
    doctor.add_argument("--measure", action="store_true", help="set the memory estimate beside measurements, minutes")

    test = commands.add_parser("test", help="run the tests")
    test.add_argument("--slow", action="store_true", help="the slow rest instead of the fast ones")
    return top


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:                               # Trainer's options are its own parser's business
        from .batch.train_glue import main as train
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
    from .batch import runs as batch
    _apply(given)
    return batch.course(given.profile, tuple(given.notebooks) or batch.COURSE, inplace=given.inplace)


def end_as_ctrl_c() -> None:
    """Slurm's scancel and a plain kill end it as Ctrl-C does; scancel's second signal must not cut the clearing up short."""
    def once(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, once)


def _run(given) -> int:
    from .batch import runs as batch
    _apply(given)
    end_as_ctrl_c()
    outcome = batch.run_notebook(given.notebook, given.profile, {k: value(v) for k, v in unique(given.parameters, "-p").items()})
    print(f"executed notebook  {outcome.executed}")
    if outcome.code:
        print(f"{'unfinished' if outcome.code == batch.STOPPED else 'failed'} ({outcome.code}): {outcome.error}", file=sys.stderr)
    return outcome.code


def _sweep(given) -> int:
    from .batch import runs as batch
    if not given.grid and given.task != (1, 1):
        raise ValueError("--task is a share of a grid: give --grid")
    _apply(given)
    grid = {name: [value(v) for v in values] for name, values in unique(given.grid, "--grid").items()}
    parameters = {name: value(text) for name, text in unique(given.parameters, "-p").items()}
    end_as_ctrl_c()
    return batch.sweep(given.notebook, grid, given.profile, parameters=parameters, jobs=given.jobs, task=given.task)


def _sbatch(given) -> int:
    from .batch import slurm
    grid = {name: [value(v) for v in values] for name, values in unique(given.grid, "--grid").items()}
    parameters = {name: value(text) for name, text in unique(given.parameters, "-p").items()}
    cluster = slurm.load_cluster(given.cluster)
    text = slurm.script(given.notebook, given.profile, grid=grid, parameters=parameters, cluster=cluster,
                        until_done=given.until_done, nproc=given.nproc, yes=given.yes, partition=given.partition, gres=given.gres,
                        time=given.time, mem=given.mem, cpus=given.cpus, at_once=given.at_once,
                        command=shlex.join(["python", "-m", "kdlib", *sys.argv[1:]]))
    place = slurm.runs_place(cluster)
    if not given.submit:
        print(text, end="")
        _prepare(place, cluster)
        return 0
    job = slurm.submit(text, place)
    _prepare(place, cluster)
    print(job)
    if why := slurm.waits_for_ever(job):
        print(f"kdlib sbatch: job {job} will not start as it is: {why}", file=sys.stderr)
    return 0


def _prepare(place: Path, cluster: dict) -> None:
    """Make the place for logs and runs, and note it where `status` looks; a script that is printed on another machine is one all the same."""
    from .batch import slurm
    from .paths import remember_place, runs_root
    try:
        slurm.make_log_folder(place)
    except OSError as error:
        if place == runs_root().resolve():
            raise
        print(f"kdlib sbatch: {error}", file=sys.stderr)
        return
    if place != runs_root().resolve():
        remember_place(place)
        print(f"kdlib sbatch: runs go to {place} ({cluster['runs'][1]}); status and store of this checkout look there too", file=sys.stderr)


def _status(given) -> int:
    from .batch import status
    return status.main(given.notebook)


def _figures(given) -> int:
    from . import gallery
    from .paths import ROOT, runs_root
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
    for why, part in missing.groupby("missing", sort=False):                  # one lost file is one line, however many figures read it
        print(f"not drawn: {', '.join(part['figure'])} ({why})", file=sys.stderr)
    incomplete = {}                                                            # (figure, what is lacking): without what
    for entry in table.to_dict("records"):
        for left in entry["incomplete"] if isinstance(entry.get("incomplete"), list) else []:
            what, _, why = left.rpartition(": ")
            incomplete.setdefault((entry["figure"], why), []).append(what)
    for (figure, why), (first, *others) in incomplete.items():
        print(f"drawn in part: {figure}, without {first}: {why}" + (f"; nor {'; '.join(others)}" if others else ""), file=sys.stderr)
    return 1 if len(missing) or incomplete else 0


def _store(given) -> int:
    from .batch import runs as batch
    from .course import results
    print(results.store(batch.notebook_path(given.notebook).stem, given.profile, name=given.name))
    return 0


def _get(given) -> int:
    parameters = {name: value(text) for name, text in unique(given.parameters, "-p").items()}
    if given.what == "real":
        from .corpora.get import get_real
        if given.notebooks or parameters or given.list:
            raise ValueError("get real takes --part and --from; a notebook and its profile look like this: get full 04")
        get_real(given.part, given.source)
        return 0
    if given.part or given.source:
        raise ValueError("--part and --from are for get real")
    from .batch import runs as batch
    from .tools import fetch
    notebooks = [batch.notebook_path(name).stem for name in given.notebooks or batch.COURSE]
    return fetch.get_profile(given.what, notebooks, parameters, only_list=given.list)


def _bench(given) -> int:
    """The benchmarks lie beside the tests: they compare kdlib with other libraries, and no run needs them."""
    import importlib

    from .paths import ROOT
    sys.path.insert(0, str(ROOT / "tests"))
    benchmark = importlib.import_module(f"bench.{given.what}")
    if not given.out:
        return benchmark.main(quick=given.quick)
    if given.what != "wide_loss":
        raise ValueError("--out is for wide_loss alone; the other benchmarks print their lines")
    return benchmark.main(quick=given.quick, out=given.out)


def _doctor(given) -> int:
    from .tools import doctor
    if given.notebook:
        from .tools import ready
        parameters = {name: value(text) for name, text in unique(given.parameters, "-p").items()}
        return ready.main(given.notebook, given.profile, parameters, need_gpu=given.need_gpu)
    return doctor.main(show_plan=given.plan, show_measured=given.measure, gpus=given.gpu)


def _test(given) -> int:
    import subprocess

    from .paths import ROOT
    return subprocess.run([sys.executable, "-m", "pytest", "-m", "slow" if given.slow else "not slow"], cwd=ROOT).returncode


COMMANDS = {"course": _course, "run": _run, "sweep": _sweep, "sbatch": _sbatch, "status": _status, "figures": _figures, "store": _store, "get": _get,
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
