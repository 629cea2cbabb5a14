# SPDX-License-Identifier: GPL-2.0-or-later
"""What is looked at in a scene, and on which page it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.screens.scene import Scene, scene
from tests.screens.steady import Steady
from tests.support.chain import TOPIC
from tests.support.markdown import ROOT, with_block
from tests.support.tour import ALICE

SEE, WHY, LETTERS = (ROOT / "docs" / name for name in ("see.md", "ask-why.md", "dead-letters.md"))


class Shot(NamedTuple):
    """A screen.

    Attributes:
        page: where it stands.
        name: what its place there is called.
        text: what it shows.
    """

    page: Path
    name: str
    text: str


def taken() -> list[Shot]:
    """Run the scene, and return its screens, each as it would be seen each time."""
    with scene() as shown:
        shots = list(_take(shown))
        steady = Steady(shown.began_s, shown.begun, shown.names(), list(shown.kamailio.pids()))
    return [shot._replace(text=steady.screen(shot.text)) for shot in shots]


def pages(shots: list[Shot]) -> dict[Path, str]:
    """Return the pages with these screens in their places.

    Raises:
        ValueError: a page has no place for one.
    """
    written = {page: page.read_text(encoding="utf-8") for page in {shot.page for shot in shots}}
    for shot in shots:
        block = f"```text\n{shot.text}\n```"
        written[shot.page] = with_block(written[shot.page], f"screen {shot.name}", block)
    return written


def _take(shown: Scene) -> Iterator[Shot]:
    shown.happen()
    yield Shot(WHY, "explain", shown.run(f"presence explain {ALICE} --event dialog"))
    yield Shot(WHY, "watchers", shown.run(f"presence watchers {ALICE}"))
    yield Shot(WHY, "list", shown.run("presence list --all"))
    yield Shot(WHY, "watch", shown.live("presence watch", r"\b3 states  Ctrl-C ends"))
    shown.bury()
    yield Shot(LETTERS, "list", shown.run("dead-letters list"))
    yield Shot(LETTERS, "show", shown.run(f"dead-letters show {shown.bad_id}"))
    yield Shot(LETTERS, "rehearse", shown.run(f"dead-letters replay {shown.bad_id} --dry-run"))
    yield Shot(LETTERS, "drop", shown.run(f"dead-letters drop {shown.bad_id}"))
    tail = shown.begin(f"tail {TOPIC} --count 1")
    shown.say()
    yield Shot(LETTERS, "tail", shown.end(tail))
    shown.handle()
    yield Shot(SEE, "pause", shown.run(f"pause {TOPIC}"))
    shown.wait_in_nsqd()
    yield Shot(SEE, "status", shown.run("status"))
    yield Shot(SEE, "resume", shown.run("resume"))
    shown.handle()
    yield Shot(SEE, "drain", shown.run("drain"))
