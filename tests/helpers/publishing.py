"""A hub on this machine that can be written to: repositories, uploads of large files by Git LFS, and commits."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.helpers.services import COMMIT, Hub

TOKEN, READER = "hf_writes", "hf_reads"
LARGE = 10_000
"""Bytes from which a file goes through LFS here."""

Answer = tuple[int, dict[str, str], bytes]


class WritableHub(Hub):
    """`files` has the repositories that exist; TOKEN may write to those of `owner`, READER to none."""

    def __init__(self, files: Mapping[str, Mapping[str, bytes]], *, owner: str = "group") -> None:
        super().__init__({})
        self.files: dict[str, dict[str, bytes]] = {repo: dict(held) for repo, held in files.items()}
        self.kinds: dict[str, str] = {}
        """By repository that was made here: model or dataset, and whether it is private."""
        self.owner = owner
        self.messages: list[str] = []
        """Of the commits made here."""
        self.uploads: list[int] = []
        """Sizes of what came through LFS."""
        self._large: dict[str, bytes] = {}

    def answer(self, path: str) -> Answer:
        """As of a reading hub; `main` is the only commit, and a folder can be listed."""
        parts = [part for part in unquote(path).strip("/").split("/") if part not in ("models", "datasets")]
        if len(parts) < 3:
            return 404, {}, b""
        if parts[0] == "api" and len(parts) == 3:
            return super().answer(f"{path}/revision/{COMMIT}")
        found = super().answer(path.replace("/main", f"/{COMMIT}", 1))
        if found[0] == 200 and "tree" in parts and len(parts) > 5:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return found

    def write(self, method: str, path: str, body: bytes, *, token: str) -> Answer:
        """Status, headers and body for a request that changes something."""
        parts = [part for part in unquote(path).strip("/").split("/") if part not in ("models", "datasets")]
        if method == "PUT":
            digest = parts[-1]
            assert hashlib.sha256(body).hexdigest() == digest
            self._large[digest] = body
            self.uploads.append(len(body))
            return 200, {}, b""
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
            if token != TOKEN or not repo.startswith(f"{self.owner}/"):
                return 403, {"X-Error-Message": "You may not create here"}, b""
            if repo in self.files:
                return _json({"url": f"{self.url}/{repo}"}, status=409)
            self.files[repo] = {".gitattributes": b""}
            self.kinds[repo] = (
                f"{wanted.get('type') or 'model'}{' private' if wanted.get('visibility') == 'private' else ''}"
            )
            return _json({"url": f"{self.url}/{repo}"})
        lfs = parts[-2:] == ["objects", "batch"]
        repo = "/".join(parts[:2]).removesuffix(".git") if lfs else "/".join(parts[1:3])
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if token != TOKEN or not repo.startswith(f"{self.owner}/"):
            return 403, {"X-Error-Message": "Forbidden: you have no write access"}, b""
        if lfs:
            return _json({"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]})
        if parts[3] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
            return _json({"files": files})
        assert parts[3] == "commit", path
        self._commit(repo, [json.loads(line) for line in body.splitlines()])
        return _json({"commitUrl": f"{self.url}/{repo}/commit/{COMMIT}", "commitOid": COMMIT})

    def _upload(self, wanted: Mapping[str, object]) -> dict[str, object]:
        href = f"{self.url}/lfs/{wanted['oid']}"
        return {"oid": wanted["oid"], "size": wanted["size"], "actions": {"upload": {"href": href}}}

    def _commit(self, repo: str, lines: list[dict[str, dict[str, str]]]) -> None:
        held = self.files[repo]
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.messages.append(value["summary"])
                case "file":
                    held[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    held[value["path"]] = self._large[value["oid"]]
                case "deletedFile":
                    del held[value["path"]]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(super()._handler()):
            def do_POST(self) -> None:
                path = urlsplit(self.path).path
                hub.requests.append(path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, headers, found = hub.write(self.command, path, body, token=token)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(found)))
                self.end_headers()
                self.wfile.write(found)

            do_PUT = do_POST

        return Handler


def _json(value: object, *, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()
