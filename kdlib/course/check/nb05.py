"""Notebook 05: DistilBERT on QQP."""

import numpy as np

from .common import call, number, question, softmax

ANSWERS = {
    "05.1": """
def always_duplicate(share_of_duplicates):
    p = share_of_duplicates
    f1 = 2 * p / (1 + p)
    return p, f1 / 2, f1

Why: "duplicate" is right on the share p of the rows, so accuracy is p. That class has precision p
and recall 1, hence the F1 2p / (1 + p). The other class is never answered: its F1 is 0, and
macro-F1 is the mean of the two. GLUE's own F1 is the largest number of the three, for a model that
never looks at a question. Macro-F1 gives it away.
""",
    "05.2": """
def fit_temperature(logits, labels):
    logits, labels = torch.as_tensor(logits).double(), torch.as_tensor(labels)
    log_T = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_T], max_iter=100, line_search_fn="strong_wolfe")

    def cross_entropy():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_T.exp(), labels)
        loss.backward()
        return loss

    optimizer.step(cross_entropy)
    return log_T.exp().item()

Why: cross-entropy is smallest where the model says 80 % and is right in 80 % of such cases. Log T
keeps T above 0. A fine grid of temperatures does as well. This T repairs the probabilities of a
trained model and changes no answer. The T of distillation softens what a student is shown while it
learns. They are two different settings with the same letter.
""",
    "05.3": """
def best_alpha(runs, convention):
    distilled = runs[runs["method"] == "kd"]
    best = distilled.groupby("alpha")["accuracy"].mean().idxmax()
    return best if convention == "soft" else 1 - best

Why: controls carry an alpha in their settings and do not use it, so they are left out. The mean
over seeds chooses, because the single best run is often the luckiest. "alpha = 0.9" in the book's
convention means that nine tenths of the loss are the labels: here that is 0.1.
""",
}


def constant_answer(p: float) -> tuple[float, float, float]:
    """(accuracy, macro-F1, F1 of the class) of a model that answers a class of share p always."""
    return p, p / (1 + p), 2 * p / (1 + p)


@question("05.1")
def always_duplicate(function):
    """Accuracy, macro-F1 and F1 of the duplicates, if a model answers "duplicate" to everything."""
    for p in (0.3682, 0.2):
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
            "accuracy": (accuracy, {"the answers that are wrong are counted": 1 - p}),
            "macro-F1": (macro_f1, {"one class alone is counted, and not the mean of two": f1}),
            "F1 of the duplicates": (f1, {"the mean over both classes is taken": macro_f1}),
        }
        shared = {
            "the accuracy is taken for the F1": p,
            "the recall is taken for the F1": 1,
            "precision and recall are averaged: F1 is their harmonic mean": (1 + p) / 2,
            "precision and recall are averaged, and then the classes": (1 + p) / 4,
        }
        for (name, (right, mistakes)), value in zip(named.items(), given):
            others = {} if name == "accuracy" else shared
            per_cent = {"percentages are given where shares are asked": 100 * right}
            hint = 'What are precision and recall of "duplicate", and what are those of the other?'
            if wrong := number(value, right, mistakes | others | per_cent, hint=hint):
                return f"For a share of {p}, {name}: {wrong}"


def _cross_entropy(logits, labels):
    return -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()


def _brier(logits, labels):
    return ((softmax(logits) - np.eye(logits.shape[1])[labels]) ** 2).mean()


def _optimum(logits, labels) -> float:
    """The temperature of the smallest cross-entropy.

    In b = 1/T the cross-entropy is convex, so its slope has one zero, which bisection finds.
    """
    low, high = 1e-3, 1e3
    for _ in range(100):
        b = (low * high) ** 0.5
        expected = (softmax(b * logits) * logits).sum(1)
        slope = (expected - logits[np.arange(len(labels)), labels]).mean()
        low, high = (low, b) if slope > 0 else (b, high)
    return 1 / low


