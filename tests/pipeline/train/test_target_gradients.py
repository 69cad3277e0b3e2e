"""Statistics of gradients against every position's own gradient in float64; and stores from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.text.corpus_view import MaskedSequences
from pipeline.train import target_gradients
from pipeline.train.params import TargetGradientParams
from pipeline.train.target_gradients import (
    Start,
    Target,
    choose_positions,
    gradient_statistics,
    measure_targets,
    spread_shards,
)
from storage.errors import DataError
from storage.format.manifest import SplitPlan
from storage.reader import Store
from storage.records.sequences import Masks
from tests.helpers.stores import TinyStores, cpu_runtime
from tests.helpers.teacher_stores import make_world

ROWS, VOCABULARY, WIDTH = 700, 12, 5
"""More rows than are measured at once."""

TEMPERATURES = {"near": 1.0, "far": 2.5}


def a_start(rng: np.random.Generator) -> Start:
    return Start(
        hidden_PH=torch.from_numpy(rng.normal(size=(ROWS, WIDTH)).astype(np.float32)),
        weight_VH=torch.from_numpy(rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)),
        bias_V=torch.from_numpy(rng.normal(size=VOCABULARY).astype(np.float32)),
    )


def gradients(start: Start, target_PV: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[P, V, H]: of T^2 times the cross-entropy with the target at each position, with respect to the output matrix."""
    weight = start.weight_VH.double().requires_grad_()
    rows = []
    for hidden_H, target_V in zip(start.hidden_PH.double(), torch.from_numpy(target_PV), strict=True):
        logits_V = (weight @ hidden_H + start.bias_V.double()) / temperature
        loss = -(target_V * torch.log_softmax(logits_V, dim=0)).sum() * temperature**2
        rows.append(torch.autograd.grad(loss, weight)[0].numpy())
    return np.stack(rows)


def test_statistics_are_those_of_the_gradients_of_single_positions() -> None:
    rng = np.random.default_rng(0)
    start = a_start(rng)
    label_P = np.minimum(rng.geometric(0.3, ROWS) - 1, VOCABULARY - 1)
    half_P = rng.integers(0, 2, ROWS)
    one_hot_PV = np.eye(VOCABULARY)[label_P]
    targets = {
        "near": 0.7 * one_hot_PV + 0.3 * rng.dirichlet(np.full(VOCABULARY, 0.5), ROWS),
        "far": 0.3 * one_hot_PV + 0.7 * rng.dirichlet(np.linspace(0.2, 4, VOCABULARY), ROWS),
    }
    found = gradient_statistics(
        start,
        label_P,
        half_P,
        {
            name: Target(dense=lambda row, p=p: torch.from_numpy(p[row]).float(), temperature=TEMPERATURES[name])
            for name, p in targets.items()
        },
    )

    def halves(x_PVH: np.ndarray) -> list[np.ndarray]:
        return [x_PVH[half_P == half].mean(axis=0) for half in (0, 1)]

    def inner(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        return float((a[0] * b[1]).sum() + (a[1] * b[0]).sum()) / 2

    label_PVH = gradients(start, one_hot_PV)
    label = halves(label_PVH)
    scale = inner(label, label)
    label_variance = (label_PVH**2).sum(axis=(1, 2)).mean() / scale - 1
    assert found["measured"] == ROWS
    assert found["labels"]["variance"] == pytest.approx(label_variance, rel=1e-4)
    biases = {}
    for name, target_PV in targets.items():
        target_PVH = gradients(start, target_PV, TEMPERATURES[name])
        target, biases[name] = halves(target_PVH), halves(target_PVH - label_PVH)
        squared, squared_bias = inner(target, target), inner(biases[name], biases[name]) / scale
        variance = ((target_PVH**2).sum(axis=(1, 2)).mean() - squared) / scale
        assert found["targets"][name] == pytest.approx(
            {
                "squared_bias": squared_bias,
                "cosine": inner(target, label) / np.sqrt(squared * scale),
                "variance": variance,
                "positions": (label_variance - variance) / squared_bias,
            },
            rel=1e-3,
        )
    ((row),) = found["cosines"]
    assert (row["first"], row["second"]) == ("near", "far")
    norms = [np.sqrt(inner(bias, bias)) for bias in biases.values()]
    assert row["cosine"] == pytest.approx(inner(biases["near"], biases["far"]) / (norms[0] * norms[1]), rel=1e-3)


def test_the_true_tokens_as_a_target_have_no_bias_and_their_own_variance() -> None:
    rng = np.random.default_rng(1)
    label_P = np.minimum(rng.geometric(0.3, ROWS) - 1, VOCABULARY - 1)
    same_PV = torch.eye(VOCABULARY)[torch.from_numpy(label_P)]
    found = gradient_statistics(
        a_start(rng), label_P, np.arange(ROWS) % 2, {"same": Target(dense=lambda row: same_PV[row])}
    )
    same = found["targets"]["same"]
    assert same["squared_bias"] == 0
    assert same["positions"] is None
    assert same["cosine"] == pytest.approx(1)
    assert same["variance"] == pytest.approx(found["labels"]["variance"], rel=1e-5)
    assert found["cosines"] == []


def test_noise_is_no_gradient() -> None:
    """Halves whose true tokens pull in opposite directions."""
    rng = np.random.default_rng(2)
    hidden_PH = torch.ones((400, 1))
    start = Start(hidden_PH=hidden_PH, weight_VH=torch.zeros((2, 1)), bias_V=torch.zeros(2))
    half_P = rng.integers(0, 2, 400)
    with pytest.raises(DataError, match=r"cannot be told from noise with 400 positions.*target_gradients\.positions"):
        gradient_statistics(start, half_P.astype(np.int64), half_P, {})


def test_positions_are_whole_documents_of_spread_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_gradients, "MOST_SHARDS", 5)
    document_P = np.repeat(np.arange(200), 10)
    plan, rows = SplitPlan(rows=2000, shard_rows=100), np.arange(2000)
    shards = spread_shards(plan)
    row_P = choose_positions(document_P, rows, shards, positions=350)
    assert [shard.index for shard in shards] == [0, 5, 10, 14, 19]
    assert 300 < len(row_P) <= 350
    inside = {row for shard in shards for row in range(shard.start, shard.stop)}
    assert set(row_P.tolist()) <= inside
    assert set(np.bincount(document_P[row_P]).tolist()) == {0, 10}
    monkeypatch.setattr(target_gradients, "MOST_SHARDS", 20)
    everything = choose_positions(document_P, rows, spread_shards(plan), positions=10**6)
    assert everything.tolist() == list(range(2000))


