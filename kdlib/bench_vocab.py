"""The loss at 128,256 words: ours, the plain way, and other libraries' ways to the same number, each in a process of its own.

    python -m kdlib bench vocab_loss                                      # ours and the plain ways; --quick: 256 tokens, one turn
    pip install --no-deps --target FOLDER trl==1.16.0 liger-kernel==0.8.5 torchdistill==1.1.5
    PEERS_DIR=FOLDER python -m kdlib bench vocab_loss                     # and these
    … --out data/results/bench_vocab_loss.json                            # keeps the table, which notebook 07 draws

Everyone computes (1-alpha)·CE + alpha·T²·KL(teacher ‖ student), mean over the labels that count, and its gradients, at a small
size first, where all numbers must agree; at the size that is measured, where we work in several chunks, loss and norm of the head's
gradient must. Best of three turns for everyone. "plain_kept" drops ignored tokens before the heads: what that alone gains over "plain".
"checkpointed" is "plain_kept" for 64 tokens at a time, with torch's gradient checkpointing. Memory is what the call takes above inputs,
weights and gradients. "products" are the four bare matrix products at our chunk, into arrays that exist already: the least that the
loss can cost. "into a fresh gradient": the same, with the head's gradient in new memory each time, as autograd wants it; getting a
gigabyte from the system takes up to seconds on a virtual machine, and no time on one that has it at hand. Seconds of the processor are
counted too, which on a machine of one's own are the same, and on a shared one leave the neighbours out.
"""
import ast
import contextlib
import importlib
import importlib.machinery
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from .results import commit, versions
from .paths import write_json
from .engine.wide_loss import chunk_size, linear_distillation_loss

T, ALPHA, IGNORED = 2.0, 0.7, -100
TURNS = 3
PLAIN_WAYS = ("plain", "plain_kept", "checkpointed")
PEERS = ("trl", "trl_chunked", "liger", "torchdistill")
SIZES = (1024, 128256, 256, 384)                                # tokens, words, widths of student and teacher: where all meet
OURS = [(n, *SIZES[1:]) for n in (256, 512, 2048, 4096, 8192)] + [(1024, v, 256, 384) for v in (8016, 32064, 64128)] + [(256, 128256, 2048, 3072)]
PLAIN = [(n, *SIZES[1:]) for n in (256, 512, 2048)] + [(1024, v, 256, 384) for v in (8016, 32064, 64128)]   # 4096 would take 16 GB


# -- ways to the same number: student's hidden states and head, teacher's, labels -------------------------------------

def ours(hs, ws, ht, wt, y):
    return linear_distillation_loss(hs, ws, ht, wt, y, temperature=T, alpha=ALPHA).total


def plain(hs, ws, ht, wt, y):
    keep = y != IGNORED
    s, t = hs @ ws.T, ht @ wt.T
    kd = F.kl_div(F.log_softmax(s[keep] / T, -1), F.log_softmax(t[keep] / T, -1), log_target=True, reduction="sum") / keep.sum()
    return (1 - ALPHA) * F.cross_entropy(s, y, ignore_index=IGNORED) + ALPHA * T**2 * kd


def plain_kept(hs, ws, ht, wt, y):
    keep = y != IGNORED
    return _summed(hs[keep], ws, ht[keep], wt, y[keep]) / keep.sum()


def checkpointed(hs, ws, ht, wt, y):
    keep = y != IGNORED
    parts = zip(*(x[keep].split(64) for x in (hs, ht, y)))
    return sum(checkpoint(_summed, h, ws, g, wt, some, use_reentrant=False) for h, g, some in parts) / keep.sum()


def _summed(hs, ws, ht, wt, y):
    s, t = hs @ ws.T, ht @ wt.T
    kd = F.kl_div(F.log_softmax(s / T, -1), F.log_softmax(t / T, -1), log_target=True, reduction="sum")
    return (1 - ALPHA) * F.cross_entropy(s, y, reduction="sum") + ALPHA * T**2 * kd


def trl(hs, ws, ht, wt, y):
    s = hs @ ws.T
    kd = _trl_divergence()(s[None], (ht @ wt.T)[None], labels=y[None], beta=0, temperature=T)
    return (1 - ALPHA) * F.cross_entropy(s, y, ignore_index=IGNORED) + ALPHA * T**2 * kd


