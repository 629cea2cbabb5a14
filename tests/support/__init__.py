# SPDX-License-Identifier: GPL-2.0-or-later
"""The real parts that tests and the demo use: nsqd, nsqlookupd, Kamailio, its database, and a SIP watcher.

Each part is a context manager on loopback with free ports and a folder of its own, and ends only what it started.
"""
