# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of README.md and docs/ run: configurations and scripts in a real Kamailio, commands in a real shell.

Each configuration or script gets an INVITE and the event that its event route is for; what it publishes must arrive,
what it asks for must be answered.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kemi_nsq.tools.deadletters import CHANNEL as LETTERS
from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import CHANNEL, CONFIGURATIONS, SHIPPED, TOPIC, Chain
from tests.support.command import addresses
from tests.support.kamailio import CLEAN_PATH, PROGRAM_PATH, quoted
from tests.support.markdown import ROOT, Command, Example, commands, examples
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.process import ChildProcess, find_program
from tests.support.sip_endpoint import SipEndpoint
from tests.support.sip_message import Request, Response
from tests.support.until import until

OURS = str(Path(sys.executable).with_name("kemi-nsq"))
CONTACT = "sip:bob@192.0.2.7"
#: What the examples name, where it lies on a real machine.
DATABASE, NSQD_TCP, NSQD_HTTP = "/var/lib/kamailio/kamailio.db", "127.0.0.1:4150", "127.0.0.1:4151"
DEBIANS = "/etc/kamailio/kamailio.cfg"
METRICS, OUR_METRICS = "127.0.0.1:9151", f"{LOOPBACK}:{free_tcp_port()}"
#: Commands that look into the runtime folder.
BESIDE = {"status", "pause", "presence", "resume", "drain", "log-level"}
FILES = "/var/lib/kamailio/"
#: Where the package has its configurations, which lie beside an example here.
INSTALLED = "/usr/share/kemi-nsq/"
#: Page to the final response that its request route gives to an INVITE; where there is none, ours gives 200.
STATUS = {
    "README.md": 404,
    "howto-publish.md": 202,
    "howto-query.md": 302,
    "howto-query-async.md": 302,
    "migrate-from-kazoo.md": 302,
    "migrate-from-nsq.md": 404,
    "migrate-from-pua-json.md": 200,
}
#: Page to what its example writes to the log about the first event of events.md.
SAYS = {
    "migrate-from-kazoo.md": "dialog of sip:alice@example.com",
    "migrate-from-nsq.md": "dialog of sip:alice@example.com",
}

#: Answers OPTIONS, as the tests' Kamailio must, and lets the example do the rest.
NATIVE_ROUTE = """
request_route {{
    if (!is_method("OPTIONS")) {{
        {call}
    }}
    sl_send_reply("200", "OK");
}}
"""
PYTHON_SCRIPT = """
import KSR
import docs_example

original = docs_example.Kamailio.ksr_request_route

def ksr_request_route(self, msg):
    if KSR.is_method("OPTIONS"):
        KSR.sl.sl_send_reply(200, "OK")
        return 1
    return original(self, msg)

docs_example.Kamailio.ksr_request_route = ksr_request_route
mod_init = docs_example.mod_init
"""


def native_text(example: Example) -> str:
    """Complete a piece of a native configuration: modules before it, a request route around its own."""
    written = example.text.replace(INSTALLED, "")
    if 'include_file "kamailio.cfg"' in written:  # the whole server; where it listens is for the test to say
        return re.sub(r"^#!define SIP_.*\n", "", written, flags=re.MULTILINE)
    includes = 'include_file "presence.cfg"\ninclude_file "nsq.cfg"\n'
    text = re.sub(r"^#!define NSQ_(DB_URL|NSQD_TCP_ADDRESS) .*\n", "", example.text, flags=re.MULTILINE)
    text = text.replace('include_file "nsq-presence.cfg"\n', "")  # which presence.cfg includes
    text = text.replace('include_file "nsq.cfg"\n', includes) if "include_file" in text else includes + text
    text = text.replace("request_route {", "route[EXAMPLE] {")
    routes = re.findall(r"^route\[(\w+)\]", text, re.MULTILINE)
    return f"#!KAMAILIO\n{text}" + NATIVE_ROUTE.format(call=f"route({routes[0]});" if routes else "exit;")


def chain_of(example: Example, folder: Path) -> Chain:
    """Return a chain whose Kamailio runs the example."""
    for name in ("kamailio.cfg", "nsq.cfg", "nsq-presence.cfg", "presence.cfg", "nsq.py"):
        (folder / name).symlink_to(SHIPPED / name)
    if example.language == "kamailio":
        config = folder / "example.cfg"
        config.write_text(native_text(example).replace(FILES, f"{folder}/"), encoding="utf-8")
        return Chain("native", folder, config=config)
    (folder / "docs_example.py").write_text(example.text, encoding="utf-8")
    script = folder / "script.py"
    script.write_text(PYTHON_SCRIPT, encoding="utf-8")
    return Chain("kemi", folder, config=CONFIGURATIONS["kemi"][0], script=script)


