"""Figures of notebooks 04 and 05: does KD help on MNLI and on QQP."""

import textwrap
from operator import attrgetter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course import tuning
from ..course.results import interval
from ..course.statistics import paired
from ..course.stored import whole
from ..methods import LABELS
from .drawing import (
    LINES,
    Rows,
    again,
    color,
    figure,
    heat,
    label_ends,
    marker,
    message,
    panels,
    seeds,
    signed,
    upright,
)
from .looks import NAMES, color_of, look_of, method_of

MNLI = Rows("MiniNLI, synthetic", "real MNLI rows")
QQP = Rows("MiniQQP, synthetic", "real QQP rows")


# -- 04 · MNLI -----------------------------------------------------------------------------------


def _kd_gains(table) -> str:
    """KD's gain over labels alone: how much of it a cleaner label brings, where that was measured,
    and else how much is lost without the wrong classes' order.
    """
    gain = paired(table, "kd", "ce", "accuracy")
    if gain is None or gain.n < 2:
        return ""
    points = f"{100 * gain.mean:.1f} points"
    if gain.low <= 0:
        low, high = signed(100 * gain.low), signed(100 * gain.high)
        return f"KD minus labels alone: {signed(100 * gain.mean)} points, not shown [{low}, {high}]"
    first = paired(table, "hard", "ce", "accuracy")
    if first is not None and first.low > 0:
        cleaner = f"the teacher's first choice alone {100 * first.mean:.1f}"
        return f"In the mean KD is {points} above labels alone, {cleaner}"
    dark = paired(table, "kd", "shuffled", "accuracy")
    if dark is None or dark.low <= 0:
        return f"KD gains {points} over labels alone"
    return f"KD gains {points} over labels alone, {100 * dark.mean:.1f} of them by dark knowledge"


def _tuned_alike(stored):
    """Each method at the point of one grid that validation rows chose; test rows score it.

    Without such runs, the table that a run drew.
    """
    tuned = f"{stored.profile}_tuned"
    if not stored.has("04_distilbert_mnli", tuned):
        return stored.table("04_distilbert_mnli", "methods")
    best = tuning.best(stored.runs("04_distilbert_mnli", tuned))
    return best[["method", "seed", "accuracy", "teacher_accuracy"]]


@figure(
    "04_distilbert_mnli",
    "Does KD help? MiniNLI (synthetic)",
    MNLI,
    alt="""A row for each student; they differ in their loss alone. Pale dots are seeds, and the
    mark below them is their mean with a bar of one standard deviation: accuracy on rows that nobody
    was trained on. A dashed line marks the teacher.""",
    data=_tuned_alike,
)
def methods(table):
    """columns: method, seed, accuracy, teacher_accuracy"""
    known = table[table["method"].isin(LABELS)]
    order = [method for method in LABELS if method in set(known["method"])]
    rows = known.assign(name=known["method"].map(LABELS), score=100 * known["accuracy"])
    rows = rows.sort_values("method", key=lambda column: column.map(order.index), kind="stable")
    fig, ax = plt.subplots(figsize=(6.4, 0.5 * len(order) + 1.3))
    seeds(ax, rows, "name", "score")
    teacher = table["teacher_accuracy"].mean() * 100
    upright(ax, teacher, color=color_of("teacher"))
    place = dict(transform=ax.get_xaxis_transform(), ha="right", va="bottom", fontsize=10)
    ax.text(teacher, 0.01, f"teacher {teacher:.1f} ", color=color_of("teacher"), **place)
    ax.set_xlabel("accuracy on held-out rows (%)")
    message(fig, _kd_gains(known), "Students that differ in their loss alone")
    return fig


methods_mnli = again(
    methods,
    "methods_mnli",
    "04_distilbert_mnli",
    "Does KD help? MNLI",
    MNLI,
    "2,000 real MNLI rows: " + methods.alt,
    file="lab",
)


