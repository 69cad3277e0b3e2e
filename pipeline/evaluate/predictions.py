"""Predictions of a teacher, a fusion or a student at held-out masked positions, each compared with the true token.

Predictions of teachers and fusions are read from their stores; students are run at the same positions. All are compared
in the students' vocabulary. `pipeline.evaluate.bootstrap` averages them by document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse.restore import Restored, RestoredTargets, listed_probability
from pipeline.text.inputs import TokenRows, model_inputs, no_id, reference_view, token_batches
from pipeline.text.ragged import runs
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.masked_lm import MaskedLM


CHUNK_ELEMENTS = 2**20
"""Entries of distributions over the vocabulary that are held at once: 4 MB in float32, which fits the cache."""

UNRANKED = np.iinfo(np.int64).max
"""Rank where there is no prediction: never within any list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """P predictions of one teacher, fusion or student against the true tokens."""

    nll_P: NDArray[np.float64]
    """Negative natural log-probability of the true token, nats; NaN without a prediction."""
    rank_P: NDArray[np.int64]
    """Tokens more likely than the true one; the length of the list or more where it is outside the list."""
    confidence_P: NDArray[np.float64]
    """Largest probability; NaN without a prediction."""
    top_P: NDArray[np.int64]
    """The token of largest probability, students' vocabulary; -1 without a counterpart there or a prediction."""
    covered_P: NDArray[np.bool_]
    """True where there is a prediction."""
    kl_P: NDArray[np.float64]
    """KL divergence from the reference distribution to the prediction, nats; NaN without one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The fused targets of a split that students are compared with."""

    rows: FusedTargets
    store: Store[FusedTargets]
    """The store of `rows`, with the constants that restore their tails."""
    temperature: float
    """Of the targets; the student's logits are divided by it in the divergence, and only there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTeacher:
    """A teacher's predictions of a split as its store holds them, and the map of its vocabulary."""

    restored: Restored
    """Its rows and the constants of their tails; temperatures are 1, then the fitted one times each listed one."""
    to_student_V: NDArray[np.int64]
    """Student's id of each of the teacher's; -1 where there is none."""

    @property
    def rows(self) -> SparseLogits:
        """What the store holds."""
        return self.restored.record


def teacher_predictions(teacher: StoredTeacher, label_P: NDArray[Any], *, column: int = 0) -> Predictions:
    """A teacher's predictions at one of its temperatures, by default 1, against the true tokens [P] of the mask store.

    Tokens that map to the same student's token count as that token; the probability of the true token is that of the
    spelling in the text.
    """
    rows = teacher.rows
    covered_P = rows.covered_P()
    ids_PK, p_PK = ranked_entries(teacher, column=column)
    student_PK = np.where(ids_PK < 0, -1, teacher.to_student_V[ids_PK])
    return Predictions(
        nll_P=-rows.gold_logprob_PJ[:, column].astype(np.float64),
        rank_P=_rank(student_PK, label_P.astype(np.int64), covered_P),
        confidence_P=np.where(covered_P, p_PK[:, 0], np.nan),
        top_P=student_PK[:, 0],
        covered_P=covered_P,
        kl_P=np.full(len(rows), np.nan),
    )


