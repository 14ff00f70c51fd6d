"""The distillation loss at a wide vocabulary, from hidden states: logits exist for a few tokens at a time.

A head of 128,256 words makes 513 kB of float32 logits a token, and the plain way keeps about ten such arrays of student and
teacher until backward has used them. Here a chunk of tokens goes all the way: product with the heads, loss, the loss's
derivative written over the student's logits, and from it the gradients of hidden states and head. Then the next chunk
takes the same two buffers. So the gradient is computed in forward, analytically; backward only scales it.

Measured on a CPU, one thread, float32, forward and backward (`data/results/bench_vocab_loss.json`, made by `python -m kdlib bench
vocab_loss`): 1024 tokens of which a quarter is ignored, widths 256 and 384, take 0.11 GB above inputs, weights and gradients, and
1.3 times the time of the bare matrix products; the plain way 2.9 GB and twice as long. 8192 tokens take 0.11 GB too. Values are
tested on CPU for half precision, autocast, gradient checkpointing and two processes as well. Not measured: speed in half
precision, and any GPU.
"""
import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .losses import DistillationLoss, TopK, check_settings, log_soft_targets_with_rest, valid_labels

SCRATCH = 128_000_000           # bytes for logits, whatever memory is free: a result must not depend on the neighbours
CPU_CACHE = 600_000             # bytes of logits that the loss passes over at a time, several times: a core's own cache holds them
GPU_CACHE = 16_000_000          # there, enough work for a kernel
PADDING = 1024                  # words by which two heads of one vocabulary may differ, rounded up for fast kernels: at most this, and
ROUNDED = 128                   # a twentieth of the vocabulary, though never less than this
FLOOR = 1e4                     # `losses` counts no log-probability below -FLOOR


def linear_distillation_loss(student_hidden: Tensor, student_head: Tensor, teacher_hidden: Tensor | None, teacher_head: Tensor | None,
                             labels: Tensor, *, student_bias: Tensor | None = None, teacher_bias: Tensor | None = None,
                             teacher_logits: Tensor | None = None, teacher_topk: TopK | None = None, temperature: float, alpha: float,
                             divergence: str = "forward_kl", beta: float = 0.5, ignore_index: int = -100,
                             num_items: int | float | Tensor | None = None, chunk_tokens: int | str = "auto",
                             ce_only: tuple[int, ...] = ()) -> DistillationLoss:
    """`losses.distillation_loss` of `hidden @ head.T + bias`, without the logits: `(total, kd, ce)`.

    student_hidden: (..., width), student_head: (vocab, width), student_bias: (vocab,); `total` has gradients for these three,
        `kd` and `ce` are for reading. The teacher's width may differ; no gradient reaches it.
    labels: (...), aligned with the hidden states (no shift is made here); items labelled `ignore_index` never reach a head.
    The teacher comes as hidden states and head, or (both None) as `teacher_logits` (..., vocab), or as `teacher_topk`, one row for
        each item that is not ignored, in order (see `losses.topk_distillation_loss`). With alpha = 0 it may be missing: kd is 0.
    Heads of one vocabulary that differ by padding rows are cut to the shared size; the rest gets gradient 0.
    ce_only: where one of these ids is the label, CE counts in full and the teacher is not heard (see `causal.token_loss`).
    num_items, divergence, beta, alpha, temperature: as in `losses.distillation_loss`.
    chunk_tokens: tokens of which logits exist at a time; "auto" is as many as fit in `SCRATCH` bytes.
    Products are taken in the inputs' dtype (autocast's where it is on, which leaves float64 alone), all else in float32 at least:
    logits are widened before anything is summed, the head's gradient adds up over chunks in float32. Its product is float32 too,
    but on a GPU that adds a half-precision product to a float32 array, which no test has seen yet. Float16 needs no loss scale in here.
    Raises ValueError for what does not fit together, and for NaN in the teacher, naming argument, shape and dtype.
    """
    temperature = check_settings(temperature, alpha, divergence, beta)
    vocab = _check_student(student_hidden, student_head, student_bias, labels)
    teacher, vocab = _the_teacher(student_hidden, vocab, teacher_hidden, teacher_head, teacher_bias, teacher_logits, teacher_topk, alpha)
    cut = f"The teacher has {vocab:,} words, the student {len(student_head):,}: only shared ones can be learnt." if vocab < len(student_head) else ""
    targets, keep, count = valid_labels(labels, vocab, ignore_index, num_items, cut)
    if isinstance(teacher, TopK):
        _check_topk(teacher, len(targets), vocab)
    work, device = _work(student_hidden, student_head), student_hidden.device.type
    alone = torch.isin(targets, torch.tensor(list(ce_only), device=targets.device, dtype=targets.dtype))
    plan = Plan(teacher, targets, keep.nonzero()[:, 0], alone, float(count), vocab, work, temperature, float(alpha), divergence, beta,
                _chunk(chunk_tokens, vocab, work, len(targets), device, 4 if divergence == "jsd" else 2), _block(vocab, work, device))
    flat = student_hidden.reshape(-1, student_hidden.shape[-1])
    return DistillationLoss(*Chunked.apply(flat, student_head, student_bias, plan, torch.is_grad_enabled()))


