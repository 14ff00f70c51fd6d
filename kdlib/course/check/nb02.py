"""Notebook 02: temperature."""

import numpy as np
import torch

from .common import array, call, normalised, question, softmax, variants

# The model answers, with the reason: what `kd.check.reveal` prints.
ANSWERS = {
    "02.1": """
(0.611, 0.272, 0.118). Logits are logarithms of the odds, and half a logarithm is
the logarithm of the square root. So take the roots 0.9, 0.4 and 0.173, and divide them by their
sum, 1.473.
""",
    "02.2": """
def kd_gradient(student, teacher, temperature):
    q = torch.softmax(student / temperature, -1)
    p = torch.softmax(teacher / temperature, -1)
    return temperature * (q - p)

The gradient of the KL is (q - p) / T, and T² times 1/T is T.
""",
    "02.3": """
def best_temperature(truth, logits):
    def cross_entropy(T):
        log_q = F.log_softmax(torch.tensor(logits / T), -1).numpy()
        return -(truth * log_q).sum(-1).mean()
    return min(np.arange(0.1, 20, 0.02), key=cross_entropy)

The entropy of the truth does not depend on T, so the cross-entropy has its minimum at the same
T as the KL. Rows where the teacher is wrong want a much higher T than the others.
""",
}


@question("02.1")
def square_roots(probabilities):
    """(0.81, 0.16, 0.03) at T = 1: what are the three probabilities at T = 2?"""
    p = np.array([0.81, 0.16, 0.03])
    given = np.asarray(probabilities, float)
    if given.shape != (3,):
        return f"Expected three numbers, got {probabilities!r}."
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
    hint = (
        "The probabilities are e to the power of the logits, divided by their sum. What becomes of "
        "e^z when z is divided by 2? Do the three numbers sum to 1 at the end?"
    )
    # Two digits on paper are enough.
    return array(given, normalised(roots), mistakes, hint, atol=6e-3)


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
        "Compare with autograd on one row: T² · KL(p ‖ q), where p and q are the softened answers.",
        atol=1e-4,
    )


@question("02.3")
def best_temperature(function):
    """The T that minimises the mean KL(truth ‖ teacher at T), to 0.05.

    Asked for one teacher that is far too confident, and for one that is hardly so.
    """
    for seed, softer in ((3, 3.0), (4, 1.5)):
        draw = np.random.default_rng(seed)
        logits = draw.normal(size=(400, 3)) * 4
        truth = np.stack([draw.dirichlet(8 * p + 0.3) for p in softmax(logits / softer)])
        if wrong := _temperature_of_these(function, truth, logits):
            return wrong


def _temperature_of_these(function, truth: np.ndarray, logits: np.ndarray) -> str | None:
    """None if the function finds the best T of these rows, or what is wrong."""
    grid = np.arange(0.3, 12, 0.01)
    # The teacher's answers at every temperature: (temperatures, rows, classes).
    teacher = softmax(logits / grid[:, None, None])
    log_teacher, log_truth = np.log(teacher), np.log(truth)

    def where_smallest(by_class):
        return float(grid[by_class.sum(-1).mean(-1).argmin()])

    right = where_smallest(-truth * log_teacher)
    swapped = where_smallest(teacher * (log_teacher - log_truth))
    first_choices = np.eye(3)[truth.argmax(-1)]
    on_labels = where_smallest(-first_choices * log_teacher)
    entropy_gap = (truth * log_truth - teacher * log_teacher).sum(-1).mean(-1)
    same_entropy = float(grid[np.abs(entropy_gap).argmin()])
    mistakes = {
        "the arguments are swapped, KL(teacher ‖ truth)": swapped,
        "T is fitted to the truth's first choice, as a calibration on labels does": on_labels,
        "the squared distance is minimised": where_smallest((teacher - truth) ** 2),
        "the entropies are made equal, whatever the answers are": same_entropy,
    }
    given = float(call(function, truth, logits))

    def near(value):
        return abs(given - value) <= 0.055

    if near(right):
        return None
    # The mistakes' temperatures lie close together: the nearest one is named.
    mistake = min(mistakes, key=lambda name: abs(given - mistakes[name]))
    if near(mistakes[mistake]):
        return f"T = {given:.2f} is what comes out when {mistake}."
    return (
        f"On the check's own rows T = {given:.2f} does not give the least mean KL (to 0.05): is your "
        "grid fine enough, and wide enough?"
    )
