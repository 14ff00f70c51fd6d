"""Teachers and students: load them, build small ones from scratch, weigh them.

    teacher = models.load_teacher("data/teachers/mini_nli", glue.MNLI.labels)
    student = models.student_from_teacher(teacher, layers=[0, 2])  # every other layer

How a student is cut out of its teacher stands in `engine.cutting`; whether the two fit together is
looked at in `engine.agreement`.
"""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from .chat import chat_format, end_token_id
from .engine import hub
from .engine.agreement import (  # noqa: F401  (a notebook names them models.…)
    LabelOrder,
    check_label_order,
    check_labels,
    check_pair,
    check_vocabularies,
    class_names,
    is_anonymous,
    name_classes,
    reorder_classes,
)
from .engine.asking import forward_inputs
from .engine.cutting import student_from_teacher, which_layers  # noqa: F401
from .engine.device import at_work, evaluating

# -- loading -------------------------------------------------------------------------------------


def load(source: str | Path, labels: tuple[str, ...] | None = None) -> PreTrainedModel:
    """A sequence classifier from a hub id or a folder, in float32.

    source: as for all loaders here, `owner/name`, or `owner/name@REVISION`, which pins one.
    labels: its classes in order. A checkpoint that names its own classes keeps its names (compare
        with `check_labels`). One without a classification head, or with the anonymous LABEL_0…,
        gets these. A head that the checkpoint lacks starts at random: right for a student, not for
        a teacher (see `load_teacher`).
    Raises ValueError when the number of classes differs, OSError with advice when it cannot be had.
    """
    model, _ = _load(source, labels)
    return model


def _load(source: str | Path, labels: tuple[str, ...] | None) -> tuple[PreTrainedModel, list[str]]:
    """See `load`; and the names of the weights that the checkpoint lacks.

    These were drawn at random.
    """
    place = hub.folder(source, "classifier")
    config = _read(AutoConfig.from_pretrained, place)
    kinds = config.architectures or []
    has_head = any(name.endswith("ForSequenceClassification") for name in kinds)
    if labels is not None:
        # Only a checkpoint with a head has classes; of one without, num_labels is the default 2.
        if has_head and config.num_labels != len(labels):
            raise ValueError(
                f"{source} tells {config.num_labels} classes apart, "
                f"the task has {len(labels)}: {labels}"
            )
        # Names given by hand stay: they are the one hint that the classes may be in another order.
        if not has_head or is_anonymous(config):
            name_classes(config, labels)
    # dtype is spelt out: from transformers 5 on, "auto" would load some checkpoints in bf16 and
    # train them so
    model, loading = _read(
        AutoModelForSequenceClassification.from_pretrained,
        place,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
    )
    return model.eval(), sorted(loading["missing_keys"])


def load_teacher(source: str | Path, labels: tuple[str, ...]) -> PreTrainedModel:
    """A fine-tuned classifier whose answers are to be learnt from, its outputs ordered by `labels`.

    A checkpoint that names these classes in another order gets its outputs sorted. One without
    names (LABEL_0…) is taken to have the task's order, which only labelled rows can tell: see
    `check_label_order`.
    Raises ValueError before any row is read: for a head that is not trained, for other class names,
    and as `load`.
    """
    model, missing = _load(source, labels)
    if missing:
        listed = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise ValueError(
            f"{source} cannot be the teacher: its weights lack {listed}, so its answers would be "
            f"random. A teacher has been fine-tuned for the task ({', '.join(labels)}): name such "
            "a model with teacher=…. A pretrained one like this can be the student."
        )
    names, wanted = class_names(model), [name.lower() for name in labels]
    # Same names, other order: sorting costs nothing now, and a wrong order teaches wrong classes.
    if names != wanted and sorted(names) == sorted(wanted):
        reorder_classes(model, [wanted.index(name) for name in names], labels)
    check_labels(model, labels)
    return model


class Pair(NamedTuple):
    """What a distillation begins with, three things with three names.

    teacher: the model whose answers are learnt from; None when its answers are stored.
    student_source: the model whose layers the student starts from; often another one, and never
        asked for an answer.
    tokenizer: with it, both read the rows.
    """

    teacher: PreTrainedModel | None
    student_source: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_pair(teacher: str | Path, student: str | Path, labels: tuple[str, ...]) -> Pair:
    """Load both sides of a distillation and check that they fit together, before any row is read.

    teacher: hub id or folder of a fine-tuned model, or *.safetensors: its stored answers, which
        need no model.
    student: hub id or folder of the model that the student starts from; "" or "teacher": the
        teacher itself.
    The rows are read with the teacher's tokenizer, for BERT needs the segments (token_type_ids)
    that DistilBERT's does not make; with stored answers it is the student's. ValueError as
    `load_teacher` and `check_pair`.
    """
    has_own_source = str(student) not in ("", "teacher")
    if str(teacher).endswith(".safetensors"):
        if not has_own_source:
            raise ValueError(
                f"{teacher} holds answers and no layers: name with student=… the model that the "
                "student starts from"
            )
        student_source = load(student, labels=labels)
        check_labels(student_source, labels)
        # Stored answers are found by the text of a row, so any tokenizer may read it.
        return Pair(None, student_source, load_tokenizer(student))
    model, tokenizer = load_teacher(teacher, labels), load_tokenizer(teacher)
    if not has_own_source:
        return Pair(model, model, tokenizer)
    student_source = load(student, labels=labels)
    check_pair(model, student_source, tokenizer, load_tokenizer(student))
    return Pair(model, student_source, tokenizer)


