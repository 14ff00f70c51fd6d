"""quantise: the grid is the grid, gradients pass straight through, sizes add up, and a model that it does not know is refused."""

import copy
import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from kdlib import glue, models, quantise

AO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return models.tiny_bert(
        50, glue.MNLI.labels, layers=2, width=64, heads=2, dropout=0.0, initializer_range=0.1
    ).eval()


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    return models.tiny_llama(50, layers=2, width=64, heads=2, initializer_range=0.1).eval()


@pytest.fixture
def batch():
    return {
        "input_ids": torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.ones(4, 12, dtype=torch.long),
    }


def test_the_grid_by_hand():
    weight = torch.tensor([[0.9, 0.1, -0.32, 0.2], [-0.06, 0.03, 0.02, 0.01]])
    assert torch.allclose(
        quantise.on_grid(weight, 3), torch.tensor([[0.9, 0.0, -0.3, 0.3], [0.0, 0.0, 0.0, 0.0]])
    )
    by_row = quantise.on_grid(weight, 3, group=4)
    assert torch.allclose(
        by_row[1], torch.tensor([-0.06, 0.04, 0.02, 0.0]), atol=1e-6
    ) or torch.allclose(by_row[1], torch.tensor([-0.06, 0.02, 0.02, 0.0]), atol=1e-6)
    assert torch.equal(by_row, quantise.on_grid(weight, 3, group=400)), (
        "a group wider than a row is the row"
    )
    assert len(quantise.on_grid(torch.randn(64, 64), 4).unique()) <= 15


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [0, 8, 64])
def test_rounding_is_by_half_a_step_at_most_and_rounding_again_changes_nothing(bits, group):
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(bits))
    once = quantise.on_grid(weight, bits, group)
    parts = weight.reshape(-1, group or weight.numel())
    step = parts.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert ((once.reshape(parts.shape) - parts).abs() <= step / 2 + 1e-6).all()
    assert torch.allclose(quantise.on_grid(once, bits, group), once, atol=1e-6)


def test_zeros_stay_zeros_and_bad_input_is_refused():
    assert torch.equal(quantise.on_grid(torch.zeros(4, 8), 4, 4), torch.zeros(4, 8))
    for bits, group in ((1, 0), (9, 0), (4, -1)):
        with pytest.raises(ValueError, match="2 to 8"):
            quantise.on_grid(torch.ones(2, 8), bits, group)
    with pytest.raises(ValueError, match="cannot be cut into groups of 3"):
        quantise.on_grid(torch.ones(2, 8), 4, 3)


def test_what_is_quantised(bert, llama):
    assert len(quantise.linears(bert)) == 2 * 6 + 1 and "classifier" not in quantise.linears(bert)
    assert len(quantise.linears(llama)) == 2 * 7 and "lm_head" not in quantise.linears(llama)
    for model, expected in ((bert, 8), (llama, 6)):
        kinds = quantise.kinds(model)
        assert len(kinds) == expected
        listed = [name for names in kinds.values() for name in names]
        assert len(listed) == len(set(listed)) and set(quantise.linears(model)) <= set(listed)
    assert "head" not in quantise.kinds(llama), "a tied head is the embeddings"


def test_a_model_that_the_quantiser_does_not_know():
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    for call in (
        lambda m: quantise.fake(m, 4),
        lambda m: quantise.trainable(m, 4),
        lambda m: quantise.quantised(m, "int8 weight-only"),
        lambda m: quantise.packed_mb(m, 4),
    ):
        with pytest.raises(ValueError, match="Conv1D"):
            call(gpt2)
    with pytest.raises(ValueError, match="LSTM"):
        quantise.linears(nn.LSTM(4, 4))
    with pytest.raises(ValueError, match="no linear layer"):
        quantise.linears(nn.Embedding(4, 4))
    gpt2.config.tie_word_embeddings = False
    with pytest.raises(ValueError, match="names its layers"):
        quantise.kinds(gpt2)


