"""How MiniParl's words change: plurals, agreement, verb forms, and what French words do to their
neighbours.

`other` is always the word or phrase to agree with: its gender (m, f), number (s, p) and person
(1, 3) matter. Irregular forms, endings and the rules for neighbours are tables in
`words/miniparl.yaml`.
"""

import re
from functools import cache

from .lexicon import Phrase, Word, concepts, table

CONSONANT_Y = "(?<![aeiou])y$"  # of "try", not of "play"


def plural(lang, noun):
    """The plural of a noun or a masculine adjective.

    In French only the first word changes: "plans d'action", "projets de budget".
    """
    if lang == "en":
        return re.sub(CONSONANT_Y, "ie", noun) + "s"
    first, space, rest = noun.partition(" ")
    if first.endswith("al"):
        first = first.removesuffix("al") + "aux"
    elif first.endswith("eau"):
        first += "x"
    elif first[-1] not in "sx":
        first += "s"
    return first + space + rest


def by_gender_and_number(forms, other):
    """One of [masculine, feminine, masculine plural, feminine plural]."""
    plural = other.number == "p"
    feminine = other.gender == "f"
    return forms[2 * plural + feminine]


def agree(adjective, gender, number):
    """A French adjective or participle; of several words ("à long terme") it is invariable."""
    irregular = table("irregular")["fr"]
    if adjective in irregular:
        return by_gender_and_number(irregular[adjective], Phrase("", gender, number))
    if " " in adjective:
        return adjective
    if gender == "f":
        endings = table("endings")["feminine"]
        end = next(end for end in endings if adjective.endswith(end))
        adjective = adjective.removesuffix(end) + endings[end]
    return plural("fr", adjective) if number == "p" else adjective


def conjugate(lang, verb, form, other):
    """A verb in a form, agreeing with `other`."""
    irregular = table("irregular")[lang].get(verb, {})
    known = table("fixed")[f"{lang} verbs"].get(verb) or irregular
    place = 2 * (other.number == "p") + (other.person == 3)  # I, he, we, they
    forms = known.get(form)
    if form == "subjunctive" and verb.endswith("er"):
        forms = forms or known.get("present")
    if isinstance(forms, list):
        # two forms are those of the third person, singular and plural
        if len(forms) == 2:
            place = (None, 0, None, 1)[place]
        return forms[place]
    if lang == "en":
        return regular_english(verb, form, place, known)
    stem = verb.removesuffix("er")
    if form == "participle":
        participle = known.get("participle", stem + "é")
        return agree(participle, other.gender, other.number)
    if form in ("future", "conditional"):
        stem = known.get("future", verb)
    return stem + table("endings")[form][place]


def regular_english(verb, form, place, known):
    """The present, or the past, which is also the participle."""
    if form != "present":
        return known.get("past") or re.sub(CONSONANT_Y, "i", verb).removesuffix("e") + "ed"
    if place != 1:
        return verb
    ending = "es" if verb.endswith("ss") else "s"
    return re.sub(CONSONANT_Y, "ie", verb) + ending


def inflect(lang, kind, word, form, other):
    """A Word of a kind in a form ("present", "before", "particle", …), agreeing with `other`."""
    if form == "particle":
        return word.particle
    if form == "genitive":
        return word.text + ("'" if word.text.endswith("s") else "'s")
    if kind == "determiners":
        forms = table("fixed")[f"{lang} determiners"][word.text]
        if lang == "en":
            return forms[other.number == "p"]
        return by_gender_and_number(forms, other)
    if kind == "nouns":
        return plural(lang, word.text) if word.number == "p" else word.text
    if kind == "adjectives" and lang == "fr":
        # a template names both places of an adjective; it stands in one of them
        if form and (form == "before") != word.before:
            return ""
        return agree(word.text, other.gender, other.number)
    if kind == "verbs" and form:
        return conjugate(lang, word.text, form, other)
    return word.text


def refer(lang, values, kinds, reference):
    """The text of a reference in a template: a child, or one of the fixed words.

    values: {child: Word, Phrase, or None if it was left out}; kinds: {child: kind} for the words.
    """
    name, form, agreement = reference
    other = values[agreement] if agreement else Phrase("")
    if name not in values:
        return inflect(lang, fixed_kind(lang, name), Word(name), form, other)
    value = values[name]
    if value is None:
        return ""
    if isinstance(value, Phrase):
        return value.text
    return inflect(lang, kinds[name], value, form, other)


def fixed_kind(lang, name):
    """The kind of a word that a template names itself."""
    fixed = table("fixed")
    kinds = ("verbs", "determiners", "adjectives")
    return next(kind for kind in kinds if name in fixed.get(f"{lang} {kind}", ()))


# -- neighbours -----------------------------------------------------------------------------------


@cache
def sandhi():
    """[(pattern, replacement)], in order, for what French words do to their neighbours."""
    early = set()  # adjectives that stand before their noun: nouveaux, nouvelles, bons …
    for both in concepts("adjectives"):
        for word in both["fr"]:
            if word.before:
                early |= {agree(word.text, gender, "p") for gender in "mf"}
    names = {"EARLY": "|".join(sorted(early)), "VOWEL": table("vowel")}
    found = []
    for pattern, replacement in table("neighbours"):
        for name, text in names.items():
            pattern = pattern.replace(name, text)
        found.append((re.compile(pattern), replacement))
    return found


def finish(lang, text):
    """The text of a whole sentence: neighbours, spaces and the first capital."""
    text = re.sub(" +", " ", text).strip()
    if lang == "fr":
        for pattern, replacement in sandhi():
            text = pattern.sub(replacement, text)
    else:
        text = re.sub(r"\ba (?=[aeiou](?!u))", "an ", text)  # but "a European"
    # French keeps a space before its question mark
    text = re.sub(r" (?=[,.])" if lang == "fr" else r" (?=[,.?])", "", text)
    return text[0].upper() + text[1:]
