"""Deadlines, locks, partial records, exit codes: on this machine alone, without Slurm."""

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from helpers import alive

import kdlib as kd
from kdlib import batch, deadline, results, status
from kdlib.__main__ import main
from kdlib.batch.runs import place_of
from kdlib.course import lock
from kdlib.course.run import PARTIAL


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch):
    for name in (
        "KD_DEADLINE",
        "KD_MAX_MINUTES",
        "KD_JOB_BEGAN",
        "SLURM_JOB_ID",
        "SLURM_JOB_END_TIME",
        "KD_BATCH",
    ):
        monkeypatch.delenv(name, raising=False)
    deadline.take()


# -- when ------------------------------------------------------------------------------------------------------------


def test_without_a_limit_there_is_no_deadline():
    assert deadline.at() is None and not deadline.passed()


def test_minutes_count_from_the_first_look(monkeypatch):
    monkeypatch.setenv("KD_MAX_MINUTES", "2")
    deadline.fix()
    first = deadline.at()
    assert 115 < first - time.time() <= 121
    deadline.fix()
    assert deadline.at() == first
    monkeypatch.delenv("KD_DEADLINE")


@pytest.mark.parametrize("name", ["KD_DEADLINE", "KD_MAX_MINUTES"])
@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "inf"])
def test_a_deadline_that_is_none_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must be a number above 0"):
        deadline.at()


def squeue(folder: Path, says: str) -> str:
    """A PATH whose squeue says so."""
    (folder / "squeue").write_text(f"#!/bin/sh\n{says}\n")
    (folder / "squeue").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_the_jobs_end_does_not_depend_on_the_nodes_clock(monkeypatch, tmp_path, capfd):
    began = time.time() - 100
    monkeypatch.setenv(
        "PATH", squeue(tmp_path, f"echo {began - 5000:.0f} {began - 5000 + 3600:.0f}")
    )  # the cluster's clock is 5,000 s behind
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("KD_JOB_BEGAN", f"{began:.0f}")
    assert deadline.at() == pytest.approx(began + 3600 - deadline.MARGIN_SECONDS, abs=2)
    assert "clock is +5000 s off the cluster's" in capfd.readouterr().err


@pytest.mark.parametrize("says", ["exit 1", "echo N/A N/A", "echo 1 NONE", "sleep 0"])
def test_without_an_answer_the_environment_is_asked_and_then_nobody(monkeypatch, tmp_path, says):
    monkeypatch.setenv("PATH", squeue(tmp_path, says))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert deadline.at() is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", "4000000000")
    assert deadline.at() == 4000000000 - deadline.MARGIN_SECONDS


def test_what_was_left_is_told_in_a_line():
    one = {"step": 3, "steps": 10, "share": 0.3, "epochs": 0.3, "of_epochs": 1.0}
    assert deadline.told({"student": [one]}) == "student: 30 % of the data"
    assert (
        deadline.told({"student": [one | {"epochs": 0.9, "of_epochs": 3.0}]})
        == "student: 30 % of its training (0.9 of 3 epochs)"
    )


# -- a training that is stopped ----------------------------------------------------------------------------------------


class Late:
    """From step `at` on it is too late."""

    def __init__(self, monkeypatch, at: int):
        self.monkeypatch, self.at = monkeypatch, at

    def train(self, folder, data, tokenizer, teacher, **changes):
        trainer = tiny.trainer(
            folder,
            tiny.bert(2, seed=8, dropout=0.2),
            data,
            tokenizer,
            teacher,
            num_train_epochs=3,
            logging_strategy="steps",
            logging_steps=5,
            **changes,
        )
        begin = trainer._clock.on_step_end

        def step(args, state, control, **kw):
            trainer._clock.left = 0.0 if state.global_step == self.at else 1e9
            begin(args, state, control, **kw)

        self.monkeypatch.setattr(trainer._clock, "on_step_end", step)
        return trainer


