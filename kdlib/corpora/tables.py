"""The rows of every corpus by its name, and what a model needs to read them."""

import re
import tempfile
from pathlib import Path

from . import mini_nli, mini_qqp, miniparl
from .grammar import COLUMNS, LABELS, SEED

ROWS = {
    "mini_nli": mini_nli.rows,
    "mini_qqp": mini_qqp.rows,
    "miniparl": miniparl.rows,
}
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def rows(corpus, seed=SEED):
    """{split: list of rows} of a corpus; each phenomenon gets its share of every split.

    Nothing comes twice. Another seed gives further rows of the same grammar; its train rows hold
    nothing of the stored validation and test files.
    """
    return ROWS[corpus](seed)


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
