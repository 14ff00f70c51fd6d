"""What this machine can run: does it fit into memory, and what would stop the course?

    doctor.estimate("Llama-3.2-1B", "Llama-3.2-3B", batch_size=8, length=256, learnt=80)      # GB, part by part
    doctor.plan(gpus=["P100", "H100"])                                                    # which recipe fits where
    doctor.check()                                                                        # findings, each with what to do

As a command: `python -m kdlib doctor`, with `--plan` for the GPUs, `--measure` for estimate against measurement.
"""
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from .run import ROOT, guess, runs_root, writable


class Shape(NamedTuple):
    """What of a transformers config decides about memory; widths are those of all heads together."""

    family: str                  # llama, bert or distilbert
    vocabulary: int
    width: int
    layers: int
    inner: int                   # of the feed-forward layers
    heads: int
    queries: int                 # heads × size of one
    keys: int                    # key-value heads × size of one
    positions: int = 0           # rows of BERT's table of positions
    labels: int = 2
    tied: bool = True            # head and embeddings are one matrix
    dropout: bool = False        # on attention

    @property
    def parameters(self) -> int:
        """Their exact count: `tests/test_doctor.py` builds the models and compares."""
        w, i = self.width, self.inner
        if self.family == "llama":
            layer = 2 * w * self.queries + 2 * w * self.keys + 3 * w * i + 2 * w
            return self.vocabulary * w * (1 if self.tied else 2) + self.layers * layer + w
        table = (self.vocabulary + self.positions + (2 if self.family == "bert" else 0)) * w + 2 * w
        return table + self.layers * (4 * w * w + 2 * w * i + 9 * w + i) + w * w + w + (w + 1) * self.labels

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA in every layer's seven matrices (`models.with_lora`): rank × (in + out) each."""
        w, q, k, i = self.width, self.queries, self.keys, self.inner
        return self.layers * rank * (2 * (w + q) + 2 * (w + k) + 3 * (w + i))


MODELS = {"Llama-3.2-1B": Shape("llama", 128_256, 2048, 16, 8192, 32, 2048, 512),
          "Llama-3.2-3B": Shape("llama", 128_256, 3072, 28, 8192, 24, 3072, 1024),
          "bert-base-uncased": Shape("bert", 30_522, 768, 12, 3072, 12, 768, 768, 512, dropout=True),
          "distilbert-base-uncased": Shape("distilbert", 30_522, 768, 6, 3072, 12, 768, 768, 512, dropout=True)}


def shape(model) -> Shape:
    """Of a name in `MODELS` (owner/name too) or a transformers config. ValueError for a model that the formula does not know."""
    if isinstance(model, Shape):
        return model
    if isinstance(model, str):
        name = model.rpartition("/")[2].removesuffix("-Instruct")
        if name not in MODELS:
            raise ValueError(f"no memory estimate for {model!r}{guess(name, MODELS)}; known are {', '.join(MODELS)}, or pass a transformers config")
        return MODELS[name]
    c, family = model, getattr(model, "model_type", type(model).__name__)
    if family not in ("llama", "bert", "distilbert"):
        raise ValueError(f"no memory estimate for a {family!r}: its layers keep other tensors; llama, bert and distilbert are known")
    size = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    bert = family != "llama"
    return Shape(family, c.vocab_size, c.hidden_size, c.num_hidden_layers, c.hidden_dim if family == "distilbert" else c.intermediate_size,
                 c.num_attention_heads, c.num_attention_heads * size, (c.num_attention_heads if bert else c.num_key_value_heads) * size,
                 c.max_position_embeddings, c.num_labels, bool(c.tie_word_embeddings),
                 bert and getattr(c, "attention_dropout" if family == "distilbert" else "attention_probs_dropout_prob") > 0)


