"""models: a student is a copy of some of its teacher, pairs that do not fit are refused, the scales do not lie."""

import itertools
import os

import numpy as np
import pytest
import tiny
import torch
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from kdlib import models
from kdlib.engine import hub
from kdlib.trainer import DistillationArguments


@pytest.fixture
def batch(tokenizer):
    data = tiny.rows(6, seed=4)
    return dict(tokenizer(data["premise"], data["hypothesis"], padding=True, return_tensors="pt"))


def test_all_layers_make_a_twin(teacher, batch):
    student = models.student_from_teacher(teacher, [0, 1, 2, 3]).eval()
    assert torch.equal(student(**batch).logits, teacher(**batch).logits)
    assert student.config.id2label == teacher.config.id2label


def test_the_chosen_layers_are_the_chosen_layers(teacher, batch):
    student = models.student_from_teacher(teacher, [1, 3]).eval()
    assert student.config.num_hidden_layers == 2 and len(student.bert.encoder.layer) == 2
    for new, old in enumerate([1, 3]):
        assert (
            tiny.difference(
                student.bert.encoder.layer[new].state_dict(),
                teacher.bert.encoder.layer[old].state_dict(),
            )
            == 0
        )
    teacher.bert.encoder.layer = torch.nn.ModuleList(
        [teacher.bert.encoder.layer[i] for i in (1, 3)]
    )
    assert torch.equal(student(**batch).logits, teacher(**batch).logits)


@pytest.mark.parametrize("family", [None, "distilbert"])
def test_moving_the_student_leaves_the_teacher_where_it_was(teacher, family):
    before = tiny.snapshot(teacher)
    student = models.student_from_teacher(teacher, [0, 2], family)
    assert not {p.data_ptr() for p in teacher.parameters()} & {
        p.data_ptr() for p in student.parameters()
    }
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1)
    assert tiny.difference(before, teacher.state_dict()) == 0
    assert teacher.config.num_hidden_layers == 4
    assert all(p.requires_grad for p in student.parameters())


def test_a_frozen_teacher_makes_a_student_that_learns(teacher):
    teacher.requires_grad_(False)
    assert all(p.requires_grad for p in models.student_from_teacher(teacher, [0]).parameters())


def test_distilbert_from_all_layers_encodes_like_its_bert(teacher, batch):
    student = models.student_from_teacher(teacher, [0, 1, 2, 3], "distilbert").eval()
    plain = {k: v for k, v in batch.items() if k != "token_type_ids"}
    ours = student.distilbert(**plain).last_hidden_state
    theirs = teacher.bert(
        **plain, token_type_ids=torch.zeros_like(plain["input_ids"])
    ).last_hidden_state
    assert (
        theirs.std() > 0.5 and (ours - theirs)[plain["attention_mask"].bool()].abs().max() <= 1e-5
    )
    pooled = torch.tanh(student.pre_classifier(ours[:, 0]))  # what ReLU stands in for
    assert torch.allclose(
        student.classifier(pooled),
        teacher(**plain, token_type_ids=torch.zeros_like(plain["input_ids"])).logits,
        atol=1e-4,
    )


def test_distilbert_from_some_layers_takes_the_named_ones(teacher):
    student = models.student_from_teacher(teacher, [1, 3], "distilbert")
    for new, old in enumerate([1, 3]):
        assert torch.equal(
            student.distilbert.transformer.layer[new].ffn.lin1.weight,
            teacher.bert.encoder.layer[old].intermediate.dense.weight,
        )
        assert torch.equal(
            student.distilbert.transformer.layer[new].attention.v_lin.bias,
            teacher.bert.encoder.layer[old].attention.self.value.bias,
        )
    assert {str(v) for v in student.config.id2label.values()} == set(tiny.LABELS)


def test_a_distilbert_can_be_cut_further(teacher, batch):
    first = models.student_from_teacher(teacher, [0, 1, 2, 3], "distilbert")
    second = models.student_from_teacher(first, [0, 3])
    assert second.config.num_hidden_layers == 2
    assert torch.equal(
        second.distilbert.transformer.layer[1].ffn.lin2.weight,
        first.distilbert.transformer.layer[3].ffn.lin2.weight,
    )


@pytest.mark.parametrize("layers", [[], [0, 4], [-1], [2, 1], [0, 0], [True], [0, 1, 1, 2]])
def test_layers_that_are_not_there_are_refused(teacher, layers):
    with pytest.raises(ValueError, match="layers must be rising numbers in 0…3"):
        models.student_from_teacher(teacher, layers)


def test_a_family_that_cannot_be_made_is_refused(teacher):
    with pytest.raises(ValueError, match="only bert into distilbert"):
        models.student_from_teacher(teacher, [0], "roberta")
    teacher.config.hidden_act = "silu"
    with pytest.raises(ValueError, match="silu"):
        models.student_from_teacher(teacher, [0], "distilbert")


