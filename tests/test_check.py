"""Exercise checks: the right answer passes, each usual mistake is named, and nothing that a student writes stops a notebook."""
import numpy as np
import pytest

from kdlib import check
from kdlib.course.check import nb07


def verdict(capsys, number, given):
    right = check.answer(number, given)
    return right, capsys.readouterr().out


def test_an_empty_answer_and_one_that_raises(capsys):
    for empty in (None, ..., lambda *a: None):
        assert verdict(capsys, "05.1", empty) == (False, "05.1: not answered yet\n")
    right, told = verdict(capsys, "05.1", lambda p: 1 / 0)
    assert not right and "ZeroDivisionError" in told
    assert "there is no exercise" in verdict(capsys, "99.9", 1)[1]


lazy = lambda p: (p, p / (1 + p), 2 * p / (1 + p))


@pytest.mark.parametrize("given, told", [
    (lazy, "right"), (lambda p: lazy(1 - p), "classes are swapped"), (lambda p: (p, *lazy(p)[:0:-1]), "mean over both classes"),
    (lambda p: tuple(100 * x for x in lazy(p)), "percentages"), (lambda p: p, "three numbers")])
def test_05_1(capsys, given, told):
    assert told in verdict(capsys, "05.1", given)[1]


def temperature(logits, labels, temperatures, sign=1):
    def ce(t):
        z = np.asarray(logits) / t
        return sign * -(z - np.log(np.exp(z).sum(1, keepdims=True)))[np.arange(len(labels)), labels].mean()
    return min(temperatures, key=ce)


@pytest.mark.parametrize("given, told", [
    (temperature, "right"), (lambda z, y, T: temperature(z, y, T, -1), "largest cross-entropy"),
    (lambda z, y, T: temperature(z, z.argmax(1), T), "model's own answers"), (lambda z, y, T: max(T), "most modest")])
def test_05_2(capsys, given, told):
    assert told in verdict(capsys, "05.2", given)[1]


best = lambda runs: runs.groupby("alpha")["accuracy"].mean().idxmax()


@pytest.mark.parametrize("given, told", [
    (lambda runs, how: best(runs) if how == "soft" else 1 - best(runs), "right"), (lambda runs, how: best(runs), "not heeded"),
    (lambda runs, how: (lambda a: a if how == "soft" else 1 - a)(runs.loc[runs["accuracy"].idxmax(), "alpha"]), "")])
def test_05_3(capsys, given, told):
    right, said = verdict(capsys, "05.3", given)
    assert told in said and right == (told == "right")


def masked(ids, header, shift=0, last=True, n=None):
    starts = [i + 3 for i in range(len(ids)) if ids[i:i + 3] == header]
    first = starts[-1 if last else 0] + shift
    return [-100] * first + ids[first:n] + [-100] * (0 if n is None else -n)


@pytest.mark.parametrize("given, told", [
    (masked, "06.1: right"), (lambda i, h: masked(i, h, last=False), "first header"), (lambda i, h: masked(i, h, -1), "last token is learnt too"),
    (lambda i, h: masked(i, h, -3), "header is learnt too"), (lambda i, h: masked(i, h, 1), "first token is masked"),
    (lambda i, h: masked(i, h)[1:] + [-100], "shifted by hand"), (lambda i, h: masked(i, h, n=-1), "does not end"),
    (lambda i, h: masked(i, h, n=-2), "both end tokens"), (lambda i, h: i, "nothing is masked"), (lambda i, h: masked(i, h)[1:], "as long as"),
    (lambda i, h: [0] * len(i), "should be"),
    (lambda i, h: [a if b == -100 else -100 for a, b in zip(i, masked(i, h))], "turned round")])
def test_06_1(capsys, given, told):
    assert told in verdict(capsys, "06.1", given)[1]


