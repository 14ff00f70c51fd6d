"""Exercise checks. They name the usual mistake, never raise, and say "not answered yet" to an empty answer.

    kd.check.answer("03.1", my_loss)

A check is a function marked `@question("03.1")`; it gets the student's answer and returns None when it is right, or a
sentence that names what is wrong. Mistakes are recognised by running them: see `closest`.
"""
import math
from typing import Callable

QUESTIONS: dict[str, Callable] = {}


def question(number: str):
    """Register the check of an exercise; its docstring's first line restates the task."""
    def mark(function):
        QUESTIONS[number] = function
        return function
    return mark


def answer(number: str, given) -> bool:
    """Check an answer and print the verdict. Returns True when it is right; an exercise never stops a notebook."""
    if number not in QUESTIONS:
        print(f"there is no exercise {number!r}; there are {', '.join(sorted(QUESTIONS))}")
        return False
    if given is None or given is ...:
        print(f"{number}: not answered yet")
        return False
    try:
        wrong = QUESTIONS[number](given)
    except _NotAnswered:
        print(f"{number}: not answered yet")
        return False
    except Exception as error:                       # the student's function failed: say so in one line, go on
        wrong = f"your answer raised {type(error).__name__}: {error}"
    print(f"{number}: right." if wrong is None else f"{number}: not yet. {wrong}")
    return wrong is None


class _NotAnswered(Exception):
    pass


def call(function, *args, **kw):
    """The student's function called; an answer of None or ... counts as "not answered yet"."""
    value = function(*args, **kw)
    if value is None or value is ...:
        raise _NotAnswered
    return value


def closest(value: float, right: float, mistakes: dict[str, float], tolerance: float = 1e-4) -> str | None:
    """None if `value` is right; else the mistake that gives exactly this value, or a plain "expected … got …"."""
    value = float(value)
    if abs(value - right) <= tolerance * max(1, abs(right)):
        return None
    for name, wrong in mistakes.items():
        if abs(value - wrong) <= tolerance * max(1, abs(wrong)):
            return f"{value:.4f} is what comes out when {name}."
    return f"expected {right:.4f}, got {value:.4f}."


# -- 04 · MNLI --------------------------------------------------------------------------------------------------------

@question("04.1")
def _macro_f1_of_one_answer(function):
    """Macro-F1 of a model that gives one answer to everything."""
    for p, classes in ((0.32, 3), (0.63, 2)):
        f1 = 2 * p / (1 + p)
        wrong = closest(call(function, p, classes), f1 / classes, {
            "the other classes' F1 of 0 are left out of the mean": f1,
            "precision 1 and recall p are assumed (it is the other way round, and F1 is not their product)": p / classes,
            "the accuracy is taken for the F1": p,
            "percentages and shares are mixed": 100 * f1 / classes})
        if wrong:
            return f"For p = {p} and {classes} classes: {wrong}"


@question("04.2")
def _farthest(function):
    """The sum of a linear warm-up and decay schedule's learning rates."""
    rate, steps, warmup = 1e-3, 200, 20
    schedule = [rate * (i / warmup if i < warmup else (steps - i) / (steps - warmup)) for i in range(steps)]
    return closest(call(function, rate, steps, warmup), sum(schedule), {
        "the rate is taken as constant": rate * steps,
        "the warm-up is left out": sum(schedule[warmup:]),
        "the decay is left out": sum(schedule[:warmup]) + rate * (steps - warmup),
        "one half of rate × steps is taken, which is near but not the sum": rate * steps / 2}, tolerance=1e-6)


@question("04.3")
def _gain(function):
    """KD's mean gain over CE in points, seed by seed, at the largest learning rate."""
    import pandas as pd
    runs = pd.DataFrame([("kd", 1e-3, 1, .84), ("ce", 1e-3, 0, .80), ("kd", 1e-3, 0, .82), ("ce", 1e-3, 1, .81),
                         ("kd", 1e-5, 0, .40), ("shuffled", 1e-3, 0, .70), ("kd", 1e-3, 2, .90)],
                        columns=["method", "learning_rate", "seed", "accuracy"])
    return closest(call(function, runs), 2.5, {
        "the small learning rate is averaged in": 100 * ((.84 + .82 + .40 + .90) / 4 - .805),
        "the seed that only KD has is averaged in": 100 * ((.84 + .82 + .90) / 3 - .805),
        "shares are not turned into points": 0.025,
        "the sign is turned round (KD minus CE is asked)": -2.5}, tolerance=1e-6)


# -- 01 · Soft targets ------------------------------------------------------------------------------------------------

@question("01.1")
def _closer(nats):
    """By how many nats is teacher A closer to people than teacher B?"""
    kl = lambda p, q: sum(x * math.log(x / y) for x, y in zip(p, q))
    people, a, b = (0.60, 0.35, 0.05), (0.80, 0.15, 0.05), (0.80, 0.05, 0.15)
    right = kl(people, b) - kl(people, a)
    return closest(nats, right, {
        "the logarithm is to base 2: these are bits, not nats": right / math.log(2),
        "the logarithm is to base 10": right / math.log(10),
        "B's KL is taken from A's: A is the closer one, so the gain is positive": -right,
        "the arguments are swapped, KL(teacher ‖ people)": kl(b, people) - kl(a, people),
        "only A's KL is given": kl(people, a), "only B's KL is given": kl(people, b)}, tolerance=2e-3)


