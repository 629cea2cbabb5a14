# SPDX-License-Identifier: GPL-2.0-or-later
"""The counters that the operator reads with `kamcmd htable.dump nsq`: one name each, and what it counts."""

from __future__ import annotations

import enum
from typing import Self


class Named(enum.StrEnum):
    """Names, each with a sentence that says what it stands for."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Self:
        """Make a member from its name and its sentence."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member


class Counter(Named):
    """Names of the counters. All start at Kamailio's start and are shared by its processes."""

    RECEIVED = "received", "messages taken from nsqd, redeliveries included"
    INVALID = "invalid", "messages dropped because their body is no JSON object of an allowed size"
    UNROUTED = "unrouted", "events for which there is no event route"
    ROUTE_FAILED = "route_failed", "Python handlers that raised"
    REQUEUED = "requeued", "messages that come again because their route asked for it, or failed"
    GIVEN_BACK = (
        "given_back",
        "messages given back to nsqd by no fault of theirs: an outage, a topic that backs off, or a route that takes "
        "longer than NSQ_ROUTE_TIMEOUT",
    )
    OUTAGES = "outages", "outages begun: the database fails, or no nsqd takes dead letters"
    BACKOFFS = "backoffs", "times that a topic began to back off because its route failed for every event"
    GAVE_UP = "gave_up", "messages dropped because their route failed NSQ_MAX_ATTEMPTS times, or Kamailio died of them"
    DEAD_LETTERS = "dead_letters", "messages published to NSQ_DEAD_LETTER_TOPIC"
    REPLAYED = "replayed", "events that came by NSQ_REPLAY_TOPIC, each delivery; they count as received, too"
    PUA_STORED = "pua_stored", "presence states stored that changed a document"
    PUA_UNCHANGED = (
        "pua_unchanged",
        "presence states whose document was there already; kept longer, no NOTIFY",
    )
    PUA_HIDDEN = (
        "pua_hidden",
        "presence states that no document shows: calls above NSQ_PUA_MAX_DIALOGS, and their ends",
    )
    PUA_STALE = (
        "pua_stale",
        "presence states older than, or the same as, the one stored; and replays older than what is remembered",
    )
    PUA_TOO_OLD = "pua_too_old", "presence events older than NSQ_MAX_EVENT_AGE, and replays of what has expired since"
    PUA_INVALID = (
        "pua_invalid",
        "presence events of no use: no state, no scope, a row that the database refuses, or no NSQ_DB_URL",
    )
    PUA_DATABASE_ERROR = (
        "pua_database_error",
        "failures of the database: one for each batch, call or look for what expires",
    )
    PUA_ENDED = "pua_ended", "states that were ended because they expired or were reset"
    PROBED = "probed", "probes published to NSQ_PROBE_TOPIC"
    LOCK_FAILED = "lock_failed", "times that the lock NSQ_PUA_LOCK was not given, so that work went on without it"
    REQUEST_REFUSED = "request_refused", "SUBSCRIBEs and PUBLISHes that the presence module refused"
    REFRESH_FAILED = "refresh_failed", "times that the presence module refused to notify the watchers of a presentity"
    NOTIFY_UNANSWERED = "notify_unanswered", "NOTIFYs that a watcher did not answer, or that could not be sent"
    DOCUMENT_TOO_LARGE = (
        "document_too_large",
        "presence states stored whose presentity's document is about to be too large for UDP",
    )
    PUBLISHED = "published", "messages that a nsqd took from nsq_publish, nsq_publish_deferred or the relay"
    QUEUED = "queued", "messages that the relay took from nsq_publish_async, or nsq_publish with NSQ_PUBLISH_WAIT 0"
    PUBLISH_FAILED = (
        "publish_failed",
        "calls of nsq_publish, nsq_publish_deferred, nsq_publish_async or nsq_pua_probe that failed, and messages of "
        "the relay that nsqd refused for good, or that nobody had taken when it ended",
    )
    OUTBOX_KEPT = "outbox_kept", "messages put into the outbox because no nsqd took them"
    OUTBOX_SENT = "outbox_sent", "messages of the outbox that a nsqd has taken since"
    OUTBOX_DROPPED = "outbox_dropped", "messages of the outbox that nsqd refused for good"
    QUERIED = "queried", "queries that got their reply, or were sent off by nsq_query_async"
    QUERY_FAILED = "query_failed", "queries that failed; `$var(nqErr)` said why"
    JSON_FAILED = "json_failed", "calls of nsq_json with no JSON, or no path"
    UNKNOWN_FUNCTION = "unknown_function", "calls of python_exec by a name that is none"
    REPLY_DROPPED = "reply_dropped", "replies of no use: late, second, foreign, too large, or no reply at all"
    REPLY_STRANGERS = (
        "reply_strangers",
        "times that somebody else was found to read the replies to our queries",
    )
    CLOCKS_WRONG = (
        "clocks_wrong",
        "times that the clock of a nsqd was found to have been set back, or clocks to differ",
    )
    RUN_FOLDER_LOST = (
        "run_folder_lost",
        "times that NSQ_RUN_DIR, or a socket of ours in it, was found to be gone",
    )
    RESUME_FAILED = "resume_failed", "suspended transactions that had gone when their reply, or its deadline, came"
    CONNECTED = "connected", "subscriptions that nsqd accepted"
    DISCONNECTED = "disconnected", "connections to nsqd that were lost"
    CONNECT_FAILED = (
        "connect_failed",
        "connects to nsqd that failed and were logged: the first of a row, then every 100th",
    )
    LOOKUP_FAILED = "lookup_failed", "times that a nsqlookupd did not answer; once, until that changes"
    NODES_REFUSED = (
        "nodes_refused",
        "entries of nsqlookupd's answers that are no address, or for which there is no room; once, until that changes",
    )
    REFUSED = "refused", "commands that nsqd refused, such as FIN of a message that had timed out"
    STUCK = "stuck", "times that a route or the database took so long that nsqd was asked for no more messages"
    ROUTE_TIMEOUT = "route_timeout", "times that a route, or else the main thread, took longer than NSQ_ROUTE_TIMEOUT"
    OVERFILLED = "overfilled", "connections that were closed because nsqd sent more than it was asked for"
    RESTARTED = "restarted", "consumer loops that failed and were started again"
    BUG = "bug", "unexpected exceptions of ours, in a function that a route called or while an event was handled"
