"""results: every whole record is one row, a broken one is named, and nobody needs torch to read them."""
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from kdlib import results
from kdlib.run import write_json

NOTEBOOK = "04_distilbert_mnli"


def record(seed=0, accuracy=0.8, **changes) -> dict:
    return {"notebook": NOTEBOOK, "profile": "smoke", "seed": seed, "settings": {"method": "kd", "temperature": 2.0},
            "results": {"accuracy": accuracy, "macro_f1": accuracy - 0.1, "history": [{"step": 1, "ce": 1.0}, {"step": 2, "ce": 0.5}]},
            "seconds": 3.0, "peak_gb": 1.0, "commit": "abc"} | changes


def put(root, name: str, value: dict):
    write_json(root / value["notebook"] / name / "record.json", value)
    return root / value["notebook"] / name / "record.json"


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """data/results of the course, in a temporary folder."""
    monkeypatch.setattr(results, "DATA", tmp_path / "data")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    return tmp_path / "data" / "results"


def test_one_row_a_run(fresh_runs):
    for seed in range(3):
        put(fresh_runs, f"smoke-seed{seed}", record(seed, 0.8 + seed / 100))
    put(fresh_runs, "laptop-seed0", record(profile="laptop"))
    put(fresh_runs, "other", record(notebook="05_distilbert_qqp"))
    table = results.load(NOTEBOOK, "smoke")
    assert table["accuracy"].tolist() == [0.8, 0.8 + 1 / 100, 0.8 + 2 / 100] and table["seed"].tolist() == [0, 1, 2]
    assert {"notebook", "profile", "method", "temperature", "macro_f1", "seconds", "peak_gb", "commit"} <= set(table.columns)
    assert "history" not in table.columns, "a list is no cell"
    assert len(results.load()) == 5 and len(results.load(NOTEBOOK)) == 4 and len(results.load("06_none")) == 0


def test_runs_of_another_folder(tmp_path, fresh_runs):
    put(tmp_path / "mine", "a", record())
    assert len(results.load(root=tmp_path / "mine")) == 1 and len(results.load()) == 0


@pytest.mark.parametrize("damage", ["cut off", "empty", "no record", "not text", "a list"])
def test_a_broken_record_is_named_and_left_out(fresh_runs, damage):
    put(fresh_runs, "good", record())
    bad = put(fresh_runs, "bad", record(1))
    body = bad.read_bytes()
    bad.write_bytes({"cut off": body[:-30], "empty": b"", "no record": b'{"seed": 1}', "not text": b"\xff\xfe\x00", "a list": b"[]"}[damage])
    with pytest.warns(UserWarning, match="bad/record.json"):
        assert len(results.load(NOTEBOOK)) == 1
    with pytest.raises(ValueError, match="bad/record.json"):
        results.read(bad)


def test_a_half_written_record_of_another_process_is_not_seen(fresh_runs):
    place = put(fresh_runs, "good", record())
    place.with_name("record.json.4711.new").write_text('{"noteb')
    assert len(results.load(NOTEBOOK)) == 1


def test_mean_and_sample_sd():
    runs = pd.DataFrame({"method": ["kd", "kd", "kd", "ce", "new"], "accuracy": [0.80, 0.82, 0.84, 0.7, np.nan], "loss": [1.0, 2, 3, 4, 5]})
    table = results.summary(runs, ["method"], ["accuracy", "loss"]).set_index("method")
    assert table.loc["kd", "accuracy"] == "82.0 ± 2.0" and table.loc["kd", "runs"] == 3
    assert table.loc["ce", "accuracy"] == "70.0" and table.loc["new", "accuracy"] == "–"
    assert list(table.index) == ["kd", "ce", "new"], "the order of the runs is kept"
    assert results.summary(runs, ["method"], ["loss"], digits=2, scale=1).loc[0, "loss"] == "2.00 ± 1.00"


