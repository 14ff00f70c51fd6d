"""Figures say what their data say: messages that follow the data, one look a method, axes that start where they should."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from kdlib import figures, gallery, methods, votes
from kdlib.course.teachers import read_logits
from kdlib.figures import drawing, looks
from kdlib.paths import DATA

STORED = gallery.Stored("laptop")
TABLES = {name: drawing.table_of(draw, STORED) for name, draw in figures.FIGURES.items()}


@pytest.fixture(autouse=True)
def closed():
    yield
    drawing.plt.close("all")


def said(name: str, table=None) -> str:
    return drawing.said_by(figures.FIGURES[name](TABLES[name] if table is None else table))


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.FIGURES)
def test_every_figure_says_something_other_than_what_it_is_about(name):
    message = said(name)
    assert len(message.split()) >= 5 and message != figures.FIGURES[name].title
    assert len(message) < 110, "two lines of a slide"
    assert "nan" not in message.split() and "-" not in re.findall(r"(?<!\\w)-\\d", message)


def swapped(table, column: str, one, other):
    return table.assign(**{column: table[column].replace({one: other, other: one})})


def with_values(table, where, **values):
    table = table.copy()
    for column, value in values.items():
        table.loc[where(table), column] = value
    return table


ALTERED = {
    "race": (
        lambda table: with_values(table, lambda t: t["model"] == "student", accuracy=0.99),
        "Size, time and accuracy of teacher and student",
    ),
    "speed_size_quality": (
        lambda table: with_values(table, lambda t: t["method"].str.startswith("int8"), time=0.01),
        "Accuracy, size and time in several formats",
    ),
    "dark_knowledge_people": (
        lambda table: with_values(
            table,
            lambda t: (t["label"] == "neutral") & (t["who"] == "RoBERTa-base"),
            entailment=0.1,
            contradiction=0.4,
        ),
        "The teacher ranks the wrong classes as people do for 2 of 3 labels",
    ),
    "dark_knowledge_or_smoothing": (
        lambda table: swapped(table, "target", "teacher, softened", "teacher, wrong classes equal"),
        "How near three kinds of targets come",
    ),
    "softening": (
        lambda table: table.assign(entropy=table["entropy"].to_numpy()[::-1]),
        "One answer at several temperatures",
    ),
    "nearer_then_farther_people": (
        lambda table: table.assign(smoothed=0.9),
        "At best, at T = 4, the teacher is nearer to people than a smoothed label",
    ),
    "why_t_squared": (
        lambda table: table.assign(without=table["with"]),
        "The gradients of the soft and the hard loss",
    ),
    "accuracy_hides": (
        lambda table: table.assign(shown=False),
        "What each mistake changes",
    ),
    "learning_curves_mnli": (
        lambda table: swapped(table, "learning_rate", 1e-4, 1e-6),
        "The loss over training, a line a learning rate",
    ),
    "mnli_rates": (
        lambda table: table.assign(macro_f1=0.5),
        "Accuracy and macro-F1 at three learning rates",
    ),
    "lecture_scores": (
        lambda table: table.assign(comet=table["comet"].to_numpy()[::-1]),
        "The lecture's BLEU and COMET by learning rate",
    ),
    "confusion_qqp": (
        lambda table: table[table["model"] != "always one answer"],
        "Which class is taken for which",
    ),
    "reliability_qqp": (
        lambda table: with_values(table, lambda t: t["model"] == "student, KD", ece=0.5),
        "Confidence against accuracy",
    ),
    "temperature_and_alpha_real": (
        lambda table: table.assign(alpha=1.25 - table["alpha"]),
        "On real QQP rows KD's gain rises with alpha, from −0.8 to 0.0 points",
    ),
    "two_modes": (
        lambda table: swapped(table, "panel", "forward KL", "reverse KL"),
        "One student with one peak, for each divergence",
    ),
    "hidden_states": (
        lambda table: swapped(table, "hidden", "kd", "mse"),
        "Imitating hidden states adds 2.3 points to KD on logits at best",
    ),
    "cover_or_seek": (
        lambda table: swapped(table, "lesson", "references jsd", "references reverse_kl"),
        "What students of several divergences say",
    ),
    "memory_bars": (
        lambda table: table.assign(total=table["total"] + 20),
        "Memory of one training step, Llama-3.2 3B to 1B",
    ),
    "vocabulary_cost": (
        lambda table: swapped(table, "name", "plain", "ours"),
        "The memory that the distillation loss needs",
    ),
    "end_recipes": (
        lambda table: table.assign(ended=1.0),
        "Seven recipes for the end of a translation",
    ),
    "into_few_bits": (
        lambda table: table.assign(accuracy=table["floats"]),
        "Students with weights of a few bits",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_message_changes_with_the_data(name):
    alter, expected = ALTERED[name]
    assert said(name, alter(TABLES[name])) == expected != said(name)


def test_a_gain_that_is_not_shown_is_not_called_one():
    table = TABLES["methods"]
    assert said("methods").startswith("In the mean KD is 2.0 points above labels alone, the")
    no_first_choice = table[table["method"] != "hard"]
    assert said("methods", no_first_choice) == "KD gains 2.0 points over labels alone"
    noisy = table.assign(
        accuracy=table["accuracy"] + 0.3 * (table["seed"] % 2 - 0.5) * (table["method"] == "kd")
    )
    assert "not shown [" in said("methods", noisy)
    assert said("methods", swapped(table, "method", "kd", "ce")).startswith(
        "KD minus labels alone: −2.0 points, not shown"
    )


# -- one look a method -----------------------------------------------------------------------------


def test_every_method_has_a_look_of_its_own():
    names = list(methods.LABELS)
    assert set(names) <= set(looks.METHODS)
    for part in ("light", "dark", "marker", "line", "hatch"):
        values = [getattr(looks.METHODS[name], part) for name in names]
        assert len(set(values)) == len(values), f"two methods have the same {part}"
    for ground in (drawing.LIGHT, drawing.DARK):
        taken = {look.light for look in looks.METHODS.values()}
        taken |= {look.dark for look in looks.METHODS.values()}
        assert not taken & set(ground), "the colour of a thing that is no method"


@pytest.mark.parametrize(
    "name, method",
    [
        *((label, key) for key, label in methods.LABELS.items()),
        ("on the grid, KD", "kd"),
        ("on the grid, KD, top class only", "hard"),
        ("CE only, teacher's translations", "ce"),
        ("student, labels only", "ce"),
        ("label, smoothed", "label_smoothing"),
        ("teacher, wrong classes equal", "equalised"),
        ("reverse_kl", "reverse_kl"),
        ("rounded after training", ""),
    ],
)
def test_a_name_is_known_as_its_method(name, method):
    assert looks.method_of(name) == method


def colours_of(fig, method: str) -> bool:
    """Whether something in a figure has a method's colour."""
    wanted = drawing.matplotlib.colors.to_rgba(looks.color_of(method))[:3]
    shades = [line.get_color() for ax in fig.axes for line in ax.lines]
    for ax in fig.axes:
        shades += [tuple(face) for one in ax.collections for face in one.get_facecolor()]
    return any(
        np.allclose(drawing.matplotlib.colors.to_rgba(shade)[:3], wanted) for shade in shades
    )


