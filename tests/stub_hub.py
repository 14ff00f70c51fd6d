"""A small Hugging Face hub on 127.0.0.1, for tests: it serves a folder and fails on demand.

    with StubHub(folder, token="hf_right", gated=["meta-llama/Llama-3.2-1B"]) as hub:
        hub.fail("nyu-mll/glue", "README.md", "503", times=2)
        subprocess.run([...], env=hub.environment(cache))
        assert ("meta-llama/Llama-3.2-1B", "config.json") in hub.downloads()

It is for child processes: the clients read HF_ENDPOINT once, on import.

The folder holds `models/OWNER/NAME/…` and `datasets/OWNER/NAME/…`, with the files as the hub has
them. A repository's commit is a hash of its files, or what its file `.commit` says (a revision that
a profile pins). `.commit` itself is never served.

Answers, headers and error codes follow the real hub as `huggingface_hub` 0.36 reads them. There is
no Xet. Small files are served directly; large kinds of files (`LARGE`) are redirected to a second
address, as the real hub does with its storage.
"""

import hashlib
import http.server
import json
import os
import re
import threading
import time
import urllib.parse
from pathlib import Path
from typing import NamedTuple

LARGE = (".safetensors", ".bin", ".parquet", ".ckpt", ".model")
FAULTS = {
    "401": "the token is invalid",
    "429": "too many requests; Retry-After says how many seconds to wait",
    "500": "an error of the server",
    "503": "the service is overloaded",
    "cut": "the connection breaks off after half of the file",
    "truncated": "half of the file arrives, and its Content-Length says that this is all",
    "slow": "the answer comes after `seconds`",
}
MESSAGES = {
    401: "Invalid credentials in Authorization header",
    429: "We had to rate limit you. You have sent too many requests.",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
    503: "Service Unavailable",
}


class Request(NamedTuple):
    """One request. `file` is "" for the API; `endpoint` then says which part of it was asked for.

    Endpoints: "resolve", "storage" (a large file's bytes), "info", "tree", "paths-info", "refs",
    "commits", "auth-check" and "whoami".
    """

    method: str
    kind: str  # "models", "datasets" or "" (whoami)
    repo: str
    revision: str
    file: str
    endpoint: str
    token: str  # "" for none
    range: str  # the Range header, "" for none
    status: int


class Refused(Exception):
    """A request that the hub does not serve: the status, the code that the client reads, a text."""

    def __init__(self, status: int, code: str, text: str, headers: dict | None = None):
        super().__init__(text)
        self.status, self.code, self.text, self.headers = status, code, text, headers or {}


class Repository:
    """A folder as the hub sees it: its commit, and each file's size and hashes."""

    def __init__(self, folder: Path):
        self.folder = folder
        found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".commit")
        self.files = {p.relative_to(folder).as_posix(): p for p in found}
        self.hashes = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in self.files.items()
        }
        pinned = folder / ".commit"
        listing = json.dumps(self.hashes, sort_keys=True)
        self.commit = (
            pinned.read_text().strip()
            if pinned.exists()
            else hashlib.sha1(listing.encode()).hexdigest()
        )

    def etag(self, file: str) -> str:
        """Large files carry their SHA-256 (64 digits), others a git blob's name (40 digits)."""
        return self.hashes[file] if file.endswith(LARGE) else self.hashes[file][:40]

    def entry(self, file: str) -> dict:
        """A file as `tree` and `paths-info` list it."""
        size = self.files[file].stat().st_size
        found = {"type": "file", "oid": self.hashes[file][:40], "size": size, "path": file}
        if file.endswith(LARGE):
            found["lfs"] = {"oid": self.hashes[file], "size": size, "pointerSize": 134}
        return found

    def tree(self, under: str, recursive: bool) -> list[dict]:
        """Folders and files below `under`; KeyError when there is no such folder."""
        prefix = f"{under}/" if under else ""
        inside = [file for file in self.files if file.startswith(prefix)]
        if not inside:
            raise KeyError(under)
        folders = {}
        for file in inside:
            parts = file[len(prefix) :].split("/")[:-1]
            for depth in range(1, (len(parts) if recursive else min(len(parts), 1)) + 1):
                path = prefix + "/".join(parts[:depth])
                folders[path] = {
                    "type": "directory",
                    "oid": hashlib.sha1(path.encode()).hexdigest(),
                    "size": 0,
                    "path": path,
                }
        files = [self.entry(file) for file in inside if recursive or "/" not in file[len(prefix) :]]
        return [*folders.values(), *files]


