# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts what Kamailio loads and includes into the wheel, beside the code: kemi_nsq/share.

Not by `force-include`, which would copy it for an editable install too, where kamailio/ of the checkout is meant.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ShareHook(BuildHookInterface[Any]):
    """Adds kamailio/ to a wheel that is installed for good."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Take kamailio/ as kemi_nsq/share; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["kamailio"] = "kemi_nsq/share"
