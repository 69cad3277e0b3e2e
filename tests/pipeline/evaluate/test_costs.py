"""Costs of tiny models: FLOPs against counted operations, statistics against their definitions.

Times are looked at for what must hold on any machine; whether they are right, a busy machine cannot tell.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pipeline.core.config import decode
from pipeline.core.hardware import PeakMemory
from pipeline.evaluate.costs import (
    embedding_parameters,
    flops,
    measure_costs,
    median_interval,
    metered_joules,
)
from pipeline.evaluate.params import CostParams
from pipeline.models.masked_lm import MaskedLM, masked_lm
from stages import costs
from storage.errors import ParamsError, SourceError, TeacherRefused
from tests.helpers.stores import cpu_runtime
from tests.pipeline.core.test_energy import Clock

CPU = torch.device("cpu")
PARAMS = CostParams(sequence_tokens=16, batches=[1, 4], forwards=20, threads=1)
SMALL = {"vocab_size": 301, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
MINILM = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 1, "num_attention_heads": 12}
MPNET = {"vocab_size": 30527, "hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12}
"""As wide as the real ones; more layers would take seconds to make."""


def counted(model: Any, *, tokens: int, head_positions: int) -> float:
    """Operations of a model, counted by torch as they are called."""
    ids = torch.ones(1, tokens, dtype=torch.long)
    column = torch.arange(head_positions)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        MaskedLM(model, CPU).logits(ids, torch.ones_like(ids), torch.zeros_like(column), column)
    return float(counter.get_total_flops())


@pytest.mark.parametrize("tokens", [16, 40])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Bert", SMALL | {"intermediate_size": 80}),
        ("Bert", MINILM | {"intermediate_size": 1536}),
        ("MPNet", SMALL | {"intermediate_size": 80}),
        ("MPNet", MPNET | {"intermediate_size": 3072}),
        ("Roberta", SMALL | {"intermediate_size": 80}),
        ("DistilBert", {"vocab_size": 301, "dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 80}),
        ("ModernBert", SMALL | {"intermediate_size": 80, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2,
                                "bos_token_id": 1, "eos_token_id": 2}),
    ],
)  # fmt: skip
def test_flops_are_those_that_torch_counts(family: str, settings: dict[str, Any], tokens: int) -> None:
    import transformers

    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, f"{family}ForMaskedLM")(config).eval()
    for head_positions in (1, tokens):
        expected = counted(model, tokens=tokens, head_positions=head_positions)
        assert flops(config, tokens=tokens, head_positions=head_positions) == pytest.approx(expected, rel=0.03)


def test_flops_of_an_unknown_family_are_not_guessed() -> None:
    from transformers import AlbertConfig

    with pytest.raises(TeacherRefused, match=r"albert: its FLOPs are not known; known: bert, mpnet, "):
        flops(AlbertConfig(), tokens=8, head_positions=1)


def test_the_interval_of_twenty_values_lies_between_the_sixth_and_the_fifteenth() -> None:
    """Tabulated, for example in Conover 1999, table A3."""
    values = np.random.default_rng(0).permutation(20) + 1.0
    assert median_interval(values) == (10.5, 6.0, 15.0)
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (2.0, 1.0, 3.0)
    assert median_interval(np.array([7.0])) == (7.0, 7.0, 7.0)


@given(count=st.integers(6, 200))
def test_the_interval_is_the_shortest_that_holds_the_median_often_enough(count: int) -> None:
    _, low, high = median_interval(np.arange(1.0, count + 1))
    k = int(low)
    assert high == count + 1 - k

    def covered(k: int) -> float:
        return 1 - 2 * sum(math.comb(count, i) for i in range(k)) / 2**count

    assert covered(k) >= 0.95 > covered(k + 1)


def test_the_report_has_every_cost_and_says_what_it_was_measured_on(tiny_mlm: Path) -> None:
    report = measure_costs(PARAMS, tiny_mlm, runtime=cpu_runtime())
    metrics = report["metrics"]
    assert report["headline"] == "latency_ms"
    with masked_lm(tiny_mlm, device=CPU, dtype=torch.float32) as lm:
        unique = {parameter.data_ptr(): parameter.numel() for parameter in lm.model.parameters()}
        tables = lm.vocabulary * 32 + 64 * 32 + 2 * 32  # tokens, positions, types
        assert metrics["parameters"]["value"] == sum(unique.values())
        assert metrics["embedding_parameters"]["value"] == embedding_parameters(lm) == tables
    assert metrics["weight_bytes"]["value"] == (tiny_mlm / "model.safetensors").stat().st_size
    assert metrics["flops"]["value"] < metrics["flops_head_everywhere"]["value"]
    assert metrics["latency_ms"]["n"] == 20
    assert 3 <= metrics["latency_ms_batch_4"]["n"] <= 20
    for suffix, batch in (("", 1), ("_batch_4", 4)):
        latency, rate = metrics[f"latency_ms{suffix}"], metrics[f"sequences_per_second{suffix}"]
        assert 0 < latency["low"] <= latency["value"] <= latency["high"]
        assert rate["value"] == pytest.approx(batch * 1000 / latency["value"])
        assert rate["low"] <= rate["value"] <= rate["high"]
        assert metrics[f"tokens_per_second{suffix}"]["value"] == pytest.approx(16 * rate["value"])
        assert metrics[f"joules_per_1000_sequences{suffix}"]["value"] >= 0
    assert metrics["peak_memory_bytes"]["value"] > 0
    assert report["energy_source"] in {"estimated", "rapl"}
    assert {"cpu", "cores", "threads", "device", "dtype", "torch"} <= set(report["run"])
    assert (report["run"]["threads"], report["run"]["dtype"]) == (1, "float32")


def test_costs_that_depend_on_the_model_alone_do_not_change(tiny_mlm: Path) -> None:
    first, second = (measure_costs(PARAMS, tiny_mlm, runtime=cpu_runtime()) for _ in range(2))
    for name in ("parameters", "embedding_parameters", "weight_bytes", "flops", "flops_head_everywhere"):
        assert first["metrics"][name] == second["metrics"][name]


def test_heads_that_lie_beside_a_model_are_not_its_weights(tiny_mlm: Path, tmp_path: Path) -> None:
    for file in tiny_mlm.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "wsd_head.safetensors").write_bytes(b"0" * 1000)
    report = measure_costs(PARAMS, tmp_path, runtime=cpu_runtime())
    assert report["metrics"]["weight_bytes"]["value"] == (tiny_mlm / "model.safetensors").stat().st_size


def test_memory_is_what_was_added_since(tiny_mlm: Path) -> None:
    """A third of it may lie in memory that the process had already and did not use."""
    memory = PeakMemory(CPU)
    block = np.ones(32_000_000)
    del block
    assert 170e6 < memory.added() < 400e6


def test_energy_of_a_pass_is_what_it_drew_beyond_idle() -> None:
    clock = Clock(watts=50.0)
    assert metered_joules(lambda: clock.sleep(0.3), clock, idle=20.0, clock=clock.time) == pytest.approx(30 * 0.3)
    assert metered_joules(lambda: clock.sleep(0.3), clock, idle=80.0, clock=clock.time) == 0.0


def test_sequences_that_a_model_does_not_take_are_refused(tiny_mlm: Path, tmp_path: Path) -> None:
    long = CostParams(sequence_tokens=65, batches=[1], forwards=20, threads=1)
    with pytest.raises(ParamsError, match=r"costs\.sequence_tokens: .* takes at most 64 tokens, got 65"):
        measure_costs(long, tiny_mlm, runtime=cpu_runtime())
    with pytest.raises(SourceError, match=r"expected config\.json and \*\.safetensors"):
        measure_costs(PARAMS, tmp_path, runtime=cpu_runtime())


@pytest.mark.parametrize(("change", "message"), [
    ({"batches": [32]}, r"costs\.batches: expected rising numbers that begin with 1, got \[32\]"),
    ({"batches": [1, 8, 8]}, r"costs\.batches: expected rising numbers"),
    ({"forwards": 19}, r"costs\.forwards: .*greater than or equal to 20, got 19"),
])  # fmt: skip
def test_settings_that_cannot_be_measured_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        decode(PARAMS.model_dump() | change, CostParams, where="costs")


def test_the_command_writes_the_report_and_a_record(workplace: Path, tiny_mlm: Path) -> None:
    Path("params.yaml").write_text(
        "costs: {sequence_tokens: 8, batches: [1], forwards: 20, threads: 1}\n"
        "runtime: {device: cpu, dtype: float32, threads: 1, batch_tokens: 512, checkpoint_seconds: 60.0}\n",
        encoding="utf-8",
    )
    arguments = ["tiny", "--model", str(tiny_mlm), "--out", "reports/costs/tiny.json"]
    assert CliRunner().invoke(costs.main, arguments, catch_exceptions=False).exit_code == 0
    report = json.loads((workplace / "reports/costs/tiny.json").read_text(encoding="utf-8"))
    assert (report["suite"], report["sequence_tokens"]) == ("costs", 8)
    assert (workplace / "reports/runs/costs-tiny.json").is_file()
    refused = CliRunner().invoke(costs.main, ["tiny", "--model", "models/none", "--out", "reports/costs/none.json"])
    assert refused.exit_code == 2
    assert "models/none: expected config.json" in refused.stderr
