"""Figures as build products: a DataFrame in, a Figure out; SVG, PNG and PDF with alt text; redrawn without torch.

    run.figure(figures.learning_curves, table)         # in a notebook: drawn, shown, captioned, kept with the run
    python -m kdlib figures                            # all of them again from data/results, with manifest and gallery

A function marked `@figure` names the notebook that records its table. Colours are Okabe and Ito's; lines also differ in
style and marker, so that a figure survives a grey printer and colour-blind eyes.
"""
import json
import subprocess
import textwrap
from pathlib import Path
from typing import Callable

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS, LINES = ["o", "s", "^", "D", "v", "P", "X"], ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
METHODS = {"ce": "CE only", "label_smoothing": "CE, label smoothing", "shuffled": "KD, wrong classes shuffled",
           "shuffled_doubt": "KD, doubts shuffled", "kd": "KD"}

FIGURES: dict[str, Callable] = {}


def figure(notebook: str, alt: str):
    """Register a drawing function: which notebook records its table, and what a reader who cannot see it should know."""
    def mark(function):
        function.notebook, function.alt = notebook, " ".join(alt.split())
        FIGURES[function.__name__] = function
        return function
    return mark


def style() -> None:
    """One look for all figures; equal bytes for equal data (no dates, fixed SVG ids)."""
    plt.rcParams.update({
        "figure.figsize": (6.4, 3.6), "figure.dpi": 100, "savefig.dpi": 160, "savefig.bbox": "tight", "font.size": 10,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.6,
        "axes.prop_cycle": matplotlib.cycler(color=COLORS), "legend.frameon": False, "figure.constrained_layout.use": True,
        "svg.hashsalt": "kdlib", "svg.fonttype": "path", "pdf.fonttype": 42})


def save_fig(fig, name: str, *, folder: Path, alt: str) -> list[Path]:
    """Write NAME.svg, .png and .pdf under `folder`. ValueError without an alt text that says something."""
    if not isinstance(alt, str) or len(alt.split()) < 5:
        raise ValueError(f"figure {name!r} needs an alt text: what it shows, for someone who cannot see it")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"svg": {"Date": None, "Description": alt}, "png": {"Description": alt, "Software": None},
                "pdf": {"CreationDate": None, "Producer": None, "Subject": alt}}
    for kind, about in metadata.items():
        fig.savefig(folder / f"{name}.{kind}", metadata=about)
    return [folder / f"{name}.{kind}" for kind in metadata]


def show(fig, caption: str) -> None:
    """The figure inline, and its caption as text under it (a screen reader reads this one)."""
    plt.figure(fig.number)
    plt.show()
    print(f"Figure: {caption}")
    plt.close(fig)


def redraw(out: Path, profile: str = "laptop") -> pd.DataFrame:
    """All figures from data/results into `out`, with manifest.json and a gallery (README.md). Trains nothing.

    Returns the manifest as a DataFrame. A figure whose table is not among the stored results is listed as missing.
    """
    from . import results
    from .run import DATA, ROOT
    style()
    out.mkdir(parents=True, exist_ok=True)
    manifest = []
    for name, draw in sorted(FIGURES.items(), key=lambda item: (item[1].notebook, item[0])):
        data = DATA / "results" / draw.notebook / f"{profile}.json"
        tables = [r["tables"][name] for r in results.reference_records(draw.notebook, profile)
                  if name in r.get("tables", {})] if data.exists() else []
        entry = {"figure": name, "notebook": f"notebooks/{draw.notebook}.ipynb", "data": str(data.relative_to(ROOT)),
                 "commit": _last_commit(data) if tables else "", "alt": draw.alt, "files": []}
        if tables:
            fig = draw(pd.DataFrame(tables[0]))
            entry["files"] = [p.name for p in save_fig(fig, name, folder=out, alt=draw.alt)]
            plt.close(fig)
        manifest.append(entry)
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    _gallery(out, manifest)
    return pd.DataFrame(manifest)


def _last_commit(path: Path) -> str:
    """The last commit of the data file: the current commit would make every redraw look like a change."""
    try:
        done = subprocess.run(["git", "log", "-1", "--format=%h", "--", path.name], cwd=path.parent, capture_output=True, text=True)
        return done.stdout.strip()
    except OSError:
        return ""


def _gallery(out: Path, manifest: list[dict]) -> None:
    parts = ["# Figures\n\nRedrawn by `make figures` from the stored results; nothing is trained. Licence: CC BY 4.0.\n"]
    for entry in manifest:
        if entry["files"]:
            parts.append(f"## {entry['figure']}\n\n![{entry['alt']}]({entry['figure']}.png)\n\n{entry['alt']}  \n"
                         f"From [{entry['notebook']}](../{entry['notebook']}), data `{entry['data']}`; also as "
                         f"[SVG]({entry['figure']}.svg) and [PDF]({entry['figure']}.pdf).\n")
    (out / "README.md").write_text("\n".join(parts), encoding="utf8")


# -- shared by several notebooks --------------------------------------------------------------------------------------

