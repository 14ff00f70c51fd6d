"""Figures of notebook 08 (bits, memory) and of the lecture's claims."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from .drawing import COLORS, again, figure, ink, paper, seeds


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
            ax.plot(row["megabytes"], row["quality"], "os"[i], color=COLORS[i], markersize=7, markerfacecolor=paper() if i else COLORS[0])
            below = min(row["quality"], below - gap)
            ax.annotate(row["method"], (row["megabytes"], row["quality"]), (mean["megabytes"].max() * 1.4, below), textcoords="data", va="center", fontsize=8.5,
                        color=COLORS[i], arrowprops=dict(arrowstyle="-", color="gray", linewidth=0.5, shrinkB=4, relpos=(0, 0.5))).set_in_layout(False)
        smallest, largest = mean["megabytes"].min(), mean["megabytes"].max()
        ax.plot([smallest / 1.2, largest], [mean["quality"][mean["method"] == "fp32"].mean()] * 2, color=ink(), linestyle="--", linewidth=0.8)
        ax.set_xscale("log")
        ax.set(title=model, xlabel="MB of weights, packed", ylabel=part["measure"].iloc[0], xlim=(smallest / 1.2, largest * (largest / smallest) ** 2),
               ylim=(min(mean["quality"].min(), below) - gap, mean["quality"].max() + 1.5 * gap))
        ticks = [t for t in (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 20, 40, 50, 70, 100, 200, 400) if smallest / 1.2 <= t <= largest * 1.1]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    for i, told in enumerate(("a step a row or a group", "one step a matrix")):
        axes[0][0].plot([], [], "os"[i], color=COLORS[i], markerfacecolor=paper() if i else COLORS[0], label=told)
    fig.legend(fontsize=8.5, ncols=2, loc="outside upper center", columnspacing=1, handletextpad=0.3)
    return fig


again(quantisation_plane, "quantisation_plane_mnli", "08_limits", file="lab", alt="""Quantisation on real MNLI rows, a panel a model: validation accuracy
    against the size of the weights, packed, on a logarithmic axis, each point with its method's name. Filled circles: scales for a row or a
    group of weights; open squares: one scale for a whole matrix; a dashed line: accuracy in 32 bits. One run.""")


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
            ax.barh(places, values - floor, 0.36, floor, color=COLORS[i], hatch=("", "//", "..")[i % 3], edgecolor=paper(), label=f"{bits} bits")
            for y, value in zip(places, values):
                ax.annotate(f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color=COLORS[i])
        share = part.groupby("kind")["share"].mean()
        ax.set_yticks(range(len(order)), [f"{kind} ({share[kind]:.0%})" for kind in order])
        ax.set(title=model, xscale="log", xlim=(floor, table["kl"].max() * 5), xlabel="KL to the floats (nats)")
        ax.invert_yaxis()
        ax.grid(axis="y", visible=False)
    axes[0][0].legend(fontsize=8.5, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.08))
    return fig


@figure("08_limits", alt="""Students with weights of a few bits, a row each: grey dots are seeds, the marker is their mean with a bar of one standard deviation; the
    dashed line is the same student in 32 bits. Rounding after training loses most; training on the grid brings most of it back.""")
def into_few_bits(table):
    """columns: student, seed, accuracy (%), floats (accuracy of the student in floats, %)"""
    fig, ax = plt.subplots(figsize=(7.2, 0.5 * table["student"].nunique() + 1.1))
    seeds(ax, table, "student", "accuracy")
    ax.axvline(table["floats"].mean(), color=ink(), linestyle="--", linewidth=1, label=f"in 32 bits {table['floats'].mean():.1f}")
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
        ax.barh(recipes.index, recipes[part], 0.7, left, color=COLORS[i], hatch=("", "//", "..", "xx", "\\\\", "--")[i], edgecolor=paper(), label=part)
        left += recipes[part].to_numpy()
    for y, (total, end) in enumerate(zip(recipes["total"], left)):
        ax.plot([total] * 2, [y - 0.42, y + 0.42], color=ink(), linewidth=2)
        ax.annotate(f"{total:.1f} GB", (max(total, end), y), (6, 0), textcoords="offset points", va="center", fontsize=9,
                    bbox=dict(boxstyle="round,pad=0.1", facecolor=paper(), edgecolor="none"))
    cards = table.drop_duplicates("gpu").groupby("gpu_gb")["gpu"].agg(lambda names: " ".join(sorted(names)))
    for gb, names in cards.items():
        if gb < 1.25 * left.max():
            ax.axvline(gb, color=ink(), linestyle=":", linewidth=1)
            ax.text(gb, -0.75, names.replace(" ", "\n"), ha="center", va="bottom", fontsize=8.5)
    ax.set(xlabel="GB", ylim=(len(recipes) - 0.4, -0.6), xlim=(0, 1.12 * left.max()))
    ax.grid(axis="y", visible=False)
    ax.legend(ncols=6, fontsize=8.5, loc="upper center", bbox_to_anchor=(0.42, -0.16), columnspacing=1, handlelength=1.5)
    return fig


# -- 10 · Findings --------------------------------------------------------------------------------------------------------

def _claims(stored):
    """Each query of each claim with its interval and verdict, and the claim's; what is missing is said."""
    from . import findings
    from .gallery import Missing
    evidence, claims = findings.judge(stored=stored)
    if not evidence["mean"].notna().any():
        raise Missing("no record that could decide a claim is stored")
    stored.incomplete += [f"{e['short']}, {e['what']} ({e['corpus']}): {e['missing']}" for e in evidence.to_dict("records") if e["missing"] and not e["optional"]]
    return findings.forest(evidence, claims)


