"""A teacher's outputs on disk: asked once, checked at every opening, shared by all runs of a sweep.

    cache = teacher_cache.build(teacher, rows, tokenizer)  # asks the teacher, or finds its answers
    trainer = DistillationTrainer(student, args, teacher_cache=cache, train_dataset=rows)

A cache belongs to one teacher (its weights), one tokenizer (its content), one list of tokenised
rows and one dtype: the folder's name is a hash of the four, so a changed one is another cache. It
lies in shards of some rows each, every shard written beside and renamed, with a checksum of its
content: an interrupted pass goes on where it stopped, a shard that was cut off or changed is asked
for again, and processes that build side by side share the work without a lock.

Classification keeps exact logits. A language model's vocabulary is too wide for that (513 kB a
token at 128,256 words); there, `topk=k` keeps for each token that is predicted

    k ids and log-probabilities, largest first, and for each planned temperature T
    rest_T = log Σ exp(logprob_j / T) over the words that are *not* kept

From these the tempered distribution, with all other words as one lump, is right at every planned T,
which the log-probabilities alone do not give: logsumexp over the whole vocabulary at T is
logaddexp(rest_T, logsumexp(kept / T)).
"""

import hashlib
import json
import os
import random
import time
import weakref
from contextlib import suppress
from pathlib import Path
from shutil import disk_usage

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..losses import TopK
from ..paths import runs_root, write_json
from . import asking
from .device import at_work
from .provenance import versions
from .sampler import no_column

FORMAT = 2  # of what is kept: another number, another cache
SPEAK_EVERY = 20.0  # seconds between two lines of progress


def build(
    teacher,
    rows,
    tokenizer,
    *,
    topk: int = 0,
    temperatures: tuple[float, ...] = (1.0, 2.0),
    dtype: str = "float32",
    batch_size: int = 64,
    shard_rows: int = 1024,
    root: str | Path | None = None,
) -> "TeacherCache":
    """The teacher's answers to `rows`, from disk where they are, else asked for now.

    rows: encoded, unpadded, a `datasets.Dataset`. topk: 0 for a classifier; for a causal language
    model, how many words to keep of each position that `labels` does not mask (all, without
    labels). temperatures: those at which the lumped tail will be right. dtype: of a classifier's
    logits. root: default `teacher_cache/` beside the run folders. ValueError for arguments without
    sense, OSError when the disk is too small (seen with the first shard) or fills up later
    (finished shards stay and are used next time).
    """
    # before anything is hashed: a typing error should not cost a pass over all weights
    _check_arguments(rows, teacher.config.vocab_size, topk, temperatures, dtype)
    keys = row_keys(rows)
    # shard_rows too: in shards of another size the same row would lie in another place.
    key = _key(teacher, tokenizer, keys) | {"dtype": dtype, "shard_rows": shard_rows}
    if topk:
        # Sorted, so that (1, 2) and (2, 1) are one cache; floats, so that 2 and 2.0 are.
        key |= {"topk": topk, "temperatures": sorted(map(float, temperatures))}
    name = _name(key)
    # Beside the runs and not in one of them: a sweep of many runs asks the teacher once.
    folder = Path(root or runs_root() / "teacher_cache").expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(rows), shard_rows)
    shards = [range(start, min(start + shard_rows, len(rows))) for start in starts]
    _write_keys(folder, keys)
    ask = _question(teacher, tokenizer, key, batch_size)
    with at_work(teacher):  # moved once, not once a shard
        seconds = _fill(folder, name, rows, shards, ask)
    manifest = {"key": key, "rows": len(rows), "shards": len(shards), "seconds": round(seconds, 2)}
    manifest |= _about(teacher, key) | _measure(folder, len(shards), key.get("temperatures", []))
    # last of all: a folder with a manifest is a finished cache
    write_json(folder / "manifest.json", manifest)
    return TeacherCache(folder)


def _about(teacher, key: dict) -> dict:
    """What whoever opens the cache must know of the teacher, who is not there then."""
    is_topk = "topk" in key
    return {
        "kind": "topk" if is_topk else "logits",
        "vocabulary": teacher.config.vocab_size,
        "classes": None if is_topk else teacher.config.num_labels,
        "versions": versions(),
    }


