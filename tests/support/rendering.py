# SPDX-License-Identifier: GPL-2.0-or-later
"""The document of a state, with the media type that Kamailio gives it."""

from __future__ import annotations

from typing import NamedTuple

from kemi_nsq.presence.packages.state import State, Wishes
from tests.support.notify import CONTENT_TYPES


class Document(NamedTuple):
    """A NOTIFY body: its media type and its bytes."""

    content_type: str
    body: bytes


def render(state: State, *, include_target: bool = True, version: int = 1) -> Document:
    """Write the document of a state."""
    body = state.document(Wishes(include_target=include_target), version)
    return Document(content_type=CONTENT_TYPES[state.package], body=body)
