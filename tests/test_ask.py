"""Text fields that a trained model answers: the shipped pair of MiniNLI, with a kernel's widgets."""

import numpy as np
import pytest

from kdlib import ask, glue, models

LABELS = glue.MNLI.labels


@pytest.fixture(scope="module")
def pair():
    teacher = models.load("data/teachers/mini_nli", labels=LABELS)
    tokenizer = models.load_tokenizer("data/teachers/mini_nli")
    return {"teacher": teacher, "student": models.student_from_teacher(teacher, [0, 2])}, tokenizer


def test_each_model_gives_its_own_probabilities(pair):
    answers, unknown = ask.probabilities(
        *pair, "No animals are playing chess.", "No dogs are playing chess."
    )
    assert list(answers) == ["teacher", "student"] and not unknown
    assert all(np.isclose(p.sum(), 1) for p in answers.values())
    assert LABELS[answers["teacher"].argmax()] == "entailment"
    assert not np.allclose(answers["teacher"], answers["student"])


def test_words_outside_of_the_vocabulary_are_named(pair):
    _, unknown = ask.probabilities(*pair, "No zebras are playing chess.", "Zyx!")
    assert unknown == ["zebras", "Zyx!"]


def test_typing_changes_the_answer(pair):
    box = ask.a_pair(*pair, LABELS, "No animals are playing chess.", "No dogs are playing chess.")
    first, second, shown = box.children
    before = shown.value
    assert "entailment" in before and "All words are known." in before
    second.value = "<b>Dogs</b> are playing chess."
    assert shown.value != before
    assert "<b>Dogs" not in shown.value and "&lt;b&gt;Dogs" in shown.value, "what is typed is text"
    second.value = ""
    assert "entailment" in shown.value, "an empty field is an answer, too"
