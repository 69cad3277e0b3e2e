"""Reports of hand-made teachers, a fusion and a student against plain NumPy; stores that do not belong are refused.

Losses are compared with the dense distributions, to the step in which stores keep them; what comes first in a list is
taken from the store, where close entries may have become equal.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.evaluate.evaluate import (
    Evaluation,
    evaluate_fusion,
    evaluate_student,
    evaluate_teacher,
)
from pipeline.evaluate.heldout import Heldout, curve_part, open_heldout
from pipeline.evaluate.params import EvaluateParams
from pipeline.evaluate.results import read_sums
from storage.errors import StaleParent, StoreMissing, VocabularyError
from storage.format.codec import LOGPROB_STEPS, TAIL_LEVELS
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.targets import FusedTargets
from tests.helpers import stores as fakes
from tests.helpers.distributions import cooled
from tests.helpers.reference import restore_fused, restore_teacher
from tests.helpers.stores import TinyStores, cpu_runtime
from tests.helpers.teacher_stores import TEMPERATURES, World, make_world, write_student

CPU = torch.device("cpu")

WEIGHT_STEP = 0.5 / TAIL_LEVELS

HALF_STEP = 0.5 / LOGPROB_STEPS
"""Nats by which a stored log-probability of a true token may be off."""


@pytest.fixture(scope="module")
def world(tiny_stores: TinyStores, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tiny_stores, tmp_path_factory.mktemp("world") / "data", fusions=("confident", "other"))


@pytest.fixture(scope="module")
def heldout(world: World) -> Heldout:
    return open_heldout(world.stores.corpus())


@pytest.fixture(scope="module")
def params(world: World) -> EvaluateParams:
    return EvaluateParams(against=str(world.data / "targets" / "confident"), bootstrap=200, seed=0)


def mixture(world: World) -> np.ndarray:
    return np.einsum("pt,tpv->pv", world.weight_PT, np.stack(list(world.dense.values())))


def fused_rows(world: World) -> FusedTargets:
    return Store(world.data / "targets" / "confident", FusedTargets).read("heldout")


def rank(ids_PK: np.ndarray, label_P: np.ndarray) -> np.ndarray:
    """Place of the true token in each list, its length where it is not listed."""
    hit_PK = ids_PK == label_P[:, None]
    return np.where(hit_PK.any(axis=1), hit_PK.argmax(axis=1), ids_PK.shape[1])


def gold_nll(dense_PV: np.ndarray, label_P: np.ndarray) -> np.ndarray:
    return -np.log(dense_PV[np.arange(len(label_P)), label_P])


@pytest.fixture(scope="module")
def beta(world: World, heldout: Heldout, params: EvaluateParams) -> Evaluation:
    return evaluate_teacher(params, heldout, logits=world.data / "logits" / "beta")


@pytest.fixture(scope="module")
def confident(world: World, heldout: Heldout, params: EvaluateParams) -> Evaluation:
    return evaluate_fusion(params, heldout, targets=world.data / "targets" / "confident", logits=world.data / "logits")


@pytest.fixture(scope="module")
def student(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_mlm: Path, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    folder = write_student(tmp_path_factory.mktemp("models") / "fused", tiny_mlm, world.stores)
    return evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))


def test_a_teachers_report_holds_the_means_over_what_it_answered(world: World, beta: Evaluation) -> None:
    report, label_P = beta.report, world.label_P
    covered_P = np.arange(len(label_P)) % 5 != 0
    dense_PV = world.dense["beta"][covered_P]
    rows = Store(world.data / "logits" / "beta", SparseLogits).read("heldout")
    ids_PK = dense_PV.shape[1] - 1 - rows.ids_PK[covered_P].astype(int)  # its ids run the other way
    rank_P = rank(ids_PK, label_P[covered_P])
    assert report["nll"] == pytest.approx(gold_nll(dense_PV, label_P[covered_P]).mean(), abs=HALF_STEP)
    assert report["nll"] == pytest.approx(-rows.gold_logprob_PJ[covered_P, 0].mean(), rel=1e-5)
    assert report["nll_calibrated"] == pytest.approx(
        gold_nll(cooled(dense_PV, TEMPERATURES[1]), label_P[covered_P]).mean(), abs=HALF_STEP
    )
    assert report["accuracy"] == pytest.approx((rank_P == 0).mean())
    assert report["accuracy_top5"] == pytest.approx((rank_P < 5).mean())
    assert report["accuracy"] == pytest.approx((dense_PV.argmax(axis=1) == label_P[covered_P]).mean(), abs=0.05)
    agreed_P = ids_PK[:, 0] == fused_rows(world).ids_PM[covered_P, 0]
    assert report["agreement"] == pytest.approx(agreed_P.mean())
    assert report["positions"] == covered_P.sum()
    assert report["coverage"] == pytest.approx(covered_P.mean())
    assert report["temperature"] == TEMPERATURES[1]
    assert report["parameters"] == 1000


def test_a_teachers_report_says_what_it_covers_of_each_kind_of_position(world: World, beta: Evaluation) -> None:
    """Kinds are taken from the stores one position at a time; every fifth position has no answer."""
    corpus = world.stores.corpus()
    rows, masked = corpus.sequences.read("heldout"), corpus.masks.read("heldout")
    texts = corpus.documents.read("heldout").column("text").to_pylist()
    kinds: dict[str, list[bool]] = {}
    for number, (row, column) in enumerate(zip(masked.sequence_P, masked.column_P, strict=True)):
        inside = np.flatnonzero(rows.word_NL[row] == rows.word_NL[row, column])
        start, end = rows.char_start_NL[row, inside[0]], rows.char_end_NL[row, inside[-1]]
        word = texts[rows.document_N[row]][start:end]
        fits = {
            "first word": rows.word_NL[row, column] == 0,
            "punctuation": not any(letter.isalnum() for letter in word),
            "capital": word.lower() != word,
            "several tokens": len(inside) > 1,
            "single token": True,
        }
        kinds.setdefault(next(kind for kind, does in fits.items() if does), []).append(number % 5 != 0)
    found = {row["place"]: (row["positions"], row["share"], row["covered"]) for row in beta.report["coverage_by_place"]}
    assert found == {
        kind: pytest.approx((len(answers), len(answers) / len(masked), np.mean(answers)))
        for kind, answers in kinds.items()
    }
    assert len(found) >= 4


def test_reports_hold_the_loss_of_what_is_restored(world: World, beta: Evaluation, confident: Evaluation) -> None:
    """A few listed ids of eight: what is restored is further from the truth than the full softmax."""
    store = Store(world.data / "logits" / "beta", SparseLogits)
    rows = store.read("heldout")
    dense_PV = restore_teacher(rows, bias_JV=store.constant("tail_bias_JV"), column=1, temperature=TEMPERATURES[1])[
        :, ::-1
    ]  # its ids run the other way
    expected = np.nanmean(gold_nll(dense_PV, world.label_P))
    assert beta.report["nll_restored"] == pytest.approx(expected, abs=1e-4)
    assert beta.report["nll_restored_low"] < expected < beta.report["nll_restored_high"]
    bias_TV = Store(world.data / "targets" / "confident", FusedTargets).constant("tail_bias_TV")
    fused_PV = restore_fused(fused_rows(world), bias_TV=bias_TV)
    assert confident.report["nll_restored"] == pytest.approx(gold_nll(fused_PV, world.label_P).mean(), abs=1e-4)
    assert abs(confident.report["nll_restored"] - confident.report["nll"]) > 0.01


def test_a_teachers_report_holds_its_price(world: World, beta: Evaluation) -> None:
    store = Store(world.data / "logits" / "beta", SparseLogits)
    files = [path for path in (store.path / "train").rglob("*") if path.is_file() and path.name != "zarr.json"]
    size = sum(path.stat().st_size for path in files)
    assert beta.report["store_bytes"] == size
    assert beta.report["bytes_per_position"] == pytest.approx(size / store.plan("train").rows)
    assert beta.report["keep"] == 8


def test_intervals_hold_their_values(beta: Evaluation, confident: Evaluation, student: Evaluation) -> None:
    for evaluation, names in (
        (beta, ("nll", "nll_calibrated", "accuracy", "accuracy_top5", "agreement")),
        (confident, ("nll", "accuracy", "gain", "kl_to_best_teacher")),
        (student, ("nll", "kl", "accuracy_top5")),
    ):
        for name in names:
            low, high = evaluation.report[f"{name}_low"], evaluation.report[f"{name}_high"]
            assert low <= evaluation.report[name] <= high
        assert evaluation.report["nll_low"] < evaluation.report["nll_high"]
        assert evaluation.report["ece_low"] <= evaluation.report["ece_high"]


def test_a_fusions_report_sets_it_beside_its_best_teacher(world: World, confident: Evaluation) -> None:
    report, label_P = confident.report, world.label_P
    common_P = np.arange(len(label_P)) % 5 != 0
    fused_P = gold_nll(mixture(world), label_P)
    teachers = {name: gold_nll(dense_PV, label_P)[common_P].mean() for name, dense_PV in world.dense.items()}
    best = min(teachers, key=lambda name: teachers[name])
    assert report["nll"] == pytest.approx(fused_P.mean(), abs=HALF_STEP)
    assert report["coverage"] == 1.0
    assert report["common_positions"] == common_P.sum()
    assert report["nll_common"] == pytest.approx(fused_P[common_P].mean(), abs=HALF_STEP)
    assert report["nll_common_teachers"] == pytest.approx(teachers, abs=HALF_STEP)
    assert report["best_teacher"] == best
    assert report["gain"] == pytest.approx(teachers[best] - fused_P[common_P].mean(), abs=2 * HALF_STEP)
    assert report["accuracy"] == pytest.approx((rank(fused_rows(world).ids_PM, label_P) == 0).mean())
    assert report["agreement"] == 1.0
    assert report["kl_to_best_teacher"] > 0
    assert report["weights"] == pytest.approx(
        {"alpha": world.weight_PT[:, 0].mean(), "beta": world.weight_PT[:, 1].mean()}, abs=WEIGHT_STEP
    )


def test_mean_weights_by_source_add_up_over_the_sources(world: World, heldout: Heldout, confident: Evaluation) -> None:
    rows = confident.report["weights_by_source"]
    counts = [row["positions"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert {row["source"] for row in rows} <= set(heldout.source_D)
    assert sum(counts) == len(world.label_P)
    mean = sum(row["weights"]["beta"] * row["positions"] for row in rows) / sum(counts)
    assert mean == pytest.approx(confident.report["weights"]["beta"])
    first = np.array([heldout.source_D[d] == rows[0]["source"] for d in heldout.document_P])
    assert rows[0]["weights"]["alpha"] == pytest.approx(world.weight_PT[first, 0].mean(), abs=WEIGHT_STEP)


def test_a_students_report_holds_scores_size_and_curve(
    world: World, heldout: Heldout, student: Evaluation, tiny_mlm: Path
) -> None:
    report = student.report
    vocabulary = heldout.sequences.facts["vocabulary"]
    assert report["nll"] == pytest.approx(np.log(vocabulary), abs=0.5)  # random weights
    assert report["positions"] == len(world.label_P)
    assert report["coverage"] == 1.0
    assert report["kl"] > 0
    assert report["learns_from"] == "confident"
    assert report["curve"] == [[0, 5.5], [10, 4.5], [20, 4.25]]
    assert report["model_bytes"] == (tiny_mlm / "model.safetensors").stat().st_size
    assert report["parameters"] > 10_000


def test_the_area_under_a_students_curve_is_its_mean_over_the_steps(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_mlm: Path, tmp_path: Path
) -> None:
    """Marks at steps 0, 10 and 40, each with the mean NLL of every document."""
    folder = write_student(tmp_path / "fused", tiny_mlm, world.stores)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    count_D = np.bincount(heldout.document_P)
    sum_MD = np.random.default_rng(0).random((3, len(count_D))) * count_D
    curve = [[step, float(sums.sum() / count_D.sum())] for step, sums in zip((0, 10, 40), sum_MD, strict=True)]
    record |= {"curve": curve, "curve_document_means": (sum_MD / count_D).tolist()}
    (folder / "training.json").write_text(json.dumps(record), encoding="utf-8")
    found = evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))
    losses = [nll for _, nll in curve]
    expected = (10 * (losses[0] + losses[1]) / 2 + 30 * (losses[1] + losses[2]) / 2) / 40
    assert found.report["area"] == pytest.approx(expected, rel=1e-6)
    column = found.sums.means.names.index("area")
    of_first = (10 * (sum_MD[0, 0] + sum_MD[1, 0]) / 2 + 30 * (sum_MD[1, 0] + sum_MD[2, 0]) / 2) / 40
    assert found.sums.means.total_DQ[0, column] == pytest.approx(of_first)


def test_the_area_under_a_curve_of_some_documents_counts_in_these_alone(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_mlm: Path, tmp_path: Path
) -> None:
    """A curve at 5 nats throughout, on the first document and the last."""
    folder = write_student(tmp_path / "fused", tiny_mlm, world.stores)
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    chosen = [int(heldout.row_D[0]), int(heldout.row_D[-1])]
    record |= {"curve_document_means": [[4.0, 6.0]] * len(record["curve"]), "curve_documents": chosen}
    (folder / "training.json").write_text(json.dumps(record), encoding="utf-8")
    found = evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))
    count_D = np.bincount(heldout.document_P)
    assert found.report["curve_documents"] == 2
    assert found.report["area"] == pytest.approx((4 * count_D[0] + 6 * count_D[-1]) / (count_D[0] + count_D[-1]))
    column = found.sums.means.names.index("area")
    assert found.sums.means.count_DQ[:, column].nonzero()[0].tolist() == [0, len(count_D) - 1]
    assert found.report["nll"] == pytest.approx(np.log(heldout.sequences.facts["vocabulary"]), abs=0.5)


def test_a_curve_is_measured_on_whole_documents_that_the_split_alone_decides(heldout: Heldout) -> None:
    rows, masks = heldout.rows, heldout.masked
    count_D = np.bincount(heldout.document_P)
    sizes = []
    for positions in (1, len(masks) // 3, len(masks) - 1):
        row_D, part = curve_part(rows, masks, positions=positions)
        of_these = np.isin(rows.document_N[masks.sequence_P], row_D)
        for name, values in part.arrays().items():
            np.testing.assert_array_equal(values, masks.arrays()[name][of_these])
        assert positions <= len(part) < positions + count_D.max()
        sizes.append(set(row_D.tolist()))
    assert sizes[0] < sizes[1] < sizes[2]  # a larger part has the documents of a smaller one
    for everything in (0, len(masks)):
        row_D, part = curve_part(rows, masks, positions=everything)
        assert row_D.tolist() == heldout.row_D.tolist()
        assert part is masks


def test_documents_are_those_with_blanks(heldout: Heldout, beta: Evaluation) -> None:
    assert beta.report["documents"] == len(np.unique(heldout.rows.document_N[heldout.masked.sequence_P]))


def test_sums_beside_the_report_add_up_to_its_means(student: Evaluation, tmp_path: Path) -> None:
    student.write(tmp_path / "students" / "fused.json")
    sums = read_sums(tmp_path / "students" / "fused.arrow", remedy="")
    report = json.loads((tmp_path / "students" / "fused.json").read_text(encoding="utf-8"))
    for name in ("nll", "accuracy", "kl"):
        column = sums.means.names.index(name)
        mean = sums.means.total_DQ[:, column].sum() / sums.means.count_DQ[:, column].sum()
        assert report[name] == pytest.approx(mean, rel=1e-5)


def test_an_evaluation_made_again_has_the_same_bytes(
    world: World, heldout: Heldout, params: EvaluateParams, beta: Evaluation, tmp_path: Path
) -> None:
    beta.write(tmp_path / "a" / "beta.json")
    evaluate_teacher(params, heldout, logits=world.data / "logits" / "beta").write(tmp_path / "b" / "beta.json")
    for name in ("beta.json", "beta.arrow"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_student_without_a_teacher_says_so(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_mlm: Path, tmp_path: Path
) -> None:
    folder = write_student(tmp_path / "labels-only", tiny_mlm, world.stores, targets=None)
    found = evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))
    assert found.report["learns_from"] == "labels"


@pytest.fixture(scope="module")
def other_masks(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of the same sequences at another rate."""
    from pipeline.text.mask import mask
    from pipeline.text.params import MaskParams

    out = tmp_path_factory.mktemp("other") / "masks"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out.parent)
        settings = MaskParams(rate=0.3, copies=1, seed=0, shard_rows=64)
        mask(settings, world.stores.documents, sequences=world.stores.sequences, out=out)
    return out


