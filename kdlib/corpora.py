"""The grammar behind `data/mini_nli` and `data/mini_qqp`: two small corpora whose *true* label distributions are known.

MiniNLI and MiniQQP have the columns of GLUE's MNLI and QQP, two more (`label_dist`, the true distribution, and
`phenomenon`), and nothing else in common with them: no number from them is an MNLI or QQP result.

**A sentence means the set of worlds in which it is true.** Each phenomenon below lists the few worlds that matter to it
and some sentences about them; a Python int is the set (bit i: true in world i). Then nobody labels by hand:

    entailment      premise & ~hypothesis == 0      every world of the premise is one of the hypothesis
    contradiction   premise & hypothesis == 0       no world is in both
    neutral         otherwise

**Annotators differ because they read differently.** To some, "some dogs are running" leaves open that all are; to
others it says "not all". Each sentence has a literal and a pragmatic set, and a phenomenon says which share of the readers
is pragmatic: `label_dist` is the vote of all readers, `label` the answer of one of them.

The third corpus, MiniParl, has a grammar of its own (`parliament`) and is written here with the others.
`python -m kdlib.corpora` rebuilds every file bit for bit under the lock; `--check` compares instead of writing.
"""
import argparse
import hashlib
import json
import random
import re
import sys
import tempfile
from collections import Counter, namedtuple
from functools import cache
from importlib.resources import files
from itertools import combinations_with_replacement, product
from pathlib import Path

LABELS = {"mini_nli": ["entailment", "neutral", "contradiction"], "mini_qqp": ["not_duplicate", "duplicate"]}
COLUMNS = {"mini_nli": ("premise", "hypothesis"), "mini_qqp": ("question1", "question2")}
SPLITS = {"mini_nli": {"train": 8000, "validation_matched": 1000, "test_matched": 1000},
          "mini_qqp": {"train": 8000, "validation": 1000, "test": 1000},
          "miniparl": {"train": 20_000, "validation": 1000, "test": 1000}}
SEED = 2025                                                        # of the stored files
DATA = Path(__file__).resolve().parent.parent / "data"

Said = namedtuple("Said", "text literal pragmatic")                # a sentence and its set of worlds for two kinds of readers
Setting = namedtuple("Setting", "key premises hypotheses judge")   # what one small situation lets us say, and who is right


@cache
def words(corpus):
    """The word lists of `mini_nli` or `mini_qqp` (package data), as plain dicts and lists."""
    import yaml
    return yaml.safe_load((files("kdlib.words") / f"{corpus}.yaml").read_text("utf-8"))


# ---------------------------------------------------------------- meaning

def where(worlds, test):
    """The set of those worlds (a list of tuples) for which `test(*world)` holds, as an int."""
    return sum(1 << i for i, world in enumerate(worlds) if test(*world))


def say(worlds, text, literal, pragmatic=None):
    """A sentence with its two sets; without `pragmatic`, everybody reads it alike."""
    text = text[0].upper() + text[1:] + "."
    return Said(text, where(worlds, literal), where(worlds, pragmatic or literal))


def relation(premise, hypothesis):
    """0 entailment, 1 neutral, 2 contradiction, of two sets of worlds."""
    return 2 if not premise & hypothesis else 0 if not premise & ~hypothesis else 1


def vote(share):
    """A judge for sentences: (premise, hypothesis) → [3] probabilities when `share` of the readers is pragmatic."""
    def judge(p, h):
        votes = [0.0, 0.0, 0.0]
        votes[relation(p.literal, h.literal)] += 1 - share
        votes[relation(p.pragmatic, h.pragmatic)] += share
        return votes
    return judge


