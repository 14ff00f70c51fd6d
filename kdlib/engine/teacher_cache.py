"""A teacher's outputs on disk: asked once, checked at every opening, shared by every run of a sweep.

    cache = teacher_cache.build(teacher, encoded_rows, tokenizer)                   # asks the teacher, or finds its answers
    trainer = DistillationTrainer(student, args, teacher_cache=cache, train_dataset=encoded_rows)

A cache belongs to one teacher (its weights), one tokenizer (its content), one list of tokenised rows and one dtype: the
folder's name is a hash of the four, so a changed one is another cache. It lies in shards of some rows each, every shard
written beside and renamed, with a checksum of its content: an interrupted pass goes on where it stopped, a shard that was
cut off or changed is asked for again, and processes that build side by side share the work without a lock.

Classification keeps exact logits. A language model's vocabulary is too wide for that (513 kB a token at 128,256 words);
there, `topk=k` keeps for each token that is predicted

    k ids and log-probabilities, largest first, and for each planned temperature T
    rest_T = log Σ exp(logprob_j / T) over the words that are *not* kept

From these the tempered distribution, with all other words as one lump, is right at every planned T, which the
log-probabilities alone do not give: logsumexp over the whole vocabulary at T is logaddexp(rest_T, logsumexp(kept / T)).
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

from . import asking as answers
from .device import at_work
from ..losses import TopK
from .provenance import versions
from ..paths import runs_root, write_json

FORMAT = 2                              # of what is kept: another number, another cache
SPEAK_EVERY = 20.0                      # seconds between two lines of progress


def build(teacher, rows, tokenizer, *, topk: int = 0, temperatures: tuple[float, ...] = (1.0, 2.0), dtype: str = "float32",
          batch_size: int = 64, shard_rows: int = 1024, root: str | Path | None = None) -> "TeacherCache":
    """The teacher's answers to `rows` (encoded, unpadded: a `datasets.Dataset`), from disk where they are, else asked for now.

    topk: 0 for a classifier; for a causal language model, how many words to keep of each position that `labels` does not
    mask (all, without labels). temperatures: those at which the lumped tail will be right. dtype: of a classifier's logits.
    root: default `teacher_cache/` beside the run folders. ValueError for arguments that make no sense, OSError when the
    disk is too small (seen with the first shard) or fills up later (finished shards stay and are used next time).
    """
    vocabulary = teacher.config.vocab_size
    if isinstance(topk, bool) or not isinstance(topk, int) or not 0 <= topk <= vocabulary:
        raise ValueError(f"topk must be a count up to the vocabulary's {vocabulary:,} words (0: a classifier's logits), not {topk!r}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be float32 or float16, not {dtype!r}")
    if any(not t > 0 for t in temperatures) or (topk and not temperatures):
        raise ValueError(f"temperatures must be numbers above 0, at least one, not {temperatures!r}")
    if not len(rows):
        raise ValueError("there are no rows to ask the teacher about")
    keys = row_keys(rows)
    key = {"format": FORMAT, "teacher": weights_hash(teacher), "tokenizer": tokenizer_hash(tokenizer), "rows": _sha(keys.tobytes()),
           "dtype": dtype, "shard_rows": shard_rows} | ({"topk": topk, "temperatures": sorted(map(float, temperatures))} if topk else {})
    name = _name(key)
    folder = Path(root or runs_root() / "teacher_cache").expanduser() / name
    folder.mkdir(parents=True, exist_ok=True)
    if topk:
        ask = lambda part: answers.topk_answers(teacher, part, topk, key["temperatures"], batch_size)
    else:
        ask = lambda part: {"logits": torch.from_numpy(answers.teacher_logits(teacher, part, answers.collator(tokenizer), batch_size)).to(
            getattr(torch, dtype))}
    shards = [range(i, min(i + shard_rows, len(rows))) for i in range(0, len(rows), shard_rows)]
    _write_keys(folder, keys)
    with at_work(teacher):                                      # moved once, not once a shard
        seconds = _fill(folder, name, rows, shards, ask)
    manifest = {"key": key, "kind": "topk" if topk else "logits", "rows": len(rows), "shards": len(shards), "vocabulary": vocabulary,
                "classes": None if topk else teacher.config.num_labels, "seconds": round(seconds, 2), "versions": versions()}
    write_json(folder / "manifest.json", manifest | _measure(folder, len(shards), key.get("temperatures", [])))
    return TeacherCache(folder)


def _fill(folder: Path, name: str, rows, shards: list[range], ask) -> float:
    """Every shard whole, in an order of this process's own: two that build at once meet different gaps. Seconds of asking."""
    order, spoke, seconds, asked = list(range(len(shards))), time.perf_counter(), 0.0, 0
    random.Random(os.getpid()).shuffle(order)
    for done, i in enumerate(order):
        path = folder / f"shard-{i:05d}.safetensors"
        about, trouble = _verify(path, name, i)
        if about is None:
            if trouble:
                print(f"teacher cache: {path.name} {trouble}; the teacher is asked again")
            began = time.perf_counter()
            said = ask(rows.select(shards[i]))
            about = {"seconds": round(time.perf_counter() - began, 3)}
            _write(path, name, said, {"shard": i} | about, len(shards) - done)
            asked += len(shards[i])
        seconds += about["seconds"]
        if time.perf_counter() - spoke > SPEAK_EVERY:
            spoke = time.perf_counter()
            print(f"teacher cache: {done + 1} of {len(shards)} shards", flush=True)
    told = f"{asked:,} of {len(rows):,} rows asked for" if asked else f"all {len(rows):,} rows were answered before"
    print(f"teacher cache {name}: {told}, {seconds:.1f} s of the teacher's time")
    return seconds


