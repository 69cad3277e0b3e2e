"""The benchmark of forms on a made-up teacher: what it keeps, how it splits, what it writes down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import TypeAdapter

from benchmarks.store import fidelity as benchmark
from benchmarks.store.fidelity import FORMS, QUOTED, calibrated, kept, main, plain_bytes, split_rows, stored, table
from pipeline.evaluate.fidelity import Full
from pipeline.sparse.params import Keep, TailParams
from pipeline.sparse.tail_fit import fit_tail
from tests.helpers.distributions import cooled
from tests.pipeline.evaluate.test_fidelity import VOCABULARY, Teacher, answered

CPU = torch.device("cpu")
ADAPTER: TypeAdapter[Keep] = TypeAdapter(Keep)


@pytest.fixture
def exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(benchmark, "FIT", 40)
    return Teacher().write_exact(tmp_path / "exact" / "fox")


def test_all_forms_can_be_asked_for() -> None:
    names = [name for name, _, _ in FORMS]
    assert len(set(names)) == len(names)
    for name, form, rank in FORMS:
        keep = ADAPTER.validate_python(form)
        assert ("sketch" in name) == (rank > 0)
        assert ("draws" in name) == (keep.draws > 0)


def test_rows_are_fitted_or_judged_and_never_both(exact: Path) -> None:
    full = Full.open(exact, device=CPU)
    fit, test = split_rows(full)
    assert (len(fit), len(fit) + len(test)) == (40, len(full))
    together = torch.cat([fit.hidden_QH, test.hidden_QH]).tolist()
    assert sorted(together) == sorted(full.hidden_QH.tolist()) and together != full.hidden_QH.tolist()


def test_the_temperature_is_the_best(exact: Path) -> None:
    teacher, full = Teacher(), Full.open(exact, device=CPU)
    rows = answered(teacher)

    def nll(temperature: float) -> float:
        p_PV = cooled(teacher.dense_PV[rows], temperature)
        return float(-np.log(p_PV[np.arange(len(rows)), teacher.gold_P[rows]]).mean())

    found = calibrated(full)
    assert 0.5 <= found <= 2 + 1e-6
    assert nll(found) <= min(nll(0.98 * found), nll(min(2, 1.02 * found))) + 1e-6


@pytest.mark.parametrize(
    ("form", "rank"),
    [({"form": "topk", "k": 8}, 4), ({"form": "topk+sampled", "k": 3, "draws": 6}, 0)],
)
def test_rows_are_kept_and_stored_as_a_teachers_are(
    exact: Path, tmp_path: Path, form: dict[str, object], rank: int
) -> None:
    teacher, full = Teacher(), Full.open(exact, device=CPU)
    keep, tail = ADAPTER.validate_python(form), TailParams(rank=rank, step=0.4)
    shape = fit_tail([full.logits(0, len(full))], keep=keep, temperatures=[1.0, 1.3], tail=tail)
    record = kept(full, keep, shape)
    record.check()
    dense_PV = teacher.dense_PV[answered(teacher)]
    np.testing.assert_array_equal(record.ids_PK, np.argsort(-dense_PV, axis=1)[:, : keep.most])
    listed = np.take_along_axis(dense_PV, record.ids_PK.astype(int), axis=1)
    np.testing.assert_allclose(np.exp(record.logprob_PK), listed, rtol=1e-4)
    np.testing.assert_allclose(record.tail_PJ[:, 0], 1 - listed.sum(axis=1), atol=1e-5)
    store = stored(record, keep, tail, shape, tmp_path)
    assert store.facts["temperatures"] == [1.0, 1.3]
    found = store.read("heldout")
    np.testing.assert_array_equal(np.sort(found.ids_PK, axis=1), np.sort(record.ids_PK, axis=1))
    np.testing.assert_array_equal(found.sketch_PD, record.sketch_PD)
    assert 0 < plain_bytes(record, tmp_path) < 1000


def test_the_report(exact: Path, tmp_path: Path) -> None:
    numbers = [FORMS.index(form) for form in FORMS if form[0] in ("top-16", "p >= 0.02, sketch 16", "50 draws")]
    out = tmp_path / "reports" / "fidelity.json"
    arguments = ["--exact", str(exact), "--forms", ",".join(map(str, numbers)), "--out", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())
    assert [row["form"] for row in rows] == [FORMS[number][0] for number in numbers]
    for row in rows:
        assert row["positions"] == len(answered(Teacher())) - 40
        assert row["unbiased"] == (row["form"] == "50 draws")
        assert (row["kl"] is None) == row["unbiased"]
        assert 0 < row["bytes_per_position"] < 1000 and 0 <= row["gradient_angle_degrees"] < 90
        assert row["entries"] <= VOCABULARY
    text = out.with_suffix(".md").read_text()
    assert all(f"| {name} |" in text for name, _, _ in QUOTED)
    assert out.with_suffix(".png").stat().st_size > 1000


def test_the_table_goes_from_small_to_large() -> None:
    small = {"form": "a", "bytes_per_position": 20.0, "kl": 0.25, "unbiased": False, "entries": 7.0, "tv": 0.1}
    drawn = {"form": "b", "bytes_per_position": 90.0, "kl": None, "unbiased": True, "gradient_angle_degrees": 3.21}
    lines = table([drawn, small]).splitlines()
    assert lines[2] == "| a | 7.0 | 20.0 | 0.250 |  | 0.100 |  |  |"
    assert lines[3] == "| b |  | 90.0 | infinite |  |  | 3.2 |  |"