@question("01.2")
def _to_glue(function):
    """Columns in the order that `order` names → columns in GLUE's order."""
    import numpy as np
    from .votes import LABELS
    for order in (("neutral", "contradiction", "entailment"), ("entailment", "contradiction", "neutral"), LABELS):
        logits = np.array([[2.0, -1.0, 0.5], [0.25, 3.0, -2.0]])
        got, right = np.asarray(call(function, logits.copy(), order)), logits[:, [order.index(name) for name in LABELS]]
        if got.shape != right.shape:
            return f"expected the shape {right.shape}, got {got.shape}."
        if not np.allclose(got, right):
            return _same_array(got, {
                "the columns stay as they were": logits,
                "the permutation is turned round: ask where GLUE's class stands in `order`, not the reverse":
                    logits[:, [LABELS.index(name) for name in order]],
                "each row is sorted": np.sort(logits), "softmax has been taken": np.exp(right) / np.exp(right).sum(-1, keepdims=True),
                "rows are permuted instead of columns": logits[[order.index(n) % 2 for n in LABELS][:2]]}) \
                or f"for order = {order} the columns should be {right[0].tolist()} in the first row, not {got[0].tolist()}."


@question("01.3")
def _mix(function):
    """weight · soft + (1 - weight) · hard, as probabilities."""
    import numpy as np
    soft, hard, w = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]), np.array([[0.9, 0.05, 0.05], [0.05, 0.05, 0.9]]), 0.25
    got, right = np.asarray(call(function, soft, hard, w)), w * soft + (1 - w) * hard
    if got.shape != right.shape:
        return f"expected the shape {right.shape}, got {got.shape}."
    if not np.allclose(got, right):
        geometric = soft ** w * hard ** (1 - w)
        return _same_array(got, {
            "the weight goes to the label; here it is the teacher's (half the field means the opposite)": (1 - w) * soft + w * hard,
            "the label keeps its whole weight, so that rows no longer sum to 1": w * soft + hard,
            "the plain mean is taken, whatever the weight": (soft + hard) / 2,
            "logarithms are mixed instead of probabilities": geometric,
            "logarithms are mixed instead of probabilities (and normalised)": geometric / geometric.sum(-1, keepdims=True)}) \
            or f"for weight = {w} the first row should be {right[0].round(4).tolist()}, not {got[0].round(4).tolist()}."


def _same_array(got, mistakes: dict) -> str | None:
    """The mistake that gives exactly this array, as `closest` does for a number."""
    import numpy as np
    for name, wrong in mistakes.items():
        if wrong.shape == got.shape and np.allclose(got, wrong):
            return f"This is what comes out when {name}."
    return None


# -- 00 · Start here --------------------------------------------------------------------------------------------------

@question("00.1")
def _megabytes(megabytes):
    """How many megabytes do BERT-base's 110 million parameters take in fp32?"""
    right = 110e6 * 4 / 1e6
    return closest(megabytes, right, {
        "a parameter takes 2 bytes: that is fp16 or bf16, fp32 takes 4": right / 2, "bits are counted; 8 of them make a byte": right * 8,
        "a parameter takes 8 bytes: that is fp64": right * 2, "mebibytes (2^20 bytes) are counted": right * 1e6 / 2**20,
        "the answer is in gigabytes": right / 1e3, "the answer is in bytes": right * 1e6, "a parameter takes one byte: that is int8": right / 4})


@question("00.2")
def _median_latency(function):
    """The median of the times after the first `warmup` ones."""
    times, warmup = [0.9, 0.5, 0.012, 0.010, 0.011, 0.013, 0.090], 2
    kept = sorted(times[warmup:])
    return closest(call(function, list(times), warmup), kept[2], {
        "the warm-up passes are kept": sorted(times)[3], "the mean is taken: one slow pass moves it": sum(kept) / 5,
        "the mean is taken and the warm-up passes are kept": sum(times) / 7, "the fastest pass is taken": kept[0],
        "the list is not sorted before its middle is taken": times[warmup:][2] if times[warmup:][2] != kept[2] else math.inf,
        "the *last* passes are dropped instead of the first": sorted(times[:-warmup])[2],
        "the largest times are dropped, whenever they came": sorted(times)[:-warmup][2]}, tolerance=1e-9)


@question("00.3")
def _batches(milliseconds):
    """{batch size: milliseconds for ONE row of such a batch}, for 1, 8 and 64 rows."""
    if not isinstance(milliseconds, dict) or any(size not in milliseconds for size in (1, 8, 64)):
        return "expected a dict like {1: …, 8: …, 64: …}: milliseconds for one row, by batch size."
    one, eight, many = (float(milliseconds[size]) for size in (1, 8, 64))
    if min(one, eight, many) <= 0:
        return "a time is above zero."
    if many > 4 * one:
        return "a batch of 64 seems to cost a row more than a batch of one: is this the time of the whole batch? Divide by its rows."
    if one < 0.1:
        return f"{one:.4f} ms for one row is too fast for a transformer on this machine: are these seconds? Multiply by 1000."
    if abs(one - many) < 0.02 * one:
        return "a row costs the same in every batch, within 2 %: was the same batch timed three times?"
    return None
