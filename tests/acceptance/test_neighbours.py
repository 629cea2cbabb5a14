# SPDX-License-Identifier: GPL-2.0-or-later
"""Neighbours of a Kamailio: another one of the same name, another user of the machine, and who reads its replies."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.runtime.folder import sheets
from kemi_nsq.runtime.place import SOCKET
from kemi_nsq.tools.reader import Reader
from tests.support.calls import Call, Caller, calls_chain, result
from tests.support.chain import Chain
from tests.support.kamailio import quoted
from tests.support.places import NOBODY, run_as, running_as
from tests.support.responding import Request, Responding
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so the responder's has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

QUERIES = 20
#: It looks every 10 s, give or take some.
SEEN_S = 30.0
#: Who is no user of Kamailio's: somebody else if the tests may be that, else at least another process.
STRANGER = NOBODY if os.getuid() == 0 else os.getuid()
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as somebody else")


@pytest.fixture(params=["native", "kemi"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chain]:
    with calls_chain(request.param, tmp_path) as chain:
        yield chain


def fields(request: Request) -> Request:
    return {"asked": request.get("n")}


def ask(caller: Caller, number: int = 0, function: str = "nsq_query where") -> Call:
    name, _, rest = function.partition(" ")
    return caller.call(name, f'{rest} {{"n": {number}}}')


def answered(caller: Caller) -> bool:
    """Whether a query has its reply."""
    return bool(ask(caller).wait().get("X-Reply"))


# Another Kamailio


@pytest.mark.parametrize("function", ["nsq_query where", "nsq_query_async where ANSWERED"])
def test_two_of_one_name_each_get_all_their_replies(tmp_path: Path, function: str) -> None:
    with ExitStack() as stack:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        first = stack.enter_context(calls_chain("native", tmp_path / "a"))
        tcp, http = (quoted(each) for each in (first.nsqd.tcp_address, first.nsqd.http_address))
        second = stack.enter_context(
            calls_chain("kemi", tmp_path / "b", NSQ_NSQD_TCP_ADDRESS=tcp, NSQ_NSQD_ADDRESS=http)
        )
        topics = first.nsqd.reply_topics()
        assert len(topics) == 2
        assert all(re.fullmatch(r"kamailio-0\.node\.[a-z2-7]{8}\.replies#ephemeral", topic) for topic in topics)
        responding = stack.enter_context(Responding(first.nsqd, "where", fields))
        for chain in (first, second):
            caller = stack.enter_context(Caller(chain.kamailio.sip_target))
            for number in range(QUERIES):
                answer = ask(caller, number, function).wait()
                assert (json.loads(answer.require("X-Reply"))["asked"], result(answer)) == (number, (1, ""))
            assert chain.counter("reply_dropped") == 0
        assert {request["Node"] for request in responding.requests} == {"node"}


def test_the_reply_topic_is_the_same_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with calls_chain("native", tmp_path, NSQ_RUN_DIR=quoted(folder)) as chain:
        (before,) = chain.nsqd.reply_topics()
        chain.kamailio.stop()
        shutil.rmtree(folder)  # as systemd does with a RuntimeDirectory
        until(lambda: chain.nsqd.reply_topics() == [], what="nsqd to forget the topic")
        chain.kamailio.start()
        until(lambda: chain.nsqd.reply_topics() == [before], what="the same topic")


# Another user

#: Takes the names by which the processes of a Kamailio could once be reached, before it starts; says what came.
SQUATTER = """
    import socket, sys
    boxes = []
    first = int(open("/proc/loadavg").read().split()[-1])
    for pid in range(first, first + 200):
        for slot in range(4):
            boxes.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            boxes[-1].bind("\\0kemi-nsq/%d/consumer/%d" % (pid, slot))
            boxes[-1].setblocking(False)
    print("ready", flush=True)
    sys.stdin.read()
    letters = []
    for box in boxes:
        try:
            letters.append(box.recv(4096))
        except BlockingIOError:
            pass
    print(letters, flush=True)
