"""Settings of lexical students, what is published, what a killed run becomes, and what is refused before it learns."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open

from pipeline.lexical.params import LexicalParams, ReadingParams
from pipeline.lexical.train import require_room
from pipeline.lexical.trainer import LexicalTrainer
from pipeline.models.identity import model_digest
from pipeline.models.masked_lm import load_checked
from pipeline.senses.lexicon import Lexicon
from storage.errors import (
    DataError,
    ParamsError,
    StaleParent,
    VocabularyError,
)
from storage.format.manifest import digest
from tests.helpers import stores as fakes
from tests.helpers.inventories import ENTRIES, tiny_lexicon
from tests.helpers.lexical import REHEARSAL, TEXT, Workplace, add_senses, make_workplace
from tests.helpers.stores import TinyStores, cpu_runtime, folder_bytes

OUT = Path("models/one")
OWN = REHEARSAL | {"loss": {"targets": 1.0, "labels": 0.0, "tail": "bucket"}}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module", params=["lmgc", "bi_encoder", "bi_encoder_m", "bi_encoder_m own", "bi_encoder table"])
def trained(
    request: pytest.FixtureRequest, work: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LexicalParams, Path, dict[str, Any]]:
    """A student of each way of learning, the last kept at what its start said: its entry, its folder and its record."""
    folder, params = tmp_path_factory.mktemp("trained"), work.entry(objective=request.param.split()[0])
    if request.param.endswith(" table"):
        table = {"refresh_steps": 2, "encoding_words": 3}
        params = work.entry(objective="bi_encoder", training={"gloss_table": table})
    if request.param.endswith(" own"):
        params = work.entry(objective="bi_encoder_m", targets=str(work.start), language_model=OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        record = work.train(params, OUT)
    return params, folder / OUT, record


def entry(**changes: Any) -> dict[str, Any]:
    training = {
        "epochs": 1.0, "step_words": 8, "learning_rate": 1e-4, "warmup": 0.1, "weight_decay": 0.0,
        "gradient_clip": 1.0, "most_candidates": 4, "seed": 0,
    }  # fmt: skip
    reading = {"context_tokens": 32, "gloss_tokens": 16, "examples": True}
    whole = {
        "start": "m", "senses": ["examples"], "objective": "lmgc", "reading": reading, "gold": 1.0, "soft_labels": 0.0,
        "soft_labels_from": "data/senses", "targets": "data/masks", "training": training,
    }  # fmt: skip
    return whole | changes


@pytest.mark.parametrize("objective", ["lmgc", "bi_encoder"])
def test_the_language_model_s_part_belongs_to_m_alone(objective: str) -> None:
    assert LexicalParams.model_validate(entry(objective=objective)).language_model is None
    kept = LexicalParams.model_validate(entry(objective=f"{objective}_m", language_model=REHEARSAL))
    assert kept.language_model is not None and kept.language_model.loss.labels == 1.0
    for wrong in (entry(objective=objective, language_model=REHEARSAL), entry(objective=f"{objective}_m")):
        with pytest.raises(ValidationError, match="language_model belongs to objectives that end in _m"):
            LexicalParams.model_validate(wrong)


def test_only_a_bi_encoder_has_a_table_of_glosses() -> None:
    table = entry()["training"] | {"gloss_table": {"refresh_steps": 8, "encoding_words": 4}}
    assert LexicalParams.model_validate(entry(objective="bi_encoder", training=table)).training.gloss_table is not None
    with pytest.raises(ValidationError, match="gloss_table belongs to bi_encoder and bi_encoder_m: lmgc has no gloss"):
        LexicalParams.model_validate(entry(training=table))


def test_what_came_later_leaves_the_identities_of_earlier_settings(work: Workplace) -> None:
    """The digest of the default settings has nothing of the table."""
    table = {"gloss_table": {"refresh_steps": 8, "encoding_words": 4}}
    plain, other = (work.inputs(params).identity(params) for params in (work.entry(), work.entry(training=table)))
    assert plain != other
    settings = work.entry().model_dump(by_alias=True, exclude={"start", "soft_labels_from", "targets"})
    assert set(settings["training"]) == set(entry()["training"])
    inputs = work.inputs(work.entry())
    assert plain == digest({
        "lexical": settings, "parents": inputs.parents(), "start": model_digest(work.start), "beliefs": [],
        "targets": None,
    })  # fmt: skip


@pytest.mark.parametrize("changes", [{"senses": []}, {"gold": 0.0, "soft_labels": 0.0}])
def test_nothing_to_learn_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="something to learn from"):
        LexicalParams.model_validate(entry(**changes))


def test_own_answers_have_no_prior() -> None:
    of_start = {"objective": "lmgc_m", "start": "models/m", "targets": "models/m/"}
    assert LexicalParams.model_validate(entry(**of_start, language_model=OWN)).own_targets
    assert not LexicalParams.model_validate(entry(**of_start | {"targets": "n"}, language_model=REHEARSAL)).own_targets
    with pytest.raises(ValidationError, match="the start's own predictions, which have no prior: set tail to bucket"):
        LexicalParams.model_validate(entry(**of_start, language_model=REHEARSAL))


@pytest.mark.parametrize(
    ("way", "context", "gloss", "needs"), [("bi", 65, 20, 65), ("bi", 20, 66, 66), ("cross", 40, 23, 65)]
)
def test_sequences_longer_than_the_model_reads(way: str, context: int, gloss: int, needs: int) -> None:
    reading = ReadingParams(context_tokens=context, gloss_tokens=gloss, examples=False)
    require_room(reading, way, positions=needs, start=Path("m"))
    with pytest.raises(ParamsError, match=rf"sequences of {needs} tokens, but m reads {needs - 1} at most"):
        require_room(reading, way, positions=needs - 1, start=Path("m"))


# Training.

Trained = tuple[LexicalParams, Path, dict[str, Any]]


def test_a_student_is_the_start_with_senses_beside_it(work: Workplace, trained: Trained) -> None:
    params, folder, record = trained
    start, student = (dict(load_checked(path).named_parameters()) for path in (work.start, folder))
    assert {name: value.shape for name, value in student.items()} == {n: value.shape for n, value in start.items()}
    assert record["parameters"] == sum(value.numel() for value in start.values())
    stored = []
    for path in (work.start, folder):
        with safe_open(path / "model.safetensors", framework="pt") as weights:
            stored.append(set(weights.keys()))
    assert stored[0] == stored[1], "no weight of the head"
    changed = {name for name, value in student.items() if not torch.equal(value, start[name])}
    assert "bert.encoder.layer.0.attention.self.query.weight" in changed
    assert ("cls.predictions.transform.dense.weight" in changed) == (params.language_model is not None)
    assert (folder / "tokenizer.json").read_bytes() == (work.start / "tokenizer.json").read_bytes()


def test_a_control_takes_the_same_steps_on_the_same_sequences_without_senses(work: Workplace, workplace: Path) -> None:
    """Beside a student whose senses have next to no weight, which goes the whole way."""
    found = {}
    for name, gold in (("control", 0.0), ("barely", 1e-30), ("student", 1.0)):
        record = work.train(work.entry(objective="bi_encoder_m", gold=gold), Path("models") / name)
        found[name] = record, dict(load_checked(Path("models") / name).named_parameters())
    assert len({record["steps"] for record, _ in found.values()}) == 1
    assert set(map(tuple, found["control"][0]["losses"])) == {(0.0, 0.0)}
    start = dict(load_checked(work.start).named_parameters())
    for name, value in found["control"][1].items():
        assert value.detach().numpy() == pytest.approx(found["barely"][1][name].detach().numpy(), abs=1e-5), name
    moved = [max(float((value - start[name]).detach().abs().max()) for name, value in found["control"][1].items()),
             max(float((value - found["student"][1][name]).detach().abs().max())
                 for name, value in found["control"][1].items())]  # fmt: skip
    assert min(moved) > 1e-3, "it learned, and something else than a student with senses"
    assert "as a control without senses" in (Path("models/control") / "README.md").read_text()


def test_what_scores_senses_lies_beside_the_model(work: Workplace, trained: Trained) -> None:
    params, folder, record = trained
    assert {path.name for path in (folder / "senses").iterdir()} == {"head.safetensors", "reading.json", "lexicon"}
    assert Lexicon.open(folder / "senses" / "lexicon").identity == Lexicon.open(work.lexicon).identity
    assert json.loads((folder / "senses" / "reading.json").read_text()) == {
        "objective": params.objective, **params.reading.model_dump(),
    }  # fmt: skip
    with safe_open(folder / "senses" / "head.safetensors", framework="pt") as head:
        names = {"score.weight", "score.bias"} if params.objective == "lmgc" else {
            "context.weight", "context.bias", "scale",
        }  # fmt: skip
        assert set(head.keys()) == names
    assert record == json.loads((folder / "training.json").read_text())
    assert len(record["losses"]) == record["steps"] > 8
    assert record["losses"][-1][0] < record["losses"][0][0]
    assert f"learned word senses ({params.objective})" in (folder / "README.md").read_text()


def test_the_same_settings_give_the_same_bytes(work: Workplace, trained: Trained, workplace: Path) -> None:
    params, folder, _ = trained
    work.train(params, OUT)
    assert folder_bytes(OUT) == folder_bytes(folder)


def test_a_killed_run_ends_as_if_it_had_not_been(
    work: Workplace, trained: Trained, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder, record = trained
    step, begun = LexicalTrainer.learn, []

    def counted(self: LexicalTrainer, number: int, *rest: Any) -> None:
        if number == 5 and 5 not in begun:
            begun.append(number)
            raise KeyboardInterrupt
        begun.append(number)
        step(self, number, *rest)

    monkeypatch.setattr(LexicalTrainer, "learn", counted)
    with pytest.raises(KeyboardInterrupt):
        work.train(params, OUT, runtime=cpu_runtime(batch_tokens=4000, checkpoint_seconds=0))
    assert not OUT.exists()
    assert [path.name for path in Path(".work").glob("models-one-*/checkpoints/*")] == ["step-5"]
    begun.clear()
    begun.append(5)
    work.train(params, OUT)
    assert begun == [5, *range(5, record["steps"])], "what was done is not done again"
    assert folder_bytes(OUT) == folder_bytes(folder)


def test_held_out_text_is_not_shown(
    work: Workplace, trained: Trained, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A sentence of the story stands in held-out documents: two words that could be learned are left out.

    And two of the sentence before it, whose windows reach into it.
    """
    params, _, record = trained
    story = " ".join(word.partition("/")[0] for word in TEXT["made.d000"][1].split())
    texts = tuple(f"number {number}: {story.capitalize()}." for number in range(20))
    documents = fakes.tiny_documents(workplace, texts=texts, calibration=0.3, heldout=0.4)
    with caplog.at_level("INFO", logger="pipeline.lexical.inputs"):
        less = work.train(params, OUT, documents=documents)
    assert record["left_out"] == 0 and less["left_out"] == 4
    assert less["words"] == record["words"] - 4
    assert less["identity"] != record["identity"]
    assert f"4 of {record['words']} words left out: they would show it held-out text" in caplog.text
    assert re.search(r"Left out were\s4 words that would have shown it held-out text", (OUT / "README.md").read_text())


