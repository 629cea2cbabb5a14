# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of `make chaos` find what is wrong, and nothing else: a check that cannot fail would be worth nothing."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.__main__ import Progress
from tests.chaos.checks import Row, judge_table, lamp_error, read_row
from tests.chaos.drill import Backlog, longest_gap
from tests.chaos.faults import FAULTS
from tests.chaos.ledger import Ledger, Record
from tests.chaos.load import Mouth
from tests.chaos.outcome import HEAD, Outcome, failed, page_with, read_json, write_json
from tests.chaos.traffic import ENDED, NOTES, Said, Thing, Traffic, sequence_in
from tests.support.markdown import ROOT, table
from tests.support.notify import CONTENT_TYPES, LAMPS, Notify
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK, free_tcp_port

PAGE = ROOT / "docs/reliability.md"
NOW = 1000.0
CALL = Thing(user="alice", package="dialog", name="call-1")
PRESENCE = Thing(user="alice", package="presence")
MAILBOX = Thing(user="alice", package="message-summary")
EMPTY = b'<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="1" state="full" entity="sip:alice@a"%s'
NOTE = b'<presence xmlns="urn:ietf:params:xml:ns:pidf" entity="sip:alice@a"><note>%s</note></presence>'
COUNTS = b"Messages-Waiting: yes\r\nVoice-Message: 2/1 (0/0)\r\n"
SOUND = Outcome(
    fault="none", accepted=9, uncertain=1, dead=0, lost=0, rows_wrong=0, lamps=4, lamps_wrong=0, lamps_wrong_after=0
)


def dialogs(*calls: tuple[str, str]) -> bytes:
    """Write a dialog-info document."""
    if not calls:
        return EMPTY % b"/>"
    made = "".join(f'<dialog id="{name}" call-id="{name}"><state>{state}</state></dialog>' for name, state in calls)
    return EMPTY % b">" + made.encode() + b"</dialog-info>"


def ledger(thing: Thing, *states: str, uncertain: tuple[int, ...] = (), at: float = NOW) -> Ledger:
    """Return a model of one thing, with an event for each state."""
    made = Ledger()
    for number, state in enumerate(states, 1):
        said = Said(thing=thing, state=state, sequence=number)
        made.add(Record(said=said, accepted=number not in uncertain, nsqd="nsqd1", at=at))
    return made


def nsqd_at(port: int) -> Nsqd:
    """Return an nsqd that was never started, with the port of something else."""
    nsqd = Nsqd(Path())
    nsqd.http_port = port
    return nsqd


def row(thing: Thing, state: str, *, visible: bool = True) -> Row:
    return Row(thing=thing, state=state, visible=visible)


def notify(package: str, body: bytes) -> Notify:
    return Notify(
        received_at=NOW,
        cseq=1,
        event=package,
        subscription_state="active",
        state_params={},
        content_type=CONTENT_TYPES[package] if body else "",
        body=body,
        headers=(),
    )


