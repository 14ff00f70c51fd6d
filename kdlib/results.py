"""Records of runs (one JSON a run) as DataFrames, and the reference results in data/results beside them. No torch here.

    runs = results.load("04_distilbert_mnli")                       # my runs
    reference = results.reference("04_distilbert_mnli", "laptop")   # the course's own, as they were measured
    results.summary(reference, by=["method"], metrics=["accuracy", "macro_f1"])
    results.paired(reference, "kd", "ce", "accuracy")               # would other seeds agree?
    results.bootstrap(right_kd, right_ce)                           # would other rows agree?
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

from .paths import DATA, ROOT, runs_root, write_json

REQUIRED = ("notebook", "profile", "seed", "settings", "results")


class BrokenRecord(UserWarning):
    """A record that cannot be read stands among good ones."""


def read(path: Path) -> dict:
    """One record. ValueError when it is cut off, cannot be read, or is not a record."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is cut off or not JSON ({error}); run its notebook again") from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    if missing := [name for name in REQUIRED if not isinstance(record, dict) or name not in record]:
        raise ValueError(f"{path} is no record: it lacks {', '.join(missing)}")
    if wrong := [name for name in ("settings", "results") if not isinstance(record[name], dict)]:
        raise ValueError(f"{path} is no record: its {' and '.join(wrong)} should be objects with names")
    return record


def records(notebook: str = "*", profile: str = "", root: Path | None = None) -> list[dict]:
    """All records under the runs folder; one that cannot be read is named in a warning and left out."""
    if not notebook or Path(notebook).is_absolute():
        raise ValueError(f"name a notebook, such as 04_distilbert_mnli (\"*\" for all), not {notebook!r}; other folders are read with root=")
    found = []
    for path in sorted((root or runs_root()).glob(f"{notebook}/*/record.json")):
        try:
            record = read(path)
        except ValueError as error:
            warnings.warn(str(error), BrokenRecord)
            continue
        if not profile or record["profile"] == profile:
            found.append(record)
    return found


def frame(records: list[dict]) -> pd.DataFrame:
    """One row a run: notebook, profile, seed, its settings, its scalar results, seconds, peak_gb, commit, and a column a version.

    A name that several parts of a record use stays the first one's (settings before results before the rest) in every row; the
    later one gets its part's name behind it: `rows_result`, `torch_version`.
    """
    parts = {"": lambda r: {k: r[k] for k in ("notebook", "profile", "seed")}, "setting": lambda r: r["settings"],
             "result": lambda r: {k: v for k, v in r["results"].items() if k != "guesses"},
             "run": lambda r: {k: r.get(k) for k in ("seconds", "peak_gb", "commit")}, "version": lambda r: r.get("versions", {})}
    rows, taken = [{} for _ in records], set()
    for part, of in parts.items():
        scalars = [{k: v for k, v in of(r).items() if not isinstance(v, (list, dict))} for r in records]
        for row, found in zip(rows, scalars):
            row |= {f"{k}_{part}" if k in taken else k: v for k, v in found.items()}
        taken = {name for row in rows for name in row}
    return pd.DataFrame(rows)


def load(notebook: str = "*", profile: str = "", root: Path | None = None) -> pd.DataFrame:
    """My runs as a DataFrame, one row a run."""
    return frame(records(notebook, profile, root))


class Missing(ValueError):
    """Stored results, or a table in them, are not there or cannot be read."""


