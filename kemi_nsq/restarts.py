# SPDX-License-Identifier: GPL-2.0-or-later
"""A loop that is to run for ever, in a process that Kamailio does not start again.

The process belongs to Kamailio's evrexec module. If its function returned or raised, the process would sleep for ever
and look healthy (evrexec_mod.c, `evrexec_process_start`): so `keep_running` does neither.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

from kemi_nsq.clock import Clock
from kemi_nsq.counters import Counter
from kemi_nsq.delays import retry_delay_s
from kemi_nsq.host import Host, Level
from kemi_nsq.runtime.page import Fact

#: A loop that ran for this long has not failed in a row.
HEALTHY_S = 60.0


def keep_running(
    run: Callable[[], None], *, recover: Callable[[int, str], None], over: Callable[[], bool], clock: Clock
) -> None:
    """Run a loop until it is over, again after any exception.

    Args:
        run: the loop.
        recover: is called before it runs again, with how often it failed in a row and the last traceback.
        over: whether it shall run no more.
        clock: tells the time.
    """
    failures, trace = 0, ""
    while not over():
        started = clock.monotonic()
        try:
            if trace:  # inside the `try`, because the log may fail as well
                recover(failures, trace)
            run()
        except BaseException:  # also SystemExit: this process must not end, nor sleep for ever
            failures = failures + 1 if clock.monotonic() - started < HEALTHY_S else 1
            trace = traceback.format_exc()


def tell_and_wait(  # noqa: PLR0913, PLR0917  # a part of `recover`, whose arguments come first
    what: str, failures: int, trace: str, host: Host, wait: Callable[[float], object], clock: Clock
) -> None:
    """Log and count that a loop failed, show it, and wait, longer with each failure.

    Args:
        what: the loop.
        failures: in a row.
        trace: the last traceback.
        host: the SIP server.
        wait: for seconds.
        clock: spreads several over the delay.
    """
    delay_s = retry_delay_s(failures, clock.chance())
    host.page.show(Fact.FAILED, f"{failures} times: {trace.strip().rpartition(chr(10))[2]}")
    host.page.wait()
    try:
        host.log(Level.CRITICAL, f"{what} failed and starts again in {delay_s:.1f} s")
        host.log(Level.ERROR, trace)
        host.count(Counter.RESTARTED)
    finally:
        wait(delay_s)
