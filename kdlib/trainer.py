"""Distillation with Hugging Face's `Trainer`: one loss, one sampler, three evaluation numbers.

    args = DistillationArguments("runs/student", temperature=2.0, alpha=0.5, learning_rate=5e-5)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=rows, eval_dataset=validation)
    trainer.fit()                                    # trains, or goes on from the newest whole checkpoint

As a command: `python -m kdlib train --help` (every TrainingArguments option, and ours).
"""
import os
import shutil
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput
from transformers.trainer_utils import get_last_checkpoint

from . import causal, checkpoints, launch
from .answers import TEACHER_LOGITS, teacher_logits
from .losses import check_settings, distillation_loss
from .models import check_pair, forward_inputs


LARGE = 2_000_000_000                       # weights from which on a live teacher is shared out among the processes


@dataclass
class DistillationArguments(TrainingArguments):
    """TrainingArguments plus the three that distillation adds. alpha weights the *soft* loss: alpha = 0 is plain CE."""

    temperature: float = field(default=2.0, metadata={"help": "T > 0: softens teacher and student in the KD loss"})
    alpha: float = field(default=0.5, metadata={"help": "weight of the soft (KD) loss, 0…1; CE gets 1 - alpha"})
    divergence: str = field(default="forward_kl", metadata={"help": "forward_kl, reverse_kl or jsd"})
    report_to: str | None = field(default="none", metadata={"help": "trackers, as in TrainingArguments"})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "as in TrainingArguments"})
    warmup_ratio: float = field(default=0.0, metadata={"help": "share of the steps in which the learning rate rises"})
    checkpoint_minutes: float = field(default_factory=lambda: float(os.environ.get("KD_CHECKPOINT_MINUTES", 10)),
                                      metadata={"help": "fit() saves this often, whatever save_strategy says; 0: never"})
    max_minutes: float = field(default=0.0, metadata={"help": "stop, save and evaluate after so many minutes; 0: when all is done"})

    shard_teacher: bool = field(default=False, metadata={"help": "under torchrun each process holds a share of the live teacher's "
                                                               "weights (FSDP), for a teacher that no GPU holds beside the student; above two billion weights by itself"})

    def __post_init__(self):
        if "warmup_ratio" not in TrainingArguments.__dataclass_fields__ and self.warmup_ratio:      # transformers 5: one field for both
            self.warmup_steps = self.warmup_ratio
        if self.gradient_checkpointing and self.gradient_checkpointing_kwargs is None:
            self.gradient_checkpointing_kwargs = {"use_reentrant": False}       # the older kind finds no gradient behind LoRA's frozen embeddings
        count = int(os.environ.get("WORLD_SIZE", 1))
        if count > 1 and not torch.cuda.is_available():
            self.use_cpu = True                                     # or accelerate lets each process train alone
        if os.environ.get("KD_NPROC") and count > 1:                # see `launch`: a step keeps its rows
            if self.per_device_train_batch_size % count:
                raise ValueError(f"a batch of {self.per_device_train_batch_size} rows cannot be shared by {count} processes; --nproc must divide batch_size")
            self.per_device_train_batch_size //= count
        super().__post_init__()
        if self.world_size != count:
            raise RuntimeError(f"{count} processes were started and {self.world_size} would train together: each would learn from its own share alone")
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()   # else: a warning a run
        check_settings(self.temperature, self.alpha, self.divergence)
        if not (self.checkpoint_minutes >= 0 and self.max_minutes >= 0):
            raise ValueError(f"checkpoint_minutes and max_minutes must be 0 or more, not {self.checkpoint_minutes:g} and {self.max_minutes:g}")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor would be ignored: the loss is ours. Label smoothing ε is alpha = ε, "
                             "T = 1 and a teacher whose logits are all equal; pass them as a `teacher_logits` column.")

    @property
    def device(self) -> torch.device:
        """Plain "cpu" where several processes share it: accelerate's "cpu:0" keeps torch.load from reading a checkpoint."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class DistillationTrainer(Trainer):
    """A Trainer whose loss is `losses.distillation_loss`, for classifiers and for causal language models.

    The teacher answers live (`teacher=`) or has answered already: `teacher_cache=` (a `teacher_cache.TeacherCache` of the
    training rows, or a list that covers the evaluation rows too), or a dataset with a `teacher_logits` column, (rows,
    classes), need no teacher at all. With alpha = 0 the teacher is never run, so the baseline does not pay for it.
    Evaluation reports `eval_ce` (also as `eval_loss`: it means the same for every alpha), and where the teacher's
    answers are known or alpha > 0, `eval_kd`; the teacher reads an evaluation set once, not once an evaluation.

    Of a causal language model (`labels` as transformers has them: not shifted, -100 where nothing is learnt) only target
    positions reach the head, the student's and the teacher's, in training a few at a time: see `causal` and `engine.wide_loss`. Its
    cache keeps the k likeliest words, its evaluation sums up batch by batch (`eval_perplexity` too) and a live teacher reads
    the set at every evaluation. ce_only:
    ids of target tokens for which CE counts in full and the teacher is not heard, for example the end token that an untuned
    teacher does not know. change: a function (answers, student's logits) → answers for control experiments, used while training
    (`methods.for_tokens`); it needs the student's logits, so such a run takes the dense way, with its time and memory.
    """

    def __init__(self, model=None, args: DistillationArguments | None = None, *, teacher=None, teacher_cache=None,
                 ce_only: tuple[int, ...] = (), change=None, **kw):
        self.causal, self.ce_only, self._change, self._caches = causal.is_causal(model), tuple(ce_only), change, []
        self._dense = False                                     # the student's logits are needed after all
        if (ce_only or change) and not self.causal:
            raise ValueError("ce_only and change are about tokens of a causal language model; a classifier has none")
        if teacher_cache is not None:
            self._caches = list(teacher_cache) if isinstance(teacher_cache, (list, tuple)) else [teacher_cache]
            kw = _with_answers(kw, model, self._caches, args, self.causal)
        super().__init__(model=model, args=args, **kw)
        if not isinstance(self.args, DistillationArguments):
            raise TypeError(f"args must be DistillationArguments, not {type(self.args).__name__}")
        if self.causal and self.args.n_gpu > 1:
            raise ValueError("several GPUs in one process cannot share a language model's batch here: start one process a GPU (torchrun)")
        # Our loss divides by the count of the whole step, whatever the model's forward accepts: Trainer must pass that
        # count and must not divide by gradient_accumulation_steps on top.
        self.model_accepts_loss_kwargs = True
        self._parts = {"ce": {}, "kd": {}}                      # {step: the sum of its batches' shares}, until logged
        if self.pop_callback(PrinterCallback):                  # with tqdm off: a line a log, not a dict
            self.add_callback(Progress())
        self._clock, self._staging = checkpoints.Clock(self.args.max_minutes), None
        self.add_callback(self._clock)
        self._eval_teacher_logits = {}
        # a plain attribute of a plain dict: the teacher must not become a submodule of anything that is saved
        self._teacher = {"model": None}
        if self.causal:
            causal.refuse_nothing_to_learn(self.train_dataset)
        if teacher is not None:
            for cache in self._caches:
                cache.check(teacher=teacher)
            self._adopt(teacher)
        elif self.args.alpha > 0 and not _has_column(self.train_dataset) and self.train_dataset is not None:
            raise ValueError("alpha > 0 needs a teacher: pass teacher=… or a dataset with a `teacher_logits` column")

    def _adopt(self, teacher) -> None:
        check_pair(teacher, self.model)
        teacher.requires_grad_(False).eval()
        shared = self.args.world_size > 1 and (self.args.shard_teacher or teacher.num_parameters() >= LARGE)
        self._teacher["model"] = launch.shard(teacher, self.args.device) if shared else teacher.to(self.args.device)

    @property
    def teacher(self):
        return self._teacher["model"]

    # -- the loss ----------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.get("labels")
        if labels is None:
            raise ValueError("the batch has no `labels`; a column named `label` or `labels` is needed")
        if self.causal:
            keep, targets = causal.target_positions(labels)
            wide = not (return_outputs or self._change or self._dense)
            if wide and causal.why_dense(model, inputs):
                wide, self._dense = False, True
            if wide:
                teacher = self._wide_answers(inputs, keep)
                loss = causal.wide_loss(model, inputs, keep, targets, teacher, num_items=num_items_in_batch, **self._settings())
            else:
                student = causal.logits_at(model, inputs, keep)
                teacher = self._token_answers(inputs, keep) if self.args.alpha > 0 else None
                if self._change and teacher is not None and model.training:
                    teacher = self._change(teacher, student)
                loss = causal.token_loss(student, teacher, targets, num_items=num_items_in_batch, **self._settings())
        else:
            outputs = model(**forward_inputs(model, {k: v for k, v in inputs.items() if k != "labels"}))
            student = outputs.logits
            teacher = self._answers(inputs) if self.args.alpha > 0 else None
            loss = distillation_loss(
                student, student.detach() if teacher is None else teacher, labels, temperature=self.args.temperature,
                alpha=self.args.alpha, divergence=self.args.divergence, num_items=num_items_in_batch)
        total = loss.total
        if num_items_in_batch is not None and model.training:
            # the count is summed over processes, while DDP *averages* gradients: without this factor they are halved
            scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            total = total * scale
            for name in ("ce", "kd") if self.args.alpha > 0 else ("ce",):
                step = self._parts[name].setdefault(self.state.global_step, torch.zeros_like(total.detach()))
                step += getattr(loss, name).detach() * scale
        output = CausalLMOutput if self.causal else SequenceClassifierOutput
        return (total, output(loss=total, logits=student)) if return_outputs else total

    def _wide_answers(self, inputs, keep) -> dict:
        """What the teacher says, as `causal.wide_loss` takes it; with alpha = 0 it isn't asked."""
        if self.args.alpha == 0:
            return {}
        if self.teacher is None or (self._caches and causal.TEACHER_PLACE in inputs):
            return {"teacher_topk": self._token_answers(inputs, keep)}
        return causal.wide_answers(self.teacher, inputs, keep)

    def _settings(self) -> dict:
        return dict(temperature=self.args.temperature, alpha=self.args.alpha, divergence=self.args.divergence, ce_only=self.ce_only)

    @torch.no_grad()
    def _answers(self, inputs) -> torch.Tensor:
        """The teacher's logits for a batch: read from its column, or asked for now."""
        if TEACHER_LOGITS in inputs:
            return inputs[TEACHER_LOGITS]
        if self.teacher is None:
            raise ValueError("this batch has no `teacher_logits` and there is no live teacher to ask")
        return self.teacher(**forward_inputs(self.teacher, {k: v for k, v in inputs.items() if k != "labels"})).logits

    @torch.no_grad()
    def _token_answers(self, inputs, keep):
        """The teacher's words at the batch's target positions: from a cache, or asked for now; None where there is neither."""
        if self._caches and causal.TEACHER_PLACE in inputs:
            return causal.cached_answers(self._caches, inputs[causal.TEACHER_PLACE], self.args.temperature, keep.device)
        return None if self.teacher is None else causal.logits_at(self.teacher, inputs, keep)

    def _get_num_items_in_batch(self, batch_samples, device):
        """The count that the loss divides by: of a causal model's labels the first predicts nothing's successor and is not counted."""
        if self.causal:
            batch_samples = [{"labels": batch["labels"][:, 1:]} if "labels" in batch else batch for batch in batch_samples]
        return super()._get_num_items_in_batch(batch_samples, device)

    # -- data --------------------------------------------------------------------------------------------------------

    def _set_signature_columns_if_needed(self):
        """Keep what the teacher reads (BERT's token_type_ids) beside what the student reads."""
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, "token_type_ids", TEACHER_LOGITS, causal.TEACHER_PLACE]))

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        if "input_ids" not in (getattr(rows, "column_names", None) or []):
            return super()._get_train_sampler(*([] if train_dataset is None else [train_dataset]))
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        # grouped by the step, not by the batch: the same rows make a step however it is cut into batches and processes
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler([len(ids) for ids in rows["input_ids"]], step, seed)

    # -- numbers -----------------------------------------------------------------------------------------------------

    def log(self, logs, *args, **kw):
        if "loss" in logs:
            for name, steps in self._parts.items():
                if steps:
                    logs[name] = self.accelerator.reduce(torch.stack(list(steps.values())).mean(), "mean").item()
                steps.clear()
        super().log(logs, *args, **kw)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Logits alone: `evaluation_loop` makes the losses of them, with answers that the teacher gives only once.

        A causal model's logits would not fit in memory: (batch, 4) sums over each row's tokens instead.
        """
        inputs = self._prepare_inputs(inputs)
        if self.causal:
            keep, targets = causal.target_positions(inputs["labels"])
            with torch.no_grad(), self.compute_loss_context_manager():
                known = causal.TEACHER_PLACE in inputs or self.args.alpha > 0
                teacher = self._token_answers(inputs, keep) if known else None
                student = causal.logits_at(model, inputs, keep)
                return None, causal.row_sums(student, teacher, targets, keep.sum(1).tolist(), **self._settings()), None
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**forward_inputs(model, {k: v for k, v in inputs.items() if k != "labels"})).logits
        return None, logits.detach(), inputs.get("labels")

    def evaluation_loop(self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"):
        """Trainer's loop, then CE and KD from the logits it gathered: exact however batches and processes were cut."""
        rows = dataloader.dataset
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        logits, labels = output.predictions, output.label_ids
        if self.causal:
            known = _has_column(rows) or (self.args.alpha > 0 and self.teacher is not None)
            output.metrics.update(causal.metrics(logits, known, metric_key_prefix))
            return output
        if not isinstance(logits, np.ndarray) or logits.ndim != 2 or labels is None:
            return output
        known = self._teacher_logits_of(rows)
        student, labels = torch.from_numpy(logits), torch.from_numpy(labels)
        teacher = student if known is None else torch.from_numpy(known)
        part = distillation_loss(student, teacher, labels, temperature=self.args.temperature, alpha=0.0,
                                 divergence=self.args.divergence)
        output.metrics[f"{metric_key_prefix}_loss"] = output.metrics[f"{metric_key_prefix}_ce"] = part.ce.item()
        if known is not None:
            output.metrics[f"{metric_key_prefix}_kd"] = part.kd.item()
        if self.compute_metrics is None:
            output.metrics[f"{metric_key_prefix}_accuracy"] = (student.argmax(-1) == labels).float().mean().item()
        return output

    def _teacher_logits_of(self, rows) -> np.ndarray | None:
        """(rows, classes): the column if there is one, else the live teacher's, asked once for each evaluation set."""
        if _has_column(rows):
            return np.asarray(rows[TEACHER_LOGITS], dtype=np.float32)
        if self.teacher is None or self.args.alpha == 0:
            return None
        # by content: Trainer may hand over a new object at each evaluation (it drops the columns that nobody reads)
        key = getattr(rows, "_fingerprint", None) or id(rows)
        if key not in self._eval_teacher_logits:
            # `rows` is kept beside its logits: were it collected, its id could come back as another dataset's
            self._eval_teacher_logits[key] = (rows, teacher_logits(
                self.teacher, rows, self.data_collator, self.args.per_device_eval_batch_size, self.args.device))
        return self._eval_teacher_logits[key][1]

    # -- running -----------------------------------------------------------------------------------------------------

    def fit(self):
        """`train()`, from the newest checkpoint in the output folder that can be read; unreadable ones are set aside.

        Saves by the clock on the way. When the deadline stops it, it evaluates what there is, and `stopped` is true.
        """
        with self.args.main_process_first():                    # one sets broken ones aside, then all find the same
            checkpoint = None if self.args.save_only_model else newest_checkpoint(self.args.output_dir)
        if checkpoint:
            self._parts = checkpoints.read_parts(checkpoint, self.args.process_index, self.args.device)
        self._clock.minutes = 0.0 if self.args.save_only_model else self.args.checkpoint_minutes
        output = self.train(resume_from_checkpoint=checkpoint)
        if self.stopped and self.eval_dataset is not None:
            self.evaluate()
        elif not self.stopped and self.args.save_strategy == "no" and self.is_world_process_zero():
            for saved in Path(self.args.output_dir).glob("checkpoint-[0-9]*"):      # by the clock: nobody asked for them
                shutil.rmtree(saved, ignore_errors=True)
        return output

    def train(self, *given, **kw):
        if self.args.world_size > 1 and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # an evaluation before the training marked the model as wrapped, though evaluations wrap nothing: each process would learn alone
            self.model._is_accelerate_prepared, self.model_wrapped = False, self.model
            self.accelerator._models.clear()
        return super().train(*given, **kw)

    @property
    def stopped(self) -> bool:
        """Was the last training stopped by the deadline?"""
        return self._clock.stopped

    def _get_output_dir(self, trial):
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        """Trainer's, but written beside and then renamed: whoever looks sees a whole checkpoint or none."""
        if self.args.metric_for_best_model:                     # its path stands inside the checkpoint
            return super()._save_checkpoint(model, trial)
        folder = Path(super()._get_output_dir(trial))
        staged = folder / "saving" / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)    # of one that was killed
        self.accelerator.wait_for_everyone()
        self._staging = str(staged.parent)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        if not self.args.save_only_model:
            checkpoints.write_parts(self._parts, staged, self.args.process_index)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            limit = self.args.save_total_limit or (2 if self.args.save_strategy == "no" else None)
            checkpoints.publish(staged, limit and max(2, limit))
        self.accelerator.wait_for_everyone()