# -- do they fit? ----------------------------------------------------------------------------------------------------


def test_check_pair(teacher, student, tokenizer, tmp_path):
    models.check_pair(teacher, student, tokenizer, tokenizer)
    with pytest.raises(ValueError, match="wrong class with confidence"):
        models.check_pair(tiny.bert(labels=tiny.LABELS[::-1]), student)
    with pytest.raises(ValueError, match="3 classes, the student 2"):
        models.check_pair(teacher, tiny.bert(labels=("LABEL_0", "LABEL_1")))
    other = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=30, dim=8, hidden_dim=8, n_layers=1, n_heads=1, num_labels=3)
    )
    with pytest.raises(ValueError, match="41 and 30 tokens|different vocabularies"):
        models.check_pair(teacher, other)
    words = list(tiny.WORDS)
    words[10], words[11] = words[11], words[10]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(ValueError, match=f"'{words[10]}'|'{words[11]}'"):
        models.check_pair(
            teacher, student, tokenizer, tiny.BertTokenizerFast(str(tmp_path / "vocab.txt"))
        )


def test_upper_case_names_are_the_same_names(student):
    models.check_pair(tiny.bert(labels=tuple(n.upper() for n in tiny.LABELS)), student)
    models.check_labels(tiny.bert(labels=tuple(n.upper() for n in tiny.LABELS)), tiny.LABELS)


@pytest.mark.parametrize("order", [o for o in itertools.permutations(range(3)) if o != (0, 1, 2)])
def test_permuted_class_names_are_refused(order):
    with pytest.raises(ValueError, match="in this order"):
        models.check_labels(tiny.bert(labels=tuple(tiny.LABELS[i] for i in order)), tiny.LABELS)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_check_label_order_finds_every_permutation(order):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 300)
    good = np.eye(3)[labels] * 2 + draw.normal(size=(300, 3))  # about nine in ten are right
    logits = np.empty_like(good)
    logits[:, list(range(3))] = good[:, list(order)]  # output i means the task's class order[i]
    if order == (0, 1, 2):
        found = models.check_label_order(logits, labels, tiny.LABELS)
        assert found.permutation == order and found.accuracies[order] == pytest.approx(
            (good.argmax(1) == labels).mean()
        )
        assert len(found.accuracies) == 6
    else:
        meaning = ", ".join(f"output {i} = {tiny.LABELS[j]}" for i, j in enumerate(order))
        with pytest.raises(ValueError, match=meaning):
            models.check_label_order(logits, labels, tiny.LABELS)


def test_a_teacher_that_knows_nothing_has_no_order():
    draw = np.random.default_rng(1)
    with pytest.raises(ValueError, match="knows too little"):
        models.check_label_order(draw.normal(size=(400, 3)), draw.integers(0, 3, 400), tiny.LABELS)


@pytest.mark.parametrize("share, is_told", [(0.0, False), (0.05, False), (0.6, True)])
@pytest.mark.parametrize("case", ["knows nothing", "another order"])
def test_many_unknown_tokens_are_the_likelier_cause(tokenizer, share, is_told, case):
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 400)
    logits = np.eye(3)[labels][:, [1, 2, 0]]
    if case == "knows nothing":
        logits = draw.normal(size=(400, 3))
    ids = [[tokenizer.unk_token_id if i < 100 * share else 9 for i in range(100)]] * 400
    with pytest.raises(ValueError) as refused:
        models.check_label_order(
            logits, labels, tiny.LABELS, rows={"input_ids": ids}, tokenizer=tokenizer
        )
    told = f"{share:.0%} of the rows' tokens are [UNK], words that the tokenizer does not know"
    assert (told in str(refused.value)) == is_told
    assert ("does not know" in str(refused.value)) == is_told


# -- loading ---------------------------------------------------------------------------------------------------------


def test_load(tmp_path, teacher, batch):
    teacher.train().save_pretrained(tmp_path / "named")
    loaded = models.load(tmp_path / "named", labels=tiny.LABELS)
    assert (
        not loaded.training
        and loaded.dtype == torch.float32
        and torch.equal(loaded(**batch).logits, teacher.eval()(**batch).logits)
    )
    with pytest.raises(ValueError, match="tells 3 classes apart, the task has 2"):
        models.load(tmp_path / "named", labels=("no", "yes"))
    tiny.bert(labels=("LABEL_0", "LABEL_1", "LABEL_2")).save_pretrained(tmp_path / "anonymous")
    assert (
        models.load(tmp_path / "anonymous", labels=tiny.LABELS).config.id2label[2]
        == "contradiction"
    )
    tiny.bert(labels=tiny.LABELS[::-1]).save_pretrained(tmp_path / "reversed")
    kept = models.load(tmp_path / "reversed", labels=tiny.LABELS)  # keeps its own names, so that …
    with pytest.raises(ValueError):
        models.check_labels(kept, tiny.LABELS)


