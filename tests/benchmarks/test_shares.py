"""Useful FLOPs, what a share is of them, and data-parallel steps.

Not checked here: the rows as a whole, which read the stores of the default run.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import processes, share
from benchmarks.speed.harness import RUNS, Machine, Unavailable
from pipeline.evaluate.costs import flops
from pipeline.lexical.train import new_trainer
from pipeline.lexical.trainer import plan_steps
from tests.helpers.lexical import REHEARSAL, make_workplace
from tests.helpers.stores import TinyStores, cpu_runtime
from tests.pipeline.train.test_train import targets_of

CPU = Machine(kind="cpu", name="a processor")
CONFIG: Any = SimpleNamespace(model_type="bert", hidden_size=4, num_hidden_layers=3, intermediate_size=6, vocab_size=10)


def test_flops_are_those_of_each_sequence_and_of_the_head() -> None:
    """By hand: 8 L H² + 4 L H I + 4 L² H a layer and sequence, 2 (H² + H V) a position of the head."""
    layers = sum(3 * (8 * length * 16 + 4 * length * 24 + 4 * length**2 * 4) for length in (5, 2, 5))
    assert share.forward_flops(CONFIG, [5, 2, 5], head_positions=7) == layers + 7 * 2 * (16 + 40)
    assert share.forward_flops(CONFIG, []) == 0


def test_a_share_is_of_the_flops_of_its_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls do 1, 2, 3, … FLOPs in two seconds each; products run at 0.5 a second. The first call warms up."""
    counts = iter(range(1, 100))

    def seconds(work: Any, *, machine: Machine) -> float:
        work()
        return 2.0

    monkeypatch.setattr(share, "seconds", seconds)
    monkeypatch.setattr(share, "product_rate", lambda *_: 0.5)
    monkeypatch.setattr(share, "where_time_goes", lambda work: {"rest": work()})
    found = share.share(CPU, lambda: next(counts), config=CONFIG, dtype=torch.float32, what="steps")
    assert list(found.values) == [2.0, 3.0, 4.0, 5.0, 6.0] and len(found.values) == RUNS
    assert found.details == {"time": {"rest": 7}}
    assert found.note.startswith("steps; float32, ")


def test_data_parallel_steps_are_those_of_one_process(
    tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes over gloo. Not checked here: NCCL, and how long steps take."""
    targets_of(tiny_stores, workplace / "data" / "targets" / "confident", tail_rank=3)
    (workplace / "data" / "sources").mkdir()
    for name, place in (
        ("sources/minilm-l6-mlm", tiny_mlm),
        ("documents", tiny_stores.documents),
        ("sequences", tiny_stores.sequences),
        ("masks", tiny_stores.masks),
    ):
        (workplace / "data" / name).symlink_to(place)
    monkeypatch.setenv("PYTHONPATH", str(Path(processes.__file__).parents[2]))
    found = processes.efficiency("cpu", 2, workplace)
    assert len(found.values) == RUNS and min(found.values) > 0
    assert found.details["processes"] == 2
    assert 0 <= found.details["loss_difference"] < 0.01, "in bfloat16 rounding gives 0.001, a lost part of a step 1"


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="several GPUs are here")
def test_data_parallel_steps_need_several_gpus(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"needs several GPUs, here is [01]\. Run it on a machine with them"):
        processes.measure(Machine(kind="cuda", name="one"), tmp_path)


def test_flops_of_lexical_steps_are_those_that_the_encoder_is_given(tmp_path: Path, workplace: Path) -> None:
    """Tokens are counted by a hook on the encoder, masked positions by what the rehearsal says of its step."""
    work = make_workplace(tmp_path)
    loss = {"targets": 1.0, "labels": 0.0, "tail": "bucket"}
    params = work.entry(objective="bi_encoder_m", targets=str(work.start), language_model=REHEARSAL | {"loss": loss})
    inputs = work.inputs(params)
    trainer = new_trainer(params, inputs, runtime=cpu_runtime())
    view, instance_I = trainer.data.batch_builder.view, trainer.data.instance_I
    steps = list(islice(plan_steps(view, instance_I, step_words=2, seed=0), 3))
    expected = share.lexical_flops(params, inputs, trainer, [words for _, words in steps])

    lengths: list[int] = []
    labels: list[int] = []
    rehearsal = trainer.rehearsal
    assert rehearsal is not None
    backward = rehearsal.backward

    def read(_: Any, __: Any, given: dict[str, Any]) -> None:
        lengths.extend(given["attention_mask"].sum(dim=1).tolist())

    def counted(number: int) -> Any:
        done = backward(number)
        labels.append(done.labels)
        return done

    trainer.model.lm.base_model.register_forward_pre_hook(read, with_kwargs=True)
    rehearsal.backward = counted  # type: ignore[method-assign]
    for number, planned in enumerate(steps):
        lengths.clear()
        trainer.step(number, planned)
        config = trainer.model.lm.config
        useful = sum(flops(config, tokens=length, head_positions=0) for length in lengths)
        useful += flops(config, tokens=0, head_positions=labels[-1])
        assert lengths and labels[-1] > 0
        assert expected[number] == pytest.approx(3 * useful)