class Head(NamedTuple):
    """A teacher whose logits are still to be made: hidden (items, width), weight (vocab, width), bias (vocab,) or None."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Plan:
    """What a call needs beside the three tensors that learn."""

    teacher: Head | Tensor | TopK | None
    targets: Tensor             # (tokens,) labels of the items that count,
    places: Tensor              # where they stand among all items,
    alone: Tensor               # and whether CE is alone there
    count: float
    vocab: int
    work: torch.dtype           # of the products
    temperature: float
    alpha: float
    divergence: str
    beta: float
    chunk: int                  # tokens of which logits exist,
    block: int                  # and of which the loss is computed at a time


class Chunked(torch.autograd.Function):
    """(hidden, head, bias) → (total, kd, ce). The gradients are there when forward is done."""

    @staticmethod
    def forward(ctx, hidden, head, bias, plan, learns):
        wanted = [need and learns for need in ctx.needs_input_grad[:3]]       # needs_input_grad does not know of no_grad
        values, ctx.gradients = _run(hidden, head, bias, plan, wanted)
        ctx.plan, ctx.wanted, ctx.dtypes = plan, wanted, [x if x is None else x.dtype for x in (hidden, head, bias)]
        ctx.save_for_backward(hidden, head, bias)
        ctx.versions = _versions(plan.teacher)
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, *_):
        # Scaled in place and given away: a copy of the head's gradient would double the largest thing here. A second
        # backward through the same graph is rare, and computes them again.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            if _versions(ctx.plan.teacher) != ctx.versions:                   # of the student's tensors autograd itself knows
                raise RuntimeError("a second backward needs the teacher's tensors, and one of them has been modified by an inplace operation")
            _, gradients = _run(*ctx.saved_tensors, ctx.plan, ctx.wanted)
        if scale.device.type != "cpu" or scale != 1:                          # on a GPU, looking would cost more than scaling
            gradients = [g if g is None else g.mul_(scale) for g in gradients]
        return *(g if g is None else g.to(dtype) for g, dtype in zip(gradients, ctx.dtypes)), None, None


@torch.no_grad()
def _run(hidden: Tensor, head: Tensor, bias: Tensor | None, plan: Plan, wanted: list[bool]) -> tuple[tuple, list]:
    """((total, kd, ce), gradients of hidden, head and bias in float32 at least, None where not wanted)."""
    wide, tokens, vocab, teacher = torch.promote_types(plan.work, torch.float32), len(plan.places), plan.vocab, plan.teacher
    empty = lambda rows: hidden.new_empty(rows, vocab, dtype=wide)
    step = min(plan.block, plan.chunk)
    for_s, for_t = empty(plan.chunk), empty(plan.chunk) if isinstance(teacher, Head) else None
    work = [empty(step) for _ in range(2)]
    gradients = [torch.empty_like(x, dtype=wide) if want else None for x, want in zip((hidden, head, bias), wanted)]
    to_hidden, to_head, to_bias = gradients
    for g, unwritten in ((to_hidden, 0), (to_head, vocab if tokens else 0), (to_bias, 0)):
        if g is not None:
            g[unwritten:] = 0                   # the first chunk writes the rest: a pass less over the largest array
    soft = (plan.alpha * (~plan.alone).to(wide))[:, None]
    targets, kd, ce = plan.targets[:, None], torch.empty_like(soft), torch.empty_like(soft)
    with torch.autocast(hidden.device.type, enabled=False):
        weight, bias = head[:vocab].to(plan.work), bias if bias is None else bias[:vocab].to(plan.work)
        for start in range(0, tokens, plan.chunk):
            places = plan.places[start:start + plan.chunk]
            h = hidden[places].to(plan.work)
            s = _product(h, weight, bias, for_s)
            t = _product(teacher.hidden[places], teacher.weight, teacher.bias, for_t) if for_t is not None else None
            for i in range(0, len(places), step):
                block, items = slice(i, i + step), slice(start + i, min(start + i + step, start + len(places)))
                answer = _picked(teacher, items, places[block]) if t is None else t[block]
                kd[items], ce[items] = _derive(s[block], answer, targets[items], soft[items], plan, work)
            if to_hidden is not None:
                to_hidden[places] = (s.to(plan.work) @ weight).to(wide) / plan.count
            if to_head is not None:             # 1 / count comes here, not into s: small numbers would be lost in float16
                _add_product(to_head[:vocab], s, h, beta=float(start > 0), alpha=1 / plan.count)
            if to_bias is not None:
                to_bias[:vocab].add_(s.sum(0), alpha=1 / plan.count)
    if kd.isnan().any():
        _blame(teacher, bool((kd.isnan() & ~ce.isnan()).any()))
    kd = kd.masked_fill(plan.alone[:, None], 0) * plan.temperature**2
    return tuple(x.sum() / plan.count for x in (soft * kd + (1 - soft) * ce, kd, ce)), gradients


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    """hidden @ weight.T + bias, in the first rows of `out`. Half precision multiplies as it is and is widened then."""
    out = out[:len(hidden)]
    if hidden.dtype != out.dtype:
        return out.copy_(torch.nn.functional.linear(hidden, weight, bias))
    return torch.mm(hidden, weight.t(), out=out) if bias is None else torch.addmm(bias, hidden, weight.t(), out=out)


def _add_product(total: Tensor, s: Tensor, h: Tensor, **factors: float) -> None:
    """total = beta · total + alpha · s.T @ h, in s's dtype. Tensor cores multiply halves many times faster, where they may add to float32."""
    if h.dtype != s.dtype and _adds_to_wide(h.device, h.dtype):
        torch.addmm(total, s.to(h.dtype).t(), h, out_dtype=total.dtype, out=total, **factors)
    else:
        total.addmm_(s.t(), h.to(s.dtype), **factors)


