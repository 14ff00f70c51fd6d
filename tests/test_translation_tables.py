"""The tables of notebooks 06 to 09: whom they compare, and that the course's own runs still say
what the notebooks print.
"""

import json

import pandas as pd
import pytest

from kdlib import batch, figures, results
from kdlib import figures_beyond as beyond
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


def test_runs_of_another_size_are_another_comparison():
    """A trial on few pairs may lie among one's own runs."""
    counts = {"texts": [], "bleu_counts": [[7] * 10]}
    trial, real = record("ce", **counts), record("kd", **counts | {"bleu_counts": [[7] * 10] * 3})
    other = record("ce", **counts | {"bleu_counts": [[5] * 10] * 3})
    for one, rows in ((trial, 8), (real, 500), (other, 500)):
        one["settings"]["test_rows"] = rows
    runs = [trial, real, other]
    point = tables.point(tables.runs(runs), "kd")
    assert point["told"].tolist() == ["KD", "CE only"]
    assert {len(kept[0]) for kept in tables.sentence_counts(runs, point, []).values()} == {3}


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


# -- a real teacher -------------------------------------------------------------------------------


def test_each_kind_of_student_gets_its_own_rate():
    tried = [
        record("kd", rate=1e-3, ce=3.0),
        record("kd", rate=1e-4, ce=2.0),
        record("ce", rate=1e-3, ce=2.5),
        record("ce", rate=1e-4, ce=4.0),
        record("ce", rate=1e-2, rank=16, ce=0.1),
    ]
    table = tables.rates_tried(tables.runs(tried)).set_index("told")
    assert dict(table["chosen"]) == {"KD": "0.0001", "CE only": "0.001"}
    assert table.columns[0] == "CE at 0.001" and table.loc["KD", "CE at 0.001"] == "3.00"


def test_a_student_pays_for_what_it_used_of_the_teacher():
    runs = [
        record("kd"),
        record("ce"),
        record("label_smoothing"),
        record("ce", "teacher"),
        record("kd", "teacher"),
    ]
    for live in runs[3:]:
        live["stage_seconds"] = {"targets": 40.0}
    bill = dict(zip(tables.runs(runs)["told"], tables.runs(runs)["teacher_seconds"]))
    assert bill["KD"] == 7.0
    assert pd.isna(bill["CE only"]) and pd.isna(bill["CE, label smoothing"])
    assert bill["CE only, teacher's translations"] == 40.0, "it reads no distribution"
    assert bill["KD, teacher's translations"] == 47.0
    stored = record("ce", "teacher", teacher_seconds=500.0)
    stored["stage_seconds"] = {"targets": 0.1}
    assert tables.runs([stored])["teacher_seconds"].item() == 500.0, "generation is part of it"


def test_kd_is_compared_sentence_by_sentence():
    better, worse = [[5, 5, 5, 4, 3, 2, 5, 4, 3, 2]] * 20, [[5, 5, 3, 2, 1, 1, 5, 4, 3, 2]] * 20
    runs = [
        record("kd", texts=[], bleu_counts=better),
        record("ce", texts=[], bleu_counts=worse),
        record("label_smoothing", seed=1, texts=[], bleu_counts=worse),
    ]
    point = tables.runs(runs)
    found = dict(tables.over_sentences(runs, point, []))
    assert list(found) == ["CE only"], "no seed ran both KD and label smoothing"
    assert found["CE only"].mean > 0 and found["CE only"].n == 20


def test_the_heading_counts_what_was_read():
    """Records from before the counts say what was asked for; 0 asks for all."""
    asked = {"data": "d", "train_rows": 0, "test_rows": 500, "epochs": 1}
    newer, older = record(rows_read=6000, tested=202), record()
    newer["settings"] |= asked
    older["settings"] |= asked | {"train_rows": 40, "epochs": 2}
    assert (
        tables.heading(tables.runs([newer])) == "d: 6,000 training pairs, 1 epoch, 202 test pairs"
    )
    both = tables.heading(tables.runs([older, newer]))
    assert both == "d: 40 training pairs, 2 epochs, 500 test pairs"


def test_faults_are_shares_of_the_test_pairs():
    faults = {"hit_limit": 50, "repeats": 25, "stray": 0, "empty": 0}
    runs = tables.runs([record("kd", **faults)]).assign(test_rows=500)
    row = tables.went_wrong(runs).set_index("told").loc["KD"]
    assert row["never end"] == "10" and row["repeat themselves"] == "5"


