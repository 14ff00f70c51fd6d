"""Exercise checks: the right answer passes, usual mistakes are named, nothing stops a notebook."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from kdlib import check, results
from kdlib.course.check import nb03
from kdlib.course.check.nb07 import REFERENCE


def verdict(capsys, number, given):
    right = check.answer(number, given)
    return right, capsys.readouterr().out


def test_an_empty_answer_and_one_that_raises(capsys):
    for empty in (None, ..., lambda *a: None):
        assert verdict(capsys, "05.1", empty) == (False, "05.1: not answered yet\n")
    right, printed = verdict(capsys, "05.1", lambda p: 1 / 0)
    assert not right and "ZeroDivisionError" in printed
    assert "there is no exercise" in verdict(capsys, "99.9", 1)[1]


# -- 03 --------------------------------------------------------------------------------------------


def solution(number, signature, *changed):
    """The model answer of nb03 as a function, with one part of its source changed."""
    source = nb03.ANSWERS[number].strip().split("\n\n")[0]
    if changed:
        assert changed[0] in source
        source = source.replace(*changed)
    names = {"torch": torch, "F": torch.nn.functional}
    names["logits_of"] = lambda model, batch: model(batch["input_ids"]).logits
    lines = "\n".join("    " + line for line in source.splitlines())
    exec(f"def answer({signature}):\n{lines}", names)
    return names["answer"]


SIGNATURES = {
    "03.1": "student, teacher, labels, temperature, alpha",
    "03.2": "student, teacher, loader, loss_of, epochs, learning_rate",
    "03.3": "alpha, T",
    "03.4": "student, inputs, teacher_logits, labels, loss_of, size",
}


@pytest.mark.parametrize(
    "number, changed, message",
    [
        ("03.1", ("temperature**2 *", ""), "T² is forgotten"),
        ("03.1", ("temperature**2", "temperature"), "T stands where"),
        ("03.1", ("(log_q, log_p", "(log_p, log_q"), "arguments are swapped"),
        ("03.1", ('"batchmean"', '"sum"'), "soft loss is summed"),
        ("03.1", ("alpha * soft + (1 - alpha) * hard", "alpha * soft"), "hard loss is missing"),
        ("03.1", ("soft + (1 - alpha) * hard", "hard + (1 - alpha) * soft"), "alpha weights"),
        ("03.1", ("teacher / temperature", "teacher"), "teacher is not softened"),
        ("03.1", ('"batchmean"', '"none"'), "one number"),
        ("03.1", ("return alpha", "return 3.7 * alpha"), "by hand"),
        ("03.2", ("teacher.eval()", "teacher.train()"), "dropout on"),
        ("03.2", ("student.train()", ""), "needs train()"),
        ("03.2", ("torch.no_grad()", "torch.enable_grad()"), "no_grad()"),
        ("03.2", ("optimizer.zero_grad()", ""), "add up"),
        ("03.2", ("optimizer.step()", ""), "No weight"),
        ("03.2", ("AdamW", "SGD"), "SGD"),
        ("03.2", (", lr=learning_rate", ""), "default"),
        ("03.2", ("lr=learning_rate", "lr=2 * learning_rate"), "other weights"),
        ("03.2", ("range(epochs)", "range(1)"), "3 losses came back for 2 epochs of 3"),
        ("03.2", ("return losses", ""), "returns nothing"),
        ("03.3", ("T**2", "T"), "T stands where"),
        ("03.3", ("T**2", "T**-2"), "turned round"),
        ("03.3", ("alpha * T**2 / (", "16 / 17 + 0 * ("), "T = 4 is solved"),
        ("03.3", ("alpha * T**2 /", "2 * T**2 *"), "above 1"),
        ("03.3", ("T**2", "T**3"), "Measure it"),
        ("03.4", ("share * loss", "loss"), "nobody divides"),
        ("03.4", ("/ valid", "/ len(labels)"), "padded rows count"),
        ("03.4", ("share * loss", "loss / 4"), "number of pieces"),
        ("03.4", ("/ valid", "/ 3"), "Which number divides"),
        ("03.4", ("(share", "student.zero_grad(); (share"), "last piece"),
    ],
)
def test_03_names_the_mistake_and_never_the_answer(capsys, number, changed, message):
    given = solution(number, SIGNATURES[number], *changed)
    right, printed = verdict(capsys, number, given)
    assert not right and message in printed and "expected" not in printed


@pytest.mark.parametrize("number", SIGNATURES)
def test_03_model_answers_are_right_and_blanks_are_not_answered(capsys, number):
    assert verdict(capsys, number, solution(number, SIGNATURES[number]))[0]
    blank = solution(
        number, SIGNATURES[number], nb03.ANSWERS[number].strip().split("\n\n")[0], "..."
    )
    assert verdict(capsys, number, blank)[1] == f"{number}: not answered yet\n"


# -- 05 --------------------------------------------------------------------------------------------


def lazy(p):
    return p, p / (1 + p), 2 * p / (1 + p)


@pytest.mark.parametrize(
    "given, message",
    [
        (lazy, "right"),
        (lambda p: lazy(1 - p), "classes are swapped"),
        (lambda p: (p, *lazy(p)[:0:-1]), "mean over both classes"),
        (lambda p: tuple(100 * x for x in lazy(p)), "percentages"),
        (lambda p: p, "three numbers"),
    ],
)
def test_05_1(capsys, given, message):
    assert message in verdict(capsys, "05.1", given)[1]


def temperature(logits, labels, temperatures, sign=1):
    def ce(t):
        z = np.asarray(logits) / t
        log_probabilities = z - np.log(np.exp(z).sum(1, keepdims=True))
        return sign * -log_probabilities[np.arange(len(labels)), labels].mean()

    return min(temperatures, key=ce)


@pytest.mark.parametrize(
    "given, message",
    [
        (temperature, "right"),
        (lambda z, y, T: temperature(z, y, T, -1), "largest cross-entropy"),
        (lambda z, y, T: temperature(z, z.argmax(1), T), "model's own answers"),
        (lambda z, y, T: max(T), "most modest"),
    ],
)
def test_05_2(capsys, given, message):
    assert message in verdict(capsys, "05.2", given)[1]


def best(runs):
    return runs.groupby("alpha")["accuracy"].mean().idxmax()


def as_soft(alpha, convention):
    return alpha if convention == "soft" else 1 - alpha


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda runs, how: as_soft(best(runs), how), "right"),
        (lambda runs, how: best(runs), "not heeded"),
        (lambda runs, how: as_soft(runs.loc[runs["accuracy"].idxmax(), "alpha"], how), ""),
    ],
)
def test_05_3(capsys, given, message):
    right, printed = verdict(capsys, "05.3", given)
    assert message in printed and right == (message == "right")


# -- 06 --------------------------------------------------------------------------------------------


def masked(ids, header, shift=0, last=True, n=None):
    starts = [i + 3 for i in range(len(ids)) if ids[i : i + 3] == header]
    first = starts[-1 if last else 0] + shift
    return [-100] * first + ids[first:n] + [-100] * (0 if n is None else -n)


def masked_the_wrong_way_round(ids, header):
    return [a if b == -100 else -100 for a, b in zip(ids, masked(ids, header))]


@pytest.mark.parametrize(
    "given, message",
    [
        (masked, "06.1: right"),
        (lambda i, h: masked(i, h, last=False), "first header"),
        (lambda i, h: masked(i, h, -1), "last token is learnt too"),
        (lambda i, h: masked(i, h, -3), "header is learnt too"),
        (lambda i, h: masked(i, h, 1), "first token is masked"),
        (lambda i, h: masked(i, h)[1:] + [-100], "shifted by hand"),
        (lambda i, h: masked(i, h, n=-1), "does not end"),
        (lambda i, h: masked(i, h, n=-2), "both end tokens"),
        (lambda i, h: i, "nothing is masked"),
        (lambda i, h: masked(i, h)[1:], "as long as"),
        (lambda i, h: [0] * len(i), "should be"),
        (masked_the_wrong_way_round, "turned round"),
    ],
)
def test_06_1(capsys, given, message):
    assert message in verdict(capsys, "06.1", given)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda a, t: 1 - a + a * t, "06.2: right"),
        (lambda a, t: a + (1 - a) * t, "weight of the labels"),
        (lambda a, t: t**a, "logarithms"),
        (lambda a, t: 1 - a, "share is left out"),
        (lambda a, t: t, "label is not heard"),
        (lambda a, t: 1, "teacher is not heard"),
        (lambda a, t: (1 + t) / 2, "count alike"),
        (lambda a, t: 0.123, "expected"),
    ],
)
def test_06_2(capsys, given, message):
    assert message in verdict(capsys, "06.2", given)[1]


def shortened(ids, labels, longest, stop):
    over = max(0, len(ids) - longest)
    return ids[: stop - over] + ids[stop:], labels[: stop - over] + labels[stop:]


@pytest.mark.parametrize(
    "given, message",
    [
        (shortened, "06.3: right"),
        (lambda ids, labels, n, s: (ids[:n], labels[:n]), "end is cut off"),
        (lambda ids, labels, n, s: (ids[-n:], labels[-n:]), "beginning is cut off"),
        (lambda ids, labels, n, s: shortened(ids, labels, n, s + 1), "closes the user's turn"),
        (
            lambda ids, labels, n, s: (shortened(ids, labels, n, s)[0], labels),
            "as long as they were",
        ),
        (lambda ids, labels, n, s: (shortened(ids, labels, n, s)[0], labels[:n]), "should go"),
        (lambda ids, labels, n, s: (ids, labels), "nothing is cut"),
        (lambda ids, labels, n, s: ids, "two lists"),
        (lambda ids, labels, n, s: ([], []), "should go"),
    ],
)
def test_06_3(capsys, given, message):
    assert message in verdict(capsys, "06.3", given)[1]


# -- 07 --------------------------------------------------------------------------------------------

LOST = "La Commission a approuvé le rapport sur la pêche."
KEPT = "La Commission n'a pas validé le document sur la pêche."
ONE_WORD_EXCHANGED = "La Commission n'a pas validé le rapport sur la pêche."


@pytest.mark.parametrize(
    "given, message",
    [
        ((KEPT, LOST), "right"),
        ((ONE_WORD_EXCHANGED, LOST), "still prefers the right one"),
        ((LOST, LOST), "must still say that the Commission did not"),
        ((REFERENCE, LOST), "the reference itself"),
        ((KEPT, REFERENCE), "should have lost"),
        (7, "raised TypeError"),
    ],
)
def test_07_1(capsys, given, message):
    assert message in verdict(capsys, "07.1", given)[1]


def kd_on_targets(student, teacher, labels, T, shift=1, squared=True, swap=False, mean=True):
    keep = labels != -100
    if shift:
        keep, student, teacher = keep[:, 1:], student[:, :-1], teacher[:, :-1]
    if swap:
        student, teacher = teacher, student
    s, t = (torch.log_softmax(logits[keep] / T, -1) for logits in (student, teacher))
    per_token = (t.exp() * (t - s)).sum(-1)
    return (per_token.mean() if mean else per_token.sum()) * (T * T if squared else 1)


@pytest.mark.parametrize(
    "mistake, message",
    [
        ({}, "right"),
        ({"shift": 0}, "not shifted"),
        ({"squared": False}, "T² is forgotten"),
        ({"swap": True}, "arguments are swapped"),
        ({"mean": False}, "not divided by the number of tokens"),
    ],
)
def test_07_2(capsys, mistake, message):
    answer = lambda *given: kd_on_targets(*given, **mistake)
    assert message in verdict(capsys, "07.2", answer)[1]


@pytest.mark.parametrize(
    "column, how, message",
    [
        ("ce", lambda g: g.mean().idxmin(), "right"),
        ("bleu", lambda g: g.mean().idxmax(), "no test any more"),
        ("ce", lambda g: g.min().idxmin(), "single best run"),
        ("ce", lambda g: g.mean().idxmax(), "*largest*"),
    ],
)
def test_07_3(capsys, column, how, message):
    def pick(runs):
        ranks = runs.groupby("lora_rank")
        return {rank: how(part.groupby("learning_rate")[column]) for rank, part in ranks}

    assert message in verdict(capsys, "07.3", pick)[1]


# -- 08 --------------------------------------------------------------------------------------------


def rounded(
    weight,
    bits,
    group,
    largest=None,
    rounding=torch.round,
    whole=False,
    down=False,
    back=True,
    signed=False,
):
    parts = (weight.T if down else weight).reshape(-1, weight.numel() if whole else group)
    top = largest(bits) if largest else 2 ** (bits - 1) - 1
    if signed:
        step = parts.amax(1, keepdim=True).clamp(min=1e-6) / top
    else:
        step = parts.abs().amax(1, keepdim=True) / top
    result = rounding(parts / step).clamp(-top, top) * (step if back else 1)
    return result.reshape(weight.shape[::-1]).T if down else result.reshape(weight.shape)


@pytest.mark.parametrize(
    "how, message",
    [
        ({}, "right"),
        ({"whole": True}, "whole matrix shares one scale"),
        ({"largest": lambda b: 2**b - 1}, "a bit too many"),
        ({"largest": lambda b: 2 ** (b - 1)}, "one value too many"),
        ({"rounding": np.floor}, "floor"),
        ({"rounding": np.trunc}, "trunc"),
        ({"signed": True}, "large negative ones are clipped"),
        ({"back": False}, "whole numbers are returned"),
    ],
)
def test_08_1(capsys, how, message):
    answer = lambda *given: rounded(*given, **how)
    assert message in verdict(capsys, "08.1", answer)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda w, b, g: rounded(w, b, w.shape[1]), "a row shares one scale"),
        (lambda w, b, g: rounded(w, b, 2, down=True), "down the columns"),
        (lambda w, b, g: rounded(w, b, g).flatten(), "shape (2, 8)"),
        (lambda w, b, g: w, "the first row should be"),
    ],
)
def test_08_1_groups(capsys, given, message):
    assert message in verdict(capsys, "08.1", given)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda n, o, b, g: (n * (b + 16 / g) + 16 * o) / 8e6, "right"),
        (lambda n, o, b, g: (n * b + 16 * o) / 8e6, "scales are forgotten"),
        (lambda n, o, b, g: (n * (b + 16) + 16 * o) / 8e6, "scale of its own"),
        (lambda n, o, b, g: (n + o) * (b + 16 / g) / 8e6, "packed, too"),
        (lambda n, o, b, g: (n * (b + 16 / g) + 16 * o) / 1e6, "bits are taken for bytes"),
        (lambda n, o, b, g: (n * (b + 16 / g) + 32 * o) / 8e6, "32 bits"),
    ],
)
def test_08_2(capsys, given, message):
    assert message in verdict(capsys, "08.2", given)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda h, r, n, u: min(1, (h - u) * 3600 * r / n), "right"),
        (lambda h, r, n, u: min(1, h * 3600 * r / n), "given to training"),
        (lambda h, r, n, u: (h - u) * 3600 * r / n, "after one pass"),
        (lambda h, r, n, u: min(1, (h - u) * 60 * r / n), "minutes"),
        (lambda h, r, n, u: 100 * min(1, (h - u) * 3600 * r / n), "per cent"),
    ],
)
def test_08_3(capsys, given, message):
    assert message in verdict(capsys, "08.3", given)[1]


# -- 09 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, message",
    [
        ([0.998, 0.001, 0.001], "09.1: right"),
        ((0.001, 0.001, 0.998), "09.1: right"),
        ([1, 0, 0], "infinite"),
        ([0.9, 0.05, 0.05], "nearly never say"),
        ([1 / 3, 1 / 3, 1 / 3], "Reverse KL 0.68"),
        ([0.2, 0.6, 0.2], "abhors"),
        ([0.5, 0.5], "Three probabilities"),
        ([0.9, 0.9, 0.9], "sum to 2.7"),
    ],
)
def test_09_1(capsys, given, message):
    assert message in verdict(capsys, "09.1", given)[1]


def distance(student, teacher):
    return 1 - cosine_similarity(student, teacher, dim=-1)


def mean_of_rows(by_token, mask):
    return ((by_token * mask).sum(1) / mask.sum(1)).mean()


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda s, t, m: mean_of_rows(distance(s, t), m), "09.2: right"),
        (lambda s, t, m: distance(s, t).mean(), "padding counts"),
        (lambda s, t, m: (distance(s, t) * m).mean(), "set to 0"),
        (lambda s, t, m: distance(s, t)[m.bool()].mean(), "all tokens"),
        (lambda s, t, m: mean_of_rows(cosine_similarity(s, t, dim=-1), m), "cosine itself"),
        (lambda s, t, m: mean_of_rows(1 - (s * t).sum(-1), m), "divided by the lengths"),
        (lambda s, t, m: torch.tensor(9.0), "expected"),
    ],
)
def test_09_2(capsys, given, message):
    assert message in verdict(capsys, "09.2", given)[1]


def shown_better(runs, control, metric, side=lambda d: d.high < 0):
    methods = sorted(set(runs["method"]) - {control})
    differences = {m: results.paired(runs, m, control, metric) for m in methods}
    return [m for m, difference in differences.items() if difference and side(difference)]


def shown_if(side):
    return lambda runs, control, metric: shown_better(runs, control, metric, side)


@pytest.mark.parametrize(
    "given, message",
    [
        (shown_better, "09.3: right"),
        (shown_if(lambda d: d.mean < 0), "smaller mean"),
        (shown_if(lambda d: d.verdict == "excludes 0"), "wrong side"),
        (shown_if(lambda d: d.low > 0), "more is taken"),
        (lambda r, c, m: [], "not paired"),
        (lambda r, c, m: ["once", "steady"], "one seed"),
        (lambda r, c, m: ["control"], "expected"),
    ],
)
def test_09_3(capsys, given, message):
    assert message in verdict(capsys, "09.3", given)[1]


# -- 10 --------------------------------------------------------------------------------------------


def four_words(values, above, low=lambda f: f.low, high=lambda f: f.high, least=2):
    interval = results.interval(values)
    if interval.n < least:
        return "not tested here"
    if low(interval) > above:
        return "supported"
    return "refuted" if high(interval) < above else "undecided"


def mean_of(interval):
    return interval.mean


@pytest.mark.parametrize(
    "given, message",
    [
        (four_words, "right"),
        (lambda v, a: four_words(v, a, mean_of, mean_of), "mean alone"),
        (lambda v, a: four_words(v, a, lambda f: max(f.low, -f.high)), "whatever direction"),
        (lambda v, a: four_words(v, a).replace("undecided", "refuted"), "cannot tell"),
        (lambda v, a: four_words(v, a).replace("refuted", "undecided"), "do tell"),
        (lambda v, a: four_words(v, a, least=3), "two seeds count as none"),
        (lambda v, a: four_words(v, a, least=1), "one seed counts"),
        (lambda v, a: four_words(v, 0), "own threshold"),
        (lambda v, a: "supported", "expected"),
    ],
)
def test_10_1(capsys, given, message):
    assert message in verdict(capsys, "10.1", given)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda r: 1 - best(r), "right"),
        (best, "our convention"),
        (lambda r: 1 - r.loc[r["accuracy"].idxmax(), "alpha"], "single best run"),
        (lambda r: 1 - r.groupby("alpha")["accuracy"].mean().idxmin(), "worst"),
        (lambda r: r.groupby("alpha")["accuracy"].mean().max(), "not its alpha"),
    ],
)
def test_10_2(capsys, given, message):
    assert message in verdict(capsys, "10.2", given)[1]


def inside(run, references, width=2.0, ddof=1, root=False):
    sd = np.std(references, ddof=ddof) / (len(references) ** 0.5 if root else 1)
    return abs(run - np.mean(references)) <= width * sd


@pytest.mark.parametrize(
    "given, message",
    [
        (inside, "right"),
        (lambda x, r: inside(x, r, root=True), "spread of the *mean*"),
        (lambda x, r: inside(x, r, ddof=0), "not by n"),
        (lambda x, r: inside(x, r, 1.0), "one sd"),
        (lambda x, r: min(r) <= x <= max(r), "smallest and the largest"),
        (lambda x, r: x - np.mean(r) <= 2 * np.std(r, ddof=1), "below the mean"),
        (lambda x, r: False, "expected"),
    ],
)
def test_10_3(capsys, given, message):
    assert message in verdict(capsys, "10.3", given)[1]
