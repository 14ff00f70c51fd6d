"""Europarl, English to French, for decoder-only models: pairs, the prompt, tokens and masks, batched generation.

    pairs, dropped = translation.load("Helsinki-NLP/europarl", "train", rows=20_000)
    tokenizer = translation.with_end_token(models.load_tokenizer("meta-llama/Llama-3.2-1B"))
    rows, report = translation.encode(pairs, tokenizer, max_length=256)

One training text is a chat of three turns, and only the last one is learnt:

    system: you are a professional translator …     user: Hello     assistant: Bonjour<|end_of_translation|><|eot_id|>
"""
import copy
import difflib
import hashlib
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from .engine import deadline
from .causal import logits_at
from .engine.device import at_work
from .chat import BEGIN, DATE, END, EOT, PAD, RESERVED, SYSTEM, end_token_id, llama3_tokenizer, small_tokenizer, token_id, with_end_token  # noqa: F401
from .engine import hub
from .engine.parquet import read_parquet

SPECIAL = re.compile(r"<\|[a-z0-9_]+\|>")
IGNORED = -100

# -- pairs -----------------------------------------------------------------------------------------------------------

class Pairs(NamedTuple):
    """`rows`: a `datasets.Dataset` with the columns en and fr. `dropped`: how many pairs each filter took, and `kept`."""

    rows: object
    dropped: dict[str, int]


def load(source: str | Path, split: str, *, rows: int = 0, min_words: int = 1, max_words: int = 100, ratio: float = 2.5,
         revision: str | None = None) -> Pairs:
    """A split of English–French pairs, cleaned. The same pairs whatever `rows` and seed of a run.

    source: a hub id ("Helsinki-NLP/europarl"), or a folder with `<split>-*.parquet`, or with such a folder under "en-fr";
    a local copy of a hub id is taken first (`hub.local_copy`). Each row is {"translation": {"en": …, "fr": …}}.
    Dropped, in this order: an empty side; text that spells a special token; a side outside min_words…max_words; a longer
    side of more than `ratio` times the words of the shorter; an English sentence that was there before; and pairs with a
    side that also occurs in a split held out more strictly (test before validation before train).
    A source with the one split "train" is split here, by a hash of the English sentence: 1 % validation, 1 % test; of one that has
    validation and no test, about half of the validation pairs are the test.
    rows: the first so many after a fixed shuffle (0: all). ValueError for a missing split or language, for English and French
    the wrong way round or one of them twice, for a damaged file, and when nothing is left; ConnectionError with advice when the hub cannot be reached.
    """
    import datasets
    if rows < 0:
        raise ValueError(f"rows must be a count, or 0 for all, not {rows}")
    texts = {name: _columns(part, f"{source}, split {name!r}") for name, part in _read(source, revision).items()}
    if list(texts) == ["train"]:
        texts = _split_by_hash(*texts["train"])
    elif set(texts) == {"train", "validation"}:
        texts["validation"], texts["test"] = _halves(*texts["validation"])
    if split not in texts:
        raise ValueError(f"{source} has no split {split!r}; it has {', '.join(texts)}")
    rank = ["test", "validation", "train"]
    stricter = [s for s in texts if s != split and (rank.index(s) if s in rank else -1) < (rank.index(split) if split in rank else -1)]
    held = [{_same(t) for s in stricter for t in texts[s][side]} for side in (0, 1)]
    kept, dropped, seen = {"en": [], "fr": []}, Counter(), set()
    for en, fr in zip(*texts[split]):
        words = sorted((len(en.split()), len(fr.split())))
        reason = ("empty" if not words[0] else "special token" if SPECIAL.search(en) or SPECIAL.search(fr) else
                  "length" if words[0] < min_words or words[1] > max_words else "ratio" if words[1] > ratio * words[0] else
                  "duplicate" if _same(en) in seen else "in another split" if _same(en) in held[0] or _same(fr) in held[1] else "")
        dropped[reason or "kept"] += 1
        if not reason:
            seen.add(_same(en))
            kept["en"].append(en.strip()), kept["fr"].append(fr.strip())
    if not kept["en"]:
        raise ValueError(f"{source}, split {split!r}: no pair is left ({dict(dropped) or 'it is empty'})")
    data = datasets.Dataset.from_dict(kept)
    return Pairs(data.shuffle(seed=0).select(range(rows)) if 0 < rows < len(data) else data, dict(dropped))