def test_a_training_that_was_stopped_twice_ends_as_one_that_was_not(
    tmp_path, tokenizer, encoded, teacher, monkeypatch
):
    whole = tiny.trainer(
        tmp_path / "whole",
        tiny.bert(2, seed=8, dropout=0.2),
        encoded,
        tokenizer,
        teacher,
        num_train_epochs=3,
        logging_strategy="steps",
        logging_steps=5,
    )
    whole.fit()
    assert not whole.stopped and not list((tmp_path / "whole").glob("checkpoint-*")), (
        "what nobody asked for is not left behind"
    )
    for at, seen in ((4, 4), (11, 11), (99, None)):
        trainer = Late(monkeypatch, at).train(tmp_path / "cut", encoded, tokenizer, teacher)
        trainer.fit()
        assert trainer.stopped == bool(seen)
        if seen:
            assert trainer.state.global_step == seen and "eval_ce" in trainer.state.log_history[-1]
            assert [p.name for p in (tmp_path / "cut").iterdir()] == [
                f"checkpoint-{seen}"
            ] or seen == 11
            assert deadline.take() == [
                {
                    "step": seen,
                    "steps": 18,
                    "share": round(seen / 18, 4),
                    "epochs": round(seen / 6, 3),
                    "of_epochs": 3.0,
                }
            ]
    assert tiny.difference(whole.model.state_dict(), trainer.model.state_dict()) == 0
    curve = lambda t: [[e.get(k) for k in ("step", "ce", "kd")] for e in t.state.log_history[:-1]]
    assert curve(whole) == curve(trainer), (
        "a log line that spans the interruption says what it would have said"
    )


def test_checkpoints_by_the_clock_are_whole_and_the_newest_two(
    tmp_path, tokenizer, encoded, teacher, monkeypatch
):
    seen = []
    trainer = tiny.trainer(
        tmp_path,
        tiny.bert(2),
        encoded,
        tokenizer,
        teacher,
        num_train_epochs=2,
        checkpoint_minutes=1e-9,
    )
    monkeypatch.setattr(
        trainer._clock,
        "on_save",
        lambda *a, **kw: seen.append(sorted(p.name for p in tmp_path.iterdir())),
    )
    trainer.fit()
    assert (
        seen[0] == ["checkpoint-1"]
        and seen[-1] == ["checkpoint-10", "checkpoint-11"]
        and all(len(s) <= 2 for s in seen)
    )


def test_a_training_loop_that_does_not_resume_is_stopped_and_saves_nothing(
    tmp_path, tokenizer, encoded, teacher, monkeypatch
):
    monkeypatch.setenv("KD_DEADLINE", str(time.time() - 5))
    trainer = tiny.trainer(tmp_path, tiny.bert(2), encoded, tokenizer, teacher)
    trainer.train()
    assert trainer.stopped and trainer.state.global_step == 1 and not list(tmp_path.iterdir())


def test_max_minutes_is_a_trainers_own_limit(tmp_path, tokenizer, encoded, teacher):
    trainer = tiny.trainer(tmp_path, tiny.bert(2), encoded, tokenizer, teacher, max_minutes=1e-6)
    trainer.fit()
    assert (
        trainer.stopped and trainer.state.global_step == 1 and (tmp_path / "checkpoint-1").is_dir()
    )
    with pytest.raises(ValueError, match="max_minutes must be 0 or more"):
        tiny.arguments(tmp_path, max_minutes=-1)


def test_a_stage_that_was_stopped_is_not_kept_and_the_record_is_partial(tmp_path, capsys):
    def half(folder):
        Path(folder, "progress").touch()
        if not Path(folder, "more").exists():
            deadline.note(3, 10, 0.3, 1)
            Path(folder, "more").touch()
            return 0.3
        return 1.0

    run = kd.start("04_distilbert_mnli", profile="smoke")
    assert run.stage("student", half) == 0.3
    run.record(accuracy=0.3)
    run.finish()
    told = capsys.readouterr().out
    assert (
        "stage student: stopped early, student: 30 % of the data" in told
        and "no result yet" in told
    )
    assert json.loads((run.folder / PARTIAL).read_text())["partial"]["student"][0]["share"] == 0.3
    assert not (run.folder / "record.json").exists() and results.records() == [], (
        "no table of runs counts it"
    )
    again = kd.start("04_distilbert_mnli", profile="smoke")
    assert again.stage("student", half) == 1.0 and not again.partial
    again.finish()
    assert (run.folder / "record.json").exists() and not (run.folder / PARTIAL).exists()
    assert not list(run.folder.glob("stages/*.partial")) and not list(
        run.folder.glob("stages/*.work")
    )


NOTE = "import os\nfrom kdlib import deadline\nstage = lambda: deadline.note(1, 4, 0.75, 3) if 'KD_DEADLINE' in os.environ else None"


