"""Checkpoints by the clock, each whole or not there, and a training that stops before its job ends.

When it must stop, `deadline` knows.
"""

import json
import shutil
import time
import zipfile
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from . import deadline


class Clock(TrainerCallback):
    """Saves every `minutes` (0: never). At the deadline it saves, notes how far it came, and stops.

    limit: minutes of this training, beside the deadline (0: none). Several processes do the same
    at the same step: the first one's clock decides.
    """

    def __init__(self, limit: float = 0.0):
        self.minutes = 0.0
        self.limit = limit
        self.stopped = False

    def on_train_begin(self, args, state, control, **kw):
        now = time.time()
        ends = [deadline.at(), now + 60 * self.limit if self.limit else None]
        ends = [end for end in ends if end is not None]
        # seconds that are left: from here on counted by a clock that nobody sets
        self.left = min(ends) - now if ends else None
        self.began = self.saved = time.monotonic()
        self.stopped = False

    def on_step_end(self, args, state, control, **kw):
        is_done = state.global_step >= state.max_steps
        if is_done or (self.left is None and not self.minutes):
            return
        now = time.monotonic()
        is_late = self.left is not None and now - self.began >= self.left
        # A late one is due as well: what was learnt since the last save would be lost.
        is_due = self.minutes > 0 and (is_late or now - self.saved >= 60 * self.minutes)
        # Clocks differ by milliseconds. A process that saves while the others train on waits for
        # them for ever.
        if args.world_size > 1:
            is_late, is_due = _of_first_process(args, is_late, is_due)
        if is_due:
            control.should_save = True
        if is_late:
            control.should_training_stop = self.stopped = True
            epoch = state.epoch or 0.0
            deadline.note(state.global_step, state.max_steps, epoch, state.num_train_epochs)

    def on_evaluate(self, args, state, control, metrics=None, **kw):
        """The next evaluation will take as long: the deadline leaves time for it."""
        seconds = [v for name, v in (metrics or {}).items() if name.endswith("_runtime")]
        if seconds:
            deadline.spend(evaluate=seconds[0])

    def on_save(self, args, state, control, **kw):
        self.saved = time.monotonic()


def _of_first_process(args, *flags: bool) -> list[bool]:
    """The first process's flags, in every process."""
    shared = torch.tensor(flags, dtype=torch.uint8, device=args.device)
    torch.distributed.broadcast(shared, 0)
    return shared.bool().tolist()


def publish(staged: Path, keep: int | None) -> None:
    """Rename a checkpoint that is written out into the folder above its staging folder.

    Then delete all but the newest `keep` (None: delete none).
    """
    folder = staged.parent.parent
    # a checkpoint of the same step may lie there, of a run that went on from an earlier one
    shutil.rmtree(folder / staged.name, ignore_errors=True)
    staged.rename(folder / staged.name)
    shutil.rmtree(staged.parent, ignore_errors=True)
    if keep:
        saved = sorted(folder.glob("checkpoint-[0-9]*"), key=_step_of)
        for old in saved[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def _step_of(checkpoint: Path) -> int:
    # As a number: by the alphabet, checkpoint-1000 would come before checkpoint-200.
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint that is whole.

    One that was cut off (killed while saving, disk full) is renamed to broken-*.
    """
    folder = Path(folder)
    while folder.is_dir() and (newest := get_last_checkpoint(str(folder))):
        newest = Path(newest)
        if _is_whole(newest):
            return str(newest)
        broken = newest.with_name(newest.name.replace("checkpoint-", "broken-"))
        shutil.rmtree(broken, ignore_errors=True)
        # Set aside, not deleted: the loop looks for the one before, and a person may look at this
        # one.
        newest.rename(broken)
        print(f"{newest.name} was cut off while it was written; going back to the one before")
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Is every file that resuming needs there and whole?"""
    from safetensors import safe_open

    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        weights = list(checkpoint.glob("*.safetensors"))
        random_states = list(checkpoint.glob("rng_state*.pth"))
        for file in weights:
            safe_open(file, "pt").__enter__()  # refuses a file shorter than its header says
        for file in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *random_states):
            # torch's files are zip archives, which carry checksums
            if zipfile.ZipFile(file).testzip() is not None:
                return False
        return bool(weights and random_states)
    except Exception:  # any failure to read means the same thing: do not resume from it
        return False


# -- sums of a loss's parts that no log line has shown yet ---------------------------------------
# A run that goes on from a checkpoint logs what it would have logged without the interruption.


def write_parts(parts: dict, folder: Path, process: int) -> None:
    """parts: {name: {step: scalar tensor}}, of this process, beside a checkpoint."""
    sums = {
        name: {step: value.item() for step, value in steps.items()} for name, steps in parts.items()
    }
    (folder / f"parts_{process}.json").write_text(json.dumps(sums))


def read_parts(folder: str, process: int, device) -> dict:
    """What `write_parts` wrote; nothing, for a checkpoint of an older kdlib."""
    try:
        sums = json.loads((Path(folder) / f"parts_{process}.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return {
        name: {int(step): torch.tensor(value, device=device) for step, value in steps.items()}
        for name, steps in sums.items()
    }