def invite(chain: Chain) -> Response:
    """Send an INVITE and return the final response."""
    host, port = chain.kamailio.sip_target
    answers: list[Response | None] = []
    answered = threading.Event()

    def on_final(response: Response | None) -> None:
        answers.append(response)
        answered.set()

    with SipEndpoint(lambda request: request.response(501, "Not Implemented"), lambda _error: None) as endpoint:
        here = f"sip:phone@{LOOPBACK}:{endpoint.address[1]}"
        headers = (
            ("from", f"<{here}>;tag={secrets.token_hex(4)}"),
            ("to", "<sip:bob@example.com>"),
            ("call-id", secrets.token_hex(12)),
            ("cseq", "1 INVITE"),
            ("contact", f"<{here}>"),
        )
        endpoint.send(Request(method="INVITE", uri="sip:bob@example.com", headers=headers), (host, port), on_final)
        answered.wait(10)
    answer = answers[0] if answers else None
    assert answer is not None, f"no answer to INVITE\n{chain.kamailio.log_text()}"
    return answer


#: Its events are those of the pages.
UPDATE = "nsq:consumer-event-presence-update"


def event_for(route: str) -> bytes:
    """Return an event that the event route of this name handles."""
    if route == UPDATE:
        return next(example for example in examples("json") if example.page.name == "events.md").text.encode()
    category = route.removeprefix("nsq:consumer-event").strip("-")
    return json.dumps({"Event-Category": category or "anything"}).encode()