def test_stopped_early_is_exit_code_75_and_the_same_command_goes_on(notebook, monkeypatch, capsys):
    path = notebook(NOTE, "run.stage('student', stage)", "run.finish()")
    command = ["run", str(path), "--profile", "smoke"]
    assert main([*command, "--max-minutes", "60"]) == batch.STOPPED == 75
    assert (
        "unfinished (75): stopped early, student: 25 % of its training (0.75 of 3 epochs)"
        in capsys.readouterr().err
    )
    assert main(["status"]) == 75
    told = capsys.readouterr().out
    assert "partial" in told and "25 % of its training" in told and "1 partial of 1 runs" in told
    monkeypatch.delenv("KD_DEADLINE"), monkeypatch.delenv("KD_MAX_MINUTES")
    assert main(command) == 0 and main(["status", "04"]) == 0
    assert "1 done of 1 runs" in capsys.readouterr().out


def test_a_sweep_begins_nothing_after_the_deadline(notebook, monkeypatch, capsys):
    monkeypatch.setenv("KD_DEADLINE", "5")
    assert batch.sweep(notebook("run.finish()"), {"seed": [0, 1]}, "smoke") == batch.STOPPED
    assert "unfinished: seed=0: not begun" in capsys.readouterr().out


def test_a_share_of_a_grid(notebook, capsys):
    path = notebook("run.finish()")
    for seed in range(5):  # all are done: nothing runs, and the names tell which were picked
        folder = place_of(path, "smoke", {"seed": seed})[1]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(dict.fromkeys(results.REQUIRED, {})))
    picked = []
    for i in (1, 2):
        assert (
            main(
                [
                    "sweep",
                    str(path),
                    "--profile",
                    "smoke",
                    "--grid",
                    "seed=0,1,2,3,4",
                    "--task",
                    f"{i}/2",
                ]
            )
            == 0
        )
        picked.append(
            sorted(
                line.split()[1]
                for line in capsys.readouterr().out.splitlines()
                if "finished earlier" in line
            )
        )
    assert picked == [["seed=0:", "seed=2:", "seed=4:"], ["seed=1:", "seed=3:"]]
    with pytest.raises(SystemExit):
        main(["sweep", str(path), "--grid", "seed=0", "--task", "3/2"])


# -- a folder belongs to one ---------------------------------------------------------------------------------------------


def sleeper() -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def taken_by(folder: Path, process: subprocess.Popen, **changes) -> dict:
    said = {
        "host": socket.gethostname(),
        "pids": [lock._pid(process.pid)],
        "job": "",
        "log": "",
        "since": "2026-01-01T00:00:00",
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / lock.NAME).write_text(json.dumps(said))
    return said


def test_a_folder_in_use_is_refused_and_its_owner_named(notebook, capsys):
    path, other = notebook("run.finish()"), sleeper()
    folder = place_of(path, "smoke", {})[1]
    try:
        taken_by(folder, other, job="123_4")
        assert main(["run", str(path), "--profile", "smoke"]) == 2
        told = capsys.readouterr().err
        assert (
            f"in use by Slurm job 123_4 (process {other.pid} on {socket.gethostname()}, since 2026"
            in told
            and told.count("\n") == 1
        )
        assert sorted(p.name for p in folder.iterdir()) == [lock.NAME]
        with pytest.raises(OSError, match="in use by Slurm job 123_4"):
            kd.start("04_distilbert_mnli", profile="smoke", run_dir=str(folder))
    finally:
        other.kill(), other.wait()
    assert main(["run", str(path), "--profile", "smoke"]) == 0, "a dead owner is seen through"
    assert not (folder / lock.NAME).exists()


def test_a_pid_that_came_back_as_another_process_is_no_owner(tmp_path):
    other = sleeper()
    try:
        said = taken_by(tmp_path, other)
        assert lock.owner(tmp_path)["alive"] is True
        taken_by(tmp_path, other, pids=[[other.pid, said["pids"][0][1] - 1000]])
        assert lock.owner(tmp_path)["alive"] is False
    finally:
        other.kill(), other.wait()


