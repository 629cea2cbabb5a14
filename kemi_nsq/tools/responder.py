# SPDX-License-Identifier: GPL-2.0-or-later
"""Both ends of a query, for the command line: ask once, or answer until interrupted."""

from __future__ import annotations

import shlex
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import TypeAlias

from kemi_nsq.errors import NameRefused, NsqError, PayloadError, QueryFailed, UsageError
from kemi_nsq.jsontext import JsonObject, encode, field_text, json_object
from kemi_nsq.names import Subscription, topic_name
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.queries.protocol import MSG_ID, SERVER_ID, Sender, reply_msg_id, reply_subscription, request
from kemi_nsq.settings import Settings
from kemi_nsq.tools.reader import Reader

Answer: TypeAlias = Callable[[str], JsonObject]
#: A command that takes longer than this has no answer.
EXEC_TIMEOUT_S = 30.0
#: Characters of the reply topic that are this call's alone.
_RANDOM = 12


def ask(settings: Settings, topic: str, payload: str, *, timeout_s: float) -> str:
    """Publish a request, wait for its reply and return it.

    Raises:
        PayloadError: the payload is no JSON object.
        TransientError: nsqd does not answer, or no reply came in time.
    """
    deadline = time.monotonic() + timeout_s
    sender = Sender(node=settings.node, app_name="kemi-nsq", app_version="cli")
    msg_id, fields = request(payload, sender=sender, new_id=str(uuid.uuid4()))
    replies = reply_subscription("kemi-nsq", settings.node, uuid.uuid4().hex[:_RANDOM])
    with closing(Reader(settings.nsqd_tcp_address[0], replies)) as reader:
        Publisher(settings).publish(Outgoing(topic=topic, body=encode({**fields, SERVER_ID: replies.topic})))
        while True:
            body = reader.next_message(deadline - time.monotonic()).body
            if _answered_id(body) == msg_id:
                return body.decode("utf-8")


def serve(settings: Settings, topic: str, answer: Answer, say: Callable[[str], object]) -> None:
    """Answer what comes on a topic, one request after the other.

    Args:
        settings: where nsqd is.
        topic: what to listen on; the channel is `responder`.
        answer: makes the reply from the request's text.
        say: takes one line for each request.
    """
    publisher = Publisher(settings)
    with closing(Reader(settings.nsqd_tcp_address[0], Subscription(topic, "responder"))) as reader:
        say(f"answering on {topic} at {settings.nsqd_tcp_address[0]}")
        while True:
            text = reader.next_message().body.decode("utf-8", "replace")
            try:
                say(_respond(publisher, text, answer))
            except NsqError as error:  # the next request may be better
                say(f"not answered: {error}")


def fixed(reply: str) -> Answer:
    """Return an answer that is always the same JSON object."""
    fields = json_object(reply)
    return lambda _request: fields


def executed(command: str) -> Answer:
    """Return an answer that a command gives: it reads the request and prints a JSON object."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{command!r} is no command: {error}") from error
    if not words:
        raise UsageError("the command is empty")

    def answer(text: str) -> JsonObject:
        try:
            done = subprocess.run(
                words, input=text, capture_output=True, encoding="utf-8", timeout=EXEC_TIMEOUT_S, check=True
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:  # ValueError: what it says is not UTF-8
            raise UsageError(f"{words[0]}: {error}") from error
        return json_object(done.stdout)

    return answer


def _answered_id(reply: bytes) -> str:
    try:
        return reply_msg_id(reply)
    except PayloadError as error:  # the fault of who answers, not of who asks
        raise QueryFailed(f"bad reply: {error}") from error


def _respond(publisher: Publisher, text: str, answer: Answer) -> str:
    fields = json_object(text)
    msg_id, reply_topic = field_text(fields, MSG_ID), field_text(fields, SERVER_ID)
    if not (msg_id and reply_topic):
        raise PayloadError("the request has no Msg-ID or no Server-ID")
    try:
        topic_name(reply_topic)
    except NameRefused as error:  # which of its names it is
        raise NameRefused(f"Server-ID: {error}") from error
    publisher.publish(Outgoing(topic=reply_topic, body=encode({**answer(text), MSG_ID: msg_id})))
    return f"answered {msg_id} on {reply_topic}"
