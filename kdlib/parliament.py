"""The grammar behind `data/miniparl`: English–French pairs whose *true next-word distribution* is known.

MiniParl has the schema of Helsinki-NLP/europarl and its subjects (votes, reports, fisheries), and nothing else in common with it:
every sentence is made up by the rules in `kdlib/words/miniparl.yaml`, and no number from it is a Europarl result.

**A tree means something; both languages say it.** A rule has children and two templates, one a language:

    children   s: institution, v: law-verb, o: text
    en         {s} {have.present/s} {v.participle} {o}                the Council has rejected the proposal
    fr         {s} {avoir.present/s} {v.participle} {o}               le Conseil a rejeté la proposition

`{v.form/s}` is child v (or a word of that name) in a form that agrees with child s. A leaf is a concept, and a language has one
word for it or several with shares: "approve" is said "approuver" four times in five and "valider" once. Genders differ between
synonyms, so articles, adjectives and participles are made to agree after the word is chosen; what depends on neighbours alone
comes last (`finish`): de le → du, de des → de, le + vowel → l', ce + vowel → cet, adopte-il → adopte-t-il.

**So the truth can be counted.** The translations of a tree are all combinations of its choices, with the product of their shares;
the next word after a prefix is distributed as among those translations that begin with it. No model is asked:

    translations("The Council has rejected the proposal.")     {"Le Conseil a rejeté la proposition.": 0.8, "… repoussé …": 0.2}
    next_words("The Council has rejected the proposal.", "Le Conseil a")     {"rejeté": 0.8, "repoussé": 0.2}

A sentence is parsed back into its trees with the same rules; should it have several, their translations are mixed as the grammar
would draw them. **A combination of who, what is done and to what belongs to one split only**, in whatever tense it is said.
"""
import random
import re
from collections import defaultdict, namedtuple
from functools import cache, lru_cache
from itertools import product

from . import corpora

SEED = corpora.SEED
MOST = 400                                                             # translations of one sentence: more are not drawn
LONGEST = 25                                                           # words of one sentence, in either language
LANGUAGES = ("en", "fr")

Word = namedtuple("Word", "text gender number person before share particle", defaults=("m", "s", 3, False, None, ""))
Rule = namedtuple("Rule", "symbol children optional templates head number share")
Phrase = namedtuple("Phrase", "text gender number person", defaults=("m", "s", 3))
# A tree is (number of the rule, child, …); a leaf is (class, concept); an optional child that was left out is None.

# ---------------------------------------------------------------- reading the YAML


def synonyms(side):
    """The words of "la commission f 0.7 / le comité m": tags from the right, the last share is what the others leave."""
    words = []
    for part in side.split(" / "):
        tokens, tags = part.split(), {}
        while tokens[-1] in "mfsp1<" or re.fullmatch(r"0\.\d+", tokens[-1]):
            tag = tokens.pop()
            tags |= ({"gender": tag} if tag in "mf" else {"number": tag} if tag in "sp" else {"person": 1} if tag == "1"
                     else {"before": True} if tag == "<" else {"share": float(tag)})
        text, _, particle = " ".join(tokens).partition(" +")
        words.append(Word(text, particle=particle, **tags))
    left = 1 - sum(word.share or 0 for word in words)
    words = [word if word.share else word._replace(share=left) for word in words]
    if abs(sum(word.share for word in words) - 1) > 1e-9:
        raise ValueError(f"the shares do not sum to 1: {side!r}")
    return tuple(words)


@cache
def lexicon():
    """{class: {concept: {"en": words, "fr": words}}} and {class: kind}; a concept is called after its first English word."""
    classes, kinds = {}, {}
    for kind in ("names", "nouns", "verbs", "adjectives", "determiners", "phrases"):
        for name, lines in corpora.words("miniparl")[kind].items():
            sides = [[synonyms(side) for side in line.split(" = ")] for line in lines]
            classes[name] = {" ".join((en[0].text, en[0].particle)).strip(): dict(zip(LANGUAGES, (en, fr))) for en, fr in sides}
            kinds[name] = kind
    return classes, kinds


def compiled(template):
    """A template as a list of strings and (name, form, agreement) references."""
    parts = (re.fullmatch(r"\{(.+?)(?:\.(.+?))?(?:/(.+?))?\}", part) or part for part in re.split(r"(\{.+?\})", template) if part)
    return tuple(part if isinstance(part, str) else part.groups() for part in parts)


