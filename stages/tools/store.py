"""Look at stores, check them, and hand them on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stages.command import PATH, path_option, stage
from storage.errors import StoreError, StoreMissing
from storage.format.manifest import Manifest
from storage.format.manifest_parse import read_manifest
from storage.share.inspect import (
    SHORT_IDENTITY,
    describe,
    differences,
    plain,
    size,
    split_bytes,
    stale_parents,
    stores_under,
)

out_option = path_option("--out", "Store to write; nothing may be there yet.")


@click.group()
def main() -> None:
    """Look at stores, check them, and hand them on."""


@main.command()
@click.argument("store", type=PATH)
@stage
def info(store: Path) -> None:
    """Say what the store at STORE is, from its manifest alone."""
    for line in describe(_manifest(store)):
        click.echo(line)


@main.command()
@click.argument("folder", type=PATH, default=Path("data"))
@stage
def ls(folder: Path) -> None:
    """List the stores under FOLDER, and whether they were made from the parents that lie beside them."""
    stores = stores_under(folder)
    for store, manifest in stores.items():
        if isinstance(manifest, StoreError):
            click.echo(f"{store}  unreadable: {plain(str(manifest))}")
            continue
        rows = sum(plan.rows for plan in manifest.splits.values())
        click.echo(
            f"{store}  {manifest.kind} {manifest.identity[:SHORT_IDENTITY]}  {rows} rows, "
            f"{size(sum(split_bytes(manifest).values()))}  {_kinship(*stale_parents(store, stores))}"
        )
    if not stores:
        click.echo(f"{folder}: no stores")


def _kinship(stale: list[str], absent: list[str]) -> str:
    if stale:
        return f"STALE: made from another {', '.join(stale)}"
    return f"parents not here: {', '.join(absent)}" if absent else "fits"


@main.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@stage
def diff(first: Path, second: Path) -> None:
    """Say in what two stores differ; exit code 0 when they hold the same, 1 otherwise."""
    found = differences(_manifest(first), _manifest(second))
    for line in found:
        click.echo(line)
    if found:
        sys.exit(1)
    click.echo("the same")


@main.command()
@click.argument("store", type=PATH)
@stage
def verify(store: Path) -> None:
    """Read everything the store at STORE holds; exit code 1 and one line a finding when something is wrong."""
    from storage.share.audit import audit

    _require_no_archive(store)
    found = audit(store)
    for finding in found:
        click.echo(str(finding))
    if found:
        sys.exit(1)
    manifest = read_manifest(store)
    files = len(manifest.files) + sum(len(shard.files) for shard in manifest.shards)
    click.echo(
        f"{store}: sound, {sum(plan.rows for plan in manifest.splits.values())} rows of {manifest.kind} "
        f"in {len(manifest.shards)} shards, {files} files"
    )


@main.command()
@click.argument("store", type=PATH)
@click.argument("out", type=PATH)
@click.option("--parquet", is_flag=True, help="A folder of Parquet files instead of an archive of the store.")
@stage
def export(store: Path, out: Path, parquet: bool) -> None:
    """Write the store at STORE to OUT, as one archive for `import` or as a data set for other tools."""
    _require_no_archive(store)
    if parquet:
        from storage.share.parquet import to_parquet

        to_parquet(store, out)
    else:
        from storage.share.archive import pack

        pack(store, out)
    click.echo(f"{out}: written")


@main.command()
@click.argument("store", type=PATH)
@stage
def keep(store: Path) -> None:
    """Keep the teacher's store at STORE aside, so that `dvc repro` extends it by what is new instead of asking all."""
    from pipeline.teach.extend import keep

    click.echo(f"{keep(store)}: kept, for the next run of its teacher")


@main.command("import")
@click.argument("archive", type=PATH)
@out_option
@stage
def import_archive(archive: Path, out: Path) -> None:
    """Unpack ARCHIVE, made by `export`, once everything in it is checked."""
    from storage.share.archive import unpack

    _say_what_came(unpack(archive, out), out)


@main.command()
@click.argument("url")
@out_option
@stage
def fetch(url: str, out: Path) -> None:
    """Copy the store at URL to a folder, checked file by file."""
    from storage.share.remote import fetch

    fetch(url, out)
    _say_what_came(read_manifest(out), out)


@main.command()
@click.argument("store", type=PATH)
@click.argument("url")
@click.option("--replace", is_flag=True, help="Take away another store that is there.")
@stage
def put(store: Path, url: str, replace: bool) -> None:
    """Upload the store at STORE to URL, such as s3://bucket/name; run again, it continues."""
    from storage.share.remote import put

    click.echo(f"{url}: {put(store, url, replace=replace)} files sent")


def _manifest(store: Path) -> Manifest:
    _require_no_archive(store)
    return read_manifest(store)


def _require_no_archive(store: Path) -> None:
    """Say what to do with an archive: it is checked as it is unpacked, and then is a store like any other."""
    if store.is_file():
        raise StoreMissing(
            f"{store}: a file, and a store is a folder. If it is an archive, run: "
            f"cohesive store import {store} --out FOLDER"
        )


def _say_what_came(manifest: Manifest, out: Path) -> None:
    click.echo(f"{out}: {manifest.kind} {manifest.identity[:SHORT_IDENTITY]}, its files as they were sealed")


if __name__ == "__main__":
    main()
