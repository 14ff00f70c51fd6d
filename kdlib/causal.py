"""What is different about a causal language model: only some positions are learnt, and the head is
wide.

Labels come as transformers has them: as long as the ids, not shifted, -100 where nothing is learnt.
Position i predicts token i + 1. So a position counts where `labels[:, 1:]` is not -100: the *target
positions*. Prompts are more than half of the tokens. Hidden states are therefore gathered at target
positions before they reach the head: logits of other positions never exist. In training no logits
exist for more than a few tokens at a time (`engine.wide_loss`), wherever the head allows it
(`engine.head`).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput

from .engine.cached_tokens import TEACHER_PLACE, cached_answers, check_caches, with_places
from .engine.device import at_work
from .engine.head import in_place_of_head, logits_at, why_dense
from .engine.sampler import columns_of
from .engine.wide_loss import linear_distillation_loss
from .losses import (
    IGNORED,
    DistillationLoss,
    TopK,
    distillation_loss,
    topk_distillation_loss,
)

NOTHING_TO_LEARN = (
    "all labels are -100. Were the targets truncated, or the mask put on the wrong side?"
)


def is_causal(model) -> bool:
    """Is it a decoder-only language model (also inside LoRA's wrapper)?"""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    # LoRA's wrapper has a class name of its own, which is in no list.
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def target_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels (batch, length) → (keep, targets).

    keep: (batch, length) bool, the positions that predict. targets: (tokens,), what they predict.
    """
    # The shift by one: the logits at position i are compared with token i + 1. Without it a model
    # would learn to repeat its input, with a loss near 0.
    is_target = labels[:, 1:] != IGNORED
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = is_target  # the last position predicts nothing
    # keep and targets are in the same order, row by row: that is what lines logits and labels up.
    return keep, labels[:, 1:][is_target]


@torch.no_grad()
def target_logits(model, batch: dict) -> Tensor:
    """(tokens, vocab) float32 on the CPU: what the model predicts at a batch's target positions.

    For measuring, without a gradient. The model computes on the machine's GPU if it has one. The
    answers come to the CPU, so that those of two models can be compared wherever each of them is.
    """
    keep, _ = target_positions(batch["labels"])
    with at_work(model):
        # float32, as two models may compute in different types, and bf16 keeps two or three
        # digits of a logit.
        return logits_at(model, batch, keep).float().cpu()


def refuse_nothing_to_learn(rows) -> None:
    """ValueError for training rows without one token to predict.

    Their loss is 0, and training would end without a word.
    """
    if "labels" not in columns_of(rows):
        return
    if not any(label != IGNORED for row in rows for label in row["labels"][1:]):
        raise ValueError(f"no training row has a token to learn: {NOTHING_TO_LEARN}")


# -- the loss of target tokens -------------------------------------------------------------------


def token_loss(
    student_logits: Tensor,
    teacher: Tensor | TopK | None,
    targets: Tensor,
    *,
    temperature: float,
    alpha: float,
    divergence: str,
    beta: float = 0.5,
    ce_only: tuple[int, ...] = (),
    num_items: int | float | Tensor | None = None,
) -> DistillationLoss:
    """`distillation_loss` over target tokens.

    student_logits: (tokens, vocab). teacher: the same, or a `TopK`, or None (CE alone).
    targets: (tokens,).
    ce_only: where one of these ids is the target, CE counts in full and the teacher is not heard.
        An untuned teacher gives a new end token almost no probability: KD there would unteach what
        CE teaches.
    """
    has_targets = targets.numel() > 0
    count = targets.numel() if num_items is None else num_items
    # Without a target the sums are 0; 0 / 0 would make NaN of them, and of all weights.
    count = count if has_targets else 1
    if teacher is None:
        ce = _cross_entropy(student_logits, targets) / count
        # A kd of 0 on the same device and of the same dtype; no gradient hangs on it.
        return DistillationLoss((1 - alpha) * ce, ce.detach() * 0, ce)

    settings = dict(temperature=temperature, alpha=alpha, divergence=divergence, beta=beta)
    settings["num_items"] = count
    loss = topk_distillation_loss if isinstance(teacher, TopK) else distillation_loss
    unheard_ids = torch.tensor(list(ce_only), device=targets.device, dtype=targets.dtype)
    unheard = torch.isin(targets, unheard_ids)  # (tokens,): CE alone there
    if not unheard.any():
        return loss(student_logits, teacher, targets, **settings)
    # Both parts are divided by the count of *all* targets, so they add up to one mean.
    heard = loss(
        student_logits[~unheard], tokens_of(teacher, ~unheard), targets[~unheard], **settings
    )
    ce = _cross_entropy(student_logits[unheard], targets[unheard]) / count
    # The unheard tokens have CE with weight 1, not 1 - alpha: nothing else teaches them.
    return DistillationLoss(heard.total + ce, heard.kd, heard.ce + ce)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over tokens, in nats; in float32."""
    # A sum, and not a mean: only the caller knows the count of the whole step.
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def tokens_of(teacher: Tensor | TopK | None, which) -> Tensor | TopK | None:
    """The answers to some of the tokens. which: a mask (tokens,) or a slice."""
    if teacher is None:
        return None
    if isinstance(teacher, TopK):
        # All three parts have one row a token: they are cut alike.
        return TopK(*(part[which] for part in teacher))
    return teacher[which]


def wide_loss(
    student, inputs: dict, keep: Tensor, targets: Tensor, teacher: dict, **settings
) -> DistillationLoss | None:
    """`token_loss` without the student's logits.

    teacher: what `linear_distillation_loss` takes of a teacher. None where the head does not allow
    it (`engine.head.why_dense`).
    """
    # These two have no default there: whoever has no teacher must say so.
    teacher = {"teacher_hidden": None, "teacher_head": None} | teacher

    # Runs inside the forward, where the head would. What comes out is no logits at all: three
    # numbers, (1, 3), which the rest of the forward hands on untouched.
    def instead_of_logits(hidden, head):
        loss = linear_distillation_loss(
            hidden, head.weight, labels=targets, student_bias=head.bias, **teacher, **settings
        )
        # the model passes on a tensor with two axes, as logits have; a copy, as FSDP dislikes views
        return torch.stack(loss).expand(1, 3).clone()

    loss = in_place_of_head(student, inputs, keep, instead_of_logits)
    if loss is None:
        return None
    # Stacked with the total, kd and ce would seem to have a gradient. They are for the log.
    total, kd, ce = loss[0]
    return DistillationLoss(total, kd.detach(), ce.detach())


@torch.no_grad()
def wide_answers(teacher, inputs: dict, keep: Tensor) -> dict:
    """A live teacher's answers as `wide_loss` takes them.

    These are hidden states and head; logits where the head does not allow it.
    """
    heads = []

    def remember(hidden, head):
        # the weights as they are inside the forward: whole, where FSDP shares them out
        heads.append((head.weight, head.bias))
        return hidden

    # (tokens, width): what the head would have read. `remember` returns it unchanged.
    hidden = in_place_of_head(teacher, inputs, keep, remember)
    if hidden is None:
        return {"teacher_logits": logits_at(teacher, inputs, keep)}
    weight, bias = heads[0]
    return {"teacher_hidden": hidden, "teacher_head": weight, "teacher_bias": bias}


# -- sums over an evaluation set -----------------------------------------------------------------


@torch.no_grad()
def row_sums(
    student_logits: Tensor,
    teacher: Tensor | TopK | None,
    targets: Tensor,
    counts: list[int],
    **settings,
) -> Tensor:
    """(batch, 4): sums over each row's target tokens of CE, KD and right guesses, and their count.

    counts: each row's target tokens, in the order of the rows.
    """
    sums = []
    start = 0
    for count in counts:
        row = slice(start, start + count)
        # num_items=1 gives sums. Means could not be averaged: rows have unequal numbers of targets.
        loss = token_loss(
            student_logits[row], tokens_of(teacher, row), targets[row], num_items=1, **settings
        )
        right = (student_logits[row].argmax(-1) == targets[row]).sum().float()
        sums.append(torch.stack([loss.ce.float(), loss.kd.float(), right, right.new_tensor(count)]))
        start += count
    return torch.stack(sums)


def means_over_tokens(sums: np.ndarray, knows_teacher: bool) -> dict[str, float]:
    """`row_sums` of a whole set → its means over target tokens.

    `ce_only` positions count in kd with 0.
    """
    # float64: in float32 a sum of millions of tokens loses its last digits.
    ce, kd, right, count = sums.astype(np.float64).sum(0)
    if count == 0:
        raise ValueError(f"no row has a token to learn: {NOTHING_TO_LEARN}")
    means = {
        "loss": ce / count,
        "ce": ce / count,
        # exp of the mean over *tokens*; a mean of the rows' perplexities would be another number.
        "perplexity": np.exp(min(ce / count, 700.0)),  # beyond 700 float64 overflows
        "accuracy": right / count,
    }
    if knows_teacher:
        means["kd"] = kd / count
    return {name: float(mean) for name, mean in means.items()}


# -- what a trainer asks -------------------------------------------------------------------------


class Tokens:
    """The items of a language model's loss are target tokens. `trainer.Rows` is its counterpart.

    A teacher cache keeps the k likeliest tokens. Evaluation sums up batch by batch, since the
    logits of a whole set would not fit in memory; a live teacher reads the set every time.
    change: see `DistillationTrainer`.
    """

    output = CausalLMOutput
    columns = (TEACHER_PLACE,)

    def __init__(self, trainer, caches: list, ce_only: tuple[int, ...], change):
        self.trainer = trainer
        self.caches = caches
        self.ce_only = ce_only
        self.change = change
        # Whether logits must be made after all: once true, it stays true.
        self.is_dense = False

    def check(self, model, args) -> None:
        """Before anything is built: do the caches belong to this model?"""
        # Trainer would split the batch by rows (DataParallel), and `keep` and `targets` would stay
        # whole.
        if args.n_gpu > 1:
            raise ValueError(
                "several GPUs in one process cannot share a language model's batch here: "
                "start one process a GPU (torchrun)"
            )
        check_caches(self.caches, model, args.temperature)

    def attach(self, rows, must_find: bool):
        """`rows` with a column that leads to the teacher's cached answers."""
        return with_places(rows, self.caches, must_find)

    def check_rows(self, rows) -> None:
        refuse_nothing_to_learn(rows)

    def batch_to_count(self, batch: dict) -> dict:
        """The batch as Trainer is to count its labels: the first label has no predictor."""
        return {"labels": batch["labels"][:, 1:]} if "labels" in batch else batch

    def loss(self, model, inputs: dict, num_items, needs_logits: bool):
        """(loss, student's logits or None) of a batch."""
        settings = self.settings() | {"num_items": num_items}
        keep, targets = target_positions(inputs["labels"])
        # The short way: no logits of the student, but its hidden states and its head.
        if not (needs_logits or self.change or self._must_be_dense(model, inputs)):
            answers = self.answers_without_logits(inputs, keep)
            return wide_loss(model, inputs, keep, targets, answers, **settings), None

        student_logits = logits_at(model, inputs, keep)
        # With alpha = 0 the answers would be multiplied by 0: a baseline does not pay for a
        # teacher.
        answers = self.answers(inputs, keep) if self.trainer.args.alpha > 0 else None
        # A control is trained on changed answers and evaluated against the true ones: otherwise its
        # kd would say how well it learnt the disturbance.
        if self.change and answers is not None and model.training:
            answers = self.change(answers, student_logits)
        return token_loss(student_logits, answers, targets, **settings), student_logits

    def _must_be_dense(self, model, inputs: dict) -> bool:
        """Must the student's logits be made after all? Once they must, nobody asks again."""
        self.is_dense = self.is_dense or bool(why_dense(model, inputs))
        return self.is_dense

    def settings(self) -> dict:
        return self.trainer.args.loss_settings() | {"ce_only": self.ce_only}

    @torch.no_grad()
    def answers(self, inputs: dict, keep: Tensor) -> Tensor | TopK | None:
        """The teacher's answers at the batch's target positions.

        They come from a cache, or the teacher is asked now; None where there is neither.
        """
        teacher = self.trainer.teacher
        if self.caches and TEACHER_PLACE in inputs:
            temperature = self.trainer.args.temperature
            return cached_answers(self.caches, inputs[TEACHER_PLACE], temperature, keep.device)
        return None if teacher is None else logits_at(teacher, inputs, keep)

    def answers_without_logits(self, inputs: dict, keep: Tensor) -> dict:
        """The same, as `wide_loss` takes it; with alpha = 0 the teacher isn't asked."""
        teacher = self.trainer.teacher
        if self.trainer.args.alpha == 0:
            return {}
        if teacher is None or (self.caches and TEACHER_PLACE in inputs):
            return {"teacher_topk": self.answers(inputs, keep)}
        return wide_answers(teacher, inputs, keep)

    def predict(self, model, inputs: dict) -> tuple[Tensor, None]:
        """What an evaluation gathers of a batch: (batch, 4) sums, and no labels."""
        keep, targets = target_positions(inputs["labels"])
        is_answered = TEACHER_PLACE in inputs or self.trainer.args.alpha > 0
        answers = self.answers(inputs, keep) if is_answered else None
        student_logits = logits_at(model, inputs, keep)
        # Sums, not logits, travel between processes: a row's logits would be 128,256 numbers a
        # token.
        counts = keep.sum(1).tolist()
        return row_sums(student_logits, answers, targets, counts, **self.settings()), None

    def metrics(self, output, rows) -> dict[str, float]:
        """The means of an evaluation set. output: Trainer's, with the sums gathered."""
        has_place = TEACHER_PLACE in columns_of(rows)
        is_asked = self.trainer.args.alpha > 0 and self.trainer.teacher is not None
        return means_over_tokens(output.predictions, has_place or is_asked)
