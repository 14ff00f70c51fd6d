"""Speed and memory, each as a ratio against a named baseline in the same process, smallest of several turns.

    python -m kdlib bench            everything, minutes        python -m kdlib bench --quick        seconds
"""
import subprocess
import sys
import time

BUDGET = {"import kdlib": 0.3, "smoke": 25.0, "course": 8 * 60.0, "memory": 3.0}


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
    for name, code, budget in (("import kdlib", "import kdlib", f"budget {BUDGET['import kdlib']} s"),
                               ("import kdlib.figures, kdlib.results", "import kdlib.figures, kdlib.results", "no torch")):
        bare, full = (best(lambda c=c: subprocess.run([sys.executable, "-c", c], check=True), 5) for c in ("pass", code))
        row(name, f"{full - bare:.2f} s", f"over a bare interpreter ({bare:.2f} s); {budget}")


def losses() -> None:
    """The loss against the textbook lines, and against the one matrix product that a 128-wide head needs anyway."""
    import torch
    import torch.nn.functional as F

    from .losses import distillation_loss
    for rows, classes in ((64, 3), (2048, 8192)):
        student = torch.randn(rows, classes, requires_grad=True)
        teacher, labels = torch.randn(rows, classes), torch.randint(classes, (rows,))

        def plain():
            kd = F.kl_div(F.log_softmax(student / 2, -1), F.log_softmax(teacher / 2, -1), log_target=True, reduction="batchmean")
            (0.5 * 4 * kd + 0.5 * F.cross_entropy(student, labels)).backward()

        ours = best(lambda: distillation_loss(student, teacher, labels).total.backward(), 20)
        row(f"distillation_loss, {rows} × {classes}", f"{ours / best(plain, 20):.2f} ×", "torch's kl_div + cross_entropy, forward and backward")


def training() -> None:
    """One epoch of a tiny student: what KD costs over CE, and what a column and length groups save."""
    import tempfile

    import torch
    from transformers import Trainer

    from . import corpora, glue, models, trainer
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
            args = trainer.DistillationArguments(folder, alpha=alpha, num_train_epochs=1, per_device_train_batch_size=32,
                                                 save_strategy="no", disable_tqdm=True, logging_strategy="no")
            kind = trainer.DistillationTrainer if sampler else RandomBatches
            t = kind(student, args, teacher=live, train_dataset=rows, data_collator=glue.collator(tokenizer))
            start = time.perf_counter()
            t.train()
            return time.perf_counter() - start

    epoch(encoded, 0.0)                                                            # warm up
    ce = min(epoch(encoded, 0.0) for _ in range(3))
    row("KD with stored answers, an epoch", f"{min(epoch(column, 0.5) for _ in range(3)) / ce:.2f} ×", "the same student with CE only")
    row("KD with a live teacher, an epoch", f"{min(epoch(encoded, 0.5, teacher) for _ in range(3)) / ce:.2f} ×", "the same student with CE only")
    row("batches of random rows, an epoch", f"{min(epoch(encoded, 0.0, sampler=False) for _ in range(3)) / ce:.2f} ×", "batches of rows of like length")


