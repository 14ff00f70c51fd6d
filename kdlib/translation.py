"""English to French with a decoder-only model: the prompt, tokens and masks, translating.

    pairs, dropped = translation.load("Helsinki-NLP/europarl", "train", rows=20_000)
    tokenizer = translation.with_end_token(models.load_tokenizer("meta-llama/Llama-3.2-1B"))
    rows, report = translation.encode(pairs, tokenizer, max_length=256)

One training text is a chat of three turns, and only the last one is learnt:

    system: you are a professional translator …
    user: Hello
    assistant: Bonjour<|end_of_translation|><|eot_id|>

How the turns are written is the tokenizer's own template's business (Llama 3's, or ChatML).
"""

import difflib
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import TrainerCallback

from .causal import logits_at
from .chat import (  # noqa: F401  (a notebook names them translation.…)
    BEGIN,
    DATE,
    END,
    EOT,
    PAD,
    RESERVED,
    SYSTEM,
    chat_format,
    end_token_id,
    llama3_tokenizer,
    small_tokenizer,
    token_id,
    with_end_token,
)
from .engine import deadline
from .engine.device import at_work, evaluating
from .engine.generate import generate, repeats
from .engine.pairs import SPECIAL, load, pair_keys  # noqa: F401  (a notebook names them so)
from .losses import IGNORED

PAIRS_AT_A_TIME = 1000  # tokenised together
UNLIMITED = 1 << 30  # the window of a model that names none


def tokenizer(source: str | Path, end_token: str = "reserved"):
    """A Llama 3 tokenizer that knows the end token.

    source: hub id or folder, or "llama-models": Meta's own vocabulary out of that wheel.
    """
    if source != "llama-models":
        from .models import load_tokenizer

        return with_end_token(load_tokenizer(source), end_token)
    from importlib.util import find_spec

    wheel = find_spec("llama_models")
    if wheel is None:
        raise ModuleNotFoundError(
            "tokenizer=llama-models reads Meta's vocabulary out of the PyPI wheel of that name: "
            "pip install llama-models, or name a hub id or a folder with a Llama 3 tokenizer"
        )
    model_file = Path(wheel.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    return with_end_token(llama3_tokenizer(model_file), end_token)


# -- the prompt and its tokens -------------------------------------------------------------------


def prompt(
    tokenizer, source: str, *, shots: list[tuple[str, str]] = (), system: str = SYSTEM
) -> str:
    """Everything up to the translation's first character.

    shots: worked (English, French) examples, as turns before it. system: what the first turn says.
    It may be empty: a fine-tuned translator needs no instruction, and each token of one is paid for
    in every row. The turn itself stays, or the template would fill in a text of its own.
    """
    # The French of worked examples too: any of them could end the turn early.
    for text in (source, *(side for pair in shots for side in pair)):
        _refuse_bad_source(text)
    turns = [{"role": "system", "content": system}]
    for english, french in shots:
        turns.append({"role": "user", "content": english})
        turns.append({"role": "assistant", "content": french})
    turns.append({"role": "user", "content": source})
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, date_string=DATE
    )


def _refuse_bad_source(text: str) -> None:
    if not text.strip():
        raise ValueError("there is nothing to translate: the text is empty")
    special = SPECIAL.search(text)
    if special:
        raise ValueError(
            f"the text spells a special token, {special[0]}: "
            "the model would read it as the end of its turn"
        )


def training_text(tokenizer, source: str, target: str, *, system: str = SYSTEM) -> tuple[str, int]:
    """The text of one pair, and the character at which the part to learn begins.

    That part is the target, the end token and the token that ends a turn.
    """
    if not target.strip() or SPECIAL.search(target):
        raise ValueError(f"a target must be text without special tokens, not {target!r}")
    start = prompt(tokenizer, source, system=system)
    # Two ends are learnt: ours, which no pretrained model knows, and the one with which every turn
    # of this chat format ends. Generation may stop at either.
    return start + target.strip() + END + chat_format(tokenizer).turn_end, len(start)


