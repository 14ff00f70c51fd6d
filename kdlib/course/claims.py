"""The lecture's claims, a short function each, which asks the stored records what they say.

A function gets `ask`, which gives the runs of a corpus as a DataFrame, and yields `Evidence`: which
corpus, what was compared, one number a seed, and what the whole interval of those numbers must be
for the claim to be supported. `findings.judge` computes the verdicts; nobody types them. The
function's docstring is our reading of the claim.

To add a claim, write its function with `@claim(…)` above it, and give it its place in `CLAIMS`, at
the end of this file.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import tuning
from .statistics import Difference, difference
from .stored import Missing, Stored, whole


class Corpus(NamedTuple):
    """A file of records under data/results, and what its rows are."""

    name: str
    notebook: str
    file: str = "laptop"
    real: bool = False
    optional: bool = False  # not stored yet, which is no failure
    kd: str = "method == 'kd'"  # KD's runs at the usual alpha and temperature

    @property
    def records(self) -> str:
        return f"{self.notebook}/{self.file}".rstrip("/")


ONE_POINT = "method == 'kd' and alpha == 0.5 and temperature == 2"
MNLI = Corpus("MNLI", "04_distilbert_mnli", "lab", real=True)
MNLI_SWEEP = MNLI._replace(file="lab_temperature", optional=True)
QQP = Corpus("QQP", "05_distilbert_qqp", "lab", real=True, kd=ONE_POINT)
EUROPARL = Corpus("Europarl", "07_eurollama_distil", "lab", real=True)
MNLI_BITS = Corpus("MNLI", "08_limits", "lab", real=True)
# The lecture's own scale: BERT and DistilBERT on all rows. Nobody has run it yet.
MNLI_FULL = Corpus("MNLI, all rows", "04_distilbert_mnli", "full", real=True, optional=True)
QQP_FULL = Corpus("QQP, all rows", "05_distilbert_qqp", "full", real=True, optional=True)
MINI_NLI = Corpus("MiniNLI", "04_distilbert_mnli")
# Every method at the point of one grid that validation rows chose; test rows report.
MINI_NLI_TUNED = Corpus("MiniNLI", "04_distilbert_mnli", "laptop_tuned")
MINI_QQP = Corpus("MiniQQP", "05_distilbert_qqp", kd=ONE_POINT)
MINI_PARL = Corpus("MiniParl", "07_eurollama_distil")
MINI_PARL_ENDS = Corpus("MiniParl", "06_eurollama_prompt")
MINI_PARL_BITS = Corpus("MiniParl", "08_limits")
MINI_NLI_BITS = Corpus("MiniNLI", "08_limits")
LLAMA = Corpus("Llama 3B → 1B", "08_limits")
EUROPARL_BITS = Corpus("Europarl", "08_limits", "lab_llama", real=True, optional=True)

# What claims ask for. A file that is missing is a table with these columns and without rows.
SETTINGS = ["seed", "seconds", "method", "learning_rate", "alpha", "temperature"]
SETTINGS += ["targets", "lora_rank", "model", "name", "student", "teacher", "recipe"]
METRICS = ["accuracy", "macro_f1", "bleu", "kl_to_truth", "ended", "repeats", "quality", "total"]


@dataclass
class Evidence:
    """What one corpus says to one question; the claim holds there where the limit does.

    values: one number a seed. runs: those behind them, which the bill counts. Exactly one of above,
    below and at_most is the limit for the whole interval.
    """

    corpus: Corpus
    what: str
    values: list[float]
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    unit: str = "points"
    shown: bool = False  # beside the verdict; decides nothing
    given: bool = False  # no seed of ours stands behind it
    over_rows: Difference | None = None  # of one model that no seed varies: other sentences might
    tolerance: float = 0  # of an estimate, as a share: what kdlib's tests hold it to
    holds: bool | None = None  # of a definition, which has no numbers


class Ask:
    """Stored records as tables, each read once; `missing` says which files are not there, and
    why.
    """

    def __init__(self, stored: Stored, limits: dict[str, float]):
        self.stored = stored
        self.limits = limits  # what "severe" and "fails" mean, in points
        self.missing: dict[str, str] = {}
        self._read = {}

    def runs(self, corpus: Corpus) -> pd.DataFrame:
        """One row a run: its seed, settings and results."""
        return self._table(corpus, "runs", self.stored.runs)

    def listed(self, corpus: Corpus, name: str) -> pd.DataFrame:
        """One row an item of the list `name`, which every run keeps among its results."""
        return self._table(corpus, name, self.stored.listed, name)

    def table(self, corpus: Corpus, name: str) -> pd.DataFrame:
        """A table that a run drew as a figure."""
        return self._table(corpus, f"figure {name}", self.stored.table, name)

    def _table(self, corpus, key, read, *name):
        place = (corpus.records, key)
        if place not in self._read:
            try:
                found = read(corpus.notebook, *name, file=corpus.file)
            except Missing as why:
                self.missing[corpus.records] = str(why)
                found = pd.DataFrame()
            columns = found.columns.union([*SETTINGS, *METRICS], sort=False)
            found = found.reindex(columns=columns)
            self._read[place] = found.assign(records=corpus.records)  # the bill names them
        return self._read[place]

    def lecture(self, name: str):
        """What the lecture says of EuroLlama under this name; None where its numbers are
        missing.
        """
        try:
            return self.stored.lecture()["eurollama"][name]
        except Missing as why:
            self.missing["lecture"] = str(why)
            return None


def claim(name: str, short: str, sentence: str):
    """Mark a function that yields evidence for a sentence; its docstring is how we read the claim.

    ValueError for a function that does not say how.
    """

    def mark(evidence):
        reading = " ".join((evidence.__doc__ or "").split())
        if not reading:
            raise ValueError(f"claim {name!r} lacks reading: give {evidence.__name__} a docstring")
        evidence.about = {"id": name, "short": short, "claim": sentence, "reading": reading}
        return evidence

    return mark


# -- ways to ask ---------------------------------------------------------------------------------


def at_rate(runs: pd.DataFrame, which: str = "largest") -> pd.DataFrame:
    """The runs with the largest, the middle or the smallest learning rate of the table."""
    rates = sorted(runs["learning_rate"].dropna().unique())
    if not rates:
        return runs
    place = {"largest": -1, "middle": len(rates) // 2, "smallest": 0}[which]
    return runs[runs["learning_rate"] == rates[place]]


def by_seed(runs: pd.DataFrame, metric: str) -> pd.Series:
    """The mean of a metric over each seed's runs. KeyError where a run lacks it."""
    parts = whole(runs, metric).groupby("seed")[metric]
    return pd.Series({seed: np.mean(list(values)) for seed, values in parts}, dtype=float)


