"""Notebook 02: temperature."""

import numpy as np
import torch

from .common import array, call, normalised, question, softmax, variants


@question("02.1")
def square_roots(probabilities):
    """(0.81, 0.16, 0.03) at T = 1: what are the three probabilities at T = 2?"""
    p = np.array([0.81, 0.16, 0.03])
    given = np.asarray(probabilities, float)
    if given.shape != (3,):
        return f"expected three numbers, got {probabilities!r}."
    roots, squares = p**0.5, normalised(p**2)
    mistakes = {
        "the probabilities are divided by 2 and normalised again, which changes nothing": p,
        "the probabilities are divided by 2 and no longer sum to 1": p / 2,
        "the square roots are taken but not made to sum to 1": roots,
        "the probabilities are squared: that is T = 1/2, sharper instead of softer": squares,
        "softmax is taken of the probabilities: logits go in, "
        "and the logits are their logarithms": softmax(p / 2),
        "softmax is taken of the probabilities, and T is forgotten": softmax(p),
    }
    # Two digits on paper are enough.
    return array(
        given,
        normalised(roots),
        mistakes,
        "expected {right}, got {given}.",
        digits=3,
        atol=6e-3,
    )


@question("02.2")
def kd_gradient(function):
    """The gradient of T² · KL(teacher ‖ student) at the student's logits, without autograd.

    All arguments and the answer are (rows, classes), T is a number.
    """
    student = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, -0.2]])
    teacher = torch.tensor([[3.0, 0.0, -1.0], [-2.0, 1.0, 4.0]])
    T = 3.0

    def gradient(factor=T, student_T=T, teacher_T=T):
        gap = (student / student_T).softmax(-1) - (teacher / teacher_T).softmax(-1)
        return (factor * gap).double()

    changes = {
        "T² is forgotten: this is the gradient of KL alone": {"factor": 1 / T},
        "the chain rule's 1/T is forgotten": {"factor": T**2},
        "neither T² nor the chain rule's 1/T is there": {"factor": 1},
        "the sign is turned round: this is the push, minus the gradient": {"factor": -T},
        "the student is not softened": {"student_T": 1},
        "the teacher is not softened": {"teacher_T": 1},
        "neither is softened": {"student_T": 1, "teacher_T": 1},
        "it is averaged over the rows (each row's own gradient is asked)": {"factor": T / 2},
        "T multiplies the logits instead of dividing them": {
            "student_T": 1 / T,
            "teacher_T": 1 / T,
        },
    }
    mistakes = variants(gradient, changes) | {
        "the logits are compared instead of the probabilities": T * (student - teacher),
    }
    given = torch.as_tensor(call(function, student, teacher, T), dtype=torch.float32)
    return array(
        given.detach().double(),
        gradient(),
        mistakes,
        "for T = 3 the first row should be {right}, not {given}.",
        digits=4,
        atol=1e-4,
    )


@question("02.3")
def best_temperature(function):
    """The T that minimises the mean KL(people ‖ teacher at T), to 0.05."""
    draw = np.random.default_rng(3)
    logits = draw.normal(size=(400, 3)) * 4
    people = np.stack([draw.dirichlet(8 * p + 0.3) for p in softmax(logits / 3.0)])
    grid = np.arange(0.3, 12, 0.01)
    # The teacher's answers at every temperature: (temperatures, rows, classes).
    teacher = softmax(logits / grid[:, None, None])
    log_teacher, log_people = np.log(teacher), np.log(people)

    def where_smallest(by_class):
        return float(grid[by_class.sum(-1).mean(-1).argmin()])

    right = where_smallest(-people * log_teacher)
    swapped = where_smallest(teacher * (log_teacher - log_people))
    first_choices = np.eye(3)[people.argmax(-1)]
    on_labels = where_smallest(-first_choices * log_teacher)
    entropy_gap = (people * log_people - teacher * log_teacher).sum(-1).mean(-1)
    same_entropy = float(grid[np.abs(entropy_gap).argmin()])
    mistakes = {
        "the arguments are swapped, KL(teacher ‖ people)": swapped,
        "T is fitted to people's first choice, as a calibration on labels does": on_labels,
        "the squared distance is minimised": where_smallest((teacher - people) ** 2),
        "the entropies are made equal, whatever the answers are": same_entropy,
    }
    given = float(call(function, people, logits))

    def near(value):
        return abs(given - value) <= 0.055

    if near(right):
        return None
    # The mistakes' temperatures lie close together: the nearest one is named.
    mistake = min(mistakes, key=lambda name: abs(given - mistakes[name]))
    if near(mistakes[mistake]):
        return f"T = {given:.2f} is what comes out when {mistake}."
    return (
        f"on the check's own rows expected T = {right:.2f} (± 0.05), got {given:.2f}: "
        "is your grid fine enough, and wide enough?"
    )