def test_answers_to_other_blanks_are_refused(
    world: World, params: EvaluateParams, tiny_mlm: Path, other_masks: Path, tmp_path: Path
) -> None:
    heldout = open_heldout(world.stores.corpus(masks=other_masks))
    with pytest.raises(StaleParent, match=r"logits/beta: made from masks .* Run: dvc repro teach@beta"):
        evaluate_teacher(params, heldout, logits=world.data / "logits" / "beta")
    with pytest.raises(StaleParent, match=r"targets/other: made from masks .* Run: dvc repro fuse@other"):
        evaluate_fusion(params, heldout, targets=world.data / "targets" / "other", logits=world.data / "logits")
    folder = write_student(tmp_path / "fused", tiny_mlm, world.stores)
    with pytest.raises(StaleParent, match=r"fused: trained on masks .* Run: dvc repro train@fused"):
        evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))


def test_a_fusion_of_other_teachers_than_those_at_hand_is_refused(
    world: World, heldout: Heldout, params: EvaluateParams, tmp_path: Path
) -> None:
    other = make_world(world.stores, tmp_path / "data", keep=5)
    with pytest.raises(StaleParent, match=r"targets/other: made from logits/alpha .* Run: dvc repro fuse@other"):
        evaluate_fusion(params, heldout, targets=world.data / "targets" / "other", logits=other.data / "logits")


