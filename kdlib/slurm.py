"""A notebook, or a grid of its parameters, as one sbatch script that a student can read; and the way to submit it.

    print(script("04_distilbert_mnli", "full", grid={"seed": [0, 1, 2]}, cluster=load_cluster("explorer")))

The script is text: writing it needs no Slurm. One array task a point (several, where a grid has more points than an array may
have tasks); each runs `python -m kdlib sweep … --task i/n`, which skips what is done and goes on with what was interrupted.
"""
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

from . import batch
from .paths import ROOT, did_you_mean, runs_root
from .status import STARTED

MANY, MOST_TASKS = 1000, 1000               # above MANY points --yes is asked for; Slurm's own MaxArraySize is 1001
SHORTEST_MINUTES = 2                        # below it a job would be over before a notebook has begun to work
LIMITS = {"time": str, "mem": str, "gpus": int, "at_once": int}         # of one of a cluster's partitions
KEYS = {"partition": str, "gres": str, "time": str, "mem": str, "cpus": int, "at_once": int, "partitions": dict, "setup": list,
        "environment": dict, "python": str}


def load_cluster(name: str = "") -> dict:
    """A preset of kdlib/clusters, or the user's own YAML file; {} for "". ValueError for what is no such file."""
    if not name:
        return {}
    known = sorted(f.name[:-5] for f in resources.files("kdlib.clusters").iterdir() if f.name.endswith(".yaml"))
    file = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else resources.files("kdlib.clusters") / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(f"there is no cluster {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}, or give a YAML file of yours")
    try:
        cluster = yaml.safe_load(file.read_text(encoding="utf8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    _check_keys(cluster, KEYS, str(file), "a cluster")
    for name, limits in cluster.get("partitions", {}).items():
        _check_keys(limits, LIMITS, f"{file}, partition {name}", "a partition")
    for name in cluster.get("environment", {}):
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
            raise ValueError(f"{file}: {name!r} is no name of an environment variable")
    for pair in (*cluster.get("setup", []), *cluster.get("environment", {}).values()):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise ValueError(f"{file}: {pair!r} should be two texts, what and why: [module purge, \"start from nothing\"]")
    return cluster


def _check_keys(given: dict, known: dict, where: str, what: str) -> None:
    for key, value in given.items() if isinstance(given, dict) else [("", given)]:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}; {what} has {', '.join(known)}")
        if type(value) is not known[key]:
            hint = ": write it in quotes, for YAML reads 08:00:00 as a number" if key == "time" else ""
            raise ValueError(f"{where}: {key} must be {known[key].__name__}, not {type(value).__name__} {value!r}{hint}")


def minutes(time: str) -> float:
    """Slurm's time as minutes: "90", "90:00", "08:00:00", "1-12", "1-12:30". ValueError for anything else."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not match:
        raise ValueError(f"--time {time!r} is no time limit; write hours:minutes:seconds, as 08:00:00")
    days, *parts = match.groups()
    parts = [int(p) for p in parts if p is not None]
    if days is not None:
        h, m, s = (parts + [0, 0])[:3]
    else:
        h, m, s = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return timedelta(days=int(days or 0), hours=h, minutes=m, seconds=s).total_seconds() / 60


def megabytes(mem: str) -> float:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", mem.strip(), re.I)
    if not match:
        raise ValueError(f"--mem {mem!r} is no size; write it as 32G")
    return int(match[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024 ** 2}[match[2].upper()]


def _gpus(gres: str) -> int:
    counts = [part.split(":")[1:] for part in gres.split(",") if part.split(":")[0] == "gpu"]
    return sum(int(c[-1]) if c and c[-1].isdigit() else 1 for c in counts)


def _resources(cluster: dict, asked: dict) -> dict:
    """What the job asks for: the user's options over the cluster's own. ValueError for more than the partition has."""
    wanted = {key: cluster.get(key) for key in ("partition", "gres", "time", "mem", "cpus", "at_once")}
    wanted |= {key: value for key, value in asked.items() if value is not None and value != ""}
    limits = cluster.get("partitions", {}).get(wanted["partition"], {})
    wanted["time"] = wanted["time"] or "04:00:00"
    if not limits.get("gpus", 1) and "gres" not in {k for k, v in asked.items() if v}:
        wanted["gres"] = None                                       # a partition without GPUs
    for key, measure in (("time", minutes), ("mem", megabytes)):
        if key in limits and not asked.get(key):                    # the cluster's default, where the partition gives less
            wanted[key] = min(wanted[key] or limits[key], limits[key], key=measure)
        if wanted[key] and key in limits and measure(wanted[key]) > measure(limits[key]):
            raise ValueError(f"--{key} {wanted[key]} is more than the partition {wanted['partition']} gives: at most {limits[key]}")
    if (few := limits.get("gpus")) is not None and _gpus(wanted["gres"] or "") > few:
        raise ValueError(f"--gres {wanted['gres']}: the partition {wanted['partition']} gives a job at most {few} GPU(s)")
    if limits.get("at_once"):
        wanted["at_once"] = min(wanted["at_once"] or limits["at_once"], limits["at_once"])
    for key in ("cpus", "at_once"):
        if wanted[key] is not None and wanted[key] < 1:
            raise ValueError(f"--{key.replace('_', '-')} must be 1 or more, not {wanted[key]}")
    for key in ("partition", "gres", "time", "mem"):
        if re.search(r"[\s#\"'`$\\]", wanted[key] or ""):
            raise ValueError(f"--{key} {wanted[key]!r} holds a blank or a sign that a shell reads")
    megabytes(wanted["mem"] or "0")
    if minutes(wanted["time"]) < SHORTEST_MINUTES:
        raise ValueError(f"--time {wanted['time']} is shorter than a notebook's start; give it {SHORTEST_MINUTES} minutes at the very least")
    return wanted


def script(notebook: str | Path, profile: str = "", *, grid: dict[str, list] | None = None, parameters: dict | None = None,
           cluster: dict | None = None, until_done: bool = False, nproc: int = 1, yes: bool = False, command: str = "", **asked) -> str:
    """The sbatch script. asked: partition, gres, time, mem, cpus, at_once. ValueError, before anything is written, for a
    parameter or a resource that does not fit, and for a grid of more than 1,000 points without `yes`."""
    path, grid, parameters, cluster = batch.notebook_path(notebook), grid or {}, parameters or {}, cluster or {}
    count = 1
    for values in grid.values():
        count *= len(values)
    if count > MANY and not yes:
        raise ValueError(f"the grid has {count:,} points, a run each: --yes if you mean it")
    if nproc < 1:
        raise ValueError(f"--nproc must be 1 or more, not {nproc}")
    ask = _resources(cluster, asked)
    if ask["gres"] and (few := _gpus(ask["gres"])) and few < nproc:
        raise ValueError(f"--nproc {nproc} wants a GPU for each process, and the job asks for {few}: add --gres gpu:{nproc}, in a partition that gives so many")
    if nproc > 1:
        ask["cpus"] = max(nproc, ask["cpus"] or 0)
    batch._points(path, grid, profile, parameters)
    tasks = min(count, MOST_TASKS)
    array = bool(grid)
    name = f"kd-{path.stem}"
    logs, limit = _plain(str(log_folder())), minutes(ask["time"])
    margin = int(min(600, max(110, 15 * limit), 30 * limit))        # seconds between the end of training and the end of the job
    warn = max(15, min(margin // 4, margin - 75))                   # Slurm's signal may come 60 seconds early, and must find training stopped
    log = f"{logs}/%x.{'%A_%a' if array else '%j'}.log"
    lines = [("job-name", name, "what squeue calls it")]
    if array:
        at_once = f"%{ask['at_once']}" if ask["at_once"] else ""
        lines.append(("array", f"1-{tasks}{at_once}", f"{tasks} tasks for {count} points" + (f", {ask['at_once']} at a time" if at_once else "")))
    lines += [(key, ask[field], why) for key, field, why in (
        ("partition", "partition", "the queue; sinfo lists them"), ("gres", "gres", "the GPU"),
        ("cpus-per-task", "cpus", "cores, for tokenising and loading"), ("mem", "mem", "main memory; more than that, and the job is killed"),
        ("time", "time", "the limit, hours:minutes:seconds; what is not done then goes on later")) if ask[field]]
    lines += [("output", f'"{log}"' if " " in log else log, "what the job says: a log for each task"),
              ("open-mode", "append", "a job that is started again goes on in its log"),
              ("requeue", "", "start again after a preemption or a dead node (the time limit: see below)"),
              ("signal", f"B:USR1@{warn}", "tell this script before the limit, should training not have stopped by itself")]
    head = [f"#SBATCH --{key}{'=' if value else ''}{value}" for key, value, _ in lines]
    wide = max(map(len, head))
    axes = " × ".join(f"{axis} ({len(values)})" for axis, values in grid.items())
    what = [str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path), *(["--profile", profile] if profile else [])]
    for axis, values in grid.items():
        what += ["--grid", f"{axis}={','.join(map(str, values))}"]
    for key, value in parameters.items():
        what += ["-p", f"{key}={value}"]
    task = f'"$SLURM_ARRAY_TASK_ID/{tasks}"' if array else "1/1"
    setup = [f"{line:32}# {why}" for line, why in cluster.get("setup", [])]
    variables = {name: (re.sub(r'(["`])', r"\\\1", value), why) for name, (value, why) in cluster.get("environment", {}).items()}      # $USER is meant
    variables |= {"KD_RUNS": (_plain(str(runs_root().resolve())), "where run folders go")}
    if ROOT != Path(batch.__file__).resolve().parent.parent:
        variables["KD_ROOT"] = (_plain(str(ROOT)), "where the notebooks are")
    variables |= {"KD_MARGIN": (str(margin), "training stops so many seconds before the limit: time to score and to draw")}
    if nproc > 1:
        variables["KD_NPROC"] = (str(nproc), "training runs in so many processes, one a GPU")
    exports = [f'export {key}="{value}"  # {why}' for key, (value, why) in variables.items()]
    return TEMPLATE.format(started=STARTED,
        notebook=path.stem, profile=profile or "laptop", points=f", {count:,} points: {axes}" if array else "", command=command or "python -m kdlib sbatch",
        head="\n".join(f"{line:{wide}}  # {why}" for line, (_, _, why) in zip(head, lines)), setup="\n".join(setup + exports),
        root=shlex.quote(str(ROOT)), python=shlex.quote(cluster.get("python") or sys.executable), what=" ".join(map(shlex.quote, what)), task=task,
        log=f"{logs}/{name}." + ("${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if array else "$SLURM_JOB_ID") + ".log",
        again=UNTIL_DONE if until_done else ONCE)


TEMPLATE = """#!/bin/bash
# {notebook}, profile {profile}{points}
# Written by:  {command}
# Submit it with  sbatch THIS_FILE,  look with  python -m kdlib status,  end it with  scancel JOB.

# What the job asks Slurm for. A finished point is skipped, so a second submission of this file runs only what is missing.
{head}

echo "{started}$(date '+%F %T') on $(hostname), job $SLURM_JOB_ID, restarts ${{SLURM_RESTART_COUNT:-0}}"
export KD_JOB_BEGAN=$(date +%s)          # the limit is counted from here: this machine's clock may be wrong
export KD_LOG="{log}"
{setup}
cd {root} || exit 1

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


def log_folder() -> Path:
    return runs_root().resolve() / "logs"


def make_log_folder() -> None:
    """Slurm makes no folder for logs: a job without one dies in silence."""
    try:
        log_folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{log_folder()}, where the job's log should go, could not be made ({error.strerror}); set KD_RUNS to a folder of yours") from error


def _plain(path: str) -> str:
    """The path; ValueError where a shell, or Slurm's own % in a log's name, would read something else in it."""
    if re.search(r"[\"'`$\\%\n]", path):
        raise ValueError(f"{path}: a quote, $, %, ` or \\ in this path would be read as something else in a job; set KD_RUNS (or move the course) to a plain one")
    return path


def waits_for_ever(job: str) -> str:
    """Why Slurm will not start this job as it was asked for; "" where it may."""
    try:
        told = subprocess.run(["squeue", "-h", "-j", job, "-o", "%r"], capture_output=True, text=True, timeout=30).stdout.strip().split("\n")[0]
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f"{told}. {_hint('partition')}" if told in ("PartitionTimeLimit", "PartitionNodeLimit", "AssocGrpGRES", "BadConstraints") else ""


def submit(text: str) -> str:
    """Hand the script to sbatch; the job's id. OSError with Slurm's own message and ours when it is refused."""
    program = shutil.which("sbatch")
    if program is None:
        raise OSError("there is no sbatch on the path: this is no login node of a Slurm cluster. Leave out --submit, keep the script "
                      "(… > job.sh), and run  sbatch job.sh  on the cluster")
    make_log_folder()
    done = subprocess.run([program, "--parsable"], input=text, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(line.removeprefix("sbatch: ").strip() for line in done.stderr.splitlines() if line.strip())
        raise OSError(f"Slurm refused the job: {said}. {_hint(said)}")
    return done.stdout.strip().split(";")[0]


def _hint(said: str) -> str:
    if "partition" in said.lower() or "node configuration" in said.lower() or "gres" in said.lower():
        there = subprocess.run(["sinfo", "-h", "-o", "%R %l %G"], capture_output=True, text=True).stdout.split("\n")
        there = "; ".join(sorted({" ".join(line.split()) for line in there if line.strip()}))
        return f"Partitions here, with time limit and GPUs: {there or 'sinfo does not say'}"
    if "ccount" in said:
        return "Your account may not use this partition: a course has one of its own"
    return "See the lines with #SBATCH (python -m kdlib sbatch … without --submit prints them)"
