"""MNLI and QQP: load rows, check labels, tokenise, score.

The same code reads the hub, a folder and the embedded corpora.

    rows = glue.load("mnli", "data/mini_nli", "train")  # or "nyu-mll/glue", or a folder like it
    encoded = glue.encode(rows, tokenizer, glue.MNLI)
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .engine import hub
from .engine.asking import collator  # noqa: F401  (a notebook names it glue.collator)
from .engine.parquet import read_parquet, sample


class Task(NamedTuple):
    """A GLUE task: its text columns, its classes in the hub's order, the splits to validate and to
    test on.
    """

    name: str
    columns: tuple[str, str]
    labels: tuple[str, ...]
    validation: str
    test: str


MNLI = Task(
    name="mnli",
    columns=("premise", "hypothesis"),
    labels=("entailment", "neutral", "contradiction"),
    validation="validation_matched",
    test="test_matched",
)
QQP = Task(
    name="qqp",
    columns=("question1", "question2"),
    labels=("not_duplicate", "duplicate"),
    validation="validation",
    test="test",
)
TASKS = {task.name: task for task in (MNLI, QQP)}


def load(
    task: str | Task,
    source: str | Path,
    split: str,
    *,
    rows: int = 0,
    among: list[str] | None = None,
):
    """A split as a `datasets.Dataset` with the task's two text columns, `label` and `idx`; checked.

    source: a hub id ("nyu-mll/glue", or "nyu-mll/glue@REVISION"), or a folder with
        `<split>-*.parquet`, or with such a folder under the task's name. A folder under
        `$KD_REAL` (or one that `python -m kdlib get real` filled) is taken before the hub.
    rows: the first so many, after a fixed shuffle (0: all, in order). The same rows for every seed
        of a run.
    among: only rows with these keys (`row_key`), in this order: the same rows from a sample, a
        mirror or the whole corpus.
    Raises ValueError for a missing split or column, an empty split or a label outside the task's
    classes (-1 in GLUE's test split), ConnectionError with advice when the hub cannot be reached.
    """
    if rows < 0:
        raise ValueError(f"rows must be a count, or 0 for all, not {rows}")
    task = TASKS[task] if isinstance(task, str) else task
    data = _read(task, source, split)
    where = f"{source}, split {split!r}"
    check(data, task, where)
    if among is not None:
        return _only(data, task, among, rows, where)
    return sample(data, rows)


def held_out(
    task: Task,
    source: str | Path,
    *,
    validation_rows: int,
    test_rows: int,
    among: list[str] | None = None,
):
    """(validation, test): rows that make the choices, and rows that are reported and choose
    nothing.

    The embedded corpora have a test split. GLUE keeps its test labels secret, so there the
    validation split is cut in two, always at the same place: the first `validation_rows` of it
    choose, the next `test_rows` report. 0 takes all of a split, and half of one that is cut.
    among, errors: as in `load`.
    """
    if _has_test_labels(task, source):
        validation = load(task, source, task.validation, rows=validation_rows, among=among)
        return validation, load(task, source, task.test, rows=test_rows, among=among)
    wanted = validation_rows + test_rows if validation_rows and test_rows else 0
    both = load(task, source, task.validation, rows=wanted, among=among)
    cut = validation_rows or (len(both) - test_rows if test_rows else len(both) // 2)
    if not 0 < cut < len(both):
        raise ValueError(
            f"{source}: {len(both):,} validation rows cannot be cut into {validation_rows:,} that "
            f"choose and {test_rows:,} that report"
        )
    return both.select(range(cut)), both.select(range(cut, len(both)))


def _has_test_labels(task: Task, source: str | Path) -> bool:
    try:
        labels = _read(task, source, task.test)["label"]
    except ValueError:  # no such split
        return False
    return min(labels) >= 0


def _read(task: Task, source: str | Path, split: str):
    """The split's Parquet files: of a folder, of a copy under KD_REAL, or of the hub's cache."""
    import datasets

    # a bar for a millisecond is noise, and stderr in a notebook
    datasets.disable_progress_bars()
    folder = hub.tables(hub.folder(source, task.name), task.name)
    files = sorted(folder.glob(f"{split}-*.parquet")) or sorted(folder.glob(f"{split}.parquet"))
    if not files:
        # train-00000-of-00001.parquet is the split "train".
        names = {file.name.split("-0")[0] for file in folder.glob("*.parquet")}
        splits = sorted({name.removesuffix(".parquet") for name in names})
        raise ValueError(
            f"{folder} has no split {split!r}; it has {', '.join(splits) or 'no Parquet file'}"
        )
    return read_parquet(files, f"{folder}, split {split!r}")


def _only(data, task: Task, keys: list[str], rows: int, where: str):
    """The rows with these keys, in the keys' order; the first `rows` of them (0: all)."""
    # Of rows with the same texts the last one is taken: they have the same key.
    place = {key: i for i, key in enumerate(row_keys(data, task))}
    picked = [place[key] for key in keys if key in place]
    needed = max(rows, 1)
    if len(picked) < needed:
        raise ValueError(
            f"{where}: only {len(picked):,} of its {len(data):,} rows are among the {len(keys):,} "
            f"wanted ones, {needed:,} are needed: another edition of the corpus?"
        )
    return data.select(picked[:rows] if rows else picked)


def check(data, task: Task, where: str) -> None:
    """ValueError unless `data` can be trained on.

    That takes all columns, at least a row, and labels within the task's classes.
    """
    missing = [name for name in (*task.columns, "label") if name not in data.column_names]
    if missing:
        raise ValueError(
            f"{where}: no column {', '.join(missing)}; {task.name} needs "
            f"{', '.join(task.columns)} and label, this has {', '.join(data.column_names)}"
        )
    if len(data) == 0:
        raise ValueError(f"{where} is empty")
    _check_types(data, task, where)
    labels = np.asarray(data["label"])
    is_wrong = (labels < 0) | (labels >= len(task.labels))
    if is_wrong.any():
        row = int(np.flatnonzero(is_wrong)[0])
        is_secret = labels[row] == -1
        hint = "; GLUE's test splits carry -1: their labels are secret" if is_secret else ""
        raise ValueError(
            f"{where}, row {row}: label {labels[row]} is none of 0…{len(task.labels) - 1} "
            f"({', '.join(task.labels)}){hint}"
        )
    names = getattr(data.features["label"], "names", None)
    # The numbers can be fine and mean something else: other editions order the classes otherwise.
    if names and [name.lower() for name in names] != list(task.labels):
        raise ValueError(
            f"{where}: the classes are {names}, {task.name} has {list(task.labels)} in this order"
        )


def _check_types(data, task: Task, where: str) -> None:
    """ValueError for a column of another type, or with a row that is empty (null)."""
    for name in (*task.columns, "label"):
        column = data.data.column(name)
        if column.null_count:
            raise ValueError(
                f"{where}: the column {name} has {column.null_count} rows without a value"
            )
        dtype = str(column.type)
        wanted = "whole numbers" if name == "label" else "text"
        fits = "int" in dtype if name == "label" else "string" in dtype
        if not fits:
            classes = f", {task.labels[0]} is 0" if name == "label" else ""
            raise ValueError(
                f"{where}: the column {name} must hold {wanted}{classes}; this one has type {dtype}"
            )


def encode(data, tokenizer, task: Task, *, max_length: int = 128, keep: tuple[str, ...] = ()):
    """Token ids for each pair, unpadded: the collator pads a batch to its own longest row.

    Keeps `label` as `labels` and the columns in `keep`. A pair longer than max_length loses the end
    of its longer text.
    """
    first, second = task.columns

    def tokenise(batch):
        # The pair in one call: that puts [SEP] between the two and gives each its segment number.
        return tokenizer(batch[first], batch[second], truncation=True, max_length=max_length)

    dropped = [name for name in data.column_names if name not in ("label", *keep)]
    encoded = data.map(tokenise, batched=True, remove_columns=dropped, desc=None)
    # The models' forward calls it `labels`.
    return encoded.rename_column("label", "labels")


# -- scores --------------------------------------------------------------------------------------


def compute_metrics(prediction) -> dict[str, float]:
    """For Trainer: accuracy and macro-F1 from (logits, labels).

    Macro-F1 is what unmasks a model with one answer for all.
    """
    from .engine.metrics import F1, Accuracy

    logits, labels = prediction
    guesses = np.asarray(logits).argmax(-1)
    accuracy = Accuracy().compute(predictions=guesses, references=labels)
    macro_f1 = F1().compute(predictions=guesses, references=labels, average="macro")
    return accuracy | macro_f1


class Calibration(NamedTuple):
    """`ece`: the mean gap between confidence and share of right answers.

    `bins`: what it was made of, one dict a bin with rows.
    """

    ece: float
    bins: list[dict]


def calibration(logits, labels, bins: int = 10) -> Calibration:
    """Expected calibration error over bins of equal width (Guo et al. 2017, eq. 3).

    Rows are binned by the confidence in the answer. logits: (rows, classes), labels: (rows,). Each
    bin's dict has its mean confidence, its accuracy and its count of rows. An estimate from few
    rows is too large: even a calibrated model's bins miss their mean by chance.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    if bins < 1 or len(logits) != len(labels) or not len(labels):
        raise ValueError(
            "calibration needs as many labels as rows and a bin: "
            f"{len(logits)} rows, {len(labels)} labels, {bins} bins"
        )
    # Less the largest, so that exp cannot overflow; the quotient below is the same.
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    confidence = exponentials.max(1) / exponentials.sum(1)
    is_right = logits.argmax(1) == labels
    # a confidence of exactly 1 belongs to the last bin
    bin_of_row = np.minimum((confidence * bins).astype(int), bins - 1)
    gap, found = 0.0, []
    for number in np.unique(bin_of_row):
        rows = bin_of_row == number
        mean_confidence, accuracy = confidence[rows].mean(), is_right[rows].mean()
        # rows.mean() is the share of all rows that lie in this bin.
        gap += abs(mean_confidence - accuracy) * rows.mean()
        found.append(
            {
                "confidence": round(float(mean_confidence), 5),
                "accuracy": round(float(accuracy), 5),
                "count": int(rows.sum()),
            }
        )
    return Calibration(float(gap), found)


# -- the names of rows ---------------------------------------------------------------------------


def row_key(*texts: str) -> str:
    """16 hex digits that name a row by its texts.

    Shipped teacher logits find their row by it, whatever the rows' order.
    """
    # \x1f is a control character that no text holds: ("ab", "c") and ("a", "bc") get other keys.
    # 16 digits are 64 bits: that any two of a million rows share one has a chance of 3 in 100
    # million.
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]


def row_keys(data, task: Task) -> list[str]:
    """The key of each row, in order."""
    first, second = task.columns
    return [row_key(one, other) for one, other in zip(data[first], data[second])]
