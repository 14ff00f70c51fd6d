"""The embedded corpora: rebuilt equal, balanced, without leaks, true to their own distributions, not guessable from single words."""

import hashlib
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from kdlib import corpora

ROOT = Path(__file__).resolve().parent.parent
PYARROW = "22.0.0"  # the locked writer: bytes are compared under it only
CORPORA = sorted(corpora.LABELS)


def read(corpus, split):
    import pyarrow.parquet as pq

    return pq.read_table(ROOT / "data" / corpus / f"{split}-00000-of-00001.parquet").to_pylist()


@pytest.fixture(scope="module")
def data():
    """{corpus: {split: rows}} as stored, not as generated."""
    return {
        corpus: {split: read(corpus, split) for split in corpora.SPLITS[corpus]}
        for corpus in CORPORA
    }


def everything(data, corpus):
    return [row for rows in data[corpus].values() for row in rows]


def test_rebuild_is_what_is_stored(tmp_path, data):
    import pyarrow

    fresh = corpora.build(tmp_path)
    assert len(fresh) == 9
    sources = (ROOT / "data" / "SOURCES.md").read_text("utf-8")
    for name, sha in fresh.items():
        corpus, file = name.split("/")
        if corpus == "miniparl":  # tests/test_parliament.py
            continue
        content = corpora.content_hash(data[corpus][file.split("-")[0]])
        assert (
            content == corpora.content_hash(corpora.rows(corpus)[file.split("-")[0]])
            and content in sources
        ), name
        if pyarrow.__version__ == PYARROW:
            assert (
                hashlib.sha256((ROOT / "data" / name).read_bytes()).hexdigest() == sha
                and sha in sources
            ), name


