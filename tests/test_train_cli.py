"""python -m kdlib train: one command distils a student, on one process or two, and refuses a teacher that would mislead."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdlib import results
from kdlib.__main__ import main
from kdlib.course import lock
from kdlib.engine import checkpoints


@pytest.fixture(scope="module")
def place(tmp_path_factory, tokenizer, taught):
    """A folder with rows in the hub's layout, a teacher that has learnt them, and one that calls the classes by wrong names."""
    folder = tmp_path_factory.mktemp("cli")
    permuted = copy.deepcopy(taught.teacher)
    with torch.no_grad():
        permuted.classifier.weight.copy_(taught.teacher.classifier.weight[[2, 0, 1]])
        permuted.classifier.bias.copy_(taught.teacher.classifier.bias[[2, 0, 1]])
    for name, model in (("teacher", taught.teacher), ("permuted", permuted)):
        model.save_pretrained(folder / name), tokenizer.save_pretrained(folder / name)
    return tiny.hub_folder(folder / "glue", train=96, validation=36).parent


def command(place, output, **changes) -> list[str]:
    options = {
        "teacher": place / "teacher",
        "data": place / "glue",
        "task": "mnli",
        "layers": "0",
        "output_dir": output,
        "max_length": 40,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "temperature": 3,
        "alpha": 0.7,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 6,
    } | changes
    return [
        "train",
        *(
            text
            for name, value in options.items()
            if value is not None
            for text in (f"--{name}", str(value))
        ),
    ]


def test_help_lists_ours_and_trainers_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0
    for option in (
        "--temperature",
        "--alpha",
        "--divergence",
        "--teacher",
        "--layers",
        "--learning_rate",
        "--per_device_train_batch_size",
    ):
        assert option in told
    assert "weight of the soft (KD) loss" in told


def check_student(output, printed: str, layers: int = 1):
    student = AutoModelForSequenceClassification.from_pretrained(output)
    assert student.config.num_hidden_layers == layers and student.config.id2label[1] == "neutral"
    assert AutoTokenizer.from_pretrained(output).get_vocab()["indeed"] > 0
    scores = json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])
    assert (
        scores.keys() >= {"eval_accuracy", "eval_macro_f1", "eval_ce", "eval_kd"}
        and scores["eval_accuracy"] > 0.5
    )
    return student.state_dict()


def test_one_process(place, tmp_path, capsys):
    assert main(command(place, tmp_path / "student")) == 0
    told = capsys.readouterr().out
    check_student(tmp_path / "student", told)
    assert "step    24/24" in told and "kd" in told


