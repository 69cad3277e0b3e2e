"""The mean of several lexical teachers' soft labels, and a student that learns from it.

Not checked here: that the teachers' models are in memory one after the other, which their own stages see to.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.lexical.params import SenseFusionParams
from pipeline.lexical.soft_labels import KIND, REVISION, SCHEMA, fuse_soft_labels, mean_softened, open_soft_labels
from stages.fuse_senses import main
from storage.errors import DataError, StaleParent, StoreMissing
from storage.tables import write_tables
from storage.work import Workspace
from tests.helpers.lexical import Workplace, add_senses, make_workplace
from tests.helpers.stores import folder_bytes

FUSED = Path("data/sense_fusions/both")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Beside the usual stores "plain", whose words with several senses nobody annotated."""
    work = make_workplace(tmp_path_factory.mktemp("workplace"))
    add_senses(work, "plain", gold={"made.d001.s001.t001": "pond.only"})
    return work


def label(work: Workplace, name: str, senses: list[str], *, seed: int, parents: dict[str, str] | None = None) -> None:
    """A store of drawn soft labels where a teacher's would lie."""
    rng = np.random.default_rng(seed)
    tables = {}
    for where, found in work.open(*senses).items():
        rows = [rng.dirichlet(np.ones(len(row))) for row in found.rows["candidates"].to_pylist()]
        tables[where] = pa.table(
            {"instance_id": found.rows["instance_id"], "probability": [row.astype(np.float16) for row in rows]},
            schema=SCHEMA,
        )
    made_from = {f"senses/{where}": found.identity for where, found in work.open(*senses).items()}
    made_from["lexicon"] = next(iter(work.inputs(work.entry()).parents().values()))
    write_tables(
        Path("data/soft_labels") / name, tables, kind=KIND, revision=REVISION, schemas=dict.fromkeys(tables, SCHEMA),
        inputs={"model": f"{name} {seed}"}, facts={}, parents=made_from | (parents or {}), workspace=Workspace(),
    )  # fmt: skip


def fuse(*teachers: str, temperature: float = 1.0, out: Path = FUSED) -> dict[str, int]:
    params = SenseFusionParams(teachers=list(teachers), temperature=temperature)
    return fuse_soft_labels(params, soft_labels=Path("data/soft_labels"), out=out)


def labels_of(folder: Path, name: str) -> list[list[float]]:
    found: list[list[float]] = open_soft_labels(folder, [name]).read(name)["probability"].to_pylist()
    return found


def expected(rows: list[list[float]], temperature: float) -> list[float]:
    """Mean of softmax(log p / T), word by word and one number at a time."""
    softened = []
    for row in rows:
        powers = [math.exp(math.log(p) / temperature) if p else 0.0 for p in row]
        softened.append([power / sum(powers) for power in powers])
    return [sum(column) / len(rows) for column in zip(*softened, strict=True)]


PROBABILITIES = st.integers(1, 4).flatmap(
    lambda teachers: st.lists(
        st.integers(1, 6).flatmap(
            lambda size: st.lists(
                st.lists(st.floats(0.01, 1.0), min_size=size, max_size=size), min_size=teachers, max_size=teachers
            )
        ),
        min_size=1,
        max_size=4,
    )
)
"""Words; of each, teachers; of each, candidates."""


@given(words=PROBABILITIES, temperature=st.floats(0.25, 8.0))
def test_the_mean_is_that_of_softened_distributions(words: list[list[list[float]]], temperature: float) -> None:
    start_I1 = np.cumsum([0, *(len(word[0]) for word in words)])
    probability_MC = np.concatenate([np.array(word) for word in words], axis=1)
    found = mean_softened(probability_MC, start_I1, temperature=temperature)
    assert found.dtype == np.float64
    assert found.tolist() == pytest.approx([p for word in words for p in expected(word, temperature)])
    np.testing.assert_allclose(np.add.reduceat(found, start_I1[:-1]), 1)


def test_a_low_temperature_leaves_the_most_probable_sense_and_no_nan() -> None:
    rows = np.array([[0.4, 0.35, 0.25, 0.0, 1.0], [0.1, 0.2, 0.7, 0.5, 0.5]], np.float16)
    found = mean_softened(rows, np.array([0, 3, 5]), temperature=1e-4)
    assert found.tolist() == [0.5, 0.0, 0.5, 0.25, 0.75]


