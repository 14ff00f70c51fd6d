"""What computed a result: versions, commit, memory. A record without them can't be compared."""

import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path

from ..paths import ROOT

LIBRARIES = ("torch", "transformers", "datasets", "numpy", "kdlib")


def versions() -> dict[str, str]:
    """The versions that can move a number."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        # kdlib itself is not installed where it is run from a checkout.
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def commit() -> str:
    """The repository's commit, with "+" when files were changed since; "" outside a checkout."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        if head.returncode != 0:
            return ""
        is_changed = bool(_git("status", "--porcelain", "kdlib", "notebooks").stdout)
        return head.stdout.strip() + ("+" if is_changed else "")
    except OSError:  # no git
        return ""


def _git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)


def peak_memory_gb() -> float:
    """The most memory this process has held, in GB."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux: `ru_maxrss` begins with what the *parent* held when it started this process
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if peak:
            return int(peak[1]) * 1024 / 1e9
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on a Mac, kilobytes on Linux
    return peak * unit / 1e9
