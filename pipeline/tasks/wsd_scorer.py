"""Score word senses as the official scorer of Raganato et al. 2017 does, beside a baseline and with intervals.

An instance's credit is the share of its different answers that are among its gold keys. Precision is credit over
answered instances, recall credit over gold instances; F1 = 2PR / (P + R), which is 2 credit / (answered + gold). An
answer for an instance that has no gold is ignored. Each score is reported with the first-sense baseline, the share of
words with one sense only, and the accuracy on the others. Without any answer the official scorer prints NaN for
precision and F1; here precision is NaN and F1 is 0.

Intervals are bootstrapped over documents, or over sentences where a group has fewer than `LEAST_DOCUMENTS`: three
documents have ten different resamples. Shares are in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.bootstrap import Means, mean_intervals
from pipeline.evaluate.suites import Metric
from pipeline.senses.raganato import Sentence, set_name
from storage.atomic import write_bytes
from storage.errors import DataError

LEAST_DOCUMENTS = 20
"""Fewer make an interval over documents too narrow (Cameron, Gelbach and Miller 2008, on few clusters)."""

DEVELOPMENT_SET = "semeval2007"
"""The set that models are chosen by; ALL is reported with and without it."""

Keys = Mapping[str, tuple[str, ...]]
"""Sense keys by instance id."""
Unit = Literal["document", "sentence"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceInfo:
    """An instance without its gold."""

    set_name: str
    document: str
    sentence: str
    pos: str
    candidates: tuple[str, ...]
    """Sense keys of its lemma and part of speech, most usual first; empty when the inventory has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScore:
    """Scores of one group of I gold instances. A metric's n is the number of instances it rests on."""

    precision: Metric
    """NaN without answers."""
    recall: Metric
    f1: Metric
    polysemous: Metric
    """Recall on instances with several candidates; NaN when there are none."""
    first_sense: Metric
    """F1 of answering the first candidate."""
    first_sense_polysemous: Metric
    monosemous: Metric
    """Share of instances with one candidate."""
    unreachable: int
    """Instances without any gold key among their candidates: no choice of a candidate is right there."""
    unit: Unit
    units: int
    """How many documents or sentences were resampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WsdScores:
    """Scores by group: `all`, `all_without_semeval2007` where that set is one of several, `set_<name>`, `pos_<tag>`."""

    groups: dict[str, GroupScore]
    ignored: int
    """Answers for instances without gold, as in the official scorer."""
    undescribed: int
    """Gold instances without information: in `all` only, and never answered by the first sense."""

    def metrics(self) -> dict[str, Metric]:
        """By group g: `g` (F1), `g_precision`, `g_recall`, `g_polysemous` and so on; without those that are NaN."""
        found: dict[str, Metric] = {}
        for name, group in self.groups.items():
            for quantity in QUANTITIES:
                metric: Metric = getattr(group, quantity)
                if not math.isnan(metric.value):
                    found[name if quantity == "f1" else f"{name}_{quantity}"] = metric
        return found


QUANTITIES = ("f1", "precision", "recall", "polysemous", "first_sense", "first_sense_polysemous", "monosemous")


def score(gold: Keys, answers: Keys, *, info: Mapping[str, InstanceInfo], resamples: int, seed: int) -> WsdScores:
    """Score answers, `resamples` for the 95 % intervals.

    Several gold keys: each is right. No keys for an instance: not answered. Raises DataError when there is no gold, or
    when no answer is for an instance of the gold, which happens with answers to other data.
    """
    _require_common(gold, answers)
    baseline = first_sense(info)
    system, first = _Credit.of(gold, answers), _Credit.of(gold, baseline)
    candidates = [info[name].candidates if name in info else () for name in gold]
    choices_I = np.array([len(keys) for keys in candidates])
    lost_I = np.array([not set(keys) & set(gold[name]) for name, keys in zip(gold, candidates, strict=True)])
    groups = {}
    for name, rows_I in _groups(gold, info).items():
        unit, unit_I = _units(gold, info, rows_I)
        means = _means(system.at(rows_I), first.at(rows_I), choices_I[rows_I], unit_I)
        found = mean_intervals(means, resamples=resamples, seed=seed)
        counts = dict(zip(means.names, means.count_DQ.sum(axis=0).astype(int).tolist(), strict=True))
        counts |= {"f1": len(rows_I), "first_sense": len(rows_I)}
        metrics = {
            key: Metric(value=found[key], low=found[f"{key}_low"], high=found[f"{key}_high"], n=counts[key])
            for key in QUANTITIES
        }
        groups[name] = GroupScore(
            **metrics, unreachable=int(lost_I[rows_I].sum()), unit=unit, units=len(means.total_DQ)
        )
    return WsdScores(
        groups=groups,
        ignored=sum(name not in gold for name in answers),
        undescribed=sum(name not in info for name in gold),
    )


def first_sense(info: Mapping[str, InstanceInfo]) -> dict[str, tuple[str, ...]]:
    """Answers of the first-sense baseline; none where there is no candidate."""
    return {name: about.candidates[:1] for name, about in info.items() if about.candidates}


def describe(
    sentences: Iterable[Sentence], *, path: Path, candidates: Callable[[str, str], Sequence[str]]
) -> dict[str, InstanceInfo]:
    """Information on every instance of the file at `path`; `candidates` tells keys by lemma and part-of-speech tag."""
    return {
        token.instance: InstanceInfo(
            set_name=set_name(token.instance, path=path),
            document=sentence.document_id,
            sentence=sentence.sentence_id,
            pos=token.pos,
            candidates=tuple(candidates(token.lemma, token.pos)),
        )
        for sentence in sentences
        for token in sentence.tokens
        if token.instance is not None
    }


def write_answers(path: Path, answers: Keys) -> None:
    """Write answers for the official scorer, one line an instance that has any, in the given order."""
    given = [(name, *keys) for name, keys in answers.items() if keys]
    assert all(len(part.split()) == 1 for line in given for part in line), "an id or key with spaces"
    write_bytes(path, "".join(" ".join(line) + "\n" for line in given).encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Credit:
    """What answers earn at I gold instances."""

    right_I: NDArray[np.float64]
    """Share of the different answers that are right; 0 without an answer."""
    answered_I: NDArray[np.float64]
    """1 where there is an answer."""

    @staticmethod
    def of(gold: Keys, answers: Keys) -> _Credit:
        given = [set(answers.get(name, ())) for name in gold]
        right = [len(keys & set(gold[name])) / max(1, len(keys)) for name, keys in zip(gold, given, strict=True)]
        return _Credit(right_I=np.array(right), answered_I=np.array([float(bool(keys)) for keys in given]))

    def at(self, rows_I: NDArray[np.int64]) -> _Credit:
        return _Credit(right_I=self.right_I[rows_I], answered_I=self.answered_I[rows_I])

    def f1(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Each instance's part of numerator and denominator."""
        return 2 * self.right_I, self.answered_I + 1


