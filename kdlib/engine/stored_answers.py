"""A language model's answers in one small file: a teacher that ships without its weights.

    stored_answers.pack(cache, pairs, "answers.safetensors", topk=12, about={...})
    cache = StoredAnswers("answers.safetensors")     # used as a TeacherCache is
    trainer = DistillationTrainer(student, args, teacher_cache=cache, train_dataset=rows)

Rows are known by a hash of their tokens and labels (`teacher_cache.row_keys`). So another
tokenizer or prompt finds nothing, instead of the wrong answers. A second key, of the pair's texts,
finds the rows in a corpus (`translation.load(…, among=answers.pairs)`).

A token's k likeliest words take 3 bytes each: two for the id, one for the log-probability. The byte
counts in squares, -24·(code/255)²: fine steps near 0, where the probability is, and coarse ones for
words that hardly count. A probability of one half is off by 1.7 % at most. What the other words
weigh together (`rest`, see `teacher_cache`) takes two bytes for each planned temperature.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..losses import TopK
from ..paths import ROOT
from .asking import WIDE
from .teacher_cache import find_rows

LEAST_LOGPROB = -24.0  # nats: what is less likely is taken for this
CODES = 255
FORMAT = 1


def pack(
    cache,
    pairs: list[int],
    out: str | Path,
    *,
    topk: int,
    about: dict,
    targets: list[list[int]] | None = None,
) -> int:
    """Write the `topk` likeliest words of a teacher cache's tokens into one file; its bytes.

    cache: of a language model, with at least `topk` words a token. pairs: the keys of its rows'
    texts (`translation.pair_keys`), in the cache's order. about: what a reader should know of the
    teacher. It must hold `rows` and `seconds`. targets: each row's learnt tokens, where they are
    the teacher's own words and stand nowhere else.
    ValueError for more words than the cache keeps, and for ids that two bytes do not hold.
    """
    _check(cache, pairs, topk)
    tensors = _answers(cache, topk)
    tensors |= {"keys": cache.keys, "pairs": np.array(pairs, np.uint64)}
    if targets is not None:
        tensors["targets"] = np.concatenate([np.array(ids, np.uint16) for ids in targets])
        if len(tensors["targets"]) != len(tensors["ids"]):
            raise ValueError("the targets are not the tokens that the cache has answered")
    stated = {
        "format": FORMAT,
        "topk": topk,
        "temperatures": cache.manifest["key"]["temperatures"],
        "vocabulary": cache.manifest["vocabulary"],
        **about,
    }
    content = save(tensors, {"about": json.dumps(stated)})
    Path(out).write_bytes(content)
    return len(content)


def _check(cache, pairs: list[int], topk: int) -> None:
    kept = cache.manifest["key"]["topk"]
    if not 0 < topk <= kept:
        raise ValueError(f"the cache keeps {kept} words a token, {topk} are wanted")
    if cache.manifest["vocabulary"] > WIDE:
        raise ValueError(
            f"two bytes hold {WIDE:,} ids, the vocabulary has {cache.manifest['vocabulary']:,}"
        )
    if len(pairs) != len(cache):
        raise ValueError(f"{len(pairs):,} keys of pairs for {len(cache):,} answered rows")


def _answers(cache, topk: int) -> dict[str, np.ndarray]:
    """ids and codes (tokens, topk), rest (tokens, temperatures), tokens of each row (rows,)."""
    temperatures = cache.manifest["key"]["temperatures"]
    places = np.arange(len(cache))
    answers = [cache.topk(places, temperature) for temperature in temperatures]
    # the same at every temperature: only the rest differs
    ids, logprobs = answers[0].ids, answers[0].logprobs
    rests = [
        _with_dropped(answer.rest, logprobs[:, topk:], temperature)
        for answer, temperature in zip(answers, temperatures)
    ]
    tokens = [len(cache.topk([place], temperatures[0]).ids) for place in places]
    return {
        "ids": ids[:, :topk].numpy().astype(np.uint16),
        "codes": encode(logprobs[:, :topk].numpy()),
        "rest": torch.stack(rests, 1).numpy().astype(np.float16),
        "tokens": np.array(tokens, np.uint16),
    }


def _with_dropped(rest: torch.Tensor, dropped: torch.Tensor, temperature: float) -> torch.Tensor:
    """The rest at a temperature, once these words are no longer kept. dropped: (tokens, words)."""
    if not dropped.shape[1]:
        return rest
    return torch.logaddexp(rest, torch.logsumexp(dropped / temperature, -1))


def encode(logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities as bytes."""
    shares = np.clip(logprobs / LEAST_LOGPROB, 0.0, 1.0)
    return np.rint(CODES * np.sqrt(shares)).astype(np.uint8)


