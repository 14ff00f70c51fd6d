"""Distil a sequence classifier from the command line, or on several processes:

    python -m kdlib train glue --task mnli --data data/mini_nli --teacher data/teachers/mini_nli \\
        --layers 0,2 --num_train_epochs 3 --learning_rate 5e-4 --temperature 2 --alpha 0.9
    torchrun --nproc_per_node 2 -m kdlib train glue …

It has what a notebook's run has: a folder that belongs to its settings (under runs/train_glue, or
--output_dir), checkpoints, the job's deadline, a record, and a line in `python -m kdlib status`.
Exit codes as in `runs`.
"""

import json
import re
import shutil
import sys
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import torch
from transformers import HfArgumentParser

from .. import glue, models
from ..course import lock, teachers
from ..course.run import Run, run_folder, writable
from ..engine import deadline, teacher_cache
from ..paths import did_you_mean
from ..trainer import DistillationArguments, DistillationTrainer, loss_curves
from .runs import FAILED, INTERRUPTED, OK, STOPPED, note_outcome

NAME = "train_glue"  # where a notebook's run has the notebook's name
# Options that change no result: they are no part of the settings.
MACHINE_OPTIONS = {
    "output_dir", "logging_dir", "run_name", "local_rank", "use_cpu", "no_cuda", "disable_tqdm",
    "dataloader_num_workers", "dataloader_pin_memory", "include_num_input_tokens_seen",
    "per_device_eval_batch_size", "checkpoint_minutes", "max_minutes", "save_strategy",
    "save_steps", "save_total_limit",
}  # fmt: skip
LEFT_BY_REFUSED = {"run.json", "outcome.json", lock.NAME}
METRICS = ("ce", "kd", "accuracy", "macro_f1")


@dataclass
class DataAndModels:
    """What to read and whom to ask.

    Everything else is an option of DistillationArguments (of TrainingArguments, that is).
    """

    teacher: str = field(metadata={"help": "hub id or folder of the trained teacher"})
    task: str = field(default="mnli", metadata={"help": "mnli or qqp"})
    data: str = field(
        default="nyu-mll/glue", metadata={"help": "hub id, or a folder of the same layout"}
    )
    layers: str = field(
        default="", metadata={"help": "teacher layers that the student starts from, as 0,2,4"}
    )
    family: str = field(
        default="", metadata={"help": "distilbert: turn a BERT teacher's layers into a DistilBERT"}
    )
    student: str = field(
        default="", metadata={"help": "hub id or folder of a student, instead of teacher layers"}
    )
    train_rows: int = field(default=0, metadata={"help": "0: all"})
    validation_rows: int = field(default=0, metadata={"help": "0: all"})
    max_length: int = field(default=128, metadata={"help": "tokens a pair"})
    cache: bool = field(
        default=False,
        metadata={"help": "keep the teacher's answers on disk: the next run does not ask it again"},
    )


def main(arguments: list[str]) -> int:
    """What follows `python -m kdlib train`. Returns the exit code; ValueError for what is refused."""
    if arguments and not arguments[0].startswith("-"):
        kind, *arguments = arguments
        if kind != "glue":
            raise ValueError(
                f"there is no `train {kind}`{did_you_mean(kind, ['glue'])}; there is glue"
            )
    deadline.fix()
    given, args = parse(arguments)
    check(given, args)
    with recorded(given, args) as run:
        metrics = train(given, args)
        if run:
            run.record(**metrics)
    return STOPPED if run and run.partial else OK


def parse(arguments: list[str]) -> tuple[DataAndModels, DistillationArguments]:
    parser = HfArgumentParser(
        (DataAndModels, DistillationArguments), prog="python -m kdlib train glue"
    )
    # fit() saves by the clock, keeps two and clears up; a log file needs no bars
    usual = ["--save_strategy", "no", "--disable_tqdm", str(not sys.stderr.isatty())]
    given, args = parser.parse_args_into_dataclasses([*usual, *arguments])
    if not any(text.split("=")[0] == "--output_dir" for text in arguments):
        args.output_dir = str(run_folder(NAME, "cli", args.seed, settings(given, args)))
    return given, args


def settings(given: DataAndModels, args: DistillationArguments) -> dict:
    """What was asked for, Trainer's options as far as they are not its defaults."""
    # Not against a second DistillationArguments: it would reset the process group that the first
    # one made.
    defaults = {}
    for option in fields(DistillationArguments):
        computed = option.default_factory is not MISSING
        defaults[option.name] = option.default_factory() if computed else option.default
    asked = asdict(given)
    for name, value in sorted(args.to_dict().items()):
        plain = isinstance(value, (bool, int, float, str)) and not name.endswith("_token")
        if plain and value != defaults.get(name) and name not in MACHINE_OPTIONS:
            asked[name] = value
    return asked


