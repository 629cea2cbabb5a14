# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line `kemi-nsq`. It may import everything."""
