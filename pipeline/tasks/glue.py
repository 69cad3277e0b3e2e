"""GLUE: fine-tune a model on each task with several seeds, and score it on the published dev sets.

A task's score is the mean of its metrics times 100, and `average` the mean of the tasks' scores, as GLUE counts
(Wang et al. 2018). WNLI takes no part in the average: its dev set is built against its training set, so that a constant
answer wins. WiC stands beside GLUE, and takes part only where no task of GLUE does. Every model has the same
hyper-parameters, seeds and examples. A finished fit is kept, so a killed run continues.

Values are means over seeds. Their 95 % intervals are bootstrapped over the dev set's examples and over seeds (Efron
1979; two crossed factors as in Owen 2007, arXiv 0712.1111). The resamples of a dev set depend on its size alone, and
the report keeps the score of each (`resampled`): two models are compared on the same resamples and seeds.
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
from pipeline.evaluate.bootstrap import interval, over_seeds, resample
from pipeline.evaluate.suites import Metric, suite_report
from pipeline.models.identity import model_digest
from pipeline.tasks.agreement import METRICS, spread, whole
from pipeline.tasks.finetune.classifier import finetuned
from pipeline.tasks.finetune.examples import Examples
from pipeline.tasks.glue_data import ALL_TASKS, TaskData, fetch_from_hub, read_folder
from pipeline.tasks.params import LEFT_OUT, GlueParams
from pipeline.tasks.wic.data import fetch_wic, read_wic
from storage.format.manifest import digest
from storage.work import WorkFolder

log = logging.getLogger(__name__)

DECIMALS = 4
"""Of values that are kept of a regression, and of scores on resamples."""
RESAMPLES_SEED = 0
"""The same for all models, which are compared on the same resamples."""


def evaluate_glue(params: GlueParams, *, name: str, model: Path, runtime: Runtime) -> dict[str, Any]:
    """Fine-tune `model` on every task with every seed; returns the report. Finished fits are kept by `name`.

    Raises DataError or SourceError for data that are missing or not as published, before anything is trained, WorkBusy
    when another process evaluates the same model, and what `finetune.finetuned` raises.
    """
    data: dict[str, TaskData] = {task: load_task(params, task) for task in params.tasks}
    settings = params.model_dump(exclude={"data", "revision", "bootstrap"})
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
                    classes=ALL_TASKS[task].outputs,
                    params=params.finetune,
                    seed=seed,
                    runtime=runtime,
                ) as classifier:
                    found = {part: answers(task, classifier.scores(dev)) for part, dev in data[task].dev.items()}
                    losses = classifier.losses
                fit = {
                    "task": task,
                    "seed": seed,
                    "metrics": score(task, found, data[task].dev),
                    "losses": losses,
                    "answers": {part: joined(answer_N) for part, answer_N in found.items()},
                }
                work.append(fit)
                fits[task, seed] = fit
                progress.advance(1)
                log.info("%s, seed %d: %.2f, training loss %.3f", task, seed, task_score(fit), losses[-1])
        report = _report(params, [fits[pair] for pair in wanted], data, model=model)
        report |= {
            "settings": settings | {"bootstrap": params.bootstrap},
            "data": {"from": params.data, "identity": identities},
        }
        work.finish()
    return report


def load_task(params: GlueParams, name: str) -> TaskData:
    """Examples of a task, sampled where the params say so; the sample depends on the task and the counts alone."""
    if name == "WiC":
        hub = params.wic_revision if params.data == "hub" else None
        published = fetch_wic(hub) if hub is not None else read_wic(Path(params.data) / name)
    elif params.data == "hub":
        assert params.revision is not None
        published = fetch_from_hub(params.revision, name)
    else:
        published = read_folder(Path(params.data), name)
    return TaskData(
        train=_sample(published.train, params.train_examples, name, "train"),
        dev={part: _sample(dev, params.dev_examples, name, f"dev {part}") for part, dev in published.dev.items()},
        skipped=published.skipped,
    )


def answers(name: str, score_NC: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a task's scores [N, outputs] say of each example: a class, or a value rounded to `DECIMALS`."""
    found = (
        score_NC.argmax(axis=1) if ALL_TASKS[name].classes else np.round(score_NC[:, 0].astype(np.float64), DECIMALS)
    )
    return found.astype(np.float64)


def joined(value_N: NDArray[Any]) -> str:
    """Values as one text, which takes one line of a report."""
    return " ".join(f"{value:.{DECIMALS}f}".rstrip("0").rstrip(".") for value in value_N.tolist())


