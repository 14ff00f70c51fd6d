"""Figures of learning rates, of notebooks 04, 05 and 07: loss curves, and scores by rate, the
lecture's beside ours.

All students in them heard a teacher, so all have KD's colour. The lecture's marks are hollow, ours
are filled, and each corpus has a panel of its own.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course.stored import whole
from .drawing import (
    Rows,
    again,
    fastest_first,
    figure,
    groups,
    ink,
    label_ends,
    level,
    message,
    only_ticks,
    paper,
    rate_name,
    row_of_axes,
)
from .looks import color_of

MNLI = Rows("MiniNLI, synthetic", "real MNLI rows")
QQP = Rows("MiniQQP, synthetic", "real QQP rows")
CLASSES = (2, 3)  # of the tasks: the loss of equal answers is ln 2 or ln 3
SHADES = (1.0, 0.75, 0.5, 0.35)  # of KD's colour, the largest rate first
LINES_OF_RATES = ("-", "--", "-.", ":")


# -- loss curves -----------------------------------------------------------------------------------


def _starts_and_ends(table) -> tuple[pd.Series, pd.Series]:
    """Mean validation loss before the first step and after the last one, by rate, largest first."""
    rows = table[table["split"] == "validation"].sort_values("step")
    by_run = rows.groupby(["learning_rate", "seed"] if "seed" in rows else ["learning_rate"])["ce"]
    first, last = by_run.first(), by_run.last()
    means = [ends.groupby("learning_rate").mean().sort_index(ascending=False)
             for ends in (first, last)]  # fmt: skip
    return means[0], means[1]


def _chance(table) -> int:
    """The number of classes whose ln is the loss at the start; 0 where none is near."""
    starts, _ = _starts_and_ends(table)
    if starts.empty:
        return 0
    nearest = min(CLASSES, key=lambda count: abs(starts.iloc[-1] - np.log(count)))
    return nearest if abs(starts.iloc[-1] - np.log(nearest)) < 0.12 else 0


def _who_learns(table) -> str:
    starts, ends = _starts_and_ends(table)
    fallen = starts - ends
    if len(fallen) < 2 or fallen.iloc[0] < 0.02:
        return ""
    chance = _chance(table)
    if fallen.iloc[1:].abs().max() < 0.01:
        where = f"at chance, ln {chance}" if chance else "where they began"
        return f"Only the largest rate learns; the others stay {where}"
    if not fallen.is_monotonic_decreasing:
        return ""
    shares = (100 * fallen / fallen.iloc[0]).clip(lower=0).iloc[1:]
    ratios = [f"1/{fallen.index[0] / rate:,.0f}" for rate in shares.index]
    told = [f"{ratio} falls {share:.0f} % as far" for ratio, share in zip(ratios, shares)]
    return f"Only the best rate gets far: in the same steps {', '.join(told)}"


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
    fig, axes = plt.subplots(1, 2, sharey=True, figsize=(8, 3.4))
    ends = []
    for i, rate, part in fastest_first(table):
        looks = {"color": color_of("kd"), "linestyle": LINES_OF_RATES[i % 4]}
        looks["alpha"] = SHADES[i % 4]
        for ax, split in zip(axes, ("train", "validation")):
            stats = part[part["split"] == split].groupby("step")["ce"].agg(["mean", "std"])
            marks = {"marker": "o", "markersize": 4} if split == "validation" else {}
            ax.plot(stats.index, stats["mean"], **looks, **marks)
            if split == "validation" and len(stats):
                low, high = stats["mean"] - stats["std"], stats["mean"] + stats["std"]
                ax.fill_between(stats.index, low, high, color=looks["color"], alpha=0.15)
                last = stats["mean"].iloc[-1]
                ends.append((stats.index[-1], last, rate_name(rate), looks["color"]))
    if count := _chance(table):
        for ax in axes:
            level(ax, np.log(count), ":")
        ends.append((0, np.log(count), f"ln {count}", ink()))
    axes[0].set(title="on training rows", xlabel="step", ylabel="cross-entropy (nats)")
    axes[1].set(title="on validation rows", xlabel="step")
    label_ends(axes[1], ends)
    message(fig, _who_learns(table), "The loss over training, a line a learning rate")
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


def _this_run(table) -> str:
    rows = table[table["split"] == "validation"].sort_values("step")
    if len(rows) < 2 or rows["ce"].iloc[-1] >= rows["ce"].iloc[0]:
        return ""
    falls = f"from {rows['ce'].iloc[0]:.2f} to {rows['ce'].iloc[-1]:.2f}"
    return f"In {rows['step'].iloc[-1]:,.0f} steps the validation loss falls {falls}"


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
    looks = {"validation": {"marker": "o", "markersize": 4}, "train": {"linestyle": "--"}}
    for ax, loss in zip(axes, losses):
        ends = []
        for _, split, part in groups(table[table[loss].notna()], "split"):
            mean = part.groupby("step")[loss].mean()
            shade = ink() if split == "validation" else "gray"
            ax.plot(mean.index, mean, color=shade, **looks.get(split, {}))
            ends.append((mean.index[-1], mean.iloc[-1], split, shade))
        ax.set(xlabel="step", title=titles[loss])
        ax.set_ylim(bottom=0)
        label_ends(ax, ends)
    message(fig, _this_run(table), "The loss over the training of one student")
    return fig


# -- accuracy and macro-F1 by rate -----------------------------------------------------------------


def _rates(stored, task: str, notebook: str, synthetic: str) -> pd.DataFrame:
    """Accuracy and macro-F1 of distilled students by rate: the lecture's, ours on real rows, ours
    on the stand-in; beside them one answer to all rows, and the student before its training.
    """
    said = stored.lecture()
    lecture = pd.DataFrame(said[f"{task}_learning_rates"])
    lecture[["accuracy", "macro_f1"]] /= 100  # it speaks in per cent
    counts = said.get(f"{task}_validation_matched_counts", {})
    shares = [count for count in counts.values() if isinstance(count, int)]
    one_answer = max(shares) / sum(shares) if shares else np.nan
    tables = [lecture.assign(who=f"lecture, {task.upper()}", one_answer=one_answer, base=np.nan)]
    ours = ((f"2,000 real {task.upper()} rows", "lab"), (f"{synthetic} (synthetic)", "laptop"))
    for who, file in ours:
        runs = stored.runs(notebook, file, needs=("method", "learning_rate"))
        kd = runs[runs["method"] == "kd"]
        # The point of the sweep at which rates vary: that of the slowest run.
        slow = kd.loc[kd["learning_rate"].idxmin()]
        same = (kd["alpha"] == slow["alpha"]) & (kd["temperature"] == slow["temperature"])
        chosen = whole(kd[same], "accuracy", "macro_f1")
        beside = {"one_answer": chosen.get("majority_accuracy", np.nan)}
        beside["base"] = chosen.get("untrained_accuracy", np.nan)
        tables.append(chosen.assign(who=f"here, {who}", **beside))
    columns = ["who", *lecture.columns, "seed", "one_answer", "base"]
    return pd.concat(tables, ignore_index=True)[columns]


def _mnli_rates(stored):
    return _rates(stored, "mnli", "04_distilbert_mnli", "MiniNLI")


def _qqp_rates(stored):
    return _rates(stored, "qqp", "05_distilbert_qqp", "MiniQQP")


def _hundredth(table) -> str:
    """What a hundredth of the best rate loses on real rows of ours."""
    real = table[table["who"].str.startswith("here") & ~table["who"].str.contains("synthetic")]
    f1 = 100 * real.groupby("learning_rate")["macro_f1"].mean().sort_index(ascending=False)
    if len(f1) < 2 or f1.iloc[0] - f1.iloc[1] < 10:
        return ""
    share = f"1/{f1.index[0] / f1.index[1]:,.0f}"
    return (
        f"{share} of a good rate loses {f1.iloc[0] - f1.iloc[1]:.0f} points of macro-F1 (real rows)"
    )


# metric: name, form of its marks, and on which side of them their numbers stand
SCORES = {
    "accuracy": ("accuracy", {"marker": "o", "linestyle": "-"}, 1),
    "macro_f1": ("macro-F1", {"marker": "d", "linestyle": ":"}, -1),
}


@figure(
    "04_distilbert_mnli",
    "MNLI: learning rates",
    "",
    alt="""Dots over learning rates, a panel each for the lecture (hollow), our runs on real rows
    and our runs on the synthetic stand-in: accuracy and macro-F1 of students distilled on MNLI at
    three rates, each a hundredth of the next. Dotted: one answer to all rows; dashed: the student
    before its training. On real rows the two small rates stay at the share of one class, with a
    macro-F1 below 20 per cent.""",
    data=_mnli_rates,
)
def mnli_rates(table):
    """columns: who, learning_rate, seed, accuracy, macro_f1 (shares); one_answer and base
    (accuracies, NaN: unknown)
    """
    parts = list(table.groupby("who", sort=False))
    fig, axes = row_of_axes(len(parts), 2.8, 3.4, sharey=True)
    for ax, (who, part) in zip(axes, parts):
        hollow = who.startswith("lecture")
        for metric, (name, form, side) in SCORES.items():
            runs = 100 * part.groupby("learning_rate")[metric].agg(["mean", "std"]).fillna(0)
            face = paper() if hollow else color_of("kd")
            looks = dict(color=color_of("kd"), markerfacecolor=face, capsize=2, markersize=7)
            ax.errorbar(runs.index, runs["mean"], runs["std"], **looks, **form)
            for rate, mean in runs["mean"].items():
                words = dict(ha="center", va="center", fontsize=9, textcoords="offset points")
                ax.annotate(f"{mean:.1f}", (rate, mean), (0, 13 * side), **words)
        _beside_scores(ax, part)
        _rate_axis(ax, part["learning_rate"])
        ax.set(title=textwrap.fill(who.replace("here, ", "here: "), 18), ylim=(5, 102))
        ax.title.set_fontsize(10)
    small = dict(handlelength=1.5, borderpad=0, labelspacing=0.2, fontsize=9)
    axes[-1].legend(loc="lower right", **small)
    axes[0].set_ylabel("○ accuracy, ◇ macro-F1 (%)", family="DejaVu Sans")
    message(fig, _hundredth(table), "Accuracy and macro-F1 at three learning rates")
    return fig


def _beside_scores(ax, part) -> None:
    """What the scores of a panel are to be compared with."""
    for column, line, name in (
        ("one_answer", ":", "one answer to all"),
        ("base", "--", "before training"),
    ):
        height = 100 * part[column].astype(float).mean() if column in part else np.nan
        if np.isfinite(height):
            level(ax, height, line, color="gray", label=name)


def _rate_axis(ax, rates) -> None:
    """A logarithmic axis whose ticks are the rates that were tried."""
    tried = sorted(set(rates.dropna()))
    ax.set_xscale("log")
    ax.set_xlim(min(tried) / 5, max(tried) * 5)
    only_ticks(ax.xaxis, tried, [rate_name(rate) for rate in tried])
    ax.set_xlabel("learning rate")


qqp_rates = again(
    mnli_rates,
    "qqp_rates",
    "05_distilbert_qqp",
    "QQP: learning rates",
    "",
    """Dots over learning rates, a panel each for the lecture (hollow), our runs on real rows and
    our runs on the synthetic stand-in: accuracy and macro-F1 of students distilled on QQP at three
    rates, each a hundredth of the next. Dotted: one answer to all rows. A model that always answers
    "not duplicate" has 63 per cent accuracy and a macro-F1 of 39.""",
    data=_qqp_rates,
)


# -- translators by rate ---------------------------------------------------------------------------

TEACHERS = {"smollm2": "Europarl, SmolLM2", "llama": "Europarl, Llama"}


def _real_pupils(teacher: str) -> str:
    """Who learned on Europarl, by what the teacher's folder is called."""
    found = [name for word, name in TEACHERS.items() if word in teacher.lower()]
    return found[0] if found else "Europarl, tiny models"


