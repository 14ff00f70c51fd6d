"""The words and rules of MiniParl, as `words/miniparl.yaml` writes them.

A word of the YAML is a line such as

    unemployment = le chômage m
    red tape = la bureaucratie f 0.6 / les lourdeurs administratives f p

with synonyms, their genders and numbers, and their shares. A rule has children and one template for
each language, explained in `miniparl`.
"""

import re
from collections import defaultdict, namedtuple
from functools import cache

from .grammar import words

LANGUAGES = ("en", "fr")

Word = namedtuple(
    "Word",
    "text gender number person before share particle",
    defaults=("m", "s", 3, False, None, ""),
)
Rule = namedtuple("Rule", "symbol children optional templates head number share")
Phrase = namedtuple("Phrase", "text gender number person", defaults=("m", "s", 3))


def table(section):
    """A section of the YAML."""
    return words("miniparl")[section]


# -- words ----------------------------------------------------------------------------------------


def tag(token):
    """The property of a word that a token states, as {name: value}; {} for a token of its text."""
    if re.fullmatch(r"0\.\d+", token):
        return {"share": float(token)}
    return table("tags").get(token, {})


def synonyms(side):
    """The words of "la commission f 0.7 / le comité m": tags are read from the right.

    The last share is what the others leave. Raises ValueError if the shares do not sum to 1.
    """
    found = []
    for part in side.split(" / "):
        tokens = part.split()
        tags = {}
        while stated := tag(tokens[-1]):
            tags |= stated
            tokens.pop()
        text, _, particle = " ".join(tokens).partition(" +")
        found.append(Word(text, particle=particle, **tags))
    left = 1 - sum(word.share or 0 for word in found)
    found = [word if word.share else word._replace(share=left) for word in found]
    total = sum(word.share for word in found)
    if abs(total - 1) > 1e-9:
        raise ValueError(f"the shares do not sum to 1: {side!r}")
    return tuple(found)


@cache
def lexicon():
    """{class: {concept: {"en": words, "fr": words}}} and {class: kind}.

    A concept is called after its first English word.
    """
    classes, kinds = {}, {}
    for kind in ("names", "nouns", "verbs", "adjectives", "determiners", "phrases"):
        for name, lines in table(kind).items():
            classes[name] = {}
            kinds[name] = kind
            for line in lines:
                english, french = map(synonyms, line.split(" = "))
                concept = f"{english[0].text} {english[0].particle}".strip()
                classes[name][concept] = {"en": english, "fr": french}
    return classes, kinds


def concepts(kind):
    """[{"en": words, "fr": words}] of all classes of a kind, one a concept."""
    classes, kinds = lexicon()
    return [both for name in classes if kinds[name] == kind for both in classes[name].values()]


# -- rules ----------------------------------------------------------------------------------------

REFERENCE = re.compile(r"\{(.+?)(?:\.(.+?))?(?:/(.+?))?\}")  # {name.form/agreement}


def compiled(template):
    """A template as a tuple of strings and (name, form, agreement) references."""
    parts = []
    for part in re.split(r"(\{.+?\})", template):
        reference = REFERENCE.fullmatch(part)
        if part:
            parts.append(reference.groups() if reference else part)
    return tuple(parts)


def filled(thing, value):
    """A rule's text, or dict of them, with the $-variables of `value` replaced."""
    if isinstance(thing, dict):
        return {filled(key, value): filled(content, value) for key, content in thing.items()}
    if isinstance(thing, str):
        for name, text in value.items():
            if name != "share":
                thing = thing.replace("$" + name, text)
    return thing


def expand(symbol, body):
    """The rule once for each value of the $-variables that it uses: (symbol, body, share)."""
    found = [(symbol, body, 1.0)]
    for variable in table("several"):
        names = [name for name in variable[0] if name != "share"]
        total = sum(value.get("share", 1) for value in variable)
        expanded = []
        for old_symbol, old_body, share in found:
            text = old_symbol + repr(old_body)
            if not any("$" + name in text for name in names):
                expanded.append((old_symbol, old_body, share))
                continue
            for value in variable:
                new_symbol = filled(old_symbol, value)
                # a variable in the symbol makes several symbols, each with shares of its own
                divisor = total if new_symbol == old_symbol else 1
                part = share * value.get("share", 1) / divisor
                expanded.append((new_symbol, filled(old_body, value), part))
        found = expanded
    return found


def read_rule(symbol, body, share):
    """A `Rule` from what the YAML says of it."""
    children, optional = {}, {}
    for child, specification in body["with"].items():
        what, _, probability = str(specification).partition(" ")
        children[child] = what
        optional[child] = float(probability or 1)
    templates = {}
    for lang in LANGUAGES:
        side = body[lang] if isinstance(body[lang], dict) else {body[lang]: 1.0}
        templates[lang] = [(compiled(template), p) for template, p in side.items()]
    head, _, number = body.get("head", " ").partition(" ")
    return Rule(symbol, children, optional, templates, head, number, share)


@cache
def rules():
    """All rules as a list, and {symbol: [(number, share)]}."""
    found = []
    by_symbol = defaultdict(list)
    for symbol, bodies in table("rules").items():
        for body in bodies:
            for name, expanded, share in expand(symbol, body):
                by_symbol[name].append((len(found), share * expanded.get("share", 1)))
                found.append(read_rule(name, expanded, share))
    shares = {}
    for name, numbered in by_symbol.items():
        total = sum(share for _, share in numbered)
        shares[name] = [(number, share / total) for number, share in numbered]
    return found, shares


@cache
def chances(symbol):
    """{class of words, or number of a rule: probability} for what a symbol stands for."""
    classes, _ = lexicon()
    alternatives = table("either").get(symbol)
    if alternatives is None:
        return {symbol: 1.0} if symbol in classes else dict(rules()[1][symbol])
    total = sum(alternatives.values())
    found = defaultdict(float)
    for other, share in alternatives.items():
        for what, probability in chances(other).items():
            found[what] += probability * share / total
    return dict(found)


def phenomena():
    """[{"P": name, "W": what it may open with, "share": of the rows}]."""
    return next(values for values in table("several") if "P" in values[0])
