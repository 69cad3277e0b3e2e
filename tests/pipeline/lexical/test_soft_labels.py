"""A lexical teacher's soft labels, stored and read back; and a student that learns from them without annotation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.lexical.params import SoftLabelsParams
from pipeline.lexical.reading.reader import sense_reader
from pipeline.lexical.soft_labels import open_soft_labels, read_soft_labels, write_soft_labels
from pipeline.senses.instances import (
    INSTANCES,
    REVISION,
    SCHEMAS,
    Instances,
    tables_of,
)
from pipeline.senses.lexicon import Lexicon
from pipeline.senses.marked import Marked
from pipeline.text.ragged import Ragged
from storage.errors import DataError, StaleParent, StoreMissing
from storage.tables import write_tables
from storage.work import Workspace
from tests.helpers.inventories import ENTRIES, marked, span, tiny_lexicon
from tests.helpers.lexical import TEXT, Workplace, add_senses, make_workplace
from tests.helpers.stores import cpu_runtime

ASKED = ["examples", "story", "turned", "plain"]
SOFT_LABELS = Path("data/soft_labels/large")


def turned() -> list[Marked]:
    """A sentence of several windows whose words are listed from the last to the first, before one of one window."""
    text = "the old dog waits " + "beside the river " * 12 + "and hides on the bank"
    spans = (span(text, "bank", gold=["bank.water"]), span(text, "hides", lemma="hide", pos="VERB"), span(text, "dog"))
    return [marked(text, *spans), marked("a bank of apples", span("a bank of apples", "bank"), number=1)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Beside the usual stores: "turned", and "plain", whose words with several senses nobody annotated."""
    from collections import Counter

    work = make_workplace(tmp_path_factory.mktemp("workplace"))
    lexicon = Lexicon.open(work.lexicon)
    write_tables(
        work.senses / "turned", tables_of(turned(), lexicon, heldout=0.0, prefix="", counts=Counter()), kind=INSTANCES,
        revision=REVISION, schemas=SCHEMAS, inputs={}, facts={}, parents={"lexicon": lexicon.identity},
        workspace=Workspace(work.senses / ".work"),
    )  # fmt: skip
    add_senses(work, "plain", gold={"made.d001.s001.t001": "pond.only"})
    return work


