"""The trainer: what it optimises, what it saves, what it asks the teacher for, and how it goes on after an interruption."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from helpers import count_calls, in_two_processes
from references import divergence_of
from transformers import AutoModelForSequenceClassification, TrainerCallback

from kdlib import glue, methods, models
from kdlib.engine.checkpoints import newest_checkpoint
from kdlib.engine.sampler import LengthGroupedSampler
from kdlib.losses import DIVERGENCES, distillation_loss
from kdlib.trainer import DistillationArguments, DistillationTrainer, loss_curves, teacher_logits

# -- the gradient does not depend on how a step is cut ---------------------------------------------------------------


def train_in(folder, batch: int, accumulation: int = 1) -> dict:
    """An epoch of 24 rows, SGD, no dropout; every third row is ignored, so that batches (and processes) count unequally.

    Returns the weights and the logged losses: the steps see the same rows however they are cut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny.tokenizer(folder)
    rows = (
        tiny.encoded(tokenizer, 24, seed=5)
        .cast_column("labels", tiny.datasets.Value("int64"))
        .map(lambda row, i: {"labels": -100 if i % 3 == 0 else row["labels"]}, with_indices=True)
    )
    trainer = tiny.trainer(
        folder / "out",
        tiny.bert(2, seed=8),
        rows,
        tokenizer,
        tiny.bert(4, seed=7),
        optim="sgd",
        learning_rate=0.3,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.fit()
    logged = [
        [entry[k] for k in ("ce", "kd")] for entry in trainer.state.log_history if "ce" in entry
    ]
    for entry in trainer.state.log_history:
        if "ce" in entry:  # Trainer rounds its "loss" to four digits
            assert entry["loss"] == pytest.approx(0.5 * entry["ce"] + 0.5 * entry["kd"], abs=1e-4)
    weights = tiny.snapshot(trainer.model) | {"logged": torch.tensor(logged)}
    if trainer.is_world_process_zero():
        torch.save(weights, folder / "weights.pt")
    return weights


def test_training_moves_the_student(tmp_path):
    trained = train_in(tmp_path, 8)
    assert len(trained.pop("logged")) == 3
    assert tiny.difference(trained, tiny.bert(2, seed=8).state_dict()) > 1e-2


@pytest.mark.parametrize(
    "whole, batch, accumulation",
    [
        (8, 2, 4),
        (9, 3, 3),  # the last step has 6 rows: two batches instead of three
        (10, 5, 2),  # 4 rows: one batch, shorter than the others
        (14, 7, 2),
    ],
)  # 10 rows: a batch of 7 and one of 3
def test_gradient_accumulation_changes_nothing(tmp_path, whole, batch, accumulation):
    assert (
        tiny.difference(
            train_in(tmp_path / "a", whole), train_in(tmp_path / "b", batch, accumulation)
        )
        <= 1e-6
    )


def test_two_processes_change_nothing(tmp_path):
    in_two_processes(
        tmp_path, f"import test_trainer\ntest_trainer.train_in(Path({str(tmp_path)!r}), 4)"
    )
    assert (
        tiny.difference(torch.load(tmp_path / "weights.pt"), train_in(tmp_path / "alone", 8))
        <= 1e-6
    )


# -- the teacher -----------------------------------------------------------------------------------------------------


def test_the_teacher_answers_and_is_left_alone(tmp_path, tokenizer, encoded, student):
    teacher = tiny.bert(4, seed=7, dropout=0.5).train()
    before, example = tiny.snapshot(teacher), tokenizer(["the cat sees a dog"], return_tensors="pt")
    trainer = tiny.trainer(tmp_path, student, encoded, tokenizer, teacher)
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    first = teacher(**example).logits
    trainer.fit()
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())
    assert tiny.difference(before, teacher.state_dict()) == 0
    assert torch.equal(first, teacher(**example).logits), "dropout is on in the teacher"


