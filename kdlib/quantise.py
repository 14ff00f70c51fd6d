"""Quantised weights in three places: a small model for use, a rough teacher, a trained student.

    small = quantise.quantised(student, "int8 weight-only")   # torchao: for use, not for training
    rough = quantise.fake(student, bits=4, group=32)          # floats on the grid of 4 bits
    model = quantise.trainable(student, bits=3, group=32)     # forward on the grid; trains
    ready = quantise.finished(model)                          # its weights, on the grid for good

`fake` takes any width and runs on any machine. In `trainable`, gradients go straight through the
rounding.
"""

import copy
import re

import torch
from torch import nn
from torch.nn.utils import parametrize

from .engine.device import machine_device
from .paths import did_you_mean

# The methods of `quantised`, and their bits a weight.
WIDTHS = {
    "fp32": 32,
    "bf16": 16,
    "fp16": 16,
    "int8 weight-only": 8,
    "int8 dynamic": 8,
    "int4 weight-only": 4,
}
CASTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GROUP = 32  # weights that share a scale under int4
# How BERT, DistilBERT and Llama name their layers. A layer is of the first kind that matches.
KINDS = {
    "embeddings": r"embed",
    "query and key": r"(query|key|[qk]_proj|[qk]_lin)$",
    "value": r"(value|v_proj|v_lin)$",
    "attention output": r"(attention\.output\.dense|o_proj|out_lin)$",
    "feed-forward in": r"(intermediate\.dense|gate_proj|up_proj|lin1)$",
    "feed-forward out": r"(output\.dense|down_proj|lin2)$",
    "pooler": r"(pooler\.dense|pre_classifier)$",
    "head": r"(classifier|score|lm_head)$",
}


def grid_name(bits: int, group: int) -> str:
    """What a table calls a grid: "4 bits, groups of 32", or "4 bits, one step" for group 0."""
    return f"{bits} bits, groups of {group}" if group else f"{bits} bits, one step"


def on_grid(weight: torch.Tensor, bits: int, group: int = 0) -> torch.Tensor:
    """`weight` (rows, columns) rounded to 2^bits - 1 evenly spaced values around 0.

    The last value is the largest magnitude. group: how many neighbours of a row share one scale; a
    group wider than a row is the row. 0: the whole matrix shares one scale, and its largest weight
    sets the step for all others. ValueError for bits outside 2…8 and a group that does not divide
    a row.
    """
    if not 2 <= bits <= 8 or group < 0:
        raise ValueError(f"bits must be 2 to 8 and group 0 or more, not {bits} and {group}")
    columns = weight.shape[-1]
    width = min(group, columns) if group else weight.numel()
    if group and columns % width:
        raise ValueError(f"a row of {columns} weights cannot be cut into groups of {width}")
    # (groups, width): each row of it has a scale of its own.
    parts = weight.reshape(-1, width)
    # Of the 2^bits codes the most negative one is left out, so that w and -w are rounded alike.
    largest = 2 ** (bits - 1) - 1
    # A group of zeros has no largest weight: the smallest positive number keeps 0 / step at 0.
    tiny = torch.finfo(weight.dtype).tiny
    step = (parts.abs().amax(1, keepdim=True) / largest).clamp(min=tiny)
    # Whole numbers, still as floats. clamp: in bf16 the largest weight's quotient may come out one
    # step too high.
    whole = (parts / step).round().clamp(-largest, largest)
    return (whole * step).reshape(weight.shape)


