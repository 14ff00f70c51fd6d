"""A notebook, or a grid of its parameters, as one sbatch script that a student can read; and the
way to submit it.

    print(script("04_distilbert_mnli", "full", grid={"seed": [0, 1]}, cluster=load_cluster("explorer")))

The script is text: writing it needs no Slurm. One array task a point (several, where a grid has
more points than an array may have tasks); each runs `python -m kdlib sweep … --task i/n`, which
skips what is done and goes on with what was interrupted. GPU and memory are those that the notebook
needs under its profile (`room`), unless the user names them.
"""

import getpass
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import timedelta
from importlib import resources
from pathlib import Path

import yaml

from . import runs as batch
from ..tools import room
from ..paths import ROOT, did_you_mean, runs_root
from .status import STARTED

MANY, MOST_TASKS = 1000, 1000  # above MANY points --yes is asked for; Slurm's MaxArraySize is 1001
SHORTEST_MINUTES = 2  # below it a job would be over before a notebook has begun to work
FULL = 0.85  # the share of a card, or of a partition's memory, that an estimate may fill
LIMITS = {"time": str, "mem": str, "gpus": int, "at_once": int}  # of one of a cluster's partitions
KEYS = {
    "partition": str,
    "gres": str,
    "cards": list,
    "time": str,
    "mem": str,
    "cpus": int,
    "at_once": int,
    "partitions": dict,
    "runs": list,
    "setup": list,
    "environment": dict,
    "python": str,
}


# -- a cluster's file --------------------------------------------------------------------------------


def load_cluster(name: str = "") -> dict:
    """A preset of kdlib/batch/clusters, or the user's own YAML file; {} for "". ValueError for what is no
    such file.
    """
    if not name:
        return {}
    folder = resources.files("kdlib.batch") / "clusters"
    known = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
    own = name.endswith((".yaml", ".yml"))
    file = Path(name).expanduser() if own else folder / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(
            f"there is no cluster {name!r}{did_you_mean(name, known)}; there are "
            f"{', '.join(known)}, or give a YAML file of yours"
        )
    try:
        cluster = yaml.safe_load(file.read_text(encoding="utf8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    _check_cluster(cluster, file)
    return cluster


def _check_cluster(cluster: dict, file) -> None:
    _check_keys(cluster, KEYS, str(file), "a cluster")
    for name, limits in cluster.get("partitions", {}).items():
        _check_keys(limits, LIMITS, f"{file}, partition {name}", "a partition")
    for name in cluster.get("environment", {}):
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
            raise ValueError(f"{file}: {name!r} is no name of an environment variable")
    pairs = [*cluster.get("setup", []), *cluster.get("environment", {}).values()]
    pairs += [cluster["runs"]] if "runs" in cluster else []
    for pair in pairs:
        two_texts = isinstance(pair, list) and [type(part) for part in pair] == [str, str]
        if not two_texts:
            raise ValueError(
                f"{file}: {pair!r} should be two texts, what and why: "
                '[module purge, "start from nothing"]'
            )
    for card in cluster.get("cards", []):
        kinds = [type(part) for part in card] if isinstance(card, list) else []
        if kinds not in ([int, str, str], [float, str, str]):
            raise ValueError(
                f"{file}: {card!r} should be a card's GB, how to ask for it, and what it is: "
                '[40, "gpu:a100:1", "A100"]'
            )


def _check_keys(given: dict, known: dict, where: str, what: str) -> None:
    for key, value in given.items() if isinstance(given, dict) else [("", given)]:
        if key not in known:
            raise ValueError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}; "
                f"{what} has {', '.join(known)}"
            )
        if type(value) is not known[key]:
            hint = ": write it in quotes, for YAML reads 08:00:00 as a number"
            raise ValueError(
                f"{where}: {key} must be {known[key].__name__}, not {type(value).__name__} "
                f"{value!r}{hint if key == 'time' else ''}"
            )


def runs_place(cluster: dict) -> Path:
    """Where the job's runs go: `$KD_RUNS`; else where the cluster's file says (there is room), with
    `$USER` and its like filled in; else `runs/` in the repository.
    """
    if os.environ.get("KD_RUNS") or "runs" not in cluster:
        return runs_root().resolve()
    os.environ.setdefault("USER", getpass.getuser())
    return Path(os.path.expandvars(cluster["runs"][0])).expanduser()


# -- sizes -------------------------------------------------------------------------------------------


