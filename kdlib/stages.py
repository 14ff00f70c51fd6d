"""What a stage of a run is known by, and how its result lies on disk.

`fingerprint` reads a function the way a careful person would: its code, the values it closes over, the notebook's own
functions and classes that it calls, and kdlib's source. A student who edits the loss and runs again gets another key.
`dump` and `load` keep results as plain files (JSON, npy, safetensors, Parquet): nothing is ever unpickled.
"""
import dis
import functools
import hashlib
import inspect
import json
import shutil
import types
from pathlib import Path

import numpy as np

SOURCES = ("losses", "methods", "engine/wide_loss", "engine/wide_checks", "trainer", "models", "glue", "metrics", "teachers", "translation", "corpora/grammar", "corpora/lexicon", "corpora/inflection", "corpora/parser", "corpora/mini_nli", "corpora/mini_qqp", "corpora/miniparl", "corpora/tables", "votes",
           "answers", "teacher_cache", "causal", "chat", "scores", "quantise", "hidden", "onpolicy")
KEPT = "numbers, text, lists, dicts, NumPy arrays, tensors, DataFrames, datasets and transformers models"


def fingerprint(*things) -> str:
    """12 hex digits that change whenever `things` (or, for functions, what they call) would compute something else."""
    digest = hashlib.sha256(_library().encode())
    seen: dict[int, tuple] = {}             # id → (how many came before, the thing): kept, for a freed id would come again
    for thing in things:
        _feed(thing, digest.update, seen)
    return digest.hexdigest()[:12]