def _read(source: str | Path, revision: str | None) -> dict:
    """{split: Dataset} of everything that the source has."""
    import datasets
    datasets.disable_progress_bars()
    folder = hub.tables(hub.folder(f"{source}@{revision}" if revision else source, "en-fr"), "en-fr")
    files = {}
    for file in sorted(folder.glob("*.parquet")):
        files.setdefault(re.sub(r"(-\d+-of-\d+)?\.parquet$", "", file.name), []).append(str(file))
    if not files:
        raise ValueError(f"{folder} has no Parquet file")
    return {name: read_parquet(paths, f"{folder}, split {name!r}") for name, paths in files.items()}


def _columns(data, where: str) -> tuple[list[str], list[str]]:
    """The English and the French texts; ValueError unless these two languages are there, and the right way round."""
    if "translation" in data.column_names:
        data = data.flatten().rename_columns({f"translation.{k}": k for k in data.features["translation"]} if isinstance(
            data.features["translation"], dict) else {f"translation.{k}": k for k in data.features["translation"].languages})
    if missing := {"en", "fr"} - set(data.column_names):
        raise ValueError(f"{where}: no {' and no '.join(sorted(missing))}; English to French needs rows like "
                         f"{{'translation': {{'en': …, 'fr': …}}}}, this has {', '.join(data.column_names)}")
    whole = data.select_columns(["en", "fr"])[:]                                       # a Column is read row by row, a slice at once
    texts = tuple([t or "" for t in whole[side]] for side in ("en", "fr"))
    french = [_frenchness(side[:500]) for side in texts]
    if french[0] > 0 > french[1]:
        raise ValueError(f"{where}: the wrong language direction. Its `en` reads like French and its `fr` like English, for "
                         f"example {texts[0][0][:60]!r} → {texts[1][0][:60]!r}. Swap the two.")
    if max(french) < -20 or min(french) > 20:
        raise ValueError(f"{where}: `en` and `fr` both read like {'English' if french[0] < 0 else 'French'}, for example {texts[0][0][:60]!r} → {texts[1][0][:60]!r}")
    return texts


def _frenchness(texts: list[str]) -> int:
    """Above 0: more of French's commonest words than of English's."""
    count = Counter(word for text in texts for word in re.findall(r"\w+", text.lower()))
    return sum(count[w] for w in "le la les des et est une pour que dans".split()) - sum(
        count[w] for w in "the of and is to that this for it with".split())


def _same(text: str) -> str:
    return " ".join(text.casefold().split())


def _hash(text: str) -> int:
    return int(hashlib.sha256(_same(text).encode()).hexdigest()[:8], 16)


def _halves(english: list[str], french: list[str]) -> tuple[tuple[list, list], tuple[list, list]]:
    return tuple(tuple([t for t, en in zip(side, english) if _hash(en) % 2 == half] for side in (english, french)) for half in (0, 1))


def _split_by_hash(english: list[str], french: list[str]) -> dict[str, tuple[list, list]]:
    parts = {name: ([], []) for name in ("train", "validation", "test")}
    for en, fr in zip(english, french):
        share = _hash(en) % 100
        part = parts["validation" if share == 0 else "test" if share == 1 else "train"]
        part[0].append(en), part[1].append(fr)
    return parts


# -- the prompt and its tokens ---------------------------------------------------------------------------------------

def tokenizer(source: str | Path, end_token: str = "reserved"):
    """A Llama 3 tokenizer that knows the end token. source: hub id or folder, or "llama-models": Meta's own vocabulary out of that wheel."""
    if source != "llama-models":
        from .models import load_tokenizer
        return with_end_token(load_tokenizer(source), end_token)
    from importlib.util import find_spec
    wheel = find_spec("llama_models")
    if wheel is None:
        raise ModuleNotFoundError("tokenizer=llama-models reads Meta's vocabulary out of the PyPI wheel of that name: pip install llama-models, "
                                  "or name a hub id or a folder with a Llama 3 tokenizer")
    return with_end_token(llama3_tokenizer(Path(wheel.submodule_search_locations[0]) / "llama3" / "tokenizer.model"), end_token)


