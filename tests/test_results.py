"""results: every whole record is one row, a broken one is named, and nobody needs torch to read them."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from kdlib import results
from kdlib.course import statistics
from kdlib.course import stored as stored_records
from kdlib.paths import write_json

NOTEBOOK = "04_distilbert_mnli"


def record(seed=0, accuracy=0.8, **changes) -> dict:
    return {
        "notebook": NOTEBOOK,
        "profile": "smoke",
        "seed": seed,
        "settings": {"method": "kd", "temperature": 2.0},
        "results": {
            "accuracy": accuracy,
            "macro_f1": accuracy - 0.1,
            "history": [{"step": 1, "ce": 1.0}, {"step": 2, "ce": 0.5}],
        },
        "seconds": 3.0,
        "peak_gb": 1.0,
        "commit": "abc",
    } | changes


def put(root, name: str, value: dict):
    write_json(root / value["notebook"] / name / "record.json", value)
    return root / value["notebook"] / name / "record.json"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """data/results of the course, in a temporary folder."""
    for module in (results, stored_records):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
    monkeypatch.setattr(stored_records, "ROOT", tmp_path)
    return tmp_path / "data" / "results"


def test_one_row_a_run(fresh_runs):
    for seed in range(3):
        put(fresh_runs, f"smoke-seed{seed}", record(seed, 0.8 + seed / 100))
    put(fresh_runs, "laptop-seed0", record(profile="laptop"))
    put(fresh_runs, "other", record(notebook="05_distilbert_qqp"))
    table = results.load(NOTEBOOK, "smoke")
    assert table["accuracy"].tolist() == [0.8, 0.8 + 1 / 100, 0.8 + 2 / 100] and table[
        "seed"
    ].tolist() == [0, 1, 2]
    assert {
        "notebook",
        "profile",
        "method",
        "temperature",
        "macro_f1",
        "seconds",
        "peak_gb",
        "commit",
    } <= set(table.columns)
    assert "history" not in table.columns, "a list is no cell"
    assert (
        len(results.load()) == 5
        and len(results.load(NOTEBOOK)) == 4
        and len(results.load("06_none")) == 0
    )


def test_a_row_tells_what_the_run_cost_and_with_which_versions():
    costs = {"teacher_seconds": 4.5, "samples_per_second": 120.0, "guesses": "0120"}
    versions = {"python": "3.11.7", "torch": "2.13.0"}
    table = results.frame(
        [record(0, results={"accuracy": 0.8, **costs}, versions=versions), record(1)]
    )
    assert table.loc[0, ["teacher_seconds", "samples_per_second", "torch", "python"]].tolist() == [
        4.5,
        120.0,
        "2.13.0",
        "3.11.7",
    ]
    assert table.loc[1, ["teacher_seconds", "torch"]].isna().all() and "guesses" not in table, (
        "2,000 digits are no cell"
    )


def test_a_name_used_twice_means_the_same_in_every_row():
    one = record(
        0,
        settings={"rows": 0, "seconds": 9.0},
        results={"rows": 1569, "torch": 1},
        versions={"torch": "2.13.0"},
    )
    two = record(1, settings={"rows": 5}, results={"accuracy": 0.9}, versions={"torch": "2.6.0"})
    table = results.frame([one, two])
    assert table["rows"].tolist() == [0, 5] and table["rows_result"].tolist()[0] == 1569
    assert table["seconds"].tolist()[0] == 9.0 and table["seconds_run"].tolist() == [3.0, 3.0]
    assert table["torch"].tolist()[0] == 1 and table["torch_version"].tolist() == [
        "2.13.0",
        "2.6.0",
    ]


def test_guesses_as_a_digit_a_row():
    kept = record(results={"guesses": results.pack(np.array([0, 2, 1, 1]))})
    assert kept["results"]["guesses"] == "0211" and results.guesses(
        json.loads(json.dumps(kept))
    ).tolist() == [0, 2, 1, 1]
    for wrong in ([10], [-1]):
        with pytest.raises(ValueError, match="0 to 9"):
            results.pack(wrong)
    with pytest.raises(KeyError):
        results.guesses(record())


def test_runs_of_another_folder(tmp_path, fresh_runs):
    put(tmp_path / "mine", "a", record())
    assert len(results.load(root=tmp_path / "mine")) == 1 and len(results.load()) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "cut off",
        "empty",
        "no record",
        "not text",
        "a list",
        "null",
        "a number",
        "no results",
        "a folder",
    ],
)
def test_a_broken_record_is_named_and_left_out(fresh_runs, damage):
    put(fresh_runs, "good", record())
    bad = put(fresh_runs, "bad", record(1))
    body = bad.read_bytes()
    if damage == "a folder":
        bad.unlink(), bad.mkdir()
    else:
        bad.write_bytes(
            {
                "cut off": body[:-30],
                "empty": b"",
                "no record": b'{"seed": 1}',
                "not text": b"\xff\xfe\x00",
                "a list": b"[]",
                "null": b"null",
                "a number": b"5",
                "no results": json.dumps(json.loads(body) | {"results": None}).encode(),
            }[damage]
        )
    with pytest.warns(UserWarning, match="bad/record.json"):
        assert len(results.load(NOTEBOOK)) == 1
    with pytest.raises(ValueError, match="bad/record.json"):
        results.read(bad)


def test_a_half_written_record_of_another_process_is_not_seen(fresh_runs):
    place = put(fresh_runs, "good", record())
    place.with_name("record.json.4711.new").write_text('{"noteb')
    assert len(results.load(NOTEBOOK)) == 1


def test_mean_and_sample_sd():
    runs = pd.DataFrame(
        {
            "method": ["kd", "kd", "kd", "ce", "new"],
            "accuracy": [0.80, 0.82, 0.84, 0.7, np.nan],
            "loss": [1.0, 2, 3, 4, 5],
        }
    )
    table = results.summary(runs, ["method"], ["accuracy", "loss"]).set_index("method")
    assert table.loc["kd", "accuracy"] == "82.0 ± 2.0" and table.loc["kd", "runs"] == 3
    assert table.loc["ce", "accuracy"] == "70.0" and table.loc["new", "accuracy"] == "–"
    assert list(table.index) == ["kd", "ce", "new"], "the order of the runs is kept"
    assert (
        results.summary(runs, ["method"], ["loss"], digits=2, scale=1).loc[0, "loss"]
        == "2.00 ± 1.00"
    )


def test_each_metric_may_have_its_own_digits():
    runs = pd.DataFrame({"method": ["kd", "kd"], "bleu": [1.0, 2.0], "kl": [0.1234, 0.1234]})
    table = results.summary(runs, ["method"], {"kl": 3, "bleu": 0}, scale=1)
    assert table.loc[0].tolist() == ["kd", "0.123 ± 0.000", "2 ± 1", 2]


def test_listed_items_carry_the_seed_of_their_run():
    one = record(3, results={"recipes": [{"name": "right"}, {"name": "wrong"}]})
    table = results.listed([one, record(4)], "recipes")
    assert table.to_dict("list") == {"seed": [3, 3], "name": ["right", "wrong"]}


def test_what_was_not_measured_has_no_column():
    text = results.formatted([{"name": "a", "bleu": 12.34, "kl": 1}], {"name": "s", "bleu": ".1f"})
    assert [line.split() for line in text.splitlines()] == [["name", "bleu"], ["a", "12.3"]]
    assert results.short("abc", 3) == "abc" and results.short("abcd", 3) == "abc…"


def test_a_difference_is_told_with_the_digits_of_its_mean():
    gap = results.difference(0.0123, -0.001, 0.0256, 3)
    assert gap.verdict == "includes 0: not shown"
    assert gap.told("+6.1f", "points", scale=100) == "  +1.2 points [-0.1, +2.6]"
    assert results.difference(-2.0, -3.0, -1.0, 3).told("+.2f") == "-2.00 [-3.00, -1.00]"


def test_loss_curves_as_rows():
    table = results.history([record(0), record(1)], T="temperature")
    assert (
        table.to_dict("records")[1] == {"seed": 0, "T": 2.0, "step": 2, "ce": 0.5}
        and len(table) == 4
    )


def test_store_and_read_back(fresh_runs, stored):
    put(fresh_runs, "b", record(1, 0.9)), put(fresh_runs, "a", record(0, 0.8))
    path = results.store(NOTEBOOK, "smoke")
    assert path == stored / NOTEBOOK / "smoke.json"
    assert results.reference(NOTEBOOK, "smoke")["accuracy"].tolist() == [0.8, 0.9]
    first = path.read_bytes()
    results.store(NOTEBOOK, "smoke")
    assert path.read_bytes() == first, "storing the same records changes nothing"
    with pytest.raises(FileNotFoundError, match="no records of .* under profile full"):
        results.store(NOTEBOOK, "full")
    with pytest.raises(FileNotFoundError, match="no reference results .*data/results"):
        results.reference(NOTEBOOK, "full")


def test_nothing_is_stored_beside_a_broken_record(fresh_runs, stored):
    put(fresh_runs, "a", record(0, 0.8)), put(fresh_runs, "b", record(1, 0.9))
    broken = next(p for p in fresh_runs.glob("*/b/record.json"))
    broken.write_text(broken.read_text()[:40])
    with pytest.raises(ValueError, match="nothing was stored: .*b.record.json is cut off"):
        results.store(NOTEBOOK, "smoke")
    assert not (stored / NOTEBOOK).exists()


@pytest.mark.parametrize("name", ["", "/somewhere/else"])
def test_a_notebook_is_named_not_a_path(name):
    with pytest.raises(ValueError, match="name a notebook"):
        results.load(name)


def test_your_run_beside_the_reference():
    against = [record(s, a) for s, a in enumerate((0.80, 0.82, 0.84))]
    rows = results.compare(record(accuracy=0.85), ["accuracy", "missing"], against).set_index(
        "metric"
    )
    assert (
        rows.loc["accuracy", "inside"] == "yes"
        and rows.loc["accuracy", "reference"] == "0.8200 ± 0.0200 (n=3)"
    )
    assert rows.loc["missing", "inside"] == "–"
    assert results.compare(record(accuracy=0.87), ["accuracy"], against).loc[0, "inside"] == "no"
    other = record(settings={"method": "ce", "temperature": 2.0})
    assert results.compare(other, ["accuracy"], against).loc[0, "inside"] == "–"


def test_a_paired_difference_is_a_paired_t_interval():
    from scipy.stats import ttest_rel

    draw = np.random.default_rng(0)
    a, b = draw.normal(0.8, 0.01, 6), draw.normal(0.79, 0.01, 6)
    runs = pd.DataFrame(
        {"method": ["kd"] * 6 + ["ce"] * 6, "seed": [*range(6)] * 2, "accuracy": [*a, *b]}
    )
    runs = pd.concat(
        [runs, pd.DataFrame({"method": ["kd"], "seed": [99], "accuracy": [0.1]})]
    )  # no partner: left out
    found, theirs = (
        results.paired(runs.sample(frac=1, random_state=1), "kd", "ce", "accuracy"),
        ttest_rel(a, b).confidence_interval(0.95),
    )
    assert found.n == 6 and found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert ("excludes" in found.verdict) == (theirs.low > 0 or theirs.high < 0)
    assert results.paired(runs[runs.seed == 0], "kd", "ce", "accuracy").verdict.startswith(
        "one seed"
    )
    assert results.paired(runs, "kd", "none", "accuracy") is None


def setting(seed=0, learning_rate=5e-4, method="kd", alpha=0.5, temperature=2.0, **found) -> dict:
    """A record of one point of a sweep."""
    settings = {"method": method, "learning_rate": learning_rate, "alpha": alpha}
    return record(seed, settings=settings | {"temperature": temperature}, results=found)


def test_records_are_picked_by_their_settings():
    records = [setting(seed, rate) for seed in range(3) for rate in (5e-4, 5e-6, 5e-8)]
    records.append(setting(0, method="ce"))
    seeds = lambda **wanted: [r["seed"] for r in results.where(records, **wanted)]
    assert seeds(method="kd", learning_rate=0.0005) == [0, 1, 2]
    assert seeds(learning_rate=5e-8) == [0, 1, 2], "small rates are not all alike"
    assert seeds(method="kd", seed=1, alpha=0.5) == [1, 1, 1]
    assert seeds() == [r["seed"] for r in records] and seeds(alpha=1) == []
    with pytest.raises(KeyError, match="learning_rat"):
        results.where(records, learning_rat=5e-4)


def test_a_table_of_methods_has_their_names_and_order_and_a_unit_a_metric():
    rows = [("kd", 0.80, 0.30, 5.0), ("kd", 0.82, 0.32, 6.0), ("ce", 0.70, 0.50, 5.0)]
    rows += [("shuffled", 0.75, 0.40, 0.0)]
    runs = pd.DataFrame(rows, columns=["method", "accuracy", "ce", "teacher_seconds"])
    table = results.scores(runs, seconds=("seconds", "teacher_seconds"))
    assert table.columns.tolist() == ["method", "accuracy", "runs", "ce", "teacher_seconds"]
    assert table.to_numpy().tolist() == [
        ["CE only", "70.0", 1, "0.500", "–"],
        ["KD, wrong classes shuffled", "75.0", 1, "0.400", "0"],
        ["KD", "81.0 ± 1.4", 2, "0.310 ± 0.014", "6 ± 1"],
    ]
    by_loss = results.scores(runs, by="ce", percent=["accuracy"], nats=())
    assert by_loss["ce"].tolist() == [0.30, 0.32, 0.50, 0.40], "as they come"
    stored = pd.concat([runs.assign(teacher_seconds=0.0)] * 2)
    bill = results.scores(stored, seconds=["teacher_seconds"])["teacher_seconds"]
    assert bill.tolist() == ["–", "elsewhere", "elsewhere"]


def test_columns_beside_one_of_them_and_each_beside_its_own():
    columns = {"right": [80.0, 82.0], "swapped": [80.0, 83.0]}
    columns |= {"noisy": [70.0, 75.0], "calm": [71.0, 78.0]}
    table = results.against(pd.DataFrame(columns), "right", instead={"noisy": "calm"})
    assert table.index.tolist() == ["swapped", "noisy"]
    assert table["mean"].tolist() == [0.5, -2.0]


def test_looked_at_jointly_an_interval_excludes_0_where_holm_lets_it_stand():
    random = np.random.default_rng(0)
    effects = {"none": 0.0, "large": 5.0, "small": 1.0, "less": -0.8}
    for _ in range(20):
        draws = {name: effect + random.normal(size=6) for name, effect in effects.items()}
        table = statistics.jointly(pd.DataFrame(draws))
        p_values = [statistics.p_value(values) for values in draws.values()]
        assert table["shown"].tolist() == statistics.holm(p_values)
        excludes_0 = (table["low"] > 0) | (table["high"] < 0)
        assert excludes_0.tolist() == table["shown"].tolist()
    # a question by itself needs no correction
    alone = statistics.jointly(pd.DataFrame({"large": draws["large"]})).iloc[0]
    expected = statistics.interval(draws["large"])
    assert (alone["low"], alone["high"]) == pytest.approx((expected.low, expected.high))
    assert alone["detectable"] == pytest.approx(statistics.detectable(draws["large"]))


def test_labels_alone_stand_at_alpha_0_and_half_a_grid_is_left_out():
    points = [(method, alpha, T, seed) for seed in (0, 1) for method, alpha, T in (
        ("ce", 0.9, 2), ("kd", 0.5, 1), ("kd", 0.5, 4), ("kd", 1.0, 1), ("kd", 1.0, 4))]  # fmt: skip
    points += [("shuffled", 0.5, 2, 0), ("kd", 0.5, 1, 2)]  # a control, and a sweep cut short
    runs = pd.DataFrame(points, columns=["method", "alpha", "temperature", "seed"])
    runs["accuracy"] = runs["alpha"] + runs["temperature"] / 100 + runs["seed"]
    grid = results.over_alpha(runs)
    assert set(grid["method"]) == {"kd", "ce"} and len(grid) == 11
    assert (grid["alpha"] == 0).equals(grid["method"] == "ce") and (runs["alpha"] > 0).all()
    table = results.by_alpha(grid)
    assert table.index.tolist() == [0, 1] and table.columns.tolist() == [0.0, 0.5, 1.0]
    assert table.loc[1].tolist() == pytest.approx([1.92, 1.525, 2.025])


def test_a_record_older_than_a_setting_counts_as_one_with_its_default():
    notebook = {"notebook": "07_eurollama_distil", "profile": "laptop", "seed": 0}
    old = notebook | {"settings": {"method": "kd"}, "results": {"bleu": 70.0}}
    new = notebook | {"settings": {"method": "kd", "system": "lecture"}, "results": {"bleu": 70.5}}
    other = new | {"settings": {"method": "kd", "system": "empty"}}
    assert results.compare(new, ["bleu"], [old, old])["reference"][0].startswith("70.0")
    assert results.compare(other, ["bleu"], [old])["inside"][0] == "–"


def test_guesses_of_two_methods_are_compared_seed_by_seed():
    ours = [setting(seed, guesses=text) for seed, text in ((2, "01"), (0, "11"), (1, "00"))]
    theirs = [setting(0, guesses="10"), setting(2, guesses="00"), setting(1), setting(9)]
    first, second = results.guesses_of_both(ours, theirs)
    assert first.tolist() == [[1, 1], [0, 1]] and second.tolist() == [[1, 0], [0, 0]]
    assert [len(part) for part in results.guesses_of_both(ours, [])] == [0, 0]


def test_gaps_are_those_that_both_sides_measured():
    rows = [("kd", seed, 0.8 + seed / 100) for seed in range(3)] + [
        ("ce", seed, 0.7) for seed in (0, 1)
    ]
    runs = pd.DataFrame(rows, columns=["method", "seed", "accuracy"])
    found = list(results.gaps(runs, "kd", ["ce", "kd", "shuffled"], ["accuracy", "ece"]))
    assert found == [("ce", "accuracy", results.paired(runs, "kd", "ce", "accuracy"))]
    assert found[0][2].n == 2


def test_a_difference_tells_its_mean_and_interval_in_its_unit():
    found = statistics.Difference(0.0081, -0.0021, 0.0139, 3, "includes 0: not shown")
    assert found.told("+.1f", "points", 100) == "+0.8 points [-0.2, +1.4]"
    assert found.told("7.3f") == "  0.008 [-0.002, +0.014]"


WRITER = """
import sys
from pathlib import Path
from kdlib.paths import write_json
for i in range(20):
    write_json(Path(sys.argv[1]) / "04_distilbert_mnli" / f"{sys.argv[2]}-{i}" / "record.json", {
        "notebook": "04_distilbert_mnli", "profile": "smoke", "seed": i, "settings": {"who": int(sys.argv[2])}, "results": {"text": "x" * 20000}})
    write_json(Path(sys.argv[1]) / "04_distilbert_mnli" / "shared" / "record.json", {
        "notebook": "04_distilbert_mnli", "profile": "smoke", "seed": 0, "settings": {"who": -1}, "results": {"text": sys.argv[2] * 20000}})