def _translator_rates(stored):
    """BLEU by rate: the lecture's, and our students' on the stand-in and on Europarl."""
    lecture = pd.DataFrame(stored.lecture()["eurollama"]["learning_rates"])
    columns = ["who", "learning_rate", "bleu", "comet", "seed", "teacher_bleu", "base_bleu"]
    tables = [lecture.assign(who="lecture, Europarl")]
    real_files = stored.files("07_eurollama_distil", "lab") or ["lab"]  # one lost is told
    for file in ("laptop", *real_files):
        needs = ("method", "targets", "learning_rate", "lora_rank")
        runs = stored.runs("07_eurollama_distil", file, needs=needs)
        is_kd = (runs["method"] == "kd") & (runs["targets"] == "references")
        runs = whole(runs[is_kd], "bleu", "teacher_bleu")
        ranks = runs["lora_rank"].map("MiniParl (synthetic), LoRA {}".format)
        who = ranks.where(runs["lora_rank"] > 0, "MiniParl (synthetic), all weights")
        real = runs["teacher"].map(_real_pupils)
        tables.append(runs.assign(who=who if file == "laptop" else real))
    return pd.concat(tables, ignore_index=True).reindex(columns=columns)


def _largest_is_best(table) -> str:
    best = []
    for _, part in table.dropna(subset=["learning_rate"]).groupby("who", sort=False):
        means = part.groupby("learning_rate")["bleu"].mean()
        if len(means) > 1:
            best.append(means.idxmax() == means.index.max())
    if not best or not any(best):
        return ""
    count = f"In {sum(best)} of {len(best)}" if not all(best) else f"In all {len(best)}"
    return f"{count} sweeps the largest rate gives the best BLEU"


