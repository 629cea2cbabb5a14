# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence from the command line: `kemi-nsq presence`."""
