# SPDX-License-Identifier: GPL-2.0-or-later
"""Event handlers without a script: they are given, and stay."""

from __future__ import annotations

from kemi_nsq.consumer.routes import Handler
from kemi_nsq.errors import UsageError
from kemi_nsq.jsontext import JsonObject, JsonValue


class GivenHandlers:
    """A `consumer.console.Reloadable` that has no file.

    Args:
        handlers: by route name.
    """

    def __init__(self, handlers: dict[str, Handler] | None = None) -> None:
        self.handlers = handlers or {}

    def describe(self) -> dict[str, JsonValue]:
        """Describe them."""
        return {"file": "", "version": "", "loaded": 0.0, "handlers": [*self.handlers]}

    def reload(self, _arguments: JsonObject) -> JsonValue:
        """Refuse."""
        raise UsageError("there is no script")
