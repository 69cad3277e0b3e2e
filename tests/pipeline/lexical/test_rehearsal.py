"""Masked sequences in lexical steps: their gradients, the examples they take, and the falling weight of targets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.lexical.inputs import lexical_data
from pipeline.lexical.params import RehearsalParams
from pipeline.lexical.rehearsal import Rehearsal
from pipeline.lexical.trainer import LexicalTrainer, kept_candidates
from pipeline.models.masked_lm import MaskedLM
from pipeline.text.inputs import model_inputs
from pipeline.text.tokenizer import load_tokenizer
from pipeline.train.data import Step, plan_steps
from pipeline.train.objective import LanguageTask, StepDone
from pipeline.train.train import open_targets, open_training_data
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from tests.helpers.inventories import sense_model
from tests.helpers.lexical import CPU, Workplace, make_workplace
from tests.helpers.teacher_stores import make_world


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture(scope="module")
def fused(work: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of two made-up teachers over the masks."""
    return make_world(work.stores, tmp_path_factory.mktemp("world") / "data").data / "targets" / "confident"


def params_of(*, weight: float = 1.0, step_tokens: int = 200, **loss: Any) -> RehearsalParams:
    whole = {"targets": 0.0, "labels": 1.0, "tail": "bucket"} | loss
    return RehearsalParams.model_validate({"weight": weight, "step_tokens": step_tokens, "loss": whole})


def rehearsal_of(
    work: Workplace,
    model: Any,
    params: RehearsalParams,
    *,
    targets: Path | None = None,
    own: bool = False,
    steps: int = 8,
    seed: int = 0,
) -> Rehearsal:
    corpus = work.stores.corpus()
    fused = None if own else open_targets(str(targets), params.loss, masks=corpus.masks)
    data = open_training_data(corpus, fused)
    lm = MaskedLM(model, CPU)
    return Rehearsal(lm, params, data=data, own=own, autocast=torch.float32, batch_tokens=500, steps=steps, seed=seed)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def masked_logits(work: Workplace, model: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits and true tokens at the masked positions of the train split, one sequence at a time."""
    cut, masks = Store(work.stores.sequences, Sequences), Store(work.stores.masks, Masks).read("train")
    sequences, mask = cut.read("train"), cut.facts["special"]["mask"]
    key = masks.copy_P.astype(int) * 10**6 + masks.sequence_P
    for number in np.unique(key):
        mine = np.flatnonzero(key == number)
        row, columns = int(masks.sequence_P[mine[0]]), masks.column_P[mine].astype(int)
        ids = sequences.input_ids_NL[row, : sequences.length_N[row]].astype(np.int64)
        ids[columns] = mask
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0][columns]
        yield logits, torch.from_numpy(masks.label_P[mine].astype(np.int64))


def every_blank(work: Workplace, model: Any) -> torch.Tensor:
    """Mean cross-entropy at all masked positions."""
    parts = [torch.nn.functional.cross_entropy(*found, reduction="none") for found in masked_logits(work, model)]
    return torch.cat(parts).mean()


def test_a_step_s_gradients_are_those_of_both_losses(work: Workplace) -> None:
    """Every example in one step, so that the language model's part can be computed from the plain model."""
    entry = work.entry(objective="bi_encoder_m", training={"gradient_clip": 1e9})
    tokenizer = load_tokenizer(work.start)
    data = lexical_data(
        work.inputs(entry), entry.reading, entry.objective, gold_weight=1.0, soft_label_weight=0.0, heldout=[]
    )
    kept = kept_candidates(data.batch_builder.view, most=3, seed=0, epoch=0)

    def stepped(weight: float | None) -> dict[str, torch.Tensor]:
        model = sense_model(work.start, "bi")
        rehearsal = None
        if weight is not None:
            rehearsal = rehearsal_of(work, model.lm, params_of(weight=weight, labels=0.5, step_tokens=10**6))
        trainer = LexicalTrainer(
            model, data, entry.training, rehearsal=rehearsal, pad=tokenizer.special["pad"], device=CPU,
            autocast=torch.float32, batch_tokens=4000,
        )  # fmt: skip
        trainer.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
        trainer.learn(0, data.instance_I, kept)
        return gradients(model)

    alone, both = stepped(None), stepped(3.0)
    model = sense_model(work.start, "bi")
    every_blank(work, model.lm).backward()  # type: ignore[no-untyped-call]
    language = gradients(model)
    assert both.keys() == alone.keys() | language.keys()
    assert "lm.cls.predictions.transform.dense.weight" in both.keys() - alone.keys()
    for name, value in both.items():
        none = torch.zeros_like(value)
        expected = alone.get(name, none) + 3.0 * 0.5 * language.get(name, none)
        torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-3, msg=name)


