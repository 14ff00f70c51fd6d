"""Human votes and teacher logits: joined by uid, reordered to GLUE's classes, refused when half a file is there."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from kdlib import glue, votes
from kdlib.corpora.get import REAL, File
from kdlib.losses import soft_targets
from kdlib.paths import real_folder
from kdlib.trainer import teacher_logits

VOTED = [("a", [60, 30, 10], "e"), ("b", [0, 40, 60], "c"), ("c", [20, 80, 0], "n")]
LOGITS = {
    "a": [3.0, -1.0, 1.0],
    "b": [-2.0, 4.0, 0.5],
}  # entailment, contradiction, neutral: as published


def write(folder, name, rows):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return File(f"chaosnli/{name}", "", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def chaos(tmp_path, monkeypatch):
    """A ChaosNLI of three rows with the layout of the real files; logits for two of them."""
    folder = tmp_path / "chaosnli"
    folder.mkdir()
    monkeypatch.setenv("KD_REAL", str(tmp_path))
    rows = [
        {
            "uid": uid,
            "label_count": counts,
            "old_label": gold,
            "example": {"premise": f"P{uid}", "hypothesis": f"H {uid}"},
        }
        for uid, counts, gold in VOTED
    ]
    files = [write(folder, "votes.jsonl", rows)] + [
        write(folder, f"{uid}.json", [{"uid": uid, "logits": values}])
        for uid, values in LOGITS.items()
    ]
    monkeypatch.setitem(REAL, "chaosnli", files)
    return folder


def test_joins_by_uid_and_reorders_to_glue(chaos):
    table = votes.load("chaosnli")
    assert list(table.columns) == ["uid", "premise", "hypothesis", "truth", "label", "logits"]
    assert table["uid"].tolist() == ["a", "b"]  # "c" has no logits
    np.testing.assert_allclose(np.stack(table["truth"]), [[0.6, 0.3, 0.1], [0, 0.4, 0.6]])
    np.testing.assert_allclose(np.stack(table["logits"]), [[3, 1, -1], [-2, 0.5, 4]])
    assert table["label"].tolist() == [0, 2] and votes.LABELS == glue.MNLI.labels


def test_rows_are_the_same_each_time(chaos):
    assert votes.load("chaosnli", rows=1).equals(votes.load("chaosnli", rows=1))
    assert len(votes.load("chaosnli", rows=1)) == 1 and len(votes.load("chaosnli", rows=50)) == 2


def test_an_absent_file_says_how_to_get_it(chaos):
    (chaos / "b.json").unlink()
    with pytest.raises(FileNotFoundError, match="python -m kdlib get real --part chaosnli"):
        votes.load("chaosnli")


def test_a_file_cut_at_a_line_end_is_refused(chaos):
    """The dangerous cut: what is left reads well and would only give other numbers."""
    path = chaos / "votes.jsonl"
    path.write_text(
        "".join(path.read_text(encoding="utf8").splitlines(keepends=True)[:1]), encoding="utf8"
    )
    with pytest.raises(ValueError, match="votes.jsonl .* is cut off or altered; fetch it again"):
        votes.load("chaosnli")


def test_kl_and_entropy_agree_with_scipy():
    from scipy.stats import entropy

    p, q = np.random.default_rng(0).dirichlet(np.ones(3), (2, 50))
    np.testing.assert_allclose(votes.kl(p, q), [entropy(a, b) for a, b in zip(p, q)])
    np.testing.assert_allclose(votes.entropy(p), [entropy(a) for a in p])


def test_kl_counts_nothing_where_nobody_voted_and_is_infinite_for_a_refuted_certainty():
    assert votes.kl([0.5, 0.5, 0], [0.25, 0.75, 0]) == pytest.approx(0.5 * np.log(4 / 3))
    assert votes.kl([1, 0, 0], [1, 0, 0]) == 0 and votes.entropy([1, 0, 0]) == 0
    assert np.isinf(votes.kl([0.9, 0.1, 0], [1, 0, 0]))
    assert votes.entropy(np.full(3, 1 / 3)) == pytest.approx(np.log(3))


@pytest.fixture
def mini(tmp_path, tokenizer, teacher):
    """(corpus, teacher): a made-up corpus with `label_dist`, labelled by the very teacher that lies beside it."""
    data = tiny.dataset(60)
    ask = lambda: teacher_logits(
        teacher, glue.encode(data, tokenizer, glue.MNLI), glue.collator(tokenizer)
    )
    teacher.classifier.bias.data -= torch.from_numpy(
        ask().mean(0)
    )  # or it would give one answer to all rows
    answers = ask()
    rows = data.to_pandas().assign(label=answers.argmax(-1), label_dist=[[0.5, 0.3, 0.2]] * 60)
    for folder in ("corpus", "teacher"):
        (tmp_path / folder).mkdir()
    rows.to_parquet(tmp_path / "corpus" / "validation_matched.parquet")
    teacher.save_pretrained(tmp_path / "teacher"), tokenizer.save_pretrained(tmp_path / "teacher")
    return tmp_path / "corpus", tmp_path / "teacher", answers


def test_the_embedded_source_has_the_same_columns(mini, chaos):
    corpus, teacher, answers = mini
    table = votes.load(corpus, teacher=teacher)
    assert list(table.columns) == list(votes.load("chaosnli").columns)
    np.testing.assert_allclose(np.stack(table["logits"]), answers, atol=1e-5)
    np.testing.assert_allclose(np.stack(table["truth"]), [[0.5, 0.3, 0.2]] * 60)
    assert (answers.argmax(-1) == table["label"]).all()
    assert len(votes.load(corpus, teacher=teacher, rows=30)) == 30


def test_a_corpus_without_a_true_distribution_is_refused(tmp_path, mini):
    corpus, teacher, _ = mini
    path = corpus / "validation_matched.parquet"
    pd.read_parquet(path).drop(columns="label_dist").to_parquet(path)
    with pytest.raises(ValueError, match="no column label_dist"):
        votes.load(corpus, teacher=teacher)


@pytest.mark.skipif(
    not (real_folder() / "chaosnli").is_dir(),
    reason="no real votes: python -m kdlib get real --part chaosnli",
)
def test_the_real_votes_give_the_known_numbers():
    table = votes.load("chaosnli")
    people, logits = np.stack(table["truth"]), torch.tensor(np.stack(table["logits"]))
    kl = lambda T, order=(0, 1, 2): votes.kl(people, soft_targets(logits[:, list(order)], T)).mean()
    assert len(table) == 1569
    assert [round(kl(T), 3) for T in (1, 4, 8)] == [0.706, 0.245, 0.273]
    assert round(kl(1, (0, 2, 1)), 3) == 1.414  # read in the published order
    smoothed = 0.3 * np.eye(3)[table["label"]] + 0.7 / 3
    assert round(votes.kl(people, smoothed).mean(), 3) == 0.249
