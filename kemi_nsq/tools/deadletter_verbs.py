# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs for dead letters: see them, throw them away."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from kemi_nsq.errors import ConnectionLost, UsageError
from kemi_nsq.names import topic_name
from kemi_nsq.settings import Settings
from kemi_nsq.tools import configured
from kemi_nsq.tools.deadletters import MSG_TIMEOUT_S, Act, Found, finish, look, refuse_others, rehearse
from kemi_nsq.tools.letters import Letter, Wanted, since
from kemi_nsq.tools.nsqds import Nsqd, nsqds
from kemi_nsq.tools.output import AsJson, console, line, moment, plain, progress, table, write_json
from kemi_nsq.tools.replays import judge, replays

app = typer.Typer(no_args_is_help=True, help="See, replay and drop messages that could not be used.")

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of letters, or of the messages that they hold.")]
Reason = Annotated[str, typer.Option(help="A part of the reason, in any case.")]
Topic = Annotated[str, typer.Option(help="The topic where the message came from.")]
Since = Annotated[str, typer.Option(help="Letters from then on: 90s, 15m, 2h, 7d, or 2026-12-24T18:00.")]
Limit = Annotated[int, typer.Option(min=0, help="At most so many, the oldest; 0 for all.")]
Dead = Annotated[str, typer.Option("--from", help="Topic of the letters; NSQ_DEAD_LETTER_TOPIC where left out.")]
All = Annotated[bool, typer.Option("--all", help="Each letter; needed where neither ids nor filters are given.")]
DryRun = Annotated[bool, typer.Option(help="Say which ones that would be, and change nothing.")]


@app.command("list")
def list_letters(  # noqa: PLR0913, PLR0917  # one argument for each option
    reason: Reason = "",
    topic: Topic = "",
    since: Since = "",
    limit: Limit = 0,
    dead: Dead = "",
    as_json: AsJson = False,
) -> None:
    """List dead letters, the oldest first. They all stay where they are."""
    _, servers, name = _place(dead)
    found = look(servers, name, _wanted((), reason, topic, since, limit))
    if as_json:
        _write_json(found)
    else:
        _print(found.letters)
        _say(found, f"{_letters(len(found.letters))} of {name}")
    _end(found, name)


@app.command()
def show(
    ids: Annotated[list[str], typer.Argument(help="Ids of letters, or of the messages that they hold.")],
    dead: Dead = "",
    as_json: AsJson = False,
) -> None:
    """Show dead letters with what their messages said. They all stay where they are."""
    _, servers, name = _place(dead)
    found = look(servers, name, Wanted(ids=ids))
    if as_json:
        _write_json(found)
    else:
        for letter in found.letters:
            _print_whole(letter)
        _say(found, "")
    _end(found, name, ids)


@app.command()
def drop(  # noqa: PLR0913, PLR0917  # one argument for each option
    ids: Ids = None,
    reason: Reason = "",
    topic: Topic = "",
    since: Since = "",
    limit: Limit = 0,
    everything: All = False,
    dry_run: DryRun = False,
    dead: Dead = "",
    as_json: AsJson = False,
) -> None:
    """Throw dead letters away for good."""
    _, servers, name = _place(dead)
    wanted = _chosen(_wanted(ids or (), reason, topic, since, limit), everything)
    found = (rehearse if dry_run else _finish)(servers, name, wanted, lambda _: None)
    report(found, name, ids or (), done="dropped", dry_run=dry_run, as_json=as_json)