def _mnli_teacher(stored):
    """What the stored teacher of real MNLI rows answers, by the rows' labels."""
    held = stored.json("results/examples.json")["mnli_teacher"]
    counts = pd.DataFrame(held["counts"], index=held["classes"], columns=held["classes"])
    long = counts.rename_axis("label").reset_index().melt("label", var_name="answer")
    return long.rename(columns={"value": "count"}).assign(model="teacher")


def _most_confused(table) -> str:
    """How often the answers are right, and which two classes are exchanged most often."""
    counts = table.pivot(index="label", columns="answer", values="count")
    right = 100 * sum(counts.loc[name, name] for name in counts) / counts.to_numpy().sum()
    pairs = {
        (one, other): counts.loc[one, other] + counts.loc[other, one]
        for one in counts for other in counts if one < other
    }  # fmt: skip
    (one, other), most = max(pairs.items(), key=lambda item: item[1])
    if not most:
        return ""
    rows = f"{most:,} of {counts.to_numpy().sum():,} rows"
    return f"The teacher is right on {right:.0f} %; it confuses {one} and {other} most ({rows})"


@figure(
    "04_distilbert_mnli",
    "Confusion: MNLI",
    "real MNLI rows",
    alt="""A confusion matrix of three by three: rows are the labels of real MNLI validation rows
    (entailment, neutral, contradiction), columns the answers of the small teacher, each cell with
    its number of rows and its share of the label. The diagonal holds about two thirds.""",
    data=_mnli_teacher,
)
def confusion_mnli(table):
    """columns: model, label, answer (class names), count"""
    classes = list(table["label"].unique())
    counts = table.pivot(index="label", columns="answer", values="count")
    counts = counts.reindex(index=classes, columns=classes).to_numpy()
    share = counts / counts.sum(1, keepdims=True)
    texts = np.reshape(
        [f"{n:,}\n{part:.0%}" for n, part in zip(counts.flat, share.flat)], share.shape
    )
    fig, ax = plt.subplots(figsize=(7.2, 3.6))
    looks = dict(cmap="Purples", vmin=0, vmax=1, fontsize=12)
    heat(ax, share, texts, share > 0.55, classes, classes, **looks)
    ax.set(xlabel="the teacher's answer", ylabel="label")
    message(fig, _most_confused(table), "Which class is taken for which")
    return fig


# -- 05 · QQP ------------------------------------------------------------------------------------


def _found(table) -> str:
    """What share of the last class each model finds."""
    last = table["label"].unique()[-1]
    of_last = table[table["label"] == last]
    shares = {}
    for model, part in of_last.groupby("model", sort=False):
        counts = part.set_index("answer")["count"]
        if not counts.sum() or last not in counts:
            return ""
        shares[model] = 100 * counts[last] / counts.sum()
    useless = [model for model, share in shares.items() if share == 0]
    if len(shares) < 2 or len(useless) != 1:
        return ""
    found = [f"{model} {share:.0f} %" for model, share in shares.items() if share]
    what = f"{last.replace('_', ' ')}s" if last == "duplicate" else f"rows of “{last}”"
    return f"“{useless[0].capitalize()}” finds none of the {what}; {', '.join(found)}"


@figure(
    "05_distilbert_qqp",
    "Confusion: MiniQQP (synthetic)",
    QQP,
    alt="""Confusion matrices, one panel a model: rows are the true classes, columns the answers,
    each cell with its number of rows and its share of the true class. A model that gives one answer
    fills one column.""",
)
def confusion(table):
    """columns: model, label, answer (class names), count"""
    classes = list(table["label"].unique())
    names = [textwrap.fill(name.replace("_", " "), 10) for name in classes]
    fig, parts = panels(table, "model", 2.9, 2.9)
    for ax, model, part in parts:
        counts = part.pivot(index="label", columns="answer", values="count")
        counts = counts.reindex(index=classes, columns=classes).to_numpy()
        share = counts / counts.sum(1, keepdims=True)
        cells = zip(counts.flat, share.flat)
        texts = [f"{count:,}\n{part_of_class:.0%}" for count, part_of_class in cells]
        texts = np.reshape(texts, share.shape)
        first = ax is fig.axes[0]
        rows = names if first else [""] * len(names)
        heat(ax, share, texts, share > 0.6, names, rows, cmap="Purples", vmin=0, vmax=1)
        ax.set(title=model, xlabel="answer", ylabel="true class" if first else "")
    message(fig, _found(table), "Which class is taken for which")
    return fig


