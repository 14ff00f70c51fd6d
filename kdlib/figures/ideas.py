"""Figures of notebooks 00 to 03: why, soft targets, temperature, the loss."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course import mistakes as mistakes_of
from ..votes import CHAOS
from .drawing import (
    Rows,
    again,
    bar_look,
    bars,
    beside,
    color,
    figure,
    groups,
    ink,
    legend_above,
    level,
    lines,
    look,
    marker,
    middle,
    only_ticks,
    panels,
    paper,
    plain_numbers,
    upright,
)

MINI_NLI = Rows("MiniNLI, synthetic")
PEOPLE = Rows("MiniNLI, synthetic", "human votes (ChaosNLI, real)")


# -- 00 · Start here -----------------------------------------------------------------------------


def _box(ax, x, y, width, height, text, edge) -> None:
    """A box with round corners, a pale face and its text in the middle."""
    shape = matplotlib.patches.FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0.08",
        facecolor=edge + "22",
        edgecolor=edge,
        linewidth=1.5,
    )
    ax.add_patch(shape)
    middle(ax, x + width / 2, y + height / 2, text, 9)


def _arrow(ax, start, end, text="", edge=None, line="-", shift=(0, 0.14)) -> None:
    """An arrow whose text stands at its middle, moved by `shift`."""
    edge = edge or ink()
    looks = dict(arrowstyle="-|>", color=edge, linestyle=line, linewidth=1.3)
    ax.annotate("", end, start, arrowprops=looks)
    x = (start[0] + end[0]) / 2 + shift[0]
    y = (start[1] + end[1]) / 2 + shift[1]
    middle(ax, x, y, text, color=edge)


@figure(
    "00_start_here",
    "Teacher and student",
    "",
    alt="""The parts of distillation. The teacher and the student read the same rows. The teacher
    is larger and frozen; its answers are the soft targets. The loss compares the student's answers
    with the soft targets and with the labels, and its gradient changes the student only.""",
)
def teacher_and_student(table):
    """columns: role ("teacher", "student"), layers, parameters"""
    about = {}
    for row in table.to_dict("records"):
        size = f"{row['parameters'] / 1e6:.2g} M parameters"
        about[row["role"]] = f"{row['role']}\n{row['layers']} layers, {size}"
    fig, ax = plt.subplots(figsize=(8, 3.2))
    ax.set(xlim=(0, 10), ylim=(0, 4))
    ax.axis("off")
    loss = "distillation loss\nα · soft + (1 − α) · hard"
    _box(ax, 0.2, 1.5, 1.3, 1.0, "rows of text\nand labels", color(6))
    _box(ax, 2.4, 2.5, 3.1, 1.2, about["teacher"] + "\nfrozen", color(0))
    _box(ax, 2.4, 0.4, 3.1, 0.9, about["student"], color(1))
    _box(ax, 7.3, 1.5, 2.6, 1.0, loss, color(2))
    _arrow(ax, (1.6, 2.3), (2.3, 2.9))
    _arrow(ax, (1.6, 1.7), (2.3, 1.05))
    _arrow(ax, (5.6, 2.9), (7.2, 2.25), "soft targets", color(0), shift=(0.3, 0.22))
    _arrow(ax, (5.6, 1.0), (7.2, 1.7), "answers", color(1), shift=(-0.45, 0.15))
    _arrow(ax, (1.6, 2.0), (7.2, 2.0), "labels", line=":", shift=(-0.4, 0.13))
    back = "gradient, to the student only"
    _arrow(ax, (8.6, 1.4), (5.6, 0.55), back, color(2), "--", shift=(0.5, -0.35))
    return fig


@figure(
    "00_start_here",
    "The race",
    MINI_NLI,
    alt="""Three panels compare the teacher and the student: parameters in millions, milliseconds
    for one row on this machine, and accuracy on the validation rows. The first and the third
    panel also show the student before its training, just as it was cut out of the teacher.""",
)
def race(table):
    """columns: model, parameters, milliseconds (NaN: as the student's), accuracy"""
    measures = (
        ("parameters", 1e-6, "parameters (M)", "{:.2f}"),
        ("milliseconds", 1, "ms for one row", "{:.1f}"),
        ("accuracy", 100, "accuracy (%)", "{:.1f}"),
    )
    fig, axes = plt.subplots(1, 3, figsize=(8, 2.9))
    for ax, (column, scale, title, fmt) in zip(axes, measures):
        part = table.dropna(subset=[column])
        names = [name.replace(", ", ",\n") for name in part["model"]]
        bars(ax, names, part[column] * scale, fmt=fmt)
        ax.set_title(title, fontsize=10)
        ax.tick_params(axis="x", labelsize=8)
        ax.margins(y=0.15)
    return fig


# fp16 is left out: this processor computes it slowly.
FORMATS_IN_USE = ("fp32", "bf16", "int8 weight-only", "int8 dynamic", "int4 weight-only")


def _plane(stored):
    """Time, size and accuracy of teacher and student in several formats, and what each cost to
    make.
    """
    records = stored.records("08_limits")
    used = pd.DataFrame(
        [{"seed": r["seed"], **row} for r in records for row in r["results"]["in_use"]]
    )
    # Each record is read by its own clock: machines differ, and are busy.
    is_clock = (used["model"] == "MiniNLI teacher") & (used["method"] == "fp32")
    clock = used[is_clock].set_index("seed")["ms"]
    used["time"] = used["ms"] / used["seed"].map(clock)
    kept = used[used["method"].isin(FORMATS_IN_USE)]
    columns = ["time", "mb_packed", "accuracy"]
    table = kept.groupby(["model", "method"], sort=False)[columns].mean().reset_index()
    about = stored.json("teachers/mini_nli/teacher.json")
    return table.assign(
        teacher_rows=about["rows"],
        teacher_minutes=about["minutes"],
        student_rows=records[0]["settings"]["train_rows"],
    )


@figure(
    "00_start_here",
    "Speed, size, quality, and the teacher's bill",
    MINI_NLI,
    alt="""Speed, size and quality on MiniNLI (synthetic): accuracy against the time of a batch. The
    time of the teacher in 32 bits counts as 1, and the area of a mark shows the size of the
    weights. The student in 32 bits takes about half of the teacher's time and loses some points.
    8 and 4 bits make either smaller, not faster; bf16 makes it both. The line below says what the
    teacher's training cost.""",
    data=_plane,
)
def speed_size_quality(table):
    """columns: model, method, time (teacher in fp32 = 1), mb_packed, accuracy (%), teacher_rows,
    teacher_minutes, student_rows
    """
    fig, ax = plt.subplots(figsize=(7.2, 4.05))
    for i, model, part in groups(table, "model"):
        size = 90 * part["mb_packed"]
        ax.scatter(
            "time",
            "accuracy",
            s=size,
            color=color(i),
            marker=marker(i),
            alpha=0.75,
            label=model,
            data=part,
        )
        for j, row in enumerate(part.sort_values("time").to_dict("records")):
            name = row["method"].replace("weight-only", "weights")
            ax.annotate(
                f"{name}\n{row['mb_packed']:.1f} MB",
                (row["time"], row["accuracy"]),
                (0, (16, -34)[j % 2]),  # above and below in turn: neighbours would collide
                textcoords="offset points",
                ha="right" if row["method"] == "fp32" else "center",
                fontsize=9,
                color=color(i),
            )
    bill = table.iloc[0]
    told = (
        f"The bill: the teacher read {bill['teacher_rows']:,} rows with labels "
        f"({bill['teacher_minutes']:g} minutes); the student {bill['student_rows']:,}."
    )
    ax.set(
        xlabel=f"time of a batch (the teacher in 32 bits: 1)\n{told}",
        ylabel="accuracy (%)",
        xlim=(0, 1.12 * table["time"].max()),
        ylim=(table["accuracy"].min() - 1.6, table["accuracy"].max() + 1.4),
    )
    ax.legend(loc="center right", markerscale=0.7)
    return fig


# -- 01 · Soft targets ---------------------------------------------------------------------------

CLASSES = ("entailment", "neutral", "contradiction")


def _share(ax, x, y, share) -> None:
    """A share in the middle of its part of a bar, on a patch of the ground: bars have hatches."""
    patch = dict(boxstyle="round,pad=0.15", facecolor=paper(), edgecolor="none", alpha=0.85)
    middle(ax, x, y, f"{share:.0%}", bbox=patch)


@figure(
    "01_soft_targets",
    "Dark knowledge: MiniNLI (synthetic)",
    PEOPLE,
    alt="""Stacked bars, two for each label: the mean shares of entailment, neutral and
    contradiction over the rows of that label. One bar shows the true distribution (on real rows:
    the votes of 100 people), the other the teacher. The shares of the two classes that are not the
    label are the dark knowledge.""",
)
def dark_knowledge(table):
    """columns: label, who, entailment, neutral, contradiction (shares)"""
    fig, ax = plt.subplots(figsize=(7.6, 3.2))
    rank = table.groupby("label", sort=False)
    # The bars of a label stand together: 1 apart, and 2.6 from label to label.
    places = 2.6 * rank.ngroup() + rank.cumcount().clip(upper=1)
    order = np.argsort(places, kind="stable")
    table, places = table.iloc[order], places.iloc[order].tolist()
    left = np.zeros(len(table))
    for k, answer in enumerate(CLASSES):
        shares = table[answer].to_numpy()
        ax.barh(places, shares, 0.85, left, **bar_look(k), alpha=0.75, label=answer)
        for x, y, share in zip(left, places, shares):
            if share >= 0.04:
                _share(ax, x + share / 2, y, share)
        left += shares
    ax.set_yticks(places, "“" + table["label"] + "”: " + table["who"])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="mean share of each answer over the rows of this label")
    legend_above(ax, 3, fontsize=10)
    ax.grid(False)
    return fig