@pytest.mark.parametrize("form", [{}, {"tail_rank": 4}, {"draws": 5}])
def test_teachers_and_fusions_are_measured_from_their_stores(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path, form: dict[str, int]
) -> None:
    """A fusion of one teacher measures as that teacher, whose ids run the other way."""
    world = make_world(tiny_stores, workplace / "data", fusions=(), **form)
    fuse(
        FusionParams(
            teachers=["beta"], weighting="uniform", tau=1.0, calibrated=True, prior="equal", temperature=1.0, keep=20
        ),
        MaskedSequences.open_pair(tiny_stores.sequences, tiny_stores.masks),
        logits=world.data / "logits",
        out=workplace / "targets" / "alone",
        declared=["alpha", "beta"],
    )
    found = measure_targets(
        TargetGradientParams(start=str(tiny_mlm), positions=400),
        MaskedSequences.open_pair(tiny_stores.sequences, tiny_stores.masks),
        logits=world.data / "logits",
        targets=workplace / "targets",
        tokenizer=tiny_tokenizer,
        teachers=["alpha", "beta"],
        fusions=["alone"],
        runtime=cpu_runtime(batch_tokens=300),
    )
    assert set(found["teachers"]) == {"alpha", "beta"}
    rows = Store(tiny_stores.masks, Masks).plan("train").rows
    assert 0 < found["measured"] < min(400, 0.9 * rows)  # beta does not answer every fifth
    alone, beta = found["fusions"]["alone"], found["teachers"]["beta"]
    assert alone["squared_bias"] == pytest.approx(beta["squared_bias"], rel=0.05)
    assert alone["variance"] == pytest.approx(beta["variance"], rel=0.02)
    assert alone["cosine"] == pytest.approx(beta["cosine"], abs=0.01)
    for entry in (beta, found["teachers"]["alpha"]):
        assert entry["squared_bias"] > 0
        assert entry["cosine"] > 0.5
        assert entry["variance"] < found["labels"]["variance"]
    assert all({row["first"], row["second"]} == {"alpha", "beta"} for row in found["cosines"])
