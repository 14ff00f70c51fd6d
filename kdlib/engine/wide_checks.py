"""What `wide_loss` refuses: tensors that do not fit together.

Errors name the argument, its shape and its dtype.
"""

from torch import Tensor

from ..losses import TopK, described, is_integer

# Two heads of one vocabulary may differ by padding, rounded up for fast kernels: by at most a
# twentieth of the vocabulary, and never by more than PADDING. ROUNDED is always allowed.
PADDING = 1024
ROUNDED = 128


def check_head(who: str, hidden: Tensor, head: Tensor, bias: Tensor | None) -> None:
    """ValueError unless hidden (…, width), head (vocab, width), bias (vocab,) can be multiplied."""
    for name, x in (("hidden", hidden), ("head", head), ("bias", bias)):
        if x is not None and not x.dtype.is_floating_point:
            raise ValueError(f"{described(f'{who}_{name}', x)} must be floating point")
    head_is = described(f"{who}_head", head)
    if head.dim() == 2 and not len(head):
        raise ValueError(f"{head_is} has no words")
    if hidden.dim() < 1 or head.dim() != 2 or hidden.shape[-1] != head.shape[1]:
        raise ValueError(
            f"{described(f'{who}_hidden', hidden)} does not fit {head_is}: "
            "(…, width) and (vocab, width) are needed"
        )
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(
            f"{described(f'{who}_bias', bias)} does not fit {head_is}: one number a word is needed"
        )


def check_student(hidden: Tensor, head: Tensor, bias: Tensor | None, labels: Tensor) -> None:
    """ValueError unless the student's tensors fit together and each hidden state has its label."""
    check_head("student", hidden, head, bias)
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"{described('labels', labels)} does not match {described('student_hidden', hidden)}: "
            "one label for each hidden state is needed"
        )


def check_teacher(
    student_hidden: Tensor, student_vocab: int, hidden, head, bias, logits, topk, alpha: float
) -> int:
    """How many tokens teacher and student share.

    ValueError unless the teacher came in one sound form.
    """
    _check_form(hidden, head, bias, logits, topk, alpha)
    if topk is not None or (hidden is None and logits is None):
        return student_vocab
    if logits is None:
        check_head("teacher", hidden, head, bias)
        name, given, vocab = "teacher_hidden", hidden, len(head)
        head_is = described("teacher_head", head)
    else:
        if logits.dim() < 1 or not logits.dtype.is_floating_point:
            raise ValueError(
                f"{described('teacher_logits', logits)} must be floating point, (…, vocab)"
            )
        name, given, vocab = "teacher_logits", logits, logits.shape[-1]
        head_is = described(name, logits)
    if given.shape[:-1] != student_hidden.shape[:-1]:
        raise ValueError(
            f"{described(name, given)} does not match "
            f"{described('student_hidden', student_hidden)}: same items, same order?"
        )
    # Rows of padding belong to no token, so what both have in common are the first rows.
    shared = min(vocab, student_vocab)
    if abs(vocab - student_vocab) > max(ROUNDED, min(PADDING, shared // 20)):
        raise ValueError(
            f"{head_is} has {vocab:,} words, student_head has {student_vocab:,}: "
            "more than padding explains. Do both read the same tokenizer?"
        )
    return shared


def _check_form(hidden, head, bias, logits, topk, alpha: float) -> None:
    forms = [hidden is not None or head is not None, logits is not None, topk is not None]
    # Hidden states without a head, or the other way round, make no logits.
    half_a_head = (hidden is None) != (head is None) or (bias is not None and head is None)
    if sum(forms) > 1 or half_a_head or not (any(forms) or alpha == 0):
        raise ValueError(
            "the teacher comes in one form: teacher_hidden and teacher_head (and teacher_bias), "
            "or teacher_logits, or teacher_topk; none of them only with alpha = 0"
        )
    if topk is not None and not isinstance(topk, TopK):
        raise ValueError(
            f"teacher_topk must be a losses.TopK (ids, logprobs, rest), not a {type(topk).__name__}"
        )


def check_topk(teacher: TopK, tokens: int, vocab: int) -> None:
    """ValueError unless each token has its k different ids of the vocabulary."""
    ids, logprobs, rest = teacher
    shapes_fit = ids.dim() == 2 and ids.shape == logprobs.shape and rest.shape == ids.shape[:1]
    if not shapes_fit or len(ids) != tokens:
        parts = [described(f"teacher_topk.{name}", x) for name, x in teacher._asdict().items()]
        raise ValueError(f"{', '.join(parts)} do not match the {tokens} items that are not ignored")
    if not is_integer(ids) or (
        ids.numel() and not (0 <= int(ids.min()) and int(ids.max()) < vocab)
    ):
        raise ValueError(f"{described('teacher_topk.ids', ids)} must be words 0…{vocab - 1}")
    # A token that is named twice would be counted twice, and the probabilities would not sum to 1.
    if (ids.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError(f"{described('teacher_topk.ids', ids)} names a word twice in one row")
