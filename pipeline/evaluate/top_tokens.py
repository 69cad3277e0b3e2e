"""The most likely tokens of a teacher, a fusion or a student at a part of the held-out masked positions, to look at.

The same positions for all that are evaluated on one mask store: whole windows, drawn once, so that every masked
position of a shown text has its predictions. The page of results puts them side by side (`pipeline.report.html`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc

from pipeline.core.seeds import generator
from pipeline.evaluate.heldout import Heldout
from pipeline.evaluate.predictions import StoredTeacher, ranked_entries
from pipeline.text.inputs import no_id
from pipeline.text.vocabulary import BRACKETED, START
from storage.atomic import beside
from storage.errors import SchemaMismatch
from storage.records.sequences import Masks
from storage.records.targets import FusedTargets

if TYPE_CHECKING:
    from torch import Tensor

SHOWN_POSITIONS = 3000
"""Masked positions shown at most, all copies together: with 25 models about 3 MB of a page."""

SHOWN_TOKENS = 5
"""Tokens shown of each prediction."""

DECIMALS = 4
"""Of a shown probability."""

SUFFIX = ".top.arrow"

Tops = list[list[tuple[str, float]]]
"""For each position the most likely tokens, as `spelled`, and their probabilities; empty without a prediction."""


@dataclass(frozen=True, kw_only=True)
class TopTokens:
    """What one teacher, fusion or student predicts at Q shown positions."""

    masks: str
    """Identity of the mask store."""
    position_Q: NDArray[np.int64]
    """Rows of the held-out mask store, rising."""
    truth_Q: NDArray[np.float64]
    """Probability of the true token; NaN without a prediction."""
    top_Q: Tops
    weights: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Of a fusion: each teacher's weight [Q]."""


def spelled(token: str) -> str:
    """A token for people: "dog" begins a word, "##s" continues one."""
    if token.startswith(START):
        return token.removeprefix(START) or START
    return token if BRACKETED.fullmatch(token) else f"##{token}"


def shown_positions(masks: Masks, *, most: int = SHOWN_POSITIONS) -> NDArray[np.int64]:
    """Rows [Q] of a split's mask store, rising: all of windows that are drawn until there are `most`.

    A window with more positions than are left is passed over, so short ones are a little likelier; the first drawn is
    taken whatever its size.
    """
    window_W, count_W = np.unique(masks.sequence_P, return_counts=True)
    taken: list[int] = []
    left = most
    for number in generator(0, "shown positions").permutation(len(window_W)).tolist():
        if count_W[number] <= left or not taken:
            taken.append(int(window_W[number]))
            left -= int(count_W[number])
        if left <= 0:
            break
    return np.flatnonzero(np.isin(masks.sequence_P, taken)).astype(np.int64)


def tops_of(ids_QK: NDArray[Any], probability_QK: NDArray[Any], names: Sequence[str]) -> Tops:
    """The first `SHOWN_TOKENS` entries of lists that begin with the most likely; a sentinel or -1 ends a list."""
    first_QK = ids_QK[:, :SHOWN_TOKENS]
    known_QK = ~no_id(first_QK) & (first_QK >= 0)
    rows = zip(first_QK.tolist(), probability_QK[:, :SHOWN_TOKENS].tolist(), known_QK, strict=True)
    return [
        [(names[token], float(p)) for token, p, known in zip(tokens, ps, row_known, strict=True) if known]
        for tokens, ps, row_known in rows
    ]


def teacher_tops(heldout: Heldout, teacher: StoredTeacher, tokens: list[str], *, column: int) -> TopTokens:
    """A teacher at one of its temperatures; `tokens` are its own vocabulary.

    A token that has a counterpart in the students' vocabulary is spelled as there, so that teachers can be compared.
    """
    position_Q, own = shown_positions(heldout.masked), heldout.tokens
    names = [
        spelled(own[student] if student >= 0 else token)
        for token, student in zip(tokens, teacher.to_student_V.tolist(), strict=True)
    ]
    ids_PK, p_PK = ranked_entries(teacher, column=column)
    return TopTokens(
        masks=heldout.masks.identity,
        position_Q=position_Q,
        truth_Q=np.exp(teacher.rows.gold_logprob_PJ[position_Q, column].astype(np.float64)),
        top_Q=tops_of(ids_PK[position_Q], p_PK[position_Q], names),
    )


