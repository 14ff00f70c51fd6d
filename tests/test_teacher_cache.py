"""The teacher's cache: equal to the live teacher, never used for another one, never damaged unnoticed, right at every planned T."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import SequentialSampler

from kdlib import glue, losses, teacher_cache
from kdlib.engine import asking as answers
from kdlib.trainer import DistillationTrainer


@pytest.fixture
def tok(tmp_path):
    return tiny.tokenizer(tmp_path)


@pytest.fixture
def rows(tok):
    return tiny.encoded(tok, 40)


class Counting:
    """Forward calls of a model, by the number of rows that it was asked."""

    def __init__(self, model):
        self.rows = 0
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model, args, kw):
        self.rows += len(kw["input_ids"])


def build(teacher, rows, tok, tmp_path, **kw):
    return teacher_cache.build(
        teacher, rows, tok, root=tmp_path / "cache", **{"shard_rows": 16, "batch_size": 8} | kw
    )


# ---------------------------------------------------------------- equal to the live teacher


def test_answers_are_the_teachers_and_are_asked_for_once(tmp_path, tok, rows, capsys):
    teacher = tiny.bert()
    count = Counting(teacher)
    cache = build(teacher, rows, tok, tmp_path)
    live = answers.teacher_logits(teacher, rows, glue.collator(tok), 8)
    assert count.rows == 80 and len(cache) == 40
    assert np.abs(cache.logits() - live).max() <= 1e-6 * np.abs(live).max(), (
        "other batches, other rounding"
    )
    again = build(teacher, rows, tok, tmp_path)
    assert (
        count.rows == 80
        and again.folder == cache.folder
        and np.array_equal(again.logits(), cache.logits())
    )
    assert (
        "40 of 40 rows asked for" in (told := capsys.readouterr().out)
        and "all 40 rows were answered before" in told
    )
    assert again.seconds == cache.seconds > 0, "what the teacher cost is remembered"


def test_a_part_of_the_rows_in_any_order_finds_its_answers(tmp_path, tok, rows):
    cache = build(tiny.bert(), rows, tok, tmp_path)
    picked = [31, 2, 17, 2]
    part = cache.attach(rows.select(picked))
    assert np.array_equal(np.array(part["teacher_logits"], np.float32), cache.logits()[picked])
    assert part["input_ids"] == rows.select(picked)["input_ids"]


def same_batches(rows):
    """Rows longest first: then a sequential run's batches are the batches that the cache was asked in."""
    order = np.argsort([-len(ids) for ids in rows["input_ids"]], kind="stable")
    return rows.select(order)


class InOrder(DistillationTrainer):
    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset)


def trained(tmp_path, name, rows, tok, kind=DistillationTrainer, **how):
    student = tiny.bert(layers=1, seed=3)
    args = tiny.DistillationArguments(
        str(tmp_path / name),
        alpha=0.7,
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=1,
    )
    trainer = kind(student, args, train_dataset=rows, data_collator=glue.collator(tok), **how)
    trainer.train()
    return student.state_dict(), [
        entry["loss"] for entry in trainer.state.log_history if "loss" in entry
    ]


def test_a_run_with_the_cache_is_a_run_with_the_live_teacher_bit_for_bit(tmp_path, tok, rows):
    rows, teacher = same_batches(rows), tiny.bert()
    cache = build(teacher, rows, tok, tmp_path, shard_rows=40)
    cached, losses_cached = trained(tmp_path, "a", rows, tok, InOrder, teacher_cache=cache)
    live, losses_live = trained(tmp_path, "b", rows, tok, InOrder, teacher=teacher)
    assert losses_cached == losses_live and all(torch.equal(cached[k], live[k]) for k in live)


