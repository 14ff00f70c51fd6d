"""A notebook without a browser, through papermill; trusted only with exit code *and* record.

papermill's cell status lies after a killed kernel (every cell "completed"), so it is never read.

Exit codes, of `run`, `sweep` and the jobs of `sbatch`: 0 done, 1 failed, 2 refused before anything
ran, 75 stopped early (by a deadline; the same command goes on), 130 interrupted, 138 the kernel was
killed.
"""

import ast
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from ..course import lock, needs
from ..course.notebooks import COURSE, notebook_path
from ..course.run import (
    PARTIAL,
    checked_seed,
    refuse_other_configuration,
    run_folder,
    set_record_aside,
    settings_of,
    writable,
)
from ..engine import deadline
from ..paths import did_you_mean, runs_root, write_json

OK, FAILED, REFUSED, STOPPED, INTERRUPTED, KILLED = 0, 1, 2, 75, 130, 138


class Outcome(NamedTuple):
    """What became of one notebook."""

    code: int
    record: dict | None  # None without success
    seconds: float
    peak_gb: float
    executed: Path  # the copy with outputs
    error: str = ""


# -- one notebook ----------------------------------------------------------------------------------


def run_notebook(
    notebook: str | Path,
    profile: str = "",
    parameters: dict | None = None,
    *,
    runs: Path | None = None,
    threads: int = 0,
    stop: threading.Event | None = None,
) -> Outcome:
    """Check the parameters, execute the notebook in a process of its own, look for its record.

    Raises ValueError before anything runs when a parameter is unknown or of another type, OSError
    when another live run has the folder. A deadline (see `deadline`) makes it code 75 and a partial
    record. `threads` is the kernel's OMP_NUM_THREADS unless the environment has one (0: `kd.start`
    chooses). Setting `stop` from another thread ends the run with KeyboardInterrupt.
    """
    path = notebook_path(notebook)
    parameters = dict(parameters or {})
    if parameters.get("run_dir"):  # the kernel runs elsewhere
        parameters["run_dir"] = str(Path(parameters["run_dir"]).expanduser().resolve())
    profile, folder, configuration = place_of(path, profile, parameters, runs)
    refuse_placeholders(parameters)
    # all that can be refused is refused here: a kernel takes seconds to start, a model minutes
    refuse_other_configuration(folder, configuration)
    needs.check(path.stem, profile, configuration["settings"])
    executed = folder / path.name
    given = {"profile": profile, **parameters}
    environment = _environment(runs or runs_root(), threads)
    writable(folder)
    lock.acquire(folder)
    try:
        # a record from before must not pass for that of a run that fails
        set_record_aside(folder)
        (folder / "outcome.json").unlink(missing_ok=True)
        began = time.perf_counter()
        returned, stderr = _papermill(path, executed, given, environment, stop)
        seconds = time.perf_counter() - began
        if returned in (-signal.SIGTERM, KILLED) and stop and stop.wait(2):
            # scancel's signal reaches papermill and kernel, too: they may be quicker than we are
            raise KeyboardInterrupt
        code, record, error = _what_became(folder, returned, stderr)
        note_outcome(folder, code, error, seconds)
    except KeyboardInterrupt:
        error = "interrupted; the same command goes on from its last checkpoint"
        note_outcome(folder, INTERRUPTED, error)
        raise
    finally:
        lock.release(folder)
    peak_gb = (record or {}).get("peak_gb", 0.0)
    return Outcome(code, record, seconds, peak_gb, executed, error)


def _environment(runs: Path, threads: int) -> dict[str, str]:
    """The variables of the process that executes a notebook."""
    ours = Path(__file__).resolve().parents[2]
    python_path = [str(ours), os.environ.get("PYTHONPATH", "")]
    # the user's own OMP_NUM_THREADS wins, so ours comes first
    environment = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    environment |= os.environ
    environment |= {
        "KD_RUNS": str(runs),
        "KD_BATCH": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, python_path)),  # the kernel's kdlib is this one
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    ends = deadline.at()
    if ends is not None:
        environment["KD_DEADLINE"] = f"{ends:.0f}"
    return environment


