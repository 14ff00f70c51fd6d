"""What became of the runs: done, running, partial, failed and why.

It reads small files only, so thousands of runs take no time.

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

from ..course import lock
from ..course.run import PARTIAL
from ..engine import deadline
from ..paths import did_you_mean, run_places

FETCH_FIRST = "fetch on a login node first (python -m kdlib get PROFILE NN)"

# What an error's text gives away: (pattern, likely cause, what to do). The first found counts.
CAUSES = (
    (
        r"CUDA out of memory|OutOfMemoryError|DefaultCPUAllocator|oom.?kill|out.of.memory|"
        r"kernel was killed|MemoryError",
        "out of memory",
        "a smaller batch_size, a larger --mem or GPU; "
        "`python -m kdlib doctor --plan` tells what fits",
    ),
    (
        r"no kernel image|not compatible with the current PyTorch",
        "torch has no code for this GPU",
        "install torch from PyTorch's cu126 wheel index (P100, V100), or ask for another --gres; "
        "see `python -m kdlib doctor`",
    ),
    (
        r"No space left|Disk quota exceeded|Errno 28|Errno 122|MB are free under",
        "the disk or your quota is full",
        "delete old runs and caches, or set KD_RUNS and HF_HUB_CACHE to a folder on /scratch",
    ),
    (
        r"refuses your token|Invalid user token|Invalid credentials",
        "the hub refuses your token",
        "make a new one at https://huggingface.co/settings/tokens, then `hf auth login`; "
        "an old HF_TOKEN goes first: unset it",
    ),
    (
        r"gated|401 Client Error|403 Client Error",
        "a gated model",
        "accept its licence on its page of the hub, then `hf auth login` "
        "(or HF_TOKEN=…) on the login node",
    ),
    (
        r"the hub has no |has no revision|cannot be read as|RepositoryNotFound|RevisionNotFound",
        "no such repository or revision",
        "check the spelling: owner/name, or owner/name@revision",
    ),
    (
        r"too many requests|429 Client Error",
        "the hub's limit for requests",
        f"wait some minutes and run again; {FETCH_FIRST}",
    ),
    (
        r"out of order just now|50[0234] Server Error",
        "the hub is out of order",
        "run again in some minutes: what is fetched already is kept",
    ),
    (
        r"connection broke off|arrived damaged|Consistency check failed",
        "a download that broke off",
        f"run again: it goes on from there; {FETCH_FIRST}",
    ),
    (
        r"cache \S+ cannot be written|Read-only file system",
        "the hub's cache cannot be written",
        "set HF_HUB_CACHE to a folder of yours",
    ),
    (
        r"LocalEntryNotFound|OfflineMode|Max retries|ConnectionError|couldn't connect|offline|"
        r"Name or service not known|ProxyError|ConnectTimeout|"
        r"hub cannot be reached|is not in the cache",
        "the hub cannot be reached",
        f"{FETCH_FIRST}; or load the cluster's proxy module",
    ),
    (
        r"ModuleNotFoundError|No module named",
        "a package is missing",
        "run it with the environment that has kdlib (make install)",
    ),
    (
        r"DUE TO TIME LIMIT|time limit is near",
        "the time limit came",
        "submit again: it goes on from its newest checkpoint; or --until-done",
    ),
    (r"PREEMPT", "another job took the node", "nothing, Slurm starts it again; or submit again"),
    (r"NODE FAIL", "the node failed", "nothing, Slurm starts it again; or submit again"),
    (
        r"CANCELLED|interrupted",
        "it was cancelled",
        "submit again: it goes on from its newest checkpoint",
    ),
    (r"No such file|no such folder|FileNotFoundError", "a file is missing", "the message names it"),
)
STARTED = "== started "  # a job's script says so in its log, each time
ORDER = ("running", "failed", "partial", "unfinished", "done")
CODES = {"failed": 1, "partial": 75, "unfinished": 75}
MOST_DONE = 20  # of the runs that are done so many are listed
INTERRUPTED = 130  # the exit code of a run that Ctrl-C or scancel ended
MARKS = {"run.json", "outcome.json", lock.NAME}  # a folder without any of them is no run


class State(NamedTuple):
    """The state of a run, which is one of ORDER."""

    run: str  # notebook/folder
    state: str
    note: str = ""  # time left, what is missing, or the last error line
    cause: str = ""
    todo: str = ""


def cause_of(text: str) -> tuple[str, str]:
    """(likely cause, what to do) of an error's text; ("", "") where nothing is recognised."""
    for pattern, cause, todo in CAUSES:
        if re.search(pattern, text, re.I):
            return cause, todo
    return "", ""