@functools.cache
def _library() -> str:
    """A hash of the kdlib files that decide a result; editing a figure does not make anyone train again."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join(f.read_bytes() for n in SOURCES if (f := here / f"{n}.py").exists())).hexdigest()


def _feed(thing, update, seen: dict[int, tuple]) -> None:
    put = lambda *texts: update("\x1f".join(map(str, texts)).encode() + b"\x1e")
    again = functools.partial(_feed, update=update, seen=seen)
    if thing is None or isinstance(thing, (bool, int, float, str, bytes, complex, Path)):
        return put(type(thing).__name__, repr(thing))
    if id(thing) in seen:
        return put("again", seen[id(thing)][0])
    if not isinstance(thing, (types.CodeType, tuple, frozenset)):       # equal ones may or may not be one object
        seen[id(thing)] = len(seen), thing
    if isinstance(thing, types.ModuleType):
        put("module", thing.__name__)
    elif isinstance(thing, types.CodeType):
        put("code", thing.co_code.hex(), thing.co_names, thing.co_varnames, thing.co_argcount)
        for constant in thing.co_consts:
            again(constant)
    elif isinstance(thing, functools.partial):
        for part in (thing.func, thing.args, thing.keywords):
            again(part)
    elif isinstance(thing, types.MethodType):
        again(thing.__func__), again(thing.__self__)
    elif isinstance(thing, types.FunctionType):
        _feed_function(thing, put, again)
    elif isinstance(thing, type):
        put("class", thing.__module__, thing.__qualname__)
        if _is_users(thing):
            for name, value in sorted(vars(thing).items()):
                if not (name.startswith("__") and name not in ("__init__", "__call__")):
                    put(name), again(getattr(value, "fget", None) or getattr(value, "__func__", None) or value)
            for base in thing.__bases__:
                again(base)
    elif isinstance(thing, dict):
        for key, value in sorted(thing.items(), key=lambda item: repr(item[0])):
            put("key"), again(key), again(value)
    elif isinstance(thing, (set, frozenset)):
        put("set", *sorted(map(repr, thing)))
    elif isinstance(thing, (list, tuple)):
        put(type(thing).__name__, len(thing))
        for part in thing:
            again(part)
    elif isinstance(thing, np.ndarray):
        put("array", thing.dtype, thing.shape)
        again(thing.tolist()) if thing.dtype.hasobject else update(np.ascontiguousarray(thing).tobytes())
    elif hasattr(thing, "__fingerprint__"):
        put(type(thing).__qualname__), again(thing.__fingerprint__())
    else:
        _feed_library_object(thing, put, update, again)


def _feed_function(function, put, again) -> None:
    put("function", function.__module__, function.__qualname__)
    if not _is_users(function):
        return                              # a library's function is its name; kdlib's own source is hashed anyway
    again(function.__code__), again(function.__defaults__), again(function.__kwdefaults__)
    for cell in function.__closure__ or ():
        try:
            again(cell.cell_contents)
        except ValueError:                  # a name that its scope has not bound yet
            put("empty cell")
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            put(name), again(function.__globals__[name])


def _names(code) -> set[str]:
    """The global names that a function reads (attributes and imports, which co_names also lists, are none)."""
    nested = (c for c in code.co_consts if isinstance(c, types.CodeType))
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*map(_names, nested))


def _is_users(thing) -> bool:
    """Written in the notebook (or a script beside it), not in an installed package?"""
    module = thing.__module__ or ""
    if module == "__main__":
        return True
    try:
        source = inspect.getsourcefile(thing) or ""
    except TypeError:
        return False
    return bool(source) and "site-packages" not in source and not module.startswith("kdlib.") \
        and not source.startswith(str(Path(inspect.__file__).parent))


def _feed_library_object(thing, put, update, again) -> None:
    """Models, datasets, tensors, frames by content; anything else by its attributes."""
    kind = type(thing)
    put(kind.__module__, kind.__qualname__)
    library = kind.__module__.split(".")[0]
    if hasattr(thing, "state_dict") and hasattr(thing, "forward"):
        config = getattr(thing, "config", None)
        if config is not None:
            settings = config.to_dict()
            again({k: v for k, v in settings.items() if not k.startswith("_") and k != "transformers_version"})
        again(dict(thing.state_dict()))
    elif library == "torch" and hasattr(thing, "detach"):
        put(thing.dtype, tuple(thing.shape)), update(thing.detach().cpu().contiguous().view(-1).view(_bytes()).numpy().tobytes())
    elif library == "datasets" and hasattr(thing, "with_format"):
        import pyarrow as pa
        sink = pa.BufferOutputStream()
        table = thing.with_format("arrow")[:].replace_schema_metadata(None).combine_chunks()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        update(sink.getvalue())
    elif library == "pandas" and (hasattr(thing, "columns") or hasattr(thing, "to_frame")):
        table = thing.to_frame() if hasattr(thing, "to_frame") else thing               # of a Series or an Index
        again(table.index.to_numpy())
        for name, column in table.items():
            put(name, column.dtype), again(column.to_numpy())
    elif hasattr(thing, "get_vocab"):
        again(thing.get_vocab()), put(thing.padding_side, thing.special_tokens_map)
    elif hasattr(thing, "__dict__"):
        again(dict(vars(thing)))
    else:
        put(repr(thing))


def _bytes():
    import torch
    return torch.uint8


# -- on disk ---------------------------------------------------------------------------------------------------------

def dump(value, folder: Path) -> None:
    """Write `value` under `folder` (made anew) with a manifest of checksums, written last. TypeError for what is not kept."""
    folder.mkdir(parents=True)
    tree = _encode(value, folder)
    (folder / "value.json").write_text(json.dumps(tree, indent=1))
    files = {str(f.relative_to(folder)): _sha(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    (folder / "DONE.json").write_text(json.dumps(files, indent=1))


def load(folder: Path):
    """What `dump` wrote. ValueError when a file is missing, cut off or altered."""
    try:
        files = json.loads((folder / "DONE.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} has no readable DONE.json") from error
    for name, expected in files.items():
        if not (folder / name).is_file() or _sha(folder / name) != expected:
            raise ValueError(f"{folder / name} is missing, cut off or altered")
    return _decode(json.loads((folder / "value.json").read_text()), folder)


def _sha(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(value, folder: Path):
    again = functools.partial(_encode, folder=folder)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict) and all(isinstance(k, str) and not k.startswith("$") for k in value):
        return {k: again(v) for k, v in value.items()}
    if isinstance(value, list):
        return [again(v) for v in value]
    if isinstance(value, tuple):
        return {"$tuple": [again(v) for v in value]}
    number = sum(1 for _ in folder.iterdir())
    library = type(value).__module__.split(".")[0]
    if isinstance(value, np.ndarray):
        np.save(folder / f"{number}.npy", value, allow_pickle=False)
        return {"$array": f"{number}.npy"}
    if library == "torch" and hasattr(value, "detach"):
        from safetensors.torch import save_file
        save_file({"value": value.detach().cpu().contiguous()}, folder / f"{number}.safetensors")
        return {"$tensor": f"{number}.safetensors"}
    if library == "pandas" and hasattr(value, "to_parquet"):
        value.to_parquet(folder / f"{number}.parquet")
        return {"$frame": f"{number}.parquet"}
    if hasattr(value, "save_to_disk"):
        value.save_to_disk(str(folder / f"{number}.dataset"))
        return {"$dataset": f"{number}.dataset"}
    if library == "transformers" and hasattr(value, "save_pretrained") and hasattr(value, "forward"):
        value.save_pretrained(folder / f"{number}.model", safe_serialization=True)
        return {"$model": f"{number}.model", "class": type(value).__name__, "dtype": str(value.dtype).split(".")[-1]}
    kind = "a dict with keys that are not text" if isinstance(value, dict) else type(value).__name__
    raise TypeError(f"a stage returned {kind}; stages keep {KEPT}. Return one of these, or its parts.")


def _decode(tree, folder: Path):
    again = functools.partial(_decode, folder=folder)
    if isinstance(tree, list):
        return [again(v) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tuple" in tree:
        return tuple(again(v) for v in tree["$tuple"])
    if "$array" in tree:
        return np.load(folder / tree["$array"], allow_pickle=False)
    if "$tensor" in tree:
        from safetensors.torch import load_file
        return load_file(folder / tree["$tensor"])["value"]
    if "$frame" in tree:
        import pandas as pd
        return pd.read_parquet(folder / tree["$frame"])
    if "$dataset" in tree:
        import datasets
        return datasets.load_from_disk(str(folder / tree["$dataset"]))
    if "$model" in tree:
        import torch
        import transformers
        kind, dtype = getattr(transformers, tree["class"]), getattr(torch, tree["dtype"])
        return kind.from_pretrained(folder / tree["$model"], dtype=dtype).eval()
    return {k: again(v) for k, v in tree.items()}


def replace(folder: Path, value) -> None:
    """`dump` beside `folder`, then swap: whoever looks sees the old result or the whole new one."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    dump(value, fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
