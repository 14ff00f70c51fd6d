"""What a stage of a run is known by: 12 hex digits that change whenever its result would.

A fingerprint reads a function the way a careful person would: its code, the values it closes over,
the functions and classes of the notebook (or of a script beside it) that it calls, and kdlib's own
source. A student who edits the loss and runs again gets another key.

`datasets.fingerprint.Hasher` does much of this, and is not used here for two reasons. It knows an
imported function by its name alone, so that an edit in a script beside the notebook would load a
stale result. And two views of the same rows get different hashes.
"""

import dis
import functools
import hashlib
import inspect
import types
from pathlib import Path

import numpy as np

# The rooms of kdlib whose code can decide a result. Editing a figure makes nobody train again.
ROOMS = (".", "engine", "corpora")
PLAIN = (bool, int, float, str, bytes, complex, Path)
STANDARD_LIBRARY = str(Path(inspect.__file__).parent)


def fingerprint(*things) -> str:
    """12 hex digits that change whenever `things`, or what functions among them call, change."""
    digest = _Digest()
    for thing in things:
        digest.add(thing)
    return digest.sha.hexdigest()[:12]


@functools.cache
def _library() -> bytes:
    """A hash of the source in `ROOMS`: no list that somebody has to keep."""
    kdlib = Path(__file__).parent.parent
    sha = hashlib.sha256()
    for room in ROOMS:
        inside = (kdlib / room).glob("*") if room == "." else (kdlib / room).rglob("*")
        for file in sorted(inside):
            if file.suffix in (".py", ".yaml", ".txt"):
                sha.update(file.relative_to(kdlib).as_posix().encode() + file.read_bytes())
    return sha.digest()