class Estimate(NamedTuple):
    """GB (10⁹ bytes). `total` is the largest moment of a step: gradients grow while activations go, so it is less than the sum."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    logits: float
    teacher: float
    total: float


# Bytes that autograd keeps of one token in one Llama layer: (× width, × queries, × inner). Read off transformers' modeling_llama.py
# (4.57): a norm keeps its input in float32, its output before and after the weight (frozen by LoRA: not the former);
# attention q, k, v (repeated to all heads where a mask is given) and its result; the feed-forward part gate, silu(gate), up, their
# product. In half precision the norm's input is float32; autocast leaves norms in float32 and casts once for each matrix; LoRA's
# adapters are float32 (peft) and cast the input of each matrix. LoRA's inner r values a token are too few to matter.
KEPT = {("float32", False): (24, 16, 16), ("float32", True): (16, 16, 16), ("half", False): (16, 8, 8), ("half", True): (28, 12, 10),
        ("autocast", False): (34, 8, 8), ("autocast", True): (18, 10, 8)}
# Matrices of (tokens, vocabulary) that are alive at once in `causal.token_loss`: (in the model's dtype, in float32). Counted on the
# function itself, see tests: CE alone; top-k answers of a cache; a live teacher, whose logits are such matrices too.
ALIVE = {"ce": (1, 2), "topk": (2, 5), "dense": (4, 8)}
STATE = {"adamw": 2.0, "adamw8bit": 0.0, "sgd": 0.0}              # × the weights' own bytes; 8-bit AdamW: see `estimate`


def estimate(student, teacher=None, *, batch_size: int, length: int, learnt: int | None = None, dtype: str = "float32",
             optimizer: str = "adamw", lora_rank: int = 0, checkpointing: bool = False, cached_teacher: bool = False,
             chunk_tokens: int = 0, teacher_dtype: str = "", autocast: bool = False, accumulation: int = 1) -> Estimate:
    """The memory of a training step of `DistillationTrainer`, in GB, part by part.

    student, teacher: names of `MODELS`, transformers configs, or None (CE alone). length: tokens a row; learnt: of these, the ones
    whose successor is learnt (all by default): logits exist for them alone. dtype: of weights, gradients and AdamW's two states;
    autocast: computes in 16 bits over float32 weights. optimizer: adamw (8 bytes a parameter in float32), adamw8bit (2, and two float32
    scales a block of 256: Dettmers et al. 2022, section 2.1), sgd (none). lora_rank: 0 trains all weights. chunk_tokens: the loss sees
    that many tokens at a time and computes their logits again in the backward pass. accumulation > 1 keeps gradients between batches.

    weights, gradients, optimiser: parameters × bytes (the 16 bytes a parameter of Rajbhandari et al. 2020, "ZeRO", section 3.1,
    are autocast's with float32 weights and AdamW). activations: `KEPT` × tokens × layers; with checkpointing one width a layer, and
    one layer whole (Chen et al. 2016). logits: `ALIVE` × learnt tokens × vocabulary. total: the largest of these moments

        the loss        weights + optimiser + teacher + activations + max(logits, the teacher's own passing through)
        the head        the same with the gradient of logits and head in place of the loss
        the last layer  weights + optimiser + teacher + gradients (+ the embeddings' again, where tied to the head)

    Left out: the CUDA context (0.3–0.6 GB), fragmentation, kernels' work space, the evaluation. BERT is counted as PyTorch
    keeps it on a CPU (attention matrices where attention has dropout, masks as numbers): a GPU needs less.
    ValueError for an unknown model, dtype or optimizer, and for sizes below 1.
    """
    s, n_bytes = shape(student), {"float32": 4, "float16": 2, "bfloat16": 2}
    for name, value, known in (("dtype", dtype, n_bytes), ("teacher_dtype", teacher_dtype or dtype, n_bytes), ("optimizer", optimizer, STATE)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{guess(str(value), known)}")
    llama, learnt = s.family == "llama", length if learnt is None else learnt
    if min(batch_size, length, accumulation) < 1 or not 0 <= learnt <= length or min(lora_rank, chunk_tokens) < 0:
        raise ValueError(f"batch_size {batch_size}, length {length} and accumulation {accumulation} must be 1 or more, learnt {learnt} at most the length")
    if (lora_rank or chunk_tokens) and not llama:
        raise ValueError("LoRA and a chunked loss are the language model's here: lora_rank and chunk_tokens must be 0")
    t = None if teacher is None else shape(teacher)
    mode = "autocast" if autocast and dtype == "float32" else "float32" if dtype == "float32" else "half"
    size, tokens, learnt = n_bytes[dtype], batch_size * length, batch_size * (learnt if llama else 1)
    compute = 4 if mode == "float32" else 2
    # -- what stays over the step
    trained, wide = (s.adapters(lora_rank), 4) if lora_rank else (s.parameters, size)
    weights = s.parameters * size + (trained * wide if lora_rank else 0)
    weights += 2 * (s.parameters - (0 if s.tied else s.vocabulary * s.width)) if mode == "autocast" else 0          # 16-bit copies
    gradients = trained * wide
    state = trained * (2 + 8 / 256) if optimizer == "adamw8bit" else gradients * STATE[optimizer]
    theirs = n_bytes[teacher_dtype or dtype]
    kept = 0 if t is None or cached_teacher else t.parameters * theirs
    passing = 0 if t is None or cached_teacher else tokens * theirs * (3 * t.width + 3 * t.inner)
    # -- what comes and goes
    layer = _layer(s, mode, bool(lora_rank)) * tokens + (0 if llama else _attention(s, batch_size, length) * compute)
    ends = tokens * s.width * (12 if llama else 20) + learnt * s.width * compute
    activations = ends + (tokens * s.width * s.layers * compute + layer if checkpointing else layer * s.layers)
    now = min(chunk_tokens or learnt, learnt)
    native, float32 = ALIVE["ce" if t is None else "topk" if cached_teacher else "dense"]
    one = now * (s.vocabulary if llama else s.labels)
    logits = one * (native * compute + float32 * 4) + (3 * learnt * s.width * compute if chunk_tokens else 0)
    head = s.vocabulary * s.width * wide if llama and not lora_rank else 0
    # -- the largest moment
    always = weights + state + kept + (gradients if accumulation > 1 else 0)
    alive = activations - (layer if checkpointing else 0)                        # one layer is whole only on the way back
    total = always + max(alive + max(logits, passing + one * compute), alive + 2 * one * 4 + head,
                         activations + head, (0 if accumulation > 1 else gradients) + (head if s.tied else 0))
    return Estimate(*(round(part / 1e9, 4) for part in (weights, gradients, state, activations, logits, kept, total)))


def _layer(s: Shape, mode: str, lora: bool) -> float:
    """Bytes kept of one token in one layer. BERT: LayerNorms' inputs and outputs, q, k, v, their result, two masks of dropout, gelu."""
    if s.family == "llama":
        w, q, i = KEPT[mode, lora]
        return w * s.width + q * s.queries + i * s.inner
    return (10 * s.width + 2 * s.inner) * (4 if mode == "float32" else 2)


def _attention(s: Shape, batch_size: int, length: int) -> int:
    """Numbers in the attention matrices that BERT keeps: softmax, dropout's mask, their product; none without dropout (fused)."""
    return 3 * s.heads * batch_size * length ** 2 if s.dropout else 0


# -- measure ---------------------------------------------------------------------------------------------------------

def measure(student, teacher=None, **settings) -> float:
    """GB: the peak of two real steps of `DistillationTrainer` in a fresh process, above what it held before the models were built.

    student, teacher: transformers configs, small ones; settings: as `estimate`'s. Weights and tokens are random, the first row is
    padded by one token (so masks are real), a cached teacher's top-32 answers are random. Two steps: the first has no optimiser
    states yet. On a CPU the resident memory is read, with an allocator that gives freed blocks back at once (glibc's); what a
    miniature of the same training takes before is not counted.
    """
    estimate(student, teacher, **settings)                                     # refuses here what cannot be trained there
    asked = {"student": student.to_dict(), "teacher": teacher and teacher.to_dict(), **settings}
    done = subprocess.run([sys.executable, "-m", "kdlib.doctor"], input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(__file__).parent.parent)})
    if done.returncode:
        raise OSError(f"the measuring process failed: {(done.stderr.strip().splitlines() or ['it was killed: out of memory?'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])["gb"]


def _measured(asked: dict) -> float:
    import gc

    import psutil
    from transformers import AutoConfig

    from .results import peak_memory_gb
    configs = [asked.pop(who) for who in ("student", "teacher")]
    configs = [config and AutoConfig.for_model(**config) for config in configs]
    miniature = [config and AutoConfig.for_model(**{**config.to_dict(), **SMALL[config.model_type]}) for config in configs]
    _steps(*miniature, **{**asked, "batch_size": 2, "length": 8, "learnt": min(asked.get("learnt") or 4, 4)})
    gc.collect()
    before = psutil.Process().memory_info().rss / 1e9
    _steps(*configs, **asked)
    return peak_memory_gb() - before


_bert = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=64)
SMALL = {"bert": _bert, "llama": {**_bert, "num_key_value_heads": 2, "head_dim": 8},
         "distilbert": dict(dim=16, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=64)}


def _steps(student, teacher, *, batch_size, length, learnt=None, dtype="float32", optimizer="adamw", lora_rank=0, checkpointing=False,
           cached_teacher=False, chunk_tokens=0, teacher_dtype="", autocast=False, accumulation=1):
    """Two steps as a notebook makes them."""
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, default_data_collator

    from . import causal, models
    from .losses import TopK
    from .trainer import TEACHER_LOGITS, DistillationArguments, DistillationTrainer
    llama, rows = student.model_type == "llama", 2 * batch_size * accumulation
    learnt = length if learnt is None else learnt
    torch.manual_seed(0)
    make = AutoModelForCausalLM.from_config if llama else AutoModelForSequenceClassification.from_config
    model = make(student, dtype=getattr(torch, dtype))
    model = models.with_lora(model, lora_rank) if lora_rank else model
    ids = torch.randint(student.vocab_size, (rows, length))
    mask, labels = torch.ones_like(ids), torch.where(torch.arange(length) < length - learnt, -100, ids) if llama else ids[:, 0] % 2
    mask[::batch_size, -1] = 0
    columns = {"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "labels": labels.tolist()}
    if cached_teacher:
        columns |= {causal.TEACHER_PLACE: list(range(rows))} if llama else {TEACHER_LOGITS: torch.randn(rows, student.num_labels).tolist()}

    class Step(DistillationTrainer):
        def _token_answers(self, inputs, keep):
            n = int(keep.sum())
            if not cached_teacher:
                return super()._token_answers(inputs, keep)
            return TopK(torch.randint(student.vocab_size, (n, 32)), torch.randn(n, 32), torch.randn(n))

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return _chunked_loss(self, model, inputs, num_items_in_batch, chunk_tokens) if chunk_tokens else super().compute_loss(
                model, inputs, return_outputs, num_items_in_batch)

    with tempfile.TemporaryDirectory() as folder:
        args = DistillationArguments(
            folder, alpha=0.5 if teacher or cached_teacher else 0.0, per_device_train_batch_size=batch_size, max_steps=2, bf16=autocast,
            gradient_accumulation_steps=accumulation, gradient_checkpointing=checkpointing, save_strategy="no", logging_strategy="no",
            optim={"adamw": "adamw_torch_fused", "adamw8bit": "adamw_bnb_8bit", "sgd": "sgd"}[optimizer], disable_tqdm=True, use_cpu=True)
        asked = make(teacher, dtype=getattr(torch, teacher_dtype or dtype)) if teacher and not cached_teacher else None
        Step(model, args, teacher=asked, train_dataset=datasets.Dataset.from_dict(columns), data_collator=default_data_collator).train()


def _chunked_loss(trainer, model, inputs, count, chunk: int):
    """`causal.token_loss` of a live teacher or of CE alone, `chunk` tokens at a time; their logits are computed again on the way back."""
    import torch
    from torch.utils.checkpoint import checkpoint

    from . import causal
    keep, targets = causal.target_positions(inputs["labels"])
    read = {k: inputs[k] for k in causal.READ if k in inputs}
    hidden = lambda m: getattr(m, "base_model", m)(**read, use_cache=False)[0][keep]
    with torch.no_grad():
        theirs = hidden(trainer.teacher) if trainer.teacher is not None else None

    def part(h, t, target):
        with torch.no_grad():
            t = None if t is None else trainer.teacher.get_output_embeddings()(t)
        return causal.token_loss(model.get_output_embeddings()(h), t, target, num_items=count, **trainer._settings()).total

    parts = zip(hidden(model).split(chunk), [None] * len(targets) if theirs is None else theirs.split(chunk), targets.split(chunk))
    return sum(checkpoint(part, *one, use_reentrant=False) for one in parts)


if __name__ == "__main__":
    try:
        print(json.dumps({"gb": _measured(json.load(sys.stdin))}))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
