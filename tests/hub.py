"""A model hub on this machine: repositories whose branches and tags point to commits, asked for as the real one is."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories by kind and name, with the files of each commit. asked: the paths of all requests."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Mapping[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def push(self, name: str, files: Mapping[str, bytes], tag: str | None = None) -> str:
        """Make a commit of these files, to which main points, and the tag; returns it. name: of a dataset, datasets/owner/name."""
        made = self.commits.setdefault(name, {})
        commit = hashlib.sha1(f"{name} {len(made)}".encode()).hexdigest()
        made[commit] = files
        self.refs.setdefault(name, {}).update({"main": commit, **({tag: commit} if tag else {})})
        return commit

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def do_GET(self) -> None:
                path = urlsplit(self.path).path.strip("/")
                hub.asked.append(path)
                for of_api, between in (("api/", "/tree/"), ("api/", "/revision/"), ("", "/resolve/")):
                    if path.startswith(of_api) and between in path:
                        name, _, rest = path.removeprefix(of_api).removeprefix("models/").partition(between)
                        revision, _, file = rest.partition("/")
                        return self.send(between, name, unquote(revision), file)
                self.answer(404)

            def send(self, what: str, name: str, revision: str, file: str) -> None:
                if name not in hub.commits:
                    return self.answer(404, X_Error_Code="RepoNotFound")
                commit = hub.refs[name].get(revision, revision)
                if commit not in hub.commits[name]:
                    return self.answer(404, X_Error_Code="RevisionNotFound")
                files = hub.commits[name][commit]
                if what == "/tree/":
                    listed = [{"type": "file", "path": path, "size": len(files[path]), "oid": path} for path in files]
                    return self.answer(200, json.dumps(listed).encode())
                if what == "/revision/":
                    listed = [{"rfilename": path} for path in files]
                    return self.answer(200, json.dumps({"id": name, "sha": commit, "siblings": listed}).encode())
                if file not in files:
                    return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                etag = hashlib.sha1(files[file]).hexdigest()
                return self.answer(200, files[file], X_Repo_Commit=commit, ETag=f'"{etag}"')

            do_HEAD = do_GET

        return Handler