def test_the_saved_student_is_a_plain_checkpoint_without_the_teacher(
    tmp_path, tokenizer, encoded, teacher, student
):
    names = set(student.state_dict())
    trainer = tiny.trainer(tmp_path, student, encoded, tokenizer, teacher, save_strategy="epoch")
    trainer.fit(), trainer.save_model(tmp_path / "saved")
    assert set(trainer.model.state_dict()) == names
    for folder in (tmp_path / "saved", tmp_path / "checkpoint-6"):
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            folder, output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert models.size(loaded)["parameters"] < models.size(teacher)["parameters"]
        assert tiny.difference(loaded.state_dict(), trainer.model.state_dict()) == 0
    assert (
        sum(f.stat().st_size for f in (tmp_path / "saved").glob("*.safetensors"))
        < 1.1e6 * models.size(student)["megabytes"] + 1e4
    )


def test_with_alpha_0_the_teacher_is_never_run(tmp_path, tokenizer, encoded, teacher, student):
    calls = count_calls(teacher)
    trainer = tiny.trainer(
        tmp_path,
        student,
        encoded,
        tokenizer,
        teacher,
        alpha=0.0,
        logging_strategy="steps",
        logging_steps=2,
    )
    trainer.fit()
    assert calls == [] and "eval_kd" not in trainer.evaluate() and calls == []
    assert "ce" in trainer.state.log_history[0] and "kd" not in trainer.state.log_history[0]


@pytest.mark.parametrize("extra", [False, True], ids=["", "a column nobody reads"])
def test_the_teacher_reads_an_evaluation_set_once(
    tmp_path, tokenizer, encoded, teacher, student, extra
):
    train, validation = encoded
    if extra:  # Trainer then makes a new dataset, without that column, at every evaluation
        validation = validation.add_column("source", ["x"] * len(validation))
    trainer = tiny.trainer(tmp_path, student, (train, validation), tokenizer, teacher)
    calls = count_calls(teacher)
    first = trainer.evaluate()
    assert sum(calls) == len(validation)
    assert trainer.evaluate()["eval_kd"] == first["eval_kd"] and sum(calls) == len(validation)
    trainer.evaluate(train)
    assert sum(calls) == len(validation) + len(train)
    trainer.train()
    assert sum(calls) == len(validation) + 2 * len(train)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_evaluation_equals_a_computation_by_hand(
    tmp_path, tokenizer, encoded, teacher, student, divergence
):
    validation = encoded[1]
    trainer = tiny.trainer(
        tmp_path,
        student,
        encoded,
        tokenizer,
        teacher,
        temperature=3.0,
        alpha=0.7,
        divergence=divergence,
        beta=0.3,
    )
    found = trainer.evaluate()
    with torch.no_grad():
        alone = lambda model: torch.cat(
            [
                model(
                    **tokenizer.pad(
                        [{k: v for k, v in row.items() if k != "labels"}], return_tensors="pt"
                    )
                ).logits
                for row in validation
            ]
        )
        s, t = alone(student).double(), alone(teacher).double()
    labels = torch.tensor(validation["labels"])
    p, q = (t / 3).softmax(-1), (s / 3).softmax(-1)
    kd = divergence_of(divergence, p, q, beta=0.3).mean().item()
    ce = -s.softmax(-1)[range(len(labels)), labels].log().mean().item()
    assert found["eval_kd"] == pytest.approx(9 * kd, rel=1e-5)
    assert found["eval_ce"] == found["eval_loss"] == pytest.approx(ce, rel=1e-5)
    assert found["eval_accuracy"] == pytest.approx((s.argmax(-1) == labels).double().mean().item())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_all_settings_of_the_loss_reach_it(
    tmp_path, tokenizer, encoded, teacher, student, divergence
):
    settings = dict(temperature=3.0, alpha=0.7, divergence=divergence, beta=0.2)
    trainer = tiny.trainer(tmp_path, student, encoded, tokenizer, teacher, **settings)
    batch = glue.collator(tokenizer)([encoded[0][i] for i in range(6)])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    expected = distillation_loss(
        student(**inputs).logits, teacher(**inputs).logits, batch["labels"], **settings
    )
    assert trainer.compute_loss(student, batch).item() == expected.total.item()


