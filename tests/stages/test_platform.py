"""The systems on which commands run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", ["stages.ingest", "stages.teach", "stages.tools.cohesive"])
def test_on_windows_every_command_says_so_in_one_line(module: str) -> None:
    """Stands in for Windows by its name; what else differs there is not checked."""
    code = f"import runpy, sys; sys.platform = 'win32'; runpy.run_module('{module}', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode != 0
    assert done.stderr.splitlines() == [
        "Error: Windows is not supported. Use Linux or macOS, or the Windows Subsystem for Linux"
    ]
