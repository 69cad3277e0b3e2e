"""The suite on a small corpus: what TF-IDF must find, scores of its own detections, and intervals that resample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.core.seeds import unit_hash
from pipeline.evaluate.bootstrap import resample
from pipeline.plagiarism import evaluate
from pipeline.plagiarism.evaluate import NAMES, evaluate_plagiarism, mean_scores, set_scores
from pipeline.plagiarism.measures import SCORES, Passage, scores, sums_by_document
from pipeline.plagiarism.pan import PlagiarismCorpus, read_corpus, write_corpus
from pipeline.plagiarism.params import PlagiarismParams
from pipeline.plagiarism.vectors import centred, encoder_states, word_vectors
from storage.errors import DataError
from tests.helpers.stores import TINY_TEXT, cpu_runtime

SETTINGS: dict[str, Any] = {
    "data": "data/plagiarism", "development": 0.4, "unit_words": 4, "most_words": 12, "candidates": 3,
    "bootstrap": 50, "seed": 0,
}  # fmt: skip


def settings(**changes: Any) -> PlagiarismParams:
    return PlagiarismParams(**(SETTINGS | changes))


def sentences(number: int, count: int = 6) -> list[str]:
    """Of words that no other document has."""
    return [f"Word{number} other{number}x{n} third{number}x{n} last{number}x{n} end{n}." for n in range(count)]


def corpus(root: Path, *, documents: int = 20, taken: int = 20) -> PlagiarismCorpus:
    """Each of the first documents holds two sentences of a source, word for word."""
    suspicious, sources, passages = {}, {}, []
    for number in range(documents):
        own, theirs = sentences(100 + number), sentences(number)
        source = " ".join(theirs)
        passage = " ".join(theirs[2:4])
        before = " ".join(own[:3]) + " "
        text = before + (f"{passage} " if number < taken else "") + " ".join(own[3:])
        mine, its = f"suspicious-document{number:05}", f"source-document{number:05}"
        suspicious[mine], sources[its] = text, source
        if number < taken:
            start = source.index(passage)
            passages.append(Passage(mine, len(before), len(before) + len(passage), its, start, start + len(passage)))
    write_corpus(root, suspicious, sources, passages)
    return read_corpus(root)


@pytest.fixture
def report(workplace: Path, tiny_mlm: Path) -> Any:
    whole = corpus(workplace / "pan")
    return evaluate_plagiarism(settings(), [whole], name="m", model=tiny_mlm, runtime=cpu_runtime()), whole


def test_words_find_word_for_word_passages_exactly(report: Any) -> None:
    metrics = report[0].report["metrics"]
    for name in ("plagdet", "precision", "recall", "granularity", "retrieval_recall"):
        assert metrics[f"baseline_{name}"]["value"] == pytest.approx(1.0), name
        assert metrics[f"baseline_{name}"]["low"] == metrics[f"baseline_{name}"]["high"] == pytest.approx(1.0)


def test_scores_are_those_of_the_detections_in_test_documents(report: Any) -> None:
    found, whole = report
    test = [name for name in whole.suspicious if unit_hash("plagiarism-split", name) >= 0.4]
    assert found.tested == {"pan": test}
    assert 3 < len(test) < 17
    detections = found.detections["pan"]
    assert {one.suspicious for one in detections} <= set(test)
    expected = scores(sums_by_document(test, whole.passages, detections).sum(axis=0))
    metrics = found.report["metrics"]
    assert [metrics[name]["value"] for name in SCORES] == pytest.approx(expected.tolist())
    gain = metrics["plagdet"]["value"] - metrics["baseline_plagdet"]["value"]
    assert metrics["plagdet_gain"]["value"] == pytest.approx(gain)
    assert metrics["plagdet"]["n"] == len(test)
    (cell,) = found.report["cells"]
    assert (cell["variant"], cell["sets"], cell["plagdet"]) == ("pan", ["pan"], metrics["plagdet"]["value"])
    assert metrics["parameters"]["value"] > 1000
    assert 0 < metrics["baseline_seconds_per_document"]["value"] < 60
    assert found.report["sets"]["pan"]["test"] == len(test)


def test_documents_of_one_name_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    sums = rng.integers(0, 4, (3, 5, 8)).astype(float)
    value, sample = mean_scores(sums, resamples=20, seed=3)
    assert value == pytest.approx(np.mean([set_scores(one.sum(axis=0)) for one in sums], axis=0))
    (times_RD,) = resample(5, resamples=20, seed=3)
    for row, times in zip(sample, times_RD, strict=True):
        by_hand = [set_scores(sum(n * document for n, document in zip(times, one, strict=True))) for one in sums]
        assert row == pytest.approx(np.mean(by_hand, axis=0))
    assert value.shape == (len(NAMES),)


def test_vectors_have_unit_length_and_a_common_part_is_taken_out(tiny_mlm: Path) -> None:
    texts = [*TINY_TEXT[:9], TINY_TEXT[0]]
    states, parameters = encoder_states(tiny_mlm, texts, runtime=cpu_runtime())
    vectors = centred(states)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(10), abs=1e-5)
    assert vectors[9] == pytest.approx(vectors[0], abs=1e-5)
    assert parameters > 1000
    shifted = np.array([[101, 0], [99, 0], [100, 1], [100, -1]], np.float32)
    assert centred(shifted) == pytest.approx(np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]))
    words = word_vectors(["a b", "a b", "c d"])
    assert (words @ words.T).todense() == pytest.approx(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_batches_do_not_change_vectors(tiny_mlm: Path) -> None:
    texts = list(TINY_TEXT[:6])
    few, many = (encoder_states(tiny_mlm, texts, runtime=cpu_runtime(batch_tokens=n))[0] for n in (1, 4096))
    assert few == pytest.approx(many, abs=1e-4)


def test_a_killed_run_does_not_encode_again(workplace: Path, tiny_mlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corpus(workplace / "pan")

    def run() -> Any:
        return evaluate_plagiarism(settings(), [whole], name="m", model=tiny_mlm, runtime=cpu_runtime()).report

    with monkeypatch.context() as killed:
        killed.setattr(evaluate, "word_vectors", lambda texts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
    with monkeypatch.context() as resumed:
        resumed.setattr(evaluate, "encoder_states", lambda *args, **more: 1 / 0)
        again = run()
    assert again["metrics"]["plagdet"] == run()["metrics"]["plagdet"]


def test_a_corpus_without_passages_on_a_side_and_two_of_one_name_are_refused(tmp_path: Path, tiny_mlm: Path) -> None:
    def refused(*corpora: PlagiarismCorpus) -> str:
        with pytest.raises(DataError) as refusal:
            evaluate_plagiarism(settings(), list(corpora), name="m", model=tiny_mlm, runtime=cpu_runtime())
        return str(refusal.value)

    nothing = corpus(tmp_path / "clean", taken=0)
    message = "clean: nothing was taken in 10 of 20 suspicious documents to fit thresholds on; expected XML files"
    assert message in refused(nothing)
    one = corpus(tmp_path / "one")
    assert refused(one, one) == "plagiarism: two sets are named one: rename a folder"


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="most_words must be more than unit_words, got 4 and 4"):
        settings(most_words=4)
    assert evaluate.NAMES[: len(SCORES)] == SCORES
