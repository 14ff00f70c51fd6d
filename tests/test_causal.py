"""Causal language models in the trainer: against full sequences and full vocabularies, however a step is cut."""

import warnings

import numpy as np
import pytest
import tiny
import torch
from helpers import Widest, by_hand, count_calls, in_two_processes

from kdlib import causal, methods, models, teacher_cache, translation
from kdlib import trainer as kdlib_trainer
from kdlib.engine import head, wide_loss
from kdlib.losses import DIVERGENCES, TopK
from kdlib.trainer import DistillationTrainer


@pytest.fixture(scope="module")
def rows(chat):
    """(train, validation): 24 and 11 pairs of unequal length."""
    return tuple(
        translation.encode(tiny.datasets.Dataset.from_dict(tiny.pairs(n, seed)), chat)[0]
        for n, seed in ((24, 0), (11, 1))
    )


def pair(chat, student_seed: int = 8):
    """An untrained teacher and a smaller student; both know the end token's row."""
    return tiny.llama(len(chat), layers=3, seed=7), tiny.llama(
        len(chat), layers=1, seed=student_seed
    )


def trainer(
    folder,
    student,
    data,
    chat,
    teacher=None,
    teacher_cache=None,
    ce_only=(),
    change=None,
    **changes,
):
    train, validation = data if isinstance(data, tuple) else (data, None)
    return DistillationTrainer(
        student,
        tiny.arguments(folder, **changes),
        teacher=teacher,
        teacher_cache=teacher_cache,
        ce_only=ce_only,
        change=change,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=translation.collator(chat),
    )


# -- references: every position, every word, float64 (helpers.by_hand) -------------------------------------------------


def gradients(model) -> dict:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("ends", [False, True], ids=["", "CE only at the end token"])
def test_loss_and_gradient_equal_a_dense_computation(tmp_path, chat, rows, divergence, ends):
    teacher, student = pair(chat)
    settings = dict(temperature=3.0, alpha=0.7, divergence=divergence, beta=0.3)
    ce_only = (translation.end_token_id(chat),) if ends else ()
    run = trainer(tmp_path, student, rows, chat, teacher, ce_only=ce_only, **settings)
    batch = translation.collator(chat)(list(rows[1]))
    loss = run.compute_loss(student, batch)
    loss.backward()
    ours = gradients(student)
    student.zero_grad()
    total, *_ = by_hand(student, teacher, rows[1], ce_only=ce_only, **settings)
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert (
        tiny.difference(ours, gradients(student)) < 2e-6 < max(g.abs().max() for g in ours.values())
    )


def test_logits_exist_for_target_tokens_alone(tmp_path, chat, rows):
    seen = []
    teacher, student = pair(chat)
    for model in (teacher, student):
        model.lm_head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    run = trainer(tmp_path, student, rows, chat, teacher)
    batch = translation.collator(chat)(list(rows[0])[:8])
    learnt = int((batch["labels"] != -100).sum())
    run.compute_loss(student, batch)
    assert seen == [(learnt, len(chat))] * 2 and learnt < batch["input_ids"].numel() / 4
    assert student(**batch).logits.shape[:2] == batch["input_ids"].shape, (
        "the head outside of the loss is as it was"
    )


@pytest.mark.parametrize("how", ["live", "cached", "alpha 0"])
def test_in_training_logits_exist_for_a_few_tokens_at_a_time(
    tmp_path, chat, rows, monkeypatch, how
):
    monkeypatch.setattr(wide_loss, "SCRATCH", 8 * 8 * len(chat))
    teacher, student = pair(chat)
    known = (
        dict(teacher_cache=cache_of(teacher, rows[0], chat, tmp_path, 6))
        if how == "cached"
        else dict(teacher=teacher)
    )
    run = trainer(
        tmp_path, student.train(), rows[0], chat, alpha=0.0 if how == "alpha 0" else 0.5, **known
    )
    batch = translation.collator(chat)([run.train_dataset[i] for i in range(8)])
    with Widest(len(chat)) as seen:
        run.compute_loss(student, batch).backward()
    assert 0 < seen.rows <= 8 < int((batch["labels"] != -100).sum()) and not run.items.is_dense


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_model_that_changes_its_logits_is_computed_the_long_way(tmp_path, chat, rows, who):
    """As Gemma 2 does, which caps them, and Cohere's, which scale them: the head's product is not the end."""
    models = dict(zip(("teacher", "student"), pair(chat)))

    def capped(plain):
        def forward(**inputs):
            out = plain(**inputs)
            out.logits = 2 * torch.tanh(out.logits / 2)
            return out

        return forward

    models[who].forward = capped(models[who].forward)
    run = trainer(tmp_path, models["student"], rows, chat, models["teacher"])
    for part in (rows[1], rows[0]):
        models["student"].zero_grad()
        run.compute_loss(models["student"], translation.collator(chat)(list(part))).backward()
        ours = gradients(models["student"])
        models["student"].zero_grad()
        by_hand(models["student"], models["teacher"], part)[0].backward()
        assert (
            tiny.difference(ours, gradients(models["student"]))
            < 2e-6
            < max(g.abs().max() for g in ours.values())
        )
    assert run.items.is_dense == (who == "student")


