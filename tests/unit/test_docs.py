# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages say what is true of the code: links, names, tables, JSON, commands and Python examples are all tried.

What needs Kamailio is in tests/acceptance/test_docs_examples.py.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import typer
from typer.core import TyperGroup

from kemi_nsq import event, jsontext, settings
from kemi_nsq.consumer.deadletters import DeadLetters
from kemi_nsq.counters import Counter
from kemi_nsq.errors import PayloadError
from kemi_nsq.event import Event
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.loading import load
from kemi_nsq.names import Subscription, address
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.plugin.kemi import KemiNsq
from kemi_nsq.plugin.native import NativeNsq
from kemi_nsq.plugin.script import handlers as handlers_of_face
from kemi_nsq.presence.packages import from_event
from kemi_nsq.presence.packages.dialog import DIRECTIONS
from kemi_nsq.presence.packages.presence import PRESENCE_STATES
from kemi_nsq.presence.probe import Probe
from kemi_nsq.testing import FakeHost
from kemi_nsq.tools import reference
from kemi_nsq.tools.cli import app
from tests.support import code_map, decisions, doctor_page
from tests.support.deliveries import delivery
from tests.support.markdown import (
    ROOT,
    Command,
    Example,
    anchors,
    code_words,
    commands,
    examples,
    links,
    pages,
    prose,
    table,
)
from tests.support.presentity_table import create_presentity_table

EVENTS = ROOT / "docs/events.md"
RIGHT = ROOT / "docs/presence-stays-right.md"
#: The languages of fenced blocks. `text` and `diff` are shown and not run here.
LANGUAGES = {"diff", "json", "kamailio", "python", "sh", "text", "yaml"}
#: Programs of the shell examples. Those of ours are tried here, kamcmd, curl and sqlite3 in acceptance.
PROGRAMS = {
    "apt-get",
    "cd",
    "cp",
    "curl",
    "docker",
    "done",
    "echo",
    "env",
    "export",
    "for",
    "git",
    "install",
    "kamailio",
    "kamcmd",
}
PROGRAMS |= {
    "grep",
    "jq",
    "journalctl",
    "kemi-nsq",
    "ln",
    "make",
    "mv",
    "nsqd",
    "pip",
    "python3",
    "setup.sh",
    "sh",
    "sqlite3",
    "systemctl",
}
#: `#!define` names that are no settings, and what Kamailio, not we, calls so.
OTHER_NAMES = {"NSQ_PRESENCE", "NSQ_NAME", "NSQ_LISTEN_TOPIK"}
MARKDOWN_LINE = 120  # of text; tables and lines with a link to elsewhere may be longer


def ids(value: object) -> str:
    return str(value)


class TestReference:
    def test_it_is_what_the_code_says(self) -> None:
        written = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
        assert written == reference.markdown(), "run `make docs`"


class TestMap:
    def test_it_has_a_line_for_each_module_and_says_what_the_module_says(self) -> None:
        assert code_map.kept() == code_map.written(), "run `make docs`"

    def test_each_line_is_one_sentence(self) -> None:
        sentences = {module: code_map.sentence(module) for module in code_map.modules()}
        assert [module for module, text in sentences.items() if not text.endswith((".", "?"))] == []

    def test_each_wing_is_in_it(self) -> None:
        folders = {module.parent.relative_to(code_map.PACKAGE).parts[:1] for module in code_map.modules()}
        assert {"".join(folder) for folder in folders} == set(code_map.WINGS)


def test_the_list_of_decisions_has_each_record() -> None:
    assert decisions.PAGE.read_text(encoding="utf-8") == decisions.written(), "run `make docs`"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
