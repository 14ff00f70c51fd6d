"""What all figures share: one look in three styles, what a figure knows of itself, saving with alt
text, and the ways to draw that several of them need.

Colours of methods are in `looks`, those of all other things here; lines also differ in style and
marker, so that a figure survives a grey printer and colour-blind eyes. `slides` are 16:9 with no
letter under 18 points on a slide 13.33 inches wide; `paper` keeps each figure's own shape, for a
page or a notebook; `dark` is `slides` on a dark ground.
"""

import functools
import html
import io
import json
import textwrap
from pathlib import Path
from typing import Callable, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from ..paths import did_you_mean
from .looks import DARK_GROUND, look_of, method_of

# Things that are no method, after Paul Tol: none of these is a method's colour.
LIGHT = ["#44AA99", "#AA4499", "#C9A227", "#6A51A3", "#A5403A", "#5F7F3A", "#555555"]
DARK = ["#6FD6C5", "#DB86DB", "#EBD375", "#B3A2EA", "#EE938D", "#AFCB88", "#CCCCCC"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
HATCHES = ["", "//", "..", "xx", "\\\\", "--"]
STYLES = ("slides", "paper", "dark")
FORMATS = ("png", "svg", "pdf", "csv")
CANVAS = (7.2, 4.05)  # inches; letters are sized for this canvas blown up to a slide
UNDER_A_TITLE = (7.2, 3.3)  # the same width, where a slide's own title takes the top
PICTURE_WIDTH = 2400  # pixels in a .pptx: twice what a slide of 1,280 pixels shows
COLOURS = 255  # of such a picture's palette: a quarter of the bytes, and no difference to the eye
SLIDE_WIDTH = 13 + 1 / 3
SMALLEST = 18 * CANVAS[0] / SLIDE_WIDTH  # points on the canvas that are 18 on a slide


OTHER_TEXTS = "teacher's translations"  # instead of the references: the same method, a hollow mark
MESSAGE = "message"  # the mark of a title that says what the figure shows
KICKER = "kicker"  # of the small line above it


# -- what a figure knows of itself ---------------------------------------------------------------


class Rows(NamedTuple):
    """What the rows of a figure are: of our own records, and of those of real rows ("lab",
    "full").
    """

    synthetic: str
    real: str = ""


def figure(
    notebook: str,
    title: str,
    rows: Rows | str,
    alt: str,
    *,
    file: str = "",
    data: Callable | None = None,
):
    """Mark a drawing function with what its slide needs: notebook, title, and words for the blind.

    rows: what stands in the picture's corner; a text is the same in every profile, and "" stands
    for no corpus, or for one that is named in panels, rows or legend. Its table is the one that the
    notebook's record keeps under the function's name; `file` names another file of records than the
    profile's ("lab": real rows), `data` computes the table from several: see `results.Stored`.
    """

    def mark(draw):
        draw.notebook = notebook
        draw.title = title
        draw.rows = rows
        draw.alt = " ".join(alt.split())
        draw.file = file
        draw.data = data
        draw.table_name = draw.__name__
        draw.present = functools.partial(present, draw)
        return draw

    return mark


def present(draw: Callable, table: pd.DataFrame, *, folder: Path, note: str = "") -> None:
    """Draw a run's table, keep the picture under `folder`, show it with its caption and a note."""
    fig = draw(table)
    save_fig(fig, draw.__name__, folder=folder, alt=draw.alt)
    show(fig, draw.alt + note)


def again(draw: Callable, name: str, *about, **more) -> Callable:
    """The same drawing of another table, under a name of its own; the rest is `figure`'s."""

    def other(table):
        return draw(table)

    other.__name__ = name
    other.__doc__ = draw.__doc__
    figure(*about, **more)(other)
    other.table_name = draw.__name__
    return other


def table_of(draw: Callable, stored) -> pd.DataFrame:
    """The table that a figure draws, out of `results.Stored`; Missing where a record is."""
    if draw.data:
        return draw.data(stored)
    return stored.table(draw.notebook, draw.table_name, draw.file)


# -- one look ------------------------------------------------------------------------------------


def style(name: str = "paper") -> None:
    """One look for all figures; equal bytes for equal data (no dates, fixed SVG ids).

    ValueError for an unknown style.
    """
    if name not in STYLES:
        known = ", ".join(STYLES)
        raise ValueError(f"style must be one of {known}, not {name!r}{did_you_mean(name, STYLES)}")
    front, ground = ("white", DARK_GROUND) if name == "dark" else ("black", "white")
    letters = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    grounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "savefig.dpi": 160 if name == "paper" else 1600 / CANVAS[0],
            "savefig.bbox": "tight" if name == "paper" else None,
            "svg.hashsalt": "kdlib",
            "svg.fonttype": "none",  # text stays text, to be edited in a slide program
            "pdf.fonttype": 42,
            **dict.fromkeys(letters, front),
            **dict.fromkeys(grounds, ground),
        }
    )
    plt.rcParams["axes.prop_cycle"] = matplotlib.cycler(color=palette())