def decode(codes: np.ndarray) -> np.ndarray:
    """Bytes as log-probabilities, float32."""
    return np.float32(LEAST_LOGPROB) * (codes.astype(np.float32) / CODES) ** 2


class StoredAnswers:
    """An opened file. It answers as a `TeacherCache` of a language model does."""

    kind = "topk"
    classes = None

    def __init__(self, path: str | Path):
        self.path = Path(path) if Path(path).is_file() else ROOT / path
        try:
            with safe_open(self.path, "np") as file:
                self.about = json.loads((file.metadata() or {})["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"{path} holds no teacher's stored answers ({error}). The files that ship lie in "
                "data/teachers; take them from the repository again"
            ) from error
        if self.about["format"] != FORMAT:
            raise ValueError(
                f"{path} is of format {self.about['format']}, this kdlib reads {FORMAT}: "
                "take the file and kdlib from the same edition"
            )
        self.keys = tensors["keys"]
        self.pairs = tensors["pairs"].tolist()
        self.seconds = self.about["seconds"]
        self._ids, self._codes, self._rest = (tensors[name] for name in ("ids", "codes", "rest"))
        self._targets = tensors.get("targets")
        self._starts = np.concatenate([[0], np.cumsum(tensors["tokens"], dtype=np.int64)])
        size = self.path.stat().st_size
        self.manifest = {
            "vocabulary": self.about["vocabulary"],
            "key": {name: self.about[name] for name in ("topk", "temperatures")},
            "bytes": size,
            "bytes_per_token": round(size / len(self._ids), 1),
        }
        self._place = None

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self):
        return StoredAnswers, (self.path,)

    def __fingerprint__(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def find(self, rows) -> np.ndarray:
        """(rows,): where each of these encoded rows stands; ValueError when one is not known."""
        if self._place is None:
            self._place = {int(key): place for place, key in enumerate(self.keys)}
        return find_rows(self._place, rows, f"stored teacher {self.path.name}")

    def targets(self) -> list[list[int]]:
        """Each row's learnt tokens; ValueError where the file does not keep them."""
        if self._targets is None:
            raise ValueError(f"{self.path.name} keeps answers alone: its targets are the corpus'")
        ids = self._targets.tolist()
        return [ids[start:end] for start, end in zip(self._starts, self._starts[1:])]

    def topk(self, places, temperature: float) -> TopK:
        """The answers to the rows at `places`, one after the other: (tokens, k)."""
        planned = self.about["temperatures"]
        if float(temperature) not in planned:
            raise ValueError(
                f"temperature {temperature} is not among those that {self.path.name} was made for "
                f"({', '.join(map(str, planned))}); another one needs the teacher itself"
            )
        spans = [np.arange(*self._starts[place : place + 2]) for place in map(int, places)]
        tokens = np.concatenate([np.zeros(0, np.int64), *spans])
        return TopK(
            torch.from_numpy(self._ids[tokens].astype(np.int64)),
            torch.from_numpy(decode(self._codes[tokens])),
            torch.from_numpy(self._rest[tokens, planned.index(float(temperature))]).float(),
        )
