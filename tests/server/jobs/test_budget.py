"""Budgets that threads share."""

import threading
from concurrent.futures import ThreadPoolExecutor

from server.jobs.budget import Budget


def test_threads_hold_no_more_than_the_budget() -> None:
    budget, lock = Budget(10), threading.Lock()
    held = most = 0

    def work(amount: int) -> None:
        nonlocal held, most
        with budget.reserve_later() as reserve:
            reserve(amount)
            with lock:
                held += amount
                most = max(most, held)
            threading.Event().wait(0.001)
            with lock:
                held -= amount

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, number % 5 + 1) for number in range(200)]:
            future.result()
    assert most <= 10


def test_an_amount_over_the_budget_waits_for_all_of_it() -> None:
    budget, ended = Budget(10), threading.Event()

    def reserve_too_much() -> None:
        with budget.reserve(11):
            ended.set()

    with budget.reserve(1):
        thread = threading.Thread(target=reserve_too_much)
        thread.start()
        assert not ended.wait(0.05)
    assert ended.wait(10)
    thread.join()


def test_nothing_is_reserved_by_who_does_not_ask() -> None:
    budget = Budget(1)
    with budget.reserve_later(), budget.reserve(1):
        pass