def test_loss_curves_as_rows():
    table = results.history([record(0), record(1)], T="temperature")
    assert table.to_dict("records")[1] == {"seed": 0, "T": 2.0, "step": 2, "ce": 0.5} and len(table) == 4


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


def test_your_run_beside_the_reference():
    against = [record(s, a) for s, a in enumerate((0.80, 0.82, 0.84))]
    rows = results.compare(record(accuracy=0.85), ["accuracy", "missing"], against).set_index("metric")
    assert rows.loc["accuracy", "inside"] == "yes" and rows.loc["accuracy", "reference"] == "0.8200 ± 0.0200 (n=3)"
    assert rows.loc["missing", "inside"] == "–"
    assert results.compare(record(accuracy=0.87), ["accuracy"], against).loc[0, "inside"] == "no"
    other = record(settings={"method": "ce", "temperature": 2.0})
    assert results.compare(other, ["accuracy"], against).loc[0, "inside"] == "–"


def test_a_paired_difference_is_a_paired_t_interval():
    from scipy.stats import ttest_rel
    draw = np.random.default_rng(0)
    a, b = draw.normal(0.8, 0.01, 6), draw.normal(0.79, 0.01, 6)
    runs = pd.DataFrame({"method": ["kd"] * 6 + ["ce"] * 6, "seed": [*range(6)] * 2, "accuracy": [*a, *b]})
    runs = pd.concat([runs, pd.DataFrame({"method": ["kd"], "seed": [99], "accuracy": [0.1]})])          # no partner: left out
    found, theirs = results.paired(runs.sample(frac=1, random_state=1), "kd", "ce", "accuracy"), ttest_rel(a, b).confidence_interval(0.95)
    assert found.n == 6 and found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert ("excludes" in found.verdict) == (theirs.low > 0 or theirs.high < 0)
    assert results.paired(runs[runs.seed == 0], "kd", "ce", "accuracy").verdict.startswith("one seed")
    assert results.paired(runs, "kd", "none", "accuracy") is None


WRITER = """
import sys
from pathlib import Path
from kdlib.run import write_json
for i in range(20):
    write_json(Path(sys.argv[1]) / "04_distilbert_mnli" / f"{sys.argv[2]}-{i}" / "record.json", {
        "notebook": "04_distilbert_mnli", "profile": "smoke", "seed": i, "settings": {"who": int(sys.argv[2])}, "results": {"text": "x" * 20000}})
    write_json(Path(sys.argv[1]) / "04_distilbert_mnli" / "shared" / "record.json", {
        "notebook": "04_distilbert_mnli", "profile": "smoke", "seed": 0, "settings": {"who": -1}, "results": {"text": sys.argv[2] * 20000}})
"""


def test_eight_processes_writing_at_once_lose_no_record(fresh_runs):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(fresh_runs), str(i)]) for i in range(8)]
    while any(w.poll() is None for w in writers):
        table = results.load(NOTEBOOK)                              # a reader in between never sees half a record (it would warn)
    assert [w.returncode for w in writers] == [0] * 8
    table = results.load(NOTEBOOK)
    assert len(table) == 161 and table.groupby("who").size().drop(-1).tolist() == [20] * 8
    assert not list(fresh_runs.rglob("*.new"))


HEAVY = ("torch", "transformers", "datasets", "evaluate", "sklearn", "accelerate")


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_results_and_figures_are_read_without_torch():
    assert not loaded_by("import kdlib.results, kdlib.figures, kdlib.run, kdlib.stages, kdlib.get, kdlib.batch") & set(HEAVY)


def test_importing_kdlib_loads_nothing_heavy():
    assert not loaded_by("import kdlib\ndir(kdlib)") & {*HEAVY, "matplotlib", "pandas", "numpy", "IPython"}
    assert not loaded_by("import kdlib.losses") & {"transformers", "datasets", "pandas", "matplotlib"}


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
