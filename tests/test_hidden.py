"""Hidden-state losses against NumPy, token by token; and in the trainer: what is trained, what is left alone, what is thrown away."""

import numpy as np
import pytest
import tiny
import torch

from kdlib import glue
from kdlib.hidden import HiddenTrainer, every_layer, hidden_loss
from kdlib.trainer import TEACHER_LOGITS, teacher_logits


def states(rows=3, length=5, width=4, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    s, t = (
        torch.randn(rows, length, width, generator=draw, dtype=torch.float64).to(dtype)
        for _ in range(2)
    )
    mask = torch.arange(length)[None] < torch.tensor([length, 2, 1, 0, 3])[:rows, None]
    return s, t, mask.long()


def reference(student, teacher, mask, kind, count=None):
    """Loops, and a cosine from its definition."""
    rows = []
    for s, t, real in zip(student.double().numpy(), teacher.double().numpy(), mask.numpy()):
        told = [
            1 - a @ b / np.sqrt((a @ a) * (b @ b))
            if kind == "cosine"
            else sum((x - y) ** 2 for x, y in zip(a, b)) / len(a)
            for a, b, yes in zip(s, t, real)
            if yes
        ]
        rows += [sum(told) / len(told)] if told else []
    return sum(rows) / (count or max(len(rows), 1))


@pytest.mark.parametrize("kind", ["cosine", "mse"])
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 1, 1), (5, 6, 7)])
def test_equals_the_reference(kind, shape):
    s, t, mask = states(*shape)
    assert hidden_loss(s, t, mask, kind=kind).item() == pytest.approx(
        reference(s, t, mask, kind), rel=1e-9, abs=1e-12
    )
    assert hidden_loss(s, t, mask, kind=kind, num_items=7).item() == pytest.approx(
        reference(s, t, mask, kind, 7), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_gradcheck_and_no_gradient_to_the_teacher(kind):
    s, t, mask = states(4)
    s.requires_grad_(), t.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: hidden_loss(s, t, mask, kind=kind), (s,))
    hidden_loss(s, t, mask, kind=kind).backward()
    assert t.grad is None and (s.grad[mask == 0] == 0).all() and (s.grad[mask == 1] != 0).any()


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_padding_counts_for_nothing_whatever_it_holds(kind):
    s, t, mask = states(4)
    right = hidden_loss(s, t, mask, kind=kind)
    s[mask == 0], t[mask == 0] = torch.nan, torch.inf
    s.requires_grad_()
    again = hidden_loss(s, t, mask, kind=kind)
    assert torch.equal(again, right)
    again.backward()
    assert s.grad.isfinite().all()
    nothing = hidden_loss(s.detach().requires_grad_(), t, torch.zeros_like(mask), kind=kind)
    assert nothing.item() == 0 and nothing.requires_grad


def test_what_each_kind_ignores():
    s, t, mask = states()
    assert (
        hidden_loss(s, s, mask).item()
        == 0
        == pytest.approx(hidden_loss(3 * s, s, mask, kind="cosine").item(), abs=1e-12)
    )
    assert hidden_loss(3 * s, s, mask).item() > 0
    assert hidden_loss(-s, s, mask, kind="cosine").item() == pytest.approx(2)


def test_half_precision_is_left_before_anything_is_summed():
    s, t, mask = states(3, 5, 64)
    for kind in ("cosine", "mse"):
        low = hidden_loss(s.bfloat16(), t.bfloat16(), mask, kind=kind)
        assert low.dtype == torch.float32 and low.item() == pytest.approx(
            reference(s, t, mask, kind), rel=0.02
        )


def test_one_batch_is_its_parts():
    s, t, mask = states(4)
    parts = [
        hidden_loss(s[i : i + 2], t[i : i + 2], mask[i : i + 2], num_items=4).item() for i in (0, 2)
    ]
    assert sum(parts) == pytest.approx(hidden_loss(s, t, mask, num_items=4).item(), rel=1e-12)


def test_refusals():
    s, t, mask = states()
    for wrong in (
        lambda: hidden_loss(s, t[..., :2], mask),
        lambda: hidden_loss(s, t, mask[:, :2]),
        lambda: hidden_loss(s[0], t[0], mask),
    ):
        with pytest.raises(ValueError, match="projection first"):
            wrong()
    with pytest.raises(ValueError, match="cosine or mse"):
        hidden_loss(s, t, mask, kind="l1")
    assert (
        every_layer(2, 4) == [(1, 2), (2, 4)]
        and every_layer(6, 12)[0] == (1, 2)
        and every_layer(3, 3) == [(1, 1), (2, 2), (3, 3)]
    )
    with pytest.raises(ValueError, match="evenly"):
        every_layer(3, 4)


# -- the trainer -------------------------------------------------------------------------------------------------------


def answered(rows, teacher, tokenizer):
    return rows.add_column(
        TEACHER_LOGITS, list(teacher_logits(teacher, rows, glue.collator(tokenizer)))
    )


