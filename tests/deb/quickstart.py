# SPDX-License-Identifier: GPL-2.0-or-later
"""The quick start, word for word, on a machine with systemd: from the package to a lamp that goes out.

Run by docker/test-quickstart.sh as root of a booted Debian, by Debian's Python::

    python3 -m tests.deb.quickstart /work

WORK has `quickstart.md`, the package, and `tests`; nsqd is in /usr/local/bin.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.until import until

if TYPE_CHECKING:
    from tests.support.watcher import Watcher

SIP = ("127.0.0.1", 5060)
#: What systemd is to have taken away from Kamailio, of what debian/kamailio.conf says.
SANDBOX = {"NoNewPrivileges": "yes", "ProtectSystem": "full", "PrivateDevices": "yes", "User": "kamailio"}


class Page:
    """The page, by its sections."""

    def __init__(self, text: str) -> None:
        """Cut the text at its headings; `## 2. Configure` is `Configure`."""
        found = re.split(r"^## (?:\d\. )?(.*)\n", text, flags=re.MULTILINE)
        self._sections = dict(zip(found[1::2], found[2::2], strict=True))

    def blocks(self, section: str, language: str) -> list[str]:
        """List the fenced blocks of a section in a language."""
        fence = rf"^```{language}\n(.*?)^```$"
        return re.findall(fence, self._sections[section], re.MULTILINE | re.DOTALL)


def main(work: Path) -> None:
    """Do what the page says, and see what it promises."""
    package = next(work.glob("kemi-nsq_*.deb")).name
    page = Page(re.sub(r"kemi-nsq_\S*\.deb", package, (work / "quickstart.md").read_text(encoding="utf-8")))
    os.chdir(work)
    # A person would say yes.
    Path("/etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";', encoding="utf-8")
    (install,) = page.blocks("Install", "sh")
    do(install)
    site.addsitedir(str(next(Path("/usr/lib/kemi-nsq/lib").glob("python3*/site-packages"))))
    from tests.support.watcher import Watcher

    (configuration,) = page.blocks("Configure", "kamailio")
    Path("/etc/kamailio/kamailio.cfg").write_text(configuration, encoding="utf-8")
    do(*page.blocks("Make the database", "sh"))
    assert do("stat --format='%a %U:%G' /var/lib/kamailio/kamailio.db").strip() == "640 kamailio:kamailio"
    do(*page.blocks("Start", "sh"))
    until(answers, timeout_s=60, what="Kamailio's answer")
    first, row = page.blocks("The first event", "sh")
    do(first)
    (stored,) = page.blocks("The first event", "text")
    until(lambda: do(row) == stored, timeout_s=30, what="the row")
    do("kemi-nsq status")
    (hang_up,) = page.blocks("The first lamp", "sh")
    with Watcher(SIP) as watcher:
        put_out(watcher, hang_up)
    (account,) = page.blocks("The first lamp", "text")
    do(f"sudo -u kamailio sqlite3 /var/lib/kamailio/kamailio.db <<'END'\n{account}END\n")
    main_pid = do("systemctl show --property=MainPID kamailio")
    do(f"apt-get install --reinstall ./{package}")
    assert do("systemctl show --property=MainPID kamailio") != main_pid, "an upgrade has not restarted Kamailio"
    until(answers, timeout_s=60, what="Kamailio's answer after an upgrade")
    said = dict(line.split("=", 1) for line in do("systemctl show kamailio").splitlines() if "=" in line)
    assert {name: said[name] for name in SANDBOX} == SANDBOX
    log = do("journalctl --unit=kamailio --output=cat")
    # Debian starts its own configuration as the package is installed; ours begins with the restart.
    wrong = re.findall(r".*(?:ERROR|CRITICAL|WARNING).*", log[log.rindex("Starting ") :])
    assert not wrong, "\n".join(wrong)
    print(f"{package}: from the package to a lamp, by the page's own commands")


def put_out(watcher: Watcher, hang_up: str) -> None:
    """See the lamp on, end the call as the page says, and see it go out."""
    lamp = watcher.subscribe("sip:alice@example.com", "dialog")
    lamp.wait(lambda notify: "confirmed" in notify.dialog_info.states, timeout_s=30, what="a lamp that is on")
    do(hang_up)
    lamp.wait(lambda notify: "confirmed" not in notify.dialog_info.states, timeout_s=30, what="a lamp that goes out")


def do(*scripts: str) -> str:
    """Run shell text as a person would, and return what it printed; it must succeed."""
    output = ""
    for script in scripts:
        done = subprocess.run(["bash", "-e"], input=script, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        output += done.stdout
    return output


def answers() -> bool:
    """Tell whether Kamailio answers OPTIONS."""
    from tests.support.sip_endpoint import send_options

    try:
        return send_options(SIP, timeout_s=1).status == 200
    except AssertionError:
        return False


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BaseException:
        for command in ("systemctl --no-pager status kamailio nsqd", "journalctl --no-pager --lines=60"):
            subprocess.run(command.split(), check=False)
        raise