def bars(ax, labels, values, errors=None, fmt="{:.2f}", **kw) -> None:
    """Bars with their numbers on top: a slide is read without a ruler."""
    drawn = ax.bar(range(len(values)), values, yerr=errors, capsize=3, color=COLORS[:len(values)], **kw)
    ax.set_xticks(range(len(values)), labels)
    ax.bar_label(drawn, [fmt.format(v) for v in values], padding=6, fontsize=9)
    ax.grid(axis="x", visible=False)


def lines(ax, table: pd.DataFrame, x: str, y: str, by: str, names: dict | None = None, markers: bool = True) -> None:
    """One line a value of `by`: mean over the other rows, and a band of ± 1 sd where there are several."""
    for i, (key, part) in enumerate(table.groupby(by, sort=False)):
        stats = part.groupby(x)[y].agg(["mean", "std"]).reset_index()
        ax.plot(stats[x], stats["mean"], color=COLORS[i % 7], linestyle=LINES[i % 7], marker=MARKERS[i % 7] if markers else None,
                markersize=4, label=(names or {}).get(key, str(key)))
        if stats["std"].notna().any():
            ax.fill_between(stats[x], stats["mean"] - stats["std"], stats["mean"] + stats["std"], color=COLORS[i % 7], alpha=0.15)


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

    def arrow(start, end, text="", color="black", line="-", shift=(0, 0.14), **kw):
        ax.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=color, linestyle=line, linewidth=1.3))
        ax.text((start[0] + end[0]) / 2 + shift[0], (start[1] + end[1]) / 2 + shift[1], text, ha="center", va="center", fontsize=8.5,
                color=color, **kw)

    box(0.2, 1.5, 1.3, 1.0, "rows of text\nand labels", COLORS[6])
    box(2.6, 2.5, 2.8, 1.2, about("teacher") + "\nfrozen", COLORS[0])
    box(2.7, 0.4, 2.6, 0.9, about("student"), COLORS[1])
    box(7.6, 1.5, 2.1, 1.0, "distillation loss\nα · soft + (1 − α) · hard", COLORS[2])
    arrow((1.6, 2.3), (2.5, 2.9)), arrow((1.6, 1.7), (2.6, 1.05))
    arrow((5.5, 2.9), (7.5, 2.25), "soft targets", COLORS[0], shift=(0.3, 0.22))
    arrow((5.4, 1.0), (7.5, 1.7), "answers", COLORS[1], shift=(-0.45, 0.1))
    arrow((1.6, 2.0), (7.5, 2.0), "labels", line=":", shift=(-0.4, 0.13))
    arrow((8.6, 1.4), (5.4, 0.55), "gradient, to the student only", COLORS[2], "--", shift=(0.5, -0.35))
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


# -- 01 · Soft targets ------------------------------------------------------------------------------------------------

CLASSES = ("entailment", "neutral", "contradiction")


@figure("01_soft_targets", alt="""Dark knowledge: for the rows of each label, how people and how the teacher share their belief among
    entailment, neutral and contradiction, as stacked bars. The parts beside the label's own class are the dark knowledge.""")
def dark_knowledge(table):
    """columns: label, who, entailment, neutral, contradiction (shares)"""
    fig, ax = plt.subplots(figsize=(7.6, 3.2))
    rows = [(i * 2.6 + (0 if j == 0 else 1), row) for i, (_, part) in enumerate(table.groupby("label", sort=False))
            for j, row in enumerate(part.to_dict("records"))]
    left = np.zeros(len(rows))
    for k, (answer, hatch) in enumerate(zip(CLASSES, ("", "//", ".."))):
        shares = np.array([row[answer] for _, row in rows])
        ax.barh([y for y, _ in rows], shares, 0.85, left, color=COLORS[k], alpha=0.75, hatch=hatch, edgecolor="white", label=answer)
        for (y, _), x, share in zip(rows, left, shares):
            if share >= 0.04:
                ax.text(x + share / 2, y, f"{share:.0%}", ha="center", va="center", fontsize=8.5,
                        bbox=dict(boxstyle="round,pad=0.15", facecolor="white", edgecolor="none", alpha=0.85))
        left += shares
    ax.set_yticks([y for y, _ in rows], [f"“{row['label']}”: {row['who']}" for _, row in rows])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="mean share of belief over the rows of this label")
    ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    ax.grid(False)
    return fig


@figure("01_soft_targets", alt="""KL of people from three targets against the target's entropy, as a target is made softer: the smoothed label,
    the softened teacher, and the teacher with its two wrong classes made equal. A dotted line marks people's own entropy; the best
    point of each curve carries its number.""")
