"""Data-parallel training: steps on one accelerator beside the same steps on all of this machine, joined by NCCL.

The processes are those of the product (`pipeline.train.processes`), a command of this module in each:
`python -m benchmarks.speed.processes`. They start once, and what is timed are steps. The two sides are timed one after
the other and not by turns, so this row is for a machine without other work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, Unavailable, seconds

STEPS = {"cpu": 2, "cuda": 16}
"""A timing."""


def measure(machine: Machine, folder: Path) -> Measured:
    """How well the accelerators are used: the time of one over the time of all times their number."""
    import torch

    if (count := torch.cuda.device_count()) < 2:
        raise Unavailable(f"data-parallel training needs several GPUs, here is {count}. Run it on a machine with them")
    return efficiency(machine.kind, count, folder)


def efficiency(kind: Literal["cpu", "cuda"], count: int, folder: Path) -> Measured:
    """That of `count` processes on devices of this kind."""
    from pipeline.train.processes import launch

    found: list[dict[str, Any]] = []
    for processes in (1, count):
        out = folder / f"{processes}.json"
        launch(processes, "benchmarks.speed.processes", [kind, "--out", str(out)])
        found.append(json.loads(out.read_text(encoding="utf-8")))
    alone, together = found
    values = [one / (count * many) for one, many in zip(alone["seconds"], together["seconds"], strict=True)]
    apart = max(abs(one - many) for one, many in zip(alone["losses"], together["losses"], strict=True))
    return Measured(
        values,
        note=f"{count} processes; the loss of a step differs by {apart:.2g} nat at most",
        details={"processes": count, "loss_difference": apart},
    )


@click.command()
@click.argument("kind", type=click.Choice(["cpu", "cuda"]))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Seconds and losses to write, .json.")
def main(kind: Literal["cpu", "cuda"], out: Path) -> None:
    """Time steps in one of the processes that were launched; the first one writes."""
    import torch

    from benchmarks.speed.train import default_stores, learner
    from pipeline.train.processes import joined

    model, data = default_stores()
    with joined(torch.device(kind)) as (processes, device):
        ours = learner(
            kind, targets=str(data / "targets/confident"), model=model, data=data, processes=processes, device=device
        )
        ours.steps(STEPS[kind])
        machine = Machine(kind=kind, name="")
        took = [seconds(lambda: ours.steps(STEPS[kind]), machine=machine) for _ in range(RUNS)]
        if processes.first:
            losses = [float(loss) for loss, *_ in ours.trainer.state["losses"]]
            out.write_text(json.dumps({"seconds": took, "losses": losses}), encoding="utf-8")


ROWS = (
    Row(
        name="train-gpus", goal=0.8, unit="step on one GPU / (step on all x their number)", better="higher",
        device="cuda", measure=measure,
    ),
)  # fmt: skip

if __name__ == "__main__":
    main()
