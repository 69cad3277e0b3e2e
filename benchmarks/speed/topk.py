"""What it costs to keep a teacher's answer: top k, statistics and tail, beside the head's matrix product alone.

Real hidden states before the output layer (data/exact) go through the output layer as the stage has it, then through
`summarise` in the form the teacher's store was made with. The goal is read strictly: product and summary together over
the product. The summary alone over the product is a row of its own.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, require, seconds
from benchmarks.speed.teach import fast_type

TEACHER = "wordnet-rest"
"""Hidden states of 768 numbers, 30,527 ids."""

ROWS_AT_ONCE = {"cpu": 300, "cuda": 8192}
"""Predictions of one batch of the stage."""

BATCHES = 4
"""A timing."""


def measure_summary(machine: Machine, _: Path) -> Measured:
    """(product + summary) / product."""
    import torch

    from pipeline.core.config import decode
    from pipeline.sparse.summary import summarise
    from pipeline.sparse.tail import TailShape
    from pipeline.teach.params import TeacherParams
    from storage.reader import Store
    from storage.records.hidden_states import HiddenStates
    from storage.records.logits import SparseLogits

    store = Store(require(f"data/logits/{TEACHER}", run="make repro"), SparseLogits)
    exact = Store(require(f"data/exact/{TEACHER}", run="make repro"), HiddenStates)
    device, dtype = torch.device(machine.kind), fast_type(machine)
    params = decode({**store.manifest.inputs, "model": TEACHER}, TeacherParams, where=str(store.path))
    shape = TailShape.of_store(store, device=device)
    states = exact.read("heldout")
    rows = torch.arange(ROWS_AT_ONCE[machine.kind]) % len(states)
    hidden_QH = torch.from_numpy(states.hidden_PH).to(device, dtype)[rows.to(device)]
    gold_Q = torch.from_numpy(states.gold_id_P.astype("int64")).to(device)[rows.to(device)]
    weight_VH = torch.from_numpy(exact.constant("head_weight_VH")).to(device, dtype)
    bias_V = torch.from_numpy(exact.constant("head_bias_V")).to(device, dtype)

    def product() -> torch.Tensor:
        return torch.nn.functional.linear(hidden_QH, weight_VH, bias_V)

    def both() -> None:
        for _ in range(BATCHES):
            summarise(product(), gold_Q, keep=params.keep, temperatures=shape.temperatures, tail=shape)

    def alone() -> None:
        for _ in range(BATCHES):
            product()

    together, own = [], []
    with torch.inference_mode():
        for run in range(-1, RUNS):
            mine, other = seconds(both, machine=machine), seconds(alone, machine=machine)
            if run >= 0:
                together.append(mine / other)
                own.append(mine / other - 1)
    note = (
        f"form {params.keep.form}, {params.tail_rank} coordinates of the tail, {len(shape.temperatures)} temperatures, "
        f"{str(dtype).removeprefix('torch.')}; a statistic needs float32 exponentials of all ids, a dozen sweeps over "
        "a row, and the 768-wide product is as cheap as these"
    )
    name = f"topk-{machine.kind}-own"
    return Measured(together, note=note, also={name: own}, units={name: "summary / head"})


ROWS = (
    Row(
        name="topk-cpu",
        goal=1.15,
        unit="head and summary / head",
        better="lower",
        device="cpu",
        measure=measure_summary,
    ),
    Row(
        name="topk-cuda",
        goal=1.15,
        unit="head and summary / head",
        better="lower",
        device="cuda",
        measure=measure_summary,
    ),
)
