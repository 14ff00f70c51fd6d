"""Records of runs (one JSON a run) as DataFrames, and the course's own records beside them.

    runs = results.load("04_distilbert_mnli")                      # my runs
    reference = results.reference("04_distilbert_mnli", "laptop")  # the course's own
    results.summary(reference, by=["method"], metrics=["accuracy", "macro_f1"])
    results.scores(reference)                                      # a line a method, with units
    results.paired(reference, "kd", "ce", "accuracy")              # would other seeds agree?

This module needs no torch. Intervals are computed in `statistics`.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from ..engine.provenance import commit, peak_memory_gb, versions  # noqa: F401  (of a record)
from ..methods import LABELS
from ..paths import DATA, run_places, write_json
from . import statistics
from .statistics import (  # noqa: F401  (a notebook names them results.…)
    Difference,
    bootstrap,
    bootstrap_metric,
    difference,
    gaps,
    interval,
    paired,
)
from .stored import Missing, Stored, whole  # noqa: F401  (figures and claims read with them)

REQUIRED = ("notebook", "profile", "seed", "settings", "results")


class BrokenRecord(UserWarning):
    """A record that cannot be read stands among good ones."""


# -- reading -------------------------------------------------------------------------------------


def read(path: Path) -> dict:
    """One record. ValueError when it is cut off, cannot be read, or is not a record."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is cut off or not JSON ({error}); run its notebook again"
        ) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    missing = [name for name in REQUIRED if not isinstance(record, dict) or name not in record]
    if missing:
        raise ValueError(f"{path} is no record: it lacks {', '.join(missing)}")
    wrong = [name for name in ("settings", "results") if not isinstance(record[name], dict)]
    if wrong:
        raise ValueError(
            f"{path} is no record: its {' and '.join(wrong)} should be objects with names"
        )
    return record


def records(notebook: str = "*", profile: str = "", root: Path | None = None) -> list[dict]:
    """All records under the runs folder and where jobs put theirs, or under `root` alone.

    `paths.run_places` knows both. One that cannot be read is named in a warning and left out.
    """
    if not notebook or Path(notebook).is_absolute():
        raise ValueError(
            'name a notebook, such as 04_distilbert_mnli ("*" for all), '
            f"not {notebook!r}; other folders are read with root="
        )
    found = []
    for path in _record_files(notebook, root):
        try:
            record = read(path)
        except ValueError as error:
            warnings.warn(str(error), BrokenRecord)
            continue
        if not profile or record["profile"] == profile:
            found.append(record)
    return found


def _record_files(notebook: str, root: Path | None) -> list[Path]:
    places = [root] if root else run_places()
    pattern = f"{notebook}/*/record.json"
    return [file for place in places for file in sorted(place.glob(pattern))]


def reference_records(notebook: str, profile: str) -> list[dict]:
    """The course's own records. FileNotFoundError when this notebook has none for the profile."""
    stored = Stored(profile)
    if not stored.has(notebook, profile):
        place = f"data/results/{notebook}/{profile}.json"
        raise FileNotFoundError(
            f"no reference results for {notebook} under profile {profile} ({place})"
        )
    return stored.records(notebook)


def known(notebook: str, profile: str, also: dict | None = None, *, name: str = "") -> list[dict]:
    """The course's records if it has some; otherwise those of my own runs, and `also`.

    also: the draft of the run that is going on. name: of the course's file, where it is not the
    profile's.
    """
    try:
        return reference_records(notebook, name or profile)
    except FileNotFoundError:
        return records(notebook, profile) + ([also] if also else [])


def lecture() -> dict:
    """The lecture's own numbers (data/results/lecture.json)."""
    return Stored("").lecture()


