"""What became of the runs: done, running, partial, failed and why. It reads small files only, so thousands of runs take no time.

    python -m kdlib status            all notebooks          python -m kdlib status 05
"""
import json
import os
import re
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..engine import deadline
from ..course import lock
from ..paths import did_you_mean, run_places
from ..course.run import PARTIAL

FETCH_FIRST = "fetch on a login node first (python -m kdlib get PROFILE NN)"

# what an error's text gives away: (pattern, likely cause, what to do); the first that is found counts
CAUSES = (
    (r"CUDA out of memory|OutOfMemoryError|DefaultCPUAllocator|oom.?kill|out.of.memory|kernel was killed|MemoryError",
     "out of memory", "a smaller batch_size, a larger --mem or GPU; `python -m kdlib doctor --plan` tells what fits"),
    (r"no kernel image|not compatible with the current PyTorch", "torch has no code for this GPU",
     "install torch from PyTorch's cu126 wheel index (P100, V100), or ask for another --gres; see `python -m kdlib doctor`"),
    (r"No space left|Disk quota exceeded|Errno 28|Errno 122|MB are free under", "the disk or your quota is full",
     "delete old runs and caches, or set KD_RUNS and HF_HUB_CACHE to a folder on /scratch"),
    (r"refuses your token|Invalid user token|Invalid credentials", "the hub refuses your token",
     "make a new one at https://huggingface.co/settings/tokens, then `hf auth login`; an old HF_TOKEN goes first: unset it"),
    (r"gated|401 Client Error|403 Client Error", "a gated model",
     "accept its licence on its page of the hub, then `hf auth login` (or HF_TOKEN=…) on the login node"),
    (r"the hub has no |has no revision|cannot be read as|RepositoryNotFound|RevisionNotFound", "no such repository or revision", "check the spelling: owner/name, or owner/name@revision"),
    (r"too many requests|429 Client Error", "the hub's limit for requests", f"wait some minutes and run again; {FETCH_FIRST}"),
    (r"out of order just now|50[0234] Server Error", "the hub is out of order", "run again in some minutes: what is fetched already is kept"),
    (r"connection broke off|arrived damaged|Consistency check failed", "a download that broke off", f"run again: it goes on from there; {FETCH_FIRST}"),
    (r"cache \S+ cannot be written|Read-only file system", "the hub's cache cannot be written", "set HF_HUB_CACHE to a folder of yours"),
    (r"LocalEntryNotFound|OfflineMode|Max retries|ConnectionError|couldn't connect|offline|Name or service not known|ProxyError|ConnectTimeout|hub cannot be reached|is not in the cache",
     "the hub cannot be reached", f"{FETCH_FIRST}; or load the cluster's proxy module"),
    (r"ModuleNotFoundError|No module named", "a package is missing", "run it with the environment that has kdlib (make install)"),
    (r"DUE TO TIME LIMIT|time limit is near", "the time limit came", "submit again: it goes on from its newest checkpoint; or --until-done"),
    (r"PREEMPT", "another job took the node", "nothing, Slurm starts it again; or submit again"),
    (r"NODE FAIL", "the node failed", "nothing, Slurm starts it again; or submit again"),
    (r"CANCELLED|interrupted", "it was cancelled", "submit again: it goes on from its newest checkpoint"),
    (r"No such file|no such folder|FileNotFoundError", "a file is missing", "the message names it"),
)
STARTED = "== started "                      # a job's script says so in its log, each time
ORDER = ("running", "failed", "partial", "unfinished", "done")
CODES = {"failed": 1, "partial": 75, "unfinished": 75}


class State(NamedTuple):
    run: str            # notebook/folder
    state: str          # one of ORDER
    note: str = ""      # time left, what is missing, or the last error line
    cause: str = ""
    todo: str = ""


def cause_of(text: str) -> tuple[str, str]:
    """(likely cause, what to do) of an error's text; ("", "") where nothing is recognised."""
    return next(((cause, todo) for pattern, cause, todo in CAUSES if re.search(pattern, text, re.I)), ("", ""))


