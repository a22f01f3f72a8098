"""Several processes of a run: what they tell each other, how they stop together, and what they do when one is lost."""

import asyncio
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from aflow_jax import processes
from aflow_jax.config.sections import DistributedSettings
from aflow_jax.errors import UserError
from aflow_jax.llm import BudgetExhausted
from aflow_jax.processes import Group, Processes, join_processes


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes whose loss would have ended this one."""
    found: list[int] = []
    monkeypatch.setattr(processes, "end_for_lost_peer", found.append)
    return found


@pytest.fixture
def pair(lost: list[int]) -> Iterator[tuple[Group, Group]]:
    here, there = Pipe()
    first, second = Group(0, 2, {1: here}), Group(1, 2, {0: there})
    yield first, second
    with first, second:
        pass


async def results(value: object) -> object:
    return value


async def raises(error: BaseException) -> object:
    raise error


async def both(pair: tuple[Group, Group], *works: object) -> list[object]:
    shares = [process.share(work) for process, work in zip(pair, works, strict=True)]
    return await asyncio.gather(*shares, return_exceptions=True)


def test_all_have_the_results_of_all_in_order(pair: tuple[Group, Group]) -> None:
    outcome = asyncio.run(both(pair, results({"a": 0.1}), results([1, None])))
    assert outcome == [[{"a": 0.1}, [1, None]]] * 2


def test_problems_are_divided_and_none_is_left_out(pair: tuple[Group, Group]) -> None:
    assert [[process.owns(position) for process in pair].count(True) for position in range(5)] == [1] * 5
    assert all(Processes().owns(position) for position in range(5))


@pytest.mark.parametrize("error", [UserError("the key is refused"), BudgetExhausted("budget.calls: 3 are spent")])
def test_what_stops_one_stops_all_and_says_which(pair: tuple[Group, Group], error: UserError) -> None:
    first, second = asyncio.run(both(pair, results(1), raises(error)))
    assert type(first) is type(second) is type(error)
    assert str(first) == f"process 1: {error}"
    assert str(second) == str(error)


def test_ctrl_c_in_one_cancels_all(pair: tuple[Group, Group]) -> None:
    outcome = asyncio.run(both(pair, results(1), raises(asyncio.CancelledError())))
    assert all(isinstance(one, asyncio.CancelledError) for one in outcome)


def test_one_that_is_cancelled_while_it_waits_stops_with_the_others_at_the_next_exchange(
    pair: tuple[Group, Group],
) -> None:
    async def scenario() -> tuple[object, list[object]]:
        waiting = asyncio.ensure_future(pair[0].share(results(1)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.sleep(0.05)
        second = await pair[1].share(results(2))
        # The second one counts on the first one's result, and has it.
        return (await waiting, second), await both(pair, results(3), results(4))

    before, after = asyncio.run(scenario())
    assert before == ([1, 2], [1, 2])
    assert all(isinstance(one, asyncio.CancelledError) for one in after)


def test_a_flag_of_one_is_a_flag_of_all(pair: tuple[Group, Group]) -> None:
    for flags, expected in (((False, False), False), ((False, True), True), ((True, False), True)):
        found: list[bool] = []
        other = threading.Thread(target=lambda flag=flags[1], into=found: into.append(pair[1].any(flag)))
        other.start()
        found.append(pair[0].any(flags[0]))
        other.join()
        assert found == [expected] * 2


def test_processes_with_other_problems_are_told(pair: tuple[Group, Group]) -> None:
    async def differing() -> list[object]:
        agreements = [process.agree_on("the problems", at) for at, process in enumerate(pair)]
        return await asyncio.gather(*agreements, return_exceptions=True)

    assert [str(one) for one in asyncio.run(differing())] == [
        "distributed: the processes differ in the problems: give all the same settings and files"
    ] * 2


def test_a_broken_connection_is_a_lost_process_and_a_farewell_is_none(lost: list[int]) -> None:
    here, there = Pipe()
    first = Group(0, 2, {1: here})
    there.close()
    wait_for(lambda: lost == [1])
    with first:
        pass
    here, there = Pipe()
    there.send_bytes(b"farewell")
    with Group(0, 2, {1: here}):
        pass
    assert there.recv_bytes() == b"farewell"
    assert lost == [1]


def test_a_process_that_alone_cannot_go_on_leaves_without_farewell(lost: list[int]) -> None:
    here, there = Pipe()
    first = Group(1, 2, {0: there})
    with pytest.raises(UserError), first:
        raise UserError("no such file")
    with pytest.raises(EOFError):
        _drained(here)
    assert lost == []


def test_a_run_without_settings_of_several_is_one_process() -> None:
    alone = join_processes(None)
    assert (alone.index, alone.count, alone.is_first, alone.any(True)) == (0, 1, True, True)
    assert asyncio.run(alone.share(results(5))) == [5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coordinator": "host:1", "processes": 2}, "give all of coordinator, processes and process"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "process 2 is not below processes 2"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "match pattern"),
    ],
)
def test_settings_that_make_no_job_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistributedSettings(**values)


def wait_for(condition: object) -> None:
    for _ in range(100):
        if condition():
            return
        threading.Event().wait(0.05)
    raise AssertionError("it did not come about")


def _drained(connection: Connection) -> None:
    while True:
        connection.recv_bytes()
