"""The suite on tiny files and models: scores by hand, resumption, refusals before training, paired comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.core.config import decode
from pipeline.evaluate.results import read_json, write_json
from pipeline.tasks import glue
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.glue import (
    answers,
    evaluate_glue,
    load_task,
    score,
    task_score,
)
from pipeline.tasks.glue_data import TASKS
from pipeline.tasks.params import GlueParams
from storage.errors import DataError, ParamsError
from storage.work import finished_folders
from tests.helpers.glue import learnable, write_task
from tests.helpers.stores import cpu_runtime

FINETUNE = {
    "epochs": 3, "learning_rate": 5e-3, "batch": 8, "warmup": 0.1, "weight_decay": 0.0, "max_tokens": 32,
    "pooling": "mean",
}  # fmt: skip
PARAMS = {
    "data": "data/glue", "tasks": ["CoLA", "MRPC", "WNLI"], "seeds": [0, 1, 2], "finetune": FINETUNE,
    "train_examples": 40, "dev_examples": 20, "bootstrap": 50,
}  # fmt: skip


def params(**changes: Any) -> GlueParams:
    return decode(PARAMS | changes, GlueParams, where="params.yaml: glue")


def run(model: Path, *, dtype: torch.dtype = torch.float32, name: str = "student", **changes: Any) -> dict[str, Any]:
    report = evaluate_glue(
        params(**changes), name=name, model=model, runtime=cpu_runtime(batch_tokens=512, dtype=dtype)
    )
    write_json(Path("reports/glue") / f"{name}.json", report)
    return read_json(Path("reports/glue") / f"{name}.json", remedy="")


@pytest.fixture
def here(workplace: Path) -> Iterator[Path]:
    """A folder with small files of every task; one thread."""
    for task in TASKS:
        write_task(workplace / "data" / "glue", task, learnable(task, 60))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield workplace
    torch.set_num_threads(threads)


class Guess:
    """Stands for a fine-tuned model: what it answers depends on the seed alone."""

    def __init__(self, classes: int, seed: int) -> None:
        self.classes, self.seed, self.losses = classes, seed, [0.5]

    def scores(self, examples: Examples) -> np.ndarray:
        return np.random.default_rng(self.seed).random((len(examples), self.classes), dtype=np.float32)


@pytest.fixture
def guesses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Put guesses in place of fine-tuned models; returns the list of fits that were made: first text and seed."""
    made: list[tuple[str, int]] = []

    @contextmanager
    def finetuned(folder: Path, train: Examples, *, classes: int, seed: int, **rest: Any) -> Iterator[Guess]:
        made.append((train.first[0], seed))
        yield Guess(classes, seed)

    monkeypatch.setattr(glue, "finetuned", finetuned)
    return made


