# SPDX-License-Identifier: GPL-2.0-or-later
"""The types of settings that are more than a number or a word, read from their text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from kemi_nsq.names import Address, Subscription, address, topic_name

#: The activities of RFC 4480 section 3.2.
ACTIVITIES = (
    "appointment", "away", "breakfast", "busy", "dinner", "holiday", "in-transit", "looking-for-work", "lunch", "meal",
    "meeting", "on-the-phone", "performance", "permanent-absence", "playing", "presentation", "shopping", "sleeping",
    "spectator", "steering", "travel", "tv", "unknown", "vacation", "working", "worship",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a presence State means: basic status (RFC 3863), note, and activity (RFC 4480, '' for none)."""

    basic: str
    note: str
    activity: str = ""


#: Kamailio's database URL schemes and the SQLAlchemy dialect that serves each.
DATABASE_DIALECTS: Mapping[str, str] = {
    "sqlite": "sqlite+pysqlite",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}


def _addresses(value: object) -> object:
    return tuple(address(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _subscriptions(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = []
    for part in filter(None, (part.strip() for part in value.split(","))):
        topic, colon, channel = part.partition(":")
        if not colon:
            raise ValueError(f"{part!r} has no ':' between topic and channel")
        pairs.append(Subscription(topic_name(topic), topic_name(channel)))
    return tuple(pairs)


def _database_url(value: object) -> object:
    if not isinstance(value, str) or not value:
        return None
    url = urlsplit(value)
    kind = url.scheme.partition("+")[0]
    if kind not in DATABASE_DIALECTS:
        raise ValueError(f"scheme {url.scheme!r} is not supported")
    if kind == "sqlite" and not re.match(r"[a-z+]+:////[^/]", value):
        raise ValueError("an SQLite URL names a file by its absolute path")
    if kind != "sqlite" and not (url.hostname and url.port != 0 and url.path.strip("/")):
        raise ValueError("the URL names no host, no database, or port 0")
    return f"{DATABASE_DIALECTS[kind]}:{value.partition(':')[2]}"


def _optional_topic(value: object) -> object:
    return topic_name(value) if isinstance(value, str) and value else value


def _states(value: object) -> object:
    """Read `word=basic:note:activity`, several separated by commas; the activity may be left out."""
    if not isinstance(value, str):
        return value
    states = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        word, _, meaning = part.partition("=")
        basic, note, activity = (*(text.strip() for text in meaning.split(":")), "", "")[:3]
        if not word.strip() or basic not in ("open", "closed") or not note or activity not in ("", *ACTIVITIES):
            raise ValueError(f"{part!r} is no word=basic:note:activity")
        states[word.strip().lower()] = Meaning(basic=basic, note=note, activity=activity)
    return states


Name: TypeAlias = Annotated[str, BeforeValidator(lambda value: topic_name(str(value)))]
Addresses: TypeAlias = Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_addresses)]
Subscriptions: TypeAlias = Annotated[tuple[Subscription, ...], NoDecode, BeforeValidator(_subscriptions)]
States: TypeAlias = Annotated[Mapping[str, Meaning], NoDecode, BeforeValidator(_states)]
OptionalName: TypeAlias = Annotated[str, BeforeValidator(_optional_topic)]
DatabaseUrl: TypeAlias = Annotated[str | None, BeforeValidator(_database_url)]
