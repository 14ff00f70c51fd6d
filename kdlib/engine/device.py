"""Where models compute: on the machine's GPU while they are asked; afterwards they go back."""

import os
from contextlib import contextmanager

import torch

from .processes import cores


def machine_device() -> str:
    """ "cuda", "mps" or "cpu": where runs, teacher passes, evaluations and translations compute.

    In one of several processes without CUDA it is the CPU, as it is for the trainer there.
    """
    if torch.cuda.is_available():
        return "cuda"
    # torch's processes cannot talk to each other through MPS.
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    return "mps" if alone and torch.backends.mps.is_available() else "cpu"


def threads_for_small_models() -> int:
    """Half the cores, and at most two: more threads than free cores only wait for one another.

    A tiny model's matrix products are too small to share. A second thread gains a third where a
    core is free for it; where none is, because a browser or another notebook computes as well, a
    training takes ten times as long.
    """
    return max(1, min(2, cores() // 2))


def limit_threads() -> None:
    """Torch takes the threads that suit a small model, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_for_small_models())


@contextmanager
def at_work(model, device: str | torch.device | None = None):
    """Within this block the model is on `device` (None: the machine's), afterwards where it was.

    It goes back because a GPU has no room for every model of a notebook at once. A model that is on
    a GPU already stays there: somebody has put it there. So does one whose weights are not plain
    tensors: torchao packs them for the device on which it quantises, FSDP shares them out.
    """
    home = model.device
    place = torch.device(device or machine_device())
    packed = any(type(weight.data) is not torch.Tensor for weight in model.parameters())
    if packed or home.type != "cpu" or place.type == "cpu":
        yield model
        return
    _move(model, place)
    try:
        yield model
    finally:
        _move(model, home)


@contextmanager
def evaluating(model):
    """Within this block the model is without dropout, afterwards in the mode in which it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _move(model, place) -> None:
    # Callers often are inside inference_mode. Weights that move there could never be trained again.
    with torch.inference_mode(False):
        model.to(place)