def test_with_other_batches_the_loss_differs_by_rounding_only(tmp_path, tok, rows):
    teacher, student = tiny.bert(), tiny.bert(layers=1, seed=3)
    cached = tiny.trainer(
        tmp_path / "a", student, build(teacher, rows, tok, tmp_path).attach(rows), tok, alpha=0.7
    )
    live = tiny.trainer(tmp_path / "b", student, rows, tok, teacher=teacher, alpha=0.7)
    for one, other in zip(cached.get_train_dataloader(), live.get_train_dataloader(), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        one, other = (
            cached.compute_loss(student, one).item(),
            live.compute_loss(student, other).item(),
        )
        assert one == pytest.approx(other, rel=1e-6)


def test_evaluation_rows_that_a_cache_knows_get_their_kd(tmp_path, tok, rows):
    teacher, validation, strangers = (
        tiny.bert(),
        tiny.encoded(tok, 12, seed=1),
        tiny.encoded(tok, 12, seed=2),
    )
    caches = [build(teacher, part, tok, tmp_path) for part in (rows, validation)]
    args = tiny.DistillationArguments(str(tmp_path / "run"), alpha=0.5, report_to="none")
    make = lambda evaluation: DistillationTrainer(
        tiny.bert(layers=1),
        args,
        teacher_cache=caches,
        train_dataset=rows,
        eval_dataset=evaluation,
        data_collator=glue.collator(tok),
    )
    assert "eval_kd" in make(validation).evaluate() and "eval_kd" not in make(strangers).evaluate()


# ---------------------------------------------------------------- never used for another


def test_anything_that_changes_the_answers_changes_the_cache(tmp_path, tok, rows):
    first = build(tiny.bert(), rows, tok, tmp_path).folder.name
    other_weight = tiny.bert()
    other_weight.classifier.bias.data[0] += 1e-3
    other_row = rows.map(
        lambda row, i: {"input_ids": row["input_ids"][:-1] + [5]} if i == 7 else {},
        with_indices=True,
    )
    other_tok = tiny.tokenizer(tmp_path)
    other_tok.add_tokens(["zebra"])
    names = [
        build(other_weight, rows, tok, tmp_path),
        build(tiny.bert(), other_row, tok, tmp_path),
        build(tiny.bert(), rows, other_tok, tmp_path),
        build(tiny.bert(), rows, tok, tmp_path, dtype="float16"),
    ]
    names = [cache.folder.name for cache in names]
    assert len({first, *names}) == 5
    tok(["a cat"] * 2, padding="max_length", truncation=True, max_length=7)
    assert build(tiny.bert(), rows, tok, tmp_path).folder.name == first, (
        "how the tokenizer was last called is no part of it"
    )


def test_a_teacher_that_was_trained_on_is_another_teacher(tmp_path, tok, rows):
    teacher = tiny.bert()
    before = teacher_cache.weights_hash(teacher)
    assert teacher_cache.weights_hash(teacher) == before
    with torch.no_grad():
        teacher.classifier.weight[0, 0] += 1
    assert teacher_cache.weights_hash(teacher) != before


def test_what_does_not_belong_together_is_named(tmp_path, tok, rows):
    teacher = tiny.bert()
    cache = build(teacher, rows, tok, tmp_path)
    cache.check(teacher)
    with pytest.raises(ValueError, match="another teacher: build"):
        cache.check(tiny.bert(seed=9))
    with pytest.raises(ValueError, match="12 of 12 rows are not among the 40"):
        cache.attach(tiny.encoded(tok, 12, seed=5))
    two_classes = tiny.bert(labels=("no", "yes"))
    with pytest.raises(ValueError, match="3 classes, the student has 2"):
        DistillationTrainer(
            two_classes,
            tiny.DistillationArguments(str(tmp_path / "r")),
            teacher_cache=cache,
            train_dataset=rows,
        )


def test_arguments_that_make_no_sense(tmp_path, tok, rows):
    for wrong, text in (
        (dict(topk=10_000), "vocabulary's"),
        (dict(topk=-1), "vocabulary's"),
        (dict(dtype="bfloat17"), "dtype"),
        (dict(topk=4, temperatures=()), "at least one"),
        (dict(topk=4, temperatures=(0.0,)), "above 0"),
    ):
        with pytest.raises(ValueError, match=text):
            build(tiny.bert(), rows, tok, tmp_path, **wrong)
    with pytest.raises(ValueError, match="no rows"):
        build(tiny.bert(), rows.select([]), tok, tmp_path)
    with pytest.raises(ValueError, match="no column `input_ids`; glue.encode"):
        build(tiny.bert(), tiny.dataset(4), tok, tmp_path)
    with pytest.raises(ValueError, match="no finished teacher cache"):
        teacher_cache.TeacherCache(tmp_path / "nowhere")
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- never damaged unnoticed


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "a bit of the answers":
        content[-5] ^= 1
        path.write_bytes(content)
    elif how == "a bit of the header":
        content[40] ^= 4
        path.write_bytes(content)
    elif how == "another shard of the same cache":
        shutil.copy(path.with_name("shard-00000.safetensors"), path)
    elif how == "swapped":
        shutil.copy(path.with_name("shard-00000.safetensors"), path)
        other = path.parent.parent / "other" / path.name
        shutil.copy(other, path)


@pytest.mark.parametrize(
    "how",
    [
        "cut off",
        "emptied",
        "a bit of the answers",
        "a bit of the header",
        "swapped",
        "another shard of the same cache",
    ],
)
def test_a_damaged_shard_is_found_and_only_it_is_asked_again(tmp_path, tok, rows, how, capsys):
    other = build(tiny.bert(seed=5), rows, tok, tmp_path).folder
    other.rename(other.with_name("other"))
    teacher = tiny.bert()
    cache = build(teacher, rows, tok, tmp_path)
    whole = cache.logits()
    damage(cache.folder / "shard-00001.safetensors", how)
    with pytest.raises(ValueError, match="shard-00001.*build the cache again"):
        teacher_cache.TeacherCache(cache.folder)
    count = Counting(teacher)
    again = build(teacher, rows, tok, tmp_path)
    assert count.rows == 16 and np.array_equal(again.logits(), whole)
    assert "shard-00001.safetensors" in capsys.readouterr().out


@settings(max_examples=25, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(place, bit):
    import tempfile

    said = {"logits": torch.arange(60, dtype=torch.float32).reshape(20, 3)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard-00000.safetensors"
        teacher_cache._write(path, "name", said, {"seconds": 1.5}, 1)
        assert teacher_cache._verify(path, "name") == ({"seconds": 1.5}, "")
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)
        about, trouble = teacher_cache._verify(path, "name")
        same = about is not None and torch.equal(
            teacher_cache.safe_open(path, "pt").__enter__().get_tensor("logits"), said["logits"]
        )
        assert about is None and trouble or same, (
            "a flipped bit may change only what nobody reads (the seconds, white space)"
        )


def test_a_manifest_that_was_changed_is_refused(tmp_path, tok, rows):
    cache = build(tiny.bert(), rows, tok, tmp_path)
    path = cache.folder / "manifest.json"
    told = json.loads(path.read_text())
    told["key"]["dtype"] = "float16"
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="manifest.json was changed"):
        teacher_cache.TeacherCache(cache.folder)


def test_keys_that_were_changed_are_refused(tmp_path, tok, rows):
    cache = build(tiny.bert(), rows, tok, tmp_path)
    keys = cache.keys.copy()
    keys[3] += np.uint64(1)
    np.save(cache.folder / "keys.npy", keys)
    with pytest.raises(ValueError, match="keys.npy was changed"):
        teacher_cache.TeacherCache(cache.folder)
    assert np.array_equal(build(tiny.bert(), rows, tok, tmp_path).keys, cache.keys)


def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path, tok, rows):
    teacher = tiny.bert()
    fail = {"after": 16}

    def hook(model, args, kw):
        fail["after"] -= len(kw["input_ids"])
        if fail["after"] < 0:
            raise KeyboardInterrupt

    handle = teacher.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(KeyboardInterrupt):
        build(teacher, rows, tok, tmp_path, shard_rows=8)
    handle.remove()
    count = Counting(teacher)
    build(teacher, rows, tok, tmp_path, shard_rows=8)
    assert count.rows == 24


