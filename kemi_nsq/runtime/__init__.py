# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime folder of a Kamailio, and what its processes show there. It is of the root: it imports the root only."""
