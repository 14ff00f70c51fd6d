"""Interactive explorers for JupyterLab. Each is the twin of a static figure, which stands before it
in the notebook and says the same on paper, to a screen reader and in a batch run; the explorer only
redraws that figure for a value in between.

    widgets.temperature(logits, classes)                       # twin of figures.softening
    widgets.loss_mix(student_logits, teacher_logits, label)    # twin of figures.pulls
"""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .ideas import pulls, softening

CLASSES = ("A", "B", "C")
CENTRAL = {
    "layout": {"width": "26em"},
    "style": {"description_width": "7em"},
    "continuous_update": False,
}


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


def temperature(logits, classes=CLASSES):
    """A slider for T beside the bars it flattens. logits: (classes,), array or tensor. The
    widget.
    """

    def draw(T):
        return softening(softened(logits, [T], classes))

    return _explorer(draw, softening.alt, T=_temperature_slider(-2, 6))


def loss_mix(student, teacher, label: int, classes=CLASSES):
    """Sliders for alpha (weight of the soft loss) and T beside the push on each student logit."""
    from ipywidgets import FloatSlider

    def draw(alpha, T):
        return pulls(pushes(student, teacher, label, [(alpha, T)], classes))

    reach = {"value": 0.5, "min": 0, "max": 1, "step": 0.05}
    alpha = FloatSlider(**reach, description="alpha (soft)", **CENTRAL)
    return _explorer(draw, pulls.alt, alpha=alpha, T=_temperature_slider(-1, 4))


def _temperature_slider(least: int, most: int):
    """A slider from 2 ** least to 2 ** most."""
    from ipywidgets import FloatLogSlider

    reach = {"value": 2, "base": 2, "min": least, "max": most, "step": 0.25}
    return FloatLogSlider(**reach, description="temperature T", **CENTRAL)


def _explorer(draw, alt: str, **sliders):
    """Sliders above the figure that `draw(**values)` returns, an Image with the figure's alt
    text.
    """
    from IPython.display import Image, display
    from ipywidgets import HTML, VBox, interactive_output

    def show(**values):
        figure, png = draw(**values), io.BytesIO()
        figure.savefig(png, format="png")
        plt.close(figure)
        display(Image(png.getvalue(), alt=alt))

    caption = HTML(f"<small>Figure: {alt}</small>")
    return VBox([*sliders.values(), interactive_output(show, sliders), caption])


def _softmax(logits, T: float) -> np.ndarray:
    z = np.asarray(logits, np.float64) / T
    weights = np.exp(z - z.max())
    return weights / weights.sum()
