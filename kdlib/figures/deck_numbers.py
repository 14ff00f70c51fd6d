"""The numbers in the deck's titles and notes: a small named function each, computed from records.

`deck.yaml` names a function under `numbers`, and its keys stand in braces in the slide's texts. A
function returns None where the data no longer bear out what the slide says: the slide then takes
its neutral title, and leaves out the sentences that need the numbers. No torch here.
"""

from functools import cached_property

import numpy as np

from ..course import claims, findings
from ..course import mistakes as of_losses
from ..course.stored import Missing, Stored

NUMBERS = {}


def number(compute):
    """Make a function known to deck.yaml under its own name."""
    NUMBERS[compute.__name__] = compute
    return compute


class Records:
    """The stored records, and what they say of the lecture's claims, judged once."""

    def __init__(self, stored: Stored):
        self.stored = stored

    @cached_property
    def judged(self):
        return findings.judge(stored=self.stored)

    def evidence(self, claim: str, corpus: str, what: str) -> dict:
        """What one corpus says to one question of a claim: mean, low, high, n, verdict.

        Missing where its runs are not stored.
        """
        rows, _ = self.judged
        chosen = (rows["id"] == claim) & (rows["corpus"] == corpus) & (rows["what"] == what)
        found = rows[chosen].to_dict("records")
        if not found:
            raise Missing(f"no evidence for {what!r} on {corpus}")
        if found[0]["missing"]:
            raise Missing(found[0]["missing"])
        return found[0]

    def results(self, notebook: str, file: str = "") -> dict:
        """The results of a notebook's first record."""
        return self.stored.records(notebook, file)[0]["results"]

    def minutes(self, notebook: str, file: str = "laptop") -> float:
        """How long the notebook took: the median of its runs, in minutes."""
        seconds = [record.get("seconds") or 0 for record in self.stored.records(notebook, file)]
        if not seconds:
            raise Missing(f"data/results/{notebook}/{file}.json holds no runs")
        return float(np.median(seconds)) / 60

    def accuracy(self, corpus, method: str, metric: str = "accuracy") -> float:
        """Mean over seeds, in per cent, at the corpus's largest learning rate."""
        runs = claims.at_rate(self.stored.runs(corpus.notebook, corpus.file))
        chosen = runs.query(corpus.kd if method == "kd" else "method == @method")
        if chosen.empty:
            raise Missing(f"data/results/{corpus.records}.json has no runs of {method!r}")
        return 100 * float(chosen.groupby("seed")[metric].mean().mean())


def _budget(records, notebook: str, name: str) -> dict:
    """Rows and epochs of a notebook's first record."""
    settings = records.stored.records(notebook)[0]["settings"]
    return {f"{name}rows": settings["train_rows"], f"{name}epochs": settings["epochs"]}


# -- first session ---------------------------------------------------------------------------------


@number
def race(records):
    """The student is smaller and faster than its teacher, and not better."""
    found = records.results("00_start_here")
    numbers = {
        "smaller": found["times smaller"],
        "faster": found["times faster"],
        "lost": found["right answers lost of 100"],
        "teacher": 100 * found["accuracy, teacher"],
        "student": 100 * found["accuracy, student"],
        "cut_out": 100 * found["accuracy, student, cut out"],
        "commonest": 100 * found["accuracy, commonest label"],
    }
    numbers |= _budget(records, "00_start_here", "")
    numbers |= _budget(records, "04_distilbert_mnli", "later_")
    holds = numbers["smaller"] > 1 and numbers["faster"] > 1 and numbers["lost"] > 0
    return numbers if holds else None


@number
def wrong_class(records):
    """The teacher names the likelier wrong class more often than the label's average does."""
    found = records.results("01_soft_targets")
    teacher = 100 * found["likelier wrong class, teacher"]
    by_label = 100 * found["likelier wrong class, by label"]
    if teacher <= by_label:
        return None
    return {"teacher": teacher, "by_label": by_label}


@number
def wrong_class_real(records):
    """The same on real rows with votes."""
    found = records.results("01_soft_targets", "lab")
    teacher = 100 * found["likelier wrong class, teacher"]
    by_label = 100 * found["likelier wrong class, by label"]
    first = 100 * found["first choice agrees, teacher"]
    if teacher <= by_label:
        return None
    return {"teacher": teacher, "by_label": by_label, "first": first}


