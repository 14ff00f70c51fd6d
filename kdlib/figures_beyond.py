"""What a divergence covers or seeks, what hidden states bring: the figures of notebook 09."""
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .drawing import COLORS, LINES, MARKERS, figure, ink

HIDDEN = {"ce": "CE only", "kd": "KD on logits", "cosine": "KD + cosine, last layer", "mse": "KD + projected MSE",
          "mse_other_rows": "KD + MSE, another row's states", "mse_random": "KD + MSE, random teacher's states"}
STUDENTS = {"scratch": "from scratch, narrow", "layers": "from the teacher's layers"}
LESSONS = {"references ce": "CE only", "references forward_kl": "forward KL", "references reverse_kl": "reverse KL", "references jsd": "JSD",
           "own forward_kl": "forward KL, own words", "own reverse_kl": "reverse KL, own words", "own jsd": "JSD, own words"}


@figure("09_beyond_logits", alt="""Panels with the same teacher, a curve with two peaks, and in each a student that has one peak only: forward KL's
    (and here the JSD's) spreads over both peaks and the valley between them, reverse KL's sits on the higher peak and ignores the other.""")
def two_modes(table):
    """columns: panel, x, teacher, student (densities)"""
    panels = list(table.groupby("panel", sort=False))
    fig, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 2.6), sharey=True, squeeze=False)
    for i, (ax, (name, part)) in enumerate(zip(axes[0], panels)):
        ax.fill_between(part["x"], part["teacher"], color="gray", alpha=0.35, linewidth=0, label="teacher")
        ax.plot(part["x"], part["student"], color=COLORS[i % 7], linestyle=LINES[i % 7], label="student")
        ax.set(title=name, xlabel="x", ylim=(0, 1.25 * table[["teacher", "student"]].to_numpy().max()))
        ax.legend(loc="upper right", fontsize=8)
    axes[0, 0].set_ylabel("density")
    return fig


def _runs(stored, half: str) -> pd.DataFrame:
    """The course's runs of one half ("hidden" or "words"), one row a run."""
    rows = [{"seed": r["seed"], **r["settings"], **r["results"]} for r in stored.records("09_beyond_logits") if r["settings"][half] != "off"]
    return pd.DataFrame(rows)


def _states(stored) -> pd.DataFrame:
    """Hidden states beside notebook 04's records of the same student, rows and steps."""
    before = [{"seed": r["seed"], "student": "layers", "hidden": r["settings"].get("method"), **r["results"]} for r in stored.records("04_distilbert_mnli")
              if r["settings"].get("method") in ("ce", "kd") and r["seed"] < 3 and (r["settings"].get("learning_rate"), r["settings"].get("epochs")) == (5e-4, 8)]
    return pd.concat([_runs(stored, "hidden"), pd.DataFrame(before)], ignore_index=True)[["student", "hidden", "seed", "accuracy", "teacher_accuracy"]]


def _lessons(stored) -> pd.DataFrame:
    return _runs(stored, "words").assign(lesson=lambda runs: runs["words"] + " " + runs["divergence"])[["lesson", "seed", "outside", "spread"]]


@figure("09_beyond_logits", alt="""Accuracy on MiniNLI (synthetic) of students that differ in what they imitate, a grey dot a seed, mean and standard deviation
    below it; the left panel has a narrow student from scratch, the right one a student cut out of its teacher's layers; the dashed line is the teacher.""", data=_states)
def hidden_states(table):
    """columns: student ("scratch", "layers"), hidden, seed, accuracy, teacher_accuracy"""
    names = [name for name in HIDDEN if name in set(table["hidden"])]
    kinds = [kind for kind in STUDENTS if kind in set(table["student"])]
    fig, axes = plt.subplots(1, len(kinds), figsize=(3.6 * len(kinds) + 1.2, 0.58 * len(names) + 1.0), sharey=True, squeeze=False)
    for ax, kind in zip(axes[0], kinds):
        part = table[table["student"] == kind]
        for i, name in enumerate(names):
            values = 100 * part.loc[part["hidden"] == name, "accuracy"]
            if len(values):
                ax.plot(values, [i] * len(values), "o", color="gray", markersize=4)
                ax.errorbar(values.mean(), i + 0.24, xerr=np.nan_to_num(values.std()), fmt=MARKERS[i], color=COLORS[i], capsize=3)
                ax.text(values.mean(), i + 0.32, f"{values.mean():.1f}", ha="center", va="top", fontsize=8.5)
        teacher = 100 * table["teacher_accuracy"].mean()
        ax.axvline(teacher, color=ink(), linestyle="--", linewidth=1)
        ax.text(teacher, 0.01, f"teacher {teacher:.1f} ", transform=ax.get_xaxis_transform(), ha="right", va="bottom", fontsize=8.5)
        ax.set(title=STUDENTS[kind], xlabel="accuracy (%)")
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(names)), [textwrap.fill(HIDDEN[name], 18) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.25, -0.5)
    return fig


@figure("09_beyond_logits", alt="""Students of one translator on MiniParl (synthetic), a mark a seed: to the right those who hold more probability outside of
    what the grammar allows, upwards those who spread it more widely over the words that are open. Left is better; a height of 1 is the truth's own spread.""", data=_lessons)
def cover_or_seek(table):
    """columns: lesson, seed, outside (share of probability), spread (entropy at open words relative to the truth's)"""
    fig, ax = plt.subplots(figsize=(6.6, 3.9))
    names = [name for name in LESSONS if name in set(table["lesson"])]
    for i, name in enumerate(names):
        part = table[table["lesson"] == name]
        ax.plot(100 * part["outside"], part["spread"], MARKERS[i % 7], color=COLORS[i % 7], markersize=7, alpha=0.8, label=LESSONS[name])
    ax.axhline(1, color=ink(), linestyle="--", linewidth=1)
    ax.text(1, 1, "the truth's spread ", transform=ax.get_yaxis_transform(), ha="right", va="bottom", fontsize=9)
    ax.set(xlabel="probability on words that the grammar excludes (%)", ylabel="spread over open words\n(entropy, truth = 1)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
