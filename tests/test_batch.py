"""Batch runs with real papermill processes: parameters arrive as numbers, failures and killed kernels are told from successes."""
import json

import nbformat
import pytest

from kdlib import batch

PARAMETERS = """profile: str = ""
seed: int = 0
run_dir: str = ""
learning_rate: float = -1
method: str = \"\""""
START = """import kdlib as kd
run = kd.start("04_distilbert_mnli", profile=profile, seed=seed, run_dir=run_dir, learning_rate=learning_rate, method=method)"""


@pytest.fixture
def notebook(tmp_path):
    """A small notebook that has 04's name, so that 04's profile file checks its parameters."""
    def write(*cells: str):
        nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
        nb.cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, START, *cells)]
        nb.cells[0].metadata["tags"] = ["parameters"]
        path = tmp_path / "04_distilbert_mnli.ipynb"
        nbformat.write(nb, path)
        return path
    return write


def test_parameters_arrive_as_numbers_and_the_record_is_found(notebook, tmp_path):
    path = notebook("run.record(rate=run.settings.learning_rate)", "run.finish()")
    outcome = batch.run_notebook(path, "smoke", {"learning_rate": 2e-05, "seed": 4}, runs=tmp_path / "runs")
    assert outcome.code == 0, outcome.error
    assert outcome.record["results"] == {"rate": 2e-05} and outcome.record["seed"] == 4
    assert outcome.executed.exists() and outcome.peak_gb > 0


def test_a_wrong_parameter_is_refused_before_anything_runs(notebook, tmp_path):
    path = notebook("run.finish()")
    for wrong in ({"lerning_rate": 1.0}, {"learning_rate": "2e-5"}):
        with pytest.raises(ValueError, match="learning_rate"):
            batch.run_notebook(path, "smoke", wrong, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("cell, code, text", [
    ("raise RuntimeError('out of luck')", 1, "out of luck"),
    ("import sys; sys.exit(0)", 1, "no record"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 138, "killed"),
])
def test_failures_are_told_from_successes(notebook, tmp_path, cell, code, text):
    outcome = batch.run_notebook(notebook(cell, "run.finish()"), "smoke", runs=tmp_path / "runs")
    assert outcome.code == code and outcome.record is None and text in outcome.error


def test_a_sweep_skips_what_is_done_and_goes_on_after_a_failure(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    path = notebook("assert run.settings.method != 'ce' or run.seed, 'a bad point'", "run.finish()")
    grid = {"method": ["ce", "kd"], "seed": [0, 1]}
    assert batch.sweep(path, grid, "smoke") == batch.FAILED
    told = capsys.readouterr().out
    assert "3 of 4 points have a record" in told and "failed: method=ce seed=0" in told and "a bad point" in told
    assert batch.sweep(path, {"method": ["kd"], "seed": [0, 1]}, "smoke") == batch.OK
    assert capsys.readouterr().out.count("finished earlier") == 2
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/*/record.json")]
    assert sorted((r["settings"]["method"], r["seed"]) for r in records) == [("ce", 1), ("kd", 0), ("kd", 1)]


def test_a_grid_with_a_wrong_name_runs_nothing(notebook):
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        batch.sweep(notebook("run.finish()"), {"temperatur": [2.0]}, "smoke")


def test_notebooks_are_found_by_number_and_name():
    assert batch.notebook_path("04").stem == batch.notebook_path("04_distilbert_mnli").stem == "04_distilbert_mnli"
    with pytest.raises(FileNotFoundError, match="there are 00_start_here"):
        batch.notebook_path("99")