"""


def test_eight_processes_writing_at_once_lose_no_record(fresh_runs):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(fresh_runs), str(i)]) for i in range(8)
    ]
    shared = fresh_runs / NOTEBOOK / "shared" / "record.json"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a reader in between never meets half a record
        while any(w.poll() is None for w in writers):
            results.load(NOTEBOOK)
            assert not shared.exists() or len(set(results.read(shared)["results"]["text"])) == 1
    assert [w.returncode for w in writers] == [0] * 8
    table = results.load(NOTEBOOK)
    assert len(table) == 161 and table.groupby("who").size().drop(-1).tolist() == [20] * 8
    assert len(results.read(shared)["results"]["text"]) == 20000 and not list(
        fresh_runs.rglob("*.new")
    )


def slow_bootstrap(score, a, b, draws, seed):
    """score(a or b of one seed, rows) → a number; a, b (seeds, rows). Loops, indices, no counts: independent of kdlib's."""
    draw, found = np.random.default_rng(seed), []
    for _ in range(draws):
        rows, seeds = draw.integers(0, a.shape[1], a.shape[1]), draw.integers(0, len(a), len(a))
        found.append(np.mean([score(a[s], rows) - score(b[s], rows) for s in seeds]))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("kind", ["right or wrong", "log p"])
