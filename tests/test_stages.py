"""stages: a result is loaded only while nothing that it depends on has changed, and it comes back bit for bit.

Cells of a notebook are imitated by `cell`: source text that is executed as `__main__`, as Jupyter does.
"""

import math
import os
import subprocess
import sys
import types
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import kdlib as kd
from kdlib.course import stages


@pytest.fixture
def run(capsys):
    return kd.start("04_distilbert_mnli", profile="smoke")


def again():
    """The notebook run once more: same parameters, same folder."""
    return kd.start("04_distilbert_mnli", profile="smoke")


def cell(source: str, **names) -> types.SimpleNamespace:
    """The names that a notebook has after a cell was executed."""
    space = {"__name__": "__main__"} | names
    exec(compile(source, "<cell>", "exec"), space)
    return types.SimpleNamespace(
        space=space, **{k: v for k, v in space.items() if not k.startswith("__")}
    )


# -- loaded or computed? ---------------------------------------------------------------------------------------------


def test_the_second_time_it_is_loaded_and_says_so(run, capsys):
    ran = []

    def square(x):
        ran.append(x)
        return x**2

    # what the function appends to is one of its inputs, so it is emptied before each call
    assert run.stage("square", square, x=3) == 9 and ran.pop() == 3
    assert run.stage("square", square, x=3) == 9 and ran == []
    assert again().stage("square", square, x=3) == 9 and ran == []
    out = capsys.readouterr().out
    assert out.count("stage square: done") == 1 and out.count("stage square: loaded") == 2
    assert run.stage("square", square, x=4) == 16 and ran.pop() == 4
    assert run.stage("square", square, x=4, fresh=True) == 16 and ran.pop() == 4


BASE = """
RATE = 2
UNRELATED = 1
settings = {"epochs": 3, "layers": [0, 2]}
def helper(x):
    return x + 1
class Model:
    depth = 4
    def forward(self, x):
        return helper(x) * self.depth
def make(power):
    def inner(x):
        return x ** power
    return inner
inner = make(2)
def work(x, step=1):
    'what it does'
    # and why
    return Model().forward(x) * RATE + inner(x) + settings["epochs"] + step
"""


def key(source=BASE, x=1):
    return stages.fingerprint(cell(source).work, {"x": x})


def test_the_same_source_has_the_same_key_in_another_process():
    script = (
        f"from kdlib.course import stages\nspace = {{'__name__': '__main__'}}\nexec({BASE!r}, space)\n"
        "print(stages.fingerprint(space['work'], {'x': 1}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "5"},
    )
    assert done.stdout.strip() == key(), done.stderr


@pytest.mark.parametrize(
    "old, new",
    [
        ("return Model().forward(x) * RATE", "return Model().forward(x) / RATE"),  # its own source
        ("return x + 1", "return x + 2"),  # a function that a method calls
        ("depth = 4", "depth = 5"),  # an attribute of a class it uses
        ("* self.depth", "- self.depth"),  # a method of a class it uses
        ("RATE = 2", "RATE = 3"),  # a global constant
        ("make(2)", "make(3)"),  # a value that a function closes over
        ("return x ** power", "return x * power"),  # the source of that function
        ('"epochs": 3', '"epochs": 4'),
        ("[0, 2]", "[0, 3]"),  # inside a global dict
        ("step=1", "step=2"),  # a default
    ],
    ids=lambda text: text[:20],
)
def test_what_a_stage_depends_on_changes_its_key(old, new):
    assert old in BASE and key(BASE.replace(old, new)) != key()


@pytest.mark.parametrize(
    "old, new",
    [
        ("UNRELATED = 1", "UNRELATED = 2"),
        ("# and why", "# and why not"),
        (
            "RATE = 2\n",
            "forward = 7\nepochs = 8\nx = 9\npower = 3\nRATE = 2\n",
        ),  # globals named like attributes and arguments
        ("def work", "\n\n\ndef unused():\n    return UNRELATED\n\ndef work"),
    ],
    ids=lambda text: text[:20],
)
def test_what_it_does_not_depend_on_does_not(old, new):
    assert old in BASE and key(BASE.replace(old, new)) == key()