class TestPages:
    def test_every_link_into_the_project_leads_somewhere(self, page: Path) -> None:
        for link in links(page):
            if link.startswith(("https://", "http://")):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{link}: no such file"
            assert not anchor or anchor in anchors(target), f"{link}: {target.name} has no such heading"

    def test_every_setting_that_is_named_exists(self, page: Path) -> None:
        named = set(re.findall(r"\bNSQ_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
        assert named <= {*settings.names(), *settings.CONFIGURATION_ONLY, *OTHER_NAMES}

    def test_every_function_that_is_named_exists(self, page: Path) -> None:
        words = {match for word in code_words(page) for match in re.findall(r"^nsq_[a-z_]+$", word)}
        assert words <= set(dir(NativeNsq)) | set(dir(KemiNsq)) | {"nsq_query_timeout"}

    def test_every_make_target_and_command_that_is_named_exists(self, page: Path) -> None:
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        for word in code_words(page):
            if made := re.match(r"make ([a-z0-9-]+)", word):
                assert made[1] in targets
            if called := re.match(r"kemi-nsq ([a-z][a-z-]*)", word):
                assert called[1] in group.commands

    def test_every_fence_has_a_language_and_no_line_is_too_long(self, page: Path) -> None:
        assert {example.language for example in examples() if example.page == page} <= LANGUAGES
        assert "```" not in prose(page), "a fence is not closed"
        if page.name != "reference.md":
            text = [line for line in prose(page).splitlines() if not line.startswith("|") and "](http" not in line]
            assert max(map(len, text)) <= MARKDOWN_LINE


def test_counters_that_the_pages_speak_of_exist() -> None:
    spoken_of = re.compile(r"(?:counter |`)`?([a-z_]+)`(?: goes up| stays| and the counter|:? the log)")
    found = {name for page in pages() for name in spoken_of.findall(prose(page))}
    assert found
    assert found <= {str(counter) for counter in Counter}


@pytest.mark.parametrize("example", examples("json"), ids=ids)
def test_json_examples_are_json_and_describe_a_state_if_they_say_so(example: Example) -> None:
    _, fields = event.decode(example.text.encode(), max_size=65536)
    if "Event-Package" in fields:
        assert from_event(fields).package == fields["Event-Package"]


class TestTablesOfEvents:
    def test_presence_states(self) -> None:
        written = {state: tuple(meaning) for state, *meaning in table(EVENTS, "`State`".strip("`"))}
        assert written == {
            state: (meaning.basic, meaning.note, meaning.activity) for state, meaning in PRESENCE_STATES.items()
        }

    def test_directions(self) -> None:
        assert dict(table(EVENTS, "Direction")) == DIRECTIONS

    @pytest.mark.parametrize(("body", "line"), table(EVENTS, "body"), ids=ids)
    def test_bodies_that_are_refused(self, body: str, line: str) -> None:
        with pytest.raises(PayloadError) as refused:
            event.decode(b" " if body.startswith("nothing") else body.encode(), max_size=65536)
        assert str(refused.value) == line

    @pytest.mark.parametrize(("change", "line"), table(EVENTS, "change"), ids=ids)
    def test_states_that_are_refused(self, change: str, line: str) -> None:
        first = next(example for example in examples("json") if example.page == EVENTS)
        with pytest.raises(PayloadError) as refused:
            from_event(json.loads(first.text) | json.loads(change))
        assert str(refused.value) == line


class TestPresenceStaysRight:
    """What docs/presence-stays-right.md shows of messages that are ours to write, and of scopes."""

    @pytest.fixture
    def published(self, monkeypatch: pytest.MonkeyPatch) -> list[JsonObject]:
        """Return the list of what was published, as JSON objects."""
        found: list[JsonObject] = []
        monkeypatch.setattr(Publisher, "publish", lambda _self, message: found.append(json.loads(message.body)))
        return found

    def shown(self, key: str) -> Any:
        """Return the JSON example of the page that has a field of this name, or such a value."""
        objects = [json.loads(example.text) for example in examples("json") if example.page == RIGHT]
        return next(each for each in objects if key in each or key in each.values())

    def test_a_dead_letter(self, published: list[JsonObject]) -> None:
        shown = self.shown("Reason")
        dead = delivery(
            shown["Payload"].encode(),
            number=int(shown["Message-ID"], 16),
            attempts=shown["Attempts"],
            timestamp_ns=shown["Timestamp"],
            subscription=Subscription(shown["Topic"], shown["Channel"]),
        )
        given = load({"NSQ_DEAD_LETTER_TOPIC": "dead", "NSQ_NODE": shown["Node"]})
        DeadLetters(given, Publisher(given)).send(dead, reason=shown["Reason"], route=shown["Route"])
        assert published == [shown]

    def test_a_probe(self, published: list[JsonObject]) -> None:
        shown = self.shown("probe")
        given = load({"NSQ_PROBE_TOPIC": "probes", "NSQ_NODE": shown["Node"]})
        Probe(given, Publisher(given), None).everybody()
        assert published == [shown]

    def test_every_scope_is_one(self, tmp_path: Path) -> None:
        url = f"sqlite:///{create_presentity_table(tmp_path / 'kamailio.db')}"
        kamailio = KemiNsq(host := FakeHost(defines={"NSQ_DB_URL": url}))
        values = {"URI": "sip:alice@example.com", "DOMAIN": "example.com"}
        for scope, _ in table(RIGHT, "scope"):
            kind, _, value = scope.partition(" ")
            assert kamailio.nsq_pua_reset(f"{kind} {values.get(value, '')}".strip()) == 2, host.lines


def test_the_page_of_the_doctor_has_all_its_checks() -> None:
    assert doctor_page.PAGE.read_text(encoding="utf-8") == doctor_page.written(), "run `make docs`"


class TestShellExamples:
    @pytest.mark.parametrize("example", examples("sh"), ids=ids)
    def test_the_shell_understands_it(self, example: Example) -> None:
        done = subprocess.run(["bash", "-n"], input=example.text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("command", commands(), ids=ids)
    def test_each_program_is_one_that_a_test_knows(self, command: Command) -> None:
        assert command.program in PROGRAMS

    @pytest.mark.parametrize("command", commands("kemi-nsq"), ids=ids)
    def test_our_command_line_accepts_it(self, command: Command) -> None:
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        words = command.words[1:]
        name, *arguments = words[2:] if words[0] == "--config" else words
        with group.commands[name].make_context(name, arguments) as context:
            for parameter in ("payload", "reply"):
                if text := context.params.get(parameter):
                    jsontext.json_object(text)

    @pytest.mark.parametrize("command", commands("kemi-nsq", "curl"), ids=ids)
    def test_events_in_it_describe_a_state(self, command: Command) -> None:
        for word in command.words:
            if '"Event-Package"' in word:
                assert from_event(jsontext.json_object(word)).package == "dialog"

    def test_the_steps_of_an_installation_exist(self) -> None:
        setup = (ROOT / "docker/setup.sh").read_text(encoding="utf-8")
        installing = [" ".join(each.words).partition("docker/setup.sh ")[2].split() for each in commands()]
        steps = [word for words in installing for word in words]
        assert steps == ["--runtime", "packages", "venv", "nsq"]
        assert all(f"step_{step}()" in setup for step in steps[1:])

    @pytest.mark.parametrize("command", commands("make"), ids=ids)
    def test_make_has_the_target(self, command: Command) -> None:
        done = subprocess.run(["make", "--dry-run", *command.words[1:]], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def _inside_kamailio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import KSR` and `import nsq` work; what `KSR` really has is tried in acceptance."""
    monkeypatch.setitem(sys.modules, "KSR", MagicMock(name="KSR"))
    monkeypatch.setitem(sys.modules, "nsq", ModuleType("nsq"))
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"User": "bob"}'))  # a responder reads a question


@pytest.fixture
def example_module(example: Example, monkeypatch: pytest.MonkeyPatch, _inside_kamailio: None) -> ModuleType:
    """Run an example as a module, which is how Kamailio runs a script."""
    module = ModuleType("docs_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(example.text, str(example), "exec"), vars(module))
    return module


def sample_event() -> Event:
    """Return an event that announces a state."""
    payload = next(example for example in examples("json") if example.page == EVENTS).text
    fields: JsonObject = json.loads(payload)
    facts: dict[str, Any] = {"message_id": "0" * 16, "timestamp_ns": 1, "attempts": 1}
    return Event(topic="kamailio", channel="kamailio", payload=payload, fields=fields, **facts)


@pytest.mark.parametrize("example", examples("python"), ids=ids)
class TestPythonExamples:
    def test_its_tests_pass(self, example: Example, example_module: ModuleType) -> None:
        found = [value for name, value in vars(example_module).items() if name.startswith("test_")]
        for test in found:
            test()
        assert found or "def test_" not in example.text

    def test_its_handlers_run(self, example: Example, example_module: ModuleType) -> None:
        kamailio = vars(example_module).get("Kamailio")
        if kamailio is None:
            assert "KemiNsq)" not in example.text
            return
        made = kamailio(FakeHost(defines={"NSQ_PUBLISH_TIMEOUT": "0.01", "NSQ_NSQD_TCP_ADDRESS": "127.0.0.1:1"}))
        handlers = handlers_of_face(made)
        for handler in handlers.values():
            assert handler(sample_event()) in (None, 1, -1)
        assert bool(handlers) == ("@event_route" in example.text)


def test_native_examples_call_functions_that_exist() -> None:
    for example in examples("kamailio"):
        for name in re.findall(r'python_exec\("(\w+)"', example.text):
            assert hasattr(NativeNsq, name), f"{example}: {name}"


def test_text_examples_of_the_log_have_the_form_of_the_host() -> None:
    for example in examples("text"):
        for line in example.text.splitlines():
            assert not line.startswith("ERROR:") or "sr_kemi_core_err(): kemi-nsq: " in line


def test_the_decision_on_dependencies_names_them_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {re.split(r"[\[=<>~]", each)[0] for each in project["dependencies"]}
    named = {row[0] for row in table(ROOT / "docs/decisions/0009-dependencies.md", "package")}
    assert named == wanted


def test_addresses_in_the_examples_are_the_defaults() -> None:
    for example in examples("kamailio"):
        for text in re.findall(r'NSQ_NSQD_TCP_ADDRESS "([^"]+)"', example.text):
            assert (address(text),) == load({}).nsqd_tcp_address
