"""Jobs on a real one-node Slurm: arrays, limits, cancellations, requeues, a node that dies. The numbers are those of an undisturbed run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cluster as slurm_cluster
import pytest
from helpers import alive, write_notebook

from kdlib.paths import ROOT

pytestmark = pytest.mark.slow
TRAINING = f"""
import os, sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny
from kdlib.trainer import loss_curves
from transformers import TrainerCallback

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kw):
        time.sleep(float(os.environ.get("STEP_SECONDS", 0)))

def train(words, folder):
    tokenizer = tiny.tokenizer(Path(words))
    rows = tiny.encoded(tokenizer, 48), tiny.encoded(tokenizer, 21, seed=1)
    trainer = tiny.trainer(folder, tiny.bert(2, seed=8, dropout=0.2), rows, tokenizer, tiny.bert(4, seed=7), num_train_epochs=10,
                           logging_strategy="steps", logging_steps=7, seed=run.seed)
    trainer.add_callback(Slow())
    trainer.fit()
    return {{"history": loss_curves(trainer.state.log_history), "ce": trainer.evaluate()["eval_ce"]}}
"""
CELLS = (
    TRAINING,
    "trained = run.stage('student', train, words=os.environ['WORDS'])",
    "run.record(**trained)",
    "run.finish()",
)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    one = slurm_cluster.Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        yield one.start()
    finally:
        one.stop()


class Work:
    """A notebook, its runs folder, and its jobs on the cluster."""

    def __init__(self, node, folder: Path, *cells: str, step_seconds: float = 0.0):
        self.node, self.runs, self.path = (
            node,
            folder / "runs",
            write_notebook(folder, *cells) if cells else "04",
        )
        self.env = node.env | {
            "KD_RUNS": str(self.runs),
            "STEP_SECONDS": str(step_seconds),
            "WORDS": str(folder),
            "KD_CHECKPOINT_MINUTES": "0.05",
            "OMP_NUM_THREADS": "1",
        }

    def kdlib(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "kdlib", *arguments],
            env=self.env | variables,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def submit(self, *options: str) -> str:
        done = self.kdlib("sbatch", str(self.path), "--profile", "smoke", "--submit", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def folder(self, seed: int = 0) -> Path:
        return next(iter(self.runs.glob(f"*/smoke-seed{seed}-*")), self.runs / "none")

    def results(self, seed: int = 0) -> dict:
        return json.loads((self.folder(seed) / "record.json").read_text())["results"]

    def logs(self) -> str:
        return "\n".join(p.read_text() for p in sorted((self.runs / "logs").glob("*.log")))

    def until_trained(self, step: int = 8) -> None:
        steps = lambda: [
            int(p.name.split("-")[1]) for p in self.runs.glob("*/*/stages/*.work/checkpoint-*")
        ]
        self.node._until(
            lambda: max(steps(), default=0) >= step, "no checkpoint: " + self.logs()[-800:], 240
        )


@pytest.fixture(scope="module")
def undisturbed(node, tmp_path_factory):
    """Results of the same training without Slurm and without haste."""
    work = Work(node, tmp_path_factory.mktemp("undisturbed"), *CELLS)
    done = work.kdlib("run", str(work.path), "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    return work.results()


@pytest.fixture(scope="module")
def jobs(node, tmp_path_factory):
    """Everything that may run side by side, submitted at once: waiting is most of these tests' time."""
    make = lambda name, *cells, **how: Work(node, tmp_path_factory.mktemp(name), *cells, **how)
    short = make("short", *CELLS, step_seconds=1.2)
    moved = make("moved", *CELLS, step_seconds=1)
    smoke = make("smoke")
    early = make("early", *CELLS, step_seconds=0.7)
    early.env["KD_MAX_MINUTES"] = "0.5"  # of a job that has ten
    return {
        "early": (early, early.submit("--time", "00:10:00", "--until-done")),
        "short": (short, short.submit("--time", "00:02:00", "--until-done")),
        "moved": (moved, moved.submit("--time", "00:10:00")),
        "smoke": (
            smoke,
            smoke.submit("--grid", "seed=0,1,2,3", "--at-once", "2", "--time", "00:20:00"),
        ),
    }


