"""A reader written from FORMAT.md alone, with plain zarr, json, hashlib and numpy (and pyarrow for documents).

It shares no line with `storage`: what both read alike is what the page says. Rows are decoded one by one in float64,
for agreement and not for speed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import zarr

MEMBERS = (
    "arrays checksum facts files format identity inputs kind parents revision schema shards splits".split()  # noqa: SIM905
)
GROUPS: dict[str, list[set[str]]] = {
    "documents": [set()],
    "lexicon": [set()],
    "instances": [set()],
    "sequences": [
        {"document_N", "window_N", "length_N", "input_ids_NL", "word_NL", "char_start_NL", "char_end_NL"},
    ],
    "masks": [{"copy_P", "sequence_P", "column_P", "label_P"}],
    "logits": [
        {"tail_PJ", "gold_PJ", "entropy_PJ"},
        {"count_P", "step_E", "code_E", "gold_at_P"},
        {"drawn_count_P", "drawn_step_E", "drawn_code_E"},
        {"spread_PJ"},
        {"sketch_PD"},
    ],
    "exact": [{"hidden_PH", "gold_id_P"}],
    "targets": [{"count_P", "step_E", "code_E", "weight_PT", "tail_PT", "gold_P"}, {"sketch_PTD"}],
}
NO_ANSWER, HOLE = 65534, 65535
NOTHING_LEFT = -5000.0


class Refused(Exception):
    """The folder is no sound store of schema 2."""


def need(condition: Any, message: str) -> None:
    if not condition:
        raise Refused(message)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """Section 2."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


