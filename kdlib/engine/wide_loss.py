"""The distillation loss at a wide vocabulary, from hidden states: logits exist for a few tokens at
a time.

A head of 128,256 tokens makes 513 kB of float32 logits an item. The plain way keeps about ten such
arrays of student and teacher until backward has used them. Here a chunk of items goes all the way:

    1. product with the heads                                → logits, in two buffers
    2. loss, and its derivative written over the student's logits
    3. from the derivative: gradients of hidden states, head and bias

Then the next chunk takes the same two buffers. So the gradient is computed in forward,
analytically; backward only scales it.

Products are taken in the inputs' dtype (autocast's where it is on, which leaves float64 alone).
All else is float32 at least: logits are widened before anything is summed, and the head's gradient
adds up over chunks in float32. Its product is float32 too, except on a GPU that can add a
half-precision product to a float32 array, which no test has seen yet. Float16 needs no loss scale
in here.

Measured on a CPU, one thread, float32, forward and backward (`data/results/bench_vocab_loss.json`):
1024 items of which a quarter is ignored, widths 256 and 384, take 0.11 GB above inputs, weights and
gradients, and 1.3 times the time of the bare matrix products; the plain way takes 2.9 GB and twice
as long. 8192 items take 0.11 GB too. Values are tested on CPU for half precision, autocast,
gradient checkpointing and two processes as well. Not measured: speed in half precision, and any
GPU.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..losses import (
    IGNORED,
    DistillationLoss,
    TopK,
    check_settings,
    described,
    log_soft_targets_with_rest,
    valid_labels,
)
from .wide_checks import check_student, check_teacher, check_topk

# Bytes for logits, whatever memory is free: a result must not depend on the neighbours.
SCRATCH = 128_000_000
# Bytes of logits that the loss passes over at a time, several times: a core's own cache holds them.
CPU_CACHE = 600_000
# On a GPU: enough work for a kernel.
GPU_CACHE = 16_000_000
# Arrays as wide as the vocabulary that a divergence's slope holds at once; 2 unless named here.
ARRAYS_AT_WORK = {"jsd": 4}
# `losses` counts no log-probability below -FLOOR.
FLOOR = 1e4


class Head(NamedTuple):
    """A teacher whose logits are still to be made."""

    hidden: Tensor  # (items, width)
    weight: Tensor  # (vocab, width)
    bias: Tensor | None  # (vocab,)


Teacher = Head | Tensor | TopK | None


@dataclass(frozen=True)
class Plan:
    """What a call needs beside the three tensors that learn."""

    teacher: Teacher
    targets: Tensor  # (tokens,) labels of the items that count
    positions: Tensor  # (tokens,) where these stand among all items
    ce_alone: Tensor  # (tokens,) is the teacher not heard there?
    count: float  # what sums are divided by
    vocab: int
    product_dtype: torch.dtype
    temperature: float
    alpha: float
    divergence: str
    beta: float
    chunk: int  # tokens of which logits exist
    block: int  # tokens of which the loss is computed at a time


def linear_distillation_loss(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor | None,
    teacher_head: Tensor | None,
    labels: Tensor,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    teacher_logits: Tensor | None = None,
    teacher_topk: TopK | None = None,
    temperature: float,
    alpha: float,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    ignore_index: int = IGNORED,
    num_items: int | float | Tensor | None = None,
    chunk_tokens: int | str = "auto",
    ce_only: tuple[int, ...] = (),
) -> DistillationLoss:
    """`losses.distillation_loss` of `hidden @ head.T + bias`, without the logits.

    student_hidden: (..., width), student_head: (vocab, width), student_bias: (vocab,). `total` has
        gradients for these three; `kd` and `ce` are for reading.
    labels: (...), aligned with the hidden states: no shift is made here. Items labelled
        `ignore_index` never reach a head.
    The teacher comes as hidden states (of any width) and head, or as `teacher_logits` (..., vocab),
        or as `teacher_topk`: a row for each item that is not ignored, in order. With alpha = 0 it
        may be missing. No gradient reaches it.
    ce_only: where one of these ids is the label, CE counts in full and the teacher is not heard.
    chunk_tokens: tokens of which logits exist at a time; "auto": as many as fit in `SCRATCH` bytes.
    All else as in `losses.distillation_loss`. Heads of one vocabulary that differ by padding rows
    are cut to the shared size. Raises ValueError for what does not fit together, and for NaN in
    the teacher, naming argument, shape and dtype.
    """
    temperature = check_settings(temperature, alpha, divergence, beta)
    check_student(student_hidden, student_head, student_bias, labels)
    given = (teacher_hidden, teacher_head, teacher_bias, teacher_logits, teacher_topk)
    vocab = check_teacher(student_hidden, len(student_head), *given, alpha)
    items = _items(labels, vocab, len(student_head), ignore_index, num_items, teacher_topk)
    settings = dict(temperature=temperature, alpha=alpha, divergence=divergence, beta=beta)
    dtype = _product_dtype(student_hidden, student_head)
    teacher = _the_teacher(vocab, *given)
    plan = _plan(teacher, *items, ce_only, vocab, dtype, student_hidden, chunk_tokens, settings)
    # (items, width): ignored items are still there, and get a gradient of 0.
    hidden = student_hidden.reshape(-1, student_hidden.shape[-1])
    # grad mode is asked for here: inside of an autograd Function it is always off.
    values = Chunked.apply(hidden, student_head, student_bias, plan, torch.is_grad_enabled())
    return DistillationLoss(*values)


def _items(labels, vocab: int, student_vocab: int, ignore_index: int, num_items, topk):
    """(targets, positions, count): what is predicted, where, and what sums are divided by."""
    hint = _cut_hint(vocab, student_vocab)
    targets, is_valid, count = valid_labels(labels, vocab, ignore_index, num_items, hint)
    if topk is not None:
        check_topk(topk, len(targets), vocab)
    # (items,) bool → (tokens,) numbers: a chunk is a slice of these, so that no mask as long as the
    # batch is needed again.
    return targets, is_valid.nonzero()[:, 0], float(count)


def _plan(
    teacher: Teacher,
    targets: Tensor,
    positions: Tensor,
    count: float,
    ce_only: tuple[int, ...],
    vocab: int,
    dtype: torch.dtype,
    hidden: Tensor,
    chunk_tokens: int | str,
    settings: dict,
) -> Plan:
    device = hidden.device.type
    unheard = torch.tensor(list(ce_only), device=targets.device, dtype=targets.dtype)
    arrays_at_work = ARRAYS_AT_WORK.get(settings["divergence"], 2)
    return Plan(
        teacher=teacher,
        targets=targets,
        positions=positions,
        ce_alone=torch.isin(targets, unheard),
        count=count,
        vocab=vocab,
        product_dtype=dtype,
        chunk=chunk_size(chunk_tokens, vocab, dtype, len(targets), device, arrays_at_work),
        block=block_size(vocab, dtype, device),
        **settings | {"alpha": float(settings["alpha"])},
    )


def _cut_hint(shared: int, student: int) -> str:
    if shared == student:
        return ""
    sizes = f"The teacher has {shared:,} words, the student {student:,}"
    return f"{sizes}: only shared ones can be learnt."


def _the_teacher(vocab: int, hidden, head, bias, logits, topk) -> Teacher:
    """The teacher in the form in which it was given, cut to `vocab` tokens, without gradient."""
    if logits is not None:
        # A view, not a copy; what is worked on is copied chunk by chunk (`_picked`).
        return logits.detach().reshape(-1, logits.shape[-1])[:, :vocab]
    if hidden is None:
        return topk
    hidden = hidden.detach().reshape(-1, hidden.shape[-1])
    dtype = _product_dtype(hidden, head)
    if bias is not None:
        bias = bias.detach()[:vocab].to(dtype)
    # The teacher's product in its own dtype: it need not be the student's.
    return Head(hidden.to(dtype), head.detach()[:vocab].to(dtype), bias)


class Chunked(torch.autograd.Function):
    """(hidden, head, bias) → (total, kd, ce). The gradients are there when forward is done."""

    @staticmethod
    def forward(ctx, hidden, head, bias, plan, learns):
        # needs_input_grad does not know of no_grad
        ctx.wanted = [need and learns for need in ctx.needs_input_grad[:3]]
        # All chunks are gone when this returns. Waiting for backward would mean keeping their
        # logits, which is what this file is there to avoid; so the gradients for a scale of 1 are
        # made now.
        values, ctx.gradients = _run(hidden, head, bias, plan, ctx.wanted)
        ctx.plan = plan
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, head, bias)]
        # For a second backward alone. The head lives anyway, and hidden states are small.
        ctx.save_for_backward(hidden, head, bias)
        ctx.versions = _versions(plan.teacher)
        # kd and ce: only the total has a gradient.
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, *_):
        # Scaled in place and given away: a copy of the head's gradient would double the largest
        # thing here. A second backward through the same graph is rare, and computes them again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            # of the student's tensors autograd itself knows
            if _versions(ctx.plan.teacher) != ctx.versions:
                raise RuntimeError(
                    "a second backward needs the teacher's tensors, and one of them has been "
                    "modified by an inplace operation"
                )
            _, gradients = _run(*ctx.saved_tensors, ctx.plan, ctx.wanted)
        # on a GPU, looking at the scale would cost more than scaling
        if scale.device.type != "cpu" or scale != 1:
            gradients = [g if g is None else g.mul_(scale) for g in gradients]
        narrowed = [g if g is None else g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes)]
        # One for each argument of forward: plan and learns have none.
        return *narrowed, None, None


class Buffers:
    """The memory of one call. It is taken once: at this width fresh memory costs the most time."""

    def __init__(self, hidden: Tensor, plan: Plan, dtype: torch.dtype):
        def empty(rows):
            return hidden.new_empty(rows, plan.vocab, dtype=dtype)

        self.step = min(plan.block, plan.chunk)
        self.student = empty(plan.chunk)
        # Logits that were given need no buffer: a block of them is copied at a time.
        self.teacher = empty(plan.chunk) if isinstance(plan.teacher, Head) else None
        # These two are a block high, not a chunk: what is passed over several times stays in the
        # cache.
        self.exponentials = empty(self.step)
        self.free = empty(self.step)


@torch.no_grad()
def _run(
    hidden: Tensor, head: Tensor, bias: Tensor | None, plan: Plan, wanted: list[bool]
) -> tuple[tuple, list]:
    """((total, kd, ce), gradients of hidden, head and bias).

    Gradients are float32 at least, and None where they are not wanted.
    """
    dtype = torch.promote_types(plan.product_dtype, torch.float32)
    tokens = len(plan.positions)
    buffers = Buffers(hidden, plan, dtype)
    gradients = _gradients(hidden, head, bias, wanted, plan, dtype)
    # KD's weight at each token; CE has the rest
    soft = (plan.alpha * (~plan.ce_alone).to(dtype))[:, None]
    kd = torch.empty_like(soft)
    ce = torch.empty_like(soft)
    # Its casts are done by hand here: sums must stay in float32, and a half-precision copy of the
    # head is made once, not once a chunk.
    with torch.autocast(hidden.device.type, enabled=False):
        weight = head[: plan.vocab].to(plan.product_dtype)
        if bias is not None:
            bias = bias[: plan.vocab].to(plan.product_dtype)
        for start in range(0, tokens, plan.chunk):
            positions = plan.positions[start : start + plan.chunk]
            h = hidden[positions].to(plan.product_dtype)  # (chunk, width), a copy
            # (chunk, vocab), in the buffer that the last chunk used. Overwritten below.
            logits = _product(h, weight, bias, buffers.student)
            _derive_chunk(logits, positions, start, soft, kd, ce, plan, buffers)
            # `logits` now holds the derivative of each token's loss
            _add_gradients(gradients, logits, h, weight, positions, start == 0, plan)
    if kd.isnan().any():
        _blame(plan.teacher, bool((kd.isnan() & ~ce.isnan()).any()))
    # Once, for all tokens: (tokens, 1). `_derive` leaves T² out, as `losses._divergence` does.
    kd = kd.masked_fill(plan.ce_alone[:, None], 0) * plan.temperature**2
    # Token by token, as soft is 0 where CE counts alone.
    total = soft * kd + (1 - soft) * ce
    return tuple(x.sum() / plan.count for x in (total, kd, ce)), gradients


def _gradients(hidden, head, bias, wanted: list[bool], plan: Plan, dtype: torch.dtype) -> list:
    """Arrays for the gradients.

    The first chunk writes the head's: zeros there would be one pass more.
    """
    gradients = [
        torch.empty_like(x, dtype=dtype) if want else None
        for x, want in zip((hidden, head, bias), wanted)
    ]
    # Rows of padding beyond the shared vocabulary are written by no chunk; hidden states of ignored
    # items by none either.
    rows_written_by_chunks = (0, plan.vocab if len(plan.positions) else 0, 0)
    for gradient, unwritten in zip(gradients, rows_written_by_chunks):
        if gradient is not None:
            gradient[unwritten:] = 0
    return gradients


def _derive_chunk(
    logits: Tensor,
    positions: Tensor,
    start: int,
    soft: Tensor,
    kd: Tensor,
    ce: Tensor,
    plan: Plan,
    buffers: Buffers,
) -> None:
    """Fill kd and ce of a chunk's tokens, block by block.

    `logits` (chunk, vocab) is overwritten.
    """
    teacher = plan.teacher
    teacher_logits = None
    if isinstance(teacher, Head):
        # Straight from the teacher's hidden states, for these tokens alone: (chunk, vocab).
        teacher_logits = _product(
            teacher.hidden[positions], teacher.weight, teacher.bias, buffers.teacher
        )
    for i in range(0, len(positions), buffers.step):
        block = slice(i, i + buffers.step)
        # i counts within the chunk, tokens through all of them.
        tokens = slice(start + i, min(start + i + buffers.step, start + len(positions)))
        if teacher_logits is None:
            answer = _picked(teacher, tokens, positions[block])
        else:
            answer = teacher_logits[block]
        targets = plan.targets[tokens, None]
        kd[tokens], ce[tokens] = _derive(
            logits[block], answer, targets, soft[tokens], plan, buffers
        )


def _add_gradients(
    gradients: list,
    derivative: Tensor,
    hidden: Tensor,
    weight: Tensor,
    positions: Tensor,
    is_first: bool,
    plan: Plan,
) -> None:
    """Step 3: derivative (chunk, vocab) → the gradients of hidden states, head and bias."""
    to_hidden, to_head, to_bias = gradients
    if to_hidden is not None:
        # (chunk, vocab) @ (vocab, width): the chain rule through logits = hidden @ weight.T.
        product = derivative.to(plan.product_dtype) @ weight
        to_hidden[positions] = product.to(to_hidden.dtype) / plan.count
    if to_head is not None:
        # 1 / count comes here, not into the derivative: small numbers would be lost in float16
        _add_product(
            to_head[: plan.vocab],
            derivative,
            hidden,
            beta=float(not is_first),
            alpha=1 / plan.count,
        )
    if to_bias is not None:
        to_bias[: plan.vocab].add_(derivative.sum(0), alpha=1 / plan.count)


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """hidden @ weight.T + bias in the first rows of `out`.

    Half-precision factors multiply as they are; the product is widened.
    """
    # The last chunk may be smaller than the buffer.
    out = out[: len(hidden)]
    if hidden.dtype != out.dtype:
        # This product is the narrow copy that `chunk_size` counts; copy_ widens it.
        return out.copy_(torch.nn.functional.linear(hidden, weight, bias))
    if bias is None:
        return torch.mm(hidden, weight.t(), out=out)
    return torch.addmm(bias, hidden, weight.t(), out=out)


def _add_product(total: Tensor, derivative: Tensor, hidden: Tensor, **factors: float) -> None:
    """total = beta · total + alpha · derivative.T @ hidden, in the derivative's dtype.

    Tensor cores multiply halves many times faster, where they may add to float32.
    """
    halves = hidden.dtype != derivative.dtype
    if halves and _adds_to_float32(hidden.device, hidden.dtype):
        # The factors are rounded to halves; what they add up to is not.
        narrow = derivative.to(hidden.dtype)
        torch.addmm(total, narrow.t(), hidden, out_dtype=total.dtype, out=total, **factors)
    else:
        total.addmm_(derivative.t(), hidden.to(derivative.dtype), **factors)


@functools.cache
def _adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Can a product in this dtype be added to a float32 array?

    Newer torch can, on CUDA: a small one is tried.
    """
    small = torch.zeros(16, 16, device=device, dtype=dtype)
    try:
        torch.addmm(small.float(), small, small, out_dtype=torch.float32, out=small.float())
    except (RuntimeError, TypeError):
        return False
    return True


