"""Who works in a run folder: a file with host, pids and job, taken by batch runs, seen through when its owner is dead."""

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
    """What the lock says, with `alive`: True, False, or None where this machine cannot know. None without a (whole) lock."""
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf8"))
        return said | {"alive": _alive(said)}
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
    fresh = folder / f"{NAME}.{os.getpid()}.new"
    fresh.write_text(json.dumps(me), encoding="utf8")
    try:
        for _ in range(100):
            with suppress(FileExistsError):
                _link(
                    fresh, folder / NAME
                )  # fails where there is one: two that come at once cannot both win
                return
            said = owner(folder)
            if said and _orphan(said):
                time.sleep(
                    0.1
                )  # a kernel whose papermill was killed ends itself within a second or two
            elif said and said["alive"] is not False:
                raise OSError(
                    f"the run folder {folder} is in use by {name(said)}. Wait for it, or end it; if you know it to be "
                    f"dead, delete {folder / NAME}"
                )
            else:
                _remove_stale(folder, said)
        said = owner(folder)
        raise OSError(
            f"the run folder {folder} "
            + (
                f"is in use by {name(said)}. Wait for it, or end it"
                if said and said["alive"]
                else f"could not be taken: {NAME} comes back; another run wants it too"
            )
        )
    finally:
        fresh.unlink(missing_ok=True)


def _link(fresh: Path, target: Path) -> None:
    try:
        os.link(fresh, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(target, "x", encoding="utf8") as file:
            file.write(fresh.read_text(encoding="utf8"))


def join(folder: Path) -> None:
    """A kernel of a batch run: its parent has taken the folder, and it belongs into the lock, for it may outlive its parent.

    OSError when the parent is gone and another run has the folder.
    """
    from ..paths import write_json

    said = owner(folder)
    if said and said["host"] == socket.gethostname() and _is_ancestor(said["pids"][0][0]):
        write_json(
            folder / NAME,
            {
                **{k: v for k, v in said.items() if k != "alive"},
                "pids": [said["pids"][0], _pid(os.getpid())],
            },
        )
    else:
        refuse_if_taken(folder)


def refuse_if_taken(folder: Path) -> None:
    """OSError when a live batch run, not ours, has the folder: a notebook in JupyterLab must not write into it."""
    said = owner(folder)
    if (
        said
        and said["alive"]
        and not (
            said["host"] == socket.gethostname()
            and any(pid == os.getpid() or _is_ancestor(pid) for pid, _ in said["pids"])
        )
    ):
        raise OSError(
            f"the run folder {folder} is in use by {name(said)}. Wait for it, or take another run_dir"
        )


def release(folder: Path) -> None:
    with suppress(OSError, ValueError, KeyError):
        said = json.loads((folder / NAME).read_text(encoding="utf8"))
        if said["host"] == socket.gethostname() and said["pids"][0][0] == os.getpid():
            (folder / NAME).unlink()


def name(said: dict) -> str:
    living = [
        pid
        for pid, began in said["pids"]
        if said["host"] == socket.gethostname() and _pid(pid) == [pid, began]
    ]
    where = f"process {(living or said['pids'][0])[0]} on {said['host']}, since {said['since']}"
    return f"Slurm job {said['job']} ({where})" if said.get("job") else where


def job() -> str:
    """This Slurm job's id, as squeue and scancel take it; "" outside of one."""
    env = os.environ
    array = (
        f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        if "SLURM_ARRAY_TASK_ID" in env
        else ""
    )
    return array or env.get("SLURM_JOB_ID", "")


def _alive(said: dict) -> bool | None:
    if said["host"] == socket.gethostname():
        return any(_pid(pid) == [pid, began] for pid, began in said["pids"])
    if said["job"] and said["job"] == job():
        return False  # Slurm has started our job anew on another node: the first is gone
    return running(said["job"]) if said["job"] else None


def running(which: str) -> bool | None:
    """Does Slurm know this job as one that runs? None where Slurm does not answer."""
    try:
        done = subprocess.run(
            ["squeue", "-h", "-j", which, "-o", "%T"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return False if "Invalid job id" in done.stderr else None
    return done.stdout.strip() in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")


def _pid(pid: int) -> list | None:
    """[pid, when it began]: a pid alone comes back after a while as another process. None if there is none, or a zombie."""
    import psutil

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return (
            None
            if process.status() == psutil.STATUS_ZOMBIE
            else [pid, round(process.create_time(), 1)]
        )
    return None


def _is_ancestor(pid: int) -> bool:
    import psutil

    return pid in [p.pid for p in psutil.Process().parents()]


def _orphan(said: dict) -> bool:
    """Is only the kernel left of a batch run on this machine?"""
    return bool(
        said["alive"]
        and said["host"] == socket.gethostname()
        and len(said["pids"]) > 1
        and _pid(said["pids"][0][0]) != said["pids"][0]
    )


def _remove_stale(folder: Path, said: dict | None) -> None:
    """Move a dead owner's lock away; should another process have replaced it meanwhile, put that one back."""
    aside = folder / f"{NAME}.{os.getpid()}.stale"
    with suppress(FileNotFoundError):
        os.rename(folder / NAME, aside)
        now = json.loads(aside.read_text(encoding="utf8") or "null") if said else None
        if said and now and now["pids"] != said["pids"]:
            with suppress(FileExistsError):
                os.link(aside, folder / NAME)
        aside.unlink()