def test_a_requeue_in_the_middle_of_training_changes_no_number(node, jobs, undisturbed):
    work, job = jobs["moved"]
    work.until_trained()
    told = work.kdlib("status", "04")
    assert (
        told.returncode == 0
        and f"running    04_distilbert_mnli/{work.folder().name}  Slurm job {job}" in told.stdout
        and "min left" in told.stdout
    )
    busy = work.kdlib("run", str(work.path), "--profile", "smoke")
    assert (
        busy.returncode == 2
        and f"in use by Slurm job {job} " in busy.stderr
        and busy.stderr.count("\n") == 1
    )
    assert node.tell("scontrol", "requeue", job) == ""
    assert node.wait(job, 180) == {"COMPLETED"}, work.logs()
    assert work.results() == undisturbed


def test_an_array_of_four_smoke_runs(node, jobs):
    work, job = jobs["smoke"]
    assert node.wait(job, 300) == {"COMPLETED"}, work.logs()
    assert (
        len(list(work.runs.glob("*/*/record.json"))) == 4
        and len(list((work.runs / "logs").glob("*.log"))) == 4
    )
    assert work.kdlib("status").stdout.splitlines()[-1] == "4 done of 4 runs"
    assert all(f.stat().st_size < 1_500_000 for f in work.runs.glob("*/*/*.ipynb")), (
        "executed notebooks stay small"
    )


def test_a_cancelled_job_leaves_no_process_and_goes_on_where_it_was(node, tmp_path, undisturbed):
    work = Work(node, tmp_path, *CELLS, step_seconds=1)
    job = work.submit("--time", "00:10:00")
    work.until_trained()
    pids = [pid for pid, _ in json.loads((work.folder() / "in_use.json").read_text())["pids"]]
    assert len(pids) == 2
    node.tell("scancel", job)
    assert node.wait(job, 60) == {"CANCELLED"}
    node._until(lambda: not any(map(alive, pids)), f"{pids} live on", 20)
    told = work.kdlib("status", "04")
    assert told.returncode in (1, 75) and "cancelled" in told.stdout.lower(), told.stdout
    done = work.kdlib("run", str(work.path), "--profile", "smoke", STEP_SECONDS="0")
    assert done.returncode == 0 and work.results() == undisturbed
    steps = re.findall(r"step +(\d+)/60", (work.folder() / "04_distilbert_mnli.ipynb").read_text())
    assert int(steps[0]) > 7, "it went on, it did not begin again"


def test_two_arrays_on_one_folder_share_the_work_and_a_failing_point_stops_no_other(node, tmp_path):
    work = Work(
        node,
        tmp_path,
        "import os, time; time.sleep(6); assert run.seed != 1, 'a bad point'",
        "run.record(seed=run.seed, left=float(os.environ['KD_DEADLINE']) - time.time())",
        "run.finish()",
    )
    jobs = [
        work.submit("--grid", "seed=0,1,2", "--at-once", "2", "--time", "00:10:00")
        for _ in range(2)
    ]
    states = [node.wait(job, 240) for job in jobs]
    assert {work.results(seed)["seed"] for seed in (0, 2)} == {0, 2}
    assert all(600 - 150 - 90 < work.results(seed)["left"] < 600 - 150 for seed in (0, 2)), (
        "ten minutes less a quarter of them to score and draw"
    )
    assert all("FAILED" in s for s in states) and not (work.folder(1) / "record.json").exists()
    logs = work.logs()
    assert "a bad point" in logs and ("in use by Slurm job" in logs or "finished earlier" in logs)
    told = work.kdlib("status", "04")
    assert (
        told.returncode == 1
        and "1 failed, 2 done of 3 runs" in told.stdout
        and "AssertionError: a bad point" in told.stdout
    )


def test_slurms_own_message_and_ours(node, tmp_path):
    work = Work(node, tmp_path, "run.finish()")
    for options, sentence in (
        (["--partition", "nowhere"], "invalid partition"),
        (["--gres", "gpu:a100:1"], "(?i)gres|node configuration"),
    ):
        done = work.kdlib("sbatch", str(work.path), "--submit", *options)
        assert (
            done.returncode == 2
            and re.search(sentence, done.stderr)
            and "Partitions here" in done.stderr
            and "main 1:00:00" in done.stderr
        )
        assert done.stderr.count("\n") == 1 and not done.stdout


