"""Figures of notebooks 00 to 02: why, soft targets, temperature."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..votes import CHAOS
from .drawing import (
    Rows,
    again,
    bar_look,
    bars,
    color,
    figure,
    groups,
    ink,
    label_ends,
    legend_above,
    level,
    message,
    middle,
    number,
    panels,
    paper,
    plain_numbers,
    upright,
)
from .looks import color_of, look_of, mark_of, method_of

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


def _smaller(table) -> str:
    size = table.set_index("role")["parameters"]
    if not {"teacher", "student"} <= set(size.index) or size["student"] >= size["teacher"]:
        return ""
    share = 100 * size["student"] / size["teacher"]
    return f"A student with {share:.0f} % of the weights learns from labels and from its teacher"


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
    teacher, student, labels = color_of("teacher"), color_of("kd"), color_of("ce")
    loss = "the loss\nα · T² · KL\n+ (1 − α) · CE"
    _box(ax, 0.2, 1.5, 1.3, 1.0, "rows of text\nand labels", color(6))
    _box(ax, 2.4, 2.5, 3.1, 1.2, about["teacher"] + "\nfrozen", teacher)
    _box(ax, 2.4, 0.4, 3.1, 0.9, about["student"], student)
    _box(ax, 7.3, 1.4, 2.4, 1.2, loss, color(3))
    _arrow(ax, (1.6, 2.3), (2.3, 2.9))
    _arrow(ax, (1.6, 1.7), (2.3, 1.05))
    _arrow(ax, (5.6, 2.9), (7.2, 2.25), "soft targets", teacher, shift=(0.3, 0.22))
    _arrow(ax, (5.6, 1.0), (7.2, 1.7), "answers", student, shift=(-0.45, 0.15))
    _arrow(ax, (1.6, 2.0), (7.2, 2.0), "labels", labels, ":", shift=(-0.4, 0.13))
    back = "gradient, to the student only"
    _arrow(ax, (8.6, 1.3), (5.6, 0.55), back, color(3), "--", shift=(0.5, -0.35))
    message(fig, _smaller(table), "The student learns from labels and from its teacher")
    return fig


def _race(stored):
    """The stored race, with the student's training: another figure has another student."""
    table = stored.table("00_start_here", "race")
    about = stored.records("00_start_here")[0]["settings"]
    return table.assign(train_rows=about["train_rows"], epochs=about["epochs"])


def _race_won(table) -> str:
    by_name = table.set_index("model")
    if not {"teacher", "student"} <= set(by_name.index):
        return ""
    teacher, student = by_name.loc["teacher"], by_name.loc["student"]
    smaller = teacher["parameters"] / student["parameters"]
    faster = teacher["milliseconds"] / student["milliseconds"]
    lost = 100 * (teacher["accuracy"] - student["accuracy"])
    if not (smaller > 1 and faster > 1 and lost > 0):
        return ""
    times = f"{smaller:.1f} times smaller, {faster:.1f} times faster"
    return f"The student is {times}, and loses {lost:.1f} points"


RACERS = {"teacher": ("teacher", 1.0), "student": ("kd", 1.0), "student, cut out": ("kd", 0.35)}


@figure(
    "00_start_here",
    "The race",
    MINI_NLI,
    alt="""Three panels compare the teacher and the student: parameters in millions, milliseconds
    for one row on this machine, and accuracy on the validation rows. The first and the third
    panel also show the student before its training, just as it was cut out of the teacher.""",
    data=_race,
)
def race(table):
    """columns: model, parameters, milliseconds (NaN: as the student's), accuracy; maybe train_rows
    and epochs of the student
    """
    measures = (
        ("parameters", 1e-6, "parameters (M)", "{:.2f}"),
        ("milliseconds", 1, "ms for one row", "{:.1f}"),
        ("accuracy", 100, "accuracy (%)", "{:.1f}"),
    )
    fig, axes = plt.subplots(1, 3, figsize=(8, 2.9))
    for ax, (column, scale, title, fmt) in zip(axes, measures):
        part = table.dropna(subset=[column])
        if column != "accuracy":  # before its training it is as large and as fast
            part = part[part["model"] != "student, cut out"]
        names = [name.replace(", ", ",\n") for name in part["model"]]
        looks = [RACERS.get(name, ("", 1.0)) for name in part["model"]]
        shades = [matplotlib.colors.to_rgba(color_of(method), alpha) for method, alpha in looks]
        bars(ax, names, part[column] * scale, fmt=fmt, color=shades)
        ax.set_title(title, fontsize=10)
        ax.tick_params(axis="x", labelsize=8)
        ax.margins(y=0.15)
    if "train_rows" in table:
        about = table.iloc[0]
        told = f"this student: {about['train_rows']:,} rows, {about['epochs']} epochs"
        axes[1].set_xlabel(told)
    message(fig, _race_won(table), "Size, time and accuracy of teacher and student")
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
    settings = records[0]["settings"]
    return table.assign(
        teacher_rows=about["rows"],
        teacher_minutes=about["minutes"],
        student_rows=settings["train_rows"],
        student_epochs=settings["epochs"],
    )


