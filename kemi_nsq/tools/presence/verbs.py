# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of `kemi-nsq presence`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kemi_nsq.errors import DatabaseError, UsageError
from kemi_nsq.jsontext import encode
from kemi_nsq.presence.sipuri import is_host
from kemi_nsq.tools import configured
from kemi_nsq.tools.configured import RunDir
from kemi_nsq.tools.output import AsJson, console, line, write_json
from kemi_nsq.tools.presence import changes, live, pages
from kemi_nsq.tools.presence.events import event_of, known_package, package_of
from kemi_nsq.tools.presence.explain import explain as explained
from kemi_nsq.tools.presence.explain import presentity, told
from kemi_nsq.tools.presence.source import IN_MEMORY, Source, source
from kemi_nsq.tools.presence.words import state_of

Uri = Annotated[str, typer.Argument(help="The presentity, such as sip:alice@example.com.")]
Event = Annotated[
    str,
    typer.Option("--event", help="One event package, such as dialog; all where left out.", callback=known_package),
]
Nsqd = Annotated[str, typer.Option(help="HTTP address of nsqd; the first that Kamailio has where left out.")]
Topic = Annotated[str, typer.Option(help="Topic of the events; the first that Kamailio consumes where left out.")]

app = typer.Typer(no_args_is_help=True, help="See what watchers are shown, and why; and change it.")


@app.command("list")
def list_(  # noqa: PLR0913, PLR0917  # options
    event: Event = "",
    domain: Annotated[str, typer.Option(help="Presentities of this domain; of all where left out.")] = "",
    hidden: Annotated[bool, typer.Option("--all", help="Also what no watcher is shown.")] = False,
    most: Annotated[int, typer.Option(help="So many states at most.", min=1, max=100000)] = 1000,
    as_json: AsJson = False,
    run_dir: RunDir = None,
) -> None:
    """List the states that the database has."""
    with _source(run_dir) as found:
        _say_how_old(found)
        now = time.time()
        rows = found.look.rows(package=event, domain=domain, hidden=hidden, most=most + 1)
        states = [state_of(row, now, found.order_field) for row in rows[:most]]
        states = [each for each in states if hidden or each.shown]
        watched = None
        try:
            watched = found.look.watched()
        except DatabaseError as error:
            _aside(f"who watches cannot be read: {error}")
    if len(rows) > most:
        _aside(f"there are more than {most} states; see --most, --event and --domain")
    if as_json:
        counts = watched or {}
        write_json([each.as_json() | {"watchers": counts.get((each.uri, each.package), 0)} for each in states])
    else:
        console().print(pages.states_table(states, watched))


@app.command()
def show(uri: Uri, event: Event = "", as_json: AsJson = False, run_dir: RunDir = None) -> None:
    """Show all states of a presentity, hidden ones too."""
    with _source(run_dir) as found:
        now = time.time()
        rows = found.look.rows(who=presentity(uri)[1], package=event)
        states = [state_of(row, now, found.order_field) for row in rows]
    if as_json:
        write_json([each.as_json() for each in states])
    else:
        _write(pages.show(states) if states else ["The table has no state of it."])


@app.command()
def watchers(
    uri: Annotated[str, typer.Argument(help="The presentity; all where left out.")] = "",
    event: Event = "",
    as_json: AsJson = False,
    run_dir: RunDir = None,
) -> None:
    """Show who watches, as the table active_watchers has it: some seconds old with NSQ_SUBSCRIPTIONS_IN_MEMORY."""
    with _source(run_dir) as found:
        _say_how_old(found)
        now = time.time()
        keys = [(presentity(uri)[0], event)] if uri else []
        histories, silent = found.histories(keys[0][0] if keys else "", event, most=0)
        who = [each for each in told(found.look, histories, keys, now) if event in ("", each.subscription.event)]
    for each in silent:
        _aside(each)
    if as_json:
        write_json([each.as_json() for each in who])
    else:
        console().print(pages.watchers_table(who, now))


@app.command()
def explain(uri: Uri, event: Event = "", as_json: AsJson = False, run_dir: RunDir = None) -> None:
    """Say why a lamp is on: which event has set it, what came after that and changed nothing, who was told."""
    with _source(run_dir) as found:
        answer = explained(found, uri, event, time.time())
    if as_json:
        write_json(answer.as_json())
    else:
        _write(pages.explanation(answer))


