# SPDX-License-Identifier: GPL-2.0-or-later
"""Every field and state of the packages, read from an event."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence import sipuri
from kemi_nsq.presence.packages import from_event
from kemi_nsq.presence.packages.dialog import DIALOG_STATES, DialogState, Party
from kemi_nsq.presence.packages.message_summary import MailboxState
from kemi_nsq.presence.packages.presence import PRESENCE_STATES, PresenceState

Fields = dict[str, JsonValue]

DIALOG: Fields = {
    "Event-Category": "presence",
    "Event-Name": "update",
    "Event-Package": "dialog",
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "From-Tag": "a1",
    "To-Tag": "b1",
    "Call-ID": "call-1",
    "State": "early",
}
PRESENCE: Fields = {"Event-Package": "presence", "From": "sip:alice@example.com", "State": "busy"}
MAILBOX: Fields = {"Event-Package": "message-summary", "From": "sip:alice@example.com"}
TO_BOB: Fields = {"Presentity": "sip:bob@example.com", "Presentity-User": "bob", "Presentity-Realm": "example.com"}


def without(fields: Fields, *names: str) -> Fields:
    return {name: value for name, value in fields.items() if name not in names}


def dialog(**changes: JsonValue) -> DialogState:
    state = from_event(DIALOG | named(changes))
    assert isinstance(state, DialogState)
    return state


def presence(**changes: JsonValue) -> PresenceState:
    state = from_event(PRESENCE | named(changes))
    assert isinstance(state, PresenceState)
    return state


def mailbox(**changes: JsonValue) -> MailboxState:
    state = from_event(MAILBOX | named(changes))
    assert isinstance(state, MailboxState)
    return state


def named(changes: dict[str, JsonValue]) -> Fields:
    """Write `From_User` as `From-User`."""
    return {name.replace("_", "-"): value for name, value in changes.items()}


def refused(fields: Fields) -> str:
    with pytest.raises(PayloadError) as caught:
        from_event(fields)
    line = str(caught.value)
    assert line.isprintable(), "one line"
    return line


# Packages and names


@pytest.mark.parametrize(
    ("fields", "kind"), [(DIALOG, DialogState), (PRESENCE, PresenceState), (MAILBOX, MailboxState)]
)
def test_each_package_has_its_state(fields: Fields, kind: type) -> None:
    state = from_event(fields)
    assert isinstance(state, kind)
    assert state.package == fields["Event-Package"]


@pytest.mark.parametrize("package", ["", None, "Dialog", "as-feature-event", "presence.winfo", 7, ["dialog"]])
def test_another_package_is_refused(package: JsonValue) -> None:
    line = refused(DIALOG | {"Event-Package": package})
    assert "Event-Package" in line
    assert "a text or a number" in line or "dialog, presence, message-summary" in line


def test_event_name_is_update_or_missing() -> None:
    assert from_event(without(DIALOG, "Event-Name")) == from_event(DIALOG)
    assert from_event(DIALOG | {"Event-Name": "Update"}) == from_event(DIALOG)
    assert refused(DIALOG | {"Event-Name": "reset"}) == "Event-Name is 'reset'; update is wanted"


# Mandatory fields


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (DIALOG, "From"),
        (DIALOG, "To"),
        (DIALOG, "State"),
        (DIALOG, "Call-ID"),
        (PRESENCE, "From"),
        (PRESENCE, "State"),
        (MAILBOX, "From"),
    ],
)
@pytest.mark.parametrize("empty", [None, "", "  "])
def test_what_the_package_needs_must_be_there(fields: Fields, field: str, empty: JsonValue) -> None:
    assert refused(fields | {field: empty}).startswith(f"{field} is missing; ")
    assert refused(without(fields, field)).startswith(f"{field} is missing; ")


@pytest.mark.parametrize("field", ["State", "From", "Expires", "Call-ID", "Direction", "Dialog-ID"])
@pytest.mark.parametrize("value", [["x"], {"a": 1}])
def test_an_array_or_object_is_no_value(field: str, value: JsonValue) -> None:
    assert refused(DIALOG | {field: value}).startswith(f"{field} is ")


@pytest.mark.parametrize("fields", [DIALOG, PRESENCE, MAILBOX])
def test_user_and_realm_stand_in_for_a_missing_from(fields: Fields) -> None:
    state = from_event(without(fields, "From") | {"From-User": "alice", "From-Realm": "example.com"})
    assert state.presentity.uri == "sip:alice@example.com"
    assert state.sender == "sip:alice@example.com"
    assert "From is missing" in refused(without(fields, "From") | {"From-User": "alice"})
    assert "From is missing" in refused(without(fields, "From") | {"From-Realm": "example.com"})


def test_presence_needs_no_to() -> None:
    assert presence(To=None).presentity.uri == "sip:alice@example.com"


# Presentity


@pytest.mark.parametrize(
    ("given", "user", "domain"),
    [
        ("sip:alice@example.com", "alice", "example.com"),
        ("SIP:alice@Example.COM", "alice", "Example.COM"),
        ("sips:alice@example.com", "alice", "example.com"),
        ("alice@example.com", "alice", "example.com"),
        (" sip:alice@example.com ", "alice", "example.com"),
        ("sip:alice@example.com:5060;transport=tcp", "alice", "example.com"),
        ("sip:alice:secret@example.com?Subject=x", "alice", "example.com"),
        ('"Alice <A> Ü" <sip:alice@example.com:5061;ob>;tag=77', "alice", "example.com"),
        ("Alice <alice@example.com>", "alice", "example.com"),
        ("<sip:alice@example.com>", "alice", "example.com"),
        ("sip:+49;phone-context=x@10.0.0.1", "+49;phone-context=x", "10.0.0.1"),
        ("sip:alice@[2001:db8::1]:5060", "alice", "[2001:db8::1]"),
        ("sip:a%20b@example.com", "a%20b", "example.com"),
        ("sip:a b%zz#é@example.com", "a%20b%25zz%23%C3%A9", "example.com"),
        ("sip:a\x00\r\n<b>@example.com", "a%00%0D%0A%3Cb%3E", "example.com"),
    ],
)
def test_presentity_comes_from_the_from_uri(given: str, user: str, domain: str) -> None:
    found = presence(From=given).presentity
    assert (found.user, found.domain) == (user, domain)
    assert found.uri == f"sip:{user}@{domain}"


def test_user_and_realm_go_before_the_uri() -> None:
    found = presence(From="sip:1001@10.0.0.9:5080", From_User="a lice", From_Realm="pbx.example").presentity
    assert found.uri == "sip:a%20lice@pbx.example"
    assert presence(From_User="other").presentity.uri == "sip:other@example.com"
    assert presence(From_User=1001, From_Realm="").presentity.uri == "sip:1001@example.com"


def test_presentity_fields_count_only_together() -> None:
    assert dialog(**TO_BOB).presentity.uri == "sip:bob@example.com"
    for name in TO_BOB:
        assert from_event(DIALOG | without(TO_BOB, name)).presentity.uri == "sip:alice@example.com"
    assert presence(**TO_BOB).presentity.uri == "sip:alice@example.com", "dialog only, as in the C module"


@pytest.mark.parametrize(
    "realm",
    [
        "example.com:5060",
        "  ",
        "exa mple.com",
        "sip:example.com",
        "-example.com",
        "example..com",
        "256.1.1.1",
        "1234",
        "2001:db8::1",
        "[2001:db8::zz]",
        "[fe80::1%eth0]",
        "a;b",
        "é.example",
        "example.com\x00",
        ["example.com"],
    ],
)
def test_a_realm_is_a_host_alone(realm: JsonValue) -> None:
    assert refused(PRESENCE | {"From-Realm": realm}).startswith("From-Realm is ")
    assert refused(DIALOG | TO_BOB | {"Presentity-Realm": realm}).startswith("Presentity-Realm is ")


@pytest.mark.parametrize("realm", ["localhost", "a-1.example.com.", "10.0.0.1", "[::1]", "Pbx2.example"])
def test_a_good_realm_is_kept_as_given(realm: str) -> None:
    assert presence(From_Realm=realm).presentity.domain == realm


@pytest.mark.parametrize(
    "given",
    [
        "alice",
        "sip:",
        "sip:@example.com",
        "sip:example.com",
        "tel:+4930123",
        "mailto:alice@example.com",
        "http://example.com",
        "sip:alice@",
        "sip:alice@exa mple.com",
        "sip:alice@example.com:port",
        "sip:alice@example.com:0",
        "sip:alice@example.com:70000",
        "sip:alice@[::1",
        "<>",
        "x" * 10_000,
        "<" * 10_000,
        '"Alice\r\nEvil: 1" <tel:1>',
        17,
        True,
    ],
)
def test_what_is_no_sip_uri_with_a_user_is_refused(given: JsonValue) -> None:
    line = refused(PRESENCE | {"From": given})
    assert line.startswith("From is ")
    assert len(line) < 300


@pytest.mark.parametrize("field", ["To", "From-URI", "To-URI"])
def test_the_other_uris_are_checked_too(field: str) -> None:
    assert refused(DIALOG | {field: "nobody"}).startswith(f"{field} is 'nobody'; a SIP URI")
    assert refused(DIALOG | TO_BOB | {"Presentity": "bob"}).startswith("Presentity is 'bob'; a SIP URI")


@given(st.text(max_size=60), st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_any_user_gives_a_uri_that_reads_back(user: str, display: str) -> None:
    fields = PRESENCE | {"From": f'"{display}" <sip:x@example.com>', "From-User": user}
    first = from_event(fields).presentity
    assert presence(From=first.uri).presentity == first
    assert sipuri.escape_user(first.user) == first.user
    assert first.uri.isascii()
    assert first.uri.isprintable()


# Dialog


@pytest.mark.parametrize("state", sorted(DIALOG_STATES))
def test_dialog_states_in_any_case(state: str) -> None:
    assert dialog(State=state).state == dialog(State=state.upper()).state == state


@pytest.mark.parametrize("state", ["ringing", "0", 5, "terminated;x"])
def test_another_dialog_state_is_refused(state: JsonValue) -> None:
    assert refused(DIALOG | {"State": state}).startswith(f"State is '{state}'; one of trying, ")


@pytest.mark.parametrize(
    ("given", "direction"),
    [
        ("initiator", "initiator"),
        ("Recipient", "recipient"),
        ("inbound", "initiator"),
        ("OUTBOUND", "recipient"),
        (None, ""),
        ("", ""),
    ],
)
def test_direction_of_the_leg(given: JsonValue, direction: str) -> None:
    assert dialog(Direction=given).direction == direction


def test_another_direction_is_refused() -> None:
    assert refused(DIALOG | {"Direction": "sideways"}).startswith("Direction is 'sideways'; one of initiator, ")


def test_local_is_the_presentity_as_caller() -> None:
    state = dialog(From='"Alice A." <sip:alice@example.com>;tag=zz')
    assert state.side == "from"
    assert state.local == Party(
        identity="sip:alice@example.com", target="sip:alice@example.com", display="Alice A.", tag="a1"
    )
    assert state.remote == Party(identity="sip:bob@example.com", target="sip:bob@example.com", display="bob", tag="b1")


def test_local_is_the_presentity_as_callee() -> None:
    state, caller_sees = dialog(**TO_BOB), dialog()
    assert state.side == "to"
    assert (state.local, state.remote) == (caller_sees.remote, caller_sees.local)
    assert state.local.tag == "b1"
    assert state.direction == "recipient"
    assert dialog(**TO_BOB, Direction="initiator").direction == "initiator"


def test_the_callee_is_found_by_user_and_realm_of_the_to_side() -> None:
    to = {"To": "sip:bob@10.0.0.1:5080", "To-User": "bob", "To-Realm": "EXAMPLE.com"}
    assert dialog(**(TO_BOB | to)).side == "to"
    assert dialog(**(TO_BOB | {"To": "sip:b%6fb@example.com"})).side == "to"
    assert dialog(**(TO_BOB | {"To": "sip:Bob@example.com"})).side == "from", "users differ in case"
    assert dialog(**(TO_BOB | {"Presentity-User": "park1"})).side == "from", "neither side"


def test_in_a_call_to_oneself_the_direction_tells_the_sides() -> None:
    myself = {"To": "sip:alice@example.com"}
    assert dialog(**myself).side == "from"
    assert dialog(**myself, Direction="initiator").side == "from"
    callee = dialog(**myself, Direction="outbound")
    assert (callee.side, callee.local.tag, callee.remote.tag) == ("to", "b1", "a1")


def test_display_is_the_name_else_the_user() -> None:
    assert dialog(From_User="1001", From='"N" <sip:alice@example.com>').local.display == "N"
    assert dialog(From_User="Anna\r\n\x00B").local.display == "Anna B"
    assert dialog(To_User="Bert").remote.display == "Bert"
    assert dialog(From="sip:an%20na@example.com").local.display == "an na"
    assert dialog(From=r'"A \"x\" \\" <sip:alice@example.com>').local.display == 'A "x" \\'


def test_target_is_the_uri_field_else_the_address() -> None:
    state = dialog(From_URI="alice@10.0.0.1:5062", To="<sip:bob@example.com:5070;transport=tls>;tag=b1")
    assert state.local.target == "sip:alice@10.0.0.1:5062"
    assert state.remote.target == "sip:bob@example.com:5070;transport=tls"
    assert dialog(To="sip:bob@example.com;tag=b1;lr").remote.target == "sip:bob@example.com;lr"
    assert "secret" not in repr(dialog(From="sip:alice:secret@example.com"))


def test_dialog_id_is_the_field_else_the_call_id() -> None:
    assert (dialog().dialog_id, dialog().call_id) == ("call-1", "call-1")
    assert dialog(Dialog_ID="d-1").dialog_id == "d-1"
    assert dialog(Call_ID=77).call_id == "77"


def test_only_a_terminated_dialog_does_without_call_id() -> None:
    state = dialog(State="terminated", Call_ID=None)
    assert state.call_id == ""
    assert state.dialog_id.startswith("none-")
    assert state.dialog_id == dialog(State="Terminated", Call_ID="", To="sip:x@y.example").dialog_id
    assert state.dialog_id != dialog(State="terminated", Call_ID="", From="sip:eve@example.com").dialog_id
    assert "early" in refused(DIALOG | {"Call-ID": "\x00"})


# Presence


@pytest.mark.parametrize(
    ("state", "basic", "note", "activity"),
    [
        ("early", "open", "Busy", "busy"),
        ("confirmed", "open", "On the Phone", "on-the-phone"),
        ("offline", "closed", "Offline", ""),
        ("terminated", "open", "Available", ""),
        ("online", "open", "Available", ""),
        ("available", "open", "Available", ""),
        ("open", "open", "Available", ""),
        ("busy", "open", "Busy", "busy"),
        ("away", "open", "Away", "away"),
        ("dnd", "open", "Do not disturb", "busy"),
        ("closed", "closed", "Offline", ""),
        ("unavailable", "closed", "Offline", ""),
        ("never heard of", "open", "Available", ""),
        (3, "open", "Available", ""),
    ],
)
def test_presence_states_in_any_case(state: JsonValue, basic: str, note: str, activity: str) -> None:
    for word in (state, str(state).upper()):
        meaning = presence(State=word).meaning
        assert (meaning.basic, meaning.note, meaning.activity) == (basic, note, activity)


def test_every_listed_presence_state_is_lower_case() -> None:
    assert [state for state in PRESENCE_STATES if state != state.lower()] == []


def test_presence_source_is_the_sender_uri_alone() -> None:
    assert presence(Sender_URI="sip:pbx1@example.com").origin == "sip:pbx1@example.com"
    assert presence(Switch_URI="sip:pbx1@example.com").origin == ""


# Mailbox


def counts(state: MailboxState) -> tuple[int, int, int, int]:
    return state.new, state.saved, state.urgent, state.urgent_saved


def test_counts_default_to_nothing() -> None:
    state = mailbox()
    assert counts(state) == (0, 0, 0, 0)
    assert state.waiting is False
    assert state.account == "sip:alice@example.com"


def test_counts_come_as_text_or_number() -> None:
    fields: Fields = {"Messages_New": "2", "Messages_Saved": 5, "Messages_Urgent": 1.0, "Messages_Urgent_Saved": "07"}
    assert counts(mailbox(**fields)) == (2, 5, 1, 7)
    assert counts(mailbox(Messages_New=2**31 - 1))[0] == 2**31 - 1


@pytest.mark.parametrize("name", ["Messages-New", "Messages-Saved", "Messages-Urgent", "Messages-Urgent-Saved"])
@pytest.mark.parametrize("value", [-1, "x", 1.5, "1e3", 2**31, "9" * 5000, True, "٣", "1 2", [1]])
def test_a_count_is_a_whole_number_of_31_bits(name: str, value: JsonValue) -> None:
    line = refused(MAILBOX | {name: value})
    assert line.startswith(f"{name} is ")
    assert len(line) < 200


@pytest.mark.parametrize(
    ("line", "found"),
    [("2/5 (0/1)", (2, 5, 0, 1)), ("2/5", (2, 5, 0, 0)), ("0/0(0/0)", (0, 0, 0, 0))],
)
def test_voice_message_line_stands_in_for_missing_counts(line: str, found: tuple[int, int, int, int]) -> None:
    assert counts(mailbox(MWI_Voice_Message=line)) == found
    assert mailbox(MWI_Voice_Message=line).waiting is (found[0] > 0)
    assert counts(mailbox(MWI_Voice_Message=line, Messages_New=9)) == (9, 0, 0, 0)


@pytest.mark.parametrize("line", ["x", "2", "2/", "2/5 (1)", "2/5\r\nEvil: 1", f"{2**31}/0", "-1/2"])
def test_a_wrong_voice_message_line_is_refused(line: str) -> None:
    assert refused(MAILBOX | {"MWI-Voice-Message": line}).startswith("MWI-Voice-Message is ")


@pytest.mark.parametrize(
    ("given", "waiting"),
    [(yes, True) for yes in ("yes", "YES", True, "1", 1)] + [(no, False) for no in ("no", "No", False, "0", 0)],
)
def test_messages_waiting_is_normalised(given: JsonValue, waiting: bool) -> None:
    assert mailbox(Messages_Waiting=given, Messages_New=3).waiting is waiting


def test_messages_waiting_is_derived_or_refused() -> None:
    assert mailbox(Messages_New=1).waiting is True
    assert mailbox(Messages_Saved=9).waiting is False
    assert refused(MAILBOX | {"Messages-Waiting": "maybe"}) == "Messages-Waiting is 'maybe'; yes or no is wanted"


@pytest.mark.parametrize(
    ("given", "account"),
    [
        ("sip:*97@example.com", "sip:*97@example.com"),
        ("1001@vm.example", "sip:1001@vm.example"),
        ("1001", "sip:1001@example.com"),
        (1001, "sip:1001@example.com"),
        ("a b", "sip:a%20b@example.com"),
        ("Box <sip:1001@vm.example>", "sip:1001@vm.example"),
    ],
)
def test_message_account_becomes_a_uri(given: JsonValue, account: str) -> None:
    assert mailbox(Message_Account=given).account == account


@pytest.mark.parametrize("given", ["tel:1", "1@b c", "sip:a@b\r\nVoice-Message: 9/9"])
def test_a_wrong_message_account_is_refused(given: str) -> None:
    assert refused(MAILBOX | {"Message-Account": given}).startswith("Message-Account is ")


# What all packages share


@pytest.mark.parametrize("fields", [DIALOG, PRESENCE, MAILBOX])
def test_expires_is_a_whole_number_above_zero(fields: Fields) -> None:
    assert from_event(fields).expires_s is None
    assert from_event(fields | {"Expires": None}).expires_s is None
    assert from_event(fields | {"Expires": "60"}).expires_s == 60
    assert from_event(fields | {"Expires": 60}).expires_s == 60
    assert from_event(fields | {"Expires": 2**40}).expires_s == 2**31 - 1
    assert from_event(fields | {"Expires": "9" * 5000}).expires_s == 2**31 - 1
    for wrong in (0, "0", -1, "-3600", "soon", 1.5, False, "00"):
        assert refused(fields | {"Expires": wrong}).startswith("Expires is ")


def test_expires_of_a_terminated_dialog_is_ignored() -> None:
    for expires in (0, "-1", "soon", 60):
        assert dialog(State="terminated", Expires=expires).expires_s is None


@pytest.mark.parametrize("fields", [DIALOG, PRESENCE, MAILBOX])
def test_sender_is_the_first_that_is_given(fields: Fields) -> None:
    switch: Fields = {"Switch-URI": "sip:switch@example.com"}
    sender: Fields = {"Sender-URI": "sip:sender@example.com"}
    assert from_event(fields).sender == "sip:alice@example.com"
    assert from_event(fields | switch).sender == "sip:switch@example.com"
    assert from_event(fields | switch | sender).sender == "sip:sender@example.com"
    assert from_event(fields | {"Sender-URI": "sip:a\x00\r\nb"}).sender == "sip:a b"


@given(
    st.sampled_from([DIALOG, PRESENCE, MAILBOX]),
    st.dictionaries(
        st.sampled_from(sorted({*DIALOG, *TO_BOB, "From-User", "From-Realm", "Expires", "ETag", "Messages-New"})),
        st.one_of(
            st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(st.characters(), max_size=30)
        ),
        max_size=4,
    ),
)
@settings(max_examples=150, deadline=None)
def test_any_value_gives_a_state_or_one_line(fields: Fields, changes: Fields) -> None:
    try:
        presentity = from_event(fields | changes).presentity
    except PayloadError as error:
        line = str(error)
    else:
        line = presentity.uri
        assert line.isascii()
    assert line.isprintable()
