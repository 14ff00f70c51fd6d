"""tuning: validation rows choose each method's point, test rows report, and no seed counts twice."""

import numpy as np
import pandas as pd
import pytest

from kdlib import comparisons, results, tuning
from kdlib.course import statistics
from kdlib.course.stored import Stored


def run(method, rate, epochs, seed, chooses, reports=0.5):
    return {
        "method": method,
        "learning_rate": rate,
        "epochs": epochs,
        "seed": seed,
        "validation_accuracy": chooses,
        "accuracy": reports,
    }


def test_validation_rows_choose_and_test_rows_do_not():
    runs = pd.DataFrame(
        [
            run("kd", 1e-3, 2, 0, chooses=0.7, reports=0.9),
            run("kd", 1e-4, 2, 0, chooses=0.8, reports=0.1),
            run("ce", 1e-3, 2, 0, chooses=0.6),
            run("ce", 1e-4, 2, 0, chooses=0.5),
        ]
    )
    best = tuning.best(runs)
    assert dict(zip(best["method"], best["learning_rate"])) == {"kd": 1e-4, "ce": 1e-3}
    assert list(tuning.choices(runs)["method"]) == ["ce", "kd"], "in the order of all tables"


def test_seeds_of_the_chosen_point_alone_choose_nothing():
    """Three more seeds at one point must not lift or sink it against the others."""
    grid = [run("kd", 1e-3, 2, 0, 0.7), run("kd", 1e-4, 2, 0, 0.6)]
    more = [run("kd", 1e-3, 2, seed, 0.1) for seed in (1, 2, 3)]
    best = tuning.best(pd.DataFrame(grid + more))
    assert set(best["learning_rate"]) == {1e-3} and set(best["seed"]) == {0, 1, 2, 3}


def test_of_equal_scores_the_cheaper_point_wins():
    runs = pd.DataFrame([run("kd", 1e-3, epochs, 0, 0.7) for epochs in (8, 2, 4)])
    assert tuning.choices(runs)["epochs"].item() == 2


def test_the_edge_of_the_grid_is_told():
    points = [(1e-4, 2), (1e-3, 4), (1e-2, 8), (1e-3, 8)]
    runs = pd.DataFrame(
        [
            run("kd", rate, epochs, 0, 0.9 if (rate, epochs) == (1e-3, 4) else 0.5)
            for rate, epochs in points
        ]
        + [run("ce", rate, epochs, 0, 0.9 if epochs == 8 else 0.5) for rate, epochs in points]
    )
    edges = tuning.choices(runs).set_index("method")["at edge"]
    assert edges["kd"] == "no" and "epochs" in edges["ce"]


def test_the_table_shows_what_each_rate_and_tuning_were_worth():
    points = [run("kd", 1e-3, 2, 0, 0.7), run("kd", 1e-3, 4, 0, 0.75), run("kd", 1e-4, 2, 0, 0.5)]
    row = tuning.told(pd.DataFrame(points)).iloc[0]
    assert row[["best", "worst"]].tolist() == ["75.0%", "50.0%"]
    assert row[["best at 0.001", "best at 0.0001"]].tolist() == ["75.0%", "50.0%"]


def test_one_run_is_its_own_best():
    """A student's first run: nothing to compare with, and no error."""
    runs = pd.DataFrame([run("kd", 1e-3, 2, 0, 0.7)])
    assert len(tuning.best(runs)) == 1
    assert comparisons.told(comparisons.against(runs, "kd", ["ce"], "accuracy"), {}).size


# -- differences, corrected ----------------------------------------------------------------------


def compared(gaps, rows=None):
    """KD minus controls whose accuracy is lower by these gaps, seed by seed."""
    runs = []
    for method, values in {"kd": [0.0] * 5, **gaps}.items():
        runs += [{"method": method, "seed": i, "accuracy": -x} for i, x in enumerate(values)]
    return comparisons.against(pd.DataFrame(runs), "kd", list(gaps), "accuracy", rows=rows)


