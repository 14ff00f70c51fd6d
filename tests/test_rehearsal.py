"""`full` rehearsed: each notebook runs on a stub hub, with all that a job on a cluster would load.

Rows, steps and lengths are cut down by parameters alone; everything else is what the profile says.
The repositories have true layouts and tiny widths (see `stub_repos`), so a number that comes out of
them says nothing about the models whose names they bear. What is looked at: that every repository
of the profile is really fetched, that the teacher in the record is the one that the profile names,
that all goes on without network once it has been fetched, and that 07 trains in two processes.
"""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import stub_repos
import torch
import transformers
from stub_hub import StubHub

from kdlib.batch import runs as batch
from kdlib.course.run import settings_of
from kdlib.engine import hub as hub_of_the_course
from kdlib.paths import real_folder

# What makes each notebook short. Nothing here changes which models or data sets are loaded, except
# 08's translator: the profile names one that its user has trained before.
SHORT = {
    "00": {"train_rows": 64, "validation_rows": 64, "repeats": 3},
    "01": {"rows": 200},
    "02": {"rows": 200},
    "03": {"train_rows": 64, "validation_rows": 64, "batch_rows": 16, "batch_size": 16},
    "04": {"train_rows": 128, "validation_rows": 100, "test_rows": 200, "epochs": 1},
    "05": {"train_rows": 128, "validation_rows": 200, "epochs": 1, "evaluations": 1},
    "06": {"tune_rows": 16, "validation_rows": 4, "batch_size": 4, "max_words": 12},
    "07": {
        "train_rows": 32, "validation_rows": 8, "test_rows": 4, "max_words": 12, "batch_size": 4,
        "accumulation": 2,
    },
    "08": {
        "train_rows": 64, "validation_rows": 64, "test_rows": 4, "epochs": 1, "more_epochs": 1,
        "translator": "data/teachers/miniparl",
    },
    "09": {
        "train_rows": 128, "validation_rows": 64, "epochs": 1, "pairs": 48, "test_pairs": 16,
        "translator_epochs": 1, "batch_size": 16,
    },
    "10": {},
}  # fmt: skip
LONGEST_FIRST = sorted(SHORT, key="07 06 03 08 04 05 00 09 10 01 02".split().index)
FROM_THE_HUB = ("00", "03", "04", "05", "06", "07", "08")
TOKEN = "hf_rehearsal"


def settings_in_full(number: str) -> dict:
    return settings_of(batch.notebook_path(number).stem, "full")


def repositories(number: str) -> set[str]:
    """The hub ids that the profile names for a notebook."""
    names = {value for value in settings_in_full(number).values() if isinstance(value, str)}
    ids = {name for name in names if re.fullmatch(r"[\w-]+/[\w.-]+", name)}
    return {name for name in ids if not name.startswith(("data/", "runs/"))}


# -- quick: what the rehearsal rests on ------------------------------------------------------------


def test_each_repository_of_full_has_a_stand_in():
    named = set().union(*map(repositories, SHORT))
    assert named <= set(stub_repos.BUILDERS)
    assert {number for number in SHORT if repositories(number)} == set(FROM_THE_HUB)


# -- the runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """The repositories, once for all notebooks; pinned ones have the commit that is asked for."""
    pytest.importorskip(
        "llama_models", reason="Meta's vocabulary comes with pip install llama-models"
    )
    pytest.importorskip("comet", reason="COMET is an extra: pip install 'kdlib[comet]'")
    folder = tmp_path_factory.mktemp("rehearsal")
    stub_repos.build(folder / "hub", commits=hub_of_the_course.pins())
    return folder


@pytest.fixture(scope="module")
def performance(request, stage):
    """performance(number): what became of a notebook's runs. Two notebooks are under way at once.

    Every one has a hub and a cache of its own, so that no other fetches for it. Only the notebooks
    that pytest was asked for are run.
    """
    selected = {item.callspec.params.get("number") for item in request.session.items
                if item.path == request.path and hasattr(item, "callspec")}  # fmt: skip
    with ThreadPoolExecutor(2) as pool:
        runs = {n: pool.submit(perform, stage, n) for n in LONGEST_FIRST if n in selected}
        yield lambda number: runs[number].result()
        pool.shutdown(cancel_futures=True)


