"""hub: from a small hub on 127.0.0.1, the files that are needed and no others; what goes wrong
says what to do.
"""

import subprocess
from pathlib import Path

import pytest
from small_hub import BODY, FOLDER, GATED

from kdlib import status
from kdlib.engine import hub, hub_errors


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def refused(source: str, kind: str = "classifier", **how) -> str:
    """The text of the error that fetching meets."""
    with pytest.raises(OSError) as caught:
        hub.folder(source, kind, **how)
    return str(caught.value)


def says(text: str, cause: str, *todo: str) -> None:
    """The cause and what to do stand in the first 300 characters, and `status` recognises it."""
    assert all(part in text[:300] for part in (cause, *todo)), text
    found, advice = status.cause_of(text)
    assert found and advice and (cause in text or found in text)


# -- what is fetched -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, kind, wanted",
    [
        ("org/plain", "classifier", {"config.json", "tokenizer.json", "model.safetensors"}),
        ("org/plain", "tokenizer", {"config.json", "tokenizer.json"}),
        ("org/old", "classifier", {"config.json", "tokenizer.json", "pytorch_model.bin"}),
        (
            "org/sharded",
            "causal",
            {
                "config.json",
                "tokenizer.json",
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            },
        ),
        (
            "nyu-mll/glue",
            "mnli",
            {"mnli/train-00000-of-00001.parquet", "mnli/validation_matched-00000-of-00001.parquet"},
        ),
        ("org/comet", "comet", {"hparams.yaml", "checkpoints/model.ckpt"}),
    ],
)
def test_the_files_that_are_needed_and_no_others(stub, source, kind, wanted):
    place = hub.folder(source, kind)
    assert files(place) == wanted == {name for _, name in stub.downloads()}
    origin = next(v for k, v in FOLDER.items() if k.endswith(source))
    assert all((place / name).read_bytes() == origin[name] for name in wanted)


def test_a_second_run_asks_for_nothing_that_is_there(stub):
    place = hub.folder("org/plain", "classifier")
    assert hub.loaded() == {"org/plain": place.name}
    stub.requests.clear()
    assert hub.folder("org/plain", "classifier") == hub.folder("org/plain", "tokenizer") == place
    assert not stub.requests, "one look in a process is enough"
    hub._commits.clear()
    assert hub.folder("org/plain", "classifier") == place
    assert not stub.downloads() and [r.endpoint for r in stub.requests] == ["info"], (
        "has it changed since?"
    )


def test_a_pinned_repository_that_is_there_is_not_asked_about(stub):
    commit = hub.folder("org/plain", "classifier").name
    pinned = hub.folder("nyu-mll/glue", "mnli")
    assert pinned.name == hub.pins()["nyu-mll/glue"]
    stub.requests.clear()
    hub._commits.clear()
    assert (
        hub.folder(f"org/plain@{commit}", "classifier").name == commit
        and hub.folder("nyu-mll/glue", "mnli") == pinned
    )
    assert not stub.requests


def test_another_part_of_a_data_set_is_fetched_when_it_is_needed(stub):
    hub.folder("nyu-mll/glue", "mnli")
    place = hub.folder("nyu-mll/glue", "qqp")
    assert (
        "qqp/train-00000-of-00001.parquet" in files(place)
        and hub.tables(place, "qqp") == place / "qqp"
    )


def test_no_weights_is_said_before_anything_is_fetched(stub):
    says(
        refused("org/flax"),
        "cannot be read as classifier: no weights for PyTorch",
        "Name another repository",
    )
    assert not stub.downloads()


@pytest.mark.parametrize(
    "names, missing",
    [
        (
            ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"],
            "1 of 2 files model-",
        ),
        (
            ["config.json", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"],
            "1 of 2 files pytorch",
        ),
        (["config.json", "model.safetensors.index.json"], "no weights"),
        (["model.safetensors"], "no config.json"),
    ],
)
def test_half_a_model_is_none(names, missing):
    with pytest.raises(ValueError, match=missing):
        hub.wanted("causal", names)


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, path",
    [
        ("data/mini_nli", True),
        ("runs/teacher_mnli", True),
        ("./x", True),
        ("~/x", True),
        ("/x", True),
        ("a/b/c", True),
        ("x.safetensors", True),
        ("org/name", False),
        ("name", False),
        ("org/name@feature/x", False),
    ],
)
def test_a_path_or_an_id(source, path):
    assert hub.is_path(source) == path