"""
#: Tries what others could do with a folder of sockets.
INTRUDER = """
    import os, socket, sys
    folder, names = sys.argv[1], sys.argv[2:]
    done = []
    def attempt(what, *arguments):
        try:
            what(*arguments)
            done.append(str(arguments))
        except PermissionError:
            pass
    for name in names:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
            attempt(box.sendto, b"{}", folder + "/" + name)
        attempt(os.unlink, folder + "/" + name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        attempt(box.bind, folder + "/consumer-1.sock")
    attempt(os.listdir, folder)
    attempt(os.rename, folder, folder + ".old")
    print(done)
"""


def test_who_takes_names_first_gets_no_letter(tmp_path: Path) -> None:
    with running_as(STRANGER, SQUATTER) as squatter, calls_chain("native", tmp_path) as chain:
        with Responding(chain.nsqd, "where", fields), Caller(chain.kamailio.sip_target) as caller:
            assert all(answered(caller) for _ in range(QUERIES))
        chain.publish(b'{"Event-Category": "test", "Event-Name": "query", "n": 1}')
        chain.drain()
        assert squatter.stdin is not None
        assert squatter.stdout is not None
        squatter.stdin.close()
        assert squatter.stdout.read() == "[]\n"


def abstract_names(pids: Iterable[int]) -> list[str]:
    """Return the names of sockets of processes that lie in no folder, so that everybody can reach them (unix(7))."""
    links = [os.readlink(file) for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir()]
    fields = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()]
    return [name for *_, inode, name in fields if name.startswith("@") and f"socket:[{inode}]" in links]


@as_root
def test_another_user_reaches_nothing_in_the_folder(chain: Chain) -> None:
    with Responding(chain.nsqd, "where", fields), Caller(chain.kamailio.sip_target) as caller:
        assert answered(caller)
        folder = chain.kamailio.pages_folder
        names = sorted(file.name for file in folder.glob(f"*{SOCKET}"))
        assert f"consumer-0{SOCKET}" in names
        assert len(names) >= 2
        folder.parent.chmod(0o755)  # the way there is open, as it is to /run/kamailio
        assert run_as(NOBODY, INTRUDER, str(folder), *names) == "[]\n"
        assert {(folder / name).stat().st_mode & 0o777 for name in names} == {0o600}
        assert answered(caller)
        assert abstract_names(chain.kamailio.pids()) == []


@as_root
def test_started_by_root_for_another_user_it_asks_as_that_user(open_path: Path) -> None:
    with calls_chain("native", open_path, options=("-u", "nobody")) as chain:
        with Responding(chain.nsqd, "where", fields), Caller(chain.kamailio.sip_target) as caller:
            assert answered(caller)
            assert result(ask(caller, 1, "nsq_query_async where ANSWERED").wait()) == (1, "")
        sockets = list(chain.kamailio.pages_folder.glob(f"*{SOCKET}"))
        assert {file.owner() for file in sockets} == {pwd.getpwuid(NOBODY).pw_name}
        assert chain.log_lines("NSQ_RUN_DIR") == []
        assert chain.counter("run_folder_lost") == 0


# Somebody cleans up


@pytest.mark.parametrize("what", ["the folder", "its files", "a socket"])
def test_what_is_removed_under_it_is_noticed_and_made_again(chain: Chain, what: str) -> None:
    folder = chain.kamailio.pages_folder
    with Responding(chain.nsqd, "where", fields), Caller(chain.kamailio.sip_target) as caller:
        assert answered(caller)
        if what == "the folder":
            shutil.rmtree(folder)
        else:
            for file in folder.glob(f"consumer-*{SOCKET}" if what == "a socket" else "*"):
                file.unlink()
        (line,) = until(lambda: chain.log_lines("NSQ_RUN_DIR"), what="the line")
        assert f"NSQ_RUN_DIR {folder} or a socket in it was gone, and is there again" in line
        until(lambda: answered(caller), what="replies again")
        assert result(ask(caller, 1, "nsq_query_async where ANSWERED").wait()) == (1, "")
        assert chain.counter("run_folder_lost") == 1
    until(lambda: [sheet.role for sheet, alive in sheets(folder) if alive and sheet.role], what="the consumer's page")
    assert folder.stat().st_mode & 0o777 == 0o700


# Who else reads replies


def test_a_stranger_on_the_reply_channel_is_noticed(chain: Chain) -> None:
    (topic,) = chain.nsqd.reply_topics()
    assert chain.status()[0] == 0
    started = time.time()
    until(lambda: time.time() > started + 1, what="a second of its own: nsqd tells no parts of it")
    with closing(Reader(address(chain.nsqd.tcp_address), Subscription(topic, "replies#ephemeral"))):
        (line,) = until(lambda: chain.log_lines("is read by"), timeout_s=SEEN_S, what="the line")
        assert f"{topic} is read by kemi-nsq of host " in line
        assert line.endswith("keep strangers away from nsqd")
        assert chain.counter("reply_strangers") == 1
        code, said = chain.status()
        assert (code, said["health"]) == (1, "warning")
        assert f"strangers: {topic} is read by kemi-nsq of host " in json.dumps(said)
    until(lambda: chain.log_lines("nobody else reads"), timeout_s=SEEN_S, what="the line that it is gone")
    assert chain.status()[0] == 0
