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


def recognised(got, mistakes: dict, same: Callable) -> str | None:
    """The sentence for the mistake whose value is the `same` as `got` (arrays or tensors), or None."""
    return next((f"This is what comes out when {name}." for name, wrong in mistakes.items() if same(got, wrong)), None)


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


# -- 05 · QQP ---------------------------------------------------------------------------------------------------------

@question("05.1")
def _always_duplicate(function):
    """Accuracy, macro-F1 and F1 of the duplicates, for a model that answers "duplicate" to everything."""
    p = 0.3682
    given, f1 = call(function, p), 2 * p / (1 + p)
    if not isinstance(given, (tuple, list)) or len(given) != 3:
        return "three numbers are asked: accuracy, macro-F1, F1 of the duplicates."
    mistakes = {"the classes are swapped: the model answers \"duplicate\", not \"not duplicate\"": lambda q: (q, q / (1 + q), 2 * q / (1 + q))}
    for name, other in mistakes.items():
        if all(abs(a - b) < 1e-4 for a, b in zip(given, other(1 - p))):
            return f"This is what comes out when {name}."
    for name, value, right in zip(("accuracy", "macro-F1", "F1 of the duplicates"), given, (p, f1 / 2, f1)):
        if wrong := closest(value, right, {"the mean over both classes is taken where one is asked, or the reverse": f1 / 2 if right == f1 else f1,
                                           "percentages are given where shares are asked": 100 * right}):
            return f"{name}: {wrong}"


@question("05.2")
def _calibrating_temperature(function):
    """The temperature of a grid at which held-out cross-entropy is smallest."""
    import numpy as np
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(400, 3)) * 2
    soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([draw.choice(3, p=row) for row in soft])
    grid = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    def ce(t, z=logits * 3):
        z = z / t
        return -(z - np.log(np.exp(z).sum(1, keepdims=True)))[np.arange(400), labels].mean()
    right = min(grid, key=ce)
    return closest(call(function, logits * 3, labels, grid), right, {
        "the largest cross-entropy is looked for, or the model's own answers are taken for the labels": min(grid),
        "the most modest answers win: calibration is about being right as often as one says": max(grid)})


@question("05.3")
def _best_alpha(function):
    """The best alpha by mean accuracy, as the weight of the soft loss, whatever convention the table is in."""
    import pandas as pd
    runs = pd.DataFrame([(0.1, 0, .80), (0.1, 1, .82), (0.5, 0, .80), (0.5, 1, .80), (0.9, 0, .85), (0.9, 1, .70)], columns=["alpha", "seed", "accuracy"])
    for convention, right in (("soft", 0.1), ("hard", 0.9)):
        wrong = closest(call(function, runs, convention), right, {
            "the convention is not heeded, or turned round": 1 - right,
            "the single best run is taken instead of the mean over seeds": 0.9 if convention == "soft" else 0.1})
        if wrong:
            return f"For a table in the convention {convention!r}: {wrong}"


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
    return recognised(got, mistakes, lambda a, b: a.shape == b.shape and np.allclose(a, b))


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
        "the list is not sorted before its middle is taken": times[warmup:][2],
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
    return None


# -- 02 · Temperature -------------------------------------------------------------------------------------------------

@question("02.1")
def _square_roots(probabilities):
    """(0.81, 0.16, 0.03) at T = 1: what are the three probabilities at T = 2?"""
    import numpy as np
    p = np.array([0.81, 0.16, 0.03])
    norm = lambda x: x / x.sum()
    got = np.asarray(probabilities, float)
    if got.shape != (3,):
        return f"expected three numbers, got {probabilities!r}."
    if np.allclose(got, norm(p**0.5), atol=6e-3):
        return None
    mistakes = {"the probabilities are divided by 2 and normalised again, which changes nothing": p,
                "the probabilities are divided by 2 and no longer sum to 1": p / 2,
                "the square roots are taken but not made to sum to 1": p**0.5,
                "the probabilities are squared: that is T = 1/2, sharper instead of softer": norm(p**2),
                "softmax is taken of the probabilities: logits go in, and the logits are their logarithms": norm(np.exp(p / 2)),
                "softmax is taken of the probabilities, and T is forgotten": norm(np.exp(p))}
    return recognised(got, mistakes, lambda a, b: np.allclose(a, b, atol=6e-3)) or f"expected {norm(p**0.5).round(3).tolist()}, got {got.round(3).tolist()}."


