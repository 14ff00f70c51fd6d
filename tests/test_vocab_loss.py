"""vocab_loss against the dense loss of the same logits: values and gradients, however the tokens are cut."""

import json
import math

import pytest
import torch
from bench import wide_loss as wide_bench
from helpers import Widest, alive_at_once, in_two_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from kdlib.engine import wide_loss
from kdlib.engine.wide_loss import linear_distillation_loss
from kdlib.losses import DIVERGENCES, TopK, distillation_loss, topk_distillation_loss

SETTINGS = dict(temperature=2.0, alpha=0.6)


def parts(
    shape=(7,), vocab=11, widths=(4, 3), ignored=0.25, seed=0, dtype=torch.float64, biased=True
):
    """Student's and teacher's (hidden, head, bias), and labels; what the student owns learns."""
    draw = torch.Generator().manual_seed(seed)
    random = lambda *size: torch.randn(*size, generator=draw, dtype=torch.float64)
    sides = [
        [random(*shape, w), 2 * random(vocab, w) / w**0.5, random(vocab) if biased else None]
        for w in widths
    ]
    labels = torch.randint(vocab, shape, generator=draw)
    labels[torch.rand(shape, generator=draw) < ignored] = -100
    student, teacher = [[x if x is None else x.to(dtype) for x in side] for side in sides]
    return [x if x is None else x.requires_grad_() for x in student], teacher, labels


def logits(hidden, head, bias):
    return torch.nn.functional.linear(hidden, head, bias)


def ours(student, teacher, labels, **how):
    return linear_distillation_loss(
        *student[:2],
        *teacher[:2],
        labels,
        student_bias=student[2],
        teacher_bias=teacher[2],
        **SETTINGS | how,
    )


def dense(student, teacher, labels, **how):
    return distillation_loss(logits(*student), logits(*teacher), labels, **SETTINGS | how)


def topk_of(teacher_logits, k, T):
    logprobs = torch.log_softmax(teacher_logits, -1)
    kept, ids = logprobs.topk(k)
    return TopK(ids, kept, torch.logsumexp((logprobs / T).scatter(-1, ids, -math.inf), -1))


def gradients(loss, student, scale=1.0):
    return torch.autograd.grad(
        loss.total * scale, [x for x in student if x is not None], retain_graph=True
    )


def same(one, other, student, tolerance=1e-6, scale=1.0):
    for name, a, b in zip(one._fields, one, other):
        assert a.item() == pytest.approx(b.item(), rel=tolerance, abs=tolerance), name
        assert a.dtype == b.dtype
    for a, b in zip(gradients(one, student, scale), gradients(other, student, scale)):
        assert (
            a.dtype == b.dtype
            and a.shape == b.shape
            and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        )