@pytest.mark.parametrize(
    "name", ["methods", "methods_mnli", "reliability_qqp", "translators", "into_few_bits",
             "hidden_states", "gains", "mnli_rates", "learning_curves", "why_t_squared"],
)  # fmt: skip
def test_kd_has_one_colour_in_every_figure(name):
    assert colours_of(figures.FIGURES[name](TABLES[name]), "kd")


def test_every_method_that_was_tuned_is_drawn_and_named():
    fig = figures.methods(TABLES["methods"])
    names = " ".join(t.get_text().replace("\n", " ") for t in fig.axes[0].get_yticklabels())
    assert "KD, top class only" in names and "KD, wrong classes equal" in names
    assert colours_of(fig, "hard") and colours_of(fig, "equalised")


# -- axes, letters, tables -------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.FIGURES)
def test_no_divergence_is_drawn_below_0(name):
    fig = figures.FIGURES[name](TABLES[name])
    for ax in fig.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            label = axis.get_label_text()
            if "KL" in label and "mistake − right" not in label:
                assert min(limits) >= 0, (name, label)


def test_text_stays_text(tmp_path):
    drawing.style()
    fig = figures.softening(TABLES["softening"])
    drawing.save_fig(fig, "it", folder=tmp_path, alt=figures.softening.alt)
    assert "<text" in (tmp_path / "it.svg").read_text("utf8")
    assert b"/Type3" not in (tmp_path / "it.pdf").read_bytes()


def test_a_message_leaves_no_word_alone_in_its_last_line():
    fig, _ = drawing.plt.subplots(figsize=drawing.CANVAS)
    drawing.message(fig, "word " * 15)
    first, last = fig.texts[0].get_text().splitlines()
    assert len(last) > 0.6 * len(first)


def test_labels_at_the_ends_of_lines_keep_apart():
    fig, ax = drawing.plt.subplots()
    ax.plot([0, 1], [0, 1])
    drawing.label_ends(ax, [(1, 0.5, name, "black") for name in "abc"] + [(1, 0.9, "d", "black")])
    heights = sorted(text.get_position()[1] for text in ax.texts)
    assert min(np.diff(heights)) > 0.08 and ax.texts[-1].get_position()[1] == max(heights)


# -- two tables that are kept ----------------------------------------------------------------------

HELD = json.loads((DATA / "results" / "examples.json").read_text("utf8"))


def test_the_pair_is_a_row_of_the_corpus_with_its_teachers_answer():
    rows = votes.load("data/mini_nli")
    row = rows[rows["uid"] == "60"].iloc[0]
    pair = HELD["pair"]
    assert (row["premise"], row["hypothesis"]) == (pair["premise"], pair["hypothesis"])
    assert votes.LABELS[row["label"]] == pair["label"]
    assert row["truth"] == pytest.approx(pair["truth"], abs=1e-3)
    assert row["logits"] == pytest.approx(pair["logits"], abs=1e-3)


@pytest.mark.skipif(not os.environ.get("KD_REAL"), reason="needs real MNLI rows: KD_REAL")
def test_the_confusion_on_real_rows_is_the_stored_teachers():
    from kdlib import glue

    source = Path("data/teachers/mnli_logits.safetensors")
    answers, about = read_logits(source)
    data = glue.load("mnli", about["source"], "validation_matched")
    counts = np.zeros((3, 3), int)
    for key, label in zip(glue.row_keys(data, glue.MNLI), data["label"]):
        if key in answers:
            counts[label, answers[key].argmax()] += 1
    assert counts.tolist() == HELD["mnli_teacher"]["counts"] and counts.sum() == 4000
