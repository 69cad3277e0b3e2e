"""Do to stores what disks, copies and people do to them, and count what is noticed and what is lost.

    python -m benchmarks.robustness.faults --cases 200 --out reports/faults.json

Small stores of every kind are damaged in `--cases` random ways a fault, read back and audited, and mended; writers are
run out of disk, killed and put before other clocks. A fault counts as

- detected: reading what it touched is refused by name, or an audit finds it, and no wrong value was read as good;
- harmless: every value reads as before and an audit finds nothing (a clock; a disk that was large enough);
- undetected: neither. Only edits that agree with themselves may be: their author has computed every hash anew, and
  nothing but a trusted source of the store's checksum can tell.

and as lost when something that it did not touch cannot be used afterwards: other shards while the damage lasts;
anything once the damaged files are put back; for a writer, shards that were finished and are made again, or other bytes
in the end. Prints a Markdown table.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from storage.testing import adversity, damage, fixtures
from storage.testing.damage import BEYOND_HASHES, FAULTS, Verdict
from storage.testing.fixtures import Gallery

WRITERS = 10
"""Cases of a writer in trouble are this many times fewer: each starts processes."""


def damaged(galleries: Mapping[str, Gallery], folder: Path, *, cases: int, seed: int) -> dict[str, list[Verdict]]:
    """Each fault in `cases` ways, over the kinds of stores by turns."""
    found: dict[str, list[Verdict]] = {name: [] for name in FAULTS}
    for name, verdicts in found.items():
        for number in range(cases):
            gallery = galleries[fixtures.KINDS[number % len(fixtures.KINDS)]]
            rng = random.Random(f"{seed}-{name}-{number}")
            verdicts.append(damage.inflict(name, gallery, folder, rng, thorough=True))
    return found


def troubled(galleries: Mapping[str, Gallery], folder: Path, *, cases: int, seed: int) -> dict[str, list[Verdict]]:
    """Writers in trouble, `cases` of each; those that need a mount only where that is allowed."""
    found: dict[str, list[Verdict]] = {}
    kinds = [fixtures.KINDS[number % len(fixtures.KINDS)] for number in range(cases)]
    for name, case in (
        ("file size limit while writing", adversity.file_size_limit),
        ("clock jumped while writing", adversity.jumped_clock),
    ):
        found[name] = [
            case(galleries[kind], folder / "case", random.Random(f"{seed}-{name}-{number}"))
            for number, kind in enumerate(kinds)
        ]
    found["folder write-protected"] = [
        adversity.write_protected(galleries[kind], folder / "case") for kind in set(kinds)
    ]
    if adversity.can_mount():
        each = -(-cases // len(fixtures.KINDS))
        for name, what in (("disk full while writing", "full"), ("disk read-only", "read-only")):
            found[name] = [
                verdict
                for kind in fixtures.KINDS
                for verdict in adversity.mounted(what, galleries[kind], folder / "disk", cases=each, seed=seed)
            ]
    killed = []
    for number, kind in enumerate(fixtures.KINDS):
        verdict, hits = adversity.killed(galleries[kind], folder / "case", kills=max(12, cases), seed=seed + number)
        killed += [verdict] * (hits["partial"] + hits["published"])
    found["writer killed"] = killed
    return found


def rows_of(found: Mapping[str, list[Verdict]]) -> list[dict[str, Any]]:
    """Counts a fault."""
    return [
        {
            "fault": name,
            "tried": len(verdicts),
            "detected": sum(verdict.detected for verdict in verdicts),
            "harmless": sum(verdict.harmless for verdict in verdicts),
            "undetected": sum(not verdict.detected and not verdict.harmless for verdict in verdicts),
            "lost": sum(verdict.lost for verdict in verdicts),
        }
        for name, verdicts in found.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The counts as a Markdown table."""
    columns = ("fault", "tried", "detected", "harmless", "undetected", "lost")
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join(lines + [f"| {' | '.join(str(row[column]) for column in columns)} |" for row in rows])


@click.command()
@click.option("--cases", default=200, show_default=True, help="Cases a fault; a tenth as many of a writer in trouble.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Where to write the counts as JSON.")
def main(cases: int, seed: int, out: Path | None) -> None:
    """Count faults; exit code 1 when one was read as good that hashes could tell, or something was lost."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        galleries = {kind: Gallery.make(kind, folder / kind) for kind in fixtures.KINDS}
        found = damaged(galleries, folder / "copies", cases=cases, seed=seed)
        found |= troubled(galleries, folder / "writers", cases=-(-cases // WRITERS), seed=seed)
    rows = rows_of(found)
    print(table(rows))
    bad = [
        v
        for name, verdicts in found.items()
        for v in verdicts
        if v.unnamed or v.lost or (v.read_as_good and name not in BEYOND_HASHES)
    ]
    for verdict in bad[:20]:
        print(f"FAILED {verdict}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
