"""What a job asks Slurm for: the user's options, the notebook's needs, the cluster's limits."""

import math
import re

from ..tools.room import Room
from .cluster import gpus, megabytes, minutes

OPTIONS = ("partition", "gres", "time", "mem", "cpus", "at_once")
SHORTEST_MINUTES = 2  # below it a job would be over before a notebook has begun to work
FULL = 0.85  # the share of a card, or of a partition's memory, that an estimate may fill


def wanted(cluster: dict, asked: dict, need: Room, what: str, nproc: int = 1) -> dict:
    """{option: value} for all of OPTIONS, None where nothing is asked for.

    The user's options (`asked`) come first, then what the notebook needs, then the cluster's own.
    what: the notebook, for a message. ValueError for more than the partition has.
    """
    asked = {key: value for key, value in asked.items() if value not in (None, "")}
    ask = {key: cluster.get(key) for key in OPTIONS} | asked
    limits = cluster.get("partitions", {}).get(ask["partition"], {})
    ask["time"] = ask["time"] or "04:00:00"
    if "gres" not in asked:
        ask["gres"] = smallest_card(cluster, need, what) if limits.get("gpus", 1) else None
    if "mem" not in asked and ask["mem"]:
        ask["mem"] = _memory(ask["mem"], limits.get("mem"), need, what, ask["partition"])
    if "time" in limits and "time" not in asked:  # where the partition gives less
        ask["time"] = min(ask["time"], limits["time"], key=minutes)
    if limits.get("at_once"):
        ask["at_once"] = min(ask["at_once"] or limits["at_once"], limits["at_once"])
    _refuse_too_much(ask, limits)
    _refuse_odd_texts(ask)
    if nproc != 1:
        _refuse_too_few_gpus(ask["gres"], nproc)
        ask["cpus"] = max(nproc, ask["cpus"] or 0)
    return ask


def smallest_card(cluster: dict, need: Room, what: str) -> str | None:
    """The --gres of the first of the cluster's cards that is large enough."""
    cards = cluster.get("cards")
    if not need.gpu or not cards:
        return cluster.get("gres")
    if large := large_cards(cluster, need):
        return large[0]
    raise ValueError(
        f"{what} needs about {need.gpu:.0f} GB on the GPU, and the largest card of this cluster's "
        f"file has {max(card[0] for card in cards):g}: lora_rank=16 or a smaller batch_size needs "
        "less (python -m kdlib doctor --plan), or name a card with --gres"
    )


def large_cards(cluster: dict, need: Room) -> list[str]:
    """How to ask for each of the cluster's cards that is large enough."""
    return [gres for size, gres, _ in cluster.get("cards", []) if need.gpu <= FULL * size]


def _memory(least: str, most: str | None, need: Room, what: str, partition: str) -> str:
    """Main memory: the notebook's need and a quarter, in steps of 4 GB, but `least` at least.

    ValueError where the partition (`most`) has less than the need.
    """
    gigabytes = 4 * math.ceil(1.25 * need.memory / 4)
    enough = max(least, f"{gigabytes}G", key=megabytes)
    if not most or megabytes(enough) <= megabytes(most):
        return enough
    if 1024 * need.memory > FULL * megabytes(most):
        raise ValueError(
            f"{what} needs about {need.memory:.0f} GB of main memory, and the partition "
            f"{partition} gives {most}: take another --partition, or --mem {most} to try"
        )
    return most


def _refuse_too_much(ask: dict, limits: dict) -> None:
    partition = f"the partition {ask['partition']} gives"
    for key, measure in (("time", minutes), ("mem", megabytes)):
        if ask[key] and key in limits and measure(ask[key]) > measure(limits[key]):
            raise ValueError(f"--{key} {ask[key]} is more than {partition}: at most {limits[key]}")
    most = limits.get("gpus")
    if most is not None and gpus(ask["gres"]) > most:
        raise ValueError(f"--gres {ask['gres']}: {partition} a job at most {most} GPU(s)")
    if minutes(ask["time"]) < SHORTEST_MINUTES:
        raise ValueError(
            f"--time {ask['time']} is shorter than a notebook's start; give it "
            f"{SHORTEST_MINUTES} minutes at the very least"
        )


def _refuse_odd_texts(ask: dict) -> None:
    for key in ("cpus", "at_once"):
        if ask[key] is not None and ask[key] < 1:
            raise ValueError(f"--{key.replace('_', '-')} must be 1 or more, not {ask[key]}")
    for key in ("partition", "gres", "time", "mem"):
        if re.search(r"[\s#\"'`$\\]", ask[key] or ""):
            raise ValueError(f"--{key} {ask[key]!r} holds a blank or a sign that a shell reads")
    megabytes(ask["mem"] or "0")


def _refuse_too_few_gpus(gres: str | None, nproc: int) -> None:
    if nproc < 1:
        raise ValueError(f"--nproc must be 1 or more, not {nproc}")
    count = gpus(gres)
    if 0 < count < nproc:
        several = ":".join([*gres.split(":")[:-1], str(nproc)])
        raise ValueError(
            f"--nproc {nproc} wants a GPU for each process, and the job asks for {count}: "
            f"add --gres {several}, in a partition that gives so many"
        )
