"""When a run must stop, and what it had to leave unfinished. No torch here.

A deadline comes from `KD_DEADLINE` (seconds since 1970), from `KD_MAX_MINUTES`, or from the Slurm job that we run in. The trainer
stops in time (`checkpoints`), notes here how far it came, and the run's record says so.

How long before a job's end must training stop? `KD_MARGIN` seconds, or longer where this run has measured that it needs longer:
`timed` functions (translating, say) and evaluations note what they took, and the last of each kind before the training is taken for
the one that comes after it.
"""

import functools
import json
import os
import subprocess
import sys
import time

MARGIN_SECONDS = 600  # what a notebook gets to score and draw after its training was stopped
SPARE, LAST_SECONDS = (
    1.5,
    60.0,
)  # what was measured may take half as long again; and the record and the figures want a minute
_notes: list[dict] = []  # trainings that were stopped early, since the last `take`


def slurm_end(job: str, began: float | None = None, *, now: float | None = None) -> float | None:
    """When Slurm will end this job, by this machine's clock (seconds since 1970); None without limit, or without Slurm.

    began: when the job's script started, by this machine's clock. Slurm's times are its controller's; only their difference is
    used then, so that a node whose clock is wrong stops neither too early nor too late.
    """
    try:
        told = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%S %e"],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"SLURM_TIME_FORMAT": "%s"},
        ).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        told = []
    if len(told) < 2 or not all(t.isdigit() for t in told[:2]):
        given = os.environ.get(
            "SLURM_JOB_END_TIME", ""
        )  # newer versions set it; squeue may be missing on a node
        return float(given) if given.isdigit() else None
    start, end = map(float, told[:2])
    if began is None:
        return end
    if abs(began - start) > 120:
        print(
            f"this machine's clock is {began - start:+.0f} s off the cluster's; the job's end is counted from its start",
            file=sys.stderr,
        )
    return began + (end - start)


def at() -> float | None:
    """When training must stop (seconds since 1970, this machine's clock); None: whenever it is done.

    The environment is read anew each time. ValueError for a `KD_DEADLINE` or `KD_MAX_MINUTES` that is no number above 0.
    """
    if "KD_DEADLINE" in os.environ:
        when = _positive("KD_DEADLINE")
        if "KD_JOB_ENDS" in os.environ:
            end, longest = _positive("KD_JOB_ENDS"), _positive("KD_LONGEST_MARGIN")
            when = min(when, end - min(margin_measured(), longest))
        return when
    return _first(job_end())


def job_end() -> float | None:
    """When the Slurm job that we run in ends, by this machine's clock; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    return slurm_end(job, _positive("KD_JOB_BEGAN") if "KD_JOB_BEGAN" in os.environ else None)


def _first(end: float | None) -> float | None:
    """The earlier of `KD_MAX_MINUTES` from now, and of a margin before the job's end."""
    ends = [] if end is None else [end - margin()]
    if "KD_MAX_MINUTES" in os.environ:
        ends.append(time.time() + 60 * _positive("KD_MAX_MINUTES"))
    return min(ends, default=None)


def margin() -> float:
    """Seconds between the end of training and the end of the job, before anything was measured."""
    return _positive("KD_MARGIN") if "KD_MARGIN" in os.environ else MARGIN_SECONDS


def margin_measured() -> float:
    """Seconds that this run will need after its training, judged by what it did before; 0.0 where it has measured nothing."""
    took = spent()
    return SPARE * sum(took.values()) + LAST_SECONDS if took else 0.0


def spent() -> dict[str, float]:
    """{what: seconds that it last took}, of what comes again after training. In the environment, so that a training's processes know."""
    return json.loads(os.environ.get("KD_SPENT") or "{}")


def spend(**seconds: float) -> None:
    """Note what something took: spend(translate=340.0)."""
    os.environ["KD_SPENT"] = json.dumps(spent() | seconds)


def timed(what: str):
    """A function whose last call tells how long its next one will take."""

    def around(function):
        @functools.wraps(function)
        def measured(*args, **kw):
            began = time.monotonic()
            value = function(*args, **kw)
            spend(**{what: round(time.monotonic() - began, 1)})
            return value

        return measured

    return around


def _positive(name: str) -> float:
    try:
        value = float(os.environ[name])
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number above 0, not {os.environ[name]!r}")
    return value


def fix() -> None:
    """Fix the deadline now, for this process and those that it starts: minutes count from here, and squeue is asked once.

    The end of a Slurm job is kept beside it (`KD_JOB_ENDS`): a margin that a run measures counts from there, and is at most half of
    the time that is left now, so that every job trains for a while.
    """
    if "KD_DEADLINE" in os.environ:
        return
    end = job_end()
    if (when := _first(end)) is not None:
        os.environ["KD_DEADLINE"] = f"{when:.0f}"
    if end is not None:
        os.environ["KD_JOB_ENDS"] = f"{end:.0f}"
        os.environ["KD_LONGEST_MARGIN"] = f"{max(margin(), (end - time.time()) / 2):.0f}"


def passed() -> bool:
    return (when := at()) is not None and time.time() >= when


# -- what was left unfinished ------------------------------------------------------------------------------------------


def note(step: int, steps: int, epoch: float, epochs: float) -> None:
    """A training was stopped after `step` of `steps`."""
    _notes.append(
        {
            "step": step,
            "steps": steps,
            "share": round(step / max(1, steps), 4),
            "epochs": round(epoch, 3),
            "of_epochs": round(float(epochs), 3),
        }
    )


def put(one: dict) -> None:
    """A note that another process took."""
    _notes.append(one)


def take() -> list[dict]:
    """The notes since the last call."""
    taken, _notes[:] = list(_notes), []
    return taken


def told(partial: dict[str, list[dict]]) -> str:
    """One line: {stage: notes} as "student: 30 % of its training (0.9 of 3 epochs)"."""
    of = lambda n: (
        "of the data"
        if n["of_epochs"] == 1
        else f"of its training ({n['epochs']:g} of {n['of_epochs']:g} epochs)"
    )
    return "; ".join(
        f"{stage}: {100 * n['share']:.0f} % {of(n)}"
        for stage, notes in partial.items()
        for n in notes
    )