def _check_arguments(rows, vocabulary: int, topk, temperatures, dtype) -> None:
    """ValueError that says what makes no sense."""
    # True is an int in Python, and would silently keep one word
    if isinstance(topk, bool) or not isinstance(topk, int) or not 0 <= topk <= vocabulary:
        raise ValueError(
            f"topk must be a count up to the vocabulary's {vocabulary:,} words "
            f"(0: a classifier's logits), not {topk!r}"
        )
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, not {dtype!r}")
    # `not t > 0` instead of `t <= 0`: NaN is refused, too
    if any(not t > 0 for t in temperatures) or (topk and not temperatures):
        raise ValueError(
            f"temperatures must be numbers above 0, at least one, not {temperatures!r}"
        )
    if not len(rows):
        raise ValueError("there are no rows to ask the teacher about")


def _question(teacher, tokenizer, key: dict, batch_size: int):
    """rows → {name: tensor}, what a shard keeps of them."""
    if "topk" in key:
        return lambda rows: asking.topk_answers(
            teacher, rows, key["topk"], key["temperatures"], batch_size
        )
    collate = asking.collator(tokenizer)
    dtype = getattr(torch, key["dtype"])

    def ask(rows):
        logits = asking.teacher_logits(teacher, rows, collate, batch_size)
        return {"logits": torch.from_numpy(logits).to(dtype)}

    return ask


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _fill(folder: Path, name: str, rows, shards: list[range], ask) -> float:
    """Makes every shard whole. Returns the seconds that the teacher was asked for, in all runs."""
    # in an order of this process's own: two that build at once meet different gaps
    order = list(range(len(shards)))
    random.Random(os.getpid()).shuffle(order)
    spoke = time.perf_counter()
    seconds = 0.0
    rows_asked = 0
    for done, number in enumerate(order):
        path = _shard_path(folder, number)
        # Looked at only now, not before the loop: another process may have written it meanwhile.
        about, trouble = _verify(path, name, number)
        if about is None:
            if trouble:
                print(f"teacher cache: {path.name} {trouble}; the teacher is asked again")
            began = time.perf_counter()
            # only whole shards count: an interrupted one is asked for again from its first row
            tensors = ask(rows.select(shards[number]))
            about = {"seconds": round(time.perf_counter() - began, 3)}
            _write(path, name, tensors, {"shard": number} | about, len(shards) - done)
            rows_asked += len(shards[number])
        # a shard knows what it cost, so a cache's price is right even if it took several runs
        seconds += about["seconds"]
        if time.perf_counter() - spoke > SPEAK_EVERY:
            spoke = time.perf_counter()
            print(f"teacher cache: {done + 1} of {len(shards)} shards", flush=True)
    summary = f"all {len(rows):,} rows were answered before"
    if rows_asked:
        summary = f"{rows_asked:,} of {len(rows):,} rows asked for"
    print(f"teacher cache {name}: {summary}, {seconds:.1f} s of the teacher's time")
    return seconds