def _picked(teacher: Tensor | TopK | None, tokens: slice, positions: Tensor):
    """A copy of some answers.

    A `TopK` has a row for each token that counts, logits have one for each item.
    """
    if isinstance(teacher, TopK):
        return TopK(*(part[tokens] for part in teacher))
    return teacher if teacher is None else teacher[positions]


def _derive(
    logits: Tensor,
    answer: Tensor | TopK | None,
    targets: Tensor,
    soft: Tensor,
    plan: Plan,
    buffers: Buffers,
) -> tuple[Tensor, Tensor]:
    """Student logits (rows, vocab) → kd without T² and ce, both (rows, 1).

    `logits` becomes the derivative of each row's total, times the count. All is overwritten, the
    answer too. soft: (rows, 1), KD's weight; CE has the rest.
    """
    T = plan.temperature
    exponentials = buffers.exponentials[: len(logits)]
    free = buffers.free[: len(logits)]
    # Less the largest logit, in place: exp of what is left is at most 1. `exponentials` is kept,
    # for CE and its derivative need softmax at T = 1 and `logits` is about to become something
    # else.
    sum_of_exponentials = _sum_of_exponentials(logits.sub_(_top(logits)), exponentials)
    # -log softmax of the target: (rows, 1).
    ce = (sum_of_exponentials.log() - logits.gather(1, targets)).clamp_max_(FLOOR)
    if answer is None:
        kd = torch.zeros_like(ce)
        # No teacher: no derivative of KD.
        logits.zero_()
    elif isinstance(answer, TopK):
        kd = _derive_topk(logits, answer, plan)
    else:
        # a teacher that excludes all tokens finds them alike
        answer = answer.to(logits.dtype).clamp_min_(torch.finfo(logits.dtype).min)
        # Both become log soft targets (rows, vocab), in place.
        _to_log_soft_targets(logits.mul_(1 / T), free)
        _to_log_soft_targets(answer.sub_(_top(answer)).mul_(1 / T), free)
        kd = _to_slope(logits, answer, free, plan)
    # From here on `logits` holds KD's derivative by logits / T. The factor T is T² of the loss
    # times 1/T of the chain rule. CE's derivative is softmax - one-hot; at the floor CE is flat.
    hard = (1 - soft) * (ce < FLOOR)
    logits.mul_(soft * T).addcmul_(exponentials, hard / sum_of_exponentials)
    # The one-hot part: one number a row, so no one-hot array is made.
    logits.scatter_add_(1, targets, -hard)
    return kd, ce