@app.command()
def replay(  # noqa: PLR0913, PLR0917  # one argument for each option
    ids: Ids = None,
    reason: Reason = "",
    topic: Topic = "",
    since: Since = "",
    limit: Limit = 0,
    everything: All = False,
    dry_run: DryRun = False,
    dead: Dead = "",
    to: Annotated[str, typer.Option(help="Topic of the replays; NSQ_REPLAY_TOPIC where left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Have messages handled again that became dead letters, in their first place in the order of events."""
    settings, servers, name = _place(dead)
    wanted = _chosen(_wanted(ids or (), reason, topic, since, limit), everything)
    target = to or settings.replay_topic
    if not target:
        raise UsageError("no topic of replays is known: give --to TOPIC, or set NSQ_REPLAY_TOPIC, as in kamailio.cfg")
    if target == name:
        raise UsageError(f"{name} is the topic of the letters, and replays need one of their own; see NSQ_REPLAY_TOPIC")
    made = judge(servers, topic_name(target))
    act = made if dry_run else replays(settings, made)
    found = (rehearse if dry_run else _finish)(servers, name, wanted, act)
    report(found, name, ids or (), done=f"replayed to {target}", dry_run=dry_run, as_json=as_json)


def report(  # noqa: PLR0913  # one argument for each option
    found: Found, name: str, ids: Sequence[str], *, done: str, dry_run: bool, as_json: bool
) -> None:
    """Print what was done with letters, or would be.

    Raises:
        ConnectionLost: something went wrong.
        UsageError: some letters stay, or none has one of the ids.
    """
    if as_json:
        _write_json(found)
    elif dry_run:
        going = [each for each in found.letters if each.letter_id not in found.left]
        _print(going)
        _say(found, f"{_letters(len(going))} of {name} would be {done}")
    else:
        _say(found, f"{_letters(found.done)} of {name} {done}")
    _end(found, name, ids)


def _finish(servers: Sequence[Nsqd], name: str, wanted: Wanted, act: Act) -> Found:
    found = Found()
    with progress(lambda: f"{found.done} of {_letters(len(found.letters))} of {name}"):
        return finish(servers, name, wanted, act, found)


def _place(dead: str) -> tuple[Settings, list[Nsqd], str]:
    """Return the settings, all nsqd, and the topic of the letters, which is one where a look leaves no harm behind."""
    settings = configured.settings()
    name = topic_name(dead) if dead else settings.dead_letter_topic
    if not name:
        raise UsageError("no topic of dead letters is known: give --from TOPIC, or set NSQ_DEAD_LETTER_TOPIC")
    servers = nsqds(settings)
    if name != settings.dead_letter_topic:
        if name in {each.topic for each in settings.subscriptions}:
            raise UsageError(f"--from {name} is a topic that Kamailio consumes, and has no dead letters")
        refuse_others(servers, name)
    return settings, servers, name


def _wanted(ids: Sequence[str], reason: str, topic: str, since_text: str, limit: int) -> Wanted:
    return Wanted(ids=ids, reason=reason, topic=topic, since_s=since(since_text, time.time()), limit=limit)


def _chosen(wanted: Wanted, everything: bool) -> Wanted:
    if wanted.everything and not everything:
        raise UsageError("which letters? Give ids, a filter such as --reason TEXT, or --all")
    if everything and not wanted.everything:
        raise UsageError("--all goes without ids and filters")
    return wanted


def _print(letters: Iterable[Letter]) -> None:
    made = table("id", "since", "message", "topic:channel", "replays", "reason")
    for column in made.columns[:-1]:  # what is too long for a terminal is the reason
        column.no_wrap = True
    for each in letters:
        place = f"{each.topic}:{each.channel}" if each.topic else ""
        row = (each.letter_id, moment(each.died_s), each.message_id, place, each.replays, each.why)
        made.add_row(*map(line, row))
    if made.row_count:
        console().print(made)


def _print_whole(letter: Letter) -> None:
    for name, value in letter.as_json().items():
        if not name.startswith("payload") and value != "":
            when = f" ({_nanoseconds(str(value))})" if name in {"died_ns", "timestamp"} else ""
            sys.stdout.write(f"{name + ':':<12} {line(str(value))}{when}\n")
    sys.stdout.write(f"\n{plain(letter.text)}\n\n")


def _nanoseconds(text: str) -> str:
    return moment(int(text) / 1e9) if re.fullmatch("[0-9]{1,20}", text) else "?"


def _say(found: Found, first: str) -> None:
    """Print how many there are, and what is not seen, and why."""
    lines = [first] if first else []
    if found.seen < found.waiting:
        lines.append(
            f"{found.seen} of {found.waiting} letters could be seen: nsqd hands out no more at once "
            "(--max-rdy-count), or they are too large to be kept. Look again for the next ones"
        )
    if not found.topics and not found.problems:
        lines.append("nsqd has no such topic: no letter has come yet, or NSQ_DEAD_LETTER_TOPIC is another")
    if found.elsewhere:
        lines.append(
            f"{_letters(found.elsewhere)} in other hands, as of a tool that runs, or was killed less than "
            f"{MSG_TIMEOUT_S:.0f} s ago"
        )
    if found.missed:
        lines.append("the topic had other channels before: what came until now is in those alone")
    if found.again:
        lines.append(f"{_letters(found.again)} timed out meanwhile, and will come again")
    for each in lines:
        console().print(each)


def _write_json(found: Found) -> None:
    write_json(
        {
            "letters": [each.as_json() for each in found.letters],
            "seen": found.seen,
            "waiting": found.waiting,
            "in_other_hands": found.elsewhere,
            "done": found.done,
            "left": found.left,
            "problems": found.problems,
        }
    )


def _end(found: Found, name: str, ids: Sequence[str] = ()) -> None:
    if found.problems:
        raise ConnectionLost("; ".join(found.problems))
    wrong = []
    if unknown := [each for each in ids if each not in found.ids]:
        wrong.append(f"no dead letter that can be seen in {name} has the id {', '.join(map(line, unknown))}")
    if found.left:
        letter, why = next(iter(found.left.items()))
        wrong.append(f"{_letters(len(found.left))} stay: {letter}: {why}")
    if wrong:
        raise UsageError("; ".join(wrong))


def _letters(count: int) -> str:
    return f"{count} letter{'s' * (count != 1)}"
