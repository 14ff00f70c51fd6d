"""kdlib: the small module behind the course on knowledge distillation.

Importing it costs nothing: `from kdlib import losses, glue, results …` loads a module on first use.
"""

import importlib
import logging

__version__ = "0.1.0"

# What a notebook may name, and the module below kdlib where it lies.
_MODULES = {
    "batch": "batch",
    "causal": "causal",
    "chat": "chat",
    "check": "course.check",
    "corpora": "corpora",
    "deadline": "deadline",
    "doctor": "doctor",
    "figures": "figures",
    "findings": "findings",
    "gallery": "gallery",
    "get": "get",
    "glue": "glue",
    "hidden": "hidden",
    "legend": "legend",
    "losses": "losses",
    "measure": "measure",
    "memory": "memory",
    "methods": "methods",
    "metrics": "metrics",
    "models": "models",
    "onpolicy": "onpolicy",
    "parliament": "parliament",
    "paths": "paths",
    "quantise": "quantise",
    "results": "results",
    "run": "run",
    "scores": "scores",
    "slurm": "slurm",
    "status": "status",
    "teacher_cache": "teacher_cache",
    "teachers": "teachers",
    "trainer": "trainer",
    "translation": "translation",
    "vocab_cost": "tools.vocab_cost",
    "votes": "votes",
    "widgets": "widgets",
}
# Names that are so common that they need no module in front: kd.start, kd.distillation_loss …
_NAMES = {
    "start": "run",
    "Run": "run",
    "soft_targets": "losses",
    "distillation_loss": "losses",
    "DistillationArguments": "trainer",
    "DistillationTrainer": "trainer",
    "save_fig": "figures",
}
__all__ = [*_MODULES, *_NAMES]

# transformers imports torchao wherever it is installed, and both then warn of kernels for other GPUs:
# no reader can act on that.
for _noisy in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _NAMES:
        return getattr(__getattr__(_NAMES[name]), name)
    raise AttributeError(f"kdlib has no {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return sorted(__all__)
