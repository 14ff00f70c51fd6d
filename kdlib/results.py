"""Records of runs (one JSON a run) as DataFrames, and the reference results in data/results beside them. No torch here.

    runs = results.load("04_distilbert_mnli")                       # my runs
    reference = results.reference("04_distilbert_mnli", "laptop")   # the course's own, as they were measured
    results.summary(reference, by=["method"], metrics=["accuracy", "macro_f1"])
"""
import importlib.metadata
import json
import platform
import subprocess
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .run import DATA, ROOT, runs_root, write_json

REQUIRED = ("notebook", "profile", "seed", "settings", "results")


def read(path: Path) -> dict:
    """One record. ValueError when it is cut off or not a record."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is cut off or not JSON ({error}); run its notebook again") from error
    if missing := [name for name in REQUIRED if name not in record]:
        raise ValueError(f"{path} is no record: it lacks {', '.join(missing)}")
    return record


def records(notebook: str = "*", profile: str = "", root: Path | None = None) -> list[dict]:
    """All records under the runs folder; one that cannot be read is named in a warning and left out."""
    found = []
    for path in sorted((root or runs_root()).glob(f"{notebook}/*/record.json")):
        try:
            record = read(path)
        except ValueError as error:
            warnings.warn(str(error))
            continue
        if not profile or record["profile"] == profile:
            found.append(record)
    return found


def frame(records: list[dict]) -> pd.DataFrame:
    """One row a run: notebook, profile, seed, its settings, its scalar results, seconds, peak_gb, commit."""
    scalar = lambda d: {k: v for k, v in d.items() if not isinstance(v, (list, dict))}
    return pd.DataFrame([{"notebook": r["notebook"], "profile": r["profile"], "seed": r["seed"], **scalar(r["settings"]),
                          **scalar(r["results"]), **scalar({k: r.get(k) for k in ("seconds", "peak_gb", "commit")})}
                         for r in records])


def load(notebook: str = "*", profile: str = "", root: Path | None = None) -> pd.DataFrame:
    """My runs as a DataFrame, one row a run."""
    return frame(records(notebook, profile, root))


def reference_records(notebook: str, profile: str) -> list[dict]:
    """The course's own records. FileNotFoundError when this notebook has none for the profile."""
    path = DATA / "results" / notebook / f"{profile}.json"
    if not path.exists():
        raise FileNotFoundError(f"no reference results for {notebook} under profile {profile} ({path.relative_to(ROOT)})")
    return json.loads(path.read_text(encoding="utf8"))["records"]


def known(notebook: str, profile: str, also: dict | None = None) -> list[dict]:
    """The course's records where it has some, else my own runs' and `also` (a draft of the run that asks)."""
    try:
        return reference_records(notebook, profile)
    except FileNotFoundError:
        return records(notebook, profile) + ([also] if also else [])


def reference(notebook: str, profile: str) -> pd.DataFrame:
    """The course's own runs as a DataFrame, one row a run."""
    return frame(reference_records(notebook, profile))


def history(records: list[dict], **columns) -> pd.DataFrame:
    """Loss curves: the `history` lists of records, one row a logged step, with the named settings as columns."""
    rows = [{"seed": r["seed"], **{new: r["settings"][old] for new, old in columns.items()}, **step}
            for r in records for step in r["results"].get("history", [])]
    return pd.DataFrame(rows)


def lecture() -> dict:
    """The lecture's own numbers (data/results/lecture.json)."""
    return json.loads((DATA / "results" / "lecture.json").read_text(encoding="utf8"))


def summary(runs: pd.DataFrame, by: list[str], metrics: list[str], digits: int = 1, scale: float = 100) -> pd.DataFrame:
    """A table "mean ± sd" (sample sd over runs) per group, with the number of runs; percentages unless scale=1."""
    def cell(values):
        values = values.dropna() * scale
        if not len(values):
            return "–"
        return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")
    groups = runs.groupby(by, sort=False, dropna=False)
    return groups[metrics].agg(cell).assign(runs=groups.size()).reset_index()


class Difference(NamedTuple):
    """A mean difference over paired runs with its 95 % interval (Student's t), the number of pairs, and what may be said."""

    mean: float
    low: float
    high: float
    n: int
    verdict: str


def paired(runs: pd.DataFrame, a: str, b: str, metric: str, by: str = "method") -> Difference | None:
    """`metric` of runs with by=a minus that of runs with by=b, seed by seed. None without a seed that both have.

    The interval is over seeds (data order, dropout), not over rows: it says whether another seed would agree.
    """
    from scipy.stats import t
    one, two = (runs[runs[by] == name].groupby("seed")[metric].mean() for name in (a, b))
    gaps = (one - two).dropna()
    if not len(gaps):
        return None
    if len(gaps) < 2:
        return Difference(gaps.iloc[0], -np.inf, np.inf, 1, "one seed: nothing is shown")
    half = t.ppf(0.975, len(gaps) - 1) * gaps.std() / np.sqrt(len(gaps))
    low, high = gaps.mean() - half, gaps.mean() + half
    verdict = "excludes 0" if low > 0 or high < 0 else "includes 0: not shown"
    return Difference(gaps.mean(), low, high, len(gaps), verdict)


def compare(record: dict, metrics: list[str], against: list[dict]) -> pd.DataFrame:
    """Your run | reference mean ± sd | inside? Inside: within two sd of the reference runs with the same settings."""
    theirs = frame([r for r in against if r["settings"] == record["settings"]])
    rows = []
    for metric in metrics:
        yours = record["results"].get(metric, np.nan)
        if metric not in theirs or len(theirs) < 2:
            rows.append({"metric": metric, "your run": round(yours, 4), "reference": "no runs with these settings", "inside": "–"})
            continue
        mean, sd = theirs[metric].mean(), theirs[metric].std()
        rows.append({"metric": metric, "your run": round(yours, 4), "reference": f"{mean:.4f} ± {sd:.4f} (n={len(theirs)})",
                     "inside": "yes" if abs(yours - mean) <= 2 * sd + 1e-9 else "no"})
    return pd.DataFrame(rows)


def store(notebook: str, profile: str, root: Path | None = None) -> Path:
    """Collect my records of a notebook and profile into data/results, one line a record: how reference results are made."""
    found = records(notebook, profile, root)
    if not found:
        raise FileNotFoundError(f"no records of {notebook} under profile {profile} in {root or runs_root()}")
    path = DATA / "results" / notebook / f"{profile}.json"
    newest = max(found, key=lambda r: r.get("finished", ""))
    found = [r if r is newest else {**r, "tables": {}} for r in found]           # figures are redrawn from the newest run's
    found.sort(key=lambda r: (json.dumps(r["settings"], sort_keys=True), r["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"records": found})
    return path


def versions() -> dict[str, str]:
    """The versions that can move a number."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "datasets", "numpy", "kdlib"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def commit() -> str:
    """The repository's commit, with "+" when files were changed since; "" outside a checkout."""
    git = lambda *args: subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True)
    try:
        head = git("rev-parse", "--short=10", "HEAD")
        return head.stdout.strip() + ("+" if git("status", "--porcelain", "kdlib", "notebooks").stdout else "") if head.returncode == 0 else ""
    except OSError:
        return ""


def peak_memory_gb() -> float:
    """The most memory this process has held, in GB."""
    try:
        import resource
        import sys
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    except ImportError:                                             # Windows
        import psutil
        return psutil.Process().memory_info().peak_wset / 1e9
