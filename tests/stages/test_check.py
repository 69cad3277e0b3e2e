"""The commands `check` and `prune`, as processes: exit codes, one line, speed of start-up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.work import WorkFolder, Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the default settings and what they need on disk."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    for name in ("wordnet-things", "wordnet-rest", "minilm-l6-mlm", "minilm-l6-wsd", "minilm-prose"):
        (tmp_path / "assets" / name).mkdir(parents=True)
    return tmp_path


def run(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_good_settings_leave_a_constant_file(project: Path) -> None:
    done = run(project, "stages.check", "--out", "data/params.ok")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (project / "data" / "params.ok").read_bytes() == b"ok\n"


def test_bad_settings_are_one_line_and_exit_code_2(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("  rate: 0.30", "  rat: 0.30"), encoding="utf-8")
    done = run(project, "stages.check", "--out", "data/params.ok")
    expected = "Error: params.yaml: mask: unknown key 'rat' (did you mean 'rate'?)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert not (project / "data").exists()


def test_contradictions_between_sections_are_one_line(project: Path) -> None:
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.count("  glue: {}") == 1
    path.write_text(text.replace("  glue: {}", "  glue: {fused: {model: models/fused}}"), encoding="utf-8")
    done = run(project, "stages.check", "--out", "data/params.ok")
    expected = (
        "Error: params.yaml: glue.data: no folder 'data/glue'. Unpack GLUE there, or set data: hub and its revision\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    (project / "data" / "glue").mkdir(parents=True)
    assert run(project, "stages.check").returncode == 0


def test_no_settings(tmp_path: Path) -> None:
    done = run(tmp_path, "stages.check")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("Error: params.yaml: not found.")


def test_checking_loads_nothing_slow(project: Path) -> None:
    slow = ["torch", "transformers", "dask", "peft", "nltk", "matplotlib", "tokenizers", "huggingface_hub"]
    slow += ["sklearn", "scipy"]
    script = f"import sys, stages.check; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"


def test_prune_lists_and_removes_only_when_told(project: Path) -> None:
    (project / "data" / "logits" / "bert").mkdir(parents=True)
    (project / "data" / "logits" / "wordnet-things").mkdir()
    (project / "reports" / "teachers").mkdir(parents=True)
    (project / "reports" / "teachers" / "bert.json").touch()

    def work(name: str) -> WorkFolder:
        return WorkFolder(project / "out" / name, name=name, identity="a" * 64, workspace=Workspace(project / ".work"))

    with work("logits-wordnet-rest"):
        pass  # unfinished
    found = ["data/logits/bert", "reports/teachers/bert.json", f".work/logits-wordnet-things-{'a' * 16}"]
    with work("logits-held") as held:
        held.publish()
        with work("logits-wordnet-things") as finished:
            finished.publish()
        listed = run(project, "stages.tools.prune")
        assert listed.returncode == 0, listed.stderr
        assert listed.stdout.splitlines()[:-1] == [f"would remove {path}" for path in found]
        assert all((project / path).exists() for path in found)
        removed = run(project, "stages.tools.prune", "--yes")
        assert removed.stdout.splitlines() == [f"removing {path}" for path in found]
    left = {path.relative_to(project).as_posix() for path in (project / ".work").iterdir() if path.is_dir()}
    assert left == {f".work/logits-wordnet-rest-{'a' * 16}", f".work/logits-held-{'a' * 16}"}
    assert [path.name for path in (project / "data" / "logits").iterdir()] == ["wordnet-things"]
    assert not (project / "reports" / "teachers" / "bert.json").exists()


def test_nothing_to_prune(project: Path) -> None:
    assert run(project, "stages.tools.prune").stdout == "nothing to remove\n"
