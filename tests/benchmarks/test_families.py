"""The matrix of families: published folder to evaluated student, in each role the model's own logits or one refusal.

Seventeen of the families that `python -m benchmarks.families` runs; the others are like one of these, or refused there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.families.configs import FAMILIES
from benchmarks.families.loads import loads
from benchmarks.families.matrix import World, make_targets, run_family
from benchmarks.families.versions import outcome, student

TESTED = (
    "bert", "roberta", "distilbert", "xlm-roberta", "albert", "electra", "mpnet", "deberta", "deberta-v2", "deberta-v3",
    "convbert", "mobilebert", "fnet", "longformer", "rembert", "modernbert", "eurobert",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """The stores that all families share, and the targets that students learn from."""
    folder = tmp_path_factory.mktemp("families")
    made = World.make(folder / "world")
    return made, make_targets(made, folder / "targets")


@pytest.mark.parametrize("name", TESTED)
def test_a_family_is_teacher_start_and_lexical_student(world: tuple[World, Path], tmp_path: Path, name: str) -> None:
    outcomes = run_family(world[0], name, tmp_path, roles=("teacher", "start", "lexical"), targets=world[1])
    assert [(one.role, one.outcome, one.why) for one in outcomes] == [
        (role, "ok", "") for role in ("teacher", "start", "lexical")
    ]


def test_a_student_is_the_same_where_it_is_loaded_elsewhere(world: tuple[World, Path], tmp_path: Path) -> None:
    """Of a family whose class would read the reference tokenizer in its own way; and two faults are found."""
    folder = student(world[0], "roberta", tmp_path, targets=world[1])
    found = loads(folder)
    assert found.pop("difference") < 1e-6
    assert {found[part] for part in ("tokens", "special", "fills")} == {True}
    config = folder / "tokenizer_config.json"
    config.write_text('{"do_lower_case": true}', encoding="utf-8")
    assert outcome(loads(folder)) == "differs"
    (folder / "config.json").write_text('{"model_type": "of tomorrow"}', encoding="utf-8")
    strange = loads(folder)
    assert outcome(strange) == "not loaded" and "of tomorrow" in strange["why"]


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.refused])
def test_a_family_that_is_refused_is_refused_in_one_line(world: tuple[World, Path], tmp_path: Path, name: str) -> None:
    outcomes = run_family(world[0], name, tmp_path, roles=("teacher", "start"), targets=world[1])
    for one in outcomes:
        assert one.outcome == "refused" and "\n" not in one.why and FAMILIES[name].refused in one.why
