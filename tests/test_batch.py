"""Batch runs with real papermill processes: parameters arrive as numbers, failures and killed kernels are told from successes."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import alive

from kdlib import batch
from kdlib.__main__ import main
from kdlib.batch.runs import last_line, place_of, shortened


def test_parameters_arrive_as_numbers_and_the_record_is_found(notebook, tmp_path):
    path = notebook("run.record(rate=run.settings.learning_rate)", "run.finish()")
    outcome = batch.run_notebook(
        path, "smoke", {"learning_rate": 2e-05, "seed": 4}, runs=tmp_path / "runs"
    )
    assert outcome.code == 0, outcome.error
    assert outcome.record["results"] == {"rate": 2e-05} and outcome.record["seed"] == 4
    assert outcome.executed.exists() and outcome.peak_gb > 0


def test_a_wrong_parameter_is_refused_before_anything_runs(notebook, tmp_path):
    path = notebook("run.finish()")
    for wrong in ({"lerning_rate": 1.0}, {"learning_rate": "2e-5"}):
        with pytest.raises(ValueError, match="learning_rate"):
            batch.run_notebook(path, "smoke", wrong, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "wrong, hint",
    [
        ({"sede": 1}, "did you mean 'seed'"),
        ({"smoothing": 0.2}, "takes profile, seed, .*profiles/04_distilbert_mnli.yaml"),
    ],
)
def test_a_name_that_the_notebook_does_not_declare_is_refused_before_a_kernel_starts(
    notebook, tmp_path, wrong, hint
):
    with pytest.raises(ValueError, match=hint):
        batch.run_notebook(notebook("run.finish()"), "smoke", wrong, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_another_run_keeps_everything_that_it_has(notebook, tmp_path):
    path, folder = notebook("run.finish()"), tmp_path / "mine"
    assert batch.run_notebook(path, "smoke", {"run_dir": str(folder)}).code == 0
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(ValueError, match="another configuration .*differs in learning_rate"):
        batch.run_notebook(path, "smoke", {"run_dir": str(folder), "learning_rate": 0.5})
    assert {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()
    } == before and "record.json" in before


def test_a_run_that_fails_keeps_the_record_before_it_aside(notebook, tmp_path):
    folder = tmp_path / "mine"
    assert batch.run_notebook(notebook("run.finish()"), "smoke", {"run_dir": str(folder)}).code == 0
    before = (folder / "record.json").read_bytes()
    assert (
        batch.run_notebook(
            notebook("raise RuntimeError('out of luck')"), "smoke", {"run_dir": str(folder)}
        ).code
        == 1
    )
    assert (
        not (folder / "record.json").exists()
        and (folder / "record.previous.json").read_bytes() == before
    )


def test_a_path_that_is_not_there_is_refused_before_a_kernel_starts(tmp_path):
    for name, value in (
        ("data", "/no/where"),
        ("teacher", "data/teachers/none"),
        ("teacher", "runs/teacher_europarl_of_others"),
    ):
        with pytest.raises(FileNotFoundError, match=f"{name}={value}: there is no such"):
            batch.run_notebook("04", "smoke", {name: value}, runs=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["0,1", "1,x", "", "1,-2", "1,inf", "1,,2"])
def test_a_list_of_temperatures_is_checked_before_a_kernel_starts(tmp_path, wrong):
    with pytest.raises(ValueError, match="temperatures must be numbers above 0|is no value"):
        batch.run_notebook("02", "smoke", {"temperatures": wrong}, runs=tmp_path)


@pytest.mark.parametrize(
    "cell, code, text",
    [
        ("raise RuntimeError('out of luck')", 1, "out of luck"),
        ("import sys; sys.exit(0)", 1, "no record"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 138, "killed"),
    ],
)
def test_failures_are_told_from_successes(notebook, tmp_path, cell, code, text):
    outcome = batch.run_notebook(notebook(cell, "run.finish()"), "smoke", runs=tmp_path / "runs")
    assert outcome.code == code and outcome.record is None and text in outcome.error


def test_a_sweep_skips_what_is_done_and_goes_on_after_a_failure(
    notebook, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    path = notebook("assert run.settings.method != 'ce' or run.seed, 'a bad point'", "run.finish()")
    grid = {"method": ["ce", "kd"], "seed": [0, 1]}
    assert batch.sweep(path, grid, "smoke") == batch.FAILED
    told = capsys.readouterr().out
    assert (
        "3 of 4 points have a record" in told
        and "failed: method=ce seed=0: AssertionError: a bad point" in told
    )
    assert batch.sweep(path, {"method": ["kd"], "seed": [0, 1]}, "smoke") == batch.OK
    assert capsys.readouterr().out.count("finished earlier") == 2
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs").glob("*/*/record.json")]
    assert sorted((r["settings"]["method"], r["seed"]) for r in records) == [
        ("ce", 1),
        ("kd", 0),
        ("kd", 1),
    ]


MEET = """import os, pathlib, time
place = pathlib.Path(os.environ["MEET"])
(place / str(run.seed)).touch()
until = time.time() + 120
while len(list(place.iterdir())) < 5 and time.time() < until:
    time.sleep(0.05)
