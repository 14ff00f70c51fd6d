"""A distillation's three things: the teacher that is asked, the model that the student starts from, the tokenizer."""

import copy
import itertools
import json

import numpy as np
import pytest
import tiny
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizerFast,
    DistilBertForSequenceClassification,
    DistilBertTokenizerFast,
)

from kdlib import glue, models, teacher_cache, teachers, trainer
from kdlib.paths import ROOT

ANONYMOUS = ("LABEL_0", "LABEL_1", "LABEL_2")


def renamed(model, labels, order=None):
    """A copy whose output i is the model's output order[i], with these class names."""
    twin = copy.deepcopy(model)
    order = list(order or range(len(labels)))
    with torch.no_grad():
        twin.classifier.weight.copy_(model.classifier.weight[order])
        twin.classifier.bias.copy_(model.classifier.bias[order])
    twin.config.id2label = dict(enumerate(labels))
    twin.config.label2id = {name: i for i, name in enumerate(labels)}
    return twin


def save(folder, model, tokenizer, **how):
    model.save_pretrained(folder, **how)
    tokenizer.save_pretrained(folder)
    return folder


def distil_tokenizer(folder) -> DistilBertTokenizerFast:
    """DistilBERT's: the same vocabulary, and no segments."""
    tiny.tokenizer(folder)
    return DistilBertTokenizerFast(str(folder / "vocab.txt"))


@pytest.fixture
def folders(tmp_path, taught, tokenizer):
    """A fine-tuned teacher with anonymous classes in a `.bin`, and a DistilBERT without a head: the hub's usual pair."""
    teacher = renamed(taught.teacher, ANONYMOUS)
    save(tmp_path / "teacher", teacher, tokenizer, safe_serialization=False)
    assert (tmp_path / "teacher" / "pytorch_model.bin").exists()
    body = models.student_from_teacher(tiny.bert(layers=3, seed=5), [0, 1, 2], "distilbert")
    (tmp_path / "vocabulary").mkdir()
    save(tmp_path / "student", body.distilbert, distil_tokenizer(tmp_path / "vocabulary"))
    return tmp_path


def test_three_things(folders, taught):
    teacher, source, tokenizer = models.load_pair(
        folders / "teacher", folders / "student", tiny.LABELS
    )
    collator = glue.collator(tokenizer)
    ours = trainer.teacher_logits(teacher, taught.validation, collator)
    theirs = trainer.teacher_logits(taught.teacher, taught.validation, collator)
    assert np.array_equal(ours, theirs), "the answers are the fine-tuned teacher's own"
    assert isinstance(source, DistilBertForSequenceClassification)
    assert source.config.id2label == teacher.config.id2label == dict(enumerate(tiny.LABELS))
    assert set(tokenizer("the cat", "the dog")) >= {"token_type_ids"}, "BERT reads segments"
    for student in ("", "teacher"):
        alone = models.load_pair(folders / "teacher", student, tiny.LABELS)
        assert alone.teacher is alone.student_source


def test_stored_answers_need_no_teacher_but_a_student(folders):
    pair = models.load_pair("answers.safetensors", folders / "student", tiny.LABELS)
    assert pair.teacher is None and pair.student_source.config.num_labels == 3
    assert "token_type_ids" not in pair.tokenizer("the cat", "the dog")
    with pytest.raises(ValueError, match="student="):
        models.load_pair("answers.safetensors", "", tiny.LABELS)


@pytest.mark.parametrize("lost", ["all of the head", "classifier.bias", "bert.pooler.dense.weight"])
def test_a_teacher_with_random_weights_is_refused(tmp_path, taught, tokenizer, lost):
    if lost == "all of the head":
        save(tmp_path / "t", taught.teacher.bert, tokenizer)
        lost = "classifier.bias, classifier.weight"
    else:
        weights = {k: v for k, v in taught.teacher.state_dict().items() if k != lost}
        save(tmp_path / "t", taught.teacher, tokenizer, state_dict=weights)
    with pytest.raises(ValueError) as refusal:
        models.load_pair(tmp_path / "t", "", tiny.LABELS)
    told = str(refusal.value)[:300]
    assert f"weights lack {lost}" in told and "random" in told and "fine-tuned" in told
    assert "permute" not in str(refusal.value).lower() and "reorder" not in str(refusal.value)
    assert models.load(tmp_path / "t", labels=tiny.LABELS).config.num_labels == 3, "a student may"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_classes_in_another_order_are_sorted_by_their_names(tmp_path, taught, tokenizer, order):
    names = tuple(tiny.LABELS[i].upper() for i in order)
    save(tmp_path / "t", renamed(taught.teacher, names, order), tokenizer)
    teacher = models.load_teacher(tmp_path / "t", tiny.LABELS)
    collator = glue.collator(tokenizer)
    ours = trainer.teacher_logits(teacher, taught.validation, collator)
    theirs = trainer.teacher_logits(taught.teacher, taught.validation, collator)
    assert np.allclose(ours, theirs, atol=1e-5)
    models.check_labels(teacher, tiny.LABELS)