def a(noun):
    """The noun with its article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


# ---------------------------------------------------------------- phenomena: rng → Setting

@cache
def herds():
    """Worlds of up to five individuals, each (noun cell, verb cell); at least one of the kind and one sibling.

    Noun cells: 0 the kind (dogs), 1 its sibling (cats), 2 the rest of the general noun (animals). Verb cells: 0 the special verb
    (running), 1 its sibling (walking), 2 the rest of the general verb (moving), 3 none of it.
    """
    cells = [None, *product(range(3), range(4))]
    herd = (Counter(c for c in combo if c) for combo in combinations_with_replacement(cells, 5))
    return [(h,) for h in herd if all(any(n == noun for n, _ in h) for noun in (0, 1))]


@cache
def quantified(quantifier, noun, verb, pragmatic):
    """The set of herds in which `quantifier noun verb` is true; noun and verb: 0 general, 1 special, 2 sibling."""
    nouns, verbs = ({0, 1, 2}, {0}, {1})[noun], ({0, 1, 2}, {0}, {1})[verb]

    def test(herd):
        n = sum(k for (x, _), k in herd.items() if x in nouns)
        i = sum(k for (x, v), k in herd.items() if x in nouns and v in verbs)
        literal = {"all": i == n, "no": i == 0, "some": i > 0, "not all": i < n, "most": 2 * i > n, "few": 2 * i < n}
        implied = {"some": i < n, "most": i < n, "few": i > 0, "not all": i > 0}       # what a pragmatic reader adds
        return literal[quantifier] and (not pragmatic or implied.get(quantifier, True))
    return where(herds(), test)


def quantifiers(rng, w):
    """All, some, no, most … about a kind or about what it does: monotonicity flips with the quantifier."""
    nouns, verbs = rng.choice(w["groups"]), rng.choice(w["doings"])
    restrictor, fixed = rng.random() < 0.5, rng.randrange(3)           # vary the noun or the verb, not both
    cells = [(n, fixed) if restrictor else (fixed, n) for n in range(3)]
    said = [Said(f"{q.capitalize()} {nouns[n]} are {verbs[v]}.", quantified(q, n, v, False), quantified(q, n, v, True))
            for q in ("all", "no", "some", "not all", "most", "few") for n, v in cells]
    return Setting((nouns[0], verbs[0], restrictor, fixed), said, said, vote(0.4))


def numbers(rng, w):
    """At least, more than, exactly: a bare number means "exactly" to seven readers in ten."""
    worlds, noun, place = [(n,) for n in range(9)], rng.choice(w["counted"]), rng.choice(w["places"])
    said = []
    for k, number in enumerate(w["numbers"], 2):
        tail = f"{number} {noun} are in the {place}"
        said += [say(worlds, tail, lambda n: n >= k, lambda n: n == k),
                 say(worlds, "at least " + tail, lambda n: n >= k), say(worlds, "more than " + tail, lambda n: n > k),
                 say(worlds, "at most " + tail, lambda n: n <= k), say(worlds, "fewer than " + tail, lambda n: n < k),
                 say(worlds, "exactly " + tail, lambda n: n == k)]
    return Setting((noun, place), said, said, vote(0.7))


def kinds(rng, w):
    """A poodle is a dog is an animal; under negation the direction flips."""
    name, (general, kind, sub, sibling), (did, did_not) = (rng.choice(w[k]) for k in ("names", "taxonomies", "having"))
    worlds = list(product((0, 1), repeat=4))                           # saw: a poodle, another dog, a cat, another animal
    true = {general: lambda *s: any(s), kind: lambda p, d, c, o: p or d, sub: lambda p, d, c, o: p,
            sibling: lambda p, d, c, o: c}
    said = []
    for noun, test in true.items():
        said += [say(worlds, f"{name} {did} {a(noun)}", test),
                 say(worlds, f"{name} {did_not} {a(noun)}", lambda *s: not test(*s))]
    said += [say(worlds, f"{name} {did} {a(x)} but not {a(y)}", lambda *s: true[x](*s) and not true[y](*s))
             for x, y in ((general, kind), (kind, sub), (general, sibling))]
    return Setting((name, general, did), said, said, vote(0))


def connectives(rng, w):
    """And, or, neither, only: "or" excludes "and" for four readers in ten."""
    (x, y), (v, u) = rng.sample(w["names"], 2), rng.sample(w["activities"], 2)
    worlds = list(product((0, 1), repeat=2))
    if rng.random() < 0.5:                                             # two people, one activity
        one, other = (f"{x} is {v}", f"{x} is not {v}"), (f"{y} is {v}", f"{y} is not {v}")
        joint = [(f"{x} and {y} are {v}", f"{x} or {y} is {v}", f"neither {x} nor {y} is {v}"),
                 (f"{y} and {x} are {v}", f"{y} or {x} is {v}", f"neither {y} nor {x} is {v}")]
        mixed = f"{x} is {v} but {y} is not", f"{y} is {v} but {x} is not"
    else:                                                              # one person, two activities
        one, other = (f"{x} is {v}", f"{x} is not {v}"), (f"{x} is {u}", f"{x} is not {u}")
        joint = [(f"{x} is {v} and {u}", f"{x} is {v} or {u}", f"{x} is neither {v} nor {u}"),
                 (f"{x} is {u} and {v}", f"{x} is {u} or {v}", f"{x} is neither {u} nor {v}")]
        mixed = f"{x} is {v} but not {u}", f"{x} is {u} but not {v}"
    said = [say(worlds, one[0], lambda p, q: p), say(worlds, one[1], lambda p, q: not p),
            say(worlds, other[0], lambda p, q: q), say(worlds, other[1], lambda p, q: not q),
            say(worlds, mixed[0], lambda p, q: p and not q), say(worlds, mixed[1], lambda p, q: q and not p)]
    for both, either, neither in joint:
        said += [say(worlds, both, lambda p, q: p and q), say(worlds, either, lambda p, q: p or q, lambda p, q: p != q),
                 say(worlds, neither, lambda p, q: not (p or q))]
    return Setting((x, v), said, said, vote(0.4))


def roles(rng, w):
    """Who did it to whom: active, passive, swapped, somebody, nobody. Mutual verbs hold both ways."""
    x, y = rng.sample(w["names"], 2)
    mutual = rng.random() < 0.3
    past, base = rng.choice(w["mutual" if mutual else "directed"])
    worlds = [r for r in product((0, 1), repeat=4) if not mutual or r[0] == r[1]]   # x→y, y→x, another→x, another→y
    said = []
    for p, q, i, other in ((x, y, 0, 3), (y, x, 1, 2)):
        said += [say(worlds, f"{p} {past} {q}", lambda *r: r[i]), say(worlds, f"{p} did not {base} {q}", lambda *r: not r[i]),
                 say(worlds, f"somebody {past} {q}", lambda *r: r[i] or r[other]),
                 say(worlds, f"nobody {past} {q}", lambda *r: not (r[i] or r[other]))]
        if not mutual:
            said += [say(worlds, f"{q} was {past} by {p}", lambda *r: r[i]),
                     say(worlds, f"{q} was not {past} by {p}", lambda *r: not r[i])]
    return Setting((*sorted((x, y)), past), said, said, vote(0))


def comparisons(rng, w):
    """Older, younger, as old as: a swap contradicts, unless the word is swapped too."""
    (x, y), (more, less, plain) = rng.sample(w["names"], 2), rng.choice(w["scales"])
    worlds, said = [(-1,), (0,), (1,)], []                             # sign of x − y
    for p, q, s in ((x, y, 1), (y, x, -1)):
        said += [say(worlds, f"{p} is {more} than {q}", lambda d: d * s > 0),
                 say(worlds, f"{p} is {less} than {q}", lambda d: d * s < 0),
                 say(worlds, f"{p} is as {plain} as {q}", lambda d: d * s >= 0, lambda d: d == 0),
                 say(worlds, f"{p} is not {more} than {q}", lambda d: d * s <= 0),
                 say(worlds, f"{p} is not as {plain} as {q}", lambda d: d * s < 0)]
    return Setting((*sorted((x, y)), more), said, said, vote(0.6))


def times(rng, w):
    """Was, is, will be; still, no longer, not yet: "was" means "no longer" to three readers in ten."""
    name, v = rng.choice(w["names"]), rng.choice(w["activities"])
    worlds, be = list(product((0, 1), repeat=3)), f"{name} %s {v}"     # before, now, later
    said = [say(worlds, be % "was", lambda b, n, l: b, lambda b, n, l: b and not n),
            say(worlds, be % "was not", lambda b, n, l: not b), say(worlds, be % "is", lambda b, n, l: n),
            say(worlds, be % "is not", lambda b, n, l: not n), say(worlds, be % "will be", lambda b, n, l: l),
            say(worlds, be % "will not be", lambda b, n, l: not l),
            say(worlds, be % "is still", lambda b, n, l: b and n), say(worlds, be % "is no longer", lambda b, n, l: b and not n),
            say(worlds, be % "is not yet", lambda b, n, l: not b and not n, lambda b, n, l: not b and not n and l),
            say(worlds, be % "is always", lambda b, n, l: b and n and l),
            say(worlds, be % "is never", lambda b, n, l: not (b or n or l)),
            say(worlds, f"{name} stopped {v}", lambda b, n, l: b and not n, lambda b, n, l: b and not n and not l)]
    return Setting((name, v), said, said, vote(0.3))


def deeds(rng, w):
    """Managed, failed, tried, forgot: what the verb says about the deed. "Tried to" suggests a failure."""
    name, (base, past) = rng.choice(w["names"]), rng.choice(w["tasks"])
    worlds = [(0, 0), (1, 0), (1, 1)]                                  # (tried, done): nothing is done without trying
    def deed(verb, *tests): return say(worlds, f"{name} {verb}", *tests)
    said = [deed(past, lambda t, d: d), deed(f"did not {base}", lambda t, d: not d),
            deed(f"tried to {base}", lambda t, d: t, lambda t, d: t and not d), deed(f"did not try to {base}", lambda t, d: not t),
            deed(f"managed to {base}", lambda t, d: d), deed(f"did not manage to {base}", lambda t, d: not d, lambda t, d: t and not d),
            deed(f"failed to {base}", lambda t, d: t and not d), deed(f"did not fail to {base}", lambda t, d: d),
            deed(f"forgot to {base}", lambda t, d: not t), deed(f"did not forget to {base}", lambda t, d: d),
            deed(f"almost {past}", lambda t, d: not d, lambda t, d: t and not d),
            deed(f"wanted to {base}", lambda t, d: True, lambda t, d: not d)]
    return Setting((name, base), said, said, vote(0.35))


def hedges(rng, w):
    """Certainly, probably, perhaps: a pragmatic reader takes "perhaps" for "not certainly"."""
    name, v = rng.choice(w["names"]), rng.choice(w["activities"])
    worlds, be = [(c,) for c in range(5)], f"{name} %s {v}"            # how sure the speaker may be: 0 no … 4 yes
    said = [say(worlds, be % "is", lambda c: c == 4), say(worlds, be % "is not", lambda c: c == 0),
            say(worlds, be % "is certainly", lambda c: c == 4), say(worlds, be % "is certainly not", lambda c: c == 0),
            say(worlds, be % "is probably", lambda c: c >= 3, lambda c: c == 3),
            say(worlds, be % "is probably not", lambda c: c <= 1, lambda c: c == 1),
            say(worlds, be % "is perhaps", lambda c: c >= 1, lambda c: 1 <= c <= 3),
            say(worlds, be % "is perhaps not", lambda c: c <= 3, lambda c: 1 <= c <= 3),
            say(worlds, be % "cannot be", lambda c: c == 0), say(worlds, be % "must be", lambda c: c == 4, lambda c: c >= 3)]
    return Setting((name, v), said, said, vote(0.4))


def scenes(rng, w):
    """World knowledge: somebody in the kitchen with a pan is likely to be cooking.

    A reader remembers three such scenes and says entailment if it was so in all of them, contradiction if in none.
    """
    x, y = rng.sample(w["names"], 2)
    who = rng.choice([f"{x} is", f"{x} and {y} are"])
    table = {place: row for place, row in w["scenes"].items() if place != "columns"}
    i, activity = rng.choice(list(enumerate(w["scenes"]["columns"])))
    premises = [Said(f"{who} {place}.", row[i], None) for place, row in table.items()]
    hypotheses = [Said(f"{who} {activity}.", True, None), Said(f"{who} not {activity}.", False, None)]

    def judge(p, h):
        likely = p.literal if h.literal else 1 - p.literal
        return [likely ** 3, 1 - likely ** 3 - (1 - likely) ** 3, (1 - likely) ** 3]
    return Setting((who, activity), premises, hypotheses, judge)


SHARES = {"quantifiers": 13, "numbers": 10, "kinds": 10, "connectives": 7, "roles": 6, "comparisons": 8, "times": 8, "deeds": 10,
          "hedges": 12, "scenes": 16}
PHENOMENA = {f.__name__: f for f in (quantifiers, numbers, kinds, connectives, roles, comparisons, times, deeds, hedges, scenes)}


def nli_pair(rng, phenomenon):
    """One (key, premise, hypothesis, label_dist). The hypothesis comes first, then the wanted answer, then a premise
    that gives it: so a hypothesis alone says nothing about the label."""
    setting = PHENOMENA[phenomenon](rng, words("mini_nli"))
    while True:
        h = rng.choice(setting.hypotheses)
        by_answer = [[], [], []]
        for p in setting.premises:
            if p.text != h.text:
                votes = setting.judge(p, h)
                by_answer[votes.index(max(votes))].append((p, votes))
        if all(by_answer):
            wanted = rng.choices(by_answer, (34, 37, 29))[0]           # readers drift from the first two to the third
            p, votes = rng.choices(wanted, [1 + (max(votes) < 1) for _, votes in wanted])[0]      # graded ones twice as often
            return setting.key, p.text, h.text, votes


# ---------------------------------------------------------------- questions

Question = namedtuple("Question", "intent values ask")                 # what is asked, about what, in which of the ways to ask it


@cache
def near(table):
    """{(x, y): probability that a reader takes them for the same}, symmetric; table: `near` or `near_intents`."""
    return {pair: p for x, y, p in words("mini_qqp")[table] for pair in ((x, y), (y, x))}


def ask(intents, q):
    """The question as text."""
    text = intents[q.intent]["ask"][q.ask].format(**dict(zip(intents[q.intent]["slots"], q.values)))
    return re.sub(r" (?=[?,])", "", re.sub(r" +", " ", re.sub(r"\ba +(?=[aeio])", "an ", text)))


def same(intents, q, r):
    """The probability that a reader calls two questions duplicates: the intents and each slot must be taken for the same."""
    def alike(xs, ys, p=1.0):
        for x, y in zip(xs, ys):
            p *= 1.0 if x == y else near("near").get((x, y), 0.0)
        return p

    both_ways = any(intents[x.intent].get("unordered") for x in (q, r))
    swapped = alike(q.values, (r.values[1], r.values[0], *r.values[2:])) if both_ways else 0.0
    return max(alike(q.values, r.values), swapped) * (1.0 if q.intent == r.intent else near("near_intents").get((q.intent, r.intent), 0.0))


def qqp_pair(rng, family):
    """One (key, question1, question2, label_dist): the second question is a paraphrase of the first or a near miss."""
    w = words("mini_qqp")
    change, intents = w["families"][family]["change"], w["families"][family]["intents"]
    intent = rng.choice(list(intents))
    slots = intents[intent]["slots"]
    values = {}
    for slot, kind in slots.items():                                   # the same city is not asked for twice
        values[slot] = rng.choice([v for v in w["slots"][kind] if v not in values.values()])
    q = Question(intent, tuple(values.values()), rng.randrange(len(intents[intent]["ask"])))
    variants = {"same": [values], "swap": [values | {"a": values.get("b"), "b": values["a"]}]}
    variants |= {slot: [values | {slot: v} for v in w["slots"][kind] if v != values[slot]] for slot, kind in slots.items()}
    by_answer = [[], []]
    for kind in ("same", *change):
        for v in variants.get(kind, [values]):
            for other in intents if kind == "intent" else [intent]:
                for k in range(len(intents[other]["ask"])):
                    r = Question(other, tuple(v.values()), k)
                    if ask(intents, r) != ask(intents, q):
                        p = same(intents, q, r)
                        by_answer[p > 0.5].append((kind, r, [1 - p, p]))
    wanted = by_answer[rng.random() < 0.35] or by_answer[0]
    kind = rng.choice(sorted({kind for kind, *_ in wanted}))
    r, votes = rng.choice([(r, votes) for k, r, votes in wanted if k == kind])
    return (family, *sorted(q.values)), ask(intents, q), ask(intents, r), votes


FAMILIES = ("travel", "versus", "order", "study", "shop", "nature")

# ---------------------------------------------------------------- files


def draw(rng, votes):
    """The answer of one reader."""
    return rng.choices(range(len(votes)), votes)[0]


def split_of(key):
    """0–7 train, 8 validation, 9 test: a setting (a combination of words) belongs to one split only, in whatever order and with
    whatever seed it is drawn. Two settings can still say the same pair ("All dogs are running." belongs to four): see `rows`."""
    return hashlib.sha256(repr(key).encode()).digest()[0] % 10


@cache
def rows(corpus, seed=SEED):
    """{split: list of rows} of a corpus; each phenomenon gets its share of every split, and no pair comes twice.

    With MiniQQP not swapped either, since a duplicate is one both ways round; in MiniNLI a swapped pair asks something else.
    MiniParl's rows come from `parliament`.

    Another seed gives further rows of the same grammar; its train rows hold no pair of the stored validation and test files.
    """
    if corpus == "miniparl":
        from . import parliament
        return parliament.rows(seed)
    draw_pair, phenomena = (nli_pair, SHARES) if corpus == "mini_nli" else (qqp_pair, dict.fromkeys(FAMILIES, 1))
    sizes = SPLITS[corpus]
    first, second = COLUMNS[corpus]
    same_pair = tuple if corpus == "mini_nli" else frozenset
    out, seen = {split: [] for split in sizes}, set()
    judged = set() if seed == SEED else {same_pair((row[first], row[second])) for split in list(sizes)[1:] for row in rows(corpus)[split]}
    for phenomenon, share in phenomena.items():
        rng = random.Random(f"{seed} {corpus} {phenomenon}")
        last = phenomenon == list(phenomena)[-1]
        quota = {split: n - len(out[split]) if last else round(n * share / sum(phenomena.values())) for split, n in sizes.items()}
        for _ in range(20_000):                                         # a grammar too small for its quota ends in an error below
            if not any(quota.values()):
                break
            key, x, y, votes = draw_pair(rng, phenomenon)
            split = list(sizes)[max(0, split_of(key) - 7)]
            pair = same_pair((x, y))
            if quota[split] and pair not in seen and not (split == "train" and pair in judged):
                seen.add(pair)
                quota[split] -= 1
                out[split].append({first: x, second: y, "label": draw(rng, votes), "label_dist": votes, "phenomenon": phenomenon})
        if any(quota.values()):
            raise ValueError(f"{corpus}: the grammar has too few different pairs about {phenomenon}: {quota} missing")
    for split in out:
        random.Random(f"{seed} {split}").shuffle(out[split])
        for idx, row in enumerate(out[split]):
            row["idx"] = idx
    return out


def vocabulary(corpus=None):
    """All words of a corpus (of both, without an argument): sorted, lower case."""
    texts = (row[c] for name in ([corpus] if corpus else LABELS) for split in rows(name).values() for row in split for c in COLUMNS[name])
    return sorted({word for text in texts for word in re.findall(r"[a-z]+", text.lower())})


def tokenizer(corpus=None):
    """A word-level fast tokenizer, built like BERT's, for a corpus (for both, without an argument); a word that it lacks becomes [UNK]."""
    from tokenizers import normalizers
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?!'", *vocabulary(corpus)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocab) + "\n", "utf-8")
        tok = BertTokenizerFast(str(path), do_lower_case=True, model_max_length=64)
    plain = [normalizers.Replace("can't", "cannot"), normalizers.Replace("n't", " not")]
    tok.backend_tokenizer.normalizer = normalizers.Sequence([tok.backend_tokenizer.normalizer, *plain])
    # as a plain fast tokenizer, not a Bert one: transformers 5 rebuilds BERT's normaliser on loading and would drop ours
    return PreTrainedTokenizerFast(
        tokenizer_object=tok.backend_tokenizer, model_max_length=64, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def content_hash(table):
    """SHA-256 over the rows of an iterable of dicts, independent of the Parquet writer; probabilities to six places."""
    digest = hashlib.sha256()
    for row in table:
        votes = {"label_dist": [round(float(p), 6) for p in row["label_dist"]]} if "label_dist" in row else {}
        digest.update(json.dumps({**row, **votes}, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def build(out):
    """Write all corpora under the folder `out` (`mini_nli/`, `mini_qqp/`, `miniparl/`), in the hub's layout; {path: SHA-256}."""
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Dataset, Features, List, Translation, Value, disable_progress_bars
    disable_progress_bars()
    schemas = {corpus: {**{c: Value("string") for c in COLUMNS[corpus]}, "label": ClassLabel(names=names), "idx": Value("int32"),
                        "label_dist": List(Value("float32"), length=len(names)), "phenomenon": Value("string")}
               for corpus, names in LABELS.items()}
    schemas["miniparl"] = {"translation": Translation(languages=["en", "fr"]), "phenomenon": Value("string")}
    hashes = {}
    for corpus, schema in schemas.items():
        features = Features(schema)
        for split, table in rows(corpus).items():
            path = Path(out) / corpus / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            columns = {name: [row[name] for row in table] for name in features}
            data = Dataset.from_dict(columns, features=features)
            if corpus == "miniparl":                                    # long texts: a sixth of what `to_parquet` writes
                pq.write_table(data.with_format("arrow")[:], path, compression="zstd", compression_level=19, use_dictionary=False)
            else:
                data.to_parquet(path)
            hashes[f"{corpus}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


MARKS = "<!-- corpora: begin, written by python -m kdlib.corpora -->", "<!-- corpora: end -->"


def describe(hashes):
    """The generated part of `data/SOURCES.md`: one table row a file."""
    lines = ["| file | rows | SHA-256 | content hash |", "|---|---|---|---|"]
    for name, sha in hashes.items():
        corpus, file = name.split("/")
        table = rows(corpus)[file.split("-")[0]]
        lines.append(f"| `{name}` | {len(table):,} | `{sha}` | `{content_hash(table)}` |")
    return "\n".join([MARKS[0], *lines, MARKS[1]])


def main(argv=None):
    """Build into `--out`, or compare what is there with a fresh build (`--check`); 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m kdlib.corpora", description="Rebuild MiniNLI, MiniQQP and MiniParl from their grammars.")
    parser.add_argument("--out", type=Path, default=DATA, help="folder for mini_nli/, mini_qqp/ and miniparl/ (default: data)")
    parser.add_argument("--check", action="store_true", help="write nothing; compare the files with a fresh build")
    args = parser.parse_args(argv)
    if args.check:
        with tempfile.TemporaryDirectory() as folder:
            fresh = build(folder)
        there = {name: args.out / name for name in fresh}
        bad = [n for n, path in there.items() if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != fresh[n]]
        print("\n".join(f"differs: {n}" for n in bad) or f"{len(fresh)} files are as the grammar writes them")
        return bool(bad)
    block = describe(build(args.out))
    sources = args.out / "SOURCES.md"
    if sources.exists():
        head, _, rest = sources.read_text("utf-8").partition(MARKS[0])
        sources.write_text(head + block + rest.partition(MARKS[1])[2], "utf-8")
    print(block)
    return 0


if __name__ == "__main__":
    sys.exit(main())