def gap(ours, others, metric: str, *, scale: float = 100, other_metric: str = ""):
    """(values, runs): the metric of `ours` minus that of `others`, for the seeds that both have."""
    difference = by_seed(ours, metric) - by_seed(others, other_metric or metric)
    return list(scale * difference.dropna()), pd.concat([ours, others])


def slope(runs: pd.DataFrame, labels_only: pd.DataFrame | None = None, sign: int = 1):
    """(values, runs): points of accuracy per unit of alpha, for each seed.

    Each alpha counts once, after averaging over temperatures. labels_only: runs that stand at 0;
    seeds without one are left out.
    """
    if labels_only is not None:
        both = runs[runs["seed"].isin(labels_only["seed"])]
        points = pd.concat([both, labels_only.assign(alpha=0.0)])
        runs = pd.concat([runs, labels_only])
    else:
        points = runs
    values = []
    for _, part in whole(points, "accuracy").groupby("seed"):
        mean = part.groupby("alpha")["accuracy"].mean()
        if len(mean) > 1:
            values.append(sign * (100 * np.polyfit(mean.index.astype(float), mean, 1)[0]))
    return values, runs


# -- does distillation help, and why? ------------------------------------------------------------


def gain_of_kd(ask, corpus: Corpus, method: str):
    """(values, runs): points of accuracy of KD minus those of another method.

    Where every method was tuned, each comes at its own best point; else at the largest rate.
    """
    runs = ask.runs(corpus)
    if corpus is MINI_NLI_TUNED:
        runs = tuning.best(runs) if len(runs) else runs
    else:
        runs = at_rate(runs)
    return gap(runs.query(corpus.kd), runs.query("method == @method"), "accuracy")


