"""Figures of notebooks 04 and 05: MNLI and QQP."""
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .methods import LABELS
from .drawing import COLORS, LINES, MARKERS, again, figure, grid, ink, lines, spread


# -- 04 · MNLI --------------------------------------------------------------------------------------------------------

@figure("04_distilbert_mnli", alt="""Learning rates: training and validation loss of the student over training steps, one line
    for each learning rate. Only the largest rate falls; a hundredth of it creeps, a ten-thousandth stays where it began.""")
def learning_curves(table):
    """columns: learning_rate, step, split ("train" or "validation"), ce"""
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8, 3.4))
    for ax, split in zip(axes, ("train", "validation")):
        part = table[table["split"] == split].sort_values("learning_rate", ascending=False, kind="stable")
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
    fig, ax = plt.subplots()
    shown = [m for m in LABELS if m in set(table["method"])]
    stats = table.groupby("method")["accuracy"].agg(["mean", "std"]).reindex(shown)
    ax.plot(table["method"].map({m: i for i, m in enumerate(shown)}), table["accuracy"] * 100, "o", color="gray", markersize=4)
    for i, method in enumerate(shown):                # points, not bars: the axis does not start at 0
        mean, sd = stats.loc[method] * 100
        ax.errorbar(i + 0.15, mean, sd, fmt=MARKERS[i], color=COLORS[i], capsize=4)
        ax.text(i + 0.22, mean, f"{round(mean, 6):.1f}", va="center", fontsize=9)
    ax.set_xticks(range(len(shown)), [textwrap.fill(LABELS[m], 16) for m in shown])
    teacher = table["teacher_accuracy"].mean() * 100
    ax.axhline(teacher, color=ink(), linestyle="--", linewidth=1)
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
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
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
    right.secondary_xaxis("top", functions=(lambda a: 1 - a, lambda a: 1 - a)).set_xlabel("the book's alpha: weight of the labels")
    right.legend(fontsize=8.5)
    return fig


# -- the same drawings of real rows, and the lecture's tables beside ours -------------------------------------------------

def _rates(stored, task: str, notebook: str, synthetic: str):
    """Accuracy and macro-F1 of distilled students by learning rate: the lecture's, ours on real rows, ours on the stand-in."""
    rows = [{"who": f"lecture, {task.upper()}", **row, "accuracy": row["accuracy"] / 100, "macro_f1": row["macro_f1"] / 100} for row in stored.lecture()[f"{task}_learning_rates"]]
    for who, file in ((f"here, {task.upper()}, 2,000 rows", "lab"), (f"here, {synthetic} (synthetic)", "laptop")):
        kd = [r for r in stored.records(notebook, file) if r["settings"]["method"] == "kd"]
        slow = min(kd, key=lambda r: r["settings"]["learning_rate"])["settings"]                 # the point of the sweep at which rates vary
        same = [r for r in kd if (r["settings"]["alpha"], r["settings"]["temperature"]) == (slow["alpha"], slow["temperature"])]
        rows += [{"who": who, "learning_rate": r["settings"]["learning_rate"], "seed": r["seed"], "accuracy": r["results"]["accuracy"],
                  "macro_f1": r["results"]["macro_f1"]} for r in same]
    return pd.DataFrame(rows)


@figure("04_distilbert_mnli", alt="""A table: accuracy and macro-F1 of students distilled on MNLI at three learning rates, each a hundredth of the one above, as the lecture
    reports them and as our runs found them, on real rows and on the synthetic stand-in, mean and standard deviation over seeds. On real rows the two small rates
    stay at the share of one class, with a macro-F1 below 0.2.""", data=lambda stored: _rates(stored, "mnli", "04_distilbert_mnli", "MiniNLI"))
def mnli_rates(table):
    """columns: who, learning_rate, seed, accuracy, macro_f1 (shares)"""
    rows, rules = [], []
    for who, part in table.groupby("who", sort=False):
        for i, (rate, runs) in enumerate(sorted(part.groupby("learning_rate"), reverse=True)):
            rows.append([who if i == 0 else "", f"{rate:.0e}".replace("e-0", "e-"), spread(runs["accuracy"], 100), spread(runs["macro_f1"], 100), str(len(runs))])
        rules.append(len(rows))
    return grid(["student, distilled", "rate", "accuracy", "macro-F1", "runs"], rows, [0, 0.46, 0.58, 0.76, 0.94], rules)


again(mnli_rates, "qqp_rates", "05_distilbert_qqp", """A table: accuracy and macro-F1 of students distilled on QQP at three learning rates, each a hundredth of the one above, as
    the lecture reports them and as our runs found them, on real rows and on the synthetic stand-in. A model that always answers "not duplicate" has 63 per cent accuracy and a macro-F1 of 39.""",
      data=lambda stored: _rates(stored, "qqp", "05_distilbert_qqp", "MiniQQP"))
