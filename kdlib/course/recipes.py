"""What the trainings of all teachers share: their arguments, and what is written down about them."""

import json
import time
from pathlib import Path

import torch

from .. import models
from ..engine.provenance import versions
from ..trainer import DistillationArguments, DistillationTrainer

# Of an evaluation, what `teacher.json` keeps.
HISTORY = ("epoch", "eval_accuracy", "eval_ce")


def save(out: Path, model, tokenizer, about: dict) -> None:
    """Weights, tokenizer and `teacher.json` as a folder."""
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    (out / "teacher.json").write_text(json.dumps(about, indent=1) + "\n")


def arguments(scratch: Path, settings: dict) -> DistillationArguments:
    """Plain fine-tuning (alpha = 0), with an evaluation and a checkpoint after each epoch.

    settings: with `steps`, the training ends after so many and saves every 200; with dtype "auto",
    matrix products use the type that this machine is fast with.
    """
    steps = settings.get("steps", -1)
    saved = {"save_strategy": "epoch"}
    if steps > 0:
        saved = {"save_strategy": "steps", "save_steps": 200}
    fast = models.machine_dtype() if settings.get("dtype") == "auto" else torch.float32
    return DistillationArguments(
        str(scratch),
        alpha=0.0,
        learning_rate=settings["learning_rate"],
        num_train_epochs=settings["epochs"],
        max_steps=steps,
        warmup_ratio=0.06,
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=min(64, 2 * settings["batch_size"]),
        seed=settings["seed"],
        eval_strategy="epoch",
        **saved,
        save_total_limit=1,
        bf16=fast == torch.bfloat16,
        fp16=fast == torch.float16,
        logging_steps=25,
        disable_tqdm=True,
    )


def about(trainer: DistillationTrainer, start: float) -> dict:
    """What a reader should know of a teacher: accuracy by epoch, size, minutes and versions."""
    history = []
    for entry in trainer.state.log_history:
        if "eval_accuracy" in entry:
            history.append({k: round(v, 4) for k, v in entry.items() if k in HISTORY})
    # what is evaluated after the last epoch is the test's
    history = history[: max(1, int(trainer.args.num_train_epochs))]
    return {
        "accuracy": history[-1]["eval_accuracy"],
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "history": history,
        **models.size(trainer.model),
        "versions": versions(),
    }