def model_sizes() -> pd.DataFrame:
    """What models of 70B, 8B and 1B parameters need of one kind of GPU (data/results/model_sizes.json).

    At 16 bits a parameter takes 2 bytes. To write one token, a model must read all its weights
    once. So the memory's bandwidth limits the tokens per second: an upper bound, for one answer at
    a time. A token's cost is counted in GPU-seconds, so the ratios hold for any rent.
    """
    facts = Stored("").json("results/model_sizes.json")
    gpu = facts["gpu"]
    table = pd.DataFrame(facts["models"]).drop(columns="source")
    gigabytes = 2 * table["parameters"] / 1e9
    gpus = np.ceil(gigabytes / gpu["memory_gb"]).astype(int)
    cost = gigabytes / gpu["bandwidth_gb_per_second"]
    return pd.DataFrame(
        {
            "model": table["model"],
            "parameters (billions)": table["parameters"] / 1e9,
            "GB at 16 bits": gigabytes,
            f"{gpu['name']} needed": gpus,
            "tokens a second, at most": gpus / cost,
            "cost of a token (smallest: 1)": cost / cost.min(),
        }
    ).set_index("model")


def bench(name: str) -> pd.DataFrame:
    """The stored table of a benchmark, one row a measurement.

    `python -m kdlib bench NAME --out …` makes it.
    """
    return pd.DataFrame(Stored("").json(f"results/bench_{name}.json")["rows"])


# -- as tables -----------------------------------------------------------------------------------


def load(notebook: str = "*", profile: str = "", root: Path | None = None) -> pd.DataFrame:
    """My runs as a DataFrame, one row a run."""
    return frame(records(notebook, profile, root))


def reference(notebook: str, profile: str) -> pd.DataFrame:
    """The course's own runs as a DataFrame, one row a run."""
    return frame(reference_records(notebook, profile))


def frame(records: list[dict]) -> pd.DataFrame:
    """One row a run.

    Its columns: notebook, profile, seed, its settings, its scalar results, seconds, peak_gb,
    commit, and a column a version. A name that several parts of a record use stays the first one's
    in every row (settings before results before the rest). The later one gets its part's name
    behind it: `rows_result`, `torch_version`.
    """
    parts_of_runs = [_parts_of(record) for record in records]
    rows = [{} for _ in records]
    for part in ("", "setting", "result", "run", "version"):
        taken = {name for row in rows for name in row}
        for row, parts in zip(rows, parts_of_runs):
            for name, value in parts[part].items():
                if not isinstance(value, (list, dict)):
                    row[f"{name}_{part}" if name in taken else name] = value
    return pd.DataFrame(rows)


def _parts_of(record: dict) -> dict[str, dict]:
    """A record's values, by the part that names a column when the name is taken."""
    results = {name: value for name, value in record["results"].items() if name != "guesses"}
    return {
        "": {name: record[name] for name in ("notebook", "profile", "seed")},
        "setting": record["settings"],
        "result": results,
        "run": {name: record.get(name) for name in ("seconds", "peak_gb", "commit")},
        "version": record.get("versions", {}),
    }


def where(records: list[dict], **wanted) -> list[dict]:
    """The records with these settings, or this `seed`: where(records, method="kd", alpha=0.5).

    KeyError for a setting that a record lacks.
    """
    found = []
    for record in records:
        given = {"seed": record["seed"], **record["settings"]}
        if all(given[name] == value for name, value in wanted.items()):
            found.append(record)
    return found


def history(records: list[dict], **columns) -> pd.DataFrame:
    """Loss curves: the `history` lists of records, one row a logged step.

    columns: new name = the name of a setting that becomes a column.
    """
    rows = []
    for record in records:
        settings = {new: record["settings"][old] for new, old in columns.items()}
        for step in record["results"].get("history", []):
            rows.append({"seed": record["seed"], **settings, **step})
    return pd.DataFrame(rows)


def formatted(rows: list[dict], specs: dict[str, str]) -> str:
    """A line a row, of the columns that `specs` names and the rows have: {"bleu": ".1f"} …"""
    lines = [
        {column: format(row[column], spec) for column, spec in specs.items() if column in row}
        for row in rows
    ]
    return pd.DataFrame(lines).to_string(index=False)


def short(text: str, letters: int) -> str:
    """The text's beginning, with … where something is left out."""
    return text[:letters] + ("…" if len(text) > letters else "")


