"""Try several routes to a source in order, and list all of them with their reasons when none works."""

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
    """One route; `obtain` raises SourceError when it fails."""

    name: str
    """Short, for records: "local", "hub", "mirror"."""
    what: str
    """For messages: "the model hub (owner/name at 0123abcd)"."""
    obtain: Callable[[], T]


def first_that_works(subject: str, routes: Sequence[Route[T]], *, by_hand: str) -> tuple[Route[T], T]:
    """The first route that works, and its result.

    Raises SourceError that lists every route with its reason and ends with `by_hand`, the manual way.
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