def test_classes_of_another_task_are_refused(tmp_path, taught, tokenizer):
    save(tmp_path / "t", renamed(taught.teacher, ("negative", "neutral", "positive")), tokenizer)
    with pytest.raises(ValueError, match="fine-tuned for this task"):
        models.load_pair(tmp_path / "t", "", tiny.LABELS)


def test_permuted_classes_without_names_are_refused_after_a_few_rows(tmp_path, taught, tokenizer):
    save(tmp_path / "t", renamed(taught.teacher, ANONYMOUS, (2, 0, 1)), tokenizer)
    teacher = models.load_teacher(tmp_path / "t", tiny.LABELS)
    rows, asked = tiny.dataset(600, seed=9), []
    teacher.register_forward_hook(lambda module, args, out: asked.append(len(out.logits)))
    with pytest.raises(ValueError, match="output 0 = contradiction, output 1 = entailment") as told:
        teachers.check_on_some_rows(teacher, rows, tokenizer, glue.MNLI, max_length=40)
    assert sum(asked) == 200 and "reorder_classes(teacher, (2, 0, 1)" in str(told.value)
    models.reorder_classes(teacher, (2, 0, 1), tiny.LABELS)  # as the message advises
    found = teachers.check_on_some_rows(teacher, rows, tokenizer, glue.MNLI, max_length=40)
    assert found.permutation == (0, 1, 2)
    with pytest.raises(ValueError, match="no order"):
        models.reorder_classes(teacher, (0, 0, 1), tiny.LABELS)


def test_a_teacher_asked_in_words_it_cannot_read_says_so(taught, tokenizer):
    rows = tiny.dataset(60, seed=9).map(lambda row: {"premise": "Zwölf Boxkämpfer jagen Viktor"})
    rows = rows.map(lambda row: {"hypothesis": "quer über den großen Sylter Deich"})
    with pytest.raises(ValueError, match=r"of the rows' tokens are \[UNK\]"):
        teachers.check_on_some_rows(taught.teacher, rows, tokenizer, glue.MNLI, max_length=40)


def test_one_answer_for_everything_is_no_knowledge():
    """Two classes, 63 % of one: always answering it beats the swapped order by far, and knows nothing."""
    labels = np.arange(300) % 100 >= 63
    lazy = np.tile([1.0, -1.0], (300, 1))
    with pytest.raises(ValueError, match="knows too little.*63.0%") as told:
        models.check_label_order(lazy, labels.astype(int), glue.QQP.labels)
    assert "Permute" not in str(told.value)


def vocabulary(folder, words, **how) -> BertTokenizerFast:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return BertTokenizerFast(str(folder / "vocab.txt"), **how)


def test_tokenizers_that_read_otherwise_are_refused(folders, tokenizer):
    teacher = models.load_teacher(folders / "teacher", tiny.LABELS)
    student = models.load(folders / "student", labels=tiny.LABELS)
    words = list(tiny.WORDS)
    words[10], words[11] = words[11], words[10]
    with pytest.raises(ValueError, match="the tokenizers differ"):
        models.check_pair(teacher, student, tokenizer, vocabulary(folders / "swapped", words))
    words = [*tiny.WORDS[:-1], "we"]  # of the probe: its capitals make a difference
    small, large = (
        vocabulary(folders / name, words, do_lower_case=name == "small")
        for name in ("small", "large")
    )
    assert small.get_vocab() == large.get_vocab()
    with pytest.raises(ValueError, match="read the same text differently.*'we"):
        models.check_pair(teacher, student, small, large)