def test_the_bootstrap_agrees_with_a_loop_over_draws(seeds, kind):
    draw = np.random.default_rng(1)
    a = draw.normal(0.3, 1, (seeds, 150)) + draw.normal(0, 1, 150)
    b = draw.normal(0, 1, (seeds, 150)) + draw.normal(0, 1, (seeds, 1))
    a, b = (a > 0, b > 0) if kind == "right or wrong" else (a, b)
    found = results.bootstrap(a, b, draws=6000)
    slow = slow_bootstrap(lambda scores, rows: scores[rows].mean(), a, b, 6000, seed=9)
    assert found.mean == pytest.approx(a.mean() - b.mean()) and found.n == 150
    assert (found.low, found.high) == pytest.approx(tuple(slow), abs=0.05 * (slow[1] - slow[0]))
    assert found == results.bootstrap(a, b, draws=6000)
    assert kind != "log p" or found != results.bootstrap(a, b, draws=6000, seed=1)
    narrow = results.bootstrap(a, b, draws=6000, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    if seeds == 1:
        assert results.bootstrap(a[0], b[0], draws=6000) == found


def guessed(seeds, rows, classes, seed=0):
    """labels (rows,), two students' guesses (seeds, rows), right in some 80 and 70 of 100 rows."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, rows)
    student = lambda share: np.where(
        draw.random((seeds, rows)) < share, labels, draw.integers(0, classes, (seeds, rows))
    )
    return labels, student(0.75), student(0.6)


@pytest.mark.parametrize(
    "name, seeds, classes",
    [("macro_f1", 1, 3), ("macro_f1", 2, 3), ("binary_f1", 1, 2), ("accuracy", 2, 4)],
)
def test_metrics_of_resampled_confusion_counts_agree_with_scikit_learn(name, seeds, classes):
    from sklearn.metrics import accuracy_score, f1_score

    score = {
        "macro_f1": lambda y, p: f1_score(y, p, average="macro"),
        "binary_f1": f1_score,
        "accuracy": accuracy_score,
    }[name]
    labels, a, b = guessed(seeds, 120, classes)
    found = results.bootstrap_metric(name, a, b, labels, draws=4000)
    slow = slow_bootstrap(
        lambda guesses, rows: score(labels[rows], guesses[rows]), a, b, 600, seed=9
    )
    assert found.mean == pytest.approx(
        np.mean([score(labels, x) - score(labels, y) for x, y in zip(a, b)])
    )
    assert (found.low, found.high) == pytest.approx(
        tuple(slow), abs=0.12 * (slow[1] - slow[0])
    ) and found.n == 120


def test_f1_of_small_samples_where_classes_are_missing():
    from sklearn.metrics import confusion_matrix, f1_score

    draw = np.random.default_rng(0)
    for _ in range(60):
        y, p = draw.integers(0, 4, (2, 5))
        counts = confusion_matrix(y, p, labels=range(4))[None]
        assert statistics.METRICS["macro_f1"](counts)[0] == pytest.approx(
            f1_score(y, p, average="macro")
        )
        assert statistics.METRICS["binary_f1"](counts)[0] == pytest.approx(
            f1_score(y == 1, p == 1, zero_division=0)
        )


def test_accuracy_is_a_mean_over_rows_and_so_both_ways_agree():
    labels, a, b = guessed(3, 400, 3)
    rows = results.bootstrap(a == labels, b == labels)
    counts = results.bootstrap_metric(
        lambda confusion: np.einsum("dcc->d", confusion) / 400, a, b, labels
    )
    assert counts.mean == pytest.approx(rows.mean)
    assert (counts.low, counts.high) == pytest.approx((rows.low, rows.high), abs=0.004)


@pytest.mark.parametrize("name", ["right or wrong", "macro_f1"])
def test_two_students_alike_are_told_apart_in_five_of_a_hundred_tests(name):
    draw, wrong = np.random.default_rng(5), 0
    for i in range(300):
        if name == "macro_f1":
            labels, a, b = guessed(1, 200, 3, seed=i)
            b = np.where(draw.random(200) < 0.75, labels, draw.integers(0, 3, 200))
            wrong += (
                results.bootstrap_metric(name, a[0], b, labels, draws=500).verdict == "excludes 0"
            )
        else:
            wrong += (
                results.bootstrap(draw.random(200) < 0.8, draw.random(200) < 0.8, draws=500).verdict
                == "excludes 0"
            )
    assert 0.02 * 300 <= wrong <= 0.09 * 300


def test_what_cannot_be_compared_row_by_row_is_refused():
    ones = np.ones(5)
    deep, none = np.ones((1, 1, 5)), np.ones((0, 5))
    for a, b, said in (
        (ones, np.ones(4), "one shape"),
        (np.ones((2, 5)), ones, "one shape"),
        (deep, deep, "one shape"),
        ([], [], "no rows"),
        (none, none, "no rows"),
        (ones * np.nan, ones, "NaN"),
        (ones, ones * np.inf, "finite"),
    ):
        with pytest.raises(ValueError, match=said):
            results.bootstrap(a, b)
        with pytest.raises(ValueError, match=said):
            results.bootstrap_metric("macro_f1", a, b, np.ones(np.shape(b)[-1], int))
    for level, draws in ((95, 10), (0.95, 0)):
        with pytest.raises(ValueError, match="level between 0 and 1"):
            results.bootstrap(ones, ones, draws=draws, level=level)
    with pytest.raises(ValueError, match="macro_f1, binary_f1"):
        results.bootstrap_metric("f1", ones, ones, ones)
    with pytest.raises(ValueError, match="labels of shape"):
        results.bootstrap_metric("macro_f1", ones, ones, np.ones(4, int))
    with pytest.raises(ValueError, match="classes"):
        results.bootstrap_metric("macro_f1", ones / 2, ones, np.ones(5, int))
    assert results.bootstrap([1.0], [0.0]).verdict == "one row: nothing is shown"
    assert results.bootstrap(ones, ones) == (0, 0, 0, 5, "includes 0: not shown")


HEAVY = ("torch", "transformers", "datasets", "evaluate", "sklearn", "accelerate")


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_results_and_figures_are_read_without_torch():
    assert not loaded_by(
        "import kdlib.course.results, kdlib.figures, kdlib.course.run, kdlib.course.stages, kdlib.corpora.get, kdlib.batch.runs"
    ) & set(HEAVY)


def test_importing_kdlib_loads_nothing_heavy():
    assert not loaded_by("import kdlib\ndir(kdlib)") & {
        *HEAVY,
        "matplotlib",
        "pandas",
        "numpy",
        "IPython",
    }
    assert not loaded_by("import kdlib.losses") & {
        "transformers",
        "datasets",
        "pandas",
        "matplotlib",
    }


def test_every_name_that_kdlib_offers_is_there():
    import kdlib

    missing = [name for name in kdlib.__all__ if not hasattr(kdlib, name)]
    assert missing == []
    with pytest.raises(AttributeError, match="kdlib has no 'distil'"):
        kdlib.distil


def test_the_versions_that_move_a_number():
    found = results.versions()
    assert set(found) >= {"python", "torch", "transformers", "numpy"} and json.dumps(found)
    assert 0.01 < results.peak_memory_gb() < 100


def test_a_child_does_not_count_what_its_parent_held():
    held = np.ones(100_000_000)  # 0.8 GB, in this process
    code = "from kdlib.engine.provenance import peak_memory_gb; print(peak_memory_gb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) < held.nbytes / 1e9 / 2


def test_what_could_have_been_seen_is_seen_in_four_of_five_repetitions():
    random = np.random.default_rng(0)
    for count in (3, 5):
        shown = []
        # an effect as large as said to be detectable with the true scatter
        from scipy.stats import t

        error = 1 / np.sqrt(count)
        effect = (t.ppf(0.975, count - 1) + t.ppf(0.8, count - 1)) * error
        for _ in range(4000):
            found = statistics.interval(random.normal(effect, 1, count))
            shown.append(found.low > 0)
        assert 0.72 < np.mean(shown) < 0.92
        spread = np.array([-1.0, 0.0, 1.0] if count == 3 else [-1.0, -1.0, 0.0, 1.0, 1.0])
        assert statistics.detectable(spread) == pytest.approx(effect * spread.std(ddof=1))
    assert statistics.detectable([1.0]) == np.inf


def test_p_and_interval_agree():
    from scipy.stats import ttest_1samp

    values = [1.0, 2.0, 4.0]
    for limit in (0.0, 1.5):
        expected = ttest_1samp(values, limit).pvalue
        assert statistics.p_value(values, limit) == pytest.approx(expected)
    assert statistics.p_value([2.0], 0.0) == 1.0
    assert statistics.p_value([2.0, 2.0], 0.0) == 0.0 and statistics.p_value([2.0, 2.0], 2.0) == 1.0


def test_holm_by_hand():
    # 0.01 ≤ 0.05/4, 0.015 ≤ 0.05/3, then 0.03 > 0.05/2 stops it
    assert statistics.holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert statistics.holm([]) == [] and statistics.holm([0.05]) == [True]
    assert statistics.holm([0.03, 0.03]) == [False, False]


def test_an_interval_is_students(fresh_runs):
    from scipy import stats

    values = [0.3, -0.1, 0.4, 0.2]
    found = results.interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high, found.n) == (
        pytest.approx(low),
        pytest.approx(high),
        4,
    ) and found.verdict.startswith("includes 0")
    assert results.interval([0.3]).verdict == "one seed: nothing is shown"
    for wrong in ([], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="needs numbers"):
            results.interval(wrong)
