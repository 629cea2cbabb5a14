# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings for tests, whatever the environment holds."""

from __future__ import annotations

import os

import pytest

from kemi_nsq.loading import load
from kemi_nsq.settings import PREFIX, Settings


def settings(**values: str) -> Settings:
    """Return the defaults with some settings changed: `settings(max_attempts="3")`."""
    with pytest.MonkeyPatch.context() as patch:
        wipe_environment(patch)
        return load({PREFIX + name.upper(): value for name, value in values.items()})


def wipe_environment(patch: pytest.MonkeyPatch) -> None:
    """Remove every NSQ_ variable of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith(PREFIX):
            patch.delenv(name)
