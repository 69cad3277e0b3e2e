"""Curves of real runs of training, lexical and teaching: what they hold, and that the results do not know of them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.runtime import Runtime
from pipeline.lexical.trainer import LexicalTrainer
from pipeline.models import checkpoints
from pipeline.models.optimizer import linear_schedule
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.train.params import LossParams, StudentParams, TrainingParams
from pipeline.train.train import train
from pipeline.train.trainer import Trainer
from tests.helpers.lexical import make_workplace
from tests.helpers.stores import TinyStores, cpu_runtime, folder_bytes

TRAINING = TrainingParams(
    steps=12,
    step_tokens=60,
    learning_rate=1e-3,
    warmup=0.5,
    weight_decay=0.01,
    gradient_clip=1.0,
    evaluations=3,
    seed=7,
)
OUT = Path("models/fox")


def curve(run: str, name: str) -> list[tuple[int, float]]:
    with (Path("dvclive/plots") / run / "metrics" / f"{name}.tsv").open(encoding="utf-8") as lines:
        return [(int(row["step"]), float(row[name])) for row in csv.DictReader(lines, delimiter="\t")]


def live(**changes: Any) -> Runtime:
    return cpu_runtime(**({"batch_tokens": 500, "checkpoint_seconds": 1e6, "trackers": ("dvclive",)} | changes))


def student(stores: TinyStores, model: Path, tokenizer: Path, runtime: Runtime) -> dict[str, Any]:
    loss = LossParams(targets=0.0, labels=1.0, tail="prior")
    entry = StudentParams(targets="data/masks", start=str(model), loss=loss)
    return train(entry, TRAINING, stores.corpus(), tokenizer=tokenizer, out=OUT, runtime=runtime)


def test_training(tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path) -> None:
    record = student(tiny_stores, tiny_mlm, tiny_tokenizer, live())
    with_curves = folder_bytes(OUT)
    assert [[step, nll] for step, nll in curve("train-fox", "heldout_nll")] == record["curve"]
    assert curve("train-fox", "labels_loss") == [
        (step + 1, pytest.approx(labels)) for step, (_, labels) in enumerate(record["losses"])
    ]
    assert curve("train-fox", "learning_rate") == [
        (step + 1, pytest.approx(linear_schedule(step, 12, warmup=0.5, peak=1e-3))) for step in range(12)
    ]
    shutil.rmtree(".work")
    student(tiny_stores, tiny_mlm, tiny_tokenizer, live(trackers=()))
    assert folder_bytes(OUT) == with_curves


def test_training_that_was_killed_has_each_point_once(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in step 9; the checkpoint is of step 3, so 4 to 8 are taken twice."""
    learn = Trainer.learn

    def killed(self: Trainer, number: int, *rest: Any) -> None:
        if number == 8:
            raise KeyboardInterrupt
        learn(self, number, *rest)

    saves: list[int] = []
    save = checkpoints.save

    def once(folder: Path, *, step: int, **state: Any) -> None:
        if step == 3:
            saves.append(step)
            save(folder, step=step, **state)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", killed)
        patch.setattr(checkpoints, "save", once)
        with pytest.raises(KeyboardInterrupt):
            student(tiny_stores, tiny_mlm, tiny_tokenizer, live(checkpoint_seconds=0.0))
    assert saves == [3]
    assert [step for step, _ in curve("train-fox", "labels_loss")] == list(range(1, 9))
    record = student(tiny_stores, tiny_mlm, tiny_tokenizer, live())
    assert [step for step, _ in curve("train-fox", "labels_loss")] == list(range(1, 13))
    assert [[step, nll] for step, nll in curve("train-fox", "heldout_nll")] == record["curve"]


def test_lexical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_workplace(tmp_path / "made")
    monkeypatch.chdir(tmp_path)
    record = work.train(work.entry(training={"epochs": 2.0}), OUT, runtime=live(batch_tokens=4000))
    assert [step for step, _ in curve("lexical-fox", "learning_rate")] == list(range(1, record["steps"] + 1))
    assert [value for _, value in curve("lexical-fox", "gold_loss")] == pytest.approx(
        [gold for gold, _ in record["losses"]], abs=1e-5
    )


def test_points_are_means_over_the_steps_between_them() -> None:
    """Five steps a point; a checkpoint has turned the first losses into numbers."""
    import torch

    trainer = object.__new__(LexicalTrainer)
    trainer.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)
    trainer.state = {"losses": [[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], *(torch.tensor([3.0, 1.0]) for _ in range(3))]}
    assert trainer.measured(6, every=5) == {}
    assert trainer.measured(10, every=5) == {
        "gold_loss": pytest.approx(np.mean([1, 2, 3, 3, 3])),
        "soft_labels_loss": pytest.approx(0.6),
        "learning_rate": 0.25,
    }


def test_teaching(tiny_stores: TinyStores, tiny_teacher: Path, workplace: Path) -> None:
    params = TeacherParams.model_validate(
        {"model": str(tiny_teacher), "keep": {"form": "topk", "k": 8}, "temperatures": [1.0], "seed": 0}
        | {"tail": {"rank": 0, "step": 0.4}}
    )
    teach(params, tiny_stores.corpus(), out=Path("data/logits/fox"), runtime=live())
    with_curves = folder_bytes(Path("data/logits/fox"))
    points = curve("teach-fox", "rows_per_second")
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    assert all(rate > 0 for _, rate in points)
    shutil.rmtree(".work")
    teach(params, tiny_stores.corpus(), out=Path("data/logits/fox"), runtime=live(trackers=()))
    assert folder_bytes(Path("data/logits/fox")) == with_curves
