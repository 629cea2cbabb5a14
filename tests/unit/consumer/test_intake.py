# SPDX-License-Identifier: GPL-2.0-or-later
"""What is decided about the messages of nsqd, with bytes and times that the test makes up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from kemi_nsq.consumer.connection import Connection
from kemi_nsq.consumer.intake import HEARTBEAT_S, SILENCE_S, Intake
from kemi_nsq.consumer.message import Delivery, Happening, Item, Notice
from kemi_nsq.consumer.overseer import Overseer
from kemi_nsq.consumer.stacks import Stacks
from kemi_nsq.consumer.targets import Target
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, ProtocolError
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address, Subscription
from kemi_nsq.runtime.page import Doing, Gauge, Sheet, read
from kemi_nsq.testing import FakeHost
from tests.support import frames
from tests.support.settings import settings

START, WALL = 1000.0, 1_700_000_000.0
PAIR, OTHER, REPLIES = Subscription("t", "c"), Subscription("other", "c"), Subscription("replies", "kamailio")
ONE, TWO = Address("one", 4150), Address("two", 4150)
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
#: nsqd's timeout of a message, and half of it.
TIMEOUT_S, TOUCH_S = 10.0, 5.0
ROUTE_TIMEOUT_S = 30.0
TURN_S = 0.5


class FakeDesk:
    """Remembers the replies that it was given, and until when it gave up queries."""

    def __init__(self) -> None:
        self.subscription = REPLIES
        self.replies: list[bytes] = []
        self.expired_at: list[float] = []
        self.deadline: float | None = None

    def take_reply(self, body: bytes) -> None:
        self.replies.append(body)

    def expire(self, now: float) -> None:
        self.expired_at.append(now)

    def next_deadline(self) -> float | None:
        return self.deadline


class World:
    """An intake, and all that it talks to.

    Attributes:
        now: the clock.
        closed: what the connector was told.
    """

    def __init__(self, **values: str) -> None:
        self.now = START
        self.host = FakeHost()
        self.desk = FakeDesk()
        self.closed: list[tuple[Target, bool]] = []
        self.items: list[Item] = []
        chosen = settings(**{"max_in_flight": "5", "route_timeout": f"{ROUTE_TIMEOUT_S:.0f}", **values})
        self.intake = Intake(
            max_in_flight=chosen.max_in_flight,
            overseer=Overseer(chosen, self.host.page, Stacks(self.host, ROUTE_TIMEOUT_S), self.items.extend),
            identify={},
            desk=self.desk,
            hand_over=self.items.extend,
            on_closed=lambda target, was_subscribed: self.closed.append((target, was_subscribed)),
            now=START,
        )

    def connect(self, address: Address = ONE, subscription: Subscription = PAIR, *, max_rdy: int = 2500) -> Connection:
        """Open a connection and have nsqd accept SUB; what is sent until then is left out, but for RDY."""
        connection = self.intake.open(Target(address, subscription), self.now)
        said = frames.identified(max_rdy=max_rdy, msg_timeout_ms=int(TIMEOUT_S * 1000))
        self.receive(connection, said)
        self.sent(connection)
        self.receive(connection, frames.ok())
        self.taken()
        return connection

    def receive(self, connection: Connection, data: bytes) -> None:
        self.intake.receive_data(connection, data, self.now)

    def message(self, connection: Connection, *ids: bytes, timestamp_ns: int = 7) -> None:
        """Have nsqd send messages."""
        each = (frames.message(b"{}", message_id=message_id, timestamp_ns=timestamp_ns) for message_id in ids)
        self.receive(connection, b"".join(each))

    def sent(self, connection: Connection) -> list[str]:
        """Return the commands that are to be written now."""
        return self.intake.data_to_send(connection, self.now).decode("latin-1").splitlines()

    def taken(self) -> list[Item]:
        """Return what the main thread was handed since the last call."""
        items = list(self.items)
        self.items.clear()
        return items

    def delivered(self) -> list[Delivery]:
        """Return the deliveries among it."""
        return [item for item in self.taken() if isinstance(item, Delivery)]

    def until(self, now: float, *connections: Connection) -> list[list[str]]:
        """Go on to a second by turns, as the I/O thread does; return what was sent by each connection, together."""
        sent: list[list[str]] = [[] for _ in connections]
        while self.now < now:
            self.now = min(now, self.now + TURN_S)
            self.intake.begin_turn(self.now)
            self.intake.watch(self.now, WALL)
            for connection, lines in zip(connections, sent, strict=True):
                lines.extend(self.sent(connection))
                connection.heard_at = self.now
        return sent

    def counted(self, counter: Counter) -> int:
        """Return what the page shows, at once."""
        return self._sheet().counters.get(counter, 0)

    def gauge(self, gauge: Gauge) -> float:
        return self._sheet().gauges[gauge]

    def _sheet(self) -> Sheet:
        sheet = read(bytes(self.host.page.memory))
        assert sheet is not None
        return sheet


@pytest.fixture
def world() -> World:
    return World()


def ids(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.message.message_id for delivery in deliveries]


def texts(items: Sequence[Item]) -> list[str]:
    """Return the lines of reports and notices, without those that nsqd accepted a subscription."""
    told = [item.report if isinstance(item, Notice) else item for item in items if not _is_connected(item)]
    return [report.text for report in told if isinstance(report, Report) and report.text]


def _is_connected(item: Item) -> bool:
    return isinstance(item, Notice) and item.happening is Happening.CONNECTED


# The handshake


def test_a_connection_begins_with_magic_and_identify_and_is_told_rdy_after_sub(world: World) -> None:
    connection = world.intake.open(Target(ONE, PAIR), world.now)
    assert world.sent(connection)[0] == "  V2IDENTIFY"
    world.receive(connection, frames.identified(max_rdy=2500, msg_timeout_ms=10_000))
    assert (connection.max_rdy, connection.touch_every_s, connection.subscribed) == (2500, TOUCH_S, False)
    assert world.sent(connection) == ["SUB t c"]
    assert world.taken() == []
    world.receive(connection, frames.ok())
    assert connection.subscribed
    assert world.sent(connection) == ["RDY 5"]
    report = Report(level=Level.INFO, text="consuming t:c at one:4150", counter=Counter.CONNECTED)
    fields = {"Nsqd": "one:4150", "Topic": "t", "Channel": "c"}
    assert world.taken() == [Notice(happening=Happening.CONNECTED, report=report, fields=fields)]
    assert world.counted(Counter.CONNECTED) == 1


def test_connections_have_numbers_of_their_own(world: World) -> None:
    one = world.connect()
    world.intake.close(one, "gone")
    assert world.connect().connection_id != one.connection_id


# RDY


def test_connections_of_one_subscription_share_and_the_last_has_all(world: World) -> None:
    one = world.connect(ONE)
    assert world.sent(one) == ["RDY 5"]
    two = world.connect(TWO)
    assert (world.sent(one), world.sent(two)) == (["RDY 2"], ["RDY 2"])
    world.intake.close(one, "gone")
    assert world.sent(two) == ["RDY 5"]


def test_one_that_has_not_subscribed_yet_has_no_share(world: World) -> None:
    one = world.connect(ONE)
    new = world.intake.open(Target(TWO, PAIR), world.now)
    world.intake.resume(PAIR)
    assert world.sent(one) == ["RDY 5"]
    assert "RDY" not in "".join(world.sent(new)), "which nsqd would refuse before SUB"


def test_each_subscription_has_all_and_replies_have_more(world: World) -> None:
    connections = [world.connect(subscription=each) for each in (PAIR, OTHER, REPLIES)]
    assert [world.sent(each) for each in connections] == [["RDY 5"], ["RDY 5"], ["RDY 1000"]]


def test_nobody_is_told_more_than_it_allows(world: World) -> None:
    assert world.sent(world.connect(max_rdy=3)) == ["RDY 3"]


def test_with_more_nsqd_than_max_in_flight_each_has_one() -> None:
    world = World(max_in_flight="2")
    connections = [world.connect(Address(f"h{number}", 4150)) for number in range(3)]
    assert [world.sent(each)[-1] for each in connections] == ["RDY 1"] * 3


def test_a_subscription_is_paused_tried_and_resumed_by_itself(world: World) -> None:
    one, other = world.connect(), world.connect(subscription=OTHER)
    assert (world.sent(one), world.sent(other)) == (["RDY 5"], ["RDY 5"])
    world.intake.pause(PAIR)
    assert world.sent(one) == ["RDY 0"]
    world.intake.resume(PAIR, 1)
    assert world.sent(one) == ["RDY 1"]
    world.intake.resume(PAIR)
    assert world.sent(one) == ["RDY 5"]
    world.intake.resume(PAIR)
    assert (world.sent(one), world.sent(other)) == ([], []), "only what changes is sent"


def test_a_limit_holds_for_connections_that_come_later(world: World) -> None:
    world.intake.pause(PAIR)
    paused = world.connect()
    assert world.sent(paused) == []
    world.intake.resume(PAIR, 1)
    assert (world.sent(paused), world.sent(world.connect(TWO))) == (["RDY 1"], ["RDY 1"])


def test_rdy_0_leaves_before_the_answers_that_make_room(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.message(one, A)
    (delivery,) = world.delivered()
    world.intake.pause(PAIR)
    world.intake.requeue(delivery, 500, world.now)
    assert world.sent(one) == ["RDY 0", f"REQ {A.decode()} 500"]


# What nsqd says


def test_messages_are_handed_over_in_one_list_and_answered(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.message(one, A, B)
    first, second = world.delivered()
    assert (first.message.message_id, second.message.message_id) == (A, B)
    assert (first.connection_id, first.subscription, first.message.body) == (one.connection_id, PAIR, b"{}")
    world.intake.finish(second, world.now)
    world.intake.requeue(first, 500, world.now)
    assert world.sent(one) == [f"FIN {B.decode()}", f"REQ {A.decode()} 500"]
    assert one.touch_at == {}


def test_frames_in_pieces_are_put_together(world: World) -> None:
    one = world.connect()
    for byte in frames.message(b"{}", message_id=A):
        assert world.delivered() == []
        world.receive(one, bytes([byte]))
    assert ids(world.delivered()) == [A]


def test_a_heartbeat_is_answered_and_an_ok_is_nothing(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.receive(one, frames.heartbeat() + frames.ok())
    assert (world.sent(one), world.taken()) == (["NOP"], [])


def test_a_reply_goes_to_the_desk_and_is_finished_at_once(world: World) -> None:
    one = world.connect(subscription=REPLIES)
    world.sent(one)
    world.message(one, A)
    assert (world.desk.replies, world.taken()) == ([b"{}"], [])
    assert world.sent(one) == [f"FIN {A.decode()}"]
    assert one.touch_at == {}, "nobody waits for its answer"


def test_a_refusal_is_told_and_a_fatal_one_costs_the_connection(world: World) -> None:
    one = world.connect()
    world.receive(one, frames.error("E_FIN_FAILED FIN x failed"))
    text = "nsqd one:4150 refused a command for t:c: E_FIN_FAILED FIN x failed"
    refused = Report(level=Level.WARNING, text=text, counter=Counter.REFUSED)
    assert world.taken() == [refused]
    said = frames.message(b"{}", message_id=A) + frames.error("E_INVALID no") + frames.message(b"{}", message_id=B)
    with pytest.raises(ConnectionLost, match=r"^nsqd refused: E_INVALID no$"):
        world.receive(one, said)
    delivery, _ = world.taken()
    assert isinstance(delivery, Delivery), "what came before is handed over"
    assert delivery.message.message_id == A
    assert world.counted(Counter.REFUSED) == 2


def test_what_came_before_a_broken_frame_is_handed_over(world: World) -> None:
    one = world.connect()
    with pytest.raises(ProtocolError, match="a frame of type 7"):
        world.receive(one, frames.message(b"{}", message_id=A) + frames.frame(7, b"x"))
    assert ids(world.delivered()) == [A]


def test_one_that_ignores_rdy_is_refused_when_the_queue_is_full(world: World) -> None:
    one = world.connect()
    bound = 1000 + 4 * 5
    world.message(one, *(b"%016d" % number for number in range(bound)))
    assert len(world.delivered()) == bound
    with pytest.raises(ProtocolError, match=f"^nsqd sends more than it was asked for: {bound} messages"):
        world.message(one, A)
    assert world.taken() == [Report(counter=Counter.OVERFILLED)]
    world.intake.close(one, "it floods")
    assert world.closed == [(Target(ONE, PAIR), False)], "it is left alone for longer each time"


# What comes again


def test_a_second_copy_of_what_waits_is_ignored_and_answered_once(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.message(one, A)
    (delivery,) = world.delivered()
    world.message(one, A)
    assert world.taken() == []
    world.intake.finish(delivery, world.now)
    assert world.sent(one) == [f"FIN {A.decode()}"]


def test_what_was_finished_too_late_is_finished_again_when_it_comes_again(world: World) -> None:
    one = world.connect()
    world.message(one, A)
    (delivery,) = world.delivered()
    world.sent(one)
    world.now += TIMEOUT_S + 0.1  # nobody could send TOUCH meanwhile
    world.intake.finish(delivery, world.now)
    world.message(one, A, B)
    assert ids(world.delivered()) == [B]
    assert world.sent(one) == [f"FIN {A.decode()}"] * 2


def test_what_was_requeued_too_late_comes_again(world: World) -> None:
    one = world.connect()
    world.message(one, A)
    (delivery,) = world.delivered()
    world.now += TIMEOUT_S + 0.1
    assert world.sent(one)[-1] == f"TOUCH {A.decode()}"
    world.intake.requeue(delivery, 0, world.now)
    world.message(one, A)
    assert ids(world.delivered()) == [A]


def test_what_was_finished_after_its_connection_had_gone_is_done(world: World) -> None:
    one = world.connect()
    world.message(one, A, B)
    done, not_done = world.delivered()
    world.intake.close(one, "gone")
    world.intake.finish(done, world.now)
    world.intake.requeue(not_done, 500, world.now)
    two = world.connect()
    assert world.sent(two) == ["RDY 5"], "an answer never goes to another connection"
    world.message(two, A, B)
    assert ids(world.delivered()) == [B]
    assert world.sent(two) == [f"FIN {A.decode()}"]


def test_another_message_of_the_same_id_is_not_done(world: World) -> None:
    one = world.connect()
    world.message(one, A)
    (delivery,) = world.delivered()
    world.intake.close(one, "gone")
    world.intake.finish(delivery, world.now)
    two = world.connect(TWO)
    world.message(two, A, timestamp_ns=8)
    assert ids(world.delivered()) == [A]


# The end of a connection


def test_a_lost_connection_is_told_and_tried_again(world: World) -> None:
    one = world.connect()
    world.intake.close(one, "the peer closed the connection")
    text = "lost t:c at one:4150: the peer closed the connection"
    report = Report(level=Level.WARNING, text=text, counter=Counter.DISCONNECTED)
    fields = {"Nsqd": "one:4150", "Topic": "t", "Channel": "c", "Reason": "the peer closed the connection"}
    assert world.taken() == [Notice(happening=Happening.DISCONNECTED, report=report, fields=fields)]
    assert world.closed == [(Target(ONE, PAIR), True)]
    assert world.counted(Counter.DISCONNECTED) == 1


def test_one_that_never_subscribed_is_told_as_such(world: World) -> None:
    connection = world.intake.open(Target(ONE, PAIR), world.now)
    world.intake.close(connection, "gone")
    assert world.closed == [(Target(ONE, PAIR), False)]


def test_one_that_leaves_asks_for_no_more_and_gives_back_what_still_comes(world: World) -> None:
    """Only nsqd knows what it had sent before it heard of that."""
    connection = world.connect()
    world.message(connection, A)
    world.sent(connection)
    world.intake.leave(connection)
    assert world.sent(connection) == ["CLS"]
    assert not connection.dismissed
    world.message(connection, B)
    world.receive(connection, frames.ok())
    assert connection.dismissed
    first, *rest = world.intake.give_back(connection).decode().splitlines()
    assert first == "RDY 0"
    assert sorted(rest) == [f"REQ {A.decode()} 100", f"REQ {B.decode()} 100"]


def test_one_that_has_not_subscribed_just_goes(world: World) -> None:
    connection = world.intake.open(Target(ONE, PAIR), world.now)
    world.intake.leave(connection)
    assert connection.dismissed
    assert b"CLS" not in world.intake.data_to_send(connection, world.now)


def test_what_is_in_flight_at_the_end_is_given_back_without_a_word(world: World) -> None:
    one, idle = world.connect(), world.connect(subscription=OTHER)
    for each in (one, idle):
        world.sent(each)
    world.message(one, A, B)
    world.taken()
    first, *rest = world.intake.give_back(one).decode().splitlines()
    assert first == "RDY 0"
    assert sorted(rest) == [f"REQ {A.decode()} 100", f"REQ {B.decode()} 100"]
    assert world.intake.give_back(idle) == b""
    world.intake.close(one, "stopped", expected=True)
    assert world.taken() == []
    assert world.counted(Counter.DISCONNECTED) == 0


# Time


def test_one_that_says_nothing_is_dead(world: World) -> None:
    one = world.connect()
    world.now = START + SILENCE_S
    assert world.sent(one) == ["RDY 5"]
    world.now += 0.1
    with pytest.raises(ProtocolError, match=r"^nsqd was silent for 25 s$"):
        world.sent(one)
    world.receive(one, frames.heartbeat())
    assert world.sent(one) == ["NOP"]


def test_what_takes_long_is_touched_at_half_of_its_timeout_and_what_is_answered_is_not(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.message(one, A)
    world.now += 1
    world.message(one, B, C)
    _, answered, _ = world.delivered()
    assert world.intake.next_due() == START + TOUCH_S
    world.intake.finish(answered, world.now)
    assert world.sent(one) == [f"FIN {B.decode()}"]
    world.now = START + TOUCH_S - 0.001
    assert world.sent(one) == []
    world.now = START + TOUCH_S
    assert world.sent(one) == [f"TOUCH {A.decode()}"]
    assert world.intake.next_due() == START + 1 + TOUCH_S
    world.now = START + 1 + TOUCH_S
    assert world.sent(one) == [f"TOUCH {C.decode()}"]
    assert world.intake.next_due() == START + 2 * TOUCH_S


def test_nothing_is_due_before_the_first_and_after_the_last_message(world: World) -> None:
    assert world.intake.next_due() == math.inf
    one, two = world.connect(), world.connect(TWO)
    assert world.intake.next_due() == math.inf
    world.message(two, A)
    (delivery,) = world.delivered()
    world.intake.finish(delivery, world.now)
    world.now = world.intake.next_due()  # may be too early
    assert world.sent(two)[-1] == f"FIN {A.decode()}"
    assert world.intake.next_due() == math.inf
    world.message(one, B)
    assert world.intake.next_due() == world.now + TOUCH_S


def test_a_message_that_comes_while_another_is_held_has_its_turn(world: World) -> None:
    """Also after one that is never due any more, and when all that had a turn are gone."""
    one = world.connect()
    world.sent(one)
    world.message(one, A)
    one.abandon()
    world.now += TOUCH_S
    assert world.sent(one) == []
    assert world.intake.next_due() == math.inf
    world.message(one, B)
    world.now += TOUCH_S
    assert world.sent(one) == [f"TOUCH {B.decode()}"]


def test_the_deadline_of_a_query_is_due_too_and_queries_are_given_up_in_each_turn(world: World) -> None:
    world.desk.deadline = START + 3
    assert world.intake.next_due() == START + 3
    one = world.connect()
    world.message(one, A)
    assert world.intake.next_due() == START + 3
    world.desk.deadline = START + 30
    assert world.intake.next_due() == START + TOUCH_S
    world.intake.begin_turn(START + 1)
    assert world.desk.expired_at == [START + 1]


def test_one_that_was_deaf_itself_does_not_blame_nsqd_and_says_who_kept_it(world: World) -> None:
    one = world.connect()
    world.host.page.begin("nsq:x")
    world.now += HEARTBEAT_S - 0.1
    world.intake.begin_turn(world.now)
    assert world.taken() == []
    world.now += SILENCE_S + 5
    world.intake.begin_turn(world.now)
    assert texts(world.taken()) == [
        "Python's lock was kept for 30 s, last by nsq:x: nsqd had no heartbeat meanwhile, and may have hung up"
    ]
    assert world.sent(one) == ["RDY 5"]
    world.now += 0.5
    world.intake.begin_turn(world.now)
    assert world.taken() == [], "said once"


# A main thread that is stuck


def test_while_no_message_is_answered_nsqd_is_asked_for_none(world: World) -> None:
    one, replies = world.connect(), world.connect(subscription=REPLIES)
    world.until(START + 1, one, replies)
    world.message(one, A)
    (delivery,) = world.delivered()
    assert world.until(START + 3, one, replies) == [[], []]
    assert world.until(START + 4, one, replies) == [["RDY 0"], []], "replies need no main thread"
    assert texts(world.taken()) == ["no message was answered for 2 s: nsqd was asked for no more until one was"]
    assert world.sent(world.connect(TWO)) == []
    world.intake.finish(delivery, world.now)
    assert world.until(START + 5, one) == [[f"FIN {A.decode()}", "RDY 2"]]
    assert world.counted(Counter.STUCK) == 1


@pytest.mark.parametrize("delay_ms", [None, 500])
def test_one_answer_in_2_seconds_is_enough_though_others_wait(world: World, delay_ms: int | None) -> None:
    one = world.connect()
    world.sent(one)
    world.until(START + 1, one)
    world.message(one, A, B)
    answered, _ = world.delivered()
    world.until(START + 2.5, one)
    if delay_ms is None:
        world.intake.finish(answered, world.now)
        expected = f"FIN {A.decode()}"
    else:
        world.intake.requeue(answered, delay_ms, world.now)
        expected = f"REQ {A.decode()} {delay_ms}"
    assert world.until(START + 4.5, one) == [[expected]]
    assert world.until(START + 5, one) == [["RDY 0"]]


def test_a_limit_that_is_set_while_stuck_holds_after(world: World) -> None:
    one = world.connect()
    world.until(START + 1, one)
    world.message(one, A)
    (delivery,) = world.delivered()
    world.until(START + 4, one)
    world.intake.resume(PAIR, 2)
    assert world.sent(one) == []
    world.intake.finish(delivery, world.now)
    assert world.until(START + 5, one) == [[f"FIN {A.decode()}", "RDY 2"]]


def test_behind_a_route_that_takes_too_long_everything_is_given_back(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.message(one, A, B)
    begun, waiting = world.delivered()
    custody = world.intake._overseer.custody
    assert custody.begin(begun)
    world.host.page.doing = Doing(START, "nsq:x")
    (before,) = world.until(START + ROUTE_TIMEOUT_S, one)
    assert before[0] == "RDY 0"
    assert before[1:] == [f"TOUCH {each.decode()}" for _ in range(6) for each in (A, B)]
    assert world.until(START + ROUTE_TIMEOUT_S + 1, one) == [[f"REQ {B.decode()} 100"]]
    assert not custody.begin(waiting)
    assert (world.counted(Counter.ROUTE_TIMEOUT), world.counted(Counter.GIVEN_BACK)) == (1, 1)
    assert list(one.touch_at) == [A]


def test_a_route_that_is_hopeless_has_its_message_touched_no_more(world: World) -> None:
    one = world.connect()
    world.sent(one)
    world.message(one, A)
    (begun,) = world.delivered()
    assert world.intake._overseer.custody.begin(begun)
    world.host.page.doing = Doing(START, "nsq:x")
    world.until(START + 2 * ROUTE_TIMEOUT_S, one)
    assert world.until(START + 3 * ROUTE_TIMEOUT_S, one) == [[]]
    world.host.page.doing = None
    world.taken()
    world.intake.finish(begun, world.now)
    assert world.until(START + 3 * ROUTE_TIMEOUT_S + 1, one) == [[f"FIN {A.decode()}", "RDY 5"]]
    assert texts(world.taken()) == ["stuck no more: nsq:x took 90.5 s"]
    world.message(one, A)
    assert world.taken() == [], "it is done, and nsqd has sent it again"
    assert world.sent(one) == [f"FIN {A.decode()}"]


def test_what_is_given_back_is_told_after_rdy_0(world: World) -> None:
    """Or nsqd would send more for it."""
    one = world.connect()
    world.sent(one)
    world.host.page.doing = Doing(START, "nsq:x")
    world.until(START + ROUTE_TIMEOUT_S, one)
    world.message(one, A)
    assert world.until(START + ROUTE_TIMEOUT_S + TURN_S, one) == [["RDY 0", f"REQ {A.decode()} 100"]]


def test_what_is_in_flight_is_shown_some_times_a_second(world: World) -> None:
    one = world.connect()
    world.message(one, A, B)
    world.intake.watch(START, WALL)
    assert (world.gauge(Gauge.IN_FLIGHT), world.gauge(Gauge.QUEUED), world.gauge(Gauge.QUEUED_BYTES)) == (2, 2, 4)
    assert world.gauge(Gauge.IO_TURN) == world.gauge(Gauge.LAST_EVENT) == WALL
    world.intake.watch(START + 0.05, WALL + 5)
    assert world.gauge(Gauge.IO_TURN) == WALL
    world.intake.watch(START + 0.1, WALL + 10)
    assert (world.gauge(Gauge.IO_TURN), world.gauge(Gauge.LAST_EVENT)) == (WALL + 10, WALL)