def expand(symbol, rule):
    """The rule once for each value of the $-variables that it uses: (symbol, rule, share)."""
    found = [(symbol, rule, 1.0)]
    for variable in corpora.words("miniparl")["several"]:
        total, out = sum(value.get("share", 1) for value in variable), []
        for name, body, share in found:
            if not any("$" + key in name + repr(body) for key in variable[0] if key != "share"):
                out.append((name, body, share))
                continue
            for value in variable:
                def fill(x):
                    if isinstance(x, dict):
                        return {fill(k): fill(v) for k, v in x.items()}
                    for key, text in value.items():
                        x = x.replace("$" + key, text) if isinstance(x, str) and key != "share" else x
                    return x
                out.append((fill(name), fill(body), share * value.get("share", 1) / (total if fill(name) == name else 1)))
        found = out
    return found


@cache
def rules():
    """All rules as a list, and {symbol: [(number, share)]}."""
    found, by_symbol = [], defaultdict(list)
    for symbol, bodies in corpora.words("miniparl")["rules"].items():
        for name, body, share in (one for body in bodies for one in expand(symbol, body)):
            children, optional = {}, {}
            for child, spec in body["with"].items():
                what, _, p = str(spec).partition(" ")
                children[child], optional[child] = what, float(p or 1)
            sides = [body[lang] if isinstance(body[lang], dict) else {body[lang]: 1.0} for lang in LANGUAGES]
            templates = {lang: [(compiled(t), p) for t, p in side.items()] for lang, side in zip(LANGUAGES, sides)}
            head, _, number = body.get("head", " ").partition(" ")
            by_symbol[name].append((len(found), share * body.get("share", 1)))
            found.append(Rule(name, children, optional, templates, head, number, share))
    return found, {name: [(i, s / sum(s for _, s in some)) for i, s in some] for name, some in by_symbol.items()}


# ---------------------------------------------------------------- morphology


def plural(lang, noun):
    """The plural of a noun or a masculine adjective; of "plan d'action" and "projet de budget" the first word, in French."""
    first, _, rest = noun.partition(" ") if lang == "fr" else (noun, "", "")
    if lang == "en":
        return re.sub("(?<![aeiou])y$", "ie", first) + "s"
    if first[-1] not in "sx":
        first = first[:-2] + "aux" if first.endswith("al") else first + ("x" if first.endswith("eau") else "s")
    return f"{first} {rest}".strip()


def agree(adjective, gender, number):
    """A French adjective or participle; of several words ("à long terme") it is invariable."""
    irregular = corpora.words("miniparl")["irregular"]["fr"]
    if adjective in irregular:
        return irregular[adjective][2 * (number == "p") + (gender == "f")]
    if " " in adjective:
        return adjective
    if gender == "f":
        for end, feminine in (("e", "e"), ("eux", "euse"), ("if", "ive"), ("er", "ère"), ("en", "enne"), ("on", "onne"),
                              ("", "e")):
            if adjective.endswith(end):
                adjective = adjective.removesuffix(end) + feminine
                break
    return plural("fr", adjective) if number == "p" else adjective


def conjugate(lang, verb, form, word):
    """A verb in a form, agreeing with `word` (a Word or Phrase: gender, number, person)."""
    table = corpora.words("miniparl")
    known = table["fixed"][f"{lang} verbs"].get(verb) or table["irregular"][lang].get(verb, {})
    place = 2 * (word.number == "p") + (word.person == 3)              # [1st, 3rd] singular, [1st, 3rd] plural
    forms = known.get(form) or (known.get("present") if form == "subjunctive" and verb.endswith("er") else None)
    if isinstance(forms, list):
        return forms[place] if len(forms) == 4 else forms[[None, 0, None, 1][place]]
    if lang == "en":
        if form == "present":
            return verb if place != 1 else re.sub("(?<![aeiou])y$", "ie", verb) + ("es" if verb.endswith("ss") else "s")
        return known.get("past") or re.sub("(?<![aeiou])y$", "i", verb).removesuffix("e") + "ed"     # past, and participle
    stem = verb.removesuffix("er")
    if form in ("present", "subjunctive"):
        return stem + ["e", "e", "ons" if form == "present" else "ions", "ent"][place]
    if form == "participle":
        return agree(known.get("participle", stem + "é"), word.gender, word.number)
    endings = {"future": ["ai", "a", "ons", "ont"], "conditional": ["ais", "ait", "ions", "aient"]}[form]
    return known.get("future", verb) + endings[place]


