"""Publishing to a hub on this machine, loading back what was published, and what is refused before anything is sent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from pipeline.evaluate.suites import Metric, suite_report
from pipeline.hub.lineage import Origin, licence_of, of_model
from pipeline.models.masked_lm import load_checked
from pipeline.senses.instances import build_instances
from pipeline.senses.params import SensesParams
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.train.params import LossParams, StudentParams, TrainingParams
from pipeline.train.train import train
from stages.tools.push import main
from storage.errors import SourceError, StaleParent
from storage.format.manifest_parse import read_manifest
from storage.share.audit import audit
from tests.helpers.commands import call
from tests.helpers.inventories import tiny_lexicon
from tests.helpers.publishing import READER, TOKEN, WritableHub
from tests.helpers.services import use_hub
from tests.helpers.stores import TinyStores, cpu_runtime, folder_bytes

# Of huggingface_hub's own upload, under its present HTTP library.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
)

REPO = "group/fox"
TRAINING = TrainingParams(
    steps=2, step_tokens=60, learning_rate=1e-3, warmup=0.5, weight_decay=0.01, gradient_clip=1.0, evaluations=1, seed=7
)


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path,
    tiny_teacher: Path,
) -> Path:  # fmt: skip
    """A student of true tokens, its reports, a teacher's store, and an adapter, where a project has them."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        start = shutil.copytree(tiny_mlm, Path("data/sources/start"))
        source = {"hub": "some/bert", "revision": "c" * 40}
        (start / "source.json").write_text(json.dumps(source))
        (start / "README.md").write_text("---\nlicense: mit\n---\n# start\n")
        for name in ("documents", "sequences", "masks"):
            shutil.copytree(getattr(tiny_stores, name), Path("data") / name)
        record = train(
            StudentParams(
                targets="data/masks", start=str(start), loss=LossParams(targets=0.0, labels=1.0, tail="prior")
            ),
            TRAINING,
            tiny_stores.corpus(),
            tokenizer=tiny_tokenizer,
            out=Path("models/fox"),
            runtime=cpu_runtime(batch_tokens=500, checkpoint_seconds=1e6),
        )
        report = {"curve": record["curve"], "documents": 4, "nll": 3.5, "nll_low": 3.25, "nll_high": 3.75}
        write("reports/students/fox.json", report | {"accuracy": 0.25})
        costs = {"latency_ms": Metric(value=12.5), "joules_per_1000_sequences": Metric(value=170.0)}
        run = {"device": "cpu", "cpu": "A CPU", "threads": 1, "dtype": "float32"}
        details: dict[str, Any] = {"energy_source": "estimated", "sequence_tokens": 16, "run": run}
        measured = suite_report("costs", Path("models/fox"), costs, headline="latency_ms", **details)
        write("reports/costs/anything.json", measured)
        senses = suite_report("wsd", Path("models/fox"), {"all": Metric(value=0.625)}, headline="all")
        senses["model"]["weights"] = "0" * 64
        write("reports/wsd/fox.json", senses)  # of other weights
        teacher = shutil.copytree(tiny_teacher, Path("data/sources/fox"))
        (teacher / "README.md").write_text("---\nlicense: apache-2.0\n---\n# fox\n")
        teach(
            TeacherParams.model_validate(
                {"model": str(teacher), "keep": {"form": "topk", "k": 8}, "temperatures": [1.0], "seed": 0}
                | {"tail": {"rank": 0, "step": 0.4}}
            ),
            tiny_stores.corpus(),
            out=Path("data/logits/fox"),
            runtime=cpu_runtime(),
        )
        Path("assets/fox").mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "mlm_head.safetensors", "notes.txt"):
            Path("assets/fox", name).write_text("{}")
        Path("assets/fox/README.md").write_text("---\nlibrary_name: peft\nlicense: mit\n---\n# an adapter\n")
    return root


def write(path: str, value: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(value))