@app.command()
def watch(
    uris: Annotated[list[str] | None, typer.Argument(help="Presentities; all where left out.")] = None,
    event: Event = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object on a line for each change.")] = False,
    run_dir: RunDir = None,
) -> None:
    """Show a board of lamps that lives, until Ctrl-C; in a pipe, a line for each change."""
    with _source(run_dir) as found:
        _say_how_old(found)
        live.watch(found.look, uris or [], event, as_json=as_json)


@app.command("set")
def set_(  # noqa: PLR0913, PLR0917  # options
    uri: Uri,
    state: Annotated[
        str, typer.Option(help="early, confirmed, terminated; open, closed, busy, ...; registered, ...; or new/saved.")
    ],
    event: Annotated[str, typer.Option("--event", help="Event package; the one with such a state if left out.")] = "",
    call_id: Annotated[str, typer.Option(help="Of a call; always the same one where left out.")] = "",
    other: Annotated[str, typer.Option("--to", help="With whom a call is, or the contact of a registration.")] = "",
    sender: Annotated[str, typer.Option(help="Who says so; sip:kemi-nsq@localhost where left out.")] = "",
    expires: Annotated[int, typer.Option(help="Seconds; the usual time where left out.", min=0)] = 0,
    topic: Topic = "",
    nsqd: Nsqd = "",
    as_json: AsJson = False,
    run_dir: RunDir = None,
) -> None:
    """Publish the event that sets a state, as its producer would, and print it.

    Without --topic and --nsqd a consumer is asked for them: it answers its own user and root.
    """
    uri = presentity(uri)[0]
    package = package_of(state, event, configured.settings().pua_states)
    fields = event_of(uri, package, state, call_id=call_id, other=other, sender=sender, expires=expires)
    _tell(changes.publish(fields, "update", topic, nsqd, run_dir), as_json)


@app.command()
def reset(  # noqa: PLR0913, PLR0917  # options
    scope: Annotated[list[str], typer.Argument(help="sender URI, user URI, realm DOMAIN, or all.")],
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish the event reset of a sender, for the consumers of all nodes.")
    ] = False,
    topic: Topic = "",
    nsqd: Nsqd = "",
    as_json: AsJson = False,
    run_dir: RunDir = None,
) -> None:
    """End all states of a scope, tell their watchers, and say how many there were.

    A consumer does it, for its own user and root.
    """
    text = " ".join(scope).strip()
    kind, _, whose = text.partition(" ")
    if publish:
        if kind != "sender" or not whose.strip():
            raise UsageError(f"--publish resets what a sender has said: `sender URI` is wanted, not {text[:80]!r}")
        _tell(changes.publish({"Sender-URI": whose.strip()}, "reset", topic, nsqd, run_dir), as_json)
        return
    if kind == "realm" and whose and not is_host(whose.strip()):
        raise UsageError(
            f"a realm is a domain such as example.com, not {whose[:80]!r}; for one presentity give user URI"
        )
    ended = changes.reset(configured.run_dir(run_dir), text)
    if as_json:
        write_json({"scope": text, "ended": ended})
    else:
        sys.stdout.write(f"{ended} state{'s' * (ended != 1)} ended of {line(text)}\n")


@app.command("log-events")
def log_events(
    turn: Annotated[str, typer.Argument(help="on, or off.")],
    as_json: AsJson = False,
    run_dir: RunDir = None,
) -> None:
    """Have Kamailio log a line for each step of an event, until it is switched off or restarted."""
    if turn not in ("on", "off"):
        raise UsageError(f"{turn!r} is neither on nor off")
    consumers = changes.log_events(configured.run_dir(run_dir), on=turn == "on")
    if as_json:
        write_json({"consumers": consumers, "logs": turn == "on"})
        return
    for pid in consumers:
        sys.stdout.write(f"consumer {pid}: {turn}\n")


def _tell(published: changes.Published, as_json: bool) -> None:
    if as_json:
        write_json(published._asdict())
    else:
        text = encode(published.event).decode()
        sys.stdout.write(f"published to {published.topic} at {published.nsqd}: {line(text)}\n")


@contextmanager
def _source(run_dir: Path | None) -> Iterator[Source]:
    found = source(run_dir)
    try:
        yield found
    finally:
        found.look.close()


def _write(lines: Iterable[str]) -> None:
    sys.stdout.write("".join(f"{each}\n" for each in lines))


def _say_how_old(found: Source) -> None:
    if found.in_memory:
        _aside(IN_MEMORY)


def _aside(text: str) -> None:
    sys.stderr.write(f"kemi-nsq: {line(text)}\n")