def dark_knowledge_or_smoothing(table):
    """columns: target, strength (ε or T), entropy, KL, people (their entropy)"""
    fig, ax = plt.subplots(figsize=(7.2, 3.9))
    for i, (target, part) in enumerate(table.groupby("target", sort=False)):
        best = part.loc[part["KL"].idxmin()]
        symbol = "ε" if target.startswith("label") else "T"
        ax.plot(part["entropy"], part["KL"], color=COLORS[i], linestyle=LINES[i], marker=MARKERS[i], markersize=4,
                label=f"{target}: at best {best['KL']:.3f} ({symbol} = {best['strength']:g})")
        ax.plot(best["entropy"], best["KL"], MARKERS[i], color=COLORS[i], markersize=9, markerfacecolor="none")
    ax.axvline(table["people"].iloc[0], color="black", linestyle=":", linewidth=1)
    ax.text(table["people"].iloc[0], 0.98, " people's entropy", transform=ax.get_xaxis_transform(), va="top", fontsize=8.5)
    lowest, flat = table["KL"].min(), table["KL"][table["entropy"].idxmax()]
    ax.set(xlabel="mean entropy of the target (nats): softer to the right", ylabel="KL(people ‖ target), nats",
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
        ax.axhline(part["smoothed"].iloc[0], color="black", linestyle="--", linewidth=1, label="label, smoothed at best")
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
    ax.axhline(table["ce"].iloc[0], color="black", linestyle=":", linewidth=1.2, label="CE (no temperature)")
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
            ax.bar(x + (i - 0.5) * 0.34, part[column], 0.32, color=COLORS[i], hatch=("", "//")[i], edgecolor="white", label=f"{column} loss")
        ax.plot(x, part["soft"] + part["hard"], "D", color="black", markersize=5, label="together")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(x, part["class"])
        ax.set_title(f"alpha = {alpha:g}, T = {T:g}", fontsize=10)
        ax.grid(axis="x", visible=False)
    reach = 1.1 * max(0.65, *(table["soft"].abs() + table["hard"].abs()))           # the same scale wherever the slider stands
    axes[0][0].set(ylabel="push on the student's logit", ylim=(-reach, reach))
    axes[0][-1].legend(fontsize=9)
    return fig


@figure("03_distillation_loss", alt="""The usual mistakes on one batch, one row each: left, the norm of the student's gradient as a multiple of the right one's,
    on a logarithmic axis; right, the cosine between the two, at the student's first step (dots) and at its last (squares). The
    right loss stands at 1 everywhere.""")
def mistakes(table):
    """columns: mistake, loss, norm (ratio to the right gradient's), "first step" and "last step" (cosines with it)"""
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8.4, 0.42 * len(table) + 1.0))
    y = np.arange(len(table))[::-1]

    def dots(ax, column, i, size, **kw):
        ax.plot(table[column], y, MARKERS[i], color=COLORS[i], markersize=size, **kw)
        for at, value in zip(y, table[column]):
            ax.annotate(f"{value:.2f}", (value, at), (0, (5, -12)[i]), textcoords="offset points", ha="center", fontsize=9, color=COLORS[i])

    axes[0].hlines(y, 1, table["norm"], color=COLORS[0], linewidth=1.5)
    axes[1].hlines(y, table["first step"], table["last step"], color="grey", linewidth=1)
    dots(axes[0], "norm", 0, 6)
    dots(axes[1], "last step", 1, 6, label="last step", markerfacecolor="white"), dots(axes[1], "first step", 0, 6, label="first step")
    for ax, label in zip(axes, ("gradient norm ÷ the right one's (first step)", "cosine with the right gradient")):
        ax.axvline(1, color="black", linewidth=0.8, zorder=0)
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


# -- 04 · MNLI --------------------------------------------------------------------------------------------------------

@figure("04_distilbert_mnli", alt="""Learning rates: training and validation loss of the student over training steps, one line
    for each learning rate. Only the largest rate falls; a hundredth of it creeps, a ten-thousandth stays where it began.""")
def learning_curves(table):
    """columns: learning_rate, step, split ("train" or "validation"), ce"""
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8, 3.4))
    for ax, split in zip(axes, ("train", "validation")):
        part = table[table["split"] == split]
        lines(ax, part, "step", "ce", "learning_rate", {r: f"lr {r:.0e}" for r in part["learning_rate"].unique()},
              markers=split == "validation")
        ax.set(title=split, xlabel="step", ylabel="cross-entropy" if split == "train" else "")
    axes[0].legend()
    return fig


@figure("04_distilbert_mnli", alt="""The run of this notebook: hard-label loss and KD loss of the student over training steps, on
    training rows and on validation rows.""")
def live_curves(table):
    """columns: step, split, ce, and kd where it was measured"""
    parts = [part for part in ("ce", "kd") if part in table and table[part].notna().any()]
    fig, axes = plt.subplots(1, len(parts), figsize=(4 * len(parts), 3.2), squeeze=False)
    for ax, part in zip(axes[0], parts):
        lines(ax, table[table[part].notna()], "step", part, "split")
        ax.set(xlabel="step", title={"ce": "cross-entropy (hard labels)", "kd": "KD (T² · KL)"}[part])
    axes[0][0].legend()
    return fig


@figure("04_distilbert_mnli", alt="""Four students that differ in their loss alone, with the teacher as a dashed line: accuracy
    on the validation rows, mean and standard deviation over seeds.""")