def perform(stage: Path, number: str) -> SimpleNamespace:
    """A notebook's runs: online; offline, with the hub down; 07 in two processes as well.

    01 and 02 read human votes that no hub has: they come from the tester's own folder, if at all.
    """
    own = stage / number
    found = SimpleNamespace(folder=stage / "hub")
    with StubHub(stage / "hub", TOKEN, stub_repos.GATED, stub_repos.RENAMED) as hub:
        environment = hub.environment(own / "cache") | {"OMP_NUM_THREADS": "1"}
        if number in ("01", "02"):
            environment["KD_REAL"] = str(real_folder())
        found.commits = {repo: there.commit for (_, repo), there in hub.repositories.items()}
        found.online = run(number, environment, own / "online")
        found.asked, found.downloads, found.tokens = (
            hub.asked(), hub.downloads(), {r.token for r in hub.requests if r.token},
        )  # fmt: skip
        if number == "04":
            permuted = {"teacher": stub_repos.PERMUTED_TEACHER, "train_rows": 32}
            found.permuted = run(number, environment, own / "permuted", permuted)
    if number in FROM_THE_HUB:
        offline = environment | {"HF_HUB_OFFLINE": "1"}
        found.offline = run(number, offline, own / "offline")
    if number == "07":
        found.together = run(number, offline, own / "together", options=["--nproc", "2"])
    return found