def inflect(lang, kind, word, form, other):
    """A Word of a kind in a form ("present", "before", "particle", …), agreeing with `other`."""
    if form == "particle":
        return word.particle
    if form == "genitive":
        return word.text + ("'" if word.text.endswith("s") else "'s")
    if kind == "determiners":
        table = corpora.words("miniparl")["fixed"][f"{lang} determiners"][word.text]
        return table[other.number == "p"] if lang == "en" else table[2 * (other.number == "p") + (other.gender == "f")]
    if kind == "nouns":
        return plural(lang, word.text) if word.number == "p" else word.text
    if kind == "adjectives" and lang == "fr":
        return "" if form and (form == "before") != word.before else agree(word.text, other.gender, other.number)
    return conjugate(lang, word.text, form, other) if kind == "verbs" and form else word.text


@cache
def sandhi():
    """[(pattern, replacement)], in order, for what French words do to their neighbours; a word of ours has no aspirated h."""
    before = {word.text for name, kind in lexicon()[1].items() if kind == "adjectives"
              for both in lexicon()[0][name].values() for word in both["fr"] if word.before}
    early = "|".join(sorted({agree(text, gender, "p") for text in before for gender in "mf"}))     # nouveaux, nouvelles, bons …
    vowel = "(?=[aeiouyhàâéèêîôAEIOUÀÉÊÎÔ])"
    return [(re.compile(pattern), so) for pattern, so in (
        (r"\bde DES ", "de "), (rf"\bDES (?={early})", "de "), (r"\bDES ", "des "),
        (rf"\b(l|d|n|s|j|m|qu)e {vowel}", r"\1'"), (rf"\bla {vowel}", "l'"), (r"\bsi (?=ils?\b)", "s'"),
        (r"\bde le ", "du "), (r"\bde les ", "des "), (r"\bà le ", "au "), (r"\bà les ", "aux "),
        (rf"\bce {vowel}", "cet "), (rf"\bnouveau {vowel}", "nouvel "), (r"(?<=[ae])-(?=(?:il|elle)s?\b)", "-t-"))]


def finish(lang, text):
    """The text of a whole sentence: what depends on neighbouring words only, then spaces and the first capital."""
    text = re.sub(" +", " ", text).strip()
    for pattern, so in sandhi() if lang == "fr" else [(re.compile(r"\ba (?=[aeiou](?!u))"), "an ")]:      # but "a European"
        text = pattern.sub(so, text)
    text = re.sub(r" (?=[,.])" if lang == "fr" else r" (?=[,.?])", "", text)
    return text[0].upper() + text[1:]


# ---------------------------------------------------------------- from trees to sentences


@lru_cache(1 << 16)
def said(tree, lang):
    """{Phrase: probability}, all that a language can say for a tree."""
    rule, (classes, kinds) = rules()[0][tree[0]], lexicon()
    options, kind = [], {}
    for name, child in zip(rule.children, tree[1:]):
        if child is None:
            options.append([(None, 1.0)])
        elif isinstance(child[0], int):
            options.append(list(said(child, lang).items()))
        else:
            kind[name] = kinds[child[0]]
            number = {"number": rule.number} if name == rule.head else {}
            options.append([(word._replace(**number), word.share) for word in classes[child[0]][child[1]][lang]])
    out = defaultdict(float)
    for chosen in product(*options):
        values, p = dict(zip(rule.children, (value for value, _ in chosen))), 1.0
        for _, q in chosen:
            p *= q
        head = values[rule.head] if rule.head else Phrase("")
        for template, q in rule.templates[lang]:
            text = "".join(part if isinstance(part, str) else refer(lang, values, kind, *part) for part in template)
            out[Phrase(text, head.gender, head.number, head.person)] += p * q
    return dict(out)


def refer(lang, values, kind, name, form, agreement):
    """What a reference of a template stands for: a child, or one of the fixed words."""
    other = values[agreement] if agreement else Phrase("")
    if name not in values:
        fixed = corpora.words("miniparl")["fixed"]
        sort = next(sort for sort in ("verbs", "determiners", "adjectives") if name in fixed.get(f"{lang} {sort}", ()))
        return inflect(lang, sort, Word(name), form, other)
    value = values[name]
    return "" if value is None else value.text if isinstance(value, Phrase) else inflect(lang, kind[name], value, form, other)


