# SPDX-License-Identifier: GPL-2.0-or-later
"""The outbox in a real Kamailio: kept while nsqd is away, shown, sent once when it is back; and a file that goes."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kemi_nsq.monitoring.health import Health
from kemi_nsq.monitoring.status import look
from kemi_nsq.names import Subscription, address
from kemi_nsq.runtime.page import CONSUMER
from kemi_nsq.tools import cli
from kemi_nsq.tools.reader import Reader
from tests.support.calls import Caller, calls_chain, result
from tests.support.chain import Chain, Person
from tests.support.database import create_database, rows
from tests.support.kamailio import quoted
from tests.support.until import until

MESSAGES = 20


@pytest.fixture(scope="module")
def chain(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp(kind)
    with calls_chain(kind, folder, TEST_CHILDREN=4, NSQ_OUTBOX=quoted(folder / "outbox.db")) as chain:
        yield chain


@pytest.fixture
def caller(chain: Chain) -> Iterator[Caller]:
    with Caller(chain.kamailio.sip_target) as caller:
        yield caller


def outbox_of(chain: Chain) -> str:
    """Return what `kemi-nsq status` says of the outbox."""
    found = look(chain.kamailio.pages_folder, time.time())
    (said,) = [each.outbox for each in found.processes if each.role == CONSUMER]
    return said


def publish_without_nsqd(chain: Chain, caller: Caller, topic: str) -> None:
    """Publish while nsqd is away, and see that all is shown as kept."""
    chain.nsqd.stop()
    calls = [caller.call("nsq_publish", f'{topic} {{"n":{n}}}') for n in range(MESSAGES)]
    assert [result(call.wait())[0] for call in calls] == [2] * MESSAGES
    until(lambda: outbox_of(chain).startswith(f"{MESSAGES} messages ("), what="the depth")


def back(chain: Chain) -> None:
    """Start nsqd again and wait until the outbox is empty and the consumer is there."""
    chain.nsqd.start()
    until(lambda: chain.nsqd.channel("kamailio", "kamailio").clients, timeout_s=20, what="the consumer")
    until(lambda: not outbox_of(chain), timeout_s=20, what="an empty outbox")


def bodies(chain: Chain, topic: str, count: int) -> list[object]:
    assert chain.nsqd.topic(topic)["message_count"] == count
    with closing(Reader(address(chain.nsqd.tcp_address), Subscription(topic, "test"))) as reader:
        return [json.loads(reader.next_message(10).body) for _ in range(count)]


def test_what_is_published_while_nsqd_is_away_is_kept_shown_and_sent_once(chain: Chain, caller: Caller) -> None:
    publish_without_nsqd(chain, caller, "away")
    shown = CliRunner().invoke(cli.app, ["status", "--run-dir", str(chain.kamailio.pages_folder)])
    assert shown.exit_code == 2, "nsqd is away"
    assert f"the outbox holds {MESSAGES} messages (" in shown.output
    assert "no nsqd took its oldest message" in " ".join(shown.output.split())
    back(chain)
    assert sorted(str(each) for each in bodies(chain, "away", MESSAGES)) == sorted(
        str({"n": n}) for n in range(MESSAGES)
    )
    assert chain.counter("outbox_kept") == chain.counter("outbox_sent") == MESSAGES
    lines = chain.log_lines(r"the outbox .* (holds|is empty)")
    assert ["holds" in line for line in lines] == [True, False]


def test_nobody_else_can_read_it(chain: Chain) -> None:
    files = list(chain.folder.glob("outbox.db*"))
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_that_is_deleted_is_made_anew_by_all(chain: Chain, caller: Caller) -> None:
    (chain.folder / "outbox.db").unlink()
    publish_without_nsqd(chain, caller, "deleted")
    back(chain)
    assert len({str(each) for each in bodies(chain, "deleted", MESSAGES)}) == MESSAGES
    assert len(chain.log_lines("the outbox .* was deleted or replaced while it was open")) == 1


def test_a_presentity_database_that_is_replaced_is_told_and_the_new_one_is_used(tmp_path: Path) -> None:
    """Kamailio's own modules keep the old one, so lamps are right again after a restart, and not before."""
    with Chain("native", tmp_path) as chain:
        person = Person(chain=chain)
        person.call("early")
        until(lambda: rows(chain.database, "dialog"), what="a row")
        os.replace(create_database(tmp_path / "new.db"), chain.database)
        person.call("confirmed")
        until(lambda: [row for row in rows(chain.database) if "confirmed" in str(row["body"])], what="a row in the new")
        found = look(chain.kamailio.pages_folder, time.time())
        assert [each.facts["database_file"] for each in found.processes if each.role == CONSUMER]
        assert found.health is Health.CRITICAL
        # Kamailio's own modules may say something of the file that they still have, and we, if it was just in use.
        assert len(chain.log_lines("was deleted or replaced: what is at its path now is used here")) == 1
        chain.kamailio.stop()
        chain.kamailio.start()
        with chain.watcher() as watcher:
            watcher.subscribe(person.uri, "dialog").wait(lambda notify: b"confirmed" in notify.body, what="the state")
