"""An extended store: unchanged shards are reused byte for byte, the others are computed, and the store says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.teach import extend
from pipeline.teach.inference import SplitInputs
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from pipeline.text.mask import mask
from pipeline.text.params import MaskParams
from storage.errors import ShardCorrupt, StoreMissing
from storage.reader import Store
from storage.records.logits import SparseLogits
from storage.records.sequences import Masks
from tests.helpers.stores import TinyStores, cpu_runtime

SHARD = 32
PARAMS: dict[str, Any] = {
    "keep": {"form": "nucleus", "mass": 1.0, "floor": 0.01, "least": 1, "most": 8},
    "tail": {"rank": 3, "step": 0.4},
    "temperatures": [1.0],
    "seed": 0,
}


def masked(stores: TinyStores, out: Path, *, copies: int) -> Path:
    mask(
        MaskParams(rate=0.3, copies=copies, seed=0, shard_rows=SHARD),
        stores.documents,
        sequences=stores.sequences,
        out=out,
    )
    return out


def run(stores: TinyStores, teacher: Path, masks: Path, **changes: Any) -> Store[SparseLogits]:
    teach(
        TeacherParams.model_validate({"model": str(teacher), **PARAMS, **changes}),
        stores.corpus(masks=masks),
        out=Path("data/logits/fox"),
        runtime=cpu_runtime(),
    )
    return Store(Path("data/logits/fox"), SparseLogits)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Bounds of the predictions that the teacher computes, in the order of its calls."""
    seen: list[tuple[int, int]] = []
    map_them = SplitInputs.map_logits

    def map_logits(self: SplitInputs, lm: Any, start: int, stop: int, reduce: Any, **more: Any) -> Any:
        seen.append((start, stop))
        return map_them(self, lm, start, stop, reduce, **more)

    monkeypatch.setattr(SplitInputs, "map_logits", map_logits)
    return seen


def test_a_second_copy_leaves_the_first_alone(
    workplace: Path, tiny_stores: TinyStores, tiny_teacher: Path, computed: list[tuple[int, int]]
) -> None:
    one, two = (masked(tiny_stores, Path(f"masks-{copies}"), copies=copies) for copies in (1, 2))
    rows = Store(one, Masks).plan("train").rows
    first = run(tiny_stores, tiny_teacher, one)
    before = {shard.index: shard.files for shard in first.manifest.shards if shard.split == "train"}
    calibration, written = first.facts["calibration"], first.read("train")
    kept = extend.keep(first.path)
    computed.clear()

    second = run(tiny_stores, tiny_teacher, two)
    whole = rows // SHARD
    assert whole > 2 and second.plan("train").rows > rows
    assert {start for start, _ in computed} == {i * SHARD for i in range(whole, second.plan("train").shards)}
    after = {shard.index: shard.files for shard in second.manifest.shards if shard.split == "train"}
    for index in range(whole):
        assert after[index] == before[index]
        for name in after[index]:
            assert (second.path / name).stat().st_ino == (kept / name).stat().st_ino, "linked, not written again"
    assert second.facts["calibration"] == calibration
    assert second.manifest.inputs["extends"] == first.identity != second.identity

    record = second.read("train")
    assert record.covered_P()[rows:].any()
    # The short last shard of the first copy was computed again, as part of a longer one: the same predictions.
    np.testing.assert_array_equal(record.ids_PK[:rows], written.ids_PK)
    np.testing.assert_allclose(record.logprob_PK[:rows], written.logprob_PK, atol=0.05)
    fingerprints = json.loads((second.path / "manifest.json").read_text())["facts"]["questions"]
    assert fingerprints["heldout"] == first.facts["questions"]["heldout"]


def test_another_teacher_or_setting_begins_anew(
    workplace: Path, tiny_stores: TinyStores, tiny_teacher: Path, computed: list[tuple[int, int]], caplog: Any
) -> None:
    masks = masked(tiny_stores, Path("masks"), copies=1)
    extend.keep(run(tiny_stores, tiny_teacher, masks).path)
    computed.clear()
    changed = run(tiny_stores, tiny_teacher, masks, tail={"rank": 2, "step": 0.4})
    assert "extends" not in changed.manifest.inputs
    assert (0, SHARD) in computed
    assert "made by another model or with other settings" in caplog.text


def test_a_damaged_shard_that_was_kept_is_refused(workplace: Path, tiny_stores: TinyStores, tiny_teacher: Path) -> None:
    one, two = (masked(tiny_stores, Path(f"masks-{copies}"), copies=copies) for copies in (1, 2))
    kept = extend.keep(run(tiny_stores, tiny_teacher, one).path)
    file = kept / "train/tail_PJ/c/0/0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)
    with pytest.raises(ShardCorrupt, match="kept/fox/train/tail_PJ/c/0/0"):
        run(tiny_stores, tiny_teacher, two)


def test_nothing_to_keep(workplace: Path) -> None:
    with pytest.raises(StoreMissing, match="no sealed store"):
        extend.keep(Path("data/logits/nobody"))
