"""Notebook 01: soft targets."""

import math
from functools import partial

import numpy as np

from ...votes import LABELS
from .common import array, call, compare, kl, question, softmax

# The model answers, with the reason: what `kd.check.reveal` prints.
ANSWERS = {
    "01.1": """
0.33 nats. In KL(truth ‖ B) - KL(truth ‖ A) all terms cancel but those of the two
wrong classes: 0.35 · log(0.15 / 0.05) + 0.05 · log(0.05 / 0.15) = 0.30 · log 3.
""",
    "01.2": """
def to_glue(logits, order):
    return logits[:, [order.index(name) for name in votes.LABELS]]

For each class of GLUE, ask at which place it stands in `order`. The opposite question gives
the inverse permutation. Both are equal when two classes are exchanged, and differ when three
rotate.
""",
    "01.3": """
def best_weight(truth, soft, hard):
    def distance(weight):
        return votes.kl(truth, weight * soft + (1 - weight) * hard).mean()
    return min([step / 10 for step in range(11)], key=distance)

On MiniNLI the best weight lies between 0 and 1: label and teacher err on different rows, so
each knows something that the other does not.
""",
}


@question("01.1")
def closer(nats):
    """By how many nats is teacher A closer to the truth than teacher B?"""
    truth, a, b = (0.60, 0.35, 0.05), (0.80, 0.15, 0.05), (0.80, 0.05, 0.15)
    from_a, from_b = kl(truth, a), kl(truth, b)
    right = from_b - from_a
    mistakes = {
        "the logarithm is to base 2: these are bits, not nats": right / math.log(2),
        "the logarithm is to base 10": right / math.log(10),
        "B's KL is taken from A's: A is the closer one, so the gain is positive": -right,
        "the arguments are swapped, KL(teacher ‖ truth)": kl(b, truth) - kl(a, truth),
        "only A's KL is given": from_a,
        "only B's KL is given": from_b,
    }
    hint = (
        "Write KL(truth ‖ A) and KL(truth ‖ B) as sums of three terms each. Which terms are equal "
        "in both? Only the others remain in the difference."
    )
    near = partial(math.isclose, rel_tol=0, abs_tol=2e-3)
    return compare(float(nats), right, mistakes, hint, near)


@question("01.2")
def to_glue(function):
    """Columns in the order that `order` names → columns in GLUE's order."""
    orders = (
        ("neutral", "contradiction", "entailment"),
        ("entailment", "contradiction", "neutral"),
        LABELS,
    )
    for order in orders:
        logits = np.array([[2.0, -1.0, 0.5], [0.25, 3.0, -2.0]])
        wanted = [order.index(name) for name in LABELS]
        turned_round = [LABELS.index(name) for name in order]
        right = logits[:, wanted]
        mistakes = {
            "the columns stay as they were": logits,
            "the permutation is turned round: ask where GLUE's class stands in `order`, "
            "not the reverse": logits[:, turned_round],
            "each row is sorted": np.sort(logits),
            "softmax has been taken": softmax(right),
            "rows are permuted instead of columns": logits[np.array(wanted[:2]) % 2],
        }
        otherwise = (
            f"For order = {order} the columns do not come out in GLUE's order, {LABELS}. Where in "
            "`order` does each of GLUE's classes stand?"
        )
        if wrong := array(call(function, logits.copy(), order), right, mistakes, otherwise):
            return wrong


@question("01.3")
def best_weight(function):
    """The weight of `soft` whose mix with `hard` has the least mean KL(truth ‖ mix).

    Asked for rows of which a fifth, most or all have the teacher's answer as their truth, and the
    others the label. KL(mix ‖ truth) prefers other weights there.
    """
    for seed, share in ((0, 0.2), (1, 0.7), (2, 1.0)):
        draw = np.random.default_rng(seed)
        soft = draw.dirichlet((0.3, 0.3, 0.3), size=200) * 0.94 + 0.02
        hard = np.eye(3)[draw.integers(3, size=200)] * 0.7 + 0.1
        truth = np.where(draw.random((200, 1)) < share, soft, hard)
        right, mistakes = _weights(truth, soft, hard)
        hint = (
            "On the check's own rows another weight has a lower mean KL. Do you mix for each of "
            "the eleven weights, average KL(truth ‖ mix) over the rows, and return the weight?"
        )
        given = float(call(function, truth, soft, hard))
        near = partial(math.isclose, rel_tol=0, abs_tol=1e-3)
        if wrong := compare(given, right, mistakes, hint, near):
            return wrong


def _weights(truth, soft, hard) -> tuple[float, dict]:
    """(the best weight, what the usual mistakes return)."""
    weights = [step / 10 for step in range(11)]
    distances, swapped = [], []
    for weight in weights:
        mix = weight * soft + (1 - weight) * hard
        distances.append((truth * np.log(truth / mix)).sum(-1).mean())
        swapped.append((mix * np.log(mix / truth)).sum(-1).mean())
    best = int(np.argmin(distances))
    mistakes = {
        "the weight goes to the label; here it is the teacher's "
        "(half the field means the opposite)": weights[-1 - best],
        "the largest KL is looked for, not the smallest": weights[int(np.argmax(distances))],
        "the place in the list is returned instead of the weight": best,
        "the lowest KL is returned instead of its weight": distances[best],
        "KL's arguments are swapped, KL(mix ‖ truth)": weights[int(np.argmin(swapped))],
    }
    return weights[best], mistakes
