"""Where the text of each masked position is from: the column `source` of its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.config import nearest
from storage.documents import DocumentStore
from storage.errors import ParamsError, StoreMissing
from storage.reader import Store
from storage.records.sequences import Sequences

OTHERS = "*"
"""In a prior by source: all sources that it does not name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Sources of a corpus, by number."""

    identity: str
    """Of the documents."""
    names: list[str]
    """Sorted."""
    number_N: dict[str, NDArray[np.int64]]
    """Of the source of each sequence, by split."""

    def of_positions(self, split: str, sequence_P: NDArray[np.integer]) -> NDArray[np.int64]:
        """The number [P] of the source of masked positions, by the sequence that each lies in."""
        return np.asarray(self.number_N[split][sequence_P])


def open_documents(path: Path | None, *, where: str, why: str) -> DocumentStore:
    """The documents that the settings at `where` need because of `why`; raises StoreMissing in their words."""
    try:
        if path is None:
            raise StoreMissing("no store of documents was given")
        return DocumentStore(path)
    except StoreMissing as error:
        raise StoreMissing(
            f"{where}: {why} reads the source of each document, but {error}. Without the documents choose weighting "
            "entropy or uniform, and a prior a teacher"
        ) from error


def read_sources(documents: DocumentStore, text: Store[Sequences]) -> Sources:
    """Sources of all sequences; raises StaleParent when these are of other documents. One shard is in memory."""
    text.require_parent("documents", documents)
    column = {split: documents.read(split).column("source").to_pylist() for split in text.manifest.splits}
    names = sorted(set().union(*column.values()))
    place = {name: number for number, name in enumerate(names)}
    number_N = {}
    for split, source_D in column.items():
        number_D = np.array([place[name] for name in source_D], np.int64)
        shards = [text.shard(split, index).document_N for index in range(text.plan(split).shards)]
        number_N[split] = number_D[np.concatenate([np.zeros(0, np.uint32), *shards]).astype(np.int64)]
    return Sources(identity=documents.identity, names=names, number_N=number_N)


def log_prior_by_source(
    prior: Mapping[str, Mapping[str, float]], sources: Sequence[str], teachers: Sequence[str], *, where: str
) -> NDArray[np.float64]:
    """Natural logs [S, T] of the numbers of each source and teacher, 0 where there is none.

    A source that `prior` does not name has the numbers of "*". Raises ParamsError for a source that the corpus lacks.
    """
    for name in prior:
        if name != OTHERS and name not in sources:
            raise ParamsError(f"{where}.{name}: no document has this source{nearest(name, sources)}")
    others = prior.get(OTHERS, {})
    number_ST = [[prior.get(source, others).get(teacher, 1.0) for teacher in teachers] for source in sources]
    return np.log(np.array(number_ST, np.float64).reshape(len(sources), len(teachers)))
