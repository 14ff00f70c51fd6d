"""Pairs of English and French sentences: read from Parquet, cleaned, and split.

The same pairs come out whatever the number of rows asked for and the seed of a run.
"""

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from . import hub
from .parquet import read_parquet, sample

SPECIAL = re.compile(r"<\|[a-z0-9_]+\|>")  # how a chat template spells its special tokens
# Held out more strictly from left to right: a sentence of the test may be in no other split.
STRICTNESS = ["test", "validation", "train"]
FRENCH_WORDS = "le la les des et est une pour que dans".split()
ENGLISH_WORDS = "the of and is to that this for it with".split()
SURE = 20  # so many more words of one language than of the other leave no doubt


class Pairs(NamedTuple):
    """`rows`: a `datasets.Dataset` with the columns en and fr.

    `dropped`: how many pairs each filter took, and `kept`.
    """

    rows: object
    dropped: dict[str, int]


class Texts(NamedTuple):
    """The English and the French side of some pairs, in the same order."""

    english: list[str]
    french: list[str]


def load(
    source: str | Path,
    split: str,
    *,
    rows: int = 0,
    max_words: int = 100,
    ratio: float = 2.5,
    among: list[int] | None = None,
) -> Pairs:
    """A split of English–French pairs, cleaned.

    source: a hub id ("Helsinki-NLP/europarl", perhaps with @REVISION), or a folder with
        `<split>-*.parquet`, or with such a folder under "en-fr"; a local copy of a hub id is taken
        first. Each row is {"translation": {"en": …, "fr": …}}.
    rows: the first so many after a fixed shuffle (0: all).
    among: only pairs with these keys (`pair_keys`), in this order: the same pairs from a sample, a
    mirror or the whole corpus.
    max_words, ratio: see `_reason_to_drop`. Sentences that also occur in a split held
        out more strictly are dropped, too.
    ValueError for a missing split or language, for fewer wanted pairs than rows, for English and
    French the wrong way round or one of them twice, for a damaged file, and when nothing is left;
    ConnectionError with advice when the hub cannot be reached.
    """
    import datasets

    if rows < 0:
        raise ValueError(f"rows must be a count, or 0 for all, not {rows}")
    texts = _with_all_splits(_read(source))
    if split not in texts:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(texts)}")
    kept, dropped = _clean(texts, split, max_words, ratio)
    if not kept.english:
        raise ValueError(f"{source}, split {split!r}: no pair is left ({dropped or 'it is empty'})")
    data = datasets.Dataset.from_dict({"en": kept.english, "fr": kept.french})
    if among is not None:
        return Pairs(_only(data, among, rows, f"{source}, split {split!r}"), dropped)
    return Pairs(sample(data, rows), dropped)


def _only(data, keys: list[int], rows: int, where: str):
    """The pairs with these keys, in the keys' order; the first `rows` of them (0: all)."""
    place = {key: i for i, key in enumerate(pair_keys(data))}
    picked = [place[key] for key in keys if key in place]
    needed = max(rows, 1)
    if len(picked) < needed:
        raise ValueError(
            f"{where}: only {len(picked):,} of the {len(keys):,} wanted pairs are among its "
            f"{len(data):,}, {needed:,} are needed: another edition of the corpus, or a smaller "
            "max_words?"
        )
    return data.select(picked[:rows] if rows else picked)


def pair_keys(data) -> list[int]:
    """The key of each pair, in order: 64 bits of a SHA-256 of both texts."""
    texts = (f"{english}\n{french}" for english, french in zip(data["en"], data["fr"]))
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    return [int.from_bytes(digest[:8], "little") for digest in digests]


# -- cleaning ------------------------------------------------------------------------------------


def _clean(
    texts: dict[str, Texts], split: str, max_words: int, ratio: float
) -> tuple[Texts, dict[str, int]]:
    """The pairs of a split that are kept, and how many were dropped for which reason."""
    stricter = [other for other in texts if _strictness(other) < _strictness(split)]
    # Either side is enough: a test sentence that was seen with another translation was seen.
    held_out_english = {_plain(text) for other in stricter for text in texts[other].english}
    held_out_french = {_plain(text) for other in stricter for text in texts[other].french}
    kept, reasons, seen = Texts([], []), Counter(), set()
    for english, french in zip(*texts[split]):
        reason = _reason_to_drop(english, french, max_words, ratio)
        # By the English alone: the same source twice, with two translations, would count twice in a
        # mean.
        if not reason and _plain(english) in seen:
            reason = "duplicate"
        is_held_out = _plain(english) in held_out_english or _plain(french) in held_out_french
        if not reason and is_held_out:
            reason = "in another split"
        reasons[reason or "kept"] += 1
        if not reason:
            seen.add(_plain(english))
            kept.english.append(english.strip())
            kept.french.append(french.strip())
    return kept, dict(reasons)


