"""Teachers and students: load, build from scratch, cut a student out of a teacher, compare the pair, weigh them.

    teacher = models.load_teacher("data/teachers/mini_nli", glue.MNLI.labels)
    student = models.student_from_teacher(teacher, layers=[0, 2])          # every other layer, as DistilBERT
"""
import copy
import itertools
import re
import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, BertConfig,
                          BertForSequenceClassification, DistilBertConfig, DistilBertForSequenceClassification,
                          LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase)
from transformers.utils import logging

from .chat import EOT, end_token_id
from .get import gated_advice, local_copy, offline_advice, probe_hub
from .paths import ROOT

LAYER = re.compile(r"^(.*\.layers?\.)(\d+)(\..*)$")        # bert.encoder.layer.3.…, model.layers.3.…


def load(source: str | Path, labels: tuple[str, ...] | None = None, *, revision: str | None = None) -> PreTrainedModel:
    """A sequence classifier from a hub id or a folder, in float32.

    labels: its classes in order. A checkpoint that names its own classes keeps its names (compare with `check_labels`);
    one without a classification head, or with the anonymous LABEL_0…, gets these. A head that the checkpoint lacks starts
    at random: right for a student, not for a teacher (see `load_teacher`).
    Raises ValueError when the number of classes differs, OSError with advice when it cannot be had.
    """
    return _load(source, labels, revision)[0]