class TestTable:
    @pytest.mark.parametrize(
        ("states", "stored"),
        [
            (("early", "confirmed"), row(CALL, "confirmed")),
            (("early", ENDED), row(CALL, ENDED)),
            (("early", ENDED), row(CALL, ENDED, visible=False)),
        ],
    )
    def test_the_last_state_is_right_and_nothing_is_lost(self, states: tuple[str, ...], stored: Row) -> None:
        found = judge_table(ledger(CALL, *states), [stored], (), now=NOW)
        assert (found.lost, found.dead, found.wrong) == ([], [], {})

    def test_events_after_the_stored_one_are_lost(self) -> None:
        found = judge_table(ledger(CALL, "trying", "early", "confirmed"), [row(CALL, "trying")], (), now=NOW)
        assert [record.said.state for record in found.lost] == ["early", "confirmed"]
        assert list(found.wrong) == [CALL]

    def test_a_call_without_a_row_is_lost(self) -> None:
        found = judge_table(ledger(CALL, "early", ENDED), [], (), now=NOW)
        assert len(found.lost) == 2
        assert list(found.wrong) == [CALL]

    def test_a_tombstone_goes_after_its_time(self) -> None:
        assert not judge_table(ledger(CALL, "early", ENDED), [], (), now=NOW + 300).wrong
        assert judge_table(ledger(CALL, "early", "confirmed"), [], (), now=NOW + 300).wrong

    def test_a_state_that_nobody_said_is_wrong(self) -> None:
        found = judge_table(ledger(CALL, "early"), [row(CALL, "confirmed")], (), now=NOW)
        assert (len(found.lost), list(found.wrong)) == (1, [CALL])

    def test_a_dead_letter_is_not_lost_and_its_row_is_wrong_all_the_same(self) -> None:
        found = judge_table(ledger(CALL, "early", "confirmed"), [row(CALL, "early")], {2}, now=NOW)
        assert ([record.said.sequence for record in found.dead], found.lost) == ([2], [])
        assert list(found.wrong) == [CALL]

    def test_an_event_without_an_answer_may_have_had_an_effect_or_not(self) -> None:
        said = ledger(CALL, "early", "confirmed", uncertain=(2,))
        for state in ("early", "confirmed"):
            assert not judge_table(said, [row(CALL, state)], (), now=NOW).wrong
        assert judge_table(said, [row(CALL, ENDED)], (), now=NOW).wrong
        assert (said.accepted, said.uncertain) == (1, 1)

    def test_an_event_without_an_answer_is_not_lost(self) -> None:
        found = judge_table(ledger(PRESENCE, "Busy", "Away", uncertain=(1,)), [], (), now=NOW)
        assert [record.said.state for record in found.lost] == ["Away"]

    def test_a_live_call_that_is_hidden_is_wrong(self) -> None:
        assert judge_table(ledger(CALL, "early"), [row(CALL, "early", visible=False)], (), now=NOW).wrong

    def test_a_call_that_comes_back_is_wrong(self) -> None:
        said = ledger(CALL, "early", ENDED)
        said.turn()
        assert said.things == {}
        assert judge_table(said, [row(CALL, "early")], (), now=NOW).wrong
        assert not judge_table(said, [row(CALL, ENDED)], (), now=NOW).wrong

    def test_a_new_count_keeps_what_lives(self) -> None:
        said = ledger(CALL, "early", "confirmed")
        said.turn()
        found = judge_table(said, [row(CALL, "confirmed")], {2}, now=NOW)
        assert (said.accepted, found.dead, found.wrong) == (0, [], {})
        assert judge_table(said, [row(CALL, ENDED)], (), now=NOW).wrong


class TestRow:
    @pytest.mark.parametrize(
        ("thing", "etag", "body", "state"),
        [
            (CALL, "dialog.call.from/call-1/call-1", dialogs(("call-1", "early")), "early"),
            (CALL, "dialog.call.from/call-1/call-1", dialogs(), ENDED),
            (PRESENCE, "presence.source.", NOTE % b"Busy", "Busy"),
            (MAILBOX, "message-summary.box.sip:alice@a", COUNTS, "2/1"),
        ],
    )
    def test_it_is_read(self, thing: Thing, etag: str, body: bytes, state: str) -> None:
        assert read_row("alice", thing.package, etag, 1, body) == row(thing, state)
        assert not read_row("alice", thing.package, etag, -1, body).visible


