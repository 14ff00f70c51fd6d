"""Figures of notebooks 06 and 07: EuroLlama."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course.stored import whole
from .drawing import (
    Rows,
    band,
    dots,
    fastest_first,
    figure,
    grid,
    groups,
    heat,
    ink,
    legend_above,
    level,
    look,
    middle,
    only_ticks,
    panels,
    plain_numbers,
    rate_name,
    seeds,
    spread,
    upright,
)

PAIRS = Rows("MiniParl, synthetic", "real Europarl pairs")


# -- 06 · EuroLlama: the prompt ------------------------------------------------------------------

# Face and edge of each part of a prompt, and the edge's line.
PART_LOOKS = {
    "prompt": ("#E6ECF2", "#5A6B7B", ":"),
    "source": ("#FBE3CF", "#B04A00", "--"),
    "target": ("#CFEBDF", "#00694D", "-"),
}
LETTERS = 80  # in a line of the legend: what a slide holds at 18 points


def _token_box(ax, x, y, shown, part, learnt) -> None:
    """A token in a box whose width is its number of letters."""
    face, edge, line = PART_LOOKS[part]
    box = matplotlib.patches.Rectangle(
        (x, y - 0.38),
        len(shown),
        0.76,
        facecolor=face,
        edgecolor=edge,
        linestyle=line,
        linewidth=2 if learnt else 1.1,
    )
    ax.add_patch(box)
    weight = "bold" if learnt else "normal"
    middle(
        ax,
        x + len(shown) / 2,
        y,
        shown,
        9.2,
        family="monospace",
        parse_math=False,
        color="black",
        weight=weight,
    )


def _lines_of_tokens(table):
    """(boxes, number of the last line): where each token stands; see `_token_box`."""
    x, y, boxes = 0.0, 0, []
    for token, part, learnt in table[["token", "part", "learnt"]].itertuples(index=False):
        shown = token.replace("\n", "↵").strip() or "␣"
        if x + len(shown) > LETTERS:
            x, y = 0.0, y + 1
        boxes.append((x, y, shown, part, learnt))
        x += len(shown) + 0.7
        if "\n" in token:
            x, y = 0.0, y + 1
    return boxes, y


@figure(
    "06_eurollama_prompt",
    "EuroLlama: prompt, source, target",
    PAIRS,
    alt="""One training text, token by token in boxes: the prompt (grey-blue, dotted edge), the
    source text to translate (orange, dashed edge) and the target, which is the translation with its
    end token (green, solid edge). Tokens that are learnt are bold with a thick edge: they are those
    of the target.""",
)
def prompt_legend(table):
    """columns: token, part ("prompt", "source", "target"), learnt"""
    boxes, last_line = _lines_of_tokens(table)
    fig, ax = plt.subplots(figsize=(8, 0.3 * (last_line + 2.6)))
    ax.set(xlim=(-0.5, LETTERS + 0.5), ylim=(last_line + 0.7, -1.9))
    ax.axis("off")
    left = 0.0
    for part in PART_LOOKS:
        learnt = table.loc[table["part"] == part, "learnt"]
        all_learnt = len(learnt) > 0 and bool(learnt.all())
        told = f" {part}: {len(learnt)} tokens{', learnt' if all_learnt else ''} "
        _token_box(ax, left, -1.2, told, part, all_learnt)
        left += len(told) + 2
    for box in boxes:
        _token_box(ax, *box)
    return fig


def _two_panels(names):
    """(figure, left, right): two panels that share their rows, one a name."""
    size = (9.2, 0.42 * names.nunique() + 1.2)
    fig, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True)
    return fig, left, right


def _ended(ax, table, most: float) -> None:
    """The share of generations that end by themselves, a row a recipe."""
    dots(ax, table, "ended", 2, scale=100, fmt="{:.0f} %")
    ax.set(xlabel="ends by itself (%)", xlim=(-5, most))
    ax.set_xticks(range(0, 101, 50))


@figure(
    "06_eurollama_prompt",
    "Hallucinated tokens: recipes",
    PAIRS,
    alt="""Seven recipes for the end of a translation, a row each. Left: the share of generations
    that end by themselves. Right: BLEU of the whole generations (circles) and of the same texts cut
    after their first full stop (squares). Where the end is never learnt, no generation ends, and
    the whole texts score far lower than their first sentences.""",
)
def end_recipes(table):
    """columns: name, seed, ended (share), bleu, bleu_first"""
    fig, left, right = _two_panels(table["name"])
    _ended(left, table, 140)
    dots(right, table, "bleu", 0, shift=-0.14, label="whole text")
    dots(right, table, "bleu_first", 1, shift=0.18, label="first sentence")
    best = table[["bleu", "bleu_first"]].max().max()
    right.set(xlabel="BLEU", xlim=(-2, 1.3 * max(10, best)))
    legend_above(right)
    return fig


@figure(
    "06_eurollama_prompt",
    "The end token is learnt",
    PAIRS,
    alt="""How soon an end is learnt: the probability of the end token where a translation ends, on
    a logarithmic axis, against training steps; one line for a new row (the mean of all others) and
    one for a reserved token's row, with the range over seeds as a band. Both start far below one
    word in the vocabulary and rise to nearly 1.""",
)
def end_learnt(table):
    """columns: name, seed, step, probability, words (size of the vocabulary)"""
    fig, ax = plt.subplots(figsize=(6.8, 3.5))
    for i, name, part in groups(table, "name"):
        stats = part.groupby("step")["probability"].agg(["median", "min", "max"])
        band(ax, stats, stats["median"], stats["min"], stats["max"], i, name)
    chance = 1 / table["words"].iloc[0]
    level(ax, chance, ":")
    told = "one word of the vocabulary by chance "
    ax.text(table["step"].max(), chance, told, ha="right", va="bottom", fontsize=8.5)
    ax.set(yscale="log", xlabel="training step", ylabel="p(end) where a translation ends")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.08))
    return fig


@figure(
    "06_eurollama_prompt",
    "The end token is unlearnt",
    PAIRS,
    alt="""The probability of the end token where a translation ends, after training with CE alone
    and with KD from a teacher that does not know the token, with the teacher heard at every
    position or not at the end; and from a teacher that was tuned first. Circles: mean and range
    over seeds. Crosses: (1 - alpha) + alpha times the teacher's own probability, what theory says
    for T = 1. KD everywhere lies near or below the crosses; CE alone at the end token brings the
    probability back to nearly 1.""",
)
def end_unlearnt(table):
    """columns: name, seed, p_end, expected, ended (share)"""
    fig, left, right = _two_panels(table["name"])
    # Where theory is silent, `expected` is None.
    expected = table["expected"].astype(float).groupby(table["name"], sort=False).mean()
    rows = np.arange(len(expected)) + 0.22
    left.plot(
        expected, rows, "x", color=ink(), markersize=7, markeredgewidth=1.5, label="theory, T = 1"
    )
    dots(left, table, "p_end", 0, fmt="{:.2f}", shift=-0.12, label="measured")
    left.set(xlabel="p(end) at the end", xlim=(-0.05, 1.35))
    left.set_xticks([0, 0.5, 1])
    legend_above(left)
    _ended(right, table, 150)
    return fig


# -- 07 · EuroLlama: distilling ------------------------------------------------------------------


def _short(token: str) -> str:
    """An end token in a few letters."""
    return token.replace("<|end_of_translation|>", "⟨end⟩").replace("<|eot_id|>", "⟨eot⟩")


@figure(
    "07_eurollama_distil",
    "Where the teacher disagrees",
    PAIRS,
    alt="""Heat map of one sentence: a column for each target token, a row for the student before
    and after training, each cell with KL(teacher ‖ student) in nats at that token. Dark cells are
    tokens at which the student still expects other words than its teacher.""",
)
def token_divergence(table):
    """columns: model, place, token, kl (nats)"""
    models = list(table["model"].unique())
    tokens = table.drop_duplicates("place").sort_values("place")["token"].map(_short)
    kl = table.pivot(index="model", columns="place", values="kl").reindex(models)
    size = (max(6.4, 0.52 * len(tokens)), 0.55 * len(models) + 1.5)
    fig, ax = plt.subplots(figsize=size)
    many = len(tokens) > 14
    texts = [f"{value:.2f}" if value >= 0.005 else "0" for value in kl.to_numpy().flat]
    looks = dict(cmap="Greys", vmin=-3, vmax=1.4, fontsize=8.5, rotation=90 if many else 0)
    shades = heat(
        ax,
        np.log10(kl.clip(lower=1e-3)),
        np.reshape(texts, kl.shape),
        kl.to_numpy() > 0.2,
        tokens,
        models,
        **looks,
    )
    ax.set_xticks(range(len(tokens)), tokens, rotation=90, ha="center") if many else dict(
        rotation=45, ha="right"
    )
    bar = fig.colorbar(shades, ax=ax, ticks=[-3, -2, -1, 0, 1], pad=0.01)
    bar.ax.set_yticklabels(["≤ 0.001", "0.01", "0.1", "1", "10"])
    bar.set_label("KL(teacher ‖ student), nats", fontsize=9)
    return fig


@figure(
    "07_eurollama_distil",
    "EuroLlama: what helps",
    PAIRS,
    alt="""BLEU on test sentences of students that differ in what they were told and what they
    heard, a dot a seed, with mean and standard deviation beside it; dashed lines for the teacher
    and for the cap, which is the grammar's own likeliest translation.""",
)
def translators(table):
    """columns: told, seed, bleu, teacher_bleu, cap (NaN where it is unknown)"""
    fig, ax = plt.subplots(figsize=(6.8, 0.5 * table["told"].nunique() + 1.4))
    seeds(ax, table, "told", "bleu")
    teacher, cap = table["teacher_bleu"].mean(), table["cap"].astype(float).mean()
    if np.isfinite(teacher):
        upright(ax, teacher, label=f"teacher {teacher:.1f}")
    if np.isfinite(cap):
        upright(ax, cap, ":", label=f"cap, the grammar's likeliest words {cap:.1f}")
    ax.set_xlabel("BLEU on test (dots: seeds; bars: mean ± sd)")
    legend_above(ax, fontsize=10)
    return fig


