"""Training on two processes over gloo: the losses of one process, kill -9, and another number of processes after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from storage.reader import Store
from storage.records.sequences import Sequences
from tests.helpers.stores import TinyStores
from tests.pipeline.train.test_train import targets_of

ROOT = Path(__file__).parents[3]
TOLERANCE = 2e-5
"""Of losses and weights: gradients are added in another order."""


@pytest.fixture
def project(tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path) -> Path:
    targets_of(tiny_stores, workplace / "data" / "targets" / "any", tail_rank=3)
    student = {
        "targets": "data/targets/any",
        "start": str(tiny_mlm),
        "loss": {"targets": 1.0, "labels": 0.5, "tail": "prior"},
    }
    training = {
        "steps": 24, "step_tokens": 300, "learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 0.01,
        "gradient_clip": 1.0, "evaluations": 2, "seed": 7,
    }  # fmt: skip
    write(workplace, {"students": dict.fromkeys(("one", "two", "killed"), student), "training": training})
    return workplace


def write(folder: Path, params: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def command(stores: TinyStores, tokenizer: Path, folder: Path, name: str, *, processes: int) -> subprocess.Popen[str]:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    runtime = {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 200, "checkpoint_seconds": 0.01}
    write(folder, params | {"runtime": runtime | {"processes": processes}})
    arguments = ["--sequences", str(stores.sequences), "--masks", str(stores.masks), "--tokenizer", str(tokenizer)]
    return subprocess.Popen(
        [sys.executable, "-m", "stages.train", name, *arguments, "--out", f"models/{name}"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def trained(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    model = folder / "models" / name
    return json.loads((model / "training.json").read_text(encoding="utf-8")), load_file(model / "model.safetensors")


def same(first: tuple[dict[str, Any], Any], second: tuple[dict[str, Any], Any]) -> None:
    (record, weights), (other, others) = first, second
    assert len(record["losses"]) == 24
    np.testing.assert_allclose(np.array(record["losses"]), np.array(other["losses"]), atol=TOLERANCE)
    np.testing.assert_allclose(np.array(record["curve"]), np.array(other["curve"]), atol=TOLERANCE)
    for fact in ("identity", "tokens", "predictions", "passes", "parameters"):
        assert record[fact] == other[fact], fact
    for tensor_name, tensor in weights.items():
        torch.testing.assert_close(others[tensor_name], tensor, atol=TOLERANCE, rtol=0, msg=tensor_name)


def test_two_processes_take_the_steps_of_one_and_a_killed_run_ends_on_another_number(
    tiny_stores: TinyStores, tiny_tokenizer: Path, project: Path
) -> None:
    def run(name: str, processes: int) -> str:
        process = command(tiny_stores, tiny_tokenizer, project, name, processes=processes)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    run("one", 1)
    run("two", 2)
    one = trained(project, "one")
    start = load_file(Path(one[0]["start"]) / "model.safetensors")
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in one[1].items() if name in start)
    assert moved > 100 * TOLERANCE, "training moves the weights far more than the order of additions does"
    record, weights = trained(project, "two")
    same(one, (record, weights))
    assert json.loads((project / "reports/runs/train-two.json").read_text(encoding="utf-8"))["processes"] == 2

    doomed = command(tiny_stores, tiny_tokenizer, project, "killed", processes=2)
    victim = None
    while victim is None or not list(project.glob(".work/models-killed-*/checkpoints/step-*")):
        assert doomed.poll() is None, doomed.stderr and doomed.stderr.read()
        ranks = [child for child in psutil.Process(doomed.pid).children() if rank_of(child) == "1"]
        victim = ranks[0] if ranks else None
    victim.send_signal(signal.SIGKILL)
    _, said = doomed.communicate(timeout=120)
    assert doomed.returncode == 2, said
    assert "process 1 of 2 ended with SIGKILL, and so did the others. Run the same command to continue" in said
    assert "Traceback" not in said
    assert not (project / "models/killed").exists()
    assert "continuing from step" in run("killed", 1)
    same(one, trained(project, "killed"))
    assert Store(tiny_stores.sequences, Sequences).plan("train").rows > 24


def rank_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RANK")
    except psutil.Error:
        return None
