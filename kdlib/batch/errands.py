"""The commands around the runs: figures, deck, store, get, bench, doctor, test."""

import os
import subprocess
import sys
from pathlib import Path

import click

from . import options

MOST_TEST_PROCESSES = 4  # each holds a torch of its own, and up to 2 GB


@click.command()
@click.argument("notebooks", nargs=-1)
@click.option(
    "--format",
    "formats",
    default="png,svg,pdf,csv",
    metavar="F1,F2,…",
    help="some of png, svg, pdf, csv (default: these), pptx",
)
@click.option("--style", default="slides", help="slides (default: 16:9), paper or dark")
@click.option(
    "--out",
    type=Path,
    help="a folder (default: figures/, or one under runs/ for other formats, styles and profiles)",
)
@click.option("--profile", default="laptop", type=click.Choice(options.PROFILES))
def figures(notebooks, formats, style, out, profile) -> int:
    """Redraw the slide figures from data/results.

    In the lecture's order, with manifest.json and a gallery, index.html. Nothing is trained, torch
    is not loaded. NOTEBOOKS: the figures of these, such as 04 (default: all). The exit code is 1 if
    a record is missing.
    """
    from ..figures import gallery
    from ..paths import ROOT, runs_root

    formats = tuple(name.strip().lower() for name in formats.split(","))
    # figures/ is the gallery of slides in all formats under laptop: other wishes must not empty it
    wishes = [profile, style, "-".join(formats)]
    usual = ["laptop", "slides", "png-svg-pdf-csv"]
    unusual = [wish for wish, default in zip(wishes, usual) if wish != default]
    if not out:
        out = runs_root() / "-".join(["figures", *unusual]) if unusual else ROOT / "figures"
    processes = 1 if notebooks else min(2, os.cpu_count() or 1)
    table = gallery.redraw(
        out, profile, notebooks=notebooks, formats=formats, style=style, jobs=processes
    )
    return report(table.to_dict("records"), out)


def report(entries: list[dict], out: Path) -> int:
    """Say which figures were drawn, and what is lacking. Returns the exit code."""
    missing, incomplete = {}, {}  # one lost file is one line, however many figures read it
    for entry in entries:
        figure = entry["figure"]
        if isinstance(entry.get("mixed_versions"), dict):
            versions = [f"{k} {' and '.join(v)}" for k, v in entry["mixed_versions"].items()]
            print(f"{figure}: records of mixed versions:", ", ".join(versions))
        if not entry["files"]:
            missing.setdefault(entry["missing"], []).append(figure)
        # pandas fills the column with NaN for figures that are whole
        for left_out in entry["incomplete"] if isinstance(entry.get("incomplete"), list) else []:
            part, _, why = left_out.rpartition(": ")
            incomplete.setdefault((figure, why), []).append(part)
    drawn = len(entries) - sum(map(len, missing.values()))
    print(f"{drawn} figures in {out}{'; open index.html there' if drawn else ''}")
    for why, names in missing.items():
        print(f"not drawn: {', '.join(names)} ({why})", file=sys.stderr)
    for (figure, why), (first, *others) in incomplete.items():
        more = f"; nor {'; '.join(others)}" if others else ""
        print(f"drawn in part: {figure}, without {first}: {why}{more}", file=sys.stderr)
    return 1 if missing or incomplete else 0


@click.command()
@click.option("--out", type=Path, help="a folder (default: figures/deck)")
def deck(out) -> int:
    """Build the two lectures, the handout and the quiz.

    Each lecture is a .pptx and a .html with speaker notes, from kdlib/figures/deck.yaml and
    data/results. Nothing is trained, torch is not loaded. The exit code is 1 if a record is
    missing: its slide then says so.
    """
    from ..figures import deck

    out = out or deck.FOLDER
    problems = deck.write(out)
    print(f"the deck is in {out}: open a .pptx, or a .html (F full screen, S notes, O overview)")
    for why in problems:
        print(f"kdlib deck: {why}", file=sys.stderr)
    return 1 if problems else 0


@click.command()
@click.argument("notebook")
@click.argument("profile", type=click.Choice(options.PROFILES))
@click.option(
    "--name", default="", help="of the file, where a sweep should stand beside the profile's own"
)
def store(notebook, profile, name) -> None:
    """Collect my records of a notebook into data/results."""
    from ..course import results
    from ..course.notebooks import notebook_path

    print(results.store(notebook_path(notebook).stem, profile, name=name))


