# SPDX-License-Identifier: GPL-2.0-or-later
"""NSQ_SUBSCRIPTIONS_IN_MEMORY: phones that discard what has no higher version are right, and what a restart keeps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest

from kemi_nsq.configuration.finding import Grade, made
from kemi_nsq.tools.doctor.database import CHECKS
from kemi_nsq.tools.doctor.scene import scene
from tests.support.chain import CHANNEL, DOMAIN, SHIPPED, TOPIC, Chain, Person, event
from tests.support.command import kemi_nsq
from tests.support.documents import DialogInfo, RegInfo
from tests.support.kamailio import quoted, release
from tests.support.stored import DATABASES, SERVERS, StoredChain, stored_chain
from tests.support.subscription import SubscribeRefused, Subscription
from tests.support.until import until

#: From here on Kamailio's SQLite driver waits for another program.
WAITS_FOR_A_WRITER = (6, 0)
#: What Kamailio's timer says where a consumer is writing to the file; it writes that subscription the next time.
TIMER_OF_SQLITE = (
    r"db_sqlite.*: database is locked",
    r"presence .*: (update_db_subs_timer|ps_\w+_db_timer_clean)\(\): ",
)
CONSUMERS, PRESENTITIES, WATCHERS, CALLS = 2, 20, 3, 10
#: Of nsq-presence.cfg.
DB_UPDATE_PERIOD_S = 10
TABLE = "SELECT local_cseq, version FROM active_watchers"


@contextmanager
def chain_on(database: str, folder: Path) -> Iterator[StoredChain]:
    """Run a chain with subscriptions in memory, which has nothing to complain of."""
    with stored_chain(database, folder, NSQ_SUBSCRIPTIONS_IN_MEMORY=1, NSQ_CONSUMERS=CONSUMERS) as stored:
        yield stored
        stored.chain.drain()
    locked = database == "sqlite" and release() < WAITS_FOR_A_WRITER
    assert stored.chain.complaints(TIMER_OF_SQLITE if locked else ()) == []


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[StoredChain]:
    """Run a chain on SQLite."""
    with chain_on("sqlite", tmp_path) as stored:
        yield stored


def strict(lamp: Subscription) -> list[DialogInfo]:
    """Return the documents that a phone shows which discards one whose version is not higher (RFC 4235 section 4.1)."""
    shown: list[DialogInfo] = []
    for notify in lamp.notifies:
        if notify.body and (not shown or notify.dialog_info.version > shown[-1].version):
            shown.append(notify.dialog_info)
    return shown


def shows(lamp: Subscription, state: str) -> None:
    """Wait until a strict phone shows a call in this state."""
    until(lambda: state in strict(lamp)[-1].states, what=f"a strict phone to show {state}")


def never_went_back(lamp: Subscription) -> bool:
    """Whether no version was lower than the one before."""
    versions = [notify.dialog_info.version for notify in lamp.notifies if notify.body]
    return versions == sorted(versions)


def test_each_change_after_a_subscribe_is_shown_by_a_strict_phone(stored: StoredChain) -> None:
    """After the first SUBSCRIBE, one within the dialog, one of another watcher, and the end of one subscription."""
    person = Person(chain=stored.chain)
    with stored.chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early")
        shows(lamp, "early")
        lamp.refresh()
        person.call("confirmed")
        shows(lamp, "confirmed")
        other = watcher.subscribe(person.uri, "dialog")
        person.call("terminated")
        shows(lamp, "terminated")
        shows(other, "terminated")
        assert lamp.unsubscribe().dialog_info == strict(lamp)[-1]
        person.call("early", Call_ID="another")
        shows(other, "early")
        assert never_went_back(lamp)
        assert never_went_back(other)
        once = watcher.subscribe(person.uri, "dialog", expires_s=0)
        assert once.wait(lambda notify: notify.terminated, what="the one NOTIFY").dialog_info.states


def test_each_change_of_a_contact_after_a_subscribe_is_shown_by_a_strict_watcher(stored: StoredChain) -> None:
    """From 5.7 on Kamailio counts the versions of registrations, too (RFC 3680 section 5)."""
    person = Person(chain=stored.chain)

    def shown() -> set[str]:
        documents: list[RegInfo] = []
        for notify in lamp.notifies:
            if notify.body and (not documents or notify.reginfo.version > documents[-1].version):
                documents.append(notify.reginfo)
        return {each.event for each in documents[-1].contacts} if documents else set()

    def shows_event(event: str) -> None:
        until(lambda: event in shown(), what=f"a strict watcher to show that the contact is {event}")

    with stored.chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "reg")
        for state in ("registered", "unregistered", "created", "expired"):
            person.publish("reg", Contact="sip:desk@192.0.2.4", State=state)
            shows_event(state)
            lamp.refresh()


def test_news_of_other_packages_come_once(stored: StoredChain) -> None:
    person = Person(chain=stored.chain)
    with stored.chain.watcher() as watcher:
        mailbox = watcher.subscribe(person.uri, "message-summary")
        person.publish("message-summary", Messages_New=1)
        mailbox.wait(lambda notify: notify.message_summary.waiting, what="a lit lamp")
        stored.chain.drain()
        assert [notify.cseq - mailbox.notifies[0].cseq for notify in mailbox.notifies] == [0, 1]


def test_who_is_not_in_the_table_yet_is_told(stored: StoredChain) -> None:
    """Where a batch changes two presentities, the table would be asked who watches. The tools say how old it is."""
    people = [Person(chain=stored.chain) for _ in range(2)]
    with stored.chain.watcher() as watcher:
        lamps = watcher.subscribe_many([person.uri for person in people], "dialog")
        stored.chain.nsqd.publish_many(
            TOPIC, [event("dialog", person.user, **person.call_fields("early")) for person in people]
        )
        for lamp in lamps:
            shows(lamp, "early")
        assert stored.execute(TABLE) == []
        for verb in ("watchers", "list", "explain"):
            asked = ["explain", people[0].uri] if verb == "explain" else [verb]
            assert "subscriptions are in Kamailio's memory" in said(stored.chain, *asked)


def said(chain: Chain, *arguments: str) -> str:
    """Return what `kemi-nsq presence` says, on both ways."""
    done = kemi_nsq("presence", *arguments, "--run-dir", str(chain.kamailio.pages_folder))
    return done.out + done.err


@pytest.mark.parametrize("database", DATABASES)
def test_two_consumers_and_subscribes_at_once(tmp_path: Path, database: str) -> None:
    """No CSeq comes twice, which the watcher itself looks after, and strict phones show how all calls ended."""
    with chain_on(database, tmp_path) as stored, stored.chain.watcher() as watcher:
        chain = stored.chain
        people = [Person(chain=chain) for _ in range(PRESENTITIES)]
        lamps = watcher.subscribe_many([person.uri for person in people] * WATCHERS, "dialog")
        chain.nsqd.publish_many(
            TOPIC,
            [
                event("dialog", person.user, **person.call_fields(state, Call_ID=f"{person.user}-{number}"))
                for number in range(CALLS)
                for state in ("early", "confirmed", "terminated")
                for person in people
            ],
        )
        chooser = random.Random(36)
        while not chain.nsqd.channel(TOPIC, CHANNEL).drained:
            for lamp in chooser.sample(lamps, 5):
                lamp.refresh()
        chain.drain()
        for lamp in lamps:
            until(lambda lamp=lamp: set(strict(lamp)[-1].states) == {"terminated"}, what="the end of all calls")  # type: ignore[misc]
        assert all(map(never_went_back, lamps))


def test_a_restart_keeps_subscriptions_cseq_and_versions(stored: StoredChain) -> None:
    person, kamailio = Person(chain=stored.chain), stored.chain.kamailio
    with stored.chain.watcher() as watcher:
        told, only_subscribed = (watcher.subscribe(person.uri, "dialog") for _ in range(2))
        person.call("early")
        shows(told, "early")
        only_subscribed.refresh()
        assert stored.execute(TABLE) == []
        kamailio.stop()
        assert len(stored.execute(TABLE)) == 2
        kamailio.start()
        person.call("confirmed")
        shows(told, "confirmed")
        shows(only_subscribed, "confirmed")
        told.refresh()
        person.call("terminated")
        shows(told, "terminated")
        assert never_went_back(told)
        assert never_went_back(only_subscribed)


def test_another_choice_at_a_restart_goes_on_with_what_there_is(tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    database, memory = (
        f'{define}include_file "{SHIPPED / "kamailio.cfg"}"\n'
        for define in ("", "#!define NSQ_SUBSCRIPTIONS_IN_MEMORY 1\n")
    )
    config.write_text(database)
    with Chain("native", tmp_path, config=config) as chain, chain.watcher() as watcher:
        person = Person(chain=chain)
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early")
        shows(lamp, "early")
        for text, state in ((memory, "confirmed"), (database, "terminated")):
            chain.kamailio.stop()
            config.write_text(text)
            chain.kamailio.start()
            person.call(state)
            shows(lamp, state)
            lamp.refresh()
        assert never_went_back(lamp)
    assert chain.complaints() == []


@pytest.mark.parametrize("mended", [False, True], ids=["as it is", "with higher numbers"])
def test_a_crash_loses_what_was_not_written(stored: StoredChain, mended: bool) -> None:
    """It costs as many NOTIFYs as left since the last write, and each subscription that was made since.

    Higher numbers in the table, before Kamailio starts, cost none: both RFC 3261 and RFC 4235 allow gaps.
    """
    person, chain = Person(chain=stored.chain), stored.chain
    with chain.watcher() as watcher:
        old = watcher.subscribe(person.uri, "dialog")
        until(lambda: stored.execute(TABLE), timeout_s=DB_UPDATE_PERIOD_S + 5, what="the subscription to be written")
        written = old.notifies[-1].cseq
        for state in ("early", "confirmed"):
            person.call(state)
            shows(old, state)
        young = watcher.subscribe(person.uri, "dialog")
        young.wait(lambda notify: notify.body, what="the first NOTIFY")
        lost = old.notifies[-1].cseq - written
        chain.kamailio.process.kill()
        if mended:
            stored.execute("UPDATE active_watchers SET local_cseq = local_cseq + 1000, version = version + 1000")
        chain.kamailio.start()
        with pytest.raises(SubscribeRefused, match="481"):
            young.refresh()
        begun = len(old.notifies)
        for number in range(lost + 1):
            person.call("early", Call_ID=f"after {number}")
            until(lambda number=number: told_of(watcher.errors, old, begun) > number, what="the NOTIFY")  # type: ignore[misc]
        assert "early" in strict(old)[-1].states
        assert bool(watcher.errors) is not mended
        assert all("CSeq" in error for error in watcher.errors)
        watcher.errors.clear()


def told_of(errors: list[str], lamp: Subscription, begun: int) -> int:
    """Return how many NOTIFYs have come, refused ones too."""
    return len(errors) + len(lamp.notifies) - begun


def test_who_does_not_renew_a_subscription_is_told_once(stored: StoredChain) -> None:
    with stored.chain.watcher() as watcher:
        packages = ("dialog", "presence", "message-summary")
        lamps = [watcher.subscribe(f"sip:{each}@{DOMAIN}", each, expires_s=1) for each in packages]
        until(
            lambda: all(lamp.notifies[-1].terminated for lamp in lamps),
            timeout_s=2 * DB_UPDATE_PERIOD_S,
            what="every last NOTIFY",
        )
        assert stored.execute(TABLE) == []


@pytest.mark.parametrize("database", SERVERS)
def test_the_doctor_sees_from_where_a_server_is_used(tmp_path: Path, database: str) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_text('loadmodule "app_python3.so"\n')
    (check,) = (check for check in CHECKS if check.name == "one-node")
    with SERVERS[database][0]() as server:
        defines = {"NSQ_SUBSCRIPTIONS_IN_MEMORY": "1", "NSQ_DB_URL": quoted(server.kamailio_url)}
        looked_at = scene(config, defines)
        assert [finding.grade for finding in made(check, looked_at)] == [Grade.OK]
        if database == "mariadb":  # libpq cannot choose its own address
            url = urlsplit(server.kamailio_url)
            server.execute(f"CREATE USER '{url.username}'@'127.0.0.5'")
            server.execute(f"GRANT ALL ON *.* TO '{url.username}'@'127.0.0.5'")
            at = {"host": url.hostname, "port": url.port or 0, "user": url.username, "database": url.path[1:]}
            with closing(pymysql.connect(**at, bind_address="127.0.0.5")):
                (finding,) = made(check, looked_at)
                assert "from 127.0.0.5 and localhost" in finding.reason