again(learning_curves, "learning_curves_mnli", "04_distilbert_mnli", """Learning rates on real MNLI rows: training and validation loss of the student over training steps,
    one line for each learning rate. Only the largest rate falls; a hundredth and a ten-thousandth of it lie on one another, flat at the chance level, ln 3 or 1.10 nats.""", file="lab")
again(learning_curves, "learning_curves_qqp", "05_distilbert_qqp", """Learning rates on real QQP rows: training and validation loss of the student over training steps,
    one line for each learning rate. Only the largest rate falls; a hundredth of it ends a hair below where it began, 0.003 nats, and a ten-thousandth stays at 0.69.""", file="lab")
again(methods, "methods_mnli", "04_distilbert_mnli", "2,000 real MNLI rows: " + methods.alt, file="lab")
again(reliability, "reliability_qqp", "05_distilbert_qqp", "Real QQP rows: " + reliability.alt, file="lab")
again(confusion, "confusion_qqp", "05_distilbert_qqp", "Real QQP rows: " + confusion.alt, file="lab")


def _real_grid(stored):
    """KD's gain over labels alone for each T and alpha, seed by seed, on real rows: QQP, and MNLI where that sweep is stored."""
    rows = []
    for corpus, notebook, file in (("QQP", "05_distilbert_qqp", "lab"), ("MNLI", "04_distilbert_mnli", "lab_temperature")):
        if corpus == "QQP" or stored.has(notebook, file):
            records = stored.records(notebook, file)
            top = max(r["settings"]["learning_rate"] for r in records)
            runs = [{"seed": r["seed"], **r["settings"], "accuracy": r["results"]["accuracy"]} for r in records if r["settings"]["learning_rate"] == top]
            labels = {r["seed"]: r["accuracy"] for r in runs if r["method"] == "ce"}
            share = records[0]["results"].get("majority_accuracy", 0)
            rows += [{"corpus": corpus, **{k: r[k] for k in ("temperature", "alpha", "seed")}, "gain": 100 * (r["accuracy"] - labels[r["seed"]]),
                      "at_chance": labels[r["seed"]] <= share} for r in runs if r["method"] == "kd" and r["seed"] in labels]
    return pd.DataFrame(rows)


@figure("05_distilbert_qqp", alt="""Heat map on real rows, a panel a corpus: points of validation accuracy that KD gains over labels alone, one row for each temperature, one column
    for each alpha, mean over seeds; a star where the interval over seeds excludes 0. Each panel has its own scale of colours. Below each alpha stands the book's alpha, one
    minus ours. On MNLI two of the three students on labels alone stayed at chance: there the gain is large because they learnt nothing.""", data=_real_grid)
def temperature_and_alpha_real(table):
    """columns: corpus, temperature, alpha (weight of the soft loss), seed, gain (points over CE of the same seed), at_chance (CE of that seed is no better than one answer for all rows)"""
    from .course.results import interval
    panels = list(table.groupby("corpus", sort=False))
    fig, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels) + 0.6, 3.4), squeeze=False)
    for ax, (corpus, part) in zip(axes[0], panels):
        cells = part.groupby(["temperature", "alpha"])["gain"].agg(interval).unstack()
        means = cells.map(lambda c: c.mean)
        reach = means.abs().max().max()
        shades = ax.imshow(means, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto")
        for i, j in np.ndindex(cells.shape):
            mean, _, _, _, verdict = cells.iloc[i, j]
            ax.text(j, i, f"{f'{mean:+.1f}' if abs(mean) >= 0.05 else '0.0'}{'*' if verdict == 'excludes 0' else ''}", ha="center", va="center", color="black" if abs(mean) < 0.6 * reach else "white")
        ax.set_xticks(range(cells.shape[1]), [f"{a:g}\n({1 - a:g})" for a in cells.columns])
        ax.set_yticks(range(cells.shape[0]), [f"{t:g}" for t in cells.index])
        lost, seeds = part.groupby("seed")["at_chance"].first().sum(), part["seed"].nunique()
        ax.set_title(f"{corpus}, {seeds} seeds" + (f"\n{lost} of {seeds} on labels alone: at chance" if lost else ""), fontsize=10)
        ax.set(xlabel="alpha (in the book's convention)", ylabel="temperature T" if ax is axes[0][0] else "")
        ax.grid(False)
        fig.colorbar(shades, ax=ax, label="points over labels alone" if ax is axes[0][-1] else "")
    return fig
