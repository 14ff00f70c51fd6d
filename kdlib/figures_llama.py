"""Figures of notebooks 06 and 07: EuroLlama."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .drawing import COLORS, LINES, MARKERS, dots, figure, grid, ink, seeds, spread


# -- 06 · EuroLlama: the prompt ---------------------------------------------------------------------------------------

PART_LOOKS = {"prompt": ("#E6ECF2", "#5A6B7B", ":"), "source": ("#FBE3CF", "#B04A00", "--"), "target": ("#CFEBDF", "#00694D", "-")}


@figure("06_eurollama_prompt", alt="""One training text, token by token in boxes: the prompt (grey-blue, dotted edge), the source text to translate (orange,
    dashed edge) and the target, which is the translation with its end token (green, solid edge). Tokens that are learnt are bold
    with a thick edge: they are those of the target.""")
def prompt_legend(table):
    """columns: token, part ("prompt", "source", "target"), learnt"""
    wide, x, y, boxes = 80, 0.0, 0, []                        # letters in a line: what a slide holds at 18 points
    for row in table.to_dict("records"):
        shown = row["token"].replace("\n", "↵").strip() or "␣"
        if x + len(shown) > wide:
            x, y = 0.0, y + 1
        boxes.append((x, y, shown, row["part"], row["learnt"]))
        x += len(shown) + 0.7
        if "\n" in row["token"]:
            x, y = 0.0, y + 1
    fig, ax = plt.subplots(figsize=(8, 0.3 * (y + 2.6)))
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
        told = f" {part}: {len(of)} tokens{', learnt' if len(of) and of['learnt'].all() else ''} "
        token(left, -1.2, told, part, bool(len(of)) and bool(of["learnt"].all()))
        left += len(told) + 2
    for box in boxes:
        token(*box)
    return fig


@figure("06_eurollama_prompt", alt="""Seven recipes for the end of a translation, a row each. Left: the share of generations that end by themselves. Right:
    BLEU of the whole generations (circles) and of the same texts cut after their first full stop (squares). Where the end is never
    learnt, no generation ends, and the whole texts score far lower than their first sentences.""")
def end_recipes(table):
    """columns: name, seed, ended (share), bleu, bleu_first"""
    order = list(dict.fromkeys(table["name"]))
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 0.42 * len(order) + 1.2), sharey=True)
    dots(left, table, order, "ended", 2, 100, "{:.0f} %")
    left.set(xlabel="ends by itself (%)", xlim=(-5, 140))
    left.set_xticks(range(0, 101, 50))
    dots(right, table, order, "bleu", 0, shift=-0.14, label="whole text")
    dots(right, table, order, "bleu_first", 1, shift=0.18, label="first sentence")
    right.set(xlabel="BLEU", xlim=(-2, 1.3 * max(10, table[["bleu", "bleu_first"]].max().max())))
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
    ax.axhline(1 / table["words"].iloc[0], color=ink(), linestyle=":", linewidth=1)
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
    left.plot(expected, np.arange(len(order)) + 0.22, "x", color=ink(), markersize=7, markeredgewidth=1.5, label="theory, T = 1")
    dots(left, table, order, "p_end", 0, fmt="{:.2f}", shift=-0.12, label="measured")
    left.set(xlabel="p(end) at the end", xlim=(-0.05, 1.35))
    left.set_xticks([0, 0.5, 1])
    left.legend(fontsize=8.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    dots(right, table, order, "ended", 2, 100, "{:.0f} %")
    right.set(xlabel="ends by itself (%)", xlim=(-5, 150))
    right.set_xticks(range(0, 101, 50))
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
        ax.text(j, i, f"{value:.2f}" if value >= 0.005 else "0", ha="center", va="center", fontsize=8.5, rotation=90 if len(words) > 14 else 0, color="white" if value > 0.2 else "black")
    ax.set_xticks(range(len(words)), [w.replace("<|end_of_translation|>", "⟨end⟩").replace("<|eot_id|>", "⟨eot⟩") for w in words], rotation=90 if len(words) > 14 else 45, ha="center" if len(words) > 14 else "right")
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
    seeds(ax, table, "told", "bleu")
    for value, name, line in ((table["teacher_bleu"].mean(), "teacher", "--"), (table["cap"].mean() if table["cap"].notna().any() else np.nan, "cap, the grammar's likeliest words", ":")):
        if np.isfinite(value):
            ax.axvline(value, color=ink(), linestyle=line, linewidth=1, label=f"{name} {value:.1f}")
    ax.set_xlabel("BLEU on test (dots: seeds; bars: mean ± sd)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return fig


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


def _rates(stored):
    """BLEU and COMET by learning rate: the lecture's, and our students' on the stand-in and on Europarl."""
    rows = [{"who": "lecture, Europarl", "learning_rate": row["learning_rate"], "bleu": row["bleu"], "comet": row["comet"]} for row in stored.lecture()["eurollama"]["learning_rates"]]
    for corpus, file in (("MiniParl (synthetic)", "laptop"), ("Europarl, tiny models", "lab")):
        for r in stored.records("07_eurollama_distil", file):
            s = r["settings"]
            if s["method"] == "kd" and s["targets"] == "references":
                rows.append({"who": corpus if file == "lab" else "MiniParl (synthetic), " + (f"LoRA {s['lora_rank']}" if s["lora_rank"] else "all weights"),
                             "learning_rate": s["learning_rate"], "seed": r["seed"], "bleu": r["results"]["bleu"], "comet": r["results"]["comet"],
                             "teacher_bleu": r["results"]["teacher_bleu"]})
    return pd.DataFrame(rows)


@figure("07_eurollama_distil", alt="""A table: BLEU and COMET of distilled translators by learning rate, as the lecture reports them, beside our students on the synthetic MiniParl (all weights, and
    LoRA) and tiny models on real Europarl, each with its teacher's BLEU. On MiniParl the largest rate is best in both columns. On Europarl the tiny teacher itself has a BLEU of 1.4: its
    students cannot learn to translate from it. Scores of different corpora cannot be compared.""", data=_rates)
def eurollama_rates(table):
    """columns: who, learning_rate (NaN: before training), seed, bleu, comet (NaN: not computed), teacher_bleu (NaN: not told)"""
    rows, rules = [], []
    for who, part in table.groupby("who", sort=False):
        for i, (rate, runs) in enumerate(sorted(part.fillna({"learning_rate": 9.0}).groupby("learning_rate"), reverse=True)):
            rows.append([who if i == 0 else "", "base" if rate == 9 else f"{rate:.0e}".replace("e-0", "e-"), spread(runs["bleu"]), spread(runs["comet"], digits=2), str(len(runs))])
        if part["teacher_bleu"].notna().any():                       # a student of a teacher that cannot translate proves nothing about KD
            rows.append(["", "teacher", f"{part['teacher_bleu'].mean():.1f}", "–", ""])
        rules.append(len(rows))
    return grid(["student, distilled", "rate", "BLEU", "COMET", "runs"], rows, [0, 0.47, 0.63, 0.81, 0.94], rules)


def _examples(stored):
    """The first three test sentences that the students of seed 0 with and without KD translate differently, all texts short enough for a line."""
    pairs = pd.read_parquet(stored.file("miniparl/test-00000-of-00001.parquet"))["translation"]
    runs = {(s["method"], s["learning_rate"]): r["results"]["texts"] for r in stored.records("07_eurollama_distil", "laptop")
            if (s := r["settings"])["targets"] == "references" and not s["lora_rank"] and r["seed"] == 0}
    top = max(rate for _, rate in runs)
    told = {"labels only": runs["ce", top], "KD": runs["kd", top], "KD, rate / 100": runs["kd", min(rate for _, rate in runs)]}
    picked = [i for i, (a, b) in enumerate(zip(told["labels only"], told["KD"])) if a != b and max(map(len, (*pairs[i].values(), *(texts[i] for texts in told.values())))) <= 70][:3]
    return pd.DataFrame([{"sentence": i, "who": who, "text": text} for i in picked for who, text in (
        ("source", pairs[i]["en"]), ("reference", pairs[i]["fr"]), *((who, texts[i]) for who, texts in told.items()))])


@figure("07_eurollama_distil", alt="""Three test sentences of MiniParl (synthetic) with their reference and what three students say: one trained on labels only, one with KD, and one with KD at a hundredth of
    the learning rate. They are the first three short sentences that the first two students translate differently.""", data=_examples)
def translations(table):
    """columns: sentence, who, text"""
    rows, rules = [], []
    for _, part in table.groupby("sentence", sort=False):
        rows += [[row["who"], row["text"]] for row in part.to_dict("records")]
        rules.append(len(rows))
    return grid(["", "MiniParl, synthetic; the same seed"], rows, [0, 0.2], rules[:-1])


@figure("07_eurollama_distil", alt="""What the distillation loss costs, four panels on logarithmic axes: memory above inputs, weights and gradients (top) and seconds
    (bottom), against the number of tokens at 128,256 words (left) and against the vocabulary at 1,024 tokens (right). Dots and solid line: in
    chunks; squares and dashed line: the plain way; small crosses: other libraries. Plain memory grows with both, that of the chunks stays.""",
        data=lambda stored: pd.DataFrame(stored.json("results/bench_vocab_loss.json")["rows"]))
def vocabulary_cost(table):
    """columns: name ("ours", "plain", other libraries and ways), tokens, vocab, width (of the student), extra (bytes), seconds_cpu"""
    table = table[table["width"] == table["width"].min()].assign(gb=table["extra"] / 1e9)
    most, usual = table["vocab"].max(), table.loc[table["name"] != "ours", "tokens"].mode().iloc[0]
    fig, axes = plt.subplots(2, 2, figsize=(9, 5.6), sharex="col", sharey="row")
    ways = {"plain": ("the plain way", "s", "--", COLORS[1]), "ours": ("in chunks", "o", "-", COLORS[0])}
    for j, (by, fixed, value) in enumerate((("tokens", "vocab", most), ("vocab", "tokens", usual))):
        part = table[table[fixed] == value].sort_values(by)
        for i, column in enumerate(("gb", "seconds_cpu")):
            ax = axes[i][j]
            others = part[~part["name"].isin(ways)]
            ax.plot(others[by], others[column], "x", color="gray", markersize=5, label="other libraries and ways")
            for name, (told, marker, line, colour) in ways.items():
                some = part[part["name"] == name]
                ax.plot(some[by], some[column], marker + ("" if isinstance(line, tuple) else line), color=colour, label=told)
            ax.set(xscale="log", yscale="log")
            ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
            ticks = sorted(part[by].unique())
            ax.set_xticks(ticks, [f"{t / 1000:.0f}k" if t >= 8000 else f"{t:,}" for t in ticks])
            ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes[1][j].set_xlabel(f"tokens, at {most:,} words" if by == "tokens" else f"words, at {usual:,} tokens")
    axes[0][0].set_ylabel("extra memory (GB)")
    axes[1][0].set_ylabel("processor seconds")
    fig.legend(*axes[0][0].get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside upper center")
    return fig