class Stored:
    """The stored results under data/, each file read once.

    used: the files that were asked for, incomplete: what had to be left out. A figure empties both
    before it reads, and the gallery tells them.
    """

    def __init__(self, profile: str):
        self.profile = profile
        self.used: list[Path] = []
        self.incomplete: list[str] = []
        self._read = {}

    def records(self, notebook: str, file: str = "") -> list[dict]:
        """All records of a notebook, of the profile or of another `file`. Missing without any."""
        relative = f"results/{notebook}/{file or self.profile}.json"
        held = self.json(relative)
        if not isinstance(held, dict) or not isinstance(held.get("records"), list):
            raise Missing(f"data/{relative} is cut off or holds no records")
        return held["records"]

    def runs(self, notebook: str, file: str = "", needs=()) -> pd.DataFrame:
        """One row a run: its seed, settings, results (which win) and seconds; lists stay lists.

        needs: columns that no run may lack, see `whole`; Missing then for a file without runs.
        """
        rows = []
        for record in self.records(notebook, file):
            row = {"seed": record["seed"], **record["settings"], **record["results"]}
            rows.append(row | {"seconds": record.get("seconds") or 0})
        if needs and not rows:
            raise Missing(f"data/results/{notebook}/{file or self.profile}.json holds no runs")
        return whole(pd.DataFrame(rows), *needs)

    def listed(self, notebook: str, name: str, file: str = "") -> pd.DataFrame:
        """One row an item of the list `name` among a run's results; the index numbers the runs."""
        tables = {}
        for i, record in enumerate(self.records(notebook, file)):
            about = {"seed": record["seed"], "seconds": record.get("seconds") or 0}
            items = record["results"].get(name, [])
            tables[i] = pd.DataFrame([about | item for item in items])
        return pd.concat(tables).droplevel(1) if tables else pd.DataFrame()

    def has(self, notebook: str, file: str) -> bool:
        return (DATA / "results" / notebook / f"{file}.json").exists()

    def table(self, notebook: str, name: str, file: str = "") -> pd.DataFrame:
        """The table that a run drew as figure `name`. Missing when no record keeps it."""
        for record in self.records(notebook, file):
            if name in record.get("tables", {}):
                return pd.DataFrame(record["tables"][name])
        place = self.used[-1].relative_to(ROOT).as_posix()
        raise Missing(f"no record in {place} keeps a table {name}")

    def lecture(self) -> dict:
        """The lecture's own numbers."""
        return self.json("results/lecture.json")

    def json(self, relative: str):
        """What a JSON file under data/ holds. Missing when it is not there or cannot be read."""
        path = self.file(relative)
        if path not in self._read:
            try:
                self._read[path] = json.loads(path.read_text(encoding="utf8"))
            except (ValueError, OSError) as error:
                raise Missing(f"data/{relative} is cut off or not JSON ({error})") from error
        return self._read[path]

    def file(self, relative: str) -> Path:
        """Any other file under data/, noted as used."""
        path = DATA / relative
        if not path.exists():
            raise Missing(f"there is no data/{relative}")
        if path not in self.used:
            self.used.append(path)
        return path

    def versions(self) -> dict[str, list[str]]:
        """Of the used records: each version that is not the same in all."""
        seen = {}
        for path in self.used:
            held = self._read.get(path)
            for record in held.get("records", []) if isinstance(held, dict) else []:
                for name, version in record.get("versions", {}).items():
                    seen.setdefault(name, set()).add(version)
        return {name: sorted(found) for name, found in seen.items() if len(found) > 1}


