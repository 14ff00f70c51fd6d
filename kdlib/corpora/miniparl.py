"""The grammar of MiniParl: English–French pairs whose *true next-word distribution* is known.

MiniParl has the schema of Helsinki-NLP/europarl and its subjects (votes, reports, fisheries), and
nothing else in common with it: every sentence is made up by the rules in `words/miniparl.yaml`, and
no number from it is a Europarl result.

**A tree means something; both languages say it.** A rule has children and two templates, one a
language:

    children   s: institution, v: law-verb, o: text
    en         {s} {have.present/s} {v.participle} {o}      the Council has rejected the proposal
    fr         {s} {avoir.present/s} {v.participle} {o}     le Conseil a rejeté la proposition

`{v.form/s}` is child v (or a word of that name) in a form that agrees with child s. A leaf is a
concept, and a language has one word for it or several with shares: "approve" is said "approuver"
four times in five and "valider" once. Genders differ between synonyms, so articles, adjectives and
participles are made to agree after the word is chosen; what depends on neighbours alone comes last
(`inflection.finish`): de le → du, de des → de, le + vowel → l', ce + vowel → cet, adopte-il →
adopte-t-il.

**So the truth can be counted.** The translations of a tree are all combinations of its choices,
with the product of their shares; the next word after a prefix is distributed as among those
translations that begin with it. No model is asked:

    translations("The Council has rejected the proposal.")
        {"Le Conseil a rejeté la proposition.": 0.8, "Le Conseil a repoussé la proposition.": 0.2}
    next_words("The Council has rejected the proposal.", "Le Conseil a")
        {"rejeté": 0.8, "repoussé": 0.2}

A sentence is parsed back into its trees with the same rules; should it have several, their
translations are mixed as the grammar would draw them. **A combination of who, what is done and to
what belongs to one split only**, in whatever tense it is said.

A tree is (number of the rule, child, …); a leaf is (class, concept); an optional child that was
left out is None.
"""

import re
from collections import defaultdict
from functools import cache, lru_cache
from itertools import product

from . import grammar
from .grammar import SEED
from .inflection import finish, refer
from .lexicon import LANGUAGES, Phrase, chances, lexicon, phenomena, rules, table
from .parser import Parser, join, plain, split

MOST = 400  # translations of one sentence: more are not drawn
LONGEST = 25  # words of one sentence, in either language


# -- from trees to sentences ----------------------------------------------------------------------


@lru_cache(1 << 16)
def said(tree, lang):
    """{Phrase: probability}, all that a language can say for a tree."""
    number, *children = tree
    rule = rules()[0][number]
    _, kinds = lexicon()
    options = []  # for each child, what it may be: [(Word, Phrase or None, probability)]
    kind = {}
    for name, child in zip(rule.children, children):
        options.append(choices(rule, name, child, lang))
        if child is not None:
            kind[name] = kinds.get(child[0])
    found = defaultdict(float)
    for chosen in product(*options):
        values = {}
        probability = 1.0
        for name, (value, share) in zip(rule.children, chosen):
            values[name] = value
            probability *= share
        head = values[rule.head] if rule.head else Phrase("")
        for template, share in rule.templates[lang]:
            text = ""
            for part in template:
                text += part if isinstance(part, str) else refer(lang, values, kind, part)
            phrase = Phrase(text, head.gender, head.number, head.person)
            found[phrase] += probability * share
    return dict(found)


def choices(rule, name, child, lang):
    """[(what a child of a rule may be in a language, probability)]."""
    if child is None:
        return [(None, 1.0)]
    if is_tree(child):
        return list(said(child, lang).items())
    of_class, concept = child
    number = {"number": rule.number} if name == rule.head else {}
    synonyms = lexicon()[0][of_class][concept][lang]
    return [(word._replace(**number), word.share) for word in synonyms]


def is_tree(child):
    """A tree begins with the number of its rule, a leaf with the name of its class."""
    return isinstance(child[0], int)


@lru_cache(1 << 15)
def sentences(tree, lang):
    """{sentence: probability} of a tree in "en" or "fr"."""
    found = defaultdict(float)
    for phrase, probability in said(tree, lang).items():
        found[finish(lang, phrase.text)] += probability
    return dict(found)