@question("02.2")
def _kd_gradient(function):
    """The gradient of T² · KL(teacher ‖ student) at the student's logits, (rows, classes), without autograd."""
    import torch
    student, teacher, T = torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.3, -0.2]]), torch.tensor([[3.0, 0.0, -1.0], [-2.0, 1.0, 4.0]]), 3.0
    soft = lambda z: (z / T).softmax(-1)
    gap = soft(student) - soft(teacher)
    got = torch.as_tensor(call(function, student, teacher, T), dtype=torch.float32)
    right, mistakes = T * gap, {
        "T² is forgotten: this is the gradient of KL alone": gap / T,
        "the chain rule's 1/T is forgotten": T**2 * gap,
        "neither T² nor the chain rule's 1/T is there": gap,
        "the sign is turned round: this is the push, minus the gradient": -T * gap,
        "the student is not softened": T * (student.softmax(-1) - soft(teacher)),
        "the teacher is not softened": T * (soft(student) - teacher.softmax(-1)),
        "neither is softened": T * (student.softmax(-1) - teacher.softmax(-1)),
        "the logits are compared instead of the probabilities": T * (student - teacher),
        "it is averaged over the rows (each row's own gradient is asked)": T * gap / 2,
        "T multiplies the logits instead of dividing them": T * ((T * student).softmax(-1) - (T * teacher).softmax(-1))}
    if got.shape != right.shape:
        return f"expected the shape {tuple(right.shape)}, got {tuple(got.shape)}."
    if torch.allclose(got, right, atol=1e-4):
        return None
    return recognised(got, mistakes, lambda a, b: torch.allclose(a, b, atol=1e-4)) or f"for T = 3 the first row should be {[round(x, 4) for x in right[0].tolist()]}, not {[round(x, 4) for x in got[0].tolist()]}."


@question("02.3")
def _best_temperature(function):
    """The T that minimises the mean KL(people ‖ teacher at T), to 0.05."""
    import numpy as np
    draw = np.random.default_rng(3)
    logits = draw.normal(size=(400, 3)) * 4
    soft = lambda T: np.exp(logits / T) / np.exp(logits / T).sum(-1, keepdims=True)
    people = np.stack([draw.dirichlet(8 * p + 0.3) for p in soft(3.0)])
    label, grid = people.argmax(-1), np.arange(0.3, 12, 0.01)
    mean = lambda value: float(grid[np.argmin([np.mean(value(soft(T))) for T in grid])])
    right = mean(lambda q: -(people * np.log(q)).sum(-1))
    mistakes = {"the arguments are swapped, KL(teacher ‖ people)": mean(lambda q: (q * np.log(q / people)).sum(-1)),
                "T is fitted to people's first choice, as a calibration on labels does": mean(lambda q: -np.log(q[np.arange(400), label])),
                "the squared distance is minimised": mean(lambda q: ((q - people) ** 2).sum(-1)),
                "the entropies are made equal, whatever the answers are": mean(
                    lambda q: np.full(1, abs((-q * np.log(q)).sum(-1).mean() + (people * np.log(people)).sum(-1).mean())))}
    given = float(call(function, people, logits))
    if abs(given - right) <= 0.055:
        return None
    name = min(mistakes, key=lambda name: abs(given - mistakes[name]))
    if abs(given - mistakes[name]) <= 0.055:
        return f"T = {given:.2f} is what comes out when {name}."
    return f"on the check's own rows expected T = {right:.2f} (± 0.05), got {given:.2f}: is your grid fine enough, and wide enough?"


# -- 03 · The distillation loss ---------------------------------------------------------------------------------------

