"""As much of the Hugging Face hub's protocol as fetching single files needs, on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Event, Thread
from urllib.parse import unquote

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(/revision/(?P<revision>[^/?]+))?(\?.*)?")


class HubServer:
    """Serves `snapshots`, files by (repository, commit).

    `altered` replaces what is sent for a path; a path in `cut` is sent only so far, once for each number in its list;
    a path in `broken` answers 500 that many times; `headers` take the place of ours. Requests to begin a
    path in `meet` wait there for each other, and what is sent of one in `hold` stops in the middle until that is set.
    `requests` counts (method, path), `ranges` lists Range headers.
    """

    def __init__(self, snapshots: dict[tuple[str, str], dict[str, bytes]], branches: dict[str, str]) -> None:
        self.snapshots, self.branches = snapshots, branches
        self.altered: dict[str, bytes] = {}
        self.cut: dict[str, list[int]] = {}
        self.broken: Counter[str] = Counter()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.ranges: list[str] = []
        self.headers: dict[str, str] = {}
        self.meet: dict[str, Barrier] = {}
        self.hold: dict[str, Event] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the hub off the network."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()

    @property
    def n_requests(self) -> int:
        return sum(self.requests.values())


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if match := _RESOLVE.fullmatch(self.path):
            self._resolve(unquote(match["repo"]), unquote(match["revision"]), unquote(match["path"]), body)
        elif match := _API.fullmatch(self.path):
            self._info(unquote(match["repo"]), unquote(match["revision"] or "main"))
        else:
            self._send(404, {}, b"")

    def _files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and its files; answers with the hub's error if there are none."""
        commit = self.hub.branches.get(revision, revision)
        if (repo, commit) in self.hub.snapshots:
            return commit, self.hub.snapshots[repo, commit]
        known = any(repo == name for name, _ in self.hub.snapshots)
        self._send(404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"}, b"")
        return None

    def _info(self, repo: str, revision: str) -> None:
        self.hub.requests["GET", "api"] += 1
        if found := self._files(repo, revision):
            commit, files = found
            content = {"id": repo, "sha": commit, "siblings": [{"rfilename": path} for path in files], "tags": []}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _resolve(self, repo: str, revision: str, path: str, body: bool) -> None:
        self.hub.requests[self.command, path] += 1
        if (found := self._files(repo, revision)) is None:
            return
        commit, files = found
        if path not in files:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b"")
            return
        if body and self.hub.broken[path] > 0:
            self.hub.broken[path] -= 1
            self._send(500, {}, b"")
            return
        if not body and path in self.hub.meet:
            self.hub.meet[path].wait(60)
        content = self.hub.altered.get(path, files[path])
        etag = f'"{hashlib.sha256(files[path]).hexdigest()}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag, "Accept-Ranges": "bytes"}
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content)), **self.hub.headers}
        self._send_part(headers, content, path, body)

    def _send_part(self, headers: dict[str, str], content: bytes, path: str, body: bool) -> None:
        start, status = 0, 200
        if body and (wanted := self.headers.get("Range")):
            self.hub.ranges.append(wanted)
            start, status = int(re.findall(r"\d+", wanted)[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        stops = self.hub.cut.get(path) if body else None
        if body and path in self.hub.hold:
            self._send_halves(headers, content, self.hub.hold[path])
        else:
            self._send(status, headers, content[start:], body=body, stop=stops.pop(0) if stops else None)

    def _send_halves(self, headers: dict[str, str], content: bytes, go_on: Event) -> None:
        self._send(200, headers, content, stop=len(content) // 2)
        self.wfile.flush()
        go_on.wait(60)

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, *, body: bool = True, stop: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if stop is not None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content if stop is None else content[:stop])
