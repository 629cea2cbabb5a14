# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone that others wrote as the watcher: baresip shows the presence of its contact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chain import DOMAIN, Chain, Person
from tests.support.process import ChildProcess, find_program

#: Modules that baresip needs to subscribe; without an audio module it opens no device.
MODULES = ("account", "contact", "presence", "menu")


@pytest.fixture
def phone(chain: Chain, person: Person, tmp_path: Path) -> Iterator[ChildProcess]:
    """Run a phone that has the person among its contacts."""
    modules = "".join(f"module_app {name}.so\n" for name in MODULES)
    (tmp_path / "config").write_text(f"sip_listen 127.0.0.1:0\nmodule_path /usr/lib/baresip/modules\n{modules}")
    proxy = f"sip:127.0.0.1:{chain.kamailio.sip_port}"
    account = f'<sip:watcher@{DOMAIN};transport=udp>;outbound="{proxy}";regint=0;pubint=0;auth_pass=none\n'
    (tmp_path / "accounts").write_text(account)
    (tmp_path / "contacts").write_text(f'"Alice" <{person.uri}>;presence=p2p\n')
    command = [find_program("baresip"), "-4", "-s", "-v", "-f", str(tmp_path)]
    process = ChildProcess("baresip", command, folder=tmp_path)
    try:
        yield process
    finally:
        process.stop()


def test_a_phone_shows_presence(person: Person, phone: ChildProcess) -> None:
    person.publish("presence", State="busy")
    phone.wait_for_log(r"<note>Busy</note>", timeout_s=15)  # its trace: it logs changes alone
    for before, after in (("Busy", "Offline"), ("Offline", "Busy")):
        person.publish("presence", State=after)
        phone.wait_for_log(rf"<{person.uri}> changed status from \S*{before}\S* to \S*{after}")
    assert phone.exit_code is None
