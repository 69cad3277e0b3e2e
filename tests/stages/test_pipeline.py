"""The whole pipeline, real stages under DVC, on sixty short documents and models of two layers.

Not checked here: that distillation or lexical training helps (two-layer models show nothing; see docs/results), which
stages an edit runs (test_dvc_graph.py), and GLUE, whose files nobody may give away (test_glue_command.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.work import Workspace
from tests.helpers import stores as fakes
from tests.helpers.stores import folder_bytes

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ("storage", "pipeline", "stages", "assets", "dvc.yaml", ".dvcignore", ".dvc")


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
    }  # fmt: skip


def call(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


STUDENTS = {"fused", "fused-uniform", "only-things", "only-rest", "labels-only"}


def tiny_params(folder: Path, teachers: dict[str, Path], student: Path, *, rewriter: Path) -> dict[str, Any]:
    """The project's own params.yaml with tiny models, texts and counts."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    old = list(params["teachers"])
    rename = dict(zip(old, teachers, strict=True))
    params["sources"] = {
        name: {"kind": "model", "local": str(path)}
        for name, path in (teachers | {"student": student, "scribe": rewriter}).items()
    }
    params["inputs"] = {
        "animals": {"kind": "jsonl", "path": str(fakes.write_jsonl(folder / "texts" / "animals.jsonl"))}
    }
    params["corpus"] = {"share": 1.0, "calibration": 0.35, "heldout": 0.25}
    params["tokenize"] = {"tokenizer": "data/sources/student", "sequence_tokens": 24}
    params["mask"] = {"rate": 0.3, "copies": 2, "seed": 0, "shard_rows": 64}
    params["teachers"] = {
        name: {
            "model": f"data/sources/{name}",
            "keep": {"form": "topk", "k": 8},
            "tail": {"rank": 4, "step": 0.4},
            "temperatures": [1.0, 2.0],
            "seed": 0,
        }
        for name in teachers
    }
    params["exact"] = {"positions": 64}
    params["target_gradients"] = {"start": "data/sources/student", "positions": 64}
    for fusion in params["fusions"].values():
        fusion["teachers"] = [rename[name] for name in fusion["teachers"]]
    for entry in params["students"].values():
        entry["start"] = "data/sources/student"
    params["training"] |= {"steps": 16, "step_tokens": 200, "evaluations": 4}
    params["runtime"] |= {"batch_tokens": 256, "checkpoint_seconds": 0.05}
    tiny_suites(params, write_inventory(folder / "texts" / "senses.jsonl"), teacher=next(iter(teachers)))
    return params


def tiny_suites(params: dict[str, Any], inventory: Path, *, teacher: str) -> None:
    """Make the sections about senses and suites tiny, in place."""
    params["published"] = {}  # senses of an inventory that is not here
    params["lexicon"] = {"kind": "jsonl", "path": str(inventory)}
    params["senses"]["examples"] |= {"share": 1.0, "heldout": 0.3}
    lexical = params["lexical"]["lexical"]
    lexical["reading"] = {"context_tokens": 24, "gloss_tokens": 24, "examples": True}
    lexical["language_model"]["step_tokens"] = 200
    lexical["training"] |= {"epochs": 2.0, "step_words": 8}
    params["rewrite"]["prose"] |= {
        "model": "data/sources/scribe", "shares": [0.5], "top_k": 8, "words_min": 6, "words_max": 20, "paragraphs": 40,
        "test_share": 0.5,
    }  # fmt: skip
    params["paraphrase"] |= {"seeds": [0], "bootstrap": 20}
    params["paraphrase"]["finetune"] |= {"epochs": 1, "max_tokens": 32}
    params["costs"] |= {"sequence_tokens": 16, "batches": [1, 2]}
    params["suites"]["paraphrase"] = {"lexical": {"model": "models/lexical"}}
    params["suites"]["costs"] = {
        teacher: {"model": f"data/sources/{teacher}"}, "fused": {"model": "models/fused"},
        "lexical": {"model": "models/lexical"},
    }  # fmt: skip


