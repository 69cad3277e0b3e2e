"""GLUE: fine-tune a model on each task with several seeds, and score it on the published dev sets.

A task's score is the mean of its metrics times 100, and `average` the mean of the tasks' scores, as GLUE counts
(Wang et al. 2018). WNLI takes no part in the average: its dev set is built against its training set, so that a constant
answer wins. Every model has the same hyper-parameters, seeds and examples. A finished fit is kept, so a killed run
continues.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.progress import Progress
from pipeline.core.runtime import Runtime
from pipeline.core.seeds import generator
from pipeline.evaluate.suites import Metric, suite_report
from pipeline.models.identity import model_digest
from pipeline.tasks import agreement
from pipeline.tasks.agreement import mean_interval, spread
from pipeline.tasks.finetune import Examples, finetuned
from pipeline.tasks.glue_data import TASKS, TaskData, fetch_from_hub, read_folder
from pipeline.tasks.params import LEFT_OUT, GlueParams
from storage.format.manifest import digest
from storage.work import WorkFolder

log = logging.getLogger(__name__)


def evaluate_glue(params: GlueParams, *, name: str, model: Path, runtime: Runtime) -> dict[str, Any]:
    """Fine-tune `model` on every task with every seed; returns the report. Finished fits are kept by `name`.

    Raises DataError or SourceError for data that are missing or not as published, before anything is trained, WorkBusy
    when another process evaluates the same model, and what `finetune.finetuned` raises.
    """
    data: dict[str, TaskData] = {task: load_task(params, task) for task in params.tasks}
    settings = params.model_dump(exclude={"data", "revision"})
    identities = {task: _identity(found) for task, found in data.items()}
    identity = digest(
        {"settings": settings, "data": identities, "model": model_digest(model), "dtype": str(runtime.dtype)}
    )
    with WorkFolder(Path(f"glue {name}"), name=f"glue-{name}", identity=identity, workspace=runtime.workspace) as work:
        fits = {(fit["task"], fit["seed"]): fit for fit in work.entries()}
        wanted = [(task, seed) for task in params.tasks for seed in params.seeds]
        with Progress(len(wanted), unit="fits", label="glue", done=len(fits)) as progress:
            for task, seed in [pair for pair in wanted if pair not in fits]:
                with finetuned(
                    model,
                    data[task].train,
                    classes=TASKS[task].outputs,
                    params=params.finetune,
                    seed=seed,
                    runtime=runtime,
                ) as classifier:
                    found = {part: classifier.scores(dev) for part, dev in data[task].dev.items()}
                    losses = classifier.losses
                fit = {"task": task, "seed": seed, "metrics": score(task, found, data[task].dev), "losses": losses}
                work.append(fit)
                fits[task, seed] = fit
                progress.advance(1)
                log.info("%s, seed %d: %.2f, training loss %.3f", task, seed, task_score(fit), losses[-1])
        report = _report(params, [fits[pair] for pair in wanted], data, model=model)
        report |= {"settings": settings, "data": {"from": params.data, "identity": identities}}
        work.finish()
    return report


def load_task(params: GlueParams, name: str) -> TaskData:
    """Examples of a task, sampled where the params say so; the sample depends on the task and the counts alone."""
    if params.data == "hub":
        assert params.revision is not None
        whole = fetch_from_hub(params.revision, name)
    else:
        whole = read_folder(Path(params.data), name)
    return TaskData(
        train=_sample(whole.train, params.train_examples, name, "train"),
        dev={part: _sample(dev, params.dev_examples, name, f"dev {part}") for part, dev in whole.dev.items()},
        skipped=whole.skipped,
    )


def score(name: str, scores: Mapping[str, NDArray[np.float32]], dev: Mapping[str, Examples]) -> dict[str, float]:
    """The official metrics of a task, from -1 or 0 to 1; `scores` are [N, outputs] by part of the dev set."""
    task, found = TASKS[name], {}
    for part, score_NC in scores.items():
        answer_N = score_NC.argmax(axis=1) if task.classes else score_NC[:, 0]
        for metric in task.metrics:
            value: float = getattr(agreement, metric)(answer_N, dev[part].label_N)
            found[f"{metric}_{part}" if part else metric] = value
    return found


def task_score(fit: Mapping[str, Any]) -> float:
    """A fit's score: the mean of its metrics times 100."""
    return 100 * float(np.mean(list(fit["metrics"].values())))


def _report(
    params: GlueParams, fits: Sequence[Mapping[str, Any]], data: Mapping[str, TaskData], *, model: Path
) -> dict[str, Any]:
    averaged = [name for name in params.tasks if name != LEFT_OUT]
    by_task = {name: {str(fit["seed"]): fit for fit in fits if fit["task"] == name} for name in params.tasks}
    scores = {name: {seed: task_score(fit) for seed, fit in found.items()} for name, found in by_task.items()}
    average = {str(seed): float(np.mean([scores[name][str(seed)] for name in averaged])) for seed in params.seeds}
    counts = {name: {part or "dev": len(dev) for part, dev in data[name].dev.items()} for name in params.tasks}
    tasks = {
        name: {
            **spread(list(scores[name].values())),
            "seeds": scores[name],
            "metrics": {seed: fit["metrics"] for seed, fit in found.items()},
            "losses": {seed: fit["losses"] for seed, fit in found.items()},
            "examples": {"train": len(data[name].train), **counts[name]},
            "skipped": data[name].skipped,
        }
        for name, found in by_task.items()
    }
    metrics = {"average": _metric(list(average.values()), n=len(average))}
    for name in params.tasks:
        metrics[name] = _metric(list(scores[name].values()), n=sum(counts[name].values()))
    return suite_report(
        "glue",
        model,
        metrics,
        headline="average",
        average={**spread(list(average.values())), "seeds": average, "of": averaged},
        tasks=tasks,
        note=(
            "Values are medians over seeds of the mean of a task's metrics times 100, on the published dev sets; "
            f"intervals are of the mean over seeds. {LEFT_OUT} takes no part in the average."
        ),
    )


def _metric(scores: list[float], *, n: int) -> Metric:
    low, high = mean_interval(scores) or (None, None)
    return Metric(value=float(np.median(scores)), low=low, high=high, n=n)


def _sample(examples: Examples, count: int, *names: str) -> Examples:
    if not 0 < count < len(examples):
        return examples
    chosen = generator(0, "glue", *names).choice(len(examples), count, replace=False)
    return examples.only(np.sort(chosen).astype(np.int64))


def _identity(data: TaskData) -> str:
    parts = {"train": data.train, **{f"dev {part}": dev for part, dev in data.dev.items()}}
    return digest({part: [some.first, some.second, some.label_N.tolist()] for part, some in parts.items()})