def trl_chunked(hs, ws, ht, wt, y):
    divergence, logprob = _module("trl.kernels.chunked_divergence"), _module("trl.kernels.chunked_logprob")
    keep = y != IGNORED
    kd, _ = divergence.ChunkedDivergenceFunction.apply(hs[keep], ws, None, ht[keep], wt, None, 0.0, T)
    logp = logprob.ChunkedLogProbFunction.apply(hs[keep], ws, None, y[keep], 1.0, 32768)[0]
    return (ALPHA * T**2 * kd.sum() - (1 - ALPHA) * logp.sum()) / keep.sum()


def liger(hs, ws, ht, wt, y):
    kind = _module("liger_kernel.chunked_loss.jsd_loss").LigerFusedLinearJSDLoss
    return kind(weight_hard_loss=1 - ALPHA, weight_soft_loss=ALPHA * T**2, beta=0.0, ignore_index=IGNORED, temperature=T, compiled=False, chunk_size=64)(hs, ws, ht, wt, y)


def torchdistill(hs, ws, ht, wt, y):
    keep, wrap = y != IGNORED, lambda x: {".": {"output": x}}
    loss = _module("torchdistill.losses.mid_level").KDLoss(".", "output", ".", "output", temperature=T, alpha=1 - ALPHA, reduction="batchmean")
    return loss(wrap((hs @ ws.T)[keep]), wrap((ht @ wt.T)[keep]), y[keep])


def _module(name: str):
    """A peer's module without its package's __init__, which would import what nobody needs here."""
    folder = Path(os.environ["PEERS_DIR"])
    for package in ("trl", "trl.kernels", "trl.trainer", "liger_kernel", "liger_kernel.chunked_loss", "torchdistill", "torchdistill.losses", "torchdistill.common"):
        if package not in sys.modules:
            bare = sys.modules[package] = types.ModuleType(package)
            bare.__path__, bare.__spec__ = [str(folder.joinpath(*package.split(".")))], importlib.machinery.ModuleSpec(package, None, is_package=True)
    if "trl.trainer.utils" not in sys.modules:
        utils = sys.modules["trl.trainer.utils"] = types.ModuleType("trl.trainer.utils")
        utils.maybe_gather_lm_head_ctx = lambda *given: contextlib.nullcontext()
    return importlib.import_module(name)


def _trl_divergence():
    """TRL's dense loss is a static method of a trainer that needs all of TRL: this one function, from its source."""
    source = (Path(os.environ["PEERS_DIR"]) / "trl/experimental/gkd/gkd_trainer.py").read_text()
    trainer = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "GKDTrainer")
    function = next(n for n in trainer.body if isinstance(n, ast.FunctionDef) and n.name == "generalized_jsd_loss")
    function.decorator_list, names = [], {"torch": torch, "F": F}
    exec(compile(ast.Module([function], []), "gkd_trainer.py", "exec"), names)
    return names["generalized_jsd_loss"]


# -- one contestant, in its own process -------------------------------------------------------------------------------

def inputs(tokens: int, vocab: int, width: int, wider: int) -> tuple:
    """Hidden states and heads of both, labels of which a quarter is ignored."""
    draw = torch.Generator().manual_seed(0)
    random = lambda *size: torch.randn(*size, generator=draw)
    hs, ht = random(tokens, width), random(tokens, wider)
    ws, wt = random(vocab, width).mul_(2 / width**0.5), random(vocab, wider).mul_(2 / wider**0.5)
    y = torch.randint(vocab, (tokens,), generator=draw)
    y[torch.randperm(tokens, generator=draw)[:tokens // 4]] = IGNORED
    return hs.requires_grad_(), ws.requires_grad_(), ht, wt, y


def timed(function) -> tuple[float, float]:
    """(seconds, seconds of the processor)."""
    start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def turn(way, given: tuple) -> tuple[tuple[float, float], float]:
    """(its time, the loss)."""
    for x in given[:2]:
        x.grad = None
    losses = []
    return timed(lambda: losses.append(way(*given)) or losses[0].backward()), losses[0].item()


def products(given: tuple):
    """(the four products of our loss, chunk by chunk, as a function of `fresh`, a chunk's tokens)."""
    hs, ws, ht, wt, y = (x.detach() for x in given)
    tokens, vocab = int((y != IGNORED).sum()), len(ws)
    chunk = chunk_size("auto", vocab, hs.dtype, tokens)
    s, t, to_hidden, kept = torch.zeros(chunk, vocab), torch.zeros(chunk, vocab), torch.zeros(chunk, ws.shape[1]), torch.zeros_like(ws)

    def run(fresh: bool = False):
        to_head = torch.empty_like(ws) if fresh else kept
        for start in range(0, tokens, chunk):
            h, g = hs[start:min(start + chunk, tokens)], ht[start:min(start + chunk, tokens)]
            n = len(h)
            torch.mm(h, ws.t(), out=s[:n]), torch.mm(g, wt.t(), out=t[:n])
            torch.mm(s[:n], ws, out=to_hidden[:n])
            to_head.addmm_(s[:n].t(), h, beta=float(start > 0))
    return run, chunk


def resident(key: str = "VmRSS") -> int:
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))


