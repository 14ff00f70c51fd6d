"""A stage's training in several processes, one a GPU, under torchrun: `--nproc N`, and no notebook has to know.

A notebook's kernel holds one process, with CUDA perhaps at work already, so nothing can be forked from it. The stage's function and
its inputs are handed over in a file instead, each process calls the function, and the first one's value comes back.
Tensors travel on the CPU: restored where they were, all processes would put them on the first GPU.
`DistillationArguments` then divides the batch among the processes: the step reads the same rows as it does in one process.
"""
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from . import deadline


def processes() -> int:
    """How many processes a training stage is to have: `$KD_NPROC`, and 1 inside of one of them."""
    text = os.environ.get("KD_NPROC") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"KD_NPROC must be a whole number from 1 on, not {text!r}")
    return 1 if "RANK" in os.environ else int(text)


def in_processes(function, inputs: dict, seed: int, count: int):
    """function(**inputs) in `count` processes; the first one's value. RuntimeError with the last line of what went wrong.

    inputs["folder"] is the stage's own: Trainer's checkpoints go there, and for a while the files of the handover.
    """
    import torch

    from ..course import stages
    if torch.cuda.is_available() and torch.cuda.device_count() < count:
        raise ValueError(f"--nproc {count}: this machine shows {torch.cuda.device_count()} GPU(s), and each process needs one; ask Slurm for "
                         f"--gres gpu:{count}")
    place = Path(inputs["folder"]) / "handover"
    shutil.rmtree(place, ignore_errors=True), place.mkdir(parents=True)
    hand_over((function, inputs, seed), place / "call.pkl")     # read by our own processes alone, and deleted
    # a kernel draws with an inline backend that no plain process has; what it can import, they can
    environment = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "JPY_PARENT_PID")} | {
        "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m", "kdlib.engine.processes",
                           str(place)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace") as child:
        tail = []
        for line in child.stdout:
            tail = [*tail, line][-40:]
            if line.startswith(("step ", "     validation")) or not line.startswith(("W", "E", "*", "[", "Traceback", "  ")):
                print(line, end="", flush=True)
    error = next((f.read_text() for f in sorted(place.glob("error.*"))), "")
    if child.returncode or error:
        raise RuntimeError(f"{error or tail[-1].strip() if tail else 'no word'} (in one of {count} processes)")
    for note in json.loads((place / "notes.json").read_text()):
        deadline.put(note)
    value = stages.load(place / "value")
    shutil.rmtree(place, ignore_errors=True)
    return value


def hand_over(call, file: Path) -> None:
    """Pickle `call` into `file`, with every tensor of it on the CPU."""
    with open(file, "wb") as opened:
        _pickler()(opened).dump(call)


@cache
def _pickler() -> type:
    import cloudpickle                                          # it takes a notebook's functions with all that they name
    import torch

    class OnCPU(cloudpickle.Pickler):
        def reducer_override(self, thing):
            if isinstance(thing, torch.Tensor) and thing.device.type not in ("cpu", "meta"):
                if isinstance(thing, torch.nn.Parameter):
                    return torch.nn.Parameter, (thing.data, thing.requires_grad)
                return thing.detach().cpu().__reduce_ex__(self.proto)
            return super().reducer_override(thing)

    return OnCPU


def shard(model, device):
    """The frozen model, in place, with its weights shared out among all processes (FSDP2): a forward gathers a layer at a time.

    Embeddings and head, once gathered, stay: the loss reads the head when the forward is over. Every process must ask the model
    as often as the others do, or all of them wait.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for stack in model.modules():
        if isinstance(stack, torch.nn.ModuleList) and len(stack) == model.config.num_hidden_layers:
            for layer in stack:
                fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=False)


def worker(place: Path) -> int:
    """What each process does."""
    import cloudpickle
    import torch

    from ..course import stages
    from ..course.run import set_seed
    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))    # "cuda" now means this process's own GPU
    if rank:
        sys.stdout = open(os.devnull, "w")                      # one voice is enough
    try:
        with open(place / "call.pkl", "rb") as file:
            function, inputs, seed = cloudpickle.load(file)
        set_seed(seed)
        value = function(**inputs)
        if rank == 0:
            (place / "notes.json").write_text(json.dumps(deadline.take()))
            stages.dump(value, place / "value")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
    except Exception as error:
        (place / f"error.{rank}").write_text(f"{type(error).__name__}: {error}")
        raise
    return 0


if __name__ == "__main__":
    sys.exit(worker(Path(sys.argv[1])))
