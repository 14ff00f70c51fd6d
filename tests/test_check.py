"""Exercise checks: the right answer passes, usual mistakes are named, nothing stops a notebook."""

import inspect
import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import cosine_similarity

import kdlib as kd
from kdlib import check, losses, results
from kdlib.course import broken_runs
from kdlib.course.check import nb03, nb07
from kdlib.course.check.nb07 import REFERENCE
from kdlib.paths import ROOT

# 00 to 04 have tests of their own.
MINE = sorted(number for number in check.QUESTIONS if number >= "05")


def verdict(capsys, number, given):
    right = check.answer(number, given)
    return right, capsys.readouterr().out


def judged(capsys, number, given, message):
    """The message is printed, and the answer counts as right only if that is the message."""
    right, printed = verdict(capsys, number, given)
    assert message in printed, printed
    assert right == (message == "right"), printed
    assert right or "expected" not in printed, "a hint keeps the value to itself"


def model_answer(number):
    """What `reveal` shows, run: the function or value of an exercise."""
    code, reason = check.ANSWERS[number].strip().split("\n\nWhy: ")
    assert len(reason) > 40
    names = {"kd": kd, "np": np, "torch": torch, "results": results}
    exec(code, names)
    return names[re.search(r"^(?:def )?(\w+)", code).group(1)]


# -- answers on request ----------------------------------------------------------------------------


def test_every_exercise_has_a_model_answer():
    assert set(check.QUESTIONS) == set(check.ANSWERS) - {"10.quiz"}


@pytest.mark.parametrize("number", MINE)
def test_the_model_answer_is_right(capsys, number):
    assert verdict(capsys, number, model_answer(number))[0]