@question("03.1")
def _loss_with_padding(function):
    """alpha·T²·KL + (1-alpha)·CE, a mean over the rows whose label is not -100."""
    import torch
    import torch.nn.functional as F
    from .losses import distillation_loss
    s = torch.tensor([[2.0, -1.0, 0.3], [0.1, 0.4, -0.2], [1.0, 1.0, -3.0], [5.0, 0.0, 0.0]])
    t = torch.tensor([[1.0, 0.0, -2.0], [-1.0, 3.0, 0.0], [0.5, -0.5, 2.0], [-4.0, 0.0, 4.0]])
    y, T, a, keep = torch.tensor([0, 1, 2, -100]), 2.5, 0.8, slice(0, 3)
    ce = F.cross_entropy(s, y)
    log = lambda z, T=T: F.log_softmax(z / T, -1)
    kl = lambda p, q: (p.exp() * (p - q)).sum(-1)
    mix = lambda kd: float(a * kd + (1 - a) * ce)
    kd = T**2 * kl(log(t), log(s))
    right = float(distillation_loss(s, t, y, temperature=T, alpha=a).total)
    given = float(call(function, s.clone(), t.clone(), y.clone(), T, a))
    return closest(given, right, {
        "the padded row counts in the soft loss": mix(kd.mean()),
        "the padded row is dropped from the sum but still counted in the divisor": mix(kd[keep].sum() / 4),
        "T² is forgotten": mix(kd[keep].mean() / T**2), "T stands where T² belongs": mix(kd[keep].mean() / T),
        "T² multiplies the hard loss too": float(a * kd[keep].mean() + (1 - a) * ce * T**2),
        "KL's arguments are swapped": mix(T**2 * kl(log(s), log(t))[keep].mean()),
        'reduction="mean" divides by the classes too': mix(kd[keep].mean() / 3),
        "the student's probabilities go into kl_div, which wants their logarithms": mix(
            T**2 * (log(t).exp() * (log(t) - log(s).exp()))[keep].sum(-1).mean()),
        "alpha weights the hard loss": float((1 - a) * kd[keep].mean() + a * ce),
        "the teacher is not softened": mix(T**2 * kl(log(t, 1), log(s))[keep].mean()),
        "the student is not softened": mix(T**2 * kl(log(t), log(s, 1))[keep].mean()),
        "the hard loss is softened by T as well": float(a * kd[keep].mean() + (1 - a) * F.cross_entropy(s / T, y)),
        "the rows are summed, not averaged": float(a * kd[keep].sum() + (1 - a) * ce * 3),
        "the soft loss is a cross-entropy: the teacher's entropy is not taken away": mix(
            T**2 * -(log(t).exp() * log(s))[keep].sum(-1).mean())})


@question("03.2")
def _alpha_without_t_squared(alpha):
    """T² was forgotten at T = 4: which alpha gives the gradient direction of the right loss with alpha = 0.5?"""
    return closest(alpha, 16 / 17, {
        "T stands where T² belongs": 4 / 5, "the ratio is turned round: the soft loss needs more weight, not less": 1 / 17,
        "the ratio is turned round, and T stands where T² belongs": 1 / 5,
        "alpha is taken for the ratio of the two weights (they sum to 1)": 16, "nothing is made up for": 0.5,
        "alpha is multiplied by T² (a weight above 1 is refused)": 8}, tolerance=3e-3)


@question("03.3")
def _accumulation(ratio):
    """How many times too large is the gradient of a mean when 4 micro-batches are accumulated and nobody divides?"""
    return closest(ratio, 4, {
        "Trainer divided by the micro-batches itself: it does so unless model_accepts_loss_kwargs is True": 1,
        "the ratio is turned round": 0.25, "the gradient is divided twice": 1 / 16, "it is multiplied twice, or the norms are squared": 16}, tolerance=0.02)


# -- 06 · EuroLlama: the prompt ---------------------------------------------------------------------------------------

