"""Figures of notebook 08: bits and memory."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..course import results
from .drawing import (
    Rows,
    again,
    bar_look,
    color,
    figure,
    ink,
    legend_above,
    number,
    only_ticks,
    panels,
    paper,
    seeds,
    upright,
)

MINI_NLI = Rows("MiniNLI, synthetic", "real MNLI rows")
BOTH = Rows("MiniNLI and MiniParl, synthetic", "real MNLI rows")

# Ticks in MB: of these, those that a panel reaches.
SIZES = (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 40, 50, 70, 100, 200, 400)


def plane_rows(
    student: str, used, few_bits: dict, translator: str, translators: list[dict]
) -> pd.DataFrame:
    """What `quantisation_plane` draws, of notebook 08's three tables.

    used: torchao's methods, of which those of `student` are drawn. few_bits: {name of a grid:
    (megabytes, accuracy)} of the same student. translator: its name. translators: one dict a way to
    store it.
    """
    own = used[(used["model"] == student) & (used["method"] != "fp16")]
    measures = list(own[["method", "mb_packed", "accuracy"]].itertuples(index=False, name=None))
    measures += [(name, *measured) for name, measured in few_bits.items()]
    rows = [(f"{student}, accuracy", *measured, "accuracy (%)") for measured in measures]
    for row in translators:
        rows.append((f"{translator}, BLEU", row["name"], row["mb"], row["bleu"], "BLEU"))
    table = pd.DataFrame(rows, columns=["model", "method", "megabytes", "quality", "measure"])
    table.insert(2, "one_scale", table["method"].str.contains("one step"))
    return table


def on_real_rows(records: list[dict]) -> str:
    """Notebook 08's three places in its stored runs on real MNLI rows, as text."""

    def table(runs, by, digits):
        summary = results.summary(runs, by, digits, scale=1)
        return summary.drop(columns="runs").to_string(index=False)

    about = records[0]["settings"]
    used = results.listed(records, "in_use")
    # In one run, for runs met busier and idler machines.
    fastest = used.groupby(["seed", "model"])["ms"].transform("first")
    used["ms / fp32's"] = used["ms"] / fastest
    plane = results.listed(records, "plane")
    rough = plane[plane["model"].str.startswith("MNLI") & plane["method"].str.contains("bits,")]
    teachers, few_bits = (results.listed(records, name) for name in ("teachers", "few_bits"))
    sizes = {"kl": 4, "accuracy": 2, "mb_packed": 2, "ms / fp32's": 2}
    return "\n".join(
        [
            f"real MNLI: {about['train_rows']:,} training rows, {about['validation_rows']:,} "
            f"validation rows, {about['epochs']} epoch; {len(records)} seed(s)",
            "\nplace 1, a quantised teacher",
            table(teachers, ["teacher"], {"teacher_accuracy": 1, "student": 1}),
            "\nplace 2, quantised for use",
            table(used, ["model", "method"], sizes),
            table(rough, ["method"], {"quality": 1}),
            f"\nplace 3, {about['bits']} bits, groups of {about['group']}",
            table(few_bits, ["student"], {"accuracy": 1}),
        ]
    )


def _mark(one_scale: bool) -> dict:
    """Filled circles for scales of a row or a group, open squares for one scale a matrix."""
    i = int(one_scale)
    face = paper() if one_scale else color(0)
    return dict(marker="os"[i], color=color(i), markerfacecolor=face, linestyle="none")


def _plane_labels(ax, mean, gap: float) -> float:
    """A mark and a name for each method; the height of the lowest name.

    The names stand in a column at the right, from the top down, so that none covers another.
    """
    column, lowest = mean["megabytes"].max() * 1.4, np.inf
    arrow = dict(arrowstyle="-", color="gray", linewidth=0.5, shrinkB=4, relpos=(0, 0.5))
    order = mean.sort_values(["quality", "megabytes"], ascending=False)
    for row in order.to_dict("records"):
        place = (row["megabytes"], row["quality"])
        ax.plot(*place, **_mark(row["one_scale"]), markersize=7)
        lowest = min(row["quality"], lowest - gap)
        name = ax.annotate(
            row["method"],
            place,
            (column, lowest),
            textcoords="data",
            va="center",
            fontsize=8.5,
            color=color(int(row["one_scale"])),
            arrowprops=arrow,
        )
        name.set_in_layout(False)
    return lowest


@figure(
    "08_limits",
    "Quantisation: MiniNLI (synthetic)",
    BOTH,
    alt="""The quantisation plane, a panel a model: quality against the size of its weights, packed,
    on a logarithmic axis, each point with its method's name. Filled circles: scales for a row or a
    group of weights; open squares: one scale for a whole matrix; a dashed line: quality in 32 bits.
    Down to 4 bits all points lie near the line; below, those with one scale fall off first.""",
)
def quantisation_plane(table):
    """columns: model, method, one_scale (True: a whole matrix shares a scale), megabytes, quality,
    measure ("accuracy (%)", "BLEU")
    """
    fig, parts = panels(table, "model", 4.3, 3.9)
    columns = ["megabytes", "quality"]
    for ax, model, part in parts:
        mean = part.groupby(["method", "one_scale"], sort=False)[columns].mean().reset_index()
        quality, megabytes = mean["quality"], mean["megabytes"]
        gap = 0.062 * max(4.0, np.ptp(quality))
        lowest = _plane_labels(ax, mean, gap)
        smallest, largest = megabytes.min(), megabytes.max()
        left = smallest / 1.2
        whole = quality[mean["method"] == "fp32"].mean()
        ax.plot([left, largest], [whole] * 2, color=ink(), linestyle="--", linewidth=0.8)
        ax.set_xscale("log")
        ax.set(
            title=model,
            xlabel="MB of weights, packed",
            ylabel=part["measure"].iloc[0],
            xlim=(left, largest * (largest / smallest) ** 2),
            ylim=(min(quality.min(), lowest) - gap, quality.max() + 1.5 * gap),
        )
        ticks = [size for size in SIZES if left <= size <= largest * 1.1]
        only_ticks(ax.xaxis, ticks, [f"{size:g}" for size in ticks])
    first = fig.axes[0]
    first.plot([], [], **_mark(False), label="a step a row or a group")
    first.plot([], [], **_mark(True), label="one step a matrix")
    fig.legend(
        fontsize=8.5, ncols=2, loc="outside upper center", columnspacing=1, handletextpad=0.3
    )
    return fig


