# SPDX-License-Identifier: GPL-2.0-or-later
"""What `make test-deb` runs in a root in which the package has been installed; docker/test-deb.sh has the steps."""
