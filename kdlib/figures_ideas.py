"""Figures of notebooks 00 to 03: why, soft targets, temperature, the loss."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .drawing import COLORS, LINES, MARKERS, again, bars, figure, ink, lines, paper


# -- 00 · Start here --------------------------------------------------------------------------------------------------

@figure("00_start_here", alt="""The teacher and the student of distillation: both read the same rows; the teacher, which is larger and
    frozen, answers with soft targets; the student is trained towards them and towards the labels.""")
def teacher_and_student(table):
    """columns: role ("teacher", "student"), layers, parameters"""
    of = table.set_index("role")
    about = lambda role: f"{role}\n{of.loc[role, 'layers']} layers, {of.loc[role, 'parameters'] / 1e6:.2g} M parameters"
    fig, ax = plt.subplots(figsize=(8, 3.2))
    ax.set(xlim=(0, 10), ylim=(0, 4))
    ax.axis("off")

    def box(x, y, w, h, text, color, **kw):
        ax.add_patch(matplotlib.patches.FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.08", facecolor=color + "22",
                                                       edgecolor=color, linewidth=1.5))
        ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", fontsize=9, **kw)

    def arrow(start, end, text="", color=None, line="-", shift=(0, 0.14), **kw):
        color = color or ink()
        ax.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=color, linestyle=line, linewidth=1.3))
        ax.text((start[0] + end[0]) / 2 + shift[0], (start[1] + end[1]) / 2 + shift[1], text, ha="center", va="center", fontsize=8.5,
                color=color, **kw)

    box(0.2, 1.5, 1.3, 1.0, "rows of text\nand labels", COLORS[6])
    box(2.4, 2.5, 3.1, 1.2, about("teacher") + "\nfrozen", COLORS[0])
    box(2.4, 0.4, 3.1, 0.9, about("student"), COLORS[1])
    box(7.3, 1.5, 2.6, 1.0, "distillation loss\nα · soft + (1 − α) · hard", COLORS[2])
    arrow((1.6, 2.3), (2.3, 2.9)), arrow((1.6, 1.7), (2.3, 1.05))
    arrow((5.6, 2.9), (7.2, 2.25), "soft targets", COLORS[0], shift=(0.3, 0.22))
    arrow((5.6, 1.0), (7.2, 1.7), "answers", COLORS[1], shift=(-0.45, 0.15))
    arrow((1.6, 2.0), (7.2, 2.0), "labels", line=":", shift=(-0.4, 0.13))
    arrow((8.6, 1.4), (5.6, 0.55), "gradient, to the student only", COLORS[2], "--", shift=(0.5, -0.35))
    return fig


@figure("00_start_here", alt="""The race in three panels, teacher beside student: parameters in millions, milliseconds for one row on this
    machine, and accuracy on validation rows, where the student that was only cut out and not trained stands too.""")
def race(table):
    """columns: model, parameters, milliseconds (NaN: as the student's), accuracy"""
    fig, axes = plt.subplots(1, 3, figsize=(8, 2.9))
    for ax, (column, scale, title, fmt) in zip(axes, (("parameters", 1e-6, "parameters (M)", "{:.2f}"),
                                                      ("milliseconds", 1, "ms for one row", "{:.1f}"),
                                                      ("accuracy", 100, "accuracy (%)", "{:.1f}"))):
        part = table.dropna(subset=[column])
        bars(ax, [m.replace(", ", ",\n") for m in part["model"]], part[column] * scale, fmt=fmt)
        ax.set_title(title, fontsize=10)
        ax.tick_params(axis="x", labelsize=8)
        ax.margins(y=0.15)
    return fig


def _plane(stored):
    """Time, size and accuracy of teacher and student in several number formats, and what each cost to make."""
    used = pd.DataFrame([{"seed": r["seed"], **row} for r in stored.records("08_limits") for row in r["results"]["in_use"]])
    clock = used[(used["model"] == "MiniNLI teacher") & (used["method"] == "fp32")].set_index("seed")["ms"]
    used["time"] = used["ms"] / used["seed"].map(clock)                        # each record by its own clock: machines differ, and are busy
    kept = used[used["method"].isin(("fp32", "bf16", "int8 weight-only", "int8 dynamic", "int4 weight-only"))]     # fp16: this processor computes it slowly
    table = kept.groupby(["model", "method"], sort=False)[["time", "mb_packed", "accuracy"]].mean().reset_index()
    about = stored.json("teachers/mini_nli/teacher.json")
    return table.assign(teacher_rows=about["rows"], teacher_minutes=about["minutes"], student_rows=stored.records("08_limits")[0]["settings"]["train_rows"])


@figure("00_start_here", alt="""Speed, size and quality in one plane, MiniNLI (synthetic): accuracy against the time of a batch as a multiple of the teacher's in 32 bits; the area of a
    mark is the size of the weights. The student in 32 bits takes about half of the teacher's time and loses some points; 8 and 4 bits make either smaller, not faster; bf16 makes it both. A line
    below says what the teacher cost before the student could begin.""", data=_plane)
def speed_size_quality(table):
    """columns: model, method, time (teacher in fp32 = 1), mb_packed, accuracy (%), teacher_rows, teacher_minutes, student_rows"""
    fig, ax = plt.subplots(figsize=(7.2, 4.05))
    for i, (model, part) in enumerate(table.groupby("model", sort=False)):
        ax.scatter(part["time"], part["accuracy"], s=90 * part["mb_packed"], color=COLORS[i], marker=MARKERS[i], alpha=0.75, label=model)
        for j, row in enumerate(part.sort_values("time").to_dict("records")):
            ax.annotate(f"{row['method'].replace('weight-only', 'weights')}\n{row['mb_packed']:.1f} MB", (row["time"], row["accuracy"]), (0, (16, -34)[j % 2]),
                        textcoords="offset points", ha="right" if row["method"] == "fp32" else "center", fontsize=9, color=COLORS[i])
    first = table.iloc[0]
    ax.set(xlabel=f"time of a batch (the teacher in 32 bits: 1)\nThe bill: the teacher read {first['teacher_rows']:,} rows with labels ({first['teacher_minutes']:g} minutes); the student {first['student_rows']:,}.",
           ylabel="accuracy (%)", xlim=(0, 1.12 * table["time"].max()), ylim=(table["accuracy"].min() - 1.6, table["accuracy"].max() + 1.4))
    ax.legend(loc="center right", markerscale=0.7)
    return fig


# -- 01 · Soft targets ------------------------------------------------------------------------------------------------

CLASSES = ("entailment", "neutral", "contradiction")


@figure("01_soft_targets", alt="""Dark knowledge: for the rows of each label, how the true distribution (on real rows: people's votes) and how the teacher
    share belief among entailment, neutral and contradiction, as stacked bars. The parts beside the label's own class are the dark knowledge.""")
def dark_knowledge(table):
    """columns: label, who, entailment, neutral, contradiction (shares)"""
    fig, ax = plt.subplots(figsize=(7.6, 3.2))
    rows = [(i * 2.6 + (0 if j == 0 else 1), row) for i, (_, part) in enumerate(table.groupby("label", sort=False))
            for j, row in enumerate(part.to_dict("records"))]
    left = np.zeros(len(rows))
    for k, (answer, hatch) in enumerate(zip(CLASSES, ("", "//", ".."))):
        shares = np.array([row[answer] for _, row in rows])
        ax.barh([y for y, _ in rows], shares, 0.85, left, color=COLORS[k], alpha=0.75, hatch=hatch, edgecolor=paper(), label=answer)
        for (y, _), x, share in zip(rows, left, shares):
            if share >= 0.04:
                ax.text(x + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=8.5,
                        bbox=dict(boxstyle="round,pad=0.15", facecolor=paper(), edgecolor="none", alpha=0.85))
        left += shares
    ax.set_yticks([y for y, _ in rows], [f"“{row['label']}”: {row['who']}" for _, row in rows])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="mean share of belief over the rows of this label")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    ax.grid(False)
    return fig


