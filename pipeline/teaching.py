"""Run one teacher over all blanks and keep what it believed.

The teacher first sees the calibration split: there its temperature is fitted, and a model that knows no more than the
frequencies of the true tokens is refused before it costs anything. Then each missing shard of the mask store's plan is
answered and written. The tail prior is the mean distribution outside the kept entries over the train split; each shard
keeps its share of that sum beside it until the store is sealed, so an interrupted run ends with the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from pipeline.config import Section
from storage.arrays import sentinel
from storage.errors import DataError, TeacherRefused, VocabularyError
from storage.manifest import Manifest, digest, file_sha256
from storage.reader import Store
from storage.records import SPLITS, Masks, Sequences, SparseLogits, id_dtype
from storage.tables import DocumentStore
from storage.writer import Shard, StoreWriter

if TYPE_CHECKING:
    import torch

    from pipeline.models import MaskedLM
    from pipeline.tokens import FastTokenizer

log = logging.getLogger(__name__)

CALIBRATION_POSITIONS = 4096
"""Predictions whose full logits are held to fit the temperature: 250 MB in bfloat16 for 30 k ids."""

CALIBRATION_MINIMUM = 50
"""Fewer predictions than this say nothing about a model."""


class TeacherParams(Section):
    """One entry of `teachers`."""

    model: str
    """Folder of a Hugging Face masked language model."""
    keep: int = Field(ge=1, le=1024)
    """k, entries kept a prediction."""
    temperatures: list[float] = Field(min_length=1)
    """Statistics are exact at these, times the calibrated temperature; the first is 1."""

    @field_validator("temperatures")
    @classmethod
    def _first_is_one(cls, value: list[float]) -> list[float]:
        if value[0] != 1.0 or any(temperature <= 0 for temperature in value) or len(set(value)) < len(value):
            raise ValueError("must be positive, distinct and begin with 1.0")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What the calibration split showed: the fitted temperature and how good the model is, nats a prediction."""

    temperature: float
    nll: float
    nll_raw: float
    accuracy: float
    positions: int


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Everything a teacher is asked: texts, sequences and blanks of the splits, and the bridge to its vocabulary."""

    documents: DocumentStore
    sequences: Store[Sequences]
    masks: Store[Masks]
    tokenizer: FastTokenizer
    to_student_V: NDArray[np.int64]
    positions: int
    batch_tokens: int

    def split(self, name: str) -> SplitLesson:
        """Load one split."""
        sequences = self.sequences.read(name)
        column = self.documents.read(name).column("text")
        texts = column.take(sequences.document_N.astype(np.int64)).to_pylist()
        return SplitLesson(lesson=self, texts=texts, sequences=sequences, masks=self.masks.read(name))


@dataclass(frozen=True, kw_only=True)
class SplitLesson:
    """One split of a `Lesson`, in memory."""

    lesson: Lesson
    texts: list[str]
    sequences: Sequences
    masks: Masks

    def answers(self, lm: MaskedLM, start: int, stop: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, NDArray[Any]]]:
        """Logits [Q, Vt], gold ids [Q] and rows [Q] counted from `start`, for predictions [start, stop), by batches.

        A pass that lies across the border of two shards runs in both, and each keeps its own predictions.
        """
        from pipeline.alignment import teacher_view
        from pipeline.batches import model_inputs, token_batches

        low, high = _whole_passes(self.masks, start, stop)
        part = Masks(**{name: array[low:high] for name, array in self.masks.arrays().items()})
        view, gold_P = teacher_view(
            self.texts,
            self.sequences,
            part,
            tokenizer=self.lesson.tokenizer.backend,
            to_student_V=self.lesson.to_student_V,
            special=self.lesson.tokenizer.special,
            positions=self.lesson.positions,
        )
        for batch in token_batches(view.lengths_G(), self.lesson.batch_tokens):
            inputs = model_inputs(view, batch)
            row = inputs.prediction_Q + low - start
            mine = (row >= 0) & (row < stop - start)
            if not mine.any():
                continue
            ids, attention, row_Q, column_Q = lm.tensors(
                inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q[mine], inputs.column_Q[mine]
            )
            (gold,) = lm.tensors(gold_P[inputs.prediction_Q[mine]].astype(np.int64))
            # Some models pad their output beyond the tokenizer's ids; no text has those.
            logits = lm.logits(ids, attention, row_Q, column_Q)[:, : len(self.lesson.to_student_V)]
            yield logits, gold, row[mine]


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

    from pipeline.models import masked_lm
    from pipeline.tokens import load_tokenizer
    from pipeline.vocab import bridge, decode_pieces, encode_pieces

    folder = Path(params.model)
    tokenizer = load_tokenizer(folder)
    stores = DocumentStore(documents), Store(sequences, Sequences), Store(masks, Masks)
    stores[1].require_parent("documents", stores[0])
    stores[2].require_parent("sequences", stores[1])
    student_pieces = decode_pieces(stores[1].constant("pieces_utf8"))
    with masked_lm(folder, device=device, dtype=dtype) as lm, torch.inference_mode():
        if lm.vocabulary < len(tokenizer.pieces):
            raise VocabularyError(
                f"{folder}: the tokenizer has {len(tokenizer.pieces)} ids, the model {lm.vocabulary}: they do not "
                "belong together. Give the model with its own tokenizer"
            )
        lesson = Lesson(
            documents=stores[0],
            sequences=stores[1],
            masks=stores[2],
            tokenizer=tokenizer,
            to_student_V=bridge(tokenizer.pieces, student_pieces).to_student_V,
            positions=lm.positions,
            batch_tokens=batch_tokens,
        )
        writer = StoreWriter(
            out,
            SparseLogits,
            specs=SparseLogits.specs(
                keep=params.keep, temperatures=1 + len(params.temperatures), vocabulary=len(tokenizer.pieces)
            ),
            splits=stores[2].manifest.splits,
            inputs={**params.model_dump(exclude={"model"}), "model": model_digest(folder)},
            parents={"masks": stores[2].identity},
        )
        with writer:
            fitted = writer.remember("calibration", lambda: asdict(calibrate(lm, lesson, name=folder.name)))
            temperatures = [1.0, *(round(fitted["temperature"] * listed, 6) for listed in params.temperatures)]
            covered = _write_shards(lm, lesson, writer, keep=params.keep, temperatures=temperatures)
            prior_JV = _tail_prior(writer, shape=(len(temperatures), len(tokenizer.pieces)))
            return writer.seal(
                facts={
                    "vocabulary": len(tokenizer.pieces),
                    "keep": params.keep,
                    "listed": params.temperatures,
                    "temperatures": temperatures,
                    "calibration": fitted,
                    "coverage": covered,
                    "parameters": lm.parameters,
                },
                constants={"pieces_utf8": encode_pieces(tokenizer.pieces), "tail_prior_JV": prior_JV},
            )


def model_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of what decides a model's answers: weights, configuration, tokenizer."""
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    names += [name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    return digest({name: file_sha256(folder / name) for name in names})


def calibrate(lm: MaskedLM, lesson: Lesson, *, name: str) -> Calibration:
    """Fit the temperature that minimises the loss on the calibration split (Guo et al. 2017, arXiv 1706.04599).

    Raises TeacherRefused when the model is no better than guessing by frequency, DataError when there is too little
    text.
    """
    import torch

    from pipeline.calibration import fit_temperature

    part = lesson.split("calibration")
    size = min(len(part.masks), CALIBRATION_POSITIONS)
    answers = [(logits.clone(), gold) for logits, gold, _ in part.answers(lm, 0, size)]
    positions = sum(len(gold) for _, gold in answers)
    if positions < CALIBRATION_MINIMUM:
        raise DataError(
            f"{lesson.masks.path}: the calibration split has {positions} predictions that {name} can answer, expected "
            f"at least {CALIBRATION_MINIMUM}. Raise corpus.calibration or corpus.share, or check the vocabulary"
        )

    def nll_at(temperatures: Sequence[float]) -> list[float]:
        totals = [0.0] * len(temperatures)
        for logits, gold in answers:
            for i, temperature in enumerate(temperatures):
                scaled = logits.float() / temperature
                totals[i] += float(torch.nn.functional.cross_entropy(scaled, gold, reduction="sum"))
        return [total / positions for total in totals]

    temperature = round(fit_temperature(nll_at), 6)
    nll, nll_raw = nll_at([temperature, 1.0])
    correct = sum(int((logits.argmax(dim=1) == gold).sum()) for logits, gold in answers)
    calibration = Calibration(
        temperature=temperature, nll=nll, nll_raw=nll_raw, accuracy=correct / positions, positions=positions
    )
    _refuse_guessing(calibration, lesson, part, size, name=name)
    log.info(
        "%s: temperature %.3f, calibration NLL %.3f (%.3f before), accuracy %.3f, %d predictions",
        name,
        temperature,
        nll,
        nll_raw,
        calibration.accuracy,
        positions,
    )
    return calibration


def _refuse_guessing(calibration: Calibration, lesson: Lesson, part: SplitLesson, size: int, *, name: str) -> None:
    """Compare with always giving the train split's token frequencies (add-one smoothed)."""
    train = lesson.masks.read("train").label_P
    vocabulary = int(lesson.masks.facts["vocabulary"])
    count_V = np.bincount(train, minlength=vocabulary) + 1.0
    label_P = part.masks.label_P[:size]
    nll = float(-np.log(count_V[label_P] / count_V.sum()).mean())
    accuracy = float((label_P == count_V.argmax()).mean())
    if calibration.nll >= nll or calibration.accuracy <= accuracy:
        raise TeacherRefused(
            f"{name}: on {calibration.positions} calibration predictions its NLL is {calibration.nll:.2f} nats and its "
            f"accuracy {calibration.accuracy:.3f}; guessing by token frequency gives {nll:.2f} and {accuracy:.3f}. "
            "It is no trained masked language model for this text; check its head and its tokenizer"
        )


def _whole_passes(masks: Masks, start: int, stop: int) -> tuple[int, int]:
    """Widen [start, stop) to whole passes: a blank of the neighbouring shard must be blank here too."""
    key_P = (masks.copy_P.astype(np.int64) << 32) | masks.sequence_P.astype(np.int64)
    low = int(np.searchsorted(key_P, key_P[start], side="left"))
    high = int(np.searchsorted(key_P, key_P[stop - 1], side="right"))
    return low, high


def _write_shards(
    lm: MaskedLM, lesson: Lesson, writer: StoreWriter, *, keep: int, temperatures: list[float]
) -> dict[str, float]:
    """Answer every missing shard; returns the share of predictions answered, by split."""
    from pipeline.progress import Progress

    missing = list(writer.missing())
    rows = sum(plan.rows for plan in writer.splits.values())
    left = sum(shard.stop - shard.start for shard in missing)
    with Progress(rows, unit="predictions", label=f"teach {writer.work.out.name}", done=rows - left) as progress:
        for split in SPLITS:
            shards = [shard for shard in missing if shard.split == split]
            part = lesson.split(split) if shards else None
            for shard in shards:
                assert part is not None
                record, tail_sum_JV = _answer_shard(
                    lm, part, shard, keep=keep, temperatures=temperatures, progress=progress
                )
                answered = np.array([record.covered_P().sum()], np.int64)
                writer.write(shard, record, sidecar={"tail_sum_JV": tail_sum_JV, "answered": answered})
    return {
        split: sum(int(answered[0]) for answered in writer.sidecars("answered", split)) / max(1, plan.rows)
        for split, plan in writer.splits.items()
    }


def _answer_shard(
    lm: MaskedLM, part: SplitLesson, shard: Shard, *, keep: int, temperatures: list[float], progress: Any
) -> tuple[SparseLogits, NDArray[np.float64]]:
    from pipeline.sparse import summarise

    size = shard.stop - shard.start
    vocabulary = len(part.lesson.tokenizer.pieces)
    columns = {
        name: np.full((size, *spec.row_shape), sentinel(spec.dtype), spec.dtype)
        for name, spec in SparseLogits.specs(keep=keep, temperatures=len(temperatures), vocabulary=vocabulary).items()
    }
    tail_sum_JV = np.zeros((len(temperatures), vocabulary), np.float64)
    for logits, gold, row in part.answers(lm, shard.start, shard.stop):
        summary = summarise(logits, gold, keep=keep, temperatures=temperatures)
        columns["ids_PK"][row] = summary.ids_PK.cpu().numpy()
        columns["logprob_PK"][row] = summary.logprob_PK.cpu().numpy()
        columns["tail_P"][row] = summary.tail_P.cpu().numpy()
        columns["gold_id_P"][row] = gold.cpu().numpy()
        columns["gold_logprob_P"][row] = summary.gold_logprob_P.cpu().numpy()
        columns["entropy_PJ"][row] = summary.entropy_PJ.cpu().numpy()
        columns["lse_PJ"][row] = summary.lse_PJ.cpu().numpy()
        tail_sum_JV += summary.tail_sum_JV.cpu().numpy()
        progress.advance(len(row))
    assert columns["ids_PK"].dtype == np.dtype(id_dtype(vocabulary))
    return SparseLogits(**columns), tail_sum_JV


def _tail_prior(writer: StoreWriter, *, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Mean distribution outside the kept entries over the train split, at each temperature; rows sum to 1."""
    total_JV = np.zeros(shape, np.float64)
    for tail_sum_JV in writer.sidecars("tail_sum_JV", "train"):
        total_JV += tail_sum_JV
    total_JV += 1e-9 * total_JV.sum(axis=1, keepdims=True) / shape[1] + np.finfo(np.float64).tiny
    prior_JV: NDArray[np.float32] = (total_JV / total_JV.sum(axis=1, keepdims=True)).astype(np.float32)
    return prior_JV
