"""The desk: letters in their order and once, wishes for whom they are meant, rooms of a node alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import desk as desks
from runner.admission import Free, Need
from runner.desk import ALONE_S, Desk, Letter, Reply
from runner.messages import QueuedSong
from runner.parcels import Parcel

GIB = 2**30


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    for number, song in enumerate(("a", "b", "c"), 1):
        desk.send(song, number)
    return desk


def letter(song: str, errand: int, *, size: int = 1) -> Letter:
    return Letter(song, errand, parcels=(Parcel("worker.log", b"x" * size),))


ERRANDS = {"a": 1, "b": 2, "c": 3}


def enter(desk: Desk, node: str, song: str, now: float = 0.0, *, errand: int = 0) -> str:
    found = desk.enter(
        node,
        song,
        errand or ERRANDS[song],
        Need(private=GIB),
        Free(),
        now,
        despite_memory=False,
        overdue=False,
    )
    return "" if found is None else found.words


def test_letters_are_given_once_and_in_their_order(desk: Desk) -> None:
    first, second = letter("a", 1), Letter("b", 2, said=(QueuedSong("b", "running"),))
    assert desk.leave_word(first) == desk.leave_word(second) == Reply(taken=True)
    assert desk.collect() == [first, second]
    assert desk.collect() == []


def test_a_letter_that_comes_twice_because_its_answer_was_lost_is_given_once(desk: Desk) -> None:
    first = Letter("a", 1, parcels=(Parcel("worker.log", b"x"),), number=1)
    for _ in range(2):
        assert desk.leave_word(first).taken
    assert desk.collect() == [first]
    assert desk.leave_word(first).taken
    assert desk.collect() == []
    desk.send("a", 2)
    assert desk.leave_word(Letter("a", 2, said=first.said, parcels=first.parcels, number=1)).taken
    assert len(desk.collect()) == 1


def test_where_the_cluster_itself_killed_for_memory_there_are_fewer_places() -> None:
    here, there_s = [0.0], 5000.0  # the node has been up for longer
    desk = Desk(clock=lambda: here[0])
    for song, errand in ERRANDS.items():
        desk.send(song, errand)
    assert enter(desk, "n", "a", there_s) == enter(desk, "n", "b", there_s) == ""
    here[0] += 7200.0
    desk.killed_for_memory("a")
    desk.back("a")
    found = enter(desk, "n", "c", there_s + here[0])
    assert found == "waits for its turn: 1 at once, since memory ran out"
    desk.killed_for_memory("unknown")


def test_an_empty_letter_is_only_a_question(desk: Desk) -> None:
    assert desk.leave_word(Letter("a", 1)) == Reply(taken=True)
    assert desk.collect() == []


def test_what_comes_from_an_errand_that_was_given_up_is_not_taken_and_it_is_to_end(desk: Desk) -> None:
    desk.send("a", 7)
    assert desk.leave_word(letter("a", 1)) == Reply(taken=True, stop="stray", hurry=True)
    assert desk.leave_word(letter("a", 7)) == Reply(taken=True)
    assert [each.errand for each in desk.collect()] == [7]
    desk.back("a")
    assert desk.leave_word(letter("a", 7)).stop == "stray"


def test_a_desk_that_is_full_takes_no_more_until_it_was_emptied(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "MOST_BYTES", 10)
    assert desk.leave_word(letter("a", 1, size=100)).taken  # one alone may be of any size
    assert not desk.leave_word(letter("b", 2)).taken
    desk.collect()
    assert desk.leave_word(letter("b", 2)).taken


def test_songs_end_when_nobody_has_fetched_anything_for_long_and_go_on_when_somebody_does_again() -> None:
    now = [0.0]
    desk = Desk(clock=lambda: now[0])
    desk.send("a", 1)
    for hear in (desk.collect, desk.be_patient):
        hear()
        now[0] += ALONE_S
        assert desk.leave_word(Letter("a", 1)) == Reply(taken=True)
        now[0] += 1.0
        with pytest.raises(ConnectionError, match="301 s"):
            desk.leave_word(Letter("a", 1))
    desk.collect()
    desk.send("a", 2)
    assert desk.leave_word(Letter("a", 2)) == Reply(taken=True)


def test_one_song_is_stopped_or_all_of_them(desk: Desk) -> None:
    desk.stop("a")
    assert [desk.leave_word(Letter(song, errand)).stop for song, errand in (("a", 1), ("b", 2))] == [
        "song",
        "",
    ]
    desk.stop_all(hurry=False)
    assert desk.leave_word(Letter("b", 2)) == Reply(taken=True, stop="batch")
    desk.stop_all(hurry=True)
    assert desk.leave_word(Letter("b", 2)) == Reply(taken=True, stop="batch", hurry=True)


def test_a_wish_that_was_fulfilled_does_not_meet_the_songs_next_errand(desk: Desk) -> None:
    desk.stop("a")
    desk.send("a", 9)
    assert desk.leave_word(Letter("a", 9)).stop == ""


def test_a_node_that_ran_out_of_memory_gets_fewer_songs_and_the_others_as_many(desk: Desk) -> None:
    assert enter(desk, "n", "a") == enter(desk, "n", "b") == ""
    desk.ran_out("n", 0.0)
    desk.leave("n", "b", 2)
    assert "1 at once, since memory ran out" in enter(desk, "n", "b")
    assert enter(desk, "m", "c") == ""


def test_a_song_that_came_back_or_died_makes_room(desk: Desk) -> None:
    assert enter(desk, "n", "a") == enter(desk, "n", "b") == ""
    desk.ran_out("n", 0.0)
    for song in ("a", "b"):
        desk.back(song)
    assert desk.is_empty("n")
    desk.send("c", 4)
    assert enter(desk, "n", "c", errand=4) == ""


def test_a_stray_changes_nothing_of_the_song_that_is_made_in_its_place(desk: Desk) -> None:
    desk.send("a", 7)
    assert enter(desk, "n", "a", errand=7) == ""
    desk.leave("n", "a", 1)
    assert not desk.uses("n", "a", 1, 9)
    assert "another errand" in enter(desk, "n", "a", errand=1)
    assert desk.uses("n", "a", 7, 5)


def test_the_heaviest_is_so_on_its_own_node(desk: Desk) -> None:
    for node, song in (("n", "a"), ("n", "b"), ("m", "c")):
        enter(desk, node, song)
    assert [desk.uses("n", "a", 1, 5), desk.uses("n", "b", 2, 3), desk.uses("m", "c", 3, 1)] == [
        True,
        False,
        True,
    ]
    desk.back("b")
    assert not desk.uses("n", "b", 2, 9)  # of one that was given up for dead nothing is noted


def test_a_bundle_is_read_out_piece_by_piece_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/a.bin").write_bytes(b"0123456789")
    (tmp_path / "secret").write_bytes(b"secret")
    desk = Desk({"hash": str(tmp_path / "bundle")})
    assert [desk.read("hash", "a.bin", start, 4) for start in (0, 4, 8, 12)] == [b"0123", b"4567", b"89", b""]
    assert desk.read("other", "a.bin", 0, 4) is None
    assert desk.read("hash", "../secret", 0, 4) is None
    assert desk.read("hash", "missing", 0, 4) is None
