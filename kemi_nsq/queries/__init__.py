# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries over NSQ, whose replies find who asked. It may import the root and `nsq`, never `presence`."""
