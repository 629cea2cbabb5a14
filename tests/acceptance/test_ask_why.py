# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/ask-why.md shows what the commands print: each block is compared with what they print here, but for numbers.

Those that `make screens` writes are in test_screens.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chain import CONFIGURATIONS, Chain, Person
from tests.support.markdown import ROOT, examples
from tests.support.until import until

TOOL = str(Path(sys.executable).with_name("kemi-nsq"))
#: What differs each time, and what stands for it.
_NUMBERS = {
    r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d(\.\d+)?": "TIME",
    r"\b[0-9a-f]{16}\b": "ID",
    r"\d+(\.\d+){3}:\d+": "ADDRESS",
    r"consumer \d+": "consumer PID",
}


def plain(text: str) -> str:
    """Return a text with words for what differs each time."""
    for pattern, word in _NUMBERS.items():
        text = re.sub(pattern, word, text)
    return text


def shown(begin: str) -> str:
    """Return the block of the page that begins with a word."""
    (found,) = [
        each.text for each in examples("text") if each.page == ROOT / "docs/ask-why.md" and each.text.startswith(begin)
    ]
    return plain(found)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with Chain("native", tmp_path_factory.mktemp("why")) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        yield chain


def said(chain: Chain, *words: str) -> str:
    command = [TOOL, "presence", *words, "--run-dir", str(chain.kamailio.pages_folder)]
    return plain(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)


def test_the_page_shows_what_set_and_reset_say(chain: Chain) -> None:
    bob = "sip:bob@example.com"
    said(chain, "set", bob, "--state", "confirmed", "--to", "sip:alice@example.com", "--call-id", "4f2a")
    said(chain, "set", bob, "--state", "2/5")
    assert said(chain, "set", bob, "--state", "away") == shown("published")
    chain.drain()
    assert said(chain, "reset", "user", bob) == shown("3 states")


def test_the_page_shows_the_way_of_an_event(chain: Chain) -> None:
    alice = Person(chain=chain, user="alice")
    alice.call("confirmed", Call_ID="4f2a")
    chain.drain()
    said(chain, "log-events", "on")
    alice.call("terminated", Call_ID="4f2a")
    (last,) = until(lambda: chain.log_lines("kemi-nsq: finished: message "), what="the last line")
    said(chain, "log-events", "off")
    message_id = last.partition("finished: message ")[2][:16]
    lines = [f"INFO: {plain(line).partition('INFO: ')[2]}\n" for line in chain.log_lines(message_id)]
    assert "".join(lines) == shown("INFO")


def test_who_does_not_answer_a_notify_is_soon_no_watcher_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this `explain` tells who has answered; here Kamailio waits for 1.5 seconds instead of 30."""
    config = tmp_path / "impatient.cfg"
    config.write_text(f'include_file "{CONFIGURATIONS["native"][0]}"\nmodparam("tm", "fr_timer", 1500)\n')
    with Chain("native", tmp_path, config=config) as chain:
        alice = Person(chain=chain)
        with chain.watcher() as answers, chain.watcher() as mute:
            lamp, other = answers.subscribe(alice.uri, "dialog"), mute.subscribe(alice.uri, "dialog")
            for each in (lamp, other):
                each.wait(lambda notify: True, what="the first NOTIFY")
            assert said(chain, "watchers", alice.uri).count("sip:watcher@example.com") == 2
            monkeypatch.setattr(mute._endpoint, "_receive_request", lambda _request, _source: None)
            alice.call("early")
            until(
                lambda: said(chain, "watchers", alice.uri).count("sip:watcher@example.com") == 1,
                timeout_s=20,
                what="the mute one to go",
            )
            lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="the lamp of who answers")
        assert chain.counter("notify_unanswered") == 1
