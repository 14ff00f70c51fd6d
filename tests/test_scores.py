"""Differences between systems of translations."""

import pytest

from kdlib import scores


def test_bleu_gap_draws_sentences_not_their_translations():
    """Three seeds with the same translations are one system: the interval must not shrink, and equals a bootstrap by hand."""
    import numpy as np
    from sacrebleu.metrics import BLEU

    refs = [f"la commission adopte le rapport {i} sur la pêche et le budget ." for i in range(40)]
    worse = [r.replace("adopte", "rejette") if i % 3 else r for i, r in enumerate(refs)]
    better = [r.replace("budget", "marché") if i % 5 == 0 else r for i, r in enumerate(refs)]
    once, thrice = (
        scores.bleu_gap([better], [worse], refs, samples=300),
        scores.bleu_gap([better] * 3, [worse] * 3, refs, samples=300),
    )
    assert once == pytest.approx(thrice, abs=1e-9)
    assert once[0] == pytest.approx(
        BLEU().corpus_score(better, [refs]).score - BLEU().corpus_score(worse, [refs]).score,
        abs=1e-9,
    )
    draw, gaps = np.random.default_rng(1), []
    for _ in range(300):
        i = draw.integers(0, 40, 40)
        pick = lambda texts: [texts[j] for j in i]
        gaps.append(
            BLEU().corpus_score(pick(better), [pick(refs)]).score
            - BLEU().corpus_score(pick(worse), [pick(refs)]).score
        )
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert once[1] == pytest.approx(low, abs=1.5) and once[2] == pytest.approx(high, abs=1.5)
    with pytest.raises(ValueError, match="as many texts"):
        scores.bleu_gap([better[:-1]], [worse], refs)
