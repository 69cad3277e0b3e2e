"""Scores against a reference that follows the published scorer answer by answer in exact fractions, and by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.evaluate.bootstrap import resample
from pipeline.senses.raganato import Sentence, Token
from pipeline.tasks.wsd_scorer import (
    InstanceInfo,
    Keys,
    WsdScores,
    describe,
    first_sense,
    score,
    write_answers,
)
from storage.errors import DataError


def info_of(names: list[str], **changes: object) -> dict[str, InstanceInfo]:
    """Each instance in a document and sentence of its own, with candidates A, B, C."""
    return {
        name: InstanceInfo(
            **{
                "set_name": "tiny",
                "document": name,
                "sentence": name,
                "pos": "NOUN",
                "candidates": ("A", "B", "C"),
                **changes,
            }
        )
        for name in names
    }


def scored(gold: Keys, answers: Keys, info: Mapping[str, InstanceInfo] | None = None) -> WsdScores:
    return score(gold, answers, info=info_of(list(gold)) if info is None else info, resamples=20, seed=0)


def reference(gold: Keys, answers: Keys) -> tuple[Fraction | None, Fraction, Fraction]:
    """Precision, recall and F1 by their definitions: every answer adds its share to what is right or to what is wrong.

    Precision is None where nothing was answered.
    """
    right = wrong = Fraction(0)
    for instance, keys in answers.items():
        if instance not in gold:
            continue
        different = sorted(set(keys))
        for key in different:
            if key in gold[instance]:
                right += Fraction(1, len(different))
            else:
                wrong += Fraction(1, len(different))
    recall = right / len(gold)
    if right + wrong == 0:
        return None, recall, Fraction(0)
    precision = right / (right + wrong)
    return precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else Fraction(0)


def require_equal(found: WsdScores, group: str, expected: tuple[Fraction | None, Fraction, Fraction]) -> None:
    precision, recall, f1 = expected
    got = found.groups[group]
    if precision is None:
        assert math.isnan(got.precision.value)
    else:
        assert got.precision.value == pytest.approx(float(precision), abs=1e-12)
    assert got.recall.value == pytest.approx(float(recall), abs=1e-12)
    assert got.f1.value == pytest.approx(float(f1), abs=1e-12)


GOLD = {"a": ("A",), "b": ("A", "B"), "c": ("C",), "d": ("B",)}


@pytest.mark.parametrize(
    ("answers", "precision", "recall", "f1"),
    [
        ({"a": ("A",), "b": ("B",), "c": ("C",), "d": ("B",)}, 1.0, 1.0, 1.0),
        ({"a": ("A",), "b": ("B",), "c": ("A",)}, 2 / 3, 2 / 4, 4 / 7),  # d is missing: lowers recall only
        ({"a": ("A", "B"), "b": ("A", "B"), "c": ("A", "B", "C"), "d": ("A",)}, 11 / 24, 11 / 24, 11 / 24),
        ({"a": ("A", "A")}, 1.0, 1 / 4, 2 / 5),  # the same answer twice is one answer
        ({"a": ("B",), "d": ("A",)}, 0.0, 0.0, 0.0),
        ({"a": ("A",), "z": ("A",)}, 1.0, 1 / 4, 2 / 5),  # z has no gold: ignored
        ({"a": ("A",), "b": ()}, 1.0, 1 / 4, 2 / 5),  # no key is no answer
        ({}, math.nan, 0.0, 0.0),
    ],
)
def test_scores_computed_by_hand(answers: Keys, precision: float, recall: float, f1: float) -> None:
    got = scored(GOLD, answers).groups["all"]
    values = [got.precision.value, got.recall.value, got.f1.value]
    assert values == pytest.approx([precision, recall, f1], abs=1e-12, nan_ok=True)
    assert (got.recall.n, got.f1.n) == (4, 4)
    assert got.precision.n == sum(bool(answers.get(name)) for name in GOLD)


KEYS = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=3).map(tuple)
NAMES = st.sampled_from(
    [f"{where}.d{document}.s{sentence}" for where in "xy" for document in "01" for sentence in "012"]
)


@settings(deadline=None)
@given(gold=st.dictionaries(NAMES, KEYS, min_size=1), answers=st.dictionaries(NAMES, KEYS))
def test_every_group_agrees_with_the_reference(gold: Keys, answers: Keys) -> None:
    info = {
        name: InstanceInfo(
            set_name={"x": "semeval2007", "y": "other"}[name[0]],
            document=name[:4],
            sentence=name,
            pos=["NOUN", "VERB"][name.endswith("1")],
            candidates=("A", "B"),
        )
        for name in gold
    }
    if answers and not set(gold) & set(answers):
        with pytest.raises(DataError, match="answers to other data"):
            scored(gold, answers, info)
        return
    found = scored(gold, answers, info)
    members = {"all": set(gold)}
    for name, about in info.items():
        members.setdefault(f"set_{about.set_name}", set()).add(name)
        members.setdefault(f"pos_{about.pos.lower()}", set()).add(name)
    if {"set_semeval2007", "set_other"} <= set(members):
        members["all_without_semeval2007"] = members["set_other"]
    assert set(found.groups) == set(members)
    for group, names in members.items():
        part = {name: gold[name] for name in names}
        require_equal(found, group, reference(part, answers))
        baseline = reference(part, dict.fromkeys(names, ("A",)))
        assert found.groups[group].first_sense.value == pytest.approx(float(baseline[2]))


def test_what_stands_beside_a_score() -> None:
    """One sense only, several, none in the inventory, and gold that is no candidate."""
    gold = {"one": ("A",), "two": ("B",), "more": ("A",), "none": ("Z",), "lost": ("Z",)}
    info = (
        info_of(["one"], candidates=("A",))
        | info_of(["two"], candidates=("A", "B"))
        | info_of(["more", "lost"])
        | info_of(["none"], candidates=())
    )
    assert first_sense(info) == {"one": ("A",), "two": ("A",), "more": ("A",), "lost": ("A",)}
    got = scored(gold, {"one": ("A",), "two": ("B",), "more": ("B",)}, info).groups["all"]
    assert got.monosemous.value == pytest.approx(1 / 5)
    assert (got.polysemous.value, got.polysemous.n) == (pytest.approx(1 / 3), 3)
    assert got.first_sense_polysemous.value == pytest.approx(1 / 3)
    assert got.first_sense.value == pytest.approx(2 * 2 / (4 + 5))
    assert got.unreachable == 2


def test_counts_of_what_does_not_fit() -> None:
    found = scored(GOLD, {"a": ("A",), "y": ("A",), "z": ("A",)}, info_of(["b", "c", "d"]))
    assert (found.ignored, found.undescribed) == (2, 1)
    assert found.groups["all"].f1.n == 4
    assert found.groups["set_tiny"].f1.n == 3


def test_instances_without_information_are_scored_as_the_official_scorer_does() -> None:
    found = scored(GOLD, {"a": ("A",), "b": ("C",)}, {})
    assert set(found.groups) == {"all"}
    require_equal(found, "all", reference(GOLD, {"a": ("A",), "b": ("C",)}))
    assert found.groups["all"].first_sense.value == 0


def test_all_without_the_development_set_only_where_there_are_others() -> None:
    info = info_of(["a", "b"], set_name="semeval2007") | info_of(["c", "d"], set_name="senseval2")
    answers = {"a": ("A",), "b": ("A",), "c": ("A",), "d": ("B",)}
    found = scored(GOLD, answers, info).groups
    assert found["all"].f1.value == 0.75
    assert found["all_without_semeval2007"].f1.value == 0.5
    assert "all_without_semeval2007" not in scored(GOLD, answers).groups
    assert "all_without_semeval2007" not in scored(GOLD, answers, info_of(list(GOLD), set_name="semeval2007")).groups


def test_metrics_are_named_by_group_and_leave_out_what_is_undefined() -> None:
    found = scored({"a": ("A",), "b": ("A",)}, {}, info_of(["a", "b"], candidates=("A",), pos="ADJ")).metrics()
    assert set(found) == {
        f"{group}{quantity}"
        for group in ("all", "set_tiny", "pos_adj")
        for quantity in ("", "_recall", "_first_sense", "_monosemous")
    }
    assert found["all"].value == 0
    assert found["pos_adj_first_sense"].value == 1


@pytest.mark.parametrize("documents", [19, 20])
def test_intervals_are_over_documents_when_there_are_enough(documents: int) -> None:
    """Against a plain loop; the documents of a set are told apart by its name, as both sets have a d0."""
    rng = np.random.default_rng(documents)
    gold, answers, info = {}, {}, {}
    for number in range(60):
        name = f"i{number}"
        where, document = divmod(number % documents, 10)
        gold[name] = ("A",)
        if rng.random() < 0.8:
            answers[name] = ("A",) if rng.random() < 0.6 else ("B", "A")
        info |= info_of([name], set_name=f"set{where}", document=f"d{document}", sentence=f"s{number // 2 % 3}")
    got = score(gold, answers, info=info, resamples=200, seed=3).groups["all"]
    units: dict[tuple[str, ...], list[str]] = {}
    for name, about in info.items():
        label = (about.set_name, about.document)
        units.setdefault(label if documents == 20 else (*label, about.sentence), []).append(name)
    assert (got.unit, got.units) == ("document" if documents == 20 else "sentence", len(units))
    values = []
    for times_D in np.concatenate(list(resample(len(units), resamples=200, seed=3))):
        drawn = [name for names, times in zip(units.values(), times_D, strict=True) for name in names * int(times)]
        right = sum("A" in answers.get(name, ()) and 1 / len(answers[name]) for name in drawn)
        values.append(2 * right / (len(drawn) + sum(name in answers for name in drawn)))
    assert (got.f1.low, got.f1.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert got.f1.low is not None
    assert got.f1.high is not None
    assert got.f1.low < got.f1.value < got.f1.high


def test_the_same_seed_gives_the_same_intervals() -> None:
    gold = {f"i{number}": ("A",) for number in range(30)}
    answers = {name: ("AB"[number % 3 == 0],) for number, name in enumerate(gold)}
    one, same, other = (
        score(gold, answers, info=info_of(list(gold)), resamples=50, seed=seed).metrics()["all"] for seed in (1, 1, 2)
    )
    assert one == same
    assert (one.low, one.high) != (other.low, other.high)


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="no gold senses"):
        scored({}, {"a": ("A",)})
    expected = r"answers to other data: none of 1 \(first 'x.a'\) is for one of 4 gold instances \(first 'a'\)"
    with pytest.raises(DataError, match=expected):
        scored(GOLD, {"x.a": ("A",)})


WORDS = st.text("abc%:.0", min_size=1, max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(answers=st.dictionaries(WORDS, st.lists(WORDS, max_size=3, unique=True).map(tuple)))
def test_answers_are_lines_of_an_id_and_its_keys(answers: Keys, tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.key.txt"
    write_answers(path, answers)
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [[name, *keys] for name, keys in answers.items() if keys]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_ids_with_blanks_are_no_answers(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="spaces"):
        write_answers(tmp_path / "answers", {"a b": ("A",)})
    assert not (tmp_path / "answers").exists()


def test_instances_are_described_from_their_sentences() -> None:
    token = Token(text="Banks", lemma="bank", pos="NOUN", instance="se7.d000.s000.t000")
    word = Token(text="the", lemma="the", pos="DET", instance=None)
    sentence = Sentence(sentence_id="se7.d000.s000", document_id="se7.d000", source="se7", tokens=(word, token))
    got = describe([sentence], path=Path("ALL.data.xml"), candidates=lambda lemma, pos: [f"{lemma}.{pos}", "other"])
    assert got == {
        "se7.d000.s000.t000": InstanceInfo(
            set_name="se7",
            document="se7.d000",
            sentence="se7.d000.s000",
            pos="NOUN",
            candidates=("bank.NOUN", "other"),
        )
    }
