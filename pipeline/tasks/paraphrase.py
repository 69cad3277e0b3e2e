"""Evaluate a model as a detector of machine paraphrases, in the manner of Wahle et al. 2022 (arXiv 2103.11909).

For every set with training texts and every seed the encoder is fine-tuned, and the detector is tested on all sets of
the same kind: its own, those with other shares of replaced words, and those of other paraphrasing models. A linear
model on TF-IDF features is trained and tested in the same way.

The headline `f1` is the F1 of label 1 on in-domain test sets, averaged over the training sets. In-domain is the test
part of the set it was trained on, or, where a training set has none (the published corpus), all test sets of its kind.
`f1_other_share` is the mean over pairs of sets by one rewriter that differ in share, `f1_other_rewriter` over pairs of
equal share by different rewriters. Intervals are bootstrapped over documents and, where there are several, over seeds.
On a balanced set a detector that calls everything rewritten has an F1 of 0.667, a macro F1 of 0.333 and an accuracy of
0.5: read all three.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.runtime import Runtime
from pipeline.evaluate.bootstrap import interval, over_seeds, resample
from pipeline.evaluate.suites import Metric, suite_report
from pipeline.models.identity import model_digest
from pipeline.tasks.finetune.classifier import finetuned
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.params import ParaphraseParams
from pipeline.tasks.paraphrase_data import DetectionSet, Texts
from pipeline.tasks.tfidf import word_detector
from storage.errors import DataError
from storage.format.manifest import digest
from storage.work import WorkFolder

log = logging.getLogger(__name__)

SCORES = ("f1", "macro_f1", "accuracy")
WORDS = -1
"""Stands for a seed: the detector on words, which has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Predictions on one set by detectors trained on another. S seeds, N texts."""

    train: DetectionSet
    test: DetectionSet
    texts: Texts
    """The texts of the test set that were classified, at most `test_examples`."""
    predicted_SN: NDArray[np.int64]


Fit = Callable[[Texts, list[Texts]], list[NDArray[np.int64]]]
"""Trains on some texts and gives the predicted labels of others."""


def evaluate_paraphrase(
    params: ParaphraseParams, sets: list[DetectionSet], *, name: str, model: Path, runtime: Runtime
) -> dict[str, Any]:
    """Fine-tune and test `model`; returns the report. A killed run continues after its last whole fit, kept by `name`.

    Raises DataError when two sets have the same name, and what loading the model raises.
    """
    _require_names(sets)
    sets = [_cut(found, params) for found in sets]
    pairs = list(_pairs(sets))
    identity = digest(
        {
            "sets": {key(found): found.identity for found in sets},
            "params": params.model_dump(mode="json"),
            "model": model_digest(model),
        }
    )

    def fine_tune(seed: int) -> Fit:
        def fit(train: Texts, tests: list[Texts]) -> list[NDArray[np.int64]]:
            with finetuned(
                model, _examples(train), classes=2, params=params.finetune, seed=seed, runtime=runtime
            ) as classifier:
                return [classifier.scores(_examples(test)).argmax(axis=1).astype(np.int64) for test in tests]

        return fit

    fits = {WORDS: word_detector} | {seed: fine_tune(seed) for seed in params.seeds}
    where = Path(f"paraphrase {name}")
    with WorkFolder(where, name=f"paraphrase-{name}", identity=identity, workspace=runtime.workspace) as work:
        said = _all_fits(sets, pairs, fits, work)
        words, trials = (
            [
                Trial(
                    train=train,
                    test=test,
                    texts=_known(test.test),
                    predicted_SN=np.stack([said[key(train), seed][key(test)] for seed in seeds]),
                )
                for train, test in pairs
            ]
            for seeds in ([WORDS], params.seeds)
        )
        report = _report(params, sets, trials, words, model)
        work.finish()
    return report


def key(found: DetectionSet) -> str:
    """Names a set among sets of all kinds."""
    return f"{found.kind}/{found.name}"


def confusions(
    label_N: NDArray[np.int64], predicted_SN: NDArray[np.int64], group_N: NDArray[np.int64], *, groups: int
) -> NDArray[np.float64]:
    """Counts [S, groups, 4] of true positives, false positives, false negatives and true negatives; 1 is positive."""
    outcome_SN = np.where(predicted_SN == 1, np.where(label_N == 1, 0, 1), np.where(label_N == 1, 2, 3))
    counts = [np.bincount(group_N * 4 + outcome_N, minlength=groups * 4) for outcome_N in outcome_SN]
    return np.stack(counts).reshape(len(counts), groups, 4).astype(np.float64)


def scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of label 1, mean F1 of both labels, and accuracy, [..., 3], of confusions [..., 4].

    F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979), 0 where no text has the label or was given it.
    """
    positive, false, missed, negative = np.moveaxis(counts, -1, 0)
    wrong = false + missed
    f1 = 2 * positive / np.maximum(2 * positive + wrong, 1e-9)
    other = 2 * negative / np.maximum(2 * negative + wrong, 1e-9)
    accuracy = (positive + negative) / np.maximum(positive + negative + wrong, 1e-9)
    return np.stack([f1, (f1 + other) / 2, accuracy], axis=-1)