def marked(reference: str, text: str) -> str:
    """`text` with ⟦brackets⟧ around the words in which it differs from the reference; ⟦⟧ where words are missing."""
    ours, theirs = text.split(), reference.split()
    out = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        out += ours[c:d] if kind == "equal" else [f"⟦{' '.join(ours[c:d])}⟧"]
    return " ".join(out)


def prompt(tokenizer, source: str, *, shots: list[tuple[str, str]] = (), system: str = SYSTEM) -> str:
    """Everything up to the translation's first character. shots: worked (English, French) examples, as turns before it."""
    turns = [{"role": "system", "content": system}]
    for text in (source, *(t for pair in shots for t in pair)):
        if not text.strip():
            raise ValueError("there is nothing to translate: the text is empty")
        if found := SPECIAL.search(text):
            raise ValueError(f"the text spells a special token, {found[0]}: the model would read it as the end of its turn")
    for en, fr in shots:
        turns += [{"role": "user", "content": en}, {"role": "assistant", "content": fr}]
    turns.append({"role": "user", "content": source})
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, date_string=DATE)


def training_text(tokenizer, source: str, target: str) -> tuple[str, int]:
    """The text of one pair, and the character at which the part to learn begins (the target, the end token, `<|eot_id|>`)."""
    if not target.strip() or SPECIAL.search(target):
        raise ValueError(f"a target must be text without special tokens, not {target!r}")
    start = prompt(tokenizer, source)
    return start + target.strip() + END + EOT, len(start)


def encode(pairs, tokenizer, *, max_length: int = 256, keep: tuple[str, ...] = ()):
    """(rows, report): `input_ids` and `labels` of each pair, unpadded; labels are the ids, not shifted, -100 on the prompt.

    Prompt and target are told apart in one tokenisation of the whole text, by each token's place in it: two tokenisations
    put side by side can differ at the seam. A text longer than max_length loses the end of its *source*; the target and its
    end stay whole. A pair that does not fit even without source is dropped. report: counts of rows, `cut`, `dropped`, and
    of tokens, `prompt` and `learnt`. ValueError for an empty side and when every target is too long.
    """
    end_token_id(tokenizer)
    report = Counter(rows=0, cut=0, dropped=0, prompt=0, learnt=0)

    def one(batch):
        out = {"input_ids": [], "labels": [], **{k: [] for k in keep}}
        for en, fr in zip(batch["en"], batch["fr"]):
            if empty := [side for side, text in (("en, the source", en), ("fr, the target", fr)) if not (text or "").strip()]:
                raise ValueError(f"a pair has an empty side ({' and '.join(empty)}): {(en or fr or '')[:60]!r}; translation.load drops such pairs")
        texts = [training_text(tokenizer, en, fr) for en, fr in zip(batch["en"], batch["fr"])]
        tokens = tokenizer([t for t, _ in texts], add_special_tokens=False, return_offsets_mapping=True)
        for i, (ids, spans, (text, begin)) in enumerate(zip(tokens["input_ids"], tokens["offset_mapping"], texts)):
            first = next(j for j, (start, _) in enumerate(spans) if start >= begin)
            if spans[first - 1][1] > begin:
                raise ValueError(f"a token spans the end of the prompt and the target's start: {text[begin - 20:begin + 20]!r}")
            if (over := len(ids) - max_length) > 0:
                stop = next(j for j in range(first - 1, 0, -1) if ids[j] == eot)       # the user's turn ends here
                source = text.rindex(batch["en"][i].strip() + EOT, 0, begin)
                if over > stop - 1 - next(j for j, (_, end) in enumerate(spans) if end > source):       # at least one token of source stays
                    report["dropped"] += 1
                    continue
                ids, first = ids[:stop - over] + ids[stop:], first - over
                report["cut"] += 1
            out["input_ids"].append(ids), out["labels"].append([IGNORED] * first + ids[first:])
            report.update(rows=1, prompt=first, learnt=len(ids) - first)
            for k in keep:
                out[k].append(batch[k][i])
        return out

    eot = tokenizer.convert_tokens_to_ids(EOT)
    import datasets
    datasets.disable_progress_bars()                                                     # a bar a thousand rows is noise
    small = datasets.Sequence(datasets.Value("int32"))                                  # half the memory of Python's int64
    chunks = [datasets.Dataset.from_dict(one(pairs[i:i + 1000])) for i in range(0, len(pairs), 1000)]
    chunks = [c.cast_column("input_ids", small).cast_column("labels", small) for c in chunks if len(c)]
    rows = datasets.concatenate_datasets(chunks) if chunks else []
    if not len(rows):
        raise ValueError(f"no pair fits into max_length={max_length} tokens; the prompt alone takes "
                         f"{len(tokenizer(prompt(tokenizer, 'a'), add_special_tokens=False)['input_ids'])}")
    return rows, dict(report)


