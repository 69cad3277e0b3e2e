"""What lexical training costs a language model: its held-out loss compared with that of the model it started from.

Unlike the evaluation of students, this takes any folder with a masked language model over the students' vocabulary,
also one that was trained on other stores. The numbers are valid only if the text was held out there too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core.runtime import Runtime
from pipeline.evaluate.bootstrap import Means, calibration_error, mean_intervals, paired_differences
from pipeline.evaluate.heldout import Heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.predictions import Predictions, student_predictions
from pipeline.evaluate.results import training_record
from pipeline.evaluate.suites import Metric, suite_report
from pipeline.models.identity import weights_digest
from pipeline.text.tokenizer import load_tokenizer
from storage.errors import VocabularyError


def evaluate_language_model(
    params: EvaluateParams,
    heldout: Heldout,
    *,
    model: Path,
    before: Path | None = None,
    runtime: Runtime,
) -> dict[str, Any]:
    """The report of the suite `language_model`: nll in nats a token, accuracy and ece, with 95 % intervals.

    With `before`, the folder that training started from, also its numbers and `nll_change` and `accuracy_change`, after
    minus before, from resamples of documents that both share. Runs in float32, one model after the other. Raises
    VocabularyError when a folder has another vocabulary than the stores, and what `masked_lm` raises.
    """
    predictions = _predictions(model, heldout, runtime=runtime)
    means = _means(heldout, predictions)
    metrics = _metrics(mean_intervals(means, resamples=params.bootstrap, seed=params.seed), n=len(heldout.masked))
    calibration = calibration_error(
        predictions.confidence_P,
        predictions.rank_P == 0,
        document_P=heldout.document_P,
        documents=len(heldout.row_D),
        resamples=params.bootstrap,
        seed=params.seed,
    )
    metrics |= _metrics(calibration, n=len(heldout.masked))
    details: dict[str, Any] = {"documents": len(heldout.row_D), "masks": heldout.masks.identity}
    if before is not None:
        both = {
            "after": means,
            "before": _means(heldout, _predictions(before, heldout, runtime=runtime)),
        }
        started = mean_intervals(both["before"], resamples=params.bootstrap, seed=params.seed)
        change = paired_differences(both, resamples=params.bootstrap, seed=params.seed)["after", "before"]
        metrics |= _metrics(started, n=len(heldout.masked), suffix="_before")
        metrics |= _metrics(change, n=len(heldout.masked), suffix="_change")
        details["before"] = {"folder": str(before), "weights": weights_digest(before)}
    return suite_report("language_model", model, metrics, headline="nll", **details)


def student_means(heldout: Heldout, *, model: Path, runtime: Runtime) -> Means:
    """A student's NLL and accuracy by document, without a report; settings are chosen by those on calibration text.

    Raises StaleParent when the student was trained on other text or masks, and what `evaluate_language_model` raises.
    """
    training_record(model, sequences=heldout.sequences, masks=heldout.masks)
    return _means(heldout, _predictions(model, heldout, runtime=runtime))


def _predictions(folder: Path, heldout: Heldout, *, runtime: Runtime) -> Predictions:
    import torch

    from pipeline.models.masked_lm import masked_lm

    with masked_lm(folder, device=runtime.device, dtype=torch.float32) as lm:
        _require_vocabulary(folder, heldout, ids=lm.vocabulary)
        special = heldout.sequences.facts["special"]
        return student_predictions(lm, heldout.rows, heldout.masked, special=special, batch_tokens=runtime.batch_tokens)


def _require_vocabulary(folder: Path, heldout: Heldout, *, ids: int) -> None:
    """Refuse a model with another vocabulary: the number of ids is compared, then every token."""
    tokens = heldout.tokens
    if ids != len(tokens):
        raise VocabularyError(
            f"{folder}: {ids} ids, but {heldout.sequences.path} has {len(tokens)}. "
            "Give a student, or a model with the students' tokenizer"
        )
    own = load_tokenizer(folder).tokens
    if own != tokens:
        first = next(number for number, pair in enumerate(zip(own, tokens, strict=True)) if pair[0] != pair[1])
        raise VocabularyError(
            f"{folder}: its id {first} is '{own[first]}', but '{tokens[first]}' in {heldout.sequences.path}. "
            "Give a student, or a model with the students' tokenizer"
        )


def _means(heldout: Heldout, predictions: Predictions) -> Means:
    covered_P = predictions.covered_P
    quantities = {"nll": (predictions.nll_P, covered_P), "accuracy": (predictions.rank_P == 0, covered_P)}
    return Means.of(quantities, document_P=heldout.document_P, documents=len(heldout.row_D))


def _metrics(found: dict[str, float], *, n: int, suffix: str = "") -> dict[str, Metric]:
    """Metrics of x, x_low and x_high."""
    names = [name for name in found if not name.endswith(("_low", "_high"))]
    return {
        f"{name}{suffix}": Metric(value=found[name], low=found[f"{name}_low"], high=found[f"{name}_high"], n=n)
        for name in names
    }