@claim("powerful", "distillation is powerful", "Distillation is a powerful technique.")
def powerful(ask):
    """A student gains accuracy from its teacher, over labels alone and over smoothed labels. The
    lecture shows no such control.
    """
    for corpus, control, method in (
        (MNLI, "labels only", "ce"),
        (MNLI, "labels smoothed", "label_smoothing"),
        (QQP, "labels only", "ce"),
        (QQP, "labels smoothed", "label_smoothing"),
        (MINI_NLI_TUNED, "labels only", "ce"),
        (MINI_NLI_TUNED, "labels smoothed", "label_smoothing"),
        (MINI_QQP, "labels only", "ce"),
    ):
        gain = gain_of_kd(ask, corpus, method)
        yield Evidence(corpus, f"KD − {control}", *gain, above=0)
    students = ask.listed(MNLI_BITS, "teachers")
    taught = students.query("teacher == '32 bits'")
    alone = students.query("teacher == 'none: CE only'")
    gain = gap(taught, alone, "student", scale=1)
    yield Evidence(MNLI_BITS, "KD − labels only, notebook 08", *gain, above=0)


@claim(
    "knowledge",
    "... by its dark knowledge",
    "The student learns what the teacher knows about the wrong classes.",
)
def knowledge(ask):
    """KD beats KD from a teacher whose wrong-class probabilities are shuffled, or all alike: as soft,
    without the knowledge.
    """
    for corpus, control, method in (
        (MNLI, "shuffled", "shuffled"),
        (MINI_NLI_TUNED, "shuffled", "shuffled"),
        (MINI_NLI_TUNED, "wrong classes equal", "equalised"),
    ):
        gain = gain_of_kd(ask, corpus, method)
        yield Evidence(corpus, f"KD − {control}", *gain, above=0)


# -- learning rates ------------------------------------------------------------------------------


def lost_by_rate(ask, corpus: Corpus, which: str):
    """Points of macro-F1 that KD loses from the largest learning rate to another."""
    runs = ask.runs(corpus)
    slower = at_rate(runs, which).query("method == 'kd'")
    return gap(at_rate(runs).query(corpus.kd), slower, "macro_f1")


@claim("rate_wins", "2e-5 wins", "Of 2e-5, 2e-7 and 2e-9 the first learning rate wins.")
def rate_wins(ask):
    """On the lecture's own models and all rows, 2e-5 has a better macro-F1 than the next of its
    three rates. Only a run of that size can say so: small models want other rates, so ours say
    nothing about 2e-5. (Accuracy rewards one answer to all rows: the lecture's QQP table shows it.)
    """
    for corpus in (MNLI_FULL, QQP_FULL):
        lost = lost_by_rate(ask, corpus, "middle")
        yield Evidence(corpus, "2e-5 − 2e-7", *lost, above=0)


@claim("rates_fail", "2e-7 and 2e-9 fail", "2e-7 and 2e-9 fail.")
def rates_fail(ask):
    """On the lecture's own models and all rows, 2e-7 and 2e-9 lose more than `fails` points of
    macro-F1. There, too, only a run of that size can say so; the lecture's own student reached 62 %
    with 2e-7.
    """
    for corpus in (MNLI_FULL, QQP_FULL):
        for rate, which in (("2e-7", "middle"), ("2e-9", "smallest")):
            lost = lost_by_rate(ask, corpus, which)
            yield Evidence(corpus, f"2e-5 − {rate}", *lost, above=ask.limits["fails"])


@claim(
    "ratios",
    "... in ratios: 1/100 fails",
    "A hundredth and a ten-thousandth of a good learning rate fail (our own claim, of ratios).",
)
def ratios(ask):
    """With small models and short trainings, a hundredth of the best of three rates loses more than
    `fails` points of macro-F1, and so does a ten-thousandth. An epoch of MNLI is 12,272 steps of 32
    rows and ours are far fewer, so this says nothing about longer ones.
    """
    middle, smallest = ("a hundredth", "middle"), ("a ten-thousandth", "smallest")
    for corpus, (share, which) in (
        (MNLI, middle),
        (MNLI, smallest),
        (QQP, middle),
        (QQP, smallest),
        (MINI_NLI, middle),
        (MINI_QQP, middle),
    ):
        lost = lost_by_rate(ask, corpus, which)
        yield Evidence(corpus, f"largest − {share}", *lost, above=ask.limits["fails"])


# -- alpha ---------------------------------------------------------------------------------------


def slopes(ask, sign: int):
    """Accuracy over alpha; for the real corpora also without the students on labels alone."""
    for corpus in (QQP, MNLI_SWEEP, MINI_QQP):
        runs = at_rate(ask.runs(corpus))
        found = slope(runs.query("method == 'kd'"), runs.query("method == 'ce'"), sign)
        yield Evidence(corpus, "slope over alpha", *found, above=0)
    for corpus in (MNLI_SWEEP, QQP):
        found = slope(at_rate(ask.runs(corpus)).query("method == 'kd'"), sign=sign)
        yield Evidence(corpus, "slope over alpha above 0", *found, above=0, shown=True)