def measure(name: str, tokens: int, vocab: int, width: int, wider: int, turns: int) -> dict:
    way = globals()[name]
    small = [inputs(96, 500, 32, 48) for _ in range(2)]
    losses = [f(*given) for f, given in zip((plain, way), small)]
    for loss in losses:
        loss.backward()
    apart = max((a - b).abs().max().item() for a, b in ((losses[0].detach(), losses[1].detach()), *((small[0][i].grad, small[1][i].grad) for i in (0, 1))))
    given = inputs(tokens, vocab, width, wider)
    found = {"name": name, "tokens": tokens, "vocab": vocab, "width": width, "wider": wider, "apart": apart}
    if Path("/proc/self/clear_refs").exists():                  # Linux: the peak starts anew here
        Path("/proc/self/clear_refs").write_text("5")
        before = resident()
        first, loss = turn(way, given)
        found |= {"extra": resident("VmHWM") - before - sum(x.numel() * 4 for x in given[:2]), "peak": resident("VmHWM")}
    else:
        (first, loss), found = turn(way, given), found | {"extra": math.nan, "peak": math.nan}
    seconds, bare, anew, run = [first], [], [], None
    if name == "ours":
        run, found["chunk"] = products(given)
    for i in range(turns):                                      # in turn: a busy neighbour slows both
        bare.append(timed(run) if run else (math.nan, math.nan))
        anew.append(timed(lambda: run(fresh=True)) if run else (math.nan, math.nan))
        if i + 1 < turns:
            seconds.append(turn(way, given)[0])
    for key, times in (("seconds", seconds), ("products", bare), ("fresh", anew)):
        found[key], found[f"{key}_cpu"] = map(min, zip(*times))
    return found | {"loss": loss, "head_norm": given[1].grad.norm().item()}


