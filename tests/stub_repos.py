"""Repositories for the stub hub: real ids, file names, layouts, special tokens; tiny widths.

    build(folder)                        # all of them, in about 20 seconds
    build(folder, ["nyu-mll/glue"])      # some

The rows are made up: they come from the course's own grammars. The two fine-tuned BERTs are the
course's own teachers, so that each has an accuracy of its own; the other weights are random. No
number that a notebook computes with them says anything about the models whose names they bear.
"""

import functools
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import datasets
import torch
import transformers
import yaml
from safetensors.torch import save_file

from kdlib import chat
from kdlib.paths import DATA

MNLI_TEACHER = "yoshitomo-matsubara/bert-base-uncased-mnli"
QQP_TEACHER = "textattack/bert-base-uncased-QQP"
PERMUTED_TEACHER = "textattack/bert-base-uncased-MNLI"
BERT, DISTILBERT = "google-bert/bert-base-uncased", "distilbert/distilbert-base-uncased"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
LLAMA, LLAMA_INSTRUCT = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"
LLAMA_3B = "meta-llama/Llama-3.2-3B-Instruct"
COMET, XLMR = "Unbabel/wmt22-comet-da", "FacebookAI/xlm-roberta-large"
GLUE, EUROPARL = "nyu-mll/glue", "Helsinki-NLP/europarl"

GATED = (LLAMA, LLAMA_INSTRUCT, LLAMA_3B)
UNUSED = b"nothing of ours reads this\n"
RENAMED = {
    "xlm-roberta-large": XLMR,
    "bert-base-uncased": BERT,
    "distilbert-base-uncased": DISTILBERT,
}


