"""The grammar of MiniQQP: pairs of questions whose *true* probability of being duplicates is known.

MiniQQP has the columns of GLUE's QQP, two more (`label_dist`, the true distribution, and
`phenomenon`, here the family of the questions), and nothing else in common with it: no number from
it is a QQP result.

**A question is an intent with slots**, and each intent can be asked in several ways
(`words/mini_qqp.yaml`): "Where can I buy a cheap car?" is the intent `buy` with a quality and a
thing. Two questions are duplicates if they have the same intent and the same values, in whatever
words. That would be true or false; what makes it a probability are *near* values. A table of the
YAML says how many readers take "by train" for "by rail" (all of them) or no quality for "new" (7 in
10). The probabilities of all slots are multiplied. So `label_dist` is exactly known, and `label` is
the answer of one reader.
"""

import re
from collections import namedtuple
from functools import cache

from .grammar import words

# What is asked, about what, and in which of the ways to ask it (a number).
Question = namedtuple("Question", "intent values ask")

FAMILIES = ("travel", "versus", "order", "study", "shop", "nature")
SHARES = dict.fromkeys(FAMILIES, 1)
same_pair = frozenset  # a duplicate is one both ways round
DUPLICATES = 0.35  # share of the pairs that are meant to be duplicates


@cache
def near(table):
    """{{x, y}: probability that a reader takes them for the same}.

    table: `near` (values of slots) or `near_intents`.
    """
    found = {}
    for x, y, probability in words("mini_qqp")[table]:
        found[frozenset((x, y))] = probability
    return found


def alike(table, x, y):
    """The probability that a reader takes x and y for the same."""
    if x == y:
        return 1.0
    return near(table).get(frozenset((x, y)), 0.0)


def ask(intents, question):
    """The question as text."""
    intent = intents[question.intent]
    template = intent["ask"][question.ask]
    slots = dict(zip(intent["slots"], question.values))
    text = template.format(**slots)
    text = re.sub(r"\ba +(?=[aeio])", "an ", text)
    # an empty slot leaves a space too many
    text = re.sub(r" +", " ", text)
    return re.sub(r" (?=[?,])", "", text)


def same_values(values, others):
    """The probability that a reader takes each of these values for its counterpart."""
    probability = 1.0
    for value, other in zip(values, others):
        probability *= alike("near", value, other)
    return probability


def same(intents, question, other):
    """The probability that a reader calls two questions duplicates.

    The intents and each slot must be taken for the same. Where {a} and {b} may change places
    without changing what is asked ("between Paris and Rome"), the better of both orders counts.
    """
    probability = same_values(question.values, other.values)
    if any(intents[q.intent].get("unordered") for q in (question, other)):
        first, second, *rest = other.values
        swapped = same_values(question.values, (second, first, *rest))
        probability = max(probability, swapped)
    return probability * alike("near_intents", question.intent, other.intent)


def near_misses(change, values, slots):
    """All values that differ from `values` in one respect.

    change: a slot (every other value), "swap" ({a} and {b} change places), or "same" and "intent"
    (the same values).
    """
    if change == "swap":
        return [values | {"a": values["b"], "b": values["a"]}]
    if change not in slots:
        return [values]
    choices = words("mini_qqp")["slots"][slots[change]]
    return [values | {change: value} for value in choices if value != values[change]]


def candidates(family, question, values):
    """(kind of change, question, label_dist) of all questions to put beside this one."""
    intents = family["intents"]
    slots = intents[question.intent]["slots"]
    text = ask(intents, question)
    for change in ("same", *family["change"]):
        allowed = intents if change == "intent" else [question.intent]
        for changed in near_misses(change, values, slots):
            for intent in allowed:
                ways = intents[intent]["ask"]
                for way in range(len(ways)):
                    other = Question(intent, tuple(changed.values()), way)
                    if ask(intents, other) != text:
                        probability = same(intents, question, other)
                        yield change, other, [1 - probability, probability]


def draw_question(rng, intents):
    """A random question of a family, and its values by slot."""
    intent = rng.choice(list(intents))
    values = {}
    for slot, kind in intents[intent]["slots"].items():
        choices = words("mini_qqp")["slots"][kind]
        # the same city is not asked for twice
        free = [value for value in choices if value not in values.values()]
        values[slot] = rng.choice(free)
    ways = intents[intent]["ask"]
    way = rng.randrange(len(ways))
    return Question(intent, tuple(values.values()), way), values


def pair(rng, family_name):
    """One (key, question1, question2, label_dist).

    The second question is a paraphrase of the first or a near miss.
    """
    family = words("mini_qqp")["families"][family_name]
    intents = family["intents"]
    question, values = draw_question(rng, intents)
    by_answer = [[], []]
    for change, other, votes in candidates(family, question, values):
        duplicate = votes[1] > 0.5
        by_answer[duplicate].append((change, other, votes))
    wanted = by_answer[rng.random() < DUPLICATES] or by_answer[0]
    # first the kind of change: a slot with many values must not win by their number
    changes = {change for change, _, _ in wanted}
    chosen = rng.choice(sorted(changes))
    of_this_kind = [candidate for candidate in wanted if candidate[0] == chosen]
    _, other, votes = rng.choice(of_this_kind)
    key = (family_name, *sorted(question.values))
    return key, ask(intents, question), ask(intents, other), votes