@lru_cache(1 << 15)
def sentences(tree, lang):
    """{sentence: probability} of a tree in "en" or "fr"."""
    out = defaultdict(float)
    for phrase, p in said(tree, lang).items():
        out[finish(lang, phrase.text)] += p
    return dict(out)


def draw(rng, symbol):
    """A random tree of a symbol (a rule's or a class of words)."""
    classes, _ = lexicon()
    either = corpora.words("miniparl")["either"]
    while symbol in either:
        symbol = rng.choices(list(either[symbol]), list(either[symbol].values()))[0]
    if symbol in classes:
        return symbol, rng.choice(list(classes[symbol]))
    numbers, shares = zip(*rules()[1][symbol])
    number = rng.choices(numbers, shares)[0]
    rule = rules()[0][number]
    return number, *(draw(rng, what) if rng.random() < rule.optional[name] else None for name, what in rule.children.items())


@cache
def chances(symbol):
    """{class of words, or number of a rule: probability} for what a symbol stands for."""
    either = corpora.words("miniparl")["either"].get(symbol)
    if either is None:
        return {symbol: 1.0} if symbol in lexicon()[0] else dict(rules()[1][symbol])
    out = defaultdict(float)
    for other, share in either.items():
        for what, p in chances(other).items():
            out[what] += p * share / sum(either.values())
    return dict(out)


def prior(symbol, tree):
    """The probability that `draw` draws this tree."""
    p = chances(symbol)[tree[0]]
    if not isinstance(tree[0], int):
        return p / len(lexicon()[0][tree[0]])
    rule = rules()[0][tree[0]]
    for (name, what), child in zip(rule.children.items(), tree[1:]):
        p *= 1 - rule.optional[name] if child is None else rule.optional[name] * prior(what, child)
    return p


# ---------------------------------------------------------------- from sentences to trees


def split(text):
    """The words of a sentence: punctuation apart, "l'" and "-t-elle" words of their own (so that `join` can undo it)."""
    return re.findall(r"-(?:t-)?(?:il|elle)s?\b|'s\b|\w+(?:-(?!(?:t-)?(?:il|elle)s?\b)\w+)*(?:'(?!s\b))?|[^\w\s]", text)


def join(words):
    """The French sentence of these words."""
    text = ""
    for word in words:
        text += word if not text or text[-1] == "'" or word[0] in "-,." else " " + word
    return text


def plain(text):
    """The words of an English text as the parser compares them: in lower case, "an" as "a"."""
    return tuple("a" if word == "an" else word for word in split(text.lower()))


@cache
def spellings(name, form):
    """{first word: [(words, concept)]} for all that a class of words, or a fixed word (concept None), may look like in a form."""
    classes, kinds = lexicon()
    found, anybody = set(), [Word("", number=number, person=person) for number in "sp" for person in (1, 3)]
    for other in anybody:
        if name not in classes:
            found.add((plain(refer("en", {"x": other}, {}, name, form, "x")), None))
        for concept, both in classes.get(name, {}).items():
            for word in both["en"]:
                word = word._replace(number=other.number) if kinds[name] == "nouns" else word
                found.add((plain(inflect("en", kinds[name], word, form, other)), concept))
    by_first = defaultdict(list)
    for words, concept in sorted(found, key=repr):
        by_first["".join(words[:1])].append((words, concept))
    return dict(by_first)


@cache
def english_parts(number):
    """The English templates of a rule, as the parser walks them: words and references."""
    return [[piece for part in template for piece in (plain(part) if isinstance(part, str) else [part])]
            for template, _ in rules()[0][number].templates["en"]]