@figure(
    "07_eurollama_distil",
    "EuroLlama: loss curves",
    PAIRS,
    alt="""Validation loss of the student over training steps, one line a learning rate with a band
    of one standard deviation over seeds; the left panel trains all weights, the right one LoRA's
    adapters alone. The smaller the rate, the higher the loss stays in the same steps.""",
)
def translation_rates(table):
    """columns: lora_rank, learning_rate, seed, step, ce"""
    fig, parts = panels(table, "lora_rank", 4.3, 3.4, sort=True, sharey=True)
    for ax, rank, part in parts:
        for i, rate, runs in fastest_first(part):
            stats = runs.groupby("step")["ce"].agg(["mean", "std"]).fillna(0)
            mean, sd = stats["mean"], stats["std"]
            band(ax, stats, mean, mean - sd, mean + sd, i, f"{rate:.0e}", alpha=0.2)
        title = "all weights" if rank == 0 else f"LoRA, rank {rank}"
        ax.set(title=title, xlabel="step", yscale="log")
        plain_numbers(ax.yaxis)
        ax.yaxis.set_minor_formatter("{x:g}")
        ax.legend(title="learning rate", fontsize=8.5, title_fontsize=8.5)
    fig.axes[0].set_ylabel("validation cross-entropy, nats a token")
    return fig