def build(folder: Path, ids=None, commits: dict[str, str] | None = None) -> Path:
    """Write the repositories below `folder` and return it.

    ids: which ones, by default all. commits: {id: the commit it shall have}, for pinned revisions.
    """
    for repo in BUILDERS if ids is None else ids:
        kind = "datasets" if repo in (GLUE, EUROPARL) else "models"
        place = folder / kind / repo
        place.mkdir(parents=True)
        BUILDERS[repo](place)
        (place / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        if not (place / "README.md").exists():
            (place / "README.md").write_text(f"---\nlicense: other\n---\nA stand-in for {repo}.\n")
        if commit := (commits or {}).get(repo):
            (place / ".commit").write_text(commit)
    return folder


def _json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf8")


def _unused(folder: Path, *names: str) -> None:
    """Files that nothing of ours needs, for other frameworks for example: they say so."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(UNUSED * 1000)


# -- data sets -------------------------------------------------------------------------------------


def _card(folder: Path, configurations: dict[str, dict[str, datasets.Dataset]], **more) -> None:
    """Write the splits as Parquet files, and the card that lists them with their features."""
    card = {"license": "other", **more, "dataset_info": [], "configs": []}
    for name, splits in configurations.items():
        (folder / name).mkdir()
        listed = []
        for split, rows in splits.items():
            file = folder / name / f"{split}-00000-of-00001.parquet"
            rows.to_parquet(str(file))
            size = {"num_bytes": rows.data.nbytes, "num_examples": len(rows)}
            listed.append({"name": split, **size})
        features = next(iter(splits.values())).features._to_yaml_list()
        sizes = {"download_size": 1, "dataset_size": sum(one["num_bytes"] for one in listed)}
        about = {"config_name": name, "features": features, "splits": listed, **sizes}
        card["dataset_info"].append(about)
        paths = [{"split": split, "path": f"{name}/{split}-*"} for split in splits]
        card["configs"].append({"config_name": name, "data_files": paths})
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    (folder / "README.md").write_text(f"---\n{text}---\nMade-up rows.\n", encoding="utf8")


def _glue(folder: Path) -> None:
    """MNLI and QQP with all the splits of the hub; the labels of its test splits are -1."""
    mnli = {
        "train": _rows("mini_nli", "train"),
        "validation_matched": _rows("mini_nli", "validation_matched"),
        "validation_mismatched": _rows("mini_nli", "test_matched"),
        "test_matched": _hidden(_rows("mini_nli", "test_matched")),
        "test_mismatched": _hidden(_rows("mini_nli", "test_matched")),
    }
    qqp = {
        "train": _rows("mini_qqp", "train"),
        "validation": _rows("mini_qqp", "validation"),
        "test": _hidden(_rows("mini_qqp", "test")),
    }
    _card(folder, {"mnli": mnli, "qqp": qqp})


def _rows(corpus: str, split: str) -> datasets.Dataset:
    """An embedded split with the hub's columns, and spelt so that BERT knows all its words."""
    rows = datasets.Dataset.from_parquet(str(DATA / corpus / f"{split}-00000-of-00001.parquet"))
    rows = rows.remove_columns(["label_dist", "phenomenon"])
    texts = [name for name in rows.column_names if name not in ("label", "idx")]
    spelt = {name: [_long_form(text) for text in rows[name]] for name in texts}
    return datasets.Dataset.from_dict({**rows.to_dict(), **spelt}, features=rows.features)


def _long_form(text: str) -> str:
    """The embedded tokenizers read "can't" as "cannot"; BERT's doesn't, so the text says it."""
    return text.replace("can't", "cannot").replace("Can't", "Cannot").replace("n't", " not")


def _hidden(rows: datasets.Dataset) -> datasets.Dataset:
    unknown = {**rows.to_dict(), "label": [-1] * len(rows)}
    return datasets.Dataset.from_dict(unknown, features=rows.features)


def _europarl(folder: Path) -> None:
    """One split, "train", as on the hub: 1 % of it becomes validation and 1 % test."""
    rows = datasets.Dataset.from_parquet(str(DATA / "miniparl" / "train-00000-of-00001.parquet"))
    _card(folder, {"en-fr": {"train": rows.select(range(6000)).select_columns(["translation"])}})


# -- BERT and its family ---------------------------------------------------------------------------


@functools.cache
def _vocabulary() -> list[str]:
    """The words of both embedded corpora, with BERT's special tokens at BERT's ids."""
    special = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = {}
    for corpus in ("mini_nli", "mini_qqp"):
        words |= dict.fromkeys(_words_of(corpus))
    pieces = [piece for letter in letters for piece in (letter, f"##{letter}")]
    return list(dict.fromkeys([*special, *words, *pieces]))


def _bert_tokenizer(folder: Path, fast: bool = True) -> None:
    """The files of bert-base-uncased's tokenizer; older repositories have no tokenizer.json."""
    (folder / "vocab.txt").write_text("\n".join(_vocabulary()) + "\n", encoding="utf8")
    _json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": 512})
    if fast:
        tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _teacher(folder: Path, corpus: str, weights: str, order: list[int] | None = None) -> None:
    """A fine-tuned BERT-base of twelve layers that answers like the course's teacher of four.

    order: the class that each output means, for a checkpoint whose classes are permuted. Its
    classes are called LABEL_0…, as in the real ones.
    """
    model = _deepened(corpus)
    classes = model.config.num_labels
    if order is not None:
        model.classifier.weight.data = model.classifier.weight.data[order]
        model.classifier.bias.data = model.classifier.bias.data[order]
    model.config.id2label = {i: f"LABEL_{i}" for i in range(classes)}
    model.config.label2id = {f"LABEL_{i}": i for i in range(classes)}
    config = model.config.to_dict() | {"architectures": ["BertForSequenceClassification"]}
    _json(folder / "config.json", {k: v for k, v in config.items() if k != "dtype"})
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if weights.endswith(".bin"):  # as saved in 2021: with a buffer that newer versions leave out
        state["bert.embeddings.position_ids"] = torch.arange(512)[None]
        torch.save(state, folder / weights)
    else:
        save_file(state, folder / weights, metadata={"format": "pt"})


SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "initializer_range")
POSITIONS = "bert.embeddings.position_embeddings.weight"
WORDS = "bert.embeddings.word_embeddings.weight"


