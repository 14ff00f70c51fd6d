"""Records of translators (notebooks 06 and 07) as the tables that notebooks 06, 07 and 09 show.

    runs = translation_tables.runs(records)           # one row a run, with a column `told`
    point = translation_tables.point(runs, "kd")      # the runs that can be compared
    translation_tables.compared(point, synthetic=True)

No torch here.
"""

import numpy as np
import pandas as pd

from .. import methods
from . import results


def told(settings: dict) -> str:
    """What a student was told: its method's label, and whether it read the teacher's own texts."""
    label = methods.LABELS.get(settings["method"], settings["method"])
    return label if settings["targets"] == "references" else f"{label}, teacher's translations"


def runs(records: list[dict]) -> pd.DataFrame:
    """One row a run, with what its student was `told`."""
    table = results.frame(records)
    return table.assign(told=[told(row) for row in table.to_dict("records")])


def point(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """The runs that can be compared: all weights trained, each kind at its own best learning rate.

    The rate is chosen by BLEU on validation pairs, which decides nothing else. Records that do not
    have it were all trained at the largest rate that `method` was tried at.
    """
    full = runs[runs["lora_rank"] == 0]
    if "validation_bleu" in full and full["validation_bleu"].notna().all():
        mean = full.groupby(["told", "learning_rate"])["validation_bleu"].mean()
        best = {told: rate for told, rate in mean.groupby(level=0).idxmax()}
        return full[np.isclose(full["learning_rate"], full["told"].map(best))]
    rate = full.loc[full["method"] == method, "learning_rate"].max()
    return full[np.isclose(full["learning_rate"], rate)]


def heading(runs: pd.DataFrame) -> str:
    """What all runs of a table share: the corpus, its pairs, and the epochs."""
    about = runs.iloc[0]
    read = int(about.get("rows_read", about["train_rows"]))  # train_rows is 0 where all were read
    epochs = f"{about['epochs']} epoch{'s' if about['epochs'] != 1 else ''}"
    return (
        f"{about['data']}: {read:,} training pairs, {epochs}, {int(about['test_rows']):,} test pairs"
    )


def heading_of_real(record: dict) -> str:
    """The same of a run on real Europarl, and how weak its models are."""
    text = (
        "Europarl, {train_rows:,} training pairs of at most {max_words} words, {epochs} epoch; "
        "teacher BLEU {teacher_bleu:.2f}; {student_parameters:,} parameters, nearly all of them "
        "the vocabulary's"
    )
    return text.format(**record["settings"] | record["results"])


def compared(point: pd.DataFrame, synthetic: bool) -> pd.DataFrame:
    """Scores, divergence and seconds of each kind of student, and the BLEUs that frame them."""
    digits = {"bleu": 1, "chrf": 1, "kl_to_truth": 3, "ce": 3}
    digits |= {"train_seconds": 0, "teacher_seconds": 0}
    table = results.summary(point, ["told"], digits, scale=1)
    table.insert(3, "runs", table.pop("runs"))
    # Whoever never heard the teacher pays nothing for it.
    never_heard = table["told"] == "CE only"
    table["teacher_seconds"] = table["teacher_seconds"].mask(never_heard, "–")
    frame = {"student before training": "base_bleu", "the teacher": "teacher_bleu"}
    if synthetic:
        frame["cap: the grammar's likeliest words"] = "bleu_cap"
    lines = [
        {"told": name, "bleu": f"{point[column].mean():.1f}"} for name, column in frame.items()
    ]
    return pd.concat([table.astype(str), pd.DataFrame(lines)]).fillna("")


def sentence_counts(
    records: list[dict], point: pd.DataFrame, references: list[str]
) -> dict[str, dict[int, list]]:
    """{told: {seed: `scores.bleu_counts`}} of the runs of `point`.

    Records of a synthetic corpus keep their first translations, which are counted here against the
    references; records of a real one keep the counts themselves.
    """
    from .. import scores

    compared = set(zip(point["told"], point["learning_rate"], point["seed"]))
    kept = {}
    for record in records:
        settings, found = record["settings"], record["results"]
        key = (told(settings), settings["learning_rate"], record["seed"])
        if settings["lora_rank"] or key not in compared:
            continue
        counts = found.get("bleu_counts")
        if not counts and found.get("texts"):
            counts = scores.bleu_counts(found["texts"], references[: len(found["texts"])])
        if counts:
            kept.setdefault(key[0], {})[record["seed"]] = counts
    return kept


def by_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """KD's scores for each learning rate: all weights first, then LoRA; the fastest rate first."""
    kd = runs[runs["told"] == "KD"]
    kd = kd.sort_values(["lora_rank", "learning_rate"], ascending=[True, False])
    trained = "LoRA, rank " + kd["lora_rank"].astype(str)
    kd = kd.assign(trained=trained.where(kd["lora_rank"] > 0, "all weights"))
    metrics = ["bleu", "chrf", "perplexity"]
    return results.summary(kd, ["trained", "learning_rate"], metrics, digits=2, scale=1)


def with_distance(records: list[dict]) -> pd.DataFrame:
    """Scores by method and learning rate, and how far from the teacher the students ended."""
    looks = [record["results"]["history"] for record in records]
    last_kd = [
        [step["kd"] for step in steps if step["split"] == "validation"][-1] for steps in looks
    ]
    table = results.frame(records).assign(kl_to_teacher=last_kd)
    table = table.sort_values(["method", "learning_rate"], ascending=[True, False])
    metrics = ["ce", "kl_to_teacher", "perplexity", "bleu", "chrf"]
    return results.summary(table, ["method", "learning_rate"], metrics, digits=2, scale=1)


# -- the end of a translation: notebook 06 ---------------------------------------------------------

JUDGED = {
    "loss": ".3f",
    "ended": ".0%",
    "p_end": ".4f",
    "bleu": ".1f",
    "bleu_first": ".1f",
    "repeats": ".0%",
    "stray": ".0%",
    "tokens": ".1f",
}
# Of notebook 06's models: do they have an end token, and is KD heard at it?
ASKED = {
    "no end token": ("no", "–"),
    "right": ("yes", "off"),
    "KD everywhere, alpha = 0.5": ("yes", "on"),
    "KD everywhere, alpha = 0.9": ("yes", "on"),
    "KD, CE only at the end, alpha = 0.9": ("yes", "off at the end"),
    "KD, teacher tuned first, alpha = 0.9": ("yes", "on, teacher knows it"),
}


def endings(rows: list[dict]) -> str:
    """How models end their translations, a line a model: its `name`, and what was judged of it."""
    return results.formatted([{"": row["name"], **row} for row in rows], {"": "s"} | JUDGED)


def over_length(records: list[dict]) -> str:
    """Which of notebook 06's models do not stop, and which repeat themselves: mean (range)."""
    parts = [results.listed(records, part) for part in ("recipes", "teachers")]
    models = pd.concat(parts).drop_duplicates(["seed", "name"])
    models = models.assign(endless=1 - models["ended"])
    lines = []
    for name, (token, at_end) in ASKED.items():
        seeds = models[models["name"] == name]
        endless, repeats = (
            "{mean:.0%} ({min:.0%} to {max:.0%})".format(
                **seeds[column].agg(["mean", "min", "max"])
            )
            for column in ("endless", "repeats")
        )
        lines.append(
            f"end token {token:3s}  KD at it: {at_end:20s} over-length {endless:18s} "
            f"repeats {repeats:18s} {seeds['tokens'].mean():4.0f} tokens   [{name}]"
        )
    return "\n".join(lines)


def end_curves(records: list[dict], vocabulary: int) -> pd.DataFrame:
    """What `figures.end_learnt` draws: p(end) by step, of the recipes that were watched."""
    shown = {"right": "new row", "right, reserved token": "reserved token's row"}
    points = [
        (shown[row["name"]], record["seed"], step, probability, vocabulary)
        for record in records
        for row in record["results"].get("recipes", [])
        for step, probability in row["curve"]
    ]
    return pd.DataFrame(points, columns=["name", "seed", "step", "probability", "words"])