@pytest.mark.parametrize("given, told", [
    (lambda a, t: 1 - a + a * t, "06.2: right"), (lambda a, t: a + (1 - a) * t, "weight of the labels"), (lambda a, t: t**a, "logarithms"),
    (lambda a, t: 1 - a, "share is left out"), (lambda a, t: t, "label is not heard"), (lambda a, t: 1, "teacher is not heard"),
    (lambda a, t: (1 + t) / 2, "count alike"), (lambda a, t: 0.123, "expected")])
def test_06_2(capsys, given, told):
    assert told in verdict(capsys, "06.2", given)[1]


def shortened(ids, labels, longest, stop):
    over = max(0, len(ids) - longest)
    return ids[:stop - over] + ids[stop:], labels[:stop - over] + labels[stop:]


@pytest.mark.parametrize("given, told", [
    (shortened, "06.3: right"), (lambda i, l, n, s: (i[:n], l[:n]), "end is cut off"), (lambda i, l, n, s: (i[-n:], l[-n:]), "beginning is cut off"),
    (lambda i, l, n, s: shortened(i, l, n, s + 1), "closes the user's turn"), (lambda i, l, n, s: (shortened(i, l, n, s)[0], l), "as long as they were"),
    (lambda i, l, n, s: (shortened(i, l, n, s)[0], l[:n]), "should go"), (lambda i, l, n, s: (i, l), "nothing is cut"),
    (lambda i, l, n, s: i, "two lists"), (lambda i, l, n, s: ([], []), "should go")])
def test_06_3(capsys, given, told):
    assert told in verdict(capsys, "06.3", given)[1]


# -- 07 ---------------------------------------------------------------------------------------------------------------

LOST = "La Commission a approuvé le rapport sur la pêche."


@pytest.mark.parametrize("given, told", [
    (("La Commission n'a pas validé le document sur la pêche.", LOST), "right"),
    (("La Commission n'a pas validé le rapport sur la pêche.", LOST), "still prefers the right one"),
    ((LOST, LOST), "must still say that the Commission did not"), ((nb07.REFERENCE, LOST), "the reference itself"),
    (("La Commission n'a pas validé le document sur la pêche.", nb07.REFERENCE), "should have lost"), (7, "raised TypeError")])
def test_07_1(capsys, given, told):
    assert told in verdict(capsys, "07.1", given)[1]


def kd_on_targets(student, teacher, labels, T, shift=1, squared=True, swap=False, mean=True):
    import torch
    keep = labels[:, 1:] != -100 if shift else labels != -100
    cut = (lambda x: x[:, :-1]) if shift else (lambda x: x)
    s, t = (torch.log_softmax(cut(x)[keep] / T, -1) for x in ((teacher, student) if swap else (student, teacher)))
    per_token = (t.exp() * (t - s)).sum(-1)
    return (per_token.mean() if mean else per_token.sum()) * (T * T if squared else 1)


@pytest.mark.parametrize("mistake, told", [
    ({}, "right"), (dict(shift=0), "not shifted"), (dict(squared=False), "T² is forgotten"), (dict(swap=True), "arguments are swapped"),
    (dict(mean=False), "not divided by the number of tokens")])
def test_07_2(capsys, mistake, told):
    assert told in verdict(capsys, "07.2", lambda *given: kd_on_targets(*given, **mistake))[1]


@pytest.mark.parametrize("column, how, told", [
    ("ce", lambda g: g.mean().idxmin(), "right"), ("bleu", lambda g: g.mean().idxmax(), "no test any more"),
    ("ce", lambda g: g.min().idxmin(), "single best run"), ("ce", lambda g: g.mean().idxmax(), "*largest*")])
def test_07_3(capsys, column, how, told):
    pick = lambda runs: {rank: how(part.groupby("learning_rate")[column]) for rank, part in runs.groupby("lora_rank")}
    assert told in verdict(capsys, "07.3", pick)[1]


