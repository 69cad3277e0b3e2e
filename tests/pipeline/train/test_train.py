"""The targets' weight by step, and the losses of its first step against dense float64 targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.evaluate.heldout import document_of_each
from pipeline.models.masked_lm import MaskedLM, load_checked
from pipeline.train.data import ShardWindow, Step
from pipeline.train.objective import LanguageTask
from pipeline.train.params import LossParams, StudentParams, TrainingParams
from pipeline.train.train import open_training_data, train
from storage.errors import OutOfMemory, StaleParent, VocabularyError
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.sequences import Masks, Sequences
from storage.records.targets import FusedTargets
from tests.helpers.distributions import fused_targets, softmaxes, tail_prior
from tests.helpers.reference import restore_fused
from tests.helpers.stores import TinyStores, cpu_runtime
from tests.helpers.teacher_stores import write_targets

PARAMS = TrainingParams(
    steps=100,
    step_tokens=40,
    learning_rate=1e-3,
    warmup=0.1,
    weight_decay=0.01,
    gradient_clip=1.0,
    evaluations=4,
    seed=7,
)


def test_the_teachers_lead_at_first_and_the_true_tokens_decide_in_the_end() -> None:
    def weights(anneal: float) -> list[float]:
        loss = LossParams(targets=2.0, labels=1.0, tail="bucket", anneal=anneal)
        return [loss.targets_weight(step, 8) for step in range(8)]

    assert weights(0.0) == [2.0] * 8
    assert weights(1.0) == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25])
    assert weights(0.5) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0, 0, 0, 0])


TEMPERATURE = 2.0


def targets_of(
    stores: TinyStores,
    out: Path,
    *,
    tail_rank: int,
    masks: str | None = None,
    vocabulary: int | None = None,
    every: int = 5,
) -> Store[FusedTargets]:
    """Fused targets of two made-up teachers over the masks, every fifth row (or `every`) without one."""
    mask_store = Store(stores.masks, Masks)
    size, rng = int(mask_store.facts["vocabulary"]), np.random.default_rng(1)
    dense, rows = {}, {}
    codes = {
        split: rng.integers(-15, 16, (mask_store.plan(split).rows, 2, tail_rank)).astype(np.int8) for split in SPLITS
    }
    for split in SPLITS:
        label_P = mask_store.read(split).label_P.astype(np.int64)
        dense[split] = np.stack([softmaxes(rng, label_P, size) for _ in range(2)])
        rows[split] = fused_targets(
            dense[split],
            rng.dirichlet([2, 1], len(label_P)),
            label_P,
            keep=6,
            covered_P=np.arange(len(label_P)) % every != 1,
            sketch_PTD=codes[split],
        )
    return write_targets(
        out,
        rows,
        bias_TV=np.log([tail_prior(teacher, keep=6) for teacher in dense["train"]]),
        basis_TDV=rng.normal(0, 0.1, (2, tail_rank, size)) if tail_rank else None,
        splits=mask_store.manifest.splits,
        parents={"masks": masks or mask_store.identity},
        facts={"temperature": TEMPERATURE, "vocabulary": vocabulary or size},
    )


def run(
    stores: TinyStores, model: Path, tokenizer: Path, out: Path, own: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """One step over the whole train split; own: what the student has in place of `training`'s."""
    loss = {"targets": 1.0, "labels": 0.5, "tail": "prior"} | changes
    return train(
        StudentParams(targets="data/targets/any", start=str(model), loss=LossParams(**loss), **(own or {})),
        PARAMS.model_copy(update={"steps": 1, "step_tokens": 10**6, "evaluations": 1}),
        stores.corpus(),
        tokenizer=tokenizer,
        out=out,
        runtime=cpu_runtime(batch_tokens=500, checkpoint_seconds=1e6),
    )


