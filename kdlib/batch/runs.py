"""Notebooks without a browser: one, the whole course, or a sweep, through papermill; trusted only with exit code *and* record.

papermill's cell status lies after a killed kernel (every cell "completed"), so it is never read.

Exit codes, of `run`, `sweep` and the jobs of `sbatch`: 0 done, 1 failed, 2 refused before anything ran, 75 stopped early (by a
deadline; the same command goes on), 130 interrupted, 138 the kernel was killed.
"""
import ast
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from ..engine import deadline
from ..course import lock, needs
from ..paths import ROOT, did_you_mean, runs_root, write_json
from ..course.notebooks import COURSE, notebook_path
from ..course.run import PARTIAL, checked_seed, refuse_other_configuration, run_folder, set_record_aside, settings_of, writable

OK, FAILED, REFUSED, STOPPED, INTERRUPTED, KILLED = 0, 1, 2, 75, 130, 138


class Outcome(NamedTuple):
    """What became of one notebook: exit code, record (None without success), seconds, peak memory in GB, the executed copy."""

    notebook: str
    code: int
    record: dict | None
    seconds: float
    peak_gb: float
    executed: Path
    error: str = ""


def run_notebook(notebook: str | Path, profile: str = "", parameters: dict | None = None, *, runs: Path | None = None,
                 executed: Path | None = None, timeout: int | None = None, threads: int = 0,
                 stop: threading.Event | None = None) -> Outcome:
    """Check the parameters, execute the notebook in a process of its own, look for its record.

    Raises ValueError before anything runs when a parameter is unknown or of another type, OSError when another live run has
    the folder. A deadline (see `deadline`) makes it code 75 and a partial record. The executed copy lies at
    `executed`, by default in the run's folder. `threads` is the kernel's OMP_NUM_THREADS unless the environment has one (0:
    torch takes every core); setting `stop` from another thread ends the run with KeyboardInterrupt.
    """
    path, parameters = notebook_path(notebook), dict(parameters or {})
    if parameters.get("run_dir"):
        parameters["run_dir"] = str(Path(parameters["run_dir"]).expanduser().resolve())   # the kernel runs elsewhere
    profile, folder, configuration = _place(path, profile, parameters, runs)
    _refuse_placeholders(parameters)
    refuse_other_configuration(folder, configuration)
    needs.check(path.stem, profile, configuration["settings"])
    executed = executed or folder / path.name
    writable(folder)
    lock.acquire(folder)
    try:
        outcome = _run_in(folder, path, executed, {"profile": profile, **parameters}, {
            "KD_RUNS": str(runs or runs_root()), "TOKENIZERS_PARALLELISM": "false", "KD_BATCH": "1", "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")))),      # the kernel's kdlib is ours
            "PYDEVD_DISABLE_FILE_VALIDATION": "1"}, timeout, threads, stop)
        tell(folder, outcome.code, outcome.error, outcome.seconds)
        return outcome
    except KeyboardInterrupt:
        tell(folder, INTERRUPTED, "interrupted; the same command goes on from its last checkpoint")
        raise
    finally:
        lock.release(folder)


def tell(folder: Path, code: int, error: str, seconds: float = 0.0) -> None:
    """How a run ended, for `status`."""
    write_json(folder / "outcome.json", {"code": code, "error": error, "seconds": round(seconds, 1), "job": lock.job(),
                                         "log": os.environ.get("KD_LOG", ""), "ended": time.time()})


def _run_in(folder: Path, path: Path, executed: Path, parameters: dict, variables: dict, timeout: int | None, threads: int,
            stop: threading.Event | None) -> Outcome:
    """Execute the notebook in a folder that is ours."""
    executed.parent.mkdir(parents=True, exist_ok=True)
    set_record_aside(folder)
    (folder / "outcome.json").unlink(missing_ok=True)
    given = executed.with_suffix(".parameters.yaml")
    # through yaml, not json: papermill reads this file as YAML 1.1, where 2e-05 is a text and 2.0e-05 a number
    given.write_text(yaml.safe_dump(parameters), encoding="utf8")
    environment = ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | os.environ | variables
    if (when := deadline.at()) is not None:
        environment["KD_DEADLINE"] = f"{when:.0f}"
    command = [sys.executable, "-m", "kdlib.batch.kernel", str(path), str(executed), "--cwd", str(path.parent), "-k", "python3",
               "-f", str(given), "--no-progress-bar", "--log-level", "ERROR", "--start-timeout", "300"]
    began = time.perf_counter()
    try:
        returned, stderr = _execute(command, environment, timeout, stop)
    finally:
        given.unlink(missing_ok=True)
    seconds = time.perf_counter() - began
    if returned in (-signal.SIGTERM, KILLED) and stop and stop.wait(2):
        raise KeyboardInterrupt                                 # scancel's signal reaches papermill and kernel too, and they may be quicker than we
    found = next((f for f in (folder / "record.json", folder / PARTIAL) if f.exists()), None)
    record = json.loads(found.read_text(encoding="utf8")) if found else None
    code = returned or (FAILED if not record else STOPPED if found.name == PARTIAL else OK)
    error = "" if code == OK else _last_line(stderr) or "the notebook wrote no record"
    if code == -signal.SIGTERM:
        code, error = INTERRUPTED, "cancelled by a signal from outside; the same command goes on from its last checkpoint"
    if code == KILLED:
        error = "the kernel was killed: most likely the machine ran out of memory"
    if code == STOPPED:
        error = f"stopped early, {deadline.told(record['partial'])}; the same command goes on from there"
    return Outcome(path.stem, code, record, seconds, (record or {}).get("peak_gb", 0.0), executed, error)