def sweeps(rows_wanted: int = 256) -> None:
    """One student's epoch as the field's best-known recipe runs it, and as a sweep over a teacher cache does.

    Baseline: the recipe of *Natural Language Processing with Transformers*, ch. 8, in our words: the teacher answers live in
    `compute_loss`, every pair is padded to 128 tokens, batches are random. Teacher 6 layers, student 3, both 384 wide (as
    MiniLM; untrained here, which costs the same). Ceiling: padding × (6 + 3·3) / (3·3) layers' products a token.
    """
    import os
    import tempfile

    import torch
    import torch.nn.functional as F
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, default_data_collator

    from . import corpora, glue, models, teacher_cache, trainer
    real = os.environ.get("KD_REAL")
    try:
        tokenizer, source = models.load_tokenizer("sentence-transformers/all-MiniLM-L6-v2"), "nyu-mll/glue" if real else None
    except OSError:
        tokenizer, source = None, None
    if source is None:
        tokenizer, source = corpora.tokenizer("mini_nli"), "data/mini_nli"
    rows = glue.load("mnli", source, "train", rows=rows_wanted)
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(
        vocab_size=len(tokenizer), hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        num_labels=3, id2label=dict(enumerate(glue.MNLI.labels)))).eval()

    class LiveTeacher(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            out = model(**inputs)
            with torch.no_grad():
                said = teacher(**inputs).logits
            kd = F.kl_div(F.log_softmax(out.logits / 2, -1), F.softmax(said / 2, -1), reduction="batchmean") * 4
            return 0.5 * kd + 0.5 * out.loss

    def second_epoch(kind, data, collator, **how):
        class Clock(trainer.TrainerCallback):
            marks = []

            def on_epoch_begin(self, args, state, control, **kw):
                self.marks.append(time.perf_counter())
            on_epoch_end = on_epoch_begin

        Clock.marks = []
        with tempfile.TemporaryDirectory() as folder:
            common = dict(output_dir=folder, num_train_epochs=2, per_device_train_batch_size=32, save_strategy="no", disable_tqdm=True,
                          logging_strategy="no", report_to="none", dataloader_pin_memory=False)
            args = TrainingArguments(**common) if kind is LiveTeacher else trainer.DistillationArguments(**common)
            kind(models.student_from_teacher(teacher, [0, 2, 4]), args, train_dataset=data, data_collator=collator, callbacks=[Clock()], **how).train()
        return Clock.marks[-1] - Clock.marks[-2]

    padded = rows.map(lambda b: tokenizer(b["premise"], b["hypothesis"], padding="max_length", truncation=True, max_length=128), batched=True,
                      remove_columns=[c for c in rows.column_names if c != "label"]).rename_column("label", "labels")
    encoded = glue.encode(rows, tokenizer, glue.MNLI)
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        cache = teacher_cache.build(teacher, encoded, tokenizer, root=root)
        asked = time.perf_counter() - start
        book = min(second_epoch(LiveTeacher, padded, default_data_collator) for _ in range(2))
        ours = min(second_epoch(trainer.DistillationTrainer, encoded, glue.collator(tokenizer), teacher_cache=cache) for _ in range(3))
        reading = _reading_share(cache, encoded, glue.collator(tokenizer), ours)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    sampler = trainer.LengthGroupedSampler(lengths, 32)
    order = list(sampler)
    tokens = sum(32 * -(-max(lengths[j] for j in order[i:i + 32]) // 8) * 8 for i in range(0, len(order), 32))
    product = torch.randn(1024, 1024)
    rate = 2 * 1024**3 / best(lambda: product @ product, 20)
    weights = 3 * (4 * 384 * 384 + 2 * 384 * 1536)
    name = f"{source}, {len(rows)} rows"
    row("a sweep's epoch over the cache", f"{book / ours:.2f} ×", f"examples/s of the live-teacher recipe ({name}); goal 4, ceiling {128 * len(rows) / tokens * 15 / 9:.2f}")
    row("… six points, two epochs, the pass counted", f"{12 * book / (12 * ours + asked):.2f} ×", "the same recipe; goal 3")
    row("… of the GEMM limit", f"{6 * weights * tokens / ours / rate:.0%}", f"layers' products / time; {rate / 1e9:.0f} GFLOP/s measured; the rest: embeddings, attention, Adam over {models.size(teacher)['parameters'] / 1e6:.0f} M weights")
    row("… reading the cache", f"{reading:.2%}", "of a step; goal below 2 %")


def _reading_share(cache, encoded, collator, epoch_seconds: float) -> float:
    """What the answers' column adds to fetching and collating an epoch's batches, as a share of the epoch."""
    def fetch(rows):
        for i in range(0, len(rows), 32):
            collator([rows[j] for j in range(i, min(i + 32, len(rows)))])
    return max(0.0, best(lambda: fetch(cache.attach(encoded))) - best(lambda: fetch(encoded))) / epoch_seconds


def notebooks() -> None:
    from . import batch
    for profile in ("smoke", "laptop"):
        total, peak = 0.0, 0.0
        for name in batch.COURSE:
            outcome = batch.run_notebook(name, profile)
            inside = (outcome.record or {}).get("seconds", float("nan"))
            total, peak = total + outcome.seconds, max(peak, outcome.peak_gb)
            row(f"{name}, {profile}", f"{inside:.0f} s", f"{outcome.seconds:.0f} s with kernel and imports, {outcome.peak_gb:.2f} GB")
        row(f"the course, {profile}", f"{total / 60:.1f} min", f"budget {BUDGET['course'] / 60:.0f} min (laptop); peak {peak:.2f} GB of {BUDGET['memory']:.0f}")


def main(quick: bool = False) -> int:
    imports(), losses(), training(), sweeps()
    if not quick:
        notebooks()
    return 0
