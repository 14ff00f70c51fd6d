"""Is this machine ready for this notebook? A job asks first, before any training: `python -m kdlib
doctor 07 --profile full --need-gpu` takes seconds, and what it refuses would have failed in hours.

    for finding in ready.check("07_eurollama_distil", "full", need_gpu=True):
        print(finding)

What the notebook needs is `needs`' arithmetic; the findings are `doctor`'s.
"""

import json
import os
import shutil
from pathlib import Path

from . import batch, doctor, needs, paths
from .doctor import Finding
from .get import gated_advice, local_copy, probe_hub
from .run import run_folder, settings_of

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".parquet", ".model", "tokenizer.json")
ANYWAY = "or take the lines with doctor out of the job's script, and try"


def check(
    notebook: str, profile: str = "", parameters: dict | None = None, *, need_gpu: bool = False
) -> list[Finding]:
    """The findings. ValueError for a profile or a parameter that does not fit, FileNotFoundError
    for no such notebook; a check that cannot be made is a finding.
    """
    name, given = batch.notebook_path(notebook).stem, dict(parameters or {})
    seed, run_dir = given.pop("seed", 0), given.pop("run_dir", "")
    settings = settings_of(name, profile, **given)
    need = needs.of(name, settings)
    profile = settings.pop("profile")
    folder = run_folder(name, profile, seed, settings, run_dir)
    looks = {
        "GPU": lambda: gpu(need, need_gpu),
        "memory": lambda: memory(need),
        "disk": lambda: disk(need, folder),
        "run folder": lambda: doctor.runs("run folder"),
        "models and data": lambda: repositories(need, name, profile),
    }
    findings = []
    for what, look in looks.items():
        try:
            findings += look()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            found = f"could not be looked at ({type(error).__name__}: {error})"
            fix = "install the locked environment anew (make install), then see python -m kdlib doctor"
            findings.append(Finding(what, False, found, fix, what == "GPU"))
    return findings


def gpu(need: needs.Needs, need_gpu: bool) -> list[Finding]:
    """Does torch see a GPU and serve it, and is it large enough? Without one the CPU computes: that
    stops a job that asked for a GPU.
    """
    import torch

    findings = doctor.gpu("GPU")
    if not torch.cuda.is_available():
        if not need_gpu:
            return findings
        fix = findings[0].fix or "look at --gres in the script, and at nvidia-smi on the node"
        found = "torch sees none, although this job should have one"
        return [Finding("GPU", False, f"{found} ({findings[0].found})", fix, True)]
    size = min(torch.cuda.mem_get_info(i)[1] for i in range(torch.cuda.device_count())) / 1e9
    found = f"{size:.0f} GB, and about {need.gpu:.0f} are needed"
    if need.gpu > size:
        fix = "ask for a larger card (--gres), or for less: lora_rank=16, a smaller batch_size; "
        findings.append(Finding("GPU memory", False, found, fix + ANYWAY, True))
    elif need.gpu > 0.85 * size:
        fix = "it may just fit: the estimate is no better than 15 %"
        findings.append(Finding("GPU memory", False, found, fix))
    elif need.gpu:
        findings.append(Finding("GPU memory", True, found))
    return findings


def memory(need: needs.Needs) -> list[Finding]:
    """Main memory that is left for this job."""
    free = doctor.free_gb()
    found = f"{free:.1f} GB free, and about {need.memory:.0f} are needed"
    if free >= need.memory:
        return [Finding("memory", True, found)]
    fix = f"ask Slurm for --mem={need.memory * 1.25:.0f}G"
    return [Finding("memory", False, found, fix, free < doctor.LEAST_GB)]


def disk(need: needs.Needs, folder: Path) -> list[Finding]:
    """Room for the run, less what an earlier part of the same run has written already."""
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free / 1e9
    here = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9
    found = f"{free:.1f} GB free under {place}, and about {need.disk:.0f} are needed"
    if free + here >= need.disk:
        return [Finding("disk", True, found + " (a quota is not seen here)")]
    fix = "delete old runs, or set KD_RUNS to a place with more room"
    return [Finding("disk", False, found, fix, True)]


