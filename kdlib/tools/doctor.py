"""What would stop the course on this machine, and what to do about it.

    for finding in doctor.check():
        print(finding)

As a command: `python -m kdlib doctor`; `--plan` says what fits which GPU, `--measure` sets estimates beside measurements;
`doctor NOTEBOOK` is `ready`'s: what this one notebook needs, as a job asks first.
`doctor.estimate` and `plan` are `kdlib.tools.memory`'s, `measure` and `comparison` `kdlib.tools.measure`'s.
"""
import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..course import run
from . import room
from ..corpora.get import gated_advice, probe_hub
from .measure import comparison, measure  # noqa: F401
from .memory import GPUS, estimate, plan  # noqa: F401

GATED = "meta-llama/Llama-3.2-3B-Instruct"
LEAST_GB, COMFORT_GB = 1.5, 4.0                 # laptop's notebooks peak at 1.4 GB (their records say so), lab's at 2; Jupyter wants some
DISK_GB = 2.0                                   # of the whole course; one run refuses to start below run.NEEDED_MB
NEEDED = ("torch", "transformers", "accelerate", "datasets", "numpy", "pandas", "pyarrow", "scikit-learn", "sacrebleu", "matplotlib",
          "PyYAML", "psutil", "papermill")
CU126 = "https://download.pytorch.org/whl/cu126"


class Finding(NamedTuple):
    """name of what was looked at; ok; what was found; fix: what to do ("" where all is well); stops: nothing runs until then."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    stops: bool = False


def check() -> list[Finding]:
    """All findings, in the order in which they should be mended. Never raises: a check that cannot be made is a finding."""
    findings = []
    for name, look in CHECKS.items():
        try:
            findings += look(name)
        except (ImportError, OSError, RuntimeError, ValueError) as error:                    # torch is broken, the driver answers with an error
            findings.append(Finding(name, False, f"could not be looked at ({type(error).__name__}: {_first_line(error)})",
                                    "install the locked environment anew: make install, or pip install -c constraints.txt -e .", look is gpu))
    return findings


def python(name: str) -> list[Finding]:
    """3.11 is what the lock was made with; older ones cannot run kdlib."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < (3, 11):
        return [Finding(name, False, found, "install Python 3.11 and make the environment anew (environment.yml, or make PYTHON=python3.11)", True)]
    return [Finding(name, True, found + ("" if sys.version_info[:2] == (3, 11) else ": newer than the 3.11 that constraints.txt was made for"))]


def versions(name: str) -> list[Finding]:
    """Installed packages against constraints.txt; "2.13.0+cu126" counts as 2.13.0. Only a missing one that every notebook needs stops."""
    installed = {re.sub("[-_.]+", "-", d.metadata["Name"]).lower(): d.version.split("+")[0] for d in importlib.metadata.distributions()
                 if d.metadata["Name"]}
    key = lambda package: re.sub("[-_.]+", "-", package).lower()
    fix = "pip install -c constraints.txt -e '.[course,comet,lora,test]'"
    if missing := [package for package in NEEDED if key(package) not in installed]:
        return [Finding(name, False, f"missing: {', '.join(missing)}", fix, True)]
    lock = paths.ROOT / "constraints.txt"
    if not lock.exists():
        return [Finding(name, True, "all needed packages are there; without constraints.txt beside kdlib nothing else to compare")]
    wanted = dict(re.findall(r"^([\w.-]+)==([^\s;+]+)", lock.read_text(encoding="utf8"), re.M))
    other = [f"{p} {installed[key(p)]} (lock: {v})" for p, v in wanted.items() if key(p) in installed and installed[key(p)] != v]
    if not other:
        return [Finding(name, True, "as in constraints.txt")]
    return [Finding(name, False, f"{len(other)} differ from constraints.txt: {', '.join(other[:4])}{', …' if len(other) > 4 else ''}",
                    f"kdlib runs on others too, but numbers may differ from the stored ones; to have the same: {fix}")]


