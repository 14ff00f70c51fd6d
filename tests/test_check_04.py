"""The checks of notebook 04: what students write is named, and no wrong answer passes."""

import numpy as np
import pytest

from kdlib import glue
from kdlib.course import check
from kdlib.course.check import nb04


def right(logits, random):
    mixed = logits.copy()
    for row in mixed:
        wrong = np.delete(np.arange(len(row)), row.argmax())
        row[wrong] = random.permutation(row[wrong])
    return mixed


def in_place(logits, random):
    logits[:] = right(logits, random)
    return logits


def all_classes(logits, random):
    return random.permuted(logits, axis=1)


def among_rows(logits, random):
    return random.permutation(logits, axis=0)


def not_at_all(logits, random):
    return logits.copy()


def swapped_always(logits, random):
    """Second and third trade places in every row."""
    ranks = np.argsort(-logits, axis=1)
    mixed = logits.copy()
    np.put_along_axis(mixed, ranks[:, [1, 2]], np.take_along_axis(logits, ranks[:, [2, 1]], 1), 1)
    return mixed


def own_generator(logits, random):
    return right(logits, np.random.default_rng(0))


def never_its_own_place(logits, random):
    """One of two rotations: no class stays, and half of the orders never come."""
    ranks = np.argsort(-logits, axis=1)
    mixed = logits.copy()
    for row, rank in zip(mixed, ranks):
        row[rank[1:]] = np.roll(row[rank[1:]], random.integers(1, 3))
    return mixed


def one_order(logits, random):
    """Drawn once, the same for all rows."""
    ranks = np.argsort(-logits, axis=1)
    order = random.permutation(3) + 1
    mixed = logits.copy()
    np.put_along_axis(mixed, ranks[:, 1:], np.take_along_axis(logits, ranks[:, order], 1), 1)
    return mixed


@pytest.mark.parametrize(
    "function, hint",
    [
        (in_place, "the teacher's own answers"),
        (all_classes, "The top class moved"),
        (among_rows, "other numbers than before"),
        (not_at_all, "Nothing moved"),
        (swapped_always, "`random` is not used"),
        (own_generator, "`random` is not used"),
        (never_its_own_place, "not drawn evenly"),
        (one_order, "in the same way"),
        (lambda logits, random: logits[:5], "Expected the shape"),
        (lambda logits, random: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_shuffling_that_is_none(function, hint, capsys):
    assert not check.answer("04.2", function)
    assert hint in capsys.readouterr().out


def test_shuffling():
    assert check.answer("04.2", right)


@pytest.fixture(scope="module")
def students():
    """Made logits: right in a share of the rows that depends on layer 0."""
    labels = np.array(
        glue.load(glue.MNLI, "data/mini_nli", "validation_matched", rows=400)["label"]
    )

    def student(share, seed):
        random = np.random.default_rng(seed)
        guesses = np.where(random.random(400) < share, labels, (labels + 1) % 3)
        return np.eye(3)[guesses] + random.normal(0, 0.01, (400, 3))

    return {"0,2": student(0.8, 0), "0,1": student(0.8, 1), "1,3": student(0.65, 2)}


def test_layers(students):
    assert check.answer("04.3", students)


def test_layers_that_show_nothing(students, capsys):
    wrong = {
        "at least three": {"0,2": students["0,2"]},
        "is no pair": students | {"2,0": students["1,3"] + 1},
        "not (rows, 3)": students | {"2,3": np.zeros((400, 2))},
        "digit for digit": students | {"2,3": students["1,3"]},
        "Was it trained": students | {"2,3": np.eye(3)[np.zeros(400, int)]},
        "one without it": {
            name: students["0,2"] + i for i, name in enumerate(("0,1", "0,2", "0,3"))
        },
        "came out best": students
        | {"2,3": students["0,1"] + 1e-9 * np.eye(3)[0], "0,3": students["1,3"] + 1},
    }
    for hint, tried in wrong.items():
        assert not check.answer("04.3", tried), hint
        assert hint in capsys.readouterr().out, hint


def test_every_exercise_has_its_answer():
    assert set(nb04.ANSWERS) == {"04.1", "04.2", "04.3"}
