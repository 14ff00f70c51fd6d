"""The course's notebooks: which there are, and where."""

from pathlib import Path

from ..paths import ROOT

FOLDER = ROOT / "notebooks"
COURSE = tuple(path.stem for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb")))


def notebook_path(notebook: str | Path) -> Path:
    """A notebook by path or by name ("04", "04_distilbert_mnli").

    FileNotFoundError says which there are.
    """
    path = Path(notebook)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    found = sorted(FOLDER.glob(f"{path.stem}*.ipynb"))
    if len(found) != 1:
        names = ", ".join(file.stem for file in sorted(FOLDER.glob("*.ipynb")))
        raise FileNotFoundError(f"no notebook {notebook!r}; there are {names}")
    return found[0]
