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
    imports(), losses(), training()
    if not quick:
        notebooks()
    return 0