class SecondStore:
    """A store whose manifest is sound; files are compared with it when they are first read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        need((path / "manifest.json").is_file(), "no manifest.json: no store")
        body = json.loads((path / "manifest.json").read_bytes())
        need(isinstance(body, dict) and sorted(body) == MEMBERS, "other members than a manifest's")
        need((body["format"], body["schema"]) == ("belief-store", 2), "other format or schema")
        checksum = body.pop("checksum")
        need(sha256(canonical(body)) == checksum, "the manifest's checksum does not fit")
        hashed = {name: body[name] for name in ("inputs", "kind", "parents", "revision", "schema")}
        need(sha256(canonical(hashed)) == body["identity"], "the identity does not fit")
        need(body["kind"] in GROUPS, "unknown kind")
        self.kind: str = body["kind"]
        self.identity: str = body["identity"]
        self.facts: dict[str, Any] = body["facts"]
        self.splits: dict[str, dict[str, int]] = body["splits"]
        self.arrays: dict[str, dict[str, Any]] = body["arrays"]
        self.files: dict[str, dict[str, Any]] = body["files"]
        self.shards = {(shard["split"], shard["index"]): shard for shard in body["shards"]}
        need(len(self.shards) == len(body["shards"]), "a shard is listed twice")
        self._require_arrays()

    def _require_arrays(self) -> None:
        found, groups = set(self.arrays), GROUPS[self.kind]
        need(groups[0] <= found <= set().union(*groups), "other arrays than the kind has")
        need(all(group <= found or not group & found for group in groups), "a group of arrays in part")

    def bytes_of(self, name: str, entry: dict[str, Any]) -> bytes:
        path = self.path / name
        need(path.is_file() and not path.is_symlink(), f"{name}: missing")
        data = path.read_bytes()
        need((len(data), sha256(data)) == (entry["bytes"], entry["sha256"]), f"{name}: other bytes than listed")
        return data

    def verify(self) -> None:
        """Compare every file; the plan's shards are all listed, and nothing else lies in the folder."""
        listed = dict(self.files)
        for split, plan in self.splits.items():
            count = 1 if not self.arrays else math.ceil(plan["rows"] / plan["shard_rows"])
            for index in range(count):
                need((split, index) in self.shards, f"shard {split}/{index} is not listed")
        for shard in self.shards.values():
            listed |= shard["files"]
        for name, entry in listed.items():
            self.bytes_of(name, entry)
        found = {path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir()}
        need(found == {"manifest.json", *listed}, "files that are not listed")

    def table(self, name: str) -> dict[str, list[Any]]:
        """Section 5, documents: the table of a split, or of a name."""
        ((file, entry),) = self.shards[name, 0]["files"].items()
        table = pyarrow.ipc.open_file(pyarrow.py_buffer(self.bytes_of(file, entry))).read_all()
        columns = dict.fromkeys(("doc_id", "source", "text"), "utf8")
        if self.kind != "documents":
            columns = self.facts["columns"][name]
        need(sorted(columns) == sorted(table.column_names), "other columns than the facts name")
        for column, kind in columns.items():
            depth = kind.count("list of ")
            inner = {"utf8": "string", "float16": "halffloat"}.get(kind.rpartition(" ")[2], kind.rpartition(" ")[2])
            found_kind = str(table.schema.field(column).type)
            need(found_kind == "list<item: " * depth + inner + ">" * depth, f"{column}: {found_kind}, not {kind}")
        found: dict[str, list[Any]] = table.to_pydict()
        return found

    def constant(self, name: str) -> Any:
        """Section 7."""
        for file, entry in self.files.items():
            if file.startswith(f"constants/{name}/"):
                self.bytes_of(file, entry)
        return zarr.open_array(self.path / "constants" / name, mode="r")[...]

    def shard(self, split: str, index: int) -> dict[str, Any]:
        """Section 3: the stored codes of one shard; of ragged arrays a list of entries for every row."""
        need((split, index) in self.shards, f"shard {split}/{index} is not listed")
        shard, plan, stored = self.shards[split, index], self.splits[split], {}
        for name, entry in shard["files"].items():
            self.bytes_of(name, entry)
        start = index * plan["shard_rows"]
        rows = min(plan["rows"] - start, plan["shard_rows"])
        need(shard["rows"] == rows, "a shard of other size than planned")
        for name, spec in sorted(self.arrays.items(), key=lambda item: item[1]["counted_by"]):
            self.bytes_of(f"{split}/{name}/zarr.json", self.files[f"{split}/{name}/zarr.json"])
            array = zarr.open_array(self.path / split / name, mode="r")
            need((array.metadata.zarr_format, array.dtype) == (3, np.dtype(spec["dtype"])), f"{name}: other dtype")
            if spec["counted_by"]:
                room = range(start * spec["most"], (start + plan["shard_rows"]) * spec["most"])
                stored[name] = _ragged(array, stored[spec["counted_by"]], room, spec["most"])
            else:
                need(array.shape == (plan["rows"], *spec["row_shape"]), f"{name}: other shape")
                stored[name] = array[start : start + rows]
        return stored

    def rows(self, split: str) -> Iterator[dict[str, Any] | None]:
        """Sections 4 and 5: every row of a split of any kind but documents; None where there is no answer."""
        plan = self.splits[split]
        decode = {"logits": self._logits, "targets": self._targets, "exact": _exact}.get(self.kind, _plain)
        for index in range(math.ceil(plan["rows"] / plan["shard_rows"])):
            stored = self.shard(split, index)
            for row in range(self.shards[split, index]["rows"]):
                yield decode({name: values[row] for name, values in stored.items()})

    def _logits(self, row: dict[str, Any]) -> dict[str, Any] | None:
        if _fixed(row["gold_PJ"][0], 128) is None:
            return None
        order = self._order()
        tails = [_root(u) for u in row["tail_PJ"]]
        listed, gold = {}, None
        if "count_P" in row:
            ids = _ids(row["step_E"], order)
            need(all(1 <= u <= 128 for u in row["code_E"]), "a level out of range")
            listed = {v: (int(u) / 128) ** 2 for v, u in zip(ids, row["code_E"], strict=True)}
            need(row["gold_at_P"] <= len(ids), "a place beyond the list")
            gold = ids[row["gold_at_P"] - 1] if row["gold_at_P"] else None
        total = math.fsum([*listed.values(), tails[0]]) or 1.0
        found: dict[str, Any] = {
            "listed": {v: p / total for v, p in listed.items()},
            "tail": [tails[0] / total, *tails[1:]],
            "gold": gold,
            "gold_logprob": [-_answer(u, 128) for u in row["gold_PJ"]],
            "entropy": [_answer(u, 64) for u in row["entropy_PJ"]],
        }
        if "drawn_count_P" in row:
            times = self.arrays["drawn_code_E"]["most"]
            need(all(1 <= u <= times for u in row["drawn_code_E"]), "a number of times out of range")
            ids = _ids(row["drawn_step_E"], order)
            found["drawn"] = {v: int(u) / times for v, u in zip(ids, row["drawn_code_E"], strict=True)}
        if "spread_PJ" in row:
            need((row["spread_PJ"] != -32768).all(), "a hole")
            found["spread"] = [int(u) / 32 for u in row["spread_PJ"]]
        if "sketch_PD" in row:
            need((row["sketch_PD"] != -128).all(), "a hole")
            found["sketch"] = row["sketch_PD"].tolist()
        return found

    def _targets(self, row: dict[str, Any]) -> dict[str, Any] | None:
        gold = _fixed(row["gold_P"], 128)
        if gold is None:
            return None
        ids = _ids(row["step_E"], self._order())
        need(all(1 <= u <= 128 for u in row["code_E"]), "a level out of range")
        listed = {v: (int(u) / 128) ** 2 for v, u in zip(ids, row["code_E"], strict=True)}
        tails = [_root(u) for u in row["tail_PT"]]
        total = math.fsum([*listed.values(), *tails]) or 1.0
        need((row["weight_PT"] != 255).all(), "a hole")
        weights = int(row["weight_PT"].sum(dtype=np.int64)) or 1
        found: dict[str, Any] = {
            "listed": {v: p / total for v, p in listed.items()},
            "tail": [t / total for t in tails],
            "weight": [int(u) / weights for u in row["weight_PT"]],
            "gold_logprob": -gold,
        }
        if "sketch_PTD" in row:
            need((row["sketch_PTD"] != -128).all(), "a hole")
            found["sketch"] = row["sketch_PTD"].tolist()
        return found

    def _order(self) -> list[int]:
        if not hasattr(self, "_ranks"):
            self._ranks: list[int] = self.constant("order_V").tolist()
            need(sorted(self._ranks) == list(range(len(self._ranks))), "order_V is no permutation")
        return self._ranks

    def restore(self, row: dict[str, Any], *, column: int = 0) -> list[float]:
        """Section 6: the whole distribution of a row of logits at a temperature, or of a row of targets."""
        p = np.zeros(len(self._order()))
        if self.kind == "targets":
            for t, tail in enumerate(row["tail"]):
                exponent = self.constant("tail_bias_TV")[t].astype(np.float64)
                if "sketch" in row:
                    exponent += np.array(row["sketch"][t]) @ self.constant("tail_basis_TDV")[t].astype(np.float64)
                p += tail * _outside(exponent, list(row["listed"]))
            p[list(row["listed"])] = list(row["listed"].values())
            return p.tolist()
        temperature, tail = self.facts["temperatures"][column], row["tail"][column]
        if "drawn" in row:
            for v, share in row["drawn"].items():
                p[v] = tail * share
        else:
            exponent = self.constant("tail_bias_JV")[column].astype(np.float64)
            if "sketch" in row:
                exponent += np.array(row["sketch"]) @ self.constant("tail_basis_DV").astype(np.float64) / temperature
            p = tail * _outside(exponent, list(row["listed"]))
        powers = {v: q ** (1 / temperature) for v, q in row["listed"].items()}
        for v, power in powers.items():
            p[v] = (1 - tail) * power / sum(powers.values())
        return p.tolist()