def test_recursion_ends():
    loop = cell(
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    )
    other = cell(
        "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 1 and even(n - 1)\n"
    )
    assert stages.fingerprint(loop.even) != stages.fingerprint(other.even)
    knot = [1]
    knot.append(knot)
    assert stages.fingerprint(knot) == stages.fingerprint(knot)


def frame(**changes):
    return pd.DataFrame({"a": [1, 2], "b": [0.1, 0.2], "c": ["x", None]} | changes)


def nudged(model, by=1e-7):
    with torch.no_grad():
        model.classifier.bias += by
    return model


DATA = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "n": [1, 2, 3]})
PAIRS = {
    "number": (1, 2),
    "int and float": (1, 1.0),
    "int and bool": (1, True),
    "int and text": (1, "1"),
    "tiny step": (0.1, 0.1 + 2e-17 + 1e-16),
    "list order": ([1, 2], [2, 1]),
    "nesting": ([[1], [2]], [[1, 2]]),
    "dict value": ({"a": 1}, {"a": 2}),
    "dict key": ({"a": 1}, {"b": 1}),
    "array": (np.arange(3.0), np.arange(3.0) + np.array([0, 0, 1e-15])),
    "array shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "array type": (np.zeros(2, np.int64), np.zeros(2)),
    "array of objects": (np.array(["a", None]), np.array(["b", None])),
    "tensor": (torch.zeros(2), torch.tensor([0, 1e-30])),
    "bf16": (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16)),
    "scalar tensor": (torch.tensor(1.0), torch.tensor(2.0)),
    "tensor shape": (torch.zeros(0, 3), torch.zeros(3, 0)),
    "frame value": (frame(), frame(b=[0.1, 0.2 + 1e-13])),
    "frame column": (frame(), frame().rename(columns={"a": "d"})),
    "frame type": (frame(), frame(a=[1.0, 2.0])),
    "frame index": (frame(), frame().set_axis([5, 6])),
    "series": (frame()["a"], frame()["a"] + 1),
    "dataset": (DATA, DATA.map(lambda r: {"n": r["n"] + (r["n"] == 3)})),
    "dataset order": (DATA, DATA.select([0, 2, 1])),
    "dataset rows": (DATA, DATA.select([0, 1])),
    "dataset column": (DATA, DATA.rename_column("n", "m")),
    "model weight": (tiny.bert(), nudged(tiny.bert())),
    "model names": (tiny.bert(), tiny.bert(labels=("LABEL_0", "LABEL_1", "LABEL_2"))),
    "namespace": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    "path": (Path("a"), Path("b")),
    "set": ({1, 2}, {1, 3}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_an_input_counts_by_content(name):
    one, other = PAIRS[name]
    assert stages.fingerprint({"x": one}) != stages.fingerprint({"x": other})
    assert stages.fingerprint({"x": one}) == stages.fingerprint({"x": one})


@pytest.mark.parametrize(
    "make",
    [
        tiny.bert,
        frame,
        lambda: torch.arange(5.0),
        lambda: {"b": 1, "a": [np.ones(2)]},
        lambda: datasets.Dataset.from_dict({"n": [1, 2]}).select([1]),
        lambda: np.array(["a", 1.5, None]),
    ],
)
def test_equal_content_in_another_object_is_the_same_input(make):
    assert stages.fingerprint({"x": make()}) == stages.fingerprint({"x": make()})


def test_a_view_of_a_dataset_is_its_rows():
    assert stages.fingerprint(DATA.select([1, 2])) == stages.fingerprint(
        datasets.Dataset.from_dict({"text": ["b", "c"], "n": [2, 3]})
    )


def test_what_comes_later_is_looked_at_too():
    """Models and objects are read through temporary dicts: a freed one must not lend its id to the next, and hide it."""
    spaces = lambda last: [types.SimpleNamespace(value=i) for i in (*range(20), last)]
    assert stages.fingerprint(spaces(1)) != stages.fingerprint(spaces(2))
    four = lambda nudge=0: [
        *(tiny.bert(seed=i) for i in range(3)),
        nudged(tiny.bert(seed=3), nudge),
    ]
    assert stages.fingerprint(four()) != stages.fingerprint(four(1e-7))
    assert len({stages.fingerprint(four()) for _ in range(20)}) == 1


def test_an_input_given_twice_counts_where_it_is_given():
    a, b = np.zeros(3), np.ones(3)
    assert stages.fingerprint({"x": a, "y": b, "z": a}) != stages.fingerprint(
        {"x": a, "y": b, "z": b}
    )


def test_a_changed_input_is_computed_again(run):
    ran = []
    work = cell("def work(data, ran):\n    ran['n'] = 1\n    return data.sum()")
    assert run.stage("sum", work.work, data=np.ones(3), ran={}) == 3.0
    assert run.stage("sum", work.work, data=np.array([1.0, 1, 2]), ran={}) == 4.0
    assert ran == []


def test_a_stage_starts_from_the_same_random_numbers_whatever_ran_before(run):
    draw = cell(
        "import torch, random, numpy\ndef draw():\n    return [random.random(), numpy.random.rand(), torch.rand(1).item()]"
    )
    first = run.stage("draw", draw.draw)
    torch.rand(5), np.random.rand(3)
    assert run.stage("draw", draw.draw, fresh=True) == first
    assert kd.start("04_distilbert_mnli", profile="smoke", seed=1).stage("draw", draw.draw) != first


# -- on disk ---------------------------------------------------------------------------------------------------------


def equal(one, other):
    assert type(one) is type(other), (type(one), type(other))
    if isinstance(one, dict):
        assert list(one) == list(other)
        [equal(one[k], other[k]) for k in one]
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        [equal(a, b) for a, b in zip(one, other)]
    elif isinstance(one, float):
        assert one.hex() == other.hex()
    elif isinstance(one, np.ndarray):
        assert (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    elif isinstance(one, torch.Tensor):
        assert (
            one.dtype == other.dtype
            and one.shape == other.shape
            and torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        )
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, datasets.Dataset):
        assert one.features == other.features and one[:] == other[:]
    elif isinstance(one, torch.nn.Module):
        written = dict.fromkeys(
            ("transformers_version", "dtype", "architectures", "_name_or_path")
        )  # by save_pretrained
        assert one.config.to_dict() | written == other.config.to_dict() | written
        assert one.dtype == other.dtype and not other.training
        assert tiny.difference(one.state_dict(), other.state_dict()) == 0
    else:
        assert one == other


KEPT = {
    "numbers": [0, -1, 2**70, 0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan, True, None],
    "text": ["", "É ‘quoted’ \n\t\x00 😀", "$array"],
    "nested": {"a": [1, (2, [3.5, {"b": ()}])], "": {}},
    "arrays": [
        np.array(0.1),
        np.zeros((0, 3)),
        np.arange(6, dtype=np.int8).reshape(2, 3).T,
        np.array(["é", "bc"]),
        np.array([True]),
        np.array([math.nan, -0.0], np.float16),
    ],
    "tensors": [
        torch.tensor(0.1),
        torch.zeros(0, 3),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([1.1, math.nan]).bfloat16(),
        torch.tensor([True]),
    ],
    "frame": pd.DataFrame(
        {
            "i": [1, 2],
            "f": [0.1, math.nan],
            "s": ["é", None],
            "b": [True, False],
            "c": pd.Categorical(["x", "y"]),
            "t": pd.to_datetime(["2025-01-01", "2025-03-31"]),
        },
        index=pd.Index([7, 9], name="row"),
    ),
    "dataset": tiny.dataset(7).select([4, 1, 6]),
    "model": tiny.bert(),
    "half": tiny.bert().to(torch.bfloat16),
    "distilbert": kd.models.student_from_teacher(tiny.bert(), [1], "distilbert"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_result_comes_back_bit_for_bit(run, name):
    value = KEPT[name]
    make = lambda: value
    equal({"it": value}, {"it": run.stage("it", make)})
    equal({"it": value}, {"it": again().stage("it", make)})


def test_numpy_numbers_come_back_as_numbers(run):
    values = run.stage(
        "it",
        lambda: {"a": np.float64(0.1), "b": np.int64(3), "c": np.bool_(True), "d": np.float32(0.5)},
    )
    assert values == {"a": 0.1, "b": 3, "c": True, "d": 0.5} and type(values["b"]) is int


@pytest.mark.parametrize(
    "value, name",
    [
        (object(), "object"),
        ({1, 2}, "set"),
        (lambda: 0, "function"),
        ({1: "a"}, "keys that are not text"),
        ([{"deep": object()}], "object"),
        (torch.nn.Linear(2, 2), "Linear"),
        (b"bytes", "bytes"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing_behind(run, value, name):
    make = lambda: value
    for _ in range(2):
        with pytest.raises(TypeError, match=f"{name}.*stages keep"):
            run.stage("it", make)
    assert not [
        p for p in (run.folder / "stages").iterdir() if not p.name.endswith((".new", ".work"))
    ]


def test_nothing_is_unpickled(run, tmp_path):
    with pytest.raises(ValueError):
        run.stage("it", lambda: np.array([object()], dtype=object))


@pytest.mark.parametrize("damage", ["cut off", "missing", "altered", "no manifest"])
def test_a_damaged_result_is_computed_again(run, capsys, damage):
    make = lambda: {"weights": np.arange(1000.0), "model": tiny.bert()}
    run.stage("it", make)
    (place,) = (p for p in (run.folder / "stages").iterdir() if p.is_dir())
    file = max(place.rglob("*.npy"))
    body = file.read_bytes()
    {
        "cut off": lambda: file.write_bytes(body[:-9]),
        "missing": file.unlink,
        "altered": lambda: file.write_bytes(body[:-1] + b"\x01"),
        "no manifest": (place / "DONE.json").unlink,
    }[damage]()
    assert run.stage("it", make)["weights"].sum() == 499500
    assert "computing it again" in capsys.readouterr().out
    run.stage("it", make)
    assert "loaded" in capsys.readouterr().out


# -- interruption ----------------------------------------------------------------------------------------------------


def test_an_interrupted_stage_keeps_its_folder(run, capsys):
    def work(folder, fail):
        file = Path(folder) / "progress"
        steps = int(file.read_text()) if file.exists() else 0
        file.write_text(str(steps + 1))
        if steps < fail:
            raise KeyboardInterrupt
        return steps

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run.stage("it", work, fail=2)
    assert run.stage("it", work, fail=2) == 2
    assert [p for p in (run.folder / "stages").iterdir() if p.suffix == ".work"] == []
    assert run.stage("it", work, fail=2) == 2 and "loaded" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        run.stage("it", work, fail=2, fresh=True)  # begins from nothing


SCRIPT = """
import os, signal, sys
sys.path.insert(0, TESTS)
import tiny, torch
from pathlib import Path
from transformers import TrainerCallback
import kdlib as kd

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **kw):
        print("trained step", state.global_step)
        if state.global_step == int(os.environ.get("KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)

def train(words, folder):
    tokenizer = tiny.tokenizer(Path(words))
    trainer = tiny.trainer(folder, tiny.bert(2, seed=8, dropout=0.2), tiny.encoded(tokenizer, 48), tokenizer, tiny.bert(4, seed=7),
                           num_train_epochs=3, save_strategy="steps", save_steps=4)
    trainer.add_callback(Killer())
    trainer.fit()
    return trainer.model

def main(words):
    return kd.start("04_distilbert_mnli", profile="smoke").stage("student", train, words=words)
"""


def test_a_stage_killed_in_the_middle_of_training_ends_bit_equal(tmp_path, monkeypatch, capsys):
    (tmp_path / "stage_script.py").write_text(f"TESTS = {str(Path(__file__).parent)!r}\n{SCRIPT}")
    monkeypatch.syspath_prepend(tmp_path)
    import stage_script

    monkeypatch.setenv("KD_RUNS", str(tmp_path / "undisturbed"))
    whole = stage_script.main(str(tmp_path))
    monkeypatch.setenv("KD_RUNS", str(tmp_path / "killed"))
    killed = subprocess.run(
        [sys.executable, "-c", f"import stage_script; stage_script.main({str(tmp_path)!r})"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ
        | {"KILL_AT": "11", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert killed.returncode == -9, killed.stderr
    assert {p.name for p in tmp_path.glob("killed/*/*/stages/*.work/checkpoint-*")} == {
        "checkpoint-4",
        "checkpoint-8",
    }
    capsys.readouterr()
    resumed = stage_script.main(str(tmp_path))
    told = capsys.readouterr().out
    assert tiny.difference(whole.state_dict(), resumed.state_dict()) == 0
    assert [line for line in told.splitlines() if "trained" in line][
        0
    ] == "trained step 9" and "stage student: done" in told
