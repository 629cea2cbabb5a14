# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of kamailio/examples, driven by sipp against a real nsqd."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.reader import Reader
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK
from tests.support.process import ChildProcess, find_program
from tests.support.until import until

SHIPPED = Path(__file__).parents[2] / "kamailio"
EXAMPLES = SHIPPED / "examples"
SCENARIOS = Path(__file__).parent / "sipp"


@contextmanager
def example(config: str, script: Path, folder: Path, nsqd: Nsqd) -> Iterator[Kamailio]:
    """Start an example and wait until its consumer takes replies."""
    defines = {"NSQ_SCRIPT": quoted(script), "NSQ_NSQD_TCP_ADDRESS": nsqd.tcp_address}
    with Kamailio(EXAMPLES / config, folder, defines=defines) as kamailio:
        # One subscription for the events, one for the replies.
        until(lambda: "value: 2" in kamailio.rpc("htable.get", "nsq", "connected"), what="both subscriptions")
        yield kamailio


def sipp(scenario: str, kamailio: Kamailio, folder: Path, calls: int) -> str:
    """Run a scenario some times; return what it logged."""
    command = [
        find_program("sipp"),
        *("-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", LOOPBACK, "-m", str(calls), "-r", "50", "-l", "10"),
        *("-nostdin", "-trace_logs", "-log_file", str(folder / "sipp.log"), "-timeout", "20", "-timeout_error"),
        f"{LOOPBACK}:{kamailio.sip_port}",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + kamailio.log_text()[-2000:]
    log = folder / "sipp.log"
    return log.read_text() if log.exists() else ""


def responder(nsqd: Nsqd, folder: Path, reply: str) -> ChildProcess:
    """Start `kemi-nsq respond` and wait until it listens."""
    arguments = ["respond", "--topic", "callevt", "--reply", reply, "--nsqd", nsqd.tcp_address]
    process = ChildProcess("respond", [str(Path(sys.executable).parent / "kemi-nsq"), *arguments], folder=folder)
    process.wait_for_log("answering on callevt")
    return process


def python_script(folder: Path) -> Path:
    """Lay redirect.py and nsq.py beside each other, as an operator would."""
    for file in (EXAMPLES / "redirect.py", SHIPPED / "nsq.py"):
        (folder / file.name).symlink_to(file)
    return folder / "redirect.py"


@pytest.mark.parametrize("config", ["redirect.cfg", "redirect_kemi.cfg"])
def test_an_invite_is_redirected_to_where_the_responder_says(config: str, tmp_path: Path) -> None:
    script = SHIPPED / "nsq.py" if config == "redirect.cfg" else python_script(tmp_path)
    with Nsqd(tmp_path / "nsqd") as nsqd, example(config, script, tmp_path / "kamailio", nsqd) as kamailio:
        answering = responder(nsqd, tmp_path, '{"Contact": "sip:bob@192.0.2.7"}')
        try:
            log = sipp("redirect", kamailio, tmp_path, calls=20)
        finally:
            answering.stop()
        assert log.count("redirected to sip:bob@192.0.2.7") == 20
        until(lambda: "queried" in kamailio.rpc("htable.dump", "nsq"), what="the counter")
        assert "ERROR" not in kamailio.log_text()


def test_each_registration_is_published(tmp_path: Path) -> None:
    with (
        Nsqd(tmp_path / "nsqd") as nsqd,
        example("registrations.cfg", SHIPPED / "nsq.py", tmp_path / "kamailio", nsqd) as kamailio,
    ):
        nsqd.create_topic("registrations")
        nsqd.create_channel("registrations", "test")
        sending = threading.Thread(target=sipp, args=("register", kamailio, tmp_path, 5))
        sending.start()
        reader = Reader(address(nsqd.tcp_address), Subscription("registrations", "test"))
        events = [json.loads(reader.next_message(20.0).body) for _ in range(5)]
        sending.join()
        reader.close()
    assert {event["Username"] for event in events} == {"alice"}
    assert {event["Realm"] for event in events} == {"example.com"}
    assert len({event["Call-ID"] for event in events}) == 5
    assert all(event["Contact"].startswith('"Al \\"Q\\" Ice" <sip:alice@') for event in events)
