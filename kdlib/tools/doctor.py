"""What would stop the course on this machine, and what to do about it.

    for finding in doctor.check():
        print(finding)

As a command: `python -m kdlib doctor`; `--plan` says what fits which GPU, `--measure` sets
estimates beside measurements; `doctor NOTEBOOK` is `ready`'s: what this one notebook needs, as a
job asks first. `doctor.estimate` and `plan` are `kdlib.tools.memory`'s.
"""

import importlib
import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..corpora.get import gated_advice, probe_hub
from ..course import run
from ..engine.hub import offline
from . import room
from .memory import estimate, plan  # noqa: F401

GATED = "meta-llama/Llama-3.2-3B-Instruct"
# GB of main memory: laptop's notebooks peak at 1.4 (their records say so), lab's at 2; Jupyter
# wants some.
LEAST_GB = 1.5
COMFORT_GB = 4.0
DISK_GB = 2.0  # of the whole course; one run refuses to start below run.NEEDED_MB
NEEDED = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "sacrebleu",
    "matplotlib",
    "PyYAML",
    "psutil",
    "papermill",
)
INSTALL = "pip install -c constraints.txt -e '.[course,comet,lora,slides,test]'"
CU126 = "https://download.pytorch.org/whl/cu126"


class Finding(NamedTuple):
    """name of what was looked at; ok; what was found; fix: what to do ("" where all is well);
    stops: nothing runs until then.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""
    stops: bool = False


def check() -> list[Finding]:
    """All findings, in the order in which they should be mended.

    Never raises: a check that cannot be made is a finding.
    """
    findings = []
    for name, look in CHECKS.items():
        try:
            findings += look(name)
        # torch is broken, or the driver answers with an error
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            found = f"could not be looked at ({type(error).__name__}: {_first_line(error)})"
            fix = (
                "install the locked environment anew: make install, "
                "or pip install -c constraints.txt -e ."
            )
            findings.append(Finding(name, False, found, fix, look is gpu))
    return findings


# -- Python and packages -------------------------------------------------------------------------


def python(name: str) -> list[Finding]:
    """3.11 is what the lock was made with; older ones cannot run kdlib."""
    found = ".".join(map(str, sys.version_info[:3]))
    version = sys.version_info[:2]
    if version < (3, 11):
        fix = (
            "install Python 3.11 and make the environment anew "
            "(environment.yml, or make PYTHON=python3.11)"
        )
        return [Finding(name, False, found, fix, True)]
    if version > (3, 11):
        found += ": newer than the 3.11 that constraints.txt was made for"
    return [Finding(name, True, found)]


def _plain_name(package: str) -> str:
    """As package indexes compare names."""
    return re.sub("[-_.]+", "-", package).lower()


def versions(name: str) -> list[Finding]:
    """Installed packages against constraints.txt; "2.13.0+cu126" counts as 2.13.0.

    Only a missing one that every notebook needs stops.
    """
    installed = {}
    for package in importlib.metadata.distributions():
        if package.metadata["Name"]:
            version = package.version.split("+")[0]
            installed[_plain_name(package.metadata["Name"])] = version
    missing = [package for package in NEEDED if _plain_name(package) not in installed]
    if missing:
        return [Finding(name, False, f"missing: {', '.join(missing)}", INSTALL, True)]
    lock = paths.ROOT / "constraints.txt"
    if not lock.exists():
        found = (
            "all needed packages are there; "
            "without constraints.txt beside kdlib nothing else to compare"
        )
        return [Finding(name, True, found)]
    different = []
    pins = re.findall(r"^([\w.-]+)==([^\s;+]+)", lock.read_text(encoding="utf8"), re.M)
    for package, wanted in pins:
        version = installed.get(_plain_name(package), wanted)
        if version != wanted:
            different.append(f"{package} {version} (lock: {wanted})")
    if not different:
        return [Finding(name, True, "as in constraints.txt")]
    shown = ", ".join(different[:4]) + (", …" if len(different) > 4 else "")
    found = f"{len(different)} differ from constraints.txt: {shown}"
    fix = (
        "kdlib runs on others too, but numbers may differ from the stored ones; "
        f"to have the same: {INSTALL}"
    )
    return [Finding(name, False, found, fix)]


# -- the GPU -------------------------------------------------------------------------------------


def gpu(name: str) -> list[Finding]:
    """Does this build of torch carry code for the GPU? P100 (6.0) and V100 (7.0) are served by the
    cu126 build alone.
    """
    import torch

    cuda = torch.cuda
    if cuda.is_available():
        built = cuda.get_arch_list()
        cards = range(cuda.device_count())
        return [
            _architecture(name, cuda.get_device_name(i), cuda.get_device_capability(i), built)
            for i in cards
        ]
    has_driver = shutil.which("nvidia-smi") is not None
    if has_driver and torch.version.cuda is None:
        found = "an NVIDIA driver is here, but torch is a build without CUDA: the CPU computes"
        fix = (
            f"pip install torch=={torch.__version__.split('+')[0]} from PyTorch's CUDA index; "
            f"for P100 and V100 {CU126}"
        )
        return [Finding(name, False, found, fix)]
    if has_driver and "CUDA_VISIBLE_DEVICES" not in os.environ:
        found = (
            f"torch (CUDA {torch.version.cuda}) sees no GPU although a driver is here: "
            "the CPU computes"
        )
        fix = (
            "on a cluster ask Slurm for one (--gres=gpu:1); else the driver is too old for this "
            f"build: update it, or take {CU126}"
        )
        return [Finding(name, False, found, fix)]
    return [Finding(name, True, "none: the CPU computes")]


def _architecture(name: str, card: str, capability: tuple[int, int], built: list[str]) -> Finding:
    """Machine code (sm_75) runs on its own generation from that minor version on, intermediate code
    (compute_75) on every later GPU.
    """
    major, minor = capability
    found = f"{card}, sm_{major}{minor}"
    for kind, digits in re.findall(r"(sm|compute)_(\d+)", " ".join(built)):
        code = int(digits[:-1]), int(digits[-1])
        if code <= capability and (kind == "compute" or code[0] == major):
            return Finding(name, True, found)
    if capability < (7, 5):
        fix = (
            f"only PyTorch's cu126 builds still serve it: make course TORCH_INDEX={CU126}, "
            f"or pip install torch==2.13.0 --index-url {CU126}"
        )
    else:
        fix = "install a build of torch for a newer CUDA"
    found += f'; this torch is built for {", ".join(built)}: "no kernel image is available"'
    fix += '; until then CUDA_VISIBLE_DEVICES="" lets the CPU compute'
    return Finding(name, False, found, fix, True)


def bf16(name: str) -> list[Finding]:
    """In hardware, not emulated: torch says yes on a V100 unless it is told not to count
    emulation.
    """
    import torch

    if not torch.cuda.is_available():
        return [Finding(name, True, "not needed: a CPU computes in float32")]
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return [Finding(name, True, "in hardware")]
    found = "not in hardware (emulated at best, and slow)"
    fix = (
        "leave dtype at float32, or at auto: models.machine_dtype then takes fp16 over float32 "
        "weights; never dtype=bfloat16 here"
    )
    return [Finding(name, False, found, fix)]


def gpu_memory(name: str) -> list[Finding]:
    """Of each GPU; another process on it is the usual reason for "out of memory"."""
    import torch

    findings = []
    for i in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(i)
        ok = free >= 0.8 * whole
        fix = "another process holds the rest: nvidia-smi names it; shut down old notebook kernels"
        found = f"{free / 1e9:.1f} of {whole / 1e9:.1f} GB free"
        findings.append(Finding(f"{name} {i}", ok, found, "" if ok else fix))
    return findings


# -- main memory, disk, run folder ---------------------------------------------------------------


def memory(name: str) -> list[Finding]:
    """Free for this process: the machine's, or what the job's control group (Slurm) leaves."""
    free = free_gb()
    found = f"{free:.1f} GB free"
    if free >= COMFORT_GB:
        return [Finding(name, True, found)]
    fix = (
        f"the course wants {COMFORT_GB:g} GB: close other programs and kernels, or ask Slurm for "
        f"--mem={COMFORT_GB:.0f}G or more; profile=smoke needs least"
    )
    return [Finding(name, False, found, fix, free < LEAST_GB)]


def free_gb(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """GB that this process may still take: the least of the machine's and of the limits of its
    control groups (version 1 or 2).
    """
    import psutil

    free = [psutil.virtual_memory().available]
    for line in own.read_text().splitlines() if own.exists() else []:
        _, kinds, place = line.split(":", 2)
        if kinds == "":  # version 2
            top, limit, used = groups, "memory.max", "memory.current"
        elif kinds == "memory":
            top, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        here = top / place.strip("/")
        for folder in (here, *here.parents):  # a limit of any group above holds, too
            if not folder.is_relative_to(top) or not (folder / limit).exists():
                continue
            most = (folder / limit).read_text().strip()
            if most != "max":
                free.append(int(most) - int((folder / used).read_text()))
    return max(0, min(free)) / 1e9


def free_disk(place: Path) -> tuple[float, Path]:
    """(GB free where a folder lies or will lie, the nearest folder above that exists)."""
    place = next(p for p in (place, *place.absolute().parents) if p.exists())
    return shutil.disk_usage(place).free / 1e9, place


def disk(name: str) -> list[Finding]:
    """Free where run folders go."""
    free, place = free_disk(paths.runs_root())
    found = f"{free:.1f} GB free under {place}"
    if free >= DISK_GB:
        return [Finding(name, True, found)]
    fix = (
        f"the course wants {DISK_GB:g} GB under {place}, profile full up to 60 GB a run "
        "(doctor --plan): delete old runs (make clean) or set KD_RUNS to another disk"
    )
    return [Finding(name, False, found, fix, free * 1e3 < run.NEEDED_MB)]


def runs(name: str) -> list[Finding]:
    """Can a run write its folder?"""
    try:
        run.writable(paths.runs_root())
    except OSError as error:
        found, _, fix = str(error).partition("; ")
        return [Finding(name, False, found, fix or "set KD_RUNS to a folder of yours", True)]
    return [Finding(name, True, f"{paths.runs_root()} can be written")]


# -- the hub -------------------------------------------------------------------------------------


def hub(name: str) -> list[Finding]:
    """Reachability, then access to the lecture's Llama. None stops: `laptop` needs no network."""
    if offline():
        found = "not asked (HF_HUB_OFFLINE=1): what lies in the cache is all there is"
        return [Finding(name, True, found)]
    try:
        probe_hub(GATED)
    except ConnectionError as error:
        found, _, fix = str(error).partition(". ")
        return [Finding(name, False, found, fix)]
    return [Finding(name, True, "reachable"), _access(f"{name}, {GATED}")]


