"""kdlib: the small module behind the course on knowledge distillation. Importing it costs nothing: names load on use."""
import importlib
import logging

__version__ = "0.1.0"

_MODULES = ("batch", "check", "corpora", "deadline", "doctor", "figures", "findings", "gallery", "get", "glue", "hidden", "legend", "losses", "measure", "memory", "methods", "metrics",
            "models", "onpolicy", "parliament", "paths", "quantise", "results", "run", "scores", "slurm", "status", "teacher_cache", "trainer", "translation", "votes", "widgets")
_NAMES = {"start": "run", "Run": "run", "soft_targets": "losses", "distillation_loss": "losses",
          "DistillationArguments": "trainer", "DistillationTrainer": "trainer", "save_fig": "figures"}
__all__ = [*_MODULES, *_NAMES]

# transformers imports torchao wherever it is installed, and both then warn of kernels for other GPUs: no reader can act on that
for _noisy in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"kdlib has no {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return sorted(__all__)
