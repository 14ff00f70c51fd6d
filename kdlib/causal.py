"""What is different about a causal language model: only some positions are learnt, and the head is wide.

Labels come as transformers has them: as long as the ids, not shifted, -100 where nothing is learnt. Position i predicts
token i + 1, so what counts is where `labels[:, 1:]` is not -100: the *target positions*. Prompts are more than half of the
tokens, so hidden states are gathered at target positions before they reach the head: logits for others never exist. In
training none exist for more than a few tokens at a time (`engine.wide_loss`), wherever the head is what that needs.
"""
import functools
import warnings
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import DistillationLoss, TopK, distillation_loss, topk_distillation_loss
from .engine.device import at_work
from .engine.wide_loss import linear_distillation_loss

TEACHER_PLACE = "teacher_place"                 # the column that says where in a teacher cache a row stands
READ = ("input_ids", "attention_mask", "position_ids")
_CHANGES = WeakKeyDictionary()                  # {model: does it change the logits that its head makes?}


def is_causal(model) -> bool:
    """Is it a decoder-only language model (also inside LoRA's wrapper)?"""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def target_positions(labels: Tensor) -> tuple[Tensor, Tensor]:
    """labels (batch, length) → (keep (batch, length) bool: positions that predict, targets (tokens,): what they predict)."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != -100
    return keep, labels[:, 1:][keep[:, :-1]]


def refuse_nothing_to_learn(rows) -> None:
    """ValueError for training rows without one token to predict: their loss is 0, and training would end without a word."""
    if "labels" in (getattr(rows, "column_names", None) or []) and not any(label != -100 for row in rows for label in row["labels"][1:]):
        raise ValueError("no training row has a token to learn: all labels are -100. Were the targets truncated, or the mask put on the wrong side?")


@contextmanager
def _head_at(model, keep: Tensor):
    """Within this block the model's head sees the hidden states at `keep` alone, (batch, length, width) → (tokens, width).

    A hook, so that DDP, LoRA and autocast stay wrapped around the very forward that they wrapped.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: (args[0][keep.to(args[0].device)],))
    try:
        yield
    finally:
        hook.remove()


def logits_at(model, inputs: dict, keep: Tensor) -> Tensor:
    """(tokens, vocab): the model's logits at the positions in `keep` (batch, length), row by row.

    They are on the model's device; the inputs are moved there.
    """
    place = getattr(model, "module", model).device
    with _head_at(model, keep):
        return model(**{k: inputs[k].to(place) for k in READ if k in inputs}, use_cache=False).logits


@torch.no_grad()
def target_logits(model, batch: dict) -> Tensor:
    """(tokens, vocab) float32 on the CPU: what the model predicts at the target positions of a collated batch.

    For measuring, without a gradient. The model computes on the machine's GPU if it has one. The answers
    come to the CPU, so that those of two models can be compared wherever each of them is.
    """
    keep, _ = target_positions(batch["labels"])
    with at_work(model):
        return logits_at(model, batch, keep).float().cpu()


def plain_head(model):
    """The model's head if it is one matrix product and nothing else: no adapter, no quantised weight, no hook of one who reads its logits."""
    head = getattr(model, "module", model).get_output_embeddings()
    return None if _beside_the_product(head) else head


def _beside_the_product(head) -> str:
    """What a head is or does beside one matrix product; "" if nothing."""
    from torch.distributed.tensor import DTensor
    if type(head) is not torch.nn.Linear:
        return f"its head is a {type(head).__name__}, not a plain Linear"
    if any((head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)):
        return "a hook on its head reads the logits"
    if "forward" in vars(head):
        return "its head's forward was replaced"
    if type(head.weight.data) not in (Tensor, DTensor) or not head.weight.is_floating_point():      # such a tensor is quantised behind its dtype
        return f"its head's weight is a {type(head.weight.data).__name__} of {head.weight.dtype}"
    return ""


def why_dense(model, inputs: dict) -> str:
    """Why this model's logits have to be made: the head is not `plain_head`, or not the model's end. "" where they need not be.

    The second is found out once for each model, with a forward of a few tokens: by all processes together, which answer alike,
    or one would leave the others waiting in its second forward. So all must ask for the first time in the same place.
    """
    base = getattr(model, "module", model)
    why = _beside_the_product(base.get_output_embeddings())
    if not why:
        if base not in _CHANGES:
            _CHANGES[base] = _in_any_process(_changes_its_logits(model, inputs["input_ids"][:1, :8]), inputs["input_ids"].device)
        why = "it changes the logits that its head makes" if _CHANGES[base] else ""
    if why:
        _say_once(f"{type(base).__name__}'s logits are made for all target tokens, which takes more time and memory: {why}")
    return why


