"""Asking a teacher: a classifier's logits row by row, or a language model's k likeliest words token by token."""
import inspect

import numpy as np
import torch

from .device import at_work
from ..losses import TopK, distillation_loss, topk_distillation_loss
from .head import logits_at

TEACHER_LOGITS = "teacher_logits"                               # the column of a dataset that carries a classifier's answers
READ = ("input_ids", "attention_mask", "token_type_ids")        # what a teacher reads of a row
WIDE = 1 << 16                                                  # ids from here on need a 17th bit, from twice as many a third byte


def collator(tokenizer):
    """Pads a batch to its own longest row, rounded up to a multiple of 8.

    That costs nothing and suits tensor cores.
    """
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)


def forward_inputs(model, batch: dict) -> dict:
    """The part of `batch` that the model's forward takes.

    BERT needs token_type_ids, DistilBERT rejects them.
    """
    accepted = inspect.signature(getattr(model, "module", model).forward).parameters
    return {name: value for name, value in batch.items() if name in accepted}


def teacher_logits(teacher, rows, collator, batch_size: int = 64, device=None) -> np.ndarray:
    """(rows, classes) float32: what the teacher answers to each row, in the rows' order; dropout off.

    rows: a `datasets.Dataset`, or anything with a length whose rows are dicts. Rows are read longest first, so that a
    batch holds rows of like length and memory runs out at once or not at all.
    device: where the teacher computes meanwhile; None for the machine's GPU if it has one.
    """
    with torch.inference_mode(), at_work(teacher, device):
        return _classifier_logits(teacher, rows, collator, batch_size)


def _classifier_logits(teacher, rows, collator, batch_size: int) -> np.ndarray:
    if hasattr(rows, "column_names"):
        rows = rows.select_columns([c for c in rows.column_names if c in READ])
    lengths = [len(ids) for ids in rows["input_ids"]] if hasattr(rows, "column_names") else [
        len(rows[i]["input_ids"]) for i in range(len(rows))]
    order = np.argsort(-np.asarray(lengths), kind="stable")
    answers = np.zeros((len(rows), teacher.config.num_labels), np.float32)
    was_training = teacher.training
    teacher.eval()
    for start in range(0, len(order), batch_size):
        picked = order[start:start + batch_size]
        batch = collator([{k: v for k, v in rows[int(i)].items() if k in READ} for i in picked])
        batch = {k: v.to(teacher.device) for k, v in batch.items()}
        answers[picked] = teacher(**forward_inputs(teacher, batch)).logits.float().cpu().numpy()
    teacher.train(was_training)
    return answers


def topk_answers(teacher, rows, k: int, temperatures: list[float], batch_size: int) -> dict[str, torch.Tensor]:
    """For each predicted token of each row, in the rows' order: ids, log-probabilities, rests; `offsets` says where a row starts.

    The teacher computes on the machine's GPU if it has one; the answers are on the CPU.
    """
    with torch.inference_mode(), at_work(teacher):
        return _topk_answers(teacher, rows, k, temperatures, batch_size)


def _topk_answers(teacher, rows, k: int, temperatures: list[float], batch_size: int) -> dict[str, torch.Tensor]:
    said, was_training = [None] * len(rows), teacher.training
    teacher.eval()
    order = np.argsort([-len(ids) for ids in rows["input_ids"]], kind="stable")
    for start in range(0, len(order), batch_size):
        picked = [int(i) for i in order[start:start + batch_size]]
        ids = [torch.tensor(rows[i]["input_ids"]) for i in picked]
        batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(teacher.device)      # padded on the right: no real token sees it
        mask = torch.arange(batch.shape[1], device=batch.device)[None] < torch.tensor([len(i) for i in ids], device=batch.device)[:, None]
        keep = torch.zeros_like(mask)
        for row, i in enumerate(picked):
            keep[row, predicted(rows[i]).to(batch.device)] = True
        logits = logits_at(teacher, {"input_ids": batch, "attention_mask": mask.long()}, keep)     # no logits of prompts
        for i, part in zip(picked, logits.split(keep.sum(1).tolist())):
            said[i] = compress(part, k, temperatures)
    teacher.train(was_training)
    ids, logprobs, rest = (torch.cat(parts) for parts in zip(*said))
    offsets = torch.tensor([0, *np.cumsum([len(part[0]) for part in said])])
    return {"offsets": offsets, "logprobs": logprobs.to(torch.float16), "rest": rest} | narrow_ids(ids, teacher.config.vocab_size)


