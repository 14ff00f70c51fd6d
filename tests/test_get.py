"""get: the real download code against a server on the loopback that cuts off, ignores Range, or sends something else."""

import hashlib
import http.server
import os
import re
import threading

import pytest

from kdlib import get
from kdlib.engine import hub

CONTENT = {"votes.jsonl": os.urandom(200_000), "rows.parquet": os.urandom(50_000)}


class Server(http.server.BaseHTTPRequestHandler):
    """Class attributes say how it behaves; `asked` lists (path, Range) of each request."""

    asked, ranges, cut_after, replaced, refused = [], True, None, {}, []

    def do_GET(self):
        name, wanted = self.path.strip("/"), self.headers.get("Range")
        self.asked.append((name, wanted))
        if self.refused:
            self.send_response(self.refused.pop(0))
            self.send_header("Retry-After", "7")
            return self.end_headers()
        body = self.replaced.get(name, CONTENT.get(name))
        if body is None:
            return self.send_error(404)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if start >= len(body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body) if type(self).cut_after is None else start + type(self).cut_after
        type(self).cut_after = None  # the next request gets through
        self.wfile.write(body[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    Server.asked, Server.ranges, Server.cut_after, Server.replaced, Server.refused = (
        [],
        True,
        None,
        {},
        [],
    )
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{httpd.server_port}"
    sha = hashlib.sha256(CONTENT["votes.jsonl"]).hexdigest()
    monkeypatch.setattr(
        get,
        "REAL",
        {
            "votes": [get.File("chaos/votes.jsonl", f"{at}/votes.jsonl", sha)],
            "rows": [get.File("hub/rows.parquet", f"{at}/rows.parquet", "")],
        },
    )
    monkeypatch.setenv("KD_REAL", str(tmp_path / "real"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield Server
    httpd.shutdown(), httpd.server_close()


def there(root) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


WHOLE = {"chaos/votes.jsonl": CONTENT["votes.jsonl"], "hub/rows.parquet": CONTENT["rows.parquet"]}


def test_fetch_and_do_not_fetch_again(server, tmp_path, capsys):
    assert get.get_real() == tmp_path / "real"
    assert there(tmp_path / "real") == WHOLE
    get.get_real()
    assert len(server.asked) == 2 and capsys.readouterr().out.count("already here") == 2


def test_some_parts_only(server, tmp_path):
    get.get_real(["rows"])
    assert set(there(tmp_path / "real")) == {"hub/rows.parquet"}
    with pytest.raises(ValueError, match="no part commonsense; there are votes, rows"):
        get.get_real(["commonsense"])


@pytest.mark.parametrize("part, name", [("votes", "votes.jsonl"), ("rows", "rows.parquet")])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_off_is_taken_up_again(
    server, tmp_path, monkeypatch, part, name, ranges
):
    monkeypatch.setattr(hub, "WAITS", ())  # the second try is the user's
    server.ranges, server.cut_after = ranges, 30_000
    with pytest.raises(ConnectionError, match="broke off.*again"):
        get.get_real([part])
    assert not any(f in WHOLE for f in there(tmp_path / "real")), (
        "half a file must not pass for the whole"
    )
    get.get_real([part])
    assert (
        there(tmp_path / "real").popitem()[1] == CONTENT[name]
        and len(there(tmp_path / "real")) == 1
    )
    assert server.asked == [(name, None), (name, "bytes=30000-")]


@pytest.fixture
def waited(monkeypatch) -> list[float]:
    """The seconds that were waited: none in truth."""
    seconds = []
    monkeypatch.setattr(hub.time, "sleep", seconds.append)
    return seconds


def test_a_connection_that_breaks_off_once_is_mended_by_the_same_call(server, tmp_path, waited):
    server.cut_after = 30_000
    get.get_real(["votes"])
    assert there(tmp_path / "real") == {"chaos/votes.jsonl": CONTENT["votes.jsonl"]}
    assert server.asked == [("votes.jsonl", None), ("votes.jsonl", "bytes=30000-")] and waited == [
        1
    ]


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again_when_it_says(server, tmp_path, waited, code):
    server.refused = [code, code]
    get.get_real(["rows"])
    assert there(tmp_path / "real") == {"hub/rows.parquet": CONTENT["rows.parquet"]} and waited == [
        7,
        7,
    ]


def test_a_server_that_stays_busy_is_named(server, tmp_path, waited):
    server.refused = [503] * 9
    with pytest.raises(ConnectionError, match="rows.parquet: HTTP Error 503"):
        get.get_real(["rows"])
    assert len(server.asked) == 4 and there(tmp_path / "real") == {}


@pytest.mark.parametrize("code", [401, 403, 404])
def test_a_refusal_is_not_asked_twice(server, waited, code):
    server.refused = [code]
    with pytest.raises(ConnectionError, match=f"rows.parquet: HTTP Error {code}"):
        get.get_real(["rows"])
    assert len(server.asked) == 1 and not waited


def test_a_whole_part_that_was_not_renamed_is_used(server, tmp_path):
    place = tmp_path / "real" / "chaos"
    place.mkdir(parents=True)
    (place / "votes.jsonl.part").write_bytes(CONTENT["votes.jsonl"])
    get.get_real(["votes"])
    assert there(tmp_path / "real") == {"chaos/votes.jsonl": CONTENT["votes.jsonl"]}


def test_another_content_is_refused_and_not_kept(server, tmp_path):
    server.replaced = {"votes.jsonl": b"<html>sign in first</html>"}
    with pytest.raises(ValueError, match="SHA-256 is .*, expected"):
        get.get_real(["votes"])
    assert there(tmp_path / "real") == {}
    server.replaced = {}
    get.get_real(["votes"])
    assert there(tmp_path / "real")["chaos/votes.jsonl"] == CONTENT["votes.jsonl"]


def test_a_file_that_was_altered_since_is_fetched_anew(server, tmp_path):
    get.get_real()
    (tmp_path / "real" / "chaos" / "votes.jsonl").write_bytes(b"altered")
    get.get_real()
    assert there(tmp_path / "real") == WHOLE


def test_from_a_folder_of_the_same_layout(server, tmp_path):
    for name, body in WHOLE.items():
        (tmp_path / "stick" / name).parent.mkdir(parents=True)
        (tmp_path / "stick" / name).write_bytes(body)
    get.get_real(source=tmp_path / "stick")
    assert there(tmp_path / "real") == WHOLE and server.asked == []


def test_from_a_folder_that_lacks_a_file_or_has_another(server, tmp_path):
    (tmp_path / "stick" / "chaos").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="has no chaos/votes.jsonl"):
        get.get_real(["votes"], tmp_path / "stick")
    (tmp_path / "stick" / "chaos" / "votes.jsonl").write_bytes(b"another edition")
    with pytest.raises(ValueError, match="SHA-256"):
        get.get_real(["votes"], tmp_path / "stick")
    assert (
        there(tmp_path / "real") == {} and (tmp_path / "stick" / "chaos" / "votes.jsonl").exists()
    )


def test_from_a_folder_that_is_not_there_is_refused_even_where_nothing_is_missing(server, tmp_path):
    get.get_real()
    with pytest.raises(NotADirectoryError, match="no such folder"):
        get.get_real(source=tmp_path / "nowhere")


def test_a_closed_network_says_what_to_do(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(get, "REAL", {"votes": [get.File("votes", "http://127.0.0.1:9/votes", "")]})
    with pytest.raises(ConnectionError, match="KD_REAL=FOLDER.*--from FOLDER"):
        get.get_real()
    from kdlib.__main__ import main

    assert main(["get", "real"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("kdlib get: ") and "--from FOLDER" in told and "Traceback" not in told


def test_a_file_that_is_gone_is_named(server, monkeypatch):
    votes = get.REAL["votes"][0]
    monkeypatch.setattr(get, "REAL", {"votes": [votes._replace(url=votes.url + ".gone")]})
    with pytest.raises(ConnectionError, match="votes.jsonl.gone.*404"):
        get.get_real()


def test_the_pinned_list_is_pinned():
    """Every address carries a commit, and every file but the two that only git pins has a hash."""
    files = [file for part in get.REAL.values() for file in part]
    assert all(re.search(r"/[0-9a-f]{40}/", file.url) for file in files)
    assert all(
        re.fullmatch("[0-9a-f]{64}", file.sha256) or "glue/mnli" in file.path for file in files
    )
    assert len({file.path for file in files}) == len(files)


def test_where_real_rows_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("KD_REAL", "~/rows")
    assert get.real_folder() == tmp_path.home() / "rows"
    monkeypatch.delenv("KD_REAL")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        get.real_folder() == tmp_path / "kdlib" / "real" and get.local_copy("nyu-mll/glue") is None
    )
    (get.real_folder() / "nyu-mll" / "glue" / "mnli").mkdir(parents=True)
    assert get.local_copy("nyu-mll/glue") == tmp_path / "kdlib" / "real" / "nyu-mll" / "glue"
    assert get.local_copy(tmp_path) is None
