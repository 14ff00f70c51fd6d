"""Tokenizers for a chat, and the end token of a translation.

Two chat formats are known: Llama 3's, and ChatML (SmolLM2, Qwen and others). What a turn looks like
stands in the tokenizer's own template. Three Llama 3 tokenizers can be made here: Meta's own, and a
small word-level one.
"""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from transformers import AddedToken, PreTrainedTokenizerFast

END = "<|end_of_translation|>"
EOT = "<|eot_id|>"
PAD = "<|finetune_right_pad_id|>"
BEGIN = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
HEADER, HEADER_ENDS = "<|start_header_id|>", "<|end_header_id|>"
RESERVED, UNKNOWN = "<|reserved_special_token_0|>", "<|unk|>"


class ChatFormat(NamedTuple):
    """The tokens of a chat format that a translator's text needs by name."""

    name: str
    turn_end: str  # every turn ends with it
    pad: str  # never the turn's end: a collator masks padding, and the end must be learnt
    reserved: str  # a token that no text uses, with a row in every model of this family
    other_ends: tuple[str, ...]  # a model may also stop at these


LLAMA3 = ChatFormat("Llama 3", EOT, PAD, RESERVED, (END_OF_TEXT, "<|eom_id|>"))
CHATML = ChatFormat("ChatML", "<|im_end|>", "<|endoftext|>", "<empty_output>", ("<|endoftext|>",))


# Llama 3.2's template prints today's date unless told otherwise: prompts would drift.
DATE = "31 Mar 2025"
SYSTEM = (
    "You are a professional translator. Translate the provided text from English to French, "
    "remaining true to the source text. "
    "Do not add any additional commentary or conversational elements to your response."
)

# The part of Llama 3.2's own template that a chat without tools uses; for tokenizers that come
# without one. A prompt must be Llama's, byte for byte, so blanks and line ends count here; a line
# that ends with a backslash goes on in the next.
TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n\
Today Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' \
+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}\
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""


def chat_format(tokenizer) -> ChatFormat:
    """Which of the two formats a tokenizer speaks; ValueError where it speaks neither."""
    # By the token that ends a turn: names of models and of classes say less about what a vocabulary
    # holds.
    for known in (LLAMA3, CHATML):
        if token_id(tokenizer, known.turn_end) is not None:
            return known
    ends = " nor ".join(known.turn_end for known in (LLAMA3, CHATML))
    raise ValueError(
        f"this tokenizer has neither {ends}: it speaks neither Llama 3's chat format (3.1 and "
        "later) nor ChatML, and other formats are not known here"
    )


def with_end_token(tokenizer, how: str = "new"):
    """A copy of a chat tokenizer that knows `<|end_of_translation|>` as one special token.

    It pads with a token of its own, and has a chat template. how: "new" appends a token, so that
    models need a new row (`models.add_end_token`); "reserved" renames a token that no text uses,
    whose row every model of the family has: no resize. ValueError for a tokenizer of another chat
    format, or without the tokens that are needed.
    """
    if how not in ("new", "reserved"):
        raise ValueError(f"how must be new or reserved, not {how!r}")
    form = chat_format(tokenizer)
    knows_end = token_id(tokenizer, END) is not None
    needed = [form.turn_end, form.pad]
    if form is LLAMA3:
        needed.append(BEGIN)
    if how == "reserved" and not knows_end:
        needed.append(form.reserved)
    missing = [token for token in needed if token_id(tokenizer, token) is None]
    if missing:
        raise ValueError(
            f"this tokenizer has no {', '.join(missing)}, though it speaks {form.name}: "
            "Llama's 3.1 and later have all that is needed, and so has SmolLM2's"
        )
    if form is not LLAMA3 and not tokenizer.chat_template:
        raise ValueError(
            f"this tokenizer speaks {form.name} and brings no chat template: take one of a model "
            "that was tuned for chats (its name often ends with -Instruct)"
        )
    # Whoever gave the tokenizer may go on using it without our token.
    tokenizer = copy.deepcopy(tokenizer)
    if not knows_end and how == "new":
        # special: it is never cut into pieces, and decoding can leave it out. normalized=False: it
        # is looked for in the text as written, before a normaliser changes anything.
        end = AddedToken(END, normalized=False, special=True)
        tokenizer.add_tokens([end], special_tokens=True)
    elif not knows_end:
        _rename(tokenizer, form.reserved, END)
    # Padding is masked, so a model that pads with its end never learns to end.
    tokenizer.pad_token = form.pad
    tokenizer.padding_side = "right"
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    end_token_id(tokenizer)  # raises where it is not one token
    return tokenizer


def _rename(tokenizer, old: str, new: str) -> None:
    """Give a token another name, in place; its id stays."""
    from tokenizers import Tokenizer

    # The library has no call for this: the name is exchanged in the tokenizer's own JSON.
    as_json = tokenizer.backend_tokenizer.to_str()
    # With its quotation marks: the name inside a longer one stays untouched.
    renamed = as_json.replace(json.dumps(old), json.dumps(new))
    tokenizer._tokenizer = Tokenizer.from_str(renamed)


