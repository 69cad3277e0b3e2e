"""Compare students on calibration text, by which settings are chosen; held-out text is for the result alone."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.core.config import section
from pipeline.core.runtime import apply
from pipeline.evaluate.bootstrap import paired_differences
from pipeline.evaluate.heldout import open_heldout
from pipeline.evaluate.language_model import student_means
from pipeline.evaluate.params import EvaluateParams
from pipeline.text.corpus_view import MaskedCorpus
from stages.command import PATH, params_option, path_option, runtime_params, stage


@click.command()
@click.argument("models", nargs=-1, required=True, type=PATH)
@path_option("--data", "Folder of the stores.", required=False, default=Path("data"), show_default=True)
@params_option
@stage
def main(models: tuple[Path, ...], data: Path, params_file: Path) -> None:
    """Print the NLL of student folders MODELS on the calibration split, lowest first.

    Choose learning rates and loss weights by it, and keep the held-out split for the result. Differences from the
    lowest are paired by document, with 95 % intervals.
    """
    params = section(params_file, "evaluate", EvaluateParams)
    runtime = apply(runtime_params(params_file))
    calibration = open_heldout(MaskedCorpus.open(data / "documents", data / "sequences", data / "masks"), "calibration")
    means = {str(model): student_means(calibration, model=model, runtime=runtime) for model in models}
    ranked = sorted(means, key=lambda name: means[name].values()["nll"])
    differences = paired_differences(means, resamples=params.bootstrap, seed=params.seed)
    click.echo(f"{len(calibration.masked)} masked positions in {len(calibration.row_D)} calibration documents")
    click.echo("  NLL    minus the lowest           accuracy  student")
    for name in ranked:
        score, above = means[name].values(), " " * 25
        if name != ranked[0]:
            found = differences[name, ranked[0]]
            above = f"{found['nll']:+.4f} [{found['nll_low']:+.4f}, {found['nll_high']:+.4f}]"
        click.echo(f"{score['nll']:.4f}  {above}  {score['accuracy']:.3f}     {name}")


if __name__ == "__main__":
    main()
