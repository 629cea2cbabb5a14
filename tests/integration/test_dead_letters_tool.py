# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq dead-letters`: what waits at a real nsqd is seen without a loss, and what is dropped is gone."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kemi_nsq.errors import DeadlineExceeded
from kemi_nsq.names import Subscription, address
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.tools import deadletters
from kemi_nsq.tools.deadletters import CHANNEL
from kemi_nsq.tools.letters import Letter, Wanted, read
from kemi_nsq.tools.nsqds import Nsqd as Nsqds
from kemi_nsq.tools.reader import Reader
from tests.support.command import Done, addresses, kemi_nsq
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.until import until

DEAD = "dead"


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as server:
        yield server


def run(*words: str, nsqd: Nsqd, **more: str) -> Done:
    """Run `kemi-nsq dead-letters` with the settings that name a nsqd and the topic."""
    return kemi_nsq("dead-letters", *words, environment=addresses(nsqd) | {"NSQ_DEAD_LETTER_TOPIC": DEAD} | more)


def letter(number: int, **fields: str | int | None) -> bytes:
    """Write a dead letter as a consumer does, about the message of this number."""
    made: dict[str, str | int | None] = {
        "Reason": "the body is not JSON",
        "Route": "",
        "Attempts": 1,
        "Node": "edge-1",
        "Topic": "kamailio",
        "Channel": "kamailio",
        "Message-ID": f"{number:016x}",
        "Timestamp": time.time_ns(),
        "Payload": f'{{"number": {number}}}',
    }
    return json.dumps(made | {name.replace("_", "-"): value for name, value in fields.items()}).encode()


def numbers(done: Done) -> list[int]:
    """Return the numbers of the messages whose letters were listed."""
    return [int(each["message_id"], 16) for each in done.json["letters"]]


def settled(nsqd: Nsqd, depth: int) -> None:
    """Wait until so many letters are in the channel, and none is in other hands: an answer takes its way, too."""

    def there() -> bool:
        state = nsqd.channel(DEAD, CHANNEL)
        return (state.depth, state.in_flight, state.deferred) == (depth, 0, 0)

    until(there, what=f"{depth} letters")


def test_looking_changes_nothing_and_can_be_done_again(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(20)])
    for looks in (1, 2, 3):
        done = run("list", "--json", nsqd=nsqd)
        assert (done.code, done.err, numbers(done)) == (0, "", [*range(20)])
        assert {each["looks"] for each in done.json["letters"]} == {looks}
        settled(nsqd, 20)


def test_a_letter_is_a_line_and_the_last_line_counts_them(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(7), letter(8, Reason="evil \x1b[2J\nline")])
    done = run("list", nsqd=nsqd)
    header, seven, eight, last = (line.rstrip() for line in done.out.splitlines())
    assert header.split() == ["id", "since", "message", "topic:channel", "replays", "reason"]
    assert seven.split(maxsplit=5)[3:] == ["0000000000000007", "kamailio:kamailio", "the body is not JSON"]
    assert "evil \\x1b[2J\\nline" in eight
    assert last == "2 letters of dead"


def test_more_than_nsqd_hands_out_is_said_and_seen_by_looking_again(nsqd: Nsqd) -> None:
    nsqd.create_topic(DEAD)
    nsqd.create_channel(DEAD, CHANNEL)
    nsqd.publish_many(DEAD, [letter(number) for number in range(7000)])
    until(lambda: nsqd.channel(DEAD, CHANNEL).depth == 7000, what="all to be in the channel")
    first = run("list", nsqd=nsqd)
    assert first.out.splitlines()[-2] == "2500 letters of dead"
    assert first.out.splitlines()[-1].startswith("2500 of 7000 letters could be seen: nsqd hands out no more at once ")
    rest = {number for _ in range(2) for number in numbers(run("list", "--json", nsqd=nsqd))}
    assert len(rest) == 5000, "the next looks see the others"
    settled(nsqd, 7000)
    dropped = [run("drop", "--all", "--json", nsqd=nsqd).json["done"] for _ in range(3)]
    assert dropped == [2500, 2500, 2000]
    settled(nsqd, 0)


