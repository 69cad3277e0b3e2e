"""The files of an evaluation in `reports`: numbers as JSON, and each document's sums as Arrow.

The JSON is for people, `dvc metrics` and the report. From the sums the report compares two students on the same
documents without running either again. Both are deterministic: sorted keys, six significant digits, no times. The
record that training writes beside a student is read here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from pipeline.evaluate.bootstrap import Means
from storage.atomic import beside, write_bytes
from storage.errors import SchemaMismatch, StaleParent, StoreMissing
from storage.reader import Store
from storage.records.sequences import Masks, Sequences

DIGITS = 6
"""Significant digits of a reported number; the sixth is far below every interval."""

FROM_LABELS = "labels"
"""What a student without a teacher learns from (`learns_from` of its report)."""


@dataclass(frozen=True, kw_only=True)
class DocumentSums:
    """Sums of one evaluation by held-out document."""

    masks: str
    """Identity of the mask store."""
    document_D: NDArray[np.int64]
    """Rows of the held-out table."""
    source_D: list[str]
    """Their sources of text, by which `evaluate.domains` groups them."""
    means: Means


def write_json(path: Path, value: Mapping[str, Any]) -> str:
    """Write numbers as JSON: sorted keys, `DIGITS` significant digits, without entries that are NaN or None.

    Returns the file's SHA-256. A stage puts it into its run record, so that the record changes with its report.
    """
    text = f"{json.dumps(rounded(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)}\n".encode()
    write_bytes(path, text)
    return hashlib.sha256(text).hexdigest()


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """Read what `write_json` wrote; raises StoreMissing or SchemaMismatch with the command that makes the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreMissing(f"{path}: not found. Run: {remedy}") from None
    except ValueError as error:
        raise SchemaMismatch(f"{path}: not JSON: {error}. Run: {remedy}") from error
    if not isinstance(value, dict):
        raise SchemaMismatch(f"{path}: expected a JSON object, got {type(value).__name__}. Run: {remedy}")
    return value


def training_record(model: Path, *, sequences: Store[Sequences], masks: Store[Masks]) -> dict[str, Any]:
    """A student's training.json; raises StaleParent when it was trained on other text or masks than these."""
    remedy = f"dvc repro train@{model.name}"
    training = read_json(model / "training.json", remedy=remedy)
    for name, parent in (("sequences", sequences), ("masks", masks)):
        made_from = training["parents"].get(name, "none")
        if made_from != parent.identity:
            raise StaleParent(
                f"{model}: trained on {name} {made_from[:12]}, but {parent.path} is {parent.identity[:12]}. "
                f"Run: {remedy}"
            )
    return training


def rounded(value: Any) -> Any:
    """JSON data with floats of `DIGITS` significant digits; entries that are NaN or None are left out of mappings."""
    if isinstance(value, Mapping):
        kept = {str(key): rounded(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def write_sums(path: Path, sums: DocumentSums) -> None:
    """Write sums as an Arrow file with columns document, source, <quantity>_total and <quantity>_count."""
    columns: dict[str, Any] = {
        "document": sums.document_D.astype(np.uint32),
        "source": pa.array(sums.source_D, pa.string()).dictionary_encode(),
    }
    for number, name in enumerate(sums.means.names):
        columns[f"{name}_total"] = sums.means.total_DQ[:, number]
        columns[f"{name}_count"] = sums.means.count_DQ[:, number].astype(np.uint32)
    table = pa.table(columns).replace_schema_metadata({"masks": sums.masks, "quantities": " ".join(sums.means.names)})
    with beside(path) as partial:
        with ipc.new_file(str(partial), table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as sink:
            sink.write_table(table)


def read_sums(path: Path, *, remedy: str) -> DocumentSums:
    """Read what `write_sums` wrote; raises StoreMissing or SchemaMismatch with the command that makes the file."""
    try:
        table = ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        names = tuple(metadata["quantities"].split())
        masks, document_D = metadata["masks"], table["document"].to_numpy().astype(np.int64)
        source_D = table["source"].to_pylist()
        totals = [table[f"{name}_total"].to_numpy() for name in names]
        counts = [table[f"{name}_count"].to_numpy().astype(np.float64) for name in names]
    except FileNotFoundError:
        raise StoreMissing(f"{path}: not found. Run: {remedy}") from None
    except (pa.ArrowInvalid, KeyError, AttributeError) as error:
        raise SchemaMismatch(f"{path}: no sums of an evaluation: {error!r}. Run: {remedy}") from error
    means = Means(names=names, total_DQ=np.stack(totals, axis=1), count_DQ=np.stack(counts, axis=1))
    return DocumentSums(masks=masks, document_D=document_D, source_D=source_D, means=means)


def require_same_masks(first: DocumentSums, second: DocumentSums, *, paths: tuple[Path, Path], remedy: str) -> None:
    """Refuse to compare two evaluations of different masks."""
    if first.masks != second.masks or not np.array_equal(first.document_D, second.document_D):
        raise StaleParent(
            f"{paths[1]}: evaluated on masks {second.masks[:12]}, but {paths[0]} on {first.masks[:12]}. Run: {remedy}"
        )
