"""A student out of its teacher's layers: DistilBERT's recipe, for any stack of layers."""

import copy
import re

from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedModel

# bert.encoder.layer.3.…, model.layers.3.…
LAYER = re.compile(r"^(.*\.layers?\.)(\d+)(\..*)$")
# How DistilBERT calls the parts of a layer of BERT.
BERT_TO_DISTILBERT = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def student_from_teacher(
    teacher: PreTrainedModel, layers: list[int], family: str | None = None
) -> PreTrainedModel:
    """A student that starts as some of its teacher's layers.

    DistilBERT's recipe takes every other one: [0, 2, 4, 7, 9, 11]. Embeddings, the chosen layers
    and the classifier are *copied*: training the student never moves the teacher.
    family: None keeps the teacher's architecture; "distilbert" makes a DistilBERT of a BERT, where
        two things have no home. Segment embeddings: DistilBERT knows no segments, so segment 0's is
        folded into the positions. BERT's pooler, tanh(W·[CLS]): its W starts DistilBERT's
        pre_classifier, which ends in ReLU instead, so what the classifier read off negative units
        is lost until training mends it.
    Raises ValueError for layers that the teacher does not have and for families it cannot make.
    """
    _check_layers(layers, teacher.config)
    own_family = teacher.config.model_type
    if family is not None and family != own_family:
        if (own_family, family) != ("bert", "distilbert"):
            raise ValueError(
                f"cannot turn {own_family!r} into {family!r}: only bert into distilbert"
            )
        return _distilbert_from_bert(teacher, layers)
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):  # newer decoder configs list them
        config.layer_types = [config.layer_types[i] for i in layers]
    # Random weights first, all of which are then overwritten by the teacher's.
    student = type(teacher)(config).to(next(teacher.parameters()).dtype)
    # copies; strict, so that nothing is missing
    student.load_state_dict(_pick_layers(teacher.state_dict(), layers))
    return student


def _check_layers(layers: list[int], config) -> None:
    depth = config.num_hidden_layers
    # True would be layer 1.
    are_numbers = all(not isinstance(i, bool) and 0 <= i < depth for i in layers)
    if not layers or not are_numbers or list(layers) != sorted(set(layers)):
        raise ValueError(
            f"layers must be rising numbers in 0…{depth - 1} "
            f"(this {config.model_type} has {depth} layers), not {layers}"
        )


def which_layers(text: str, source: PreTrainedModel) -> list[int]:
    """ "0,2,4" as numbers, or "all" layers of `source`.

    ValueError for other texts and for layers that it does not have.
    """
    depth = source.config.num_hidden_layers
    if text == "all":
        return list(range(depth))
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ValueError(
            "student_layers must be all, or numbers with commas between them, as 0,2,4, "
            f"not {text!r}"
        )
    layers = [int(number) for number in text.split(",")]
    if layers != sorted(set(layers)) or layers[-1] >= depth:
        raise ValueError(
            f"student_layers must be rising numbers in 0…{depth - 1}, or all: the model that the "
            f"student starts from has {depth} layers, not {text!r}"
        )
    return layers


def _pick_layers(weights: dict, layers: list[int]) -> dict:
    """The weights of the chosen layers under their new numbers, and all that is in no layer."""
    new_number = {old: new for new, old in enumerate(layers)}
    picked = {}
    for name, value in weights.items():
        match = LAYER.match(name)
        if match is None:
            picked[name] = value
            continue
        before, number, after = match.groups()
        # [0, 2, 4]: the teacher's layer 2 becomes the student's layer 1. Other layers are left out.
        if int(number) in new_number:
            picked[f"{before}{new_number[int(number)]}{after}"] = value
    return picked


def _distilbert_from_bert(
    teacher: PreTrainedModel, layers: list[int]
) -> DistilBertForSequenceClassification:
    config = _distilbert_config(teacher.config, len(layers))
    old = teacher.state_dict()
    segment_0 = old["bert.embeddings.token_type_embeddings.weight"][0]
    positions = old["bert.embeddings.position_embeddings.weight"]
    words = old["bert.embeddings.word_embeddings.weight"]
    new = {
        "distilbert.embeddings.word_embeddings.weight": words,
        # BERT adds up words, positions and segments before its LayerNorm: a sum of two can be
        # stored.
        "distilbert.embeddings.position_embeddings.weight": positions + segment_0,
    }
    for part in ("weight", "bias"):
        new[f"distilbert.embeddings.LayerNorm.{part}"] = old[f"bert.embeddings.LayerNorm.{part}"]
        new[f"pre_classifier.{part}"] = old[f"bert.pooler.dense.{part}"]
        new[f"classifier.{part}"] = old[f"classifier.{part}"]
        for number, old_number in enumerate(layers):
            for theirs, ours in BERT_TO_DISTILBERT.items():
                value = old[f"bert.encoder.layer.{old_number}.{theirs}.{part}"]
                new[f"distilbert.transformer.layer.{number}.{ours}.{part}"] = value
    student = DistilBertForSequenceClassification(config)
    student = student.to(next(teacher.parameters()).dtype)
    student.load_state_dict(new)
    return student


def _distilbert_config(bert, layers: int) -> DistilBertConfig:
    if bert.hidden_act not in ("gelu", "relu"):
        raise ValueError(f"DistilBERT has gelu or relu, the teacher {bert.hidden_act!r}")
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        dropout=bert.hidden_dropout_prob,
        attention_dropout=bert.attention_probs_dropout_prob,
        activation=bert.hidden_act,
        # None in BERT's configuration means the general dropout.
        seq_classif_dropout=bert.classifier_dropout or bert.hidden_dropout_prob,
        pad_token_id=bert.pad_token_id,
        id2label=bert.id2label,
        label2id=bert.label2id,
    )
