"""The training and held-out text of an adapter: documents, then masked sequences.

Documents from outside the corpus never share an id or a text with it. So a teacher made here has not read the text that
students are distilled or evaluated on. Only when the corpus itself is named is its train split read. Masks are those of
the stage `mask`: whole words, always the mask token, disjoint copies of a sequence until no word is left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.adapt.params import AdapterParams
from pipeline.core.config import nearest
from pipeline.core.endings import CSV, JSON_LINES, PARQUET, PLAIN_TEXT, TSV
from pipeline.core.seeds import unit_hash
from pipeline.text.documents.files import input_files, kind_of
from pipeline.text.documents.ingest import ALL
from pipeline.text.documents.readers import hash_name, read_file
from pipeline.text.documents.records import Fields, Rejected
from pipeline.text.masking import choose_masked_positions
from pipeline.text.tokenizer import FastTokenizer
from pipeline.text.windows import encode_windows
from storage.documents import DocumentStore
from storage.errors import DataError
from storage.records.base import SPLITS
from storage.records.sequences import Masks, Sequences

HELDOUT_TOKENS = 16_384
"""Most held-out tokens: some 2,400 masked positions."""

BATCH_DOCUMENTS = 64
"""Documents that are cut into windows at once."""


@dataclass(frozen=True, slots=True)
class Page:
    """One document."""

    doc_id: str
    source: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedText:
    """Sequences and their masks, in memory."""

    sequences: Sequences
    masks: Masks
    documents: int


def read_pages(params: AdapterParams, *, corpus: Path) -> tuple[list[Page], list[Page]]:
    """The training and the held-out documents, each in an order drawn from their ids.

    corpus is the folder of the pipeline's documents. Raises DataError when a source that is named has no document, when
    a record cannot be read, and when either part is empty.
    """
    path, store = Path(params.text), DocumentStore(corpus)
    if path.resolve() == corpus.resolve():
        parts = [_chosen(params, _stored(store, split)) for split in ("train", "heldout")]
    else:
        used = {split: store.read(split) for split in SPLITS}
        ids = {doc_id for table in used.values() for doc_id in table.column("doc_id").to_pylist()}
        texts = {text for table in used.values() for text in table.column("text").to_pylist()}
        pages = [page for page in _outside(path) if page.doc_id not in ids and page.text not in texts]
        pages = _chosen(params, pages)
        heldout = [unit_hash("adapt", page.doc_id.partition("#")[0]) < params.heldout for page in pages]
        parts = [[page for page, out in zip(pages, heldout, strict=True) if out == want] for want in (False, True)]
    for part, what in zip(parts, ("to train on", "to hold out"), strict=True):
        if not part:
            raise DataError(
                f"{path}: no document {what} that the corpus does not use. Give more text, another one, or "
                f"{corpus} for the corpus itself"
            )
    seed = params.training.seed
    learned, evaluated = (sorted(part, key=lambda page: unit_hash("order", seed, page.doc_id)) for part in parts)
    return learned, evaluated


def _stored(store: DocumentStore, split: str) -> list[Page]:
    columns = (store.read(split).column(name).to_pylist() for name in ("doc_id", "source", "text"))
    return [Page(*row) for row in zip(*columns, strict=True)]


def _outside(path: Path) -> Iterator[Page]:
    """Documents of an ingested text, of a folder of such, or of files."""
    stores = (
        [path] if (path / "manifest.json").is_file() else sorted(file.parent for file in path.glob("*/manifest.json"))
    )
    for folder in stores:
        yield from _stored(DocumentStore(folder), ALL)
    if stores:
        return
    fields = Fields(text="text", name=None)
    for file in input_files(path, (*PLAIN_TEXT, *JSON_LINES, *PARQUET, *CSV, *TSV)):
        name = file.relative_to(path).as_posix() if file != path else file.name
        for item in read_file(kind_of(file), file, path, fields, _silent):
            if isinstance(item, Rejected):
                raise DataError(f"{item.where}: expected a record with the field 'text': {item.reason}")
            if text := item.text.strip():
                yield Page(item.name or hash_name(text), item.source or name.partition(".")[0], text)


def _silent(_: int) -> None:
    """Ignore progress: reading is a small part of the stage."""


def _chosen(params: AdapterParams, pages: list[Page]) -> list[Page]:
    """Documents of the sources that are named."""
    if not params.include:
        return pages
    known = Counter(page.source for page in pages)
    for name in params.include:
        if name not in known:
            most = ", ".join(source for source, _ in known.most_common(8))
            raise DataError(
                f"{params.text}: include: no document of a source '{name}'{nearest(name, known)}. "
                f"The largest are {most}"
            )
    return [page for page in pages if page.source in params.include]


def masked_text(
    pages: list[Page], tokenizer: FastTokenizer, params: AdapterParams, *, tokens: int, copies: bool
) -> MaskedText:
    """The first of `pages` that together have `tokens` tokens, or all, cut into windows and masked.

    copies: with fewer tokens than that, further mask copies are made, disjoint, until there are enough.
    Raises DataError when no window or nothing to mask is left.
    """
    parts: list[dict[str, np.ndarray]] = []
    got, read = 0, 0
    for start in range(0, len(pages), BATCH_DOCUMENTS):
        batch = pages[start : start + BATCH_DOCUMENTS]
        sequences, _ = encode_windows([page.text for page in batch], tokenizer, sequence_tokens=params.sequence_tokens)
        columns = sequences.arrays()
        parts.append(columns | {"document_N": columns["document_N"] + np.uint32(start)})
        got, read = got + int(sequences.length_N.sum()), start + len(batch)
        if got >= tokens:
            break
    joined = Sequences(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    masks = None
    if len(joined):
        masks = choose_masked_positions(
            joined,
            [pages[document].doc_id for document in joined.document_N.tolist()],
            rate=params.rate,
            copies=max(1, min(math.floor(1 / params.rate), math.ceil(tokens / got))) if copies else 1,
            seed=params.training.seed,
            unknown=tokenizer.special["unk"],
            white_space_V=np.array([not token.strip("▁ \t\r\n") for token in tokenizer.tokens]),
        )
    if masks is None or not len(masks):
        raise DataError(f"{params.text}: {read} documents have no word that can be masked. Give more text")
    return MaskedText(sequences=joined, masks=masks, documents=read)
