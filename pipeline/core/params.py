"""The section `runtime`: settings that change speed and not results."""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Literal

from pydantic import Field, field_validator

from pipeline.core.config import Section

ADDRESS = re.compile(r"(tcp|tls|ucx)://([^\s/:\[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}")
"""Of a Dask scheduler: protocol, host (also one of IPv6) and port."""


class RuntimeParams(Section):
    """The `runtime` section of params.yaml; no stage tracks it."""

    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16"]
    threads: int = Field(ge=0)
    """CPU threads of a process; 0 for all cores, divided among several processes."""
    batch_tokens: int = Field(ge=128)
    """Tokens, padding included, of one forward."""
    checkpoint_seconds: float = Field(gt=0)
    """Time between training checkpoints."""
    scheduler: str = "threads"
    """Executor of the text stages, `teach` and `fuse`: threads of this process, `processes` of this machine, or the
    workers of a Dask scheduler, given by its address."""
    workers: int = Field(default=1, ge=1)
    """Worker processes of the scheduler `processes`."""
    processes: int = Field(default=1, ge=1)
    """Processes of this machine that train one student, one accelerator each; `torchrun` chooses otherwise."""
    trackers: list[Literal["dvclive", "tensorboard", "mlflow", "wandb"]] = Field(default=[])
    """Where curves of training and teaching go while they run (`pipeline.core.tracking`)."""

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str) -> str:
        if value not in ("threads", "processes") and not ADDRESS.fullmatch(value):
            raise ValueError("must be threads, processes or the address of a Dask scheduler such as tcp://host:8786")
        return value

    @field_validator("trackers")
    @classmethod
    def _installed_trackers(cls, value: list[str]) -> list[str]:
        for name in value:
            found = importlib.util.find_spec(name)
            if found is None or found.origin is None:  # a folder of this name, such as W&B's own, is no module
                raise ValueError(f"{name} is not installed. Run: pip install -c constraints.txt -e '.[{name}]'")
        if "mlflow" in value and "MLFLOW_TRACKING_URI" not in os.environ:
            raise ValueError(
                "mlflow needs to know where. Run: export MLFLOW_TRACKING_URI=http://localhost:5000 (your server)"
            )
        return value