@pytest.mark.parametrize("number", MINE)
def test_the_solutions_show_the_model_answer(number):
    """Two answers to one exercise would drift apart. 07.4 calls the loss of 07.3 instead."""
    (path,) = (ROOT / "notebooks" / "solutions").glob(f"{number[:2]}_*.ipynb")
    cells = json.loads(path.read_text("utf8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (shown,) = [source for source in sources if f'kd.check.answer("{number}"' in source]
    code = check.ANSWERS[number].strip().split("\n\nWhy: ")[0]
    if number == "07.4":
        code = code.split("    optimizer = ")[1].replace("soft_loss(", "kd_of_kept(")
    assert code in shown


def test_reveal(capsys):
    check.reveal("05.1")
    printed = capsys.readouterr().out
    assert "f1 / 2" in printed and "Why:" in printed
    check.reveal("10.quiz")
    assert len(re.findall(r"^\d+\. ", capsys.readouterr().out, re.M)) == 10
    check.reveal("99.9")
    assert "there is no exercise" in capsys.readouterr().out


def test_a_wrong_answer_says_how_to_see_one(capsys):
    assert 'kd.check.reveal("05.1")' in verdict(capsys, "05.1", lambda p: (0, 0, 0))[1]


@pytest.mark.parametrize("number", MINE)
def test_an_answer_of_another_kind_is_wrong_in_one_sentence(capsys, number):
    for strange in (0.123, "yes", [], lambda *given: "yes", lambda *given: [], lambda *given: -7.0):
        right, printed = verdict(capsys, number, strange)
        assert not right and "not yet" in printed and "expected" not in printed


def test_an_empty_answer_and_one_that_raises(capsys):
    for empty in (None, ..., lambda *a: None):
        assert verdict(capsys, "05.1", empty) == (False, "05.1: not answered yet\n")
    right, printed = verdict(capsys, "05.1", lambda p: 1 / 0)
    assert not right and "ZeroDivisionError" in printed
    assert "there is no exercise" in verdict(capsys, "99.9", 1)[1]


# -- 03 --------------------------------------------------------------------------------------------


def solution(number, signature, *changed):
    """The model answer of nb03 as a function, with one part of its source changed."""
    source = nb03.ANSWERS[number].strip().split("\n\n")[0]
    if changed:
        assert changed[0] in source
        source = source.replace(*changed)
    names = {"torch": torch, "F": torch.nn.functional}
    names["logits_of"] = lambda model, batch: model(batch["input_ids"]).logits
    lines = "\n".join("    " + line for line in source.splitlines())
    exec(f"def answer({signature}):\n{lines}", names)
    return names["answer"]


SIGNATURES = {
    "03.1": "student, teacher, labels, temperature, alpha",
    "03.2": "student, teacher, loader, loss_of, epochs, learning_rate",
    "03.3": "alpha, T",
    "03.4": "student, inputs, teacher_logits, labels, loss_of, size",
}


@pytest.mark.parametrize(
    "number, changed, message",
    [
        ("03.1", ("temperature**2 *", ""), "T² is forgotten"),
        ("03.1", ("temperature**2", "temperature"), "T stands where"),
        ("03.1", ("(log_q, log_p", "(log_p, log_q"), "arguments are swapped"),
        ("03.1", ('"batchmean"', '"sum"'), "soft loss is summed"),
        ("03.1", ("alpha * soft + (1 - alpha) * hard", "alpha * soft"), "hard loss is missing"),
        ("03.1", ("soft + (1 - alpha) * hard", "hard + (1 - alpha) * soft"), "alpha weights"),
        ("03.1", ("teacher / temperature", "teacher"), "teacher is not softened"),
        ("03.1", ('"batchmean"', '"none"'), "one number"),
        ("03.1", ("return alpha", "return 3.7 * alpha"), "by hand"),
        (
            "03.1",
            ("return alpha", "soft, hard = soft.item(), hard.item(); return alpha"),
            "gradient",
        ),
        ("03.2", ("teacher.eval()", "teacher.train()"), "dropout on"),
        ("03.2", ("student.train()", ""), "needs train()"),
        ("03.2", ("torch.no_grad()", "torch.enable_grad()"), "no_grad()"),
        ("03.2", ("optimizer.zero_grad()", ""), "add up"),
        ("03.2", ("optimizer.step()", ""), "No weight"),
        ("03.2", ("AdamW", "SGD"), "SGD"),
        ("03.2", (", lr=learning_rate", ""), "default"),
        ("03.2", ("lr=learning_rate", "lr=2 * learning_rate"), "other weights"),
        ("03.2", ("range(epochs)", "range(1)"), "3 losses came back for 2 epochs of 3"),
        ("03.2", ("return losses", ""), "returns nothing"),
        ("03.2", ("append(loss.item())", "append(loss)"), "graph"),
        ("03.2", ("append(loss.item())", "append(0.0)"), "the loss of each step"),
        ("03.3", ("T**2", "T"), "T stands where"),
        ("03.3", ("T**2", "T**-2"), "turned round"),
        ("03.3", ("alpha * T**2 / (", "16 / 17 + 0 * ("), "T = 4 is solved"),
        ("03.3", ("alpha * T**2 /", "2 * T**2 *"), "above 1"),
        ("03.3", ("T**2", "T**3"), "Measure it"),
        ("03.4", ("share * loss", "loss"), "nobody divides"),
        ("03.4", ("/ valid", "/ len(labels)"), "padded rows count"),
        ("03.4", ("share * loss", "loss / 4"), "number of pieces"),
        ("03.4", ("/ valid", "/ 3"), "Which number divides"),
        ("03.4", ("(share", "student.zero_grad(); (share"), "last piece"),
        ("03.4", ("valid = (labels", "size = len(labels); valid = (labels"), "at once"),
    ],
)
def test_03_names_the_mistake_and_never_the_answer(capsys, number, changed, message):
    given = solution(number, SIGNATURES[number], *changed)
    right, printed = verdict(capsys, number, given)
    assert not right and message in printed and "expected" not in printed


@pytest.mark.parametrize("number", SIGNATURES)
def test_03_model_answers_are_right_and_blanks_are_not_answered(capsys, number):
    assert verdict(capsys, number, solution(number, SIGNATURES[number]))[0]
    blank = solution(
        number, SIGNATURES[number], nb03.ANSWERS[number].strip().split("\n\n")[0], "..."
    )
    assert verdict(capsys, number, blank)[1] == f"{number}: not answered yet\n"


# -- 05 --------------------------------------------------------------------------------------------


def lazy(p):
    return p, p / (1 + p), 2 * p / (1 + p)


@pytest.mark.parametrize(
    "given, message",
    [
        (lazy, "right"),
        (lambda p: lazy(1 - p), "classes are swapped"),
        (lambda p: (p, *lazy(p)[:0:-1]), "one class alone is counted"),
        (lambda p: (p, p / (1 + p), p / (1 + p)), "mean over both classes"),
        (lambda p: tuple(100 * x for x in lazy(p)), "percentages"),
        (lambda p: p, "Three numbers"),
        (lambda p: (1 - p, *lazy(p)[1:]), "answers that are wrong"),
        (lambda p: (p, p, lazy(p)[2]), "accuracy is taken for the F1"),
        (lambda p: (p, lazy(p)[1], 1), "recall is taken"),
        (lambda p: (p, lazy(p)[1], (1 + p) / 2), "harmonic"),
        (lambda p: (0.3682, 0.2691, 0.5382), "For a share of 0.2"),
    ],
)
def test_05_1(capsys, given, message):
    judged(capsys, "05.1", given, message)


def fitted(logits, labels, loss=None, grid=np.geomspace(0.02, 30, 1500)):
    """A fine grid search, which needs no gradient."""

    def ce(z):
        z = z - z.max(1, keepdims=True)
        log_probabilities = z - np.log(np.exp(z).sum(1, keepdims=True))
        return -log_probabilities[np.arange(len(labels)), labels].mean()

    return min(grid, key=lambda t: (loss or ce)(logits / t))


def brier(labels):
    def loss(z):
        p = probabilities(z)
        return ((p - np.eye(z.shape[1])[labels]) ** 2).mean()

    return loss


def probabilities(z):
    weights = np.exp(z - z.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    "given, message",
    [
        (fitted, "right"),
        (lambda z, y: 1 / fitted(z, y), "multiplied by T"),
        (lambda z, y: fitted(z, z.argmax(1)), "runs towards 0"),
        (lambda z, y: 0.02, "runs towards 0"),
        (lambda z, y: 30.0, "by being modest"),
        (lambda z, y: 1.0, "nothing is fitted"),
        (lambda z, y: np.log(fitted(z, y)), "log T is returned"),
        (lambda z, y: fitted(z, y, brier(y)), "squared error"),
        (lambda z, y: fitted(probabilities(z), y), "belongs under the logits"),
        (lambda z, y: fitted(z, y) ** 2, "T is squared"),
        (lambda z, y: fitted(z, y, grid=[1, 2, 4, 8]), "no usual mistake gives it"),
        (lambda z, y: 2.0, "too small"),
        (lambda z, y: float("nan"), "nan"),
    ],
)
def test_05_2(capsys, given, message):
    judged(capsys, "05.2", given, message)


def means(runs, methods=("kd",)):
    return runs[runs["method"].isin(methods)].groupby("alpha")["accuracy"].mean()


def as_soft(alpha, convention):
    return alpha if convention == "soft" else 1 - alpha


def single_best(runs):
    distilled = runs[runs["method"] == "kd"]
    return distilled.loc[distilled["accuracy"].idxmax(), "alpha"]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda runs, how: as_soft(means(runs).idxmax(), how), "right"),
        (lambda runs, how: means(runs).idxmax(), "not heeded"),
        (lambda runs, how: 1 - as_soft(means(runs).idxmax(), how), "turned round"),
        (lambda runs, how: as_soft(single_best(runs), how), "single best run"),
        (lambda runs, how: as_soft(means(runs).idxmin(), how), "*worst*"),
        (lambda runs, how: means(runs).max(), "not its alpha"),
        (lambda runs, how: as_soft(means(runs, set(runs["method"])).idxmax(), how), "controls"),
        (
            lambda runs, how: as_soft(means(results.over_alpha(runs), ("kd", "ce")).idxmax(), how),
            "labels alone",
        ),
        (lambda runs, how: 0.33, "Three steps"),
    ],
)
def test_05_3(capsys, given, message):
    judged(capsys, "05.3", given, message)


