"""A run: one notebook, one profile, one set of parameters, one folder, one record.

    run = kd.start("04_distilbert_mnli", profile=profile, seed=seed, learning_rate=learning_rate)
    student = run.stage("student", train_student, rows=train_rows)       # computed, or loaded if nothing changed
    run.record(accuracy=0.82)
    run.finish()                                                          # writes the record: the sign of success
"""
import ast
import functools
import hashlib
import inspect
import json
import os
import platform
import random
import re
import shutil
import sys
import time
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ..engine import deadline, processes as launch
from . import lock, needs
from .. import methods
from ..engine import hub
from ..paths import DATA, ROOT, did_you_mean, plain_value, runs_root, write_json  # noqa: F401

PROFILES = ("smoke", "laptop", "lab", "full")
PARTIAL = "record.partial.json"              # the record of a run that the deadline stopped: no success, and never among the others
NEEDED_MB = 200                             # below this much free disk, a run refuses to start
_positive, _share, _count = ((lambda v: v > 0, "above 0"), (lambda v: 0 <= v <= 1, "in [0, 1]"), (lambda v: v >= 0, "a count, or 0 for all"))
_among = lambda *names: (lambda v: v in names, "one of " + ", ".join(names))


def _numbers(text: str) -> list[float]:
    """The finite numbers of "1,2,4"; none if any part is no number."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return found if all(map(np.isfinite, found)) else []


LIMITS = {"temperature": _positive, "learning_rate": _positive, "epochs": _positive, "batch_size": _positive, "max_length": _positive,
          "alpha": _share, "smoothing": _share, "train_rows": _count, "validation_rows": _count, "rows": _count,
          "temperatures": (lambda v: _numbers(v) and min(_numbers(v)) > 0, "numbers above 0 with commas between them"), "test_rows": _count, "accumulation": _positive, "max_words": _positive,
          "lora_rank": (lambda v: v >= 0, "a rank, or 0 for all weights"), "topk": (lambda v: v >= 0, "a count, or 0 for a live teacher"),
          "targets": (lambda v: v in ("references", "teacher"), "references or teacher"), "end_token": (lambda v: v in ("new", "reserved"), "new or reserved"),
          "hidden": _among("off", "ce", "kd", "cosine", "mse", "mse_other_rows", "mse_random"), "words": _among("off", "references", "own"),
          "divergence": _among("ce", "forward_kl", "reverse_kl", "jsd"), "own_from": _share, "dtype": _among("auto", "float32", "bfloat16", "float16"), "weight": (lambda v: v >= 0, "0 or more")}


def run_folder(notebook: str, profile: str, seed: int, settings: dict, run_dir: str = "", root: Path | None = None) -> Path:
    """The folder that belongs to a notebook and its parameters; the same whatever kdlib's version."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return Path(run_dir).expanduser() if run_dir else (root or runs_root()) / notebook / f"{profile}-seed{seed}-{key}"


def settings_of(notebook: str, profile: str = "", /, **parameters) -> dict:
    """The settings of a notebook under a profile, with `parameters` laid over them; checked by name and type.

    A parameter of -1 or "" means "as the profile says", so a notebook can declare all of them with plain types.
    Raises ValueError for an unknown profile, an unknown or misspelt name, a value of another type or out of its range.
    """
    profile = profile or os.environ.get("KD_PROFILE") or "laptop"
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}{did_you_mean(profile, PROFILES)}")
    file = resources.files("kdlib.profiles") / f"{notebook}.yaml"
    if not file.is_file():
        raise ValueError(f"there is no profile file for the notebook {notebook!r}")
    blocks = _parsed(file.read_text(encoding="utf8"))
    settings = dict(blocks["defaults"])
    for origin, values in ((f"{notebook}.yaml, {profile}", blocks[profile] or {}), ("parameters", parameters)):
        for name, value in values.items():
            if name not in settings:
                raise ValueError(f"unknown parameter {name!r} ({origin}){did_you_mean(name, settings)}; "
                                 f"{notebook} has {', '.join(settings)}")
            if not (origin == "parameters" and isinstance(value, (int, float, str)) and value in (-1, "")):
                settings[name] = _typed(name, value, blocks["defaults"][name], origin)
    for name, (holds, words) in LIMITS.items():
        if name in settings and not holds(settings[name]):
            raise ValueError(f"{name} must be {words}, not {settings[name]!r}")
    if "method" in settings:
        methods.check(settings["method"], methods.FOR_TOKENS if "targets" in settings else methods.FOR_ROWS)
    needs.of(notebook, settings)                                 # a source that can be none is refused here
    return {"profile": profile, **settings}


@functools.cache
def _parsed(text: str) -> dict:
    """A profile file; a grid of thousands of points reads it once."""
    import yaml
    return yaml.safe_load(text)


