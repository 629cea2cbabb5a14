# SPDX-License-Identifier: GPL-2.0-or-later
"""How a Kamailio is, as whoever looks at it from outside sees: for people, and for Prometheus."""