# -- 06 --------------------------------------------------------------------------------------------


def masked(ids, header, shift=0, last=True, n=None):
    starts = [i + 3 for i in range(len(ids)) if ids[i : i + 3] == header]
    first = starts[-1 if last else 0] + shift
    return [-100] * first + ids[first:n] + [-100] * (0 if n is None else -n)


def masked_the_wrong_way_round(ids, header):
    return [a if b == -100 else -100 for a, b in zip(ids, masked(ids, header))]


@pytest.mark.parametrize(
    "given, message",
    [
        (masked, "right"),
        (lambda i, h: masked(i, h, last=False), "first header"),
        (lambda i, h: masked(i, h, -1), "last token is learnt too"),
        (lambda i, h: masked(i, h, -3), "header is learnt too"),
        (lambda i, h: masked(i, h, 1), "first token is masked"),
        (lambda i, h: masked(i, h)[1:] + [-100], "shifted by hand"),
        (lambda i, h: masked(i, h, n=-1), "does not end"),
        (lambda i, h: masked(i, h, n=-2), "both end tokens"),
        (lambda i, h: i, "nothing is masked"),
        (lambda i, h: masked(i, h)[1:], "as long as"),
        (lambda i, h: [0] * len(i), "first wrong label"),
        (masked_the_wrong_way_round, "turned round"),
    ],
)
def test_06_1(capsys, given, message):
    judged(capsys, "06.1", given, message)


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda a, t: 1 - a + a * t, "right"),
        (lambda a, t: a + (1 - a) * t, "weight of the labels"),
        (lambda a, t: t**a, "logarithms"),
        (lambda a, t: 1 - a, "share is left out"),
        (lambda a, t: t, "label is not heard"),
        (lambda a, t: 1, "teacher is not heard"),
        (lambda a, t: (1 + t) / 2, "count alike"),
        (lambda a, t: 0.123, "too small"),
        (lambda a, t: 1 - a + a * t + 0.05, "Which mean"),
    ],
)
def test_06_2(capsys, given, message):
    judged(capsys, "06.2", given, message)


