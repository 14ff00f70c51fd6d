"""The distillation loss, for logits that fit in memory (classification, small vocabularies).

    total = alpha * T² * KL(teacher ‖ student) + (1 - alpha) * CE(labels, student)

`alpha` weights the *soft* loss. T² always multiplies the soft loss, because softening both
distributions by T shrinks its gradient by about 1/T² (Hinton, Vinyals and Dean 2015, section 2).
This file imports torch and nothing else.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
# The label of an item that is not learnt: torch's own default, so that cross_entropy skips it too.
IGNORED = -100


class DistillationLoss(NamedTuple):
    """Three scalars: `total = alpha * kd + (1 - alpha) * ce`.

    `kd` contains T²; neither part contains its weight.
    """

    total: Tensor
    kd: Tensor
    ce: Tensor


class TopK(NamedTuple):
    """What is kept of a teacher with a wide vocabulary.

    Its k likeliest tokens, and the total probability of all others, the *rest*, as one number.

    ids, logprobs: (items, k), the log-probabilities at T = 1. rest: (items,), log Σ exp(logprob /
    T) over all other tokens of the vocabulary, at the temperature in use. From T = 1 alone it could
    not be computed for another T.
    """

    ids: Tensor
    logprobs: Tensor
    rest: Tensor


def soft_targets(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / T) over the last axis, in float32 at least.

    logits: (..., classes); the result has the same shape and sums to 1. A class at -inf gets
    probability 0. Raises ValueError unless temperature is a finite number above 0.
    """
    return _log_soft_targets(logits, _positive(temperature)).exp()


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    ignore_index: int = IGNORED,
    num_items: int | float | Tensor | None = None,
) -> DistillationLoss:
    """The loss of one batch: `(total, kd, ce)`.

    student_logits, teacher_logits: (..., classes), any leading shape, the same for both.
        No gradient reaches the teacher.
    labels: (...), aligned with the logits: no shift is made here.
        Items labelled `ignore_index` count for nothing.
    divergence: "forward_kl" KL(t‖s), "reverse_kl" KL(s‖t), or "jsd" beta·KL(t‖m) + (1-beta)·KL(s‖m)
        with m = beta·t + (1-beta)·s (Agarwal et al. 2024, eq. 1). T softens t and s; it does not
        soften CE.
    num_items: what the sums over items are divided by. None: the items of this batch that are not
        ignored. A trainer that accumulates gradients passes the count of the whole step, so that
        the gradient does not depend on how the step was cut into batches. 0 is right only for a
        step without a single valid item.
    A batch without a single valid item gives zeros that still carry a gradient path. -inf logits (a
    masked or padded class) give finite values and gradients: a class that both exclude is out of
    the game. A class that only one of the two excludes makes KL infinite by definition. It is
    counted at a log-probability of -10,000 instead, so that one masked class cannot turn a training
    run into NaN. Raises ValueError for arguments that make no sense.
    """
    temperature = check_settings(temperature, alpha, divergence, beta)
    _check_shapes(student_logits, teacher_logits, labels)
    classes = student_logits.shape[-1]
    # Ignored items go before anything is computed: whatever padding holds, NaN too, reaches no sum.
    labels, is_valid, count = valid_labels(labels, classes, ignore_index, num_items)
    student_logits = student_logits.reshape(-1, classes)[is_valid]  # (items, classes)
    # detach: the teacher is a constant of this loss, even if somebody forgot to freeze it.
    teacher_logits = teacher_logits.detach().reshape(-1, classes)[is_valid]

    student_logprobs = _log_soft_targets(student_logits, temperature)
    teacher_logprobs = _log_soft_targets(teacher_logits, temperature)
    divergences = _divergence(student_logprobs, teacher_logprobs, divergence, beta)
    return _combine(divergences, student_logits, labels, count, temperature, alpha)


