"""Notebook 04: DistilBERT on MNLI."""

from .common import call, number, question

ANSWERS = {
    "04.1": """
def macro_f1_of_one_answer(p, classes=3):
    return 2 * p / (1 + p) / classes

Why: the class that is always answered has precision p and recall 1, so its F1 is 2p / (1 + p). The
other classes are never answered and have the F1 0. They count in the mean all the same.
""",
    "04.2": """
def farthest(rate, steps, warmup):
    rising = sum(rate * i / warmup for i in range(warmup))
    falling = sum(rate * (steps - i) / (steps - warmup) for i in range(warmup, steps))
    return rising + falling

Why: Adam moves a weight by about one learning rate a step, so the sum of all rates is about as far
as a weight can travel. It is nearly one half of rate times steps.
""",
    "04.3": """
def gain(runs):
    at_top = runs[runs["learning_rate"] == runs["learning_rate"].max()]
    by_seed = at_top.pivot_table(index="seed", columns="method", values="accuracy")
    return 100 * (by_seed["kd"] - by_seed["ce"]).mean()

Why: a seed's two runs share their rows and their order, so their difference says more than the
difference of two means. A seed that only one method has drops out.
""",
}


@question("04.1")
def macro_f1_of_one_answer(function):
    """Macro-F1 of a model that gives one answer to everything."""
    for p, classes in ((0.32, 3), (0.63, 2)):
        f1 = 2 * p / (1 + p)
        right = f1 / classes
        mistakes = {
            "the other classes' F1 of 0 are left out of the mean": f1,
            "precision 1 and recall p are assumed "
            "(it is the other way round, and F1 is not their product)": p / classes,
            "the accuracy is taken for the F1": p,
            "percentages and shares are mixed": 100 * right,
        }
        hint = "What are precision and recall of the class that is answered, and of the others?"
        if wrong := number(call(function, p, classes), right, mistakes, hint=hint):
            return f"For p = {p} and {classes} classes: {wrong}"


@question("04.2")
def farthest(function):
    """The sum of a linear warm-up and decay schedule's learning rates."""
    rate, steps, warmup = 1e-3, 200, 20
    rising = sum(rate * i / warmup for i in range(warmup))
    falling = sum(rate * i / (steps - warmup) for i in range(steps - warmup + 1))
    constant = rate * steps
    mistakes = {
        "the rate is taken as constant": constant,
        "the warm-up is left out": falling,
        "the decay is left out": rising + rate * (steps - warmup),
        "one half of rate × steps is taken, which is near but not the sum": constant / 2,
    }
    given = call(function, rate, steps, warmup)
    hint = "Add up the rates of four steps by hand, with a warm-up of two."
    return number(given, rising + falling, mistakes, tolerance=1e-6, hint=hint)


@question("04.3")
def gain(function):
    """KD's mean gain over CE in points, seed by seed, at the largest learning rate."""
    import pandas as pd

    # The third KD run has no CE run of its seed: it must not count.
    columns = {
        "method": ["kd", "ce", "kd", "ce", "kd", "shuffled", "kd"],
        "learning_rate": [1e-3, 1e-3, 1e-3, 1e-3, 1e-5, 1e-3, 1e-3],
        "seed": [1, 0, 0, 1, 0, 0, 2],
        "accuracy": [0.84, 0.80, 0.82, 0.81, 0.40, 0.70, 0.90],
    }
    mistakes = {
        "the small learning rate is averaged in": (84 + 82 + 40 + 90) / 4 - 80.5,
        "the seed that only KD has is averaged in": (84 + 82 + 90) / 3 - 80.5,
        "shares are not turned into points": 0.025,
        "the sign is turned round (KD minus CE is asked)": -2.5,
    }
    hint = "Keep the largest rate, put a seed's two runs side by side, and average the differences."
    given = call(function, pd.DataFrame(columns))
    return number(given, 2.5, mistakes, tolerance=1e-6, hint=hint)