def minutes(time: str) -> float:
    """Slurm's time as minutes: "90", "90:00", "08:00:00", "1-12", "1-12:30". ValueError for anything
    else.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not match:
        raise ValueError(
            f"--time {time!r} is no time limit; write hours:minutes:seconds, as 08:00:00"
        )
    days, *parts = match.groups()
    parts = [int(p) for p in parts if p is not None]
    if days is not None:
        h, m, s = (parts + [0, 0])[:3]
    else:
        h, m, s = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return timedelta(days=int(days or 0), hours=h, minutes=m, seconds=s).total_seconds() / 60


def megabytes(mem: str) -> float:
    """Slurm's size of memory, "32G", in MB. ValueError for what is none."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", mem.strip(), re.I)
    if not match:
        raise ValueError(f"--mem {mem!r} is no size; write it as 32G")
    return int(match[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2].upper()]


def _gpus(gres: str) -> int:
    counts = [part.split(":")[1:] for part in gres.split(",") if part.split(":")[0] == "gpu"]
    return sum(int(c[-1]) if c and c[-1].isdigit() else 1 for c in counts)


# -- what the job asks for -----------------------------------------------------------------------------


def _resources(cluster: dict, asked: dict, need: room.Room, what: str) -> dict:
    """What the job asks for: the user's options, then what the notebook needs, then the cluster's
    own. ValueError for more than the partition has.
    """
    asked = {key: value for key, value in asked.items() if value not in (None, "")}
    wanted = {
        key: cluster.get(key) for key in ("partition", "gres", "time", "mem", "cpus", "at_once")
    }
    wanted |= asked
    limits = cluster.get("partitions", {}).get(wanted["partition"], {})
    wanted["time"] = wanted["time"] or "04:00:00"
    if "gres" not in asked:
        wanted["gres"] = _gres(cluster, need, what) if limits.get("gpus", 1) else None
    if "mem" not in asked and wanted["mem"]:
        wanted["mem"] = _mem(wanted["mem"], limits.get("mem"), need, what, wanted["partition"])
    if "time" in limits and "time" not in asked:  # where the partition gives less
        wanted["time"] = min(wanted["time"], limits["time"], key=minutes)
    if limits.get("at_once"):
        wanted["at_once"] = min(wanted["at_once"] or limits["at_once"], limits["at_once"])
    _refuse_too_much(wanted, limits)
    _refuse_odd_texts(wanted)
    return wanted


def _gres(cluster: dict, need: room.Room, what: str) -> str | None:
    """The first of the cluster's cards that is large enough."""
    cards = cluster.get("cards", [])
    if not need.gpu or not cards:
        return cluster.get("gres")
    for size, gres, _ in cards:
        if need.gpu <= FULL * size:
            return gres
    raise ValueError(
        f"{what} needs about {need.gpu:.0f} GB on the GPU, and the largest card of this cluster's "
        f"file has {max(card[0] for card in cards):g}: lora_rank=16 or a smaller batch_size needs "
        "less (python -m kdlib doctor --plan), or name a card with --gres"
    )


def _mem(least: str, most: str | None, need: room.Room, what: str, partition: str) -> str:
    """Main memory: the notebook's need and a quarter, in steps of 4 GB, but the cluster's `mem` at
    least. ValueError where the partition has less than the need.
    """
    gigabytes = 4 * math.ceil(1.25 * need.memory / 4)
    wanted = max(least, f"{gigabytes}G", key=megabytes)
    if not most or megabytes(wanted) <= megabytes(most):
        return wanted
    if 1024 * need.memory > FULL * megabytes(most):
        raise ValueError(
            f"{what} needs about {need.memory:.0f} GB of main memory, and the partition "
            f"{partition} gives {most}: take another --partition, or --mem {most} to try"
        )
    return most


def _refuse_too_much(wanted: dict, limits: dict) -> None:
    for key, measure in (("time", minutes), ("mem", megabytes)):
        if wanted[key] and key in limits and measure(wanted[key]) > measure(limits[key]):
            raise ValueError(
                f"--{key} {wanted[key]} is more than the partition {wanted['partition']} gives: "
                f"at most {limits[key]}"
            )
    few = limits.get("gpus")
    if few is not None and _gpus(wanted["gres"] or "") > few:
        raise ValueError(
            f"--gres {wanted['gres']}: the partition {wanted['partition']} gives a job at most "
            f"{few} GPU(s)"
        )
    if minutes(wanted["time"]) < SHORTEST_MINUTES:
        raise ValueError(
            f"--time {wanted['time']} is shorter than a notebook's start; give it "
            f"{SHORTEST_MINUTES} minutes at the very least"
        )


