"""A stage's training in two processes (gloo): the record of one process, and errors in one line."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import tiny
import torch

import kdlib as kd
from kdlib import models
from kdlib.__main__ import main
from kdlib.engine import processes
from kdlib.paths import ROOT

TRAINING = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny
from kdlib.trainer import loss_curves

def train(words, folder, rate=0.3):
    tokenizer = tiny.tokenizer(Path(words))
    rows = tiny.encoded(tokenizer, 48), tiny.encoded(tokenizer, 21, seed=1)
    trainer = tiny.trainer(folder, tiny.bert(2, seed=8), rows, tokenizer, tiny.bert(4, seed=7), num_train_epochs=2, optim="sgd",
                           learning_rate=rate, logging_strategy="steps", logging_steps=3, seed=run.seed, use_cpu=False)
    trainer.evaluate()                          # as the notebooks do: step 0 of the loss curves
    trainer.fit()
    return {{"history": loss_curves(trainer.state.log_history), "processes": trainer.args.world_size, "batch": trainer.args.train_batch_size,
             **{{k: v for k, v in trainer.evaluate().items() if k in ("eval_ce", "eval_kd", "eval_accuracy")}}}}
"""


@pytest.mark.slow
def test_two_processes_write_the_record_of_one(notebook, tmp_path):
    path = notebook(
        TRAINING,
        f"run.record(**run.stage('student', train, words={str(tmp_path)!r}))",
        "run.finish()",
    )
    found = {}
    for count in (1, 2):
        assert (
            main(
                [
                    "run",
                    str(path),
                    "--profile",
                    "smoke",
                    "-p",
                    f"run_dir={tmp_path / str(count)}",
                    "--nproc",
                    str(count),
                ]
            )
            == 0
        )
        found[count] = json.loads((tmp_path / str(count) / "record.json").read_text())["results"]
    one, two = found[1], found[2]
    assert (one.pop("processes"), one.pop("batch")) == (1, 8) and (
        two.pop("processes"),
        two.pop("batch"),
    ) == (2, 4)
    flat = lambda r: [
        r["eval_ce"],
        r["eval_kd"],
        r["eval_accuracy"],
        *(v for row in r["history"] for k, v in sorted(row.items()) if k != "split"),
    ]
    assert flat(one) == pytest.approx(flat(two), abs=1e-5)
    assert not list(tmp_path.glob("2/stages/*.work"))


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_NPROC", "2")
    run = kd.start("04_distilbert_mnli", profile="smoke")

    def wrong(folder):
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match=r"RuntimeError: out of luck \(in one of 2 processes\)"):
        run.stage("student", wrong)
    assert run.stage("no training", lambda: 3) == 3, "a stage without a folder stays in the kernel"


def test_bad_counts(monkeypatch, capsys, tmp_path):
    for text in ("two", "0", "-1", "1.5"):
        monkeypatch.setenv("KD_NPROC", text)
        with pytest.raises(ValueError, match="KD_NPROC must be a whole number"):
            processes.processes()
    assert (
        main(["run", "04", "--nproc", "0"]) == 2
        and "--nproc must be 1 or more" in capsys.readouterr().err
    )
    monkeypatch.setenv("KD_NPROC", "3"), monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="batch of 8 rows cannot be shared by 3 processes"):
        tiny.arguments(tmp_path)


class Heavy:
    """A teacher that must not travel."""

    def __reduce__(self):
        raise RuntimeError("the teacher was handed over")


@pytest.mark.parametrize("cached", [True, False])
def test_07_hands_over_no_teacher_whose_answers_are_stored(cached, tmp_path):
    """Its own functions and its own call; the stage hands over instead of training."""

    class Run:
        def stage(self, name, function, **inputs):
            processes.hand_over((function, inputs, 0), tmp_path / name)
            return {"student": torch.nn.Identity()}

    cells = [
        c["source"]
        for c in nbformat.read(ROOT / "notebooks" / "07_eurollama_distil.ipynb", 4).cells
        if c.cell_type == "code"
    ]
    names = {
        "__name__": "__main__",
        "run": Run(),
        "teacher": Heavy(),
        "caches": ["stored"] if cached else None,
        "cut": None,
        "end": 3,
        "train_rows": [],
        "rows": {"validation": []},
        "tokenizer": None,
        "models": models,
        "kd": kd,
        "torch": torch,
        "settings": SimpleNamespace(method="kd", learning_rate=1e-4),
    }
    for node in (
        node
        for source in cells
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    ):
        exec(ast.unparse(node), names)
    call = next(source for source in cells if '"student", distil' in source)
    if cached:
        exec(call, names)
        assert (tmp_path / "student").stat().st_size > 0
    else:
        with pytest.raises(RuntimeError, match="the teacher was handed over"):
            exec(call, names)


@pytest.mark.slow
def test_a_notebook_of_the_course_in_two_processes(tmp_path):
    """07 as it is: no dropout, a teacher cache, an evaluation before the training and more on the way."""
    found = {}
    for count in (1, 2):
        assert (
            main(
                [
                    "run",
                    "07",
                    "--profile",
                    "smoke",
                    "-p",
                    f"run_dir={tmp_path / str(count)}",
                    "--nproc",
                    str(count),
                ]
            )
            == 0
        )
        found[count] = json.loads((tmp_path / str(count) / "record.json").read_text())["results"]
    one, two = (found[count]["history"] for count in (1, 2))
    assert [(row["step"], row["split"]) for row in one] == [
        (row["step"], row["split"]) for row in two
    ]
    assert [row["ce"] for row in one] == pytest.approx([row["ce"] for row in two], abs=1e-4)
    assert found[1]["bleu"] == pytest.approx(found[2]["bleu"], abs=0.5)
