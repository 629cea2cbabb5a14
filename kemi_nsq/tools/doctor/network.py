# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of NSQ: servers and their ports, what they announce, clocks, topics, channels, and who reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kemi_nsq.clock import SYSTEM
from kemi_nsq.configuration.finding import CannotLook, Check, DoesNotApply, Finding, Grade
from kemi_nsq.errors import RunFolderError, TransientError
from kemi_nsq.monitoring.answers import consumers_in
from kemi_nsq.names import Address, Subscription
from kemi_nsq.queries.protocol import consumer_subscription
from kemi_nsq.runtime.instance import instance_id, machine_id
from kemi_nsq.tools.doctor.scene import Scene
from kemi_nsq.tools.doctor.servers import Kind

_OURS = "kemi-nsq/"
#: The client id of a consumer has its process id (`consumer.supervisor`).
_CONSUMER_ID = re.compile(r"kamailio-(\d+)-[0-9a-f]+")
#: HTTP tells whole seconds, and an answer takes a while.
_CLOCK_S = 5.0
_NODES = 16
#: Listening, in /proc/net/tcp (include/net/tcp_states.h, TCP_LISTEN), on all addresses.
_LISTENS, _ALL = "0A", ("00000000", "0" * 32)


def nsqd_tcp(scene: Scene) -> Iterator[Finding]:
    """Speak with each nsqd to which we publish, and from which we consume without nsqlookupd."""
    for address in scene.settings.nsqd_tcp_address:
        yield from _wrong_port(
            scene, "NSQ_NSQD_TCP_ADDRESS", address, Kind.NSQD, "nsqd listens for TCP on 4150 by default"
        )


def nsqd_http(scene: Scene) -> Iterator[Finding]:
    """Ask each nsqd by HTTP."""
    settings = scene.settings
    needed = settings.publish_transport == "http"
    for address in settings.nsqd_address:
        hint = "nsqd listens for HTTP on 4151 by default"
        for found in _wrong_port(scene, "NSQ_NSQD_ADDRESS", address, Kind.NSQD_HTTP, hint):
            away = found.reason.endswith("refused") and not needed
            yield found._replace(grade=Grade.WARNING) if away else found


def nsqlookupd(scene: Scene) -> Iterator[Finding]:
    """Ask each nsqlookupd."""
    if not scene.settings.lookupd_address:
        raise DoesNotApply("NSQ_LOOKUPD_ADDRESS is empty")
    for address in scene.settings.lookupd_address:
        hint = "nsqlookupd listens for HTTP on 4161 by default"
        yield from _wrong_port(scene, "NSQ_LOOKUPD_ADDRESS", address, Kind.LOOKUPD_HTTP, hint)


def _wrong_port(scene: Scene, setting: str, address: Address, wanted: Kind, hint: str) -> Iterator[Finding]:
    try:
        spoken = scene.servers.tcp(address) if wanted is Kind.NSQD else scene.servers.http(address)
        if spoken.kind is Kind.HTTP:
            spoken = scene.servers.http(address)
    except TransientError as error:
        yield Finding(Grade.ERROR, f"{setting}: nobody answers: {error}", f"start it, or correct {setting}")
        return
    if spoken.kind is not wanted:
        yield Finding(Grade.ERROR, f"{setting}: {address} is {spoken.kind.value}, not {wanted.value}", hint)


