"""doctor: an estimate is counted on real models and functions; each finding is seen by faking what it warns of."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from bench import memory as memory_bench
from helpers import CU126, NEW, alive_at_once, fake_gpu
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
)

from kdlib import causal, doctor, memory, models, paths
from kdlib.__main__ import main
from kdlib.losses import TopK

# -- memory: the parts -------------------------------------------------------------------------------------------------

CONFIGS = [
    LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=3,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=False,
    ),
    BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=80,
        num_labels=3,
    ),
    DistilBertConfig(vocab_size=300, dim=32, n_layers=2, n_heads=2, hidden_dim=80, num_labels=3),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_parameters_are_those_of_the_model(config):
    kind = (
        AutoModelForCausalLM if config.model_type == "llama" else AutoModelForSequenceClassification
    )
    assert memory.shape(config).parameters == kind.from_config(config).num_parameters()


@pytest.mark.parametrize(
    "name, published",
    [
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("bert-base-uncased", 109_483_778),
        ("distilbert-base-uncased", 66_955_010),
    ],
)
def test_named_models_have_the_published_size(name, published):
    assert memory.shape(name).parameters == published


def test_adapters_are_those_of_peft():
    pytest.importorskip("peft", reason="LoRA is optional (pip install 'kdlib[lora]')")
    model = models.with_lora(AutoModelForCausalLM.from_config(CONFIGS[1]), rank=4)
    assert memory.shape(CONFIGS[1]).adapters(4) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("kind", list(memory.ALIVE))
def test_matrices_alive_in_the_loss_are_counted_rightly(kind):
    """A loss that needs less (or more) than the estimate says fails here: change `memory.ALIVE`."""
    n, words = 128, 4000
    hidden, head, targets = (
        torch.randn(n, 4, requires_grad=True),
        torch.randn(words, 4, requires_grad=True),
        torch.randint(words, (n,)),
    )

    def loss():
        student = hidden @ head.T
        with torch.no_grad():
            teacher = {
                "ce": lambda: None,
                "dense": lambda: hidden @ head.T,
                "topk": lambda: TopK(
                    torch.randint(words, (n, 8)), torch.randn(n, 8), torch.randn(n)
                ),
            }[kind]()
        return causal.token_loss(
            student,
            teacher,
            targets,
            temperature=2.0,
            alpha=0.5,
            divergence="forward_kl",
            num_items=n,
        ).total

    assert alive_at_once(lambda: loss().backward()) / (n * words * 4) == pytest.approx(
        sum(memory.ALIVE[kind]), abs=0.3
    )


@pytest.mark.parametrize(
    "family, mode, lora", [("bert", "float32", False)] + [("llama", *case) for case in memory.KEPT]
)
def test_what_autograd_keeps_of_a_layer_is_counted_rightly(family, mode, lora):
    """The bytes that saved tensors hold, of three layers less those of two."""
    config = lambda layers: (LlamaConfig if family == "llama" else BertConfig)(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=layers,
        intermediate_size=160,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    batch, length = 4, 48

    def saved(layers):
        model = (
            AutoModelForCausalLM if family == "llama" else AutoModelForSequenceClassification
        ).from_config(config(layers), dtype=torch.bfloat16 if mode == "half" else torch.float32)
        model = models.with_lora(model, 1) if lora else model
        weights, held = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}
        mask = torch.ones(batch, length, dtype=torch.long)
        mask[0, -1] = 0

        def keep(tensor):
            copy = (
                tensor.dim() == 2
                and len(tensor) != batch * length
                or tensor.shape == (batch, 1, length, length)
            )  # autocast's: of weights, of masks
            if tensor.untyped_storage().data_ptr() not in weights and not copy:
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"),
        ):
            model(input_ids=torch.randint(50, (batch, length)), attention_mask=mask).logits.sum()
        return sum(storage.nbytes() for storage in held.values())

    pytest.importorskip("peft", reason="LoRA is optional") if lora else None
    s = memory.shape(config(1))
    told = memory._layer(s, mode, lora) * batch * length + (
        0 if family == "llama" else 4 * memory._attention(s, batch, length)
    )
    assert saved(3) - saved(2) == pytest.approx(told, rel=0.05)


LLAMA = dict(student="Llama-3.2-1B", teacher="Llama-3.2-3B", batch_size=8, length=256, learnt=100)


def test_the_parts_of_an_estimate():
    parts = memory.estimate(**LLAMA, teacher_dtype="float16")
    assert [parts.weights, parts.gradients, parts.optimiser / 2] == pytest.approx(
        [4 * 1.2358144] * 3, abs=1e-4
    )
    assert parts.teacher == pytest.approx(6.4255, abs=1e-4)
    assert parts.logits == pytest.approx(12 * 800 * 128_256 * 4 / 1e9, rel=1e-3)
    assert max(parts[:-1]) < parts.total < sum(parts[:-1])


@pytest.mark.parametrize(
    "saving, part",
    [
        (dict(cached_teacher=True), "teacher"),
        (dict(chunk_tokens=64), "logits"),
        (dict(checkpointing=True), "activations"),
        (dict(lora_rank=16), "gradients"),
        (dict(optimizer="adamw8bit"), "optimiser"),
        (dict(optimizer="sgd"), "optimiser"),
        (dict(learnt=10), "logits"),
        (dict(batch_size=2), "activations"),
        (dict(dtype="bfloat16"), "weights"),
    ],
    ids=str,
)
def test_each_saving_saves(saving, part):
    before, after = memory.estimate(**LLAMA), memory.estimate(**LLAMA | saving)
    assert getattr(after, part) < getattr(before, part) and after.total < before.total


def test_accumulation_keeps_gradients():
    assert memory.estimate(**LLAMA, accumulation=8).total > memory.estimate(**LLAMA).total + 4


@pytest.mark.parametrize(
    "change, told",
    [
        (
            dict(student="Llama-3.2-1b"),
            "no memory estimate for 'Llama-3.2-1b'; did you mean 'Llama-3.2-1B'",
        ),
        (dict(student=GPT2Config()), "'gpt2'.*llama, bert and distilbert are known"),
        (dict(student=7), "no memory estimate for a 'int'"),
        (dict(dtype="int8"), "dtype must be one of float32, float16, bfloat16, not 'int8'"),
        (dict(teacher_dtype="half"), "teacher_dtype must be one of"),
        (dict(optimizer="adam"), "optimizer must be one of.*did you mean 'adamw'"),
        (dict(batch_size=0), "must be 1 or more"),
        (dict(length=0), "must be 1 or more"),
        (dict(learnt=300), "at most the length"),
        (dict(student="bert-base-uncased", lora_rank=4), "LoRA.*must be 0"),
    ],
    ids=str,
)
def test_what_cannot_be_estimated_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        memory.estimate(**LLAMA | change)


# -- memory: six GPUs --------------------------------------------------------------------------------------------------


def test_the_plan_is_tidy_and_recipes_add_up():
    table = doctor.plan()
    assert len(table) == len(memory.GPUS) * len(memory.RECIPES) and list(table.columns[:3]) == [
        "gpu",
        "gpu_gb",
        "recipe",
    ]
    for _, rows in table.groupby("gpu", sort=False):
        assert rows["total"].is_monotonic_decreasing and rows["recipe"].tolist() == list(
            memory.RECIPES
        )
    fits = table.set_index(["gpu", "recipe"])["fits"]
    assert (
        fits["P100", "plain"] == "no"
        and fits["P100", "+ LoRA, rank 16"] == "yes"
        and fits["H200", "plain"] == "yes"
    )


def test_a_gpu_may_be_a_number_of_gb():
    table = doctor.plan([24, "H100"])
    assert table["gpu"].unique().tolist() == ["24 GB", "H100"] and set(
        doctor.plan("p100")["gpu_gb"]
    ) == {16.0}
    assert set(doctor.plan(1e6)["fits"]) == {"yes"} and set(doctor.plan(1)["fits"]) == {"no"}


@pytest.mark.parametrize("gpu", ["RTX 9000", -3, 0, True, None, float("nan")], ids=str)
def test_an_unknown_gpu_is_refused(gpu):
    with pytest.raises(
        ValueError,
        match="unknown GPU.*known are P100, V100, A100-40, A100-80, H100, H200, or say how many GB",
    ):
        doctor.plan([gpu])


# -- memory: measured --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="resident memory is exact with glibc's allocator alone"
)
def test_estimates_are_within_15_per_cent_of_measurements():
    table = memory_bench.comparison().set_index("configuration")
    assert len(table) >= 6
    # The system may keep pages that nobody asked for while other programs run. They make a peak
    # larger and never smaller, so what is off is measured once more.
    off = list(table.index[table["off by %"].abs() > 15])
    if off:
        table.update(memory_bench.comparison(off).set_index("configuration"))
    assert (table["off by %"].abs() <= 15).all(), f"\n{table.to_string()}"


def test_a_process_that_fails_says_why(monkeypatch):
    broken = SimpleNamespace(returncode=1, stderr="Traceback\nRuntimeError: no memory", stdout="")
    monkeypatch.setattr(memory_bench.subprocess, "run", lambda *a, **k: broken)
    with pytest.raises(OSError, match="failed: RuntimeError: no memory"):
        memory_bench.measure(CONFIGS[0], batch_size=1, length=8)
    with pytest.raises(ValueError, match="must be 1 or more"):
        memory_bench.measure(CONFIGS[0], batch_size=0, length=8)


# -- findings ----------------------------------------------------------------------------------------------------------


def one(look, name: str = "it") -> doctor.Finding:
    (finding,) = look(name)
    assert finding.ok == (not finding.fix), (
        "a finding has a fix, and where all is well there is nothing to do"
    )
    return finding


@pytest.mark.parametrize(
    "card, capability, built, ok",
    [
        ("Tesla P100", (6, 0), NEW, False),
        ("Tesla V100", (7, 0), NEW, False),
        ("Tesla P100", (6, 0), CU126, True),
        ("Tesla V100", (7, 0), CU126, True),
        ("T4", (7, 5), NEW, True),
        ("A100", (8, 0), NEW, True),
        ("L4", (8, 9), NEW, True),
        ("H200", (9, 0), NEW, True),
        ("H100", (9, 0), ["sm_90a"], True),
        ("RTX 5090", (12, 0), CU126, False),
        ("one of tomorrow", (13, 0), NEW, True),
    ],
)
def test_a_gpu_that_this_torch_has_no_code_for(monkeypatch, card, capability, built, ok):
    fake_gpu(monkeypatch, card, capability, built)
    finding = one(doctor.gpu)
    assert finding.ok == ok and finding.stops == (not ok) and card in finding.found
    if not ok:
        assert ("whl/cu126" in finding.fix) == (
            capability < (7, 5)
        ) and 'CUDA_VISIBLE_DEVICES=""' in finding.fix


@pytest.mark.parametrize("cuda, told", [(None, "build without CUDA"), ("13.0", "sees no GPU")])
def test_a_driver_without_a_torch_that_sees_the_gpu(monkeypatch, cuda, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert one(doctor.gpu).ok
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    finding = one(doctor.gpu)
    assert told in finding.found and not finding.stops


@pytest.mark.parametrize("capability, ok", [((6, 0), False), ((7, 0), False), ((8, 0), True)])
def test_emulated_bf16_does_not_count(monkeypatch, capability, ok):
    fake_gpu(monkeypatch, "it", capability, CU126)
    finding = one(doctor.bf16)
    assert finding.ok == ok and not finding.stops and (ok or "fp16" in finding.fix)


@pytest.mark.parametrize(
    "free, ok, stops", [(16.0, True, False), (3.0, False, False), (0.8, False, True)]
)
def test_little_memory(monkeypatch, free, ok, stops):
    monkeypatch.setattr(doctor, "free_gb", lambda: free)
    finding = one(doctor.memory)
    assert (finding.ok, finding.stops) == (ok, stops) and (ok or "--mem=4G" in finding.fix)


def test_a_gpu_that_others_fill(monkeypatch):
    fake_gpu(monkeypatch, "it", (8, 0), NEW)
    assert one(doctor.gpu_memory).ok
    fake_gpu(monkeypatch, "it", (8, 0), NEW, free=2.0)
    assert "nvidia-smi" in one(doctor.gpu_memory).fix


@pytest.mark.parametrize(
    "line, folder, names",
    [
        ("0::/job/step", "job", ("memory.max", "memory.current")),
        ("4:memory:/job/step", "memory/job", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ],
)
def test_a_job_has_less_memory_than_the_machine(tmp_path, monkeypatch, line, folder, names):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=int(100e9)))
    (tmp_path / "own").write_text(f"1:cpu:/\n{line}\n")
    assert (
        doctor.free_gb(tmp_path, tmp_path / "own")
        == doctor.free_gb(tmp_path, tmp_path / "none")
        == 100
    )
    (tmp_path / folder / "step").mkdir(parents=True)
    for name, number in zip(names, (12e9, 5e9)):
        (tmp_path / folder / name).write_text(f"{int(number)}\n")
    (tmp_path / folder / "step" / names[0]).write_text("max\n")
    assert doctor.free_gb(tmp_path, tmp_path / "own") == 7


@pytest.mark.parametrize(
    "free, ok, stops", [(80e9, True, False), (1e9, False, False), (0.1e9, False, True)]
)
def test_little_disk(monkeypatch, free, ok, stops):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    finding = one(doctor.disk)
    assert (finding.ok, finding.stops) == (ok, stops) and (ok or "KD_RUNS" in finding.fix)


def test_a_run_folder_that_cannot_be_written(tmp_path, monkeypatch):
    assert one(doctor.runs).ok
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "file" / "runs"))
    finding = one(doctor.runs)
    assert finding.stops and "set KD_RUNS" in finding.fix and "cannot be written" in finding.found


def packages(monkeypatch, tmp_path, lock: str | None, **installed):
    found = {name: "1.0" for name in doctor.NEEDED} | installed
    monkeypatch.setattr(
        doctor.importlib.metadata,
        "distributions",
        lambda: [
            SimpleNamespace(metadata={"Name": name}, version=version)
            for name, version in found.items()
            if version
        ],
    )
    monkeypatch.setattr(doctor.paths, "ROOT", tmp_path)
    if lock is not None:
        (tmp_path / "constraints.txt").write_text(lock)
    return one(doctor.versions)


def test_versions_against_the_lock(monkeypatch, tmp_path):
    lock = "# a lock\ntorch==2.13.0\nPyYAML==1.0\nnot-here==3\n"
    assert packages(monkeypatch, tmp_path, None).ok
    assert packages(monkeypatch, tmp_path, lock, torch="2.13.0+cu126").ok, (
        "a build of the same version is the same version"
    )
    other = packages(monkeypatch, tmp_path, lock, torch="2.14.1", pyyaml="1.0")
    assert (
        not other.ok
        and not other.stops
        and "torch 2.14.1 (lock: 2.13.0)" in other.found
        and "constraints.txt" in other.fix
    )
    missing = packages(monkeypatch, tmp_path, lock, papermill="")
    assert missing.stops and missing.found == "missing: papermill" and "pip install" in missing.fix


@pytest.mark.parametrize(
    "version, ok", [((3, 10, 9), False), ((3, 11, 4), True), ((3, 13, 0), True)]
)
def test_python(monkeypatch, version, ok):
    monkeypatch.setattr(doctor.sys, "version_info", version)
    finding = one(doctor.python)
    assert (
        finding.ok == ok
        and finding.stops == (not ok)
        and ("constraints.txt" in finding.found) == (version > (3, 12))
    )


@pytest.fixture
def reachable(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(doctor, "probe_hub", lambda source: None)


def test_a_hub_that_is_not_reachable_does_not_stop(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(
        socket,
        "create_connection",
        lambda *a, **k: (_ for _ in ()).throw(TimeoutError("timed out")),
    )
    finding = one(doctor.hub)
    assert (
        not finding.ok
        and not finding.stops
        and "timed out" in finding.found
        and "profile=laptop" in finding.fix
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert one(doctor.hub).ok


@pytest.mark.parametrize(
    "token, answer, told",
    [
        (None, None, "no token"),
        ("hf_x", type("GatedRepoError", (OSError,), {})("403"), "the token is refused"),
        ("hf_x", type("RepositoryNotFoundError", (OSError,), {})("401"), "the token is refused"),
        ("hf_x", RuntimeError("cut off"), "no answer"),
        ("hf_x", None, ""),
    ],
    ids=str,
)
def test_gated_access(monkeypatch, reachable, token, answer, told):
    def ask(source):
        if answer is not None:
            raise answer

    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    monkeypatch.setattr("huggingface_hub.auth_check", ask)
    there, access = doctor.hub("hub")
    assert there.ok and access.ok == (not told) and not access.stops and doctor.GATED in access.name
    assert told in access.found and (
        access.ok
        or (
            "accept a licence" in access.fix
            and "HF_TOKEN" in access.fix
            and "unsloth" in access.fix
        )
    )


@pytest.mark.parametrize(
    "name, error, stops",
    [("GPU", OSError("libcudart.so not found"), True), ("hub", RuntimeError("odd"), False)],
)
def test_a_check_that_fails_is_a_finding(monkeypatch, name, error, stops):
    look = doctor.CHECKS[name]
    if name == "GPU":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: (_ for _ in ()).throw(error))
    else:
        monkeypatch.setattr(doctor, "probe_hub", lambda source: (_ for _ in ()).throw(error))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(doctor, "CHECKS", {name: look})
    (finding,) = doctor.check()
    assert not finding.ok and finding.stops == stops and str(error) in finding.found and finding.fix


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_and_its_code_says_whether_something_stops(monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for stops in (False, True):
        monkeypatch.setattr(
            doctor,
            "CHECKS",
            {
                "it": lambda name: [
                    doctor.Finding("fine", True, "well"),
                    doctor.Finding(name, False, "ill", "mend it", stops),
                ]
            },
        )
        assert main(["doctor"]) == int(stops)
        told = capsys.readouterr().out
        assert (
            f"{'STOP' if stops else 'note'}  it: ill\n      → mend it" in told
            and "ok    fine: well" in told
        )
        assert ("before anything runs, mend: it" in told) == stops


def test_the_command_plans_and_measures(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", {})
    monkeypatch.setattr(memory_bench, "comparison", lambda: print("measured"))
    assert (
        main(["doctor", "--plan"]) == 0
        and main(["doctor", "--gpu", "24", "--gpu", "P100", "--measure"]) == 0
    )
    told = capsys.readouterr().out
    assert (
        "H200" in told
        and "24 GB" in told
        and "+ LoRA, rank 16" in told
        and told.count("measured\n") == 1
    )


def test_an_unknown_gpu_is_one_line(monkeypatch, capsys):
    assert main(["doctor", "--gpu", "H1000"]) == 2
    told = capsys.readouterr().err
    assert (
        told.startswith("kdlib doctor: unknown GPU 'H1000'; did you mean 'H100'")
        and told.count("\n") == 1
    )


def test_it_is_light_and_runs_as_a_command():
    """No torch to import it or to plan: the plan may be asked for where torch is broken."""
    code = "import sys; from kdlib import doctor; doctor.plan('P100'); assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", "doctor"],
        capture_output=True,
        text=True,
        cwd=paths.ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert (
        done.returncode in (0, 1)
        and "Traceback" not in done.stdout + done.stderr
        and "Python: 3." in done.stdout
    )


def test_findings_are_plain_data():
    assert (
        json.loads(json.dumps([f._asdict() for f in [doctor.Finding("a", True, "b")]]))[0]["stops"]
        is False
    )