def _means(system: _Credit, first: _Credit, choices_I: NDArray[np.int64], unit_I: NDArray[np.int64]) -> Means:
    """All quantities of a group as sums by unit."""
    one_I, several_I = np.ones(len(unit_I)), (choices_I > 1).astype(np.float64)
    return _by_unit(
        {
            "f1": system.f1(),
            "precision": (system.right_I, system.answered_I),
            "recall": (system.right_I, one_I),
            "polysemous": (system.right_I * several_I, several_I),
            "first_sense": first.f1(),
            "first_sense_polysemous": (first.right_I * several_I, several_I),
            "monosemous": ((choices_I == 1).astype(np.float64), one_I),
        },
        unit_I,
    )


def _by_unit(parts: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], unit_I: NDArray[np.int64]) -> Means:
    """Numerators and denominators [I] added up by unit."""
    return Means(
        names=tuple(parts),
        total_DQ=np.stack([np.bincount(unit_I, total_I) for total_I, _ in parts.values()], axis=1),
        count_DQ=np.stack([np.bincount(unit_I, count_I) for _, count_I in parts.values()], axis=1),
    )


def _groups(gold: Keys, info: Mapping[str, InstanceInfo]) -> dict[str, NDArray[np.int64]]:
    """Rows of each group, counted in the order of `gold`."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(gold):
        about = info.get(name)
        groups = ["all"] if about is None else ["all", f"set_{about.set_name}", f"pos_{about.pos.lower()}"]
        if about is None or about.set_name != DEVELOPMENT_SET:
            groups.append(f"all_without_{DEVELOPMENT_SET}")
        for group in groups:
            members.setdefault(group, []).append(row)
    if len(members["all"]) == len(members.get(f"all_without_{DEVELOPMENT_SET}", members["all"])):
        members.pop(f"all_without_{DEVELOPMENT_SET}", None)
    return {group: np.array(members[group]) for group in sorted(members)}


def _units(gold: Keys, info: Mapping[str, InstanceInfo], rows_I: NDArray[np.int64]) -> tuple[Unit, NDArray[np.int64]]:
    """What is resampled in a group, and the number of each instance's; an instance without information is its own."""
    names = list(gold)
    about_I = [info.get(names[row]) for row in rows_I.tolist()]
    document_I = [
        (about.set_name, about.document) if about else (names[row],)
        for row, about in zip(rows_I.tolist(), about_I, strict=True)
    ]
    if len(set(document_I)) >= LEAST_DOCUMENTS:
        return "document", _numbered(document_I)
    sentence_I = [
        (*document, about.sentence) if about else document for document, about in zip(document_I, about_I, strict=True)
    ]
    return "sentence", _numbered(sentence_I)


def _numbered(labels: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    """Labels as numbers, in order of first occurrence."""
    number = {label: row for row, label in enumerate(dict.fromkeys(labels))}
    return np.array([number[label] for label in labels])


def _require_common(gold: Keys, answers: Keys) -> None:
    if not gold:
        raise DataError("no gold senses to score against")
    if answers and not any(name in gold for name in answers):
        raise DataError(
            f"answers to other data: none of {len(answers)} (first '{next(iter(answers))}') is for one of "
            f"{len(gold)} gold instances (first '{next(iter(gold))}')"
        )
