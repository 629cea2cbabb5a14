# SPDX-License-Identifier: GPL-2.0-or-later
"""The process that consumes events and runs their routes. It may import all but `plugin` and `tools`."""