def encode(
    pairs,
    tokenizer,
    *,
    max_length: int = 256,
    keep: tuple[str, ...] = (),
    system: str = SYSTEM,
):
    """(rows, report): `input_ids` and `labels` of each pair, unpadded.

    Labels are the ids, not shifted, -100 on the prompt. Prompt and target are told apart in one
    tokenisation of the whole text, by each token's place in it: two tokenisations put side by side
    can differ at the seam. A text longer than max_length loses the end of its *source*; the target
    and its end stay whole. A pair that does not fit even without source is dropped.
    keep: columns of `pairs` that come along. system: see `prompt`.
    report: counts of rows, `cut`, `dropped`, and of tokens, `prompt` and `learnt`.
    ValueError for an empty side and when every target is too long.
    """
    import datasets

    datasets.disable_progress_bars()  # a bar a thousand rows is noise
    end_token_id(tokenizer)
    report = Counter(rows=0, cut=0, dropped=0, prompt=0, learnt=0)
    int32 = datasets.Sequence(datasets.Value("int32"))  # half the memory of Python's int64
    parts = []
    for start in range(0, len(pairs), PAIRS_AT_A_TIME):
        batch = pairs[start : start + PAIRS_AT_A_TIME]
        texts = _training_texts(batch, tokenizer, system)
        columns = _encode(batch, texts, tokenizer, max_length, keep, report)
        part = datasets.Dataset.from_dict(columns)
        if len(part):
            parts.append(part.cast_column("input_ids", int32).cast_column("labels", int32))
    if not parts:
        shortest = _count_tokens(tokenizer, prompt(tokenizer, "a", system=system))
        raise ValueError(
            f"no pair fits into max_length={max_length} tokens; the prompt alone takes {shortest}"
        )
    return datasets.concatenate_datasets(parts), dict(report)