confusion_qqp = again(
    confusion,
    "confusion_qqp",
    "05_distilbert_qqp",
    "Confusion: QQP",
    QQP,
    "Real QQP rows: " + confusion.alt,
    file="lab",
)


def _handed_on(table) -> str:
    """Whether KD's calibration error lies between that of labels alone and the teacher's."""
    errors = 100 * table.groupby("model", sort=False)["ece"].first()
    ece = {method_of(model): error for model, error in errors.items()}
    if not {"ce", "kd", "teacher"} <= set(ece):
        return ""
    low, high = sorted((ece["ce"], ece["teacher"]))
    if not low < ece["kd"] < high:
        return ""
    move = f"from {ece['ce']:.1f} to {ece['kd']:.1f}"
    return f"KD moves the calibration error {move}, towards its teacher's {ece['teacher']:.1f}"


@figure(
    "05_distilbert_qqp",
    "Calibration: MiniQQP (synthetic)",
    QQP,
    alt="""Reliability diagrams, one panel a model: the rows are binned by the model's confidence in
    its answer; a mark stands at a bin's mean confidence and its share of right answers, its area
    grows with the bin's rows. Marks under the dashed diagonal: too sure of itself. The title says
    the expected calibration error.""",
)
def reliability(table):
    """columns: model, confidence, accuracy, count, ece (the same in all rows of a model)"""
    lowest = table["confidence"].min() - 0.05
    fig, parts = panels(table, "model", 2.9, 3.1, sharey=True)
    for ax, model, part in parts:
        part = part[part["count"] > 0]
        sure, right = part["confidence"], part["accuracy"]
        method = method_of(model)
        looks = look_of(method)
        ax.plot([lowest, 1], [lowest, 1], "--", color="gray", linewidth=1)
        ax.vlines(sure, right, sure, color=looks["color"], alpha=0.5)
        area = 15 + 250 * part["count"] / part["count"].sum()
        form = dict(color=looks["color"], marker=looks["marker"], alpha=0.8)
        ax.scatter(sure, right, s=area * (2 if form["marker"] == "*" else 1), **form)
        error = f"ECE {100 * part['ece'].iloc[0]:.1f} points"
        name = f"student, {NAMES[method]}" if method in LABELS else model
        ax.set(title=f"{textwrap.fill(name, 24)}\n{error}", xlabel="confidence")
        ax.set_ylim(0, 1.05)
    fig.axes[0].set_ylabel("share of right answers")
    message(fig, _handed_on(table), "Confidence against accuracy")
    return fig


reliability_qqp = again(
    reliability,
    "reliability_qqp",
    "05_distilbert_qqp",
    "Calibration: QQP",
    QQP,
    "Real QQP rows: " + reliability.alt,
    file="lab",
)


def other_convention(alpha):
    """The same point by the other convention: weight of the labels instead of the soft loss."""
    return 1 - alpha


def _against_no_teacher(table) -> str:
    """Whether every point with a teacher lies above labels alone, in the mean over seeds."""
    means = 100 * table.groupby(["temperature", "alpha"])["accuracy"].mean()
    alone = 100 * table.loc[table["alpha"] == 0, "accuracy"].mean()
    gains = means[means.index.get_level_values("alpha") > 0] - alone
    if gains.empty or not np.isfinite(alone):
        return ""
    if gains.min() > 0:
        span = f"{gains.min():.1f} to {gains.max():.1f}"
        return f"Every T and alpha with a teacher gains {span} points over labels alone"
    if gains.max() < 0:
        best = f"{signed(gains.max())} points at best"
        return f"No T and alpha with a teacher is better than labels alone ({best})"
    return ""