def methods(table):
    """columns: method, seed, accuracy, teacher_accuracy"""
    import seaborn as sns
    fig, ax = plt.subplots()
    shown = [m for m in METHODS if m in set(table["method"])]
    stats = table.groupby("method")["accuracy"].agg(["mean", "std"]).reindex(shown)
    sns.stripplot(x=table["method"].map(shown.index), y=table["accuracy"] * 100, ax=ax, color="gray", size=4, jitter=False)
    for i, method in enumerate(shown):                # points, not bars: the axis does not start at 0
        mean, sd = stats.loc[method] * 100
        ax.errorbar(i + 0.15, mean, sd, fmt=MARKERS[i], color=COLORS[i], capsize=4)
        ax.text(i + 0.22, mean, f"{mean:.1f}", va="center", fontsize=9)
    ax.set_xticks(range(len(shown)), [textwrap.fill(METHODS[m], 16) for m in shown])
    teacher = table["teacher_accuracy"].mean() * 100
    ax.axhline(teacher, color="black", linestyle="--", linewidth=1)
    ax.text(len(shown) - 0.45, teacher, f"teacher {teacher:.1f}", ha="right", va="bottom", fontsize=9)
    ax.set(xlabel="", ylabel="accuracy (%)", xlim=(-0.5, len(shown) - 0.4))
    return fig


# -- 05 · QQP ---------------------------------------------------------------------------------------------------------

@figure("05_distilbert_qqp", alt="""Confusion matrices, one panel a model: rows are the true classes, columns the answers, each cell with its number of
    rows and its share of the true class. A model that gives one answer fills one column.""")
def confusion(table):
    """columns: model, label, answer (class names), count"""
    models, classes = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["label"]))
    fig, axes = plt.subplots(1, len(models), figsize=(2.9 * len(models), 2.9), squeeze=False)
    for ax, model in zip(axes[0], models):
        counts = table[table["model"] == model].pivot(index="label", columns="answer", values="count").reindex(index=classes, columns=classes)
        share = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(share.shape):
            ax.text(j, i, f"{counts.iloc[i, j]:,}\n{share[i, j]:.0%}", ha="center", va="center", color="white" if share[i, j] > 0.6 else "black")
        names = [name.replace("_", " ") for name in classes]
        ax.set_xticks(range(len(classes)), [textwrap.fill(n, 10) for n in names])
        ax.set_yticks(range(len(classes)), [textwrap.fill(n, 10) for n in names] if ax is axes[0][0] else [""] * len(classes))
        ax.set(title=model, xlabel="answer", ylabel="true class" if ax is axes[0][0] else "")
        ax.grid(False)
    return fig


@figure("05_distilbert_qqp", alt="""Reliability diagrams, one panel a model: the rows are binned by the model's confidence in its answer; a dot stands at a
    bin's mean confidence and its share of right answers, its area grows with the bin's rows. Dots under the dashed diagonal: too sure of itself.
    The title says the expected calibration error.""")
def reliability(table):
    """columns: model, confidence, accuracy, count, ece (the same in all rows of a model)"""
    models = list(dict.fromkeys(table["model"]))
    fig, axes = plt.subplots(1, len(models), figsize=(2.9 * len(models), 3.1), sharey=True, squeeze=False)
    for i, (ax, model) in enumerate(zip(axes[0], models)):
        part = table[(table["model"] == model) & (table["count"] > 0)]
        lowest = table["confidence"].min() - 0.05
        ax.plot([lowest, 1], [lowest, 1], "--", color="gray", linewidth=1)
        ax.vlines(part["confidence"], part["accuracy"], part["confidence"], color=COLORS[i], alpha=0.5)
        ax.scatter(part["confidence"], part["accuracy"], s=15 + 250 * part["count"] / part["count"].sum(), color=COLORS[i], marker=MARKERS[i], alpha=0.8)
        ax.set(title=f"{textwrap.fill(model, 24)}\nECE {100 * part['ece'].iloc[0]:.1f} points", xlabel="confidence", ylim=(-0.03, 1.05),
               ylabel="share of right answers" if i == 0 else "")
    return fig


@figure("05_distilbert_qqp", alt="""Temperature and alpha: left, a table of mean validation accuracy, one row for each temperature, one column for each alpha; right,
    accuracy against alpha, one line a temperature with the standard deviation over seeds. The upper axis reads alpha as the book does, as the weight
    of the hard labels: the same points, mirrored.""")
def temperature_and_alpha(table):
    """columns: temperature, alpha (weight of the soft loss), seed, accuracy; the rows with alpha = 0 count for every temperature"""
    mean = 100 * table.pivot_table(index="temperature", columns="alpha", values="accuracy")
    if 0.0 in mean:
        mean[0.0] = 100 * table.loc[table["alpha"] == 0, "accuracy"].mean()
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    left.imshow(mean, cmap="viridis", aspect="auto")
    for i, j in np.ndindex(mean.shape):
        bright = mean.iloc[i, j] > (np.nanmin(mean) + np.nanmax(mean)) / 2
        left.text(j, i, f"{mean.iloc[i, j]:.1f}", ha="center", va="center", color="black" if bright else "white")
    left.set_xticks(range(mean.shape[1]), [f"{a:g}" for a in mean.columns])
    left.set_yticks(range(mean.shape[0]), [f"{t:g}" for t in mean.index])
    left.set(xlabel="alpha, weight of the soft loss", ylabel="temperature T", title="mean accuracy (%)")
    left.grid(False)
    for i, t in enumerate(mean.index):
        part = table[(table["temperature"] == t) | (table["alpha"] == 0)].groupby("alpha")["accuracy"].agg(["mean", "std"]) * 100
        right.errorbar(part.index + 0.008 * (i - 1.5), part["mean"], part["std"].fillna(0), color=COLORS[i % 7], marker=MARKERS[i % 7],
                       linestyle=LINES[i % 7], capsize=2, label=f"T = {t:g}")
    right.set(xlabel="alpha, weight of the soft loss (this course)", ylabel="accuracy (%)")
    right.secondary_xaxis("top", functions=(lambda a: 1 - a, lambda a: 1 - a)).set_xlabel("the same points in the book's convention (weight of the labels)")
    right.legend(fontsize=8.5)
    return fig