class _Digest:
    """A SHA-256 that is fed with values, functions and objects by their content."""

    def __init__(self):
        self.sha = hashlib.sha256(_library())
        # {id: (how many came before, the thing)}. Things are kept: the id of a freed one would
        # come again, and hide another thing.
        self.seen: dict[int, tuple] = {}

    def put(self, *texts) -> None:
        self.sha.update("\x1f".join(map(str, texts)).encode() + b"\x1e")

    def add(self, thing) -> None:
        if thing is None or isinstance(thing, PLAIN):
            return self.put(type(thing).__name__, repr(thing))
        if id(thing) in self.seen:
            number, _ = self.seen[id(thing)]
            return self.put("seen before", number)
        # Python may or may not make one object of two equal constants: these are never "seen"
        if not isinstance(thing, (types.CodeType, tuple, frozenset)):
            self.seen[id(thing)] = len(self.seen), thing
        if not (self._add_code(thing) or self._add_container(thing)):
            self._add_object(thing)

    # -- functions and classes -------------------------------------------------------------------

    def _add_code(self, thing) -> bool:
        """Feeds a module, code, function, method or class; False for anything else."""
        if isinstance(thing, types.ModuleType):
            self.put("module", thing.__name__)
        elif isinstance(thing, types.CodeType):
            names = thing.co_names, thing.co_varnames, thing.co_argcount
            self.put("code", thing.co_code.hex(), *names)
            for constant in thing.co_consts:
                self.add(constant)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, thing.args, thing.keywords):
                self.add(part)
        elif isinstance(thing, types.MethodType):
            self.add(thing.__func__)
            self.add(thing.__self__)
        elif isinstance(thing, types.FunctionType):
            self._add_function(thing)
        elif isinstance(thing, type):
            self._add_class(thing)
        else:
            return False
        return True

    def _add_function(self, function) -> None:
        self.put("function", function.__module__, function.__qualname__)
        if not _is_users(function):
            return  # a library's function is its name; kdlib's own source is hashed anyway
        for part in (function.__code__, function.__defaults__, function.__kwdefaults__):
            self.add(part)
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a name that its scope has not bound yet
                self.put("empty cell")
        for name in sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                self.put(name)
                self.add(function.__globals__[name])

    def _add_class(self, kind: type) -> None:
        self.put("class", kind.__module__, kind.__qualname__)
        if not _is_users(kind):
            return
        for name, value in sorted(vars(kind).items()):
            is_written = not name.startswith("__") or name in ("__init__", "__call__")
            if is_written:
                self.put(name)
                # a property's getter, a static or class method's function, or the value itself
                getter = getattr(value, "fget", None)
                self.add(getter or getattr(value, "__func__", None) or value)
        for base in kind.__bases__:
            self.add(base)

    # -- values ----------------------------------------------------------------------------------

    def _add_container(self, thing) -> bool:
        """Feeds a dict, set, list or tuple; False for anything else."""
        if isinstance(thing, dict):
            for key, value in sorted(thing.items(), key=_by_key):
                self.put("key")
                self.add(key)
                self.add(value)
        elif isinstance(thing, (set, frozenset)):
            self.put("set", *sorted(map(repr, thing)))
        elif isinstance(thing, (list, tuple)):
            self.put(type(thing).__name__, len(thing))
            for part in thing:
                self.add(part)
        else:
            return False
        return True

    def _add_object(self, thing) -> None:
        """Arrays, models, datasets, tensors, frames by content; the rest by its attributes."""
        kind = type(thing)
        library = kind.__module__.split(".")[0]
        if isinstance(thing, np.ndarray):
            return self._add_array(thing)
        if hasattr(thing, "__fingerprint__"):
            self.put(kind.__qualname__)
            return self.add(thing.__fingerprint__())
        self.put(kind.__module__, kind.__qualname__)
        if hasattr(thing, "state_dict") and hasattr(thing, "forward"):
            self._add_model(thing)
        elif library == "torch" and hasattr(thing, "detach"):
            self.put(thing.dtype, tuple(thing.shape))
            self.sha.update(_bytes_of(thing))
        elif library == "datasets" and hasattr(thing, "with_format"):
            self.sha.update(_rows_of(thing))
        elif library == "pandas" and (hasattr(thing, "columns") or hasattr(thing, "to_frame")):
            self._add_frame(thing.to_frame() if hasattr(thing, "to_frame") else thing)
        elif hasattr(thing, "get_vocab"):
            self.add(thing.get_vocab())
            self.put(thing.padding_side, thing.special_tokens_map)
        elif hasattr(thing, "__dict__"):
            self.add(dict(vars(thing)))
        else:
            self.put(repr(thing))

    def _add_array(self, array: np.ndarray) -> None:
        self.put("array", array.dtype, array.shape)
        if array.dtype.hasobject:
            self.add(array.tolist())
        else:
            self.sha.update(np.ascontiguousarray(array).tobytes())

    def _add_model(self, model) -> None:
        config = getattr(model, "config", None)
        if config is not None:
            settings = config.to_dict()
            written_by_library = {"transformers_version", *(n for n in settings if n[0] == "_")}
            self.add({n: v for n, v in settings.items() if n not in written_by_library})
        self.add(dict(model.state_dict()))

    def _add_frame(self, frame) -> None:
        self.add(frame.index.to_numpy())
        for name, column in frame.items():
            self.put(name, column.dtype)
            self.add(column.to_numpy())


def _by_key(item) -> str:
    return repr(item[0])


def _global_names(code) -> set[str]:
    """The global names that a function reads, also in functions inside it.

    `co_names` lists attributes and imports, too: these are none.
    """
    names = {
        instruction.argval
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _is_users(thing) -> bool:
    """Written in the notebook (or a script beside it), not in an installed package?"""
    module = thing.__module__ or ""
    if module == "__main__":
        return True
    if module.startswith("kdlib."):
        return False
    try:
        source = inspect.getsourcefile(thing) or ""
    except TypeError:
        return False
    is_installed = "site-packages" in source or source.startswith(STANDARD_LIBRARY)
    return bool(source) and not is_installed


def _bytes_of(tensor) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _rows_of(dataset) -> bytes:
    """A dataset's rows as one Arrow stream: equal for two views of equal rows."""
    import pyarrow as pa

    table = dataset.with_format("arrow")[:].replace_schema_metadata(None).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
