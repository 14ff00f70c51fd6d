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


def draw_label(rng, label_dist):
    """The answer of one reader."""
    return rng.choices(range(len(label_dist)), label_dist)[0]


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

    shares: {phenomenon: share of the rows}; table: the rows so far. The last phenomenon gets what
    rounding has left.
    """
    sizes = {split: SPLITS[corpus][split] for split in splits}
    if phenomenon == list(shares)[-1]:
        return {split: size - len(table[split]) for split, size in sizes.items()}
    total = sum(shares.values())
    return {split: round(size * shares[phenomenon] / total) for split, size in sizes.items()}


def fill(table, missing, attempt, what, tries):
    """Draws rows into `table` ({split: rows}) until nothing is missing.

    missing: {split: number of rows}, counted down here. attempt: () → (split, row), or None for a
    draw that cannot be used. Raises ValueError if the grammar is too small for its quota, which
    shows as too many useless draws.
    """
    for _ in range(tries):
        if not any(missing.values()):
            return
        drawn = attempt()
        if drawn:
            split, row = drawn
            missing[split] -= 1
            table[split].append(row)
    if any(missing.values()):
        raise ValueError(f"{what}: {missing} missing")


def shuffle(table, seed):
    """Mixes the phenomena within each split, in place."""
    for split, rows in table.items():
        random.Random(f"{seed} {split}").shuffle(rows)


def labelled_rows(corpus, seed, shares, draw_pair, same_pair, judged):
    """{split: rows} of a corpus of labelled pairs (MiniNLI, MiniQQP).

    draw_pair: (rng, phenomenon) → key, first text, second text, label_dist. same_pair: what makes
    two rows the same pair, of a tuple of two texts. judged: pairs on which somebody will be judged,
    so that no training row may be one of them.
    """
    first, second = COLUMNS[corpus]
    table = {split: [] for split in SPLITS[corpus]}
    seen = set()
    for phenomenon in shares:
        rng = random.Random(f"{seed} {corpus} {phenomenon}")
        missing = quota(corpus, table, shares, phenomenon, table)

        def attempt():
            key, text, other, label_dist = draw_pair(rng, phenomenon)
            split = split_name(corpus, key)
            pair = same_pair((text, other))
            leaked = split == "train" and pair in judged
            if not missing[split] or pair in seen or leaked:
                return None
            seen.add(pair)
            return split, {
                first: text,
                second: other,
                "label": draw_label(rng, label_dist),
                "label_dist": label_dist,
                "phenomenon": phenomenon,
            }

        what = f"{corpus}: the grammar has too few different pairs about {phenomenon}"
        fill(table, missing, attempt, what, tries=20_000)
    shuffle(table, seed)
    for rows in table.values():
        for idx, row in enumerate(rows):
            row["idx"] = idx
    return table


def pairs(corpus, table, same_pair):
    """The set of all pairs in the validation and test rows of {split: rows}."""
    first, second = COLUMNS[corpus]
    evaluation = list(table)[1:]
    return {same_pair((row[first], row[second])) for split in evaluation for row in table[split]}
