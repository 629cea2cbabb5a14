# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doubles of tests/support/doubles.py do is what the real ones do, with a real nsqd and a real file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kemi_nsq.errors import ConnectionLost, NsqdRefused, OutboxError, QueryFailed
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Batch, Outgoing
from kemi_nsq.queries.asker import Asker
from tests.support.doubles import FakeAsker, FakeOutbox, FakePublisher
from tests.support.nsqd import Nsqd
from tests.support.places import new_place
from tests.support.settings import settings

#: A publisher, an asker and an outbox keep what they opened as long as their process lives, so they have no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

FIRST, SECOND = (Outgoing(topic="t", body=body) for body in (b"[1]", b"[2]"))
TOO_LARGE = Outgoing(topic="t", body=b"[%s]" % (b" " * 100))
MAX_SIZE = 100
PAIR, MIXED = (FIRST, SECOND), (FIRST, TOO_LARGE)


class Publishing(NamedTuple):
    """A publisher, and how to keep it from publishing."""

    publisher: Publisher
    lose_nsqd: Callable[[], None]
    find_nsqd: Callable[[], None]
    refuse: Callable[[], None]
    accept: Callable[[], None]
    taken: Callable[[], int]


@pytest.fixture(params=["fake", "real"])
def publishing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Publishing]:
    if request.param == "fake":
        fake = FakePublisher()

        def fail(failure: Exception | None) -> Callable[[], None]:
            return lambda: setattr(fake, "failure", failure)

        lost, refused = ConnectionLost("no nsqd"), NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True)
        yield Publishing(fake, fail(lost), fail(None), fail(refused), fail(None), lambda: len(fake.sent))
        return
    with Nsqd(tmp_path, max_msg_size=MAX_SIZE) as nsqd:
        real = Publisher(settings(nsqd_tcp_address=nsqd.tcp_address, publish_timeout="2"))

        def nothing() -> None:
            """It refuses by the size."""

        yield Publishing(real, nsqd.stop, nsqd.start, nothing, nothing, lambda: nsqd.topic("t")["depth"])


def test_a_publisher_takes_a_batch_whole_or_not_at_all(publishing: Publishing) -> None:
    publisher = publishing.publisher
    good, bad = (Batch("t", [len(each.body).to_bytes(4) + each.body for each in some]) for some in (PAIR, MIXED))
    if isinstance(publisher, FakePublisher):
        publisher.wrong = {TOO_LARGE.body}
    publisher.publish(good)
    assert publishing.taken() == len(PAIR)
    with pytest.raises(NsqdRefused):
        publisher.publish(bad)
    assert publishing.taken() == len(PAIR)


def test_a_publisher_takes_a_message_unless_it_raises(publishing: Publishing) -> None:
    publisher = publishing.publisher
    publisher.trial()
    publisher.publish(FIRST)
    publishing.lose_nsqd()
    with pytest.raises(ConnectionLost):
        publisher.publish(FIRST)
    with pytest.raises(ConnectionLost):
        publisher.trial()
    publishing.find_nsqd()
    publisher.trial()
    publisher.publish(SECOND)
    publishing.refuse()
    with pytest.raises(NsqdRefused):
        publisher.publish(TOO_LARGE)
    publishing.accept()
    publisher.publish(SECOND)
    assert publishing.taken() == 3


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_an_outbox_keeps_messages_in_order_until_it_is_full(kind: str, tmp_path: Path) -> None:
    outbox: Outbox = FakeOutbox()
    if kind == "real":
        outbox = Outbox(str(tmp_path / "outbox.db"), max_messages=2, max_bytes=1000, say=print)
    for message in (FIRST, SECOND):
        outbox.keep(message)
    if isinstance(outbox, FakeOutbox):
        outbox.failure = OutboxError("full")
    with pytest.raises(OutboxError, match="full"):
        outbox.keep(FIRST)
    for message in (FIRST, SECOND):
        oldest = outbox.oldest()
        assert oldest is not None
        assert oldest.message == message
        outbox.remove(oldest)
    assert outbox.oldest() is None


@pytest.mark.parametrize("kind", ["fake", "real"])
def test_an_asker_that_finds_no_consumer_says_so_and_publishes_nothing(kind: str, tmp_path: Path) -> None:
    publisher = FakePublisher()
    asker: Asker = Asker(settings(), publisher, new_place(tmp_path / "run"), lambda: None)
    if kind == "fake":
        asker = FakeAsker()
        asker.failure = QueryFailed("no consumer")
    for ask in (asker.ask, asker.prepare):
        with pytest.raises(QueryFailed) as failed:
            ask("t", "{}", 0.5)
        assert failed.value.reason == "no consumer"
    assert publisher.sent == []
