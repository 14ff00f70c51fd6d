"""Figures as build products: a DataFrame in, a Figure out; SVG, PNG and PDF with alt text; redrawn without torch.

    run.figure(figures.learning_curves, table)         # in a notebook: drawn, shown, captioned, kept with the run
    python -m kdlib figures                            # all of them again from data/results, with manifest and gallery

The door to four rooms: `drawing` (style, saving, what figures share), `figures_…` (the figures, by subject), `gallery`
(records in, files out). A function marked `@figure` names the notebook that it belongs to.
"""
from . import figures_beyond, figures_glue, figures_ideas, figures_limits, figures_llama        # noqa: F401  they register their figures
from .drawing import COLORS, FIGURES, FORMATS, LINES, MARKERS, STYLES, bars, lines, save_fig, show, style      # noqa: F401
from .paths import did_you_mean


def __getattr__(name: str):
    if name in FIGURES:
        return FIGURES[name]
    if name == "redraw":
        from .gallery import redraw
        return redraw
    raise AttributeError(f"there is no figure {name!r}{did_you_mean(name, FIGURES)}")


def __dir__():
    return sorted([*globals(), *FIGURES, "redraw"])
