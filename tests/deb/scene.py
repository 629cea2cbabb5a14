# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with the Debian package: events light a lamp, and the version changes under a Kamailio that runs.

Run as root by the package's own Python, in a network namespace of its own, so that all servers have their usual ports::

    unshare --net -- /usr/lib/kemi-nsq/bin/python -m tests.deb.scene WORK BEFORE.deb PACKAGE.deb

BEFORE.deb is installed already. Kamailio runs as its service would run it: as user kamailio, with the settings of
/etc/default/kemi-nsq, without new privileges, with /usr and /etc read-only (debian/kamailio.conf).
"""

from __future__ import annotations

import fcntl
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.process import ChildProcess
from tests.support.sip_endpoint import send_options
from tests.support.until import until
from tests.support.watcher import Watcher

SIP = ("127.0.0.1", 5060)
TOPIC = "lamps"
GUIDE = Path("/usr/share/doc/kemi-nsq/docs/quickstart.md")
EVENT = (
    '{"Event-Category": "presence", "Event-Name": "update", "Event-Package": "dialog", "Call-ID": "CALL",'
    ' "From": "sip:alice@example.com", "To": "sip:bob@example.com", "State": "STATE"}'
)

#: User=, NoNewPrivileges= and ProtectSystem=full of the service.
KAMAILIO = """
for folder in /usr /etc; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done
exec env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin $(grep '^NSQ_' /etc/default/kemi-nsq) \
    setpriv --reuid=kamailio --regid=kamailio --init-groups --no-new-privs --bounding-set=-all \
    kamailio -DD -E -f /etc/kamailio/kamailio.cfg -m 64 -M 8
"""
#: What Kamailio's TCP process may say while the others end.
AT_THE_END = re.compile("receive_fd.*: EOF on ")
#: The guide's commands, without sudo, which a root folder has not.
DATABASE = """
install --owner=kamailio --group=kamailio --mode=0640 /dev/null /var/lib/kamailio/kamailio.db
setpriv --reuid=kamailio --regid=kamailio --clear-groups \\
    sqlite3 /var/lib/kamailio/kamailio.db </usr/share/kemi-nsq/sql/sqlite.sql
"""


def main(work: Path, before: str, package: str) -> None:
    """Light a lamp with the version before, put it out with this one, and the same back again."""
    bring_loopback_up()
    Path("/etc/kamailio/kamailio.cfg").write_text(example("kamailio"), encoding="utf-8")
    with Path("/etc/default/kemi-nsq").open("a", encoding="utf-8") as settings:
        settings.write(f"NSQ_LISTEN_TOPIC={TOPIC}\n")
    subprocess.run(["sh", "-ec", DATABASE], check=True, timeout=120)
    nsqd = ["/usr/local/bin/nsqd", "--data-path=.", "--tcp-address=127.0.0.1:4150", "--http-address=127.0.0.1:4151"]
    with running("nsqd", nsqd, work) as server:
        server.wait_for_log("HTTP: listening", timeout_s=30)
        with running_kamailio(work):
            light("call-1")
            install(package)
        with running_kamailio(work):
            put_out("call-1")
            light("call-2")
            install(before)
        with running_kamailio(work):
            put_out("call-2")
    said = (work / "kamailio.log").read_text(encoding="utf-8")
    wrong = [line for line in re.findall(r".*(?:ERROR|CRITICAL|WARNING).*", said) if not AT_THE_END.search(line)]
    assert not wrong, "\n".join(wrong)


def example(language: str) -> str:
    """Return the example of a language in the guide that the package installs."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(found) == 1, found
    return str(found[0])


def light(call: str) -> None:
    """Announce a call of alice; her lamp, which was out, goes on."""
    with Watcher(SIP) as watcher:
        lamp = watcher.subscribe("sip:alice@example.com", "dialog")
        lamp.wait(lambda notify: "confirmed" not in notify.dialog_info.states, timeout_s=30, what="a lamp that is out")
        publish(call, "confirmed")
        lamp.wait(lambda notify: "confirmed" in notify.dialog_info.states, timeout_s=30, what="a lamp that is on")
    as_kamailio("kemi-nsq", "status")


def put_out(call: str) -> None:
    """End a call that was announced before Kamailio started anew; the lamp is on until then."""
    with Watcher(SIP) as watcher:
        lamp = watcher.subscribe("sip:alice@example.com", "dialog")
        lamp.wait(lambda notify: "confirmed" in notify.dialog_info.states, timeout_s=30, what="a lamp that is still on")
        publish(call, "terminated")
        lamp.wait(
            lambda notify: "confirmed" not in notify.dialog_info.states, timeout_s=30, what="a lamp that goes out"
        )


def publish(call: str, state: str) -> None:
    """Publish by the command that the package installs."""
    as_kamailio("kemi-nsq", "publish", TOPIC, EVENT.replace("CALL", call).replace("STATE", state))


def install(package: str) -> None:
    """Install a version with apt, the older one too."""
    command = ["apt-get", "install", "--quiet=2", "--yes", "--allow-downgrades", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def as_kamailio(*command: str) -> None:
    """Run a command as Kamailio's user, and expect that it succeeds."""
    user = ["setpriv", "--reuid=kamailio", "--regid=kamailio", "--clear-groups"]
    done = subprocess.run([*user, *command], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


@contextmanager
def running(name: str, command: list[str], folder: Path) -> Iterator[ChildProcess]:
    """Run a server until the end of the block; if that fails, its log is printed."""
    process = ChildProcess(name, command, folder=folder)
    try:
        yield process
    except BaseException:
        sys.stderr.write(process.log_text())
        raise
    finally:
        process.stop(timeout_s=20)


@contextmanager
def running_kamailio(folder: Path) -> Iterator[None]:
    """Run Kamailio until the end of the block; it answers OPTIONS at its beginning."""

    def answers() -> bool:
        assert server.exit_code is None, f"Kamailio ended with code {server.exit_code}"
        try:
            return send_options(SIP, timeout_s=1).status == 200
        except AssertionError:
            return False

    subprocess.run(["install", "-d", "-o", "kamailio", "-g", "kamailio", "/run/kamailio"], check=True)
    with running("kamailio", ["/usr/bin/unshare", "--mount", "--", "/bin/sh", "-ec", KAMAILIO], folder) as server:
        until(answers, timeout_s=60, what="Kamailio's answer")
        yield


def bring_loopback_up() -> None:
    """Set the flag IFF_UP of `lo` (netdevice(7)), which is down in a new network namespace."""
    siocsifflags, iff_up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, siocsifflags, struct.pack("16sh14x", b"lo", iff_up))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
