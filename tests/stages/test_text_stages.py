"""The four text stages as a user runs them, and one sentence followed through their stores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from storage.documents import DocumentStore
from storage.reader import Store
from storage.records.sequences import Masks, Sequences
from tests.helpers.stores import write_jsonl

ROOT = Path(__file__).parents[2]
STAGES = (
    ("ingest", "animals", "--out", "data/text/animals"),
    ("corpus", "--text", "data/text", "--out", "data/documents"),
    ("tokenize", "--documents", "data/documents", "--out", "data/sequences"),
    ("mask", "--documents", "data/documents", "--sequences", "data/sequences", "--out", "data/masks"),
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"stages.{arguments[0]}", *arguments[1:]],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def write_params(tokenizer: Path, **changes: object) -> None:
    params = {
        "inputs": {"animals": {"kind": "jsonl", "path": "animals.jsonl"}},
        "corpus": {"share": 1.0, "calibration": 0.2, "heldout": 0.2},
        "tokenize": {"tokenizer": str(tokenizer), "sequence_tokens": 24},
        "mask": {"rate": 0.2, "copies": 2, "seed": 0, "shard_rows": 64},
        "runtime": {
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "batch_tokens": 256,
            "checkpoint_seconds": 60.0,
        },
    }
    Path("params.yaml").write_text(yaml.safe_dump(params | changes), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A folder in which all four stages ran."""
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_jsonl(Path("animals.jsonl"))
        write_params(tiny_tokenizer)
        for stage in STAGES:
            done = run(*stage)
            assert done.returncode == 0, done.stderr
    return folder


def read_with_blanks(data: Path, doc_id: str, copy: int) -> list[str]:
    """Each window of a document as its text with underlines for the masked positions of one copy."""
    table = DocumentStore(data / "documents").read("train")
    document = table.column("doc_id").to_pylist().index(doc_id)
    text = table.column("text")[document].as_py()
    sequences, masks = Store(data / "sequences", Sequences).read("train"), Store(data / "masks", Masks).read("train")
    windows = []
    for window in np.flatnonzero(sequences.document_N == document).tolist():
        start, end = sequences.char_start_NL[window], sequences.char_end_NL[window]
        shown = list(text)
        for column in masks.column_P[(masks.sequence_P == window) & (masks.copy_P == copy)].tolist():
            shown[start[column] : end[column]] = "_" * (end[column] - start[column])
        windows.append("".join(shown)[start[start >= 0].min() : end.max()])
    return windows


def test_a_sentence_can_be_followed_through_all_stores(finished: Path) -> None:
    """Words, not ids: "slowly" is two tokens and masked as a whole, "A" is no token of its own case."""
    data = finished / "data"
    assert read_with_blanks(data, "animals:t017", 0) == [
        "A sheep __ __ animal; it likes young grass and walks ______ on the green hill_"
    ]
    assert read_with_blanks(data, "animals:t017", 1) == [
        "A sheep is an animal; it likes _____ _____ and walks slowly __ the green ____."
    ]
    assert read_with_blanks(data, "animals:t054", 0) == [
        "When it rains, the young rabbit _____ inside the",
        "wooden ___, and the farmer brings a carrot_",
    ]


def test_each_stage_records_what_it_counted(finished: Path) -> None:
    records = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in (finished / "reports" / "runs").glob("*.json")
    }
    assert set(records) == {"ingest-animals", "corpus", "tokenize", "mask"}
    assert records["ingest-animals"]["documents"] == records["corpus"]["documents"] == 60
    assert records["mask"]["predictions"] == sum(
        plan.rows for plan in Store(finished / "data" / "masks", Masks).manifest.splits.values()
    )
    assert all(record["seconds"] >= 0 and record["peak_memory_bytes"] > 0 for record in records.values())


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (STAGES[0], {"inputs": {"animal": {}}}, "inputs: no key 'animals' (did you mean 'animal'?)"),
        (STAGES[0], {}, "animals.jsonl: expected a file or a folder with files ending in .jsonl"),
        (STAGES[1], {"corpus": {"share": 2.0}}, "params.yaml: corpus."),
        (STAGES[2], {}, "data/documents: no sealed store here (manifest.json is missing). Run: dvc repro"),
        (
            STAGES[3],
            {"mask": {"rate": 0.5, "copies": 3, "seed": 0, "shard_rows": 1}},
            "mask: copies of a window are disjoint",
        ),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(
    workplace: Path, tiny_tokenizer: Path, stage: tuple[str, ...], changes: dict[str, object], message: str
) -> None:
    write_params(tiny_tokenizer, **changes)
    done = run(*stage)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert not (workplace / "data").exists()
