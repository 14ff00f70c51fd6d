"""A training in several processes, one a GPU: `--nproc N`, and no notebook has to know.

A notebook's kernel holds one process, perhaps with CUDA at work already, so nothing can be forked
from it. A task is handed over in a file instead: torchrun starts the processes, and each of them
calls it. Tensors travel on the CPU: restored where they were, all processes would put them on the
first GPU. `DistillationArguments` divides the batch among the processes: a step reads the same
rows as it does in one process.
"""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Callable

from . import deadline

LINES_KEPT = 40  # of the processes' output, for the error message
NOT_FOR_CHILDREN = ("MPLBACKEND", "JPY_PARENT_PID")  # a kernel draws with a backend that they lack
# how the lines of torchrun, of warnings and of tracebacks begin
NOISE = ("W", "E", "*", "[", "Traceback", "  ")
TRAINING = ("step ", "     validation")


def cores() -> int:
    """The cores that this process may use, which a cluster makes fewer than the node has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes() -> int:
    """How many processes a training is to have: `$KD_NPROC`, and 1 inside of one of them."""
    text = os.environ.get("KD_NPROC") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"KD_NPROC must be a whole number from 1 on, not {text!r}")
    # torchrun sets RANK in each process that it starts: those must not start more.
    return 1 if "RANK" in os.environ else int(text)


def run_in_processes(task: Callable[[], None], place: Path, count: int) -> None:
    """Call `task()` in `count` processes. RuntimeError with the last line of what went wrong.

    place: a folder for the handover; it is made, and deleted when all went well. Only the first
    process speaks. What its training left undone is noted here (`deadline`).
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() < count:
        raise ValueError(
            f"--nproc {count}: this machine shows {torch.cuda.device_count()} GPU(s), and each "
            f"process needs one; ask Slurm for --gres gpu:{count}"
        )
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    hand_over(task, place / "task.pkl")
    code, last_line = _torchrun(place, count)
    errors = [file.read_text() for file in sorted(place.glob("error.*"))]
    if code or errors:
        raise RuntimeError(f"{errors[0] if errors else last_line} (in one of {count} processes)")
    for note in json.loads((place / "notes.json").read_text()):
        deadline.put(note)
    shutil.rmtree(place, ignore_errors=True)


def _torchrun(place: Path, count: int) -> tuple[int, str]:
    """Start the processes and repeat what the first one says: (exit code, last line)."""
    environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_CHILDREN}
    # Lines come as they are printed, not when a buffer is full.
    environment["PYTHONUNBUFFERED"] = "1"
    # what the kernel can import, they can
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in sys.path if folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(count), "-m", "kdlib.engine.processes", str(place)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    tail = []
    with subprocess.Popen(command, env=environment, **pipes) as child:
        for line in child.stdout:
            tail = [*tail, line][-LINES_KEPT:]
            if line.startswith(TRAINING) or not line.startswith(NOISE):
                print(line, end="", flush=True)
    # torchrun ends with a frame of its own, which names no cause
    told = [line.strip() for line in tail if line.strip(" =-\n") and not line.startswith(NOISE)]
    return child.returncode, told[-1] if told else "no word"


def hand_over(task, file: Path) -> None:
    """Pickle `task` into `file`, with every tensor of it on the CPU.

    Our own processes alone read it, and it is deleted afterwards.
    """
    with open(file, "wb") as opened:
        _pickler()(opened).dump(task)


@cache
def _pickler() -> type:
    import cloudpickle  # it takes a notebook's functions with all that they name
    import torch

    class OnCPU(cloudpickle.Pickler):
        def reducer_override(self, thing):
            is_tensor = isinstance(thing, torch.Tensor)
            if is_tensor and thing.device.type not in ("cpu", "meta"):
                # Rebuilt as a Parameter: as a plain tensor, no optimizer would find it.
                if isinstance(thing, torch.nn.Parameter):
                    return torch.nn.Parameter, (thing.data, thing.requires_grad)
                return thing.detach().cpu().__reduce_ex__(self.proto)
            return super().reducer_override(thing)

    return OnCPU


def is_first() -> bool:
    """Is this the first process, or the only one?"""
    return int(os.environ.get("RANK", 0)) == 0


def worker(place: Path) -> int:
    """What each process does."""
    import cloudpickle
    import torch

    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        # from here on "cuda" means this process's own GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # one voice is enough
    try:
        with open(place / "task.pkl", "rb") as file:
            task = cloudpickle.load(file)
        task()
        if is_first():
            (place / "notes.json").write_text(json.dumps(deadline.take()))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
    except Exception as error:
        # A file of its own: torchrun reports that a process died, and not of what.
        (place / f"error.{rank}").write_text(f"{type(error).__name__}: {error}")
        raise
    return 0


def shard(model, device):
    """Share out the frozen model's weights among all processes, in place (FSDP2).

    A forward gathers a layer at a time. Embeddings and head, once gathered, stay: the loss reads
    the head when the forward is over. Every process must ask the model as often as the others do,
    or all of them wait.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    depth = model.config.num_hidden_layers
    for stack in model.modules():
        # The stack of layers, whatever the model calls it: the one list as long as the model is
        # deep.
        if isinstance(stack, torch.nn.ModuleList) and len(stack) == depth:
            for layer in stack:
                fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=False)


if __name__ == "__main__":
    sys.exit(worker(Path(sys.argv[1])))
