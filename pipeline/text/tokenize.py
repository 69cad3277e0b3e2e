"""Write the corpus as windows of whole words in the reference vocabulary, the students'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.progress import Progress
from pipeline.text.params import TokenizeParams
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.text.vocabulary import START, encode_tokens
from pipeline.text.windows import encode_windows
from storage.errors import DataError, SourceError
from storage.format.manifest import Manifest, SplitPlan
from storage.records.base import SPLITS
from storage.records.sequences import Sequences
from storage.tables import DocumentStore
from storage.work import Workspace
from storage.writer import StoreWriter

if TYPE_CHECKING:
    import pyarrow as pa


SHARD_SEQUENCES = 8192
"""Sequences a shard: 128 tokens each make about 16 MB before compression."""

BATCH_CHARACTERS = 1_000_000
"""Text encoded at once: about 0.2 M tokens, 100 MB as Python objects."""

KEEP_BYTES = 512 * 1024 * 1024
"""Windows kept in memory between counting and writing; text beyond that (some 40 M tokens) is encoded twice."""


class SplitWindows:
    """The windows of one split's documents, encoded batch by batch.

    `count` encodes everything to count the rows. Its windows are kept in memory up to `keep_bytes`; the others are
    encoded again by `read`.
    """

    def __init__(
        self, texts: pa.ChunkedArray, tokenizer: FastTokenizer, *, sequence_tokens: int, keep_bytes: int
    ) -> None:
        self._texts = texts
        self._tokenizer = tokenizer
        self._sequence_tokens = sequence_tokens
        self._bounds = _batches(texts)
        self._kept: dict[int, Sequences] = {}
        self._room = keep_bytes
        self._rows: list[int] = []
        self.counts: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        """Windows in all; complete after `count`."""
        return sum(self._rows)

    def count(self) -> Iterator[int]:
        """Encode everything once, and yield the number of documents after each batch."""
        for batch, (start, stop) in enumerate(self._bounds):
            sequences, counts = self._encode(batch)
            self._rows.append(len(sequences))
            self.counts.update(counts)
            self._room -= sum(array.nbytes for array in sequences.arrays().values())
            if self._room >= 0:
                self._kept[batch] = sequences
            yield stop - start

    def read(self, start: int, stop: int) -> Sequences:
        """Rows [start, stop), `document_N` counted through the split."""
        end_B = np.cumsum(self._rows)
        first = int(np.searchsorted(end_B, start, side="right"))
        last = int(np.searchsorted(end_B, stop, side="left"))
        parts = [self._batch(batch).arrays() for batch in range(first, last + 1)]
        skip = start - int(end_B[first] - self._rows[first])
        rows = slice(skip, skip + stop - start)
        return Sequences(**{name: np.concatenate([part[name] for part in parts])[rows] for name in parts[0]})

    def _batch(self, batch: int) -> Sequences:
        sequences = self._kept[batch] if batch in self._kept else self._encode(batch)[0]
        return replace(sequences, document_N=sequences.document_N + np.uint32(self._bounds[batch][0]))

    def _encode(self, batch: int) -> tuple[Sequences, Counter[str]]:
        start, stop = self._bounds[batch]
        texts = self._texts.slice(start, stop - start).to_pylist()
        return encode_windows(texts, self._tokenizer, sequence_tokens=self._sequence_tokens)


def _batches(texts: pa.ChunkedArray) -> list[tuple[int, int]]:
    """Cut documents into runs of about BATCH_CHARACTERS; bounds [start, stop)."""
    from pyarrow import compute

    end_D = np.cumsum(compute.utf8_length(texts).to_numpy())
    borders = np.flatnonzero(np.diff(end_D // BATCH_CHARACTERS)) + 1
    return list(pairwise([0, *borders.tolist(), len(end_D)])) if len(end_D) else []


def tokenize(params: TokenizeParams, documents: Path, *, out: Path, workspace: Workspace = Workspace()) -> Manifest:
    """Write the store of sequences of all splits to `out`.

    Raises DataError when a split has no window, WorkBusy when another process writes `out`, and what `load_tokenizer`
    raises; SourceError too when the tokenizer does not tell words apart.
    """
    tokenizer = load_tokenizer(Path(params.tokenizer))
    if not tokenizer.tells_words and not any(token.startswith(START) for token in tokenizer.backend.get_vocab()):
        raise SourceError(
            f"{tokenizer.folder}: expected a tokenizer that tells words apart, but its tokenizer.json has no "
            "pre_tokenizer and no token that begins with a space. Set tokenize.tokenizer to another one"
        )
    store = DocumentStore(documents)
    splits = _count_windows(store, tokenizer, params.sequence_tokens)
    writer = StoreWriter(
        out,
        Sequences,
        specs=Sequences.specs(tokens=params.sequence_tokens, vocabulary=len(tokenizer.tokens)),
        splits={name: SplitPlan(rows=split.rows, shard_rows=SHARD_SEQUENCES) for name, split in splits.items()},
        inputs={"sequence_tokens": params.sequence_tokens, "tokenizer": tokenizer.identity},
        parents={"documents": store.identity},
        workspace=workspace,
    )
    with writer:
        for shard in writer.missing():
            writer.write(shard, splits[shard.split].read(shard.start, shard.stop))
        return writer.seal(
            facts={
                "vocabulary": len(tokenizer.tokens),
                "tokens": params.sequence_tokens,
                "special": tokenizer.special,
                "counts": {name: {"sequences": split.rows, **split.counts} for name, split in splits.items()},
            },
            constants={"pieces_utf8": encode_tokens(tokenizer.tokens)},
        )


def _count_windows(store: DocumentStore, tokenizer: FastTokenizer, sequence_tokens: int) -> dict[str, SplitWindows]:
    splits = {
        name: SplitWindows(
            store.read(name).column("text"),
            tokenizer,
            sequence_tokens=sequence_tokens,
            keep_bytes=KEEP_BYTES // len(SPLITS),
        )
        for name in SPLITS
    }
    documents = sum(plan.rows for plan in store.manifest.splits.values())
    with Progress(documents, unit="documents", label="tokenize") as progress:
        for split in splits.values():
            for done in split.count():
                progress.advance(done)
    for name, split in splits.items():
        if not split.rows:
            raise DataError(
                f"{store.path}: the documents of {name} give no window. Give more text or raise corpus.share"
            )
    return splits
