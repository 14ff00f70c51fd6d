"""What several test files share: small notebooks, processes, what a model is asked, memory."""

import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import torch
from references import divergence_of
from torch.utils._python_dispatch import TorchDispatchMode

TESTS = Path(__file__).parent

# -- small notebooks -------------------------------------------------------------------------------

PARAMETERS = """profile: str = ""
seed: int = 0
run_dir: str = ""
learning_rate: float = -1
method: str = ""
alpha: float = -1
temperature: float = -1
epochs: int = -1
train_rows: int = -1
"""
START = """import kdlib as kd
run = kd.start("04_distilbert_mnli", profile=profile, seed=seed, run_dir=run_dir,
               learning_rate=learning_rate, method=method)"""


def write_notebook(folder: Path, *cells: str) -> Path:
    """A small notebook that has 04's name, so that 04's profile file checks its parameters."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    nb.cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, START, *cells)]
    nb.cells[0].metadata["tags"] = ["parameters"]
    path = folder / "04_distilbert_mnli.ipynb"
    nbformat.write(nb, path)
    return path


# -- the command line ------------------------------------------------------------------------------


def parsed(words: list[str]) -> dict:
    """What a command line asks for, as {option: value}; nothing is done.

    click.UsageError for a line that cannot be read.
    """
    from kdlib.batch.cli import kdlib

    command = kdlib.commands[words[0]]
    return command.make_context(words[0], words[1:]).params


# -- processes -------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        # A container may have nobody to bury orphans: they stay as zombies.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def in_two_processes(tmp_path, code: str) -> None:
    """Run `code`, which imports the test module that it names, under torchrun (gloo)."""
    script = tmp_path / "worker.py"
    setup = f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom pathlib import Path\n"
    script.write_text(f"{setup}{code}\n")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


# -- models ----------------------------------------------------------------------------------------


def count_calls(model) -> list:
    """A list that grows by the number of rows at each forward pass."""
    calls = []

    def count(module, args, kw, out):
        calls.append(len(kw["input_ids"]))

    model.register_forward_hook(count, with_kwargs=True)
    return calls


def with_rest(p, top):
    """The probabilities of the tokens `top`, and after them what all others have together."""
    return torch.cat([p[top], (1 - p[top].sum())[None]])


def by_hand(
    student,
    teacher,
    rows,
    *,
    temperature=2.0,
    alpha=0.5,
    divergence="forward_kl",
    beta=0.5,
    ce_only=(),
    words=None,
):
    """(total, kd, ce, right, tokens): row by row, unpadded, over all positions, shifted explicitly.

    words: how many tokens of the teacher's are kept, for a top-k teacher.
    """
    kds, ces, totals, right = [], [], [], 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        student_logits = student(input_ids=ids).logits[0].double()
        teacher_logits = teacher(input_ids=ids).logits[0].detach().double()
        for i, label in enumerate(row["labels"][1:]):
            if label == -100:
                continue
            p = torch.softmax(teacher_logits[i] / temperature, -1)
            q = torch.softmax(student_logits[i] / temperature, -1)
            if words:
                top = teacher_logits[i].topk(words).indices
                p, q = with_rest(p, top), with_rest(q, top)
            kd = temperature**2 * divergence_of(divergence, p, q, beta)
            ce = -torch.log_softmax(student_logits[i], -1)[label]
            soft = label not in ce_only
            kds.append(kd * soft)
            ces.append(ce)
            totals.append(alpha * kd + (1 - alpha) * ce if soft else ce)
            right += int(student_logits[i].argmax() == label)
    return sum(totals) / len(ces), sum(kds) / len(ces), sum(ces) / len(ces), right, len(ces)


# -- memory ----------------------------------------------------------------------------------------


def alive_at_once(function) -> int:
    """The most bytes that torch's CPU allocator had given out during a call."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as seen:
        function()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


class Widest(TorchDispatchMode):
    """The most rows of logits that any array had while it watched.

    Logits are arrays whose last axis is the vocabulary.
    """

    def __init__(self, vocab):
        super().__init__()
        self.vocab, self.rows = vocab, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.t.default:  # (width, vocab): a head lying on its side
            return out
        for array in out if isinstance(out, (tuple, list)) else [out]:
            wide = isinstance(array, torch.Tensor) and array.dim() > 1
            if wide and array.shape[-1] == self.vocab:
                self.rows = max(self.rows, array.numel() // self.vocab)
        return out


def fake_gpu(monkeypatch, card: str, capability: tuple, built: list[str], free: float = 15.0):
    for name, answer in dict(
        is_available=True,
        device_count=1,
        get_device_name=card,
        get_device_capability=capability,
        get_arch_list=built,
        mem_get_info=(int(free * 1e9), int(16e9)),
    ).items():
        monkeypatch.setattr(torch.cuda, name, lambda *a, answer=answer, **k: answer)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or capability >= (8, 0),
    )


NEW, CU126 = (
    ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"],
    ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"],
)
