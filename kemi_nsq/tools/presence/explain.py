# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a lamp is on: a presentity's rows, the events that made them, what came and changed nothing, and who was told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from kemi_nsq.errors import DatabaseError
from kemi_nsq.presence.look import Look, Subscription
from kemi_nsq.presence.row import Key
from kemi_nsq.presence.sipuri import name_addr
from kemi_nsq.tools.presence.source import IN_MEMORY, DecisionSaid, HistorySaid, Source, ToldSaid
from kemi_nsq.tools.presence.words import Order, State, order_of, state_of

#: Kamailio gives a NOTIFY up that has had no answer for so long (tm, `fr_timer`), and then takes the subscription out.
ANSWER_S = 40
#: Decisions about one state, and about states that are gone, that are shown at most: the last ones.
_MOST = 20
#: What a decision means for watchers: these put something into the table.
_MADE = ("stored", "unchanged", "hidden", "expired", "reset")
#: And of these they must hear.
_NEWS = ("stored", "expired", "reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A decision of a consumer, with the order key of its event in words; `made` if it is what the table has now."""

    pid: int
    said: DecisionSaid
    order: Order
    made: bool

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {"pid": self.pid, **self.said.model_dump(), "order": asdict(self.order), "made": self.made}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What somebody who watches was told.

    Attributes:
        subscription: who.
        over: whether the subscription's time is over.
        last: the last NOTIFY from a consumer since it subscribed, as it remembers; None if it remembers none, or there
            was none.
        pid: the consumer.
        current: whether that was after the last change that it remembers; None if it remembers no change.
        answered: True if the watcher has answered it, None where nobody can know.
    """

    subscription: Subscription
    over: bool
    last: ToldSaid | None
    pid: int
    current: bool | None
    answered: bool | None

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        last = {"at": self.last.at, "accepted": self.last.accepted, "pid": self.pid} if self.last else None
        told = {"over": self.over, "last": last, "current": self.current, "answered": self.answered}
        return {**self.subscription._asdict(), **told}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """All of it.

    Attributes:
        uri: of the presentity.
        at: epoch second of the look.
        states: its rows, hidden ones too, each with what was decided about it.
        gone: what was decided about states that the table has no more.
        watchers: who watches; None where that cannot be known.
        histories: what each consumer remembers, by process id.
        notes: what could not be found out.
    """

    uri: str
    at: float
    states: Sequence[tuple[State, Sequence[Decided]]]
    gone: Sequence[Decided]
    watchers: Sequence[Told] | None
    histories: Mapping[int, HistorySaid]
    notes: Sequence[str]

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "uri": self.uri,
            "at": self.at,
            "states": [
                {**state.as_json(), "decisions": [each.as_json() for each in decided]} for state, decided in self.states
            ],
            "gone": [each.as_json() for each in self.gone],
            "watchers": None if self.watchers is None else [each.as_json() for each in self.watchers],
            "consumers": [
                {"pid": pid, "noted": each.noted, "kept": each.kept, "oldest": each.oldest}
                for pid, each in self.histories.items()
            ],
            "notes": list(self.notes),
        }


def _notes(source: Source) -> Iterable[str]:
    if not source.consumers:
        yield "no consumer runs, so nobody remembers which events came"
    if source.in_memory:
        yield IN_MEMORY


def presentity(uri: str) -> tuple[str, tuple[str, str]]:
    """Read a presentity's URI; return it as it is stored, and its user and domain.

    Raises:
        PayloadError: it is none.
    """
    found = name_addr("URI", uri).uri
    return f"sip:{found.user}@{found.host}", (found.user, found.host)


def explain(source: Source, uri: str, package: str, now: float) -> Explained:
    """Find out why a presentity's lamps are as they are, at an epoch second.

    Args:
        source: the database and the consumers.
        uri: of the presentity.
        package: event package, '' for all.
        now: epoch seconds.

    Raises:
        PayloadError: the URI is none.
        DatabaseError: the table could not be read.
    """
    uri, who = presentity(uri)
    # The consumers first: what the rows have then is not older than what they remember.
    histories, silent = source.histories(uri, package)
    notes = [*silent, *_notes(source)]
    states = [state_of(row, now, source.order_field) for row in source.look.rows(who=who, package=package)]
    stored = {(state.package, state.etag): state.ruid for state in states}
    decided = sorted(_decided(histories, stored, source.order_field), key=lambda each: each.said.at)
    watchers = None
    try:
        watchers = told(source.look, histories, [(uri, package)], now)
    except DatabaseError as error:
        notes.append(f"who watches cannot be read: {error}")
    return Explained(
        uri=uri,
        at=now,
        states=[
            (state, [each for each in decided if (each.said.package, each.said.etag) == key][-_MOST:])
            for state, key in zip(states, stored, strict=True)
        ],
        gone=[each for each in decided if (each.said.package, each.said.etag) not in stored][-_MOST:],
        watchers=watchers,
        histories=histories,
        notes=notes,
    )


def told(look: Look, histories: Mapping[int, HistorySaid], keys: Sequence[Key], now: float) -> list[Told]:
    """Return who watches some presentities, and what they were told; no keys stand for all.

    Raises:
        DatabaseError: the table could not be read.
    """
    notifies, changed = _last_notifies(histories), _last_changes(histories)
    found = []
    for subscription in look.subscriptions(keys):
        key = subscription.presentity_uri.lower(), subscription.event
        # A consumer remembers the last NOTIFY to all who watched then. Who has had one alone has had that of its own
        # SUBSCRIBE; when that was, the table does not tell.
        notify, pid = notifies.get(key, (None, 0)) if subscription.notifies else (None, 0)
        over = subscription.expires <= now
        settled = notify is not None and notify.accepted and now - notify.at > ANSWER_S
        found.append(
            Told(
                subscription=subscription,
                over=over,
                last=notify,
                pid=pid,
                current=notify.at >= changed[key] if notify is not None and key in changed else None,
                answered=True if settled and not over and subscription.active else None,
            )
        )
    return found


def _last_notifies(histories: Mapping[int, HistorySaid]) -> dict[Key, tuple[ToldSaid, int]]:
    """Return the last NOTIFY for each presentity and package, and who sent it; MySQL compares without case."""
    last: dict[Key, tuple[ToldSaid, int]] = {}
    for pid, history in histories.items():
        for each in history.told:
            key = each.uri.lower(), each.package
            if key not in last or last[key][0].at < each.at:
                last[key] = each, pid
    return last


def _last_changes(histories: Mapping[int, HistorySaid]) -> dict[Key, float]:
    """Return when what watchers see of each presentity and package was changed last."""
    last: dict[Key, float] = {}
    for history in histories.values():
        for each in history.decisions:
            if each.what in _NEWS:
                key = each.uri.lower(), each.package
                last[key] = max(each.at, last.get(key, 0.0))
    return last


def _decided(
    histories: Mapping[int, HistorySaid], stored: Mapping[tuple[str, str], str], order_field: str
) -> Iterable[Decided]:
    for pid, history in histories.items():
        for said in history.decisions:
            made = said.what in _MADE and stored.get((said.package, said.etag)) == said.ruid
            yield Decided(pid=pid, said=said, order=order_of(said.ruid, said.package, order_field), made=made)
