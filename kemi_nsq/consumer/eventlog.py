# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of each message, a line for each step, while an operator wants that: `kemi-nsq presence log-events`.

Together with the lines of `presence.history` about its states they are its whole way: who looks for its id finds all.
Whoever has something to tell asks `log_policy.events` before: to put words together for nobody would take time from
each event.
"""

from __future__ import annotations

from kemi_nsq.consumer.message import Handled
from kemi_nsq.host import NO_FIELDS, Host, Level
from kemi_nsq.jsontext import JsonObject


def tell(host: Host, one: Handled, step: str, text: str, fields: JsonObject = NO_FIELDS) -> None:
    """Write a line about a message.

    Args:
        host: has the log.
        one: the message.
        step: what was done with it, in one or two words that stay the same.
        text: more about that.
        fields: the same for programs, with NSQ_LOG_FORMAT json.
    """
    host.log_aside(Level.INFO, f"{step}: {one.named}: {text}", {**one.about(), "step": step, **fields})
