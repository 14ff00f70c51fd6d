"""The notebooks themselves: what a reader sees (static), that they run (nbval), and that a batch job can trust them (papermill)."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdlib import batch
from kdlib.__main__ import main
from kdlib.course.run import settings_of
from kdlib.paths import ROOT

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
ids = lambda path: path.stem if path.parent.name == "notebooks" else f"solutions/{path.stem}"


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [
        c | {"source": "".join(c["source"])}
        for c in json.loads(path.read_text("utf8"))["cells"]
        if c["cell_type"] == kind
    ]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_the_course_is_complete():
    assert [p.stem for p in LESSONS] == list(batch.COURSE)
    assert [p.stem[:2] for p in LESSONS] == [f"{i:02d}" for i in range(len(LESSONS))], (
        "a gap in the numbers"
    )
    assert [p.stem for p in SOLUTIONS] == [p.stem for p in LESSONS], (
        "every notebook has its solutions"
    )


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=ids)
def test_outputs_are_those_of_one_clean_run(path):
    code = [c for c in cells(path) if c["source"].strip() and not set(tags(c)) & {"skip-execution"}]
    assert [c["execution_count"] for c in code if c["execution_count"]] == [
        c["execution_count"] for c in code
    ], "a cell was not run"
    counts = [c["execution_count"] for c in code]
    assert counts == sorted(counts), "cells were not run from top to bottom"
    for cell in code:
        for output in cell["outputs"]:
            assert output["output_type"] != "error" and output.get("name") != "stderr", cell[
                "source"
            ]
    assert path.stat().st_size < 500_000
    assert json.loads(path.read_text("utf8"))["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=ids)
def test_opening_a_notebook_changes_nothing(path):
    """JupyterLab writes the kernel's name as it knows it, and nbconvert when each cell ran: a
    student's `git status` stays clean only where the files say the same already.
    """
    notebook = json.loads(path.read_text(encoding="utf8"))
    assert notebook["metadata"]["kernelspec"]["display_name"] == "Python 3 (ipykernel)"
    assert not [cell for cell in notebook["cells"] if "execution" in cell["metadata"]]


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=ids)
def test_code_is_fit_to_be_read(path):
    code = cells(path)
    lines = [line for c in code for line in c["source"].splitlines()]
    assert not [line for line in lines if len(line) > 100], "a line of more than 100 columns"
    assert sum("parameters" in tags(c) for c in code) == 1
    lengths = sorted(len(c["source"].splitlines()) for c in code)
    assert lengths[-1] <= 25, "a code cell of more than 25 lines"
    assert lengths[len(lengths) // 2] <= 8, "the median code cell has more than 8 lines"
    text = path.read_text("utf8")
    assert not re.search(r"/(root|tmp|work|home|Users)/", text), "an absolute path"
    for cell in code:
        assert not re.search(r"^\s*[!%]|import \*|notebook_login", cell["source"], re.M), cell[
            "source"
        ]
        for word in ("hf_", "token="):
            assert not re.search(rf"{word}[A-Za-z0-9]{{20,}}", cell["source"]), "a token"


@pytest.mark.parametrize("path", LESSONS, ids=ids)
def test_the_frame_of_a_lesson(path):
    prose = "\n".join(c["source"] for c in cells(path, "markdown"))
    headings = re.findall(r"^(#+) ", prose, re.M)
    assert headings.count("#") == 1 and "###" not in headings or "##" in headings
    for promise in ("You will be able to", "You need", "Exercises", "profile"):
        assert promise in prose, f"no {promise!r}"
    code = cells(path)
    number = path.stem[:2]
    assert len(json.loads(path.read_text("utf8"))["cells"]) <= 60
    assert sum("kd.start(" in c["source"] for c in code) == 1
    assert "run.finish()" in code[-1]["source"] and "nbval-ignore-output" in tags(code[-1])
    for i in (1, 2, 3):
        assert any(f'kd.check.answer("{number}.{i}"' in c["source"] for c in code), (
            f"exercise {number}.{i}"
        )
    for target in re.findall(r"\]\(([^)#]+?)\)", prose):
        assert target.startswith("http") or (path.parent / target).exists(), f"dead link {target}"


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=ids)
def test_parameters_are_typed_and_known(path):
    source = next(c["source"] for c in cells(path) if "parameters" in tags(c))
    declared = {
        node.target.id for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)
    }
    assert {"profile", "seed", "run_dir"} <= declared
    known = set(settings_of(path.stem, "laptop"))
    assert declared - {"seed", "run_dir"} <= known, declared - known


@pytest.mark.parametrize("path", LESSONS[:6], ids=ids)
def test_every_setting_is_a_parameter(path):
    """So that `full` can be rehearsed with a few rows by -p alone."""
    code = cells(path)
    source = next(c["source"] for c in code if "parameters" in tags(c))
    declared = {
        node.target.id for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)
    }
    assert set(settings_of(path.stem, "laptop")) - declared == set()
    call = next(
        node
        for c in code
        for node in ast.walk(ast.parse(c["source"]))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "kd.start"
    )
    assert {k.arg for k in call.keywords if ast.unparse(k.value) == k.arg} == declared, (
        "declared and not passed on"
    )


# They describe the models of a profile; a parameters cell of 25 lines has no room for them.
IN_THE_PROFILE_ALONE = {
    "07": {"student_layers", "system", "end_token", "smoothing", "teacher_knows_end"},
    "09": {"student_width", "student_layers", "translator_layers", "learning_rate_layers"},
}


@pytest.mark.parametrize("path", LESSONS[6:10], ids=ids)
def test_every_other_setting_is_a_parameter(path):
    """A cluster user changes rows, lengths and models without editing a profile that is under version control."""
    source = next(c["source"] for c in cells(path) if "parameters" in tags(c))
    declared = {
        node.target.id for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)
    }
    settings = set(settings_of(path.stem, "laptop")) | {"seed", "run_dir"}
    assert declared == settings - IN_THE_PROFILE_ALONE.get(path.stem[:2], set())
    start = next(c["source"] for c in cells(path) if "kd.start(" in c["source"])
    call = next(
        node
        for node in ast.walk(ast.parse(start))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "start"
    )
    handed_on = {keyword.arg: keyword.value.id for keyword in call.keywords}
    assert handed_on == {name: name for name in declared}, "each under its own name"


@pytest.mark.parametrize(
    "given",
    [
        "07 topk=0 batch_size=2 accumulation=1 checkpointing=False comet=none test_rows=4 dtype=float16 student=unsloth/Llama-3.2-1B",
        "07 student=layers max_length=128 max_words=20 tokenizer=unsloth/Llama-3.2-1B lora_rank=16",
        "06 train_rows=0 tune_rows=8 validation_rows=2 max_words=8 max_length=128 batch_size=2 dtype=float32 checkpointing=true",
        "08 train_rows=32 validation_rows=16 test_rows=2 max_length=32 epochs=1 more_epochs=1 batch_size=8 teacher=textattack/bert",
        "09 train_rows=32 validation_rows=16 pairs=8 test_pairs=2 epochs=1 translator_epochs=1 own_from=0 batch_size=8",
    ],
)
def test_what_a_user_may_set_by_p_is_accepted_under_full(given, capsys):
    notebook, *parameters = given.split()
    options = [part for parameter in parameters for part in ("-p", parameter)]
    assert main(["sbatch", notebook, "--profile", "full", *options]) == 0, capsys.readouterr().err
    script = capsys.readouterr().out
    assert all(parameter.partition("=")[0] in script for parameter in parameters)


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=ids)
def test_pictures_carry_their_alt_text(path):
    for cell in cells(path):
        pictures = [o for o in cell["outputs"] if "image/png" in o.get("data", {})]
        texts = [
            "".join(o.get("text") or o.get("data", {}).get("text/plain", ""))
            for o in cell["outputs"]
        ]
        captions = [text for text in texts if text.startswith("Figure: ")]
        assert len(captions) >= len(pictures), cell["source"]
        for alt in (o["metadata"].get("image/png", {}).get("alt") for o in pictures):
            assert alt is None or f"Figure: {alt}" in captions, cell["source"]


# -- they run ---------------------------------------------------------------------------------------------------------


def nbval(tmp_path, mode: str, profile: str, *paths: Path):
    environment = os.environ | {
        "KD_PROFILE": profile,
        "KD_RUNS": str(tmp_path / "runs"),
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name in (
        "PYTEST_ADDOPTS",
        "MPLBACKEND",
    ):  # with the tests' Agg backend a notebook would show no figure
        environment.pop(name, None)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            mode,
            "--nbval-current-env",
            "--nbval-cell-timeout=600",
            "-x",
            "-q",
            "-o",
            "addopts=",
            "-o",
            "timeout=0",
            "-p",
            "no:cacheprovider",
            "--nbval-sanitize-with",
            str(ROOT / "tests" / "nbval.cfg"),
            *map(str, paths),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.notebook
@pytest.mark.parametrize("path", LESSONS, ids=ids)
def test_every_cell_runs_under_smoke(path, tmp_path):
    nbval(tmp_path, "--nbval-lax", "smoke", path)


@pytest.mark.notebook
@pytest.mark.parametrize("path", LESSONS[1:3], ids=ids)
def test_the_committed_outputs_come_out_again(path, tmp_path):
    nbval(tmp_path, "--nbval", "laptop", path)


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("path", SOLUTIONS, ids=ids)
def test_every_solution_passes_its_checks(path, tmp_path):
    nbval(tmp_path, "--nbval-lax", "smoke", path)
    text = path.read_text("utf8")
    assert len(re.findall(rf"{path.stem[:2]}\.[123]: right", text)) >= 3, (
        "a solution that its own check does not accept"
    )


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=ids)
def test_a_batch_run_ends_with_exit_code_0_and_a_record(path, tmp_path):
    outcome = batch.run_notebook(path, "smoke", {"seed": 3}, runs=tmp_path)
    assert outcome.code == 0 and outcome.record, outcome.error
    assert outcome.record["seed"] == 3 and outcome.record["profile"] == "smoke"
    assert outcome.record["results"], "a run that recorded nothing"
    assert list(tmp_path.glob("*/*/figures/*.svg")), "no figure was kept"
