"""A notebook, or a grid of its parameters, as one sbatch script that a student can read; and the
way to submit it.

    print(script("04", "full", grid={"seed": [0, 1]}, cluster=load_cluster("explorer")))

The script is text (templates/job.sh.j2): writing it needs no Slurm. There is one array task a
point, or several points a task, where a grid has more points than an array may have tasks. Each
task runs `python -m kdlib sweep … --task i/n`, which skips what is done and goes on with what was
interrupted. GPU and memory are those that the notebook needs under its profile (`tools.room`),
unless the user names them.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ..course.notebooks import notebook_path
from ..paths import ROOT
from ..tools import room
from . import resources
from .cluster import gpus, minutes, runs_place
from .status import STARTED
from .sweeps import grid_points

MANY = 1000  # above so many points --yes is asked for
MOST_TASKS = 1000  # Slurm's MaxArraySize is 1001

# What squeue says of a job that cannot start as it was asked for.
NEVER_STARTS = ("PartitionTimeLimit", "PartitionNodeLimit", "AssocGrpGRES", "BadConstraints")


def script(
    notebook: str | Path,
    profile: str = "",
    *,
    grid: dict[str, list] | None = None,
    parameters: dict | None = None,
    cluster: dict | None = None,
    until_done: bool = False,
    nproc: int = 1,
    yes: bool = False,
    command: str = "python -m kdlib sbatch",
    **asked,
) -> str:
    """The sbatch script. asked: partition, gres, time, mem, cpus, at_once.

    ValueError, before anything is written, for a parameter or a resource that does not fit, and for
    a grid of more than 1,000 points without `yes`.
    """
    path = notebook_path(notebook)
    grid, parameters, cluster = grid or {}, parameters or {}, cluster or {}
    count = math.prod(len(values) for values in grid.values())
    if count > MANY and not yes:
        raise ValueError(f"the grid has {count:,} points, a run each: --yes if you mean it")
    grid_points(path, grid, profile, parameters)  # refuses what the notebook does not take
    need = room.largest(path.stem, profile, parameters, grid)
    what = f"notebook {path.stem[:2]} under profile {profile or 'laptop'}"
    ask = resources.wanted(cluster, asked, need, what, nproc)
    margin, warning = margins(minutes(ask["time"]))
    points = " × ".join(f"{axis} ({len(values)})" for axis, values in grid.items())
    return _template().render(
        _places(cluster),
        **_commands(path, profile, grid, parameters, ask),
        notebook=path.stem,
        profile=profile or "laptop",
        points=f", {count:,} points: {points}" if grid else "",
        count=count,
        tasks=min(count, MOST_TASKS) if grid else 0,
        command=command,
        need=need,
        ask=ask,
        margin=margin,
        warning=warning,
        nproc=nproc,
        until_done=until_done,
        started=STARTED,
        cluster=cluster,
        python=shlex.quote(cluster.get("python") or sys.executable),
        other_cards=_other_cards(cluster, ask, need),
    )


def margins(limit: float) -> tuple[int, int]:
    """Seconds before a limit (in minutes) at which training stops, and Slurm's signal is asked for.

    The signal may come 60 seconds early, and must find training stopped. What the run measures on
    its way moves the first one further from the limit (`deadline.at`), never nearer.
    """
    margin = int(min(600, max(110, 15 * limit), 30 * limit))
    return margin, max(15, min(margin // 4, margin - 75))


# -- what the template is filled with --------------------------------------------------------------


def _template():
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kdlib.batch"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["align_reasons"] = _align_reasons
    return environment.get_template("job.sh.j2")


def _align_reasons(lines: str) -> str:
    """Lines of `option  # reason` with the reasons one below the other."""
    pairs = [line.rpartition("  # ") for line in lines.splitlines()]
    width = max(len(option) for option, _, _ in pairs)
    return "".join(f"{option:{width}}  # {reason}\n" for option, _, reason in pairs)


def _places(cluster: dict) -> dict[str, str]:
    """Where runs and logs go and why there, and where the job finds kdlib and the notebooks."""
    place = _plain(str(runs_place(cluster)))
    by_the_cluster = "runs" in cluster and not os.environ.get("KD_RUNS")
    beside_kdlib = ROOT == Path(__file__).resolve().parents[2]
    return {
        "place": place,
        "quote": '"' if " " in place else "",
        "why_there": cluster["runs"][1] if by_the_cluster else "",
        "root": shlex.quote(str(ROOT)),
        "elsewhere": "" if beside_kdlib else _plain(str(ROOT)),
    }


def _plain(path: str) -> str:
    """The path. ValueError where a shell, or Slurm in a log's name, would read something else."""
    if re.search(r"[\"'`$\\%\n]", path):
        raise ValueError(
            f"{path}: a quote, $, %, ` or \\ in this path would be read as something else in a "
            "job; set KD_RUNS (or move the course) to a plain one"
        )
    return path