@claim(
    "alpha_higher",
    "higher alpha, higher accuracy",
    "Higher alpha, higher accuracy (alpha: weight of the soft loss, as in this course).",
)
def alpha_higher(ask):
    """Accuracy rises with alpha from 0, labels only, to 1: points per unit of alpha, after
    averaging over temperatures.
    """
    return slopes(ask, 1)


@claim(
    "alpha_higher_mirrored",
    "... in the book's convention",
    "Higher alpha, higher accuracy (alpha: weight of the labels, as in the book).",
)
def alpha_higher_mirrored(ask):
    """The same points mirrored: the book's alpha is one minus ours, so the slope changes its sign.
    Nobody wrote down which one the lecture meant.
    """
    return slopes(ask, -1)


@claim("sweet_spot", "0.5 is the sweet spot", "alpha = 0.5 is the sweet spot.")
def sweet_spot(ask):
    """No other alpha is better than 0.5 by more than `margin` points, seed by seed, averaged over
    temperatures (the same in either convention). So 0.5 need not beat its neighbours: to be as good
    as the best is enough.
    """
    margin = ask.limits["margin"]
    for corpus, others in (
        (QQP, (0.25, 0.75, 1)),
        (MNLI_SWEEP, (0.25, 0.75, 1)),
        (MINI_QQP, (0.25,)),
    ):
        kd = at_rate(ask.runs(corpus)).query("method == 'kd'")
        for other in others:
            gain = gap(kd.query("alpha == @other"), kd.query("alpha == 0.5"), "accuracy")
            yield Evidence(corpus, f"{other} − 0.5", *gain, below=margin)


# -- causal language models ----------------------------------------------------------------------


def miniparl_gap(ask, method: str, metric: str, scale: float):
    """KD minus another method, both on the references, all weights trained, at the largest rate."""
    runs = ask.runs(MINI_PARL).query("targets == 'references' and lora_rank == 0")
    runs = at_rate(runs)
    kd, other = runs.query("method == 'kd'"), runs.query("method == @method")
    return gap(kd, other, metric, scale=scale)


CONTROLS = {"CE only": "ce", "smoothed": "label_smoothing", "shuffled": "shuffled"}


@claim(
    "kl_causal",
    "KL is good for causal loss",
    "KL is good for causal language models: their probabilities.",
)
def kl_causal(ask):
    """A translator's probabilities of the next word come nearer to the true ones with the KL term
    than from the references alone, from smoothed words, and from shuffled ones. Only a synthetic
    language has true ones to compare with.
    """
    for control, method in CONTROLS.items():
        found = miniparl_gap(ask, method, "kl_to_truth", 100)
        what = f"KL to the truth − {control}"
        yield Evidence(MINI_PARL, what, *found, below=0, unit="nats/100")


@claim(
    "kl_causal_bleu",
    "... for translations (BLEU)",
    "... and what they write: their translations.",
)
def kl_causal_bleu(ask):
    """BLEU is higher with the KL term than from the references alone and from smoothed words, over
    seeds. (Notebook 07 draws the sentences anew, too, and then the first does not exclude 0
    either.)
    """
    runs = ask.runs(EUROPARL).query("targets == 'references' and lora_rank == 0")
    kd, ce = (at_rate(runs.query("method == @method")) for method in ("kd", "ce"))
    gain = gap(kd, ce, "bleu", scale=1)
    yield Evidence(EUROPARL, "KD − CE only", *gain, above=0, unit="BLEU")
    for control, method in CONTROLS.items():
        gain = miniparl_gap(ask, method, "bleu", 1)
        beside = method == "shuffled"
        yield Evidence(MINI_PARL, f"KD − {control}", *gain, above=0, unit="BLEU", shown=beside)


# -- quantisation --------------------------------------------------------------------------------


def floats_of_student(ask, corpus: Corpus):
    """(the student's rows in 32 bits, its rows in all formats)"""
    rows = ask.listed(corpus, "in_use")
    student = rows[rows["model"].astype(str).str.endswith("student")]
    return student.query("method == 'fp32'"), student


ROUNDED_AS_TODAY = ("int8 weight-only", "4 bits, groups of 32")


