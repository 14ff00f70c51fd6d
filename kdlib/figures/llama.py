"""Figures of notebooks 06 and 07: EuroLlama."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course.statistics import paired
from ..methods import LABELS
from .drawing import (
    LINES,
    OTHER_TEXTS,
    Rows,
    band,
    color,
    dots,
    fastest_first,
    figure,
    grid,
    groups,
    ink,
    label_ends,
    legend_above,
    level,
    message,
    middle,
    number,
    panels,
    plain_numbers,
    rate_name,
    seeds,
    upright,
)
from .looks import color_of

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


def _few_are_learnt(table) -> str:
    learnt = table["learnt"].astype(bool)
    if not learnt.any() or set(table.loc[learnt, "part"]) != {"target"} or learnt.mean() > 0.5:
        return ""
    return f"Of {len(table)} tokens only {learnt.sum()} are learnt: the translation and its end"


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
    message(fig, _few_are_learnt(table), "One training text, token by token")
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


def _nothing_ends(table) -> str:
    means = table.groupby("name")[["ended", "bleu"]].mean()
    if not {"right", "no end token"} <= set(means.index):
        return ""
    right, lost = means.loc["right"], means.loc["no end token"]
    if lost["ended"] > 0.05 or lost["bleu"] >= right["bleu"]:
        return ""
    falls = f"BLEU falls from {right['bleu']:.0f} to {lost['bleu']:.0f}"
    return f"Without an end token hardly a translation ends, and {falls}"


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
    message(fig, _nothing_ends(table), "Seven recipes for the end of a translation")
    return fig


def _soon_learnt(table) -> str:
    """After how many steps every way gives the end more than one half."""
    median = table.groupby(["name", "step"])["probability"].median().reset_index()
    steps = []
    for _, part in median.groupby("name"):
        there = part.loc[part["probability"] > 0.5, "step"]
        if there.empty:
            return ""
        steps.append(there.min())
    start = median.loc[median["step"] == median["step"].min(), "probability"].max()
    if start > 0.01:
        return ""
    return (
        f"After {max(steps):.0f} steps the model ends its sentences, from p(end) ≈ {start:.0e} on"
    )


@figure(
    "06_eurollama_prompt",
    "The end token is learnt",
    PAIRS,
    alt="""How soon an end is learnt: the probability of the end token where a translation ends, on
    a logarithmic axis, against training steps; one line for a new row (the mean of all others) and
    one for a reserved token's row, with the range over seeds as a band. Both start far below one
    token of the vocabulary by chance and rise to nearly 1.""",
)
def end_learnt(table):
    """columns: name, seed, step, probability, words (size of the vocabulary)"""
    fig, ax = plt.subplots(figsize=(6.8, 3.5))
    for i, name, part in groups(table, "name"):
        stats = part.groupby("step")["probability"].agg(["median", "min", "max"])
        band(ax, stats, stats["median"], stats["min"], stats["max"], i, name)
    chance = 1 / table["words"].iloc[0]
    level(ax, chance, ":")
    told = "one token of the vocabulary by chance "
    ax.text(table["step"].max(), chance, told, ha="right", va="bottom", fontsize=8.5)
    ax.set(yscale="log", xlabel="training step", ylabel="p(end) where a translation ends")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.08), labelcolor="linecolor", fontsize=11)
    message(fig, _soon_learnt(table), "How soon the end token is learnt")
    return fig


def _unlearnt(table) -> str:
    means = table.groupby("name")["p_end"].mean()
    names = ["CE only", "KD everywhere, alpha = 0.5", "KD everywhere, alpha = 0.9"]
    if not set(names) <= set(means.index):
        return ""
    values = [means[name] for name in names]
    if not values[0] > values[1] > values[2]:
        return ""
    told = " → ".join(f"{value:.2f}" for value in values)
    return f"A teacher that does not know the end unteaches it: p(end) {told}"


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
    message(fig, _unlearnt(table), "The end token after training with and without a teacher")
    return fig


# -- 07 · EuroLlama: distilling ------------------------------------------------------------------


def _short(token: str) -> str:
    """An end token in a few letters."""
    return token.replace("<|end_of_translation|>", "⟨end⟩").replace("<|eot_id|>", "⟨eot⟩")


# KL(teacher ‖ student) in nats: from so much on, a token is shaded so, and its letters are white.
STEPS = ((0.0, "#FFFFFF", False), (0.03, "#E4D9EE", False), (0.3, "#B79BD3", False),
         (3.0, "#5E3C99", True))  # fmt: skip
LETTERS_OF_A_SENTENCE = 56  # in a line
DISAGREES = 0.3  # nats


def _still_disagrees(table) -> str:
    counts = [int((part["kl"] > DISAGREES).sum()) for _, part in table.groupby("model", sort=False)]
    tokens = table["place"].nunique()
    if len(counts) != 2 or counts[1] >= counts[0]:
        return ""
    where = f"at {counts[0]} of {tokens} tokens before training, at {counts[1]} after"
    return f"The student disagrees (KL above {DISAGREES:g}) {where}"


def _shaded_tokens(ax, y: float, part) -> float:
    """The tokens of a sentence, each on its shade; the height of the line below them."""
    x = 0.0
    for token, kl in zip(part["token"].map(_short), part["kl"]):
        if x + len(token) > LETTERS_OF_A_SENTENCE:
            x, y = 0.0, y + 1
        _shaded(ax, x, y, token, kl)
        x += len(token) + 1
    return y + 1


def _shaded(ax, x, y, text, kl) -> None:
    """One text on the shade of its KL."""
    _, face, is_dark = next(step for step in reversed(STEPS) if kl >= step[0])
    box = matplotlib.patches.Rectangle((x - 0.1, y - 0.4), len(text) + 0.2, 0.8)
    box.set(facecolor=face, edgecolor="#888888", linewidth=0.6)
    ax.add_patch(box)
    looks = dict(color="white" if is_dark else "black", family="monospace", parse_math=False)
    middle(ax, x + len(text) / 2, y, text, 11, **looks)


@figure(
    "07_eurollama_distil",
    "Where the teacher disagrees",
    PAIRS,
    alt="""One sentence twice, token by token, for the student before and after training: the darker
    a token, the larger the KL(teacher ‖ student) there. A key below gives the shades in nats. Dark
    tokens are those at which the student still expects other words than its teacher.""",
)
def token_divergence(table):
    """columns: model, place, token, kl (nats)"""
    fig, ax = plt.subplots(figsize=(7.2, 3.4))
    ax.axis("off")
    y = 0.0
    for model, part in table.groupby("model", sort=False):
        ax.text(0, y, model, va="center", fontsize=11, weight="bold")
        y = _shaded_tokens(ax, y + 1, part.sort_values("place")) + 0.4
    ax.text(0, y, "KL in nats:", va="center", fontsize=10)
    x = 11.0
    for i, (low, _, _) in enumerate(STEPS):
        high = f"to {STEPS[i + 1][0]:g}" if i + 1 < len(STEPS) else "and more"
        told = f"{low:g} {high}"
        _shaded(ax, x, y, told, low)
        x += len(told) + 2
    ax.set(xlim=(-0.5, LETTERS_OF_A_SENTENCE + 1), ylim=(y + 0.8, -0.8))
    message(fig, _still_disagrees(table), "KL(teacher ‖ student), token by token")
    return fig


def _what_helps(table) -> str:
    """The shown gains over references alone, in BLEU."""
    names = {"KD": "KD adds {}", f"CE only, {OTHER_TEXTS}": f"the {OTHER_TEXTS} add {{}}"}
    said = []
    for name, words in names.items():
        gain = paired(table, name, "CE only", "bleu", by="told")
        if gain is not None and gain.low > 0:
            said.append(words.format(f"{gain.mean:.1f}"))
    return f"Over these seeds {', '.join(said)} BLEU to labels alone" if said else ""


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
    message(fig, _what_helps(table), "Translators that differ in what they are told")
    return fig


def _smaller_is_slower(table) -> str:
    last = table.sort_values("step").groupby(["lora_rank", "learning_rate", "seed"])["ce"].last()
    for _, part in last.groupby(["lora_rank", "learning_rate"]).mean().groupby("lora_rank"):
        if len(part) < 2 or not part.is_monotonic_decreasing:
            return ""
    return "The smaller the rate, the higher the loss stays after the same steps"


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
        ends = []
        for i, rate, runs in fastest_first(part):
            stats = runs.groupby("step")["ce"].agg(["mean", "std"]).fillna(0)
            mean, sd = stats["mean"], stats["std"]
            looks = dict(color=color_of("kd"), linestyle=LINES[i % 7], marker="o", markersize=4)
            ax.plot(stats.index, mean, **looks)
            ax.fill_between(stats.index, mean - sd, mean + sd, color=color_of("kd"), alpha=0.2)
            ends.append((stats.index[-1], mean.iloc[-1], rate_name(rate), color_of("kd")))
        title = "all weights" if rank == 0 else f"LoRA, rank {rank}"
        ax.set(title=title, xlabel="step", yscale="log")
        plain_numbers(ax.yaxis)
        ax.yaxis.set_minor_formatter("{x:g}")
        label_ends(ax, ends)
    fig.axes[0].set_ylabel("validation cross-entropy, nats a token")
    message(fig, _smaller_is_slower(table), "Validation loss by learning rate")
    return fig


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
        LABELS["ce"]: told["ce", fast],
        LABELS["kd"]: told["kd", fast],
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
    differ = table[LABELS["ce"]] != table[LABELS["kd"]]
    is_short = table.map(len).max(axis=1) <= 70
    picked = table[differ & is_short].head(3).rename_axis("sentence").reset_index()
    rows = picked.melt("sentence", var_name="who", value_name="text")
    return rows.sort_values("sentence", kind="stable", ignore_index=True)


def _word_for_word(table) -> str:
    """How often two students say what the reference says."""
    texts = table.pivot(index="sentence", columns="who", values="text")
    alone, kd = LABELS["ce"], LABELS["kd"]
    if not {"reference", alone, kd} <= set(texts):
        return ""
    same = {who: int((texts[who] == texts["reference"]).sum()) for who in (alone, kd)}
    told = f"“{alone}” has {same[alone]} of {len(texts)} word for word, “{kd}” {same[kd]}"
    return f"A few sentences rank nobody: {told}"


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
    fig = grid(["", "MiniParl, synthetic; the same seed"], rows, [0, 0.2], rules[:-1])
    message(fig, _word_for_word(table), "What three students say")
    return fig


def _bench(stored):
    return pd.DataFrame(stored.json("results/bench_vocab_loss.json")["rows"])


WAYS = {
    "plain": "the plain way",
    "plain_kept": "plain, no ignored tokens",
    "checkpointed": "plain, checkpointed",
    "ours": "in chunks (kdlib)",
    "trl": "TRL",
    "trl_chunked": "TRL, chunked",
    "liger": "Liger",
    "torchdistill": "torchdistill",
}


def _at_most_words(table):
    """The rows at the largest vocabulary, and at the number of tokens that all were tried at."""
    table = table[table["width"] == table["width"].min()].assign(gb=table["extra"] / 1e9)
    usual = table.loc[table["name"] != "ours", "tokens"].mode().iloc[0]
    return table[(table["vocab"] == table["vocab"].max()) & (table["tokens"] == usual)]


def _chunks_save(rows) -> str:
    gb = rows.set_index("name")["gb"]
    if not {"plain", "ours"} <= set(gb.index) or gb["ours"] * 2 > gb["plain"]:
        return ""
    times = f"{gb['plain'] / gb['ours']:.0f} times less"
    return f"In chunks the loss needs {gb['ours']:.2f} GB instead of {gb['plain']:.1f}: {times}"


@figure(
    "07_eurollama_distil",
    "What the loss costs with a vocabulary of 128,256",
    "",
    alt="""Bars for the memory that the distillation loss needs above its inputs, weights and
    gradients, with 128,256 entries of the vocabulary and 1,024 tokens: the plain way needs
    gigabytes, other libraries as much or somewhat less, and the loss in chunks a tenth of a
    gigabyte.""",
    data=_bench,
)
def vocabulary_cost(table):
    """columns: name ("ours", "plain", other libraries and ways), tokens, vocab, width (of the
    student), extra (bytes), seconds_cpu
    """
    rows = _at_most_words(table).sort_values("gb", ascending=False)
    fig, ax = plt.subplots(figsize=(7.2, 0.36 * len(rows) + 1.2))
    names = [WAYS.get(name, name) for name in rows["name"]]
    shades = {"plain": color(1), "ours": color(0)}
    ax.barh(names, rows["gb"], 0.7, color=[shades.get(name, "#BBBBBB") for name in rows["name"]])
    for y, gb in enumerate(rows["gb"]):
        number(ax, f"{gb:.2f} GB" if gb < 1 else f"{gb:.1f} GB", gb, y, fontsize=10)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    about = rows.iloc[0]
    size = f"{about['vocab']:,} entries of the vocabulary and {about['tokens']:,} tokens"
    ax.set(xlabel=f"extra memory (GB), at {size}", xlim=(0, 1.15 * rows["gb"].max()))
    message(fig, _chunks_save(rows), "The memory that the distillation loss needs")
    return fig
