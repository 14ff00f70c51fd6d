"""Notebook 10: findings."""

import numpy as np
import pandas as pd

from ..statistics import interval
from .common import call, compare, number, question, variants

# One difference a seed, and what the claim says must be exceeded.
CASES = {
    "three seeds that agree": ([1.0, 1.2, 0.9], 0.0),
    "three seeds that do not": ([2.0, -0.5, 1.5], 0.0),
    "one seed": ([3.0], 0.0),
    "a loss": ([-1.0, -1.1, -0.9], 0.0),
    "a gain smaller than the claim's": ([1.0, 1.2, 0.9], 5.0),
    "two seeds": ([1.0, 1.4], 0.0),
}


def _whole(found):
    return found.low, found.high


def _mean_alone(found):
    return found.mean, found.mean


def _any_direction(found):
    return max(found.low, -found.high), found.high


def _words(ends=_whole, least=2, threshold=1.0, otherwise="undecided", opposite="refuted"):
    """The words for all cases; `threshold` is a factor of the claim's own."""
    words = []
    for values, above in CASES.values():
        low, high = ends(interval(values))
        word = otherwise
        if low > threshold * above:
            word = "supported"
        elif high < threshold * above:
            word = opposite
        words.append(word if len(values) >= least else "not tested here")
    return words


@question("10.1")
def four_words(function):
    """One of four words about a claim, from one difference a seed and what must be exceeded.

    The words are "supported", "refuted", "undecided" and "not tested here".
    """
    changes = {
        "the mean alone decides: the spread over seeds is ignored": {"ends": _mean_alone},
        "the interval must only exclude 0, in whatever direction": {"ends": _any_direction},
        "an interval that holds the limit is called refuted: these runs cannot tell": {
            "otherwise": "refuted"
        },
        "an interval on the other side is called undecided: there the runs do tell": {
            "opposite": "undecided"
        },
        "two seeds count as none: an interval from two is wide, but it is one": {"least": 3},
        "one seed counts as a test": {"least": 1},
        "the claim's own threshold is forgotten: 0 is not always what must be exceeded": {
            "threshold": 0
        },
    }
    given = [call(function, list(values), above) for values, above in CASES.values()]
    right = _words()
    for (name, case), word, asked in zip(CASES.items(), given, right):
        if word != asked:
            otherwise = f"For {name} {case} expected {asked!r}, got {word!r}."
            return compare(given, right, variants(_words, changes), otherwise)


@question("10.2")
def best_alpha_in_the_book(function):
    """The alpha with the best mean accuracy over seeds, in the book's convention.

    The runs are in ours.
    """
    columns = {
        "alpha": np.repeat([0.25, 0.5, 0.9, 1.0], 3),
        "seed": [0, 1, 2] * 4,
        "accuracy": [0.70, 0.71, 0.72, 0.80, 0.66, 0.66, 0.74, 0.75, 0.73, 0.69, 0.70, 0.68],
    }
    # The means over seeds: 0.71, 0.707, 0.74 and 0.69. So 0.9 is best, and 1 is worst.
    mistakes = {
        "the answer is in our convention: the book's alpha is one minus ours": 0.9,
        "the single best run chose, not the mean over seeds": 0.5,
        "the *worst* alpha was taken": 0.0,
        "the best accuracy is returned, not its alpha": 0.74,
        "one minus the accuracy is returned": 0.26,
    }
    return number(call(function, pd.DataFrame(columns)), 0.1, mistakes, tolerance=1e-6)


@question("10.3")
def inside(function):
    """Whether a run lies inside the spread of reference runs: two sample standard deviations."""
    references = [1.0, 0.85, 1.25]
    runs = (1.0, 1.45, 0.5, 0.66, 0.75, 1.26, 1.24, 0.84)
    given = [bool(call(function, run, list(references))) for run in runs]
    away = runs - np.mean(references)
    sd = np.std(references, ddof=1)

    def within(width=2 * sd, away=np.abs(away)):
        return (away <= width).tolist()

    changes = {
        "the spread of the *mean* (sd divided by the root of n) is taken: "
        "one run scatters more than a mean": {"width": 2 * sd / 3**0.5},
        "the sd divides by n, not by n − 1": {"width": 2 * np.std(references)},
        "one sd is taken, not two": {"width": sd},
        "only runs below the mean are looked at (take the absolute difference)": {"away": away},
    }
    mistakes = variants(within, changes) | {
        "the run must lie between the smallest and the largest reference": [
            min(references) <= run <= max(references) for run in runs
        ],
    }
    right = within()
    for run, word, asked in zip(runs, given, right):
        if word != asked:
            otherwise = f"for a run of {run} and references {references} expected {asked}."
            return compare(given, right, mistakes, otherwise)
