"""What goes wrong on the way from the hub, said so that the reader can mend it.

The cause and what to do stand in the first 300 characters of every message: tables and logs cut the
rest. All are OSErrors, and carry the short `cause`.
"""

import errno
import os
import re
import urllib.error

from ..paths import did_you_mean, real_folder

SETTINGS = "https://huggingface.co/settings/tokens"
MAY_PASS = (429, 500, 502, 503, 504)
# By name: requests', httpx's and urllib3's own, of which one or another is installed.
BROKEN_OFF = (
    "ChunkedEncodingError",
    "IncompleteRead",
    "ProtocolError",
    "RemoteProtocolError",
    "ReadError",
    "ReadTimeout",
    "ConnectionResetError",
    "Damaged",
    "ConnectionError",
)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
DAMAGED = ("Consistency check failed", "another SHA-256", "416")
COPIES = {
    "meta-llama/Llama-3.2-3B-Instruct": "unsloth/Llama-3.2-3B-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct": "unsloth/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-1B": "unsloth/Llama-3.2-1B",
}


class HubError(ConnectionError):
    """Something on the way from the hub; `cause` is the message's first clause."""

    def __init__(self, cause: str, rest: str = "", text: str = ""):
        super().__init__(text or f"{cause}. {rest}".strip())
        self.cause = cause


class NotAllowed(HubError, PermissionError):
    """A token is missing, refused, or has no access."""


class NotFound(HubError, FileNotFoundError):
    """No such repository, revision or file."""


class NotHere(HubError):
    """Not in the cache, and the hub cannot be asked; `why` says why not."""

    why = ""


class Damaged(OSError):
    """A file arrived otherwise than the hub says it is."""


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


