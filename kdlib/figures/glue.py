"""Figures of notebooks 04 and 05: MNLI and QQP."""

import textwrap
from operator import attrgetter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course.results import interval
from ..course.stored import whole
from ..methods import LABELS
from .drawing import (
    Rows,
    again,
    color,
    fastest_first,
    figure,
    grid,
    groups,
    heat,
    level,
    lines,
    look,
    marker,
    panels,
    rate_name,
    row_of_axes,
    spread,
)

MNLI = Rows("MiniNLI, synthetic", "real MNLI rows")
QQP = Rows("MiniQQP, synthetic", "real QQP rows")


# -- 04 · MNLI -----------------------------------------------------------------------------------


@figure(
    "04_distilbert_mnli",
    "Loss curves: MiniNLI (synthetic)",
    MNLI,
    alt="""Learning rates: training and validation loss of the student over training steps, one line
    for each learning rate. Only the largest rate falls; a hundredth of it creeps, a ten-thousandth
    stays where it began.""",
)
def learning_curves(table):
    """columns: learning_rate, step, split ("train" or "validation"), ce"""
    names = {rate: f"lr {rate:.0e}" for rate in table["learning_rate"].unique()}
    table = table.sort_values("learning_rate", ascending=False, kind="stable")
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8, 3.4))
    for ax, split in zip(axes, ("train", "validation")):
        part = table[table["split"] == split]
        lines(ax, part, "step", "ce", "learning_rate", names, markers=split == "validation")
        ax.set(title=split, xlabel="step")
    axes[0].set_ylabel("cross-entropy")
    axes[0].legend()
    return fig


learning_curves_mnli = again(
    learning_curves,
    "learning_curves_mnli",
    "04_distilbert_mnli",
    "Loss curves: MNLI",
    MNLI,
    """Learning rates on real MNLI rows: training and validation loss of the student over training
    steps, one line for each learning rate. Only the largest rate falls; a hundredth and a
    ten-thousandth of it lie on one another, flat at the chance level, ln 3 or 1.10 nats.""",
    file="lab",
)
learning_curves_qqp = again(
    learning_curves,
    "learning_curves_qqp",
    "05_distilbert_qqp",
    "Loss curves: QQP",
    QQP,
    """Learning rates on real QQP rows: training and validation loss of the student over training
    steps, one line for each learning rate. Only the largest rate falls; a hundredth of it ends a
    hair below where it began, 0.003 nats, and a ten-thousandth stays at 0.69.""",
    file="lab",
)


@figure(
    "04_distilbert_mnli",
    "One run",
    MNLI,
    alt="""The run of this notebook: hard-label loss and KD loss of the student over training steps,
    on training rows and on validation rows.""",
)
def live_curves(table):
    """columns: step, split, ce, and kd where it was measured"""
    titles = {"ce": "cross-entropy (hard labels)", "kd": "KD (T² · KL)"}
    losses = [loss for loss in titles if loss in table and table[loss].notna().any()]
    fig, axes = row_of_axes(len(losses), 4, 3.2)
    for ax, loss in zip(axes, losses):
        lines(ax, table[table[loss].notna()], "step", loss, "split")
        ax.set(xlabel="step", title=titles[loss])
    axes[0].legend()
    return fig


@figure(
    "04_distilbert_mnli",
    "Does KD help? MiniNLI (synthetic)",
    MNLI,
    alt="""Four students that differ in their loss alone, with the teacher as a dashed line:
    accuracy on the validation rows, mean and standard deviation over seeds.""",
)
def methods(table):
    """columns: method, seed, accuracy, teacher_accuracy"""
    fig, ax = plt.subplots()
    shown = [method for method in LABELS if method in set(table["method"])]
    stats = table.groupby("method")["accuracy"].agg(["mean", "std"]).reindex(shown) * 100
    places = table["method"].map({method: i for i, method in enumerate(shown)})
    ax.plot(places, table["accuracy"] * 100, "o", color="gray", markersize=4)
    # Points, not bars: the axis does not start at 0.
    for i, (mean, sd) in enumerate(stats.to_numpy()):
        ax.errorbar(i + 0.15, mean, sd, fmt=marker(i), color=color(i), capsize=4)
        ax.text(i + 0.22, mean, f"{round(mean, 6):.1f}", va="center", fontsize=9)
    count = len(shown)
    ax.set_xticks(range(count), [textwrap.fill(LABELS[method], 16) for method in shown])
    teacher = table["teacher_accuracy"].mean() * 100
    level(ax, teacher)
    told = f"teacher {teacher:.1f}"
    ax.text(count - 0.45, teacher, told, ha="right", va="bottom", fontsize=9)
    ax.set(ylabel="accuracy (%)", xlim=(-0.5, count - 0.4))
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


