"""A cluster's file: how it is read and checked, and the sizes that stand in it.

Such a file says what a job asks for and finds there: kdlib/batch/clusters/explorer.yaml is the
pattern.
"""

import getpass
import os
import re
from datetime import timedelta
from importlib import resources
from pathlib import Path

import yaml

from ..paths import did_you_mean, runs_root

# What a file may say, and of what type; `partitions` holds what a partition gives at most.
CLUSTER_KEYS = {
    "partition": str,
    "gres": str,
    "cards": list,
    "time": str,
    "mem": str,
    "cpus": int,
    "at_once": int,
    "partitions": dict,
    "runs": list,
    "setup": list,
    "environment": dict,
    "python": str,
}
PARTITION_KEYS = {"time": str, "mem": str, "gpus": int, "at_once": int}


def load_cluster(name: str = "") -> dict:
    """A preset of kdlib/batch/clusters, or the user's own YAML file; {} for "".

    ValueError for what is no such file.
    """
    if not name:
        return {}
    folder = resources.files("kdlib.batch") / "clusters"
    known = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))
    own = name.endswith((".yaml", ".yml"))
    file = Path(name).expanduser() if own else folder / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(
            f"there is no cluster {name!r}{did_you_mean(name, known)}; there are "
            f"{', '.join(known)}, or give a YAML file of yours"
        )
    try:
        cluster = yaml.safe_load(file.read_text(encoding="utf8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    _check_keys(cluster, CLUSTER_KEYS, str(file), "a cluster")
    for partition, limits in cluster.get("partitions", {}).items():
        _check_keys(limits, PARTITION_KEYS, f"{file}, partition {partition}", "a partition")
    _check_values(cluster, file)
    return cluster


def _check_keys(given: dict, known: dict, where: str, what: str) -> None:
    for key, value in given.items() if isinstance(given, dict) else [("", given)]:
        if key not in known:
            raise ValueError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}; "
                f"{what} has {', '.join(known)}"
            )
        if type(value) is not known[key]:
            hint = ": write it in quotes, for YAML reads 08:00:00 as a number"
            raise ValueError(
                f"{where}: {key} must be {known[key].__name__}, not {type(value).__name__} "
                f"{value!r}{hint if key == 'time' else ''}"
            )


def _check_values(cluster: dict, file) -> None:
    environment = cluster.get("environment", {})
    for name in environment:
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
            raise ValueError(f"{file}: {name!r} is no name of an environment variable")
    pairs = [*cluster.get("setup", []), *environment.values()]
    if "runs" in cluster:
        pairs.append(cluster["runs"])
    for pair in pairs:
        if _types(pair) != [str, str]:
            raise ValueError(
                f"{file}: {pair!r} should be two texts, what and why: "
                '[module purge, "start from nothing"]'
            )
    for card in cluster.get("cards", []):
        if _types(card) not in ([int, str, str], [float, str, str]):
            raise ValueError(
                f"{file}: {card!r} should be a card's GB, how to ask for it, and what it is: "
                '[40, "gpu:a100:1", "A100"]'
            )


def _types(entry) -> list[type]:
    return [type(part) for part in entry] if isinstance(entry, list) else []


def runs_place(cluster: dict) -> Path:
    """Where the job's runs go: `$KD_RUNS`, or where the cluster's file says, or `runs/` here.

    In what the file says, `$USER` and its like are filled in.
    """
    if os.environ.get("KD_RUNS") or "runs" not in cluster:
        return runs_root().resolve()
    os.environ.setdefault("USER", getpass.getuser())
    return Path(os.path.expandvars(cluster["runs"][0])).expanduser()


# -- sizes -----------------------------------------------------------------------------------------


def minutes(time: str) -> float:
    """Slurm's time as minutes: "90", "90:00", "08:00:00", "1-12", "1-12:30".

    ValueError for anything else.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time.strip())
    if not match:
        raise ValueError(
            f"--time {time!r} is no time limit; write hours:minutes:seconds, as 08:00:00"
        )
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    # a lone number is minutes, two are minutes:seconds; but after days, hours come first
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, mins, seconds = (numbers + [0, 0])[:3]
    limit = timedelta(days=int(days or 0), hours=hours, minutes=mins, seconds=seconds)
    return limit.total_seconds() / 60


def megabytes(mem: str) -> float:
    """Slurm's size of memory, "32G", in MB. ValueError for what is none."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", mem.strip(), re.I)
    if not match:
        raise ValueError(f"--mem {mem!r} is no size; write it as 32G")
    return int(match[1]) * {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}[match[2].upper()]


def gpus(gres: str | None) -> int:
    """How many GPUs a --gres asks for: "gpu", "gpu:2", "gpu:a100:1"."""
    count = 0
    for part in (gres or "").split(","):
        kind, *details = part.split(":")
        if kind == "gpu":
            count += int(details[-1]) if details and details[-1].isdigit() else 1
    return count