def score(name: str, found: Mapping[str, NDArray[np.float64]], dev: Mapping[str, Examples]) -> dict[str, float]:
    """The official metrics of a task, from -1 or 0 to 1, of answers [N] by part of the dev set."""
    task, metrics = ALL_TASKS[name], {}
    for part, answer_N in found.items():
        for metric in task.metrics:
            value = whole(METRICS[metric], answer_N, dev[part].label_N)
            metrics[f"{metric}_{part}" if part else metric] = value
    return metrics


def resampled_scores(
    name: str, found: Mapping[str, NDArray[np.float64]], dev: Mapping[str, Examples], *, resamples: int
) -> NDArray[np.float64]:
    """Scores [R] on resamples of each part of the dev set, of answers [N] by part."""
    scores = []
    for part, answer_N in found.items():
        label_N = dev[part].label_N
        for metric in ALL_TASKS[name].metrics:
            blocks = [
                METRICS[metric](answer_N, label_N, times_RN)
                for times_RN in resample(len(label_N), resamples=resamples, seed=RESAMPLES_SEED)
            ]
            scores.append(np.concatenate(blocks))
    mean_R: NDArray[np.float64] = 100 * np.mean(scores, axis=0)
    return mean_R


def task_score(fit: Mapping[str, Any]) -> float:
    """A fit's score: the mean of its metrics times 100."""
    return 100 * float(np.mean(list(fit["metrics"].values())))


def _report(
    params: GlueParams, fits: Sequence[Mapping[str, Any]], data: Mapping[str, TaskData], *, model: Path
) -> dict[str, Any]:
    averaged = [name for name in params.tasks if name not in LEFT_OUT] or [n for n in params.tasks if n != "WNLI"]
    by_task = {name: {str(fit["seed"]): fit for fit in fits if fit["task"] == name} for name in params.tasks}
    scores = {name: {seed: task_score(fit) for seed, fit in found.items()} for name, found in by_task.items()}
    samples = {
        name: {
            seed: resampled_scores(name, _split(fit["answers"]), data[name].dev, resamples=params.bootstrap)
            for seed, fit in found.items()
        }
        for name, found in by_task.items()
    }
    average = {str(seed): float(np.mean([scores[name][str(seed)] for name in averaged])) for seed in params.seeds}
    average_samples = [np.mean([samples[name][str(seed)] for name in averaged], axis=0) for seed in params.seeds]
    counts = {name: {part or "dev": len(dev) for part, dev in data[name].dev.items()} for name in params.tasks}
    tasks = {
        name: {
            **spread(list(scores[name].values())),
            "seeds": scores[name],
            "metrics": {seed: fit["metrics"] for seed, fit in found.items()},
            "losses": {seed: fit["losses"] for seed, fit in found.items()},
            "examples": {"train": len(data[name].train), **counts[name]},
            "skipped": data[name].skipped,
            "resampled": {seed: joined(sample_R) for seed, sample_R in samples[name].items()},
        }
        for name, found in by_task.items()
    }
    metrics = {
        "average": _metric(list(average.values()), average_samples, n=sum(sum(counts[n].values()) for n in averaged))
    }
    for name in params.tasks:
        metrics[name] = _metric(list(scores[name].values()), list(samples[name].values()), n=sum(counts[name].values()))
    return suite_report(
        "glue",
        model,
        metrics,
        headline="average",
        average={**spread(list(average.values())), "seeds": average, "of": averaged},
        tasks=tasks,
        note=(
            "Values are means over seeds of the mean of a task's metrics times 100, on the published dev sets; "
            "intervals are of these means, over dev examples and seeds. "
            f"{' and '.join(LEFT_OUT)} take no part in the average."
        ),
    )


def _metric(scores: list[float], samples: list[NDArray[np.float64]], *, n: int) -> Metric:
    low, high = interval(over_seeds(np.stack(samples, axis=1), seed=RESAMPLES_SEED))
    return Metric(value=float(np.mean(scores)), low=low, high=high, n=n)


def _split(found: Mapping[str, str]) -> dict[str, NDArray[np.float64]]:
    """Answers by part, of texts that `joined` made."""
    return {part: np.array(text.split(), np.float64) for part, text in found.items()}


def _sample(examples: Examples, count: int, *names: str) -> Examples:
    if not 0 < count < len(examples):
        return examples
    chosen = generator(0, "glue", *names).choice(len(examples), count, replace=False)
    return examples.only(np.sort(chosen).astype(np.int64))


def _identity(data: TaskData) -> str:
    parts = {"train": data.train, **{f"dev {part}": dev for part, dev in data.dev.items()}}
    return digest({part: some.content() for part, some in parts.items()})
