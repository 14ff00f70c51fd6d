"""The legend: every token once, in its part, escaped, and readable without colour."""

import re

import pandas as pd
import pytest
import tiny
import torch
from datasets import Dataset
from transformers import TrainerState

from kdlib import figures, legend, models, translation


def test_parts_and_what_is_learnt(chat):
    table = legend.tokens(chat, " Hello", "Bonjour ")
    text, begin = translation.training_text(chat, "Hello", "Bonjour")
    assert "".join(table["token"]) == text
    assert (
        "".join(table["token"][table["part"] == "target"]) == text[begin:]
        and (table["learnt"] == (table["part"] == "target")).all()
    )
    assert table["token"][table["part"] == "source"].tolist() == ["Hello"]
    assert table["id"].tolist() == chat(text, add_special_tokens=False)["input_ids"]


def test_elisions_are_told_once(chat):
    plain = translation.small_tokenizer(["L'asile de l'homme qu'il n'a pas vu.", "A house."])
    tokenizer = translation.with_end_token(plain)
    table = legend.tokens(tokenizer, "A house.", "L'asile de l'homme qu'il n'a pas vu.")
    assert (
        "".join(table["token"])
        == translation.training_text(tokenizer, "A house.", "L'asile de l'homme qu'il n'a pas vu.")[
            0
        ]
    )


def test_a_source_that_the_prompt_says_too(chat):
    table = legend.tokens(chat, "assistant", "assistant")
    assert (table["part"] == "source").sum() == 1 and table["part"].tolist().index(
        "source"
    ) < table["part"].tolist().index("target")
    table = legend.tokens(chat, "text", "texte")
    assert table.loc[table["part"] == "source", "token"].tolist() == ["text"]


def test_a_wrong_mask_is_shown_as_it_is(chat):
    right = legend.tokens(chat, "Hello", "Bonjour")
    nothing = legend.tokens(chat, "Hello", "Bonjour", labels=[-100] * len(right))
    assert not nothing["learnt"].any() and (nothing["part"] == right["part"]).all()
    with pytest.raises(ValueError, match="as long as"):
        legend.tokens(chat, "Hello", "Bonjour", labels=[1, 2])


def test_the_html_is_escaped_and_has_a_span_a_token(chat):
    table = legend.tokens(chat, 'a < b & "c" <script>alert(1)</script>', "Bonjour $x$")
    page = legend.html(table).data
    assert "<script" not in page and "&lt;|eot_id|&gt;" in page and "&amp;" in page
    body = page.split("white-space:pre-wrap")[1]
    assert body.count("<span") == body.count("</span>") == len(table)
    looks = {
        part: set(
            re.findall(
                r"border-bottom:([^;]+)",
                "".join(re.findall(rf'<span style="([^"]+)" title="{part},', body)),
            )
        )
        for part in legend.PARTS
    }
    assert (
        all(len(look) == 1 for look in looks.values()) and len(set.union(*looks.values())) == 3
    ), "parts must differ by more than colour"
    bold = re.findall(r'font-weight:bold[^>]+title="(\w+), id \d+, learnt"', body)
    assert len(bold) == int(table["learnt"].sum()) and set(bold) == {"target"}


def test_the_static_twin_draws_any_text(chat):
    figures.style()
    table = legend.tokens(
        chat, "It costs $5_000 and $6^2, or <5>?", "Cela coûte cinq mille dollars."
    )
    fig = figures.prompt_legend(table)
    fig.canvas.draw()
    assert sum(len(t.get_text()) > 0 for t in fig.axes[0].texts) >= len(table)


@pytest.mark.parametrize("how", ["new", "reserved"])
def test_end_probability(chat, how):
    plain = translation.small_tokenizer([t for side in tiny.pairs(200).values() for t in side])
    tokenizer = translation.with_end_token(plain, how)
    model = models.add_end_token(tiny.llama(len(plain)), tokenizer)
    rows, _ = translation.encode(tiny.datasets.Dataset.from_dict(tiny.pairs(7)), tokenizer)
    model.train()
    found = translation.end_probability(model, tokenizer, rows, batch_size=3)
    assert model.training
    end, alone = translation.end_token_id(tokenizer), []
    with torch.no_grad():
        for row in rows:
            place = row["input_ids"].index(end)
            alone.append(
                model.eval()(torch.tensor([row["input_ids"][:place]]))
                .logits[0, -1]
                .softmax(-1)[end]
                .item()
            )
    assert found == pytest.approx(sum(alone) / 7, rel=1e-4)
    with pytest.raises(ValueError, match="no row learns"):
        translation.end_probability(model, tokenizer, [{"input_ids": [5, 6], "labels": [-100, 6]}])
    with pytest.raises(ValueError, match="no row learns"):
        translation.end_probability(model, tokenizer, [])


def test_figures_of_the_notebook_draw_what_a_record_gives_back():
    """Also where theory is silent (None) and where there is one seed."""
    figures.style()
    rows = [
        {
            "name": n,
            "seed": s,
            "p_end": 0.5,
            "expected": None,
            "ended": 1.0,
            "bleu": 40.0 + s,
            "bleu_first": 41.0,
        }
        for n in ("CE only", "KD")
        for s in range(2)
    ]
    for table in (pd.DataFrame(rows), pd.DataFrame(rows[:1])):
        figures.end_unlearnt(table).canvas.draw(), figures.end_recipes(table).canvas.draw()
    figures.end_learnt(
        pd.DataFrame(
            [
                {"name": "new row", "seed": 0, "step": i, "probability": 10.0**-i, "words": 100}
                for i in range(4)
            ]
        )
    ).canvas.draw()


def test_the_watch_writes_p_end_where_trainer_keeps_its_log(chat):
    model = models.add_end_token(tiny.llama(len(chat)), chat)
    pairs = Dataset.from_dict(tiny.pairs(3))
    rows = translation.encode(pairs, chat)[0]
    state, watch = TrainerState(), translation.EndWatch(chat, rows)
    for state.global_step in (1, 4, 5):
        watch.on_step_end(None, state, None, model=model)
    expected = translation.end_probability(model, chat, rows)
    assert state.log_history == [{"step": 1, "p_end": expected}, {"step": 5, "p_end": expected}]
