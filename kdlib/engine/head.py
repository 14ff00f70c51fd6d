"""The head of a language model: which positions reach it, and what may be computed in its place.

A head turns hidden states (width) into logits (vocabulary). With 128,256 tokens it is the most
expensive matrix product of a small Llama, and its logits are the largest tensor of a training step.
Two things save that cost. Only *target positions* reach the head (`logits_at`): prompts are more
than half of the tokens. And in training the head is not run at all (`in_place_of_head`): the loss
is computed from hidden states and the head's matrix, a few tokens at a time.

The second is right only for a head that is one plain matrix product, and for a model that leaves
its logits alone afterwards. `why_dense` finds that out, and says why where it is not so.
"""

import functools
import warnings
from contextlib import contextmanager
from typing import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")

# {model: does it change the logits that its head makes?}, each found out once
_CHANGES_LOGITS = WeakKeyDictionary()


def logits_at(model, inputs: dict, keep: Tensor) -> Tensor:
    """(tokens, vocab): the model's logits at the positions in `keep` (batch, length), row by row.

    The inputs may lie on another device: they go to the model's.
    """
    with _head_sees_only(model, keep):
        return _output(model, inputs)


def _output(model, inputs: dict) -> Tensor:
    """What a language model returns for a batch, which goes to the model's device."""
    device = next(model.parameters()).device
    # No labels: the model would shift them itself and make a loss of all positions.
    read = {name: inputs[name].to(device) for name in MODEL_INPUTS if name in inputs}
    # use_cache: keys and values are kept to go on generating, which nobody does here.
    return model(**read, use_cache=False).logits


def _head_of(model) -> nn.Module:
    """The output layer, also behind DDP's wrapper."""
    return getattr(model, "module", model).get_output_embeddings()


@contextmanager
def _head_sees_only(model, keep: Tensor):
    """Within this block the model's head reads the hidden states at `keep` alone.

    It then sees (tokens, width) instead of (batch, length, width). This is a hook, so that DDP,
    LoRA and autocast stay wrapped around the very forward that they wrapped.
    """

    def pick(module, args):
        hidden = args[0]
        # (batch, length, width) → (tokens, width). A pre-hook returns the new arguments as a tuple.
        return (hidden[keep.to(hidden.device)],)

    hook = _head_of(model).register_forward_pre_hook(pick)
    try:
        yield
    finally:
        hook.remove()


# -- is the head one matrix product, and the end of the model? -----------------------------------


def plain_head(model) -> nn.Module | None:
    """The model's head if it is one matrix product and nothing else, otherwise None.

    An adapter, a quantised weight, or a hook of somebody who reads its logits make it something
    else.
    """
    head = _head_of(model)
    return None if _beside_the_product(head) else head


def _beside_the_product(head) -> str:
    """What a head is or does beside one matrix product; "" if nothing."""
    from torch.distributed.tensor import DTensor

    # type, not isinstance: a subclass (LoRA's, a quantiser's) may do more than multiply.
    if type(head) is not nn.Linear:
        return f"its head is a {type(head).__name__}, not a plain Linear"
    hooks = (
        head._forward_hooks,
        head._forward_pre_hooks,
        head._backward_hooks,
        head._backward_pre_hooks,
    )
    if any(hooks):
        return "a hook on its head reads the logits"
    if "forward" in vars(head):
        return "its head's forward was replaced"
    # a quantised tensor hides behind the dtype that it pretends to have
    is_plain = type(head.weight.data) in (Tensor, DTensor) and head.weight.is_floating_point()
    if not is_plain:
        return f"its head's weight is a {type(head.weight.data).__name__} of {head.weight.dtype}"
    return ""