@functools.cache
def _adds_to_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Can a product in this dtype be added to a float32 array? Newer torch can on CUDA; asked of a small one, for older ones differ."""
    small = torch.zeros(16, 16, device=device, dtype=dtype)
    try:
        torch.addmm(small.float(), small, small, out_dtype=torch.float32, out=small.float())
    except (RuntimeError, TypeError):
        return False
    return True


def _picked(teacher: Tensor | TopK | None, tokens: slice, places: Tensor) -> Tensor | TopK | None:
    """A copy of some answers. A `TopK` has a row for each token that counts, logits have one for each item."""
    if isinstance(teacher, TopK):
        return TopK(*(x[tokens] for x in teacher))
    return teacher if teacher is None else teacher[places]


def _derive(s: Tensor, answer: Tensor | TopK | None, target: Tensor, soft: Tensor, plan: Plan, work: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Student logits s (rows, vocab) → kd without T², ce (rows, 1); s becomes the derivative of each row's total, times the count.

    All is overwritten, the answer too: at this width memory takes the time, fresh memory most of all. soft: KD's weight, CE has the rest.
    """
    T, (hard, free) = plan.temperature, (x[:len(s)] for x in work)
    mass = _mass(s.sub_(_top(s)), hard)
    ce = (mass.log() - s.gather(1, target)).clamp_max_(FLOOR)
    if answer is None:
        kd = torch.zeros_like(ce)
        s.zero_()
    elif isinstance(answer, TopK):
        few, t, others = log_soft_targets_with_rest(s, answer, T)
        slope = few.clone()
        kd = _slope(slope, t, torch.empty_like(few), plan)
        # the lump's slope goes to its words in the student's own proportions
        s.mul_(1 / T).sub_(others.clamp_min(torch.finfo(s.dtype).min)).exp_().mul_(slope[:, -1:]).scatter_(1, answer.ids.long(), slope[:, :-1])
    else:
        answer = answer.to(s.dtype).clamp_min_(torch.finfo(s.dtype).min)     # who excludes all words finds them alike
        _soften(s.mul_(1 / T), free)
        _soften(answer.sub_(_top(answer)).mul_(1 / T), free)
        kd = _slope(s, answer, free, plan)
    rest = (1 - soft) * (ce < FLOOR)
    s.mul_(soft * T).addcmul_(hard, rest / mass)        # T² by the product, 1/T by the chain rule
    s.scatter_add_(1, target, -rest)
    return kd, ce


