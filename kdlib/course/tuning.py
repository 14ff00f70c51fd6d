"""Equal tuning: every method gets the same grid, and validation rows choose its point of it.

    runs = results.reference("04_distilbert_mnli", "laptop_tuned")
    tuning.grid(runs)            # what each point reached on validation rows
    best = tuning.best(runs)     # the runs at each method's chosen point: report their test rows

A comparison in which one method was tuned and the other was not says who was tuned. No torch here.
"""

import numpy as np
import pandas as pd

from ..methods import LABELS
from . import results

AXES = ("learning_rate", "epochs")
CHOOSES = "validation_accuracy"


def grid(runs: pd.DataFrame, axes=AXES, chooses: str = CHOOSES) -> pd.DataFrame:
    """One row a method and point, with `score`: the mean of `chooses` over the tuning seeds.

    A method's tuning seeds are those that ran most of its points. Other seeds ran the chosen point
    alone, and to count them would favour it.
    """
    by = ["method", *axes]
    once = runs.drop_duplicates([*by, "seed"])
    points_of_seed = once.groupby(["method", "seed"])["seed"].transform("size")
    most = points_of_seed.groupby(once["method"]).transform("max")
    tuned = once[points_of_seed == most]
    return tuned.groupby(by, sort=False)[chooses].mean().rename("score").reset_index()


def choices(runs: pd.DataFrame, axes=AXES, chooses: str = CHOOSES) -> pd.DataFrame:
    """One row a method: the point that validation rows chose, and `at edge`, the axes on which it
    is the grid's smallest or largest value, so that the best may lie beyond.

    Of equal scores the cheaper point wins: fewer epochs, then the smaller rate.
    """
    points = grid(runs, axes, chooses)
    order = [name for name in ("epochs", "learning_rate") if name in axes]
    best = points.sort_values(["score", *order], ascending=[False, *[True] * len(order)])
    best = best.drop_duplicates("method").copy()
    ends = {name: (points[name].min(), points[name].max()) for name in axes}
    best["at edge"] = [
        ", ".join(name for name in axes if row[name] in ends[name]) or "no"
        for row in best.to_dict("records")
    ]
    known = [name for name in LABELS if name in set(best["method"])]
    return best.set_index("method").loc[known].reset_index()


def best(runs: pd.DataFrame, axes=AXES, chooses: str = CHOOSES) -> pd.DataFrame:
    """All runs at their method's chosen point, of every seed that ran it."""
    chosen = choices(runs, axes, chooses)[["method", *axes]]
    return runs.merge(chosen, on=["method", *axes])


def told(runs: pd.DataFrame, axes=AXES, chooses: str = CHOOSES) -> pd.DataFrame:
    """`choices` as a table to print, with each method's worst point: what tuning was worth."""
    points = grid(runs, axes, chooses)
    table = choices(runs, axes, chooses)
    worst = points.groupby("method")["score"].min().reindex(table["method"]).to_numpy()
    table["points tried"] = points.groupby("method").size().reindex(table["method"]).to_numpy()
    table.insert(1, "best", [f"{score:.1%}" for score in table.pop("score")])
    table.insert(2, "worst", [f"{score:.1%}" for score in worst])
    return table.assign(method=[LABELS[name] for name in table["method"]])


def right_answers(records: list[dict], labels) -> dict[str, dict[int, np.ndarray]]:
    """{method: {seed: (rows,), 1 where the student at its method's chosen point was right}}.

    records: those that keep their `guesses`. labels: (rows,), of the test rows.
    """
    right = {}
    for choice in choices(results.frame(records)).to_dict("records"):
        point = {name: choice[name] for name in ("method", *AXES)}
        right[choice["method"]] = {
            record["seed"]: results.guesses(record) == np.asarray(labels)
            for record in results.where(records, **point)
        }
    return right