def _deepened(corpus: str) -> transformers.PreTrainedModel:
    """The course's own teacher of four layers as a BERT of twelve with 512 positions.

    Each of its layers is followed by two that only normalise. Their scale and shift are those of
    what they read, so that they change little of it.
    """
    small = transformers.BertForSequenceClassification.from_pretrained(DATA / "teachers" / corpus)
    sizes = {name: getattr(small.config, name) for name in SIZES}
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(_vocabulary()), num_labels=small.num_labels, **sizes
    )
    model = transformers.BertForSequenceClassification(config).eval()
    state = model.state_dict()  # its tensors are the model's own: copying into them changes it
    for name, value in small.state_dict().items():
        if name not in (WORDS, POSITIONS) and ".layer." not in name:
            state[name].copy_(value)
    state[POSITIONS][:64].copy_(small.state_dict()[POSITIONS])
    for word, old in _words_of(corpus).items():
        state[WORDS][_vocabulary().index(word)].copy_(small.state_dict()[WORDS][old])
    layers = model.bert.encoder.layer
    for i, spread in enumerate(_spreads(small, corpus)):
        layers[3 * i].load_state_dict(small.bert.encoder.layer[i].state_dict())
        _only_normalise(layers[3 * i + 1], *spread)
        _only_normalise(layers[3 * i + 2], *spread)
    return model


def _words_of(corpus: str) -> dict[str, int]:
    """{word: id} of an embedded tokenizer."""
    found = json.loads((DATA / "teachers" / corpus / "tokenizer.json").read_text("utf8"))
    return found["model"]["vocab"]


@torch.no_grad()
def _spreads(model, corpus: str) -> list[tuple[float, float]]:
    """For each layer, the mean over tokens of its output's mean and standard deviation."""
    rows = _rows(corpus, "train").select(range(64))
    texts = [list(rows[name]) for name in rows.column_names[:2]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA / "teachers" / corpus)
    batch = tokenizer(*texts, padding=True, return_tensors="pt")
    read = batch["attention_mask"].bool()
    layers = model.eval()(**batch, output_hidden_states=True).hidden_states[1:]
    outputs = [hidden[read] for hidden in layers]
    return [
        (hidden.mean(-1).mean().item(), hidden.std(-1, correction=0).mean().item())
        for hidden in outputs
    ]


@torch.no_grad()
def _only_normalise(layer, mean: float, spread: float) -> None:
    """Let attention and feed-forward part of a BERT layer say nothing; its input only passes."""
    for part in (layer.attention.output, layer.output):
        part.dense.weight.zero_()
        part.dense.bias.zero_()
        part.LayerNorm.weight.fill_(spread)
        part.LayerNorm.bias.fill_(mean)


def _mnli_teacher(folder: Path) -> None:
    _teacher(folder, "mini_nli", "pytorch_model.bin")
    _bert_tokenizer(folder)


def _qqp_teacher(folder: Path) -> None:
    _teacher(folder, "mini_qqp", "model.safetensors")
    _bert_tokenizer(folder, fast=False)
    _unused(folder, "flax_model.msgpack", "log.txt")


def _permuted_teacher(folder: Path) -> None:
    """Its outputs mean contradiction, entailment and neutral, which its config does not say."""
    _teacher(folder, "mini_nli", "pytorch_model.bin", order=[2, 0, 1])
    _bert_tokenizer(folder, fast=False)
    _unused(folder, "flax_model.msgpack", "log.txt")


