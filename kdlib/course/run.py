"""A run: one notebook, one profile, one set of parameters, one folder, one record.

run = kd.start("04_distilbert_mnli", profile=profile, seed=seed, learning_rate=learning_rate)
student = run.stage("student", train_student, rows=train_rows)  # computed, or loaded
run.record(accuracy=0.82)
run.finish()                                    # writes the record: the sign of success
"""

import functools
import hashlib
import inspect
import json
import os
import platform
import random
import shutil
import time
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from ..engine import deadline, hub, processes
from ..engine.provenance import commit, peak_memory_gb, versions
from ..paths import plain_value, runs_root, write_json
from . import lock, needs
from .settings import (  # noqa: F401  (other modules write run.PROFILES)
    PROFILES,
    checked_seed,
    refuse_unknown_injected,
    settings_of,
)

# The record of a run that the deadline stopped: no success, and never among the others.
PARTIAL = "record.partial.json"
SMALL_MODELS = ("smoke", "laptop")  # profiles whose models gain nothing from many threads
OUR_CORPORA = {
    "data/mini_nli": "MiniNLI",
    "data/mini_qqp": "MiniQQP",
    "data/miniparl": "MiniParl",
}
NEEDED_MB = 200  # below this much free disk, a run refuses to start


def start(
    notebook: str, *, profile: str = "", seed: int = 0, run_dir: str = "", **parameters
) -> "Run":
    """Check every parameter and source, seed the random numbers, open the run folder.

    What would fail late is refused here.
    """
    refuse_unknown_injected({"profile", "seed", "run_dir", *parameters})
    settings = settings_of(notebook, profile, **parameters)
    profile, seed = settings.pop("profile"), checked_seed(seed)
    sources = needs.check(notebook, profile, settings)
    run = Run(notebook, profile, seed, settings, run_dir)
    for role, where in sources.items():
        print(f"{role}: {where}")
    return run


def rows_told(draw, settings: dict) -> str:
    """The end of a caption: which rows the figure shows, so that nobody takes ours for real ones.

    "" for a figure of no rows, and for one that names its rows in panels or legend.
    """
    if isinstance(draw.rows, str):
        return ""
    synthetic, real = draw.rows
    if draw.file in ("lab", "full"):  # drawn from stored runs, whatever this run reads
        return f" Rows: {real}."
    read = [name for folder, name in OUR_CORPORA.items() if folder in settings.values()]
    shown = [name for name in read if name in synthetic] or read
    if shown:
        return f" Rows: {' and '.join(shown)}, synthetic."
    return " Rows: real." if real else ""


# -- the run's folder ----------------------------------------------------------------------------


def run_folder(
    notebook: str,
    profile: str,
    seed: int,
    settings: dict,
    run_dir: str = "",
    root: Path | None = None,
) -> Path:
    """The folder that belongs to a notebook and its parameters, whatever kdlib's version."""
    if run_dir:
        return Path(run_dir).expanduser()
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]
    return (root or runs_root()) / notebook / f"{profile}-seed{seed}-{key}"


