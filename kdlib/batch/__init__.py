"""Notebooks without a reader: the command line, papermill, sweeps, Slurm jobs and their status."""

import importlib

# What others call, and the module where it lies: nothing is loaded before it is asked for.
_NAMES = {
    "COURSE": "runs",
    "notebook_path": "runs",
    "run_notebook": "runs",
    "OK": "runs",
    "FAILED": "runs",
    "REFUSED": "runs",
    "STOPPED": "runs",
    "sweep": "sweeps",
}


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"kdlib.batch has no {name!r}")