def run(number: str, environment: dict, root: Path, changes: dict | None = None, options=()):
    """`python -m kdlib run` in a child: its exit code, what it printed, its record.

    The line printed here has two times: by the clock, and of the processors, all processes of the
    run together. On an idle machine of two cores they are close.
    """
    parameters = SHORT[number] | (changes or {})
    given = [text for name, value in parameters.items() for text in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kdlib", "run", number, "--profile", "full", *given, *options]
    root.mkdir(parents=True)
    began = time.perf_counter()
    with open(root / "output.txt", "w+b") as output:
        child = subprocess.Popen(
            command, env=environment | {"KD_RUNS": str(root)}, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    clock, processors = time.perf_counter() - began, usage.ru_utime + usage.ru_stime
    times = f"{clock:.0f} s, of the processors {processors:.0f} s"
    print(f"{number} {root.name}: {times}, exit code {child.returncode}")
    records = [json.loads(path.read_text("utf8")) for path in root.glob("*/*/record.json")]
    return SimpleNamespace(
        code=child.returncode,
        text=(root / "output.txt").read_text("utf8", errors="replace"),
        record=records[0] if records else None,
    )


def results(outcome) -> dict:
    """The results in the record; fails with what the run said where there is none."""
    assert outcome.code == 0, outcome.text[-3000:]
    assert outcome.record is not None and outcome.record["profile"] == "full"
    return outcome.record["results"]


def accuracy(folder: Path, repo: str, configuration: str, split: str, rows: range) -> float:
    """The stand-in teacher's own accuracy, computed with the libraries alone."""
    parquet = folder / "datasets" / stub_repos.GLUE / configuration
    data = datasets.Dataset.from_parquet(str(parquet / f"{split}-00000-of-00001.parquet"))
    data = data.shuffle(seed=0).select(rows)
    place = folder / "models" / repo
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place).eval()
    texts = [list(data[name]) for name in data.column_names[:2]]
    with torch.inference_mode():
        answers = model(**tokenizer(*texts, padding=True, return_tensors="pt")).logits.argmax(-1)
    return float((answers.numpy() == np.array(data["label"])).mean())


def same(one, other) -> bool:
    """Equal numbers, up to rounding; what was timed is left out."""
    timed = ("second", "ms", "milli", "latency", "faster")
    for name, value in one.items():
        if isinstance(value, float) and not any(word in name for word in timed):
            if not np.isclose(value, other[name], rtol=1e-4, atol=1e-6, equal_nan=True):
                return False
    return one.keys() == other.keys()


slow = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("number", [pytest.param(n, marks=slow) for n in FROM_THE_HUB])
def test_full_fetches_what_its_profile_names_and_then_needs_no_hub(performance, number):
    """Every repository sends its files, none for another framework; offline all is as before."""
    found = performance(number)
    online = results(found.online)
    assert repositories(number) <= {repo for repo, _ in found.downloads}
    read = found.online.record["hub"]
    assert {repo: read.get(repo) for repo in repositories(number)} == {
        repo: found.commits[repo] for repo in repositories(number)
    }, "the record keeps the commit of all that was read"
    for repo, file in found.downloads:
        kind = "datasets" if repo in (stub_repos.GLUE, stub_repos.EUROPARL) else "models"
        begins = (found.folder / kind / repo / file).open("rb").read(len(stub_repos.UNUSED))
        assert begins != stub_repos.UNUSED, f"{repo}/{file} is fetched, and nothing reads it"
    assert found.tokens == {TOKEN}
    assert same(online, results(found.offline)), "offline the results differ"


@pytest.mark.parametrize("number", [pytest.param(n, marks=slow) for n in ("09", "10")])
def test_full_without_a_hub(performance, number):
    """09 measures against a truth that no corpus on the hub has; 10 reads records."""
    found = performance(number)
    results(found.online)
    assert found.asked == set()


@pytest.mark.parametrize("number", [pytest.param(n, marks=slow) for n in ("01", "02")])
def test_full_with_human_votes(performance, number):
    """The votes come with `get real`; without them the message says so."""
    found = performance(number)
    if (real_folder() / "chaosnli").is_dir():
        results(found.online)
    else:
        assert found.online.code and found.online.record is None
        assert "get real --part chaosnli" in found.online.text
    assert found.asked == set()


TEACHERS = {
    "04": (stub_repos.MNLI_TEACHER, "mnli", "validation_matched"),
    "05": (stub_repos.QQP_TEACHER, "qqp", "validation"),
}


@pytest.mark.parametrize("number", [pytest.param(n, marks=slow) for n in TEACHERS])
def test_the_teacher_of_the_profile_is_the_one_that_answers(performance, number):
    """The recorded accuracy of the teacher is the stand-in's own, and no other model has it."""
    found = performance(number)
    teacher, configuration, split = TEACHERS[number]
    chosen_by = SHORT[number]["validation_rows"]
    rows = range(chosen_by)
    if "test_rows" in SHORT[number]:  # GLUE's test labels are secret: validation rows after those
        rows = range(chosen_by, chosen_by + SHORT[number]["test_rows"])
    own = accuracy(found.folder, teacher, configuration, split, rows)
    recorded = results(found.online)
    assert recorded["teacher_accuracy"] == pytest.approx(own, abs=1e-6)
    assert own > 0.75 and own != pytest.approx(recorded["majority_accuracy"], abs=0.02)
    assert (stub_repos.DISTILBERT, "model.safetensors") in found.downloads


@pytest.mark.parametrize("number", [pytest.param("04", marks=slow)])
def test_a_teacher_with_permuted_classes_is_refused(performance, number):
    """Read naively it is right in 9 % of the rows; the run says which order its classes have."""
    refused = performance(number).permuted
    assert refused.code == 1 and refused.record is None
    assert "not in the order" in refused.text and "output 0 = contradiction" in refused.text


@pytest.mark.parametrize("number", [pytest.param("07", marks=slow)])
def test_comet_is_fetched_and_asked(performance, number):
    """The stand-in's number grades nothing; that there is one shows that COMET ran."""
    found = performance(number)
    assert isinstance(results(found.online)["comet"], float)
    assert isinstance(results(found.offline)["comet"], float)
    fetched = {repo for repo, _ in found.downloads}
    assert {stub_repos.COMET, stub_repos.XLMR} <= fetched
    assert (stub_repos.COMET, "checkpoints/model.ckpt") in found.downloads


@pytest.mark.parametrize("number", [pytest.param("07", marks=slow)])
def test_two_processes_train_what_one_trains(performance, number):
    """`--nproc 2`: the same rows in each step, so the same student up to rounding."""
    found = performance(number)
    one, two = results(found.online), results(found.together)
    assert two["ce"] == pytest.approx(one["ce"], rel=1e-3)
    assert two["rows_read"] == one["rows_read"]
