"""Who works in a run folder: a file with host, pids and job, taken by batch runs.

The lock of a dead owner does not count. Whether the owner lives is known from pid and start time on
this machine, and from Slurm on another.

A library's lock would not be enough, for three reasons. The file must outlive its owner, because
`status` reads from it which run ended without a record. It must change hands, because a kernel may
outlive the process that took the folder. And a lock of the operating system may hold on one node of
a cluster only. So the file itself is the lock: a hard link puts it in place complete, and fails if
there is one already.
"""

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

NAME = "in_use.json"


def owner(folder: Path) -> dict | None:
    """What the lock says, with `alive`: True, False, or None where this machine cannot know.

    None without a (whole) lock.
    """
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf8"))
        return record | {"alive": _alive(record)}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def acquire(folder: Path) -> None:
    """Take the folder for this process. OSError that names the owner when a live one has it."""
    me = {
        "host": socket.gethostname(),
        "pids": [_pid(os.getpid())],
        "job": job(),
        "log": os.environ.get("KD_LOG", ""),
        "since": datetime.now().isoformat(timespec="seconds"),
    }
    # written beside and then linked, so that nobody reads half a record
    fresh = folder / f"{NAME}.{os.getpid()}.new"
    fresh.write_text(json.dumps(me), encoding="utf8")
    try:
        # not for ever: two runs could take turns in removing each other's stale lock
        for _ in range(100):
            with suppress(FileExistsError):
                _link(fresh, folder / NAME)
                return
            _make_way(folder)
        raise OSError(_why_not(folder))
    finally:
        fresh.unlink(missing_ok=True)


def _make_way(folder: Path) -> None:
    """Removes a dead owner's lock, or waits a little for one that is about to end.

    OSError that names a living owner.
    """
    record = owner(folder)
    if record and _orphan(record):
        # a kernel whose papermill was killed ends itself within a second or two
        time.sleep(0.1)
    # also if nobody knows (None): the owner may be at work on another node
    elif record and record["alive"] is not False:
        raise OSError(
            f"the run folder {folder} is in use by {name(record)}. Wait for it, or end it. "
            f"If you know that it is dead, delete {folder / NAME}"
        )
    else:
        _remove_stale(folder, record)


def _why_not(folder: Path) -> str:
    """The error message when the folder could not be taken after all attempts."""
    record = owner(folder)
    if record and record["alive"]:
        return f"the run folder {folder} is in use by {name(record)}. Wait for it, or end it"
    return (
        f"the run folder {folder} could not be taken: another run takes it at the same time "
        f"({NAME} comes back after it was removed)"
    )


def _link(fresh: Path, target: Path) -> None:
    """Put a complete file in its place. FileExistsError if there is one: if two processes try at
    once, one of them wins.
    """
    try:
        os.link(fresh, target)
    except FileExistsError:
        raise
    except OSError:
        # a file system without hard links: "x" fails in the same way, but the file is empty first
        with open(target, "x", encoding="utf8") as file:
            file.write(fresh.read_text(encoding="utf8"))


def join(folder: Path) -> None:
    """Add the kernel of a batch run to the lock that its parent has taken, as it may outlive it.

    OSError if the parent is gone and another run has the folder.
    """
    from ..paths import write_json

    record = owner(folder)
    if record and _is_here(record) and _is_ancestor(record["pids"][0][0]):
        del record["alive"]  # true now, perhaps not later: not stored
        record["pids"] = [record["pids"][0], _pid(os.getpid())]
        write_json(folder / NAME, record)
    else:
        refuse_if_taken(folder)


def refuse_if_taken(folder: Path) -> None:
    """OSError when a live batch run, not ours, has the folder: a notebook in JupyterLab must not
    write into it.
    """
    record = owner(folder)
    if not record or not record["alive"]:
        return
    pids = [pid for pid, _ in record["pids"]]
    ours = _is_here(record) and any(pid == os.getpid() or _is_ancestor(pid) for pid in pids)
    if not ours:
        raise OSError(
            f"the run folder {folder} is in use by {name(record)}. "
            "Wait for it, or take another run_dir"
        )


def release(folder: Path) -> None:
    """Give the folder back if this process has it; otherwise nothing happens."""
    # no error at the end of a run because of a lock that is gone, broken or another's
    with suppress(OSError, ValueError, KeyError):
        record = json.loads((folder / NAME).read_text(encoding="utf8"))
        if _is_here(record) and record["pids"][0][0] == os.getpid():
            (folder / NAME).unlink()


def name(record: dict) -> str:
    """The owner for a message: its job or a living process, which is what the reader can end."""
    living = [pid for pid, began in record["pids"] if _is_here(record) and _runs(pid, began)]
    pid = living[0] if living else record["pids"][0][0]
    where = f"process {pid} on {record['host']}, since {record['since']}"
    return f"Slurm job {record['job']} ({where})" if record.get("job") else where


def job() -> str:
    """This Slurm job's id, as squeue and scancel take it; "" outside of one."""
    env = os.environ
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID", "")


def running(which: str) -> bool | None:
    """Does Slurm know this job as one that runs? None where Slurm does not answer."""
    command = ["squeue", "-h", "-j", which, "-o", "%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no Slurm on this machine, or one that is too busy
    if done.returncode:
        # Slurm forgets a job some minutes after its end
        return False if "Invalid job id" in done.stderr else None
    return done.stdout.strip() in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")


def _alive(record: dict) -> bool | None:
    if _is_here(record):
        return any(_runs(pid, began) for pid, began in record["pids"])
    if record["job"] and record["job"] == job():
        # Slurm has started our job again on another node: the first process is gone
        return False
    return running(record["job"]) if record["job"] else None


def _is_here(record: dict) -> bool:
    """Does it run on this machine? Only then can we look at its processes ourselves."""
    return record["host"] == socket.gethostname()


def _runs(pid: int, began: float) -> bool:
    return _pid(pid) == [pid, began]


def _pid(pid: int) -> list | None:
    """[pid, when it began]; None if there is none, or a zombie.

    A pid alone is not enough: the system gives it to another process after a while.
    """
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        # a zombie has ended, and waits for its parent to take note
        if process.status() != psutil.STATUS_ZOMBIE:
            return [pid, round(process.create_time(), 1)]
    return None


def _is_ancestor(pid: int) -> bool:
    import psutil

    return pid in [process.pid for process in psutil.Process().parents()]


def _orphan(record: dict) -> bool:
    """Is only the kernel left of a batch run on this machine?"""
    if not record["alive"] or not _is_here(record) or len(record["pids"]) < 2:
        return False
    return not _runs(*record["pids"][0])


def _remove_stale(folder: Path, record: dict | None) -> None:
    """Remove a dead owner's lock. If another process has replaced it meanwhile, put that one back."""
    aside = folder / f"{NAME}.{os.getpid()}.stale"
    # renamed, not deleted: of two that come at once only one gets it, and sees what it got
    with suppress(FileNotFoundError):
        os.rename(folder / NAME, aside)
        moved = json.loads(aside.read_text(encoding="utf8") or "null") if record else None
        if moved and moved["pids"] != record["pids"]:
            with suppress(FileExistsError):
                os.link(aside, folder / NAME)
        aside.unlink()
