"""The Hugging Face hub: which files of a repository are read, where they lie, how they get here.

    place = hub.folder("google-bert/bert-base-uncased", "classifier")  # fetched if need be
    found = hub.look(hub.repository("nyu-mll/glue", "mnli"))  # asks, and fetches nothing

A source is looked for in this order: a folder as it is named, the same below the repository's root,
a copy under the real folder (`KD_REAL`), the hub's cache, the hub. `org/name@revision` pins a
commit, a tag or a branch; revisions.yaml pins those that the course knows. With `HF_HUB_OFFLINE=1`
nothing asks the network; a hub that does not answer is asked once, and what is whole in the cache
is taken instead.
"""

import functools
import os
import re
import shutil
import socket
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from ..paths import ROOT, real_folder, sha256
from . import hub_errors
from .hub_errors import endpoint
from .hub_files import DATASETS, KINDS, MODELS, wanted  # noqa: F401

COMMIT = re.compile(r"[0-9a-f]{40}")
ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
REVISION = re.compile(r"\w[\w./-]*")

TIMEOUT = 10.0  # seconds for an answer of the hub
PROBE_TIMEOUT = 3.0  # seconds for a connection to it
WAITS = (1, 2, 4)  # seconds before each new try; the hub's own Retry-After goes first
LONGEST_WAIT = 60
SILENT_FOR = 60  # seconds for which a hub that did not answer is not asked again


class Repository(NamedTuple):
    """`id`: owner/name; `revision`: a commit, tag or branch ("": the newest); `kind`: see KINDS."""

    id: str
    revision: str
    kind: str

    @property
    def type(self) -> str:
        return "dataset" if self.kind in DATASETS else "model"

    @property
    def named(self) -> str:
        """As a user would write it."""
        return f"{self.id}@{self.revision[:12]}" if self.revision else self.id


class Found(NamedTuple):
    """What is known of a repository.

    `folder` is where the commit's files lie or will lie; `sizes` the bytes of each file that its
    kind reads; `missing` those of them that are not there, or not whole; `sha256` of the large
    ones, as far as the hub told. `note` says how it was found.
    """

    repository: Repository
    commit: str
    folder: Path
    sizes: dict[str, int]
    missing: list[str]
    sha256: dict[str, str]
    note: str = ""

    @property
    def bytes_missing(self) -> int:
        return sum(self.sizes[name] for name in self.missing)


# -- what the environment says: read anew each time, so that a notebook can change it ------------


def cache() -> Path:
    """The hub's cache, as huggingface_hub finds it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.path.expandvars(os.environ[name])).expanduser()
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or os.path.join(above, "huggingface")
    return Path(os.path.expandvars(home)).expanduser() / "hub"


def offline() -> bool:
    """Is the network forbidden? As huggingface_hub reads it: 1, true, yes or on, in any case."""
    wish = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return wish.upper() in ("1", "TRUE", "YES", "ON")


@functools.cache
def pins() -> dict[str, str]:
    """{id: commit} of revisions.yaml."""
    import yaml

    text = (resources.files("kdlib.engine") / "revisions.yaml").read_text(encoding="utf8")
    return yaml.safe_load(text)


# -- names ---------------------------------------------------------------------------------------


def is_path(source: str | Path) -> bool:
    """Does it name a place on this machine? A hub id is `name` or `owner/name`, perhaps with @…."""
    text = str(source)
    if text.startswith((".", "/", "~", "data/", "runs/")) or Path(text).is_absolute():
        return True
    if text.endswith((".safetensors", ".ckpt")):
        return True
    # owner/name has one slash. With two it can only be a path, wherever it leads.
    return text.partition("@")[0].count("/") > 1


def repository(source: str | Path, kind: str) -> Repository:
    """`org/name` or `org/name@revision` as a Repository. ValueError for what cannot be one."""
    name, at, revision = str(source).partition("@")
    if not ID.fullmatch(name) or ".." in name or "--" in name:
        raise ValueError(
            f"{str(source)!r} is neither a folder nor a hub id: an id looks like owner/name, or "
            "owner/name@revision with a commit, tag or branch"
        )
    if at and not REVISION.fullmatch(revision):
        raise ValueError(
            f"{str(source)!r} names no revision after the @: write {name}@COMMIT (40 hex digits, a "
            f"tag or a branch), or {name} alone"
        )
    # A pin of ours goes before "the newest": a model that its owner changes would change results.
    return Repository(name, revision or pins().get(name, ""), kind)


def how_to_make(source: str | Path) -> str:
    """ "; make it with …" for a teacher that is trained at the user's place, else nothing."""
    place = Path(str(source))
    if place.parts[:1] == ("runs",) and place.name.startswith("teacher_"):
        return (
            f"; make it with: python -m kdlib.course.teachers {place.name.removeprefix('teacher_')}"
        )
    return ""