# -- 05 · QQP ------------------------------------------------------------------------------------


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
        heat(ax, share, texts, share > 0.6, names, rows, cmap="Blues", vmin=0, vmax=1)
        ax.set(title=model, xlabel="answer", ylabel="true class" if first else "")
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


@figure(
    "05_distilbert_qqp",
    "Calibration: MiniQQP (synthetic)",
    QQP,
    alt="""Reliability diagrams, one panel a model: the rows are binned by the model's confidence in
    its answer; a dot stands at a bin's mean confidence and its share of right answers, its area
    grows with the bin's rows. Dots under the dashed diagonal: too sure of itself. The title says
    the expected calibration error.""",
)
def reliability(table):
    """columns: model, confidence, accuracy, count, ece (the same in all rows of a model)"""
    lowest = table["confidence"].min() - 0.05
    fig, parts = panels(table, "model", 2.9, 3.1, sharey=True)
    for i, (ax, model, part) in enumerate(parts):
        part = part[part["count"] > 0]
        sure, right = part["confidence"], part["accuracy"]
        ax.plot([lowest, 1], [lowest, 1], "--", color="gray", linewidth=1)
        ax.vlines(sure, right, sure, color=color(i), alpha=0.5)
        area = 15 + 250 * part["count"] / part["count"].sum()
        ax.scatter(sure, right, s=area, color=color(i), marker=marker(i), alpha=0.8)
        error = f"ECE {100 * part['ece'].iloc[0]:.1f} points"
        ax.set(title=f"{textwrap.fill(model, 24)}\n{error}", xlabel="confidence")
        ax.set_ylim(-0.03, 1.05)
    fig.axes[0].set_ylabel("share of right answers")
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
    for i, T in enumerate(mean.index):
        runs = table[(table["temperature"] == T) | is_zero].groupby("alpha")["accuracy"]
        part = runs.agg(["mean", "std"]) * 100
        apart = part.index + 0.008 * (
            i - 1.5
        )  # beside one another: the bars would cover each other
        sd = part["std"].fillna(0)
        right.errorbar(apart, part["mean"], sd, **look(i), capsize=2, label=f"T = {T:g}")
    right.set(xlabel=soft + " (this course)", ylabel="accuracy (%)")
    above = right.secondary_xaxis("top", functions=(other_convention, other_convention))
    above.set_xlabel("the book's alpha: weight of the labels")
    right.legend(fontsize=8.5)
    return fig


# -- the lecture's tables beside ours ------------------------------------------------------------


def _rates(stored, task: str, notebook: str, synthetic: str) -> pd.DataFrame:
    """Accuracy and macro-F1 of distilled students by rate: the lecture's, ours on real rows, ours
    on the stand-in.
    """
    lecture = pd.DataFrame(stored.lecture()[f"{task}_learning_rates"])
    lecture[["accuracy", "macro_f1"]] /= 100  # it speaks in per cent
    tables = [lecture.assign(who=f"lecture, {task.upper()}")]
    ours = ((f"{task.upper()}, 2,000 rows", "lab"), (f"{synthetic} (synthetic)", "laptop"))
    for who, file in ours:
        runs = stored.runs(notebook, file, needs=("method", "learning_rate"))
        kd = runs[runs["method"] == "kd"]
        # The point of the sweep at which rates vary: that of the slowest run.
        slow = kd.loc[kd["learning_rate"].idxmin()]
        same = (kd["alpha"] == slow["alpha"]) & (kd["temperature"] == slow["temperature"])
        tables.append(whole(kd[same], "accuracy", "macro_f1").assign(who=f"here, {who}"))
    columns = ["who", *lecture.columns, "seed"]
    return pd.concat(tables, ignore_index=True)[columns]