# -- the layers ------------------------------------------------------------------------------------


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantised: every `nn.Linear` but the head (`lm_head`, `classifier`).

    The head is small, or shared with the embeddings. ValueError for a model whose weights lie
    elsewhere (GPT-2's Conv1D, an LSTM): a quantiser would skip them in silence and report a
    success; and for one that is quantised already.
    """
    others = set()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding, parametrize.ParametrizationList)):
            continue
        # Norms and biases have one axis. What has two and is none of the above is a matrix that we
        # would miss.
        if any(p.dim() > 1 for p in module.parameters(recurse=False)):
            others.add(type(module).__name__)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not re.search(KINDS["head"], name)
    }
    if others or not layers:
        places = ", ".join(sorted(others)) or "no linear layer"
        raise ValueError(
            f"the quantiser knows nn.Linear; {type(model).__name__} keeps weights in {places}, "
            "which would stay as they are while everything looks fine"
        )
    if any(_is_quantised(layer) for layer in layers.values()):
        raise ValueError(
            f"this {type(model).__name__} is quantised already; "
            "start from the float model (or `finished` it first)"
        )
    return layers


def _is_quantised(layer: nn.Linear) -> bool:
    """By `trainable`, or by torchao, whose weights are tensors of a class of their own."""
    return parametrize.is_parametrized(layer) or type(layer.weight.data) is not torch.Tensor


def kinds(model: nn.Module) -> dict[str, list[str]]:
    """{kind of layer: the modules of that kind}, for BERT, DistilBERT and Llama.

    ValueError for a model that names its layers otherwise.
    """
    names_by_kind = {kind: [] for kind in KINDS}
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), None)
        if kind:
            names_by_kind[kind].append(name)
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head"):
        del names_by_kind["head"]  # the head *is* the embeddings
    found = {kind: names for kind, names in names_by_kind.items() if names}
    if len(found) < 3:
        raise ValueError(
            f"{type(model).__name__} names its layers in a way that the quantiser does not know"
        )
    return found


# -- rounded floats: a teacher, a student in training ----------------------------------------------


@torch.no_grad()
def fake(model: nn.Module, bits: int, group: int = 0, names: list[str] | None = None) -> nn.Module:
    """A copy with the weights of the modules `names` (default: `linears`) on the grid.

    It answers as a quantised model would. It is neither smaller nor faster, for its weights are
    still floats.
    """
    names = list(linears(model)) if names is None else names
    model = copy.deepcopy(model)
    for name in names:
        weight = model.get_submodule(name).weight
        # Overwritten in place, so that a tied matrix stays tied.
        weight.copy_(on_grid(weight, bits, group))
    return model


class StraightThrough(nn.Module):
    """Forward: the weight on the grid. Backward: as if it had not been rounded.

    Rounding's own slope is 0 almost everywhere, and nothing would learn.
    """

    def __init__(self, bits: int, group: int):
        super().__init__()
        self.bits, self.group = bits, group

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        # The difference is a constant to autograd, so the slope of the sum is 1.
        return weight + (on_grid(weight, self.bits, self.group) - weight).detach()


def trainable(model: nn.Module, bits: int, group: int = 0) -> nn.Module:
    """A copy whose linear layers compute on the grid while the float weights behind them learn."""
    linears(model)  # a refusal comes before the copy, which may be large
    model = copy.deepcopy(model)
    for layer in linears(model).values():
        # From here on `layer.weight` is computed at each use; the optimizer sees the floats behind
        # it.
        parametrize.register_parametrization(layer, "weight", StraightThrough(bits, group))
    return model


def finished(model: nn.Module) -> nn.Module:
    """A `trainable` model, in place, as a plain one whose weights are those it computed with."""
    # A list first: removing changes the modules that are walked.
    for layer in [m for m in model.modules() if parametrize.is_parametrized(m)]:
        # leave_parametrized: the rounded weights stay, and the floats behind them go.
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model


# -- small weights, for use ------------------------------------------------------------------------


def quantised(model: nn.Module, method: str, *, group: int = GROUP) -> nn.Module:
    """A copy for use, by torchao (or a cast): one of WIDTHS.

    The copy is on the machine's CUDA GPU if it has one. Embeddings, norms, biases and the head
    stay in floats. "int8 weight-only" keeps a scale a row;
    "int8 dynamic" rounds each token's activations, too, and multiplies whole numbers; "int4
    weight-only" keeps a scale a group. On a CPU torchao holds 4 bits in a byte each: see
    `packed_mb`.
    """
    if method not in WIDTHS:
        hint = did_you_mean(method, WIDTHS)
        raise ValueError(f"method must be one of {', '.join(WIDTHS)}, not {method!r}{hint}")
    names = set(linears(model))
    model = copy.deepcopy(model).eval()
    if machine_device() == "cuda":
        model.to("cuda")  # torchao packs weights for the device on which they lie
    if method in CASTS:
        return model.to(CASTS[method])
    try:
        from torchao import quantization
        from torchao.quantization.granularity import PerGroup
    except ImportError as error:
        raise ImportError(
            "quantising for use needs torchao: pip install torchao; "
            "`fake` shows the same answers without it"
        ) from error
    # torchao would otherwise change torch.compile's settings for the whole process.
    settings = {"set_inductor_config": False}
    if method == "int8 weight-only":
        config = quantization.Int8WeightOnlyConfig(**settings)
    elif method == "int8 dynamic":
        config = quantization.Int8DynamicActivationInt8WeightConfig(**settings)
    else:
        config = quantization.IntxWeightOnlyConfig(torch.int4, PerGroup(group))
    quantization.quantize_(model, config, filter_fn=lambda module, name: name in names)
    return model


# -- megabytes -------------------------------------------------------------------------------------


def held_mb(model: nn.Module) -> float:
    """Megabytes of the weights as they lie in memory now, shared ones once."""
    parts = {}
    for parameter in model.parameters():
        for part in _plain_tensors(parameter.data):
            parts[part.data_ptr()] = part
    return sum(part.numel() * part.element_size() for part in parts.values()) / 1e6


def _plain_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor, or what a torchao tensor is made of: whole numbers, scales, zero points."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _plain_tensors(getattr(tensor, name))]


def packed_mb(model: nn.Module, bits: int, group: int = 0) -> float:
    """Megabytes of a *float* model with its linear layers packed at `bits` a weight.

    A scale takes 16 bits; `group` weights share one (0: a matrix does).
    """
    saved = scales = 0
    for layer in linears(model).values():
        count, columns = layer.weight.numel(), layer.weight.shape[1]
        # Bytes: what the layer takes as floats, less what its codes take.
        saved += count * (layer.weight.element_size() - bits / 8)
        scales += count // min(group, columns) if group else 1
    return held_mb(model) - saved / 1e6 + 2 * scales / 1e6