def _refuse_odd_texts(wanted: dict) -> None:
    for key in ("cpus", "at_once"):
        if wanted[key] is not None and wanted[key] < 1:
            raise ValueError(f"--{key.replace('_', '-')} must be 1 or more, not {wanted[key]}")
    for key in ("partition", "gres", "time", "mem"):
        if re.search(r"[\s#\"'`$\\]", wanted[key] or ""):
            raise ValueError(f"--{key} {wanted[key]!r} holds a blank or a sign that a shell reads")
    megabytes(wanted["mem"] or "0")


# -- the script ----------------------------------------------------------------------------------------


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
    command: str = "",
    **asked,
) -> str:
    """The sbatch script. asked: partition, gres, time, mem, cpus, at_once.

    ValueError, before anything is written, for a parameter or a resource that does not fit, and for
    a grid of more than 1,000 points without `yes`.
    """
    path, grid, parameters = batch.notebook_path(notebook), grid or {}, parameters or {}
    cluster = cluster or {}
    count = math.prod(len(values) for values in grid.values())
    if count > MANY and not yes:
        raise ValueError(f"the grid has {count:,} points, a run each: --yes if you mean it")
    batch._points(path, grid, profile, parameters)
    what = f"notebook {path.stem[:2]} under profile {profile or 'laptop'}"
    need = room.largest(path.stem, profile, parameters, grid)
    ask = _ask_for_processes(_resources(cluster, asked, need, what), nproc)
    tasks = min(count, MOST_TASKS) if grid else 0
    place = _plain(str(runs_place(cluster)))
    margin, warn = margins(minutes(ask["time"]))
    points = " × ".join(f"{axis} ({len(values)})" for axis, values in grid.items())
    python = shlex.quote(cluster.get("python") or sys.executable)
    job = f"{place}/logs/kd-{path.stem}"
    task_id = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if tasks else "$SLURM_JOB_ID"
    return TEMPLATE.format(
        notebook=path.stem,
        profile=profile or "laptop",
        points=f", {count:,} points: {points}" if grid else "",
        command=command or "python -m kdlib sbatch",
        first=_first(path, profile or "laptop", cluster, need, place),
        head="\n".join(_head(path, ask, tasks, count, place, warn)),
        started=STARTED,
        log=f"{job}.{task_id}.log",
        setup="\n".join(_setup(cluster, place, margin, nproc)),
        root=shlex.quote(str(ROOT)),
        doctor=_doctor(path, profile, parameters, ask, python),
        cards=_other_cards(cluster, ask, need),
        again=UNTIL_DONE if until_done else ONCE,
        python=python,
        what=_what(path, profile, grid, parameters),
        task=f'"$SLURM_ARRAY_TASK_ID/{tasks}"' if tasks else "1/1",
    )


