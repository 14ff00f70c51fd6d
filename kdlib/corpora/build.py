"""Writes the files of `data/mini_nli`, `data/mini_qqp` and `data/miniparl`, or checks them.

`python -m kdlib.corpora` rebuilds every file bit for bit under the lock; `--check` compares instead
of writing.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

from ..paths import DATA, sha256
from .grammar import COLUMNS, LABELS, SPLITS
from .tables import rows

# Between these marks `data/SOURCES.md` is written here; the rest of it is written by people.
BEGIN = "<!-- corpora: begin, written by python -m kdlib.corpora -->"
END = "<!-- corpora: end -->"
MARKS = BEGIN, END


def content_hash(table):
    """SHA-256 over the rows of an iterable of dicts, independent of the Parquet writer.

    Probabilities count to six places: a file keeps them as float32.
    """
    digest = hashlib.sha256()
    for row in table:
        row = dict(row)
        if "label_dist" in row:
            row["label_dist"] = [round(float(p), 6) for p in row["label_dist"]]
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def features(corpus):
    """The columns of a corpus and their types, as the hub's data sets have them."""
    from datasets import ClassLabel, Features, List, Translation, Value

    text = Value("string")
    if corpus == "miniparl":
        return Features({"translation": Translation(languages=["en", "fr"]), "phenomenon": text})
    first, second = COLUMNS[corpus]
    names = LABELS[corpus]
    return Features(
        {
            first: text,
            second: text,
            "label": ClassLabel(names=names),
            "idx": Value("int32"),
            "label_dist": List(Value("float32"), length=len(names)),
            "phenomenon": text,
        }
    )


def write(corpus, table, path):
    """One split as a Parquet file."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    schema = features(corpus)
    columns = {name: [row[name] for row in table] for name in schema}
    data = Dataset.from_dict(columns, features=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    if corpus != "miniparl":
        data.to_parquet(path)
        return
    # long texts: a sixth of what `to_parquet` writes
    arrow = data.with_format("arrow")[:]
    pq.write_table(arrow, path, compression="zstd", compression_level=19, use_dictionary=False)


def build(out):
    """Writes all corpora under the folder `out` (`mini_nli/`, `mini_qqp/`, `miniparl/`), in the
    hub's layout; {path: SHA-256}.
    """
    from datasets import disable_progress_bars

    disable_progress_bars()
    hashes = {}
    for corpus in SPLITS:
        for split, table in rows(corpus).items():
            path = Path(out) / corpus / f"{split}-00000-of-00001.parquet"
            write(corpus, table, path)
            hashes[f"{corpus}/{path.name}"] = sha256(path)
    return hashes


def describe(hashes):
    """The generated part of `data/SOURCES.md`: one table row a file."""
    lines = [BEGIN, "| file | rows | SHA-256 | content hash |", "|---|---|---|---|"]
    for name, sha in hashes.items():
        corpus, file = name.split("/")
        table = rows(corpus)[file.split("-")[0]]
        lines.append(f"| `{name}` | {len(table):,} | `{sha}` | `{content_hash(table)}` |")
    return "\n".join([*lines, END])


def check(folder):
    """Compares the files in a folder with a fresh build and says what differs; True if any does."""
    with tempfile.TemporaryDirectory() as fresh_folder:
        fresh = build(fresh_folder)
    different = []
    for name, sha in fresh.items():
        path = folder / name
        if not path.exists() or sha256(path) != sha:
            different.append(f"differs: {name}")
    print("\n".join(different) or f"{len(fresh)} files are as the grammar writes them")
    return bool(different)


def main(argv=None):
    """Builds into `--out`, or compares what is there (`--check`); 0 if all is well."""
    parser = argparse.ArgumentParser(
        prog="python -m kdlib.corpora",
        description="Rebuild MiniNLI, MiniQQP and MiniParl from their grammars.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=DATA,
        help="folder for mini_nli/, mini_qqp/ and miniparl/ (default: data)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; compare the files with a fresh build",
    )
    args = parser.parse_args(argv)
    if args.check:
        return check(args.out)
    block = describe(build(args.out))
    sources = args.out / "SOURCES.md"
    if sources.exists():
        head, _, rest = sources.read_text("utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        sources.write_text(head + block + tail, "utf-8")
    print(block)
    return 0
