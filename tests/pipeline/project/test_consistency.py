"""What the sections about senses and suites say about each other; test_settings has those about distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate.params import SuitesParams
from pipeline.evaluate.suites import SUITES
from pipeline.project.ancestors import ancestors
from pipeline.project.consistency import read_consistent
from storage.errors import ParamsError
from tests.pipeline.project import test_settings
from tests.pipeline.project.test_settings import DEFAULTS, Change, changed, refused

in_project = test_settings.in_project


def add_soft_labels(params: dict[str, Any]) -> None:
    """A second lexical student, `small`, that learns from soft labels of `lexical`."""
    params["soft_labels"]["large"] = {"model": "models/lexical", "senses": ["examples"]}
    own = {"start": "models/labels-only", "targets": "models/labels-only"}
    from_teacher = {"soft_labels": 1.0, "soft_labels_from": "data/soft_labels/large"}
    params["lexical"]["small"] = params["lexical"]["lexical"] | own | from_teacher


def add_fusion(params: dict[str, Any]) -> None:
    """The second lexical student learns from the mean of `lexical` and of a published one."""
    add_soft_labels(params)
    params["soft_labels"]["wsd"] = {"model": "models/minilm-l6-wsd", "senses": ["examples"]}
    params["sense_fusions"]["both"] = {"teachers": ["large", "wsd"], "temperature": 1.0}
    params["lexical"]["small"]["soft_labels_from"] = "data/sense_fusions/both"


def without_language_model(params: dict[str, Any], targets: str) -> None:
    entry = params["lexical"]["lexical"]
    del entry["language_model"]
    entry.update(objective="bi_encoder", targets=targets)


def own_answers(params: dict[str, Any], *, targets: float) -> None:
    """A lexical student that is kept at what its start said."""
    entry = params["lexical"]["lexical"]
    entry.update(targets=entry["start"])
    entry["language_model"]["loss"] = {"targets": targets, "labels": 1.0, "tail": "bucket"}


def both(*changes: Change) -> Change:
    return lambda params: [change(params) for change in changes]


def small(**more: Any) -> Change:
    """The second lexical student with other settings."""
    return both(add_soft_labels, lambda params: params["lexical"]["small"].update(more))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["corpus"].update(heldout=0.0),
            "corpus.heldout: no document goes there. Raise it above 0, or give an input with split: heldout"),
        (lambda p: p["inputs"]["wordnet"].update(split="heldout"),
            "corpus.calibration: no document goes there. Raise it above 0, or give an input with split: calibration"),
    ],
)  # fmt: skip
def test_splits_that_no_document_can_fall_into(tmp_path: Path, change: Change, message: str) -> None:
    path = changed(tmp_path, change)
    with pytest.raises(ParamsError) as caught:
        read_consistent(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_test_set_of_its_own_needs_no_share_of_other_text(tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params["inputs"]["test"] = params["inputs"]["wordnet"] | {"split": "heldout"}
        params["corpus"]["heldout"] = 0.0

    assert read_consistent(changed(tmp_path, change)).inputs["test"].split == "heldout"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["lexicon"].update(path="data/sources/wordnt"),
            "lexicon.path: 'data/sources/wordnt' needs an entry 'wordnt' in sources (did you mean 'wordnet'?)"),
        (lambda p: p["senses"]["examples"].update(path="data/sources/wordnet"),
            "senses.examples.path: expected data/lexicon, whose examples they are, got 'data/sources/wordnet'"),
        (lambda p: p["senses"]["examples"].update(kind="raganato", path="semcor"),
            ("senses.examples.path: 'semcor' does not exist. Expected data/sources/<an entry of sources>, or a path "
            "that is there")),
        (lambda p: p["senses"].update(text={"kind": "text", "path": "data/text"}),
            "senses.text.path: expected data/documents, whose train split is read, got 'data/text'"),
        (lambda p: [p["senses"].update(text={"kind": "text", "path": "data/documents"}),
                    p["lexical"]["lexical"].update(senses=["examples", "text"])],
            ("lexical.lexical.senses: nobody annotated 'text', so only soft labels teach it. Set soft_labels above 0, "
            "or leave it out")),
        (lambda p: p["lexical"]["lexical"].update(senses=["example"]),
            "lexical.lexical.senses: no entry 'example' in senses (did you mean 'examples'?)"),
        (lambda p: p["lexical"].update(fused=p["lexical"]["lexical"] | {"start": "models/labels-only"}),
            "lexical.fused: students has this name too, and both would make models/fused"),
        (lambda p: p["lexical"]["lexical"].update(start="models/lexicl"),
            ("lexical.lexical.start: 'models/lexicl' needs an entry 'lexicl' in adapters, students, lexical or "
            "published (did you mean 'lexical'?)")),
        (lambda p: p["lexical"]["lexical"].update(start="models/lexical", targets="models/lexical"),
            "lexical.lexical: learns or starts from itself"),
        (lambda p: p["lexical"]["lexical"].update(targets="data/targets/best"),
            "lexical.lexical.targets: no entry 'best' in fusions"),
        (lambda p: p["lexical"]["lexical"].update(targets="models/labels-only"),
            ("lexical.lexical.targets: expected data/targets/<an entry of fusions>, models/fused, or data/masks for "
            "labels only, got 'models/labels-only'")),
        (lambda p: own_answers(p, targets=0.0),
            ("lexical.lexical.language_model.loss.targets: is 0, so nothing is learned from models/fused. Set targets "
            "to data/masks")),
        (lambda p: p["lexical"]["lexical"].update(targets="data/masks"),
            "lexical.lexical.language_model.loss.targets: must be 0 with targets data/masks, got 1.0"),
        (lambda p: without_language_model(p, "data/targets/confident"),
            "lexical.lexical.targets: without language_model nothing is learned from them. Set targets to data/masks"),
        (lambda p: p["lexical"]["lexical"].update(soft_labels_from="data/soft_labels/large"),
            ("lexical.lexical.soft_labels: is 0, so nothing is learned from data/soft_labels/large. "
            "Set soft_labels_from to data/senses")),
        (small(soft_labels_from="data/senses"),
            ("lexical.small.soft_labels_from: expected data/soft_labels/<an entry of soft_labels> or "
            "data/sense_fusions/<an entry of sense_fusions>, got 'data/senses'")),
        (small(soft_labels_from="data/sense_fusions/both"),
            "lexical.small.soft_labels_from: no entry 'both' in sense_fusions"),
        (both(add_fusion, lambda p: p["sense_fusions"]["both"].update(teachers=["large", "wds"])),
            "sense_fusions.both.teachers: no entry 'wds' in soft_labels (did you mean 'wsd'?)"),
        (both(add_fusion, lambda p: [p["senses"].update(more=p["senses"]["examples"]),
                                     p["soft_labels"]["wsd"].update(senses=["more"])]),
            "lexical.small.senses: no entry 'examples' in soft_labels.wsd.senses"),
        (both(add_fusion, lambda p: [p["senses"].update(more=p["senses"]["examples"]), p["lexical"].pop("small"),
                                     p["soft_labels"]["wsd"].update(senses=["more"])]),
            "sense_fusions.both.teachers: large, wsd label no senses in common. Name one under each"),
        (both(add_fusion, lambda p: p["soft_labels"].update(third={"model": "models/small", "senses": ["examples"]})),
            ("soft_labels.third.model: 'models/small' learns from data/sense_fusions/both, which is made after all "
            "soft_labels. Let it learn from data/soft_labels/<one entry>, or ask another model")),
        (both(add_fusion, lambda p: p["soft_labels"]["large"].update(model="models/small")),
            ("soft_labels.large.model: 'models/small' learns from data/sense_fusions/both, which is made after all "
            "soft_labels. Let it learn from data/soft_labels/<one entry>, or ask another model")),
        (small(soft_labels_from="data/soft_labels/larg"),
            "lexical.small.soft_labels_from: no entry 'larg' in soft_labels (did you mean 'large'?)"),
        (both(small(senses=["examples", "more"]), lambda p: p["senses"].update(more=p["senses"]["examples"])),
            "lexical.small.senses: no entry 'more' in soft_labels.large.senses"),
        (both(add_soft_labels, lambda p: p["soft_labels"]["large"].update(model="models/fused")),
            "soft_labels.large.model: 'models/fused' scores no senses; expected models/<an entry of lexical>"),
        (both(add_soft_labels, lambda p: p["soft_labels"]["large"].update(senses=["examples", "text"])),
            "soft_labels.large.senses: no entry 'text' in senses"),
        (both(add_soft_labels, lambda p: p["soft_labels"]["large"].update(model="models/small")),
            "lexical.small: learns or starts from itself"),
        (lambda p: [p["students"]["fused"].update(start="models/only-things"),
                    p["students"]["only-things"].update(start="models/fused")],
            "students.fused: learns or starts from itself"),
        (lambda p: p["published"].update(lexical=p["published"]["minilm-l6-wsd"]),
            "published.lexical: lexical has this name too, and both would make models/lexical"),
        (lambda p: p["published"]["minilm-l6-wsd"].update(start="models/fused"),
            ("published.minilm-l6-wsd.start: expected data/sources/<an entry>, which can be fetched, got "
            "'models/fused'")),
        (lambda p: p["published"]["minilm-l6-wsd"].update(changes="assets/none"),
            "published.minilm-l6-wsd.changes: no folder 'assets/none', as `cohesive pack` writes"),
    ],
)  # fmt: skip
def test_senses_and_lexical_students(tmp_path: Path, change: Change, message: str) -> None:
    refused(tmp_path, change, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["suites"]["costs"]["fused"].update(model="models/only-things"),
            ("suites.costs.fused.model: a name is one model in all suites; suites.paraphrase.fused has 'models/fused', "
            "got 'models/only-things'")),
        (lambda p: p["suites"]["costs"].update(other={"model": "models/none"}),
            ("suites.costs.other.model: 'models/none' needs an entry 'none' in adapters, students, lexical or "
            "published")),
        (lambda p: p["suites"]["costs"].update(other={"model": "some/folder"}),
            ("suites.costs.other.model: 'some/folder' does not exist. Expected data/sources/<an entry of sources>, or "
            "a path that is there")),
        (lambda p: p["suites"]["wsd"].update(fused={"model": "models/fused"}),
            "suites.wsd.fused.model: 'models/fused' scores no senses; expected models/<an entry of lexical>"),
        (lambda p: p["suites"]["language_model"]["lexical"].update(before="models/labels-only"),
            ("suites.language_model.lexical.before: expected 'models/fused', from which 'models/lexical' started, got "
            "'models/labels-only'")),
        (lambda p: p["senses"]["examples"].update(heldout=0.0),
            "suites.wsd: no entry of senses holds words out for evaluation. Raise senses.<name>.heldout"),
        (lambda p: p.update(rewrite={}), "suites.paraphrase: needs an entry in rewrite, which makes the sets"),
        (lambda p: p["suites"]["glue"].update(fused={"model": "models/fused"}),
            "glue.data: no folder 'no/glue'. Unpack GLUE there, or set data: hub and its revision"),
    ],
)  # fmt: skip
def test_judged_models(tmp_path: Path, change: Change, message: str) -> None:
    refused(tmp_path, both(lambda p: p["glue"].update(data="no/glue"), change), message)


def test_suites_with_what_they_need_are_accepted(tmp_path: Path) -> None:
    def change(params: dict[str, Any]) -> None:
        params["glue"]["data"] = str(tmp_path)
        params["suites"]["glue"] = {"here": {"model": str(tmp_path)}}
        params["suites"]["wsd"]["theirs"] = {"model": str(tmp_path)}

    settings = read_consistent(changed(tmp_path, change))
    assert ("glue", "here", str(tmp_path)) in [(suite, name, e.model) for suite, name, e in settings.suites.entries()]


def test_a_start_may_teach_itself(tmp_path: Path) -> None:
    """And has no teachers by that: what it learned from is found through its start alone."""

    def change(params: dict[str, Any]) -> None:
        params["lexical"]["lexical"]["start"] = "models/labels-only"
        params["suites"]["language_model"]["lexical"]["before"] = "models/labels-only"
        own_answers(params, targets=1.0)

    settings = read_consistent(changed(tmp_path, change))
    assert settings.lexical["lexical"].own_targets
    assert ancestors("models/lexical", settings) == {"models/labels-only", "data/sources/minilm-l6-mlm"}


def test_targets_behind_a_url_need_no_fusion_here(tmp_path: Path) -> None:
    url = "s3://bucket/targets/theirs"
    settings = read_consistent(changed(tmp_path, lambda params: params["students"]["fused"].update(targets=url)))
    assert settings.students["fused"].targets == url
    assert "data/sources/minilm-l6-mlm" in ancestors("models/fused", settings)


def test_nothing_lexical_and_nothing_judged_is_accepted(tmp_path: Path) -> None:
    def empty(params: dict[str, Any]) -> None:
        params.update(senses={}, lexical={}, soft_labels={}, rewrite={})
        params["suites"] = {suite: {} for suite in params["suites"]}

    assert list(read_consistent(changed(tmp_path, empty)).suites.entries()) == []


def test_glue_on_the_hub_needs_no_folder(tmp_path: Path) -> None:
    def hub(params: dict[str, Any]) -> None:
        params["glue"] |= {"data": "hub", "revision": "0" * 40}
        params["suites"]["glue"]["fused"] = {"model": "models/fused"}

    assert read_consistent(changed(tmp_path, hub)).suites.glue["fused"].model == "models/fused"


def add_adapter(**more: Any) -> Change:
    """A teacher made here, `own`."""
    training = {**DEFAULTS["training"], "steps": 10}
    del training["evaluated_positions"]  # of students alone
    entry = {"start": "data/sources/wordnet-things", "text": "data/text", "training": training} | more
    return lambda params: params["adapters"].update(own=entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_adapter(start="data/sources/wordnet-thing"),
            ("adapters.own.start: 'data/sources/wordnet-thing' needs an entry 'wordnet-thing' in sources (did you mean "
            "'wordnet-things'?)")),
        (add_adapter(start="models/own"), "adapters.own.start: starts from itself"),
        (add_adapter(text="data/text/wordnt"),
            "adapters.own.text: no entry 'wordnt' in inputs (did you mean 'wordnet'?)"),
        (add_adapter(text="texts/none"),
            ("adapters.own.text: 'texts/none' does not exist. Expected data/sources/<an entry of sources>, or a path "
            "that is there")),
        (lambda p: p["adapters"].update(fused={**entry_of(add_adapter())}),
            "adapters.fused: students has this name too, and both would make models/fused"),
    ],
)  # fmt: skip
def test_adapters(tmp_path: Path, change: Change, message: str) -> None:
    refused(tmp_path, change, message)


def entry_of(change: Change) -> dict[str, Any]:
    """The entry that `add_adapter` adds."""
    params: dict[str, Any] = {"adapters": {}}
    change(params)
    return dict(params["adapters"]["own"])


@pytest.mark.parametrize("text", ["data/text", "data/text/wordnet", "data/documents", "pipeline"])
def test_a_teacher_made_here_descends_from_its_start(tmp_path: Path, text: str) -> None:
    def change(params: dict[str, Any]) -> None:
        add_adapter(text=text)(params)
        params["teachers"]["wordnet-things"]["model"] = "models/own"

    settings = read_consistent(changed(tmp_path, change))
    assert ancestors("models/only-things", settings) == {BODY, "models/own", THINGS}


BODY, THINGS, REST = (f"data/sources/{name}" for name in ("minilm-l6-mlm", "wordnet-things", "wordnet-rest"))


def test_a_model_descends_from_its_start_and_its_teachers_through_all_students(tmp_path: Path) -> None:
    settings = read_consistent(changed(tmp_path, add_soft_labels))
    assert ancestors("models/labels-only", settings) == {BODY}
    assert ancestors("models/only-things", settings) == {BODY, THINGS}
    assert ancestors("models/lexical", settings) == {"models/fused", BODY, THINGS, REST}
    assert ancestors("models/small/", settings) == {
        "models/labels-only", "models/lexical", "models/fused", BODY, THINGS, REST,
    }  # fmt: skip
    assert ancestors("data/sources/minilm-prose", settings) == set()
    settings = read_consistent(changed(tmp_path, add_fusion))
    assert ancestors("models/small", settings) == {
        "models/labels-only", "models/lexical", "models/minilm-l6-wsd", "models/fused", BODY, THINGS, REST,
    }  # fmt: skip
    assert ancestors("elsewhere/models/fused", settings) == set()


def test_text_without_annotation_that_soft_labels_teach(tmp_path: Path) -> None:
    """A control, which learns no senses, takes its student's steps."""

    def change(params: dict[str, Any]) -> None:
        add_soft_labels(params)
        params["senses"]["text"] = {"kind": "text", "path": "data/documents/", "most_words": 100}
        params["soft_labels"]["large"]["senses"] = ["examples", "text"]
        params["lexical"]["small"]["senses"] = ["examples", "text"]
        params["lexical"]["control"] = params["lexical"]["small"] | {"gold": 0.0, "soft_labels": 0.0}

    settings = read_consistent(changed(tmp_path, change))
    assert settings.senses["text"].most_words == 100


