"""The tables of notebook 07: whom they compare, and that the course's own runs still say the same."""

import json

import pandas as pd
import pytest

from kdlib import results
from kdlib import translation_tables as tables
from kdlib.paths import ROOT

NOTEBOOK = "07_eurollama_distil"


def record(method="kd", targets="references", rate=0.1, rank=0, seed=0, **found) -> dict:
    settings = {"method": method, "targets": targets, "learning_rate": rate, "lora_rank": rank}
    scores = {"bleu": 10.0 * (1 + seed), "chrf": 50.0, "perplexity": 2.0, "texts": [f"{seed}"]}
    seconds = {"train_seconds": 5.0, "teacher_seconds": 7.0}
    frame = {"base_bleu": 1.0, "teacher_bleu": 30.0, "bleu_cap": 40.0}
    return {
        "notebook": NOTEBOOK,
        "profile": "smoke",
        "seed": seed,
        "settings": settings,
        "results": scores | seconds | frame | found,
    }


RECORDS = [
    record(seed=0),
    record(seed=1),
    record("ce", seed=0, bleu=9.0),
    record("kd", "teacher", bleu=11.0),
    record(rate=0.01, bleu=5.0),
    record(rank=16, bleu=6.0, texts=["of LoRA"]),
]


def test_a_name_says_what_the_student_was_told():
    told = tables.runs(RECORDS)["told"].tolist()
    assert told == ["KD", "KD", "CE only", "KD, teacher's translations", "KD", "KD"]


def test_only_runs_of_one_rate_and_of_all_weights_are_compared():
    point = tables.point(tables.runs(RECORDS), "kd")
    assert point["bleu"].tolist() == [10, 20, 9, 11], "a slow rate or LoRA came in"


def test_the_table_frames_the_scores_and_bills_the_teacher_to_its_listeners():
    point = tables.point(tables.runs(RECORDS), "kd")
    table = tables.compared(point, synthetic=True).set_index("told")
    assert table.loc["KD", "bleu"] == "15.0 ± 7.1" and table.loc["KD", "runs"] == "2"
    assert table.loc["KD", "teacher_seconds"] == "7 ± 0"
    assert table.loc["CE only", "teacher_seconds"] == "–"
    assert table.loc["cap: the grammar's likeliest words", "bleu"] == "40.0"
    real = tables.compared(point, synthetic=False)["told"].tolist()
    assert real[-2:] == ["student before training", "the teacher"], "real text has no known cap"


def test_counts_are_those_of_the_compared_runs():
    point = tables.point(tables.runs(RECORDS), "kd")
    kept = tables.sentence_counts(RECORDS, point, ["1"])
    assert list(kept) == ["KD", "CE only", "KD, teacher's translations"]
    # lengths of text and reference, then how many single words are right: "1" of seed 1, no "0"
    assert [kept["KD"][seed][0][:3] for seed in (0, 1)] == [[1, 1, 0], [1, 1, 1]]
    real = [record("ce", texts=[], bleu_counts=[[7] * 10])]
    assert tables.sentence_counts(real, tables.runs(real), []) == {"CE only": {0: [[7] * 10]}}


def test_each_kind_of_student_comes_at_the_rate_that_validation_chose():
    chosen = [
        record("kd", rate=0.1, validation_bleu=3.0, bleu=99.0),
        record("kd", rate=0.01, validation_bleu=5.0, bleu=5.0),
        record("ce", rate=0.1, validation_bleu=4.0, bleu=4.0),
        record("ce", rate=0.01, validation_bleu=1.0, bleu=99.0),
        record("ce", rate=0.1, rank=16, validation_bleu=9.0, bleu=99.0),
    ]
    point = tables.point(tables.runs(chosen), "kd")
    assert point[["method", "learning_rate", "bleu"]].values.tolist() == [
        ["kd", 0.01, 5.0],
        ["ce", 0.1, 4.0],
    ]


def test_rates_fall_and_lora_comes_last():
    table = tables.by_rate(tables.runs(RECORDS))
    assert table["trained"].tolist() == ["all weights", "all weights", "LoRA, rank 16"]
    assert table["learning_rate"].tolist() == [0.1, 0.01, 0.1]
    assert table["bleu"].tolist() == ["15.00 ± 7.07", "5.00", "6.00"], "a control came in"


def test_the_distance_from_the_teacher_is_that_of_the_last_look():
    steps = [("validation", 0.9), ("train", 0.5), ("validation", 0.3), ("train", 0.1)]
    history = [{"split": split, "kd": kd} for split, kd in steps]
    table = tables.with_distance([record(ce=1.0, history=history)])
    assert table.loc[0, "kl_to_teacher"] == "0.30"


@pytest.mark.parametrize(
    "profile, make",
    [
        ("laptop", lambda records: tables.heading(tables.runs(records))),
        ("laptop", lambda records: tables.by_rate(tables.runs(records)).to_string(index=False)),
        ("lab", lambda records: tables.heading_of_real(records[0])),
        ("lab", lambda records: tables.with_distance(records).to_string(index=False)),
    ],
)
def test_the_notebook_prints_what_the_stored_runs_say(profile, make):
    notebook = json.loads((ROOT / "notebooks" / f"{NOTEBOOK}.ipynb").read_text("utf8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    printed = "\n".join("".join(output.get("text", "")) for output in outputs)
    assert make(results.reference_records(NOTEBOOK, profile)) in printed


def test_gaps_leave_out_what_no_seed_can_say():
    runs = pd.DataFrame({"told": ["KD", "CE"], "seed": [0, 0], "bleu": [12.0, 10.0]})
    found = list(results.gaps(runs, "KD", ["KD", "CE", "nobody"], ["bleu", "chrf"], by="told"))
    assert [(other, metric, gap.mean) for other, metric, gap in found] == [("CE", "bleu", 2.0)]