def test_a_column_of_teacher_logits_trains_as_the_live_teacher_does(
    tmp_path, tokenizer, encoded, teacher
):
    """≤ 1e-6 and not to the bit: padding a batch to another length changes a logit by about 5e-8."""
    answers = [teacher_logits(teacher, part, glue.collator(tokenizer), 16) for part in encoded]
    cached = tuple(part.add_column("teacher_logits", list(a)) for part, a in zip(encoded, answers))
    settings = dict(optim="sgd", learning_rate=0.1, num_train_epochs=2, alpha=0.8)
    live = tiny.trainer(
        tmp_path / "a", tiny.bert(2, seed=8), encoded, tokenizer, teacher, **settings
    )
    read = tiny.trainer(tmp_path / "b", tiny.bert(2, seed=8), cached, tokenizer, **settings)
    live.fit(), read.fit()
    assert tiny.difference(live.model.state_dict(), read.model.state_dict()) <= 1e-6
    assert live.evaluate()["eval_kd"] == pytest.approx(read.evaluate()["eval_kd"], rel=1e-5)


def test_teacher_logits_keep_the_rows_order_and_the_teachers_mode(tokenizer, encoded, teacher):
    teacher.train()
    answers = teacher_logits(teacher, encoded[0], glue.collator(tokenizer), 7)
    assert answers.shape == (48, 3) and answers.dtype == np.float32 and teacher.training
    plain = [dict(row) for row in encoded[0]]  # a list of rows will do
    assert np.array_equal(teacher_logits(teacher, plain, glue.collator(tokenizer), 7), answers)
    teacher.eval()
    row = tokenizer.pad(
        [{k: v for k, v in encoded[0][11].items() if k != "labels"}], return_tensors="pt"
    )
    assert np.allclose(teacher(**row).logits.detach(), answers[11], atol=1e-5)


def test_segment_ids_reach_the_bert_teacher_and_not_the_distilbert_student(
    tmp_path, tokenizer, encoded, teacher
):
    seen = []
    teacher.register_forward_hook(
        lambda module, args, kw, out: seen.append(kw["token_type_ids"].max().item()),
        with_kwargs=True,
    )
    student = models.student_from_teacher(teacher, [0, 2], "distilbert")
    before = tiny.snapshot(student)
    trainer = tiny.trainer(tmp_path, student, encoded, tokenizer, teacher)
    trainer.fit()
    assert seen and min(seen) == 1, "the teacher did not see which text is which"
    assert trainer.evaluate().keys() >= {"eval_ce", "eval_kd", "eval_accuracy"}
    assert tiny.difference(before, trainer.model.state_dict()) > 0
    unlabelled = trainer.predict(encoded[1].remove_columns("labels"))
    assert unlabelled.predictions.shape == (21, 3) and unlabelled.label_ids is None


def test_compute_metrics(tmp_path, tokenizer, encoded, teacher, student):
    found = tiny.trainer(
        tmp_path, student, encoded, tokenizer, teacher, compute_metrics=glue.compute_metrics
    ).evaluate()
    assert found.keys() >= {"eval_accuracy", "eval_macro_f1", "eval_ce", "eval_kd"}


def test_without_processing_class_collator_or_evaluation_set(tmp_path, encoded, teacher, student):
    short = [{k: row[k][:6] if k != "labels" else row[k] for k in row} for row in encoded[0]]
    trainer = DistillationTrainer(
        student, tiny.arguments(tmp_path), teacher=teacher, train_dataset=short
    )  # a plain list
    before = tiny.snapshot(student)
    trainer.fit()
    assert tiny.difference(before, trainer.model.state_dict()) > 0
    assert trainer.evaluate(short)["eval_kd"] > 0


# -- interruption ----------------------------------------------------------------------------------------------------


def test_a_run_resumed_in_a_later_epoch_ends_bit_equal(
    tmp_path, tokenizer, encoded, teacher, capsys
):
    def prepare(folder):
        return tiny.trainer(
            folder,
            tiny.bert(2, seed=8, dropout=0.2),
            encoded,
            tokenizer,
            teacher,
            num_train_epochs=3,
            per_device_train_batch_size=5,
            save_strategy="steps",
            save_steps=4,
            logging_strategy="steps",
            logging_steps=6,  # a line covers steps from before and after the checkpoint
            eval_strategy="steps",
            eval_steps=4,
        )

    whole = prepare(tmp_path / "whole")  # 10 steps an epoch
    whole.fit()
    shutil.copytree(tmp_path / "whole" / "checkpoint-16", tmp_path / "cut" / "checkpoint-16")
    resumed = prepare(tmp_path / "cut")
    capsys.readouterr()
    resumed.fit()
    assert "step    16/30  going on from this checkpoint\n" in capsys.readouterr().out
    assert resumed.state.global_step == whole.state.global_step == 30
    assert tiny.difference(whole.model.state_dict(), resumed.model.state_dict()) == 0
    curve = lambda t: [
        [e.get(k) for k in ("step", "loss", "ce", "kd", "eval_ce", "eval_kd")]
        for e in t.state.log_history[:-1]
    ]
    assert curve(whole) == curve(resumed)
    again = prepare(tmp_path / "whole")
    again.fit()  # a finished run has nothing left to do
    assert tiny.difference(whole.model.state_dict(), again.model.state_dict()) == 0