def mean_scores(trials: list[Trial], *, resamples: int, seed: int) -> dict[str, Metric]:
    """SCORES as means over trials and seeds, with intervals; n counts the different texts.

    Documents that several test sets share are resampled together.
    """
    names = sorted({group for trial in trials for group in trial.texts.group})
    number = {name: n for n, name in enumerate(names)}
    counts_TSG4 = np.stack(
        [
            confusions(
                trial.texts.label_N,
                trial.predicted_SN,
                np.array([number[group] for group in trial.texts.group], np.int64),
                groups=len(names),
            )
            for trial in trials
        ]
    )
    value_S3 = scores(counts_TSG4.sum(axis=2)).mean(axis=0)
    sample_RS3 = np.concatenate(
        [
            scores(np.einsum("rg,tsgc->rtsc", times_RG, counts_TSG4, optimize=True)).mean(axis=1)
            for times_RG in resample(len(names), resamples=resamples, seed=seed)
        ]
    )
    bounds = [interval(over_seeds(sample_RS3[:, :, column], seed=seed)) for column in range(len(SCORES))]
    texts = sum(len(test) for test in {id(trial.texts): trial.texts for trial in trials}.values())
    return {
        name: Metric(value=float(value), low=low, high=high, n=texts)
        for name, value, (low, high) in zip(SCORES, value_S3.mean(axis=0), bounds, strict=True)
    }


def _report(
    params: ParaphraseParams, sets: list[DetectionSet], trials: list[Trial], words: list[Trial], model: Path
) -> dict[str, Any]:
    metrics = _metrics(params, trials)
    baseline = _metrics(params, words)
    metrics |= {f"baseline_{name}": metric for name, metric in baseline.items()}
    cells = []
    for trial, plain in zip(trials, words, strict=True):
        found, beside = (mean_scores([one], resamples=params.bootstrap, seed=params.seeds[0]) for one in (trial, plain))
        cells.append(
            {
                "train": key(trial.train),
                "test": key(trial.test),
                "n": found["f1"].n,
                "f1_low": found["f1"].low,
                "f1_high": found["f1"].high,
                "baseline_f1": beside["f1"].value,
                **{name: metric.value for name, metric in found.items()},
            }
        )
    facts = {
        key(found): {
            "train": 0 if found.train is None else len(found.train),
            "test": 0 if found.test is None else len(found.test),
            "identity": found.identity,
            "counts": found.counts,
        }
        for found in sets
    }
    settings = params.model_dump(mode="json")
    return suite_report("paraphrase", model, metrics, headline="f1", cells=cells, sets=facts, settings=settings)


def _metrics(params: ParaphraseParams, trials: list[Trial]) -> dict[str, Metric]:
    """The means over in-domain sets, over other shares and over other rewriters."""
    own = [trial for trial in trials if trial.train is trial.test or trial.train.test is None]
    found = mean_scores(own, resamples=params.bootstrap, seed=params.seeds[0])
    for name, away in (("other_share", _other_share), ("other_rewriter", _other_rewriter)):
        chosen = [trial for trial in trials if away(trial)]
        if chosen:
            found[f"f1_{name}"] = mean_scores(chosen, resamples=params.bootstrap, seed=params.seeds[0])["f1"]
    return found


def _other_share(trial: Trial) -> bool:
    known = trial.train.rewriter is not None
    return known and trial.train.rewriter == trial.test.rewriter and trial.train.share != trial.test.share


def _other_rewriter(trial: Trial) -> bool:
    known = trial.train.rewriter is not None
    return known and trial.train.rewriter != trial.test.rewriter and trial.train.share == trial.test.share


def _all_fits(
    sets: list[DetectionSet], pairs: list[tuple[DetectionSet, DetectionSet]], fits: dict[int, Fit], work: WorkFolder
) -> dict[tuple[str, int], dict[str, NDArray[np.int64]]]:
    """Predictions by training set, seed and test set; what the journal holds is not made again."""
    said = {
        (entry["train"], entry["seed"]): {
            name: np.array([int(digit) for digit in digits], np.int64) for name, digits in entry["predicted"].items()
        }
        for entry in work.entries()
    }
    for train in sets:
        tests = [test for first, test in pairs if first is train]
        for seed, fit in fits.items():
            if not tests or (key(train), seed) in said:
                continue
            answers = fit(_known(train.train), [_known(test.test) for test in tests])
            predicted = {key(test): answer_N for test, answer_N in zip(tests, answers, strict=True)}
            digits = {name: "".join(map(str, answer_N.tolist())) for name, answer_N in predicted.items()}
            work.append({"train": key(train), "seed": seed, "predicted": digits})
            said[key(train), seed] = predicted
            log.info("paraphrase: %s, %s: done", key(train), "words" if seed == WORDS else f"seed {seed}")
    return said


def _pairs(sets: list[DetectionSet]) -> Iterator[tuple[DetectionSet, DetectionSet]]:
    """Every training set with every test set of its kind."""
    for train in sets:
        for test in sets:
            if train.train is not None and test.test is not None and train.kind == test.kind:
                yield train, test


def _cut(found: DetectionSet, params: ParaphraseParams) -> DetectionSet:
    return DetectionSet(
        name=found.name,
        kind=found.kind,
        identity=found.identity,
        rewriter=found.rewriter,
        share=found.share,
        counts=found.counts,
        train=None if found.train is None else found.train.some(params.train_examples),
        test=None if found.test is None else found.test.some(params.test_examples),
    )


def _require_names(sets: list[DetectionSet]) -> None:
    names = [key(found) for found in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"paraphrase: two sets are named {twice[0]}: rename a file or folder")


def _examples(texts: Texts) -> Examples:
    return Examples(first=texts.first, second=texts.second, label_N=texts.label_N)


def _known(texts: Texts | None) -> Texts:
    assert texts is not None
    return texts