class Parser:
    """All trees whose English is these words; agreement is not looked at (see `readings`)."""

    def __init__(self, words):
        self.words, self.memo = words, {}

    def trees(self, symbol, start):
        """[(tree, end)] for a symbol from a position."""
        if (symbol, start) not in self.memo:
            self.memo[symbol, start] = [found for what in chances(symbol) if isinstance(what, int) for found in self.rule(what, start)]
        return self.memo[symbol, start]

    def rule(self, number, start):
        rule = rules()[0][number]
        found = set()
        for parts in english_parts(number):
            for bound, end in self.match(rule, parts, {}, start):
                found.add(((number, *(bound.get(name) for name in rule.children)), end))
        return sorted(found, key=repr)

    def spelt(self, name, form, at):
        """[(leaf, end)] for a class of words, or for a fixed word."""
        by_first = spellings(name, form)
        some = by_first.get("".join(self.words[at:at + 1]), []) + (by_first.get("", []) if at < len(self.words) else [])
        return [((name, concept), at + len(words)) for words, concept in some if self.words[at:at + len(words)] == words]

    def match(self, rule, parts, bound, at):
        """({child: tree}, end) for each way to read the parts from a position."""
        if not parts:
            if all(bound.get(name) or rule.optional[name] < 1 for name in rule.children):
                yield bound, at
            return
        part, rest = parts[0], parts[1:]
        if isinstance(part, str):
            if self.words[at:at + 1] == (part,):
                yield from self.match(rule, rest, bound, at + 1)
            return
        name, form, _ = part
        what = rule.children.get(name)
        found = self.spelt(name, form, at) if what is None else list(self.trees(what, at))
        for symbol in chances(what) if what else ():
            found += [] if isinstance(symbol, int) else self.spelt(symbol, form, at)
        if what and rule.optional[name] < 1:
            found.append((None, at))
        for tree, end in found:
            if what is None or name not in bound or bound[name] == tree:
                yield from self.match(rule, rest, bound if what is None else {**bound, name: tree}, end)


@lru_cache(1 << 12)
def readings(english):
    """{tree: probability} of what an English sentence means. Raises ValueError if the grammar cannot say it."""
    words = plain(english)
    found = {}
    for value in phenomena():
        symbol = value["P"] + "-sentence"
        for tree, end in Parser(words).trees(symbol, 0):
            p = said_as(tree, english) if end == len(words) else 0
            if p:
                found[tree] = found.get(tree, 0) + value["share"] * prior(symbol, tree) * p
    if not found:
        raise ValueError(f"not a sentence of MiniParl: {english!r}")
    return {tree: p / sum(found.values()) for tree, p in found.items()}


def said_as(tree, english):
    """The probability that a tree is said so in English."""
    return sentences(tree, "en").get(english, 0.0)


def phenomena():
    """[{"P": name, "W": what it may open with, "share": of the rows}]."""
    return next(values for values in corpora.words("miniparl")["several"] if "P" in values[0])


# ---------------------------------------------------------------- the truth


@lru_cache(1 << 12)
def translations(source):
    """{French: probability} for an English sentence (or a tree), most likely first. Raises ValueError for any other sentence."""
    if not isinstance(source, str):
        return dict(sorted(sentences(source, "fr").items(), key=lambda item: (-item[1], item[0])))
    out = defaultdict(float)
    for tree, weight in readings(source).items():
        for french, p in sentences(tree, "fr").items():
            out[french] += weight * p
    return dict(sorted(out.items(), key=lambda item: (-item[1], item[0])))


@lru_cache(1 << 12)
def _continued(source):
    """{words so far: {next word: probability mass}} over all translations."""
    out = defaultdict(lambda: defaultdict(float))
    for french, p in translations(source).items():
        words = split(french)
        for i, word in enumerate([*words, ""]):
            out[tuple(words[:i])][word] += p
    return out


def next_words(english, prefix=""):
    """{next word: probability} after a French prefix of whole words; "" is the end of the sentence.

    english: a sentence or a tree; prefix: text, or a list of words as `split` gives them. Exact: the translations that begin so.
    Raises ValueError if no translation does.
    """
    words = tuple(split(prefix) if isinstance(prefix, str) else prefix)
    mass = _continued(english).get(words)
    if mass is None:
        raise ValueError(f"no translation of {english!r} begins with {prefix!r}")
    total = sum(mass.values())
    return {word: p / total for word, p in sorted(mass.items(), key=lambda item: (-item[1], item[0]))}


def next_ids(english, target, encode):
    """[{id: probability}], one a token of `target`: how the next token is truly distributed after those before it.

    encode: text → token ids, with whatever ends a translation. Exact for any tokenizer: translations are compared as ids.
    Raises ValueError unless `target` is one of the translations.
    """
    ids, alive, out = encode(target), [(encode(text), p) for text, p in translations(english).items()], []
    for i, said in enumerate(ids):
        mass = defaultdict(float)
        for other, p in alive:
            if len(other) > i:
                mass[other[i]] += p
        if said not in mass:
            raise ValueError(f"{target!r} is no translation of {english!r}")
        total = sum(mass.values())
        out.append({token: p / total for token, p in mass.items()})
        alive = [(other, p) for other, p in alive if len(other) > i and other[i] == said]
    return out


