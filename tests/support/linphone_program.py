# SPDX-License-Identifier: GPL-2.0-or-later
"""A phone without a face: Linphone's library subscribes to the dialogs of others and reports what it sees.

`python linphone_program.py FOLDER HOST:PORT URI...` sends its SUBSCRIBEs to that server and appends to
FOLDER/reports.jsonl, an object for each change: `{"uri", "state"}` or `{"uri", "type", "body"}`.
SIGUSR1 refreshes the subscriptions, SIGUSR2 ends them, SIGTERM ends the program. The library's log, all SIP messages
among it, goes to standard output.

A program of its own, because a crash of the library must fail one test, not all. What is called here: the headers of
Debian's liblinphone-dev, <linphone/core.h>, <linphone/event.h>, <linphone/api/c-factory.h>, <linphone/api/c-content.h>.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from ctypes import CDLL, CFUNCTYPE, c_bool, c_char_p, c_int, c_void_p, cast, string_at
from ctypes.util import find_library
from pathlib import Path

#: LinphoneSubscriptionState of <linphone/types.h>.
STATES = ("none", "progress", "incoming", "pending", "active", "terminated", "error", "expiring")
LOG_MESSAGES = 1 << 2  # LinphoneLogLevelMessage of <linphone/logging.h>

#: How long the library may be left alone (<linphone/core.h>, `linphone_core_iterate`: 20 ms).
ITERATION_S = 0.02
EXPIRES_S = 600
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)

#: One account that does not register; UDP on a free port of loopback, no other transport and no database.
CONFIG = """
[sip]
bind_address=127.0.0.1
sip_port=-1
sip_tcp_port=0
sip_tls_port=0
use_ipv6=0
auto_net_state_mon=0
default_proxy=0

[proxy_0]
reg_proxy=<sip:{server};transport=udp>
reg_route=<sip:{server};transport=udp;lr>
reg_identity=sip:watcher@example.com
reg_sendregister=0
"""

_StateCallback = CFUNCTYPE(None, c_void_p, c_void_p, c_int)
_NotifyCallback = CFUNCTYPE(None, c_void_p, c_void_p, c_char_p, c_void_p)


class Linphone:
    """A LinphoneCore and its subscriptions."""

    def __init__(self, folder: Path, server: str) -> None:
        """Load the library and start it.

        Args:
            folder: where its files go, and the reports.
            server: host and port of the SIP server.
        """
        self._library = CDLL(find_library("linphone") or "liblinphone.so")
        self._reports = folder / "reports.jsonl"
        self._watched: dict[int, str] = {}  # by the address of the LinphoneEvent
        self._callbacks = (_StateCallback(self._state_changed), _NotifyCallback(self._notify_received))
        self._call(
            "linphone_logging_service_set_log_level", self._pointer("linphone_logging_service_get"), LOG_MESSAGES
        )
        self._factory = self._pointer("linphone_factory_get")
        for kind in ("config", "data"):
            self._call(f"linphone_factory_set_{kind}_dir", self._factory, c_char_p(bytes(folder)))
        config = self._pointer("linphone_config_new_from_buffer", c_char_p(CONFIG.format(server=server).encode()))
        self._core = self._pointer("linphone_factory_create_core_with_config_3", self._factory, config, None)
        self._start()

    def _start(self) -> None:
        callbacks = self._pointer("linphone_factory_create_core_cbs", self._factory)
        state_changed, notify_received = (cast(each, c_void_p) for each in self._callbacks)
        self._call("linphone_core_cbs_set_subscription_state_changed", callbacks, state_changed)
        self._call("linphone_core_cbs_set_notify_received", callbacks, notify_received)
        self._call("linphone_core_add_callbacks", self._core, callbacks)
        if self._call("linphone_core_start", self._core) != 0:
            raise RuntimeError("Linphone does not start")
        self._call("linphone_core_set_network_reachable", self._core, c_bool(True))

    def watch(self, uri: str) -> None:
        """Subscribe to somebody's dialogs."""
        address = self._pointer("linphone_factory_create_address", self._factory, c_char_p(uri.encode()))
        event = self._pointer("linphone_core_create_subscribe", self._core, address, c_char_p(b"dialog"), EXPIRES_S)
        self._watched[event.value or 0] = uri
        accept = c_char_p(b"Accept"), c_char_p(b"application/dialog-info+xml")
        self._call("linphone_event_add_custom_header", event, *accept)
        self._call("linphone_event_send_subscribe", event, None)

    def run(self) -> None:
        """Serve until SIGTERM."""
        actions = {signal.SIGUSR1: "linphone_event_refresh_subscribe", signal.SIGUSR2: "linphone_event_terminate"}
        while True:
            self._call("linphone_core_iterate", self._core)
            received = signal.sigtimedwait(SIGNALS, ITERATION_S)
            if received is None:
                continue
            if received.si_signo == signal.SIGTERM:
                return
            for event in self._watched:
                self._call(actions[signal.Signals(received.si_signo)], c_void_p(event))

    def stop(self) -> None:
        """Stop the library."""
        self._call("linphone_core_stop", self._core)

    def _state_changed(self, _core: int, event: int, state: int) -> None:
        info = self._pointer("linphone_event_get_error_info", c_void_p(event))
        code = self._call("linphone_error_info_get_protocol_code", info)
        self._report(event, state=f"{STATES[state]} {code}" if STATES[state] == "error" else STATES[state])

    def _notify_received(self, _core: int, event: int, _package: bytes, content: int | None) -> None:
        if content is None:
            self._report(event, type="", body="")
            return
        names = [self._text(f"linphone_content_get_{part}", c_void_p(content)) for part in ("type", "subtype")]
        body = self._pointer("linphone_content_get_buffer", c_void_p(content))
        size = self._call("linphone_content_get_size", c_void_p(content))
        self._report(event, type="/".join(names), body=string_at(body, size).decode())

    def _report(self, event: int, **fields: str) -> None:
        line = json.dumps({"uri": self._watched[event], **fields})
        with self._reports.open("a", encoding="utf-8") as reports:
            reports.write(f"{line}\n")

    def _function(self, name: str, result: type) -> Callable[..., object]:
        function = self._library[name]
        function.restype = result
        return function

    def _call(self, name: str, *arguments: object) -> int:
        result = self._function(name, c_int)(*arguments)
        assert isinstance(result, int)
        return result

    def _pointer(self, name: str, *arguments: object) -> c_void_p:
        address = self._function(name, c_void_p)(*arguments)
        if not isinstance(address, int):
            raise RuntimeError(f"{name} returned NULL")
        return c_void_p(address)

    def _text(self, name: str, *arguments: object) -> str:
        result = self._function(name, c_char_p)(*arguments)
        assert isinstance(result, bytes)
        return result.decode()


def main() -> None:
    """Watch those whom the arguments name."""
    folder, server, *uris = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # before the library's threads, which inherit it
    phone = Linphone(Path(folder), server)
    for uri in uris:
        phone.watch(uri)
    phone.run()
    phone.stop()


if __name__ == "__main__":
    main()