@number
def dark_or_smooth(records):
    """What the dark knowledge saves the teacher, and what the teacher saves over a label."""
    here = records.results("01_soft_targets")
    real = records.results("01_soft_targets", "lab")
    names = {"dark": "KL saved by dark knowledge", "over_label": "KL saved by teacher over label"}
    numbers = {name: here[key] for name, key in names.items()}
    numbers |= {f"{name}_real": real[key] for name, key in names.items()}
    return numbers if min(numbers["dark"], numbers["over_label"]) > 0 else None


@number
def out_of_order(records):
    """Permuted classes cost more than any smoothing."""
    found = records.results("01_soft_targets")
    right, wrong = found["KL, teacher at T = 1"], found["KL, classes out of order"]
    return {"right_kl": right, "wrong": wrong} if wrong > right else None


@number
def softening(records):
    """Entropy rises with T; the largest probability falls."""
    table = records.stored.table("02_temperature", "softening")
    by_t = table.groupby("T").agg(entropy=("entropy", "first"), top=("probability", "max"))
    if not by_t["entropy"].is_monotonic_increasing:
        return None
    first, last = by_t.iloc[0], by_t.iloc[-1]
    return {
        "first_t": by_t.index[0],
        "last_t": by_t.index[-1],
        "first_top": 100 * first["top"],
        "last_top": 100 * last["top"],
        "first_entropy": first["entropy"],
        "last_entropy": last["entropy"],
    }


@number
def valley(records):
    """On real votes the KL falls, then rises: its lowest point, and a smoothed label's."""
    found = records.results("02_temperature", "lab")
    numbers = {
        "best_t": found["best T"],
        "best": found["KL, best T"],
        "plain": found["KL, T = 1"],
        "high": found["KL, T = 8"],
        "smoothed": found["KL, label smoothed by best ε"],
        "epsilon": found["best ε"],
    }
    falls_then_rises = numbers["best"] < min(numbers["plain"], numbers["high"])
    # a difference under 2 % of the KL is no difference for an audience
    close = abs(numbers["best"] - numbers["smoothed"]) < 0.02 * numbers["best"]
    return numbers if falls_then_rises and close else None


@number
def t_squared(records):
    """How many times smaller the soft loss's gradient is at T = 8 than at T = 1."""
    table = records.stored.table("02_temperature", "why_t_squared").set_index("T")
    without = table.loc[1.0, "without"] / table.loc[8.0, "without"]
    kept = table["with"].max() / table["with"].min()
    beside_hard = 100 * table.loc[8.0, "without"] / table.loc[8.0, "ce"]
    if without < 4 * kept:
        return None
    return {"times": without, "kept": kept, "beside_hard": beside_hard}


@number
def mistakes(records):
    """At the last step, how many mistakes turn the gradient away by more than 45 degrees."""
    table = records.stored.table("03_distillation_loss", "mistakes").set_index("mistake")
    wrong = table["last step"]
    turned = int((wrong < np.cos(np.pi / 4)).sum())
    if not turned:
        return None
    return {"turned": turned, "all_gradients": len(wrong)}


@number
def seen_in_accuracy(records):
    """How many mistakes are shown to cost accuracy, how many to harm the probabilities."""
    runs = records.stored.runs("03_distillation_loss")
    columns = [name for name in runs.columns if name.startswith("accuracy, ")]
    names = [name.removeprefix("accuracy, ") for name in columns]
    names = [name for name in names if name not in of_losses.NO_MISTAKE]
    tables = of_losses.judged(runs, names, of_losses.INSTEAD)
    accuracy, truth = tables["accuracy"], tables["kl_to_truth"]
    seen, in_truth = int(accuracy["worse"].sum()), int(truth["worse"].sum())
    if not 0 < seen < min(in_truth, len(names)):
        return None
    worst = accuracy["mean"].idxmin()
    return {
        "seen": seen,
        "in_truth": in_truth,
        "all": len(names),
        "which": " and ".join(accuracy.index[accuracy["worse"]]),
        "worst": worst,
        "worst_points": -accuracy["mean"].min(),
        "without_teacher": 100 * (runs["accuracy, right"] - runs["accuracy, CE only"]).mean(),
        "right": 100 * runs["accuracy, right"].mean(),
        "seeds": len(runs),
    }


# -- second session --------------------------------------------------------------------------------


