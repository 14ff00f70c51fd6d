"""glue: what is loaded is what was asked for, or an error that says what is wrong; the metrics are scikit-learn's."""

import socket
import subprocess
import sys
import time
from collections import Counter

import datasets
import numpy as np
import pytest
import tiny
from sklearn.metrics import accuracy_score, f1_score

from kdlib import glue
from kdlib.engine import hub


def as_rows(data) -> list[dict]:
    return [dict(row) for row in data]


@pytest.mark.parametrize("subfolder", ["mnli", ""])
def test_a_folder_of_the_hubs_layout(tmp_path, subfolder):
    folder = tiny.hub_folder(tmp_path / "glue", subfolder)
    for source in (folder, str(folder)):
        assert as_rows(glue.load("mnli", source, "train")) == as_rows(tiny.dataset(48, 0))
        assert as_rows(glue.load(glue.MNLI, source, glue.MNLI.validation)) == as_rows(
            tiny.dataset(24, 1)
        )


def test_several_files_of_a_split_are_read_in_order(tmp_path):
    whole = tiny.dataset(30, 0)
    for i in range(3):
        whole.select(range(10 * i, 10 * i + 10)).to_parquet(
            str(tmp_path / f"train-{i:05d}-of-00003.parquet")
        )
    assert as_rows(glue.load("mnli", tmp_path, "train")) == as_rows(whole)


def test_a_copy_under_kd_real_stands_for_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_REAL", str(tmp_path / "real"))
    tiny.hub_folder(tmp_path / "real" / "nyu-mll" / "glue")
    assert len(glue.load("mnli", "nyu-mll/glue", "train")) == 48


def test_a_folder_below_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "ROOT", tmp_path)
    tiny.hub_folder(tmp_path / "data" / "mini")
    monkeypatch.chdir("/")
    assert len(glue.load("mnli", "data/mini", "train")) == 48


def test_some_rows_are_the_same_rows_every_time(tmp_path):
    folder = tiny.hub_folder(tmp_path / "glue")
    some, again = (glue.load("mnli", folder, "train", rows=12) for _ in range(2))
    assert len(some) == 12 and as_rows(some) == as_rows(again)
    assert as_rows(some) != as_rows(tiny.dataset(48, 0))[:12], (
        "the file may be sorted: a share must be a sample"
    )
    assert (
        len(glue.load("mnli", folder, "train", rows=999))
        == len(glue.load("mnli", folder, "train", rows=0))
        == 48
    )
    with pytest.raises(ValueError, match="rows"):
        glue.load("mnli", folder, "train", rows=-1)


def test_rows_by_their_keys(tmp_path):
    folder = tiny.hub_folder(tmp_path / "glue")
    data = glue.load("mnli", folder, "train")
    keys = glue.row_keys(data, glue.MNLI)
    wanted = [keys[i] for i in (7, 3, 40)]
    found = glue.load("mnli", folder, "train", among=["0" * 16, *wanted])
    assert as_rows(found) == [data[i] for i in (7, 3, 40)]
    assert as_rows(glue.load("mnli", folder, "train", among=wanted, rows=2)) == [
        data[i] for i in (7, 3)
    ]
    with pytest.raises(ValueError, match="another edition"):
        glue.load("mnli", folder, "train", among=wanted, rows=4)


def test_row_keys_name_a_pair_of_texts():
    assert (
        glue.row_key("premise", "hypothesis") == "5acc84548d37e542"
    )  # shipped logits are found by it: it must never change
    assert (
        len(
            {
                glue.row_key("a", "b"),
                glue.row_key("b", "a"),
                glue.row_key("ab", ""),
                glue.row_key("", "ab"),
                glue.row_key("ab"),
            }
        )
        == 5
    )
    assert glue.row_key("Zoë", "où ?") == glue.row_key("Zoë", "où ?")


def broken(tmp_path, change):
    data = change(tiny.dataset(12, 0))
    data.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    return lambda: glue.load("mnli", tmp_path, "train")


def with_label(row, label):
    def change(data):
        labels = list(data["label"])
        labels[row] = label
        return data.remove_columns("label").add_column("label", labels)

    return change