def _load(
    source: str | Path, labels: tuple[str, ...] | None, revision: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """See `load`; and the names of the weights that the checkpoint lacks: they were drawn at random."""
    source = _place(source)
    config = _hub(AutoConfig.from_pretrained, source, revision=revision)
    has_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    if labels is not None and has_head and config.num_labels != len(labels):
        raise ValueError(f"{source} tells {config.num_labels} classes apart, the task has {len(labels)}: {labels}")
    if labels is not None and (not has_head or _anonymous(config)):
        config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    # dtype is spelt out: from transformers 5 on, "auto" would load some checkpoints in bf16 and train them so
    model, loading = _hub(AutoModelForSequenceClassification.from_pretrained, source, config=config, revision=revision,
                          dtype=torch.float32, output_loading_info=True)
    return model.eval(), sorted(loading["missing_keys"])


def load_teacher(
    source: str | Path, labels: tuple[str, ...], *, revision: str | None = None
) -> PreTrainedModel:
    """A classifier whose answers are to be learnt from: fine-tuned, its outputs in the order of `labels`.

    A checkpoint that names these classes in another order gets its outputs sorted. One without names (LABEL_0…) is taken
    to have the task's order, which only labelled rows can tell: see `check_label_order`.
    Raises ValueError before any row is read: for a head that is not trained, for other class names, and as `load`.
    """
    model, missing = _load(source, labels, revision)
    if missing:
        raise ValueError(
            f"{source} cannot be the teacher: its weights lack {', '.join(missing[:4])}"
            f"{' …' if len(missing) > 4 else ''}, so its answers would be random. A teacher has been fine-tuned for the "
            f"task ({', '.join(labels)}): name such a model with teacher=…. A pretrained one like this can be the student."
        )
    names, wanted = _class_names(model), [name.lower() for name in labels]
    if names != wanted and sorted(names) == sorted(wanted):
        reorder_classes(model, [wanted.index(name) for name in names], labels)
    check_labels(model, labels)
    return model


def _class_names(model: PreTrainedModel) -> list[str]:
    """The names of the model's classes in the order of its outputs, in small letters."""
    return [str(model.config.id2label[i]).lower() for i in range(model.config.num_labels)]


@torch.no_grad()
def reorder_classes(
    model: PreTrainedModel, meaning: list[int] | tuple[int, ...], labels: tuple[str, ...]
) -> PreTrainedModel:
    """Sort the model's outputs, in place. Afterwards output j means the class `labels[j]`.

    meaning[i]: the task's class that output i means now (`LabelOrder.permutation`, and what `check_label_order` advises).
    The rows of the classifier are swapped and the classes named. ValueError when `meaning` is no permutation.
    """
    if sorted(meaning) != list(range(len(labels))) or len(labels) != model.config.num_labels:
        raise ValueError(f"{list(meaning)} is no order of the {model.config.num_labels} outputs for the classes {list(labels)}")
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    classifier = linear[-1]                             # BERT's classifier, RoBERTa's out_proj: a head is defined last
    if classifier.out_features != len(labels):
        raise ValueError(f"{type(model).__name__} does not end in a linear layer with {len(labels)} outputs")
    now = [meaning.index(j) for j in range(len(labels))]  # the output that means class j now
    for weight in (classifier.weight, classifier.bias):
        if weight is not None:
            weight.copy_(weight[now].clone())
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {name: i for i, name in enumerate(labels)}
    return model


class Pair(NamedTuple):
    """What a distillation begins with, three things with three names.

    teacher: the model whose answers are learnt from; None when its answers are stored. student_source: the model whose
    layers the student starts from; often another one, and never asked for an answer. tokenizer: with it, both read the rows.
    """

    teacher: PreTrainedModel | None
    student_source: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_pair(teacher: str | Path, student: str | Path, labels: tuple[str, ...]) -> Pair:
    """Load both sides of a distillation and check that they fit together, before any row is read.

    teacher: hub id or folder of a fine-tuned model, or *.safetensors: its stored answers, which need no model.
    student: hub id or folder of the model that the student starts from; "" or "teacher": the teacher itself.
    The rows are read with the teacher's tokenizer, for BERT needs the segments (token_type_ids) that DistilBERT's does not
    make; with stored answers it is the student's. ValueError as `load_teacher` and `check_pair`.
    """
    own = str(student) not in ("", "teacher")
    if str(teacher).endswith(".safetensors"):
        if not own:
            raise ValueError(f"{teacher} holds answers and no layers: name with student=… the model that the student starts from")
        student_source = load(student, labels=labels)
        check_labels(student_source, labels)
        return Pair(None, student_source, load_tokenizer(student))
    model, tokenizer = load_teacher(teacher, labels), load_tokenizer(teacher)
    if not own:
        return Pair(model, model, tokenizer)
    student_source = load(student, labels=labels)
    check_pair(model, student_source, tokenizer, load_tokenizer(student))
    return Pair(model, student_source, tokenizer)


def load_causal(source: str | Path, *, revision: str | None = None, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """A decoder-only language model from a hub id or a folder. dtype: "bfloat16" suits a teacher that is only asked.

    Raises ValueError for an encoder or an encoder-decoder, OSError with advice when it cannot be had, or not without a token.
    """
    source = _place(source)
    config = _hub(AutoConfig.from_pretrained, source, revision=revision)
    kinds = config.architectures or ["ForCausalLM"]
    if config.is_encoder_decoder or not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in kinds):
        raise ValueError(f"{source} is a {', '.join(config.architectures or [config.model_type])}, not a decoder-only language model")
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return _hub(AutoModelForCausalLM.from_pretrained, source, config=config, revision=revision, dtype=dtype).eval()


def machine_dtype() -> torch.dtype:
    """What this machine's GPU computes fast *and* right: bf16 from Ampere on, fp16 on older ones (P100, V100), float32 on a CPU."""
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def load_tokenizer(source: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or folder; OSError with advice when it cannot be had."""
    return _hub(AutoTokenizer.from_pretrained, _place(source), revision=revision)


def _place(source: str | Path) -> str | Path:
    """A folder as given or below the repository (data/teachers/…), a local copy of a hub id, or the hub id itself."""
    if Path(source).expanduser().is_dir():
        return Path(source).expanduser()
    return ROOT / source if (ROOT / source).is_dir() else local_copy(source) or source


def _hub(loader, source, **kw):
    if not isinstance(source, Path):
        probe_hub(source)                       # seconds, where the library's own retries take half a minute
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()               # "some weights are newly initialized": yes, the head; that is the point
    try:
        return loader(str(source), **{k: v for k, v in kw.items() if v is not None})
    except SafetensorError as error:
        raise OSError(f"{source}: its weights are cut off or damaged ({error}); copy or fetch them again") from error
    except OSError as error:
        gated = "gated repo" in str(error).lower() or type(error).__name__ == "GatedRepoError"
        raise OSError(gated_advice(source) if gated else offline_advice(source, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def _anonymous(config) -> bool:
    return all(re.fullmatch(r"LABEL_\d+", str(name)) for name in config.id2label.values())


def tiny_bert(vocabulary: int, labels: tuple[str, ...], *, layers: int, width: int, heads: int,
              max_length: int = 64, dropout: float = 0.1, initializer_range: float = 0.02,
              pad_token_id: int = 0) -> BertForSequenceClassification:
    """A BERT from scratch, small enough to train on a laptop's CPU. Seed torch first: its weights are random.

    BERT's initializer_range 0.02 suits a width of 768; a narrow model needs about 1/sqrt(width), or its attention starts
    so flat that a few thousand rows cannot teach it to compare two sentences.
    """
    config = BertConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                        intermediate_size=4 * width, max_position_embeddings=max_length, type_vocab_size=2,
                        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, pad_token_id=pad_token_id,
                        initializer_range=initializer_range,
                        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})
    return BertForSequenceClassification(config)


def tiny_llama(vocabulary: int, *, layers: int, width: int, heads: int, kv_heads: int = 0, inner: int = 0, max_length: int = 512,
               tied: bool = True, initializer_range: float = 0.02, tokenizer: PreTrainedTokenizerBase | None = None) -> LlamaForCausalLM:
    """A Llama from scratch, small enough to train on a laptop's CPU. Seed torch first: its weights are random.

    inner: width of the feed-forward layers (0: twice the width). kv_heads: 0 for as many as heads. tied: embeddings and head
    are one matrix, as in Llama 3.2's 1B and 3B. tokenizer: whose begin, end and pad tokens the configuration names.
    """
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
                         num_key_value_heads=kv_heads or heads, intermediate_size=inner or 2 * width, max_position_embeddings=max_length,
                         tie_word_embeddings=tied, initializer_range=initializer_range, rope_theta=10_000.0, **ids)
    return LlamaForCausalLM(config)


@torch.no_grad()
def add_end_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Give the model, in place, a row for the tokenizer's `<|end_of_translation|>`, and let its generation stop there.

    A new row is the mean of all others, in the embeddings and, where it is not the same matrix, in the head: teacher and
    student start alike, and no word is likelier than it for its length alone. A tied head stays tied. With a reserved token
    (`chat.with_end_token(…, "reserved")`) there is a row already, and nothing is resized. ValueError when the tokenizer
    cuts the token into pieces or does not know it.
    """
    end, before = end_token_id(tokenizer), model.get_input_embeddings().weight.shape[0]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if end >= before:
        model.resize_token_embeddings(end + 1, mean_resizing=False)
        for part in [model.get_input_embeddings()] + ([] if tied else [model.get_output_embeddings()]):
            part.weight[before:] = part.weight[:before].float().mean(0).to(part.weight.dtype)
        assert tied == (model.get_output_embeddings().weight is model.get_input_embeddings().weight)
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = [end, tokenizer.convert_tokens_to_ids(EOT)]
    return model


def with_lora(model: PreTrainedModel, rank: int = 16, *, alpha: int = 32, dropout: float = 0.0) -> PreTrainedModel:
    """The model with low-rank adapters in every attention and feed-forward layer (Hu et al. 2021); only these are trained.

    Embeddings stay as they are: a new end token's row is not learnt this way, only how to predict it from what the layers
    say. Rates of 1e-4 to 1e-3 suit adapters; full fine-tuning wants about 1e-5. `merge_and_unload()` gives a plain model.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'kdlib[lora]', or fine-tune the whole model") from error
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear",
                                            task_type="CAUSAL_LM"))


# -- a student out of the teacher's layers ---------------------------------------------------------------------------

def student_from_teacher(teacher: PreTrainedModel, layers: list[int], family: str | None = None) -> PreTrainedModel:
    """A student that starts as some of its teacher's layers (DistilBERT's recipe: every other one, [0, 2, 4, 7, 9, 11]).

    Embeddings, the chosen layers and the classifier are *copied*: training the student never moves the teacher.
    family: None keeps the teacher's architecture; "distilbert" turns a BERT into a DistilBERT. There two things have no
    home. Segment embeddings: DistilBERT knows no segments, so segment 0's is folded into the positions. BERT's pooler,
    tanh(W·[CLS]): its W starts DistilBERT's pre_classifier, which ends in ReLU instead, so what the classifier read off
    negative units is lost until training mends it.
    Raises ValueError for layers that the teacher does not have and for families it cannot make.
    """
    depth = teacher.config.num_hidden_layers
    if not layers or any(isinstance(i, bool) or not 0 <= i < depth for i in layers) or list(layers) != sorted(set(layers)):
        raise ValueError(f"layers must be rising numbers in 0…{depth - 1} (this {teacher.config.model_type} has {depth} layers), not {layers}")
    if family is not None and family != teacher.config.model_type:
        if (teacher.config.model_type, family) != ("bert", "distilbert"):
            raise ValueError(f"cannot turn {teacher.config.model_type!r} into {family!r}: only bert into distilbert")
        return _distilbert_from_bert(teacher, layers)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):                                       # newer decoder configs list them
        config.layer_types = [config.layer_types[i] for i in layers]
    student = type(teacher)(config).to(next(teacher.parameters()).dtype)
    student.load_state_dict(_pick_layers(teacher.state_dict(), layers))            # copies, strict: nothing missing
    return student


def which_layers(text: str, source: PreTrainedModel) -> list[int]:
    """"0,2,4" as numbers, or "all" layers of `source`. ValueError for other texts and for layers that it does not have."""
    depth = source.config.num_hidden_layers
    if text == "all":
        return list(range(depth))
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(f"student_layers must be all, or numbers with commas between them, as 0,2,4, not {text!r}")
    layers = [int(number) for number in text.split(",")]
    if layers != sorted(set(layers)) or layers[-1] >= depth:
        raise ValueError(f"student_layers must be rising numbers in 0…{depth - 1}, or all: the model that the student starts from "
                         f"has {depth} layers, not {text!r}")
    return layers


def _pick_layers(weights: dict, layers: list[int]) -> dict:
    new_index = {old: new for new, old in enumerate(layers)}
    picked = {}
    for name, value in weights.items():
        match = LAYER.match(name)
        if match is None:
            picked[name] = value
        elif int(match[2]) in new_index:
            picked[f"{match[1]}{new_index[int(match[2])]}{match[3]}"] = value
    return picked


BERT_TO_DISTILBERT = {
    "attention.self.query": "attention.q_lin", "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin", "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm", "intermediate.dense": "ffn.lin1", "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm"}


def _distilbert_from_bert(teacher: PreTrainedModel, layers: list[int]) -> DistilBertForSequenceClassification:
    bert = teacher.config
    if bert.hidden_act not in ("gelu", "relu"):
        raise ValueError(f"DistilBERT has gelu or relu, the teacher {bert.hidden_act!r}")
    config = DistilBertConfig(
        vocab_size=bert.vocab_size, max_position_embeddings=bert.max_position_embeddings, n_layers=len(layers),
        n_heads=bert.num_attention_heads, dim=bert.hidden_size, hidden_dim=bert.intermediate_size,
        dropout=bert.hidden_dropout_prob, attention_dropout=bert.attention_probs_dropout_prob,
        activation=bert.hidden_act, seq_classif_dropout=bert.classifier_dropout or bert.hidden_dropout_prob,
        pad_token_id=bert.pad_token_id, id2label=bert.id2label, label2id=bert.label2id)
    w, new = teacher.state_dict(), {}
    positions = "bert.embeddings.position_embeddings.weight"
    new["distilbert.embeddings.word_embeddings.weight"] = w["bert.embeddings.word_embeddings.weight"]
    new["distilbert.embeddings.position_embeddings.weight"] = w[positions] + w["bert.embeddings.token_type_embeddings.weight"][0]
    for part in ("weight", "bias"):
        new[f"distilbert.embeddings.LayerNorm.{part}"] = w[f"bert.embeddings.LayerNorm.{part}"]
        new[f"pre_classifier.{part}"] = w[f"bert.pooler.dense.{part}"]
        new[f"classifier.{part}"] = w[f"classifier.{part}"]
        for (i, old), (theirs, ours) in itertools.product(enumerate(layers), BERT_TO_DISTILBERT.items()):
            new[f"distilbert.transformer.layer.{i}.{ours}.{part}"] = w[f"bert.encoder.layer.{old}.{theirs}.{part}"]
    student = DistilBertForSequenceClassification(config).to(next(teacher.parameters()).dtype)
    student.load_state_dict(new)
    return student


# -- do the two fit together? ----------------------------------------------------------------------------------------

def check_pair(teacher: PreTrainedModel, student: PreTrainedModel, teacher_tokenizer=None, student_tokenizer=None) -> None:
    """ValueError unless both read the same tokens and name the same classes in the same order.

    Sizes alone prove little: two vocabularies of 30,522 words can differ in every word, and three classes in their order.
    The two may be of different families, as BERT and DistilBERT, if their tokenizers read every text alike.
    """
    theirs, ours = _class_names(teacher), _class_names(student)
    if theirs != ours and not (_anonymous(teacher.config) or _anonymous(student.config)):
        raise ValueError(f"teacher and student name their classes differently: {theirs} and {ours}. "
                         "Distilling would teach the wrong class with confidence; reorder one of them first.")
    if teacher.config.num_labels != student.config.num_labels:
        raise ValueError(f"the teacher has {teacher.config.num_labels} classes, the student {student.config.num_labels}")
    if teacher.config.vocab_size != student.config.vocab_size:
        raise ValueError(f"teacher and student read different vocabularies ({teacher.config.vocab_size:,} and "
                         f"{student.config.vocab_size:,} tokens): the same token ids would mean different words")
    if teacher_tokenizer is not None and student_tokenizer is not None:
        check_vocabularies(teacher_tokenizer, student_tokenizer)
        check_readings(teacher_tokenizer, student_tokenizer)


def check_vocabularies(teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError unless both tokenizers give every string the same id: the soft targets of one are read with the ids of the other."""
    ours, theirs = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    if ours != theirs:
        other = min((set(ours.items()) ^ set(theirs.items())), key=lambda item: (item[1], item[0]))[0]
        raise ValueError(f"the tokenizers differ: the teacher's has {len(ours):,} tokens, the student's {len(theirs):,}, and for example "
                         f"{other!r} is id {ours.get(other)} and {theirs.get(other)}. Add the same tokens to both, or take a student of the "
                         "teacher's family; across families, distil from the teacher's translations instead.")


PROBE = "Déjà vu: WE can't — said 3 Zoës, naïvely?!  It's 5°C."     # accents, capitals, signs, a double space


def check_readings(teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase) -> None:
    """ValueError unless both cut a probe into the same tokens. Equal vocabularies can still be read differently (capitals)."""
    theirs, ours = (tokenizer(PROBE, "A second text.")["input_ids"] for tokenizer in (teacher_tokenizer, student_tokenizer))
    if theirs != ours:
        place = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
        shown = [" ".join(tokenizer.convert_ids_to_tokens(ids[place:place + 4])) for tokenizer, ids in (
            (teacher_tokenizer, theirs), (student_tokenizer, ours))]
        raise ValueError("the tokenizers have the same vocabulary and read the same text differently: the teacher's goes on with "
                         f"{shown[0]!r}, the student's with {shown[1]!r}. Take two that treat capitals, accents and the frame of a pair alike.")


def check_labels(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """ValueError unless the model names its classes as the task does, in the task's order."""
    found = _class_names(model)
    if found != [name.lower() for name in names]:
        same = sorted(found) == sorted(name.lower() for name in names)
        raise ValueError(f"the model's classes are {found}, the task's {list(names)}, in this order: its answers would be "
                         "read as other classes. " + ("Sort its outputs with models.reorder_classes, or load it with models.load_teacher, "
                                                      "which does so." if same else "Name a checkpoint that was fine-tuned for this task."))


class LabelOrder(NamedTuple):
    """`permutation[i]` is the task's class that the model's output i means; accuracies by permutation, best first."""

    permutation: tuple[int, ...]
    accuracies: dict[tuple[int, ...], float]


def check_label_order(logits, labels, names: tuple[str, ...], *, margin: float = 0.05) -> LabelOrder:
    """Which meaning of the model's outputs agrees best with known labels? Tries every permutation of the classes.

    logits: (rows, classes), labels: (rows,), a few hundred validation rows. Returns the identity's accuracies when the
    identity is best by `margin`; raises ValueError otherwise and says which order is, or that the model knows too little:
    no order is best by `margin`, or none beats one answer for everything by it. A widely used MNLI checkpoint has its classes permuted:
    it scores 7 % read naively and 84 % read rightly.
    """
    predicted, labels = torch.as_tensor(logits).argmax(-1), torch.as_tensor(labels)
    identity = tuple(range(len(names)))
    found = {order: (torch.tensor(order)[predicted] == labels).float().mean().item()
             for order in itertools.permutations(identity)}
    ranked = sorted(found, key=lambda order: (found[order], order), reverse=True)
    accuracies, best, second = {order: found[order] for order in ranked}, *ranked[:2]
    commonest = torch.bincount(labels, minlength=len(names)).max().item() / len(labels)
    as_it_stands = f"as it stands it is right on {accuracies[identity]:.1%} of {len(labels)} rows"
    if accuracies[best] < max(accuracies[second], commonest) + margin:
        raise ValueError(f"the teacher knows too little to learn from: {as_it_stands}, in the best order of its classes on "
                         f"{accuracies[best]:.1%}, and always answering the commonest class would be right on {commonest:.1%}. "
                         "Is it fine-tuned for this task? Name one that is, or train it first.")
    if best != identity:
        meaning = ", ".join(f"output {i} = {names[j]}" for i, j in enumerate(best))
        raise ValueError(f"the teacher's classes are not in the order {names}: {as_it_stands}, with {meaning} on "
                         f"{accuracies[best]:.1%}. Permute its outputs with models.reorder_classes(teacher, {best}, labels), save it "
                         "to a folder and name that folder as the teacher.")
    return LabelOrder(identity, accuracies)


# -- what does a model weigh? ----------------------------------------------------------------------------------------

def size(model: nn.Module) -> dict[str, float]:
    """`parameters` (count, shared ones once) and `megabytes` (as stored in their dtype)."""
    unique = {p.data_ptr(): p for p in model.parameters()}.values()
    return {"parameters": sum(p.numel() for p in unique), "megabytes": sum(p.numel() * p.element_size() for p in unique) / 1e6}


@torch.inference_mode()
def latency(model: PreTrainedModel, batch: dict, *, repeats: int = 20, warmup: int = 3) -> float:
    """Median seconds of one forward pass over `batch` (token ids and mask, tensors), dropout off."""
    was_training, times = model.training, []
    model.eval()
    batch = forward_inputs(model, {k: v.to(model.device) for k, v in batch.items() if k != "labels"})
    for i in range(warmup + repeats):
        start = time.perf_counter()
        model(**batch)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    model.train(was_training)
    return sorted(times[warmup:])[repeats // 2]


def forward_inputs(model: nn.Module, batch: dict) -> dict:
    """The part of `batch` that the model's forward takes: BERT needs token_type_ids, DistilBERT rejects them."""
    import inspect
    accepted = inspect.signature(getattr(model, "module", model).forward).parameters
    return {name: value for name, value in batch.items() if name in accepted}