quantisation_plane_mnli = again(
    quantisation_plane,
    "quantisation_plane_mnli",
    "08_limits",
    "Quantisation: MNLI",
    "real MNLI rows; MiniParl, synthetic",
    """Quantisation on real MNLI rows, a panel a model: validation accuracy against the size of the
    weights, packed, on a logarithmic axis, each point with its method's name. Filled circles:
    scales for a row or a group of weights; open squares: one scale for a whole matrix; a dashed
    line: accuracy in 32 bits. One run.""",
    file="lab",
)


@figure(
    "08_limits",
    "Which layers break first",
    BOTH,
    alt="""Which layers break first: one kind of layer at a time with few bits and one scale a
    matrix, all others in floats; a bar for the KL from the model in floats to the rounded one, on a
    logarithmic axis, a panel a model, two bars a kind. At the right of a name: its share of the
    parameters.""",
)
def layer_sensitivity(table):
    """columns: model, kind, bits, kl (nats), share (of the parameters)"""
    fig, parts = panels(table, "model", 4.9, 3.6)
    floor = max(table["kl"].min(), 1e-6) / 2
    for ax, model, part in parts:
        kinds = part.groupby("kind")
        order = kinds["kl"].max().sort_values(ascending=False).index
        for i, (bits, some) in enumerate(part.groupby("bits", sort=True)):
            values = some.groupby("kind")["kl"].mean().reindex(order)
            places = np.arange(len(order)) + (i - 0.5) * 0.38
            label = f"{bits} bits"
            ax.barh(places, values - floor, 0.36, floor, **bar_look(i % 3), label=label)
            for y, value in zip(places, values):
                told = f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}"
                number(ax, told, value, y, 4, fontsize=8, color=color(i))
        share = kinds["share"].mean()
        ax.set_yticks(range(len(order)), [f"{kind} ({share[kind]:.0%})" for kind in order])
        ax.set(title=model, xscale="log", xlabel="KL to the floats (nats)")
        ax.set_xlim(floor, table["kl"].max() * 5)
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    legend_above(fig.axes[0], y=1.08)
    return fig


@figure(
    "08_limits",
    "Training on the grid",
    MINI_NLI,
    alt="""Students with weights of a few bits, a row each: grey dots are seeds, the marker is their
    mean with a bar of one standard deviation; the dashed line is the same student in 32 bits.
    Rounding after training loses most; training on the grid brings most of it back.""",
)
def into_few_bits(table):
    """columns: student, seed, accuracy (%), floats (accuracy of the student in floats, %)"""
    fig, ax = plt.subplots(figsize=(7.2, 0.5 * table["student"].nunique() + 1.1))
    seeds(ax, table, "student", "accuracy")
    floats = table["floats"].mean()
    upright(ax, floats, label=f"in 32 bits {floats:.1f}")
    ax.set_xlabel("validation accuracy (%)")
    legend_above(ax, 1)
    return fig


PARTS = ("weights", "teacher", "optimiser", "gradients", "activations", "logits")


@figure(
    "08_limits",
    "Memory: which GPU fits",
    "an estimate",
    alt="""Memory of one training step, Llama-3.2 3B to 1B, as stacked bars, a bar a recipe; each
    recipe adds one saving to the one above it. The number at a bar's end is the largest moment of a
    step, marked by a black line. Vertical dotted lines are the memory of GPUs.""",
)
def memory_bars(table):
    """columns: gpu, gpu_gb, recipe, weights, gradients, optimiser, activations, logits, teacher,
    total (GB; `doctor.plan`)
    """
    recipes = table.drop_duplicates("recipe").set_index("recipe")
    fig, ax = plt.subplots(figsize=(9, 0.5 * len(recipes) + 1.6))
    left = np.zeros(len(recipes))
    for i, part in enumerate(PARTS):
        ax.barh(recipes.index, recipes[part], 0.7, left, **bar_look(i), label=part)
        left += recipes[part].to_numpy()
    patch = dict(boxstyle="round,pad=0.1", facecolor=paper(), edgecolor="none")
    for y, (total, end) in enumerate(zip(recipes["total"], left)):
        ax.plot([total] * 2, [y - 0.42, y + 0.42], color=ink(), linewidth=2)
        number(ax, f"{total:.1f} GB", max(total, end), y, fontsize=9, bbox=patch)
    cards = table.drop_duplicates("gpu").sort_values("gpu").groupby("gpu_gb")["gpu"]
    for gb, names in cards:
        if gb < 1.25 * left.max():
            upright(ax, gb, ":")
            ax.text(gb, -0.75, "\n".join(names), ha="center", va="bottom", fontsize=8.5)
    ax.set(xlabel="GB", ylim=(len(recipes) - 0.4, -0.6), xlim=(0, 1.12 * left.max()))
    ax.grid(axis="y", visible=False)
    ax.legend(
        ncols=6,
        fontsize=8.5,
        loc="upper center",
        bbox_to_anchor=(0.42, -0.16),
        columnspacing=1,
        handlelength=1.5,
    )
    return fig