def draw(rng, symbol):
    """A random tree of a symbol (a rule's or a class of words)."""
    classes, _ = lexicon()
    either = table("either")
    while symbol in either:
        (symbol,) = rng.choices(list(either[symbol]), list(either[symbol].values()))
    if symbol in classes:
        return symbol, rng.choice(list(classes[symbol]))
    every_rule, by_symbol = rules()
    numbers, shares = zip(*by_symbol[symbol])
    (number,) = rng.choices(numbers, shares)
    rule = every_rule[number]
    children = []
    for name, what in rule.children.items():
        present = rng.random() < rule.optional[name]
        children.append(draw(rng, what) if present else None)
    return number, *children


def prior(symbol, tree):
    """The probability that `draw` draws this tree."""
    what, *children = tree
    probability = chances(symbol)[what]
    if not is_tree(tree):
        return probability / len(lexicon()[0][what])
    rule = rules()[0][what]
    for (name, child_symbol), child in zip(rule.children.items(), children):
        if child is None:
            probability *= 1 - rule.optional[name]
        else:
            probability *= rule.optional[name] * prior(child_symbol, child)
    return probability


# -- the truth ------------------------------------------------------------------------------------


@lru_cache(1 << 12)
def readings(english):
    """{tree: probability} of what an English sentence means.

    Raises ValueError if the grammar cannot say it.
    """
    words = plain(english)
    found = defaultdict(float)
    for phenomenon in phenomena():
        symbol = phenomenon["P"] + "-sentence"
        for tree, end in Parser(words).trees(symbol, 0):
            if end == len(words):
                # the parser ignores agreement: a tree that is never said so has probability 0
                said_so = sentences(tree, "en").get(english, 0.0)
                if said_so:
                    found[tree] += phenomenon["share"] * prior(symbol, tree) * said_so
    if not found:
        raise ValueError(f"not a sentence of MiniParl: {english!r}")
    total = sum(found.values())
    return {tree: probability / total for tree, probability in found.items()}


def likeliest_first(shares):
    """A dict sorted by falling probability, and alphabetically where they are equal."""
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


@lru_cache(1 << 12)
def translations(source):
    """{French: probability} for an English sentence (or a tree), most likely first.

    Raises ValueError for any other sentence.
    """
    if not isinstance(source, str):
        return likeliest_first(sentences(source, "fr"))
    found = defaultdict(float)
    for tree, weight in readings(source).items():
        for french, probability in sentences(tree, "fr").items():
            found[french] += weight * probability
    return likeliest_first(found)


@lru_cache(1 << 12)
def continuations(source):
    """{words so far: {next word: probability mass}} over all translations."""
    found = defaultdict(lambda: defaultdict(float))
    for french, probability in translations(source).items():
        words = split(french)
        for i, word in enumerate([*words, ""]):
            found[tuple(words[:i])][word] += probability
    return found


def next_words(english, prefix=""):
    """{next word: probability} after a French prefix of whole words; "" ends the sentence.

    english: a sentence or a tree; prefix: text, or a list of words as `split` gives them. Exact:
    the translations that begin so. Raises ValueError if no translation does.
    """
    words = tuple(split(prefix) if isinstance(prefix, str) else prefix)
    mass = continuations(english).get(words)
    if mass is None:
        raise ValueError(f"no translation of {english!r} begins with {prefix!r}")
    total = sum(mass.values())
    return {word: probability / total for word, probability in likeliest_first(mass).items()}


def next_ids(english, target, encode):
    """[{id: probability}], one a token of `target`: how the next token is truly distributed.

    encode: text → token ids, with whatever ends a translation. Exact for any tokenizer:
    translations are compared as ids. Raises ValueError unless `target` is one of the translations.
    """
    alive = [(encode(text), probability) for text, probability in translations(english).items()]
    found = []
    for i, token in enumerate(encode(target)):
        # the translations that begin as the target does, up to here
        alive = [(ids, probability) for ids, probability in alive if len(ids) > i]
        mass = defaultdict(float)
        for ids, probability in alive:
            mass[ids[i]] += probability
        if token not in mass:
            raise ValueError(f"{target!r} is no translation of {english!r}")
        total = sum(mass.values())
        found.append({other: probability / total for other, probability in mass.items()})
        alive = [(ids, probability) for ids, probability in alive if ids[i] == token]
    return found


