# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb that shows what comes on a topic."""

from __future__ import annotations

import json
import sys
import time
import uuid
from contextlib import closing, suppress
from typing import Annotated

import typer

from kemi_nsq.errors import DeadlineExceeded
from kemi_nsq.names import Subscription, topic_name
from kemi_nsq.tools import configured
from kemi_nsq.tools.nsqds import nsqds
from kemi_nsq.tools.output import line, moment
from kemi_nsq.tools.tail import Filter, Seen, field_filter, places, watch

#: Characters of a channel's name that are this call's alone.
_RANDOM = 12


def tail(  # noqa: PLR0913, PLR0917  # one argument for each option
    topic: Annotated[str, typer.Argument(help="NSQ topic; one that has no channel yet is refused.")],
    field: Annotated[
        list[str] | None,
        typer.Option(help="Name=value: only messages whose JSON has this value there. Several: all of them."),
    ] = None,
    grep: Annotated[str, typer.Option(help="Only messages that have this text, in any case.")] = "",
    count: Annotated[int, typer.Option(min=0, help="End after so many; 0 for never.")] = 0,
    timeout: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0 for never.")] = 0,
    size: Annotated[int, typer.Option(min=1, help="Characters of a payload that are shown; all of it as JSON.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> None:
    """Show what comes on a topic, until Ctrl-C. Nothing is taken from those who consume it."""
    chosen = Filter(fields=[field_filter(each) for each in field or ()], text=grep)
    until = time.monotonic() + timeout if timeout else None
    subscription = Subscription(topic_name(topic), f"kemi-nsq-tail-{uuid.uuid4().hex[:_RANDOM]}#ephemeral")
    left = count
    with suppress(KeyboardInterrupt):
        found = places(nsqds(configured.settings()), topic, _say)
        with closing(watch(found, subscription, until=until)) as messages:
            for seen in messages:
                if not chosen.matches(seen.text):
                    continue
                sys.stdout.write((_json(seen, topic) if as_json else _line(seen, size)) + "\n")
                sys.stdout.flush()
                left -= 1
                if not left:
                    return
        if left > 0:
            raise DeadlineExceeded(f"{count - left} of {count} messages came in {timeout:g} s")


def _line(seen: Seen, size: int) -> str:
    text, (seconds, nanoseconds) = seen.text, divmod(seen.message.timestamp_ns, 10**9)
    when = f"{moment(seconds)}.{nanoseconds // 10**6:03d}"
    rest = f"... ({len(seen.message.body)} bytes)" if len(text) > size else ""
    shown = line(text[:size])
    return f"{when} {seen.message.message_id.decode('ascii', 'replace')} {seen.message.attempts} {shown}{rest}"


def _json(seen: Seen, topic: str) -> str:
    message = seen.message
    return json.dumps(
        {
            "nsqd": seen.nsqd,
            "topic": topic,
            "message_id": message.message_id.decode("ascii", "replace"),
            "timestamp": message.timestamp_ns,
            "attempts": message.attempts,
            "payload": seen.text,
        }
    )


def _say(text: str) -> None:
    sys.stderr.write(f"kemi-nsq: {line(text)}\n")
