# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence: from an event to a row of the presentity table and a NOTIFY. It may import the root and `nsq`."""
