"""A GPU that is none: tensors carry a mark, and whatever mixes devices raises as it would on a GPU.

    with pretend_gpu.pretended() as gpu:
        model.to("cuda")            # marks its weights; numbers are still computed on the CPU
        model(ids)                  # RuntimeError: the ids are on the CPU
    gpu.passes                      # who asked a model, where it was, in which dtype

    python tests/pretend_gpu.py 07 topk=0        # a notebook's cells under `smoke`: which of them fail?

It sees what Python calls: no kernels, no memory, no arithmetic in half precision.
"""

import json
import linecache
import os
import sys
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).resolve().parent.parent
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MIXED = "Expected all tensors to be on the same device, but found cuda:0 and cpu (pretended, in {})"
# What a person means by a pass: the function of kdlib, or the method of its trainer, that asks a model.
ASKERS = (
    "teacher_logits",
    "topk_answers",
    "_logits_row_by_row",
    "translate",
    "own_words",
    "end_probability",
    "target_logits",
    "latency",
    "prediction_step",
    "compute_loss",
)


def is_marked(tensor) -> bool:
    return getattr(tensor, "on_pretended_gpu", False)


def mark(tensor, marked: bool):
    tensor.on_pretended_gpu = marked
    return tensor


def tensors_in(things) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(things, torch.Tensor):
        return [things]
    if isinstance(things, dict):
        things = list(things.values())
    if isinstance(things, (list, tuple)):
        return [tensor for thing in things for tensor in tensors_in(thing)]
    return []


def names_device(thing) -> bool:
    return isinstance(thing, torch.device) or (
        isinstance(thing, str) and thing[:4] in ("cuda", "cpu", "meta")
    )


def names_gpu(thing) -> bool:
    return isinstance(thing, int) or torch.device(thing).type == "cuda"


# Attributes of a tensor arrive as the getter and setter of a property.
DEVICE, IS_CUDA = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__
DATA, SET_DATA, GRAD = (
    torch.Tensor.data.__get__,
    torch.Tensor.data.__set__,
    torch.Tensor.grad.__get__,
)
# They copy between devices, or only look.
FREE = {
    "copy_",
    "__setitem__",
    "index_put_",
    "set_",
    "backward",
    "__set__",
    "__get__",
    "is_same_size",
}
FREE |= {"_has_compatible_shallow_copy_type"}


class Pretence(TorchFunctionMode):
    """Every call of a torch function passes through here while the mode is on."""

    def __init__(self):
        super().__init__()
        self.passes = Counter()  # {(place, asker, device, dtype): how many}
        self.place = ""  # what runs now, for example a cell
        self.paused = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if self.paused:
            return function(*args, **kwargs)
        name = getattr(function, "__name__", "")
        if function == DEVICE:
            return GPU if is_marked(args[0]) else function(*args)
        if function == IS_CUDA:
            return is_marked(args[0])
        if function == SET_DATA:
            mark(args[0], is_marked(args[1]))
            return function(*args)
        if function in (DATA, GRAD):
            found = function(*args)
            return found if found is None else mark(found, is_marked(args[0]))
        if name in ("numpy", "__array__") and is_marked(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy (pretended)")
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], torch.Tensor):
            return self._moved(function, name, args, kwargs)
        if names_device(kwargs.get("device")):
            return self._made(function, args, kwargs)
        return self._computed(function, name, args, kwargs)

    def _moved(self, function, name, args, kwargs):
        """tensor.to(…), .cpu(), .cuda(): the numbers stay, the mark changes."""
        tensor, rest = args[0], list(args[1:])
        marked = {"cpu": False, "cuda": True}.get(name, is_marked(tensor))
        if name == "to":
            for i, thing in enumerate(rest):
                if isinstance(thing, torch.Tensor):
                    marked = is_marked(thing)
                elif names_device(thing) or (i == 0 and type(thing) is int):
                    marked, rest[i] = names_gpu(thing), CPU
            if kwargs.get("device") is not None:
                marked, kwargs["device"] = names_gpu(kwargs["device"]), CPU
        moved = function(tensor, *rest, **kwargs) if name == "to" else tensor
        if moved is tensor:
            if marked == is_marked(tensor):
                return tensor
            moved = tensor.clone()
        return mark(moved, marked)

    def _made(self, function, args, kwargs):
        """A call that says on which device its result shall be."""
        marked = names_gpu(kwargs["device"])
        if marked:
            kwargs["device"] = CPU
        given = {id(tensor) for tensor in tensors_in([args, kwargs])}
        made = function(*args, **kwargs)
        for tensor in tensors_in(made):
            if id(tensor) not in given:
                mark(tensor, marked)
        return made

    def _computed(self, function, name, args, kwargs):
        """Everything else: all tensors on one device (numbers without a dimension may be on the CPU)."""
        # transformers makes attention masks under vmap, where marks are lost
        given = tensors_in(args if name == "scaled_dot_product_attention" else [args, kwargs])
        marks = {is_marked(tensor) for tensor in given if is_marked(tensor) or tensor.dim()}
        if name in FREE or name == "__getitem__":
            marked = bool(given) and is_marked(given[0])
            if name == "__getitem__" and not marked and True in marks:
                raise RuntimeError(
                    "indices should be on the device of the indexed tensor (pretended)"
                )
        elif len(marks) == 2:
            raise RuntimeError(MIXED.format(name))
        else:
            marked = True in marks
        result = function(*args, **kwargs)
        if marked:
            for tensor in tensors_in(result):
                mark(tensor, True)
        return result

    def note(self, module, args) -> None:
        """A forward hook of all modules: of whole models it notes who asks, and where the model is."""
        if not type(module).__name__.endswith(("ForSequenceClassification", "ForCausalLM")):
            return
        weight = next(module.parameters())
        frame, asker = sys._getframe(1), ""
        while frame is not None and not asker:
            asker = frame.f_code.co_name if frame.f_code.co_name in ASKERS else ""
            frame = frame.f_back
        device = "cuda" if is_marked(weight) else "cpu"
        self.passes[
            self.place, asker or "a cell itself", device, str(module.dtype).split(".")[-1]
        ] += 1


