"""Make a set for plagiarism detection: passages of some documents, rewritten, in the middle of others, in PAN's layout.

A passage is a paragraph that a stage `rewrite` rewrote, or the second text of a pair of paraphrases. Its original
stands in a source document: a rewritten paragraph's in the document that it is from, that of a pair between two
sentences of a document that has nothing to do with it. Suspicious documents are the documents that no original is
from, less a share that become sources without passages, and each passage is put between two sentences of one of them.

Which documents are which, and which suspicious ones stay clean, is decided by hashes of their names; which passage goes
where, by the seed. So sets that differ in their seed alone have the same documents before anything is put into them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.seeds import generator, unit_hash
from pipeline.plagiarism.measures import Passage
from pipeline.plagiarism.pan import RECORD, SOURCE, SUSPICIOUS, write_corpus
from pipeline.plagiarism.params import PlagiarismSetParams
from pipeline.tasks import rewrite
from pipeline.tasks.paraphrase_data import read_pairs
from pipeline.text.sentences import Span, sentence_spans
from storage.atomic import write_bytes
from storage.documents import DocumentStore
from storage.errors import DataError
from storage.format.manifest import identity_of
from storage.tables import TableStore
from storage.work import WorkFolder, Workspace

KIND = "plagiarism-set"
REVISION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An original and its rewriting."""

    name: str
    original: str
    version: str
    document: str | None
    """Id of the document that the original is a part of; None: of no document."""

    @property
    def words(self) -> int:
        """Of the shorter text."""
        return min(len(self.original.split()), len(self.version.split()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """A text with passages in it."""

    text: str
    spans: list[Span]
    """Of the passages, in the order that they were given in."""


def make_set(params: PlagiarismSetParams, documents: Path, *, out: Path, workspace: Workspace) -> dict[str, Any]:
    """Write a set to `out`; returns what its record says.

    Raises DataError when too few documents or passages are left, StaleParent when the paragraphs are of other
    documents, and what the readers raise.
    """
    store = DocumentStore(documents)
    found, origin = _rewritten(params, store) if params.kind == "rewritten" else _of_pairs(Path(params.path))
    cases = [case for case in found if case.words >= params.passage_words]
    inputs = params.model_dump(mode="json", exclude={"path"}) | {"cases": origin}
    identity = identity_of(kind=KIND, revision=REVISION, inputs=inputs, parents={"documents": store.identity})
    with WorkFolder(out, name=f"{KIND}-{out.name}", identity=identity, workspace=workspace) as work:
        work.empty_content()
        suspicious, sources, passages = _arrange(params, store.read(params.split), cases)
        write_corpus(work.content, suspicious, sources, passages)
        taken = {passage.suspicious for passage in passages}
        record = {
            "identity": identity,
            "cases": origin,
            "settings": params.model_dump(mode="json"),
            "suspicious": len(suspicious),
            "clean": len(suspicious) - len(taken),
            "sources": len(sources),
            "passages": len(passages),
            "passages_too_short": len(found) - len(cases),
            "passages_left_over": len(cases) - len(passages),
        }
        write_bytes(work.content / RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
        work.publish()
    return record


def plant(text: str, passages: list[str], *, rng: np.random.Generator) -> Planted:
    """Put passages between sentences of a text, at different places if there are enough."""
    places = [start for start, _ in sentence_spans(text)] or [0]
    drawn = rng.choice(len(places), size=len(passages), replace=len(passages) > len(places))
    spans: list[Span] = [(0, 0)] * len(passages)
    parts: list[str] = []
    length = done = 0
    for number in np.argsort(drawn, kind="stable"):
        before = text[done : places[drawn[number]]]
        done = places[drawn[number]]
        passage = passages[number]
        start = length + len(before)
        spans[number] = start, start + len(passage)
        parts += [before, passage, " "]
        length = start + len(passage) + 1
    return Planted(text="".join([*parts, text[done:]]), spans=spans)


def _arrange(
    params: PlagiarismSetParams, table: pa.Table, cases: list[Case]
) -> tuple[dict[str, str], dict[str, str], list[Passage]]:
    """Texts of suspicious documents and of sources by name, and the passages."""
    rows = {row["doc_id"]: row["text"] for row in table.to_pylist()}
    origins = {_document(case.document) for case in cases if case.document is not None}
    of_cases = [name for name in rows if _document(name) in origins]
    others = [name for name in rows if _document(name) not in origins]
    aside = {name for name in others if unit_hash("plagiarism-distractor", _document(name)) < params.distractors}
    hosts = _joined([name for name in others if name not in aside], rows, params.document_words)
    clean = [unit_hash("plagiarism-clean", *names) < params.clean for names in hosts]
    rng = generator(params.seed, "plagiarism-set")
    order = [cases[number] for number in rng.permutation(len(cases))]
    suspicious: dict[str, str] = {}
    planted: dict[str, tuple[str, Span]] = {}
    for number, names in enumerate(hosts):
        count = 0 if clean[number] else min(int(rng.integers(1, params.passages + 1)), len(order))
        mine = [order.pop() for _ in range(count)]
        if not clean[number] and not mine:
            continue  # no passage is left: as a clean document it would change their share
        found = plant(_text(names, rows), [case.version for case in mine], rng=rng)
        name = f"{SUSPICIOUS}{number + 1:05}"
        suspicious[name] = found.text
        planted |= {case.name: (name, span) for case, span in zip(mine, found.spans, strict=True)}
    sources, origin = _sources(
        [case for case in cases if case.name in planted],
        _joined([*of_cases, *(name for name in others if name in aside)], rows, params.document_words),
        rows,
        rng=rng,
    )
    if not planted or not sources:
        raise DataError(
            f"{len(planted)} of {len(cases)} passages in {len(hosts)} suspicious documents, {len(sources)} sources: "
            "expected some of each. Take more documents (corpus.share, corpus.heldout), rewrite fewer paragraphs "
            "(rewrite.NAME.paragraphs), lower document_words, or change distractors"
        )
    passages = [
        Passage(name, *span, origin[case][0], *origin[case][1]) for case, (name, span) in sorted(planted.items())
    ]
    return suspicious, sources, passages


def _sources(
    cases: list[Case], groups: list[list[str]], rows: dict[str, str], *, rng: np.random.Generator
) -> tuple[dict[str, str], dict[str, tuple[str, Span]]]:
    """Texts of sources by name, and where each original stands."""
    named = {f"{SOURCE}{number + 1:05}": names for number, names in enumerate(groups)}
    texts = {name: _text(names, rows) for name, names in named.items()}
    where: dict[str, tuple[str, Span]] = {}
    holder = {document: name for name, documents in named.items() for document in documents}
    alone: dict[str, list[Case]] = {}
    for case in cases:
        if case.document is None:
            if not named:
                break
            alone.setdefault(list(named)[int(rng.integers(len(named)))], []).append(case)
            continue
        name = holder[case.document]
        before = _text(named[name][: named[name].index(case.document)], rows)
        found = re.compile(r"\s+".join(map(re.escape, case.original.split()))).search(texts[name], len(before))
        if found is None:
            raise DataError(f"{case.name}: expected its text in document {case.document}, where it is not to be found")
        where[case.name] = name, found.span()
    for name, mine in alone.items():
        planted = plant(texts[name], [case.original for case in mine], rng=rng)
        texts[name] = planted.text
        where |= {case.name: (name, span) for case, span in zip(mine, planted.spans, strict=True)}
    return texts, where


def _joined(names: Iterable[str], rows: dict[str, str], words: int) -> list[list[str]]:
    """Groups of documents with at least `words` words each, in an order of their hashes; the last takes the rest."""
    groups: list[list[str]] = []
    held: list[str] = []
    count = 0
    for name in sorted(names, key=lambda name: (unit_hash("plagiarism-order", _document(name)), name)):
        held.append(name)
        count += len(rows[name].split())
        if count >= words:
            groups.append(held)
            held, count = [], 0
    if held:
        groups[-1:] = [[*groups[-1], *held]] if groups else [held]
    return groups


def _text(names: Iterable[str], rows: dict[str, str]) -> str:
    return "".join(f"{rows[name].rstrip()}\n\n" for name in names)


def _document(doc_id: str) -> str:
    """Parts of one document belong together."""
    return doc_id.partition("#")[0]


def _rewritten(params: PlagiarismSetParams, documents: DocumentStore) -> tuple[list[Case], dict[str, Any]]:
    path = Path(params.path)
    store = TableStore(
        path,
        kind=rewrite.KIND,
        revision=rewrite.REVISION,
        schemas={rewrite.TABLE: rewrite.SCHEMA},
        made_by=f"rewrite@{path.name}",
    )
    store.require_parent("documents", documents.identity)
    split, shares = store.manifest.inputs["split"], store.manifest.facts["shares"]
    if split != params.split or params.share not in shares:
        raise DataError(f"{path}: holds {split} and shares {shares}; expected {params.split} and share {params.share}")
    rows = store.read(rewrite.TABLE).to_pylist()
    versions = {row["paragraph"]: row["text"] for row in rows if row["share"] == params.share}
    cases = [
        Case(
            name=row["paragraph"],
            original=row["text"],
            version=versions[row["paragraph"]],
            document=row["paragraph"].rpartition("/")[0],
        )
        for row in rows
        if row["label"] == 0
    ]
    model = store.manifest.facts["model"]
    return cases, {"variant": f"{Path(model['folder']).name}-{params.share:g}", "store": store.identity, "model": model}


def _of_pairs(path: Path) -> tuple[list[Case], dict[str, Any]]:
    """One pair of paraphrases of each group of pairs that share a text."""
    (found,) = read_pairs(path)
    return list(_first_pairs(found)), {"variant": found.name, "pairs": found.identity}


def _first_pairs(found: Any) -> Iterator[Case]:
    groups = set()
    for part in (found.train, found.test):
        for row in np.flatnonzero(part.label_N == 1).tolist():
            if part.group[row] not in groups:
                groups.add(part.group[row])
                yield Case(name=part.name[row], original=part.first[row], version=part.second[row], document=None)
