# SPDX-License-Identifier: GPL-2.0-or-later
"""How the answers of `kemi-nsq presence` look: tables, and the lines of an explanation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table

from kemi_nsq.presence.row import Key
from kemi_nsq.tools.output import line, table
from kemi_nsq.tools.presence.explain import Decided, Explained, Told
from kemi_nsq.tools.presence.words import State, moment

_SEEN, _NOT_SEEN = "yes", "no"
_FACTS = 12  # width of the words before what an explanation tells


def states_table(states: Iterable[State], watched: Mapping[Key, int] | None) -> Table:
    """Return a table with a line for each row; without `watched` nobody knows who watches."""
    made = table("presentity", "event", "state", "about", "seen", "since", "until", "watchers")
    for each in states:
        many = "?" if watched is None else str(watched.get((each.uri, each.package), 0))
        seen = _NOT_SEEN if each.hidden else _SEEN
        cells = (each.uri, each.package, each.state, each.about, seen, moment(each.since), moment(each.until), many)
        made.add_row(*map(line, cells))
    return made


def watchers_table(watchers: Iterable[Told], now: float) -> Table:
    """Return a table with a line for each subscription, at an epoch second."""
    made = table("watcher", "event", "contact", "NOTIFYs", "until", "last told", "user agent")
    for each in watchers:
        about = each.subscription
        until = moment(about.expires) + (" (over)" if each.over else "" if about.active else " (not active)")
        cells = (about.watcher, about.event, about.contact, str(about.notifies + 1), until, _last(each, _Clock(now)))
        made.add_row(*map(line, (*cells, about.user_agent)))
    return made


def show(states: Sequence[State]) -> Iterator[str]:
    """Yield the lines of all rows of a presentity."""
    for state in states:
        yield from _state(state)
        yield ""


def explanation(explained: Explained) -> Iterator[str]:
    """Yield the lines of an explanation; of what was on the day of it, the time of day is enough."""
    clock = _Clock(explained.at)
    yield line(explained.uri)
    yield ""
    if not explained.states:
        yield "The table has no state of it."
        yield ""
    for state, decided in explained.states:
        yield from _state(state, _because(state, decided, clock))
        yield from _decisions(decided, clock)
        yield ""
    if explained.gone:
        yield "States that the table has no more"
        yield from _decisions(explained.gone, clock, with_package=True)
        yield ""
    yield from _watchers(explained.watchers, clock)
    yield ""
    yield from _memory(explained)


class _Clock:
    """Writes when something was, as seen from an epoch second."""

    def __init__(self, now: float) -> None:
        self._today = moment(now, "%Y-%m-%d ")

    def __call__(self, epoch: float) -> str:
        text = f"{moment(int(epoch))}.{int(epoch * 1000) % 1000:03d}"
        return text.removeprefix(self._today)


def _state(state: State, because: str = "") -> Iterator[str]:
    about = f" ({state.about})" if state.about else ""
    yield line(f"{state.package}: {state.state}{about}")
    facts = {
        "seen": f"no: {state.hidden}" if state.hidden else "yes, by whoever watches",
        "because": because,
        "since": f"{moment(state.since)}, until {moment(state.until)}",
        "sender": state.sender,
        "etag": state.etag,
        "order key": _order(state),
    }
    yield from (f"  {name:{_FACTS}}{line(text)}" for name, text in facts.items() if text)


def _order(state: State) -> str:
    if state.order is None:
        return f"none of ours: another writer stored it, such as a phone by PUBLISH ({state.ruid or 'no ruid'})"
    message = f"message {state.order.message_id}" if state.order.message_id else "no message"
    return f"{state.order.position}, rank {state.order.rank}, {message}"


def _because(state: State, decided: Sequence[Decided], clock: _Clock) -> str:
    """Say which event has set a state, as far as somebody remembers."""
    if state.order is None:
        return "another writer stored it"
    setter = next((each for each in decided if each.made), None)
    if setter is None:
        if not state.order.message_id:
            return "it was ended here, or published without NSQ; no consumer remembers more"
        return f"message {state.order.message_id} said so; no consumer remembers its topic"
    said = setter.said
    if said.what in ("expired", "reset"):
        return f"it was ended here at {clock(said.at)}: {said.what}"
    if not said.topic:
        return "a route said so, without an event of NSQ"
    return f"message {setter.order.message_id} of topic {said.topic} said so, which nsqd took at {clock(said.sent_at)}"


def _decisions(decided: Sequence[Decided], clock: _Clock, *, with_package: bool = False) -> Iterator[str]:
    if decided:
        yield "  what came"
    for each in decided:
        said = each.said
        what = f"{said.state} ({said.about})" if said.about else said.state
        what = f"{said.package} {what}" if with_package else what
        whose = f"message {each.order.message_id} of {said.topic}" if said.topic else "no message"
        sent = f", sent {clock(said.sent_at)}" if said.sent_at else ""
        again = ", delivered before" if said.redelivered else ""
        mark = "  <- this" if each.made else ""
        yield line(f"    {clock(said.at)} {said.what:9} {what}, {whose}{sent}{again}{mark}")


def _watchers(watchers: Sequence[Told] | None, clock: _Clock) -> Iterator[str]:
    if watchers is None:
        return
    yield f"{len(watchers)} watcher{'s' * (len(watchers) != 1)}"
    for each in watchers:
        about = each.subscription
        until = f"until {moment(about.expires)}" + (", which is over" if each.over else "")
        inactive = "" if about.active else f", not active {about.reason}"
        yield line(f"  {about.watcher} at {about.contact} watches {about.event} {until}{inactive}")
        begin = "the last from a consumer: " if about.notifies else ""
        yield line(f"    NOTIFYs: {about.notifies + 1}; {begin}{_last(each, clock)}")


def _last(each: Told, clock: _Clock) -> str:
    """Say what a watcher was told last, and whether it has answered."""
    if not each.subscription.notifies:
        return "none from a consumer since it subscribed"
    if each.last is None:
        return "none that it remembers"
    when = clock(each.last.at)
    if not each.last.accepted:
        return f"{when}, refused by the presence module; it is tried again"
    news = {None: "", True: " with the last change", False: " before the last change"}[each.current]
    if each.answered:
        return f"{when}{news}, answered (who does not answer loses the subscription: timeout_rm_subs)"
    return f"{when}{news}, whether it was answered is not known yet"


def _memory(explained: Explained) -> Iterator[str]:
    for pid, each in explained.histories.items():
        since = f", the oldest of {moment(each.oldest)}" if each.oldest else ""
        yield f"consumer {pid} remembers {each.kept} of {each.noted} decisions{since}"
    yield from (line(note) for note in explained.notes)
