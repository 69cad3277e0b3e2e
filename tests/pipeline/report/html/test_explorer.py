"""What the explorer's data say is what was evaluated."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest

from pipeline.evaluate.top_tokens import spelled
from pipeline.report.html import explorer
from tests.pipeline.report.html.conftest import EVIL, Made


def unpack(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


@pytest.fixture(scope="module")
def data(made: Made) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', made.text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_every_masked_position_is_shown_in_its_text(data: dict[str, Any], made: Made) -> None:
    """By characters, as Python counts them, not UTF-16 units."""
    start_Q, end_Q, truth_Q = (unpack(data[name], "<u4") for name in ("start", "end", "truth"))
    heldout = made.heldout
    assert unpack(data["position"], "<u4").tolist() == list(range(len(heldout.masked)))
    firsts = [example["first"] for example in data["examples"]]
    assert firsts == sorted(firsts)
    table = made.corpus.documents.read("heldout")
    texts, ids = table.column("text").to_pylist(), table.column("doc_id").to_pylist()
    for q in range(len(truth_Q)):
        example = data["examples"][np.searchsorted(firsts, q, side="right") - 1]
        shown = data["texts"][example["text"]]
        window, place = heldout.masked.sequence_P[q], heldout.masked.column_P[q]
        document = heldout.rows.document_N[window]
        start, end = (ends[window, place] for ends in (heldout.rows.char_start_NL, heldout.rows.char_end_NL))
        assert shown["text"][start_Q[q] : end_Q[q]] == texts[document][start:end]
        assert shown["document"].startswith(ids[document])
        assert example["copy"] == heldout.masked.copy_P[q]
        assert data["tokens"][truth_Q[q]] == spelled(heldout.tokens[heldout.masked.label_P[q]])
    assert any(EVIL[:9] in text["text"] for text in data["texts"])


def test_every_model_shows_the_tokens_of_its_evaluation(data: dict[str, Any], made: Made) -> None:
    kinds = [(model["kind"], model["name"]) for model in data["models"]]
    assert kinds == [
        ("teacher", "alpha"), ("teacher", "beta"), ("fusion", "confident"), ("student", "fused"), ("student", "labels"),
    ]  # fmt: skip
    for model in data["models"]:
        name = f"student/{model['name']}" if model["kind"] == "student" else model["name"]
        top = made.evaluations[name].top
        number_QK = unpack(model["tokens"], "<u4").reshape(-1, data["shown"])
        p_QK = unpack(model["p"], "<u2").reshape(-1, data["shown"]) / data["steps"]
        for q, entries in enumerate(top.top_Q):
            assert [data["tokens"][n] for n in number_QK[q] if n] == [token for token, _ in entries]
            assert p_QK[q][: len(entries)] == pytest.approx([p for _, p in entries], abs=1.1e-4)
        truth_Q = unpack(model["truth"], "<u2").astype(float)
        truth_Q[truth_Q == data["unknown"]] = np.nan
        assert truth_Q / data["steps"] == pytest.approx(top.truth_Q, abs=1.1e-4, nan_ok=True)


def test_a_fusion_names_its_weights_and_its_best_teacher(data: dict[str, Any], made: Made) -> None:
    (fusion,) = (model for model in data["models"] if model["kind"] == "fusion")
    assert fusion["best"] == made.summary["fusions"]["confident"]["best_teacher"]
    for name, packed in fusion["weights"].items():
        expected_Q = made.evaluations["confident"].top.weights[name]
        assert unpack(packed, "<u2") / data["steps"] == pytest.approx(expected_Q, abs=1.1e-4)


def test_with_many_models_fewer_positions_are_shown(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "LARGEST", 20_000)
    shown = {"teachers": ["alpha", "beta"], "fusions": [], "students": []}
    found = explorer.explore(shown, made.corpus, best={}, reports=made.reports)
    assert found.data is not None
    positions = len(unpack(found.data["position"], "<u4"))
    assert 0 < positions < len(made.heldout.masked)
    assert len(json.dumps(found.data)) < 1.3 * 20_000
    assert found.missing == []