# -- the same numbers ------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    data=st.data(),
    divergence=st.sampled_from(DIVERGENCES),
    teacher_is=st.sampled_from(["hidden", "logits", "topk", "narrower"]),
    biased=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_the_dense_loss(data, divergence, teacher_is, biased, dtype):
    whole = lambda a, b: data.draw(st.integers(a, b))
    shape = data.draw(st.sampled_from([(whole(1, 23),), (whole(1, 3), whole(1, 6)), (1,)]))
    vocab = whole(2, 40)
    student, teacher, labels = parts(
        shape,
        vocab,
        (whole(1, 6), whole(1, 6)),
        data.draw(st.sampled_from([0, 0.3, 1])),
        whole(0, 99),
        dtype,
        biased,
    )
    T = data.draw(st.sampled_from([0.5, 1.0, 2.0, 10.0]))
    how = dict(
        divergence=divergence,
        beta=data.draw(st.sampled_from([0.1, 0.5, 0.9])),
        temperature=T,
        alpha=data.draw(st.sampled_from([0.0, 0.3, 1.0])),
        num_items=data.draw(st.sampled_from([None, 50, torch.tensor(7)])),
    )
    keep = labels != -100
    cut = dict(how, chunk_tokens=data.draw(st.sampled_from(["auto", 1, 2, 5, 100])))
    student_only = lambda **teacher: linear_distillation_loss(
        *student[:2], None, None, labels, student_bias=student[2], **cut, **teacher
    )
    said = logits(*teacher)
    if teacher_is == "hidden":
        found, expected = (
            ours(student, teacher, labels, **cut),
            dense(student, teacher, labels, **how),
        )
    elif teacher_is == "logits":
        found, expected = student_only(teacher_logits=said), dense(student, teacher, labels, **how)
    elif teacher_is == "topk":
        kept = topk_of(said[keep], whole(1, vocab), T)
        found, expected = (
            student_only(teacher_topk=kept),
            topk_distillation_loss(logits(*student), kept, labels, **how),
        )
    else:  # the teacher's vocabulary is not padded, the student's is
        words = max(2, vocab - 3)
        labels[labels >= words] = 0
        teacher = [
            teacher[0],
            teacher[1][:words],
            teacher[2] if teacher[2] is None else teacher[2][:words],
        ]
        found = ours(student, teacher, labels, **cut)
        expected = distillation_loss(logits(*student)[..., :words], logits(*teacher), labels, **how)
    # KD is T² times a small difference of logarithms: its rounding grows with T², too.
    rounding = 1e-10 if dtype == torch.float64 else 3e-7 * max(10.0, T**2)
    same(found, expected, student, tolerance=rounding)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("teacher_is", ["hidden", "logits", "topk", "none"])
def test_gradients(divergence, teacher_is, beta=0.3):
    student, teacher, labels = parts((6,), 5, ignored=0)
    labels[[1, 4]] = -100
    said, how = (
        logits(*teacher),
        dict(divergence=divergence, beta=beta, temperature=2.0, chunk_tokens=3),
    )
    answer = {
        "hidden": {},
        "logits": dict(teacher_logits=said),
        "topk": dict(teacher_topk=topk_of(said[labels != -100], 2, 2.0)),
        "none": {},
    }[teacher_is]
    known = teacher[:2] if teacher_is == "hidden" else (None, None)
    f = lambda hidden, head, bias: (
        linear_distillation_loss(
            hidden,
            head,
            *known,
            labels,
            student_bias=bias,
            **answer,
            **how,
            alpha=0.0 if teacher_is == "none" else 0.6,
            ce_only=(int(labels[0]),),
        ).total
    )
    assert torch.autograd.gradcheck(f, student)


def test_a_scaled_loss_a_second_backward_and_frozen_parts():
    student, teacher, labels = parts()
    same(ours(student, teacher, labels), dense(student, teacher, labels), student, scale=-3.5)
    loss = ours(student, teacher, labels)
    first, second = (
        [g.clone() for g in torch.autograd.grad(loss.total * k, student, retain_graph=True)]
        for k in (2.0, 1.0)
    )
    assert all(torch.allclose(a, 2 * b, atol=1e-15) for a, b in zip(first, second))
    for frozen in range(3):
        student, teacher, labels = parts()
        student[frozen].requires_grad_(False)
        learns = [x for x in student if x.requires_grad]
        same(ours(student, teacher, labels), dense(student, teacher, labels), learns)
    assert not loss.kd.requires_grad and not loss.ce.requires_grad