def _access(name: str) -> Finding:
    from huggingface_hub import auth_check, get_token

    if not get_token():
        return Finding(name, False, "no token on this machine", gated_advice(GATED))
    try:
        auth_check(GATED)
    # requests' or httpx's, by the library's version: none may end the other checks
    except Exception as error:
        kind, text = type(error).__name__, str(error)
        if "Repo" in kind or "401" in text or "403" in text:
            found = f"the token is refused ({kind})"
        else:
            found = f"no answer ({_first_line(error)})"
        return Finding(name, False, found, gated_advice(GATED))
    return Finding(name, True, "access granted")


def _first_line(error) -> str:
    return (str(error).splitlines() or ["no text"])[0]


CHECKS = {
    "Python": python,
    "packages": versions,
    "GPU": gpu,
    "bf16": bf16,
    "memory": memory,
    "GPU memory": gpu_memory,
    "disk": disk,
    "run folder": runs,
    "hub": hub,
}


# -- the command ---------------------------------------------------------------------------------


def main(*, show_plan: bool = False, show_measured: bool = False, gpus: list | None = None) -> int:
    """Print; 1 if something stops the course, else 0."""
    # What cannot be printed is refused first: a misspelt GPU, measuring without a checkout.
    table = plan([_card(text) for text in gpus] if gpus else None) if show_plan or gpus else None
    bench = benchmark("memory") if show_measured else None
    stopped = tell(check())
    if table is not None:
        _print_plan(table)
    if bench:
        print(
            "\nestimate against the measured peak of two real steps, on the CPU, above what the "
            "process held before\n"
        )
        bench.comparison()
    if stopped:
        print(f"\nbefore anything runs, mend: {', '.join(stopped)}")
        return 1
    print("\nnothing here stops the course")
    return 0