@figure(
    "07_eurollama_distil",
    "EuroLlama: learning rates",
    "",
    alt="""Dots over learning rates, a panel a sweep: BLEU of distilled translators as the lecture
    reports it (hollow), and of our students on the synthetic MiniParl (all weights, and LoRA) and
    on real Europarl, where ten layers of a pretrained Llama learned from 6,000 pairs (one
    rate, chosen on other pairs). Dashed: the
    teacher's BLEU; dotted: the model before training. On MiniParl the largest rate is best. Scores
    of different corpora cannot be compared.""",
    data=_translator_rates,
)
def eurollama_rates(table):
    """columns: who, learning_rate (NaN: before training), seed, bleu, comet (NaN: not computed),
    teacher_bleu, base_bleu (NaN: not told)
    """
    parts = list(table.groupby("who", sort=False))
    fig, axes = row_of_axes(len(parts), 2.3, 3.4)
    for ax, (who, part) in zip(axes, parts):
        _scores(ax, part, "bleu", "{:.1f}", hollow=who.startswith("lecture"))
        base = part.loc[part["learning_rate"].isna(), "bleu"].mean()
        base = part["base_bleu"].astype(float).mean() if np.isnan(base) else base
        teacher = part["teacher_bleu"].astype(float).mean()
        beside = (("teacher", teacher, "--", "bottom"), ("base", base, ":", "top"))
        for name, height, line, side in beside:
            if np.isfinite(height):
                side = "bottom" if height < 1 else side  # below it the axis has its numbers
                level(ax, height, line, color=color_of("teacher"))
                told = dict(ha="left", va=side, fontsize=9, color=color_of("teacher"))
                ax.text(ax.get_xlim()[0], height, f" {name} {height:.1f}", **told)
        ax.set_title(textwrap.fill(who, 16), fontsize=10)
        highest = part[["bleu", "teacher_bleu"]].astype(float).max().max()
        ax.set_ylim(0, 1.25 * max(highest, 2))
    axes[0].set_ylabel("BLEU on test sentences")
    message(fig, _largest_is_best(table), "BLEU by learning rate, a panel a sweep")
    return fig


