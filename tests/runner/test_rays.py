"""What we ask of Ray, without Ray: what of a cluster's machines a song asks for, and how errors are told."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from runner.admission import Need
from runner.errors import ClusterError
from runner.rays import Ray, _enter, could_be_had, joined, places, share


class RayError(Exception):
    """As Ray's: of a machine that died, or of a task that raised."""

    def __init__(self, cause: Exception | None = None) -> None:
        self.cause = cause


GB = 10**9


def machine(cores: int, memory: int = 0, gpus: int = 0) -> dict[str, float]:
    return {"CPU": float(cores), "memory": float(memory), "GPU": float(gpus)}


@pytest.mark.parametrize(
    ("threads", "need", "machines", "wanted"),
    [
        (4, Need(), [machine(2), machine(8)], machine(4)),
        (16, Need(), [machine(2), machine(8)], machine(8)),
        (16, Need(), [], machine(16)),
        (8, Need(4 * GB), [machine(2, 6 * GB), machine(8, 2 * GB)], machine(2, 4 * GB)),
        (8, Need(9 * GB), [machine(2, 6 * GB), machine(8, 2 * GB)], machine(2, 6 * GB)),
        (8, Need(4 * GB, gpus=1), [machine(16, 9 * GB), machine(2, 2 * GB, 1)], machine(2, 2 * GB, 1)),
        (8, Need(gpus=2), [machine(8), machine(4, gpus=1), machine(4, gpus=1)], machine(8)),
        (8, Need(gpus=1), [machine(8), {"CPU": 4.0}], machine(8)),
    ],
)
def test_a_song_asks_for_no_more_than_one_machine_has(
    threads: int, need: Need, machines: list[dict[str, float]], wanted: dict[str, float]
) -> None:
    asked = share(machines, threads, need)
    assert asked == wanted
    assert could_be_had(machines, asked)


def test_what_only_a_dead_machine_had_could_not_be_had_any_more() -> None:
    assert not could_be_had([machine(8)], machine(8, gpus=1))
    assert not could_be_had([machine(8, GB), machine(4, 9 * GB)], machine(8, 9 * GB))
    assert could_be_had([], machine(8))  # no machine is left: one may come back


@pytest.mark.parametrize(
    ("threads", "gpus", "count"),
    [(4, 0, 5), (4, 1, 3), (1, 1, 3), (4, 2, 1), (4, 4, 5), (99, 1, 1), (99, 0, 2)],
)
def test_places_are_counted_where_the_gpus_are(threads: int, gpus: int, count: int) -> None:
    assert places([machine(8), machine(8, gpus=2), machine(4, gpus=1)], threads, gpus) == count


def ray(*machines: dict[str, float]) -> tuple[Ray, list[dict[str, Any]]]:
    """A cluster of such machines, and what was asked of it for each task."""
    asked: list[dict[str, Any]] = []

    def options(**given: Any) -> Any:
        asked.append(given)
        return SimpleNamespace(remote=lambda *words: None)

    module = SimpleNamespace(
        nodes=lambda: [
            {"Alive": True, "NodeID": str(number), "Resources": each} for number, each in enumerate(machines)
        ],
        remote=lambda function: SimpleNamespace(options=options),
        exceptions=SimpleNamespace(RayError=RayError),
    )
    return Ray(module), asked


def test_a_head_without_cores_is_no_machine_for_songs() -> None:
    cluster, asked = ray(machine(0, 9 * GB, gpus=8), machine(4, GB))
    assert cluster.machines() == [machine(4, GB)]
    cluster.send(None, None, share(cluster.machines(), 8, Need(GB, gpus=1)), ())  # type: ignore[arg-type]
    assert asked == [{"num_cpus": 4, "num_gpus": 0, "memory": GB, "max_retries": 0, "label_selector": None}]


def test_a_machine_that_is_avoided_is_not_counted_on() -> None:
    cluster, asked = ray(machine(8), machine(4), machine(2))
    assert cluster.machines(without={"0", "2"}) == [machine(4)]
    cluster.send(None, None, machine(4), {"2", "0"})  # type: ignore[arg-type]
    assert asked[0]["label_selector"] == {"ray.io/node-id": "!in(0,2)"}


def test_what_a_machine_without_the_runner_raises_is_told_in_words() -> None:
    cluster, _ = ray()
    told = cluster.cause(RayError(RuntimeError("cannot import: No module named 'runner'")))
    assert isinstance(told, ClusterError)


def test_an_error_of_our_own_code_there_is_none_of_the_machine() -> None:
    cluster, _ = ray()
    broken = KeyError("x")
    assert cluster.cause(RayError(broken)) is broken
    assert cluster.cause(RayError()) is None
    assert cluster.cause(RayError(RayError())) is None  # there, it lost the desk


def test_where_the_client_lacks_what_it_needs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "")
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "grpc", None)
    with (
        pytest.raises(ClusterError, match=r"not installed \(.*grpc.*\); install .* `cluster`"),
        joined("ray://a:1"),
    ):
        pass


@pytest.mark.parametrize(("failures", "is_in"), [(0, True), (2, True), (3, False)])
def test_a_client_that_is_not_let_in_by_chance_asks_again(failures: int, is_in: bool) -> None:
    left = [ConnectionAbortedError("Initialization failure from server")] * failures

    def init(**_: Any) -> None:
        if left:
            raise left.pop()

    with nullcontext() if is_in else pytest.raises(ConnectionAbortedError):
        _enter(SimpleNamespace(init=init), address="ray://a:1")