# -- may the head be left out? -------------------------------------------------------------------------------------------


def a_batch(rows=slice(0, 4), ignored=5):
    """(inputs, keep, targets) of 64 words, of which the last four never occur."""
    ids = torch.randint(0, 60, (4, 12), generator=torch.Generator().manual_seed(1))[rows]
    return {"input_ids": ids}, *causal.target_positions(
        ids.clone().index_fill_(1, torch.arange(ignored), -100)
    )


def changing(model, change):
    """The model with something done to its logits: `change` returns new ones, or None if it wrote into them."""
    plain = model.forward

    def forward(**inputs):
        out = plain(**inputs)
        changed = change(out.logits)
        out.logits = out.logits if changed is None else changed
        return out

    model.forward = forward
    return model


CHANGES = {
    "scales": lambda x: x * 0.5,
    "scales in place": lambda x: x.mul_(0.5),
    "caps in place": lambda x: x.div_(2).tanh_().mul_(2),
    "masks a word": lambda x: x.__setitem__((..., 63), -1e4),
    "masks the last words": lambda x: x.__setitem__((..., slice(60, None)), -1e4),
    "adds a number a word": lambda x: x + torch.linspace(-1, 1, 64),
    "cuts the padding": lambda x: x[..., :60],
}
LOSS = dict(temperature=2.0, alpha=0.5, divergence="forward_kl")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_logits_is_noticed_whatever_it_does(change):
    inputs, keep, targets = a_batch()
    model = changing(tiny.llama(64, layers=1, seed=8), change)
    said = causal.wide_answers(model, inputs, keep)
    assert list(said) == ["teacher_logits"] and torch.equal(
        said["teacher_logits"], causal.logits_at(model, inputs, keep)
    )
    assert causal.wide_loss(model, inputs, keep, targets, {}, **LOSS) is None
    assert "teacher_hidden" in causal.wide_answers(
        changing(tiny.llama(64), lambda x: x.float()), inputs, keep
    ), "a cast is no change"


def test_a_model_that_begins_to_change_its_logits_later_is_refused():
    """Too late for the long way: in one process of several, the others would wait for it."""
    inputs, keep, targets = a_batch()
    student = tiny.llama(64, layers=1, seed=8)
    assert causal.wide_loss(student, inputs, keep, targets, {}, **LOSS | {"alpha": 0.0}) is not None
    changing(student, CHANGES["scales in place"])
    with pytest.raises(
        RuntimeError, match="LlamaForCausalLM changed what was computed in place of its head"
    ):
        causal.wide_loss(student, inputs, keep, targets, {}, **LOSS | {"alpha": 0.0})


def test_asking_leaves_no_trace():
    """Neither in the random numbers of dropout, nor in autocast's copies of the weights, which would have no gradient."""
    inputs, keep, targets = a_batch()
    student = tiny.llama(64, layers=1, seed=8).train()
    student.model.layers[0].self_attn.attention_dropout = 0.5
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert (
        head.why_dense(student, inputs) == ""
        and torch.equal(torch.rand(3), expected)
        and not student.lm_head._forward_hooks
    )
    student = tiny.llama(64, layers=1, seed=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        causal.wide_loss(
            student, inputs, keep, targets, {}, **LOSS | {"alpha": 0.0}
        ).total.backward()
    assert all(p.grad is not None for p in student.parameters())


def adapted(model, **how):
    peft = pytest.importorskip("peft", reason="LoRA is optional (pip install 'kdlib[lora]')")
    return peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=False, **how))


def quantised(model):
    ao = pytest.importorskip("torchao.quantization", reason="torchao comes with kdlib[course]")
    ao.quantize_(model, ao.Int8WeightOnlyConfig(), filter_fn=lambda module, name: name == "lm_head")
    return model


def with_other_forward(model):
    model.lm_head.forward = lambda hidden, plain=model.lm_head.forward: plain(hidden)
    return model


def with_hook(model):
    model.lm_head.register_forward_hook(lambda module, args, out: None)
    return model


