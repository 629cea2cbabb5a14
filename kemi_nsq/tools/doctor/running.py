# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the configuration by Kamailio's own programs, and of the Kamailio that runs with it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from kemi_nsq.clock import SYSTEM
from kemi_nsq.configuration.finding import CannotLook, Check, Finding, Grade
from kemi_nsq.errors import RunFolderError
from kemi_nsq.monitoring.health import Health
from kemi_nsq.monitoring.status import look
from kemi_nsq.runtime.processes import start_of
from kemi_nsq.tools.doctor import kamailio
from kemi_nsq.tools.doctor.scene import Scene

_CONSUMER = re.compile(r"EVREXEC .*exec=(?:nsq:consumer|ksr_nsq_consumer)")
#: What consumers and nsqd may take to answer, all together.
_STATUS_S = 3.0
_GRADES = {Health.WARNING: Grade.WARNING, Health.CRITICAL: Grade.ERROR}


def syntax(scene: Scene) -> Iterator[Finding]:
    """Have Kamailio read it, as `kamailio -c` does."""
    try:
        checked = kamailio.check(scene.file, scene.given)
    except TimeoutError:
        raise CannotLook("kamailio -c does not end") from None
    if checked is None:
        raise CannotLook("the program kamailio is not installed here")
    if not checked.fine:
        for complaint in checked.complaints or ["it says nothing of it"]:
            yield Finding(Grade.ERROR, f"kamailio -c: {complaint}", f"kamailio -c -f {scene.file} says all of it")


def consumers(scene: Scene) -> Iterator[Finding]:
    """Count the consumers of the Kamailio that runs."""
    scene.kamailio()
    said = kamailio.ask(scene.text.configuration, "core.ps")
    if said is None:
        raise CannotLook("the Kamailio that runs does not answer RPC: is ctl loaded, and may you ask?")
    found, wanted = len(_CONSUMER.findall(said)), scene.settings.consumers
    if found != wanted:
        reason = f"{found} consumer processes run, and NSQ_CONSUMERS is {wanted}"
        yield Finding(Grade.ERROR if not found else Grade.WARNING, reason, "restart Kamailio")


def restarted(scene: Scene) -> Iterator[Finding]:
    """Compare the settings of the Kamailio that runs with the text, which may have changed since."""
    runs = scene.kamailio()
    said = kamailio.ask(scene.text.configuration, "core.ppdefines")
    if said is None:
        raise CannotLook("the Kamailio that runs does not answer RPC: is ctl loaded, and may you ask?")
    theirs = {name for name in said.split() if name.startswith("NSQ_")}
    ours = {name for name in scene.text.configuration.defines if name.startswith("NSQ_")}
    if changed := sorted(theirs ^ ours):
        reason = f"the Kamailio that runs was started with other settings: {', '.join(changed)}"
        yield Finding(Grade.WARNING, reason, "restart Kamailio")
    elif (started := _started(runs.pid)) and any(
        path.stat().st_mtime > started for path in scene.text.configuration.files
    ):
        yield Finding(Grade.WARNING, "the configuration has changed since Kamailio was started", "restart Kamailio")


def status(scene: Scene) -> Iterator[Finding]:
    """Take over what `kemi-nsq status` finds wrong with the Kamailio that runs."""
    scene.kamailio()
    try:
        found = look(Path(scene.settings.run_dir), SYSTEM.wall(), within_s=_STATUS_S)
    except RunFolderError as error:
        raise CannotLook(str(error)) from None
    for where, problem in found.all_problems:
        reason = f"{where}: {problem.text}" if where else problem.text
        yield Finding(_GRADES.get(problem.health, Grade.UNKNOWN), reason, "see kemi-nsq status")


def _started(pid: int) -> float:
    """Return when a process started, in epoch seconds, rounded up; 0 where nobody knows (proc(5), stat: btime)."""
    try:
        boot = next(line for line in Path("/proc/stat").read_text(encoding="ascii").splitlines() if line[:5] == "btime")
    except (OSError, StopIteration):
        return 0.0
    ticks = start_of(pid)
    return 0.0 if ticks is None else float(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK") + 1


CHECKS: tuple[Check[Scene], ...] = (
    Check("syntax", "kamailio -c finds no fault with it", syntax),
    Check("consumers", "as many consumers run as NSQ_CONSUMERS says", consumers),
    Check("restarted", "Kamailio was started with what the files say now", restarted),
    Check("status", "kemi-nsq status finds nothing wrong with the Kamailio that runs", status),
)
