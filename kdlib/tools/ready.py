"""Is this machine ready for this notebook? A job asks first, before any training: `python -m kdlib
doctor 07 --profile full --need-gpu` takes seconds, and what it refuses would have failed in hours.

    for finding in ready.check("07_eurollama_distil", "full", need_gpu=True):
        print(finding)

How much it needs is `room`'s arithmetic, where its models come from `needs`' list; the findings are
`doctor`'s.
"""

from pathlib import Path

from ..course import needs
from ..course.notebooks import notebook_path
from ..course.run import run_folder, settings_of
from . import doctor, room
from .doctor import Finding

ANYWAY = "or take the lines with doctor out of the job's script, and try"


def check(
    notebook: str, profile: str = "", parameters: dict | None = None, *, need_gpu: bool = False
) -> list[Finding]:
    """The findings. ValueError for a profile or a parameter that does not fit, FileNotFoundError
    for no such notebook; a check that cannot be made is a finding.
    """
    name = notebook_path(notebook).stem
    given = dict(parameters or {})
    seed = given.pop("seed", 0)
    run_dir = given.pop("run_dir", "")
    settings = settings_of(name, profile, **given)
    need = room.of(name, settings)
    profile = settings.pop("profile")
    folder = run_folder(name, profile, seed, settings, run_dir)
    looks = {
        "GPU": (gpu, need, need_gpu),
        "memory": (memory, need),
        "disk": (disk, need, folder),
        "run folder": (doctor.runs, "run folder"),
        "models and data": (sources, name, profile, settings),
    }
    findings = []
    for what, (look, *about) in looks.items():
        try:
            findings += look(*about)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            found = f"could not be looked at ({type(error).__name__}: {error})"
            fix = (
                "install the locked environment anew (make install), then see python -m kdlib "
                "doctor"
            )
            findings.append(Finding(what, False, found, fix, what == "GPU"))
    return findings


def gpu(need: room.Room, need_gpu: bool) -> list[Finding]:
    """Does torch see a GPU and serve it, and is it large enough? Without one the CPU computes: that
    stops a job that asked for a GPU.
    """
    import torch

    findings = doctor.gpu("GPU")
    if not torch.cuda.is_available():
        if not need_gpu:
            return findings
        fix = findings[0].fix or "look at --gres in the script, and at nvidia-smi on the node"
        found = f"torch sees none, although this job should have one ({findings[0].found})"
        return [Finding("GPU", False, found, fix, True)]
    sizes = [torch.cuda.mem_get_info(i)[1] for i in range(torch.cuda.device_count())]
    size = min(sizes) / 1e9
    found = f"{size:.0f} GB, and about {need.gpu:.0f} are needed"
    fits = need.gpu <= size
    if not fits:
        fix = (
            "ask for a larger card (--gres), or for less: lora_rank=16, a smaller batch_size; "
            + ANYWAY
        )
    elif need.gpu > 0.85 * size:
        fix = "it may just fit: the estimate is no better than 15 %"
    else:
        fix = ""
    if need.gpu:
        findings.append(Finding("GPU memory", not fix, found, fix, not fits))
    return findings


def memory(need: room.Room) -> list[Finding]:
    """Main memory that is left for this job."""
    free = doctor.free_gb()
    found = f"{free:.1f} GB free, and about {need.memory:.0f} are needed"
    if free >= need.memory:
        return [Finding("memory", True, found)]
    fix = f"ask Slurm for --mem={need.memory * 1.25:.0f}G"
    return [Finding("memory", False, found, fix, free < doctor.LEAST_GB)]


def disk(need: room.Room, folder: Path) -> list[Finding]:
    """Room for the run, less what an earlier part of the same run has written already."""
    free, place = doctor.free_disk(folder)
    here = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e9
    found = f"{free:.1f} GB free under {place}, and about {need.disk:.0f} are needed"
    if free + here >= need.disk:
        return [Finding("disk", True, found + " (a quota is not seen here)")]
    fix = "delete old runs, or set KD_RUNS to a place with more room"
    return [Finding("disk", False, found, fix, True)]


def sources(notebook: str, profile: str, settings: dict) -> list[Finding]:
    """Every source that the settings name is on this machine, in the hub's cache, or to be had from
    the hub with this machine's login. It is what a run asks first, too (`needs.check`).
    """
    try:
        found = needs.check(notebook, profile, settings)
    except OSError as error:
        cause, _, todo = str(error).partition(". ")
        return [Finding("models and data", False, cause, todo or "see this message", True)]
    return [Finding(role, True, how) for role, how in found.items()]


def main(notebook: str, profile: str, parameters: dict, *, need_gpu: bool) -> int:
    """Print the findings; 1 if one of them stops the notebook, else 0."""
    stopped = doctor.tell(check(notebook, profile, parameters, need_gpu=need_gpu))
    if stopped:
        print(f"\nbefore this notebook runs here, mend: {', '.join(stopped)}")
    return 1 if stopped else 0
