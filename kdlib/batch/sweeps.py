"""Every point of a grid, several at a time; what is finished is skipped, what fails stops no other.

sweep("05", {"alpha": [0.25, 0.5], "seed": [0, 1]}, "laptop", jobs=2)
"""

import itertools
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..course.notebooks import notebook_path
from ..engine import deadline
from ..engine.processes import cores
from .runs import (
    FAILED,
    OK,
    REFUSED,
    STOPPED,
    place_of,
    refuse_placeholders,
    run_notebook,
    short_path,
)


class Result(NamedTuple):
    """What became of one point. `news` is its line on the screen, `error` its line at the end."""

    code: int
    news: str
    error: str = ""


def sweep(
    notebook: str | Path,
    grid: dict[str, list],
    profile: str = "",
    *,
    parameters: dict | None = None,
    jobs: int = 1,
    task: tuple[int, int] = (1, 1),
) -> int:
    """Run every point of the grid, `jobs` at a time. Returns the exit code.

    Finished points are skipped, failed ones told at the end. `parameters` are the same for all
    points. Raises ValueError before anything runs (see `grid_points`). Ctrl-C ends what is running
    and keeps what is finished: the same call goes on from there. A finished point is skipped
    whichever version of the notebook computed it; delete its folder to run it again. task: (i, n)
    runs the i-th of n shares of the grid (an array task of a Slurm job): its points i, i + n, …
    """
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, not {jobs}")
    path = notebook_path(notebook)
    points = list(grid_points(path, grid, profile, parameters or {}).items())
    number, count = task
    share = dict(points[number - 1 :: count])
    unfinished = sum(not _finished(folder) for folder in share)
    codes = _run_points(path, profile, share, min(jobs, max(1, unfinished)))
    if len(share) == 1:  # an array task tells Slurm what became of its one point
        return codes.pop()
    if codes <= {OK}:
        return OK
    return STOPPED if codes <= {OK, STOPPED} else FAILED


def grid_points(
    path: Path, grid: dict[str, list], profile: str, fixed: dict
) -> dict[Path, tuple[str, dict]]:
    """{run folder: (name, parameters)} of every point.

    ValueError for an unknown or mistyped parameter, an empty axis, two points in one folder.
    """
    axes = {}
    for axis, values in grid.items():
        several = isinstance(values, Iterable) and not isinstance(values, str)
        axes[axis] = list(values) if several else []
        if not axes[axis]:
            raise ValueError(
                f"the grid's axis {axis!r} has no values: give it a list of at least one"
            )
        if axis in fixed:
            raise ValueError(
                f"{axis!r} is an axis of the grid and a fixed parameter too: drop one of them"
            )
    points = {}
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values))
        name = " ".join(f"{axis}={given}" for axis, given in point.items()) or path.stem
        folder = place_of(path, profile, fixed | point)[1]
        if folder in points:
            raise ValueError(
                f"the points {points[folder][0]!r} and {name!r} share the run folder "
                f"{short_path(folder)}: name each value once, and no run_dir for a whole grid"
            )
        points[folder] = name, fixed | point
    for _, given in points.values():
        refuse_placeholders(given)
    return points


def _run_points(
    path: Path, profile: str, points: dict[Path, tuple[str, dict]], jobs: int
) -> set[int]:
    """Run the points, tell of each as it ends, and at the end of what failed: their exit codes."""
    from tqdm import tqdm

    # torch takes every core; several that do so at once wait for each other and are many times
    # slower than one by one
    threads = max(1, cores() // jobs) if jobs > 1 else 0
    failures, codes, stop = [], set(), threading.Event()
    bar = tqdm(total=len(points), unit="run", disable=not sys.stderr.isatty())

    def say(text):
        bar.write(text, file=sys.stdout)  # above the bar, if there is one
        sys.stdout.flush()

    with ThreadPoolExecutor(jobs) as pool, bar:
        running = {}
        for folder, (name, given) in points.items():
            running[pool.submit(_point, path, profile, given, folder, threads, stop)] = name
        try:
            while running:
                # a second at most, so that the bar's clock goes on
                for done in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    name, result = running.pop(done), done.result()
                    codes.add(result.code)
                    if result.error:
                        what = "unfinished" if result.code == STOPPED else "failed"
                        failures.append(f"{what}: {name}: {result.error}")
                    say(f"[{len(points) - len(running)}/{len(points)}] {name}: {result.news}")
                    bar.update()
                bar.refresh()
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            say("interrupted; the same command goes on from here")
            raise
        finally:
            say(f"{sum(map(_finished, points))} of {len(points)} points have a record")
            for failure in failures:
                say(failure)
    return codes


def _point(
    path: Path, profile: str, parameters: dict, folder: Path, threads: int, stop: threading.Event
) -> Result:
    """Run one point of a sweep; nothing but an interruption stops the others."""
    if _finished(folder):
        return Result(OK, "finished earlier")
    if deadline.passed():
        news = "not begun, for no time is left; the same command goes on here"
        return Result(STOPPED, news, "not begun: no time is left")
    try:
        outcome = run_notebook(path, profile, parameters, threads=threads, stop=stop)
    except (ValueError, OSError) as error:
        return Result(REFUSED, f"REFUSED: {error}", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Result(FAILED, f"FAILED: {error}", f"{type(error).__name__}: {error}")
    if outcome.code:
        what = "UNFINISHED" if outcome.code == STOPPED else "FAILED"
        return Result(outcome.code, f"{what} ({outcome.code}): {outcome.error}", outcome.error)
    return Result(OK, f"{outcome.seconds:.0f} s, {outcome.peak_gb:.1f} GB")


def _finished(folder: Path) -> bool:
    """Has the folder a record that can be read?"""
    from ..course import results

    with suppress(ValueError, OSError):
        return bool(results.read(folder / "record.json"))
    return False
