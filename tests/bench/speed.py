"""Speed and memory, each as a ratio against a named baseline in the same process, smallest of
several turns.

python -m kdlib bench            everything, minutes        python -m kdlib bench --quick
seconds
python -m kdlib bench wide_loss      the loss at 128,256 tokens, against other libraries
(wide_loss.py)
python -m kdlib bench batch_run      a batch run beside its bare training, and status (batch_run.py)
"""

import subprocess
import sys
import time

BUDGET = {"import kdlib": 0.3, "course": 20 * 60.0, "memory": 4.0}


def best(function, repeats: int = 5) -> float:
    """Seconds of the fastest turn: noise only ever adds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def row(name: str, value: str, against: str) -> None:
    print(f"{name:44s} {value:>14s}   {against}", flush=True)


def imports() -> None:
    for name, code, budget in (
        ("import kdlib", "import kdlib", f"budget {BUDGET['import kdlib']} s"),
        (
            "import kdlib.figures, kdlib.course.results",
            "import kdlib.figures, kdlib.course.results",
            "no torch",
        ),
    ):
        bare, full = (
            best(lambda c=c: subprocess.run([sys.executable, "-c", c], check=True), 5)
            for c in ("pass", code)
        )
        row(name, f"{full - bare:.2f} s", f"over a bare interpreter ({bare:.2f} s); {budget}")


def losses() -> None:
    """The loss against the textbook lines, and against the one matrix product that a 128-wide head
    needs anyway.
    """
    import torch
    import torch.nn.functional as F

    from kdlib.losses import distillation_loss

    for rows, classes in ((64, 3), (2048, 8192)):
        student = torch.randn(rows, classes, requires_grad=True)
        teacher, labels = torch.randn(rows, classes), torch.randint(classes, (rows,))

        def plain():
            kd = F.kl_div(
                F.log_softmax(student / 2, -1),
                F.log_softmax(teacher / 2, -1),
                log_target=True,
                reduction="batchmean",
            )
            (0.5 * 4 * kd + 0.5 * F.cross_entropy(student, labels)).backward()

        ours = best(lambda: distillation_loss(student, teacher, labels).total.backward(), 20)
        row(
            f"distillation_loss, {rows} × {classes}",
            f"{ours / best(plain, 20):.2f} ×",
            "torch's kl_div + cross_entropy, forward and backward",
        )


def training() -> None:
    """One epoch of a tiny student: what KD costs over CE, and what a column and length groups
    save.
    """
    import tempfile

    import torch
    from transformers import Trainer

    from kdlib import corpora, glue, models, trainer

    tokenizer = corpora.tokenizer("mini_nli")
    rows = glue.load("mnli", "data/mini_nli", "train", rows=1024)
    encoded = glue.encode(rows, tokenizer, glue.MNLI, max_length=64)
    torch.manual_seed(0)
    teacher = models.tiny_bert(len(tokenizer), glue.MNLI.labels, layers=4, width=128, heads=4)
    answers = trainer.teacher_logits(teacher, encoded, glue.collator(tokenizer))
    column = encoded.add_column(trainer.TEACHER_LOGITS, list(answers))

    class RandomBatches(trainer.DistillationTrainer):
        _get_train_sampler = Trainer._get_train_sampler

    def epoch(rows, alpha, live=None, sampler=True):
        with tempfile.TemporaryDirectory() as folder:
            student = models.student_from_teacher(teacher, [0, 2])
            args = trainer.DistillationArguments(
                folder,
                alpha=alpha,
                num_train_epochs=1,
                per_device_train_batch_size=32,
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
            )
            kind = trainer.DistillationTrainer if sampler else RandomBatches
            t = kind(
                student,
                args,
                teacher=live,
                train_dataset=rows,
                data_collator=glue.collator(tokenizer),
            )
            start = time.perf_counter()
            t.train()
            return time.perf_counter() - start

    epoch(encoded, 0.0)  # warm up
    ce = min(epoch(encoded, 0.0) for _ in range(3))
    row(
        "KD with stored answers, an epoch",
        f"{min(epoch(column, 0.5) for _ in range(3)) / ce:.2f} ×",
        "the same student with CE only",
    )
    row(
        "KD with a live teacher, an epoch",
        f"{min(epoch(encoded, 0.5, teacher) for _ in range(3)) / ce:.2f} ×",
        "the same student with CE only",
    )
    row(
        "batches of random rows, an epoch",
        f"{min(epoch(encoded, 0.0, sampler=False) for _ in range(3)) / ce:.2f} ×",
        "batches of rows of like length",
    )


def sweeps(count: int = 256) -> None:
    """One student's epoch as the field's best-known recipe runs it, and as a sweep over a teacher
    cache does.

    Baseline: the recipe of *Natural Language Processing with Transformers*, ch. 8, in our words:
    the teacher answers live in `compute_loss`, every pair is padded to 128 tokens, batches are
    random. Teacher 6 layers, student 3, both 384 wide (as MiniLM, untrained: that costs the same).
    Second epochs are compared. Real MNLI rows where KD_REAL has them.
    """
    import tempfile

    import torch
    from transformers import default_data_collator

    from kdlib import glue, teacher_cache, trainer
    from kdlib.engine.sampler import LengthGroupedSampler

    tokenizer, source, rows, teacher = _bench_pair(count)
    padded = rows.map(
        lambda b: tokenizer(
            b["premise"], b["hypothesis"], padding="max_length", truncation=True, max_length=128
        ),
        batched=True,
        remove_columns=[c for c in rows.column_names if c != "label"],
    ).rename_column("label", "labels")
    encoded, collator = glue.encode(rows, tokenizer, glue.MNLI), glue.collator(tokenizer)
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        cache = teacher_cache.build(teacher, encoded, tokenizer, root=root)
        asked = time.perf_counter() - start
        book = min(
            _second_epoch(_live_teacher(teacher), teacher, padded, default_data_collator)
            for _ in range(2)
        )
        ours = min(
            _second_epoch(
                trainer.DistillationTrainer, teacher, encoded, collator, teacher_cache=cache
            )
            for _ in range(3)
        )
        with_answers = cache.attach(encoded)
        fetch = lambda data: [
            collator([data[j] for j in range(i, min(i + 32, count))]) for i in range(0, count, 32)
        ]
        reading = (best(lambda: fetch(with_answers)) - best(lambda: fetch(encoded))) / ours
    lengths = [len(ids) for ids in encoded["input_ids"]]
    order = list(LengthGroupedSampler(lengths, 32))
    tokens = sum(
        32 * -(-max(lengths[j] for j in order[i : i + 32]) // 8) * 8
        for i in range(0, len(order), 32)
    )
    product, weights = torch.randn(1024, 1024), 3 * (4 * 384**2 + 2 * 384 * 1536)
    rate = 2 * 1024**3 / best(lambda: product @ product, 20)
    ceiling = 128 * count / tokens * 15 / 9
    row(
        "a sweep's epoch over the cache",
        f"{book / ours:.2f} ×",
        f"the live recipe's examples/s ({source}, {count} rows); goal 4, ceiling {ceiling:.2f}",
    )
    row(
        "… six points of two epochs, and the pass",
        f"{12 * book / (12 * ours + asked):.2f} ×",
        "the same recipe; goal 3",
    )
    row(
        "… of the GEMM rate",
        f"{6 * weights * tokens / ours / rate:.0%}",
        f"the layers' products, of {rate / 1e9:.0f} GFLOP/s; the rest: embeddings, attention, Adam",
    )
    row("… reading the answers", f"{max(0.0, reading):.2%}", "of an epoch; goal below 2 %")


def agreement(seeds=(0, 1, 2), count: int = 2000) -> None:
    """Does the faster recipe end as well? Both of `sweeps`, four epochs on MiniNLI with its trained
    teacher, seed by seed.
    """
    import tempfile

    import numpy as np
    from transformers import TrainingArguments, default_data_collator

    from kdlib import glue, models, results, teacher_cache, trainer

    teacher, tokenizer = (
        models.load("data/teachers/mini_nli", labels=glue.MNLI.labels),
        models.load_tokenizer("data/teachers/mini_nli"),
    )
    rows, validation = (
        glue.load("mnli", "data/mini_nli", split, rows=n)
        for split, n in (("train", count), ("validation_matched", 1000))
    )
    encoded, judged = (
        glue.encode(part, tokenizer, glue.MNLI, max_length=64) for part in (rows, validation)
    )
    padded = rows.map(
        lambda b: tokenizer(
            b["premise"], b["hypothesis"], padding="max_length", truncation=True, max_length=64
        ),
        batched=True,
        remove_columns=[c for c in rows.column_names if c != "label"],
    ).rename_column("label", "labels")
    scores = {"book": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        cache = teacher_cache.build(teacher, encoded, tokenizer, root=folder)
        for seed in seeds:
            for name in scores:
                args = (TrainingArguments if name == "book" else trainer.DistillationArguments)(
                    output_dir=f"{folder}/{name}{seed}",
                    num_train_epochs=4,
                    per_device_train_batch_size=64,
                    learning_rate=5e-4,
                    save_strategy="no",
                    disable_tqdm=True,
                    logging_strategy="no",
                    report_to="none",
                    dataloader_pin_memory=False,
                    seed=seed,
                )
                student = models.student_from_teacher(teacher, [0, 2])
                run = (
                    _live_teacher(teacher)(
                        student, args, train_dataset=padded, data_collator=default_data_collator
                    )
                    if name == "book"
                    else trainer.DistillationTrainer(
                        student,
                        args,
                        teacher_cache=cache,
                        train_dataset=encoded,
                        data_collator=glue.collator(tokenizer),
                    )
                )
                run.train()
                logits = trainer.teacher_logits(run.model, judged, glue.collator(tokenizer))
                scores[name].append(
                    100 * float((logits.argmax(1) == np.array(validation["label"])).mean())
                )
    found = results.interval(np.subtract(scores["ours"], scores["book"]))
    row(
        "accuracy, cache − live recipe (MiniNLI)",
        f"{found.mean:+.2f} points",
        f"[{found.low:+.2f}, {found.high:+.2f}] over {found.n} seeds; "
        + ", ".join(f"{name} {np.mean(values):.1f}" for name, values in scores.items()),
    )


def _bench_pair(count: int):
    """A tokenizer, where rows come from, rows, and a 6-layer teacher: MiniLM's tokenizer and real
    MNLI where they are at hand.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from kdlib import corpora, glue, models
    from kdlib.corpora.get import local_copy

    if local_copy("nyu-mll/glue") and local_copy("sentence-transformers/all-MiniLM-L6-v2"):
        tokenizer, source = (
            models.load_tokenizer("sentence-transformers/all-MiniLM-L6-v2"),
            "nyu-mll/glue",
        )
    else:
        tokenizer, source = corpora.tokenizer("mini_nli"), "data/mini_nli"
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            num_labels=3,
            id2label=dict(enumerate(glue.MNLI.labels)),
        )
    ).eval()
    return tokenizer, source, glue.load("mnli", source, "train", rows=count), teacher


