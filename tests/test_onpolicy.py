"""On-policy distillation: the words are the student's own, the loss is the divergence along them, and the count is theirs."""

import pytest
import tiny
import torch
from helpers import by_hand

from kdlib import causal, translation
from kdlib.losses import DIVERGENCES
from kdlib.onpolicy import OnPolicyTrainer, own_words


@pytest.fixture(scope="module")
def rows(chat):
    return translation.encode(tiny.datasets.Dataset.from_dict(tiny.pairs(24, 0)), chat)[0]


def ids_of(chat):
    return {"stop": chat.convert_tokens_to_ids(translation.EOT), "pad": chat.pad_token_id}


def test_prompts_stay_and_what_follows_is_a_sample_of_the_model(chat, rows):
    model, batch = (
        tiny.llama(len(chat), seed=3),
        translation.collator(chat)([rows[i] for i in range(6)]),
    )
    torch.manual_seed(0)
    said = own_words(model, batch, **ids_of(chat))
    longest = int((batch["labels"] != -100).sum(1).max())
    for ids, labels, mask, row in zip(
        said["input_ids"], said["labels"], said["attention_mask"], rows.select(range(6))
    ):
        prompt = [i for i, label in zip(row["input_ids"], row["labels"]) if label == -100]
        assert ids[: len(prompt)].tolist() == prompt and (labels[: len(prompt)] == -100).all()
        new = labels[labels != -100].tolist()
        assert ids[len(prompt) : int(mask.sum())].tolist() == new and 1 <= len(new) <= longest + 8
        assert ids_of(chat)["stop"] not in new[:-1] and (mask[int(mask.sum()) :] == 0).all()
    torch.manual_seed(1)
    assert (
        said["input_ids"].tolist() != own_words(model, batch, **ids_of(chat))["input_ids"].tolist()
    ), "sampled, not greedy"


def test_samples_follow_the_models_own_distribution(chat, rows):
    """The first word, drawn 600 times from one prompt, against its softmax: padding on the left must not move it."""
    model, short, long = (
        tiny.llama(len(chat), seed=3),
        *sorted((rows[i] for i in range(24)), key=lambda r: len(r["input_ids"]))[::23],
    )
    batch = translation.collator(chat)([long] + [short] * 600)
    torch.manual_seed(0)
    said = own_words(
        model, batch, **ids_of(chat), longer=-int((batch["labels"] != -100).sum(1).max()) + 1
    )  # one word
    at = sum(label == -100 for label in short["labels"])
    drawn = torch.bincount(said["input_ids"][1:, at], minlength=len(chat)) / 600
    with torch.no_grad():
        true = model(input_ids=torch.tensor([short["input_ids"][:at]])).logits[0, -1].softmax(-1)
    assert (drawn - true).abs().sum() < 2.5 * (
        true.sqrt().sum() / 600**0.5
    )  # a total variation that 600 draws explain


def trainer(folder, student, rows, chat, teacher, share=1.0, after=0, **changes):
    return OnPolicyTrainer(
        student,
        tiny.arguments(folder, **dict(alpha=1.0, temperature=1.0) | changes),
        share=share,
        after=after,
        teacher=teacher,
        train_dataset=rows,
        data_collator=translation.collator(chat),
        **ids_of(chat),
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_step_is_the_divergence_along_own_words_over_their_count(
    tmp_path, chat, rows, divergence
):
    teacher, student = (
        tiny.llama(len(chat), layers=3, seed=7),
        tiny.llama(len(chat), layers=1, seed=8),
    )
    distiller = trainer(tmp_path, student, rows, chat, teacher, divergence=divergence, beta=0.3)
    collate = translation.collator(chat)
    batches = iter([collate([rows[i] for i in part]) for part in ((0, 1, 2), (3, 4))])
    said, count = distiller.get_batch_samples(batches, 2, "cpu")
    own = [
        {"input_ids": ids[: int(m.sum())].tolist(), "labels": y[: int(m.sum())].tolist()}
        for b in said
        for ids, y, m in zip(b["input_ids"], b["labels"], b["attention_mask"])
    ]
    assert int(count) == sum(y != -100 for row in own for y in row["labels"]) == distiller.generated
    student.train()
    loss = sum(distiller.compute_loss(student, b, num_items_in_batch=count) for b in said)
    expected = by_hand(
        student, teacher, own, temperature=1.0, alpha=1.0, divergence=divergence, beta=0.3
    )
    assert loss.item() == pytest.approx(expected[0].item(), rel=1e-4)


def test_share_and_start(tmp_path, chat, rows):
    teacher, collate = tiny.llama(len(chat), layers=1, seed=7), translation.collator(chat)
    batch = collate([rows[0], rows[1]])
    for share, after, step, own in ((0.0, 0, 5, False), (1.0, 6, 5, False), (1.0, 5, 5, True)):
        distiller = trainer(
            tmp_path,
            tiny.llama(len(chat), layers=1, seed=8),
            rows,
            chat,
            teacher,
            share=share,
            after=after,
        )
        distiller.state.global_step = step
        said, count = distiller.get_batch_samples(iter([batch]), 1, "cpu")
        assert (said[0] is not batch) == own == (distiller.generated > 0)
    half = trainer(
        tmp_path,
        tiny.llama(len(chat), layers=1, seed=8),
        rows,
        chat,
        teacher,
        share=0.5,
        learning_rate=0.0,
        per_device_train_batch_size=4,
    )
    half.fit()
    again = trainer(
        tmp_path / "2",
        tiny.llama(len(chat), layers=1, seed=8),
        rows,
        chat,
        teacher,
        share=0.5,
        learning_rate=0.0,
        per_device_train_batch_size=4,
    )
    again.fit()
    assert half.generated == again.generated > 0


def test_a_student_gets_nearer_to_its_teacher_on_its_own_words(tmp_path, chat, rows):
    teacher, student = (
        tiny.llama(len(chat), layers=2, seed=7),
        tiny.llama(len(chat), layers=1, seed=8),
    )
    batch = translation.collator(chat)([rows[i] for i in range(24)])

    @torch.no_grad()
    def own_kl():
        torch.manual_seed(0)
        said = own_words(student, batch, **ids_of(chat))
        keep, _ = causal.target_positions(said["labels"])
        t, s = (causal.logits_at(m, said, keep).log_softmax(-1) for m in (teacher, student))
        return (t.exp() * (t - s)).sum(-1).mean().item()

    before = own_kl()
    trainer(tmp_path, student, rows, chat, teacher, num_train_epochs=6, learning_rate=3e-3).fit()
    assert own_kl() < 0.8 * before and student.training


def test_refusals(tmp_path, chat, rows):
    student = tiny.llama(len(chat), layers=1)
    with pytest.raises(ValueError, match="own words are no labels"):
        trainer(tmp_path, student, rows, chat, student, alpha=0.5)
    with pytest.raises(ValueError, match="live teacher"):
        trainer(tmp_path, student, rows, chat, None)
