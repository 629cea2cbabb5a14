# SPDX-License-Identifier: GPL-2.0-or-later
"""The real parts that other tests stand on, each tried against the real servers."""

from __future__ import annotations

import http.client
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.database import create_database, rows
from tests.support.documents import MessageCounts
from tests.support.kamailio import Kamailio, quoted
from tests.support.notify import CONTENT_TYPES
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.process import find_program, is_running
from tests.support.subscription import SubscribeRefused, Subscription
from tests.support.until import until
from tests.support.watcher import Watcher

PRESENCE_SERVER = Path(__file__).parents[1] / "support/presence_server.cfg"

DIALOG = """<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="0" state="full"
 entity="sip:{user}@example.com">
<dialog id="d1" call-id="c1@pbx" direction="recipient"><state>{state}</state>
<local><identity>sip:{user}@example.com</identity></local>
<remote><identity display="Bob &amp; Co">sip:bob@example.com</identity><target uri="sip:bob@192.0.2.1"/></remote>
</dialog></dialog-info>"""

PIDF = """<presence xmlns="urn:ietf:params:xml:ns:pidf" xmlns:dm="urn:ietf:params:xml:ns:pidf:data-model"
 xmlns:rpid="urn:ietf:params:xml:ns:pidf:rpid" entity="sip:{user}@example.com">
<tuple id="t1"><status><basic>open</basic></status></tuple>
<dm:person id="p1"><rpid:activities><rpid:on-the-phone/></rpid:activities><dm:note>On the phone</dm:note></dm:person>
</presence>"""

SUMMARY = "Messages-Waiting: yes\r\nMessage-Account: sip:{user}@example.com\r\nVoice-Message: 2/8 (1/0)\r\n"


class PresenceServer(NamedTuple):
    """A running Kamailio and its database."""

    kamailio: Kamailio
    database: Path

    def store(self, user: str, event: str, body: str) -> None:
        """Write a presentity row as another program would, and let Kamailio notify the watchers."""
        now = int(time.time())
        row = (user, "example.com", event, "etag", now + 600, now, body.format(user=user).encode(), "")
        with closing(sqlite3.connect(self.database, timeout=5)) as database, database:
            database.execute(
                "REPLACE INTO presentity (username, domain, event, etag, expires, received_time, body, sender)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        self.refresh(user, event)

    def refresh(self, user: str, event: str) -> None:
        """Let Kamailio notify the watchers again."""
        self.kamailio.rpc("presence.refreshWatchers", f"sip:{user}@example.com", event, 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PresenceServer]:
    folder = tmp_path_factory.mktemp("presence")
    database = create_database(folder / "kamailio.db")
    with Kamailio(PRESENCE_SERVER, folder, defines={"DB_URL": quoted(f"sqlite:///{database}")}) as kamailio:
        yield PresenceServer(kamailio, database)
        assert kamailio.alive()
    assert "ERROR" not in kamailio.log_text()


def versions(subscription: Subscription) -> list[int]:
    return [notify.dialog_info.version for notify in subscription.notifies]


# --- until


def test_until_returns_the_first_true_value() -> None:
    looks = iter([0, "", None, 7, 8])
    assert until(lambda: next(looks)) == 7
    assert next(looks) == 8


def test_until_says_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"^waited 0\.05 s for three lamps: the last value was \[\]$"):
        until(list[str], timeout_s=0.05, what="three lamps")


def test_until_names_the_last_exception_and_keeps_it_as_the_cause() -> None:
    with pytest.raises(AssertionError, match="a lamp: the last look raised KeyError: 'lamp'") as caught:
        until(lambda: dict[str, str]()["lamp"], timeout_s=0.05, what="a lamp")
    assert isinstance(caught.value.__cause__, KeyError)


# --- nsqd and nsqlookupd


def test_a_missing_server_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match=r"no nsqd-of-nobody on PATH .* run `make setup`"):
        find_program("nsqd-of-nobody")


def test_nsqd_counts_what_was_published(tmp_path: Path) -> None:
    with Nsqd(tmp_path) as nsqd:
        nsqd.create_topic("events")
        nsqd.create_channel("events", "kamailio")
        nsqd.publish("events", b'{"n":1}')
        nsqd.publish_many("events", [b"\0\n\xff", b'{"n":3}'])
        until(lambda: nsqd.channel("events", "kamailio").depth == 3, what="three messages in the channel")
        assert nsqd.topic("events")["message_bytes"] == len(b'{"n":1}\0\n\xff{"n":3}')
        assert not nsqd.channel("events", "kamailio").drained
        with pytest.raises(LookupError, match="no channel other of topic events"):
            nsqd.channel("events", "other")