def test_more_than_one_epoch_is_warned_of(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A student of labels alone memorises repeated masked positions, which flatters the teachers."""
    tokens = int(np.sum(Store(tiny_stores.sequences, Sequences).read("train").length_N))
    copies = int(Store(tiny_stores.masks, Masks).read("train").copy_P.max()) + 1
    for name, steps in (("once", 10), ("thrice", 30)):
        caplog.clear()
        record = train(
            StudentParams(
                targets="data/masks", start=str(tiny_mlm), loss=LossParams(targets=0.0, labels=1.0, tail="prior")
            ),
            PARAMS.model_copy(update={"steps": steps, "step_tokens": tokens * copies // 10, "evaluations": 1}),
            tiny_stores.corpus(),
            tokenizer=tiny_tokenizer,
            out=workplace / name,
            runtime=cpu_runtime(batch_tokens=500, checkpoint_seconds=1e6),
        )
        said = [message for message in caplog.messages if "epochs over the masked positions" in message]
        masks = Store(tiny_stores.masks, Masks).read("heldout")
        count_D = np.bincount(document_of_each(Store(tiny_stores.sequences, Sequences).read("heldout"), masks)[1])
        for (_, nll), mean_D in zip(record["curve"], record["curve_document_means"], strict=True):
            assert mean_D @ count_D / len(masks) == pytest.approx(nll, abs=1e-4)
        if name == "once":
            assert not said
            assert record["passes"] == pytest.approx(1, abs=0.1)
        else:
            (said_once,) = said
            assert said_once.startswith("30 steps are 3.0 epochs over the masked positions. New ones teach more: ")
            assert said_once.endswith(f"raise mask.copies, now {copies}")
            assert record["passes"] == pytest.approx(3, abs=0.3)
        assert f"{record['passes']} epochs over the masked positions" in (workplace / name / "README.md").read_text(
            encoding="utf-8"
        )


def test_a_curve_of_some_documents_is_that_of_these_documents_and_changes_no_weight(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    found = {}
    for positions in (0, 40):
        record = train(
            StudentParams(targets="data/masks", start=str(tiny_mlm), loss=LossParams(labels=1.0)),
            PARAMS.model_copy(update={"steps": 4, "evaluations": 2, "evaluated_positions": positions}),
            tiny_stores.corpus(),
            tokenizer=tiny_tokenizer,
            out=workplace / str(positions),
            runtime=cpu_runtime(batch_tokens=500, checkpoint_seconds=1e6),
        )
        found[positions] = record
    whole, part = found[0], found[40]
    assert (workplace / "0/model.safetensors").read_bytes() == (workplace / "40/model.safetensors").read_bytes()
    assert whole["identity"] != part["identity"]
    chosen = [whole["curve_documents"].index(row) for row in part["curve_documents"]]
    assert 0 < len(chosen) < len(whole["curve_documents"])
    for all_D, part_D in zip(whole["curve_document_means"], part["curve_document_means"], strict=True):
        assert [all_D[place] for place in chosen] == pytest.approx(part_D, abs=1e-4)


@pytest.mark.parametrize(("key", "value", "other"), [("seed", 1, 0), ("learning_rate", 3e-4, 1e-3)], ids=str)
def test_what_a_student_has_of_its_own_takes_the_place_of_the_sections(
    tiny_stores: TinyStores,
    tiny_mlm: Path,
    tiny_tokenizer: Path,
    workplace: Path,
    key: str,
    value: float,
    other: float,
) -> None:
    """With the same identity, so that spelling out what the section says trains nothing again."""

    def trained(name: str, *, own: float | None, section: float) -> dict[str, Any]:
        return train(
            StudentParams.model_validate(
                {
                    "targets": "data/masks",
                    "start": str(tiny_mlm),
                    "loss": {"targets": 0.0, "labels": 1.0, "tail": "prior"},
                    key: own,
                }
            ),
            PARAMS.model_copy(update={"steps": 3, "step_tokens": 200, "evaluations": 1, key: section}),
            tiny_stores.corpus(),
            tokenizer=tiny_tokenizer,
            out=workplace / name,
            runtime=cpu_runtime(batch_tokens=500, checkpoint_seconds=1e6),
        )

    first, second = trained("a", own=None, section=value), trained("b", own=value, section=other)
    third = trained("c", own=other, section=value)
    assert first["identity"] == second["identity"] != third["identity"]
    assert first["losses"] == second["losses"] != third["losses"]


def test_the_learning_rate_that_was_used_is_recorded(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    out = workplace / "student"
    record = run(tiny_stores, tiny_mlm, tiny_tokenizer, out, own={"learning_rate": 1.2e-4}, targets=0.0)
    assert record["learning_rate"] == 1.2e-4
    assert json.loads((out / "training.json").read_text(encoding="utf-8"))["learning_rate"] == 1.2e-4
    assert "learning rate 0.00012, seed 7" in (out / "README.md").read_text(encoding="utf-8")


def test_attention_is_chosen_for_the_device_and_the_number_format(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[str, torch.dtype, int]] = []

    def choose(model: Any, *, device: torch.device, dtype: torch.dtype, tokens: int) -> None:
        chosen.append((device.type, dtype, tokens))

    monkeypatch.setattr("pipeline.train.trainer.choose_attention", choose)
    run(tiny_stores, tiny_mlm, tiny_tokenizer, workplace / "student", targets=0.0)
    assert chosen == [("cpu", torch.float32, tiny_stores.corpus().width)]


def train_logits(stores: TinyStores, model: Path) -> np.ndarray:
    """Logits [P, V] of the train split from the plain model, one sequence at a time."""
    from transformers import AutoModelForMaskedLM

    cut, masks = Store(stores.sequences, Sequences), Store(stores.masks, Masks).read("train")
    sequences, special = cut.read("train"), cut.facts["special"]
    student = AutoModelForMaskedLM.from_pretrained(model).eval()
    logits = np.zeros((len(masks), student.config.vocab_size))
    key = masks.copy_P.astype(int) * 10**6 + masks.sequence_P
    for number in np.unique(key):
        mine = np.flatnonzero(key == number)
        row = int(masks.sequence_P[mine[0]])
        ids = sequences.input_ids_NL[row, : sequences.length_N[row]].astype(np.int64)
        ids[masks.column_P[mine]] = special["mask"]
        with torch.no_grad():
            found = student(input_ids=torch.from_numpy(ids)[None]).logits[0].double().numpy()
        logits[mine] = found[masks.column_P[mine]]
    return logits


@pytest.mark.parametrize("tail_rank", [0, 3])
def test_the_first_losses_are_those_of_the_dense_targets(
    tail_rank: int, tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    """The targets' is the cross-entropy to the restored distribution times T squared, both at the fusion's T."""
    store = targets_of(tiny_stores, Path("data/targets/any"), tail_rank=tail_rank)
    record = run(tiny_stores, tiny_mlm, tiny_tokenizer, Path("models/one"))
    logits = train_logits(tiny_stores, tiny_mlm)
    label_P = Store(tiny_stores.masks, Masks).read("train").label_P.astype(int)

    def log_q(temperature: float) -> np.ndarray:
        power = np.exp(logits / temperature)
        return np.asarray(np.log(power / power.sum(axis=1, keepdims=True)))

    basis = store.constant("tail_basis_TDV") if tail_rank else None
    rows = store.read("train")
    target = restore_fused(rows, bias_TV=store.constant("tail_bias_TV"), basis_TDV=basis)
    soft = -(TEMPERATURE**2) * (target * log_q(TEMPERATURE)).sum(axis=1)
    assert record["losses"] == [
        [
            pytest.approx(soft[rows.covered_P()].mean(), abs=2e-4),
            pytest.approx(-log_q(1.0)[np.arange(len(label_P)), label_P].mean(), abs=2e-5),
        ]
    ]
    assert record["predictions"] == len(label_P)
    assert record["parents"]["targets"] == store.identity


def opened_task(stores: TinyStores, model: Path) -> tuple[LanguageTask, Any, Step]:
    """The task of learning from data/targets/any, the student's module, and one step over the whole train split."""
    module = load_checked(model)
    data = open_training_data(stores.corpus(), Store(Path("data/targets/any"), FusedTargets))
    task = LanguageTask(
        MaskedLM(module, torch.device("cpu")), LossParams(targets=1.0, labels=0.5, tail="prior"), store=data.targets,
        autocast=torch.float32, batch_tokens=300,
    )  # fmt: skip
    window = ShardWindow(data, tuple(range(data.text.plan.shards)))
    return task, module, Step.of(window, np.arange(len(window.view.lengths_G())))


@pytest.mark.parametrize("every", [5, 2])
def test_sums_are_divided_by_all_masked_positions_with_or_without_a_target(
    every: int, tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path
) -> None:
    """The gradient of the output bias against float64: a target weighs the same however many positions have one."""
    store = targets_of(tiny_stores, Path("data/targets/any"), tail_rank=0, every=every)
    task, module, step = opened_task(tiny_stores, tiny_mlm)
    done = task.backward(step, targets_weight=2.0)
    logits = torch.from_numpy(train_logits(tiny_stores, tiny_mlm))
    label_P = step.window.label_P.astype(int)
    rows = store.read("train")
    covered_P = torch.from_numpy(rows.covered_P())
    assert done.labels == len(label_P) and 0.4 < covered_P.double().mean() < 0.9
    target = torch.from_numpy(np.nan_to_num(restore_fused(rows, bias_TV=store.constant("tail_bias_TV"))))
    soft = TEMPERATURE * ((logits / TEMPERATURE).softmax(dim=1) - target) * covered_P[:, None]
    hard = logits.softmax(dim=1) - torch.nn.functional.one_hot(torch.from_numpy(label_P), logits.shape[1])
    expected = (2.0 * soft + 0.5 * hard).sum(dim=0) / len(label_P)
    torch.testing.assert_close(module.cls.predictions.bias.grad.double(), expected, rtol=1e-3, atol=2e-5)


def test_a_step_that_does_not_fit_says_which_setting_to_lower(
    tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets_of(tiny_stores, Path("data/targets/any"), tail_rank=0)
    task, _, step = opened_task(tiny_stores, tiny_mlm)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(task.lm, "logits", full)
    message = r"^train: the gradients of 300 tokens at once do not fit .*Lower runtime.batch_tokens"
    with pytest.raises(OutOfMemory, match=message):
        task.backward(step, targets_weight=1.0)


def test_a_bucket_does_not_read_the_coordinates(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    targets_of(tiny_stores, Path("data/targets/any"), tail_rank=0)
    plain = run(tiny_stores, tiny_mlm, tiny_tokenizer, Path("models/plain"), tail="bucket")
    Path("data/targets/any").rename("data/targets/plain")
    stored = Store(Path("data/targets/plain"), FusedTargets)
    arrays = {split: stored.read(split) for split in SPLITS}
    rng = np.random.default_rng(0)
    bent = {
        split: FusedTargets(**rows.arrays() | {"sketch_PTD": rng.integers(-90, 90, (len(rows), 2, 2)).astype(np.int8)})
        for split, rows in arrays.items()
    }
    write_targets(
        Path("data/targets/any"),
        bent,
        bias_TV=stored.constant("tail_bias_TV"),
        basis_TDV=rng.normal(0, 1, (2, 2, stored.facts["vocabulary"])),
        splits=stored.manifest.splits,
        inputs={"bent": True},
        parents=stored.manifest.parents,
        facts=stored.facts,
    )
    bent_losses = run(tiny_stores, tiny_mlm, tiny_tokenizer, Path("models/bent"), tail="bucket")["losses"]
    assert bent_losses == [pytest.approx(plain["losses"][0], abs=5e-3)]  # rows were rounded twice
    with_tails = run(tiny_stores, tiny_mlm, tiny_tokenizer, Path("models/prior"))["losses"]
    assert with_tails[0][0] != pytest.approx(bent_losses[0][0], abs=0.05)


def test_targets_of_other_masks_or_ids_are_refused(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    targets_of(tiny_stores, Path("data/targets/any"), tail_rank=0, masks="f" * 64)
    with pytest.raises(StaleParent, match=r"targets/any: made from masks f{12}, but .*Run: dvc repro fuse@any"):
        run(tiny_stores, tiny_mlm, tiny_tokenizer, Path("models/one"))
    Path("data/targets/any").rename("data/targets/other")
    targets_of(tiny_stores, Path("data/targets/any"), tail_rank=0, vocabulary=7)
    with pytest.raises(VocabularyError, match=r"targets/any: 7 ids, but .*masks has \d+\. Run: dvc repro fuse@any"):
        run(tiny_stores, tiny_mlm, tiny_tokenizer, Path("models/one"))
    assert not Path("models/one").exists()


def test_a_bfloat16_student_learns_as_one_in_float32_does(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    """Weights stay float32; 100 steps through the bfloat16 copy end within the rounding of its logits."""
    final = {}
    for dtype in (torch.float32, torch.bfloat16):
        record = train(
            StudentParams(
                targets="data/masks", start=str(tiny_mlm), loss=LossParams(targets=0.0, labels=1.0, tail="prior")
            ),
            PARAMS,
            tiny_stores.corpus(),
            tokenizer=tiny_tokenizer,
            out=workplace / str(dtype),
            runtime=replace(cpu_runtime(batch_tokens=500, checkpoint_seconds=1e6), dtype=dtype),
        )
        final[dtype] = record["curve"][-1][1]
        assert record["curve"][0][1] - final[dtype] > 0.1
        weights = load_file(workplace / str(dtype) / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert final[torch.bfloat16] == pytest.approx(final[torch.float32], abs=0.01)