def load_causal(source: str | Path, *, dtype: torch.dtype | str = torch.float32) -> PreTrainedModel:
    """A decoder-only language model from a hub id or a folder.

    dtype: "bfloat16" suits a teacher that is only asked.
    Raises ValueError for an encoder or an encoder-decoder, OSError with advice when it cannot be
    had, or not without a token.
    """
    place = hub.folder(source, "causal")
    config = _read(AutoConfig.from_pretrained, place)
    # A configuration without architectures (saved by hand) gets the benefit of the doubt.
    kinds = config.architectures or ["ForCausalLM"]
    is_decoder = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in kinds)
    if config.is_encoder_decoder or not is_decoder:
        kind = ", ".join(config.architectures or [config.model_type])
        raise ValueError(f"{source} is a {kind}, not a decoder-only language model")
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    load_weights = AutoModelForCausalLM.from_pretrained
    return _read(load_weights, place, config=config, dtype=dtype).eval()


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or folder; OSError with advice when it cannot be had."""
    return _read(AutoTokenizer.from_pretrained, hub.folder(source, "tokenizer"))


def _read(loader, place: Path, **how):
    """`loader` on a folder: what it needs lies there, so transformers asks the network nothing."""
    verbosity = logging.get_verbosity()
    # "some weights are newly initialized": yes, the head; that is the point
    logging.set_verbosity_error()
    try:
        return loader(str(place), **how)
    except SafetensorError as error:
        raise OSError(
            f"{place}: its weights are cut off or damaged ({error}). Copy or fetch them again: "
            "`python -m kdlib get PROFILE NN` compares the cache with the hub and fetches what "
            "differs"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def machine_dtype() -> torch.dtype:
    """What this machine computes fast *and* right.

    GPU: bf16 from Ampere on, fp16 on older ones (P100, V100). CPU: bf16 where it has instructions
    for it (Intel from Sapphire Rapids on, AMD from Zen 4 on), float32 elsewhere.
    """
    if not torch.cuda.is_available():
        can = torch.cpu.get_capabilities()
        multiplies_bf16 = can.get("amx_bf16", False) or can.get("avx512_bf16", False)
        return torch.bfloat16 if multiplies_bf16 else torch.float32
    # 8 is Ampere, the first that multiplies bf16 in hardware. fp16 has as many bits and less range:
    # above 65,504 it is infinite.
    generation, _ = torch.cuda.get_device_capability()
    return torch.bfloat16 if generation >= 8 else torch.float16


# -- from scratch --------------------------------------------------------------------------------


def tiny_bert(
    vocabulary: int,
    labels: tuple[str, ...],
    *,
    layers: int,
    width: int,
    heads: int,
    max_length: int = 64,
    dropout: float = 0.1,
    initializer_range: float = 0.02,
    pad_token_id: int = 0,
) -> BertForSequenceClassification:
    """A BERT from scratch, small enough to train on a laptop's CPU.

    Seed torch first: its weights are random. BERT's initializer_range 0.02 suits a width of 768. A
    narrow model needs about 1/sqrt(width), or its attention starts so flat that a few thousand rows
    cannot teach it to compare two sentences.
    """
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        # BERT's own proportion (3072 to 768).
        intermediate_size=4 * width,
        max_position_embeddings=max_length,
        # Two segments: premise and hypothesis.
        type_vocab_size=2,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=pad_token_id,
        initializer_range=initializer_range,
        num_labels=len(labels),
    )
    name_classes(config, labels)
    return BertForSequenceClassification(config)


def tiny_llama(
    vocabulary: int,
    *,
    layers: int,
    width: int,
    heads: int,
    kv_heads: int = 0,
    inner: int = 0,
    max_length: int = 512,
    tied: bool = True,
    initializer_range: float = 0.02,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LlamaForCausalLM:
    """A Llama from scratch, small enough to train on a laptop's CPU.

    Seed torch first: its weights are random.
    inner: width of the feed-forward layers (0: twice the width). kv_heads: 0 for as many as heads.
    tied: embeddings and head are one matrix, as in Llama 3.2's 1B and 3B.
    tokenizer: whose begin, end and pad tokens the configuration names.
    """
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        intermediate_size=inner or 2 * width,
        max_position_embeddings=max_length,
        tie_word_embeddings=tied,
        initializer_range=initializer_range,
        # Llama 2's value, for short texts. Llama 3's 500,000 is for windows of many thousand
        # tokens.
        rope_theta=10_000.0,
        bos_token_id=getattr(tokenizer, "bos_token_id", None),
        eos_token_id=getattr(tokenizer, "eos_token_id", None),
        pad_token_id=getattr(tokenizer, "pad_token_id", None),
    )
    return LlamaForCausalLM(config)


# -- changing a language model -------------------------------------------------------------------


@torch.no_grad()
def add_end_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Give the model, in place, a row for the tokenizer's `<|end_of_translation|>`.

    Its generation stops there from now on. A new row is the mean of all others, in the embeddings
    and, where it is not the same matrix, in the head. Teacher and student then start alike, and no
    token is likelier than it for its length alone. A tied head stays tied. With a reserved token
    (`chat.with_end_token(…, "reserved")`) there is a row already, and nothing is resized.
    ValueError when the tokenizer cuts the token into pieces or does not know it.
    """
    end = end_token_id(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    # A reserved token has its row already; a model may also have more rows than its tokenizer.
    if end >= rows:
        was_tied = _is_tied(model)
        # mean_resizing would draw the new row from the others' distribution, at random: teacher and
        # student would start with different ones.
        model.resize_token_embeddings(end + 1, mean_resizing=False)
        matrices = [model.get_input_embeddings().weight]
        if not was_tied:
            matrices.append(model.get_output_embeddings().weight)
        for matrix in matrices:
            # In float32, and rounded once, at the end. Overwrites the new rows in place.
            matrix[rows:] = matrix[:rows].float().mean(0).to(matrix.dtype)
        # An untied copy would train a head that its embeddings never hear of.
        assert was_tied == _is_tied(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    turn_end = tokenizer.convert_tokens_to_ids(chat_format(tokenizer).turn_end)
    # Both: an untuned model ends its turns with the family's own token.
    model.generation_config.eos_token_id = [end, turn_end]
    return model


def _is_tied(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def with_lora(
    model: PreTrainedModel, rank: int = 16, *, alpha: int = 32, dropout: float = 0.0
) -> PreTrainedModel:
    """The model with low-rank adapters in every attention and feed-forward layer.

    Only these are trained (Hu et al. 2021). Embeddings stay as they are: a new end token's row is
    not learnt this way, only how to predict it from what the layers say. Rates of 1e-4 to 1e-3 suit
    adapters; full fine-tuning wants about 1e-5. `merge_and_unload()` gives a plain model.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            "LoRA needs peft: pip install 'kdlib[lora]', or fine-tune the whole model"
        ) from error
    config = LoraConfig(
        # An update B·A of rank r, scaled by lora_alpha / r (Hu et al. 2021, section 4.1).
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


# -- what does a model weigh? --------------------------------------------------------------------


def size(model: nn.Module) -> dict[str, float]:
    """`parameters` (count, shared ones once) and `megabytes` (as stored in their dtype)."""
    # By address: a tied head and its embeddings are one matrix, and are stored once.
    unique = {weight.data_ptr(): weight for weight in model.parameters()}.values()
    megabytes = sum(weight.numel() * weight.element_size() for weight in unique) / 1e6
    return {"parameters": sum(weight.numel() for weight in unique), "megabytes": megabytes}


def latency(
    model: PreTrainedModel,
    batch: dict,
    *,
    repeats: int = 20,
    warmup: int = 3,
    device: str | None = None,
) -> float:
    """Median seconds of one forward pass, dropout off.

    batch: token ids and mask, tensors. device: where the model computes; None for the machine's GPU
    if it has one.
    """
    seconds = []
    with torch.inference_mode(), at_work(model, device), evaluating(model):
        inputs = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
        inputs = forward_inputs(model, inputs)
        for _ in range(warmup + repeats):
            start = time.perf_counter()
            model(**inputs)
            _wait_for(model.device)
            seconds.append(time.perf_counter() - start)
    # The first passes load kernels and fill caches. The median, for one pass that the system
    # interrupted would pull a mean up.
    return sorted(seconds[warmup:])[repeats // 2]


def take_turns(models: dict, batch: dict, *, rounds: int = 15, device: str | None = None) -> dict:
    """{name: median seconds of a forward pass}, the models taking turns.

    A machine that is busy for a moment slows whoever is asked then. In turns that hits all alike,
    and a median leaves it out.
    """
    seconds = {name: [] for name in models}
    for name, model in models.items():
        latency(model, batch, repeats=1, device=device)  # warms up
    for _ in range(rounds):
        for name, model in models.items():
            seconds[name].append(latency(model, batch, repeats=1, warmup=0, device=device))
    return {name: sorted(passes)[rounds // 2] for name, passes in seconds.items()}


def _wait_for(device: torch.device) -> None:
    """A GPU's kernels run on after the call has returned: a clock must wait for them."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
