"""How much of a teacher's full softmax its sparse store keeps, and at what size.

Kept hidden states (`pipeline.teach.hidden_states`) give the full softmax of held-out predictions, on which nothing of
the store was fitted. The store gives the restored distributions, which a student is trained on. The two are compared
row by row, and by the gradient that each would give a student. At the output bias the gradient is q - p summed over a
batch, for a student q and a target p. The angle between the sums of q - restored and q - full shows how the direction
of a step changes, the ratio of their lengths how its size does. Errors that are independent between rows average out
over a batch and a bias does not, so the sums are over `BLOCK` predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.sparse.restore import Restored
from storage.errors import StaleParent
from storage.reader import Store
from storage.records.base import HELDOUT
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits

if TYPE_CHECKING:
    import torch
    from torch import Tensor


BLOCK = 1024
"""Predictions whose gradients are added up: a step of about 7,000 tokens."""

CHUNK_ELEMENTS = 2**24
"""Probabilities that are held at once, 64 MB in float32; about six such buffers exist at a time."""

Student = Callable[["Tensor", int, int], "Tensor"]
"""Given the full log-probabilities [C, V] of rows start to stop: a student's probabilities of the same ids, [C, V]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Full:
    """The full softmax of Q predictions, recomputed from kept hidden states; those with a prediction, in order."""

    store: Store[HiddenStates]
    row_Q: NDArray[np.int64]
    """Row of each in the record that is compared."""
    hidden_QH: Tensor
    """float16."""
    weight_HV: Tensor
    """float32."""
    bias_V: Tensor
    gold_Q: Tensor
    """int64."""

    @staticmethod
    def open(path: Path, *, device: torch.device) -> Full:
        """All rows with a prediction of the store at `path`."""
        import torch

        store = Store(path, HiddenStates)
        record = store.read(HELDOUT)
        row_Q = np.flatnonzero(record.covered_P())
        return Full(
            store=store,
            row_Q=row_Q,
            hidden_QH=torch.from_numpy(record.hidden_PH[row_Q]).to(device),
            weight_HV=torch.from_numpy(store.constant("head_weight_VH")).to(device).float().T,
            bias_V=torch.from_numpy(store.constant("head_bias_V")).to(device),
            gold_Q=torch.from_numpy(record.gold_id_P[row_Q].astype(np.int64)).to(device),
        )

    def take(self, which: NDArray[np.int64]) -> Full:
        """The predictions `which`, for a record of just these."""
        return replace(self, row_Q=np.arange(len(which)), hidden_QH=self.hidden_QH[which], gold_Q=self.gold_Q[which])

    def __len__(self) -> int:
        return len(self.row_Q)

    @property
    def vocabulary(self) -> int:
        """V."""
        return len(self.bias_V)

    def logits(self, start: int, stop: int) -> Tensor:
        """float32 [C, V] of rows start to stop."""
        return self.hidden_QH[start:stop].float() @ self.weight_HV + self.bias_V

    def chunks(self, rows: range) -> Iterator[tuple[int, int]]:
        """Bounds of chunks within `rows`."""
        size = max(1, CHUNK_ELEMENTS // self.vocabulary)
        for start in range(rows.start, rows.stop, size):
            yield start, min(start + size, rows.stop)


def near_student(seed: int) -> Student:
    """A student close to the teacher: its logits are the teacher's plus independent standard normal noise."""
    import torch

    def student(log_p_CV: Tensor, start: int, stop: int) -> Tensor:
        rng = torch.Generator(log_p_CV.device).manual_seed(seed + start)
        noise_CV = torch.randn(log_p_CV.shape, generator=rng, device=log_p_CV.device)
        return torch.softmax(log_p_CV + noise_CV, dim=1)

    return student


@dataclass(kw_only=True, slots=True)
class Sums:
    """Sums over rows, and of gradients over blocks."""

    rows: int = 0
    kl: list[float] = field(default_factory=list)
    """Per temperature, nats."""
    tv: float = 0.0
    mass: float = 0.0
    entries: float = 0.0
    angles: dict[str, list[float]] = field(default_factory=dict)
    """Degrees, by student, one a block."""
    lengths: dict[str, list[float]] = field(default_factory=dict)


def compare(full: Full, restored: Restored, students: dict[str, Student], *, rows: range | None = None) -> Sums:
    """Compare answered rows of `full` (all, or those in `rows`) with the same rows of the store, by blocks.

    `restored` holds the whole split. KL is of the full from the restored softmax; at temperature T both are taken at T.
    """
    import torch

    rows = range(len(full)) if rows is None else rows
    columns = range(len(restored.temperatures))
    if restored.record.drawn_ids_PS.shape[1]:
        columns = range(1, 2)  # drawn at the calibrated temperature: an estimate of that distribution alone
    sums = Sums(kl=[0.0 for _ in columns])
    for begin in range(rows.start, rows.stop, BLOCK):
        block = range(begin, min(begin + BLOCK, rows.stop))
        gradient = {
            name: [torch.zeros(full.vocabulary, device=full.gold_Q.device) for _ in range(2)] for name in students
        }
        for start, stop in full.chunks(block):
            row_C = full.row_Q[start:stop]
            logits_CV = full.logits(start, stop)
            for place, column in enumerate(columns):
                log_p_CV = torch.log_softmax(logits_CV / restored.temperatures[column], dim=1)
                # The store's ids go on where its teacher's end, with those that only students have.
                r_CV = restored.chunk(row_C, column)[:, : full.vocabulary]
                p_CV = log_p_CV.exp()
                sums.kl[place] += float((p_CV * (log_p_CV - r_CV.log())).sum())
                if place:
                    continue
                sums.tv += 0.5 * float((p_CV - r_CV).abs().sum())
                for name, student in students.items():
                    q_CV = student(log_p_CV, start, stop)
                    gradient[name][0] += (q_CV - p_CV).sum(dim=0)
                    gradient[name][1] += (q_CV - r_CV).sum(dim=0)
            sums.mass += float((1 - restored.record.tail_PJ[row_C, columns[0]]).sum())
            sums.entries += float(np.isfinite(restored.record.logprob_PK[row_C]).sum())
            sums.entries += float((restored.record.drawn_share_PS[row_C] > 0).sum())
            sums.rows += stop - start
        for name, (true_V, got_V) in gradient.items():
            cosine = float(torch.dot(true_V, got_V) / (true_V.norm() * got_V.norm()))
            sums.angles.setdefault(name, []).append(math.degrees(math.acos(max(-1.0, min(1.0, cosine)))))
            sums.lengths.setdefault(name, []).append(float(got_V.norm() / true_V.norm()))
    return sums


def fidelity(
    logits: Path, exact: Path, *, device: torch.device, students: dict[str, Student] | None = None
) -> dict[str, Any]:
    """The report of one store: size a position, by array, and closeness to the full softmax, with the gradient's.

    Raises StaleParent when `exact` was kept of another model or other masks.
    """
    store, full = Store(logits, SparseLogits), Full.open(exact, device=device)
    for name, mine, other in (
        ("masks", store.manifest.parents["masks"], full.store.manifest.parents["masks"]),
        ("model", store.manifest.inputs["model"], full.store.manifest.inputs["model"]),
    ):
        if mine != other:
            raise StaleParent(
                f"{exact}: kept with {name} {other[:12]}, but {logits} has {mine[:12]}. {full.store.remedy}"
            )
    record = store.read(HELDOUT)
    sums = compare(full, Restored.of(store, record, device=device), students or {"near": near_student(0)})
    return {"form": store.facts["keep"], "tail": store.manifest.inputs["tail"], **measures(sums), **size(store)}


def measures(sums: Sums) -> dict[str, Any]:
    """Means of `sums`; a gradient's angle in degrees. A divergence is null where it is infinite: ids were left out."""
    rows = max(1, sums.rows)
    return {
        "positions": sums.rows,
        "entries": sums.entries / rows,
        "mass": sums.mass / rows,
        "kl": [total / rows if math.isfinite(total) else None for total in sums.kl],
        "tv": sums.tv / rows,
        "gradient": {
            name: {
                "angle_degrees": float(np.mean(sums.angles[name])),
                "length_ratio": float(np.mean(sums.lengths[name])),
                "blocks": len(sums.angles[name]),
            }
            for name in sums.angles
        },
    }


def size(store: Store[Any]) -> dict[str, Any]:
    """Bytes of a store's shards a position, whole and by array, and of its constants, once."""
    rows = max(1, sum(plan.rows for plan in store.manifest.splits.values()))
    by_array: dict[str, float] = {}
    for shard in store.manifest.shards:
        for name, entry in shard.files.items():
            array = name.split("/")[1]
            by_array[array] = by_array.get(array, 0) + entry.bytes / rows
    constants = {
        name: sum(entry.bytes for file, entry in store.manifest.files.items() if file.startswith(f"constants/{name}/"))
        for name in {file.split("/")[1] for file in store.manifest.files if file.startswith("constants/")}
    }
    return {
        "bytes_per_position": sum(by_array.values()),
        "bytes_by_array": dict(sorted(by_array.items())),
        "constant_bytes": dict(sorted(constants.items())),
    }
