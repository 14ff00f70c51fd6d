"""The pretended GPU catches mixed devices; every notebook and solution runs on it, and asks no model on the CPU."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pretend_gpu
import pytest
import tiny
import torch

from kdlib import causal, glue, models, onpolicy, quantise, teacher_cache, translation
from kdlib.engine import asking as answers
from kdlib.engine import processes as launch
from kdlib.engine.device import at_work, machine_device

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[01]*.ipynb")) + sorted(
    (ROOT / "notebooks" / "solutions").glob("*.ipynb")
)


@pytest.fixture
def gpu():
    with pretend_gpu.pretended() as mode:
        yield mode


@pytest.fixture
def llama(chat):
    return models.add_end_token(tiny.llama(len(chat)), chat)


def places(mode) -> set[tuple[str, str]]:
    """{(asker, device)} of all passes so far."""
    return {(asker, device) for _, asker, device, _ in mode.passes}


# -- the pretence itself ----------------------------------------------------------------------------------------------


def test_mixed_devices_raise_as_on_a_gpu(gpu):
    here, there = torch.ones(2, 3), torch.ones(2, 3, device="cuda")
    assert (
        there.device.type == "cuda" and there.is_cuda and (there + 1).is_cuda and not here.is_cuda
    )
    assert torch.equal((there + here.to(there.device)).cpu(), here + here)
    assert (there * torch.tensor(2.0)).is_cuda, "a number may be on the CPU"
    for mix in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: there @ here.T,
        lambda: torch.nn.functional.cross_entropy(there, torch.tensor([0, 1])),
        lambda: here[torch.zeros(2, dtype=torch.long, device="cuda")],
    ):
        with pytest.raises(RuntimeError, match="device"):
            mix()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


def test_a_model_that_is_moved_takes_all_its_weights_along(gpu):
    model, ids = tiny.bert(), torch.ones(2, 5, dtype=torch.long)
    assert model.to("cuda") is model and all(weight.is_cuda for weight in model.parameters())
    assert all(weight.is_cuda for weight in copy.deepcopy(model).parameters())
    with pytest.raises(RuntimeError, match="pretended"):
        model(input_ids=ids)
    logits = model(input_ids=ids.to("cuda")).logits
    logits.sum().backward()
    assert logits.is_cuda and model.classifier.weight.grad.is_cuda
    assert not model.to("cpu").classifier.weight.is_cuda
    assert sum(gpu.passes.values()) == 2 and {key[1:] for key in gpu.passes} == {
        ("a cell itself", "cuda", "float32")
    }


def test_nothing_of_the_pretence_is_left_behind():
    before = torch.nn.Parameter.__new__
    with pretend_gpu.pretended():
        assert torch.cuda.is_available() and machine_device() == "cuda"
    assert not torch.cuda.is_available() and torch.nn.Parameter.__new__ is before
    assert torch.ones(1, device="cpu").device.type == "cpu" and machine_device() == "cpu"


# -- kdlib's functions ------------------------------------------------------------------------------------------------


def test_a_model_is_moved_while_it_is_asked_and_can_still_be_trained(gpu):
    model = tiny.bert()
    with torch.inference_mode(), at_work(model) as same:
        assert same is model and model.device.type == "cuda"
    assert model.device.type == "cpu"
    model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.sum().backward()
    with at_work(model, "cpu"):
        assert model.device.type == "cpu", "a trainer that was told to use the CPU does"
    with at_work(model.to("cuda")):
        pass
    assert model.device.type == "cuda", "who put it there wants it there"


def test_a_classifier_answers_on_the_gpu(gpu, encoded, tokenizer, tmp_path):
    teacher, rows = tiny.bert(), encoded[1]
    logits = answers.teacher_logits(teacher, rows, glue.collator(tokenizer))
    cache = teacher_cache.build(teacher, rows, tokenizer, root=tmp_path)
    teacher_cache.audit(cache, teacher, rows, tokenizer)
    models.latency(teacher, {"input_ids": torch.ones(1, 4, dtype=torch.long)}, repeats=1, warmup=0)
    assert (
        places(gpu) == {("teacher_logits", "cuda"), ("latency", "cuda")}
        and teacher.device.type == "cpu"
    )
    assert np.allclose(logits, cache.logits(), atol=1e-6)


def test_a_language_model_answers_on_the_gpu(gpu, chat, llama, tmp_path):
    import datasets

    pairs = datasets.Dataset.from_dict(tiny.pairs(4))
    rows = translation.encode(pairs, chat)[0]
    batch = translation.collator(chat)(list(rows))
    translation.translate(llama, chat, pairs["en"][:2], max_new_tokens=4)
    translation.end_probability(llama, chat, rows)
    logits = causal.target_logits(llama, batch)
    own = onpolicy.own_words(
        llama, batch, stop=translation.end_token_id(chat), pad=chat.pad_token_id
    )
    cache = teacher_cache.build(llama, rows, chat, topk=4, root=tmp_path)
    teacher_cache.audit(cache, llama, rows, chat, student=tiny.llama(len(chat), layers=1))
    assert {device for _, device in places(gpu)} == {"cuda"} and llama.device.type == "cpu"
    asked = {
        "translate",
        "end_probability",
        "target_logits",
        "own_words",
        "topk_answers",
        "_logits_row_by_row",
    }
    assert {asker for asker, _ in places(gpu)} == asked
    assert logits.device.type == own["input_ids"].device.type == "cpu"


def test_inputs_follow_a_model_that_is_on_the_gpu(gpu, chat, llama):
    ids = torch.arange(8)[None]
    keep = torch.ones_like(ids, dtype=torch.bool)
    assert causal.logits_at(llama.to("cuda"), {"input_ids": ids}, keep).is_cuda


def test_a_quantised_model_stays_where_it_was_packed(gpu, llama):
    pytest.importorskip("torchao")
    small = quantise.quantised(llama, "int8 weight-only")
    assert small.device.type == "cuda" and llama.device.type == "cpu"
    assert quantise.quantised(llama, "bf16").device.type == "cuda"


def test_dtypes_are_those_that_the_card_computes_well(gpu):
    assert models.machine_dtype() == torch.bfloat16
    with pretend_gpu.pretended(capability=(6, 0)):
        assert models.machine_dtype() == torch.float16
    assert models.machine_dtype() == torch.bfloat16


def test_what_goes_to_other_processes_is_on_the_cpu(gpu, tmp_path):
    model = tiny.bert().to("cuda")
    launch.hand_over(
        (len, {"model": model, "mask": torch.ones(2, device="cuda")}, 0), tmp_path / "call"
    )
    function, inputs, _ = pickle.loads((tmp_path / "call").read_bytes())
    assert function is len and inputs["mask"].device.type == "cpu"
    assert {weight.device.type for weight in inputs["model"].parameters()} == {"cpu"}
    assert tiny.difference(inputs["model"].state_dict(), model.cpu().state_dict()) == 0


# -- the notebooks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """A process of its own that runs one notebook after the other: what it imports is imported once."""
    environment = os.environ | {
        "KD_RUNS": str(tmp_path_factory.mktemp("runs")),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(Path(pretend_gpu.__file__))]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def report(path: Path, **given) -> dict:
            print(
                json.dumps({"path": str(path), "given": {"profile": "smoke"} | given}),
                file=process.stdin,
                flush=True,
            )
            return json.loads(process.stdout.readline())

        yield report
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem[:2]}")
def test_a_notebook_runs_on_a_gpu_and_asks_no_model_on_the_cpu(path, runner):
    found = runner(path)
    assert not found["failures"], "\n".join(found["failures"])
    meant_for_cpu = ON_THE_CPU.get(path.stem[:2], set())
    on_cpu = [seen for seen in found["passes"] if seen[2] != "cuda"]
    on_cpu = [seen for seen in on_cpu if seen[1] not in meant_for_cpu]
    assert not [seen for seen in on_cpu if seen[1] != "a cell itself"], on_cpu
    # a cell may show a model a sentence or two where the model is
    assert sum(count for *_, count in on_cpu) <= FEW, on_cpu
    askers = {asker for _, asker, _, _, _ in found["passes"]}
    assert EXPECTED.get(path.stem[:2], set()) <= askers or path.parent.name == "solutions", askers


FEW = 30
ON_THE_CPU = {"00": {"latency"}}  # the race, and it says so
EXPECTED = {
    "04": {"compute_loss", "teacher_logits", "prediction_step"},
    "05": {"compute_loss", "teacher_logits", "prediction_step"},
    "06": {"compute_loss", "end_probability", "translate"},
    "07": {"compute_loss", "translate", "topk_answers", "target_logits", "prediction_step"},
    "08": {"compute_loss", "translate", "teacher_logits", "target_logits", "latency"},
    "09": {"compute_loss", "translate", "teacher_logits", "target_logits", "own_words"},
}


@pytest.mark.slow
def test_07_takes_the_dtype_that_the_card_computes_well(runner):
    found = runner(NOTEBOOKS[7], dtype="auto", topk=0, alpha=1.0)
    assert not found["failures"], "\n".join(found["failures"])
    dtypes = {(asker, dtype) for _, asker, _, dtype, _ in found["passes"]}
    assert ("translate", "bfloat16") in dtypes and ("translate", "float32") in dtypes, (
        "the teacher, and the student"
    )
