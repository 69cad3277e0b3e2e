"""Three layouts read into one shape; what is unusable is counted, and refused when it is more than a stated share."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tasks import paraphrase_data
from pipeline.tasks.machine_paraphrases import entries
from pipeline.tasks.paraphrase_data import DetectionSet, Texts, read_sets
from pipeline.tasks.rewrite import (
    KIND,
    REVISION,
    SCHEMA,
    TABLE,
)
from storage.errors import DataError, StoreMissing, WrongKind
from storage.tables import write_tables
from storage.work import Workspace
from tests.helpers import stores as fakes

HEADER = "label\tsentence1\tsentence2"


def lines(count: int = 300) -> list[str]:
    return [f"{number % 2}\tfirst text {number}\tsecond text {number}" for number in range(count)]


def write_tsv(path: Path, rows: list[str], *, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "\n".join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_half(folder: Path, mark: str, texts: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / f"{100 + number // 2}-{mark}-{number}.txt").write_text(text, encoding="utf-8")


def write_corpus(root: Path, sets: tuple[str, ...] = ("wikipedia_paragraphs_train", "arxiv_paragraph")) -> Path:
    for name in sets:
        write_half(root / name / "og", "ORIG", [f"an original\n text {n} of {name}" for n in range(6)])
        write_half(root / name / "mg", "SPUN", [f"a spun text {n} of {name}" for n in range(4)])
    return root


def write_set(folder: Path, *, documents: int = 4, shares: tuple[float, ...] = (0.2, 0.5)) -> Path:
    import pyarrow as pa

    rows = [
        {"paragraph": f"d{n}/0", "document": f"d{n}", "source": "s", "share": share, "label": int(share > 0),
         "split": "test" if n % 2 else "train", "text": f"text {n} at {share}"}
        for share in (0.0, *shares) for n in range(documents)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    write_tables(folder, {TABLE: table}, kind=KIND, revision=REVISION, schemas={TABLE: SCHEMA},
                 inputs={"name": folder.name}, facts={"dropped": {"too few words": 3}},
                 workspace=Workspace(folder.parent / ".work"))  # fmt: skip
    return folder


def only(kind: Any, path: Path) -> DetectionSet:
    (found,) = read_sets(kind, path)
    return found


def rows_of(texts: Texts | None) -> list[tuple[int, str]]:
    assert texts is not None
    return list(zip(texts.label_N.tolist(), texts.first, strict=True))


# Rewritten


def test_a_folder_of_rewriters_gives_a_set_for_each_rewriter_and_share(tmp_path: Path) -> None:
    for name in ("sci", "prose"):
        write_set(tmp_path / "sets" / name)
    found = read_sets("rewritten", tmp_path / "sets")
    assert [(one.name, one.rewriter, one.share) for one in found] == [
        ("prose-0.2", "prose", 0.2), ("prose-0.5", "prose", 0.5), ("sci-0.2", "sci", 0.2), ("sci-0.5", "sci", 0.5),
    ]  # fmt: skip
    assert rows_of(found[1].train) == [
        (0, "text 0 at 0.0"), (0, "text 2 at 0.0"), (1, "text 0 at 0.5"), (1, "text 2 at 0.5"),
    ]  # fmt: skip
    assert found[1].test is not None
    assert found[1].test.group == ["d1", "d3", "d1", "d3"]
    assert found[1].counts == {"too few words": 3}
    assert len({one.identity for one in found}) == 4


def test_one_rewriters_folder_is_read_alone(tmp_path: Path) -> None:
    write_set(tmp_path / "prose", shares=(0.3,))
    assert only("rewritten", tmp_path / "prose").name == "prose-0.3"


def test_a_set_that_is_not_there_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    (tmp_path / "sets" / "prose").mkdir(parents=True)
    with pytest.raises(StoreMissing, match="dvc repro rewrite@prose"):
        read_sets("rewritten", tmp_path / "sets")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="expected texts of both labels to train on, got none"):
        read_sets("rewritten", tmp_path / "nothing")
    documents = fakes.tiny_documents(tmp_path / "corpus")
    with pytest.raises(WrongKind, match="expected a store of rewritten, got documents"):
        read_sets("rewritten", documents)


# Published


def test_the_published_layout_is_found_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "automated_evaluation" / "spinbot" / "corpus" / "paragraphs"
    write_corpus(root)
    test, train = read_sets("published", tmp_path)
    assert train.name == "automated_evaluation/spinbot/corpus/paragraphs/wikipedia_paragraphs_train"
    assert train.test is None
    assert test.train is None
    assert test.test is not None
    assert rows_of(test.test)[0] == (0, "an original text 0 of arxiv_paragraph")
    assert np.bincount(test.test.label_N).tolist() == [6, 4]
    assert test.test.group == ["100", "100", "101", "101", "102", "102", "100", "100", "101", "101"]


@pytest.mark.parametrize(
    "halves", [("original", "machine"), ("orig", "spun"), ("originals", "paraphrased"), ("og", "sp")]
)
def test_other_names_of_the_halves_are_read(tmp_path: Path, halves: tuple[str, str]) -> None:
    for split in ("train", "test"):
        write_half(tmp_path / split / halves[0], "x", ["one", "two"])
        write_half(tmp_path / split / halves[1], "y", ["three"])
    test, train = read_sets("published", tmp_path)
    assert (test.name, train.name) == ("test", "train")
    assert rows_of(train.train) == [(0, "one"), (0, "two"), (1, "three")]


def test_text_that_is_not_utf8_is_read_as_the_published_code_reads_it(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "arxiv_paragraph" / "og" / "100-ORIG-0.txt").write_bytes("caf\xe9".encode("latin-1"))
    test = read_sets("published", tmp_path)[0]
    assert rows_of(test.test)[0] == (0, "café")
    assert test.counts == {"read as ISO-8859-1": 1}


def test_a_few_empty_or_binary_files_are_skipped_and_counted_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path)
    (tmp_path / "arxiv_paragraph" / "og" / "100-ORIG-0.txt").write_bytes(b"\0\1")
    (tmp_path / "arxiv_paragraph" / "mg" / "100-SPUN-0.txt").write_bytes(b" \n")
    with pytest.raises(DataError, match=r"arxiv_paragraph: 2 of 10 entries cannot be used .*at most 1% may be"):
        read_sets("published", tmp_path)
    monkeypatch.setattr(entries, "BAD_SHARE", 0.2)
    test = read_sets("published", tmp_path)[0]
    assert test.counts == {"bad: empty": 1, "bad: not text": 1}
    assert test.test is not None
    assert len(test.test) == 8


def test_a_file_among_the_wrong_ones_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    (tmp_path / "arxiv_paragraph" / "og" / "7-SPUN-1.txt").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match=r"7-SPUN-1.txt: named SPUN, but it lies among the originals"):
        read_sets("published", tmp_path)


def test_a_folder_without_the_layout_or_without_a_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder with og and mg in it"):
        read_sets("published", tmp_path)
    write_corpus(tmp_path, sets=("arxiv_paragraph",))
    with pytest.raises(DataError, match="expected texts of both labels to train on, got none"):
        read_sets("published", tmp_path)
    with pytest.raises(DataError, match="nowhere: not found; expected published data"):
        read_sets("published", tmp_path / "nowhere")


def test_a_set_with_one_label_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    write_half(tmp_path / "thesis_paragraph" / "og", "ORIG", ["text"])
    with pytest.raises(DataError, match=r"both labels to test on, got \[\[6, 4\], \[1, 0\]\]"):
        read_sets("published", tmp_path)


# Pairs


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
def test_a_file_of_pairs_is_split_the_same_way_whatever_the_order_of_its_lines(tmp_path: Path, name: str) -> None:
    rows = lines()
    found = only("pairs", write_tsv(tmp_path / name, rows))
    random.Random(0).shuffle(rows)
    again = only("pairs", write_tsv(tmp_path / "other" / name, rows))
    assert found.name == "pairs"
    assert sorted(rows_of(found.train)) == sorted(rows_of(again.train))
    assert sorted(rows_of(found.test)) == sorted(rows_of(again.test))
    assert found.train is not None
    assert found.test is not None
    assert len(found.train) + len(found.test) == 300
    assert 0.1 < len(found.test) / 300 < 0.3
    assert found.train.second is not None
    assert found.train.second[0] == found.train.first[0].replace("first", "second")


def test_quotes_are_data_columns_are_found_by_name_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    rows = ['x\t"No\t\'tis" so\t1\r', *(f"x\ta {n}\tb {n}\t{n % 2}\r" for n in range(200))]
    found = only("pairs", write_tsv(tmp_path / "p.tsv", rows, header="id\tsentence2\tsentence1\tlabel\r"))
    assert found.train is not None
    assert found.test is not None
    pairs = [*zip(found.train.first, found.train.second or [], strict=True)]
    pairs += [*zip(found.test.first, found.test.second or [], strict=True)]
    assert ("'tis\" so", '"No') in pairs


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=40))
def test_pairs_that_hang_together_have_one_group_and_others_do_not(links: list[tuple[int, int]]) -> None:
    """Against flood fill over the graph of sentences."""
    keys = [(f"s{a:02}", f"s{b:02}") for a, b in links]
    groups = paraphrase_data._groups(keys)
    for (first, second), group in zip(keys, groups, strict=True):
        reached = {first, second}
        while True:
            more = {end for pair in keys if reached & set(pair) for end in pair}
            if more <= reached:
                break
            reached |= more
        assert group == min(reached)


def test_no_sentence_is_on_both_sides_of_a_split_made_here(tmp_path: Path) -> None:
    rows = [f"{n % 2}\tText {n % 90}\ttext  {(n * 7) % 400 + 1000}" for n in range(300)]
    found = only("pairs", write_tsv(tmp_path / "pairs.tsv", rows))
    sides = []
    for part in (found.train, found.test):
        assert part is not None
        sides.append({" ".join(text.lower().split()) for text in [*part.first, *(part.second or [])]})
    assert not sides[0] & sides[1]


def test_a_given_split_is_kept_but_for_training_pairs_that_share_a_sentence(tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", ["0\ta\tb", "1\tC\td", "1\te\tf", "0\tg\th"])
    write_tsv(tmp_path / "dev.tsv.gz", ["1\tx\tc", "0\ty\tz"])
    found = only("pairs", tmp_path)
    assert rows_of(found.train) == [(0, "a"), (1, "e"), (0, "g")]
    assert rows_of(found.test) == [(1, "x"), (0, "y")]
    assert found.counts == {"pairs of train with a sentence of test": 1}


@pytest.mark.parametrize(("row", "reason"), [
    ("1\tonly one", "number of fields"),
    ("1\tone\ttwo\tthree", "number of fields"),
    ("2\tone\ttwo", "label is not 0 or 1"),
    ("\tone\ttwo", "label is not 0 or 1"),
    ("0.5\tone\ttwo", "label is not 0 or 1"),
    ("-1\tone\ttwo", "label is -1, as of test parts without labels"),
    ("1\t \ttwo", "empty"),
])  # fmt: skip
def test_a_bad_line_is_skipped_and_counted_several_are_refused(tmp_path: Path, row: str, reason: str) -> None:
    found = only("pairs", write_tsv(tmp_path / "pairs.tsv", [*lines(), row]))
    assert found.counts == {f"bad: {reason}": 1}
    with pytest.raises(DataError, match=rf"pairs.tsv: 5 of 305 entries cannot be used .*'{reason}': 5") as refusal:
        read_sets("pairs", write_tsv(tmp_path / "pairs.tsv", [*lines(), *[row] * 5]))
    assert "\n" not in str(refusal.value)


def halves(found: DetectionSet) -> list[tuple[int, str, str]]:
    """All pairs of a set, however it was split."""
    rows = []
    for part in (found.train, found.test):
        assert part is not None
        assert part.second is not None
        rows += [*zip(part.label_N.tolist(), part.first, part.second, strict=True)]
    return rows


def test_labels_may_be_written_as_decimal_numbers(tmp_path: Path) -> None:
    plain = lines()
    written = [row.replace(row[0], f"{row[0]}.0", 1) for row in plain]
    found = only("pairs", write_tsv(tmp_path / "pairs.tsv", written))
    assert sorted(halves(found)) == sorted(halves(only("pairs", write_tsv(tmp_path / "p.tsv", plain))))
    assert {label for label, _, _ in halves(found)} == {0, 1} and found.counts == {}


@pytest.mark.parametrize("placeholder", ["NS", "n/a", "None"])
def test_pairs_with_a_placeholder_are_skipped_and_counted_however_many(tmp_path: Path, placeholder: str) -> None:
    """They would all hang together over the sentence that is none; a word of a sentence is no placeholder."""
    rows = [*(f"{n % 2}\tone {n}\t{placeholder}" for n in range(20)), f"1\t{placeholder}\tsome", "1\tNS is\tshort"]
    found = only("pairs", write_tsv(tmp_path / "pairs.tsv", [*lines(), *rows]))
    assert found.counts == {"placeholder for a sentence": 21}
    assert len(halves(found)) == len(lines()) + 1


def test_the_headers_of_mrpc_and_qqp_are_read_as_pairs(tmp_path: Path) -> None:
    """Rows of QQP that are cut short, to three fields, are a known defect of its published file."""
    pairs = [(n % 2, f"the first {n}", f"the second {n}") for n in range(60)]
    mrpc = [f"{label}\t{n}\t{n + 1}\t{one}\t{two}" for n, (label, one, two) in enumerate(pairs)]
    file = write_tsv(tmp_path / "msr.txt", mrpc, header="\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r")
    assert sorted(halves(only("pairs", file))) == sorted(pairs)
    qqp = [f"{n}\t1\t2\t{one}\t{two}\t{label}" for n, (label, one, two) in enumerate(pairs)]
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    found = only("pairs", write_tsv(tmp_path / "qqp.tsv", [*qqp, *["7\t8\t9"] * 5], header=header))
    assert sorted(halves(found)) == sorted(pairs)
    assert found.counts == {"cut short": 5}
    with pytest.raises(DataError, match=r"cannot be used \(\{'number of fields': 5\}\)"):
        read_sets("pairs", write_tsv(tmp_path / "qqp.tsv", [*qqp, *["7\t8\t9\ta\tb\t1\t2"] * 5], header=header))


def test_lines_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "pairs.tsv", lines())
    path.write_bytes(path.read_bytes() + b"1\tcaf\xe9\ttwo\n")
    assert only("pairs", path).counts == {"bad: not UTF-8": 1}


def test_utf_16_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "pairs.tsv", lines())
    expected = only("pairs", path)
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))
    found = only("pairs", path)
    assert found.counts == expected.counts
    assert (found.train.first, found.train.second) == (expected.train.first, expected.train.second)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_tsv(tmp_path / "pairs.tsv.gz", lines())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"pairs.tsv.gz: the compressed file ends too early"):
        read_sets("pairs", path)
    path.write_bytes(b"label\tsentence1\tsentence2\n")
    with pytest.raises(DataError, match=r"pairs.tsv.gz: cannot be read"):
        read_sets("pairs", path)


def test_files_without_header_lines_or_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a header with label, sentence1, sentence2 .*got \['1', 'a', 'b'\]"):
        read_sets("pairs", write_tsv(tmp_path / "pairs.tsv", ["1\tc\td"], header="1\ta\tb"))
    with pytest.raises(DataError, match=r"0 of 0 entries"):
        read_sets("pairs", write_tsv(tmp_path / "pairs.tsv", []))
    with pytest.raises(DataError, match=r"expected train.tsv \(or .gz\), found none"):
        read_sets("pairs", tmp_path)


# A part of a set


def test_a_part_keeps_originals_with_their_rewritings_and_grows_with_the_limit(tmp_path: Path) -> None:
    write_set(tmp_path / "prose", documents=40, shares=(0.3,))
    train = only("rewritten", tmp_path / "prose").train
    assert train is not None
    few, more = train.some(6), train.some(10)
    assert np.bincount(few.label_N).tolist() == [3, 3]
    assert sorted(few.name[:3]) == sorted(few.name[3:])
    assert set(few.first) < set(more.first) < set(train.first)
    assert train.some(0) is train
    assert train.some(1000) is train
