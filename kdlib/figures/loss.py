"""Figures of notebook 03: what the loss pushes, and what mistakes in it do."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course import mistakes as mistakes_of
from .drawing import (
    HATCHES,
    Rows,
    beside,
    color,
    figure,
    ink,
    legend_above,
    level,
    marker,
    message,
    only_ticks,
    paper,
    upright,
)
from .looks import color_of

MINI_NLI = Rows("MiniNLI, synthetic")


def _told_apart(table) -> str:
    """What the first student, which knows nothing, hears of two wrong classes."""
    part = table[table["student"] == table["student"].iloc[0]]
    wrong = part[part["class"] != part["class"].iloc[0]]
    apart = wrong.groupby(["alpha", "T"])[["soft", "hard"]].agg(np.ptp)
    if apart["soft"].min() > 0.001 and apart["hard"].max() < 1e-6:
        return "The soft loss tells the wrong classes apart, the hard loss does not"
    return ""


@figure(
    "03_distillation_loss",
    "What the loss pushes",
    "",
    alt="""How the loss pushes the student's logits, a row of panels for each student and a panel
    for each pair of alpha and T: for each class the push of the soft loss, of the hard loss, and of
    both together. The hard loss pushes every wrong class down by the student's own probability of
    it: all alike where the student gives them equal probabilities, and otherwise the likelier one
    more. The soft loss pushes towards the teacher's probabilities and so tells the wrong classes
    apart.""",
)
def pulls(table):
    """columns: alpha, T, class, soft, hard (minus the gradient of each part, weights included);
    student: its name, where there are several
    """
    if "student" not in table:
        table = table.assign(student="")
    students = list(table.groupby("student", sort=False))
    settings = list(dict.fromkeys(zip(table["alpha"], table["T"])))
    size = (2.6 * len(settings) + 0.4, 2.6 * len(students) + 0.3)
    fig, axes = plt.subplots(len(students), len(settings), figsize=size, sharey=True, squeeze=False)
    for row, (student, pushed) in zip(axes, students):
        for ax, (alpha, T) in zip(row, settings):
            _push(ax, pushed[(pushed["alpha"] == alpha) & (pushed["T"] == T)])
            ax.set_title(f"alpha = {alpha:g}, T = {T:g}", fontsize=10)
        # With several rows the student's name leaves less room.
        what = "push on the student's logit" if not student else f"{student}\npush on its logit"
        row[0].set_ylabel(what)
    # The same scale wherever the slider stands.
    reach = 1.1 * max(0.65, *(table["soft"].abs() + table["hard"].abs()))
    axes[0, 0].set_ylim(-reach, reach)
    middle = axes[-1, len(settings) // 2]
    middle.set_xlabel("A: the label's class; B and C: the wrong ones", fontsize=9.5)
    # in the first panel: where alpha is small, the wrong classes leave room above them
    small = dict(handlelength=1, borderpad=0, labelspacing=0.1, handletextpad=0.4)
    axes[0, 0].legend(loc="upper right", fontsize=8, **small)
    message(fig, _told_apart(table), "The push of each part of the loss on each logit")
    return fig


def _push(ax, part) -> None:
    """One panel of `pulls`: bars of the soft and the hard loss, a diamond for both together."""
    x = np.arange(len(part))
    for i, (column, method) in enumerate((("soft", "kd"), ("hard", "ce"))):
        places, label = x + (i - 0.5) * 0.34, f"{column} loss"
        looks = {"color": color_of(method), "hatch": HATCHES[i], "edgecolor": paper()}
        ax.bar(places, part[column], 0.32, **looks, label=label)
    both = part["soft"] + part["hard"]
    ax.plot(x, both, "D", color=ink(), markersize=5, label="together")
    level(ax, 0, "-", linewidth=0.8)
    ax.set_xticks(x, part["class"])
    ax.grid(axis="x", visible=False)


def _turned(table) -> str:
    turned = int((table["last step"] < np.cos(np.pi / 4)).sum())
    if not turned:
        return ""
    many = f"{turned} of {len(table)} mistakes turn"
    return f"{many} the gradient by more than 45° at the last step"


@figure(
    "03_distillation_loss",
    "The usual mistakes",
    MINI_NLI,
    alt="""The usual mistakes on one batch, one row each: left, the norm of the student's gradient
    as a multiple of the right one's, on a logarithmic axis; right, the cosine between the two, at
    the student's first step (dots) and at its last (squares). The right loss stands at 1
    everywhere.""",
)
def mistakes(table):
    """columns: mistake, loss, norm (ratio to the right gradient's), "first step" and "last step"
    (cosines with it)
    """
    fig, (norms, cosines) = plt.subplots(1, 2, sharey=True, figsize=(8.4, 0.42 * len(table) + 1.0))
    y = np.arange(len(table))[::-1]
    norm, first, last = table["norm"], table["first step"], table["last step"]
    norms.hlines(y, 1, norm, color=color(0), linewidth=1.5)
    cosines.hlines(y, first, last, color="grey", linewidth=1)
    dot, square = (dict(marker=marker(i), color=color(i), linestyle="none") for i in (0, 1))
    norms.plot(norm, y, **dot, markersize=6)
    cosines.plot(last, y, **square, markersize=6, label="last step", markerfacecolor=paper())
    cosines.plot(first, y, **dot, markersize=6, label="first step")
    # The numbers stand in columns: beside the points they would collide.
    for place, ratio, before, after in zip(y, norm, first, last):
        beside(norms, place, f"{ratio:.2f}")
        beside(cosines, place, f"{before:.2f} → {after:.2f}".replace("-", "−"))
    for ax in (norms, cosines):
        upright(ax, 1, "-", linewidth=0.8, zorder=0)
        ax.set_ylim(-0.7, len(table) - 0.3)
        ax.margins(x=0.12)
    norms.set_xlabel("gradient norm ÷ the right one's")
    cosines.set_xlabel("cosine with the right gradient")
    norms.set_xscale("log")
    powers = 2.0 ** np.arange(-5, 6)
    # one tick at least on each side of 1
    inside = (powers >= min(0.5, norm.min() / 1.1)) & (powers <= max(2, norm.max() * 1.1))
    only_ticks(norms.xaxis, powers[inside], [f"{power:g}" for power in powers[inside]])
    norms.set_yticks(y, table["mistake"])
    legend_above(cosines, fontsize=8, reverse=True)
    message(fig, _turned(table), "What each mistake does to the gradient")
    return fig


def _all_seeds(stored):
    return mistakes_of.of_runs(stored.runs("03_distillation_loss"))


def _visible(table) -> str:
    """How many mistakes each of the two measures shows to do harm."""
    parts = [part for _, part in table.groupby("metric", sort=False)]
    if len(parts) != 2 or not parts[0]["metric"].iloc[0].startswith("accuracy"):
        return ""
    worse = (parts[0]["mean"] < 0, parts[1]["mean"] > 0)
    accuracy, truth = (int((part["shown"] & harm).sum()) for part, harm in zip(parts, worse))
    if accuracy >= truth:
        return ""
    return f"Accuracy shows {accuracy} of {len(parts[0])} mistakes, the distance from truth {truth}"


@figure(
    "03_distillation_loss",
    "Accuracy hides mistakes",
    MINI_NLI,
    alt="""What each mistake changes, beside the right loss: left the accuracy on validation rows,
    right the KL divergence from the truth; the dot is the mean over seeds, the bar its 95 %
    interval, corrected for the number of mistakes. A filled square marks a change that the runs
    show; in a notebook a cross marks its own run. What lies far off is written at the edge.""",
    data=_all_seeds,
)
def accuracy_hides(table):
    """columns: loss, metric, mean, low, high, shown, mine (this run; may be empty)"""
    names = list(table["loss"].unique())
    place = pd.Series(range(len(names))[::-1], index=names)
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8.4, 0.4 * len(names) + 1.1))
    for ax, (metric, part) in zip(axes, table.groupby("metric", sort=False)):
        near = part["mean"].abs() < 5 * part["mean"].abs().median() + 1e-9
        for i, is_shown in enumerate((False, True)):
            found = part[near & (part["shown"] == is_shown)]
            face = color(i) if is_shown else paper()
            label = "shown" if is_shown else "not shown"
            errors = [found["mean"] - found["low"], found["high"] - found["mean"]]
            looks = dict(fmt=marker(i), color=color(i), markerfacecolor=face, capsize=3)
            ax.errorbar(found["mean"], place[found["loss"]], xerr=errors, label=label, **looks)
        crosses = part[near & part["mine"].notna()]
        if len(crosses):
            places = place[crosses["loss"]]
            ax.plot(crosses["mine"], places, "x", color=ink(), label="this run")
        for row in part[~near].itertuples():
            x, side = (0.97, "right") if row.mean > 0 else (0.03, "left")
            looks = dict(ha=side, color=color(1), weight="bold", backgroundcolor=paper())
            beside(ax, place[row.loss], f"far off: {row.mean:+.2g}".replace("-", "−"), x, **looks)
        upright(ax, 0, "-", linewidth=0.8, zorder=0)
        ax.set(xlabel=metric.replace(", mistake − right", ":\nmistake − right"))
        ax.set_ylim(-0.6, len(names) - 0.4)
    axes[0].set_yticks(place, names)
    legend_above(axes[1], ncols=3, fontsize=8)
    message(fig, _visible(table), "What each mistake changes")
    return fig
