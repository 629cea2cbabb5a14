# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq doctor`: what breaks presence, found before somebody misses a lamp.

`table` has all checks. Those of the text are in `kemi_nsq.configuration`, because Kamailio's start makes some of them.
"""