class TestLamp:
    @pytest.mark.parametrize(
        ("state", "shown", "right"),
        [
            ("confirmed", dialogs(("call-1", "confirmed")), True),
            ("confirmed", dialogs(("call-1", "confirmed"), ("call-0", ENDED)), True),
            ("confirmed", dialogs(("call-1", "early")), False),
            ("confirmed", dialogs(), False),
            ("confirmed", b"", False),
            (ENDED, dialogs(("call-1", ENDED)), True),
            (ENDED, dialogs(), True),
            (ENDED, b"", True),
            (ENDED, dialogs(("call-1", "confirmed")), False),
            (ENDED, dialogs(("call-0", "early")), False),
        ],
    )
    def test_a_lamp_is_lit_by_a_call_that_has_not_ended(self, state: str, shown: bytes, right: bool) -> None:
        error = lamp_error(ledger(CALL, "early", state), "alice", "dialog", notify("dialog", shown))
        assert (error == "") is right

    def test_a_phone_that_was_told_nothing_is_wrong(self) -> None:
        assert lamp_error(ledger(CALL, ENDED), "alice", "dialog", None)
        assert lamp_error(ledger(PRESENCE, "Busy"), "alice", "presence", None)
        assert not lamp_error(Ledger(), "alice", "presence", None)

    @pytest.mark.parametrize(("thing", "body", "shown"), [(PRESENCE, NOTE % b"Busy", "Busy"), (MAILBOX, COUNTS, "2/1")])
    def test_presence_and_mailbox(self, thing: Thing, body: bytes, shown: str) -> None:
        last = notify(thing.package, body)
        assert not lamp_error(ledger(thing, "0/0", shown), "alice", thing.package, last)
        assert lamp_error(ledger(thing, shown, "0/0"), "alice", thing.package, last)


class TestTimes:
    @pytest.mark.parametrize(
        ("moments", "gap"),
        [([], 10), ([1, 2], 8), ([4, 5, 10], 5), ([9, 30], 21), ([1, 9.5, 10.5, 60], 8.5), ([0, 5, 10, 60], 5)],
    )
    def test_a_gap_begins_while_load_runs_and_may_end_later(self, moments: list[float], gap: float) -> None:
        assert longest_gap(0, moments, 10) == gap

    def test_what_waited_is_handled_when_each_channel_was_empty_once(self) -> None:
        left: dict[tuple[str, str], str] = {("nsqd1", "a"): "waiting: 1", ("nsqd1", "b"): "no consumer: 1"}
        backlog = Backlog(lambda: dict(left), list(left))
        backlog.begin()
        assert not backlog.look()
        del left["nsqd1", "a"]
        assert not backlog.look()
        assert backlog.empty_after_s is None
        left = {("nsqd1", "a"): "waiting: 2"}
        assert not backlog.look()
        assert backlog.empty_after_s is not None
        assert backlog.left == left


class TestMouth:
    """What counts as accepted."""

    def test_a_nsqd_that_cannot_be_reached_has_not_got_it(self) -> None:
        mouth = Mouth("nsqd1", nsqd_at(free_tcp_port()))
        assert mouth.usable
        assert mouth.publish(b"{}") is None
        assert not mouth.usable

    @pytest.mark.parametrize(
        ("answer", "accepted"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", True),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nO", False),
            (b"HTTP/1.1 500 Error\r\nContent-Length: 2\r\n\r\nOK", False),
            (b"", False),
        ],
    )
    def test_only_an_ok_counts(self, answer: bytes, accepted: bool) -> None:
        with socket.create_server((LOOPBACK, 0)) as server, ThreadPoolExecutor() as pool:
            mouth = Mouth("nsqd1", nsqd_at(server.getsockname()[1]))
            said = pool.submit(mouth.publish, b"{}")
            peer, _ = server.accept()
            with peer:
                received = b""
                while not received.endswith(b"{}"):
                    received += peer.recv(4096)
                peer.sendall(answer)
            assert said.result(timeout=5) is accepted
            assert mouth.usable is accepted
            mouth.close()