# Refusals.


def test_senses_of_another_inventory_are_refused(work: Workplace, tmp_path: Path, workplace: Path) -> None:
    other = tiny_lexicon(tmp_path / "other", ENTRIES[1:])
    with pytest.raises(StaleParent, match=rf"examples: made from lexicon .*{other.identity[:12]}.*dvc repro senses@"):
        work.train(work.entry(), OUT, lexicon=tmp_path / "other" / "lexicon")
    assert not OUT.exists()


def test_soft_labels_need_a_store(work: Workplace, workplace: Path) -> None:
    with pytest.raises(
        ParamsError, match=r"soft_labels has a weight but no store\. Set soft_labels_from to data/soft_labels/NAME"
    ):
        work.train(work.entry(soft_labels=0.5), OUT)


def test_masked_sequences_of_another_vocabulary(work: Workplace, tiny_stores: TinyStores, workplace: Path) -> None:
    """The start knows two marks more than the stores."""
    size = len(json.loads((work.tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    given = {"sequences": tiny_stores.sequences, "masks": tiny_stores.masks}
    message = rf"masks: {size - 2} ids, but the start of lexical\.one has {size}\. Start"
    with pytest.raises(VocabularyError, match=message):
        work.train(work.entry(objective="bi_encoder_m"), OUT, **given)
    with pytest.raises(StaleParent, match="masks: made from sequences"):
        work.train(work.entry(objective="bi_encoder_m"), OUT, masks=tiny_stores.masks)
    assert not OUT.exists()


@pytest.mark.parametrize(("objective", "context", "needs"), [("bi_encoder", 65, 65), ("lmgc", 45, 67)])
def test_a_start_that_reads_too_little(
    work: Workplace, workplace: Path, objective: str, context: int, needs: int
) -> None:
    """The start has 64 positions."""
    reading = {"context_tokens": context, "gloss_tokens": 20, "examples": True}
    message = rf"sequences of {needs} tokens, but .*start reads 64 at most\. Lower context"
    with pytest.raises(ParamsError, match=message):
        work.train(work.entry(objective=objective, reading=reading), OUT)


@pytest.mark.parametrize("heldout", [0.0, 0.999999])
def test_words_that_teach_nothing(work: Workplace, workplace: Path, heldout: float) -> None:
    """A word with one sense beside one without annotation; and words with both that are all held out."""
    name = f"nothing{heldout:.0f}"
    if heldout:
        add_senses(work, name, heldout=heldout)
    else:
        add_senses(work, name, gold={"made.d001.s001.t001": "pond.only"})
    with pytest.raises(DataError, match=rf"senses {name}: no word with several senses to learn from"):
        work.train(work.entry(senses=[name]), OUT)