def test_a_model_that_was_not_trained_here_is_refused(heldout: Heldout, params: EvaluateParams, tiny_mlm: Path) -> None:
    with pytest.raises(StoreMissing, match=r"training\.json: not found\. Run: dvc repro train@"):
        evaluate_student(params, heldout, model=tiny_mlm, runtime=cpu_runtime(batch_tokens=512))


def test_a_student_of_another_vocabulary_is_refused(
    world: World, heldout: Heldout, params: EvaluateParams, tiny_bpe_tokenizer: Path, tmp_path: Path
) -> None:
    model = fakes.write_tiny_mlm(tmp_path / "bpe", tiny_bpe_tokenizer)
    folder = write_student(tmp_path / "fused", model, world.stores)
    with pytest.raises(VocabularyError, match=r"fused: \d+ ids, but .*masks has \d+\. Run: dvc repro train@fused"):
        evaluate_student(params, heldout, model=folder, runtime=cpu_runtime(batch_tokens=512))


@pytest.mark.parametrize("keep", [4, 8])
def test_the_five_most_likely_are_counted_only_where_five_are_known(
    world: World, heldout: Heldout, params: EvaluateParams, tmp_path: Path, keep: int
) -> None:
    other = make_world(world.stores, tmp_path / "data", keep=keep)
    teacher = evaluate_teacher(params, heldout, logits=other.data / "logits" / "alpha").report
    assert ("accuracy_top5" in teacher) == (keep >= 5)
    fusion = evaluate_fusion(
        params, heldout, targets=other.data / "targets" / "confident", logits=other.data / "logits"
    ).report
    assert ("accuracy_top5" in fusion) == (keep >= 5)
    assert fusion["keep"] == teacher["keep"] == keep