def _place(path: Path, profile: str, parameters: dict, runs: Path | None = None) -> tuple[str, Path, dict]:
    """The profile's name, the run folder, and what `run.json` will say there. ValueError for a parameter that is unknown, of another type or out of its range."""
    _refuse_undeclared(path, parameters)
    settings = settings_of(path.stem, profile, **{k: v for k, v in parameters.items() if k not in ("seed", "run_dir")})
    profile, seed = settings.pop("profile"), checked_seed(parameters.get("seed", 0))
    folder = run_folder(path.stem, profile, seed, settings, parameters.get("run_dir", ""), runs)
    return profile, folder, {"notebook": path.stem, "profile": profile, "seed": seed, "settings": settings}


def _refuse_undeclared(path: Path, parameters: dict) -> None:
    """ValueError for a name that the notebook's parameters cell lacks: the kernel would start, and stop at it."""
    names = _declared(path, path.stat().st_mtime_ns)
    for name in parameters:
        if name not in names:
            raise ValueError(f"unknown parameter {name!r}{did_you_mean(name, names)}; {path.stem} takes {', '.join(names)}. "
                             f"What else its profile sets is changed in kdlib/profiles/{path.stem}.yaml")


@functools.cache
def _declared(path: Path, written: int) -> list[str]:
    """The names in a notebook's parameters cell; a grid of thousands asks once."""
    import nbformat
    cells = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    return [node.target.id for c in cells for node in ast.parse(c.source).body if isinstance(node, ast.AnnAssign)]


def _refuse_placeholders(parameters: dict) -> None:
    """ValueError for -1 and "": an untouched parameters cell holds them, so a user who writes one would get the profile's value."""
    for name, given in parameters.items():
        if name != "run_dir" and not isinstance(given, bool) and given in (-1, ""):
            raise ValueError(f"{name}={given!r} is no value: inside a notebook it stands for \"as the profile says\"; leave {name} out for that")


def _execute(command: list[str], environment: dict, timeout: int | None, stop: threading.Event | None) -> tuple[int, str]:
    """Exit code and stderr of a command; whatever ends the waiting (Ctrl-C, `stop`, the timeout) ends the command too."""
    late = time.monotonic() + timeout if timeout else float("inf")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf8",
                          errors="replace") as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    stderr = process.communicate(timeout=0.2)[1]
                    return process.returncode, stderr
                if stop and stop.is_set():
                    raise KeyboardInterrupt
                if time.monotonic() > late:
                    raise subprocess.TimeoutExpired(command, timeout)
        except BaseException:
            _end(process.pid)
            raise


def _end(pid: int) -> None:
    """End a process and what it started: a kernel has a session of its own, so neither Ctrl-C nor papermill's end reaches it."""
    import psutil
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("[")]
    return shortened(lines[-1]) if lines else ""