def _papermill(
    path: Path, executed: Path, parameters: dict, environment: dict, stop: threading.Event | None
) -> tuple[int, str]:
    """Execute the notebook. Returns papermill's exit code and stderr."""
    given = executed.with_suffix(".parameters.yaml")
    # Through yaml, not json: papermill reads this file as YAML 1.1, where 2e-05 is a text and
    # 2.0e-05 a number.
    given.write_text(yaml.safe_dump(parameters), encoding="utf8")
    command = [sys.executable, "-m", "kdlib.batch.kernel", str(path), str(executed)]
    command += ["--cwd", str(path.parent), "-k", "python3", "-f", str(given)]
    command += ["--no-progress-bar", "--log-level", "ERROR", "--start-timeout", "300"]
    try:
        return _execute(command, environment, stop)
    finally:
        given.unlink(missing_ok=True)


def _execute(
    command: list[str], environment: dict, stop: threading.Event | None
) -> tuple[int, str]:
    """Exit code and stderr of a command.

    Whatever ends the waiting (Ctrl-C, or `stop`) ends the command, too.
    """
    pipe = subprocess.PIPE
    texts = {"text": True, "encoding": "utf8", "errors": "replace"}
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, **texts) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    # short waits: `stop` is looked at five times a second
                    stderr = process.communicate(timeout=0.2)[1]
                    return process.returncode, stderr
                if stop and stop.is_set():
                    raise KeyboardInterrupt
        except BaseException:
            _end(process.pid)
            raise


def _end(pid: int) -> None:
    """End a process and what it started.

    A kernel has a session of its own, so neither Ctrl-C nor papermill's end reaches it.
    """
    import psutil

    with suppress(psutil.NoSuchProcess):  # whoever has ended meanwhile need not be ended
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _what_became(folder: Path, returned: int, stderr: str) -> tuple[int, dict | None, str]:
    """(exit code, record, error) of a run whose papermill has returned."""
    partial = not (folder / "record.json").exists()
    file = folder / (PARTIAL if partial else "record.json")
    record = json.loads(file.read_text(encoding="utf8")) if file.exists() else None
    code = returned
    if not returned and not record:
        code = FAILED
    elif not returned and partial:
        code = STOPPED
    if code == OK:
        return code, record, ""
    if code == KILLED:
        error = "the kernel was killed: most likely the machine ran out of memory"
    elif code == STOPPED:
        told = deadline.told(record["partial"])
        error = f"stopped early, {told}; the same command goes on from there"
    elif code == -signal.SIGTERM:
        code = INTERRUPTED
        error = (
            "cancelled by a signal from outside; the same command goes on from its last checkpoint"
        )
    else:
        error = last_line(stderr) or "the notebook wrote no record"
    return code, record, error


def note_outcome(folder: Path, code: int, error: str, seconds: float = 0.0) -> None:
    """How a run ended, for `status`."""
    outcome = {
        "code": code,
        "error": error,
        "seconds": round(seconds, 1),
        "job": lock.job(),
        "log": os.environ.get("KD_LOG", ""),
        "ended": time.time(),
    }
    write_json(folder / "outcome.json", outcome)


def last_line(text: str) -> str:
    """The last line of papermill's stderr that says something."""
    lines = [line for line in text.strip().splitlines() if line.strip() and line[0] != "["]
    return shortened(lines[-1]) if lines else ""


def shortened(text: str, most: int = 900) -> str:
    """An error's text whole, or up to the last sentence that ends within `most` characters.

    It is never cut in the middle of its advice.
    """
    if len(text) <= most:
        return text
    end = max(text.rfind(mark, 0, most) for mark in (". ", "; ", ": "))
    kept = text[: end + 1] if end > most // 2 else text[:most].rpartition(" ")[0]
    return f"{kept} …"


# -- its parameters and its folder -----------------------------------------------------------------