@pytest.mark.parametrize(
    "change, hint",
    [
        (
            lambda d: d.remove_columns("hypothesis"),
            "no column hypothesis; mnli needs premise, hypothesis and label",
        ),
        (lambda d: d.remove_columns("label"), "no column label"),
        (lambda d: d.select([]), "empty"),
        (with_label(5, -1), "row 5: label -1 .* secret"),
        (with_label(3, 3), "row 3: label 3 is none of 0…2"),
        (
            lambda d: tiny.dataset(12, 0, names=("contradiction", "neutral", "entailment")),
            "the classes are .*contradiction",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(tmp_path, change, hint):
    with pytest.raises(ValueError, match=hint):
        broken(tmp_path, change)()


def test_a_missing_split_names_those_that_are_there(tmp_path):
    with pytest.raises(
        ValueError, match="no split 'test_matched'; it has train, validation_matched"
    ):
        glue.load("mnli", tiny.hub_folder(tmp_path / "glue"), "test_matched")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no Parquet file"):
        glue.load("mnli", tmp_path / "nothing", "train")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_folder_that_is_not_there_does_not_go_to_the_hub(source):
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        glue.load("mnli", source, "train")
    assert time.perf_counter() - began < 2


def test_a_hub_that_cannot_be_reached_says_what_to_do_within_seconds(tmp_path):
    with socket.socket() as taken:  # a port that nobody listens to
        taken.bind(("127.0.0.1", 0))
        script = (
            "import time\nfrom kdlib import glue\nimport datasets\nbegan = time.perf_counter()\n"
            "try:\n    glue.load('mnli', 'nyu-mll/glue', 'train')\nexcept ConnectionError as error:\n"
            "    print(error)\n    print(f'after {time.perf_counter() - began:.1f} s')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            timeout=120,
            env=os_environ(
                HF_ENDPOINT=f"http://127.0.0.1:{taken.getsockname()[1]}",
                KD_REAL=str(tmp_path / "real"),
                XDG_CACHE_HOME=str(tmp_path),
            ),
        )
    assert done.returncode == 0, done.stderr
    assert (
        "KD_REAL=FOLDER" in done.stdout
        and "profile=laptop" in done.stdout
        and str(tmp_path / "real") in done.stdout
    )
    assert float(done.stdout.split("after ")[1].split()[0]) < 5


def os_environ(**changes):
    import os

    kept = {
        k: v
        for k, v in os.environ.items()
        if k.lower() not in ("http_proxy", "https_proxy", "all_proxy", "hf_hub_offline")
    }
    return kept | changes


# -- tokens and scores -----------------------------------------------------------------------------------------------


def test_encode(tokenizer):
    data = tiny.dataset(20, 3)
    encoded = glue.encode(data, tokenizer, glue.MNLI, max_length=14, keep=("idx",))
    assert set(encoded.column_names) == {
        "input_ids",
        "token_type_ids",
        "attention_mask",
        "labels",
        "idx",
    }
    assert encoded["labels"] == data["label"] and max(map(len, encoded["input_ids"])) == 14
    words = tokenizer.convert_ids_to_tokens(encoded[0]["input_ids"])
    assert words[0] == "[CLS]" and words.count("[SEP]") == 2 and words[1] == "the"
    batch = glue.collator(tokenizer)([{k: row[k] for k in row} for row in encoded.select(range(4))])
    assert (
        batch["input_ids"].shape[1] % 8 == 0 and batch["labels"].tolist() == encoded["labels"][:4]
    )


@pytest.mark.parametrize("classes, seed", [(2, 0), (3, 1), (5, 2)])
def test_metrics_are_scikit_learns(classes, seed):
    draw = np.random.default_rng(seed)
    logits, labels = draw.normal(size=(137, classes)), draw.integers(0, classes, 137)
    ours, guesses = glue.compute_metrics((logits, labels)), logits.argmax(1)
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, guesses), abs=1e-12)
    assert ours["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"), abs=1e-12)


def test_macro_f1_by_hand_and_the_model_with_one_answer():
    labels = np.array([0] * 90 + [1] * 10)
    majority = glue.compute_metrics((np.tile([1.0, 0.0], (100, 1)), labels))
    assert majority["accuracy"] == 0.9 and majority["macro_f1"] == pytest.approx(
        (2 * 90 / 190 + 0) / 2, abs=1e-12
    )
    right = glue.compute_metrics((np.eye(2)[labels], labels))
    assert right == {"accuracy": 1.0, "macro_f1": 1.0}


def test_the_metrics_take_batches_and_the_binary_average():
    from kdlib import metrics

    draw = np.random.default_rng(4)
    guesses, labels = draw.integers(0, 2, 60), draw.integers(0, 2, 60)
    metric = metrics.F1()
    for part in (slice(0, 25), slice(25, 60)):
        metric.add_batch(predictions=guesses[part], references=labels[part])
    assert metric.compute(average="binary")["binary_f1"] == pytest.approx(
        f1_score(labels, guesses), abs=1e-12
    )


def test_the_made_up_rows_are_balanced_and_of_unequal_length(tokenizer):
    """What the other tests lean on."""
    data = tiny.dataset(48, 0)
    assert Counter(data["label"]) == {0: 16, 1: 16, 2: 16}
    lengths = [len(ids) for ids in tiny.encoded(tokenizer, 48)["input_ids"]]
    assert (
        min(lengths) < 18
        and max(lengths) > 24
        and tokenizer.unk_token_id not in sum(tiny.encoded(tokenizer, 48)["input_ids"], [])
    )
    assert isinstance(data, datasets.Dataset)