def test_what_a_message_said_is_shown_whole(nsqd: Nsqd) -> None:
    nsqd.publish_many(
        DEAD,
        [
            letter(1, Payload='{"b":1,"ä":"\\u001b"}'),
            letter(2, Payload="no JSON\x1b[0m"),
            letter(3, Payload=None, Payload_Base64=base64.b64encode(b"\xff\x00a").decode()),
        ],
    )
    done = run("show", f"{1:016x}", nsqd=nsqd)
    assert done.code == 0
    assert "reason:      the body is not JSON\n" in done.out
    assert done.out.endswith('\n\n{\n  "b": 1,\n  "ä": "\\u001b"\n}\n\n')
    assert run("show", f"{2:016x}", nsqd=nsqd).out.endswith("\n\nno JSON\\x1b[0m\n\n")
    assert run("show", f"{3:016x}", nsqd=nsqd).out.endswith("\n\n\\xff\\x00a\n\n")
    (shown,) = run("show", f"{3:016x}", "--json", nsqd=nsqd).json["letters"]
    assert base64.b64decode(shown["payload_base64"]) == b"\xff\x00a"
    (own,) = run("show", shown["letter_id"], "--json", nsqd=nsqd).json["letters"]
    assert own["message_id"] == f"{3:016x}", "its own id does as well"
    missing = run("show", "f" * 16, nsqd=nsqd)
    assert (missing.code, missing.err) == (
        2,
        f"kemi-nsq: no dead letter that can be seen in dead has the id {'f' * 16}\n",
    )


def test_each_id_that_is_not_there_is_named(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(3)])
    here, gone, away = f"{1:016x}", "e" * 16, "123"
    said = f"kemi-nsq: no dead letter that can be seen in dead has the id {gone}, {away}\n"
    for words in (("show", here), ("drop", here, "--dry-run")):
        done = run(*words, gone, away, nsqd=nsqd)
        assert (done.code, here in done.out, done.err) == (2, True, said)
    assert run("drop", here, gone, away, nsqd=nsqd) == (2, "1 letter of dead dropped\n", said)
    assert run("drop", away, nsqd=nsqd).code == 2
    assert run("drop", f"{0:016x}", f"{2:016x}", "--limit", "1", nsqd=nsqd).code == 0, "both are there"
    assert numbers(run("list", "--json", nsqd=nsqd)) == [2]


def test_what_nobody_of_ours_wrote_is_listed_and_can_be_dropped(nsqd: Nsqd) -> None:
    strange = [b"junk", b"[]", b"{}", letter(4, Payload=None, Payload_Base64="!"), letter(5, Payload=5)]
    nsqd.publish_many(DEAD, [*strange, letter(6, Timestamp="9" * 5000, Attempts=None)])
    done = run("list", "--json", nsqd=nsqd)
    assert [bool(each["fault"]) for each in done.json["letters"]] == [True] * 5 + [False]
    assert run("show", f"{6:016x}", nsqd=nsqd).code == 0
    assert run("drop", "--reason", "NO DEAD LETTER of kemi-nsq", nsqd=nsqd).out == "5 letters of dead dropped\n"
    assert numbers(run("list", "--json", nsqd=nsqd)) == [6]


def test_those_that_match_are_dropped_and_no_others(nsqd: Nsqd) -> None:
    nsqd.publish_many(
        DEAD,
        [letter(1), letter(2, Topic="other"), letter(3, Reason="State is missing"), letter(4), letter(5), letter(6)],
    )
    tried = run("drop", "--topic", "other", "--dry-run", nsqd=nsqd)
    assert tried.out.splitlines()[-1] == "1 letter of dead would be dropped"
    settled(nsqd, 6)
    assert run("drop", "--topic", "other", nsqd=nsqd).out == "1 letter of dead dropped\n"
    assert run("drop", "--reason", "state is", nsqd=nsqd).out == "1 letter of dead dropped\n"
    assert run("drop", f"{4:016x}", f"{5:016x}", nsqd=nsqd).out == "2 letters of dead dropped\n"
    assert run("drop", "--since", "2030-01-01", nsqd=nsqd).out == "0 letters of dead dropped\n"
    assert run("drop", "--since", "1h", "--limit", "1", nsqd=nsqd).out == "1 letter of dead dropped\n"
    assert numbers(run("list", "--json", nsqd=nsqd)) == [6]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drop",), "which letters? Give ids, a filter such as --reason TEXT, or --all"),
        (("drop", "--all", "--reason", "x"), "--all goes without ids and filters"),
        (("list", "--since", "yesterday"), "--since 'yesterday' is neither a time such as 2026-12-24T18:00"),
        (("list", "--from", "a b"), "'a b' is no name for a topic or channel"),
    ],
)
def test_what_is_not_clear_drops_nothing(nsqd: Nsqd, words: tuple[str, ...], said: str) -> None:
    nsqd.publish(DEAD, letter(1))
    done = run(*words, nsqd=nsqd)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"kemi-nsq: {said}")
    assert nsqd.topic(DEAD)["depth"] == 1