@pytest.mark.parametrize(
    "source, id, revision",
    [
        ("org/name", "org/name", ""),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("bert-base", "bert-base", ""),
        ("nyu-mll/glue", "nyu-mll/glue", hub.pins()["nyu-mll/glue"]),
        ("nyu-mll/glue@main", "nyu-mll/glue", "main"),
    ],
)
def test_an_id_with_its_revision(source, id, revision):
    assert hub.repository(source, "mnli")[:2] == (id, revision)


@pytest.mark.parametrize(
    "source",
    ["org/name@", "org/name@a b", "org name", "org/", "org/na--me", "@main", "org/name@x@y"],
)
def test_what_cannot_be_an_id_is_refused(source):
    with pytest.raises(ValueError, match="owner/name|names no revision"):
        hub.repository(source, "causal")


def test_every_pin_is_a_commit_of_an_id():
    assert hub.pins() and all(
        hub.COMMIT.fullmatch(c) and hub.ID.fullmatch(n) for n, c in hub.pins().items()
    )


def test_a_copy_stands_for_the_hub_only_in_what_it_holds(stub, tmp_path):
    """GLUE with MNLI alone must not hide the hub's QQP."""
    place = tmp_path / "hf" / "real" / "nyu-mll" / "glue" / "mnli"
    place.mkdir(parents=True)
    (place / "train-00000-of-00001.parquet").write_bytes(b"x")
    assert hub.folder("nyu-mll/glue", "mnli") == place.parent and not stub.requests
    assert hub.loaded() == {"nyu-mll/glue": "local copy"}
    assert hub.folder("nyu-mll/glue", "qqp").name == hub.pins()["nyu-mll/glue"]
    assert ("nyu-mll/glue", "qqp/train-00000-of-00001.parquet") in stub.downloads()


# -- who may -------------------------------------------------------------------------------------