@question("06.1")
def _labels_after_the_last_header(function):
    """Labels of a chat: the ids after the last assistant header, -100 before; not shifted."""
    header = [7, 8, 9]
    for ids in ([1, 5, 7, 8, 9, 20, 21, 30, 31], [1, 7, 8, 9, 22, 30, 31, 5, 7, 8, 9, 20, 21, 23, 30, 31]):
        starts = [i + 3 for i in range(len(ids)) if ids[i:i + 3] == header]
        masked = lambda first, n=len(ids): [-100] * first + ids[first:n] + [-100] * (len(ids) - n)
        right = masked(starts[-1])
        got = [int(i) for i in call(function, list(ids), list(header))]
        if len(got) != len(ids):
            return f"labels are as long as the ids: {len(ids)}, not {len(got)}. Nothing is cut off and nothing is shifted."
        if got != right:
            return recognised(got, {
                "the first header is taken: with worked examples in the prompt there are several, and only the last answer is to be learnt": masked(starts[0]),
                "the header's last token is learnt too, one place too early": masked(starts[-1] - 1),
                "the header is learnt too": masked(starts[-1] - 3),
                "the target's first token is masked, one place too late": masked(starts[-1] + 1),
                "labels are shifted by hand: the model's loss shifts them itself, and a second time it learns the word after the next": right[1:] + [-100],
                "the last token is masked: a text whose end is not learnt does not end": masked(starts[-1], len(ids) - 1),
                "both end tokens are masked: a text whose end is not learnt does not end": masked(starts[-1], len(ids) - 2),
                "nothing is masked: the model would learn to write prompts": ids,
                "the mask is turned round: the prompt is learnt, the target is not": ids[:starts[-1]] + [-100] * (len(ids) - starts[-1])},
                lambda a, b: a == b) or f"for ids = {ids} the labels should be {right}, not {got}."


@question("06.2")
def _end_after_kd(function):
    """The probability of the end at which (1 - alpha) · CE + alpha · KL(teacher ‖ student) is smallest, T = 1."""
    for alpha, teacher in ((0.3, 0.02), (0.9, 0.2)):
        wrong = closest(call(function, alpha, teacher), 1 - alpha + alpha * teacher, {
            "alpha is read as the weight of the labels; here it weighs the soft loss": alpha + (1 - alpha) * teacher,
            "the teacher is not heard": 1.0, "the label is not heard": teacher,
            "the teacher's own share is left out: it gives the end a little, too": 1 - alpha,
            "probabilities are mixed by their logarithms: forward KL mixes them as they are": teacher**alpha,
            "label and teacher count alike whatever alpha is": (1 + teacher) / 2}, tolerance=1e-3)
        if wrong:
            return f"For alpha = {alpha} and a teacher's {teacher}: {wrong}"


@question("06.3")
def _cut_the_source(function):
    """A row cut to max_length tokens at the end of its source: (ids, labels)."""
    ids, stop = list(range(100, 118)), 9                       # 9 closes the user's turn, 14 and on is the target
    labels = [-100] * 14 + ids[14:]
    for longest in (18, 15, 30):
        over = max(0, len(ids) - longest)
        drop = lambda row, a, b: row[:a] + row[b:]
        right = [drop(row, stop - over, stop) for row in (ids, labels)]
        given = call(function, list(ids), list(labels), longest, stop)
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            return "two lists are asked: ids and labels."
        got = [[int(i) for i in row] for row in given]
        if got != right:
            both = lambda a, b: [drop(row, a, b) for row in (ids, labels)]
            return recognised(got, {
                "the end is cut off: the target loses its last words and its end token, and the model learns not to end": [ids[:longest], labels[:longest]],
                "the beginning is cut off: the system's turn is gone": both(0, over),
                "the token that closes the user's turn is cut off with the source": both(stop - over + 1, stop + 1),
                "the labels are left as long as they were": [right[0], labels],
                "the text after the user's turn is cut": both(stop + 1, stop + 1 + over),
                "nothing is cut": [ids, labels]}, lambda a, b: a == b) or (
                f"for max_length = {longest} and stop = {stop}, {over} tokens before the place {stop} should go: {right[0]}, not {got[0]}; labels {right[1]}, not {got[1]}.")


# -- 07 ---------------------------------------------------------------------------------------------------------------

REFERENCE = "La Commission n'a pas approuvé le rapport sur la pêche."