def test_no_grad_makes_values_and_nothing_else():
    student, teacher, labels = parts()
    with torch.no_grad():
        loss = ours(student, teacher, labels)
    assert not loss.total.requires_grad and loss.total.item() == pytest.approx(
        dense(student, teacher, labels).total.item()
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    student, teacher, labels = parts()
    f = lambda hidden, head, bias: ours((hidden * 2, head, bias), teacher, labels).total
    checkpoint(f, *student, use_reentrant=reentrant).backward()
    expected = torch.autograd.grad(
        dense((student[0] * 2, *student[1:]), teacher, labels).total, student
    )
    for x, g in zip(student, expected):
        assert torch.allclose(x.grad, g)


def test_a_tied_head_used_twice():
    """One matrix embeds the tokens and is the head of two losses: its gradient is the sum of all three paths."""
    student, teacher, labels = parts(widths=(4, 3))
    table, ids, bias = student[1], torch.arange(7) % 11, student[2]

    def total(f):
        hidden = torch.nn.functional.embedding(ids, table).tanh()
        return (
            f((hidden, table, bias), teacher, labels).total
            + f((hidden * 0.5, table, bias), teacher, labels).total
        )

    for a, b in zip(
        torch.autograd.grad(total(ours), (table, bias)),
        torch.autograd.grad(total(dense), (table, bias)),
    ):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("num_items", [None, 0, 10, torch.tensor(0)])
def test_nothing_to_learn_from_gives_zero_with_a_gradient_path(num_items):
    for shape in ((4,), (0,), (2, 3)):
        student, teacher, labels = parts(shape, ignored=2)
        assert (labels == -100).all()
        loss = ours(student, teacher, labels, num_items=num_items)
        assert [x.item() for x in loss] == [0, 0, 0]
        loss.total.backward()
        assert all(x.grad is not None and (x.grad == 0).all() for x in student)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("who", ["teacher", "student", "both", "different words"])
def test_minus_infinity(divergence, who):
    student, teacher, labels = parts((6,), 5, ignored=0)
    labels %= 3
    if who in ("student", "both", "different words"):
        student[2].data[3] = -math.inf
    if who in ("teacher", "both", "different words"):
        teacher[2][4 if who == "different words" else 3] = -math.inf
    expected = lambda: dense(student, teacher, labels, divergence=divergence)
    same(ours(student, teacher, labels, divergence=divergence), expected(), student)
    said = linear_distillation_loss(
        *student[:2],
        None,
        None,
        labels,
        student_bias=student[2],
        teacher_logits=logits(*teacher),
        divergence=divergence,
        **SETTINGS,
    )
    same(said, expected(), student)
    assert all(
        g.isfinite().all()
        for g in gradients(ours(student, teacher, labels, divergence=divergence), student)
    )


@pytest.mark.parametrize(
    "T, excluded", [(0.1, torch.finfo(torch.float32).min), (2.0, -math.inf), (0.1, -math.inf)]
)
def test_a_teacher_that_excludes_all_words_finds_them_alike(T, excluded):
    student, _, labels = parts((6,), 5, dtype=torch.float32)
    said = torch.randn(6, 5)
    said[1], said[2, :3] = excluded, excluded
    found = linear_distillation_loss(
        *student[:2],
        None,
        None,
        labels,
        student_bias=student[2],
        teacher_logits=said,
        **SETTINGS | {"temperature": T},
    )
    same(
        found,
        distillation_loss(logits(*student), said, labels, **SETTINGS | {"temperature": T}),
        student,
        tolerance=1e-5,
    )


def test_a_second_backward_refuses_a_teacher_that_was_written_into():
    student, teacher, labels = parts()
    for said in (
        dict(teacher_logits=logits(*teacher)),
        dict(teacher_hidden=teacher[0], teacher_head=teacher[1]),
    ):
        given = dict(teacher_hidden=None, teacher_head=None) | said
        loss = linear_distillation_loss(*student[:2], labels=labels, **given, **SETTINGS)
        loss.total.backward(retain_graph=True)
        next(iter(said.values())).add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.total.backward()
    with torch.inference_mode():
        said = logits(*teacher)  # knows no versions
    linear_distillation_loss(
        *student[:2], None, None, labels, teacher_logits=said, **SETTINGS
    ).total.backward()


# -- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_before_anything_is_summed(divergence, dtype):
    student, teacher, labels = parts((300,), 60, (16, 24), dtype=dtype)
    half = ours(student, teacher, labels, divergence=divergence, chunk_tokens=7)
    assert half.total.dtype == torch.float32
    same(
        half,
        dense(student, teacher, labels, divergence=divergence),
        student,
        tolerance=2 * torch.finfo(dtype).eps,
    )
    exact = [x.detach().double().requires_grad_() for x in student], [x.double() for x in teacher]
    expected = dense(*exact, labels, divergence=divergence)
    assert half.total.item() == pytest.approx(expected.total.item(), rel=0.01)
    for a, b in zip(gradients(half, student), gradients(expected, exact[0])):
        assert a.dtype == dtype and (a.double() - b).norm() < 0.02 * b.norm()


def test_many_chunks_add_up_in_float32():
    """Thousands of small contributions to one row of the head would stop counting in bfloat16."""
    student, teacher, labels = parts(
        (2000,), 3, (2, 2), ignored=0, dtype=torch.bfloat16, biased=False
    )
    labels[:] = 1
    student[0].data[:] = 1
    head = gradients(ours(student, teacher, labels, chunk_tokens=1, alpha=0.0), student)[1]
    exact = [x if x is None else x.detach().double().requires_grad_() for x in student]
    wanted = gradients(
        dense(exact, [x if x is None else x.double() for x in teacher], labels, alpha=0.0), exact
    )[1]
    assert (head.double() - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_small_gradients_survive_float16():
    """With many items each logit's derivative over the count is below float16's smallest number."""
    student, teacher, labels = parts((400,), 50, (8, 8), dtype=torch.float16)
    exact = [x.detach().double().requires_grad_() for x in student], [x.double() for x in teacher]
    many, scale = 10**7, 2.0**20
    for a, b in zip(
        gradients(ours(student, teacher, labels, num_items=many), student, scale),
        gradients(dense(*exact, labels, num_items=many), exact[0], scale),
    ):
        assert (a.double() - b).norm() < 0.01 * b.norm()


def test_autocast():
    student, teacher, labels = parts((50,), 30, (8, 8), dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = ours(student, teacher, labels), dense(student, teacher, labels)
    same(found, expected, student, tolerance=0.02)
    assert all(g.dtype == torch.float32 for g in gradients(ours(student, teacher, labels), student))


def test_autocast_leaves_float64_alone():
    student, teacher, labels = parts()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(student, teacher, labels)
    same(found, dense(student, teacher, labels), student, tolerance=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gpu_says_the_same(dtype):
    """There half precision is multiplied as it is, and added up in float32."""
    student, teacher, labels = parts((300,), 60, (16, 24), dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in student], [x.double() for x in teacher]
    expected = gradients(dense(*exact, labels), exact[0])
    student, teacher = [[x.detach().cuda() for x in side] for side in (student, teacher)]
    student = [x.requires_grad_() for x in student]
    found = ours(student, teacher, labels.cuda(), chunk_tokens=70)
    assert found.total.item() == pytest.approx(dense(*exact, labels).total.item(), rel=0.01)
    for a, b in zip(gradients(found, student), expected):
        assert (a.double().cpu() - b).norm() < 0.02 * b.norm()


# -- how a step is cut -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_step_in_parts_is_the_step(divergence):
    student, teacher, labels = parts((23,))
    count = int((labels != -100).sum())
    whole = gradients(ours(student, teacher, labels, divergence=divergence), student)
    pieces = [slice(0, 9), slice(9, 10), slice(10, 23)]
    for piece in pieces:
        cut = (student[0][piece], *student[1:]), (teacher[0][piece], *teacher[1:])
        ours(
            *cut, labels[piece], divergence=divergence, num_items=count, chunk_tokens=4
        ).total.backward()
    assert all(torch.allclose(x.grad, g, atol=1e-14) for x, g in zip(student, whole))


def two_processes(folder):
    """DDP around a head, half of the items in each process."""
    from torch import distributed, nn

    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    student, teacher, labels = parts((22,), seed=5)
    mine = slice(0, 9) if rank == 0 else slice(9, 22)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.bias = (
                nn.Parameter(student[1].detach()),
                nn.Parameter(student[2].detach()),
            )

        def forward(self, hidden):
            return (
                ours(
                    (hidden, self.head, self.bias),
                    (teacher[0][mine], *teacher[1:]),
                    labels[mine],
                    num_items=int((labels != -100).sum()),
                ).total
                * 2
            )

    model = nn.parallel.DistributedDataParallel(Model())
    model(student[0][mine]).backward()
    if rank == 0:
        torch.save([model.module.head.grad, model.module.bias.grad], folder / "gradients.pt")
    del model  # while it lives, the group that it reduces in must not go
    distributed.destroy_process_group()


def test_two_processes_change_nothing(tmp_path):
    in_two_processes(
        tmp_path, f"import test_vocab_loss\ntest_vocab_loss.two_processes(Path({str(tmp_path)!r}))"
    )
    student, teacher, labels = parts((22,), seed=5)
    for a, b in zip(
        torch.load(tmp_path / "gradients.pt"),
        gradients(ours(student, teacher, labels), student)[1:],
    ):
        assert torch.allclose(a, b, atol=1e-13)


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_exist_for_a_chunk_at_a_time(dtype, monkeypatch):
    student, teacher, labels = parts((400,), 1009, (4, 4), dtype=dtype, ignored=0)
    with Widest(1009) as seen:
        ours(student, teacher, labels, chunk_tokens=64).total.backward()
    assert seen.rows == math.ceil(400 / math.ceil(400 / 64)), "chunks are alike"
    monkeypatch.setattr(wide_loss, "SCRATCH", 100 * 1009 * 8)
    with Widest(1009) as seen:
        ours(student, teacher, labels).total.backward()
    assert 30 <= seen.rows <= 100


def test_the_scratch_budget_does_not_depend_on_the_tokens():
    chunks = [wide_loss.chunk_size("auto", 128256, torch.float32, n) for n in (300, 3000, 300000)]
    assert max(chunks) * 128256 * 4 * 2 <= wide_loss.SCRATCH and min(chunks) > 64
    assert (
        wide_loss.chunk_size("auto", 10**9, torch.float32, 50) == 1
        and wide_loss.chunk_size("auto", 50, torch.float32, 0) == 1
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [1 / 8, 10], ids=["small blocks", "whole chunks"])
def test_blocks_as_large_as_a_gpus_are_in_the_budget(divergence, dtype, block, monkeypatch):
    monkeypatch.setattr(wide_loss, "SCRATCH", 2_000_000)
    monkeypatch.setattr(wide_loss, "CPU_CACHE", int(block * wide_loss.SCRATCH))
    student, teacher, labels = parts((400,), 1009, (2, 2), dtype=dtype, ignored=0)
    found = alive_at_once(
        lambda: ours(student, teacher, labels, divergence=divergence).total.backward()
    )
    assert 0.5 < found / wide_loss.SCRATCH < 1.05


def test_a_gpus_budget_holds_chunks_and_blocks():
    for work, vocab, blocks in (
        (w, v, b) for w in (torch.float32, torch.bfloat16) for v in (8016, 128256) for b in (2, 4)
    ):
        chunk, block = (
            wide_loss.chunk_size("auto", vocab, work, 10**6, "cuda", blocks),
            wide_loss.block_size(vocab, work, "cuda"),
        )
        assert (
            32 <= chunk
            and vocab
            * (
                8 * chunk
                + 4 * blocks * min(chunk, block)
                + (2 * chunk if work == torch.bfloat16 else 0)
            )
            <= wide_loss.SCRATCH
        )


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, hint",
    [
        (
            dict(student_hidden=torch.zeros(4, 3, dtype=torch.long)),
            r"student_hidden \(4, 3\) int64 must be floating",
        ),
        (
            dict(student_hidden=torch.zeros(4, 7)),
            r"student_hidden \(4, 7\) float32 does not fit student_head \(5, 3\) float32",
        ),
        (dict(student_head=torch.zeros(5)), r"student_head \(5,\) float32"),
        (
            dict(teacher_hidden=torch.zeros(4, 9)),
            r"teacher_hidden \(4, 9\) float32 does not fit teacher_head \(5, 2\)",
        ),
        (dict(teacher_hidden=torch.zeros(4, 2, dtype=torch.int8)), r"teacher_hidden \(4, 2\) int8"),
        (
            dict(teacher_hidden=torch.zeros(3, 2)),
            r"teacher_hidden \(3, 2\) float32 does not match student_hidden \(4, 3\)",
        ),
        (
            dict(teacher_head=torch.zeros(5000, 2)),
            r"teacher_head \(5000, 2\) float32 has 5,000 words, student_head has 5",
        ),
        (dict(student_bias=torch.zeros(4)), r"student_bias \(4,\) float32"),
        (dict(teacher_bias=torch.zeros(1, 5)), r"teacher_bias \(1, 5\) float32"),
        (
            dict(labels=torch.zeros(3, dtype=torch.long)),
            r"labels \(3,\) int64 does not match student_hidden \(4, 3\)",
        ),
        (dict(labels=torch.zeros(4)), r"labels \(4,\) float32 must be integers"),
        (dict(labels=torch.tensor([0, 5, 1, -100])), "labels must be 0…4"),
        (dict(labels=torch.tensor([0, -1, 1, -100])), "labels must be 0…4"),
        (dict(teacher_hidden=None), "one form"),
        (dict(teacher_logits=torch.zeros(4, 5)), "one form"),
        (dict(teacher_hidden=None, teacher_head=None), "one form"),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_logits=torch.zeros(4, 5, dtype=torch.int32),
            ),
            r"teacher_logits \(4, 5\) int32",
        ),
        (
            dict(teacher_hidden=None, teacher_head=None, teacher_logits=torch.zeros(2, 5)),
            r"teacher_logits \(2, 5\) float32 does not match",
        ),
        (
            dict(
                teacher_hidden=None, teacher_head=None, teacher_logits=torch.full((4, 5), math.nan)
            ),
            r"teacher_logits \(4, 5\) float32 holds NaN",
        ),
        (
            dict(teacher_hidden=torch.full((4, 2), math.nan)),
            r"teacher_hidden \(4, 2\) float32 holds NaN",
        ),
        (
            dict(teacher_head=torch.full((5, 2), math.nan)),
            r"teacher_head \(5, 2\) float32 holds NaN",
        ),
        (
            dict(teacher_bias=torch.full((5,), math.inf)),
            r"teacher_bias \(5,\) float32 holds NaN or infinity",
        ),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_topk=TopK(torch.zeros(4, 2).long(), torch.zeros(4, 2), torch.zeros(4)),
            ),
            r"teacher_topk.ids \(4, 2\) int64",
        ),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_topk=TopK(torch.full((3, 2), 5), torch.zeros(3, 2), torch.zeros(3)),
            ),
            r"words 0…4",
        ),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_topk=TopK(
                    torch.zeros(3, 1).long(), torch.full((3, 1), math.nan), torch.zeros(3)
                ),
            ),
            r"teacher_topk.logprobs \(3, 1\)",
        ),
        (dict(chunk_tokens=0), "chunk_tokens"),
        (dict(chunk_tokens="64"), "chunk_tokens"),
        (dict(chunk_tokens=True), "chunk_tokens"),
        (dict(chunk_tokens=2.0), "chunk_tokens"),
        (
            dict(teacher_head=torch.zeros(4, 2)),
            r"labels \(4,\) int64. The teacher has 4 words, the student 5",
        ),
        (dict(teacher_head=torch.zeros(200, 2)), r"teacher_head \(200, 2\) float32 has 200 words"),
        (dict(student_head=torch.zeros(0, 3)), r"student_head \(0, 3\) float32 has no words"),
        (
            dict(student_head=torch.zeros(8000, 3), teacher_head=torch.zeros(8500, 2)),
            "has 8,500 words",
        ),
        (
            dict(labels=torch.zeros(4, dtype=torch.complex64)),
            r"labels \(4,\) complex64 must be integers",
        ),
        (
            dict(
                teacher_hidden=torch.full((4, 2), -math.inf),
                teacher_head=torch.tensor([[1.0, -1]]).expand(5, 2),
            ),
            r"teacher_hidden \(4, 2\) float32 holds NaN or infinity",
        ),
        (
            dict(
                teacher_hidden=torch.tensor([[1.0, -1]]).expand(4, 2),
                teacher_head=torch.full((5, 2), -math.inf),
            ),
            r"teacher_head \(5, 2\) float32 holds",
        ),
        (
            dict(
                teacher_hidden=torch.full((4, 2), 1000.0).half(),
                teacher_head=torch.full((5, 2), 1000.0).half(),
            ),
            r"teacher_hidden \(4, 2\) float16 times teacher_head \(5, 2\) float16 overflows",
        ),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_topk=(torch.zeros(3, 1).long(), torch.zeros(3, 1), torch.zeros(3)),
            ),
            "teacher_topk must be a losses.TopK",
        ),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_topk=TopK(torch.zeros(3, 1).bool(), torch.zeros(3, 1), torch.zeros(3)),
            ),
            r"teacher_topk.ids \(3, 1\) bool must be words",
        ),
        (
            dict(
                teacher_hidden=None,
                teacher_head=None,
                teacher_topk=TopK(
                    torch.tensor([[0, 1], [2, 2], [3, 4]]), torch.zeros(3, 2), torch.zeros(3)
                ),
            ),
            r"teacher_topk.ids \(3, 2\) int64 names a word twice",
        ),
        (dict(temperature=None), "temperature"),
        (dict(alpha=None), "alpha"),
        (dict(num_items="3"), "num_items"),
        (dict(num_items=True), "num_items"),
        (dict(temperature=0), "temperature"),
        (dict(alpha=2), "alpha"),
        (dict(divergence="kl"), "divergence"),
        (dict(num_items=0), "num_items"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_makes_no_sense_is_refused(change, hint):
    given = (
        dict(
            student_hidden=torch.randn(4, 3),
            student_head=torch.randn(5, 3),
            teacher_hidden=torch.randn(4, 2),
            teacher_head=torch.randn(5, 2),
            labels=torch.tensor([0, 1, 4, -100]),
        )
        | SETTINGS
        | change
    )
    with pytest.raises(ValueError, match=hint):
        linear_distillation_loss(**given)


def test_a_students_nan_is_handed_on():
    student, teacher, labels = parts()
    student[0].data[:] = math.nan
    assert ours(student, teacher, labels).total.isnan()


def test_vocabularies_that_differ_by_padding_are_cut():
    for words, padded in ((5, 128), (8000, 8400), (128256, 129280)):
        hidden, labels = torch.randn(2, 2), torch.tensor([0, 1])
        assert linear_distillation_loss(
            hidden, torch.randn(words, 2), hidden, torch.randn(padded, 2), labels, **SETTINGS
        ).total.isfinite()


# -- the benchmark ---------------------------------------------------------------------------------------------------


def test_contestants_that_compute_another_number_are_out(monkeypatch):
    monkeypatch.setattr(wide_loss, "SCRATCH", 100 * 500 * 8)
    rows = {
        name: wide_bench.measure(name, 200, 500, 8, 12, 1)
        for name in (*wide_bench.PLAIN_WAYS, "ours")
    }
    assert rows["ours"]["chunk"] < 150, "several chunks"
    for one in rows.values():
        wide_bench.check(one, rows["plain"])
    for key in ("loss", "head_norm", "apart"):
        with pytest.raises(ValueError, match="ours computes another number than plain"):
            wide_bench.check(rows["ours"] | {key: rows["ours"][key] + 0.01}, rows["plain"])


def test_the_benchmarks_file_is_json(tmp_path, monkeypatch):
    monkeypatch.setattr(wide_bench, "installed_peers", lambda: [])
    monkeypatch.setattr(
        wide_bench,
        "contest",
        lambda name, *size, turns: wide_bench.measure(name, 32, 100, 8, 8, turns),
    )
    wide_bench.main(quick=True, out=tmp_path / "bench.json")
    refuse = lambda name: pytest.fail(f"{name} is not JSON")
    table = json.loads((tmp_path / "bench.json").read_text(), parse_constant=refuse)
    assert [row["products"] is None for row in table["rows"]] == [True] * 3 + [False] and table[
        "student_step"
    ] is None
