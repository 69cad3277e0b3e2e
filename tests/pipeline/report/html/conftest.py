"""A page of real evaluations: hand-made teachers, a fusion, two students, and texts that would like to be HTML."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluate.evaluate import Evaluation, evaluate_fusion, evaluate_student, evaluate_teacher
from pipeline.evaluate.heldout import Heldout, open_heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.results import write_json
from pipeline.report.summary import Names, write_report
from pipeline.text.corpus_view import MaskedCorpus
from tests.helpers import stores as fakes
from tests.helpers.stores import TINY_TEXT, cpu_runtime
from tests.helpers.teacher_stores import make_world, write_student
from tests.pipeline.report.test_summary import FIDELITY

EVIL = "</script><img src=x onerror=\"document.title='run'\"> \U0001d518 <b>bold</b>"
"""Ends a script, runs one, and has a character of two UTF-16 units."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """The page with what it was made of."""

    page: Path
    summary: dict[str, Any]
    names: Names
    params: EvaluateParams
    reports: Path
    corpus: MaskedCorpus
    heldout: Heldout
    evaluations: dict[str, Evaluation]
    """By name; those of students are student/NAME."""

    @property
    def text(self) -> str:
        return self.page.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path, tiny_mlm: Path) -> Made:
    folder = tmp_path_factory.mktemp("page")
    fakes.tiny_documents(folder, texts=tuple(f"{EVIL} {text}" for text in TINY_TEXT))
    fakes.tiny_sequences(folder, tiny_tokenizer, sequence_tokens=48)
    stores = fakes.tiny_masks(folder, tiny_tokenizer)
    world = make_world(stores, folder / "data")
    corpus, reports = stores.corpus(), folder / "reports"
    heldout = open_heldout(corpus)
    params = EvaluateParams(
        against=str(world.data / "targets" / "confident"),
        bootstrap=50,
        seed=0,
        domains={"pets": ["dog", "cat"], "rest": ["*"]},
    )
    logits = world.data / "logits"
    found = {name: evaluate_teacher(params, heldout, logits=logits / name) for name in ("alpha", "beta")}
    found["confident"] = evaluate_fusion(params, heldout, targets=world.data / "targets" / "confident", logits=logits)
    for name, targets in (("fused", "data/targets/confident"), ("fused-1", "data/targets/confident"), ("labels", None)):
        student = write_student(folder / "models" / name, tiny_mlm, stores, targets=targets)
        found[f"student/{name}"] = evaluate_student(params, heldout, model=student, runtime=cpu_runtime())
    for name, evaluation in found.items():
        kind = "teachers" if name in ("alpha", "beta") else "students" if "/" in name else "fusions"
        evaluation.write(reports / kind / f"{name.rpartition('/')[2]}.json")
    for name in ("alpha", "beta"):
        write_json(reports / "fidelity" / f"{name}.json", FIDELITY)
    names = Names(
        teachers=("alpha", "beta"),
        fusions=("confident",),
        students=("fused", "fused-1", "labels"),
        seeds={"fused": {0: "fused", 1: "fused-1"}, "labels": {0: "labels"}},
    )
    write_report(params, names, reports=reports, out=folder / "out", corpus=corpus)
    return Made(
        page=folder / "out" / "index.html",
        summary=json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8")),
        names=names,
        params=params,
        reports=reports,
        corpus=corpus,
        heldout=heldout,
        evaluations=found,
    )
