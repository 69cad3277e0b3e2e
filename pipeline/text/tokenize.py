"""Write the corpus as windows of whole words in the reference vocabulary, the students'.

How many windows a split has is known when all of it is encoded, so there are two rounds, both made by any executor. A
part of the first are the windows of a shard of documents, a shard of the store is a range of these.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.executor.base import Executor, LocalExecutor
from pipeline.text.params import TokenizeParams
from pipeline.text.spool import read_rows, write_rows
from pipeline.text.tokenizer import FastTokenizer, load_tokenizer
from pipeline.text.vocabulary import START, encode_tokens
from pipeline.text.windows import encode_windows
from storage.documents import DocumentStore
from storage.errors import DataError, SourceError, StaleParent
from storage.format.manifest import Manifest, SplitPlan, identity_of
from storage.parts import Parts
from storage.records.base import SPLITS
from storage.records.sequences import Sequences
from storage.work import WorkFolder, Workspace
from storage.writer import Shard, StoreWriter

SHARD_SEQUENCES = 8192
"""Sequences a shard: 128 tokens each make about 16 MB before compression."""

SHARDS_SILENT = 2**13
"""Shards of a split up to which they keep that size; then they double, for a manifest lists every file of each."""

BATCH_CHARACTERS = 1_000_000
"""Text encoded at once: about 0.2 M tokens, 100 MB while they are Python objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizeJob:
    """Both rounds of a store of sequences."""

    params: TokenizeParams
    documents: Path
    identities: tuple[str, str]
    """Of the documents and of the tokenizer, as the driver has them."""
    parts: Path
    """Folder of the parts, absolute."""
    sizes: Mapping[str, list[list[int]]] | None = None
    """For each split, of each part of it the windows of each batch that it wrote; None in the first round."""

    @property
    def key(self) -> str:
        """Names documents and tokenizer."""
        return f"tokenize {self.identities}"

    def with_absolute_paths(self) -> TokenizeJob:
        """The job for a process that is in another folder."""
        tokenizer = str(Path(self.params.tokenizer).absolute())
        return replace(
            self,
            params=self.params.model_copy(update={"tokenizer": tokenizer}),
            documents=self.documents.absolute(),
        )

    @contextmanager
    def opened(self) -> Iterator[tuple[DocumentStore, FastTokenizer]]:
        """Open documents and tokenizer; raises StaleParent when they are not those the driver has."""
        store, tokenizer = DocumentStore(self.documents), load_tokenizer(Path(self.params.tokenizer))
        if (store.identity, tokenizer.identity) != self.identities:
            raise StaleParent(
                f"{self.documents}, {self.params.tokenizer}: not what the driver has there. Share one file system"
            )
        yield store, tokenizer

    def make_part(
        self,
        tools: tuple[DocumentStore, FastTokenizer],
        name: str,
        folder: Path,
        *,
        advance: Callable[[int], None],
    ) -> None:
        """The windows of a shard of documents, and counts."""
        store, tokenizer = tools
        _, split, index = name.split("/")
        counts: Counter[str] = Counter()

        def windows() -> Iterator[Sequences]:
            for first, texts in _batches(store, split, int(index)):
                sequences, found = encode_windows(texts, tokenizer, sequence_tokens=self.params.sequence_tokens)
                counts.update(found)
                yield replace(sequences, document_N=sequences.document_N + np.uint32(first))
                advance(len(texts))

        sizes = write_rows(folder / "windows.arrow", windows())
        (folder / "said.json").write_text(json.dumps({"sizes": sizes, "counts": counts}), encoding="utf-8")

    def make(
        self, tools: Any, shard: Shard, *, advance: Callable[[int], None]
    ) -> tuple[Sequences, dict[str, NDArray[Any]]]:
        """A shard of the store."""
        assert self.sizes is not None
        parts = [
            (self.parts / f"windows/{shard.split}/{index}/windows.arrow", sizes)
            for index, sizes in enumerate(self.sizes[shard.split])
        ]
        sequences = Sequences(**read_rows(parts, shard.start, shard.stop))
        advance(len(sequences))
        return sequences, {}