def test_calibration_against_a_loop_and_a_model_that_knows_its_odds():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3000, 3)) * 2
    soft = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array(
        [draw.choice(3, p=row) for row in soft]
    )  # drawn from its own soft targets: calibrated
    found = glue.calibration(logits, labels)
    bins = {}
    for row, label in zip(soft, labels):
        bins.setdefault(min(int(row.max() * 10), 9), []).append((row.max(), row.argmax() == label))
    by_hand = sum(
        abs(np.mean([c for c, _ in rows]) - np.mean([r for _, r in rows])) * len(rows) / 3000
        for rows in bins.values()
    )
    assert found.ece == pytest.approx(by_hand, abs=1e-12) and found.ece < 0.03
    assert sum(entry["count"] for entry in found.bins) == 3000 and len(found.bins) == len(bins)
    sure = glue.calibration(logits * 5, labels)
    assert sure.ece > 0.15 and all(
        entry["confidence"] > entry["accuracy"] for entry in sure.bins if entry["count"] > 100
    )
    modest = glue.calibration(logits / 5, labels)
    assert modest.ece > 0.15


@pytest.mark.parametrize(
    "logits, labels, bins",
    [(np.zeros((3, 2)), [0, 1], 10), (np.zeros((0, 2)), [], 10), (np.zeros((3, 2)), [0, 1, 0], 0)],
)
def test_calibration_of_nothing_is_refused(logits, labels, bins):
    with pytest.raises(ValueError, match="as many labels as rows"):
        glue.calibration(logits, labels, bins)


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda data: data[: len(data) // 2], "no whole Parquet file"),
        (lambda data: data[:4] + bytes(600) + data[604:], "is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, sentence):
    tiny.hub_folder(tmp_path)
    file = tmp_path / "mnli" / "train-00000-of-00001.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=f"train-00000-of-00001.parquet.* {sentence}|{sentence}"):
        glue.load("mnli", tmp_path, "train")


@pytest.mark.parametrize(
    "column, values, said",
    [
        ("label", ["entailment"] * 3, "column label must hold whole numbers, entailment is 0"),
        ("label", [0.0, 0.5, 1.0], "column label must hold whole numbers.*type double"),
        ("label", [0, None, 2], "column label has 1 rows without a value"),
        ("premise", ["a", None, "c"], "column premise has 1 rows without a value"),
        ("hypothesis", [1, 2, 3], "column hypothesis must hold text; this one has type int64"),
    ],
    ids=["text", "fractions", "no label", "no sentence", "numbers"],
)
def test_a_column_of_another_type_is_refused_by_name(tmp_path, column, values, said):
    rows = {"premise": ["a", "b", "c"], "hypothesis": ["d", "e", "f"], "label": [0, 1, 2]}
    data = datasets.Dataset.from_dict(rows | {column: values})
    data.to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    with pytest.raises(ValueError, match=said):
        glue.load("mnli", tmp_path, "train")


# -- rows that choose, and rows that report ------------------------------------------------------


def test_an_embedded_corpus_has_test_rows_of_its_own():
    validation, test = glue.held_out(glue.MNLI, "data/mini_nli", validation_rows=100, test_rows=200)
    assert as_rows(validation) == as_rows(
        glue.load("mnli", "data/mini_nli", "validation_matched", rows=100)
    )
    assert as_rows(test) == as_rows(glue.load("mnli", "data/mini_nli", "test_matched", rows=200))


@pytest.mark.parametrize("secret", [True, False], ids=["test labels secret", "no test split"])
def test_without_test_labels_the_validation_rows_are_cut_in_two(tmp_path, secret):
    folder = tiny.hub_folder(tmp_path / "glue", "")
    if secret:  # as GLUE publishes them
        hidden = tiny.dataset(10, 5).map(lambda row: {"label": -1})
        hidden.to_parquet(str(folder / "test_matched-00000-of-00001.parquet"))

    def cut(validation_rows, test_rows):
        parts = glue.held_out(
            glue.MNLI, folder, validation_rows=validation_rows, test_rows=test_rows
        )
        return [set(glue.row_keys(part, glue.MNLI)) for part in parts]

    choose, report = cut(8, 6)
    assert (len(choose), len(report)) == (8, 6) and not choose & report
    assert choose == set(
        glue.row_keys(glue.load("mnli", folder, "validation_matched", rows=8), glue.MNLI)
    ), "more test rows must not change what chooses"
    assert [len(part) for part in cut(0, 0)] == [12, 12]
    assert [len(part) for part in cut(8, 0)] == [8, 16]
    assert [len(part) for part in cut(0, 8)] == [16, 8]
    with pytest.raises(ValueError, match="24 validation rows cannot be cut into 24 that choose"):
        cut(24, 0)