def test_ctrl_c_between_two_letters_gives_all_back(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(100)])

    def interrupted(message: Message, server: str) -> Letter:
        found = read(message, server)
        if int(found.message_id, 16) == 50:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(deadletters, "read", interrupted)
    assert run("list", nsqd=nsqd)[:2] == (130, "")
    settled(nsqd, 100)


def test_ctrl_c_while_letters_are_dropped_leaves_the_others(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(100)])
    real = Reader.finish

    finished: list[Message] = []

    def interrupted(self: Reader, message: Message) -> None:
        if len(finished) == 10:
            raise KeyboardInterrupt
        finished.append(message)
        real(self, message)

    monkeypatch.setattr(Reader, "finish", interrupted)
    done = run("drop", "--all", nsqd=nsqd)
    assert done == (1, "10 letters of dead dropped\n", "kemi-nsq: interrupted\n")
    settled(nsqd, 90)


def test_who_is_killed_loses_nothing(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(10)])
    with closing(Reader(address(nsqd.tcp_address), Subscription(DEAD, CHANNEL), ready=10, msg_timeout_s=1)) as reader:
        until(lambda: reader.messages(time.monotonic() + 1), what="letters")
        until(lambda: nsqd.channel(DEAD, CHANNEL).in_flight == 10, what="all of them")
    until(lambda: nsqd.channel(DEAD, CHANNEL).depth == 10, timeout_s=15, what="nsqd to have them again")


def test_nsqd_that_goes_away_while_letters_are_dropped_is_told(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(8)])

    def kill_at_the_fifth(found: Letter) -> None:
        if int(found.message_id, 16) == 4:
            nsqd.kill()

    servers = [Nsqds(address(nsqd.tcp_address), address(nsqd.http_address))]
    found = deadletters.finish(servers, DEAD, Wanted(), kill_at_the_fifth)
    assert found.done < 8
    assert f"nsqd {nsqd.tcp_address} did not hear all answers: what is done may come again" in found.problems


def test_letters_that_are_finished_slowly_do_not_time_out(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletters, "MSG_TIMEOUT_S", 1.0)
    monkeypatch.setattr(deadletters, "_KEEP_S", 0.1)
    nsqd.publish_many(DEAD, [letter(number) for number in range(8)])
    began = time.monotonic()

    def slowly(found: Letter) -> None:
        due = began + 0.3 * (int(found.message_id, 16) + 1)
        until(lambda: time.monotonic() >= due, what="the time of this one")

    servers = [Nsqds(address(nsqd.tcp_address), address(nsqd.http_address))]
    found = deadletters.finish(servers, DEAD, Wanted(), slowly)
    assert (found.done, found.again, found.problems) == (8, 0, [])
    settled(nsqd, 0)
    assert nsqd.channel(DEAD, CHANNEL).timed_out == 0


def test_what_timed_out_before_it_was_finished_is_told(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletters, "MSG_TIMEOUT_S", 1.0)
    nsqd.publish_many(DEAD, [letter(number) for number in range(3)])

    def too_late(_: Letter) -> None:
        until(lambda: nsqd.channel(DEAD, CHANNEL).timed_out == 3, timeout_s=15, what="their timeout")

    servers = [Nsqds(address(nsqd.tcp_address), address(nsqd.http_address))]
    found = deadletters.finish(servers, DEAD, Wanted(), too_late)
    assert (found.done, found.again, found.problems) == (0, 3, [])
    until(lambda: nsqd.channel(DEAD, CHANNEL).depth == 3, what="all of them again")