def _bert(folder: Path) -> None:
    """As pretrained in 2018: with both heads, and LayerNorm's old names gamma and beta."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "initializer_range": 0.1}
    config = transformers.BertConfig(vocab_size=len(_vocabulary()), **sizes)
    model = transformers.BertForPreTraining(config)
    state = {}
    for name, value in model.state_dict().items():
        if "decoder" not in name:  # tied to the word embeddings
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            state[old.replace("LayerNorm.bias", "LayerNorm.beta")] = value.clone()
    _json(folder / "config.json", config.to_dict() | {"architectures": ["BertForMaskedLM"]})
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _bert_tokenizer(folder)
    _unused(folder, "pytorch_model.bin", "flax_model.msgpack", "rust_model.ot", "tf_model.h5")


def _distilbert(folder: Path) -> None:
    """DistilBertForMaskedLM: six layers, no segments, no pooler, no classifier."""
    torch.manual_seed(2)
    config = transformers.DistilBertConfig(
        vocab_size=len(_vocabulary()),
        dim=48,
        hidden_dim=96,
        initializer_range=0.1,
        tie_weights_=True,
    )
    model = transformers.DistilBertForMaskedLM(config)
    state = {k: v.clone() for k, v in model.state_dict().items() if "projector.weight" not in k}
    _json(folder / "config.json", config.to_dict() | {"architectures": ["DistilBertForMaskedLM"]})
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _bert_tokenizer(folder)
    _unused(folder, "pytorch_model.bin", "flax_model.msgpack", "rust_model.ot", "tf_model.h5")


def _minilm(folder: Path) -> None:
    """A bare BertModel, with the files of sentence-transformers around it."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "initializer_range": 0.1}
    config = transformers.BertConfig(vocab_size=len(_vocabulary()), num_hidden_layers=6, **sizes)
    model = transformers.BertModel(config)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["embeddings.position_ids"] = torch.arange(512)[None]
    _json(folder / "config.json", config.to_dict() | {"architectures": ["BertModel"]})
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _bert_tokenizer(folder)
    _json(folder / "special_tokens_map.json", {"pad_token": "[PAD]", "unk_token": "[UNK]"})
    _json(folder / "modules.json", [{"idx": 0, "name": "0", "path": ""}])
    _unused(folder, "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx")


# -- Llama 3.2 -------------------------------------------------------------------------------------


