"""Notebook 00: start here."""

from statistics import mean, median

from .common import call, number, question


@question("00.1")
def megabytes(given):
    """How many megabytes do BERT-base's 110 million parameters take in fp32?"""
    right = 110e6 * 4 / 1e6
    factors = {
        "a parameter takes 2 bytes: that is fp16 or bf16, fp32 takes 4": 0.5,
        "bits are counted; 8 of them make a byte": 8,
        "a parameter takes 8 bytes: that is fp64": 2,
        "mebibytes (2^20 bytes) are counted": 1e6 / 2**20,
        "the answer is in gigabytes": 1e-3,
        "the answer is in bytes": 1e6,
        "a parameter takes one byte: that is int8": 0.25,
    }
    mistakes = {mistake: right * factor for mistake, factor in factors.items()}
    return number(given, right, mistakes)


@question("00.2")
def median_latency(function):
    """The median of the times after the first `warmup` ones."""
    times = [0.9, 0.5, 0.012, 0.010, 0.011, 0.013, 0.090]
    kept = times[2:]
    mistakes = {
        "the warm-up passes are kept": median(times),
        "the mean is taken: one slow pass moves it": mean(kept),
        "the mean is taken and the warm-up passes are kept": mean(times),
        "the fastest pass is taken": min(kept),
        "the list is not sorted before its middle is taken": kept[2],
        "the *last* passes are dropped instead of the first": median(times[:5]),
        "the largest times are dropped, whenever they came": median(sorted(times)[:5]),
    }
    return number(call(function, times, 2), median(kept), mistakes, tolerance=1e-9)


@question("00.3")
def batches(milliseconds):
    """{batch size: milliseconds for ONE row of such a batch}, for 1, 8 and 64 rows."""
    sizes = (1, 8, 64)
    if not isinstance(milliseconds, dict) or any(size not in milliseconds for size in sizes):
        return "expected a dict like {1: …, 8: …, 64: …}: milliseconds for one row, by batch size."
    one, eight, many = (float(milliseconds[size]) for size in sizes)
    if min(one, eight, many) <= 0:
        return "a time is above zero."
    # In a large batch a row never costs much more than alone: this is the whole batch's time.
    if many > 4 * one:
        return (
            "a batch of 64 seems to cost a row more than a batch of one: "
            "is this the time of the whole batch? Divide by its rows."
        )
    if one < 0.1:
        return (
            f"{one:.4f} ms for one row is too fast for a transformer on this machine: "
            "are these seconds? Multiply by 1000."
        )
    return None