def greedy(english):
    """The translation that takes the most likely next word each time.

    This is what a perfect student says.
    """
    words = []
    while word := next(iter(next_words(english, words))):
        words.append(word)
    return join(words)


# -- rows -----------------------------------------------------------------------------------------

# What a combination is made of: all nouns and verbs, and the concepts of these classes.
SPLIT_KINDS = {"nouns", "verbs"}
SPLIT_CLASSES = {
    "executive",
    "person",
    "chamber",
    "authority",
    "party",
    "speaker",
    "goods",
    "burden",
    "text-predicate",
    "plan-predicate",
    "common-predicate",
}


def leaves(tree):
    """All leaves of a tree: (class, concept)."""
    _, *children = tree
    for child in filter(None, children):
        if is_tree(child):
            yield from leaves(child)
        else:
            yield child


def key(tree):
    """The combination of a tree, a sorted tuple of concepts: who, does what (or is what), to what.

    Tense, number, adjectives, topics and whatever surrounds them are left out, so that a held-out
    combination is new in every guise.
    """
    _, kinds = lexicon()
    found = set()
    for of_class, concept in leaves(tree):
        if of_class in SPLIT_CLASSES or kinds[of_class] in SPLIT_KINDS:
            found.add(concept)
    return tuple(sorted(found))


@cache
def rows(seed=SEED):
    """{split: list of {"translation": {"en", "fr"}, "phenomenon"}}.

    No English sentence comes twice, the French is one draw. Another seed gives further rows of the
    same grammar; its train rows hold no combination of the stored validation and test files.
    """
    rows_of = {name: [] for name in grammar.SPLITS["miniparl"]}
    shares = {phenomenon["P"]: phenomenon["share"] for phenomenon in phenomena()}
    seen = set()
    known = set()  # the words of the training rows

    def attempt(rng, phenomenon, missing):
        tree = draw(rng, phenomenon + "-sentence")
        name = grammar.split_name("miniparl", key(tree))
        if not missing.get(name) or not fits(tree):
            return None
        translation = {lang: draw_text(rng, tree, lang) for lang in LANGUAGES}
        # no evaluation row may need a word that training lacks
        unknown = known and not known.issuperset(every_word(tree))
        if translation["en"] in seen or unknown:
            return None
        seen.add(translation["en"])
        return name, {"translation": translation, "phenomenon": phenomenon}

    for names in (["train"], ["validation", "test"]):
        grammar.fill(
            "miniparl",
            rows_of,
            names,
            shares,
            attempt,
            seed=f"{seed} miniparl {{}} {names[0]}",
            what="sentences of",
            tries=100_000,
        )
        for row in rows_of["train"]:
            for text in row["translation"].values():
                known.update(split(text.lower()))
    grammar.shuffle(rows_of, seed)
    return rows_of


def draw_text(rng, tree, lang):
    """One of the sentences of a tree."""
    texts = sentences(tree, lang)
    (text,) = rng.choices(list(texts), list(texts.values()))
    return text


def every_word(tree):
    """All words of all sentences of a tree, of both languages, in lower case."""
    found = set()
    for lang in LANGUAGES:
        for text in sentences(tree, lang):
            found.update(split(text.lower()))
    return found


def fits(tree):
    """Whether a tree is drawn at all: no concept twice, not too long, not too many translations.

    It looks at the tree, never at the drawn French, so that the draw stays a draw from
    `translations`.
    """
    _, kinds = lexicon()
    counted = ("names", "nouns", "verbs", "adjectives")
    concepts = sorted(concept for of_class, concept in leaves(tree) if kinds[of_class] in counted)
    for i, concept in enumerate(concepts):
        # nor "amend" an "amendment"
        if any(later.startswith(concept) for later in concepts[i + 1 :]):
            return False
    if len(sentences(tree, "fr")) > MOST:
        return False
    texts = [text for lang in LANGUAGES for text in sentences(tree, lang)]
    return all(4 < len(re.findall(r"\w+", text)) <= LONGEST for text in texts)


def vocabulary(lang, seed=SEED):
    """All word forms of a language, sorted, as `split` gives them, in lower case."""
    found = set()
    for split_rows in rows(seed).values():
        for row in split_rows:
            found.update(split(row["translation"][lang].lower()))
    return sorted(found)
