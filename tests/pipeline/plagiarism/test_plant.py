"""Sets made here: every offset gives the passage and its original, whatever the text; documents keep their roles."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.plagiarism.pan import RECORD, read_corpus
from pipeline.plagiarism.params import PlagiarismSetParams
from pipeline.plagiarism.plant import make_set, plant
from pipeline.tasks import rewrite
from storage.documents import DocumentStore, write_documents
from storage.errors import DataError, StaleParent
from storage.tables import DOCUMENT_SCHEMA, write_tables
from storage.work import Workspace

SETTINGS: dict[str, Any] = {
    "kind": "rewritten", "path": "data/rewrite/prose", "share": 0.5, "split": "heldout", "document_words": 40,
    "passage_words": 4, "passages": 2, "clean": 0.3, "distractors": 0.2, "seed": 0,
}  # fmt: skip


def settings(**changes: Any) -> PlagiarismSetParams:
    return PlagiarismSetParams(**(SETTINGS | changes))


def document(number: int) -> str:
    return "\n".join(f"Document {number} has line {line}, which is a sentence of its own.\n" for line in range(5))


def documents(root: Path, *, seed: int = 0) -> Path:
    rows = [{"doc_id": f"d{n // 2}#{n % 2}", "source": "s", "text": document(n + seed)} for n in range(80)]
    out = root / "data" / "documents"
    table = pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)
    write_documents(out, {"heldout": table}, inputs={"seed": seed}, facts={}, workspace=Workspace(root / ".work"))
    return out


def rewritten(root: Path) -> Path:
    """Two paragraphs of every fourth document; the words of an original have other white space in its document."""
    store = DocumentStore(root / "data" / "documents")
    rows = []
    for number in range(0, 80, 8):
        lines = [" ".join(line.split()) for line in document(number).splitlines() if line]
        for place, text in enumerate((" ".join(lines[:2]), " ".join(lines[2:4]))):
            doc_id = f"d{number // 2}#{number % 2}"
            for share, version in ((0.0, text), (0.5, text.replace("line", "row"))):
                rows.append({"paragraph": f"{doc_id}/{place}", "document": doc_id.partition("#")[0], "source": "s",
                             "share": share, "label": int(share > 0), "split": "test", "text": version})  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=rewrite.SCHEMA)
    write_tables(
        root / "data" / "rewrite" / "prose",
        {rewrite.TABLE: table},
        kind=rewrite.KIND,
        revision=rewrite.REVISION,
        schemas={rewrite.TABLE: rewrite.SCHEMA},
        inputs={"split": "heldout"},
        facts={"shares": [0.5], "model": {"folder": "data/sources/scribe", "weights": "0"}},
        parents={"documents": store.identity},
        workspace=Workspace(root / ".work"),
    )
    return root


@pytest.fixture
def project(workplace: Path) -> Path:
    documents(workplace)
    return rewritten(workplace)


def made(name: str = "one", **changes: Any) -> Any:
    make_set(settings(**changes), Path("data/documents"), out=Path("data/plagiarism") / name, workspace=Workspace())
    return read_corpus(Path("data/plagiarism") / name)


def test_every_passage_stands_where_its_offsets_say_and_its_original_in_its_document(project: Path) -> None:
    corpus = made()
    assert len(corpus.passages) >= 10
    for one in corpus.passages:
        passage = corpus.suspicious[one.suspicious][one.start : one.end]
        original = corpus.sources[one.source][one.source_start : one.source_end]
        assert " ".join(original.split()) == passage.replace("row", "line")
        assert "\n" in original, "the source is as it was"
    assert corpus.variant == "scribe-0.5"


def test_suspicious_documents_are_others_than_those_that_passages_are_from(project: Path) -> None:
    corpus = made()
    of_sources = {line.split()[1] for text in corpus.sources.values() for line in text.splitlines() if line}
    plain = "\n".join(corpus.suspicious.values())
    assert not [line for line in plain.splitlines() if line.split()[1:2] and line.split()[1] in of_sources
                and line.startswith("Document") and "row" not in line]  # fmt: skip
    whole = {*range(0, 80, 8), *range(1, 80, 8)}
    assert {str(number) for number in whole} <= of_sources, "all parts of a document that passages are from"
    assert len(of_sources) > len(whole), "and some others from which nothing was taken"
    record = json.loads(Path("data/plagiarism/one", RECORD).read_text(encoding="utf-8"))
    taken = Counter(one.suspicious for one in corpus.passages)
    assert max(taken.values()) <= 2
    assert record["clean"] == len(set(corpus.suspicious) - set(taken)) > 0
    assert record["passages"] + record["passages_left_over"] == 20


def test_the_seed_decides_the_places_alone_and_the_same_seed_gives_the_same_bytes(project: Path) -> None:
    one, again, other = made(), made("again"), made("other", seed=1)
    assert one.identity == again.identity != other.identity
    assert one.sources == other.sources
    untouched = set(one.suspicious) - {passage.suspicious for passage in (*one.passages, *other.passages)}
    assert untouched and all(one.suspicious[name] == other.suspicious[name] for name in untouched)


def test_pairs_put_their_originals_into_other_sources(project: Path) -> None:
    rows = [f"{int(n > 5)}\tThe first text number {n} is here.\tA second text number {n} was there." for n in range(30)]
    rows.append("1\tThe first text number 9 is here.\tA third text number 9 is near.")
    Path("pairs.tsv").write_text("\n".join(["label\tsentence1\tsentence2", *rows, ""]), encoding="utf-8")
    corpus = made(kind="pairs", path="pairs.tsv", share=None, distractors=0.5)
    assert corpus.variant == "pairs"
    assert len(corpus.passages) >= 10
    numbers = []
    for one in corpus.passages:
        original = corpus.sources[one.source][one.source_start : one.source_end].split()
        passage = corpus.suspicious[one.suspicious][one.start : one.end].split()
        assert original[0] == "The" and passage[0] == "A" and original[4] == passage[4]
        numbers.append(int(original[4]))
    assert len(set(numbers)) == len(numbers), "one pair of those that share a text"
    assert min(numbers) > 5, "no pair that is no paraphrase"


def test_short_passages_are_left_out_and_counted(project: Path) -> None:
    with pytest.raises(DataError, match=r"0 of 0 passages in .* expected some of each. Take more documents"):
        made(passage_words=100)


def test_what_does_not_fit_is_refused(project: Path) -> None:
    with pytest.raises(DataError, match=r"prose: holds heldout and shares \[0.5\]; expected heldout and share 0.4"):
        made(share=0.4)
    documents(project, seed=1)
    with pytest.raises(StaleParent, match=r"made from documents .*dvc repro rewrite@prose"):
        made()
    for changes in ({"share": None}, {"kind": "pairs"}):
        with pytest.raises(ValidationError, match="share: needed with kind rewritten, and only there"):
            settings(**changes)


@given(
    st.text(st.sampled_from("ab .!\n\r𝒳字。"), max_size=60),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), max_size=5),
    st.integers(0, 5),
)
def test_a_planted_passage_stands_at_its_span_and_the_rest_is_the_text(
    text: str, passages: list[str], seed: int
) -> None:
    found = plant(text, passages, rng=np.random.default_rng(seed))
    assert [found.text[start:end] for start, end in found.spans] == passages
    rest = list(found.text)
    for start, end in sorted(found.spans, reverse=True):
        del rest[start : end + 1]
    assert "".join(rest) == text