class TeacherCache:
    """An opened cache: every shard was verified.

    `seconds`: what the teacher took, in whatever run it was.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf8"))
            # no pickles: a cache may come from somebody else
            self.keys = np.load(self.folder / "keys.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.folder} holds no finished teacher cache ({error}); build it again"
            ) from error
        self.key = self.manifest["key"]
        # the folder's name is a hash of its key: neither can change without the other
        if _name(self.key) != self.folder.name:
            raise ValueError(
                f"{self.folder}/manifest.json was changed, or the folder renamed; "
                "build the cache again"
            )
        if _sha(self.keys.tobytes()) != self.key["rows"]:
            raise ValueError(
                f"{self.folder}/keys.npy was changed; delete it and build the cache again"
            )
        self.kind = self.manifest["kind"]
        self.seconds = self.manifest["seconds"]
        self.classes = self.manifest["classes"]
        self._place = None  # {row key: place}, made when it is first needed
        # Verified now, all of them: a damaged shard should end a run before its training, not in
        # its middle.
        self._shards = [self._open(number) for number in range(self.manifest["shards"])]

    def _open(self, number: int):
        """A verified shard, memory-mapped: it is read when somebody asks for its rows."""
        path = _shard_path(self.folder, number)
        about, trouble = _verify(path, self.folder.name, number)
        if about is None:
            raise ValueError(
                f"{path} {trouble or 'is missing'}; build the cache again: "
                "only this shard is asked for"
            )
        return safe_open(path, "pt")

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self):
        # open files do not travel to another process (--nproc): it opens its own
        return TeacherCache, (self.folder,)

    def __fingerprint__(self) -> str:
        return self.folder.name

    def check(self, teacher) -> None:
        """ValueError unless this teacher has given these answers."""
        if weights_hash(teacher) != self.key["teacher"]:
            raise ValueError(
                f"the cache {self.folder.name} was made with another teacher: build one for this"
            )

    def find(self, rows) -> np.ndarray:
        """(rows,): where in the cache each of these encoded rows stands.

        ValueError when one of them was not asked about.
        """
        if self._place is None:
            self._place = {int(key): place for place, key in enumerate(self.keys)}
        return find_rows(self._place, rows, f"teacher cache {self.folder.name}")

    def logits(self, places=None) -> np.ndarray:
        """(rows, classes) float32: a classifier's answers to the rows at `places`, or to all."""
        if self.kind != "logits":
            raise ValueError(
                f"this cache keeps the {self.key['topk']} likeliest words of a language model; "
                "ask for topk()"
            )
        parts = [shard.get_tensor("logits").float().numpy() for shard in self._shards]
        # (all rows, classes), widened to float32 where fp16 was stored; a few MB for a classifier.
        whole = np.concatenate(parts)
        return whole if places is None else whole[places]

    def attach(self, rows):
        """`rows` with the teacher's answers in a column `teacher_logits`.

        rows: a subset, in any order, of those that were asked about.
        """
        logits = self.logits(self.find(rows))
        # an older column of answers, perhaps another teacher's, is replaced
        columns = [column for column in rows.column_names if column != asking.TEACHER_LOGITS]
        return rows.select_columns(columns).add_column(asking.TEACHER_LOGITS, list(logits))

    def topk(self, places, temperature: float) -> TopK:
        """What the teacher said at the predicted tokens of the rows at `places`, one after the
        other: (tokens, k), see `losses.TopK`.
        """
        if self.kind != "topk":
            raise ValueError("this cache keeps a classifier's logits; ask for logits()")
        planned = self.key["temperatures"]
        # The kept tokens could be softened by any T. Their rest could not: its sum was made at the
        # planned ones, and the tokens that it was made of are gone.
        if float(temperature) not in planned:
            raise ValueError(
                f"temperature {temperature} is not among those that this cache was built for "
                f"({', '.join(map(str, planned))}): its tail would be wrong. "
                "Build one with temperatures=(…, this one)."
            )
        # In the order of `places`, each row's tokens from left to right: that is the order of
        # `head.logits_at`, so answers meet their own positions.
        parts = [self._tokens_at(int(place)) for place in places]
        low, high, logprobs, rest = zip(*parts)
        high = None if high[0] is None else torch.cat(high)
        ids = asking.wide_ids(torch.cat(low), high)
        # float32 first: the shards hold float16, which a bf16 autocast on a CPU refuses to join
        logprobs = torch.cat([part.float() for part in logprobs])
        rest = torch.cat([part.float() for part in rest])[:, planned.index(float(temperature))]
        return TopK(ids, logprobs, rest)

    def _tokens_at(self, place: int) -> list[torch.Tensor | None]:
        """What is kept of the row at a place: ids, their high bits, log-probabilities, rests."""
        number, row = divmod(place, self.key["shard_rows"])
        shard = self._shards[number]
        # slices: the shard lies on disk, and a batch needs a few of its rows
        # offsets: (rows + 1,), so a row's tokens end where the next one's begin.
        start, end = shard.get_slice("offsets")[row : row + 2].tolist()
        kept = shard.keys()
        # "high" is missing where two bytes hold every id
        names = ("ids", "high", "logprobs", "rest")
        return [shard.get_slice(name)[start:end] if name in kept else None for name in names]


def find_rows(place_of: dict[int, int], rows, name: str) -> np.ndarray:
    """(rows,): the places of encoded rows, by their keys; ValueError when one has none.

    name: of the answers that are searched, for the message.
    """
    places = [place_of.get(int(key), -1) for key in row_keys(rows)]
    missing = places.count(-1)
    if missing:
        raise ValueError(
            f"{missing:,} of {len(places):,} rows are not among the {len(place_of):,} that the "
            f"{name} answers: another dataset, another tokenizer or another max_length. "
            "Build a cache for these rows."
        )
    return np.array(places)


# -- what a cache is known by ---------------------------------------------------------------------

_HASHED = weakref.WeakKeyDictionary()  # model → (version counters of its weights, hash)


