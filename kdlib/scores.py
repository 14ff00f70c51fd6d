"""How good is a translation? BLEU and chrF with signatures, COMET where it can be had, differences.

    scores.bleu(texts, references)                      # Score(26.57, "nrefs:1|case:mixed|…")
    scores.compare({"CE": ce, "KD": kd}, references)    # paired bootstrap: is KD really better?
    scores.comet(sources, texts, references)            # Comet(None, [], "… could not be loaded")

All take detokenised texts, one reference each.
"""

from pathlib import Path
from typing import NamedTuple

from .engine import hub

COMET, COMET_SMALL = "Unbabel/wmt22-comet-da", "Unbabel/eamt22-cometinho-da"


class Score(NamedTuple):
    """0…100, and how it was computed: without the signature nobody can compare it."""

    value: float
    signature: str


def bleu(texts: list[str], references: list[str]) -> Score:
    """Corpus BLEU of detokenised texts, one reference each."""
    return _score("BLEU", texts, references)


def chrf(texts: list[str], references: list[str]) -> Score:
    """chrF2: character n-grams, so that it forgives an inflection that BLEU does not."""
    return _score("chrF2", texts, references)


def _metric(name: str, references=None):
    """sacrebleu's scorer; given references are prepared once, for many systems."""
    from sacrebleu.metrics import BLEU, CHRF

    scorer = {"BLEU": BLEU, "chrF2": CHRF}[name]
    return scorer(references=[references]) if references else scorer()


def _score(name: str, texts: list[str], references: list[str]) -> Score:
    _check(texts, references)
    metric = _metric(name)
    # Of the whole corpus: n-grams are counted over all sentences first. A mean of sentence scores
    # would be another number. The list has one entry, a set of references.
    score = metric.corpus_score(texts, [references]).score
    return Score(float(score), str(metric.get_signature()))


def _check(*columns: list[str]) -> None:
    """ValueError unless all columns are of one length, and not empty."""
    if len({len(column) for column in columns}) != 1 or not columns[0]:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(
            "as many texts as references (and sources) are needed, and at least one; "
            f"there are {lengths}"
        )


# -- differences -----------------------------------------------------------------------------------


def compare(
    systems: dict[str, list[str]], references: list[str], *, samples: int = 1000
) -> list[dict]:
    """Paired bootstrap (Koehn 2004) with sacrebleu: every system against the first.

    All systems are scored on the same resampled sentences. One dict a system and metric: `system`,
    `metric`, `score`, `low` and `high` (95 %), `p` (against the first; None for it), `signature`.
    The resampling is seeded by sacrebleu (SACREBLEU_SEED, 12345 without).
    """
    from sacrebleu.significance import PairedTest

    if len(systems) < 2:
        raise ValueError("a comparison takes at least two systems")
    _check(references, *systems.values())
    metrics = {name: _metric(name, references) for name in ("BLEU", "chrF2")}
    test = PairedTest(
        list(systems.items()), metrics, references=None, test_type="bs", n_samples=samples
    )
    signatures, results = test()
    first = list(next(iter(systems.values())))
    rows = []
    for metric in metrics:
        for (system, texts), result in zip(systems.items(), results[metric]):
            p = result.p_value
            # Of a system with the first's own texts sacrebleu says p = 1 / (samples + 1), "surely
            # different". Nothing is less different.
            if p is not None:
                p = 1.0 if list(texts) == first else float(p)
            row = {
                "system": system,
                "metric": metric,
                "score": float(result.score),
                "low": float(result.mean - result.ci),
                "high": float(result.mean + result.ci),
                "p": p,
                "signature": str(signatures[metric]),
            }
            rows.append(row)
    return rows


def bleu_counts(texts: list[str], references: list[str]) -> list[list[int]]:
    """(sentences, 10): what sentence-wise sums of BLEU are made of.

    The lengths of text and reference, and for runs of 1 to 4 words how many are right, and how many
    there are. They tell no word of the texts, and BLEU of any set of the sentences follows.
    """
    _check(texts, references)
    return _metric("BLEU")._extract_corpus_statistics(texts, [references])