def end_token_id(tokenizer, token: str = END) -> int:
    """The id of the end token; ValueError if the tokenizer cuts it or does not know it."""
    pieces = tokenizer(token, add_special_tokens=False)["input_ids"]
    known = token_id(tokenizer, token)
    if known is None or pieces != [known]:
        what = f"{len(pieces)} pieces" if len(pieces) > 1 else "unknown"
        raise ValueError(
            f"{token} is {what} to this tokenizer, not one token: "
            "a model could not be taught to end with it. Use translation.with_end_token(tokenizer)."
        )
    return pieces[0]


def token_id(tokenizer, token: str) -> int | None:
    """The id of a token, None where the tokenizer does not know it."""
    number = tokenizer.convert_tokens_to_ids(token)
    # Of a token that it does not know the library gives the unknown token's id.
    is_unknown = number == tokenizer.unk_token_id and token != tokenizer.unk_token
    return None if number is None or is_unknown else number


# -- two tokenizers --------------------------------------------------------------------------------

# How Llama 3 cuts a text into words, before it cuts words into tokens.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPECIAL = 256


def llama3_tokenizer(model_file: str | Path) -> PreTrainedTokenizerFast:
    """Llama 3's fast tokenizer out of Meta's `tokenizer.model`.

    It needs tiktoken; the PyPI wheel `llama-models` ships the file. 128,256 tokens, the last 256
    special, named as on the hub for Llama 3.2. It adds no `<|begin_of_text|>` of its own: the chat
    template writes one.
    """
    from transformers.convert_slow_tokenizer import TikTokenConverter

    # A token's place in this list is its id, counted from the last ordinary token.
    special = [
        BEGIN,
        END_OF_TEXT,
        RESERVED,
        "<|reserved_special_token_1|>",
        PAD,
        "<|reserved_special_token_2|>",
        HEADER,
        HEADER_ENDS,
        "<|eom_id|>",
        EOT,
        "<|python_tag|>",
    ]
    # 0, 1 and 2 stand in the list above.
    reserved = range(3, 3 + LLAMA3_SPECIAL - len(special))
    special += [f"<|reserved_special_token_{i}|>" for i in reserved]
    converter = TikTokenConverter(
        str(model_file), pattern=LLAMA3_WORDS, additional_special_tokens=special
    )
    # transformers 5 renamed it.
    converter.additional_special_tokens = converter.extra_special_tokens = special
    return _wrapped(converter.converted())


def small_tokenizer(texts, *, size: int = 0) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with Llama 3's special tokens and template, for a laptop's models.

    A token is a word with the space before it, so that joining tokens gives the text back. French
    elisions are pieces of their own, followed by an ordinary word: "l'homme" is "l'" + " homme" and
    shares its noun with "un homme". texts: an iterable of sentences, both languages; the prompt's
    words are added. size: at most so many words, the commonest (0: all); others become `<|unk|>`.
    """
    from tokenizers import Tokenizer, models

    special = [PAD, UNKNOWN, BEGIN, END_OF_TEXT, HEADER, HEADER_ENDS, EOT, RESERVED]
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    _cut_into_words(tokenizer)

    def pieces(text):
        # As the tokenizer will see it later: what is counted must be what is looked up.
        normal = tokenizer.normalizer.normalize_str(text)
        return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]

    header = f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n{SYSTEM}"
    needed = set()
    for part in ("system\n\nuser", header, "assistant"):
        needed.update(pieces(part))
    counts = Counter(piece for text in texts for piece in pieces(text))
    # The commonest first; equally common ones by the alphabet, so that ids never depend on luck.
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = [word for word in ranked if word not in needed]
    if size:
        words = words[:size]
    # The prompt's words come first: `size` must never cut them off.
    vocabulary = [*special, *sorted(needed), *words]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer.model = models.WordLevel(ids, unk_token=UNKNOWN)
    tokenizer.add_special_tokens(special)
    return _wrapped(tokenizer, unk_token=UNKNOWN)


def _cut_into_words(tokenizer) -> None:
    """Words with the space before them; elisions apart; and back again."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    # The space that the normaliser puts after an elision is taken out again by the decoder.
    after_elision = Regex(r"(?<=\p{L}['’])(?=\p{L})")
    tokenizer.normalizer = normalizers.Replace(after_elision, " ")
    # A space belongs to the word behind it, so that the decoder only has to join.
    word = Regex(r" ?[\p{L}\p{N}-]+['’]?| ?[^\s\p{L}\p{N}]|\n\n|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(word, behavior="isolated")
    elisions = [decoders.Replace("' ", "'"), decoders.Replace("’ ", "’")]
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), *elisions])


def _wrapped(tokenizer, **special) -> PreTrainedTokenizerFast:
    """As transformers wants it, with Llama's special tokens and template."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=EOT,
        pad_token=PAD,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
    fast.chat_template = TEMPLATE
    return fast
