"""`make demo`: the whole way, from texts over `cohesive init` and `dvc repro` to the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from storage.documents import DocumentStore

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a demonstration, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", folder],
        cwd=folder.parent, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_last_line_names_a_page_that_is_there(shown: tuple[Path, str]) -> None:
    folder, printed = shown
    page = folder / "project" / "reports" / "index.html"
    assert printed.splitlines()[-1] == f"Open in a browser: {page.as_uri()}"
    assert "Models so small say nothing about the quality of others" in printed
    text = page.read_text(encoding="utf-8")
    assert "of-animals" in text and "labels-only" in text


def test_what_it_shows_is_what_the_project_is_for(shown: tuple[Path, str]) -> None:
    """Specialists of two domains: their fusion is better than each, and a student of it than one without teachers."""
    summary = json.loads((shown[0] / "project" / "reports" / "summary.json").read_text(encoding="utf-8"))
    teachers = {name: entry["nll"] for name, entry in summary["teachers"].items()}
    assert set(teachers) == {"of-animals", "of-trades"}
    assert summary["fusions"]["fused"]["nll"] < min(teachers.values())
    assert summary["students"]["fused"]["nll"] < summary["students"]["labels-only"]["nll"]


def test_it_runs_the_settings_of_init(shown: tuple[Path, str]) -> None:
    project = shown[0] / "project"
    inputs = yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8"))["inputs"]
    assert {name: entry["kind"] for name, entry in inputs.items()} == {"animals": "csv", "trades": "jsonl"}
    for name in inputs:
        assert DocumentStore(project / "data" / "text" / name).manifest.facts["counts"]["documents"] == 240


def test_its_student_is_a_plain_hugging_face_folder(shown: tuple[Path, str]) -> None:
    from transformers import pipeline

    fill = pipeline("fill-mask", model=str(shown[0] / "project" / "models" / "fused"))
    assert len(fill("The farmer brings [MASK].")) == 5


def test_an_option_is_no_folder(tmp_path: Path) -> None:
    for option, code, printed in (("--help", 0, "usage: demo.py"), ("--nothing", 2, "")):
        done = subprocess.run(
            [sys.executable, ROOT / "examples" / "demo.py", option],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code
        assert printed in done.stdout
    assert not any(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "demo.py", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path}: is not empty. Give a new folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
