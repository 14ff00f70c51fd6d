"""The teachers that ship: they load, know what they claim, and are found again row by row."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdlib import glue, models, scores, teachers, trainer, translation
from kdlib.paths import DATA

real = pytest.mark.skipif(
    not os.environ.get("KD_REAL")
    or not (Path(os.environ["KD_REAL"]) / "nyu-mll/glue/mnli").is_dir(),
    reason="KD_REAL names no folder with nyu-mll/glue/mnli: real rows are no part of the project",
)
STORED = "data/teachers/mnli_logits.safetensors"


@pytest.mark.parametrize("corpus", ["mini_nli", "mini_qqp"])
def test_the_embedded_teacher_is_as_good_as_it_says(corpus):
    folder, task = DATA / "teachers" / corpus, teachers.TASK_OF[corpus]
    about = json.loads((folder / "teacher.json").read_text())
    teacher, tokenizer = (
        models.load(f"data/teachers/{corpus}", labels=task.labels),
        models.load_tokenizer(f"data/teachers/{corpus}"),
    )
    rows = glue.load(task, f"data/{corpus}", task.validation)
    encoded = glue.encode(rows, tokenizer, task, max_length=64)
    logits = trainer.teacher_logits(teacher, encoded, glue.collator(tokenizer))
    found = glue.compute_metrics((logits, np.array(rows["label"])))["accuracy"]
    majority = np.bincount(rows["label"]).max() / len(rows)
    assert abs(found - about["accuracy"]) <= 0.003 and found > majority + 0.1
    assert models.check_label_order(logits, rows["label"], task.labels).permutation == tuple(
        range(len(task.labels))
    )
    assert not (np.array(encoded["input_ids"][0]) == tokenizer.unk_token_id).any()
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4e6
    assert {f.suffix for f in folder.iterdir()} <= {".json", ".safetensors", ".txt"}, (
        "nothing pickled"
    )


def test_the_embedded_translator_is_as_good_as_it_says():
    folder = DATA / "teachers/miniparl"
    about, tokenizer, teacher = (
        teachers.about("data/teachers/miniparl"),
        models.load_tokenizer(folder),
        models.load_causal(folder),
    )
    pairs = translation.load("data/miniparl", "test").rows.select(range(120))
    rows, _ = translation.encode(pairs, tokenizer)
    nats = np.mean(
        [
            -torch.log_softmax(
                teacher(input_ids=torch.tensor([r["input_ids"]])).logits[0, :-1], -1
            )[torch.arange(len(r["labels"]) - 1), torch.tensor(r["labels"][1:]).clamp_min(0)][
                torch.tensor(r["labels"][1:]) != -100
            ]
            .mean()
            .item()
            for r in rows.select(range(60))
        ]
    )
    found = translation.translate(teacher, tokenizer, list(pairs["en"]))
    assert (
        abs(np.exp(nats) - about["perplexity"]) < 0.03
        and abs(scores.bleu(found.texts, list(pairs["fr"])).value - about["test_bleu"]) < 5
    )
    assert not any(found.report[name] for name in ("hit_limit", "stray", "empty"))
    assert sum(f.stat().st_size for f in folder.iterdir()) < 4e6 and {
        f.suffix for f in folder.iterdir()
    } <= {".json", ".safetensors", ".jinja"}


def test_stored_logits_survive_and_unknown_rows_are_refused(tmp_path):
    keys = [glue.row_key("a", str(i)) for i in range(5)]
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    teachers.write_logits(tmp_path / "t.safetensors", keys, logits, {"rows": 3, "validation": 2})
    assert (
        np.abs(teachers.look_up(tmp_path / "t.safetensors", keys[::-1]) - logits[::-1]).max() < 2e-3
    )  # fp16
    with pytest.raises(ValueError, match="1 of 2 rows are not among the 5 that the stored teacher"):
        teachers.look_up(tmp_path / "t.safetensors", [keys[0], "0" * 16])


@pytest.mark.parametrize(
    "task, classes, rows, low, high", [("mnli", 3, 12_000, 0.6, 0.75), ("qqp", 2, 9_000, 0.7, 0.85)]
)
def test_what_ships_of_a_real_teacher_is_numbers_only(task, classes, rows, low, high):
    stored = f"data/teachers/{task}_logits.safetensors"
    known, about = teachers.read_logits(stored)
    assert len(known) == about["rows"] + about["validation"] == rows and next(
        iter(known.values())
    ).shape == (classes,)
    assert (DATA.parent / stored).stat().st_size < 200_000
    assert low < about["accuracy"] < high and about["seed"] == 0 and "torch" in about["versions"]


@real
def test_real_rows_find_their_stored_answers_whatever_their_order():
    known, about = teachers.read_logits(STORED)
    train = glue.load("mnli", "nyu-mll/glue", "train", rows=500, among=list(known))
    validation = glue.load(
        "mnli", "nyu-mll/glue", "validation_matched", rows=4000, among=list(known)
    )
    assert glue.row_keys(train, glue.MNLI) == list(known)[:500], (
        "the order of the stored file, not of the corpus"
    )
    answers = teachers.look_up(STORED, glue.row_keys(validation, glue.MNLI))
    order = models.check_label_order(answers, validation["label"], glue.MNLI.labels)
    assert abs(order.accuracies[0, 1, 2] - about["accuracy"]) < 0.002
    with pytest.raises(ValueError, match="Permute its outputs"):
        models.check_label_order(answers[:, [1, 2, 0]], validation["label"], glue.MNLI.labels)


def test_rows_that_the_teacher_never_saw_are_told(tmp_path):
    with pytest.raises(ValueError, match="only 0 of its 1,000 rows are among the 2 wanted ones"):
        glue.load("mnli", "data/mini_nli", "validation_matched", among=["0" * 16, "1" * 16])


@pytest.mark.parametrize("corpus", sorted(teachers.TASK_OF))
def test_the_command_that_makes_an_embedded_teacher_again(tmp_path, monkeypatch, corpus):
    """The whole path, with a recipe that takes seconds."""
    monkeypatch.setattr(
        teachers, "MINI", teachers.MINI | dict(layers=1, width=16, heads=2, more_rows_seeds=[])
    )
    monkeypatch.setitem(teachers.OWN, corpus, dict(epochs=1, learning_rate=1e-3))
    monkeypatch.setattr(teachers, "ROOT", tmp_path)
    shipped = {p: p.read_bytes() for p in (DATA / "teachers").rglob("*") if p.is_file()}
    teachers.main([corpus, "--scratch", str(tmp_path / "scratch")])
    assert shipped == {p: p.read_bytes() for p in (DATA / "teachers").rglob("*") if p.is_file()}, (
        "what ships stays"
    )
    out = tmp_path / "runs" / f"teacher_{corpus}"
    about = json.loads((out / "teacher.json").read_text())
    assert about["rows"] == 8000 and 0 < about["test_accuracy"] < 1 and len(about["history"]) == 1
    assert models.load(out, labels=teachers.TASK_OF[corpus].labels).config.num_hidden_layers == 1


@pytest.mark.parametrize(
    "teacher", ["mini_nli", "mini_qqp", "miniparl", "europarl", "smollm2", "mnli", "qqp"]
)
def test_nothing_that_ships_is_overwritten_unless_one_says_so(teacher, tmp_path, monkeypatch):
    """The recipe that `runs/teacher_…`'s own error names must leave the repository clean."""
    called = []
    for room, name in (
        (teachers, "train_real"),
        (teachers, "train_mini"),
        (teachers.translators, "train"),
    ):
        monkeypatch.setattr(room, name, lambda *given: called.append(given))
    teachers.main([teacher])
    assert all(not place.is_relative_to(DATA) for place in called[0][1:] if place)
    assert called[0][1].is_relative_to(teachers.ROOT / "runs" / f"teacher_{teacher}"), (
        "where notebooks look for it"
    )
    teachers.main([teacher, "--out", str(tmp_path / "mine")])
    assert called[1][1] == tmp_path / "mine"
    if teacher == "europarl":
        with pytest.raises(ValueError, match="none to replace"):
            teachers.main([teacher, "--replace"])
    else:
        teachers.main([teacher, "--replace"])
        assert called[2][1].parent == DATA / "teachers"
        assert all(not place.is_relative_to(DATA) for place in called[2][2:] if place)