def test_it_has_a_folder_and_a_record_like_a_notebooks_run(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    options = command(place, "")
    where = options.index("--output_dir")
    del options[where : where + 2]
    assert main(["train", "glue", *options[1:]]) == 0
    (record,) = results.records("train_glue")
    assert (
        record["settings"]["alpha"] == 0.7
        and record["settings"]["layers"] == "0"
        and "output_dir" not in record["settings"]
    )
    assert record["results"]["accuracy"] > 0.5 and [
        row["step"] for row in record["results"]["history"]
    ] == [6, 12, 18, 24, 24]
    (folder,) = (tmp_path / "runs/train_glue").iterdir()
    assert (folder / "model.safetensors").exists() and not (folder / "in_use.json").exists()
    assert main(["train", *options[1:], "--max_minutes", "0.00001"]) == 75, (
        "the same settings, the same folder"
    )
    assert not list(folder.glob("record.json")) and (folder / "record.partial.json").exists()
    assert main(["status"]) == 75 and "of its training" in capsys.readouterr().out
    assert (
        main(["train", *options[1:]]) == 0
        and results.records("train_glue")[0]["results"] == record["results"]
    )


def test_a_folder_of_other_settings_or_in_use_is_refused(place, tmp_path):
    output = tmp_path / "student"
    assert main(command(place, output, num_train_epochs=1)) == 0
    with pytest.raises(ValueError, match="another configuration .*differs in learning_rate"):
        main(command(place, output, num_train_epochs=1, learning_rate=0.5))
    lock.acquire(output)
    with pytest.raises(OSError, match="in use by process"):
        main(command(place, output, num_train_epochs=1))
    with pytest.raises(ValueError, match="there is no `train gleu`; did you mean 'glue'"):
        main(["train", "gleu", "--task", "mnli"])


def test_a_bert_becomes_a_distilbert(place, tmp_path, capsys):
    assert (
        main(
            command(
                place,
                tmp_path / "student",
                family="distilbert",
                layers="0,1",
                train_rows=48,
                validation_rows=24,
            )
        )
        == 0
    )
    assert (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").config.model_type
        == "distilbert"
    )
    assert "step    12/12" in capsys.readouterr().out


def test_a_student_of_its_own(place, tmp_path, capsys):
    main(command(place, tmp_path / "first", num_train_epochs=1)), capsys.readouterr()
    assert (
        main(
            command(
                place,
                tmp_path / "second",
                layers=None,
                student=tmp_path / "first",
                num_train_epochs=1,
            )
        )
        == 0
    )


def test_with_the_teachers_answers_from_disk(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    assert main(command(place, tmp_path / "live", optim="sgd")) == 0
    live = check_student(tmp_path / "live", capsys.readouterr().out)
    for told in ("96 of 96 rows asked for", "all 96 rows were answered before"):
        assert main(command(place, tmp_path / "cached", optim="sgd", cache=True)) == 0
        printed = capsys.readouterr().out
        assert (
            told in printed
            and tiny.difference(live, check_student(tmp_path / "cached", printed)) <= 1e-6
        )


@pytest.mark.parametrize(
    "changes, hint",
    [
        (dict(layers=None), "--layers .* or --student"),
        (dict(task="sst2"), "mnli, qqp"),
        (dict(alpha=1.5), "soft loss"),
        (dict(temperature=0), "temperature"),
        (dict(max_length=0), "max_length"),
        (dict(max_length=-5), "max_length"),
        (dict(num_train_epochs=0), "num_train_epochs"),
        (dict(layers="a,b"), "numbers with commas"),
        (dict(output_dir="/proc/zz"), "run folder|cannot be written"),
        (dict(layers="0,7"), "layers"),
        (dict(task="qqp"), "3 classes apart, the task has 2"),
    ],
)
def test_what_makes_no_sense_is_refused(place, tmp_path, changes, hint):
    output = changes.pop("output_dir", tmp_path / "student")
    with pytest.raises((SystemExit, ValueError, OSError), match=hint):
        main(command(place, output, **changes))


def test_a_teacher_that_was_cut_off_is_named(place, tmp_path):
    import shutil

    shutil.copytree(place / "teacher", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(OSError, match="cut: its weights are cut off or damaged"):
        main(command(place, tmp_path / "student", teacher=tmp_path / "cut"))


def test_a_shell_sees_one_line_and_no_traceback(place, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", *command(place, tmp_path / "student", alpha=1.5)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith("kdlib train: ")
        and "soft loss" in done.stderr
    )


def test_a_teacher_whose_classes_are_permuted_is_refused(place, tmp_path):
    """Its names are right and its answers are not: only the rows tell."""
    with pytest.raises(
        ValueError, match="output 0 = contradiction, output 1 = entailment, output 2 = neutral"
    ):
        main(command(place, tmp_path / "student", teacher=place / "permuted"))


def test_two_processes(place, tmp_path, capsys):
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "kdlib",
    ]
    done = subprocess.run(
        [*launcher, *command(place, tmp_path / "two", per_device_train_batch_size=4, optim="sgd")],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = check_student(tmp_path / "two", done.stdout)
    assert sum(line.startswith("{") for line in done.stdout.splitlines()) == 1, "one process speaks"
    assert main(command(place, tmp_path / "one", optim="sgd")) == 0
    assert tiny.difference(two, check_student(tmp_path / "one", capsys.readouterr().out)) <= 1e-6


def test_what_fails_is_told_and_what_is_refused_leaves_nothing(
    place, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    options = [o for o in command(place, "") if o not in ("--output_dir", "")]
    with pytest.raises(ValueError, match="layers must be"):
        main([*options, "--layers", "0,9"])
    assert not list(tmp_path.glob("runs/train_glue/*"))
    monkeypatch.setattr(
        "kdlib.trainer.DistillationTrainer.fit",
        lambda self: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")),
    )
    with pytest.raises(RuntimeError):
        main(options)
    assert (
        main(["status"]) == 1 and "out of memory: a smaller batch_size" in capsys.readouterr().out
    )


def test_checkpoints_by_the_clock_are_two_and_go_when_it_is_done(place, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "kdlib.engine.checkpoints.publish",
        lambda staged, keep, whole=checkpoints.publish: (
            whole(staged, keep),
            kept.append(len(list(staged.parent.parent.glob("checkpoint-*")))),
        ),
    )
    options = command(place, tmp_path / "student", checkpoint_minutes=1e-6)
    del options[options.index("--save_strategy") : options.index("--save_strategy") + 2]
    assert main(options) == 0
    assert (
        len(kept) > 10 and max(kept) == 2 and not list((tmp_path / "student").glob("checkpoint-*"))
    )


def test_a_disk_that_is_full_at_the_end_stays_on_record(place, tmp_path, monkeypatch, capsys):
    """Only what was refused leaves nothing: here a training is lost, and `status` says why."""
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))

    def full(self, *given, **kw):
        (Path(self.args.output_dir) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdlib.trainer.DistillationTrainer.save_model", full)
    with pytest.raises(OSError):
        main([o for o in command(place, "", num_train_epochs=1) if o not in ("--output_dir", "")])
    assert main(["status"]) == 1 and "the disk or your quota is full" in capsys.readouterr().out
