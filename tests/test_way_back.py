"""Answers of other threads reach the loop that waits: all of them, in few wake-ups."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from searchpipe.way_back import WayBack


def test_every_answer_comes_whatever_the_threads_do() -> None:
    async def main() -> list[int]:
        way: WayBack[int] = WayBack(asyncio.get_running_loop())
        futures: list[Future[int]] = [Future() for _ in range(400)]
        waiters = [way.expect(future) for future in futures]
        with ThreadPoolExecutor(4) as pool:
            for number, future in enumerate(futures):
                pool.submit(future.set_result, number)
            return await asyncio.wait_for(asyncio.gather(*waiters), 30)

    assert asyncio.run(main()) == list(range(400))


def test_what_ended_while_the_loop_was_busy_costs_one_wake_up() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        way: WayBack[int] = WayBack(loop)
        wake, woken = loop.call_soon_threadsafe, 0

        def counted(*args: object) -> object:
            nonlocal woken
            woken += 1
            return wake(*args)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = counted  # type: ignore[assignment, method-assign]
        futures: list[Future[int]] = [Future() for _ in range(50)]
        waiters = [way.expect(future) for future in futures]
        ending = threading.Thread(target=lambda: [future.set_result(1) for future in futures])
        ending.start()
        ending.join()  # the loop is busy meanwhile
        await asyncio.gather(*waiters)
        return woken

    assert asyncio.run(main()) == 1


def test_errors_and_cancellations_come_as_they_are() -> None:
    async def main() -> None:
        way: WayBack[int] = WayBack(asyncio.get_running_loop())
        failed, odd, cancelled, left = [Future[int]() for _ in range(4)]
        waiters = [way.expect(future) for future in (failed, odd, cancelled, left)]
        waiters[3].cancel()
        failed.set_exception(ZeroDivisionError())
        odd.set_exception(StopIteration())
        cancelled.cancel()
        left.set_result(1)
        with pytest.raises(ZeroDivisionError):
            await waiters[0]
        with pytest.raises(RuntimeError, match="StopIteration"):
            await waiters[1]
        with pytest.raises(asyncio.CancelledError):
            await waiters[2]
        assert left.result() == 1

    asyncio.run(main())


def test_a_loop_that_is_gone_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Future[int]:
        future: Future[int] = Future()
        WayBack[int](asyncio.get_running_loop()).expect(future)
        return future

    future = asyncio.run(main())
    future.set_result(1)
    assert not caplog.records