def read(folder: Path, ends: dict[str, float]) -> State:
    """The state of one run folder. ends: when each running job of this user ends."""
    name = f"{folder.parent.name}/{folder.name}"
    files = set(os.listdir(folder))
    owner = lock.owner(folder) if lock.NAME in files else None
    if owner and owner["alive"] is not False:
        job = owner.get("job")
        left = f", {_span(ends[job] - time.time())} left" if job in ends else ""
        return State(name, "running", lock.name(owner) + left)
    if "record.json" in files:
        if _ends_whole(folder / "record.json"):
            return State(name, "done")
        return State(name, "failed", "its record is cut off", "", "run it again")
    if PARTIAL in files:
        note = deadline.told(_json(folder / PARTIAL).get("partial", {}))
        return State(
            name, "partial", note, "the deadline came", "the same command goes on from there"
        )
    if "outcome.json" in files:
        outcome = _json(folder / "outcome.json")
        error = outcome.get("error", "")
        state = "unfinished" if outcome.get("code") == INTERRUPTED else "failed"
        return State(name, state, error, *cause_of(error or _tail(outcome.get("log"))))
    if owner:  # it is dead and left no word
        note = f"ended without a word ({lock.name(owner)})"
        cause, todo = cause_of(_tail(owner.get("log")))
        cause = cause or "killed, or its node died"
        todo = todo or "run it again: it goes on from its newest checkpoint"
        return State(name, "failed", note, cause, todo)
    return State(name, "unfinished", "no record and nobody at work", "", "run it (again)")


def states(notebook: str = "") -> list[State]:
    """Of all run folders in `paths.run_places`, or of one notebook's ("04", "04_distilbert_mnli").

    ValueError if there are none.
    """
    notebook = Path(notebook).stem
    places = [p for root in run_places() for p in _folders(root) if p.name != "logs"]
    folders = []
    for place in places:
        if place.name.startswith(notebook):
            folders += [f for f in _folders(place) if not MARKS.isdisjoint(os.listdir(f))]
    if not folders:
        raise ValueError(_no_runs(notebook, [place.name for place in places]))
    taken = any((folder / lock.NAME).exists() for folder in folders)
    ends = job_ends() if taken else {}
    return [read(folder, ends) for folder in folders]


def _folders(place: Path) -> list[Path]:
    return [p for p in sorted(place.iterdir()) if p.is_dir()] if place.is_dir() else []


def _no_runs(notebook: str, there: list[str]) -> str:
    roots = run_places()
    message = f"no runs of {notebook or 'any notebook'} under {' or '.join(map(str, roots))}"
    message += did_you_mean(notebook, there)
    for root in roots[1:]:
        if not root.is_dir():
            message += f"; {root} is not there (emptied by the cluster?)"
    for root in roots:
        if (root / "logs").is_dir():
            message += f"; what jobs said lies in {root / 'logs'}"
    return message


def job_ends() -> dict[str, float]:
    """{job id as `lock.job` writes it: when it ends} of the jobs that run now; {} without Slurm."""
    command = ["squeue", "-h", "-r", "-t", "R", "-o", "%i %e"]
    environment = os.environ | {"SLURM_TIME_FORMAT": "%s"}
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    ends = {}
    for line in asked.stdout.split("\n"):
        job, _, end = line.partition(" ")
        if end.strip().isdigit():
            ends[job] = float(end)
    return ends


def main(notebook: str = "") -> int:
    """Print them, what needs the reader first.

    Exit code: 0 all done or running, 1 something failed, 75 something is unfinished.
    """
    found = sorted(states(notebook), key=lambda state: ORDER.index(state.state))
    counts = Counter(state.state for state in found)
    width = max(len(state.run) for state in found)
    more = counts["done"] - MOST_DONE
    for run, state, note, cause, todo in found[: -more if more > 0 else None]:
        print(f"{state:10} {run:{width}}  {note[:300]}".rstrip())
        if cause or todo:
            print(f"{'':10} {'':{width}}  → {': '.join(filter(None, (cause, todo)))}")
    if more > 0:
        print(f"{'done':10} and {more:,} more")
    summary = [f"{counts[state]:,} {state}" for state in ORDER if counts[state]]
    print(f"{', '.join(summary)} of {len(found):,} runs")
    return next((code for state, code in CODES.items() if counts[state]), 0)


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}


def _ends_whole(path: Path) -> bool:
    """Does it end as a JSON object does?

    Records are renamed into place, so this is all that can be wrong; parsing each takes longer.
    """
    return _last_bytes(path, 8).rstrip().endswith(b"}")


def _tail(log: str | None) -> str:
    """The end of a log, without what earlier starts of the job said: that is over."""
    try:
        text = _last_bytes(log, 4000) if log else b""
    except OSError:
        return ""
    return text.decode("utf8", "replace").rpartition(STARTED)[2]


def _last_bytes(path, count: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - count))
        return file.read()


def _span(seconds: float) -> str:
    minutes = max(0, int(seconds // 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
