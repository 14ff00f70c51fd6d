"""Figures for the lecture room, each with its message as a title: the loss by hand, rounding on a
number line, the shift and the mask, a run-on translation, a job in pieces, and where KD gains.
"""

import math
import textwrap

import matplotlib.patches
import numpy as np
import pandas as pd

from ..course import findings
from ..course.stored import Missing
from .drawing import Rows, color, figure, ink, message, middle, paper, plt, upright
from .looks import color_of

T, ALPHA = 2.0, 0.5  # of the loss by hand: notebook 03 has the same numbers
CLASSES = ["A", "B", "C"]
WEIGHTS = "bert.encoder.layer.0.intermediate.dense.weight"
GROUP, BITS = 32, 3
# Special tokens in a box of eight letters.
SHORT = {"<|end_of_translation|>": "<end>", "<|eot_id|>": "<eot>", "<|end_header_id|>": "<header>"}
HOURS = 8  # of a job on the lecture's cluster


def blank(width: float = 7.2, height: float = 3.6):
    """(figure, axes without frame and ticks)."""
    fig, ax = plt.subplots(figsize=(width, height))
    ax.set_axis_off()
    return fig, ax


# -- 03 · one row, from logits to the loss --------------------------------------------------------


def _by_hand(stored):
    """The loss of one row, line by line: the teacher of notebook 02, a student that knows
    nothing.
    """
    table = stored.table("02_temperature", "softening")
    teacher = table[table["T"] == 1].set_index("class")["probability"][CLASSES].to_numpy()
    logits = np.log(teacher / teacher[-1])
    p = np.exp(logits / T) / np.exp(logits / T).sum()
    q = np.full(len(p), 1 / len(p))
    kl = p * np.log(p / q)
    hard = -math.log(q[0])
    soft = T**2 * kl.sum()
    total = ALPHA * soft + (1 - ALPHA) * hard
    lines = [
        ("teacher's logits", logits, np.nan),
        (f"divided by T = {T:g}", logits / T, np.nan),
        ("softmax: p", p, 1.0),
        ("student: q", q, 1.0),
        ("p · log(p / q): KL", kl, kl.sum()),
        (f"soft loss: T² · KL = {T**2:g} · KL", [np.nan] * 3, soft),
        ("hard loss: −log q(A), label A", [hard, np.nan, np.nan], hard),
        (f"{ALPHA:g} · soft + {1 - ALPHA:g} · hard", [np.nan] * 3, total),
    ]
    columns = ["line", *CLASSES, "sum"]
    return pd.DataFrame([[name, *values, end] for name, values, end in lines], columns=columns)


@figure(
    "03_distillation_loss",
    "The loss of one row, by hand",
    "",
    alt="""A table of one row of the loss, by hand, with a column for each of three classes and one
    for the sum: the teacher's logits, the logits divided by T = 2, their softmax p, the student's
    answer q of one third each, the terms p log(p / q) of the KL, the soft loss T² KL, the hard loss
    of label A, and the total at alpha = 0.5.""",
    data=_by_hand,
)
def worked_row(table):
    """columns: line, A, B, C, sum"""
    fig, ax = blank()
    places = [0.56, 0.69, 0.82, 0.95]
    ax.set(xlim=(0, 1), ylim=(len(table) - 0.4, -1.5))
    for x, name in zip(places, [*CLASSES, "sum"]):
        ax.text(x, -1, name, ha="right", va="center", fontsize=12, weight="bold")
    for y, line in enumerate(table.to_dict("records")):
        weight = "bold" if y == len(table) - 1 else "normal"
        ax.text(0, y, line["line"], va="center", fontsize=11.5, weight=weight)
        for x, name in zip(places, [*CLASSES, "sum"]):
            if not np.isnan(line[name]):
                shown = f"{line[name]:.3f}".replace("-", "−")
                ax.text(x, y, shown, ha="right", va="center", fontsize=11.5, weight=weight)
    for y in (-0.5, 1.5, 4.5, 6.5):
        ax.plot([0, 0.96], [y, y], color=ink(), linewidth=0.6, alpha=0.5)
    total, soft = table["sum"].iloc[-1], table["sum"].iloc[-3]
    hard = table["sum"].iloc[-2]
    message(fig, f"By hand: L = {ALPHA:g} · {soft:.2f} + {1 - ALPHA:g} · {hard:.2f} = {total:.2f}")
    return fig


