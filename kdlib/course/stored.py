"""The course's own records under data/results: each file read once, errors that name the file.

No torch here.
"""

import json
from pathlib import Path

import pandas as pd

from ..paths import DATA, ROOT


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

    def files(self, notebook: str, begins: str) -> list[str]:
        """The notebook's files of records whose names begin so, without their ending."""
        return sorted(path.stem for path in (DATA / "results" / notebook).glob(f"{begins}*.json"))

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
