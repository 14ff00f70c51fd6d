"""The sbatch script as text: what it says, what it refuses, and that bash and a machine without Slurm can live with it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import parsed

from kdlib import paths, slurm
from kdlib.__main__ import main
from kdlib.batch.cluster import load_cluster


def written(capsys, *options: str) -> str:
    assert main(["sbatch", "04", *options]) == 0
    told = capsys.readouterr()
    assert told.err == "" and told.out.startswith("#!/bin/bash\n"), (
        "standard output is the script alone"
    )
    assert (
        subprocess.run(["bash", "-n"], input=told.out, text=True, capture_output=True).stderr == ""
    )
    return told.out


def option(text: str, name: str) -> str | None:
    found = re.search(rf"^#SBATCH --{name}(?:=(\S*))?", text, re.M)
    return found and (found[1] or "")


def test_one_run(capsys, monkeypatch, fresh_runs):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    text = written(
        capsys,
        "--profile",
        "smoke",
        "-p",
        "seed=3",
        "--time",
        "90",
        "--mem",
        "8G",
        "--cpus",
        "2",
        "--partition",
        "short",
    )
    assert (
        option(text, "array") is None
        and option(text, "time") == "90"
        and option(text, "mem") == "8G"
        and option(text, "partition") == "short"
    )
    assert (
        option(text, "output") == f"{fresh_runs}/logs/%x.%j.log"
        and option(text, "open-mode") == "append"
        and option(text, "requeue") == ""
    )
    assert re.fullmatch(r"B:USR1@\d+", option(text, "signal")) and "-p seed=3 --task 1/1 &" in text
    assert all("  # " in line for line in text.splitlines() if line.startswith("#SBATCH")), (
        "each is explained"
    )
    assert "scontrol requeue" not in text and "scontrol requeue" in written(capsys, "--until-done")


def test_a_grid_is_an_array(capsys):
    text = written(capsys, "--grid", "seed=0,1,2", "--grid", "method=kd,ce", "--at-once", "2")
    assert (
        option(text, "array") == "1-6%2"
        and "%A_%a" in option(text, "output")
        and '--task "$SLURM_ARRAY_TASK_ID/6" &' in text
    )
    assert (
        "--grid seed=0,1,2 --grid method=kd,ce" in text
        and "6 points: seed (3) × method (2)" in text
    )


def test_the_explorer(capsys):
    text = written(capsys, "--cluster", "explorer", "--profile", "full")
    assert option(text, "partition") == "gpu" and option(text, "time") == "08:00:00"
    order = [
        text.index(word)
        for word in (
            "module purge",
            "module load explorer",
            "PYTHONNOUSERSITE",
            'export HF_HUB_CACHE="/scratch/$USER',
            "-m kdlib doctor 04",
            "-m kdlib sweep",
        )
    ]
    assert order == sorted(order), (
        "the proxy comes back right after the purge, and doctor looks before any training"
    )
    assert "cuda" not in text.lower(), (
        "a module's libraries would shadow those that pip's torch brings"
    )
    course = written(
        capsys, "--cluster", "explorer", "--partition", "courses-gpu", "--grid", "seed=0,1"
    )
    assert option(course, "mem") == "8G" and option(course, "array") == "1-2%1"
    assert (
        option(written(capsys, "--cluster", "explorer", "--partition", "courses"), "gres") is None
    )


def written_for(capsys, notebook: str, *options: str) -> str:
    assert main(["sbatch", notebook, "--profile", "full", "--cluster", "explorer", *options]) == 0
    return capsys.readouterr().out


def test_each_notebook_asks_for_the_gpu_and_the_memory_that_it_needs(capsys):
    small, large = written_for(capsys, "04"), written_for(capsys, "07")
    assert option(small, "gres") == "gpu:1" and option(small, "mem") == "8G"
    assert option(large, "gres") == "gpu:a100:1" and option(large, "mem") == "32G"
    assert "--need-gpu" in large and "gpu:h200:1" in large, (
        "a job on a card that torch does not serve says which others there are"
    )
    assert option(written_for(capsys, "07", "-p", "lora_rank=16"), "gres") == "gpu:1", (
        "adapters need little"
    )
    assert option(written_for(capsys, "07", "--grid", "lora_rank=0,16"), "gres") == "gpu:a100:1", (
        "the largest point decides"
    )
    mine = written_for(capsys, "07", "--gres", "gpu:v100-sxm2:1", "--mem", "64G")
    assert option(mine, "gres") == "gpu:v100-sxm2:1" and option(mine, "mem") == "64G"
    laptop = written(capsys, "--cluster", "explorer")
    assert option(laptop, "gres") == "gpu:1" and option(laptop, "mem") == "8G"
    assert "--need-gpu" not in written(capsys, "--cluster", "explorer", "--partition", "short")


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            ["--partition", "courses-gpu"],
            "notebook 07 under profile full needs about 25 GB of main memory, and the partition courses-gpu gives 12G",
        ),
        (
            ["-p", "train_rows=7", "--cluster", "SMALL"],
            "needs about 26 GB on the GPU, and the largest card of this cluster's file has 16",
        ),
    ],
)
def test_what_no_card_or_partition_can_hold_is_refused(
    capsys, fresh_runs, tmp_path, options, sentence
):
    (tmp_path / "small.yaml").write_text("cards: [[16, 'gpu:t4:1', T4]]")
    options = [str(tmp_path / "small.yaml") if o == "SMALL" else o for o in options]
    assert (
        main(
            [
                "sbatch",
                "07",
                "--profile",
                "full",
                *([] if "--cluster" in options else ["--cluster", "explorer"]),
                *options,
            ]
        )
        == 2
    )
    told = capsys.readouterr()
    assert sentence in told.err and told.err.count("\n") == 1 and not told.out


def test_the_users_login_survives(capsys, tmp_path, monkeypatch):
    """A token that `hf auth login` left at home is found by a job whose models lie on scratch."""
    text = written(capsys, "--cluster", "explorer", "--profile", "full")
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "token").write_text("hf_of_mine")
    exports = [
        line for line in text.splitlines() if line.startswith("export ") and "KD_" not in line
    ]
    code = "from huggingface_hub import constants, get_token; print(get_token(), constants.HF_HUB_CACHE)"
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "XDG_CACHE_HOME"
    }
    done = subprocess.run(
        ["bash"],
        input="\n".join([*exports, f"{sys.executable} -c '{code}'"]),
        text=True,
        capture_output=True,
        env=environment | {"HOME": str(tmp_path), "USER": "me"},
    )
    assert done.stdout.split() == ["hf_of_mine", "/scratch/me/huggingface/hub"], done.stderr


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A checkout without KD_RUNS, and the file of a cluster whose runs go to a scratch disk."""
    checkout, scratch = tmp_path / "checkout", tmp_path / "scratch" / "me" / "runs"
    checkout.mkdir()
    monkeypatch.delenv("KD_RUNS")
    monkeypatch.setenv("USER", "me")
    monkeypatch.setattr(paths, "ROOT", checkout)
    (tmp_path / "mine.yaml").write_text(
        f"runs: ['{tmp_path}/scratch/$USER/runs', emptied every month]\nmem: 4G"
    )
    return tmp_path / "mine.yaml", scratch


