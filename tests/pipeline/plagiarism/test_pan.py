"""PAN's layout is read as it is published; every refusal names file, place, what was expected and what stands there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plagiarism.measures import Passage
from pipeline.plagiarism.pan import DETECTED, INTRINSIC, read_corpora, read_corpus, write_corpus, write_features
from storage.errors import DataError

SUSPICIOUS = "This was taken. This was not."
SOURCE_TEXT = "Once. That is what was taken."


SOURCE_NAME = "source-document00001.txt"


def feature(**more: object) -> str:
    attributes = {
        "name": "plagiarism", "this_offset": 0, "this_length": 15,
        "source_reference": SOURCE_NAME, "source_offset": 6, "source_length": 23,
    } | more  # fmt: skip
    named = [f'{key}="{value}"' for key, value in attributes.items() if value is not None]
    return f"<feature {' '.join(named)}/>"


def corpus(root: Path, *features: str, pairs: str | None = None) -> Path:
    """As PAN 2010 has it: numbered parts."""
    susp, source = root / "suspicious-document" / "part1", root / "source-document" / "part1"
    for folder in (susp, source):
        folder.mkdir(parents=True, exist_ok=True)
    (susp / "suspicious-document00001.txt").write_text(SUSPICIOUS, encoding="utf-8")
    (source / "source-document00001.txt").write_text(SOURCE_TEXT, encoding="utf-8")
    document = f'<document reference="suspicious-document00001.txt">{"".join(features)}</document>'
    (susp / "suspicious-document00001.xml").write_text(document, encoding="utf-8")
    if pairs is not None:
        (root / "pairs").write_text(pairs, encoding="utf-8")
    return root


TRUTH = Passage("suspicious-document00001", 0, 15, "source-document00001", 6, 29)


def test_documents_truth_and_other_features_in_parts(tmp_path: Path) -> None:
    other = '<feature name="about" authors="A. Nobody" title="No &amp; Thing"/>'
    found = read_corpus(corpus(tmp_path / "pan", other, feature(), feature(), feature(name="artificial-plagiarism")))
    assert found.name == found.variant == "pan"
    assert found.suspicious == {"suspicious-document00001": SUSPICIOUS}
    assert found.sources == {"source-document00001": SOURCE_TEXT}
    assert found.passages == (TRUTH,)
    assert found.candidates("suspicious-document00001") == ("source-document00001",)
    assert found.counts == {}


def test_several_xml_files_of_one_document_and_pairs_as_from_2012(tmp_path: Path) -> None:
    root = tmp_path / "pan13"
    line = "suspicious-document00001.txt source-document0000{}.txt\n"
    for folder in ("susp", "src", "02-no-obfuscation", "01-no-plagiarism"):
        (root / folder).mkdir(parents=True)
    (root / "susp" / "suspicious-document00001.txt").write_text(SUSPICIOUS)
    for number in (1, 2, 3):
        (root / "src" / f"source-document0000{number}.txt").write_text(SOURCE_TEXT)
    names = "suspicious-document00001-source-document0000{}.xml"
    start = '<document reference="suspicious-document00001.txt">'
    (root / "02-no-obfuscation" / names.format(1)).write_text(f"{start}{feature()}</document>")
    (root / "01-no-plagiarism" / names.format(2)).write_text(f"{start}</document>")
    (root / "pairs").write_text(line.format(1) + line.format(2) + "\n")
    (root / "01-no-plagiarism" / "pairs").write_text(line.format(2))
    found = read_corpus(root)
    assert found.passages == (TRUTH,)
    assert found.candidates("suspicious-document00001") == ("source-document00001", "source-document00002")


def test_offsets_count_characters_of_the_file_as_it_stands(tmp_path: Path) -> None:
    """No line end is translated, a byte order mark counts, and a character outside the first plane is one."""
    root = corpus(tmp_path, feature(this_offset=4, this_length=2, source_length=1))
    file = root / "suspicious-document" / "part1" / "suspicious-document00001.txt"
    file.write_bytes("\ufeff𝒳\r\nsé".encode())
    (passage,) = read_corpus(root).passages
    assert read_corpus(root).suspicious[passage.suspicious][passage.start : passage.end] == "sé"


def test_cases_without_a_source_are_left_out_and_counted(tmp_path: Path) -> None:
    found = read_corpus(corpus(tmp_path, feature(source_reference=None), feature()))
    assert found.passages == (TRUTH,)
    assert found.counts == {INTRINSIC: 1}


name = st.integers(1, 3)
text = st.text(st.characters(codec="utf-8"), min_size=3, max_size=30)


@given(st.dictionaries(name, text, min_size=1), st.dictionaries(name, text, min_size=1), st.data())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, suspicious: dict[int, str], sources: dict[int, str], data: st.DataObject
) -> None:
    mine = {f"suspicious-document{n:05}": value for n, value in suspicious.items()}
    theirs = {f"source-document{n:05}": value for n, value in sources.items()}
    passages = set()
    for _ in range(data.draw(st.integers(0, 3))):
        one, two = data.draw(st.sampled_from(sorted(mine))), data.draw(st.sampled_from(sorted(theirs)))
        start, source_start = (data.draw(st.integers(0, len(value) - 1)) for value in (mine[one], theirs[two]))
        end = data.draw(st.integers(start + 1, len(mine[one])))
        passages.add(Passage(one, start, end, two, source_start, len(theirs[two])))
    root = tmp_path_factory.mktemp("pan")
    write_corpus(root, mine, theirs, passages)
    found = read_corpus(root)
    assert (found.suspicious, found.sources, set(found.passages)) == (mine, theirs, passages)


def test_a_folder_of_corpora_is_one_a_subfolder(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        corpus(tmp_path / folder, feature())
    assert [one.name for one in read_corpora(tmp_path)] == ["a", "b"]
    assert [one.name for one in read_corpora(tmp_path / "b")] == ["b"]


@pytest.mark.parametrize(("features", "message"), [
    ([feature(this_length=99)], "feature 1: expected a passage within the document's 29 characters, got this_offset 0"),
    ([feature(), feature(source_length=0)], "feature 2: expected a passage within the document's 29 characters, got"),
    ([feature(this_offset="-1")], "feature 1: expected this_offset and this_length as numbers, got '-1' and '15'"),
    ([feature(this_offset=None)], "feature 1: expected this_offset and this_length as numbers, got '' and '15'"),
    ([feature(source_reference="no.txt")],
     "feature 1: source_reference: expected the file name of a document, got 'no.txt', which is not there"),
    ([feature(name=DETECTED)], "feature 1: expected what was taken, got a detection (detected-plagiarism)"),
    (["<feature"], "line 1: no XML: "),
])  # fmt: skip
def test_truth_that_cannot_be_is_refused(tmp_path: Path, features: list[str], message: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_corpus(corpus(tmp_path, *features))
    assert f"suspicious-document00001.xml: {message}" in str(refusal.value)


@pytest.mark.parametrize(("pairs", "message"), [
    ("suspicious-document00001.txt\n", "pairs: line 1: expected a suspicious and a source document, got 'suspicious-"),
    ("suspicious-document00001.txt nothing.txt\n", "pairs: line 1: expected the file name of a document, got 'nothing"),
    ("", "of suspicious-document00001 was taken from source-document00001, but no file 'pairs' has this pair"),
])  # fmt: skip
def test_pairs_that_cannot_be_are_refused(tmp_path: Path, pairs: str, message: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_corpus(corpus(tmp_path, feature(), pairs=pairs))
    assert message in str(refusal.value)


def test_documents_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: not found; expected a folder in PAN's layout"):
        read_corpora(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"expected documents suspicious-document\*.txt, found none"):
        read_corpora(tmp_path)
    root = corpus(tmp_path / "pan")
    again = root / "suspicious-document" / "part2" / "suspicious-document00001.txt"
    again.parent.mkdir()
    again.write_text("x")
    with pytest.raises(DataError, match=r"part2/suspicious-document00001.txt: a second document of this name"):
        read_corpus(root)
    again.unlink()
    (root / "source-document" / "part1" / "source-document00001.txt").write_bytes(b"caf\xe9 x")
    with pytest.raises(DataError, match=r"source-document00001.txt: byte 3: expected UTF-8, got 0xe9"):
        read_corpus(root)


def test_detections_are_written_as_pan_wants_them_for_every_document(tmp_path: Path) -> None:
    write_features(tmp_path, ["suspicious-document00001", "suspicious-document00002"], [TRUTH], feature=DETECTED)
    assert (tmp_path / "suspicious-document00001.xml").read_text(encoding="utf-8").splitlines()[1:] == [
        '<document reference="suspicious-document00001.txt">',
        feature(name=DETECTED),
        "</document>",
    ]
    assert "feature" not in (tmp_path / "suspicious-document00002.xml").read_text(encoding="utf-8")