def shortened(ids, labels, longest, stop):
    over = max(0, len(ids) - longest)
    return ids[: stop - over] + ids[stop:], labels[: stop - over] + labels[stop:]


@pytest.mark.parametrize(
    "given, message",
    [
        (shortened, "right"),
        (lambda ids, labels, n, s: (ids[:n], labels[:n]), "end is cut off"),
        (lambda ids, labels, n, s: (ids[-n:], labels[-n:]), "beginning is cut off"),
        (lambda ids, labels, n, s: shortened(ids, labels, n, s + 1), "closes the user's turn"),
        (
            lambda ids, labels, n, s: (shortened(ids, labels, n, s)[0], labels),
            "as long as they were",
        ),
        (
            lambda ids, labels, n, s: (shortened(ids, labels, n, s)[0], labels[:n]),
            "from both lists",
        ),
        (lambda ids, labels, n, s: (ids, labels), "nothing is cut"),
        (lambda ids, labels, n, s: ids, "Two lists"),
        (lambda ids, labels, n, s: ([], []), "from both lists"),
        (lambda ids, labels, n, s: shortened(ids, labels, n + 1, s), "from both lists"),
    ],
)
def test_06_3(capsys, given, message):
    judged(capsys, "06.3", given, message)


# -- 07 --------------------------------------------------------------------------------------------

LOST = "La Commission a approuvé le rapport sur la pêche."
KEPT = "La Commission n'a pas validé le document sur la pêche."
ONE_WORD_EXCHANGED = "La Commission n'a pas validé le rapport sur la pêche."


@pytest.mark.parametrize(
    "given, message",
    [
        ((KEPT, LOST), "right"),
        ((ONE_WORD_EXCHANGED, LOST), "still prefers the right one"),
        ((LOST, LOST), "must still say that the Commission did not"),
        ((REFERENCE, LOST), "the reference itself"),
        ((KEPT, REFERENCE), "should have lost"),
        (7, "A pair of sentences"),
        (("Les chats n'aiment pas le bruit.", LOST), "'les' is neither"),
        (("La Commission n'a pas mangé le rapport sur la pêche.", LOST), "'mangé' is neither"),
        (("La Commission n'a pas validé la pêche sur le document.", LOST), "order"),
        (("La Commission ne pas validé le document sur la pêche.", LOST), "'ne' is neither"),
        ((KEPT, "La Commission n'a approuvé le rapport sur la pêche."), "one half"),
        ((KEPT, "La Commission a refusé le rapport sur la pêche."), "'refusé' is neither"),
        ((KEPT, "Oui."), "'oui' is neither"),
        ((LOST, KEPT), "wrong order"),
        ((KEPT.replace("'", "’"), LOST), "right"),
    ],
)
def test_07_1(capsys, given, message):
    judged(capsys, "07.1", given, message)


def kd_on_targets(student, teacher, labels, T, shift=1, factor=None, swap=False, how="mean"):
    keep = labels != -100
    if shift == 1:
        keep, student, teacher = keep[:, 1:], student[:, :-1], teacher[:, :-1]
    if shift == -1:
        keep, student, teacher = keep[:, :-1], student[:, 1:], teacher[:, 1:]
    if shift is None:
        keep = torch.ones_like(keep)
    if swap:
        student, teacher = teacher, student
    s, t = (torch.log_softmax(logits[keep] / T, -1) for logits in (student, teacher))
    if how == "entropy":
        per_token = -(t.exp() * s).sum(-1)
    else:
        per_token = (t.exp() * (t - s)).sum(-1)
    divided = {
        "mean": len(per_token),
        "sum": 1,
        "rows": 2,
        "all": labels.numel(),
        "entropy": len(per_token),
    }
    return per_token.sum() / divided[how] * (T * T if factor is None else factor)