def gpu(name: str) -> list[Finding]:
    """Does this build of torch carry code for the GPU? P100 (6.0) and V100 (7.0) are served by the cu126 build alone."""
    import torch
    driver = shutil.which("nvidia-smi") is not None
    if not torch.cuda.is_available():
        if driver and torch.version.cuda is None:
            return [Finding(name, False, "an NVIDIA driver is here, but torch is a build without CUDA: the CPU computes",
                            f"pip install torch=={torch.__version__.split('+')[0]} from PyTorch's CUDA index; for P100 and V100 {CU126}")]
        if driver and "CUDA_VISIBLE_DEVICES" not in os.environ:
            return [Finding(name, False, f"torch (CUDA {torch.version.cuda}) sees no GPU although a driver is here: the CPU computes",
                            f"on a cluster ask Slurm for one (--gres=gpu:1); else the driver is too old for this build: update it, or take {CU126}")]
        return [Finding(name, True, "none: the CPU computes")]
    return [_architecture(name, torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i), torch.cuda.get_arch_list())
            for i in range(torch.cuda.device_count())]


def _architecture(name: str, card: str, capability: tuple[int, int], built: list[str]) -> Finding:
    """Machine code (sm_75) runs on its own generation from that minor version on, intermediate code (compute_75) on every later GPU."""
    codes = [(kind, (int(digits[:-1]), int(digits[-1]))) for kind, digits in re.findall(r"(sm|compute)_(\d+)", " ".join(built))]
    fits = any(code <= capability and (kind == "compute" or code[0] == capability[0]) for kind, code in codes)
    found = f"{card}, sm_{capability[0]}{capability[1]}"
    if fits:
        return Finding(name, True, found)
    old = f"only PyTorch's cu126 builds still serve it: make course TORCH_INDEX={CU126}, or pip install torch==2.13.0 --index-url {CU126}"
    return Finding(name, False, f"{found}; this torch is built for {', '.join(built)}: \"no kernel image is available\"",
                   (old if capability < (7, 5) else "install a build of torch for a newer CUDA") + '; until then CUDA_VISIBLE_DEVICES="" lets the CPU compute', True)


def bf16(name: str) -> list[Finding]:
    """In hardware, not emulated: torch says yes on a V100 unless it is told not to count emulation."""
    import torch
    if not torch.cuda.is_available():
        return [Finding(name, True, "not needed: a CPU computes in float32")]
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return [Finding(name, True, "in hardware")]
    return [Finding(name, False, "not in hardware (emulated at best, and slow)",
                    "leave dtype at float32, or at auto: models.machine_dtype then takes fp16 over float32 weights; never dtype=bfloat16 here")]


def memory(name: str) -> list[Finding]:
    """Free for this process: the machine's, or what the job's control group leaves of it (Slurm)."""
    free = free_gb()
    found, tight = f"{free:.1f} GB free", free < COMFORT_GB
    fix = f"the course wants {COMFORT_GB:g} GB: close other programs and kernels, or ask Slurm for --mem={COMFORT_GB:.0f}G or more; profile=smoke needs least"
    return [Finding(name, not tight, found, fix if tight else "", free < LEAST_GB)]


def gpu_memory(name: str) -> list[Finding]:
    """Of each GPU; another process on it is the usual reason for "out of memory"."""
    import torch
    findings = []
    for i in range(torch.cuda.device_count()):
        free, whole = (n / 1e9 for n in torch.cuda.mem_get_info(i))
        busy = free < 0.8 * whole
        findings.append(Finding(f"{name} {i}", not busy, f"{free:.1f} of {whole:.1f} GB free",
                                "another process holds the rest: nvidia-smi names it; shut down old notebook kernels" if busy else ""))
    return findings


