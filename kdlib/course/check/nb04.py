"""Notebook 04: DistilBERT on MNLI."""

import numpy as np

from .common import call, number, question


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
        if wrong := number(call(function, p, classes), right, mistakes):
            return f"For p = {p} and {classes} classes: {wrong}"


@question("04.2")
def shuffle_wrong_classes(function):
    """The wrong classes of each row trade places; the top class stays."""
    logits = np.random.default_rng(0).normal(size=(300, 4))
    kept = logits.copy()
    mixed = np.asarray(call(function, logits, np.random.default_rng(1)))
    if not np.array_equal(logits, kept):
        return "Your function changes the teacher's own answers. Work on a copy."
    if mixed.shape != kept.shape:
        return f"Expected the shape {kept.shape}, got {mixed.shape}."
    if not np.array_equal(np.sort(mixed, 1), np.sort(kept, 1)):
        return "Some rows hold other numbers than before. A row's own logits trade places."
    moved = (mixed.argmax(1) != kept.argmax(1)).mean()
    if moved:
        return f"The top class moved in {moved:.0%} of the rows. It must stay where it is."
    again = np.asarray(call(function, kept.copy(), np.random.default_rng(2)))
    if np.array_equal(mixed, kept) and np.array_equal(again, kept):
        return "Nothing moved: the wrong classes are where they were."
    if np.array_equal(mixed, again):
        return "Another generator gives the same result, so `random` is not used."
    return _one_order_for_all(kept, mixed)


def _one_order_for_all(kept, mixed) -> str | None:
    """A sentence where all rows trade places alike: a student could learn that, too."""
    ranks = np.argsort(-kept, axis=1)
    # the rank that each wrong class's logit had before, (rows, classes - 1)
    came_from = (-np.take_along_axis(mixed, ranks, 1)).argsort(1).argsort(1)[:, 1:]
    _, counts = np.unique(came_from, axis=0, return_counts=True)
    largest = counts.max() / len(kept)
    if largest > 0.9:
        return (
            "All rows trade places in the same way, which a student could learn. Draw a new order "
            "for each row."
        )
    # with three wrong classes there are six orders, each about a sixth of the rows
    if len(counts) < 6 or largest > 0.35:
        return (
            f"The orders are not drawn evenly: one of six has {largest:.0%} of the rows. "
            "Any wrong class may come to any wrong place, its own included."
        )


@question("04.3")
def layers(tried):
    """{"0,2": logits on the validation rows} of students from different pairs of layers."""
    from ... import glue

    if not isinstance(tried, dict) or len(tried) < 3:
        return "Collect the logits of at least three students: {'0,2': logits, '1,3': …}."
    pairs = {name: [int(layer) for layer in str(name).split(",")] for name in tried}
    for name, pair in pairs.items():
        if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= 3:
            return f"{name!r} is no pair of the teacher's layers 0 to 3 with the lower one first."
    logits = {name: np.asarray(given, dtype=float) for name, given in tried.items()}
    for name, given in logits.items():
        if given.ndim != 2 or given.shape[1] != 3:
            return f"The logits of {name!r} have the shape {given.shape}, not (rows, 3)."
    if len({given.tobytes() for given in logits.values()}) < len(logits):
        return "Two students give the same logits, digit for digit. Was the same one stored twice?"
    rows = len(next(iter(logits.values())))
    labels = np.array(
        glue.load(glue.MNLI, "data/mini_nli", glue.MNLI.validation, rows=rows)["label"]
    )
    accuracy = {name: (given.argmax(1) == labels).mean() for name, given in logits.items()}
    weakest = min(accuracy, key=accuracy.get)
    if accuracy[weakest] < 0.5:
        return (
            f"The student of {weakest!r} is right in {accuracy[weakest]:.0%} of the rows, hardly "
            "more than one answer for all. Was it trained, and are these the validation rows?"
        )
    return _with_and_without_the_first(pairs, accuracy)


def _with_and_without_the_first(pairs: dict, accuracy: dict) -> str | None:
    """Layer 0 reads the embeddings: pairs without it are some ten points worse."""
    groups = {True: [], False: []}
    for name, pair in pairs.items():
        groups[0 in pair].append(accuracy[name])
    if not all(groups.values()):
        return "Try one pair with layer 0 and one without it: what do you see?"
    if min(groups[True]) < max(groups[False]):
        return (
            "A pair without layer 0 came out best. In our runs it never did: were all students "
            "trained with the same rows, epochs and learning rate?"
        )


ANSWERS = {
    "04.1": "macro-F1 = 2p / (1 + p) / classes. The class that is always answered has recall 1 and "
    "precision p. All other classes are never answered, so their F1 is 0.",
    "04.2": """def shuffle_wrong_classes(logits, random):
    mixed = logits.copy()
    for row in mixed:
        wrong = np.delete(np.arange(len(row)), row.argmax())
        row[wrong] = random.permutation(row[wrong])
    return mixed

Each row draws its own order. With one order for all rows the student could learn that order.""",
    "04.3": "Layer 0 must stay. With it (0,1; 0,2; 0,3) our students reached 78.5 to 81.5 % on the "
    "validation rows, without it (1,2; 1,3; 2,3) 65 to 72 % (two seeds each, laptop profile). The "
    "layers above expect what layer 0 makes of the embeddings. Among the pairs with layer 0 the "
    "differences are as small as those between seeds.",
}
