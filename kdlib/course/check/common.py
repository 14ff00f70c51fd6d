"""How an answer is compared, and what is said about it.

A mistake is recognised by making it: each check computes what comes out when somebody errs in a
usual way, and compares. So `mistakes` is always a dict: what went wrong, as half a sentence → the
value that this gives. Most checks write the right formula with a parameter for each thing that can
go wrong; `variants` then computes the mistakes from a table of changed parameters.
"""

import math
import operator
from collections.abc import Callable

import numpy as np

QUESTIONS: dict[str, Callable] = {}


class NotAnswered(Exception):
    """The answer is still empty: None or `...`."""


def question(number: str):
    """Register the check of an exercise; its docstring's first line restates the task."""

    def register(check):
        QUESTIONS[number] = check
        return check

    return register


def filled(value):
    """The value, unless it is empty."""
    if value is None or value is ...:
        raise NotAnswered
    return value


def call(function, *args):
    """What the student's function returns."""
    return filled(function(*args))


# -- comparing -------------------------------------------------------------------------------------


def variants(formula, changes: dict, **right) -> dict:
    """The value of each mistake: what the formula gives with some of its parameters changed.

    right: the parameters that have no default.
    """
    return {mistake: formula(**(right | changed)) for mistake, changed in changes.items()}


def number(given, right, mistakes: dict, tolerance=1e-4, hint="") -> str | None:
    """None if the number is right; else the mistake that gives exactly it, or its direction.

    All numbers may be whatever float() takes. tolerance: relative above 1, absolute below.
    hint: what to look at, for a number that no usual mistake gives.
    """
    # A loss with a gradient is a number, too.
    given = float(given.detach() if hasattr(given, "detach") else given)

    def near(value):
        return abs(given - float(value)) <= tolerance * max(1, abs(float(value)))

    if near(right):
        return None
    for mistake, value in mistakes.items():
        if near(value):
            return f"{given:.4f} is what comes out when {mistake}."
    if not math.isfinite(given):
        return (
            f"The result is {given}: look for a logarithm of 0 or a division by 0. {hint}".strip()
        )
    direction = "large" if given > float(right) else "small"
    hint = hint or "Work out a small case by hand, and compare."
    return f"{given:.4g} is too {direction}, and no usual mistake gives it. {hint}"


def compare(given, right, mistakes: dict, otherwise: str, same=operator.eq) -> str | None:
    """None if the answer is right; else the mistake that it is the `same` as, or `otherwise`."""
    if same(given, right):
        return None
    for mistake, value in mistakes.items():
        if same(given, value):
            return f"This is what comes out when {mistake}."
    return otherwise


def array(given, right, mistakes: dict, otherwise: str, digits=None, atol=1e-8) -> str | None:
    """As `compare`, for arrays of numbers.

    otherwise: a hint. It may hold {given} (and {right}), which stand for first rows, rounded to
    `digits`.
    """
    given, right = np.asarray(given), np.asarray(right)
    if given.shape != right.shape:
        return f"Expected the shape {right.shape}, got {given.shape}."

    def same(a, b):
        return np.allclose(a, b, atol=atol)

    def first_row(x):
        row = np.atleast_2d(x)[0]
        return (row if digits is None else row.round(digits)).tolist()

    otherwise = otherwise.format(right=first_row(right), given=first_row(given))
    return compare(given, right, mistakes, otherwise, same)


# -- small formulas --------------------------------------------------------------------------------


def normalised(weights: np.ndarray) -> np.ndarray:
    """Rows that sum to 1: (…, classes)."""
    return weights / weights.sum(-1, keepdims=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits: (…, classes)."""
    return normalised(np.exp(logits))


def kl(p, q) -> float:
    """KL(p ‖ q) in nats, of two sequences of probabilities."""
    return sum(a * math.log(a / b) for a, b in zip(p, q))
