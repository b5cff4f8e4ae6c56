"""Who may begin beside whom, over tables and at random; no song is ever kept out for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.admission import (
    CALM_S,
    DISK_RESERVE,
    MARGIN,
    MEMORY_RESERVE,
    Free,
    Guest,
    Need,
    Places,
    Room,
    calmed,
    disk_bytes,
    lowered,
    obstacle,
    private_bytes,
    side_by_side,
)
from runner.foresight import Decoder, Shown

GB = 10**9
SONG = Need(private=3 * GB, model="m", disk=30 * 10**6)
PLENTY = Free(memory=100 * GB, disk=100 * GB)
ANY, ALONE = Need(), Need(alone=True)


def kind(
    need: Need = SONG, others: list[Guest] | None = None, free: Free = PLENTY, places: int = 9
) -> str | None:
    found = obstacle(need, others or [], free, places)
    return found.kind if found else None


# ---------------------------------------------------------------- memory


def test_a_song_begins_where_its_memory_is_free_beside_a_reserve_and_not_where_it_is_not() -> None:
    just = SONG.private + MEMORY_RESERVE
    assert kind(free=Free(memory=just)) is None
    assert kind(free=Free(memory=just - 1)) == "memory"


def test_what_the_others_have_not_taken_yet_is_kept_for_them() -> None:
    free = Free(memory=SONG.private + MEMORY_RESERVE + 2 * GB)
    assert kind(others=[Guest(SONG, had=0)], free=free) == "memory"
    assert kind(others=[Guest(SONG, had=1 * GB)], free=free) is None
    # One that has more than was foreseen takes nothing from what is free now.
    assert kind(others=[Guest(SONG, had=9 * GB)], free=free) is None


def test_files_that_songs_of_one_model_share_count_once() -> None:
    mapped = Need(private=1 * GB, mapped=4 * GB, model="m")
    other = Need(private=1 * GB, mapped=4 * GB, model="another")
    free = Free(memory=2 * GB + 4 * GB + MEMORY_RESERVE)
    assert kind(mapped, [Guest(mapped)], free) is None
    assert kind(mapped, [Guest(other)], free) == "memory"


def test_in_a_container_songs_together_have_no_more_than_it_lets_them() -> None:
    free = Free(memory=100 * GB, for_songs=6 * GB)
    assert kind(others=[Guest(SONG, had=SONG.private)], free=free) is None
    assert (
        kind(others=[Guest(SONG, had=SONG.private)], free=Free(memory=100 * GB, for_songs=5 * GB)) == "memory"
    )
    assert kind(free=Free(memory=100 * GB, for_songs=1 * GB)) is None  # alone, it is tried


def test_the_heaviest_is_the_one_that_has_the_most_now_and_always_only_one() -> None:
    room = Room()
    for song in "abc":
        assert enter(room, song)
    room.uses("a", 5)
    room.uses("b", 7)
    room.uses("b", 3)
    assert [song for song in "abc" if room.is_heaviest(song)] == ["a"]
    room.uses("b", 5)
    assert sum(room.is_heaviest(song) for song in "abc") == 1


def test_memory_that_no_end_of_others_would_bring_is_not_waited_for() -> None:
    large = Need(private=7 * GB)
    assert kind(large, free=Free(memory=6 * GB, for_songs=7 * GB)) is None
    assert kind(large, free=Free(memory=6 * GB, for_songs=8 * GB)) == "memory"
    assert kind(large, [Guest(SONG)], Free(memory=6 * GB, for_songs=7 * GB)) == "memory"


def test_one_model_in_two_arithmetics_is_mapped_once_and_whole() -> None:
    packed, mapped = Need(1 * GB, 0, "m"), Need(1 * GB, 4 * GB, "m")
    free = Free(memory=6 * GB)
    assert kind(packed, [Guest(mapped, had=1 * GB)], free) is None
    assert kind(packed, [Guest(mapped, had=1 * GB)], Free(memory=5 * GB)) == "memory"
    assert kind(mapped, [Guest(packed, had=1 * GB)], Free(memory=5 * GB)) == "memory"


def test_what_cannot_be_told_keeps_nobody_out() -> None:
    assert kind(free=Free()) is None


def test_the_words_say_how_much_is_needed_and_how_much_there_is() -> None:
    found = obstacle(SONG, [], Free(memory=2 * GB), 1)
    assert found is not None
    assert found.words == "waits for memory: 3.5 GB needed, 2.0 GB free"


# ---------------------------------------------------------------- disk


def test_a_song_begins_where_its_files_and_the_others_have_room() -> None:
    just = 2 * SONG.disk + DISK_RESERVE
    assert kind(others=[Guest(SONG)], free=Free(disk=just)) is None
    assert kind(others=[Guest(SONG)], free=Free(disk=just - 1)) == "disk"


def test_a_song_of_95_seconds_is_reckoned_with_its_sound_and_checkpoints() -> None:
    sound, checkpoints = 95 * 44_100 * 2 * 4, 2 * 3 * 2048 * 64 * 4
    assert sound + checkpoints < disk_bytes(95) < 1.2 * (sound + checkpoints)


# ---------------------------------------------------------------- prediction


def shown(private: int | None, duration: float = 95.0, precision: str = "bf16", model: str = "m") -> Shown:
    return Shown(model, precision, duration, Decoder(1.0, 1.0), private)


def foreseen(songs: list[Shown], duration: float = 95.0) -> int:
    return private_bytes(songs, model_hash="m", precision="bf16", duration=duration, foreseen=4 * GB)


def test_memory_is_foreseen_by_sizes_until_a_song_has_shown_it() -> None:
    assert foreseen([]) == 4 * GB
    assert foreseen([shown(None), shown(1 * GB, precision="fp32"), shown(1 * GB, model="x")]) == 4 * GB
    assert foreseen([shown(1 * GB), shown(3 * GB)]) == pytest.approx(MARGIN * 3 * GB)


def test_a_longer_song_than_any_before_needs_more_and_a_shorter_one_not_less() -> None:
    songs = [shown(3 * GB, duration=95.0)]
    assert foreseen(songs, 100.0) == pytest.approx(MARGIN * 3 * GB * 100 / 95)
    assert foreseen(songs, 30.0) == pytest.approx(MARGIN * 3 * GB)


def test_not_all_memory_grows_with_a_song_so_sizes_bound_what_a_short_one_tells_of_long_ones() -> None:
    assert foreseen([shown(2 * GB, duration=10.0)], 285.0) == pytest.approx(MARGIN * 4 * GB)
    assert foreseen([shown(5 * GB, duration=95.0)], 285.0) == pytest.approx(MARGIN * 5 * GB)


@pytest.mark.parametrize(
    ("memory", "count"), [(0, 1), (3 * GB, 1), (7 * GB, 2), (9.9 * GB, 3), (99 * GB, 4), (None, 4)]
)
def test_as_many_songs_at_once_as_memory_holds_whichever_they_are(memory: float | None, count: int) -> None:
    needs = [Need(private=private * GB, model="m") for private in (1, 2, 3, 3, 3)]
    assert side_by_side(needs, Free(None if memory is None else int(memory)), most=4) == count


def test_no_more_places_than_songs_and_one_without_any() -> None:
    assert side_by_side([SONG, SONG], PLENTY, most=9) == 2
    assert side_by_side([], PLENTY, most=9) == 1


# ---------------------------------------------------------------- the GPU


@pytest.mark.parametrize(
    ("gpus", "others", "gpu", "expected"),
    [
        (1, [0, 1], True, "waits for the GPU"),
        (1, [0, 0], True, None),
        (0, [1], True, None),
        (8, [], True, None),  # its engine will say what it lacks
        (1, [1], False, None),  # it is made without
    ],
)
def test_two_songs_do_not_share_the_gpu_where_there_is_one(
    gpus: int, others: list[int], gpu: bool, expected: str | None
) -> None:
    found = obstacle(Need(gpus=gpus), [Guest(Need(gpus=each)) for each in others], Free(gpu=gpu), 9)
    assert (found and found.words) == expected


def test_songs_that_are_made_on_the_gpu_are_foreseen_one_after_the_other() -> None:
    assert side_by_side([Need(gpus=1)] * 4, Free(gpu=True), most=4) == 1
    assert side_by_side([Need(gpus=1)] * 4, Free(), most=4) == 4


# ---------------------------------------------------------------- places


def test_after_a_kill_for_memory_one_fewer_at_once_but_never_none() -> None:
    assert lowered(Places(4, 4), 4, 10.0) == Places(4, 3, 10.0)
    assert lowered(Places(8, 8), 3, 10.0).now == 2  # eight places, but three were too many
    assert lowered(Places(4, 1), 1, 10.0).now == 1


def test_a_place_comes_back_after_each_calm_time_and_not_before() -> None:
    places = lowered(Places(4, 2), 2, 1000.0)
    assert calmed(places, 1000.0 + CALM_S - 1).now == 1
    assert calmed(places, 1000.0 + CALM_S).now == 2
    assert calmed(calmed(places, 1000.0 + CALM_S), 1000.0 + 1.5 * CALM_S).now == 2
    assert calmed(places, 1000.0 + 9 * CALM_S).now == 4


def test_a_song_that_ran_out_alone_says_nothing_of_others() -> None:
    room = Room(8)
    enter(room, "a", ALONE)
    room.ran_out(5.0)
    assert room.places == 8


def test_one_that_has_waited_for_long_is_the_next_and_keeps_nobody_out_once_it_is_in() -> None:
    room, free = Room(), Free(memory=3 * GB + MEMORY_RESERVE)
    large = Need(private=3 * GB)
    assert enter(room, "a", Need(private=1 * GB))
    assert room.enter("large", large, free, 0.0, overdue=True) is not None
    found = room.enter("small", Need(), PLENTY, 0.0)
    assert found is not None
    assert found.words == "waits for one that is the next"
    room.leave("a")
    assert room.enter("large", large, free, 0.0, overdue=True) is None
    assert enter(room, "small")


def test_a_room_that_ran_out_of_memory_takes_fewer_until_it_was_calm() -> None:
    room = Room(3)
    for song in "abc":
        assert room.enter(song, SONG, PLENTY, 0.0) is None
    room.ran_out(5.0)
    room.leave("a")
    found = room.enter("a", SONG, PLENTY, 6.0)
    assert found is not None
    assert found.words == "waits for its turn: 2 at once, since memory ran out"
    assert room.enter("a", SONG, PLENTY, 5.0 + CALM_S) is None


# ---------------------------------------------------------------- the room


def enter(room: Room, song: str, need: Need = ANY) -> bool:
    return room.enter(song, need, PLENTY, 0.0) is None


def test_songs_are_in_the_room_side_by_side() -> None:
    room = Room()
    assert enter(room, "a")
    assert enter(room, "b")


def test_one_that_has_to_be_alone_waits_for_the_others_and_they_for_it() -> None:
    room = Room()
    assert enter(room, "a")
    assert not enter(room, "b", ALONE)
    assert not enter(room, "c")  # else b might wait for ever
    room.leave("a")
    assert not enter(room, "c")
    assert enter(room, "b", ALONE)
    assert not enter(room, "c")
    room.leave("b")
    assert enter(room, "c")


def test_two_that_have_to_be_alone_take_turns() -> None:
    room = Room()
    enter(room, "a")
    assert not enter(room, "b", ALONE)
    assert not enter(room, "c", ALONE)
    room.leave("a")
    assert not enter(room, "c", ALONE)
    assert enter(room, "b", ALONE)
    room.leave("b")
    assert enter(room, "c", ALONE)


def test_one_that_waits_no_longer_keeps_nobody_out() -> None:
    room = Room()
    enter(room, "a")
    assert not enter(room, "b", ALONE)
    room.leave("b")
    assert enter(room, "c")


def test_to_ask_twice_is_to_be_inside_once() -> None:
    room = Room()
    assert enter(room, "a", ALONE)
    assert enter(room, "a", ALONE)
    room.leave("a")
    assert enter(room, "b", ALONE)


def test_a_song_that_leaves_without_having_been_there_changes_nothing() -> None:
    room = Room()
    enter(room, "a", ALONE)
    room.leave("b")
    assert not enter(room, "b")


def test_one_that_is_tired_of_waiting_begins_despite_memory_but_not_despite_the_disk() -> None:
    room = Room()
    assert room.enter("a", SONG, Free(memory=1 * GB), 0.0) is not None
    assert room.enter("a", SONG, Free(memory=1 * GB, disk=1), 0.0, despite_memory=True) is not None
    assert room.enter("a", SONG, Free(memory=1 * GB), 0.0, despite_memory=True) is None
    assert not room.is_empty()


def test_what_a_guest_has_by_now_makes_room_for_the_next() -> None:
    room, free = Room(), Free(memory=SONG.private + MEMORY_RESERVE)
    assert enter(room, "a", SONG)
    assert room.enter("b", SONG, free, 0.0) is not None
    room.uses("a", SONG.private)
    assert room.enter("b", SONG, free, 0.0) is None


@given(
    st.lists(
        st.builds(
            Need,
            private=st.integers(0, 8 * GB),
            mapped=st.integers(0, 5 * GB),
            model=st.sampled_from("mn"),
            alone=st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(9, 30).map(lambda gb: gb * GB),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_every_song_that_fits_alone_begins_at_last_and_together_they_never_need_more_than_there_is(
    needs: list[Need], memory: int, places: int, random: object
) -> None:
    """A machine whose memory is had by those inside; each ends some time after it had all that it needs."""
    room, waiting, inside = Room(places), dict(enumerate(needs)), {}
    fits = {n: need for n, need in waiting.items() if need.private + need.mapped + MEMORY_RESERVE <= memory}
    waiting = dict(fits)
    for _ in range(3 * len(fits) + 1):
        for number, need in list(waiting.items()):
            free = memory - sum(each.private for each in inside.values())
            if room.enter(str(number), need, Free(memory=free), 0.0) is None:
                inside[number] = waiting.pop(number)
                room.uses(str(number), need.private)
        had = sum(n.private for n in inside.values()) + sum(
            {n.model: n.mapped for n in inside.values()}.values()
        )
        assert had <= memory
        assert len(inside) <= places
        if inside:
            ended = random.choice(sorted(inside))  # type: ignore[attr-defined]
            del inside[ended]
            room.leave(str(ended))
    assert not waiting