def palette() -> list[str]:
    """The seven colours of the style that is set: a dark ground needs lighter ones."""
    return DARK if paper() == DARK_GROUND else LIGHT


def color(i: int) -> str:
    """The i-th colour."""
    return palette()[i % 7]


def marker(i: int) -> str:
    """The i-th marker."""
    return MARKERS[i % 7]


def look(i: int) -> dict:
    """Colour, line and marker of the i-th line, as keywords of `plot`."""
    return {"color": color(i), "linestyle": LINES[i % 7], "marker": marker(i)}


def bar_look(i: int) -> dict:
    """Colour, hatch and edge of the i-th part of a bar, as keywords of `bar` and `barh`."""
    return {"color": color(i), "hatch": HATCHES[i], "edgecolor": paper()}


def ink() -> str:
    """The colour of letters and frames: black, or white on a dark ground."""
    return plt.rcParams["text.color"]


def paper() -> str:
    """The colour of the ground."""
    return plt.rcParams["axes.facecolor"]


def on_slide(
    fig, footer: str = "", canvas: tuple[float, float] = CANVAS, *, kicker: str = ""
) -> None:
    """A figure on the slides' canvas: 16:9, and no letter smaller than the back of the room can
    read.

    footer: what the rows are and where they come from, written into the corner; see `name_corpus`.
    kicker: what the figure is about, above its message. canvas: of another height, where a slide's
    title takes a part of it.
    """
    fig.set_size_inches(canvas)
    below = 0.045 if footer else 0  # of the height, kept free for one line
    above = 0.05 if kicker else 0
    rect = (0, below, 1, 1 - below - above)
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08, rect=rect)
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_tick_params(which="both", labelsize=max(SMALLEST, 10))
    for text in fig.findobj(matplotlib.text.Text):
        text.set_fontsize(max(text.get_fontsize(), SMALLEST))
    if title := _message_of(fig):
        message(fig, title.get_text())
    # Laid out once, then saved in each format as it stands.
    fig.get_layout_engine().execute(fig)
    fig.set_layout_engine("none")
    if title:
        title.set_y(1 - above - 0.015)
    name_corpus(fig, footer, 0.012)
    name_kicker(fig, kicker, 0.012)


LINE_OF_A_MESSAGE = 67 / CANVAS[0]  # letters an inch


def message(fig, text: str, neutral: str = "") -> None:
    """The figure's message as its title, at the left. On the deck it is the slide's own title.

    text: "" where the data do not bear the message out; then `neutral` says what is drawn.
    """
    said = " ".join((text or neutral).split())
    width = int(LINE_OF_A_MESSAGE * fig.get_size_inches()[0])
    lines = textwrap.wrap(said, width)
    if len(lines) > 1:  # lines of about equal length: no word stands alone in the last one
        equal = len(said) // len(lines)
        fewer = (textwrap.wrap(said, letters) for letters in range(equal, width + 1))
        lines = next(found for found in fewer if len(found) == len(lines))
    looks = dict(x=0.015, ha="left", va="top", fontsize=12, weight="bold")
    fig.suptitle("\n".join(lines), **looks).set_gid(MESSAGE)


def _message_of(fig):
    """The text that `message` wrote; None where there is none."""
    found = [text for text in fig.texts if text.get_gid() == MESSAGE and text.get_text()]
    return found[0] if found else None


def said_by(fig) -> str:
    """The figure's message, in one line."""
    text = _message_of(fig)
    return " ".join(text.get_text().split()) if text else ""


