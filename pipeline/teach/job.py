"""The shard job of a teacher: loads its model and computes shards of predictions, in the process with the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime, settle
from pipeline.text.corpus_view import MaskedCorpus
from storage.errors import StaleParent
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.writer import Shard

if TYPE_CHECKING:
    import torch

    from pipeline.models.masked_lm import MaskedLM
    from pipeline.sparse.tail import TailShape
    from pipeline.teach.inference import SplitInputs, TeacherInputs
    from pipeline.teach.params import TeacherParams


WORD_SHARES = "word_shares"
"""Name of the fitted shares, among the fitted arrays and a store's facts."""

FITTED = "fitted"
"""Name under which the driver remembers what was fitted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeachJob:
    """What a process needs to compute shards of one teacher's store; it loads the model and the texts itself."""

    params: TeacherParams
    documents: Path
    sequences: Path
    masks: Path
    runtime: Runtime
    digest: str
    """Of the model that the store is made with."""
    masks_identity: str
    fitted: Path
    """Where the driver keeps the arrays of `fit`."""
    kept: Path | None
    """The store that is extended."""
    tokenizer: Path | None = None
    """Folder of the students' tokenizer; None: words that are cut differently get no prediction."""

    @property
    def key(self) -> str:
        """Of model, stores and number format. Fitted arrays are not part of it: they are read for each job."""
        runtime = self.runtime
        return f"teach {self.digest} {self.masks_identity} {runtime.device} {runtime.dtype} {runtime.batch_tokens}"

    def with_absolute_paths(self) -> TeachJob:
        """The job for a process that is in another folder."""
        return replace(
            self,
            params=self.params.model_copy(update={"model": str(Path(self.params.model).absolute())}),
            documents=self.documents.absolute(),
            sequences=self.sequences.absolute(),
            masks=self.masks.absolute(),
            fitted=self.fitted.absolute(),
            kept=None if self.kept is None else self.kept.absolute(),
            tokenizer=None if self.tokenizer is None else self.tokenizer.absolute(),
        )

    @contextmanager
    def opened(self) -> Iterator[LoadedTeacher]:
        """Load the model and open the stores; raises StaleParent when they are not those the driver has."""
        from pipeline.models.identity import model_digest
        from pipeline.models.masked_lm import masked_lm
        from pipeline.teach.inference import TeacherInputs

        folder = Path(self.params.model)
        corpus = MaskedCorpus.open(self.documents, self.sequences, self.masks)
        self._settle()
        with masked_lm(folder, device=self.runtime.device, dtype=self.runtime.dtype) as lm:
            teacher_inputs = TeacherInputs.open(
                folder, lm, corpus, batch_tokens=self.runtime.batch_tokens, students_tokenizer=self.tokenizer
            )
            if model_digest(folder) != self.digest or corpus.masks.identity != self.masks_identity:
                raise StaleParent(f"{folder}, {self.masks}: not what the driver has there. Share one file system")
            yield LoadedTeacher(lm, teacher_inputs)

    def make(
        self, teacher: LoadedTeacher, shard: Shard, *, advance: Callable[[int], None]
    ) -> tuple[SparseLogits, dict[str, NDArray[Any]]]:
        """The teacher's rows of a shard."""
        import torch

        from pipeline.teach.extend import shard_fingerprint, sidecars

        self._settle()
        part = teacher.part(shard.split)
        with torch.inference_mode():
            record = predict_shard(
                teacher.lm,
                part,
                shard,
                self.params,
                teacher.shape(self),
                shares_CX=teacher.shares(self),
                advance=advance,
            )
        return record, sidecars(record, shard_fingerprint(part, shard.start, shard.stop))

    def _settle(self) -> None:
        """Called in every thread that computes: the number of compute threads is set for each."""
        settle(self.runtime.device, threads=self.runtime.threads)


class LoadedTeacher:
    """A loaded teacher and its inputs; the split and the tails' shape in use stay in memory."""

    def __init__(self, lm: MaskedLM, teacher_inputs: TeacherInputs) -> None:
        self.lm = lm
        self.teacher_inputs = teacher_inputs
        self._part: tuple[str, SplitInputs] | None = None
        self._shape: tuple[Path, TailShape] | None = None

    def part(self, split: str) -> SplitInputs:
        """The split, opened; only the last is kept."""
        if self._part is None or self._part[0] != split:
            self._part = None
            self._part = split, self.teacher_inputs.split(split)
        return self._part[1]

    def shape(self, job: TeachJob) -> TailShape:
        """The fitted shape of the tails, or that of the store that is extended."""
        source = job.kept or job.fitted
        if self._shape is None or self._shape[0] != source:
            self._shape = source, tail_shape(job, device=self.lm.device)
        return self._shape[1]

    def shares(self, job: TeachJob) -> NDArray[np.float64] | None:
        """Shares of words that are cut differently (`pipeline.teach.words`); None where there are none."""
        if self.teacher_inputs.words is None:
            return None
        if job.kept is not None:
            return np.array(Store(job.kept, SparseLogits).facts[WORD_SHARES])
        with np.load(job.fitted, allow_pickle=False) as held:
            return np.asarray(held[WORD_SHARES])


