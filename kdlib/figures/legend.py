"""The lecture's legend: which tokens of a training text are prompt, source and target, and which
are learnt.

    table = legend.tokens(tokenizer, "Hello", "Bonjour")      # one row a token
    legend.html(table)                    # in a notebook; figures.prompt_legend is its twin on
    paper

Parts differ in colour *and* in their border, learnt tokens are bold and underlined: it can be read
in grey and by colour-blind eyes.
"""

import html as markup

import pandas as pd

from ..chat import chat_format
from ..translation import IGNORED, encode, training_text
from .llama import PART_LOOKS

BORDERS = {"prompt": "1px dotted", "source": "2px dashed", "target": "2px solid"}
PARTS = {part: (face, f"{BORDERS[part]} {edge}") for part, (face, edge, _) in PART_LOOKS.items()}


def tokens(tokenizer, source: str, target: str, labels: list[int] | None = None) -> pd.DataFrame:
    """One row a token of the pair's training text: `token` (its text), `id`, `part` and `learnt`.

    part: "source" is the text to translate, "target" the translation with its end, all else
    "prompt". labels: as long as the text's tokens; by default those of `translation.encode`, and
    other ones show what a wrong mask would learn.
    """
    text, begin = training_text(tokenizer, source, target)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded["input_ids"], encoded["offset_mapping"]
    if labels is None:
        labels = _labels(tokenizer, source, target, len(ids))
    if len(labels) != len(ids):
        raise ValueError(
            f"{len(labels)} labels for {len(ids)} tokens: the mask must be as long as the text"
        )
    # The user's turn, not a word of the system's.
    source_begin = text.rindex(source.strip() + chat_format(tokenizer).turn_end, 0, begin)
    source_end = source_begin + len(source.strip())
    rows, before = [], 0
    for (start, end), token_id, label in zip(spans, ids, labels):
        part = "source" if source_begin <= start < source_end else "prompt"
        part = "target" if start >= begin else part
        # A normaliser may map two tokens to one character (the small tokenizer's elisions): the
        # earlier one keeps it.
        rows.append((text[max(start, before) : end], token_id, part, label != IGNORED))
        before = end
    return pd.DataFrame(rows, columns=["token", "id", "part", "learnt"])


def _labels(tokenizer, source: str, target: str, length: int) -> list[int]:
    """What `translation.encode` lets this pair learn."""
    import datasets

    pair = datasets.Dataset.from_dict({"en": [source], "fr": [target]})
    rows, _ = encode(pair, tokenizer, max_length=length)
    return rows[0]["labels"]


def html(table: pd.DataFrame):
    """The table of `tokens` as an IPython HTML object: every token in its own span, its text
    escaped.
    """
    from IPython.display import HTML

    counts = table["part"].value_counts()
    key = "&nbsp; ".join(
        f'<span style="{_look(part)}padding:0 4px">{part}: {counts.get(part, 0)} tokens</span>'
        for part in PARTS
    )
    learnt = int(table["learnt"].sum())
    key += f"&nbsp; <b><u>bold and underlined</u></b>: learnt, {learnt} tokens"
    body = "".join(_span(row) for row in table.itertuples())
    look = "font-family:monospace;line-height:1.9;white-space:pre-wrap;margin-top:6px"
    return HTML(f'<div>{key}</div><div style="{look}">{body}</div>')


def _look(part: str) -> str:
    face, border = PARTS[part]
    return f"background:{face};color:#111;border-bottom:{border};"


def _span(row) -> str:
    """One token, with a line break behind it where its text has one."""
    look = _look(row.part) + "margin-right:2px;padding:0 1px;"
    title = f"{row.part}, id {row.id}, not learnt"
    if row.learnt:
        look += "font-weight:bold;text-decoration:underline;"
        title = f"{row.part}, id {row.id}, learnt"
    shown = markup.escape(row.token).replace("\n", "↵")
    breaks = "<br>" * row.token.count("\n")
    return f'<span style="{look}" title="{title}">{shown}</span>{breaks}'
