"""What a job asks before it trains: each finding is seen by faking what it warns of."""

import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from helpers import CU126, NEW, fake_gpu

from kdlib import batch, doctor
from kdlib.__main__ import main
from kdlib.course.run import settings_of
from kdlib.tools import ready, room

FULL = dict(notebook="07", profile="full", need_gpu=True)


@pytest.fixture(autouse=True)
def all_is_there(monkeypatch):
    """Models, memory and disk in plenty: each test takes away what it is about."""
    monkeypatch.setattr(ready.needs, "check", lambda *where: {"teacher": "whole in the cache"})
    monkeypatch.setattr(doctor, "free_gb", lambda: 100.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=500e9))


def stopped(**how) -> dict[str, doctor.Finding]:
    findings = ready.check(**how)
    assert all(f.ok == (not f.fix) for f in findings), "a finding has a fix"
    return {f.name: f for f in findings if f.stops and not f.ok}


def large_gpu(monkeypatch, card="A100", capability=(8, 0), built=NEW, size=85e9):
    fake_gpu(monkeypatch, card, capability, built)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *which: (int(size), int(size)))


def test_where_all_is_well_nothing_stops(monkeypatch, capsys):
    large_gpu(monkeypatch)
    assert stopped(**FULL) == {}
    assert main(["doctor", "07", "--profile", "full", "--need-gpu"]) == 0
    assert "ok    GPU memory: 85 GB" in capsys.readouterr().out


@pytest.mark.parametrize("card, capability", [("Tesla P100", (6, 0)), ("Tesla V100-SXM2", (7, 0))])
def test_a_card_that_this_torch_does_not_serve_stops(monkeypatch, capsys, card, capability):
    large_gpu(monkeypatch, card, capability)
    assert list(stopped(**FULL)) == ["GPU"]
    assert main(["doctor", "04", "--profile", "full", "--need-gpu"]) == 1
    told = capsys.readouterr().out
    assert f"STOP  GPU: {card}" in told and "cu126" in told
    large_gpu(monkeypatch, card, capability, CU126)
    assert stopped(**FULL) == {}, "the cu126 builds do"


def test_a_job_without_its_gpu_stops_and_a_login_node_does_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "this job should have one" in stopped(**FULL)["GPU"].found
    assert stopped(notebook="07", profile="full") == {}


def test_a_card_that_is_too_small_stops(monkeypatch):
    large_gpu(monkeypatch, "T4", (7, 5), size=16e9)
    assert "lora_rank=16" in stopped(**FULL)["GPU memory"].fix
    assert stopped(**FULL, parameters={"lora_rank": 16}) == {}
    assert stopped(notebook="04", profile="full", need_gpu=True) == {}


@pytest.mark.parametrize("free, stops", [(500e9, False), (20e9, True)])
def test_a_disk_without_room_for_checkpoints_stops(monkeypatch, free, stops):
    large_gpu(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    assert ("disk" in stopped(**FULL)) == stops
    assert "disk" not in stopped(notebook="04", profile="laptop")


def test_what_the_run_has_written_already_is_room_that_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1e9))
    need = room.Room(0.0, 0.0, 1.0005, 0.0)
    assert not ready.disk(need, tmp_path)[0].ok
    (tmp_path / "checkpoint").write_bytes(bytes(1_000_000))
    assert ready.disk(need, tmp_path)[0].ok


def test_too_little_main_memory_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "free_gb", lambda: 12.0)
    (finding,) = ready.memory(
        room.of("07_eurollama_distil", settings_of("07_eurollama_distil", "full"))
    )
    assert not finding.ok and not finding.stops and "--mem=" in finding.fix


def test_a_repository_that_cannot_be_had_stops(monkeypatch):
    def refuse(*where):
        raise OSError("teacher: meta-llama/Llama-3.2-3B-Instruct is gated. Accept its licence")

    monkeypatch.setattr(ready.needs, "check", refuse)
    finding = stopped(notebook="07", profile="full")["models and data"]
    assert "is gated" in finding.found and finding.fix == "Accept its licence"


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise OSError("libcudart.so not found")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    assert "libcudart" in stopped(**FULL)["GPU"].found


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["77"], "no notebook '77'"),
        (["07", "-p", "lora_rnk=3"], "unknown parameter 'lora_rnk'"),
        (["07", "--profile", "ful"], "did you mean 'full'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(capsys, options, sentence):
    assert main(["doctor", *options]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1


def test_it_takes_seconds(capsys):
    began = time.monotonic()
    main(["doctor", "04", "--profile", "full"])
    assert time.monotonic() - began < 20


# -- how much room -------------------------------------------------------------------------------------


def test_room_follows_the_settings():
    full = settings_of("07_eurollama_distil", "full")
    usual = room.of("07_eurollama_distil", full)
    live = room.of("07_eurollama_distil", full | {"topk": 0})
    adapters = room.of("07_eurollama_distil", full | {"lora_rank": 16})
    assert live.gpu > usual.gpu + 6, "a live teacher of 3B stays on the GPU"
    assert adapters.gpu < usual.gpu / 2 and adapters.disk < usual.disk / 2
    assert usual.disk > 3 * 14.8, "three checkpoints of a 1B student"
    assert usual.memory > room.EUROPARL_GB + 6.4


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_what_ships_with_the_course_needs_no_particular_machine(profile):
    for name in batch.COURSE:
        need = room.of(name, settings_of(name, profile))
        assert need.gpu == 0 and need.downloads == 0 and need.memory <= 4 and need.disk < 1


@pytest.mark.parametrize(
    "source, vocabulary",
    [
        ("distilbert/distilbert-base-uncased", 30_522),
        ("yoshitomo-matsubara/bert-base-uncased-mnli", 30_522),
        ("meta-llama/Llama-3.2-1B-Instruct", 128_256),
        ("data/teachers/mini_nli", None),
    ],
)
def test_a_models_shape_is_known_by_its_name(source, vocabulary):
    shape = room.known_shape(source)
    assert (shape and shape.vocabulary) == vocabulary
    if "distilbert" in source:
        assert shape.layers == 6
