"""Figures of notebook 08: bits and memory."""

import re

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
    message,
    name_rows,
    number,
    panels,
    paper,
    row_of_axes,
    seeds,
    upright,
)

MINI_NLI = Rows("MiniNLI, synthetic", "real MNLI rows")
BOTH = Rows("MiniNLI and MiniParl, synthetic", "real MNLI rows")


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


def _all_seeds(stored, file: str) -> pd.DataFrame:
    """The plane's rows of every stored seed, as far as a record keeps them.

    Some records keep all rows, others the formats of 8 and 16 bits alone; of the grids there is
    then the one table that a run drew.
    """
    drawn = stored.table("08_limits", "quantisation_plane", file)
    plane = stored.listed("08_limits", "plane", file)
    if len(plane):
        return plane.reset_index(drop=True)
    used = stored.listed("08_limits", "in_use", file)
    student = drawn["model"].iloc[0].removesuffix(", accuracy")
    kept = used[(used["model"] == student) & used["method"].isin(drawn["method"])]
    looks = {"one_scale": False, "measure": "accuracy (%)", "model": f"{student}, accuracy"}
    columns = {"mb_packed": "megabytes", "accuracy": "quality"}
    seeds_of = kept.rename(columns=columns).assign(**looks)
    once = ~(drawn["model"].eq(looks["model"]) & drawn["method"].isin(kept["method"]))
    own = drawn["model"] == looks["model"]
    parts = [seeds_of, drawn[once & own].assign(seed=0), drawn[~own].assign(seed=0)]
    return pd.concat(parts, ignore_index=True)[[*drawn.columns, "seed"]]


def _plane_here(stored):
    return _all_seeds(stored, "laptop")


def _plane_mnli(stored):
    return _all_seeds(stored, "lab")


BITS_OF = re.compile(r"(\d+) bits, (one|groups)|(int)(\d+) weight-only")


def _price_of_one_scale(table) -> str:
    """At the bits at which it matters most: what one scale a matrix costs, and one a group."""
    model = table["model"].iloc[0]
    means = table[table["model"] == model].groupby("method")["quality"].mean()
    lost = {}
    for method, quality in means.items():
        if found := BITS_OF.fullmatch(method) or BITS_OF.match(method):
            bits = int(found[1] or found[4])
            one = found[2] == "one"
            lost[bits, one] = means.get("fp32", np.nan) - quality
    pairs = {bits: (lost[bits, False], lost[bits, True])
             for bits, one in lost if one and (bits, False) in lost}  # fmt: skip
    if not pairs:
        return ""
    bits = max(pairs, key=lambda bits: pairs[bits][1] - pairs[bits][0])
    group, one = pairs[bits]
    if not one > group + 2:
        return ""
    in_groups = f"{max(group, 0):.1f} points with a scale a group"
    return f"{bits} bits cost {in_groups}, {one:.0f} with one scale a matrix"


@figure(
    "08_limits",
    "Quantisation: MiniNLI (synthetic)",
    BOTH,
    alt="""Quality by number format, a panel a model and a row a format, from 32 bits down to 2; the
    megabytes of the packed weights stand beside each name. Filled circles: a scale for a row or a
    group of weights; open squares: one scale for a whole matrix; a bar is one standard deviation
    over seeds, where there are several. A dashed line marks 32 bits. Down to 4 bits all marks lie
    near the line; below, those with one scale fall off first.""",
    data=_plane_here,
)
def quantisation_plane(table):
    """columns: model, method, one_scale (True: a whole matrix shares a scale), megabytes, quality,
    measure ("accuracy (%)", "BLEU"); seed, where there are several
    """
    models = list(table.groupby("model", sort=False))
    rows = max(part["method"].nunique() for _, part in models)
    fig, axes = row_of_axes(len(models), 4.3, 0.3 * rows + 1.6)
    for ax, (model, part) in zip(axes, models):
        by_method = part.groupby("method", sort=False)
        stats = by_method["quality"].agg(["mean", "std", "count"])
        megabytes, one_scale = by_method["megabytes"].mean(), by_method["one_scale"].first()
        for y, (method, (mean, sd, count)) in enumerate(stats.iterrows()):
            looks = _mark(one_scale[method])
            ax.errorbar(mean, y, xerr=np.nan_to_num(sd), **looks, capsize=3, markersize=7)
        if "fp32" in stats.index:
            upright(ax, stats["mean"]["fp32"])
        names = [f"{_format(name)} · {megabytes[name]:.2g} MB" for name in stats.index]
        name_rows(ax, names)
        seeds_of = f", {int(stats['count'].max())} seeds" if stats["count"].max() > 1 else ""
        own_seeds = "" if stats["std"].fillna(0).max() == 0 else seeds_of
        ax.set_title(model.split(",")[0] + own_seeds, fontsize=10)
        ax.set_xlabel(part["measure"].iloc[0])
        ax.grid(axis="y", visible=False)
    told = "8 bits and less: the embeddings\nstay in 32 bits"
    axes[0].set_xlabel(f"{axes[0].get_xlabel()}\n{told}")
    key = "● a scale a row or group\n□ one scale a matrix"
    axes[-1].set_xlabel(f"{axes[-1].get_xlabel()}\n{key}", loc="right")
    message(fig, _price_of_one_scale(table), "Quality by number format")
    return fig