def test_runs_go_where_there_is_room_and_status_and_store_find_them(
    capsys, elsewhere, tmp_path, monkeypatch
):
    cluster, scratch = elsewhere
    for _ in range(2):
        assert main(["sbatch", "04", "--profile", "smoke", "--cluster", str(cluster)]) == 0
    told = capsys.readouterr()
    assert (
        f'export KD_RUNS="{scratch}"  # emptied every month' in told.out
        and option(told.out, "output") == f"{scratch}/logs/%x.%j.log"
    )
    assert f"runs go to {scratch} (emptied every month)" in told.err and (scratch / "logs").is_dir()
    assert (paths.ROOT / "runs" / "places.txt").read_text() == f"{scratch}\n", "noted once"
    assert (
        main(["status"]) == 2
        and f"what jobs said lies in {scratch / 'logs'}" in capsys.readouterr().err
    )

    folder = scratch / "04_distilbert_mnli" / "smoke-seed0-abc"
    folder.mkdir(parents=True)
    record = {
        "notebook": "04_distilbert_mnli",
        "profile": "smoke",
        "seed": 0,
        "settings": {},
        "results": {"accuracy": 0.5},
    }
    (folder / "record.json").write_text(json.dumps(record)), (folder / "run.json").write_text("{}")
    assert main(["status", "04"]) == 0 and "1 done of 1 runs" in capsys.readouterr().out
    monkeypatch.setattr("kdlib.course.results.DATA", tmp_path / "data")
    assert main(["store", "04", "smoke"]) == 0 and "04_distilbert_mnli" in capsys.readouterr().out

    shutil.rmtree(scratch)
    assert (
        main(["status", "04"]) == 2
        and f"{scratch} is not there (emptied by the cluster?)" in capsys.readouterr().err
    )