def bleu_gap(
    ours: list,
    theirs: list,
    references: list[str] | None = None,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(mean, low, high): BLEU of `ours` minus BLEU of `theirs`, a mean over seeds.

    low and high are its 95 % interval over *sentences*. ours, theirs: for each seed the
    translations of the same sentences; without references, their `bleu_counts`. A drawn sentence brings the translations of all seeds with
    it: three seeds' versions of one sentence are not three sentences, and pooled they would make
    the interval too narrow. Sufficient statistics as in sacrebleu's own bootstrap (Koehn 2004).
    """
    import numpy as np

    metric = _metric("BLEU")
    counts = [*ours, *theirs]
    if references is not None:
        counts = [bleu_counts(texts, references) for texts in counts]
    # BLEU of any set of sentences follows from sums of these: (seeds, sentences, n-gram counts).
    counts = np.array(counts, dtype=float)
    n = counts.shape[1]
    # n sentences with replacement, as counts: (samples, sentences).
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples)
    # How often each sentence counts, (1 + samples, sentences). In the first row: all of them once.
    weights = np.concatenate([np.ones((1, n)), draws])
    totals = weights @ counts  # (seeds, 1 + samples, n-gram counts)
    # One BLEU for each seed and draw: (seeds, 1 + samples).
    bleus = np.array(
        [[metric._compute_score_from_stats(list(total)).score for total in one] for one in totals]
    )
    # The same sentences for both sides, so that their common difficulty cancels.
    gaps = bleus[: len(ours)].mean(0) - bleus[len(ours) :].mean(0)
    # The first is the sentences as they are; the interval is the middle 95 % of the draws.
    low, high = np.quantile(gaps[1:], [0.025, 0.975])
    return float(gaps[0]), float(low), float(high)


# -- COMET -----------------------------------------------------------------------------------------


class Comet(NamedTuple):
    """`score`: the mean over sentences (about 0…1), or None with a `reason`.

    It is never a number that was not measured.
    """

    score: float | None
    segments: list[float]
    reason: str


def comet(
    sources: list[str],
    texts: list[str],
    references: list[str],
    model: str | Path = COMET,
    *,
    batch_size: int = 16,
) -> Comet:
    """COMET reads source, translation and reference with an encoder and predicts a human's grade.

    model: a hub id, or a checkpoint file (`…/checkpoints/model.ckpt`), or the folder around it; a
    local copy of the id is taken first. Where unbabel-comet or the checkpoint cannot be had, the
    score is None and the reason says why.
    """
    _check(sources, texts, references)
    # An optional package: a course without it says so in its table, and goes on.
    try:
        import comet as unbabel
    except ImportError as error:
        advice = "pip install 'kdlib[comet]'"
        return Comet(None, [], f"unbabel-comet is not installed ({error}): {advice}")
    import torch

    try:
        scorer = unbabel.load_from_checkpoint(str(_checkpoint(model)), local_files_only=True)
    except Exception as error:  # COMET raises bare Exception and KeyError for what is missing
        first_line = str(error).splitlines()[0] if str(error) else "no text"
        reason = f"{model} could not be loaded ({type(error).__name__}: {first_line})"
        return Comet(None, [], reason)
    rows = [
        {"src": source, "mt": text, "ref": reference}
        for source, text, reference in zip(sources, texts, references)
    ]
    grades = scorer.predict(
        rows,
        batch_size=batch_size,
        gpus=int(torch.cuda.is_available()),
        num_workers=0,
        progress_bar=False,
    )
    return Comet(float(grades.system_score), [float(grade) for grade in grades.scores], "")


def _checkpoint(model: str | Path) -> Path:
    """The checkpoint's file.

    What it needs of its encoder (a tokenizer, a configuration) is then in the cache, too.
    """
    place = hub.folder(model, "comet")
    checkpoint = place if place.is_file() else place / "checkpoints" / "model.ckpt"
    # COMET would look for it on the hub by itself, and a compute node has no network.
    for encoder in hub.encoders(checkpoint.parents[1] / "hparams.yaml"):
        hub.folder(encoder, "tokenizer")
    return checkpoint