def _derive_topk(logits: Tensor, answer: TopK, plan: Plan) -> Tensor:
    """kd (rows, 1); `logits` becomes its derivative by logits / T. k + 1 outcomes are compared."""
    T = plan.temperature
    # (rows, k + 1) twice, and the log of the rest's total, (rows, 1).
    slope, teacher, rest = log_soft_targets_with_rest(logits, answer, T)
    slope = slope.clone()
    kd = _to_slope(slope, teacher, torch.empty_like(slope), plan)
    # the rest's slope goes to its tokens in the student's own proportions, exp(logit / T - rest)
    logits.mul_(1 / T).sub_(rest.clamp_min(torch.finfo(logits.dtype).min)).exp_()
    # Last, the kept tokens: what was written there as a share of the rest is replaced by their own
    # slopes.
    logits.mul_(slope[:, -1:]).scatter_(1, answer.ids.long(), slope[:, :-1])
    return kd


def _top(logits: Tensor) -> Tensor:
    return logits.amax(-1, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)


def _sum_of_exponentials(x: Tensor, out: Tensor) -> Tensor:
    """Σ exp(x) of each row (rows, 1); `out` keeps the exponentials."""
    return torch.exp(x, out=out).sum(-1, keepdim=True).clamp_min_(torch.finfo(x.dtype).tiny)


