"""Notebook 09: beyond logits."""

import collections
import functools
import types

import torch
from torch.nn.functional import cosine_similarity

from .common import call, number, question

ANSWERS = {
    "09.1": """
def distil(student, teacher_logits, divergence):
    optimizer = torch.optim.Adam(student.parameters(), lr=0.05)
    label = torch.tensor([0])  # unused: alpha is not asked for, only the soft loss
    for step in range(500):
        loss = kd.distillation_loss(
            student(), teacher_logits, label, temperature=1.0, divergence=divergence
        ).kd
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student

Why: forward KL averages over what the teacher says, so the bell must cover both peaks and the
valley with them. Reverse KL averages over what the student says, so it sits on one peak and
nothing is lost by never saying the other. Which peak it takes depends on where it starts.
""",
    "09.2": """
def cosine_loss(student, teacher, mask):
    distance = 1 - torch.nn.functional.cosine_similarity(student, teacher, dim=-1)
    return ((distance * mask).sum(1) / mask.sum(1)).mean()

Why: padding holds vectors, too, and nobody means them. The mean by rows keeps a long row from
outvoting a short one.
""",
    "09.3": """
def speak(model, prompt, end, longest, greedy=False):
    ids = list(prompt)
    while len(ids) < len(prompt) + longest:
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=model.device)).logits[0, -1]
        if greedy:
            token = logits.argmax().item()
        else:
            token = torch.multinomial(logits.softmax(-1), 1).item()
        ids.append(token)
        if token == end:
            break
    return ids[len(prompt) :]

Why: a causal model says what may come next after everything that is there, so each new token is
appended before the next question. Greedy takes the likeliest token. Ancestral sampling draws each
token with its own probability; that is what on-policy distillation needs, because the student must
be judged on what it really says.
""",
}

# -- 09.1: a student that cannot be its teacher ----------------------------------------------------

PLACES = torch.linspace(-6, 6, 61)
PEAKS = ((0.6, -2.0, 0.7), (0.4, 2.5, 0.7))  # weight, middle, width


class Bell(torch.nn.Module):
    """A student of two parameters: one bell, wherever it likes and as wide as it likes."""

    def __init__(self, middle: float = -1.0, width: float = 1.0):
        super().__init__()
        self.middle = torch.nn.Parameter(torch.tensor(middle))
        self.log_width = torch.nn.Parameter(torch.tensor(width).log())

    def forward(self):
        """Logits over 61 places: (1, 61)."""
        return -(((PLACES - self.middle) / self.log_width.exp()) ** 2)[None] / 2


def two_peaks() -> torch.Tensor:
    """The teacher's logits, (1, 61): two peaks, the left one higher."""
    bells = [w * torch.exp(-(((PLACES - m) / s) ** 2) / 2) / s for w, m, s in PEAKS]
    return sum(bells).log()[None]


def _divergences(logits) -> dict[str, torch.Tensor]:
    """Both KLs at T = 1 between the two peaks and each row of logits (bells, 61)."""
    log_p, log_q = two_peaks().log_softmax(-1), logits.log_softmax(-1)
    return {
        "forward_kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        "reverse_kl": (log_q.exp() * (log_q - log_p)).sum(-1),
    }


@functools.lru_cache(maxsize=1)
def _best_bells() -> dict[str, float]:
    """The least loss of any bell, by trying many: for reverse KL the worse of its two peaks."""
    middles, widths = torch.arange(-3.5, 3.6, 0.05), torch.arange(0.4, 4, 0.05)
    middle, width = (part.reshape(-1, 1) for part in torch.meshgrid(middles, widths, indexing="ij"))
    found = _divergences(-(((PLACES - middle) / width) ** 2) / 2)
    is_right = middle[:, 0] > 0.5
    reverse = found["reverse_kl"]
    return {
        "forward_kl": found["forward_kl"].min().item(),
        "reverse_kl": max(reverse[is_right].min().item(), reverse[~is_right].min().item()),
    }


