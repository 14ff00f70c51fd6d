"""kdlib: the small module behind the course on knowledge distillation.

Importing it costs nothing: `from kdlib import losses, glue, results …` loads a module on first use.
"""

import importlib
import logging

__version__ = "0.1.0"

# What a notebook may name, and the module below kdlib where it lies.
_MODULES = {
    "ask": "figures.ask",
    "batch": "batch",
    "causal": "causal",
    "chat": "chat",
    "check": "course.check",
    "comparisons": "course.comparisons",
    "corpora": "corpora",
    "deadline": "engine.deadline",
    "doctor": "tools.doctor",
    "explorers": "figures.explorers",
    "figures": "figures",
    "figures_beyond": "figures.beyond",
    "findings": "course.findings",
    "gallery": "figures.gallery",
    "get": "corpora.get",
    "glue": "glue",
    "hidden": "hidden",
    "legend": "figures.legend",
    "losses": "losses",
    "memory": "tools.memory",
    "methods": "methods",
    "metrics": "engine.metrics",
    "models": "models",
    "onpolicy": "onpolicy",
    "parliament": "corpora.miniparl",
    "paths": "paths",
    "quantise": "quantise",
    "results": "course.results",
    "run": "course.run",
    "scores": "scores",
    "slurm": "batch.slurm",
    "status": "batch.status",
    "target_tables": "course.target_tables",
    "teacher_cache": "engine.teacher_cache",
    "teachers": "course.teachers",
    "translators": "course.translators",
    "trainer": "trainer",
    "translation": "translation",
    "translation_tables": "course.translation_tables",
    "tuning": "course.tuning",
    "vocab_cost": "tools.vocab_cost",
    "votes": "votes",
    "widgets": "figures.widgets",
}
# Names that are so common that they need no module in front: kd.start, kd.distillation_loss …
_NAMES = {
    "Run": "run",
    "soft_targets": "losses",
    "distillation_loss": "losses",
    "DistillationArguments": "trainer",
    "DistillationTrainer": "trainer",
    "save_fig": "figures",
}
__all__ = ["start", *_MODULES, *_NAMES]

# transformers imports torchao wherever it is installed, and both then warn of kernels for other
# GPUs: no reader can act on that.
for _noisy in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_noisy).setLevel(logging.ERROR)


def start(notebook: str, **parameters):
    """Open a run of a notebook (`course.run.start`), and give its figures the course's look."""
    from . import figures
    from .course import run

    opened = run.start(notebook, **parameters)
    figures.style()
    return opened


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f".{_MODULES[name]}", __name__)
    if name in _NAMES:
        return getattr(__getattr__(_NAMES[name]), name)
    raise AttributeError(f"kdlib has no {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return sorted(__all__)
