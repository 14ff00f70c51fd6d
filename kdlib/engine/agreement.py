"""Do teacher and student fit together? The same tokens, and the same classes in the same order.

Sizes alone prove little: two vocabularies of 30,522 tokens can differ in every one, and three
classes in their order. Both would teach the wrong thing with confidence.
"""

import itertools
import re
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# From this share of unknown tokens on, a bad score says more about the tokenizer than about the
# teacher. MiniNLI's vocabulary knows all of its own rows, and not 60 % of real MNLI's tokens.
MANY_UNKNOWN = 0.1
# accents, capitals, signs, a double space: tokenizers of one vocabulary can differ in these
PROBE = "Déjà vu: WE can't — said 3 Zoës, naïvely?!  It's 5°C."


def class_names(model: PreTrainedModel) -> list[str]:
    """The names of the model's classes in the order of its outputs, in small letters."""
    # By number, for a dict read from JSON need not be in order; small letters, as the hub has
    # "ENTAILMENT" too.
    return [str(model.config.id2label[i]).lower() for i in range(model.config.num_labels)]


def is_anonymous(config) -> bool:
    """Are the classes named LABEL_0, LABEL_1 …?"""
    # transformers makes up such names for a head that nobody named.
    return all(re.fullmatch(r"LABEL_\d+", str(name)) for name in config.id2label.values())


def name_classes(config, labels: tuple[str, ...]) -> None:
    """Name a configuration's classes, in place."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}


def check_pair(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    teacher_tokenizer=None,
    student_tokenizer=None,
) -> None:
    """ValueError unless both read the same tokens and name the same classes in the same order.

    The two may be of different families, as BERT and DistilBERT, if their tokenizers read every
    text alike.
    """
    theirs, ours = class_names(teacher), class_names(student)
    # Made-up names contradict nothing. Only labelled rows can tell the order then.
    either_is_anonymous = is_anonymous(teacher.config) or is_anonymous(student.config)
    if theirs != ours and not either_is_anonymous:
        raise ValueError(
            f"teacher and student name their classes differently: {theirs} and {ours}. "
            "Distilling would teach the wrong class with confidence; reorder one of them first."
        )
    if teacher.config.num_labels != student.config.num_labels:
        raise ValueError(
            f"the teacher has {teacher.config.num_labels} classes, "
            f"the student {student.config.num_labels}"
        )
    if teacher.config.vocab_size != student.config.vocab_size:
        raise ValueError(
            "teacher and student read different vocabularies "
            f"({teacher.config.vocab_size:,} and {student.config.vocab_size:,} tokens): "
            "the same token ids would mean different words"
        )
    if teacher_tokenizer is not None and student_tokenizer is not None:
        check_vocabularies(teacher_tokenizer, student_tokenizer)
        check_readings(teacher_tokenizer, student_tokenizer)


# -- tokens --------------------------------------------------------------------------------------


def check_vocabularies(
    teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase
) -> None:
    """ValueError unless both tokenizers give every string the same id.

    The soft targets of one are read with the ids of the other.
    """
    theirs, ours = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    if theirs == ours:
        return
    differing = set(theirs.items()) ^ set(ours.items())
    # The first difference by id: it is the same in every run, and often the cause of all others.
    _, token = min((id_, token) for token, id_ in differing)
    raise ValueError(
        f"the tokenizers differ: the teacher's has {len(theirs):,} tokens, the student's "
        f"{len(ours):,}, and for example {token!r} is id {theirs.get(token)} and "
        f"{ours.get(token)}. Add the same tokens to both, or take a student of the teacher's "
        "family; across families, distil from the teacher's translations instead."
    )


def check_readings(
    teacher_tokenizer: PreTrainedTokenizerBase, student_tokenizer: PreTrainedTokenizerBase
) -> None:
    """ValueError unless both cut a probe into the same tokens.

    Equal vocabularies can still be read differently (capitals).
    """
    theirs = teacher_tokenizer(PROBE, "A second text.")["input_ids"]
    # A pair, because the frame around it ([CLS], [SEP], or nothing) can differ as well.
    ours = student_tokenizer(PROBE, "A second text.")["input_ids"]
    if theirs == ours:
        return
    shorter = min(len(theirs), len(ours))
    # Where one list is the beginning of the other, they differ where the shorter one ends.
    place = next((i for i in range(shorter) if theirs[i] != ours[i]), shorter)
    told = []
    for tokenizer, ids in ((teacher_tokenizer, theirs), (student_tokenizer, ours)):
        told.append(" ".join(tokenizer.convert_ids_to_tokens(ids[place : place + 4])))
    raise ValueError(
        "the tokenizers have the same vocabulary and read the same text differently: the "
        f"teacher's goes on with {told[0]!r}, the student's with {told[1]!r}. Take two that treat "
        "capitals, accents and the frame of a pair alike."
    )


# -- classes -------------------------------------------------------------------------------------


def check_labels(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """ValueError unless the model names its classes as the task does, in the task's order."""
    found, wanted = class_names(model), [name.lower() for name in names]
    if found == wanted:
        return
    advice = "Name a checkpoint that was fine-tuned for this task."
    if sorted(found) == sorted(wanted):
        advice = (
            "Sort its outputs with models.reorder_classes, "
            "or load it with models.load_teacher, which does so."
        )
    raise ValueError(
        f"the model's classes are {found}, the task's {list(names)}, in this order: its answers "
        f"would be read as other classes. {advice}"
    )