def test_layers_by_text(taught):
    assert models.which_layers("all", taught.teacher) == [0, 1]
    assert models.which_layers("1", taught.teacher) == [1]
    for wrong in ("", "0, 1", "1,0", "0,0", "2", "every", "-1"):
        with pytest.raises(ValueError, match="student_layers must be"):
            models.which_layers(wrong, taught.teacher)


# -- BERT teaches DistilBERT -------------------------------------------------------------------------------------------


def test_live_cached_and_stored_answers_teach_a_distilbert_alike(folders, taught, tmp_path):
    """The teacher hears the segments each time, the student never; the three students are one."""
    pair = models.load_pair(folders / "teacher", folders / "student", tiny.LABELS)
    train, validation = taught.train.select(range(48)), taught.validation.select(range(24))
    collator, heard = glue.collator(pair.tokenizer), []
    pair.teacher.register_forward_pre_hook(
        lambda module, args, named: heard.append(named.get("token_type_ids")), with_kwargs=True
    )
    deaf = train.remove_columns("token_type_ids")
    without = trainer.teacher_logits(pair.teacher, deaf, collator)
    assert heard.pop(0) is None, "rows without segments are answered as if all were the first text"
    heard.clear()
    stored = trainer.teacher_logits(pair.teacher, train, collator)
    assert abs(stored - without).max() > 0.1, "segments matter to this teacher"

    def students_weights(name, rows=train, **how):
        torch.manual_seed(0)
        layers = models.which_layers("0,2", pair.student_source)
        student = models.student_from_teacher(pair.student_source, layers)
        assert isinstance(student, DistilBertForSequenceClassification)
        learning = trainer.DistillationTrainer(
            student,
            tiny.arguments(tmp_path / name, alpha=0.7),
            train_dataset=rows,
            eval_dataset=how.pop("eval_dataset", validation),
            data_collator=collator,
            **how,
        )
        learning.fit()
        return tiny.snapshot(learning.model) | {"kd": torch.tensor(learning.evaluate()["eval_kd"])}

    live = students_weights("live", teacher=pair.teacher)
    caches = [teacher_cache.build(pair.teacher, r, pair.tokenizer) for r in (train, validation)]
    cached = students_weights("cached", teacher_cache=caches)
    answered = [
        rows.add_column(trainer.TEACHER_LOGITS, list(logits))
        for rows, logits in (
            (train, stored),
            (validation, trainer.teacher_logits(pair.teacher, validation, collator)),
        )
    ]
    column = students_weights("column", answered[0], eval_dataset=answered[1])
    assert all(segments is not None and segments.any() for segments in heard)
    assert tiny.difference(live, cached) < 1e-5 and tiny.difference(live, column) < 1e-5


# -- the notebooks under `full`, with a small pair in place of the hub's -------------------------------------------------


def glue_folder(folder):
    """Embedded rows in the hub's layout, without the truth that only synthetic rows know."""
    for task, corpus in ((glue.MNLI, "mini_nli"), (glue.QQP, "mini_qqp")):
        (folder / task.name).mkdir(parents=True)
        for split, count in (("train", 64), (task.validation, 160)):
            rows = glue.load(task, f"data/{corpus}", split, rows=count)
            rows = rows.select_columns([*task.columns, "label", "idx"])
            rows.to_parquet(str(folder / task.name / f"{split}-00000-of-00001.parquet"))
    return folder


def right_share(source, task, rows) -> float:
    """A teacher's accuracy, with transformers alone: one row at a time, no padding."""
    model, tokenizer = (
        kind.from_pretrained(ROOT / source)
        for kind in (AutoModelForSequenceClassification, AutoTokenizer)
    )
    right = []
    for row in rows:
        pair = tokenizer(*(row[c] for c in task.columns), return_tensors="pt")
        with torch.inference_mode():
            right.append(int(model.eval()(**pair).logits.argmax()) == row["label"])
    return sum(right) / len(right)


def executed(notebook, **parameters) -> dict:
    """The names of a notebook after its code cells ran; the student's source must not be asked."""
    names = {"__name__": "__main__"}
    for cell in json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf8"))["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code" or "skip-execution" in tags:
            continue
        exec(compile("".join(cell["source"]), f"<{notebook}, {cell['id']}>", "exec"), names)
        if "parameters" in tags:
            names.update(parameters)
        if "student_source" in names and "watched" not in names:
            names["watched"] = names["student_source"].register_forward_pre_hook(refuse_to_answer)
    return names


