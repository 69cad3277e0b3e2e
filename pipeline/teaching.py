"""Run one teacher over all blanks and keep what it believed.

The teacher first sees the calibration split: there its temperature and the shape of its tails are fitted, and a model
that knows no more than the frequencies of the true tokens is refused before it costs anything. Then each missing shard
of the mask store's plan is answered and written. What was fitted is remembered beside the shards, so an interrupted run
ends with the same bytes.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator

from pipeline.cards import teacher_provenance
from pipeline.config import Section
from pipeline.forms import Keep, TailParams
from storage.arrays import sentinel
from storage.card import card_of
from storage.manifest import Manifest
from storage.reader import Store
from storage.records import SPLITS, SparseLogits, id_dtype
from storage.writer import Shard, StoreWriter

if TYPE_CHECKING:
    import torch

    from pipeline.asking import Lesson, SplitLesson
    from pipeline.models import MaskedLM
    from pipeline.sketch import TailShape

log = logging.getLogger(__name__)


class TeacherParams(Section):
    """One entry of `teachers`."""

    model: str
    """Folder of a Hugging Face masked language model."""
    keep: Keep
    """What is listed of a prediction, and what is drawn."""
    tail: TailParams
    """How the rest is described."""
    temperatures: list[float] = Field(min_length=1)
    """Statistics are exact at these, times the calibrated temperature; the first is 1."""
    seed: int = Field(ge=0)
    """Of what is drawn."""

    @property
    def sketch(self) -> int:
        """Coordinates of a row's tail: none where the tail is drawn."""
        return 0 if self.keep.draws else self.tail.sketch

    @field_validator("temperatures")
    @classmethod
    def _first_is_one(cls, value: list[float]) -> list[float]:
        if value[0] != 1.0 or any(temperature <= 0 for temperature in value) or len(set(value)) < len(value):
            raise ValueError("must be positive, distinct and begin with 1.0")
        return value


def teach(
    params: TeacherParams,
    *,
    documents: Path,
    sequences: Path,
    masks: Path,
    out: Path,
    device: torch.device,
    dtype: torch.dtype,
    batch_tokens: int,
) -> Manifest:
    """Write the store of one teacher's beliefs to `out`.

    Raises TeacherRefused when the model is no usable masked language model, StaleParent when the stores given do not
    belong together, WorkBusy when another process writes `out`.
    """
    import torch

    from pipeline.asking import Lesson, model_digest
    from pipeline.growth import EXTENDS, extended
    from pipeline.models import masked_lm
    from pipeline.vocab import encode_pieces

    folder = Path(params.model)
    with masked_lm(folder, device=device, dtype=dtype) as lm, torch.inference_mode():
        lesson = Lesson.open(
            folder, lm, documents=documents, sequences=sequences, masks=masks, batch_tokens=batch_tokens
        )
        vocabulary = len(lesson.tokenizer.pieces)
        inputs = {**params.model_dump(exclude={"model"}), "model": model_digest(folder)}
        kept = extended(out, inputs)
        writer = StoreWriter(
            out,
            SparseLogits,
            specs=SparseLogits.specs(
                most=min(params.keep.most, vocabulary),
                draws=params.keep.draws,
                temperatures=1 + len(params.temperatures),
                sketch=params.sketch,
                vocabulary=vocabulary,
            ),
            splits=lesson.masks.manifest.splits,
            inputs={**inputs, **({} if kept is None else {EXTENDS: kept.identity})},
            parents={"masks": lesson.masks.identity},
        )
        with writer:
            fitted, temperatures, shape = _prepare(lm, lesson, writer, params, kept, name=folder.name)
            constants = shape.constants()
            writer.constants["order_V"] = constants.pop("order_V")
            questions = _write_shards(lm, lesson, writer, params, shape, kept)
            return writer.seal(
                facts={
                    "vocabulary": vocabulary,
                    "keep": params.keep.model_dump(),
                    "most": params.keep.most,
                    "listed": params.temperatures,
                    "temperatures": temperatures,
                    "calibration": fitted,
                    "coverage": _coverage(writer),
                    "questions": questions,
                    "parameters": lm.parameters,
                    "provenance": teacher_provenance(
                        folder, documents=lesson.documents.manifest, masks=lesson.masks.manifest
                    ),
                },
                constants={"pieces_utf8": encode_pieces(lesson.tokenizer.pieces), **constants},
                card=card_of,
            )