def test_an_owner_on_another_node_is_asked_of_slurm(monkeypatch, tmp_path):
    other = sleeper()
    try:
        taken_by(tmp_path, other, host="elsewhere", job="9")
        for says, alive in (
            ("echo RUNNING", True),
            ("echo COMPLETED", False),
            ("echo Invalid job id specified >&2; exit 1", False),
            ("exit 1", None),
        ):
            monkeypatch.setenv("PATH", squeue(tmp_path, says))
            assert lock.owner(tmp_path)["alive"] is alive, says
        monkeypatch.setenv("SLURM_JOB_ID", "9")  # Slurm started our own job anew
        assert lock.owner(tmp_path)["alive"] is False
    finally:
        other.kill(), other.wait()


def test_a_lock_that_was_cut_off_is_nobodys(tmp_path):
    (tmp_path / lock.NAME).write_text('{"host": "x", "pi')
    lock.acquire(tmp_path)
    assert lock.owner(tmp_path)["pids"][0][0] == os.getpid()
    lock.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    code = (
        f"import sys, time\nfrom kdlib.course import lock\nfrom pathlib import Path\ntime.sleep(max(0, {time.time() + 6} - time.time()))\n"
        f"try:\n    lock.acquire(Path({str(tmp_path)!r}))\n    time.sleep(3)\nexcept OSError:\n    sys.exit(3)"
    )
    dead = sleeper()
    taken_by(tmp_path, dead)
    dead.kill(), dead.wait()
    crowd = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
    assert sorted(p.wait(60) for p in crowd) == [0] + [3] * 5


# -- status ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error, cause",
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "out of memory"),
        ("the kernel was killed: most likely", "out of memory"),
        ("RuntimeError: CUDA error: no kernel image is available", "no code for this GPU"),
        ("OSError: [Errno 28] No space left on device", "quota"),
        ("OSError: [Errno 122] Disk quota exceeded", "quota"),
        ("LocalEntryNotFoundError: Cannot find the requested", "hub cannot be reached"),
        ("slurmstepd: *** JOB 3 CANCELLED AT 2026 DUE TO TIME LIMIT ***", "time limit"),
        ("ModuleNotFoundError: No module named 'peft'", "package is missing"),
    ],
)
def test_likely_causes(error, cause):
    found, todo = status.cause_of(error)
    assert cause in found and todo


def test_status_of_every_kind(fresh_runs, capsys):
    other, dead = sleeper(), sleeper()
    place = fresh_runs / "04_distilbert_mnli"
    try:
        for name, files in {
            "done": {"record.json": {"results": {}}},
            "cut": {"record.json": None},
            "failed": {"outcome.json": {"code": 1, "error": "RuntimeError: CUDA out of memory"}},
            "half": {
                PARTIAL: {"partial": {"student": [{"share": 0.3, "epochs": 0.3, "of_epochs": 1}]}}
            },
            "begun": {},
        }.items():
            (place / name).mkdir(parents=True)
            for file, value in ({"run.json": {}} | files).items():
                (place / name / file).write_text(
                    '{"a": 1, "b' if value is None else json.dumps(value)
                )
        taken_by(place / "busy", other), taken_by(place / "dead", dead)
        dead.kill(), dead.wait()
        found = {s.run.split("/")[1]: s for s in status.states()}
    finally:
        other.kill(), other.wait()
    assert {name: s.state for name, s in found.items()} == {
        "done": "done",
        "cut": "failed",
        "failed": "failed",
        "half": "partial",
        "begun": "unfinished",
        "busy": "running",
        "dead": "failed",
    }
    assert (
        found["failed"].cause == "out of memory"
        and found["half"].note == "student: 30 % of the data"
        and "killed" in found["dead"].cause
    )
    assert (
        main(["status", "04"]) == 1
        and "→ out of memory: a smaller batch_size" in capsys.readouterr().out
    )
    assert main(["status", "99"]) == 2 and "no runs of 99" in capsys.readouterr().err


# -- a parent that is killed ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_parent_leaves_nobody_writing(notebook, tmp_path):
    """Papermill and kernel end by themselves, and the same command goes on; until then they are named."""
    path, folder = (
        notebook(
            "import time; time.sleep(0 if run.folder.joinpath('again').exists() else 90)",
            "run.finish()",
        ),
        tmp_path / "run",
    )
    command = [
        sys.executable,
        "-m",
        "kdlib",
        "run",
        str(path),
        "--profile",
        "smoke",
        "-p",
        f"run_dir={folder}",
    ]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pids, late = [], time.monotonic() + 90
    while len(pids) < 2 and time.monotonic() < late:
        time.sleep(0.2)
        pids = (
            [pid for pid, _ in ((lock.owner(folder) or {}).get("pids") or [])]
            if folder.exists()
            else []
        )
    assert len(pids) == 2, "the kernel never joined the lock"
    first.kill(), first.wait()
    while any(map(alive, pids)) and time.monotonic() < late + 30:
        time.sleep(0.2)
    assert not any(map(alive, pids))
    (folder / "again").touch()
    assert subprocess.run(command, capture_output=True).returncode == 0


