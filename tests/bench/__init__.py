# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast publishing and querying are, each as a ratio to a baseline of the same run: `make bench`."""
