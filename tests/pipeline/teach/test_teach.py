"""A teacher's store against the teacher run one example at a time, with full float64 softmax.

What lies on disk is rounded: roots of listed probabilities to 1/256, of tails to 1/500, log-probabilities of true
tokens to 1/256 nat, entropies to 1/128, spreads to 1/64; a row is scaled to add up to 1.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM

from pipeline.core.seeds import generator
from pipeline.sparse.tail_fit import PSEUDO_ROWS
from pipeline.teach import job as teach_job
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.text.inputs import group_examples
from storage.documents import DocumentStore
from storage.errors import DataError, StaleParent, TeacherRefused
from storage.reader import Store
from storage.records.base import SPLITS
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks, Sequences
from tests.helpers import stores as fakes
from tests.helpers.reference import restore_teacher
from tests.helpers.stores import TinyStores, cpu_runtime

KEEP = 5
TOPK = {"form": "topk", "k": KEEP}
SAMPLED = {"form": "topk+sampled", "k": 2, "draws": 20}


def run(
    stores: TinyStores, teacher: Path, out: Path, *, keep: dict[str, Any] = TOPK, tail_rank: int = 6, seed: int = 0,
    **changes: Any,
) -> Store[SparseLogits]:  # fmt: skip
    where = {name: changes.pop(name) for name in ("documents", "sequences", "masks") if name in changes}
    params = TeacherParams.model_validate({
        "model": str(teacher), "keep": keep, "tail": {"rank": tail_rank, "step": 0.4}, "temperatures": [1.0, 2.0],
        "seed": seed,
    })  # fmt: skip
    teach(params, stores.corpus(**where), out=out, runtime=cpu_runtime(**changes))
    return Store(out, SparseLogits)


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def logits(
    tiny_stores: TinyStores, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Store[SparseLogits]:
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run(tiny_stores, tiny_teacher, folder / "logits" / "fox")


def dense(stores: TinyStores, teacher: Path, split: str) -> np.ndarray:
    """Full log-probabilities [P, V] where a word is cut alike, NaN elsewhere."""
    sequences = Store(stores.sequences, Sequences).read(split)
    masks = Store(stores.masks, Masks).read(split)
    texts = DocumentStore(stores.documents).read(split).column("text").to_pylist()
    model = AutoModelForMaskedLM.from_pretrained(teacher, dtype=torch.float64).eval()
    tokenizer = Tokenizer.from_file(str(teacher / "tokenizer.json"))
    reference = Tokenizer.from_file(str(stores.sequences.parent.parent / "reference.json"))
    tokenizer.no_padding(), tokenizer.no_truncation()
    sequence_G, start_G1 = group_examples(masks)
    result = np.full((len(masks), model.config.vocab_size), np.nan)
    for g, row in enumerate(sequence_G):
        columns = masks.column_P[start_G1[g] : start_G1[g + 1]]
        inside = np.flatnonzero(sequences.word_NL[row] >= 0)
        first, last = sequences.char_start_NL[row, inside[0]], sequences.char_end_NL[row, inside[-1]]
        text = texts[sequences.document_N[row]][first:last]
        spans = list(
            zip(sequences.char_start_NL[row, columns] - first, sequences.char_end_NL[row, columns] - first, strict=True)
        )
        encoding = tokenizer.encode(text)
        ids = [
            tokenizer.token_to_id("<mask>") if any(a < end and start < b for start, end in spans) and b > a else number
            for number, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
        ]
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1).numpy()
        words = sequences.word_NL[row, columns]
        for p, (start, end) in enumerate(spans):
            word = inside[sequences.word_NL[row, inside] == words[p]]
            mine = [reference.id_to_token(int(number)) for number in sequences.input_ids_NL[row, word]]
            low, high = sequences.char_start_NL[row, word[0]] - first, sequences.char_end_NL[row, word[-1]] - first
            theirs = [t for t, (a, b) in enumerate(encoding.offsets) if low <= a < b <= high]
            if [tokenizer.id_to_token(encoding.ids[t]) for t in theirs] == mine:
                where = next(t for t in theirs if encoding.offsets[t] == (start, end))
                result[start_G1[g] + p] = output[where]
    return result


@pytest.fixture(scope="module")
def reference_file(tiny_stores: TinyStores, tiny_tokenizer: Path) -> Path:
    return Path(shutil.copy(tiny_tokenizer / "tokenizer.json", tiny_stores.sequences.parent.parent / "reference.json"))


@pytest.fixture(scope="module")
def full(tiny_stores: TinyStores, tiny_teacher: Path, reference_file: Path) -> dict[str, np.ndarray]:
    return {split: dense(tiny_stores, tiny_teacher, split) for split in SPLITS}


@pytest.fixture(scope="module")
def gold(tiny_stores: TinyStores, tiny_teacher: Path, reference_file: Path) -> np.ndarray:
    """The held-out true tokens in the teacher's own ids; -1 where it has no such token."""
    labels = Store(tiny_stores.masks, Masks).read("heldout").label_P
    theirs, ours = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json")), Tokenizer.from_file(str(reference_file))
    found = [theirs.token_to_id(ours.id_to_token(int(number))) for number in labels]
    return np.array([-1 if number is None else number for number in found])


