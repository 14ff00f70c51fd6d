"""The tables of notebooks 01 and 02, on rows whose numbers can be computed by hand."""

import numpy as np
import pytest

from kdlib import results, target_tables, votes

TRUTH = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.0, 0.5, 0.5]])
LOGITS = np.array([[2.0, 1.0, -1.0], [3.0, 0.0, 1.0], [-2.0, 0.5, 0.0]])  # wrong on the second row
HARD = np.eye(3)[[0, 2, 1]]


def soften(T):
    weights = np.exp(LOGITS / T)
    return weights / weights.sum(-1, keepdims=True)


def smooth(epsilon):
    return (1 - epsilon) * HARD + epsilon / 3


def test_scores():
    table = target_tables.scores(TRUTH, {"itself": TRUTH, "teacher": soften(1), "hard": HARD})
    assert table.loc["itself"].tolist() == [0, round(votes.entropy(TRUTH).mean(), 3), 1]
    assert table["first choice agrees"]["teacher"] == pytest.approx(2 / 3, abs=1e-3)
    assert np.isinf(table["KL"]["hard"]) and table["entropy"]["hard"] == 0


def test_by_label_means_over_the_rows_of_a_label():
    rows = TRUTH[[0, 1, 2, 2]]
    table = target_tables.by_label(np.array([0, 0, 1, 2]), {"truth": rows})
    first = table.set_index("label").loc["entailment"]
    assert first["entailment"] == pytest.approx(0.35) and first["neutral"] == pytest.approx(0.25)


@pytest.mark.parametrize("make", [soften, smooth])
@pytest.mark.parametrize("wanted", [0.2, 0.7, 1.05])
def test_strength_at_gives_the_wanted_entropy(make, wanted):
    strength = target_tables.strength_at(make, wanted)
    assert votes.entropy(make(strength)).mean() == pytest.approx(wanted, abs=1e-6)


def test_compared_pairs_rows_and_makes_entropies_equal():
    makers = {"label": (smooth, [0.1, 0.5]), "teacher": (soften, [1, 2, 4])}
    table = target_tables.compared(TRUTH, makers, "teacher")
    best = table.loc["each at its best"]
    mean_kl = {T: votes.kl(TRUTH, soften(T)).mean() for T in (1, 2, 4)}
    assert best["strength"]["teacher"] == min(mean_kl, key=mean_kl.get)
    gap = votes.kl(TRUTH, smooth(best["strength"]["label"])) - votes.kl(
        TRUTH, soften(best["strength"]["teacher"])
    )
    assert best["saved"]["label"] == pytest.approx(gap.mean())
    assert best["±"]["label"] == pytest.approx(2 * gap.std() / 3**0.5)
    assert np.ptp(table.loc["equal entropy"]["entropy"]) < 1e-9


def test_over_temperature_keeps_first_choices_and_splits_rows():
    table = target_tables.over_temperature(TRUTH, LOGITS, [1, 2, 8])
    assert table["entropy"].is_monotonic_increasing
    assert table["first choice agrees"].nunique() == 1
    assert table["all rows"][1] == pytest.approx(votes.kl(TRUTH, soften(2)).mean())
    assert table["teacher wrong"][1] == pytest.approx(votes.kl(TRUTH, soften(2))[1])


def test_the_sizes_are_arithmetic_on_the_stored_facts():
    """141 GB fit into two GPUs of 80; the cost of a token grows with the bytes that are read."""
    table = results.model_sizes()
    big, small = table.loc["Llama-3.1-70B"], table.loc["Llama-3.2-1B"]
    assert big["GB at 16 bits"] == pytest.approx(2 * 70.553706496)
    assert big["NVIDIA H100 SXM needed"] == 2
    assert small["tokens a second, at most"] == pytest.approx(3350 / 2.4716288)
    cost = "cost of a token (smallest: 1)"
    assert big[cost] == pytest.approx(70553706496 / 1235814400) and small[cost] == 1


def test_the_parameters_follow_from_the_published_shapes():
    """Layers, widths and heads as the data file names them; a head's width is 128, in the 1B 64."""
    counted = {}
    for name, layers, width, inner, key_value, tied in (
        ("Llama-3.1-70B", 80, 8192, 28672, 8 * 128, False),
        ("Llama-3.1-8B", 32, 4096, 14336, 8 * 128, False),
        ("Llama-3.2-1B", 16, 2048, 8192, 8 * 64, True),
    ):
        layer = 2 * width**2 + 2 * width * key_value + 3 * width * inner + 2 * width
        counted[name] = layers * layer + width + 128_256 * width * (1 if tied else 2)
    table = results.model_sizes()
    assert (1e9 * table["parameters (billions)"]).round().astype(int).to_dict() == counted


def test_beside_stored_shows_what_both_records_have():
    draft = {"notebook": "01_soft_targets", "results": {"KL, teacher at T = 1": 9.0, "new": 1}}
    table = results.beside_stored(draft, "lab", "mine", "stored")
    assert table.to_dict() == {
        "mine": {"KL, teacher at T = 1": 9.0},
        "stored": {"KL, teacher at T = 1": 0.706},
    }