# -- a disk that is full ----------------------------------------------------------------------------------------------

FULL = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny
from kdlib.trainer import loss_curves
from transformers import TrainerCallback

class Fill(TrainerCallback):
    def on_save(self, args, state, control, **kw):              # somebody else's file, after the first checkpoint
        if "FILL" in os.environ:
            try:
                with open(os.environ["FILL"], "wb", buffering=0) as file:
                    while file.write(bytes(1 << 16)):
                        pass
            except OSError:
                print("full at", state.global_step, flush=True)

def train(words, folder):
    tokenizer = tiny.tokenizer(Path(words))
    rows = tiny.encoded(tokenizer, 48), tiny.encoded(tokenizer, 21, seed=1)
    trainer = tiny.trainer(folder, tiny.bert(2, seed=8, dropout=0.2), rows, tokenizer, tiny.bert(4, seed=7), num_train_epochs=10,
                           logging_strategy="steps", logging_steps=7, checkpoint_minutes=0.002)
    trainer.add_callback(Fill())
    trainer.fit()
    return {{"history": loss_curves(trainer.state.log_history), "ce": trainer.evaluate()["eval_ce"]}}
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 240 MB: a run asks for 200 before it begins."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("a small file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_while_it_trains_costs_no_more_than_the_last_steps(
    notebook, tmp_path, small_disk, capsys, monkeypatch
):
    path = notebook(
        FULL, f"run.record(**run.stage('student', train, words={str(tmp_path)!r}))", "run.finish()"
    )
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    assert (
        main(["run", str(path), "--profile", "smoke", "-p", f"run_dir={tmp_path / 'whole'}"]) == 0
    )
    capsys.readouterr(), monkeypatch.setenv("FILL", str(small_disk / "others"))
    again = [
        "run",
        str(path),
        "--profile",
        "smoke",
        "-p",
        f"run_dir={small_disk / '04_distilbert_mnli' / 'run'}",
    ]
    assert main(again) == 1
    said = capsys.readouterr()
    assert "No space left" in said.out + said.err, said
    monkeypatch.setenv("KD_RUNS", str(small_disk))
    assert (
        main(["status", "04"]) == 1
        and "→ the disk or your quota is full: delete old runs" in capsys.readouterr().out
    )
    (small_disk / "others").unlink(), monkeypatch.delenv("FILL")
    assert main(again) == 0
    read = lambda folder: json.loads((folder / "record.json").read_text())["results"]
    assert read(small_disk / "04_distilbert_mnli/run") == read(tmp_path / "whole")


# -- killed at random --------------------------------------------------------------------------------------------------