@contextmanager
def recorded(given: DataAndModels, args: DistillationArguments):
    """The run: its folder is taken and, without an error, its record written.

    None in all processes but the first.
    """
    if args.process_index:
        yield None
        return
    folder = Path(args.output_dir)
    fresh = not folder.exists()
    writable(folder)
    lock.acquire(folder)
    try:
        run = Run(NAME, "cli", args.seed, settings(given, args), args.output_dir)
        (folder / "outcome.json").unlink(missing_ok=True)
        yield run
        run.finish()
    except BaseException as error:
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        note_outcome(folder, code, f"{type(error).__name__}: {error}")
        if fresh and isinstance(error, (ValueError, OSError)):
            # refused: nothing was trained or saved; a full disk, say, stays on record
            if {file.name for file in folder.iterdir()} <= LEFT_BY_REFUSED:
                shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.release(folder)


def check(given: DataAndModels, args: DistillationArguments) -> None:
    """ValueError for options that make no sense, alone or together."""
    if given.task not in glue.TASKS:
        raise ValueError(f"--task must be one of {', '.join(glue.TASKS)}, not {given.task!r}")
    if bool(given.layers) == bool(given.student):
        raise ValueError(
            "give --layers (a student out of the teacher) or --student (a checkpoint), one of the "
            "two"
        )
    if given.teacher.endswith(".safetensors"):
        raise ValueError(
            f"--teacher must be a hub id or a folder: {given.teacher} holds stored answers, which "
            "notebooks 04 and 05 read"
        )
    if given.max_length < 1 or (args.num_train_epochs <= 0 and args.max_steps < 1):
        raise ValueError(
            "--max_length and --num_train_epochs must be above 0, not "
            f"{given.max_length} and {args.num_train_epochs:g}"
        )
    if not re.fullmatch(r"(\d+(,\d+)*)?", given.layers):
        raise ValueError(
            f"--layers must be numbers with commas between them, as 0,2,4, not {given.layers!r}"
        )


def load_models(given: DataAndModels, args: DistillationArguments, task: glue.Task) -> tuple:
    """(teacher, student, tokenizer).

    With alpha = 0 nobody asks the teacher: it lends its layers and may have a random head.
    """
    if args.alpha > 0:
        teacher, student, tokenizer = models.load_pair(given.teacher, given.student, task.labels)
    else:
        teacher = student = models.load(given.teacher, labels=task.labels)
        models.check_labels(teacher, task.labels)
        tokenizer = models.load_tokenizer(given.teacher)
        if given.student:
            student = models.load(given.student, labels=task.labels)
            models.check_pair(teacher, student, tokenizer, models.load_tokenizer(given.student))
    if given.layers:
        layers = models.which_layers(given.layers, teacher)
        student = models.student_from_teacher(teacher, layers, given.family or None)
    return teacher, student, tokenizer


def train(given: DataAndModels, args: DistillationArguments) -> dict:
    """Results for the record; the student lies in the output folder."""
    task = glue.TASKS[given.task]
    torch.manual_seed(args.seed)
    teacher, student, tokenizer = load_models(given, args, task)
    distils = args.alpha > 0
    rows = {}
    for split, count in (("train", given.train_rows), (task.validation, given.validation_rows)):
        part = glue.load(task, given.data, split, rows=count)
        if split == task.validation and distils:
            # names can be right and the order still wrong: ask the rows
            teachers.check_on_some_rows(teacher, part, tokenizer, task, max_length=given.max_length)
        rows[split] = glue.encode(part, tokenizer, task, max_length=given.max_length)
    caches = None
    if given.cache and distils:
        caches = [teacher_cache.build(teacher, part, tokenizer) for part in rows.values()]
    trainer = DistillationTrainer(
        student,
        args,
        teacher=None if caches else teacher,
        teacher_cache=caches,
        train_dataset=rows["train"],
        eval_dataset=rows[task.validation],
        data_collator=glue.collator(tokenizer),
        compute_metrics=glue.compute_metrics,
    )
    trainer.fit()
    metrics = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        if given.student:
            tokenizer = models.load_tokenizer(given.student)
        tokenizer.save_pretrained(args.output_dir)
        print(json.dumps({k: round(v, 4) for k, v in metrics.items() if isinstance(v, float)}))
    results = {name: metrics[f"eval_{name}"] for name in METRICS if f"eval_{name}" in metrics}
    return {"history": loss_curves(trainer.state.log_history), **results}