def announced(scene: Scene) -> Iterator[Finding]:
    """Speak with each nsqd that nsqlookupd names, at the address that it has announced."""
    if not scene.settings.lookupd_address:
        raise DoesNotApply("NSQ_LOOKUPD_ADDRESS is empty")
    for lookupd in scene.settings.lookupd_address:
        try:
            found = scene.servers.nodes(lookupd)
        except TransientError as error:
            raise CannotLook(str(error)) from None
        if not found:
            reason = f"nsqlookupd {lookupd} knows no nsqd: nothing is consumed"
            yield Finding(Grade.ERROR, reason, "start each nsqd with --lookupd-tcp-address")
        for node in found[:_NODES]:
            try:
                spoken = scene.servers.tcp(node)
            except TransientError as error:
                reason = f"a nsqd has announced itself as {node} to nsqlookupd {lookupd}, and nobody answers: {error}"
                yield Finding(
                    Grade.ERROR, reason, "start that nsqd with a --broadcast-address that this machine reaches"
                )
            else:
                if spoken.kind is not Kind.NSQD:
                    reason = f"a nsqd has announced itself as {node}, which is {spoken.kind.value}"
                    yield Finding(Grade.ERROR, reason, "start that nsqd with the right --broadcast-tcp-port")


def one_nsqd(scene: Scene) -> Iterator[Finding]:
    """Find addresses of TCP and of HTTP that are of different nsqd."""
    settings = scene.settings
    if settings.lookupd_address:
        raise DoesNotApply("NSQ_LOOKUPD_ADDRESS is set")
    ports = {address.port for address in settings.nsqd_tcp_address}
    for address in settings.nsqd_address:
        try:
            spoken = scene.servers.http(address)
        except TransientError as error:
            raise CannotLook(str(error)) from None
        info = spoken.info
        if spoken.kind is not Kind.NSQD_HTTP:
            raise CannotLook(f"{address} is {spoken.kind.value}")
        if (
            info.get("tcp_port", 0)
            and info.get("broadcast_tcp_port", info["tcp_port"])
            and info["tcp_port"] not in ports
        ):
            reason = f"the nsqd of NSQ_NSQD_ADDRESS {address} listens for TCP on {info['tcp_port']}, and no address of "
            yield Finding(
                Grade.WARNING, f"{reason}NSQ_NSQD_TCP_ADDRESS has that port: they are two", "name one nsqd in both"
            )


def msg_timeout(scene: Scene) -> Iterator[Finding]:
    """Find a nsqd that does not take NSQ_MSG_TIMEOUT."""
    settings = scene.settings
    for address in settings.nsqd_tcp_address:
        try:
            refused = scene.servers.tcp(address, settings.msg_timeout).refused
        except TransientError as error:
            raise CannotLook(str(error)) from None
        if refused:
            reason = f"nsqd {address} refuses us with NSQ_MSG_TIMEOUT {settings.msg_timeout}: {refused}"
            yield Finding(Grade.ERROR, reason, "lower NSQ_MSG_TIMEOUT, or start nsqd with a larger --max-msg-timeout")


def _nsqds(scene: Scene) -> list[Address]:
    """Return the HTTP addresses of the nsqd that are consumed from; raises CannotLook where nobody says which."""
    settings = scene.settings
    if not settings.lookupd_address:
        return list(settings.nsqd_address)
    found: dict[Address, None] = {}
    for lookupd in settings.lookupd_address:
        try:
            found |= dict.fromkeys(scene.servers.http_nodes(lookupd))
        except TransientError as error:
            raise CannotLook(str(error)) from None
    return list(found)[:_NODES]


def clocks(scene: Scene) -> Iterator[Finding]:
    """Compare the clocks of all nsqd with ours."""
    for nsqd in _nsqds(scene):
        try:
            date = scene.servers.http(nsqd).date
        except TransientError as error:
            raise CannotLook(str(error)) from None
        if date is None:
            raise CannotLook(f"{nsqd} does not say what time it is there")
        apart = date - SYSTEM.wall()
        if abs(apart) > _CLOCK_S:
            reason = f"the clock of nsqd {nsqd} is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} ours"
            yield Finding(
                Grade.WARNING, f"{reason}: events are put in order by it", "let both machines keep time (NTP)"
            )