# -- 06 · EuroLlama: the prompt ---------------------------------------------------------------------------------------

PART_LOOKS = {"prompt": ("#E6ECF2", "#5A6B7B", ":"), "source": ("#FBE3CF", "#B04A00", "--"), "target": ("#CFEBDF", "#00694D", "-")}


@figure("06_eurollama_prompt", alt="""One training text, token by token in boxes: the prompt (grey-blue, dotted edge), the source text to translate (orange,
    dashed edge) and the target, which is the translation with its end token (green, solid edge). Tokens that are learnt are bold
    with a thick edge: they are those of the target.""")
def prompt_legend(table):
    """columns: token, part ("prompt", "source", "target"), learnt"""
    wide, x, y, boxes = 100, 0.0, 0, []
    for row in table.to_dict("records"):
        shown = row["token"].replace("\n", "↵").strip() or "␣"
        if x + len(shown) > wide:
            x, y = 0.0, y + 1
        boxes.append((x, y, shown, row["part"], row["learnt"]))
        x += len(shown) + 0.7
        if "\n" in row["token"]:
            x, y = 0.0, y + 1
    fig, ax = plt.subplots(figsize=(9.6, 0.3 * (y + 2.6)))
    ax.set(xlim=(-0.5, wide + 0.5), ylim=(y + 0.7, -1.9))
    ax.axis("off")

    def token(x, y, shown, part, learnt):
        face, edge, line = PART_LOOKS[part]
        ax.add_patch(matplotlib.patches.Rectangle((x, y - 0.38), len(shown), 0.76, facecolor=face, edgecolor=edge, linestyle=line, linewidth=2 if learnt else 1.1))
        ax.text(x + len(shown) / 2, y, shown, ha="center", va="center", family="monospace", fontsize=9.2, parse_math=False,
                color="black", weight="bold" if learnt else "normal")
    left = 0.0
    for part in PART_LOOKS:
        of = table[table["part"] == part]
        told = f" {part}: {len(of)} tokens, {'learnt' if len(of) and of['learnt'].all() else f'{int(of.learnt.sum())} learnt'} "
        token(left, -1.2, told, part, bool(len(of)) and bool(of["learnt"].all()))
        left += len(told) + 2
    for box in boxes:
        token(*box)
    return fig


def _dots(ax, table, order, column, colour=0, scale=1.0, fmt="{:.0f}", shift=0.0, label=None) -> None:
    """A row a name of `order`: the mean over the table's rows as a dot with its number, the others' range as a line."""
    for i, name in enumerate(order):
        values = table.loc[table["name"] == name, column].dropna() * scale
        if len(values):
            ax.plot([values.min(), values.max()], [i + shift] * 2, color=COLORS[colour], linewidth=2.5, alpha=0.45)
            ax.plot(values.mean(), i + shift, MARKERS[colour], color=COLORS[colour], markersize=6, label=label if i == 0 else None)
            ax.annotate(fmt.format(values.mean()), (values.max(), i + shift), (6, 0), textcoords="offset points", va="center", fontsize=8.5, color=COLORS[colour])
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)


@figure("06_eurollama_prompt", alt="""Seven recipes for the end of a translation, a row each. Left: the share of generations that end by themselves. Right:
    BLEU of the whole generations (circles) and of the same texts cut after their first full stop (squares). Where the end is never
    learnt, no generation ends, and the whole texts score far lower than their first sentences.""")