@pytest.mark.parametrize(
    "prepare, why",
    [
        (lambda model: adapted(model, target_modules=["q_proj", "lm_head"]), "not a plain Linear"),
        (
            lambda model: adapted(model, target_modules=["q_proj"], modules_to_save=["lm_head"]),
            "ModulesToSaveWrapper, not a plain Linear",
        ),
        (quantised, "weight is a Int8Tensor"),
        (with_other_forward, "forward was replaced"),
        (with_hook, "a hook on its head"),
    ],
    ids=["LoRA", "modules_to_save", "torchao", "forward", "hook"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_head_that_is_more_than_a_product_is_run_and_told_once(prepare, why):
    inputs, keep, targets = a_batch()
    model = prepare(tiny.llama(64, layers=1, seed=8, tied=False))
    assert head.plain_head(model) is None and head.plain_head(tiny.llama(64)) is not None
    head._warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        said = [causal.wide_answers(model, inputs, keep) for _ in range(2)]
        assert causal.wide_loss(model, inputs, keep, targets, {}, **LOSS | {"alpha": 0.0}) is None
    told = [
        str(w.message) for w in told if "logits are made for all target tokens" in str(w.message)
    ]
    assert (
        len(told) == 1
        and why in told[0]
        and torch.equal(said[0]["teacher_logits"], causal.logits_at(model, inputs, keep))
    )


def asked_in(folder):
    """Two processes, of which the second has no target, and a student that changes its logits in the first alone."""
    from torch import distributed

    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    student = tiny.llama(64, layers=1, seed=8)
    model = torch.nn.parallel.DistributedDataParallel(
        student if rank else changing(student, CHANGES["scales"])
    )
    inputs, keep, targets = a_batch(ignored=12 if rank else 5)
    found = []
    for _ in range(2):
        found.append(
            causal.wide_loss(model, inputs, keep, targets, {}, **LOSS | {"alpha": 0.0}) is None
        )
        causal.token_loss(
            causal.logits_at(model, inputs, keep), None, targets, **LOSS | {"alpha": 0.0}
        ).total.backward()
    torch.save(found, folder / f"found.{rank}")
    del model
    distributed.destroy_process_group()


def test_all_processes_take_the_same_way(tmp_path):
    in_two_processes(tmp_path, f"import test_causal\ntest_causal.asked_in(Path({str(tmp_path)!r}))")
    assert [torch.load(tmp_path / f"found.{rank}") for rank in (0, 1)] == [[True, True]] * 2


def test_target_positions():
    labels = torch.tensor([[-100, -100, 5, 6], [-100, 7, -100, -100], [9, -100, -100, 8]])
    keep, targets = causal.target_positions(labels)
    assert keep.nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [2, 2]] and targets.tolist() == [
        5,
        6,
        7,
        8,
    ]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_batch_whose_targets_were_all_truncated(tmp_path, chat, rows, alpha):
    teacher, student = pair(chat)
    run = trainer(tmp_path, student, rows, chat, teacher, alpha=alpha)
    batch = translation.collator(chat)(list(rows[0])[:2])
    batch["labels"][:] = -100
    loss = run.compute_loss(student, batch)
    loss.backward()
    assert loss.item() == 0 and all((g == 0).all() for g in gradients(student).values())
    empty = rows[1].map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(ValueError, match="no row has a token to learn"):
        run.evaluate(empty)


# -- the gradient does not depend on how a step is cut -----------------------------------------------------------------


def train_in(folder, batch: int, accumulation: int = 1, **how) -> dict:
    """Two epochs of 24 rows with SGD; a third of the rows has no target at all, and some learn their first token too."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = tiny.pairs(256)
    chat = translation.with_end_token(translation.small_tokenizer(texts["en"] + texts["fr"]))
    rows, _ = translation.encode(tiny.datasets.Dataset.from_dict(tiny.pairs(24)), chat)
    change = lambda row, i: {
        "labels": [-100] * len(row["labels"])
        if i % 3 == 0
        else [1, *row["labels"][1:]]
        if i % 3 == 1
        else row["labels"]
    }
    teacher, student = pair(chat)
    run = trainer(
        folder / "out",
        student,
        rows.map(change, with_indices=True),
        chat,
        teacher,
        ce_only=(translation.end_token_id(chat),),
        optim="sgd",
        learning_rate=0.1,
        num_train_epochs=2,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        logging_strategy="steps",
        logging_steps=1,
        **how,
    )
    run.fit()
    if (
        how.get("shard_teacher")
        or models.size(teacher)["parameters"] >= kdlib_trainer.LARGE_TEACHER
    ):
        layer = [p for n, p in run.teacher.named_parameters() if "layers.0" in n]
        assert sum(p.to_local().numel() for p in layer) == sum(p.numel() for p in layer) / 2, (
            "each process holds half of it"
        )
    logged = [[entry[k] for k in ("ce", "kd")] for entry in run.state.log_history if "ce" in entry]
    weights = tiny.snapshot(run.model) | {"logged": torch.tensor(logged)}
    if run.is_world_process_zero():
        torch.save(weights, folder / "weights.pt")
    return weights


@pytest.mark.parametrize("whole, batch, accumulation", [(8, 2, 4), (9, 3, 3), (14, 7, 2)])
def test_gradient_accumulation_changes_nothing(tmp_path, whole, batch, accumulation):
    one = train_in(tmp_path / "a", whole)
    assert tiny.difference(one, train_in(tmp_path / "b", batch, accumulation)) <= 3e-6
    assert (
        tiny.difference(
            {k: v for k, v in one.items() if k != "logged"},
            tiny.llama(one["lm_head.weight"].shape[0], layers=1, seed=8).state_dict(),
        )
        > 1e-2
    )


def test_two_processes_change_nothing(tmp_path):
    in_two_processes(
        tmp_path, f"import test_causal\ntest_causal.train_in(Path({str(tmp_path)!r}), 4)"
    )
    assert (
        tiny.difference(torch.load(tmp_path / "weights.pt"), train_in(tmp_path / "alone", 8))
        <= 3e-6
    )


@pytest.mark.parametrize(
    "asked",
    [
        "test_causal.train_in(place, 4, shard_teacher=True)",
        "test_causal.kdlib_trainer.LARGE_TEACHER = 100; test_causal.train_in(place, 4)",
    ],
)
def test_a_teacher_shared_out_among_two_processes_says_the_same(tmp_path, asked):
    in_two_processes(
        tmp_path, f"import os, test_causal\nplace = Path({str(tmp_path)!r})\n{asked}\nos._exit(0)"
    )
    assert (
        tiny.difference(torch.load(tmp_path / "weights.pt"), train_in(tmp_path / "alone", 8))
        <= 3e-6
    )


def sharded_in(folder, half=False):
    """One gradient of a tied student whose weights lie half in each process (FSDP), each with its half of the rows.

    half: with accelerate's policy for bf16, which rounds what the model returns, the loss too.
    """
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    student = tiny.llama(64, layers=1, seed=8)
    bf16 = (
        dict.fromkeys(("param_dtype", "reduce_dtype", "output_dtype"), torch.bfloat16)
        if half
        else {}
    )
    fully_shard(student, mesh=init_device_mesh("cpu", (2,)), mp_policy=MixedPrecisionPolicy(**bf16))
    loss = sharded_loss(student, slice(2 * rank, 2 * rank + 2))
    assert not half or loss.total.dtype == torch.float32 and loss.total != loss.total.bfloat16()
    (loss.total * 2).backward()
    found = {n: p.grad.full_tensor() for n, p in student.named_parameters()}
    if rank == 0:
        torch.save(found, folder / "gradients.pt")
    distributed.barrier()


def sharded_loss(student, rows: slice):
    ids = torch.randint(0, 64, (4, 12), generator=torch.Generator().manual_seed(1))
    batch = {
        "input_ids": ids[rows],
        "labels": ids.clone().index_fill_(1, torch.arange(5), -100)[rows],
    }
    keep, targets = causal.target_positions(batch["labels"])
    answers = causal.wide_answers(tiny.llama(64, layers=2, seed=7), batch, keep)
    return causal.wide_loss(
        student,
        batch,
        keep,
        targets,
        answers,
        temperature=2.0,
        alpha=0.5,
        divergence="forward_kl",
        num_items=28,
    )


def test_weights_in_two_processes_change_nothing(tmp_path):
    in_two_processes(
        tmp_path,
        f"import os, test_causal\ntest_causal.sharded_in(Path({str(tmp_path)!r}))\nos._exit(0)",
    )
    student = tiny.llama(64, layers=1, seed=8)
    sharded_loss(student, slice(0, 4)).total.backward()
    assert tiny.difference(torch.load(tmp_path / "gradients.pt"), gradients(student)) < 1e-6


def test_a_model_whose_outputs_are_rounded_needs_no_logits(tmp_path):
    in_two_processes(
        tmp_path,
        f"import os, test_causal\ntest_causal.sharded_in(Path({str(tmp_path)!r}), half=True)\nos._exit(0)",
    )
    student = tiny.llama(64, layers=1, seed=8)
    sharded_loss(student, slice(0, 4)).total.backward()
    found = torch.load(tmp_path / "gradients.pt")
    assert all(
        torch.nn.functional.cosine_similarity(found[n].float().flatten(), g.flatten(), dim=0) > 0.99
        for n, g in gradients(student).items()
    )


def evaluate_in(folder):
    texts = tiny.pairs(256)
    chat = translation.with_end_token(translation.small_tokenizer(texts["en"] + texts["fr"]))
    rows, _ = translation.encode(tiny.datasets.Dataset.from_dict(tiny.pairs(11, 1)), chat)
    teacher, student = pair(chat)
    found = trainer(
        folder, student, (rows, rows), chat, teacher, per_device_eval_batch_size=3
    ).evaluate()
    if torch.distributed.get_rank() == 0:
        torch.save(found, folder / "found.pt")


def test_two_processes_evaluate_every_row_once(tmp_path, chat, rows):
    in_two_processes(
        tmp_path, f"import test_causal\ntest_causal.evaluate_in(Path({str(tmp_path)!r}))"
    )
    teacher, student = pair(chat)
    alone = trainer(tmp_path, student, rows, chat, teacher).evaluate()
    found = torch.load(tmp_path / "found.pt")
    for name in ("eval_ce", "eval_kd", "eval_accuracy", "eval_perplexity"):
        assert found[name] == pytest.approx(alone[name], rel=1e-5)


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_evaluation_equals_a_computation_by_hand(tmp_path, chat, rows, divergence):
    teacher, student = pair(chat)
    settings = dict(temperature=2.0, alpha=0.4, divergence=divergence, beta=0.2)
    ends = (translation.end_token_id(chat),)
    found = trainer(
        tmp_path,
        student,
        rows,
        chat,
        teacher,
        ce_only=ends,
        per_device_eval_batch_size=4,
        **settings,
    ).evaluate()
    with torch.no_grad():
        _, kd, ce, right, tokens = by_hand(student, teacher, rows[1], ce_only=ends, **settings)
    assert found["eval_ce"] == found["eval_loss"] == pytest.approx(ce.item(), rel=1e-5)
    assert found["eval_kd"] == pytest.approx(kd.item(), rel=1e-4) and found[
        "eval_accuracy"
    ] == pytest.approx(right / tokens)
    assert found["eval_perplexity"] == pytest.approx(np.exp(ce.item()), rel=1e-4)


def test_with_alpha_0_the_teacher_is_never_run(tmp_path, chat, rows):
    teacher, student = pair(chat)
    calls = count_calls(teacher)
    run = trainer(
        tmp_path, student, rows, chat, teacher, alpha=0.0, logging_strategy="steps", logging_steps=1
    )
    run.fit()
    assert (
        calls == []
        and "eval_kd" not in run.evaluate()
        and "kd" not in run.state.log_history[0]
        and "ce" in run.state.log_history[0]
    )


def test_alpha_0_is_what_transformers_itself_trains(tmp_path, chat, rows):
    student = pair(chat)[1]
    ours = trainer(tmp_path, student, rows, chat, alpha=0.0)
    batch = translation.collator(chat)(list(rows[1]))
    assert ours.compute_loss(student, batch).item() == pytest.approx(
        student(**batch).loss.item(), rel=1e-5
    )


# -- the teacher, live and cached --------------------------------------------------------------------------------------


def cache_of(teacher, rows, chat, folder, words, temperatures=(1.0, 2.0)):
    return teacher_cache.build(
        teacher, rows, chat, topk=words, temperatures=temperatures, root=folder, shard_rows=5
    )


def test_a_cache_of_all_words_trains_as_the_live_teacher_does(tmp_path, chat, rows):
    teacher, _ = pair(chat)
    caches = [cache_of(teacher, part, chat, tmp_path, len(chat)) for part in rows]
    settings = dict(
        optim="sgd",
        learning_rate=0.5,
        num_train_epochs=2,
        alpha=0.8,
        ce_only=(translation.end_token_id(chat),),
    )
    live = trainer(tmp_path / "a", pair(chat)[1], rows, chat, teacher, **settings)
    read = trainer(tmp_path / "b", pair(chat)[1], rows, chat, teacher_cache=caches, **settings)
    calls = count_calls(teacher)
    read.fit()
    cached = read.evaluate()
    assert calls == []
    live.fit()
    # the cache keeps log-probabilities in 16 bits
    assert tiny.difference(live.model.state_dict(), read.model.state_dict()) < 2e-3
    assert tiny.difference(live.model.state_dict(), pair(chat)[1].state_dict()) > 5e-2
    assert cached["eval_kd"] == pytest.approx(live.evaluate()["eval_kd"], rel=2e-2)


def test_a_cache_of_few_words_gives_the_lumped_loss(tmp_path, chat, rows):
    teacher, student = pair(chat)
    cache = cache_of(teacher, rows[0], chat, tmp_path, 6)
    run = trainer(
        tmp_path, student, rows[0].select([3, 17, 5, 11]), chat, teacher_cache=cache, alpha=0.9
    )
    picked = [
        run.train_dataset[i] for i in (2, 0, 3, 1)
    ]  # in another order than the cache, and only some
    loss = run.compute_loss(student, translation.collator(chat)(picked))
    loss.backward()
    ours = gradients(student)
    student.zero_grad()
    total, *_ = by_hand(student, teacher, picked, alpha=0.9, words=6)
    total.backward()
    assert loss.item() == pytest.approx(total.item(), rel=2e-3)
    theirs = gradients(student)
    assert all(
        torch.nn.functional.cosine_similarity(ours[k].flatten(), theirs[k].flatten(), dim=0)
        > 0.9999
        for k in ours
    )


def test_stored_answers_are_read_under_bf16(tmp_path, chat, rows):
    """The shards hold float16, which an autocast on a CPU refuses to join."""
    cache = cache_of(pair(chat)[0], rows[0], chat, tmp_path, 6)
    outside = cache.topk([3, 0], 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cache.topk([3, 0], 1.0)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(inside, outside))
    assert inside.logprobs.dtype == torch.float32


def test_a_cache_that_does_not_fit_is_refused(tmp_path, chat, rows):
    teacher, student = pair(chat)
    cache = cache_of(teacher, rows[0], chat, tmp_path, 4)
    with pytest.raises(ValueError, match="temperature 3.0 is not among"):
        trainer(tmp_path, student, rows[0], chat, teacher_cache=cache, temperature=3.0)
    with pytest.raises(ValueError, match="are not among the 24"):
        trainer(tmp_path, student, rows[1], chat, teacher_cache=cache)
    with pytest.raises(ValueError, match="words, the student has"):
        trainer(tmp_path, tiny.llama(len(chat) + 1), rows[0], chat, teacher_cache=cache)
    trainer(
        tmp_path, student, rows, chat, teacher_cache=cache
    ).evaluate()  # unknown evaluation rows: no KD there


def test_a_classifiers_cache_is_refused(tmp_path, chat, rows, tokenizer, encoded):
    cache = teacher_cache.build(tiny.bert(), encoded[0], tokenizer, root=tmp_path)
    with pytest.raises(ValueError, match="a classifier's logits"):
        trainer(tmp_path, pair(chat)[1], rows[0], chat, teacher_cache=cache)
    with pytest.raises(ValueError, match="a classifier has none"):
        DistillationTrainer(
            tiny.bert(),
            tiny.arguments(tmp_path),
            teacher=tiny.bert(),
            train_dataset=encoded[0],
            ce_only=(3,),
        )


def test_picking_from_a_topk():
    kept = TopK(torch.arange(12).reshape(4, 3), torch.randn(4, 3), torch.randn(4))
    assert causal.tokens_of(kept, torch.tensor([True, False, False, True])).ids.tolist() == [
        [0, 1, 2],
        [9, 10, 11],
    ]


@pytest.mark.parametrize("size", [-1, 5])
def test_a_teacher_of_another_vocabulary_is_refused(tmp_path, chat, rows, size):
    with pytest.raises(ValueError, match="vocabular"):
        trainer(tmp_path, pair(chat)[1], rows, chat, tiny.llama(len(chat) + size))


def test_tokenizers_that_differ_are_refused(chat):
    texts = tiny.pairs(256)
    plain = translation.small_tokenizer(texts["en"] + texts["fr"])
    other = translation.small_tokenizer(
        texts["en"] + [t.replace("rapport", "rapports") for t in texts["fr"]]
    )
    models.check_vocabularies(plain, translation.small_tokenizer(texts["en"] + texts["fr"]))
    with pytest.raises(ValueError, match="rapport"):
        models.check_vocabularies(plain, other)
    with pytest.raises(
        ValueError, match=rf"'<\|end_of_translation\|>' is id {len(plain)} and None"
    ):
        models.check_vocabularies(chat, plain)


# -- the end token -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_row_is_the_mean_of_all_others(chat, tied, tmp_path):
    model = tiny.llama(len(chat) - 1, tied=tied)
    before, ids = tiny.snapshot(model), torch.tensor([[5, 6, 7]])
    logits = model(input_ids=ids).logits
    assert models.add_end_token(model, chat) is model
    end = translation.end_token_id(chat)
    for name, tensor in (
        ("model.embed_tokens.weight", model.get_input_embeddings().weight),
        ("lm_head.weight", model.get_output_embeddings().weight),
    ):
        assert tensor.shape[0] == end + 1 == model.config.vocab_size
        assert torch.equal(tensor[:end], before[name]) and torch.allclose(
            tensor[end], before[name].mean(0), atol=1e-7
        )
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    new = model(input_ids=ids).logits
    assert torch.allclose(new[..., :end], logits, atol=1e-6) and torch.allclose(
        new[..., end], logits.mean(-1), atol=1e-5
    )
    assert model.generation_config.eos_token_id == [end, chat.convert_tokens_to_ids("<|eot_id|>")]
    models.add_end_token(model, chat)
    assert model.config.vocab_size == end + 1, "a second call adds nothing"
    model.save_pretrained(tmp_path)
    loaded = models.load_causal(tmp_path)
    assert (
        torch.equal(loaded(input_ids=ids).logits, new)
        and (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    )


def test_a_reserved_token_needs_no_new_row(chat):
    plain = translation.small_tokenizer(["Hello"])
    tokenizer, model = translation.with_end_token(plain, "reserved"), tiny.llama(len(plain))
    before = tiny.snapshot(model)
    models.add_end_token(model, tokenizer)
    assert tiny.difference(
        before, model.state_dict()
    ) == 0 and model.generation_config.eos_token_id[0] == plain.convert_tokens_to_ids(
        translation.RESERVED
    )


def test_an_untuned_teacher_unteaches_the_end_token_and_ce_only_does_not(tmp_path, chat):
    """The student has to learn when to stop from labels: the teacher, who has never seen the token, says "never"."""
    end = translation.end_token_id(chat)
    rows, _ = translation.encode(tiny.datasets.Dataset.from_dict(tiny.pairs(64)), chat)
    teacher = tiny.llama(len(chat), layers=2, seed=7, initializer_range=0.05)
    unmarked = rows.map(
        lambda row: {k: [x for x in row[k] if x != end] for k in ("input_ids", "labels")}
    )
    settings = dict(
        num_train_epochs=25, per_device_train_batch_size=16, learning_rate=1e-2, temperature=1.0
    )
    trainer(
        tmp_path / "t", teacher, unmarked, chat, alpha=0.0, **settings
    ).fit()  # fluent, but of another format

    def learn(name, **how):
        student = tiny.llama(len(chat), layers=1, seed=8, initializer_range=0.05)
        trainer(tmp_path / name, student, rows, chat, teacher, **settings, **how).fit()
        batch = translation.collator(chat)(list(rows)[:16])
        keep, targets = causal.target_positions(batch["labels"])
        with torch.no_grad():
            return (
                torch.softmax(causal.logits_at(student, batch, keep), -1)[targets == end][:, end]
                .mean()
                .item()
            )

    heard, spared, plain = (
        learn("a", alpha=0.9),
        learn("b", alpha=0.9, ce_only=(end,)),
        learn("c", alpha=0.0),
    )
    # alpha·KL + (1 - alpha)·CE is least at alpha·teacher + (1 - alpha)·label: with a teacher that says "never", at 1 - alpha
    assert heard < 0.2 and spared > 0.8 and plain > 0.8, (heard, spared, plain)


# -- controls ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_shuffled_words_keep_the_likeliest_and_its_probability(compressed):
    logprobs = torch.log_softmax(
        3 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0)), -1
    )
    kept, ids = logprobs.topk(8)
    answers = TopK(ids, kept, torch.full((50,), -3.0)) if compressed else logprobs
    change, alpha, T = methods.for_tokens("shuffled", alpha=0.7, temperature=3.0, seed=1)
    mixed = change(answers, None)
    before, after = (kept, mixed.logprobs) if compressed else (logprobs, mixed)
    assert (alpha, T) == (0.7, 3.0) and torch.equal(
        before.sort(-1).values, after.sort(-1).values
    ), "as soft as before"
    assert torch.equal(before.argmax(-1), after.argmax(-1)) and not torch.equal(before, after)
    if compressed:
        assert torch.equal(mixed.ids, ids) and torch.equal(mixed.rest, answers.rest)
    again = methods.for_tokens("shuffled", alpha=0.7, temperature=3.0, seed=1)[0](answers, None)
    assert torch.equal(after, again.logprobs if compressed else again), "the seed decides"


def test_smoothing_by_a_teacher_without_opinion_is_torchs_label_smoothing():
    student, labels = (
        torch.randn(30, 11, generator=torch.Generator().manual_seed(0), requires_grad=True),
        torch.arange(30) % 11,
    )
    change, alpha, T = methods.for_tokens(
        "label_smoothing", alpha=0.9, temperature=4.0, smoothing=0.2
    )
    causal.token_loss(
        student, change(None, student), labels, temperature=T, alpha=alpha, divergence="forward_kl"
    ).total.backward()
    ours, student.grad = student.grad.clone(), None
    torch.nn.functional.cross_entropy(student, labels, label_smoothing=0.2).backward()
    assert (ours - student.grad).abs().max() < 1e-7


def test_a_control_changes_what_is_learnt_and_not_what_is_measured(tmp_path, chat, rows):
    teacher = tiny.llama(len(chat), layers=2, seed=7)
    found = {}
    for name in ("kd", "shuffled", "ce"):
        change, alpha, T = methods.for_tokens(name, alpha=1.0, temperature=1.0)
        one = trainer(
            tmp_path / name,
            tiny.llama(len(chat), seed=8),
            rows,
            chat,
            teacher,
            alpha=alpha,
            temperature=T,
            change=change,
            max_steps=2,
        )
        if alpha:
            found[name] = [one.evaluate()["eval_kd"]]
        one.train()
        found.setdefault(name, []).append(tiny.snapshot(one.model))
    assert found["kd"][0] == found["shuffled"][0], "evaluation asks the teacher as it is"
    assert tiny.difference(found["kd"][1], found["shuffled"][1]) > 1e-5
    with pytest.raises(ValueError, match="kd, ce, label_smoothing, shuffled, not"):
        methods.for_tokens("shuffled_doubt", alpha=0.5, temperature=1.0)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_student_of_teacher_layers_is_a_copy_and_stays_tied(chat, tied):
    teacher = tiny.llama(len(chat), layers=4, tied=tied)
    student = models.student_from_teacher(teacher, [0, 3])
    assert (
        student.config.num_hidden_layers == 2
        and (student.lm_head.weight is student.model.embed_tokens.weight) == tied
    )
    assert torch.equal(
        student.model.layers[1].mlp.up_proj.weight, teacher.model.layers[3].mlp.up_proj.weight
    )
    student.lm_head.weight.data.zero_()
    assert teacher.lm_head.weight.abs().max() > 0


def test_the_sketched_size():
    assert (
        0.5e6
        < models.size(models.tiny_llama(600, layers=3, width=128, heads=4))["parameters"]
        < 0.7e6
    )


def test_load_causal(tmp_path, chat, monkeypatch):
    tiny.llama(len(chat)).save_pretrained(tmp_path / "llama")
    assert models.load_causal(tmp_path / "llama", dtype="bfloat16").dtype == torch.bfloat16
    model = models.load_causal(tmp_path / "llama")
    assert (
        model.dtype == torch.float32
        and not model.training
        and causal.is_causal(model)
        and not causal.is_causal(tiny.bert())
    )
    tiny.bert().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="not a decoder-only"):
        models.load_causal(tmp_path / "bert")


def test_lora_trains_little_and_the_teacher_is_heard(tmp_path, chat, rows):
    pytest.importorskip("peft", reason="LoRA is optional (pip install 'kdlib[lora]')")
    teacher, student = pair(chat)
    before = tiny.snapshot(student)
    student = models.with_lora(student, rank=2)
    assert causal.is_causal(student)
    trainable = sum(p.numel() for p in student.parameters() if p.requires_grad)
    run = trainer(tmp_path, student, rows, chat, teacher, num_train_epochs=8, learning_rate=5e-2)
    first = run.evaluate()
    run.fit()
    last = run.evaluate()
    assert last["eval_kd"] < 0.9 * first["eval_kd"] and trainable < 0.2 * sum(
        v.numel() for v in before.values()
    )
    merged = student.merge_and_unload().state_dict()
    assert torch.equal(merged["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(
        merged["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"]
    )


# -- going on ----------------------------------------------------------------------------------------------------------


def test_lora_learns_with_checkpointing_too_and_the_same(tmp_path, chat, rows):
    """The older kind of checkpointing finds no gradient behind frozen embeddings."""
    pytest.importorskip("peft", reason="LoRA is optional (pip install 'kdlib[lora]')")
    learnt = []
    for checkpointing in (False, True):
        teacher, student = pair(chat)
        torch.manual_seed(0)
        student = models.with_lora(student, rank=2)
        trainer(
            tmp_path / str(checkpointing),
            student,
            rows,
            chat,
            teacher=teacher,
            max_steps=2,
            gradient_checkpointing=checkpointing,
        ).train()
        learnt.append({name: w for name, w in tiny.snapshot(student).items() if "lora" in name})
    assert (
        tiny.difference(*learnt) < 1e-6
        and max(w.abs().max() for name, w in learnt[1].items() if "lora_B" in name) > 0
    )


def test_a_run_resumed_in_a_later_epoch_ends_bit_equal(tmp_path, chat, rows):
    import shutil

    teacher, _ = pair(chat)
    cache = cache_of(teacher, rows[0], chat, tmp_path, 8)
    make = lambda folder: trainer(
        folder,
        pair(chat)[1],
        rows,
        chat,
        teacher_cache=cache,
        num_train_epochs=3,
        per_device_train_batch_size=5,
        save_strategy="steps",
        save_steps=4,
    )
    whole = make(tmp_path / "whole")
    whole.fit()
    shutil.copytree(tmp_path / "whole" / "checkpoint-8", tmp_path / "cut" / "checkpoint-8")
    resumed = make(tmp_path / "cut")
    resumed.fit()
    assert (
        resumed.state.global_step == 15
        and tiny.difference(whole.model.state_dict(), resumed.model.state_dict()) == 0
    )


def test_rows_without_labels_and_alpha_without_teacher_are_refused(tmp_path, chat, rows):
    teacher, student = pair(chat)
    with pytest.raises(ValueError, match="needs a teacher"):
        trainer(tmp_path, student, rows, chat)
    with pytest.raises(ValueError, match="labels"):
        trainer(tmp_path, student, rows[0].remove_columns("labels"), chat, teacher).fit()


def test_rows_without_a_token_to_learn_are_refused_before_training():
    from datasets import Dataset

    nothing = Dataset.from_dict(
        {"input_ids": [[1, 2, 3]], "labels": [[5, -100, -100]]}
    )  # the first label is never predicted
    with pytest.raises(ValueError, match="no training row has a token to learn"):
        causal.refuse_nothing_to_learn(nothing)
    causal.refuse_nothing_to_learn(
        Dataset.from_dict({"input_ids": [[1, 2, 3]], "labels": [[-100, -100, 3]]})
    )
    causal.refuse_nothing_to_learn(None)
