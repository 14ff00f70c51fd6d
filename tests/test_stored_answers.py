"""A teacher that ships as answers: what the file keeps, whom it answers, and what it refuses."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from kdlib import losses, teacher_cache, translation, translators
from kdlib.course.settings import settings_of
from kdlib.engine import stored_answers
from kdlib.engine.hub import local_copy
from kdlib.engine.stored_answers import StoredAnswers
from kdlib.trainer import DistillationTrainer

PAIRS = tiny.pairs(12)


@pytest.fixture(scope="module")
def chat():
    texts = PAIRS["en"] + PAIRS["fr"]
    return translation.with_end_token(translation.small_tokenizer(texts), "reserved")


@pytest.fixture(scope="module")
def rows(chat):
    return translation.encode(datasets.Dataset.from_dict(PAIRS), chat)[0]


@pytest.fixture(scope="module")
def teacher(chat):
    return tiny.llama(len(chat), initializer_range=0.6)


@pytest.fixture(scope="module")
def build(chat, rows, teacher, tmp_path_factory):
    """A teacher cache with this many words a token."""
    folder = tmp_path_factory.mktemp("cache")

    def build(topk: int):
        return teacher_cache.build(
            teacher, rows, chat, topk=topk, temperatures=(1.0, 2.0), root=folder
        )

    return build


@pytest.fixture(scope="module")
def cache(build):
    return build(12)


@pytest.fixture
def packed(cache, tmp_path):
    keys = translation.pair_keys(datasets.Dataset.from_dict(PAIRS))
    out = tmp_path / "answers.safetensors"
    size = stored_answers.pack(cache, keys, out, topk=6, about={"rows": 12, "seconds": 3.5})
    assert size == out.stat().st_size
    return out


@given(st.floats(-24, 0))
def test_a_byte_is_near_its_log_probability(logprob):
    found = float(stored_answers.decode(stored_answers.encode(np.array([logprob])))[0])
    # between two codes q and q + 1 lie 24·(2q + 1)/255² nats; half of it is the most to be off by
    code = 255 * np.sqrt(logprob / -24)
    assert abs(found - logprob) <= 24 * (2 * code + 2) / 255**2 / 2 + 1e-5


def test_what_is_too_unlikely_for_a_byte_stays_finite():
    codes = stored_answers.encode(np.array([-np.inf, -1e9, -30.0, 0.0]))
    assert codes.tolist() == [255, 255, 255, 0]
    assert stored_answers.decode(codes).tolist() == [-24.0, -24.0, -24.0, 0.0]


def test_the_answers_are_the_caches_with_fewer_words(cache, packed, rows):
    stored = StoredAnswers(packed)
    picked = rows.select([7, 2, 11])
    for temperature in (1.0, 2.0):
        whole = cache.topk(cache.find(picked), temperature)
        few = stored.topk(stored.find(picked), temperature)
        assert torch.equal(few.ids, whole.ids[:, :6])
        torch.testing.assert_close(few.logprobs, whole.logprobs[:, :6], rtol=0.03, atol=0.01)
        # all words together weigh what they weighed: the dropped ones went into the rest
        totals = [
            torch.logaddexp(part.rest, torch.logsumexp(part.logprobs / temperature, -1))
            for part in (whole, few)
        ]
        torch.testing.assert_close(*totals, rtol=0, atol=0.03)


def test_rows_are_found_by_their_tokens(chat, packed):
    stored = StoredAnswers(packed)
    assert len(stored) == 12 and stored.seconds == 3.5
    other = translation.encode(datasets.Dataset.from_dict(PAIRS), chat, system="Translate.")[0]
    with pytest.raises(ValueError, match="12 of 12 rows are not among the 12 .* another tokenizer"):
        stored.find(other)


def test_pairs_are_found_by_their_texts(packed, tmp_path):
    stored = StoredAnswers(packed)
    # the pairs are there, in another order and with one that the test holds out
    turned = {side: texts[::-1] for side, texts in PAIRS.items()}
    held_out = {side: texts[:1] for side, texts in PAIRS.items()}
    folder = tiny.europarl(tmp_path / "all", train=turned, test=held_out)
    found = translation.load(folder, "train", among=stored.pairs).rows
    assert list(zip(found["en"], found["fr"])) == list(zip(PAIRS["en"], PAIRS["fr"]))[1:]
    with pytest.raises(ValueError, match="only 11 of the 12 wanted pairs .* 12 are needed"):
        translation.load(folder, "train", among=stored.pairs, rows=12)
    few = translation.load(folder, "train", among=stored.pairs, rows=5).rows
    assert list(few["en"]) == PAIRS["en"][1:6]


def test_the_hubs_corpus_holds_some_answered_pairs_out(tmp_path):
    """It comes as one split, so its test takes 1 % of all pairs: `lab` must not ask for 6,000."""
    real = local_copy("Helsinki-NLP/europarl")
    if real is None:
        pytest.skip("KD_REAL has no Helsinki-NLP/europarl")
    (tmp_path / "en-fr").mkdir()
    for path in real.rglob("train-*.parquet"):
        (tmp_path / "en-fr" / path.name).symlink_to(path)
    settings = settings_of("07_eurollama_distil", "lab") | {"data": str(tmp_path)}
    teacher = translators.stored(settings["teacher"])
    pairs = translators.pairs(SimpleNamespace(**settings), teacher)
    answered = translators.ANSWERED["rows"]
    assert 0.97 * answered < len(pairs["train"]) < answered


def test_a_student_learns_from_the_file_as_from_a_cache(chat, build, packed, rows, tmp_path):
    losses_of = []
    # a cache of as many words: with fewer words the KL itself is smaller
    for number, answers in enumerate((build(6), StoredAnswers(packed))):
        arguments = tiny.arguments(
            tmp_path / str(number),
            alpha=1.0,
            temperature=2.0,
            max_steps=3,
            logging_steps=1,
            logging_strategy="steps",
        )
        student = tiny.llama(len(chat), layers=1, seed=1)
        trainer = DistillationTrainer(
            student,
            arguments,
            teacher_cache=answers,
            train_dataset=rows,
            data_collator=translation.collator(chat),
        )
        trainer.train()
        losses_of.append([log["kd"] for log in trainer.state.log_history if "kd" in log])
    assert len(losses_of[0]) == 3 and losses_of[0] == pytest.approx(losses_of[1], rel=0.01)


def test_another_temperature_needs_the_teacher(packed):
    with pytest.raises(ValueError, match="temperature 3.0 .* needs the teacher itself"):
        StoredAnswers(packed).topk([0], 3.0)


def test_the_teachers_own_words_row_by_row(cache, packed, rows):
    with pytest.raises(ValueError, match="keeps answers alone"):
        StoredAnswers(packed).targets()
    learnt = [[label for label in labels if label != -100] for labels in rows["labels"]]
    keys = translation.pair_keys(datasets.Dataset.from_dict(PAIRS))
    about = {"rows": 12, "seconds": 0.0}
    stored_answers.pack(cache, keys, packed, topk=2, about=about, targets=learnt)
    assert StoredAnswers(packed).targets() == learnt
    with pytest.raises(ValueError, match="not the tokens that the cache has answered"):
        stored_answers.pack(cache, keys, packed, topk=2, about=about, targets=learnt[1:])


def test_what_is_no_such_file_is_refused(cache, packed, tmp_path):
    with pytest.raises(ValueError, match="holds no teacher's stored answers"):
        StoredAnswers(tmp_path / "nowhere.safetensors")
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match="holds no teacher's stored answers"):
        StoredAnswers(packed)
    save_file({"keys": np.zeros(1)}, packed)
    with pytest.raises(ValueError, match="holds no teacher's stored answers"):
        StoredAnswers(packed)
    with pytest.raises(ValueError, match="keeps 12 words a token, 13 are wanted"):
        stored_answers.pack(cache, [], packed, topk=13, about={})
    with pytest.raises(ValueError, match="0 keys of pairs for 12 answered rows"):
        stored_answers.pack(cache, [], packed, topk=2, about={})


def test_the_gradient_survives_the_bytes(cache, packed, rows):
    """The direction of the loss's gradient is that of the sixteen-bit answers."""
    stored = StoredAnswers(packed)
    torch.manual_seed(0)
    tokens = len(cache.topk(range(12), 1.0).ids)
    labels = torch.zeros(tokens, dtype=torch.long)
    for temperature in (1.0, 2.0):
        gradients = []
        for answers in (cache, stored):
            torch.manual_seed(1)
            logits = torch.randn(tokens, cache.manifest["vocabulary"], requires_grad=True)
            kept = answers.topk(range(12), temperature)
            loss = losses.topk_distillation_loss(
                logits, kept, labels, temperature=temperature, alpha=1.0
            )
            loss.total.backward()
            gradients.append(logits.grad.flatten())
        assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98
