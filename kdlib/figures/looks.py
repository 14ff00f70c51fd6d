"""One colour, marker, line and hatch for each method, in every figure: the only table of them.

Names are those of `methods.LABELS`. A corpus is never told by a colour, but by a panel or by a
hollow mark. Colours of things that are no method (classes, parts of a bar, layers) are those of
`drawing.palette`, and none of them is a method's.
"""

from typing import NamedTuple

import matplotlib.pyplot as plt

from ..methods import LABELS

DARK_GROUND = "#111111"


class Look(NamedTuple):
    """How a method is drawn: its colour on a light and on a dark ground, and its forms."""

    light: str
    dark: str
    marker: str
    line: str | tuple
    hatch: str


# Okabe and Ito's colours first: they stay apart for colour-blind eyes; forms differ, too.
METHODS = {
    "kd": Look("#0072B2", "#56B4E9", "o", "-", ""),
    "ce": Look("#D55E00", "#FF8C42", "s", "--", "//"),
    "label_smoothing": Look("#E69F00", "#F5C542", "v", ":", ".."),
    "hard": Look("#009E73", "#3DD6AE", "^", "-.", "xx"),
    "equalised": Look("#56B4E9", "#A6DBF7", "D", (0, (5, 1)), "\\\\"),
    "shuffled": Look("#CC79A7", "#EDA6CB", "P", (0, (3, 1, 1, 1)), "--"),
    "shuffled_doubt": Look("#767676", "#B5B5B5", "X", (0, (1, 1)), "++"),
    # what a student imitates besides: notebook 09
    "cosine": Look("#117733", "#58C77B", "<", "-.", "**"),
    "mse": Look("#332288", "#A79BE8", ">", "--", "oo"),
    "mse_other_rows": Look("#999933", "#D2D26B", "p", ":", "||"),
    "mse_random": Look("#8C564B", "#CF9A8F", "h", (0, (3, 1, 1, 1)), "OO"),
    # other divergences than KD's forward KL: notebook 09
    "reverse_kl": Look("#882255", "#E07BAA", "<", "-.", "**"),
    "jsd": Look("#999933", "#D2D26B", "p", ":", "||"),
    "teacher": Look("#444444", "#DDDDDD", "*", "--", ""),
}
METHODS["forward_kl"] = METHODS["kd"]
NAMES = LABELS | {"teacher": "teacher"}
# What else a method is called in the tables that notebooks draw.
ALIASES = {
    "labels only": "ce",
    "labels alone": "ce",
    "label smoothing": "label_smoothing",
    "label, smoothed": "label_smoothing",
    "wrong classes equal": "equalised",
    "teacher, softened": "kd",
    "teacher": "teacher",
}


def method_of(name: str) -> str:
    """The method that a name speaks of ("on the grid, KD": "kd"); "" where it names none."""
    if name in METHODS:
        return name
    for label in sorted(LABELS.values(), key=len, reverse=True):
        if label in name:
            return next(method for method, own in LABELS.items() if own == label)
    return next((method for word, method in ALIASES.items() if word in name), "")


def color_of(method: str) -> str:
    """The colour of a method on the ground that is set; grey for none."""
    look = METHODS.get(method)
    if look is None:
        return "#808080"
    return look.dark if plt.rcParams["axes.facecolor"] == DARK_GROUND else look.light


def look_of(method: str) -> dict:
    """Colour, line and marker of a method, as keywords of `plot`."""
    look = METHODS.get(method, Look("", "", "o", "-", ""))
    return {"color": color_of(method), "linestyle": look.line, "marker": look.marker}


def mark_of(method: str) -> dict:
    """Colour and marker alone."""
    return look_of(method) | {"linestyle": "none"}
