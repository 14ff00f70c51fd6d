"""Every test gets its own runs folder; the files it caches go to a folder that the session deletes."""

import atexit
import os
import shutil
import subprocess
import tempfile

_cache = tempfile.mkdtemp(
    prefix="kdlib-tests-"
)  # before any import of datasets, which reads it once
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = _cache
os.environ["MPLBACKEND"] = "Agg"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads cost more than they bring

import pytest  # noqa: E402
from small_hub import stub  # noqa: E402, F401  (a fixture)


@pytest.fixture(autouse=True)
def fresh_runs(tmp_path, monkeypatch):
    """No test finds the finished runs of another one, or of the person who runs the tests."""
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("KD_PROFILE", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "kdlib-test", str(place)], capture_output=True
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)])


@pytest.fixture
def notebook(tmp_path):
    """Writes a small notebook of the cells that it gets, with 04's name; returns its path."""
    from functools import partial

    from helpers import write_notebook

    return partial(write_notebook, tmp_path)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    import tiny

    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def encoded(tokenizer):
    """(train, validation): 48 and 21 tokenised rows of a made-up MNLI, of unequal length."""
    import tiny

    return tiny.encoded(tokenizer, 48, seed=0), tiny.encoded(tokenizer, 21, seed=1)


@pytest.fixture(scope="session")
def taught(tokenizer, tmp_path_factory):
    """`teacher`, which has learnt the made-up MNLI, and its `train` and `validation` rows."""
    import tiny

    return tiny.taught(tokenizer, tmp_path_factory.mktemp("taught"))


@pytest.fixture
def teacher():
    import tiny

    return tiny.bert(layers=4, seed=7)


@pytest.fixture
def student():
    import tiny

    return tiny.bert(layers=2, seed=8)


@pytest.fixture(scope="session")
def chat():
    """A small word-level tokenizer with Llama 3's special tokens, and an end of translation of its own."""
    import tiny

    from kdlib import translation

    pairs = tiny.pairs(256)
    return translation.with_end_token(translation.small_tokenizer(pairs["en"] + pairs["fr"]))


@pytest.fixture(scope="session")
def llama3():
    """Meta's Llama 3 tokenizer, from the wheel `llama-models`."""
    from importlib.util import find_spec
    from pathlib import Path

    from kdlib import translation

    wheel = find_spec("llama_models")
    if wheel is None or find_spec("tiktoken") is None:
        pytest.skip(
            "Meta's vocabulary comes with the PyPI wheel llama-models (pip install 'kdlib[test]'), which is not installed"
        )
    return translation.llama3_tokenizer(
        Path(wheel.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    )


@pytest.fixture(autouse=True)
def _settings_of_one_test_alone():
    """What a command sets for its children (KD_NPROC, KD_MAX_MINUTES, …) must not reach the next test."""
    before = {k: v for k, v in os.environ.items() if k.startswith("KD_")}
    yield
    for name in [k for k in os.environ if k.startswith("KD_") and k not in before]:
        del os.environ[name]
    os.environ.update(before)