def shortened(text: str, most: int = 900) -> str:
    """An error's text whole, or up to the last sentence that ends within `most` characters: never half an advice."""
    if len(text) <= most:
        return text
    end = max(text.rfind(mark, 0, most) for mark in (". ", "; ", ": "))
    return (text[:end + 1] if end > most // 2 else text[:most].rpartition(" ")[0]) + " …"


def course(profile: str = "", notebooks: tuple[str, ...] = COURSE, inplace: bool = False) -> int:
    """Run the notebooks in order, go on after a failure, say where everything is. Returns the exit code."""
    from ..course import results
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


def sweep(notebook: str | Path, grid: dict[str, list], profile: str = "", *, parameters: dict | None = None,
          jobs: int = 1, task: tuple[int, int] = (1, 1)) -> int:
    """Every point of the grid, `jobs` at a time; finished points are skipped, failed ones told at the end. The exit code.

    `parameters` are the same for all points. Raises ValueError before anything runs (see `_points`). Ctrl-C ends what is
    running and keeps what is finished: the same call goes on from there. A finished point is skipped whichever version of the
    notebook computed it; delete its folder to run it again. task: (i, n) runs the i-th of n shares of the grid (an array task of
    a Slurm job): its points i, i + n, i + 2n, …
    """
    from tqdm import tqdm
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, not {jobs}")
    path = notebook_path(notebook)
    points = dict(list(_points(path, grid, profile, parameters or {}).items())[task[0] - 1::task[1]])
    jobs = min(jobs, max(1, sum(not _finished(folder) for folder in points)))
    # torch takes every core; several that do so at once wait for each other and are many times slower than one by one
    threads, failed, codes, stop = max(1, _cores() // jobs) if jobs > 1 else 0, [], {OK}, threading.Event()
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(points), unit="run", disable=not sys.stderr.isatty()) as bar:
        def say(text):
            bar.write(text, file=sys.stdout)                    # above the bar, if there is one
            sys.stdout.flush()
        running = {pool.submit(_point, path, profile, given, folder, threads=threads, stop=stop): name
                   for folder, (name, given) in points.items()}
        try:
            while running:
                for done in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    name, (code, error, told) = running.pop(done), done.result()
                    codes.add(code)
                    failed += [f"{'unfinished' if code == STOPPED else 'failed'}: {name}: {error}"] if error else []
                    say(f"[{len(points) - len(running)}/{len(points)}] {name}: {told}")
                    bar.update()
                bar.refresh()                                   # its clock
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            say("interrupted; the same command goes on from here")
            raise
        finally:
            say(f"{sum(map(_finished, points))} of {len(points)} points have a record")
            for told in failed:
                say(told)
    if len(points) == 1:
        return max(codes)                                       # an array task tells Slurm what became of its one point
    return OK if codes == {OK} else STOPPED if codes <= {OK, STOPPED} else FAILED


def _points(path: Path, grid: dict[str, list], profile: str, fixed: dict) -> dict[Path, tuple[str, dict]]:
    """{folder: (name, parameters)}. ValueError for an unknown or mistyped parameter, an empty axis, two points in one folder."""
    several = lambda values: isinstance(values, Iterable) and not isinstance(values, str)
    grid = {axis: list(values) if several(values) else [] for axis, values in grid.items()}
    for axis, values in grid.items():
        if not values:
            raise ValueError(f"the grid's axis {axis!r} has no values: give it a list of at least one")
        if axis in fixed:
            raise ValueError(f"{axis!r} is an axis of the grid and a fixed parameter too: drop one of them")
    points = {}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values))
        name, folder = " ".join(f"{k}={v}" for k, v in point.items()) or path.stem, _place(path, profile, fixed | point)[1]
        if folder in points:
            raise ValueError(f"the points {points[folder][0]!r} and {name!r} share the run folder {_short(folder)}: "
                             "name each value once, and no run_dir for a whole grid")
        points[folder] = name, fixed | point
    for _, given in points.values():
        _refuse_placeholders(given)
    return points


def _point(path: Path, profile: str, parameters: dict, folder: Path, **how) -> tuple[int, str, str]:
    """(exit code, error or "", what to say) of one point of a sweep; nothing but an interruption stops the others."""
    if _finished(folder):
        return OK, "", "finished earlier"
    if deadline.passed():
        return STOPPED, "not begun: no time is left", "not begun, for no time is left; the same command goes on here"
    try:
        outcome = run_notebook(path, profile, parameters, **how)
    except (ValueError, OSError) as error:
        return REFUSED, f"{type(error).__name__}: {error}", f"REFUSED: {error}"
    except Exception as error:
        return FAILED, f"{type(error).__name__}: {error}", f"FAILED: {error}"
    if outcome.code:
        return outcome.code, outcome.error, f"{'FAILED' if outcome.code != STOPPED else 'UNFINISHED'} ({outcome.code}): {outcome.error}"
    return OK, "", f"{outcome.seconds:.0f} s, {outcome.peak_gb:.1f} GB"


def _finished(folder: Path) -> bool:
    from ..course import results
    with suppress(ValueError, OSError):
        return bool(results.read(folder / "record.json"))
    return False


def _cores() -> int:
    """The cores that this process may use, which a cluster makes fewer than the node has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
