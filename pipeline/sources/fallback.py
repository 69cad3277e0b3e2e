"""Try one way after another to get a thing, and tell everything that was tried when none works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from storage.errors import SourceError

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Route(Generic[T]):
    """One way; `obtain` raises SourceError when it leads nowhere."""

    name: str
    """Short, for records: "local", "hub", "mirror"."""
    what: str
    """For people: "the model hub (owner/name at 0123abcd)"."""
    obtain: Callable[[], T]


def first_that_works(subject: str, routes: Sequence[Route[T]], *, by_hand: str) -> tuple[Route[T], T]:
    """The first route that works, and what it gave.

    Raises SourceError that lists every route with its reason and ends with `by_hand`, what a person can do.
    """
    tried = []
    for number, route in enumerate(routes, start=1):
        try:
            found = route.obtain()
        except SourceError as error:
            reason = str(error).rstrip(".")
            log.info("%s: not from %s: %s", subject, route.what, reason)
            tried.append(f"({number}) {route.what}: {reason}")
        else:
            log.info("%s: from %s", subject, route.what)
            return route, found
    raise SourceError(f"{subject}: could not be obtained. Tried {'; '.join(tried)}. By hand: {by_hand}")