@question("09.1")
def both_ways(function):
    """A bell that is distilled from two peaks by forward KL must cover, by reverse KL seek."""
    students = {}
    for divergence in ("forward_kl", "reverse_kl"):
        torch.manual_seed(0)
        students[divergence] = Bell()
        returned = call(function, students[divergence], two_peaks(), divergence)
        if not isinstance(returned, Bell):
            return f"Return the student, not {type(returned).__name__}."
        students[divergence] = returned
    told = [
        f"{name}: middle {bell.middle.item():.2f}, width {bell.log_width.exp().item():.2f}"
        for name, bell in students.items()
    ]
    print("; ".join(told))
    return _what_is_wrong_with(students)


def _what_is_wrong_with(students: dict[str, Bell]) -> str | None:
    logits = {name: bell().detach() for name, bell in students.items()}
    if not all(torch.isfinite(each).all() for each in logits.values()):
        return "A parameter is NaN: a smaller learning rate?"
    if all(torch.allclose(each, Bell()().detach()) for each in logits.values()):
        return "No parameter has moved: zero_grad, backward, step, in this order."
    if torch.allclose(*logits.values(), atol=0.05):
        return "Both students are the same: is `divergence` used?"
    best = _best_bells()
    loss = {name: _divergences(logits[name])[name].item() for name in best}
    if all(loss[name] <= best[name] + 0.02 for name in best):
        return None
    crossed = {"forward_kl": "reverse_kl", "reverse_kl": "forward_kl"}
    other = {name: _divergences(logits[crossed[name]])[name].item() for name in best}
    if all(other[name] <= best[name] + 0.02 for name in best):
        return (
            "The two divergences are exchanged: the forward student seeks, the reverse one covers."
        )
    unsoftened = (
        "is `temperature` left at its default of 2, or the `.total`, with its labels, used?"
    )
    name = max(best, key=lambda each: loss[each] - best[each])
    return (
        f"With {name} the loss at T = 1 is {loss[name]:.3f}, and a bell exists with clearly less. "
        f"More steps, or a larger learning rate? And {unsoftened}"
    )


@question("09.2")
def cosine_loss(function):
    """1 - cos at each real token, mean over a row's real tokens, then over rows."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 4, 3, generator=draw) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    distance = 1 - cosine_similarity(student, teacher, dim=-1)  # (rows, tokens)
    counts = mask.sum(1)

    def of_rows(by_token):
        """The mean over a row's real tokens, then over rows."""
        return ((by_token * mask).sum(1) / counts).mean()

    def pooled(states):
        """The mean state of each row's real tokens."""
        return (states * mask[..., None]).sum(1) / counts[:, None]

    real = distance * mask
    across_tokens = 1 - cosine_similarity(student, teacher, dim=1)
    products = (student * teacher).sum(-1)
    of_pooled = 1 - cosine_similarity(pooled(student), pooled(teacher), dim=-1)
    mistakes = {
        "padding counts as well": distance.mean(),
        "padding is set to 0 and still counted in the mean": real.mean(),
        "all tokens are averaged at once, so that a long row weighs more": real.sum() / mask.sum(),
        "the cosine itself is returned: it must fall as the two agree": of_rows(1 - distance),
        "tokens are summed, not averaged": real.sum(1).mean(),
        "the vectors are averaged over a row before they are compared": of_pooled.mean(),
        "the scalar product is not divided by the lengths": of_rows(1 - products),
        "the cosine runs over tokens, not over the width": across_tokens.mean(),
    }
    hint = (
        "First one distance a token, then the mean of a row's real tokens, then that of the rows."
    )
    given = call(function, student, teacher, mask)
    return number(given, of_rows(distance), mistakes, hint=hint)


# -- 09.3: a sampling loop -------------------------------------------------------------------------

END = 4
# A language of six tokens: a row a token, the probabilities of what follows it. 4 is the end.
NEXT = torch.tensor(
    [
        [0.05, 0.50, 0.30, 0.05, 0.05, 0.05],
        [0.05, 0.05, 0.20, 0.60, 0.05, 0.05],
        [0.20, 0.10, 0.10, 0.10, 0.40, 0.10],
        [0.05, 0.05, 0.05, 0.05, 0.70, 0.10],
        [0.90, 0.02, 0.02, 0.02, 0.02, 0.02],
        [0.02, 0.02, 0.02, 0.02, 0.02, 0.90],
    ]
)


class Chain(torch.nn.Module):
    """A language model that knows the last token alone, so that all of its answers are known."""

    device = NEXT.device  # as transformers' models say where they are

    def forward(self, input_ids, **other):
        return types.SimpleNamespace(logits=NEXT[input_ids].log())