def _to_log_soft_targets(x: Tensor, free: Tensor) -> None:
    """x, logits / T less their maximum, becomes what `losses` calls log soft targets."""
    x.sub_(_sum_of_exponentials(x, free).log_()).clamp_min_(-FLOOR)


def _to_slope(student: Tensor, teacher: Tensor, free: Tensor, plan: Plan) -> Tensor:
    """Divergence (rows, 1), without T², of two log soft targets (rows, outcomes).

    `student` becomes its derivative by the student's logits / T. With q = exp(student) and g the
    divergence's derivative by `student`, that is g - q Σ g: the softmax's chain rule.
    """
    if plan.divergence == "forward_kl":
        return _forward_slope(student, teacher, free)
    if plan.divergence == "reverse_kl":
        q = torch.exp(student, out=free)
        # In place: `difference` is `student`.
        difference = student.sub_(teacher)
        # Σ q (log q - log p). `teacher` is read for the last time, and lends its memory.
        kd = _row_sum(torch.mul(difference, q, out=teacher))
        # g = q · (difference + 1), and Σ g = kd + 1: the ones cancel in g - q Σ g.
        student.sub_(kd).mul_(q)
        return kd
    if plan.divergence == "jsd":
        return _jsd_slope(student, teacher, free, plan.beta)
    raise NotImplementedError(f"{plan.divergence} has no derivative here: write its slope")


