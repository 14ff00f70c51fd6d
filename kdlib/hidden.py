"""Losses below the logits: the student's hidden states beside the teacher's.

    trainer = HiddenTrainer(student, args, guide=teacher, pairs=every_layer(2, 4), kind="mse",
                            train_dataset=rows_with_teacher_logits)
    trainer.fit()

Two of the field's, both here as a mean over a row's real tokens, then over rows:

- "cosine": 1 - cos(student, teacher); DistilBERT takes the last layer alone (Sanh et al. 2019,
  section 3). Directions count, lengths don't.
- "mse": the squared distance between teacher and *projected* student, a mean over the teacher's
  width (Romero et al. 2015, FitNets, eq. 3; Jiao et al. 2020, TinyBERT, eq. 8). The projection W is
  trained along and thrown away: the student may be narrower.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import in_float32
from .models import forward_inputs
from .trainer import DistillationTrainer

KINDS = ("cosine", "mse")


def hidden_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    kind: str = "mse",
    num_items: int | Tensor | None = None,
) -> Tensor:
    """How far the student's hidden states are from the teacher's: a scalar ≥ 0, at least float32.

    student, teacher: (rows, length, width), the same shape (project a narrower student first); no
    gradient reaches the teacher. mask: (rows, length), 1 at real tokens. Padding counts for
    nothing, and a row counts the same whatever its length. num_items: what the sum over rows is
    divided by (None: the rows with a real token); a trainer that accumulates gradients passes the
    step's rows. A batch without a real token gives 0 with a gradient path. ValueError for other
    shapes or kinds.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be {' or '.join(KINDS)}, not {kind!r}")
    if student.shape != teacher.shape or student.dim() != 3 or mask.shape != student.shape[:2]:
        raise ValueError(
            f"hidden states {tuple(student.shape)} and {tuple(teacher.shape)} with mask "
            f"{tuple(mask.shape)}: both must be (rows, length, width) with a mask (rows, length); "
            "a narrower student needs a projection first"
        )
    mask = mask.bool()
    # Padding may hold anything, nan too, and nan times a mask's 0 is nan: it is overwritten first.
    padding = ~mask[..., None]
    # 1 and not 0: two zero vectors have no angle between them, and no gradient of it.
    student = in_float32(student).masked_fill(padding, 1.0)
    teacher = in_float32(teacher.detach()).masked_fill(padding, 1.0)
    # One distance a token: (rows, length).
    if kind == "cosine":
        by_token = 1 - F.cosine_similarity(student, teacher, dim=-1)
    else:
        # A mean over the width, not a sum: the weight of this loss should not grow with the model.
        by_token = ((student - teacher) ** 2).mean(-1)
    # clamp: a row of padding alone has the sum 0, and 0 / 1 keeps the gradient path.
    by_row = (by_token * mask).sum(1) / mask.sum(1).clamp(min=1)
    if num_items is None:
        num_items = mask.any(1).sum().clamp(min=1)
    # First within a row, then over rows: a long row would otherwise count more than a short one.
    return by_row.sum() / num_items


