"""On-policy distillation: the student speaks, the teacher judges each of its words (Agarwal et al. 2024, GKD, algorithm 1).

    trainer = OnPolicyTrainer(student, args, share=0.5, stop=eot, pad=pad, teacher=teacher, train_dataset=rows, …)     # args.alpha = 1

In ordinary distillation every prefix is a reference; in use every prefix is the student's own, errors included. Here a share of the
batches keeps its prompts and gets the student's own continuations, sampled now; the divergence is taken along them. The sampling carries no
gradient. Those words can't be cached, and the teacher must be there to read them: that is the price.
"""
import numpy as np
import torch

from .engine.device import at_work
from .trainer import DistillationTrainer


def own_words(model, batch: dict, *, stop: int, pad: int, longer: int = 8) -> dict:
    """`batch` with what the model itself says after each prompt, sampled at T = 1 from the whole vocabulary, in place of the targets.

    batch: input_ids, attention_mask, labels (rows, length), padded on the right, labels -100 on the prompt. A row ends with `stop`, or `longer`
    tokens after the batch's longest target: such a row has no end, and none is invented. Labels of the new batch are the model's own words.
    The model speaks on the machine's GPU if it has one; the new batch is where the old one was.
    """
    with torch.no_grad(), at_work(model):
        return _own_words(model, batch, stop, pad, longer)


def _own_words(model, batch: dict, stop: int, pad: int, longer: int) -> dict:
    lengths, learnt = batch["attention_mask"].sum(1).tolist(), (batch["labels"] != -100).sum(1).tolist()
    prompts = [ids[:n - k] for ids, n, k in zip(batch["input_ids"], lengths, learnt)]
    width = max(map(len, prompts))
    left = torch.stack([torch.nn.functional.pad(ids, (width - len(ids), 0), value=pad) for ids in prompts]).to(model.device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    was_training = model.training
    model.eval()
    out = model.generate(input_ids=left, attention_mask=mask, max_new_tokens=max(learnt) + longer, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                         repetition_penalty=1.0, num_beams=1, eos_token_id=stop, pad_token_id=pad, use_cache=True)[:, width:].to(batch["input_ids"].device)
    model.train(was_training)
    after = (out == stop).long().cumsum(1) - (out == stop).long() == 0                 # up to the first stop, which belongs to it
    said = [row[keep] for row, keep in zip(out, after)]
    stack = lambda rows, fill: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
    return {"input_ids": stack([torch.cat(parts) for parts in zip(prompts, said)], pad),
            "labels": stack([torch.cat([torch.full_like(ids, -100), new]) for ids, new in zip(prompts, said)], -100),
            "attention_mask": stack([torch.ones(len(a) + len(b), dtype=batch["attention_mask"].dtype, device=out.device) for a, b in zip(prompts, said)], 0)}


class OnPolicyTrainer(DistillationTrainer):
    """A DistillationTrainer of a causal model that replaces, from step `after` on, a `share` of its batches by the student's own words.

    alpha must be 1: cross-entropy on one's own words would teach the student whatever it says already. `generated` counts the tokens.
    The loss is divided by the words that are judged, not by those of the references that they replace.
    """

    def __init__(self, model, args, *, share: float, stop: int, pad: int, after: int = 0, **kw):
        if not 0 <= share <= 1 or args.alpha != 1:
            raise ValueError(f"share must lie in [0, 1] and alpha be 1 (own words are no labels), not {share} and {args.alpha}")
        if kw.get("teacher") is None:
            raise ValueError("on-policy distillation needs a live teacher: what the student will say is in no cache")
        super().__init__(model, args, **kw)
        self.share, self.after, self.own, self.generated = share, after, {"stop": stop, "pad": pad}, 0

    def get_batch_samples(self, *given, **kw):
        batches, count = super().get_batch_samples(*given, **kw)
        step = self.state.global_step
        mine = np.random.default_rng([self.args.seed, step]).random(len(batches)) < self.share
        if step < self.after or not mine.any():
            return batches, count
        batches = [own_words(self.model, batch, **self.own) if own else batch for batch, own in zip(batches, mine)]
        self.generated += sum(int((batch["labels"] != -100).sum()) for batch, own in zip(batches, mine) if own)
        return batches, self._get_num_items_in_batch(batches, self.args.device)
