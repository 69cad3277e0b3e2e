"""The paraphrase suite: scores against scikit-learn, cells and means by hand, intervals, resuming, the word detector.

Fine-tuning itself is tested where it lives; here a detector that reads marks in the texts takes its place, but for one
real fit at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.evaluate.bootstrap import interval
from pipeline.evaluate.results import read_json, write_json
from pipeline.tasks import paraphrase
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.params import FinetuneParams, ParaphraseParams
from pipeline.tasks.paraphrase import (
    Trial,
    confusions,
    evaluate_paraphrase,
    mean_scores,
    scores,
)
from pipeline.tasks.paraphrase_data import DetectionSet, Texts
from pipeline.tasks.tfidf import word_detector
from storage.errors import DataError
from storage.work import finished_folders
from tests.helpers.stores import cpu_runtime

FINETUNE = FinetuneParams(
    epochs=2, learning_rate=1e-3, batch=8, warmup=0.1, weight_decay=0.0, max_tokens=32, pooling="mean"
)
SETTINGS: dict[str, Any] = {
    "seeds": [0], "finetune": FINETUNE, "train_examples": 0, "test_examples": 0, "bootstrap": 200,
}  # fmt: skip


def settings(**changes: Any) -> ParaphraseParams:
    return ParaphraseParams(**(SETTINGS | changes))


def texts(words: str, *, documents: int = 6, name: str = "d", pairs: bool = False) -> Texts:
    """For each document an original and a rewriting that holds `words`."""
    first = [f"text {n} is plain" for n in range(documents)] + [f"text {n} is {words}" for n in range(documents)]
    return Texts(
        first=first,
        second=[f"other {n}" for n in range(2 * documents)] if pairs else None,
        label_N=np.repeat([0, 1], documents),
        group=[f"{name}{n}" for n in range(documents)] * 2,
        name=[f"{name}{n}/0" for n in range(documents)] * 2,
    )


def made(rewriter: str, share: float, words: str) -> DetectionSet:
    return DetectionSet(
        name=f"{rewriter}-{share}", kind="rewritten", train=texts(words), test=texts(words, name="e"),
        identity=f"{rewriter}{share}", rewriter=rewriter, share=share, counts={"too few words": 1},
    )  # fmt: skip


FOUR = [made("a", 0.2, "bad"), made("a", 0.5, "bad worse"), made("b", 0.2, "odd"), made("b", 0.5, "odd worse")]


class Reader:
    """Calls a text rewritten when it holds a word that only rewritings of its training set had."""

    def __init__(self, train: Examples) -> None:
        halves = [{w for text, label in zip(train.first, train.label_N, strict=True) if label == wanted
                   for w in text.split()} for wanted in (0, 1)]  # fmt: skip
        self.marks = halves[1] - halves[0]

    def scores(self, examples: Examples) -> np.ndarray:
        found = [bool(self.marks & set(text.split())) for text in examples.first]
        return np.stack([np.zeros(len(found)), np.where(found, 1.0, -1.0)], axis=1).astype(np.float32)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replace fine-tuning; the list receives (seed, examples) of every fit."""
    log: list[tuple[int, int]] = []

    @contextmanager
    def finetuned(folder: Path, train: Examples, *, seed: int, **_: Any) -> Iterator[Reader]:
        log.append((seed, len(train.first)))
        yield Reader(train)

    monkeypatch.setattr(paraphrase, "finetuned", finetuned)
    return log


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Products this small gain nothing from a second thread, and on a busy machine they wait for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(sets: list[DetectionSet], model: Path, *, name: str = "m", **changes: Any) -> dict[str, Any]:
    report = evaluate_paraphrase(
        settings(**changes), sets, name=name, model=model, runtime=cpu_runtime(batch_tokens=512)
    )
    write_json(Path("reports/paraphrase") / f"{name}.json", report)
    return read_json(Path("reports/paraphrase") / f"{name}.json", remedy="")


def test_scores_are_scikit_learns() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.Generator(np.random.Philox(key=1))
    for _ in range(20):
        label_N = rng.integers(0, 2, 30)
        predicted_SN = rng.integers(0, 2, (3, 30))
        counts_SG4 = confusions(label_N, predicted_SN, rng.integers(0, 5, 30), groups=5)
        for found_3, predicted_N in zip(scores(counts_SG4.sum(axis=1)), predicted_SN, strict=True):
            expected = [f1_score(label_N, predicted_N), f1_score(label_N, predicted_N, average="macro"),
                        accuracy_score(label_N, predicted_N)]  # fmt: skip
            assert found_3 == pytest.approx(expected)


