# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON as routes write it: what arrives is what was there; a variable that is not set, or a wrong name, is one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.tools.reader import Reader
from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import CONFIGURATIONS, Chain
from tests.support.until import until

#: What a phone may say of itself.
PLAIN = ["Grandstream GXP2170 1.0.11.64", 'say "hi" \\ 50%2E+, $ci {x}', "Zoë €", "\x7f", ""]
#: What `{s.escape.common}` makes no JSON of: it writes `\'`, and leaves control characters as they are.
ODD = ["O'Brien", "tab\there", "\x01\r\n\x1f"]
#: Names of Kamailio's variables that are not set; to which topic a route publishes, and what.
UNSET = {
    "var-topic": ("$var(unset) {}", "topic", "0"),
    "avp-topic": ("$avp(unset) {}", "topic", "<null>"),
    "header-topic": ("$hdr(X-Unset) {}", "topic", "<null>"),
    "var": ("unset $var(unset)", "payload", "0"),
    "avp": ("unset $avp(unset)", "payload", "<null>"),
    "xavp": ("unset $xavp(a=>b)", "payload", "<null>"),
    "null": ("unset $null", "payload", "<null>"),
    "avp-alone": ("$avp(unset)", "topic", "<null>"),
}
FUNCTIONS = {"nsq_publish": " ", "nsq_publish_deferred": " 50 ", "nsq_query": " ", "nsq_query_async": " SOMEWHERE "}
ROUTES = r"""
loadmodule "jansson.so"

event_route[nsq:consumer-event-test-jansson] {
    $var(agent) = $(var(nqE){json.parse,Agent});
    $var(js) = "{}";
    jansson_set("string", "User-Agent", "$var(agent)", "$var(js)");
    jansson_set("integer", "Port", "5060", "$var(js)");
    python_exec("nsq_publish", "jansson $var(js)");
}

event_route[nsq:consumer-event-test-odd] {
    $var(hex) = "ff";
    $var(js) = "{}";
    jansson_set("string", "no-utf-8", "$(var(hex){s.decode.hexa})", "$var(js)");
    jansson_set("string", "a.b", "c", "$var(js)");
    python_exec("nsq_publish", "odd $var(js)");
}

event_route[nsq:consumer-event-test-escaped] {
    $var(agent) = $(var(nqE){json.parse,Agent});
    python_exec("nsq_publish", 'escaped {"User-Agent": "$(var(agent){s.escape.common})", "Port": 5060}');
}

event_route[nsq:consumer-event-test-misspelled] {
    python_exec("nsq_pubish", "misspelled {}");
    xlog("L_NOTICE", "test: misspelled rc=$rc\n");
    python_exec("nsq_encode", "next");
    xlog("L_NOTICE", "test: next rc=$rc $var(nqJ)\n");
}
"""
HANDLERS = """
@event_route("nsq:consumer-event-test-unset")
def unset(self, event):
    for given in (KSR.pv.get("$var(unset)"), KSR.pv.get("$avp(unset)"), KSR.pv.getw("$avp(unset)")):
        for topic, payload in ((given, {"a": 1}), ("unset", given)):
            codes = self.nsq_publish(topic, payload), self.nsq_query(topic, payload)
            KSR.notice(f"test: {codes}\\n")
"""
EXPECTED = [
    r"kemi-nsq: nsq_\w+: the (topic|payload) is \S+, which is what a variable holds that is not set",
    r"kemi-nsq: .*python_exec\(.nsq_pubish.\): there is no such function; did you mean nsq_publish\?",
    r"kemi-nsq: nsq_publish: the payload is not JSON: ",
    r'jansson .*: (value to add is not a string - "no-utf-8"|parsing failed|value error)',
]


