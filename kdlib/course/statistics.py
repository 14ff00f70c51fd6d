"""Would another seed, or other rows, agree? Differences with their intervals. No torch here.

statistics.paired(runs, "kd", "ce", "accuracy")             # would other seeds agree?
statistics.bootstrap(right_kd, right_ce)                    # would other rows agree?
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

NUMBERS_AT_A_TIME = 2_000_000  # of a bootstrap's draws: some 16 MB


class Difference(NamedTuple):
    """A mean difference, its interval, the number of pairs (runs or rows), and what may be said."""

    mean: float
    low: float
    high: float
    n: int
    verdict: str

    def told(self, spec: str, unit: str = "", scale: float = 1) -> str:
        """Mean and interval as text: told("+.1f", "points") is "+0.8 points [+0.2, +1.4]".

        spec: how the mean is written; the bounds have its digits, and not its width.
        """
        mean, low, high = (scale * value for value in (self.mean, self.low, self.high))
        digits = "+" + spec[spec.index(".") :]
        unit = f"{unit} " if unit else ""
        return f"{mean:{spec}} {unit}[{low:{digits}}, {high:{digits}}]"


def difference(mean: float, low: float, high: float, n: int) -> Difference:
    """A difference whose 95 % interval is known already, with its verdict."""
    excludes_zero = low > 0 or high < 0
    verdict = "excludes 0" if excludes_zero else "includes 0: not shown"
    return Difference(float(mean), float(low), float(high), n, verdict)


# -- over seeds ----------------------------------------------------------------------------------


def paired(
    runs: pd.DataFrame, a: str, b: str, metric: str, by: str = "method"
) -> Difference | None:
    """`metric` of runs with by=a minus that of runs with by=b, seed by seed.

    None without a seed that both have. The interval is over seeds (data order, dropout), not over
    rows: it says whether another seed would agree.
    """
    ours, theirs = (runs[runs[by] == name].groupby("seed")[metric].mean() for name in (a, b))
    gaps = (ours - theirs).dropna()
    return interval(gaps) if len(gaps) else None


def gaps(runs: pd.DataFrame, a: str, others, metrics, by: str = "method"):
    """(other, metric, Difference) of `a` minus each of the others, where seeds of both are known."""
    for other in others:
        for metric in metrics:
            found = paired(runs, a, other, metric, by) if metric in runs and other != a else None
            if found is not None:
                yield other, metric, found


def interval(values, level: float = 0.95) -> Difference:
    """The mean of a few numbers, one a seed, with its 95 % interval (Student's t).

    With one number nothing is shown.
    """
    from scipy.stats import t

    mean, error, count = _mean_and_error(values)
    if count == 1:
        return Difference(mean, -np.inf, np.inf, 1, "one seed: nothing is shown")
    half = t.ppf((1 + level) / 2, count - 1) * error
    return difference(mean, mean - half, mean + half, count)


def p_value(values, limit: float = 0.0) -> float:
    """Two-sided, of Student's t: would the mean lie so far from `limit` if its truth were there?

    1 where there is only one number.
    """
    from scipy.stats import t

    mean, error, count = _mean_and_error(values)
    if count == 1:
        return 1.0
    if error == 0:
        return float(mean == limit)
    return float(2 * t.sf(abs(mean - limit) / error, count - 1))


def p_of_interval(found: Difference, limit: float = 0.0) -> float:
    """Two-sided, of a 95 % interval whose numbers are not at hand, as if it were a bell curve's."""
    from scipy.stats import norm

    error = (found.high - found.low) / (2 * norm.ppf(0.975))
    if error == 0:
        return float(found.mean == limit)
    return float(2 * norm.sf(abs(found.mean - limit) / error))


def detectable(values, power: float = 0.8, level: float = 0.95) -> float:
    """The smallest true difference that as many seeds, as scattered as these, would mostly show.

    "Mostly": in 80 of 100 repetitions the interval would exclude 0. Cohen, Statistical Power
    Analysis, 1988, with Student's t for the few seeds: (t_level + t_power) · sd / √n. Infinite for
    one seed.
    """
    from scipy.stats import t

    _, error, count = _mean_and_error(values)
    if count == 1:
        return np.inf
    return float((t.ppf((1 + level) / 2, count - 1) + t.ppf(power, count - 1)) * error)


def holm(p_values, level: float = 0.95) -> list[bool]:
    """Which of several questions still stand when all of them were looked at.

    Holm, Scandinavian Journal of Statistics 1979: the smallest p is compared with 0.05 / n, the
    next with 0.05 / (n - 1), and so on up to the first that fails.
    """
    order = np.argsort(p_values, kind="stable")
    stands = [False] * len(order)
    for rank, place in enumerate(order):
        if p_values[place] > (1 - level) / (len(order) - rank):
            break
        stands[place] = True
    return stands


def jointly(differences: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Several questions looked at together (Holm): a row a column of `differences`.

    differences: a row a seed, a column a question. An interval from `low` to `high` excludes 0
    exactly where the question still stands after the correction. `detectable`: the smallest
    effect that these runs would mostly have shown, with the same correction.
    """
    p_values = [p_value(differences[name]) for name in differences]
    stands = holm(p_values, level)
    rows, standing = {}, 0
    for place in np.argsort(p_values, kind="stable"):
        values = differences.iloc[:, place]
        corrected = 1 - (1 - level) / (len(p_values) - standing)
        found = interval(values, corrected)
        rows[differences.columns[place]] = {
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "shown": stands[place],
            "detectable": detectable(values, level=corrected),
        }
        standing += stands[place]
    return pd.DataFrame.from_dict(rows, orient="index").reindex(differences.columns)


def _mean_and_error(values) -> tuple[float, float, int]:
    """The mean, its standard error (0 for a single number), and how many numbers there are."""
    values = np.asarray(values, dtype=float)
    count = len(values)
    if not count or not np.isfinite(values).all():
        raise ValueError(f"an interval needs numbers, at least one, not {values}")
    error = values.std(ddof=1) / np.sqrt(count) if count > 1 else 0.0
    return float(values.mean()), float(error), count


# -- over rows -----------------------------------------------------------------------------------


def bootstrap(a, b, *, draws: int = 10_000, seed: int = 0, level: float = 0.95) -> Difference:
    """Mean of `a` minus mean of `b` over validation rows: would other *rows* agree?

    a, b: scores of two students on the same rows, (rows,) or (seeds, rows), such as 1 for a right
    answer, or log p of the label. The interval is a paired percentile bootstrap. Rows are drawn
    with replacement; several seeds are drawn, too, crossed: a draw reads each of its rows under all
    of its seeds. Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Koehn,
    EMNLP 2004, for paired rows in NLP; Owen, Annals of Applied Statistics 2007, for two crossed
    factors.

    No bootstrap makes two or three seeds more. Where seeds differ much, its interval is too short
    (3 simulated seeds with an sd of 4 standard errors of a seed's mean over rows: 20 of 100 empty
    differences "exclude 0"; 10 seeds: 7). There `paired` is the judge. Where seeds hardly differ,
    `bootstrap` errs to the safe side.
    Raises ValueError for different shapes, no rows, and scores that are not finite.
    """
    a, b = _scores(a, b)
    # Rows with equal gaps are drawn as one group. The distribution is the same, and for right and
    # wrong answers the work is a thousandfold less.
    values, counts = np.unique(a - b, axis=1, return_counts=True)

    def gap(seed_counts, row_counts):
        return ((seed_counts @ values) * row_counts).sum(1) / a.size

    return _bootstrap(gap, counts, len(a), draws, seed, level)


def bootstrap_metric(
    metric,
    guesses_a,
    guesses_b,
    labels,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """`bootstrap` for a metric that is no mean over rows.

    It is computed anew from the confusion counts of every draw.
    metric: "macro_f1", "binary_f1" (class 1), "accuracy", or a function from confusion counts
        (draws, labels, guesses) to (draws,).
    guesses: classes, (rows,) or (seeds, rows). labels: (rows,). With several seeds the metric is
        averaged over them.
    """
    if isinstance(metric, str) and metric not in METRICS:
        raise ValueError(
            f"metric must be one of {', '.join(METRICS)}, or a function, not {metric!r}"
        )
    metric = METRICS.get(metric, metric)
    a, b = _scores(guesses_a, guesses_b)
    labels = np.asarray(labels)
    if labels.shape != a.shape[1:]:
        raise ValueError(f"labels of shape {labels.shape} for guesses of {a.shape[1]} rows")
    table = np.concatenate([labels[None], a, b])
    if (table < 0).any() or (table != table.astype(int)).any():
        raise ValueError("labels and guesses must be classes: whole numbers from 0 on")

    # rows with the same label and the same guesses are drawn as one group
    groups, counts = np.unique(table.astype(int), axis=1, return_counts=True)
    classes = max(2, int(groups.max()) + 1)
    cell_of_group = groups[0] * classes + groups[1:]  # (2 · seeds, groups)
    cells = np.eye(classes**2)[cell_of_group]  # (2 · seeds, groups, classes²)

    def gap(seed_counts, row_counts):
        scores = [metric((row_counts @ one).reshape(-1, classes, classes)) for one in cells]
        scores = np.stack(scores, axis=1)  # (draws, 2 · seeds)
        gaps = scores[:, : len(a)] - scores[:, len(a) :]
        return (gaps * seed_counts).sum(1) / len(a)

    return _bootstrap(gap, counts, len(a), draws, seed, level)


def _scores(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Both as (seeds, rows). ValueError for what cannot be compared row by row."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise ValueError(
            f"a and b must be of one shape, (rows,) or (seeds, rows), not {a.shape} and {b.shape}"
        )
    if not a.size:
        raise ValueError("there are no rows to compare")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a score is not finite (NaN or infinite)")
    return np.atleast_2d(a), np.atleast_2d(b)


def _bootstrap(
    gap, counts: np.ndarray, seeds: int, draws: int, seed: int, level: float
) -> Difference:
    """The interval of a difference over draws of seeds and rows.

    gap: a function of how often each seed (draws, seeds) and each group of rows (draws, groups)
    was drawn, to (draws,) differences. counts: (groups,), the rows of each.
    """
    if draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"draws must be 1 or more and level between 0 and 1, not {draws} and {level}"
        )
    rows = int(counts.sum())
    mean = gap(np.ones((1, seeds)), counts[None])[0]
    if rows == 1:
        return Difference(float(mean), -np.inf, np.inf, 1, "one row: nothing is shown")

    random = np.random.default_rng(seed)
    each_seed = np.full(seeds, 1 / seeds)
    at_a_time = max(1, NUMBERS_AT_A_TIME // len(counts))
    differences = []
    for done in range(0, draws, at_a_time):
        count = min(at_a_time, draws - done)
        seed_counts = random.multinomial(seeds, each_seed, count)
        row_counts = random.multinomial(rows, counts / rows, count)
        differences.append(gap(seed_counts, row_counts))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(differences), [tail, 1 - tail])
    return difference(mean, low, high, rows)


# -- metrics of confusion counts (draws, labels, guesses) → (draws,) -------------------------------


def _f1(confusion: np.ndarray) -> np.ndarray:
    """F1 of each class, (draws, classes): 0 where a class is neither label nor guess."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return 2 * hits / np.maximum(_occurrences(confusion), 1)


def _occurrences(confusion: np.ndarray) -> np.ndarray:
    """How often each class was label or guess, (draws, classes); both at once count twice."""
    return confusion.sum(1) + confusion.sum(2)


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    """The mean over the classes that occur, as scikit-learn does it."""
    occurring = (_occurrences(confusion) > 0).sum(1)
    return _f1(confusion).sum(1) / occurring


def _binary_f1(confusion: np.ndarray) -> np.ndarray:
    return _f1(confusion)[:, 1]


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))


METRICS = {"macro_f1": _macro_f1, "binary_f1": _binary_f1, "accuracy": _accuracy}
