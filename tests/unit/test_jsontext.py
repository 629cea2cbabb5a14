# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths into JSON: kazoo's syntax, with a clear rule for what is missing; and the words for what is no JSON.

Where kazoo's own reading is an accident of its C code, ours is said here: `differs`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import json_object, lookup

PAYLOAD = json.dumps(
    {
        "a": {"b": "text", "d.e": "dotted", "n": None, "deep": {"er": [1, 2]}},
        "arr": [10, 20, 30],
        "b": [["x", "y"], ["z"]],
        "Channels": [{"switch_url": "sip:sw1"}, {"switch_url": "sip:sw2"}],
        "one": 1,
        "yes": True,
        "no": False,
        "nothing": None,
        "empty": "",
        "slash": {"k": "v/1"},
        "uni": "é\n\"'",
        "with space": "s",
        "k" * 84: "long",
        "0": "zero",
        "": "nameless",
    }
)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", "text"),
        ("a.d%e", "dotted"),
        ("arr[1]", "20"),
        ("arr", "[10,20,30]"),
        ("Channels[0].switch_url", "sip:sw1"),
        ("Channels[1].switch_url", "sip:sw2"),
        ("a.deep.er[1]", "2"),
        ("b[1]", '["z"]'),
        ("a.", '{"b":"text","d.e":"dotted","n":null,"deep":{"er":[1,2]}}'),
        ("a.b.", "text"),
        ("one", "1"),
        ("yes", "true"),
        ("no", "false"),
        ("empty", ""),
        ("slash", '{"k":"v/1"}'),
        ("uni", "é\n\"'"),
        ("with space", "s"),
        ("k" * 84, "long"),
        ("0", "zero"),
    ],
)
def test_a_path_finds(path: str, value: str) -> None:
    assert lookup(path, PAYLOAD) == value


@pytest.mark.parametrize(
    "path",
    [
        "absent",
        "a.absent",
        "a.b.c",
        "nothing",
        "a.n",
        "arr[3]",
        "arr[999999999]",
        "arr.0",
        "Channels.switch_url",
        "a.d.e",
        "A.b",
    ],
)
def test_what_is_missing_or_null_is_none(path: str) -> None:
    assert lookup(path, PAYLOAD) is None


def test_an_element_of_an_element_is_found_differs() -> None:
    """Kazoo reads `b[0][1]` as `b[0]`."""
    assert lookup("b[0][1]", PAYLOAD) == "y"


def test_an_element_of_what_is_no_array_is_missing_differs() -> None:
    """Kazoo ignores the index."""
    assert lookup("one[0]", PAYLOAD) is None
    assert lookup("a[0].b", PAYLOAD) is None


def test_an_array_may_be_at_the_top_differs() -> None:
    """Kazoo reads memory that it never wrote."""
    assert lookup("[1].a", '[0, {"a": "x"}]') == "x"


@pytest.mark.parametrize("path", ["", ".", "a..b", ".a", "a.."])
def test_an_empty_component_is_no_path_differs(path: str) -> None:
    """It ends kazoo's process, and with it Kamailio."""
    with pytest.raises(PayloadError, match="is no path"):
        lookup(path, PAYLOAD)


@pytest.mark.parametrize(
    "path", ["arr[x]", "arr[-1]", "arr[]", "arr[1", "arr]", "arr[1]x", "arr[ 1]", f"arr[{'9' * 5000}]"]
)
def test_an_index_is_a_number_differs(path: str) -> None:
    """Kazoo reads `[x]` as `[0]`, and a negative index as missing."""
    with pytest.raises(PayloadError, match="is no path"):
        lookup(path, PAYLOAD)


@pytest.mark.parametrize("payload", ["", "x", "{", "{'a': 1}", '{"a": 1,}', "\ud800", "[" * 2000])
def test_what_is_no_json_is_refused(payload: str) -> None:
    with pytest.raises(PayloadError, match="not JSON"):
        lookup("a", payload)


def test_what_is_no_json_is_told_in_the_same_words_everywhere() -> None:
    where = "is not JSON: unexpected character, expected a string key at line 2 column 1"
    with pytest.raises(PayloadError) as caught:
        lookup("a", "{\n'a': 1}")
    assert str(caught.value) == f"the payload {where}"
    with pytest.raises(PayloadError) as caught:
        json_object("{\n'a': 1}")
    assert str(caught.value) == f"the body {where}; JSON strings stand in double quotes, this one uses single quotes"
    with pytest.raises(PayloadError) as caught:
        json_object("{\n1: 1}")
    assert str(caught.value) == f"the body {where}"


def test_what_is_too_deep_to_be_written_is_refused() -> None:
    payload = '{"a":' + "[" * 300 + '"core"' + "]" * 300 + "}"
    with pytest.raises(PayloadError, match="cannot be written"):
        lookup("a", payload)
    assert lookup("a" + "[0]" * 300, payload) == "core"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.text() | st.from_regex(r"[a-c.%\[\]0-9]*", fullmatch=True), JSON)
@example("a[0]", {"a": [None]})
def test_any_path_into_any_json_is_a_text_or_none_or_refused(path: str, payload: Any) -> None:
    try:
        found = lookup(path, json.dumps(payload))
    except PayloadError:
        return
    assert found is None or isinstance(found, str)


@given(st.text(), st.text())
def test_any_text_at_all_is_a_text_or_none_or_refused(path: str, payload: str) -> None:
    with contextlib.suppress(PayloadError):
        lookup(path, payload)


@given(st.lists(st.text(min_size=1).filter(lambda key: not set(key) & set("[]%")), min_size=1, max_size=4), JSON)
def test_every_key_without_brackets_and_percent_signs_can_be_named(keys: list[str], value: Any) -> None:
    payload = value
    for key in reversed(keys):
        payload = {key: payload}
    found = lookup(".".join(key.replace(".", "%") for key in keys), json.dumps(payload))
    if value is None:
        assert found is None
    elif isinstance(value, str):
        assert found == value
    else:
        assert found is not None
        assert json.loads(found) == value
