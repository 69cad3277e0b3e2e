"""Settings of lexical students, and what is refused before a model learns."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.lexical_student import LexicalParams, require_room
from pipeline.sense_params import ReadingParams
from storage.errors import ParamsError

REHEARSAL = {"weight": 1.0, "step_tokens": 64, "loss": {"targets": 0.0, "labels": 1.0, "tail": "prior"}}


def entry(**changes: Any) -> dict[str, Any]:
    training = {
        "epochs": 1.0, "step_words": 8, "learning_rate": 1e-4, "warmup": 0.1, "weight_decay": 0.0,
        "gradient_clip": 1.0, "most_candidates": 4, "seed": 0,
    }  # fmt: skip
    reading = {"context_tokens": 32, "gloss_tokens": 16, "examples": True}
    whole = {
        "start": "m", "senses": ["examples"], "objective": "lmgc", "reading": reading, "gold": 1.0, "belief": 0.0,
        "beliefs": "data/senses", "targets": "data/masks", "training": training,
    }  # fmt: skip
    return whole | changes


@pytest.mark.parametrize("objective", ["lmgc", "bi_encoder"])
def test_the_language_model_s_part_belongs_to_m_alone(objective: str) -> None:
    assert LexicalParams.model_validate(entry(objective=objective)).language_model is None
    kept = LexicalParams.model_validate(entry(objective=f"{objective}_m", language_model=REHEARSAL))
    assert kept.language_model is not None and kept.language_model.loss.labels == 1.0
    for wrong in (entry(objective=objective, language_model=REHEARSAL), entry(objective=f"{objective}_m")):
        with pytest.raises(ValidationError, match="language_model belongs to objectives that end in _m"):
            LexicalParams.model_validate(wrong)


@pytest.mark.parametrize("changes", [{"senses": []}, {"gold": 0.0, "belief": 0.0}])
def test_nothing_to_learn_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="something to learn from"):
        LexicalParams.model_validate(entry(**changes))


@pytest.mark.parametrize(
    ("way", "context", "gloss", "needs"), [("bi", 65, 20, 65), ("bi", 20, 66, 66), ("cross", 40, 23, 65)]
)
def test_sequences_longer_than_the_model_reads(way: str, context: int, gloss: int, needs: int) -> None:
    reading = ReadingParams(context_tokens=context, gloss_tokens=gloss, examples=False)
    require_room(reading, way, positions=needs, start=Path("m"))
    with pytest.raises(ParamsError, match=rf"sequences of {needs} tokens, but m reads {needs - 1} at most"):
        require_room(reading, way, positions=needs - 1, start=Path("m"))