@question("07.1")
def _candidates(given):
    """two candidates: `kept` means what the reference means, `lost` has lost "ne … pas", and BLEU prefers `lost`"""
    from .scores import bleu
    kept, lost = given
    negated = lambda text: " pas " in f" {text} " and any(part in f" {text.lower()}" for part in (" n'", " n’", " ne "))
    if not negated(kept):
        return "The first candidate must still say that the Commission did not: it needs both halves of \"ne … pas\"."
    if negated(lost) or " pas " in f" {lost} ":
        return "The second candidate should have lost \"ne … pas\" and say the opposite."
    if kept.strip() == REFERENCE:
        return "The first candidate is the reference itself; exchange words for synonyms."
    mine, theirs = (bleu([text], [REFERENCE]).value for text in (kept, lost))
    if mine >= theirs:
        return (f"BLEU still prefers the right one ({mine:.1f} to {theirs:.1f}). A single exchanged word breaks up to four runs of four; "
                "exchange one in the middle, or two.")
    return None


@question("07.2")
def _kd_on_targets(given):
    """T² · KL(teacher ‖ student) over target tokens of a causal model: shifted by one, the prompt left out, averaged over tokens"""
    import torch

    from .losses import distillation_loss
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 7, 5, generator=draw) * 2 for _ in range(2))
    labels, T = torch.tensor([[-100, -100, -100, 1, 4, 0, -100], [-100, -100, 2, 3, 1, 0, 2]]), 3.0
    kd = lambda keep, factor=T * T: distillation_loss(student[keep], teacher[keep], torch.zeros(int(keep.sum()), dtype=torch.long), temperature=T).kd * factor / (T * T)
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != -100
    unshifted, everywhere = labels != -100, torch.ones_like(keep)
    swapped = distillation_loss(teacher[keep], student[keep], torch.zeros(int(keep.sum()), dtype=torch.long), temperature=T).kd
    by_row = torch.stack([kd(keep & (torch.arange(2)[:, None] == i)) for i in range(2)]).mean()
    return closest(float(call(given, student, teacher, labels, T)), kd(keep).item(), {
        "the labels are not shifted: position i predicts token i + 1": kd(unshifted).item(),
        "every position counts, the prompt too": kd(everywhere).item(), "T² is forgotten": kd(keep, 1.0).item(),
        "the KL's arguments are swapped": swapped.item(), "rows are averaged first, so that a token of a short row weighs more": by_row.item(),
        "the sum is not divided by the number of tokens": kd(keep).item() * int(keep.sum())})


@question("07.3")
def _best_rates(given):
    """{lora_rank: learning rate}, by mean validation ce over seeds; test scores decide nothing"""
    import pandas as pd
    rows = [(rank, rate, seed, ce, bleu) for rank, rate, values in (
        (0, 1e-2, ((0.50, 40), (0.90, 41), (0.52, 42))), (0, 1e-3, ((0.60, 50), (0.61, 50), (0.59, 50))), (0, 1e-4, ((0.70, 60), (0.70, 61), (0.70, 62))),
        (16, 1e-2, ((0.80, 30), (0.81, 30), (0.79, 31))), (16, 1e-3, ((0.95, 35), (0.70, 34), (0.96, 33))), (16, 1e-4, ((1.2, 10), (1.2, 10), (1.2, 10))))
        for seed, (ce, bleu) in enumerate(values)]
    runs = pd.DataFrame(rows, columns=["lora_rank", "learning_rate", "seed", "ce", "bleu"])
    got = {int(k): float(v) for k, v in dict(call(given, runs.copy())).items()}
    mistakes = {"the test scores chose: then they are no test any more": {0: 1e-4, 16: 1e-3}, "the single best run chose, not the mean over seeds": {0: 1e-2, 16: 1e-3},
                "the *largest* cross-entropy was taken": {0: 1e-4, 16: 1e-4}}
    if got == {0: 1e-3, 16: 1e-2}:
        return None
    return recognised(got, mistakes, lambda a, b: a == b) or f"Expected one rate for each of the ranks 0 and 16, the one with the least mean `ce`; got {got}."


# -- 08 · Limits ------------------------------------------------------------------------------------------------------

