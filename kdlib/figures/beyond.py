"""Figures of notebooks 09 and 10: what a divergence covers or seeks, what hidden states bring, and
the lecture's claims beside the records.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course import findings, results
from ..course.stored import Missing
from .drawing import (
    Rows,
    beside,
    color,
    figure,
    level,
    look,
    name_rows,
    panels,
    row_of_axes,
    seed_row,
    upright,
)

HIDDEN = {
    "ce": "CE only",
    "kd": "KD on logits",
    "cosine": "KD + cosine, last layer",
    "mse": "KD + projected MSE",
    "mse_other_rows": "KD + MSE, another row's states",
    "mse_random": "KD + MSE, random teacher's states",
}
STUDENTS = {"scratch": "from scratch, narrow", "layers": "from the teacher's layers"}
LESSONS = {
    "references ce": "CE only",
    "references forward_kl": "forward KL",
    "references reverse_kl": "reverse KL",
    "references jsd": "JSD",
    "own forward_kl": "forward KL, own words",
    "own reverse_kl": "reverse KL, own words",
    "own jsd": "JSD, own words",
}


def _named(found: pd.Series, names: dict[str, str]) -> list[str]:
    """Those of `names` that a table's column holds, in the order of `names`.

    A value that has no name there is not drawn. It is told, for a figure that lacks what was run
    looks complete.
    """
    unknown = sorted(set(found) - set(names))
    if unknown:
        print(f"not drawn, for figures.beyond has no name for it: {', '.join(unknown)}")
    return [name for name in names if name in set(found)]


# -- 09 · Beyond logits --------------------------------------------------------------------------


@figure(
    "09_beyond_logits",
    "Covering and seeking",
    "",
    alt="""Panels with the same teacher, a curve with two peaks, and in each a student that has one
    peak only: forward KL's (and here the JSD's) spreads over both peaks and the valley between
    them, reverse KL's sits on the higher peak and ignores the other.""",
)
def two_modes(table):
    """columns: panel, x, teacher, student (densities)"""
    highest = table[["teacher", "student"]].to_numpy().max()
    fig, parts = panels(table, "panel", 2.9, 2.6, sharey=True)
    for i, (ax, name, part) in enumerate(parts):
        x, looks = part["x"], {**look(i), "marker": None}
        ax.fill_between(x, part["teacher"], color="gray", alpha=0.35, linewidth=0, label="teacher")
        ax.plot(x, part["student"], **looks, label="student")
        ax.set(title=name, xlabel="x", ylim=(0, 1.25 * highest))
        ax.legend(loc="upper right", fontsize=8)
    fig.axes[0].set_ylabel("density")
    return fig


def _runs(stored, half: str) -> pd.DataFrame:
    """The course's runs of one half ("hidden" or "words"), one row a run."""
    runs = stored.runs("09_beyond_logits", needs=(half,))
    return runs[runs[half] != "off"]


