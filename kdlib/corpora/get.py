"""Real rows, human votes and a small pretrained BERT: pinned, checked by SHA-256, resumable.

    python -m kdlib get real                     # from the network, once
    python -m kdlib get real --from FOLDER       # from a local copy of the same layout

They land in `$KD_REAL`, or in the user's cache where that is unset. Nothing in the course needs
them, and nothing looks for them behind your back: they are used when a profile or parameter names
them.
"""

import http.client
import shutil
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from ..engine import hub, hub_errors
from ..engine.hub import how_to_make, local_copy  # noqa: F401
from ..engine.pinned import REAL, File
from ..paths import real_folder, sha256

TIMEOUT = 30  # seconds for an answer


def get_real(parts: list[str] | None = None, source: Path | None = None) -> Path:
    """Fetch (or copy from `source`) the named parts of `REAL`, all by default; files that are there
    and right are kept.

    Raises ValueError for a wrong checksum or an unknown part, ConnectionError with advice when the
    network is closed, NotADirectoryError for a source that is none.
    """
    parts = parts or list(REAL)
    if unknown := set(parts) - set(REAL):
        raise ValueError(f"no part {', '.join(sorted(unknown))}; there are {', '.join(REAL)}")
    if source is not None and not Path(source).is_dir():
        raise NotADirectoryError(f"--from {source}: there is no such folder")
    root = real_folder()
    for part in parts:
        for file in REAL[part]:
            target = root / file.path
            if target.exists() and _right(target, file):
                print(f"{part:9s} {file.path}: already here")
                continue
            _bring(file, source, target)
            print(f"{part:9s} {file.path}: {target.stat().st_size / 1e6:.1f} MB")
    print(f"real rows are in {root}")
    return root


def _bring(file: File, source: Path | None, target: Path) -> None:
    """A file gets its name only when it is whole and right; until then it lies beside it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    if source is None:
        _download(file.url, unfinished)
    elif (Path(source) / file.path).is_file():
        shutil.copyfile(Path(source) / file.path, unfinished)
    else:
        raise FileNotFoundError(
            f"{source} has no {file.path}: --from takes a folder of the hub's layout"
        )
    if not _right(unfinished, file):
        other = sha256(unfinished)
        unfinished.unlink()
        raise ValueError(
            f"{file.path}: SHA-256 is {other}, expected {file.sha256}. The file was not kept; "
            "fetch it again, or the source has changed."
        )
    unfinished.replace(target)


def _right(path: Path, file: File) -> bool:
    return path.stat().st_size > 0 and (not file.sha256 or sha256(path) == file.sha256)


# -- the network ---------------------------------------------------------------------------------


def _download(url: str, unfinished: Path) -> None:
    """As patient as `hub` is with what may pass; ConnectionError for what does not."""
    hub.patiently(partial(_go_on, url, unfinished), partial(_explain, url))


def _go_on(url: str, unfinished: Path) -> None:
    """From where an earlier try stopped (HTTP Range); a server that ignores Range starts the file
    anew.
    """
    have = unfinished.stat().st_size if unfinished.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            with open(unfinished, "ab" if answer.status == 206 else "wb") as out:
                whole = out.tell() + int(answer.headers.get("Content-Length") or 0)
                shutil.copyfileobj(answer, out)
                got = out.tell()
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is already the whole file; its hash decides
            return
        raise
    if got < whole:  # a connection that breaks off looks like the file's end
        raise ConnectionError(
            f"{url}: the connection broke off after {got / 1e6:.1f} of {whole / 1e6:.1f} MB. "
            "Run the command again: it goes on from there."
        )


def _explain(url: str, error: Exception) -> Exception:
    if isinstance(error, urllib.error.HTTPError):
        return ConnectionError(f"{url}: {error}")
    if type(error) is ConnectionError:  # `_go_on`'s own
        return error
    if isinstance(error, (OSError, http.client.HTTPException)):
        return ConnectionError(offline_advice(url, error))
    return error


def probe_hub(source: str | Path, timeout: float = hub.PROBE_TIMEOUT) -> None:
    """ConnectionError within seconds, with what to do, when the hub cannot be reached;
    FileNotFoundError for a path.

    With HF_HUB_OFFLINE nothing is asked: the library then looks into its cache and nowhere else.
    """
    if hub.is_path(source):
        raise FileNotFoundError(f"there is no folder {source}{hub.how_to_make(source)}")
    if hub.offline():
        return
    try:
        hub.probe(timeout)
    except ConnectionError as error:
        raise ConnectionError(offline_advice(source, error)) from error


def offline_advice(source, error) -> str:
    """What failed, and what to do about it."""
    return (
        f"{source} could not be loaded ({hub_errors.reason(error)}). Without network: stay with "
        "profile=laptop (its data ship with the course), or put a copy of the same layout under "
        f"{real_folder()} (KD_REAL=FOLDER, or `python -m kdlib get real --from FOLDER` on a "
        "machine that has one). On a cluster fetch first, on the login node: python -m kdlib get "
        "PROFILE NN; on its compute nodes load the module that sets their HTTP proxy."
    )


def gated_advice(source) -> str:
    """How to get at a repository that asks for consent first, and what to take instead."""
    return (
        f"{source} is gated: its owner asks you to accept a licence first. Do that at "
        f"{hub.endpoint()}/{source} (minutes to a day), make a token at {hub_errors.SETTINGS}, and "
        "give it with `hf auth login` or as HF_TOKEN=…. Without access: "
        "unsloth/Llama-3.2-3B-Instruct and unsloth/Llama-3.2-1B are copies that others publish, "
        "under the same licence."
    )