@pytest.mark.parametrize(
    ("calibrated", "tail_rank", "draws"), [(False, 0, 0), (True, 0, 0), (False, 6, 0), (True, 6, 0), (True, 0, 5)]
)
def test_a_fusion_of_one_teacher_is_that_teacher(
    world: World, heldout: Heldout, params: EvaluateParams, tmp_path: Path, calibrated: bool, tail_rank: int, draws: int
) -> None:
    """Through the real fusion: at the temperature it was fused at, nothing is gained and nothing lost but steps."""
    from pipeline.fuse.fuse import fuse
    from pipeline.fuse.params import FusionParams
    from pipeline.text.corpus_view import MaskedSequences

    logits = make_world(world.stores, tmp_path / "data", tail_rank=tail_rank, draws=draws, fusions=()).data / "logits"
    settings = FusionParams(
        teachers=["beta"], weighting="uniform", tau=1.0, calibrated=calibrated, prior="equal", temperature=1.0, keep=16
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        fuse(
            settings,
            MaskedSequences.open_pair(world.stores.sequences, world.stores.masks),
            logits=logits,
            out=tmp_path / "only",
            declared=["alpha", "beta"],
        )
    report = evaluate_fusion(params, heldout, targets=tmp_path / "only", logits=logits).report
    teacher = evaluate_teacher(params, heldout, logits=logits / "beta").report
    assert report["nll"] == pytest.approx(teacher["nll_calibrated" if calibrated else "nll"], abs=1e-5)
    assert report["ece"] == pytest.approx(teacher["ece_calibrated" if calibrated else "ece"], abs=1e-2)
    assert report["coverage"] == teacher["coverage"]
    if not draws:  # what was drawn at the calibrated temperature is in another order at 1
        assert report["accuracy"] == pytest.approx(teacher["accuracy"], abs=0.05)
    assert report["best_teacher"] == "beta"
    assert report["gain"] == pytest.approx(0, abs=1e-5)
    assert report["kl_to_best_teacher"] == pytest.approx(0, abs=2e-3)
    assert report["weights"] == {"beta": 1.0}