dark_knowledge_people = again(
    dark_knowledge,
    "dark_knowledge_people",
    "01_soft_targets",
    "Dark knowledge: real people",
    PEOPLE,
    """Real rows, stacked bars, two for each label: the mean shares of entailment, neutral and
    contradiction over the rows of that label. One bar shows the votes of 100 people a row, the
    other the teacher. The shares of the two classes that are not the label are the dark
    knowledge.""",
    file="lab",
)


@figure(
    "01_soft_targets",
    "Dark knowledge, or only smoothing?",
    PEOPLE,
    alt="""Three targets, each made softer step by step: the smoothed label, the softened teacher,
    and the teacher with its two wrong classes made equal. Each curve shows KL(truth ‖ target)
    against the entropy of the target; a ring marks its lowest point. A dotted line marks the
    entropy of the truth. On real rows, the votes of 100 people take the place of the truth.""",
)
def dark_knowledge_or_smoothing(table):
    """columns: target, strength (ε or T), entropy, KL, truth (its entropy), who (what it is)"""
    who = table["who"].iloc[0]
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    for i, target, part in groups(table, "target"):
        best = part.loc[part["KL"].idxmin()]
        symbol = "ε" if target.startswith("label") else "T"
        label = f"{target}: lowest {best['KL']:.3f} ({symbol} = {best['strength']:g})"
        ax.plot(part["entropy"], part["KL"], **look(i), markersize=4, label=label)
        ax.plot(
            best["entropy"],
            best["KL"],
            marker(i),
            color=color(i),
            markersize=9,
            markerfacecolor="none",
        )
    entropy_of_truth = table["truth"].iloc[0]
    upright(ax, entropy_of_truth, ":")
    top = ax.get_xaxis_transform()
    ax.text(entropy_of_truth, 0.98, f" entropy of {who}", transform=top, va="top", fontsize=8.5)
    lowest, highest = table["KL"].min(), table["KL"].max()
    flat = table["KL"][table["entropy"].idxmax()]
    ax.set(
        xlabel="mean entropy of the target (nats), softer to the right",
        ylabel=f"KL({who} ‖ target), nats",
        ylim=(0, min(1.15 * highest, max(1.3 * flat, 4 * lowest))),
    )
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5)
    return fig


