"""The methods that the course compares, each as a change of what the teacher says.

KD and its controls run through one trainer and one loss. A control takes something away from the
teacher's answers, so that a table with all of them says *which part* of those answers helped:

    "ce"               alpha = 0: the hard labels alone
    "label_smoothing"  a teacher whose classes are all equal, with alpha = smoothing and T = 1:
                       label smoothing, up to a constant
    "hard"             the teacher's top class alone, as a label, with T = 1: what its guesses teach
    "equalised"        the top class keeps its probability, the rest is spread evenly over the
                       others: how sure the teacher is, row by row, and nothing else
    "shuffled"         the top class keeps its probability, the other classes trade places
                       at random
    "shuffled_doubt"   each row gets the whole answer of another row with the same top class
    "kd"               as the teacher said it
"""

from typing import Callable

import numpy as np

from .paths import did_you_mean

# The one table of names: what a parameter calls a method, and what a table or a legend prints. The
# order is the figures'.
LABELS = {
    "ce": "CE only",
    "label_smoothing": "CE, label smoothing",
    "hard": "KD, top class only",
    "equalised": "KD, wrong classes equal",
    "shuffled": "KD, wrong classes shuffled",
    "shuffled_doubt": "KD, doubts shuffled",
    "kd": "KD",
}
FOR_ROWS = ("kd", "ce", "label_smoothing", "hard", "equalised", "shuffled", "shuffled_doubt")
# a token has no row whose doubt it could trade
FOR_TOKENS = ("kd", "ce", "label_smoothing", "shuffled")


def check(method: str, known=FOR_ROWS) -> None:
    """ValueError, with the nearest name, for a method that is none of `known`."""
    if method not in known:
        raise ValueError(
            f"method must be one of {', '.join(known)}, not {method!r}{did_you_mean(method, known)}"
        )


def for_rows(
    method: str,
    logits: np.ndarray,
    *,
    alpha: float,
    temperature: float,
    smoothing: float = 0.1,
    seed: int = 0,
) -> tuple[np.ndarray, float, float]:
    """(teacher logits, alpha, T) that turn the same trainer into KD or into one of its controls.

    logits: (rows, classes), left untouched. "hard" and "equalised" take away what the teacher says
    about wrong classes, and "hard" also how sure it is. "shuffled" is as soft as the teacher, without what it
    knows about wrong classes (with two classes there is one other, and nothing to trade).
    "shuffled_doubt" is without what it knows about which rows are doubtful.
    """
    check(method)
    logits = np.array(logits, dtype=np.float32)
    if method == "ce":
        return logits, 0.0, temperature
    if method == "label_smoothing":
        # All logits equal is a uniform teacher. alpha·KL(u‖s) + (1 - alpha)·CE is CE on labels
        # smoothed by alpha, up to alpha times the entropy of u, which has no gradient. T = 1, for
        # a softened student would be another loss.
        return np.zeros_like(logits), smoothing, 1.0
    if method == "kd":
        return logits, alpha, temperature
    if method == "hard":
        return _top_class_alone(logits), alpha, 1.0
    if method == "equalised":
        return _equalised(logits, temperature), alpha, temperature
    random = np.random.default_rng(seed)
    if method == "shuffled":
        _shuffle_wrong_classes(logits, random)
    elif method == "shuffled_doubt":
        top_class = logits.argmax(1)
        for name in np.unique(top_class):
            # Within one top class, so that no row is told another answer, only another doubt.
            rows = np.flatnonzero(top_class == name)
            logits[rows] = logits[random.permutation(rows)]
    else:
        raise NotImplementedError(f"{method} stands in FOR_ROWS and has no branch here")
    return logits, alpha, temperature