# -- 04 · where KD gains --------------------------------------------------------------------------


def _gains(stored):
    """KD minus labels only, a row a corpus, with its interval over seeds."""
    evidence, _ = findings.judge(stored=stored)
    rows = evidence[(evidence["id"] == "powerful") & (evidence["what"] == "KD − labels only")]
    if rows["mean"].isna().any():
        raise Missing("; ".join(sorted(set(rows["missing"]) - {""})))
    return rows[["corpus", "real", "mean", "low", "high", "n"]].reset_index(drop=True)


@figure(
    "04_distilbert_mnli",
    "KD minus labels only",
    "",
    alt="""A row a corpus: the points of accuracy that KD gains over the same student on labels
    alone, a dot for the mean and a line for the 95 per cent interval over seeds; filled dots are
    real rows, hollow ones synthetic. A vertical line marks 0.""",
    data=_gains,
)
def gains(table):
    """columns: corpus, real, mean, low, high, n"""
    fig, ax = plt.subplots(figsize=(7.2, 3.2))
    names = []
    for y, row in enumerate(table.to_dict("records")):
        shade = color_of("kd")
        face = shade if row["real"] else paper()
        ax.plot([row["low"], row["high"]], [y, y], color=shade, linewidth=2)
        ax.plot(row["mean"], y, "o", color=shade, markerfacecolor=face, markersize=9)
        shown = f"{row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]".replace("-", "−")
        number = ax.text(row["mean"], y - 0.16, shown, ha="center", va="bottom", fontsize=10)
        number.set_bbox({"facecolor": paper(), "edgecolor": "none", "pad": 1})
        kind = "real rows" if row["real"] else "synthetic"
        names.append(f"{row['corpus']}, {kind}\n{row['n']:.0f} seeds")
    upright(ax, 0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.6)
    ax.set_xlabel("points of accuracy over labels only (mean, 95 % interval over seeds)")
    shown = int((table["low"] > 0).sum())
    message(fig, f"KD minus labels alone: above 0 over seeds on {shown} of {len(table)} corpora")
    return fig


# -- 06 · the shift, the mask, the end ------------------------------------------------------------


def _seam(stored):
    """The tokens around the place where the target begins, and the last ones."""
    table = stored.table("06_eurollama_prompt", "prompt_legend")
    first = int(table["learnt"].to_numpy().argmax())
    near = table.iloc[first - 2 : first + 3].assign(place=range(first - 2, first + 3))
    last = table.iloc[-3:].assign(place=range(len(table) - 3, len(table)))
    shown = pd.concat([near, last])[["place", "token", "learnt"]].reset_index(drop=True)
    return shown.assign(masked=int((~table["learnt"]).sum()), tokens=len(table))


@figure(
    "06_eurollama_prompt",
    "The shift and the mask",
    Rows("MiniParl, synthetic"),
    alt="""Two rows of tokens, one above the other: what the model reads, and the labels. An arrow
    leads from each token that is read to the label of the next place, which it must predict. The
    prompt's labels are minus 100 and are not learnt; the target's are its own tokens, with the end
    token.""",
    data=_seam,
)
def shift_and_mask(table):
    """columns: place, token, learnt, masked, tokens"""
    fig, ax = blank(7.2, 3.3)
    gap = table["place"].diff().fillna(1).gt(1).cumsum()  # a column is left free at the dots
    places = np.arange(len(table)) + 0.6 * gap.to_numpy()
    for x, row in zip(places, table.to_dict("records")):
        name = row["token"].replace("\n", "↵")
        name = SHORT.get(name, name)
        name = name if len(name) <= 8 else name[:6] + "…"
        _cell(ax, x, 1, name, "#E3E8EF" if not row["learnt"] else "#CFEBDF")
        label = name if row["learnt"] else "−100"
        _cell(ax, x, 0, label, "#F3F3F3" if not row["learnt"] else "#CFEBDF", row["learnt"])
    for x, following, row in zip(places, places[1:], table.iloc[1:].to_dict("records")):
        if following - x > 1.01:
            middle(ax, (x + following) / 2, 0.5, "…", 16)
            continue
        looks = {"color": color(0) if row["learnt"] else "#999999", "linewidth": 1.8}
        arrow = {"arrowstyle": "->", **looks}
        ax.annotate("", (following - 0.1, 0.24), (x + 0.05, 0.76), arrowprops=arrow)
    for y, name in ((1, "read"), (0, "label")):
        ax.text(-0.62, y, name, ha="right", va="center", fontsize=11, weight="bold")
    ax.set(xlim=(-1.5, places[-1] + 0.6), ylim=(-0.5, 1.5))
    masked, tokens = table["masked"].iloc[0], table["tokens"].iloc[0]
    message(
        fig,
        f"Each place predicts the next token; {masked} of {tokens} labels are −100",
    )
    return fig


