# SPDX-License-Identifier: GPL-2.0-or-later
"""A message that ends Kamailio each time that it is handled does not end it for ever, and takes no other along."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import Chain, Person
from tests.support.consuming import Consuming
from tests.support.database import rows
from tests.support.kamailio import quoted
from tests.support.until import until

DEAD = "dead"
DEADLY = """
@event_route("nsq:consumer-event-test-deadly")
def deadly(self, event):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start_again(chain: Chain) -> None:
    """Start it once more; it may have died of the message before it was asked anything."""
    chain.kamailio.stop()
    with contextlib.suppress(AssertionError):
        chain.kamailio.start()


def test_a_message_that_ends_kamailio_becomes_a_dead_letter_the_fourth_time(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(with_handlers(DEADLY))
    with custom_chain(
        "kemi",
        tmp_path,
        script="deadly.py",
        NSQ_DEAD_LETTER_TOPIC=quoted(DEAD),
        NSQ_RUN_DIR=quoted(tmp_path / "run"),
        NSQ_MSG_TIMEOUT=1,
        NSQ_MAX_ATTEMPTS=1,
    ) as chain:
        innocent = Person(chain=chain)
        chain.publish(json.dumps({"Event-Category": "test", "Event-Name": "deadly"}).encode())
        for death in range(3):
            until(lambda: chain.kamailio.process.exit_code is not None, timeout_s=30, what="Kamailio to die of it")
            innocent.call("early", Call_ID=f"after-{death}")
            start_again(chain)
        letters: list[dict[str, object]] = []
        with Consuming(
            chain.nsqd, lambda event: letters.append(json.loads(event.payload)), topic_channel=f"{DEAD}:test"
        ):
            until(lambda: letters, timeout_s=30, what="its dead letter")
        chain.drain(timeout_s=30)
        assert letters[0]["Reason"] == "Kamailio died again and again while it was handled"
        assert json.loads(str(letters[0]["Payload"]))["Event-Name"] == "deadly"
        assert chain.kamailio.alive()
        assert len([row for row in rows(chain.database, "dialog") if row["username"] == innocent.user]) == 3
        assert len(letters) == 1