def weights_hash(model) -> str:
    """Of all weights and buffers by name, dtype, shape and bits.

    Remembered until a weight is written to: torch counts the writes of each tensor.
    """
    state = model.state_dict()
    # `_version` misses a weight that was replaced as a whole; its address does not
    version = tuple((tensor.data_ptr(), tensor._version) for tensor in state.values())
    known_version, known_hash = _HASHED.get(model, (None, ""))
    if known_version == version:
        return known_hash
    digest = hashlib.sha256()
    _digest_tensors(digest, state)
    # 64 bits. Two different teachers are not met by chance; nobody defends against an attack here.
    _HASHED[model] = version, digest.hexdigest()[:16]
    return _HASHED[model][1]


def _digest_tensors(digest, tensors: dict) -> None:
    """Feeds tensors to a hash, by name, dtype, shape and bits."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # as bytes: NumPy has no bfloat16, and -0.0 must not count as 0.0
        flat = tensor.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy())


def tokenizer_hash(tokenizer) -> str:
    """Of its content: vocabulary, merges, normaliser, special tokens.

    Not of the padding and truncation of its last call.
    """
    if getattr(tokenizer, "is_fast", False):
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        # Every call sets these two anew. What truncation did is in the rows, hashed on their own.
        content |= {"truncation": None, "padding": None}
    else:
        content = tokenizer.get_vocab()
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _sha(json.dumps([content, special], sort_keys=True).encode())


def row_keys(rows) -> np.ndarray:
    """(rows,) uint64: each tokenised row by its ids, segments and masked labels, 64 bits of a
    SHA-256.
    """
    if "input_ids" not in rows.column_names:
        raise no_column("the rows", "input_ids", rows.column_names)
    names = [name for name in ("input_ids", "token_type_ids") if name in rows.column_names]
    # A classifier's label is a number, and changes no answer of the teacher: it is left out.
    if "labels" in rows.column_names and len(rows) and isinstance(rows[0]["labels"], list):
        names.append("labels")  # of a language model: they say what is predicted
    columns = [rows[name] for name in names]
    # repr of the ids, not of tensors: the same row from a file, a list or memory is the same
    digests = [hashlib.sha256(repr(row).encode()).digest() for row in zip(*columns)]
    return np.array([int.from_bytes(digest[:8], "little") for digest in digests], np.uint64)


def _key(teacher, tokenizer, keys: np.ndarray) -> dict:
    """What the answers depend on: any other teacher, tokenizer or list of rows is another cache."""
    return {
        "format": FORMAT,
        "teacher": weights_hash(teacher),
        "tokenizer": tokenizer_hash(tokenizer),
        "rows": _sha(keys.tobytes()),
    }


def _name(key: dict) -> str:
    """Of a cache's folder: whatever its answers depend on changes it."""
    return _sha(json.dumps(key, sort_keys=True).encode())


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# -- shards on disk -------------------------------------------------------------------------------


def _write(path: Path, name: str, tensors: dict, about: dict, shards_left: int) -> None:
    """Beside, flushed, renamed.

    about: what the shard says of itself. OSError with what to do when the disk is too small for
    this shard and those to come.
    """
    metadata = {"cache": name}
    metadata |= {key: json.dumps(value) for key, value in about.items()}
    # Over the metadata as well: a shard that was renamed to another number is found out.
    metadata["sha256"] = _content_hash(tensors, metadata)
    content = save(tensors, metadata)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    # all shards are about as large: better stop at the first one than after hours
    needed = len(content) * shards_left
    try:
        free = disk_usage(path.parent).free
        if free < needed:
            raise OSError(28, f"{free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed")
        with open(fresh, "wb") as file:
            file.write(content)
            # on the disk before the new name: a power cut leaves a whole shard or none
            file.flush()
            os.fsync(file.fileno())
        with suppress(PermissionError):  # Windows: another process reads the same whole shard
            fresh.replace(path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the teacher cache could not write {path.name} ({error.strerror}). Finished shards "
            f"are kept: free some space under {path.parent}, or move the cache with KD_RUNS, "
            "and run again",
        ) from error
    finally:
        # After a success there is nothing left to delete; after an error, half a shard.
        fresh.unlink(missing_ok=True)