def write_inventory(path: Path) -> Path:
    """Two senses of each animal of the tiny text: the animal, and a person who is called so."""
    lines = []
    for adjective, animal, place, food in fakes.ANIMALS:
        for number, (gloss, examples) in enumerate({
            f"an animal that likes {food}": [f"the {animal} sleeps {place}", f"a {animal} eats {food} every morning"],
            f"a {adjective} farmer": [f"the farmer is a {animal}", f"the {animal} brings an animal {place}"],
        }.items()):  # fmt: skip
            sense = {"key": f"{animal}%{number}", "lemma": animal, "pos": "NOUN", "gloss": gloss, "examples": examples}
            lines.append(json.dumps(sense))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_tokenizer: Path, tiny_mlm: Path) -> Path:
    """A checkout with tiny params after one `dvc repro`."""
    folder = tmp_path_factory.mktemp("project")
    for name in PROJECT:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp", "*.safetensors")
            shutil.copytree(source, folder / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, folder / name)
    second = fakes.write_tiny_mlm(folder / "second", tiny_tokenizer, seed=2, steps=150)
    rewriter = fakes.write_tiny_mlm(folder / "scribe", tiny_tokenizer, seed=3)
    params = tiny_params(folder, {"fox": tiny_teacher, "hen": second}, tiny_mlm, rewriter=rewriter)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    call(folder, "git", "init", "-q")
    call(folder, sys.executable, "-m", "dvc", "repro")
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_summary_has_every_promised_number(project: Path) -> None:
    summary = read(project / "reports" / "summary.json")
    assert set(summary["teachers"]) == {"fox", "hen"}
    for teacher in summary["teachers"].values():
        assert {"nll", "accuracy", "parameters", "positions", "bytes_per_position", "coverage"} <= set(teacher)
        assert 0 < teacher["nll"] < 4
    for fusion in summary["fusions"].values():
        assert {"nll", "accuracy", "kl_to_best_teacher"} <= set(fusion)
    assert set(summary["students"]) == STUDENTS | {"lexical"}
    for student in (summary["students"][name] for name in STUDENTS):
        assert {"nll", "accuracy", "ece", "parameters", "curve", "seconds"} <= set(student)
        assert [step for step, _ in student["curve"]] == [0, 4, 8, 12, 16]
        assert student["curve"][-1][1] < student["curve"][0][1]
    assert {"python", "torch", "device", "dtype", "seconds"} <= set(summary["run"])


def test_the_summary_sets_the_lexical_student_beside_its_start(project: Path) -> None:
    summary = read(project / "reports" / "summary.json")
    lexical = summary["students"]["lexical"]
    assert lexical.items() >= {"start": "models/fused"}.items()
    assert {"seconds", "wsd", "language_model", "paraphrase", "costs"} <= set(lexical)
    assert 0 <= lexical["wsd"]["all"]["low"] <= lexical["wsd"]["all"]["value"] <= lexical["wsd"]["all"]["high"] <= 1
    assert 0.9 < lexical["language_model"]["nll"]["value"] / summary["students"]["fused"]["nll"] < 1.1
    assert lexical["costs"]["parameters"] == summary["students"]["fused"]["costs"]["parameters"]
    assert "costs" in summary["teachers"]["fox"]
    assert {row["suite"] for row in summary["lexical"]} == {"language_model", "costs"}, "evaluated before and after"
    assert {row["suite"] for row in summary["rankings"]} == {"wsd", "paraphrase", "language_model"}
    text = (project / "reports" / "report.md").read_text(encoding="utf-8")
    assert "## With and without lexical training" in text
    assert (project / "reports" / "plots" / "costs.png").is_file()


def test_lexical_training_leaves_a_language_model_with_the_head_for_senses_beside_it(project: Path) -> None:
    from safetensors.numpy import load_file
    from transformers import pipeline

    lexical, start = (project / "models" / name for name in ("lexical", "fused"))
    assert len(pipeline("fill-mask", model=str(lexical))("the farmer brings [MASK].")) == 5
    shapes = [{name: value.shape for name, value in load_file(folder / "model.safetensors").items()}
              for folder in (lexical, start)]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert (lexical / "senses" / "head.safetensors").is_file()
    assert folder_bytes(lexical / "senses" / "lexicon") == folder_bytes(project / "data" / "lexicon")


