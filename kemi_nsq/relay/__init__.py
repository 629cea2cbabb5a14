# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing without waiting: a worker hands a message over, and the relay, a process of its own, sends it.

    worker -- handover -> (Unix stream socket) -> gathering -> backlog -> forwarding -> nsqd, or the outbox

`frames` says what travels over the socket, `process` runs the relay. Why it is so: docs/decisions/0035-relay.md.
"""
