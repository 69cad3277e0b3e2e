"""The notebook of examples/ runs from top to bottom, over stores of tiny models under the default names.

Not checked here: what it prints for the default models.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline.fuse.fuse import fuse
from pipeline.fuse.params import FusionParams
from pipeline.teach.params import TeacherParams
from pipeline.teach.teach import teach
from tests.helpers.stores import TinyStores, cpu_runtime

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
TEACHERS = ("wordnet-things", "wordnet-rest")
# Of jupyter_client, nbclient and their event loop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, tiny_stores: TinyStores, tiny_mlm: Path, tiny_teacher: Path
) -> Path:
    """What `make repro` leaves, made of tiny models."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("documents", "sequences", "masks"):
            shutil.copytree(getattr(tiny_stores, name), Path("data") / name)
        for name, kept in zip(TEACHERS, (8, 4), strict=True):
            params = {"model": str(tiny_teacher), "keep": {"form": "topk", "k": kept}, "temperatures": [1.0], "seed": 0}
            teach(
                TeacherParams.model_validate(params | {"tail": {"rank": 2, "step": 0.4}}),
                tiny_stores.corpus(),
                out=Path("data/logits") / name,
                runtime=cpu_runtime(),
            )
        fuse(
            FusionParams(
                teachers=list(TEACHERS), weighting="entropy", tau=1.0, calibrated=True, prior="equal", temperature=1.0,
                keep=16,
            ),
            tiny_stores.corpus(),
            logits=Path("data/logits"),
            out=Path("data/targets/confident"),
            declared=TEACHERS,
        )  # fmt: skip
        shutil.copytree(tiny_mlm, "data/sources/minilm-l6-mlm")
        shutil.copy(ROOT / "params.yaml", root)
        shutil.rmtree(".work")
    return root


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["store_to_student.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_it_opens_stores_and_trains_a_student(project: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    (project / "examples").mkdir()
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(project / "examples")}}
    ).execute()
    printed = [
        "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    _, manifest, prediction, text, fusion, training, use = printed
    assert manifest.startswith("kind        logits")
    assert [line.split()[0] for line in prediction.splitlines()] == list(TEACHERS)
    assert "[MASK]" in text and "true token: " in text
    assert fusion.count("true token: ") == 3
    curve = [float(line.split()[-1]) for line in training.splitlines()]
    assert len(curve) == 5
    assert curve[-1] < curve[0]
    assert len(use.splitlines()) == 5
    assert sorted(path.name for path in project.iterdir()) == ["data", "examples", "params.yaml"]