def _on_logits_alone(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of notebook 04's runs that had the same student, rows and steps."""
    same = (
        runs["method"].isin(("ce", "kd"))
        & (runs["seed"] < 3)
        & (runs["learning_rate"] == 5e-4)
        & (runs["epochs"] == 8)
    )
    return runs[same].assign(student="layers", hidden=runs["method"])


def hidden_runs(runs: pd.DataFrame, beside_04: bool = False) -> pd.DataFrame:
    """The runs of notebook 09's first half in the order of its figure, with accuracy in percent.

    beside_04: together with notebook 04's runs of the same student.
    """
    halves = runs[runs["hidden"] != "off"]
    if beside_04 and "accuracy" in halves:
        before = _on_logits_alone(results.reference("04_distilbert_mnli", "laptop"))
        before = before.assign(label_kl=before["kl_to_truth"])
        halves = pd.concat([halves, before], ignore_index=True)
    halves = halves.assign(accuracy_pct=100 * halves.get("accuracy", np.nan))
    return _in_order(halves, "student", "hidden")


def lesson_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of its second half in the order of its figure: whose words, and which divergence."""
    lessons = runs[runs["words"] != "off"]
    return _in_order(_with_lesson(lessons), "lesson")


def _with_lesson(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.assign(lesson=runs["words"] + " " + runs["divergence"])


def _in_order(runs: pd.DataFrame, *by: str) -> pd.DataFrame:
    ranks = {name: rank for rank, name in enumerate([*STUDENTS, *HIDDEN, *LESSONS])}
    return runs.sort_values(
        [*by, "seed"], key=lambda column: column.map(lambda value: ranks.get(value, value))
    )


def spreads(runs: pd.DataFrame, by: list[str], digits: dict[str, int]) -> str:
    """mean ± sd of the metrics that the runs have, as text; "no run yet" without any."""
    if runs.empty or not set(digits) & set(runs):
        return "no run yet"
    table = results.summary(runs, by, digits, scale=1)
    table.insert(len(by) + 1, "runs", table.pop("runs"))
    return table.to_string(index=False)


def _states(stored) -> pd.DataFrame:
    """Hidden states beside notebook 04's records of the same student, rows and steps."""
    before = _on_logits_alone(stored.runs("04_distilbert_mnli"))
    table = pd.concat([_runs(stored, "hidden"), before], ignore_index=True)
    columns = ["student", "hidden", "seed", "accuracy", "teacher_accuracy"]
    return table[columns]


def _lessons(stored) -> pd.DataFrame:
    """Whose words a student heard and by which divergence, beside what it then says."""
    runs = _runs(stored, "words")
    return _with_lesson(runs)[["lesson", "seed", "outside", "spread"]]


@figure(
    "09_beyond_logits",
    "Hidden states: MiniNLI (synthetic)",
    Rows("MiniNLI, synthetic"),
    alt="""Accuracy on MiniNLI (synthetic) of students that differ in what they imitate, a grey dot
    a seed, mean and standard deviation below it; the left panel has a narrow student from scratch,
    the right one a student cut out of its teacher's layers; the dashed line is the teacher.""",
    data=_states,
)
def hidden_states(table):
    """columns: student ("scratch", "layers"), hidden, seed, accuracy, teacher_accuracy"""
    names, kinds = _named(table["hidden"], HIDDEN), _named(table["student"], STUDENTS)
    teacher = 100 * table["teacher_accuracy"].mean()
    size = (3.6, 0.58 * len(names) + 1.0)
    fig, axes = row_of_axes(len(kinds), *size, extra=1.2, sharey=True)
    for ax, kind in zip(axes, kinds):
        scores = 100 * table[table["student"] == kind].set_index("hidden")["accuracy"]
        for i, name in enumerate(names):
            if name in scores:
                part = scores[[name]]
                seed_row(ax, i, part, part.mean(), part.std(), gap=0.24, capsize=3, fontsize=8.5)
        upright(ax, teacher)
        told, place = f"teacher {teacher:.1f} ", ax.get_xaxis_transform()
        ax.text(teacher, 0.01, told, transform=place, ha="right", va="bottom", fontsize=8.5)
        ax.set(title=STUDENTS[kind], xlabel="accuracy (%)")
        ax.grid(axis="y", visible=False)
    name_rows(axes[0], [textwrap.fill(HIDDEN[name], 18) for name in names], 0.25)
    return fig


@figure(
    "09_beyond_logits",
    "Divergences: MiniParl (synthetic)",
    Rows("MiniParl, synthetic"),
    alt="""Students of one translator on MiniParl (synthetic), a mark a seed: to the right those who
    hold more probability outside of what the grammar allows, upwards those who spread it more
    widely over the words that are open. Left is better; a height of 1 is the truth's own
    spread.""",
    data=_lessons,
)
def cover_or_seek(table):
    """columns: lesson, seed, outside (share of probability), spread (entropy at open words relative
    to the truth's)
    """
    fig, ax = plt.subplots(figsize=(6.6, 3.9))
    names = _named(table["lesson"], LESSONS)
    for i, name in enumerate(names):
        part = table[table["lesson"] == name]
        looks = {**look(i), "linestyle": "none"}
        outside = 100 * part["outside"]
        ax.plot(outside, part["spread"], **looks, markersize=7, alpha=0.8, label=LESSONS[name])
    level(ax, 1)
    beside(ax, 1, "the truth's spread ", 1, ha="right", va="bottom")
    ax.set_xlabel("probability on words that the grammar excludes (%)")
    ax.set_ylabel("spread over open words\n(entropy, truth = 1)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


# -- 10 · Findings -------------------------------------------------------------------------------


def _claims(stored):
    """Each claim with the number that its verdict hangs on; what is missing is said."""
    evidence, verdicts = findings.judge(stored=stored)
    if not evidence["mean"].notna().any():
        raise Missing("no record that could decide a claim is stored")
    lost = evidence[(evidence["missing"] != "") & ~evidence["optional"]]
    for row in lost.to_dict("records"):
        told = f"{row['short']}, {row['what']} ({row['corpus']}): {row['missing']}"
        stored.incomplete.append(told)
    return findings.decisive(evidence, verdicts)


# How a verdict looks: a mark that needs no colour, and its colour's number (None: grey).
VERDICT_LOOKS = {
    findings.SUPPORTED: ("✓", 2),
    findings.REFUTED: ("✗", 1),
    findings.UNDECIDED: ("?", 0),
    findings.UNTESTED: ("–", None),
}
# Where the table's columns begin, as shares of its width, and their heads.
CLAIM_COLUMNS = {"claim": 0.035, "number [95 %]; needed": 0.362, "rows": 0.675, "verdict": 0.87}


def _claims_title(table) -> str:
    """The message: how many claims the records support."""
    count = table["verdict"].value_counts()
    parts = [f"{count[word]} {word}" for word in findings.VERDICTS if word in count]
    return f"Of {len(table)} claims: {', '.join(parts)}"


@figure(
    "10_findings",
    "The lecture's claims beside the records",
    "",
    alt="""The lecture's claims as a table. Each row has the verdict (a tick: supported, a cross:
    refuted, a question mark: undecided, a dash: not tested here), the claim, the corpus whose rows
    decide it with the word real or synthetic (or estimate, or definition), and the number on which
    the verdict hangs: mean, 95 per cent interval over seeds, and what the claim needs.""",
    data=_claims,
)
def claims(table):
    """columns: short, corpus, what, number, rows, verdict"""
    fig, ax = plt.subplots(figsize=(9.4, 0.29 * len(table) + 0.8))
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.4, -2.4))
    ax.text(0, -1.9, _claims_title(table), va="center", weight="bold", fontsize=12)
    for head, place in CLAIM_COLUMNS.items():
        ax.text(place, -0.9, head, va="center", fontsize=9.5, style="italic")
    for y, row in enumerate(table.to_dict("records")):
        _claim_row(ax, y, row)
    for text in ax.texts:
        # the axes fill the figure, and make no room for texts that begin in them
        text.set_in_layout(False)
    return fig


def _claim_row(ax, y: int, row: dict) -> None:
    """One claim: a mark, its sentence, the number, whose rows, and the verdict in words."""
    mark, shade = VERDICT_LOOKS[row["verdict"]]
    face = "gray" if shade is None else color(shade)
    whose = row["rows"] if row["corpus"] else ""
    if row["rows"] in ("real", "synthetic"):
        whose = f"{row['corpus']}, {row['rows']}"
    looks = {"va": "center", "fontsize": 8.6}
    ax.axhline(y - 0.5, color="gray", linewidth=0.4)
    # DejaVu Sans has the marks; other fonts may not
    ax.text(0.005, y, mark, color=face, weight="bold", family="DejaVu Sans", **looks)
    texts = [row["short"], row["number"], whose]
    for text, place in zip(texts, CLAIM_COLUMNS.values()):
        ax.text(place, y, text, **looks)
    verdict = row["verdict"].removesuffix(" here")
    ax.text(CLAIM_COLUMNS["verdict"], y, verdict, color=face, weight="bold", **looks)