def test_a_disk_that_fills_up_loses_no_finished_shard(small_disk, tok, rows, monkeypatch):
    teacher = tiny.bert()
    kw = dict(root=small_disk, shard_rows=8, batch_size=8)
    written, real = [], teacher_cache._write

    def write(path, *rest):
        if len(written) == 2:  # somebody else fills the disk, but for a few hundred bytes
            free = shutil.disk_usage(small_disk).free
            (small_disk / "filler").write_bytes(b"x" * (free - 4096))
            monkeypatch.setattr(
                teacher_cache, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 0, 10**9)
            )  # as if seen too late
            with open(small_disk / "more", "wb", buffering=0) as more:
                more.write(b"x" * 8192)
        real(path, *rest)
        written.append(path)

    monkeypatch.setattr(teacher_cache, "_write", write)
    with pytest.raises(
        OSError, match="could not write shard-.*No space left.*Finished shards are kept"
    ):
        teacher_cache.build(teacher, rows, tok, **kw)
    assert not list(small_disk.glob("*/*.new"))
    monkeypatch.undo()
    for name in ("filler", "more"):
        (small_disk / name).unlink()
    count = Counting(teacher)
    teacher_cache.build(teacher, rows, tok, **kw)
    assert count.rows == 24


def test_a_disk_too_small_is_told_with_the_bytes_it_needs(tmp_path, tok, rows, monkeypatch):
    monkeypatch.setattr(
        teacher_cache, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 100)
    )
    with pytest.raises(OSError, match="MB are free, .* MB are needed"):
        build(tiny.bert(), rows, tok, tmp_path)