def loss_curves(log_history: list[dict]) -> list[dict]:
    """Trainer's log as tidy rows: step, split ("train" or "validation"), ce, and kd and accuracy where they were measured."""
    rows = []
    for entry in log_history:
        for split, prefix in (("train", ""), ("validation", "eval_")):
            if f"{prefix}ce" in entry:
                rows.append({"step": entry["step"], "split": split} | {
                    name: round(entry[prefix + name], 5) for name in ("ce", "kd", "accuracy") if prefix + name in entry})
    return rows


class LengthGroupedSampler(Sampler):
    """Rows in random order, but neighbours of like length, so that a batch is padded to little more than its rows need.

    The order depends on (seed, epoch) alone. Trainer's own `group_by_length` draws from the global random state instead,
    and a run resumed in the middle of an epoch then sees other batches than the run that was never interrupted.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int = 0, pool: int = 50):
        self.lengths, self.batch_size, self.seed, self.pool, self.epoch = np.asarray(lengths), batch_size, seed, pool, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self):
        draw = np.random.default_rng([self.seed, self.epoch])
        order, size, batches = draw.permutation(len(self.lengths)), self.pool * self.batch_size, []
        for start in range(0, len(order), size):
            pool = order[start:start + size]
            pool = pool[np.argsort(-self.lengths[pool], kind="stable")]
            batches += [pool[i:i + self.batch_size] for i in range(0, len(pool), self.batch_size)]
        ragged = batches.pop() if batches and len(batches[-1]) < self.batch_size else None
        shuffled = [batches[i] for i in draw.permutation(len(batches))]
        return iter(np.concatenate(shuffled + ([ragged] if ragged is not None else [])).tolist() if len(order) else [])


def newest_checkpoint(folder: str | Path) -> str | None:
    """The newest checkpoint that is whole. A cut-off one (killed while saving, disk full) is renamed to *.broken."""
    folder = Path(folder)
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))):
        if _whole(Path(found)):
            return found
        broken = Path(found).with_name(Path(found).name.replace("checkpoint-", "broken-"))
        shutil.rmtree(broken, ignore_errors=True)
        Path(found).rename(broken)
        print(f"{Path(found).name} was cut off while it was written; going back to the one before")
    return None


def _whole(checkpoint: Path) -> bool:
    """Is every file that resuming needs there and whole? torch's are zip archives, which carry checksums."""
    import json

    from safetensors import safe_open
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        weights, states = list(checkpoint.glob("*.safetensors")), list(checkpoint.glob("rng_state*.pth"))
        for file in weights:
            safe_open(file, "pt").__enter__()                   # refuses a file that is shorter than its header says
        for file in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *states):
            if zipfile.ZipFile(file).testzip() is not None:
                return False
        return bool(weights and states)
    except Exception:                           # any failure to read means the same thing: do not resume from it
        return False


