"""The grammar of MiniNLI: premises and hypotheses whose *true* label distribution is known.

MiniNLI has the columns of GLUE's MNLI, two more (`label_dist`, the true distribution, and
`phenomenon`), and nothing else in common with it: no number from it is an MNLI result.

**A sentence means the set of worlds in which it is true.** A phenomenon is about a few small
worlds, listed in `words/mini_nli.yaml`: nothing is done without trying, so "tried" and "done" make
three. There, each sentence stands beside the condition under which it is true, such as `tried and
not done` for "failed to". A Python int is the set of worlds (bit i: true in world i). So nobody
labels by hand:

    entailment      premise & ~hypothesis == 0    the hypothesis holds in every world of the premise
    contradiction   premise & hypothesis == 0     no world is in both
    neutral         otherwise

**Annotators differ because they read differently.** To some, "some dogs are running" leaves open
that all are; to others it says "not all". So a sentence has a literal and a pragmatic set of
worlds, and each phenomenon says which share of the readers is pragmatic. `label_dist` is the vote
of all readers, hence exactly known; `label` is the answer of one of them.
"""

import re
from collections import Counter, namedtuple
from functools import cache
from itertools import chain, combinations_with_replacement, product

from .grammar import words

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)

# A sentence, with its set of worlds for the two kinds of readers.
Sentence = namedtuple("Sentence", "text literal pragmatic")
# What one small situation lets us say; judge: (premise, hypothesis) → [3] probabilities.
Setting = namedtuple("Setting", "key premises hypotheses judge")


# -- meaning --------------------------------------------------------------------------------------


def table(situation):
    """What the YAML says of a situation."""
    return words("mini_nli")["situations"][situation]


@cache
def worlds(situation):
    """All worlds of a situation of the YAML, as dicts of what its conditions may ask about."""
    if situation == "quantifiers":
        return herds()
    variables = table(situation)["worlds"]
    possible = table(situation).get("possible", "True")
    found = []
    for values in product(*variables.values()):
        world = dict(zip(variables, values))
        if holds(possible, world):
            found.append(world)
    return found


def holds(condition, world):
    """Is a condition, a Python expression of our own YAML, true in a world?"""
    return eval(condition, {"__builtins__": {}}, world)


@cache
def where(situation, condition):
    """The set of worlds in which a condition holds, as an int."""
    condition = compile(condition, situation, "eval")
    found = 0
    for i, world in enumerate(worlds(situation)):
        if holds(condition, world):
            found |= 1 << i
    return found


def sentences(situation, **values):
    """All that a situation lets us say: texts and conditions of the YAML with `values` filled in.

    A sentence without a pragmatic condition is read alike by everybody.
    """
    found = []
    for text, *conditions in table(situation)["sentences"]:
        text = text.format(**values)
        text = re.sub(r"\ba (?=[aeiou])", "an ", text)
        text = text[0].upper() + text[1:] + "."
        sets = [where(situation, condition.format(**values)) for condition in conditions]
        literal = sets[0]
        pragmatic = sets[-1]
        found.append(Sentence(text, literal, pragmatic))
    return found


def relation(premise, hypothesis):
    """The label of two sets of worlds."""
    if not premise & hypothesis:
        return CONTRADICTION
    return NEUTRAL if premise & ~hypothesis else ENTAILMENT


def setting(situation, key, said):
    """A setting in which any sentence may be premise or hypothesis, judged by all readers."""
    share = table(situation)["pragmatic"]

    def judge(premise, hypothesis):
        votes = [0.0, 0.0, 0.0]
        votes[relation(premise.literal, hypothesis.literal)] += 1 - share
        votes[relation(premise.pragmatic, hypothesis.pragmatic)] += share
        return votes

    return Setting(key, said, said, judge)


# -- phenomena: (random generator, word lists) → Setting ------------------------------------------


@cache
def herds():
    """The worlds of the quantifiers: groups of up to five individuals, counted.

    An individual is one of the kind (dogs), of its sibling (cats) or another of the general noun
    (animals), and it does the special verb (running), its sibling (walking), another of the general
    verb (moving) or none of it. There is at least one of the kind and one of the sibling.

    A world says `noun1`, how many there are of noun 1, and `noun1_verb2`, how many of them do verb
    2. 0 is the general noun or verb, 1 the special one, 2 its sibling.
    """
    kind, sibling, other = 1, 2, 3
    individuals = [None, *product((kind, sibling, other), (1, 2, 3, None))]
    found = []
    for group in combinations_with_replacement(individuals, 5):
        count = Counter()
        for individual in filter(None, group):
            noun, verb = individual
            for n in (0, noun):  # whoever is a dog is an animal
                count[f"noun{n}"] += 1
                if verb:  # and whoever runs, moves
                    count[f"noun{n}_verb0"] += 1
                    count[f"noun{n}_verb{verb}"] += 1
        if count["noun1"] and count["noun2"]:
            found.append(count)
    return found


def quantifiers(rng, w):
    """All, some, no, most … about a kind or about what it does.

    The direction of the entailment flips with the quantifier.
    """
    nouns = rng.choice(w["groups"])
    verbs = rng.choice(w["doings"])
    vary_noun = rng.random() < 0.5  # the noun or the verb, not both
    fixed = rng.randrange(3)
    columns = []
    for varied in range(3):
        n, v = (varied, fixed) if vary_noun else (fixed, varied)
        counts = {"all_of_them": f"noun{n}", "those_who_do": f"noun{n}_verb{v}"}
        columns.append(sentences("quantifiers", noun=nouns[n], verb=verbs[v], **counts))
    # quantifier by quantifier, not noun by noun: the order decides which one a draw hits
    said = list(chain(*zip(*columns)))
    return setting("quantifiers", (nouns[0], verbs[0], vary_noun, fixed), said)