def test_letters_in_other_hands_are_told(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(30)])
    other = Reader(address(nsqd.tcp_address), Subscription(DEAD, CHANNEL), ready=10)
    until(lambda: nsqd.channel(DEAD, CHANNEL).in_flight == 10, what="letters in other hands")
    done = run("list", nsqd=nsqd)
    assert done.out.splitlines()[-2] == "20 letters of dead"
    assert done.out.splitlines()[-1].startswith("10 letters in other hands, as of a tool that runs")
    assert other.leave() == 0
    settled(nsqd, 30)
    assert len(numbers(run("list", "--json", nsqd=nsqd))) == 30


def test_two_tools_at_once_drop_each_letter_once(nsqd: Nsqd) -> None:
    nsqd.publish_many(DEAD, [letter(number) for number in range(4000)])
    tool = str(Path(sys.executable).with_name("kemi-nsq"))
    environment = {**os.environ, **addresses(nsqd), "NSQ_DEAD_LETTER_TOPIC": DEAD}
    command = [tool, "dead-letters", "drop", "--all", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) for _ in range(2)]
    done = sum(json.loads(each.communicate(timeout=30)[0])["done"] for each in both)
    settled(nsqd, 4000 - done)
    assert nsqd.channel(DEAD, CHANNEL).timed_out == 0
    assert done >= 2500


def test_very_large_letters_are_not_all_kept(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletters, "MOST_BYTES", 100_000)
    nsqd.publish_many(DEAD, [letter(number, Payload="x" * 30_000) for number in range(10)])
    done = run("list", "--json", nsqd=nsqd)
    assert numbers(done) == [0, 1, 2]
    settled(nsqd, 10)


def test_a_topic_that_is_not_there_is_not_made(nsqd: Nsqd) -> None:
    done = run("list", nsqd=nsqd)
    assert done.code == 0
    assert done.out == (
        "0 letters of dead\nnsqd has no such topic: no letter has come yet, or NSQ_DEAD_LETTER_TOPIC is another\n"
    )
    with pytest.raises(LookupError):
        nsqd.topic(DEAD)


def test_letters_that_other_channels_have_taken_are_told(nsqd: Nsqd) -> None:
    nsqd.create_topic(DEAD)
    nsqd.create_channel(DEAD, "theirs")
    nsqd.publish(DEAD, letter(1))
    until(lambda: nsqd.channel(DEAD, "theirs").depth == 1, what="the letter")
    assert run("list", nsqd=nsqd).out.splitlines() == [
        "0 letters of dead",
        "the topic had other channels before: what came until now is in those alone",
    ]
    nsqd.publish(DEAD, letter(2))
    assert numbers(until(lambda: _some(nsqd), what="the next letter")) == [2]


def _some(nsqd: Nsqd) -> Done | None:
    done = run("list", "--json", nsqd=nsqd)
    return done if done.json["letters"] else None


def test_nsqd_that_is_away_is_a_line_that_names_the_setting(nsqd: Nsqd) -> None:
    nsqd.stop()
    for words in (("list",), ("show", "1"), ("drop", "--all")):
        done = run(*words, nsqd=nsqd)
        assert done.code == 1
        assert done.err == f"kemi-nsq: nsqd {nsqd.http_address}: Connection refused; see NSQ_NSQD_ADDRESS\n"


def test_a_tcp_address_of_nobody_is_told_too(nsqd: Nsqd) -> None:
    nsqd.create_topic(DEAD)
    done = run("list", nsqd=nsqd, NSQ_NSQD_TCP_ADDRESS="127.0.0.1:1")
    assert done.code == 1
    assert done.err == "kemi-nsq: nsqd 127.0.0.1:1: Connection refused; see NSQ_NSQD_TCP_ADDRESS\n"


def test_without_a_topic_the_setting_is_named(nsqd: Nsqd) -> None:
    done = run("list", nsqd=nsqd, NSQ_DEAD_LETTER_TOPIC="")
    assert done == (
        2,
        "",
        "kemi-nsq: no topic of dead letters is known: give --from TOPIC, or set NSQ_DEAD_LETTER_TOPIC\n",
    )
    nsqd.create_topic("elsewhere")
    nsqd.create_channel("elsewhere", CHANNEL)
    nsqd.publish("elsewhere", letter(1))
    assert numbers(run("list", "--json", "--from", "elsewhere", nsqd=nsqd)) == [1]