def test_ones_own_kd_runs_wins(capsys, elsewhere, monkeypatch, tmp_path):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "own"))
    assert main(["sbatch", "04", "--profile", "smoke", "--cluster", str(elsewhere[0])]) == 0
    told = capsys.readouterr()
    assert (
        f'export KD_RUNS="{tmp_path}/own"' in told.out
        and told.err == ""
        and not (paths.ROOT / "runs").exists()
    )


def test_a_script_for_another_machine_is_printed_and_not_submitted(
    capsys, elsewhere, tmp_path, monkeypatch
):
    (tmp_path / "far.yaml").write_text("runs: [/no_such_disk/$USER/runs, emptied every month]")
    assert (
        main(["sbatch", "04", "--profile", "smoke", "--cluster", str(tmp_path / "far.yaml")]) == 0
    )
    told = capsys.readouterr()
    assert (
        "mkdir -p /no_such_disk/me/runs/logs" in told.err
        and 'KD_RUNS="/no_such_disk/me/runs"' in told.out
    )
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 7\n"), (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (
        main(
            [
                "sbatch",
                "04",
                "--profile",
                "smoke",
                "--cluster",
                str(tmp_path / "far.yaml"),
                "--submit",
            ]
        )
        == 2
    )
    assert (
        "there is no /no_such_disk on this machine" in capsys.readouterr().err
        and not Path("/no_such_disk").exists()
    )


def test_the_scripts_first_lines_say_what_to_fetch(capsys):
    text = written(capsys, "--cluster", "explorer", "--profile", "full")
    fetch = next(line for line in text.splitlines() if "kdlib get" in line)
    assert re.match(
        r'#   HF_HUB_CACHE="/scratch/\$USER/huggingface/hub" .*python -m kdlib get full 04$', fetch
    )
    arguments = shlex.split(fetch.partition("-m kdlib ")[2])
    assert parsed(arguments)["what"] == "full"
    assert "kdlib get" not in written(capsys, "--cluster", "explorer"), (
        "laptop's data ship with the course"
    )


def test_a_cluster_of_ones_own(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "partition": "main",
                "time": "02:00:00",
                "setup": [["source /etc/profile", "modules"]],
                "environment": {"HF_HOME": ["/data/hf", "shared"]},
            }
        )
    )
    text = written(capsys, "--cluster", str(tmp_path / "mine.yaml"))
    assert (
        option(text, "partition") == "main"
        and re.search(r"^source /etc/profile +# modules$", text, re.M)
        and 'HF_HOME="/data/hf"' in text
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--submit"], "no sbatch on the path"),
        (["--grid", "sed=0"], "unknown parameter 'sed'; did you mean 'seed'"),
        (["--grid", "seed=0,0"], "share the run folder"),
        (["--grid", "seed="], "a value is missing"),
        (["-p", "alpha=2"], r"alpha must be in \[0, 1\]"),
        (["--time", "soon"], "is no time limit"),
        (["--time", "1"], "shorter than a notebook's start"),
        (["--time", "00:00:30"], "shorter than"),
        (["--mem", "much"], "is no size"),
        (["--cluster", "explorr"], "did you mean 'explorer'"),
        (["--cluster", "none.yaml"], "no cluster 'none.yaml'"),
        (
            ["--cluster", "explorer", "--time", "09:00:00"],
            "more than the partition gpu gives: at most 08:00:00",
        ),
        (["--cluster", "explorer", "--partition", "courses-gpu", "--mem", "32G"], "at most 12G"),
        (["--cluster", "explorer", "--gres", "gpu:a100:2"], "at most 1 GPU"),
        (["--nproc", "0"], "--nproc must be 1 or more"),
        (
            ["--grid", "seed=" + ",".join(map(str, range(10_000)))],
            r"10,000 points, a run each: --yes",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    capsys, monkeypatch, fresh_runs, options, sentence
):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["sbatch", "04", *options]) == 2
    told = capsys.readouterr()
    assert (
        re.search(sentence, told.err)
        and told.err.count("\n") == 1
        and told.out == ""
        and not fresh_runs.exists()
    )


