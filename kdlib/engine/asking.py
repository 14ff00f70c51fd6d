"""Asking a teacher: a classifier's logits, row by row, or a language model's k likeliest tokens.

The teacher computes on the machine's GPU if it has one, and goes back to where it was. The answers
come to the CPU.
"""

import inspect

import numpy as np
import torch

from ..losses import IGNORED, TopK, distillation_loss, topk_distillation_loss
from .device import at_work, evaluating
from .head import logits_at
from .sampler import lengths_of, longest_first

# The column of a dataset that carries a classifier's answers.
TEACHER_LOGITS = "teacher_logits"
# What a teacher reads of a row.
READ = ("input_ids", "attention_mask", "token_type_ids")
# Ids from here on need a 17th bit, from twice as many on a third byte.
WIDE = 1 << 16


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
    # `module` is the model inside DDP's wrapper, whose own forward takes anything.
    accepted = inspect.signature(getattr(model, "module", model).forward).parameters
    return {name: value for name, value in batch.items() if name in accepted}


def teacher_logits(teacher, rows, collator, batch_size: int = 64, device=None) -> np.ndarray:
    """(rows, classes) float32: what the teacher answers to each row, in the rows' order.

    rows: a `datasets.Dataset`, or anything with a length whose rows are dicts. Rows are read
    longest first, so that a batch holds rows of like length and memory runs out at once or not at
    all. Dropout is off.
    device: where the teacher computes meanwhile; None for the machine's GPU if it has one.
    """
    if hasattr(rows, "column_names"):
        # texts and labels need not be read from disk
        columns = [column for column in rows.column_names if column in READ]
        rows = rows.select_columns(columns)
        lengths = lengths_of(rows)
    else:
        lengths = [len(rows[i]["input_ids"]) for i in range(len(rows))]
    # Filled out of order: each batch writes into the places of its own rows.
    answers = np.zeros((len(rows), teacher.config.num_labels), np.float32)
    with torch.inference_mode(), at_work(teacher, device), evaluating(teacher):
        for picked in longest_first(lengths, batch_size):
            features = []
            for i in picked:
                row = rows[i]
                read = {name: value for name, value in row.items() if name in READ}
                features.append(read)
            batch = collator(features)
            batch = {name: value.to(teacher.device) for name, value in batch.items()}
            logits = teacher(**forward_inputs(teacher, batch)).logits
            # back to the rows' own places
            answers[picked] = logits.float().cpu().numpy()
    return answers


def topk_answers(
    teacher, rows, k: int, temperatures: list[float], batch_size: int
) -> dict[str, torch.Tensor]:
    """For each predicted token of each row, in the rows' order: ids, log-probabilities, rests.

    `offsets` says where a row starts, with the end of the last one: (rows + 1,).
    """
    answers = [None] * len(rows)
    with torch.inference_mode(), at_work(teacher), evaluating(teacher):
        for picked in longest_first(lengths_of(rows), batch_size):
            batch, keep = _padded_batch([rows[i] for i in picked], teacher.device)
            # logits of the predicted tokens only: a prompt's would be the most of them
            logits = logits_at(teacher, batch, keep)
            tokens_of_each_row = keep.sum(1).tolist()
            for i, part in zip(picked, logits.split(tokens_of_each_row)):
                answers[i] = compress(part, k, temperatures)
    ids, logprobs, rest = (torch.cat(parts) for parts in zip(*answers))
    tokens = [len(row_ids) for row_ids, _, _ in answers]
    # half precision is off by at most 0.05 % of a log-probability
    return {
        "offsets": torch.tensor([0, *np.cumsum(tokens)]),
        "logprobs": logprobs.to(torch.float16),
        "rest": rest,
        **narrow_ids(ids, teacher.config.vocab_size),
    }