def test_a_pretrained_translator_ships_as_answers(tmp_path, monkeypatch):
    """From a folder with a language model to the files that a student learns from."""
    import datasets
    import tiny
    from test_chatml import chatml_tokenizer

    from kdlib.course import translators

    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    everything = tiny.pairs(36)
    parts = {
        name: {side: texts[start:end] for side, texts in everything.items()}
        for name, start, end in (("train", 0, 24), ("validation", 24, 30), ("test", 30, 36))
    }
    tiny.europarl(tmp_path / "rows", **parts)
    body = tmp_path / "body"
    tokenizer = chatml_tokenizer()
    tokenizer.save_pretrained(body)
    tiny.llama(len(tokenizer), max_length=512).save_pretrained(body)
    made = {"source": str(tmp_path / "rows"), "body": str(body), "rows": 16, "steps": 1}
    made |= {"evaluated": 4, "max_length": 400}
    monkeypatch.setitem(
        translators.TRANSLATORS, "smollm2", translators.TRANSLATORS["smollm2"] | made
    )
    monkeypatch.setitem(translators.ANSWERED, "rows", 12)
    monkeypatch.setitem(translators.ANSWERED, "validation", 3)
    translators.train("smollm2", tmp_path / "out", tmp_path / "scratch", tmp_path / "weights")

    assert translators.stored(body) is None
    stored = translators.stored(tmp_path / "out")
    assert stored.about["rows"] == 16 and stored.about["tested"] == 4
    assert list(stored.about["own"]) == translators.OUR_SENTENCES
    assert stored.about["audit"]["T = 1: cosine to the dense gradient"] > 0.5
    assert (len(stored.references), len(stored.translations)) == (15, 12)
    pairs = translation.load(
        str(tmp_path / "rows"), "train", max_words=20, among=stored.translations.pairs
    ).rows
    own = translators.own_translations(stored, pairs, translation.tokenizer(tmp_path / "weights"))
    assert list(own["en"]) == list(pairs["en"])
    # both kinds of rows find their answers, and they are the teacher's
    teacher = models.load_causal(tmp_path / "weights")
    tokenizer = models.load_tokenizer(tmp_path / "weights")
    for texts, answers in ((pairs, stored.references), (own, stored.translations)):
        rows, _ = translation.encode(texts, tokenizer, max_length=400, system="")
        told = answers.topk(answers.find(rows.select([2])), 1.0)
        ids = torch.tensor([rows[2]["input_ids"]])
        learnt = torch.tensor(rows[2]["labels"])[1:] != -100
        with torch.no_grad():
            likeliest = teacher(input_ids=ids).logits[0, :-1][learnt].argmax(-1)
        assert torch.equal(told.ids[:, 0], likeliest)
    (tmp_path / "out" / "translations.safetensors").unlink()
    with pytest.raises(ValueError, match="own translations do not ship"):
        translators.stored(tmp_path / "out").answers("teacher")
    other = datasets.Dataset.from_dict({"en": ["A new sentence."], "fr": ["Une phrase."]})
    with pytest.raises(ValueError, match="1 of 1 pairs were not translated by the stored teacher"):
        translators.own_translations(stored, other, tokenizer)