def _mnli_rates(stored):
    return _rates(stored, "mnli", "04_distilbert_mnli", "MiniNLI")


def _qqp_rates(stored):
    return _rates(stored, "qqp", "05_distilbert_qqp", "MiniQQP")


@figure(
    "04_distilbert_mnli",
    "MNLI: learning rates",
    "",
    alt="""A table: accuracy and macro-F1 of students distilled on MNLI at three learning rates,
    each a hundredth of the one above, as the lecture reports them and as our runs found them, on
    real rows and on the synthetic stand-in, mean and standard deviation over seeds. On real rows
    the two small rates stay at the share of one class, with a macro-F1 below 0.2.""",
    data=_mnli_rates,
)
def mnli_rates(table):
    """columns: who, learning_rate, seed, accuracy, macro_f1 (shares)"""
    rows, rules = [], []
    for _, who, part in groups(table, "who"):
        for _, rate, runs in fastest_first(part):
            scores = [spread(runs[metric], 100) for metric in ("accuracy", "macro_f1")]
            rows.append([who, rate_name(rate), *scores, str(len(runs))])
            who = ""  # said once
        rules.append(len(rows))
    columns = ["student, distilled", "rate", "accuracy", "macro-F1", "runs"]
    return grid(columns, rows, [0, 0.46, 0.58, 0.76, 0.94], rules)


qqp_rates = again(
    mnli_rates,
    "qqp_rates",
    "05_distilbert_qqp",
    "QQP: learning rates",
    "",
    """A table: accuracy and macro-F1 of students distilled on QQP at three learning rates, each a
    hundredth of the one above, as the lecture reports them and as our runs found them, on real rows
    and on the synthetic stand-in. A model that always answers "not duplicate" has 63 per cent
    accuracy and a macro-F1 of 39.""",
    data=_qqp_rates,
)


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
    gain = f"{found.mean:+.1f}" if abs(found.mean) >= 0.05 else "0.0"
    return gain + ("*" if found.verdict == "excludes 0" else "")


@figure(
    "05_distilbert_qqp",
    "T and alpha: real rows",
    "real QQP and MNLI rows",
    alt="""Heat map on real rows, a panel a corpus: points of validation accuracy that KD gains over
    labels alone, one row for each temperature, one column for each alpha, mean over seeds; a star
    where the interval over seeds excludes 0. Each panel has its own scale of colours. Below each
    alpha stands the book's alpha, one minus ours. On MNLI two of the three students on labels alone
    stayed at chance: there the gain is large because they learnt nothing.""",
    data=_real_grid,
)
def temperature_and_alpha_real(table):
    """columns: corpus, temperature, alpha (weight of the soft loss), seed, gain (points over CE of
    the same seed), at_chance (CE of that seed is no better than one answer for all rows)
    """
    fig, parts = panels(table, "corpus", 4.2, 3.4, extra=0.6)
    first, last = fig.axes[0], fig.axes[-1]
    for ax, corpus, part in parts:
        cells = part.groupby(["temperature", "alpha"])["gain"].agg(interval).unstack()
        means = cells.map(attrgetter("mean"))
        reach = means.abs().max().max()
        alphas = [f"{alpha:g}\n({1 - alpha:g})" for alpha in cells.columns]
        temperatures = [f"{T:g}" for T in cells.index]
        white = means.abs().to_numpy() >= 0.6 * reach
        shades = heat(
            ax,
            means,
            cells.map(_signed),
            white,
            alphas,
            temperatures,
            cmap="PuOr",
            vmin=-reach,
            vmax=reach,
        )
        at_chance = part.groupby("seed")["at_chance"].first()
        lost, seeds = at_chance.sum(), len(at_chance)
        warning = f"\n{lost} of {seeds} on labels alone: at chance" if lost else ""
        ax.set_title(f"{corpus}, {seeds} seeds{warning}", fontsize=10)
        ax.set_xlabel("alpha (in the book's convention)")
        fig.colorbar(shades, ax=ax, label="points over labels alone" if ax is last else "")
    first.set_ylabel("temperature T")
    return fig
