# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own kamailio.cfg with the lines of docs/existing-configuration.md: it publishes, asks and lights lamps.

What it did before it still does: phones register, with a password where that is wanted, and are called.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import pytest

from tests.support.chain import DOMAIN, SHIPPED, Chain, Person
from tests.support.database import share_folder
from tests.support.kamailio import quoted
from tests.support.markdown import examples
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.process import ChildProcess
from tests.support.sip_endpoint import SipEndpoint, exchange
from tests.support.sip_message import Request, Response
from tests.support.sqlservers import mariadb
from tests.support.stock import added, stock_text, with_lines
from tests.support.until import until
from tests.support.watcher import Watcher

OURS = str(Path(sys.executable).with_name("kemi-nsq"))
LINES = 9
#: Where the package has its configurations, in the page.
PLACE = "/usr/share/kemi-nsq/"
FEATURES = ("MYSQL", "AUTH", "USRLOCDB", "PRESENCE", "ANTIFLOOD", "JSONRPC", "TLS")
#: Of Kamailio's schema, besides what a chain makes.
SCHEMAS = ("auth_db-create.sql", "usrloc-create.sql")
PASSWORD = "secret"
#: What the module tls says at each start, of OpenSSL: of its bugs, and in 6.0 of its thread-locals.
TLS_LINES = (r"WARNING: tls \[tls_(init|mod)\.c",)
#: A stranger needs no account to call or watch somebody here.
STRANGER = "sip:carol@elsewhere.example"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """A running Kamailio with Debian's file.

    Attributes:
        chain: it, and its nsqd.
        has_accounts: whether WITH_AUTH is on.
        tcp_port: where it listens for TCP, HTTP among it.
        tls_port: where it listens for TLS, if WITH_TLS is on.
    """

    chain: Chain
    has_accounts: bool
    tcp_port: int
    tls_port: int


def test_few_lines_are_added_and_none_is_changed() -> None:
    stock, made = stock_text().splitlines(), with_lines(stock_text(), added()).splitlines()
    assert len(made) - len(stock) == LINES
    rest = iter(made)
    assert all(line in rest for line in stock), "a line of Debian's is gone, or stands elsewhere"


@contextmanager
def all_on(folder: Path) -> Iterator[Stock]:
    """Run it with every feature, on MariaDB by the URL that Debian's file has."""
    with mariadb() as server:
        for name in SCHEMAS:
            server.execute(share_folder("mysql").joinpath(name).read_text(encoding="utf-8"))
        server.execute("GRANT ALL ON kamailio.* TO kamailio@localhost IDENTIFIED BY 'kamailiorw'")
        server.execute(account())
        url = server.kamailio_url.replace("root@", "kamailio:kamailiorw@")
        defines = {f"WITH_{name}": 1 for name in FEATURES} | {"DBURL": quoted(url)}
        with stock_chain(folder, **defines) as chain:
            yield chain


@contextmanager
def sqlite(folder: Path) -> Iterator[Stock]:
    """Run it with no feature at all, on SQLite, as the page says."""
    (local,) = (each for each in examples("text") if each.page.name == "existing-configuration.md")
    database = "/var/lib/kamailio/kamailio.db"
    assert database in local.text
    (folder / "kamailio-local.cfg").write_text(local.text.replace(database, str(folder / "kamailio.db")))
    with stock_chain(folder) as chain:
        yield chain


@contextmanager
def stock_chain(folder: Path, **defines: str | int) -> Iterator[Stock]:
    """Write Debian's file with the lines into a folder, and around it what a test needs; run it."""
    text = with_lines(stock_text(), added()).replace(PLACE, f"{SHIPPED}/")
    (folder / "kamailio.cfg").write_text(text.replace("/etc/kamailio/tls.cfg", str(folder / "tls.cfg")))
    tcp_port, tls_port = free_tcp_port(), free_tcp_port()
    around = [
        "#!KAMAILIO",
        'include_file "kamailio.cfg"',
        "listen=SIP_LISTEN",
        f"listen=tcp:{LOOPBACK}:{tcp_port}",
        f"alias={DOMAIN}",
        'modparam("ctl", "binrpc", CTL_SOCKET)',
    ]
    if "WITH_TLS" in defines:
        make_certificate(folder)
        around.append(f"listen=tls:{LOOPBACK}:{tls_port}")
    config = folder / "test.cfg"
    config.write_text("\n".join(around) + "\n")
    with Chain("native", folder, config=config, defines={"NSQ_DB_URL": None, **defines}) as chain:
        until(lambda: chain.counter("connected") == 2, what="the consumer's topic and its reply topic")
        yield Stock(chain=chain, has_accounts="WITH_AUTH" in defines, tcp_port=tcp_port, tls_port=tls_port)
        chain.drain()
    assert chain.complaints(TLS_LINES if "WITH_TLS" in defines else ()) == []


