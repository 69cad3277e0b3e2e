"""`cohesive init`: what it writes is accepted, explained and fits models, texts and machine.

Not checked here: that the whole pipeline runs from it, which the test of the demonstration does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.project import scaffold
from pipeline.project.consistency import read_consistent
from pipeline.project.scaffold import Machine, model_of, settings_text, surveyed_in
from stages.tools.cohesive import main
from storage.errors import SourceError
from tests.helpers.stores import TINY_TEXT, write_jsonl

COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"


@pytest.fixture
def texts(workplace: Path) -> Path:
    return write_jsonl(workplace / "animals.jsonl", TINY_TEXT * 4)


def model(folder: Path, **config: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64} | config), encoding="utf-8")
    return str(folder)


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, arguments)])


def test_a_folder_becomes_a_project_that_the_check_accepts(workplace: Path, texts: Path) -> None:
    fox, small = model(workplace / "fox"), model(workplace / "small")
    hub = f"bert=google-bert/bert-base-uncased@{COMMIT}"
    done = init("project", "-t", f"{fox},{hub}", "--student", f"tiny={small}", "--text", texts)
    assert done.exit_code == 0, done.output
    assert "animals.jsonl: jsonl, 240 documents, text in 'text'" in done.output
    assert done.output.splitlines()[-1] == "Results will be in project/reports/index.html"
    project = workplace / "project"
    assert (project / ".git").is_dir() and (project / "stages" / "teach.py").is_file()
    checked = CliRunner().invoke(main, ["check", "--params", str(project / "params.yaml")])
    assert checked.exit_code == 2  # from another folder, its paths are not there
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        settings = read_consistent(Path("params.yaml"))
    assert set(settings.teachers) == {"fox", "bert"}
    assert set(settings.students) == {"fused", "only-fox", "only-bert", "labels-only"}
    assert settings.sources["bert"].model_dump(exclude_none=True) == {
        "kind": "model", "hub": "google-bert/bert-base-uncased", "revision": COMMIT,
    }  # fmt: skip
    assert settings.tokenize.tokenizer == "data/sources/tiny"
    assert settings.tokenize.sequence_tokens == 60
    assert settings.fusions["fused"].weighting == "learned"


def test_a_params_yaml_is_written_over_by_force_alone(workplace: Path, texts: Path) -> None:
    fox = model(workplace / "fox", num_hidden_layers=4)
    arguments = ("-t", fox, "--student", fox, "--text", texts)
    assert init("project", *arguments).exit_code == 0
    before = (workplace / "project" / "params.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(before)
    assert settings["students"]["fused"]["layers"] == [0, 2], "a student that starts from its teacher is smaller"
    assert list(settings["students"]) == ["fused", "labels-only"]
    assert list(settings["sources"]) == ["fox"]
    refused = init("project", *arguments)
    assert refused.exit_code == 2
    assert refused.output == (
        "Error: project/params.yaml: is there already. Give another FOLDER, or --force to write over it\n"
    )
    (workplace / "project" / "params.yaml").write_text("mine", encoding="utf-8")
    (workplace / "project" / "stages" / "mine.py").touch()
    assert init("project", *arguments, "--force").exit_code == 0
    assert (workplace / "project" / "params.yaml").read_text(encoding="utf-8") == before
    assert (workplace / "project" / "stages" / "mine.py").is_file(), "the code that is there stays"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"-t": "nowhere/at/all"}, "--teachers nowhere/at/all: expected a folder that is there or a name on the hub"),
        ({"-t": "a/b@main"}, "expected a commit of 40 hexadecimal digits after @, got 'main'"),
        ({"--student": "empty"}, "--student empty: expected a Hugging Face model folder, found no config.json"),
        ({"--text": "short.jsonl"}, "1 documents with about 1 tokens, expected at least 20 with 3000"),
        ({"-t": "fox,fox"}, "--teachers: expected a name each, got 'fox' twice. Give names, as NAME=fox"),
        ({"FOLDER": "taken"}, "taken: has assets, which a project needs. Give an empty FOLDER"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    workplace: Path, texts: Path, changes: dict[str, str], message: str
) -> None:
    model(workplace / "fox")
    for folder in ("empty", "taken/assets"):
        (workplace / folder).mkdir(parents=True)
    (workplace / "short.jsonl").write_text('{"text": "a text"}', encoding="utf-8")
    options = {"-t": "fox", "--student": "fox", "--text": str(texts)} | changes
    done = init(options.pop("FOLDER", "new"), *(part for option in options.items() for part in option))
    assert done.exit_code == 2
    assert message in done.output
    assert not (workplace / "new").exists()


def test_a_hub_name_is_pinned_by_the_commit_that_it_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, "latest_commit", lambda repo: {"owner/some.model": COMMIT}[repo])
    found = model_of("owner/some.model", "--teachers")
    assert (found.name, found.source) == ("some-model", {"hub": "owner/some.model", "revision": COMMIT})


@pytest.mark.parametrize(("cores", "gpu", "share"), [(1, False, 0.11), (4, False, 0.42), (1, True, 1.0)])
def test_the_machine_decides_how_much_text_is_read(workplace: Path, cores: int, gpu: bool, share: float) -> None:
    long = write_jsonl(workplace / "long.jsonl", tuple(f"{i} {text}" for i, text in enumerate(TINY_TEXT * 30)))
    folder = model_of(f"fox={model(workplace / 'fox')}", "--teachers")
    seen = [one.__class__(params=one.params, documents=one.documents, tokens=712_000, exact=True, columns=one.columns)
            for one in surveyed_in(workplace, [long])]  # fmt: skip
    text = settings_text([folder], folder, seen, Machine(cores=cores, gpu=gpu))
    params = yaml.safe_load(text)
    assert params["inputs"]["long"]["path"] == "long.jsonl", "a text in the folder is named relative to it"
    assert params["corpus"]["share"] == share
    kept = 1800 * share
    assert params["corpus"]["heldout"] == pytest.approx(min(0.25, 300 / kept), rel=0.05)
    train = 712_000 * share * (1 - params["corpus"]["heldout"] - params["corpus"]["calibration"])
    assert params["training"]["steps"] * params["training"]["step_tokens"] == pytest.approx(1.2 * train, rel=0.05)
    assert params["runtime"]["batch_tokens"] == (16384 if gpu else 2048)


def test_without_a_network_a_commit_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        SourceError, match=r"owner/model: the hub does not say its commit .*Give it: owner/model@COMMIT"
    ):
        model_of("owner/model", "--teachers")