def _print_plan(table) -> None:
    """`memory.plan`'s table with a column a GPU; below it what each notebook needs."""
    print(
        "\nLlama-3.2 3B → 1B, 8 rows of 256 tokens, 100 of them learnt, 16-bit autocast: GB, and "
        "where that fits; recipes add up\n"
    )
    rounded = table.round({"total": 1})
    wide = rounded.pivot(index=["recipe", "total"], columns="gpu", values="fits")
    # pivot sorts by name; recipes and GPUs have an order of their own
    wide = wide.loc[table["recipe"].unique(), table["gpu"].unique().tolist()]
    print(wide.reset_index().to_string(index=False))
    print(
        "\nprofile full, a run of each notebook: GB, estimated from published sizes, not measured "
        "on a GPU\n"
    )
    print(room.table().to_string(index=False))


def benchmark(name: str):
    """The module tests/bench/NAME.py. FileNotFoundError where kdlib stands without its tests."""
    folder = paths.ROOT / "tests"
    if not (folder / "bench" / f"{name}.py").exists():
        raise FileNotFoundError(
            f"there is no {folder}/bench/{name}.py: benchmarks lie beside the tests of a checkout "
            "of the course, and nothing else needs them; run this there, or set KD_ROOT to it"
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(f"bench.{name}")


def tell(findings: list[Finding]) -> list[str]:
    """Print findings, each with its fix; the names of those that stop."""
    stopped = []
    for name, ok, found, fix, stops in findings:
        mark = "ok  " if ok else "STOP" if stops else "note"
        print(f"{mark}  {name}: {found}")
        if fix:
            print(f"      → {fix}")
        if stops and not ok:
            stopped.append(name)
    return stopped


def _card(text: str):
    """A number of GB where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text