def topk_distillation_loss(
    student_logits: Tensor,
    teacher: TopK,
    labels: Tensor,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    ignore_index: int = IGNORED,
    num_items: int | float | Tensor | None = None,
) -> DistillationLoss:
    """`distillation_loss` against a teacher of which k tokens an item and the rest are known.

    student_logits: (..., vocab) and labels: (...) as there. teacher: one row for each item that is
    *not* ignored, in order. Student and teacher are compared over k + 1 outcomes. Merging outcomes
    never raises a KL, so this is at most the dense loss (Cover and Thomas 2006, section 2.7), and 0
    when student and teacher agree. Within the rest the student keeps its own proportions: the
    gradient moves it as a whole.
    """
    temperature = check_settings(temperature, alpha, divergence, beta)
    vocab = student_logits.shape[-1]
    labels, is_valid, count = valid_labels(labels, vocab, ignore_index, num_items)
    student_logits = student_logits.reshape(-1, vocab)[is_valid]  # (items, vocab)
    _check_topk_shapes(teacher, len(student_logits))

    # (items, k + 1) each: from here on a top-k teacher is a teacher with k + 1 classes.
    student_logprobs, teacher_logprobs, _ = log_soft_targets_with_rest(
        student_logits, teacher, temperature
    )
    divergences = _divergence(student_logprobs, teacher_logprobs, divergence, beta)
    return _combine(divergences, student_logits, labels, count, temperature, alpha)


def valid_labels(
    labels: Tensor,
    classes: int,
    ignore_index: int,
    num_items,
    hint: str = "GLUE's test split carries -1: it has no labels to train on.",
) -> tuple[Tensor, Tensor, float]:
    """(labels that count, the mask (items,) that picks them, what the sums are divided by)."""
    given = described("labels", labels)
    if not is_integer(labels):
        raise ValueError(f"{given} must be integers")
    labels = labels.reshape(-1).long()  # before it is compared: in uint8, -100 would be 156
    is_valid = labels != ignore_index  # (items,)
    labels = labels[is_valid]
    if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        found = f"{int(labels.min())}…{int(labels.max())}"
        raise ValueError(
            f"labels must be 0…{classes - 1} or {ignore_index} (ignored); "
            f"found {found} in {given}. {hint}".strip()
        )
    count = labels.numel() if num_items is None else _number(num_items)
    # A count of 0 beside labels is a mistake of the caller: no quotient of the two is right.
    has_nothing_to_count = count == 0 and not labels.numel()
    if not (math.isfinite(count) and (count > 0 or has_nothing_to_count)):
        raise ValueError(f"num_items must be a count above 0, not {num_items!r}")
    return labels, is_valid, count or 1  # nothing to count: the sums are 0 already


def _combine(
    divergences: Tensor,
    student_logits: Tensor,
    labels: Tensor,
    count: float,
    temperature: float,
    alpha: float,
) -> DistillationLoss:
    """The formula at the top of this file. divergences: (items,), without T² yet."""
    # T²: the softened loss has gradients of size 1/T². Without the factor a higher T would silently
    # mean a smaller alpha.
    # count, not len(divergences): the items of the whole step, of which this batch may hold a part.
    kd = divergences.sum() * temperature**2 / count
    # T = 1: a label is no distribution that could be softened. In use the student answers at T = 1,
    # and that answer is what CE trains.
    label_logprobs = _log_soft_targets(student_logits, 1.0).gather(
        -1, labels[:, None]
    )  # (items, 1)
    ce = -label_logprobs.sum() / count
    return DistillationLoss(alpha * kd + (1 - alpha) * ce, kd, ce)