@pytest.fixture
def here(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as current folder, a token that may write, and caches of the test's own."""
    monkeypatch.chdir(project)
    for name, value in {
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_XET_CACHE": str(tmp_path / "xet-cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return project


@pytest.fixture
def hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    """A hub with one empty repository of ours and one of others."""
    held = {".gitattributes": b""}
    with WritableHub({REPO: held, "others/fox": held}) as server:
        use_hub(server.url, monkeypatch)
        yield server


def test_a_student_that_was_pushed_gives_the_same_logits(hub: WritableHub, tiny_tokenizer: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    done = call(main, "models/fox", REPO)
    assert done.exit_code == 0, done.output
    assert done.output == f"{hub.url}/{REPO}/commit/0123456789abcdef0123456789abcdef01234567\n"
    assert hub.messages == ["Publish fox"]
    assert (Path("models/fox") / "model.safetensors").stat().st_size in hub.uploads
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(REPO), AutoTokenizer.from_pretrained(REPO)
    text = tokenizer("the quick fox", return_tensors="pt")
    with torch.inference_mode():
        pushed, ours = (one.eval()(**text).logits for one in (model, load_checked(Path("models/fox"))))
    assert torch.equal(pushed, ours)
    assert pushed.abs().max() > 0.01


def test_the_card_has_scores_costs_lineage_and_licence(hub: WritableHub) -> None:
    call(main, "models/fox", REPO)
    card = ModelCard(hub.files[REPO]["README.md"].decode())
    data = card.data.to_dict()
    assert data["license"] == "other"
    assert data["license_name"] == "those of the models and texts named below"
    assert data["base_model"] == "some/bert"
    assert data["pipeline_tag"] == "fill-mask"
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [("nll", 3.5), ("accuracy", 0.25)]
    numbers = card.text[card.text.index("## What it scores") : card.text.index("## Made from")]
    assert (
        "| language model | NLL, nats a masked position, 4 held-out documents | 3.500 [3.250, 3.750], lower is"
        in numbers
    )
    weights = sum(value.numel() for value in load_checked(Path("models/fox")).parameters())
    assert f"| costs | parameters | {weights:,} |" in numbers
    assert "| costs | latency, one sequence | 12.5 ms |" in numbers
    assert "| costs | energy of 1,000 sequences | 170 J |" in numbers
    assert "cpu (A CPU, 1 threads), float32, sequences of 16 tokens; energy is estimated" in numbers
    assert "wsd" not in card.text  # measured of other weights
    assert f"- model start (some/bert at {'c' * 40}): mit\n- text animals: " in card.text
    assert f'model="{REPO}"' in card.text and "PATH/OF" not in card.text


def test_folders_of_this_machine_are_not_published(hub: WritableHub, tmp_path: Path) -> None:
    """A start may be a folder anywhere; its own record names it, what is sent only its last name."""
    student = shutil.copytree("models/fox", tmp_path / "fox")
    start = shutil.copytree("data/sources/start", tmp_path / "start")
    record = json.loads((student / "training.json").read_text()) | {"start": str(start)}
    (student / "training.json").write_text(json.dumps(record))
    assert call(main, str(student), REPO).exit_code == 0
    assert json.loads(hub.files[REPO]["training.json"]) == record | {"start": "start"}
    assert not any(str(tmp_path).encode() in content for content in hub.files[REPO].values())
    assert json.loads((student / "training.json").read_text()) == record


def test_a_report_of_another_training_is_not_on_the_card(hub: WritableHub, tmp_path: Path) -> None:
    reports = shutil.copytree("reports", tmp_path / "reports")
    other = json.loads((reports / "students/fox.json").read_text()) | {"curve": [[0, 9.0]]}
    (reports / "students/fox.json").write_text(json.dumps(other))
    shutil.rmtree(reports / "costs")
    call(main, "models/fox", REPO, "--reports", str(reports))
    card = ModelCard(hub.files[REPO]["README.md"].decode())
    assert card.data.eval_results is None
    assert "| scores | none were measured of these weights | |" in card.text
    assert "| costs | latency and energy | not measured of these weights |" in card.text


def test_a_dry_run_shows_files_and_card_and_needs_no_hub(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    use_hub("http://127.0.0.1:9", monkeypatch)
    done = call(main, "models/fox", REPO, "--dry-run")
    assert done.exit_code == 0, done.output
    files, card = done.output.split("Its card:\n\n")
    listed = {line[11:] for line in files.splitlines()[:-1]}
    there = {path.relative_to("models/fox").as_posix() for path in Path("models/fox").rglob("*") if path.is_file()}
    assert listed == there
    assert f"in {len(there)} files, to the model {REPO}." in files
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"


def test_a_store_is_published_as_it_was_sealed(hub: WritableHub, tmp_path: Path) -> None:
    """What an older store had there is gone, and the copy is sound."""
    hub.files[REPO]["train/gold_P/c/99"] = b"of an older store"
    store = Path("data/logits/fox")
    assert [one["licence"] for one in read_manifest(store).facts["provenance"]["texts"]] == ["made for tests"]
    done = call(main, str(store), REPO)
    assert done.exit_code == 0, done.output
    assert hub.files[REPO].keys() - {".gitattributes"} == folder_bytes(store).keys()
    for name, content in hub.files[REPO].items():
        if name != ".gitattributes":
            path = tmp_path / "back" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert folder_bytes(tmp_path / "back") == folder_bytes(store)
    assert audit(tmp_path / "back") == []


def test_an_adapter_goes_with_its_own_card(hub: WritableHub) -> None:
    assert call(main, "assets/fox", REPO).exit_code == 0
    sent = hub.files[REPO]
    assert sent.keys() == {
        *("adapter_config.json", "adapter_model.safetensors", "mlm_head.safetensors"),
        *("README.md", ".gitattributes"),
    }
    assert sent["README.md"] == b"---\nlibrary_name: peft\nlicense: mit\n---\n# an adapter\n"


def test_a_repository_is_made_when_asked_for(hub: WritableHub) -> None:
    assert call(main, "models/fox", "group/new", "--create", "--private").exit_code == 0
    assert hub.kinds == {"group/new": "model private"}
    assert "model.safetensors" in hub.files["group/new"]


def refused(*arguments: str) -> str:
    done = call(main, *arguments)
    assert done.exit_code == 2, done.output
    (line,) = done.output.splitlines()
    return line


def test_no_token(hub: WritableHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    said = refused("models/fox", REPO)
    assert said == f"Error: {REPO}: no token. Run: hf auth login, or set HF_TOKEN to a token that may write"
    assert hub.requests == []


def test_no_such_repository(hub: WritableHub) -> None:
    said = refused("models/fox", "group/none")
    assert said.startswith("Error: group/none: no such repository, or the token does not see it. Correct the name, or")


@pytest.mark.parametrize(("repo", "token"), [("others/fox", TOKEN), (REPO, READER)])
def test_no_permission(hub: WritableHub, monkeypatch: pytest.MonkeyPatch, repo: str, token: str) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    said = refused("models/fox", repo)
    assert said == f"Error: {repo}: the token may not write here. Use one with write access to this name"
    assert hub.messages == []


def test_a_hub_that_does_not_answer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub("http://127.0.0.1:9", monkeypatch)
    assert refused("models/fox", REPO).startswith(f"Error: {REPO}: Connect")


def test_a_card_without_a_licence(hub: WritableHub) -> None:
    start = Path("data/sources/start/README.md")
    text = start.read_text()
    start.write_text("# start\n")
    try:
        said = refused("models/fox", REPO)
        assert said.startswith("Error: models/fox: no licence is known of model start, so its card would have none.")
        assert call(main, "models/fox", REPO, "--licence", "CC-BY-4.0").exit_code == 0
    finally:
        start.write_text(text)
    assert ModelCard(hub.files[REPO]["README.md"].decode()).data.license == "cc-by-4.0"


def test_a_store_that_is_not_sealed(hub: WritableHub, tmp_path: Path) -> None:
    store = shutil.copytree("data/logits/fox", tmp_path / "fox")
    manifest = (store / "manifest.json").rename(tmp_path / "manifest.json")
    assert "or a sealed store (manifest.json). A store is sealed when its stage has ended" in refused(str(store), REPO)
    manifest.rename(store / "manifest.json")
    shard = next((store / "train").rglob("c/0"))
    shard.chmod(0o644)
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert f"{store}: not sound: " in refused(str(store), REPO)
    assert "a store of masks, which has no card. Stores with one: logits, targets" in refused("data/masks", REPO)
    assert hub.requests == []


def test_stores_that_are_no_longer_those_it_learned_from(hub: WritableHub, tmp_path: Path) -> None:
    data = shutil.copytree("data", tmp_path / "data")
    shutil.rmtree(data / "sequences")
    shutil.copytree(data / "masks", data / "sequences")
    assert ", but models/fox learned from " in refused("models/fox", REPO, "--data", str(data))


@pytest.mark.parametrize(
    ("licences", "stated", "entries"),
    [
        (["mit", "MIT"], None, {"license": "mit"}),
        (
            ["mit", "apache-2.0"],
            None,
            {"license": "other", "license_name": "those of the models and texts named below"},
        ),
        (["WordNet"], None, {"license": "other", "license_name": "those of the models and texts named below"}),
        (["", "mit"], "Apache-2.0", {"license": "apache-2.0"}),
        ([], "for research", {"license": "other", "license_name": "for research"}),
    ],
)
def test_one_known_licence_is_named_and_others_are_described(
    licences: list[str], stated: str | None, entries: dict[str, str]
) -> None:
    origins = [Origin(kind="text", name=str(number), licence=one) for number, one in enumerate(licences)]
    assert licence_of(origins, stated, what=Path("m")) == entries


def test_an_origin_without_a_licence_is_named() -> None:
    origins = [Origin(kind="text", name="web", licence=""), Origin(kind="model", name="bert", licence="mit")]
    with pytest.raises(SourceError, match="no licence is known of text web, so"):
        licence_of(origins, None, what=Path("m"))


def test_a_lexical_student_names_its_senses_with_their_licence(
    tmp_path: Path, tiny_mlm: Path, tiny_stores: TinyStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lexicon = tiny_lexicon(tmp_path)
    params = SensesParams(kind="examples", path="data/lexicon", heldout=0.3, licence="WordNet 3.0 licence")
    build_instances("examples", params, lexicon, out=Path("data/senses/examples"))
    shutil.copytree(tiny_stores.documents, "data/documents")
    start = shutil.copytree(tiny_mlm, "start")
    (Path(start) / "README.md").write_text("---\nlicense: mit\n---\n")
    parents = {
        "senses/examples": read_manifest(Path("data/senses/examples")).identity,
        "documents": read_manifest(Path("data/documents")).identity,
    }
    Path("wise").mkdir()
    Path("wise/training.json").write_text(json.dumps({"start": "start", "parents": parents}))
    assert of_model(Path("wise"), data=Path("data")) == [
        Origin(kind="model", name="start", licence="mit"),
        Origin(kind="text", name="animals", licence="made for tests"),
        Origin(kind="senses", name="examples", licence="WordNet 3.0 licence"),
    ]
    Path("wise/training.json").write_text(json.dumps({"start": "start", "parents": parents | {"documents": "0" * 64}}))
    with pytest.raises(StaleParent, match=r"but wise learned from 000000000000\. Run: dvc repro"):
        of_model(Path("wise"), data=Path("data"))