@pytest.mark.parametrize(
    "mistake, message",
    [
        ({}, "right"),
        ({"shift": 0}, "not shifted"),
        ({"shift": -1}, "wrong way"),
        ({"shift": None}, "every position counts"),
        ({"factor": 1.0}, "T² is forgotten"),
        ({"factor": 3.0}, "T stands where"),
        ({"factor": 81.0}, "multiplied twice"),
        ({"factor": 9 / 5}, "divides by the vocabulary"),
        ({"swap": True}, "arguments are swapped"),
        ({"how": "sum"}, "not divided by the number of tokens"),
        ({"how": "rows"}, "divided by the rows"),
        ({"how": "all"}, "divided by all positions"),
        ({"how": "entropy"}, "entropy is not taken away"),
        ({"factor": 5.0}, "In order"),
    ],
)
def test_07_2(capsys, mistake, message):
    judged(capsys, "07.2", lambda *given: kd_on_targets(*given, **mistake), message)


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda *given: kd_on_targets(*given).item(), "A loss is a tensor"),
        (lambda *given: kd_on_targets(*given).detach(), "No gradient"),
        (lambda *given: kd_on_targets(*given) * torch.ones(2), "Take the mean"),
        (lambda s, t, y, T: kd_on_targets(s.detach(), t, y, T) + 0 * s.sum(), "No gradient"),
    ],
)
def test_07_2_must_teach(capsys, given, message):
    judged(capsys, "07.2", given, message)


def kept_kd(
    logits, kept, sure=False, swap=False, student_over="all", teacher_rest=True, how="mean"
):
    log_q = logits.log_softmax(-1)
    q = log_q.gather(-1, kept.ids)
    others = log_q.scatter(-1, kept.ids, float("-inf")).logsumexp(-1, keepdim=True)
    if sure:
        others = (1 - q.exp().sum(-1, keepdim=True)).log()
    if student_over == "kept":
        q = q.log_softmax(-1)
    if student_over == "mean of others":
        others = others - np.log(logits.shape[-1] - kept.ids.shape[-1])
    rest = kept.rest[:, None]
    s, t = torch.cat([q, others], -1), torch.cat([kept.logprobs, rest], -1)
    if not teacher_rest:
        s, t = s[:, :-1], t[:, :-1]
    if swap:
        s, t = t, s
    each = -t.exp() * s if how == "entropy" else t.exp() * (t - s)
    by_token = each.mean(-1) if how == "outcomes" else each.sum(-1)
    return by_token.sum() if how == "sum" else by_token.mean()


def renormalised(logits, kept):
    s = logits.gather(-1, kept.ids).log_softmax(-1)
    return F.kl_div(s, kept.logprobs.softmax(-1), reduction="batchmean")


def rest_as_probability(logits, kept):
    return kept_kd(logits, losses.TopK(kept.ids, kept.logprobs, kept.rest.exp()))


@pytest.mark.parametrize(
    "given, message",
    [
        (kept_kd, "right"),
        (lambda s, k: losses.topk_distillation_loss(
            s, k, torch.zeros(len(s), dtype=torch.long), temperature=1.0).kd, "right"),
        (lambda s, k: kept_kd(s, k, sure=True), "not finite"),
        (lambda s, k: kept_kd(s, k, teacher_rest=False), "the rest is left out"),
        (renormalised, "the rest is gone"),
        (lambda s, k: kept_kd(s, k, student_over="kept"), "whole vocabulary"),
        (
            lambda s, k: kept_kd(s, k, student_over="kept", teacher_rest=False),
            "and the rest is left out",
        ),
        (lambda s, k: kept_kd(s, k, student_over="mean of others"), "not their sum"),
        (lambda s, k: kept_kd(s, k, swap=True), "swapped"),
        (lambda s, k: kept_kd(s, k, how="sum"), "number of tokens"),
        (lambda s, k: kept_kd(s, k, how="outcomes"), "divides by the outcomes"),
        (lambda s, k: kept_kd(s, k, how="entropy"), "entropy is not taken away"),
        (rest_as_probability, "it is a logarithm"),
        (lambda s, k: kept_kd(s, k).item(), "A loss is a tensor"),
        (lambda s, k: F.cross_entropy(s, k.ids[:, 0]), "k + 1 log-probabilities"),
    ],
)  # fmt: skip
def test_07_3(capsys, given, message):
    judged(capsys, "07.3", given, message)


