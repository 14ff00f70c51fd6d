"""Checkpoints by the clock, each whole or not there, and a training that stops before its job is
ended: see `deadline`.
"""

import json
import shutil
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from . import deadline


class Clock(TrainerCallback):
    """Saves every `minutes` (0: never). When the deadline has come: saves, notes how far it came,
    and stops.

    `limit`: minutes of this training, beside the deadline (0: none). Several processes do the same
    at the same step: the first one's clock decides.
    """

    def __init__(self, limit: float = 0.0):
        self.minutes = 0.0
        self.limit = limit
        self.stopped = False

    def on_train_begin(self, args, state, control, **kw):
        now = time.time()
        job_ends = deadline.at()
        ends = [] if job_ends is None else [job_ends]
        if self.limit:
            ends.append(now + 60 * self.limit)
        # from here on a clock that nobody sets: the time of day may jump
        self.left = min(ends) - now if ends else None
        self.began = time.monotonic()
        self.saved = self.began
        self.stopped = False

    def on_step_end(self, args, state, control, **kw):
        if state.global_step >= state.max_steps:
            return  # the training ends by itself, and saves
        if self.left is None and not self.minutes:
            return
        now = time.monotonic()
        late = self.left is not None and now - self.began >= self.left
        due = self.minutes > 0 and (late or now - self.saved >= 60 * self.minutes)
        if args.world_size > 1:
            # saving waits for all processes: one that saves alone would wait for ever
            late, due = _first(args, late, due)
        if due:
            control.should_save = True
        if late:
            self.stopped = True
            control.should_training_stop = True
            epoch = state.epoch or 0.0
            deadline.note(state.global_step, state.max_steps, epoch, state.num_train_epochs)

    def on_save(self, args, state, control, **kw):
        self.saved = time.monotonic()


def _first(args, *flags: bool) -> list[bool]:
    """The first process' flags, in every process."""
    shared = torch.tensor(flags, dtype=torch.uint8, device=args.device)
    # overwrites what the other processes hold
    torch.distributed.broadcast(shared, 0)
    return shared.bool().tolist()


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def publish(staged: Path, keep: int | None) -> None:
    """Rename a checkpoint that is written out into the folder above, then delete all but the newest
    `keep` (None: none).
    """
    folder = staged.parent.parent
    # one of the same name is of a run that went on from an earlier checkpoint
    shutil.rmtree(folder / staged.name, ignore_errors=True)
    staged.rename(folder / staged.name)
    shutil.rmtree(staged.parent, ignore_errors=True)
    # by number: as text, checkpoint-1000 comes before checkpoint-200
    checkpoints = sorted(folder.glob("checkpoint-[0-9]*"), key=_step)
    for old in checkpoints[:-keep] if keep else []:
        shutil.rmtree(old, ignore_errors=True)


# -- the sums of a loss' parts that no log line has shown yet: a run that goes on logs them --------


def write_parts(parts: dict, folder: Path, process: int) -> None:
    """parts: {"ce" or "kd": {step: sum as a tensor}}, of one process."""
    sums = {}
    for name, steps in parts.items():
        sums[name] = {step: value.item() for step, value in steps.items()}
    (folder / f"parts_{process}.json").write_text(json.dumps(sums))


def read_parts(folder: str, process: int, device) -> dict:
    """What `write_parts` wrote, on a device; nothing from a checkpoint of an older kdlib."""
    try:
        sums = json.loads((Path(folder) / f"parts_{process}.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {"ce": {}, "kd": {}}
    parts = {}
    for name, steps in sums.items():
        # JSON made text of the steps
        parts[name] = {
            int(step): torch.tensor(value, device=device) for step, value in steps.items()
        }
    return parts
