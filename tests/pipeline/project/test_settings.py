"""The whole of params.yaml, checked before any work: each refusal by its dotted path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.project.consistency import read_consistent
from storage.errors import ParamsError

ROOT = Path(__file__).parents[3]
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in params.yaml are relative to the project."""
    monkeypatch.chdir(ROOT)


Change = Callable[[dict[str, Any]], object]


def changed(tmp_path: Path, change: Change) -> Path:
    params = json.loads(json.dumps(DEFAULTS))  # aliases become copies
    change(params)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return path


def refused(tmp_path: Path, change: Change, message: str) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(ParamsError) as caught:
        read_consistent(path)
    assert str(caught.value) == f"{path}: {message}"


def draw(params: dict[str, Any], teacher: str) -> None:
    params["teachers"][teacher]["keep"] = {"form": "topk+sampled", "k": 8, "draws": 24}
    for fusion in params["fusions"].values():
        fusion.pop("debias", None)  # a corrected row of draws would no longer be unbiased
    params["fusions"]["confident"]["weighting"] = "entropy"  # draws do not say which ids are likely


def test_drawn_teachers_are_accepted_in_calibrated_fusions(tmp_path: Path) -> None:
    settings = read_consistent(changed(tmp_path, lambda params: draw(params, "wordnet-things")))
    things, rest = settings.teachers["wordnet-things"], settings.teachers["wordnet-rest"]
    assert (things.keep.most, things.keep.draws, things.tail_rank) == (8, 24, 0)  # nothing is left for a tail
    assert rest.tail_rank == rest.tail.rank == DEFAULTS["teachers"]["wordnet-rest"]["tail"]["rank"]


def test_the_defaults_are_accepted() -> None:
    settings = read_consistent(Path("params.yaml"))
    assert set(settings.teachers) == set(DEFAULTS["teachers"])
    assert settings.mask.rate == DEFAULTS["mask"]["rate"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(masks=p.pop("mask")), "unknown section 'masks' (did you mean 'mask'?)"),
        (lambda p: p.update({1: {}}), "unknown section '1'"),
        (lambda p: p.pop("evaluate"), "section 'evaluate' is missing"),
        (lambda p: p["mask"].update(rte=p["mask"].pop("rate")), "mask: unknown key 'rte' (did you mean 'rate'?)"),
        (lambda p: p["mask"].update(rate=1.5), "mask.rate: Input should be less than 1, got 1.5"),
        (lambda p: p["mask"].update(copies="2"), "mask.copies: Input should be a valid integer, got '2'"),
        (lambda p: p["mask"].pop("seed"), "mask.seed: missing"),
        (lambda p: p.update(mask=3), "mask: expected a mapping, got 3"),
        (lambda p: p["teachers"].update(mine=None), "teachers.mine: expected a mapping, got None"),
        (
            lambda p: p["students"]["fused"]["loss"].update(tal="prior"),
            "students.fused.loss: unknown key 'tal' (did you mean 'tail'?)",
        ),
        (lambda p: p["teachers"]["wordnet-things"].update(keep=64),
            ("teachers.wordnet-things.keep: "
            "Input should be a valid dictionary or object to extract fields from, got 64")),
        (lambda p: p["teachers"]["wordnet-things"].update(keep={"form": "topk"}),
            "teachers.wordnet-things.keep.k: missing"),
        (lambda p: p["teachers"]["wordnet-things"].update(keep={"form": "top", "k": 3}),
            ("teachers.wordnet-things.keep.form: "
            "expected one of 'topk', 'nucleus', 'sampled', 'topk+sampled', got 'top'")),
        (lambda p: p["teachers"]["wordnet-things"]["keep"].update(least=97),
            "teachers.wordnet-things.keep: least must not exceed most (96), got 97"),
        (lambda p: p["teachers"]["wordnet-things"].update(keep={"form": "sampled", "draws": 255}),
            "teachers.wordnet-things.keep.draws: Input should be less than or equal to 254, got 255"),
        (lambda p: p["teachers"]["wordnet-things"]["tail"].update(stp=0.4),
            "teachers.wordnet-things.tail: unknown key 'stp' (did you mean 'step'?)"),
        (lambda p: p["teachers"]["wordnet-things"]["tail"].update(rank=129),
            "teachers.wordnet-things.tail.rank: Input should be less than or equal to 128, got 129"),
        (lambda p: p["teachers"]["wordnet-things"].pop("seed"), "teachers.wordnet-things.seed: missing"),
        (lambda p: p["teachers"]["wordnet-things"].update(temperatures=[2.0, 1.0]),
            "teachers.wordnet-things.temperatures: must be positive, distinct and begin with 1.0, got [2.0, 1.0]"),
        (lambda p: p["exact"].update(positions=0),
            "exact.positions: Input should be greater than or equal to 1, got 0"),
        (lambda p: p["sources"]["wordnet"].update(kind="wordnt"),
            "sources.wordnet.kind: expected one of model, wordnet, dataset, got 'wordnt' (did you mean 'wordnet'?)"),
        (lambda p: p["runtime"].update(device="gpu"),
            "runtime.device: Input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        (lambda p: p.update(teachers={}), "teachers: expected at least one entry, got {}"),
        (lambda p: p.update(inputs=["a"]), "inputs: expected at least one entry, got ['a']"),
        (lambda p: p.update(rewrite=None), "rewrite: expected a mapping of entries, {} for none, got None"),
        (lambda p: p.pop("soft_labels"), "section 'soft_labels' is missing"),
        (lambda p: p["suites"].update(language_models={}),
            "suites: unknown key 'language_models' (did you mean 'language_model'?)"),
        (lambda p: p["suites"].pop("glue"), "suites.glue: missing"),
        (lambda p: p.update(judged=p.pop("suites")), "unknown section 'judged': it is now 'suites'"),
        (lambda p: p["costs"].update(passes=20), "costs: unknown key 'passes': it is now 'forwards'"),
        (lambda p: p.update(believers={}), "unknown section 'believers': it is now 'soft_labels'"),
        (lambda p: p["teachers"]["wordnet-things"].update(tail={"sketch": 16, "step": 0.4}),
            "teachers.wordnet-things.tail: unknown key 'sketch': it is now 'rank'"),
        (lambda p: p["lexical"]["lexical"].update(beliefs="data/senses"),
            "lexical.lexical: unknown key 'beliefs': it is now 'soft_labels_from'"),
        (lambda p: p["suites"]["wsd"].update({"a b": {"model": "models/lexical"}}),
            "suites.wsd: name 'a b' may have letters, digits, '-' and '_' only"),
        (lambda p: p["suites"]["language_model"]["lexical"].pop("before"),
            "suites.language_model.lexical.before: missing"),
        (lambda p: p["suites"]["costs"]["fused"].update(modl="x"), "suites.costs.fused: unknown key 'modl'"),
        (lambda p: p["lexical"]["lexical"].update(objective="bi_encoder"),
            "lexical.lexical: language_model belongs to objectives that end in _m, and only to these"),
        (lambda p: p["rewrite"]["prose"].update(shares=[1.5]),
            "rewrite.prose: shares must be different numbers between 0 and 1, got [1.5]"),
    ],
)  # fmt: skip
def test_sections(tmp_path: Path, change: Change, message: str) -> None:
    refused(tmp_path, change, message)