def free_gb(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """GB that this process may still take: the least of the machine's and of the limits of its control groups (version 1 or 2)."""
    import psutil
    free = [psutil.virtual_memory().available]
    for line in own.read_text().splitlines() if own.exists() else []:
        _, kinds, place = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        top, limit, used = (groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else (groups, "memory.max", "memory.current")
        here = top / place.strip("/")
        for folder in (here, *here.parents):
            if folder.is_relative_to(top) and (folder / limit).exists() and (most := (folder / limit).read_text().strip()) != "max":
                free.append(int(most) - int((folder / used).read_text()))
    return max(0, min(free)) / 1e9


def disk(name: str) -> list[Finding]:
    """Free where run folders go."""
    place = next(p for p in (paths.runs_root(), *paths.runs_root().absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    fix = f"the course wants {DISK_GB:g} GB under {place}, profile full up to 60 GB a run (doctor --plan): delete old runs (make clean) or set KD_RUNS to another disk"
    return [Finding(name, free >= DISK_GB, f"{free:.1f} GB free under {place}", "" if free >= DISK_GB else fix, free * 1e3 < run.NEEDED_MB)]


def runs(name: str) -> list[Finding]:
    """Can a run write its folder?"""
    try:
        run.writable(paths.runs_root())
        return [Finding(name, True, f"{paths.runs_root()} can be written")]
    except OSError as error:
        found, _, fix = str(error).partition("; ")
        return [Finding(name, False, found, fix or "set KD_RUNS to a folder of yours", True)]


def hub(name: str) -> list[Finding]:
    """Reachability, then access to the lecture's Llama. Neither stops: `laptop` needs no network."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return [Finding(name, True, "not asked (HF_HUB_OFFLINE=1): what lies in the cache is all there is")]
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
    except Exception as error:                  # requests' or httpx's, by the library's version: none may end the other checks
        refused = "Repo" in type(error).__name__ or "401" in str(error) or "403" in str(error)
        return Finding(name, False, f"the token is refused ({type(error).__name__})" if refused else f"no answer ({_first_line(error)})", gated_advice(GATED))
    return Finding(name, True, "access granted")


def _first_line(error) -> str:
    return (str(error).splitlines() or ["no text"])[0]


CHECKS = {"Python": python, "packages": versions, "GPU": gpu, "bf16": bf16, "memory": memory, "GPU memory": gpu_memory, "disk": disk, "run folder": runs, "hub": hub}


def main(*, show_plan: bool = False, show_measured: bool = False, gpus: list | None = None) -> int:
    """Print; 1 if something stops the course, else 0."""
    table = plan([_card(g) for g in gpus] if gpus else None) if show_plan or gpus else None             # a misspelt GPU is refused first
    stopped = tell(check())
    if table is not None:
        print("\nLlama-3.2 3B → 1B, 8 rows of 256 tokens, 100 of them learnt, 16-bit autocast: GB, and where that fits; recipes add up\n")
        wide = table.round({"total": 1}).pivot(index=["recipe", "total"], columns="gpu", values="fits")
        print(wide.loc[table["recipe"].unique()][list(table["gpu"].unique())].reset_index().to_string(index=False))
        print("\nprofile full, a run of each notebook: GB, estimated from published sizes, not measured on a GPU\n")
        print(room.table().to_string(index=False))
    if show_measured:
        print("\nestimate against the measured peak of two real steps, on the CPU, above what the process held before\n")
        comparison()
    print(f"\nbefore anything runs, mend: {', '.join(stopped)}" if stopped else "\nnothing here stops the course")
    return 1 if stopped else 0


def tell(findings: list[Finding]) -> list[str]:
    """Print findings, each with its fix; the names of those that stop."""
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'STOP' if finding.stops else 'note'}  {finding.name}: {finding.found}")
        if finding.fix:
            print(f"      → {finding.fix}")
    return [finding.name for finding in findings if finding.stops and not finding.ok]


def _card(text: str):
    """A number of GB where the text is one."""
    try:
        return float(text)
    except ValueError:
        return text
