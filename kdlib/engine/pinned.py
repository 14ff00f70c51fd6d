"""The real files that the course can use, each with its address and its SHA-256.

`corpora.get` fetches them; whoever reads one checks it first.
"""

import os
from typing import NamedTuple

from . import hub


class File(NamedTuple):
    """One file: where it lands under the real folder, where it comes from, and its SHA-256.

    That is "" where only git pins it.
    """

    path: str
    url: str
    sha256: str


HUB = hub.endpoint()
# Another address for a mirror, or for a test that serves the files itself.
GITHUB = os.environ.get("KD_GITHUB", "https://raw.githubusercontent.com").rstrip("/")
CHAOS = f"{GITHUB}/jsbaan/calibration-on-disagreement-data/990e81cacadac5d0268160d1c02bad19d4ddb9a3/data"
GLUE = f"{HUB}/datasets/nyu-mll/glue/resolve/{hub.pins()['nyu-mll/glue']}/mnli"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM = f"{HUB}/{MINILM_ID}/resolve/{hub.pins()[MINILM_ID]}"

REAL = {
    "chaosnli": [  # Nie et al. 2020, CC BY-NC 4.0: fetched for your use, never shipped with the course
        File(
            "chaosnli/chaosNLI_mnli_m.jsonl",
            f"{CHAOS}/chaosNLI_v1.0/chaosNLI_mnli_m.jsonl",
            "8eb49b589488e7b1a9ec95fb8a864bd50f0509b4f808eed0aed3f8167617664d",
        ),
        File(
            "chaosnli/MNLI_dev_roberta-base_0.json",
            f"{CHAOS}/predictions/MNLI_dev_roberta-base_0.json",
            "f997c4193f3a096c9b13b4f0c9c20783f2a5a74f2f5066b92c28ff2b482c5b39",
        ),
        File(
            "chaosnli/MNLI_test_roberta-base_0.json",
            f"{CHAOS}/predictions/MNLI_test_roberta-base_0.json",
            "018c5e6cb26eac1a939a43aa1e37b7f3c1d6ae3c15f3eef105c10df57abd906d",
        ),
    ],
    "mnli": [  # pinned by git revision; rows are checked against the shipped teacher logits' keys
        File(
            "nyu-mll/glue/mnli/train-00000-of-00001.parquet",
            f"{GLUE}/train-00000-of-00001.parquet",
            "",
        ),
        File(
            "nyu-mll/glue/mnli/validation_matched-00000-of-00001.parquet",
            f"{GLUE}/validation_matched-00000-of-00001.parquet",
            "",
        ),
    ],
    "minilm": [
        File(f"sentence-transformers/all-MiniLM-L6-v2/{name}", f"{MINILM}/{name}", sha)
        for name, sha in {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        }.items()
    ],
}