def end_recipes(table):
    """columns: name, seed, ended (share), bleu, bleu_first"""
    order = list(dict.fromkeys(table["name"]))
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 0.42 * len(order) + 1.2), sharey=True)
    _dots(left, table, order, "ended", 2, 100, "{:.0f} %")
    left.set(xlabel="generations that end by themselves (%)", xlim=(-5, 122))
    left.set_xticks(range(0, 101, 25))
    _dots(right, table, order, "bleu", 0, shift=-0.14, label="the whole text")
    _dots(right, table, order, "bleu_first", 1, shift=0.18, label="up to the first full stop")
    right.set(xlabel="BLEU", xlim=(-2, 1.2 * max(10, table[["bleu", "bleu_first"]].max().max())))
    right.legend(fontsize=8.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


@figure("06_eurollama_prompt", alt="""How soon an end is learnt: the probability of the end token where a translation ends, on a logarithmic axis, against training
    steps; one line for a new row (the mean of all others) and one for a reserved token's row, with the range over seeds as a band. Both
    start far below one word in the vocabulary and rise to nearly 1.""")
def end_learnt(table):
    """columns: name, seed, step, probability, words (size of the vocabulary)"""
    fig, ax = plt.subplots(figsize=(6.8, 3.5))
    for i, (name, part) in enumerate(table.groupby("name", sort=False)):
        stats = part.groupby("step")["probability"].agg(["median", "min", "max"]).reset_index()
        ax.plot(stats["step"], stats["median"], color=COLORS[i], linestyle=LINES[i], marker=MARKERS[i], markersize=4, label=name)
        ax.fill_between(stats["step"], stats["min"], stats["max"], color=COLORS[i], alpha=0.15)
    ax.axhline(1 / table["words"].iloc[0], color="black", linestyle=":", linewidth=1)
    ax.text(table["step"].max(), 1 / table["words"].iloc[0], "one word of the vocabulary by chance ", ha="right", va="bottom", fontsize=8.5)
    ax.set(yscale="log", xlabel="training step", ylabel="p(end) where a translation ends")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.08))
    return fig


@figure("06_eurollama_prompt", alt="""The probability of the end token where a translation ends, after training with CE alone and with KD from a teacher that does not know
    the token, with the teacher heard at every position or not at the end; and from a teacher that was tuned first. Circles: mean and range
    over seeds. Crosses: (1 - alpha) + alpha times the teacher's own probability, what theory says for T = 1. KD everywhere lies near or
    below the crosses; CE alone at the end token brings the probability back to nearly 1.""")