def take_message(fig) -> str:
    """The figure's message, which is taken out of the picture; "" where it has none."""
    said = said_by(fig)
    if said:
        _message_of(fig).set(text="", in_layout=False)
    return said


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a minus that is one, and 0 without any."""
    shown = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(shown) == 0 else shown.replace("-", "−")


def name_kicker(fig, kicker: str, margin: float = 0.0) -> None:
    """What the figure is about, in a small line at the top; margin as in `name_corpus`."""
    if kicker:
        looks = dict(color=color(0), weight="bold", fontsize=SMALLEST, in_layout=not margin)
        align = "top" if margin else "bottom"
        fig.text(0.015, 1 - margin, kicker, va=align, **looks).set_gid(KICKER)


def name_corpus(fig, corpus: str, margin: float = 0.0) -> None:
    """What the rows are, in grey at the lower left: a picture pasted into a talk has no caption.

    margin: of the figure's size; 0 puts the words under the figure.
    """
    if corpus:
        fig.text(
            margin,
            margin,
            corpus,
            color=ink(),
            alpha=0.65,
            fontsize=SMALLEST,
            va="bottom" if margin else "top",
            in_layout=not margin,
        )


def save_fig(
    fig, name: str, *, folder: Path, alt: str, formats: tuple[str, ...] = ("svg", "png", "pdf")
) -> list[Path]:
    """Write NAME.svg, .png and .pdf under `folder`. ValueError without an alt text that says
    something.
    """
    if not isinstance(alt, str) or len(alt.split()) < 5:
        raise ValueError(
            f"figure {name!r} needs an alt text: what it shows, for someone who cannot see it"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {
        "svg": {"Date": None, "Description": alt},
        "png": {"Description": alt, "Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Subject": alt},
    }
    paths = [folder / f"{name}.{kind}" for kind in formats]
    for kind, path in zip(formats, paths):
        fig.savefig(path, metadata=metadata[kind])
    return paths


def small_png(fig) -> bytes:
    """A figure as a PNG with a palette: equal bytes for equal figures."""
    drawn = io.BytesIO()
    dpi = PICTURE_WIDTH / fig.get_size_inches()[0]
    fig.savefig(drawn, format="png", dpi=dpi, metadata={"Software": None})
    image = Image.open(drawn).convert("RGB")
    reduced = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    held = io.BytesIO()
    reduced.save(held, format="PNG", optimize=True)
    return held.getvalue()


def show(fig, caption: str) -> None:
    """The figure inline with its alt text; under it the same words as a caption that wraps.

    Two outputs, a PNG and a caption, and not one HTML `<figure>` with the picture inside: GitHub
    shows PNG outputs, but cleans HTML, and a picture within could be lost. The PNG's metadata hold
    the alt text (nbconvert reads it); the caption's script hands it to JupyterLab's picture.
    """
    from IPython import get_ipython
    from IPython.display import display

    words = f"Figure: {caption}"
    if get_ipython() is None:
        print(words)
    else:
        display(fig, metadata={"image/png": {"alt": caption}})
        display(
            {"text/html": filled("caption.html", caption=caption), "text/plain": words}, raw=True
        )
    plt.close(fig)


def filled(template: str, **values) -> str:
    """`templates/TEMPLATE.j2` with these values: `| text` for HTML, `| json` inside a script."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("kdlib.figures"), undefined=StrictUndefined)
    environment.filters["text"] = html.escape
    environment.filters["json"] = _in_script
    return environment.get_template(f"{template}.j2").render(values)


def _in_script(value) -> str:
    """`value` as JSON that can stand in a script: no text in it can end the script."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


# -- panels, lines and words that several figures share -------------------------------------------


def groups(table: pd.DataFrame, by):
    """(number, value, its rows) for each value of `by`, in the table's order."""
    for i, (value, part) in enumerate(table.groupby(by, sort=False)):
        yield i, value, part


def fastest_first(table: pd.DataFrame):
    """(number, learning rate, its rows), the largest rate first."""
    for i, (rate, part) in enumerate(sorted(table.groupby("learning_rate"), reverse=True)):
        yield i, rate, part


def row_of_axes(count: int, width: float, height: float, extra: float = 0.0, sharey=False):
    """(figure, list of axes): `count` panels side by side, each `width` inches and the figure
    `extra`.
    """
    size = (width * count + extra, height)
    fig, axes = plt.subplots(1, count, figsize=size, sharey=sharey, squeeze=False)
    return fig, list(axes[0])


