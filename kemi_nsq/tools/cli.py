# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `kemi-nsq`: try things by hand, see what Kamailio does, check settings, write the reference.

Exit codes: 0 done; 1 the world is not ready (nsqd does not answer, Kamailio is stuck); 2 the input is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from kemi_nsq import names
from kemi_nsq.errors import ConnectionLost, NsqError, PayloadError, TransientError, UsageError
from kemi_nsq.jsontext import json_object
from kemi_nsq.loading import in_force
from kemi_nsq.nsq import httpapi
from kemi_nsq.settings import Settings, rows
from kemi_nsq.tools import (
    configured,
    deadletter_verbs,
    doctor_verbs,
    reference,
    responder,
    script_verbs,
    status_verbs,
    tail_verbs,
)
from kemi_nsq.tools import files as shipped
from kemi_nsq.tools.output import AsJson, console, plain, table, write_json
from kemi_nsq.tools.presence import verbs as presence_verbs

HTTP_TIMEOUT_S = 5.0
_EXIT_TRANSIENT, _EXIT_USAGE = 1, 2

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"kemi-nsq {version('kemi-nsq')}\n")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="A kamailio.cfg, whose #!define NSQ_... are the settings, before the environment."
        ),
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Take what holds for all verbs."""
    configured.choose(config)


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(help="NSQ topic.")],
    payload: Annotated[str, typer.Argument(help="A JSON object, or - to read it from standard input.")],
    nsqd: Annotated[str, typer.Option(help="HTTP address of nsqd; NSQ_NSQD_ADDRESS where left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Publish one JSON object to a topic."""
    text = _standard_input() if payload == "-" else payload
    address = names.address(nsqd) if nsqd else configured.settings().nsqd_address[0]
    with _json_given():
        json_object(text)
    with _of_setting("NSQ_NSQD_ADDRESS"):
        httpapi.publish(address, names.topic_name(topic), text.encode(), timeout_s=HTTP_TIMEOUT_S)
    size = len(text.encode())
    if as_json:
        write_json({"topic": topic, "nsqd": str(address), "bytes": size})
    else:
        console().print(f"published {size} bytes to {topic} at {address}")


@app.command()
def query(
    topic: Annotated[str, typer.Argument(help="NSQ topic on which a responder listens.")],
    payload: Annotated[str, typer.Argument(help="A JSON object.")],
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the reply.")] = 2.0,
    nsqd: Annotated[str, typer.Option(help="TCP address of nsqd; NSQ_NSQD_TCP_ADDRESS where left out.")] = "",
) -> None:
    """Ask over NSQ as nsq_query does, and print the reply."""
    with _json_given(), _of_setting("NSQ_NSQD_TCP_ADDRESS"):
        said = responder.ask(_tcp_settings(nsqd), names.topic_name(topic), payload, timeout_s=timeout)
    sys.stdout.write(f"{said}\n")


@app.command()
def respond(
    topic: Annotated[str, typer.Option(help="NSQ topic to answer on.")],
    reply: Annotated[str, typer.Option(help="The JSON object to reply; its Msg-ID is filled in.")] = "",
    command: Annotated[str, typer.Option("--exec", help="Command that reads the request and prints the reply.")] = "",
    nsqd: Annotated[str, typer.Option(help="TCP address of nsqd; NSQ_NSQD_TCP_ADDRESS where left out.")] = "",
) -> None:
    """Answer queries until interrupted: always the same, or what a command says."""
    if bool(reply) == bool(command):
        raise UsageError("one of --reply and --exec is needed")
    with _json_given():
        answer = responder.fixed(reply) if reply else responder.executed(command)
    with _of_setting("NSQ_NSQD_TCP_ADDRESS"), suppress(KeyboardInterrupt):
        responder.serve(_tcp_settings(nsqd), names.topic_name(topic), answer, Console(stderr=True).print)


@app.command()
def settings(as_json: AsJson = False) -> None:
    """Check the settings of --config and the environment, and show all of them, with the defaults of the rest."""
    values = in_force(configured.settings())
    if as_json:
        write_json(values)
        return
    shown = table("setting", "value", "meaning")
    for name, _, info in rows():
        shown.add_row(name, plain(values[name]), info.description or "")
    console().print(shown)


app.command()(doctor_verbs.doctor)
app.command()(status_verbs.status)
app.command()(status_verbs.pause)
app.command()(status_verbs.resume)
app.command()(status_verbs.drain)
app.command()(script_verbs.reload)
app.command("log-level")(status_verbs.log_level)
app.command()(tail_verbs.tail)


@app.command()
def files(
    name: Annotated[str, typer.Argument(help="One of the files, such as nsq.cfg; their folder where left out.")] = "",
) -> None:
    """Print where the files are that Kamailio loads and includes."""
    sys.stdout.write(f"{shipped.path_of(name) if name else shipped.folder()}\n")


@app.command("reference")
def write_reference(
    write: Annotated[Path | None, typer.Option(help="File to write; standard output where left out.")] = None,
) -> None:
    """Write the reference of settings, functions, variables and counters, as Markdown."""
    text = reference.markdown()
    if write is None:
        sys.stdout.write(text)
    else:
        try:
            write.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{write}: {error.strerror}") from error


app.add_typer(presence_verbs.app, name="presence")
app.add_typer(deadletter_verbs.app, name="dead-letters")


def main() -> NoReturn:
    """Run the command line; an error of this package becomes one line on standard error and an exit code."""
    sys.exit(run(lambda: app(prog_name="kemi-nsq")))


def run(command: Callable[[], object]) -> int:
    """Call `command` and return the exit code that its outcome means."""
    try:
        command()
    except TransientError as error:
        return _fail(error, _EXIT_TRANSIENT)
    except UsageError as error:
        return _fail(error, _EXIT_USAGE)
    except KeyboardInterrupt:
        return 0
    return 0


@contextmanager
def _json_given() -> Iterator[None]:
    """Say how a shell takes JSON where what was given is none: it may be that the shell took its quotes."""
    try:
        yield
    except PayloadError as error:
        raise PayloadError(f"{error} (in the shell, put the JSON between single quotes)") from error


@contextmanager
def _of_setting(name: str) -> Iterator[None]:
    """Say which setting has the address where nobody answers."""
    try:
        yield
    except ConnectionLost as error:
        raise ConnectionLost(f"nsqd {error}; see {name}") from error


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise PayloadError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from error


def _tcp_settings(nsqd: str) -> Settings:
    return configured.settings({"NSQ_NSQD_TCP_ADDRESS": nsqd} if nsqd else {})


def _fail(error: NsqError, code: int) -> int:
    sys.stderr.write(f"kemi-nsq: {error}\n")
    return code