def published_topics(text: str) -> set[str]:
    """Name the topics to which an example publishes, or from which it waits for no reply."""
    native = re.findall(r'"nsq_publish(?:_deferred)?", ["\'](\S+) ', text)
    return {*native, *re.findall(r'self\.nsq_publish\("(\S+)"', text)}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ChildProcess]]:
    """Return a function that starts a command of ours; whatever it started is ended after the test."""
    started: list[ChildProcess] = []

    def start(*words: str) -> ChildProcess:
        started.append(ChildProcess("kemi-nsq", [OURS, *words], folder=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def _responder() -> tuple[str, ...]:
    """Return the words of the first responder of the pages."""
    return next(command.words[1:] for command in commands("kemi-nsq") if "--reply" in command.words)


RUNNABLE = [each for each in examples("kamailio", "python") if each.language != "python" or "def mod_init" in each.text]


@pytest.mark.parametrize("example", RUNNABLE, ids=str)
def test_an_example_does_what_its_page_says(
    example: Example, tmp_path: Path, start: Callable[..., ChildProcess]
) -> None:
    with chain_of(example, tmp_path) as chain:
        topics = 3 if "NSQ_REPLAY_TOPIC" in example.text else 2
        until(lambda: chain.counter("connected") == topics, what="the consumer's topics and its reply topic")
        if "nsq_query" in example.text:
            start(*_responder(), "--nsqd", chain.nsqd.tcp_address).wait_for_log("answering on")
        if "request_route" in example.text or "\nroute[" in f"\n{example.text}":
            answer = invite(chain)
            has_own = "request_route" in example.text
            assert answer.status == (STATUS[example.page.name] if has_own else 200), chain.kamailio.log_text()
            assert answer.status != 302 or answer.get("contact") == f"<{CONTACT}>"
        for route in re.findall(r"nsq:consumer-event[a-z-]*", example.text):
            chain.publish(event_for(route))
            until(lambda: chain.counter("received") == 1, what="the event")
            chain.drain()
            given = example.text.count('"nsq_pua_publish", "')  # by the request route
            assert chain.counter("pua_stored") == int(route == UPDATE) + given
            assert chain.log_lines(SAYS.get(example.page.name, ""))
        if "#!define NSQ_PUA_BUILTIN 1" in example.text:
            chain.publish(event_for(UPDATE))
            until(lambda: chain.counter("pua_stored") == 1, what="a state, without a route")
        for topic in published_topics(example.text):
            assert chain.nsqd.topic(topic)["message_count"] == 1
        assert "Unhandled exception" not in chain.kamailio.log_text()
        assert {"bug", "unrouted", "route_failed", "requeued"}.isdisjoint(chain.counters()), chain.kamailio.log_text()


SUSPENDING = [each for each in RUNNABLE if "nsq_query_async" in each.text]


@pytest.mark.parametrize("wrong", ["no/topic", "NO_ROUTE"])
@pytest.mark.parametrize("example", SUSPENDING, ids=str)
def test_a_caller_hears_of_a_query_that_is_not_suspended(example: Example, wrong: str, tmp_path: Path) -> None:
    right = r'(?<=")routes\b' if wrong == "no/topic" else r'(?<="routes )REDIRECT|(?<=")redirect(?=")'
    text, changed = re.subn(right, wrong, example.text)
    assert changed == 1
    with chain_of(dataclasses.replace(example, text=text), tmp_path) as chain:
        answer = invite(chain)
        assert (answer.status, chain.counter("queried")) == (503, 0), chain.kamailio.log_text()
        (line,) = chain.log_lines("ERROR:")
        assert wrong in line


@pytest.mark.parametrize("example", examples("kamailio"), ids=str)
def test_kamailio_accepts_the_grammar(example: Example, tmp_path: Path) -> None:
    chain_of(example, tmp_path)
    script = f'NSQ_SCRIPT="{SHIPPED / "nsq.py"}"'
    command = [find_program("kamailio", path=PROGRAM_PATH), "-c", "-f", str(tmp_path / "example.cfg"), "-A", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": CLEAN_PATH})
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run the shipped native configuration, which has had the first event of the quick start."""
    folder = tmp_path_factory.mktemp("shipped")
    defines = {"NSQ_METRICS_ADDRESS": quoted(OUR_METRICS)}
    config = folder / Path(DEBIANS).name  # which no other Kamailio has
    config.write_text(f'#!KAMAILIO\ninclude_file "{SHIPPED}/kamailio.cfg"\n')
    with Chain("native", folder, config=config, defines=defines) as chain:
        chain.publish(event_for(UPDATE))
        until(lambda: chain.counter("pua_stored") == 1, what="the first event")
        yield chain


def here(command: Command, chain: Chain) -> list[str]:
    """Return a command's words with this chain's addresses and files in place of the examples'."""
    places = {
        DATABASE: str(chain.database),
        METRICS: OUR_METRICS,
        DEBIANS: str(chain.folder / Path(DEBIANS).name),
        NSQD_TCP: chain.nsqd.tcp_address,
        NSQD_HTTP: chain.nsqd.http_address,
    }
    words = list(command.words)
    for written, real in places.items():
        words = [word.replace(written, real) for word in words]
    return words


@pytest.mark.parametrize("command", commands("kamcmd"), ids=str)
def test_kamailio_knows_the_rpc_command(command: Command, shipped: Chain) -> None:
    method, *arguments = command.words[1:]
    shipped.kamailio.rpc(method, *(int(word) if word.isdigit() else word for word in arguments))


@pytest.mark.parametrize("command", commands("curl", "sqlite3"), ids=str)
def test_a_tool_does_it(command: Command, shipped: Chain) -> None:
    words = here(command, shipped)
    shipped.publish(event_for(UPDATE))  # a command before may have ended all states
    shipped.drain()
    options = ["--fail", "--silent", "--noproxy", "*"] if command.program == "curl" else []
    done = subprocess.run([words[0], *options, *words[1:]], capture_output=True, text=True, check=False, timeout=10)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout or "active_watchers" in words[-1]  # nobody watches here
    shipped.drain()


@pytest.mark.parametrize("command", commands("kemi-nsq"), ids=str)
def test_our_command_does_it(command: Command, shipped: Chain, start: Callable[..., ChildProcess]) -> None:
    http = shipped.nsqd.http_address
    nsqd = {"publish": http, "query": shipped.nsqd.tcp_address}
    name = command.words[1]
    if name in {"respond", "dead-letters", "tail", "reload"} or "--watch" in command.words:
        return  # below
    if command.words[1:3] == ("presence", "watch"):
        return  # test_presence_commands.py
    if name == "query":
        start(*_responder(), "--nsqd", shipped.nsqd.tcp_address).wait_for_log("answering on")
    words = [OURS, *here(command, shipped)[1:], *(("--nsqd", nsqd[name]) if name in nsqd else ())]
    words += ["--run-dir", str(shipped.kamailio.pages_folder)] if name in BESIDE else []
    words += [str(shipped.folder / Path(DEBIANS).name)] if words[1:] == ["doctor"] else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NSQ_")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=30)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert name != "query" or json.loads(done.stdout)["Contact"] == CONTACT
    if name in {"pause", "drain"}:
        subprocess.run([OURS, "resume", *words[-2:]], check=True, timeout=10, stdout=subprocess.PIPE)
    shipped.drain(topic=TOPIC, channel=CHANNEL)


def test_our_live_view_shows_the_first_line(shipped: Chain, start: Callable[..., ChildProcess]) -> None:
    (watching,) = (each for each in commands("kemi-nsq") if each.words[1:] == ("status", "--watch"))
    live = start(*watching.words[1:], "--run-dir", str(shipped.kamailio.pages_folder))
    live.wait_for_log("^KEMI-NSQ OK - ")


RELOADING = [each for each in commands("kemi-nsq") if each.words[1] == "reload"]


@pytest.mark.parametrize("command", RELOADING, ids=str)
def test_our_command_loads_a_script_anew(command: Command, tmp_path: Path) -> None:
    """The one that the page speaks of."""
    handler = '@event_route("nsq:consumer-event-call-new")\ndef started(self, event):\n    pass'
    (tmp_path / "calls.py").write_text(with_handlers(handler))
    with custom_chain("kemi", tmp_path, script="calls.py") as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        words = [OURS, *command.words[1:], "--run-dir", str(chain.kamailio.pages_folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^consumer \d+: \S+/calls.py, version \w{8}: nsq:consumer-event-call-new", done.stdout)


LOOKING = [each for each in commands("kemi-nsq") if each.words[1] in {"dead-letters", "tail"}]


@pytest.mark.parametrize("command", LOOKING, ids=str)
def test_our_command_finds_letters_and_messages(command: Command, shipped: Chain, tmp_path: Path) -> None:
    """Those that the pages speak of: the letter that one of them shows, and events."""
    letter = next(each.text for each in examples("json") if '"Reason"' in each.text)
    channels = [("dead", LETTERS), ("replays", CHANNEL)]
    for topic, channel in channels:
        shipped.nsqd.create_topic(topic)
        shipped.nsqd.create_channel(topic, channel)
    shipped.publish(letter.encode(), topic="dead")
    until(lambda: shipped.nsqd.channel("dead", LETTERS).depth, what="a letter")
    names = {each[0]: each[1] for each in (word.split("=") for word in _exported())}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NSQ_")} | names
    process = ChildProcess(
        "kemi-nsq", [OURS, *command.words[1:]], folder=tmp_path, environment=environment | addresses(shipped.nsqd)
    )
    if command.words[1] == "tail":
        until(lambda: len(shipped.nsqd.topic(TOPIC)["channels"]) == 2, what="its channel")
        shipped.publish(event_for(UPDATE))
    assert process.wait_exit() == 0, process.log_text()
    assert "kemi-nsq:" not in process.log_text()
    assert process.log_text().strip()
    for topic, channel in channels:
        shipped.nsqd.http("POST", "/channel/empty", topic=topic, channel=channel)


def _exported() -> list[str]:
    """Return the variables that the page of dead letters sets."""
    return [word for command in commands("export") for word in command.words[1:]]


@pytest.mark.parametrize("command", [each for each in commands("kemi-nsq") if each.words[1] == "respond"], ids=str)
def test_a_responder_answers(
    command: Command, shipped: Chain, tmp_path: Path, start: Callable[..., ChildProcess]
) -> None:
    program = next(example for example in examples("python") if example.text.startswith("#!"))
    (tmp_path / "where.py").write_text(program.text, encoding="utf-8")
    (tmp_path / "where.py").chmod(0o700)
    start(*command.words[1:], "--nsqd", shipped.nsqd.tcp_address).wait_for_log("answering on")
    asked = [OURS, "query", "routes", '{"User": "bob"}', "--nsqd", shipped.nsqd.tcp_address]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=10)
    assert json.loads(done.stdout)["Contact"] == CONTACT


def test_the_schema_of_a_checkout_is_enough(tmp_path: Path) -> None:
    example = next(example for example in examples("sh") if "/opt/kemi-nsq/kamailio/sql/sqlite.sql" in example.text)
    text = example.text[example.text.index("sudo -u kamailio ") :].replace("sudo -u kamailio ", "")
    text = text.replace(DATABASE, str(tmp_path / "kamailio.db")).replace("/opt/kemi-nsq", str(ROOT))
    done = subprocess.run(["bash", "-eu"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    tables = subprocess.check_output(["sqlite3", str(tmp_path / "kamailio.db"), ".tables"], text=True).split()
    assert {"presentity", "active_watchers", "subscriber", "version"} <= set(tables)


def test_the_links_of_the_quick_start_lead_into_the_project() -> None:
    linked = [Path(word) for command in commands("ln") for word in command.words if word.startswith("/opt/kemi-nsq/")]
    assert linked
    # nsqd is built there where the machine has none of its own.
    built = {path for path in linked if path.match(".tools/bin/*")}
    assert all(find_program(path.name) for path in built)
    assert all((ROOT / path.relative_to("/opt/kemi-nsq")).is_file() for path in {*linked} - built)
