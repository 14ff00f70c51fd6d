"""Fetch first: what settings name is known in one place; `get PROFILE NN`, the check before a run
and the record agree.
"""

import json
import re
import subprocess
import sys
import time
from importlib import resources
from importlib.util import find_spec

import pytest
from helpers import parsed
from small_hub import GATED
from stub_hub import StubHub

import kdlib as kd
from kdlib import batch
from kdlib.__main__ import main
from kdlib.course import needs
from kdlib.course.settings import PROFILES, settings_of
from kdlib.engine import hub
from kdlib.paths import ROOT
from kdlib.tools import fetch

NOTEBOOKS = sorted(
    f.name[:-5] for f in resources.files("kdlib.profiles").iterdir() if f.name.endswith(".yaml")
)
MNLI = "04_distilbert_mnli"
OURS = {"teacher": "org/plain", "student": "org/old"}  # the stub's, in place of the profile's


# -- the one place -------------------------------------------------------------------------------


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_parameter_that_names_a_source_is_declared_as_one(notebook):
    """Else neither `get` would fetch it nor the check look for it, and a run would find out hours
    later.
    """
    for profile in PROFILES:
        for name, value in settings_of(notebook, profile).items():
            named = isinstance(value, str) and re.match(
                r"(data|runs|[A-Za-z][\w.-]*)/[\w.-]+|chaosnli$", value
            )
            assert not named or name in needs.sources(notebook), f"{name}: {value}"
    assert set(needs.sources(notebook).values()) <= {*hub.KINDS, "votes"}


def test_the_repositories_of_the_lectures_experiment():
    wished = fetch.wanted("full", [MNLI, "07_eurollama_distil"], {})
    named = {need.source: need.kind for need in wished}
    assert named["nyu-mll/glue"] == "mnli" and named["Helsinki-NLP/europarl"] == "en-fr"
    assert named["meta-llama/Llama-3.2-3B-Instruct"] == "causal"
    assert (named.get("Unbabel/wmt22-comet-da") == "comet") == (find_spec("comet") is not None)


@pytest.mark.parametrize("parameter", ["teacher", "translator", "data", "translations"])
def test_a_folder_that_is_not_there_is_refused_whatever_its_parameter(parameter):
    settings = settings_of("08_limits", "laptop", **{parameter: "runs/teacher_mnli_of_nobody"})
    with pytest.raises(
        FileNotFoundError, match=f"{parameter}=runs/.*kdlib.course.teachers mnli_of_nobody"
    ):
        needs.refuse_missing_paths("08_limits", settings)


def test_what_can_be_no_source_is_refused_as_a_parameter_is(fresh_runs):
    with pytest.raises(ValueError, match="teacher: 'org/name@' names no revision"):
        kd.start(MNLI, profile="smoke", teacher="org/name@")
    assert not fresh_runs.exists()


def test_a_profile_without_a_repository_asks_nothing(stub, capsys):
    for notebook in NOTEBOOKS:
        assert needs.check(notebook, "laptop", settings_of(notebook, "laptop")) == {}
    assert main(["get", "laptop"]) == 0 and "reads nothing from the hub" in capsys.readouterr().out
    assert not stub.requests


# -- the check before a run ----------------------------------------------------------------------


def test_a_gated_student_is_refused_before_the_teacher_is_read(stub, monkeypatch, fresh_runs):
    monkeypatch.delenv("HF_TOKEN")
    began = time.perf_counter()
    with pytest.raises(PermissionError, match=f"student: {GATED} is gated") as caught:
        kd.start(MNLI, profile="full", teacher="org/plain", student=GATED)
    assert time.perf_counter() - began < 10 and "hf auth login" in str(caught.value)[:300]
    assert not stub.downloads() and not fresh_runs.exists()


def test_a_headless_run_is_refused_before_its_kernel_starts(stub, capsys):
    stub.stop()
    assert main(["run", "04", "--profile", "full"]) == batch.REFUSED
    told = capsys.readouterr().err
    assert (
        told.startswith("kdlib run: data: nyu-mll/glue@")
        and "python -m kdlib get full 04" in told[:400]
    )


