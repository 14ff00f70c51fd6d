"""What the loss costs at a wide vocabulary: ours beside the plain way, each in its own process.

Notebook 07 measures both while you watch; `tests/bench/wide_loss.py` adds other libraries, more
sizes and turns, and checks that all compute the same numbers.

Every way computes (1-alpha)·CE + alpha·T²·KL(teacher ‖ student), mean over the labels that count,
and its gradients. Memory is what a call takes above inputs, weights and gradients. Seconds of the
processor are counted beside seconds of the clock: on a shared machine they leave the neighbours
out.
"""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F

from ..engine.wide_loss import linear_distillation_loss
from ..losses import IGNORED

TEMPERATURE = 2.0
ALPHA = 0.7


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


def resident(key: str = "VmRSS") -> int:
    """Bytes of this process in memory now; "VmHWM": at most so far. Linux alone counts them."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(key))
    return int(line.split()[1]) * 1024


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


def measure(name: str, tokens: int, vocab: int, width: int, wider: int) -> dict:
    """One way at one size, in one turn: `extra` and `peak` (bytes), seconds, and the loss."""
    inputs = make_inputs(tokens, vocab, width, wider)
    (seconds, seconds_cpu), loss, memory = turn_with_memory(WAYS[name], inputs)
    row = {"name": name, "tokens": tokens, "vocab": vocab, "width": width, "wider": wider}
    return row | memory | {"seconds": seconds, "seconds_cpu": seconds_cpu, "loss": loss}


def contest(name: str, tokens: int, vocab: int, width: int, wider: int) -> dict | None:
    """`measure` in its own process with one thread; None, and a line that says why, if it fails."""
    module = [sys.executable, "-m", "kdlib.tools.vocab_cost"]
    return in_own_process(module, name, tokens, vocab, width, wider)


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


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:]))))
