"""What every stage command shares: logging, one-line refusals with exit code 2, and a record of what the run cost."""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec

import click

from pipeline.core.import_closure import command_digest
from storage.errors import DistillError
from storage.work import Workspace

P = ParamSpec("P")
log = logging.getLogger("stages")

params_option = click.option(
    "--params", type=click.Path(path_type=Path), default=Path("params.yaml"), show_default=True, help="Settings file."
)


def workspace(file: str) -> Workspace:
    """Where the command in `file` works, with the digest of the modules that it imports."""
    return Workspace(code=command_digest(Path(file).stem))


def stage(function: Callable[P, None]) -> Callable[P, None]:
    """Make a DistillError one line on stderr and exit code 2; anything else is a bug and keeps its traceback."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
        for noisy in ("httpx", "httpx2", "huggingface_hub", "transformers"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        try:
            function(*args, **kwargs)
        except DistillError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("Interrupted. Run the same command to continue", err=True)
            sys.exit(130)

    return wrapper


class RunRecord:
    """Seconds, peak memory and software of one stage run, written to `reports/runs/<stage>.json`.

    It lies outside the stores, which must not differ between runs. Seconds of an interrupted run are not in it.
    """

    def __init__(self, stage_name: str, folder: Path = Path("reports/runs")) -> None:
        self.path = folder / f"{stage_name}.json"
        self._began = time.monotonic()

    def write(self, **facts: Any) -> None:
        """Write the record with further facts such as device, dtype and rate."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        record = {
            "seconds": round(time.monotonic() - self._began, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_memory_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            **facts,
        }
        if "torch" in sys.modules:
            record["torch"] = version("torch")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        log.info(
            "%s: %.1f s, peak memory %.2f GB", self.path.stem, record["seconds"], record["peak_memory_bytes"] / 1e9
        )