def _forward_slope(student: Tensor, teacher: Tensor, free: Tensor) -> Tensor:
    """KL(teacher ‖ student): g = -p, so the derivative is q Σ p - p, which is q - p."""
    p = torch.exp(teacher, out=free)
    # Σ p (log p - log q). `teacher` is overwritten.
    kd = _row_sum(teacher.sub_(student).mul_(p))
    if student.device.type != "cpu" or student.amin() <= -FLOOR:
        # at the floor the loss is flat: such tokens pull at nothing
        total = _row_sum(p.masked_fill_(student <= -FLOOR, 0))
        q = student.exp_().mul_(total)
    else:
        q = student.exp_()
    q.sub_(p)  # q is `student`
    return kd


def _jsd_slope(student: Tensor, teacher: Tensor, free: Tensor, beta: float) -> Tensor:
    """beta·KL(p ‖ m) + (1 - beta)·KL(q ‖ m), m = beta·p + (1 - beta)·q."""
    p = teacher.exp()
    q = torch.exp(student, out=free)
    # p + (1 - beta)·(q - p), which is beta·p + (1 - beta)·q; then its logarithm.
    middle = torch.lerp(p, q, 1 - beta).clamp_min_(torch.finfo(p.dtype).tiny).log_()
    of_teacher = _row_sum(teacher.sub_(middle).mul_(p))
    of_student = _row_sum(torch.mul(student.sub_(middle), q, out=middle))
    kd = beta * of_teacher + (1 - beta) * of_student
    # m depends on q too. What that adds to g is (1 - beta)·q·(1 - (beta·p + (1 - beta)·q) / m), and
    # the bracket is 0. What is left is (1 - beta) times reverse KL's derivative against m.
    student.sub_(of_student).mul_(q.mul_(1 - beta))
    return kd