def panels(table: pd.DataFrame, by, width: float, height: float, *, sort=False, **more):
    """(figure, [(axes, value, its rows), …]): a panel for each value of `by`; see `row_of_axes`."""
    parts = list(table.groupby(by, sort=sort))
    fig, axes = row_of_axes(len(parts), width, height, **more)
    return fig, [(ax, value, part) for ax, (value, part) in zip(axes, parts)]


def level(ax, y: float, line="--", **more) -> None:
    """A thin line across at `y`: what the rest is compared with."""
    ax.axhline(y, linestyle=line, **{"color": ink(), "linewidth": 1, **more})


def upright(ax, x: float, line="--", **more) -> None:
    """A thin line upwards at `x`: what the rest is compared with."""
    ax.axvline(x, linestyle=line, **{"color": ink(), "linewidth": 1, **more})


def beside(ax, y: float, text: str, x: float = 1.02, **more) -> None:
    """Words at the height of `y`, at `x` of the panel's width (1 is its right edge)."""
    place = ax.get_yaxis_transform()
    ax.text(x, y, text, transform=place, **{"va": "center", "fontsize": 9, **more})


def middle(ax, x, y, text: str, fontsize: float = 8.5, **more) -> None:
    """Words whose middle is at (x, y)."""
    ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, **more)


def number(ax, text: str, x: float, y: float, points: float = 6, **more) -> None:
    """A number a few points right of its mark."""
    ax.annotate(text, (x, y), (points, 0), textcoords="offset points", va="center", **more)


def legend_above(ax, ncols: int = 2, y: float = 1, fontsize: float = 8.5, **more) -> None:
    """The legend over the panel, where it can hide nothing."""
    ax.legend(ncols=ncols, fontsize=fontsize, loc="lower center", bbox_to_anchor=(0.5, y), **more)


def plain_numbers(axis) -> None:
    """0.5, 1, 2 … on a logarithmic axis instead of powers."""
    axis.set_major_formatter("{x:g}")


def only_ticks(axis, ticks, labels=None) -> None:
    """These ticks and no others, also on a logarithmic axis."""
    axis.set_ticks(ticks, labels)
    axis.set_minor_locator(matplotlib.ticker.NullLocator())


def rate_name(rate: float) -> str:
    """A learning rate as people write it: 2e-5."""
    return f"{rate:.0e}".replace("e-0", "e-")


def bars(ax, labels, values, errors=None, fmt: str = "{:.2f}", **more) -> None:
    """Bars with their numbers on top: a slide is read without a ruler."""
    places = range(len(values))
    looks = {"color": palette()[: len(values)]} | more
    drawn = ax.bar(places, values, yerr=errors, capsize=3, **looks)
    ax.set_xticks(places, labels)
    ax.bar_label(drawn, [fmt.format(v) for v in values], padding=6, fontsize=9)
    ax.grid(axis="x", visible=False)


def band(ax, stats: pd.DataFrame, middle, low, high, i: int, label: str, alpha=0.15) -> None:
    """The i-th line over the index of `stats`, with markers and a band from `low` to `high`."""
    ax.plot(stats.index, middle, **look(i), markersize=4, label=label)
    ax.fill_between(stats.index, low, high, color=color(i), alpha=alpha)


def lines(ax, table: pd.DataFrame, x: str, y: str, by: str, names=None, markers=True) -> None:
    """One line a value of `by`: mean over the other rows, and a band of ± 1 sd where there are
    several.

    names: a dict from a value to what the legend calls it.
    """
    for i, value, part in groups(table, by):
        stats = part.groupby(x)[y].agg(["mean", "std"])
        mean, sd = stats["mean"], stats["std"]
        dressed = look(i) if markers else {**look(i), "marker": None}
        label = (names or {}).get(value, str(value))
        ax.plot(stats.index, mean, **dressed, markersize=4, label=label)
        if sd.notna().any():
            ax.fill_between(stats.index, mean - sd, mean + sd, color=color(i), alpha=0.15)


def heat(ax, shades, texts, white, columns, rows, *, fontsize=10, rotation=0, **more):
    """A table of coloured cells, each with its text; returns the image, for a colour bar.

    shades, texts, white (where letters must be white): (rows, columns); columns, rows: the labels.
    """
    image = ax.imshow(shades, aspect="auto", **more)
    for (i, j), text in np.ndenumerate(np.asarray(texts, dtype=object)):
        shade = "white" if white[i][j] else "black"
        middle(ax, j, i, text, fontsize, rotation=rotation, color=shade)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    return image