def fusion_tops(heldout: Heldout, rows: FusedTargets, *, teachers: Sequence[str]) -> TopTokens:
    """Fused targets with the weights of their teachers."""
    position_Q = shown_positions(heldout.masked)
    weight_QT = rows.weight_PT[position_Q].astype(np.float64)
    p_QM = np.exp(rows.logprob_PM[position_Q].astype(np.float64))
    return TopTokens(
        masks=heldout.masks.identity,
        position_Q=position_Q,
        truth_Q=np.exp(rows.gold_logprob_P[position_Q].astype(np.float64)),
        top_Q=tops_of(rows.ids_PM[position_Q], p_QM, list(map(spelled, heldout.tokens))),
        weights=dict(zip(teachers, weight_QT.T, strict=True)),
    )


class StudentTops:
    """Collects a student's most likely tokens while `pipeline.evaluate.predictions.student_predictions` runs it."""

    def __init__(self, heldout: Heldout) -> None:
        self._heldout = heldout
        self._names = list(map(spelled, heldout.tokens))
        self._position_Q = shown_positions(heldout.masked)
        self._truth_Q = np.full(len(self._position_Q), np.nan)
        self._top_Q: Tops = [[] for _ in self._position_Q]

    def add(self, logits_RV: Tensor, row_R: NDArray[np.int64]) -> None:
        """Take what is shown of logits at some rows of the held-out mask store."""
        place_R = np.searchsorted(self._position_Q, row_R)
        inside_R = np.flatnonzero(self._position_Q[np.minimum(place_R, len(self._position_Q) - 1)] == row_R)
        if not len(inside_R):
            return
        place_R = place_R[inside_R]
        (p_RV,) = (logits_RV[inside_R.tolist()].softmax(dim=1).cpu(),)
        label_R = self._heldout.masked.label_P[row_R[inside_R]].astype(np.int64)
        top = p_RV.topk(min(SHOWN_TOKENS, p_RV.shape[1]), dim=1)
        self._truth_Q[place_R] = p_RV.numpy()[np.arange(len(label_R)), label_R]
        tops = tops_of(top.indices.numpy(), top.values.numpy(), self._names)
        for place, found in zip(place_R.tolist(), tops, strict=True):
            self._top_Q[place] = found

    def found(self) -> TopTokens:
        """All that was taken."""
        return TopTokens(
            masks=self._heldout.masks.identity,
            position_Q=self._position_Q,
            truth_Q=self._truth_Q,
            top_Q=self._top_Q,
        )


def write_top_tokens(path: Path, found: TopTokens) -> None:
    """Write as an Arrow file: position, truth, tokens, probabilities and, of a fusion, weight_<teacher>."""
    columns: dict[str, Any] = {
        "position": found.position_Q.astype(np.uint32),
        "truth": _short(found.truth_Q),
        "tokens": pa.array([[token for token, _ in top] for top in found.top_Q], pa.list_(pa.string())),
        "probabilities": pa.array(
            [_short(np.array([p for _, p in top])) for top in found.top_Q], pa.list_(pa.float32())
        ),
        **{f"weight_{teacher}": _short(weight_Q) for teacher, weight_Q in found.weights.items()},
    }
    table = pa.table(columns).replace_schema_metadata({"masks": found.masks})
    with beside(path) as partial:
        with ipc.new_file(str(partial), table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as sink:
            sink.write_table(table)


def read_top_tokens(path: Path, *, remedy: str) -> TopTokens | None:
    """Read what `write_top_tokens` wrote; None where there is no file, as beside evaluations of older versions.

    Raises SchemaMismatch, with the command that makes the file, for another file.
    """
    if not path.is_file():
        return None
    try:
        table = ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        pairs = zip(table["tokens"].to_pylist(), table["probabilities"].to_pylist(), strict=True)
        return TopTokens(
            masks=table.schema.metadata[b"masks"].decode(),
            position_Q=table["position"].to_numpy().astype(np.int64),
            truth_Q=table["truth"].to_numpy().astype(np.float64),
            top_Q=[list(zip(tokens, ps, strict=True)) for tokens, ps in pairs],
            weights={
                name.removeprefix("weight_"): table[name].to_numpy().astype(np.float64)
                for name in table.column_names
                if name.startswith("weight_")
            },
        )
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise SchemaMismatch(f"{path}: no top tokens of an evaluation: {error!r}. Run: {remedy}") from error


def _short(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.round(values.astype(np.float64), DECIMALS).astype(np.float32)
