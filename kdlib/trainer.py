"""Distillation with Hugging Face's `Trainer`: one loss, one way to ask the teacher.

    args = DistillationArguments("runs/student", temperature=2.0, alpha=0.5, learning_rate=5e-5)
    trainer = DistillationTrainer(student, args, teacher=teacher,
                                  train_dataset=rows, eval_dataset=validation)
    trainer.fit()              # trains, or goes on from the newest whole checkpoint

As a command: `python -m kdlib train --help` (every TrainingArguments option, and ours).

The formula stands in `losses`. This file says what its items are (`Rows` here, `causal.Tokens` for
a language model), who asks the teacher, and what the sums are divided by. Saving, resuming and the
deadline are in `engine.fitting`.
"""

import os
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from . import causal
from .engine import processes
from .engine.asking import TEACHER_LOGITS, teacher_logits
from .engine.cached_tokens import TEACHER_PLACE
from .engine.fitting import FittingTrainer
from .engine.progress import Progress  # noqa: F401  (notebook 03 silences it)
from .engine.sampler import columns_of, no_column
from .losses import DIVERGENCES, DistillationLoss, check_settings, distillation_loss
from .models import check_pair, forward_inputs

# From so many weights on, a live teacher is shared out among the processes without being asked:
# 8 GB in float32, which may not fit beside a student, its gradients and its optimizer. A smaller
# one answers faster whole.
LARGE_TEACHER = 2_000_000_000
# Transformers tells accelerate here in what precision to train. `accelerate launch` may have said
# it first, and that counts where the arguments say nothing.
PRECISION = "ACCELERATE_MIXED_PRECISION"
LAUNCHED_IN = os.environ.get(PRECISION, "no")


def _minutes_between_checkpoints() -> float:
    return float(os.environ.get("KD_CHECKPOINT_MINUTES", 10))


def _option(help: str, **default):
    return field(metadata={"help": help}, **default)