def every_layer(student: int, teacher: int) -> list[tuple[int, int]]:
    """(student's layer, teacher's layer) for each layer of a student, given both depths.

    Layers count from 1 (0 would be the embeddings). It is TinyBERT's uniform map
    g(m) = m · teacher / student.
    """
    if student < 1 or teacher % student:
        raise ValueError(
            f"{student} layers can't be spread evenly over {teacher}: name the pairs yourself"
        )
    # For 3 of 12 layers: 4, 8 and 12. The last layer is always among them.
    return [(m, m * teacher // student) for m in range(1, student + 1)]


class HiddenTrainer(DistillationTrainer):
    """A DistillationTrainer of a classifier with `weight` times a hidden-state loss on top.

    The hidden-state loss is a mean over `pairs` (student's layer, guide's layer), in training
    alone. guide: the model whose hidden states are imitated; it reads every batch, while the logits
    may come from a stored column. other_rows: the control: each row is shown its neighbour's
    states. The projections of "mse" start as the identity where the widths agree; they are a part
    of the student while it trains (so of its checkpoints) and gone after `fit`. ValueError for
    layers that are not there, unequal widths with "cosine", and several processes.
    """

    def __init__(
        self,
        model,
        args,
        *,
        guide,
        pairs: list[tuple[int, int]],
        kind: str = "mse",
        weight: float = 1.0,
        other_rows: bool = False,
        **kw,
    ):
        _check(model.config, guide.config, pairs, kind, weight)
        if args.world_size > 1:
            raise ValueError(
                "the projections are trained outside of the model's forward, "
                "where DDP does not see them: use one process"
            )
        if kind == "mse":
            widths = model.config.hidden_size, guide.config.hidden_size
            # Before the optimizer is made: what is a part of the student is trained along.
            model.hidden_projections = nn.ModuleList(_projection(*widths) for _ in pairs)
        self.pairs = pairs
        self.kind = kind
        self.weight = weight
        self.other_rows = other_rows
        super().__init__(model, args, **kw)
        guide.requires_grad_(False).eval()
        # In a dict, so that nothing takes the guide for a part of the student.
        self._guide = {"model": guide.to(self.args.device)}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs or not model.training:
            # In evaluation the hidden states are no part of the loss.
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # The parent's forward computes the hidden states, and would throw them away.
        kept = []

        def keep(module, args, outputs):
            kept.append(outputs.hidden_states)

        hook = model.register_forward_hook(keep)
        try:
            # The one forward that makes the logits makes these states too: a second would cost as
            # much.
            wanted = {**inputs, "output_hidden_states": True}
            total = super().compute_loss(model, wanted, False, num_items_in_batch)
        finally:
            hook.remove()
        hidden = self._hidden(kept[0], inputs, num_items_in_batch)
        self.add_to_log("hidden", hidden)
        return total + self.weight * hidden

    def _hidden(self, states: tuple, inputs: dict, num_items) -> Tensor:
        """The mean of the pairs' losses. states: the student's, (rows, length, width) each."""
        guide = self._guide["model"]
        mask = inputs["attention_mask"]
        # With labels the guide would compute a loss of its own, for nothing.
        without_labels = {name: value for name, value in inputs.items() if name != "labels"}
        read = forward_inputs(guide, without_labels)
        with torch.no_grad():
            guide_states = guide(**read, output_hidden_states=True).hidden_states
        if self.other_rows:
            # The same states in other places: what is left if the row does not matter.
            guide_states = [layer.roll(1, 0) for layer in guide_states]
            # A neighbour may be shorter or longer: only places where both rows have a token count.
            mask = mask & mask.roll(1, 0)
        # cosine compares the states as they are: nothing to project, hence Identity.
        projections = getattr(self.model, "hidden_projections", [nn.Identity()] * len(self.pairs))
        losses = []
        # states[0] are the embeddings, so layer m's output is states[m].
        for (mine, theirs), project in zip(self.pairs, projections):
            loss = hidden_loss(
                project(states[mine]),
                guide_states[theirs],
                mask,
                kind=self.kind,
                num_items=num_items,
            )
            losses.append(loss)
        return sum(losses) / len(losses)

    def fit(self):
        try:
            return super().fit()
        finally:
            # Also after an error: a saved student must be a plain model.
            if hasattr(self.model, "hidden_projections"):
                del self.model.hidden_projections


def _check(student, guide, pairs: list[tuple[int, int]], kind: str, weight: float) -> None:
    """ValueError unless the pairs' layers can be compared. student, guide: configurations."""
    mine, theirs = student.num_hidden_layers, guide.num_hidden_layers
    if not pairs or any(not (0 <= s <= mine and 0 <= t <= theirs) for s, t in pairs):
        raise ValueError(
            f"pairs {pairs} name layers that are not there: "
            f"the student has {mine}, the guide {theirs}"
        )
    if kind not in KINDS or weight < 0:
        raise ValueError(
            f"kind must be {' or '.join(KINDS)} with a weight of 0 or more, not {kind!r}, {weight}"
        )
    if kind == "cosine" and student.hidden_size != guide.hidden_size:
        raise ValueError(
            f"a cosine needs equal widths, not {student.hidden_size} and {guide.hidden_size}: "
            "take mse, which projects"
        )


def _projection(student: int, teacher: int) -> nn.Linear:
    """From the student's width to the teacher's; the identity at first, where they agree."""
    projection = nn.Linear(student, teacher, bias=False)
    if student == teacher:
        # At the start the loss then compares the states themselves.
        nn.init.eye_(projection.weight)
    return projection