def _scores(ax, part, column: str, fmt: str, hollow: bool) -> None:
    """One score over the rates: mean and sd over seeds, each mean with its number."""
    runs = part.dropna(subset=["learning_rate"]).astype({column: float})
    stats = runs.groupby("learning_rate")[column].agg(["mean", "std"]).fillna(0)
    face = paper() if hollow else color_of("kd")
    looks = dict(fmt="o-", color=color_of("kd"), markerfacecolor=face, capsize=3, markersize=7)
    ax.errorbar(stats.index, stats["mean"], stats["std"], **looks)
    for rate, mean in stats["mean"].items():
        words = dict(ha="center", va="top", fontsize=9, textcoords="offset points")
        ax.annotate(fmt.format(mean), (rate, mean), (0, -7), **words)
    _rate_axis(ax, runs["learning_rate"])


def _lecture_scores(stored):
    return pd.DataFrame(stored.lecture()["eurollama"]["learning_rates"])


def _agree(table) -> str:
    """Whether both scores name the same best rate, above the base model."""
    trained = table.dropna(subset=["learning_rate"]).set_index("learning_rate")
    base = table[table["learning_rate"].isna()]
    if base.empty or trained["bleu"].idxmax() != trained["comet"].idxmax():
        return ""
    best = trained["bleu"].idxmax()
    if trained["bleu"][best] <= base["bleu"].iloc[0]:
        return ""
    gain = trained["bleu"][best] - base["bleu"].iloc[0]
    return f"BLEU and COMET agree: {rate_name(best)} is best, {gain:.1f} BLEU above the base model"


@figure(
    "07_eurollama_distil",
    "EuroLlama: BLEU and COMET in the lecture",
    "the lecture's table, Europarl en–fr",
    alt="""Two panels with the lecture's scores of its distilled translators on Europarl over three
    learning rates: BLEU at the left, COMET at the right. A dotted line marks the base model before
    training. Both scores are best at the middle rate, and all trained models lie above the base
    model.""",
    data=_lecture_scores,
)
def lecture_scores(table):
    """columns: learning_rate (NaN: the base model), bleu, comet"""
    fig, axes = row_of_axes(2, 4, 3.4)
    base = table[table["learning_rate"].isna()]
    for ax, column, fmt in ((axes[0], "bleu", "{:.1f}"), (axes[1], "comet", "{:.2f}")):
        _scores(ax, table, column, fmt, hollow=True)
        top = table[column].max()
        ax.set(title=column.upper(), ylim=(0, 1.2 * top))
        if len(base):
            height = base[column].iloc[0]
            level(ax, height, ":", color="gray")
            told = f"base model {fmt.format(height)} "
            ax.text(ax.get_xlim()[1], 0.97 * height, told, ha="right", va="top", color="gray")
    message(fig, _agree(table), "The lecture's BLEU and COMET by learning rate")
    return fig