def _format(method: str) -> str:
    return method.replace("one step", "one scale").replace("weight-only", "weights")


def _mark(one_scale: bool) -> dict:
    """Filled circles for scales of a row or a group, open squares for one scale a matrix."""
    i = int(one_scale)
    face = paper() if one_scale else color(0)
    return dict(marker="os"[i], color=color(i), markerfacecolor=face, linestyle="none")


quantisation_plane_mnli = again(
    quantisation_plane,
    "quantisation_plane_mnli",
    "08_limits",
    "Quantisation: MNLI",
    "real MNLI rows; MiniParl, synthetic",
    """Quality by number format, a panel a model and a row a format: validation accuracy of a
    student on real MNLI rows, mean and standard deviation over seeds, and BLEU of a translator.
    Filled circles: a scale for a row or a group of weights; open squares: one scale for a whole
    matrix; a dashed line marks 32 bits. The megabytes beside a name are large in 8 bits and less,
    for the embeddings stay in 32 bits.""",
    data=_plane_mnli,
)


def _first_to_break(table) -> str:
    """The kind of layer with the largest KL at the fewest bits, of each model."""
    fewest = table[table["bits"] == table["bits"].min()]
    worst = fewest.groupby(["model", "kind"])["kl"].mean().unstack().idxmax(axis=1)
    bits = f"{table['bits'].min():g} bits"
    if worst.nunique() == 1:
        which = "both models" if len(worst) == 2 else "this model"
        return f"At {bits} the {worst.iloc[0]} break first in {which}"
    told = [f"in the {model} {kind}" for model, kind in worst.items()]
    return f"At {bits} these break first: {', '.join(told)}"


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
    message(fig, _first_to_break(table), "Which layers bear few bits")
    return fig


def _brought_back(table) -> str:
    """What rounding costs, and what training on the grid with KD brings back."""
    means = table.groupby("student")["accuracy"].mean()
    rounded, kd = (
        means.get(name, np.nan) for name in ("rounded after training", "on the grid, KD")
    )
    lost, back = table["floats"].mean() - rounded, kd - rounded
    if not (lost > 1 and back > 0):
        return ""
    return f"Rounding costs {lost:.0f} points; training on the grid brings {back:.0f} of them back"


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
    message(fig, _brought_back(table), "Students with weights of a few bits")
    return fig


def _gb_saved(table) -> str:
    totals = table.drop_duplicates("recipe")["total"]
    smallest = table.drop_duplicates("gpu").sort_values("gpu_gb").iloc[0]
    if not totals.iloc[-1] < smallest["gpu_gb"] < totals.iloc[0]:
        return ""
    ends = f"{totals.iloc[0]:.0f} GB as written, {totals.iloc[-1]:.0f} with every saving"
    return f"Llama 3B → 1B: {ends}; a {smallest['gpu']} has {smallest['gpu_gb']:.0f}"


PARTS = ("weights", "teacher", "optimiser", "gradients", "activations", "logits")


@figure(
    "08_limits",
    "Memory: which GPU fits",
    "an estimate",
    alt="""Memory of one training step, Llama-3.2 3B to 1B, as stacked bars, a bar a recipe; each
    recipe adds one saving to the one above it. The number at a bar's end is the largest moment of a
    step, marked by a diamond. Vertical dotted lines are the memory of GPUs.""",
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
        # parts do not all live at the same moment: the peak may lie inside of its bar
        once = "peak" if y == 0 else None
        ax.plot(total, y, "D", color=ink(), markeredgecolor=paper(), markersize=8, label=once)
        number(ax, f"{total:.1f} GB", max(total, end), y, 8, fontsize=10, bbox=patch)
    cards = table.drop_duplicates("gpu").sort_values("gpu").groupby("gpu_gb")["gpu"]
    for gb, names in cards:
        if gb < 1.25 * left.max():
            upright(ax, gb, ":")
            told = f"{names.iloc[0]}\n{gb:.0f} GB"
            ax.text(gb, -0.75, told, ha="center", va="bottom", fontsize=8.5)
    ax.set(xlabel="GB", ylim=(len(recipes) - 0.4, -0.6), xlim=(0, 1.12 * left.max()))
    ax.grid(axis="y", visible=False)
    looks = dict(columnspacing=0.8, handlelength=1.2, handletextpad=0.4, fontsize=8.5)
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.42, -0.2), **looks)
    message(fig, _gb_saved(table), "Memory of one training step, Llama-3.2 3B to 1B")
    return fig
