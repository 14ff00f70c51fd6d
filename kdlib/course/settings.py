"""The settings of a notebook: those of its profile, changed by parameters, all checked by name.

A profile file (kdlib/profiles/NN_….yaml) holds every parameter of a notebook with its type and
default, and what each profile changes. Nothing else switches between laptop and cluster.
"""

import ast
import functools
import os
import re
import sys
from importlib import resources
from typing import Callable, NamedTuple

import numpy as np

from .. import methods
from ..paths import did_you_mean
from . import needs

PROFILES = ("smoke", "laptop", "lab", "full")
AS_THE_PROFILE_SAYS = (-1, "")  # a notebook can declare all its parameters with plain types


class Range(NamedTuple):
    """What a parameter may be: a test, and the words for it."""

    holds: Callable
    words: str


def _one_of(*names: str) -> Range:
    return Range(lambda value: value in names, "one of " + ", ".join(names))


def _temperatures(text: str) -> bool:
    numbers = _numbers(text)
    return bool(numbers) and min(numbers) > 0


def _numbers(text: str) -> list[float]:
    """The finite numbers of "1,2,4"; none if any part is no number."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(map(np.isfinite, numbers)) else []


POSITIVE = Range(lambda value: value > 0, "above 0")
SHARE = Range(lambda value: 0 <= value <= 1, "in [0, 1]")
COUNT = Range(lambda value: value >= 0, "a count, or 0 for all")
RANGES = {
    "temperature": POSITIVE,
    "learning_rate": POSITIVE,
    "epochs": POSITIVE,
    "batch_size": POSITIVE,
    "max_length": POSITIVE,
    "accumulation": POSITIVE,
    "max_words": POSITIVE,
    "alpha": SHARE,
    "smoothing": SHARE,
    "own_from": SHARE,
    "train_rows": COUNT,
    "validation_rows": COUNT,
    "test_rows": COUNT,
    "rows": COUNT,
    "temperatures": Range(_temperatures, "numbers above 0 with commas between them"),
    "lora_rank": Range(lambda value: value >= 0, "a rank, or 0 for all weights"),
    "topk": Range(lambda value: value >= 0, "a count, or 0 for a live teacher"),
    "weight": Range(lambda value: value >= 0, "0 or more"),
    "targets": Range(lambda value: value in ("references", "teacher"), "references or teacher"),
    "end_token": Range(lambda value: value in ("new", "reserved"), "new or reserved"),
    "hidden": _one_of("off", "ce", "kd", "cosine", "mse", "mse_other_rows", "mse_random"),
    "words": _one_of("off", "references", "own"),
    "dtype": _one_of("auto", "float32", "bfloat16", "float16"),
}


def settings_of(notebook: str, profile: str = "", /, **parameters) -> dict:
    """The settings of a notebook under a profile, changed by `parameters`.

    A parameter of -1 or "" means "as the profile says". Raises ValueError for an unknown profile,
    an unknown or misspelt name, and a value of another type or out of its range.
    """
    profile = profile or os.environ.get("KD_PROFILE") or "laptop"
    if profile not in PROFILES:
        raise ValueError(
            f"profile must be one of {', '.join(PROFILES)}, "
            f"not {profile!r}{did_you_mean(profile, PROFILES)}"
        )
    blocks = _profile_file(notebook)
    defaults = blocks["defaults"]
    settings = dict(defaults)
    for name, value in (blocks[profile] or {}).items():
        settings[name] = _checked(name, value, defaults, f"{notebook}.yaml, {profile}", notebook)
    for name, value in parameters.items():
        value = _checked(name, value, defaults, "parameters", notebook)
        if value is not None:
            settings[name] = value
    _check_ranges(settings)
    needs.of(notebook, settings)  # refuses what cannot be a source
    return {"profile": profile, **settings}


def _check_ranges(settings: dict) -> None:
    ranges = RANGES
    if "divergence" in settings:
        # Here and not above: `losses` loads torch, and the other notebooks' settings need none.
        from ..losses import DIVERGENCES

        ranges = RANGES | {"divergence": _one_of("ce", *DIVERGENCES)}
    for name, allowed in ranges.items():
        if name in settings and not allowed.holds(settings[name]):
            raise ValueError(f"{name} must be {allowed.words}, not {settings[name]!r}")
    if "method" in settings:
        known = methods.FOR_TOKENS if "targets" in settings else methods.FOR_ROWS
        methods.check(settings["method"], known)


def _profile_file(notebook: str) -> dict:
    file = resources.files("kdlib.profiles") / f"{notebook}.yaml"
    if not file.is_file():
        raise ValueError(f"there is no profile file for the notebook {notebook!r}")
    return _parsed(file.read_text(encoding="utf8"))


@functools.cache
def _parsed(text: str) -> dict:
    """A profile file; a grid of thousands of points reads it once."""
    import yaml

    return yaml.safe_load(text)


def _checked(name: str, value, defaults: dict, origin: str, notebook: str):
    """The value if it has the type of the parameter's default; None for "as the profile says"."""
    if name not in defaults:
        raise ValueError(
            f"unknown parameter {name!r} ({origin}){did_you_mean(name, defaults)}; "
            f"{notebook} has {', '.join(defaults)}"
        )
    is_plain = isinstance(value, (int, float, str))
    if origin == "parameters" and is_plain and value in AS_THE_PROFILE_SAYS:
        return None
    return _typed(name, value, defaults[name], origin)


def _typed(name: str, value, example, origin: str):
    """`value` if it has the type of `example`; ValueError otherwise. An int may be a float."""
    wanted = type(example)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is wanted and not (wanted is float and not np.isfinite(value)):
        return value
    hint = ""
    if isinstance(value, str) and wanted in (int, float) and _is_scientific(value):
        hint = " (YAML reads 2e-5 as text: write 2.0e-5)"
    elif isinstance(value, str) and wanted is bool:
        hint = " (papermill's -p gives text: use -y, or True and False)"
    raise ValueError(
        f"{name} must be {wanted.__name__} like {example!r}, "
        f"not {type(value).__name__} {value!r} ({origin}){hint}"
    )


def _is_scientific(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?\d+e[-+]?\d+", text.strip(), re.I))


def checked_seed(seed: int) -> int:
    """ValueError unless the seed is a whole number from 0 on."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, not {seed!r}")
    return seed


def refuse_unknown_injected(declared: set[str]) -> None:
    """ValueError when papermill injected a name that the notebook does not pass on.

    papermill itself would only warn.
    """
    if "IPython" not in sys.modules:
        return
    shell = sys.modules["IPython"].get_ipython()
    for cell in shell.user_ns.get("In", []) if shell else []:
        if not cell.lstrip().startswith("# Parameters\n"):
            continue
        unknown = sorted(_assigned_names(cell) - declared)
        if unknown:
            raise ValueError(
                f"unknown parameter {', '.join(unknown)}{did_you_mean(unknown[0], declared)}; "
                f"this notebook has {', '.join(sorted(declared))}"
            )


def _assigned_names(source: str) -> set[str]:
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    targets = [target for node in assignments for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}