def _formats_that_pay(table) -> str:
    """Only what holds for both models is said."""
    fewer = ["int8 weight-only", "int8 dynamic", "int4 weight-only"]
    for _, part in table.groupby("model"):
        of = part.set_index("method")
        if not {"fp32", "bf16", *fewer} <= set(of.index):
            return ""
        smaller = (of["mb_packed"].drop("fp32") < of["mb_packed"]["fp32"]).all()
        slower = (of["time"][fewer] > of["time"]["fp32"]).all()
        if not (smaller and slower and of["time"]["bf16"] < of["time"]["fp32"]):
            return ""
    return "8 and 4 bits make a model smaller, not faster; bf16 does both"


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
    teacher_minutes, student_rows, student_epochs
    """
    fig, ax = plt.subplots(figsize=(7.2, 4.05))
    for _, model, part in groups(table, "model"):
        looks = mark_of("teacher" if "teacher" in model else "kd")
        del looks["linestyle"]
        ax.scatter("time", "accuracy", s=90 * part["mb_packed"], alpha=0.7, data=part, **looks)
        for j, row in enumerate(part.sort_values("time").to_dict("records")):
            name = row["method"].replace("weight-only", "weights")
            ax.annotate(
                f"{name}\n{row['mb_packed']:.1f} MB",
                (row["time"], row["accuracy"]),
                (0, (16, -34)[j % 2]),  # above and below in turn: neighbours would collide
                textcoords="offset points",
                ha={"fp32": "right", "int4 weight-only": "left"}.get(row["method"], "center"),
                fontsize=9,
                color=looks["color"],
            )
        last = part.loc[part["time"].idxmax()]
        number(ax, model.split()[-1], last["time"], last["accuracy"], 24, **_bold(looks["color"]))
    bill = table.iloc[0]
    told = (
        f"teacher: {bill['teacher_rows']:,} rows ({bill['teacher_minutes']:g} minutes); student: "
        f"{bill['student_rows']:,} rows, {bill['student_epochs']} epochs"
    )
    ax.set(
        xlabel=f"time of a batch (the teacher in 32 bits: 1)\n{told}",
        ylabel="accuracy (%)",
        xlim=(0, 1.3 * table["time"].max()),
        ylim=(table["accuracy"].min() - 2, table["accuracy"].max() + 1.4),
    )
    message(fig, _formats_that_pay(table), "Accuracy, size and time in several formats")
    return fig


def _bold(shade) -> dict:
    return {"color": shade, "weight": "bold", "fontsize": 11}


# -- 01 · Soft targets ---------------------------------------------------------------------------

CLASSES = ("entailment", "neutral", "contradiction")


def _share(ax, x, y, share) -> None:
    """A share in the middle of its part of a bar, on a patch of the ground: bars have hatches."""
    patch = dict(boxstyle="round,pad=0.15", facecolor=paper(), edgecolor="none", alpha=0.85)
    middle(ax, x, y, f"{share:.0%}", bbox=patch)


def _ranked_alike(table) -> str:
    """For how many labels the teacher puts the two wrong classes in the order of the truth."""
    alike, labels, whose = 0, 0, ""
    for label, part in table.groupby("label", sort=False):
        if len(part) != 2 or label not in CLASSES:
            return ""
        wrong = [name for name in CLASSES if name != label]
        first, second = (part.iloc[i][wrong[0]] > part.iloc[i][wrong[1]] for i in (0, 1))
        alike += first == second
        labels += 1
        whose = part.iloc[0]["who"]
    if not alike:
        return ""
    whose = {"truth": "the truth does", "100 people": "people do"}.get(whose, f"{whose} does")
    count = f"{alike} of {labels}" if alike < labels else f"all {labels}"
    return f"The teacher ranks the wrong classes as {whose} for {count} labels"


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
    message(fig, _ranked_alike(table), "Mean answers over the rows of each label")
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


def _one_pair(stored):
    """One row of MiniNLI: its label, the true distribution, and the teacher at two temperatures."""
    pair = stored.json("results/examples.json")["pair"]
    logits = np.array(pair["logits"])
    answers = {"the label": [float(name == pair["label"]) for name in CLASSES]}
    answers["the truth"] = pair["truth"]
    for T in (1, 4):
        softened = np.exp(logits / T)
        answers[f"the teacher, T = {T}"] = softened / softened.sum()
    table = pd.DataFrame(answers, index=CLASSES).T.rename_axis("who").reset_index()
    return table.assign(premise=pair["premise"], hypothesis=pair["hypothesis"])


def _second_choice(table) -> str:
    """Whether the teacher puts the wrong classes in the truth's order."""
    answers = table.set_index("who")[list(CLASSES)]
    if len(answers) < 3:
        return ""
    label, truth, teacher = (answers.iloc[i] for i in (0, 1, 2))
    wrong = [name for name in CLASSES if name != label.idxmax()]
    second = truth[wrong].idxmax()
    if teacher.idxmax() != label.idxmax() or teacher[wrong].idxmax() != second:
        return ""
    shares = f"{100 * teacher[second]:.0f} % (truth {100 * truth[second]:.0f} %)"
    return f"The label says “{label.idxmax()}”; the teacher adds {shares} for “{second}”"


