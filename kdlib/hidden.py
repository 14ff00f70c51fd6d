"""Losses below the logits: the student's hidden states beside the teacher's.

    trainer = HiddenTrainer(student, args, guide=teacher, pairs=every_layer(2, 4), kind="mse", train_dataset=rows_with_teacher_logits)
    trainer.fit()

Two of the field's, both here as a mean over a row's real tokens, then over rows:

- "cosine": 1 - cos(student, teacher), last layer alone in DistilBERT (Sanh et al. 2019, section 3). Directions count, lengths don't.
- "mse": the squared distance between teacher and *projected* student, mean over the teacher's width (Romero et al. 2015, FitNets,
  eq. 3; Jiao et al. 2020, TinyBERT, eq. 8). The projection W is trained along and thrown away: the student may be narrower.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import in_float32
from .models import forward_inputs
from .trainer import DistillationTrainer

KINDS = ("cosine", "mse")


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor, *, kind: str = "mse", num_items: int | Tensor | None = None) -> Tensor:
    """How far the student's hidden states are from the teacher's, a scalar ≥ 0; in float32 at least.

    student, teacher: (rows, length, width), the same shape (project a narrower student first); no gradient reaches the teacher.
    mask: (rows, length), 1 at real tokens. Padding counts for nothing, and a row counts the same whatever its length.
    num_items: what the sum over rows is divided by (None: the rows with a real token); a trainer that accumulates gradients passes
    the step's rows. A batch without a real token gives 0 with a gradient path. ValueError for other shapes or kinds.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be {' or '.join(KINDS)}, not {kind!r}")
    if student.shape != teacher.shape or student.dim() != 3 or mask.shape != student.shape[:2]:
        raise ValueError(f"hidden states {tuple(student.shape)} and {tuple(teacher.shape)} with mask {tuple(mask.shape)}: both must be (rows, length, "
                         "width) with a mask (rows, length); a narrower student needs a projection first")
    mask = mask.bool()
    s, t = (in_float32(states).masked_fill(~mask[..., None], 1.0) for states in (student, teacher.detach()))     # padding may hold anything
    each = 1 - F.cosine_similarity(s, t, dim=-1) if kind == "cosine" else ((s - t) ** 2).mean(-1)
    by_row = (each * mask).sum(1) / mask.sum(1).clamp(min=1)
    return by_row.sum() / (mask.any(1).sum().clamp(min=1) if num_items is None else num_items)


def every_layer(student: int, teacher: int) -> list[tuple[int, int]]:
    """(student's layer, teacher's layer), counted from 1 (0 would be the embeddings): TinyBERT's uniform map g(m) = m · teacher / student."""
    if student < 1 or teacher % student:
        raise ValueError(f"{student} layers can't be spread evenly over {teacher}: name the pairs yourself")
    return [(m, m * teacher // student) for m in range(1, student + 1)]


class HiddenTrainer(DistillationTrainer):
    """A DistillationTrainer of a classifier whose training loss has `weight` times a hidden-state loss on top, mean over `pairs`.

    guide: the model whose hidden states are imitated; it reads every batch, while the logits may come from a stored column.
    other_rows: the control: each row is shown its neighbour's states. The projections of "mse" start as the identity where the widths
    agree; they are a part of the student while it trains (so of its checkpoints) and gone after `fit`.
    Raises ValueError for layers that are not there, unequal widths with "cosine", and several processes.
    """

    def __init__(self, model, args, *, guide, pairs: list[tuple[int, int]], kind: str = "mse", weight: float = 1.0, other_rows: bool = False, **kw):
        widths, depths = ([getattr(m.config, name) for m in (model, guide)] for name in ("hidden_size", "num_hidden_layers"))
        if not pairs or any(not (0 <= s <= depths[0] and 0 <= t <= depths[1]) for s, t in pairs):
            raise ValueError(f"pairs {pairs} name layers that are not there: the student has {depths[0]}, the guide {depths[1]}")
        if kind not in KINDS or weight < 0:
            raise ValueError(f"kind must be {' or '.join(KINDS)} with a weight of 0 or more, not {kind!r}, {weight}")
        if kind == "cosine" and widths[0] != widths[1]:
            raise ValueError(f"a cosine needs equal widths, not {widths[0]} and {widths[1]}: take mse, which projects")
        if args.world_size > 1:
            raise ValueError("the projections are trained outside of the model's forward, where DDP does not see them: use one process")
        if kind == "mse":
            model.hidden_projections = nn.ModuleList(_projection(*widths) for _ in pairs)
        self.pairs, self.kind, self.weight, self.other_rows = pairs, kind, weight, other_rows
        super().__init__(model, args, **kw)
        guide.requires_grad_(False).eval()
        self._guide = {"model": guide.to(self.args.device)}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        kept = []                                               # the parent's forward, and what it would throw away
        hook = model.register_forward_hook(lambda module, given, out: kept.append(out.hidden_states))
        try:
            total = super().compute_loss(model, {**inputs, "output_hidden_states": True}, False, num_items_in_batch)
        finally:
            hook.remove()
        hidden = self._hidden(kept[0], inputs, num_items_in_batch)
        self.add_to_log("hidden", hidden)
        return total + self.weight * hidden

    def _hidden(self, states: tuple, inputs: dict, num_items) -> Tensor:
        guide, mask = self._guide["model"], inputs["attention_mask"]
        with torch.no_grad():
            theirs = guide(**forward_inputs(guide, {k: v for k, v in inputs.items() if k != "labels"}), output_hidden_states=True).hidden_states
        if self.other_rows:                                     # the same states in other places: what is left if the row does not matter
            theirs, mask = [layer.roll(1, 0) for layer in theirs], mask & mask.roll(1, 0)
        projections = getattr(self.model, "hidden_projections", [lambda states: states] * len(self.pairs))
        losses = [hidden_loss(project(states[s]), theirs[t], mask, kind=self.kind, num_items=num_items)
                  for (s, t), project in zip(self.pairs, projections)]
        return sum(losses) / len(losses)

    def fit(self):
        try:
            return super().fit()
        finally:
            if hasattr(self.model, "hidden_projections"):
                del self.model.hidden_projections


def _projection(student: int, teacher: int) -> nn.Linear:
    project = nn.Linear(student, teacher, bias=False)
    if student == teacher:
        nn.init.eye_(project.weight)
    return project
