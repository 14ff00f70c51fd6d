"""What a mistake does to a gradient and to trained students: notebook 03's tables."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from kdlib import distillation_loss, figures
from kdlib.course import mistakes


def loss(s, t, y, count):
    return distillation_loss(s, t, y, num_items=count).total


@pytest.fixture
def batch():
    ids = torch.arange(12).reshape(4, 3) + 1
    return {"input_ids": ids, "labels": torch.tensor([0, 1, 2, -100])}


def test_a_gradient_is_compared_with_its_own_right_one(batch):
    student, (t, other) = tiny.bert().train(), torch.randn(2, 4, 3)
    cases = {"half": (lambda *given: loss(*given) / 2, batch, t), "other": (loss, batch, other)}
    table = mistakes.on_one_batch(student, cases, (loss, batch, t)).set_index("mistake")
    assert table.loc["half"].tolist() == pytest.approx([0.5, 1.0], abs=1e-5)
    assert table.loc["other", "cosine"] < 0.999
    its_own = {"other": (loss, batch, other)}
    table = mistakes.on_one_batch(student, cases, (loss, batch, t), its_own).set_index("mistake")
    assert table.loc["other"].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_the_count_leaves_out_what_is_ignored(batch):
    student, counts = tiny.bert(), []

    def counting(s, t, y, count):
        counts.append(count)
        return loss(s, t, y, count)

    mistakes.gradient(student, counting, batch, torch.randn(4, 3))
    assert counts == [3]


def test_dropout_reaches_the_attention_of_the_copy(batch):
    model = tiny.bert()
    twin = mistakes.with_dropout(model, 0.5)
    ids = batch["input_ids"]
    with torch.no_grad():
        assert torch.equal(twin.eval()(ids).logits, model.eval()(ids).logits)
        assert not torch.equal(twin.train()(ids).logits, twin(ids).logits)
    attention = twin.bert.encoder.layer[0].attention.self
    assert getattr(attention, "dropout_prob", attention.dropout.p) == 0.5


def test_scores_are_the_share_of_labels_and_the_divergence_from_the_truth():
    truth = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    logits = torch.tensor([[1.0, 1.0, -40.0], [0.0, 0.0, 0.0]])
    found = mistakes.scores(logits, [1, 0], truth)
    by_hand = (truth[1] * (3 * truth[1]).log()).sum().item() / 2
    assert found["kl_to_truth"] == pytest.approx(by_hand, abs=1e-6)
    assert found["accuracy"] == (logits.argmax(1) == torch.tensor([1, 0])).float().mean()
    assert "kl_to_truth" not in mistakes.scores(logits, [1, 0])


@pytest.fixture
def runs():
    random = np.random.default_rng(0)
    effects = {
        "right": 0,
        "calm": -0.02,
        "small": -0.001,
        "large": -0.1,
        "noisy": -0.02,
        "CE": -0.05,
    }
    columns = {}
    for name, effect in effects.items():
        columns[f"accuracy, {name}"] = 0.8 + effect + 0.002 * random.normal(size=6)
        columns[f"kl_to_truth, {name}"] = 0.3 - effect + 0.002 * random.normal(size=6)
    return pd.DataFrame(columns)


def test_harm_is_less_accuracy_and_more_divergence(runs):
    names = ["small", "large", "noisy"]
    tables = mistakes.judged(runs, names, {"noisy": "calm"})
    for metric, sign in (("accuracy", -100), ("kl_to_truth", 1)):
        table = tables[metric]
        assert table["worse"].to_dict() == {"small": False, "large": True, "noisy": False}
        assert table.loc["large", "mean"] == pytest.approx(sign * 0.1, rel=0.1)
    better = runs.rename(columns=lambda name: name.replace("large", "kept"))
    better["accuracy, large"] = better["accuracy, right"] + better["accuracy, small"] / 10
    better["kl_to_truth, large"] = runs["kl_to_truth, large"]
    table = mistakes.judged(better, names, {"noisy": "calm"})["accuracy"]
    assert table.loc["large", "shown"] and not table.loc["large", "worse"]


def test_the_power_check_says_what_the_runs_can_see(runs):
    lines = mistakes.power_check(runs, "CE")
    assert "6 seeds" in lines[0] and all("can see" in line for line in lines[1:])
    assert "cannot see" in mistakes.power_check(runs, "right")[1]


def test_the_figure_has_every_mistake_twice_and_this_run_where_it_is_known(runs):
    tables = mistakes.judged(runs, ["small", "large", "noisy"], {"noisy": "calm"})
    mine = {"accuracy, right": 0.8, "accuracy, large": 0.7, "accuracy, noisy": 0.79}
    table = mistakes.for_figure(tables, mine, {"noisy": "calm"})
    assert len(table) == 6 and table["mine"].notna().sum() == 1
    assert table.loc[table["mine"].notna(), "mine"].item() == pytest.approx(-10)
    fig = figures.accuracy_hides(table)
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == [
        "small",
        "large",
        "noisy",
    ]


def test_the_slide_reads_all_seeds_and_leaves_out_who_is_no_mistake(runs):
    names = {"calm": "right, dropout teacher", "noisy": "teacher's dropout on", "CE": "CE only"}
    renamed = runs.rename(columns=lambda column: ", ".join(
        names.get(part, part) for part in column.split(", ")
    ))  # fmt: skip
    table = mistakes.of_runs(renamed.assign(seconds=1.0))
    assert set(table["loss"]) == {"small", "large", "teacher's dropout on"}
    assert len(table) == 6 and table["mine"].isna().all()
    noisy = table[table["loss"] == "teacher's dropout on"].iloc[0]
    gap = runs["accuracy, noisy"] - runs["accuracy, calm"]
    assert noisy["mean"] == pytest.approx(100 * gap.mean())
