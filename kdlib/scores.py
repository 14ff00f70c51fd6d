"""How good is a translation? BLEU and chrF from sacrebleu, with signatures; COMET where its checkpoint can be had; differences.

    scores.bleu(texts, references)                                  # Score(value=26.57, signature="nrefs:1|case:mixed|…")
    scores.compare({"CE": ce, "KD": kd}, references)                # paired bootstrap: is KD really better?
    scores.comet(sources, texts, references)                        # Comet(None, [], "Unbabel/wmt22-comet-da could not be …")
"""
from pathlib import Path
from typing import NamedTuple

from .engine import hub

COMET, COMET_SMALL = "Unbabel/wmt22-comet-da", "Unbabel/eamt22-cometinho-da"


class Score(NamedTuple):
    """0…100, and what it was computed with: without the signature it cannot be compared with anyone's."""

    value: float
    signature: str


def bleu(texts: list[str], references: list[str]) -> Score:
    """Corpus BLEU of detokenised texts, one reference each."""
    return _score("BLEU", texts, references)


def chrf(texts: list[str], references: list[str]) -> Score:
    """chrF2: character n-grams, so that it forgives an inflection that BLEU does not."""
    return _score("chrF2", texts, references)


def _metric(name: str, references=None):
    from sacrebleu.metrics import BLEU, CHRF
    return {"BLEU": BLEU, "chrF2": CHRF}[name](**({"references": [references]} if references else {}))


def _score(name: str, texts: list[str], references: list[str]) -> Score:
    _check(texts, references)
    metric = _metric(name)
    return Score(float(metric.corpus_score(texts, [references]).score), str(metric.get_signature()))


def _check(*columns: list[str]) -> None:
    if len({len(c) for c in columns}) != 1 or not columns[0]:
        raise ValueError("as many texts as references (and sources) are needed, and at least one; there are "
                         + ", ".join(str(len(c)) for c in columns))


def compare(systems: dict[str, list[str]], references: list[str], *, samples: int = 1000) -> list[dict]:
    """Paired bootstrap (Koehn 2004) with sacrebleu: every system against the first, on the same resampled sentences.

    One dict a system and metric: `system`, `metric`, `score`, `low` and `high` (95 %), `p` (against the first; None for it),
    `signature`. The resampling is seeded by sacrebleu (SACREBLEU_SEED, 12345 without). Of a system whose texts are the
    first's own sacrebleu says p = 1 / (samples + 1), "surely different"; here p is 1.
    """
    from sacrebleu.significance import PairedTest
    if len(systems) < 2:
        raise ValueError("a comparison takes at least two systems")
    _check(references, *systems.values())
    signatures, found = PairedTest(list(systems.items()), {name: _metric(name, references) for name in ("BLEU", "chrF2")}, references=None,
                                   test_type="bs", n_samples=samples)()
    rows, first = [], next(iter(systems.values()))
    for metric in ("BLEU", "chrF2"):
        for system, result in zip(systems, found[metric]):
            p = None if result.p_value is None else 1.0 if list(systems[system]) == list(first) else float(result.p_value)
            rows.append({"system": system, "metric": metric, "score": float(result.score), "low": float(result.mean - result.ci),
                         "high": float(result.mean + result.ci), "p": p,
                         "signature": str(signatures[metric])})
    return rows


def bleu_gap(ours: list[list[str]], theirs: list[list[str]], references: list[str], *, samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): BLEU of `ours` minus BLEU of `theirs`, mean over seeds, and its 95 % interval over *sentences*.

    ours, theirs: for each seed the translations of the same sentences. A drawn sentence brings the translations of all seeds with
    it: three seeds' versions of one sentence are not three sentences, and pooled they would make the interval too narrow.
    Sufficient statistics as in sacrebleu's own bootstrap (Koehn 2004).
    """
    import numpy as np
    _check(references, *ours, *theirs)
    metric = _metric("BLEU")
    counts = np.array([metric._extract_corpus_statistics(texts, [references]) for texts in (*ours, *theirs)], dtype=float)      # (seeds, sentences, n-grams)
    draws = np.random.default_rng(seed).multinomial(len(references), np.full(len(references), 1 / len(references)), size=samples)
    drawn = np.concatenate([np.ones((1, len(references))), draws]) @ counts                                             # the first: all of them once
    bleus = np.array([[metric._compute_score_from_stats(list(total)).score for total in one] for one in drawn])
    gaps = bleus[:len(ours)].mean(0) - bleus[len(ours):].mean(0)
    return float(gaps[0]), *(float(q) for q in np.quantile(gaps[1:], [0.025, 0.975]))


class Comet(NamedTuple):
    """`score`: the mean over sentences (about 0…1), or None with a `reason`; never a number that was not measured."""

    score: float | None
    segments: list[float]
    reason: str


def comet(sources: list[str], texts: list[str], references: list[str], model: str | Path = COMET, *, batch_size: int = 16) -> Comet:
    """COMET reads source, translation and reference with a multilingual encoder and predicts a human's grade.

    model: a hub id, or a checkpoint file (`…/checkpoints/model.ckpt`), or the folder around it; a local copy of the id is
    taken first. Where unbabel-comet or the checkpoint cannot be had, the score is None and the reason says why.
    """
    _check(sources, texts, references)
    try:
        import comet as unbabel
    except ImportError as error:
        return Comet(None, [], f"unbabel-comet is not installed ({error}): pip install 'kdlib[comet]'")
    import torch
    try:
        scorer = unbabel.load_from_checkpoint(str(_checkpoint(model)), local_files_only=True)
    except Exception as error:                  # COMET raises bare Exception and KeyError for what is missing
        said = str(error).splitlines()[0] if str(error) else "no text"
        return Comet(None, [], f"{model} could not be loaded ({type(error).__name__}: {said})")
    rows = [{"src": s, "mt": t, "ref": r} for s, t, r in zip(sources, texts, references)]
    out = scorer.predict(rows, batch_size=batch_size, gpus=int(torch.cuda.is_available()), num_workers=0, progress_bar=False)
    return Comet(float(out.system_score), [float(s) for s in out.scores], "")


def _checkpoint(model: str | Path) -> Path:
    """The checkpoint's file. What it needs of its encoder (a tokenizer, a configuration) is then in the cache, too."""
    place = hub.folder(model, "comet")
    checkpoint = place if place.is_file() else place / "checkpoints" / "model.ckpt"
    for encoder in hub.encoders(checkpoint.parents[1] / "hparams.yaml"):
        hub.folder(encoder, "tokenizer")
    return checkpoint