@click.command()
@click.argument("what", type=click.Choice(["real", *options.PROFILES]))
@click.argument("notebooks", nargs=-1)
@options.parameters
@click.option(
    "--list",
    "only_list",
    is_flag=True,
    help="say what would be fetched, and whether it may be; fetch nothing",
)
@click.option("--from", "source", type=Path, help="of real: a local folder of the same layout")
@click.option(
    "--part",
    "parts",
    multiple=True,
    help="of real: chaosnli, mnli or minilm (default: all)",
)
def get(what, notebooks, parameters, only_list, source, parts) -> int:
    """Fetch first what notebooks need, or the real rows.

    get PROFILE [NN …] fetches the models, tokenizers and rows that notebooks need (all notebooks if
    none is named) into the hub's cache; a job then needs no network. Access is checked before the
    first byte, and the same command goes on after an interruption.

    get real fetches real rows, votes and a small pretrained BERT under KD_REAL.
    """
    if what == "real":
        from ..corpora.get import get_real

        if notebooks or parameters or only_list:
            raise ValueError(
                "get real takes --part and --from; a notebook and its profile look like this: "
                "get full 04"
            )
        get_real(list(parts) or None, source)
        return 0
    if parts or source:
        raise ValueError("--part and --from are for get real")
    from ..course.notebooks import COURSE, notebook_path
    from ..tools import fetch

    names = [notebook_path(name).stem for name in notebooks or COURSE]
    return fetch.get_profile(what, names, parameters, only_list=only_list)


@click.command()
@click.argument("what", default="speed", type=click.Choice(["speed", "wide_loss", "batch_run"]))
@click.option("--quick", is_flag=True, help="leave out what takes minutes")
@click.option("--out", type=Path, help="of wide_loss: keep its table in this file too")
def bench(what, quick, out) -> int:
    """Measure speed and memory, as ratios.

    WHAT is speed (default), or one that is not part of it: wide_loss, the loss at 128,256 tokens,
    or batch_run, what a batch run costs.
    """
    from ..tools.doctor import benchmark as load

    # the benchmarks lie beside the tests: they compare with other libraries, and no run needs them
    benchmark = load(what)
    if not out:
        return benchmark.main(quick=quick)
    if what != "wide_loss":
        raise ValueError("--out is for wide_loss alone; the other benchmarks print their lines")
    return benchmark.main(quick=quick, out=out)


@click.command()
@click.argument("notebook", default="")
@options.profile
@options.parameters
@click.option(
    "--need-gpu", is_flag=True, help="a machine without a GPU that torch can use stops it"
)
@click.option("--plan", is_flag=True, help="which recipe for Llama 3B → 1B fits which GPU")
@click.option(
    "--gpu",
    "gpus",
    multiple=True,
    metavar="NAME|GB",
    help="plan for this one alone (P100, H100, … or a number of GB); may be repeated",
)
@click.option(
    "--measure", is_flag=True, help="set the memory estimate beside measurements, minutes"
)
@click.option(
    "--lecture", is_flag=True, help="the lecture room: deck, records, live cells, fonts, browser"
)
def doctor(notebook, profile, parameters, need_gpu, plan, gpus, measure, lecture) -> int:
    """Check this machine, with a fix for each finding.

    NOTEBOOK: check what this one needs, and nothing else; a job does that first. The exit code is 1
    if something stops the course.
    """
    if notebook:
        from ..tools import ready

        return ready.main(notebook, profile, parameters, need_gpu=need_gpu)
    if lecture:
        from ..tools import lecture as room

        return room.main()
    from ..tools import doctor

    return doctor.main(show_plan=plan, show_measured=measure, gpus=list(gpus) or None)


@click.command()
@click.option("--slow", is_flag=True, help="the slow rest instead of the fast ones")
def test(slow) -> int:
    """Run the tests."""
    from ..paths import ROOT

    which = "slow" if slow else "not slow"
    # A process takes a whole file: what its tests share (a Slurm, a taught teacher) is made once.
    at_once = min(os.cpu_count() or 1, MOST_TEST_PROCESSES)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        which,
        "-n",
        str(at_once),
        "--dist",
        "loadfile",
        # the suite has a budget: who spends it?
        "--durations=20",
    ]
    return subprocess.run(command, cwd=ROOT).returncode


COMMANDS = (figures, deck, store, get, bench, doctor, test)