# -- 02 · Temperature ----------------------------------------------------------------------------


@figure(
    "02_temperature",
    "Temperature softens",
    "",
    alt="""One answer of a teacher at several temperatures, one panel for each. Bars show the
    probabilities of three classes; the title gives T and the entropy. The bars become flatter as T
    grows, and their order stays the same.""",
)
def softening(table):
    """columns: T, class, probability, entropy"""
    fig, parts = panels(table, "T", 2.1, 2.6, extra=0.6, sort=True, sharey=True)
    for ax, T, part in parts:
        bars(ax, part["class"], part["probability"])
        ax.set_title(f"T = {T:g}\nentropy {part['entropy'].iloc[0]:.2f} nats", fontsize=10)
        ax.set_ylim(0, 1.08)
    fig.axes[0].set_ylabel("probability")
    return fig


@figure(
    "02_temperature",
    "Nearer, then farther: KL over T",
    "",
    alt="""KL(truth ‖ teacher) over the temperature of the teacher, for all rows, for the rows where
    the teacher's first choice is right, and for those where it is wrong. A ring marks the lowest
    point over all rows. The dashed line is the best smoothed label. Left: the synthetic rows of
    this run. Right: stored numbers of real rows, where the votes of 100 people take the place of
    the truth.""",
)
def nearer_then_farther(table):
    """columns: source, T, rows ("all rows", "teacher right", "teacher wrong"), KL, smoothed (the
    label's best KL)
    """
    fig, parts = panels(table, "source", 4.3, 3.6, sharey=True)
    for ax, source, part in parts:
        lines(ax, part, "T", "KL", "rows")
        every = part[part["rows"] == "all rows"]
        T, KL = every.loc[every["KL"].idxmin(), ["T", "KL"]]
        ax.plot(T, KL, "o", markersize=10, markerfacecolor="none", color=color(0))
        level(ax, part["smoothed"].iloc[0], label="best smoothed label")
        ax.set_xscale("log", base=2)
        ax.set_title(f"{source}\nlowest over all rows: {KL:.3f} at T = {T:g}", fontsize=10)
        truth = "100 people" if source == CHAOS.rows else "truth"
        ax.set(xlabel="temperature T", ylabel=f"KL({truth} ‖ teacher at T), nats")
        plain_numbers(ax.xaxis)
    parts[0][0].set_ylim(0, 1.05 * table["KL"].max())
    parts[-1][0].legend(fontsize=8.5)
    return fig


