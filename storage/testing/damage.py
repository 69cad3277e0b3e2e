"""Faults of a store on disk, one function each, and a reader's behaviour after them.

A fault is done to a copy of a small store of some kind. `check` reads it back, shard by shard, and audits it, and
compares with what the undamaged store holds: was the fault refused by name, was anything read as good that is not, and
is everything that the fault did not touch still there. No pytest here: the bench runs the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import DistillError
from storage.format.manifest import MANIFEST
from storage.share.audit import audit
from storage.tables import DOCUMENTS
from storage.testing import samples
from storage.testing.fixtures import FACTS, Gallery, files_of, shard_files, units

# Faults. Each damages the store at `store` and returns the files it touched.
Fault = Callable[[Path, Gallery, random.Random], set[str]]


def bit_flip(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    name = rng.choice(files_of(store))
    data = bytearray((store / name).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (store / name).write_bytes(data)
    return {name}


def truncated(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    name = rng.choice(files_of(store))
    os.truncate(store / name, rng.randrange((store / name).stat().st_size))
    return {name}


def extended(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    name = rng.choice(files_of(store))
    with (store / name).open("ab") as stream:
        stream.write(rng.randbytes(rng.randint(1, 64)))
    return {name}


def missing(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    name = rng.choice(files_of(store))
    (store / name).unlink()
    return {name}


def linked(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """A file or a folder is a symbolic link, to the right content: where it leads may change later."""
    path = rng.choice(sorted(store.rglob("*")))
    path.rename(store.parent / "elsewhere")
    path.symlink_to(store.parent / "elsewhere")
    name = path.relative_to(store).as_posix()
    return {name} & gallery.files or {file for file in gallery.files if file.startswith(f"{name}/")}


def _two(gallery: Gallery, rng: random.Random) -> tuple[list[str], list[str]]:
    pool = [
        unit for unit in gallery.content if unit.startswith("train/") or (gallery.kind == DOCUMENTS and unit != FACTS)
    ]
    first, second = rng.sample(pool, 2)
    return shard_files(gallery.store, first), shard_files(gallery.store, second)


def swapped(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Two shards are exchanged: in one array or in all."""
    pairs = list(zip(*_two(gallery, rng), strict=True))
    touched = set()
    for one, two in pairs if rng.random() < 0.5 else [rng.choice(pairs)]:
        first, second = (store / one).read_bytes(), (store / two).read_bytes()
        (store / one).write_bytes(second)
        (store / two).write_bytes(first)
        if first != second:
            touched |= {one, two}
    return touched