def test_check_finds_a_changed_file(tmp_path, capsys):
    corpora.build(tmp_path)
    assert corpora.main(["--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "mini_qqp" / "test-00000-of-00001.parquet").write_bytes(b"broken")
    assert corpora.main(["--out", str(tmp_path), "--check"]) == 1
    assert "mini_qqp/test-00000" in capsys.readouterr().out


def test_a_changed_row_changes_the_content_hash(data):
    rows = [dict(row) for row in data["mini_nli"]["test_matched"]]
    before = corpora.content_hash(rows)
    rows[7]["label_dist"] = [0.2, 0.3, 0.5]
    assert corpora.content_hash(rows) != before


def test_writing_keeps_the_lines_of_others(tmp_path):
    (tmp_path / "SOURCES.md").write_text(
        f"# Mine\n{corpora.MARKS[0]}\nold\n{corpora.MARKS[1]}\n## Another's\n", "utf-8"
    )
    assert corpora.main(["--out", str(tmp_path)]) == 0
    text = (tmp_path / "SOURCES.md").read_text("utf-8")
    assert (
        text.startswith("# Mine\n")
        and text.endswith("## Another's\n")
        and "old" not in text
        and text.count("| `mini_") == 6
    )


@pytest.mark.parametrize("corpus", CORPORA)
def test_schema_sizes_and_names(data, corpus, tmp_path):
    from datasets import load_dataset

    folder = ROOT / "data" / corpus
    assert {split: len(rows) for split, rows in data[corpus].items()} == corpora.SPLITS[corpus]
    assert sum(f.stat().st_size for f in folder.glob("*.parquet")) < 2_500_000
    split = list(corpora.SPLITS[corpus])[-1]
    table = load_dataset(
        "parquet",
        data_files={"test": str(folder / f"{split}-00000-of-00001.parquet")},
        split="test",
        cache_dir=str(tmp_path),
        streaming=True,
    )
    assert table.features["label"].names == corpora.LABELS[corpus]
    assert set(table.features) == {
        *corpora.COLUMNS[corpus],
        "label",
        "idx",
        "label_dist",
        "phenomenon",
    }
    assert [row["idx"] for row in data[corpus][split]] == list(range(1000))


def same_pair(corpus):
    """What makes two rows the same pair: two questions are duplicates in either order, a swapped premise is another pair."""
    return lambda row: (tuple if corpus == "mini_nli" else frozenset)(
        row[column] for column in corpora.COLUMNS[corpus]
    )


@pytest.mark.parametrize("corpus", CORPORA)
def test_no_pair_comes_twice(data, corpus):
    pairs = Counter(same_pair(corpus)(row) for row in everything(data, corpus))
    assert max(pairs.values()) == 1
    assert all(len(set(pair)) == 2 for pair in pairs)


@pytest.mark.parametrize("corpus", CORPORA)
def test_further_rows_hold_no_pair_of_the_evaluation(data, corpus):
    """A teacher is trained on rows of other seeds too: none may be a row that it is later judged on."""
    pair = same_pair(corpus)
    stored = {pair(row) for split in list(data[corpus])[1:] for row in data[corpus][split]}
    further = corpora.rows(corpus, 1)["train"]
    assert len(further) == 8000 and not any(pair(row) in stored for row in further)


@pytest.mark.parametrize("corpus", CORPORA)
def test_labels_are_draws_from_the_stored_distributions(data, corpus):
    rows = everything(data, corpus)
    for row in rows:
        assert math.isclose(sum(row["label_dist"]), 1, abs_tol=1e-6) and min(row["label_dist"]) >= 0
        assert row["label_dist"][row["label"]] > 0
    # Observed minus expected count, in standard deviations, for each label and for each label of the graded rows.
    for table in (rows, [row for row in rows if max(row["label_dist"]) < 0.999]):
        for k in range(len(corpora.LABELS[corpus])):
            p = [row["label_dist"][k] for row in table]
            z = (sum(row["label"] == k for row in table) - sum(p)) / math.sqrt(
                sum(q * (1 - q) for q in p)
            )
            assert abs(z) < 3.5, (k, z)


def test_balance_and_share_of_graded_rows(data):
    for split, rows in data["mini_nli"].items():
        shares = [sum(row["label"] == k for row in rows) / len(rows) for k in range(3)]
        assert all(0.28 < share < 0.39 for share in shares), (split, shares)
    for split, rows in data["mini_qqp"].items():
        assert 0.33 < sum(row["label"] for row in rows) / len(rows) < 0.41, split
    for corpus, low, high in (("mini_nli", 0.30, 0.40), ("mini_qqp", 0.30, 0.45)):
        rows = everything(data, corpus)
        assert low < sum(max(row["label_dist"]) < 0.999 for row in rows) / len(rows) < high, corpus


# ---------------------------------------------------------------- meaning, by hand: none of these comes from the grammar


@pytest.mark.parametrize(
    "phenomenon, premise, hypothesis, label",
    [
        (
            "quantifiers",
            "All dogs are running.",
            "Some dogs are running.",
            None,
        ),  # "some, but not all" to some readers
        ("quantifiers", "Most dogs are running.", "Some dogs are running.", 0),
        (
            "quantifiers",
            "All animals are running.",
            "All dogs are running.",
            0,
        ),  # down in the restrictor
        ("quantifiers", "All dogs are running.", "All animals are running.", 1),
        ("quantifiers", "No animals are running.", "No dogs are running.", 0),
        ("quantifiers", "No dogs are running.", "All animals are running.", 2),
        ("quantifiers", "Most dogs are running.", "No dogs are running.", 2),
        ("quantifiers", "All dogs are running.", "All dogs are moving.", 0),  # up in the scope
        ("quantifiers", "No dogs are running.", "No dogs are moving.", 1),
        ("quantifiers", "No dogs are moving.", "No dogs are running.", 0),
        ("quantifiers", "Most dogs are running.", "Most dogs are walking.", 2),
        (
            "numbers",
            "More than two cars are in the park.",
            "At least three cars are in the park.",
            0,
        ),
        (
            "numbers",
            "At least two cars are in the park.",
            "At least three cars are in the park.",
            1,
        ),
        (
            "numbers",
            "Fewer than two cars are in the park.",
            "Exactly three cars are in the park.",
            2,
        ),
        ("kinds", "Anna saw a poodle.", "Anna saw an animal.", 0),
        ("kinds", "Anna did not see an animal.", "Anna did not see a poodle.", 0),
        ("kinds", "Anna did not see a poodle.", "Anna did not see a dog.", 1),
        ("kinds", "Anna saw a dog but not a poodle.", "Anna saw a poodle.", 2),
        ("connectives", "Neither Anna nor Ben is singing.", "Ben is not singing.", 0),
        ("connectives", "Anna is singing or dancing.", "Anna is dancing.", 1),
        ("connectives", "Anna is singing but Ben is not.", "Anna and Ben are singing.", 2),
        ("roles", "Anna was helped by Ben.", "Ben helped Anna.", 0),
        ("roles", "Anna helped Ben.", "Ben helped Anna.", 1),
        ("roles", "Anna met Ben.", "Ben met Anna.", 0),
        ("roles", "Nobody helped Ben.", "Ben was helped by Anna.", 2),
        ("comparisons", "Anna is older than Ben.", "Ben is older than Anna.", 2),
        ("comparisons", "Anna is older than Ben.", "Ben is younger than Anna.", 0),
        ("times", "Anna is no longer singing.", "Anna is singing.", 2),
        (
            "times",
            "Anna is still singing.",
            "Anna was singing.",
            None,
        ),  # some readers take "was" for "no longer"
        ("deeds", "Anna forgot to open the door.", "Anna opened the door.", 2),
        ("deeds", "Anna did not forget to open the door.", "Anna opened the door.", 0),
        ("deeds", "Anna wanted to open the door.", "Anna opened the door.", None),
        ("hedges", "Anna is probably singing.", "Anna is singing.", None),
        ("hedges", "Anna cannot be singing.", "Anna is singing.", 2),
        ("scenes", "Anna is in the kitchen with a pan.", "Anna is cooking.", None),
        ("scenes", "Anna is in the lake.", "Anna is not swimming.", None),
    ],
)
def test_meaning_of_mini_nli(phenomenon, premise, hypothesis, label):
    votes = judge(phenomenon, premise, hypothesis)
    if label is None:
        assert max(votes) < 0.999
    else:
        assert votes[label] == pytest.approx(1)


def judge(phenomenon, premise, hypothesis, tries=200_000):
    """Draw settings until one can say both sentences."""
    import random

    rng, w = random.Random(1), corpora.words("mini_nli")
    for _ in range(tries):
        setting = corpora.PHENOMENA[phenomenon](rng, w)
        p = [s for s in setting.premises if s.text == premise]
        h = [s for s in setting.hypotheses if s.text == hypothesis]
        if p and h:
            return setting.judge(p[0], h[0])
    raise AssertionError(f"the grammar cannot say {premise!r} and {hypothesis!r}")


@pytest.mark.parametrize(
    "family, first, second, low, high",
    [
        (
            "travel",
            ("route", ("Paris", "Rome", ""), 0),
            ("route", ("Rome", "Paris", ""), 0),
            0,
            0,
        ),  # same words, another question
        (
            "travel",
            ("route", ("Paris", "Rome", ""), 0),
            ("route", ("Paris", "Rome", ""), 1),
            1,
            1,
        ),  # other words, same question
        (
            "travel",
            ("duration", ("Paris", "Rome", ""), 0),
            ("duration", ("Rome", "Paris", ""), 1),
            1,
            1,
        ),  # a distance has no direction
        (
            "travel",
            ("route", ("Paris", "Rome", ""), 0),
            ("route", ("Paris", "Rome", "by train"), 0),
            0.1,
            0.9,
        ),
        (
            "versus",
            ("better", ("chess", "piano", ""), 0),
            ("better", ("piano", "chess", ""), 0),
            0,
            0,
        ),
        (
            "versus",
            ("better", ("chess", "piano", ""), 0),
            ("better", ("chess", "piano", ""), 1),
            1,
            1,
        ),
        (
            "order",
            ("before", ("eat", "swim", ""), 0),
            ("before", ("eat", "swim", ""), 1),
            1,
            1,
        ),  # before and after, swapped
        ("order", ("before", ("eat", "swim", ""), 0), ("before", ("swim", "eat", ""), 0), 0, 0),
        (
            "nature",
            ("why", ("", "cats", "fear water"), 0),
            ("why_not", ("", "cats", "fear water"), 0),
            0,
            0,
        ),
        ("shop", ("buy", ("cheap", "car"), 0), ("buy", ("inexpensive", "car"), 0), 1, 1),
        ("shop", ("buy", ("cheap", "car"), 0), ("buy", ("cheap", "bike"), 0), 0, 0),
        ("shop", ("buy", ("used", "car"), 0), ("sell", ("used", "car"), 0), 0, 0),
    ],
)
def test_meaning_of_mini_qqp(family, first, second, low, high):
    intents = corpora.words("mini_qqp")["families"][family]["intents"]
    q, r = corpora.Question(*first), corpora.Question(*second)
    assert low <= corpora.same(intents, q, r) <= high
    assert corpora.same(intents, q, r) == corpora.same(intents, r, q)
    for question in (q, r):
        assert re.fullmatch(r"[A-Z][a-zA-Z ,]+\?", corpora.ask(intents, question))


# ---------------------------------------------------------------- what single words give away


def features(row, corpus, sides):
    first, second = (set(re.findall(r"[a-z]+", row[c].lower())) for c in corpora.COLUMNS[corpus])
    out = {
        f"{side}:{word}": 1
        for side, words in ((0, first), (1, second))
        if side in sides
        for word in words
    }
    if len(sides) == 2:
        out |= {
            "overlap": len(first & second),
            "only first": len(first - second),
            "only second": len(second - first),
        }
    return out


@pytest.mark.parametrize(
    "corpus, sides, bound",
    [
        ("mini_nli", (0, 1), 0.62),
        ("mini_nli", (1,), 0.43),
        ("mini_qqp", (0, 1), 0.72),
        ("mini_qqp", (1,), 0.70),
    ],
)
def test_words_alone_do_not_give_the_label(data, corpus, sides, bound):
    """Logistic regression over words (and overlap counts): chance is 1/3 in MiniNLI and 63 % in MiniQQP."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    train, validation, test = data[corpus].values()
    vector = DictVectorizer()
    model = LogisticRegression(max_iter=1000).fit(
        vector.fit_transform(features(r, corpus, sides) for r in train), [r["label"] for r in train]
    )
    held_out = validation + test
    accuracy = model.score(
        vector.transform(features(r, corpus, sides) for r in held_out),
        [r["label"] for r in held_out],
    )
    assert accuracy < bound, accuracy


# ---------------------------------------------------------------- tokenizer


def test_tokenizer_knows_every_word(data):
    tok, vocabulary = corpora.tokenizer(), corpora.vocabulary()
    assert vocabulary == sorted(set(vocabulary)) and len(tok) <= 600
    for corpus in CORPORA:
        assert set(corpora.vocabulary(corpus)) <= set(vocabulary)
        texts = [row[c] for row in everything(data, corpus)[:2000] for c in corpora.COLUMNS[corpus]]
        assert all(tok.unk_token_id not in ids for ids in tok(texts)["input_ids"])
    assert tok.tokenize("Anna isn't singing.") == tok.tokenize("anna is not singing .")
    assert tok.tokenize("Anna zigzags.") == ["anna", "[UNK]", "."]
    assert tok("a cat", "a dog")["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_tokenizer_survives_saving(tmp_path):
    from transformers import AutoTokenizer

    tok = corpora.tokenizer()
    tok.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (
        again("Ben can't swim, can he?")["input_ids"] == tok("Ben can't swim, can he?")["input_ids"]
    )


def test_import_is_light():
    heavy = "import sys, kdlib.corpora; print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", heavy], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        == "[]"
    )