class StubHub:
    """See the module. `requests` is the log.

    token: the one valid token. gated: ids of the gated repositories; `accepted` holds those whose
    licence the token's owner has accepted, at first all. renamed: {old id: new id}; the hub
    redirects, as it does from "xlm-roberta-large" to "FacebookAI/xlm-roberta-large".
    """

    def __init__(
        self, folder: Path, token: str = "hf_stub", gated=(), renamed: dict[str, str] | None = None
    ):
        self.token, self.gated, self.accepted = token, set(gated), set(gated)
        self.renamed = renamed or {}
        self.requests: list[Request] = []
        self._faults, self._lock = [], threading.Lock()
        self.repositories = {
            (kind, place.relative_to(folder / kind).as_posix()): Repository(place)
            for kind in ("models", "datasets")
            for place in sorted((folder / kind).glob("*/*"))
            if place.is_dir()
        }
        self._server, self.port = None, 0

    def __enter__(self) -> "StubHub":
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self) -> None:
        """Listen; after a `stop` on the same port again, so that a child's address stays right."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Close the port: connections are refused from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """os.environ for a child that knows this hub alone, with its caches under `cache`.

        token: None for the valid one, "" for none.
        """
        dropped = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_", "XDG_CACHE")
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(dropped) and not k.lower().endswith("_proxy")
        }
        token = self.token if token is None else token
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "KD_REAL": str(Path(cache) / "real"),
            **({"HF_TOKEN": token} if token else {}),
        }

    def fail(
        self,
        repo: str,
        file: str,
        kind: str,
        times: int = 1,
        *,
        retry_after: int = 1,
        seconds: float = 3.0,
    ) -> None:
        """The next `times` requests for this file fail (0: all from now on). See `FAULTS`.

        repo: an id, or "*". file: a path in it, "*" for all files and the API, "" for the API
        alone. Of a large file the redirection and the storage are two requests. What concerns a
        file's bytes ("cut", "truncated") hits GET alone; the others hit HEAD too.
        """
        if kind not in FAULTS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(FAULTS)}")
        with self._lock:
            self._faults.append(
                {
                    "repo": repo,
                    "file": file,
                    "kind": kind,
                    "left": times or float("inf"),
                    "retry_after": retry_after,
                    "seconds": seconds,
                }
            )

    def heal(self) -> None:
        """No faults from now on."""
        with self._lock:
            self._faults.clear()

    def take_fault(self, method: str, repo: str, file: str, kinds: tuple[str, ...]) -> dict | None:
        """The fault that this request meets, which is then used up once."""
        with self._lock:
            for fault in self._faults:
                hit = (
                    fault["repo"] in ("*", repo)
                    and fault["file"] in ("*", file)
                    and fault["kind"] in kinds
                )
                if (
                    hit
                    and fault["left"] > 0
                    and not (method == "HEAD" and fault["kind"] in ("cut", "truncated"))
                ):
                    fault["left"] -= 1
                    return fault
        return None

    def log(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def downloads(self) -> set[tuple[str, str]]:
        """(repository, file) of each file whose bytes were sent."""
        return {
            (r.repo, r.file)
            for r in self.requests
            if r.file and r.method == "GET" and r.status in (200, 206)
        }

    def asked(self) -> set[str]:
        """The ids of all repositories that a request named."""
        return {r.repo for r in self.requests if r.repo}


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self._answer()

    def log_message(self, *_):
        pass

    def _answer(self):
        self.asked = {"kind": "", "repo": "", "revision": "", "file": "", "endpoint": "unknown"}
        url = urllib.parse.urlsplit(self.path)
        self.query = urllib.parse.parse_qs(url.query)
        try:
            self._route([urllib.parse.unquote(part) for part in url.path.strip("/").split("/")])
        except Refused as refused:
            named = {"X-Error-Code": refused.code} if refused.code else {}
            about = {"X-Error-Message": refused.text, **named, **refused.headers}
            self._send(refused.status, json.dumps({"error": refused.text}).encode(), about)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, parts: list[str]) -> None:
        if parts[0] == "storage":
            return self._storage(parts[1:])
        if parts[:2] == ["api", "whoami-v2"]:
            self.asked |= {"endpoint": "whoami"}
            return self._whoami()
        if parts[0] == "api" and parts[1:2] in (["models"], ["datasets"]):
            return self._api(parts[1], parts[2:])
        kind, rest = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        if "resolve" not in rest[:3]:
            raise Refused(404, "", "Sorry, we can't find the page you are looking for.")
        place = rest.index("resolve")
        repo, revision, file = "/".join(rest[:place]), rest[place + 1], "/".join(rest[place + 2 :])
        self.asked |= {
            "kind": kind,
            "repo": repo,
            "revision": revision,
            "file": file,
            "endpoint": "resolve",
        }
        self._resolve(kind, repo, revision, file)

    # -- who asks, and for what --------------------------------------------------------------------

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()

    def _check_faults(self) -> None:
        kinds = ("slow", "401", "429", "500", "503")
        fault = self.hub.take_fault(self.command, self.asked["repo"], self.asked["file"], kinds)
        if fault is None:
            return
        if fault["kind"] == "slow":
            time.sleep(fault["seconds"])
            return
        status = int(fault["kind"])
        wait = {"Retry-After": str(fault["retry_after"])} if status == 429 else {}
        raise Refused(status, "", MESSAGES[status], wait)

    def _repository(self, kind: str, repo: str) -> Repository:
        """The repository; Refused for an invalid token and, in the hub's words, for a wrong id."""
        self._check_faults()
        if self.token and self.token != self.hub.token:
            raise Refused(401, "", MESSAGES[401])
        if (kind, repo) in self.hub.repositories:
            return self.hub.repositories[kind, repo]
        if repo in self.hub.renamed:
            old, new = (
                f"/{urllib.parse.quote(repo)}",
                f"/{urllib.parse.quote(self.hub.renamed[repo])}",
            )
            raise Refused(307, "", f"Moved to {new}", {"Location": self.path.replace(old, new, 1)})
        if not self.token:  # whoever shows no token is not told whether it exists
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        raise Refused(404, "RepoNotFound", "Repository not found")

    def _check_access(self, kind: str, repo: str) -> None:
        if repo not in self.hub.gated:
            return
        restricted = f"Access to {kind.removesuffix('s')} {repo} is restricted"
        if not self.token:
            raise Refused(
                401,
                "GatedRepo",
                f"{restricted}. You must have access to it and be authenticated to access it. "
                "Please log in.",
            )
        if repo not in self.hub.accepted:
            raise Refused(
                403,
                "GatedRepo",
                f"{restricted} and you are not in the authorized list. "
                f"Visit {self.hub.url}/{repo} to ask for access.",
            )

    def _check_revision(self, repository: Repository, revision: str) -> None:
        if revision not in ("main", repository.commit):
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    # -- the files ---------------------------------------------------------------------------------

    def _resolve(self, kind: str, repo: str, revision: str, file: str) -> None:
        repository = self._repository(kind, repo)
        self._check_access(kind, repo)
        self._check_revision(repository, revision)
        commit = {"X-Repo-Commit": repository.commit}
        if file not in repository.files:
            raise Refused(404, "EntryNotFound", "Entry not found", commit)
        etag = repository.etag(file)
        if not file.endswith(LARGE):
            return self._send_file(repository.files[file], {"ETag": f'"{etag}"', **commit})
        size = repository.files[file].stat().st_size
        location = urllib.parse.quote(f"/storage/{kind}/{repo}/{repository.commit}/{file}")
        linked = {
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(size),
            "Location": self.hub.url + location,
        }
        self._send(302, b"", linked | commit)

    def _storage(self, parts: list[str]) -> None:
        """The bytes of a large file. The real storage checks a signature in place of the token."""
        kind, (owner, name, commit), file = parts[0], parts[1:4], "/".join(parts[4:])
        self.asked |= {
            "kind": kind,
            "repo": f"{owner}/{name}",
            "revision": commit,
            "file": file,
            "endpoint": "storage",
        }
        self._check_faults()
        repository = self.hub.repositories[kind, f"{owner}/{name}"]
        self._send_file(repository.files[file], {"ETag": f'"{repository.etag(file)}"'})

    def _send_file(self, path: Path, headers: dict) -> None:
        body, status = path.read_bytes(), 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(body) - 1), len(body) - 1)
            if start >= len(body):
                raise Refused(
                    416, "", "Range Not Satisfiable", {"Content-Range": f"bytes */{len(body)}"}
                )
            headers |= {"Content-Range": f"bytes {start}-{end}/{len(body)}"}
            body, status = body[start : end + 1], 206
        fault = self.hub.take_fault(
            self.command, self.asked["repo"], self.asked["file"], ("cut", "truncated")
        )
        if fault and fault["kind"] == "truncated":
            body = body[: len(body) // 2]
        sent = body[: len(body) // 2] if fault and fault["kind"] == "cut" else body
        headers |= {"Accept-Ranges": "bytes", "Content-Length": str(len(body))}
        self._send(status, sent, headers)
        if len(sent) < len(body):
            self.close_connection = True

    # -- the API -----------------------------------------------------------------------------------

    def _whoami(self) -> None:
        self._check_faults()
        if self.token != self.hub.token:
            raise Refused(401, "", "Invalid username or password.")
        access = {"type": "access_token", "accessToken": {"displayName": "stub", "role": "read"}}
        self._send_json(
            {
                "type": "user",
                "id": "0",
                "name": "stub",
                "fullname": "A Stub",
                "orgs": [],
                "auth": access,
            }
        )

    def _api(self, kind: str, parts: list[str]) -> None:
        endpoints = ("revision", "tree", "paths-info", "refs", "auth-check", "commits")
        place = next((i for i in (1, 2) if parts[i : i + 1] and parts[i] in endpoints), len(parts))
        repo, rest = "/".join(parts[:place]), parts[place:]
        endpoint = rest[0] if rest and rest[0] != "revision" else "info"
        revision = rest[1] if len(rest) > 1 else "main"
        self.asked |= {"kind": kind, "repo": repo, "revision": revision, "endpoint": endpoint}
        repository = self._repository(kind, repo)
        if endpoint == "auth-check":
            self._check_access(kind, repo)
            return self._send_json({})
        if endpoint == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit}
            return self._send_json({"branches": [branch], "tags": [], "converts": []})
        self._check_revision(repository, revision)
        if endpoint == "info":
            return self._send_json(self._info(kind, repo, repository))
        if endpoint == "commits":
            told = {
                "id": repository.commit,
                "title": "",
                "message": "",
                "date": "2024-01-01T00:00:00.000Z",
                "authors": [],
            }
            return self._send_json([told])
        if endpoint == "paths-info":
            return self._send_json(self._paths(repository))
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        try:
            self._send_json(repository.tree("/".join(rest[2:]), recursive))
        except KeyError as missing:
            raise Refused(
                404, "EntryNotFound", f"{missing} does not exist on {revision!r}"
            ) from None

    def _info(self, kind: str, repo: str, repository: Repository) -> dict:
        """What `model_info` and `dataset_info` read: public for a gated repository, too."""
        siblings = []
        for file in repository.files:
            entry = repository.entry(file)
            sizes = {"size": entry["size"], "blobId": entry["oid"]} if "blobs" in self.query else {}
            lfs = (
                {"lfs": {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}}
                if sizes and "lfs" in entry
                else {}
            )
            siblings.append({"rfilename": file, **sizes, **lfs})
        return {
            "_id": "0",
            "id": repo,
            kind.removesuffix("s") + "Id": repo,
            "sha": repository.commit,
            "private": False,
            "disabled": False,
            "gated": "manual" if repo in self.hub.gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "createdAt": "2024-01-01T00:00:00.000Z",
            "lastModified": "2024-01-01T00:00:00.000Z",
            "siblings": siblings,
        }

    def _paths(self, repository: Repository) -> list[dict]:
        """The entries of the paths asked for that exist; others are left out, as on the hub."""
        if "json" in (self.headers.get("Content-Type") or ""):
            wanted = json.loads(self.form)["paths"]
        else:
            wanted = urllib.parse.parse_qs(self.form).get("paths", [])
        found = [repository.entry(path) for path in wanted if path in repository.files]
        for path in wanted:
            if any(file.startswith(f"{path}/") for file in repository.files):
                found.append(
                    {
                        "type": "directory",
                        "oid": hashlib.sha1(path.encode()).hexdigest(),
                        "size": 0,
                        "path": path,
                    }
                )
        return found

    # -- sending -----------------------------------------------------------------------------------

    def _send_json(self, value) -> None:
        self._send(
            200, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"}
        )

    def _send(self, status: int, body: bytes, headers: dict) -> None:
        self.hub.log(
            Request(
                self.command,
                **self.asked,
                token=self.token,
                range=self.headers.get("Range") or "",
                status=status,
            )
        )
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body)), "X-Request-Id": "stub"} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()