def test_nsqd_keeps_ports_and_messages_over_a_restart(tmp_path: Path) -> None:
    with Nsqd(tmp_path, mem_queue_size=100) as nsqd:
        before = (nsqd.tcp_port, nsqd.http_port)
        nsqd.create_topic("events")
        nsqd.create_channel("events", "kamailio")
        nsqd.publish_many("events", [b"1", b"2"])
        nsqd.stop()
        with pytest.raises(OSError, match="refused"):
            nsqd.publish("events", b"lost")
        nsqd.start()
        assert (nsqd.tcp_port, nsqd.http_port) == before
        until(lambda: nsqd.channel("events", "kamailio").depth == 2, what="both messages in the channel")
        assert nsqd.log_text().count("TCP: listening on") == 2


def test_a_frozen_nsqd_is_silent_until_it_thaws(tmp_path: Path) -> None:
    with Nsqd(tmp_path) as nsqd:
        nsqd.freeze()
        with closing(http.client.HTTPConnection(LOOPBACK, nsqd.http_port, timeout=0.2)) as connection:
            connection.request("GET", "/ping")
            with pytest.raises(TimeoutError):
                connection.getresponse()
        nsqd.thaw()
        assert nsqd.stats()["health"] == "OK"


def test_nsqlookupd_names_the_nsqd_of_a_topic(tmp_path: Path) -> None:
    with (
        Nsqlookupd(tmp_path / "lookupd") as lookupd,
        Nsqd(tmp_path / "nsqd", lookupd_tcp_address=[lookupd.tcp_address]) as nsqd,
    ):
        nsqd.create_topic("events")
        until(lambda: lookupd.producers("events") == [nsqd.tcp_address], what="nsqd to announce the topic")


# --- Kamailio


def test_the_database_stays_in_wal_mode(tmp_path: Path) -> None:
    path = create_database(tmp_path / "kamailio.db")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert rows(path) == []


def test_kamailio_ends_with_all_its_processes_and_starts_again(tmp_path: Path) -> None:
    database = create_database(tmp_path / "kamailio.db")
    with Kamailio(PRESENCE_SERVER, tmp_path, defines={"DB_URL": quoted(f"sqlite:///{database}")}) as kamailio:
        pids = kamailio.pids()
        assert "ctl handler" in pids.values()
        assert kamailio.options().status == 200
        assert kamailio.statistics("shmem:")["shmem:total_size"] == 64 << 20
        kamailio.stop()
        assert not any(map(is_running, pids))
        assert not kamailio.alive()
        kamailio.start()
        assert kamailio.alive()
        assert pids.keys().isdisjoint(kamailio.pids())


def test_no_kamailio_process_survives_a_crash(tmp_path: Path) -> None:
    database = create_database(tmp_path / "kamailio.db")
    with Kamailio(PRESENCE_SERVER, tmp_path, defines={"DB_URL": quoted(f"sqlite:///{database}")}) as kamailio:
        pids = kamailio.pids()
        os.kill(kamailio.process.pid, 9)
        kamailio.process.wait_exit()
        kamailio.stop()
        assert not any(map(is_running, pids))


def test_a_configuration_that_must_not_start_gives_code_and_log(tmp_path: Path) -> None:
    url = quoted(f"sqlite:///{tmp_path}/missing/kamailio.db")
    code, log = Kamailio(PRESENCE_SERVER, tmp_path, defines={"DB_URL": url}).run_until_exit()
    assert code != 0
    assert "failed to open sqlite database" in log


def test_a_refused_rpc_is_an_error(server: PresenceServer) -> None:
    with pytest.raises(AssertionError, match=r"command no\.such not found"):
        server.kamailio.rpc("no.such")


def test_nobody_answers_options_on_a_free_port(tmp_path: Path) -> None:
    kamailio = Kamailio(PRESENCE_SERVER, tmp_path)
    with pytest.raises(AssertionError, match=r"no answer to OPTIONS .* within 0\.1 s"):
        kamailio.options(timeout_s=0.1)
    assert free_tcp_port() > 0


