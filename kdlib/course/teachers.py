"""The teachers that ship in data/teachers: how each was made, and the one command that makes it again.

What it makes goes to runs/teacher_NAME, and nothing that ships is touched: `--replace` puts it in the shipped one's place.

    python -m kdlib.course.teachers mini_nli          a 4-layer BERT from scratch on the embedded MiniNLI
    python -m kdlib.course.teachers mini_qqp          the same on MiniQQP
    python -m kdlib.course.teachers miniparl          a 4-layer Llama from scratch on the embedded MiniParl
    python -m kdlib.course.teachers europarl          a small Llama with Llama 3's vocabulary on real Europarl (50 MB); none ships
    python -m kdlib.course.teachers mnli              MiniLM (6 layers) on 8,000 real MNLI rows; only its *logits* ship. The weights (90 MB)
                                               lie in runs/teacher_mnli, where notebook 08 finds them, and its logits beside them
    python -m kdlib.course.teachers qqp               the same on 8,000 real QQP rows
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from .. import glue, models
from ..engine.provenance import versions
from ..paths import DATA, ROOT
from .run import set_seed
from ..trainer import DistillationArguments, DistillationTrainer, teacher_logits

MINI = dict(
    more_rows_seeds=[1, 2],
    layers=4,
    width=128,
    heads=4,
    batch_size=64,
    max_length=64,
    dropout=0.0,
    initializer_range=0.08,
    seed=0,
)
TASK_OF = {"mini_nli": glue.MNLI, "mini_qqp": glue.QQP}
OWN = {
    "mini_nli": dict(epochs=8, learning_rate=1e-3),
    "mini_qqp": dict(epochs=12, learning_rate=5e-4),
}  # at 1e-3 it falls back to one answer after an epoch
REAL = dict(
    source="nyu-mll/glue",
    body="sentence-transformers/all-MiniLM-L6-v2",
    rows=8000,
    validation=4000,
    epochs=3,
    learning_rate=5e-5,
    batch_size=32,
    max_length=128,
    seed=0,
)

TRANSLATORS = {
    "miniparl": dict(
        source="data/miniparl",
        tokenizer="",
        rows=0,
        evaluated=0,
        max_words=100,
        layers=4,
        width=128,
        heads=4,
        kv_heads=2,
        inner=256,
        initializer_range=0.09,
        epochs=6,
        learning_rate=3e-3,
        batch_size=64,
        max_length=256,
        seed=0,
    ),
    "europarl": dict(
        source="Helsinki-NLP/europarl",
        tokenizer="llama-models",
        rows=8000,
        evaluated=200,
        max_words=25,
        layers=4,
        width=96,
        heads=4,
        kv_heads=2,
        inner=192,
        initializer_range=0.1,
        epochs=1,
        learning_rate=2e-3,
        batch_size=16,
        max_length=192,
        seed=0,
    ),
}


def train_mini(corpus: str, out: Path, scratch: Path) -> None:
    """A BERT from scratch on an embedded corpus; weights, tokenizer and `teacher.json` (how it was made) go to `out`.

    As in real life the teacher has read more than its students will: the 8,000 training rows that ship, and as many again
    for each of `more_rows_seeds`, from the same grammar, without the pairs of validation and test. The recipe was chosen on
    validation rows, so the test accuracy is the honest one.
    """
    import datasets

    from .. import corpora

    start, cfg = time.perf_counter(), {"source": f"data/{corpus}"} | MINI | OWN[corpus]
    task = TASK_OF[corpus]
    set_seed(cfg["seed"])
    tokenizer = corpora.tokenizer(corpus)
    teacher = models.tiny_bert(
        len(tokenizer),
        task.labels,
        layers=cfg["layers"],
        width=cfg["width"],
        heads=cfg["heads"],
        max_length=cfg["max_length"],
        dropout=cfg["dropout"],
        initializer_range=cfg["initializer_range"],
        pad_token_id=tokenizer.pad_token_id,
    )
    splits = [glue.load(task, cfg["source"], split) for split in corpora.SPLITS[corpus]]
    columns = [*task.columns, "label"]
    more = [
        datasets.Dataset.from_list(corpora.rows(corpus, seed)["train"]).select_columns(columns)
        for seed in cfg["more_rows_seeds"]
    ]
    rows = datasets.concatenate_datasets(
        [splits[0].select_columns(columns).cast_column("label", datasets.Value("int64")), *more]
    )
    trainer = _fit(task, teacher, tokenizer, rows, splits[1], scratch, cfg)
    test = glue.encode(splits[2], tokenizer, task, max_length=cfg["max_length"])
    about = (
        cfg
        | {"rows": len(rows), "test_accuracy": trainer.evaluate(test)["eval_accuracy"]}
        | _about(trainer, start)
    )
    trainer.model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    (out / "teacher.json").write_text(json.dumps(about, indent=1) + "\n")
    print(
        f"{out}: accuracy {about['accuracy']:.4f} on validation, {about['test_accuracy']:.4f} on test, {about['minutes']} minutes"
    )


def _fit(
    task: glue.Task, teacher, tokenizer, rows, validation, scratch: Path, cfg: dict
) -> DistillationTrainer:
    """Plain fine-tuning (alpha = 0) with one evaluation an epoch; goes on from a checkpoint after an interruption."""
    encoded = [
        glue.encode(part, tokenizer, task, max_length=cfg["max_length"])
        for part in (rows, validation)
    ]
    trainer = DistillationTrainer(
        teacher,
        _arguments(scratch, cfg),
        train_dataset=encoded[0],
        eval_dataset=encoded[1],
        data_collator=glue.collator(tokenizer),
        compute_metrics=glue.compute_metrics,
    )
    trainer.fit()
    return trainer


def _arguments(scratch: Path, cfg: dict) -> DistillationArguments:
    return DistillationArguments(
        str(scratch),
        alpha=0.0,
        learning_rate=cfg["learning_rate"],
        num_train_epochs=cfg["epochs"],
        warmup_ratio=0.06,
        per_device_train_batch_size=cfg["batch_size"],
        per_device_eval_batch_size=min(64, 2 * cfg["batch_size"]),
        seed=cfg["seed"],
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=25,
        disable_tqdm=True,
    )


def _about(trainer: DistillationTrainer, start: float) -> dict:
    """What a reader should know of a teacher: its accuracy by epoch, its size, minutes and versions."""
    history = [
        {k: round(v, 4) for k, v in entry.items() if k in ("epoch", "eval_accuracy", "eval_ce")}
        for entry in trainer.state.log_history
        if "eval_accuracy" in entry
    ][: int(trainer.args.num_train_epochs)]
    return {
        "accuracy": history[-1]["eval_accuracy"],
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "history": history,
        **models.size(trainer.model),
        "versions": versions(),
    }


def train_translator(corpus: str, out: Path, scratch: Path) -> None:
    """A Llama from scratch on sentence pairs, with the whole prompt; weights, tokenizer and `teacher.json` go to `out`.

    Its end token is a reserved one: student and teacher share a vocabulary, and nothing is resized.
    """
    from .. import chat, scores, translation

    start, cfg = time.perf_counter(), dict(TRANSLATORS[corpus])
    set_seed(cfg["seed"])
    pairs = {
        split: translation.load(cfg["source"], split, rows=count, max_words=cfg["max_words"]).rows
        for split, count in (
            ("train", cfg["rows"]),
            ("validation", cfg["evaluated"]),
            ("test", cfg["evaluated"]),
        )
    }
    if cfg["tokenizer"]:
        tokenizer = translation.tokenizer(cfg["tokenizer"])
    else:
        tokenizer = chat.with_end_token(
            chat.small_tokenizer(text for side in ("en", "fr") for text in pairs["train"][side]),
            "reserved",
        )
    teacher = models.tiny_llama(
        len(tokenizer),
        tokenizer=tokenizer,
        max_length=cfg["max_length"],
        **{
            k: cfg[k]
            for k in ("layers", "width", "heads", "kv_heads", "inner", "initializer_range")
        },
    )
    rows, validation = (
        translation.encode(pairs[split], tokenizer, max_length=cfg["max_length"])[0]
        for split in ("train", "validation")
    )
    trainer = DistillationTrainer(
        models.add_end_token(teacher, tokenizer),
        _arguments(scratch, cfg),
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=translation.collator(tokenizer),
    )
    trainer.fit()
    said = {
        split: translation.translate(trainer.model, tokenizer, list(pairs[split]["en"]))
        for split in ("validation", "test")
    }
    about = (
        cfg
        | {"rows": len(rows), "perplexity": trainer.evaluate()["eval_perplexity"]}
        | _about(trainer, start)
        | {
            f"{split}_bleu": scores.bleu(found.texts, list(pairs[split]["fr"])).value
            for split, found in said.items()
        }
    )
    trainer.model.save_pretrained(out, safe_serialization=True)
    tokenizer.save_pretrained(out)
    (out / "teacher.json").write_text(json.dumps(about, indent=1) + "\n")
    print(
        f"{out}: BLEU {about['validation_bleu']:.1f} on validation, {about['test_bleu']:.1f} on test, {about['minutes']} minutes"
    )


def train_real(task: glue.Task, out: Path, scratch: Path, weights: Path) -> None:
    """Fine-tune the small pretrained BERT on real rows and write `out`: its logits, fp16, keyed by row hash.

    The logits are what ships: 2 or 3 numbers a row instead of 90 MB of weights, and no word of the rows themselves. The
    weights and the tokenizer go to the folder `weights`, for those who want to ask this teacher something new.
    """
    start, cfg = time.perf_counter(), {"task": task.name} | REAL
    set_seed(cfg["seed"])
    tokenizer, teacher = (
        models.load_tokenizer(cfg["body"]),
        models.load(cfg["body"], labels=task.labels),
    )
    rows = glue.load(task, cfg["source"], "train", rows=cfg["rows"])
    validation = glue.load(task, cfg["source"], task.validation, rows=cfg["validation"])
    cfg["validation"] = len(validation)
    trainer = _fit(task, teacher, tokenizer, rows, validation, scratch, cfg)
    encoded = (trainer.train_dataset, trainer.eval_dataset)
    answers = [teacher_logits(trainer.model, part, glue.collator(tokenizer)) for part in encoded]
    order = models.check_label_order(answers[1], validation["label"], task.labels)
    keys = glue.row_keys(rows, task) + glue.row_keys(validation, task)
    about = (
        cfg
        | _about(trainer, start)
        | {"accuracy": order.accuracies[tuple(range(len(task.labels)))]}
    )
    write_logits(out, keys, np.concatenate(answers), about)
    for part in (trainer.model, tokenizer):
        part.save_pretrained(weights)
    print(
        f"{out}: {len(keys):,} rows, validation accuracy {about['accuracy']:.4f}, {about['minutes']} minutes"
    )


def write_logits(out: Path, keys: list[str], logits: np.ndarray, about: dict) -> None:
    """`keys` (16 hex digits each) and `logits` (rows, classes) as fp16, with `about` in the file's metadata."""
    from safetensors.numpy import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    ids = np.array([int(key, 16) for key in keys], dtype=np.uint64)
    save_file(
        {"keys": ids, "logits": logits.astype(np.float16)},
        out,
        metadata={"about": json.dumps(about)},
    )