def test_an_interrupted_training_says_in_one_line_where_it_goes_on(
    tmp_path, tokenizer, encoded, teacher
):
    class Reader(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == 7:
                raise KeyboardInterrupt  # what the stop button sends

    def prepare(**more):
        return tiny.trainer(tmp_path, tiny.bert(2, seed=8), encoded, tokenizer, teacher, **more)

    for saved, place in (("no", "the beginning"), ("steps", "step 4")):
        trainer = prepare(per_device_train_batch_size=5, save_strategy=saved, save_steps=4)
        trainer.add_callback(Reader())
        with pytest.raises(KeyboardInterrupt) as interrupted:
            trainer.fit()
        line = f"stopped at step 7; run this cell again to go on from {place}"
        assert interrupted.value._render_traceback_() == [line] == [str(interrupted.value)]


def three_epochs(folder: Path) -> None:
    tokenizer = tiny.tokenizer(folder)
    rows = tiny.encoded(tokenizer, 48, seed=5), tiny.encoded(tokenizer, 21, seed=6)
    trainer = tiny.trainer(
        folder / "out",
        tiny.bert(2, seed=8, dropout=0.2),
        rows,
        tokenizer,
        tiny.bert(4, seed=7),
        num_train_epochs=3,
        per_device_train_batch_size=2,
        save_strategy="steps",
        save_steps=8,
        eval_strategy="steps",
        eval_steps=8,
    )
    trainer.fit()
    if trainer.is_world_process_zero():
        torch.save(tiny.snapshot(trainer.model), folder / "weights.pt")


@pytest.mark.slow
def test_two_processes_resumed_in_a_later_epoch_end_bit_equal(tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        if name == "cut":
            shutil.copytree(
                tmp_path / "whole" / "out" / "checkpoint-16",
                tmp_path / "cut" / "out" / "checkpoint-16",
            )
        in_two_processes(
            tmp_path,
            f"import test_trainer\ntest_trainer.three_epochs(Path({str(tmp_path / name)!r}))",
        )
    assert (
        tiny.difference(*(torch.load(tmp_path / name / "weights.pt") for name in ("whole", "cut")))
        == 0
    )


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory, tokenizer, encoded):
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.trainer(
        folder, tiny.bert(1), encoded[0], tokenizer, alpha=0.0, save_strategy="steps", save_steps=3
    ).fit()
    return folder


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"],
)
@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, two_checkpoints, name, damage, capsys):
    folder = tmp_path / "run"
    shutil.copytree(two_checkpoints, folder)
    assert Path(newest_checkpoint(folder)).name == "checkpoint-6"
    file = folder / "checkpoint-6" / name
    file.write_bytes(file.read_bytes()[:-40]) if damage == "cut off" else file.unlink()
    assert Path(newest_checkpoint(folder)).name == "checkpoint-3"
    assert (folder / "broken-6").is_dir() and "checkpoint-6 was cut off" in capsys.readouterr().out


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_checkpoint(tmp_path) is None and newest_checkpoint(tmp_path / "nowhere") is None


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, hint",
    [
        (dict(label_smoothing_factor=0.1), "alpha = ε"),
        (dict(temperature=0.0), "temperature"),
        (dict(temperature="2"), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(alpha=1.5), "soft loss"),
        (dict(alpha=float("nan")), "soft loss"),
        (dict(divergence="kl"), ", ".join(DIVERGENCES)),
        (dict(divergence="jsd", beta=1.0), "beta"),
    ],
)
def test_arguments_are_checked_before_anything_runs(tmp_path, change, hint):
    with pytest.raises(ValueError, match=hint):
        tiny.arguments(tmp_path, **change)


