"""Notebook 03: the distillation loss."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from ...losses import IGNORED, distillation_loss
from .common import NotAnswered, call, question, variants

# What a solution is, and why: shown on request alone.
ANSWERS = {
    "03.1": """
log_q = F.log_softmax(student / temperature, dim=-1)
log_p = F.log_softmax(teacher / temperature, dim=-1)
soft = temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
hard = F.cross_entropy(student, labels)
return alpha * soft + (1 - alpha) * hard

Both answers are softened by T. kl_div takes the student first, and logarithms. "batchmean" divides
by the rows; "mean" would divide by the classes as well. The hard loss is not softened.""",
    "03.2": """
optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate)
teacher.eval()
student.train()
losses = []
for _ in range(epochs):
    for batch in loader:
        with torch.no_grad():
            teacher_logits = logits_of(teacher, batch)
        student_logits = logits_of(student, batch)
        loss = loss_of(student_logits, teacher_logits, batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
return losses

The teacher answers in eval mode and without gradients. zero_grad comes before backward, because
backward adds to the gradients that are already there.""",
    "03.3": """
return alpha * T**2 / (alpha * T**2 + 1 - alpha)

The right loss weighs KL and CE like alpha · T² : 1 - alpha. Without T² the weights are a : 1 - a.
Both ratios are equal for this a. So a sweep over alpha can repair the mistake by chance, for one T.""",
    "03.4": """
valid = (labels != -100).sum()
for start in range(0, len(labels), size):
    rows = slice(start, start + size)
    loss = loss_of(student(inputs[rows]), teacher_logits[rows], labels[rows])
    share = (labels[rows] != -100).sum() / valid
    (share * loss).backward()

loss_of is a mean over the piece's valid rows. Its share of the whole mean is its valid rows divided
by all valid rows. backward adds the gradients up. If nobody divides, the gradient of k pieces
without padding is k times too large.""",
}


def _differs(given, right, mistakes: dict, hint: str) -> str | None:
    """None if the tensors are equal; else the mistake that gives exactly this one, or the hint."""

    def near(value):
        return given.shape == value.shape and torch.allclose(given, value, rtol=1e-4, atol=1e-6)

    if near(right):
        return None
    for mistake, value in mistakes.items():
        if near(value):
            return f"This is what comes out when {mistake}."
    return hint


# -- 03.1: the loss --------------------------------------------------------------------------------


def kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_swapped(log_p, log_q):
    return kl(log_q, log_p)


def kl_of_probabilities(log_p, log_q):
    return kl(log_p, log_q.exp())


def cross_entropy(log_p, log_q):
    return -(log_p.exp() * log_q).sum(-1)


LOSS_MISTAKES = {
    "T² is forgotten": {"soft_scale": 1.0},
    "T stands where T² belongs": {"soft_scale": 2.5},
    "T² multiplies the hard loss too": {"hard_scale": 2.5**2},
    "KL's arguments are swapped": {"distance": kl_swapped},
    'reduction="mean" divides by the classes too': {"soft_scale": 2.5**2 / 3},
    "the student's probabilities go into kl_div, which wants their logarithms": {
        "distance": kl_of_probabilities
    },
    "alpha weights the hard loss": {"alpha": 0.2},
    "the teacher is not softened": {"teacher_T": 1.0},
    "the student is not softened": {"student_T": 1.0},
    "the hard loss is softened by T as well": {"hard_T": 2.5},
    "the rows are summed, not averaged": {"soft_scale": 3 * 2.5**2, "hard_scale": 3.0},
    "the soft loss is summed over the rows, the hard loss is averaged": {"soft_scale": 3 * 2.5**2},
    "the soft loss is a cross-entropy: the teacher's entropy is not taken away": {
        "distance": cross_entropy
    },
    "the hard loss is missing": {"hard_scale": 0.0},
    "the soft loss is missing": {"soft_scale": 0.0},
}


@question("03.1")
def the_loss(function):
    """alpha·T²·KL(teacher ‖ student) + (1-alpha)·CE, a mean over the rows."""
    student = torch.tensor([[2.0, -1.0, 0.3], [0.1, 0.4, -0.2], [1.0, 1.0, -3.0]])
    learning = student.clone().requires_grad_()
    teacher = torch.tensor([[1.0, 0.0, -2.0], [-1.0, 3.0, 0.0], [0.5, -0.5, 2.0]])
    labels = torch.tensor([0, 1, 2])
    T, alpha = 2.5, 0.8

    def loss(
        soft_scale=T**2, hard_scale=1.0, student_T=T, teacher_T=T, hard_T=1.0, alpha=alpha,
        distance=kl,
    ):  # fmt: skip
        log_teacher = (teacher / teacher_T).log_softmax(-1)
        log_student = (student / student_T).log_softmax(-1)
        soft = soft_scale * distance(log_teacher, log_student).mean()
        hard = hard_scale * F.cross_entropy(student / hard_T, labels)
        return alpha * soft + (1 - alpha) * hard

    given = torch.as_tensor(call(function, learning, teacher, labels, T, alpha))
    if given.ndim:
        return f"A loss is one number, and this has the shape {tuple(given.shape)}."
    if not given.requires_grad:
        return (
            "The loss has lost its gradient, so a student cannot learn from it: return the tensor "
            "itself, without item(), detach() or no_grad()."
        )
    given = given.detach()
    hint = (
        f"For three rows it gives {given.item():.4f}, which no usual mistake explains. "
        "Compute the soft and the hard loss of one row by hand, and compare them one by one."
    )
    right = distillation_loss(student, teacher, labels, temperature=T, alpha=alpha).total
    return _differs(given, right, variants(loss, LOSS_MISTAKES), hint)


# -- 03.2: the training loop -----------------------------------------------------------------------


class _Watched(torch.nn.Module):
    """A tiny classifier that remembers how it was asked."""

    def __init__(self, seed: int):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weight = torch.nn.Parameter(torch.randn(5, 3, generator=random))
        self.asked = []

    def forward(self, input_ids):
        self.asked.append((self.training, torch.is_grad_enabled()))
        return SimpleNamespace(logits=self.weight[input_ids].mean(1))


def _small_loss(student, teacher, labels):
    return distillation_loss(student, teacher, labels, temperature=2.0, alpha=0.5).total


def _trained(batches, epochs, rate, *, zero=True, optimizer=torch.optim.AdamW):
    """(the weights of a student that a loop has trained, the loss of each step)."""
    student, teacher = _Watched(1), _Watched(2)
    steps, losses = optimizer(student.parameters(), lr=rate), []
    for _ in range(epochs):
        for batch in batches:
            answers = teacher(batch["input_ids"]).logits.detach()
            loss = _small_loss(student(batch["input_ids"]).logits, answers, batch["labels"])
            if zero:
                steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
    return student.weight.detach(), losses


@question("03.2")
def training_loop(function):
    """Train the student for some epochs and return the loss of every step."""
    random = torch.Generator().manual_seed(0)
    batches = [
        {
            "input_ids": torch.randint(5, (4, 3), generator=random),
            "labels": torch.randint(3, (4,), generator=random),
        }
        for _ in range(3)
    ]
    epochs, rate = 2, 0.1
    student, teacher = _Watched(1), _Watched(2)
    student.eval()  # as a model comes from a file
    before, known = student.weight.detach().clone(), teacher.weight.detach().clone()
    losses = function(student, teacher, batches, _small_loss, epochs, rate)
    if losses in (None, ...) and not student.asked:
        raise NotAnswered
    after = student.weight.detach()
    if not torch.equal(teacher.weight, known):
        return "The teacher's weights have changed: give the optimizer the student's alone."
    if wrong := _asked_wrongly(student.asked, teacher.asked):
        return wrong
    if torch.equal(after, before):
        return "No weight of the student has changed: backward computes, step() changes."
    if losses in (None, ...):
        return "The loop returns nothing: return the list of the losses."
    if len(losses) != epochs * len(batches):
        return (
            f"{len(losses)} losses came back for {epochs} epochs of {len(batches)} batches: "
            "append one for each step, and return the list after the last epoch."
        )
    mistakes = {
        "zero_grad() is missing: the gradients of all steps add up": {"zero": False},
        "the optimizer is SGD: the task asks for AdamW": {"optimizer": torch.optim.SGD},
        "the optimizer is Adam: the task asks for AdamW": {"optimizer": torch.optim.Adam},
        "the learning rate is AdamW's default": {"rate": 1e-3},
    }
    changed = variants(_trained, mistakes, batches=batches, epochs=epochs, rate=rate)
    changed = {mistake: weights for mistake, (weights, _) in changed.items()}
    right, right_losses = _trained(batches, epochs, rate)
    hint = (
        "The student ends with other weights than a loop with AdamW: loss, zero_grad, backward, "
        "step, once for each batch."
    )
    return _differs(after, right, changed, hint) or _losses_wrong(losses, right_losses)


def _losses_wrong(given: list, right: list) -> str | None:
    """What is wrong with the list of losses that a right loop returns."""
    if any(getattr(loss, "requires_grad", False) for loss in given):
        return (
            "The losses are tensors, and each keeps the graph of its step in memory: keep numbers, "
            "loss.item()."
        )
    if not torch.allclose(torch.tensor([float(loss) for loss in given]), torch.tensor(right)):
        return "The student is trained well, but the list does not hold the loss of each step."
    return None


def _asked_wrongly(student: list, teacher: list) -> str | None:
    """What is wrong with how the two models were asked: (training mode, gradients on) a time."""
    if not teacher or not student:
        return "One of the two models was never asked: both answer each batch."
    if any(training for training, _ in teacher):
        return "The teacher answers with its dropout on: it needs eval()."
    if any(has_gradient for _, has_gradient in teacher):
        return "The teacher answers with gradients, which costs memory: it needs no_grad()."
    if not all(training for training, _ in student):
        return "The student trains with its dropout off: it needs train()."
    if not all(has_gradient for _, has_gradient in student):
        return "The student answers under no_grad(): without gradients it cannot learn."
    return None


# -- 03.3: T² forgotten ----------------------------------------------------------------------------


@question("03.3")
def alpha_without_t_squared(function):
    """Which alpha gives, without T², the gradient direction of the right loss?"""
    if not callable(function):
        return "The answer is a function of alpha and T, for any alpha and any T."
    points = [(0.5, 4.0), (0.9, 2.0), (0.2, 3.0), (0.7, 1.0)]
    alphas, T = (torch.tensor(values) for values in zip(*points))

    def alone(factor):
        return alphas * factor / (alphas * factor + 1 - alphas)

    given = [call(function, alpha, temperature) for alpha, temperature in points]
    given = torch.tensor([float(value) for value in given])
    if (given > 1).any():
        return "An alpha above 1 is no weight: the two weights must sum to 1."
    mistakes = {
        "T stands where T² belongs": alone(T),
        "the ratio is turned round: the soft loss needs more weight, not less": alone(T**-2),
        "the ratio is turned round, and T stands where T² belongs": alone(1 / T),
        "the missing T² is not made up for": alphas,
        "only the case alpha = 0.5 is solved": T**2 / (T**2 + 1),
        "only the case alpha = 0.5, T = 4 is solved": torch.full_like(T, 16 / 17),
    }
    hint = (
        "Measure it: take the gradients of both losses at random logits and compare their "
        "directions. Write down the weights of KL and of CE in both losses; their ratio must agree."
    )
    return _differs(given, alone(T**2), mistakes, hint)


# -- 03.4: gradients in pieces ---------------------------------------------------------------------


def _in_pieces(student, inputs, answers, labels, size, divide_by):
    """The gradient of a linear student: the pieces' summed losses, each divided, added up.

    divide_by: a function of the valid rows of the piece and of the whole batch.
    """
    student.zero_grad()
    valid = int((labels != IGNORED).sum())
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        count = int((labels[rows] != IGNORED).sum())
        settings = dict(temperature=2.0, alpha=0.5, num_items=1)
        loss = distillation_loss(student(inputs[rows]), answers[rows], labels[rows], **settings)
        (loss.total / divide_by(max(1, count), valid)).backward()
    return student.weight.grad.clone()


@question("03.4")
def gradient_in_pieces(function):
    """Backward in pieces of `size` rows: the same gradient as backward of the whole batch."""
    random = torch.Generator().manual_seed(0)
    inputs, answers = (torch.randn(8, 3, generator=random) for _ in range(2))
    labels = torch.tensor([0, 2, IGNORED, IGNORED, 1, 0, IGNORED, 2])
    student = torch.nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        student.weight.copy_(torch.randn(3, 3, generator=random))
    asked = []  # rows at once
    watch = student.register_forward_hook(lambda model, given, out: asked.append(len(given[0])))
    function(student, inputs, answers, labels, _small_loss, 2)
    watch.remove()
    if student.weight.grad is None:  # nothing went backward
        raise NotAnswered
    if max(asked, default=0) > 2:
        return (
            f"The student has read {max(asked)} rows at once, and size was 2: more rows do not fit "
            "into the memory."
        )
    given = student.weight.grad.clone()
    divisors = {
        "a mean over each piece is added up, and nobody divides": lambda count, valid: count,
        "the means are divided by the number of pieces, but some pieces have fewer valid rows": (
            lambda count, valid: 4 * count
        ),
        "padded rows count in the number that divides": lambda count, valid: 8,
        "the sums are not divided at all": lambda count, valid: 1,
        "only the last piece has left its gradient": (
            lambda count, valid: valid if count == 1 else float("inf")
        ),
    }
    batch = (student, inputs, answers, labels, 2)
    mistakes = {name: _in_pieces(*batch, divide_by) for name, divide_by in divisors.items()}
    right = _in_pieces(*batch, lambda count, valid: valid)
    hint = (
        "The gradient differs from that of the whole batch. Which number divides a row's loss in "
        "the whole batch, and which number divides it in your pieces?"
    )
    return _differs(given, right, mistakes, hint)
