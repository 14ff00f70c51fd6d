"""A Trainer that can be interrupted: it saves by the clock, resumes, and stops in time.

Nothing here is about distillation. `kdlib.trainer` adds the loss.
"""

import shutil
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer

from . import checkpoints
from .progress import Progress
from .sampler import LengthGroupedSampler, columns_of, lengths_of


class Interrupted(KeyboardInterrupt):
    """A training that the reader stopped: in a notebook one line, not a page of traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks an exception for this
        return [str(self)]


class FittingTrainer(Trainer):
    """Trainer, with four additions.

    - `fit()` trains from the newest whole checkpoint and saves every `args.checkpoint_minutes`. At
      the deadline it stops, saves and evaluates; `stopped` is then true. KeyboardInterrupt leaves
      it as `Interrupted`, which says where the next `fit()` goes on.
    - A checkpoint is written beside and then renamed: whoever looks sees a whole one or none.
    - Rows of like length share a batch, in an order that a resumed run repeats.
    - `add_to_log` shows the parts of a loss in the next log line, whatever the accumulation.
    """

    def __init__(self, *given, **kw):
        # {name: {step: sum of its batches' shares}}, until the next log line
        self._parts: dict[str, dict[int, torch.Tensor]] = {}
        self._staging: str | None = None
        super().__init__(*given, **kw)
        if self.pop_callback(PrinterCallback):  # without tqdm: a line a log, not a dict
            self.add_callback(Progress())
        self._clock = checkpoints.Clock(self.args.max_minutes)
        self.add_callback(self._clock)

    # -- running ---------------------------------------------------------------------------------

    def fit(self):
        """`train()` from the newest checkpoint that can be read; unreadable ones are set aside."""
        keeps_state = not self.args.save_only_model
        # one process sets broken checkpoints aside, then all find the same one
        with self.args.main_process_first():
            folder = self.args.output_dir
            checkpoint = checkpoints.newest_checkpoint(folder) if keeps_state else None
        if checkpoint:
            process, device = self.args.process_index, self.args.device
            self._parts = checkpoints.read_parts(checkpoint, process, device)
        self._clock.minutes = self.args.checkpoint_minutes if keeps_state else 0.0
        # None starts from the beginning; a path brings back weights, optimizer, random state and
        # step.
        try:
            output = self.train(resume_from_checkpoint=checkpoint)
        except KeyboardInterrupt:
            raise Interrupted(self._where_it_goes_on(keeps_state)) from None
        if self.stopped and self.eval_dataset is not None:
            self.evaluate()
        if not self.stopped and self.args.save_strategy == "no" and self.is_world_process_zero():
            self._delete_checkpoints()
        return output

    def _where_it_goes_on(self, keeps_state: bool) -> str:
        newest = checkpoints.newest_checkpoint(self.args.output_dir) if keeps_state else None
        step = f"step {newest.rpartition('-')[2]}" if newest else "the beginning"
        return f"stopped at step {self.state.global_step}; run this cell again to go on from {step}"

    def _delete_checkpoints(self) -> None:
        """Those of the clock: nobody asked for them, and the training is done."""
        for saved in Path(self.args.output_dir).glob("checkpoint-[0-9]*"):
            shutil.rmtree(saved, ignore_errors=True)

    def train(self, *given, **kw):
        is_wrapped_elsewhere = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.args.world_size > 1 and not is_wrapped_elsewhere:
            # an evaluation before the training marks the model as wrapped, though evaluations
            # wrap nothing: each process would then learn alone
            self.model._is_accelerate_prepared = False
            self.model_wrapped = self.model
            self.accelerator._models.clear()
        return super().train(*given, **kw)

    @property
    def stopped(self) -> bool:
        """Was the last training stopped by the deadline?"""
        return self._clock.stopped

    # -- checkpoints -----------------------------------------------------------------------------

    def _get_output_dir(self, trial):
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        """Trainer's, but written beside and then renamed."""
        if self.args.metric_for_best_model:  # the path of the best one stands inside: no renaming
            return super()._save_checkpoint(model, trial)
        folder = Path(super()._get_output_dir(trial))
        staged = folder / "saving" / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)  # of a run that was killed
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
            checkpoints.publish(staged, self._checkpoints_to_keep())
        self.accelerator.wait_for_everyone()

    def _checkpoints_to_keep(self) -> int | None:
        """At least two: the newest may be cut off. None: all that the user asked for."""
        limit = self.args.save_total_limit
        if not limit and self.args.save_strategy == "no":  # saved by the clock alone
            limit = 2
        return limit and max(2, limit)

    # -- log lines -------------------------------------------------------------------------------

    def add_to_log(self, name: str, share: torch.Tensor) -> None:
        """`share`: what this batch adds to the step's mean of `name` (a scalar)."""
        step = self.state.global_step
        steps = self._parts.setdefault(name, {})
        # detach: a logged number must not keep the graph of its batch alive. A sum: the batches of
        # one step have divided by the same count.
        steps[step] = steps.get(step, torch.zeros_like(share.detach())) + share.detach()

    def training_step(self, *given, **kw):
        loss = super().training_step(*given, **kw)
        # Trainer's own mean forgets the steps before a checkpoint that no line has shown yet
        self.add_to_log("loss", loss)
        return loss

    def log(self, logs, *args, **kw):
        if "loss" in logs:
            for name, steps in self._parts.items():
                if steps:
                    mean = torch.stack(list(steps.values())).mean()
                    # Over the steps since the last line, then over processes.
                    logs[name] = self.accelerator.reduce(mean, "mean").item()
                steps.clear()
            logs["loss"] = round(logs["loss"], 4)  # as Trainer does
        super().log(logs, *args, **kw)

    # -- the order of rows -----------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        if "input_ids" not in columns_of(rows):
            given = [] if train_dataset is None else [train_dataset]
            return super()._get_train_sampler(*given)
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        # grouped by the step, not by the batch: the same rows make a step however it is cut into
        # batches and processes
        rows_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGroupedSampler(lengths_of(rows), rows_a_step, seed)
