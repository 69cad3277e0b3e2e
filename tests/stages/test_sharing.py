"""Two groups and DVC: one has the teacher, the other trains a student from what it was given.

Not checked here: remotes other than a folder and a web server, which differ only inside DVC's drivers.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.format.manifest_parse import read_manifest
from storage.share.audit import audit
from tests.helpers.stores import folder_bytes
from tests.stages.test_pipeline import PROJECT, ROOT, environment, read, tiny_params

FUSION, STUDENT = "confident", "fused"
GIVEN = ("data/sequences", "data/masks", f"data/targets/{FUSION}", "data/sources/student", "data/code")
"""What the group without a teacher pulls."""
NOWHERE = "http://127.0.0.1:9"
"""Nothing answers here: who wants the network as a proxy's client fails."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A checkout, in which nothing of the user's own settings for git and DVC counts."""

    root: Path
    reachable: str = ""
    """Hosts that are not hidden behind `NOWHERE`."""

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        home = self.root.with_name(f"{self.root.name}-home")
        mine = {key: str(home / key) for key in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "HOME")}
        offline = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE)
        kept = {key: value for key, value in environment(self.root).items() if not key.startswith("DVC_")}
        del kept["PYTHONDONTWRITEBYTECODE"]  # ten processes a run: each would compile the project
        settings = (
            kept | mine | offline | {"DVC_NO_ANALYTICS": "1", "GIT_CONFIG_NOSYSTEM": "1", "NO_PROXY": self.reachable}
        )
        done = subprocess.run(command, cwd=self.root, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def git(self, *words: str) -> None:
        self.call("git", *words)

    def dvc(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "dvc", *words)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the groups have when both are done with the default way."""

    producer: Group
    consumer: Group
    trained: str
    """What DVC said when the consumer trained."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_mlm: Path) -> Shared:
    """A producer runs one fusion and one student and pushes; a consumer pulls what a student needs, and trains it."""
    root = tmp_path_factory.mktemp("sharing")
    producer, consumer = Group(root=root / "producer"), Group(root=root / "consumer")
    hub = root / "hub"
    shutil.copytree(tiny_teacher, hub / "fox")
    shutil.copytree(tiny_mlm, hub / "student")
    check_out(producer.root)
    params = producers_params(producer.root, hub)
    (producer.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    producer.git("init", "-q")
    producer.dvc("remote", "add", "-d", "lab", str(root / "lab"))
    producer.dvc("repro", f"train@{STUDENT}")
    producer.git("add", "-A")
    producer.git("commit", "-qm", "run")
    producer.dvc("push")
    hub.rename(root / "gone")

    subprocess.run(["git", "clone", "-q", str(producer.root), str(consumer.root)], check=True, capture_output=True)
    consumer.dvc("pull", *GIVEN)
    done = consumer.dvc("repro", "--single-item", f"train@{STUDENT}")
    return Shared(producer=producer, consumer=consumer, trained=done.stdout)


def check_out(root: Path) -> None:
    """The project's files without its data."""
    for name in (*PROJECT, ".gitignore"):
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local", "*.safetensors")
            shutil.copytree(source, root / name, ignore=ignored)
        else:
            shutil.copy(source, root / name)