def log_soft_targets_with_rest(
    student_logits: Tensor, teacher: TopK, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log soft targets (items, k + 1) of student and teacher: k tokens and the rest.

    The third result is the student's logit of the rest (items, 1), which the chunked loss needs.
    """
    softened = in_float32(student_logits) / temperature
    ids = teacher.ids.long()  # stored ids may be of a narrower type than an index
    # without its k tokens, a row's logsumexp is that of the rest
    rest = torch.logsumexp(softened.scatter(-1, ids, -torch.inf), -1, keepdim=True)
    # (items, k + 1), no probabilities yet: T is in already, the common normaliser is not.
    student = torch.cat([softened.gather(-1, ids), rest], -1)
    # Log-probabilities serve as logits: they differ from them by one number a row, which the
    # softmax takes out again. `rest` comes at this T already, so it is not divided.
    known = in_float32(teacher.logprobs) / temperature
    teacher_outcomes = torch.cat([known, in_float32(teacher.rest)[:, None]], -1).detach()
    return _log_soft_targets(student, 1.0), _log_soft_targets(teacher_outcomes, 1.0), rest


def _divergence(student: Tensor, teacher: Tensor, divergence: str, beta: float) -> Tensor:
    """Log soft targets (items, classes) of both → (items,): each item's divergence, without T²."""
    if divergence == "forward_kl":
        # The mean of log(t/s) under the *teacher*: where the teacher says something, the student
        # must not be silent. It covers all of the teacher's modes.
        return _kl(teacher, student)
    if divergence == "reverse_kl":
        # The mean under the *student*: it may leave a mode out, and must not invent one.
        return _kl(student, teacher)
    if divergence == "jsd":
        # log m without leaving logarithms: where both probabilities underflow, their sum would be 0
        # and its logarithm -inf.
        middle = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        return beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)
    raise NotImplementedError(f"{divergence} stands in DIVERGENCES and has no branch here")


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p (log p - log q) over the last axis, from finite log-probabilities."""
    # The floor in _log_soft_targets is why this is safe: exp(-10,000) is 0, and 0 times a finite
    # difference is 0. With -inf it would be 0 · inf = NaN.
    return (p.exp() * (p - q)).sum(-1)


def _log_soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / T), floored so that 0 · log 0 is 0 and not NaN."""
    logits = in_float32(logits)
    # log_softmax subtracts the largest logit. In a row of -inf alone that is -inf - -inf = NaN, so
    # -inf becomes a finite number first (such a row then finds all classes alike). A quarter of the
    # smallest number, because the subtraction must not overflow again.
    lowest = torch.finfo(logits.dtype).min / 4
    # The second clamp is the floor of -10,000. Below it the loss is flat: no gradient.
    return F.log_softmax((logits / temperature).clamp_min(lowest), dim=-1).clamp_min(-1e4)


def in_float32(x: Tensor) -> Tensor:
    """x in float32; float64 stays.

    With bf16 logits the divergence would come out several per cent off.
    """
    # float64 stays, for gradcheck: finite differences of 1e-6 are noise in float32.
    return x if x.dtype == torch.float64 else x.float()


def check_settings(temperature: float, alpha: float, divergence: str, beta: float = 0.5) -> float:
    """The temperature as a float; ValueError for settings that make no sense.

    A trainer asks before it trains.
    """
    if not 0 <= _number(alpha) <= 1:  # NaN fails this test too
        raise ValueError(f"alpha, the weight of the soft loss, must lie in [0, 1], not {alpha!r}")
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, not {divergence!r}")
    # Only jsd reads beta: for the others any value is right, as it counts for nothing.
    if divergence == "jsd" and not 0 < _number(beta) < 1:
        raise ValueError(
            f"beta must lie strictly between 0 and 1 for jsd, not {beta!r} "
            "(at 0 and at 1 it is 0 for every student; the two KLs have names of their own)"
        )
    return _positive(temperature)


def _positive(temperature: float) -> float:
    if not 0 < _number(temperature) < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, not {temperature!r}")
    return float(temperature)


def _number(x) -> float:
    """x as a float; NaN, which passes no comparison, for None, "2", True or a tensor of several."""
    try:
        # float("2") and float(True) would work, and hide a typing error.
        return math.nan if isinstance(x, (str, bool)) else float(x)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def is_integer(x: Tensor) -> bool:
    """Are these whole numbers? A mask of True and False would pass for labels 0 and 1."""
    return not (x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool)


def described(name: str, x: Tensor) -> str:
    """ "student_head (11, 4) float32"."""
    return f"{name} {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def _check_shapes(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> None:
    student, teacher = tuple(student_logits.shape), tuple(teacher_logits.shape)
    if student != teacher:
        raise ValueError(
            f"student logits {student} and teacher logits {teacher} differ in shape: "
            "same classes, same items, same order?"
        )
    if not student or tuple(labels.shape) != student[:-1]:
        raise ValueError(
            f"labels {tuple(labels.shape)} do not match logits {student}: "
            "one label for each row of logits is needed"
        )


def _check_topk_shapes(teacher: TopK, items: int) -> None:
    ids, logprobs, rest = (tuple(part.shape) for part in teacher)
    if ids != logprobs or rest != ids[:1] or ids[0] != items:
        raise ValueError(
            f"the teacher's ids {ids}, logprobs {logprobs} and rest {rest} "
            f"do not match the {items} items that are not ignored"
        )