def predicted(row: dict) -> torch.Tensor:
    """Positions whose *next* token is to be learnt: `labels` there is not -100 (without labels: every position but the last)."""
    labels = torch.tensor(row.get("labels", row["input_ids"]))
    return torch.nonzero(labels[1:] != -100)[:, 0]


def compress(logits: torch.Tensor, k: int, temperatures: list[float]) -> tuple[torch.Tensor, ...]:
    """(tokens, vocab) → ids (tokens, k), log-probabilities (tokens, k), rests (tokens, temperatures), on the CPU; 256 tokens at a time."""
    parts = []
    for chunk in logits.split(256):
        logprobs = torch.log_softmax(chunk.float(), -1)
        kept, ids = logprobs.topk(k, sorted=True)
        others = logprobs.scatter_(-1, ids, -torch.inf)
        parts.append([ids.cpu(), kept.cpu(), torch.stack([torch.logsumexp(others / t, -1) for t in temperatures], -1).cpu()])
    empty = [torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k), torch.zeros(0, len(temperatures))]
    return tuple(torch.cat(column) for column in zip(*parts)) if parts else tuple(empty)


def narrow_ids(ids: torch.Tensor, vocabulary: int) -> dict[str, torch.Tensor]:
    """Two bytes an id, and beyond 65,536 words their 17th bits packed by eight (a third byte beyond 131,072)."""
    low = {"ids": (ids % WIDE).to(torch.uint16)}
    if vocabulary <= WIDE:
        return low
    high = (ids // WIDE).to(torch.uint8).numpy()
    return low | {"high": torch.from_numpy(np.packbits(high, axis=1) if vocabulary <= 2 * WIDE else high)}


def wide_ids(low: torch.Tensor, high: torch.Tensor | None) -> torch.Tensor:
    ids = low.long()
    if high is None:
        return ids
    high = high.numpy()
    bits = high if high.shape == tuple(low.shape) else np.unpackbits(high, axis=1, count=low.shape[1])
    return ids + WIDE * torch.from_numpy(bits.astype(np.int64))


@torch.inference_mode(False)
def compare_topk(cache, teacher, rows, places, student=None) -> dict[str, float]:
    """What `teacher_cache.audit` says of a language model: cached against dense, token by token, on the same rows."""
    dense = _logits_row_by_row(teacher, rows)
    pupil = None if student is None else _logits_row_by_row(student, rows)
    planned, found = cache.manifest["key"]["temperatures"], {"tokens": len(dense)}
    kept = cache.topk(places, planned[0])
    found["largest difference of a log-probability"] = (torch.log_softmax(dense, -1).gather(-1, kept.ids) - kept.logprobs).abs().max().item()
    for t in planned:
        share = cache.manifest["lump"][str(t)]["mean"]
        found[f"T = {t:g}: share in the lump"], found[f"T = {t:g}: gradient off by at most"] = share, 2 * t * share
        if pupil is not None:
            found[f"T = {t:g}: cosine to the dense gradient"] = gradient_cosine(pupil, dense, cache.topk(places, t), t)
    return found


@torch.no_grad()
def _logits_row_by_row(model, rows) -> torch.Tensor:
    """(tokens, vocab) float32 on the CPU: the model's logits at each predicted token, one row a forward; dropout off."""
    parts, was_training = [], model.training
    model.eval()
    with at_work(model):
        for row in rows:
            logits = model(input_ids=torch.tensor([row["input_ids"]], device=model.device)).logits
            parts.append(logits[0, predicted(row).to(logits.device)].float().cpu())
    model.train(was_training)
    return torch.cat(parts)


def gradient_cosine(student_logits: torch.Tensor, teacher_logits: torch.Tensor, kept: TopK, temperature: float) -> float:
    """Between the gradients of the KD loss with respect to the student's logits (tokens, vocab): cached and dense teacher."""
    labels = torch.zeros(len(student_logits), dtype=torch.long)
    grads = []
    for loss, teacher in ((distillation_loss, teacher_logits), (topk_distillation_loss, kept)):
        logits = student_logits.detach().clone().requires_grad_()
        loss(logits, teacher, labels, temperature=temperature, alpha=1.0).kd.backward()
        grads.append(logits.grad.flatten().double())
    return torch.nn.functional.cosine_similarity(*grads, dim=0).item()