@number
def verdicts(records):
    """How many of the lecture's claims got which verdict."""
    _, judged = records.judged
    count = judged["verdict"].value_counts()
    names = dict(zip(("supported", "refuted", "undecided", "untested"), findings.VERDICTS))
    numbers = {name: int(count.get(word, 0)) for name, word in names.items()}
    return numbers | {"all": len(judged)}


@number
def lecture_rates(records):
    """The lecture's three MNLI rates, and what a model that gives one answer would score."""
    said = records.stored.lecture()
    rates = sorted(said["mnli_learning_rates"], key=lambda row: -row["learning_rate"])
    counts = said["mnli_validation_matched_counts"]
    shares = {name: count for name, count in counts.items() if name != "source"}
    share = 100 * max(shares.values()) / sum(shares.values())
    best, middle, last = (row["accuracy"] for row in rates)
    if last >= share:
        return None
    return {"best": best, "middle": middle, "last": last, "one_answer": share}


@number
def lecture_qqp(records):
    """The lecture's three QQP rates: the last has the accuracy of one answer, and its macro-F1."""
    rows = records.stored.lecture()["qqp_learning_rates"]
    rates = sorted(rows, key=lambda row: -row["learning_rate"])
    numbers = {}
    for name, row in zip("abc", rates):
        numbers |= {f"{name}_accuracy": row["accuracy"], f"{name}_f1": row["macro_f1"]}
    holds = numbers["c_accuracy"] > numbers["b_accuracy"] and numbers["c_f1"] < numbers["b_f1"]
    return numbers if holds else None


@number
def two_verdicts(records):
    """The words for two claims that most people vote for."""
    judged = records.judged[1].set_index("id")["verdict"]
    return {"powerful": judged["powerful"], "alpha": judged["alpha_higher"]}


@number
def hundredth(records):
    """On real MNLI rows a hundredth of the best rate loses this many points of macro-F1."""
    found = records.evidence("ratios", "MNLI", "largest − a hundredth")
    if found["verdict"] != findings.SUPPORTED:
        return None
    return {"lost": found["mean"]}


@number
def gain_mnli(records):
    """KD minus labels only on 2,000 real MNLI rows, where the interval excludes 0."""
    found = records.evidence("powerful", "MNLI", "KD − labels only")
    if found["low"] <= 0:
        return None
    gain = {name: found[name] for name in ("mean", "low", "high", "n")}
    return gain | {"kd": records.accuracy(claims.MNLI, "kd")}


@number
def field_gain(records):
    """What others found on all of MNLI, in points."""
    low, high = records.stored.lecture()["field"]["mnli_kd_gain_points"]
    return {"field_low": low, "field_high": high}


@number
def gain_mini_nli(records):
    """KD minus labels only, on MiniNLI (synthetic), where every method was tuned alike."""
    gain = records.evidence("powerful", "MiniNLI", "KD − labels only")
    return {"mini": gain["mean"]}


@number
def flat_curves(records):
    """On real MNLI rows only the largest rate leaves ln 3, the loss of three equal answers."""
    table = records.stored.table("04_distilbert_mnli", "learning_curves", "lab")
    last = table[table["split"] == "validation"].sort_values("step")
    ends = last.groupby(["learning_rate", "seed"])["ce"].last().groupby("learning_rate").mean()
    best = ends.pop(ends.index.max())
    chance = float(np.log(3))
    if best > chance - 0.02 or (ends - chance).abs().max() > 0.01:
        return None
    return {"best": best, "chance": chance}


@number
def qqp_trap(records):
    """On real QQP rows a hundredth of the rate gives the commonest class's accuracy, and no more."""
    runs = claims.at_rate(records.stored.runs("05_distilbert_qqp", "lab"), "middle")
    accuracy, macro_f1 = 100 * runs["accuracy"].mean(), 100 * runs["macro_f1"].mean()
    share = 100 * runs["majority_accuracy"].mean()
    if abs(accuracy - share) > 0.5 or macro_f1 > accuracy - 10:
        return None
    return {"accuracy": accuracy, "macro_f1": macro_f1}


@number
def calibration(records):
    """Of the runs in the figure: labels alone are better calibrated than KD, and KD than the
    teacher.
    """
    table = records.stored.table("05_distilbert_qqp", "reliability", "lab")
    ece = 100 * table.groupby("model")["ece"].first()
    numbers = {
        "labels": ece["student, labels only"],
        "kd": ece["student, KD"],
        "teacher": ece["teacher"],
    }
    return numbers if numbers["labels"] < numbers["kd"] < numbers["teacher"] else None


