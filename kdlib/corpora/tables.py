"""The rows of every corpus by its name, and what a model needs to read them."""

import re
import tempfile
from functools import cache
from pathlib import Path

from . import grammar, mini_nli, mini_qqp, miniparl
from .grammar import COLUMNS, LABELS, SEED, SPLITS

# The grammars of labelled pairs: each has SHARES, `pair` and `same_pair`.
PAIRS = {"mini_nli": mini_nli, "mini_qqp": mini_qqp}
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


@cache
def rows(corpus, seed=SEED):
    """{split: list of rows} of a corpus; each phenomenon gets its share of every split.

    Nothing comes twice. Another seed gives further rows of the same grammar; its train rows hold
    nothing of the stored validation and test files.
    """
    if corpus == "miniparl":
        return miniparl.rows(seed)
    of = PAIRS[corpus]
    first, second = COLUMNS[corpus]
    table = {split: [] for split in SPLITS[corpus]}
    seen = set()
    judged = set() if seed == SEED else evaluation_pairs(corpus)

    def attempt(rng, phenomenon, missing):
        key, text, other, label_dist = of.pair(rng, phenomenon)
        split = grammar.split_name(corpus, key)
        pair = of.same_pair((text, other))
        # two combinations may say the same pair, one in each split
        leaked = split == "train" and pair in judged
        if not missing[split] or pair in seen or leaked:
            return None
        seen.add(pair)
        (label,) = rng.choices(range(len(label_dist)), label_dist)  # the answer of one reader
        row = {first: text, second: other, "label": label, "label_dist": label_dist}
        return split, row | {"phenomenon": phenomenon}

    start = f"{seed} {corpus} {{}}"
    grammar.fill(
        corpus, table, table, of.SHARES, attempt, seed=start, what="pairs about", tries=20_000
    )
    grammar.shuffle(table, seed)
    for split_rows in table.values():
        for idx, row in enumerate(split_rows):
            row["idx"] = idx
    return table


def evaluation_pairs(corpus):
    """The pairs of the stored validation and test rows, on which models are judged."""
    first, second = COLUMNS[corpus]
    _, *evaluation = rows(corpus).values()
    same_pair = PAIRS[corpus].same_pair
    return {same_pair((row[first], row[second])) for table in evaluation for row in table}


def vocabulary(corpus=None):
    """All words of MiniNLI or MiniQQP (of both, without an argument): sorted, lower case."""
    found = set()
    for name in [corpus] if corpus else LABELS:
        for table in rows(name).values():
            for row in table:
                for column in COLUMNS[name]:
                    found.update(re.findall(r"[a-z]+", row[column].lower()))
    return sorted(found)


def tokenizer(corpus=None):
    """A word-level fast tokenizer, built like BERT's, for MiniNLI or MiniQQP (without an argument,
    for both); a word that it lacks becomes [UNK].
    """
    from tokenizers import normalizers
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast

    vocab = [*SPECIAL_TOKENS.values(), *".,?!'", *vocabulary(corpus)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocab) + "\n", "utf-8")
        bert = BertTokenizerFast(str(path), do_lower_case=True, model_max_length=64)
    backend = bert.backend_tokenizer
    # the grammars write "is not", people type "isn't"
    cannot = normalizers.Replace("can't", "cannot")
    other_not = normalizers.Replace("n't", " not")
    backend.normalizer = normalizers.Sequence([backend.normalizer, cannot, other_not])
    # as a plain fast tokenizer, not a Bert one: transformers 5 rebuilds BERT's normaliser on
    # loading and would drop ours
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **SPECIAL_TOKENS,
    )
