"""Figures of notebooks 09 and 10: what a divergence covers or seeks, what hidden states bring, and
the lecture's claims beside the records.
"""

import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course import findings, results
from ..course.stored import Missing
from ..methods import LABELS
from .drawing import (
    DARK_GROUND,
    Rows,
    beside,
    figure,
    heat,
    level,
    message,
    name_rows,
    panels,
    paper,
    row_of_axes,
    seed_row,
    signed,
    spread,
    upright,
)
from .looks import look_of, mark_of

HIDDEN = {
    "ce": LABELS["ce"],
    "kd": LABELS["kd"],
    "cosine": "KD + cosine, last layer",
    "mse": "KD + projected MSE",
    "mse_other_rows": "KD + MSE, another row's states",
    "mse_random": "KD + MSE, random teacher's states",
}
STUDENTS = {"scratch": "from scratch, narrow", "layers": "from the teacher's layers"}
LESSONS = {
    "references ce": LABELS["ce"],
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


DIVERGENCES = {"forward KL": "forward_kl", "reverse KL": "reverse_kl", "JSD": "jsd"}


def _spread_out(table) -> str:
    """Whether forward KL's student is the wider one and reverse KL's holds the higher peak."""
    wide = {}
    for name, part in table.groupby("panel"):
        weight = part["student"] / part["student"].sum()
        centre = (weight * part["x"]).sum()
        wide[name] = float(np.sqrt((weight * (part["x"] - centre) ** 2).sum()))
    if not {"forward KL", "reverse KL"} <= set(wide):
        return ""
    if wide["forward KL"] < 1.5 * wide["reverse KL"]:
        return ""
    times = wide["forward KL"] / wide["reverse KL"]
    return f"Forward KL covers both peaks, reverse KL seeks one and is {times:.1f} times narrower"


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
    for ax, name, part in parts:
        x, looks = part["x"], {**look_of(DIVERGENCES.get(name, "")), "marker": None}
        ax.fill_between(x, part["teacher"], color="gray", alpha=0.35, linewidth=0)
        ax.plot(x, part["student"], **looks)
        ax.set(title=name, xlabel="x", ylim=(0, 1.25 * highest))
        for y, who, shade in ((0.97, "student", looks["color"]), (0.87, "teacher", "gray")):
            words = dict(ha="right", va="top", fontsize=10, transform=ax.transAxes)
            ax.text(0.98, y, who, color=shade, **words)
    fig.axes[0].set_ylabel("density")
    message(fig, _spread_out(table), "One student with one peak, for each divergence")
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


def _beside_logits(table) -> str:
    """What imitating the right hidden states adds to KD on logits: the best of the means."""
    means = 100 * table.groupby(["student", "hidden"])["accuracy"].mean().unstack()
    ways = [name for name in ("cosine", "mse") if name in means]
    if not ways or "kd" not in means:
        return ""
    best = (means[ways].max(axis=1) - means["kd"]).max()
    if not np.isfinite(best):
        return ""
    if best > 0:
        return f"Imitating hidden states adds {best:.1f} points to KD on logits at best"
    return f"Imitating hidden states adds nothing to KD on logits ({signed(best)} points at best)"


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
                looks = dict(gap=0.24, capsize=3, fontsize=8.5)
                seed_row(ax, i, part, part.mean(), part.std(), name, **looks)
        upright(ax, teacher)
        told, place = f"teacher {teacher:.1f} ", ax.get_xaxis_transform()
        ax.text(teacher, 0.01, told, transform=place, ha="right", va="bottom", fontsize=8.5)
        ax.set(title=STUDENTS[kind], xlabel="accuracy (%)")
        ax.grid(axis="y", visible=False)
    name_rows(axes[0], [textwrap.fill(HIDDEN[name], 18) for name in names], 0.25)
    message(fig, _beside_logits(table), "Students that also imitate hidden states")
    return fig


def _seeks(table) -> str:
    """Whether reverse KL, of the students taught on references, spreads and strays least."""
    taught = table[table["lesson"].str.startswith("references")]
    means = taught.groupby("lesson")[["outside", "spread"]].mean()
    if "references reverse_kl" not in means.index or len(means) < 2:
        return ""
    if set(means.idxmin()) != {"references reverse_kl"}:
        return ""
    return "Reverse KL seeks: it spreads least, and holds least outside of the grammar"


@figure(
    "09_beyond_logits",
    "Divergences: MiniParl (synthetic)",
    Rows("MiniParl, synthetic"),
    alt="""Students of one translator on MiniParl (synthetic), a mark a method with bars of one
    standard deviation over seeds: to the right those who hold more probability outside of what the
    grammar allows, upwards those who spread it more widely where several tokens are possible.
    Hollow: taught on the student's own words. Left is better; a height of 1 is the truth's own
    spread.""",
    data=_lessons,
)
def cover_or_seek(table):
    """columns: lesson, seed, outside (share of probability), spread (entropy at open words relative
    to the truth's)
    """
    fig, ax = plt.subplots(figsize=(6.6, 3.9))
    for name in _named(table["lesson"], LESSONS):
        part = table[table["lesson"] == name]
        outside = 100 * part["outside"]
        whose, divergence = name.split()
        looks = mark_of(divergence)
        if whose == "own":
            looks["markerfacecolor"] = paper()
        middle, height = outside.mean(), part["spread"].mean()
        sd = np.nan_to_num([outside.std(), part["spread"].std()])
        ax.errorbar(middle, height, sd[1], sd[0], **looks, markersize=8, capsize=2)
        place = (6, -13) if divergence == "ce" else (6, 5)  # it stands close to the JSD
        words = dict(color=looks["color"], va="bottom", fontsize=10)
        ax.annotate(LESSONS[name], (middle, height), place, textcoords="offset points", **words)
    level(ax, 1)
    beside(ax, 1, "the truth's spread ", 1, ha="right", va="bottom")
    ax.margins(x=0.25, y=0.12)
    ax.set_xlabel("probability on tokens that the grammar excludes (%)")
    ax.set_ylabel("spread over open places\n(entropy, truth = 1)")
    message(fig, _seeks(table), "What students of several divergences say")
    return fig


def _two_by_two(stored) -> pd.DataFrame:
    """Whose words a student heard and which KL it was taught by, with what came of it."""
    runs = _runs(stored, "words")
    kept = runs[runs["divergence"].isin(KLS)]
    return kept[["words", "divergence", "seed", "bleu", "word_kl"]].reset_index(drop=True)


KLS = {"forward_kl": "forward KL", "reverse_kl": "reverse KL"}
PREFIXES = {"references": "references", "own": "its own words"}


def _nearest_cell(table) -> str:
    """The cell nearest to the truth, of those that were run."""
    means = table.groupby(["words", "divergence"])["word_kl"].mean()
    if len(means) < 2:
        return ""
    words, divergence = means.idxmin()
    run = f"all {len(means)}" if len(means) == 4 else f"the {len(means)} cells that were run"
    where = f"{KLS[divergence]} on {PREFIXES[words]}"
    return f"Of {run}, {where} comes nearest to the truth"


@figure(
    "09_beyond_logits",
    "Whose prefixes × which KL",
    Rows("MiniParl, synthetic"),
    alt="""A table of two by two: rows say whose prefixes a student was taught on (the references',
    or its own), columns by which KL (forward or reverse). Each cell has the KL from the truth in
    nats a token and BLEU, mean and standard deviation over seeds, and is the darker the farther it
    is from the truth. A cell that nobody has run says so.""",
    data=_two_by_two,
)
def two_by_two(table):
    """columns: words ("references", "own"), divergence ("forward_kl", "reverse_kl"), seed, bleu,
    word_kl (nats a token, to the truth)
    """
    cells = table.groupby(["words", "divergence"])
    means = cells["word_kl"].mean().unstack().reindex(index=list(PREFIXES), columns=list(KLS))
    texts = means.map(lambda _: "not run yet")
    for (words, divergence), part in cells:
        kl, bleu = spread(part["word_kl"], digits=3), spread(part["bleu"])
        texts.loc[words, divergence] = f"KL to the truth {kl}\nBLEU {bleu}"
    fig, ax = plt.subplots(figsize=(7.2, 3.2))
    low, high = table["word_kl"].min(), table["word_kl"].max()
    white = means.to_numpy() > low + 0.6 * (high - low)
    names = [f"taught on\n{name}" for name in PREFIXES.values()]
    looks = dict(cmap="Purples", vmin=low - (high - low) / 2, vmax=high, fontsize=12)
    heat(ax, means.astype(float), texts, white, list(KLS.values()), names, **looks)
    ax.tick_params(length=0)
    message(fig, _nearest_cell(table), "Whose prefixes, and which KL")
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
    findings.SUPPORTED: ("✓", "#00694D", "#4FD1A5"),
    findings.REFUTED: ("✗", "#B03A00", "#FF9A6B"),
    findings.UNDECIDED: ("?", "#005A9C", "#7CC4F5"),
    findings.UNTESTED: ("–", "#666666", "#AAAAAA"),
}
# Where the table's columns begin, as shares of its width, and their heads.
CLAIM_COLUMNS = {"verdict": 0.0, "claim": 0.19, "number": 0.575, "rows": 0.785}
MORE = re.compile(r" \[[^]]*\]|; [<>].*")  # an interval and a limit: the notebook has them


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
    refuted, a question mark: undecided, a dash: not tested here), the claim, the number on which
    the verdict hangs, and the corpus whose rows decide it with the word real or synthetic (or
    estimate, or definition).""",
    data=_claims,
)
def claims(table):
    """columns: short, corpus, what, number, rows, verdict"""
    fig, ax = plt.subplots(figsize=(7.2, 0.21 * len(table) + 0.8))
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.4, -1.5))
    for head, place in CLAIM_COLUMNS.items():
        ax.text(place, -1, head, va="center", fontsize=9.5, style="italic")
    for y, row in enumerate(table.to_dict("records")):
        _claim_row(ax, y, row)
    for text in ax.texts:
        # the axes fill the figure, and make no room for texts that begin in them
        text.set_in_layout(False)
    message(fig, _claims_title(table))
    return fig


def _claim_row(ax, y: int, row: dict) -> None:
    """One claim: its verdict with a mark, its sentence, one number, and whose rows."""
    mark, light, dark = VERDICT_LOOKS[row["verdict"]]
    face = dark if paper() == DARK_GROUND else light
    whose = row["rows"] if row["corpus"] else ""
    if row["rows"] in ("real", "synthetic"):
        whose = f"{row['corpus']}, {row['rows']}"
    looks = {"va": "center", "fontsize": 9.5}
    ax.axhline(y - 0.5, color="gray", linewidth=0.4)
    # DejaVu Sans has the marks; other fonts may not
    bold = looks | {"color": face, "weight": "bold"}
    ax.text(0.0, y, mark, family="DejaVu Sans", **bold)
    ax.text(0.03, y, row["verdict"].removesuffix(" here"), **bold)
    texts = [row["short"], MORE.sub("", row["number"]), whose]
    for text, column in zip(texts, ("claim", "number", "rows")):
        ax.text(CLAIM_COLUMNS[column], y, text, **looks)