@pytest.mark.parametrize(
    "text, hint",
    [
        ("partitoin: gpu", "unknown key 'partitoin'; did you mean 'partition'"),
        ("time: 8:00:00", "write it in quotes"),
        ("- a", "unknown key"),
        ("{", "is no YAML"),
        ("cpus: many", "cpus must be int"),
        ("setup: [module purge]", "two texts, what and why"),
        ("environment: {A: 1}", "two texts"),
        ("runs: [/scratch]", "two texts"),
        ("cards: [[gpu:1, 12]]", "a card's GB, how to ask for it"),
    ],
)
def test_a_cluster_file_is_checked(tmp_path, text, hint):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=hint):
        load_cluster(str(tmp_path / "mine.yaml"))


def test_more_points_than_an_array_may_have_tasks(capsys, notebook):
    seeds = ",".join(map(str, range(2500)))
    assert main(["sbatch", str(notebook("run.finish()")), "--grid", f"seed={seeds}", "--yes"]) == 0
    text = capsys.readouterr().out
    assert (
        option(text, "array") == "1-1000"
        and "1000 tasks for 2500 points" in text
        and '/1000" &' in text
    )


@pytest.mark.parametrize(
    "time, minutes",
    [
        ("90", 90),
        ("90:30", 90.5),
        ("08:00:00", 480),
        ("1-0", 1440),
        ("1-12:30", 2190),
        ("2-00:00:30", 2880.5),
    ],
)
def test_slurms_times(time, minutes):
    assert slurm.minutes(time) == minutes


FAKE = """#!/bin/sh
echo "$@" >> "$TOLD"
"""


@pytest.mark.parametrize(
    "code, until_done, ends, requeued",
    [(0, True, 0, False), (1, True, 1, False), (75, True, 75, True), (75, False, 75, False)],
)
def test_what_the_script_does_with_an_exit_code(
    tmp_path, capsys, monkeypatch, code, until_done, ends, requeued
):
    text = written(capsys, *(["--until-done"] if until_done else []))
    for name, body in (
        ("scontrol", FAKE),
        ("sleep", FAKE),
        ("python", f"#!/bin/sh\nexit {code}\n"),
    ):
        (tmp_path / name).write_text(body), (tmp_path / name).chmod(0o755)
    text = re.sub(r"^\S+ -m kdlib doctor", "true", text, flags=re.M)
    text = re.sub(r"^\S+ -m kdlib sweep", f"{tmp_path}/python -m kdlib sweep", text, flags=re.M)
    done = subprocess.run(
        ["bash"],
        input=text,
        text=True,
        capture_output=True,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "77",
            "TOLD": str(tmp_path / "told"),
        },
    )
    assert done.returncode == ends, done.stderr
    assert (
        "requeue 77" in (tmp_path / "told").read_text() if (tmp_path / "told").exists() else False
    ) == requeued