# -- what lies on this machine -------------------------------------------------------------------


def local_copy(source: str | Path, kind: str = "") -> Path | None:
    """The folder under the real folder that mirrors a hub id, or None.

    A copy stands for the hub only in what it holds: for a kind of data set that is a folder of that
    name, or Parquet files. GLUE with MNLI alone must not hide the hub's QQP.
    """
    if Path(source).is_absolute() or "@" in str(source):  # a pinned one is asked for by commit
        return None
    folder = real_folder() / str(source)
    if not folder.is_dir():
        return None
    if kind in DATASETS:
        tables = folder / kind if (folder / kind).is_dir() else folder
        return folder if any(tables.glob("*.parquet")) else None
    return folder if any(folder.iterdir()) else None


def on_this_machine(source: str | Path, kind: str = "") -> Path | None:
    """A folder or file as it is named, or below the root, or a hub id's local copy; else None."""
    for place in (Path(source).expanduser(), ROOT / source):
        if place.is_dir() or place.is_file():
            return place
    return local_copy(source, kind)


def _storage(repository: Repository) -> Path:
    return cache() / f"{repository.type}s--{repository.id.replace('/', '--')}"


def _cached(repository: Repository, commit: str) -> Found | None:
    """What the cache holds of a commit ("": of the revision's, when it was last fetched), if that
    is whole.
    """
    storage = _storage(repository)
    if not commit:
        # The cache notes there which commit a branch had when it was last fetched.
        ref = storage / "refs" / (repository.revision or "main")
        commit = ref.read_text(encoding="utf8").strip() if ref.is_file() else ""
    folder = storage / "snapshots" / commit
    if not commit or not folder.is_dir():
        return None
    # a link whose content was deleted does not exist
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    try:
        names = wanted(repository.kind, there)
    except ValueError:
        return None
    sizes = {name: there[name].stat().st_size for name in names}
    return Found(repository, commit, folder, sizes, [], {}, "in the cache")


# -- asking the hub ------------------------------------------------------------------------------

_commits: dict[tuple, str] = {}  # (endpoint, cache, id, revision): asked once in this process
_silent: dict[str, tuple[float, str]] = {}  # endpoint: when it did not answer, and how
_loaded: dict[str, str] = {}  # id: commit, of everything that was read


def loaded() -> dict[str, str]:
    """{hub id: commit} of everything that this process has read; "local copy" for one under
    KD_REAL.
    """
    return dict(_loaded)


def probe(timeout: float = PROBE_TIMEOUT) -> None:
    """ConnectionError within seconds when no connection to the hub (or to the proxy) can be made.

    The library's own retries would take half a minute. A proxy may be written without http://, and
    `no_proxy` is heeded.
    """
    hub = urllib.parse.urlsplit(endpoint())
    where, named = hub, endpoint()
    if proxy := proxy_for(hub):
        where, named = urllib.parse.urlsplit(proxy), f"the proxy {_without_password(proxy)}"
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        # A connection and nothing more: no request, so a slow answer cannot be mistaken for
        # silence.
        socket.create_connection((where.hostname, port), timeout).close()
    except OSError as error:
        raise ConnectionError(f"{named}: {hub_errors.reason(error)}") from error


