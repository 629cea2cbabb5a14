# SPDX-License-Identifier: GPL-2.0-or-later
"""A kamailio.cfg, read as Kamailio reads it, and what of its text can be told to be wrong.

For the start (`plugin.native`), which has no time, and for `kemi-nsq doctor`, which looks at the world as well.
"""