def _llama(
    folder: Path, *, layers: int, width: int, shards: int, instruct: bool, seed: int
) -> None:
    """Tied embeddings of 128,256 tokens in bfloat16, scaled rotary positions, settings that sample.

    The real ones have 16 or 28 layers, of width 2,048 or 3,072.
    """
    torch.manual_seed(seed)
    scaling = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_type": "llama3"}
    ends = [128001, 128008, 128009] if instruct else 128001
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=width // 8, num_key_value_heads=1, head_dim=8, rope_theta=500000.0,
        max_position_embeddings=131072, rope_scaling=scaling, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=128000, eos_token_id=ends, initializer_range=0.1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    config = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    _json(folder / "config.json", {k: v for k, v in config.items() if k != "dtype"})
    sampling = {"do_sample": True, "temperature": 0.6, "top_p": 0.9}
    ids = {"bos_token_id": 128000, "eos_token_id": ends}
    _json(folder / "generation_config.json", {"_from_model_config": True, **ids, **sampling})
    state = {k: v.clone() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    _save_shards(folder, state, shards)
    _llama_tokenizer(folder, instruct)
    _unused(folder, "original/consolidated.00.pth", "original/tokenizer.model")


def _save_shards(folder: Path, state: dict, shards: int) -> None:
    """One file, or several with an index that says what lies where."""
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, place = list(state), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i * len(names) // shards : (i + 1) * len(names) // shards]
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(part, file)
    size = sum(value.numel() * value.element_size() for value in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": place}
    _json(folder / "model.safetensors.index.json", index)


def _llama_tokenizer(folder: Path, instruct: bool) -> None:
    """Meta's vocabulary out of the wheel llama-models, with the hub's own settings.

    As on the hub it begins every text with <|begin_of_text|> by itself, the base model's has no
    chat template, and neither has a pad token.
    """
    text, settings = _converted()
    (folder / "tokenizer.json").write_text(text, encoding="utf8")
    end = chat.EOT if instruct else "<|end_of_text|>"
    settings = settings | {"bos_token": chat.BEGIN, "eos_token": end}
    template = {"chat_template": chat.TEMPLATE} if instruct else {}
    _json(folder / "tokenizer_config.json", settings | template)
    _json(folder / "special_tokens_map.json", {"bos_token": chat.BEGIN, "eos_token": end})


@functools.cache
def _converted() -> tuple[str, dict]:
    """(tokenizer.json, tokenizer_config.json without begin and end); the conversion takes 10 s."""
    wheel = Path(find_spec("llama_models").submodule_search_locations[0])
    tokenizer = chat.llama3_tokenizer(wheel / "llama3" / "tokenizer.model")
    text = json.loads(tokenizer.backend_tokenizer.to_str())
    begin = {"SpecialToken": {"id": chat.BEGIN, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    again = {"SpecialToken": {"id": chat.BEGIN, "type_id": 1}}
    special = {chat.BEGIN: {"id": chat.BEGIN, "ids": [128000], "tokens": [chat.BEGIN]}}
    template = {"type": "TemplateProcessing", "single": [begin, first]}
    template |= {"pair": [begin, first, again, second], "special_tokens": special}
    text["post_processor"] = {"type": "Sequence", "processors": [text["post_processor"], template]}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    settings = {
        "added_tokens_decoder": {
            str(i): {"content": token.content, **flags, "special": True}
            for i, token in sorted(tokenizer.added_tokens_decoder.items())
        },
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return json.dumps(text, ensure_ascii=False), settings


# -- COMET -----------------------------------------------------------------------------------------


def _xlmr(folder: Path) -> None:
    """COMET's encoder: it takes the tokenizer and the config from here, its weights from COMET."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    rows = datasets.Dataset.from_parquet(str(DATA / "miniparl" / "test-00000-of-00001.parquet"))
    texts = [text for pair in rows["translation"] for text in pair.values()]
    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    training = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    pieces.train_from_iterator(texts, training)
    transformers.XLMRobertaTokenizerFast(tokenizer_object=pieces).save_pretrained(folder)
    config = transformers.XLMRobertaConfig(
        vocab_size=pieces.get_vocab_size(), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=514, type_vocab_size=1,
        pad_token_id=1, initializer_range=0.3, layer_norm_eps=1e-5,
    )  # fmt: skip
    _json(folder / "config.json", config.to_dict() | {"architectures": ["XLMRobertaForMaskedLM"]})
    (folder / "sentencepiece.bpe.model").write_bytes(b"the fast tokenizer has a file of its own")
    _unused(folder, "model.safetensors", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack")


def _comet(folder: Path) -> None:
    """A COMET of a few thousand random weights: its numbers grade nothing."""
    import pytorch_lightning
    from comet.models import RegressionMetric

    settings = {
        "activations": "Tanh", "batch_size": 4, "dropout": 0.1, "encoder_learning_rate": 1.0e-6,
        "encoder_model": "XLM-RoBERTa", "final_activation": None, "hidden_sizes": [48, 16],
        "keep_embeddings_frozen": True, "layer": "mix", "layer_norm": False,
        "layer_transformation": "sparsemax", "layerwise_decay": 0.95, "learning_rate": 1.5e-5,
        "loss": "mse", "nr_frozen_epochs": 0.3, "optimizer": "AdamW", "pool": "avg",
        "pretrained_model": "xlm-roberta-large", "train_data": [], "validation_data": [],
        "warmup_steps": 0,
    }  # fmt: skip
    torch.manual_seed(4)
    with tempfile.TemporaryDirectory() as encoder:
        _xlmr(Path(encoder))
        here = {"pretrained_model": encoder, "local_files_only": True}
        model = RegressionMetric(**settings | here, load_pretrained_weights=False)
    (folder / "checkpoints").mkdir()
    version = pytorch_lightning.__version__
    kept = {"state_dict": model.state_dict(), "hyper_parameters": settings}
    torch.save(kept | {"pytorch-lightning_version": version}, folder / "checkpoints" / "model.ckpt")
    named = {"class_identifier": "regression_metric", **settings}
    (folder / "hparams.yaml").write_text(yaml.safe_dump(named), encoding="utf8")


BUILDERS = {
    GLUE: _glue,
    EUROPARL: _europarl,
    MNLI_TEACHER: _mnli_teacher,
    QQP_TEACHER: _qqp_teacher,
    PERMUTED_TEACHER: _permuted_teacher,
    BERT: _bert,
    DISTILBERT: _distilbert,
    MINILM: _minilm,
    LLAMA: functools.partial(_llama, layers=2, width=16, shards=1, instruct=False, seed=5),
    LLAMA_INSTRUCT: functools.partial(_llama, layers=2, width=16, shards=1, instruct=True, seed=6),
    LLAMA_3B: functools.partial(_llama, layers=3, width=24, shards=2, instruct=True, seed=7),
    XLMR: _xlmr,
    COMET: _comet,
}