again(dark_knowledge, "dark_knowledge_people", "01_soft_targets", """Dark knowledge on real rows: for the rows of each label, how 100 people a row and how the teacher share their
    belief among entailment, neutral and contradiction, as stacked bars. The parts beside the label's own class are the dark knowledge.""", file="lab")


@figure("01_soft_targets", alt="""KL of the true distribution (on real rows: of people's votes) from three targets against the target's entropy, as a
    target is made softer: the smoothed label, the softened teacher, and the teacher with its two wrong classes made equal. A dotted line
    marks the true distribution's own entropy; the best point of each curve carries its number.""")
def dark_knowledge_or_smoothing(table):
    """columns: target, strength (ε or T), entropy, KL, people (their entropy), who they are (else the true distribution)"""
    who = table["who"].iloc[0] if "who" in table else "true distribution"
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    for i, (target, part) in enumerate(table.groupby("target", sort=False)):
        best = part.loc[part["KL"].idxmin()]
        symbol = "ε" if target.startswith("label") else "T"
        ax.plot(part["entropy"], part["KL"], color=COLORS[i], linestyle=LINES[i], marker=MARKERS[i], markersize=4,
                label=f"{target}: at best {best['KL']:.3f} ({symbol} = {best['strength']:g})")
        ax.plot(best["entropy"], best["KL"], MARKERS[i], color=COLORS[i], markersize=9, markerfacecolor="none")
    ax.axvline(table["people"].iloc[0], color=ink(), linestyle=":", linewidth=1)
    ax.text(table["people"].iloc[0], 0.98, f" entropy of {who}", transform=ax.get_xaxis_transform(), va="top", fontsize=8.5)
    lowest, flat = table["KL"].min(), table["KL"][table["entropy"].idxmax()]
    ax.set(xlabel="mean entropy of the target (nats): softer to the right", ylabel=f"KL({who} ‖ target), nats",
           ylim=(0, min(1.15 * table["KL"].max(), max(1.3 * flat, 4 * lowest))))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5)
    return fig