def make_certificate(folder: Path) -> None:
    """Write a certificate, its key, and a tls.cfg that names them."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={DOMAIN}", "-days", "1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    lines = ["[server:default]", "method = TLSv1.2+", f"private_key = {folder}/key.pem"]
    (folder / "tls.cfg").write_text("\n".join([*lines, f"certificate = {folder}/certificate.pem"]) + "\n")


def account() -> str:
    """Write the statement that gives Bob an account."""
    return f"INSERT INTO subscriber (username, domain, password) VALUES ('bob', '{DOMAIN}', '{PASSWORD}')"


RUNS: dict[str, Callable[[Path], AbstractContextManager[Stock]]] = {
    "mariadb, all on": all_on,
    "sqlite, all off": sqlite,
}


@pytest.fixture(scope="module", params=RUNS)
def stock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """Run Debian's file with everything switched on, and with nothing."""
    with RUNS[request.param](tmp_path_factory.mktemp("stock")) as stock:
        yield stock


@pytest.fixture
def watcher(stock: Stock) -> Iterator[Watcher]:
    """Return a watcher from elsewhere."""
    with Watcher(stock.chain.kamailio.sip_target, uri=STRANGER) as watcher:
        yield watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Phone:
    """A phone that is busy.

    Attributes:
        contact: its URI.
        called: the Request-URIs of the calls that it got.
    """

    contact: str
    called: list[str]


@pytest.fixture
def phone() -> Iterator[Phone]:
    """Run a phone."""
    called: list[str] = []

    def answer(request: Request) -> Response:
        if request.method == "INVITE":
            called.append(request.uri)
        return request.response(486, "Busy Here")

    errors: list[str] = []
    with SipEndpoint(answer, errors.append) as endpoint:
        yield Phone(contact=f"sip:phone@{LOOPBACK}:{endpoint.address[1]}", called=called)
    assert errors == []