def end_unlearnt(table):
    """columns: name, seed, p_end, expected, ended (share)"""
    order = list(dict.fromkeys(table["name"]))
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 0.42 * len(order) + 1.2), sharey=True)
    expected = table["expected"].astype(float).groupby(table["name"]).mean().reindex(order)        # None where theory is silent
    left.plot(expected, np.arange(len(order)) + 0.22, "x", color="black", markersize=7, markeredgewidth=1.5, label="theory, T = 1")
    _dots(left, table, order, "p_end", 0, fmt="{:.2f}", shift=-0.12, label="measured")
    left.set(xlabel="p(end) where a translation ends", xlim=(-0.05, 1.22))
    left.set_xticks([0, 0.25, 0.5, 0.75, 1])
    left.legend(fontsize=8.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    _dots(right, table, order, "ended", 2, 100, "{:.0f} %")
    right.set(xlabel="generations that end by themselves (%)", xlim=(-5, 122))
    right.set_xticks(range(0, 101, 25))
    return fig


# -- 07 · EuroLlama: distilling -------------------------------------------------------------------------------------------

@figure("07_eurollama_distil", alt="""Heat map of one sentence: a column for each target token, a row for the student before and after training, each
    cell with KL(teacher ‖ student) in nats at that token. Dark cells are tokens at which the student still expects other words than its teacher.""")
def token_divergence(table):
    """columns: model, place, token, kl (nats)"""
    models, words = list(dict.fromkeys(table["model"])), table.drop_duplicates("place").sort_values("place")["token"].tolist()
    grid = table.pivot(index="model", columns="place", values="kl").reindex(models)
    fig, ax = plt.subplots(figsize=(max(6.4, 0.52 * len(words)), 0.55 * len(models) + 1.5))
    shades = ax.imshow(np.log10(grid.clip(lower=1e-3)), cmap="Greys", vmin=-3, vmax=1.4, aspect="auto")
    for i, j in np.ndindex(grid.shape):
        value = grid.iloc[i, j]
        ax.text(j, i, f"{value:.2f}" if value >= 0.005 else "0", ha="center", va="center", fontsize=8.5, color="white" if value > 0.2 else "black")
    ax.set_xticks(range(len(words)), [w.replace("<|end_of_translation|>", "⟨end⟩").replace("<|eot_id|>", "⟨eot⟩") for w in words], rotation=45, ha="right")
    ax.set_yticks(range(len(models)), models)
    ax.grid(False)
    bar = fig.colorbar(shades, ax=ax, ticks=[-3, -2, -1, 0, 1], pad=0.01)
    bar.ax.set_yticklabels(["≤ 0.001", "0.01", "0.1", "1", "10"])
    bar.set_label("KL(teacher ‖ student), nats", fontsize=9)
    return fig


@figure("07_eurollama_distil", alt="""BLEU on test sentences of students that differ in what they were told and what they heard, a dot a seed, with mean and
    standard deviation beside it; dashed lines for the teacher and for the cap, which is the grammar's own likeliest translation.""")
def translators(table):
    """columns: told, seed, bleu, teacher_bleu, cap (NaN where it is unknown)"""
    fig, ax = plt.subplots(figsize=(6.8, 0.5 * table["told"].nunique() + 1.4))
    _seeds(ax, table, "told", "bleu")
    for value, name, line in ((table["teacher_bleu"].mean(), "teacher", "--"), (table["cap"].mean() if table["cap"].notna().any() else np.nan, "cap", ":")):
        if np.isfinite(value):
            ax.axvline(value, color="black", linestyle=line, linewidth=1, label=f"{name} {value:.1f}")
    ax.set_xlabel("BLEU on test (dots: seeds; bars: mean ± sd)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return fig


def _seeds(ax, table, by: str, value: str) -> None:
    """A row for each `by`: a grey dot a seed, below it the mean with a bar of one standard deviation, and its number."""
    shown = list(dict.fromkeys(table[by]))
    stats = table.groupby(by)[value].agg(["mean", "std"]).reindex(shown)
    for i, name in enumerate(shown):
        mean, values = stats["mean"][name], table.loc[table[by] == name, value]
        ax.plot(values, [i] * len(values), "o", color="gray", markersize=4)
        ax.errorbar(mean, i + 0.22, xerr=np.nan_to_num(stats["std"][name]), fmt=MARKERS[i % 7], color=COLORS[i % 7], capsize=4)
        ax.text(mean, i + 0.32, f"{mean:.1f}", ha="center", va="top", fontsize=9)
    ax.set_yticks(range(len(shown)), [textwrap.fill(name, 34) for name in shown])
    ax.set_ylim(len(shown) - 0.35, -0.5)
    ax.grid(axis="y", visible=False)


@figure("07_eurollama_distil", alt="""Validation loss of the student over training steps, one line a learning rate with a band of one standard deviation over
    seeds; the left panel trains all weights, the right one LoRA's adapters alone. The smaller the rate, the higher the loss stays in the same steps.""")
def translation_rates(table):
    """columns: lora_rank, learning_rate, seed, step, ce"""
    kinds = list(table.groupby("lora_rank", sort=True))
    fig, axes = plt.subplots(1, len(kinds), figsize=(4.3 * len(kinds), 3.4), sharey=True, squeeze=False)
    for ax, (rank, part) in zip(axes[0], kinds):
        for i, (rate, runs) in enumerate(sorted(part.groupby("learning_rate"), reverse=True)):
            stats = runs.groupby("step")["ce"].agg(["mean", "std"]).fillna(0)
            ax.plot(stats.index, stats["mean"], color=COLORS[i % 7], marker=MARKERS[i % 7], linestyle=LINES[i % 7], markersize=4, label=f"{rate:.0e}")
            ax.fill_between(stats.index, stats["mean"] - stats["std"], stats["mean"] + stats["std"], color=COLORS[i % 7], alpha=0.2)
        ax.set(title="all weights" if rank == 0 else f"LoRA, rank {rank}", xlabel="step", yscale="log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.legend(title="learning rate", fontsize=8.5, title_fontsize=8.5)
    axes[0][0].set_ylabel("validation cross-entropy, nats a token")
    return fig


# -- 08 · Limits ----------------------------------------------------------------------------------------------------------

@figure("08_limits", alt="""The quantisation plane, a panel a model: quality against the size of its weights, packed, on a logarithmic axis, each point with
    its method's name. Filled circles: scales for a row or a group of weights; open squares: one scale for a whole matrix; a dashed line: quality
    in 32 bits. Down to 4 bits all points lie near the line; below, those with one scale fall off first.""")
def quantisation_plane(table):
    """columns: model, method, one_scale (True: a whole matrix shares a scale), megabytes, quality, measure ("accuracy (%)", "BLEU")"""
    panels = list(table.groupby("model", sort=False))
    fig, axes = plt.subplots(1, len(panels), figsize=(4.3 * len(panels), 3.9), squeeze=False)
    for ax, (model, part) in zip(axes[0], panels):
        mean = part.groupby(["method", "one_scale"], sort=False)[["megabytes", "quality"]].mean().reset_index()
        reach = max(4.0, np.ptp(mean["quality"]))
        gap, below = 0.062 * reach, np.inf
        for row in mean.sort_values(["quality", "megabytes"], ascending=False).to_dict("records"):        # from the top down, so that no label covers another
            i = int(row["one_scale"])
            ax.plot(row["megabytes"], row["quality"], "os"[i], color=COLORS[i], markersize=7, markerfacecolor="white" if i else COLORS[0])
            below = min(row["quality"], below - gap)
            ax.annotate(row["method"], (row["megabytes"], row["quality"]), (mean["megabytes"].max() * 1.25, below), textcoords="data", va="center", fontsize=8.5,
                        color=COLORS[i], arrowprops=dict(arrowstyle="-", color="gray", linewidth=0.5, shrinkB=4, relpos=(0, 0.5)))
        smallest, largest = mean["megabytes"].min(), mean["megabytes"].max()
        ax.plot([smallest / 1.2, largest], [mean["quality"][mean["method"] == "fp32"].mean()] * 2, color="black", linestyle="--", linewidth=0.8)
        ax.set_xscale("log")
        ax.set(title=model, xlabel="MB of weights, packed", ylabel=part["measure"].iloc[0], xlim=(smallest / 1.2, largest * (4.5 if largest / smallest > 5 else 3.8)),
               ylim=(min(mean["quality"].min(), below) - gap, mean["quality"].max() + 1.5 * gap))
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 400) if smallest / 1.2 <= t <= largest * 1.1]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    for i, told in enumerate(("a step a row or a group", "one step a matrix")):
        axes[0][0].plot([], [], "os"[i], color=COLORS[i], markerfacecolor="white" if i else COLORS[0], label=told)
    axes[0][0].legend(fontsize=8.5, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.08), columnspacing=1, handletextpad=0.3)
    return fig


