"""Notebook 05: DistilBERT on QQP."""

import numpy as np

from .common import call, number, question, softmax


def constant_answer(p: float) -> tuple[float, float, float]:
    """(accuracy, macro-F1, F1 of the class) of a model that answers a class of share p always."""
    return p, p / (1 + p), 2 * p / (1 + p)


@question("05.1")
def always_duplicate(function):
    """Accuracy, macro-F1 and F1 of the duplicates, if a model answers "duplicate" to everything."""
    p = 0.3682
    given = call(function, p)
    if not isinstance(given, (tuple, list)) or len(given) != 3:
        return "three numbers are asked: accuracy, macro-F1, F1 of the duplicates."
    if all(abs(a - b) < 1e-4 for a, b in zip(given, constant_answer(1 - p))):
        return (
            "This is what comes out when the classes are swapped: "
            'the model answers "duplicate", not "not duplicate".'
        )
    accuracy, macro_f1, f1 = constant_answer(p)
    named = {
        "accuracy": (accuracy, f1),
        "macro-F1": (macro_f1, f1),
        "F1 of the duplicates": (f1, macro_f1),
    }
    for (name, (right, other)), value in zip(named.items(), given):
        mistakes = {
            "the mean over both classes is taken where one is asked, or the reverse": other,
            "percentages are given where shares are asked": 100 * right,
        }
        if wrong := number(value, right, mistakes):
            return f"{name}: {wrong}"


@question("05.2")
def calibrating_temperature(function):
    """The temperature of a grid at which held-out cross-entropy is smallest."""
    draw = np.random.default_rng(0)
    calibrated = draw.normal(size=(400, 3)) * 2
    labels = np.array([draw.choice(3, p=row) for row in softmax(calibrated)])
    overconfident = calibrated * 3
    grid = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]

    def ce(temperature):
        probabilities = softmax(overconfident / temperature)
        return -np.log(probabilities[np.arange(400), labels]).mean()

    mistakes = {
        "the largest cross-entropy is looked for, "
        "or the model's own answers are taken for the labels": min(grid),
        "the most modest answers win: calibration is about being right as often as one says": max(
            grid
        ),
    }
    return number(call(function, overconfident, labels, grid), min(grid, key=ce), mistakes)


@question("05.3")
def best_alpha(function):
    """The best alpha by mean accuracy, as the weight of the soft loss.

    The table is in either convention: alpha weighs the soft loss, or the hard one.
    """
    import pandas as pd

    columns = {
        "alpha": [0.1, 0.1, 0.5, 0.5, 0.9, 0.9],
        "seed": [0, 1, 0, 1, 0, 1],
        "accuracy": [0.80, 0.82, 0.80, 0.80, 0.85, 0.70],
    }
    runs = pd.DataFrame(columns)
    for convention, right in (("soft", 0.1), ("hard", 0.9)):
        mistakes = {"the convention is not heeded, or turned round": 1 - right}
        if wrong := number(call(function, runs, convention), right, mistakes):
            return f"For a table in the convention {convention!r}: {wrong}"
