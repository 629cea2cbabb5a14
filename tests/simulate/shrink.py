# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a scenario that fails as short as it can, and writes it as a test."""

from __future__ import annotations

from pathlib import Path

from tests.simulate.steps import Scenario, Step
from tests.simulate.truth import run


def shrunk(failing: Scenario, folder: Path) -> str:
    """Return the text of a test that fails as a scenario does, with as few steps as can be found."""
    steps = list(failing.steps)
    size = max(1, len(steps) // 2)
    while size:
        start, shorter = 0, False
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            if _fails(failing, fewer, folder):
                steps, shorter = fewer, True
            else:
                start += size
        if not shorter or size > 1:
            size //= 2
    found = failing._replace(steps=steps)
    for consumers in range(1, found.consumers):
        if _fails(found._replace(consumers=consumers), steps, folder):
            found = found._replace(consumers=consumers)
            break
    problems, lines = run(found, folder)
    return "\n".join((*map(str, problems), *(f"    {line}" for line in lines), _written(found)))


def _fails(scenario: Scenario, steps: list[Step], folder: Path) -> bool:
    return bool(run(scenario._replace(steps=steps), folder)[0])


def _written(found: Scenario) -> str:
    head = f"Scenario(seed={found.seed}, consumers={found.consumers}, clocks={found.clocks}, "
    head += f"settings={found.settings}, steps=["
    return "\n".join((head, *(f"    {step}," for step in found.steps), "])"))