def writable(folder: Path) -> None:
    """Make the run folder. OSError, with what to do, if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"the run folder {folder} cannot be written ({error.strerror}); "
            "set KD_RUNS or run_dir to a folder of yours"
        ) from error


def refuse_full_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e6
    if free < NEEDED_MB:
        raise OSError(
            f"only {free:.0f} MB are free under {folder}; a run needs {NEEDED_MB} MB. "
            "Delete old runs (make clean) or set KD_RUNS to another disk."
        )


def refuse_other_configuration(folder: Path, configuration: dict) -> None:
    """ValueError if the folder belongs to a run of another notebook, profile, seed or settings.

    Nothing in it is changed.
    """
    try:
        before = json.loads((folder / "run.json").read_text(encoding="utf8"))
    except (OSError, json.JSONDecodeError):
        return  # there is none, or its writing was cut off: then nothing else has been kept
    if before == json.loads(json.dumps(configuration)):
        return
    settings, old_settings = configuration["settings"], before.get("settings", {})
    changed = [name for name, value in settings.items() if old_settings.get(name) != value]
    names = ("notebook", "profile", "seed")
    changed += [name for name in names if before.get(name) != configuration[name]]
    raise ValueError(
        f"the folder {folder} belongs to another configuration (it differs in "
        f"{', '.join(changed)}). Choose another run_dir, or leave run_dir empty: kdlib then picks "
        "a folder by the parameters."
    )


def set_record_aside(folder: Path) -> None:
    """Rename the record of an earlier run: a record means success, and this run only begins.

    The earlier one is kept, as record.previous.json.
    """
    if (folder / "record.json").exists():
        (folder / "record.json").replace(folder / "record.previous.json")
    (folder / PARTIAL).unlink(missing_ok=True)


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _processor_seconds() -> float:
    """Computed by this process and by those that it waited for, all cores together.

    A busy machine makes a run longer, but not these seconds: costs are compared by them.
    """
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _train_and_store(function, inputs: dict, seed: int, place: Path) -> None:
    """What each of several processes does; the first one stores the value."""
    from . import stages

    set_seed(seed)
    value = function(**inputs)
    if processes.is_first():
        stages.dump(value, place)


class Run:
    """See `start`.

    `settings` holds the checked values, `folder` the run's files, `device` is "cuda", "mps" or
    "cpu".
    """

    def __init__(self, notebook: str, profile: str, seed: int, settings: dict, run_dir: str = ""):
        from ..engine.device import limit_threads, machine_device

        if profile in SMALL_MODELS:
            limit_threads()
        self.notebook = notebook
        self.profile = profile
        self.seed = seed
        self.settings = SimpleNamespace(**settings)
        self.device = machine_device()
        self.folder = run_folder(notebook, profile, seed, settings, run_dir)
        self._open()
        self._results, self._tables = {}, {}
        self._seconds, self._processor_seconds = {}, {}  # of each stage
        self._began = time.perf_counter()
        self.partial = {}  # {stage: what the deadline left undone}
        deadline.take()  # notes of an earlier run in this kernel
        set_seed(seed)
        print(f"{notebook} · profile {profile} · seed {seed}")
        print(f"run folder: {self.folder.parent.name}/{self.folder.name}")

    def _configuration(self) -> dict:
        return {
            "notebook": self.notebook,
            "profile": self.profile,
            "seed": self.seed,
            "settings": vars(self.settings),
        }

    def __fingerprint__(self):
        """A stage that uses the run depends on its settings, not on what it has recorded."""
        return {"profile": self.profile, "seed": self.seed, "settings": vars(self.settings)}

    def _open(self) -> None:
        writable(self.folder)
        refuse_full_disk(self.folder)
        refuse_other_configuration(self.folder, self._configuration())
        if os.environ.get("KD_BATCH"):  # the command that started this kernel holds the lock
            lock.join(self.folder)
        else:
            lock.refuse_if_taken(self.folder)
        write_json(self.folder / "run.json", self._configuration())
        set_record_aside(self.folder)

    # -- stages ----------------------------------------------------------------------------------

    def stage(self, name: str, function, /, *, fresh: bool = False, **inputs):
        """`function(**inputs)`, or its earlier result if neither source nor inputs have changed.

        A function with a parameter `folder` gets a folder that survives an interruption
        (Trainer's checkpoints go there). fresh=True computes again. The result of a training that
        the deadline stopped is not kept: the next run continues that training. `stages.KEPT` lists
        the types that can be kept.
        """
        from . import stages

        key = stages.fingerprint(function, inputs)
        place = self.folder / "stages" / f"{name}-{key}"
        work = place.with_name(place.name + ".work")
        if fresh:
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
        if place.is_dir():
            try:
                return self._load_stage(name, place)
            except (ValueError, OSError, KeyError) as error:
                print(f"stage {name}: {error}; computing it again")
        if "folder" in inspect.signature(function).parameters:
            work.mkdir(parents=True, exist_ok=True)
            inputs["folder"] = str(work)
        result = self._compute_stage(name, function, inputs)
        return self._keep_stage(name, result, place, work)

    def _load_stage(self, name: str, place: Path):
        from . import stages

        kept = stages.load(place)
        self._seconds[name] = kept["seconds"]
        self._processor_seconds[name] = kept.get("processor_seconds")
        # the deadline plans with the seconds that it took then
        deadline.spend(**kept.get("spent", {}))
        print(f"stage {name}: loaded, nothing that it depends on has changed")
        return kept["value"]

    def _compute_stage(self, name: str, function, inputs: dict) -> dict:
        """The value, its seconds, and those that the deadline plans with."""
        set_seed(self.seed)  # the same numbers, whether the stages before were loaded or computed
        began, spent_before = time.perf_counter(), deadline.spent()
        processor_began = _processor_seconds()
        self._note_between()
        count = processes.processes()
        if count > 1 and "folder" in inputs:  # only trainings are shared among processes
            value = self._compute_in_processes(function, inputs, count)
        else:
            value = function(**inputs)
        self._seconds[name] = round(time.perf_counter() - began, 2)
        self._processor_seconds[name] = round(_processor_seconds() - processor_began, 2)
        spent = {
            what: seconds
            for what, seconds in deadline.spent().items()
            if spent_before.get(what) != seconds
        }
        return {
            "value": value,
            "seconds": self._seconds[name],
            "processor_seconds": self._processor_seconds[name],
            "spent": spent,
        }

    def _compute_in_processes(self, function, inputs: dict, count: int):
        from . import stages

        folder = Path(inputs["folder"])
        result = folder / "result"
        shutil.rmtree(result, ignore_errors=True)
        task = functools.partial(_train_and_store, function, inputs, self.seed, result)
        processes.run_in_processes(task, folder / "handover", count)
        value = stages.load(result)
        shutil.rmtree(result, ignore_errors=True)
        return value

    def _keep_stage(self, name: str, result: dict, place: Path, work: Path):
        """Store the result and return what is read back from disk."""
        from . import stages

        partial_place = place.with_name(place.name + ".partial")
        unfinished = deadline.take()
        if unfinished:
            self.partial[name] = unfinished
            stages.replace(partial_place, result)
            print(f"stage {name}: stopped early, {deadline.told({name: unfinished})}")
            return stages.load(partial_place)["value"]
        stages.replace(place, result)
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(partial_place, ignore_errors=True)
        print(f"stage {name}: done")
        return stages.load(place)["value"]

    def _note_between(self) -> None:
        """Note a training outside of all stages that the deadline has stopped."""
        notes = deadline.take()
        if notes:
            self.partial.setdefault("between the stages", []).extend(notes)

    # -- the record ------------------------------------------------------------------------------

    def record(self, **values) -> None:
        """Put numbers, short texts, or lists of them, into this run's record.

        TypeError for anything else: now, and not hours later in `finish`.
        """
        json.dumps(values, default=plain_value)
        self._results.update(values)

    def figure(self, draw, table) -> None:
        """Draw `table` with one of `kdlib.figures`, show it with its caption, keep both."""
        self._tables[draw.__name__] = json.loads(table.to_json(orient="records"))
        note = rows_told(draw, vars(self.settings))
        note += f" (Partial: {deadline.told(self.partial)}.)" if self.partial else ""
        draw.present(table, folder=self.folder / "figures", note=note)

    def draft(self) -> dict:
        """The record, as far as it is known by now."""
        record = self._configuration() | {
            "results": self._results,
            "tables": self._tables,
            "stage_seconds": self._seconds,
            "stage_processor_seconds": self._processor_seconds,
            "processor_seconds": round(_processor_seconds(), 1),
            "seconds": round(time.perf_counter() - self._began, 1),
            "peak_gb": round(peak_memory_gb(), 2),
            "device": self.device,
            "machine": platform.machine(),
            "versions": versions(),
            "commit": commit(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        if hub.loaded():
            record["hub"] = hub.loaded()
        if self.partial:
            record["partial"] = self.partial
        return record

    def finish(self) -> dict:
        """Write the record (atomically), say where it is, and return it.

        This file and exit code 0 together mean success. After a deadline the file is called
        `PARTIAL`, and no table of runs reads it.
        """
        self._note_between()
        record = self.draft()
        file = PARTIAL if self.partial else "record.json"
        write_json(self.folder / file, record)
        if self.partial:
            print(f"stopped early, and no result yet: {deadline.told(self.partial)}")
        print(f"record: {self.folder.parent.name}/{self.folder.name}/{file}")
        return record