class TestTraffic:
    def test_a_seed_gives_the_same_events(self) -> None:
        one, same, other = (Traffic(seed) for seed in (1, 1, 2))
        made = [[traffic.next() for _ in range(200)] for traffic in (one, same, other)]
        assert made[0] == made[1]
        assert made[0] != made[2]

    def test_a_call_ends_once_and_only_long_ones_are_left(self) -> None:
        traffic, states = Traffic(1), dict[Thing, list[str]]()
        events = [traffic.next() for _ in range(3000)]
        while said := traffic.hang_up():
            events.append(said)
        for each in events:
            states.setdefault(each.thing, []).append(each.state)
        calls = [each for thing, each in states.items() if thing.package == "dialog"]
        assert [each.sequence for each in events] == list(range(1, len(events) + 1))
        assert all(each.count(ENDED) <= 1 and ENDED not in each[:-1] for each in calls)
        assert 0 < sum(each[-1] != ENDED for each in calls) <= 6

    def test_presence_and_mailboxes_never_say_the_same_twice(self) -> None:
        """Then the state tells which event is shown."""
        traffic, last = Traffic(1), dict[Thing, str]()
        for said in (traffic.next() for _ in range(3000)):
            assert last.get(said.thing) != said.state
            last[said.thing] = said.state
        assert {thing.package for thing in last} == set(LAMPS)

    def test_its_body_carries_the_order(self) -> None:
        for thing, state in ((CALL, "early"), (PRESENCE, next(iter(NOTES.values()))), (MAILBOX, "2/1")):
            assert sequence_in(Said(thing=thing, state=state, sequence=7).body.decode()) == 7


class TestOutcome:
    def test_it_is_right_when_nothing_is_wrong(self) -> None:
        assert SOUND.right
        assert SOUND.stored == 9

    @pytest.mark.parametrize("wrong", ["lost", "rows_wrong", "lamps_wrong", "lamps_wrong_after"])
    def test_whatever_is_wrong_makes_it_wrong(self, wrong: str) -> None:
        fields = {name: getattr(SOUND, name) for name in SOUND.__dataclass_fields__}
        assert not Outcome(**fields | {wrong: 1}).right

    def test_what_could_not_be_judged_is_wrong(self) -> None:
        assert not failed("none", "AssertionError: no answer").right
        assert not SOUND.with_times(gap_s=1, recovery_s=None, rested=False, notes=()).right

    def test_it_renews_the_table_of_the_page(self) -> None:
        page = "above\n<!-- outcomes -->\nold\n<!-- end of outcomes -->\nbelow\n"
        written = page_with(page, [SOUND.with_times(gap_s=0.25, recovery_s=12.34, rested=True, notes=())], "Measured.")
        assert "| `none` | 9 | 9 | 0 | 0 | 0 | 0 of 4 | 0 | 0.2 s | 12.3 s |" in written
        assert "old" not in written
        assert page_with(written, [SOUND], "Again.").count("`none`") == 1
        with pytest.raises(ValueError, match="the page has no"):
            page_with("", [SOUND], "")

    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        write_json([SOUND], "Measured.", tmp_path / "chaos.json")
        assert read_json(tmp_path / "chaos.json") == ([SOUND], "Measured.")


class TestProgress:
    def test_it_says_how_far_it_is(self) -> None:
        outcomes: list[Outcome] = []
        progress = Progress(["none", "nsqd-kill"], 30.0, outcomes)
        assert progress.line() == "starting the servers, 0 s"
        progress.begin()
        progress.say("none: load")
        assert progress.line() == "none: load, 1 of 2, 0 s, about 60 s left"
        outcomes.append(SOUND)
        progress.begin()
        progress.say("nsqd-kill: load")
        assert progress.line() == "nsqd-kill: load, 2 of 2, 0 s, about 30 s left"


class TestPage:
    def test_it_names_every_fault_and_every_column(self) -> None:
        assert [name for name, _ in table(PAGE, "fault")] == list(FAULTS)
        assert [name for name, _ in table(PAGE, "column")] == list(HEAD[1:])

    def test_it_has_a_place_for_the_table(self) -> None:
        assert "| `none` |" in page_with(PAGE.read_text(encoding="utf-8"), [SOUND], "Measured.")
