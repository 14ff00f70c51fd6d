"""Tokenizers that speak Llama 3's chat format: Meta's own vocabulary, a small word-level one, and the end token of a translation."""
import copy
import json
from collections import Counter
from pathlib import Path

from transformers import AddedToken, PreTrainedTokenizerFast

END, EOT, PAD, BEGIN = "<|end_of_translation|>", "<|eot_id|>", "<|finetune_right_pad_id|>", "<|begin_of_text|>"
RESERVED, UNKNOWN = "<|reserved_special_token_0|>", "<|unk|>"
DATE = "31 Mar 2025"                    # Llama 3.2's template prints today's date unless told otherwise: prompts would drift
SYSTEM = ("You are a professional translator. Translate the provided text from English to French, remaining true to the source text. "
          "Do not add any additional commentary or conversational elements to your response.")

# the part of Llama 3.2's own template that a chat without tools uses; for tokenizers that come without one
TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: " + date_string + "\\n\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""


def with_end_token(tokenizer, how: str = "new"):
    """A copy of a Llama 3 tokenizer that knows `<|end_of_translation|>`, pads with a token of its own, and has a chat template.

    how: "new" appends a token, so that models need a new row (`models.add_end_token`); "reserved" renames
    `<|reserved_special_token_0|>`, whose row every Llama 3 has: no resize. Either way it is one token and a special one.
    Padding is never eos: a collator masks padding, so the model would never learn to stop.
    """
    if how not in ("new", "reserved"):
        raise ValueError(f"how must be new or reserved, not {how!r}")
    knows_end = token_id(tokenizer, END) is not None
    needed = [BEGIN, EOT, PAD] + ([RESERVED] if how == "reserved" and not knows_end else [])
    if missing := [t for t in needed if token_id(tokenizer, t) is None]:
        raise ValueError(f"this tokenizer has no {', '.join(missing)}: it is not one of Llama 3's (3.1 and later have all three)")
    tokenizer = copy.deepcopy(tokenizer)
    if not knows_end and how == "new":
        tokenizer.add_tokens([AddedToken(END, normalized=False, special=True)], special_tokens=True)
    elif not knows_end:
        from tokenizers import Tokenizer
        tokenizer._tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str().replace(json.dumps(RESERVED), json.dumps(END)))
    tokenizer.pad_token, tokenizer.padding_side = PAD, "right"
    tokenizer.chat_template = tokenizer.chat_template or TEMPLATE
    end_token_id(tokenizer)
    return tokenizer


def end_token_id(tokenizer, token: str = END) -> int:
    """The id of the end token; ValueError when the tokenizer does not know it or cuts it into pieces."""
    pieces = tokenizer(token, add_special_tokens=False)["input_ids"]
    if token_id(tokenizer, token) is None or pieces != [token_id(tokenizer, token)]:
        raise ValueError(f"{token} is {f'{len(pieces)} pieces' if len(pieces) > 1 else 'unknown'} to this tokenizer, not one token: "
                         "a model could not be taught to end with it. Use translation.with_end_token(tokenizer).")
    return pieces[0]


def token_id(tokenizer, token: str) -> int | None:
    """The id of a token, None where the tokenizer does not know it."""
    found = tokenizer.convert_tokens_to_ids(token)                 # of an unknown token: the unknown token's id
    return None if found is None or found == tokenizer.unk_token_id else found


# -- two tokenizers ----------------------------------------------------------------------------------------------------

def llama3_tokenizer(model_file: str | Path) -> PreTrainedTokenizerFast:
    """Llama 3's fast tokenizer out of Meta's `tokenizer.model` (it needs tiktoken; the PyPI wheel `llama-models` ships the file).

    128,256 tokens, the last 256 special, named as on the hub for Llama 3.2. It adds no `<|begin_of_text|>` of its own: the
    chat template writes one.
    """
    from transformers.convert_slow_tokenizer import TikTokenConverter
    special = [BEGIN, "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>", PAD,
               "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", EOT, "<|python_tag|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(3, 3 + 256 - len(special))]
    converter = TikTokenConverter(str(model_file), pattern=LLAMA3_WORDS, additional_special_tokens=special)
    converter.additional_special_tokens = converter.extra_special_tokens = special         # transformers 5 renamed it
    return _wrapped(converter.converted())


LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                r"\s+(?!\S)|\s+")


def small_tokenizer(texts, *, size: int = 0, least: int = 1) -> PreTrainedTokenizerFast:
    """A word-level tokenizer with Llama 3's special tokens and template, for models that train on a laptop.

    A token is a word with the space before it, so that joining tokens gives the text back. French elisions are pieces of
    their own, followed by an ordinary word: "l'homme" is "l'" + " homme" and shares its noun with "un homme".
    texts: an iterable of sentences, both languages; the prompt's words are added. size: at most so many words, the commonest
    (0: all). least: words that occur more rarely become `<|unk|>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    special = [PAD, UNKNOWN, BEGIN, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", EOT, RESERVED]
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    # the space that the normaliser puts after an elision is taken out again by the decoder
    tokenizer.normalizer = normalizers.Replace(Regex(r"(?<=\p{L}['’])(?=\p{L})"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[\p{L}\p{N}-]+['’]?| ?[^\s\p{L}\p{N}]|\n\n|\s"), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("' ", "'"), decoders.Replace("’ ", "’")])
    split = lambda text: [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]
    needed = Counter(p for part in ("system\n\nuser", f"Cutting Knowledge Date: December 2023\nToday Date: {DATE}\n\n{SYSTEM}", "assistant")
                     for p in split(part))
    count = Counter(piece for text in texts for piece in split(text))
    words = [w for w, n in sorted(count.items(), key=lambda item: (-item[1], item[0])) if n >= least and w not in needed]
    words = [*special, *sorted(needed), *(words[:size] if size else words)]
    tokenizer.model = models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNKNOWN)
    tokenizer.add_special_tokens(special)
    return _wrapped(tokenizer, unk_token=UNKNOWN)


def _wrapped(tokenizer, **special) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=EOT, pad_token=PAD, padding_side="right",
                                   clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"], **special)
    fast.chat_template = TEMPLATE
    return fast
