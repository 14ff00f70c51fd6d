"""Notebook 07: distilling EuroLlama."""

import copy
import functools
import re

import torch

from ...losses import TopK, distillation_loss
from ...scores import bleu
from .common import call, number, question, variants

ANSWERS = {
    "07.1": """
candidates = (
    "La Commission n'a pas validé le document sur la pêche.",
    "La Commission a approuvé le rapport sur la pêche.",
)

Why: a word exchanged in the middle of a sentence breaks every run of words that goes through it.
Two such words leave hardly a run of four. Whoever drops "ne … pas" touches the sentence at one
place only, so BLEU prefers the sentence that says the opposite.
""",
    "07.2": """
def kd_on_targets(student_logits, teacher_logits, labels, temperature):
    keep = labels[:, 1:] != -100  # position i predicts token i + 1
    student = (student_logits[:, :-1][keep] / temperature).log_softmax(-1)
    teacher = (teacher_logits[:, :-1][keep] / temperature).log_softmax(-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1).mean()

Why: the shift lines logits and labels up; without it a model learns to repeat its input. The mask
drops prompts and padding. The mean runs over target tokens, and not over rows, so that a token
counts the same in a short row and in a long one.
""",
    "07.3": """
def kd_of_kept(student_logits, kept):
    log_q = student_logits.log_softmax(-1)
    log_q_kept = log_q.gather(-1, kept.ids)
    others = log_q.scatter(-1, kept.ids, float("-inf"))
    log_q_rest = others.logsumexp(-1, keepdim=True)
    student = torch.cat([log_q_kept, log_q_rest], dim=-1)
    teacher = torch.cat([kept.logprobs, kept.rest[:, None]], dim=-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()

Why: k tokens and the rest are k + 1 outcomes, and both sides sum to 1 over them. Without the rest
the loss does not notice how much probability the student gives to all other tokens. The logsumexp
of the other tokens stays finite where log(1 - sum) would be the logarithm of 0.
""",
    "07.4": """
def distil(student, batches):
    def soft_loss(logits, kept):
        log_q = logits.log_softmax(-1)
        others = log_q.scatter(-1, kept.ids, float("-inf")).logsumexp(-1, keepdim=True)
        said = torch.cat([log_q.gather(-1, kept.ids), others], dim=-1)
        heard = torch.cat([kept.logprobs, kept.rest[:, None]], dim=-1)
        return (heard.exp() * (heard - said)).sum(-1).mean()

    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    student.train()
    for batch, kept in 2 * batches:
        keep = batch["labels"][:, 1:] != -100
        logits = student(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = soft_loss(logits[:, :-1][keep], kept)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student

Why: the teacher is not here; eight numbers a token and the rest stand for it. Two passes over 16
batches take away more than half of the distance of a student that is two of its layers. The
learning rate decides: 1e-3 arrives, 1e-5 hardly moves in so few steps.
""",
}

REFERENCE = "La Commission n'a pas approuvé le rapport sur la pêche."
# What may stand for a word of the reference. Without such a list no check can tell a paraphrase
# from another sentence.
VERBS = "approuvé adopté accepté validé entériné ratifié avalisé agréé".split()
NOUNS = ["rapport", "document", "texte", "compte rendu", "dossier"]
LINKS = [
    "sur",
    "concernant",
    "relatif à",
    "consacré à",
    "à propos de",
    "au sujet de",
    "portant sur",
]


def _sentence(negation: str) -> re.Pattern:
    """The reference with any of its synonyms. negation: a pattern for the verb's first part."""
    verb, noun, link = ("|".join(words) for words in (VERBS, NOUNS, LINKS))
    return re.compile(rf"la commission {negation} ({verb}) le ({noun}) ({link}) la pêche ?\.?")


DENIES, AFFIRMS = _sentence("n'a (pas|point)"), _sentence("a")
KNOWN = set(" ".join([REFERENCE.lower().rstrip("."), "a", "point", *VERBS, *NOUNS, *LINKS]).split())


def _plain(text: str) -> str:
    return " ".join(str(text).lower().replace("’", "'").split())


def _why_not(text: str) -> str:
    """What keeps a sentence from being a paraphrase of the reference."""
    words = re.findall(r"[\w']+", _plain(text))
    strangers = [word for word in words if word not in KNOWN]
    if strangers:
        return (
            f"{strangers[0]!r} is neither a word of the reference nor a synonym that this check "
            f"knows. It knows {', '.join(VERBS[1:4])} … for the verb, "
            f"{', '.join(NOUNS[1:3])} … for the noun, {LINKS[1]}, {LINKS[2]} … for « sur »."
        )
    return (
        "Keep the reference's order and all of its parts (who, did what, to what, about what): "
        "exchange words only."
    )


