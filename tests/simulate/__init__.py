# SPDX-License-Identifier: GPL-2.0-or-later
"""A simulation of bad days: the real code of consumers, in one process, without threads, sockets or a clock of its own.

`steps` makes a scenario of a seed: what producers say, what breaks and when. `world` runs it: models of nsqd (`nsqd`)
and of Kamailio's presence module (`presence`), and consumer processes (`process`, `outside`) that are wired as the
product wires them, on a real SQLite file (`database`). `truth` says what must be so when the world has come to rest.
`shrink` makes a scenario that fails as short as it can. `make simulate SEEDS=N` runs many.
"""