def _top(logits: Tensor) -> Tensor:
    return logits.amax(-1, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)


def _mass(x: Tensor, exponentials: Tensor) -> Tensor:
    return torch.exp(x, out=exponentials).sum(-1, keepdim=True).clamp_min_(torch.finfo(x.dtype).tiny)


def _soften(x: Tensor, free: Tensor) -> None:
    """x, logits / T less their maximum, becomes `losses._log_soft_targets`."""
    x.sub_(_mass(x, free).log_()).clamp_min_(-FLOOR)


def _slope(s: Tensor, t: Tensor, free: Tensor, plan: Plan) -> Tensor:
    """Divergence (rows, 1), without T², of log soft targets s, t (rows, outcomes) of student and teacher.

    s becomes its derivative by the student's logits / T: g - q Σ g, where g is the derivative by s, and q = exp(s).
    """
    total = lambda x: x.sum(-1, keepdim=True)
    if plan.divergence == "forward_kl":
        p = torch.exp(t, out=free)
        kd, mass = total(t.sub_(s).mul_(p)), None
        if s.device.type != "cpu" or s.amin() <= -FLOOR:        # at the floor the loss is flat
            mass = total(p.masked_fill_(s <= -FLOOR, 0))
        q = s.exp_() if mass is None else s.exp_().mul_(mass)
        q.sub_(p)
    elif plan.divergence == "reverse_kl":
        q = torch.exp(s, out=free)
        kd = total(torch.mul(s.sub_(t), q, out=t))
        s.sub_(kd).mul_(q)
    else:
        beta, p, q = plan.beta, t.exp(), torch.exp(s, out=free)
        m = torch.lerp(p, q, 1 - beta).clamp_min_(torch.finfo(p.dtype).tiny).log_()
        teachers = total(t.sub_(m).mul_(p))
        own = total(torch.mul(s.sub_(m), q, out=m))
        kd = beta * teachers + (1 - beta) * own
        s.sub_(own).mul_(q.mul_(1 - beta))
    return kd


def _chunk(asked: int | str, vocab: int, work: torch.dtype, tokens: int, device: str = "cpu", blocks: int = 2) -> int:
    """Tokens a chunk: as many as fit in SCRATCH bytes, all chunks alike.

    There must fit two buffers of the chunk, a narrow copy for half precision, and `blocks` arrays as wide for the rows at work.
    """
    if asked == "auto":
        row = vocab * max(work.itemsize, 4)
        each, beside = 2 * row + (vocab * work.itemsize if work.itemsize < 4 else 0), blocks * row
        # a block is no larger than its chunk: the second term is for chunks that are smaller than a whole block
        asked = max(1, int(max((SCRATCH - beside * _block(vocab, work, device)) / each, SCRATCH / (each + beside))))
        asked = asked - asked % 32 if asked > 32 else asked      # what matrix kernels like
    elif isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ValueError(f"chunk_tokens must be \"auto\" or a whole number above 0, not {asked!r}")
    return max(1, math.ceil(tokens / max(1, math.ceil(tokens / asked))))


def _block(vocab: int, work: torch.dtype, device: str) -> int:
    """Rows of logits that the loss passes over at a time."""
    return max(1, (CPU_CACHE if device == "cpu" else GPU_CACHE) // (vocab * max(work.itemsize, 4)))


def _work(hidden: Tensor, head: Tensor) -> torch.dtype:
    """The dtype of their product: autocast's where that is on, but it leaves float64 alone."""
    dtype, device = torch.promote_types(hidden.dtype, head.dtype), hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) and dtype != torch.float64 else dtype


def _parts(teacher: Head | Tensor | TopK | None) -> dict[str, Tensor]:
    """The teacher's tensors by the names of the arguments that they came as."""
    if teacher is None or isinstance(teacher, Tensor):
        return {} if teacher is None else {"teacher_logits": teacher}
    names = [f"teacher_topk.{x}" for x in TopK._fields] if isinstance(teacher, TopK) else ["teacher_hidden", "teacher_head", "teacher_bias"]
    return {name: x for name, x in zip(names, teacher) if x is not None}


def _versions(teacher: Head | Tensor | TopK | None) -> list[int]:
    return [x._version for x in _parts(teacher).values() if not x.is_inference()]      # those keep no count


# -- what is refused -------------------------------------------------------------------------------------------------

