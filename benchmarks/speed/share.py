"""How much of the machine works: useful FLOPs a second as a share of the matrix products' rate, and where time goes.

Useful FLOPs are those of `pipeline.evaluate.costs.flops` for the tokens of the text, without padding, and for the
masked positions; three times as many in training. The rate is that of one product of the model's shape in the number
format, with the threads, and in the run, that are judged. A profiler says what the rest of the time is.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, seconds

ROWS_OF_A_PRODUCT = {"cpu": 2048, "cuda": 32768}
PRODUCTS = 8
"""A timing of the rate."""

STEPS = {"cpu": 8, "cuda": 16}
"""Training steps a timing."""

KINDS: Mapping[str, Sequence[str]] = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear"),
    "optimiser": ("_fused_adamw_", "linalg_vector_norm", "Optimizer.step#AdamW.step"),
    "softmax, norms, activations": ("_softmax", "native_layer_norm", "gelu", "native_layer_norm_backward",
        "_softmax_backward_data", "gelu_backward", "tanh", "_scaled_dot_product_flash_attention_for_cpu"),
    "copies between formats and places": ("copy_", "_to_copy", "fill_", "cat", "index_select"),
    "sums and products of elements": ("add", "add_", "mul", "mul_", "sum", "sub_", "addcmul_", "div", "where"),
    "loss": ("_SoftCrossEntropy", "gather", "scatter_", "scatter_add_", "amax", "linalg_vecdot"),
}  # fmt: skip
"""Operators by what they do; all others, and Python between them, are the rest."""


def product_rate(machine: Machine, config: Any, dtype: Any) -> float:
    """FLOPs a second of the product of a layer's widest matrix; the best of several, as it is the limit."""
    import torch

    rows, width = ROWS_OF_A_PRODUCT[machine.kind], int(config.hidden_size)
    inner = int(config.intermediate_size)
    left = torch.randn(rows, width, dtype=dtype, device=machine.kind)
    right = torch.randn(inner, width, dtype=dtype, device=machine.kind)

    def products() -> None:
        for _ in range(PRODUCTS):
            torch.nn.functional.linear(left, right)

    with torch.inference_mode():
        took = min(seconds(products, machine=machine) for _ in range(RUNS))
    return 2 * rows * width * inner * PRODUCTS / took


def where_time_goes(work: Callable[[], object]) -> dict[str, float]:
    """Shares of a profiled run by `KINDS`, "rest" included; they add up to 1."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    kind_of = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    found: Counter[str] = Counter()
    for event in profiled.key_averages():
        found[kind_of.get(event.key.removeprefix("aten::"), "rest")] += event.self_cpu_time_total
    return {kind: round(found[kind] / found.total(), 3) for kind in [*KINDS, "rest"]}


def share(
    machine: Machine, work: Callable[[], object], *, useful: float, config: Any, dtype: Any, what: str
) -> Measured:
    """The share in each run; `work` does `useful` FLOPs."""
    import torch

    work()
    values, rates = [], []
    for _ in range(RUNS):
        rates.append(product_rate(machine, config, dtype))
        values.append(useful / seconds(work, machine=machine) / rates[-1])
    units = torch.cpu.get_capabilities().get("amx_bf16", False) if machine.kind == "cpu" else True
    number = str(dtype).removeprefix("torch.")
    note = (
        f"{what}; {number}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        f"{'with' if units else 'without'} bfloat16 matrix units, products at {max(rates) / 1e9:,.0f} GFLOP/s"
    )
    details = {} if machine.kind == "cuda" else {"time": where_time_goes(work)}
    return Measured(values, note=note, details=details)


def measure_teach(machine: Machine, folder: Path) -> Measured:
    """A teacher's forwards, with the head, over a shard of the default run's text."""
    from benchmarks.speed.harness import require
    from benchmarks.speed.teach import MODEL, fast_type, forward, load_bare, shard_inputs, small_stores, tensors
    from pipeline.evaluate.costs import flops

    model, dtype = require(MODEL, run="make repro"), fast_type(machine)
    lm = load_bare(model, machine, dtype)
    (first, *_) = shard_inputs(model, lm, small_stores(folder, machine.kind), machine)
    config = lm.model.config
    useful = sum(
        sum(flops(config, tokens=int(tokens), head_positions=0) for tokens in one.attention_BL.sum(axis=1))
        + flops(config, tokens=0, head_positions=len(one.row_Q))
        for one in first
    )
    batches = tensors(lm, first)
    return share(
        machine, lambda: forward(lm, batches, head=True), useful=useful, config=config, dtype=dtype, what=MODEL
    )


def measure_train(machine: Machine, _folder: Path) -> Measured:
    """Steps of the default run: its student, its fused targets, its tokens a step."""
    from benchmarks.speed.train import MODEL, STEP_SEQUENCES, default_stores, learner
    from pipeline.evaluate.costs import flops

    model, data = default_stores()
    ours = learner(
        machine.kind,
        targets=str(data / "targets/confident"),
        model=model,
        data=data,
        sequences=STEP_SEQUENCES[machine.kind],
    )
    view, config = ours.window.view, ours.trainer.lm.model.config
    steps, useful = STEPS[machine.kind], 0.0
    for examples in ours.examples[:steps]:
        positions = int((view.start_G1[examples + 1] - view.start_G1[examples]).sum())
        tokens_B = view.lengths_G()[examples].tolist()
        useful += sum(flops(config, tokens=tokens, head_positions=0) for tokens in tokens_B)
        useful += flops(config, tokens=0, head_positions=positions)
    dtype = next(ours.trainer.lm.model.parameters()).dtype
    del ours.examples[steps:]  # the same steps again and again: their FLOPs are counted
    return share(
        machine, lambda: ours.steps(steps), useful=3 * useful, config=config, dtype=dtype,
        what=f"{MODEL}, {STEP_SEQUENCES[machine.kind]} sequences a step",
    )  # fmt: skip


ROWS = (
    Row(
        name="share-teach", goal=0.6, unit="useful FLOPs a second / matrix products alone", better="higher",
        device="any", measure=measure_teach,
    ),
    Row(
        name="share-train", goal=0.4, unit="useful FLOPs a second / matrix products alone", better="higher",
        device="any", measure=measure_train,
    ),
)  # fmt: skip
