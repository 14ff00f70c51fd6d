"""On-policy distillation: the student speaks, the teacher judges each of its tokens.

    trainer = OnPolicyTrainer(student, args, share=0.5, stop=eot, pad=pad, teacher=teacher,
                              train_dataset=rows, …)                     # args.alpha = 1

That is GKD's algorithm 1 (Agarwal et al. 2024). In ordinary distillation every prefix is a
reference; in use every prefix is the student's own, errors included. Here a share of the batches
keeps its prompts and gets the student's own continuations, sampled now; the divergence is taken
along them. The sampling carries no gradient. Those tokens can't be cached, and the teacher must be
there to read them: that is the price.
"""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from .engine.device import at_work, evaluating
from .losses import IGNORED
from .trainer import DistillationTrainer


def own_words(model, batch: dict, *, stop: int, pad: int, longer: int = 8) -> dict:
    """`batch` with what the model itself says after each prompt, in place of the targets.

    The model samples at T = 1 from the whole vocabulary. batch: input_ids, attention_mask, labels
    (rows, length), padded on the right, labels -100 on the prompt. A row ends with `stop`, or
    `longer` tokens after the batch's longest target: such a row has no end, and none is invented.
    Labels of the new batch are the model's own tokens. The model speaks on the machine's GPU if it
    has one; the new batch is where the old one was.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    # Labels are not shifted, so their count is the number of tokens that belong to the target.
    target_lengths = (batch["labels"] != IGNORED).sum(1).tolist()
    # The target is the end of a row, before its padding: what is left is the prompt.
    prompts = [
        ids[: length - target]
        for ids, length, target in zip(batch["input_ids"], lengths, target_lengths)
    ]
    # No gradient through the sampling: GKD treats the drawn tokens as given. The gradient
    # comes from the loss along them.
    with torch.no_grad(), at_work(model):
        sampled = _continued(model, prompts, max(target_lengths) + longer, stop, pad)
    answers = [_up_to_stop(row, stop) for row in sampled.to(batch["input_ids"].device)]

    ids, labels, masks = [], [], []
    # Rows have other lengths now, so they are joined and padded anew, on the right.
    for prompt, answer in zip(prompts, answers):
        ids.append(torch.cat([prompt, answer]))
        # Its own tokens as labels: with alpha = 1 their CE weighs 0. They only say where to
        # compare.
        labels.append(torch.cat([torch.full_like(prompt, IGNORED), answer]))
        masks.append(torch.ones_like(ids[-1], dtype=batch["attention_mask"].dtype))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "attention_mask": pad_sequence(masks, batch_first=True, padding_value=0),
    }


def _continued(model, prompts: list, new_tokens: int, stop: int, pad: int) -> torch.Tensor:
    """What the model says after each prompt: (rows, at most `new_tokens`), `pad` after a `stop`."""
    # Generation goes on at the right end, so prompts of unequal length are padded on the left.
    # pad_sequence pads on the right: reversed before and after, that is the left.
    reverse = [prompt.flip(0) for prompt in prompts]
    ids = pad_sequence(reverse, batch_first=True, padding_value=pad).flip(1)
    ones = [torch.ones_like(prompt) for prompt in prompts]
    mask = pad_sequence(ones, batch_first=True, padding_value=0).flip(1)
    with evaluating(model):  # without dropout: it should say what it would say in use
        tokens = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=new_tokens,
            # Each of these undoes what a model's own generation settings may hold.
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            num_beams=1,
            eos_token_id=stop,
            pad_token_id=pad,
            use_cache=True,
        )
    # generate repeats the prompt before what it says.
    return tokens[:, ids.shape[1] :]


def _up_to_stop(row: torch.Tensor, stop: int) -> torch.Tensor:
    """The tokens up to the first `stop`, which belongs to them."""
    is_stop = (row == stop).long()
    # 0 up to the first stop, its own place included: a stop does not count itself.
    stops_before = is_stop.cumsum(0) - is_stop
    return row[stops_before == 0]


class OnPolicyTrainer(DistillationTrainer):
    """A DistillationTrainer of a causal model whose batches are partly the student's own words.

    From step `after` on, a `share` of the batches is replaced by them. alpha must be 1:
    cross-entropy on one's own tokens would teach the student whatever it says already. `generated`
    counts the tokens. The loss is divided by the tokens that are judged, not by those of the
    references that they replace.
    """

    def __init__(self, model, args, *, share: float, stop: int, pad: int, after: int = 0, **kw):
        if not 0 <= share <= 1 or args.alpha != 1:
            raise ValueError(
                "share must lie in [0, 1] and alpha be 1 (own words are no labels), "
                f"not {share} and {args.alpha}"
            )
        if kw.get("teacher") is None:
            raise ValueError(
                "on-policy distillation needs a live teacher: "
                "what the student will say is in no cache"
            )
        super().__init__(model, args, **kw)
        self.share = share
        self.after = after
        self.own = {"stop": stop, "pad": pad}
        self.generated = 0

    def get_batch_samples(self, *given, **kw):
        batches, count = super().get_batch_samples(*given, **kw)
        step = self.state.global_step
        # Drawn from the step's number: an interrupted run goes on with the same choices.
        draws = np.random.default_rng([self.args.seed, step]).random(len(batches))
        replaced = draws < self.share
        if step < self.after or not replaced.any():
            return batches, count
        # The list is overwritten in place: Trainer reads these batches next.
        for i in np.flatnonzero(replaced):
            batches[i] = own_words(self.model, batches[i], **self.own)
            self.generated += int((batches[i]["labels"] != IGNORED).sum())
        # Trainer divides by this count: it must be that of the new batches.
        return batches, self._get_num_items_in_batch(batches, self.args.device)
