"""Notebook 09: beyond logits."""

import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from .common import call, compare, kl, number, question


@question("09.1")
def nearly_forgiven(given):
    """Three probabilities with KL(student ‖ teacher) below 0.75 and KL(teacher ‖ student) over 2.5.

    The teacher says (0.49, 0.02, 0.49).
    """
    student, teacher = [float(x) for x in given], (0.49, 0.02, 0.49)
    if len(student) != 3 or abs(sum(student) - 1) > 1e-3:
        return (
            "Three probabilities that sum to 1 are asked; "
            f"yours are {len(student)} and sum to {sum(student):g}."
        )
    if min(student) <= 0:
        return (
            "A probability of 0 makes the forward KL infinite: that is its lesson, "
            "but keep all three above 0, however small."
        )
    forward, reverse = kl(teacher, student), kl(student, teacher)
    both = f"Reverse KL {reverse:.2f}, forward KL {forward:.2f}. "
    if reverse >= 0.75:
        if student[1] > 0.1:
            return both + (
                "The middle word is what the teacher abhors; "
                "reverse KL punishes a student that says it."
            )
        return both + (
            "Reverse KL averages over what the *student* says: "
            "let it say one good word, and hardly another."
        )
    if forward <= 2.5:
        return both + (
            "Forward KL averages over what the *teacher* says: "
            "what must the student nearly never say?"
        )
    return None


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
    return number(call(function, student, teacher, mask), of_rows(distance), mistakes)


@question("09.3")
def shown_better(function):
    """The methods whose metric is shown to be smaller than the control's, paired over seeds.

    They are asked in alphabetical order.
    """
    values = {
        "control": (0.50, 0.70, 0.90, 0.60),
        "steady": (0.45, 0.64, 0.86, 0.55),
        "moody": (0.10, 0.75, 0.95, 0.30),
        "worse": (0.55, 0.76, 0.94, 0.65),
        "once": (0.20,),
    }
    rows = [(name, seed, x) for name, nats in values.items() for seed, x in enumerate(nats)]
    runs = pd.DataFrame(rows, columns=["method", "seed", "nats"])
    given = [str(name) for name in list(call(function, runs, "control", "nats"))]
    mistakes = {
        "the smaller mean counts as better, whatever its interval": ["moody", "once", "steady"],
        "every interval that excludes 0 counts, also on the wrong side": ["steady", "worse"],
        "more is taken for better": ["worse"],
        "the seeds are not paired: their own spread, which all methods share, "
        "then hides the difference": [],
        "better at every seed that it has counts: with one seed nothing is shown": [
            "once",
            "steady",
        ],
    }
    otherwise = f"expected ['steady']: its four differences are all near -0.05; got {given}."
    return compare(sorted(given), ["steady"], mistakes, otherwise)  # a mistake shows in any order
