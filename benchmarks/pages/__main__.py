"""Fill the marked tables of README.md and docs/ from reports/, or say which are stale.

    python -m benchmarks.pages            # fill
    python -m benchmarks.pages --check    # exit code 1 when a page differs from its report

A table stands between `<!-- filled: NAME -->` and `<!-- end -->`; NAME is a key of TABLES.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.pages import families, gallery, lexical, several_teachers, speed, store, students
from benchmarks.pages.markdown import Reports

TABLES: dict[str, Callable[[Reports], str]] = {
    **students.TABLES, **several_teachers.TABLES, **store.TABLES, **lexical.TABLES, **speed.TABLES, **families.TABLES,
    **gallery.TABLES,
}  # fmt: skip

BLOCK = re.compile(r"(<!-- filled: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, reports: Reports) -> str:
    """The page with every marked table made anew; refuses a name that is no table."""

    def block(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise click.ClickException(f"no table '{found[2]}'. Known: {', '.join(TABLES)}")
        return f"{found[1]}{TABLES[found[2]](reports)}\n{found[3]}"

    return BLOCK.sub(block, text)


def pages(root: Path) -> list[Path]:
    """The README, and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


@click.command()
@click.option("--root", type=click.Path(exists=True, path_type=Path), default=Path(), help="The checkout.")
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 when a page is stale.")
def main(root: Path, check: bool) -> None:
    """Fill the marked tables of README.md and docs/ from reports/."""
    reports = Reports(root / "reports")
    stale = []
    for path in pages(root):
        text = path.read_text(encoding="utf-8")
        if (new := filled(text, reports)) != text:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        click.echo(f"{path}: {'stale. Run: python -m benchmarks.pages' if check else 'filled'}")
    sys.exit(check and bool(stale))


if __name__ == "__main__":
    main()