def test_a_job_that_cannot_work_ends_before_any_training(node, tmp_path):
    """Its models are neither in the cache nor to be had: exit code 2 within seconds, and the log says what to do."""
    work = Work(node, tmp_path)
    work.env |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(tmp_path / "empty"),
        "KD_REAL": str(tmp_path / "none"),
    }
    done = work.kdlib("sbatch", "04", "--profile", "full", "--submit", "--time", "00:10:00")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert node.wait(job, 120) == {"FAILED"}
    assert "ExitCode=2:0" in node.tell("scontrol", "show", "job", job)
    said = work.logs()
    assert (
        "STOP  models and data" in said
        and "python -m kdlib get full 04" in said
        and "refused before any training" in said
    )
    assert not list(work.runs.glob("0*")), "nothing was begun"


def test_runs_go_to_the_clusters_place_and_status_finds_them(node, tmp_path):
    """As a user has it: no KD_RUNS; the login node's checkout learns of the place when the script is written."""
    work = Work(node, tmp_path, "run.record(seed=run.seed)", "run.finish()")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("notebooks", "kdlib", "data"):
        (checkout / name).symlink_to(ROOT / name)
    work.env.pop("KD_RUNS")
    work.env |= {"KD_ROOT": str(checkout), "USER": "me", "HF_HUB_OFFLINE": "1"}
    (tmp_path / "mine.yaml").write_text(
        f"runs: ['{tmp_path}/scratch/$USER/runs', emptied every month]"
    )
    job = work.submit("--cluster", str(tmp_path / "mine.yaml"), "--time", "00:10:00")
    assert node.wait(job, 180) == {"COMPLETED"}, "".join(
        p.read_text() for p in tmp_path.glob("scratch/me/runs/logs/*")
    )
    assert len(list(tmp_path.glob("scratch/me/runs/04_distilbert_mnli/*/record.json"))) == 1
    assert work.kdlib("status").stdout.splitlines()[-1] == "1 done of 1 runs"


def test_a_time_limit_that_is_too_short_is_gone_beyond_in_several_turns(node, jobs, undisturbed):
    work, job = jobs["short"]
    assert node.wait(job, 400) == {"COMPLETED"}, work.logs()
    assert work.results() == undisturbed
    assert int(re.search(r"Restarts=(\d+)", node.tell("scontrol", "show", "job", job))[1]) >= 1
    assert not list(work.runs.glob("*/*/record.partial.json"))


def test_a_training_that_stops_by_itself_puts_its_job_back_into_the_queue(node, jobs, undisturbed):
    """Exit code 75, not a signal: the limit is far away."""
    work, job = jobs["early"]
    assert node.wait(job, 400) == {"COMPLETED"}, work.logs()
    assert work.results() == undisturbed and "the time limit is near" not in work.logs()
    turns = re.findall(
        r"UNFINISHED \(75\): stopped early, student: (\d+) % of its training", work.logs()
    )
    restarts = int(re.search(r"Restarts=(\d+)", node.tell("scontrol", "show", "job", job))[1])
    assert len(turns) == restarts >= 1 and turns == sorted(turns, key=int), work.logs()


def test_a_node_that_dies_and_comes_back(node, tmp_path, undisturbed):
    """Last: it takes every job with it."""
    work = Work(node, tmp_path, *CELLS, step_seconds=0.5)
    job = work.submit("--time", "00:10:00")
    work.until_trained()
    pids = [pid for pid, _ in json.loads((work.folder() / "in_use.json").read_text())["pids"]]
    node.kill_node()
    node._until(lambda: not any(map(alive, pids)), f"{pids} live on", 10)
    told = work.kdlib("status", "04").stdout
    assert told.startswith("failed") and "ended without a word" in told
    node._until(
        lambda: "down" in node.tell("sinfo", "-h", "-o", "%T"), "nobody misses the node", 90
    )
    node.start_node()
    assert node.wait(job, 240) == {"COMPLETED"}, work.logs()
    assert work.results() == undisturbed
