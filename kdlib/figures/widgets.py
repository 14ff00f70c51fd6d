"""The tables of figures whose twin is an explorer (see `explorers`): what the slider shows, for a
few values on paper.

    figures.softening(widgets.softened(logits, [1, 2, 4, 8]))            # explorers.temperature
    figures.pulls(widgets.pushes(student, teacher, label, settings))     # explorers.pushes
"""

import numpy as np
import pandas as pd

CLASSES = ("A", "B", "C")


def softened(logits, temperatures, classes=CLASSES) -> pd.DataFrame:
    """The table of `figures.softening`: softmax(logits / T) for each T. logits: (classes,)."""
    tables = []
    for T in temperatures:
        p = _softmax(logits, T)
        entropy = float(-(p * np.log(np.maximum(p, 1e-300))).sum())
        columns = {"T": float(T), "class": classes, "probability": p, "entropy": entropy}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def pushes(student, teacher, label: int, settings, classes=CLASSES) -> pd.DataFrame:
    """The table of `figures.pulls`: minus the gradient of each part of the loss at the student's
    logits, weights included.

    student, teacher: (classes,) logits; label: the right class; settings: pairs (alpha, T). The
    closed forms are alpha · T · (teacher_T - student_T) for the soft part and
    (1 - alpha) · (one_hot - student_1) for the hard one.
    """
    one_hot = np.eye(len(classes))[label]
    tables = []
    for alpha, T in settings:
        soft = alpha * T * (_softmax(teacher, T) - _softmax(student, T))
        hard = (1 - alpha) * (one_hot - _softmax(student, 1.0))
        columns = {"alpha": float(alpha), "T": float(T), "class": classes}
        tables.append(pd.DataFrame({**columns, "soft": soft, "hard": hard}))
    return pd.concat(tables, ignore_index=True)


def _softmax(logits, T: float) -> np.ndarray:
    z = np.asarray(logits, np.float64) / T
    weights = np.exp(z - z.max())
    return weights / weights.sum()
