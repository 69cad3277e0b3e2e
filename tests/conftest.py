"""Fixtures that several test files share; each is built once a session and only read.

A test that writes asks for `workplace` (a folder of its own, and the current one) or builds its own with
tests.helpers.stores.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import stores as fakes
from tests.helpers.stores import TinyStores


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes by their argument: compressed ones may hold the time of day, and each process of a run collects."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, made the current one: `.work`, `data` and `reports` of the test land there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the reference tokenizer: uncased WordPiece with BERT's special names."""
    return fakes.write_tiny_wordpiece_tokenizer(tmp_path_factory.mktemp("tokenizers") / "bert")


@pytest.fixture(scope="session")
def tiny_mpnet_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a WordPiece tokenizer with other ids, special names and cuts."""
    return fakes.write_tiny_mpnet_tokenizer(tmp_path_factory.mktemp("tokenizers") / "mpnet")


@pytest.fixture(scope="session")
def tiny_bpe_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a cased byte-level BPE tokenizer."""
    return fakes.write_tiny_bpe_tokenizer(tmp_path_factory.mktemp("tokenizers") / "bpe")


@pytest.fixture(scope="session")
def tiny_mlm(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A random two-layer masked language model over the reference tokenizer."""
    return fakes.write_tiny_mlm(tmp_path_factory.mktemp("models") / "random", tiny_tokenizer)


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory, tiny_mpnet_tokenizer: Path) -> Path:
    """A two-layer masked language model over the other tokenizer, trained until it knows TINY_TEXT."""
    return fakes.write_tiny_mlm(tmp_path_factory.mktemp("models") / "teacher", tiny_mpnet_tokenizer, seed=1, steps=150)


@pytest.fixture(scope="session")
def tiny_stores(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> TinyStores:
    """Sealed documents, sequences and masks (2 copies, 64 predictions a shard) of TINY_TEXT."""
    return fakes.tiny_masks(tmp_path_factory.mktemp("stores"), tiny_tokenizer)
