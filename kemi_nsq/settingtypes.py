# SPDX-License-Identifier: GPL-2.0-or-later
"""How the value of a setting is read from text, and what pydantic is told of it: a type for each kind of value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ValidationInfo
from pydantic_settings import NoDecode

from kemi_nsq.databaseurl import checked
from kemi_nsq.filename import path_of, text_of
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


def _addresses(value: object) -> object:
    return tuple(address(part) for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _one_address(value: object) -> object:
    if isinstance(value, str) and "," in value:
        raise ValueError("it can be one address only")
    return _addresses(value)


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
    return checked(text_of(value)) if isinstance(value, str) and value else None


def _file(value: object) -> object:
    return text_of(value) if isinstance(value, str) else value


def _optional_topic(value: object) -> object:
    return topic_name(value) if isinstance(value, str) and value else value


def topic_of_its_own(topic: str, info: ValidationInfo) -> str:
    """Refuse a topic that has other messages as well."""
    known = {info.data.get("dead_letter_topic"), *(pair.topic for pair in info.data.get("topic_channel") or ())}
    if not info.data.get("topic_channel"):
        known.add(info.data.get("listen_topic"))
    if topic and topic in known:
        raise ValueError("it must be a topic of its own")
    return topic


def _states(value: object) -> object:
    """Read `word=basic:note:activity`, several separated by commas; the activity may be left out."""
    if not isinstance(value, str):
        return value
    states = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        word, _, meaning = part.partition("=")
        # A fourth part stays with the third, and makes that no activity.
        basic, note, activity = (*(text.strip() for text in meaning.split(":", 2)), "", "")[:3]
        if not word.strip() or basic not in ("open", "closed") or not note or activity not in ("", *ACTIVITIES):
            raise ValueError(f"{part!r} is no word=basic:note:activity")
        states[word.strip().lower()] = Meaning(basic=basic, note=note, activity=activity)
    return states


def can_be_built_in(wanted: bool, info: ValidationInfo) -> bool:
    """Refuse what is built in where nothing could come of it; a wrong value of the other settings has its own line."""
    if wanted and info.data.get("pua_refresh") is False:
        raise ValueError("with NSQ_PUA_REFRESH 0 a route tells the watchers, and what is built in runs none")
    if wanted and info.data.get("db_url", "") is None:
        raise ValueError("NSQ_DB_URL is not set, so there is no presentity table to write to")
    return wanted


def can_be_told_twice(wanted: bool, info: ValidationInfo) -> bool:
    """Refuse subscriptions in memory where a route tells the watchers: it cannot know when once is not enough."""
    if wanted and info.data.get("pua_refresh") is False:
        raise ValueError("with NSQ_PUA_REFRESH 0 a route tells the watchers, and some NOTIFYs must be sent twice")
    return wanted


def _defined(value: object) -> object:
    """Refuse what is not 1 where a configuration file asks by `#!ifdef`, to which any value is the same."""
    if isinstance(value, str) and value != "1":
        raise ValueError("whatever its value, nsq-presence.cfg takes it for 1; remove it, or write 1")
    return value


Defined: TypeAlias = Annotated[bool, BeforeValidator(_defined)]
Name: TypeAlias = Annotated[str, BeforeValidator(lambda value: topic_name(str(value)))]
Addresses: TypeAlias = Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_addresses)]
OneAddress: TypeAlias = Annotated[tuple[Address, ...], NoDecode, BeforeValidator(_one_address)]
Subscriptions: TypeAlias = Annotated[tuple[Subscription, ...], NoDecode, BeforeValidator(_subscriptions)]
States: TypeAlias = Annotated[Mapping[str, Meaning], NoDecode, BeforeValidator(_states)]
OptionalName: TypeAlias = Annotated[str, BeforeValidator(_optional_topic)]
FilePath: TypeAlias = Annotated[str, BeforeValidator(_file), AfterValidator(path_of)]
DatabaseUrl: TypeAlias = Annotated[str | None, BeforeValidator(_database_url)]