def why_dense(model, inputs: dict) -> str:
    """Why this model's logits have to be made; "" where they need not be.

    Either the head is not a `plain_head`, or the model changes the head's logits afterwards. The
    second is found out once for each model, with a forward of a few tokens. All processes do that
    together and answer alike, or one would leave the others waiting in its second forward. So all
    of them must ask for the first time in the same place.
    """
    base = getattr(model, "module", model)
    why = _beside_the_product(base.get_output_embeddings())
    if not why:
        if base not in _CHANGES_LOGITS:
            # Eight tokens of one row show it: whoever scales, caps or masks logits does so at all
            # positions.
            ids = inputs["input_ids"][:1, :8]
            changes = _changes_its_logits(model, ids)
            _CHANGES_LOGITS[base] = _in_any_process(changes, ids.device)
        if _CHANGES_LOGITS[base]:
            why = "it changes the logits that its head makes"
    if why:
        _warn_once(
            f"{type(base).__name__}'s logits are made for all target tokens, "
            f"which takes more time and memory: {why}"
        )
    return why


@functools.cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=3)


@torch.no_grad()
def _changes_its_logits(model, ids: Tensor) -> bool:
    """Does the model return anything but what its head made, for these ids (1, length)?

    The ids need not be targets: a batch may have none, and this process must take part all the
    same.
    """
    from_head = []
    hook = _head_of(model).register_forward_hook(
        lambda module, args, logits: from_head.append(logits.clone())
    )
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    try:
        # dropout goes on afterwards as if nobody had asked
        with torch.random.fork_rng([ids.device] if ids.is_cuda else []):
            returned = logits_at(model, {"input_ids": ids}, everywhere)
    finally:
        hook.remove()
        # older torch keeps weights that autocast cast without a gradient path
        torch.clear_autocast_cache()
    # Exactly once: a head that runs twice, or never, is not the one that we mean.
    return len(from_head) != 1 or not _equal_but_for_dtype(returned, from_head[0])


def _equal_but_for_dtype(returned: Tensor, made: Tensor) -> bool:
    """Are the values equal? Autocast and FSDP may cast a model's outputs to another dtype."""
    # Equal to the bit (tolerances of 0): a logit scaled by 1.0001 is a changed one.
    return returned.shape == made.shape and torch.allclose(
        returned, made.to(returned.dtype), rtol=0, atol=0, equal_nan=True
    )


def _in_any_process(flag: bool, device) -> bool:
    if not torch.distributed.is_initialized():
        return flag
    flags = torch.tensor(float(flag), device=device)
    # The largest flag: one process that says yes says it for all.
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)


# -- something else in the head's place ----------------------------------------------------------


def in_place_of_head(
    model, inputs: dict, keep: Tensor, compute: Callable[[Tensor, nn.Module], Tensor]
) -> Tensor | None:
    """`compute(hidden (tokens, width), head)`, run where the model's forward would run its head.

    It runs inside the forward, because there DDP counts the head as used, FSDP has gathered its
    weight once, and autocast is on. None where that can't be right (`why_dense`). What `compute`
    returned must come out of the model untouched. RuntimeError if it does not: in one process of
    several it would be too late for another way.
    """
    if why_dense(model, inputs):
        return None
    head, made = plain_head(model), []

    def instead(hidden):
        out = compute(hidden[keep.to(hidden.device)], head)
        made.append(out.detach().clone())  # a copy: the model may write into `out`
        return out

    # On the instance: it hides the forward of the class, for this model alone, until it is deleted.
    head.forward = instead
    try:
        returned = _output(model, inputs)
    finally:
        del head.forward  # the class's own forward shows again
    if len(made) != 1 or not _equal_but_for_dtype(returned, made[0]):
        raise RuntimeError(
            f"{type(model).__name__} changed what was computed in place of its head, "
            "though it changed no logits when it was asked first"
        )
    return _with_values(returned, made[0])


def _with_values(returned: Tensor, made: Tensor) -> Tensor:
    """`returned` with the values and the dtype of `made`, on the gradient path of `returned`.

    FSDP rounds what a model returns. Its hooks hang on the gradient's path, so the path stays and
    the values are put back.
    """
    if returned.dtype == made.dtype:
        return returned
    returned = returned.to(made.dtype)
    with torch.no_grad():
        returned.copy_(made)  # overwrites the rounded values in place
    return returned