Seen = tuple[list[int], tuple[int, ...], float, float]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Examples, windows, weight of targets and scale of each step, which then costs nothing; windows of 2 shards."""
    found: list[Seen] = []

    def record(self: LanguageTask, step: Step, *, targets_weight: float, scale: float, own: Any) -> StepDone:
        found.append((step.example_B.tolist(), step.window.shards, targets_weight, scale))
        return StepDone(tokens=0, labels=0, means=(0.0, 0.0))

    monkeypatch.setattr(LanguageTask, "backward", record)
    monkeypatch.setattr("pipeline.lexical.rehearsal.WINDOW_PREDICTIONS", 128)
    return found


def test_a_resumed_run_sees_what_it_would_have_seen(work: Workplace, seen: list[Seen]) -> None:
    model = sense_model(work.start, "bi").lm
    whole = rehearsal_of(work, model, params_of(weight=0.25))
    for number in range(12):
        whole.backward(number)
    steps, seen[:] = seen.copy(), []
    again = rehearsal_of(work, model, params_of(weight=0.25))
    for number in range(5, 12):
        again.backward(number)
    assert seen == steps[5:]
    assert len({window for _, window, _, _ in steps}) > 1, "the window changes on the way"
    assert {scale for *_, scale in steps} == {0.25}


def test_passes_are_those_of_the_plan(work: Workplace, seen: list[Seen]) -> None:
    """In the order that distillation would see them too, with the shards they lie in."""
    model = sense_model(work.start, "bi").lm
    taught = rehearsal_of(work, model, params_of(), seed=3)
    for number in range(9):
        taught.backward(number)
    plan = plan_steps(taught._data, step_tokens=200, seed=3, window_shards=2)
    assert [(examples, window) for examples, window, _, _ in seen] == [
        (step.example_B.tolist(), step.window.shards) for step in itertools.islice(plan, 9)
    ]
    first = seen[0]
    rehearsal_of(work, model, params_of(), seed=4).backward(0)
    assert seen[-1][0] != first[0], "another seed, another order"


def test_the_teachers_fade(work: Workplace, fused: Path, seen: list[Seen]) -> None:
    model = sense_model(work.start, "bi").lm
    for anneal, expected in ((0.0, [2.0] * 4), (1.0, [2.0, 1.5, 1.0, 0.5]), (0.5, [2.0, 1.0, 0.0, 0.0])):
        seen.clear()
        taught = rehearsal_of(work, model, params_of(targets=2.0, anneal=anneal), targets=fused, steps=4)
        for number in range(4):
            taught.backward(number)
        assert [weight for _, _, weight, _ in seen] == pytest.approx(expected)


def test_faded_teachers_leave_the_gradients_of_true_tokens(work: Workplace, fused: Path) -> None:
    def at(number: int, **loss: Any) -> dict[str, torch.Tensor]:
        model = sense_model(work.start, "bi").lm
        rehearsal_of(work, model, params_of(labels=0.5, **loss), targets=fused, steps=4).backward(number)
        return gradients(model)

    for number, same in ((2, True), (1, False)):
        faded, labels = at(number, targets=1.0, anneal=0.5), at(number)
        differs = max(float((faded[name] - value).abs().max()) for name, value in labels.items())
        assert (differs < 1e-6) == same, differs


OWN = {"targets": 1.0, "labels": 0.0, "step_tokens": 10**6}


def test_a_model_that_has_not_changed_agrees_with_itself(work: Workplace) -> None:
    model = sense_model(work.start, "bi").lm
    rehearsal_of(work, model, params_of(**OWN), own=True).backward(0)
    assert all(float(value.abs().max()) < 1e-6 for value in gradients(model).values())
    rehearsal_of(work, model, params_of(targets=0.0, step_tokens=10**6)).backward(0)
    assert max(float(value.abs().max()) for value in gradients(model).values()) > 1e-2, "true tokens have gradients"


@pytest.mark.parametrize("keep", [3, 10**6])
def test_own_predictions_precede_the_change(work: Workplace, monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    """All positions in one step: cross-entropy with the most likely ids before training, and of all others together.

    With as many ids as there are, the others have no part.
    """
    monkeypatch.setattr("pipeline.lexical.rehearsal.OWN_KEEP", keep)
    model = sense_model(work.start, "bi").lm
    taught = rehearsal_of(work, model, params_of(weight=0.5, **OWN), own=True)
    with torch.no_grad():
        before = [torch.softmax(logits, dim=1) for logits, _ in masked_logits(work, model)]
        rng = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
    taught.backward(0)
    found = gradients(model)
    model.zero_grad()
    losses = []
    for p, (logits, _) in zip(before, masked_logits(work, model), strict=True):
        q, ids = torch.softmax(logits, dim=1), p.sort(dim=1, descending=True).indices[:, :keep]
        p_listed, q_listed = p.gather(1, ids), q.gather(1, ids)
        loss = -(p_listed * q_listed.log()).sum(1)
        if keep < p.shape[1]:
            loss = loss - (1 - p_listed.sum(1)) * (1 - q_listed.sum(1)).log()
        losses.append(loss)
    (0.5 * torch.cat(losses).mean()).backward()  # type: ignore[no-untyped-call]
    assert max(float(value.abs().max()) for value in found.values()) > 1e-3
    for name, value in gradients(model).items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=1e-3, msg=name)


def test_only_what_will_be_brought_is_asked(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(view: Any, examples: np.ndarray) -> Any:
        asked.extend(examples.tolist())
        return model_inputs(view, examples)

    monkeypatch.setattr("pipeline.lexical.rehearsal.model_inputs", counted)
    model = sense_model(work.start, "bi").lm
    taught = rehearsal_of(work, model, params_of(targets=1.0, labels=0.0), own=True, steps=3)
    plan = itertools.islice(plan_steps(taught._data, step_tokens=200, seed=0, window_shards=10**6), 3)
    used, window = set(), next(plan_steps(taught._data, step_tokens=200, seed=0, window_shards=10**6)).window
    for step in plan:
        used |= set(step.example_B.tolist())
    assert sorted(asked) == list(range(len(used))), "each once"
    assert len(asked) < len(window.view.lengths_G())
    for number in range(3):
        taught.backward(number)
