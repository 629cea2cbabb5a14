# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding a message and naming its event routes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.errors import PayloadError
from kemi_nsq.event import Event, decode, normal_name, route_names
from kemi_nsq.jsontext import JsonObject, JsonValue, field_text, json_object

MAX_SIZE = 65536
KEY, SUBKEY = "Event-Category", "Event-Name"

JSON_VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half of a surrogate pair is no text that JSON in UTF-8 can hold.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def test_decode_returns_the_text_as_received_and_its_fields() -> None:
    body = ' {"Event-Category": "presence", "Größe":\t1.50}\n'
    assert decode(body.encode(), max_size=MAX_SIZE) == (body, {"Event-Category": "presence", "Größe": 1.5})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"hello", "not JSON: .*line 1 column 1"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": 1} {"b": 2}', "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": NaN}', "not JSON: .*column 7"),
        (b"NaN", "not JSON"),
        (b"Infinity", "not JSON"),
        (b'{"a": 1e999}', "not JSON"),
        (b'["a", "b"]', "JSON array; a JSON object is wanted"),
        (b'"text"', "JSON string; a JSON object is wanted"),
        (b"null", "JSON null; a JSON object is wanted"),
        (b"true", "JSON boolean; a JSON object is wanted"),
        (b"17", "JSON number; a JSON object is wanted"),
        (b"-1.5", "JSON number; a JSON object is wanted"),
        (b'{"a": "\xff"}', "not UTF-8: .*byte 7"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8: .*byte 0"),
        ('{"a": "\ud800"}'.encode("utf-8", "surrogatepass"), "not UTF-8"),
        (rb'{"a": "\ud800"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON: .*byte order mark"),
        (b"\0", "not JSON"),
        (b'{"a": 1}\0', "not JSON"),
        (b'{"a": "\0"}', "not JSON"),
        (b'{"a\0": 1}', "not JSON"),
        (b"[" * 100_000, "100000 bytes; NSQ_MAX_EVENT_SIZE allows 65536"),
    ],
)
def test_decode_refuses(body: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        decode(body, max_size=MAX_SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", ["[" * 100_000, '{"a":' * 100_000, '{"a":[' * 100_000 + "]}" * 100_000])
def test_decode_bears_deep_nesting(body: str) -> None:
    with pytest.raises(PayloadError, match="not JSON"):
        decode(body.encode(), max_size=len(body))


@pytest.mark.parametrize(
    "body", ["{'a': 1}", " {'a': 'b'}", "{ 'a': 1}", "{\n    'a': 1}", "['a']", "[\t'a']", "{\"ä\": 'b'}"]
)
def test_single_quotes_are_named(body: str) -> None:
    with pytest.raises(PayloadError, match="double quotes, this one uses single quotes"):
        json_object(body)


@pytest.mark.parametrize("body", ["hello, 'world'", '{"a": it\'s}'])
def test_other_mistakes_are_not_called_single_quotes(body: str) -> None:
    with pytest.raises(PayloadError) as caught:
        json_object(body)
    assert "single quotes" not in str(caught.value)


def test_the_largest_body_is_taken_and_one_byte_more_is_not() -> None:
    body = b'{"a": "' + b"x" * 91 + b'"}'
    assert decode(body, max_size=100)[1] == {"a": "x" * 91}
    with pytest.raises(PayloadError, match="100 bytes; NSQ_MAX_EVENT_SIZE allows 99"):
        decode(body, max_size=99)


def test_the_size_is_that_of_bytes_not_of_characters() -> None:
    with pytest.raises(PayloadError, match="15 bytes"):
        decode('{"a": "€€"}'.encode(), max_size=11)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("presence", "presence"),
        ("", ""),
        (" x ", " x "),
        (None, ""),
        (0, "0"),
        (-7, "-7"),
        (1.5, "1.5"),
        (18446744073709551615, "18446744073709551615"),
        (True, "true"),
        (False, "false"),
        ([1, "a"], '[1,"a"]'),
        ({"a": None}, '{"a":null}'),
    ],
)
def test_field_text(value: JsonValue, text: str) -> None:
    assert field_text({"a": value}, "a") == text


