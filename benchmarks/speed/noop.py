"""`dvc repro` when nothing has changed: how long a person waits to be told so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.speed.harness import RUNS, Machine, Measured, Row, Unavailable, require, seconds


def measure_noop(_machine: Machine, _folder: Path) -> Measured:
    """Seconds of the command; refused when something would run."""
    require("dvc.lock", run="make repro")
    beside = Path(sys.executable).with_name("dvc")
    command = [str(beside) if beside.exists() else shutil.which("dvc") or "dvc"]
    status = subprocess.run([*command, "status", "--quiet"], check=False, capture_output=True)
    if status.returncode:
        raise Unavailable("the pipeline is not up to date. Run: make repro")

    def repro() -> None:
        subprocess.run([*command, "repro", "--quiet"], check=True, capture_output=True)

    repro()
    values = [seconds(repro) for _ in range(RUNS)]
    return Measured(values, note="DVC hashes every dependency of every stage and parses params.yaml once a stage")


ROWS = (Row(name="noop", goal=1.5, unit="seconds", better="lower", device="cpu", measure=measure_noop),)