def test_the_arguments_survive_json(tmp_path):
    ours = json.loads(
        tiny.arguments(tmp_path, temperature=4.0, alpha=0.25, divergence="jsd").to_json_string()
    )
    assert (ours["temperature"], ours["alpha"], ours["divergence"]) == (4.0, 0.25, "jsd")
    assert isinstance(DistillationArguments(str(tmp_path), use_cpu=True).temperature, float)


def test_plain_training_arguments_are_refused(tmp_path, encoded, student):
    from transformers import TrainingArguments

    with pytest.raises(TypeError, match="DistillationArguments"):
        DistillationTrainer(
            student,
            TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
            train_dataset=encoded[0],
        )


def test_alpha_above_0_needs_a_teacher(tmp_path, tokenizer, encoded, student):
    with pytest.raises(ValueError, match="needs a teacher"):
        tiny.trainer(tmp_path, student, encoded, tokenizer)


@pytest.mark.parametrize("column", ["labels", "input_ids"])
@pytest.mark.parametrize("as_list", [False, True], ids=["dataset", "list"])
def test_a_missing_column_is_named_before_training(
    tmp_path, tokenizer, encoded, teacher, student, column, as_list
):
    rows = encoded[0].remove_columns(column)
    wanted = f"training rows have no column `{column}`; glue.encode .* They have .*attention_mask"
    with pytest.raises(ValueError, match=wanted):
        tiny.trainer(tmp_path, student, list(rows) if as_list else rows, tokenizer, teacher)


def test_evaluation_rows_may_lack_labels_and_nothing_else(
    tmp_path, tokenizer, encoded, teacher, student
):
    train, validation = encoded
    unlabelled = validation.remove_columns("labels")
    tiny.trainer(tmp_path, student, (train, unlabelled), tokenizer, teacher)
    texts = {"texts": tiny.dataset(6)}
    with pytest.raises(ValueError, match="evaluation rows have no column `input_ids`"):
        tiny.trainer(tmp_path, student, (train, texts), tokenizer, teacher)


def test_a_stream_of_rows_is_left_to_its_first_batch(
    tmp_path, tokenizer, encoded, teacher, student
):
    stream = encoded[0].to_iterable_dataset()
    tiny.trainer(tmp_path, student, stream, tokenizer, teacher, max_steps=2).train()


def test_a_column_may_have_another_name_or_be_made_by_the_collator(
    tmp_path, tokenizer, encoded, teacher, student
):
    tiny.trainer(
        tmp_path, student, encoded[0].rename_column("labels", "label"), tokenizer, teacher
    ).fit()
    collate = glue.collator(tokenizer)

    def labelling(rows):
        batch = collate(rows)
        return batch | {"labels": torch.zeros(len(rows), dtype=torch.long)}

    unlabelled = encoded[0].remove_columns("labels")
    tiny.trainer(tmp_path, student, unlabelled, tokenizer, teacher, collator=labelling).fit()