@pytest.mark.parametrize("words", [("list",), ("show", "1"), ("drop", "--all"), ("replay", "--all")])
def test_a_look_leaves_no_channel_where_no_letters_are(nsqd: Nsqd, words: tuple[str, ...]) -> None:
    for topic, channels in {"events": ["kamailio"], "replays": ["kamailio"], "orders": ["shop"], "bare": []}.items():
        nsqd.create_topic(topic)
        for channel in channels:
            nsqd.create_channel(topic, channel)
        done = run(*words, "--from", topic, nsqd=nsqd, NSQ_LISTEN_TOPIC="events", NSQ_REPLAY_TOPIC="replays")
        consumed = topic in {"events", "replays"}
        said = "is a topic that Kamailio consumes" if consumed else "is not NSQ_DEAD_LETTER_TOPIC and has no channel"
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert f"{topic} {said}" in done.err
        assert [each["channel_name"] for each in nsqd.topic(topic)["channels"]] == channels


def test_the_letters_of_several_nsqd_are_one_list(tmp_path: Path) -> None:
    with ExitStack() as stack:
        lookupd = stack.enter_context(Nsqlookupd(tmp_path / "lookupd"))
        options = {"lookupd_tcp_address": lookupd.tcp_address}
        first, second = (stack.enter_context(Nsqd(tmp_path / name, **options)) for name in ("first", "second"))
        for number, server in enumerate((second, first, second)):
            server.publish(DEAD, letter(number))
            until(lambda server=server: lookupd.producers(DEAD), what="the topic to be known")  # type: ignore[misc]
        until(lambda: len(lookupd.producers(DEAD)) == 2, what="both to be known")
        both = {"NSQ_DEAD_LETTER_TOPIC": DEAD, **addresses(first, second)}
        looked_up = {"NSQ_DEAD_LETTER_TOPIC": DEAD, "NSQ_LOOKUPD_ADDRESS": lookupd.http_address}
        for environment in (both, looked_up):
            assert numbers(kemi_nsq("dead-letters", "list", "--json", environment=environment)) == [0, 1, 2]
        second.stop()
        done = kemi_nsq("dead-letters", "list", environment=both)
        assert (done.code, done.out.splitlines()[-1]) == (1, "1 letter of dead"), "what can be seen is shown"
        assert second.http_address in done.err
        done = kemi_nsq("dead-letters", "drop", "--all", "--json", environment=both)
        assert (done.code, done.json["done"]) == (1, 1)


def test_both_addresses_of_each_nsqd_are_needed(nsqd: Nsqd) -> None:
    done = run("list", nsqd=nsqd, NSQ_NSQD_TCP_ADDRESS="a:4150,b:4150")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "kemi-nsq: NSQ_NSQD_TCP_ADDRESS names 2 nsqd and NSQ_NSQD_ADDRESS 1: both must name the same ones, in the same "
        "order\n"
    )


def test_a_lookupd_that_is_away_is_a_line_that_names_the_setting() -> None:
    environment = {"NSQ_DEAD_LETTER_TOPIC": DEAD, "NSQ_LOOKUPD_ADDRESS": "127.0.0.1:1"}
    done = kemi_nsq("dead-letters", "list", environment=environment)
    assert (done.code, done.out) == (1, "")
    assert done.err == "kemi-nsq: nsqlookupd 127.0.0.1:1: Connection refused; see NSQ_LOOKUPD_ADDRESS\n"


def test_a_reader_waits_until_a_deadline_and_no_longer(nsqd: Nsqd) -> None:
    with closing(Reader(address(nsqd.tcp_address), Subscription("quiet", "test"))) as reader:
        with pytest.raises(DeadlineExceeded):
            reader.messages(time.monotonic() + 0.05)
        nsqd.publish("quiet", b"x")
        assert [each.body for each in reader.messages(time.monotonic() + 5)] == [b"x"]
        assert reader.leave() == 0