def lost_by_rounding(ask, name: str, **limit) -> Evidence:
    """BLEU that the real Llama loses in a format, with an interval over sentences."""
    from ..scores import bleu_gap

    what = f"Llama fp32 − {name}"
    models = ask.listed(EUROPARL_BITS, "translators")
    if models.empty:
        return Evidence(EUROPARL_BITS, what, [], unit="BLEU", **limit)
    counts = [list(models.loc[models["name"] == one, "counts"])[:1] for one in ("fp32", name)]
    found = difference(*bleu_gap(*counts), n=len(counts[0][0]))
    return Evidence(
        EUROPARL_BITS, what, [found.mean], models, unit="BLEU", over_rows=found, **limit
    )


@claim(
    "quantised",
    "quantisation degrades severely",
    "Quantisation brings severe performance degradation.",
)
def quantised(ask):
    """A *translator* loses more than `severe` BLEU in 8 bits, and in 4 with a step for each 32
    weights, as libraries round today: of a translator the lecture spoke. The real one is SmolLM2, a
    Llama tuned on Europarl; it is one model, so its intervals are over sentences. MiniParl's
    translator and classifiers stand beside.
    """
    severe = ask.limits["severe"]
    for name in ROUNDED_AS_TODAY:
        yield lost_by_rounding(ask, name, above=severe)
    models = ask.listed(MINI_PARL_BITS, "translators")
    floats = models.query("name == 'fp32'")
    for name in ROUNDED_AS_TODAY:
        # seeds that share one translator count as one
        lost, runs = gap(floats, models.query("name == @name"), "bleu", scale=1)
        what = f"translator fp32 − {name}"
        yield Evidence(MINI_PARL_BITS, what, lost[:1], runs, above=severe, unit="BLEU")
    formats = {"int8": "int8 dynamic", "int4": "int4 weight-only"}
    for corpus in (MNLI_BITS, MINI_NLI_BITS):
        floats, student = floats_of_student(ask, corpus)
        for name, method in formats.items():
            lost = gap(floats, student.query("method == @method"), "accuracy", scale=1)
            what = f"student fp32 − {name}"
            yield Evidence(corpus, what, *lost, above=severe, shown=True)


@claim(
    "quantised_coarsely",
    "... with one step a matrix",
    "... where a whole matrix shares one step.",
)
def quantised_coarsely(ask):
    """A student loses more than `severe` points in 4 bits with one step a matrix: the plainest
    rounding there is. We don't know how the lecture's model was rounded.
    """
    severe = ask.limits["severe"]
    plane = ask.listed(MNLI_BITS, "plane").query("method == '4 bits, one step'")
    rounded = plane[plane["model"].astype(str).str.contains("student")]
    floats, _ = floats_of_student(ask, MNLI_BITS)
    lost = gap(floats, rounded, "accuracy", scale=1, other_metric="quality")
    yield Evidence(MNLI_BITS, "student fp32 − 4 bits, one step", *lost, above=severe)

    few_bits = ask.listed(MINI_NLI_BITS, "few_bits")
    rounded = few_bits.query("student == 'rounded after training'")
    floats, _ = floats_of_student(ask, MINI_NLI_BITS)
    lost = gap(floats, rounded, "accuracy", scale=1)
    what = "student fp32 − 2 bits, groups"
    yield Evidence(MINI_NLI_BITS, what, *lost, above=severe, shown=True)

    models = ask.listed(MINI_PARL_BITS, "translators")
    floats, rounded = models.query("name == 'fp32'"), models.query("name == '3 bits, one step'")
    lost, runs = gap(floats, rounded, "bleu", scale=1)
    # All seeds share one translator, so they count as one.
    what = "fp32 − 3 bits, one step"
    yield Evidence(MINI_PARL_BITS, what, lost[:1], runs, above=severe, unit="BLEU")


# -- memory and time -----------------------------------------------------------------------------


def estimate(ask, what: str, recipe: str) -> Evidence:
    """The memory that a recipe needs, against a P100's; `recipe`: how its name begins."""
    table = ask.table(LLAMA, "memory_bars")
    wanted = table[table["recipe"].astype(str).str.startswith(recipe)]
    values = whole(wanted, "total")["total"].head(1).tolist()
    about = dict(above=16, unit="GB", given=True, tolerance=0.15)
    return Evidence(LLAMA, what, values, **about)