@pytest.mark.parametrize(
    "other, hint",
    [
        (lambda: tiny.bert(2, labels=("entailment", "contradiction", "neutral")), "wrong class"),
        (lambda: tiny.bert(2, labels=("yes", "maybe", "no")), "wrong class"),
        (lambda: tiny.bert(2, labels=("LABEL_0", "LABEL_1")), "classes"),
        (lambda: models.tiny_bert(99, tiny.LABELS, layers=1, width=16, heads=2), "vocabular"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(tmp_path, tokenizer, encoded, student, other, hint):
    with pytest.raises(ValueError, match=hint):
        tiny.trainer(tmp_path, student, encoded, tokenizer, other())


def test_a_teacher_without_class_names_is_accepted(tmp_path, tokenizer, encoded, student):
    tiny.trainer(
        tmp_path,
        student,
        encoded,
        tokenizer,
        tiny.bert(2, labels=("LABEL_0", "LABEL_1", "LABEL_2")),
    )


# -- the sampler -----------------------------------------------------------------------------------------------------


def epochs_of(sampler, *epochs) -> list[list[int]]:
    return [sampler.set_epoch(e) or list(sampler) for e in epochs]


@pytest.mark.parametrize("rows, batch", [(0, 4), (1, 4), (4, 4), (203, 8), (1000, 7), (5, 100)])
def test_the_sampler_gives_every_row_once(rows, batch):
    lengths = list(np.random.default_rng(0).integers(4, 60, rows))
    sampler = LengthGroupedSampler(lengths, batch, seed=3)
    for order in epochs_of(sampler, 0, 1):
        assert sorted(order) == list(range(rows)) and len(sampler) == rows


def test_the_sampler_depends_on_seed_and_epoch_alone():
    lengths = list(np.random.default_rng(0).integers(4, 60, 300))
    new = lambda seed: LengthGroupedSampler(lengths, 8, seed)
    zero, five = epochs_of(new(1), 0, 5)
    torch.manual_seed(99), np.random.seed(99)
    torch.rand(7)
    assert epochs_of(new(1), 5, 0) == [five, zero] and zero != five
    assert epochs_of(new(2), 0) != [zero]


def test_the_sampler_pads_less_than_random_order():
    lengths = np.random.default_rng(1).integers(4, 60, 1003)
    padded = lambda order: sum(
        lengths[order[i : i + 8]].max() * len(order[i : i + 8]) for i in range(0, len(order), 8)
    )
    (order,) = epochs_of(LengthGroupedSampler(list(lengths), 8), 0)
    assert (
        padded(np.array(order))
        < 1.1 * lengths.sum()
        < padded(np.random.default_rng(2).permutation(1003))
    )
    starts = [lengths[order[i]] for i in range(0, len(order) - 8, 8)]
    assert np.abs(np.corrcoef(starts, range(len(starts)))[0, 1]) < 0.3, (
        "long rows must not all come first"
    )


# -- the loss through a whole training -------------------------------------------------------------------------------


def test_label_smoothing_as_kd_is_torchs_label_smoothing(tmp_path, tokenizer, encoded):
    rows = encoded[0].add_column("teacher_logits", [[0.0, 0.0, 0.0]] * len(encoded[0]))
    ours = tiny.trainer(
        tmp_path / "a",
        tiny.bert(2, seed=8),
        rows,
        tokenizer,
        alpha=0.1,
        temperature=1.0,
        optim="sgd",
        learning_rate=0.1,
    )
    ours.fit()
    theirs = tiny.trainer(
        tmp_path / "b",
        tiny.bert(2, seed=8),
        encoded[0],
        tokenizer,
        alpha=0.0,
        optim="sgd",
        learning_rate=0.1,
    )
    theirs.compute_loss = lambda model, inputs, num_items_in_batch=None, **kw: (
        torch.nn.functional.cross_entropy(
            model(**{k: v for k, v in inputs.items() if k != "labels"}).logits,
            inputs["labels"],
            label_smoothing=0.1,
        )
    )
    theirs.train()
    assert tiny.difference(ours.model.state_dict(), theirs.model.state_dict()) <= 1e-6


def test_a_student_learns_what_its_teacher_knows(tmp_path, tokenizer, taught):
    """From the soft targets alone: with alpha = 1 the labels, all wrong here, must not be read."""
    train = taught.train.remove_columns("labels").add_column("labels", [0] * len(taught.train))
    trainer = tiny.trainer(
        tmp_path,
        models.student_from_teacher(taught.teacher, [0]),
        (train, taught.validation),
        tokenizer,
        taught.teacher,
        alpha=1.0,
        num_train_epochs=8,
        per_device_train_batch_size=16,
    )
    before = trainer.evaluate()
    trainer.fit()
    after = trainer.evaluate()
    assert after["eval_accuracy"] > 0.95 and after["eval_kd"] < before["eval_kd"] / 10


# -- controls and curves ---------------------------------------------------------------------------------------------


def test_controls(tokenizer):
    logits = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    before = logits.copy()
    given = dict(alpha=0.9, temperature=3.0)
    same, alpha, temperature = methods.for_rows("kd", logits, **given)
    assert np.array_equal(same, logits) and (alpha, temperature) == (0.9, 3.0)
    assert methods.for_rows("ce", logits, **given)[1] == 0.0
    flat, alpha, temperature = methods.for_rows("label_smoothing", logits, smoothing=0.2, **given)
    assert not flat.any() and (alpha, temperature) == (0.2, 1.0)
    mixed, alpha, temperature = methods.for_rows("shuffled", logits, **given)
    assert (alpha, temperature) == (0.9, 3.0) and np.array_equal(
        np.sort(mixed, 1), np.sort(logits, 1)
    )
    assert np.array_equal(mixed.argmax(1), logits.argmax(1)) and np.array_equal(
        mixed.max(1), logits.max(1)
    )
    moved = (mixed != logits).any(1).mean()
    assert 0.75 < moved < 0.9, (
        "five of the six orders of three wrong classes differ from the one that was"
    )
    assert np.array_equal(methods.for_rows("shuffled", logits, **given)[0], mixed)
    assert not np.array_equal(methods.for_rows("shuffled", logits, seed=1, **given)[0], mixed)
    assert np.array_equal(logits, before)
    with pytest.raises(ValueError, match="kd, ce, label_smoothing, hard, equalised, shuffled"):
        methods.for_rows("magic", logits, **given)


def softened(logits, temperature):
    return torch.softmax(torch.tensor(logits) / temperature, -1).numpy()


def test_the_top_class_alone_is_a_label():
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    hard, alpha, temperature = methods.for_rows("hard", logits, alpha=0.9, temperature=3.0)
    assert (alpha, temperature) == (0.9, 1.0)
    assert np.array_equal(softened(hard, 1.0), np.eye(4)[logits.argmax(1)])
    # as the soft loss hears it: cross-entropy on the teacher's guesses
    student = torch.randn(50, 4)
    loss = distillation_loss(
        student, torch.tensor(hard), torch.zeros(50, dtype=torch.long), temperature=1.0, alpha=1.0
    )
    guesses = torch.tensor(logits.argmax(1))
    torch.testing.assert_close(loss.kd, torch.nn.functional.cross_entropy(student, guesses))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_equal_wrong_classes_keep_the_teachers_confidence(temperature):
    logits = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32) * 3
    equal, alpha, T = methods.for_rows("equalised", logits, alpha=0.9, temperature=temperature)
    assert (alpha, T) == (0.9, temperature)
    ours, theirs = softened(equal, temperature), softened(logits, temperature)
    top = logits.argmax(1)
    rows = np.arange(50)
    np.testing.assert_allclose(ours[rows, top], theirs[rows, top], rtol=1e-5)
    others = ours[np.arange(4)[None] != top[:, None]].reshape(50, 3)
    np.testing.assert_allclose(others, np.repeat(others[:, :1], 3, 1), rtol=1e-5)
    np.testing.assert_allclose(ours.sum(1), 1, rtol=1e-5)


def test_loss_curves(tmp_path, tokenizer, encoded, teacher, student):
    trainer = tiny.trainer(
        tmp_path,
        student,
        encoded,
        tokenizer,
        teacher,
        logging_strategy="steps",
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=3,
    )
    trainer.fit()
    curves = loss_curves(trainer.state.log_history)
    assert [(r["step"], r["split"]) for r in curves] == [
        (2, "train"),
        (3, "validation"),
        (4, "train"),
        (6, "train"),
        (6, "validation"),
    ]
    assert all(
        {"ce", "kd"} <= set(r) and ("accuracy" in r) == (r["split"] == "validation") for r in curves
    )


def test_shuffled_doubt_keeps_answers_and_softness_but_not_which_rows_are_doubtful():
    logits = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32) * 3
    given, alpha, T = methods.for_rows("shuffled_doubt", logits, alpha=0.7, temperature=3.0, seed=1)
    assert (
        (alpha, T) == (0.7, 3.0)
        and np.array_equal(given.argmax(1), logits.argmax(1))
        and not np.array_equal(given, logits)
    )
    for name in (0, 1):
        rows = logits.argmax(1) == name
        assert np.array_equal(np.sort(given[rows], 0), np.sort(logits[rows], 0))
    same, *_ = methods.for_rows("shuffled", logits, alpha=0.7, temperature=3.0)
    assert np.array_equal(same, logits), "with two classes the wrong classes have nothing to trade"