def _live_teacher(teacher, causal: bool = False):
    """The plain recipe. causal: labels are not shifted yet, and positions that count are picked
    after the head.
    """
    import torch
    import torch.nn.functional as F
    from transformers import Trainer

    class LiveTeacher(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            out = model(**inputs)
            with torch.no_grad():
                said = teacher(**inputs).logits
            ours = out.logits
            if causal:
                keep = inputs["labels"][:, 1:] != -100
                ours, said = ours[:, :-1][keep], said[:, :-1][keep]
            kd = (
                F.kl_div(
                    F.log_softmax(ours / 2, -1), F.softmax(said / 2, -1), reduction="batchmean"
                )
                * 4
            )
            return 0.5 * kd + 0.5 * out.loss

    return LiveTeacher


def _second_epoch(
    kind, teacher, data, collator, *, batch: int = 32, layers: tuple = (0, 2, 4), **how
) -> float:
    """Seconds of the second of two epochs of a student that is made of the teacher's `layers`."""
    import tempfile

    from transformers import TrainerCallback, TrainingArguments

    from kdlib import models, trainer

    marks = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, args, state, control, **kw):
            marks.append(time.perf_counter())

        on_epoch_end = on_epoch_begin

    ours = kind is trainer.DistillationTrainer
    with tempfile.TemporaryDirectory() as folder:
        args = (trainer.DistillationArguments if ours else TrainingArguments)(
            output_dir=folder,
            num_train_epochs=2,
            per_device_train_batch_size=batch,
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        )
        kind(
            models.student_from_teacher(teacher, list(layers)),
            args,
            train_dataset=data,
            data_collator=collator,
            callbacks=[Clock()],
            **how,
        ).train()
    return marks[-1] - marks[-2]


