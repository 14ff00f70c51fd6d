"""MNLI and QQP: load rows, check labels, tokenise, score. The same code reads the hub, a folder and the embedded corpora.

    rows = glue.load("mnli", "data/mini_nli", "train")         # or "nyu-mll/glue", or any folder of the hub's layout
    encoded = glue.encode(rows, tokenizer, glue.MNLI)
"""
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .engine import hub
from .engine.asking import collator  # noqa: F401
from .engine.parquet import read_parquet


class Task(NamedTuple):
    """A GLUE task: the two text columns, the classes in the hub's order, and the split to validate on."""

    name: str
    columns: tuple[str, str]
    labels: tuple[str, ...]
    validation: str


MNLI = Task("mnli", ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), "validation_matched")
QQP = Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "validation")
TASKS = {task.name: task for task in (MNLI, QQP)}


def load(task: str | Task, source: str | Path, split: str, *, rows: int = 0, among: list[str] | None = None,
         revision: str | None = None):
    """A split as a `datasets.Dataset` with the task's two text columns, `label` and `idx`; checked.

    source: a hub id ("nyu-mll/glue"), or a folder with `<split>-*.parquet`, or with such a folder under the task's name.
    A folder under `$KD_REAL` (or one that `python -m kdlib get real` filled) is taken before the hub.
    rows: the first so many, after a fixed shuffle (0: all, in order). The same rows for every seed of a run.
    among: only rows with these keys (`row_key`), in this order: the same rows from a sample, a mirror or the whole corpus.
    Raises ValueError for a missing split or column, an empty split or a label outside the task's classes (-1 in GLUE's
    test split), ConnectionError with advice when the hub cannot be reached.
    """
    import datasets
    if rows < 0:
        raise ValueError(f"rows must be a count, or 0 for all, not {rows}")
    task = TASKS[task] if isinstance(task, str) else task
    folder = _folder(task, f"{source}@{revision}" if revision else source)
    datasets.disable_progress_bars()                        # a bar for a millisecond is noise, and stderr in a notebook
    files = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}.parquet"))
    if not files:
        there = sorted({f.name.split("-0")[0].removesuffix(".parquet") for f in folder.glob("*.parquet")})
        raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(there) or 'no Parquet file'}")
    data = read_parquet(files, f"{folder}, split {split!r}")
    check(data, task, f"{source}, split {split!r}")
    if among is not None:
        place = {key: i for i, key in enumerate(row_keys(data, task))}
        picked = [place[key] for key in among if key in place]
        if len(picked) < max(rows, 1):
            raise ValueError(f"{source}, split {split!r}: only {len(picked):,} of its {len(data):,} rows are among the "
                             f"{len(among):,} wanted ones, {max(rows, 1):,} are needed: another edition of the corpus?")
        data = data.select(picked[:rows] if rows else picked)
    elif 0 < rows < len(data):
        data = data.shuffle(seed=0).select(range(rows))
    return data


def _folder(task: Task, source: str | Path) -> Path:
    """Where the task's Parquet files lie: a folder, a copy of a hub id under KD_REAL, or the hub's cache."""
    return hub.tables(hub.folder(source, task.name), task.name)


def check(data, task: Task, where: str) -> None:
    """ValueError unless `data` can be trained on: all columns, at least a row, labels within the task's classes."""
    missing = [c for c in (*task.columns, "label") if c not in data.column_names]
    if missing:
        raise ValueError(f"{where}: no column {', '.join(missing)}; {task.name} needs {', '.join(task.columns)} and label, "
                         f"this has {', '.join(data.column_names)}")
    if len(data) == 0:
        raise ValueError(f"{where} is empty")
    labels = np.asarray(data["label"])
    if labels.min() < 0 or labels.max() >= len(task.labels):
        row = int(np.flatnonzero((labels < 0) | (labels >= len(task.labels)))[0])
        hint = "; GLUE's test splits carry -1: their labels are secret" if labels[row] == -1 else ""
        raise ValueError(f"{where}, row {row}: label {labels[row]} is none of 0…{len(task.labels) - 1} "
                         f"({', '.join(task.labels)}){hint}")
    names = getattr(data.features["label"], "names", None)
    if names and [n.lower() for n in names] != list(task.labels):
        raise ValueError(f"{where}: the classes are {names}, {task.name} has {list(task.labels)} in this order")


def encode(data, tokenizer, task: Task, *, max_length: int = 128, keep: tuple[str, ...] = ()):
    """Token ids for each pair, unpadded: batches are padded to their own longest row by the collator.

    Keeps `label` as `labels` and the columns in `keep`. A pair longer than max_length loses the end of its longer text.
    """
    first, second = task.columns
    encoded = data.map(lambda batch: tokenizer(batch[first], batch[second], truncation=True, max_length=max_length),
                       batched=True, remove_columns=[c for c in data.column_names if c not in ("label", *keep)], desc=None)
    return encoded.rename_column("label", "labels")


def compute_metrics(prediction) -> dict[str, float]:
    """For Trainer: accuracy and macro-F1 from (logits, labels). Macro-F1 is what unmasks a model with one answer for all."""
    from .engine.metrics import F1, Accuracy
    logits, labels = prediction
    guesses = np.asarray(logits).argmax(-1)
    return (Accuracy().compute(predictions=guesses, references=labels)
            | F1().compute(predictions=guesses, references=labels, average="macro"))


class Calibration(NamedTuple):
    """`ece`: the mean gap between confidence and share of right answers; `bins`: what it was made of, one dict a bin with rows."""

    ece: float
    bins: list[dict]


def calibration(logits, labels, bins: int = 10) -> Calibration:
    """Expected calibration error over `bins` bins of equal width by the confidence in the answer (Guo et al. 2017, eq. 3).

    logits: (rows, classes), labels: (rows,). Each bin's dict has its mean confidence, its accuracy and its count of rows. An
    estimate from few rows is too large: even a calibrated model's bins miss their mean by chance.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if bins < 1 or len(logits) != len(labels) or not len(labels):
        raise ValueError(f"calibration needs as many labels as rows and a bin: {len(logits)} rows, {len(labels)} labels, {bins} bins")
    soft = np.exp(logits - logits.max(1, keepdims=True))
    confidence, right = soft.max(1) / soft.sum(1), logits.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [{"confidence": round(float(confidence[place == b].mean()), 5), "accuracy": round(float(right[place == b].mean()), 5),
              "count": int((place == b).sum())} for b in range(bins) if (place == b).any()]
    gap = sum(abs(confidence[place == b].mean() - right[place == b].mean()) * (place == b).mean() for b in set(place.tolist()))
    return Calibration(float(gap), found)


def row_key(*texts: str) -> str:
    """16 hex digits that name a row by its texts: how shipped teacher logits find their row whatever the row's order."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def row_keys(data, task: Task) -> list[str]:
    return [row_key(a, b) for a, b in zip(data[task.columns[0]], data[task.columns[1]])]