def spread(values, scale: float = 1.0, digits: int = 1) -> str:
    """ "mean ± sd" of a few numbers, the mean alone of one, "–" of none."""
    values = pd.Series(values, dtype=float).dropna() * scale
    if not len(values):
        return "–"
    sd = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{sd}"


def grid(columns: list[str], rows: list[list[str]], starts: list[float], rules=()):
    """A table as a picture: text in columns that start at `starts` (0 to 1).

    rules: the numbers of the rows that have a thin line below them.
    """
    fig, ax = plt.subplots(figsize=(7.2, 0.3 * (len(rows) + 1.5)))
    ax.set(xlim=(0, 1), ylim=(len(rows) + 0.6, -0.6))
    ax.axis("off")
    for y, row in enumerate([columns, *rows]):
        weight = "bold" if y == 0 else "normal"
        for x, text in zip(starts, row):
            ax.text(x, y, text, va="center", fontsize=10.5, weight=weight, in_layout=False)
    for y in (0, *rules):
        ax.plot([0, 1], [y + 0.5] * 2, color=ink(), linewidth=1.2 if y == 0 else 0.5)
    return fig


def name_rows(ax, names: list[str], below: float = 0.5) -> None:
    """A row for each name, the first at the top; `below`: how much room is left under the last."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - below, -0.5)


def seed_row(
    ax, i, values, mean, sd, method="", *, hollow=False, gap=0.22, capsize=4, fontsize=9
) -> None:
    """Row i: a pale dot a seed; below it the method's mark at the mean, with a bar of one sd."""
    error = np.nan_to_num(sd)
    looks = look_of(method) | {"linestyle": "none"}
    if hollow:
        looks["markerfacecolor"] = paper()
    ax.plot(values, [i] * len(values), "o", color=looks["color"], alpha=0.4, markersize=4)
    ax.errorbar(mean, i + gap, xerr=error, **looks, capsize=capsize)
    number(ax, f"{mean:.1f}", mean + error, i + gap, fontsize=fontsize)


def seeds(ax, table: pd.DataFrame, by: str, value: str) -> None:
    """A row for each value of `by`, in the table's order and its method's look; see `seed_row`."""
    stats = table.groupby(by, sort=False)[value].agg(["mean", "std"])
    for i, (name, mean, sd) in enumerate(stats.itertuples()):
        values = table.loc[table[by] == name, value]
        seed_row(ax, i, values, mean, sd, method_of(name), hollow=OTHER_TEXTS in name)
    name_rows(ax, [textwrap.fill(name, 34) for name in stats.index], 0.35)
    ax.grid(axis="y", visible=False)


def label_ends(ax, ends: list[tuple], x: float = 1.01, gap: float = 0.085) -> None:
    """Words at the right of a panel, each at the height where its line ends, moved apart.

    ends: (x and y of a line's end, text, colour) each. Axes must have their limits already.
    """
    ax.get_xlim(), ax.get_ylim()  # limits that are still to be computed are computed now
    to_axes = ax.transData - ax.transAxes
    heights = np.array([to_axes.transform((at, height))[1] for at, height, _, _ in ends])
    order = np.argsort(heights, kind="stable")
    for _ in range(100):  # neighbours push one another until all have room
        for low, high in zip(order, order[1:]):
            push = (gap - (heights[high] - heights[low])) / 2
            if push > 1e-6:
                heights[low] -= push
                heights[high] += push
    for height, (_, _, text, shade) in zip(heights, ends):
        looks = dict(color=shade, va="center", ha="left", fontsize=10)
        ax.text(x, height, text, transform=ax.transAxes, **looks)


def dots(ax, table, column, i=0, *, scale=1.0, fmt="{:.0f}", shift=0.0, label=None) -> None:
    """A row a `name`: the mean as the i-th mark with its number, the range of the others as a
    line.
    """
    names = list(table["name"].unique())
    for y, name in enumerate(names):
        values = table.loc[table["name"] == name, column].dropna() * scale
        if not len(values):
            continue
        y_place = y + shift
        least, most, mean = values.min(), values.max(), values.mean()
        ax.plot([least, most], [y_place] * 2, color=color(i), linewidth=2.5, alpha=0.45)
        once = label if y == 0 else None  # one entry in the legend, however many rows
        ax.plot(mean, y_place, marker(i), color=color(i), markersize=6, label=once)
        number(ax, fmt.format(mean), most, y_place, fontsize=8.5, color=color(i))
    name_rows(ax, names)