class TeacherCache:
    """An opened cache: every shard was verified. `seconds`: what the teacher took, in whatever run it was."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf8"))
            self.keys = np.load(self.folder / "keys.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder} holds no finished teacher cache ({error}); build it again") from error
        if _name(self.manifest["key"]) != self.folder.name:
            raise ValueError(f"{self.folder}/manifest.json was changed, or the folder renamed; build the cache again")
        if _sha(self.keys.tobytes()) != self.manifest["key"]["rows"]:
            raise ValueError(f"{self.folder}/keys.npy was changed; delete it and build the cache again")
        self.kind, self.seconds, self.classes = (self.manifest[k] for k in ("kind", "seconds", "classes"))
        self._place = None
        self._shards = []
        for i in range(self.manifest["shards"]):
            path = self.folder / f"shard-{i:05d}.safetensors"
            about, trouble = _verify(path, self.folder.name, i)
            if about is None:
                raise ValueError(f"{path} {trouble or 'is missing'}; build the cache again: only this shard is asked for")
            self._shards.append(safe_open(path, "pt"))                              # memory-mapped: read when asked for

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self):
        return TeacherCache, (self.folder,)                     # open files do not travel to another process (--nproc): it opens its own

    def __fingerprint__(self) -> str:
        return self.folder.name

    def check(self, *, teacher=None, tokenizer=None, rows=None) -> None:
        """ValueError that names what this cache does *not* belong to."""
        given = {"teacher": (teacher, weights_hash), "tokenizer": (tokenizer, tokenizer_hash),
                 "rows": (rows, lambda r: _sha(row_keys(r).tobytes()))}
        if others := [name for name, (thing, hashed) in given.items() if thing is not None and hashed(thing) != self.manifest["key"][name]]:
            raise ValueError(f"the cache {self.folder.name} was made with another {' and another '.join(others)}: build one for these")

    def find(self, rows) -> np.ndarray:
        """(rows,): where in the cache each of these encoded rows stands; ValueError when one of them was not asked about."""
        if self._place is None:
            self._place = {int(key): i for i, key in enumerate(self.keys)}
        places = [self._place.get(int(key), -1) for key in row_keys(rows)]
        if missing := places.count(-1):
            raise ValueError(f"{missing:,} of {len(places):,} rows are not among the {len(self):,} that the teacher cache {self.folder.name} "
                             "answers: another dataset, another tokenizer or another max_length. Build a cache for these rows.")
        return np.array(places)

    def logits(self, places=None) -> np.ndarray:
        """(rows, classes) float32: a classifier's answers to the rows at `places` (all, in order, without)."""
        if self.kind != "logits":
            raise ValueError(f"this cache keeps the {self.manifest['key']['topk']} likeliest words of a language model; ask for topk()")
        whole = np.concatenate([shard.get_tensor("logits").float().numpy() for shard in self._shards])
        return whole if places is None else whole[places]

    def attach(self, rows):
        """`rows` (a subset, in any order, of those that were asked about) with the answers in a column `teacher_logits`."""
        logits = self.logits(self.find(rows))
        columns = [c for c in rows.column_names if c != answers.TEACHER_LOGITS]
        return rows.select_columns(columns).add_column(answers.TEACHER_LOGITS, list(logits))

    def topk(self, places, temperature: float) -> TopK:
        """What the teacher said at the predicted tokens of the rows at `places`, one after the other: (tokens, k), see `losses.TopK`."""
        if self.kind != "topk":
            raise ValueError("this cache keeps a classifier's logits; ask for logits()")
        planned = self.manifest["key"]["temperatures"]
        if float(temperature) not in planned:
            raise ValueError(f"temperature {temperature} is not among those that this cache was built for ({', '.join(map(str, planned))}): "
                             "its tail would be wrong. Build one with temperatures=(…, this one).")
        size, parts = self.manifest["key"]["shard_rows"], []
        for place in map(int, places):
            shard = self._shards[place // size]
            start, end = shard.get_slice("offsets")[place % size:place % size + 2].tolist()
            parts.append([shard.get_slice(n)[start:end] if n in shard.keys() else None for n in ("ids", "high", "logprobs", "rest")])
        ids, high, logprobs, rest = ([p[i] for p in parts] for i in range(4))
        ids = answers.wide_ids(torch.cat(ids), None if high[0] is None else torch.cat(high))
        return TopK(ids, torch.cat(logprobs).float(), torch.cat(rest)[:, planned.index(float(temperature))])


# -- what a cache is known by ----------------------------------------------------------------------------------------

_HASHED = weakref.WeakKeyDictionary()                           # model → (version counters of its weights, hash)


def weights_hash(model) -> str:
    """Of all weights and buffers by name, dtype, shape and bits; remembered until a weight is written to."""
    state = model.state_dict()
    version = tuple((t.data_ptr(), t._version) for t in state.values())
    if _HASHED.get(model, (None,))[0] != version:
        digest = hashlib.sha256()
        for name, tensor in sorted(state.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        _HASHED[model] = version, digest.hexdigest()[:16]
    return _HASHED[model][1]


def tokenizer_hash(tokenizer) -> str:
    """Of its content: vocabulary, merges, normaliser, special tokens; not of the padding and truncation of its last call."""
    if getattr(tokenizer, "is_fast", False):
        content = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    else:
        content = tokenizer.get_vocab()
    return _sha(json.dumps([content, {k: str(v) for k, v in tokenizer.special_tokens_map.items()}], sort_keys=True).encode())


def row_keys(rows) -> np.ndarray:
    """(rows,) uint64: each tokenised row by its ids, segments and masked labels, 64 bits of a SHA-256."""
    columns = [rows[c] for c in ("input_ids", "token_type_ids") if c in rows.column_names]
    if "labels" in rows.column_names and len(rows) and isinstance(rows[0]["labels"], list):      # of a language model: they say what is predicted
        columns.append(rows["labels"])
    return np.array([int.from_bytes(hashlib.sha256(repr(row).encode()).digest()[:8], "little") for row in zip(*columns)], np.uint64)


def _name(key: dict) -> str:
    """Of a cache's folder: whatever its answers depend on changes it."""
    return _sha(json.dumps(key, sort_keys=True).encode())


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# -- shards on disk --------------------------------------------------------------------------------------------------

def _write(path: Path, name: str, said: dict, about: dict, shards_left: int) -> None:
    """Beside, flushed, renamed; OSError with what to do when the disk is too small for this shard and those to come."""
    told = {"cache": name, **{k: json.dumps(v) for k, v in about.items()}}
    content = save(said, told | {"sha256": _content_hash(said, told)})
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        if (free := disk_usage(path.parent).free) < len(content) * shards_left:
            raise OSError(28, f"{free / 1e6:.1f} MB are free, {len(content) * shards_left / 1e6:.1f} MB are needed")
        with open(fresh, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(PermissionError):                 # Windows: another process reads the same whole shard already
            fresh.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"the teacher cache could not write {path.name} ({error.strerror}). Finished shards are kept: free "
                      f"some space under {path.parent}, or move the cache with KD_RUNS, and run again") from error
    finally:
        fresh.unlink(missing_ok=True)


def _verify(path: Path, name: str, number: int | None = None) -> tuple[dict | None, str]:
    """(what a shard says of itself, "") if it is whole, of this cache and in its own place; (None, what is wrong), "" where there is none."""
    if not path.exists():
        return None, ""
    try:
        with safe_open(path, "pt") as shard:
            about = shard.metadata() or {}
            if about.get("cache") != name:
                return None, "belongs to another cache"
            if number is not None and about.get("shard") != str(number):
                return None, "holds the answers to other rows of this cache"
            told = {k: v for k, v in about.items() if k != "sha256"}
            if _content_hash({k: shard.get_tensor(k) for k in shard.keys()}, told) != about["sha256"]:
                return None, "was changed since it was written"
            return {"seconds": float(about["seconds"])}, ""
    except (SafetensorError, OSError, KeyError, ValueError, UnicodeDecodeError):
        return None, "cannot be read (cut off?)"


def _content_hash(tensors: dict, told: dict) -> str:
    """Of the answers and of what is said about them."""
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _write_keys(folder: Path, keys: np.ndarray) -> None:
    fresh = folder / f"keys.{os.getpid()}.new.npy"
    np.save(fresh, keys)
    fresh.replace(folder / "keys.npy")


# -- how good is it? -------------------------------------------------------------------------------------------------

def _measure(folder: Path, shards: int, temperatures: list[float]) -> dict:
    """Bytes; of a language model also the share of the teacher's probability that lies in the lump, at each temperature.

    That share bounds what the lump can do to the loss's gradient: with respect to a token's logits the dense and the
    lumped gradient of T²·KL differ by at most 2·T·share in sum of absolute values (the kept words' parts are equal; in
    the lump, the teacher's probabilities are replaced by its sum, spread as the student spreads its own).
    """
    files = [folder / f"shard-{i:05d}.safetensors" for i in range(shards)]
    found = {"bytes": sum(f.stat().st_size for f in files)}
    if not temperatures:
        return found
    lump = []
    for file in files:
        with safe_open(file, "pt") as shard:
            logprobs, rest = shard.get_tensor("logprobs").float(), shard.get_tensor("rest")
        kept = torch.stack([torch.logsumexp(logprobs / t, -1) for t in temperatures], -1)
        lump.append(torch.sigmoid(rest - kept))
    lump = torch.cat(lump)
    share = {str(t): {"mean": round(lump[:, i].mean().item(), 5), "95 %": round(lump[:, i].quantile(0.95).item(), 5)}
             for i, t in enumerate(temperatures)} if len(lump) else {}
    return found | {"tokens": len(lump), "bytes_per_token": round(found["bytes"] / max(len(lump), 1), 1), "lump": share}


def audit(cache: TeacherCache, teacher, rows, tokenizer, *, student=None, sample: int = 32, seed: int = 0) -> dict:
    """Ask the teacher about a few random rows once more, compare with the cache, print and return what was found.

    A classifier: the largest difference relative to the largest logit. A language model: bytes a token, the largest
    difference of a kept log-probability, at each planned T the lump's share and the bound that it sets, and with a
    `student` the cosine between its gradients (with respect to its logits) under the cached and the dense KD loss.
    """
    picked = np.sort(np.random.default_rng(seed).choice(len(rows), min(sample, len(rows)), replace=False))
    some, found = rows.select(picked), {"rows": len(picked), "bytes": cache.manifest["bytes"]}
    places = cache.find(some)
    if cache.kind == "logits":
        live = answers.teacher_logits(teacher, some, answers.collator(tokenizer))
        found["largest relative difference"] = float(np.abs(live - cache.logits(places)).max() / np.abs(live).max())
    else:
        found |= {"bytes per token": cache.manifest["bytes_per_token"], **answers.compare_topk(cache, teacher, some, places, student)}
    for name, value in found.items():
        print(f"{name:38s} {value:.{5 if 'cosine' in name else 3}g}" if isinstance(value, float) else f"{name:38s} {value:,}")
    return found