def test_a_missing_field_is_empty_and_names_have_a_case() -> None:
    assert field_text({"a": "b"}, "A") == ""


@pytest.mark.parametrize("depth", [10, 253, 254, 255, 1000])
def test_field_text_bears_every_depth_that_is_decoded(depth: int) -> None:
    fields = json_object('{"a":' + "[" * depth + "]" * depth + "}")
    assert field_text(fields, "a") in ("[" * depth + "]" * depth, "")
    assert route_names(fields, "a", "b")[-1] == "nsq:consumer-event"


PREFIX = "nsq:consumer-event"
FALLBACKS = [f"{PREFIX}-event-category-event-name", f"{PREFIX}-event-category", PREFIX]


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({KEY: "presence", SUBKEY: "update"}, [f"{PREFIX}-presence-update", f"{PREFIX}-presence"]),
        ({KEY: "presence"}, [f"{PREFIX}-presence"]),
        ({KEY: "presence", SUBKEY: ""}, [f"{PREFIX}-presence"]),
        ({KEY: "presence", SUBKEY: None}, [f"{PREFIX}-presence"]),
        ({SUBKEY: "update"}, []),
        ({KEY: "", SUBKEY: "update"}, []),
        ({KEY: None, SUBKEY: "update"}, []),
        ({}, []),
        ({KEY: "PreSence", SUBKEY: "UPDATE"}, [f"{PREFIX}-presence-update", f"{PREFIX}-presence"]),
        ({KEY: "call_event", SUBKEY: "NEW_CALL"}, [f"{PREFIX}-call-event-new-call", f"{PREFIX}-call-event"]),
        ({KEY: 5, SUBKEY: 1.5}, [f"{PREFIX}-5-1.5", f"{PREFIX}-5"]),
        ({KEY: True, SUBKEY: 0}, [f"{PREFIX}-true-0", f"{PREFIX}-true"]),
        ({KEY: "a b", SUBKEY: "ÄÖ"}, [f"{PREFIX}-a b-äö", f"{PREFIX}-a b"]),
    ],
)
def test_route_names_from_the_most_specific_to_the_least(fields: JsonObject, first: list[str]) -> None:
    assert route_names(fields, KEY, SUBKEY) == [*first, *FALLBACKS]


def test_a_name_is_tried_once() -> None:
    names = route_names({KEY: "event_category", SUBKEY: "EVENT-NAME"}, KEY, SUBKEY)
    assert names == FALLBACKS
    assert route_names({"a": "a", "b": "b"}, "a", "b") == [f"{PREFIX}-a-b", f"{PREFIX}-a", PREFIX]


def test_key_and_subkey_are_settings() -> None:
    names = route_names({"Type": "mwi", "Sub_Type": "x"}, "Type", "Sub_Type")
    assert names == [f"{PREFIX}-mwi-x", f"{PREFIX}-mwi", f"{PREFIX}-type-sub-type", f"{PREFIX}-type", PREFIX]


def test_normal_name() -> None:
    assert normal_name("nsq:Consumer_Event-PRESENCE__x") == "nsq:consumer-event-presence--x"


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    try:
        text, fields = decode(body, max_size=100)
    except PayloadError:
        return
    assert text.encode() == body
    assert fields == json.loads(text)


@given(st.dictionaries(st.sampled_from([KEY, SUBKEY, "x"]), JSON_VALUES))
def test_any_object_has_route_names(fields: JsonObject) -> None:
    decoded = decode(json.dumps(fields).encode(), max_size=10**9)[1]
    names = route_names(decoded, KEY, SUBKEY)
    assert names[-1] == PREFIX
    assert len(names) == len(set(names)) <= 5
    assert all(name.startswith(PREFIX) and name == normal_name(name) for name in names)
    assert not any(name.endswith(f"{PREFIX}-") for name in names)


def test_an_event_is_frozen() -> None:
    event = Event(topic="t", channel="c", message_id="0" * 16, timestamp_ns=1, attempts=1, payload="{}", fields={})
    with pytest.raises(AttributeError):
        event.topic = "other"  # type: ignore[misc]