def _silent(*args, **kwargs):
    return None


def _cuda(capability: tuple[int, int]) -> dict:
    """What torch.cuda answers of a card with 80 GB."""
    state = lambda *args: torch.get_rng_state()  # noqa: E731
    names = "set_device synchronize empty_cache init _lazy_init manual_seed manual_seed_all"
    names += " set_rng_state set_rng_state_all reset_peak_memory_stats"
    return {name: _silent for name in names.split()} | {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *args: capability,
        "get_device_name": lambda *args: "a pretended GPU",
        "is_bf16_supported": lambda *args, **kwargs: capability >= (8, 0),
        "max_memory_allocated": lambda *args: 1 << 30,
        "mem_get_info": lambda *args: (80 << 30, 80 << 30),
        "get_rng_state": state,
        "get_rng_state_all": lambda: [state()],
    }


@contextmanager
def pretended(capability: tuple[int, int] = (8, 0)):
    """The pretence, on within this block. capability: (8, 0) is an A100, which computes in bfloat16; (6, 0) a P100."""
    import torch._dynamo  # it lists torch's own functions once, and must not meet ours in their place

    plain_new, mode = torch.nn.Parameter.__new__, Pretence()

    def marked_new(
        cls, data=None, requires_grad=True, **attributes
    ):  # of a weight, by transformers
        made = plain_new(cls, data, requires_grad)
        return mark(made, is_marked(data)) if isinstance(data, torch.Tensor) else made

    with ExitStack() as stack:
        for name, answer in _cuda(capability).items():
            for module in (
                torch.cuda,
                torch.cuda.random,
            ):  # a checkpoint asks the second for its random states
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, answer))
        stack.enter_context(
            mock.patch.object(torch.nn.Parameter, "__new__", staticmethod(marked_new))
        )
        hook = torch.nn.modules.module.register_module_forward_pre_hook(mode.note)
        stack.callback(hook.remove)
        stack.enter_context(_quantiser_of(mode))
        yield stack.enter_context(mode)


@contextmanager
def _quantiser_of(mode: Pretence):
    """torchao asks the driver about its tensors: it works without the pretence, and marks are put back."""
    try:
        from torchao import quantization
    except ImportError:
        yield
        return
    plain = quantization.quantize_

    def quantize_(model, *args, **kwargs):
        marked = is_marked(next(model.parameters()))
        for weight in model.parameters():
            mark(weight, False)
        mode.paused = True
        try:
            plain(model, *args, **kwargs)
        finally:
            mode.paused = False
        for weight in model.parameters():
            mark(weight, marked)

    with mock.patch.object(quantization, "quantize_", quantize_):
        yield


# -- a notebook -------------------------------------------------------------------------------------------------------


def run_cells(path: Path, mode: Pretence, given: dict) -> tuple[list[str], dict]:
    """(what failed, the names that are left): all code cells of a notebook, one after the other, those after a failure too."""
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    names, failures = {"__name__": "__main__"}, []
    for i, cell in enumerate(cells):
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or "skip-execution" in tags:
            continue
        source, mode.place = "".join(cell["source"]), f"{path.stem}, cell {i}"
        linecache.cache[mode.place] = (
            len(source),
            None,
            source.splitlines(keepends=True),
            mode.place,
        )
        try:
            exec(compile(source, mode.place, "exec"), names)
            if "parameters" in tags:
                names.update(given)
        except Exception as error:
            failures.append(f"{mode.place}: {type(error).__name__}: {error}" + _where(error))
    return failures, names


def _where(error) -> str:
    """The last lines of ours that led to the error."""
    ours = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if "kdlib" in f.filename or ", cell " in f.filename
    ]
    return "".join(f"\n    {os.path.basename(f.filename)}:{f.lineno} {f.line}" for f in ours[-4:])


def report(path: Path, given: dict) -> dict:
    """What a test asks of a notebook: its `failures`, and its `passes` as [place, asker, device, dtype, count]."""
    import matplotlib.pyplot as plt

    with pretended() as mode:
        failures, _ = run_cells(path, mode, given)
    plt.close("all")
    return {"failures": failures, "passes": [[*key, count] for key, count in mode.passes.items()]}


def main(arguments: list[str]) -> int:
    """One notebook for a person; or, without arguments, one a line on stdin and its report a line on stdout for a test."""
    from kdlib.batch.options import value

    if arguments:
        given = {
            name: value(text) for name, _, text in (part.partition("=") for part in arguments[1:])
        }
        found = report(
            next((ROOT / "notebooks").glob(f"{arguments[0]}*.ipynb")), {"profile": "smoke"} | given
        )
        print(
            *found["failures"],
            *(f"{count:5d} × {key}" for *key, count in found["passes"]),
            sep="\n",
        )
        return bool(found["failures"])
    answers, sys.stdout = sys.stdout, sys.stderr  # what the cells print is not the answer
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(report(Path(asked["path"]), asked["given"])), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
