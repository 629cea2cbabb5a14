# SPDX-License-Identifier: GPL-2.0-or-later
"""NSQ itself: its protocol, sockets and limits; publishing, and the outbox. It may import the root only."""
