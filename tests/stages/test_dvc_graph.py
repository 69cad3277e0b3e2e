"""Which stages DVC runs after which edit, with the real dvc.yaml and stubs in place of the commands.

The stage `code` is the real one. Not checked here: that its lists cover what a stage imports (test_code), and what the
other real stages write.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.project.settings import read_settings
from storage.testing import samples

ROOT = Path(__file__).parents[2]

PARAMS = """\
# A comment at the top.
sources:
  mini:
    kind: model   # a comment
    local: elsewhere
inputs:
  own: {kind: text, path: own}
corpus: {share: 1.0, calibration: 0.1, heldout: 0.1}
tokenize: {tokenizer: data/sources/mini, sequence_tokens: 128}
mask: {rate: 0.15, copies: 1, seed: 0, shard_rows: 8192}
adapters: {}
teachers:
  ann: &teacher   # an anchor
    model: data/sources/mini
    keep: {form: topk, k: 32}
    tail: {rank: 0, step: 0.4}
    temperatures: [1.0, 2.0]
    seed: 0
  bob: *teacher
exact: {positions: 64}
fusions:
  both: &fusion
    teachers: [ann, bob]
    weighting: entropy
    tau: 1.0
    calibrated: true
    prior: equal
    temperature: 1.0
    keep: 32
  alone:
    <<: *fusion
    teachers: [ann]
training:
  steps: 8
  step_tokens: 2048
  learning_rate: 3.0e-4
  warmup: 0.06
  weight_decay: 0.01
  gradient_clip: 1.0
  evaluations: 2
  seed: 0
students:
  fused:
    targets: data/targets/both
    start: data/sources/mini
    loss: {targets: 1.0, labels: 1.0, tail: prior}
  labels:
    targets: data/masks
    start: data/sources/mini
    loss: {labels: 1.0}
target_gradients: {start: data/sources/mini, positions: 64}
lexicon: {kind: jsonl, path: assets}
senses:
  examples: {kind: examples, path: data/lexicon, heldout: 0.1}
lexical:
  lex:
    start: models/fused
    senses: [examples]
    objective: lmgc
    reading: {context_tokens: 32, gloss_tokens: 32, examples: false}
    gold: 1.0
    soft_labels: 0.0
    soft_labels_from: data/senses
    targets: data/masks
    training: {epochs: 1.0, step_words: 4, learning_rate: 1.0e-4, warmup: 0.1, weight_decay: 0.0, gradient_clip: 1.0,
      most_candidates: 4, seed: 0}
soft_labels: {}
sense_fusions: {}
published: {}
rewrite:
  hand: {model: assets, split: heldout, shares: [0.2], temperature: 1.0, top_k: 8, words_min: 6, words_max: 20,
    paragraphs: 24, test_share: 0.5, seed: 0}
evaluate: {against: data/targets/alone, bootstrap: 100, seed: 0}
wsd: {bootstrap: 100, seed: 0}
paraphrase:
  seeds: [0]
  finetune: &finetune
    {epochs: 1, learning_rate: 1.0e-3, batch: 8, warmup: 0.1, weight_decay: 0.0, max_tokens: 32, pooling: mean}
  train_examples: 0
  test_examples: 0
  bootstrap: 100
plagiarism_sets:
  hidden: {kind: rewritten, path: data/rewrite/hand, share: 0.2, split: heldout, document_words: 40, passage_words: 4,
    passages: 2, clean: 0.2, distractors: 0.2, seed: 0}
plagiarism: {data: data/plagiarism, development: 0.5, unit_words: 4, most_words: 12, candidates: 3, bootstrap: 100,
  seed: 0}
glue:
  {data: data/glue, tasks: [RTE], seeds: [0], finetune: *finetune, train_examples: 0, dev_examples: 0, bootstrap: 100}
costs: {sequence_tokens: 16, batches: [1], forwards: 20, threads: 1}
suites:
  wsd:
    lex: {model: models/lex}
  language_model:
    lex: {model: models/lex, before: models/fused}
  paraphrase:
    fused: {model: models/fused}
  plagiarism:
    fused: {model: models/fused}
  glue: {}
  costs:
    labels: {model: models/labels}
