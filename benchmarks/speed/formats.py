"""Number formats and compilers beside what the product does: the format that `dtype: auto` leaves out, and inductor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.harness import Machine, Measured, Row, alternate, require, seconds

if TYPE_CHECKING:
    import torch

PAIRS = 15
STEPS = {"cpu": 6, "cuda": 16}
"""Training steps a timing."""


def other_format(dtype: torch.dtype) -> str:
    """The one of float32 and bfloat16 that `dtype` is not."""
    import torch

    return "bfloat16" if dtype == torch.float32 else "float32"


def measure_train(machine: Machine, _folder: Path) -> Measured:
    """Steps of the default run in the other number format over steps in that of `dtype: auto`."""
    from benchmarks.speed.train import MODEL, STEP_SEQUENCES, default_stores, learner, runtime

    model, data = default_stores()
    chosen = runtime(machine.kind, "auto").dtype
    other = other_format(chosen)
    ours, theirs = (
        learner(
            machine.kind,
            targets=str(data / "targets/confident"),
            model=model,
            data=data,
            dtype=dtype,
            sequences=STEP_SEQUENCES[machine.kind],
        )
        for dtype in ("auto", other)
    )
    steps = STEPS[machine.kind]
    ratios = alternate(lambda: theirs.steps(steps), lambda: ours.steps(steps), runs=PAIRS, warmup=2, machine=machine)
    return Measured(ratios, f"{MODEL}, {other} over {str(chosen).removeprefix('torch.')}")


def measure_teach(machine: Machine, folder: Path) -> Measured:
    """Forwards of a teacher with its head in the other number format over those in that of `dtype: auto`."""
    import torch

    from benchmarks.speed.teach import MODEL, fast_type, forward, load_bare

    model, chosen = require(MODEL, run="make repro"), fast_type(machine)
    other = other_format(chosen)
    ours, theirs = load_bare(model, machine, chosen), load_bare(model, machine, getattr(torch, other))
    batches = _batches(model, ours, machine, folder)
    ratios = alternate(
        lambda: forward(theirs, batches, head=True), lambda: forward(ours, batches, head=True), runs=PAIRS,
        machine=machine,
    )  # fmt: skip
    return Measured(ratios, f"{MODEL}, {other} over {str(chosen).removeprefix('torch.')}")


def measure_compile(machine: Machine, folder: Path) -> Measured:
    """A teacher's encoder as it is over the same under `torch.compile`; the seconds of compiling are beside."""
    import torch

    from benchmarks.speed.teach import MODEL, fast_type, load_bare

    model, dtype = require(MODEL, run="make repro"), fast_type(machine)
    lm = load_bare(model, machine, dtype)
    batches = _batches(model, lm, machine, folder)
    encoder = lm.model.base_model
    compiled = torch.compile(encoder)

    def over(network: Callable[..., Any]) -> None:
        with torch.inference_mode():
            for ids, attention, *_ in batches:
                network(input_ids=ids, attention_mask=attention)

    first = seconds(lambda: over(compiled), machine=machine)
    second = seconds(lambda: over(compiled), machine=machine)
    ratios = alternate(lambda: over(encoder), lambda: over(compiled), machine=machine)
    tokens = sum(int(attention.sum()) for _, attention, *_ in batches)
    return Measured(
        ratios,
        note=f"{MODEL}, {str(dtype).removeprefix('torch.')}; compiling took {first - second:.0f} s",
        details={"compile_seconds": round(first - second, 1), "tokens": tokens, "seconds": round(second, 3)},
    )


def _batches(model: Path, lm: Any, machine: Machine, folder: Path) -> list[list[torch.Tensor]]:
    """A shard of the default run's text, as the stage cuts it."""
    from benchmarks.speed.teach import shard_inputs, small_stores, tensors

    return tensors(lm, shard_inputs(model, lm, small_stores(folder, machine.kind), machine)[0])


ROWS = (
    Row(
        name="train-auto", goal=1.0, unit="step in the other number format / step with dtype: auto", better="higher",
        device="any", measure=measure_train,
    ),
    Row(
        name="teach-auto", goal=1.0, unit="forward in the other number format / forward with dtype: auto",
        better="higher", device="any", measure=measure_teach,
    ),
    Row(
        name="teach-compile", goal=None, unit="encoder / encoder under torch.compile", better="higher", device="any",
        measure=measure_compile,
    ),
)  # fmt: skip
