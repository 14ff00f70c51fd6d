"""What the loss costs at a wide vocabulary: ours beside the plain way, each in its own process.

Notebook 07 measures both while you watch; `tests/bench/wide_loss.py` adds other libraries and more
sizes.

Every way computes (1-alpha)·CE + alpha·T²·KL(teacher ‖ student), mean over the labels that count,
and its gradients. At a small size all numbers must agree before anything is timed. Memory is what a
call takes above inputs, weights and gradients. Seconds of the processor are counted beside seconds
of the clock: on a shared machine they leave the neighbours out.
"""

import json
import math
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F

from ..engine.wide_loss import chunk_size, linear_distillation_loss

TEMPERATURE = 2.0
ALPHA = 0.7
IGNORED = -100


class Inputs(NamedTuple):
    """Hidden states (tokens, width) and heads (vocab, width) of both models; labels (tokens,)."""

    student_hidden: torch.Tensor
    student_head: torch.Tensor
    teacher_hidden: torch.Tensor
    teacher_head: torch.Tensor
    labels: torch.Tensor


def ours(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    return linear_distillation_loss(
        student_hidden,
        student_head,
        teacher_hidden,
        teacher_head,
        labels,
        temperature=TEMPERATURE,
        alpha=ALPHA,
    ).total


def plain(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    """As one would write it: all logits of both models, then the loss."""
    is_valid = labels != IGNORED
    student_logits = student_hidden @ student_head.T
    teacher_logits = teacher_hidden @ teacher_head.T
    kd = kl_sum(student_logits[is_valid], teacher_logits[is_valid]) / is_valid.sum()
    ce = F.cross_entropy(student_logits, labels, ignore_index=IGNORED)
    return (1 - ALPHA) * ce + ALPHA * TEMPERATURE**2 * kd


def kl_sum(student_logits, teacher_logits):
    """Σ KL(teacher ‖ student) at T, in torch's own words."""
    return F.kl_div(
        F.log_softmax(student_logits / TEMPERATURE, -1),
        F.log_softmax(teacher_logits / TEMPERATURE, -1),
        log_target=True,
        reduction="sum",
    )


WAYS: dict[str, Callable] = {"plain": plain, "ours": ours}


def make_inputs(tokens: int, vocab: int, width: int, teacher_width: int) -> Inputs:
    """Random hidden states and heads, always the same; a quarter of the labels is ignored."""
    generator = torch.Generator().manual_seed(0)
    student_hidden = torch.randn(tokens, width, generator=generator)
    teacher_hidden = torch.randn(tokens, teacher_width, generator=generator)
    student_head = torch.randn(vocab, width, generator=generator).mul_(2 / width**0.5)
    teacher_head = torch.randn(vocab, teacher_width, generator=generator)
    teacher_head.mul_(2 / teacher_width**0.5)
    labels = torch.randint(vocab, (tokens,), generator=generator)
    labels[torch.randperm(tokens, generator=generator)[: tokens // 4]] = IGNORED
    return Inputs(
        student_hidden.requires_grad_(),
        student_head.requires_grad_(),
        teacher_hidden,
        teacher_head,
        labels,
    )


def timed(function: Callable) -> tuple[float, float]:
    """(seconds, seconds of the processor)."""
    start, start_cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - start_cpu


def turn(way: Callable, inputs: Inputs) -> tuple[tuple[float, float], float]:
    """(its time, forward and backward; the loss)."""
    inputs.student_hidden.grad = None
    inputs.student_head.grad = None
    losses = []

    def forward_and_backward():
        loss = way(*inputs)
        loss.backward()
        losses.append(loss.item())

    return timed(forward_and_backward), losses[0]


def products(inputs: Inputs) -> tuple[Callable, int]:
    """The four bare matrix products of our loss, chunk by chunk, and the chunk's tokens.

    They are the least that the loss can cost. Given `fresh=True`, the head's gradient comes in new
    memory each time, as autograd wants it.
    """
    student_hidden, student_head, teacher_hidden, teacher_head, labels = (
        x.detach() for x in inputs
    )
    tokens = int((labels != IGNORED).sum())
    vocab, width = student_head.shape
    chunk = chunk_size("auto", vocab, student_hidden.dtype, tokens)
    # As in our loss, all chunks share these buffers.
    student_logits = torch.zeros(chunk, vocab)
    teacher_logits = torch.zeros(chunk, vocab)
    to_hidden = torch.zeros(chunk, width)
    kept = torch.zeros_like(student_head)

    def run(fresh: bool = False):
        to_head = torch.empty_like(student_head) if fresh else kept
        for start in range(0, tokens, chunk):
            stop = min(start + chunk, tokens)
            size = stop - start
            hidden = student_hidden[start:stop]
            torch.mm(hidden, student_head.t(), out=student_logits[:size])
            torch.mm(teacher_hidden[start:stop], teacher_head.t(), out=teacher_logits[:size])
            # In the loss the derivative stands in the student's logits by now.
            torch.mm(student_logits[:size], student_head, out=to_hidden[:size])
            to_head.addmm_(student_logits[:size].t(), hidden, beta=float(start > 0))

    return run, chunk


def resident(key: str = "VmRSS") -> int:
    """Bytes of this process in memory now; "VmHWM": at most so far. Linux alone counts them."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(key))
    return int(line.split()[1]) * 1024


def distance_from_plain(way: Callable) -> float:
    """The largest difference of loss and gradients from the plain way, at a small size."""
    results = []
    for function in (plain, way):
        inputs = make_inputs(96, 500, 32, 48)
        loss = function(*inputs)
        loss.backward()
        results.append((loss.detach(), inputs.student_hidden.grad, inputs.student_head.grad))
    return max((a - b).abs().max().item() for a, b in zip(*results))


def measure(
    name: str, tokens: int, vocab: int, width: int, wider: int, turns: int, ways: dict = WAYS
) -> dict:
    """One way at one size: `extra` and `peak` (bytes), the best of `turns` (seconds), and numbers.

    The numbers, loss and head_norm, are for `check`. `products` and `fresh` are the seconds of our
    loss' bare matrix products, nan for other ways.
    """
    way = ways[name]
    row = {"name": name, "tokens": tokens, "vocab": vocab, "width": width, "wider": wider}
    row["apart"] = distance_from_plain(way)
    inputs = make_inputs(tokens, vocab, width, wider)
    # Memory is measured in the first turn: later ones find what it has left to the process.
    first, loss, memory = turn_with_memory(way, inputs)
    row |= memory
    times = {"seconds": [first], "products": [], "fresh": []}
    bare = None
    if name == "ours":
        bare, row["chunk"] = products(inputs)
    unknown = (math.nan, math.nan)
    # In turn, so that a busy neighbour slows the loss and its products alike.
    for i in range(turns):
        times["products"].append(timed(bare) if bare else unknown)
        times["fresh"].append(timed(partial(bare, fresh=True)) if bare else unknown)
        if i + 1 < turns:
            times["seconds"].append(turn(way, inputs)[0])
    for key, pairs in times.items():
        row[key], row[f"{key}_cpu"] = map(min, zip(*pairs))
    return row | {"loss": loss, "head_norm": inputs.student_head.grad.norm().item()}


def turn_with_memory(way: Callable, inputs: Inputs) -> tuple[tuple[float, float], float, dict]:
    """`turn`, and the bytes: `peak` of the process, `extra` above inputs, weights, gradients."""
    # Writing "5" here makes the peak of this process start anew.
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():  # Linux alone has it
        return *turn(way, inputs), {"extra": math.nan, "peak": math.nan}
    gradients = sum(x.numel() * x.element_size() for x in inputs[:2])
    reset.write_text("5")
    before = resident()
    time_taken, loss = turn(way, inputs)
    peak = resident("VmHWM")
    return time_taken, loss, {"extra": peak - before - gradients, "peak": peak}


def contest(
    name: str, tokens: int, vocab: int, width: int, wider: int, turns: int = 1
) -> dict | None:
    """`measure` in its own process with one thread; None, and a line that says why, if it fails."""
    module = [sys.executable, "-m", "kdlib.tools.vocab_cost"]
    return in_own_process(module, name, tokens, vocab, width, wider, turns)


def in_own_process(command: list[str], name: str, *numbers: int) -> dict | None:
    """What `command name numbers…` prints as JSON on its last line; None, and why, if it fails."""
    done = subprocess.run(
        [*command, name, *map(str, numbers)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message: killed?"])[-1]
        print(f"{name:14s} failed ({done.returncode}): {last_line[:150]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def check(row: dict, first: dict) -> None:
    """ValueError unless `row` agrees with plain at the small size, with `first` at the other."""
    same = all(math.isclose(row[key], first[key], rel_tol=1e-4) for key in ("loss", "head_norm"))
    if not (row["apart"] <= 1e-5 and same):
        raise ValueError(
            f"{row['name']} computes another number than plain: {row['apart']:.1e} apart at the "
            f"small size; loss {row['loss']:.6g} and head's gradient {row['head_norm']:.6g} where "
            f"{first['name']} finds {first['loss']:.6g} and {first['head_norm']:.6g}"
        )


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