_say_once = functools.cache(lambda text: warnings.warn(text, stacklevel=3))


@torch.no_grad()
def _changes_its_logits(model, ids: Tensor) -> bool:
    """Is what the model returns for these ids (1, length) anything but what its head made?

    The ids need not be targets: a batch may have none, and this process must take part all the same.
    """
    made = []
    hook = getattr(model, "module", model).get_output_embeddings().register_forward_hook(lambda module, args, out: made.append(out.clone()))
    try:
        with torch.random.fork_rng([ids.device] if ids.is_cuda else []):       # dropout goes on as if nobody had asked
            came = logits_at(model, {"input_ids": ids}, torch.ones_like(ids, dtype=torch.bool))
    finally:
        hook.remove()
        torch.clear_autocast_cache()            # of weights that were cast without a gradient path (older torch)
    return len(made) != 1 or not _same(came, made[0])


def _same(came: Tensor, made: Tensor) -> bool:
    """Equal, but for the dtype to which autocast or FSDP cast a model's outputs?"""
    return came.shape == made.shape and torch.allclose(came, made.to(came.dtype), rtol=0, atol=0, equal_nan=True)


def _in_any_process(flag: bool, device) -> bool:
    if not torch.distributed.is_initialized():
        return flag
    told = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return bool(told)


def in_place_of_head(model, inputs: dict, keep: Tensor, do):
    """`do(hidden (tokens, width), head)`, run where the model's forward would have run its head; None where that can't be right (`why_dense`).

    Inside the forward, for there DDP counts the head as used, FSDP has gathered it once, and autocast is on. What `do` returned
    must come out untouched; RuntimeError if it does not: in one process of several it would be too late for another way.
    """
    if why_dense(model, inputs):
        return None
    head, made = plain_head(model), []

    def instead(hidden):
        out = do(hidden[keep.to(hidden.device)], head)
        made.append(out.detach().clone())       # the model may write into `out`
        return out
    head.forward = instead
    try:
        came = model(**{k: inputs[k] for k in READ if k in inputs}, use_cache=False).logits
    finally:
        del head.forward
    if len(made) != 1 or not _same(came, made[0]):
        raise RuntimeError(f"{type(model).__name__} changed what was computed in place of its head, though it changed no logits when it was asked first")
    if came.dtype != made[0].dtype:             # FSDP rounded it. Its hooks hang on the gradient's path, so that stays; the values are put back
        came = came.to(made[0].dtype)
        with torch.no_grad():
            came.copy_(made[0])
    return came


def wide_loss(student, inputs: dict, keep: Tensor, targets: Tensor, teacher: dict, **settings) -> DistillationLoss | None:
    """`token_loss` without the student's logits; None where `in_place_of_head` can't. teacher: as `linear_distillation_loss` takes it."""
    teacher = dict(teacher_hidden=None, teacher_head=None) | teacher
    def instead(hidden, head):
        loss = linear_distillation_loss(hidden, head.weight, labels=targets, student_bias=head.bias, **teacher, **settings)
        return torch.stack(loss).expand(1, 3).clone()           # two axes, as logits have; FSDP dislikes views
    loss = in_place_of_head(student, inputs, keep, instead)
    return loss if loss is None else DistillationLoss(loss[0, 0], *loss[0, 1:].detach())


@torch.no_grad()
def wide_answers(teacher, inputs: dict, keep: Tensor) -> dict:
    """A live teacher's answers as `wide_loss` takes them: hidden states and head, or logits where that can't be right."""
    heads = []
    # the weights as they are inside the forward: whole, where FSDP shares them out
    hidden = in_place_of_head(teacher, inputs, keep, lambda hidden, head: (heads.append((head.weight, head.bias)), hidden)[1])
    if hidden is None:
        return {"teacher_logits": logits_at(teacher, inputs, keep)}
    return {"teacher_hidden": hidden, "teacher_head": heads[0][0], "teacher_bias": heads[0][1]}