@claim(
    "p100",
    "a P100 does not suffice",
    "A P100 (16 GB) does not suffice to distil Llama 3B → 1B.",
)
def p100(ask):
    """The plain recipe needs more than 16 GB."""
    yield estimate(ask, "plain recipe", "plain")


@claim("p100_ever", "... whatever the recipe", "... and no recipe makes it fit.")
def p100_ever(ask):
    """Cached teacher, chunked loss, checkpointing and LoRA together need more than 16 GB."""
    yield estimate(ask, "all savings", "+ LoRA")


@claim(
    "eight_hours",
    "8 hours reach 30 % of the data",
    "Eight hours reach 30 % of the data.",
)
def eight_hours(ask):
    """One throughput on one GPU, which nobody measured again. Notebook 08 does the division; this
    machine has no such GPU.
    """
    return []


# -- the end token -------------------------------------------------------------------------------


@claim(
    "end_token",
    "the end token cures hallucination",
    "The end token cures hallucinated tokens.",
)
def end_token(ask):
    """Trained with it, more generations end by themselves and fewer repeat themselves, under CE."""
    recipes = ask.listed(MINI_PARL_ENDS, "recipes")
    right, without = recipes.query("name == 'right'"), recipes.query("name == 'no end token'")
    yield Evidence(MINI_PARL_ENDS, "ended", *gap(right, without, "ended"), above=0)
    fewer = gap(without, right, "repeats")
    yield Evidence(MINI_PARL_ENDS, "repeats avoided", *fewer, above=0)


@claim(
    "end_token_kd",
    "... under KD too",
    "... also under KD from a teacher that does not know the token.",
)
def end_token_kd(ask):
    """With KD at every position no more than 10 per cent of the generations run over or repeat
    themselves. At alpha = 0.5 all of them end, and some repeat themselves; at 0.9 hardly one ends.
    """
    teachers = ask.listed(MINI_PARL_ENDS, "teachers")
    for what, name, metric in (
        ("run over, alpha = 0.5", "KD everywhere, alpha = 0.5", "ended"),
        ("repeat, alpha = 0.5", "KD everywhere, alpha = 0.5", "repeats"),
        ("run over, alpha = 0.9", "KD everywhere, alpha = 0.9", "ended"),
        ("run over, CE only at the end", "KD, CE only at the end, alpha = 0.9", "ended"),
    ):
        runs = teachers.query("name == @name")
        share = 100 * by_seed(runs, metric)
        values = list(100 - share if metric == "ended" else share)
        beside = what.endswith("at the end")
        yield Evidence(MINI_PARL_ENDS, what, values, runs, at_most=10, unit="%", shown=beside)


# -- what the lecture says of itself -------------------------------------------------------------


def spoken(ask, what: str, metric: str, scale: float, **limit) -> Evidence:
    """A number of the lecture's: no seed and no spread, so nothing can be shown."""
    value = ask.lecture(metric)
    values = [] if value is None else [scale * value]
    return Evidence(Corpus("lecture", "lecture", ""), what, values, given=True, **limit)


@claim(
    "good_scores",
    "BLEU 30, COMET 0.80: good",
    "BLEU above 30 and COMET above 0.80 mean a good translation.",
)
def good_scores(ask):
    """The lecture's own best model, 26.57 and 0.82, is good by one rule and not by the other. Only
    people could say which; nobody asked any.
    """
    yield spoken(ask, "BLEU", "bleu", 1, above=30, unit="BLEU")
    yield spoken(ask, "100 · COMET", "comet", 100, above=80, unit="% COMET")


@claim("encoder_only", "EuroLlama is encoder-only", "EuroLlama is encoder-only.")
def encoder_only(ask):
    """Its published config does not name a causal language model, which is decoder-only. A
    definition decides, no run.
    """
    names = ask.lecture("architectures") or []
    holds = not any(name.endswith("ForCausalLM") for name in names) if names else None
    corpus = Corpus("Llama-3.2-1B", "lecture", "")
    yield Evidence(
        corpus, "architecture", names, unit=", ".join(names) or "points", given=True, holds=holds
    )


# In the order of the tables.
CLAIMS = (
    powerful,
    knowledge,
    rate_wins,
    rates_fail,
    ratios,
    alpha_higher,
    alpha_higher_mirrored,
    sweet_spot,
    kl_causal,
    kl_causal_bleu,
    quantised,
    quantised_coarsely,
    p100,
    p100_ever,
    eight_hours,
    end_token,
    end_token_kd,
    good_scores,
    encoder_only,
)
