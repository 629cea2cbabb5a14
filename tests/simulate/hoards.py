# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process still holds in memory when there is nothing left to do: of each message that came, nothing."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sized
from enum import Enum
from types import ModuleType

#: Things of which there are as many as settings, topics, counters.
MOST = 100


def hoards(root: object) -> list[str]:
    """Name the containers of the package's objects that hold more than `MOST` things.

    Those that forget are left out: an `OrderedDict` (`memory.remember`), and a deque with a longest length.

    Args:
        root: the object from which all others are reached.
    """
    return [
        f"{path} holds {len(found)} things"
        for path, found in _containers(root)
        if len(found) > MOST and not _forgets(found)
    ]


def _forgets(found: Sized) -> bool:
    return isinstance(found, OrderedDict) or (isinstance(found, deque) and found.maxlen is not None)


def _containers(root: object) -> Iterator[tuple[str, Sized]]:
    seen: set[int] = set()
    queue: deque[tuple[str, object]] = deque([(type(root).__name__, root)])
    while queue:
        path, value = queue.popleft()
        if id(value) in seen or isinstance(value, str | bytes | int | float | Enum | ModuleType | type):
            continue
        seen.add(id(value))
        if isinstance(value, dict | list | set | deque | Counter):
            yield path, value
            children = value.values() if isinstance(value, dict) else value
            queue.extend((f"{path}[]", each) for each in list(children))
        elif value is root or type(value).__module__.startswith("kemi_nsq") or isinstance(value, tuple):
            queue.extend((f"{path}.{name}", each) for name, each in _attributes(value))


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, tuple):
        yield from ((str(place), each) for place, each in enumerate(value))
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        yield from ((name, getattr(value, name)) for name in slots if hasattr(value, name))