def test_a_detector_that_always_says_the_same_has_no_nan() -> None:
    label_N, group_N = np.array([0, 1, 1]), np.zeros(3, np.int64)
    always, never = scores(confusions(label_N, np.array([[1, 1, 1], [0, 0, 0]]), group_N, groups=1)[:, 0])
    assert always == pytest.approx([0.8, 0.4, 2 / 3])
    assert never == pytest.approx([0.0, 0.25, 1 / 3])


def trial(predicted_SN: list[list[int]], *, group: list[str]) -> Trial:
    half = len(group) // 2
    test = Texts(first=["x"] * len(group), second=None, label_N=np.repeat([0, 1], half), group=group, name=group)
    one = DetectionSet(name="s", kind="pairs", train=test, test=test, identity="s", counts={})
    return Trial(train=one, test=one, texts=test, predicted_SN=np.array(predicted_SN))


def test_one_seed_has_a_bootstrap_over_documents() -> None:
    """Against resampling by hand: four documents with an original and a rewriting each."""
    group = ["p", "q", "r", "s"] * 2
    one = trial([[0, 0, 1, 0, 1, 1, 1, 0]], group=group)
    metric = mean_scores([one], resamples=4000, seed=3)["accuracy"]
    assert metric.value == 6 / 8
    assert metric.n == 8
    right = np.array([2, 2, 1, 1])  # by document
    rng = np.random.Generator(np.random.Philox(key=5))
    expected = interval(right[rng.integers(0, 4, (4000, 4))].sum(axis=1) / 8)
    assert (metric.low, metric.high) == pytest.approx(expected, abs=0.01)


def test_several_seeds_have_a_bootstrap_over_documents_and_seeds() -> None:
    """Against resampling by hand, of documents and of seeds."""
    group = ["p", "q", "r", "s"]
    one = trial([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], group=group)
    metric = mean_scores([one], resamples=4000, seed=0)["accuracy"]
    assert metric.value == 0.75
    right_SN = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 1]])
    rng = np.random.Generator(np.random.Philox(key=5))
    documents, seeds = rng.integers(0, 4, (4000, 1, 4)), rng.integers(0, 3, (4000, 3, 1))
    expected = interval(right_SN[seeds, documents].mean(axis=(1, 2)))
    assert (metric.low, metric.high) == pytest.approx(expected, abs=0.03)
    alone = mean_scores([trial([[0, 1, 1, 1]], group=group)], resamples=4000, seed=0)["accuracy"]
    assert alone.value == 0.75 and alone.low is not None and metric.low is not None


def test_the_matrix_holds_every_training_set_with_every_test_set(workplace: Path, tiny_mlm: Path, fits: Any) -> None:
    report = run(FOUR, tiny_mlm)
    assert fits == [(0, 12)] * 4
    f1 = {(cell["train"], cell["test"]): cell["f1"] for cell in report["cells"]}
    assert len(f1) == 16
    assert {f1[f"rewritten/{one.name}", f"rewritten/{one.name}"] for one in FOUR} == {1.0}
    assert f1["rewritten/a-0.2", "rewritten/a-0.5"] == 1.0
    assert f1["rewritten/a-0.2", "rewritten/b-0.2"] == 0.0  # "bad" is not in b's texts
    assert f1["rewritten/a-0.5", "rewritten/b-0.5"] == 1.0  # "worse" is
    metrics = report["metrics"]
    assert report["headline"] == "f1"
    assert metrics["f1"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 48}
    assert metrics["f1_other_share"]["value"] == 1.0
    assert metrics["f1_other_rewriter"]["value"] == 0.5
    assert {"baseline_f1", "baseline_accuracy", "baseline_f1_other_rewriter"} <= set(metrics)
    assert report["sets"]["rewritten/a-0.2"]["train"] == 12
    assert report["sets"]["rewritten/a-0.2"]["counts"] == {"too few words": 1}
    assert [path.name[:13] for path in finished_folders()] == ["paraphrase-m-"], "what is kept is done with"


def test_a_training_set_without_test_is_judged_on_all_test_sets_of_its_kind(
    workplace: Path, tiny_mlm: Path, fits: Any
) -> None:
    train = DetectionSet(name="wiki_train", kind="published", train=texts("bad"), test=None, identity="1", counts={})
    tests = [
        DetectionSet(name=name, kind="published", train=None, test=texts(words), identity=name, counts={})
        for name, words in (("wiki", "bad"), ("thesis", "odd"))
    ]
    pairs = DetectionSet(name="p", kind="pairs", train=texts("bad", pairs=True), test=texts("bad", pairs=True),
                         identity="p", counts={})  # fmt: skip
    report = run([train, *tests], tiny_mlm)
    assert report["metrics"]["f1"]["value"] == 0.5
    assert "f1_other_share" not in report["metrics"]
    both = run([train, *tests, pairs], tiny_mlm)
    cells = [(cell["train"], cell["test"]) for cell in both["cells"]]
    assert cells == [("published/wiki_train", "published/wiki"), ("published/wiki_train", "published/thesis"),
                     ("pairs/p", "pairs/p")]  # fmt: skip