def test_a_store_has_the_mean_of_its_teachers(work: Workplace, workplace: Path) -> None:
    """Of the words that all label, in their order, within float16's rounding; the same again gives the same bytes."""
    label(work, "a", ["story", "examples"], seed=0)
    label(work, "b", ["examples", "story", "plain"], seed=1)
    words = fuse("a", "b", temperature=2.0)
    opened = work.open("story", "examples")
    assert words == {name: len(found.rows) for name, found in opened.items()}
    store = open_soft_labels(FUSED, list(opened))
    for name, found in opened.items():
        assert store.read(name)["instance_id"].to_pylist() == found.rows["instance_id"].to_pylist()
        pairs = zip(*(labels_of(Path("data/soft_labels") / teacher, name) for teacher in "ab"), strict=True)
        for row, mean in zip(pairs, labels_of(FUSED, name), strict=True):
            assert mean == pytest.approx(expected(list(row), 2.0), rel=2**-11, abs=1e-6)
    first = folder_bytes(FUSED)
    fuse("a", "b", temperature=2.0, out=Path("again/both"))
    assert folder_bytes(Path("again/both")) == first
    fuse("a", "b", out=Path("again/flat"))
    assert open_soft_labels(Path("again/flat"), []).identity != store.identity


def test_one_teacher_may_be_softened_alone(work: Workplace, workplace: Path) -> None:
    label(work, "a", ["story"], seed=0)
    fuse("a")
    for row, fused in zip(labels_of(Path("data/soft_labels/a"), "story"), labels_of(FUSED, "story"), strict=True):
        assert fused == pytest.approx([p / sum(row) for p in row], rel=2**-11)


def test_teachers_of_other_words_are_refused(work: Workplace, workplace: Path) -> None:
    label(work, "a", ["story"], seed=0)
    label(work, "b", ["story"], seed=1, parents={"senses/story": "0" * 64})
    with pytest.raises(StaleParent, match=r"b: made from senses/story 0{12}, but .* Run: dvc repro soft_labels@b"):
        fuse("a", "b")
    label(work, "c", ["plain"], seed=1)
    with pytest.raises(DataError, match=r"both: a, c label no senses in common\. Name one under each"):
        fuse("a", "c")
    with pytest.raises(StoreMissing, match=r"data/soft_labels/d.*Run: dvc repro soft_labels@d"):
        fuse("a", "d")
    assert not FUSED.exists()


def test_a_student_learns_from_the_mean(work: Workplace, workplace: Path) -> None:
    """Its loss, a cross-entropy, ends near the entropy of the mean."""
    label(work, "a", ["plain"], seed=0)
    label(work, "b", ["plain"], seed=1)
    fuse("a", "b")
    training = {"epochs": 60.0, "step_words": 7, "learning_rate": 5e-3, "weight_decay": 0.0}
    given: dict[str, Any] = {"gold": 0.0, "soft_labels": 1.0, "soft_labels_from": str(FUSED), "training": training}
    record = work.train(work.entry(senses=["plain"], **given), Path("models/one"))
    rows = [[p / sum(row) for p in row] for row in labels_of(FUSED, "plain") if len(row) > 1]
    entropy = -np.mean([sum(p * math.log(p) for p in row) for row in rows])
    _, taught = np.array(record["losses"]).T
    assert record["words"] == len(rows) == 7
    assert entropy - 1e-3 < taught.min()
    assert taught[-1] - entropy < 0.3 * (taught[0] - entropy)
    assert record["parents"]["soft_labels"] == open_soft_labels(FUSED, []).identity
    with pytest.raises(StoreMissing, match=r"both: has no soft labels of senses 'story'\. Add it to senses of all its"):
        work.train(work.entry(senses=["story"], **given), Path("models/two"))


def test_the_command_and_its_refusals(work: Workplace, workplace: Path) -> None:
    label(work, "a", ["story"], seed=0)
    Path("params.yaml").write_text("sense_fusions: {both: {teachers: [a], temperature: 2.0}}\n", encoding="utf-8")
    arguments = ["both", "--soft-labels", "data/soft_labels", "--out", str(FUSED)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert open_soft_labels(FUSED, ["story"]).manifest.facts["words"] == {"story": 9}
    Path("params.yaml").write_text("sense_fusions: {both: {teachers: [z], temperature: 2.0}}\n", encoding="utf-8")
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1 and "dvc repro soft_labels@z" in refused.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teachers": ["a", "a"]}, "names a teacher twice"),
        ({"teachers": []}, "at least 1 item"),
        ({"temperature": 0.0}, "greater than 0"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SenseFusionParams.model_validate({"teachers": ["a"], "temperature": 1.0} | changes)