def producers_params(root: Path, hub: Path) -> dict[str, Any]:
    """One teacher, one fusion, one student."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    names = list(params["teachers"])
    params = tiny_params(root, dict.fromkeys(names, hub / "fox"), hub / "student", rewriter=hub / "student")
    params |= {"senses": {}, "lexical": {}, "rewrite": {}, "suites": {suite: {} for suite in params["suites"]}}
    params["sources"] = {name: {"kind": "model", "local": str(hub / name)} for name in ("fox", "student")}
    params["teachers"] = {"fox": params["teachers"][names[0]] | {"model": "data/sources/fox"}}
    params["fusions"] = {FUSION: params["fusions"][FUSION] | {"teachers": ["fox"]}}
    params["students"] = {STUDENT: params["students"][STUDENT]}
    params["training"] |= {"steps": 6, "evaluations": 2}
    params["runtime"] |= {"threads": 1, "checkpoint_seconds": 60.0}
    return params


def test_the_consumer_trains_the_same_student(shared: Shared) -> None:
    assert f"Running stage 'train@{STUDENT}'" in shared.trained
    theirs, ours = (group.root / "models" / STUDENT for group in (shared.producer, shared.consumer))
    assert len(read(ours / "training.json")["curve"]) == 3
    assert folder_bytes(ours) == folder_bytes(theirs)


def test_the_consumer_has_no_teacher_and_no_text(shared: Shared) -> None:
    root = shared.consumer.root
    there = sorted(path.name for path in (root / "data").iterdir())
    assert there == ["code", "masks", "sequences", "sources", "targets"]
    assert [path.name for path in (root / "data" / "sources").iterdir()] == ["student"]
    teacher = (shared.producer.root / "data" / "sources" / "fox" / "model.safetensors").read_bytes()
    cached = [path for path in (root / ".dvc" / "cache").rglob("*") if path.is_file()]
    assert cached
    assert not any(path.stat().st_size == len(teacher) and path.read_bytes() == teacher for path in cached)


def test_what_was_pulled_is_sound_and_the_results_agree_with_the_lock(shared: Shared) -> None:
    for name in GIVEN[:3]:
        assert audit(shared.consumer.root / name) == []
    locks = [yaml.safe_load((group.root / "dvc.lock").read_text()) for group in (shared.producer, shared.consumer)]
    record = f"reports/runs/train-{STUDENT}.json"  # holds the seconds
    for lock in locks:
        outs = lock["stages"][f"train@{STUDENT}"]["outs"]
        lock["stages"][f"train@{STUDENT}"]["outs"] = [out for out in outs if out["path"] != record]
    assert locks[0] == locks[1]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server for the files of a folder, which knows nothing of DVC and takes nothing."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *message: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_anyone_pulls_a_store_over_http_without_an_account(shared: Shared, tmp_path: Path) -> None:
    """A clone of the repository, dvc.lock in it, and the folder that was pushed to behind a web server."""
    anyone = Group(root=tmp_path / "anyone", reachable="127.0.0.1")
    subprocess.run(["git", "clone", "-q", str(shared.producer.root), str(anyone.root)], check=True, capture_output=True)
    store = Path("data/targets") / FUSION
    with served(shared.producer.root.parent / "lab") as address:
        anyone.dvc("remote", "add", "--default", "public", address)
        anyone.dvc("pull", str(store))
    assert audit(anyone.root / store) == []
    assert folder_bytes(anyone.root / store) == folder_bytes(shared.producer.root / store)
    assert [path.name for path in (anyone.root / "data").iterdir()] == ["targets"]


def test_a_store_of_another_project_is_imported_and_trained_from(shared: Shared) -> None:
    """By `dvc import` from the producer's checkout, which records where it is from, and under another name."""
    group = shared.consumer
    (group.root / "shared").mkdir()
    source = str(shared.producer.root)
    group.dvc("import", source, f"data/targets/{FUSION}", "--out", "shared/theirs")
    theirs, ours = shared.producer.root / "data" / "targets" / FUSION, group.root / "shared" / "theirs"
    assert folder_bytes(ours) == folder_bytes(theirs)
    recorded = yaml.safe_load((group.root / "shared" / "theirs.dvc").read_text(encoding="utf-8"))
    assert recorded["deps"][0]["repo"]["url"] == source
    params = yaml.safe_load((group.root / "params.yaml").read_text(encoding="utf-8"))
    params["students"]["mine"] = params["students"][STUDENT] | {"targets": "shared/theirs"}
    (group.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    group.dvc("repro", "--single-item", "train@mine")
    curves = [read(group.root / "models" / name / "training.json")["curve"] for name in (STUDENT, "mine")]
    assert curves[0] == curves[1]
    weights = [(group.root / "models" / name / "model.safetensors").read_bytes() for name in (STUDENT, "mine")]
    assert weights[0] == weights[1]


def test_a_project_of_ones_own_imports_logits(shared: Shared, tmp_path: Path) -> None:
    """Nothing of this project's code or params is there: a store is data."""
    group = Group(root=tmp_path / "other")
    group.root.mkdir()
    group.git("init", "-q")
    group.dvc("init", "-q")
    group.dvc("import", str(shared.producer.root), "data/logits/fox")
    assert audit(group.root / "fox") == []
    assert read_manifest(group.root / "fox") == read_manifest(shared.producer.root / "data" / "logits" / "fox")
