"""Checkpoints by the clock, each whole or not there, and a training that stops before its job is ended: see `deadline`."""
import json
import shutil
import time
from pathlib import Path

import torch
from transformers import TrainerCallback

from . import deadline


class Clock(TrainerCallback):
    """Saves every `minutes` (0: never). When the deadline has come: saves, notes how far it came, and stops.

    `limit`: minutes of this training, beside the deadline (0: none). Several processes do the same at the same step: the first
    one's clock decides.
    """

    def __init__(self, limit: float = 0.0):
        self.minutes, self.limit, self.stopped = 0.0, limit, False

    def on_train_begin(self, args, state, control, **kw):
        ends = [when for when in (deadline.at(), time.time() + 60 * self.limit if self.limit else None) if when is not None]
        self.saved, self.stopped = time.monotonic(), False
        self.left = min(ends) - time.time() if ends else None       # from here on a clock that nobody sets
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, **kw):
        if state.global_step >= state.max_steps or (self.left is None and not self.minutes):
            return
        now = time.monotonic()
        late = self.left is not None and now - self.began >= self.left
        due = self.minutes > 0 and (late or now - self.saved >= 60 * self.minutes)
        if args.world_size > 1:
            late, due = _first(args, late, due)
        if due:
            control.should_save = True
        if late:
            control.should_training_stop = self.stopped = True
            deadline.note(state.global_step, state.max_steps, state.epoch or 0.0, state.num_train_epochs)

    def on_evaluate(self, args, state, control, metrics=None, **kw):
        if took := [value for name, value in (metrics or {}).items() if name.endswith("_runtime")]:
            deadline.spend(evaluate=took[0])

    def on_save(self, args, state, control, **kw):
        self.saved = time.monotonic()


def _first(args, *flags: bool) -> list[bool]:
    """The first process' flags, in every process."""
    told = torch.tensor(flags, dtype=torch.uint8, device=args.device)
    torch.distributed.broadcast(told, 0)
    return told.bool().tolist()


def publish(staged: Path, keep: int | None) -> None:
    """Rename a checkpoint that is written out into the folder above, then delete all but the newest `keep` (None: none)."""
    folder = staged.parent.parent
    shutil.rmtree(folder / staged.name, ignore_errors=True)         # of a run that went on from an earlier one
    staged.rename(folder / staged.name)
    shutil.rmtree(staged.parent, ignore_errors=True)
    found = sorted(folder.glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for old in found[:-keep] if keep else []:
        shutil.rmtree(old, ignore_errors=True)


# -- the sums of a loss' parts that no log line has shown yet: a run that goes on logs what it would have logged ----------

def write_parts(parts: dict, folder: Path, process: int) -> None:
    sums = {name: {step: value.item() for step, value in steps.items()} for name, steps in parts.items()}
    (folder / f"parts_{process}.json").write_text(json.dumps(sums))


def read_parts(folder: str, process: int, device) -> dict:
    try:
        sums = json.loads((Path(folder) / f"parts_{process}.json").read_text())
    except (OSError, json.JSONDecodeError):                         # a checkpoint of an older kdlib
        return {"ce": {}, "kd": {}}
    return {name: {int(step): torch.tensor(value, device=device) for step, value in steps.items()} for name, steps in sums.items()}