BUILDER = """
import os, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import tiny
from kdlib import teacher_cache
folder = Path(sys.argv[1])
tok, teacher = tiny.tokenizer(folder), tiny.bert()
die_after = int(sys.argv[2])
asked = []
def slow(model, args, kw):
    asked.append(len(kw["input_ids"]))
    time.sleep(0.05)
    if die_after and len(asked) > die_after:
        os.kill(os.getpid(), 9)
teacher.register_forward_pre_hook(slow, with_kwargs=True)
rows = tiny.encoded(tok, 40)
(folder / f"ready-{{os.getpid()}}").touch()
while len(list(folder.glob("ready-*"))) < int(sys.argv[3]):
    time.sleep(0.02)
cache = teacher_cache.build(teacher, rows, tok, root=folder / "cache", shard_rows=4, batch_size=4)
print(sum(asked), cache.folder.name, float(cache.logits().sum()))
"""


def test_two_processes_build_at_once_and_one_survives_a_kill(tmp_path, tok, rows):
    """Three processes: one is killed (-9) in the middle of the pass, two build side by side and share what is left."""
    script = tmp_path / "builder.py"
    script.write_text(BUILDER.format(tests=str(Path(__file__).parent)))
    run = lambda die, together: subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(die), str(together)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    killed = run(3, 1)
    assert killed.wait(120) == -signal.SIGKILL
    kept = len(list((tmp_path / "cache").glob("*/shard-*.safetensors")))
    assert kept == 3
    (next(tmp_path.glob("ready-*"))).unlink()
    pair = [run(0, 2) for _ in range(2)]
    told = [p.communicate(timeout=120)[0].strip().splitlines()[-1].split() for p in pair]
    assert [p.returncode for p in pair] == [0, 0] and told[0][1:] == told[1][1:]
    asked = [int(t[0]) for t in told]
    assert sum(asked) >= 28 and max(asked) <= 28, "nothing that was kept is asked again"
    count = Counting(teacher := tiny.bert())
    cache = build(teacher, rows, tok, tmp_path, shard_rows=4, batch_size=4)
    assert count.rows == 0 and cache.folder.name == told[0][1]


# ---------------------------------------------------------------- a vocabulary