def whole(runs: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The same runs, if none lacks one of the columns; else KeyError, which names the column."""
    for column in columns:
        if runs[column].isna().any():
            raise KeyError(column)
    return runs


def reference_records(notebook: str, profile: str) -> list[dict]:
    """The course's own records. FileNotFoundError when this notebook has none for the profile."""
    stored = Stored(profile)
    if not stored.has(notebook, profile):
        place = f"data/results/{notebook}/{profile}.json"
        raise FileNotFoundError(
            f"no reference results for {notebook} under profile {profile} ({place})"
        )
    return stored.records(notebook)


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
    return Stored("").lecture()


def bench(name: str) -> pd.DataFrame:
    """The stored table of a benchmark (`python -m kdlib bench NAME --out …`), one row a measurement."""
    return pd.DataFrame(Stored("").json(f"results/bench_{name}.json")["rows"])


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
    """A mean difference with its interval, the number of pairs (of runs, or of rows) and what may be said."""

    mean: float
    low: float
    high: float
    n: int
    verdict: str


def _difference(mean: float, low: float, high: float, n: int) -> Difference:
    return Difference(float(mean), float(low), float(high), n, "excludes 0" if low > 0 or high < 0 else "includes 0: not shown")


def paired(runs: pd.DataFrame, a: str, b: str, metric: str, by: str = "method") -> Difference | None:
    """`metric` of runs with by=a minus that of runs with by=b, seed by seed. None without a seed that both have.

    The interval is over seeds (data order, dropout), not over rows: it says whether another seed would agree.
    """
    one, two = (runs[runs[by] == name].groupby("seed")[metric].mean() for name in (a, b))
    gaps = (one - two).dropna()
    return interval(gaps) if len(gaps) else None


def interval(values) -> Difference:
    """The mean of a few numbers, one a seed, with its 95 % interval (Student's t); with one number nothing is shown."""
    from scipy.stats import t
    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"an interval needs numbers, at least one, not {values}")
    if len(values) == 1:
        return Difference(values[0], -np.inf, np.inf, 1, "one seed: nothing is shown")
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return _difference(values.mean(), values.mean() - half, values.mean() + half, len(values))


def bootstrap(a, b, *, draws: int = 10_000, seed: int = 0, level: float = 0.95) -> Difference:
    """Mean of `a` minus mean of `b` over validation rows, with a paired percentile-bootstrap interval: would other *rows* agree?

    a, b: scores of two students on the same rows, (rows,) or (seeds, rows), such as 1 for a right answer or log p of the label.
    Rows are drawn with replacement; with several seeds those too, crossed: a draw reads each of its rows under all of its seeds.
    Sources: Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Koehn, EMNLP 2004, for paired rows in NLP; Owen,
    Annals of Applied Statistics 2007, for two crossed factors.

    No bootstrap makes two or three seeds more: where seeds differ much, its interval is too short (3 simulated seeds with an sd
    of 4 standard errors of a seed's mean over rows: 20 of 100 empty differences "exclude 0"; 10 seeds: 7). There `paired` is the
    judge; where seeds hardly differ, `bootstrap` errs to the safe side.
    Raises ValueError for different shapes, no rows, and scores that are not finite.
    """
    a, b = _scores(a, b)
    # rows with equal gaps are drawn as one group: the same distribution, and for right and wrong a thousandfold less work
    values, counts = np.unique(a - b, axis=1, return_counts=True)
    def gap(seeds, rows):
        return ((seeds @ values) * rows).sum(1) / a.size
    return _bootstrap(gap, counts, len(a), draws, seed, level)


def bootstrap_metric(metric, guesses_a, guesses_b, labels, *, draws: int = 10_000, seed: int = 0,
                     level: float = 0.95) -> Difference:
    """`bootstrap` for a metric that is no mean over rows: it is computed anew from the confusion counts of every draw.

    metric: "macro_f1", "binary_f1" (class 1), "accuracy", or a function from confusion counts (draws, labels, guesses) to
    (draws,). guesses: classes, (rows,) or (seeds, rows); labels: (rows,). With several seeds the metric is averaged over them.
    """
    if isinstance(metric, str) and metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, or a function, not {metric!r}")
    metric = METRICS.get(metric, metric)
    a, b = _scores(guesses_a, guesses_b)
    labels = np.asarray(labels)
    if labels.shape != a.shape[1:]:
        raise ValueError(f"labels of shape {labels.shape} for guesses of {a.shape[1]} rows")
    table = np.concatenate([labels[None], a, b])
    if (table < 0).any() or (table != table.astype(int)).any():
        raise ValueError("labels and guesses must be classes: whole numbers from 0 on")
    kinds, counts = np.unique(table.astype(int), axis=1, return_counts=True)      # rows answered alike: drawn as one group
    classes = max(2, int(kinds.max()) + 1)
    cells = np.eye(classes ** 2)[kinds[0] * classes + kinds[1:]]                  # (2 · seeds, groups, classes²)
    def gap(seeds, rows):
        scores = np.stack([metric((rows @ one).reshape(-1, classes, classes)) for one in cells], axis=1)
        return ((scores[:, :len(a)] - scores[:, len(a):]) * seeds).sum(1) / len(a)
    return _bootstrap(gap, counts, len(a), draws, seed, level)


