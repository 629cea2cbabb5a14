# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages for those who come from other modules have a line for each name of that module, and their lines are true.

The configurations of these pages run in tests/acceptance/test_docs_examples.py.
"""

from __future__ import annotations

import json
import re

import pytest

from kemi_nsq.errors import PayloadError
from kemi_nsq.presence.packages import from_event
from tests.support.markdown import ROOT, table

#: Fields that kazoo, nsq of 2016 and pua_json have in common: `json_extract_field` in kz_pua.c, nsq_pua.c, and
#: `extract_field` in pua_json_publish.c.
FIELDS = """
    Event-Name Event-Package From From-User From-Realm From-URI To To-User To-URI Call-ID From-Tag To-Tag Direction
    State Expires Presentity Presentity-User Presentity-Realm Messages-Waiting Message-Account Messages-New
    Messages-Saved Messages-Urgent Messages-Urgent-Saved
"""
#: Page to heading of a table to the names that it must have, from Kamailio's source: 5.6.3 and 6.1.4; and of nsq, its
#: first commit (9e5587351d), its README included, and the last one with presence (the parent of 1f09a38982).
NAMES = {
    "migrate-from-kazoo.md": {
        # kazoo.c, params[]
        "parameter": """
            node_hostname amqp_connection amqp_max_channels amqp_timer_process_interval amqp_timmer_process_interval
            amqp_consumer_ack_timeout_micro amqp_consumer_ack_timeout_sec amqp_interprocess_timeout_micro
            amqp_interprocess_timeout_sec amqp_waitframe_timeout_micro amqp_waitframe_timeout_sec
            amqp_consumer_processes amqp_consumer_workers amqp_consumer_event_key amqp_consumer_event_subkey
            amqp_query_timeout_micro amqp_query_timeout_sec amqp_internal_loop_count amqp_consumer_loop_count
            amqp_consumer_ack_loop_count pua_include_entity presence_use_full_entity presentity_table db_url pua_mode
            single_consumer_on_reconnect consume_messages_on_reconnect amqp_query_timeout_avp json_escape_char app_name
            use_federated_exchange federated_exchange amqp_heartbeats amqp_primary_zone amqp_command_hashtable_size
            amqp_result_avp amqps_ca_cert amqps_cert amqps_key amqps_verify_peer amqps_verify_hostname pua_lock_type
            amqp_connect_timeout_micro amqp_connect_timeout_sec event_callback
        """,
        # kazoo.c, cmds[] and kazoo_kemi_exports
        "function": """
            kazoo_publish kazoo_query kazoo_pua_publish kazoo_pua_publish_mwi kazoo_pua_publish_presence
            kazoo_pua_publish_dialoginfo kazoo_subscribe kazoo_json kazoo_json_keys kazoo_encode kazoo_async_query
            kazoo_query_async KSR.kazoo.kazoo_publish KSR.kazoo.kazoo_subscribe pres_refresh_watchers
        """,
        # kz_amqp.c, ki_kz_amqp_subscribe and kz_amqp_exchange_new, kz_amqp_queue_new
        "key": """
            exchange type queue routing auto_delete durable passive exclusive internal no_ack wait_for_consumer_ack
            federate consistent-worker consistent-worker-key event_key event_subkey exchange-def queue-def
            exchange-bindings
        """,
        # kazoo.c, kz_mod_pvs; kz_trans.c, kz_tr_parse
        "variable": "$kzE $kzR $kzRK {kz.json,PATH} {kz.json.count,PATH} {kz.encode}",
        # kz_amqp.c, kz_amqp_consumer_event and kz_amqp_fire_connection_event; kazoo.c, fire_init_event
        "event route": """
            kazoo:mod-init kazoo:consumer-event-CATEGORY-NAME kazoo:consumer-event-CATEGORY
            kazoo:consumer-event-event-category-event-name kazoo:consumer-event-event-category kazoo:consumer-event
            kazoo:consumer-event-connection-open kazoo:consumer-event-connection-closed
        """,
        "field": f"{FIELDS} Event-Category To-Realm Dialog-ID Flush-Level ETag Sender-URI Switch-URI",
        # kz_amqp.c, kz_amqp_add_payload_common_properties, kz_amqp_send_ex and kz_amqp_consumer_proc
        "field of a query": "Msg-ID Server-ID App-Name App-Version Node AMQP-Broker-Zone AMQP-Received",
    },
    "migrate-from-nsq.md": {
        # nsq_mod.c, params[]; README.md
        "parameter": """
            consumer_workers max_in_flight lookupd_address lookupd_port consumer_use_nsqd topic_channel nsqd_address
            nsqd_port consumer_event_key consumer_event_subkey pua_include_entity presentity_table db_url pua_mode
            json_escape_char db_table_lock_type consumer_topic consumer_channel query_timeout
        """,
        "function": "nsq_pua_publish nsq_publish nsq_query nsq_encode nsq_json pres_refresh_watchers",
        "variable": "$nsqE $nqE $nqR {nsq.json,PATH} {nq.json,PATH} {nsq.encode}",
        # nsq_reader.c, nsq_consumer_event; nsq_mod.c, fire_init_event
        "event route": """
            nsq:mod-init nsq:consumer-event-CATEGORY-NAME nsq:consumer-event-CATEGORY
            nsq:consumer-event-event-category-event-name nsq:consumer-event-event-category nsq:consumer-event
        """,
        "field": f"{FIELDS} Event-Category To-Realm Flush-Level MWI-Voice-Message",
    },
    "migrate-from-pua-json.md": {
        # pua_json_mod.c, params[], cmds[] and sr_kemi_pua_json_exports
        "parameter": "pua_include_entity",
        "function": "pua_json_publish KSR.pua_json.publish",
        "field": f"{FIELDS} MWI-Voice-Message DND-Status",
    },
}
#: Events as producers for these modules write them.
DIALOG = {
    "Event-Category": "presence", "Event-Name": "update", "Event-Package": "dialog", "From": "sip:alice@example.com",
    "From-User": "alice", "From-Realm": "example.com", "To": "sip:bob@example.com", "To-User": "bob",
    "To-Realm": "example.com", "Call-ID": "c-1", "Direction": "initiator", "State": "early", "Expires": 60,
    "Flush-Level": 4, "Switch-URI": "sip:switch1@example.com",
}  # fmt: skip
MAILBOX = {
    "Event-Category": "presence", "Event-Name": "update", "Event-Package": "message-summary",
    "From": "sip:alice@example.com", "From-User": "alice", "From-Realm": "example.com", "Call-ID": "m-1",
    "Messages-Waiting": "yes", "Messages-New": "1", "Messages-Saved": "2", "Message-Account": "sip:alice@example.com",
}  # fmt: skip
PRESENCE = DIALOG | {"Event-Package": "presence", "State": "online"}


def first_cells(page: str, head: str) -> list[str]:
    """List the names in the first column of a page's table, as many in a cell as it has."""
    cells = [cell for cell, *_ in table(ROOT / "docs" / page, head)]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell) or [cell]]