def student_step(rows: int = 2, length: int = 192, learnt: int = 128) -> dict:
    """One step of training at Llama 3.2's real widths (3B → 1B: 3072 → 2048) and vocabulary, with two layers each: does it fit here?"""
    from . import causal, models
    torch.manual_seed(0)
    sizes = dict(layers=2, kv_heads=8, inner=8192, max_length=length)
    teacher = models.tiny_llama(SIZES[1], width=3072, heads=24, **sizes).eval().requires_grad_(False)
    student = models.tiny_llama(SIZES[1], width=2048, heads=32, **sizes)
    optimiser, ids = torch.optim.AdamW(student.parameters()), torch.randint(SIZES[1], (rows, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    keep, targets = causal.target_positions(ids.masked_fill(torch.arange(length) < length - learnt, IGNORED))

    def step():
        answers = causal.wide_answers(teacher, batch, keep)
        causal.wide_loss(student, batch, keep, targets, answers, temperature=T, alpha=ALPHA, divergence="forward_kl").total.backward()
        optimiser.step()
        optimiser.zero_grad()
    seconds = [timed(step)[0] for _ in range(2)]                # the first one makes the optimiser's states
    return {"seconds": seconds[-1], "peak": resident("VmHWM"), "tokens": len(targets), "parameters": [models.size(m)["parameters"] for m in (teacher, student)]}


# -- all of them ------------------------------------------------------------------------------------------------------

def check(one: dict, first: dict) -> None:
    """ValueError unless it computed what plain does at the small size, and what `first` did at the size that was measured."""
    if not (one["apart"] <= 1e-5 and all(math.isclose(one[key], first[key], rel_tol=1e-4) for key in ("loss", "head_norm"))):
        raise ValueError(f"{one['name']} computes another number than plain: {one['apart']:.1e} apart at the small size; loss {one['loss']:.6g} and "
                         f"head's gradient {one['head_norm']:.6g} where {first['name']} finds {first['loss']:.6g} and {first['head_norm']:.6g}")


def contest(name: str, tokens: int, vocab: int, width: int, wider: int, turns: int = 1) -> dict | None:
    """`measure` in a process of its own, one thread; None, and a line that says why, if it fails."""
    return child(name, tokens, vocab, width, wider, turns)


def child(name: str, *numbers: int) -> dict | None:
    command = [sys.executable, "-m", "kdlib.bench_vocab", name, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        print(f"{name:14s} failed ({done.returncode}): {(done.stderr.strip().splitlines() or ['no message: killed?'])[-1][:150]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def line(one: dict, against: dict | None = None) -> None:
    ratio = lambda key: f"{one[key] / against[key]:.2f} ×" if against else ""
    bare = (f"{one['seconds'] / one['products']:.2f} × products ({one['products']:.2f} s, chunk {one['chunk']}), "
            f"{one['seconds_cpu'] / one['products_cpu']:.2f} × in processor seconds, {one['seconds'] / one['fresh']:.2f} × products into a fresh gradient") if one["name"] == "ours" else ""
    print(f"{one['name']:14s} {one['tokens']:6d} {one['vocab']:8,d} {one['width']:5d}/{one['wider']:<5d} {one['apart']:8.0e} {one['seconds']:8.2f} s {ratio('seconds'):>8s} {one['seconds_cpu']:8.2f} s"
          f" {one['extra'] / 1e9:8.3f} GB {ratio('extra'):>8s} {one['peak'] / 1e9:7.2f} GB  {bare}", flush=True)


def main(quick: bool = False, out: str | Path = "") -> int:
    peers = PEERS if os.environ.get("PEERS_DIR") else ()
    if not peers:
        print("PEERS_DIR is not set: other libraries are left out (see kdlib/bench_vocab.py)")
    print(f"{'':14s} {'tokens':>6s} {'words':>8s} {'widths':>11s} {'apart':>8s} {'seconds':>10s} {'to plain':>8s} {'processor':>10s} {'extra':>11s} {'to plain':>8s} {'peak':>10s}")
    found, rows, first = {}, [], {}
    size, turns = ((256, *SIZES[1:]), 1) if quick else (SIZES, TURNS)
    contests = [(name, size) for name in (*PLAIN_WAYS, "ours", *peers)]
    for name, size in contests if quick else [*contests, *(("plain", size) for size in PLAIN), *(("ours", size) for size in OURS)]:
        one = contest(name, *size, turns=turns)
        if one:
            check(one, first.setdefault(size, one))
            rows.append(one)
            line(one, found.get("plain") if (name, size) in contests and name != "plain" else None)
            found.setdefault(name, one)
    others = [found[name] for name in peers if name in found]
    if others and "ours" in found:
        print(f"ours against the fastest peer: {found['ours']['seconds'] / min(o['seconds'] for o in others):.2f} × its time (goal 0.65); "
              f"against the leanest: {found['ours']['extra'] / min(o['extra'] for o in others):.2f} × its extra memory (goal 0.12)")
    real = None if quick else child("student_step")
    if real:
        print(f"one step, 2 layers at Llama's widths ({real['parameters'][0] / 1e6:.0f} M → {real['parameters'][1] / 1e6:.0f} M parameters, {real['tokens']} target tokens, AdamW, float32): "
              f"{real['seconds']:.1f} s, {real['peak'] / 1e9:.1f} GB")
    if out:
        rows = [{key: None if value != value else value for key, value in row.items()} for row in rows]      # JSON knows no NaN
        write_json(Path(out), {"temperature": T, "alpha": ALPHA, "threads": 1, "turns": turns, "machine": platform.machine(), "versions": versions() | peer_versions(),
                               "commit": commit(), "rows": rows, "student_step": real})
        print(f"table: {out}")
    return 0


def peer_versions() -> dict[str, str]:
    folder = os.environ.get("PEERS_DIR")
    return {one.metadata["Name"]: one.version for one in importlib.metadata.distributions(path=[folder])} if folder else {}


if __name__ == "__main__":
    print(json.dumps(student_step() if sys.argv[1] == "student_step" else measure(sys.argv[1], *map(int, sys.argv[2:]))))