def llama(vocabulary: int = 300, seed: int = 0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def texts(count: int = 10, vocabulary: int = 300, seed: int = 0):
    draw, rows = np.random.default_rng(seed), {"input_ids": [], "labels": []}
    for _ in range(count):
        ids = draw.integers(0, vocabulary, draw.integers(5, 20)).tolist()
        masked = int(draw.integers(1, 4))
        rows["input_ids"].append(ids)
        rows["labels"].append([-100] * masked + ids[masked:])
    return datasets.Dataset.from_dict(rows)


def dense(model, rows):
    """(tokens, vocab), row by row, unpadded: the reference."""
    with torch.no_grad():
        parts = []
        for row in rows:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            parts += [
                logits[i] for i in range(len(row["labels"]) - 1) if row["labels"][i + 1] != -100
            ]
    return torch.stack(parts)


def test_the_kept_words_are_the_likeliest_and_the_lump_holds_the_rest(tmp_path, tok):
    teacher, rows = llama(), texts()
    cache = build(
        teacher,
        rows,
        tok,
        tmp_path,
        topk=12,
        temperatures=(1.0, 2.0, 4.0),
        shard_rows=4,
        batch_size=3,
    )
    logits = dense(teacher, rows)
    for t in (1.0, 2.0, 4.0):
        kept = cache.topk(range(len(rows)), t)
        logprobs = torch.log_softmax(logits, -1)
        assert torch.equal(kept.ids, logprobs.topk(12).indices)
        torch.testing.assert_close(kept.logprobs, logprobs.topk(12).values, rtol=1e-3, atol=1e-3)
        soft = torch.softmax(logits / t, -1)
        lump = 1 - soft.gather(-1, kept.ids).sum(-1)
        found = torch.sigmoid(kept.rest - torch.logsumexp(kept.logprobs / t, -1))
        torch.testing.assert_close(found, lump, rtol=5e-3, atol=1e-4)
    few = cache.topk([7, 2], 2.0)
    tokens = [len(answers.predicted(row)) for row in rows]
    assert len(few.ids) == tokens[7] + tokens[2] and torch.equal(
        few.ids[: tokens[7]], cache.topk([7], 2.0).ids
    )


def test_a_temperature_that_was_not_planned_is_refused(tmp_path, tok):
    cache = build(llama(), texts(), tok, tmp_path, topk=12, temperatures=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"3.0 is not among .*1.0, 2.0.*tail would be wrong"):
        cache.topk([0], 3.0)
    with pytest.raises(ValueError, match="ask for topk"):
        cache.logits()
    with pytest.raises(ValueError, match="ask for logits"):
        build(tiny.bert(), tiny.encoded(tok, 8), tok, tmp_path).topk([0], 1.0)


def test_equal_teacher_and_student_have_no_kd_at_any_planned_temperature(tmp_path, tok):
    teacher, rows = llama(), texts()
    cache = build(teacher, rows, tok, tmp_path, topk=8, temperatures=(1.0, 2.0, 4.0))
    student, labels = dense(teacher, rows), torch.zeros(len(dense(teacher, rows)), dtype=torch.long)
    for t in (1.0, 2.0, 4.0):
        assert (
            abs(
                losses.topk_distillation_loss(
                    student, cache.topk(range(10), t), labels, temperature=t, alpha=1.0
                ).kd
            )
            < 1e-4
        )


def kept(logits: torch.Tensor, k: int, t: float) -> losses.TopK:
    ids, logprobs, rest = answers.compress(logits, k, [t])
    return losses.TopK(ids, logprobs, rest[:, 0])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 6),
    vocabulary=st.integers(3, 60),
    share=st.floats(0.02, 1),
    t=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
    spread=st.floats(0.1, 8),
)
def test_the_lumped_kl_never_exceeds_the_dense_one(seed, tokens, vocabulary, share, t, spread):
    draw = torch.Generator().manual_seed(seed)
    # float64: T² multiplies float32's rounding, which then decides instead of the loss
    teacher, student = (
        torch.randn(tokens, vocabulary, generator=draw, dtype=torch.float64) * spread
        for _ in range(2)
    )
    labels = torch.randint(vocabulary, (tokens,), generator=draw)
    k = max(1, int(share * vocabulary))
    lumped = losses.topk_distillation_loss(
        student, kept(teacher, k, t), labels, temperature=t, alpha=0.3
    )
    whole = losses.distillation_loss(student, teacher, labels, temperature=t, alpha=0.3)
    assert -1e-5 <= lumped.kd <= whole.kd * (1 + 1e-5) + 1e-5
    torch.testing.assert_close(lumped.ce, whole.ce)
    everything = losses.topk_distillation_loss(
        student, kept(teacher, vocabulary, t), labels, temperature=t, alpha=0.3
    )
    torch.testing.assert_close(everything.kd, whole.kd, rtol=1e-4, atol=1e-5)


def test_ignored_tokens_have_no_row_of_the_teacher_and_count_for_nothing():
    teacher, student = torch.randn(5, 20), torch.randn(5, 20, requires_grad=True)
    labels = torch.tensor([3, -100, 4, -100, 5])
    valid = kept(teacher[labels != -100], 6, 2.0)
    loss = losses.topk_distillation_loss(student, valid, labels)
    loss.total.backward()
    assert student.grad[1].abs().sum() == 0 and student.grad[0].abs().sum() > 0
    again = losses.topk_distillation_loss(student[labels != -100], valid, labels[labels != -100])
    torch.testing.assert_close(again.total, loss.total)
    with pytest.raises(ValueError, match="do not match the 3 items"):
        losses.topk_distillation_loss(student, kept(teacher, 6, 2.0), labels)


