# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nsqd a nsqlookupd names: each entry of its answer judged by itself, so that a bad one hides no other.

Anybody who reaches a nsqlookupd can register anything there (nsqd's --broadcast-address), and who answers for it may be
anybody. Source: nsq.io, "nsqlookupd", `/nodes`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

import orjson

from kemi_nsq import names
from kemi_nsq.errors import ProtocolError
from kemi_nsq.names import Address

PATH = "/nodes"
#: Entries of an answer that are looked at.
MOST_ENTRIES = 4096
#: Entries that are no addresses and are told.
MOST_TOLD = 5
MORE = "there are more entries that are no addresses"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class Listed(NamedTuple):
    """What an answer names.

    Attributes:
        addresses: in its order, each once.
        refused: a sentence for each entry that is no address; the same ones for the same entries in any order.
    """

    addresses: list[Address]
    refused: list[str]


def read(body: bytes, lookupd: Address, port: str) -> Listed:
    """Read what `lookupd` answers to `/nodes`; `port` is which address is wanted, `tcp_port` or `http_port`.

    Raises:
        ProtocolError: it is none.
    """
    found: dict[Address, None] = {}
    refused = set()
    for entry in _entries(body, lookupd):
        try:
            found[_address(entry, port)] = None
        except (ValueError, KeyError, TypeError):
            refused.add(_refusal(entry, port))
    told = sorted(refused)
    return Listed(list(found), told[:MOST_TOLD] + [MORE] * (len(told) > MOST_TOLD))


def pairs(body: bytes, lookupd: Address) -> list[tuple[Address, Address]]:
    """Read of the same answer the TCP and the HTTP address of each nsqd that has both.

    Raises:
        ProtocolError: it is none.
    """
    found: dict[tuple[Address, Address], None] = {}
    for entry in _entries(body, lookupd):
        with suppress(ValueError, KeyError, TypeError):
            found[_address(entry, "tcp_port"), _address(entry, "http_port")] = None
    return list(found)


def in_turns(lists: Iterable[Iterable[Address]], *, most: int) -> list[Address]:
    """Join what several name, one of each in turns: whoever names thousands takes no room from the others."""
    turns = chain.from_iterable(zip_longest(*lists))
    return list(islice(dict.fromkeys(address for address in turns if address is not None), most))


def _entries(body: bytes, lookupd: Address) -> list[Any]:
    try:
        entries = orjson.loads(body)["producers"]
    except (ValueError, KeyError, TypeError):
        entries = None
    if not isinstance(entries, list):
        raise ProtocolError(f"{lookupd}: {PATH} answered without any")
    return entries[:MOST_ENTRIES]


def _address(entry: Any, port: str) -> Address:
    """Return the address that an entry names; raises ValueError, KeyError or TypeError if it names none."""
    # Written and read again, which checks the name and the port.
    return names.address(str(Address(entry["broadcast_address"], entry[port])))


def _refusal(entry: Any, port: str) -> str:
    if not isinstance(entry, dict):
        return f"the entry {_SHORT.repr(entry)} is no address"
    host, number = (_SHORT.repr(entry.get(name)) for name in ("broadcast_address", port))
    return f"the entry with broadcast_address {host} and {port} {number} is no address"
