"""Exercises of notebooks 00 to 02: the right answer passes, a typed number or a usual mistake does not."""

import time

import numpy as np
import pytest
import torch

from kdlib import check, models, votes
from kdlib.course.check import nb00, nb01, nb02


def verdict(capsys, number, given):
    right = check.answer(number, given)
    return right, capsys.readouterr().out


def batch(size):
    return {"input_ids": torch.ones(size, 4).long(), "attention_mask": torch.ones(size, 4).long()}


def measured(model, size, repeats=8):
    return models.latency(model, batch(size), repeats=repeats, warmup=1, device="cpu")


def by_own_clock(model, size):
    began = time.perf_counter()
    model(**batch(size))
    return 1000 * (time.perf_counter() - began) / size


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda model, size: 1000 * measured(model, size) / size, "00.3: right"),
        (lambda model, size: 1000 * measured(model, size), "whole batch: divide"),
        (lambda model, size: measured(model, size) / size, "in seconds"),
        (lambda model, size: 1000 * measured(model, 1), "read batches of [1]"),
        (lambda model, size: {1: 1, 8: 1, 64: 1}[size], "read batches of no rows"),
        ({1: 1, 8: 1, 64: 1}, "not yet"),
        (by_own_clock, "called 1 times"),
        (lambda model, size: 3 + measured(model, size), "whole batch"),
    ],
)
def test_00_3_asks_for_a_measurement(capsys, given, message):
    assert message in verdict(capsys, "00.3", given)[1]


@pytest.mark.parametrize(
    "number, given, message",
    [
        ("00.1", 440, "right"),
        ("00.1", 220, "2 bytes"),
        ("00.1", 123, "How many bytes"),
        ("00.2", lambda times, n: float(np.median(times[n:])), "right"),
        ("00.2", lambda times, n: min(times[n:]), "fastest"),
        ("00.2", lambda times, n: 0.5, "which of them is in the middle"),
        ("00.2", lambda times, n: 0.012, "which of them is in the middle"),
        ("00.2", lambda times, n: sorted(times)[n:][(len(times) - n) // 2], "sorted before"),
        ("01.1", 0.33, "right"),
        ("01.1", 0.4755, "bits, not nats"),
        ("01.1", 1.0, "Which terms are equal"),
        ("02.1", (0.611, 0.272, 0.118), "right"),
        ("02.1", (0.9, 0.4, 0.173), "sum to 1"),
        ("02.1", (0.5, 0.3, 0.2), "z is divided by 2"),
    ],
)
def test_numbers(capsys, number, given, message):
    assert message in verdict(capsys, number, given)[1]


def kl_of_mix(truth, soft, hard):
    def distance(weight):
        return votes.kl(truth, weight * soft + (1 - weight) * hard).mean()

    return distance


def kl_to_truth(truth, soft, hard):
    def distance(weight):
        return votes.kl(weight * soft + (1 - weight) * hard, truth).mean()

    return distance


WEIGHTS = [step / 10 for step in range(11)]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda *rows: min(WEIGHTS, key=kl_of_mix(*rows)), "right"),
        (lambda t, s, h: min(WEIGHTS, key=kl_of_mix(t, h, s)), "goes to the label"),
        (lambda *rows: min(WEIGHTS, key=kl_to_truth(*rows)), "arguments are swapped"),
        (lambda *rows: max(WEIGHTS, key=kl_of_mix(*rows)), "largest KL"),
        (lambda *rows: int(np.argmin([*map(kl_of_mix(*rows), WEIGHTS)])), "place in the list"),
        (lambda *rows: 0.7, "another weight"),
        (0.7, "not yet"),
    ],
)
def test_01_3_asks_for_the_best_weight(capsys, given, message):
    assert message in verdict(capsys, "01.3", given)[1]


def test_01_2_and_02_2_accept_the_right_function_and_name_a_mistake(capsys):
    order_of = lambda logits, order: logits[:, [order.index(name) for name in votes.LABELS]]
    turned = lambda logits, order: logits[:, [votes.LABELS.index(name) for name in order]]
    assert verdict(capsys, "01.2", order_of)[0] and "turned" in verdict(capsys, "01.2", turned)[1]
    gradient = lambda s, t, T: T * ((s / T).softmax(-1) - (t / T).softmax(-1))
    assert verdict(capsys, "02.2", gradient)[0]
    assert "T² is forgotten" in verdict(capsys, "02.2", lambda s, t, T: gradient(s, t, T) / T**2)[1]


def test_02_3(capsys):
    def best(truth, logits, grid=np.arange(0.1, 20, 0.02)):
        return min(grid, key=lambda T: -(truth * np.log(nb02.softmax(logits / T))).sum(-1).mean())

    assert verdict(capsys, "02.3", best)[0]
    first = []  # one number, right for the first rows that the check asks about

    def typed(truth, logits):
        first.append(best(truth, logits))
        return first[0]

    assert not verdict(capsys, "02.3", typed)[0]
    assert "grid fine enough" in verdict(capsys, "02.3", lambda *rows: 15.0)[1]


# What is returned when nothing is recognised, for each exercise.
UNKNOWN = {
    "00.1": 123.0,
    "00.2": lambda times, n: 0.5,
    "00.3": lambda model, size: 1e6 * measured(model, size),
    "01.1": 1.0,
    "01.2": lambda logits, order: 7 * logits,
    "01.3": lambda *rows: 0.45,
    "02.1": (0.5, 0.3, 0.2),
    "02.2": lambda s, t, T: torch.full_like(s, 9.0),
    "02.3": lambda *rows: 15.0,
}


@pytest.mark.parametrize("number", UNKNOWN)
def test_a_hint_comes_first_and_never_the_answer(capsys, number):
    """The right value is only in ANSWERS, which are shown on request."""
    printed = verdict(capsys, number, UNKNOWN[number])[1]
    assert "not yet" in printed and "expected" not in printed
    known = {"00.1": "440", "00.2": "0.012", "01.1": "0.33", "01.3": "0.2", "02.1": "0.61"}
    outside_of_the_given = printed.replace("0.012, 0.01,", "")  # the list of times is the question
    assert known.get(number, "expected") not in outside_of_the_given


@pytest.mark.parametrize("module", [nb00, nb01, nb02])
def test_every_exercise_has_an_answer_to_reveal(module):
    number = module.__name__[-2:]
    assert list(module.ANSWERS) == [f"{number}.{i}" for i in (1, 2, 3)]
    assert all(len(text) > 80 for text in module.ANSWERS.values())
