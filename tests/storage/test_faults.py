"""Hundreds of faults: each is named with a remedy, none is read as good data, no good data is lost.

The bench `python -m benchmarks.robustness.faults` runs the same with thousands of cases; docs/results/store.md has
its table.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.robustness.faults import rows_of, table
from storage.testing import adversity, damage, fixtures
from storage.testing.damage import BEYOND_HASHES, FAULTS, HARMLESS, Verdict
from storage.testing.fixtures import Gallery

CASES = 14
KINDS = ("masks", "logits", "documents", "masks", "targets", "masks", "sequences")
"""Stores by turns; masks have the fewest arrays."""

WAYS_OUT = ("Run: dvc repro ", "Fetch the store again", "Remove it", "A newer version")
"""What a message or a finding tells its reader to do."""


@pytest.fixture(scope="module")
def galleries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gallery]:
    return {kind: Gallery.make(kind, tmp_path_factory.mktemp(kind)) for kind in fixtures.KINDS}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


def tried(
    name: str, galleries: dict[str, Gallery], copies: Path, *, cases: int, thorough: bool = False
) -> list[Verdict]:
    found = []
    for number in range(cases):
        gallery = galleries[KINDS[number % len(KINDS)]]
        found.append(damage.inflict(name, gallery, copies, random.Random(f"{name}-{number}"), thorough=thorough))
    assert [verdict.unnamed for verdict in found if verdict.unnamed] == []
    assert [verdict for verdict in found if verdict.lost] == []
    return found


@pytest.mark.parametrize("name", sorted(set(FAULTS) - HARMLESS - BEYOND_HASHES))
def test_every_fault_is_named_and_nothing_bad_is_read(name: str, galleries: dict[str, Gallery], copies: Path) -> None:
    for verdict in tried(name, galleries, copies, cases=CASES):
        assert verdict.detected, verdict
        assert not verdict.read_as_good, verdict
        assert any(way in verdict.message for way in WAYS_OUT), verdict.message


def test_a_clock_that_jumps_changes_nothing(galleries: dict[str, Gallery], copies: Path) -> None:
    for name in HARMLESS:
        assert all(verdict.harmless for verdict in tried(name, galleries, copies, cases=5))


@pytest.mark.parametrize("name", sorted(BEYOND_HASHES))
def test_what_no_checksum_can_tell(name: str, galleries: dict[str, Gallery], copies: Path) -> None:
    """Stated, not wished for: whoever rewrites values with all their hashes has made another store."""
    assert all(verdict.read_as_good for verdict in tried(name, galleries, copies, cases=3, thorough=True))


def test_damage_is_bounded_to_what_it_touched(galleries: dict[str, Gallery], copies: Path) -> None:
    """Thorough: every shard that was not touched is read in every case."""
    for name in ("bit flip", "missing file", "foreign shard"):
        tried(name, galleries, copies, cases=3, thorough=True)


@pytest.mark.parametrize("kind", ["masks", "documents", "logits"])
def test_files_that_may_not_grow(kind: str, galleries: dict[str, Gallery], tmp_path: Path) -> None:
    found = [
        adversity.file_size_limit(galleries[kind], tmp_path / "case", random.Random(number)) for number in range(5)
    ]
    for verdict in found:
        assert verdict.detected or verdict.harmless, verdict
        assert not verdict.read_as_good and not verdict.lost, verdict
    assert sum(verdict.detected for verdict in found) >= 3
    said = next(verdict.message for verdict in found if verdict.detected)
    assert "the file would be larger than is allowed. What was finished is kept: make room" in said


needs_mounts = pytest.mark.skipif(not adversity.can_mount(), reason="mounting needs root and unshare")


@needs_mounts
@pytest.mark.parametrize("kind", ["masks", "documents"])
def test_a_disk_that_is_full(kind: str, galleries: dict[str, Gallery], tmp_path: Path) -> None:
    """A tmpfs that fills up at a random moment, and is made larger."""
    found = adversity.mounted("full", galleries[kind], tmp_path / "disk", cases=5)
    assert [verdict for verdict in found if verdict.read_as_good or verdict.lost or verdict.unnamed] == []
    assert sum(verdict.detected for verdict in found) >= 3
    assert all("the disk is full. What was finished is kept" in v.message for v in found if v.detected)


@needs_mounts
def test_a_disk_that_is_read_only(galleries: dict[str, Gallery], tmp_path: Path) -> None:
    """Reading and auditing need no right to write."""
    (verdict,) = adversity.mounted("read-only", galleries["masks"], tmp_path / "disk", cases=1)
    assert verdict.detected
    assert not verdict.lost
    assert "the disk is read-only" in verdict.message


def test_a_folder_without_the_right_to_write(galleries: dict[str, Gallery], tmp_path: Path) -> None:
    """The same by permissions, as another user; root may write everywhere."""
    verdict = adversity.write_protected(galleries["masks"], tmp_path / "case")
    assert verdict.detected
    assert not verdict.lost
    assert ": permission denied. What was finished is kept" in verdict.message


@pytest.mark.parametrize("kind", ["masks", "documents"])
def test_a_clock_that_jumps_between_two_runs(kind: str, galleries: dict[str, Gallery], tmp_path: Path) -> None:
    for number in range(3):
        verdict = adversity.jumped_clock(galleries[kind], tmp_path / "case", random.Random(number))
        assert verdict.harmless
        assert not verdict.read_as_good
        assert not verdict.lost


def test_a_writer_that_is_killed(galleries: dict[str, Gallery], tmp_path: Path) -> None:
    """A few kills of another kind of store than the contract suite's; the bytes are the same in the end."""
    verdict, _ = adversity.killed(galleries["masks"], tmp_path / "case", kills=5, seed=2)
    assert not verdict.read_as_good


def verdict(**changes: bool) -> Verdict:
    plain = {"detected": False, "harmless": False, "read_as_good": False, "lost": False}
    return Verdict(**{**plain, **changes}, unnamed="", message="")


def test_the_table_counts_what_was_found() -> None:
    found = {
        "bit flip": [verdict(detected=True)] * 3,
        "clock jumped": [verdict(harmless=True)],
        "forged": [verdict(read_as_good=True), verdict(detected=True, lost=True)],
    }
    rows = rows_of(found)
    assert rows[2] == {"fault": "forged", "tried": 2, "detected": 1, "harmless": 0, "undetected": 1, "lost": 1}
    assert Counter(row["tried"] for row in rows) == Counter([3, 1, 2])
    assert table(rows).splitlines()[-1] == "| forged | 2 | 1 | 0 | 1 | 1 |"
