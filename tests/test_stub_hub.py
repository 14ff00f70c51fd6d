"""The stub hub itself, asked by the real clients in child processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from stub_hub import StubHub

TOKEN = "hf_right"
GATED = "meta-llama/gated"
OPEN = "someone/open"
WEIGHTS = bytes(range(256)) * 4096  # one megabyte


@pytest.fixture
def hub(tmp_path):
    """A gated model with two small files, an open one with a large file, and a data set."""
    gated = tmp_path / "hub" / "models" / GATED
    gated.mkdir(parents=True)
    (gated / "config.json").write_text('{"model_type": "llama"}')
    (gated / "tokenizer.json").write_text("{}")
    large = tmp_path / "hub" / "models" / OPEN
    (large / "inner").mkdir(parents=True)
    (large / "model.safetensors").write_bytes(WEIGHTS)
    (large / "inner" / "config.json").write_text("{}")
    rows = tmp_path / "hub" / "datasets" / "someone" / "rows"
    tiny.hub_folder(rows)
    (rows / "README.md").write_text(
        "---\nconfigs:\n- config_name: mnli\n  data_files:\n"
        "  - split: train\n    path: mnli/train-*\n"
        "  - split: validation_matched\n    path: mnli/validation_matched-*\n---\n"
    )
    renamed = {"open": OPEN}
    with StubHub(tmp_path / "hub", token=TOKEN, gated=[GATED], renamed=renamed) as running:
        yield running


@pytest.fixture
def child(hub, tmp_path):
    """child(code, token=…, **environment): runs the code and reads its last line as JSON."""

    def run(code: str, token: str | None = None, **environment):
        setting = hub.environment(tmp_path / "cache", token) | environment
        code = (
            "import json, huggingface_hub as hf\nfrom huggingface_hub import hf_hub_download\n"
            + code
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=setting, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


TRY = """
def told(what, *args, **kw):
    try:
        return str(what(*args, **kw))
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        return [type(error).__name__, status]
"""


def test_what_a_token_opens(hub, child):
    """No token, an invalid one, a licence that is not accepted, and one that is."""
    code = (
        TRY
        + f"""
api = hf.HfApi()
print(json.dumps([told(hf_hub_download, "{GATED}", "config.json"), told(api.auth_check, "{GATED}"),
                  told(hf_hub_download, "{OPEN}", "inner/config.json"), told(api.whoami)]))
"""
    )
    file, access, other, who = child(code, token="")
    assert (
        file == ["GatedRepoError", 401]
        and access == ["GatedRepoError", 401]
        and isinstance(other, str)
    )
    assert who[0] == "LocalTokenNotFoundError"

    file, access, other, who = child(code, token="hf_wrong", HF_HUB_CACHE="another")
    assert [answer[1] for answer in (file, access)] == [401, 401] and file[0] != "GatedRepoError"
    assert who == ["HTTPError", 401] or who[1] == 401

    hub.accepted.clear()
    file, access, other, who = child(code)
    assert file == ["GatedRepoError", 403] and access == ["GatedRepoError", 403] and "stub" in who

    hub.accepted.add(GATED)
    file, access, other, who = child(code)
    assert Path(file).read_text() == '{"model_type": "llama"}' and access == "None"
    assert {r.token for r in hub.requests} == {"", "hf_wrong", TOKEN}


def test_what_is_not_there(hub, child):
    """A typo in an id, a wrong revision and a missing file are three different errors."""
    found = child(
        TRY
        + f"""
api = hf.HfApi()
print(json.dumps([
    told(hf_hub_download, "someone/opne", "config.json"),
    told(hf_hub_download, "{OPEN}", "config.json"),
    told(hf_hub_download, "{OPEN}", "inner/config.json", revision="v9"),
    told(api.model_info, "someone/opne"),
    told(api.model_info, "{OPEN}", revision="v9"),
]))
"""
    )
    assert [status for _, status in found] == [404] * 5
    names = [name.removeprefix("Remote") for name, _ in found]
    repository, revision = "RepositoryNotFoundError", "RevisionNotFoundError"
    assert names == [repository, "EntryNotFoundError", revision, repository, revision]


def test_listings(hub, child):
    """Sizes, folders and the commit, before the first byte; an old id leads to the new one."""
    commit = hub.repositories["models", OPEN].commit
    info, paths, tree, dataset, renamed = child(f"""