def _shuffle_wrong_classes(logits: np.ndarray, random: np.random.Generator) -> None:
    """Each row's wrong classes trade places, in place.

    Logits are permuted, not probabilities: the softmax then gives the same numbers in other places,
    at every temperature.
    """
    # (rows, classes): class numbers, the likeliest first
    ranked = np.argsort(-logits, axis=1)
    wrong_classes = ranked[:, 1:]  # the first is the top class: it stays where it is
    wrong_logits = np.take_along_axis(logits, wrong_classes, 1)
    # Each row draws an order of its own: with one order for all, the student could learn the
    # shuffled similarities as well.
    np.put_along_axis(logits, wrong_classes, random.permuted(wrong_logits, axis=1), 1)


def _top_class_alone(logits: np.ndarray) -> np.ndarray:
    """Logits whose softmax is 1 at the likeliest class: exp(-1e4) is 0 in any precision."""
    certain = np.full_like(logits, -1e4)
    certain[np.arange(len(logits)), logits.argmax(1)] = 0.0
    return certain


def _equalised(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Logits whose softmax *at this temperature* has equal wrong classes.

    The top class has the probability that it has in the teacher's softened answer.
    """
    rows = np.arange(len(logits))
    top_class = logits.argmax(1)
    softened = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    softened /= softened.sum(1, keepdims=True)
    top = softened[rows, top_class][:, None]
    equal = np.repeat((1 - top) / (logits.shape[1] - 1), logits.shape[1], axis=1)
    equal[rows, top_class] = top[:, 0]
    # softmax(T · log p / T) is p again; the floor keeps a certain teacher's logits finite
    return (temperature * np.log(np.maximum(equal, 1e-30))).astype(np.float32)


def for_tokens(
    method: str,
    *,
    alpha: float,
    temperature: float,
    smoothing: float = 0.1,
    seed: int = 0,
) -> tuple[Callable | None, float, float]:
    """(change, alpha, T) that do the same for a language model, whose answers come batch by batch.

    change: a function of (teacher's answers, student's logits) that returns what the student is to
    hear instead, or None; pass it as `DistillationTrainer(…, change=)`. The answers are logits
    (tokens, vocab) or a `losses.TopK`. Of a `TopK` "shuffled" lets the k - 1 others trade places.
    """
    check(method, FOR_TOKENS)
    if method == "ce":
        return None, 0.0, temperature
    if method == "label_smoothing":
        # As for rows; the logits are made for each batch, which alone knows how many tokens it has.
        return _uniform, smoothing, 1.0
    if method == "shuffled":
        random = np.random.default_rng(seed)

        def shuffled(answers, student_logits):
            return _shuffle_wrong_tokens(answers, random)

        return shuffled, alpha, temperature
    if method == "kd":
        return None, alpha, temperature
    raise NotImplementedError(f"{method} stands in FOR_TOKENS and has no branch here")


def _uniform(answers, student_logits):
    """Logits of a teacher that finds all tokens equally likely."""
    return student_logits.new_zeros(student_logits.shape)


def _shuffle_wrong_tokens(answers, random: np.random.Generator):
    import torch

    stored = hasattr(answers, "logprobs")  # a TopK: k scores a token instead of all
    scores = answers.logprobs if stored else answers
    top_token = scores.argmax(-1, keepdim=True)
    # (tokens, k or vocab)
    is_wrong = torch.ones_like(scores, dtype=torch.bool).scatter_(-1, top_token, False)
    # Each row has exactly one top token, so what is left is a rectangle again: (tokens, k - 1).
    wrong_scores = scores[is_wrong].view(len(scores), -1)
    # Sorting random keys gives a random order. They are drawn on the CPU, so that a seed means the
    # same on every device.
    keys = torch.from_numpy(random.random(wrong_scores.shape, np.float32))
    order = keys.to(scores.device).argsort(-1)
    # A copy: whoever holds the teacher's answers keeps the true ones.
    mixed = scores.clone()
    mixed[is_wrong] = wrong_scores.gather(-1, order).flatten()
    return answers._replace(logprobs=mixed) if stored else mixed