def _commands(path: Path, profile: str, grid: dict, parameters: dict, ask: dict) -> dict[str, str]:
    """The arguments of `doctor` and of `sweep`, for a shell."""
    name, file = str(path), str(path)
    if path.is_relative_to(ROOT):
        name, file = path.stem, str(path.relative_to(ROOT))
    under = ["--profile", profile] if profile else []
    need_gpu = ["--need-gpu"] if gpus(ask["gres"]) else []
    axes, fixed = [], []
    for axis, values in grid.items():
        axes += ["--grid", f"{axis}={','.join(map(str, values))}"]
    for parameter, value in parameters.items():
        fixed += ["-p", f"{parameter}={value}"]
    return {
        "doctor": shlex.join([name, *under, *need_gpu, *fixed]),
        "sweep": shlex.join([file, *under, *axes, *fixed]),
    }


def _other_cards(cluster: dict, ask: dict, need: room.Room) -> str:
    """What else is large enough, for the line that a refused job leaves.

    "Any card" may have been one that torch does not serve.
    """
    others = [gres for gres in resources.large_cards(cluster, need) if gres != ask["gres"]]
    return f" (another GPU: --gres {' or '.join(others)})" if others and ask["gres"] else ""


# -- submitting it ---------------------------------------------------------------------------------


def make_log_folder(place: Path) -> None:
    """Slurm makes no folder for logs: a job without one dies in silence. place: `runs_place`.

    OSError where it cannot be made. /scratch itself is not made: without it this is another machine
    than the one that the cluster's file describes.
    """
    top = Path(*place.parts[:2])
    logs = place / "logs"
    if not top.is_dir():
        raise OSError(
            f"there is no {top} on this machine, where runs and the job's log should go; on the "
            f"cluster, make their folder before you submit:  mkdir -p {logs}"
        )
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{logs}, where the job's log should go, could not be made "
            f"({error.strerror}); set KD_RUNS to a folder of yours"
        ) from error


def submit(text: str, place: Path) -> str:
    """Hand the script, whose runs go to `place`, to sbatch; the job's id.

    OSError with Slurm's own message, and ours, when it is refused.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise OSError(
            "there is no sbatch on the path: this is no login node of a Slurm cluster. Leave out "
            "--submit, keep the script (… > job.sh), and run  sbatch job.sh  on the cluster"
        )
    make_log_folder(place)
    done = subprocess.run([program, "--parsable"], input=text, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        refusal = " ".join(line.removeprefix("sbatch: ").strip() for line in lines)
        raise OSError(f"Slurm refused the job: {refusal}. {_hint(refusal)}")
    return done.stdout.strip().split(";")[0]


def waits_for_ever(job: str) -> str:
    """Why Slurm will not start this job as it was asked for; "" where it may."""
    command = ["squeue", "-h", "-j", job, "-o", "%r"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    reason = asked.stdout.strip().split("\n")[0]
    return f"{reason}. {_hint('partition')}" if reason in NEVER_STARTS else ""


def _hint(refusal: str) -> str:
    """What to do about Slurm's refusal."""
    if re.search("partition|node configuration|gres", refusal, re.I):
        asked = subprocess.run(["sinfo", "-h", "-o", "%R %l %G"], capture_output=True, text=True)
        lines = {" ".join(line.split()) for line in asked.stdout.split("\n") if line.strip()}
        partitions = "; ".join(sorted(lines)) or "sinfo does not say"
        return f"Partitions here, with time limit and GPUs: {partitions}"
    if "ccount" in refusal:
        return "Your account may not use this partition: a course has one of its own"
    return "See the lines with #SBATCH (python -m kdlib sbatch … without --submit prints them)"
