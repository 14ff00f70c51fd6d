"""One method against several others, judged together: the table below a notebook's scores.

    table = comparisons.against(best, "kd", ["ce", "label_smoothing"], "accuracy")
    print(comparisons.told(table, methods.LABELS, scale=100).to_string(index=False))

Runs are compared seed by seed. No torch here.
"""

import numpy as np
import pandas as pd

from . import statistics


def against(
    runs: pd.DataFrame, ours: str, others, metric: str, *, by: str = "method", rows=None
) -> pd.DataFrame:
    """`ours` minus each of the others, with one correction for all of them (`statistics.jointly`).

    rows: {method: {seed: its scores, (rows,)}}, where `metric` is their mean. Then other test rows
        must agree as well: a bootstrap draws rows and seeds, at a level of 1 - 0.05 / n.
    A row for each of the others, with mean, low, high, seeds, detectable and shown; with `rows`
    also "rows low" and "rows high". No row where no seed ran both.
    """
    differences = _seed_by_seed(runs, ours, others, metric, by)
    if differences.empty:
        return pd.DataFrame()
    table = statistics.jointly(differences).assign(seeds=len(differences))
    if rows is None:
        return table
    level = 1 - 0.05 / len(table)
    scores = {
        name: np.array([rows[name][seed] for seed in differences.index])
        for name in (ours, *table.index)
    }
    over_rows = [
        statistics.bootstrap(scores[ours], scores[name], level=level) for name in table.index
    ]
    table["rows low"] = [found.low for found in over_rows]
    table["rows high"] = [found.high for found in over_rows]
    excludes_zero = [found.low > 0 or found.high < 0 for found in over_rows]
    table["shown"] &= np.array(excludes_zero)
    return table


def _seed_by_seed(runs, ours: str, others, metric: str, by: str) -> pd.DataFrame:
    """A row a seed that ran all of these methods, a column for each of the others that ran."""
    scores = runs.pivot_table(index="seed", columns=by, values=metric, aggfunc="mean")
    compared = [name for name in others if name in scores and name != ours]
    if ours not in scores or not compared:
        return pd.DataFrame()
    differences = {name: scores[ours] - scores[name] for name in compared}
    return pd.DataFrame(differences).dropna()


def told(table: pd.DataFrame, names: dict, scale: float = 1, digits: int = 1) -> pd.DataFrame:
    """`against` as a table to print: intervals as text, and what may be said."""
    if table.empty:
        return pd.DataFrame({"": ["no two methods have run with the same seed yet"]})

    def number(value):
        return f"{scale * value:+.{digits}f}"

    lines = []
    for name, row in table.iterrows():
        line = {
            "against": names.get(name, name),
            "difference": number(row["mean"]),
            "over seeds": f"[{number(row['low'])}, {number(row['high'])}]",
        }
        if "rows low" in table:
            line["over seeds and rows"] = f"[{number(row['rows low'])}, {number(row['rows high'])}]"
        line["seeds"] = int(row["seeds"])
        smallest = f"{scale * row['detectable']:.{digits}f}"
        line[""] = "shown" if row["shown"] else f"not shown; {smallest} would have been"
        lines.append(line)
    return pd.DataFrame(lines)