run.record(met=len(list(place.iterdir())), threads=os.environ.get("OMP_NUM_THREADS", "none"), rate=run.settings.learning_rate)"""


def test_five_points_at_a_time_share_the_cores(notebook, tmp_path, monkeypatch, capsys):
    (tmp_path / "meet").mkdir()
    monkeypatch.setenv("MEET", str(tmp_path / "meet"))
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("kdlib.batch.sweeps.cores", lambda: 11)
    path = notebook(MEET, "run.finish()")
    broken = place_of(path, "smoke", {"seed": 3, "learning_rate": 0.5})[1] / "record.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"noteb')  # no record: this point is run again
    assert (
        batch.sweep(path, {"seed": range(5)}, "smoke", parameters={"learning_rate": 0.5}, jobs=5)
        == batch.OK
    )
    results = [
        json.loads(p.read_text())["results"] for p in (tmp_path / "runs").glob("*/*/record.json")
    ]
    assert results == [{"met": 5, "threads": "2", "rate": 0.5}] * 5
    told = capsys.readouterr()
    assert (
        told.out.count("\n") == 6
        and "[5/5]" in told.out
        and "5 of 5 points have a record" in told.out
    )
    assert told.err == "", "no bar where stderr is no terminal"


def test_the_threads_that_the_user_chose_are_kept_and_one_point_takes_all_cores(
    notebook, monkeypatch, tmp_path
):
    path = notebook(
        "import os; run.record(threads=os.environ.get('OMP_NUM_THREADS', 'none'))", "run.finish()"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert batch.run_notebook(path, "smoke", threads=2).record["results"] == {"threads": "7"}
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert batch.sweep(path, {"seed": [1]}, "smoke", jobs=4) == batch.OK
    assert json.loads(next((tmp_path / "runs").glob("*/smoke-seed1*/record.json")).read_text())[
        "results"
    ] == {"threads": "none"}


def test_a_kernel_starts_although_every_port_that_was_free_before_is_taken_meanwhile():
    from kdlib.batch.kernel import KernelManager, port_names

    thieves = []

    class Robbed(KernelManager):
        trouble = [
            FileNotFoundError(),
            json.JSONDecodeError("", "", 0),
        ]  # the kernel's write removes the file first

        def load_connection_file(self):
            if self.trouble:
                raise self.trouble.pop()
            super().load_connection_file()

        async def _async_launch_kernel(self, command, **kw):
            for port in filter(None, (getattr(self, name) for name in port_names)):
                thieves.append(socket.create_server((self.ip, port)))
            await super()._async_launch_kernel(command, **kw)

    async def start():
        manager = Robbed(kernel_name="python3")
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=120)
            return [getattr(manager, name) for name in port_names], json.load(
                open(manager.connection_file)
            )
        finally:
            client.stop_channels()
            await manager.shutdown_kernel(now=True)

    ports, told = asyncio.run(start())
    assert len(set(ports)) == 5 and 0 not in ports and [told[name] for name in port_names] == ports
    assert not thieves, "no port was named before the kernel had it"


HANG = """import os, pathlib, time
if run.seed:
    pathlib.Path(os.environ["MEET"], str(os.getpid())).touch()
    time.sleep(600)"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_kernels_and_says_what_is_finished(notebook, tmp_path, sent):
    meet = tmp_path / "meet"
    meet.mkdir()
    command = [
        sys.executable,
        "-m",
        "kdlib",
        "sweep",
        str(notebook(HANG, "run.finish()")),
        "--grid",
        "seed=0,1,2,3",
        "--jobs",
        "2",
        "--profile",
        "smoke",
    ]
    # a runner in the background hands down an ignored SIGINT, and Python then never sees Ctrl-C
    sweep = subprocess.Popen(
        command,
        env=os.environ | {"MEET": str(meet)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until = time.time() + 120
    while len(list(meet.iterdir())) < 2 and time.time() < until:
        time.sleep(0.05)
    kernels = [int(p.name) for p in meet.iterdir()]
    sweep.send_signal(sent)
    out, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and len(kernels) == 2 and not any(map(alive, kernels))
    assert (
        "1 of 4 points have a record" in out
        and "[1/4] seed=0" in out
        and "failed" not in out
        and "Traceback" not in err
    )


@pytest.mark.skipif(os.name == "nt", reason="a pseudo-terminal")
def test_a_terminal_shows_a_bar(notebook):
    path = notebook("run.finish()")
    for seed in (0, 1):
        folder = place_of(path, "smoke", {"seed": seed})[1]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(
            json.dumps(dict.fromkeys(("notebook", "profile", "seed", "settings", "results"), {}))
        )
    import termios

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kdlib",
            "sweep",
            str(path),
            "--grid",
            "seed=0,1",
            "--profile",
            "smoke",
        ],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0 and "100%" in shown and "2/2" in shown
    said = [re.sub(r"^\[./2\] ", "", line) for line in done.stdout.splitlines()]
    assert sorted(said[:2]) == ["seed=0: finished earlier", "seed=1: finished earlier"], (
        "finished at once: in either order"
    )
    assert said[2:] == ["2 of 2 points have a record"]


@pytest.mark.parametrize(
    "grid, more, sentence",
    [
        ({"temperatur": [2.0]}, {}, "did you mean 'temperature'"),
        ({"learning_rate": ["fast"]}, {}, "learning_rate must be float"),
        ({"seed": [0, -1]}, {}, "seed must be a whole number"),
        ({"profile": ["smoke"]}, {}, "unknown parameter 'profile'"),
        ({"method": ["kd"], "seed": []}, {}, "axis 'seed' has no values"),
        ({"method": "kd"}, {}, "axis 'method' has no values"),
        ({"seed": [0, 1, 0]}, {}, "'seed=0' and 'seed=0' share the run folder"),
        ({"method": ["kd", "ce"], "learning_rate": [2e-5, 2.0e-5]}, {}, "share the run folder"),
        (
            {"learning_rate": [5e-4, -1]},
            {},
            "'learning_rate=0.0005' and 'learning_rate=-1' share",
        ),  # -1: as the profile says
        ({"seed": [0, 1]}, {"parameters": {"run_dir": "here"}}, "no run_dir for a whole grid"),
        (
            {"seed": [0, 1]},
            {"parameters": {"seed": 1}},
            "'seed' is an axis of the grid and a fixed parameter too",
        ),
        ({"seed": [0, 1]}, {"parameters": {"temperatur": 1.0}}, "did you mean 'temperature'"),
        ({"seed": [0, 1]}, {"jobs": 0}, "jobs must be 1 or more"),
    ],
)
def test_a_wrong_grid_runs_nothing(notebook, fresh_runs, grid, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        batch.sweep(notebook("run.finish()"), grid, "smoke", **more)
    assert not fresh_runs.exists()


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--grid", "seed="], "--grid seed=: a value is missing"),
        (["--grid", "seed=,"], "a value is missing"),
        (["--grid", "seed=0,1,"], "a value is missing"),
        (["--grid", "seed=0", "--grid", "seed=1"], "--grid seed=… is given twice"),
        (["--grid", "seed=0,0"], "share the run folder"),
        (["--grid", "learning_rate=2e-5,2.0e-5"], "share the run folder"),
        (["--grid", "seed=0", "-p", "alpha=0.5", "-p", "alpha=0.9"], "-p alpha=… is given twice"),
        (["--grid", "sed=0"], "unknown parameter 'sed'"),
    ],
)
def test_a_wrong_command_runs_nothing_and_says_why(notebook, fresh_runs, capsys, options, sentence):
    assert main(["sweep", str(notebook("run.finish()")), "--profile", "smoke", *options]) == 2
    assert sentence in capsys.readouterr().err and not fresh_runs.exists()


