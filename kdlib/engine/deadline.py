"""When a run must stop, and what it had to leave unfinished. No torch here.

A deadline comes from `KD_DEADLINE` (seconds since 1970), from `KD_MAX_MINUTES`, or from the Slurm
job that we run in. The trainer stops in time (`checkpoints`), notes here how far it came, and the
run's record says so.

How long before a job's end must training stop? `KD_MARGIN` seconds, or longer where this run has
measured that it needs longer: `timed` functions (translating, say) and evaluations note what they
took, and the last of each kind before the training is taken for the one that comes after it.

What is fixed or measured stands in the environment, so that a training's processes know it too:

    KD_DEADLINE         when training must stop
    KD_JOB_ENDS         when the Slurm job ends: a measured margin counts back from there
    KD_LONGEST_MARGIN   the most seconds that a measured margin may be
    KD_SPENT            JSON, {what: seconds that it last took}

Times are seconds since 1970 by this machine's clock.
"""

import functools
import json
import os
import subprocess
import sys
import time

MARGIN_SECONDS = 600  # what a notebook gets to score and draw after its training was stopped
SPARE = 1.5  # what was measured may take half as long again
LAST_SECONDS = 60.0  # what the record and the figures want
CLOCKS_AGREE = 120  # seconds between this machine's clock and the cluster's that nobody is told of
_notes: list[dict] = []  # trainings that were stopped early, since the last `take`


def slurm_end(job: str, began: float | None = None) -> float | None:
    """When Slurm will end this job, by this machine's clock; None without limit, or without Slurm.

    began: when the job's script started, by this machine's clock. Slurm's times are its
    controller's; only their difference is used then, so that a node whose clock is wrong stops
    neither too early nor too late.
    """
    times = _squeue(job)
    if times is None:
        # newer versions set it; squeue may be missing on a node
        end = os.environ.get("SLURM_JOB_END_TIME", "")
        return float(end) if end.isdigit() else None
    start, end = times
    if began is None:
        return end
    if abs(began - start) > CLOCKS_AGREE:
        print(
            f"this machine's clock is {began - start:+.0f} s off the cluster's; "
            "the job's end is counted from its start",
            file=sys.stderr,
        )
    # Both times are the controller's, so what is wrong with its clock cancels.
    return began + (end - start)


def _squeue(job: str) -> tuple[float, float] | None:
    """(start, end) of a job by the controller's clock; None where squeue does not say both."""
    try:
        answer = subprocess.run(
            ["squeue", "-h", "-j", job, "-o", "%S %e"],
            capture_output=True,
            text=True,
            timeout=30,
            env=os.environ | {"SLURM_TIME_FORMAT": "%s"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = answer.stdout.split()[:2]  # a time that is not known is a word such as N/A
    if len(words) < 2 or not all(word.isdigit() for word in words):
        return None
    return float(words[0]), float(words[1])


def at() -> float | None:
    """When training must stop; None: whenever it is done. The environment is read anew each time.

    ValueError for a `KD_DEADLINE` or `KD_MAX_MINUTES` that is no number above 0.
    """
    deadline = _positive("KD_DEADLINE")
    if deadline is None:
        return _earliest(job_end())
    end = _positive("KD_JOB_ENDS")
    if end is None:
        return deadline
    # Earlier than planned where this run has shown that it needs longer afterwards, but never so
    # early that nothing is trained.
    return min(deadline, end - min(margin_measured(), _positive("KD_LONGEST_MARGIN")))


def job_end() -> float | None:
    """When the Slurm job that we run in ends, by this machine's clock; None outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    return slurm_end(job, _positive("KD_JOB_BEGAN")) if job else None


def _earliest(end: float | None) -> float | None:
    """The earlier of `KD_MAX_MINUTES` from now, and of a margin before the job's end."""
    ends = [] if end is None else [end - margin()]
    minutes = _positive("KD_MAX_MINUTES")
    if minutes is not None:
        ends.append(time.time() + 60 * minutes)
    return min(ends, default=None)


def margin() -> float:
    """Seconds between the end of training and the end of the job, before anything was measured."""
    return _positive("KD_MARGIN") or MARGIN_SECONDS


def margin_measured() -> float:
    """Seconds that this run will need after its training, judged by what it did before; 0.0 where
    it has measured nothing.
    """
    seconds = spent().values()
    return SPARE * sum(seconds) + LAST_SECONDS if seconds else 0.0


def spent() -> dict[str, float]:
    """{what: seconds that it last took}, of what comes again after training."""
    return json.loads(os.environ.get("KD_SPENT") or "{}")


def spend(**seconds: float) -> None:
    """Note what something took: spend(translate=340.0)."""
    # The environment, because processes that this one starts inherit it.
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


def _positive(name: str) -> float | None:
    """An environment variable as a number above 0; None where it is not set. ValueError else."""
    text = os.environ.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        # Then refused below, with the same words.
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number above 0, not {text!r}")
    return value


def fix() -> None:
    """Fix the deadline now, for this process and those that it starts: minutes count from here, and
    squeue is asked once.

    The end of a Slurm job is kept beside it (`KD_JOB_ENDS`): a margin that a run measures counts
    from there, and is at most half of the time that is left now, so that every job trains for a
    while.
    """
    # Set by the job's script, or by the process that started this one: minutes must not begin anew.
    if "KD_DEADLINE" in os.environ:
        return
    end = job_end()
    deadline = _earliest(end)
    if deadline is not None:
        os.environ["KD_DEADLINE"] = f"{deadline:.0f}"
    if end is not None:
        longest = max(margin(), (end - time.time()) / 2)
        os.environ["KD_JOB_ENDS"] = f"{end:.0f}"
        os.environ["KD_LONGEST_MARGIN"] = f"{longest:.0f}"


def passed() -> bool:
    """Must training stop now?"""
    deadline = at()
    return deadline is not None and time.time() >= deadline


# -- what was left unfinished -------------------------------------------------------------------


def note(step: int, steps: int, epoch: float, epochs: float) -> None:
    """A training was stopped after `step` of `steps`."""
    share = round(step / max(1, steps), 4)
    done = {"epochs": round(epoch, 3), "of_epochs": round(float(epochs), 3)}
    put({"step": step, "steps": steps, "share": share, **done})


def put(one: dict) -> None:
    """A note, perhaps one that another process took."""
    _notes.append(one)


def take() -> list[dict]:
    """The notes since the last call."""
    taken = _notes.copy()
    _notes.clear()
    return taken


def told(partial: dict[str, list[dict]]) -> str:
    """One line: {stage: notes} as "student: 30 % of its training (0.9 of 3 epochs)"."""
    parts = []
    for stage, notes in partial.items():
        for one in notes:
            whole = "the data"
            if one["of_epochs"] != 1:
                whole = f"its training ({one['epochs']:g} of {one['of_epochs']:g} epochs)"
            parts.append(f"{stage}: {100 * one['share']:.0f} % of {whole}")
    return "; ".join(parts)
