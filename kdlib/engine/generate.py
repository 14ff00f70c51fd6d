"""Generation for many prompts: batches of like length, and the shared beginning read once."""

import copy
import os
from typing import Callable

import torch

from .sampler import longest_first


def generate(
    model,
    prompts: list[list[int]],
    *,
    stops: list[int],
    pad: int,
    limit: Callable[[int], int],
    batch_size: int,
    beams: int = 1,
) -> list[list[int]]:
    """The ids that the model says after each prompt, in the prompts' order.

    Decoding is greedy, or a beam search with `beams`. A batch goes on until all its rows have said
    one of `stops`: what follows the first stop of a row means nothing. limit: tokens to generate,
    from the length of the batch's longest prompt.
    """
    said: list[list[int]] = [[] for _ in prompts]
    shared, cache_for = 0, _no_cache
    # Beams reorder the cache by themselves, and a single prompt shares nothing.
    if len(prompts) > 1 and beams == 1:
        shared, cache_for = _common_beginning(model, prompts)
    for picked in longest_first([len(prompt) for prompt in prompts], batch_size):
        # The batch's longest: it comes first.
        width = len(prompts[picked[0]])
        ids, mask = _padded([prompts[i] for i in picked], width, shared, pad)
        generated = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=limit(width),
            eos_token_id=stops,
            pad_token_id=pad,
            past_key_values=cache_for(len(picked)),
            use_cache=True,
            num_beams=beams,
            # spelt out, because a checkpoint's own generation settings (Llama's sample) would fill
            # in what is not
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            repetition_penalty=1.0,
        )
        # generate repeats the prompt; what is new begins after it.
        for i, new in zip(picked, generated[:, width:].tolist()):
            said[i] = new
    return said


def _padded(
    prompts: list[list[int]], width: int, shared: int, pad: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both (batch, width): the padding stands behind the beginning that all share."""
    ids, mask = [], []
    for prompt in prompts:
        missing = width - len(prompt)
        # Padding in the middle: the cached beginning needs its tokens at the front, generation goes
        # on at the end. Masked, so no token sees it, and positions are counted without it.
        ids.append(prompt[:shared] + [pad] * missing + prompt[shared:])
        mask.append([1] * shared + [0] * missing + [1] * (len(prompt) - shared))
    return torch.tensor(ids), torch.tensor(mask)


def _no_cache(count: int) -> None:
    return None


def _common_beginning(model, prompts: list[list[int]]) -> tuple[int, Callable]:
    """(tokens, cache_for): how many tokens all prompts begin with.

    cache_for gives a batch of `count` rows its copy of their keys and values.
    """
    shortest = min(map(len, prompts))
    # generation goes on from at least one token
    shared = min(len(os.path.commonprefix(prompts)), shortest - 1)
    if not shared:
        return 0, _no_cache
    ids = torch.tensor([prompts[0][:shared]], device=model.device)
    # Keys and values of the shared tokens, one row.
    read = model(input_ids=ids, use_cache=True).past_key_values

    def cache_for(count: int):
        copied = copy.deepcopy(read)  # generation writes into its cache
        copied.batch_repeat_interleave(count)  # one row → count rows, in place
        return copied

    return shared, cache_for


def repeats(ids: list[int], times: int = 4, longest: int = 8) -> bool:
    """Does a stretch of 1…longest tokens stand `times` times in a row?"""
    for length in range(1, longest + 1):
        equal_in_a_row = 0
        for i in range(length, len(ids)):
            # A stretch of n tokens that stands 4 times has 3n tokens in a row that equal the one n
            # before.
            equal_in_a_row = equal_in_a_row + 1 if ids[i] == ids[i - length] else 0
            if equal_in_a_row >= length * (times - 1):
                return True
    return False