def test_a_killed_run_continues_after_the_last_fit(
    workplace: Path, tiny_mlm: Path, fits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    through = run(FOUR, tiny_mlm, seeds=[0, 1])
    assert len(fits) == 8
    fits.clear()
    fake = paraphrase.finetuned

    def killed(*arguments: Any, **more: Any) -> Any:
        if len(fits) == 5:
            raise KeyboardInterrupt
        return fake(*arguments, **more)

    monkeypatch.setattr(paraphrase, "finetuned", killed)
    with pytest.raises(KeyboardInterrupt):
        run(FOUR, tiny_mlm, name="k", seeds=[0, 1])
    monkeypatch.setattr(paraphrase, "finetuned", fake)
    assert run(FOUR, tiny_mlm, name="k", seeds=[0, 1]) == through
    assert len(fits) == 8


def test_other_settings_begin_anew(workplace: Path, tiny_mlm: Path, fits: Any, monkeypatch: Any) -> None:
    write = paraphrase._report
    monkeypatch.setattr(paraphrase, "_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(FOUR[:1], tiny_mlm)
    monkeypatch.setattr(paraphrase, "_report", write)
    run(FOUR[:1], tiny_mlm, seeds=[0, 1])
    assert [seed for seed, _ in fits] == [0, 0, 1]


def test_limits_take_a_part_of_the_texts(workplace: Path, tiny_mlm: Path, fits: Any) -> None:
    report = run(FOUR[:1], tiny_mlm, train_examples=8, test_examples=6)
    assert fits == [(0, 8)]
    assert report["sets"]["rewritten/a-0.2"] | {"identity": 0} == {
        "train": 8, "test": 6, "identity": 0, "counts": {"too few words": 1},
    }  # fmt: skip
    assert report["metrics"]["f1"]["n"] == 6


def test_two_sets_of_one_name_are_refused(workplace: Path, tiny_mlm: Path) -> None:
    with pytest.raises(DataError, match=r"two sets are named rewritten/a-0.2: rename a file or folder"):
        run([FOUR[0], FOUR[0]], tiny_mlm)


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_are_different_numbers(seeds: list[int]) -> None:
    with pytest.raises(ValidationError, match="seeds"):
        settings(seeds=seeds)


def test_the_word_detector_learns_a_word_and_pairs_that_share_words() -> None:
    single, other = texts("really bad", documents=20), texts("really bad", documents=10, name="e")
    (predicted,) = word_detector(single, [other])
    assert predicted.tolist() == other.label_N.tolist()
    subjects = ("dog", "cat", "cow", "fox", "goat", "crow", "duck", "mouse", "sheep", "horse")
    first = [f"the {one} sleeps" for one in subjects for _ in subjects]
    second = [f"a {other} sleeps here" for _ in subjects for other in subjects]
    label_N = np.array([int(one == other) for one in subjects for other in subjects])
    pairs = Texts(first=first, second=second, label_N=label_N, group=first, name=first)
    held = pairs.only(range(0, 100, 11))  # all alike
    rest = pairs.only([row for row in range(100) if row % 11 or row < 60])
    (alike,) = word_detector(rest, [held])
    assert alike.tolist() == [1] * 10


@pytest.mark.usefixtures("one_thread")
def test_a_real_fit_tells_apart_what_a_word_tells(workplace: Path, tiny_mlm: Path) -> None:
    words = ("dog", "cat", "cow", "fox")
    rows = [(label, f"the {word} {'eats' if label else 'sleeps'} here {n % 3}")
            for n, word in enumerate(words * 3) for label in (0, 1)]  # fmt: skip
    part = Texts(
        first=[text for _, text in rows], second=None, label_N=np.array([label for label, _ in rows]),
        group=[str(n // 2) for n in range(len(rows))], name=[str(n // 2) for n in range(len(rows))],
    )  # fmt: skip
    one = DetectionSet(name="p", kind="rewritten", train=part, test=part, identity="p", counts={})
    tuned = FINETUNE.model_copy(update={"epochs": 8, "learning_rate": 5e-3})
    report = run([one], tiny_mlm, finetune=tuned)
    assert report["metrics"]["f1"]["value"] > 0.9
    assert run([one], tiny_mlm, finetune=tuned, name="again") == report
