"""The files of examples/: complete, understood, and run through the stages up to their students, on tiny models.

Not checked here: that the models and data sets they name are on the hub, and that a run of full size is worth its time.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from benchmarks.families.configs import FAMILIES, SMALL
from benchmarks.families.matrix import publish
from benchmarks.families.texts import write_texts
from pipeline.core.config import load
from pipeline.project.consistency import read_consistent
from tests.helpers import stores as fakes
from tests.helpers.services import OTHER_FORMATS, PUBLISHED, Hub, published_files, use_hub

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
STAGES = (
    "sources",
    "ingest",
    "corpus",
    "tokenize",
    "mask",
    "adapt",
    "teach",
    "fuse",
    "train",
    "lexicon",
    "senses",
    "lexical",
)
"""Those that make students; what evaluates them reads no other settings than the default's."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_what_it_is_for_and_is_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = path.read_text(encoding="utf-8")
    comment = re.match(r"(?:#.*\n)+", text)
    assert comment is not None
    assert f"cp examples/{path.name} params.yaml" in comment[0]
    read_consistent(path)


def test_every_example_of_the_plan_is_there() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "fresh-student", "one-gpu", "own-senses", "published-models", "slurm", "specialists",
    ]  # fmt: skip


def test_what_was_fetched_for_the_default_settings_is_there_for_the_examples() -> None:
    default = load(ROOT / "params.yaml")["sources"]
    for path in EXAMPLES:
        sources = load(path)["sources"]
        assert all(sources[name] == default[name] for name in sources.keys() & default.keys()), path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_tokenizer: Path) -> dict[str, Path]:
    """Trained models of three vocabularies: BERT's, another WordPiece, and one that tells letters' cases apart."""
    folder = tmp_path_factory.mktemp("models")
    bytes_too = fakes.write_tiny_bpe_tokenizer(folder / "bpe")
    return {
        "bert": fakes.write_tiny_mlm(folder / "bert", tiny_tokenizer, seed=2, steps=150),
        "roberta": fakes.write_tiny_mlm(folder / "roberta", bytes_too, seed=3, steps=150),
        "mpnet": tiny_teacher,
    }


def tiny(params: dict[str, Any], models: dict[str, Path], texts: Path) -> dict[str, Any]:
    """The settings with other models, text and counts; names, fusions, losses and what follows from them stay."""
    params["sources"] = {
        name: {"kind": "model", "local": str(models[next((kind for kind in models if kind in name), "bert")])}
        for name, source in params["sources"].items()
        if source["kind"] == "model" and models
    }
    params["inputs"] = {"animals": {"kind": "jsonl", "path": str(texts)}}
    params["corpus"] = {"share": 1.0, "calibration": 0.35, "heldout": 0.25}
    params["tokenize"]["sequence_tokens"] = 24
    params["mask"] |= {"rate": 0.3, "copies": min(2, params["mask"]["copies"]), "shard_rows": 64}
    for adapter in params["adapters"].values():
        short = adapter["training"] | {"steps": 2, "step_tokens": 200, "evaluations": 1}
        adapter |= {"text": "data/documents", "include": [], "sequence_tokens": 24, "training": short}
    for teacher in params["teachers"].values():
        teacher |= {"keep": {"form": "topk", "k": 8}, "tail": {"rank": 4, "step": 0.4}}
    params["training"] |= {"steps": 2, "step_tokens": 200, "evaluations": 1}
    for student in params["students"].values():
        if "layers" in student:
            student["layers"] = [0]
        if "config" in student:
            sizes = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
            assert student["config"].keys() == sizes.keys()
            student["config"] = sizes
    if params["lexicon"]["kind"] == "jsonl":
        params["lexicon"]["path"] = str(ROOT / params["lexicon"]["path"])
    for lexical in params["lexical"].values():
        lexical["reading"] = {"context_tokens": 48, "gloss_tokens": 48, "examples": True}
        lexical["language_model"]["step_tokens"] = 200
        lexical["training"] |= {"epochs": 1.0, "step_words": 8}
    params["runtime"] |= {
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "batch_tokens": 512,
        "scheduler": "threads",
    }
    return params


def runs(params: dict[str, Any]) -> Iterator[list[str]]:
    """The commands of dvc.yaml for these settings, up to the students."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage in STAGES:
        if stage == "lexicon" and params["lexicon"]["kind"] == "wordnet":
            continue
        body = pipeline[stage]
        entries = params[body["foreach"].strip("${}")] if "foreach" in body else {None: None}
        for name, item in entries.items():
            values = {"key": name, "item": item, **params}
            command = body.get("do", body)["cmd"]
            yield shlex.split(re.sub(r"\$\{([\w.]+)\}", lambda found, of=values: str(pick(of, found[1])), command))


def pick(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        values = values[key]
    return values


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_makes_its_students(path: Path, models: dict[str, Path], workplace: Path) -> None:
    texts = fakes.write_jsonl(workplace / "animals.jsonl")
    # Through JSON's types: an entry that was merged by `<<` shares its parts with others.
    params = tiny(yaml.safe_load(yaml.dump(load(path), Dumper=NoAliases)), models, texts)
    (workplace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    for _, _, module, *options in runs(params):
        command: click.Command = import_module(module).main
        done = CliRunner().invoke(command, options)
        assert done.exit_code == 0, f"{module} {options}: {done.output}{done.exception!r}"
    for name in (*params["students"], *params["lexical"]):
        assert (workplace / "models" / name / "model.safetensors").is_file()
    shutil.rmtree(workplace / "models")


def test_the_models_of_published_models_are_those_of_the_hub(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their names and commits, file by file as they are published: both teach a student of six of twelve layers."""
    path = ROOT / "examples" / "published-models.yaml"
    given = yaml.safe_load(yaml.dump(load(path), Dumper=NoAliases))
    deep = {"num_hidden_layers": 12}
    for name in PUBLISHED:
        family = FAMILIES[name]
        changed = replace(family, plain=False, settings=SMALL | family.settings | deep)
        monkeypatch.setitem(FAMILIES, name, changed)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    files = {repo: published_files(publish(tmp_path / name, name, steps=100), name) for name, repo in PUBLISHED.items()}
    sources = {name: given["sources"][name] for name in PUBLISHED}
    layers = {name: student["layers"] for name, student in given["students"].items()}
    texts = write_texts(workplace / "animals.jsonl")
    params = tiny(given, {}, texts) | {"sources": sources}
    for name, kept in layers.items():
        params["students"][name]["layers"] = kept
    (workplace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    with Hub(files, {source["hub"]: source["revision"] for source in sources.values()}) as server:
        use_hub(server.url, monkeypatch)
        for _, _, module, *options in runs(params):
            command: click.Command = import_module(module).main
            done = CliRunner().invoke(command, options)
            assert done.exit_code == 0, f"{module} {options}: {done.output}{done.exception!r}"
    assert not [asked for asked in server.requests if asked.endswith(OTHER_FORMATS)]
    for name, repo in PUBLISHED.items():
        record = json.loads((workplace / "data" / "sources" / name / "source.json").read_text(encoding="utf-8"))
        assert (record["route"], record["hub"]) == ("hub", repo)
    for name in layers:
        config = json.loads((workplace / "models" / name / "config.json").read_text(encoding="utf-8"))
        assert config["num_hidden_layers"] == 6


class NoAliases(yaml.SafeDumper):
    """Writes what is shared once for each place."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
