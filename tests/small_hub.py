"""A hub of a few small repositories, and the fixture `stub` that serves it to this process."""

import os

import pytest
from stub_hub import StubHub

from kdlib.engine import hub

GATED = "meta-llama/Llama-3.2-1B"
BODY = os.urandom(300_000)  # of every weights file: enough for half of it to be more than a packet
# contents differ, for the cache keeps equal ones once
MODEL = {"config.json": b"{}", "tokenizer.json": b"{ }", "README.md": b"hello"}
FOLDER = {
    "models/org/plain": MODEL
    | {"model.safetensors": BODY, "pytorch_model.bin": BODY, "flax_model.msgpack": BODY},
    "models/org/old": MODEL | {"pytorch_model.bin": BODY, "tf_model.h5": BODY},
    "models/org/sharded": MODEL
    | {
        "model-00001-of-00002.safetensors": BODY,
        "model-00002-of-00002.safetensors": BODY[::-1],
        "model.safetensors.index.json": b"{  }",
        "original/consolidated.00.pth": BODY,
    },
    "models/org/flax": MODEL | {"flax_model.msgpack": BODY},
    f"models/{GATED}": MODEL | {"model.safetensors": BODY, "generation_config.json": b"{   }"},
    "models/org/comet": {
        "hparams.yaml": b"encoder_model: XLM-RoBERTa\npretrained_model: org/plain\n",
        "checkpoints/model.ckpt": BODY,
        "assets/picture.png": BODY,
    },
    "datasets/nyu-mll/glue": {
        "mnli/train-00000-of-00001.parquet": BODY,
        "mnli/validation_matched-00000-of-00001.parquet": BODY[:9000],
        "mnli/test_matched-00000-of-00001.parquet": BODY,
        "qqp/train-00000-of-00001.parquet": BODY,
        ".commit": hub.pins()["nyu-mll/glue"].encode(),
    },
}


def online(monkeypatch):
    """Whoever runs the tests may have forbidden the network; a server on this machine is none."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    getattr(_http, "reset_sessions", getattr(_http, "close_session", None))()


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """The hub above, reached by this process: kdlib reads the environment each time, the library
    once.
    """
    for place, files in FOLDER.items():
        for name, content in files.items():
            path = tmp_path / "hub" / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    with StubHub(tmp_path / "hub", gated=[GATED]) as server:
        environment = server.environment(tmp_path / "hf")
        for name in (
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
        ):
            monkeypatch.delenv(name, raising=False)
        for name in ("HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "KD_REAL"):
            monkeypatch.setenv(name, environment[name])
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        online(monkeypatch)
        for known in (hub._commits, hub._silent, hub._loaded):
            known.clear()
        monkeypatch.setattr(hub, "WAITS", (0.01, 0.02))
        yield server
    from huggingface_hub.utils import _http

    getattr(_http, "reset_sessions", getattr(_http, "close_session", None))()
