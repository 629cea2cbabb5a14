# SPDX-License-Identifier: GPL-2.0-or-later
"""Two runs of a scene give the same screens: times, ids, processes, addresses and what was measured are taken out."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.screens.steady import BEGIN, STEP_S, Steady, east_s, step, zone

#: When the scenes of two runs began.
BEGINS = [datetime(2027, 3, 4, 10, 11, 12, tzinfo=UTC), datetime(2027, 3, 4, 23, 59, 58, tzinfo=UTC)]
EXPLAINED = """\
dialog: confirmed (with sip:bob@example.com, call 4f2a)
  because     message {id} of topic kamailio said so, which nsqd took at {time}.{ms}
  since       {date} {time}, until {later}
  order key   {date} {time}.{ms}123456 (nsqd's timestamp), rank 4 (confirmed), message {id}
    {time}.{ms} stored    confirmed, message {id} of kamailio, sent {time}.{ms}  <- this
consumer {pid} remembers 3 of 3 decisions
"""
STATUS = """\
KEMI-NSQ WARNING - {pid}: paused: kamailio:kamailio | received=3c in_flight=0 lag=2

pid{pad}  role      state  in flight  last event  version
{pid}  consumer  waits  0          {time}    9.9.9

route     topic     done  mean{wide}     95 % within
(built-in)  kamailio  3     {mean}  2.5 ms
"""


def steady(began: datetime, *pids: int) -> Steady:
    return Steady(began.timestamp(), range(10), {"127.0.0.1:39831": "127.0.0.1:4151"}, pids)


def shown_at(began: datetime, offset_s: float) -> datetime:
    """Return what a clock shows after some seconds of a scene."""
    return began + timedelta(seconds=east_s(began.timestamp()) + offset_s)


def explained(began: datetime, message_id: str, pid: int, late_s: float) -> str:
    at = shown_at(began, 2 * STEP_S + late_s)
    later = at + timedelta(seconds=1800)
    text = EXPLAINED.format(
        id=message_id, date=f"{at:%Y-%m-%d}", time=f"{at:%H:%M:%S}", ms=f"{at:%f}"[:3], later=f"{later:%F %T}", pid=pid
    )
    return steady(began, pid).screen(text)


def test_two_runs_give_the_same() -> None:
    one = explained(BEGINS[0], "18ad60c2b2a69001", 7, 0.01)
    other = explained(BEGINS[1], "0123456789abcdef", 123456, 1.9)
    assert one == other
    assert one.splitlines()[1:4] == [
        "  because     message 18ad60c2b2a69000 of topic kamailio said so, which nsqd took at 21:23:00.303",
        "  since       2026-11-29 21:23:00, until 2026-11-29 21:53:00",
        "  order key   2026-11-29 21:23:00.303722572 (nsqd's timestamp), rank 4 (confirmed), message 18ad60c2b2a69000",
    ]
    assert one.splitlines()[4].startswith("    21:23:00.315 stored ")
    assert one.splitlines()[5] == "consumer 4711 remembers 3 of 3 decisions"


def test_a_table_is_as_wide_as_what_stands_in_it() -> None:
    made = []
    for pid, mean in ((71234, "1.2 ms"), (812345, "103.4 ms")):
        pad, wide = " " * (len(str(pid)) - 3), " " * (len(mean) - 6)
        text = STATUS.format(pid=pid, pad=pad, mean=mean, wide=wide, time="21:22:54")
        made.append(steady(BEGINS[0], pid).screen(text.replace("route     topic", "route       topic")))
    assert made[0] == made[1]
    assert made[0].splitlines() == [
        "KEMI-NSQ WARNING - 4711: paused: kamailio:kamailio | received=3c in_flight=0 lag=2",
        "",
        "pid   role      state  in flight  last event  version",
        "4711  consumer  waits  0          21:22:54    0.1.0",
        "",
        "route       topic     done  mean    95 % within",
        "(built-in)  kamailio  3     1.8 ms  2.5 ms",
    ]


def test_ids_and_processes_are_numbered_as_they_are_seen() -> None:
    shown = steady(BEGINS[0], 8, 9)
    assert shown.screen("9 and 18ad60c2b2a69fff") == "4711 and 18ad60c2b2a69000"
    assert shown.screen("8, 9, 10 and 0000000000000001, 18ad60c2b2a69fff") == (
        "4712, 4711, 10 and 18ad60c2b2a6a000, 18ad60c2b2a69000"
    )


def test_an_address_is_no_process_and_has_a_name() -> None:
    assert steady(BEGINS[0], 39831).screen("published at 127.0.0.1:39831: x\n\n") == "published at 127.0.0.1:4151: x"


def test_what_is_tailed_has_nsqds_time() -> None:
    tailed = f"{shown_at(BEGINS[0], STEP_S):%F %T}.999 18ad60c2b2a69fff 1 {{}}"
    assert steady(BEGINS[0]).screen(tailed) == "2026-11-29 21:22:57.303 18ad60c2b2a69000 1 {}"


def test_nanoseconds_are_of_the_step_too() -> None:
    taken = int((BEGINS[0].timestamp() + STEP_S + 0.4) * 1e9)
    assert steady(BEGINS[0]).screen(f"timestamp: {taken}") == "timestamp: 1795987377303722572"


def test_when_a_board_was_looked_at_is_no_step() -> None:
    board = f"{shown_at(BEGINS[0], 700):%F %T}  3 states  Ctrl-C ends" + 3 * " \n"
    assert steady(BEGINS[0]).screen(board) == "2026-11-29 21:23:54  3 states  Ctrl-C ends"


@pytest.mark.parametrize(("offset_s", "of"), [(-0.4, 0), (0, 0), (2.4, 0), (2.6, 3), (3, 3), (1803, 1803)])
def test_the_step_of_a_moment(offset_s: float, of: int) -> None:
    assert step(offset_s, range(10)) == of


def test_a_slow_machine_passes_steps_by() -> None:
    begun = [0, 1, 4, 9]
    assert [step(at, begun) for at in (0.1, 3.1, 7.0, 12.2, 20.0, 27.1, 33.0)] == [0, 3, 3, 6, 6, 9, 9]


def test_connections_have_an_order() -> None:
    head, one, other = (
        "pid  nsqd  topic:channel  heard",
        "7    n     b              1 s ago",
        "7    n     a              9 s ago",
    )
    shown = [steady(BEGINS[0], 7).screen("\n".join((head, *rows))) for rows in ((one, other), (other, one))]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("began", BEGINS)
def test_a_date_may_stand_without_its_time(began: datetime) -> None:
    tomorrow = shown_at(began, 86_400)
    assert steady(began).screen(f"a  {tomorrow:%F}  b\n   {tomorrow:%T}") == "a  2026-11-30  b\n   21:22:54"


@pytest.mark.parametrize("began", [*BEGINS, BEGINS[0] + timedelta(hours=12)])
def test_programs_show_the_time_of_the_screens(began: datetime) -> None:
    program = f"import time; print(time.strftime('%H:%M:%S', time.localtime({began.timestamp()})))"
    environment = {**os.environ, "TZ": zone(began.timestamp())}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{BEGIN:%H:%M:%S}"