@figure(
    "05_distilbert_qqp",
    "T and alpha: MiniQQP (synthetic)",
    QQP,
    alt="""Temperature and alpha: left, a table of mean validation accuracy, one row for each
    temperature, one column for each alpha; right, accuracy against alpha, one line a temperature
    with the standard deviation over seeds. The upper axis reads alpha as the book does, as the
    weight of the hard labels: the same points, mirrored.""",
)
def temperature_and_alpha(table):
    """columns: temperature, alpha (weight of the soft loss), seed, accuracy; the rows with alpha =
    0 count for every temperature
    """
    mean = 100 * table.pivot_table(index="temperature", columns="alpha", values="accuracy")
    is_zero = table["alpha"] == 0
    if 0.0 in mean:
        mean[0.0] = 100 * table.loc[is_zero, "accuracy"].mean()
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    cells = mean.to_numpy()
    dark = cells <= (np.nanmin(cells) + np.nanmax(cells)) / 2
    texts = mean.map("{:.1f}".format)
    alphas, temperatures = ([f"{x:g}" for x in axis] for axis in (mean.columns, mean.index))
    heat(left, mean, texts, dark | np.isnan(cells), alphas, temperatures, cmap="viridis")
    soft = "alpha, weight of the soft loss"
    left.set(xlabel=soft, ylabel="temperature T", title="mean accuracy (%)")
    ends = []
    for i, T in enumerate(mean.index):
        runs = table[(table["temperature"] == T) | is_zero].groupby("alpha")["accuracy"]
        part = runs.agg(["mean", "std"]) * 100
        # beside one another: the bars would cover each other
        apart = part.index + 0.008 * (i - 1.5)
        looks = {"color": color(i), "linestyle": LINES[i % 7], "marker": marker(i)}
        right.errorbar(apart, part["mean"], part["std"].fillna(0), **looks, capsize=2)
        ends.append((1, part["mean"].iloc[-1], f"T = {T:g}", color(i)))
    right.set(xlabel=soft + " (this course)", ylabel="accuracy (%)")
    above = right.secondary_xaxis("top", functions=(other_convention, other_convention))
    above.set_xlabel("the book's alpha: weight of the labels")
    label_ends(right, ends)
    message(fig, _against_no_teacher(table), "Accuracy over temperature and alpha")
    return fig


# -- the sweeps on real rows ---------------------------------------------------------------------


def _gains(corpus: str, runs: pd.DataFrame) -> pd.DataFrame:
    """KD's gain over labels alone at the largest rate, in points of accuracy, a row a run."""
    top = whole(runs[runs["learning_rate"] == runs["learning_rate"].max()], "accuracy", "method")
    labels = top[top["method"] == "ce"].set_index("seed")["accuracy"]
    kd = top[(top["method"] == "kd") & top["seed"].isin(labels.index)]
    alone = kd["seed"].map(labels)
    columns = kd[["temperature", "alpha", "seed"]]
    one_answer = runs.iloc[0].get("majority_accuracy", 0)  # right when all rows get the same answer
    gain = 100 * (kd["accuracy"] - alone)
    return columns.assign(gain=gain, at_chance=alone <= one_answer, corpus=corpus)


def _real_grid(stored):
    """KD's gain over labels alone for each T and alpha, seed by seed, on real rows: QQP, and MNLI
    where that sweep is stored.
    """
    sweeps = {"QQP": ("05_distilbert_qqp", "lab")}
    if stored.has("04_distilbert_mnli", "lab_temperature"):
        sweeps["MNLI"] = ("04_distilbert_mnli", "lab_temperature")
    tables = [
        _gains(corpus, stored.runs(*place, needs=("learning_rate",)))
        for corpus, place in sweeps.items()
    ]
    columns = ["corpus", "temperature", "alpha", "seed", "gain", "at_chance"]
    return pd.concat(tables, ignore_index=True)[columns]


