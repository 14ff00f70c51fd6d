"""Where things lie, how a file is written whole, and "did you mean …?".

The ground floor: everything may import it, and it imports nothing of kdlib.
"""

import difflib
import hashlib
import json
import os
from pathlib import Path

ROOT = Path(os.environ.get("KD_ROOT") or Path(__file__).resolve().parent.parent)
DATA = ROOT / "data"


def runs_root() -> Path:
    """Where run folders go: `$KD_RUNS`, or `runs/` in the repository."""
    return Path(os.environ.get("KD_RUNS") or ROOT / "runs").expanduser()


def run_places() -> list[Path]:
    """All folders that may hold runs of ours: `$KD_RUNS` alone where it is set; otherwise `runs/`
    and those that job scripts of this checkout write to (`remember_place`).
    """
    places = [runs_root()]
    # Whoever sets KD_RUNS means that folder alone, a test for example.
    if not os.environ.get("KD_RUNS"):
        try:
            noted = (ROOT / "runs" / "places.txt").read_text(encoding="utf8").splitlines()
        except OSError:
            noted = []
        places += [Path(line) for line in dict.fromkeys(noted) if line and Path(line) != places[0]]
    return places


def remember_place(place: Path) -> None:
    """A job will write its runs there: from now on `status` and `store` look there too."""
    if place not in run_places():
        noted = [str(other) for other in run_places()[1:]]
        write_text(ROOT / "runs" / "places.txt", "\n".join([*noted, str(place)]) + "\n")


def real_folder() -> Path:
    """Where real rows lie: `$KD_REAL`, or kdlib's folder in the user's cache."""
    if os.environ.get("KD_REAL"):
        return Path(os.environ["KD_REAL"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "kdlib" / "real"


def did_you_mean(name: str, known) -> str:
    """ "; did you mean …?" where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Beside, flushed, then renamed: a reader sees the old file or the whole new one.

    That holds after a power cut, too. OSError that names the file, for a full disk or a folder
    that cannot be written; the old file is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename between two disks is a copy; with this process's number, for
    # two may write at once.
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with open(fresh, "w", encoding="utf8") as file:
            file.write(text)
            file.flush()
            # Without it the new name may be on the disk before the content is.
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({error.strerror}); what was there before is untouched"
        ) from error


def write_json(path: Path, value) -> None:
    """`value` as indented JSON, written as `write_text` does.

    TypeError for what a record cannot keep.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, default=plain_value))


def plain_value(value):
    """NumPy's and torch's numbers and arrays as Python's, for json."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"a record keeps numbers, text, and lists or dicts of them, not {type(value).__name__}"
    )