def place_of(
    path: Path, profile: str, parameters: dict, runs: Path | None = None
) -> tuple[str, Path, dict]:
    """The profile's name, the run folder, and what `run.json` will say there.

    ValueError for a parameter that is unknown, of another type or out of its range.
    """
    names = declared_parameters(path, path.stat().st_mtime_ns)
    for name in parameters:
        if name not in names:  # the kernel would start, and stop at it
            raise ValueError(
                f"unknown parameter {name!r}{did_you_mean(name, names)}; {path.stem} takes "
                f"{', '.join(names)}. What else its profile sets is changed in "
                f"kdlib/profiles/{path.stem}.yaml"
            )
    changes = {k: v for k, v in parameters.items() if k not in ("seed", "run_dir")}
    settings = settings_of(path.stem, profile, **changes)
    profile = settings.pop("profile")
    seed = checked_seed(parameters.get("seed", 0))
    folder = run_folder(path.stem, profile, seed, settings, parameters.get("run_dir", ""), runs)
    configuration = {
        "notebook": path.stem,
        "profile": profile,
        "seed": seed,
        "settings": settings,
    }
    return profile, folder, configuration


@functools.cache
def declared_parameters(path: Path, written: int) -> list[str]:
    """The names in a notebook's parameters cell. A grid of thousands asks once.

    written: the file's time, so that a changed notebook is read again.
    """
    import nbformat

    names = []
    for cell in nbformat.read(path, 4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = ast.parse(cell.source).body
            names += [line.target.id for line in lines if isinstance(line, ast.AnnAssign)]
    return names


def refuse_placeholders(parameters: dict) -> None:
    """ValueError for -1 and "": an untouched parameters cell holds them.

    A user who writes one would get the profile's value.
    """
    for name, given in parameters.items():
        if name != "run_dir" and not isinstance(given, bool) and given in (-1, ""):
            raise ValueError(
                f'{name}={given!r} is no value: inside a notebook it stands for "as the profile '
                f'says"; leave {name} out for that'
            )


# -- the whole course ------------------------------------------------------------------------------


def course(profile: str = "", notebooks: tuple[str, ...] = COURSE, inplace: bool = False) -> int:
    """Run the notebooks in order, go on after a failure, say where everything is: the exit code."""
    from ..course import results

    if inplace:
        return max(refresh(notebook_path(name), profile or "laptop") for name in notebooks)
    outcomes = []
    for name in notebooks:
        print(f"{name} …", end=" ", flush=True)
        outcome = run_notebook(name, profile)
        outcomes.append(outcome)
        if outcome.code == OK:
            print(f"{outcome.seconds:.0f} s, {outcome.peak_gb:.1f} GB")
        else:
            print(f"FAILED ({outcome.code}): {outcome.error}")
    root = runs_root()
    table = root / "results.csv"
    results.load().to_csv(table, index=False)
    print(f"\ntogether {sum(outcome.seconds for outcome in outcomes) / 60:.1f} minutes")
    for outcome in outcomes:
        print(f"executed notebook  {short_path(outcome.executed)}")
    print(f"results table      {short_path(table)}")
    figures = f"{short_path(root)}/<notebook>/<run>/figures"
    print(f"figures            {figures}   (for slides: make figures)")
    return FAILED if any(outcome.code for outcome in outcomes) else OK


def refresh(path: Path, profile: str) -> int:
    """Execute a notebook in place: the outputs that readers see.

    The run folder is a fresh one, and no cell is injected.
    """
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    command += [str(path), "--ExecutePreprocessor.record_timing=False"]
    command += ["--ExecutePreprocessor.timeout=3600", "--log-level=ERROR"]
    with tempfile.TemporaryDirectory() as runs:
        variables = {"KD_PROFILE": profile, "KD_RUNS": runs, "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, env=os.environ | variables)
    print(f"{path.name}: {'executed in place' if done.returncode == 0 else 'FAILED'}")
    return done.returncode


def short_path(path: Path) -> str:
    """The path, below the current folder if it is there."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