def test_a_body_without_a_head_gets_the_tasks_classes(tmp_path, teacher):
    teacher.bert.save_pretrained(tmp_path / "body")
    loaded = models.load(tmp_path / "body", labels=("no", "yes"))
    assert loaded.config.num_labels == 2 and loaded.config.label2id == {"no": 0, "yes": 1}
    assert tiny.difference(loaded.bert.state_dict(), teacher.bert.state_dict()) == 0


def test_half_precision_weights_are_loaded_in_full(tmp_path, teacher):
    teacher.half().save_pretrained(tmp_path)
    assert models.load(tmp_path).dtype == torch.float32


def test_where_a_model_is_looked_for(tmp_path, monkeypatch, teacher):
    """A folder as it is named, below the repository wherever the notebook runs, a copy under KD_REAL for a hub id."""
    monkeypatch.setattr(hub, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("KD_REAL", str(tmp_path / "real"))
    monkeypatch.chdir(tmp_path)
    for place, source in (
        ("here", "here"),
        ("repository/data/teachers/t", "data/teachers/t"),
        ("real/owner/name", "owner/name"),
    ):
        teacher.save_pretrained(tmp_path / place)
        assert tiny.difference(models.load(source).state_dict(), teacher.state_dict()) == 0


def test_load_from_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        models.load(tmp_path / "nowhere")


# -- what does it weigh? ---------------------------------------------------------------------------------------------


def test_size_counts_a_shared_weight_once():
    one, two = torch.nn.Linear(10, 20, bias=False), torch.nn.Linear(10, 20)
    both = torch.nn.ModuleList([one, two])
    assert models.size(both) == {"parameters": 420, "megabytes": 420 * 4 / 1e6}
    two.weight = one.weight
    assert models.size(both)["parameters"] == 220
    assert models.size(both.half())["megabytes"] == 220 * 2 / 1e6


@pytest.mark.parametrize("unit", ["amx_bf16", "avx512_bf16"])
@pytest.mark.parametrize("has_units", [True, False])
def test_a_cpu_with_bf16_instructions_trains_in_bf16(unit, has_units, tmp_path, monkeypatch):
    """SmolLM2 trains twice as fast with AMX (Intel), 1.6 times as fast with AVX-512's bf16 (AMD).

    Without either bf16 is imitated, and slow.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {unit: has_units})
    wanted = torch.bfloat16 if has_units else torch.float32
    assert models.machine_dtype() == wanted
    arguments = DistillationArguments(str(tmp_path), bf16=wanted == torch.bfloat16)
    assert arguments.bf16 == has_units and arguments.device.type == "cpu"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == ("bf16" if has_units else "no")
    DistillationArguments(str(tmp_path))
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no", "the next training would be in bf16"


def test_models_that_take_turns_suffer_alike(teacher, batch, monkeypatch):
    """The machine is busy in the second half of the passes: both medians see it, or neither."""
    order = []

    def passes(model, batch, *, repeats, warmup=3, device=None):
        order.append(model)
        busy = len(order) > 2 + 10
        return (2.0 if model == "large" else 1.0) + 100 * busy

    monkeypatch.setattr(models, "latency", passes)
    found = models.take_turns({"slow": "large", "fast": "small"}, batch, rounds=5)
    assert order == ["large", "small"] * 6, "one pass each to warm up, then turns"
    assert found == {"slow": 2.0, "fast": 1.0}


def test_latency_measures_with_dropout_off_and_leaves_the_mode(teacher, batch):
    modes = []
    teacher.register_forward_hook(lambda module, args, out: modes.append(module.training))
    teacher.train()
    seconds = models.latency(teacher, batch | {"labels": torch.zeros(6)}, repeats=5, warmup=2)
    assert 0 < seconds < 5 and modes == [False] * 7 and teacher.training
    assert (
        models.latency(models.student_from_teacher(teacher, [0], "distilbert"), batch, repeats=2)
        > 0
    )  # no segment ids


def test_forward_inputs_keeps_what_the_model_takes(teacher, batch):
    distilbert = models.student_from_teacher(teacher, [0], "distilbert")
    extra = batch | {"teacher_logits": 0}
    assert set(models.forward_inputs(teacher, extra)) == {
        "input_ids",
        "attention_mask",
        "token_type_ids",
    }
    assert set(models.forward_inputs(distilbert, extra)) == {"input_ids", "attention_mask"}
