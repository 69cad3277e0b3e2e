"""Closeness of a store to the exact softmax, against dense float64 sums over rows, blocks and students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.evaluate import fidelity as module
from pipeline.evaluate.fidelity import (
    Full,
    Student,
    compare,
    fidelity,
    measures,
    near_student,
    size,
)
from pipeline.sparse.restore import Restored
from storage.errors import StaleParent
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.hidden_states import HiddenStates
from storage.records.logits import SparseLogits
from storage.work import Workspace
from storage.writer import StoreWriter
from tests.helpers.distributions import TailOf, cooled, softmax, sparse_logits
from tests.helpers.reference import restore_teacher

CPU = torch.device("cpu")
ROWS, WIDTH, VOCABULARY, KEPT = 90, 12, 50, 70
TEMPERATURES = [1.0, 1.25, 2.5]
MASKS, MODEL = "a" * 64, "b" * 64


class Teacher:
    """Hidden states and an output layer; every seventh prediction has no answer."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.hidden_PH = rng.normal(0, 1.2, (ROWS, WIDTH)).astype(np.float16)
        self.weight_VH = rng.normal(0, 0.7, (VOCABULARY, WIDTH)).astype(np.float16)
        self.bias_V = rng.normal(0, 1, VOCABULARY).astype(np.float32)
        self.covered_P = np.arange(ROWS) % 7 != 2
        self.gold_P = rng.integers(0, VOCABULARY, ROWS)
        logits_PV = self.hidden_PH.astype(np.float64) @ self.weight_VH.astype(np.float64).T + self.bias_V
        self.dense_PV = softmax(logits_PV)

    def write_exact(self, out: Path, *, masks: str = MASKS, model: str = MODEL) -> Path:
        """The first KEPT rows."""
        hidden_PH = np.where(self.covered_P[:KEPT, None], self.hidden_PH[:KEPT], np.float16(np.nan))
        writer = StoreWriter(
            out, HiddenStates, specs=HiddenStates.specs(width=WIDTH, vocabulary=VOCABULARY),
            splits={"heldout": SplitPlan(rows=KEPT, shard_rows=KEPT)}, inputs={"positions": KEPT, "model": model},
            parents={"masks": masks}, workspace=Workspace(out.parent / ".work"),
        )  # fmt: skip
        with writer:
            for shard in writer.missing():
                gold_P = np.where(self.covered_P[:KEPT], self.gold_P[:KEPT], 65535).astype(np.uint16)
                writer.write(shard, HiddenStates(hidden_PH=hidden_PH, gold_id_P=gold_P))
            writer.seal(
                facts={"vocabulary": VOCABULARY},
                constants={"head_weight_VH": self.weight_VH, "head_bias_V": self.bias_V},
            )
        return out

    def tail(self, *, keep: int, tail_rank: int) -> TailOf:
        if tail_rank:
            return TailOf.low_rank(self.dense_PV, rank=tail_rank, step=0.3, temperatures=TEMPERATURES)
        return TailOf.plain(self.dense_PV, keep=keep, temperatures=TEMPERATURES)

    def write_logits(self, out: Path, *, keep: int = 6, tail_rank: int = 0, draws: int = 0) -> Path:
        tail = self.tail(keep=keep, tail_rank=tail_rank)
        constants = tail.constants(np.argsort(-self.dense_PV.mean(axis=0), kind="stable").astype(np.uint32))
        record = sparse_logits(
            self.dense_PV, self.gold_P, keep=keep, tail=tail, covered_P=self.covered_P, draws=draws, seed=1
        )
        writer = StoreWriter(
            out, SparseLogits,
            specs=SparseLogits.specs(
                most=keep, draws=draws, temperatures=len(TEMPERATURES), rank=tail_rank, vocabulary=VOCABULARY
            ),
            splits={"heldout": SplitPlan(rows=ROWS, shard_rows=64)},
            inputs={"model": MODEL, "tail": {"sketch": tail_rank, "step": 0.3}}, parents={"masks": MASKS},
            constants={"order_V": constants.pop("order_V")}, workspace=Workspace(out.parent / ".work"),
        )  # fmt: skip
        with writer:
            for shard in writer.missing():
                part = {name: values[shard.start : shard.stop] for name, values in record.arrays().items()}
                writer.write(shard, SparseLogits(**part))
            writer.seal(
                facts={"temperatures": TEMPERATURES, "keep": {"form": "made", "k": keep}, "vocabulary": VOCABULARY},
                constants=constants,
            )
        return out


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher()