def rounded(weight, bits, group, largest=None, rounding=None, whole=False, down=False, back=True, signed=False):
    import torch
    parts = (weight.T if down else weight).reshape(-1, weight.numel() if whole else group)
    top = largest(bits) if largest else 2 ** (bits - 1) - 1
    step = (parts.amax(1, keepdim=True).clamp(min=1e-6) if signed else parts.abs().amax(1, keepdim=True)) / top
    found = (rounding or torch.round)(parts / step).clamp(-top, top) * (step if back else 1)
    return found.reshape(weight.shape[::-1]).T if down else found.reshape(weight.shape)


@pytest.mark.parametrize("how, told", [
    ({}, "right"), (dict(whole=True), "whole matrix shares one scale"), (dict(largest=lambda b: 2**b - 1), "a bit too many"),
    (dict(largest=lambda b: 2 ** (b - 1)), "one value too many"), (dict(rounding=np.floor), "floor"), (dict(rounding=np.trunc), "trunc"),
    (dict(signed=True), "large negative ones are clipped"), (dict(back=False), "whole numbers are returned")])
def test_08_1(capsys, how, told):
    assert told in verdict(capsys, "08.1", lambda *given: rounded(*given, **how))[1]


@pytest.mark.parametrize("given, told", [
    (lambda w, b, g: rounded(w, b, w.shape[1]), "a row shares one scale"), (lambda w, b, g: rounded(w, b, 2, down=True), "down the columns"),
    (lambda w, b, g: rounded(w, b, g).flatten(), "shape (2, 8)"), (lambda w, b, g: w, "the first row should be")])
def test_08_1_groups(capsys, given, told):
    assert told in verdict(capsys, "08.1", given)[1]


@pytest.mark.parametrize("given, told", [
    (lambda n, o, b, g: (n * (b + 16 / g) + 16 * o) / 8e6, "right"), (lambda n, o, b, g: (n * b + 16 * o) / 8e6, "scales are forgotten"),
    (lambda n, o, b, g: (n * (b + 16) + 16 * o) / 8e6, "scale of its own"), (lambda n, o, b, g: (n + o) * (b + 16 / g) / 8e6, "packed, too"),
    (lambda n, o, b, g: (n * (b + 16 / g) + 16 * o) / 1e6, "bits are taken for bytes"), (lambda n, o, b, g: (n * (b + 16 / g) + 32 * o) / 8e6, "32 bits")])
def test_08_2(capsys, given, told):
    assert told in verdict(capsys, "08.2", given)[1]


@pytest.mark.parametrize("given, told", [
    (lambda h, r, n, u: min(1, (h - u) * 3600 * r / n), "right"), (lambda h, r, n, u: min(1, h * 3600 * r / n), "given to training"),
    (lambda h, r, n, u: (h - u) * 3600 * r / n, "after one pass"), (lambda h, r, n, u: min(1, (h - u) * 60 * r / n), "minutes"),
    (lambda h, r, n, u: 100 * min(1, (h - u) * 3600 * r / n), "per cent")])
def test_08_3(capsys, given, told):
    assert told in verdict(capsys, "08.3", given)[1]


@pytest.mark.parametrize("given, told", [
    ([0.998, 0.001, 0.001], "09.1: right"), ((0.001, 0.001, 0.998), "09.1: right"), ([1, 0, 0], "infinite"), ([0.9, 0.05, 0.05], "nearly never say"),
    ([1 / 3, 1 / 3, 1 / 3], "Reverse KL 0.68"), ([0.2, 0.6, 0.2], "abhors"), ([0.5, 0.5], "Three probabilities"), ([0.9, 0.9, 0.9], "sum to 2.7")])
def test_09_1(capsys, given, told):
    assert told in verdict(capsys, "09.1", given)[1]


