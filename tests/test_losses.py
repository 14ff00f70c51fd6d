"""losses against a reference that shares nothing with it: float64, probabilities instead of log-probabilities."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from references import DEFINITIONS, divergence_of, kl

from kdlib.losses import DIVERGENCES, distillation_loss, soft_targets


def softmax(logits, temperature):
    powers = np.exp((logits - logits.max()) / temperature)
    return powers / powers.sum()


def reference(
    student,
    teacher,
    labels,
    temperature=2.0,
    alpha=0.5,
    divergence="forward_kl",
    beta=0.5,
    num_items=None,
):
    """Item by item, from the definitions."""
    classes, kd, ce, items = student.shape[-1], 0.0, 0.0, 0
    flat = zip(
        student.reshape(-1, classes).double().numpy(),
        teacher.reshape(-1, classes).double().numpy(),
        labels.reshape(-1).tolist(),
    )
    for s, t, label in flat:
        if label == -100:
            continue
        items += 1
        p, q = (torch.from_numpy(softmax(x, temperature)) for x in (t, s))
        kd += divergence_of(divergence, p, q, beta).item()
        ce -= math.log(softmax(s, 1.0)[label])
    items = num_items or max(items, 1)
    kd, ce = kd * temperature**2 / items, ce / items
    return alpha * kd + (1 - alpha) * ce, kd, ce


def batch(shape=(5,), classes=3, seed=0, ignored=0.0, scale=3.0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    logits = [
        torch.randn(*shape, classes, generator=draw, dtype=torch.float64).mul(scale).to(dtype)
        for _ in range(2)
    ]
    labels = torch.randint(classes, shape, generator=draw)
    labels[torch.rand(shape, generator=draw) < ignored] = -100
    return *logits, labels


def close(loss, expected, tolerance=1e-9):
    assert loss._fields == ("total", "kd", "ce")
    for name, ours, theirs in zip(loss._fields, loss, expected):
        assert ours.item() == pytest.approx(theirs, rel=tolerance, abs=tolerance), name


def test_every_divergence_has_a_definition():
    """A name without one would be tested against nothing."""
    assert set(DEFINITIONS) == set(DIVERGENCES)


@pytest.mark.parametrize(
    "shape, classes", [((1,), 2), ((7,), 3), ((2, 5), 11), ((3, 1, 4), 2), ((), 5), ((6,), 1)]
)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("beta", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("temperature, alpha", [(1.0, 0.3), (2.5, 1.0), (0.5, 0.0)])
def test_equals_the_reference(shape, classes, divergence, beta, temperature, alpha):
    s, t, y = batch(shape, classes, seed=classes)
    given = dict(temperature=temperature, alpha=alpha, divergence=divergence, beta=beta)
    close(distillation_loss(s, t, y, **given), reference(s, t, y, **given))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_ragged_masks_equal_the_reference(divergence):
    s, t, y = batch((4, 9), 7, seed=3, ignored=0.6)
    assert 0 < (y != -100).sum() < y.numel()
    close(
        distillation_loss(s, t, y, divergence=divergence), reference(s, t, y, divergence=divergence)
    )


def test_float32_logits_are_good_to_float32():
    s, t, y = batch((64,), 30, dtype=torch.float32)
    close(distillation_loss(s, t, y), reference(s, t, y), tolerance=2e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_half_precision_is_left_before_anything_is_summed(divergence):
    s, t, y = batch((200,), 50, dtype=torch.bfloat16)
    half = distillation_loss(s, t, y, divergence=divergence)
    assert half.total.dtype == torch.float32
    close(half, reference(s, t, y, divergence=divergence), tolerance=1e-5)
    exact_s, exact_t, _ = batch((200,), 50)  # what was lost is the logits' own rounding
    close(half, reference(exact_s, exact_t, y, divergence=divergence), tolerance=0.01)


# -- properties ------------------------------------------------------------------------------------------------------

numbers = st.floats(-20, 20).map(lambda x: round(x, 3))
pairs = st.integers(2, 6).flatmap(
    lambda n: st.tuples(*[st.lists(numbers, min_size=n, max_size=n)] * 2)
)
temperatures = st.floats(0.2, 50)


def kd_of(student, teacher, **given):
    s, t = (torch.tensor([x], dtype=torch.float64) for x in (student, teacher))
    return distillation_loss(s, t, torch.tensor([0]), **given).kd.item()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(pairs, temperatures)
def test_kd_is_t_squared_times_the_softened_kl(pair, temperature):
    p, q = (torch.from_numpy(softmax(np.array(x), temperature)) for x in reversed(pair))
    assert kd_of(*pair, temperature=temperature) == pytest.approx(
        temperature**2 * kl(p, q).item(), rel=1e-6, abs=1e-9
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(pairs)
def test_with_t_squared_the_gradient_settles_for_large_t(pair):
    """Hinton et al. 2015, section 2: it tends to the difference of the centred logits over the number of classes."""
    s, t = (torch.tensor([x], dtype=torch.float64) for x in pair)
    s.requires_grad_()
    limit = ((s - s.mean()) - (t - t.mean())).detach() / s.shape[1]
    for temperature in (1e4, 1e5):
        (gradient,) = torch.autograd.grad(
            distillation_loss(s, t, torch.tensor([0]), temperature=temperature).kd, s
        )
        assert torch.allclose(
            gradient, limit, rtol=0, atol=500 / temperature
        )  # its error shrinks like 1/T


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs, temperatures, st.sampled_from(DIVERGENCES))
def test_a_divergence_is_never_negative_and_zero_between_equals(pair, temperature, divergence):
    given = dict(temperature=temperature, divergence=divergence)
    assert kd_of(*pair, **given) >= -1e-12 * temperature**2
    assert abs(kd_of(pair[0], pair[0], **given)) <= 1e-12 * temperature**2
    if max(map(abs, np.subtract(*map(lambda x: softmax(np.array(x), temperature), pair)))) > 1e-3:
        assert kd_of(*pair, **given) > 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs, temperatures)
def test_jsd_is_symmetric_at_a_half_and_at_most_ln_2(pair, temperature):
    given = dict(temperature=temperature, divergence="jsd", beta=0.5)
    there, back = kd_of(*pair, **given), kd_of(*reversed(pair), **given)
    assert there == pytest.approx(back, rel=1e-9, abs=1e-12)
    assert there <= temperature**2 * math.log(2) * (1 + 1e-12)


def test_jsd_reaches_ln_2_where_nothing_overlaps_and_kl_knows_its_direction():
    assert kd_of([1e4, 0], [0, 1e4], temperature=1.0, divergence="jsd") == pytest.approx(
        math.log(2)
    )
    forward, reverse = (
        kd_of([2.0, 0, 0], [1.0, 0.5, -3], divergence=d) for d in ("forward_kl", "reverse_kl")
    )
    assert abs(forward - reverse) > 0.01
    assert reverse == pytest.approx(kd_of([1.0, 0.5, -3], [2.0, 0, 0], divergence="forward_kl"))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pairs, st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(DIVERGENCES))
def test_adding_a_constant_to_all_logits_changes_nothing(pair, a, b, divergence):
    moved = kd_of([x + a for x in pair[0]], [x + b for x in pair[1]], divergence=divergence)
    assert moved == pytest.approx(kd_of(*pair, divergence=divergence), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_order_and_ignored_rows_change_nothing(divergence):
    s, t, y = batch((6,), 4, seed=5)
    base = distillation_loss(s, t, y, divergence=divergence)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    close(
        distillation_loss(s[order], t[order], y[order], divergence=divergence),
        [x.item() for x in base],
    )
    more = torch.full((9, 4), 1e3, dtype=torch.float64)
    padded = [torch.cat([x, more]) for x in (s, -t)]
    labels = torch.cat([y, torch.full((9,), -100)])
    close(
        distillation_loss(padded[0], torch.cat([t, more]), labels, divergence=divergence),
        [x.item() for x in base],
    )


def test_num_items_is_what_the_sums_are_divided_by():
    s, t, y = batch((8,), 3, seed=2, ignored=0.3)
    valid = int((y != -100).sum())
    base = distillation_loss(s, t, y)
    for count in (4 * valid, torch.tensor(4 * valid)):
        close(distillation_loss(s, t, y, num_items=count), [x.item() / 4 for x in base])
    halves = [
        distillation_loss(s[part], t[part], y[part], num_items=valid)
        for part in (slice(0, 3), slice(3, 8))
    ]
    close(base, [sum(h[i].item() for h in halves) for i in range(3)])


# -- gradients and edges ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients(divergence, beta=0.3):
    s, t, y = batch((5,), 4, seed=1, scale=1.5)
    y[[1, 3]] = -100
    s.requires_grad_(), t.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: distillation_loss(x, t.detach(), y, divergence=divergence, beta=beta).total, s
    )
    distillation_loss(s, t, y, divergence=divergence, beta=beta).total.backward()
    assert t.grad is None, "the teacher must not learn"
    assert s.grad[[1, 3]].abs().max() == 0 and s.grad[[0, 2, 4]].abs().min() > 0


@pytest.mark.parametrize("shape", [(0,), (4,), (2, 3)])
@pytest.mark.parametrize("num_items", [None, 10, 0, torch.tensor(0)])
def test_nothing_to_learn_from_gives_zero_with_a_gradient_path(shape, num_items):
    s, t, y = batch(shape, 3)
    y = torch.full(shape, -100)
    s.requires_grad_()
    loss = distillation_loss(s, t, y, num_items=num_items)
    close(loss, (0, 0, 0))
    loss.total.backward()
    assert s.grad is not None and (s.grad == 0).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_class_that_both_exclude_is_out_of_the_game(divergence):
    s, t, y = batch((6,), 5, seed=4)
    y %= 4
    without = distillation_loss(s[:, :4], t[:, :4], y, divergence=divergence)
    s[:, 4] = t[:, 4] = -math.inf
    s.requires_grad_()
    loss = distillation_loss(s, t, y, divergence=divergence)
    close(loss, [x.item() for x in without])
    loss.total.backward()
    assert s.grad.isfinite().all() and (s.grad[:, 4] == 0).all()
    assert soft_targets(t)[:, 4].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("who", ["student", "teacher", "different classes", "all classes"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_minus_infinity_stays_finite(divergence, who, dtype):
    s, t, y = batch((6,), 5, seed=6, dtype=dtype)
    if who in ("student", "different classes"):
        s[:, 1] = -math.inf
    if who in ("teacher", "different classes"):
        t[:, 2] = -math.inf
    if who == "all classes":
        s[0], t[1] = -math.inf, -math.inf
    s.requires_grad_()
    loss = distillation_loss(s, t, y, divergence=divergence)
    loss.total.backward()
    assert all(x.isfinite() for x in loss) and s.grad.isfinite().all()
    if (
        who == "student" and divergence == "forward_kl"
    ):  # infinite by definition: counted at log p = -10,000
        assert loss.kd > 100


def test_soft_targets():
    t = batch((4,), 6)[1]
    for temperature in (0.5, 1.0, 7):
        assert np.allclose(
            soft_targets(t, temperature), [softmax(x, temperature) for x in t.numpy()], atol=1e-12
        )
    assert soft_targets(t.bfloat16()).dtype == torch.float32
    assert torch.allclose(soft_targets(t, 1e6), torch.full_like(t, 1 / 6), atol=1e-4)
    assert (soft_targets(t, 1e-3).argmax(-1) == t.argmax(-1)).all()


def test_label_smoothing_is_a_teacher_that_finds_all_classes_alike():
    s, _, y = batch((7,), 5)
    y[2] = -100
    s.requires_grad_()
    (ours,) = torch.autograd.grad(
        distillation_loss(s, torch.zeros_like(s), y, alpha=0.2, temperature=1.0).total, s
    )
    (theirs,) = torch.autograd.grad(F.cross_entropy(s, y, label_smoothing=0.2), s)
    assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.int16])
def test_integer_labels_of_any_width(dtype):
    s, t, y = batch((6,), 4)
    close(distillation_loss(s, t, y.to(dtype)), reference(s, t, y))


def test_a_label_that_would_be_ignore_index_in_few_bits_counts():
    s, t, _ = batch((4,), 200)
    y = torch.tensor([3, 156, 156, 7])
    close(distillation_loss(s, t, y.to(torch.uint8)), reference(s, t, y))


@pytest.mark.parametrize(
    "change, hint",
    [
        (dict(temperature=0), "temperature"),
        (dict(temperature=-1.0), "temperature"),
        (dict(temperature=math.nan), "temperature"),
        (dict(temperature=math.inf), "temperature"),
        (dict(temperature="2"), "temperature"),
        (dict(temperature=True), "temperature"),
        (dict(alpha=-0.1), "soft loss"),
        (dict(alpha=1.1), "soft loss"),
        (dict(alpha=math.nan), "soft loss"),
        (dict(alpha="0.5"), "soft loss"),
        (dict(divergence="kl"), ", ".join(DIVERGENCES)),
        (dict(divergence="jsd", beta=0), "beta"),
        (dict(divergence="jsd", beta=1.0), "beta"),
        (dict(divergence="jsd", beta=math.nan), "beta"),
        (dict(num_items=0), "num_items"),
        (dict(num_items=-3), "num_items"),
        (dict(num_items=math.nan), "num_items"),
        (dict(teacher_logits=torch.zeros(4, 5)), "differ in shape"),
        (dict(teacher_logits=torch.zeros(3, 3)), "differ in shape"),
        (dict(labels=torch.zeros(3, dtype=torch.long)), "one label for each row"),
        (dict(labels=torch.zeros(4, 1, dtype=torch.long)), "one label for each row"),
        (dict(labels=torch.zeros(4)), "integers"),
        (dict(labels=torch.zeros(4, dtype=torch.bool)), "integers"),
        (dict(labels=torch.tensor([0, 1, -1, 2])), "test split"),
        (dict(labels=torch.tensor([0, 3, -100, 2])), "labels must be"),
        (dict(labels=torch.tensor([0, 3, -100, 2])), r"found 0…3 in labels \(4,\) int64"),
        (
            dict(labels=torch.zeros(4, dtype=torch.complex64)),
            r"labels \(4,\) complex64 must be integers",
        ),
        (dict(temperature=None), "temperature"),
        (dict(temperature=[2.0]), "temperature"),
        (dict(alpha=None), "soft loss"),
        (dict(divergence="jsd", beta=None), "beta"),
        (dict(num_items="3"), "num_items"),
        (dict(num_items=torch.tensor([3, 4])), "num_items"),
        (dict(num_items=True), "num_items"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(change, hint):
    given = (
        dict(
            student_logits=torch.randn(4, 3),
            teacher_logits=torch.randn(4, 3),
            labels=torch.tensor([0, 1, 2, -100]),
        )
        | change
    )
    with pytest.raises(ValueError, match=hint):
        distillation_loss(**given)
