"""Explorers of the mathematics: sliders and pictures that need no kernel.

    explorers.temperature(logits)                       # one answer under a slider for T
    explorers.row_browser(table, whose="truth")         # rows to leaf through: guess, then compare
    explorers.valley(table, whose="truth")              # KL over T, and the bars of one row
    explorers.pushes(teacher_logits, label=0)           # what each part of the loss does to a logit

Each function returns an IPython HTML object with its data and a short script inside, so that it
moves while the kernel trains, and in a saved notebook that nobody runs. The scripts are the files
`templates/explorer*`. Where scripts are not run (GitHub, a notebook that is not trusted), a
sentence says so, and what stands before the explorer (a figure, or printed rows) shows a part of it.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ..votes import LABELS, kl
from .drawing import LIGHT, filled

CLASSES = ("A", "B", "C")
PARTS = Path(__file__).parent / "templates"
# One colour a voice in all explorers; LIGHT, because their ground is always white.
COLORS = {
    "label": "#767676",
    "teacher": LIGHT[0],
    "truth": LIGHT[2],
    "soft": LIGHT[0],
    "hard": LIGHT[1],
}
DASHES = ("", "7 4", "2 3")
NO_SCRIPT = (
    "Here is an explorer: {what}. It needs scripts, which are switched off here (GitHub never runs "
    "them). In Jupyter, run this cell, or trust the notebook: View, Activate Command Palette, "
    "“Trust Notebook”. What stands above it shows a part of the same, without sliders."
)
SHOWN = 12  # rows of each kind that `valley` embeds


def temperature(logits, classes=CLASSES, *, start: float = 2.0):
    """A slider for T above the bars that it flattens, with their entropy in nats.

    logits: (classes,), an array or a tensor; start: the first T. Returns the HTML to show.
    """
    data = {
        "classes": list(classes),
        "logits": _numbers(logits),
        "temperatures": _temperatures(0.25, 64),
    }
    return _explorer("temperature", "a slider for T and the answer that it softens", data, start)


def row_browser(table: pd.DataFrame, *, whose: str = "people", classes=LABELS, start: float = 1.0):
    """Rows to leaf through, in order, by how disputed they are, or where the teacher is wrong.

    The reader guesses first. Then label, teacher at T and `whose` stand side by side, with KL and
    entropy in nats; a box wipes the teacher's dark knowledge. table: the columns of `votes.load`;
    whose: how the column `truth` is called: "people" for votes, "truth" for a known distribution.
    Returns the HTML to show.
    """
    columns = {
        "premise": list(table["premise"]),
        "hypothesis": list(table["hypothesis"]),
        "label": [int(label) for label in table["label"]],
    }
    data = {
        "classes": list(classes),
        "whose": whose,
        "rows": columns | _answers(table),
        "temperatures": _temperatures(0.25, 16),
    }
    what = f"rows to leaf through, with label, teacher and {whose}"
    return _explorer("rows", what, data, start)


def valley(
    table: pd.DataFrame,
    *,
    whose: str = "people",
    smoothed: float | None = None,
    classes=LABELS,
    start: float = 1.0,
):
    """KL(`whose` ‖ teacher at T) over T, with one marker for all curves and for a row's bars.

    The curves are means over all rows, and over those where the teacher's first choice is right and
    wrong. A few rows of both kinds can be leafed through. table and whose: as for `row_browser`;
    smoothed: the KL of the best smoothed label, drawn as a dotted line. Returns the HTML to show.
    """
    people, logits = np.stack(table["truth"]), np.stack(table["logits"])
    right = logits.argmax(-1) == people.argmax(-1)
    temperatures = _temperatures(0.5, 16)
    shown = _both_kinds(right)
    pairs = table["premise"].str.cat(table["hypothesis"], sep=" → ")
    columns = {"pair": list(pairs.iloc[shown]), "right": right[shown].tolist()}
    data = {
        "classes": list(classes),
        "whose": whose,
        "smoothed": smoothed,
        "curves": _curves(people, logits, right, temperatures),
        "rows": columns | _answers(table.iloc[shown]),
        "temperatures": temperatures,
    }
    what = f"one temperature moves a marker on the curves of KL({whose} ‖ teacher) and a row's bars"
    return _explorer("valley", what, data, start)


def pushes(
    teacher, label: int = 0, *, students=None, classes=CLASSES, alpha=0.5, start: float = 2.0
):
    """What the soft and the hard loss do to each logit of a student, for alpha, T, and without T².

    A push is minus the gradient. teacher: (classes,) logits; label: the right class; students: a
    dict from a name to (classes,) logits; by default one that knows nothing and one that believes in
    a wrong class. Returns the HTML to show.
    """
    teacher = _numbers(teacher)
    if students is None:
        wrong = (label + 1) % len(teacher)
        sure = [2.0 * (i == wrong) for i in range(len(teacher))]
        students = {"knows nothing": [0.0] * len(teacher), f"believes in {classes[wrong]}": sure}
    data = {
        "classes": list(classes),
        "teacher": teacher,
        "label": int(label),
        "students": [
            {"name": name, "logits": _numbers(logits)} for name, logits in students.items()
        ],
        "alpha": alpha,
        "temperatures": _temperatures(0.5, 16),
    }
    what = "the push of the soft and the hard loss on each logit, for alpha, T, and without T²"
    return _explorer("pushes", what, data, start)


# -- the data ------------------------------------------------------------------------------------


def _temperatures(first: float, last: float) -> list[float]:
    """The steps of a slider: 1, 1.2, 1.4, 1.6, 1.8, then their doubles: even on a log scale."""
    steps = [(1 + fifth / 5) * 2.0**octave for octave in range(-2, 7) for fifth in range(5)]
    return [round(T, 4) for T in steps if first <= T <= last]


def _curves(people, logits, right, temperatures) -> list[dict]:
    """Mean KL over T for all rows, and for those where the teacher's first choice is right, wrong."""
    by_T = np.stack([kl(people, _softmax(logits, T)) for T in temperatures])  # (T, rows)
    groups = {"all rows": right | True, "teacher right": right, "teacher wrong": ~right}
    curves = []
    for i, (name, rows) in enumerate(groups.items()):
        if rows.any():
            means = _numbers(by_T[:, rows].mean(-1))
            curves.append({"name": name, "kl": means, "color": LIGHT[i], "dashes": DASHES[i]})
    return curves