def _padded_batch(rows: list[dict], device) -> tuple[dict, torch.Tensor]:
    """The model's inputs for these rows, and a mask (rows, tokens) of the positions to answer."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    # padded on the right: in a causal model no real token sees it
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    lengths = torch.tensor([len(row_ids) for row_ids in ids], device=device)
    positions = torch.arange(batch.shape[1], device=device)
    # (rows, tokens): (1, tokens) against (rows, 1). By length, because 0, the padding, may be a
    # token.
    mask = positions[None] < lengths[:, None]
    keep = torch.zeros_like(mask)
    for i, row in enumerate(rows):
        answered = predicted(row).to(device)
        keep[i, answered] = True
    return {"input_ids": batch, "attention_mask": mask.long()}, keep


def predicted(row: dict) -> torch.Tensor:
    """Positions whose *next* token is to be learnt: `labels` there is not -100.

    Without labels, every position but the last.
    """
    labels = row.get("labels", row["input_ids"])
    # Without the first: position i predicts token i + 1.
    next_labels = torch.tensor(labels)[1:]
    return torch.nonzero(next_labels != IGNORED)[:, 0]


def compress(
    logits: torch.Tensor,
    k: int,
    temperatures: list[float],
) -> tuple[torch.Tensor, ...]:
    """(tokens, vocab) → ids (tokens, k), log-probabilities (tokens, k), rests (tokens,
    temperatures), on the CPU.
    """
    parts = []
    # 256 tokens at a time: a float32 copy of 128,256 words is half a megabyte a token
    for chunk in logits.split(256):
        logprobs = torch.log_softmax(chunk.float(), -1)  # (256, vocab), at T = 1
        kept, ids = logprobs.topk(k, sorted=True)  # (256, k) both
        # overwritten in place: what was kept counts for nothing in the rest
        others = logprobs.scatter_(-1, ids, -torch.inf)
        # others / t, not logits / t: all rests are then relative to the normaliser of T = 1, as the
        # kept log-probabilities are.
        rests = [torch.logsumexp(others / t, -1) for t in temperatures]
        rest = torch.stack(rests, -1)
        parts.append([ids.cpu(), kept.cpu(), rest.cpu()])
    if not parts:
        # a row without predicted tokens: nothing, in the shapes of something
        no_ids = torch.zeros(0, k, dtype=torch.long)
        no_logprobs = torch.zeros(0, k)
        no_rests = torch.zeros(0, len(temperatures))
        return no_ids, no_logprobs, no_rests
    return tuple(torch.cat(column) for column in zip(*parts))


def narrow_ids(ids: torch.Tensor, vocabulary: int) -> dict[str, torch.Tensor]:
    """Two bytes an id, and beyond 65,536 words their 17th bits packed by eight (a third byte beyond
    131,072).
    """
    low = (ids % WIDE).to(torch.uint16)
    if vocabulary <= WIDE:
        return {"ids": low}
    # An id is high · 65,536 + low. Llama 3's 128,256 tokens need 17 bits: 2 bytes and an eighth.
    high = (ids // WIDE).to(torch.uint8).numpy()
    # up to 131,072 words `high` is 0 or 1
    if vocabulary <= 2 * WIDE:
        high = np.packbits(high, axis=1)
    return {"ids": low, "high": torch.from_numpy(high)}


def wide_ids(low: torch.Tensor, high: torch.Tensor | None) -> torch.Tensor:
    """The ids that `narrow_ids` took apart, as int64."""
    ids = low.long()
    if high is None:
        return ids
    high = high.numpy()
    # Packed bits have fewer columns than ids, but for a single one. There 128 is a packed bit: as a
    # third byte it would need a vocabulary of 8 million words.
    if high.shape != tuple(low.shape) or (high == 128).any():
        high = np.unpackbits(high, axis=1, count=low.shape[1])
    high = torch.from_numpy(high.astype(np.int64))
    return ids + WIDE * high


@torch.inference_mode(False)
def compare_topk(cache, teacher, rows, places, student=None) -> dict[str, float]:
    """What `teacher_cache.audit` says of a language model: cached against dense, token by token."""
    dense = _logits_row_by_row(teacher, rows)
    student_logits = None
    if student is not None:
        student_logits = _logits_row_by_row(student, rows)
    planned = cache.manifest["key"]["temperatures"]
    kept = cache.topk(places, planned[0])
    dense_logprobs = torch.log_softmax(dense, -1).gather(-1, kept.ids)
    difference = (dense_logprobs - kept.logprobs).abs().max()
    found = {
        "tokens": len(dense),
        "largest difference of a log-probability": difference.item(),
    }
    for t in planned:
        share = cache.manifest["lump"][str(t)]["mean"]
        found[f"T = {t:g}: share in the lump"] = share
        # `teacher_cache._measure` says where the bound comes from.
        found[f"T = {t:g}: gradient off by at most"] = 2 * t * share
        if student_logits is not None:
            kept = cache.topk(places, t)
            cosine = gradient_cosine(student_logits, dense, kept, t)
            found[f"T = {t:g}: cosine to the dense gradient"] = cosine
    return found


@torch.no_grad()
def _logits_row_by_row(model, rows) -> torch.Tensor:
    """(tokens, vocab) float32, on the CPU: a model's logits at the predicted tokens of the rows."""
    parts = []
    with at_work(model), evaluating(model):
        for row in rows:
            # one row at a time: no padding that could be to blame for a difference
            ids = torch.tensor([row["input_ids"]], device=model.device)
            logits = model(input_ids=ids).logits
            parts.append(logits[0, predicted(row).to(logits.device)].float().cpu())
    return torch.cat(parts)


def gradient_cosine(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    kept: TopK,
    temperature: float,
) -> float:
    """Between the gradients of the KD loss under a cached and under a dense teacher.

    With respect to the student's logits (tokens, vocab).
    """
    labels = torch.zeros(len(student_logits), dtype=torch.long)  # only the KD part is looked at
    gradients = []
    for loss, teacher in (
        (distillation_loss, teacher_logits),
        (topk_distillation_loss, kept),
    ):
        logits = student_logits.detach().clone().requires_grad_()
        parts = loss(logits, teacher, labels, temperature=temperature, alpha=1.0)
        parts.kd.backward()
        # in float64: the cosine of equal directions should say 1, not 0.9999998
        gradients.append(logits.grad.flatten().double())
    return torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