class Progress(TrainerCallback):
    """One line a log: a silent cell looks hung, and papermill saves only when a kernel speaks.

    In a batch run also a line whenever 20 seconds went by without one.
    """

    spoke = 0.0

    def on_train_begin(self, args, state, control, **kw):
        self.spoke = time.monotonic()

    def on_step_end(self, args, state, control, **kw):
        if os.environ.get("KD_BATCH") and state.is_world_process_zero and time.monotonic() - self.spoke >= 20:
            self.spoke = time.monotonic()
            print(f"step {state.global_step:>5}/{state.max_steps}", flush=True)

    def on_log(self, args, state, control, logs=None, **kw):
        if logs and "loss" in logs and state.is_world_process_zero:
            parts = "  ".join(f"{k} {logs[k]:.3f}" for k in ("loss", "ce", "kd") if k in logs)
            self.spoke = time.monotonic()
            print(f"step {state.global_step:>5}/{state.max_steps}  {parts}", flush=True)

    def on_evaluate(self, args, state, control, metrics=None, **kw):
        if metrics and state.is_world_process_zero:
            parts = "  ".join(f"{k.removeprefix('eval_')} {v:.3f}" for k, v in metrics.items()
                              if k in ("eval_ce", "eval_kd", "eval_perplexity", "eval_accuracy", "eval_macro_f1"))
            print(f"{'':>5}validation  {parts}", flush=True)


