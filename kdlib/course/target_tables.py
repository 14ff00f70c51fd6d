"""Tables of notebooks 01 and 02: labels, teachers and their controls beside a known distribution.

    target_tables.scores(truth, {"teacher": soft, "hard label": hard})
    target_tables.compared(truth, makers, "teacher, softened")
    target_tables.over_temperature(truth, logits, [1, 2, 4])

`truth` is (rows, classes): the true distribution of synthetic rows, or the votes of 100 people.
All KLs and entropies are in nats. No torch here.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from ..votes import LABELS, entropy, kl

# {name of a target: (function from a strength, T or ε, to a target, its grid of strengths)}
Makers = Mapping[str, tuple[Callable[[float], np.ndarray], tuple[float, ...]]]


def opinions(table: pd.DataFrame, rows, answers: Mapping[str, np.ndarray]) -> str:
    """Some rows of `votes.load` as text: the pair, and a line of shares for each of the answers."""
    width = max(len(who) for who in answers)
    lines = []
    for i in rows:
        lines.append(f"{table['premise'][i]} → {table['hypothesis'][i]}")
        for who, answer in answers.items():
            shares = (f"{name} {share:4.0%}" for name, share in zip(LABELS, answer[i]))
            lines.append(f"  {who:{width}}   " + "   ".join(shares))
        lines.append("")
    return "\n".join(lines).rstrip()


def by_label(label: np.ndarray, answers: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The mean answer over the rows of each label: the table of `figures.dark_knowledge`.

    label: (rows,) class numbers; answers: {who: (rows, classes)}.
    """
    rows = []
    for number, name in enumerate(LABELS):
        for who, answer in answers.items():
            shares = answer[label == number].mean(0).round(3)
            rows.append({"label": name, "who": who, **dict(zip(LABELS, shares))})
    return pd.DataFrame(rows)


def score(truth: np.ndarray, target: np.ndarray) -> dict:
    """KL(truth ‖ target), the target's entropy, and how often both have the same first choice."""
    agrees = target.argmax(-1) == truth.argmax(-1)
    return {
        "KL": kl(truth, target).mean().round(3),
        "entropy": entropy(target).mean().round(3),
        "first choice agrees": agrees.mean().round(3),
    }


def scores(truth: np.ndarray, targets: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row a target; see `score`."""
    return pd.DataFrame({name: score(truth, target) for name, target in targets.items()}).T


def curves(truth: np.ndarray, makers: Makers, who: str) -> pd.DataFrame:
    """Each target at each of its strengths: the table of `figures.dark_knowledge_or_smoothing`.

    who: what the truth is called in the picture.
    """
    yardstick = {"truth": entropy(truth).mean().round(3), "who": who}
    rows = []
    for target, (make, strengths) in makers.items():
        for strength in strengths:
            point = {"target": target, "strength": strength, **score(truth, make(strength))}
            rows.append(point | yardstick)
    return pd.DataFrame(rows)


def compared(truth: np.ndarray, makers: Makers, ours: str) -> pd.DataFrame:
    """`ours` beside its rivals, twice: each at its own best strength, and all at equal entropy.

    The entropy is that of `ours` at its best. "saved" is how much lower its KL is than the rival's,
    on the same rows, "±" two standard errors of that mean.
    """
    best = {name: _best(truth, make, grid) for name, (make, grid) in makers.items()}
    wanted = entropy(makers[ours][0](best[ours])).mean()
    equal = {name: strength_at(make, wanted) for name, (make, _) in makers.items()}
    rows = {}
    for how, strengths in (("each at its best", best), ("equal entropy", equal)):
        targets = {name: makers[name][0](strength) for name, strength in strengths.items()}
        for name, target in targets.items():
            gap = kl(truth, target) - kl(truth, targets[ours])
            rows[how, name] = {
                "strength": strengths[name],
                "entropy": entropy(target).mean(),
                "KL": kl(truth, target).mean(),
                "saved": gap.mean() if name != ours else np.nan,
                "±": 2 * gap.std() / len(gap) ** 0.5 if name != ours else np.nan,
            }
    return pd.DataFrame(rows).T


def _best(truth: np.ndarray, make: Callable, strengths) -> float:
    """The strength with the lowest mean KL."""
    return min(strengths, key=lambda strength: kl(truth, make(strength)).mean())


def strength_at(make: Callable[[float], np.ndarray], wanted: float) -> float:
    """The strength at which a target has this mean entropy, by bisection.

    The entropy must rise with the strength. A strength above 1 is tried only where 1 is not enough:
    an ε ends there.
    """
    low, high = 1e-3, 1.0
    while entropy(make(high)).mean() < wanted:
        high *= 2
    for _ in range(60):
        middle = (low * high) ** 0.5
        if entropy(make(middle)).mean() < wanted:
            low = middle
        else:
            high = middle
    return high


def over_temperature(truth: np.ndarray, logits: np.ndarray, temperatures) -> pd.DataFrame:
    """A teacher at each T: its entropy, KL(truth ‖ teacher), and its agreement with the truth.

    The KL is also given apart for the rows where the teacher's first choice is the truth's
    ("teacher right"), and where it is not.
    """
    right = logits.argmax(-1) == truth.argmax(-1)
    rows = []
    for T in temperatures:
        weights = np.exp((logits - logits.max(-1, keepdims=True)) / T)
        teacher = weights / weights.sum(-1, keepdims=True)
        distance = kl(truth, teacher)
        columns = {
            "T": float(T),
            "entropy": entropy(teacher).mean(),
            "all rows": distance.mean(),
            "teacher right": distance[right].mean(),
            "teacher wrong": distance[~right].mean(),
            "first choice agrees": (teacher.argmax(-1) == truth.argmax(-1)).mean(),
        }
        rows.append(columns)
    return pd.DataFrame(rows)
