"""From an English sentence of MiniParl back to its trees, with the same rules that wrote it."""

import re
from collections import defaultdict
from functools import cache

from .inflection import inflect, refer
from .lexicon import Word, chances, lexicon, rules

TOKEN = re.compile(
    r"-(?:t-)?(?:il|elle)s?\b"  # "-t-elle" is a word of its own
    r"|'s\b"
    r"|\w+(?:-(?!(?:t-)?(?:il|elle)s?\b)\w+)*(?:'(?!s\b))?"  # so is "l'"
    r"|[^\w\s]"
)


def split(text):
    """The words of a sentence, punctuation apart, so that `join` can undo it."""
    return TOKEN.findall(text)


def join(words):
    """The French sentence of these words."""
    text = ""
    for word in words:
        attached = not text or text[-1] == "'" or word[0] in "-,."
        text += word if attached else " " + word
    return text


def plain(text):
    """The words of an English text as the parser compares them: in lower case, "an" as "a"."""
    return tuple("a" if word == "an" else word for word in split(text.lower()))


@cache
def spellings(name, form):
    """{first word: [(words, concept)]}: all that a class of words may look like in a form.

    The same for a fixed word, whose concept is None.
    """
    classes, kinds = lexicon()
    found = set()
    for number in "sp":
        for person in (1, 3):
            other = Word("", number=number, person=person)  # whatever it may have to agree with
            if name not in classes:
                found.add((plain(refer("en", {"x": other}, {}, (name, form, "x"))), None))
            for concept, both in classes.get(name, {}).items():
                for word in both["en"]:
                    if kinds[name] == "nouns":
                        word = word._replace(number=number)
                    found.add((plain(inflect("en", kinds[name], word, form, other)), concept))
    by_first = defaultdict(list)
    for words, concept in sorted(found, key=repr):
        by_first["".join(words[:1])].append((words, concept))
    return dict(by_first)


@cache
def english_parts(number):
    """The English templates of a rule, as the parser walks them: words and references."""
    found = []
    for template, _ in rules()[0][number].templates["en"]:
        parts = []
        for part in template:
            parts += plain(part) if isinstance(part, str) else [part]
        found.append(parts)
    return found


class Parser:
    """All trees whose English is these words; agreement is not looked at (see `readings`).

    A recursive descent over the templates that remembers what it found at each position.
    """

    def __init__(self, words):
        self.words = words
        self.trees = cache(self.trees)

    def trees(self, symbol, start):
        """[(tree, end)] for a symbol from a position."""
        found = []
        for what in chances(symbol):
            if isinstance(what, int):
                found += self.rule(what, start)
        return found

    def rule(self, number, start):
        """[(tree, end)] for a rule from a position."""
        rule = rules()[0][number]
        found = set()
        for parts in english_parts(number):
            for bound, end in self.match(rule, parts, {}, start):
                children = [bound.get(name) for name in rule.children]
                found.add(((number, *children), end))
        return sorted(found, key=repr)

    def spelt(self, name, form, at):
        """[(leaf, end)] for a class of words, or for a fixed word."""
        by_first = spellings(name, form)
        candidates = by_first.get("".join(self.words[at : at + 1]), [])
        if at < len(self.words):
            candidates = candidates + by_first.get("", [])  # a word may be spelt as nothing
        found = []
        for words, concept in candidates:
            end = at + len(words)
            if self.words[at:end] == words:
                found.append(((name, concept), end))
        return found

    def match(self, rule, parts, bound, at):
        """({child: tree}, end) for each way to read the parts of a template from a position."""
        if not parts:
            if all(bound.get(name) or rule.optional[name] < 1 for name in rule.children):
                yield bound, at
            return
        part, *rest = parts
        if isinstance(part, str):
            if self.words[at : at + 1] == (part,):
                yield from self.match(rule, rest, bound, at + 1)
            return
        name, form, _ = part
        if name not in rule.children:  # a fixed word
            for _, end in self.spelt(name, form, at):
                yield from self.match(rule, rest, bound, end)
            return
        for tree, end in self.child(rule, name, form, at):
            # a child that the template names twice must be the same in both places
            if name not in bound or bound[name] == tree:
                yield from self.match(rule, rest, {**bound, name: tree}, end)

    def child(self, rule, name, form, at):
        """[(tree, end)] for a child of a rule: by other rules, by words, or left out."""
        symbol = rule.children[name]
        found = list(self.trees(symbol, at))
        for what in chances(symbol):
            if not isinstance(what, int):
                found += self.spelt(what, form, at)
        if rule.optional[name] < 1:
            found.append((None, at))
        return found