def test_nothing_is_trained_where_doctor_stops(tmp_path, capsys):
    text = written(capsys, "--cluster", "explorer")
    (
        (tmp_path / "python").write_text('#!/bin/sh\necho "$@" >> "$TOLD"\n[ "$3" != doctor ]\n'),
        (tmp_path / "python").chmod(0o755),
    )
    text = re.sub(r"^\S+ -m kdlib", f"{tmp_path}/python -m kdlib", text, flags=re.M)
    done = subprocess.run(
        ["bash"],
        input=text,
        text=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "77", "TOLD": str(tmp_path / "told")},
    )
    assert (
        done.returncode == 2
        and (tmp_path / "told").read_text() == "-m kdlib doctor 04_distilbert_mnli --need-gpu\n"
    )
    assert (
        "refused before any training: mend what the lines with STOP say" in done.stdout
        and "gpu:a100:1 or gpu:h200:1" in done.stdout
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--cpus", "-2"], "--cpus must be 1 or more"),
        (["--cpus", "0"], "--cpus must be 1 or more"),
        (["--at-once", "-1", "--grid", "seed=0,1"], "--at-once must be"),
        (["--gres", "gpu 1"], "holds a blank"),
        (["--gres", "gpu:a100:1 # x"], "holds a blank"),
        (["--partition", "a b"], "holds a blank"),
        (
            ["--cluster", "explorer", "--nproc", "4"],
            "--nproc 4 wants a GPU for each process, and the job asks for 1",
        ),
        (["--cluster", "nofile.yaml"], "there is no"),
    ],
)
def test_values_that_slurm_or_a_shell_would_misread_are_refused(
    capsys, fresh_runs, options, sentence
):
    assert main(["sbatch", "04", "--profile", "smoke", *options]) == 2
    told = capsys.readouterr()
    assert sentence in told.err and told.err.count("\n") == 1 and not told.out


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("cpus: -3", "--cpus must be"),
        ("partitions: {gpu: 3}", "partition gpu: unknown key"),
        ("partition: gpu\npartitions: {gpu: {time: 10:00:00}}", "write it in quotes"),
        ("partitions: {gpu: {mem: 12}}", "mem must be str"),
        ("partitions: {gpu: {tme: '3'}}", "did you mean 'time'"),
        ("environment: {A B: [x, y]}", "no name of an environment variable"),
        (b"partition: \xff", "no YAML"),
    ],
)
def test_a_cluster_of_ones_own_that_makes_no_sense_is_refused(
    capsys, fresh_runs, tmp_path, text, sentence
):
    (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert (
        main(["sbatch", "04", "--profile", "smoke", "--cluster", str(tmp_path / "mine.yaml")]) == 2
    )
    told = capsys.readouterr()
    assert sentence in told.err and told.err.count("\n") == 1


def test_paths_with_blanks_hold_and_those_with_quotes_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "a b"))
    assert main(["sbatch", "04", "--profile", "smoke"]) == 0
    text = capsys.readouterr().out
    assert (
        f'#SBATCH --output="{tmp_path}/a b/logs/%x.%j.log"' in text
        and (tmp_path / "a b/logs").is_dir()
    ), "a job without a folder for its log dies in silence"
    assert (
        f'export KD_RUNS="{tmp_path}/a b"' in text
        and subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    )
    for name in ('q"uote', "do$HOME", "per%j"):
        monkeypatch.setenv("KD_RUNS", str(tmp_path / name))
        assert (
            main(["sbatch", "04", "--profile", "smoke"]) == 2
            and "set KD_RUNS" in capsys.readouterr().err
        )


def test_training_is_over_before_the_signal_comes():
    """Slurm may send it 60 seconds early."""
    for limit in (4, 5, 10, 60, 480, 1440):
        text = slurm.script("04", "smoke", time=str(limit))
        margin, warn = (
            int(re.search(r'KD_MARGIN="(\d+)"', text)[1]),
            int(re.search(r"USR1@(\d+)", text)[1]),
        )
        assert margin >= warn + 60 and margin <= 60 * limit / 2, limit


@pytest.mark.parametrize(
    "says, told",
    [
        ("echo PartitionTimeLimit", "PartitionTimeLimit. Partitions here"),
        ("echo Priority", ""),
        ("exit 1", ""),
    ],
)
def test_a_job_that_will_never_start_is_told(tmp_path, monkeypatch, says, told):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n{says}\n"), (tmp_path / "squeue").chmod(0o755)
    (
        (tmp_path / "sinfo").write_text("#!/bin/sh\necho main 1:00:00 gpu:1\n"),
        (tmp_path / "sinfo").chmod(0o755),
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.waits_for_ever("7").startswith(told) and bool(slurm.waits_for_ever("7")) == bool(
        told
    )