@pytest.fixture(scope="module")
def exact(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher.write_exact(tmp_path_factory.mktemp("exact") / "exact" / "fox")


def flat_student(log_p_CV: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return torch.full_like(log_p_CV, 1 / VOCABULARY)


def hot_student(log_p_CV: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Depends on the row's number, so that a chunk that were given the wrong ones would show."""
    heat = 1 + torch.arange(start, stop)[:, None] / 50
    return torch.softmax(log_p_CV * heat, dim=1)


STUDENTS: dict[str, Student] = {"flat": flat_student, "hot": hot_student}


def in_memory(teacher: Teacher, **form: int) -> Restored:
    keep, tail_rank = form.get("keep", 6), form.get("tail_rank", 0)
    tail = teacher.tail(keep=keep, tail_rank=tail_rank)
    record = sparse_logits(
        teacher.dense_PV, teacher.gold_P, keep=keep, tail=tail, covered_P=teacher.covered_P,
        draws=form.get("draws", 0), seed=1,
    )  # fmt: skip
    return Restored(
        record=record, temperatures=tuple(TEMPERATURES), bias_JV=torch.from_numpy(tail.bias_JV),
        basis_DV=torch.from_numpy(tail.basis_DV).float() if tail_rank else None,
    )  # fmt: skip


def dense_of(restored: Restored, column: int) -> np.ndarray:
    return restore_teacher(
        restored.record,
        bias_JV=restored.bias_JV.numpy(),
        basis_DV=None if restored.basis_DV is None else restored.basis_DV.numpy(),
        column=column,
        temperature=TEMPERATURES[column],
    )


def reference(teacher: Teacher, restored: Restored, rows: list[int], *, column: int, block: int) -> dict[str, Any]:
    """The measures of one column of these rows, from their definitions."""
    p_PV, r_PV = cooled(teacher.dense_PV, TEMPERATURES[column])[rows], dense_of(restored, column)[rows]
    with np.errstate(divide="ignore"):
        kl = (p_PV * (np.log(p_PV) - np.log(r_PV))).sum(axis=1).mean()
    gradients: dict[str, list[tuple[float, float]]] = {"flat": [], "hot": []}
    for begin in range(0, len(rows), block):
        part = slice(begin, begin + block)
        numbers = np.arange(len(rows))[part]
        hot = softmax(np.log(p_PV[part]) * (1 + numbers[:, None] / 50))
        for name, q_PV in (("flat", np.full_like(p_PV[part], 1 / VOCABULARY)), ("hot", hot)):
            true_V, got_V = (q_PV - p_PV[part]).sum(axis=0), (q_PV - r_PV[part]).sum(axis=0)
            lengths = np.linalg.norm(true_V), np.linalg.norm(got_V)
            cosine = true_V @ got_V / (lengths[0] * lengths[1])
            gradients[name].append((float(np.degrees(np.arccos(cosine))), float(lengths[1] / lengths[0])))
    mean = {name: np.mean(values, axis=0) for name, values in gradients.items()}
    return {
        "kl": kl,
        "tv": 0.5 * np.abs(p_PV - r_PV).sum(axis=1).mean(),
        "mass": (1 - restored.record.tail_PJ[rows, column]).mean(),
        "angle": {name: values[0] for name, values in mean.items()},
        "length": {name: values[1] for name, values in mean.items()},
    }


def answered(teacher: Teacher) -> list[int]:
    return np.flatnonzero(teacher.covered_P[:KEPT]).tolist()


def test_the_full_softmax_is_computed_again(teacher: Teacher, exact: Path) -> None:
    full = Full.open(exact, device=CPU)
    rows = answered(teacher)
    assert full.row_Q.tolist() == rows
    assert (len(full), full.vocabulary) == (len(rows), VOCABULARY)
    assert full.gold_Q.tolist() == teacher.gold_P[rows].tolist()
    found = torch.softmax(full.logits(3, 20), dim=1)
    np.testing.assert_allclose(found.numpy(), teacher.dense_PV[rows[3:20]], rtol=1e-4, atol=1e-9)
    some = full.take(np.array([8, 2]))
    np.testing.assert_array_equal(some.row_Q, [0, 1])
    np.testing.assert_allclose(
        torch.softmax(some.logits(0, 2), dim=1).numpy(), teacher.dense_PV[[rows[8], rows[2]]], rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("form", [{}, {"tail_rank": 4}])
def test_what_is_measured_is_what_dense_rows_say(teacher: Teacher, exact: Path, form: dict[str, int]) -> None:
    full, restored = Full.open(exact, device=CPU), in_memory(teacher, **form)
    found = measures(compare(full, restored, STUDENTS))
    rows = answered(teacher)
    assert found["positions"] == len(rows)
    assert found["entries"] == 6
    assert len(found["kl"]) == 3
    for column in range(3):
        expected = reference(teacher, restored, rows, column=column, block=1024)
        assert found["kl"][column] == pytest.approx(expected["kl"], rel=1e-4, abs=1e-6)
    expected = reference(teacher, restored, rows, column=0, block=1024)
    assert found["tv"] == pytest.approx(expected["tv"], rel=1e-4)
    assert found["mass"] == pytest.approx(expected["mass"], rel=1e-5)
    for name in STUDENTS:
        assert found["gradient"][name]["blocks"] == 1
        assert found["gradient"][name]["angle_degrees"] == pytest.approx(expected["angle"][name], abs=0.05)
        assert found["gradient"][name]["length_ratio"] == pytest.approx(expected["length"][name], rel=1e-4)


def test_gradients_are_added_up_over_blocks(teacher: Teacher, exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks within a block change nothing; more blocks are more, wider angles."""
    full, restored = Full.open(exact, device=CPU), in_memory(teacher)
    whole = measures(compare(full, restored, STUDENTS))
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 7 * VOCABULARY)
    cut = measures(compare(full, restored, STUDENTS))
    assert cut["kl"] == pytest.approx(whole["kl"], rel=1e-5)
    assert cut["gradient"]["hot"]["length_ratio"] == pytest.approx(whole["gradient"]["hot"]["length_ratio"], rel=1e-5)
    monkeypatch.setattr(module, "BLOCK", 16)
    blocks = measures(compare(full, restored, STUDENTS))
    assert blocks["kl"] == pytest.approx(whole["kl"], rel=1e-5)
    expected = reference(teacher, restored, answered(teacher), column=0, block=16)
    for name in STUDENTS:
        assert blocks["gradient"][name]["blocks"] == 4
        assert blocks["gradient"][name]["angle_degrees"] == pytest.approx(expected["angle"][name], abs=0.05)
        assert blocks["gradient"][name]["length_ratio"] == pytest.approx(expected["length"][name], rel=1e-4)
    assert blocks["gradient"]["flat"]["angle_degrees"] > whole["gradient"]["flat"]["angle_degrees"]


def test_some_rows_can_be_compared(teacher: Teacher, exact: Path) -> None:
    full, restored = Full.open(exact, device=CPU), in_memory(teacher)
    sums = compare(full, restored, {}, rows=range(5, 25))
    expected = reference(teacher, restored, answered(teacher)[5:25], column=0, block=1024)
    assert sums.rows == 20
    assert measures(sums)["kl"][0] == pytest.approx(expected["kl"], rel=1e-4)
    assert measures(sums)["gradient"] == {}
    nothing = compare(full, restored, STUDENTS, rows=range(0))
    assert nothing.rows == 0 and measures(nothing)["kl"] == [0, 0, 0]


@pytest.mark.parametrize("keep", [0, 4])
def test_drawn_forms_are_compared_at_the_temperature_they_stand_for(teacher: Teacher, exact: Path, keep: int) -> None:
    full, restored = Full.open(exact, device=CPU), in_memory(teacher, keep=keep, draws=9)
    found = measures(compare(full, restored, STUDENTS))
    expected = reference(teacher, restored, answered(teacher), column=1, block=1024)
    assert found["kl"] == [None]  # ids without any probability
    json.dumps(found, allow_nan=False)
    assert found["tv"] == pytest.approx(expected["tv"], rel=1e-4)
    assert found["mass"] == pytest.approx(expected["mass"], abs=1e-6)
    shares = restored.record.drawn_share_PS[answered(teacher)]
    assert found["entries"] == pytest.approx(keep + (shares > 0).sum(axis=1).mean())
    assert found["gradient"]["flat"]["angle_degrees"] == pytest.approx(expected["angle"]["flat"], abs=0.05)


def test_a_store_without_loss_has_no_angle(teacher: Teacher, exact: Path) -> None:
    found = measures(compare(Full.open(exact, device=CPU), in_memory(teacher, keep=VOCABULARY), STUDENTS))
    assert found["kl"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert found["tv"] < 1e-6
    assert found["gradient"]["flat"]["angle_degrees"] < 0.1
    assert found["gradient"]["flat"]["length_ratio"] == pytest.approx(1, abs=1e-5)


def test_the_near_student_is_the_same_in_every_run() -> None:
    log_p_CV = torch.log_softmax(torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(0)), dim=1)
    one, again, other = (near_student(seed)(log_p_CV, 10, 50) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.testing.assert_close(one.sum(dim=1), torch.ones(40))
    noise_CV = one.log() - log_p_CV
    noise_CV = noise_CV - noise_CV.mean(dim=1, keepdim=True)
    assert float(noise_CV.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("form", [{}, {"tail_rank": 4}, {"draws": 8}])
def test_the_report_is_of_what_the_store_gives_back(
    teacher: Teacher, exact: Path, tmp_path: Path, form: dict[str, int]
) -> None:
    logits = teacher.write_logits(tmp_path / "logits" / "fox", **form)
    report = fidelity(logits, exact, device=CPU, students=STUDENTS)
    store = Store(logits, SparseLogits)
    expected = measures(
        compare(Full.open(exact, device=CPU), Restored.of(store, store.read("heldout"), device=CPU), STUDENTS)
    )
    for name, value in expected.items():
        assert report[name] == value, name
    assert report["form"] == {"form": "made", "k": 6}
    assert report["tail"] == {"sketch": form.get("tail_rank", 0), "step": 0.3}
    memory = measures(compare(Full.open(exact, device=CPU), in_memory(teacher, **form), STUDENTS))
    assert report["tv"] == pytest.approx(memory["tv"], abs=0.01)  # what is rounded on disk costs next to nothing
    json.dumps(report, allow_nan=False)
    assert set(fidelity(logits, exact, device=CPU)["gradient"]) == {"near"}


def test_sizes_are_those_of_the_files(teacher: Teacher, tmp_path: Path) -> None:
    store = Store(teacher.write_logits(tmp_path / "logits" / "fox", tail_rank=4), SparseLogits)
    found = size(store)
    files = [path for path in (store.path / "heldout").rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert found["bytes_per_position"] * ROWS == pytest.approx(sum(path.stat().st_size for path in files))
    assert set(found["bytes_by_array"]) == set(store.manifest.arrays)
    assert sum(found["bytes_by_array"].values()) == pytest.approx(found["bytes_per_position"])
    for name in ("tail_bias_JV", "tail_basis_DV", "order_V"):
        folder = store.path / "constants" / name
        assert found["constant_bytes"][name] == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("name", "changes"), [("masks", {"masks": "c" * 64}), ("model", {"model": "c" * 64})])
def test_states_of_another_model_or_other_masks_are_refused(
    teacher: Teacher, tmp_path: Path, name: str, changes: dict[str, str]
) -> None:
    logits = teacher.write_logits(tmp_path / "logits" / "fox")
    other = teacher.write_exact(tmp_path / "exact" / "fox", **changes)
    with pytest.raises(StaleParent, match=rf"exact/fox: kept with {name} c{{12}}, but .*Run: dvc repro exact@fox"):
        fidelity(logits, other, device=CPU)