@question("08.1")
def _rounded_by_group(function):
    """A matrix rounded to `bits` bits, symmetric around 0, with one scale for each group of neighbours in a row."""
    import torch
    weight = torch.tensor([[0.9, -0.35, 0.2, 0.05, 0.03, -0.02, 0.01, 0.016], [-0.4, 0.26, 0.12, -0.3, 0.7, -0.5, 0.33, 0.1]])

    def grid(parts, bits, largest=None, rounding=torch.round, top=None):
        largest = 2 ** (bits - 1) - 1 if largest is None else largest
        step = (parts.abs().amax(1, keepdim=True) if top is None else top(parts)) / largest
        return (rounding(parts / step).clamp(-largest, largest) * step).reshape(weight.shape)
    for bits, group in ((3, 4), (4, 2)):
        parts = weight.reshape(-1, group)
        got = torch.as_tensor(call(function, weight.clone(), bits, group), dtype=torch.float32)
        if got.shape != weight.shape:
            return f"The result must have the matrix's shape {tuple(weight.shape)}, not {tuple(got.shape)}: fold the groups back."
        right = grid(parts, bits)
        if torch.allclose(got, right, atol=1e-5):
            continue
        by_column = weight.T.reshape(-1, 2)
        signed = lambda p: (p.amax(1, keepdim=True)).clamp(min=1e-6)
        return recognised(got, {
            "the whole matrix shares one scale": grid(weight.reshape(1, -1), bits),
            "a row shares one scale, whatever the group": grid(weight, bits),
            "the groups run down the columns: those weights meet other inputs": grid(by_column, bits).reshape(weight.shape[::-1]).T,
            "the largest value is 2^bits - 1: that many steps to *each* side, a bit too many": grid(parts, bits, 2**bits - 1),
            "the largest value is 2^(bits - 1): that is one value too many on the positive side": grid(parts, bits, 2 ** (bits - 1)),
            "values are cut off instead of rounded (floor)": grid(parts, bits, rounding=torch.floor),
            "values are cut off instead of rounded (trunc, int)": grid(parts, bits, rounding=torch.trunc),
            "the scale is the largest weight, not the largest *magnitude*: large negative ones are clipped": grid(parts, bits, top=signed),
            "the whole numbers are returned: multiply them by their scale again": torch.round(parts / (parts.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1))).reshape(weight.shape)},
            lambda a, b: torch.allclose(a, b, atol=1e-5)) or f"for bits = {bits} and group = {group} the first row should be {[round(x, 3) for x in right[0].tolist()]}, not {[round(x, 3) for x in got[0].tolist()]}."


@question("08.2")
def _packed_megabytes(function):
    """Megabytes of a model: `linear` weights at `bits` with a 16-bit scale a group, `other` parameters in 16 bits."""
    for linear, other, bits, group in ((973e6, 263e6, 4, 32), (1e8, 1e7, 3, 128)):
        right = (linear * (bits + 16 / group) + other * 16) / 8e6
        wrong = closest(call(function, linear, other, bits, group), right, {
            "the scales are forgotten": (linear * bits + other * 16) / 8e6,
            "every weight has a scale of its own": (linear * (bits + 16) + other * 16) / 8e6,
            "the scales take 16 bytes, not bits": (linear * (bits + 128 / group) + other * 16) / 8e6,
            "the embeddings are packed, too": (linear + other) * (bits + 16 / group) / 8e6,
            "the embeddings are packed, too, and the scales forgotten": (linear + other) * bits / 8e6,
            "the embeddings are in 32 bits": (linear * (bits + 16 / group) + other * 32) / 8e6,
            "bits are taken for bytes": right * 8, "bytes are not turned into megabytes": right * 1e6}, tolerance=1e-5)
        if wrong:
            return f"For {linear:.3g} weights at {bits} bits in groups of {group} and {other:.3g} others: {wrong}"


@question("08.3")
def _share_in_time(function):
    """The share of a corpus (0 to 1) that is seen at least once in `hours` at `rows_per_second`, when `used` of them go to other things."""
    for hours, rate, rows, used in ((8, 25.0, 2_007_723, 0.5), (8, 400.0, 392_702, 0.5)):
        right = min(1.0, (hours - used) * 3600 * rate / rows)
        wrong = closest(call(function, hours, rate, rows, used), right, {
            "the start and the evaluation are given to training, too": min(1.0, hours * 3600 * rate / rows),
            "more than the whole corpus is seen: after one pass, the share is 1": (hours - used) * 3600 * rate / rows,
            "hours are turned into minutes, not seconds": min(1.0, (hours - used) * 60 * rate / rows),
            "per cent and shares are mixed": 100 * right, "the fraction is turned round": rows / ((hours - used) * 3600 * rate)}, tolerance=1e-6)
        if wrong:
            return f"For {hours} hours ({used} used up), {rate:g} rows a second and {rows:,} rows: {wrong}"