def _count_tokens(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _training_texts(batch: dict, tokenizer, system: str) -> list[tuple[str, int]]:
    pairs = list(zip(batch["en"], batch["fr"]))
    for english, french in pairs:
        _refuse_empty_side(english, french)
    return [training_text(tokenizer, *pair, system=system) for pair in pairs]


def _encode(
    batch: dict,
    texts: list[tuple[str, int]],
    tokenizer,
    max_length: int,
    keep: tuple[str, ...],
    report: Counter,
) -> dict[str, list]:
    """Columns of the pairs that fit; `report` counts them. texts: of `training_text`."""
    columns = {"input_ids": [], "labels": [], **{name: [] for name in keep}}
    turn_end = chat_format(tokenizer).turn_end
    # add_special_tokens=False: the template has written the beginning already, and would get a
    # second one. Offsets are each token's (first, last + 1) character in the text.
    tokens = tokenizer(
        [text for text, _ in texts], add_special_tokens=False, return_offsets_mapping=True
    )
    for i, (text, begin) in enumerate(texts):
        ids, spans = tokens["input_ids"][i], tokens["offset_mapping"][i]
        first = _first_target_token(spans, text, begin)
        tokens_over = len(ids) - max_length
        if tokens_over > 0:
            source = batch["en"][i].strip() + turn_end
            stop = _end_of_source(tokenizer.convert_tokens_to_ids(turn_end), ids, first)
            if tokens_over > stop - 1 - _first_source_token(spans, text, source, begin):
                report["dropped"] += 1  # not even one token of the source would stay
                continue
            # The end of the source goes, right before its turn's end; the turn itself stays closed.
            ids = ids[: stop - tokens_over] + ids[stop:]
            # What was cut stood before the target, so the target begins so much earlier.
            first -= tokens_over
            report["cut"] += 1
        columns["input_ids"].append(ids)
        # As long as the ids and not shifted: `causal` shifts.
        columns["labels"].append([IGNORED] * first + ids[first:])
        report.update(rows=1, prompt=first, learnt=len(ids) - first)
        for name in keep:
            columns[name].append(batch[name][i])
    return columns


def _refuse_empty_side(english: str, french: str) -> None:
    sides = {"en, the source": english, "fr, the target": french}
    empty = [side for side, text in sides.items() if not (text or "").strip()]
    if empty:
        raise ValueError(
            f"a pair has an empty side ({' and '.join(empty)}): "
            f"{(english or french or '')[:60]!r}; translation.load drops such pairs"
        )


def _first_target_token(spans: list[tuple[int, int]], text: str, begin: int) -> int:
    """The first token of the part that is learnt. ValueError when it reaches into the prompt."""
    first = next(i for i, (start, _) in enumerate(spans) if start >= begin)
    # The token before may end in the target: it would be masked, and its letters never learnt.
    if spans[first - 1][1] > begin:
        raise ValueError(
            "a token spans the end of the prompt and the target's start: "
            f"{text[begin - 20 : begin + 20]!r}"
        )
    return first


def _end_of_source(turn_end: int, ids: list[int], first: int) -> int:
    """The place of the token that ends the user's turn: the last `turn_end` before the target."""
    return next(i for i in range(first - 1, 0, -1) if ids[i] == turn_end)


def _first_source_token(spans: list[tuple[int, int]], text: str, source: str, begin: int) -> int:
    """source: with the token that ends its turn."""
    # rindex: a short source may also stand in the system text, further left.
    character = text.rindex(source, 0, begin)
    return next(i for i, (_, end) in enumerate(spans) if end > character)


class Collator:
    """Pads a batch on the right to its longest row, rounded up to a multiple of 8.

    Ids get the pad token, labels -100. Padding is told apart by position, not by id. Columns of
    plain numbers (a row's place in a teacher cache) come along.
    """

    def __init__(self, tokenizer):
        turn_end = chat_format(tokenizer).turn_end
        ends = (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(turn_end))
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
            raise ValueError(
                f"the pad token must be one of its own, not {tokenizer.pad_token!r}: "
                "a model whose end is masked never learns to stop"
            )
        self.pad = tokenizer.pad_token_id

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        width = -(-longest // 8) * 8  # rounded up
        # By place: a pad id inside a text would keep its label, and its attention.
        fill = {"input_ids": self.pad, "labels": IGNORED, "attention_mask": 0}
        rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
        batch = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name in fill:
                values = [one + [fill[name]] * (width - len(one)) for one in values]
            batch[name] = torch.tensor(values)  # (rows, width), or (rows,)
        return batch


def collator(tokenizer) -> Collator:
    return Collator(tokenizer)


# -- translating ---------------------------------------------------------------------------------


class Translations(NamedTuple):
    """`texts`, in the order of the sentences, and a `report`.

    report: `hit_limit`, `stray` (special or unknown tokens before the end), `repeats` and `empty`
    are lists of the sentences' places; `tokens` (generated, with the end token) and `seconds` are
    sums.
    """

    texts: list[str]
    report: dict


@deadline.timed("translate")
def translate(
    model,
    tokenizer,
    sentences: list[str],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 0,
    shots: list[tuple[str, str]] = (),
    beams: int = 1,
    system: str = SYSTEM,
) -> Translations:
    """Translate English sentences: greedy, or with `beams`.

    The model computes on the machine's GPU if it has one, and is then put back where it was. What
    all prompts begin with (most of a short sentence's prompt) is read once for all sentences.
    A translation ends at the end token or where the turn ends. One that never ends is cut off at
    max_new_tokens (0: twice its batch's longest source and 32 more) and reported.
    shots, system: see `prompt`. ValueError for an empty sentence and one that leaves no room.
    """
    least = {"batch_size": 1, "max_new_tokens": 0, "beams": 1}
    given = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "beams": beams}
    for name, count in given.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least[name]:
            raise ValueError(f"{name} must be a whole number from {least[name]} on, not {count!r}")

    began = time.perf_counter()
    turns = {"shots": shots, "system": system}
    prompts = [prompt(tokenizer, sentence, **turns) for sentence in sentences]
    asked = tokenizer(prompts, add_special_tokens=False)["input_ids"] if prompts else []
    window = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
    _refuse_too_long(asked, window)
    overhead = _count_tokens(tokenizer, prompt(tokenizer, "a", **turns))

    def limit(width: int) -> int:
        # A translation is seldom twice as long as its source: this cuts off what never ends. The
        # window holds prompt and answer together.
        return min(max_new_tokens or 2 * (width - overhead) + 32, window - width)

    stops = _stop_ids(tokenizer)
    pad = tokenizer.pad_token_id
    with torch.inference_mode(), at_work(model), evaluating(model):
        said = generate(
            model, asked, stops=stops, pad=pad, limit=limit, batch_size=batch_size, beams=beams
        )
    texts, report = _read_out(tokenizer, said, stops)
    report["seconds"] = round(time.perf_counter() - began, 3)
    return Translations(texts, report)


def _refuse_too_long(asked: list[list[int]], window: int) -> None:
    for i, ids in enumerate(asked):
        if len(ids) >= window:
            raise ValueError(
                f"sentence {i} takes {len(ids)} tokens with its prompt, the model reads {window}"
            )


def _stop_ids(tokenizer) -> list[int]:
    """The end token first, then whatever else ends a turn in this vocabulary."""
    form = chat_format(tokenizer)
    others = [token_id(tokenizer, token) for token in (form.turn_end, *form.other_ends)]
    return [end_token_id(tokenizer), *(one for one in others if one is not None)]


def _read_out(tokenizer, said: list[list[int]], stops: list[int]) -> tuple[list[str], dict]:
    """The texts up to the first stop, and what is odd about them."""
    added = tokenizer.added_tokens_decoder.items()
    # A hallucinated special token would vanish when the text is decoded: it is counted here.
    special = {i for i, token in added if token.special} | {tokenizer.unk_token_id}
    texts = []
    report = {name: [] for name in ("hit_limit", "stray", "repeats", "empty")} | {"tokens": 0}
    for i, ids in enumerate(said):
        end = next((place for place, token in enumerate(ids) if token in stops), None)
        # ids[:None] is all of them: a row without an end is read out to its last token.
        spoken = ids[:end]
        # decoded as written: "cleaning up" would glue French question marks to their words
        text = tokenizer.decode(
            spoken, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ).strip()
        texts.append(text)
        odd = {
            "hit_limit": end is None,
            "stray": any(token in special for token in spoken),
            "repeats": repeats(spoken),
            "empty": not text,
        }
        for name, is_so in odd.items():
            if is_so:
                report[name].append(i)
        report["tokens"] += len(spoken) + (end is not None)
    return texts, report


def end_probability(model, tokenizer, rows, *, batch_size: int = 64) -> float:
    """The probability of the end token where a reference translation ends, mean over `rows`.

    rows: of `encode`. It tells how well an end is learnt before a single text is generated; greedy
    decoding stops where it is the largest. The model computes on the machine's GPU if it has one.
    """
    end, collate = end_token_id(tokenizer), collator(tokenizer)
    probabilities = []
    with torch.inference_mode(), at_work(model), evaluating(model):
        for start in range(0, len(rows), batch_size):
            places = range(start, min(start + batch_size, len(rows)))
            batch = collate([rows[i] for i in places])
            keep = torch.zeros_like(batch["labels"], dtype=torch.bool)
            keep[:, :-1] = batch["labels"][:, 1:] == end  # position i predicts token i + 1
            logits = logits_at(model, batch, keep)
            # (tokens, vocab) → (tokens,)
            probabilities.append(logits.float().softmax(-1)[:, end])
    if not probabilities or not sum(map(len, probabilities)):
        raise ValueError(
            f"no row learns {END}: encode the pairs with a tokenizer that knows it (with_end_token)"
        )
    return torch.cat(probabilities).mean().item()


class EndWatch(TrainerCallback):
    """Writes `p_end`, the end's probability on `rows`, into the trainer's log on the way.

    In the log, a run that goes on from a checkpoint finds it again.
    """

    def __init__(self, tokenizer, rows):
        self.tokenizer = tokenizer
        self.rows = rows

    def on_step_end(self, args, state, control, model=None, **kw):
        if state.global_step in (1, 2, 3) or state.global_step % 5 == 0:
            p_end = end_probability(model, self.tokenizer, self.rows)
            state.log_history.append({"step": state.global_step, "p_end": p_end})


def marked(reference: str, text: str) -> str:
    """`text` with ⟦brackets⟧ around the words in which it differs from the reference.

    ⟦⟧ stands where words are missing.
    """
    ours, theirs = text.split(), reference.split()
    words = []
    # autojunk would drop the commonest words of a long text from the comparison.
    matcher = difflib.SequenceMatcher(None, theirs, ours, autojunk=False)
    for kind, _, _, start, end in matcher.get_opcodes():
        if kind == "equal":
            words += ours[start:end]
        else:
            words.append(f"⟦{' '.join(ours[start:end])}⟧")
    return " ".join(words)