def greedy(english):
    """The translation that takes the most likely next word each time: what a perfect student says."""
    words = []
    while (word := next(iter(next_words(english, words)))):
        words.append(word)
    return join(words)


# ---------------------------------------------------------------- rows

SPLIT_KINDS = {"nouns", "verbs"}                                       # what a combination is made of, besides these names
SPLIT_CLASSES = {"executive", "person", "chamber", "authority", "party", "speaker", "goods", "burden",
                 "text-predicate", "plan-predicate", "common-predicate"}


def key(tree):
    """The combination of a tree, as a sorted tuple of concepts: who, does what (or is what), to what. Tense, number, adjectives,
    topics and whatever surrounds them are left out, so that a held-out combination is new in every guise."""
    found, todo = set(), [tree]
    while todo:
        for child in todo.pop()[1:]:
            if child and isinstance(child[0], int):
                todo.append(child)
            elif child and (child[0] in SPLIT_CLASSES or lexicon()[1][child[0]] in SPLIT_KINDS):
                found.add(child[1])
    return tuple(sorted(found))


@cache
def rows(seed=SEED):
    """{split: list of {"translation": {"en", "fr"}, "phenomenon"}}: no English sentence comes twice, the French is one draw.

    Another seed gives further rows of the same grammar; its train rows hold no combination of the stored validation and test files.
    """
    sizes, total = corpora.SPLITS["miniparl"], sum(value["share"] for value in phenomena())
    out, seen, known = {name: [] for name in sizes}, set(), None
    for names in (["train"], ["validation", "test"]):
        for value in phenomena():
            rng = random.Random(f"{seed} miniparl {value['P']} {names[0]}")
            last = value is phenomena()[-1]
            quota = {name: sizes[name] - len(out[name]) if last else round(sizes[name] * value["share"] / total) for name in names}
            for _ in range(100_000):                                   # a grammar too small for its quota ends in an error below
                if not any(quota.values()):
                    break
                tree = draw(rng, value["P"] + "-sentence")
                name = list(sizes)[max(0, corpora.split_of(key(tree)) - 7)]
                if not quota.get(name) or not fits(tree):
                    continue
                english, french = (rng.choices(*zip(*sentences(tree, lang).items()))[0] for lang in LANGUAGES)
                if english in seen or known and not known.issuperset(every_word(tree)):
                    continue                                           # no evaluation row may need a word that training lacks
                seen.add(english)
                quota[name] -= 1
                out[name].append({"translation": {"en": english, "fr": french}, "phenomenon": value["P"]})
            if any(quota.values()):
                raise ValueError(f"miniparl: the grammar has too few different sentences of {value['P']}: {quota} missing")
        known = {word for row in out["train"] for text in row["translation"].values() for word in split(text.lower())}
    for name in out:
        random.Random(f"{seed} {name}").shuffle(out[name])
    return out


def every_word(tree):
    """All words of all sentences of a tree, of both languages, in lower case."""
    return {word for lang in LANGUAGES for text in sentences(tree, lang) for word in split(text.lower())}


def fits(tree):
    """Whether a tree is drawn at all: no concept twice, not too long, not too many translations. It looks at the tree, never at
    the drawn French, so that the draw stays a draw from `translations`."""
    leaves, todo = [], [tree]
    while todo:
        for child in todo.pop()[1:]:
            if child and isinstance(child[0], int):
                todo.append(child)
            elif child and lexicon()[1][child[0]] in ("names", "nouns", "verbs", "adjectives"):
                leaves.append(child[1])
    leaves.sort()
    twice = any(b.startswith(a) for i, a in enumerate(leaves) for b in leaves[i + 1:])       # nor "amend" an "amendment"
    return (not twice and len(sentences(tree, "fr")) <= MOST
            and all(4 < len(re.findall(r"\w+", text)) <= LONGEST for lang in LANGUAGES for text in sentences(tree, lang)))


def vocabulary(lang, seed=SEED):
    """All word forms of a language, sorted, as `split` gives them, in lower case."""
    return sorted({word for table in rows(seed).values() for row in table for word in split(row["translation"][lang].lower())})