def _prepare(
    lm: MaskedLM,
    lesson: Lesson,
    writer: StoreWriter,
    params: TeacherParams,
    kept: Store[SparseLogits] | None,
    *,
    name: str,
) -> tuple[dict[str, Any], list[float], TailShape]:
    """Calibration, the temperatures that follow from it, and the shape of the tails; fitted once for this identity.

    A store that is extended keeps its own.
    """
    from pipeline.calibration import calibrate, calibration_answers
    from pipeline.sketch import TailShape
    from pipeline.sketch_fit import fit_tail

    if kept is not None:
        temperatures = kept.facts["temperatures"]
        return kept.facts["calibration"], temperatures, TailShape.of_store(kept, device=lm.device)
    held: list[tuple[torch.Tensor, torch.Tensor]] = []

    def answers() -> list[tuple[torch.Tensor, torch.Tensor]]:
        held[:] = held or calibration_answers(lm, lesson, name=name)
        return held

    fitted = writer.remember("calibration", lambda: asdict(calibrate(answers(), lesson, name=name)))
    temperatures = [1.0, *(round(fitted["temperature"] * listed, 6) for listed in params.temperatures)]
    arrays = writer.remember_arrays(
        "tail",
        lambda: fit_tail(
            [logits for logits, _ in answers()], keep=params.keep, temperatures=temperatures, tail=params.tail
        ).arrays(),
    )
    return fitted, temperatures, TailShape.from_arrays(arrays, device=lm.device)


def _write_shards(
    lm: MaskedLM,
    lesson: Lesson,
    writer: StoreWriter,
    params: TeacherParams,
    shape: TailShape,
    kept: Store[SparseLogits] | None,
) -> dict[str, list[str]]:
    """Answer every missing shard, or take it over; returns the digest of each shard's question, by split."""
    from pipeline.growth import question, take_over
    from pipeline.progress import Progress

    missing = {(shard.split, shard.index): shard for shard in writer.missing()}
    rows = sum(plan.rows for plan in writer.splits.values())
    left = sum(shard.stop - shard.start for shard in missing.values())
    questions: dict[str, list[str]] = {}
    with Progress(rows, unit="predictions", label=f"teach {writer.work.out.name}", done=rows - left) as progress:
        for split in SPLITS:
            part, plan = lesson.split(split), writer.splits[split]
            questions[split] = [question(part, *plan.bounds(index)) for index in range(plan.shards)]
            for index, asked in enumerate(questions[split]):
                shard = missing.get((split, index))
                if shard is None:
                    continue
                if kept is not None and take_over(writer, kept, shard, asked):
                    progress.advance(shard.stop - shard.start)
                    continue
                record = _answer_shard(lm, part, shard, params, shape, progress=progress)
                writer.write(shard, record, sidecar={"answered": np.array([record.covered_P().sum()], np.int64)})
    return questions


def _coverage(writer: StoreWriter) -> dict[str, float]:
    """Share of predictions answered, by split."""
    return {
        split: sum(int(answered[0]) for answered in writer.sidecars("answered", split)) / max(1, plan.rows)
        for split, plan in writer.splits.items()
    }


def _answer_shard(
    lm: MaskedLM, part: SplitLesson, shard: Shard, params: TeacherParams, shape: TailShape, *, progress: Any
) -> SparseLogits:
    from pipeline.seeds import generator
    from pipeline.sparse import summarise

    size = shard.stop - shard.start
    record = empty_logits(
        size, params, vocabulary=len(part.lesson.tokenizer.pieces), temperatures=len(shape.temperatures)
    )
    columns = record.arrays()
    # Drawn for the whole shard at once: a row's draws do not depend on how rows are batched.
    chance = generator(params.seed, "draws", shard.split, shard.index)
    uniform_PS = chance.random((size, params.keep.draws)) if params.keep.draws else None
    for logits, gold, row in part.answers(lm, shard.start, shard.stop):
        summary = summarise(
            logits,
            gold,
            keep=params.keep,
            temperatures=shape.temperatures,
            tail=shape,
            uniform_PS=None if uniform_PS is None else uniform_PS[row],
        )
        for name, column in columns.items():
            values = getattr(summary, name).cpu().numpy()
            if name in ("ids_PK", "drawn_ids_PS"):
                values = np.where(values < 0, sentinel(column.dtype), values)
            column[row] = values
        progress.advance(len(row))
    return record


def empty_logits(rows: int, params: TeacherParams, *, vocabulary: int, temperatures: int) -> SparseLogits:
    """`rows` rows that no teacher has answered."""
    ids = np.dtype(id_dtype(vocabulary))
    listed, drawn = (rows, min(params.keep.most, vocabulary)), (rows, params.keep.draws)

    def missing(columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.full((rows, columns), np.nan, np.float32)

    return SparseLogits(
        ids_PK=np.full(listed, sentinel(ids), ids),
        logprob_PK=missing(listed[1]),
        drawn_ids_PS=np.full(drawn, sentinel(ids), ids),
        drawn_share_PS=np.zeros(drawn, np.float32),
        tail_PJ=missing(temperatures),
        gold_logprob_PJ=missing(temperatures),
        gold_place_P=np.full(rows, -1, np.int32),
        entropy_PJ=missing(temperatures),
        sketch_PD=np.zeros((rows, params.sketch), np.int8),
        spread_PJ=missing(temperatures),
    )