def softmax_at(log_p: np.ndarray, temperature: float) -> np.ndarray:
    power = np.exp(log_p / temperature)
    return np.asarray(power / power.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_store_holds_the_full_softmax_at_listed_ids(
    logits: Store[SparseLogits], full: dict[str, np.ndarray], split: str
) -> None:
    record = logits.read(split)
    covered = record.covered_P()
    assert 0.5 < covered.mean() < 1, "the two vocabularies cut some words differently"
    assert (covered == np.isfinite(full[split][:, 0])).all()
    log_p = full[split][covered]
    kept = np.take_along_axis(log_p, record.ids_PK[covered].astype(int), axis=1)
    # Rounding may change the order of nearly equal ones, and not which are listed.
    np.testing.assert_allclose(np.sort(kept, axis=1), np.sort(log_p, axis=1)[:, -KEEP:], atol=1e-5)
    root = np.exp(record.logprob_PK[covered] / 2)
    np.testing.assert_allclose(root, np.exp(kept / 2), atol=1 / 256 + 0.01)
    assert np.abs(root - np.exp(kept / 2)).mean() < 1 / 400
    outside = 1 - np.exp(kept).sum(axis=1)
    np.testing.assert_allclose(np.sqrt(record.tail_PJ[covered, 0]), np.sqrt(outside), atol=1 / 500 + 0.006)
    for j, temperature in enumerate(logits.facts["temperatures"]):
        p = softmax_at(log_p, temperature)
        listed = np.take_along_axis(p, record.ids_PK[covered].astype(int), axis=1).sum(axis=1)
        entropy = -(p * np.log(p)).sum(axis=1)
        np.testing.assert_allclose(record.entropy_PJ[covered, j], entropy, atol=1 / 128 + 1e-4)
        if j:  # that at temperature 1 shares in the scaling of the list
            np.testing.assert_allclose(np.sqrt(record.tail_PJ[covered, j]), np.sqrt(1 - listed), atol=1 / 500 + 1e-4)


def test_the_true_token_is_known_in_the_teachers_own_ids(
    logits: Store[SparseLogits], full: dict[str, np.ndarray], gold: np.ndarray
) -> None:
    record = logits.read("heldout")
    covered = record.covered_P()
    log_p, gold_P = full["heldout"][covered], gold[covered]
    assert (gold_P >= 0).all(), "a word that is cut alike consists of tokens that both have"
    for j, temperature in enumerate(logits.facts["temperatures"]):
        expected = np.log(softmax_at(log_p, temperature)[np.arange(len(gold_P)), gold_P])
        np.testing.assert_allclose(record.gold_logprob_PJ[covered, j], expected, atol=1 / 256 + 1e-4)
    place = record.gold_place_P[covered]
    among = (record.ids_PK[covered] == gold_P[:, None]).any(axis=1)
    assert (among == (place >= 0)).all() and 0 < among.sum() < len(among)
    assert (record.ids_PK[covered][among, place[among]] == gold_P[among]).all()
    assert (record.gold_place_P[~covered] == -1).all()


def test_temperatures_are_multiples_of_the_best_one(logits: Store[SparseLogits], full: dict[str, np.ndarray]) -> None:
    raw, fitted, doubled = logits.facts["temperatures"]
    assert (raw, doubled) == (1.0, pytest.approx(2 * fitted, abs=2e-6))
    assert logits.facts["calibration"]["temperature"] == fitted
    record = logits.read("calibration")
    nll = -record.gold_logprob_PJ[record.covered_P()].mean(axis=0)
    assert logits.facts["calibration"]["nll_raw"] == pytest.approx(nll[0], abs=1e-3)
    assert logits.facts["calibration"]["nll"] == pytest.approx(nll[1], abs=1e-3)
    assert nll[1] < nll[0] and nll[1] < nll[2]


@pytest.fixture(scope="module")
def plain(tiny_stores: TinyStores, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Store[SparseLogits]:
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run(tiny_stores, tiny_teacher, folder / "logits" / "fox", tail_rank=0)


def test_at_rank_0_the_prior_is_the_mean_distribution_outside_the_lists(
    plain: Store[SparseLogits], full: dict[str, np.ndarray]
) -> None:
    assert "sketch_PD" not in plain.manifest.arrays
    log_p = full["train"][np.isfinite(full["train"][:, 0])]
    listed = np.argsort(-log_p, axis=1)[:, :KEEP]
    for j, temperature in enumerate(plain.facts["temperatures"]):
        p = softmax_at(log_p, temperature)
        np.put_along_axis(p, listed, 0, axis=1)
        mass = p.sum(axis=0) + PSEUDO_ROWS / p.shape[1]
        np.testing.assert_allclose(plain.constant("tail_bias_JV")[j], np.log(mass / mass.sum()), atol=1e-3)
    mean = np.exp(log_p).mean(axis=0)
    assert (np.diff(mean[plain.constant("order_V")]) <= 1e-6).all()


def divergence(store: Store[SparseLogits], log_p: np.ndarray, column: int) -> np.ndarray:
    record = store.read("heldout")
    basis = store.constant("tail_basis_DV") if "sketch_PD" in store.manifest.arrays else None
    temperature = store.facts["temperatures"][column]
    found = restore_teacher(
        record, bias_JV=store.constant("tail_bias_JV"), basis_DV=basis, column=column, temperature=temperature
    )[record.covered_P()]
    p = softmax_at(log_p[record.covered_P()], temperature)
    return np.asarray((p * np.log(p / found)).sum(axis=1))


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_low_rank_tail_brings_the_restored_softmax_closer(
    logits: Store[SparseLogits], plain: Store[SparseLogits], full: dict[str, np.ndarray], column: int
) -> None:
    low_rank_kl = divergence(logits, full["heldout"], column).mean()
    plain_kl = divergence(plain, full["heldout"], column).mean()
    assert 0 < low_rank_kl < 0.5 * plain_kl


def test_spreads_are_of_what_is_not_listed(logits: Store[SparseLogits]) -> None:
    record = logits.read("train")
    basis, bias = logits.constant("tail_basis_DV").astype(np.float64), logits.constant("tail_bias_JV")
    for row in np.flatnonzero(record.covered_P())[::7]:
        for j, temperature in enumerate(logits.facts["temperatures"]):
            exponent = bias[j].astype(np.float64) + record.sketch_PD[row].astype(np.float64) @ basis / temperature
            outside = np.delete(exponent, record.ids_PK[row].astype(int))
            assert record.spread_PJ[row, j] == pytest.approx(np.log(np.exp(outside).sum()), abs=1 / 64 + 1e-3)
    assert (record.sketch_PD[~record.covered_P()] == 0).all()


def test_a_nucleus_lists_what_is_likely_enough(
    tiny_stores: TinyStores, tiny_teacher: Path, full: dict[str, np.ndarray], workplace: Path
) -> None:
    form = {"form": "nucleus", "mass": 0.9, "floor": 0.02, "least": 2, "most": 9}
    store = run(tiny_stores, tiny_teacher, workplace / "fox", keep=form)
    record = store.read("heldout")
    assert store.facts["keep"] == form and store.facts["most"] == 9
    lengths = set()
    for row in np.flatnonzero(record.covered_P()):
        p = np.sort(np.exp(full["heldout"][row]))[::-1]
        before = np.cumsum(p) - p
        wanted = (p >= 0.02) & (before < 0.9) & (np.arange(len(p)) < 9)
        count = max(2, int(wanted.sum()))
        edge = min(np.abs(p - 0.02).min(), np.abs(before - 0.9).min())
        ids = record.ids_PK[row][record.ids_PK[row] < 65535]
        assert len(ids) == count or edge < 1e-5
        if len(ids) == count:
            assert set(ids.tolist()) == set(np.argsort(-full["heldout"][row])[:count].tolist())
        lengths.add(len(ids))
    assert len(lengths) > 3
    assert (record.ids_PK[~record.covered_P()] == 65535).all()


@pytest.mark.parametrize("keep", [{"form": "sampled", "draws": 30}, SAMPLED], ids=["sampled", "topk+sampled"])
def test_draws_follow_the_rest_of_the_softmax(
    tiny_stores: TinyStores, tiny_teacher: Path, full: dict[str, np.ndarray], workplace: Path, keep: dict[str, Any]
) -> None:
    """Each by the inverse of the distribution function at the calibrated temperature, from the shard's own numbers."""
    store = run(tiny_stores, tiny_teacher, workplace / "fox", keep=keep, seed=3)
    assert not {"sketch_PD", "spread_PJ"} & set(store.manifest.arrays)
    record, draws = store.read("heldout"), int(keep["draws"])
    covered = record.covered_P()
    plan = store.plan("heldout")
    uniform = np.concatenate([
        generator(3, "draws", "heldout", index).random((np.diff(plan.bounds(index))[0], draws))
        for index in range(plan.shards)
    ])  # fmt: skip
    p = softmax_at(full["heldout"], store.facts["temperatures"][1])
    listed = np.argsort(-full["heldout"], axis=1)[:, : keep.get("k", 0)]
    np.put_along_axis(p, listed, 0, axis=1)
    upto = p.cumsum(axis=1)
    same = 0
    for row in np.flatnonzero(covered):
        drawn = np.searchsorted(upto[row], uniform[row] * upto[row, -1], side="right")
        ids, times = np.unique(drawn, return_counts=True)
        found = record.drawn_share_PS[row] > 0
        shares = dict(zip(record.drawn_ids_PS[row][found].tolist(), record.drawn_share_PS[row][found], strict=True))
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert not set(shares) & set(record.ids_PK[row].tolist())
        same += shares == pytest.approx(dict(zip(ids.tolist(), times / draws, strict=True)), abs=1e-6)
    assert same >= 0.95 * covered.sum()  # the rest lie within float32 of a border
    restored = restore_teacher(
        record,
        bias_JV=store.constant("tail_bias_JV"),
        column=1,
        temperature=store.facts["temperatures"][1],
    )[covered]
    truth = softmax_at(full["heldout"][covered], store.facts["temperatures"][1])
    tail = p[covered].sum(axis=1)[:, None]
    share = p[covered] / tail
    sigma = np.sqrt((tail**2 * share * (1 - share) / draws).sum(axis=0))
    rounding = 0.01 * truth.sum(axis=0) + 1e-3 * len(truth)
    assert (np.abs(restored.sum(axis=0) - truth.sum(axis=0)) <= 5 * sigma + rounding).all()


def test_batch_size_changes_neither_predictions_nor_draws(
    tiny_stores: TinyStores, tiny_teacher: Path, workplace: Path
) -> None:
    one = run(tiny_stores, tiny_teacher, workplace / "one", keep=SAMPLED).read("train")
    other = run(tiny_stores, tiny_teacher, workplace / "other", keep=SAMPLED, batch_tokens=128).read("train")
    np.testing.assert_allclose(other.gold_logprob_PJ, one.gold_logprob_PJ, atol=1 / 128 + 1e-6)
    assert (other.gold_logprob_PJ == one.gold_logprob_PJ)[one.covered_P()].mean() > 0.99
    assert (other.drawn_ids_PS == one.drawn_ids_PS).all(axis=1).mean() > 0.98


def test_the_seed_decides_the_draws_and_nothing_else(
    tiny_stores: TinyStores, tiny_teacher: Path, workplace: Path
) -> None:
    one, other = (
        run(tiny_stores, tiny_teacher, workplace / name, keep=SAMPLED, seed=seed)
        for name, seed in (("one", 0), ("other", 1))
    )
    assert one.identity != other.identity
    drawn = [store.read("heldout").drawn_ids_PS for store in (one, other)]
    assert (drawn[0] != drawn[1]).any(axis=1).mean() > 0.5
    for name, values in one.read("heldout").arrays().items():
        if not name.startswith("drawn"):
            np.testing.assert_array_equal(other.read("heldout").arrays()[name], values)


def test_an_interrupted_run_continues_and_ends_with_the_same_bytes(
    logits: Store[SparseLogits],
    tiny_stores: TinyStores,
    tiny_teacher: Path,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    predict = teach_job.predict_shard

    def failing(lm: Any, part: Any, shard: Any, *rest: Any, **more: Any) -> Any:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(str(shard))
        return predict(lm, part, shard, *rest, **more)

    monkeypatch.setattr(teach_job, "predict_shard", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_stores, tiny_teacher, workplace / "fox")
    assert not (workplace / "fox").exists()
    again: list[str] = []

    def counting(lm: Any, part: Any, shard: Any, *rest: Any, **more: Any) -> Any:
        again.append(str(shard))
        return predict(lm, part, shard, *rest, **more)

    monkeypatch.setattr(teach_job, "predict_shard", counting)
    store = run(tiny_stores, tiny_teacher, workplace / "fox")
    planned = [f"{split}/{i}" for split in store.manifest.splits for i in range(store.plan(split).shards)]
    assert made + again == planned
    assert tree(workplace / "fox") == tree(logits.path)


def test_a_model_that_only_guesses_is_refused(tiny_stores: TinyStores, tiny_mlm: Path, workplace: Path) -> None:
    with pytest.raises(TeacherRefused, match=r"guessing by token frequency gives .* no trained masked language model"):
        run(tiny_stores, tiny_mlm, workplace / "random")
    assert not (workplace / "random").exists()


def test_masks_of_other_sequences_are_refused(
    tiny_stores: TinyStores, tiny_teacher: Path, tiny_tokenizer: Path, workplace: Path
) -> None:
    other = fakes.tiny_sequences(workplace / "other", tiny_tokenizer, sequence_tokens=16)
    with pytest.raises(StaleParent, match=r"masks: made from sequences [0-9a-f]{12}, but .* Run: dvc repro mask"):
        run(tiny_stores, tiny_teacher, workplace / "fox", sequences=other, documents=workplace / "other/data/documents")


def test_too_little_calibration_text_is_refused(tiny_tokenizer: Path, tiny_teacher: Path, workplace: Path) -> None:
    fakes.tiny_documents(workplace, calibration=0.02, heldout=0.3)
    stores = fakes.tiny_masks(workplace, tiny_tokenizer)
    with pytest.raises(DataError, match=r"masked positions that .* can answer, expected at least 50"):
        run(stores, tiny_teacher, workplace / "fox")
