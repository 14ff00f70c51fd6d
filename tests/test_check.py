"""Exercise checks: the right answer passes, each usual mistake is named, and nothing that a student writes stops a notebook."""
import numpy as np
import pytest

from kdlib import check


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
