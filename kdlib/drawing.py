"""What all figures share: one look in three styles, the registry, saving with alt text, and a few ways to draw.

Colours are Okabe and Ito's; lines also differ in style and marker, so that a figure survives a grey printer and
colour-blind eyes. `slides` are 16:9 with no letter under 18 points on a slide 13.33 inches wide; `paper` keeps each
figure's own shape, for a page or a notebook; `dark` is `slides` on a dark ground.
"""
import textwrap
from pathlib import Path
from typing import Callable

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .paths import did_you_mean

LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DARK = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#F0E442", "#FFFFFF"]
COLORS = list(LIGHT)                                # `style` fills this list anew, so every drawing function sees the change
MARKERS, LINES = ["o", "s", "^", "D", "v", "P", "X"], ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
STYLES = ("slides", "paper", "dark")
FORMATS = ("png", "svg", "pdf", "csv")
CANVAS, SLIDE_POINTS = (7.2, 4.05), 18              # inches; letters are sized for this canvas blown up to a slide
SMALLEST = SLIDE_POINTS * CANVAS[0] / (13 + 1 / 3)

FIGURES: dict[str, Callable] = {}


def figure(notebook: str, alt: str, *, file: str = "", data: Callable | None = None):
    """Register a drawing function: the notebook that it belongs to, and what a reader who cannot see it should know.

    Its table is the one that the notebook's record keeps under the function's name; `file` names another file of records
    than the profile's ("lab": real rows), `data` computes the table from several records: see `gallery.Stored`.
    """
    def mark(function):
        function.notebook, function.alt, function.file, function.data = notebook, " ".join(alt.split()), file, data
        FIGURES[function.__name__] = function
        return function
    return mark


def again(function, name: str, notebook: str, alt: str, *, file: str = "", data: Callable | None = None) -> None:
    """The same drawing of another table, under a name of its own."""
    def draw(table):
        return function(table)
    draw.__name__, draw.__doc__ = name, function.__doc__
    figure(notebook, alt, file=file, data=data or (lambda stored: stored.table(notebook, function.__name__, file)))(draw)


def style(name: str = "paper") -> None:
    """One look for all figures; equal bytes for equal data (no dates, fixed SVG ids). ValueError for an unknown style."""
    if name not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, not {name!r}{did_you_mean(name, STYLES)}")
    front, back = ("white", "#111111") if name == "dark" else ("black", "white")
    COLORS[:] = DARK if name == "dark" else LIGHT
    plt.rcParams.update({
        "figure.figsize": (6.4, 3.6), "figure.dpi": 100, "savefig.dpi": 160, "savefig.bbox": "tight", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.6,
        "axes.prop_cycle": matplotlib.cycler(color=COLORS), "legend.frameon": False, "figure.constrained_layout.use": True,
        "svg.hashsalt": "kdlib", "svg.fonttype": "path", "pdf.fonttype": 3,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), front),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), back)})
    if name != "paper":
        plt.rcParams.update({"savefig.bbox": None, "savefig.dpi": 1600 / CANVAS[0]})


def ink() -> str:
    """The colour of letters and frames: black, or white on a dark ground."""
    return plt.rcParams["text.color"]


def paper() -> str:
    """The colour of the ground."""
    return plt.rcParams["axes.facecolor"]


def on_slide(fig, corpus: str = "") -> None:
    """A figure on the slides' canvas: 16:9, and no letter smaller than the back of the room can read; see `name_corpus`."""
    fig.set_size_inches(CANVAS)
    strip = 0.045 if corpus else 0                                  # of the height, kept free for one line
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08, rect=(0, strip, 1, 1 - strip))
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_tick_params(which="both", labelsize=max(SMALLEST, 10))
    for text in fig.findobj(matplotlib.text.Text):
        text.set_fontsize(max(text.get_fontsize(), SMALLEST))
    fig.get_layout_engine().execute(fig)                            # laid out once, then saved in each format as it stands
    fig.set_layout_engine("none")
    name_corpus(fig, corpus, 0.012)


def name_corpus(fig, corpus: str, margin: float = 0.0) -> None:
    """What the rows are, in grey at the lower left: a picture that was pasted into a talk has lost its caption. margin 0: under the figure."""
    if corpus:
        fig.text(margin, margin, corpus, color=ink(), alpha=0.65, fontsize=SMALLEST, va="bottom" if margin else "top", in_layout=not margin)


