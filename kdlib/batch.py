"""Notebooks without a browser: one, the whole course, or a sweep, through papermill; trusted only with exit code *and* record.

papermill's cell status lies after a killed kernel (every cell "completed"), so it is never read.
"""
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import yaml

from .run import ROOT, run_folder, runs_root, settings_of

COURSE = ("00_start_here", "01_soft_targets", "02_temperature", "03_distillation_loss", "04_distilbert_mnli")
OK, FAILED, KILLED = 0, 1, 138


class Outcome(NamedTuple):
    """What became of one notebook: exit code, record (None without success), seconds, peak memory in GB, the executed copy."""

    notebook: str
    code: int
    record: dict | None
    seconds: float
    peak_gb: float
    executed: Path
    error: str = ""


def notebook_path(notebook: str | Path) -> Path:
    """A notebook by path or by name ("04", "04_distilbert_mnli"). FileNotFoundError says which there are."""
    if Path(notebook).suffix == ".ipynb" and Path(notebook).is_file():
        return Path(notebook).resolve()
    folder = ROOT / "notebooks"
    found = sorted(folder.glob(f"{Path(notebook).stem}*.ipynb"))
    if len(found) != 1:
        names = ", ".join(p.stem for p in sorted(folder.glob("*.ipynb")))
        raise FileNotFoundError(f"no notebook {notebook!r}; there are {names}")
    return found[0]


def run_notebook(notebook: str | Path, profile: str = "", parameters: dict | None = None, *, runs: Path | None = None,
                 executed: Path | None = None, timeout: int | None = None) -> Outcome:
    """Check the parameters, execute the notebook in a process of its own, look for its record.

    Raises ValueError before anything runs when a parameter is unknown or of another type. The executed copy lies at
    `executed`, by default in the run's folder.
    """
    path, parameters = notebook_path(notebook), dict(parameters or {})
    if parameters.get("run_dir"):
        parameters["run_dir"] = str(Path(parameters["run_dir"]).expanduser().resolve())   # the kernel runs elsewhere
    seed, run_dir = parameters.get("seed", 0), parameters.get("run_dir", "")
    checked = settings_of(path.stem, profile, **_settings(parameters))
    folder = _folder(path.stem, checked, seed, run_dir, runs)
    executed = executed or folder / path.name
    for place in (folder, executed.parent):
        place.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").unlink(missing_ok=True)
    given = executed.with_suffix(".parameters.yaml")
    # through yaml, not json: papermill reads this file as YAML 1.1, where 2e-05 is a text and 2.0e-05 a number
    given.write_text(yaml.safe_dump({"profile": checked["profile"], **parameters}), encoding="utf8")
    environment = os.environ | {"KD_RUNS": str(runs or runs_root()), "TOKENIZERS_PARALLELISM": "false", "KD_BATCH": "1",
                                "PYTHONNOUSERSITE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    command = [sys.executable, "-m", "papermill", str(path), str(executed), "--cwd", str(path.parent), "-k", "python3",
               "-f", str(given), "--no-progress-bar", "--log-level", "ERROR", "--start-timeout", "300"]
    began = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    seconds = time.perf_counter() - began
    given.unlink(missing_ok=True)
    record = json.loads((folder / "record.json").read_text()) if (folder / "record.json").exists() else None
    code = process.returncode if process.returncode or record else FAILED
    error = "" if code == OK else _last_line(process.stderr) or "the notebook wrote no record"
    if code == KILLED:
        error = "the kernel was killed: most likely the machine ran out of memory"
    return Outcome(path.stem, code, record, seconds, (record or {}).get("peak_gb", 0.0), executed, error)


def _settings(parameters: dict) -> dict:
    """The parameters that a profile file knows; seed and run_dir belong to every notebook."""
    return {name: given for name, given in parameters.items() if name not in ("seed", "run_dir")}


def _folder(notebook: str, checked: dict, seed: int, run_dir: str, runs: Path | None = None) -> Path:
    settings = {name: setting for name, setting in checked.items() if name != "profile"}
    return run_folder(notebook, checked["profile"], seed, settings, run_dir, runs)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("[")]
    return lines[-1][:300] if lines else ""


def course(profile: str = "", notebooks: tuple[str, ...] = COURSE, inplace: bool = False) -> int:
    """Run the notebooks in order, go on after a failure, say where everything is. Returns the exit code."""
    from . import results
    if inplace:
        return max(refresh(notebook_path(name), profile or "laptop") for name in notebooks)
    outcomes = []
    for name in notebooks:
        print(f"{name} …", end=" ", flush=True)
        outcome = run_notebook(name, profile)
        outcomes.append(outcome)
        print(f"{outcome.seconds:.0f} s, {outcome.peak_gb:.1f} GB" if outcome.code == OK else f"FAILED ({outcome.code}): {outcome.error}")
    root = runs_root()
    table = root / "results.csv"
    results.load().to_csv(table, index=False)
    print(f"\ntogether {sum(o.seconds for o in outcomes) / 60:.1f} minutes")
    for outcome in outcomes:
        print(f"executed notebook  {_short(outcome.executed)}")
    print(f"results table      {_short(table)}\nfigures            {_short(root)}/<notebook>/<run>/figures   "
          "(for slides: make figures)")
    return FAILED if any(o.code for o in outcomes) else OK


def refresh(path: Path, profile: str) -> int:
    """Execute a notebook in place, in a fresh run folder and without injected cells: the outputs that readers see."""
    with tempfile.TemporaryDirectory() as runs:
        done = subprocess.run(
            [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path),
             "--ExecutePreprocessor.record_timing=False", "--ExecutePreprocessor.timeout=3600", "--log-level=ERROR"],
            env=os.environ | {"KD_PROFILE": profile, "KD_RUNS": runs, "TOKENIZERS_PARALLELISM": "false"})
    print(f"{path.name}: {'executed in place' if done.returncode == 0 else 'FAILED'}")
    return done.returncode


def sweep(notebook: str, grid: dict[str, list], profile: str = "") -> int:
    """Every point of the grid, one after another; finished points are skipped, failed ones told at the end."""
    path = notebook_path(notebook)
    points = [dict(zip(grid, values)) for values in itertools.product(*grid.values())]
    for point in points:                                        # all are checked before the first one runs
        settings_of(path.stem, profile, **_settings(point))
    failed = []
    for i, point in enumerate(points, 1):
        name = " ".join(f"{k}={v}" for k, v in point.items())
        checked = settings_of(path.stem, profile, **_settings(point))
        if (_folder(path.stem, checked, point.get("seed", 0), point.get("run_dir", "")) / "record.json").exists():
            print(f"[{i}/{len(points)}] {name}: finished earlier")
            continue
        print(f"[{i}/{len(points)}] {name} …", end=" ", flush=True)
        outcome = run_notebook(path, profile, point)
        print(f"{outcome.seconds:.0f} s" if outcome.code == OK else f"FAILED ({outcome.code}): {outcome.error}", flush=True)
        failed += [name] if outcome.code else []
    print(f"{len(points) - len(failed)} of {len(points)} points have a record" + "".join(f"\nfailed: {f}" for f in failed))
    return FAILED if failed else OK


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