def _verify(path: Path, name: str, number: int | None = None) -> tuple[dict | None, str]:
    """(what a shard says of itself, "") if it is whole, of this cache and in its own place.

    (None, what is wrong) if it is not; (None, "") where there is none.
    """
    if not path.exists():
        return None, ""
    try:
        with safe_open(path, "pt") as shard:
            metadata = shard.metadata() or {}
            if metadata.get("cache") != name:
                return None, "belongs to another cache"
            if number is not None and metadata.get("shard") != str(number):
                return None, "holds the answers to other rows of this cache"
            # the checksum is of everything but itself
            stated = metadata.pop("sha256")
            tensors = {key: shard.get_tensor(key) for key in shard.keys()}
            if _content_hash(tensors, metadata) != stated:
                return None, "was changed since it was written"
            return {"seconds": float(metadata["seconds"])}, ""
    # whatever half a file or a foreign one may lead to
    except (SafetensorError, OSError, KeyError, ValueError, UnicodeDecodeError):
        return None, "cannot be read (cut off?)"


def _content_hash(tensors: dict, metadata: dict) -> str:
    """Of the answers and of what is said about them."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    _digest_tensors(digest, tensors)
    return digest.hexdigest()


def _write_keys(folder: Path, keys: np.ndarray) -> None:
    # a name of this process's own: others may build the same cache now, with equal keys
    fresh = folder / f"keys.{os.getpid()}.new.npy"
    np.save(fresh, keys)
    fresh.replace(folder / "keys.npy")


# -- how good is it? ------------------------------------------------------------------------------


def _measure(folder: Path, shards: int, temperatures: list[float]) -> dict:
    """Bytes; of a language model also the share of the teacher's probability that lies in the lump,
    at each temperature.

    That share bounds what the lump can do to the loss's gradient: with respect to a token's logits
    the dense and the lumped gradient of T²·KL differ by at most 2·T·share in sum of absolute values
    (the kept words' parts are equal; in the lump, the teacher's probabilities are replaced by its
    sum, spread as the student spreads its own).
    """
    files = [_shard_path(folder, number) for number in range(shards)]
    size = sum(file.stat().st_size for file in files)
    if not temperatures:
        return {"bytes": size}
    # read back from the shards: those of earlier, interrupted runs count as well
    lump = torch.cat([_lump(file, temperatures) for file in files])
    tokens = len(lump)
    shares = {}
    if tokens:
        for i, temperature in enumerate(temperatures):
            share = lump[:, i]
            shares[str(temperature)] = {
                "mean": round(share.mean().item(), 5),
                "95 %": round(share.quantile(0.95).item(), 5),
            }
    return {
        "bytes": size,
        "tokens": tokens,
        "bytes_per_token": round(size / max(tokens, 1), 1),
        "lump": shares,
    }


def _lump(file: Path, temperatures: list[float]) -> torch.Tensor:
    """(tokens, temperatures): the share of the words that a shard does not keep."""
    with safe_open(file, "pt") as shard:
        logprobs = shard.get_tensor("logprobs").float()
        rest = shard.get_tensor("rest")
    kept = torch.stack([torch.logsumexp(logprobs / t, -1) for t in temperatures], -1)
    # e^rest / (e^rest + e^kept)
    return torch.sigmoid(rest - kept)


def audit(
    cache: TeacherCache,
    teacher,
    rows,
    tokenizer,
    *,
    student=None,
    sample: int = 32,
    seed: int = 0,
) -> dict:
    """Ask the teacher about a few random rows once more, compare with the cache, print and return
    what was found.

    A classifier: the largest difference relative to the largest logit. A language model: bytes a
    token, the largest difference of a kept log-probability, at each planned T the lump's share and
    the bound that it sets, and with a `student` the cosine between its gradients (with respect to
    its logits) under the cached and the dense KD loss.
    """
    rng = np.random.default_rng(seed)
    # in order, so that they are read from disk once through
    picked = np.sort(rng.choice(len(rows), min(sample, len(rows)), replace=False))
    sampled = rows.select(picked)
    places = cache.find(sampled)
    found = {"rows": len(picked), "bytes": cache.manifest["bytes"]}
    if cache.kind == "logits":
        live = asking.teacher_logits(teacher, sampled, asking.collator(tokenizer))
        # Not 0 even for the same teacher: other rows share its batch now, are padded otherwise, and
        # fp16 was rounded.
        difference = np.abs(live - cache.logits(places)).max() / np.abs(live).max()
        found["largest relative difference"] = float(difference)
    else:
        found["bytes per token"] = cache.manifest["bytes_per_token"]
        found |= asking.compare_topk(cache, teacher, sampled, places, student)
    for name, value in found.items():
        text = f"{value:,}"
        if isinstance(value, float):
            text = f"{value:.{5 if 'cosine' in name else 3}g}"
        print(f"{name:38s} {text}")
    return found
