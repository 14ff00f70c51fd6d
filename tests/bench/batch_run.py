"""What a batch run costs beside its training, and how long `status` takes:  python -m kdlib bench
batch_run
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from bench.speed import row
from kdlib import batch
from kdlib.course.run import PARTIAL
from kdlib.paths import ROOT

TRAINING = """
from kdlib import glue, models
from kdlib.trainer import DistillationArguments, DistillationTrainer
def train(epochs, root, folder):
    tokenizer, teacher = models.load_tokenizer(f"{root}/data/teachers/mini_nli"), models.load(f"{root}/data/teachers/mini_nli", labels=glue.MNLI.labels)
    rows = glue.encode(glue.load(glue.MNLI, f"{root}/data/mini_nli", "train", rows=2000), tokenizer, glue.MNLI, max_length=64)
    args = DistillationArguments(folder, num_train_epochs=epochs, per_device_train_batch_size=64, save_strategy="no", disable_tqdm=True)
    trainer = DistillationTrainer(models.student_from_teacher(teacher, [0, 2]), args, teacher=teacher, train_dataset=rows, data_collator=glue.collator(tokenizer))
    trainer.fit()
    return {"steps": trainer.state.global_step}
"""
PARAMETERS = "profile: str = ''\nseed: int = 0\nrun_dir: str = ''"
START = "import kdlib as kd\nrun = kd.start('04_distilbert_mnli', profile=profile, seed=seed, run_dir=run_dir)"


def overhead(epochs: int = 8) -> None:
    """The same training bare, in a plain process, and as the stage of a headless notebook that
    saves every minute.
    """
    with tempfile.TemporaryDirectory() as place:
        bare = [
            sys.executable,
            "-c",
            f"{TRAINING}\nimport time, os\nbegan = time.perf_counter(), time.process_time()\n"
            f"train({epochs}, {str(ROOT)!r}, {place + '/bare'!r})\nprint('took', time.perf_counter() - began[0], time.process_time() - began[1])",
        ]
        said = subprocess.run(
            bare,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"KD_CHECKPOINT_MINUTES": "0"},
        ).stdout
        wall, cpu = map(float, said.split("took ")[1].split())
        nb = nbformat.v4.new_notebook(
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            }
        )
        stage = (
            f"import time\nbegan = time.process_time()\nrun.stage('student', train, epochs={epochs}, root={str(ROOT)!r})\n"
            "run.record(cpu=time.process_time() - began)\nrun.finish()"
        )
        nb.cells = [
            nbformat.v4.new_code_cell(source) for source in (PARAMETERS, START, TRAINING, stage)
        ]
        nb.cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(nb, f"{place}/04_distilbert_mnli.ipynb")
        os.environ["KD_CHECKPOINT_MINUTES"] = "1"
        outcome = batch.run_notebook(
            f"{place}/04_distilbert_mnli.ipynb", "smoke", runs=Path(place) / "runs"
        )
        os.environ.pop("KD_CHECKPOINT_MINUTES")
        record = outcome.record
        inside = record["stage_seconds"]["student"]
        row("a training, bare", f"{wall:.1f} s", f"{cpu:.1f} s of the processor")
        row(
            "as a batch run's stage",
            f"{inside:.1f} s",
            f"{record['results']['cpu']:.1f} s of the processor; {100 * (record['results']['cpu'] / cpu - 1):+.1f} %",
        )
        row(
            "the whole batch run",
            f"{outcome.seconds:.1f} s",
            f"{outcome.seconds - wall:+.1f} s; asked: at most {10 + 0.03 * wall:+.1f} s",
        )


def listing(count: int = 2000) -> None:
    """`status` over runs of every kind, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        for i in range(count):
            folder = Path(place) / "04_distilbert_mnli" / f"full-seed{i}-abcdef"
            folder.mkdir(parents=True)
            (folder / "run.json").write_text("{}")
            name, value = (
                ("outcome.json", {"code": 1, "error": "CUDA out of memory"})
                if i % 10 == 0
                else (PARTIAL, {"partial": {}})
                if i % 10 == 1
                else (
                    "record.json",
                    {"results": {"history": [{"step": k, "ce": 0.5} for k in range(500)]}},
                )
            )
            (folder / name).write_text(json.dumps(value))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "kdlib", "status"],
                capture_output=True,
                env=os.environ | {"KD_RUNS": place},
            )
            times.append(time.perf_counter() - began)
        row(
            f"status of {count:,} runs",
            f"{min(times):.2f} s",
            "asked: below 1 s, Python's start included",
        )


def main(quick: bool = False) -> int:
    listing()
    if not quick:
        overhead()
    return 0