def _ragged(array: Any, counts: Any, room: range, most: int) -> list[Any]:
    need((counts <= most).all(), "a count above the most")
    ends = np.cumsum(counts, dtype=np.int64)
    entries = array[room.start : room.stop]
    need((entries[ends[-1] :] == array.fill_value).all(), "more entries than are counted")
    return [entries[end - int(count) : end] for end, count in zip(ends, counts, strict=True)]


def _ids(steps: Any, order: list[int]) -> list[int]:
    ids, rank = [], 0
    for place, step in enumerate(steps.tolist()):
        need(step > 0 or place == 0, "an id twice in a row")
        rank += step
        need(rank < len(order), "a rank outside the vocabulary")
        ids.append(order[rank])
    return ids


def _fixed(u: Any, steps: int) -> float | None:
    need(u != HOLE, "a hole")
    return None if u == NO_ANSWER else int(u) / steps


def _answer(u: Any, steps: int) -> float:
    value = _fixed(u, steps)
    if value is None:
        raise Refused("an answer in part")
    return value


def _root(u: Any) -> float:
    need(u <= 250, "a mass above 1, or a hole")
    return float((int(u) / 250) ** 2)


def _outside(exponent: Any, listed: list[int]) -> Any:
    """Softmax over what is not listed."""
    exponent[listed] = -np.inf
    largest = exponent.max()
    if largest < NOTHING_LEFT:
        return np.zeros(len(exponent))
    powers = np.exp(exponent - largest)
    return powers / powers.sum()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    if "label_P" in row:
        need(row["label_P"] != np.iinfo(row["label_P"].dtype).max, "a hole")
    if "length_N" in row:
        fill = np.iinfo(row["input_ids_NL"].dtype).max
        used = np.arange(len(row["input_ids_NL"])) < row["length_N"]
        need(row["length_N"] != HOLE and ((row["input_ids_NL"] != fill) == used).all(), "padding before the end")
    return {name: values.tolist() for name, values in row.items()}


def _exact(row: dict[str, Any]) -> dict[str, Any] | None:
    finite = bool(np.isfinite(row["hidden_PH"]).all())
    answered = bool(row["gold_id_P"] != np.iinfo(row["gold_id_P"].dtype).max)
    need(finite == answered, "an answer in part")
    return {"hidden": row["hidden_PH"].tolist(), "gold_id": int(row["gold_id_P"])} if answered else None