@number
def alpha_slopes(records):
    """Points of accuracy per unit of alpha, on real QQP and on real MNLI rows."""
    qqp = records.evidence("alpha_higher", "QQP", "slope over alpha")
    mnli = records.evidence("alpha_higher", "MNLI", "slope over alpha")
    if qqp["high"] >= 0:
        return None
    numbers = {
        "fall": -qqp["mean"],
        "qqp": qqp["mean"],
        "qqp_low": qqp["low"],
        "qqp_high": qqp["high"],
    }
    return numbers | {"mnli": mnli["mean"], "mnli_low": mnli["low"], "mnli_high": mnli["high"]}


@number
def learnt_tokens(records):
    """Of one training text: how many tokens there are, and how many are learnt."""
    table = records.stored.table("06_eurollama_prompt", "prompt_legend")
    learnt = int(table["learnt"].sum())
    return {"tokens": len(table), "learnt": learnt} if 0 < learnt < len(table) / 2 else None


@number
def without_end(records):
    """BLEU of whole generations and up to the first full stop, where the end is never learnt."""
    table = records.stored.table("06_eurollama_prompt", "end_recipes")
    means = table.groupby("name")[["ended", "bleu", "bleu_first"]].mean()
    lost = means.loc["no end token"]
    if lost["ended"] > 0.05 or lost["bleu"] > lost["bleu_first"]:
        return None
    return {
        "bleu": lost["bleu"],
        "first": lost["bleu_first"],
        "right": means.loc["right", "bleu"],
    }


@number
def unlearnt_end(records):
    """p(end) after KD from a teacher that does not know the end, at two alphas, and the cure."""
    table = records.stored.table("06_eurollama_prompt", "end_unlearnt")
    means = 100 * table.groupby("name")["p_end"].mean()
    numbers = {
        "labels": means["CE only"],
        "half": means["KD everywhere, alpha = 0.5"],
        "nine": means["KD everywhere, alpha = 0.9"],
        "cure": means["KD, CE only at the end, alpha = 0.9"],
    }
    holds = numbers["nine"] < numbers["half"] < min(numbers["labels"], numbers["cure"])
    return numbers if holds else None


@number
def translators(records):
    """What KD adds to references alone, on MiniParl (synthetic): BLEU and KL to the truth."""
    bleu = records.evidence("kl_causal_bleu", "MiniParl", "KD − CE only")
    kl = records.evidence("kl_causal", "MiniParl", "KL to the truth − CE only")
    if bleu["low"] <= 0 or kl["high"] >= 0:
        return None
    return {"bleu": bleu["mean"], "nats": -kl["mean"] / 100}


@number
def lecture_bleu(records):
    """The lecture's BLEU of the base model and of its best student."""
    rows = records.stored.lecture()["eurollama"]["learning_rates"]
    base = next(row["bleu"] for row in rows if row["learning_rate"] is None)
    best = max(row["bleu"] for row in rows)
    return {"base": base, "best": best} if best > base else None


@number
def memory(records):
    """GB of a plain training step of Llama 3B → 1B, and with all savings, beside a P100's 16."""
    plain = records.evidence("p100", "Llama 3B → 1B", "plain recipe")["mean"]
    least = records.evidence("p100_ever", "Llama 3B → 1B", "all savings")["mean"]
    return {"plain": plain, "least": least} if least < 16 < plain else None


@number
def coarse(records):
    """Points of accuracy lost to 4 bits, with one scale a matrix and with a scale a group."""
    one = records.evidence("quantised_coarsely", "MNLI", "student fp32 − 4 bits, one step")
    group = records.evidence("quantised", "MNLI", "student fp32 − int4")
    if one["low"] <= group["high"]:
        return None
    return {"one": one["mean"], "group": group["mean"]}


# -- live cells ------------------------------------------------------------------------------------


def _live(notebook: str, name: str, file: str = "laptop"):
    """A number that says how long a notebook took, by our records."""

    def minutes(records):
        return {"minutes": records.minutes(notebook, file)}

    minutes.__name__ = name
    minutes.__doc__ = f"Minutes of a whole run of notebook {notebook[:2]}, from its records."
    return number(minutes)


for _notebook in ("00_start_here", "01_soft_targets", "02_temperature", "03_distillation_loss"):
    _live(_notebook, f"minutes_{_notebook[:2]}")
_live("04_distilbert_mnli", "minutes_04")
