"""Give readers what a stranger might: manifests, stores and archives with a few things changed, checksums made to fit.

    python -m benchmarks.robustness.fuzz --cases 100000 --out reports/fuzz.json

Starts from good ones. Values, keys and paths are replaced by hostile ones, copied from elsewhere, deleted or doubled;
then identity, hashes and checksums are computed anew, so that the code behind those checks is reached; a tenth have
bytes changed after that. Every case must be read or refused by a DistillError of one line; no file outside the store's
folder may be opened, changed or made, no process started, nothing unpickled (watched by an audit hook), and the memory
of the process is limited, so that a large allocation fails even when it would not be touched.

Cases depend on the seed alone. Prints counts, and the refusals that were reached.
"""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.robustness.watch import Watch
from storage.documents import DocumentStore
from storage.errors import DistillError
from storage.format.manifest import MANIFEST, Manifest
from storage.format.manifest_parse import parse_manifest
from storage.reader import Store
from storage.records.layout import RECORDS
from storage.share.archive import pack, unpack
from storage.share.audit import audit
from storage.tables import DOCUMENTS
from storage.testing import fixtures
from storage.testing.mutations import change_archive, change_file, mutate, scramble, sealed

MEMORY_LIMIT_BYTES = 3 * 1024**3
"""Address space of the process beyond what it has when fuzzing begins."""
MESSAGE_LIMIT = 1000


@dataclass
class Found:
    """Outcome of many cases."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    reached: Counter[str] = field(default_factory=Counter)
    """Refusals by their wording, numbers and names left out."""
    failures: list[str] = field(default_factory=list)
    """Cases that were neither read nor properly refused, with the seed that makes them again."""

    def refuse(self, error: DistillError, case: str) -> None:
        """Count a refusal; one that is no short line is a failure."""
        text = str(error)
        self.refused += 1
        words = re.sub(r"\S*[/\d]\S*|'.*?'", "", text.rpartition("manifest.json: ")[2])
        self.reached[f"{type(error).__name__}: {' '.join(words.split()[:7])}"] += 1
        if not text.isprintable() or len(text) > MESSAGE_LIMIT:
            self.failures.append(f"{case}: a message that is no short line: {text[:200]!r}")


def fuzz_manifests(bases: list[bytes], *, cases: int, seed: int) -> Found:
    """Parse mutated manifests; what is accepted must keep what a manifest promises."""
    found = Found()
    for number in range(cases):
        case = f"manifest {seed}-{number}"
        rng = random.Random(case)
        data = rng.choice(bases)
        if rng.random() < 0.85:
            body = json.loads(data)
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                mutate(body, rng)
            data = sealed(body) if rng.random() < 0.95 else json.dumps(body).encode()
            data = scramble(data, rng) if rng.random() < 0.05 else data
        else:
            data = scramble(data, rng)
        found.cases += 1
        try:
            manifest = parse_manifest(data)
        except DistillError as error:
            found.refuse(error, case)
        except Exception as error:
            found.failures.append(f"{case}: {error!r}"[:MESSAGE_LIMIT])
        else:
            found.accepted += 1
            if broken := broken_promise(manifest):
                found.failures.append(f"{case}: {broken}")
    return found


def broken_promise(manifest: Manifest) -> str:
    """What a manifest that was accepted should not be like; "" when it is as promised."""
    names = [*manifest.files, *(name for shard in manifest.shards for name in shard.files)]
    store = Path("/store")
    if any(Path("/store", name).resolve().parent == store.parent or ".." in name or "\\" in name for name in names):
        return "a path that leaves the folder"
    if len({name.lower() for name in names}) != len(names):
        return "one file in two places"
    for split, plan in manifest.splits.items():
        stored = sum(f.bytes for shard in manifest.shards if shard.split == split for f in shard.files.values())
        if plan.rows > max(2**26, 1000 * stored):
            return f"{plan.rows} rows in {stored} bytes"
    if parse_manifest(manifest.to_json().encode()) != manifest:
        return "is not read back as it was"
    return ""


def read_all(kind: str, store: Path) -> None:
    """Open a store of `kind` and read all that its manifest names."""
    if kind == DOCUMENTS:
        documents = DocumentStore(store)
        for split in documents.manifest.splits:
            documents.read(split).to_pydict()
        return
    opened = Store(store, RECORDS[kind])
    for shard in opened.manifest.shards:
        opened.shard(shard.split, shard.index)
    for name in sorted({file.split("/")[1] for file in opened.manifest.files if file.startswith("constants/")}):
        opened.constant(name)


def fuzz_stores(
    folder: Path, *, cases: int, seed: int, watch: Watch | None = None, kinds: tuple[str, ...] = fixtures.KINDS
) -> Found:
    """Change a file of a store, compute all hashes anew, then read and audit it."""
    found = Found()
    galleries = {kind: fixtures.Gallery.make(kind, folder / kind) for kind in kinds}
    for number in range(cases):
        case = f"store {seed}-{number}"
        rng = random.Random(case)
        gallery = galleries[rng.choice(kinds)]
        store = folder / "case" / gallery.kind
        if not store.exists():
            shutil.copytree(gallery.store, store)
        name = change_file(store, rng)
        found.cases += 1
        with watch.over(store) if watch else _nothing() as seen:
            for what, read in (
                ("read", lambda k=gallery.kind, s=store: read_all(k, s)),
                ("audit", lambda s=store: audit(s)),
            ):
                _attempt(found, f"{case} {what} {gallery.kind} {name}", read, counted=what == "read")
        found.failures += [f"{case}: touched {event}" for event in seen]
        for changed in (name, MANIFEST):
            shutil.copyfile(gallery.store / changed, store / changed)
        if fixtures.files_of(store) != sorted(gallery.files):
            found.failures.append(f"{case}: files were made or removed")
    return found


def _attempt(found: Found, case: str, read: Callable[[], object], *, counted: bool) -> None:
    try:
        read()
    except DistillError as error:
        if counted:
            found.refuse(error, case)
    except Exception as error:
        found.failures.append(f"{case}: {error!r}"[:MESSAGE_LIMIT])
    else:
        found.accepted += counted


@contextmanager
def _nothing() -> Iterator[list[str]]:
    yield []


def fuzz_archives(folder: Path, *, cases: int, seed: int, watch: Watch | None = None) -> Found:
    """Change members of an archive, their headers or its bytes; what is published must be the files of its manifest.

    Archives of another kind or method revision may be published: the reader refuses them, or a newer one reads them.
    """
    found = Found()
    bases = []
    for kind in ("masks", DOCUMENTS):
        fixtures.write(kind, folder / kind, folder / "work", seed=0)
        pack(folder / kind, folder / f"{kind}.tar")
        bases.append((folder / f"{kind}.tar").read_bytes())
    for number in range(cases):
        case = f"archive {seed}-{number}"
        rng = random.Random(case)
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "a.tar").write_bytes(change_archive(rng.choice(bases), rng))
        found.cases += 1
        with watch.over(place, may_write=True) if watch else _nothing() as seen:
            try:
                unpack(place / "a.tar", place / "store")
            except DistillError as error:
                found.refuse(error, case)
                if (left := sorted(path.name for path in place.iterdir())) != ["a.tar"]:
                    found.failures.append(f"{case}: refused, and left {left}")
            except Exception as error:
                found.failures.append(f"{case}: {error!r}"[:MESSAGE_LIMIT])
            else:
                found.accepted += 1
                if odd := [str(f) for f in audit(place / "store") if f.kind in ("file", "link", "stray")]:
                    found.failures.append(f"{case}: published with {odd[:3]}")
        found.failures += [f"{case}: touched {event}" for event in seen]
    return found


def summary(found: dict[str, Found]) -> str:
    """A Markdown table of the counts, and the refusals reached."""
    lines = ["| reader | cases | refused | read | failures |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {name} | {f.cases} | {f.refused} | {f.accepted} | {len(f.failures)} |" for name, f in found.items()]
    for name, result in found.items():
        lines += ["", f"{name}: {len(result.reached)} different refusals, the commonest:"]
        lines += [f"  {count:7} {words}" for words, count in result.reached.most_common(12)]
        lines += [f"FAILED {failure}" for failure in result.failures[:20]]
    return "\n".join(lines)


def limit_memory() -> int:
    """Limit the address space of this process to what it has and `MEMORY_LIMIT_BYTES`; returns the limit."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return limit


