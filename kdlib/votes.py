"""Rows whose answer is known as a *distribution*, beside the label and a teacher's logits.

    rows = votes.load("data/mini_nli")   # embedded: the true distribution, the teacher that ships
    rows = votes.load("chaosnli")        # real: 100 human votes a row, and a RoBERTa-base's logits

Both give the same columns, so a notebook reads either. The real rows are ChaosNLI's MNLI part (Nie,
Zhou and Bansal 2020, CC BY-NC 4.0). Its authors chose them *because* the first five annotators had
disagreed. The logits are Baan et al.'s (2022).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .engine.pinned import REAL, File
from .paths import real_folder, sha256

# GLUE's order, for every column of 3 numbers below.
LABELS = ("entailment", "neutral", "contradiction")
# The order in which the published logits were written.
ROBERTA = ("entailment", "contradiction", "neutral")
# The corpus writes its one label as a letter; the places are GLUE's classes.
LETTERS = "enc"


class Source(NamedTuple):
    """How tables name a source: the rows, what their distribution is, who the teacher is."""

    rows: str
    truth: str
    teacher: str


CHAOS = Source("ChaosNLI (real rows)", "100 people", "RoBERTa-base")
MINI = Source("MiniNLI (synthetic)", "truth", "4-layer BERT")


def about(source: str) -> Source:
    """The names of a source."""
    return CHAOS if source == "chaosnli" else MINI


def load(
    source: str = "data/mini_nli", *, teacher: str = "data/teachers/mini_nli", rows: int = 0
) -> pd.DataFrame:
    """Rows with three opinions each: uid, premise, hypothesis, truth, label, logits.

    truth: (3,) float64, sums to 1: the votes of 100 people on real rows, the true distribution of
    synthetic ones. label: the corpus' one label; logits: (3,) float32; classes in GLUE's order. source: "chaosnli" (after `python -m kdlib get real --part chaosnli`), or a folder
    of the embedded corpus' layout. teacher: whom to ask about the embedded rows; ChaosNLI comes
    with its teacher's answers. rows: so many of them, the same ones each time (0: all).
    FileNotFoundError with advice when the rows are not there, ValueError for a file that is cut off
    or altered.
    """
    if source != "chaosnli":
        return _embedded(source, teacher, rows)
    table = _chaosnli(real_folder() / "chaosnli")
    if 0 < rows < len(table):
        # Always the same rows, whatever the seed of a run.
        return table.sample(rows, random_state=0, ignore_index=True)
    return table


def kl(p, q) -> np.ndarray:
    """KL(p ‖ q) of each row, in nats: (…, classes) twice → (…,).

    Where p is 0 nothing is counted: 0 · log 0 = 0.
    """
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Where q is 0 and p is not, the result is inf, as the definition says: this is a
        # measurement. The loss in `losses` keeps it finite, because it must have a gradient.
        by_class = p * (np.log(p) - np.log(q))
    return np.where(p > 0, by_class, 0.0).sum(-1)


def entropy(p) -> np.ndarray:
    """Entropy of each row in nats: (…, classes) → (…,); log(classes) for a flat row, else less."""
    p = np.asarray(p, np.float64)
    # log 1 = 0 stands in for log 0, which would warn.
    log_p = np.log(np.where(p > 0, p, 1.0))
    return -np.where(p > 0, p * log_p, 0.0).sum(-1)


# -- the real rows ---------------------------------------------------------------------------------


def _chaosnli(folder: Path) -> pd.DataFrame:
    """Votes and logits joined by uid; the 30 voted rows without logits are left out."""
    voted, *predicted = (_json_lines(folder, file) for file in REAL["chaosnli"])
    logits = {row["uid"]: row["logits"] for rows in predicted for row in rows}
    # Without this, two classes of three are exchanged.
    to_glue = [ROBERTA.index(name) for name in LABELS]
    table = []
    for row in voted:
        if row["uid"] not in logits:
            continue
        counts = np.asarray(row["label_count"], np.float64)
        columns = {
            "uid": row["uid"],
            "premise": row["example"]["premise"],
            "hypothesis": row["example"]["hypothesis"],
            "truth": counts / counts.sum(),
            "label": LETTERS.index(row["old_label"]),
            "logits": np.asarray(logits[row["uid"]], np.float32)[to_glue],
        }
        table.append(columns)
    return pd.DataFrame(table)


def _json_lines(folder: Path, file: File) -> list[dict]:
    """The rows of a pinned file.

    Its checksum is looked at first: half a file would only give other numbers, not an error.
    """
    path = folder / Path(file.path).name
    advice = "python -m kdlib get real --part chaosnli"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}. The human votes are fetched once, in seconds: {advice} "
            "(or set KD_REAL to a folder that holds chaosnli/)"
        )
    if sha256(path) != file.sha256:
        size = f"{path.stat().st_size:,} bytes"
        raise ValueError(f"{path} ({size}) is cut off or altered; fetch it again: {advice}")
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


# -- the embedded corpus ---------------------------------------------------------------------------


def _embedded(source: str, teacher: str, rows: int) -> pd.DataFrame:
    """Validation rows of a corpus with `label_dist`, and the answers of a teacher asked now."""
    from . import glue, models
    from .trainer import teacher_logits

    task = glue.MNLI
    data = glue.load(task, source, task.validation, rows=rows)
    if "label_dist" not in data.column_names:
        raise ValueError(
            f"{source} has no column label_dist: only the embedded corpora know their true "
            'distribution. For real rows with human votes take the source "chaosnli".'
        )
    tokenizer = models.load_tokenizer(teacher)
    model = models.load(teacher, labels=task.labels)
    encoded = glue.encode(data, tokenizer, task)
    logits = teacher_logits(model, encoded, glue.collator(tokenizer))
    # A teacher with exchanged classes would look like one with strange opinions.
    models.check_label_order(logits, data["label"], task.labels, rows=encoded, tokenizer=tokenizer)
    columns = {
        "uid": [str(i) for i in data["idx"]],
        "premise": data["premise"],
        "hypothesis": data["hypothesis"],
        "truth": list(np.asarray(data["label_dist"], np.float64)),
        "label": data["label"],
        "logits": list(logits),
    }
    return pd.DataFrame(columns)