SCRIPT = f'''
import os, random, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny
from pathlib import Path
import kdlib as kd
from kdlib.trainer import loss_curves
from transformers import TrainerCallback

class Told(TrainerCallback):
    def on_step_end(self, args, state, control, **kw):
        print("at", state.global_step, flush=True)

def train(words, folder):
    tokenizer = tiny.tokenizer(Path(words))
    rows = tiny.encoded(tokenizer, 48), tiny.encoded(tokenizer, 21, seed=1)
    trainer = tiny.trainer(folder, tiny.bert(2, seed=8, dropout=0.2), rows, tokenizer, tiny.bert(4, seed=7), num_train_epochs=60,
                           logging_strategy="steps", logging_steps=7, checkpoint_minutes=0.001)
    trainer.add_callback(Told())
    trainer.fit()
    return {{"history": loss_curves(trainer.state.log_history), "ce": trainer.evaluate()["eval_ce"],
             "student": [float(p.detach().double().sum()) for p in trainer.model.parameters()]}}

def attempt(words, folder, after=None):
    """Run it in a fork (imports cost seconds, and are none of our business); `after` seconds of training, kill -9. (exit code, steps seen)"""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(theirs, 1), os.close(ours), os.close(theirs)
        run = kd.start("04_distilbert_mnli", profile="smoke", run_dir=folder)
        run.record(**run.stage("student", train, words=words))
        run.finish(), sys.stdout.flush()
        os._exit(0)
    os.close(theirs)
    steps, told = [], os.fdopen(ours)
    for line in told:
        if line.startswith("at "):
            steps.append(int(line.split()[1]))
            if after is not None:
                time.sleep(after), os.kill(pid, signal.SIGKILL)
                after = None
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), steps

words, place = sys.argv[1:]
begun = time.monotonic()
assert attempt(words, place + "/whole")[0] == 0
# Twenty draws of at most a twentieth of the undisturbed run, six tenths of it together: however fast the machine, none is left to finish.
most, draw, killed = (time.monotonic() - begun) / 20, random.Random(0), []
for _ in range(20):
    code, steps = attempt(words, place + "/killed", draw.uniform(0, most))
    killed.append((code, steps[0], steps[-1]))
    if code == 0:
        break
print(killed)
assert attempt(words, place + "/killed")[0] == 0
'''


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path):
    """kill -9 while it computes, logs, writes a checkpoint or throws old ones away; then it goes on, and is killed again."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    killed = ast.literal_eval(
        [line for line in done.stdout.splitlines() if line.startswith("[(")][-1]
    )
    assert [code for code, _, _ in killed] == [-signal.SIGKILL] * 20
    assert len({first for _, first, _ in killed}) > 5, (
        "it went on from checkpoints, not from the beginning"
    )
    read = lambda name: json.loads((tmp_path / name / "record.json").read_text())["results"]
    assert read("killed") == read("whole")


# -- a margin that the run has measured --------------------------------------------------------------------------------


@pytest.fixture
def in_a_job(monkeypatch, tmp_path):
    """A Slurm job of two hours that has just begun."""
    now = time.time()
    monkeypatch.setenv("PATH", squeue(tmp_path, f"echo {now:.0f} {now + 7200:.0f}"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("KD_JOB_BEGAN", f"{now:.0f}")
    monkeypatch.setenv("KD_MARGIN", "600")
    deadline.fix()
    return now + 7200


def test_training_stops_earlier_where_translating_took_long(in_a_job):
    assert deadline.at() == pytest.approx(in_a_job - 600, abs=2), "nothing is measured yet"
    deadline.spend(translate=40.0)
    assert deadline.at() == pytest.approx(in_a_job - 600, abs=2), "a short one changes nothing"
    deadline.spend(translate=900.0, evaluate=100.0)
    assert deadline.at() == pytest.approx(in_a_job - 1.5 * 1000 - 60, abs=2)
    deadline.spend(translate=6000.0)
    assert deadline.at() == pytest.approx(in_a_job - 3600, abs=3), (
        "half of the time is for training"
    )


def test_other_processes_of_the_run_know_what_was_measured(in_a_job):
    deadline.spend(translate=900.0)
    code = "from kdlib import deadline; print(deadline.at())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) == pytest.approx(in_a_job - 1.5 * 900 - 60, abs=2)


def test_minutes_of_ones_own_are_no_end_that_needs_a_margin(monkeypatch):
    monkeypatch.setenv("KD_MAX_MINUTES", "2")
    deadline.fix()
    first = deadline.at()
    deadline.spend(translate=900.0)
    assert deadline.at() == first


def test_what_a_stage_measured_is_known_when_it_is_loaded(capsys):
    def slow():
        deadline.spend(translate=321.0)
        return 1

    kd.start("04_distilbert_mnli", profile="smoke").stage("base_translates", slow)
    os.environ.pop("KD_SPENT")
    kd.start("04_distilbert_mnli", profile="smoke").stage("base_translates", slow)
    assert "loaded" in capsys.readouterr().out and deadline.spent() == {"translate": 321.0}


def test_translations_and_evaluations_are_timed(tmp_path, tokenizer, encoded, teacher):
    from kdlib import translation

    tiny.trainer(tmp_path, tiny.bert(2, seed=8), encoded, tokenizer, teacher).evaluate()
    assert deadline.spent()["evaluate"] > 0
    calls = deadline.timed("translate")(lambda seconds: time.sleep(seconds) or "said")
    assert calls(0.2) == "said" and deadline.spent()["translate"] == pytest.approx(0.2, abs=0.15)
    assert translation.translate.__wrapped__.__name__ == "translate", "it is one of these"