def _said(name: str, x: Tensor) -> str:
    return f"{name} {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def _check_head(who: str, hidden: Tensor, head: Tensor, bias: Tensor | None) -> None:
    for name, x in (("hidden", hidden), ("head", head), ("bias", bias)):
        if x is not None and not x.dtype.is_floating_point:
            raise ValueError(f"{_said(f'{who}_{name}', x)} must be floating point")
    if head.dim() == 2 and not len(head):
        raise ValueError(f"{_said(f'{who}_head', head)} has no words")
    if hidden.dim() < 1 or head.dim() != 2 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(f"{_said(f'{who}_hidden', hidden)} does not fit {_said(f'{who}_head', head)}: (…, width) and (vocab, width) are needed")
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"{_said(f'{who}_bias', bias)} does not fit {_said(f'{who}_head', head)}: one number a word is needed")


def _check_student(hidden: Tensor, head: Tensor, bias: Tensor | None, labels: Tensor) -> int:
    _check_head("student", hidden, head, bias)
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(f"{_said('labels', labels)} does not match {_said('student_hidden', hidden)}: one label for each hidden state is needed")
    return len(head)


def _the_teacher(student_hidden: Tensor, vocab: int, hidden, head, bias, logits, topk, alpha: float) -> tuple:
    """(the teacher in the one form in which it was given, the words that it and the student share)."""
    forms = [hidden is not None or head is not None, logits is not None, topk is not None]
    if sum(forms) > 1 or (hidden is None) != (head is None) or (bias is not None and head is None) or not (any(forms) or alpha == 0):
        raise ValueError("the teacher comes in one form: teacher_hidden and teacher_head (and teacher_bias), or teacher_logits, or "
                         "teacher_topk; none of them only with alpha = 0")
    if topk is not None and not isinstance(topk, TopK):
        raise ValueError(f"teacher_topk must be a losses.TopK (ids, logprobs, rest), not a {type(topk).__name__}")
    if topk is not None or not any(forms):
        return topk, vocab
    if logits is None:
        _check_head("teacher", hidden, head, bias)
    elif logits.dim() < 1 or not logits.dtype.is_floating_point:
        raise ValueError(f"{_said('teacher_logits', logits)} must be floating point, (…, vocab)")
    name, given, words = ("teacher_hidden", hidden, len(head)) if logits is None else ("teacher_logits", logits, logits.shape[-1])
    if given.shape[:-1] != student_hidden.shape[:-1]:
        raise ValueError(f"{_said(name, given)} does not match {_said('student_hidden', student_hidden)}: same items, same order?")
    if abs(words - vocab) > max(ROUNDED, min(PADDING, min(words, vocab) // 20)):
        raise ValueError(f"{_said(*(('teacher_head', head) if logits is None else (name, logits)))} has {words:,} words, student_head has {vocab:,}: "
                         "more than padding explains. Do both read the same tokenizer?")
    vocab, given = min(words, vocab), given.detach().reshape(-1, given.shape[-1])
    if logits is not None:
        return given[:, :vocab], vocab
    work = _work(given, head)
    return Head(given.to(work), head.detach()[:vocab].to(work), bias if bias is None else bias.detach()[:vocab].to(work)), vocab


def _check_topk(teacher: TopK, tokens: int, vocab: int) -> None:
    ids, logprobs, rest = teacher
    if ids.dim() != 2 or ids.shape != logprobs.shape or rest.shape != ids.shape[:1] or len(ids) != tokens:
        raise ValueError(f"{', '.join(_said(f'teacher_topk.{name}', x) for name, x in teacher._asdict().items())} do not match the {tokens} "
                         "items that are not ignored")
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool or (ids.numel() and not (0 <= int(ids.min()) and int(ids.max()) < vocab)):
        raise ValueError(f"{_said('teacher_topk.ids', ids)} must be words 0…{vocab - 1}")
    if (ids.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError(f"{_said('teacher_topk.ids', ids)} names a word twice in one row")


def _blame(teacher: Head | Tensor | TopK | None, student_is_sound: bool) -> None:
    """The loss is NaN: ValueError if the teacher brought it. A student's NaN is the training's own and is handed on."""
    for name, x in _parts(teacher).items():
        factor = name in ("teacher_hidden", "teacher_head")                    # elsewhere -inf excludes a word
        if (x.isnan() | (x.isinf() if factor else x == math.inf)).any():
            raise ValueError(f"{_said(name, x)} holds NaN or infinity")
    if student_is_sound and isinstance(teacher, Head):
        raise ValueError(f"{_said('teacher_hidden', teacher.hidden)} times {_said('teacher_head', teacher.weight)} overflows")