def test_notebooks_are_found_by_number_and_name():
    assert (
        batch.notebook_path("04").stem
        == batch.notebook_path("04_distilbert_mnli").stem
        == "04_distilbert_mnli"
    )
    with pytest.raises(FileNotFoundError, match="there are 00_start_here"):
        batch.notebook_path("99")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"alpha": 2.0}, r"alpha must be in \[0, 1\], not 2.0"),
        ({"alpha": 2.0, "method": "ce"}, "alpha must be in"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"learning_rate": -0.1}, "learning_rate must be above 0"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"train_rows": -5}, "train_rows must be a count"),
        ({"method": "kdd"}, "did you mean 'kd'"),
        ({"temperature": -1}, 'stands for "as the profile says"; leave temperature out'),
        ({"method": ""}, "leave method out"),
    ],
)
def test_a_value_out_of_its_range_is_refused_before_anything_runs(
    notebook, tmp_path, wrong, sentence
):
    with pytest.raises(ValueError, match=sentence):
        batch.run_notebook(notebook("run.finish()"), "smoke", wrong, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_runs_folder_that_is_a_file_is_told_in_one_line(notebook, tmp_path, monkeypatch, capsys):
    from kdlib.__main__ import main

    (tmp_path / "taken").write_text("a file, no folder")
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "taken"))
    assert main(["run", str(notebook("run.finish()")), "--profile", "smoke"]) == 2
    told = capsys.readouterr().err
    assert "cannot be written" in told and "set KD_RUNS" in told and "Traceback" not in told


def test_an_error_is_never_cut_through_its_advice():
    advice = "Accept its licence at its page, then `hf auth login`. "
    assert shortened(advice) == advice
    assert last_line("papermill\nOSError: it is gated. " + 8 * advice).count("hf auth login") == 8
    cut = shortened(40 * advice)
    assert len(cut) <= 903 and cut.endswith("login`. …")
    assert len(shortened(3000 * "x ")) < 905