def _rates(stored):
    """BLEU and COMET by rate: the lecture's, and our students' on the stand-in and on Europarl."""
    lecture = pd.DataFrame(stored.lecture()["eurollama"]["learning_rates"])
    scores = ["bleu", "comet"]
    columns = ["who", "learning_rate", *scores, "seed", "teacher_bleu"]
    tables = [lecture.assign(who="lecture, Europarl")]
    for file in ("laptop", "lab"):
        needs = ("method", "targets", "learning_rate", "lora_rank")
        runs = stored.runs("07_eurollama_distil", file, needs=needs)
        is_kd = (runs["method"] == "kd") & (runs["targets"] == "references")
        runs = whole(runs[is_kd], "bleu", "teacher_bleu")
        ranks = runs["lora_rank"].map("MiniParl (synthetic), LoRA {}".format)
        who = ranks.where(runs["lora_rank"] > 0, "MiniParl (synthetic), all weights")
        tables.append(runs.assign(who="Europarl, tiny models" if file == "lab" else who))
    return pd.concat(tables, ignore_index=True)[columns]


@figure(
    "07_eurollama_distil",
    "EuroLlama: learning rates",
    "",
    alt="""A table: BLEU and COMET of distilled translators by learning rate, as the lecture reports
    them, beside our students on the synthetic MiniParl (all weights, and LoRA) and tiny models on
    real Europarl, each with its teacher's BLEU. On MiniParl the largest rate is best in both
    columns. On Europarl the tiny teacher itself has a BLEU of 1.4: its students cannot learn to
    translate from it. Scores of different corpora cannot be compared.""",
    data=_rates,
)
def eurollama_rates(table):
    """columns: who, learning_rate (NaN: before training), seed, bleu, comet (NaN: not computed),
    teacher_bleu (NaN: not told)
    """
    rows, rules = [], []
    untrained = 9.0  # above every learning rate: this row comes first
    table = table.fillna({"learning_rate": untrained})
    for _, who, part in groups(table, "who"):
        teacher = part["teacher_bleu"].mean()
        for _, rate, runs in fastest_first(part):
            name = "base" if rate == untrained else rate_name(rate)
            scores = [spread(runs["bleu"]), spread(runs["comet"], digits=2)]
            rows.append([who, name, *scores, str(len(runs))])
            who = ""  # said once
        if np.isfinite(teacher):
            # A student of a teacher that cannot translate proves nothing about KD.
            rows.append(["", "teacher", f"{teacher:.1f}", "–", ""])
        rules.append(len(rows))
    columns = ["student, distilled", "rate", "BLEU", "COMET", "runs"]
    return grid(columns, rows, [0, 0.47, 0.63, 0.81, 0.94], rules)