def test_our_sentences_show_every_kind_of_student():
    teacher = {"own": {"Hello.": "Bonjour.", "Thanks.": "Merci."}}
    runs = [
        record("kd", own={"Hello.": "Salut.", "Thanks.": "Merci !"}, base_own={"Hello.": "ééé"}),
        record("ce", own={"Hello.": "Bon.", "Thanks.": "Mer."}),
    ]
    lines = tables.own_sentences(runs, teacher).splitlines()
    assert lines[0] == "Hello." and lines[1].split() == ["before", "training", "ééé", "…"]
    assert [line.split()[-1] for line in lines[2:5]] == ["Bonjour.", "Salut.", "Bon."]
    assert lines[5] == "Thanks." and len(lines) == 9


def test_an_ending_is_judged_by_what_was_measured():
    rows = [{"name": "right", "ended": 1.0, "texts": ["a"]}, {"name": "wrong", "ended": 0.256}]
    lines = tables.endings(rows).splitlines()
    assert [line.split() for line in lines] == [["ended"], ["right", "100%"], ["wrong", "26%"]]


def test_only_watched_recipes_have_a_curve():
    watched = {"name": "right", "curve": [[0, 1e-4], [5, 0.5]]}
    records = [record(seed=2, recipes=[watched, {"name": "no end token", "curve": []}])]
    table = tables.end_curves(records, vocabulary=100)
    assert table["step"].tolist() == [0, 5] and table["probability"].tolist() == [1e-4, 0.5]
    assert set(table["name"]) == {"new row"} and set(table["seed"]) == {2}


# -- the course's own runs -------------------------------------------------------------------------


def printed(notebook: str) -> str:
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text("utf8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n".join("".join(output.get("text", "")) for output in outputs)


def hidden_states(records: list[dict]) -> str:
    halves = beyond.hidden_runs(results.frame(records), beside_04=True)
    digits = {"accuracy_pct": 1, "label_kl": 3, "rows_asked": 0, "imitate_seconds": 0}
    return beyond.spreads(halves, ["student", "hidden"], digits)


def lessons(records: list[dict]) -> str:
    digits = {"bleu": 1, "right": 2, "sampled_right": 2, "word_kl": 3}
    digits |= {"outside": 3, "spread": 2, "own_kl": 3, "not measured": 1}
    return beyond.spreads(beyond.lesson_runs(results.frame(records)), ["lesson"], digits)


@pytest.mark.parametrize(
    "notebook, source, profile, make",
    [
        ("07", "07", "laptop", lambda records: tables.heading(tables.runs(records))),
        ("07", "07", "laptop", lambda records: tables.by_rate(tables.runs(records)).to_string(index=False)),
        ("07", "07", "lab", lambda records: tables.heading(tables.runs(records))),
        ("07", "07", "lab", lambda records: tables.went_wrong(tables.runs(records)).to_string(index=False)),
        ("07", "07", "rates_lab", lambda records: tables.rates_tried(tables.runs(records)).to_string(index=False)),
        ("08", "06", "laptop", tables.over_length),
        ("08", "08", "lab", figures.on_real_rows),
        ("09", "09", "laptop", hidden_states),
        ("09", "09", "laptop", lessons),
    ],
)  # fmt: skip
def test_a_notebook_prints_what_the_stored_runs_say(notebook, source, profile, make):
    names = {name[:2]: name for name in batch.COURSE}
    assert make(results.reference_records(names[source], profile)) in printed(names[notebook])


def test_no_run_is_no_table():
    assert beyond.spreads(pd.DataFrame({"lesson": ["a"]}), ["lesson"], {"bleu": 1}) == "no run yet"


def test_the_plane_has_the_student_and_both_kinds_of_grid():
    used = pd.DataFrame(
        {
            "model": ["MNLI teacher", "MNLI student", "MNLI student"],
            "method": ["fp32", "fp32", "fp16"],
            "mb_packed": [9.0, 3.0, 1.5],
            "accuracy": [80.0, 70.0, 70.0],
        }
    )
    translators = [{"name": "3 bits, one step", "mb": 1.0, "bleu": 20.0}]
    table = figures.plane_rows(
        "MNLI student",
        used,
        {"4 bits, groups of 32": (0.5, 69.0)},
        "MiniParl translator",
        translators,
    )
    assert table["method"].tolist() == ["fp32", "4 bits, groups of 32", "3 bits, one step"]
    assert table["one_scale"].tolist() == [False, False, True]
    assert table["megabytes"].tolist() == [3.0, 0.5, 1.0]
    assert table["quality"].tolist() == [70.0, 69.0, 20.0]
    assert table["measure"].tolist() == ["accuracy (%)", "accuracy (%)", "BLEU"]


def test_gaps_leave_out_what_no_seed_can_say():
    runs = pd.DataFrame({"told": ["KD", "CE"], "seed": [0, 0], "bleu": [12.0, 10.0]})
    found = list(results.gaps(runs, "KD", ["KD", "CE", "nobody"], ["bleu", "chrf"], by="told"))
    assert [(other, metric, gap.mean) for other, metric, gap in found] == [("CE", "bleu", 2.0)]