def distil(student, batches, rate=1e-3, shift=True, sign=1, labels=False, zero=True, step=True):
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate)
    for batch, kept in batches:
        keep = batch["labels"][:, 1:] != -100
        logits = student(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = logits[:, :-1][keep] if shift else logits[:, 1:][keep]
        loss = sign * kept_kd(logits, kept)
        if labels:
            loss = F.cross_entropy(logits, batch["labels"][:, 1:][keep])
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if step:
            optimizer.step()
    return student


@pytest.fixture
def short_lesson(monkeypatch):
    """Fewer batches, which are enough for what does not arrive."""
    student, batches, held_out, answers = nb07._lesson()
    monkeypatch.setattr(nb07, "_lesson", lambda: (student, batches[:4], held_out, answers))


@pytest.mark.parametrize(
    "how, message",
    [
        ({"step": False}, "No weight has moved"),
        ({"rate": 1e-6}, "not by 40 per cent"),
        ({"sign": -1}, "farther"),
        ({"labels": True}, "0 is no token to learn"),
        ({"shift": False}, "farther"),
        ({"rate": 3.0}, "farther"),
    ],
)
def test_07_4(capsys, short_lesson, how, message):
    judged(capsys, "07.4", lambda *given: distil(*given, **how), message)


def test_07_4_wants_the_student(capsys, short_lesson):
    judged(capsys, "07.4", lambda student, batches: 0.5, "Return the student")
    judged(capsys, "07.4", lambda student, batches: student, "No weight has moved")


# -- 08 --------------------------------------------------------------------------------------------


def rounded(
    weight,
    bits,
    group,
    largest=None,
    rounding=torch.round,
    whole=False,
    down=False,
    back=True,
    signed=False,
):
    parts = (weight.T if down else weight).reshape(-1, weight.numel() if whole else group)
    top = largest(bits) if largest else 2 ** (bits - 1) - 1
    if signed:
        step = parts.amax(1, keepdim=True).clamp(min=1e-6) / top
    else:
        step = parts.abs().amax(1, keepdim=True) / top
    result = rounding(parts / step).clamp(-top, top) * (step if back else 1)
    return result.reshape(weight.shape[::-1]).T if down else result.reshape(weight.shape)


@pytest.mark.parametrize(
    "how, message",
    [
        ({}, "right"),
        ({"whole": True}, "whole matrix shares one scale"),
        ({"largest": lambda b: 2**b - 1}, "a bit too many"),
        ({"largest": lambda b: 2 ** (b - 1)}, "one value too many"),
        ({"rounding": np.floor}, "floor"),
        ({"rounding": np.trunc}, "trunc"),
        ({"signed": True}, "large negative ones are clipped"),
        ({"back": False}, "whole numbers are returned"),
    ],
)
def test_08_1(capsys, how, message):
    answer = lambda *given: rounded(*given, **how)
    assert message in verdict(capsys, "08.1", answer)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda w, b, g: rounded(w, b, w.shape[1]), "a row shares one scale"),
        (lambda w, b, g: rounded(w, b, 2, down=True), "down the columns"),
        (lambda w, b, g: rounded(w, b, g).flatten(), "shape (2, 8)"),
        (lambda w, b, g: w, "your first row is"),
    ],
)
def test_08_1_groups(capsys, given, message):
    assert message in verdict(capsys, "08.1", given)[1]


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda n, o, b, g: (n * (b + 16 / g) + 16 * o) / 8e6, "right"),
        (lambda n, o, b, g: (n * b + 16 * o) / 8e6, "scales are forgotten"),
        (lambda n, o, b, g: (n * (b + 16) + 16 * o) / 8e6, "scale of its own"),
        (lambda n, o, b, g: (n + o) * (b + 16 / g) / 8e6, "packed, too"),
        (lambda n, o, b, g: (n * (b + 16 / g) + 16 * o) / 1e6, "bits are taken for bytes"),
        (lambda n, o, b, g: (n * (b + 16 / g) + 32 * o) / 8e6, "32 bits"),
    ],
)
def test_08_2(capsys, given, message):
    judged(capsys, "08.2", given, message)


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda h, r, n, u: min(1, (h - u) * 3600 * r / n), "right"),
        (lambda h, r, n, u: min(1, h * 3600 * r / n), "given to training"),
        (lambda h, r, n, u: (h - u) * 3600 * r / n, "after one pass"),
        (lambda h, r, n, u: min(1, (h - u) * 60 * r / n), "minutes"),
        (lambda h, r, n, u: 100 * min(1, (h - u) * 3600 * r / n), "per cent"),
    ],
)
def test_08_3(capsys, given, message):
    judged(capsys, "08.3", given, message)


# -- 09 --------------------------------------------------------------------------------------------


def both_ways(student, teacher, divergence, T=1.0, rate=0.05, steps=400, part="kd"):
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    label = torch.tensor([0])
    for _ in range(steps):
        loss = kd.distillation_loss(student(), teacher, label, temperature=T, divergence=divergence)
        optimizer.zero_grad()
        getattr(loss, part).backward()
        optimizer.step()
    return student


OTHER = {"forward_kl": "reverse_kl", "reverse_kl": "forward_kl"}


