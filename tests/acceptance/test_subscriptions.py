# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of subscriptions, which are Kamailio's: it tells who did not renew one, and its database may be busy."""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from threading import Timer

import pytest

from tests.support.chain import DOMAIN, SHIPPED, Chain
from tests.support.kamailio import release
from tests.support.subscription import SubscribeRefused, Subscription
from tests.support.until import until

#: From here on Kamailio deletes subscriptions that ran out, told or not, every `clean_period` of presence.cfg.
DELETES_WHAT_RAN_OUT = (5, 8)
#: Before, nothing is lost, however long `db_update_period` is; so the 100 s of presence.cfg are not waited for.
SHORT_PERIOD = """
modparam("presence", "db_update_period", 10)
"""
#: The driver of SQLite waits for another program from here on.
WAITS_FOR_A_WRITER = (6, 0)

#: Subscriptions that run out one after the other, over more than one `clean_period` and one `db_update_period`.
LIFETIMES_S = range(1, 37)
#: From the end of the last one to the next `db_update_period` and the NOTIFY.
PATIENCE_S = 30.0


def is_over(lamp: Subscription) -> bool:
    """Whether Kamailio has told this watcher so."""
    return lamp.notifies[-1].terminated


def test_each_watcher_that_does_not_renew_its_subscription_is_told(tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    shorter = "" if release() >= DELETES_WHAT_RAN_OUT else SHORT_PERIOD
    config.write_text(f'include_file "{SHIPPED / "kamailio.cfg"}"\n{shorter}')
    with Chain("native", tmp_path, config=config) as chain, chain.watcher() as watcher:
        lamps = [watcher.subscribe(f"sip:u{each}@{DOMAIN}", "presence", expires_s=each) for each in LIFETIMES_S]
        patience_s = LIFETIMES_S[-1] + PATIENCE_S
        until(lambda: all(map(is_over, lamps)), timeout_s=patience_s, what="every last NOTIFY")
        chain.kamailio.stop()  # or it goes on
        # It keeps the row of a watcher that answered 200 until its next turn, and says it then once more.
        assert all("after the one that said `terminated`" in each for each in watcher.errors)
        watcher.errors.clear()


def test_a_subscribe_waits_for_another_program_that_writes_where_the_driver_can(tmp_path: Path) -> None:
    with (
        Chain("native", tmp_path) as chain,
        chain.watcher() as watcher,
        closing(sqlite3.connect(chain.database, check_same_thread=False, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        after_a_while = Timer(0.5, other.rollback)
        after_a_while.start()
        refused = nullcontext() if release() >= WAITS_FOR_A_WRITER else pytest.raises(SubscribeRefused, match="500")
        with refused:
            watcher.subscribe(f"sip:alice@{DOMAIN}", "presence")
        after_a_while.join()
