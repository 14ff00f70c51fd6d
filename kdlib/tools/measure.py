"""The estimate of `memory` against real training steps, each in a fresh process.

    doctor.measure(student_config, teacher_config, batch_size=8, length=128)                  # GB
    doctor.comparison()                                                                       # eleven small configurations
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from .memory import estimate
from ..paths import ROOT


def measure(student, teacher=None, **settings) -> float:
    """GB: the peak of two real steps of `DistillationTrainer` in a fresh process, above what it held before the models were built.

    student, teacher: transformers configs, small ones; settings: as `estimate`'s. Weights and tokens are random, the first row is
    padded by one token (so masks are real), a cached teacher's top-32 answers are random. Two steps: the first has no optimiser
    states yet. On a CPU the resident memory is read, with an allocator that gives freed blocks back at once (glibc's); what a
    miniature of the same training takes before is not counted.
    """
    estimate(student, teacher, **settings)                                     # refuses here what cannot be trained there
    asked = {"student": student.to_dict(), "teacher": teacher and teacher.to_dict(), **settings}
    done = subprocess.run([sys.executable, "-m", "kdlib.tools.measure"], input=json.dumps(asked), capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    if done.returncode:
        raise OSError(f"the measuring process failed: {(done.stderr.strip().splitlines() or ['it was killed: out of memory?'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])["gb"]


def _measured(asked: dict) -> float:
    import gc

    import psutil
    from transformers import AutoConfig

    from ..engine.provenance import peak_memory_gb
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

    from .. import causal, models
    from ..losses import TopK
    from ..trainer import TEACHER_LOGITS, DistillationArguments, DistillationTrainer
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

    class Tokens(causal.Tokens):
        def answers(self, inputs, keep):
            n = int(keep.sum())
            if not cached_teacher:
                return super().answers(inputs, keep)
            return TopK(torch.arange(32).repeat(n, 1), torch.randn(n, 32), torch.randn(n))

        def wide_answers(self, inputs, keep):
            return super().wide_answers(inputs, keep) | {"chunk_tokens": chunk_tokens}

    with tempfile.TemporaryDirectory() as folder:
        args = DistillationArguments(
            folder, alpha=0.5 if teacher or cached_teacher else 0.0, per_device_train_batch_size=batch_size, max_steps=2, bf16=autocast,
            gradient_accumulation_steps=accumulation, gradient_checkpointing=checkpointing, save_strategy="no", logging_strategy="no",
            optim={"adamw": "adamw_torch_fused", "adamw8bit": "adamw_bnb_8bit", "sgd": "sgd"}[optimizer], disable_tqdm=True, use_cpu=True)
        asked = make(teacher, dtype=getattr(torch, teacher_dtype or dtype)) if teacher and not cached_teacher else None
        # a change, even one that changes nothing, keeps the trainer on dense logits: the plain way is what "no chunks" estimates
        change = (lambda answers, student: answers) if llama and not chunk_tokens else None
        trainer = DistillationTrainer(model, args, teacher=asked, change=change, train_dataset=datasets.Dataset.from_dict(columns),
                                      data_collator=default_data_collator)
        if llama:
            trainer.items = Tokens(trainer, [], (), change)
        trainer.train()


def configurations() -> dict[str, tuple]:
    """Small ones, {name: (student, teacher, settings)}: each lets another part decide."""
    from transformers import BertConfig, DistilBertConfig, LlamaConfig
    llama = lambda words, width, layers: LlamaConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0)
    bert = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_attention_heads=12)
    half = DistilBertConfig(dim=384, n_layers=3, n_heads=12, hidden_dim=1536)
    wide = llama(32_000, 128, 2), llama(32_000, 256, 4), dict(batch_size=8, length=128, learnt=64)
    return {"BERT to DistilBERT": (half, bert, dict(batch_size=16, length=128)),
            "BERT, cached teacher": (bert, bert, dict(batch_size=24, length=128, cached_teacher=True)),
            "Llama, long rows": (llama(8_000, 256, 8), None, dict(batch_size=8, length=256, learnt=16)),
            "Llama, wide layers": (llama(16_000, 512, 6), None, dict(batch_size=2, length=64)),
            "Llama, many words": wide,
            "… cached teacher": (*wide[:2], wide[2] | dict(cached_teacher=True)),
            "… chunked loss": (*wide[:2], wide[2] | dict(chunk_tokens=64)),
            "Llama, checkpointing": (llama(8_000, 256, 12), llama(8_000, 256, 4), dict(batch_size=8, length=256, learnt=64, checkpointing=True)),
            "Llama, LoRA": (llama(8_000, 384, 8), llama(8_000, 256, 4), dict(batch_size=8, length=128, learnt=32, lora_rank=16)),
            # wider than the others: with all savings little is left, and some 30 MB of kernels' work space would be a fifth of it
            "… and all of plan's savings": (llama(32_000, 768, 8), llama(32_000, 384, 6), dict(
                batch_size=16, length=256, learnt=100, lora_rank=16, cached_teacher=True, chunk_tokens=256, checkpointing=True)),
            "Llama, bf16 autocast": (llama(8_000, 256, 8), None, dict(batch_size=8, length=256, learnt=64, autocast=True))}


def comparison(names=None):
    """Estimate against measurement for `configurations` (all, or the named ones): a DataFrame, GB and the difference in per cent."""
    import pandas as pd
    rows = []
    for name, (student, teacher, settings) in configurations().items():
        if names is None or name in names:
            about, found = estimate(student, teacher, **settings), measure(student, teacher, **settings)
            rows.append({"configuration": name, **about._asdict(), "measured": round(found, 4), "off by %": round(100 * (about.total / found - 1), 1)})
            print(f"{name:28s} estimate {about.total:.3f} GB, measured {found:.3f}: {rows[-1]['off by %']:+.1f} %", flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    try:
        print(json.dumps({"gb": _measured(json.load(sys.stdin))}))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