def margins(limit: float) -> tuple[int, int]:
    """Seconds before a limit (in minutes) at which training stops, and Slurm's signal is asked for.

    The signal may come 60 seconds early, and must find training stopped. What the run measures on
    its way moves the first one further from the limit (`deadline.at`), never nearer.
    """
    margin = int(min(600, max(110, 15 * limit), 30 * limit))
    return margin, max(15, min(margin // 4, margin - 75))


def _ask_for_processes(ask: dict, nproc: int) -> dict:
    if nproc < 1:
        raise ValueError(f"--nproc must be 1 or more, not {nproc}")
    few = _gpus(ask["gres"] or "")
    if ask["gres"] and few and few < nproc:
        several = ":".join([*ask["gres"].split(":")[:-1], str(nproc)])
        raise ValueError(
            f"--nproc {nproc} wants a GPU for each process, and the job asks for {few}: "
            f"add --gres {several}, in a partition that gives so many"
        )
    return {**ask, "cpus": max(nproc, ask["cpus"] or 0)} if nproc > 1 else ask


def _head(path: Path, ask: dict, tasks: int, count: int, place: str, warn: int) -> list[str]:
    """The #SBATCH lines, each with its reason."""
    log = f"{place}/logs/%x.{'%A_%a' if tasks else '%j'}.log"
    lines = [("job-name", f"kd-{path.stem}", "what squeue calls it")]
    if tasks:
        few = f", {ask['at_once']} at a time" if ask["at_once"] else ""
        at_once = f"%{ask['at_once']}" if ask["at_once"] else ""
        lines.append(("array", f"1-{tasks}{at_once}", f"{tasks} tasks for {count} points{few}"))
    asked = (
        ("partition", "partition", "the queue; sinfo lists them"),
        ("gres", "gres", "the GPU"),
        ("cpus-per-task", "cpus", "cores, for tokenising and loading"),
        ("mem", "mem", "main memory; more than that, and the job is killed"),
        ("time", "time", "the limit, hours:minutes:seconds; what is not done then goes on later"),
    )
    lines += [(option, ask[key], why) for option, key, why in asked if ask[key]]
    lines += [
        ("output", f'"{log}"' if " " in log else log, "what the job says: a log for each task"),
        ("open-mode", "append", "a job that is started again goes on in its log"),
        ("requeue", "", "start again after a preemption or a dead node (the limit: see below)"),
        ("signal", f"B:USR1@{warn}", "tell this script before the limit, should training go on"),
    ]
    options = [f"#SBATCH --{key}{'=' if value else ''}{value}" for key, value, _ in lines]
    wide = max(map(len, options))
    return [f"{option:{wide}}  # {why}" for option, (_, _, why) in zip(options, lines)]


def _setup(cluster: dict, place: str, margin: int, nproc: int) -> list[str]:
    """The cluster's own lines, and the environment of the job."""
    lines = [f"{line:32}# {why}" for line, why in cluster.get("setup", [])]
    variables = {
        name: (re.sub(r'(["`])', r"\\\1", value), why)  # $USER is meant
        for name, (value, why) in cluster.get("environment", {}).items()
    }
    why_there = cluster["runs"][1] if "runs" in cluster and not os.environ.get("KD_RUNS") else ""
    variables["KD_RUNS"] = (place, why_there or "where run folders go")
    if ROOT != Path(batch.__file__).resolve().parents[2]:
        variables["KD_ROOT"] = (_plain(str(ROOT)), "where the notebooks are")
    variables["KD_MARGIN"] = (
        str(margin),
        "training stops so many seconds before the limit, or earlier: see CLUSTER.md",
    )
    if nproc > 1:
        variables["KD_NPROC"] = (str(nproc), "training runs in so many processes, one a GPU")
    return lines + [f'export {key}="{value}"  # {why}' for key, (value, why) in variables.items()]


def _what(path: Path, profile: str, grid: dict, parameters: dict) -> str:
    """The arguments of `sweep`, for a shell."""
    inside = path.is_relative_to(ROOT)
    words = [str(path.relative_to(ROOT)) if inside else str(path)]
    words += ["--profile", profile] if profile else []
    for axis, values in grid.items():
        words += ["--grid", f"{axis}={','.join(map(str, values))}"]
    return " ".join(map(shlex.quote, words + _fixed(parameters)))


def _fixed(parameters: dict) -> list[str]:
    return [word for key, value in parameters.items() for word in ("-p", f"{key}={value}")]


def _first(path: Path, profile: str, cluster: dict, need: room.Room, place: str) -> str:
    """What to do before the job, as comments: a compute node downloads slowly or not at all."""
    lines = []
    if need.gpu:
        lines.append(
            f"# A run needs about {need.gpu:.0f} GB on the GPU, {need.memory:.0f} GB of main "
            f"memory and {need.disk:.0f} GB of disk (estimated, not measured)."
        )
    if need.downloads:
        caches = [
            f'{name}="{value}"'
            for name, (value, _) in cluster.get("environment", {}).items()
            if name.startswith("HF_")
        ]
        fetch = " ".join([*caches, "python -m kdlib get", profile, path.stem[:2]])
        lines += [
            f"# First fetch, on the login node (about {need.downloads:.1f} GB):",
            f"#   {fetch}",
        ]
    if "runs" in cluster and not os.environ.get("KD_RUNS"):
        lines.append(f"# Runs go to {place}: {cluster['runs'][1]}")
    return "".join(line + "\n" for line in lines)


def _doctor(path: Path, profile: str, parameters: dict, ask: dict, python: str) -> str:
    words = [path.stem if path.is_relative_to(ROOT) else str(path)]
    words += ["--profile", profile] if profile else []
    words += ["--need-gpu"] if _gpus(ask["gres"] or "") else []
    return f"{python} -m kdlib doctor " + " ".join(map(shlex.quote, words + _fixed(parameters)))


def _other_cards(cluster: dict, ask: dict, need: room.Room) -> str:
    """What else is large enough, for the line that a refused job leaves: "any card" may have been
    one that torch does not serve.
    """
    large = [gres for size, gres, _ in cluster.get("cards", []) if need.gpu <= FULL * size]
    others = [gres for gres in large if gres != ask["gres"]]
    return f" (another GPU: --gres {' or '.join(others)})" if others and ask["gres"] else ""


TEMPLATE = """#!/bin/bash
# {notebook}, profile {profile}{points}
# Written by:  {command}
{first}# Submit it with  sbatch THIS_FILE,  look with  python -m kdlib status,  end it with  scancel JOB.

# What the job asks Slurm for. A finished point is skipped, so a second submission of this file runs only what is missing.
{head}

echo "{started}$(date '+%F %T') on $(hostname), job $SLURM_JOB_ID, restarts ${{SLURM_RESTART_COUNT:-0}}"
export KD_JOB_BEGAN=$(date +%s)          # the limit is counted from here: this machine's clock may be wrong
export KD_LOG="{log}"
{setup}
cd {root} || exit 1

# Look before any training: does torch serve this GPU, is there room, are the models here?
{doctor} || {{
    echo "refused before any training: mend what the lines with STOP say, and submit again{cards}"
    exit 2
}}

{again}

stop() {{                                 # end the notebook; its training goes on from its newest checkpoint
    trap '' USR1 TERM
    kill -TERM "$child" 2>/dev/null
    wait "$child"
}}
trap 'echo "the time limit is near"; stop; stopped_early' USR1
trap 'stop; exit 143' TERM              # scancel, or a preemption: Slurm itself decides what comes next

# Exit codes: 0 done, 1 failed, 2 refused, 75 stopped early, 138 the kernel was killed.
{python} -m kdlib sweep {what} --task {task} &
child=$!                                # in the background: bash hears signals only while it waits
wait "$child"; code=$?
if [ "$code" -eq 75 ]; then stopped_early; fi
exit "$code"
"""
UNTIL_DONE = """stopped_early() {                        # --until-done: again, until all is done (but not for ever, should nothing move)
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 20 ]; then echo "started 20 times and still not done: look at the log"; exit 75; fi
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
    exit 75
}"""
ONCE = """stopped_early() {                        # submit this file again to go on, or write it with --until-done
    exit 75
}"""


def make_log_folder(place: Path) -> None:
    """Slurm makes no folder for logs: a job without one dies in silence. place: `runs_place`.

    OSError where it cannot be made. /scratch itself is not made: without it this is another machine
    than the one that the cluster's file describes.
    """
    top = Path(*place.parts[:2])
    if not top.is_dir():
        raise OSError(
            f"there is no {top} on this machine, where runs and the job's log should go; on the "
            f"cluster, make their folder before you submit:  mkdir -p {place / 'logs'}"
        )
    try:
        (place / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{place / 'logs'}, where the job's log should go, could not be made "
            f"({error.strerror}); set KD_RUNS to a folder of yours"
        ) from error


def _plain(path: str) -> str:
    """The path; ValueError where a shell, or Slurm's own % in a log's name, would read something else in it."""
    if re.search(r"[\"'`$\\%\n]", path):
        raise ValueError(
            f"{path}: a quote, $, %, ` or \\ in this path would be read as something else in a job; set KD_RUNS (or move the course) to a plain one"
        )
    return path


# -- submitting it ---------------------------------------------------------------------------------


def waits_for_ever(job: str) -> str:
    """Why Slurm will not start this job as it was asked for; "" where it may."""
    try:
        told = (
            subprocess.run(
                ["squeue", "-h", "-j", job, "-o", "%r"], capture_output=True, text=True, timeout=30
            )
            .stdout.strip()
            .split("\n")[0]
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (
        f"{told}. {_hint('partition')}"
        if told in ("PartitionTimeLimit", "PartitionNodeLimit", "AssocGrpGRES", "BadConstraints")
        else ""
    )


def submit(text: str, place: Path) -> str:
    """Hand the script, whose runs go to `place`, to sbatch; the job's id. OSError with Slurm's own message and ours when it is refused."""
    program = shutil.which("sbatch")
    if program is None:
        raise OSError(
            "there is no sbatch on the path: this is no login node of a Slurm cluster. Leave out --submit, keep the script "
            "(… > job.sh), and run  sbatch job.sh  on the cluster"
        )
    make_log_folder(place)
    done = subprocess.run([program, "--parsable"], input=text, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(
            line.removeprefix("sbatch: ").strip()
            for line in done.stderr.splitlines()
            if line.strip()
        )
        raise OSError(f"Slurm refused the job: {said}. {_hint(said)}")
    return done.stdout.strip().split(";")[0]


def _hint(said: str) -> str:
    if (
        "partition" in said.lower()
        or "node configuration" in said.lower()
        or "gres" in said.lower()
    ):
        there = subprocess.run(
            ["sinfo", "-h", "-o", "%R %l %G"], capture_output=True, text=True
        ).stdout.split("\n")
        there = "; ".join(sorted({" ".join(line.split()) for line in there if line.strip()}))
        return f"Partitions here, with time limit and GPUs: {there or 'sinfo does not say'}"
    if "ccount" in said:
        return "Your account may not use this partition: a course has one of its own"
    return "See the lines with #SBATCH (python -m kdlib sbatch … without --submit prints them)"