def refuse_to_answer(module, arguments):
    raise AssertionError("the model that the student starts from was asked for an answer")


def hub_pair(folder, task, corpus) -> dict[str, str]:
    """What the hub has, small: an anonymous BERT in a `.bin`, a headless DistilBERT, rows in GLUE's layout."""
    known = f"data/teachers/{corpus}"
    fine_tuned, tokenizer = models.load(known, labels=task.labels), models.load_tokenizer(known)
    anonymous = renamed(fine_tuned, ANONYMOUS[: len(task.labels)])
    save(folder / "bert", anonymous, tokenizer, safe_serialization=False)
    body = models.student_from_teacher(fine_tuned, [1, 3], "distilbert").distilbert
    torch.nn.init.normal_(body.embeddings.position_embeddings.weight)  # not its teacher's twin
    save(folder / "distilbert", body, tokenizer)
    settings = folder / "distilbert" / "tokenizer_config.json"  # DistilBERT's has no segments
    told = json.loads(settings.read_text()) | {"model_input_names": ["input_ids", "attention_mask"]}
    settings.write_text(json.dumps(told))
    return {
        "data": str(glue_folder(folder / "glue")),
        "teacher": str(folder / "bert"),
        "student": str(folder / "distilbert"),
    }


SMALL = dict(profile="full", train_rows=64, epochs=1, batch_size=16, max_length=64)


@pytest.mark.parametrize(
    "notebook, task, corpus",
    [("04_distilbert_mnli", glue.MNLI, "mini_nli"), ("05_distilbert_qqp", glue.QQP, "mini_qqp")],
)
def test_full_asks_its_teacher_and_starts_from_distilbert(notebook, task, corpus, tmp_path):
    pair = hub_pair(tmp_path, task, corpus)
    names = executed(notebook, **SMALL, **pair)
    record, known = names["record"]["results"], f"data/teachers/{corpus}"
    rows = glue.load(task, pair["data"], task.validation)
    if notebook.startswith("04"):  # its scores are of rows that chose nothing
        _, rows = glue.held_out(task, pair["data"], validation_rows=0, test_rows=0)
    own = right_share(known, task, rows)
    assert record["teacher_accuracy"] == pytest.approx(own, abs=1e-9)
    assert record["teacher_parameters"] == models.size(models.load(known))["parameters"]
    assert isinstance(names["trained"]["student"], DistilBertForSequenceClassification)
    assert names["trained"]["student"].config.num_hidden_layers == 2


def test_the_race_of_notebook_00_under_full(tmp_path):
    pair = hub_pair(tmp_path, glue.MNLI, "mini_nli")
    names = executed("00_start_here", **SMALL, **pair, student_depth=2, repeats=1)
    rows = glue.load(glue.MNLI, pair["data"], glue.MNLI.validation)
    own = right_share("data/teachers/mini_nli", glue.MNLI, rows)
    assert names["record"]["results"]["accuracy, teacher"] == pytest.approx(own, abs=1e-9)
    assert isinstance(names["student"], DistilBertForSequenceClassification)


def test_both_trainers_of_notebook_03_give_the_teacher_its_segments(tmp_path):
    """The notebook asserts that its own Trainer and kdlib's have the same losses."""
    pair = hub_pair(tmp_path, glue.MNLI, "mini_nli")
    names = executed("03_distillation_loss", **SMALL, **pair, batch_rows=16)
    assert isinstance(names["ours"]["student"], DistilBertForSequenceClassification)
    assert names["record"]["results"]["largest_difference"] < 1e-6
    seen = []
    with names["teacher"].register_forward_pre_hook(
        lambda module, args, named: seen.append(named.get("token_type_ids")), with_kwargs=True
    ):
        names["logits_of"](names["teacher"], names["plain"])
        names["OpenTrainer"].compute_loss(
            names["open_trainer"](
                names["new_student"](),
                tiny.arguments(tmp_path / "open", remove_unused_columns=False),
                train_dataset=names["train_data"],
            ),
            names["new_student"](),
            dict(names["plain"]),
        )
    assert len(seen) == 2 and all(segments.any() for segments in seen)