def _typed(name: str, value, example, origin: str):
    """`value` if it has the type of `example` (an int may stand for a float); ValueError otherwise."""
    wanted = type(example)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted or (wanted is float and not np.isfinite(value)):
        hint = ""
        if isinstance(value, str) and wanted in (int, float) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value.strip(), re.I):
            hint = " (YAML reads 2e-5 as text: write 2.0e-5)"
        elif isinstance(value, str) and wanted is bool:
            hint = " (papermill's -p gives text: use -y, or True and False)"
        raise ValueError(f"{name} must be {wanted.__name__} like {example!r}, not {type(value).__name__} {value!r} "
                         f"({origin}){hint}")
    return value


def start(notebook: str, *, profile: str = "", seed: int = 0, run_dir: str = "", **parameters) -> "Run":
    """Check every parameter, seed the random numbers, open the run folder; refuse early what would fail late."""
    refuse_unknown_injected({"profile", "seed", "run_dir", *parameters})
    settings = settings_of(notebook, profile, **parameters)
    profile, seed = settings.pop("profile"), checked_seed(seed)
    had = needs.check(notebook, profile, settings)
    run = Run(notebook, profile, seed, settings, run_dir)
    for role, told in had.items():
        print(f"{role}: {told}")
    return run


def checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a whole number from 0 on, not {seed!r}")
    return seed


def refuse_unknown_injected(declared: set[str]) -> None:
    """ValueError when papermill injected a name that the notebook does not pass to `start`; it would only warn."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    for cell in (shell.user_ns.get("In", []) if shell else []):
        if cell.lstrip().startswith("# Parameters\n"):
            names = {t.id for node in ast.parse(cell).body if isinstance(node, ast.Assign) for t in node.targets
                     if isinstance(t, ast.Name)}
            if unknown := sorted(names - declared):
                raise ValueError(f"unknown parameter {', '.join(unknown)}{did_you_mean(unknown[0], declared)}; "
                                 f"this notebook has {', '.join(sorted(declared))}")


def writable(folder: Path) -> None:
    """Make the run folder; OSError with what to do unless it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OSError(f"the run folder {folder} cannot be written ({error.strerror}); set KD_RUNS or run_dir to a folder of yours") from error


def refuse_other_configuration(folder: Path, configuration: dict) -> None:
    """ValueError when the folder belongs to a run of another notebook, profile, seed or settings; nothing in it is touched."""
    try:
        before = json.loads((folder / "run.json").read_text(encoding="utf8"))
    except (OSError, json.JSONDecodeError):
        return                                  # none yet, or cut off while it was written: nothing else can have been kept
    if before != json.loads(json.dumps(configuration)):
        changed = [k for k, v in configuration["settings"].items() if before.get("settings", {}).get(k) != v]
        changed += [k for k in ("notebook", "profile", "seed") if before.get(k) != configuration[k]]
        raise ValueError(f"{folder} belongs to another configuration (it differs in {', '.join(changed)}); "
                         "take another run_dir, or none: kdlib then picks a folder by the parameters")


def set_record_aside(folder: Path) -> None:
    """A record means success: an old one must not vouch for the run that begins now, and is not lost either."""
    if (folder / "record.json").exists():
        (folder / "record.json").replace(folder / "record.previous.json")
    (folder / PARTIAL).unlink(missing_ok=True)


def set_seed(seed: int) -> None:
    """Python, NumPy and torch."""
    import torch
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