def _greedy_mistake(given: list[int], prompt: list[int], longest: int) -> str | None:
    """What is wrong with the greedy continuation of a prompt."""
    right, token = [], prompt[-1]
    while len(right) < longest and END not in right:
        token = int(NEXT[token].argmax())
        right.append(token)
    if given == right:
        return None
    first = int(NEXT[prompt[-1]].argmax())
    if given[: len(prompt)] == prompt and given[len(prompt) :] == right:
        return "The prompt is returned as well: only the new tokens are asked."
    if END in right and given == right[:-1]:
        return "The end token is missing: it has been said, so it belongs to the answer."
    if given[: len(right)] == right:
        return (
            f"Your loop goes on where it should stop: at the end token {END}, "
            "and after `longest` tokens."
        )
    if len(given) < len(right) and given == right[: len(given)]:
        return f"Your loop stops too early: after {len(given)} tokens, without an end token."
    if len(given) > 1 and set(given) == {first}:
        return "The same token comes again and again: append each new token before you ask again."
    if given and given[0] == int(NEXT[prompt[0]].argmax()) != first:
        return "The logits of the *first* position are used: what follows stands at the last one."
    return "The greedy answer takes the likeliest token at each place, and yours does not."


def _sampling_mistake(draws: list[list[int]]) -> str | None:
    """What is wrong with many drawn answers to the prompt [0]."""
    count = collections.Counter(tuple(draw[:2]) for draw in draws)
    seen = torch.zeros(6, 6)
    for pair, times in count.items():
        if pair[0] == END or len(pair) < 2:
            continue  # an end: nothing follows
        seen[pair] = times / len(draws)
    right = NEXT[0][:, None] * NEXT
    right[END] = 0

    def away(other):
        other = other.clone()
        other[END] = 0
        return (seen - other).abs().sum().item() / 2

    if away(right) < 0.09:
        return None
    if len(count) == 1:
        return "Every draw is the same: greedy=False must draw, not take the likeliest token."
    flat, sharp = NEXT.softmax(-1), NEXT**2 / (NEXT**2).sum(-1, keepdim=True)
    even = torch.full((6, 6), 1 / 6)
    soft = NEXT.sqrt() / NEXT.sqrt().sum(-1, keepdim=True)
    mistakes = {
        "all tokens are drawn alike: the logits are not used": even[0][:, None] * even,
        "softmax is taken twice, which makes all tokens nearly alike": flat[0][:, None] * flat,
        "the logits are multiplied by 2: at T = 1 nothing changes them": sharp[0][:, None] * sharp,
        "the logits are divided by 2: at T = 1 nothing changes them": soft[0][:, None] * soft,
    }
    nearest = min(mistakes, key=lambda name: away(mistakes[name]))
    if away(mistakes[nearest]) < 0.09:
        return f"In {len(draws)} draws the shares are those that come out when {nearest}."
    return (
        f"In {len(draws)} draws the tokens do not come with the model's probabilities: "
        "softmax of the last position's logits, then one draw."
    )


@question("09.3")
def sampling_loop(function):
    """The new tokens of a causal model: greedy or drawn, up to the end or `longest`."""
    model = Chain()
    for prompt, longest in (([5, 0], 9), ([2, 2, 3, 1], 9), ([0, 5], 7), ([5, 0], 2)):
        kept = list(prompt)
        given = call(function, model, prompt, END, longest, True)
        if prompt != kept:
            return "Your function changes the caller's prompt: work on a copy, list(prompt)."
        if torch.is_tensor(given) or not all(isinstance(token, int) for token in given):
            return "A list of ints is asked: take the number out of a tensor with .item()."
        if wrong := _greedy_mistake(list(given), prompt, longest):
            return f"Greedy, for the prompt {prompt} and longest = {longest}: {wrong}"
    torch.manual_seed(0)
    draws = [list(call(function, model, [0], END, 3, False)) for _ in range(600)]
    if any(len(draw) > 3 for draw in draws):
        return "Drawn answers may be longer than `longest`: count in both cases."
    if any(END in draw[:-1] for draw in draws):
        return "Drawn answers go on after the end token."
    return _sampling_mistake(draws)
