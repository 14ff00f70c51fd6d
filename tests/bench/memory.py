"""The estimate of `kdlib.tools.memory` against real training steps, each in a fresh process.

python -m kdlib doctor --measure                        # eleven small configurations: minutes

memory.measure(student_config, teacher_config, batch_size=8, length=128)        # GB
memory.comparison(["Llama, LoRA"])                                              # a DataFrame
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from kdlib.paths import ROOT
from kdlib.tools.memory import estimate

_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 64,
}
# What makes a miniature of a configuration: a training of it loads what any training loads.
MINIATURE = {
    "bert": _BERT,
    "llama": {**_BERT, "num_key_value_heads": 2, "head_dim": 8},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 64},
}
OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw8bit": "adamw_bnb_8bit", "sgd": "sgd"}
TOPK = 32  # stored answers of a cached teacher


def measure(student, teacher=None, **settings) -> float:
    """GB: the peak of two real steps of `DistillationTrainer` in a fresh process, above what it held
    before the models were built.

    student, teacher: transformers configs, small ones; settings: as `estimate`'s. Weights and
    tokens are random, the first row is padded by one token (so masks are real), a cached teacher's
    top-32 answers are random. Two steps: the first has no optimiser states yet. On a CPU the
    resident memory is read, with an allocator that gives freed blocks back at once (glibc's); what
    a miniature of the same training takes before is not counted. OSError when that process fails.
    """
    estimate(student, teacher, **settings)  # refuses here what cannot be trained there
    asked = {"student": student.to_dict(), "teacher": teacher and teacher.to_dict(), **settings}
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        },
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it was killed: out of memory?"]
        raise OSError(f"the measuring process failed: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])["gb"]


def _measured(asked: dict) -> float:
    """`measure` in this process."""
    import gc

    import psutil
    from transformers import AutoConfig

    from kdlib.engine.provenance import peak_memory_gb

    configs, miniatures = [], []
    for config in (asked.pop("student"), asked.pop("teacher")):
        full = config and AutoConfig.for_model(**config)
        small = config and AutoConfig.for_model(**{**full.to_dict(), **MINIATURE[full.model_type]})
        configs.append(full)
        miniatures.append(small)
    learnt = min(asked.get("learnt") or 4, 4)
    _steps(*miniatures, **{**asked, "batch_size": 2, "length": 8, "learnt": learnt})
    gc.collect()
    before = psutil.Process().memory_info().rss / 1e9
    _steps(*configs, **asked)
    return peak_memory_gb() - before


def _steps(
    student,
    teacher,
    *,
    batch_size,
    length,
    learnt=None,
    dtype="float32",
    optimizer="adamw",
    lora_rank=0,
    checkpointing=False,
    cached_teacher=False,
    chunk_tokens=0,
    teacher_dtype="",
    autocast=False,
    accumulation=1,
):
    """Two steps as a notebook makes them."""
    import torch
    from transformers import default_data_collator

    from kdlib import models
    from kdlib.trainer import DistillationArguments, DistillationTrainer

    is_llama = student.model_type == "llama"
    torch.manual_seed(0)
    model = _model(student, dtype)
    if lora_rank:
        model = models.with_lora(model, lora_rank)
    learnt = length if learnt is None else learnt
    rows = _rows(student, batch_size, accumulation, length, learnt, cached_teacher)
    # A change, even one that changes nothing, keeps the trainer on dense logits: the plain way is
    # what "no chunks" estimates.
    change = _unchanged if is_llama and not chunk_tokens else None
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            folder,
            alpha=0.5 if teacher or cached_teacher else 0.0,
            per_device_train_batch_size=batch_size,
            max_steps=2,
            bf16=autocast,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=checkpointing,
            save_strategy="no",
            logging_strategy="no",
            optim=OPTIMIZERS[optimizer],
            disable_tqdm=True,
            use_cpu=True,
        )
        live = teacher and not cached_teacher
        trainer = DistillationTrainer(
            model,
            arguments,
            teacher=_model(teacher, teacher_dtype or dtype) if live else None,
            change=change,
            train_dataset=rows,
            data_collator=default_data_collator,
        )
        if is_llama:
            trainer.items = _tokens(trainer, change, cached_teacher, chunk_tokens)
        trainer.train()


def _unchanged(answers, student):
    return answers


def _model(config, dtype: str):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    is_llama = config.model_type == "llama"
    kind = AutoModelForCausalLM if is_llama else AutoModelForSequenceClassification
    return kind.from_config(config, dtype=getattr(torch, dtype))


def _rows(student, batch_size: int, accumulation: int, length: int, learnt: int, cached: bool):
    """A data set of random tokens for two steps; a cached teacher's answers are named in it."""
    import datasets
    import torch

    from kdlib import causal
    from kdlib.trainer import TEACHER_LOGITS

    is_llama, count = student.model_type == "llama", 2 * batch_size * accumulation
    ids = torch.randint(student.vocab_size, (count, length))
    mask = torch.ones_like(ids)
    if is_llama:
        labels = torch.where(torch.arange(length) < length - learnt, -100, ids)
    else:
        labels = ids[:, 0] % 2
    mask[::batch_size, -1] = 0
    columns = {
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "labels": labels.tolist(),
    }
    if cached and is_llama:
        columns[causal.TEACHER_PLACE] = list(range(count))
    elif cached:
        columns[TEACHER_LOGITS] = torch.randn(count, student.num_labels).tolist()
    return datasets.Dataset.from_dict(columns)


def _tokens(trainer, change, cached_teacher: bool, chunk_tokens: int):
    """A language model's strategy for the loss, with random answers in a cached teacher's place and
    with chunks of this size.
    """
    import torch

    from kdlib import causal
    from kdlib.losses import TopK

    class Tokens(causal.Tokens):
        def answers(self, inputs, keep):
            if not cached_teacher:
                return super().answers(inputs, keep)
            count = int(keep.sum())
            ids = torch.arange(TOPK).repeat(count, 1)
            return TopK(ids, torch.randn(count, TOPK), torch.randn(count))

        def answers_without_logits(self, inputs, keep):
            return super().answers_without_logits(inputs, keep) | {"chunk_tokens": chunk_tokens}

    return Tokens(trainer, [], (), change)


def _llama(words: int, width: int, layers: int):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        intermediate_size=4 * width,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
    )


