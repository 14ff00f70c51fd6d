"""Interactive explorers for JupyterLab. Each is the twin of a static figure, which stands before it in the notebook and
says the same on paper, to a screen reader and in a batch run; the explorer only redraws that figure for a value in between.

    widgets.temperature(logits, classes)                       # twin of figures.softening
    widgets.loss_mix(student_logits, teacher_logits, label)    # twin of figures.pulls
"""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from . import figures

CLASSES = ("A", "B", "C")
CENTRAL = dict(layout={"width": "26em"}, style={"description_width": "7em"}, continuous_update=False)


def softened(logits, temperatures, classes=CLASSES) -> pd.DataFrame:
    """The table of `figures.softening`: softmax(logits / T) for each T. logits: (classes,)."""
    rows = []
    for T in temperatures:
        p = _softmax(logits, T)
        entropy = float(-(p * np.log(np.maximum(p, 1e-300))).sum())
        rows += [{"T": float(T), "class": name, "probability": float(x), "entropy": entropy} for name, x in zip(classes, p)]
    return pd.DataFrame(rows)


def pushes(student, teacher, label: int, settings, classes=CLASSES) -> pd.DataFrame:
    """The table of `figures.pulls`: minus the gradient of each part of the loss at the student's logits, weights included.

    student, teacher: (classes,) logits; label: the right class; settings: pairs (alpha, T). The closed forms are
    alpha · T · (teacher_T - student_T) for the soft part and (1 - alpha) · (one_hot - student_1) for the hard one.
    """
    rows, hard = [], np.eye(len(classes))[label]
    for alpha, T in settings:
        soft = alpha * T * (_softmax(teacher, T) - _softmax(student, T))
        rows += [{"alpha": float(alpha), "T": float(T), "class": name, "soft": float(a), "hard": float(b)}
                 for name, a, b in zip(classes, soft, (1 - alpha) * (hard - _softmax(student, 1.0)))]
    return pd.DataFrame(rows)


def temperature(logits, classes=CLASSES):
    """A slider for T beside the bars it flattens. logits: (classes,), array or tensor. Returns the widget."""
    from ipywidgets import FloatLogSlider
    slider = FloatLogSlider(value=2, base=2, min=-2, max=6, step=0.25, description="temperature T", **CENTRAL)
    return _explorer(lambda T: figures.softening(softened(logits, [T], classes)), figures.softening.alt, T=slider)


def loss_mix(student, teacher, label: int, classes=CLASSES):
    """Sliders for alpha (weight of the soft loss) and T beside the push on each of the student's logits."""
    from ipywidgets import FloatLogSlider, FloatSlider
    sliders = {"alpha": FloatSlider(value=0.5, min=0, max=1, step=0.05, description="alpha (soft)", **CENTRAL),
               "T": FloatLogSlider(value=2, base=2, min=-1, max=4, step=0.25, description="temperature T", **CENTRAL)}
    return _explorer(lambda alpha, T: figures.pulls(pushes(student, teacher, label, [(alpha, T)], classes)), figures.pulls.alt, **sliders)


def _explorer(draw, alt: str, **sliders):
    """Sliders above the figure that `draw(**values)` returns. It is shown as an Image with the figure's alt text."""
    import io

    from ipywidgets import HTML, VBox, interactive_output
    from IPython.display import Image, display

    def show(**values):
        figure, png = draw(**values), io.BytesIO()
        figure.savefig(png, format="png")
        plt.close(figure)
        display(Image(png.getvalue(), alt=alt))
    return VBox([*sliders.values(), interactive_output(show, sliders), HTML(f"<small>Figure: {alt}</small>")])


def _softmax(logits, T: float) -> np.ndarray:
    z = np.asarray(logits, np.float64) / T
    weights = np.exp(z - z.max())
    return weights / weights.sum()
