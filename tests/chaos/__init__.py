# SPDX-License-Identifier: GPL-2.0-or-later
"""`make chaos`: real servers under load, a kill and a freeze of each, and whether everything is right afterwards."""