def listed(records: list[dict], name: str) -> pd.DataFrame:
    """One row an item of the list `name` that records keep among their results, with its seed."""
    rows = []
    for record in records:
        rows += [{"seed": record["seed"], **item} for item in record["results"].get(name, [])]
    return pd.DataFrame(rows)


def summary(
    runs: pd.DataFrame,
    by: list[str],
    metrics: list[str] | dict[str, int],
    digits: int = 1,
    scale: float = 100,
) -> pd.DataFrame:
    """A table of "mean ± sd" (sample sd over runs) per group, with the number of runs.

    metrics: names, or {name: its digits}, of which those are shown that the runs have.
    Percentages, unless scale=1.
    """
    if isinstance(metrics, dict):
        digits_of = {name: count for name, count in metrics.items() if name in runs}
    else:
        digits_of = dict.fromkeys(metrics, digits)

    def cell(values):
        digits = digits_of[values.name]
        values = values.dropna() * scale
        if not len(values):
            return "–"
        spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{digits}f}{spread}"

    groups = runs.groupby(by, sort=False, dropna=False)
    return groups[list(digits_of)].agg(cell).assign(runs=groups.size()).reset_index()


def scores(
    runs: pd.DataFrame,
    by: str = "method",
    percent: tuple[str, ...] = ("accuracy", "macro_f1", "ece"),
    nats: tuple[str, ...] = ("ce", "kl_to_teacher", "kl_to_truth"),
    seconds: tuple[str, ...] = (),
) -> pd.DataFrame:
    """The metrics that `runs` have, each in its unit, as "mean ± sd" a group; see `summary`.

    Methods stand in the order and under the names of `methods.LABELS`. Those that never heard the
    teacher have no part in its bill; stored answers were paid for elsewhere.
    """
    tables = []
    for metrics, digits, scale in ((percent, 1, 100), (nats, 3, 1), (seconds, 0, 1)):
        known = [metric for metric in metrics if metric in runs]
        if known:
            found = summary(runs, [by], known, digits, scale).set_index(by)
            tables.append(found.drop(columns="runs") if tables else found)
    table = pd.concat(tables, axis=1)
    if "teacher_seconds" in table:
        bill = table["teacher_seconds"].mask(table.index.isin(["ce", "label_smoothing"]), "–")
        table["teacher_seconds"] = bill.replace("0 ± 0", "elsewhere")
    if by == "method":
        table = table.reindex([name for name in LABELS if name in table.index]).rename(index=LABELS)
    return table.reset_index()


def with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `relative` in front: each learning rate as a share of the largest, "1/100"."""
    ratios = table["learning_rate"].max() / table["learning_rate"]
    shares = [f"1/{ratio:,.0f}" if ratio > 1 else "1" for ratio in ratios]
    return pd.concat([pd.Series(shares, table.index, name="relative"), table], axis=1)


def against(table: pd.DataFrame, other: str, instead: dict | None = None) -> pd.DataFrame:
    """What each column of `table` is more than `other`, row by row, corrected for their number.

    table: a row a seed. instead: {column: another column that it is compared with}. The columns of
    the answer are those of `statistics.jointly`.
    """
    instead = instead or {}
    asked = table.columns.drop([other, *set(instead.values())])
    more = {name: table[name] - table[instead.get(name, other)] for name in asked}
    return statistics.jointly(pd.DataFrame(more))


def over_alpha(runs: pd.DataFrame) -> pd.DataFrame:
    """KD's runs and those on labels alone, which stand at alpha = 0: they are that for every T."""
    grid = runs[runs["method"].isin(["kd", "ce"])]
    return grid.assign(alpha=grid["alpha"].mask(grid["method"] == "ce", 0.0))


def by_alpha(grid: pd.DataFrame, metric: str = "accuracy") -> pd.DataFrame:
    """A row a seed, a column an alpha: means over temperatures.

    A seed that lacks a part of the grid is left out.
    """
    points = grid.groupby("seed")["seed"].transform("size")
    whole_grid = grid[points == points.max()]
    return whole_grid.pivot_table(index="seed", columns="alpha", values=metric)


