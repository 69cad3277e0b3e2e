"""Hostile changes to manifests, stores and archives, with the checksums made to fit afterwards.

Everything is drawn from the given generator, so that a case can be made again.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c

from storage.format.manifest import MANIFEST
from storage.testing import fixtures

NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2, 255, 65535, 2**31, 2**32, 2**53, 2**63, 2**64, 10**12, 10**30, -(2**63),
    0.5, 1.0, -0.0, 1e308, float("nan"), float("inf"), "", ".", "..", "../../x", "/etc/passwd", "C:\\x", "a\\b",
    "a/../b", "x\0y", "\n", "\x1b[31m", "é", "\ud800", "\u202e", "a" * 300, "object", "V8", "O", "float16", "uint8",
    "train", "heldout", "count_P", "manifest.json", "zarr.json", "pickle", "numcodecs.pickle", "0" * 64, [], {}, [[]],
    [0], [1] * 50, {"": 0}, {"bytes": 1, "sha256": "0" * 64}, {"rows": 10**12, "shard_rows": 1},
]  # fmt: skip
"""Values that a field should not hold; copied before use."""


def sealed(body: Any) -> bytes:
    """The bytes of a manifest with matching identity and checksum, as an informed forger would write them."""
    if isinstance(body, dict):
        hashed = {key: body.get(key) for key in ("kind", "schema", "revision", "inputs", "parents")}
        if "identity" in body:
            body["identity"] = _sha256(hashed)
        rest = {key: value for key, value in body.items() if key != "checksum"}
        body["checksum"] = _sha256(rest)
    return json.dumps(body, indent=1).encode()


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below a value."""
    todo = [value]
    while todo:
        node = todo.pop()
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield node, key
            if isinstance(child, dict | list):
                todo.append(child)


def mutate(value: Any, rng: random.Random) -> None:
    """Change one thing in a JSON value, in place."""
    places = list(_places(value))
    if not places:
        return
    # One level first, then a place on it: otherwise nearly every change would hit one of many file entries.
    node, key = rng.choice(places if rng.random() < 0.4 else [place for place in places if place[0] is value] or places)
    for _ in range(rng.randrange(4)):
        child = node[key]
        if not isinstance(child, dict | list) or not child:
            break
        node, key = child, rng.choice(list(child) if isinstance(child, dict) else range(len(child)))
    action = rng.randrange(7)
    if action <= 1:
        node[key] = copy.deepcopy(rng.choice(NASTY))
    elif action == 2:
        other, place = rng.choice(places)
        if not isinstance(node, list) or isinstance(key, int):
            node[key] = copy.deepcopy(other[place]) if place in other or isinstance(other, list) else None
    elif action == 3:
        del node[key]
    elif action == 4 and isinstance(node, dict):
        node[rng.choice([item for item in NASTY if isinstance(item, str)])] = node.pop(key)
    elif action == 5 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), copy.deepcopy(node[key]))
    elif isinstance(node[key], int):
        node[key] = rng.choice([node[key] + 1, node[key] - 1, node[key] * 10**9, float(node[key])])


