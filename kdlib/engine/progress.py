"""What a training says while it runs."""

import os
import time

from transformers import TrainerCallback

QUIET_SECONDS = 20  # a batch run prints at least this often
VALIDATION = ("eval_ce", "eval_kd", "eval_perplexity", "eval_accuracy", "eval_macro_f1")


class Progress(TrainerCallback):
    """One line a log: a silent cell looks hung, and papermill saves only when a kernel speaks.

    In a batch run (`KD_BATCH`) also a line whenever `QUIET_SECONDS` went by without one.
    """

    last_line = 0.0  # when it was printed, by time.monotonic()

    def on_train_begin(self, args, state, control, **kw):
        self.last_line = time.monotonic()
        if state.global_step and state.is_world_process_zero:
            self._say(f"{_step(state)}  going on from this checkpoint")

    def on_step_end(self, args, state, control, **kw):
        is_quiet = time.monotonic() - self.last_line >= QUIET_SECONDS
        if os.environ.get("KD_BATCH") and state.is_world_process_zero and is_quiet:
            self._say(f"{_step(state)}")

    def on_log(self, args, state, control, logs=None, **kw):
        if logs and "loss" in logs and state.is_world_process_zero:
            parts = [f"{name} {logs[name]:.3f}" for name in ("loss", "ce", "kd") if name in logs]
            self._say(f"{_step(state)}  {'  '.join(parts)}")

    def on_evaluate(self, args, state, control, metrics=None, **kw):
        if metrics and state.is_world_process_zero:
            parts = [
                f"{name.removeprefix('eval_')} {value:.3f}"
                for name, value in metrics.items()
                if name in VALIDATION
            ]
            print(f"{'':>5}validation  {'  '.join(parts)}", flush=True)

    def _say(self, line: str) -> None:
        self.last_line = time.monotonic()
        # flush: what a batch job prints goes through a pipe, which Python fills before it sends.
        print(line, flush=True)


def _step(state) -> str:
    return f"step {state.global_step:>5}/{state.max_steps}"