@pytest.mark.parametrize(("page", "head"), [(page, head) for page, heads in NAMES.items() for head in heads])
def test_each_name_of_the_module_has_one_line(page: str, head: str) -> None:
    found = first_cells(page, head)
    assert len(found) == len(set(found))
    assert set(found) == set(NAMES[page][head].split())


@pytest.mark.parametrize(
    "event",
    [
        DIALOG,
        MAILBOX,
        PRESENCE,
        DIALOG | {"State": "terminated", "Call-ID": None},
        {
            name: value
            for name, value in DIALOG.items()
            if name not in {"From-User", "From-Realm", "To-User", "Expires"}
        },
        MAILBOX | {"Messages-Waiting": True, "Messages-New": None, "MWI-Voice-Message": "1/2 (0/0)"},
        DIALOG | {"Direction": "inbound"},
    ],
    ids=json.dumps,
)
def test_what_the_pages_call_the_same_is_taken(event: dict[str, object]) -> None:
    assert from_event(json.loads(json.dumps(event))).package == event["Event-Package"]


@pytest.mark.parametrize(
    "change",
    [
        {"Event-Name": "create"},
        {"Event-Package": "as-feature-event"},
        {"From": "alice"},
        {"Direction": "both"},
        {"State": "ringing"},
        {"Expires": 0},
        {"Call-ID": None},
    ],
    ids=json.dumps,
)
def test_what_the_pages_call_refused_is(change: dict[str, object]) -> None:
    with pytest.raises(PayloadError):
        from_event(json.loads(json.dumps(DIALOG | change)))