def scramble(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes: flipped, cut out, doubled or put in."""
    held = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(held) + 1)
        stop = min(len(held), start + int(2 ** rng.uniform(0, 8)))
        action = rng.randrange(4)
        if action == 0 and held:
            held[min(start, len(held) - 1)] ^= 1 << rng.randrange(8)
        elif action == 1:
            del held[start:stop]
        elif action == 2:
            held[start:start] = held[start:stop]
        else:
            held[start:start] = rng.choice([b"\0", b"[", b'"', b"{}", b"9" * 20, b"\xff", rng.randbytes(8), b"[" * 99])
    return bytes(held)


def change_file(store: Path, rng: random.Random) -> str:
    """Change one file and make the manifest agree with it; returns its name."""
    names = [name for name in fixtures.files_of(store) if name != MANIFEST]
    metadata = [name for name in names if name.endswith("zarr.json")]
    name = rng.choice(metadata if metadata and rng.random() < 0.4 else names)
    data = (store / name).read_bytes()
    if name in metadata:
        body = json.loads(data)
        for _ in range(rng.randint(1, 2)):
            mutate(body, rng)
        data = json.dumps(body).encode() if rng.random() < 0.9 else scramble(data, rng)
    elif name.endswith(".arrow") or rng.random() < 0.2:
        data = scramble(data, rng)
    else:
        data = _scramble_chunk(data, rng, indexed=not name.startswith("constants/"))
    (store / name).write_bytes(data)
    body = json.loads((store / MANIFEST).read_bytes())
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    for files in (body["files"], *(shard["files"] for shard in body["shards"])):
        if name in files:
            files[name] = entry
    if rng.random() < 0.2:
        mutate(body, rng)
    (store / MANIFEST).write_bytes(sealed(body))
    return name


def _scramble_chunk(data: bytes, rng: random.Random, *, indexed: bool) -> bytes:
    """Change the first chunk of a shard, or a constant's only one, under valid checksums that let it pass."""
    index = data[-20:] if indexed else b""
    frame = data[: len(data) - 4 - len(index)]
    head = 16 if rng.random() < 0.8 else 0
    frame = frame[:head] + scramble(frame[head:], rng)
    if head and rng.random() < 0.9:
        frame = frame[:12] + struct.pack("<I", len(frame)) + frame[16:]
    chunk = frame + struct.pack("<I", google_crc32c.value(frame))
    if not indexed:
        return chunk
    place = struct.pack("<QQ", 0, len(chunk))
    return chunk + place + struct.pack("<I", google_crc32c.value(place))


def change_archive(data: bytes, rng: random.Random) -> bytes:
    """Change bytes of a tar archive, or members and headers whose checksums are computed anew."""
    if rng.random() < 0.3:
        return scramble(data, rng)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = [(header, archive.extractfile(header).read()) for header in archive]  # type: ignore[union-attr]
    for _ in range(rng.choice([1, 1, 2])):
        _change_member(members, rng)
    sink = io.BytesIO()
    form: Any = rng.choice([tarfile.USTAR_FORMAT, tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    for header, content in members:
        try:
            sink.write(header.tobuf(form, "utf-8", "surrogateescape"))
        except ValueError:  # a name too long for the form
            sink.write(tarfile.TarInfo("x" * 90).tobuf())
        sink.write(content + bytes(-len(content) % 512))
    return sink.getvalue() + bytes(rng.choice([0, 512, 1024, 10240]))


def _json(data: bytes) -> Any:
    """The JSON in `data`; {} where an earlier change left none."""
    try:
        return json.loads(data)
    except ValueError:
        return {}


def _change_member(members: list[tuple[tarfile.TarInfo, bytes]], rng: random.Random) -> None:
    place = rng.randrange(len(members)) if members else 0
    if not members:
        return
    header, content = copy.copy(members[place][0]), members[place][1]
    action = rng.randrange(8)
    if action == 0:
        del members[place]
    elif action == 1:
        members.insert(rng.randrange(len(members) + 1), members[place])
    elif action == 2:
        rng.shuffle(members)
    elif action == 3:
        header.name = rng.choice([str(item) for item in NASTY if isinstance(item, str) and "\ud800" not in item])
        members.insert(rng.choice([place, place + 1]), (header, content))
    elif action == 4:
        header.type = rng.choice([bytes([kind]) for kind in b"0\x00123456789gxLKSDNVM"])
        header.linkname = rng.choice(["../../etc/passwd", "manifest.json", "/etc", ""])
        members[place] = (header, content)
    elif action == 5:
        header.size = rng.choice([0, 1, header.size + 1, 10**6, 10**12, 8**11 + 5])
        members[place] = (header, content)
    elif action == 6:
        members[place] = (header, scramble(content, rng))
    else:
        body = _json(members[0][1])
        mutate(body, rng)
        first = copy.copy(members[0][0])
        data = sealed(body)
        first.size = len(data)
        members[0] = (first, data)
