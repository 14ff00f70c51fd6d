"""Notebook 00: start here."""

import math
import time
from functools import partial
from statistics import mean, median

import torch

from .common import call, compare, question

# The model answers, with the reason: what `kd.check.reveal` prints.
ANSWERS = {
    "00.1": """
440 megabytes. A number of 32 bits takes 4 bytes, and 110 million × 4 bytes are
440 million bytes.
""",
    "00.2": """
def median_latency(times, warmup):
    kept = sorted(times[warmup:])
    return kept[len(kept) // 2]

The first passes are slow, because they fill caches: drop them before you sort. One interrupted
pass moves the mean, but not the median.
""",
    "00.3": """
def ms_per_row(model, size):
    batch = glue.collator(tokenizer)([validation_set[i] for i in range(size)])
    return 1000 * models.latency(model, batch, device="cpu") / size

latency returns seconds for the whole batch: multiply by 1000 and divide by the rows.

Batching or distilling? Both make a row cheaper. The rows of a batch share the cost of calling
functions, until the processor is busy all the time: on a CPU soon, on a GPU late. A server can use
both. A robot must answer one row now, so only the smaller model helps it.
""",
}


@question("00.1")
def megabytes(given):
    """How many megabytes do BERT-base's 110 million parameters take in fp32?"""
    right = 110e6 * 4 / 1e6
    factors = {
        "a parameter takes 2 bytes: that is fp16 or bf16, fp32 takes more": 0.5,
        "bits are counted; 8 of them make a byte": 8,
        "a parameter takes 8 bytes: that is fp64": 2,
        "mebibytes (2^20 bytes) are counted": 1e6 / 2**20,
        "the answer is in gigabytes": 1e-3,
        "the answer is in bytes": 1e6,
        "a parameter takes one byte: that is int8": 0.25,
    }
    mistakes = {mistake: right * factor for mistake, factor in factors.items()}
    hint = "How many bytes are 32 bits? And how many bytes are a megabyte?"
    return compare(float(given), right, mistakes, hint, partial(math.isclose, rel_tol=1e-4))


@question("00.2")
def median_latency(function):
    """The median of the times after the first `warmup` ones."""
    cases = (
        ([0.9, 0.5, 0.012, 0.010, 0.011, 0.013, 0.090], 2),
        ([0.7, 0.021, 0.025, 0.060, 0.022, 0.020], 1),
    )
    for times, warmup in cases:
        if wrong := _median_of_these(function, times, warmup):
            return wrong


def _median_of_these(function, times: list, warmup: int) -> str | None:
    """None if the function is right about these times, or what is wrong."""
    kept, left = times[warmup:], len(times) - warmup
    mistakes = {
        "the warm-up passes are kept": median(times),
        "the mean is taken: one slow pass moves it": mean(kept),
        "the mean is taken and the warm-up passes are kept": mean(times),
        "the fastest pass is taken": min(kept),
        "the list is not sorted before its middle is taken": kept[left // 2],
        "the *last* passes are dropped instead of the first": median(times[:left]),
        "the largest times are dropped, whenever they came": median(sorted(times)[:left]),
        "the times are sorted before the first ones are dropped": median(sorted(times)[warmup:]),
    }
    given = float(call(function, list(times), warmup))
    hint = (
        f"For the times {times} and warmup = {warmup} your function returns {given:g}. Which times "
        f"remain without the first {warmup}, and which of them is in the middle when they are "
        "sorted?"
    )
    return compare(given, median(kept), mistakes, hint, partial(math.isclose, rel_tol=1e-9))


class _Sleeper(torch.nn.Module):
    """A stand-in for a model: a pass takes 3 ms and 0.2 ms a row, and is written down."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.passes = []  # (rows, seconds)

    @property
    def device(self):
        return self.weight.device

    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        began = time.perf_counter()
        time.sleep(0.003 + 0.0002 * len(input_ids))
        self.passes.append((len(input_ids), time.perf_counter() - began))
        return torch.zeros(len(input_ids), 3)


@question("00.3")
def ms_per_row(function):
    """ms_per_row(model, size): milliseconds for ONE row when the model reads `size` rows at once.

    The check asks about a model whose passes it times itself.
    """
    for size in (1, 8, 64):
        model = _Sleeper()
        given = float(call(function, model, size))
        seen = sorted({rows for rows, _ in model.passes})
        if seen != [size]:
            return f"For size = {size} the model read batches of {seen or 'no'} rows."
        if len(model.passes) < 5:
            return (
                f"The model was called {len(model.passes)} times. A busy moment can spoil one pass: "
                "drop the first passes, and take the median of many."
            )
        right = 1000 * median(seconds for _, seconds in model.passes) / size
        mistakes = {
            "the time is that of the whole batch: divide it by its rows": right * size,
            "the time is in seconds": right / 1000,
            "the time is in seconds, and that of the whole batch": right * size / 1000,
        }
        hint = (
            f"For size = {size} your function returns {given:g}, which is not what the check's own "
            "clock says. latency returns seconds, for the whole batch."
        )
        wrong = compare(given, right, mistakes, hint, partial(math.isclose, rel_tol=0.3))
        if wrong:
            return wrong
