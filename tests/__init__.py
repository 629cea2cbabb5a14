# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of kemi-nsq, in three tiers named by what must be running: `unit`, `integration`, `acceptance`."""