def _both_kinds(right: np.ndarray) -> list[int]:
    """The first rows where the teacher is right and wrong, in turn."""
    kinds = [np.flatnonzero(right)[:SHOWN], np.flatnonzero(~right)[:SHOWN]]
    return [int(kind[i]) for i in range(SHOWN) for kind in kinds if i < len(kind)]


def _answers(table: pd.DataFrame) -> dict:
    """The columns that are numbers, rounded to what a picture can show."""
    return {
        "logits": np.stack(table["logits"]).round(3).astype(float).tolist(),
        "truth": np.stack(table["truth"]).round(4).astype(float).tolist(),
    }


def _numbers(values) -> list[float]:
    return np.asarray(values, np.float64).round(6).tolist()


def _softmax(logits, T: float) -> np.ndarray:
    z = np.asarray(logits, np.float64) / T
    weights = np.exp(z - z.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


# -- the page ------------------------------------------------------------------------------------


def _explorer(name: str, what: str, data: dict, start: float):
    """The files of an explorer and its data, put together into one HTML object."""
    from IPython.display import HTML

    temperatures = data["temperatures"]
    nearest = min(temperatures, key=lambda T: abs(np.log(T / start)))
    page = f"<style>{_file('explorer.css')}</style>{_file(f'explorer_{name}.html')}"
    filled_page = filled(
        "explorer.html",
        no_script=NO_SCRIPT.format(what=what),
        data=data | {"colors": COLORS, "start": nearest},
        page=page,
        shared_script=_file("explorer.js"),
        own_script=_file(f"explorer_{name}.js"),
    )
    return HTML(filled_page)


def _file(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf8")
