"""Notebook 06: EuroLlama's prompt."""

from .common import call, compare, number, question

IGNORED = -100

ANSWERS = {
    "06.1": """
def labels_of(ids, header):
    n = len(header)
    first = max(i + n for i in range(len(ids) - n + 1) if ids[i : i + n] == header)
    return [-100] * first + ids[first:]

Why: with worked examples in the prompt there are several headers, and the answer follows the last.
Nothing is shifted, because the model's loss shifts labels itself. The end tokens stay: a model
that never learns an end does not stop.
""",
    "06.2": """
def end_after(alpha, teacher):
    return (1 - alpha) + alpha * teacher

Why: CE is the cross-entropy with the one-hot label, which gives the end 1. KL is, but for a
constant, the cross-entropy with the teacher. A weighted sum of cross-entropies is the
cross-entropy with the weighted mean of the targets, and it is smallest where the student *is* that
mean. This holds at T = 1. At T = 2 the softened distributions are mixed, and the result also
depends on how the teacher spreads the rest over other tokens.
""",
    "06.3": """
def cut(ids, labels, max_length, stop):
    over = max(0, len(ids) - max_length)
    return tuple(row[: stop - over] + row[stop:] for row in (ids, labels))

Why: the source pays. The target must stay whole, or the model learns not to end. The system's turn
and the token that closes the user's turn stay, too, because they belong to the prompt's form.
""",
}


@question("06.1")
def labels_after_the_last_header(function):
    """Labels of a chat: the ids after the last assistant header, -100 before; not shifted."""
    header = [7, 8, 9]
    one_answer = [1, 5, 7, 8, 9, 20, 21, 30, 31]
    with_an_example = [1, 7, 8, 9, 22, 30, 31, 5, 7, 8, 9, 20, 21, 23, 30, 31]
    for ids in (one_answer, with_an_example):
        after_header = [i + 3 for i in range(len(ids)) if ids[i : i + 3] == header]
        first, last = after_header[0], after_header[-1]

        def learnt(start, ignored_at_end=0):
            """Labels that are learnt from `start` on, but for a few at the end."""
            stop = len(ids) - ignored_at_end
            return [IGNORED] * start + ids[start:stop] + [IGNORED] * ignored_at_end

        right = learnt(last)
        given = [int(i) for i in call(function, list(ids), list(header))]
        if len(given) != len(ids):
            return (
                f"labels are as long as the ids: {len(ids)}, not {len(given)}. "
                "Nothing is cut off and nothing is shifted."
            )
        without_end, without_ends = learnt(last, 1), learnt(last, 2)
        prompt_alone = learnt(0, len(ids) - last)
        mistakes = {
            "the first header is taken: with worked examples in the prompt there are several, "
            "and only the last answer is to be learnt": learnt(first),
            "the header's last token is learnt too, one place too early": learnt(last - 1),
            "the header is learnt too": learnt(last - 3),
            "the target's first token is masked, one place too late": learnt(last + 1),
            "labels are shifted by hand: the model's loss shifts them itself, "
            "and a second time it learns the word after the next": right[1:] + [IGNORED],
            "the last token is masked: a text whose end is not learnt does not end": without_end,
            "both end tokens are masked: a text whose end is not learnt does not end": without_ends,
            "nothing is masked: the model would learn to write prompts": ids,
            "the mask is turned round: the prompt is learnt, the target is not": prompt_alone,
        }
        place = next((i for i, pair in enumerate(zip(given, right)) if pair[0] != pair[1]), 0)
        otherwise = (
            f"for ids = {ids} and header = {header} the first wrong label is at the place {place}. "
            "Is that place before or after the end of the last header?"
        )
        if wrong := compare(given, right, mistakes, otherwise):
            return wrong


@question("06.2")
def end_after_kd(function):
    """The p(end) at which (1 - alpha) · CE + alpha · KL(teacher ‖ student) is smallest, T = 1."""
    for alpha, teacher in ((0.3, 0.02), (0.9, 0.2)):
        label_share = 1 - alpha
        turned_round = alpha + label_share * teacher
        mistakes = {
            "alpha is read as the weight of the labels; here it weighs the soft loss": turned_round,
            "the teacher is not heard": 1,
            "the label is not heard": teacher,
            "the teacher's own share is left out: it gives the end a little, too": label_share,
            "probabilities are mixed by their logarithms: "
            "forward KL mixes them as they are": teacher**alpha,
            "label and teacher count alike whatever alpha is": (1 + teacher) / 2,
        }
        right = label_share + alpha * teacher
        hint = "Which mean of the label (probability 1) and the teacher's answer does it learn?"
        given = call(function, alpha, teacher)
        if wrong := number(given, right, mistakes, tolerance=1e-3, hint=hint):
            return f"For alpha = {alpha} and a teacher's {teacher}: {wrong}"


@question("06.3")
def cut_the_source(function):
    """A row cut to max_length tokens at the end of its source: (ids, labels)."""
    ids = list(range(100, 118))
    stop, target = 9, 14  # the place that closes the user's turn, and where the target starts
    labels = [IGNORED] * target + ids[target:]
    for longest in (18, 15, 30):
        over = max(0, len(ids) - longest)

        def without(start):
            """Both rows without the tokens that are too many, from `start` on."""
            return [row[:start] + row[start + over :] for row in (ids, labels)]

        right = without(stop - over)
        given = call(function, list(ids), list(labels), longest, stop)
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            return "two lists are asked: ids and labels."
        given = [[int(i) for i in row] for row in given]
        with_closing_token = without(stop - over + 1)
        mistakes = {
            "the end is cut off: the target loses its last words and its end token, "
            "and the model learns not to end": [ids[:longest], labels[:longest]],
            "the beginning is cut off: the system's turn is gone": without(0),
            "the token that closes the user's turn is cut off with the source": with_closing_token,
            "the labels are left as long as they were": [right[0], labels],
            "the text after the user's turn is cut": without(stop + 1),
            "nothing is cut": [ids, labels],
        }
        otherwise = (
            f"for max_length = {longest} and stop = {stop}, {over} tokens are too many: those just "
            f"before the place {stop} should go, from both lists. Your lists have {len(given[0])} "
            f"ids and {len(given[1])} labels."
        )
        if wrong := compare(given, right, mistakes, otherwise):
            return wrong