def _best_on_grid(loss, logits, labels) -> float:
    grid = np.geomspace(0.05, 20, 200)
    return float(min(grid, key=lambda T: loss(logits / T, labels)))


def _rows_with(factor: float, classes: int):
    """Logits that are `factor` times the honest ones, and labels."""
    draw = np.random.default_rng(classes)
    honest = draw.normal(size=(400, classes)) * 2
    labels = np.array([draw.choice(classes, p=row) for row in softmax(honest)])
    return honest * factor, labels


@question("05.2")
def fitted_temperature(function):
    """The temperature at which the cross-entropy of logits / T is smallest."""
    for name, factor, classes in (("overconfident", 3.0, 3), ("too modest", 0.4, 2)):
        logits, labels = _rows_with(factor, classes)
        given = float(call(function, logits.copy(), labels.copy()))
        right = _optimum(logits, labels)
        mistakes = {
            "logits are multiplied by T, not divided by it": 1 / right,
            "nothing is fitted. Accuracy cannot choose T: it is the same for each": 1,
            "log T is returned, not T": np.log(right),
            "the squared error is made smallest, not the cross-entropy": _best_on_grid(
                _brier, logits, labels
            ),
            "probabilities are divided by T: it belongs under the logits": _best_on_grid(
                _cross_entropy, softmax(logits), labels
            ),
            "T is squared": right**2,
        }
        hint = (
            "Print the cross-entropy at a few temperatures around yours. "
            "A grid must be fine, and a gradient needs steps enough."
        )
        wrong = number(given, right, mistakes, tolerance=0.02, hint=hint)
        if wrong is None:
            continue
        # A T at an end of what was searched: nothing inside stopped it.
        if hint in wrong and 0 < given < right / 4:
            wrong = (
                f"T = {given:.3g} runs towards 0. That happens when the *largest* cross-entropy is "
                "looked for, or when the model's own answers are taken for the labels."
            )
        elif hint in wrong and given > 3 * right:
            wrong = (
                f"T = {given:.3g} wins by being modest: the softest answers are not the ones that "
                "are right as often as they say."
            )
        return f"On rows of a model that is {name}: {wrong}"


@question("05.3")
def best_alpha(function):
    """The best alpha of KD by mean accuracy, as the weight of the soft loss.

    The table is in either convention: alpha weighs the soft loss, or the hard one. It also holds
    controls, which carry an alpha and do not use it.
    """
    import pandas as pd

    columns = {
        "method": ["kd"] * 6 + ["ce", "ce", "label_smoothing", "label_smoothing"],
        "alpha": [0.2, 0.2, 0.4, 0.4, 0.9, 0.9, 0.5, 0.5, 0.5, 0.5],
        "seed": [0, 1] * 5,
        "accuracy": [0.80, 0.82, 0.70, 0.70, 0.90, 0.70, 0.95, 0.95, 0.93, 0.93],
    }
    runs = pd.DataFrame(columns)
    for convention in ("soft", "hard"):

        def ours(alpha):
            return alpha if convention == "soft" else 1 - alpha

        right = ours(0.2)
        mistakes = {
            "the convention is not heeded, or turned round": 1 - right,
            "controls count: their settings carry alpha = 0.5, and they never use it": 0.5,
            "the labels alone count as KD at alpha = 0: they are a control": ours(0.0),
            "the single best run chooses, not the mean over seeds": ours(0.9),
            "the single best run chooses, and the convention is not heeded": 1 - ours(0.9),
            "the *worst* mean chooses": ours(0.4),
            "the best accuracy is returned, not its alpha": 0.81,
        }
        hint = "Three steps: keep method == 'kd', take means by alpha, then mind the convention."
        if wrong := number(call(function, runs.copy(), convention), right, mistakes, hint=hint):
            return f"For a table in the convention {convention!r}: {wrong}"
