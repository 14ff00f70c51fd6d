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

BUDGET = ("data", "train_rows", "test_rows", "epochs")  # runs of another one are another comparison
NEVER_HEAR = ("ce", "label_smoothing")  # the teacher's distributions


def told(settings: dict) -> str:
    """What a student was told: its method's label, and whether it read the teacher's own texts."""
    label = methods.LABELS.get(settings["method"], settings["method"])
    return label if settings["targets"] == "references" else f"{label}, teacher's translations"


def runs(records: list[dict]) -> pd.DataFrame:
    """One row a run, with what its student was `told`, and the teacher's seconds behind it."""
    table = results.frame(records)
    return table.assign(
        told=[told(row) for row in table.to_dict("records")],
        teacher_seconds=[_teachers_seconds(record) for record in records],
    )


def _teachers_seconds(record: dict) -> float:
    """How long the teacher worked for this student, its own training aside: NaN for not at all.

    A student of its translations pays for their generation, one of its distributions for the
    answers; the seconds of a stored teacher's translations count both.
    """
    settings, found = record["settings"], record["results"]
    answers = found.get("teacher_seconds") or np.nan
    generated = record.get("stage_seconds", {}).get("targets", 0.0)
    hears_answers = settings["method"] not in NEVER_HEAR
    if settings["targets"] == "references":
        return answers if hears_answers else np.nan
    if generated < 1:  # the translations were stored, so their seconds are part of the answers'
        return answers
    return generated + (answers if hears_answers else 0)


def point(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """The runs that can be compared: all weights trained, each kind at its own best learning rate,
    with the pairs and epochs of the last run.

    The rate is chosen by BLEU on validation pairs, which decides nothing else. Records that do not
    have it were all trained at the largest rate that `method` was tried at.
    """
    budget = [name for name in BUDGET if name in runs]
    alike = (runs[budget] == runs[budget].iloc[-1]).all(axis=1)
    full = runs[alike & (runs["lora_rank"] == 0)]
    if "validation_bleu" in full and full["validation_bleu"].notna().all():
        mean = full.groupby(["told", "learning_rate"])["validation_bleu"].mean()
        best = {told: rate for told, rate in mean.groupby(level=0).idxmax()}
        return full[np.isclose(full["learning_rate"], full["told"].map(best))]
    rate = full.loc[full["method"] == method, "learning_rate"].max()
    return full[np.isclose(full["learning_rate"], rate)]


def heading(runs: pd.DataFrame) -> str:
    """What all runs of a table share: the corpus, its pairs, and the epochs."""
    about = runs.iloc[0]
    read = _told_or(about, "rows_read", "train_rows")  # train_rows is 0 where all were read
    tested = _told_or(about, "tested", "test_rows")  # a small corpus may have fewer
    epochs = f"{about['epochs']} epoch{'s' if about['epochs'] != 1 else ''}"
    return f"{about['data']}: {read:,} training pairs, {epochs}, {tested:,} test pairs"


def _told_or(about: pd.Series, name: str, other: str) -> int:
    """A count that newer records have, or else the setting that asked for it."""
    count = about.get(name)
    return int(about[other] if pd.isna(count) else count)


def compared(point: pd.DataFrame, synthetic: bool) -> pd.DataFrame:
    """Scores, divergence and seconds of each kind of student, and the BLEUs that frame them."""
    digits = {"bleu": 1, "chrf": 1, "kl_to_truth": 3, "ce": 3}
    digits |= {"train_seconds": 0, "teacher_seconds": 0}
    table = results.summary(point, ["told"], digits, scale=1)
    table.insert(3, "runs", table.pop("runs"))
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
    budget, about = [name for name in BUDGET if name in point], point.iloc[0]
    kept = {}
    for record in records:
        settings, found = record["settings"], record["results"]
        key = (told(settings), settings["learning_rate"], record["seed"])
        is_other_budget = any(settings.get(name) != about.get(name) for name in budget)
        if settings["lora_rank"] or is_other_budget or key not in compared:
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


# -- a real teacher ------------------------------------------------------------------------------


def rates_tried(tried: pd.DataFrame) -> pd.DataFrame:
    """One row a kind of student: validation cross-entropy at each learning rate, and the choice.

    Cross-entropy, as BLEU says little of students that have read so few pairs.
    """
    full = tried[tried["lora_rank"] == 0]
    table = full.pivot_table(index="told", columns="learning_rate", values="ce", sort=False)
    chosen = table.idxmin(axis=1)
    table = table.sort_index(axis=1, ascending=False).map("{:.2f}".format)
    table.columns = [f"CE at {rate:g}" for rate in table.columns]
    return table.assign(chosen=[f"{rate:g}" for rate in chosen]).reset_index()


def over_sentences(records: list[dict], point: pd.DataFrame, references: list[str]):
    """(other kind, Difference): BLEU of KD minus that of each other kind of student.

    Intervals over sentences, with the seeds that both have (`scores.bleu_gap`).
    """
    from .. import scores

    kept = sentence_counts(records, point, references)
    ours = kept.pop("KD", {})
    for other, theirs in kept.items():
        both = sorted(ours.keys() & theirs.keys())
        if both:
            sides = [[counts[seed] for seed in both] for counts in (ours, theirs)]
            gap = scores.bleu_gap(*sides)
            yield other, results.difference(*gap, n=len(sides[0][0]))


def differences(records: list[dict], point: pd.DataFrame, references: list[str]) -> list[str]:
    """KD minus each other kind of student, a line a difference: over seeds, then over sentences."""
    lines = []
    others = list(point["told"].unique())
    for other, metric, found in results.gaps(point, "KD", others, ["bleu", "kl_to_truth"], "told"):
        gap = found.told("+8.4f", "points" if metric == "bleu" else "nats  ")
        lines.append(f"KD − {other:42s} {metric:11s} {gap}  {found.verdict}")
    for other, found in over_sentences(records, point, references):
        gap = found.told("+.2f")
        lines.append(f"KD − {other:42s} BLEU over sentences {gap}  {found.verdict}")
    return lines


def went_wrong(point: pd.DataFrame) -> pd.DataFrame:
    """What is wrong with the form of the translations, in per cent: a row a kind of student."""
    names = {
        "hit_limit": "never end",
        "repeats": "repeat themselves",
        "stray": "contain stray tokens",
        "empty": "are empty",
    }
    tested = point.get("tested", point["test_rows"]).fillna(point["test_rows"])
    shares = point[list(names)].div(tested, axis=0).rename(columns=names)
    shares = shares.assign(told=point["told"])
    return results.summary(shares, ["told"], list(names.values()), digits=0)


def own_sentences(records: list[dict], teacher: dict) -> str:
    """What a stored teacher and each kind of student make of sentences that we wrote ourselves.

    teacher: its teacher.json. Of several seeds the first is read.
    """
    said = {"the teacher": teacher["own"]}
    for record in sorted(records, key=lambda record: record["seed"]):
        said.setdefault(told(record["settings"]), record["results"]["own"])
    before = records[0]["results"].get("base_own", {})
    width = max(map(len, [*said, "before training"]))
    lines = []
    for place, sentence in enumerate(teacher["own"]):
        lines.append(f"{sentence}")
        if place == 0 and before:  # one is enough
            lines.append(f"  {'before training':{width}s}  {before[sentence][:60]} …")
        lines += [f"  {name:{width}s}  {texts[sentence]}" for name, texts in said.items()]
    return "\n".join(lines)


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
