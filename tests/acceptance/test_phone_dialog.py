# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone that others wrote as the watcher of calls: Linphone's SIP stack subscribes, is told, refreshes and leaves.

What a watcher must see is written in `test_dialog`; here another implementation of SIP must find the same.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from tests.support.chain import DOMAIN, Chain, Person
from tests.support.database import BUSY_TIMEOUT_S
from tests.support.linphone import LinphonePhone
from tests.support.until import until

#: An item of `kamcmd tm.stats`.
_COUNT = re.compile(r"(\w+): (\d+)")
#: Value of `status` in Kamailio's table `active_watchers` (presence/subscribe.h, ACTIVE_STATUS).
ACTIVE = 1


def phone_of(chain: Chain, folder: Path, *watched: str) -> LinphonePhone:
    return LinphonePhone(chain.kamailio.sip_target, folder, *watched)


def watchers(person: Person) -> list[tuple[int, int]]:
    """Return status and number of NOTIFYs of each subscription to a person's dialogs, as Kamailio stores them."""
    with closing(sqlite3.connect(person.chain.database, timeout=BUSY_TIMEOUT_S)) as database:
        query = "SELECT status, version FROM active_watchers WHERE presentity_uri = ? AND event = 'dialog'"
        return database.execute(query, (person.uri,)).fetchall()


def transactions(chain: Chain) -> dict[str, int]:
    """Return Kamailio's counters of SIP transactions; `total_local` are its NOTIFYs, `rpl_received` their answers."""
    return {name: int(count) for name, count in _COUNT.findall(chain.kamailio.rpc("tm.stats"))}


def settled(chain: Chain) -> dict[str, int]:
    """Wait until no NOTIFY of an earlier test is without its answer, and return the counters."""

    def look() -> dict[str, int] | None:
        found = transactions(chain)
        return found if found["current"] == found["waiting"] else None

    return until(look, what="the end of all SIP transactions")


def check_answers(phone: LinphonePhone, person: Person, before: dict[str, int], *, notifies: int) -> None:
    """Check that the phone answered each NOTIFY once, with 200, and that Kamailio sees it so."""
    answers = [(number, 200) for number in range(1, notifies + 1)]
    until(lambda: phone.answers() == answers, what=f"{answers}")
    chain = person.chain
    until(lambda: transactions(chain)["rpl_received"] == before["rpl_received"] + notifies, what="the answers")
    after = transactions(chain)
    assert after["total_local"] == before["total_local"] + notifies
    assert [after[code] - before[code] for code in ("3xx", "4xx", "5xx", "6xx")] == [0, 0, 0, 0]
    until(lambda: watchers(person) == [(ACTIVE, notifies)], what="an active subscription")


def test_a_phone_follows_a_call_to_its_end(person: Person, tmp_path: Path) -> None:
    before = settled(person.chain)
    with phone_of(person.chain, tmp_path, person.uri) as phone:
        phone.wait_document(person.uri, "terminated")
        for number, state in enumerate(("early", "confirmed", "terminated"), start=1):
            person.call(state)
            phone.wait_document(person.uri, state, after=number)
        documents = phone.documents(person.uri)
        assert phone.states(person.uri) == ["progress", "active"]
        assert [info.states for info in documents] == [("terminated",), ("early",), ("confirmed",), ("terminated",)]
        assert {(info.entity, info.state) for info in documents} == {(person.uri, "full")}
        calls = {info.dialogs[0] for info in documents[1:]}
        assert {(call.id, call.direction) for call in calls} == {(f"{person.user}-call", "initiator")}
        assert {call.local.identity for call in calls} == {person.uri}
        assert {call.remote.identity for call in calls} == {f"sip:bob@{DOMAIN}"}
        assert all(earlier.version < later.version for earlier, later in pairwise(documents))
        check_answers(phone, person, before, notifies=4)


def test_a_phone_sees_a_call_from_both_sides(person: Person, tmp_path: Path) -> None:
    callee = Person(chain=person.chain)
    with phone_of(person.chain, tmp_path, person.uri, callee.uri) as phone:
        for each in (person, callee):
            phone.wait_document(each.uri, "terminated")
        person.call("early", To=callee.uri)
        whose = {"Presentity": callee.uri, "Presentity_User": callee.user, "Presentity_Realm": DOMAIN}
        person.call("early", To=callee.uri, Direction="outbound", **whose)
        for each, other, direction in ((person, callee, "initiator"), (callee, person, "recipient")):
            info = phone.wait_document(each.uri, "early")
            dialog = info.dialogs[0]
            assert (info.entity, dialog.direction) == (each.uri, direction)
            assert (dialog.local.identity, dialog.remote.identity) == (each.uri, other.uri)


def test_a_phone_sees_two_calls_at_once_and_the_end_of_one(person: Person, tmp_path: Path) -> None:
    with phone_of(person.chain, tmp_path, person.uri) as phone:
        phone.wait_document(person.uri, "terminated")
        person.call("confirmed", Call_ID="one")
        person.call("early", Call_ID="two", To=f"sip:carol@{DOMAIN}")
        both = phone.wait_document(person.uri, "confirmed", "early")
        assert {(each.call_id, each.state, each.remote.identity) for each in both.dialogs} == {
            ("one", "confirmed", f"sip:bob@{DOMAIN}"),
            ("two", "early", f"sip:carol@{DOMAIN}"),
        }
        person.call("terminated", Call_ID="one")
        after = phone.wait_document(person.uri, "terminated", "early")
        assert {each.call_id: each.state for each in after.dialogs} == {"one": "terminated", "two": "early"}


def test_a_phone_gets_names_in_unicode(person: Person, tmp_path: Path) -> None:
    name = "<Zoë> & 'Söhne' 李 😀"
    with phone_of(person.chain, tmp_path, person.uri) as phone:
        phone.wait_document(person.uri, "terminated")
        person.call("early", To=f'"{name}" <sip:bob@{DOMAIN}>')
        assert phone.wait_document(person.uri, "early").dialogs[0].remote.display == name


def test_a_phone_refreshes_and_unsubscribes(person: Person, tmp_path: Path) -> None:
    person.call("confirmed")
    person.chain.drain()
    before = settled(person.chain)
    with phone_of(person.chain, tmp_path, person.uri) as phone:
        first = phone.wait_document(person.uri, "confirmed")
        phone.refresh()
        second = phone.wait_document(person.uri, "confirmed", after=1)
        assert first.version < second.version
        check_answers(phone, person, before, notifies=2)
        phone.unsubscribe()
        phone.wait_state(person.uri, "terminated")
        until(lambda: watchers(person) == [], what="the end of the subscription")
        # That is 481: Linphone forgets the dialog as it un-SUBSCRIBEs, before the NOTIFY that ends it (RFC 6665 4.4.1).
        until(lambda: [cseq for cseq, _ in phone.answers()] == [1, 2, 3], what="an answer to the last NOTIFY")
        person.call("terminated")
        person.chain.drain()
        assert transactions(person.chain)["total_local"] == before["total_local"] + 3
        assert phone.states(person.uri) == ["progress", "active", "terminated"]


def test_a_phone_is_told_that_somebody_is_not_served(chain: Chain, tmp_path: Path) -> None:
    uri = "sip:alice@other.example"
    with phone_of(chain, tmp_path, uri) as phone:
        phone.wait_state(uri, "error 404")
        assert phone.documents(uri) == []
