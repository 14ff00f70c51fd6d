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
    ink,
    level,
    look,
    name_rows,
    only_ticks,
    panels,
    paper,
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
    names = [name for name in HIDDEN if name in set(table["hidden"])]
    kinds = [kind for kind in STUDENTS if kind in set(table["student"])]
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
    names = [name for name in LESSONS if name in set(table["lesson"])]
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
    """Each query of each claim with its interval and verdict, and the claim's; what is missing is
    said.
    """
    evidence, verdicts = findings.judge(stored=stored)
    if not evidence["mean"].notna().any():
        raise Missing("no record that could decide a claim is stored")
    lost = evidence[(evidence["missing"] != "") & ~evidence["optional"]]
    for row in lost.to_dict("records"):
        told = f"{row['short']}, {row['what']} ({row['corpus']}): {row['missing']}"
        stored.incomplete.append(told)
    return findings.forest(evidence, verdicts)


def _claim_mark(row: dict) -> str:
    """A diamond for an estimate, a circle for real rows, a square for synthetic ones."""
    if row["given"]:
        return "D"
    return "o" if row["real"] else "s"


def _claim_row(ax, y: int, part, colors: dict) -> None:
    """One claim: its intervals, a little apart, and its verdict at the right."""
    drawn = part[part["mean"].notna() & np.isfinite(part["low"])]
    shifts = np.linspace(-0.28, 0.28, len(drawn)) if len(drawn) > 1 else [0]
    for row, shift in zip(drawn.to_dict("records"), shifts):
        mean, low, high = (row["sign"] * (row[k] - row["limit"]) for k in ("mean", "low", "high"))
        shade, decides, place = colors[row["verdict"]], row["decides"], y + shift
        alpha = 1 if decides else 0.5
        ax.plot([low, high], [place] * 2, color=shade, linewidth=1.6, alpha=alpha)
        face = shade if decides else paper()
        ax.plot(mean, place, _claim_mark(row), color=shade, markersize=5, markerfacecolor=face)
    verdict, votes = part["verdict_of_claim"].iloc[0], part["for it"].iloc[0]
    looks = dict(fontsize=9.5, weight="bold" if verdict == findings.SUPPORTED else "normal")
    if verdict == findings.UNTESTED:
        beside(ax, y, verdict, 1.01, color=ink(), **looks)
    else:
        beside(ax, y, f"{verdict} ({votes})", 1.01, color=colors[verdict], **looks)


@figure(
    "10_findings",
    "The lecture's claims beside the records",
    "",
    alt="""The lecture's claims, a row each, with the evidence on a symmetric logarithmic axis: how
    far the mean lies beyond what the claim needs, with its 95 per cent interval over seeds (an
    estimate's: its tolerance). Filled marks decide, hollow ones are shown beside: circles are real
    rows, squares synthetic, diamonds an estimate. A claim is supported where all filled intervals
    lie right of the line; the verdict stands at the right. Units differ between rows.""",
    data=_claims,
)
def claims(table):
    """columns: short, verdict_of_claim, for it, real, given, shown, decides, mean, low, high,
    limit, sign (1: above the limit)
    """
    order = list(table["short"].unique())
    colors = {
        findings.SUPPORTED: color(0),
        findings.NOT: color(1),
        findings.UNTESTED: "gray",
    }
    fig, ax = plt.subplots(figsize=(7.6, 0.27 * len(order) + 0.7))
    for y, short in enumerate(order):
        _claim_row(ax, y, table[table["short"] == short], colors)
    upright(ax, 0, "-")
    ax.set_xscale("symlog", linthresh=1)
    only_ticks(ax.xaxis, [-10, -1, 0, 1, 10, 100], ["−10", "−1", "0", "1", "10", "100"])
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.set_xlabel("beyond what the claim needs (points, BLEU, %, GB, nats/100)")
    for mark, told in (("o", "real"), ("s", "synthetic"), ("D", "estimate"), ("o", "beside")):
        face = paper() if told == "beside" else ink()
        ax.plot(
            [],
            [],
            mark,
            color=ink(),
            markerfacecolor=face,
            markersize=5,
            linestyle="none",
            label=told,
        )
    fig.legend(loc="outside upper center", ncols=4, handletextpad=0.1, columnspacing=1)
    return fig