@figure(
    "01_soft_targets",
    "Dark knowledge on one sentence pair",
    MINI_NLI,
    alt="""One sentence pair of MiniNLI (synthetic) as text, and below it four stacked bars with
    shares of entailment, neutral and contradiction: the label, which has one class only, the true
    distribution, and the teacher at T = 1 and at T = 4. The label hides what the truth and the
    teacher say about the two other classes.""",
    data=_one_pair,
)
def one_pair(table):
    """columns: who, entailment, neutral, contradiction (shares), premise, hypothesis"""
    fig, ax = plt.subplots(figsize=(7.2, 3.4))
    places = np.arange(len(table))
    left = np.zeros(len(table))
    for k, answer in enumerate(CLASSES):
        shares = table[answer].to_numpy()
        ax.barh(places, shares, 0.7, left, **bar_look(k), alpha=0.75, label=answer)
        for x, y, share in zip(left, places, shares):
            if share >= 0.05:
                _share(ax, x + share / 2, y, share)
        left += shares
    ax.set_yticks(places, table["who"])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="share of each answer")
    ax.grid(False)
    legend_above(ax, 3, fontsize=10)
    pair = table.iloc[0]
    ax.set_title(f"“{pair['premise']}” → “{pair['hypothesis']}”\n\n", fontsize=12)
    message(fig, _second_choice(table), "One pair: label, truth and teacher")
    return fig


def _price_of_wiping_out(table) -> str:
    lowest = table.groupby("target")["KL"].min()
    names = {"teacher, softened", "teacher, wrong classes equal", "label, smoothed"}
    if not names <= set(lowest.index):
        return ""
    dark = lowest["teacher, wrong classes equal"] - lowest["teacher, softened"]
    label = lowest["label, smoothed"] - lowest["teacher, softened"]
    whose = "people" if table["who"].iloc[0] == CHAOS.truth else "the truth"
    if dark < 0.005:
        return ""
    if label < 0.02 * lowest["label, smoothed"]:
        return f"Dark knowledge is worth {dark:.2f} nats, but a smoothed label is as near"
    return f"Without its dark knowledge the teacher is {dark:.2f} nats farther from {whose}"


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
    for _, target, part in groups(table, "target"):
        looks = look_of(method_of(target))
        best = part.loc[part["KL"].idxmin()]
        symbol = "ε" if target.startswith("label") else "T"
        label = f"{target}: lowest {best['KL']:.3f} ({symbol} = {best['strength']:g})"
        ax.plot(part["entropy"], part["KL"], **looks, markersize=4, label=label)
        ring = looks | {"markerfacecolor": "none", "markersize": 9}
        ax.plot(best["entropy"], best["KL"], **ring)
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
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5, labelcolor="linecolor")
    message(fig, _price_of_wiping_out(table), "How near three kinds of targets come")
    return fig


# -- 02 · Temperature ----------------------------------------------------------------------------


def _softened(table) -> str:
    by_t = table.groupby("T").agg(entropy=("entropy", "first"), top=("probability", "max"))
    tops = table.sort_values("probability").groupby("T")["class"].last()
    if not by_t["entropy"].is_monotonic_increasing or tops.nunique() > 1 or len(by_t) < 2:
        return ""
    first, last = by_t.index[0], by_t.index[-1]
    falls = f"from {by_t['top'][first]:.0%} to {by_t['top'][last]:.0%}".replace("%", " %")
    return f"From T = {first:g} to T = {last:g} the top class falls {falls} and stays the top"


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
    fig.axes[0].set_ylabel("probability of the class")
    message(fig, _softened(table), "One answer at several temperatures")
    return fig