@figure("10_findings", alt="""The lecture's claims, a row each, with the evidence on a symmetric logarithmic axis: how far the mean lies beyond what the claim needs, with its 95 per cent interval
    over seeds (an estimate's: its tolerance). Filled marks decide, hollow ones are shown beside: circles are real rows, squares synthetic, diamonds an estimate. A claim is
    supported where all filled intervals lie right of the line; the verdict stands at the right. Units differ between rows.""", data=_claims)
def claims(table):
    """columns: short, verdict_of_claim, for it, real, given, shown, decides, mean, low, high, limit, sign (1: above the limit)"""
    order = list(dict.fromkeys(table["short"]))
    looks = {"supported": COLORS[0], "not supported": COLORS[1], "not tested here": "gray"}
    fig, ax = plt.subplots(figsize=(7.6, 0.27 * len(order) + 0.7))
    for y, short in enumerate(order):
        part = table[table["short"] == short]
        told = part["verdict_of_claim"].iloc[0]
        some = part[part["mean"].notna() & np.isfinite(part["low"])]
        for row, shift in zip(some.to_dict("records"), np.linspace(-0.28, 0.28, len(some)) if len(some) > 1 else [0]):
            mean, low, high = (row["sign"] * (row[k] - row["limit"]) for k in ("mean", "low", "high"))
            color = looks[row["verdict"]]
            ax.plot([low, high], [y + shift] * 2, color=color, linewidth=1.6, alpha=1 if row["decides"] else 0.5)
            ax.plot(mean, y + shift, "D" if row["given"] else "o" if row["real"] else "s", color=color, markersize=5, markerfacecolor=color if row["decides"] else paper())
        votes = "" if told == "not tested here" else f" ({part['for it'].iloc[0]})"
        ax.text(1.01, y, told + votes, transform=ax.get_yaxis_transform(), va="center",
                fontsize=9.5, color=looks[told] if told != "not tested here" else ink(), weight="bold" if told == "supported" else "normal")
    ax.axvline(0, color=ink(), linewidth=1)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks([-10, -1, 0, 1, 10, 100], ["−10", "−1", "0", "1", "10", "100"])
    ax.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    ax.set_yticks(range(len(order)), order)
    ax.set(ylim=(len(order) - 0.4, -0.6), xlabel="beyond what the claim needs (points, BLEU, %, GB, nats/100)")
    for mark, told, face in (("o", "real", ink()), ("s", "synthetic", ink()), ("D", "estimate", ink()), ("o", "beside", paper())):
        ax.plot([], [], mark, color=ink(), markerfacecolor=face, markersize=5, linestyle="none", label=told)
    fig.legend(loc="outside upper center", ncols=4, handletextpad=0.1, columnspacing=1)
    return fig