def test_a_run_says_and_keeps_which_commits_it_read(stub, capsys):
    run = kd.start(MNLI, profile="full", **OURS)
    told = capsys.readouterr().out
    commit = stub.repositories["models", "org/plain"].commit
    assert (
        f"teacher: org/plain at {commit[:7]}, 3 of 3 files to fetch" in told
        and not stub.downloads()
    )
    assert "hub" not in run.draft(), "asked for is not read"
    hub.folder(run.settings.teacher, "classifier")
    hub.folder(run.settings.data, "mnli")
    assert run.finish()["hub"] == {"org/plain": commit, "nyu-mll/glue": hub.pins()["nyu-mll/glue"]}


def test_the_same_run_without_a_network_after_get(stub, monkeypatch, capsys):
    assert fetch.get_profile("full", [MNLI], OURS) == 0
    stub.stop()
    for wish in ("", "true"):  # the hub is silent; the network is forbidden
        monkeypatch.setenv("HF_HUB_OFFLINE", wish)
        hub._commits.clear()
        kd.start(MNLI, profile="full", **OURS)
        assert "to fetch" not in capsys.readouterr().out.partition("run folder")[2]


# -- the command ---------------------------------------------------------------------------------


def options(**parameters) -> list[str]:
    return [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]


def test_get_says_sizes_fetches_and_fetches_nothing_twice(stub, capsys):
    assert main(["get", "full", "04", *options(**OURS)]) == 0
    told = capsys.readouterr().out
    assert re.search(
        r"04 teacher: org/plain at \w{7} \(3 files, 300\.0 kB\): 300\.0 kB to fetch", told
    )
    assert (
        re.search(r"to fetch: 909\.0 kB; free: [\d.]+ GB under ", told)
        and "HF_HUB_OFFLINE=1" in told
    )
    assert len(stub.downloads()) == 8
    stub.requests.clear()
    assert main(["get", "full", "04", *options(**OURS)]) == 0
    assert not stub.downloads() and "to fetch: 0 bytes" in capsys.readouterr().out


def test_list_fetches_nothing(stub, capsys):
    assert main(["get", "full", "04", "--list", *options(**OURS)]) == 0
    assert not stub.downloads() and "to fetch: 909.0 kB" in capsys.readouterr().out


def test_access_is_checked_before_the_first_byte(stub, monkeypatch, capsys):
    stub.accepted.clear()
    assert (
        main(
            ["get", "full", "04", *options(teacher="org/plain", student=GATED, data="org/nowhere")]
        )
        == 2
    )
    told = capsys.readouterr().err
    assert "the hub has no dataset org/nowhere" in told and f"{GATED} is gated" in told, (
        "all that cannot be had"
    )
    assert not stub.downloads()


def test_a_fetch_that_was_cut_off_goes_on(stub, monkeypatch, capsys):
    monkeypatch.setattr(hub, "WAITS", ())
    stub.fail("org/old", "pytorch_model.bin", "cut", times=1)
    assert main(["get", "full", "04", *options(**OURS)]) == 2
    assert "Run the same command again" in capsys.readouterr().err
    before = stub.downloads()
    stub.requests.clear()
    assert main(["get", "full", "04", *options(**OURS)]) == 0
    assert {name for _, name in stub.downloads()} == {"pytorch_model.bin"} and len(before) == 8


@pytest.mark.skipif(find_spec("comet") is None, reason="unbabel-comet is an extra")
def test_comets_encoder_comes_along_without_its_weights(stub, capsys):
    given = dict(data="data/miniparl", teacher="org/sharded", student=GATED, comet="org/comet")
    assert fetch.get_profile("full", ["07_eurollama_distil"], given) == 0
    assert {f for r, f in stub.downloads() if r == "org/comet"} == {
        "hparams.yaml",
        "checkpoints/model.ckpt",
    }
    assert {f for r, f in stub.downloads() if r == "org/plain"} == {"config.json", "tokenizer.json"}