@question("07.1")
def candidates(given):
    """`kept` means what the reference means, `lost` has lost "ne … pas"; BLEU prefers `lost`."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        return "A pair of sentences is asked: (kept, lost)."
    kept, lost = given
    if AFFIRMS.fullmatch(_plain(kept)) and DENIES.fullmatch(_plain(lost)):
        return "The two are in the wrong order: first the one that still says « ne … pas »."
    if AFFIRMS.fullmatch(_plain(kept)):
        return (
            "The first candidate must still say that the Commission did not: "
            'it needs both halves of "ne … pas".'
        )
    if not DENIES.fullmatch(_plain(kept)):
        return f"The first candidate does not say what the reference says. {_why_not(kept)}"
    if DENIES.fullmatch(_plain(lost)):
        return 'The second candidate should have lost "ne … pas" and say the opposite.'
    if "n'a" in _plain(lost).split() or "pas" in _plain(lost).split():
        return "The second candidate has lost one half of the negation only: drop both."
    if not AFFIRMS.fullmatch(_plain(lost)):
        return (
            "The second candidate should say the opposite of the reference and nothing else. "
            + _why_not(lost)
        )
    if _plain(kept) == _plain(REFERENCE):
        return "The first candidate is the reference itself; exchange words for synonyms."
    score_of_kept, score_of_lost = (bleu([text], [REFERENCE]).value for text in (kept, lost))
    if score_of_kept >= score_of_lost:
        return (
            f"BLEU still prefers the right one ({score_of_kept:.1f} to {score_of_lost:.1f}). "
            "A single exchanged word breaks up to four runs of four; "
            "exchange one in the middle, or two."
        )
    return None


# -- losses of ten lines ---------------------------------------------------------------------------


def _is_a_loss(value, student_logits) -> str | None:
    """What is wrong with a result, whatever its value: no number, or none that can teach."""
    if not torch.is_tensor(value):
        return (
            f"A loss is a tensor, not {type(value).__name__}: "
            "with .item() the gradient is lost, and the student cannot learn."
        )
    if value.numel() != 1:
        return f"One number is asked; yours has the shape {tuple(value.shape)}. Take the mean."
    if not value.requires_grad:
        return "No gradient reaches the student: is there a no_grad or a detach on the way?"
    (gradient,) = torch.autograd.grad(value.sum(), student_logits, allow_unused=True)
    if gradient is None or not gradient.abs().sum() > 0:
        return "No gradient reaches the student's logits."
    return None


@question("07.2")
def kd_on_targets(function):
    """T² · KL(teacher ‖ student) over a causal model's target tokens: shifted, a mean over them."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 7, 5, generator=draw) * 2 for _ in range(2))
    labels = torch.tensor([[-100, -100, -100, 1, 4, 0, -100], [-100, -100, 2, 3, 1, 0, 2]])
    T = 3.0
    # Position i predicts token i + 1, and the last position predicts nothing.
    targets = torch.zeros_like(labels, dtype=torch.bool)
    targets[:, :-1] = labels[:, 1:] != -100
    turned = torch.zeros_like(targets)
    turned[:, 1:] = labels[:, :-1] != -100
    first_row = torch.tensor([[True], [False]])

    def kd(of=student, to=teacher, where=targets, factor=1.0, divided=1.0):
        unused = torch.zeros(int(where.sum()), dtype=torch.long)
        logits = of[where] / divided, to[where]
        return factor * distillation_loss(*logits, unused, temperature=T).kd

    def cross_entropy():
        log_q, log_p = ((x[targets] / T).log_softmax(-1) for x in (student, teacher))
        return -(T**2) * (log_p.exp() * log_q).sum(-1).mean()

    changes = {
        "the labels are not shifted: position i predicts token i + 1": {"where": labels != -100},
        "the shift goes the wrong way: the logits lose their last position, the labels their first": {
            "where": turned
        },
        "every position counts, the prompt too": {"where": torch.ones_like(targets)},
        "T² is forgotten": {"factor": 1 / T**2},
        "T stands where T² belongs": {"factor": 1 / T},
        "T² is multiplied twice": {"factor": T**2},
        "the KL's arguments are swapped": {"of": teacher, "to": student},
        "the student is not softened": {"divided": 1 / T},
        'reduction="mean" divides by the vocabulary as well': {"factor": 1 / 5},
    }
    mean_of_rows = (kd(where=targets & first_row) + kd(where=targets & ~first_row)) / 2
    mistakes = variants(kd, changes) | {
        "rows are averaged first, so that a token of a short row weighs more": mean_of_rows,
        "the sum is not divided by the number of tokens": kd(factor=targets.sum()),
        "the sum is divided by the rows, not by the target tokens": kd(factor=targets.sum() / 2),
        "the sum is divided by all positions, not by the target tokens": kd(
            factor=targets.sum() / targets.numel()
        ),
        "it is the cross-entropy with the teacher: its entropy is not taken away": cross_entropy(),
    }
    student_logits = student.clone().requires_grad_()
    given = call(function, student_logits, teacher.clone(), labels.clone(), T)
    if wrong := _is_a_loss(given, student_logits):
        return wrong
    hint = (
        "In order: which positions count, both sides through log_softmax(logits / T), "
        "the sum over the vocabulary, the mean over tokens, T² once."
    )
    return number(given, kd(), mistakes, hint=hint)


