"""run: a mistake in a parameter is refused before anything runs; the folder and the record of a run are never half true."""

import json
import os
import subprocess
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import kdlib as kd
from kdlib import figures
from kdlib import run as runs
from kdlib.losses import DIVERGENCES

NOTEBOOK = "04_distilbert_mnli"
PROFILE_FILES = sorted(
    f.name for f in resources.files("kdlib.profiles").iterdir() if f.name.endswith(".yaml")
)


def start(**parameters):
    return kd.start(NOTEBOOK, **{"profile": "smoke"} | parameters)


# -- parameters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """A notebook with a setting of each type."""
    (tmp_path / "typed.yaml").write_text(
        "defaults: {rows: 8, rate: 0.5, name: abc, shuffle: true}\n"
        "smoke: {rows: 2}\nlaptop:\nlab: {rate: 1}\nfull: {rate: 2e-5}\n"
    )
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    return lambda profile="smoke", **parameters: runs.settings_of("typed", profile, **parameters)


def test_defaults_then_profile_then_parameters(typed, monkeypatch):
    assert typed() == {"profile": "smoke", "rows": 2, "rate": 0.5, "name": "abc", "shuffle": True}
    assert typed(rows=5, name="d", shuffle=False) == {
        "profile": "smoke",
        "rows": 5,
        "rate": 0.5,
        "name": "d",
        "shuffle": False,
    }
    assert typed(rows=-1, rate=-1, name="") == typed()
    assert typed("")["profile"] == "laptop" and typed("")["rows"] == 8
    monkeypatch.setenv("KD_PROFILE", "smoke")
    assert typed("")["rows"] == 2 and typed("laptop")["rows"] == 8
    assert type(typed("lab")["rate"]) is float, "an int may stand for a float"
    assert type(typed(rate=3)["rate"]) is float


@pytest.mark.parametrize(
    "given, hint",
    [
        (dict(row=5), "unknown parameter 'row'.*did you mean 'rows'"),
        (dict(zzz=1), "unknown parameter 'zzz'.*typed has rows, rate"),
        (dict(shuffle="false"), "shuffle must be bool.*papermill's -p gives text"),
        (dict(shuffle=0), "shuffle must be bool"),
        (dict(rate="2e-5"), "rate must be float.*write 2.0e-5"),
        (dict(rows="8"), "rows must be int"),
        (dict(rows=2.5), "rows must be int"),
        (dict(rows=2.0), "rows must be int"),
        (dict(rows=True), "rows must be int"),
        (dict(rate=True), "rate must be float"),
        (dict(rate=float("nan")), "rate must be float"),
        (dict(rate=float("inf")), "rate must be float"),
        (dict(name=5), "name must be str"),
        (dict(rate=None), "rate must be float"),
        (dict(rows=[1]), "rows must be int"),
    ],
    ids=str,
)
def test_an_unknown_misspelt_or_mistyped_parameter_is_refused(typed, given, hint):
    with pytest.raises(ValueError, match=hint):
        typed(**given)


def test_a_profile_file_is_checked_as_a_parameter_is(typed):
    with pytest.raises(ValueError, match=r"rate must be float.*typed.yaml, full.*write 2.0e-5"):
        typed("full")


@pytest.mark.parametrize(
    "profile, hint", [("smok", "did you mean 'smoke'"), ("cluster", "smoke, laptop, lab, full")]
)
def test_an_unknown_profile_is_refused(profile, hint):
    with pytest.raises(ValueError, match=hint):
        start(profile=profile)


def test_an_unknown_notebook_is_refused():
    with pytest.raises(ValueError, match="no profile file for the notebook '04_distilbert'"):
        kd.start("04_distilbert")


@pytest.mark.parametrize("seed", [-1, 1.0, "0", True, None])
def test_a_seed_that_is_none_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        start(seed=seed)


def test_what_is_refused_leaves_no_folder(fresh_runs):
    for bad in (dict(rows=1), dict(epochs="3"), dict(seed=-2), dict(profile="x")):
        with pytest.raises(ValueError):
            start(**bad)
    assert not fresh_runs.exists()


@pytest.mark.parametrize("name", PROFILE_FILES)
def test_profile_file(name):
    """Four profiles; every name is declared under defaults; every value has its default's type; no sentinel as a value."""
    blocks = yaml.safe_load((resources.files("kdlib.profiles") / name).read_text(encoding="utf8"))
    assert [b for b in blocks if b != "sources"] == ["defaults", *runs.PROFILES]
    assert set(blocks.get("sources", {})) <= set(blocks["defaults"])
    assert not {"profile", "seed", "run_dir"} & set(blocks["defaults"])
    for profile in runs.PROFILES:
        settings = runs.settings_of(name.removesuffix(".yaml"), profile)
        assert settings.pop("profile") == profile and list(settings) == list(blocks["defaults"])
        for key, value in settings.items():
            assert type(value) is type(blocks["defaults"][key]) in (int, float, str, bool), key
            assert value != -1, f'{key}: -1 means "as the profile says" and can never be asked for'