def trainer(folder, student, guide, rows, tokenizer, pairs=((1, 2), (2, 4)), changes=None, **how):
    arguments = tiny.arguments(folder, alpha=0.5, **(changes or {}))
    return HiddenTrainer(
        student,
        arguments,
        guide=guide,
        pairs=list(pairs),
        train_dataset=rows,
        data_collator=glue.collator(tokenizer),
        **how,
    )


def test_the_loss_of_a_step_by_hand(tmp_path, tokenizer, encoded, teacher):
    """Narrow student: logits' loss + weight · mean over pairs of the projected distance; the projections get a gradient, the guide none."""
    rows, student = answered(encoded[0], teacher, tokenizer), tiny.bert(layers=2, seed=1, width=8)
    before = tiny.snapshot(teacher)
    distiller = trainer(tmp_path, student, teacher, rows, tokenizer, weight=3.0)
    batch = glue.collator(tokenizer)(
        [
            {
                k: v
                for k, v in rows[i].items()
                if k in ("input_ids", "attention_mask", "token_type_ids", "labels", TEACHER_LOGITS)
            }
            for i in range(6)
        ]
    )
    student.train()
    total = distiller.compute_loss(student, dict(batch), num_items_in_batch=6)
    plain = super(HiddenTrainer, distiller).compute_loss(student, dict(batch), num_items_in_batch=6)
    read = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        ours, theirs = (
            m(**read, output_hidden_states=True).hidden_states for m in (student, teacher)
        )
        by_hand = [
            reference(ours[a] @ p.weight.T, theirs[b], batch["attention_mask"], "mse")
            for (a, b), p in zip(distiller.pairs, student.hidden_projections)
        ]
    assert total.item() == pytest.approx(plain.item() + 3.0 * sum(by_hand) / 2, rel=1e-5)
    total.backward()
    assert all(p.weight.grad.abs().sum() > 0 for p in student.hidden_projections)
    assert tiny.difference(before, teacher.state_dict()) == 0 and all(
        p.grad is None for p in teacher.parameters()
    )


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_training_brings_the_states_nearer_and_leaves_no_projection(
    tmp_path, tokenizer, encoded, teacher, kind
):
    rows, student = answered(encoded[0], teacher, tokenizer), tiny.bert(layers=2, seed=1)
    distiller = trainer(
        tmp_path,
        student,
        teacher,
        rows,
        tokenizer,
        kind=kind,
        weight=5.0,
        changes=dict(
            num_train_epochs=6,
            logging_strategy="steps",
            logging_steps=6,
            learning_rate=1e-2,
            save_strategy="epoch",
        ),
    )
    names = set(student.state_dict())
    distiller.fit()
    told = [log["hidden"] for log in distiller.state.log_history if "hidden" in log]
    assert told[-1] < 0.8 * told[0]
    assert {n for n in student.state_dict() if "hidden_projection" in n} == set() and (
        kind == "cosine" or len(names) > len(student.state_dict())
    )


def test_the_same_gradient_however_a_step_is_cut(tmp_path, tokenizer, encoded, teacher):
    rows, weights = answered(encoded[0], teacher, tokenizer).select(range(16)), []
    for size in (16, 4):
        student = tiny.bert(layers=2, seed=1)
        trainer(
            tmp_path / str(size),
            student,
            teacher,
            rows,
            tokenizer,
            weight=5.0,
            changes=dict(
                per_device_train_batch_size=size,
                gradient_accumulation_steps=16 // size,
                optim="sgd",
                learning_rate=0.1,
            ),
        ).fit()
        weights.append(tiny.snapshot(student))
    assert tiny.difference(*weights) < 1e-5


def test_other_rows_are_other_rows(tmp_path, tokenizer, encoded, teacher):
    rows = answered(encoded[0], teacher, tokenizer)
    batch = glue.collator(tokenizer)(
        [
            {k: rows[i][k] for k in ("input_ids", "attention_mask", "token_type_ids")}
            for i in range(4)
        ]
    )
    own = teacher(**batch, output_hidden_states=True).hidden_states
    right, other = (
        trainer(
            tmp_path,
            tiny.bert(layers=4, seed=7),
            teacher,
            rows,
            tokenizer,
            pairs=[(4, 4)],
            other_rows=yes,
        )
        ._hidden(own, batch, None)
        .item()
        for yes in (False, True)
    )
    assert (
        right == pytest.approx(0, abs=1e-6) and other > 0.01
    )  # the student is the teacher; only the rows are others


def test_trainer_refusals(tmp_path, tokenizer, encoded, teacher):
    rows = answered(encoded[0], teacher, tokenizer)
    with pytest.raises(ValueError, match="not there"):
        trainer(tmp_path, tiny.bert(layers=2), teacher, rows, tokenizer, pairs=[(3, 4)])
    with pytest.raises(ValueError, match="equal widths"):
        trainer(tmp_path, tiny.bert(layers=2, width=8), teacher, rows, tokenizer, kind="cosine")
    with pytest.raises(ValueError, match="kind must be"):
        trainer(tmp_path, tiny.bert(layers=2), teacher, rows, tokenizer, kind="attention")