def test_gated_without_a_token(stub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    says(
        refused(GATED, "causal"),
        f"{GATED} is gated, and there is no token",
        f"{stub.url}/{GATED}",
        "hf auth login",
        "HF_TOKEN",
    )
    assert "unsloth/Llama-3.2-1B" in refused(GATED, "causal") and not stub.downloads()


def test_a_gated_model_says_how_to_get_in(stub, monkeypatch):
    from kdlib import models

    monkeypatch.delenv("HF_TOKEN")
    for load in (models.load_causal, models.load_tokenizer):
        with pytest.raises(
            OSError,
            match=r"(?s)meta-llama/Llama-3.2-1B is gated.*HF_TOKEN.*Without access: unsloth",
        ):
            load(GATED)


def test_gated_and_the_licence_is_not_accepted(stub):
    stub.accepted.clear()
    says(
        refused(GATED, "causal"),
        f"{GATED} is gated, and your account has no access",
        f"Accept its licence at {stub.url}/{GATED}",
    )
    assert not stub.downloads()
    stub.accepted.add(GATED)
    assert "generation_config.json" in files(hub.folder(GATED, "causal"))


@pytest.mark.parametrize("source", [GATED, "org/plain"])
def test_a_token_that_the_hub_refuses(stub, monkeypatch, source):
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    says(
        refused(source, "causal"),
        "the hub refuses your token (401, from HF_TOKEN)",
        "hf auth login",
        "unset HF_TOKEN",
    )


def test_what_is_in_the_cache_needs_no_token(stub, monkeypatch, capsys):
    place = hub.folder(GATED, "causal")
    hub._commits.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert hub.folder(GATED, "causal") == place and "from the cache" in capsys.readouterr().out


@pytest.mark.parametrize("token", ["hf_stub", ""])
def test_a_misspelt_id(stub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(FileNotFoundError) as caught:
        hub.look(hub.repository("org/plian", "classifier"), known=["org/plain", GATED])
    says(
        str(caught.value),
        "the hub has no model org/plian; did you mean 'org/plain'?",
        "Check the spelling",
    )


def test_a_wrong_revision(stub):
    says(
        refused("org/plain@v9"),
        "org/plain has no revision 'v9'",
        f"{stub.url}/org/plain/commits/main",
    )
    says(
        refused(f"nyu-mll/glue@{'0' * 40}", "mnli"),
        "nyu-mll/glue has no revision '000",
        f"{stub.url}/datasets/nyu-mll/glue/commits",
    )


# -- what passes, and what does not --------------------------------------------------------------


# at a file's head the library itself waits half a minute for a 503, so that pair is left out
@pytest.mark.parametrize("file", ["", "model.safetensors"])
@pytest.mark.parametrize("fault", ["429", "500"])
def test_what_passes_is_asked_again(stub, fault, file):
    stub.fail("org/plain", file, fault, times=2 if not file else 1, retry_after=0)
    assert "model.safetensors" in files(hub.folder("org/plain", "classifier"))


@pytest.mark.parametrize(
    "fault, cause, todo",
    [
        (
            "429",
            "the hub has too many requests from here (429)",
            "Wait some minutes and run the same command again",
        ),
        (
            "503",
            "the hub is out of order just now (503)",
            "Run the same command again in some minutes",
        ),
        ("500", "the hub is out of order just now (500)", "what is fetched already is kept"),
    ],
)
def test_what_does_not_pass_is_said_after_some_tries(stub, fault, cause, todo):
    stub.fail("org/plain", "", fault, times=0, retry_after=0)
    says(refused("org/plain"), cause, todo)
    assert len(stub.requests) == 1 + len(hub.WAITS)
    stub.heal()
    hub.folder("org/plain", "classifier")


def test_a_busy_hub_says_how_long_to_wait(stub, monkeypatch):
    waited = []
    monkeypatch.setattr(hub.time, "sleep", waited.append)
    stub.fail("org/plain", "", "429", times=1, retry_after=7)
    hub.folder("org/plain", "classifier")
    assert waited == [7]


@pytest.mark.parametrize("fault", ["cut", "truncated"])
def test_a_file_that_arrives_in_halves_is_put_together(stub, fault, monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 50_000
    )  # what was read of one is lost
    stub.fail("org/plain", "model.safetensors", fault, times=1)
    place = hub.folder("org/plain", "classifier")
    assert (place / "model.safetensors").read_bytes() == BODY
    if fault == "cut":
        assert f"bytes={len(BODY) // 2}-" in [r.range for r in stub.requests], (
            "it goes on from where it was"
        )


@pytest.mark.parametrize("fault", ["cut", "truncated"])
def test_half_a_file_is_never_used(stub, fault, monkeypatch):
    monkeypatch.setattr(hub, "WAITS", ())
    stub.fail("org/plain", "model.safetensors", fault, times=0)
    says(refused("org/plain"), "model.safetensors of org/plain", "un the same command again")
    assert not list((hub.cache() / "models--org--plain/snapshots").rglob("model.safetensors"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    says(
        refused("org/plain"),
        "org/plain (classifier) is not in the cache",
        "python -m kdlib get PROFILE NN",
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    stub.heal()
    assert (hub.folder("org/plain", "classifier") / "model.safetensors").read_bytes() == BODY


def test_a_file_that_was_cut_off_in_the_cache_is_fetched_anew(stub):
    place = hub.folder("org/plain", "classifier") / "model.safetensors"
    place.resolve().write_bytes(BODY[:1000])
    found = hub.look(hub.repository("org/plain", "classifier"), thorough=True)
    assert found.missing == ["model.safetensors"] and found.bytes_missing == len(BODY)
    hub.fetch(found)
    assert place.read_bytes() == BODY


def test_another_content_of_the_same_length_is_not_kept(stub, monkeypatch):
    monkeypatch.setattr(hub, "WAITS", (0,))
    good = stub.repositories["models", "org/plain"]
    good.files["model.safetensors"].write_bytes(BODY[::-1])  # its SHA-256 was told before
    says(
        refused("org/plain"),
        "model.safetensors of org/plain arrived damaged",
        "Run the same command again",
    )
    assert not list((hub.cache() / "models--org--plain").rglob("model.safetensors"))
    good.files["model.safetensors"].write_bytes(BODY)
    assert (hub.folder("org/plain", "classifier") / "model.safetensors").read_bytes() == BODY


# -- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_is_said_before_the_first_byte(stub, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(small_disk / "hub"))
    (small_disk / "ballast").write_bytes(b"x" * 850_000)
    says(
        refused("org/plain"), f"No space left for org/plain under {small_disk}/hub", "HF_HUB_CACHE"
    )
    assert not stub.downloads()
    (small_disk / "ballast").unlink()
    hub.folder("org/plain", "classifier")


def test_a_disk_that_fills_up_on_the_way(stub, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(small_disk / "hub"))
    monkeypatch.setattr(
        hub, "refuse_full_or_closed", lambda needed, named: None
    )  # another job took it meanwhile
    (small_disk / "ballast").write_bytes(b"x" * 850_000)
    says(
        refused("org/plain"), "No space left for model.safetensors of org/plain", "Free some there"
    )
    assert not list(small_disk.rglob("model.safetensors"))


def test_a_cache_that_cannot_be_written(stub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    says(
        refused("org/plain"),
        f"cache {tmp_path}/file/hub cannot be written",
        "HF_HUB_CACHE to a folder of yours",
    )


def test_a_read_only_cache_serves_what_it_has(stub, small_disk, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(small_disk / "hub"))
    place = hub.folder("org/plain", "classifier")
    hub._commits.clear()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert hub.folder("org/plain", "classifier") == place
    says(
        refused("org/old"),
        f"cache {small_disk}/hub cannot be written (Read-only file system)",
        "to a folder of yours",
    )


# -- no network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["1", "true", "YES", "on"])
def test_offline_as_the_library_reads_it(stub, monkeypatch, wish):
    place = hub.folder("org/plain", "classifier")
    stub.requests.clear()
    hub._commits.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", wish)
    assert hub.folder("org/plain", "classifier") == place and hub.loaded() == {
        "org/plain": place.name
    }
    says(
        refused("org/old"),
        "org/old (classifier) is not in the cache, and HF_HUB_OFFLINE is set",
        "python -m kdlib get PROFILE NN",
    )
    assert not stub.requests


@pytest.mark.parametrize("wish", ["0", "no", ""])
def test_not_offline(stub, monkeypatch, wish):
    monkeypatch.setenv("HF_HUB_OFFLINE", wish)
    assert not hub.offline()


def test_a_silent_hub_and_all_in_the_cache(stub, capsys):
    place = hub.folder("org/plain", "classifier")
    glue = hub.folder("nyu-mll/glue", "mnli")
    hub._commits.clear()
    stub.stop()
    assert (
        hub.folder("org/plain", "classifier") == place
        and hub.folder("nyu-mll/glue", "mnli") == glue
    )
    told = capsys.readouterr().out
    assert (
        f"org/plain: the hub cannot be reached ({stub.url}: Connection refused). Taking commit "
        f"{place.name[:7]} from the cache." in told
    )
    assert "is not in the cache" not in told
    says(
        refused("org/old"),
        "org/old (classifier) is not in the cache, and the hub cannot be reached",
        "python -m kdlib get PROFILE NN",
    )


def test_a_silent_hub_is_asked_once(stub, monkeypatch):
    tried = []

    def connect(address, timeout):
        tried.append((address, timeout))
        raise TimeoutError("timed out")

    monkeypatch.setattr(hub.socket, "create_connection", connect)
    for source in ("org/plain", "org/old"):
        assert "timed out" in refused(source)
    assert len(tried) == 1 and tried[0][1] <= 3


@pytest.mark.parametrize(
    "proxy, host, port",
    [
        ("proxy.example:3128", "proxy.example", 3128),
        ("http://proxy.example:3128", "proxy.example", 3128),
        ("http://me:secret@proxy.example", "proxy.example", 80),
    ],
)
def test_a_proxy_with_and_without_its_scheme(monkeypatch, proxy, host, port):
    asked = []
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    def connect(address, timeout):
        asked.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(hub.socket, "create_connection", connect)
    with pytest.raises(ConnectionError) as caught:
        hub.probe()
    assert (
        asked == [(host, port)]
        and "proxy.example" in str(caught.value)
        and "secret" not in str(caught.value)
    )
    monkeypatch.setenv("no_proxy", "localhost,hub.example")
    with pytest.raises(ConnectionError, match="https://hub.example: Connection refused"):
        hub.probe()
    assert asked[1] == ("hub.example", 443)


def test_through_a_proxy_without_a_scheme(stub, monkeypatch):
    """The stub is asked through itself: a proxy gets the whole address in the request's first
    line.
    """
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("http_proxy", stub.url.removeprefix("http://"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    repository = hub.repository("org/plain", "tokenizer")
    assert hub.look(repository).missing == ["config.json", "tokenizer.json"]


# -- texts ---------------------------------------------------------------------------------------


def test_every_message_begins_with_its_cause():
    repository = hub.repository(
        "a-rather-long-owner/a-rather-long-name-of-a-model-1.5B-Instruct", "causal"
    )
    for error in (
        hub_errors.not_here(
            repository, Path("/scratch/someone/huggingface/hub"), "HF_HUB_OFFLINE is set"
        ),
        hub_errors.disk_full(
            Path("/scratch/someone/huggingface/hub"), repository.named, 10**10, 10**9
        ),
        hub_errors.cannot_write(
            Path("/scratch/x/hub"), PermissionError(13, "Permission denied"), repository.named
        ),
        hub_errors.changed(repository),
        hub_errors.other_layout(repository, "no config.json"),
    ):
        assert str(error).startswith(error.cause) and len(error.cause) < 200
