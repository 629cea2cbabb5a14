# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Prometheus scrapes a real Kamailio; alert rules and the dashboard mean something with what it finds."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.support.chain import CHANNEL, TOPIC, Chain, Person
from tests.support.kamailio import quoted
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.prometheus import Prometheus, promtool, wait_for
from tests.support.until import until

MONITORING = Path(__file__).parents[2] / "kamailio/monitoring"
RULES = MONITORING / "alerts.yml"
PORT = free_tcp_port()
URL = f"http://{LOOPBACK}:{PORT}/metrics"
#: What a dashboard's variables stand for.
VARIABLES = {"$instance": ".*", "$__rate_interval": "30s"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    defines: dict[str, str | int | None] = {
        "NSQ_METRICS_ADDRESS": quoted(f"{LOOPBACK}:{PORT}"), "NSQ_CONSUMERS": 2,
        "NSQ_DEAD_LETTER_TOPIC": quoted("dead"),
    }  # fmt: skip
    with Chain("native", tmp_path_factory.mktemp("metrics"), defines=defines) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        with chain.watcher() as watcher:
            person = Person(chain=chain)
            lamp = watcher.subscribe(person.uri, "dialog")
            person.call("early")
            lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="the lamp")
            chain.publish(b"no json")
            chain.drain()
            yield chain


@pytest.fixture(scope="module")
def prometheus(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus") / "one"
    with Prometheus(folder, f"{LOOPBACK}:{PORT}", RULES) as prometheus:
        until(prometheus.is_scraped, timeout_s=20, what="a scrape")
        yield prometheus


def scraped() -> str:
    with urllib.request.urlopen(URL, timeout=10) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return str(answer.read().decode())


def test_promtool_finds_nothing_to_complain_of(chain: Chain) -> None:
    assert promtool("check", "metrics", stdin=scraped().encode()) == (0, "")


def test_one_of_two_consumers_serves_all(chain: Chain) -> None:
    text = scraped()
    assert "\nkemi_nsq_consumers 2.0\n" in text
    assert len(set(re.findall(r'^kemi_nsq_in_flight_messages\{pid="(\d+)"\}', text, re.MULTILINE))) == 2
    assert f"\nkemi_nsq_received_total {float(chain.counter('received'))}\n" in text
    assert f'\nkemi_nsq_topic_received_total{{channel="{CHANNEL}",topic="{TOPIC}"}} 2.0\n' in text
    assert f'kemi_nsq_lag_messages{{channel="{CHANNEL}",topic="{TOPIC}"}} 0.0' in text
    assert re.search(
        r'^kemi_nsq_route_events_total\{outcome="done",route="nsq:\S+",topic="kamailio"\} 1\.0', text, re.M
    )
    assert len(chain.log_lines("no metrics")) == 0


def test_prometheus_reads_it(prometheus: Prometheus, chain: Chain) -> None:
    (found,) = wait_for(prometheus, "kemi_nsq_received_total")
    assert float(found["value"][1]) == chain.counter("received")
    assert wait_for(prometheus, 'histogram_quantile(0.95, kemi_nsq_stage_seconds_bucket{stage="notify"}) > 0')


def rules() -> dict[str, str]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def dashboard() -> list[str]:
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_promtool_takes_the_rules() -> None:
    code, said = promtool("check", "rules", str(RULES))
    assert (code, f"SUCCESS: {len(rules())} rules found" in said) == (0, True), said


@pytest.mark.parametrize("alert", rules())
def test_each_rule_names_what_there_is(prometheus: Prometheus, alert: str) -> None:
    names = set(re.findall(r"\bkemi_nsq_\w+|\bup\b", rules()[alert]))
    assert names
    for name in names:
        assert wait_for(prometheus, name), name
    prometheus.query(rules()[alert])


@pytest.mark.parametrize("expression", dashboard())
def test_each_panel_shows_something(prometheus: Prometheus, expression: str) -> None:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    wait_for(prometheus, expression)


def test_rules_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    """By promtool, which makes time pass; it would want the texts, too."""
    plain = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in plain["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    cases = Path(__file__).with_name("alerts_test.yml").read_text(encoding="utf-8")
    cases = cases.replace("RULES", str(tmp_path / "rules.yml"))
    (tmp_path / "alerts_test.yml").write_text(cases, encoding="utf-8")
    assert {each["alertname"] for test in yaml.safe_load(cases)["tests"] for each in test["alert_rule_test"]} == {
        *rules()
    }
    code, said = promtool("test", "rules", str(tmp_path / "alerts_test.yml"))
    assert code == 0, said


# Who asks otherwise


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404 "),
        (b"POST /metrics HTTP/1.1", b"405 "),
        (b"GET /metrics?x=1 HTTP/1.0", b"200 "),
        (b"HEAD /metrics HTTP/1.1", b"200 "),
        (b"nonsense", b"405 "),
    ],
)
def test_what_is_asked_otherwise_is_refused(chain: Chain, request_line: bytes, status: bytes) -> None:
    with socket.create_connection((LOOPBACK, PORT), timeout=10) as asking:
        asking.sendall(request_line + b"\r\n\r\n")
        answer = b"".join(iter(lambda: asking.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 " + status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (len(body) > 0) == (not request_line.startswith(b"HEAD"))
    assert b"Connection: close" in head


def test_hostile_clients_cost_no_more_than_their_own_time(chain: Chain) -> None:
    with ExitStack() as stack:
        for greeting in (b"", b"GET /metrics HTTP/1.1\r\n", b"x" * 100_000):
            silent = stack.enter_context(socket.create_connection((LOOPBACK, PORT), timeout=10))
            silent.sendall(greeting)
        assert "kemi_nsq_consumers 2.0" in scraped()


def test_an_address_that_is_taken_is_told_and_taken_when_it_is_free(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        chain = Chain("kemi", tmp_path, defines={"NSQ_METRICS_ADDRESS": quoted(address)})
        chain.__enter__()
        until(lambda: chain.log_lines("no metrics: NSQ_METRICS_ADDRESS .*Address already in use"), what="the line")
    try:
        until(lambda: chain.log_lines(f"metrics are at http://{address}/metrics"), timeout_s=15, what="the other line")
    finally:
        chain.__exit__(None, None, None)


def test_an_address_that_is_open_to_others_is_told(tmp_path: Path) -> None:
    defines = {"NSQ_METRICS_ADDRESS": quoted(f"0.0.0.0:{free_tcp_port()}")}
    with Chain("kemi", tmp_path, defines=defines) as chain:
        assert len(chain.log_lines("WARNING.*is open to other machines, and asks for no password")) == 1


def test_the_default_is_none(tmp_path: Path) -> None:
    with Chain("native", tmp_path) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        assert chain.log_lines("metrics") == []
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(f"http://{LOOPBACK}:{free_tcp_port()}/metrics", timeout=1)