def _strictness(split: str) -> int:
    return STRICTNESS.index(split) if split in STRICTNESS else -1


def _reason_to_drop(english: str, french: str, max_words: int, ratio: float) -> str:
    """Why a pair is no good, looked at alone; "" where it is good.

    An empty side; text that spells a special token; a side of more than `max_words`; a longer side
    of more than `ratio` times the words of the shorter.
    """
    shorter, longer = sorted((len(english.split()), len(french.split())))
    if not shorter:
        return "empty"
    if SPECIAL.search(english) or SPECIAL.search(french):
        return "special token"
    if longer > max_words:
        return "length"
    if longer > ratio * shorter:
        return "ratio"
    return ""


def _plain(text: str) -> str:
    """What two spellings of the same sentence share: capitals and spaces do not count."""
    return " ".join(text.casefold().split())


# -- reading -------------------------------------------------------------------------------------


def _read(source: str | Path) -> dict[str, Texts]:
    """{split: its texts} of everything that the source has."""
    import datasets

    datasets.disable_progress_bars()
    folder = hub.tables(hub.folder(source, "en-fr"), "en-fr")
    files = {}
    for file in sorted(folder.glob("*.parquet")):
        split = re.sub(r"(-\d+-of-\d+)?\.parquet$", "", file.name)
        files.setdefault(split, []).append(str(file))
    if not files:
        raise ValueError(f"{folder} has no Parquet file")
    texts = {}
    for split, parts in files.items():
        data = read_parquet(parts, f"{folder}, split {split!r}")
        texts[split] = _columns(data, f"{source}, split {split!r}")
    return texts


def _columns(data, where: str) -> Texts:
    """The English and the French texts.

    ValueError unless these two languages are there, and the right way round.
    """
    if "translation" in data.column_names:
        feature = data.features["translation"]
        languages = feature if isinstance(feature, dict) else feature.languages
        names = {f"translation.{language}": language for language in languages}
        data = data.flatten().rename_columns(names)
    missing = {"en", "fr"} - set(data.column_names)
    if missing:
        raise ValueError(
            f"{where}: no {' and no '.join(sorted(missing))}; English to French needs rows like "
            f"{{'translation': {{'en': …, 'fr': …}}}}, this has {', '.join(data.column_names)}"
        )
    whole = data.select_columns(["en", "fr"])[:]  # a Column is read row by row, a slice at once
    texts = Texts(*([text or "" for text in whole[side]] for side in ("en", "fr")))
    _check_languages(texts, where)
    return texts


def _check_languages(texts: Texts, where: str) -> None:
    # 500 sentences are enough to tell two languages apart by ten words each.
    of_english, of_french = (_frenchness(side[:500]) for side in texts)
    example = (
        f"for example {texts.english[0][:60]!r} → {texts.french[0][:60]!r}" if texts.english else ""
    )
    if of_english > 0 > of_french:
        raise ValueError(
            f"{where}: the wrong language direction. Its `en` reads like French and its `fr` like "
            f"English, {example}. Swap the two."
        )
    if max(of_english, of_french) < -SURE or min(of_english, of_french) > SURE:
        language = "English" if of_english < 0 else "French"
        raise ValueError(f"{where}: `en` and `fr` both read like {language}, {example}")


def _frenchness(texts: list[str]) -> int:
    """Above 0: more of French's commonest words than of English's."""
    count = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    french = sum(count[word] for word in FRENCH_WORDS)
    return french - sum(count[word] for word in ENGLISH_WORDS)


# -- splitting -----------------------------------------------------------------------------------


def _with_all_splits(texts: dict[str, Texts]) -> dict[str, Texts]:
    """A source with the one split "train" is split by a hash of the English sentence.

    1 % become the validation, 1 % the test. Of a source that has validation and no test, about half
    of the validation pairs become the test.
    """
    # By hash and not by place: a sentence keeps its split when rows are added, dropped or sorted.
    if list(texts) == ["train"]:
        return _split_by_hash(texts["train"], ["validation", "test", *98 * ["train"]])
    if set(texts) == {"train", "validation"}:
        return texts | _split_by_hash(texts["validation"], ["validation", "test"])
    return texts


def _hash(text: str) -> int:
    # Not Python's own hash, which is another one in each process.
    return int(hashlib.sha256(_plain(text).encode()).hexdigest()[:8], 16)


def _split_by_hash(texts: Texts, lots: list[str]) -> dict[str, Texts]:
    """Each sentence draws one of the `lots`, the names of splits, with its hash."""
    parts = {name: Texts([], []) for name in reversed(STRICTNESS) if name in lots}
    for english, french in zip(*texts):
        part = parts[lots[_hash(english) % len(lots)]]
        part.english.append(english)
        part.french.append(french)
    return parts