PARTS = {
    "all rows": dict(linestyle="-", marker="o"),
    "teacher right": dict(linestyle="--", marker="s"),
    "teacher wrong": dict(linestyle="-.", marker="^"),
}


def _nearest(part) -> tuple[float, float]:
    """(T, KL) of the lowest point over all rows."""
    every = part[part["rows"] == "all rows"]
    T, kl = every.loc[every["KL"].idxmin(), ["T", "KL"]]
    return T, kl


def _near(table) -> str:
    """Of the last source, which are the real votes where there are some."""
    source = table["source"].iloc[-1]
    part = table[table["source"] == source]
    T, kl = _nearest(part)
    smoothed = part["smoothed"].iloc[0]
    every = part[part["rows"] == "all rows"].sort_values("T")
    ends = every["KL"].iloc[[0, -1]]
    if kl > 0.99 * ends.min():
        return ""  # no valley
    nearer = "nearer" if kl < 0.98 * smoothed else "no nearer"
    whom = "people" if source == CHAOS.rows else "the truth"
    return f"At best, at T = {T:g}, the teacher is {nearer} to {whom} than a smoothed label"


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
    parts[0][0].set_ylim(0, 1.05 * table["KL"].max())
    for ax, source, part in parts:
        ax.set_xscale("log", base=2)
        for i, rows, own in groups(part, "rows"):
            looks = {"color": ink() if rows == "all rows" else color(i), **PARTS.get(rows, {})}
            ax.plot(own["T"], own["KL"], **looks, markersize=4, label=rows)
            if len(parts) == 1:  # named where the lines start, far apart
                start = own.sort_values("T").iloc[0]
                words = dict(ha="right", va="center", color=looks["color"], fontsize=10)
                ax.text(0.92 * start["T"], start["KL"], rows, **words)
                ax.set_xlim(left=start["T"] / 2.5)
        T, KL = _nearest(part)
        ax.plot(T, KL, "o", markersize=10, markerfacecolor="none", color=ink())
        level(ax, part["smoothed"].iloc[0], color=color_of("label_smoothing"))
        below = dict(color=color_of("label_smoothing"), va="top", fontsize=10)
        if len(parts) == 1:
            told = " best smoothed label"
            ax.text(ax.get_xlim()[0], 0.9 * part["smoothed"].iloc[0], told, **below)
        else:
            ax.lines[-1].set_label("best smoothed label")
        ax.set_title(f"{source}\nlowest over all rows: {KL:.3f} at T = {T:g}", fontsize=10)
        truth = "100 people" if source == CHAOS.rows else "truth"
        ax.set(xlabel="temperature T", ylabel=f"KL({truth} ‖ teacher at T), nats")
        plain_numbers(ax.xaxis)
    if len(parts) > 1:
        fig.axes[-1].legend(loc="upper right", labelcolor="linecolor", fontsize=9)
    message(fig, _near(table), "How far the teacher is as its temperature rises")
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


def _faded(table) -> str:
    by_t = table.set_index("T")
    if not {1.0, 8.0} <= set(by_t.index):
        return ""
    times = by_t["without"][1.0] / by_t["without"][8.0]
    kept = by_t["with"].max() / by_t["with"].min()
    if times < 4 * kept:
        return ""
    return f"Without T² the soft loss is {times:.0f} times weaker at T = 8 than at T = 1"


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
    last = table.iloc[-1]
    slope = last["without"] * (last["T"] / T) ** 2
    ax.plot(T, slope, color="grey", linewidth=0.8)
    shades = {"with": color_of("kd"), "without": color(1)}
    ax.plot(T, table["with"], color=shades["with"], marker="o", markersize=4)
    ax.plot(T, table["without"], "--", color=shades["without"], marker="s", markersize=4)
    level(ax, table["ce"].iloc[0], ":", linewidth=1.4, color=color_of("ce"))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    plain_numbers(ax.xaxis)
    ax.set(
        xlabel="temperature T",
        ylabel="gradient norm at the student's logits",
        ylim=(table["without"].min() / 2, None),
    )
    end = last["T"]
    label_ends(
        ax,
        [
            (end, last["with"], "T² · KL", shades["with"]),
            (end, table["ce"].iloc[0], "CE, no T", color_of("ce")),
            (end, last["without"], "KL, no T²", shades["without"]),
        ],
    )
    ax.text(T.iloc[1], 1.8 * slope.iloc[1], "slope −2", fontsize=10, color="grey")
    message(fig, _faded(table), "The gradients of the soft and the hard loss")
    return fig