def repositories(need: needs.Needs, notebook: str, profile: str) -> list[Finding]:
    """What the notebook loads from the hub: in the cache, or at least to be had."""
    missing = [source for source in need.downloads if not cached(source, notebook)]
    findings = [
        Finding(source, True, "in the cache") for source in need.downloads if source not in missing
    ]
    fetch = f"fetch it on a login node first: python -m kdlib get {profile} {notebook[:2]}"
    if missing and _offline():
        found = "not in the cache, and HF_HUB_OFFLINE is set"
        return findings + [Finding(source, False, found, fetch, True) for source in missing]
    for source in missing:
        findings.append(_reachable(source, need.downloads[source], fetch))
    return findings


def _reachable(source: str, size: float, fetch: str) -> Finding:
    """Can it be had from the hub, with this machine's token?"""
    from huggingface_hub import auth_check

    try:
        probe_hub(source)
    except ConnectionError as error:
        found = f"not in the cache, and the hub does not answer: {str(error).partition('. ')[0]}"
        return Finding(source, False, found, fetch, True)
    try:
        auth_check(source, repo_type="dataset" if source in needs.DATASETS else "model")
    except Exception as error:  # of requests or httpx, by the library's version
        refused = "Repo" in type(error).__name__ or "401" in str(error) or "403" in str(error)
        found = f"not in the cache, and refused ({type(error).__name__})"
        fix = gated_advice(source) if refused else fetch
        return Finding(source, False, found, fix, refused)
    return Finding(source, False, f"not in the cache: about {size:.1f} GB will be fetched", fetch)


def _offline() -> bool:
    return (os.environ.get("HF_HUB_OFFLINE") or "").upper() in ("1", "ON", "YES", "TRUE")


def cached(source: str, notebook: str = "") -> bool:
    """Does a whole copy lie in the user's real rows, or in the hub's cache? Files that an index
    names count; a download that broke off leaves no file under its name.
    """
    from huggingface_hub import constants

    part = needs.DATASETS.get(source, "")
    if source == "nyu-mll/glue" and notebook.startswith("05"):
        part = "qqp"  # a cache that holds MNLI alone does not help notebook 05
    copy = local_copy(source)
    if copy and any((copy / part).glob("*")):
        return True
    kind = "datasets" if source in needs.DATASETS else "models"
    folder = Path(constants.HF_HUB_CACHE) / f"{kind}--{source.replace('/', '--')}" / "snapshots"
    return any(_whole(snapshot / part) for snapshot in folder.glob("*"))


def _whole(snapshot: Path) -> bool:
    for index in snapshot.glob("*.safetensors.index.json"):
        named = json.loads(index.read_text(encoding="utf8"))["weight_map"].values()
        if not all((snapshot / name).exists() for name in named):
            return False
    return any(p.name.endswith(WEIGHTS) and p.exists() for p in snapshot.rglob("*"))


def main(notebook: str, profile: str, parameters: dict, *, need_gpu: bool) -> int:
    """Print the findings; 1 if one of them stops the notebook, else 0."""
    stopped = doctor.tell(check(notebook, profile, parameters, need_gpu=need_gpu))
    if stopped:
        print(f"\nbefore this notebook runs here, mend: {', '.join(stopped)}")
    return 1 if stopped else 0


def table(profile: str = "full"):
    """What each notebook needs under a profile, as a DataFrame: notebook, GPU, memory, disk and
    downloads in GB. Notebooks that need little are left out.
    """
    import pandas as pd

    rows = []
    for name in batch.COURSE:
        need = needs.of(name, settings_of(name, profile))
        if need.downloads:
            rows.append(
                {
                    "notebook": name,
                    "GPU": round(need.gpu),
                    "main memory": round(need.memory),
                    "disk": round(need.disk),
                    "downloads": round(sum(need.downloads.values()), 1),
                }
            )
    return pd.DataFrame(rows)