def numbers(rng, w):
    """At least, more than, exactly: a bare number means "exactly" to seven readers in ten."""
    noun = rng.choice(w["counted"])
    place = rng.choice(w["places"])
    said = []
    for k, number in enumerate(w["numbers"], 2):
        said += sentences("numbers", number=number, noun=noun, place=place, k=k)
    return setting("numbers", (noun, place), said)


def connectives(rng, w):
    """And, or, neither, only: "or" excludes "and" for four readers in ten."""
    x, y = rng.sample(w["names"], 2)
    v, u = rng.sample(w["activities"], 2)
    situation = "two people" if rng.random() < 0.5 else "two activities"
    return setting(situation, (x, v), sentences(situation, x=x, y=y, v=v, u=u))


def roles(rng, w):
    """Who did it to whom: active, passive, swapped, somebody, nobody.

    Mutual verbs hold both ways.
    """
    x, y = rng.sample(w["names"], 2)
    situation = "mutual" if rng.random() < 0.3 else "directed"
    past, base = rng.choice(w[situation])
    verb = {"past": past, "base": base}
    said = sentences(situation, p=x, q=y, did="x_y", another_did="other_y", **verb)
    said += sentences(situation, p=y, q=x, did="y_x", another_did="other_x", **verb)
    return setting(situation, (*sorted((x, y)), past), said)


def comparisons(rng, w):
    """Older, younger, as old as: a swap contradicts, unless the word is swapped too."""
    x, y = rng.sample(w["names"], 2)
    more, less, plain = rng.choice(w["scales"])
    scale = {"more": more, "less": less, "plain": plain}
    said = sentences("comparisons", p=x, q=y, ahead="x_minus_y", **scale)
    said += sentences("comparisons", p=y, q=x, ahead="-x_minus_y", **scale)
    return setting("comparisons", (*sorted((x, y)), more), said)


def as_drawn(situation):
    """A phenomenon that needs no more than its entry in the YAML: kinds, times, deeds, hedges."""

    def phenomenon(rng, w):
        drawn = table(situation)["draw"]
        values = {name: rng.choice(w[of]) for name, of in drawn.items()}
        key = tuple(part.format(**values) for part in table(situation)["key"])
        return setting(situation, key, sentences(situation, **values))

    return phenomenon


def scenes(rng, w):
    """World knowledge: somebody in the kitchen with a pan is likely to be cooking.

    A reader remembers three such scenes and says entailment if it was so in all of them,
    contradiction if in none. So these sentences need no worlds: a premise keeps the likelihood of
    the activity in its place, a hypothesis whether it says that the activity goes on.
    """
    x, y = rng.sample(w["names"], 2)
    who = rng.choice([f"{x} is", f"{x} and {y} are"])
    column, activity = rng.choice(list(enumerate(w["scenes"]["columns"])))
    places = w["scenes"].items()
    premises = [
        Sentence(f"{who} {place}.", likelihoods[column], None)
        for place, likelihoods in places
        if place != "columns"
    ]
    hypotheses = [
        Sentence(f"{who} {activity}.", True, None),
        Sentence(f"{who} not {activity}.", False, None),
    ]

    def judge(premise, hypothesis):
        likely = premise.literal if hypothesis.literal else 1 - premise.literal
        always = likely**3
        never = (1 - likely) ** 3
        return [always, 1 - always - never, never]

    return Setting((who, activity), premises, hypotheses, judge)


# -- rows -----------------------------------------------------------------------------------------

# {phenomenon: its share of the rows}
SHARES = {
    "quantifiers": 13,
    "numbers": 10,
    "kinds": 10,
    "connectives": 7,
    "roles": 6,
    "comparisons": 8,
    "times": 8,
    "deeds": 10,
    "hedges": 12,
    "scenes": 16,
}
PHENOMENA = {name: globals().get(name) or as_drawn(name) for name in SHARES}
same_pair = tuple  # a swapped pair asks something else, so it is another
# How often each label is asked for, not 1 : 1 : 1: readers drift from the first two to the third.
WANTED = (34, 37, 29)


def pair(rng, phenomenon):
    """One (key, premise, hypothesis, label_dist).

    The hypothesis comes first, then the wanted answer, then a premise that gives it: so a
    hypothesis alone says nothing about the label.
    """
    setting = PHENOMENA[phenomenon](rng, words("mini_nli"))
    while True:
        hypothesis = rng.choice(setting.hypotheses)
        by_answer = [[], [], []]
        for premise in setting.premises:
            if premise.text != hypothesis.text:
                votes = setting.judge(premise, hypothesis)
                by_answer[votes.index(max(votes))].append((premise, votes))
        if all(by_answer):
            (wanted,) = rng.choices(by_answer, WANTED)
            # graded answers, where readers differ, come twice as often
            weights = [2 if max(votes) < 1 else 1 for _, votes in wanted]
            ((premise, votes),) = rng.choices(wanted, weights)
            return setting.key, premise.text, hypothesis.text, votes
