"""Notebook 03: the distillation loss."""

import torch
import torch.nn.functional as F

from ...losses import distillation_loss
from .common import call, number, question, variants


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_swapped(log_p, log_q):
    return kl(log_q, log_p)


def kl_of_probabilities(log_p, log_q):
    return kl(log_p, log_q.exp())


def cross_entropy(log_p, log_q):
    return -(log_p.exp() * log_q).sum(-1)


@question("03.1")
def loss_with_padding(function):
    """alpha·T²·KL + (1-alpha)·CE, a mean over the rows whose label is not -100."""
    student = torch.tensor([[2.0, -1.0, 0.3], [0.1, 0.4, -0.2], [1.0, 1.0, -3.0], [5.0, 0.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0, -2.0], [-1.0, 3.0, 0.0], [0.5, -0.5, 2.0], [-4.0, 0.0, 4.0]])
    labels = torch.tensor([0, 1, 2, -100])
    T, alpha = 2.5, 0.8
    right = distillation_loss(student, teacher, labels, temperature=T, alpha=alpha).total

    def loss(
        soft=1.0, hard=1.0, rows=3, student_T=T, teacher_T=T, hard_T=1.0, weight=alpha, distance=kl
    ):
        """`soft` and `hard` are factors, which are 1 where nothing is wrong."""
        log_teacher = (teacher[:rows] / teacher_T).log_softmax(-1)
        log_student = (student[:rows] / student_T).log_softmax(-1)
        kd = soft * T**2 * distance(log_teacher, log_student).mean()
        ce = hard * F.cross_entropy(student / hard_T, labels)
        return weight * kd + (1 - weight) * ce

    changes = {
        "the padded row counts in the soft loss": {"rows": 4},
        "the padded row is dropped from the sum but still counted in the divisor": {"soft": 0.75},
        "T² is forgotten": {"soft": 1 / T**2},
        "T stands where T² belongs": {"soft": 1 / T},
        "T² multiplies the hard loss too": {"hard": T**2},
        "KL's arguments are swapped": {"distance": kl_swapped},
        'reduction="mean" divides by the classes too': {"soft": 1 / 3},
        "the student's probabilities go into kl_div, which wants their logarithms": {
            "distance": kl_of_probabilities
        },
        "alpha weights the hard loss": {"weight": 1 - alpha},
        "the teacher is not softened": {"teacher_T": 1},
        "the student is not softened": {"student_T": 1},
        "the hard loss is softened by T as well": {"hard_T": T},
        "the rows are summed, not averaged": {"soft": 3, "hard": 3},
        "the soft loss is a cross-entropy: the teacher's entropy is not taken away": {
            "distance": cross_entropy
        },
    }
    mistakes = variants(loss, changes)
    return number(call(function, student, teacher, labels, T, alpha), right, mistakes)


@question("03.2")
def alpha_without_t_squared(alpha):
    """T² was forgotten at T = 4: which alpha gives the gradient direction of alpha = 0.5?"""
    mistakes = {
        "T stands where T² belongs": 4 / 5,
        "the ratio is turned round: the soft loss needs more weight, not less": 1 / 17,
        "the ratio is turned round, and T stands where T² belongs": 1 / 5,
        "alpha is taken for the ratio of the two weights (they sum to 1)": 16,
        "nothing is made up for": 0.5,
        "alpha is multiplied by T² (a weight above 1 is refused)": 8,
    }
    return number(alpha, 16 / 17, mistakes, tolerance=3e-3)


@question("03.3")
def accumulation(ratio):
    """How many times too large is a mean's gradient over 4 micro-batches if nobody divides?"""
    mistakes = {
        "Trainer divided by the micro-batches itself: "
        "it does so unless model_accepts_loss_kwargs is True": 1,
        "the ratio is turned round": 0.25,
        "the gradient is divided twice": 1 / 16,
        "it is multiplied twice, or the norms are squared": 16,
    }
    return number(ratio, 4, mistakes, tolerance=0.02)
