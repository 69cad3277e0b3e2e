"""One document followed through hand-made stores: the words that a person would look for are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluate.top_tokens import spelled
from pipeline.evaluate.trace import Stores, Trace, lines, trace
from storage.documents import DocumentStore
from storage.errors import DataError, StaleParent, StoreMissing
from storage.format.codec import LEVELS, LOGPROB_STEPS
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from tests.helpers.stores import TinyStores, cpu_runtime, words_of
from tests.helpers.teacher_stores import World, make_world, write_student

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tiny_stores: TinyStores, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("world") / "data")


def open_stores(world: World, students: dict[str, Path] | None = None) -> Stores:
    return Stores.open(
        world.data,
        teachers=["alpha", "beta"],
        targets=world.data / "targets" / "confident",
        students=students or {},
    )


def follow(world: World, doc_id: str | None, students: dict[str, Path] | None = None) -> Trace:
    return trace(open_stores(world, students), doc_id, runtime=cpu_runtime(batch_tokens=256))


def document(world: World, split: str, row: int) -> dict[str, str]:
    return DocumentStore(world.stores.documents).read(split).slice(row, 1).to_pylist()[0]


def blank_words(world: World, split: str, row: int) -> list[str]:
    """What the text has at each masked position of a document, straight from characters."""
    sequences = Store(world.stores.sequences, Sequences).read(split)
    masks = Store(world.stores.masks, Masks).read(split)
    mine = sequences.document_N[masks.sequence_P] == row
    at = masks.sequence_P[mine], masks.column_P[mine]
    return words_of(document(world, split, row)["text"], sequences.char_start_NL[at], sequences.char_end_NL[at])


@pytest.mark.parametrize("split", SPLITS)
def test_a_document_of_any_split_is_found_with_its_masked_positions(world: World, split: str) -> None:
    row = 2
    wanted = document(world, split, row)
    found = follow(world, wanted["doc_id"])
    assert (found.doc_id, found.split, found.text) == (wanted["doc_id"], split, wanted["text"])
    words = blank_words(world, split, row)
    assert [truth.removeprefix("##") for truth in found.truth_P] == [word.lower() for word in words]
    assert len(found.predictions_P) == len(words) > 0


def filled(text: str, words: list[str]) -> str:
    """Put the words back where their numbers are."""
    for number in range(len(words)):
        text = text.replace(f"____[{number + 1}]", words[number])
        for last in range(number + 1, len(words)):
            text = text.replace(f"____[{number + 1}-{last + 1}]", "".join(words[number : last + 1]))
    return text


def test_examples_are_the_text_with_numbered_masked_positions(world: World) -> None:
    """Putting the words back gives windows of the text; the two copies of a window mask other words."""
    for row in range(6):
        wanted = document(world, "train", row)
        found = follow(world, wanted["doc_id"])
        words = blank_words(world, "train", row)
        windows = []
        for text in found.examples:
            assert "____[" in text
            windows.append(filled(text, words))
        assert len(set(found.examples)) == len(windows) == 2 * len(set(windows))
        assert all(text in wanted["text"] for text in windows)


def test_teachers_answer_with_weight_and_tokens_of_their_own(world: World) -> None:
    found = follow(world, None)
    assert found.split == "heldout"
    tokens = spelled_tokens(world)
    stored = {name: read_logits(world, name) for name in ("alpha", "beta")}
    fused_rows = Store(world.data / "targets" / "confident", FusedTargets).read("heldout")
    for number, predictions in enumerate(found.predictions_P):
        alpha, beta, fused = predictions
        assert (alpha.name, beta.name, fused.name, fused.role) == ("alpha", "beta", "confident", "fused")
        top = stored["alpha"].ids_PK[number, :5]
        assert [token for token, _ in alpha.top] == [tokens[token] for token in top]
        assert np.sqrt([p for _, p in alpha.top]) == pytest.approx(
            np.sqrt(world.dense["alpha"][number][top]), abs=1 / LEVELS
        )
        assert alpha.truth == pytest.approx(world.dense["alpha"][number][world.label_P[number]], rel=1 / LOGPROB_STEPS)
        if number % 5:
            assert (alpha.role, beta.role) == ("teacher, weight 0.75", "teacher, weight 0.25")
            top = stored["beta"].ids_PK[number, :5].astype(int)  # its ids run the other way, its tokens do not
            assert [token for token, _ in beta.top] == [tokens[len(tokens) - 1 - token] for token in top]
        else:
            assert (alpha.role, beta.role) == ("teacher, weight 1.00", "teacher, weight 0.00")
            assert beta.top == []
        assert fused.top[0][0] == tokens[int(fused_rows.ids_PM[number, 0])]
    assert len(found.predictions_P) >= 2


def test_a_teacher_without_lists_is_shown_by_its_draws(world: World, tmp_path: Path) -> None:
    """What was drawn most stands first; nobody reads "no prediction" where there is one."""
    other = make_world(world.stores, tmp_path / "data", keep=0, draws=30, fusions=())
    stores = Stores.open(
        other.data, teachers=["alpha", "beta"], targets=world.data / "targets" / "confident", students={}
    )
    found = trace(stores, None, runtime=cpu_runtime(batch_tokens=256))
    tokens, rows = spelled_tokens(world), read_logits(other, "alpha")
    for number, (alpha, beta, _) in enumerate(found.predictions_P):
        assert alpha.top[0] == (tokens[rows.drawn_ids_PS[number, 0]], pytest.approx(rows.drawn_share_PS[number, 0]))
        shares = [share for _, share in alpha.top]
        assert shares == sorted(shares, reverse=True) and all(share > 0 for share in shares)
        assert (beta.top == []) == (number % 5 == 0)


def read_logits(world: World, name: str) -> SparseLogits:
    return Store(world.data / "logits" / name, SparseLogits).read("heldout")


def spelled_tokens(world: World) -> list[str]:
    from pipeline.text.vocabulary import decode_tokens

    return [spelled(token) for token in decode_tokens(Store(world.stores.sequences, Sequences).constant("pieces_utf8"))]


def test_students_answer_one_after_the_other_as_fill_mask_does(world: World, tiny_mlm: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    folders = {name: write_student(tmp_path / name, tiny_mlm, world.stores) for name in ("one", "two")}
    found = follow(world, None, folders)
    assert [prediction.name for prediction in found.predictions_P[0]] == ["alpha", "beta", "confident", "one", "two"]
    assert found.predictions_P[0][3].top == found.predictions_P[0][4].top
    fill = pipeline("fill-mask", model=str(tiny_mlm), device="cpu")
    words = blank_words(world, "heldout", 0)
    text = found.examples[0]
    for number in range(len(words)):
        text = text.replace(f"____[{number + 1}]", "[MASK]")
    assert "____" not in text, "the first held-out document has masked words of one token only"
    expected = fill(text)
    for number, guesses in enumerate(expected if isinstance(expected[0], list) else [expected]):
        ours = found.predictions_P[number][3].top
        assert [p for _, p in ours] == pytest.approx([guess["score"] for guess in guesses], abs=1e-4)
        assert ours[0][0] == guesses[0]["token_str"]


def test_the_printed_trace_names_everything_and_says_what_it_leaves_out(world: World) -> None:
    found = follow(world, None)
    text = list(lines(found, positions=1))
    assert text[0] == f"document {found.doc_id} (heldout, source {found.source})"
    assert text[1].strip() == found.text
    assert f"position 1: {found.truth_P[0]}" in text
    alpha = next(line for line in text if "alpha" in line)
    assert "teacher, weight 1.00" in alpha
    assert f"{found.predictions_P[0][0].top[0][0]} {found.predictions_P[0][0].top[0][1]:.3f}" in alpha
    beta = next(line for line in text if "beta" in line)
    assert "no prediction: the word is cut differently in its vocabulary" in beta
    assert text[-1] == f"{len(found.truth_P) - 1} more masked positions (--positions 0 shows all)"
    assert sum(line.startswith("position ") for line in lines(found, positions=0)) == len(found.truth_P)


def test_an_unknown_document_is_refused_with_the_nearest_id(world: World) -> None:
    known = document(world, "heldout", 0)["doc_id"]
    with pytest.raises(DataError, match=rf"no document '{known}x' \(did you mean '[\w:]+'\?\)"):
        follow(world, known + "x")
    with pytest.raises(DataError, match=rf"no document '{known[-3:]}'.*'[\w:]*{known[-3:]}'"):
        follow(world, known[-3:])
    with pytest.raises(DataError, match=r"no document 'qqqqqqqq' \(for example '[\w:]+'\)"):
        follow(world, "qqqqqqqq")


def test_students_of_other_masks_are_refused(world: World, tiny_mlm: Path, tmp_path: Path) -> None:
    folder = write_student(tmp_path / "one", tiny_mlm, world.stores)
    record = (folder / "training.json").read_text(encoding="utf-8")
    (folder / "training.json").write_text(record.replace(Store(world.stores.masks, Masks).identity, "f" * 64))
    with pytest.raises(StaleParent, match=r"one: trained on masks f{12}, but .*Run: dvc repro train@one"):
        open_stores(world, {"one": folder})


def test_a_teacher_that_has_not_answered_yet_is_named(world: World) -> None:
    with pytest.raises(StoreMissing, match=r"logits/gamma: no sealed store here .*Run: dvc repro teach@gamma"):
        Stores.open(world.data, teachers=["gamma"], targets=world.data / "targets" / "confident", students={})


@pytest.mark.parametrize(("token", "expected"), [
    ("▁dog", "dog"), ("s", "##s"), ("[UNK]", "[UNK]"), ("▁", "▁"), ("[hole 7]", "[hole 7]"),
])  # fmt: skip
def test_tokens_are_spelled_for_people(token: str, expected: str) -> None:
    assert spelled(token) == expected