def _row_sum(x: Tensor) -> Tensor:
    return x.sum(-1, keepdim=True)


# -- how much at a time ----------------------------------------------------------------------------


def chunk_size(
    asked: int | str,
    vocab: int,
    dtype: torch.dtype,
    tokens: int,
    device: str = "cpu",
    arrays_at_work: int = 2,
) -> int:
    """Tokens a chunk: as many as fit in SCRATCH bytes, all chunks alike.

    There must fit two buffers of the chunk, a narrow copy for half precision, and `arrays_at_work`
    arrays as wide for the rows at work.
    """
    if asked == "auto":
        # Bytes of one token's logits: float32 at least, whatever the product's dtype.
        row = vocab * max(dtype.itemsize, 4)
        narrow_copy = vocab * dtype.itemsize if dtype.itemsize < 4 else 0
        each = 2 * row + narrow_copy
        beside = arrays_at_work * row
        with_whole_blocks = (SCRATCH - beside * block_size(vocab, dtype, device)) / each
        # a block is no larger than its chunk: this is for chunks smaller than a whole block
        smaller_than_a_block = SCRATCH / (each + beside)
        asked = max(1, int(max(with_whole_blocks, smaller_than_a_block)))
        if asked > 32:
            asked -= asked % 32  # what matrix kernels like
    elif isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ValueError(f'chunk_tokens must be "auto" or a whole number above 0, not {asked!r}')
    # Alike: 130 tokens at 128 a time are 65 and 65, not 128 and 2 with a matrix product for each.
    chunks = max(1, math.ceil(tokens / asked))
    return max(1, math.ceil(tokens / chunks))


