"""What the making of every teacher shares: its training arguments, and what is told of it."""

import json
import time
from pathlib import Path

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
    """Plain fine-tuning (alpha = 0), with an evaluation and a checkpoint an epoch."""
    return DistillationArguments(
        str(scratch),
        alpha=0.0,
        learning_rate=settings["learning_rate"],
        num_train_epochs=settings["epochs"],
        max_steps=settings.get("steps", -1),
        warmup_ratio=0.06,
        per_device_train_batch_size=settings["batch_size"],
        per_device_eval_batch_size=min(64, 2 * settings["batch_size"]),
        seed=settings["seed"],
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
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
