"""Text fields where a trained model must answer, so they need a running kernel.

    ask.a_pair({"teacher": teacher, "student": student}, tokenizer, task.labels, premise, hypothesis)

Its twin on paper is the cell before it, which prints the same for one pair.
"""

import html

import numpy as np

from .drawing import LIGHT

WIDTH = 300  # of a bar that says 100 %, in pixels


def probabilities(models: dict, tokenizer, first: str, second: str) -> tuple[dict, list[str]]:
    """({name: (classes,) probabilities}, words of the pair that the tokenizer does not know)."""
    import torch

    from .. import models as of_models

    encoded = dict(tokenizer(first, second, return_tensors="pt", truncation=True))
    answers = {}
    for name, model in models.items():
        inputs = {key: value.to(model.device) for key, value in encoded.items()}
        with torch.inference_mode():
            logits = model.eval()(**of_models.forward_inputs(model, inputs)).logits[0]
        answers[name] = logits.float().softmax(-1).cpu().numpy()
    words = f"{first} {second}".split()
    return answers, [word for word in words if tokenizer.unk_token in tokenizer.tokenize(word)]


def bars(answers: dict, labels, unknown: list[str]) -> str:
    """Each model's answer as HTML: a bar a class, with its number, which a screen reader reads."""
    lines = []
    for name, p in answers.items():
        lines.append(f"<tr><th colspan=2 style='text-align:left'>{html.escape(name)}</th></tr>")
        for place in range(len(labels)):
            share, color = float(p[place]), LIGHT[place % len(LIGHT)]
            weight = "bold" if place == int(np.argmax(p)) else "normal"
            lines.append(
                f"<tr><td style='font-weight:{weight}'>{html.escape(labels[place])}</td>"
                f"<td><span style='display:inline-block;height:0.8em;background:{color};"
                f"width:{WIDTH * share:.0f}px'></span> {share:.0%}</td></tr>"
            )
    known = "All words are known."
    if unknown:
        known = "Unknown words, read as [UNK]: " + html.escape(", ".join(unknown))
    return f"<table>{''.join(lines)}</table><p>{known}</p>"


def a_pair(models: dict, tokenizer, labels, first: str, second: str):
    """Two text fields and, below them, what each model says of the pair. Returns the widget.

    models: {name: classifier}, all with this tokenizer. The answer changes with Enter, or when a
    field is left.
    """
    from ipywidgets import HTML, Layout, Text, VBox

    wide = {"layout": Layout(width="44em"), "continuous_update": False}
    fields = [Text(value=first, description="first", **wide)]
    fields.append(Text(value=second, description="second", **wide))
    shown = HTML()

    def answer(_change=None):
        pair = [field.value for field in fields]
        answers, unknown = probabilities(models, tokenizer, *pair)
        shown.value = bars(answers, labels, unknown)

    for field in fields:
        field.observe(answer, "value")
    answer()
    return VBox([*fields, shown])