@figure("08_limits", alt="""Which layers break first: one kind of layer at a time with few bits and one scale a matrix, all others in floats; a bar for the KL from
    the model in floats to the rounded one, on a logarithmic axis, a panel a model, two bars a kind. At the right of a name: its share of the
    parameters.""")
def layer_sensitivity(table):
    """columns: model, kind, bits, kl (nats), share (of the parameters)"""
    panels = list(table.groupby("model", sort=False))
    fig, axes = plt.subplots(1, len(panels), figsize=(4.9 * len(panels), 3.6), squeeze=False)
    floor = max(table["kl"].min(), 1e-6) / 2
    for ax, (model, part) in zip(axes[0], panels):
        order = part.groupby("kind")["kl"].max().sort_values(ascending=False).index
        for i, (bits, some) in enumerate(part.groupby("bits", sort=True)):
            values = some.groupby("kind")["kl"].mean().reindex(order)
            places = np.arange(len(order)) + (i - 0.5) * 0.38
            ax.barh(places, values - floor, 0.36, floor, color=COLORS[i], hatch=("", "//", "..")[i % 3], edgecolor="white", label=f"{bits} bits")
            for y, value in zip(places, values):
                ax.annotate(f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color=COLORS[i])
        share = part.groupby("kind")["share"].mean()
        ax.set_yticks(range(len(order)), [f"{kind} ({share[kind]:.0%})" for kind in order])
        ax.set(title=model, xscale="log", xlim=(floor, table["kl"].max() * 5), xlabel="KL(in floats ‖ this kind rounded), nats")
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    axes[0][0].legend(fontsize=8.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return fig


@figure("08_limits", alt="""Students with weights of a few bits, a row each: grey dots are seeds, the marker is their mean with a bar of one standard deviation; the
    dashed line is the same student in 32 bits. Rounding after training loses most; training on the grid brings most of it back.""")
def into_few_bits(table):
    """columns: student, seed, accuracy (%), floats (accuracy of the student in floats, %)"""
    fig, ax = plt.subplots(figsize=(7.2, 0.5 * table["student"].nunique() + 1.1))
    _seeds(ax, table, "student", "accuracy")
    ax.axvline(table["floats"].mean(), color="black", linestyle="--", linewidth=1, label=f"in 32 bits {table['floats'].mean():.1f}")
    ax.set_xlabel("validation accuracy (%)")
    ax.legend(fontsize=8.5, loc="lower center", bbox_to_anchor=(0.5, 1))
    return fig


@figure("08_limits", alt="""Memory of one training step, Llama-3.2 3B to 1B, as stacked bars, a bar a recipe; each recipe adds one saving to the one above it. The
    number at a bar's end is the largest moment of a step, marked by a black line. Vertical dotted lines are the memory of GPUs.""")
def memory_bars(table):
    """columns: gpu, gpu_gb, recipe, weights, gradients, optimiser, activations, logits, teacher, total (GB; `doctor.plan`)"""
    parts = ["weights", "teacher", "optimiser", "gradients", "activations", "logits"]
    recipes = table.drop_duplicates("recipe").set_index("recipe")
    fig, ax = plt.subplots(figsize=(9, 0.5 * len(recipes) + 1.6))
    left = np.zeros(len(recipes))
    for i, part in enumerate(parts):
        ax.barh(recipes.index, recipes[part], 0.7, left, color=COLORS[i], hatch=("", "//", "..", "xx", "\\\\", "--")[i], edgecolor="white", label=part)
        left += recipes[part].to_numpy()
    for y, (total, end) in enumerate(zip(recipes["total"], left)):
        ax.plot([total] * 2, [y - 0.42, y + 0.42], color="black", linewidth=2)
        ax.annotate(f"{total:.1f} GB", (max(total, end), y), (6, 0), textcoords="offset points", va="center", fontsize=9,
                    bbox=dict(boxstyle="round,pad=0.1", facecolor="white", edgecolor="none"))
    cards = table.drop_duplicates("gpu").groupby("gpu_gb")["gpu"].agg(lambda names: " ".join(sorted(names)))
    for gb, names in cards.items():
        if gb < 1.25 * left.max():
            ax.axvline(gb, color="black", linestyle=":", linewidth=1)
            ax.text(gb, -0.75, names.replace(" ", "\n"), ha="center", va="bottom", fontsize=8.5)
    ax.set(xlabel="GB", ylim=(len(recipes) - 0.4, -0.6), xlim=(0, 1.12 * left.max()))
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=6, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.42, -0.16), columnspacing=1, handlelength=1.5)
    return fig


from . import figures_beyond  # noqa: E402,F401  notebook 09 draws there: registered here, redrawn with all others
