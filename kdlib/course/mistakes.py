"""What a mistake in the loss does: to one gradient, and to students that were trained with it.

table = mistakes.on_one_batch(student, cases, right)      # norm and cosine of each gradient
tables = mistakes.judged(runs, names, instead)            # what runs with several seeds show

The functions that need torch load it: figures are redrawn without.
"""

import copy

import numpy as np
import pandas as pd

from . import results

# Of a student on validation rows: what a table multiplies it by, its unit, digits, its axis.
METRICS = {
    "accuracy": (100, "points", 1, "accuracy, mistake − right (points)"),
    "kl_to_truth": (1, "nats", 3, "KL from the truth, mistake − right (nats)"),
}
# In the records: who is compared with another than "right", and who is no mistake.
INSTEAD = {"teacher's dropout on": "right, dropout teacher"}
NO_MISTAKE = ("right", "right, dropout teacher", "CE only", "teacher", "dropout teacher")
# Whether more of it is worse: +1, or -1.
WORSE = {"accuracy": -1, "kl_to_truth": 1}


def with_dropout(model, p: float = 0.1):
    """A copy of a BERT with the same weights and dropout p.

    A new model, because attention reads its dropout once, when it is made.
    """
    config = copy.deepcopy(model.config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = p
    twin = type(model)(config)
    twin.load_state_dict(model.state_dict())
    return twin


# -- one gradient --------------------------------------------------------------------------------


def gradient(student, loss, batch, teacher_logits):
    """All gradients of the student in one vector. loss: a function of (s, t, labels, count)."""
    import torch

    from ..losses import IGNORED
    from ..models import forward_inputs

    student.zero_grad()
    count = int((batch["labels"] != IGNORED).sum())
    logits = student(**forward_inputs(student, batch)).logits
    loss(logits, teacher_logits, batch["labels"], count).backward()
    return torch.cat([weight.grad.flatten() for weight in student.parameters()])


def on_one_batch(student, cases: dict, right: tuple, instead: dict | None = None) -> pd.DataFrame:
    """A row a case: its gradient's `norm` as a multiple of the right one's, and their `cosine`.

    cases: {name: (loss, batch, teacher's logits)}; right: such a triple; instead: {name: another
    right triple}. The student's own dropout is off.
    """
    from torch.nn.functional import cosine_similarity

    student.eval()
    of_right = gradient(student, *right)
    rows = []
    for name, case in cases.items():
        true = gradient(student, *instead[name]) if name in (instead or {}) else of_right
        wrong = gradient(student, *case)
        norm = (wrong.norm() / true.norm()).item()
        cosine = cosine_similarity(wrong, true, dim=0).item()
        rows.append({"mistake": name, "norm": norm, "cosine": cosine})
    return pd.DataFrame(rows)


# -- trained students ----------------------------------------------------------------------------


def scores(logits, labels, truth=None) -> dict[str, float]:
    """accuracy; and where the truth (rows, classes) is known, the KL from it to the student."""
    import torch

    log_q = torch.as_tensor(logits).double().log_softmax(-1)
    found = {"accuracy": (log_q.argmax(1) == torch.as_tensor(labels)).double().mean().item()}
    if truth is not None:
        p = torch.as_tensor(truth).double()
        found["kl_to_truth"] = torch.nn.functional.kl_div(log_q, p, reduction="batchmean").item()
    return found


def power_check(runs: pd.DataFrame, control: str, right: str = "right") -> list[str]:
    """One line for each metric: what training with `control` costs, and whether these runs show it."""
    lines = [f"power check, {len(runs)} seeds: {control} − {right}"]
    for metric, (scale, unit, digits, _) in METRICS.items():
        gap = results.interval(runs[f"{metric}, {control}"] - runs[f"{metric}, {right}"])
        can = "can" if gap.verdict == "excludes 0" else "cannot"
        told = gap.told(f"+.{digits}f", unit, scale)
        lines.append(f"  {metric:12s} {told}: this test {can} see the removal of KD")
    return lines


def judged(
    runs: pd.DataFrame, names: list[str], instead: dict | None = None, right: str = "right"
) -> dict[str, pd.DataFrame]:
    """{metric: a row a mistake}, in the metric's unit; see `statistics.jointly`. `worse`: shown to
    do harm.

    runs: a row a seed, with the columns "accuracy, NAME" and "kl_to_truth, NAME".
    instead: {name: the right run that it is compared with}.
    """
    columns = [*names, right, *set((instead or {}).values())]
    tables = {}
    for metric, (scale, *_) in METRICS.items():
        values = scale * runs[[f"{metric}, {name}" for name in columns]].set_axis(columns, axis=1)
        table = results.against(values, right, instead)
        is_worse = table["shown"] & (WORSE[metric] * table["mean"] > 0)
        tables[metric] = table.assign(worse=is_worse)
    return tables


def of_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of `figures.accuracy_hides` from the course's own runs of notebook 03."""
    columns = [column for column in runs if column.startswith("accuracy, ")]
    names = [column.removeprefix("accuracy, ") for column in columns]
    tables = judged(runs, [name for name in names if name not in NO_MISTAKE], INSTEAD)
    return for_figure(tables, {}, INSTEAD)


def rounded(table: pd.DataFrame, metric: str) -> str:
    """One of `judged`'s tables as text, in the metric's digits."""
    digits = METRICS[metric][2]
    return table.astype({"shown": str, "worse": str}).round(digits).to_string()


def for_figure(tables: dict, mine: dict, instead: dict, right: str = "right") -> pd.DataFrame:
    """The table of `figures.accuracy_hides`, with this run's scores, as far as it has some.

    mine: {"accuracy, NAME": …}, as it is recorded.
    """
    parts = []
    for metric, table in tables.items():
        scale, *_, axis = METRICS[metric]
        own = []
        for name in table.index:
            pair = [f"{metric}, {one}" for one in (name, instead.get(name, right))]
            known = all(one in mine for one in pair)
            own.append(scale * (mine[pair[0]] - mine[pair[1]]) if known else np.nan)
        part = table.rename_axis("loss").reset_index()
        parts.append(part.assign(metric=axis, mine=own))
    columns = ["loss", "metric", "mean", "low", "high", "shown", "mine"]
    return pd.concat(parts, ignore_index=True)[columns]