def _scores(a, b) -> tuple[np.ndarray, np.ndarray]:
    """Both as (seeds, rows). ValueError for what cannot be compared row by row."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise ValueError(f"a and b must be of one shape, (rows,) or (seeds, rows), not {a.shape} and {b.shape}")
    if not a.size or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("there are no rows to compare" if not a.size else "a score is not finite (NaN or infinite)")
    return np.atleast_2d(a), np.atleast_2d(b)


def _bootstrap(gap, counts: np.ndarray, seeds: int, draws: int, seed: int, level: float) -> Difference:
    """`gap`: how often each seed (draws, seeds) and each group of rows (draws, groups) was drawn → (draws,) differences."""
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"draws must be 1 or more and level between 0 and 1, not {draws} and {level}")
    rows, random = int(counts.sum()), np.random.default_rng(seed)
    mean = gap(np.ones((1, seeds)), counts[None])[0]
    if rows == 1:
        return Difference(float(mean), -np.inf, np.inf, 1, "one row: nothing is shown")
    size = max(1, 2_000_000 // len(counts))                                 # draws at a time: some 16 MB
    found = [gap(random.multinomial(seeds, np.full(seeds, 1 / seeds), n), random.multinomial(rows, counts / rows, n))
             for n in (min(size, draws - done) for done in range(0, draws, size))]
    return _difference(mean, *np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2]), rows)


def _f1(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F1 of each class (draws, classes), 0 where a class is neither label nor guess; and how often it was one of them."""
    seen = confusion.sum(1) + confusion.sum(2)
    return 2 * np.diagonal(confusion, axis1=1, axis2=2) / np.maximum(seen, 1), seen


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    f1, seen = _f1(confusion)
    return f1.sum(1) / (seen > 0).sum(1)                                    # over the classes that occur, as scikit-learn does


METRICS = {"macro_f1": _macro_f1, "binary_f1": lambda confusion: _f1(confusion)[0][:, 1],
           "accuracy": lambda confusion: np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2))}


def pack(classes) -> str:
    """A run's guesses as text, a digit a row: run.record(guesses=results.pack(logits.argmax(-1)))."""
    text = "".join(str(int(c)) for c in classes)
    if len(text) != len(classes):
        raise ValueError("a digit a row: classes must be 0 to 9")
    return text


def guesses(record: dict) -> np.ndarray:
    """The guesses that a record keeps, as (rows,) whole numbers. KeyError when it keeps none."""
    return np.array([int(digit) for digit in record["results"]["guesses"]], dtype=int)


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


def store(notebook: str, profile: str, root: Path | None = None, name: str = "") -> Path:
    """Collect my records of a notebook and profile into data/results: how reference results are made.

    name: of the file, where a sweep should stand beside the profile's own ("lab_temperature"); `reference` reads it by this name.
    Raises ValueError for a record that cannot be read: a reference that lacks a run in silence would be a wrong one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", BrokenRecord)
        try:
            found = records(notebook, profile, root)
        except BrokenRecord as broken:
            raise ValueError(f"nothing was stored: {broken}; or delete that record") from None
    if not found:
        raise FileNotFoundError(f"no records of {notebook} under profile {profile} in {root or runs_root()}")
    path = DATA / "results" / notebook / f"{name or profile}.json"
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
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    except ImportError:                                             # Windows
        import psutil
        return psutil.Process().memory_info().peak_wset / 1e9