def test_all_students_start_alike_and_see_the_same_tokens(project: Path) -> None:
    records = [read(project / "models" / name / "training.json") for name in sorted(STUDENTS)]
    assert len({record["curve"][0][1] for record in records}) == 1
    assert len({record["tokens"] for record in records}) == 1
    assert len({record["curve"][-1][1] for record in records}) == 5


def test_a_second_run_does_nothing(project: Path) -> None:
    done = call(project, sys.executable, "-m", "dvc", "repro")
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout


def test_a_student_is_a_plain_hugging_face_folder(project: Path) -> None:
    from transformers import pipeline

    fill = pipeline("fill-mask", model=str(project / "models" / "fused"))
    assert len(fill("the farmer brings [MASK].")) == 5
    card = (project / "models" / "fused" / "README.md").read_text(encoding="utf-8")
    assert "data/targets/confident" in card


def test_metrics_and_plots_are_shown_by_dvc(project: Path) -> None:
    shown = call(project, sys.executable, "-m", "dvc", "metrics", "show", "--json")
    assert "reports/summary.json" in shown.stdout
    plots = call(project, sys.executable, "-m", "dvc", "plots", "show", "-o", "plots")
    assert (project / "plots" / "index.html").is_file(), plots.stdout


def test_show_prints_a_documents_way(project: Path) -> None:
    shown = call(project, sys.executable, "-m", "stages.tools.show").stdout
    for word in ("fox", "hen", "labels-only"):
        assert word in shown
    refused = call(project, sys.executable, "-m", "stages.tools.show", "--document", "animals:t9999", check=False)
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_a_mistyped_value_is_refused_before_any_work(project: Path) -> None:
    params = project / "params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("rate: 0.3", "rte: 0.3"), encoding="utf-8")
    try:
        done = call(project, sys.executable, "-m", "dvc", "repro", check=False)
    finally:
        params.write_text(text, encoding="utf-8")
    assert done.returncode != 0
    assert "mask: unknown key 'rte' (did you mean 'rate'?)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "stages.mask" not in done.stdout


COMMANDS = {
    "teach": ("logits/fox", "stages.teach", "fox", "--documents", "data/documents", "--sequences", "data/sequences",
              "--masks", "data/masks", "--tokenizer", "data/sources/student", "--out"),
    "train": ("models/fused", "stages.train", "fused", "--sequences", "data/sequences", "--masks", "data/masks",
              "--tokenizer", "data/sources/student", "--out"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_killed_at_random_moments_it_continues_to_the_same_bytes(project: Path, name: str) -> None:
    made, *command = COMMANDS[name]
    finished = project / ("data" if name == "teach" else "") / made
    shutil.rmtree(project / ".work", ignore_errors=True)
    out = project / "again" / finished.name
    rng = random.Random(name)
    kills = 0
    for attempt in range(6):
        before = progress(project)
        process = subprocess.Popen(
            [sys.executable, "-m", *command, str(out)], cwd=project, env=environment(project),
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        # Three kills: at once after a new shard or checkpoint, and up to a tenth of a second later.
        while attempt < 3 and process.poll() is None and progress(project) == before:
            wait(process, 0.005)
        wait(process, rng.uniform(0, 0.1) if attempt < 3 else 200)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert not out.exists() or tree(out) == tree(finished), "an output that is not whole"
    assert process.returncode == 0
    assert kills >= 1
    assert tree(out) == tree(finished)


def progress(project: Path) -> set[str]:
    """What interrupted runs have finished so far: journal lines and checkpoints."""
    lines = {f"{path.parent.name}:{path.stat().st_size}" for path in project.glob(".work/*/journal.jsonl")}
    return lines | {str(path) for path in project.glob(".work/*/checkpoints/step-*")}


def wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)


def test_a_second_run_at_once_stops_and_names_the_first(project: Path) -> None:
    from storage.work import WorkFolder

    out = project / "again" / "busy"
    with WorkFolder(out, name="models-busy", identity="0" * 64, workspace=Workspace(project / ".work")):
        _, *command = COMMANDS["train"]
        done = call(project, sys.executable, "-m", *command, str(out), check=False)
    assert done.returncode == 2
    assert f"is being written by process {os.getpid()}" in done.stderr
    assert "Traceback" not in done.stderr