def proxy_for(address: urllib.parse.SplitResult) -> str:
    """The proxy for an address, with its scheme; "" for none."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(address.netloc.rpartition("@")[2]):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def look(repository: Repository, *, thorough: bool = False, known=()) -> Found:
    """What the hub, or else the cache, has of a repository. Nothing is fetched.

    A pinned commit that is whole in the cache is not asked about, unless `thorough`: then the sizes
    of its files are compared too. A hub that is silent or refuses is no reason to fail while the
    cache has what is needed; a line says so. known: ids for "did you mean". Raises OSError (see
    hub_errors) with the cause and what to do.
    """
    key = (endpoint(), str(cache()), repository.id, repository.revision)
    # A commit never changes, so what the cache has of it is right without asking.
    pinned = COMMIT.fullmatch(repository.revision)
    commit = repository.revision if pinned else _commits.get(key, "")
    kept = _cached(repository, commit)
    if kept and (offline() or (commit and not thorough)):
        _commits[key] = kept.commit
        return kept
    if offline():
        raise hub_errors.not_here(repository, cache(), "HF_HUB_OFFLINE is set")
    try:
        found = _ask(repository, commit, known)
    except OSError as error:
        if kept is None:
            raise
        # An older commit that is whole beats no model at all; the line that is printed says which
        # one.
        found = kept._replace(note=f"in the cache; {_brief(error)}")
        print(f"{repository.id}: {_brief(error)}. Taking commit {kept.commit[:7]} from the cache.")
    _commits[key] = found.commit
    return found


def _brief(error: OSError) -> str:
    return getattr(error, "why", "") or getattr(error, "cause", "") or str(error).partition(". ")[0]


def _ask(repository: Repository, commit: str, known) -> Found:
    """The hub's answer: listing, sizes, and for what is missing whether this user may have it."""
    from huggingface_hub import HfApi

    _refuse_silent(repository)
    api = HfApi(endpoint=endpoint())
    ask = functools.partial(
        api.repo_info,
        repository.id,
        revision=commit or repository.revision or None,
        repo_type=repository.type,
        timeout=TIMEOUT,
        files_metadata=True,
    )
    info = _patiently(ask, repository, known=known)
    listed = {s.rfilename: s for s in info.siblings or []}
    try:
        names = wanted(repository.kind, listed)
    except ValueError as error:
        raise hub_errors.other_layout(repository, str(error)) from error
    folder = _storage(repository) / "snapshots" / info.sha
    sizes = {name: listed[name].size or 0 for name in names}
    missing = [name for name in names if not _whole(folder / name, sizes[name])]
    hashes = {name: _sha256_of(listed[name]) for name in names}
    told = {name: digest for name, digest in hashes.items() if digest}
    if missing:
        # One file stands for all: whoever may not read it hears so now, not after the first
        # gigabytes.
        ask = functools.partial(_may_read, repository, info.sha, missing[0])
        _patiently(ask, repository, known=known)
    note = f"{len(missing)} of {len(names)} files to fetch" if missing else "in the cache"
    return Found(repository, info.sha, folder, sizes, missing, told, note)


def _refuse_silent(repository: Repository) -> None:
    """ConnectionError when the hub does not answer; one that was silent a moment ago is not asked
    again.
    """
    when, why = _silent.get(endpoint(), (-SILENT_FOR, ""))
    if time.monotonic() - when > SILENT_FOR:
        try:
            probe()
            _silent.pop(endpoint(), None)
            return
        except ConnectionError as error:
            why = str(error)
            _silent[endpoint()] = time.monotonic(), why
    raise hub_errors.not_here(repository, cache(), f"the hub cannot be reached ({why})")