def unset_routes() -> str:
    """Return an event route for each function and variable."""
    return "".join(
        f"event_route[nsq:consumer-event-test-{function.replace('_', '-')}-{name}] {{\n"
        f'    python_exec("{function}", "{text.replace(" ", between, 1)}");\n'
        f'    xlog("L_NOTICE", "test: {function} {name} rc=$rc\\n");\n}}\n'
        for function, between in FUNCTIONS.items()
        for name, (text, _, _) in UNSET.items()
    )


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("json")
    (folder / "own.cfg").write_text(ROUTES + unset_routes(), encoding="utf-8")
    config = folder / "main.cfg"
    config.write_text(f'include_file "{CONFIGURATIONS["native"][0]}"\ndebug=1\ninclude_file "own.cfg"\n')
    with Chain("native", folder, config=config) as chain:
        yield chain
        chain.drain()
    assert chain.complaints(EXPECTED) == []
    assert not chain.log_lines("Unhandled exception|SystemError|not found or is not callable")


def publish(chain: Chain, name: str, **fields: str) -> None:
    """Publish an event for `nsq:consumer-event-test-<name>`."""
    chain.publish(json.dumps({"Event-Category": "test", "Event-Name": name} | fields).encode())


def read(chain: Chain, topic: str) -> object:
    """Take one message of a topic."""
    with closing(Reader(address(chain.nsqd.tcp_address), Subscription(topic, "test"))) as reader:
        return json.loads(reader.next_message(10).body)


def nothing_arrived(chain: Chain) -> bool:
    """Whether nsqd has none of the topics to which a variable that is not set could lead."""
    return {"0", "<null>", "unset"}.isdisjoint(topic["topic_name"] for topic in chain.nsqd.stats()["topics"])


@pytest.mark.parametrize(
    ("way", "agent"),
    [*product(["jansson"], PLAIN + ODD), *product(["escaped"], PLAIN)],
)
def test_what_arrives_is_what_was_there(native: Chain, way: str, agent: str) -> None:
    publish(native, way, Agent=agent)
    assert read(native, way) == {"User-Agent": agent, "Port": 5060}


def test_a_value_that_is_not_utf_8_leaves_its_field_out_and_a_dot_nests(native: Chain) -> None:
    publish(native, "odd")
    assert read(native, "odd") == {"a": {"b": "c"}}
    assert native.log_lines('value to add is not a string - "no-utf-8"')


@pytest.mark.parametrize("agent", ODD)
def test_what_escaping_makes_no_json_of_is_refused_not_mangled(native: Chain, agent: str) -> None:
    failed = native.counter("publish_failed")
    publish(native, "escaped", Agent=agent)
    until(lambda: native.counter("publish_failed") == failed + 1, what="a refusal")
    assert native.log_lines("the payload is not JSON: .* at line 1 column ")


@pytest.mark.parametrize("name", UNSET)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_variable_that_is_not_set_is_refused(native: Chain, function: str, name: str) -> None:
    _, what, found = UNSET[name]
    said = f"kemi-nsq: {function}: the {what} is '{found}', which is what a variable holds that is not set"
    before = len(native.log_lines(re.escape(said)))
    publish(native, f"{function}-{name}")
    native.kamailio.process.wait_for_log(f"test: {function} {name} rc=-1\n")
    assert len(native.log_lines(re.escape(said))) == before + 1
    assert nothing_arrived(native)


def test_a_name_that_is_none_is_told_at_the_start_and_at_its_call(native: Chain) -> None:
    said = 'python_exec("nsq_pubish"): there is no such function; did you mean nsq_publish?'
    (warning,) = native.log_lines("WARNING: .*" + re.escape(said))
    line = ROUTES[: ROUTES.index("nsq_pubish")].count("\n") + 1
    assert re.search(rf"/own\.cfg, line {line}: python_exec", warning)
    publish(native, "misspelled")
    native.kamailio.process.wait_for_log("test: misspelled rc=-1\n")
    native.kamailio.process.wait_for_log("test: next rc=1 next\n")
    assert len(native.log_lines("ERROR: .*" + re.escape(said))) == 1
    assert native.counter("unknown_function") == 1


def test_in_a_script_a_variable_that_is_not_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(with_handlers(HANDLERS), encoding="utf-8")
    with custom_chain("kemi", tmp_path, script="handlers.py") as chain:
        publish(chain, "unset")
        until(lambda: len(chain.log_lines("test: ")) == 6, what="all calls")
        assert len(chain.log_lines(re.escape("test: (-1, None)"))) == 6
        assert len(chain.log_lines(EXPECTED[0])) == 12
        assert nothing_arrived(chain)
    assert chain.complaints(EXPECTED) == []