# -- 02 · Temperature -------------------------------------------------------------------------------------------------

@figure("02_temperature", alt="""One answer of a teacher to one row at several temperatures, a panel each: bars for the three classes, with the
    entropy in the title. The higher T, the flatter the bars; their order never changes.""")
def softening(table):
    """columns: T, class, probability, entropy"""
    fig, axes = plt.subplots(1, table["T"].nunique(), figsize=(2.1 * table["T"].nunique() + 0.6, 2.6), sharey=True, squeeze=False)
    for ax, (T, part) in zip(axes[0], table.groupby("T", sort=True)):
        bars(ax, part["class"], part["probability"])
        ax.set_title(f"T = {T:g}\nentropy {part['entropy'].iloc[0]:.2f} nats", fontsize=10)
        ax.set_ylim(0, 1.08)
    axes[0][0].set_ylabel("probability")
    return fig


@figure("02_temperature", alt="""KL of people from the teacher as its temperature rises, for all rows and apart for those where the teacher's first
    choice is people's and where it is not; a circle marks the lowest point for all rows, a dashed line what a smoothed label
    reaches at best. Left the synthetic rows of this run, right the stored numbers of real rows with human votes.""")
def nearer_then_farther(table):
    """columns: source, T, rows ("all rows", "teacher right", "teacher wrong"), KL, smoothed (the label's best KL)"""
    sources = list(table.groupby("source", sort=False))
    fig, axes = plt.subplots(1, len(sources), figsize=(4.3 * len(sources), 3.6), squeeze=False)
    for ax, (source, part) in zip(axes[0], sources):
        lines(ax, part, "T", "KL", "rows")
        every = part[part["rows"] == "all rows"]
        best = every.loc[every["KL"].idxmin()]
        ax.plot(best["T"], best["KL"], "o", markersize=10, markerfacecolor="none", color=COLORS[0])
        ax.plot([best["T"]] * 2, [0, best["KL"]], color=COLORS[0], linewidth=0.8, linestyle=":")
        ax.axhline(part["smoothed"].iloc[0], color=ink(), linestyle="--", linewidth=1, label="label, smoothed at best")
        shown = part.loc[part["T"] >= 1, "KL"].max()
        ax.set_xscale("log", base=2)
        ax.set(title=source, xlabel="temperature T", ylim=(-0.12 * shown, 1.15 * shown))
        ax.text(best["T"], -0.02 * shown, f"{best['KL']:.3f} at T = {best['T']:g}", ha="center", va="top", fontsize=8.5)
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0][0].set_ylabel("KL(people ‖ teacher at T), nats")
    axes[0][-1].legend(fontsize=8.5)
    return fig


@figure("02_temperature", alt="""Norm of the KD loss's gradient at the student's logits against T, both axes logarithmic. Without T² it falls along a
    line of slope -2; with T² it settles at a constant. The gradient of the hard-label loss is a dotted line: without T² the soft
    loss soon whispers beside it.""")
def why_t_squared(table):
    """columns: T, without, with, ce (mean gradient norms over rows)"""
    fig, ax = plt.subplots()
    for i, (column, label) in enumerate((("without", "KL, without T²"), ("with", "T² · KL"))):
        ax.plot(table["T"], table[column], color=COLORS[i], marker=MARKERS[i], linestyle=LINES[i], markersize=4, label=label)
    ax.axhline(table["ce"].iloc[0], color=ink(), linestyle=":", linewidth=1.2, label="CE (no temperature)")
    last = table.iloc[-1]
    ax.plot(table["T"], last["without"] * (last["T"] / table["T"]) ** 2, color="grey", linewidth=0.8, label="slope -2")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="temperature T", ylabel="gradient norm at the student's logits", ylim=(table["without"].min() / 2, None))
    ax.legend(fontsize=8.5)
    return fig


# -- 03 · The distillation loss ---------------------------------------------------------------------------------------

@figure("03_distillation_loss", alt="""How the loss pushes the student's logits, one panel for each pair of alpha and T: for each class the push of the
    soft loss, of the hard loss, and of both together. The hard loss pushes up one class and all others down alike; the soft loss
    tells the wrong classes apart.""")