def _may_read(repository: Repository, commit: str, name: str) -> None:
    """Ask for a file's head: of a gated repository everyone may read the listing, and few the
    files.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    session = get_session()
    # Of httpx or requests, whichever huggingface_hub has installed.
    follow = "follow_redirects" if hasattr(session, "follow_redirects") else "allow_redirects"
    url = hf_hub_url(
        repository.id, name, repo_type=repository.type, revision=commit, endpoint=endpoint()
    )
    answer = session.head(url, headers=build_hf_headers(), timeout=TIMEOUT, **{follow: False})
    if answer.status_code >= 400:
        hf_raise_for_status(answer)


def _sha256_of(sibling) -> str:
    large = getattr(sibling, "lfs", None)
    return (large.get("sha256") if isinstance(large, dict) else getattr(large, "sha256", "")) or ""


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and (not size or path.stat().st_size == size)


def _patiently(ask, repository: Repository, *, file: str = "", known=()):
    """`patiently`, with `hub_errors.explain` saying what happened to which repository."""

    def explain(error):
        return hub_errors.explain(error, repository, cache(), file=file, known=known)

    return patiently(ask, explain)


def patiently(ask, explain):
    """`ask()`, tried again after what may pass: 429, 5xx, a connection that broke off.

    Raises what `explain(error)` makes of an error that does not pass.
    """
    # None: the last try, after which there is no waiting.
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:  # requests', httpx's or urllib's
            if isinstance(error, ValueError) and not isinstance(error, OSError):
                raise  # a mistake of ours, not of the network
            if wait is None or not hub_errors.may_pass(error):
                explained = explain(error)
                if explained is error:
                    raise
                raise explained from error
            time.sleep(min(hub_errors.retry_after(error) or wait, LONGEST_WAIT))


# -- fetching ------------------------------------------------------------------------------------


def free_bytes() -> int:
    """Free where the cache lies, or will lie."""
    place = cache().absolute()
    # The folder may not exist yet; the disk is that of the first one above which does.
    there = next(p for p in (place, *place.parents) if p.exists())
    return shutil.disk_usage(there).free


def refuse_full_or_closed(needed: int, named: str) -> None:
    """OSError with what to do unless the cache can be written and holds `needed` bytes more."""
    place = cache()
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe_file = place / f".probe.{os.getpid()}"
        # Permissions tell less than a try: quotas and read-only mounts show only now.
        probe_file.write_bytes(b"x")
        probe_file.unlink()
    except OSError as error:
        raise hub_errors.cannot_write(place, error, named) from error
    if needed > free_bytes():
        raise hub_errors.disk_full(place, named, needed, free_bytes())


def fetch(found: Found) -> Found:
    """Fetch what is missing, file by file; one that was begun goes on, a damaged one is fetched
    anew.

    A file gets its name only when it is whole, of the size and (large ones) the SHA-256 that the
    hub told, so what an interruption leaves is never read. Raises OSError (see hub_errors).
    """
    repository = found.repository
    if found.missing:
        refuse_full_or_closed(found.bytes_missing, repository.named)
    with _quiet_progress():
        for name in found.missing:
            _fetch_file(found, name)
    if any(not _whole(found.folder / name, found.sizes[name]) for name in found.missing):
        raise hub_errors.changed(repository)
    return found._replace(missing=[], note="fetched" if found.missing else found.note)


def _fetch_file(found: Found, name: str) -> None:
    from huggingface_hub import hf_hub_download

    repository = found.repository
    # It is there and not whole, so it is wrong: the library would take it as it is.
    anew = (found.folder / name).exists()

    def download():
        nonlocal anew
        try:
            hf_hub_download(
                repository.id,
                name,
                repo_type=repository.type,
                revision=repository.revision or "main",
                cache_dir=cache(),
                endpoint=endpoint(),
                etag_timeout=TIMEOUT,
                force_download=anew,
            )
        except Exception as error:
            anew = hub_errors.is_damaged(error)  # going on from a wrong beginning cannot mend it
            raise
        if not _right(found, name):
            anew = True
            raise hub_errors.Damaged(f"{name} has another SHA-256 than the hub says")

    _patiently(download, repository, file=name)


def _right(found: Found, name: str) -> bool:
    """False for a large file with another SHA-256; it is then removed, so that nothing reads it."""
    path, wanted_hash = found.folder / name, found.sha256.get(name)
    if not wanted_hash or not path.exists():
        return True
    if sha256(path) == wanted_hash:
        return True
    # The cache holds links; both the link and what it points to must go.
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    return False


@contextmanager
def _quiet_progress():
    """No progress bars where nobody watches them: in a notebook's output or a job's log."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if (
        sys.stderr.isatty()
        or are_progress_bars_disabled()
        or "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ
    ):
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def folder(source: str | Path, kind: str) -> Path:
    """Where the files of a source lie: a place on this machine, or the cache, fetched if need be.

    FileNotFoundError for a path that is not there, ValueError for what is no id, OSError with the
    cause and what to do when a repository cannot be had.
    """
    if (place := on_this_machine(source, kind)) is not None:
        if local_copy(source, kind) == place:
            _loaded[str(source)] = "local copy"
        return place
    if is_path(source):
        raise FileNotFoundError(f"there is no folder {source}{how_to_make(source)}")
    found = look(repository(source, kind))
    if found.missing:
        found = fetch(found)
    _loaded[found.repository.id] = found.commit
    return found.folder


def tables(place: Path, kind: str) -> Path:
    """The folder with the Parquet files of a data set's part: below `place`, or `place` itself."""
    if (place / kind).is_dir():
        return place / kind
    return place / "data" if any((place / "data").glob("*.parquet")) else place


def encoders(hparams: Path) -> list[str]:
    """The hub ids whose configuration and tokenizer a COMET checkpoint needs, from its
    hparams.yaml.
    """
    import yaml

    if not hparams.is_file():
        return []
    settings = yaml.safe_load(hparams.read_text(encoding="utf8")) or {}
    names = [settings.get("pretrained_model", "")]
    if settings.get("encoder_model") == "MiniLM":  # comet gives it the tokenizer of another
        names.append("xlm-roberta-base")
    return [name for name in names if name and not Path(name).is_dir()]
