"""The teachers that ship in data/teachers: how each was made,
and the one command that makes it again.

What it makes goes to runs/teacher_NAME, and nothing that ships is touched: `--replace` puts it in
the shipped one's place.

    python -m kdlib.course.teachers mini_nli
        a 4-layer BERT from scratch on the embedded MiniNLI
    python -m kdlib.course.teachers mini_qqp
        the same on MiniQQP
    python -m kdlib.course.teachers miniparl
        a 4-layer Llama from scratch on the embedded MiniParl
    python -m kdlib.course.teachers europarl
        a small Llama with Llama 3's vocabulary on real Europarl (50 MB); none ships
    python -m kdlib.course.teachers smollm2
        SmolLM2-135M (a pretrained Llama) on 16,000 real Europarl pairs, one to two hours on two
        cores. Its weights (540 MB) lie in runs/teacher_smollm2; what ships are its answers to 6,000
        pairs, and its own translations of them
    python -m kdlib.course.teachers mnli
        MiniLM (6 layers) on 8,000 real MNLI rows; only its *logits* ship. The weights (90 MB) lie
        in runs/teacher_mnli, where notebook 08 finds them, and its logits beside them
    python -m kdlib.course.teachers qqp
        the same on 8,000 real QQP rows
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from .. import glue, models
from ..paths import DATA, ROOT
from ..trainer import DistillationTrainer, teacher_logits
from . import recipes, translators
from .run import set_seed

# The BERTs from scratch: what they share, and what each was given on its validation rows.
MINI = {
    "more_rows_seeds": [1, 2],
    "layers": 4,
    "width": 128,
    "heads": 4,
    "batch_size": 64,
    "max_length": 64,
    "dropout": 0.0,
    "initializer_range": 0.08,
    "seed": 0,
}
OWN = {
    "mini_nli": {"epochs": 8, "learning_rate": 1e-3},
    # at 1e-3 it falls back to one answer after an epoch
    "mini_qqp": {"epochs": 12, "learning_rate": 5e-4},
}
TASK_OF = {"mini_nli": glue.MNLI, "mini_qqp": glue.QQP}
# The pretrained BERT on real rows.
REAL = {
    "source": "nyu-mll/glue",
    "body": "sentence-transformers/all-MiniLM-L6-v2",
    "rows": 8000,
    "validation": 4000,
    "epochs": 3,
    "learning_rate": 5e-5,
    "batch_size": 32,
    "max_length": 128,
    "seed": 0,
}


def train_mini(corpus: str, out: Path, scratch: Path) -> None:
    """A BERT from scratch on an embedded corpus; weights, tokenizer and `teacher.json` (how it was
    made) go to `out`.

    As in real life the teacher has read more than its students will: the 8,000 training rows that
    ship, and as many again for each of `more_rows_seeds`, from the same grammar, without the pairs
    of validation and test. The recipe was chosen on validation rows, so the test accuracy is the
    honest one.
    """
    from .. import corpora

    start = time.perf_counter()
    settings = {"source": f"data/{corpus}"} | MINI | OWN[corpus]
    task = TASK_OF[corpus]
    set_seed(settings["seed"])
    tokenizer = corpora.tokenizer(corpus)
    teacher = models.tiny_bert(
        len(tokenizer),
        task.labels,
        layers=settings["layers"],
        width=settings["width"],
        heads=settings["heads"],
        max_length=settings["max_length"],
        dropout=settings["dropout"],
        initializer_range=settings["initializer_range"],
        pad_token_id=tokenizer.pad_token_id,
    )
    train, validation, test = (
        glue.load(task, settings["source"], split) for split in corpora.SPLITS[corpus]
    )
    rows = _with_more_rows(corpus, train, settings["more_rows_seeds"])
    trainer = _fit(task, teacher, tokenizer, rows, validation, scratch, settings)
    test = glue.encode(test, tokenizer, task, max_length=settings["max_length"])
    about = settings | {"rows": len(rows), "test_accuracy": trainer.evaluate(test)["eval_accuracy"]}
    about |= recipes.about(trainer, start)
    recipes.save(out, trainer.model, tokenizer, about)
    print(
        f"{out}: accuracy {about['accuracy']:.4f} on validation, {about['test_accuracy']:.4f} on "
        f"test, {about['minutes']} minutes"
    )


def _with_more_rows(corpus: str, train, seeds: list[int]):
    """The training rows, and as many again from the grammar for each seed."""
    import datasets

    from .. import corpora

    columns = [*TASK_OF[corpus].columns, "label"]
    parts = [train.select_columns(columns).cast_column("label", datasets.Value("int64"))]
    for seed in seeds:
        more = datasets.Dataset.from_list(corpora.rows(corpus, seed)["train"])
        parts.append(more.select_columns(columns))
    return datasets.concatenate_datasets(parts)


def _fit(
    task: glue.Task, teacher, tokenizer, rows, validation, scratch: Path, settings: dict
) -> DistillationTrainer:
    """Plain fine-tuning (alpha = 0) with one evaluation an epoch; goes on from a checkpoint after
    an interruption.
    """
    length = settings["max_length"]
    trainer = DistillationTrainer(
        teacher,
        recipes.arguments(scratch, settings),
        train_dataset=glue.encode(rows, tokenizer, task, max_length=length),
        eval_dataset=glue.encode(validation, tokenizer, task, max_length=length),
        data_collator=glue.collator(tokenizer),
        compute_metrics=glue.compute_metrics,
    )
    trainer.fit()
    return trainer


def train_real(task: glue.Task, out: Path, scratch: Path, weights: Path) -> None:
    """Fine-tune the small pretrained BERT on real rows and write `out`: its logits, fp16, keyed by
    row hash.

    The logits are what ships: 2 or 3 numbers a row instead of 90 MB of weights, and no word of the
    rows themselves. The weights and the tokenizer go to the folder `weights`, for those who want to
    ask this teacher something new.
    """
    start = time.perf_counter()
    settings = {"task": task.name} | REAL
    set_seed(settings["seed"])
    tokenizer = models.load_tokenizer(settings["body"])
    teacher = models.load(settings["body"], labels=task.labels)
    source = settings["source"]
    rows = glue.load(task, source, "train", rows=settings["rows"])
    validation = glue.load(task, source, task.validation, rows=settings["validation"])
    settings["validation"] = len(validation)
    trainer = _fit(task, teacher, tokenizer, rows, validation, scratch, settings)
    train_logits, validation_logits = (
        teacher_logits(trainer.model, encoded, glue.collator(tokenizer))
        for encoded in (trainer.train_dataset, trainer.eval_dataset)
    )
    order = models.check_label_order(validation_logits, validation["label"], task.labels)
    about = settings | recipes.about(trainer, start)
    about["accuracy"] = order.accuracies[tuple(range(len(task.labels)))]
    keys = glue.row_keys(rows, task) + glue.row_keys(validation, task)
    write_logits(out, keys, np.concatenate([train_logits, validation_logits]), about)
    trainer.model.save_pretrained(weights)
    tokenizer.save_pretrained(weights)
    print(
        f"{out}: {len(keys):,} rows, validation accuracy {about['accuracy']:.4f}, "
        f"{about['minutes']} minutes"
    )


# -- stored answers ------------------------------------------------------------------------------


def write_logits(out: Path, keys: list[str], logits: np.ndarray, about: dict) -> None:
    """`keys` (16 hex digits each) and `logits` (rows, classes) as fp16, with `about` in the file's
    metadata.
    """
    from safetensors.numpy import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    ids = np.array([int(key, 16) for key in keys], dtype=np.uint64)
    tensors = {"keys": ids, "logits": logits.astype(np.float16)}
    save_file(tensors, out, metadata={"about": json.dumps(about)})


def read_logits(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """`{row key: logits (classes,) float32}` and what `write_logits` was told about them."""
    from safetensors import safe_open

    path = Path(path) if Path(path).is_file() else ROOT / path
    with safe_open(path, "np") as file:
        keys, logits = file.get_tensor("keys"), file.get_tensor("logits")
        about = json.loads(file.metadata()["about"])
    return {f"{int(key):016x}": row.astype(np.float32) for key, row in zip(keys, logits)}, about


def about(source: str | Path) -> dict:
    """How a teacher that ships was made: rows, minutes, accuracy, seed, versions."""
    if str(source).endswith(".safetensors"):
        return read_logits(source)[1]
    return json.loads((ROOT / source / "teacher.json").read_text(encoding="utf8"))


def look_up(source: str | Path, keys: list[str]) -> np.ndarray:
    """(rows, classes): a stored teacher's answers to the rows with these keys.

    Raises ValueError when rows are not among those that it has answered: other rows, or another
    edition of the corpus.
    """
    known, about = read_logits(source)
    if missing := [key for key in keys if key not in known]:
        raise ValueError(
            f"{len(missing):,} of {len(keys):,} rows are not among the {len(known):,} that the "
            f"stored teacher ({Path(source).name}) has answered. It knows {about['rows']:,} "
            f"training rows and {about['validation']:,} validation rows; take rows with "
            "glue.load(…, among=list(known)), or name a teacher to ask live."
        )
    return np.stack([known[key] for key in keys])


def check_on_some_rows(
    teacher, rows, tokenizer, task: glue.Task, *, max_length: int, count: int = 200
) -> models.LabelOrder:
    """Ask the teacher about the first few of `rows` (labelled, not encoded): do its outputs mean
    the task's classes?

    Hundreds of thousands of rows can wait until it has shown that. ValueError as
    `models.check_label_order`.
    """
    first = rows.select(range(min(count, len(rows))))
    some = glue.encode(first, tokenizer, task, max_length=max_length)
    logits = teacher_logits(teacher, some, glue.collator(tokenizer))
    return models.check_label_order(
        logits, some["labels"], task.labels, rows=some, tokenizer=tokenizer
    )


def place_of(teacher: str, *, shipped: bool = False) -> Path:
    """Where a teacher that is made here goes: below runs/, or (`shipped`) where the one that ships
    lies.

    A folder; for the real rows' teachers the file with their logits, or the folder with their
    answers (the weights lie above either). ValueError for one that does
    not ship.
    """
    answers = f"{teacher}_logits.safetensors" if teacher in glue.TASKS else ""
    if teacher in translators.TRANSLATORS and translators.ships_answers(teacher):
        answers = "answers"
    if not shipped:
        return ROOT / "runs" / f"teacher_{teacher}" / answers
    if teacher == "europarl":
        raise ValueError("no europarl teacher ships, so there is none to replace")
    return DATA / "teachers" / (answers if teacher in glue.TASKS else teacher)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kdlib.course.teachers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "teacher", choices=["mini_nli", "mini_qqp", *translators.TRANSLATORS, "mnli", "qqp"]
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out",
        type=Path,
        help="a folder (mnli, qqp: the file of its logits) instead of runs/teacher_NAME",
    )
    where.add_argument(
        "--replace", action="store_true", help="replace the teacher that ships in data/teachers"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path("runs/teachers"),
        help="checkpoints: an interrupted run goes on",
    )
    given = parser.parse_args(arguments)
    name = given.teacher
    scratch = given.scratch / name
    out = given.out or place_of(name, shipped=given.replace)
    if name in glue.TASKS:
        train_real(glue.TASKS[name], out, scratch, place_of(name).parent)
    elif name in translators.TRANSLATORS:
        weights = place_of(name).parent if translators.ships_answers(name) else None
        translators.train(name, out, scratch, weights)
    else:
        train_mini(name, out, scratch)


if __name__ == "__main__":
    main()