class Collator:
    """Pads a batch on the right to its longest row (to a multiple of 8): ids with the pad token, labels with -100.

    Padding is told apart by position, not by id. Columns of plain numbers (a row's place in a teacher cache) come along.
    """

    def __init__(self, tokenizer):
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in (tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids([EOT])):
            raise ValueError(f"the pad token must be one of its own, not {tokenizer.pad_token!r}: a model whose end is masked never learns to stop")
        self.pad = tokenizer.pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        width = -(-max(len(row["input_ids"]) for row in rows) // 8) * 8
        fill = {"input_ids": self.pad, "labels": IGNORED, "attention_mask": 0}
        rows = [{**row, "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        return {k: torch.tensor([row[k] + [fill[k]] * (width - len(row[k])) if k in fill else row[k] for row in rows]) for k in rows[0]}


def collator(tokenizer) -> Collator:
    return Collator(tokenizer)


# -- generation ------------------------------------------------------------------------------------------------------

class Translations(NamedTuple):
    """`texts`, in the order of the sentences, and a `report`.

    report: `hit_limit`, `stray` (special or unknown tokens before the end), `repeats` and `empty` are lists of the sentences'
    places; `tokens` (generated, with the end token) and `seconds` are sums.
    """

    texts: list[str]
    report: dict


@deadline.timed("translate")
def translate(model, tokenizer, sentences: list[str], *, batch_size: int = 32, max_new_tokens: int = 0, shots: list[tuple[str, str]] = (),
              beams: int = 1) -> Translations:
    """Translate English sentences: greedy (or with `beams`), batches of like length, padded in front of the sentence, keys and values cached.

    The model computes on the machine's GPU if it has one, and is then put back where it was.
    What all prompts begin with (most of a short sentence's prompt) is read once for all sentences, not once for each.
    A translation ends at the end token or where the turn ends. One that never ends is cut off at max_new_tokens (0: twice
    its batch's longest source and 32 more) and reported. ValueError for an empty sentence and one that leaves no room.
    """
    for name, count, least in (("batch_size", batch_size, 1), ("max_new_tokens", max_new_tokens, 0), ("beams", beams, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name} must be a whole number from {least} on, not {count!r}")
    with torch.inference_mode(), at_work(model):
        return _translate(model, tokenizer, sentences, batch_size, max_new_tokens, shots, beams)


def _translate(model, tokenizer, sentences, batch_size: int, max_new_tokens: int, shots, beams: int) -> Translations:
    stops = [end_token_id(tokenizer), *(i for t in (EOT, "<|end_of_text|>", "<|eom_id|>") if (i := token_id(tokenizer, t)) is not None)]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | {tokenizer.unk_token_id}
    prompts = [prompt(tokenizer, s, shots=shots) for s in sentences]
    asked = tokenizer(prompts, add_special_tokens=False)["input_ids"] if prompts else []
    overhead = len(tokenizer(prompt(tokenizer, "a", shots=shots), add_special_tokens=False)["input_ids"])
    window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    if too_long := [i for i, ids in enumerate(asked) if len(ids) >= window]:
        raise ValueError(f"sentence {too_long[0]} takes {len(asked[too_long[0]])} tokens with its prompt, the model reads {window}")
    texts, report = [""] * len(asked), {"hit_limit": [], "stray": [], "repeats": [], "empty": [], "tokens": 0, "seconds": 0.0}
    was_training, began = model.training, time.perf_counter()
    model.eval()
    order = sorted(range(len(asked)), key=lambda i: -len(asked[i]))             # the longest first: memory runs out at once or never
    shared, cache_for = _common_beginning(model, asked) if len(asked) > 1 and beams == 1 else (0, lambda count: None)
    for start in range(0, len(order), batch_size):
        picked = order[start:start + batch_size]
        width = len(asked[picked[0]])
        pads = [width - len(asked[i]) for i in picked]
        ids = torch.tensor([asked[i][:shared] + [tokenizer.pad_token_id] * n + asked[i][shared:] for i, n in zip(picked, pads)], device=model.device)
        mask = torch.tensor([[1] * shared + [0] * n + [1] * (width - shared - n) for n in pads], device=model.device)
        limit = min(max_new_tokens or 2 * (width - overhead) + 32, window - width)
        # spelt out, because a checkpoint's own generation settings (Llama's sample) would fill in what is not
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=limit, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id,
                             use_cache=True, num_beams=beams, do_sample=False, temperature=1.0, top_p=1.0, top_k=50, repetition_penalty=1.0,
                             past_key_values=cache_for(len(picked)))
        for i, new in zip(picked, out[:, width:].tolist()):
            end = next((j for j, token in enumerate(new) if token in stops), None)
            said = new[:end]
            # decoded as written: "cleaning up" would glue French question marks to their words
            texts[i] = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
            found = {"hit_limit": end is None, "stray": any(t in special for t in said), "repeats": _repeats(said), "empty": not texts[i]}
            for name in (name for name, yes in found.items() if yes):
                report[name].append(i)
            report["tokens"] += len(said) + (end is not None)
    model.train(was_training)
    for name in ("hit_limit", "stray", "repeats", "empty"):
        report[name].sort()
    report["seconds"] = round(time.perf_counter() - began, 3)
    return Translations(texts, report)


def _common_beginning(model, prompts: list[list[int]]):
    """(tokens, cache_for): how many tokens all prompts begin with, and a function that gives a batch its copy of their keys and values."""
    shared = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)    # generation goes on from at least one token
    if not shared:
        return 0, lambda count: None
    read = model(input_ids=torch.tensor([prompts[0][:shared]], device=model.device), use_cache=True).past_key_values

    def cache_for(count: int):
        copied = copy.deepcopy(read)                                            # generation writes into its cache
        copied.batch_repeat_interleave(count)
        return copied
    return shared, cache_for


def _repeats(ids: list[int], times: int = 4, longest: int = 8) -> bool:
    """Does a stretch of 1…longest tokens stand `times` times in a row?"""
    for n in range(1, longest + 1):
        run = 0
        for i in range(n, len(ids)):
            run = run + 1 if ids[i] == ids[i - n] else 0
            if run >= n * (times - 1):
                return True
    return False


def end_probability(model, tokenizer, rows, *, batch_size: int = 64) -> float:
    """The probability of `<|end_of_translation|>` where a reference translation ends, mean over `rows` (of `encode`).

    It tells how well an end is learnt before a single text is generated; greedy decoding stops where it is the largest.
    The model computes on the machine's GPU if it has one.
    """
    with torch.inference_mode(), at_work(model):
        return _end_probability(model, tokenizer, rows, batch_size)


def _end_probability(model, tokenizer, rows, batch_size: int) -> float:
    end, collate, sums = end_token_id(tokenizer), collator(tokenizer), []
    was_training = model.training
    model.eval()
    for start in range(0, len(rows), batch_size):
        batch = {k: v.to(model.device) for k, v in collate([rows[i] for i in range(start, min(start + batch_size, len(rows)))]).items()}
        keep = torch.zeros_like(batch["labels"], dtype=torch.bool)
        keep[:, :-1] = batch["labels"][:, 1:] == end                                     # position i predicts token i + 1
        sums.append(logits_at(model, batch, keep).float().softmax(-1)[:, end])
    model.train(was_training)
    found = torch.cat(sums) if sums else torch.zeros(0)
    if not len(found):
        raise ValueError(f"no row learns {END}: encode the pairs with a tokenizer that knows it (with_end_token)")
    return found.mean().item()