def _batches(store: DocumentStore, split: str, index: int) -> Iterator[tuple[int, list[str]]]:
    """Texts of a shard in runs of about BATCH_CHARACTERS, each with the row of its first in the split."""
    start, stop = store.plan(split).bounds(index)
    texts: list[str] = []
    size, first = 0, start
    for batch in store.batches(split, start=start, stop=stop, columns=["text"]):
        for text in batch.column("text").to_pylist():
            texts.append(text)
            size += len(text)
            if size >= BATCH_CHARACTERS:
                yield first, texts
                first, texts, size = first + len(texts), [], 0
    if texts:
        yield first, texts


def tokenize(
    params: TokenizeParams,
    documents: Path,
    *,
    out: Path,
    executor: Executor | None = None,
    workspace: Workspace = Workspace(),
) -> Manifest:
    """Write the store of sequences of all splits to `out`; `executor` makes parts and shards, by default this process.

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
    inputs = {"sequence_tokens": params.sequence_tokens, "tokenizer": tokenizer.identity}
    parents = {"documents": store.identity}
    identity = identity_of(kind=Sequences.kind, revision=Sequences.revision, inputs=inputs, parents=parents)
    name = f"{Sequences.kind}-{out.name}-windows"
    work = WorkFolder(out, name=name, identity=identity, workspace=workspace)
    with nullcontext(executor) if executor is not None else LocalExecutor() as executing, Parts(work) as parts:
        job = TokenizeJob(
            params=params, documents=documents, identities=(store.identity, tokenizer.identity), parts=parts.root
        )
        found = parts.recall("windows") or parts.remember("windows", _encode(job, parts, executing, store))
        rows = {split: sum(map(sum, found[split]["sizes"])) for split in SPLITS}
        writer = StoreWriter(
            out,
            Sequences,
            specs=Sequences.specs(tokens=params.sequence_tokens, vocabulary=len(tokenizer.tokens)),
            splits={split: SplitPlan(rows=rows[split], shard_rows=_shard_rows(rows[split])) for split in SPLITS},
            inputs=inputs,
            parents=parents,
            workspace=workspace,
        )
        with writer:
            if any(True for _ in writer.missing()):
                _encode(job, parts, executing, store)
                sizes = {split: found[split]["sizes"] for split in SPLITS}
                executing.shards(replace(job, sizes=sizes), writer, label=f"write {out.name}")
            parts.forget("windows")
            manifest = writer.seal(
                facts={
                    "vocabulary": len(tokenizer.tokens),
                    "tokens": params.sequence_tokens,
                    "special": tokenizer.special,
                    "counts": {split: {"sequences": rows[split], **found[split]["counts"]} for split in SPLITS},
                },
                constants={"pieces_utf8": encode_tokens(tokenizer.tokens)},
            )
        work.finish()
        return manifest


def _encode(job: TokenizeJob, parts: Parts, executor: Executor, store: DocumentStore) -> dict[str, Any]:
    """Make the missing parts of the first round; for each split the sizes of its parts and the counts."""
    shards = {
        f"windows/{split}/{index}": store.plan(split).bounds(index)
        for split in SPLITS
        for index in range(max(1, store.plan(split).shards))
    }
    documents = {name: stop - start for name, (start, stop) in shards.items()}
    executor.parts(job, parts, documents, unit="documents", label="tokenize")
    found: dict[str, Any] = {split: {"sizes": [], "counts": Counter()} for split in SPLITS}
    for name in shards:
        said = json.loads((parts.folder(name) / "said.json").read_text(encoding="utf-8"))
        split = name.split("/")[1]
        found[split]["sizes"].append(said["sizes"])
        found[split]["counts"].update(said["counts"])
    for split in SPLITS:
        if not sum(map(sum, found[split]["sizes"])):
            raise DataError(
                f"{store.path}: the documents of {split} give no window. Give more text or raise corpus.share"
            )
    return found


def _shard_rows(rows: int) -> int:
    """Sequences a shard of a split."""
    size = SHARD_SEQUENCES
    while rows > size * SHARDS_SILENT:
        size *= 2
    return size
