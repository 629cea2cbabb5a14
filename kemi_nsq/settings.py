# SPDX-License-Identifier: GPL-2.0-or-later
"""The settings: one table of name, type, default, limits and meaning. `loading` reads it into one frozen object.

A setting is called `NSQ_` and the field's name in capitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from kemi_nsq.names import Subscription
from kemi_nsq.settingtypes import (
    Addresses,
    DatabaseUrl,
    Defined,
    FilePath,
    Name,
    OneAddress,
    OptionalName,
    States,
    Subscriptions,
    can_be_built_in,
    can_be_told_twice,
    topic_of_its_own,
)

PREFIX = "NSQ_"
#: Defined wherever `kamailio/nsq.cfg` was included.
INCLUDED = "NSQ_INCLUDED"
#: Has Kamailio take its routes from Python.
KEMI = "NSQ_KEMI"
#: Read by `kamailio/nsq.cfg` and `nsq-presence.cfg` alone, and what each does there; nothing here depends on it.
CONFIGURATION_ONLY: Mapping[str, str] = {
    "NSQ_SCRIPT": "the Python file that Kamailio loads; without it the one that `nsq-place.cfg` beside `nsq.cfg` "
    "names, as a package has it, else `/etc/kamailio/nsq.py`",
    KEMI: 'routes are written in Python, those of NSQ_SCRIPT: sets `cfgengine "python"`',
    INCLUDED: "set by `nsq.cfg`, not by you: included once more, that file does nothing",
    "NSQ_OWN_NOTIFY_REPLY": "leaves `event_route[presence:notify-reply]` to you",
    "NSQ_OWN_PV_BUFFER_SIZE": "leaves `pv_buffer_size` to you; longer texts of `python_exec` fail",
    "NSQ_OWN_LOCK_SET_SIZE": "leaves `lock_set_size` of cfgutils to you; 0, its default, is no lock",
    "NSQ_OWN_HASH_FILE": "leaves `hash_file` of cfgutils to you; it is NSQ_SCRIPT otherwise",
    "NSQ_OWN_FORCE_ACTIVE": "leaves `force_active` of presence_xml to you",
    "NSQ_OWN_DB_TIMEOUT": "leaves the timeouts of db_mysql and db_postgres to you",
}

_ADDRESSES = "host:port, several separated by commas"
_NAME = "1 to 64 of the characters A-Z a-z 0-9 . _ -, then optionally #ephemeral"
_FIELD = "the name of a JSON field, 1 to 64 characters"


def _setting(default: object, meaning: str, allowed: str = "", **limits: Any) -> Any:
    """Describe a setting. What it allows is said in words only where its type, or `ge` and `le`, do not say it."""
    return Field(default=default, description=meaning, json_schema_extra={"allowed": allowed}, **limits)


class Settings(BaseSettings):
    """Every setting, validated and frozen. The attribute `max_in_flight` is the setting NSQ_MAX_IN_FLIGHT."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)

    nsqd_address: Annotated[Addresses, Field(min_length=1)] = _setting(
        "127.0.0.1:4151",
        "HTTP addresses of nsqd: to publish with NSQ_PUBLISH_TRANSPORT http, and to see who reads our replies, unless "
        "NSQ_LOOKUPD_ADDRESS is set; the first one for `kemi-nsq publish` and `kemi-nsq presence set`.",
        _ADDRESSES,
    )
    nsqd_tcp_address: Annotated[Addresses, Field(min_length=1)] = _setting(
        "127.0.0.1:4150",
        "TCP addresses of nsqd: publish and query through these; and consume from these, unless NSQ_LOOKUPD_ADDRESS "
        "is set.",
        _ADDRESSES,
    )
    lookupd_address: Addresses = _setting(
        "",
        "HTTP addresses of nsqlookupd: consume from every nsqd that they know. Where to publish does not change.",
        _ADDRESSES + ", or empty",
    )
    listen_topic: Name = _setting("kamailio", "Topic to consume.", _NAME)
    listen_channel: Name = _setting("kamailio", "Channel of the topic to consume.", _NAME)
    topic_channel: Subscriptions = _setting(
        "",
        "Several topics and channels to consume, instead of NSQ_LISTEN_TOPIC and NSQ_LISTEN_CHANNEL.",
        "topic:channel, several separated by commas",
    )
    consumers: int = _setting(1, "Consumer processes to start (modparam of evrexec).", ge=1, le=32)
    max_in_flight: int = _setting(5, "Messages handled at once per topic and consumer process.", ge=1, le=2500)
    max_attempts: int = _setting(
        10,
        "Failures of a message's own route, seen by one consumer process, after which it is given up; other deliveries "
        "do not count.",
        ge=1,
        le=65535,
    )
    backoff_max: int = _setting(
        60, "Most seconds that a topic rests whose route fails for every event; 0: never.", ge=0, le=3600
    )
    msg_timeout: int = _setting(
        10,
        "Seconds after which nsqd delivers again what has no answer, as after a crash; a long route is prolonged "
        "(TOUCH) unless it keeps Python's lock. At most nsqd's --max-msg-timeout; 0 for its --msg-timeout.",
        ge=0,
        le=900,
    )
    batch: int = _setting(
        100,
        "Waiting messages that are handled together and committed at once; 1 commits each by itself.",
        ge=1,
        le=1000,
    )
    dead_letter_topic: OptionalName = _setting(
        "",
        "Topic for messages that are invalid or were given up; empty for none: then they are only logged and counted.",
        f"{_NAME}; or empty",
    )
    replay_topic: Annotated[OptionalName, AfterValidator(topic_of_its_own)] = _setting(
        "",
        "Topic by which dead letters come again (`kemi-nsq dead-letters replay`), consumed on the channels of the "
        "others; empty for none. Events keep their first place in the order: who publishes to it says when they were.",
        f"{_NAME}, and no topic that is consumed or has the dead letters; or empty",
    )
    max_event_size: int = _setting(
        65536, "Largest body of an event, in bytes; a larger one is refused.", ge=1, le=1048576
    )
    consumer_event_key: str = _setting(
        "Event-Category", "JSON field that names the event route.", _FIELD, min_length=1, max_length=64
    )
    consumer_event_subkey: str = _setting(
        "Event-Name",
        "JSON field that makes the route's name more specific.",
        _FIELD,
        min_length=1,
        max_length=64,
    )
    ack: Literal["processed", "received"] = _setting(
        "processed", "When a message is finished: after its route, or before."
    )
    publish_timeout: float = _setting(0.5, "Seconds that one publish may take, all nsqd together.", ge=0.01, le=60)
    publish_transport: Literal["tcp", "http"] = _setting(
        "tcp", "Publish to NSQ_NSQD_TCP_ADDRESS, or through HTTP to NSQ_NSQD_ADDRESS."
    )
    publish_raw: bool = _setting(False, "1: publish payloads without checking that they are JSON.")
    publish_wait: bool = _setting(
        True, "0: `nsq_publish` does what `nsq_publish_async` does; 1: it waits until nsqd has the message."
    )
    max_message_size: int = _setting(
        1048576,
        "Largest body to publish, in bytes, as nsqd's --max-msg-size has it; a larger one is refused at once.",
        ge=1,
        le=16777216,
    )
    outbox: FilePath = _setting(
        "",
        "SQLite file that keeps messages of `nsq_publish` while no nsqd takes them; empty for none.",
        "an absolute path, or empty",
        pattern=r"^(/.+)?$",
    )
    outbox_messages: int = _setting(100000, "Messages that the outbox may hold.", ge=1, le=100000000)
    outbox_bytes: int = _setting(67108864, "Bytes of payload that the outbox may hold.", ge=1, le=1099511627776)
    query_timeout: float = _setting(
        2.0, "Seconds that a query waits for its reply; `$var(nsq_query_timeout)` overrides it once.", ge=0.01, le=300
    )
    max_reply_size: int = _setting(
        1048576, "Largest reply to a query, in bytes; a larger one fails the query.", ge=1, le=16777216
    )
    node: str = _setting(
        "localhost",
        "Name of this node for people, in the reply topic and in `Node` of queries; the host name where it is not set.",
        "1 to 32 of the characters A-Z a-z 0-9 . _ -",
        pattern=r"^[.a-zA-Z0-9_-]{1,32}$",
    )
    db_url: DatabaseUrl = _setting(
        None,
        "Database of Kamailio's presence module. As Kamailio writes it, each letter stands for itself: a `%` too, and "
        "the last `@` ends the password. In SQLAlchemy's form (`mysql+pymysql:`, `postgresql:`) `%40` stands for `@`.",
        "sqlite:////path/file, mysql://user:password@host/database or postgres://user:password@host/database",
    )
    db_timeout: float = _setting(5.0, "Seconds that a transaction of ours may take at most.", ge=0.5, le=60)
    presentity_table: str = _setting(
        "presentity",
        "Table that the presence module reads.",
        "a table's name",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$",
    )
    pua_refresh: bool = _setting(True, "1: `nsq_pua_publish` sends the NOTIFY after the commit; 0: the route does.")
    pua_builtin: Annotated[bool, AfterValidator(can_be_built_in)] = _setting(
        False,
        "1: an event of the category `presence` named `update` goes to `nsq_pua_publish`, one named `reset` to "
        "`nsq_pua_reset`, without an event route. A Python handler of that name goes before; native routes and general "
        "ones do not see it.",
        "0, or 1 with NSQ_PUA_REFRESH 1 and NSQ_DB_URL",
    )
    pua_include_entity: bool = _setting(True, "1: dialog-info documents carry `target` elements.")
    pua_lock: str = _setting(
        "",
        "Lock (module cfgutils) that a consumer holds for the NOTIFYs of a presentity, with SQLite also while it "
        "writes, and nsq_pua_handle. Without it a NOTIFY may repeat a CSeq, and SUBSCRIBEs fail on "
        "SQLite, whose Kamailio driver does not wait for another writer.",
        "a lock's name, or empty",
        max_length=64,
    )
    pua_states: States = _setting(
        "",
        "Words for `State` of the package presence, besides the built-in ones: what watchers are shown.",
        "word=open:note:activity or word=closed:note, several separated by commas; activities are those of RFC 4480",
    )
    pua_order_field: str = _setting(
        "",
        "JSON field of the producer, a sequence number or timestamp, that orders the events of one dialog, mailbox, "
        "contact or presence; empty for the time at which nsqd took each.",
        "the name of a JSON field, or empty",
        max_length=64,
    )
    pua_watchers_table: str = _setting(
        "",
        "Table of the presence module's subscriptions (`active_watchers`), to spare NOTIFYs that nobody waits for. "
        "Only with its `subs_db_mode` 3, where that table is always right; empty asks the presence module.",
        "a table's name, or empty",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]{0,62})?$",
    )
    subscriptions_in_memory: Annotated[Defined, AfterValidator(can_be_told_twice)] = _setting(
        False,
        "1: the presence module keeps subscriptions in its memory (`subs_db_mode` 2), and writes them to its table "
        "later: NOTIFYs cost less, one node alone may use the database, and a crash loses the last seconds of them. "
        "NSQ_PUA_WATCHERS_TABLE is not read then.",
        "1, with NSQ_PUA_REFRESH 1; or it is not defined at all",
    )
    notify_interval: float = _setting(
        0.0,
        "Seconds between two NOTIFYs for one presentity and package; the first, and the end of a call, leave at once.",
        ge=0,
        le=60,
    )
    max_event_age: float = _setting(
        0.0,
        "Seconds after which a presence event is too old, unless it says that its state is over; 0 for never.",
        ge=0,
        le=604800,
    )
    probe_topic: OptionalName = _setting(
        "", "Topic on which producers are asked to say their state again; empty for none.", f"{_NAME}; or empty"
    )
    pua_expires: int = _setting(
        3600, "Seconds that a state is kept when the event has no `Expires`.", ge=1, le=31536000
    )
    pua_mailbox_expires: int = _setting(
        2592000,
        "Seconds that a mailbox's state is kept when the event has no `Expires`; nobody repeats it for days.",
        ge=1,
        le=31536000,
    )
    pua_tombstone: int = _setting(
        300,
        "Seconds that a state is kept that is over: terminated, expired or reset. So a late event cannot revive it. A "
        "call or contact that is over is hidden meanwhile.",
        ge=10,
        le=86400,
    )
    pua_max_dialogs: int = _setting(
        50,
        "Calls of one presentity that its document shows at most; further ones are stored, and shown when others end. "
        "A document that is too large for UDP would reach nobody. 0 for no limit.",
        ge=0,
        le=10000,
    )
    run_dir: FilePath = _setting(
        "/run/kamailio/kemi-nsq",
        "Runtime folder of this Kamailio alone; made for its user, with mode 0700. Its processes show there what they "
        "do (`kemi-nsq status`), and meet there for queries.",
        "an absolute path",
        pattern=r"^/.+$",
    )
    metrics_address: OneAddress = _setting(
        "",
        "Where a consumer serves metrics to Prometheus, by HTTP at `/metrics`; empty for nowhere. There is no "
        "password, so it should be an address of loopback.",
        "host:port, or empty",
    )
    log_format: Literal["text", "json"] = _setting(
        "text", "How our lines in Kamailio's log look: text, or each a JSON object with the fields of its event."
    )
    route_timeout: float = _setting(
        30.0,
        "Seconds after which a route takes too long: what waits behind it is given back, and its stack is logged.",
        ge=1,
        le=3600,
    )

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """What to consume: NSQ_TOPIC_CHANNEL, or the one pair of NSQ_LISTEN_TOPIC and NSQ_LISTEN_CHANNEL; and replays.

        Each channel has its own copy of a replay, and handles those of its own letters.
        """
        pairs = self.topic_channel or (Subscription(self.listen_topic, self.listen_channel),)
        channels = dict.fromkeys(pair.channel for pair in pairs) if self.replay_topic else ()
        return (*pairs, *(Subscription(self.replay_topic, channel) for channel in channels))


def names() -> list[str]:
    """List the names of all settings, in the order of the table."""
    return [PREFIX + field.upper() for field in Settings.model_fields]


def rows() -> list[tuple[str, str, FieldInfo]]:
    """List each setting's name, its field of `Settings`, and what pydantic knows of it."""
    return [(PREFIX + field.upper(), field, info) for field, info in Settings.model_fields.items()]


def limits(field: str) -> tuple[float, float]:
    """Return the least and the most that a numeric field of `Settings` may be."""
    known = Settings.model_fields[field].metadata
    least, most = (next(getattr(each, side) for each in known if hasattr(each, side)) for side in ("ge", "le"))
    return least, most


def allowed(field: str) -> str:
    """Say in words which values a field of `Settings` takes."""
    info = Settings.model_fields[field]
    if isinstance(info.json_schema_extra, dict) and (words := info.json_schema_extra["allowed"]):
        return str(words)
    if info.annotation is bool:
        return "1 or 0"
    if choices := get_args(info.annotation):
        return " or ".join(choices)
    least, most = limits(field)
    return f"{least} to {most}"
