"""Figures as build products: a DataFrame in, a Figure out; SVG, PNG and PDF with alt text; redrawn without torch.

    run.figure(figures.learning_curves, table)         # in a notebook: drawn, shown, captioned, kept with the run
    python -m kdlib figures                            # all of them again from data/results, with manifest and gallery

A function marked `@figure` names the notebook that records its table. Colours are Okabe and Ito's; lines also differ in
style and marker, so that a figure survives a grey printer and colour-blind eyes.
"""
import json
import subprocess
from pathlib import Path
from typing import Callable

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS, LINES = ["o", "s", "^", "D", "v", "P", "X"], ["-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))]
METHODS = {"ce": "CE only", "label_smoothing": "CE, label smoothing", "shuffled": "KD, wrong classes shuffled", "kd": "KD"}

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
    ax.bar_label(drawn, [fmt.format(v) for v in values], padding=2, fontsize=9)
    ax.grid(axis="x", visible=False)


def lines(ax, table: pd.DataFrame, x: str, y: str, by: str, names: dict | None = None, markers: bool = True) -> None:
    """One line a value of `by`: mean over the other rows, and a band of ± 1 sd where there are several."""
    for i, (key, part) in enumerate(table.groupby(by, sort=False)):
        stats = part.groupby(x)[y].agg(["mean", "std"]).reset_index()
        ax.plot(stats[x], stats["mean"], color=COLORS[i % 7], linestyle=LINES[i % 7], marker=MARKERS[i % 7] if markers else None,
                markersize=4, label=(names or {}).get(key, str(key)))
        if stats["std"].notna().any():
            ax.fill_between(stats[x], stats["mean"] - stats["std"], stats["mean"] + stats["std"], color=COLORS[i % 7], alpha=0.15)


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


@figure("04_distilbert_mnli", alt="""Four students that differ in their loss alone, with the teacher as a dashed line: accuracy
    on the validation rows, mean and standard deviation over seeds.""")
def methods(table):
    """columns: method, seed, accuracy, teacher_accuracy"""
    fig, ax = plt.subplots()
    stats = table.groupby("method")["accuracy"].agg(["mean", "std"]).reindex([m for m in METHODS if m in set(table["method"])])
    bars(ax, [METHODS[m].replace(", ", ",\n") for m in stats.index], stats["mean"] * 100, stats["std"].fillna(0) * 100, "{:.1f}")
    teacher = table["teacher_accuracy"].mean() * 100
    ax.axhline(teacher, color="black", linestyle="--", linewidth=1)
    ax.text(len(stats) - 0.5, teacher, f"teacher {teacher:.1f}", ha="right", va="bottom", fontsize=9)
    low = stats["mean"].min() * 100
    ax.set(ylabel="accuracy (%)", ylim=(max(0, low - 12), min(100, teacher + 6)))
    return fig