@dataclass
class DistillationArguments(TrainingArguments):
    """TrainingArguments and the settings that distillation adds.

    alpha weights the *soft* loss: alpha = 0 is plain CE.
    """

    temperature: float = _option(
        "T > 0: softens teacher and student in the KD loss",
        default=2.0,
    )
    alpha: float = _option(
        "weight of the soft (KD) loss, 0…1; CE gets 1 - alpha",
        default=0.5,
    )
    divergence: str = _option(
        f"how the soft loss compares the two: {', '.join(DIVERGENCES)}",
        default="forward_kl",
    )
    beta: float = _option(
        "of jsd alone: the teacher's share of the mixture, between 0 and 1",
        default=0.5,
    )
    # TrainingArguments has these three too. Its None would mean every tracker that is installed.
    report_to: str | None = _option(
        "trackers, as in TrainingArguments",
        default="none",
    )
    # Its None would search each step's graph for weights without a gradient. Ours all have one.
    ddp_find_unused_parameters: bool | None = _option(
        "as in TrainingArguments",
        default=False,
    )
    # transformers 5 has dropped it; `__post_init__` knows both.
    warmup_ratio: float = _option(
        "share of the steps in which the learning rate rises",
        default=0.0,
    )
    checkpoint_minutes: float = _option(
        "fit() saves this often, whatever save_strategy says; 0: never",
        default_factory=_minutes_between_checkpoints,
    )
    max_minutes: float = _option(
        "stop, save and evaluate after so many minutes; 0: when all is done",
        default=0.0,
    )
    shard_teacher: bool = _option(
        "under torchrun each process holds a share of the live teacher's weights (FSDP), for a "
        "teacher that no GPU holds beside the student; above two billion weights by itself",
        default=False,
    )

    def __post_init__(self):
        has_ratio = "warmup_ratio" in TrainingArguments.__dataclass_fields__
        if self.warmup_ratio and not has_ratio:  # transformers 5: one field for both
            self.warmup_steps = self.warmup_ratio
        if self.gradient_checkpointing and self.gradient_checkpointing_kwargs is None:
            # the older kind finds no gradient behind LoRA's frozen embeddings
            self.gradient_checkpointing_kwargs = {"use_reentrant": False}
        processes = int(os.environ.get("WORLD_SIZE", 1))
        if processes > 1 and not torch.cuda.is_available():
            self.use_cpu = True  # or accelerate lets each process train alone
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # or transformers asks for a GPU, though this CPU can do it
        # torchrun on its own gives each process a batch of this size; --nproc promises the steps of
        # one process.
        if processes > 1 and os.environ.get("KD_NPROC"):
            self._share_batch(processes)
        # or the bf16 of earlier arguments in this process would be these arguments' too
        os.environ[PRECISION] = LAUNCHED_IN
        super().__post_init__()
        if self.world_size != processes:
            raise RuntimeError(
                f"{processes} processes were started and {self.world_size} would train together: "
                "each would learn from its own share alone"
            )
        # without a GPU, pinning only prints a warning a run
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        self._check()

    def _share_batch(self, processes: int) -> None:
        """`--nproc`: a step reads the same rows as in one process."""
        rows = self.per_device_train_batch_size
        if rows % processes:
            raise ValueError(
                f"a batch of {rows} rows cannot be shared by {processes} processes; "
                "--nproc must divide batch_size"
            )
        self.per_device_train_batch_size = rows // processes

    def _check(self) -> None:
        check_settings(**self.loss_settings())
        if not (self.checkpoint_minutes >= 0 and self.max_minutes >= 0):
            raise ValueError(
                "checkpoint_minutes and max_minutes must be 0 or more, "
                f"not {self.checkpoint_minutes:g} and {self.max_minutes:g}"
            )
        if self.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor would be ignored: the loss is ours. Label smoothing ε is "
                "alpha = ε, T = 1 and a teacher whose logits are all equal; pass them as a "
                "`teacher_logits` column."
            )

    def loss_settings(self) -> dict:
        """What every loss is told: a setting that stands here reaches rows and tokens alike."""
        return {
            "temperature": self.temperature,
            "alpha": self.alpha,
            "divergence": self.divergence,
            "beta": self.beta,
        }

    @property
    def device(self) -> torch.device:
        """Plain "cpu" where several processes share it.

        accelerate's "cpu:0" keeps torch.load from reading a checkpoint.
        """
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class DistillationTrainer(FittingTrainer):
    """A Trainer whose loss is `losses.distillation_loss`.

    It trains classifiers, whose items are rows, and causal language models, whose items are target
    tokens (labels as transformers has them: not shifted, -100 where nothing is learnt).

    The teacher answers live (`teacher=`) or has answered already. `teacher_cache=` takes a
    `teacher_cache.TeacherCache` of the training rows, or a list that covers the evaluation rows
    too. A dataset with a `teacher_logits` column, (rows, classes), needs no teacher at all. With
    alpha = 0 the teacher is never run, so the baseline does not pay for it.

    Evaluation reports `eval_ce` (also as `eval_loss`: it means the same for every alpha), and
    `eval_kd` where the teacher's answers are known or alpha > 0.

    Of a language model alone:
    ce_only: ids of target tokens for which CE counts in full and the teacher is not heard, for
        example the end token that an untuned teacher does not know.
    change: a function (answers, student's logits) → answers for control experiments, used while
        training (`methods.for_tokens`). It needs the student's logits, so such a run takes the
        dense way, with its time and memory.
    """

    def __init__(
        self,
        model=None,
        args: DistillationArguments | None = None,
        *,
        teacher=None,
        teacher_cache=None,
        ce_only: tuple[int, ...] = (),
        change=None,
        **kw,
    ):
        if not isinstance(args, DistillationArguments):
            raise TypeError(f"args must be DistillationArguments, not {type(args).__name__}")
        caches = _as_list(teacher_cache)
        # Decided once, by the model. No line below asks again what kind of model it has.
        if causal.is_causal(model):
            self.items = causal.Tokens(self, caches, tuple(ce_only), change)
        elif ce_only or change:
            raise ValueError(
                "ce_only and change are about tokens of a causal language model; "
                "a classifier has none"
            )
        else:
            self.items = Rows(self, caches)
        # Before Trainer is built: a wrong cache should not cost the minutes that a large model
        # takes to move.
        self.items.check(model, args)
        if caches:
            kw = _with_answers(kw, self.items)
        # a plain dict: the teacher must not become a submodule of anything that is saved
        self._teacher = {"model": None}
        super().__init__(model=model, args=args, **kw)
        # Our loss divides by the count of the whole step, whatever the model's forward accepts:
        # Trainer must pass that count and must not divide by gradient_accumulation_steps on top.
        self.model_accepts_loss_kwargs = True
        self._check_columns()
        self.items.check_rows(self.train_dataset)
        if teacher is not None:
            for cache in caches:
                cache.check(teacher)
            self._adopt(teacher)
        # With alpha = 0 neither a teacher nor a cache is needed: that is the CE baseline.
        elif self.args.alpha > 0 and not _has_answers(self.train_dataset):
            raise ValueError(
                "alpha > 0 needs a teacher: pass teacher=… or a dataset with a "
                "`teacher_logits` column"
            )

    def _check_columns(self) -> None:
        """ValueError that names a column which the rows lack, and what makes it."""
        read = getattr(self.model, "main_input_name", "input_ids")
        self._refuse_missing("training", self.train_dataset, {read, "labels"})
        evaluated = self.eval_dataset
        for rows in evaluated.values() if isinstance(evaluated, dict) else [evaluated]:
            self._refuse_missing("evaluation", rows, {read})

    def _refuse_missing(self, which: str, rows, needed: set[str]) -> None:
        # Of a stream only its first batch will tell: looking would take a row out of it.
        is_stream = isinstance(rows, IterableDataset) or not isinstance(rows, Sized)
        row = None if is_stream or not len(rows) else rows[0]
        if not isinstance(row, Mapping):
            return
        missing = needed - set(row)
        if {"label", "label_ids"} & set(row):  # transformers' collators rename these to labels
            missing.discard("labels")
        if missing:
            # Some collators make a column themselves, as language modelling's makes labels.
            missing -= self._made_by_collator(row)
        if missing:
            raise no_column(f"the {which} rows", min(missing), row)

    def _made_by_collator(self, row: Mapping) -> set[str]:
        """The columns of a batch of this one row; none, where the collator refuses it."""
        if self.args.remove_unused_columns:
            self._set_signature_columns_if_needed()
            row = {name: row[name] for name in row if name in self._signature_columns}
        try:
            return set(self.data_collator([row]))
        except Exception:  # whatever a collator may raise: it makes nothing of such a row
            return set()

    def _adopt(self, teacher) -> None:
        """Freeze the teacher and take it to the student's device."""
        check_pair(teacher, self.model)
        # Without dropout, or the same row would get another answer each time. Frozen, or gradients
        # that nobody uses would take memory.
        teacher.requires_grad_(False).eval()
        is_large = self.args.shard_teacher or teacher.num_parameters() >= LARGE_TEACHER
        if self.args.world_size > 1 and is_large:
            self._teacher["model"] = processes.shard(teacher, self.args.device)
        else:
            self._teacher["model"] = teacher.to(self.args.device)

    @property
    def teacher(self):
        return self._teacher["model"]

    # -- the loss --------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """alpha · T² · KL(teacher ‖ student) + (1 - alpha) · CE, over the items of a batch."""
        if inputs.get("labels") is None:
            raise ValueError(
                "the batch has no `labels`; a column named `label` or `labels` is needed"
            )
        loss, student_logits = self.items.loss(model, inputs, num_items_in_batch, return_outputs)
        total = loss.total
        # The parts are logged for training steps alone; an evaluation computes its own (below).
        if num_items_in_batch is not None and model.training:
            scale = self._process_scale()
            total = total * scale
            # ce and kd without their weights alpha and 1 - alpha: curves of different alphas can
            # then be compared.
            self.add_to_log("ce", loss.ce * scale)
            if self.args.alpha > 0:
                self.add_to_log("kd", loss.kd * scale)
        if return_outputs:
            return total, self.items.output(loss=total, logits=student_logits)
        return total

    def _process_scale(self) -> int:
        """DDP *averages* gradients, but the count of a step is summed over processes.

        Without this factor the gradients of two processes are halved.
        """
        is_summed = self.args.average_tokens_across_devices
        return self.accelerator.num_processes if is_summed else 1

    def _get_num_items_in_batch(self, batch_samples, device):
        """What the loss divides by: the items of all batches of a step."""
        to_count = [self.items.batch_to_count(batch) for batch in batch_samples]
        return super()._get_num_items_in_batch(to_count, device)

    def _set_signature_columns_if_needed(self):
        """Keep what the teacher reads (BERT's token_type_ids) beside what the student reads."""
        super()._set_signature_columns_if_needed()
        # Trainer drops every column that the student's forward does not name. Without this line a
        # BERT teacher of a DistilBERT would read both sentences as one.
        columns = [*self._signature_columns, "token_type_ids", *self.items.columns]
        self._signature_columns = list(dict.fromkeys(columns))

    # -- evaluation ------------------------------------------------------------------------------

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """What the items need of a batch; `evaluation_loop` makes the losses of it."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            predictions, labels = self.items.predict(model, inputs)
        # No loss here: the mean over batches would weigh a short last batch like a full one.
        return None, predictions.detach(), labels

    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ):
        """Trainer's loop, then CE and KD from what it gathered.

        They are exact, however batches and processes were cut.
        """
        # False is prediction_loss_only: it would throw away what the losses are made of.
        output = super().evaluation_loop(
            dataloader, description, False, ignore_keys, metric_key_prefix
        )
        for name, value in self.items.metrics(output, dataloader.dataset).items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output


class Rows:
    """The items of a classifier's loss are rows. `causal.Tokens` is its counterpart.

    A teacher's answer to a row is its logits (classes,). The live teacher reads an evaluation set
    once, not once an evaluation.
    """

    output = SequenceClassifierOutput
    columns = (TEACHER_LOGITS,)

    def __init__(self, trainer: DistillationTrainer, caches: list):
        self.trainer = trainer
        self.caches = caches
        # {evaluation set: (the set, the teacher's logits)}
        self._evaluation_answers: dict = {}

    def check(self, model, args) -> None:
        """Before anything is built: do the caches belong to this model?"""
        classes = getattr(getattr(model, "config", None), "num_labels", None)
        for cache in self.caches:
            if classes is not None and cache.classes != classes:
                raise ValueError(
                    f"the teacher cache has answers for {cache.classes} classes, "
                    f"the student has {classes}"
                )

    def attach(self, rows, must_find: bool):
        """`rows` with the cached answers as a column, from the first cache that knows them."""
        for cache in self.caches:
            try:
                return cache.attach(rows)
            except ValueError:
                if must_find and cache is self.caches[-1]:
                    raise
        return rows

    def check_rows(self, rows) -> None:
        """Every row has something to learn."""

    def batch_to_count(self, batch: dict) -> dict:
        """The batch as Trainer is to count its labels: one a row."""
        return batch

    def loss(
        self, model, inputs: dict, num_items, needs_logits: bool
    ) -> tuple[DistillationLoss, torch.Tensor]:
        """(loss, student's logits (rows, classes)) of a batch."""
        args = self.trainer.args
        student_logits = model(**_without_labels(model, inputs)).logits  # (rows, classes)
        # with alpha = 0 nobody asks the teacher: any logits will do, and count for nothing
        answers = self.answers(inputs) if args.alpha > 0 else student_logits.detach()
        loss = distillation_loss(
            student_logits,
            answers,
            inputs["labels"],
            num_items=num_items,
            **args.loss_settings(),
        )
        return loss, student_logits

    @torch.no_grad()
    def answers(self, inputs: dict) -> torch.Tensor:
        """The teacher's logits for a batch: read from their column, or asked for now."""
        teacher = self.trainer.teacher
        # Stored answers go first: a live teacher may be there only for rows without any.
        if TEACHER_LOGITS in inputs:
            return inputs[TEACHER_LOGITS]
        if teacher is None:
            raise ValueError(
                "this batch has no `teacher_logits` and there is no live teacher to ask"
            )
        return teacher(**_without_labels(teacher, inputs)).logits

    def predict(self, model, inputs: dict) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What an evaluation gathers of a batch: logits (rows, classes) and labels."""
        return model(**_without_labels(model, inputs)).logits, inputs.get("labels")

    def metrics(self, output, rows) -> dict[str, float]:
        """CE, and KD and accuracy where they are known, of an evaluation set."""
        logits, labels = output.predictions, output.label_ids
        # A model with several outputs, or rows without labels (`predict`): there is no loss to
        # state.
        if not isinstance(logits, np.ndarray) or logits.ndim != 2 or labels is None:
            return {}
        student_logits, labels = torch.from_numpy(logits), torch.from_numpy(labels)
        known = self._answers_to(rows)
        loss = distillation_loss(
            student_logits,
            student_logits if known is None else torch.from_numpy(known),
            labels,
            **self.trainer.args.loss_settings(),
        )
        # `loss` is CE whatever alpha is: metric_for_best_model must mean the same in a whole sweep.
        means = {"loss": loss.ce.item(), "ce": loss.ce.item()}
        if known is not None:
            means["kd"] = loss.kd.item()
        # compute_metrics brings an accuracy of its own, on the same predictions.
        if self.trainer.compute_metrics is None:
            means["accuracy"] = (student_logits.argmax(-1) == labels).float().mean().item()
        return means

    def _answers_to(self, rows) -> np.ndarray | None:
        """(rows, classes): the column if there is one, else the live teacher's, asked once."""
        trainer = self.trainer
        if _has_answers(rows):
            return np.asarray(rows[TEACHER_LOGITS], dtype=np.float32)
        # The answers of a live teacher cost a pass over the set; a baseline is not made to pay for
        # it.
        if trainer.teacher is None or trainer.args.alpha == 0:
            return None
        # by content: Trainer may hand over a new object at each evaluation, as it drops the
        # columns that nobody reads
        key = getattr(rows, "_fingerprint", None) or id(rows)
        if key not in self._evaluation_answers:
            answers = teacher_logits(
                trainer.teacher,
                rows,
                trainer.data_collator,
                trainer.args.per_device_eval_batch_size,
                trainer.args.device,
            )
            # `rows` is kept beside its logits: were it collected, its id could come back as
            # another dataset's
            self._evaluation_answers[key] = (rows, answers)
        return self._evaluation_answers[key][1]


def _without_labels(model, inputs: dict) -> dict:
    """What the model's forward reads; without labels it makes no loss of its own."""
    return forward_inputs(model, {k: v for k, v in inputs.items() if k != "labels"})


def _as_list(caches) -> list:
    if caches is None:
        return []
    return list(caches) if isinstance(caches, (list, tuple)) else [caches]


def _with_answers(kw: dict, items) -> dict:
    """Trainer's arguments, with the caches' answers as a column of the rows.

    All training rows must be found in a cache, evaluation rows need not.
    """
    for name, must_find in {"train_dataset": True, "eval_dataset": False}.items():
        rows = kw.get(name)
        if isinstance(rows, dict):
            # Trainer takes several evaluation sets as a dict; each is looked up on its own.
            kw[name] = {split: items.attach(part, must_find) for split, part in rows.items()}
        elif rows is not None:
            kw[name] = items.attach(rows, must_find)
    return kw


def _has_answers(rows) -> bool:
    """Does a column lead to the teacher's answers? True also where there are no rows at all."""
    if rows is None:
        return True
    return bool({TEACHER_LOGITS, TEACHER_PLACE} & set(columns_of(rows)))


def train_with_curves(distiller: DistillationTrainer) -> dict:
    """Train in place; `history`, the loss curves from before the first step to the last, and
    `seconds`.
    """
    distiller.evaluate()
    before = list(distiller.state.log_history)
    distiller.fit()
    looks = [log["step"] for log in distiller.state.log_history if "eval_ce" in log]
    if distiller.state.global_step not in looks:
        distiller.evaluate()
    logs = before + distiller.state.log_history
    seconds = [log["train_runtime"] for log in logs if "train_runtime" in log][-1]
    return {"history": loss_curves(logs), "seconds": seconds}


def loss_curves(log_history: list[dict]) -> list[dict]:
    """Trainer's log as tidy rows.

    Each has step, split ("train" or "validation"), ce, and kd and accuracy where they were
    measured.
    """
    rows = []
    for entry in log_history:
        for split, prefix in (("train", ""), ("validation", "eval_")):
            # Other entries are Trainer's own: the learning rate alone, or the summary at the end.
            if f"{prefix}ce" not in entry:
                continue
            measured = {
                name: round(entry[prefix + name], 5)
                for name in ("ce", "kd", "accuracy")
                if prefix + name in entry
            }
            rows.append({"step": entry["step"], "split": split} | measured)
    return rows
