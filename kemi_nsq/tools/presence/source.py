# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the tools find states, and whom they ask: the database, and the consumers of a Kamailio, if any run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from kemi_nsq.errors import NsqError, RunFolderError, UsageError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.monitoring.answers import asked, consumers_in, nobody, running
from kemi_nsq.presence.history import MOST
from kemi_nsq.presence.look import Look
from kemi_nsq.tools import configured

#: Kamailio's own name of the table of subscriptions.
_WATCHERS_TABLE = "active_watchers"
#: What is to be said wherever that table is shown, with NSQ_SUBSCRIPTIONS_IN_MEMORY.
IN_MEMORY = (
    "subscriptions are in Kamailio's memory: who watches is as the table had it when it was written last, up to "
    "db_update_period seconds ago (10 with nsq-presence.cfg)"
)


class WhereSaid(BaseModel):
    """Where a consumer process stores states, and takes events from (`PuaInquiries`)."""

    db_url: str
    presentity_table: str
    watchers_table: str
    subscriptions_in_memory: bool
    order_field: str
    listen_topic: str
    nsqd_address: str
    event_key: str
    event_subkey: str


class DecisionSaid(BaseModel):
    """A decision, as `presence.history` has it; times in epoch seconds, 0 for none."""

    at: float
    what: str
    uri: str
    package: str
    etag: str
    ruid: str
    state: str
    about: str
    sender: str
    topic: str
    sent_at: float
    redelivered: bool


class ToldSaid(BaseModel):
    """The last NOTIFY to the watchers of a presentity: when, and whether the presence module took it."""

    uri: str
    package: str
    at: float
    accepted: bool


class HistorySaid(BaseModel):
    """What a consumer process remembers; it has noted `noted` decisions in all, and keeps the last of them."""

    noted: int
    kept: int
    oldest: float
    logs: bool
    decisions: Sequence[DecisionSaid]
    told: Sequence[ToldSaid]


class ResetSaid(BaseModel):
    """How many states a consumer has ended by now, and where the next question goes on; '' for all done."""

    ended: int
    position: str
    below: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What the tools have of one Kamailio.

    Attributes:
        look: looks into the database.
        order_field: NSQ_PUA_ORDER_FIELD.
        in_memory: NSQ_SUBSCRIPTIONS_IN_MEMORY: the table of subscriptions is some seconds old.
        consumers: process ids of the consumers that run.
        folder: the runtime folder.
    """

    look: Look
    order_field: str
    in_memory: bool
    consumers: Sequence[int]
    folder: Path

    def histories(self, uri: str, package: str, most: int = MOST) -> tuple[dict[int, HistorySaid], list[str]]:
        """Return what each consumer remembers of a presentity, by process id; and who does not say why not.

        Args:
            uri: of the presentity, '' for all.
            package: event package, '' for all.
            most: decisions of each consumer at most; 0 for NOTIFYs alone.
        """
        arguments: dict[str, JsonValue] = {"uri": uri, "package": package, "most": most}
        found: dict[int, HistorySaid] = {}
        silent = []
        for pid in self.consumers:
            try:
                found[pid] = asked(HistorySaid, self.folder, pid, "history", arguments)
            except NsqError as error:
                silent.append(str(error))
        return found, silent


def source(run_dir: Path | None) -> Source:
    """Find the database: by NSQ_DB_URL in the environment, or else by what a consumer says that runs.

    Raises:
        UsageError: neither tells.
    """
    settings, folder = configured.settings(), configured.run_dir(run_dir)
    try:
        consumers = [sheet.pid for sheet in consumers_in(folder)]
    except RunFolderError as error:
        if not settings.db_url:
            raise UsageError(f"NSQ_DB_URL is not set, and nobody can be asked: {error}") from error
        consumers = []
    said = _first(folder, consumers, must=not settings.db_url)
    url = settings.db_url or (said.db_url if said else "")
    if not url:
        raise UsageError("NSQ_DB_URL is set neither here nor in that Kamailio: it stores no states")
    where = said or settings
    watchers = said.watchers_table if said else settings.pua_watchers_table
    return Source(
        look=Look(url, where.presentity_table, watchers or _WATCHERS_TABLE, timeout_s=settings.db_timeout),
        order_field=said.order_field if said else settings.pua_order_field,
        in_memory=where.subscriptions_in_memory,
        consumers=consumers,
        folder=folder,
    )


def where_said(run_dir: Path | None) -> WhereSaid:
    """Ask a consumer where it takes events from; it answers its own user and root.

    Raises:
        NsqError: none runs, none answers, or this is another user.
    """
    folder = configured.run_dir(run_dir)
    said = _first(folder, running(folder), must=True)
    assert said is not None
    return said


def _first(folder: Path, consumers: Iterable[int], *, must: bool) -> WhereSaid | None:
    last: NsqError = nobody(folder)
    for pid in consumers:
        try:
            return asked(WhereSaid, folder, pid, "where")
        except NsqError as error:
            last = error
    if must:
        raise last
    return None