def duplicated(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """One shard lies in the place of another."""
    touched = set()
    for one, two in zip(*_two(gallery, rng), strict=True):
        if (store / one).read_bytes() != (store / two).read_bytes():
            shutil.copyfile(store / one, store / two)
            touched.add(two)
    return touched


def _from(other: Path, store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    touched = set()
    for name in shard_files(gallery.store, rng.choice([unit for unit in gallery.content if unit != FACTS])):
        if (other / name).read_bytes() != (store / name).read_bytes():
            shutil.copyfile(other / name, store / name)
            touched.add(name)
    return touched


def stale(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """A shard of an older store of the same name."""
    return _from(gallery.older, store, gallery, rng)


def foreign(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """A shard of another teacher's store."""
    return _from(gallery.foreign, store, gallery, rng)


def half_copied(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Copying stopped: files in some order up to one, which is cut."""
    names = files_of(store)
    if rng.random() < 0.5:
        rng.shuffle(names)
    kept = rng.randrange(len(names))
    os.truncate(store / names[kept], (store / names[kept]).stat().st_size // 2)
    for name in names[kept + 1 :]:
        (store / name).unlink()
    return set(names[kept:])


def other_clock(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Files from before 1980 and after 2100, folders older than what they hold. Nothing may depend on it."""
    for path in [store, *store.rglob("*")]:
        os.utime(path, (rng.choice([0, 1, 2**31 - 1, 2**32 + 5]),) * 2)
    return set()


def _edited(store: Path, edit: Callable[[dict[str, Any]], None], *, resealed: bool) -> set[str]:
    body = samples.manifest_of(store)
    before = json.dumps(body)
    edit(body)
    assert json.dumps(body) != before
    samples.edit_manifest(store, body, resealed=resealed)
    return {MANIFEST}


def _edits(rng: random.Random) -> dict[str, Callable[[dict[str, Any]], None]]:
    """Edits of a manifest that contradict something else in the store."""

    def set_to(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
        def edit(body: dict[str, Any]) -> None:
            place: Any = body
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value

        return edit

    def drop_shard(body: dict[str, Any]) -> None:
        del body["shards"][rng.randrange(len(body["shards"]))]

    def exchange(body: dict[str, Any]) -> None:
        one, two = rng.sample(range(3 if body["arrays"] else 2), 2)
        shards = body["shards"]
        shards[one]["files"], shards[two]["files"] = shards[two]["files"], shards[one]["files"]

    def hash_of_a_file(body: dict[str, Any]) -> None:
        entry = rng.choice([entry for shard in body["shards"] for entry in shard["files"].values()])
        entry["sha256"] = "0" * 64

    def path_outside(body: dict[str, Any]) -> None:
        files = body["shards"][0]["files"]
        name = rng.choice(["../secret", "/etc/passwd", "a\\..\\b", "C:/x", "a//b", "", "a/../../b", "x\0y", "~/x"])
        files[name] = files.pop(next(iter(files)))

    def dtype(body: dict[str, Any]) -> None:
        for spec in body["arrays"].values():
            spec["dtype"] = "float64" if spec["dtype"] == "int64" else "int64"
        body["revision"] += not body["arrays"]

    return {
        "rows": set_to("splits", "train", "rows", value=rng.choice([21, 23, 10**12])),
        "shard_rows": set_to("splits", "train", "shard_rows", value=rng.choice([7, 9, 10**12])),
        "shard size": set_to("shards", 0, "rows", value=7),
        "shard place": set_to("shards", 0, "index", value=rng.choice([1, 9])),
        "identity": set_to("identity", value="0" * 64),
        "inputs": set_to("inputs", "seed", value=9),
        "parents": set_to("parents", value={"masks": "0" * 64}),
        "kind": set_to("kind", value="recipes"),
        "revision": set_to("revision", value=9),
        "vocabulary": set_to("facts", "vocabulary", value=3),
        "dropped shard": drop_shard,
        "exchanged shards": exchange,
        "hash": hash_of_a_file,
        "path": path_outside,
        "dtype": dtype,
    }


def edited(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Someone changed the manifest by hand."""
    edits = {**_edits(rng), "facts": lambda body: body["facts"].update(made="by another")}
    return _edited(store, edits[rng.choice(sorted(edits))], resealed=False)


def forged(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Someone changed what contradicts the rest of the store, and computed the checksum anew."""
    edits = _edits(rng)
    names = sorted(set(edits) - ({"vocabulary"} if gallery.kind == DOCUMENTS else set()))
    return _edited(store, edits[rng.choice(names)], resealed=True)


def forged_facts(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Someone changed facts that nothing in the store contradicts, and computed the checksum anew."""
    return _edited(store, lambda body: body["facts"].update(made="by another"), resealed=True)


def forged_whole(store: Path, gallery: Gallery, rng: random.Random) -> set[str]:
    """Someone put another teacher's shard in and computed every hash anew: a new store under the old identity."""
    touched = foreign(store, gallery, rng)

    def edit(body: dict[str, Any]) -> None:
        for shard in body["shards"]:
            for name in touched & shard["files"].keys():
                data = (store / name).read_bytes()
                shard["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    return touched | _edited(store, edit, resealed=True)


FAULTS: dict[str, Fault] = {
    "bit flip": bit_flip,
    "truncated file": truncated,
    "bytes appended": extended,
    "missing file": missing,
    "swapped shards": swapped,
    "duplicated shard": duplicated,
    "stale shard": stale,
    "foreign shard": foreign,
    "symbolic link": linked,
    "half-copied folder": half_copied,
    "manifest edited": edited,
    "manifest edited, checksum recomputed": forged,
    "clock jumped": other_clock,
    "facts edited, checksum recomputed": forged_facts,
    "shard and all hashes replaced": forged_whole,
}
HARMLESS = {"clock jumped"}
"""Must change nothing: neither what is read nor what an audit finds."""
BEYOND_HASHES = {"facts edited, checksum recomputed", "shard and all hashes replaced"}
"""Agree with themselves: no reader can tell them from another store. Signatures or a trusted source of hashes could."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of one fault."""

    detected: bool
    """Reading is refused by name or an audit finds something, and nothing bad was read as good."""
    harmless: bool
    """Everything reads as before and nothing was found."""
    read_as_good: bool
    """Other values than the undamaged store's were read without a refusal, or other facts, unknown to an audit."""
    lost: bool
    """Something that the fault did not touch cannot be read, or cannot be read once what it touched is put back."""
    unnamed: str
    """An error that is no DistillError, or has several lines."""
    message: str


def inflict(name: str, gallery: Gallery, folder: Path, rng: random.Random, *, thorough: bool) -> Verdict:
    """Do the fault to a copy in `folder`, check it and repair it; not `thorough`: fewer untouched shards are read.

    Copies are used again: that a mended one is whole is part of what is tried.
    """
    store = folder / gallery.kind / "store"
    if not store.exists():
        shutil.copytree(gallery.store, store)
    touched = FAULTS[name](store, gallery, rng)
    verdict = check(store, gallery, touched, rng, thorough=thorough)
    assert samples.file_hashes(store) == samples.file_hashes(gallery.store), name
    return verdict


def check(store: Path, gallery: Gallery, touched: set[str], rng: random.Random, *, thorough: bool) -> Verdict:
    """Read, audit, put back what was touched and read again."""
    before = _as_it_lies(store)
    hit = {unit for unit in gallery.content if touched & gallery.needs[unit]}
    others = sorted(set(gallery.content) - hit)
    wanted = (
        hit | set(others) if thorough else {*rng.sample(sorted(hit), min(2, len(hit))), *(hit & {FACTS}), *others[:1]}
    )
    refused: dict[str, str] = {}
    wrong: set[str] = set()
    unnamed = ""
    for unit, read in units(gallery.kind, store):
        if unit not in wanted:
            continue
        try:
            if read() != gallery.content[unit]:
                wrong.add(unit)
        except DistillError as error:
            refused[unit] = str(error)
            unnamed = unnamed or (str(error) if "\n" in str(error) else "")
        except Exception as error:
            unnamed = unnamed or f"{unit}: {error!r}"
    found: list[str] = []
    try:
        found = [str(finding) for finding in audit(store)]
    except DistillError as error:
        found = [str(error)]
    except Exception as error:
        unnamed = unnamed or f"audit: {error!r}"
    # Facts are read without the data that could contradict them; an audit compares the two.
    as_good = bool(wrong - {FACTS}) or bool(wrong and not found)
    lost = not refused.keys().isdisjoint(others) or _as_it_lies(store) != before
    put_back(store, gallery, touched)
    again = set(gallery.content) if thorough else set(sorted(wanted)[:1])
    lost |= any(read() != gallery.content[unit] for unit, read in units(gallery.kind, store) if unit in again)
    return Verdict(
        detected=bool(refused or found) and not as_good,
        harmless=not found and not refused and not wrong,
        read_as_good=as_good,
        lost=lost,
        unnamed=unnamed,
        message=[*refused.values(), *found, ""][0],
    )


def _as_it_lies(store: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file: a reader must not write, not even the same bytes."""
    found = {path.relative_to(store).as_posix(): path.lstat() for path in store.rglob("*")}
    return {name: (info.st_size, info.st_mtime_ns) for name, info in found.items()}


def put_back(store: Path, gallery: Gallery, touched: set[str]) -> None:
    """What `dvc checkout` or another copy does: the touched files, and no others, come from a good store."""
    for path in [path for path in store.rglob("*") if path.is_symlink()]:
        path.unlink()
    (shutil.rmtree if (elsewhere := store.parent / "elsewhere").is_dir() else _unlink)(elsewhere)
    for name in touched:
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(gallery.store / name, store / name)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