def test_fake_leaves_the_model_alone(bert, batch):
    before = copy.deepcopy(bert.state_dict())
    rough = quantise.fake(bert, 3, 32)
    assert all(torch.equal(before[k], v) for k, v in bert.state_dict().items())
    name = "bert.encoder.layer.0.intermediate.dense"
    assert torch.equal(
        rough.get_submodule(name).weight, quantise.on_grid(bert.get_submodule(name).weight, 3, 32)
    )
    assert torch.equal(rough.classifier.weight, bert.classifier.weight)
    only = quantise.fake(bert, 2, 0, ["classifier"])
    assert torch.equal(
        only.get_submodule(name).weight, bert.get_submodule(name).weight
    ) and not torch.equal(only.classifier.weight, bert.classifier.weight)


def test_gradients_pass_straight_through(bert, batch):
    model = quantise.trainable(bert, 3, 32)
    with torch.no_grad():
        assert torch.allclose(
            model(**batch).logits, quantise.fake(bert, 3, 32)(**batch).logits, atol=1e-5
        )
    model(**batch).logits.square().sum().backward()
    layer = model.get_submodule("bert.encoder.layer.0.output.dense")
    gradient = layer.parametrizations.weight.original.grad
    plain = quantise.fake(bert, 3, 32)
    plain(**batch).logits.square().sum().backward()
    assert torch.allclose(
        gradient, plain.get_submodule("bert.encoder.layer.0.output.dense").weight.grad, atol=1e-4
    )
    torch.optim.SGD(model.parameters(), 0.05).step()
    with pytest.raises(ValueError, match="quantised already"):
        quantise.fake(model, 4)
    with torch.no_grad():
        trained = model(**batch).logits
    done = quantise.finished(model)
    weight = done.get_submodule("bert.encoder.layer.0.output.dense").weight
    assert torch.allclose(
        weight, quantise.on_grid(weight, 3, 32), atol=1e-6
    ) and "parametrizations" not in "".join(done.state_dict())
    with torch.no_grad():
        assert torch.allclose(done(**batch).logits, trained, atol=1e-5)


def test_sizes_add_up(bert, llama):
    for model in (bert, llama):
        assert quantise.held_mb(model) == pytest.approx(models.size(model)["megabytes"])
        linear = sum(m.weight.numel() for m in quantise.linears(model).values())
        rest = models.size(model)["parameters"] - linear
        assert quantise.packed_mb(model, 4, 32) == pytest.approx(
            (linear * (4 + 16 / 32) / 8 + 4 * rest) / 1e6
        )
        assert quantise.packed_mb(model, 8) == pytest.approx(
            (linear + 2 * len(quantise.linears(model)) + 4 * rest) / 1e6
        )


@AO
@pytest.mark.parametrize("method", quantise.WIDTHS)
def test_every_method_answers_nearly_as_before(bert, llama, batch, method):
    for model in (bert, llama):
        before = copy.deepcopy(model.state_dict())
        small = quantise.quantised(model, method)
        with torch.no_grad():
            ours, theirs = small(**batch).logits.float(), model(**batch).logits
        assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > (
            0.999 if quantise.WIDTHS[method] > 4 else 0.95
        )
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert (quantise.held_mb(small) < 0.7 * quantise.held_mb(model)) == (method != "fp32")
        if quantise.WIDTHS[method] < 16:
            with pytest.raises(ValueError, match="quantised already"):
                quantise.quantised(small, method)


@AO
def test_torchao_and_the_open_grid_agree(bert, batch):
    """int8 weight-only is `fake` with 8 bits and a scale a row, up to torchao's extra step at the negative end."""
    with torch.no_grad():
        assert torch.allclose(
            quantise.quantised(bert, "int8 weight-only")(**batch).logits,
            quantise.fake(bert, 8, 1 << 20)(**batch).logits,
            atol=0.05,
        )


def test_an_unknown_method(bert):
    with pytest.raises(ValueError, match="did you mean 'int8 dynamic'"):
        quantise.quantised(bert, "int8 dynamc")


def test_without_torchao(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ImportError, match="pip install torchao"):
        quantise.quantised(bert, "int8 dynamic")
    assert quantise.quantised(bert, "bf16").dtype == torch.bfloat16


@AO
def test_nothing_on_stderr():
    """torchao warns of GPU kernels that are not there when transformers imports it; a notebook would show that in red."""
    done = subprocess.run(
        [sys.executable, "-c", "import kdlib.models"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""


def test_a_grid_has_a_name():
    assert quantise.grid_name(4, 32) == "4 bits, groups of 32"
    assert quantise.grid_name(3, 0) == "3 bits, one step"