def ranked_entries(teacher: StoredTeacher, *, column: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A teacher's ids [P, K] and their probabilities at one of its temperatures, listed and drawn, most likely first.

    Tokens that are one student's token add up, under the id of the most likely of them. -1 and 0, last, where a row has
    fewer entries.
    """
    rows, temperature = teacher.rows, teacher.restored.temperatures[column]
    ids_PK = np.where(no_id(rows.ids_PK), -1, rows.ids_PK.astype(np.int64))
    p_PK = listed_probability(rows, column=column, temperature=temperature).astype(np.float64)
    if rows.drawn_ids_PS.shape[1]:
        drawn_PS = np.where(no_id(rows.drawn_ids_PS), -1, rows.drawn_ids_PS.astype(np.int64))
        ids_PK = np.concatenate([ids_PK, drawn_PS], axis=1)
        p_PK = np.concatenate([p_PK, rows.drawn_share_PS * rows.tail_PJ[:, column, None]], axis=1)
        ids_PK, p_PK = _ranked(ids_PK, p_PK)
    matched_V = teacher.to_student_V[teacher.to_student_V >= 0]
    if len(np.unique(matched_V)) < len(matched_V):
        ids_PK, p_PK = _ranked(*_add_equal_tokens(ids_PK, p_PK, teacher.to_student_V))
    return ids_PK, p_PK


def _ranked(ids_PK: NDArray[np.int64], p_PK: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    order_PK = np.argsort(-p_PK, axis=1, kind="stable")
    return np.take_along_axis(ids_PK, order_PK, axis=1), np.take_along_axis(p_PK, order_PK, axis=1)


def _add_equal_tokens(
    ids_PK: NDArray[np.int64], p_PK: NDArray[np.float64], to_student_V: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the first of the entries that are one student's token their sum, and the others no id and 0."""
    alone_V = np.arange(len(to_student_V)) + to_student_V.max() + 1  # keys of tokens without a counterpart
    key_PK = np.where(ids_PK < 0, -1, np.where(to_student_V >= 0, to_student_V, alone_V)[ids_PK])
    order_PK = np.argsort(key_PK, axis=1, kind="stable")
    key_PK, ids_PK, p_PK = (np.take_along_axis(values_PK, order_PK, axis=1) for values_PK in (key_PK, ids_PK, p_PK))
    for column in range(ids_PK.shape[1] - 1, 0, -1):
        equal_P = (key_PK[:, column] == key_PK[:, column - 1]) & (key_PK[:, column] >= 0)
        p_PK[:, column - 1] += p_PK[:, column] * equal_P
        p_PK[equal_P, column] = 0
        ids_PK[equal_P, column] = -1
    back_PK = np.argsort(order_PK, axis=1)
    return np.take_along_axis(ids_PK, back_PK, axis=1), np.take_along_axis(p_PK, back_PK, axis=1)


def fusion_predictions(rows: FusedTargets, label_P: NDArray[Any]) -> Predictions:
    """Fused targets, at the temperature they were fused at, against the true tokens [P] of the mask store."""
    covered_P = rows.covered_P()
    ids_PM = np.where(no_id(rows.ids_PM), -1, rows.ids_PM.astype(np.int64))
    return Predictions(
        nll_P=-rows.gold_logprob_P.astype(np.float64),
        rank_P=_rank(ids_PM, label_P.astype(np.int64), covered_P),
        confidence_P=np.exp(rows.logprob_PM[:, 0].astype(np.float64)),
        top_P=ids_PM[:, 0],
        covered_P=covered_P,
        kl_P=np.full(len(rows), np.nan),
    )


def student_predictions(
    lm: MaskedLM,
    sequences: Sequences,
    masks: Masks,
    *,
    special: dict[str, int],
    batch_tokens: int,
    reference: Reference | None = None,
    see: Callable[[Tensor, NDArray[np.int64]], None] = lambda logits_QV, row_Q: None,
) -> Predictions:
    """Run a student at all masked positions of a split; with a reference, also KL(reference || student) at each.

    `see` is shown the logits [Q, V] of some positions at a time, with their rows [Q] of the mask store.
    """
    import torch

    from pipeline.core.progress import Progress

    size = len(masks)
    predictions = Predictions(
        nll_P=np.full(size, np.nan),
        rank_P=np.full(size, UNRANKED),
        confidence_P=np.full(size, np.nan),
        top_P=np.full(size, -1, np.int64),
        covered_P=np.ones(size, bool),
        kl_P=np.full(size, np.nan),
    )
    with torch.inference_mode(), Progress(size, unit="predictions", label="evaluate") as progress:
        restored = None
        if reference is not None:
            restored = RestoredTargets.of(reference.store, reference.rows, device=lm.device)
        for logits_QV, row_Q in masked_logits(lm, sequences, masks, special=special, batch_tokens=batch_tokens):
            see(logits_QV, row_Q)
            (label_Q,) = lm.tensors(masks.label_P[row_Q].astype(np.int64))
            gold_Q1 = logits_QV.gather(1, label_Q[:, None])
            lse_Q = logits_QV.logsumexp(dim=1)
            top = logits_QV.max(dim=1)
            predictions.nll_P[row_Q] = (lse_Q - gold_Q1[:, 0]).cpu().numpy()
            predictions.confidence_P[row_Q] = (top.values - lse_Q).exp().cpu().numpy()
            predictions.rank_P[row_Q] = (logits_QV > gold_Q1).count_nonzero(dim=1).cpu().numpy()
            predictions.top_P[row_Q] = top.indices.cpu().numpy()
            if reference is not None and restored is not None:
                kl_Q = _divergence_from(restored.chunk(row_Q), logits_QV / reference.temperature)
                predictions.kl_P[row_Q] = kl_Q.double().cpu().numpy()
            progress.advance(len(row_Q))
    assert bool((predictions.top_P >= 0).all()), "a masked position has no prediction"
    if reference is not None:
        predictions.kl_P[~reference.rows.covered_P()] = np.nan
    return predictions


def heldout_nll(
    lm: MaskedLM, sequences: Sequences | TokenRows, masks: Masks, *, batch_tokens: int, special: dict[str, int]
) -> NDArray[np.float64]:
    """Negative log-probability [P] of the true token at every masked position, nats: `student_predictions().nll_P`."""
    import torch

    nll_P = np.full(len(masks), np.nan)
    with torch.inference_mode():
        for logits_QV, row_Q in masked_logits(lm, sequences, masks, special=special, batch_tokens=batch_tokens):
            (label_Q,) = lm.tensors(masks.label_P[row_Q].astype(np.int64))
            nll_Q = torch.nn.functional.cross_entropy(logits_QV, label_Q, reduction="none")
            nll_P[row_Q] = nll_Q.double().cpu().numpy()
    return nll_P


def masked_logits(
    lm: MaskedLM, sequences: Sequences | TokenRows, masks: Masks, *, special: dict[str, int], batch_tokens: int
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Logits [Q, V] in float32 and rows of the mask store [Q], at most `CHUNK_ELEMENTS` logits at a time.

    The caller switches gradients off. Examples come longest first, every masked position once.
    """
    view = reference_view(sequences, masks, special=special)
    for batch in token_batches(view.lengths_G(), batch_tokens):
        inputs = model_inputs(view, batch)
        logits_QV = lm.logits(*lm.tensors(inputs.input_ids_BL, inputs.attention_BL, inputs.row_Q, inputs.column_Q))
        size = max(1, CHUNK_ELEMENTS // logits_QV.shape[1])
        for start in range(0, len(inputs.prediction_Q), size):
            stop = start + size
            yield logits_QV[start:stop].float(), inputs.prediction_Q[start:stop]


def restored_teacher_nll(teacher: StoredTeacher, label_P: NDArray[Any], *, column: int) -> NDArray[np.float64] | None:
    """NLL [P] of the true tokens under the softmaxes restored from a teacher's store at `column`, nats.

    NaN without a prediction. A student learns from the restored distribution; `Predictions.nll_P` is of the full
    softmax. Tokens of the teacher that map to the true one add up. None where ids were drawn: an id that was not drawn
    has probability 0, and only the mean over draws estimates the full softmax.
    """
    if teacher.rows.drawn_ids_PS.shape[1]:
        return None
    size = int(max(teacher.to_student_V.max(initial=-1), label_P.max(initial=0))) + 1
    own_PW = _ids_of(teacher.to_student_V, size)[label_P.astype(np.int64)]

    def gold_Q(row_Q: NDArray[np.int64]) -> NDArray[np.float64]:
        restored_QV = teacher.restored.chunk(row_Q, column).cpu().numpy()
        own_QW = own_PW[row_Q]
        p_QW = np.take_along_axis(restored_QV, np.maximum(own_QW, 0), axis=1).astype(np.float64)
        return np.asarray(np.where(own_QW < 0, 0, p_QW).sum(axis=1))

    return _chunked_nll(gold_Q, teacher.rows.covered_P(), vocabulary=len(teacher.to_student_V))


def restored_fusion_nll(restored: RestoredTargets, label_P: NDArray[Any]) -> NDArray[np.float64] | None:
    """NLL [P] of the true tokens under the restored targets that a student learns from, nats; NaN without a target.

    None where some true token has probability 0, which happens where its teachers drew ids.
    """

    def gold_Q(row_Q: NDArray[np.int64]) -> NDArray[np.float64]:
        dense_QV = restored.chunk(row_Q).cpu().numpy()
        return dense_QV[np.arange(len(row_Q)), label_P[row_Q].astype(np.int64)].astype(np.float64)

    nll_P = _chunked_nll(gold_Q, restored.record.covered_P(), vocabulary=restored.tails.bias_TV.shape[1])
    return None if np.isinf(nll_P).any() else nll_P


def _chunked_nll(
    gold_Q: Callable[[NDArray[np.int64]], NDArray[np.float64]], covered_P: NDArray[np.bool_], *, vocabulary: int
) -> NDArray[np.float64]:
    """-log `gold_Q` of the covered rows [P], `CHUNK_ELEMENTS` entries at a time; NaN elsewhere, infinite for 0."""
    nll_P = np.full(len(covered_P), np.nan)
    answered = np.flatnonzero(covered_P)
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    for start in range(0, len(answered), step):
        p_Q = gold_Q(answered[start : start + step])
        nll_P[answered[start : start + step]] = -np.log(p_Q, out=np.full(len(p_Q), -np.inf), where=p_Q > 0)
    return nll_P


def kl_to_teacher(fused: FusedTargets, teacher: StoredTeacher, *, column: int) -> NDArray[np.float64]:
    """KL(fused || teacher) of each prediction over the M + 1 outcomes of the fused list, nats; NaN without both.

    The outcomes are the M tokens that the fused target keeps, and "any other". The teacher is taken at the temperature
    of `column` and restored: a token on its list has its stored probability, any other its share of the tail. Tokens
    that map to one student's token add up; tokens without a counterpart belong to "any other".
    Merging outcomes can only lower a divergence (data processing inequality), so this is a lower bound of the one over
    the whole vocabulary; it is 0 for a teacher fused alone, without `debias`.
    """
    answered = np.flatnonzero(fused.covered_P() & teacher.rows.covered_P())
    size = int(max(teacher.to_student_V.max(initial=-1), _index(fused.ids_PM).max(initial=0))) + 1
    ids_SW = _ids_of(teacher.to_student_V, size)
    kl_P = np.full(len(fused), np.nan)
    step = max(1, CHUNK_ELEMENTS // len(teacher.to_student_V))
    for start in range(0, len(answered), step):
        row_Q = answered[start : start + step]
        teacher_QV = teacher.restored.chunk(row_Q, column).cpu().numpy()
        none_QM = no_id(fused.ids_PM[row_Q])
        ids_QM = np.where(none_QM, 0, _index(fused.ids_PM[row_Q]))
        fused_QM = np.where(none_QM, 0, np.exp(np.nan_to_num(fused.logprob_PM[row_Q]).astype(np.float64)))
        own_QMW = ids_SW[ids_QM]
        own_QMW[none_QM] = -1
        p_QMW = np.take_along_axis(teacher_QV[:, :, None], np.maximum(own_QMW, 0), axis=1)
        teacher_QM = np.where(own_QMW < 0, 0, p_QMW).sum(axis=2, dtype=np.float64)
        other_Q1 = fused.tail_PT[row_Q].sum(axis=1, keepdims=True, dtype=np.float64)
        fused_QO = np.append(fused_QM, other_Q1, axis=1)  # O = M + 1 outcomes
        teacher_QO = np.append(teacher_QM, 1 - teacher_QM.sum(axis=1, keepdims=True), axis=1)
        fused_QO /= fused_QO.sum(axis=1, keepdims=True)  # stored values do not add up to exactly 1
        kl_P[row_Q] = _divergence(fused_QO, teacher_QO).sum(axis=1)
    return kl_P


def _ids_of(to_student_V: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """A teacher's ids of each of `size` student ids, [size, W]; -1 where one has fewer."""
    known = np.flatnonzero(to_student_V >= 0)
    known = known[np.argsort(to_student_V[known], kind="stable")]
    count_S = np.bincount(to_student_V[known], minlength=size)
    ids_SW = np.full((size, count_S.max(initial=1)), -1, np.int64)
    ids_SW[runs(count_S)] = known
    return ids_SW


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The terms p * log(p / q); 0 where p is 0. Probabilities under 1e-12 count as 1e-12."""
    return np.asarray(p * (np.log(np.maximum(p, 1e-12)) - np.log(np.maximum(q, 1e-12))))


def _divergence_from(p_QV: Tensor, logits_QV: Tensor) -> Tensor:
    """KL(p / sum(p) || softmax(logits)) by row, [Q].

    Rows of p are rescaled, as their float32 sums over a vocabulary differ from 1. Written with sums over p, since
    reading [Q, V] arrays is most of the cost of evaluating a student.
    """
    import torch

    sum_Q = p_QV.sum(dim=1)
    log_p_QV = p_QV.clamp_min(torch.finfo(torch.float32).tiny).log_()
    inside_Q = torch.linalg.vecdot(p_QV, log_p_QV) - torch.linalg.vecdot(p_QV, logits_QV)
    kl_Q: Tensor = inside_Q / sum_Q - sum_Q.log() + logits_QV.logsumexp(dim=1)
    return kl_Q


def _index(ids: NDArray[Any]) -> NDArray[np.int64]:
    """Ids for indexing: the sentinel becomes 0."""
    return np.where(no_id(ids), 0, ids).astype(np.int64)


def _rank(ids_PK: NDArray[np.int64], gold_P: NDArray[np.int64], covered_P: NDArray[np.bool_]) -> NDArray[np.int64]:
    hit_PK = ids_PK == gold_P[:, None]
    rank_P = np.where(hit_PK.any(axis=1), hit_PK.argmax(axis=1), ids_PK.shape[1])
    return np.where(covered_P, rank_P, UNRANKED).astype(np.int64)
