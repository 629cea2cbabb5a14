# SPDX-License-Identifier: GPL-2.0-or-later
"""What Kamailio loads and calls, and the wiring of all behind it. It may import all but `tools`."""
