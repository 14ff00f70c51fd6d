"""Notebook 08: limits."""

import torch

from .common import array, call, number, question, variants

ANSWERS = {
    "08.1": """
def rounded(weight, bits, group):
    parts = weight.reshape(-1, group)
    largest = 2 ** (bits - 1) - 1
    scale = parts.abs().amax(1, keepdim=True) / largest
    return ((parts / scale).round() * scale).reshape(weight.shape)

Why: groups tile a row, so folding the matrix into rows of length `group` puts each group into a
row of its own. One outlier then spoils the scale of its own group only. A group of zeros would
divide by 0 here; kdlib keeps its scale above 0.
""",
    "08.2": """
def megabytes(linear, other, bits, group):
    return (linear * (bits + 16 / group) + other * 16) / 8 / 1e6

Why: each group carries a scale of 16 bits, which is 16 / group bits a weight. Embeddings stay in 16
bits. With 128,256 tokens they are a large part of a small model, so four bits are far from a
quarter of the file.
""",
    "08.3": """
def share_seen(hours, rows_a_second, corpus, used):
    return min(1.0, (hours - used) * 3600 * rows_a_second / corpus)

Why: what loading, evaluation and saving take comes off the hours first. A share ends at 1: after
that a second pass begins.
""",
}

MATRIX = torch.tensor(
    [
        [0.9, -0.35, 0.2, 0.05, 0.03, -0.02, 0.01, 0.016],
        [-0.4, 0.26, 0.12, -0.3, 0.7, -0.5, 0.33, 0.1],
    ]
)
ROWS, COLUMNS = MATRIX.shape


def on_grid(size, top, matrix=MATRIX, rounding=torch.round, signed=False, scaled=True):
    """The matrix in groups of `size`, each rounded to whole numbers from -top to top and scaled."""
    groups = matrix.reshape(-1, size)
    tops = (groups if signed else groups.abs()).amax(1, keepdim=True)
    scale = tops.clamp(min=1e-6) / top
    whole = rounding(groups / scale).clamp(-top, top)
    return (whole * scale if scaled else whole).reshape(matrix.shape)


@question("08.1")
def rounded_by_group(function):
    """A matrix rounded to `bits` bits, symmetric around 0, one scale a group of neighbours."""
    for bits, group in ((3, 4), (4, 2)):
        given = torch.as_tensor(call(function, MATRIX.clone(), bits, group), dtype=torch.float32)
        if given.shape != MATRIX.shape:
            return (
                f"The result must have the matrix's shape {tuple(MATRIX.shape)}, "
                f"not {tuple(given.shape)}: fold the groups back."
            )
        largest = 2 ** (bits - 1) - 1
        changes = {
            "the whole matrix shares one scale": {"size": MATRIX.numel()},
            "a row shares one scale, whatever the group": {"size": COLUMNS},
            "the largest value is 2^bits - 1: that many steps to *each* side, a bit too many": {
                "top": 2**bits - 1
            },
            "the largest value is 2^(bits - 1): that is one value too many on the positive side": {
                "top": largest + 1
            },
            "values are cut off instead of rounded (floor)": {"rounding": torch.floor},
            "values are cut off instead of rounded (trunc, int)": {"rounding": torch.trunc},
            "the scale is the largest weight, not the largest *magnitude*: "
            "large negative ones are clipped": {"signed": True},
            "the whole numbers are returned: multiply them by their scale again": {"scaled": False},
        }
        down_the_columns = on_grid(ROWS, largest, MATRIX.T).T
        mistakes = variants(on_grid, changes, size=group, top=largest) | {
            "the groups run down the columns: those weights meet other inputs": down_the_columns
        }
        otherwise = (
            f"For bits = {bits} and group = {group} "
            "your first row is {given}. Look at its first group: the weight of the largest "
            "magnitude comes back unchanged, and all others are whole multiples of one scale."
        )
        given, right = given.detach().double(), on_grid(group, largest).double()
        if wrong := array(given, right, mistakes, otherwise, digits=3, atol=1e-5):
            return wrong


@question("08.2")
def packed_megabytes(function):
    """Megabytes of `linear` weights at `bits`, a 16-bit scale a group, and `other` in 16 bits."""
    for linear, other, bits, group in ((973e6, 263e6, 4, 32), (1e8, 1e7, 3, 128)):

        def megabytes(per_linear, per_other=16):
            return (linear * per_linear + other * per_other) / 8e6

        packed = bits + 16 / group
        right = megabytes(packed)
        mistakes = {
            "the scales are forgotten": megabytes(bits),
            "every weight has a scale of its own": megabytes(bits + 16),
            "the scales take 16 bytes, not bits": megabytes(bits + 128 / group),
            "the embeddings are packed, too": megabytes(packed, packed),
            "the embeddings are packed, too, and the scales forgotten": megabytes(bits, bits),
            "the embeddings are in 32 bits": megabytes(packed, 32),
            "bits are taken for bytes": right * 8,
            "bytes are not turned into megabytes": right * 1e6,
            "a megabyte is taken for 2^20 bytes: it is a million here": right * 1e6 / 2**20,
            "the embeddings are left out": linear * packed / 8e6,
        }
        given = call(function, linear, other, bits, group)
        hint = "Count bits first: a weight, its share of a scale, the others. Then bytes, then MB."
        if wrong := number(given, right, mistakes, tolerance=1e-5, hint=hint):
            return (
                f"For {linear:.3g} weights at {bits} bits in groups of {group} "
                f"and {other:.3g} others: {wrong}"
            )


@question("08.3")
def share_in_time(function):
    """The share of a corpus (0 to 1) seen in `hours` when `used` of them go to other things."""
    for hours, rate, rows, used in ((8, 25.0, 2_007_723, 0.5), (8, 400.0, 392_702, 0.5)):
        passes = (hours - used) * 3600 * rate / rows
        with_the_start = hours * 3600 * rate / rows
        right = min(1, passes)
        mistakes = {
            "the start and the evaluation are given to training, too": min(1, with_the_start),
            "more than the whole corpus is seen: after one pass, the share is 1": passes,
            "hours are turned into minutes, not seconds": min(1, passes / 60),
            "per cent and shares are mixed": 100 * right,
            "the fraction is turned round": 1 / passes,
            "hours are not turned into seconds": min(1, passes / 3600),
            "what was used up is added, not taken off": min(1, (hours + used) * 3600 * rate / rows),
        }
        given = call(function, hours, rate, rows, used)
        hint = "Seconds that are left for training, times rows a second, over all rows; at most 1."
        if wrong := number(given, right, mistakes, tolerance=1e-6, hint=hint):
            return (
                f"For {hours} hours ({used} used up), {rate:g} rows a second "
                f"and {rows:,} rows: {wrong}"
            )