def kept_of(log_p: torch.Tensor, k: int) -> TopK:
    """The k likeliest tokens of each row of log-probabilities (tokens, vocab), and the rest."""
    top = log_p.topk(k)
    others = log_p.scatter(-1, top.indices, float("-inf"))
    return TopK(top.indices, top.values, others.logsumexp(-1))


def _kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _mistakes_of_kept(log_q, kept: TopK) -> dict:
    """What comes out of the usual mistakes with (tokens, vocab) log-probabilities of a student."""
    others = log_q.scatter(-1, kept.ids, float("-inf"))
    q = torch.cat([log_q.gather(-1, kept.ids), others.logsumexp(-1, keepdim=True)], -1)
    p = torch.cat([kept.logprobs, kept.rest[:, None]], -1)
    among_kept = [x[:, :-1].log_softmax(-1) for x in (p, q)]
    count_of_others = log_q.shape[-1] - kept.ids.shape[-1]
    without_rest = (p.exp() * (p - q))[:, :-1].sum(-1)
    rest_alone = (p.exp() * (p - q))[:, -1]
    q_over_kept = torch.cat([among_kept[1], q[:, -1:]], -1)
    mean_rest = torch.cat([q[:, :-1], q[:, -1:] - torch.tensor(float(count_of_others)).log()], -1)
    p_misread = torch.cat([kept.logprobs, kept.rest.exp()[:, None]], -1)
    log_even = (kept.rest - torch.tensor(float(count_of_others)).log())[:, None]
    even = log_even.expand_as(log_q).scatter(-1, kept.ids, kept.logprobs)
    return {
        "the rest is left out: nobody notices how much the student gives to all other tokens": (
            without_rest.mean()
        ),
        "both sides are made to sum to 1 over the kept tokens, and the rest is gone": _kl(
            *among_kept
        ).mean(),
        "the student's kept tokens are made to sum to 1 alone: "
        "its softmax must run over the whole vocabulary": _kl(p, q_over_kept).mean(),
        "the student's kept tokens are made to sum to 1, and the rest is left out": (
            (p.exp() * (p - q_over_kept))[:, :-1].sum(-1).mean()
        ),
        "the KL's arguments are swapped": _kl(q, p).mean(),
        "the student's rest is the mean of the other tokens, not their sum": _kl(
            p, mean_rest
        ).mean(),
        "`rest` is taken for a probability: it is a logarithm, like `logprobs`": _kl(
            p_misread, q
        ).mean(),
        "the rest is spread evenly over the other tokens, which the teacher never said": _kl(
            even, log_q
        ).mean(),
        "the sum is not divided by the number of tokens": _kl(p, q).sum(),
        'reduction="mean" divides by the outcomes as well': _kl(p, q).mean() / p.shape[-1],
        "it is the cross-entropy with the teacher: its entropy is not taken away": (
            -(p.exp() * q).sum(-1).mean()
        ),
        "only the rest is compared": rest_alone.mean(),
    }