def token_loss(student: Tensor, teacher: Tensor | TopK | None, targets: Tensor, *, temperature: float, alpha: float, divergence: str,
               ce_only: tuple[int, ...] = (), num_items: int | float | Tensor | None = None) -> DistillationLoss:
    """`distillation_loss` over target tokens. student: (tokens, vocab), teacher: the same, or a `TopK`, or None (CE alone).

    ce_only: where one of these ids is the target, CE counts in full and the teacher is not heard. An untuned teacher gives a
    new end token almost no probability: KD there would unteach what CE teaches.
    """
    count = targets.numel() if num_items is None else num_items
    count = count if targets.numel() else 1
    nats = lambda logits, labels: F.cross_entropy(logits.float(), labels, reduction="sum") / count
    if teacher is None:
        ce = nats(student, targets)
        return DistillationLoss((1 - alpha) * ce, ce.detach() * 0, ce)
    settings = dict(temperature=temperature, alpha=alpha, divergence=divergence, num_items=count)
    alone = torch.isin(targets, torch.tensor(list(ce_only), device=targets.device, dtype=targets.dtype))
    if not alone.any():
        return _against(teacher)(student, teacher, targets, **settings)
    both = _against(teacher)(student[~alone], _picked(teacher, ~alone), targets[~alone], **settings)
    ce = nats(student[alone], targets[alone])
    return DistillationLoss(both.total + ce, both.kd, both.ce + ce)


def _against(teacher):
    return topk_distillation_loss if isinstance(teacher, TopK) else distillation_loss


def _picked(teacher: Tensor | TopK | None, which):
    return teacher if teacher is None else TopK(*(part[which] for part in teacher)) if isinstance(teacher, TopK) else teacher[which]


@torch.no_grad()
def row_sums(student: Tensor, teacher: Tensor | TopK | None, targets: Tensor, counts: list[int], **settings) -> Tensor:
    """(batch, 4): sums over each row's target tokens of CE, KD and right guesses, and their count."""
    sums, start = [], 0
    for n in counts:
        part = slice(start, start := start + n)
        loss = token_loss(student[part], _picked(teacher, part), targets[part], num_items=1, **settings)
        right = (student[part].argmax(-1) == targets[part]).sum()
        sums.append(torch.stack([loss.ce.float(), loss.kd.float(), right.float(), right.new_tensor(n).float()]))
    return torch.stack(sums)


def metrics(sums: np.ndarray, knows_teacher: bool, prefix: str) -> dict[str, float]:
    """`row_sums` of a whole set → its means over target tokens. `ce_only` positions count in eval_kd with 0."""
    ce, kd, right, count = sums.astype(np.float64).sum(0)
    if count == 0:
        raise ValueError("no row has a token to learn: all labels are -100. Were the targets truncated, or the mask put on the wrong side?")
    found = {"loss": ce / count, "ce": ce / count, "perplexity": float(np.exp(min(ce / count, 700.0))), "accuracy": right / count}
    return {f"{prefix}_{k}": float(v) for k, v in (found | ({"kd": kd / count} if knows_teacher else {})).items()}


# -- a teacher that has answered already -----------------------------------------------------------------------------

def with_places(rows, caches: list, must: bool):
    """`rows` with the place of each in the caches (counted through) as a column; unchanged where no cache knows them and none must."""
    before = 0
    for i, cache in enumerate(caches, 1):
        try:
            columns = [c for c in rows.column_names if c != TEACHER_PLACE]
            return rows.select_columns(columns).add_column(TEACHER_PLACE, cache.find(rows) + before)
        except ValueError:
            if must and i == len(caches):
                raise
        before += len(cache)
    return rows


def check_caches(caches: list, model, temperature: float) -> None:
    """ValueError unless the caches hold words of this model's vocabulary, with a tail that is right at this temperature."""
    for cache in caches:
        if cache.kind != "topk":
            raise ValueError("this teacher cache keeps a classifier's logits; a language model's is built with topk=…")
        if cache.manifest["vocabulary"] != model.config.vocab_size:
            raise ValueError(f"the teacher cache knows {cache.manifest['vocabulary']:,} words, the student has {model.config.vocab_size:,}")
        if float(temperature) not in cache.manifest["key"]["temperatures"]:
            cache.topk([], temperature)                                        # says which temperatures it was built for


def cached_answers(caches: list, places: Tensor, temperature: float, device) -> TopK:
    """The batch's answers, token by token in the order of `logits_at`."""
    places, before = places.tolist(), 0
    for cache in caches:
        if min(places) < before + len(cache):
            break
        before += len(cache)
    return TopK(*(part.to(device) for part in cache.topk([p - before for p in places], temperature)))
