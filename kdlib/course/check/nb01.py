"""Notebook 01: soft targets."""

import math

import numpy as np

from ...votes import LABELS
from .common import array, call, kl, normalised, number, question, softmax


@question("01.1")
def closer(nats):
    """By how many nats is teacher A closer to people than teacher B?"""
    people, a, b = (0.60, 0.35, 0.05), (0.80, 0.15, 0.05), (0.80, 0.05, 0.15)
    from_a, from_b = kl(people, a), kl(people, b)
    right = from_b - from_a
    mistakes = {
        "the logarithm is to base 2: these are bits, not nats": right / math.log(2),
        "the logarithm is to base 10": right / math.log(10),
        "B's KL is taken from A's: A is the closer one, so the gain is positive": -right,
        "the arguments are swapped, KL(teacher ‖ people)": kl(b, people) - kl(a, people),
        "only A's KL is given": from_a,
        "only B's KL is given": from_b,
    }
    return number(nats, right, mistakes, tolerance=2e-3)


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
            f"for order = {order} the columns should be {{right}} in the first row, not {{given}}."
        )
        if wrong := array(call(function, logits.copy(), order), right, mistakes, otherwise):
            return wrong


@question("01.3")
def mix(function):
    """weight · soft + (1 - weight) · hard, as probabilities."""
    soft = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    hard = np.array([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]])
    weight = 0.25
    geometric = soft**weight * hard ** (1 - weight)
    mistakes = {
        "the weight goes to the label; here it is the teacher's "
        "(half the field means the opposite)": (1 - weight) * soft + weight * hard,
        "the label keeps its whole weight, so that rows no longer sum to 1": weight * soft + hard,
        "the plain mean is taken, whatever the weight": (soft + hard) / 2,
        "logarithms are mixed instead of probabilities": geometric,
        "logarithms are mixed instead of probabilities (and normalised)": normalised(geometric),
    }
    return array(
        call(function, soft, hard, weight),
        weight * soft + (1 - weight) * hard,
        mistakes,
        f"for weight = {weight} the first row should be {{right}}, not {{given}}.",
        digits=4,
    )