# --- the watcher, against Kamailio


def test_a_stored_dialog_reaches_the_watcher(server: PresenceServer) -> None:
    with Watcher(server.kamailio.sip_target) as watcher:
        lamp = watcher.subscribe("sip:alice@example.com", "dialog", expires_s=600)
        assert lamp.expires_s == 600
        first = lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the dummy dialog")
        server.store("alice", "dialog", DIALOG.format(user="alice", state="early"))
        early = lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="an early dialog")
        dialog = early.dialog_info.dialogs[0]
        assert (dialog.id, dialog.call_id, dialog.direction) == ("d1", "c1@pbx", "recipient")
        assert dialog.local.identity == "sip:alice@example.com"
        assert (dialog.remote.identity, dialog.remote.display) == ("sip:bob@example.com", "Bob & Co")
        assert dialog.remote.target == "sip:bob@192.0.2.1"
        assert early.dialog_info.entity == "sip:alice@example.com"
        assert early.dialog_info.version > first.dialog_info.version
        assert early.received_at > first.received_at
        assert lamp.unsubscribe().state_params == {"reason": "timeout"}
    assert [row["etag"] for row in rows(server.database, "dialog") if row["username"] == "alice"] == ["etag"]


def test_the_dialog_version_grows_with_every_notify(server: PresenceServer) -> None:
    """RFC 4235 section 4.1.1, by Kamailio with `subs_db_mode` 3 and `notifier_processes` 0."""
    with Watcher(server.kamailio.sip_target) as watcher:
        lamp, other = (watcher.subscribe("sip:carol@example.com", "dialog") for _ in range(2))
        for state in ("trying", "early", "confirmed", "terminated"):
            server.store("carol", "dialog", DIALOG.format(user="carol", state=state))
            server.refresh("carol", "dialog")  # nothing new: a NOTIFY all the same
            lamp.refresh()
        lamp.unsubscribe()
        other.wait(lambda notify: notify.cseq == 9, what="the initial NOTIFY and one for each refresh of the watchers")
        assert versions(lamp) == list(range(1, 1 + 1 + 4 * 3 + 1))
        assert all(earlier < later for earlier, later in pairwise(versions(other)))
        again = watcher.subscribe("sip:carol@example.com", "dialog")
        again.wait(lambda notify: notify.dialog_info.version == 1, what="a new subscription, which counts from 1")


def test_presence_and_message_summary_are_read(server: PresenceServer) -> None:
    with Watcher(server.kamailio.sip_target) as watcher:
        presence = watcher.subscribe("sip:dave@example.com", "presence")
        mailbox = watcher.subscribe("sip:dave@example.com", "message-summary")
        assert mailbox.wait(lambda notify: not notify.body, what="no mailbox yet").subscription_state == "active"
        server.store("dave", "presence", PIDF)
        server.store("dave", "message-summary", SUMMARY)
        pidf = presence.wait(lambda notify: notify.pidf.basic == "open", what="open").pidf
        assert (pidf.note, pidf.activities, pidf.tuple_ids) == ("On the phone", ("on-the-phone",), ("t1",))
        summary = mailbox.wait(lambda notify: notify.message_summary.waiting, what="a lit lamp").message_summary
        assert summary.voice == MessageCounts(new=2, saved=8, new_urgent=1, saved_urgent=0)
        assert summary.account == "sip:dave@example.com"


def test_an_unknown_package_is_refused(server: PresenceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTENT_TYPES, "nobody", "text/plain")
    with Watcher(server.kamailio.sip_target) as watcher, pytest.raises(SubscribeRefused, match="489 Bad Event"):
        watcher.subscribe("sip:alice@example.com", "nobody")


def test_one_watcher_holds_a_thousand_subscriptions(server: PresenceServer) -> None:
    presentities = [f"sip:u{number}@example.com" for number in range(1000)]
    with Watcher(server.kamailio.sip_target) as watcher:
        lamps = watcher.subscribe_many(presentities, "dialog")
        for lamp in lamps:
            lamp.wait(lambda notify: notify.dialog_info.version == 1, what="the initial NOTIFY")
        server.store("u777", "dialog", DIALOG.format(user="u777", state="early"))
        lamps[777].wait(lambda notify: notify.dialog_info.states == ("early",), what="an early dialog")
        assert sum(len(lamp.notifies) for lamp in lamps) == 1001
    assert threading.active_count() == 1