def pulls(table):
    """columns: alpha, T, class, soft, hard (minus the gradient of each part, weights included)"""
    panels = list(table.groupby(["alpha", "T"], sort=True))
    fig, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels) + 0.4, 2.9), sharey=True, squeeze=False)
    for ax, ((alpha, T), part) in zip(axes[0], panels):
        x = np.arange(len(part))
        for i, column in enumerate(("soft", "hard")):
            ax.bar(x + (i - 0.5) * 0.34, part[column], 0.32, color=COLORS[i], hatch=("", "//")[i], edgecolor=paper(), label=f"{column} loss")
        ax.plot(x, part["soft"] + part["hard"], "D", color=ink(), markersize=5, label="together")
        ax.axhline(0, color=ink(), linewidth=0.8)
        ax.set_xticks(x, part["class"])
        ax.set_title(f"alpha = {alpha:g}, T = {T:g}", fontsize=10)
        ax.grid(axis="x", visible=False)
    reach = 1.1 * max(0.65, *(table["soft"].abs() + table["hard"].abs()))           # the same scale wherever the slider stands
    axes[0][0].set(ylabel="push on the student's logit", ylim=(-reach, reach))
    fig.supxlabel("A: the label's class; B and C: the wrong ones", fontsize=9.5)
    axes[0][-1].legend(fontsize=9, loc="lower right")
    return fig


@figure("03_distillation_loss", alt="""The usual mistakes on one batch, one row each: left, the norm of the student's gradient as a multiple of the right one's,
    on a logarithmic axis; right, the cosine between the two, at the student's first step (dots) and at its last (squares). The
    right loss stands at 1 everywhere.""")
def mistakes(table):
    """columns: mistake, loss, norm (ratio to the right gradient's), "first step" and "last step" (cosines with it)"""
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8.4, 0.42 * len(table) + 1.0))
    y = np.arange(len(table))[::-1]

    def points(ax, column, i, **kw):
        ax.plot(table[column], y, MARKERS[i], color=COLORS[i], markersize=6, **kw)

    axes[0].hlines(y, 1, table["norm"], color=COLORS[0], linewidth=1.5)
    axes[1].hlines(y, table["first step"], table["last step"], color="grey", linewidth=1)
    points(axes[0], "norm", 0)
    points(axes[1], "last step", 1, label="last step", markerfacecolor=paper()), points(axes[1], "first step", 0, label="first step")
    for at, row in zip(y, table.to_dict("records")):                       # in columns: beside the points they would collide
        for ax, told in ((axes[0], f"{row['norm']:.2f}"), (axes[1], f"{row['first step']:.2f} → {row['last step']:.2f}")):
            ax.text(1.02, at, told, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    for ax, label in zip(axes, ("gradient norm ÷ the right one's", "cosine with the right gradient")):
        ax.axvline(1, color=ink(), linewidth=0.8, zorder=0)
        ax.set(xlabel=label, ylim=(-0.7, len(table) - 0.3))
        ax.margins(x=0.12)
    axes[0].set_xscale("log")
    axes[0].xaxis.set_major_formatter("{x:g}")
    axes[0].set_yticks(y, table["mistake"])
    axes[1].legend(fontsize=8, ncols=2, reverse=True, loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


@figure("03_distillation_loss", alt="""Validation accuracy of students that were trained with each mistake, beside the right loss and CE only: the dot is the
    mean over the course's seeds, the bar two standard deviations, the cross this run; what lies far below is written at the left
    edge. Most mistakes hide within the spread.""")
def accuracy_hides(table):
    """columns: loss, accuracy (%), run ("reference", several rows a loss, or "this run")"""
    order = list(dict.fromkeys(table["loss"]))
    place = {name: len(order) - 1 - i for i, name in enumerate(order)}
    stats = table[table["run"] == "reference"].groupby("loss")["accuracy"].agg(["mean", "std"]).reindex(order).dropna(how="all")
    mine = table[table["run"] == "this run"].set_index("loss")["accuracy"]
    edge = table["accuracy"].median() - 8                   # what lies far below is written at the edge, or it would squeeze the rest
    fig, ax = plt.subplots(figsize=(7.2, 0.36 * len(order) + 1.0))
    near = stats[stats["mean"] > edge]
    ax.errorbar(near["mean"], [place[n] for n in near.index], xerr=2 * near["std"].fillna(0), fmt="o", color=COLORS[0], capsize=3,
                label="reference: mean ± 2 sd")
    shown = mine[mine > edge]
    ax.plot(shown, [place[n] for n in shown.index], "x", color=COLORS[1], markersize=8, markeredgewidth=2, label="this run")
    for name in mine.index[mine <= edge]:
        ax.text(0.01, place[name], f"◀ {mine[name]:.1f}, far below", transform=ax.get_yaxis_transform(), va="center", fontsize=9, color=COLORS[1])
    ax.set_yticks(list(place.values()), list(place))
    ax.set(xlabel="validation accuracy (%)", ylim=(-0.6, len(order) - 0.4))
    ax.legend(fontsize=8.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig
