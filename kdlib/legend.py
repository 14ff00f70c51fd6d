"""The lecture's legend: which tokens of a training text are prompt, source and target, and which are learnt.

    table = legend.tokens(tokenizer, "Hello", "Bonjour")          # one row a token
    legend.html(table)                                            # in a notebook; figures.prompt_legend is its twin on paper

Parts differ in colour *and* in their border, learnt tokens are bold and underlined: it can be read in grey and by
colour-blind eyes.
"""
import html as markup

import pandas as pd

from .chat import EOT
from .translation import IGNORED, encode, training_text

PARTS = {"prompt": ("#E6ECF2", "1px dotted #5A6B7B"), "source": ("#FBE3CF", "2px dashed #B04A00"), "target": ("#CFEBDF", "2px solid #00694D")}


def tokens(tokenizer, source: str, target: str, labels: list[int] | None = None) -> pd.DataFrame:
    """One row a token of the pair's training text: `token` (its text), `id`, `part` and `learnt`.

    part: "source" is the text to translate, "target" the translation with its end, all else "prompt". labels: as long as
    the text's tokens; by default those of `translation.encode`, and other ones show what a wrong mask would learn.
    """
    import datasets
    text, begin = training_text(tokenizer, source, target)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, spans = found["input_ids"], found["offset_mapping"]
    if labels is None:
        row = encode(datasets.Dataset.from_dict({"en": [source], "fr": [target]}), tokenizer, max_length=len(ids))[0][0]
        labels = row["labels"]
    if len(labels) != len(ids):
        raise ValueError(f"{len(labels)} labels for {len(ids)} tokens: the mask must be as long as the text")
    last = text.rindex(source.strip() + EOT, 0, begin)                         # the user's turn, not a word of the system's
    part = lambda start: "target" if start >= begin else "source" if last <= start < last + len(source.strip()) else "prompt"
    # a normaliser may map two tokens to one character (the small tokenizer's elisions): the earlier one keeps it
    texts = [text[max(a, before):b] for (a, b), before in zip(spans, [0, *(b for _, b in spans)])]
    return pd.DataFrame({"token": texts, "id": ids, "part": [part(a) for a, _ in spans],
                         "learnt": [label != IGNORED for label in labels]})


def html(table: pd.DataFrame):
    """The table of `tokens` as an IPython HTML object: every token in a span of its own, its text escaped."""
    from IPython.display import HTML

    def span(row):
        colour, border = PARTS[row.part]
        look = f"background:{colour};color:#111;border-bottom:{border};margin-right:2px;padding:0 1px;"
        look += "font-weight:bold;text-decoration:underline;" if row.learnt else ""
        shown = markup.escape(row.token).replace("\n", "↵")
        title = f"{row.part}, id {row.id}, {'learnt' if row.learnt else 'not learnt'}"
        return f'<span style="{look}" title="{title}">{shown}</span>' + "<br>" * row.token.count("\n")
    counts = table["part"].value_counts()
    key = "&nbsp; ".join(f'<span style="background:{colour};color:#111;border-bottom:{border};padding:0 4px">{part}: {counts.get(part, 0)} tokens</span>'
                         for part, (colour, border) in PARTS.items())
    key += f'&nbsp; <b><u>bold and underlined</u></b>: learnt, {int(table["learnt"].sum())} tokens'
    body = "".join(span(row) for row in table.itertuples())
    return HTML(f'<div>{key}</div><div style="font-family:monospace;line-height:1.9;white-space:pre-wrap;margin-top:6px">{body}</div>')