def test_a_notebook_takes_every_divergence_of_the_losses_and_no_other():
    for name in ("ce", *DIVERGENCES):
        assert runs.settings_of("09_beyond_logits", divergence=name)["divergence"] == name
    with pytest.raises(ValueError, match=f"one of ce, {', '.join(DIVERGENCES)}, not 'kl'"):
        runs.settings_of("09_beyond_logits", divergence="kl")


def test_there_are_profile_files():
    assert f"{NOTEBOOK}.yaml" in PROFILE_FILES


CELLS = [
    "seed: int = 0\ntemperature: float = -1.0",
    "import kdlib as kd",
    'try:\n    kd.start("04_distilbert_mnli", profile="smoke", seed=seed, temperature=temperature)\n'
    'except ValueError as error:\n    print("refused:", error)',
    'kd.run.refuse_unknown_injected({"seed", "temperature", "temprature"}); print("known names pass")',
]


def test_a_name_that_papermill_injects_and_nobody_declared_is_refused(tmp_path):
    import nbformat
    import papermill

    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS]
    )
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "in.ipynb")
    done = papermill.execute_notebook(
        str(tmp_path / "in.ipynb"),
        str(tmp_path / "out.ipynb"),
        kernel_name="python3",
        parameters={"temprature": 3.0, "seed": 1},
        progress_bar=False,
        log_output=False,
    )
    printed = "".join(out.get("text", "") for c in done.cells for out in c.get("outputs", []))
    assert "refused: unknown parameter temprature; did you mean 'temperature'" in printed
    assert "known names pass" in printed and "run folder" not in printed


# -- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_for_each_configuration(fresh_runs, tmp_path):
    folders = [
        start(**p).folder for p in ({}, dict(seed=1), dict(epochs=3), dict(profile="laptop"))
    ]
    assert len(set(folders)) == 4 and all(f.is_relative_to(fresh_runs / NOTEBOOK) for f in folders)
    assert start().folder == folders[0]
    assert start(run_dir=str(tmp_path / "mine")).folder == tmp_path / "mine"


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    place = str(tmp_path / "mine")
    start(run_dir=place), start(run_dir=place)
    for change, name in (
        (dict(seed=1), "seed"),
        (dict(temperature=3.0), "temperature"),
        (dict(profile="laptop"), "profile"),
    ):
        with pytest.raises(ValueError, match=f"another configuration.*{name}"):
            start(run_dir=place, **change)


def test_a_run_file_that_was_cut_off_does_not_lock_the_folder(tmp_path):
    folder = start(run_dir=str(tmp_path / "mine")).folder
    (folder / "run.json").write_text((folder / "run.json").read_text()[:-20])
    assert start(run_dir=str(tmp_path / "mine")).folder == folder


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file, no folder")
    with pytest.raises(OSError, match="cannot be written.*KD_RUNS or run_dir"):
        start(run_dir=str(tmp_path / "taken"))
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "taken"))
    with pytest.raises(OSError, match="cannot be written"):
        start()


def test_a_disk_that_is_too_small_is_refused_at_once(small_disk):
    with pytest.raises(OSError, match=r"only \d MB are free.*a run needs 200 MB.*KD_RUNS"):
        start(run_dir=str(small_disk / "run"))


def test_a_disk_that_is_read_only_is_refused_at_once(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="cannot be written.*[Rr]ead-only"):
        start(run_dir=str(small_disk / "run"))


def test_a_disk_that_fills_up_leaves_the_old_record(small_disk):
    record = small_disk / "record.json"
    runs.write_json(record, {"old": 1})
    with pytest.raises(OSError, match="untouched"):
        runs.write_json(record, {"new": "x" * 2_000_000})
    assert json.loads(record.read_text()) == {"old": 1} and [
        p.name for p in small_disk.iterdir()
    ] == ["record.json"]


# -- the record ------------------------------------------------------------------------------------------------------