def _with_answers(kw: dict, student, caches: list, args, is_causal: bool) -> dict:
    """Trainer's arguments with the caches' answers as a column of the training rows, and of the evaluation rows they know.

    A causal model's answers are too many for a column: it holds each row's place in the caches.
    """
    classes = getattr(getattr(student, "config", None), "num_labels", None)
    if is_causal:
        causal.check_caches(caches, student, args.temperature)
    for cache in [] if is_causal else caches:
        if classes is not None and cache.classes != classes:
            raise ValueError(f"the teacher cache has answers for {cache.classes} classes, the student has {classes}")

    def attach(rows, must: bool):
        if is_causal:
            return causal.with_places(rows, caches, must)
        for i, cache in enumerate(caches, 1):
            try:
                return cache.attach(rows)
            except ValueError:
                if must and i == len(caches):
                    raise
        return rows

    given = {"train_dataset": True, "eval_dataset": False}
    for name, must in given.items():
        if isinstance(kw.get(name), dict):
            kw[name] = {split: attach(rows, must) for split, rows in kw[name].items()}
        elif kw.get(name) is not None:
            kw[name] = attach(kw[name], must)
    return kw


def _has_column(rows) -> bool:
    return not {TEACHER_LOGITS, causal.TEACHER_PLACE}.isdisjoint(getattr(rows, "column_names", None) or [])
