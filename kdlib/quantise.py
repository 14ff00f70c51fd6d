"""Quantised weights in three places: a model made smaller for use, a teacher asked with fewer bits, a student trained with them.

    small = quantise.quantised(student, "int8 weight-only")      # torchao: for use, not for training
    rough = quantise.fake(student, bits=4, group=32)             # float weights on the grid of 4 bits: any width, any machine
    model = quantise.trainable(student, bits=3, group=32)        # forward on the grid, gradients straight through
    ready = quantise.finished(model)                             # its weights, on the grid for good
"""
import copy
import re

import torch
from torch import nn
from torch.nn.utils import parametrize

from .engine.device import machine_device
from .paths import did_you_mean

WIDTHS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8 weight-only": 8, "int8 dynamic": 8, "int4 weight-only": 4}      # and their bits a weight
GROUP = 32                                  # weights that share a scale under int4
KINDS = {"embeddings": r"embed", "query and key": r"(query|key|[qk]_proj|[qk]_lin)$", "value": r"(value|v_proj|v_lin)$",
         "attention output": r"(attention\.output\.dense|o_proj|out_lin)$", "feed-forward in": r"(intermediate\.dense|gate_proj|up_proj|lin1)$",
         "feed-forward out": r"(output\.dense|down_proj|lin2)$", "pooler": r"(pooler\.dense|pre_classifier)$", "head": r"(classifier|score|lm_head)$"}


