"""All texts to one corpus, split into train, calibration and held-out, without duplicates, whatever its size.

What happens to a document depends on its id and its text alone, never on its place: a hash of the id decides whether it
is kept and to which split it goes, so a document that is added, removed or moved changes no other's split. Parts of one
document have the same id up to "#" and lie in one split. An input may name the split of all its documents instead: a
published test set stays one. Of documents with the same text the one with the smallest id is kept. A held-out document
that is nearly the same as one of train (`pipeline.text.documents.near`) is left out, for what judges must not have been
read.

Each round is a list of parts (`storage.parts`) that any executor makes:

    look/<piece>            of a shard of an ingested text: splits, and keys of the texts
    same/<bucket>           documents with a text that another has
    sketch/<piece>          signatures of those that are left, and keys of their bands
    near/<bucket>           held-out documents that are nearly the same as one of train
    shard/<split>/<index>   a shard of the store, and counts
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.executor.base import Executor, LocalExecutor
from pipeline.text.documents import keys, near
from pipeline.text.documents.corpus_job import CorpusJob, Text
from pipeline.text.documents.ingest import ALL
from pipeline.text.params import CorpusParams, InputParams
from storage.documents import DocumentStore, document_shard_rows, seal_documents
from storage.errors import DataError
from storage.format.manifest import Manifest, SplitPlan, identity_of
from storage.parts import Parts
from storage.records.base import HELDOUT, SPLITS
from storage.tables import DOCUMENTS, REVISION
from storage.work import WorkFolder, Workspace

log = logging.getLogger(__name__)


def assemble(
    text_folder: Path,
    inputs: Mapping[str, InputParams],
    params: CorpusParams,
    out: Path,
    *,
    executor: Executor | None = None,
    workspace: Workspace = Workspace(),
) -> Manifest:
    """Join the texts of all inputs, keep the share, drop duplicates, split, and write the corpus to `out`.

    `executor` makes the parts, by default this process. Raises DataError when `text_folder` holds a text that `inputs`
    does not name or a split would be empty, and StoreMissing when a text is not there yet.
    """
    unnamed = {path.name for path in text_folder.glob("[!.]*") if path.is_dir()} - set(inputs)
    if unnamed:
        raise DataError(
            f"{text_folder}: holds {', '.join(sorted(unnamed))}, which `inputs` of params.yaml does not name. "
            "Run: cohesive prune"
        )
    stores = {name: DocumentStore(text_folder / name, made_by=f"ingest@{name}") for name in sorted(inputs)}
    asked = {
        "corpus": params.model_dump(),
        "texts": {name: store.identity for name, store in stores.items()},
        "near_duplicates": near.IDENTITY,
    }
    splits = {name: entry.split for name, entry in sorted(inputs.items()) if entry.split is not None}
    if splits:
        asked["splits"] = splits
    identity = identity_of(kind=DOCUMENTS, revision=REVISION, inputs=asked, parents={})
    work = WorkFolder(out, name=f"{DOCUMENTS}-{out.name}", identity=identity, workspace=workspace)
    with nullcontext(executor) if executor is not None else LocalExecutor() as executing, Parts(work) as parts:
        found = parts.recall("rows")
        if found is None or not all(parts.has(shard) for shard in _shards(_plans(found))):
            texts = tuple(
                Text(name=name, store=store.path, identity=store.identity, shard=shard, split=splits.get(name))
                for name, store in stores.items()
                for shard in range(store.plan(ALL).shards)
            )
            job = CorpusJob(params=params, texts=texts, parts=parts.root)
            found = parts.remember("rows", _rounds(job, parts, executing, stores))
            _refuse_empty(found, text_folder)
            writing = replace(
                job,
                same_buckets=found["same_buckets"],
                near_buckets=found["near_buckets"],
                counts=tuple(found["kept"][split] for split in SPLITS),
                plans=_plans(found),
            )
            executing.parts(writing, parts, _shards(_plans(found)), unit="documents", label="write corpus")
        parts.forget("look", "same", "sketch", "near")
        plans = _plans(found)
        counted = {
            split: [
                json.loads((parts.folder(f"shard/{split}/{index}") / "counts.json").read_text(encoding="utf-8"))
                for index in range(plan.shards)
            ]
            for split, plan in plans.items()
        }
        return seal_documents(
            work,
            {
                (split, index): parts.folder(f"shard/{split}/{index}") / "table.arrow"
                for split, plan in plans.items()
                for index in range(plan.shards)
            },
            plans,
            inputs=asked,
            facts={
                "documents": {split: plan.rows for split, plan in plans.items()},
                "words": {split: sum(counts["words"] for counts in listed) for split, listed in counted.items()},
                "sources": {split: _summed(listed) for split, listed in counted.items()},
                "duplicates": found["duplicates"],
                "near_duplicates": found["near_duplicates"],
                "ingested": {name: store.manifest.facts["counts"] for name, store in stores.items()},
                "licences": {name: entry.licence for name, entry in sorted(inputs.items())},
            },
        )


def _rounds(job: CorpusJob, parts: Parts, executor: Executor, stores: Mapping[str, DocumentStore]) -> dict[str, Any]:
    """Split the documents and find duplicates; what is known then, without which no shard can be written."""
    pieces = range(len(job.texts))
    plans = [stores[text.name].plan(ALL).bounds(text.shard) for text in job.texts]
    rows = {number: stop - start for number, (start, stop) in enumerate(plans)}
    executor.parts(job, parts, {f"look/{n}": rows[n] for n in pieces}, unit="documents", label="split corpus")
    looked = [_said(parts, f"look/{number}") for number in pieces]
    job = replace(job, same_buckets=keys.bucket_count(sum(said["rows"] for said in looked)))
    buckets = {f"same/{bucket}": 1 for bucket in range(job.same_buckets)}
    executor.parts(job, parts, buckets, unit="buckets", label="duplicates")
    executor.parts(job, parts, {f"sketch/{n}": rows[n] for n in pieces}, unit="documents", label="sketch corpus")
    sketched = [_said(parts, f"sketch/{number}") for number in pieces]
    job = replace(job, near_buckets=keys.bucket_count(sum(said["bands"] for said in sketched)))
    buckets = {f"near/{bucket}": 1 for bucket in range(job.near_buckets)}
    executor.parts(job, parts, buckets, unit="buckets", label="near-duplicates")
    same, leaked = (Counter(dict.fromkeys(stores, 0)) for _ in range(2))
    kept: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number, text in enumerate(job.texts):
        same[text.name] += len(keys.rows_in(job.files("same", job.same_buckets), number))
        gone = len(keys.rows_in(job.files("near", job.near_buckets), number))
        leaked[text.name] += gone
        for split in SPLITS:
            kept[split].append(sketched[number]["documents"][split] - (gone if split == HELDOUT else 0))
    log.info(
        "corpus: %d documents; left out %d with the text of another, and of those held out %d nearly the same as one "
        "of train",
        sum(map(sum, kept.values())),
        same.total(),
        leaked.total(),
    )
    return {
        "kept": kept,
        "shard_rows": {
            split: document_shard_rows(sum(kept[split]), sum(said["bytes"][split] for said in sketched))
            for split in SPLITS
        },
        "same_buckets": job.same_buckets,
        "near_buckets": job.near_buckets,
        "duplicates": dict(same),
        "near_duplicates": dict(leaked),
    }


def _said(parts: Parts, part: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((parts.folder(part) / "said.json").read_text(encoding="utf-8"))
    return said


def _plans(found: Mapping[str, Any]) -> dict[str, SplitPlan]:
    return {split: SplitPlan(rows=sum(found["kept"][split]), shard_rows=found["shard_rows"][split]) for split in SPLITS}


def _shards(plans: Mapping[str, SplitPlan]) -> dict[str, int]:
    """The parts that are shards of the store, with their rows."""
    return {
        f"shard/{split}/{index}": plan.bounds(index)[1] - plan.bounds(index)[0]
        for split, plan in plans.items()
        for index in range(plan.shards)
    }


def _summed(listed: list[dict[str, Any]]) -> dict[str, int]:
    """Documents of each source."""
    sources: Counter[str] = Counter()
    for counts in listed:
        sources.update(counts["sources"])
    return dict(sorted(sources.items()))


def _refuse_empty(found: Mapping[str, Any], text_folder: Path) -> None:
    rows = {split: sum(kept) for split, kept in found["kept"].items()}
    for split in SPLITS:
        if not rows[split]:
            left_out = sum(found["near_duplicates"].values()) if split == HELDOUT else 0
            raise DataError(
                f"{text_folder}: none of {sum(rows.values())} documents falls into {split}"
                + (f" but {left_out} that are nearly the same as one of train" if left_out else "")
                + ". Give more text or raise corpus.share"
                + ("" if split == "train" else f" or corpus.{split}")
            )
