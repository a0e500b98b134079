"""Surveys in a supervisor, without one: who is asked, who is waited for, and what is told in the end."""

from __future__ import annotations

from typing import Any

from penstock import surveys
from penstock.supervisor.channel import Channel
from penstock.surveys import MAX_WAITING, PATIENCE_S, Surveys

QUERY = "sort=oldest&rows=2"


class Workers:
    """Takes note of what is asked of them; they never answer by themselves."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.asked: list[tuple[int, list[str]]] = []
        self.told: list[dict[str, Any]] = []
        self.surveys = Surveys(self._send)

    def _send(self, query: str, number: int, but: set[str]) -> list[str]:
        self.asked.append((number, [name for name in self.names if name not in but]))
        return self.asked[-1][1]

    def ask(self) -> bool:
        return self.surveys.ask(QUERY, self.told.append)

    def answer(self, worker: str, number: int, *ranks: int) -> None:
        rows = [{"rank": rank, "peer": f"{worker}:{rank}"} for rank in ranks]
        self.surveys.heard(worker, number, {"pid": 1, "open": 10, "matched": len(rows), "rows": rows})

    def let_time_pass(self) -> None:
        assert self.surveys.deadline_s is not None
        self.surveys.look(self.surveys.deadline_s)


def test_the_first_of_all_workers_are_told_in_order_once_all_have_answered():
    workers = Workers("0", "1")
    assert workers.ask()
    workers.answer("1", 1, 5, 1)
    assert workers.told == []
    workers.answer("0", 1, 9, 3)
    (told,) = workers.told
    assert [each["peer"] for each in told["connections"]] == ["0:9", "1:5"]
    assert (told["open"], told["matched"], told["unanswered"]) == (20, 4, [])
    assert workers.surveys.deadline_s is None


def test_one_is_under_way_at_a_time_and_too_many_are_refused():
    workers = Workers("0")
    assert all(workers.ask() for _ in range(1 + MAX_WAITING))
    assert not workers.ask()
    assert len(workers.asked) == 1
    for number in range(1, 2 + MAX_WAITING):
        workers.answer("0", number)
    assert len(workers.told) == 1 + MAX_WAITING
    assert workers.ask()


def test_who_does_not_answer_in_time_is_named_and_not_asked_until_it_has():
    workers = Workers("0", "1")
    workers.ask()
    workers.answer("1", 1)
    assert workers.surveys.deadline_s is not None
    workers.surveys.look(workers.surveys.deadline_s - PATIENCE_S / 2)
    assert workers.told == []
    workers.let_time_pass()
    assert workers.told[-1]["unanswered"] == ["0"]
    workers.ask()
    assert workers.asked[-1] == (2, ["1"])
    workers.answer("0", 1, 7)  # At last, and too late for anybody.
    workers.answer("1", 2)
    assert (workers.told[-1]["unanswered"], workers.told[-1]["connections"]) == (["0"], [])
    workers.ask()
    assert workers.asked[-1] == (3, ["0", "1"])


def test_a_worker_that_dies_is_not_waited_for_and_its_successor_owes_nothing():
    workers = Workers("0")
    workers.ask()
    workers.surveys.gone("0")
    assert workers.told[-1]["unanswered"] == ["0"]
    workers.ask()
    assert workers.asked[-1] == (2, ["0"])
    workers.answer("0", 2)
    assert workers.told[-1]["unanswered"] == []


def test_without_workers_nothing_is_told_at_once():
    workers = Workers()
    workers.ask()
    assert workers.told == [{"query": QUERY, "open": 0, "matched": 0, "unanswered": [], "connections": []}]


def test_what_a_peer_asks_for_cannot_be_taken_for_markup():
    assert b"<" not in surveys.as_json({"asks": "GET /<script>"})


def test_a_long_message_leaves_in_parts_and_in_order():
    one, other = Channel.pair()
    long = "x" * (1 << 20)
    one.send(survey=long)
    one.send(ready=True)
    assert not one.flush(), "more than the kernel takes"
    received: list[Any] = []
    while len(received) < 2:
        received += other.receive()
        one.flush()
    assert received == [{"survey": long}, {"ready": True}]
    other.close()
    one.send(ready=True)
    assert one.flush(), "nobody is there to take it"
    one.close()