# -- reading what the libraries raise ------------------------------------------------------------


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and what it was raised from."""
    found = []
    # `not in found`: two errors can name each other, and the walk would not end.
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _status(error: BaseException) -> tuple[int, dict]:
    """(status, headers) of the answer that an error, or one of its causes, is about; (0, {}) for
    none.
    """
    for one in _chain(error):
        if isinstance(one, urllib.error.HTTPError):
            return one.code, one.headers
        answer = getattr(one, "response", None)
        if answer is not None:
            return answer.status_code, answer.headers
    return 0, {}


def reason(error: BaseException) -> str:
    """The innermost reason in a few words: "Connection refused", "timed out"."""
    texts = [str(one) for one in _chain(error)]
    # The innermost says what happened; those around it say only that a request failed.
    for text in reversed(texts):
        if found := re.search(r"\[Errno -?\d+\] ([^'\")]+)", text):
            return found[1].strip(" :")
    text = next((t for t in reversed(texts) if t), "")
    if "timed out" in text.lower():
        return "timed out"
    return f"{type(error).__name__}: {text.splitlines()[0][:100]}" if text else type(error).__name__


def _numbers(error: BaseException) -> set[int]:
    return {one.errno for one in _chain(error) if isinstance(one, OSError) and one.errno}


def _type_names(error: BaseException) -> set[str]:
    return {type(one).__name__ for one in _chain(error)}


def may_pass(error: BaseException) -> bool:
    """Is the same request worth another try?"""
    status, _ = _status(error)
    if status:
        return status in MAY_PASS or (status == 416 and is_damaged(error))
    # Asking again frees no disk and opens no port.
    if _numbers(error) & (DISK_FULL | CLOSED | {errno.ECONNREFUSED}):
        return False
    names = _type_names(error)
    if names & {"ProxyError", "SSLError", "OfflineModeIsEnabled"}:
        return False
    return bool(names.intersection(BROKEN_OFF)) or is_damaged(error)


def is_damaged(error: BaseException) -> bool:
    """Did the content itself prove wrong, so that going on from what there is cannot help?"""
    return any(mark in str(error) for mark in DAMAGED)


def retry_after(error: BaseException) -> float:
    """The seconds that a 429 or 503 asks to wait; 0 where it does not say."""
    told = str(_status(error)[1].get("Retry-After", ""))
    # The header may also hold a date; then our own waits do.
    return float(told) if told.isdigit() else 0.0


def reworded(error: OSError, text: str) -> OSError:
    """The same kind of error with another text."""
    return type(error)(error.cause, text=text) if isinstance(error, HubError) else type(error)(text)


# -- saying it -----------------------------------------------------------------------------------


def explain(error: BaseException, repository, cache, *, file: str = "", known=()) -> OSError:
    """The OSError that says what happened to which repository, and what to do."""
    if isinstance(error, HubError):
        return error
    status, headers = _status(error)
    names = _type_names(error)
    code, asked = headers.get("X-Error-Code", ""), repository.named
    if _numbers(error) & DISK_FULL:
        return disk_full(cache, asked, file=file)
    if _numbers(error) & CLOSED:
        return cannot_write(cache, error, asked)
    # Before the plain 401 and 403 below: a gated repository answers with these numbers too.
    if "GatedRepoError" in names or code == "GatedRepo":
        return _gated(repository.id, refused=status == 401)
    # The hub says 401 also for a repository that does not exist, so as not to tell which private
    # ones do.
    if status == 401 and _token() and code != "RepoNotFound":
        return _bad_token(repository.id)
    if "RevisionNotFoundError" in names or code == "RevisionNotFound":
        return _no_revision(repository)
    if "RepositoryNotFoundError" in names or code == "RepoNotFound" or status == 401:
        return _no_repository(repository, known)
    if status == 404:
        return NotFound(
            f"{asked} has no file {file or 'of that name'}",
            "Its layout has changed: pin an older revision with @.",
        )
    if status == 403:
        return _no_access(repository.id)
    if status == 429:
        return HubError(
            f"the hub has too many requests from here (429), asked for {asked}",
            "Wait some minutes and run the same command again: it goes on. A token (`hf auth "
            "login`) raises the limit; several jobs at once share it, so fetch before them: "
            "python -m kdlib get PROFILE NN.",
        )
    if status >= 500:
        return HubError(
            f"the hub is out of order just now ({status}), asked for {asked}",
            "Run the same command again in some minutes: it goes on, and what is fetched already "
            "is kept. https://status.huggingface.co tells more.",
        )
    if is_damaged(error):
        return HubError(
            f"{file or 'a file'} of {asked} arrived damaged, several times",
            "Nothing of it was kept. Run the same command again; if it persists, a proxy alters "
            f"it. ({reason(error)})",
        )
    return _cut_off(error, asked, file)


def _cut_off(error: BaseException, asked: str, file: str) -> HubError:
    if file:
        return HubError(
            f"the connection broke off while {file} of {asked} was fetched",
            f"Run the same command again: it goes on from there. ({reason(error)})",
        )
    return HubError(
        f"the hub did not answer properly about {asked} ({reason(error)})",
        "Run the same command again. On a compute node, load the module that sets its proxy, or "
        "fetch on the login node first: python -m kdlib get PROFILE NN.",
    )


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _instead(name: str) -> str:
    if name not in COPIES:
        return ""
    return f"Without access: {COPIES[name]}, a copy that others publish under the same licence."


def _gated(name: str, refused: bool) -> NotAllowed:
    if refused and _token():
        return _bad_token(name)
    return _no_access(name) if _token() else _no_token(name)


def _no_token(name: str) -> NotAllowed:
    return NotAllowed(
        f"{name} is gated, and there is no token on this machine",
        f"Accept its licence at {endpoint()}/{name}, make a token at {SETTINGS}, and give it with "
        f"`hf auth login` or as HF_TOKEN=…. {_instead(name)}",
    )


def _no_access(name: str) -> NotAllowed:
    return NotAllowed(
        f"{name} is gated, and your account has no access to it yet",
        f"Accept its licence at {endpoint()}/{name} (granted in minutes to a day; a fine-grained "
        f"token must be allowed to read gated repositories), then run again. {_instead(name)}",
    )


def _bad_token(name: str) -> NotAllowed:
    origin = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "`hf auth login`"
    return NotAllowed(
        f"the hub refuses your token (401, from {origin}), asked for {name}",
        f"Make a new one at {SETTINGS} and give it with `hf auth login`"
        + (", and unset HF_TOKEN, which goes first." if origin == "HF_TOKEN" else "."),
    )


def _no_revision(repository) -> NotFound:
    kind = "datasets/" if repository.type == "dataset" else ""
    return NotFound(
        f"{repository.id} has no revision {repository.revision or 'main'!r}",
        f"Take a commit, tag or branch from {endpoint()}/{kind}{repository.id}/commits/main, or "
        "leave the @ out for the newest.",
    )


def _no_repository(repository, known) -> NotFound:
    token = "" if _token() else " A private one needs a token, too (`hf auth login`)."
    return NotFound(
        f"the hub has no {repository.type} {repository.id}{did_you_mean(repository.id, known)}",
        f"Check the spelling: owner/name, as in the address {endpoint()}/….{token}",
    )


def other_layout(repository, missing: str) -> NotFound:
    """For a repository that lacks what its kind is read from."""
    return NotFound(
        f"{repository.named} cannot be read as {repository.kind}: {missing}",
        "Name another repository or revision, or a folder that holds these files.",
    )


def changed(repository) -> HubError:
    """For a repository whose newest commit moved between the listing and the download."""
    return HubError(
        f"{repository.named} was changed while it was fetched", "Run the same command again."
    )


def not_here(repository, cache, why: str) -> NotHere:
    """For a repository that is not in the cache, whole, while the hub cannot be asked."""
    error = NotHere(
        f"{repository.named} ({repository.kind}) is not in the cache, and {why}",
        "Fetch first, where there is a network (a cluster's login node): python -m kdlib get "
        "PROFILE NN. On a compute node, load the module that sets its proxy. Without any "
        f"network: profile=laptop, or a copy of the same layout under {real_folder()} "
        f"(KD_REAL=FOLDER). The cache is {cache}.",
    )
    error.why = why
    return error


def disk_full(cache, asked: str, needed: int = 0, free: int = 0, file: str = "") -> HubError:
    """For a disk or quota that holds no more."""
    sizes = f": {needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free" if needed else ""
    what = f"{file} of {asked}" if file else asked
    return HubError(
        f"No space left for {what} under {cache}{sizes}",
        "Free some there, or set HF_HUB_CACHE to a folder on a larger disk, and run the same "
        "command again: what is fetched already is kept.",
    )


def cannot_write(cache, error: BaseException, asked: str) -> HubError:
    """For a cache that is read-only or someone else's."""
    return HubError(
        f"the hub's cache {cache} cannot be written ({reason(error)}), and {asked} is to be "
        "fetched",
        "Set HF_HUB_CACHE to a folder of yours, or have its owner fetch: python -m kdlib get "
        "PROFILE NN.",
    )