def _texts_of_seed_0(stored) -> dict[str, list[str]]:
    """What three students say to each test sentence: on labels only, with KD, with KD at a low
    rate.
    """
    told = {}
    for record in stored.records("07_eurollama_distil", "laptop"):
        about = record["settings"]
        if about["targets"] == "references" and not about["lora_rank"] and record["seed"] == 0:
            told[about["method"], about["learning_rate"]] = record["results"]["texts"]
    rates = [rate for _, rate in told]
    fast, slow = max(rates), min(rates)
    return {
        "labels only": told["ce", fast],
        "KD": told["kd", fast],
        "KD, rate / 100": told["kd", slow],
    }


def _examples(stored):
    """The first three test sentences that the students of seed 0 with and without KD translate
    differently, all texts short enough for a line.
    """
    pairs = pd.read_parquet(stored.file("miniparl/test-00000-of-00001.parquet"))["translation"]
    texts = pd.DataFrame(_texts_of_seed_0(stored))
    # The lists of pairs and of outputs are in the same order.
    sides = pd.DataFrame({"source": pairs.str["en"], "reference": pairs.str["fr"]})
    table = sides.iloc[: len(texts)].join(texts)
    differ = table["labels only"] != table["KD"]
    is_short = table.map(len).max(axis=1) <= 70
    picked = table[differ & is_short].head(3).rename_axis("sentence").reset_index()
    rows = picked.melt("sentence", var_name="who", value_name="text")
    return rows.sort_values("sentence", kind="stable", ignore_index=True)


@figure(
    "07_eurollama_distil",
    "EuroLlama: translations",
    "",
    alt="""Three test sentences of MiniParl (synthetic) with their reference and what three students
    say: one trained on labels only, one with KD, and one with KD at a hundredth of the learning
    rate. They are the first three short sentences that the first two students translate
    differently.""",
    data=_examples,
)
def translations(table):
    """columns: sentence, who, text"""
    rows = table[["who", "text"]].to_numpy().tolist()
    rules = table.groupby("sentence", sort=False).size().cumsum().tolist()
    return grid(["", "MiniParl, synthetic; the same seed"], rows, [0, 0.2], rules[:-1])


def _bench(stored):
    return pd.DataFrame(stored.json("results/bench_vocab_loss.json")["rows"])


def _cost(ax, part, by: str, column: str) -> None:
    """One measure against one size, both logarithmic: ours, the plain way, and the others as
    crosses.
    """
    others = part[~part["name"].isin(("plain", "ours"))]
    told = "other libraries and ways"
    ax.plot(others[by], others[column], "x", color="gray", markersize=5, label=told)
    for i, name, label in ((1, "plain", "the plain way"), (0, "ours", "in chunks")):
        own = part[part["name"] == name]
        ax.plot(own[by], own[column], **look(i), label=label)
    ax.set(xscale="log", yscale="log")
    plain_numbers(ax.yaxis)
    ticks = sorted(part[by].unique())
    only_ticks(ax.xaxis, ticks, [f"{t / 1000:.0f}k" if t >= 8000 else f"{t:,}" for t in ticks])


@figure(
    "07_eurollama_distil",
    "What the loss costs at 128,256 words",
    "",
    alt="""What the distillation loss costs, four panels on logarithmic axes: memory above inputs,
    weights and gradients (top) and seconds (bottom), against the number of tokens at 128,256 words
    (left) and against the vocabulary at 1,024 tokens (right). Dots and solid line: in chunks;
    squares and dashed line: the plain way; small crosses: other libraries. Plain memory grows with
    both, that of the chunks stays.""",
    data=_bench,
)
def vocabulary_cost(table):
    """columns: name ("ours", "plain", other libraries and ways), tokens, vocab, width (of the
    student), extra (bytes), seconds_cpu
    """
    table = table[table["width"] == table["width"].min()].assign(gb=table["extra"] / 1e9)
    most = table["vocab"].max()
    usual = table.loc[table["name"] != "ours", "tokens"].mode().iloc[0]
    by_tokens = table[table["vocab"] == most].sort_values("tokens")
    by_words = table[table["tokens"] == usual].sort_values("vocab")
    fig, axes = plt.subplots(2, 2, figsize=(9, 5.6), sharex="col", sharey="row")
    for (left, right), column in zip(axes, ("gb", "seconds_cpu")):
        _cost(left, by_tokens, "tokens", column)
        _cost(right, by_words, "vocab", column)
    axes[1][0].set_xlabel(f"tokens, at {most:,} words")
    axes[1][1].set_xlabel(f"words, at {usual:,} tokens")
    axes[0][0].set_ylabel("extra memory (GB)")
    axes[1][0].set_ylabel("processor seconds")
    drawn = axes[0][0].get_legend_handles_labels()
    fig.legend(*drawn, fontsize=9, ncols=3, loc="outside upper center")
    return fig
