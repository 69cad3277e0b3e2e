"""How threads wait is set where nobody chose it, and every command sets it before torch is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.core.openmp import SPIN_COUNT, share_cores


def test_threads_wait_shortly_where_nobody_chose() -> None:
    environment = {"OMP_NUM_THREADS": "2"}
    share_cores(environment)
    assert environment == {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": SPIN_COUNT}


@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}], ids=str)
def test_a_setting_of_the_environment_stays(chosen: dict[str, str]) -> None:
    environment = dict(chosen)
    share_cores(environment)
    assert environment == chosen


def test_a_command_sets_it_before_torch_is_loaded() -> None:
    code = "import os, sys, stages; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [SPIN_COUNT, "False"]
