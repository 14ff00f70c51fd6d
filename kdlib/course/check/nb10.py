"""Notebook 10: findings."""

import numpy as np
import pandas as pd

from ..broken_runs import MISTAKES
from ..statistics import interval
from .common import call, compare, question, variants

ANSWERS = {
    "10.1": """
def four_words(values, above):
    found = results.interval(values)
    if found.n < 2:
        return "not tested here"
    if found.low > above:
        return "supported"
    return "refuted" if found.high < above else "undecided"

Why: the whole interval decides, and the mean never appears. An interval that holds the limit
cannot tell. One seed has no spread, so it is no test.
""",
    "10.2": """
def shown_better(runs, control, metric):
    others = sorted(set(runs["method"]) - {control})
    found = {name: results.paired(runs, name, control, metric) for name in others}
    return [name for name, gap in found.items() if gap is not None and gap.high < 0]

Why: seeds share their rows and their order, so the difference of the same seed says more than the
difference of two means. Less is better here, so the whole interval must lie below 0. An empty list
proves no equality: it says that these runs do not show a difference.
""",
    "10.3": """
def inside(yours, references):
    return abs(yours - np.mean(references)) <= 2 * np.std(references, ddof=1)

Why: sd / √n is the spread of the references' *mean*, and shrinks with their number. Yours is one
run, and it scatters with the whole sd, however many references there are.
""",
    "10.4": """
diagnosis = {
    "A": "wrong class order",
    "B": "learning rate 1/100",
    "C": "labels permuted",
    "D": "teacher in train mode",
    "E": "T² forgotten",
}

Why: A. The validation accuracy falls below a third: the student learns the *wrong* answer well. The
rows show a teacher that contradicts labels which fit their sentences. B. All curves move in the right
direction and hardly get anywhere. C. The hard loss ends above ln 3 ≈ 1.10, which is worse than
guessing, and yet the validation rows are fine: the teacher holds against labels that do not fit
their sentences. D. The same teacher gives the same row two different answers, so it drops out. Its
soft loss stays above the sound one, because nobody can predict noise. E. Before the first step all
students are the same, and this soft loss is 1/16 of the sound one: T² with T = 4. The teacher is
hardly heard, and the distance to it ends larger.
""",
    "10.quiz": """
1. Twice the temperature raises the entropy of soft targets; the order of the classes stays.
2. The gradient of the soft loss shrinks like 1/T². The factor keeps its share when T changes.
3. Nine tenths of the loss are the labels. In this course's convention that is alpha = 0.1.
4. A model that gives the commonest answer to every row, as its macro-F1 tells.
5. CE alone, CE with label smoothing, and KD with wrong-class probabilities shuffled, all with the
   same tuning. The last one keeps the softness and destroys what the teacher knows about classes.
6. Position i predicts token i + 1. Without the shift the student learns to repeat its input.
7. The teacher was never taught it, so it gives it almost no probability, and KD passes that on.
   Take CE alone at that position, or tune the teacher first.
8. Forward KL. A teacher's peak where the student has nothing costs without bound.
9. Undecided: the interval holds 0. It is no proof that there is no effect.
10. No. Whoever chooses by the test rows reports a number that is too good by its choice. Validation
   rows choose, test rows report.
""",
}

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
            found = interval(case[0])
            otherwise = (
                f"For {name} {case} your word is {word!r}. Its interval is [{found.low:.2f}, "
                f"{found.high:.2f}] from {found.n}, and it must lie above {case[1]:g} as a whole."
            )
            return compare(given, right, variants(_words, changes), otherwise)


@question("10.2")
def shown_better(function):
    """The methods whose metric is shown to be smaller than the control's, paired over seeds.

    They are asked in alphabetical order.
    """
    values = {
        "control": (0.50, 0.70, 0.90, 0.60),
        "steady": (0.45, 0.64, 0.86, 0.55),
        "moody": (0.10, 0.75, 0.95, 0.30),
        "worse": (0.55, 0.76, 0.94, 0.65),
        "once": (0.20,),
    }
    rows = [(name, seed, x) for name, nats in values.items() for seed, x in enumerate(nats)]
    runs = pd.DataFrame(rows, columns=["method", "seed", "nats"])
    # The rows come in no order: who pairs by place, and not by seed, pairs the wrong ones.
    runs = runs.sample(frac=1, random_state=0).reset_index(drop=True)
    given = [str(name) for name in list(call(function, runs, "control", "nats"))]
    mistakes = {
        "the smaller mean counts as better, whatever its interval": ["moody", "once", "steady"],
        "the smaller mean counts as better, whatever its interval (but one seed is no test)": [
            "moody",
            "steady",
        ],
        "every interval that excludes 0 counts, also on the wrong side": ["steady", "worse"],
        "more is taken for better": ["worse"],
        "the seeds are not paired: their own spread, which all methods share, "
        "then hides the difference": [],
        "better at every seed that it has counts: with one seed nothing is shown": [
            "once",
            "steady",
        ],
    }
    if "control" in given:
        return "The control is in your list: it is what the others are compared with."
    otherwise = (
        f"{given} is not what the paired intervals say. results.paired gives None for a single "
        "seed, and `high` below 0 where less is shown."
    )
    return compare(sorted(given), ["steady"], mistakes, otherwise)  # a mistake shows in any order


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
            otherwise = (
                f"For a run of {run} and references {references} your answer is {word}. "
                "How far is it from their mean, in sample standard deviations?"
            )
            return compare(given, right, mistakes, otherwise)


# What to look at in each run. A hint names the place, and not the mistake.
CLUES = {
    "A": "its validation accuracy is *below* a third. Who taught it the wrong thing? Read its rows: "
    "do the labels fit the sentences, and does the teacher?",
    "B": "look at the direction of its curves, and at how far they get in six epochs.",
    "C": "its hard loss ends above ln 3 ≈ 1.10, worse than guessing, and its validation accuracy is "
    "fine. Read its rows: what does not fit the sentences?",
    "D": "compare what its teacher says about one row in the first and in the last epoch.",
    "E": "compare its soft loss with the sound run's at epoch 0, where all students are the same.",
}


@question("10.4")
def diagnosis(given):
    """{letter of the run: its mistake}, five of each."""
    if not isinstance(given, dict) or set(given) != set(MISTAKES):
        return f"A dict with the runs {', '.join(MISTAKES)} as keys is asked."
    named = {run: str(mistake).strip() for run, mistake in given.items()}
    unknown = sorted(set(named.values()) - set(MISTAKES.values()))
    if unknown:
        return f"{unknown[0]!r} is none of the five: {', '.join(sorted(MISTAKES.values()))}."
    wrong = [run for run, mistake in named.items() if mistake != MISTAKES[run]]
    if not wrong:
        return None
    twice = len(set(named.values())) < len(named)
    once = " Each mistake stands once." if twice else ""
    return f"{5 - len(wrong)} of 5 are right.{once} Run {wrong[0]}: {CLUES[wrong[0]]}"