def _signed(found) -> str:
    """A gain with its sign, 0.0 without one, and a star where its interval excludes 0."""
    return signed(found.mean) + ("*" if found.verdict == "excludes 0" else "")


def _by_alpha(table) -> str:
    """Whether the gain falls or rises with alpha on each corpus that is drawn."""
    said = []
    for corpus, part in table.groupby("corpus", sort=False):
        means = part.groupby("alpha")["gain"].mean().sort_index()
        if means.is_monotonic_decreasing or means.is_monotonic_increasing:
            goes = "falls" if means.is_monotonic_decreasing else "rises"
            ends = f"from {signed(means.iloc[0])} to {signed(means.iloc[-1])} points"
            said.append(f"on real {corpus} rows KD's gain {goes} with alpha, {ends}")
    text = "; ".join(said)
    return text[:1].upper() + text[1:]


def _fair(table):
    """(the corpora whose students on labels alone learned something, what is left out and why)."""
    lost = table.drop_duplicates(["corpus", "seed"]).groupby("corpus", sort=False)["at_chance"]
    failed = {corpus: (part.sum(), len(part)) for corpus, part in lost if part.any()}
    kept = table[~table["corpus"].isin(failed)]
    if kept.empty:
        return table, ""
    told = [f"{corpus} is left out: {lost} of {seeds} students on labels alone stayed at chance"
            for corpus, (lost, seeds) in failed.items()]  # fmt: skip
    return kept, "; ".join(told)


@figure(
    "05_distilbert_qqp",
    "T and alpha: real rows",
    "real QQP and MNLI rows",
    alt="""Heat map on real rows: points of validation accuracy that KD gains over labels alone, one
    row for each temperature, one column for each alpha, mean over seeds; a star where the interval
    over seeds excludes 0. Below each alpha stands the book's alpha, one minus ours. A corpus is
    left out, and named, where students on labels alone stayed at chance: there the gain is large
    because they learnt nothing.""",
    data=_real_grid,
)
def temperature_and_alpha_real(table):
    """columns: corpus, temperature, alpha (weight of the soft loss), seed, gain (points over CE of
    the same seed), at_chance (CE of that seed is no better than one answer for all rows)
    """
    kept, left_out = _fair(table)
    fig, parts = panels(kept, "corpus", 4.2, 3.4, extra=0.6)
    all_means = kept.groupby(["corpus", "temperature", "alpha"])["gain"].mean()
    reach = all_means.abs().max()  # one scale for all panels
    for ax, corpus, part in parts:
        cells = part.groupby(["temperature", "alpha"])["gain"].agg(interval).unstack()
        means = cells.map(attrgetter("mean"))
        alphas = [f"{alpha:g}\n({1 - alpha:g})" for alpha in cells.columns]
        temperatures = [f"{T:g}" for T in cells.index]
        white = means.abs().to_numpy() >= 0.6 * reach
        looks = dict(cmap="PuOr", vmin=-reach, vmax=reach, fontsize=11)
        shades = heat(ax, means, cells.map(_signed), white, alphas, temperatures, **looks)
        ax.set_title(f"{corpus}, {part['seed'].nunique()} seeds", fontsize=10)
    told = "\n".join(filter(None, ["*: the 95 % interval over seeds excludes 0", left_out]))
    fig.axes[0].set_xlabel(f"alpha (in the book's convention)\n{told}", fontsize=10)
    fig.axes[0].set_ylabel("temperature T")
    fig.colorbar(shades, ax=fig.axes, label="points over labels alone")
    message(fig, _by_alpha(kept), "KD minus labels alone, at each T and alpha")
    return fig