def only(name: str, suite: str = "paraphrase") -> Change:
    """That model alone is evaluated as a detector."""
    nothing: dict[str, Any] = {"paraphrase": {}, "plagiarism": {}}
    return lambda params: params["suites"].update(nothing | {suite: {name: {"model": f"models/{name}"}}})


PLANTED = {"kind": "rewritten", "path": "data/rewrite/prose", "share": 0.5, "split": "heldout", "document_words": 400,
           "passage_words": 20, "passages": 3, "clean": 0.3, "distractors": 0.3, "seed": 0}  # fmt: skip


def hide(**changes: Any) -> Change:
    """A set of hidden passages, and a model that is evaluated by it."""
    return both(lambda params: params.update(plagiarism_sets={"prose": PLANTED | changes}), only("fused", "plagiarism"))


@pytest.mark.parametrize(("change", "message"), [
    (hide(path="data/rewrite/prise"),
        "plagiarism_sets.prose.path: no entry 'prise' in rewrite (did you mean 'prose'?)"),
    (hide(path="data/prose"),
        "plagiarism_sets.prose.path: expected data/rewrite/<an entry of rewrite>, got 'data/prose'"),
    (hide(share=0.4), "plagiarism_sets.prose.share: expected one of rewrite.prose.shares, [0.5], got 0.4"),
    (hide(split="train"), "plagiarism_sets.prose.split: expected 'heldout', the split of rewrite.prose, got 'train'"),
    (hide(kind="pairs", path="no.tsv", share=None),
        ("plagiarism_sets.prose.path: 'no.tsv' does not exist. Expected data/sources/<an entry of sources>, or a path "
        "that is there")),
    (both(hide(), lambda params: params["rewrite"]["prose"].update(model=THINGS)),
        (f"rewrite.prose.model: '{THINGS}' must not rewrite, as suites.plagiarism.fused learned or started from it. "
        "Give another model")),
    (both(hide(), lambda params: params.update(plagiarism_sets={})),
        "suites.plagiarism: needs an entry in plagiarism_sets, which makes data/plagiarism"),
    (both(hide(), lambda params: params["plagiarism"].update(data="pan")),
        "plagiarism.data: no folder 'pan'. Expected data/plagiarism, or a folder that is there"),
])  # fmt: skip
def test_sets_of_hidden_passages(tmp_path: Path, change: Change, message: str) -> None:
    refused(tmp_path, change, message)


