"""A published folder is whole, has every file of the tokenizer, and loads as transformers loads any model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.models.files import MODEL_FILES, TOKENIZER_FILES, files_like
from pipeline.models.masked_lm import load_checked
from pipeline.models.publish import publishing, save_model, write_record
from storage.work import WorkFolder, Workspace


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with every file that a tokenizer may have, and some that it has not."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in (*TOKENIZER_FILES, "config.json", "model.safetensors", "tokenizer.py", "README.md"):
        (folder / name).write_text(f"of the tokenizer: {name}", encoding="utf-8")
    return folder


def test_a_model_is_saved_with_all_files_of_its_tokenizer(tiny_mlm: Path, tokenizer: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = load_checked(tiny_mlm)
    save_model(model, out, tokenizer=tokenizer)
    for name in TOKENIZER_FILES:
        assert (out / name).read_text(encoding="utf-8") == f"of the tokenizer: {name}"
    assert sorted(path.name for path in out.iterdir()) == sorted((*TOKENIZER_FILES, "config.json", "model.safetensors"))
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644
    weights = load_file(out / "model.safetensors")
    assert weights and all(torch.equal(value, model.state_dict()[name]) for name, value in weights.items())


def test_only_known_files_of_a_model_folder_are_copied(tmp_path: Path) -> None:
    kept = ["LICENSE", "LICENSE.txt", "config.json", "model-00001-of-00002.safetensors", "vocab.txt"]
    for name in (*kept, "pytorch_model.bin", "modeling_own.py", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "NOTICE").mkdir()
    assert [path.name for path in files_like(tmp_path, MODEL_FILES)] == kept


def test_a_folder_is_published_whole_or_not_at_all(workplace: Path) -> None:
    out = Path("models/one")

    def attempt(work: WorkFolder, *, killed: bool) -> None:
        with publishing(work) as folder:
            assert not list(folder.iterdir()), "what an earlier attempt wrote is gone"
            write_record(folder, {"killed": killed}, card="# one")
            if killed:
                raise KeyboardInterrupt

    with WorkFolder(out, name="models-one", identity="a" * 64, workspace=Workspace()) as work:
        with pytest.raises(KeyboardInterrupt):
            attempt(work, killed=True)
        assert not out.exists()
        attempt(work, killed=False)
    assert json.loads((out / "training.json").read_text(encoding="utf-8")) == {"killed": False}
    assert (out / "README.md").read_text(encoding="utf-8") == "# one"