nearer_then_farther_people = again(
    nearer_then_farther,
    "nearer_then_farther_people",
    "02_temperature",
    "Nearer, then farther: real people",
    PEOPLE,
    """Real rows: KL(100 people ‖ teacher) over the temperature of the teacher, for all rows, for
    the rows where the teacher's first choice is that of the people, and for the other rows. All
    three fall steeply from T = 0.5 on. Over all rows the lowest point is at T = 4. The dashed line
    is the best smoothed label.""",
    file="lab",
)


@figure(
    "02_temperature",
    "T² and gradients",
    PEOPLE,
    alt="""Mean norm of the gradient at the student's logits against T; both axes are logarithmic.
    Without T² the gradient of the KL falls, at last along a line of slope -2. With T² it settles at
    a constant. A dotted line shows the gradient of the hard-label loss, which has no temperature:
    without T² the gradient of the soft loss soon becomes tiny beside it.""",
)
def why_t_squared(table):
    """columns: T, without, with, ce (mean gradient norms over rows)"""
    fig, ax = plt.subplots()
    T = table["T"]
    for i, (column, label) in enumerate((("without", "KL, without T²"), ("with", "T² · KL"))):
        ax.plot(T, table[column], **look(i), markersize=4, label=label)
    level(ax, table["ce"].iloc[0], ":", linewidth=1.2, label="CE (no temperature)")
    last = table.iloc[-1]
    slope = last["without"] * (last["T"] / T) ** 2
    ax.plot(T, slope, color="grey", linewidth=0.8, label="slope -2")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    plain_numbers(ax.xaxis)
    ax.set(
        xlabel="temperature T",
        ylabel="gradient norm at the student's logits",
        ylim=(table["without"].min() / 2, None),
    )
    ax.legend(fontsize=8.5)
    return fig


# -- 03 · The distillation loss ------------------------------------------------------------------


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
    fig.supxlabel("A: the label's class; B and C: the wrong ones", fontsize=9.5)
    # outside, for in some panel a bar stands in every corner
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, fontsize=9, loc="outside upper right", ncols=3)
    return fig


def _push(ax, part) -> None:
    """One panel of `pulls`: bars of the soft and the hard loss, a diamond for both together."""
    x = np.arange(len(part))
    for i, column in enumerate(("soft", "hard")):
        places, label = x + (i - 0.5) * 0.34, f"{column} loss"
        ax.bar(places, part[column], 0.32, **bar_look(i), label=label)
    both = part["soft"] + part["hard"]
    ax.plot(x, both, "D", color=ink(), markersize=5, label="together")
    level(ax, 0, "-", linewidth=0.8)
    ax.set_xticks(x, part["class"])
    ax.grid(axis="x", visible=False)


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
        beside(cosines, place, f"{before:.2f} → {after:.2f}")
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
    return fig


def _all_seeds(stored):
    return mistakes_of.of_runs(stored.runs("03_distillation_loss"))


@figure(
    "03_distillation_loss",
    "Accuracy hides mistakes",
    MINI_NLI,
    alt="""What each mistake changes, beside the right loss: left the accuracy on validation rows,
    right the KL divergence from the truth; the dot is the mean over seeds, the bar its 95 %
    interval, corrected for the number of mistakes. A filled square marks a change that the runs
    show, a cross this run. What lies far off is written at the edge.""",
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
        ax.plot(crosses["mine"], place[crosses["loss"]], "x", color=ink(), label="this run")
        for row in part[~near].itertuples():
            x, side = (0.97, "right") if row.mean > 0 else (0.03, "left")
            text = f"far off: {row.mean:+.2g}".replace("-", "−")
            beside(ax, place[row.loss], text, x, ha=side, color=color(1), backgroundcolor=paper())
        upright(ax, 0, "-", linewidth=0.8, zorder=0)
        ax.set(xlabel=metric, ylim=(-0.6, len(names) - 0.4))
    axes[0].set_yticks(place, names)
    legend_above(axes[1], ncols=3, fontsize=8)
    return fig