api = hf.HfApi()
info = api.model_info("{OPEN}", files_metadata=True)
gated = api.model_info("{GATED}")
tree = [[type(e).__name__, e.path] for e in api.list_repo_tree("{OPEN}")]
wanted = ["model.safetensors", "nowhere"]
paths = [[e.path, e.size] for e in api.get_paths_info("{OPEN}", wanted, revision=info.sha)]
sizes = {{s.rfilename: s.size for s in info.siblings}}
print(json.dumps([[info.sha, gated.gated, sizes], paths, tree,
                  api.dataset_info("someone/rows", revision="main").id, api.model_info("open").id]))
""")
    assert info == [commit, "manual", {"inner/config.json": 2, "model.safetensors": len(WEIGHTS)}]
    assert paths == [["model.safetensors", len(WEIGHTS)]]
    assert sorted(tree) == [["RepoFile", "model.safetensors"], ["RepoFolder", "inner"]]
    assert dataset == "someone/rows" and renamed == OPEN


def test_a_file_is_fetched_once(hub, child):
    """The client keeps a file under its ETag: a second call asks for the header alone.

    Offline it asks nobody.
    """
    code = f'print(json.dumps(hf_hub_download("{OPEN}", "model.safetensors")))'
    first = child(code)
    assert Path(first).read_bytes() == WEIGHTS and hub.repositories["models", OPEN].commit in first
    assert child(code) == first
    assert [r.method for r in hub.requests if r.endpoint == "storage"] == ["GET"]
    before = len(hub.requests)
    hub.stop()
    assert child(code, HF_HUB_OFFLINE="1") == first
    assert len(hub.requests) == before


def test_a_cut_connection_is_taken_up_again(hub, child):
    """After half of the file the connection breaks; the next call asks for the rest alone.

    The client writes pieces of 10 MB, so the file has 24: of a smaller one nothing would be kept.
    """
    weights = WEIGHTS * 24
    hub.repositories["models", OPEN].files["model.safetensors"].write_bytes(weights)
    hub.fail(OPEN, "model.safetensors", "cut")
    error, again = child(
        TRY
        + f"""
first = told(hf_hub_download, "{OPEN}", "model.safetensors")
print(json.dumps([first, told(hf_hub_download, "{OPEN}", "model.safetensors")]))
"""
    )
    assert error == ["ChunkedEncodingError", None]
    assert Path(again).read_bytes() == weights
    sent = [(r.range, r.status) for r in hub.requests if r.endpoint == "storage"]
    assert sent == [("", 200), (f"bytes={10 * 2**20}-", 206)]


def test_a_truncated_file_is_not_kept(hub, child):
    """Half of a file passes for the whole: the client compares sizes, and caches nothing."""
    hub.fail(OPEN, "model.safetensors", "truncated")
    error, again = child(
        TRY
        + f"""
first = told(hf_hub_download, "{OPEN}", "model.safetensors")
print(json.dumps([first, told(hf_hub_download, "{OPEN}", "model.safetensors")]))
"""
    )
    assert error[0] == "OSError" and Path(again).read_bytes() == WEIGHTS


def test_faults_of_the_server(hub, child):
    """429 with Retry-After, 503, and the limit to how often; a slow answer arrives all the same."""
    hub.fail(OPEN, "inner/config.json", "429", times=1, retry_after=7)
    hub.fail("*", "", "503", times=1)
    hub.fail(GATED, "config.json", "slow", seconds=0.5)
    first, second, listing, again, slow = child(
        TRY
        + f"""
import requests
answer = requests.head("{hub.url}/{OPEN}/resolve/main/inner/config.json")
print(json.dumps([[answer.status_code, answer.headers["Retry-After"]],
                  told(hf_hub_download, "{OPEN}", "inner/config.json"),
                  told(hf.HfApi().model_info, "{OPEN}"), told(hf.HfApi().model_info, "{OPEN}")[:9],
                  told(hf_hub_download, "{GATED}", "config.json")]))
"""
    )
    assert first == [429, "7"] and isinstance(second, str)
    assert listing == ["HfHubHTTPError", 503] and again == "ModelInfo"
    assert Path(slow).is_file()
    with pytest.raises(ValueError, match="no fault 'flood'"):
        hub.fail(OPEN, "", "flood")


def test_datasets_reads_the_rows(hub, child):
    """`load_dataset` with the library's own requests: the card, the listing, the Parquet files."""
    names, count = child("""
import datasets
rows = datasets.load_dataset("someone/rows", "mnli", split="train")
print(json.dumps([rows.features["label"].names, len(rows)]))
""")
    assert names == ["entailment", "neutral", "contradiction"] and count == 48
    assert ("someone/rows", "mnli/train-00000-of-00001.parquet") in hub.downloads()