def translators(count: int = 32) -> None:
    """A causal student's epoch and its generation, against the plain way of doing each.

    Training, baseline: the teacher answers live, both models make logits of every position, rows
    are padded to max_length. Llama 3's whole vocabulary where the wheel `llama-models` is at hand;
    teacher 4 layers, student 2, 128 wide, untrained. Generation: the shipped MiniParl teacher, one
    sentence a call and all in one, in batches of like length; both keep keys and values.
    """
    import tempfile

    import torch

    from kdlib import models, teacher_cache, trainer, translation

    pairs = translation.load("data/miniparl", "train", rows=count).rows
    try:
        tokenizer, source = translation.tokenizer("llama-models"), "Llama 3's vocabulary"
    except ModuleNotFoundError:
        tokenizer, source = models.load_tokenizer("data/teachers/miniparl"), "MiniParl's vocabulary"
    torch.manual_seed(0)
    teacher = models.add_end_token(
        models.tiny_llama(
            len(tokenizer), layers=4, width=128, heads=4, kv_heads=2, tokenizer=tokenizer
        ),
        tokenizer,
    ).eval()
    rows, wide = translation.encode(pairs, tokenizer, max_length=256)[0], 256
    pad = lambda values, fill: [v + [fill] * (wide - len(v)) for v in values]
    padded = rows.map(
        lambda b: {
            "input_ids": pad(b["input_ids"], tokenizer.pad_token_id),
            "labels": pad(b["labels"], -100),
            "attention_mask": pad([[1] * len(v) for v in b["input_ids"]], 0),
        },
        batched=True,
    )
    with tempfile.TemporaryDirectory() as root:
        cache = teacher_cache.build(teacher, rows, tokenizer, topk=36, root=root)
        plain = _second_epoch(
            _live_teacher(teacher, causal=True), teacher, padded, _stack, batch=4, layers=[0, 2]
        )
        ours = min(
            _second_epoch(
                trainer.DistillationTrainer,
                teacher,
                rows,
                translation.collator(tokenizer),
                batch=4,
                layers=[0, 2],
                teacher_cache=cache,
            )
            for _ in range(2)
        )
    row(
        "a translator's epoch over the cache",
        f"{plain / ours:.2f} ×",
        f"live teacher, all positions, padded to {wide} ({source}, {count} pairs); goal 3",
    )
    teacher, tokenizer = (
        models.load_causal("data/teachers/miniparl"),
        models.load_tokenizer("data/teachers/miniparl"),
    )
    english = translation.load("data/miniparl", "test", rows=128).rows["en"]
    one = best(lambda: [translation.translate(teacher, tokenizer, [s]) for s in english], 3)
    many = best(lambda: translation.translate(teacher, tokenizer, list(english), batch_size=64), 3)
    row(
        "translating in batches",
        f"{one / many:.2f} ×",
        f"one sentence at a time, keys and values kept in both ({len(english)} sentences); goal 5",
    )


def _stack(rows: list[dict]) -> dict:
    import torch

    return {k: torch.tensor([row[k] for row in rows]) for k in rows[0]}


def notebooks() -> None:
    from kdlib import batch

    for profile in ("smoke", "laptop"):
        total, peak = 0.0, 0.0
        for name in batch.COURSE:
            outcome = batch.run_notebook(name, profile)
            inside = (outcome.record or {}).get("seconds", float("nan"))
            total, peak = total + outcome.seconds, max(peak, outcome.peak_gb)
            row(
                f"{name}, {profile}",
                f"{inside:.0f} s",
                f"{outcome.seconds:.0f} s with kernel and imports, {outcome.peak_gb:.2f} GB",
            )
        row(
            f"the course, {profile}",
            f"{total / 60:.1f} min",
            f"budget {BUDGET['course'] / 60:.0f} min (laptop); peak {peak:.2f} GB of {BUDGET['memory']:.0f}",
        )


def main(quick: bool = False) -> int:
    imports(), losses(), training(), sweeps(), translators()
    if not quick:
        agreement(), notebooks()
    return 0
