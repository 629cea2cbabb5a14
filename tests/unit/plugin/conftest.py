# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of both faces need."""

from __future__ import annotations

import pytest

from tests.support.settings import wipe_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return an environment without settings, for a test to change."""
    wipe_environment(monkeypatch)
    return monkeypatch
