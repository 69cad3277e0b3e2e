"""What `wsd` is told on its command line; what it scores is tested where it is computed, and in test_pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from stages.wsd import main, stores_in
from storage.format.manifest import MANIFEST

PARAMS = """
wsd: {bootstrap: 20, seed: 0}
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 512, checkpoint_seconds: 60.0}
"""


def store(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / MANIFEST).touch()
    return folder


def test_a_folder_of_stores_stands_for_its_stores(tmp_path: Path) -> None:
    stores = [store(tmp_path / "senses" / name) for name in ("a", "b")]
    (tmp_path / "senses" / ".c.staged").mkdir()
    (tmp_path / "senses" / "notes.txt").touch()
    assert stores_in(tmp_path / "senses") == stores
    assert stores_in(stores[1]) == [stores[1]]
    assert stores_in(tmp_path / "nowhere") == [tmp_path / "nowhere"], "so that opening it says what to run"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "wsd: expected --data with --gold, or --senses; give one of the two"),
        (["--data", "x.data.xml"], "wsd: expected --data with --gold, or --senses; give one of the two"),
        (
            ["--data", "x.data.xml", "--gold", "x.gold.key.txt", "--senses", "data/senses"],
            "wsd: expected --data with --gold, or --senses; give one of the two",
        ),
        (["--senses", "data/senses"], "models/none: expected senses/head.safetensors and senses/reading.json"),
    ],
)
def test_a_refusal_is_one_line(workplace: Path, arguments: list[str], message: str) -> None:
    (workplace / "params.yaml").write_text(PARAMS, encoding="utf-8")
    result = CliRunner().invoke(main, ["--model", "models/none", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {message}")
    assert result.stderr.count("\n") == 1
