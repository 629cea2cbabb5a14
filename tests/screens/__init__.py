# SPDX-License-Identifier: GPL-2.0-or-later
"""`make screens`: what the verbs of `kemi-nsq` show in a terminal beside real servers, written into pages of docs/.

`scene` runs nsqd and Kamailio and has things happen to them; `shots` says what is looked at meanwhile and on which page
it stands; `steady` takes out of it what differs from run to run.
"""