def beside_stored(draft: dict, profile: str, ours: str, theirs: str) -> pd.DataFrame:
    """This run's numbers beside the course's own of another profile: a row a number that both have.

    draft: `run.draft()`; ours, theirs: the columns' names.
    """
    mine = draft["results"]
    stored = reference_records(draft["notebook"], profile)[-1]["results"]
    shared = [name for name in mine if name in stored]
    columns = {ours: [mine[name] for name in shared], theirs: [stored[name] for name in shared]}
    return pd.DataFrame(columns, index=shared)


def _all_settings(record: dict) -> dict:
    """A record that is older than a setting was made with what the notebook's file says of it."""
    from .settings import settings_of

    try:
        defaults = settings_of(record["notebook"], record["profile"])
    except (KeyError, ValueError, FileNotFoundError):
        return record["settings"]  # of a notebook that the course does not have
    return defaults | record["settings"]


def compare(record: dict, metrics: list[str], against: list[dict]) -> pd.DataFrame:
    """Your run | reference mean ± sd | inside?

    Inside: within two sd of the reference runs with the same settings.
    """
    ours = _all_settings(record)
    alike = frame([other for other in against if _all_settings(other) == ours])
    rows = []
    for metric in metrics:
        yours = record["results"].get(metric, np.nan)
        told, inside = "no runs with these settings", "–"
        if metric in alike and len(alike) >= 2:
            mean, sd = alike[metric].mean(), alike[metric].std()
            told = f"{mean:.4f} ± {sd:.4f} (n={len(alike)})"
            inside = "yes" if abs(yours - mean) <= 2 * sd + 1e-9 else "no"
        rows.append(
            {"metric": metric, "your run": round(yours, 4), "reference": told, "inside": inside}
        )
    return pd.DataFrame(rows)


# -- what a record keeps -------------------------------------------------------------------------


def pack(classes) -> str:
    """A run's guesses as text, a digit a row: run.record(guesses=results.pack(guesses))."""
    text = "".join(str(int(one)) for one in classes)
    if len(text) != len(classes):
        raise ValueError("a digit a row: classes must be 0 to 9")
    return text


def guesses(record: dict) -> np.ndarray:
    """The guesses that a record keeps, as (rows,) whole numbers. KeyError when it keeps none."""
    return np.array([int(digit) for digit in record["results"]["guesses"]], dtype=int)


def guesses_of_both(ours: list[dict], theirs: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The guesses that two lists of records keep, (seeds, rows) each: the seeds that both have."""
    kept = [
        {record["seed"]: guesses(record) for record in records if "guesses" in record["results"]}
        for records in (ours, theirs)
    ]
    seeds = sorted(kept[0].keys() & kept[1].keys())
    return tuple(np.array([known[seed] for seed in seeds]) for known in kept)


def store(notebook: str, profile: str, root: Path | None = None, name: str = "") -> Path:
    """Collect my records of a notebook and profile into data/results.

    This is how the course's own records are made.
    name: of the file, where a sweep should stand beside the profile's own ("lab_temperature");
        `reference` reads it by this name.
    Raises ValueError for a record that cannot be read: if it were left out silently, the reference
    would be wrong.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", BrokenRecord)
        try:
            found = records(notebook, profile, root)
        except BrokenRecord as broken:
            raise ValueError(f"nothing was stored: {broken}; or delete that record") from None
    if not found:
        raise FileNotFoundError(
            f"no records of {notebook} under profile {profile} in "
            + " or ".join(map(str, [root] if root else run_places()))
        )
    # figures are redrawn from the newest run's tables: the others need none
    newest = max(found, key=_finished)
    kept = [record if record is newest else record | {"tables": {}} for record in found]
    path = DATA / "results" / notebook / f"{name or profile}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"records": sorted(kept, key=_order)})
    return path


def _finished(record: dict) -> str:
    return record.get("finished", "")


def _order(record: dict) -> tuple:
    return json.dumps(record["settings"], sort_keys=True), record["seed"]
