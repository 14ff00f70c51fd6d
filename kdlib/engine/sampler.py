"""The order in which rows are read: by a trainer, and by a model that is only asked."""

import numpy as np
from torch.utils.data import Sampler


class LengthGroupedSampler(Sampler):
    """Rows in random order, but neighbours of like length.

    A batch is then padded to little more than its rows need. The order depends on (seed, epoch)
    alone. Trainer's own `group_by_length` draws from the global random state instead, and a run
    that is resumed in the middle of an epoch then sees other batches than the run that was never
    interrupted.

    lengths: of each row, in tokens. batch_size: rows of one optimiser step. pool: how many batches
    are sorted by length together; more means less padding and less randomness.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0, pool: int = 50):
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.pool = pool
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        if not len(self):
            return iter([])
        # A generator of its own: whatever else draws random numbers in between changes nothing
        # here.
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))  # (rows,)
        batches = []
        for pool in _cut(order, self.pool * self.batch_size):
            # Sorted within a pool only: over the whole set, batches of one epoch would be those of
            # the next.
            longest_first = np.argsort(-self.lengths[pool], kind="stable")
            batches += _cut(pool[longest_first], self.batch_size)
        # a batch that is too small goes to the end: anywhere else it would shift all later ones
        is_ragged = len(batches[-1]) < self.batch_size
        ragged = [batches.pop()] if is_ragged else []
        # Batches are shuffled once more, or every pool would begin with its longest rows.
        shuffled = [batches[i] for i in random.permutation(len(batches))]
        return iter(np.concatenate(shuffled + ragged).tolist())


def columns_of(rows) -> list[str]:
    """The columns of a dataset; none where `rows` is a plain list, or None."""
    return getattr(rows, "column_names", None) or []


def no_column(which: str, name: str, columns) -> ValueError:
    """The error for rows that are not encoded, or were encoded for something else."""
    return ValueError(
        f"{which} have no column `{name}`; glue.encode and translation.encode make it out of "
        f"texts. They have {', '.join(columns)}"
    )


def lengths_of(rows) -> list[int]:
    """The tokens of each row of a dataset."""
    return [len(ids) for ids in rows["input_ids"]]


def longest_first(lengths: list[int], batch_size: int) -> list[list[int]]:
    """The places of rows in batches of like length, for a model that is only asked.

    A batch is then padded little, and memory runs out at once or never. Equally long rows stay in
    their order.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [batch.tolist() for batch in _cut(order, batch_size)]


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