@question("07.3")
def kd_of_kept(function):
    """KL(teacher ‖ student) at T = 1 over k kept tokens and the rest, a mean over tokens."""
    draw = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(6, 12, generator=draw) * 2 for _ in range(2))
    kept = kept_of(teacher.log_softmax(-1), 3)
    student_logits = student.clone().requires_grad_()
    given = call(function, student_logits, TopK(*(part.clone() for part in kept)))
    if wrong := _is_a_loss(given, student_logits):
        return wrong
    log_q = student.log_softmax(-1)
    others = log_q.scatter(-1, kept.ids, float("-inf")).logsumexp(-1, keepdim=True)
    outcomes = torch.cat([log_q.gather(-1, kept.ids), others], -1)
    right = _kl(torch.cat([kept.logprobs, kept.rest[:, None]], -1), outcomes).mean()
    hint = (
        "Make k + 1 log-probabilities of the student, and see that their exponentials sum to 1. "
        "Do the same with the teacher's, then take the KL."
    )
    if wrong := number(given, right, _mistakes_of_kept(log_q, kept), hint=hint):
        return wrong
    # A student that is nearly sure of the kept tokens: their probabilities sum to 1 in float32.
    sure = student.scatter_add(-1, kept.ids, torch.full((6, 3), 60.0))
    if not torch.isfinite(call(function, sure.requires_grad_(), kept)):
        return (
            "The value is right, but for a student that is sure of the kept tokens it is not "
            "finite: log(1 - sum) is the logarithm of 0. Take the logsumexp of the *other* logits."
        )


# -- a student of a few seconds --------------------------------------------------------------------

BATCHES, ROWS, HELD_OUT, KEPT = 16, 8, 40, 8


@functools.lru_cache(maxsize=1)
def _lesson():
    """(student, batches, held-out batch, the teacher's log-probabilities there), of MiniParl."""
    from ... import causal, models, translation
    from ...engine.device import machine_device
    from ...paths import DATA

    device = machine_device()
    place = str(DATA / "teachers" / "miniparl")
    tokenizer = translation.tokenizer(place)
    teacher = models.add_end_token(models.load_causal(place), tokenizer).to(device)
    collate = translation.collator(tokenizer)

    def rows(split, count):
        pairs = translation.load(str(DATA / "miniparl"), split, rows=count, max_words=9).rows
        return translation.encode(pairs, tokenizer)[0].to_list()

    batches, train = [], rows("train", BATCHES * ROWS)
    for first in range(0, len(train), ROWS):
        batch = collate(train[first : first + ROWS])
        # a student's loop does not think of devices: it finds all where its model is
        batch = {name: part.to(device) for name, part in batch.items()}
        kept = kept_of(causal.target_logits(teacher, batch).log_softmax(-1), KEPT)
        # Where something is learnt, but not what: the teacher alone says that.
        batch["labels"] = batch["labels"].clamp(max=0)
        batches.append((batch, kept))
    held_out = dict(collate(rows("validation", HELD_OUT)))
    answers = causal.target_logits(teacher, held_out).log_softmax(-1)
    last = teacher.config.num_hidden_layers - 1
    return models.student_from_teacher(teacher, [0, last]), batches, held_out, answers


def _distance(student, held_out, answers) -> float:
    """KL(teacher ‖ student) in nats a token, on pairs that were not trained on."""
    from ... import causal

    return (
        _kl(answers, causal.target_logits(student.eval(), held_out).log_softmax(-1)).mean().item()
    )


@question("07.4")
def distilled(function):
    """A student that is trained on kept answers: its distance must fall by 40 %."""
    student, batches, held_out, answers = _lesson()
    before = _distance(student, held_out, answers)
    torch.manual_seed(0)
    beginner = copy.deepcopy(student)
    trained = call(function, beginner, copy.deepcopy(batches))
    if not isinstance(trained, torch.nn.Module):
        return f"Return the student, not {type(trained).__name__}."
    after = _distance(trained, held_out, answers)
    print(
        f"KL(teacher ‖ student) on {HELD_OUT} other pairs: {before:.2f} → {after:.2f} nats a token"
    )
    weights = zip(student.parameters(), trained.parameters(), strict=True)
    if all(torch.equal(old, new) for old, new in weights):
        return (
            "No weight has moved. The order is zero_grad, backward, step; "
            "and the loss must hang on the student's logits."
        )
    if after != after:
        return (
            "The weights are NaN: is there a logarithm of 0 in the loss, or a huge learning rate?"
        )
    if after > 1.05 * before:
        return (
            "The student is farther from its teacher than before. Are the logits those of the "
            "target positions (shifted by one)? Is a loss made small, and not large? The labels "
            "say only where something is learnt: 0 is no token to learn. Or is the rate too large?"
        )
    if after > 0.6 * before:
        return (
            "The student has moved towards its teacher, but not by 40 per cent. Try a learning "
            "rate ten times as large, or as small, and two passes over the batches. "
            "Is the gradient set to zero before each step?"
        )
    return None