def test_09_2(capsys):
    import torch
    import torch.nn.functional as F
    each = lambda s, t: 1 - F.cosine_similarity(s, t, dim=-1)
    for given, told in ((lambda s, t, m: ((each(s, t) * m).sum(1) / m.sum(1)).mean(), "09.2: right"), (lambda s, t, m: each(s, t).mean(), "padding counts"),
                        (lambda s, t, m: (each(s, t) * m).mean(), "set to 0"), (lambda s, t, m: each(s, t)[m.bool()].mean(), "all tokens"),
                        (lambda s, t, m: ((F.cosine_similarity(s, t, dim=-1) * m).sum(1) / m.sum(1)).mean(), "cosine itself"),
                        (lambda s, t, m: (((1 - (s * t).sum(-1)) * m).sum(1) / m.sum(1)).mean(), "divided by the lengths"), (lambda s, t, m: torch.tensor(9.0), "expected")):
        assert told in verdict(capsys, "09.2", given)[1]


def shown_better(runs, control, metric, side=lambda d: d.high < 0):
    from kdlib import results
    found = {m: results.paired(runs, m, control, metric) for m in sorted(set(runs["method"]) - {control})}
    return [m for m, difference in found.items() if difference and side(difference)]


@pytest.mark.parametrize("given, told", [
    (shown_better, "09.3: right"), (lambda r, c, m: shown_better(r, c, m, lambda d: d.mean < 0), "smaller mean"),
    (lambda r, c, m: shown_better(r, c, m, lambda d: d.verdict == "excludes 0"), "wrong side"), (lambda r, c, m: shown_better(r, c, m, lambda d: d.low > 0), "more is taken"),
    (lambda r, c, m: [], "not paired"), (lambda r, c, m: ["once", "steady"], "one seed"), (lambda r, c, m: ["control"], "expected")])
def test_09_3(capsys, given, told):
    assert told in verdict(capsys, "09.3", given)[1]


def three_words(values, above, low=lambda f: f.low, least=2):
    from kdlib.course.results import interval
    found = interval(values)
    return "not tested here" if found.n < least else "supported" if low(found) > above else "not supported"


@pytest.mark.parametrize("given, told", [
    (three_words, "right"), (lambda v, a: three_words(v, a, low=lambda f: f.mean), "mean alone"), (lambda v, a: three_words(v, a, low=lambda f: max(f.low, -f.high)), "whatever direction"),
    (lambda v, a: three_words(v, a, least=3), "two seeds count as none"), (lambda v, a: three_words(v, a, least=1), "one seed counts"), (lambda v, a: three_words(v, 0), "own threshold"),
    (lambda v, a: "supported", "expected")])
def test_10_1(capsys, given, told):
    assert told in verdict(capsys, "10.1", given)[1]


@pytest.mark.parametrize("given, told", [
    (lambda r: 1 - best(r), "right"), (best, "our convention"), (lambda r: 1 - r.loc[r["accuracy"].idxmax(), "alpha"], "single best run"),
    (lambda r: 1 - r.groupby("alpha")["accuracy"].mean().idxmin(), "worst"), (lambda r: r.groupby("alpha")["accuracy"].mean().max(), "not its alpha")])
def test_10_2(capsys, given, told):
    assert told in verdict(capsys, "10.2", given)[1]


def inside(x, r, width=2.0, ddof=1, root=False):
    return abs(x - np.mean(r)) <= width * np.std(r, ddof=ddof) / (len(r) ** 0.5 if root else 1)


@pytest.mark.parametrize("given, told", [
    (inside, "right"), (lambda x, r: inside(x, r, root=True), "spread of the *mean*"), (lambda x, r: inside(x, r, ddof=0), "not by n"), (lambda x, r: inside(x, r, 1.0), "one sd"),
    (lambda x, r: min(r) <= x <= max(r), "smallest and the largest"), (lambda x, r: x - np.mean(r) <= 2 * np.std(r, ddof=1), "below the mean"), (lambda x, r: False, "expected")])
def test_10_3(capsys, given, told):
    assert told in verdict(capsys, "10.3", given)[1]
