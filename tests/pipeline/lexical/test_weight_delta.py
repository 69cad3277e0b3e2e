"""Students as changes of their start: what is lost, what is written, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file, save_file

from pipeline.lexical.params import PublishedParams
from pipeline.lexical.weight_delta import (
    GROUP,
    MOST,
    keys_sha256,
    pack,
    quantised,
    restored,
    unpack,
)
from pipeline.models.masked_lm import load_checked
from pipeline.senses.lexicon import Lexicon
from storage.errors import SourceError
from tests.helpers.inventories import ENTRIES, tiny_lexicon
from tests.helpers.stores import folder_bytes

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=40)
NUMBERS = st.floats(-10, 10, width=32)


@given(hnp.arrays(np.float32, SHAPES, elements=NUMBERS))
def test_a_number_is_off_by_half_a_step_or_cut_at_seven(numbers: np.ndarray) -> None:
    """Against the rule written out with NumPy; the step may be up to 40 % shorter than what reaches the largest."""
    steps, scale_G = quantised(torch.from_numpy(numbers))
    found = restored(steps, scale_G, numbers.shape).numpy()
    assert steps.dtype == torch.uint8 and scale_G.dtype == torch.float16
    assert len(scale_G) == -(-numbers.size // GROUP) and len(steps) == len(scale_G) * GROUP // 2
    step = np.repeat(scale_G.float().numpy(), GROUP)[: numbers.size].reshape(numbers.shape)
    limit = np.abs(numbers) <= MOST * step
    assert np.all(np.abs(found - numbers)[limit] <= step[limit] / 2 + 1e-6)
    largest = np.abs(np.pad(numbers.ravel(), (0, -numbers.size % GROUP)).reshape(-1, GROUP)).max(axis=1)
    # Never worse than plain rounding with the longest step.
    plain = np.repeat((largest / MOST).astype(np.float16).astype(np.float32), GROUP)[: numbers.size]
    rounded = np.divide(numbers.ravel(), plain, out=np.zeros(numbers.size, np.float32), where=plain > 0)
    error = np.square(np.clip(np.rint(rounded), -MOST, MOST) * plain - numbers.ravel()).sum()
    assert np.square(found - numbers).sum() <= error * (1 + 1e-4) + 1e-9


def test_nothing_changed_is_nothing_restored() -> None:
    steps, scale_G = quantised(torch.zeros(3, 50))
    assert torch.equal(restored(steps, scale_G, (3, 50)), torch.zeros(3, 50))


@pytest.fixture
def student(tiny_mlm: Path, workplace: Path) -> Path:
    """A changed copy of the random model, with senses beside it."""
    folder = workplace / "student"
    shutil.copytree(tiny_mlm, folder)
    rng = torch.Generator().manual_seed(0)
    weights = {
        name: value + 0.01 * torch.randn(value.shape, generator=rng)
        for name, value in load_file(tiny_mlm / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "README.md").write_text("# a card\n")
    senses = folder / "senses"
    senses.mkdir()
    (senses / "reading.json").write_text("{}")
    save_file({"scale": torch.ones(1)}, senses / "head.safetensors")
    tiny_lexicon(workplace, ENTRIES)
    shutil.copytree(workplace / "lexicon", senses / "lexicon")
    return folder


def test_a_student_comes_back(student: Path, tiny_mlm: Path, workplace: Path) -> None:
    facts = pack(student, start=tiny_mlm, out=Path("packed"))
    assert {path.name for path in Path("packed").iterdir()} == {
        "README.md", "changes.json", "changes.safetensors", "head.safetensors", "reading.json",
    }  # fmt: skip
    assert facts["keys_sha256"] == keys_sha256(Lexicon.open(workplace / "lexicon"))
    params = PublishedParams(start=str(tiny_mlm), changes="packed")
    unpack(params, lexicon=workplace / "lexicon", out=Path("models/one"))
    before, after, found = (load_file(path / "model.safetensors") for path in (tiny_mlm, student, Path("models/one")))
    for name, expected in after.items():
        left = (found[name] - expected).norm() / (expected - before[name]).norm()
        assert left < (1e-3 if expected.ndim < 2 else 0.12), name
    assert folder_bytes(Path("models/one/senses")) == folder_bytes(student / "senses")
    assert Path("models/one/README.md").read_text() == "# a card\n"
    load_checked(Path("models/one"))
    again = folder_bytes(Path("models/one"))
    unpack(params, lexicon=workplace / "lexicon", out=Path("models/one"))
    assert folder_bytes(Path("models/one")) == again


def test_a_start_that_rounds_otherwise_is_the_same_start(student: Path, tiny_mlm: Path, workplace: Path) -> None:
    pack(student, start=tiny_mlm, out=Path("packed"))
    other = workplace / "other"
    shutil.copytree(tiny_mlm, other)
    weights = {name: value * (1 + 1e-6) for name, value in load_file(other / "model.safetensors").items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    unpack(PublishedParams(start=str(other), changes="packed"), lexicon=workplace / "lexicon", out=Path("models/one"))
    assert Path("models/one/model.safetensors").is_file()


def test_another_start_is_refused(student: Path, tiny_mlm: Path, workplace: Path) -> None:
    pack(student, start=tiny_mlm, out=Path("packed"))
    with pytest.raises(SourceError, match=r"packed: changes another model than .*student: \d+ weights differ"):
        unpack(
            PublishedParams(start=str(student), changes="packed"), lexicon=workplace / "lexicon", out=Path("models/one")
        )
    assert not Path("models").exists()


def test_another_inventory_is_refused(student: Path, tiny_mlm: Path, workplace: Path) -> None:
    pack(student, start=tiny_mlm, out=Path("packed"))
    tiny_lexicon(workplace / "less", ENTRIES[1:])
    with pytest.raises(SourceError, match=r"lexicon: an inventory of \d+ sense keys .*packed learned one"):
        unpack(
            PublishedParams(start=str(tiny_mlm), changes="packed"),
            lexicon=workplace / "less" / "lexicon", out=Path("models/one"),
        )  # fmt: skip
    assert not Path("models/one").exists()


def test_what_cannot_be_packed(student: Path, tiny_mlm: Path, workplace: Path) -> None:
    less = load_file(tiny_mlm / "model.safetensors")
    less.pop(next(iter(less)))
    Path("less").mkdir()
    save_file(less, "less/model.safetensors")
    with pytest.raises(SourceError, match=r"student: is there already\. Give a new folder"):
        pack(student, start=tiny_mlm, out=student)
    with pytest.raises(
        SourceError, match=r"student: 1 weights are not those of less .*Give the folder that it started from"
    ):
        pack(student, start=Path("less"), out=Path("packed"))
    with pytest.raises(SourceError, match=r"nowhere: expected a model with weights in safetensors"):
        pack(Path("nowhere"), start=tiny_mlm, out=Path("packed"))
    assert not Path("packed").exists()


@pytest.mark.parametrize("damage", ["no facts", "no json", "another format"])
def test_folders_that_pack_did_not_write(student: Path, tiny_mlm: Path, workplace: Path, damage: str) -> None:
    pack(student, start=tiny_mlm, out=Path("packed"))
    facts = Path("packed/changes.json")
    if damage == "no facts":
        facts.unlink()
    else:
        facts.write_text("{" if damage == "no json" else json.dumps({"format": 2}))
    with pytest.raises(SourceError, match=r"packed: expected (changes\.json and|format 1 with) changes\.safetensors"):
        unpack(
            PublishedParams(start=str(tiny_mlm), changes="packed"), lexicon=workplace / "lexicon", out=Path("models/x")
        )
