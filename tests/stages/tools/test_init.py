"""`cohesive init`: what it writes is accepted, explained and fits models, texts and machine; what it refuses.

Not checked here: that the whole pipeline runs from it, which the test of the demonstration does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from dvc.repo import Repo  # type: ignore[import-untyped]

from pipeline.project import scaffold
from pipeline.project.consistency import read_consistent
from pipeline.project.scaffold import Machine, amount_of, amount_used, model_of, settings_text, surveyed_in
from pipeline.project.survey import Surveyed
from pipeline.text.params import InputParams
from stages.tools.cohesive import main
from storage.errors import SourceError
from tests.helpers.stores import TINY_TEXT, write_jsonl, write_tiny_mlm

COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"


@pytest.fixture
def texts(workplace: Path) -> Path:
    return write_jsonl(workplace / "animals.jsonl", TINY_TEXT * 4)


@pytest.fixture
def model(tiny_mlm: Path) -> Callable[[Path], str]:
    """Copies a random masked language model of two layers to a folder."""
    return lambda folder: str(shutil.copytree(tiny_mlm, folder))


Model = Callable[[Path], str]


def init(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["init", *map(str, arguments)])


def test_a_folder_becomes_a_project_that_the_check_accepts(workplace: Path, texts: Path, model: Model) -> None:
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
    assert {name: source.model_dump(exclude_none=True) for name, source in settings.sources.items()} == {
        "bert": {"kind": "model", "hub": "google-bert/bert-base-uncased", "revision": COMMIT}
    }
    assert settings.students["labels-only"].learning_rate == 8.0e-5
    assert settings.mask.model_dump(exclude={"seed", "shard_rows"}) == {
        "rate": 0.30, "heldout_rate": 0.15, "copies": 1,
    }  # fmt: skip
    assert settings.tokenize.sequence_tokens == 60
    assert settings.fusions["fused"].weighting == "learned"


def test_folders_are_named_where_they_are_used_so_that_dvc_sees_an_edit(
    workplace: Path, texts: Path, model: Model
) -> None:
    """Not through `sources`, whose stage does not depend on what it copies."""
    inside, outside = model(workplace / "project" / "mine" / "fox"), model(workplace / "cat")
    assert init("project", "-t", f"{inside},own={outside}", "--student", outside, "--text", texts).exit_code == 0
    written = yaml.safe_load((workplace / "project" / "params.yaml").read_text(encoding="utf-8"))
    assert written["sources"] == {}
    assert {name: teacher["model"] for name, teacher in written["teachers"].items()} == {
        "fox": "mine/fox", "own": outside,
    }  # fmt: skip
    places = [written["students"]["fused"]["start"], written["tokenize"]["tokenizer"]]
    assert [*places, written["target_gradients"]["start"]] == [outside] * 3
    assert written["suites"]["costs"] == {"fox": {"model": "mine/fox"}, "fused": {"model": "models/fused"}}
    assert written["students"]["fused"]["layers"] == [0]

    with Repo(str(workplace / "project")) as repo:
        read = {stage.name: {dep.def_path for dep in stage.deps} for stage in repo.index.stages}
    assert not any(name.startswith("sources@") for name in read)
    for stage, folder in (("teach@fox", "mine/fox"), ("teach@own", outside), ("tokenize", outside)):
        assert folder in read[stage]
    for stage in ("train@fused", "target_gradients"):
        assert outside in read[stage]


def test_a_params_yaml_is_written_over_by_force_alone(workplace: Path, texts: Path, tiny_tokenizer: Path) -> None:
    fox = write_tiny_mlm(workplace / "fox", tiny_tokenizer, layers=4)
    arguments = ("-t", fox, "--student", fox, "--text", texts)
    assert init("project", *arguments).exit_code == 0
    before = (workplace / "project" / "params.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(before)
    assert settings["students"]["fused"]["layers"] == [0, 2], "a student that starts from its teacher is smaller"
    assert list(settings["students"]) == ["fused", "labels-only"]
    assert settings["students"]["fused"]["start"] == settings["teachers"]["fox"]["model"] == str(fox)
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
        ({"--student": "empty"}, "empty: no config.json: not a Hugging Face model folder"),
        ({"-t": "my fox"}, "--teachers my fox: stages name the folder in commands, where"),
        ({"-t": "new/models/fox"}, "--teachers new/models/fox: lies in 'models' of the project, where stages write"),
        ({"--text": "short.jsonl"}, "1 document with about 1 tokens, expected at least 20 with 3000"),
        ({"--text": "lines.txt"}, "Where each line of a text file is a document: jq -cR '{text: .}' FILE > NEW.jsonl"),
        ({"-t": "fox,fox"}, "--teachers: expected a name each, got 'fox' twice. Give names, as NAME=fox"),
        ({"FOLDER": "taken"}, "taken: has assets, which a project needs. Give an empty FOLDER"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    workplace: Path, texts: Path, model: Model, changes: dict[str, str], message: str
) -> None:
    for name in ("fox", "my fox", "new/models/fox"):
        model(workplace / name)
    for folder in ("empty", "taken/assets"):
        (workplace / folder).mkdir(parents=True)
    (workplace / "lines.txt").write_text("A line of some words.\n" * 700, encoding="utf-8")
    (workplace / "short.jsonl").write_text('{"text": "a text"}', encoding="utf-8")
    options = {"-t": "fox", "--student": "fox", "--text": str(texts)} | changes
    done = init(options.pop("FOLDER", "new"), *(part for option in options.items() for part in option))
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.startswith("Error: ") and done.output.count("\n") == 1
    assert [path.name for path in (workplace / "new").iterdir()] == ["models"]


def gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=99, n_positions=64, n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)


def encoder_only(folder: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).save_pretrained(folder)


def without_mask_token(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[MASK]", "[NONE]"), encoding="utf-8")


def half_of_the_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("*o*"):
        if path.name.startswith(("tokenizer", "vocab", "special")):
            path.unlink()


@pytest.mark.parametrize("role", ["-t", "--student"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (gpt2, "bad: no masked language model: "),
        (encoder_only, "would be newly initialised"),
        (
            without_mask_token,
            "bad: tokenizer_config.json: expected mask_token, a token of the vocabulary, got '[NONE]'",
        ),
        (half_of_the_weights, "The download was interrupted: fetch the file again"),
        (without_tokenizer, "bad: no tokenizer: expected one of tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text("{oops"), "bad/config.json: expected JSON: Expecting"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: expected a JSON object, got list"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json: expected JSON: "),
    ],
)
def test_a_model_that_a_stage_would_refuse_is_refused_before_anything_is_written(
    workplace: Path, texts: Path, model: Model, role: str, spoil: Callable[[Path], None], message: str
) -> None:
    model(workplace / "fox")
    spoil(Path(model(workplace / "bad")))
    options = {"-t": "fox", "--student": "fox", "--text": str(texts)} | {role: "bad"}
    done = init("new", *(part for option in options.items() for part in option))
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.startswith("Error: ") and done.output.count("\n") == 1
    assert not (workplace / "new").exists()


def test_a_start_whose_layers_cannot_be_told_apart_keeps_all(workplace: Path, texts: Path, tiny_mlm: Path) -> None:
    from transformers import AlbertConfig, AlbertForMaskedLM

    vocabulary = json.loads((tiny_mlm / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    config = AlbertConfig(
        vocab_size=vocabulary,
        embedding_size=8,
        hidden_size=8,
        num_hidden_layers=4,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    AlbertForMaskedLM(config).save_pretrained(workplace / "albert")
    for path in tiny_mlm.glob("tokenizer*"):
        shutil.copy(path, workplace / "albert")
    done = init("project", "-t", "albert", "--student", "albert", "--text", texts)
    assert done.exit_code == 0, done.output
    written = yaml.safe_load((workplace / "project" / "params.yaml").read_text(encoding="utf-8"))
    assert "layers" not in written["students"]["fused"]


def test_what_of_the_texts_is_used_and_what_is_not_read_is_said(workplace: Path, texts: Path, model: Model) -> None:
    folder = workplace / "texts"
    folder.mkdir()
    (folder / "notes.csv").write_text(f"{'a' * 61}\n{texts.read_text(encoding='utf-8').replace(',', '')}")
    for name in ("posts.jsonl", "more.jsonl.gz", "READ.ME"):
        (folder / name).touch()
    done = init("project", "-t", model(workplace / "fox"), "--student", "fox", "--text", folder / "notes.csv", "--text",
                texts)  # fmt: skip
    assert "Uses all of the text: 480 documents, about" in done.output
    assert "not read" not in done.output
    shutil.rmtree(workplace / "project")
    (folder / "more.jsonl.gz").unlink()
    done = init("project", "-t", "fox", "--student", "fox", "--text", folder)
    assert "  not read there as csv: 1 .jsonl, 1 .me. Give what has texts with --text\n" in done.output
    assert f"  Warning: the first line is read as the columns' names, and '{'a' * 60}' looks like text." in done.output


def seen(*, documents: int, tokens: int) -> Surveyed:
    params = InputParams(kind="text", path="texts")
    return Surveyed(params=params, documents=documents, tokens=tokens, exact=False, columns=())


@pytest.mark.parametrize(
    ("gpu", "tokens", "said"),
    [
        (
            False,
            3_260_000,
            "Uses 4.6 % of the text: about 3,067 of 66,678 documents, 150,000 tokens. 140,000 tokens took 22 to 43 ",
        ),
        (False, 140_000, "Uses all of the text: about 66,678 documents, about 140,000 tokens"),
        (
            True,
            100_000_000,
            "Uses 10 % of the text: about 6,668 of 66,678 documents, 10,000,000 tokens. So many for a GPU are a guess",
        ),
    ],
)
def test_the_share_of_the_text_is_said_with_what_was_measured(gpu: bool, tokens: int, said: str) -> None:
    machine = Machine(cores=2, gpu=gpu)
    used = amount_used(amount_of([seen(documents=66_678, tokens=tokens)], machine), machine)
    assert used.startswith(said)
    assert used.endswith(said if "all" in said else ". Raise corpus.share in params.yaml for more")


def test_a_hub_name_is_pinned_by_the_commit_that_it_has_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, "latest_commit", lambda repo: {"owner/some.model": COMMIT}[repo])
    found = model_of("owner/some.model", "--teachers", Path())
    assert (found.name, found.path) == ("some-model", "data/sources/some-model")
    assert found.source == {"hub": "owner/some.model", "revision": COMMIT}


def test_a_student_on_the_hub_does_not_take_the_place_of_a_teacher(workplace: Path, texts: Path) -> None:
    teacher, small = (model_of(f"one=owner/{name}@{COMMIT}", "", workplace) for name in ("large", "small"))
    for start, place in ((small, "data/sources/one-student"), (teacher, "data/sources/one")):
        written = yaml.safe_load(
            settings_text([teacher], start, surveyed_in(workplace, [texts]), Machine(cores=1, gpu=False))
        )
        assert written["students"]["fused"]["start"] == place
        assert f"data/sources/{list(written['sources'])[-1]}" == place


@pytest.mark.parametrize(("cores", "gpu", "share"), [(1, False, 0.11), (4, False, 0.42), (1, True, 1.0)])
def test_the_machine_decides_how_much_text_is_read(
    workplace: Path, model: Model, cores: int, gpu: bool, share: float
) -> None:
    long = write_jsonl(workplace / "long.jsonl", tuple(f"{i} {text}" for i, text in enumerate(TINY_TEXT * 30)))
    folder = model_of(f"fox={model(workplace / 'fox')}", "--teachers", workplace)
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


def test_without_a_network_a_folder_or_a_commit_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        SourceError,
        match=r"^--teachers m/nothere: no such folder is here, and the hub could not be asked\. For a folder, check the"
        r" path\. For a model on the hub: m/nothere: the hub does not say its commit .*Give it: m/nothere@COMMIT$",
    ):
        model_of("m/nothere", "--teachers", Path())