runtime: {device: cpu, dtype: float32, threads: 0, batch_tokens: 4096, checkpoint_seconds: 60.0}
"""

TEXT = {"ingest@own", "corpus", "tokenize", "mask"}
TEACHERS = {"teach@ann", "teach@bob", "exact@ann", "exact@bob", "fidelity@ann", "fidelity@bob"}
FUSIONS = {"fuse@both", "fuse@alone", "target_gradients"}
"""And what follows at once: what is measured of them."""
STUDENTS = {"train@fused", "train@labels"}
OF_TEACHERS = {"evaluate_teacher@ann", "evaluate_teacher@bob"}
OF_FUSIONS = {"evaluate_fusion@both", "evaluate_fusion@alone"}
OF_STUDENTS = {"evaluate@fused", "evaluate@labels"}
EVALUATED = OF_TEACHERS | OF_FUSIONS | OF_STUDENTS
SENSES = {"lexicon", "senses@examples", "rewrite@hand", "plagiarism_sets@hidden"}
OF_FUSED = {"evaluate@fused", "paraphrase@fused", "plagiarism@fused", "lexical@lex", "wsd@lex", "language_model@lex"}
"""What follows when the student that the lexical one starts from is another."""
SUITES = {"wsd@lex", "language_model@lex", "paraphrase@fused", "plagiarism@fused", "costs@labels"}
EVERYTHING = {"check", "sources@mini", "report", "lexical@lex"} | TEXT | TEACHERS | FUSIONS | STUDENTS | EVALUATED
EVERYTHING |= SENSES | SUITES


def stubbed(text: str) -> str:
    """The pipeline with every command but `code` replaced by the stub."""
    pipeline: dict[str, Any] = yaml.safe_load(text)
    for name, stage in pipeline["stages"].items():
        body = stage.get("do", stage)
        stub = f"{sys.executable} stub_stage.py {name}" + (" ${key}" if "foreach" in stage else "")
        body["cmd"] = f"{sys.executable} -m stages.code --out data/code" if name == "code" else stub
    return yaml.safe_dump(pipeline, sort_keys=False)


class Project:
    """A clone of the project, small, in which DVC runs."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root = root
        self.environment = environment

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def ran(self, *words: str) -> set[str]:
        """Names of the stages that a DVC command ran; every stage at most once."""
        done = self.run(sys.executable, "-m", "dvc", *(words or ("repro",)))
        assert done.returncode == 0, done.stdout + done.stderr
        return self.log()

    def log(self) -> set[str]:
        log = self.root / "ran.log"
        names = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        assert len(set(names)) == len(names)
        return set(names)

    def edit(self, old: str, new: str) -> None:
        """Replace one place in params.yaml."""
        path = self.root / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new), encoding="utf-8")

    def params(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change params.yaml as data."""
        path = self.root / "params.yaml"
        params = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))  # aliases become copies
        change(params)
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def environment(home: Path) -> dict[str, str]:
    """Nothing of the user's own settings for git and DVC, and nothing left behind."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "GIT_"))}
    folders = ["DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "HOME"]
    return {
        **kept,
        **{name: str(home / name.lower()) for name in folders},
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline run once, committed."""
    root = tmp_path_factory.mktemp("dvc") / "project"
    project = Project(root, environment(root.parent))
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("storage", "pipeline", "stages", ".dvc"):
        ignored_here = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored_here if folder == ".dvc" else ignored)
    for name in (".gitignore", ".dvcignore"):
        shutil.copyfile(ROOT / name, root / name)
    with (root / ".gitignore").open("a", encoding="utf-8") as stream:
        stream.write("ran.log\n")
    (root / "dvc.yaml").write_text(stubbed((ROOT / "dvc.yaml").read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("stub_stage.py"), root / "stub_stage.py")
    (root / "params.yaml").write_text(PARAMS, encoding="utf-8")
    for folder in ("assets", "own"):
        (root / folder).mkdir()
        (root / folder / "text.txt").write_text("A text.\n", encoding="utf-8")
    for words in (["init", "-q"], ["config", "user.name", "x"], ["config", "user.email", "x@example.org"]):
        assert project.run("git", *words).returncode == 0
    assert project.ran() == EVERYTHING
    for words in (["add", "-A"], ["commit", "-qm", "run"]):
        assert project.run("git", *words).returncode == 0
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished project."""
    root = tmp_path / "project"
    subprocess.run(["cp", "-a", str(finished.root), str(root)], check=True)
    return Project(root, finished.environment)


def test_nothing_changed_nothing_runs(project: Project) -> None:
    assert project.ran() == set()


def test_git_sees_what_should_be_kept_and_no_more(project: Project) -> None:
    listed = project.run("git", "ls-files").stdout.split()
    made = {name for name in listed if name.startswith(("data", "models", "reports", "dvc.lock", ".work"))}
    assert made == {"dvc.lock", "reports/report.md", "reports/summary.json", "reports/plots/content"}
    assert project.run("git", "status", "--short").stdout == ""
    assert [str(path.relative_to(project.root)) for path in project.root.rglob(".gitignore")] == [
        ".gitignore",
        ".dvc/.gitignore",
    ], "DVC writes no .gitignore into folders that others depend on"


def test_editing_a_teacher(project: Project) -> None:
    project.params(lambda params: params["teachers"]["bob"]["keep"].update(k=16))
    # fuse@alone looks at data/logits, in which something changed; what it wrote did not.
    of_bob = {"teach@bob", "fidelity@bob", "evaluate_teacher@bob", "evaluate_fusion@both", "train@fused"}
    assert project.ran() == {"check", "report"} | of_bob | FUSIONS | OF_FUSED


def test_editing_a_fusion_and_changing_it_back(project: Project) -> None:
    before = (project.root / "params.yaml").read_text(encoding="utf-8")
    project.params(lambda params: params["fusions"]["both"].update(tau=2.0))
    assert (
        project.ran()
        == {"check", "fuse@both", "target_gradients", "evaluate_fusion@both", "train@fused", "report"} | OF_FUSED
    )
    (project.root / "params.yaml").write_text(before, encoding="utf-8")
    assert project.ran() == {"report"}, "the others are cached; the report lies in git and not in the cache"
    assert project.run("git", "status", "--short").stdout == ""


def test_editing_the_fusion_that_agreement_is_measured_with(project: Project) -> None:
    project.params(lambda params: params["fusions"]["alone"].update(tau=2.0))
    assert project.ran() == {"check", "fuse@alone", "target_gradients", "report"} | EVALUATED


def test_adding_a_teacher_that_no_fusion_uses(project: Project) -> None:
    project.params(lambda params: params["teachers"].update(cleo=dict(params["teachers"]["ann"])))
    of_cleo = {"teach@cleo", "exact@cleo", "fidelity@cleo", "evaluate_teacher@cleo"}
    # data/logits changed; what the fusions write did not, so no student runs.
    assert project.ran() == {"check", "report"} | of_cleo | FUSIONS


def test_removing_a_teacher(project: Project) -> None:
    def remove(params: dict[str, Any]) -> None:
        del params["teachers"]["bob"]
        params["fusions"]["both"]["teachers"] = ["ann"]

    project.params(remove)
    refused = project.run(sys.executable, "-m", "dvc", "repro")
    assert refused.returncode != 0
    assert "data/logits/bob: not in teachers. Run: cohesive prune" in refused.stderr
    assert project.log() >= {"check"}
    listed = project.run(sys.executable, "-m", "stages.tools.prune")
    expected = [
        "data/logits/bob",
        "data/exact/bob",
        "reports/fidelity/bob.json",
        "reports/teachers/bob.arrow",
        "reports/teachers/bob.json",
        "reports/teachers/bob.top.arrow",
        "reports/runs/evaluate_teacher-bob.json",
        "reports/runs/exact-bob.json",
        "reports/runs/fidelity-bob.json",
        "reports/runs/teach-bob.json",
    ]
    assert [line for line in listed.stdout.splitlines() if line.startswith("would remove ")] == [
        f"would remove {path}" for path in expected
    ]
    assert all((project.root / path).exists() for path in expected)
    pruned = project.run(sys.executable, "-m", "stages.tools.prune", "--yes")
    assert pruned.returncode == 0, pruned.stderr
    assert not any((project.root / path).exists() for path in expected)
    ran = project.ran()
    assert ran >= {"fuse@both", "train@fused", "evaluate@fused", "report"}
    assert not ran & {"teach@ann", "train@labels"}
    assert project.ran() == set()


def test_one_stage_with_what_it_needs_or_what_follows(project: Project) -> None:
    def change(params: dict[str, Any]) -> None:
        params["teachers"]["ann"]["keep"]["k"] = 16
        params["teachers"]["bob"]["keep"]["k"] = 8
        params["fusions"]["both"]["tau"] = 2.0
        params["students"]["labels"]["loss"]["labels"] = 0.5

    project.params(change)
    assert project.ran("repro", "teach@ann") == {"check", "teach@ann"}
    ran = project.ran("repro", "--downstream", "fuse@both")
    assert ran == {"fuse@both", "target_gradients", "evaluate_fusion@both", "train@fused", "report"} | OF_FUSED


def test_an_experiment_with_another_learning_rate(project: Project) -> None:
    """DVC writes 5e-05, which is a number for us too."""
    students = {"train@fused", "train@labels"} | OF_STUDENTS | OF_FUSED | SUITES
    assert project.ran("exp", "run", "-S", "training.learning_rate=5e-5") == {"check", "report"} | students
    assert "learning_rate: 5e-05" in (project.root / "params.yaml").read_text(encoding="utf-8")
    assert read_settings(project.root / "params.yaml").training.learning_rate == 5e-5


def test_adding_a_student(project: Project) -> None:
    project.params(lambda params: params["students"].update(small=dict(params["students"]["fused"])))
    assert project.ran() == {"check", "train@small", "evaluate@small", "report"}


def test_removing_a_student_that_a_suite_evaluated(project: Project) -> None:
    project.params(lambda params: (params["students"].pop("labels"), params["suites"]["costs"].pop("labels")))
    assert project.ran() == {"check", "report"}


def test_a_suite_begins_and_ends(project: Project) -> None:
    """The report follows the first entry of a suite and the last, whose folder goes."""
    project.params(lambda params: params["suites"]["glue"].update(labels={"model": "models/labels"}))
    assert project.ran() == {"check", "glue@labels", "report"}
    project.params(lambda params: params["glue"].update(seeds=[1]))
    assert project.ran() == {"check", "glue@labels", "report"}
    project.params(lambda params: [params["suites"][suite].clear() for suite in ("glue", "wsd")])
    (project.root / "data" / "glue").mkdir()
    pruned = project.run(sys.executable, "-m", "stages.tools.prune", "--yes")
    assert "removing reports/glue/labels.json" in pruned.stdout
    shutil.rmtree(project.root / "reports" / "glue")
    shutil.rmtree(project.root / "reports" / "wsd")
    assert project.ran() == {"check", "report"}
    assert project.ran() == set()


def test_editing_a_lexical_student_and_the_costs(project: Project) -> None:
    project.params(lambda params: params["lexical"]["lex"]["training"].update(seed=1))
    project.params(lambda params: params["costs"].update(forwards=30))
    assert project.ran() == {"check", "lexical@lex", "wsd@lex", "language_model@lex", "costs@labels", "report"}


def test_a_lexical_student_that_learns_from_another(project: Project) -> None:
    def add(params: dict[str, Any]) -> None:
        params["soft_labels"]["big"] = {"model": "models/lex", "senses": ["examples"]}
        more = {"soft_labels": 1.0, "soft_labels_from": "data/soft_labels/big", "start": "models/labels"}
        params["lexical"]["small"] = params["lexical"]["lex"] | more

    project.params(add)
    assert project.ran() == {"check", "soft_labels@big", "lexical@small", "report"}
    project.params(lambda params: params["lexical"]["lex"]["training"].update(seed=1))
    assert project.ran() >= {"lexical@lex", "soft_labels@big", "lexical@small", "report"}


def test_a_lexical_student_that_learns_from_several(project: Project) -> None:
    def add(params: dict[str, Any]) -> None:
        params["lexical"]["other"] = params["lexical"]["lex"] | {"start": "models/labels"}
        for name in ("lex", "other"):
            params["soft_labels"][name] = {"model": f"models/{name}", "senses": ["examples"]}
        params["sense_fusions"]["both"] = {"teachers": ["lex", "other"], "temperature": 1.0}
        from_both = {"soft_labels": 1.0, "soft_labels_from": "data/sense_fusions/both", "start": "models/labels"}
        params["lexical"]["small"] = params["lexical"]["lex"] | from_both

    project.params(add)
    asked = {"soft_labels@lex", "soft_labels@other"}
    assert project.ran() == {"check", "lexical@other", "fuse_senses@both", "lexical@small", "report"} | asked
    project.params(lambda params: params["sense_fusions"]["both"].update(temperature=2.0))
    assert project.ran() == {"check", "fuse_senses@both", "lexical@small", "report"}, "no teacher is asked again"
    project.params(lambda params: params["lexical"]["other"]["training"].update(seed=1))
    of_other = {"lexical@other", "soft_labels@other", "fuse_senses@both", "lexical@small"}
    assert project.ran("repro", "lexical@small") == {"check"} | of_other
    project.params(lambda params: params["soft_labels"].update(third=params["soft_labels"]["lex"]))
    assert project.ran("repro", "lexical@small") == {"check", "soft_labels@third", "fuse_senses@both"}


def test_a_teacher_that_is_made_here(project: Project) -> None:
    def add(params: dict[str, Any]) -> None:
        training = {**params["training"], "steps": 2}
        params["adapters"]["own"] = {"start": "data/sources/mini", "text": "data/documents", "training": training}
        params["teachers"]["bob"]["model"] = "models/own"

    project.params(add)
    of_bob = {f"{stage}@bob" for stage in ("teach", "exact", "fidelity", "evaluate_teacher")}
    of_both = FUSIONS | {"evaluate_fusion@both", "train@fused", "report"} | OF_FUSED
    assert project.ran() == {"check", "adapt@own"} | of_bob | of_both
    project.params(lambda params: params["adapters"]["own"]["training"].update(seed=1))
    assert "adapt@own" in project.ran("repro", "teach@bob")


def test_lexicon_and_rewriters(project: Project) -> None:
    project.params(lambda params: params["lexicon"].update(path="own"))
    project.params(lambda params: params["rewrite"]["hand"].update(seed=1))
    of_both = SENSES | SUITES - {"costs@labels"}
    assert project.ran() == {"check", "lexical@lex", "report"} | of_both


def test_editing_a_student_as_an_experiment(project: Project) -> None:
    """`exp run -S` rewrites params.yaml: comments and anchors stay. Metrics are compared with the last commit."""
    ran = project.ran("exp", "run", "-S", "students.labels.loss.labels=0.25")
    assert ran == {"check", "train@labels", "evaluate@labels", "costs@labels", "report"}
    text = (project.root / "params.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["students"]["labels"]["loss"]["labels"] == 0.25
    for kept in ("# A comment at the top.", "# a comment", "&teacher", "*teacher", "<<: *fusion"):
        assert kept in text
    shown = project.run(sys.executable, "-m", "dvc", "metrics", "diff", "--json")
    assert "reports/summary.json" in json.loads(shown.stdout), shown.stderr


def test_runtime_changes_no_result(project: Project) -> None:
    project.edit("batch_tokens: 4096", "batch_tokens: 512")
    assert project.ran() == {"check"}


def test_editing_a_module_runs_what_imports_it(project: Project) -> None:
    with (project.root / "pipeline" / "text" / "masking.py").open("a", encoding="utf-8") as module:
        module.write("# A remark.\n")
    assert project.ran("repro", "mask", "rewrite@hand") == {"mask"}
    assert project.ran("repro", "mask", "rewrite@hand") == set()


def test_editing_a_text(project: Project) -> None:
    (project.root / "own" / "text.txt").write_text("Another text.\n", encoding="utf-8")
    assert project.ran("repro", "mask") == TEXT


STORE_STAGE = """\
stages:
  write:
    cmd: >-
      {python} -c
      "from pathlib import Path; from storage.testing.samples import write_logits;
      write_logits(Path('s'), Path('.work'))"
    outs: [s]
"""


def test_a_real_store_leaves_the_cache_whole(tmp_path: Path) -> None:
    """A real store, lost and forced to run again: the same bytes, and no file of the cache is written twice."""
    project = Project(tmp_path / "project", environment(tmp_path))
    shutil.copytree(ROOT / ".dvc", project.root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    (project.root / "dvc.yaml").write_text(STORE_STAGE.format(python=sys.executable), encoding="utf-8")
    assert project.run("git", "init", "-q").returncode == 0
    project.ran()
    cache = project.root / ".dvc" / "cache" / "files" / "md5"
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    shard = project.root / "s" / "train" / "tail_PJ" / "c" / "1" / "0"
    expected = samples.file_hashes(project.root / "s")
    assert any(shard.samefile(path) for path in before), "the output costs no second copy"
    shutil.rmtree(project.root / "s")
    project.ran("repro", "--force")
    assert samples.file_hashes(project.root / "s") == expected
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before
    for path in before:
        assert hashlib.md5(path.read_bytes()).hexdigest() == path.parent.name + path.name.removesuffix(".dir")