def request(method: str, uri: str, *, sender: str, to: str | None = None, **headers: str) -> Request:
    """Write a request outside a dialog; `_` stands for `-` in names of headers."""
    made = {
        "from": f"<{sender}>;tag={secrets.token_hex(4)}",
        "to": f"<{to or uri}>",
        "call-id": secrets.token_hex(12),
        "cseq": f"1 {method}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Request(method=method, uri=uri, headers=tuple(made.items()))


def call(stock: Stock, user: str, reply: dict[str, str]) -> Response:
    """Call somebody while a responder says where every call goes, and return how it ended."""
    nsqd, words = stock.chain.nsqd, [OURS, "respond", "--topic", "routes", "--reply", json.dumps(reply)]
    responder = ChildProcess("kemi-nsq", [*words, "--nsqd", nsqd.tcp_address], folder=stock.chain.folder)
    try:
        responder.wait_for_log("answering on")
        invite = request("INVITE", f"sip:{user}@{DOMAIN}", sender=STRANGER, contact=f"<sip:carol@{LOOPBACK}:5099>")
        return exchange(stock.chain.kamailio.sip_target, invite, timeout_s=10)
    finally:
        responder.stop()


def test_a_call_is_published_and_goes_where_the_reply_says(stock: Stock, phone: Phone) -> None:
    stock.chain.nsqd.create_topic("calls")
    published = stock.chain.nsqd.topic("calls")["message_count"]
    assert call(stock, "dave", {"Contact": phone.contact}).status == 486
    assert phone.called == [phone.contact]
    assert stock.chain.nsqd.topic("calls")["message_count"] == published + 1


@pytest.mark.parametrize("contact", ["", "phone", f"<sip:phone@{LOOPBACK}:5099>", "tel:+491"])
def test_a_reply_without_a_sip_uri_leaves_a_call_as_it_is(stock: Stock, contact: str) -> None:
    assert call(stock, "nobody", {"Contact": contact}).status == 404


def test_a_phone_registers_and_is_called(stock: Stock, phone: Phone) -> None:
    register(stock, phone)
    assert call(stock, "bob", {}).status == 486
    assert phone.called == [phone.contact]


def register(stock: Stock, phone: Phone) -> None:
    """Register Bob's phone, with his password where it is wanted."""
    target, bob, registrar = stock.chain.kamailio.sip_target, f"sip:bob@{DOMAIN}", f"sip:{DOMAIN}"
    headers = {"contact": f"<{phone.contact}>", "expires": "60"}
    answer = exchange(target, request("REGISTER", registrar, sender=bob, to=bob, **headers))
    if stock.has_accounts:
        assert answer.status == 401
        headers["authorization"] = digest(answer.require("www-authenticate"), "REGISTER", registrar)
        answer = exchange(target, request("REGISTER", registrar, sender=bob, to=bob, **headers))
    assert answer.status == 200


def digest(challenge: str, method: str, uri: str) -> str:
    """Answer a challenge as Bob (RFC 2617 section 3.2.2, without qop)."""
    asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))

    def hashed(*parts: str) -> str:
        return md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()

    who, what = hashed("bob", asked["realm"], PASSWORD), hashed(method, uri)
    fields = {
        "username": "bob",
        "realm": asked["realm"],
        "nonce": asked["nonce"],
        "uri": uri,
        "response": hashed(who, asked["nonce"], what),
    }
    return "Digest " + ", ".join(f'{name}="{value}"' for name, value in fields.items())


def test_a_call_and_a_mailbox_light_lamps(stock: Stock, watcher: Watcher) -> None:
    person = Person(chain=stock.chain)
    lamp, mailbox = (watcher.subscribe(person.uri, package) for package in ("dialog", "message-summary"))
    person.call("confirmed")
    lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a lit lamp")
    person.publish("message-summary", Messages_New=2)
    mailbox.wait(lambda notify: notify.message_summary.waiting, what="a lit lamp")
    person.call("terminated")
    lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="a dark lamp", after=1)
    told = len(lamp.notifies)
    lamp.refresh()
    lamp.wait(lambda notify: notify.dialog_info.version > told, what="the answer to a refresh")


def test_a_producer_that_starts_anew_ends_its_states(stock: Stock, watcher: Watcher) -> None:
    person = Person(chain=stock.chain)
    lamp = watcher.subscribe(person.uri, "dialog")
    person.call("early", Sender_URI="sip:switch@example.com")
    lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="a lit lamp")
    stock.chain.publish(
        b'{"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": "sip:switch@example.com"}'
    )
    lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="a dark lamp", after=1)


def test_a_publish_of_a_phone_is_answered(stock: Stock) -> None:
    pidf = (
        '<?xml version="1.0"?><presence xmlns="urn:ietf:params:xml:ns:pidf" entity="sip:erin@example.com">'
        '<tuple id="t"><status><basic>open</basic></status></tuple></presence>'
    )
    sent = request(
        "PUBLISH",
        f"sip:erin@{DOMAIN}",
        sender=STRANGER,
        event="presence",
        expires="60",
        content_type="application/pidf+xml",
    )
    sent = Request(method=sent.method, uri=sent.uri, headers=sent.headers, body=pidf.encode())
    assert exchange(stock.chain.kamailio.sip_target, sent).status == 200


def test_http_and_tls_are_served_where_they_are_switched_on(stock: Stock) -> None:
    if not stock.has_accounts:
        return  # all are off
    asked = json.dumps({"jsonrpc": "2.0", "method": "core.version", "id": 1}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{LOOPBACK}:{stock.tcp_port}/RPC", asked, timeout=10) as answer:
        assert "kamailio" in json.load(answer)["result"]
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((LOOPBACK, stock.tls_port), timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        assert connection.version() in {"TLSv1.2", "TLSv1.3"}
        with suppress(ssl.SSLEOFError):  # 6.0 closes without an answer
            connection.unwrap()