def test_a_teacher_of_ones_own_is_named_and_makes_the_code_1(stub, capsys):
    given = dict(
        data="data/mini_nli",
        teacher="org/plain",
        translations="data/miniparl",
        translator="runs/teacher_of_nobody",
    )
    assert main(["get", "full", "08", *options(**given)]) == 1
    assert (
        "python -m kdlib.course.teachers of_nobody" in capsys.readouterr().out
        and len(stub.downloads()) == 3
    )


@pytest.mark.parametrize(
    "command, hint",
    [
        (["get", "full", "04", "-p", "techer=org/plain"], "none of 04 has a parameter techer"),
        (["get", "full", "99"], "no notebook '99'"),
        (["get", "real", "04"], "get full 04"),
        (["get", "full", "04", "--part", "mnli"], "are for get real"),
    ],
)
def test_what_get_refuses(stub, capsys, command, hint):
    assert main(command) == 2
    assert hint in capsys.readouterr().err and not stub.requests


@pytest.mark.parametrize(
    "wish, hint",
    [
        ("on", "HF_HUB_OFFLINE is set, so nothing can be fetched"),
        ("", "the hub cannot be reached from this machine"),
    ],
)
def test_get_without_a_network(stub, monkeypatch, capsys, wish, hint):
    stub.stop()
    monkeypatch.setenv("HF_HUB_OFFLINE", wish)
    assert main(["get", "full", "04", *options(**OURS)]) == 2
    told = capsys.readouterr().err
    assert hint in told and "kdlib get" not in told.removeprefix("kdlib get: "), "not in a circle"


@pytest.mark.parametrize("page", ["README.md", "CLUSTER.md"])
def test_every_get_command_that_a_page_shows_can_be_parsed(page):
    shown = re.findall(r"python -m kdlib (get [^`#\n]*)", (ROOT / page).read_text(encoding="utf8"))
    assert shown
    for line in shown:
        words = line.replace("FOLDER", "x").replace("PROFILE", "full").replace("NN", "04").split()
        assert words[0] == "get" and parsed(words)["what"]


# -- with real weights, in processes of their own ------------------------------------------------

READ = """
import json, sys
from kdlib import glue, models
from kdlib.engine import hub
model = models.load(sys.argv[1], labels=glue.MNLI.labels)
tokenizer = models.load_tokenizer(sys.argv[1])
rows = glue.load("mnli", "nyu-mll/glue", "validation_matched", rows=20)
glue.encode(rows, tokenizer, glue.MNLI)
print(json.dumps(hub.loaded()))
"""


@pytest.mark.slow
def test_fetched_once_and_read_offline_in_another_process(tmp_path):
    """`get` in one process; then models, tokenizers and rows with the network forbidden, and with
    a hub that is down.
    """
    import stub_repos

    stub_repos.build(
        tmp_path / "hub", [stub_repos.MNLI_TEACHER, stub_repos.GLUE], commits=dict(hub.pins())
    )
    with StubHub(tmp_path / "hub") as server:
        environment = server.environment(tmp_path / "hf") | {
            "HF_DATASETS_CACHE": str(tmp_path / "rows"),
            "PYTHONPATH": str(ROOT),
        }
        get = [sys.executable, "-m", "kdlib", "get", "full", "03", "-p", "student=teacher"]
        done = subprocess.run(get, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert {r for r, _ in server.downloads()} == {stub_repos.MNLI_TEACHER, stub_repos.GLUE}
        server.requests.clear()
        read = [sys.executable, "-c", READ, stub_repos.MNLI_TEACHER]
        for wish in ("yes", "0"):
            done = subprocess.run(
                read, env=environment | {"HF_HUB_OFFLINE": wish}, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout.splitlines()[-1])
            assert found["nyu-mll/glue"] == hub.pins()["nyu-mll/glue"] and len(found) == 2
            if wish == "yes":
                assert not server.requests
                server.stop()