def topics(scene: Scene) -> Iterator[Finding]:
    """Look for the topics and channels that are consumed: a name may be misspelled, or paused."""
    for nsqd in _nsqds(scene):
        try:
            stats = {str(topic.get("topic_name")): topic for topic in scene.servers.stats(nsqd)}
        except TransientError as error:
            raise CannotLook(str(error)) from None
        for subscription in scene.settings.subscriptions:
            topic = stats.get(subscription.topic)
            if topic is None:
                yield from _absent(scene, nsqd, subscription, stats)
                continue
            channels = {str(each.get("channel_name")): each for each in topic.get("channels") or ()}
            channel = channels.get(subscription.channel, {})
            if topic.get("paused") or channel.get("paused"):
                reason = f"{subscription} is paused at nsqd {nsqd}: nothing comes"
                yield Finding(Grade.ERROR, reason, f"curl -X POST 'http://{nsqd}/channel/unpause?...', or in nsqadmin")
            if scene.running and not channel.get("clients"):
                reason = f"nobody consumes {subscription} at nsqd {nsqd}, and Kamailio runs"
                yield Finding(Grade.ERROR, reason, "kemi-nsq status says why; see NSQ_NSQD_TCP_ADDRESS")


def _absent(scene: Scene, nsqd: Address, subscription: Subscription, there: Iterable[str]) -> Iterator[Finding]:
    """Judge a topic that is not there: the first start makes it."""
    alike = [name for name in there if _plain(name) == _plain(subscription.topic)]
    if alike:
        reason = f"nsqd {nsqd} has no topic {subscription.topic}, and one called {alike[0]}: is the name misspelled?"
        yield Finding(Grade.WARNING, reason, "correct NSQ_LISTEN_TOPIC or NSQ_TOPIC_CHANNEL: case counts")
    elif scene.running and not scene.settings.lookupd_address:
        reason = f"nsqd {nsqd} has no topic {subscription.topic}, and Kamailio runs"
        yield Finding(Grade.ERROR, reason, "kemi-nsq status says why; see NSQ_NSQD_TCP_ADDRESS")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "").rstrip("s")


def shared(scene: Scene) -> Iterator[Finding]:
    """Find others that take events from our channel: each event goes to one of its readers."""
    settings = scene.settings
    own_database = settings.db_url is not None and settings.db_url.startswith("sqlite")
    for nsqd in _nsqds(scene):
        for subscription in settings.subscriptions:
            try:
                readers = scene.servers.readers(nsqd, subscription)
            except TransientError as error:
                raise CannotLook(str(error)) from None
            consumers = [each for each in readers if str(each.get("user_agent", "")).startswith(_OURS)]
            for reader in (each for each in readers if each not in consumers):
                reason = f"{_who(reader)} reads {subscription} at nsqd {nsqd}: what it takes does not come here"
                yield Finding(Grade.ERROR, reason, "give it a channel of its own")
            if own_database:
                yield from _other_consumers(scene, nsqd, subscription, consumers)


def _who(reader: Mapping[str, object]) -> str:
    return f"{reader.get('client_id')} of {reader.get('hostname')} ({reader.get('remote_address')})"


def _other_consumers(
    scene: Scene, nsqd: Address, subscription: Subscription, consumers: Sequence[Mapping[str, object]]
) -> Iterator[Finding]:
    """Find consumers of another node, and of another Kamailio on this one."""
    here = [each for each in consumers if each.get("hostname") == scene.settings.node]
    strangers = [each for each in consumers if each not in here]
    try:
        pids = _own_pids(scene)
    except RunFolderError as error:
        if len(here) > 1:
            reason = f"{len(here)} clients of {scene.settings.node} read {subscription} at nsqd {nsqd}: are all ours?"
            yield Finding(Grade.UNKNOWN, f"{reason} {error}", "ask as root, or as Kamailio's user")
    else:
        strangers += [each for each in here if _pid(each) not in pids]
    for reader in strangers:
        reason = f"{_who(reader)} shares {subscription} with us, and our database is an SQLite file: half is missing"
        yield Finding(Grade.ERROR, reason, "give each Kamailio a channel of its own: NSQ_LISTEN_CHANNEL")


def _pid(reader: Mapping[str, object]) -> int | None:
    found = _CONSUMER_ID.fullmatch(str(reader.get("client_id")))
    return int(found[1]) if found else None


