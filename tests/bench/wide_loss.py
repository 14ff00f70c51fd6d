"""The loss at 128,256 tokens: ours, plain ways, and other libraries' ways to the same number.

    python -m kdlib bench wide_loss    # ours and the plain ways; --quick: 256 tokens, one turn

In an environment of its own, other libraries take part:

    pip install trl==1.16.0 liger-kernel==0.8.5 torchdistill==1.1.5
    python -m kdlib bench wide_loss
    … --out data/results/bench_vocab_loss.json    # keeps the table, which notebook 07 draws

Best of three turns for everyone, each in a process of its own. "plain_kept" drops ignored tokens
before the heads: what that alone gains over "plain". "checkpointed" is "plain_kept" for 64 tokens
at a time, with torch's gradient checkpointing. "products" are the four bare matrix products at our
chunk, into arrays that exist already. "into a fresh gradient": the same, with the head's gradient
in new memory each time, as autograd wants it; getting a gigabyte from the system can take seconds
on a virtual machine.
"""

import importlib.metadata
import importlib.util
import json
import math
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from kdlib.course.results import commit, versions
from kdlib.engine.wide_loss import chunk_size
from kdlib.paths import ROOT, write_json
from kdlib.tools import vocab_cost
from kdlib.tools.vocab_cost import (
    ALPHA,
    IGNORED,
    TEMPERATURE,
    Inputs,
    kl_sum,
    make_inputs,
    plain,
    timed,
    turn,
    turn_with_memory,
)

TURNS = 3
PLAIN_WAYS = ("plain", "plain_kept", "checkpointed")
PEERS = {
    "trl": "trl",
    "trl_chunked": "trl",
    "liger": "liger_kernel",
    "torchdistill": "torchdistill",
}
MAIN_SIZE = (
    1024,
    128256,
    256,
    384,
)  # tokens, vocabulary, widths of student and teacher: all meet here
NARROWER = [(1024, vocab, 256, 384) for vocab in (8016, 32064, 64128)]
PLAIN_SIZES = [(n, *MAIN_SIZE[1:]) for n in (256, 512, 2048)] + NARROWER  # 4096 would take 16 GB
OUR_SIZES = [(n, *MAIN_SIZE[1:]) for n in (256, 512, 2048, 4096, 8192)] + NARROWER
OUR_SIZES.append((256, 128256, 2048, 3072))


