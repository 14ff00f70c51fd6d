"""Figures as build products: a DataFrame in, a Figure out; SVG, PNG and PDF with alt text; redrawn
without torch.

    run.figure(figures.learning_curves, table)   # in a notebook: drawn, shown, captioned, kept
    python -m kdlib figures                      # all again from data/results, with a gallery

The rooms: `drawing` (style, saving, what figures share), `looks` (one look a method), a module a
chapter (`ideas`, `loss`, `glue`, `llama`, `limits`, `beyond`; `rates` for all learning rates,
`lecture` for the room), `slides` (all of them, in order), `gallery` (records in, files out),
`explorers` and `legend` (for a notebook's screen), `widgets` (the tables behind explorers).
"""

# ruff: noqa: F401  (this is the door: what `figures.` offers)
from ..paths import did_you_mean
from .beyond import claims, cover_or_seek, hidden_states, two_by_two, two_modes
from .drawing import FORMATS, LINES, MARKERS, STYLES, bars, lines, save_fig, show, style
from .gallery import redraw
from .glue import (
    confusion,
    confusion_mnli,
    confusion_qqp,
    methods,
    methods_mnli,
    reliability,
    reliability_qqp,
    temperature_and_alpha,
    temperature_and_alpha_real,
)
from .ideas import (
    dark_knowledge,
    dark_knowledge_or_smoothing,
    dark_knowledge_people,
    nearer_then_farther,
    nearer_then_farther_people,
    one_pair,
    race,
    softening,
    speed_size_quality,
    teacher_and_student,
    why_t_squared,
)
from .lecture import batch_timeline, gains, number_line, run_on, shift_and_mask, worked_row
from .limits import (
    into_few_bits,
    layer_sensitivity,
    memory_bars,
    on_real_rows,
    plane_rows,
    quantisation_plane,
    quantisation_plane_mnli,
)
from .llama import (
    end_learnt,
    end_recipes,
    end_unlearnt,
    prompt_legend,
    token_divergence,
    translation_rates,
    translations,
    translators,
    vocabulary_cost,
)
from .loss import accuracy_hides, mistakes, pulls
from .rates import (
    eurollama_rates,
    learning_curves,
    learning_curves_mnli,
    learning_curves_qqp,
    lecture_scores,
    live_curves,
    mnli_rates,
    qqp_rates,
)
from .slides import FIGURES


def __getattr__(name: str):
    raise AttributeError(f"there is no figure {name!r}{did_you_mean(name, FIGURES)}")