@pytest.mark.parametrize("name", ["bert.base", "a b", "", "ä", "a/b", "../x", 7])
@pytest.mark.parametrize(
    "section", ["sources", "inputs", "teachers", "fusions", "students", "senses", "lexical", "rewrite"]
)
def test_names(tmp_path: Path, section: str, name: str) -> None:
    first = next(iter(DEFAULTS[section].values()))
    refused(
        tmp_path,
        lambda params: params[section].update({name: first}),
        f"{section}: name {name!r} may have letters, digits, '-' and '_' only",
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p["teachers"]["wordnet-things"].update(model="data/sources/wordnet-thingz"),
            (
                "teachers.wordnet-things.model: 'data/sources/wordnet-thingz' needs an entry 'wordnet-thingz' "
                "in sources (did you mean 'wordnet-things'?)"
            ),
        ),
        (
            lambda p: p["students"]["fused"].update(start="models/fusd"),
            (
                "students.fused.start: 'models/fusd' needs an entry 'fusd' in adapters, students, lexical or published "
                "(did you mean 'fused'?)"
            ),
        ),
        (
            lambda p: p["tokenize"].update(tokenizer="some/folder"),
            (
                "tokenize.tokenizer: 'some/folder' does not exist. Expected data/sources/<an entry of sources>, "
                "or a path that is there"
            ),
        ),
        (
            lambda p: p["inputs"]["wordnet"].update(path="texts.jsonl"),
            (
                "inputs.wordnet.path: 'texts.jsonl' does not exist. Expected data/sources/<an entry of sources>, "
                "or a path that is there"
            ),
        ),
        (
            lambda p: p["sources"]["wordnet-things"].update(adapter="assets/nothing"),
            "sources.wordnet-things.adapter: no folder 'assets/nothing'",
        ),
        (
            lambda p: p["fusions"]["confident"].update(teachers=["wordnet-things", "wordnet-rst"]),
            "fusions.confident.teachers: no entry 'wordnet-rst' in teachers (did you mean 'wordnet-rest'?)",
        ),
        (
            lambda p: p["fusions"]["confident"].update(temperature=4.0),
            "fusions.confident.temperature: 4.0 is not among teachers.wordnet-things.temperatures, [1.0]",
        ),
        (
            lambda p: (draw(p, "wordnet-rest"), p["fusions"]["confident"].update(debias={"counts": 10})),
            "fusions.confident.debias: divides rows by what they hold, and teachers.wordnet-rest.keep draws ids",
        ),
        (
            lambda p: (draw(p, "wordnet-rest"), p["fusions"]["confident"].update(calibrated=False)),
            (
                "fusions.confident: teachers.wordnet-rest.keep draws ids, which stand for the calibrated temperature "
                "alone; expected calibrated: true and temperature: 1.0, got false and 1.0"
            ),
        ),
        (
            lambda p: (
                draw(p, "wordnet-things"),
                [teacher.update(temperatures=[1.0, 2.0]) for teacher in p["teachers"].values()],
                p["fusions"]["confident"].update(temperature=2.0),
            ),
            (
                "fusions.confident: teachers.wordnet-things.keep draws ids, which stand for the calibrated temperature "
                "alone; expected calibrated: true and temperature: 1.0, got true and 2.0"
            ),
        ),
        (
            lambda p: p["students"]["fused"].update(targets="data/targets/confidnt"),
            "students.fused.targets: no entry 'confidnt' in fusions (did you mean 'confident'?)",
        ),
        (
            lambda p: p["students"]["fused"].update(targets="data/logits/wordnet-things"),
            (
                "students.fused.targets: expected data/targets/<an entry of fusions>, or data/masks for labels only, "
                "got 'data/logits/wordnet-things'"
            ),
        ),
        (
            lambda p: p["students"]["labels-only"]["loss"].update(targets=1.0),
            "students.labels-only.loss.targets: must be 0 with targets data/masks, got 1.0",
        ),
        (
            lambda p: p["students"]["fused"]["loss"].update(targets=0.0),
            (
                "students.fused.loss.targets: is 0, so nothing is learned from data/targets/confident. "
                "Set targets to data/masks"
            ),
        ),
        (
            lambda p: p["students"]["labels-only"]["loss"].update(labels=0.0),
            "students.labels-only.loss: targets and labels are both 0: nothing to learn",
        ),
        (
            lambda p: p["students"]["fused"].update(start="models/fused"),
            "students.fused.start: a student cannot start from itself",
        ),
        (
            lambda p: p["evaluate"].update(against="data/masks"),
            "evaluate.against: expected data/targets/<an entry of fusions>, got 'data/masks'",
        ),
        (
            lambda p: p["evaluate"].update(against="data/targets/best"),
            "evaluate.against: no entry 'best' in fusions",
        ),
    ],
)
def test_what_sections_say_about_each_other(tmp_path: Path, change: Change, message: str) -> None:
    refused(tmp_path, change, message)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"wordnet-things": 2.0}, "no number for teacher 'wordnet-rest'"),
        (
            {"wordnet-things": 2.0, "wordnet-rst": 1.0},
            "'wordnet-rst'.* no teacher of this fusion .did you mean 'wordnet-rest'",
        ),
        ({"wordnet-things": 2.0, "wordnet-rest": -1.0}, "positive number"),
    ],
)
def test_prior_has_a_number_for_each_teacher(tmp_path: Path, prior: dict[str, float], message: str) -> None:
    path = changed(tmp_path, lambda params: params["fusions"]["confident"].update(prior=prior))
    with pytest.raises(ParamsError, match=rf"^{path}: fusions\.confident.*{message}"):
        read_consistent(path)


def test_local_folders_and_other_students_are_places_to_start_from(tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params["teachers"]["wordnet-things"]["model"] = str(tmp_path)
        params["students"]["fused-uniform"]["start"] = "models/fused"
        params["fusions"]["confident"]["prior"] = {"wordnet-things": 2, "wordnet-rest": 1.0}

    assert read_consistent(changed(tmp_path, change)).students["fused-uniform"].start == "models/fused"


@pytest.mark.parametrize("through_sources", [False, True])
def test_layers_that_the_users_start_does_not_have_are_refused(tmp_path: Path, through_sources: bool) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 4}', encoding="utf-8")
    start = "data/sources/small" if through_sources else str(folder)

    def start_there(params: dict[str, Any], layers: list[int]) -> None:
        params["sources"]["small"] = {"kind": "model", "local": str(folder)}
        params["students"]["fused"].update(start=start, layers=layers)

    read_consistent(changed(tmp_path, lambda params: start_there(params, [0, 3])))
    message = r"students.fused.layers: '.*small' has layers 0 to 3, got \[0, 4\]"
    with pytest.raises(ParamsError, match=message):
        read_consistent(changed(tmp_path, lambda params: start_there(params, [0, 4])))
