// SPDX-License-Identifier: GPL-2.0-or-later
module sipgen

go 1.24