def fit(job: TeachJob, teacher: LoadedTeacher) -> dict[str, NDArray[Any]]:
    """Fit, before anything is stored, the calibration and the tails' shape; returns these and the model's size.

    The temperature needs true tokens: those of the calibration split. The shape needs only logits and gains from more
    rows: it is fitted to the train split. Raises TeacherRefused when the model is no better than guessing by
    frequency, DataError when it can answer too few positions of either split.
    """
    import torch

    from pipeline.sparse.tail_fit import fit_tail
    from pipeline.teach.calibration import calibrate, spread_logits

    params, name = job.params, Path(job.params.model).name
    with torch.inference_mode():
        answers = spread_logits(teacher.lm, teacher.part("calibration"), split="calibration", name=name)
        fitted = asdict(calibrate(answers, teacher.teacher_inputs, name=name))
        del answers  # as large as the next ones
        shares_CX = _fit_shares(teacher)
        shape = fit_tail(
            [
                logits
                for logits, _ in spread_logits(
                    teacher.lm, teacher.part("train"), split="train", name=name, shares_CX=shares_CX
                )
            ],
            keep=params.keep,
            temperatures=[1.0, *(round(fitted["temperature"] * listed, 6) for listed in params.temperatures)],
            tail=params.tail,
        )
        calibration = {f"calibration_{name}": np.array(value) for name, value in fitted.items()}
        words = {} if shares_CX is None else {WORD_SHARES: shares_CX}
        return {**shape.arrays(), **calibration, **words, "parameters": np.array(teacher.lm.parameters)}


def _fit_shares(teacher: LoadedTeacher) -> NDArray[np.float64] | None:
    """Shares of words that are cut differently, fitted to the calibration split; None where there are no such words."""
    from pipeline.teach.calibration import calibration_slices
    from pipeline.teach.words import Word, fit_shares

    words = teacher.teacher_inputs.words
    if words is None:
        return None
    part = teacher.part("calibration")

    def at_true_tokens(word: Word) -> tuple[int, NDArray[np.floating]]:
        q_NO, p_NO, u_O = (component.cpu().numpy() for component in words.components(word))
        gold_N = words.outcome_V[word.label_N]
        known_N, row_N = gold_N >= 0, np.arange(len(gold_N))
        p_NX = np.stack([q_NO[row_N, gold_N], p_NO[row_N, gold_N], u_O[gold_N]], axis=1)
        return word.kind, p_NX[known_N]

    slices = calibration_slices(part.rows, vocabulary=len(words.tokens))
    return fit_shares(
        found for start, stop in slices for found in part.map_words(teacher.lm, start, stop, at_true_tokens)
    )


def tail_shape(job: TeachJob, *, device: torch.device) -> TailShape:
    """The shape of the tails, from the store that is extended or from the arrays of `fit`."""
    from pipeline.sparse.tail import TailShape

    if job.kept is not None:
        return TailShape.of_store(Store(job.kept, SparseLogits), device=device)
    with np.load(job.fitted, allow_pickle=False) as held:
        return TailShape.from_arrays({field.name: held[field.name] for field in fields(TailShape)}, device=device)


def predict_shard(
    lm: MaskedLM,
    part: SplitInputs,
    shard: Shard,
    params: TeacherParams,
    shape: TailShape,
    *,
    shares_CX: NDArray[np.float64] | None,
    advance: Callable[[int], None],
) -> SparseLogits:
    """Predictions of the model `lm` at a shard's masked positions; calls `advance` with each batch's number of rows."""
    from pipeline.core.seeds import generator
    from pipeline.sparse.summary import record_of, summarise

    size, vocabulary = shard.stop - shard.start, len(part.inputs.tokens)
    record = SparseLogits.empty(
        size,
        most=params.keep.most,
        draws=params.keep.draws,
        temperatures=len(shape.temperatures),
        rank=params.tail_rank,
        vocabulary=vocabulary,
    )
    columns = record.arrays()
    # Drawn for the whole shard at once: a row's draws do not depend on how rows are batched.
    rng = generator(params.seed, "draws", shard.split, shard.index)
    uniform_PS = rng.random((size, params.keep.draws)) if params.keep.draws else None

    def summary_of(logits: torch.Tensor, gold: torch.Tensor, row: NDArray[Any]) -> Any:
        return summarise(
            logits,
            gold,
            keep=params.keep,
            temperatures=shape.temperatures,
            tail=shape,
            uniform_PS=None if uniform_PS is None else uniform_PS[row],
        )

    for summary, row in part.map_logits(lm, shard.start, shard.stop, summary_of, shares_CX=shares_CX):
        for name, values in record_of(summary, vocabulary=vocabulary).arrays().items():
            columns[name][row] = values
        advance(len(row))
    return record
