"""What earlier settings made is found, what the present ones make is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.project.consistency import read_consistent
from pipeline.project.pruning import orphans
from pipeline.project.settings import Settings

ROOT = Path(__file__).parents[3]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(ROOT)
    return read_consistent(Path("params.yaml"))


def make(root: Path, *names: str) -> set[Path]:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".json", ".arrow", ".md", ".ok"):
            path.touch()
        else:
            path.mkdir()
    return {root / name for name in names}


def test_nothing_is_there(settings: Settings, tmp_path: Path) -> None:
    assert orphans(settings, tmp_path) == []


def test_what_the_settings_name_stays(settings: Settings, tmp_path: Path) -> None:
    make(
        tmp_path,
        "data/params.ok",
        "data/documents",
        "data/sequences",
        "data/masks",
        "data/sources/wordnet",
        "data/text/wordnet",
        "data/logits/wordnet-things",
        "data/targets/only-things",
        "data/targets/.only-things.staged",
        "models/labels-only",
        "reports/summary.json",
        "reports/teachers/wordnet-rest.json",
        "reports/teachers/wordnet-rest.arrow",
        "reports/teachers/wordnet-rest.top.arrow",
        "reports/fusions/confident.json",
        "reports/students/fused.json",
        "reports/runs/corpus.json",
        "reports/runs/tokenize.json",
        "reports/runs/mask.json",
        "reports/runs/sources-minilm-l6-mlm.json",
        "reports/runs/ingest-wordnet.json",
        "reports/runs/teach-wordnet-things.json",
        "reports/runs/fuse-uniform.json",
        "reports/runs/train-fused-uniform.json",
        "reports/runs/evaluate-fused.json",
        "reports/runs/evaluate_teacher-wordnet-things.json",
        "reports/runs/evaluate_fusion-confident.json",
        "data/lexicon",
        "data/senses/examples",
        "data/rewrite/prose",
        "models/lexical",
        "reports/wsd/lexical.json",
        "reports/language_model/lexical.json",
        "reports/paraphrase/fused.json",
        "reports/costs/wordnet-things.json",
        "reports/runs/lexicon.json",
        "reports/runs/senses-examples.json",
        "reports/runs/lexical-lexical.json",
        "reports/runs/rewrite-prose.json",
        "reports/runs/wsd-lexical.json",
        "reports/runs/language_model-lexical.json",
        "reports/runs/paraphrase-fused.json",
        "reports/runs/costs-wordnet-things.json",
    )
    (tmp_path / "models" / ".gitignore").touch()
    assert orphans(settings, tmp_path) == []


def test_what_they_do_not_name_goes(settings: Settings, tmp_path: Path) -> None:
    made = make(
        tmp_path,
        "data/sources/bert",
        "data/text/wiki",
        "data/logits/bert",
        "data/logits/mpnet",
        "data/logits/.bert.staged",
        "data/targets/old",
        "models/small",
        "reports/teachers/bert.json",
        "reports/teachers/bert.arrow",
        "reports/teachers/bert.top.arrow",
        "reports/fusions/old.json",
        "reports/students/small.json",
        "reports/runs/teach-bert.json",
        "reports/runs/teach-confident.json",
        "reports/runs/evaluate-small.json",
        "data/senses/semcor",
        "data/soft_labels/large",
        "data/rewrite/.old.staged",
        "reports/wsd/fused.json",
        "reports/glue/lexical.json",
        "reports/costs/small.json",
        "reports/runs/soft_labels-large.json",
        "reports/runs/glue-lexical.json",
        "reports/runs/evaluate-wordnet-things.json",
    )
    assert set(orphans(settings, tmp_path)) == made
