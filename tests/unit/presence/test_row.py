# SPDX-License-Identifier: GPL-2.0-or-later
"""The row of a state: key, lifetime, order and the limits of the columns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import from_event
from kemi_nsq.presence.packages.dialog import DIALOG_STATES
from kemi_nsq.presence.row import GRACE_S, MAX_BODY, Order, Row
from tests.support.rendering import render
from tests.support.rows import NOW, event_row

Fields = dict[str, JsonValue]

INT32 = 2**31 - 1
ORDER = Order(position=NOW * 10**9, message_id="0123456789abcdef")

DIALOG: Fields = {
    "Event-Package": "dialog",
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "Call-ID": "call-1",
    "State": "early",
}
PRESENCE: Fields = {"Event-Package": "presence", "From": "sip:alice@example.com", "State": "busy"}
MAILBOX: Fields = {"Event-Package": "message-summary", "From": "sip:alice@example.com"}
PACKAGES = [DIALOG, PRESENCE, MAILBOX]
BOB: Fields = {"Presentity": "sip:bob@example.com", "Presentity-User": "bob", "Presentity-Realm": "example.com"}


def stored(fields: Fields, *, order: Order = ORDER, now: int = NOW, body: bytes | None = None) -> Row:
    return event_row(fields, order, now=now, body=body)


def etag(fields: Fields, **changes: JsonValue) -> str:
    return stored(fields | {name.replace("_", "-"): value for name, value in changes.items()}).etag


def refused(fields: Fields, body: bytes | None = None) -> str:
    with pytest.raises(PayloadError) as caught:
        stored(fields, body=body)
    return str(caught.value)


def test_a_row_says_it_all() -> None:
    made = stored(DIALOG | {"Expires": "60", "Sender-URI": "sip:pbx@example.com"})
    assert made._replace(body=b"", ruid="") == Row(
        username="alice",
        domain="example.com",
        event="dialog",
        etag="dialog.call.from/call-1/call-1",
        expires=NOW + 60 + GRACE_S,
        received_time=NOW,
        body=b"",
        sender="sip:pbx@example.com",
        priority=0,
        ruid="",
    )
    assert made.body == render(from_event(DIALOG)).body
    with pytest.raises(AttributeError):
        made.priority = 1  # type: ignore[misc]


# Lifetime


@pytest.mark.parametrize("fields", PACKAGES)
@pytest.mark.parametrize(
    ("given_s", "lifetime_s"), [(None, 3600), (1, 1), ("7200", 7200), (INT32, INT32 - NOW), (2**40, INT32 - NOW)]
)
def test_expires_is_a_time_to_come_that_fits_the_column(fields: Fields, given_s: JsonValue, lifetime_s: int) -> None:
    made = stored(fields | {"Expires": given_s})
    assert made.expires == min(NOW + lifetime_s + GRACE_S, INT32)
    assert NOW < made.expires <= INT32


@pytest.mark.parametrize("given_s", [None, 0, -1, 7200])
def test_a_terminated_dialog_is_a_tombstone(given_s: JsonValue) -> None:
    assert stored(DIALOG | {"State": "terminated", "Expires": given_s}).expires == NOW + 300 + GRACE_S


def test_a_terminated_presence_state_is_no_tombstone() -> None:
    assert stored(PRESENCE | {"State": "terminated"}).expires == NOW + 3600 + GRACE_S


# etag


@pytest.mark.parametrize("fields", PACKAGES)
def test_the_etag_is_printable_and_fits(fields: Fields) -> None:
    for name in ("", "x" * 10_000, "ä", "\x00", "a b", "\ud800", "*#-OFFLINE-#*", "a'b\"c\\d"):
        made = etag(fields, ETag=name, Call_ID=f"c{name}", Sender_URI=name[:255])
        assert made.isascii()
        assert made.isprintable()
        assert " " not in made
        assert len(made) <= 100
        assert made.startswith(f"{fields['Event-Package']}.")


def test_one_row_for_a_dialog_through_its_states() -> None:
    assert len({etag(DIALOG, State=state, Expires=60, To_Tag=state) for state in DIALOG_STATES}) == 1


def test_dialogs_differ_by_id_call_and_side() -> None:
    calls = [
        etag(DIALOG),
        etag(DIALOG, Call_ID="call-2"),
        etag(DIALOG, Dialog_ID="leg-1"),
        etag(DIALOG, Dialog_ID="leg-2"),
        etag(DIALOG, **BOB),
        etag(DIALOG, Call_ID="a/b", Dialog_ID="c"),
        etag(DIALOG, Call_ID="b", Dialog_ID="c/a"),
        etag(DIALOG, Call_ID="a", Dialog_ID="b/c"),
        etag(DIALOG, Call_ID="a", Dialog_ID="b%2Fc"),
        etag(DIALOG, Call_ID="x" * 200),
        etag(DIALOG, Call_ID="x" * 199 + "y"),
    ]
    assert len(set(calls)) == len(calls)


def test_one_row_for_a_mailbox() -> None:
    assert etag(MAILBOX) == etag(MAILBOX, Messages_New=3, Call_ID="other", Message_Account="sip:alice@example.com")
    assert etag(MAILBOX) != etag(MAILBOX, Message_Account="sip:support@example.com")


def test_one_row_for_a_presence_source() -> None:
    assert etag(PRESENCE) == etag(PRESENCE, State="away", Call_ID="any", Switch_URI="sip:pbx1@example.com")
    sources = {etag(PRESENCE), *(etag(PRESENCE, Sender_URI=f"sip:pbx{number}@example.com") for number in range(3))}
    assert len(sources) == 4


@pytest.mark.parametrize("fields", PACKAGES)
def test_the_events_own_etag_wins(fields: Fields) -> None:
    other: Fields = {"Call-ID": "other", "Dialog-ID": "d", "Message-Account": "1", "Sender-URI": "sip:s@example.com"}
    assert etag(fields, ETag="mine") == etag(fields | other, ETag="mine") == f"{fields['Event-Package']}.tag.mine"
    assert etag(fields, ETag="mine") != etag(fields, ETag="yours")


def test_etags_of_different_origin_never_meet() -> None:
    assert len({etag(fields, ETag="x") for fields in PACKAGES}) == 3
    assert etag(DIALOG, ETag="from/call-1/call-1") != etag(DIALOG)
    assert etag(DIALOG, ETag="dialog.call.from/call-1/call-1") != etag(DIALOG)


# ruid


def ruid(fields: Fields, *, timestamp_ns: int = ORDER.position, message_id: str = ORDER.message_id) -> str:
    return stored(fields, order=Order(position=timestamp_ns, message_id=message_id)).ruid


def test_the_ruid_in_full() -> None:
    head, _, digest = ruid(DIALOG).rpartition(".")
    assert head == "000001700000000000000000.3.0123456789abcdef"
    assert len(digest) == 20
    assert set(digest) <= set("0123456789abcdef")
    assert ruid(PRESENCE).split(".")[1] == ruid(MAILBOX).split(".")[1] == "0"


def test_in_one_nanosecond_the_later_state_is_greater() -> None:
    keys = [ruid(DIALOG | {"State": state}) for state in ("trying", "proceeding", "early", "confirmed", "terminated")]
    assert keys == sorted(keys)
    assert len(set(keys)) == 5
    assert ruid(DIALOG | {"State": "trying"}, timestamp_ns=ORDER.position + 1) > keys[-1], "time goes first"


def test_rows_of_one_message_have_ruids_of_their_own() -> None:
    rows = [
        DIALOG,
        DIALOG | BOB,
        DIALOG | {"Dialog-ID": "d"},
        PRESENCE,
        PRESENCE | {"From-Realm": "b.example"},
        MAILBOX,
    ]
    assert len({ruid(fields) for fields in rows}) == len(rows)
    assert ruid(DIALOG) == ruid(DIALOG), "a redelivery changes nothing"


NANOSECONDS = st.integers(0, 2**63 - 1)
MESSAGE_IDS = st.integers(0, 2**64 - 1).map("{:016x}".format)


@given(st.lists(st.tuples(NANOSECONDS, st.sampled_from(sorted(DIALOG_STATES)), MESSAGE_IDS), min_size=2, max_size=5))
@settings(max_examples=60, deadline=None)
def test_ruids_sort_as_strings_like_what_they_are_made_of(keys: list[tuple[int, str, str]]) -> None:
    by_parts = sorted(keys, key=lambda key: (key[0], DIALOG_STATES[key[1]], key[2]))
    written = [ruid(DIALOG | {"State": state}, timestamp_ns=time, message_id=name) for time, state, name in by_parts]
    assert written == sorted(written)
    assert {len(key) for key in written} == {64}


# Limits of the columns


def test_user_domain_and_sender_that_just_fit() -> None:
    domain = "d" * 64
    made = stored(PRESENCE | {"From-User": "u" * 64, "From-Realm": domain, "Sender-URI": "s" * 255})
    assert (made.username, made.domain, made.sender) == ("u" * 64, domain, "s" * 255)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"From-User": "u" * 65}, "the presentity's user has 65 characters; at most 64 fit the column username"),
        ({"From-User": "ä" * 11}, "the presentity's user has 66 characters; at most 64 fit the column username"),
        ({"From-Realm": "d" * 65}, "the presentity's domain has 65 characters; at most 64 fit the column domain"),
        ({"Sender-URI": "s" * 256}, "has 256 characters; at most 255 fit the column sender"),
        ({"From": f"sip:alice@example.com;x={'y' * 250}"}, "fit the column sender"),
        ({"From": f"sip:{'u' * 10_000}@example.com"}, "the presentity's user has 10000 characters"),
    ],
)
@pytest.mark.parametrize("fields", PACKAGES)
def test_what_is_too_long_is_refused_and_never_cut(fields: Fields, changes: Fields, message: str) -> None:
    assert message in refused(fields | changes)


def test_a_message_id_too_long_for_the_order_key_is_refused() -> None:
    with pytest.raises(PayloadError, match="the order key has 65 characters"):
        stored(DIALOG, order=Order(position=1, message_id="f" * 17))


@pytest.mark.parametrize("fields", PACKAGES)
def test_a_document_fits_the_column(fields: Fields) -> None:
    assert len(stored(fields, body=b"x" * MAX_BODY).body) == MAX_BODY
    assert "document has 65501 bytes; at most 65500 fit" in refused(fields, b"x" * 65501)
    assert "empty or holds NUL" in refused(fields, b"")
    assert "empty or holds NUL" in refused(fields, b"x\0y")


def test_a_display_name_may_fill_the_document_but_not_burst_it() -> None:
    assert len(stored(DIALOG | {"To-User": "ä" * 10_000}).body) > 20_000
    assert "document has" in refused(DIALOG | {"To-User": "\N{PILE OF POO}" * 20_000})


@given(st.text(st.characters(exclude_categories=()), max_size=30), st.sampled_from(PACKAGES))
@settings(max_examples=80, deadline=None)
def test_every_row_fits_its_table_or_is_refused(name: str, fields: Fields) -> None:
    changes: Fields = {"From-User": name, "Call-ID": f"c{name}", "Sender-URI": name, "ETag": name}
    try:
        made = stored(fields | changes)
    except PayloadError as error:
        message = str(error)
    else:
        message = ""
        assert len(made.username) <= 64
        assert len(made.etag) <= 100
        assert "\0" not in made.username + made.sender + made.etag
        (made.username + made.sender + made.etag).encode()
    assert not message or "fit the column username" in message