@pytest.mark.parametrize(
    "given, message",
    [
        (both_ways, "right"),
        (lambda s, t, d: s, "No parameter has moved"),
        (lambda s, t, d: both_ways(s, t, "forward_kl"), "Both students are the same"),
        (lambda s, t, d: both_ways(s, t, OTHER[d]), "are exchanged"),
        (lambda s, t, d: both_ways(s, t, d, T=2.0), "default of 2"),
        (lambda s, t, d: both_ways(s, t, d, part="total"), "with its labels"),
        (lambda s, t, d: both_ways(s, t, d, steps=5), "More steps"),
        (lambda s, t, d: both_ways(s, t * float("nan"), d, steps=2), "NaN"),
        (lambda s, t, d: both_ways(s, t, d)(), "Return the student"),
    ],
)
def test_09_1(capsys, given, message):
    judged(capsys, "09.1", given, message)


def distance(student, teacher):
    return 1 - cosine_similarity(student, teacher, dim=-1)


def mean_of_rows(by_token, mask):
    return ((by_token * mask).sum(1) / mask.sum(1)).mean()


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda s, t, m: mean_of_rows(distance(s, t), m), "right"),
        (lambda s, t, m: distance(s, t).mean(), "padding counts"),
        (lambda s, t, m: (distance(s, t) * m).mean(), "set to 0"),
        (lambda s, t, m: distance(s, t)[m.bool()].mean(), "all tokens"),
        (lambda s, t, m: mean_of_rows(cosine_similarity(s, t, dim=-1), m), "cosine itself"),
        (lambda s, t, m: mean_of_rows(1 - (s * t).sum(-1), m), "divided by the lengths"),
        (lambda s, t, m: (distance(s, t) * m).sum(1).mean(), "summed, not averaged"),
        (lambda s, t, m: torch.tensor(9.0), "too large"),
    ],
)
def test_09_2(capsys, given, message):
    judged(capsys, "09.2", given, message)


def speak(
    model, prompt, end, longest, greedy=False, *, at=-1, new=True, keep_end=True, stop=True, T=1.0,
    append=True, limit=0, twice=False, draw=True,
):  # fmt: skip
    ids, said = list(prompt), []
    while len(said) < longest + limit:
        logits = model(torch.tensor([ids])).logits[0, at] / T
        p = logits.softmax(-1)
        p = p.softmax(-1) if twice else p
        token = torch.multinomial(p, 1).item() if draw and not greedy else p.argmax().item()
        if token == end and not keep_end:
            break
        said.append(token)
        if append:
            ids.append(token)
        if token == end and stop:
            break
    return said if new else list(prompt) + said


@pytest.mark.parametrize(
    "how, message",
    [
        ({}, "right"),
        ({"new": False}, "only the new tokens"),
        ({"keep_end": False}, "end token is missing"),
        ({"stop": False}, "should stop"),
        ({"limit": 1}, "should stop"),
        ({"limit": -1}, "too early"),
        ({"append": False}, "same token comes again"),
        ({"at": 0}, "*first* position"),
        ({"draw": False}, "Every draw is the same"),
        ({"twice": True}, "softmax is taken twice"),
        ({"T": 2.0}, "divided by 2"),
        ({"T": 0.5}, "multiplied by 2"),
        ({"T": 1e6}, "drawn alike"),
        ({"T": -1.0}, "likeliest token"),
    ],
)
def test_09_3(capsys, how, message):
    judged(capsys, "09.3", lambda *given: speak(*given, **how), message)


def changes_the_prompt(model, prompt, end, longest, greedy):
    prompt.append(1)
    return prompt


@pytest.mark.parametrize(
    "given, message",
    [
        (changes_the_prompt, "list(prompt)"),
        (lambda *given: torch.tensor(speak(*given)), ".item()"),
        (lambda *given: speak(*given[:4], True), "Every draw is the same"),
        (lambda *given: speak(*given[:4], False), "likeliest token"),
    ],
)
def test_09_3_other_mistakes(capsys, given, message):
    judged(capsys, "09.3", given, message)


# -- 10 --------------------------------------------------------------------------------------------


def four_words(values, above, low=lambda f: f.low, high=lambda f: f.high, least=2):
    interval = results.interval(values)
    if interval.n < least:
        return "not tested here"
    if low(interval) > above:
        return "supported"
    return "refuted" if high(interval) < above else "undecided"


def mean_of(interval):
    return interval.mean


@pytest.mark.parametrize(
    "given, message",
    [
        (four_words, "right"),
        (lambda v, a: four_words(v, a, mean_of, mean_of), "mean alone"),
        (lambda v, a: four_words(v, a, lambda f: max(f.low, -f.high)), "whatever direction"),
        (lambda v, a: four_words(v, a).replace("undecided", "refuted"), "cannot tell"),
        (lambda v, a: four_words(v, a).replace("refuted", "undecided"), "do tell"),
        (lambda v, a: four_words(v, a, least=3), "two seeds count as none"),
        (lambda v, a: four_words(v, a, least=1), "one seed counts"),
        (lambda v, a: four_words(v, 0), "own threshold"),
        (lambda v, a: "supported", "your word is"),
    ],
)
def test_10_1(capsys, given, message):
    judged(capsys, "10.1", given, message)


