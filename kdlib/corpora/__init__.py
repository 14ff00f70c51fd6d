"""The grammars behind `data/`: three small corpora whose truth is exactly known.

    mini_nli    premise and hypothesis; the true distribution of the label is a vote of readers
    mini_qqp    two questions; the true probability that readers call them duplicates
    miniparl    English and French; the true distribution of the next word of a translation

Below them lies what they share (`grammar`), and for MiniParl the words and rules (`lexicon`), the
forms of words (`inflection`) and the way back from a sentence to its meaning (`parser`). On top,
`tables` gives rows and a tokenizer by the name of a corpus, and `build` writes and checks the
files. The word lists are in `words/`.
"""

from .build import MARKS, build, content_hash, describe, main
from .grammar import COLUMNS, LABELS, SEED, SPLITS, split_of, words
from .mini_nli import PHENOMENA
from .mini_qqp import FAMILIES, Question, ask, same
from .tables import rows, tokenizer, vocabulary

__all__ = [
    "COLUMNS",
    "FAMILIES",
    "LABELS",
    "MARKS",
    "PHENOMENA",
    "SEED",
    "SPLITS",
    "Question",
    "ask",
    "build",
    "content_hash",
    "describe",
    "main",
    "rows",
    "same",
    "split_of",
    "tokenizer",
    "vocabulary",
    "words",
]