@click.command()
@click.option("--cases", default=100_000, show_default=True, help="Cases in all; stores and archives take 5 % each.")
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Where to write the counts as JSON.")
def main(cases: int, seed: int, out: Path | None) -> None:
    """Fuzz the readers; exit code 1 when a case was neither read nor refused by name."""
    watch = Watch()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bases = []
        for kind in fixtures.KINDS:
            fixtures.write(kind, folder / kind, folder / "work", seed=0)
            bases.append((folder / kind / MANIFEST).read_bytes())
        limit_memory()
        (folder / "archives").mkdir()
        share = cases // 20
        found["manifest"] = fuzz_manifests(bases, cases=cases - 2 * share, seed=seed)
        found["store"] = fuzz_stores(folder / "stores", cases=share, seed=seed, watch=watch)
        found["archive"] = fuzz_archives(folder / "archives", cases=share, seed=seed, watch=watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(summary(found))
    print(f"\npeak memory of the process {peak} MiB")
    if out is not None:
        record = [{"reader": n, "cases": f.cases, "refused": f.refused, "read": f.accepted, "failures": f.failures}
                  for n, f in found.items()]  # fmt: skip
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"seed": seed, "peak_mib": peak, "readers": record}, indent=1) + "\n", encoding="utf-8"
        )
    sys.exit(any(result.failures for result in found.values()))


if __name__ == "__main__":
    main()