def test_many_looks_are_corrected():
    """A gap that stands alone (p = 0.03) does not stand among five."""
    gap = [1.0, 0.2, 0.9, 1.4, 0.1]
    assert 0.01 < statistics.p_value(gap) < 0.05
    assert compared({"ce": gap})["shown"].tolist() == [True]
    noise = {f"other {i}": [1.0, -1.0, 0.5, -0.4, 0.1 * i] for i in range(4)}
    assert not compared({"ce": gap, **noise})["shown"].any()


def test_rows_have_their_say():
    """All seeds agree to the digit, and the rows are a coin: nothing is shown."""
    random = np.random.default_rng(0)
    rows = {
        method: dict(enumerate(random.random((5, 40)) < share))
        for method, share in {"kd": 0.55, "ce": 0.5}.items()
    }
    gap = [0.05, 0.051, 0.049, 0.05, 0.05]
    assert compared({"ce": gap})["shown"].tolist() == [True]
    table = compared({"ce": gap}, rows)
    assert table["shown"].tolist() == [False]
    assert comparisons.told(table, {})[""].tolist() == ["not shown: other rows may disagree"]


def test_seeds_that_one_method_alone_has_run_are_left_out():
    """The course's own runs come in one by one: KD may have five seeds where CE has one."""
    runs = [{"method": "kd", "seed": seed, "accuracy": 0.6} for seed in range(5)]
    runs += [{"method": "ce", "seed": 3, "accuracy": 0.5}]
    rows = {
        "kd": {seed: np.arange(40) % 5 < 3 for seed in range(5)},
        "ce": {3: np.arange(40) % 2 == 0},
    }
    table = comparisons.against(pd.DataFrame(runs), "kd", ["ce"], "accuracy", rows=rows)
    assert table.loc["ce", "seeds"] == 1 and table.loc["ce", "mean"] == pytest.approx(0.1)
    assert not table.loc["ce", "shown"]


def test_what_is_not_shown_says_what_would_have_been():
    table = compared({"ce": [0.01, -0.01, 0.02, -0.02, 0.005]})
    line = comparisons.told(table, {"ce": "CE only"}, scale=100).iloc[0]
    assert line["against"] == "CE only"
    size = 100 * statistics.detectable([0.01, -0.01, 0.02, -0.02, 0.005])
    assert line[""] == f"not shown; {size:.1f} would have been"


def test_the_default_student_has_seeds_to_be_compared_with():
    """`run 04` ends with a line "your run beside the course's": the same settings, other seeds."""
    from kdlib.course.settings import settings_of

    again = results.reference("04_distilbert_mnli", "laptop_again")
    usual = settings_of("04_distilbert_mnli", "laptop")
    assert set(again["seed"]) == {0, 1, 2, 3, 4}
    for name, value in usual.items():
        assert set(again[name]) == {value}, name


# -- the course's own grids ----------------------------------------------------------------------

TUNED = [("04_distilbert_mnli", "laptop_tuned", 5)]


@pytest.mark.parametrize("notebook, file, seeds", TUNED)
def test_every_method_got_the_same_grid(notebook, file, seeds):
    runs = results.reference(notebook, file)
    points = {
        method: {tuple(point) for point in part[list(tuning.AXES)].to_numpy()}
        for method, part in runs.groupby("method")
    }
    assert len(set(map(frozenset, points.values()))) == 1
    assert runs["learning_rate"].nunique() >= 3 and runs["epochs"].nunique() >= 3
    best = tuning.best(runs)
    assert (best.groupby("method")["seed"].nunique() >= seeds).all()
    assert not Stored(file).records(notebook)[0]["commit"].endswith("+"), "of a clean tree"


@pytest.mark.parametrize("notebook, file, seeds", TUNED)
def test_the_guesses_are_of_the_accuracy(notebook, file, seeds):
    from kdlib import glue

    records = results.reference_records(notebook, file)
    rows = records[0]["settings"]["test_rows"]
    labels = glue.load(glue.MNLI, "data/mini_nli", glue.MNLI.test, rows=rows)["label"]
    right = tuning.right_answers(records, labels)
    best = tuning.best(results.frame(records)).groupby("method")["accuracy"].mean()
    for method, answers in right.items():
        assert np.mean(list(answers.values())) == pytest.approx(best[method])