def _cell(ax, x, y, text, face, bold=False) -> None:
    """A token in a box of one column."""
    box = matplotlib.patches.Rectangle((x - 0.46, y - 0.2), 0.92, 0.4)
    box.set(facecolor=face, edgecolor="#555555", linewidth=2 if bold else 0.8)
    ax.add_patch(box)
    weight = "bold" if bold else "normal"
    middle(ax, x, y, text, 9.8, color="black", weight=weight, parse_math=False)


def _run_on(stored):
    """The stored example of a model that never learned an end, cut where the reference ends."""
    for record in stored.records("06_eurollama_prompt"):
        example = record["results"].get("example", {})
        said, reference = example.get("the model", ""), example.get("reference", "")
        if reference and said.startswith(reference) and len(said) > len(reference):
            more = said[len(reference) :].strip()
            recipes = pd.DataFrame(record["results"]["recipes"]).set_index("name")["ended"]
            return pd.DataFrame(
                {
                    "part": ["source", "reference", "run on"],
                    "text": [example["source"], reference, more],
                    "ended": [np.nan, recipes["right"], recipes["no end token"]],
                }
            )
    raise Missing("no record of notebook 06 keeps a run-on translation that begins well")


@figure(
    "06_eurollama_prompt",
    "A translation that does not end",
    Rows("MiniParl, synthetic"),
    alt="""One sentence and its translation as text. A model that never learned an end token
    translates the sentence as the reference does, in one colour, and then goes on, in another,
    with words that belong to no sentence. Below, the share of generations that end by themselves,
    with an end token and without.""",
    data=_run_on,
)
def run_on(table):
    """columns: part, text, ended"""
    fig, ax = blank()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    text = table.set_index("part")["text"]
    ended = table.set_index("part")["ended"]
    blocks = [
        ("source", text["source"], ink()),
        ("right: here it should stop", text["reference"], color(0)),
        ("and it goes on", text["run on"], color(1)),
    ]
    y = 0.98
    for head, words, shade in blocks:
        ax.text(0, y, head, va="top", fontsize=10, weight="bold", alpha=0.7)
        lines = textwrap.wrap(words, 70)[:4]
        ax.text(0, y - 0.075, "\n".join(lines), va="top", fontsize=12, color=shade)
        y -= 0.13 + 0.088 * len(lines)
    shares = f"with an end token {100 * ended['reference']:.0f} % of the generations end by "
    shares += f"themselves, without it {100 * ended['run on']:.0f} %"
    ax.text(0, 0.0, shares, va="bottom", fontsize=11)
    words = len(text["run on"].split())
    message(fig, f"Right up to the full stop, and then {words} words too many")
    return fig


# -- 08 · rounding, and a job in pieces ------------------------------------------------------------


