"""The distillation loss, for logits that fit in memory (classification, small vocabularies).

    total = alpha * T² * KL(teacher ‖ student) + (1 - alpha) * CE(labels, student)

`alpha` weights the *soft* loss. T² always multiplies the soft loss, because softening both distributions by T shrinks
its gradient by about 1/T² (Hinton, Vinyals and Dean 2015, section 2). This file imports torch and nothing else.
"""
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


class DistillationLoss(NamedTuple):
    """Three scalars: `total = alpha * kd + (1 - alpha) * ce`; `kd` contains T², neither part contains its weight."""

    total: Tensor
    kd: Tensor
    ce: Tensor


class TopK(NamedTuple):
    """What is kept of a teacher with a wide vocabulary, for each item: its k likeliest words, all others as one lump.

    ids, logprobs: (items, k), the log-probabilities at T = 1. rest: (items,), log Σ exp(logprob / T) over all other words,
    at the temperature in use: without it the lump would be wrong at every T but 1.
    """

    ids: Tensor
    logprobs: Tensor
    rest: Tensor


def soft_targets(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(logits / T) over the last axis, in float32 at least.

    logits: (..., classes); the result has the same shape and sums to 1. A class at -inf gets probability 0.
    Raises ValueError unless temperature is a finite number above 0.
    """
    return _log_soft_targets(logits, _positive(temperature)).exp()


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 2.0,
                      alpha: float = 0.5, divergence: str = "forward_kl", beta: float = 0.5, ignore_index: int = -100,
                      num_items: int | float | Tensor | None = None) -> DistillationLoss:
    """The loss of one batch: `(total, kd, ce)`.

    student_logits, teacher_logits: (..., classes), any leading shape, the same for both. No gradient reaches the teacher.
    labels: (...), aligned with the logits (no shift is made here); items labelled `ignore_index` count for nothing.
    divergence: "forward_kl" KL(t‖s), "reverse_kl" KL(s‖t), or "jsd" beta·KL(t‖m) + (1-beta)·KL(s‖m) with
        m = beta·t + (1-beta)·s (Agarwal et al. 2024, eq. 1). t and s are softened by T; CE is not.
    num_items: what the sums over items are divided by. None: the items of this batch that are not ignored. A trainer
        that accumulates gradients passes the count of the whole step, so that the gradient does not depend on how the
        step was cut into batches; 0 is right only for a step without a single valid item.
    A batch without a single valid item gives zeros that still carry a gradient path. -inf logits (a masked or padded
    class) give finite values and gradients: a class that both exclude is out of the game. A class that the student
    excludes and the teacher does not (or the reverse, for reverse_kl) makes KL infinite by definition; it is counted at
    a log-probability of -10,000 instead, so that one masked class cannot turn a training run into NaN.
    Raises ValueError for arguments that make no sense, IndexError never.
    """
    temperature = check_settings(temperature, alpha, divergence, beta)
    _check_shapes(student_logits, teacher_logits, labels)
    student, labels, keep, count = _valid_items(student_logits, labels, ignore_index, num_items)
    teacher = teacher_logits.detach().reshape(-1, teacher_logits.shape[-1])[keep]
    s, t = _log_soft_targets(student, temperature), _log_soft_targets(teacher, temperature)
    return _combine(s, t, student, labels, count, temperature, alpha, divergence, beta)


def topk_distillation_loss(student_logits: Tensor, teacher: TopK, labels: Tensor, *, temperature: float = 2.0, alpha: float = 0.5,
                           divergence: str = "forward_kl", beta: float = 0.5, ignore_index: int = -100,
                           num_items: int | float | Tensor | None = None) -> DistillationLoss:
    """`distillation_loss` against a teacher of which only k words an item are known; the others count as one lump.

    student_logits: (..., vocab) and labels: (...) as there; teacher: one row for each item that is *not* ignored, in order.
    Student and teacher are compared over k + 1 outcomes. Merging outcomes never raises a KL, so this is at most the dense
    loss (Cover and Thomas 2006, section 2.7), and 0 when student and teacher agree. Within the lump the student keeps its
    own proportions: the lump's gradient moves it as a whole.
    """
    temperature = check_settings(temperature, alpha, divergence, beta)
    student, labels, keep, count = _valid_items(student_logits, labels, ignore_index, num_items)
    if teacher.ids.shape != teacher.logprobs.shape or teacher.rest.shape != teacher.ids.shape[:1] or len(teacher.ids) != len(student):
        raise ValueError(f"the teacher's ids {tuple(teacher.ids.shape)}, logprobs {tuple(teacher.logprobs.shape)} and rest "
                         f"{tuple(teacher.rest.shape)} do not match the {len(student)} items that are not ignored")
    s, t, _ = _lumped(student, teacher, temperature)
    return _combine(s, t, student, labels, count, temperature, alpha, divergence, beta)


def _valid_items(student_logits: Tensor, labels: Tensor, ignore_index: int, num_items) -> tuple:
    """The student's rows and labels that count, the mask that picked them, and what the sums are divided by."""
    labels, keep, count = valid_labels(labels, student_logits.shape[-1], ignore_index, num_items)
    return student_logits.reshape(-1, student_logits.shape[-1])[keep], labels, keep, count


def valid_labels(labels: Tensor, classes: int, ignore_index: int, num_items,
                 hint: str = "GLUE's test split carries -1: it has no labels to train on.") -> tuple:
    """The labels that count, the mask (items,) that picked them, and what the sums are divided by."""
    given = f"labels {tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise ValueError(f"{given} must be integers")
    labels = labels.reshape(-1).long()                          # before it is compared: in uint8, -100 would be 156
    keep = labels != ignore_index
    labels = labels[keep]
    if labels.numel() and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise ValueError(f"labels must be 0…{classes - 1} or {ignore_index} (ignored); found {int(labels.min())}…"
                         f"{int(labels.max())} in {given}. {hint}".strip())
    count = labels.numel() if num_items is None else _number(num_items)
    if not (math.isfinite(count) and (count > 0 or count == 0 == labels.numel())):
        raise ValueError(f"num_items must be a count above 0, not {num_items!r}")
    return labels, keep, count or 1                             # nothing to count: the sums are 0 already


def _combine(s: Tensor, t: Tensor, student: Tensor, labels: Tensor, count, temperature: float, alpha: float, divergence: str,
             beta: float) -> DistillationLoss:
    """s, t: (items, outcomes) log soft targets of both; student: (items, classes) logits, for CE."""
    kd = _divergence(s, t, divergence, beta).sum() * temperature**2 / count
    ce = -_log_soft_targets(student, 1.0).gather(-1, labels[:, None]).sum() / count
    return DistillationLoss(alpha * kd + (1 - alpha) * ce, kd, ce)


def _lumped(student: Tensor, teacher: TopK, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log soft targets (items, k + 1) of student and teacher over the k words and the lump, and the student's logit of the lump."""
    z, ids = _wide(student) / temperature, teacher.ids.long()
    others = torch.logsumexp(z.scatter(-1, ids, -torch.inf), -1, keepdim=True)
    s = _log_soft_targets(torch.cat([z.gather(-1, ids), others], -1), 1.0)
    t = _log_soft_targets(torch.cat([_wide(teacher.logprobs) / temperature, _wide(teacher.rest)[:, None]], -1).detach(), 1.0)
    return s, t, others


def _divergence(s: Tensor, t: Tensor, divergence: str, beta: float) -> Tensor:
    """Log soft targets (items, classes) of student and teacher → (items,): the divergence of each item, without T²."""
    if divergence == "forward_kl":
        return _kl(t, s)
    if divergence == "reverse_kl":
        return _kl(s, t)
    m = torch.logaddexp(t + math.log(beta), s + math.log1p(-beta))
    return beta * _kl(t, m) + (1 - beta) * _kl(s, m)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Σ p (log p - log q) over the last axis, from log-probabilities that are finite (see `_log_soft_targets`)."""
    return (p.exp() * (p - q)).sum(-1)


def _log_soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / T) in float32 (float64 stays float64), floored so that 0 · log 0 is 0 and not NaN.

    Half precision is left before anything is summed: with bf16 logits the divergence comes out several per cent off.
    """
    logits = _wide(logits)
    lowest = torch.finfo(logits.dtype).min / 4
    return F.log_softmax((logits / temperature).clamp_min(lowest), dim=-1).clamp_min(-1e4)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def check_settings(temperature: float, alpha: float, divergence: str, beta: float = 0.5) -> float:
    """The temperature as a float; ValueError for settings that make no sense, so that a trainer can refuse them early."""
    if not 0 <= _number(alpha) <= 1:                            # NaN fails this test too
        raise ValueError(f"alpha, the weight of the soft loss, must lie in [0, 1], not {alpha!r}")
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, not {divergence!r}")
    if divergence == "jsd" and not 0 < _number(beta) < 1:
        raise ValueError(f"beta must lie strictly between 0 and 1 for jsd, not {beta!r} (0 and 1 are the two KLs)")
    return _positive(temperature)


def _positive(temperature: float) -> float:
    if not 0 < _number(temperature) < math.inf:
        raise ValueError(f"temperature must be a finite number above 0, not {temperature!r}")
    return float(temperature)


def _number(x) -> float:
    """x as a float; NaN, which passes no comparison, where it isn't one number: None, "2", True, a tensor of several."""
    try:
        return math.nan if isinstance(x, (str, bool)) else float(x)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def _check_shapes(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> None:
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student logits {tuple(student_logits.shape)} and teacher logits "
                         f"{tuple(teacher_logits.shape)} differ in shape: same classes, same items, same order?")
    if student_logits.dim() < 1 or labels.shape != student_logits.shape[:-1]:
        raise ValueError(f"labels {tuple(labels.shape)} do not match logits {tuple(student_logits.shape)}: "
                         "one label for each row of logits is needed")