@torch.no_grad()
def reorder_classes(
    model: PreTrainedModel, meaning: list[int] | tuple[int, ...], labels: tuple[str, ...]
) -> PreTrainedModel:
    """Sort the model's outputs, in place. Afterwards output j means the class `labels[j]`.

    meaning[i]: the task's class that output i means now (`LabelOrder.permutation`, and what
    `check_label_order` advises). The rows of the classifier are swapped and the classes named.
    ValueError when `meaning` is no permutation.
    """
    classes = model.config.num_labels
    if sorted(meaning) != list(range(len(labels))) or len(labels) != classes:
        raise ValueError(
            f"{list(meaning)} is no order of the {classes} outputs for the classes {list(labels)}"
        )
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    classifier = linear[-1]  # BERT's classifier, RoBERTa's out_proj: a head is defined last
    if classifier.out_features != len(labels):
        raise ValueError(
            f"{type(model).__name__} does not end in a linear layer with {len(labels)} outputs"
        )
    # The inverse: output i means class meaning[i], so class j comes from output meaning.index(j).
    output_of_class = [meaning.index(j) for j in range(len(labels))]
    for weight in (classifier.weight, classifier.bias):
        if weight is not None:
            weight.copy_(weight[output_of_class].clone())  # the clone: rows overwrite each other
    name_classes(model.config, labels)
    return model


class LabelOrder(NamedTuple):
    """`permutation[i]` is the task's class that the model's output i means.

    accuracies: by permutation, best first.
    """

    permutation: tuple[int, ...]
    accuracies: dict[tuple[int, ...], float]


def check_label_order(
    logits, labels, names: tuple[str, ...], *, margin: float = 0.05, rows=None, tokenizer=None
) -> LabelOrder:
    """Which meaning of the model's outputs agrees best with known labels?

    Every permutation of the classes is tried. A widely used MNLI checkpoint has its classes
    permuted: it scores 7 % read naively and 84 % read rightly.
    logits: (rows, classes), labels: (rows,), a few hundred validation rows. rows, tokenizer: what
        the model read and what made its tokens; with both, an error says whether many of these
        are unknown.
    ValueError unless the identity is best by `margin`. It says which order is, or that the model
    knows too little: no order is best by `margin`, or none beats one answer for everything by it.
    """
    labels = torch.as_tensor(labels)
    accuracies = _accuracy_by_order(torch.as_tensor(logits).argmax(-1), labels, len(names))
    identity = tuple(range(len(names)))
    # Of 6 orders for 3 classes. Always two at least: a single class is no task.
    best, second = list(accuracies)[:2]
    commonest = torch.bincount(labels, minlength=len(names)).max().item() / len(labels)
    as_it_stands = f"as it stands it is right on {accuracies[identity]:.1%} of {len(labels)} rows"
    # One answer for everything is right as often as the commonest class, in the order that fits it
    # best: that is no knowledge, so the best order must beat it clearly.
    if accuracies[best] < max(accuracies[second], commonest) + margin:
        raise ValueError(
            f"the teacher knows too little to learn from: {as_it_stands}, in the best order of its "
            f"classes on {accuracies[best]:.1%}, and always answering the commonest class would be "
            f"right on {commonest:.1%}. Is it fine-tuned for this task? Name one that is, or train "
            f"it first.{_about_unknown(rows, tokenizer)}"
        )
    if best != identity:
        meaning = ", ".join(f"output {i} = {names[j]}" for i, j in enumerate(best))
        raise ValueError(
            f"the teacher's classes are not in the order {names}: {as_it_stands}, with {meaning} "
            f"on {accuracies[best]:.1%}. Permute its outputs with "
            f"models.reorder_classes(teacher, {best}, labels), save it to a folder and name that "
            f"folder as the teacher.{_about_unknown(rows, tokenizer)}"
        )
    return LabelOrder(identity, accuracies)


def _about_unknown(rows, tokenizer) -> str:
    """A hint for an error where many of the rows' tokens are unknown; "" where few are."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if rows is None or unknown is None:
        return ""
    ids = [token for row in rows["input_ids"] for token in row]
    share = ids.count(unknown) / max(len(ids), 1)
    if share < MANY_UNKNOWN:
        return ""
    return (
        f" But first: {share:.0%} of the rows' tokens are {tokenizer.unk_token}, words that the "
        "tokenizer does not know. Likelier than an untrained teacher is a tokenizer that does not "
        "belong to it, or a teacher that was made for other rows."
    )


def _accuracy_by_order(guesses: torch.Tensor, labels: torch.Tensor, classes: int) -> dict:
    """{order of the classes: share of right answers}, best first."""
    accuracies = {}
    for order in itertools.permutations(range(classes)):
        # order[guess] is the class that this output would mean: (rows,).
        right = torch.tensor(order)[guesses] == labels
        accuracies[order] = right.float().mean().item()
    ranked = sorted(accuracies, key=lambda order: (accuracies[order], order), reverse=True)
    return {order: accuracies[order] for order in ranked}