@pytest.fixture(scope="module")
def teacher(work: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        work.train(work.entry(training={"epochs": 24.0, "learning_rate": 5e-3}), Path("models/large"))
    return folder / "models" / "large"


@pytest.fixture(scope="module")
def soft_labels(work: Workplace, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soft_labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        counts = ask(work, teacher, ASKED)
    assert counts == {name: len(found.rows) for name, found in work.open(*ASKED).items()}
    assert counts["story"] == 9 and counts["turned"] == 4
    return folder / SOFT_LABELS


def ask(work: Workplace, teacher: Path, names: list[str], *, lexicon: Path | None = None) -> dict[str, int]:
    return write_soft_labels(
        SoftLabelsParams(model=str(teacher), senses=names), lexicon=lexicon or work.lexicon, senses=work.senses,
        out=SOFT_LABELS, runtime=cpu_runtime(),
    )  # fmt: skip


def candidates_of(instances: Instances, row_I: np.ndarray) -> Ragged:
    """Meanings play no part: what counts is how many candidates a word has."""
    return Ragged.of(instances.rows["candidates"].take(row_I).to_pylist(), np.int64)


def test_what_was_believed_is_read_back(work: Workplace, teacher: Path, soft_labels: Path) -> None:
    """Every row, annotated or not, in any order, as the reader itself says within float16's rounding."""
    opened = work.open(*ASKED)
    expected: list[np.ndarray] = []
    with sense_reader(teacher, cpu_runtime(batch_tokens=10**5)) as reader:
        for instances in opened.values():
            view, logp_C = reader.read(instances)
            parts = np.split(np.exp(logp_C), view.candidates.start_R1[1:-1])
            expected += [parts[place] for place in np.argsort(view.row_I, kind="stable")]
    joined = Instances.joined(list(opened.values()))
    assert len(expected) == len(joined.rows)
    row_I = np.random.default_rng(0).permutation(len(expected))
    found = read_soft_labels(
        open_soft_labels(soft_labels, list(opened)), opened, row_I=row_I, candidates=candidates_of(joined, row_I)
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate([expected[row] for row in row_I]), rtol=2**-10, atol=1e-5)
    assert not any(instances for instances in opened["plain"].rows["gold"].to_pylist()[:-1]), "nobody annotated these"


def test_rows_stand_in_the_order_of_the_store(work: Workplace, teacher: Path, soft_labels: Path) -> None:
    """Each word asked alone, in a store that lists words from the last to the first."""
    instances = work.open("turned")["turned"]
    table = open_soft_labels(soft_labels, ["turned"]).read("turned")
    assert table["instance_id"].to_pylist() == instances.rows["instance_id"].to_pylist()
    with sense_reader(teacher, cpu_runtime(batch_tokens=300)) as reader:
        for row, labels in enumerate(table["probability"].to_pylist()):
            alone = Instances(sentences=instances.sentences, rows=instances.rows.slice(row, 1), identity="one")
            assert labels == pytest.approx(np.exp(reader.read(alone)[1]), abs=1e-3)
            assert sum(labels) == pytest.approx(1, abs=2e-3)
        lengths = list(map(len, table["probability"].to_pylist()))
    assert lengths == [3, 2, 2, 3]


def test_other_instances_are_refused(work: Workplace, soft_labels: Path, tmp_path: Path) -> None:
    lexicon = Lexicon.open(work.lexicon)
    text = TEXT | {"made.d002": ["a dog/dog/NOUN"]}
    changed = Instances.open(add_senses(work, "story", text=text, out=tmp_path / "story"), lexicon=lexicon)
    none, store = np.zeros(0, np.int64), open_soft_labels(soft_labels, ["story"])
    with pytest.raises(StaleParent, match=r"large: made from senses/story .*Run: dvc repro soft_labels@large"):
        read_soft_labels(store, {"story": changed}, row_I=none, candidates=candidates_of(changed, none))


def test_other_candidates_are_refused(work: Workplace, soft_labels: Path) -> None:
    opened, row_I = work.open("story"), np.arange(3)
    wrong = candidates_of(opened["story"], np.arange(1, 4))
    with pytest.raises(StaleParent, match=r"large: has other candidates than story\. Run: dvc repro soft_labels@large"):
        read_soft_labels(open_soft_labels(soft_labels, list(opened)), opened, row_I=row_I, candidates=wrong)


def test_a_name_without_soft_labels_is_refused(work: Workplace, teacher: Path, workplace: Path) -> None:
    ask(work, teacher, ["story"])
    message = r"large: has no soft labels of senses 'plain'\. Add it to soft_labels\.large\.senses"
    with pytest.raises(StoreMissing, match=message):
        work.train(
            work.entry(senses=["story", "plain"], soft_labels=1.0, soft_labels_from=str(SOFT_LABELS)),
            Path("models/one"),
        )
    assert not Path("models/one").exists()


def test_a_teacher_of_another_inventory_is_refused(work: Workplace, teacher: Path, workplace: Path) -> None:
    lexicon = tiny_lexicon(workplace, [*ENTRIES, ENTRIES[-1] | {"key": "pond.other"}])
    with pytest.raises(StaleParent, match=r"large: learned inventory .* but the one at hand is .*lexical@large"):
        with sense_reader(teacher, cpu_runtime(batch_tokens=300)) as reader:
            reader.require_lexicon(lexicon)
    with pytest.raises(StaleParent, match="story: made from lexicon"):
        ask(work, teacher, ["story"], lexicon=workplace / "lexicon")
    there = Workplace(**vars(work) | {"lexicon": workplace / "lexicon"})
    own = add_senses(there, "other", out=workplace / "s" / "other")
    elsewhere = Workplace(**vars(work) | {"senses": own.parent})
    with pytest.raises(StaleParent, match=r"large: learned inventory .* but the one at hand is .*lexical@large"):
        ask(elsewhere, teacher, ["other"], lexicon=workplace / "lexicon")
    assert not SOFT_LABELS.exists()


def test_soft_labels_teach_what_nobody_annotated(work: Workplace, soft_labels: Path, workplace: Path) -> None:
    """Every step sees all words, so its loss is a cross-entropy that ends at the teacher's entropy."""
    training = {"epochs": 60.0, "step_words": 7, "learning_rate": 5e-3, "weight_decay": 0.0}
    given = {"senses": ["plain"], "training": training}
    with pytest.raises(DataError, match="senses plain: no word with several senses"):
        work.train(work.entry(**given), Path("models/one"))
    record = work.train(
        work.entry(**given, gold=0.0, soft_labels=1.0, soft_labels_from=str(soft_labels)), Path("models/one")
    )
    rows = [np.array(row) for row in open_soft_labels(soft_labels, ["plain"]).read("plain")["probability"].to_pylist()]
    several = [row / row.sum() for row in rows if len(row) > 1]
    entropy = -np.mean([(row * np.log(row, where=row > 0, out=np.zeros_like(row))).sum() for row in several])
    gold, taught = np.array(record["losses"]).T
    assert record["words"] == len(several) == 7 and not gold.any()
    assert taught.min() > entropy - 1e-3
    assert taught[0] - entropy > 0.3, "the teacher is no coin"
    assert taught[-1] - entropy < 0.1 * (taught[0] - entropy)
