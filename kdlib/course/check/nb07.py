"""Notebook 07: distilling EuroLlama."""

import itertools

import pandas as pd
import torch

from ...losses import distillation_loss
from ...scores import bleu
from .common import call, compare, number, question, variants

REFERENCE = "La Commission n'a pas approuvé le rapport sur la pêche."


def has_pas(text: str) -> bool:
    return " pas " in f" {text} "


def negated(text: str) -> bool:
    """Whether both halves of "ne … pas" are there."""
    firsts = (" n'", " n’", " ne ")
    return has_pas(text) and any(first in f" {text.lower()}" for first in firsts)


@question("07.1")
def candidates(given):
    """`kept` means what the reference means, `lost` has lost "ne … pas"; BLEU prefers `lost`."""
    kept, lost = given
    if not negated(kept):
        return (
            "The first candidate must still say that the Commission did not: "
            'it needs both halves of "ne … pas".'
        )
    if negated(lost) or has_pas(lost):
        return 'The second candidate should have lost "ne … pas" and say the opposite.'
    if kept.strip() == REFERENCE:
        return "The first candidate is the reference itself; exchange words for synonyms."
    score_of_kept, score_of_lost = (bleu([text], [REFERENCE]).value for text in (kept, lost))
    if score_of_kept >= score_of_lost:
        return (
            f"BLEU still prefers the right one ({score_of_kept:.1f} to {score_of_lost:.1f}). "
            "A single exchanged word breaks up to four runs of four; "
            "exchange one in the middle, or two."
        )
    return None


@question("07.2")
def kd_on_targets(function):
    """T² · KL(teacher ‖ student) over a causal model's target tokens: shifted, a mean over them."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 7, 5, generator=draw) * 2 for _ in range(2))
    labels = torch.tensor([[-100, -100, -100, 1, 4, 0, -100], [-100, -100, 2, 3, 1, 0, 2]])
    T = 3.0
    # Position i predicts token i + 1, and the last position predicts nothing.
    targets = torch.zeros_like(labels, dtype=torch.bool)
    targets[:, :-1] = labels[:, 1:] != -100
    first_row = torch.tensor([[True], [False]])

    def kd(of=student, to=teacher, where=targets, factor=1.0):
        unused = torch.zeros(int(where.sum()), dtype=torch.long)
        return factor * distillation_loss(of[where], to[where], unused, temperature=T).kd

    changes = {
        "the labels are not shifted: position i predicts token i + 1": {"where": labels != -100},
        "every position counts, the prompt too": {"where": torch.ones_like(targets)},
        "T² is forgotten": {"factor": 1 / T**2},
        "the KL's arguments are swapped": {"of": teacher, "to": student},
    }
    mean_of_rows = (kd(where=targets & first_row) + kd(where=targets & ~first_row)) / 2
    mistakes = variants(kd, changes) | {
        "rows are averaged first, so that a token of a short row weighs more": mean_of_rows,
        "the sum is not divided by the number of tokens": kd(factor=targets.sum()),
    }
    return number(call(function, student, teacher, labels, T), kd(), mistakes)


@question("07.3")
def best_rates(function):
    """{lora_rank: learning rate}, by mean validation ce over seeds; test scores decide nothing."""
    points = itertools.product([0, 16], [1e-2, 1e-3, 1e-4], range(3))
    runs = pd.DataFrame(points, columns=["lora_rank", "learning_rate", "seed"])
    # One line a rank and learning rate, one column a seed.
    # fmt: off
    runs["ce"] = [
        0.50, 0.90, 0.52,
        0.60, 0.61, 0.59,
        0.70, 0.70, 0.70,
        0.80, 0.81, 0.79,
        0.95, 0.70, 0.96,
        1.2, 1.2, 1.2,
    ]
    runs["bleu"] = [
        40, 41, 42,
        50, 50, 50,
        60, 61, 62,
        30, 30, 31,
        35, 34, 33,
        10, 10, 10,
    ]
    # fmt: on
    given = {int(rank): float(rate) for rank, rate in dict(call(function, runs)).items()}
    mistakes = {
        "the test scores chose: then they are no test any more": {0: 1e-4, 16: 1e-3},
        "the single best run chose, not the mean over seeds": {0: 1e-2, 16: 1e-3},
        "the *largest* cross-entropy was taken": {0: 1e-4, 16: 1e-4},
    }
    otherwise = (
        "Expected one rate for each of the ranks 0 and 16, the one with the least mean `ce`; "
        f"got {given}."
    )
    return compare(given, {0: 1e-3, 16: 1e-2}, mistakes, otherwise)