def read(folder: Path, ends: dict[str, float]) -> State:
    """The state of one run folder. ends: when each running job of this user ends."""
    name, files = f"{folder.parent.name}/{folder.name}", set(os.listdir(folder))
    said = lock.owner(folder) if lock.NAME in files else None
    if said and said["alive"] is not False:
        left = f", {_span(ends[said['job']] - time.time())} left" if said.get("job") in ends else ""
        return State(name, "running", lock.name(said) + left)
    if "record.json" in files:
        return State(name, "done") if _whole(folder / "record.json") else State(name, "failed", "its record is cut off", "", "run it again")
    if PARTIAL in files:
        return State(name, "partial", deadline.told(_json(folder / PARTIAL).get("partial", {})), "the deadline came", "the same command goes on from there")
    if "outcome.json" in files:
        outcome = _json(folder / "outcome.json")
        error = outcome.get("error", "")
        return State(name, "unfinished" if outcome.get("code") == 130 else "failed", error, *(cause_of(error) if error else cause_of(_tail(outcome.get("log")))))
    if said:                                                    # its owner is dead and left no word
        end = f"ended without a word ({lock.name(said)})"
        cause, todo = cause_of(_tail(said.get("log")))
        return State(name, "failed", end, cause or "killed, or its node died", todo or "run it again: it goes on from its newest checkpoint")
    return State(name, "unfinished", "no record and nobody at work", "", "run it (again)")


def states(notebook: str = "") -> list[State]:
    """Of all run folders in `paths.run_places`, or of one notebook's ("04", "04_distilbert_mnli"). ValueError if there are none."""
    notebook = Path(notebook).stem
    there = [p for root in run_places() if root.is_dir() for p in sorted(root.iterdir()) if p.is_dir() and p.name != "logs"]
    places = [p for p in there if p.name.startswith(notebook)]
    marks = {"run.json", "outcome.json", lock.NAME}             # a folder without any of them is no run
    folders = [folder for place in places for folder in sorted(place.iterdir()) if folder.is_dir() and not marks.isdisjoint(os.listdir(folder))]
    if not folders:
        gone = "".join(f"; {root} is not there (emptied by the cluster?)" for root in run_places()[1:] if not root.is_dir())
        logs = "".join(f"; what jobs said lies in {root / 'logs'}" for root in run_places() if (root / "logs").is_dir())
        raise ValueError(f"no runs of {notebook or 'any notebook'} under {' or '.join(map(str, run_places()))}"
                         f"{did_you_mean(notebook, [p.name for p in there])}{gone}{logs}")
    ends = job_ends() if any((folder / lock.NAME).exists() for folder in folders) else {}
    return [read(folder, ends) for folder in folders]


def job_ends() -> dict[str, float]:
    """{job id as `lock.job` writes it: when it ends} of the jobs that run now; {} without Slurm."""
    try:
        told = subprocess.run(["squeue", "-h", "-r", "-t", "R", "-o", "%i %e"], capture_output=True, text=True, timeout=30,
                              env=os.environ | {"SLURM_TIME_FORMAT": "%s"}).stdout.split("\n")
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {job: float(end) for job, _, end in (line.partition(" ") for line in told) if end.strip().isdigit()}


def main(notebook: str = "") -> int:
    """Print them, what needs the reader first. Exit code: 0 all done or running, 1 something failed, 75 something is unfinished."""
    found = states(notebook)
    found.sort(key=lambda s: ORDER.index(s.state))
    counts = Counter(s.state for s in found)
    wide = max(len(s.run) for s in found)
    for s in [s for s in found if s.state != "done"] + [s for s in found if s.state == "done"][:20]:
        print(f"{s.state:10} {s.run:{wide}}  {s.note[:300]}".rstrip())
        if s.cause or s.todo:
            print(f"{'':10} {'':{wide}}  → {': '.join(filter(None, (s.cause, s.todo)))}")
    if counts["done"] > 20:
        print(f"{'done':10} and {counts['done'] - 20:,} more")
    print(", ".join(f"{counts[name]:,} {name}" for name in ORDER if counts[name]) + f" of {len(found):,} runs")
    return next((code for state, code in CODES.items() if counts[state]), 0)


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}


def _whole(path: Path) -> bool:
    """Does it end as a JSON object does? Records are renamed into place, so this is all that can be wrong; parsing each takes longer."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 8))
        return file.read().rstrip().endswith(b"}")


def _tail(log: str | None) -> str:
    if not log:
        return ""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 4000))
            return file.read().decode("utf8", "replace").rpartition(STARTED)[2]         # what earlier starts of the job said is over
    except OSError:
        return ""


def _span(seconds: float) -> str:
    minutes = max(0, int(seconds // 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
