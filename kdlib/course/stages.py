"""How a stage's result lies on disk, and comes back bit for bit.

Results are plain files (JSON, npy, safetensors, Parquet): nothing is ever unpickled. `fingerprint`
computes the key of a stage.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from ..paths import sha256
from .fingerprint import fingerprint  # noqa: F401  (the key of a stage)

KEPT = (
    "numbers, text, lists, dicts, NumPy arrays, tensors, DataFrames, datasets and "
    "transformers models"
)


def dump(value, folder: Path) -> None:
    """Write `value` into the new folder `folder`, and at the end a list of checksums.

    TypeError for a value of a type that is not in `KEPT`.
    """
    folder.mkdir(parents=True)
    tree = _encode(value, folder)
    (folder / "value.json").write_text(json.dumps(tree, indent=1))
    written = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    checksums = {str(file.relative_to(folder)): sha256(file) for file in written}
    (folder / "DONE.json").write_text(json.dumps(checksums, indent=1))


def load(folder: Path):
    """What `dump` wrote. ValueError when a file is missing, cut off or altered."""
    try:
        checksums = json.loads((folder / "DONE.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} has no readable DONE.json") from error
    for name, checksum in checksums.items():
        file = folder / name
        if not file.is_file() or sha256(file) != checksum:
            raise ValueError(f"{file} is missing, cut off or altered")
    return _decode(json.loads((folder / "value.json").read_text()), folder)


def replace(folder: Path, value) -> None:
    """`dump` beside `folder`, then swap: a reader sees the old result or the whole new one."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    dump(value, fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


# -- to JSON, and to files beside it -------------------------------------------------------------


def _encode(value, folder: Path):
    """`value` as JSON. What JSON cannot hold goes to a numbered file, and JSON names the file."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        if not all(isinstance(key, str) and not key.startswith("$") for key in value):
            raise _not_kept("a dict with keys that are not text")
        return {key: _encode(part, folder) for key, part in value.items()}
    if isinstance(value, list):
        return [_encode(part, folder) for part in value]
    if isinstance(value, tuple):
        return {"$tuple": [_encode(part, folder) for part in value]}
    return _encode_file(value, folder)


def _encode_file(value, folder: Path) -> dict:
    path = folder / str(sum(1 for _ in folder.iterdir()))  # 0, 1, 2 …
    library = type(value).__module__.split(".")[0]
    if isinstance(value, np.ndarray):
        file = path.with_suffix(".npy")
        np.save(file, value, allow_pickle=False)
        return {"$array": file.name}
    if library == "torch" and hasattr(value, "detach"):
        from safetensors.torch import save_file

        file = path.with_suffix(".safetensors")
        save_file({"value": value.detach().cpu().contiguous()}, file)
        return {"$tensor": file.name}
    if library == "pandas" and hasattr(value, "to_parquet"):
        file = path.with_suffix(".parquet")
        value.to_parquet(file)
        return {"$frame": file.name}
    if hasattr(value, "save_to_disk"):
        file = path.with_suffix(".dataset")
        value.save_to_disk(str(file))
        return {"$dataset": file.name}
    if (
        library == "transformers"
        and hasattr(value, "save_pretrained")
        and hasattr(value, "forward")
    ):
        file = path.with_suffix(".model")
        value.save_pretrained(file, safe_serialization=True)
        dtype = str(value.dtype).removeprefix("torch.")
        return {"$model": file.name, "class": type(value).__name__, "dtype": dtype}
    raise _not_kept(type(value).__name__)


def _not_kept(kind: str) -> TypeError:
    return TypeError(
        f"a stage returned {kind}; stages keep {KEPT}. Return one of these, or its parts."
    )


def _decode(tree, folder: Path):
    if isinstance(tree, list):
        return [_decode(part, folder) for part in tree]
    if not isinstance(tree, dict):
        return tree
    for mark, read in READERS.items():
        if mark in tree:
            return read(tree, folder)
    return {key: _decode(part, folder) for key, part in tree.items()}


def _read_tuple(tree: dict, folder: Path) -> tuple:
    return tuple(_decode(part, folder) for part in tree["$tuple"])


def _read_array(tree: dict, folder: Path) -> np.ndarray:
    return np.load(folder / tree["$array"], allow_pickle=False)


def _read_tensor(tree: dict, folder: Path):
    from safetensors.torch import load_file

    return load_file(folder / tree["$tensor"])["value"]


def _read_frame(tree: dict, folder: Path):
    import pandas as pd

    return pd.read_parquet(folder / tree["$frame"])


def _read_dataset(tree: dict, folder: Path):
    import datasets

    return datasets.load_from_disk(str(folder / tree["$dataset"]))


def _read_model(tree: dict, folder: Path):
    import torch
    import transformers

    kind = getattr(transformers, tree["class"])
    dtype = getattr(torch, tree["dtype"])
    return kind.from_pretrained(folder / tree["$model"], dtype=dtype).eval()


READERS = {
    "$tuple": _read_tuple,
    "$array": _read_array,
    "$tensor": _read_tensor,
    "$frame": _read_frame,
    "$dataset": _read_dataset,
    "$model": _read_model,
}
