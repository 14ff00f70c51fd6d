"""What the three grammars share: their word lists, and how the rows that they draw fill the splits.

Each corpus has a grammar of its own (`mini_nli`, `mini_qqp`, `miniparl`) that can draw one row at
random and say how the truth about it is distributed. This file turns such draws into the files'
rows: every phenomenon gets its share of every split, nothing comes twice, and a combination of
words belongs to one split only.
"""

import hashlib
import random
from functools import cache
from importlib.resources import files

SEED = 2025  # of the stored files
LABELS = {
    "mini_nli": ["entailment", "neutral", "contradiction"],
    "mini_qqp": ["not_duplicate", "duplicate"],
}
COLUMNS = {
    "mini_nli": ("premise", "hypothesis"),
    "mini_qqp": ("question1", "question2"),
}
SPLITS = {
    "mini_nli": {"train": 8000, "validation_matched": 1000, "test_matched": 1000},
    "mini_qqp": {"train": 8000, "validation": 1000, "test": 1000},
    "miniparl": {"train": 20_000, "validation": 1000, "test": 1000},
}


@cache
def words(corpus):
    """The word lists of a corpus (`words/*.yaml`, package data), as plain dicts and lists."""
    import yaml

    file = files(__package__) / "words" / f"{corpus}.yaml"
    return yaml.safe_load(file.read_text("utf-8"))


def split_of(key):
    """0–7 train, 8 validation, 9 test: the split of a combination of words, by its hash.

    So a combination belongs to one split only, in whatever order and with whatever seed it is
    drawn. Two combinations can still say the same ("All dogs are running." belongs to four): the
    rows are compared as well.
    """
    return hashlib.sha256(repr(key).encode()).digest()[0] % 10


def split_name(corpus, key):
    """The name of that split in the files of a corpus."""
    return list(SPLITS[corpus])[max(0, split_of(key) - 7)]


def quota(corpus, table, shares, phenomenon, splits):
    """{split: how many rows about a phenomenon it shall hold}.

    The last phenomenon gets what rounding has left.
    """
    last = phenomenon == list(shares)[-1]
    total = sum(shares.values())
    found = {}
    for split in splits:
        size = SPLITS[corpus][split]
        found[split] = (
            size - len(table[split]) if last else round(size * shares[phenomenon] / total)
        )
    return found


def fill(corpus, table, splits, shares, attempt, *, seed, what, tries):
    """Draws rows into these splits of `table` ({split: rows}) until they have their size.

    shares: {phenomenon: share of the rows}. attempt: (random generator, phenomenon, {split: number
    of missing rows}) → (split, row), or None for a draw that cannot be used. seed: text that each
    phenomenon's generator starts from, with {} for the phenomenon: another phenomenon changes no
    row of the others. Raises ValueError if the grammar is too small for its quota, which shows as
    `tries` draws without an end.
    """
    for phenomenon in shares:
        rng = random.Random(seed.format(phenomenon))
        missing = quota(corpus, table, shares, phenomenon, splits)
        for _ in range(tries):
            if not any(missing.values()):
                break
            drawn = attempt(rng, phenomenon, missing)
            if drawn:
                split, row = drawn
                missing[split] -= 1
                table[split].append(row)
        if any(missing.values()):
            raise ValueError(
                f"{corpus}: the grammar has too few different {what} {phenomenon}: "
                f"{missing} missing"
            )


def shuffle(table, seed):
    """Mixes the phenomena within each split, in place."""
    for split, rows in table.items():
        random.Random(f"{seed} {split}").shuffle(rows)