def _rounded(stored):
    """One group of a teacher's weights: with one scale for the matrix, and with its own."""
    from safetensors.numpy import load_file

    weights = load_file(stored.file("teachers/mini_nli/model.safetensors"))[WEIGHTS]
    steps = 2 ** (BITS - 1) - 1
    whole = np.abs(weights).max() / steps
    groups = weights.reshape(-1, GROUP)
    own = np.abs(groups).max(axis=1, keepdims=True) / steps
    # the median group: neither the one that suffers most nor the one with the outlier
    chosen = int(np.argsort(own[:, 0])[len(own) // 2])
    group, scale = groups[chosen], own[chosen, 0]
    return pd.DataFrame(
        {
            "weight": group,
            "one scale": np.clip(np.round(group / whole), -steps, steps) * whole,
            "own scale": np.clip(np.round(group / scale), -steps, steps) * scale,
            "step": whole,
            "own step": scale,
        }
    )


@figure(
    "08_limits",
    "Rounding on a number line",
    "weights of a teacher on MiniNLI, synthetic",
    alt="""Two number lines with the same 32 weights of one group as ticks: above, the few grid
    points of 3 bits when the whole matrix shares one scale; below, those when the group has a scale
    of its own. Lines lead from each weight to the grid point that it is rounded to. Above more
    weights go to 0 than below.""",
    data=_rounded,
)
def number_line(table):
    """columns: weight, one scale, own scale, step, own step"""
    fig, ax = blank(7.2, 3.3)
    widest = 1.1 * table[["weight", "one scale", "own scale"]].abs().max().max()
    lines = (
        (1.0, "one scale", "step", "one scale for the whole matrix"),
        (0.0, "own scale", "own step", "a scale for these 32 weights"),
    )
    steps = 2 ** (BITS - 1) - 1
    for i, (y, column, step, name) in enumerate(lines):
        ax.plot([-widest, widest], [y, y], color=ink(), linewidth=0.8)
        grid = np.arange(-steps, steps + 1) * table[step].iloc[0]
        grid = grid[np.abs(grid) <= widest]
        ax.plot(grid, [y] * len(grid), "o", color=color(1 - i), markersize=11)
        for weight, rounded in zip(table["weight"], table[column]):
            ax.plot([weight, rounded], [y + 0.42, y], color=color(1 - i), linewidth=0.9, alpha=0.6)
            ax.plot([weight, weight], [y + 0.42, y + 0.5], color=ink(), linewidth=1.2)
        zeros = int((table[column] == 0).sum())
        ax.text(-widest, y + 0.6, f"{name}: {zeros} of {len(table)} become 0", fontsize=11)
        for value in grid:
            middle(ax, value, y - 0.16, f"{value:.2f}".replace("-", "−"), 9.8)
    ax.set(xlim=(-1.03 * widest, 1.03 * widest), ylim=(-0.3, 1.75))
    zeros = (table[["one scale", "own scale"]] == 0).sum()
    message(
        fig,
        f"{BITS} bits with one scale a matrix set {zeros['one scale']} of {len(table)} weights "
        f"to 0, with a scale a group {zeros['own scale']}",
    )
    return fig


def _jobs(stored):
    """The jobs that a training needs when one of 8 hours reaches a share of its data."""
    share = stored.lecture()["eurollama"]["share_of_data_in_8_hours"]
    count = math.ceil(1 / share)
    reached = [min(1.0, share * (i + 1)) for i in range(count)]
    hours = [HOURS] * (count - 1) + [HOURS * (1 - share * (count - 1)) / share]
    return pd.DataFrame({"job": range(1, count + 1), "hours": hours, "reached": reached})


@figure(
    "08_limits",
    "A training in pieces of 8 hours",
    "the lecture's throughput",
    alt="""A timeline of one training under a limit of 8 hours a job: a bar for each job, one below
    the other and each further to the right; at the end of a bar a checkpoint, from which the
    requeued job goes on. Each bar says what share of the data is reached at its end.""",
    data=_jobs,
)
def batch_timeline(table):
    """columns: job, hours, reached"""
    fig, ax = plt.subplots(figsize=(7.2, 3.2))
    starts = table["hours"].cumsum() - table["hours"]
    last = len(table) - 1
    for y, (start, row) in enumerate(zip(starts, table.to_dict("records"))):
        end = start + row["hours"]
        ax.barh(y, row["hours"], left=start, height=0.5, color=color(0), alpha=0.85)
        middle(ax, (start + end) / 2, y, f"job {row['job']:.0f}", 11, color="white")
        done = f"{100 * row['reached']:.0f} % of the data"
        done += "" if y == last else ": checkpoint, requeue"
        left = end + 0.8 if y < last else start - 0.6
        side = "left" if y < last else "right"
        ax.text(left, y, done, va="center", ha=side, fontsize=11)
        if y < last:
            ax.plot(end, y, "D", color=color(1), markersize=9)
            ax.plot([end, end], [y + 0.1, y + 0.75], color=color(1), linestyle=":", linewidth=2)
    ax.set_ylim(last + 0.6, -0.6)
    ax.set_yticks([])
    ax.set_xlim(0, table["hours"].sum() * 1.6)  # the words need room at the right
    ax.set_xticks(range(0, math.ceil(table["hours"].sum()) + 1, HOURS))
    ax.set_xlabel("hours of computing (the wait in the queue comes on top)")
    share = 100 * table["reached"].iloc[0]
    message(
        fig, f"{HOURS} hours reach {share:.0f} % of the data, so one pass takes {len(table)} jobs"
    )
    return fig