def _own_pids(scene: Scene) -> set[int]:
    """Return the process ids of our consumers; none before the first start, when there is no folder.

    Raises:
        RunFolderError: NSQ_RUN_DIR cannot be read.
    """
    folder = Path(scene.settings.run_dir)
    try:
        folder.lstat()
    except FileNotFoundError:
        if scene.running is None and not scene.perhaps:
            return set()
    except OSError as error:
        raise RunFolderError(f"NSQ_RUN_DIR {folder}: {error.strerror}") from None
    return {sheet.pid for sheet in consumers_in(folder)}


def replies(scene: Scene) -> Iterator[Finding]:
    """Find another Kamailio that takes itself for this one, and reads the replies to our queries."""
    settings = scene.settings
    name = os.path.realpath(settings.run_dir)
    instance = instance_id(name, machine=machine_id(), host_name=os.uname().nodename)
    for nsqd in _nsqds(scene):
        for slot in range(settings.consumers):
            subscription = consumer_subscription(slot, settings.node, instance)
            try:
                readers = scene.servers.readers(nsqd, subscription)
            except TransientError as error:
                raise CannotLook(str(error)) from None
            if len(readers) > (scene.running is not None or bool(scene.perhaps)):
                who = ", ".join(f"{each.get('client_id')} ({each.get('remote_address')})" for each in readers)
                reason = f"replies to our queries are read by {who} at nsqd {nsqd}: another Kamailio has our identity"
                yield Finding(Grade.ERROR, reason, "give one of the two another NSQ_NODE or another NSQ_RUN_DIR")
            elif readers and scene.perhaps:
                raise CannotLook(scene.doubt)


def open_ports(scene: Scene) -> Iterator[Finding]:
    """Find servers of NSQ on this machine that listen on all addresses: NSQ has no users."""
    settings = scene.settings
    ours = {*settings.nsqd_tcp_address, *settings.nsqd_address, *settings.lookupd_address}
    here = {"localhost", "127.0.0.1", "::1", os.uname().nodename}
    open_to_all = _listening()
    for address in sorted(each for each in ours if each.host in here and each.port in open_to_all):
        reason = f"what listens on port {address.port} does so on all addresses: who reaches it can publish and read"
        yield Finding(Grade.WARNING, reason, "bind it to one address (--tcp-address, --http-address), or a firewall")


def _listening() -> set[int]:
    """Return the ports on which somebody of this machine listens on all addresses (proc(5), /proc/net/tcp)."""
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for _, local, _, state, *_ in map(str.split, lines):
            host, _, port = local.rpartition(":")
            if state == _LISTENS and host in _ALL:
                found.add(int(port, 16))
    return found


CHECKS: tuple[Check[Scene], ...] = (
    Check("nsqd-tcp", "nsqd answers at NSQ_NSQD_TCP_ADDRESS, on its port for TCP", nsqd_tcp),
    Check("nsqd-http", "nsqd answers at NSQ_NSQD_ADDRESS, on its port for HTTP", nsqd_http),
    Check("nsqlookupd", "nsqlookupd answers at NSQ_LOOKUPD_ADDRESS, on its port for HTTP", nsqlookupd),
    Check("announced", "each nsqd answers where it has announced itself to nsqlookupd", announced),
    Check("one-nsqd", "NSQ_NSQD_TCP_ADDRESS and NSQ_NSQD_ADDRESS are of the same nsqd", one_nsqd),
    Check("msg-timeout", "nsqd takes NSQ_MSG_TIMEOUT", msg_timeout),
    Check("clocks", "the clocks of nsqd and of this machine agree", clocks),
    Check("topics", "topics and channels are there, and none is paused", topics),
    Check("channel", "nobody else takes events from our channel", shared),
    Check("replies", "no other Kamailio reads the replies to our queries", replies),
    Check("open-ports", "nsqd and nsqlookupd do not listen on all addresses", open_ports),
)
