"""Which files of a repository are read: the fewest that make a model, a tokenizer or rows."""

import re

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")  # model-00001-of-00002.safetensors

# kinds of repositories, by what is read there; the data sets' names are those of their folders
MODELS = ("classifier", "causal")
DATASETS = ("mnli", "qqp", "en-fr")
KINDS = (*MODELS, "tokenizer", *DATASETS, "comet")
VOCABULARIES = {
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
}
SMALL_FILES = VOCABULARIES | {
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
}
COMET_FILES = ["hparams.yaml", "checkpoints/model.ckpt"]


def wanted(kind: str, names) -> list[str]:
    """The files of a listing that a kind reads: small ones first, so that whole weights mean a
    whole copy.

    Of several formats of the same weights one is taken, safetensors before PyTorch's .bin.
    ValueError when something that it cannot do without is missing, such as one of several shards.
    """
    names = sorted(names)
    if kind in DATASETS:
        picked = _tables(kind, names)
    elif kind == "comet":
        picked = [name for name in COMET_FILES if name in names]
        if picked != COMET_FILES:
            raise ValueError(f"no {' or '.join(n for n in COMET_FILES if n not in names)}")
    else:
        picked = [name for name in names if name in SMALL_FILES]
        if "config.json" not in picked:
            raise ValueError("no config.json")
        if kind == "tokenizer" and not VOCABULARIES & set(picked):
            raise ValueError("no vocabulary (tokenizer.json, vocab.txt …)")
        picked += _weights(names) if kind in MODELS else []
    _all_parts(picked)
    return picked


def _tables(kind: str, names: list[str]) -> list[str]:
    for prefix in (f"{kind}/", "data/", ""):
        tables = [n for n in names if n.startswith(prefix) and n.endswith(".parquet")]
        # Not those of folders further below: they belong to other parts of the data set.
        tables = [n for n in tables if "/" not in n.removeprefix(prefix)]
        if tables:
            # GLUE's test rows carry no labels
            # Europarl's test is an ordinary split; "-" begins no file's name.
            secret = f"{prefix}test" if kind != "en-fr" else "-"
            return [n for n in tables if not n.startswith(secret)]
    raise ValueError(f"no Parquet file under {kind}/")


def _weights(names: list[str]) -> list[str]:
    for stem, ending in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        if stem + ending in names:
            return [stem + ending]
        shards = [n for n in names if (m := PART.fullmatch(n)) and (m[1], m[4]) == (stem, ending)]
        # Says which weight lies in which shard: without it the shards cannot be loaded.
        index = f"{stem}{ending}.index.json"
        if shards and index in names:
            return [index, *shards]
    raise ValueError("no weights for PyTorch (model.safetensors, pytorch_model.bin)")


def _all_parts(names: list[str]) -> None:
    """ValueError unless all N of every x-00001-of-0000N are among the names."""
    series = {}
    for name in names:
        if match := PART.fullmatch(name):
            series.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    for (stem, count, ending), numbers in series.items():
        if len(numbers) < int(count):
            raise ValueError(f"{len(numbers)} of {int(count)} files {stem}-…{ending}")