def read_logits(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """`{row key: logits (classes,) float32}` and what `write_logits` was told about them."""
    from safetensors import safe_open

    path = Path(path) if Path(path).is_file() else ROOT / path
    with safe_open(path, "np") as file:
        keys, logits, about = (
            file.get_tensor("keys"),
            file.get_tensor("logits"),
            json.loads(file.metadata()["about"]),
        )
    return {f"{int(key):016x}": row.astype(np.float32) for key, row in zip(keys, logits)}, about


def about(source: str | Path) -> dict:
    """How a teacher that ships was made: rows, minutes, accuracy, seed, versions."""
    if str(source).endswith(".safetensors"):
        return read_logits(source)[1]
    return json.loads((ROOT / source / "teacher.json").read_text(encoding="utf8"))


def look_up(source: str | Path, keys: list[str]) -> np.ndarray:
    """(rows, classes): a stored teacher's answers to the rows with these keys.

    Raises ValueError when rows are not among those that it has answered: other rows, or another edition of the corpus.
    """
    known, about = read_logits(source)
    if missing := [key for key in keys if key not in known]:
        raise ValueError(
            f"{len(missing):,} of {len(keys):,} rows are not among the {len(known):,} that the stored teacher "
            f"({Path(source).name}) has answered. It knows {about['rows']:,} training rows and {about['validation']:,} "
            "validation rows; take rows with glue.load(…, among=list(known)), or name a teacher to ask live."
        )
    return np.stack([known[key] for key in keys])


def check_on_some_rows(
    teacher, rows, tokenizer, task: glue.Task, *, max_length: int, count: int = 200
) -> models.LabelOrder:
    """Ask the teacher about the first few of `rows` (labelled, not encoded): do its outputs mean the task's classes?

    Hundreds of thousands of rows can wait until it has shown that. ValueError as `models.check_label_order`.
    """
    some = glue.encode(
        rows.select(range(min(count, len(rows)))), tokenizer, task, max_length=max_length
    )
    logits = teacher_logits(teacher, some, glue.collator(tokenizer))
    return models.check_label_order(logits, some["labels"], task.labels)


def place_of(teacher: str, *, shipped: bool = False) -> Path:
    """Where a teacher that is made here goes: below runs/, or (`shipped`) where the one that ships lies.

    A folder; for the real rows' teachers the file with their logits. ValueError for one that does not ship.
    """
    logits = f"{teacher}_logits.safetensors" if teacher in glue.TASKS else ""
    if not shipped:
        return ROOT / "runs" / f"teacher_{teacher}" / logits
    if teacher == "europarl":
        raise ValueError("no europarl teacher ships, so there is none to replace")
    return DATA / "teachers" / (logits or teacher)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kdlib.course.teachers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("teacher", choices=["mini_nli", "mini_qqp", *TRANSLATORS, "mnli", "qqp"])
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
    name, scratch = given.teacher, given.scratch / given.teacher
    out = given.out or place_of(name, shipped=given.replace)
    if name in glue.TASKS:
        train_real(glue.TASKS[name], out, scratch, place_of(name).parent)
    elif name in TRANSLATORS:
        train_translator(name, out, scratch)
    else:
        train_mini(name, out, scratch)


if __name__ == "__main__":
    main()
