"""Publish a student, an adapter or a store on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.hub.push import package, push
from stages.command import PATH, path_option, stage
from storage.share.inspect import size


@click.command()
@click.argument("folder", type=PATH)
@click.argument("repo")
@click.option("--create", is_flag=True, help="Make the repository where there is none.")
@click.option("--private", is_flag=True, help="With --create: nobody else sees it.")
@click.option("--licence", help="The licence, where the sources state none or you decide another; else theirs.")
@click.option("--dry-run", is_flag=True, help="Show files, sizes and card, and send nothing; needs no token.")
@path_option("--data", "Where the stores lie that a student learned from.", required=False, default=Path("data"))
@path_option("--reports", "Where its evaluations lie.", required=False, default=Path("reports"))
@stage
def main(
    folder: Path,
    repo: str,
    create: bool,
    private: bool,
    licence: str | None,
    dry_run: bool,
    data: Path,
    reports: Path,
) -> None:
    """Put the model, adapter or store in FOLDER into the repository REPO (owner/name), with its card."""
    given = package(folder, repo, data=data, reports=reports, licence=licence)
    if not dry_run:
        click.echo(push(given, create=create, private=private))
        return
    sizes = given.sizes()
    for name, count in sizes.items():
        click.echo(f"{size(count):>9}  {name}")
    click.echo(f"{size(sum(sizes.values())):>9}  in {len(sizes)} files, to the {given.repo_type} {repo}. Its card:\n")
    click.echo(given.card)


if __name__ == "__main__":
    main()
