"""Commands with stores in a bucket of a local server that speaks S3: put, teach and fuse write it, train reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import yaml

from stages import fuse, teach, train
from stages.tools.store import main as store_command
from storage.share.remote import put
from storage.testing.samples import file_hashes
from tests.helpers.buckets import s3_server, shelf
from tests.helpers.commands import call
from tests.helpers.stores import TinyStores
from tests.helpers.teacher_stores import make_world


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    with s3_server() as server, shelf(server, monkeypatch) as files:
        yield files


def test_a_fusion_and_a_student_from_a_bucket_are_those_from_disk(
    tiny_stores: TinyStores, tiny_mlm: Path, tiny_tokenizer: Path, workplace: Path, bucket: s3fs.S3FileSystem
) -> None:
    world = make_world(tiny_stores, workplace / "data", fusions=())
    loss = {"targets": 1.0, "labels": 0.5, "tail": "prior"}
    params = {
        "teachers": {"alpha": {}, "beta": {}},
        "fusions": {
            "both": {
                "teachers": ["alpha", "beta"], "weighting": "entropy", "tau": 1.0, "calibrated": True,
                "prior": "equal", "temperature": 1.0, "keep": 8,
            }
        },
        "students": {
            "near": {"targets": "data/targets/both", "start": str(tiny_mlm), "loss": loss},
            "far": {"targets": "s3://shelf/targets/both", "start": str(tiny_mlm), "loss": loss},
        },
        "training": {
            "steps": 3, "step_tokens": 300, "learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 0.01,
            "gradient_clip": 1.0, "evaluations": 1, "seed": 7,
        },
        "runtime": {
            "device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 200, "checkpoint_seconds": 60.0
        },
    }  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    stores = {"sequences": tiny_stores.sequences, "masks": tiny_stores.masks}
    for name, store in stores.items():
        put(store, f"s3://shelf/{name}")
    for teacher in ("alpha", "beta"):
        put(world.data / "logits" / teacher, f"s3://shelf/logits/{teacher}")

    near = ["--sequences", str(stores["sequences"]), "--masks", str(stores["masks"])]
    far = ["--sequences", "s3://shelf/sequences", "--masks", "s3://shelf/masks"]
    done = call(fuse.main, "both", *near, "--logits", str(world.data / "logits"), "--out", "data/targets/both")
    assert done.exit_code == 0, done.output
    done = call(fuse.main, "both", *far, "--logits", "s3://shelf/logits", "--out", "s3://shelf/targets/both")
    assert done.exit_code == 0, done.output
    bucket.invalidate_cache()
    bucket.get("shelf/targets/both", "from-bucket", recursive=True)
    assert file_hashes(Path("from-bucket")) == file_hashes(Path("data/targets/both"))

    for name, where in (("near", near), ("far", far)):
        done = call(train.main, name, *where, "--tokenizer", str(tiny_tokenizer), "--out", f"models/{name}")
        assert done.exit_code == 0, done.output
    weights = [file_hashes(Path("models") / name)["model.safetensors"] for name in ("near", "far")]
    assert weights[0] == weights[1]
    assert json.loads(Path("models/far/training.json").read_text())["targets"] == "s3://shelf/targets/both"

    done = call(train.main, "far", *far[:2], "--masks", "s3://shelf/none", "--tokenizer", "x", "--out", "models/far")
    assert done.exit_code == 2
    assert "s3://shelf/none/manifest.json: is not there. Check the address" in done.output
    assert not os.path.lexists("models/none")


def test_a_teacher_that_reads_and_writes_a_bucket_makes_the_store_of_one_on_disk(
    tiny_stores: TinyStores, tiny_teacher: Path, tiny_tokenizer: Path, workplace: Path, bucket: s3fs.S3FileSystem
) -> None:
    """The commands of docs/sharing.md for stores that are too large for DVC."""
    teacher = {
        "model": str(tiny_teacher), "keep": {"form": "topk", "k": 3}, "tail": {"rank": 0, "step": 0.4},
        "temperatures": [1.0], "seed": 0,
    }  # fmt: skip
    runtime = {"device": "cpu", "dtype": "float32", "threads": 1, "batch_tokens": 300, "checkpoint_seconds": 60.0}
    Path("params.yaml").write_text(yaml.safe_dump({"teachers": {"fox": teacher}, "runtime": runtime}), encoding="utf-8")
    near, far = ["--tokenizer", str(tiny_tokenizer)], ["--tokenizer", str(tiny_tokenizer)]
    for name in ("documents", "sequences", "masks"):
        done = call(store_command, "put", str(getattr(tiny_stores, name)), f"s3://shelf/{name}")
        assert done.exit_code == 0 and done.output.endswith("files sent\n"), done.output
        near += [f"--{name}", str(getattr(tiny_stores, name))]
        far += [f"--{name}", f"s3://shelf/{name}"]
    for options in ([*near, "--out", "data/logits/fox"], [*far, "--out", "s3://shelf/logits/fox"]):
        done = call(teach.main, "fox", *options)
        assert done.exit_code == 0, done.output
    bucket.invalidate_cache()
    bucket.get("shelf/logits/fox", "from-bucket", recursive=True)
    assert file_hashes(Path("from-bucket")) == file_hashes(Path("data/logits/fox"))