def block_size(vocab: int, dtype: torch.dtype, device: str) -> int:
    """Rows of logits that the loss passes over at a time."""
    cache = CPU_CACHE if device == "cpu" else GPU_CACHE
    return max(1, cache // (vocab * max(dtype.itemsize, 4)))


def _product_dtype(hidden: Tensor, head: Tensor) -> torch.dtype:
    """The dtype of their product: autocast's where that is on, but it leaves float64 alone."""
    dtype = torch.promote_types(hidden.dtype, head.dtype)
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return dtype


# -- the teacher's tensors -------------------------------------------------------------------------


def _parts(teacher: Teacher) -> dict[str, Tensor]:
    """The teacher's tensors by the names of the arguments that they came as."""
    if teacher is None:
        return {}
    if isinstance(teacher, Tensor):
        return {"teacher_logits": teacher}
    if isinstance(teacher, TopK):
        names = [f"teacher_topk.{field}" for field in TopK._fields]
    else:
        names = ["teacher_hidden", "teacher_head", "teacher_bias"]
    return {name: part for name, part in zip(names, teacher) if part is not None}


def _versions(teacher: Teacher) -> list[int]:
    """How often each tensor was changed in place; inference tensors keep no count."""
    return [part._version for part in _parts(teacher).values() if not part.is_inference()]


def _blame(teacher: Teacher, student_is_sound: bool) -> None:
    """The loss is NaN: ValueError if the teacher brought it.

    A student's NaN is the training's own.
    """
    for name, part in _parts(teacher).items():
        # in logits -inf excludes a token; in a factor of the product it is an error
        is_factor = name in ("teacher_hidden", "teacher_head")
        infinite = part.isinf() if is_factor else part == math.inf
        if (part.isnan() | infinite).any():
            raise ValueError(f"{described(name, part)} holds NaN or infinity")
    # No NaN went in, so the product made it: two large numbers in float16, say.
    if student_is_sound and isinstance(teacher, Head):
        raise ValueError(
            f"{described('teacher_hidden', teacher.hidden)} times "
            f"{described('teacher_head', teacher.weight)} overflows"
        )