def loss_sum(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    """The plain loss of items that all count, summed."""
    student_logits = student_hidden @ student_head.T
    kd = kl_sum(student_logits, teacher_hidden @ teacher_head.T)
    ce = F.cross_entropy(student_logits, labels, reduction="sum")
    return (1 - ALPHA) * ce + ALPHA * TEMPERATURE**2 * kd


def plain_kept(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    kept = labels != IGNORED
    total = loss_sum(
        student_hidden[kept], student_head, teacher_hidden[kept], teacher_head, labels[kept]
    )
    return total / kept.sum()


def checkpointed(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    kept = labels != IGNORED
    parts = zip(*(x[kept].split(64) for x in (student_hidden, teacher_hidden, labels)))
    total = sum(
        checkpoint(loss_sum, s, student_head, t, teacher_head, y, use_reentrant=False)
        for s, t, y in parts
    )
    return total / kept.sum()


def trl(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    student_logits = student_hidden @ student_head.T
    teacher_logits = teacher_hidden @ teacher_head.T
    kd = GKDTrainer.generalized_jsd_loss(
        student_logits[None],
        teacher_logits[None],
        labels=labels[None],
        beta=0,
        temperature=TEMPERATURE,
    )
    ce = F.cross_entropy(student_logits, labels, ignore_index=IGNORED)
    return (1 - ALPHA) * ce + ALPHA * TEMPERATURE**2 * kd


def trl_chunked(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    kept = labels != IGNORED
    student = (student_hidden[kept], student_head, None)
    teacher = (teacher_hidden[kept], teacher_head, None)
    kd, _ = ChunkedDivergenceFunction.apply(*student, *teacher, 0.0, TEMPERATURE)
    logprobs = ChunkedLogProbFunction.apply(*student, labels[kept], 1.0, 32768)[0]
    total = ALPHA * TEMPERATURE**2 * kd.sum() - (1 - ALPHA) * logprobs.sum()
    return total / kept.sum()


def liger(*inputs):
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=1 - ALPHA,
        weight_soft_loss=ALPHA * TEMPERATURE**2,
        beta=0.0,
        ignore_index=IGNORED,
        temperature=TEMPERATURE,
        compiled=False,
        chunk_size=64,
    )
    return loss(*inputs)


def torchdistill(student_hidden, student_head, teacher_hidden, teacher_head, labels):
    from torchdistill.losses.mid_level import KDLoss

    kept = labels != IGNORED
    loss = KDLoss(
        ".", "output", ".", "output",
        temperature=TEMPERATURE, alpha=1 - ALPHA, reduction="batchmean",
    )  # fmt: skip
    student_logits = (student_hidden @ student_head.T)[kept]
    teacher_logits = (teacher_hidden @ teacher_head.T)[kept]
    return loss({".": {"output": student_logits}}, {".": {"output": teacher_logits}}, labels[kept])


WAYS = vocab_cost.WAYS | {
    "plain_kept": plain_kept,
    "checkpointed": checkpointed,
    "trl": trl,
    "trl_chunked": trl_chunked,
    "liger": liger,
    "torchdistill": torchdistill,
}


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


def distance_from_plain(way: Callable) -> float:
    """The largest difference of loss and gradients from the plain way, at a small size."""
    results = []
    for function in (plain, way):
        inputs = make_inputs(96, 500, 32, 48)
        loss = function(*inputs)
        loss.backward()
        results.append((loss.detach(), inputs.student_hidden.grad, inputs.student_head.grad))
    return max((a - b).abs().max().item() for a, b in zip(*results))


def measure(name: str, tokens: int, vocab: int, width: int, wider: int, turns: int) -> dict:
    """One way at one size: `extra` and `peak` (bytes), the best of `turns` (seconds), and numbers.

    The numbers, loss and head_norm, are for `check`. `products` and `fresh` are the seconds of our
    loss' bare matrix products, nan for other ways.
    """
    way = WAYS[name]
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


def check(row: dict, first: dict) -> None:
    """ValueError unless `row` agrees with plain at the small size, with `first` at the other."""
    same = all(math.isclose(row[key], first[key], rel_tol=1e-4) for key in ("loss", "head_norm"))
    if not (row["apart"] <= 1e-5 and same):
        raise ValueError(
            f"{row['name']} computes another number than plain: {row['apart']:.1e} apart at the "
            f"small size; loss {row['loss']:.6g} and head's gradient {row['head_norm']:.6g} where "
            f"{first['name']} finds {first['loss']:.6g} and {first['head_norm']:.6g}"
        )


def contest(name: str, *size: int, turns: int = 1) -> dict | None:
    return vocab_cost.in_own_process([sys.executable, __file__], name, *size, turns)


def student_step(rows: int = 2, length: int = 192, learnt: int = 128) -> dict:
    """One step at Llama 3.2's real widths (3B → 1B) and vocabulary, two layers each: does it fit
    here?
    """
    from kdlib import causal, models

    torch.manual_seed(0)
    vocab = MAIN_SIZE[1]
    sizes = dict(layers=2, kv_heads=8, inner=8192, max_length=length)
    teacher = models.tiny_llama(vocab, width=3072, heads=24, **sizes).eval().requires_grad_(False)
    student = models.tiny_llama(vocab, width=2048, heads=32, **sizes)
    optimiser = torch.optim.AdamW(student.parameters())
    ids = torch.randint(vocab, (rows, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = ids.masked_fill(torch.arange(length) < length - learnt, IGNORED)
    keep, targets = causal.target_positions(labels)

    def step():
        answers = causal.wide_answers(teacher, batch, keep)
        loss = causal.wide_loss(
            student,
            batch,
            keep,
            targets,
            answers,
            temperature=TEMPERATURE,
            alpha=ALPHA,
            divergence="forward_kl",
        )
        loss.total.backward()
        optimiser.step()
        optimiser.zero_grad()

    seconds = [timed(step)[0] for _ in range(2)]  # the first makes the optimiser's states
    return {
        "seconds": seconds[-1],
        "peak": vocab_cost.resident("VmHWM"),
        "tokens": len(targets),
        "parameters": [models.size(model)["parameters"] for model in (teacher, student)],
    }


def print_row(row: dict, against: dict | None = None) -> None:
    def ratio(key):
        return f"{row[key] / against[key]:.2f} ×" if against else ""

    bare = ""
    if row["name"] == "ours":
        bare = (
            f"{row['seconds'] / row['products']:.2f} × products "
            f"({row['products']:.2f} s, chunk {row['chunk']}), "
            f"{row['seconds_cpu'] / row['products_cpu']:.2f} × in processor seconds, "
            f"{row['seconds'] / row['fresh']:.2f} × products into a fresh gradient"
        )
    print(
        f"{row['name']:14s} {row['tokens']:6d} {row['vocab']:8,d} "
        f"{row['width']:5d}/{row['wider']:<5d} {row['apart']:8.0e} {row['seconds']:8.2f} s "
        f"{ratio('seconds'):>8s} {row['seconds_cpu']:8.2f} s {row['extra'] / 1e9:8.3f} GB "
        f"{ratio('extra'):>8s} {row['peak'] / 1e9:7.2f} GB  {bare}",
        flush=True,
    )


def installed_peers() -> list[str]:
    return [name for name, package in PEERS.items() if importlib.util.find_spec(package)]


def main(quick: bool = False, out: str | Path = "") -> int:
    peers = installed_peers()
    if not peers:
        print("no other library is installed: they are left out (see tests/bench/wide_loss.py)")
    print(
        f"{'':14s} {'tokens':>6s} {'words':>8s} {'widths':>11s} {'apart':>8s} {'seconds':>10s} "
        f"{'to plain':>8s} {'processor':>10s} {'extra':>11s} {'to plain':>8s} {'peak':>10s}"
    )
    size, turns = ((256, *MAIN_SIZE[1:]), 1) if quick else (MAIN_SIZE, TURNS)
    contests = [(name, size) for name in (*PLAIN_WAYS, "ours", *peers)]
    others = [("plain", s) for s in PLAIN_SIZES] + [("ours", s) for s in OUR_SIZES]
    at_main_size, first_at, rows = {}, {}, []
    for name, size in contests if quick else contests + others:
        row = contest(name, *size, turns=turns)
        if not row:
            continue
        check(row, first_at.setdefault(size, row))
        rows.append(row)
        compared = (name, size) in contests and name != "plain"
        print_row(row, at_main_size.get("plain") if compared else None)
        at_main_size.setdefault(name, row)
    print_goals(at_main_size, peers)
    step = None if quick else vocab_cost.in_own_process([sys.executable, __file__], "student_step")
    if step:
        print(
            f"one step, 2 layers at Llama's widths, {step['tokens']} target tokens, AdamW, float32: "
            f"{step['seconds']:.1f} s, {step['peak'] / 1e9:.1f} GB"
        )
    if out:
        keep_table(Path(out), rows, step, turns)
    return 0


def print_goals(at_main_size: dict, peers: list[str]) -> None:
    others = [at_main_size[name] for name in peers if name in at_main_size]
    if others and "ours" in at_main_size:
        ours = at_main_size["ours"]
        fastest = min(other["seconds"] for other in others)
        leanest = min(other["extra"] for other in others)
        print(
            f"ours against the fastest peer: {ours['seconds'] / fastest:.2f} × its time (goal 0.65); "
            f"against the leanest: {ours['extra'] / leanest:.2f} × its extra memory (goal 0.12)"
        )


def keep_table(out: Path, rows: list[dict], step: dict | None, turns: int) -> None:
    # JSON knows no NaN
    rows = [{key: None if value != value else value for key, value in row.items()} for row in rows]
    peers = {package: importlib.metadata.version(package) for package in _peer_packages()}
    table = {
        "temperature": TEMPERATURE,
        "alpha": ALPHA,
        "threads": 1,
        "turns": turns,
        "machine": platform.machine(),
        "versions": versions() | peers,
        "commit": commit(),
        "rows": rows,
        "student_step": step,
    }
    write_json(out, table)
    print(f"table: {out}")


def _peer_packages() -> list[str]:
    return sorted({PEERS[name].replace("_", "-") for name in installed_peers()})


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    asked, *numbers = sys.argv[1:]
    print(
        json.dumps(
            student_step() if asked == "student_step" else measure(asked, *map(int, numbers))
        )
    )