def test_a_set_that_fits_its_rewriter_is_accepted(tmp_path: Path) -> None:
    assert read_consistent(changed(tmp_path, hide())).plagiarism_sets["prose"].share == 0.5


@pytest.mark.parametrize(
    ("name", "rewriter", "how"),
    [
        ("fused", THINGS, "learned or started from it"),
        ("fused", "models/fused", "is it"),
        ("fused", "models/fused/", "is it"),
        ("lexical", REST, "learned or started from it"),
        ("lexical", BODY, "learned or started from it"),
        ("lexical", "models/fused", "learned or started from it"),
        ("labels-only", BODY, "learned or started from it"),
        ("small", "models/lexical", "learned or started from it"),
        ("small", THINGS, "learned or started from it"),
    ],
)
def test_a_rewriter_that_a_judged_model_knows_is_refused(tmp_path: Path, name: str, rewriter: str, how: str) -> None:
    change = both(add_soft_labels, only(name), lambda params: params["rewrite"]["prose"].update(model=rewriter))
    message = f"'{rewriter}' must not rewrite, as suites.paraphrase.{name} {how}. Give another model"
    refused(tmp_path, change, f"rewrite.prose.model: {message}")


@pytest.mark.parametrize(
    ("name", "rewriter"), [("labels-only", THINGS), ("only-things", REST), ("fused", "models/lexical")]
)
def test_a_rewriter_that_no_judged_model_knows_is_accepted(tmp_path: Path, name: str, rewriter: str) -> None:
    change = both(only(name), lambda params: params["rewrite"]["prose"].update(model=rewriter))
    assert read_consistent(changed(tmp_path, change)).rewrite["prose"].model == rewriter


def test_every_suite_is_named_in_the_same_words_everywhere() -> None:
    assert list(SuitesParams.model_fields) == list(SUITES)
    assert set(SUITES) == set(DEFAULTS["suites"])