# -- 09 · Beyond logits -------------------------------------------------------------------------------------------------

@question("09.1")
def _nearly_forgiven(given):
    """Three probabilities with KL(student ‖ teacher) below 0.75 and KL(teacher ‖ student) above 2.5; the teacher says (0.49, 0.02, 0.49)."""
    q, p = [float(x) for x in given], (0.49, 0.02, 0.49)
    if len(q) != 3 or abs(sum(q) - 1) > 1e-3:
        return f"Three probabilities that sum to 1 are asked; yours are {len(q)} and sum to {sum(q):g}."
    if min(q) <= 0:
        return "A probability of 0 makes the forward KL infinite: that is its lesson, but keep all three above 0, however small."
    forward, reverse = (sum(a * math.log(a / b) for a, b in zip(x, y)) for x, y in ((p, q), (q, p)))
    told = f"Reverse KL {reverse:.2f}, forward KL {forward:.2f}. "
    if reverse >= 0.75:
        return told + ("The middle word is what the teacher abhors; reverse KL punishes a student that says it." if q[1] > 0.1 else
                       "Reverse KL averages over what the *student* says: let it say one good word, and hardly another.")
    if forward <= 2.5:
        return told + "Forward KL averages over what the *teacher* says: what must the student nearly never say?"


@question("09.2")
def _cosine_loss(function):
    """1 - cos at each real token, mean over a row's real tokens, then over rows."""
    import torch
    import torch.nn.functional as F
    draw = torch.Generator().manual_seed(0)
    s, t = (torch.randn(2, 4, 3, generator=draw) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    each, real = 1 - F.cosine_similarity(s, t, dim=-1), mask.bool()
    rows = lambda x, m: (((x * m).sum(1) / m.sum(1)).mean()).item()
    pooled = [(x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for x in (s, t)]
    return closest(float(call(function, s, t, mask)), rows(each, mask), {
        "padding counts as well": each.mean().item(), "padding is set to 0 and still counted in the mean": (each * mask).mean().item(),
        "all tokens are averaged at once, so that a long row weighs more": each[real].mean().item(),
        "the cosine itself is returned: it must fall as the two agree": rows(1 - each, mask), "tokens are summed, not averaged": (each * mask).sum(1).mean().item(),
        "the vectors are averaged over a row before they are compared": (1 - F.cosine_similarity(*pooled, dim=-1)).mean().item(),
        "the scalar product is not divided by the lengths": rows(1 - (s * t).sum(-1), mask),
        "the cosine runs over tokens, not over the width": (1 - F.cosine_similarity(s, t, dim=1)).mean().item()})


@question("09.3")
def _shown_better(function):
    """The methods whose metric is shown to be smaller than the control's, paired over seeds, in alphabetical order"""
    import pandas as pd
    values = {"control": (.50, .70, .90, .60), "steady": (.45, .64, .86, .55), "moody": (.10, .75, .95, .30), "worse": (.55, .76, .94, .65), "once": (.20,)}
    runs = pd.DataFrame([(method, seed, value) for method, found in values.items() for seed, value in enumerate(found)], columns=["method", "seed", "nats"])
    got = [str(name) for name in list(call(function, runs.copy(), "control", "nats"))]
    if got == ["steady"]:
        return None
    return recognised(sorted(got), {
        "the smaller mean counts as better, whatever its interval": ["moody", "once", "steady"], "every interval that excludes 0 counts, also on the wrong side": ["steady", "worse"],
        "more is taken for better": ["worse"], "the seeds are not paired: their own spread, which all methods share, then hides the difference": [],
        "better at every seed that it has counts: with one seed nothing is shown": ["once", "steady"]}, lambda a, b: a == b) or (
        f"expected ['steady']: its four differences are all near -0.05; got {got}.")


# -- 10 · Findings --------------------------------------------------------------------------------------------------------

@question("10.1")
def _three_words(function):
    """"supported", "not supported" or "not tested here", from one difference a seed and what the claim says must be exceeded."""
    from .course.results import interval
    cases = {"three seeds that agree": ([1.0, 1.2, 0.9], 0.0), "three seeds that do not": ([2.0, -0.5, 1.5], 0.0), "one seed": ([3.0], 0.0),
             "a loss": ([-1.0, -1.1, -0.9], 0.0), "a gain smaller than the claim's": ([1.0, 1.2, 0.9], 5.0), "two seeds": ([1.0, 1.4], 0.0)}
    def rule(values, above, low=lambda found: found.low, least=2):
        found = interval(values)
        return "not tested here" if len(values) < least else "supported" if low(found) > above else "not supported"
    right = {name: rule(*case) for name, case in cases.items()}
    got = {name: call(function, list(values), above) for name, (values, above) in cases.items()}
    if got == right:
        return None
    mistakes = {"the mean alone decides: the spread over seeds is ignored": dict(low=lambda found: found.mean),
                "the interval must only exclude 0, in whatever direction": dict(low=lambda found: max(found.low, -found.high)),
                "two seeds count as none: an interval from two is wide, but it is one": dict(least=3), "one seed counts as a test": dict(least=1)}
    wrong = {name: {c: rule(*case, **change) for c, case in cases.items()} for name, change in mistakes.items()}
    wrong["the claim's own threshold is forgotten: 0 is not always what must be exceeded"] = {c: rule(v, 0.0) for c, (v, _) in cases.items()}
    where = next(name for name in cases if got[name] != right[name])
    return recognised(got, wrong, lambda a, b: a == b) or f"For {where} {cases[where]} expected {right[where]!r}, got {got[where]!r}."


@question("10.2")
def _best_alpha_in_the_book(function):
    """The alpha with the best mean accuracy over seeds, in the book's convention, from runs in ours."""
    import pandas as pd
    runs = pd.DataFrame([(a, s, acc) for a, values in ((0.25, (.70, .71, .72)), (0.5, (.80, .66, .66)), (0.9, (.74, .75, .73)), (1.0, (.69, .70, .68))) for s, acc in enumerate(values)],
                        columns=["alpha", "seed", "accuracy"])
    return closest(call(function, runs.copy()), 0.1, {"the answer is in our convention: the book's alpha is one minus ours": 0.9,
        "the single best run chose, not the mean over seeds": 0.5, "the *worst* alpha was taken": 1 - runs.groupby("alpha")["accuracy"].mean().idxmin(),
        "the best accuracy is returned, not its alpha": runs.groupby("alpha")["accuracy"].mean().max(), "one minus the accuracy is returned": 1 - runs.groupby("alpha")["accuracy"].mean().max()}, tolerance=1e-6)


@question("10.3")
def _inside(function):
    """Whether one run lies inside the stated spread of reference runs: within two sample standard deviations of their mean."""
    import numpy as np
    cases = [(x, [1.0, 0.85, 1.25]) for x in (1.0, 1.45, 0.5, 0.66, 0.75, 1.26, 1.24, 0.84)]
    rule = lambda width: [bool(abs(x - np.mean(r)) <= width(np.array(r))) for x, r in cases]
    got = [bool(call(function, x, list(r))) for x, r in cases]
    right = rule(lambda r: 2 * r.std(ddof=1))
    if got == right:
        return None
    return recognised(got, {"the spread of the *mean* (sd divided by the root of n) is taken: one run scatters more than a mean": rule(lambda r: 2 * r.std(ddof=1) / len(r) ** 0.5),
                            "the sd divides by n, not by n − 1": rule(lambda r: 2 * r.std()), "one sd is taken, not two": rule(lambda r: r.std(ddof=1)),
                            "the run must lie between the smallest and the largest reference": [min(r) <= x <= max(r) for x, r in cases],
                            "only runs below the mean are looked at (take the absolute difference)": [x - np.mean(r) <= 2 * np.std(r, ddof=1) for x, r in cases]},
                      lambda a, b: a == b) or f"for a run of {next(c[0] for c, g, w in zip(cases, got, right) if g != w)} and references {cases[0][1]} expected {not next(g for g, w in zip(got, right) if g != w)}."