def save_fig(fig, name: str, *, folder: Path, alt: str, formats: tuple[str, ...] = ("svg", "png", "pdf")) -> list[Path]:
    """Write NAME.svg, .png and .pdf under `folder`. ValueError without an alt text that says something."""
    if not isinstance(alt, str) or len(alt.split()) < 5:
        raise ValueError(f"figure {name!r} needs an alt text: what it shows, for someone who cannot see it")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"svg": {"Date": None, "Description": alt}, "png": {"Description": alt, "Software": None},
                "pdf": {"CreationDate": None, "Producer": None, "Subject": alt}}
    for kind in formats:
        fig.savefig(folder / f"{name}.{kind}", metadata=metadata[kind])
    return [folder / f"{name}.{kind}" for kind in formats]


def show(fig, caption: str) -> None:
    """The figure inline, and its caption as text under it (a screen reader reads this one)."""
    plt.figure(fig.number)
    plt.show()
    print(f"Figure: {caption}")
    plt.close(fig)


# -- ways to draw that several figures share --------------------------------------------------------------------------

def bars(ax, labels, values, errors=None, fmt="{:.2f}", **kw) -> None:
    """Bars with their numbers on top: a slide is read without a ruler."""
    drawn = ax.bar(range(len(values)), values, yerr=errors, capsize=3, color=COLORS[:len(values)], **kw)
    ax.set_xticks(range(len(values)), labels)
    ax.bar_label(drawn, [fmt.format(v) for v in values], padding=6, fontsize=9)
    ax.grid(axis="x", visible=False)


def lines(ax, table: pd.DataFrame, x: str, y: str, by: str, names: dict | None = None, markers: bool = True) -> None:
    """One line a value of `by`: mean over the other rows, and a band of ± 1 sd where there are several."""
    for i, (key, part) in enumerate(table.groupby(by, sort=False)):
        stats = part.groupby(x)[y].agg(["mean", "std"]).reset_index()
        ax.plot(stats[x], stats["mean"], color=COLORS[i % 7], linestyle=LINES[i % 7], marker=MARKERS[i % 7] if markers else None,
                markersize=4, label=(names or {}).get(key, str(key)))
        if stats["std"].notna().any():
            ax.fill_between(stats[x], stats["mean"] - stats["std"], stats["mean"] + stats["std"], color=COLORS[i % 7], alpha=0.15)


def spread(values, scale: float = 1.0, digits: int = 1) -> str:
    """"mean ± sd" of a few numbers, the mean alone of one, "–" of none."""
    values = pd.Series(values, dtype=float).dropna() * scale
    return "–" if not len(values) else f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def grid(columns: list[str], rows: list[list[str]], starts: list[float], rules=()):
    """A table as a picture: text in columns that start at `starts` (0 to 1), a thin line above each row in `rules`."""
    fig, ax = plt.subplots(figsize=(7.2, 0.3 * (len(rows) + 1.5)))
    ax.set(xlim=(0, 1), ylim=(len(rows) + 0.6, -0.6))
    ax.axis("off")
    for y, row in enumerate([columns, *rows]):
        for x, told in zip(starts, row):
            ax.text(x, y, told, va="center", fontsize=10.5, weight="bold" if y == 0 else "normal", in_layout=False)
    for y in (0, *rules):
        ax.plot([0, 1], [y + 0.5] * 2, color=ink(), linewidth=1.2 if y == 0 else 0.5)
    return fig


def seeds(ax, table, by: str, value: str) -> None:
    """A row for each `by`: a grey dot a seed, below it the mean with a bar of one standard deviation, and its number."""
    shown = list(dict.fromkeys(table[by]))
    stats = table.groupby(by)[value].agg(["mean", "std"]).reindex(shown)
    for i, name in enumerate(shown):
        mean, values = stats["mean"][name], table.loc[table[by] == name, value]
        ax.plot(values, [i] * len(values), "o", color="gray", markersize=4)
        ax.errorbar(mean, i + 0.22, xerr=np.nan_to_num(stats["std"][name]), fmt=MARKERS[i % 7], color=COLORS[i % 7], capsize=4)
        ax.text(mean, i + 0.32, f"{mean:.1f}", ha="center", va="top", fontsize=9)
    ax.set_yticks(range(len(shown)), [textwrap.fill(name, 34) for name in shown])
    ax.set_ylim(len(shown) - 0.35, -0.5)
    ax.grid(axis="y", visible=False)


def dots(ax, table, order, column, colour=0, scale=1.0, fmt="{:.0f}", shift=0.0, label=None) -> None:
    """A row a name of `order`: the mean over the table's rows as a dot with its number, the others' range as a line."""
    for i, name in enumerate(order):
        values = table.loc[table["name"] == name, column].dropna() * scale
        if len(values):
            ax.plot([values.min(), values.max()], [i + shift] * 2, color=COLORS[colour], linewidth=2.5, alpha=0.45)
            ax.plot(values.mean(), i + shift, MARKERS[colour], color=COLORS[colour], markersize=6, label=label if i == 0 else None)
            ax.annotate(fmt.format(values.mean()), (values.max(), i + shift), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=COLORS[colour])
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