def configurations() -> dict[str, tuple]:
    """Small ones, {name: (student, teacher, settings)}: each lets another part decide."""
    from transformers import BertConfig, DistilBertConfig

    bert = BertConfig(
        hidden_size=384, num_hidden_layers=6, intermediate_size=1536, num_attention_heads=12
    )
    half = DistilBertConfig(dim=384, n_layers=3, n_heads=12, hidden_dim=1536)
    many_words = _llama(32_000, 128, 2), _llama(32_000, 256, 4)
    small = _llama(8_000, 256, 4)
    short = dict(batch_size=8, length=128, learnt=64)
    long = dict(batch_size=8, length=256, learnt=64)
    # wider than the others: with all savings little is left, and some 30 MB of kernels' work space
    # would be a fifth of it
    wide = _llama(32_000, 768, 8), _llama(32_000, 384, 6)
    savings = dict(
        batch_size=16,
        length=256,
        learnt=100,
        lora_rank=16,
        cached_teacher=True,
        chunk_tokens=256,
        checkpointing=True,
    )
    return {
        "BERT to DistilBERT": (half, bert, dict(batch_size=16, length=128)),
        "BERT, cached teacher": (
            bert,
            bert,
            dict(batch_size=24, length=128, cached_teacher=True),
        ),
        "Llama, long rows": (_llama(8_000, 256, 8), None, long | dict(learnt=16)),
        "Llama, wide layers": (_llama(16_000, 512, 6), None, dict(batch_size=2, length=64)),
        "Llama, many words": (*many_words, short),
        "… cached teacher": (*many_words, short | dict(cached_teacher=True)),
        "… chunked loss": (*many_words, short | dict(chunk_tokens=64)),
        "Llama, checkpointing": (_llama(8_000, 256, 12), small, long | dict(checkpointing=True)),
        "Llama, LoRA": (_llama(8_000, 384, 8), small, short | dict(learnt=32, lora_rank=16)),
        "… and all of plan's savings": (*wide, savings),
        "Llama, bf16 autocast": (_llama(8_000, 256, 8), None, long | dict(autocast=True)),
    }


def comparison(names=None):
    """Estimate against measurement for `configurations` (all, or the named ones): a DataFrame, GB
    and the difference in per cent. A line each is printed.
    """
    import pandas as pd

    rows = []
    for name, (student, teacher, settings) in configurations().items():
        if names is not None and name not in names:
            continue
        parts = estimate(student, teacher, **settings)
        measured = measure(student, teacher, **settings)
        off = round(100 * (parts.total / measured - 1), 1)
        print(
            f"{name:28s} estimate {parts.total:.3f} GB, measured {measured:.3f}: {off:+.1f} %",
            flush=True,
        )
        row = {"configuration": name, **parts._asdict()}
        rows.append(row | {"measured": round(measured, 4), "off by %": off})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    try:
        print(json.dumps({"gb": _measured(json.load(sys.stdin))}))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