class Run:
    """See `start`. `settings` holds the checked values, `folder` the run's files, `device` "cuda", "mps" or "cpu"."""

    def __init__(self, notebook: str, profile: str, seed: int, settings: dict, run_dir: str = ""):
        from .. import figures
        from ..engine.device import machine_device
        self.notebook, self.profile, self.seed, self.settings = notebook, profile, seed, SimpleNamespace(**settings)
        self.device = machine_device()
        self.folder = run_folder(notebook, profile, seed, settings, run_dir)
        self._open({"notebook": notebook, "profile": profile, "seed": seed, "settings": settings})
        self._results, self._tables, self._seconds, self._began = {}, {}, {}, time.perf_counter()
        self.partial, _ = {}, deadline.take()               # {stage: what the deadline left undone}
        set_seed(seed)
        figures.style()
        print(f"{notebook} · profile {profile} · seed {seed}\nrun folder: {self.folder.parent.name}/{self.folder.name}")

    def __fingerprint__(self):
        return {"profile": self.profile, "seed": self.seed, "settings": vars(self.settings)}

    def _open(self, configuration: dict) -> None:
        writable(self.folder)
        free = shutil.disk_usage(self.folder).free / 1e6
        if free < NEEDED_MB:
            raise OSError(f"only {free:.0f} MB are free under {self.folder}; a run needs {NEEDED_MB} MB. Delete old runs "
                          "(make clean) or set KD_RUNS to another disk.")
        refuse_other_configuration(self.folder, configuration)
        lock.join(self.folder) if os.environ.get("KD_BATCH") else lock.refuse_if_taken(self.folder)
        write_json(self.folder / "run.json", configuration)
        set_record_aside(self.folder)

    def stage(self, name: str, function, /, *, fresh: bool = False, **inputs):
        """`function(**inputs)`, or its result of an earlier run if neither its source nor its inputs have changed.

        A function with a parameter `folder` is handed a folder that survives an interruption (Trainer's checkpoints go
        there). fresh=True computes again. A training that the deadline stopped is not kept: the next run goes on with it. Kept are: numbers, text, lists, dicts, arrays, tensors, DataFrames, datasets,
        transformers models.
        """
        from . import stages
        key = stages.fingerprint(function, inputs)
        place, work = self.folder / "stages" / f"{name}-{key}", self.folder / "stages" / f"{name}-{key}.work"
        if fresh:
            shutil.rmtree(place, ignore_errors=True), shutil.rmtree(work, ignore_errors=True)
        if place.is_dir():
            try:
                kept = stages.load(place)
                self._seconds[name] = kept["seconds"]
                deadline.spend(**kept.get("spent", {}))      # what it took then is what the same will take after training
                print(f"stage {name}: loaded, nothing that it depends on has changed")
                return kept["value"]
            except (ValueError, OSError, KeyError) as error:
                print(f"stage {name}: {error}; computing it again")
        set_seed(self.seed)                        # a stage's numbers must not depend on which stages were loaded
        if "folder" in inspect.signature(function).parameters:
            work.mkdir(parents=True, exist_ok=True)
            inputs["folder"] = str(work)
        began, before = time.perf_counter(), deadline.spent()
        self._note_between()
        if (count := launch.processes()) > 1 and "folder" in inputs:            # a training: the other stages have nothing to share
            value = launch.in_processes(function, inputs, self.seed, count)
        else:
            value = function(**inputs)
        self._seconds[name] = round(time.perf_counter() - began, 2)
        if unfinished := deadline.take():
            self.partial[name] = unfinished
            place = place.with_name(place.name + ".partial")
        spent = {what: seconds for what, seconds in deadline.spent().items() if before.get(what) != seconds}
        stages.replace(place, {"value": value, "seconds": self._seconds[name], "spent": spent})
        if unfinished:
            print(f"stage {name}: stopped early, {deadline.told({name: unfinished})}")
            return stages.load(place)["value"]
        shutil.rmtree(work, ignore_errors=True), shutil.rmtree(place.with_name(place.name + ".partial"), ignore_errors=True)
        print(f"stage {name}: done")
        return stages.load(place)["value"]

    def _note_between(self) -> None:
        if notes := deadline.take():                        # trained outside of any stage
            self.partial["between the stages"] = self.partial.get("between the stages", []) + notes

    def record(self, **values) -> None:
        """Numbers (or short texts, or lists of them) that belong into this run's record; TypeError for anything else."""
        json.dumps(values, default=plain_value)                  # refused here, not by `finish` after hours
        self._results.update(values)

    def figure(self, draw, table):
        """Draw `table` with one of `kdlib.figures`' functions, show it with its caption, and keep both with the run."""
        from .. import figures
        self._tables[draw.__name__] = json.loads(table.to_json(orient="records"))
        figure = draw(table)
        figures.save_fig(figure, draw.__name__, folder=self.folder / "figures", alt=draw.alt)
        figures.show(figure, draw.alt + (f" (Partial: {deadline.told(self.partial)}.)" if self.partial else ""))

    def draft(self) -> dict:
        """The record as far as it is known now."""
        from . import results
        return {
            "notebook": self.notebook, "profile": self.profile, "seed": self.seed, "settings": vars(self.settings),
            "results": self._results, "tables": self._tables, "stage_seconds": self._seconds,
            "seconds": round(time.perf_counter() - self._began, 1), "peak_gb": round(results.peak_memory_gb(), 2),
            "device": self.device, "machine": platform.machine(), "versions": results.versions(),
            "commit": results.commit(), "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **({"hub": hub.loaded()} if hub.loaded() else {}),
            **({"partial": self.partial} if self.partial else {})}

    def finish(self) -> dict:
        """Write the record (atomically) and say where it is. This file and exit code 0 together mean success.

        After a deadline it is a `record.partial.json`, which no table of runs reads.
        """
        self._note_between()
        record = self.draft()
        write_json(self.folder / (PARTIAL if self.partial else "record.json"), record)
        if self.partial:
            print(f"stopped early, and no result yet: {deadline.told(self.partial)}")
        print(f"record: {self.folder.parent.name}/{self.folder.name}/{PARTIAL if self.partial else 'record.json'}")
        return record