def shown_better(runs, control, metric, side=lambda d: d.high < 0):
    methods = sorted(set(runs["method"]) - {control})
    differences = {m: results.paired(runs, m, control, metric) for m in methods}
    return [m for m, difference in differences.items() if difference and side(difference)]


def shown_if(side):
    return lambda runs, control, metric: shown_better(runs, control, metric, side)


def by_place(runs, control, metric):
    """Pairs the rows as they come, and not by seed."""
    parts = {name: part[metric].tolist() for name, part in runs.groupby("method", sort=False)}
    against, better = parts.pop(control), []
    for name, values in parts.items():
        found = results.interval([a - b for a, b in zip(values, against)])
        better += [name] * (found.high < 0)
    return better or ["nothing"]


@pytest.mark.parametrize(
    "given, message",
    [
        (shown_better, "right"),
        (shown_if(lambda d: d.mean < 0), "smaller mean"),
        (shown_if(lambda d: d.verdict == "excludes 0"), "wrong side"),
        (shown_if(lambda d: d.low > 0), "more is taken"),
        (lambda r, c, m: [], "not paired"),
        (lambda r, c, m: ["once", "steady"], "one seed"),
        (lambda r, c, m: ["control", "steady"], "The control is in your list"),
        (lambda r, c, m: ["moody"], "paired intervals"),
        (by_place, "paired intervals"),
    ],
)
def test_10_2(capsys, given, message):
    judged(capsys, "10.2", given, message)


def inside(run, references, width=2.0, ddof=1, root=False):
    sd = np.std(references, ddof=ddof) / (len(references) ** 0.5 if root else 1)
    return abs(run - np.mean(references)) <= width * sd


@pytest.mark.parametrize(
    "given, message",
    [
        (inside, "right"),
        (lambda x, r: inside(x, r, root=True), "spread of the *mean*"),
        (lambda x, r: inside(x, r, ddof=0), "not by n"),
        (lambda x, r: inside(x, r, 1.0), "one sd"),
        (lambda x, r: min(r) <= x <= max(r), "smallest and the largest"),
        (lambda x, r: x - np.mean(r) <= 2 * np.std(r, ddof=1), "below the mean"),
        (lambda x, r: False, "your answer is"),
        (lambda x, r: True, "your answer is"),
    ],
)
def test_10_3(capsys, given, message):
    judged(capsys, "10.3", given, message)


def test_10_4(capsys):
    right = dict(broken_runs.MISTAKES)
    judged(capsys, "10.4", right, "right")
    for run in right:
        other = next(name for name in right if name != run)
        swapped = right | {run: right[other], other: right[run]}
        judged(capsys, "10.4", swapped, "3 of 5")
        same = right | {run: right[other]}
        judged(capsys, "10.4", same, "Each mistake stands once")
    judged(capsys, "10.4", right | {"A": "bad luck"}, "none of the five")
    judged(capsys, "10.4", {"A": "T² forgotten"}, "as keys")
    judged(capsys, "10.4", [*right.values()], "as keys")


def test_the_stored_runs_show_what_the_clues_say():
    stored = broken_runs.shown()
    curves = stored["curves"].set_index(["run", "epoch"])
    last = curves.index.get_level_values("epoch").max()
    first, end = (curves.xs(epoch, level="epoch") for epoch in (0, last))
    assert end["accuracy"].idxmin() == "A" and end.loc["A", "accuracy"] < 1 / 3
    moved = (first["kl_to_teacher"] - end["kl_to_teacher"]).drop("A")
    assert moved.idxmin() == "B" and moved["B"] > 0
    assert set(end.index[end["hard_loss"] > np.log(3)]) == {"A", "C"}
    sound = first.loc["sound", "soft_loss"]
    T = broken_runs.settings()["temperature"]
    assert first.loc["E", "soft_loss"] == pytest.approx(sound / T**2, rel=1e-3)
    rows = stored["rows"]
    changed = rows[rows["teacher, first epoch"] != rows["teacher, last epoch"]]
    assert set(changed["run"]) == {"D"}
    label = rows["label in training"] == rows.groupby("row")["label in training"].transform("first")
    assert set(rows.loc[~label, "run"]) == {"C"}


def test_a_mistake_is_one_line_of_the_training():
    """Each name is used where the training goes wrong, so a renamed mistake would be noticed."""
    source = inspect.getsource(broken_runs.train)
    assert all(f'"{mistake}"' in source for mistake in broken_runs.MISTAKES.values())
