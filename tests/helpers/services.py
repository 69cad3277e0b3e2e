"""Local stand-ins for a package index, a model hub and WordNet, with their real formats.

The index is a folder of wheels that pip reads with --find-links; the hub is an HTTP server that answers the requests
`huggingface_hub` makes; WordNet is a database of five synsets with true byte offsets.
"""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"

PUBLISHED = {
    "bert": "google-bert/bert-base-uncased",
    "roberta": "FacebookAI/roberta-base",
}
"""Families whose folders `published_files` lays out as the hub has them."""

OTHER_FORMATS = (
    ".gitattributes", "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "model.onnx",
    "coreml/fill-mask/float32_model.mlpackage/Manifest.json",
    "coreml/fill-mask/float32_model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
)  # fmt: skip
"""Formats of the same weights that lie beside them on the hub, and the list of large files."""


def published_files(folder: Path, name: str) -> dict[str, bytes]:
    """What the hub's repository of this family of `PUBLISHED` holds, by the hub's names, from a model in `folder`.

    tokenizer_config.json is that of the folder, which for these families names no special token.
    """
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    vocabulary = json.loads(files["tokenizer.json"])["model"]["vocab"]
    assert b"_token" not in files["tokenizer_config.json"]
    if name == "bert":
        files |= {"vocab.txt": "\n".join(vocabulary).encode(), "LICENSE": b"Apache License", "README.md": b"# BERT"}
    else:
        files |= {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": b"#version: 0.2\n"}
        files |= {"dict.txt": b"", "README.md": b"# RoBERTa"}
    return files | dict.fromkeys(OTHER_FORMATS, b"not asked for")


def use_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does, which is read once when huggingface_hub is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)


def write_wheel(index: Path, name: str, files: Mapping[str, bytes], *, version: str = "0.1.0") -> dict[str, str]:
    """Write a wheel into the index folder; return its entry for a mirror: name, version, sha256."""
    index.mkdir(parents=True, exist_ok=True)
    module = name.replace("-", "_")
    meta = f"{module}-{version}.dist-info"
    path = index / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, content in files.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{meta}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{meta}/RECORD", "")
    return {"name": name, "version": version, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def pip_environment(index: Path) -> dict[str, str]:
    """Variables with which pip sees this index and no other, nor the machine's settings."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": "/dev/null"}


class Hub:
    """A model hub on localhost; `files` maps "owner/name" to the files of its only commit. Use as a context manager.

    commits has the commit of a repository where it is not `COMMIT`.
    """

    def __init__(
        self, files: Mapping[str, Mapping[str, bytes]], commits: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.files, self.commits = files, commits
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path: revision, tree, or a file."""
        parts = [part for part in unquote(path).strip("/").split("/") if part not in ("models", "datasets")]
        api = parts[0] == "api"
        repo, what, commit, file = "/".join(parts[api : api + 2]), parts[api + 2], parts[api + 3], "/".join(parts[4:])
        files, own = self.files.get(repo), self.commits.get(repo, COMMIT)
        if files is None or commit != own:
            return 404, {"X-Error-Code": "RepoNotFound" if files is None else "RevisionNotFound"}, b""
        if what == "revision":
            body: Any = {"id": repo, "sha": own, "siblings": [{"rfilename": name} for name in files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        if what == "tree":
            body = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()
        if what != "resolve" or file not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{_etag(files[file])}"', "X-Repo-Commit": own}, files[file]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                hub.requests.append(path)
                status, headers, body = hub.answer(path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *message: object) -> None:
                pass

        return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


SYNSETS = {
    "noun": [
        ("03", "n", ["entity"], "that which is perceived"),
        ("05", "n", ["dog", "domestic_dog"], 'a member of the genus Canis; "the dog barked all night"'),
    ],
    "verb": [("38", "v", ["walk"], 'use one\'s feet to advance; "walk, do not run"')],
    "adj": [("00", "a", ["able"], "having the necessary means")],
    "adv": [("02", "r", ["ably"], "with competence")],
}
SYNSET_COUNT, SENSE_COUNT = 5, 6
POS_NUMBERS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


def write_tiny_wordnet(folder: Path, *, version: str = "3.0") -> Path:
    """Write the files of a WordNet database of five synsets and six senses."""
    folder.mkdir(parents=True, exist_ok=True)
    head = f"  1 Princeton licence  \n  2 WordNet {version} Copyright 2006 by Princeton University  \n  3   \n"
    senses = []
    for pos, synsets in SYNSETS.items():
        data, index = head, []
        for number, letter, words, gloss in synsets:
            offset = len(data)
            listed = " ".join(f"{word} 0" for word in words)
            frames = "00 " if pos == "verb" else ""
            data += f"{offset:08d} {number} {letter} {len(words):02x} {listed} 000 {frames}| {gloss}  \n"
            for word in words:
                index.append(f"{word} {letter} 1 0 1 1 {offset:08d}  \n")
                senses.append((f"{word}%{POS_NUMBERS[pos]}:{number}:00::", f"{offset:08d} 1 7"))
        (folder / f"data.{pos}").write_text(data, encoding="ascii")
        (folder / f"index.{pos}").write_text(head + "".join(sorted(index)), encoding="ascii")
        (folder / f"{pos}.exc").write_text("dogs dog\n" if pos == "noun" else "", encoding="ascii")
    senses.sort()
    (folder / "index.sense").write_text("".join(f"{key} {rest}\n" for key, rest in senses), encoding="ascii")
    (folder / "cntlist.rev").write_text("".join(f"{key} 1 7\n" for key, _ in senses), encoding="ascii")
    return folder
