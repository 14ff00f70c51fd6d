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

from . import grammar
from .grammar import SEED, words

# What is asked, about what, and in which of the ways to ask it (a number).
Question = namedtuple("Question", "intent values ask")

FAMILIES = ("travel", "versus", "order", "study", "shop", "nature")
DUPLICATES = 0.35  # share of the pairs that are meant to be duplicates


@cache
def near(table):
    """{(x, y): probability that a reader takes them for the same}, symmetric.

    table: `near` (values of slots) or `near_intents`.
    """
    found = {}
    for x, y, probability in words("mini_qqp")[table]:
        found[x, y] = found[y, x] = probability
    return found


def ask(intents, question):
    """The question as text."""
    intent = intents[question.intent]
    text = intent["ask"][question.ask].format(**dict(zip(intent["slots"], question.values)))
    text = re.sub(r"\ba +(?=[aeio])", "an ", text)
    # an empty slot leaves a space too many
    text = re.sub(r" +", " ", text)
    return re.sub(r" (?=[?,])", "", text)


def same_values(values, others):
    """The probability that a reader takes each of these values for its counterpart."""
    probability = 1.0
    for value, other in zip(values, others):
        probability *= 1.0 if value == other else near("near").get((value, other), 0.0)
    return probability


def same(intents, question, other):
    """The probability that a reader calls two questions duplicates.

    The intents and each slot must be taken for the same. Where {a} and {b} may change places
    without changing what is asked ("between Paris and Rome"), the better of both orders counts.
    """
    probability = same_values(question.values, other.values)
    if any(intents[q.intent].get("unordered") for q in (question, other)):
        first, second, *rest = other.values
        probability = max(probability, same_values(question.values, (second, first, *rest)))
    if question.intent != other.intent:
        probability *= near("near_intents").get((question.intent, other.intent), 0.0)
    return probability


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
                for way in range(len(intents[intent]["ask"])):
                    other = Question(intent, tuple(changed.values()), way)
                    if ask(intents, other) != text:
                        probability = same(intents, question, other)
                        yield change, other, [1 - probability, probability]


def pair(rng, family_name):
    """One (key, question1, question2, label_dist).

    The second question is a paraphrase of the first or a near miss.
    """
    w = words("mini_qqp")
    family = w["families"][family_name]
    intents = family["intents"]
    intent = rng.choice(list(intents))
    values = {}
    for slot, kind in intents[intent]["slots"].items():
        # the same city is not asked for twice
        values[slot] = rng.choice([v for v in w["slots"][kind] if v not in values.values()])
    way = rng.randrange(len(intents[intent]["ask"]))
    question = Question(intent, tuple(values.values()), way)

    by_answer = [[], []]
    for candidate in candidates(family, question, values):
        _, _, (_, duplicate) = candidate
        by_answer[duplicate > 0.5].append(candidate)
    wanted = by_answer[rng.random() < DUPLICATES] or by_answer[0]
    # first the kind of change, then a question: a slot with many values must not win by their number
    chosen = rng.choice(sorted({change for change, _, _ in wanted}))
    of_this_kind = [(other, votes) for change, other, votes in wanted if change == chosen]
    other, votes = rng.choice(of_this_kind)
    key = (family_name, *sorted(question.values))
    return key, ask(intents, question), ask(intents, other), votes


@cache
def rows(seed=SEED):
    """{split: rows}; no pair comes twice, not swapped either: a duplicate is one both ways round.

    Another seed gives further rows of the same grammar; its train rows hold no pair of the stored
    validation and test files.
    """
    judged = set() if seed == SEED else grammar.pairs("mini_qqp", rows(), frozenset)
    shares = dict.fromkeys(FAMILIES, 1)
    return grammar.labelled_rows("mini_qqp", seed, shares, pair, frozenset, judged)