def zipf(tokens: int, vocabulary: int, exponent: float, seed: int = 0) -> torch.Tensor:
    """Logits whose probabilities fall like rank^-exponent, each token with an order of its own."""
    draw = torch.Generator().manual_seed(seed)
    fall = -exponent * torch.log(torch.arange(1, vocabulary + 1).float())
    return torch.stack([fall[torch.randperm(vocabulary, generator=draw)] for _ in range(tokens)])


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_at_llamas_vocabulary_160_bytes_a_token_give_nearly_the_dense_gradient(t):
    """Zipf's law with exponent 2: an entropy of 1.6 nats, as sure as a language model that translates."""
    teacher = zipf(16, 128_256, 2.0)
    student = teacher + torch.randn(teacher.shape, generator=torch.Generator().manual_seed(1))
    ids, logprobs, rest = answers.compress(teacher, 36, [1.0, 2.0])
    stored = {"logprobs": logprobs.half(), "rest": rest} | answers.narrow_ids(ids, 128_256)
    assert sum(v.numel() * v.element_size() for v in stored.values()) / 16 <= 160
    again = losses.TopK(
        answers.wide_ids(stored["ids"], stored["high"]),
        stored["logprobs"].float(),
        rest[:, int(t) - 1],
    )
    assert (
        torch.equal(again.ids, ids) and answers.gradient_cosine(student, teacher, again, t) > 0.98
    )


@pytest.mark.parametrize("vocabulary", [300, 65_536, 65_537, 131_072, 131_073, 200_000])
def test_ids_survive_their_narrow_form(vocabulary):
    ids = torch.randint(vocabulary, (7, 13), generator=torch.Generator().manual_seed(0))
    ids[0, 0], ids[6, 12] = vocabulary - 1, 0
    narrow = answers.narrow_ids(ids, vocabulary)
    assert torch.equal(answers.wide_ids(narrow["ids"], narrow.get("high")), ids)
    assert sum(v.numel() * v.element_size() for v in narrow.values()) <= 7 * 13 * 3
    first, rest = ids[:, :1], ids[:, 1:]  # topk=1: one column, packed or not
    for part in (first, rest):
        narrow = answers.narrow_ids(part, vocabulary)
        assert torch.equal(answers.wide_ids(narrow["ids"], narrow.get("high")), part)


def test_audit_says_how_good_the_cache_is(tmp_path, tok, rows, capsys):
    teacher = tiny.bert()
    found = teacher_cache.audit(build(teacher, rows, tok, tmp_path), teacher, rows, tok)
    assert found["rows"] == 32 and found["largest relative difference"] < 1e-6
    teacher, text = llama(), texts()
    cache = build(teacher, text, tok, tmp_path, topk=20)
    found = teacher_cache.audit(cache, teacher, text, tok, student=llama(seed=1))
    assert found["bytes per token"] == round(cache.manifest["bytes"] / found["tokens"], 1)
    assert found["largest difference of a log-probability"] < 5e-3
    assert 0 < found["T = 1: share in the lump"] < found["T = 2: share in the lump"] < 1
    assert found["T = 2: gradient off by at most"] == pytest.approx(
        4 * found["T = 2: share in the lump"]
    )
    assert 0 < found["T = 2: cosine to the dense gradient"] <= 1 + 1e-6
    assert "cosine to the dense gradient" in capsys.readouterr().out


def test_the_bound_on_the_gradient_holds(tmp_path, tok):
    teacher, student, text = llama(), llama(seed=1), texts()
    cache, labels = build(teacher, text, tok, tmp_path, topk=20), None
    logits, pupil = dense(teacher, text), dense(student, text)
    labels = torch.zeros(len(logits), dtype=torch.long)
    for t in (1.0, 2.0):
        grads = []
        for loss, answer in (
            (losses.distillation_loss, logits),
            (losses.topk_distillation_loss, cache.topk(range(10), t)),
        ):
            z = pupil.clone().requires_grad_()
            loss(z, answer, labels, temperature=t, alpha=1.0, num_items=1).kd.backward()
            grads.append(z.grad)
        off = (grads[0] - grads[1]).abs().sum(-1).mean().item()
        bound = 2 * t * cache.manifest["lump"][str(t)]["mean"]
        assert 0 < off <= bound * 1.01