def test_a_report_tells_everything(here: Path, tiny_mlm: Path) -> None:
    longer = FINETUNE | {"epochs": 8}
    report = run(tiny_mlm, finetune=longer)
    assert (report["suite"], report["headline"]) == ("glue", "average")
    assert report["average"]["of"] == ["CoLA", "MRPC"]
    for name in PARAMS["tasks"]:
        task = report["tasks"][name]
        values = list(task["seeds"].values())
        assert list(task["seeds"]) == ["0", "1", "2"]
        assert task["median"] == sorted(values)[1] and (task["min"], task["max"]) == (min(values), max(values))
        assert task["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4, abs=1e-9)
        assert report["metrics"][name]["value"] == pytest.approx(np.mean(values)) and report["metrics"][name]["n"] == 20
        assert all(len(sample.split()) == 50 for sample in task["resampled"].values())
        assert task["examples"] == {"train": 40, "dev": 20}
        assert all(len(losses) == 8 and losses[-1] < losses[0] for losses in task["losses"].values())
    assert report["tasks"]["MRPC"]["median"] > 95  # the first word tells
    means = [(report["tasks"]["CoLA"]["seeds"][s] + report["tasks"]["MRPC"]["seeds"][s]) / 2 for s in "012"]
    assert list(report["average"]["seeds"].values()) == pytest.approx(means, rel=1e-5)
    assert [path.parent for path in finished_folders()] == [Path(".work")], "what is kept is done with"


def test_values_and_several_dev_sets_go_through_a_real_model_alike_each_time(here: Path, tiny_mlm: Path) -> None:
    changes = {"tasks": ["STS-B", "MNLI"], "seeds": [0], "dev_examples": 0}
    report = run(tiny_mlm, **changes)
    assert run(tiny_mlm, name="again", **changes) == report
    assert set(report["tasks"]["MNLI"]["metrics"]["0"]) == {"accuracy_matched", "accuracy_mismatched"}
    assert set(report["tasks"]["STS-B"]["metrics"]["0"]) == {"pearson", "spearman"}
    assert report["tasks"]["MNLI"]["examples"] == {"train": 40, "matched": 60, "mismatched": 60}
    assert report["metrics"]["MNLI"]["n"] == 120
    assert report["tasks"]["STS-B"]["median"] > 80
    assert "low" in report["metrics"]["average"], "of the dev examples, with one seed"
    assert "sd" not in report["average"]


def test_intervals_are_of_the_mean_over_dev_examples_and_seeds(here: Path, tiny_mlm: Path, guesses: list[Any]) -> None:
    """Against a bootstrap by hand of accuracies, whose guesses are known by seed."""
    report = run(tiny_mlm, tasks=["RTE", "WNLI"], seeds=[0, 1, 2, 3], dev_examples=0, bootstrap=4000)
    label_N = load_task(params(dev_examples=0), "RTE").dev[""].label_N
    guess_SN = np.stack([Guess(2, seed).scores(Examples(first=["x"] * 60, second=None, label_N=label_N)).argmax(axis=1)
                         for seed in range(4)])  # fmt: skip
    right_SN = 100 * (guess_SN == label_N)
    rng = np.random.default_rng(7)
    seeds, examples = rng.integers(0, 4, (4000, 4, 1)), rng.integers(0, 60, (4000, 1, 60))
    expected = np.quantile(right_SN[seeds, examples].mean(axis=(1, 2)), [0.025, 0.975])
    metric = report["metrics"]["RTE"]
    assert metric["value"] == pytest.approx(right_SN.mean(), rel=1e-5)
    assert (metric["low"], metric["high"]) == pytest.approx(tuple(expected), abs=0.7)
    assert metric == report["metrics"]["average"], "of one task that counts"


def test_a_killed_run_continues_and_gives_the_same_report(
    here: Path, tiny_mlm: Path, guesses: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tiny_mlm, name="whole")
    fits, guesses[:] = len(guesses), []
    whole = score

    def dies(name: str, *rest: Any) -> dict[str, float]:
        if len(guesses) == 5:
            raise KeyboardInterrupt
        return whole(name, *rest)

    monkeypatch.setattr(glue, "score", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_mlm, name="cut")
    assert len(list(Path(".work").glob("glue-cut-*"))) == 1
    monkeypatch.setattr(glue, "score", whole)
    guesses.clear()
    assert run(tiny_mlm, name="cut") == expected
    assert len(guesses) == fits - 4


@pytest.mark.parametrize("change", [
    {"finetune": FINETUNE | {"epochs": 4}}, {"train_examples": 41}, {"dev_examples": 0}, {"dtype": torch.bfloat16},
])  # fmt: skip
def test_kept_fits_are_not_taken_for_other_settings(
    here: Path, tiny_mlm: Path, guesses: list[Any], monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(glue, "_report", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tiny_mlm)
    guesses.clear()
    run(tiny_mlm, **change)
    assert len(guesses) == 9


def test_changed_data_and_weights_begin_anew(
    here: Path, tiny_mlm: Path, tiny_teacher: Path, guesses: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(glue, "_report", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tiny_mlm)
    guesses.clear()
    run(tiny_teacher)
    assert len(guesses) == 9
    guesses.clear()
    write_task(here / "data" / "glue", "CoLA", learnable("CoLA", 62))
    run(tiny_mlm)
    assert len(guesses) == 9


def test_bad_data_of_the_last_task_are_refused_before_the_first_fit(
    here: Path, tiny_mlm: Path, guesses: list[Any]
) -> None:
    (here / "data" / "glue" / "WNLI" / "dev.tsv").unlink()
    with pytest.raises(DataError, match=r"WNLI/dev.tsv: not found"):
        run(tiny_mlm)
    assert not guesses and not Path("reports").exists()


def test_a_sample_is_the_same_every_time_in_the_order_of_the_file(here: Path) -> None:
    rows = [f"gj04\t{n % 2}\t\tsentence {n}" for n in range(60)]
    write_task(here / "data" / "glue", "CoLA", rows)
    whole = load_task(params(train_examples=0, dev_examples=100), "CoLA")
    assert (len(whole.train), len(whole.dev[""])) == (60, 60)
    data = load_task(params(), "CoLA")
    numbers = [int(text.split()[1]) for text in data.train.first]
    assert numbers == sorted(set(numbers)) and len(numbers) == 40 and numbers != list(range(40))
    assert data.train.label_N.tolist() == [n % 2 for n in numbers]
    assert load_task(params(seeds=[7]), "CoLA").train.first == data.train.first


def test_scores_follow_glues_rule() -> None:
    label_N = np.array([1, 1, 0, 1, 0])
    dev = {"": Examples(first=["x"] * 5, second=["y"] * 5, label_N=label_N)}
    scores_NC = np.eye(2, dtype=np.float32)[[1, 0, 1, 1, 0]]
    found = score("MRPC", {"": answers("MRPC", scores_NC)}, dev)
    assert found == pytest.approx({"f1": 2 / 3, "accuracy": 0.6})
    assert task_score({"metrics": found}) == pytest.approx(100 * (2 / 3 + 0.6) / 2)
    assert score("CoLA", {"": answers("CoLA", scores_NC)}, dev) == pytest.approx({"matthews": 1 / 6})
    values = Examples(first=["x"] * 3, second=["y"] * 3, label_N=np.array([0.0, 2.0, 4.5]))
    value_N = answers("STS-B", np.array([[1.00004], [2.0], [9.0]], np.float32))
    assert value_N.tolist() == [1.0, 2.0, 9.0], "rounded, as the report of a resumed run has them"
    found = score("STS-B", {"": value_N}, {"": values})
    assert found["spearman"] == pytest.approx(1) and 0.9 < found["pearson"] < 1


def test_the_same_examples_from_another_folder_are_the_same(here: Path, tiny_mlm: Path, guesses: list[Any]) -> None:
    first = run(tiny_mlm)
    Path("data/glue").rename("elsewhere")
    again = run(tiny_mlm, data="elsewhere")
    assert again["data"]["identity"] == first["data"]["identity"]
    assert again["average"] == first["average"]


def test_examples_from_the_hub_take_the_same_way(
    here: Path, tiny_mlm: Path, guesses: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(revision: str, name: str) -> Any:
        asked.append((revision, name))
        return glue.read_folder(here / "data" / "glue", name)

    expected = run(tiny_mlm)
    monkeypatch.setattr(glue, "fetch_from_hub", fetch)
    report = run(tiny_mlm, data="hub", revision="a" * 40)
    assert asked == [("a" * 40, name) for name in PARAMS["tasks"]]
    assert report["tasks"] == expected["tasks"] and report["data"]["from"] == "hub"


@pytest.mark.parametrize(("change", "message"), [
    ({"tasks": ["CoLA", "MNLO"]}, r"glue.tasks.1: Input should be 'CoLA'"),
    ({"tasks": ["CoLA", "CoLA"]}, r"tasks: expected each once"),
    ({"tasks": ["WNLI"]}, r"tasks: expected one besides WNLI"),
    ({"seeds": []}, r"glue.seeds: "),
    ({"seeds": [1, 1]}, r"seeds: expected each once"),
    ({"data": "hub"}, r"revision: missing; data: hub needs the commit"),
    ({"data": "hub", "revision": "main"}, r"glue.revision: String should match pattern"),
    ({"finetune": FINETUNE | {"pooling": "max"}}, r"glue.finetune.pooling: Input should be 'cls' or 'mean'"),
    ({"finetune": FINETUNE | {"epoch": 3}}, r"glue.finetune: unknown key 'epoch' \(did you mean 'epochs'\?\)"),
])  # fmt: skip
def test_impossible_params_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        params(**change)