def on_grid(weight: torch.Tensor, bits: int, group: int = 0) -> torch.Tensor:
    """`weight` (rows, columns) rounded to 2^bits - 1 evenly spaced values around 0, the largest magnitude being the last of them.

    group: how many neighbours of a row share one scale; 0: the whole matrix shares one, and its largest weight sets the
    step for all others. A group wider than a row is the row. ValueError for bits outside 2…8 and a group that does not divide a row.
    """
    if not 2 <= bits <= 8 or group < 0:
        raise ValueError(f"bits must be 2 to 8 and group 0 or more, not {bits} and {group}")
    width = min(group, weight.shape[-1])
    if width and weight.shape[-1] % width:
        raise ValueError(f"a row of {weight.shape[-1]} weights cannot be cut into groups of {group}")
    parts, largest = weight.reshape(-1, width or weight.numel()), 2 ** (bits - 1) - 1
    step = (parts.abs().amax(1, keepdim=True) / largest).clamp(min=torch.finfo(weight.dtype).tiny)
    return ((parts / step).round().clamp(-largest, largest) * step).reshape(weight.shape)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantised: every `nn.Linear` but the head (`lm_head`, `classifier`), which is small or shared with the embeddings.

    ValueError for a model whose weights lie elsewhere (GPT-2's Conv1D, an LSTM): a quantiser would skip them in silence and
    report a success; and for one that is quantised already.
    """
    other = sorted({type(m).__name__ for m in model.modules() if not isinstance(m, (nn.Linear, nn.Embedding))
                    for p in m.parameters(recurse=False) if p.dim() > 1 and not isinstance(m, parametrize.ParametrizationList)})
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and not re.search(KINDS["head"], n)}
    if other or not found:
        raise ValueError(f"the quantiser knows nn.Linear; {type(model).__name__} keeps weights in {', '.join(other) or 'no linear layer'}, "
                         "which would stay as they are while everything looks fine")
    if any(parametrize.is_parametrized(m) or type(m.weight.data) is not torch.Tensor for m in found.values()):
        raise ValueError(f"this {type(model).__name__} is quantised already; start from the float model (or `finished` it first)")
    return found


def kinds(model: nn.Module) -> dict[str, list[str]]:
    """{kind of layer: the modules of that kind}, for BERT, DistilBERT and Llama; ValueError for a model with none of them."""
    named = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Embedding))]
    tied = getattr(model.config, "tie_word_embeddings", False) and hasattr(model, "lm_head")             # then the head *is* the embeddings
    found = {kind: [n for n in named if next((k for k, p in KINDS.items() if re.search(p, n)), "") == kind] for kind in KINDS}
    found = {kind: names for kind, names in found.items() if names and not (tied and kind == "head")}
    if len(found) < 3:
        raise ValueError(f"{type(model).__name__} names its layers in a way that the quantiser does not know")
    return found


@torch.no_grad()
def fake(model: nn.Module, bits: int, group: int = 0, names: list[str] | None = None) -> nn.Module:
    """A copy with the weights of the modules `names` (default: `linears`) on the grid. It answers as a quantised model would; it is
    neither smaller nor faster, for its weights are still floats."""
    names = list(linears(model)) if names is None else names
    model = copy.deepcopy(model)
    for name in names:
        weight = model.get_submodule(name).weight
        weight.copy_(on_grid(weight, bits, group))
    return model


class StraightThrough(nn.Module):
    """Forward: the weight on the grid. Backward: as if it had not been rounded (rounding's own slope is 0 almost everywhere)."""

    def __init__(self, bits: int, group: int):
        super().__init__()
        self.bits, self.group = bits, group

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + (on_grid(weight, self.bits, self.group) - weight).detach()


def trainable(model: nn.Module, bits: int, group: int = 0) -> nn.Module:
    """A copy whose linear layers compute with weights on the grid while the float weights behind them learn."""
    linears(model)
    model = copy.deepcopy(model)
    for layer in linears(model).values():
        parametrize.register_parametrization(layer, "weight", StraightThrough(bits, group))
    return model


def finished(model: nn.Module) -> nn.Module:
    """A `trainable` model, in place, as a plain one whose weights are those that it computed with."""
    for layer in [m for m in model.modules() if parametrize.is_parametrized(m)]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return model


def quantised(model: nn.Module, method: str, *, group: int = GROUP) -> nn.Module:
    """A copy for use, by torchao (or a cast): one of WIDTHS. Embeddings, norms, biases and the head stay in floats.

    The copy is on the machine's CUDA GPU if it has one.
    "int8 weight-only" keeps a scale a row; "int8 dynamic" rounds each token's activations, too, and multiplies whole numbers;
    "int4 weight-only" keeps a scale a group. On a CPU torchao holds 4 bits in a byte each: see `packed_mb`.
    """
    if method not in WIDTHS:
        raise ValueError(f"method must be one of {', '.join(WIDTHS)}, not {method!r}{did_you_mean(method, WIDTHS)}")
    names = set(linears(model))
    model = copy.deepcopy(model).eval()
    if machine_device() == "cuda":                              # torchao packs weights for the device on which they lie
        model.to("cuda")
    if WIDTHS[method] >= 16:
        return model.to({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[method])
    try:
        from torchao import quantization as ao
        from torchao.quantization.granularity import PerGroup
    except ImportError as error:
        raise ImportError("quantising for use needs torchao: pip install torchao; `fake` shows the same answers without it") from error
    config = {"int8 weight-only": lambda: ao.Int8WeightOnlyConfig(set_inductor_config=False),
              "int8 dynamic": lambda: ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
              "int4 weight-only": lambda: ao.IntxWeightOnlyConfig(torch.int4, PerGroup(group))}[method]()
    ao.quantize_(model, config, filter_fn=lambda module, name: name in names)
    return model


def held_mb(model: nn.Module) -> float:
    """Megabytes of the weights as they lie in memory now, shared ones once; a torchao tensor counts as what it is made of."""
    def plain(tensor):
        if hasattr(tensor, "__tensor_flatten__"):
            return [part for name in tensor.__tensor_flatten__()[0] for part in plain(getattr(tensor, name))]
        return [tensor]
    parts = [part for p in model.parameters() for part in plain(p.data)]
    return sum(p.numel() * p.element_size() for p in {p.data_ptr(): p for p in parts}.values()) / 1e6


def packed_mb(model: nn.Module, bits: int, group: int = 0) -> float:
    """Megabytes of a *float* model with its linear layers packed at `bits` a weight and a 16-bit scale a group (0: a matrix)."""
    layers = linears(model).values()
    scales = sum(m.weight.numel() // min(group, m.weight.shape[1]) if group else 1 for m in layers)
    return held_mb(model) + sum(m.weight.numel() * (bits / 8 - m.weight.element_size()) for m in layers) / 1e6 + 2 * scales / 1e6