def test_the_record(fresh_runs, capsys):
    run = start(seed=3, temperature=4.0)
    run.record(
        accuracy=np.float32(0.5),
        steps=np.int64(7),
        curve=np.array([1.5, 2.5]),
        note="é",
        loss=torch.tensor(0.25),
    )
    run.stage("one", lambda: 1)
    run.finish()
    record = json.loads((run.folder / "record.json").read_text(encoding="utf8"))
    assert record["results"] == {
        "accuracy": 0.5,
        "steps": 7,
        "curve": [1.5, 2.5],
        "note": "é",
        "loss": 0.25,
    }
    assert (record["notebook"], record["profile"], record["seed"]) == (NOTEBOOK, "smoke", 3)
    assert record["settings"]["temperature"] == 4.0 and record["settings"] == vars(run.settings)
    assert (
        set(record["stage_seconds"]) == set(record["stage_processor_seconds"]) == {"one"}
        and record["processor_seconds"] > 0
        and record["versions"]["torch"]
        and 0 < record["peak_gb"] < 100
    )
    assert str(fresh_runs) not in capsys.readouterr().out.replace(str(run.folder.name), ""), (
        "a machine's path was printed"
    )


def test_a_stage_pays_for_what_it_computes_and_not_for_waiting():
    """A busy machine makes a run longer, not dearer."""

    def waits():
        time.sleep(0.4)

    def computes():
        return sum(i * i for i in range(2_000_000))

    run = start()
    run.stage("waits", waits)
    run.stage("computes", computes)
    seconds, paid = (run.draft()[name] for name in ("stage_seconds", "stage_processor_seconds"))
    assert seconds["waits"] >= 0.4 > paid["waits"] + 0.1
    assert paid["computes"] >= 0.02
    again = start()
    again.stage("computes", computes)
    kept = again.draft()["stage_processor_seconds"]
    assert kept["computes"] == paid["computes"], "a stage that is loaded tells what it took then"


def test_an_old_record_does_not_vouch_for_a_new_run():
    start().finish()
    run = start()
    assert (
        not (run.folder / "record.json").exists() and (run.folder / "record.previous.json").exists()
    )


def test_what_cannot_be_recorded_is_refused_when_it_is_recorded():
    run = start()
    with pytest.raises(TypeError, match="not object"):
        run.record(a=1, b=object())
    assert run.finish()["results"] == {}


def test_a_record_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    runs.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"new": object()})
    monkeypatch.setattr(
        runs.os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left.*untouched"):
        runs.write_json(path, {"new": 1})
    assert json.loads(path.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["record.json"]


def test_the_seed_seeds_everything():
    draws = lambda **p: (
        start(**p),
        np.random.rand(),
        torch.rand(1).item(),
        __import__("random").random(),
    )[1:]
    assert draws() == draws() != draws(seed=1)


def test_a_figure_is_drawn_shown_and_kept(capsys):
    import pandas as pd

    run = start()
    table = pd.DataFrame(
        {
            "method": ["ce", "kd", "kd"],
            "seed": [0, 0, 1],
            "accuracy": [0.5, 0.6, 0.7],
            "teacher_accuracy": 0.8,
        }
    )
    run.figure(figures.methods, table)
    assert {p.name for p in (run.folder / "figures").iterdir()} == {
        "methods.svg",
        "methods.png",
        "methods.pdf",
    }
    assert f"Figure: {figures.methods.alt} Rows: " in capsys.readouterr().out
    assert pd.DataFrame(run.finish()["tables"]["methods"]).equals(table)


@pytest.mark.parametrize(
    "draw, settings, told",
    [
        (figures.methods, {"data": "data/mini_nli"}, " Rows: MiniNLI, synthetic."),
        (figures.live_curves, {"data": "data/mini_qqp"}, " Rows: MiniQQP, synthetic."),
        (figures.methods, {"data": "nyu-mll/glue"}, " Rows: real."),
        (figures.race, {"data": "nyu-mll/glue"}, ""),
        (figures.into_few_bits, {"a": "data/mini_nli", "b": "data/miniparl"}, "MiniNLI, synthetic"),
        (figures.layer_sensitivity, {"a": "data/mini_nli", "b": "data/miniparl"}, " and MiniParl"),
        (figures.dark_knowledge_people, {"source": "data/mini_nli"}, "(ChaosNLI, real)."),
        (figures.softening, {"data": "data/mini_nli"}, ""),
        (figures.memory_bars, {"data": "data/mini_nli"}, ""),
    ],
)
def test_a_caption_says_which_rows_are_synthetic(draw, settings, told):
    said = runs.rows_told(draw, settings)
    assert told in said and bool(told) == bool(said)


def test_the_folder_given_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert start(run_dir="~/mine").folder == tmp_path / "mine" and not Path("~").exists()


# -- threads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores, threads", [(1, 1), (2, 1), (4, 2), (64, 2)])
def test_small_models_take_half_the_cores_and_two_threads_at_most(monkeypatch, cores, threads):
    chosen = []
    monkeypatch.setattr("kdlib.engine.device.cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    start()
    assert chosen == [], "the user has said how many"
    monkeypatch.delenv("OMP_NUM_THREADS")
    start()
    assert chosen == [threads]
