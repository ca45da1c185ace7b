"""Readers in the application: server-sent events to a real client, slow ones, other loops."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asgi_poller import topics
from tests.support.server import Site, serving
from tests.support.waiting import DEADLINE_S, run, wait_until


async def events(request: Request) -> Response:
    """Server-sent events of ?topic=, from Last-Event-ID on."""
    names = request.query_params.getlist("topic")

    async def stream() -> AsyncIterator[ServerSentEvent]:
        since = request.headers.get("last-event-id")
        async with topics.reading(*names, since=since) as messages:
            first = messages.subscribed[names[0]]
            complete = "complete" if messages.is_complete else "incomplete"
            yield ServerSentEvent(event=complete, id=first.id, data="")
            async for message in messages:
                yield ServerSentEvent(event=message.topic, id=message.id, data=str(message.data))

    return EventSourceResponse(stream())


async def publish(request: Request) -> Response:
    return Response(await topics.publish(request.query_params["topic"], text=await _text(request)))


async def _text(request: Request) -> str:
    return (await request.body()).decode()


async def count(request: Request) -> Response:
    return JSONResponse((await topics.subscribers(request.query_params["topic"])).here)


async def slow(request: Request) -> Response:
    """A reader that reads nothing of what is published to it, and then all that is left."""
    size = 10_000
    got: list[tuple[int, int]] = []
    async with topics.reading("slow", slow=request.query_params["slow"]) as messages:
        for number in range(400):  # 4 MB: four times what is kept
            await topics.publish("slow", json=[number, "x" * size])
        try:
            async for message in messages:
                got.append((message.json()[0], message.lost))
                if got[-1][0] == 399:
                    break
        except topics.FellBehind as error:
            return JSONResponse({"error": str(error), "got": got})
    return JSONResponse({"got": got})


async def beside(request: Request) -> Response:
    """A reader that is closed, and one that is late, beside one that reads all."""
    got: list[int] = []
    async with (
        topics.reading("beside", slow="close") as closed,
        topics.reading("beside") as late,
        topics.reading("beside") as awake,
    ):
        for number in range(400):
            await topics.publish("beside", json=[number, "x" * 10_000])
            if number % 50 == 49:
                await anext(late)  # what it lacks is written between a publication and the others
            got.append((await anext(awake)).json()[0])
        with contextlib.suppress(topics.FellBehind):
            async for _ in closed:
                pass
    return JSONResponse(got)


async def polling(request: Request) -> Response:
    """A thread with a loop of its own reads with timeouts; nothing is lost by them."""
    ready = threading.Event()
    got: list[str | bytes] = []

    async def read() -> None:
        async with topics.reading("a", "b") as messages:
            ready.set()
            while len(got) < 1000:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        got.append((await anext(messages)).data)
                await asyncio.sleep(0)

    thread = threading.Thread(target=run, args=(read(),))
    thread.start()
    await asyncio.to_thread(ready.wait, DEADLINE_S)
    for number in range(1000):
        await topics.publish("ab"[number % 2], text=str(number))
        if number % 50 == 0:
            await asyncio.sleep(0.001)
    await asyncio.to_thread(thread.join, DEADLINE_S)
    left = (await topics.subscribers("a")).here
    return JSONResponse({"got": got, "left": left})


async def forms(request: Request) -> Response:
    async with topics.reading("forms") as messages:
        await topics.publish("forms", text="[1]")
        await topics.publish("forms", bytes=b"[2]")
        await topics.publish("forms", json=[3])
        got = [await anext(messages) for _ in range(3)]
    return JSONResponse([[m.form, type(m.data).__name__, m.json()] for m in got])


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/publish", publish, methods=["POST"]),
        Route("/count", count),
        Route("/slow", slow),
        Route("/beside", beside),
        Route("/polling", polling),
        Route("/forms", forms),
    ]
)


@pytest.fixture(params=[1, 2], ids=["loop", "loops"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(app, loops=request.param, topics_history="100,60s") as site:
        yield site


def asked(site: Site, path: str) -> Any:
    answer = httpx.get(site.url(path), timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def published(site: Site, text: str, topic: str = "a") -> str:
    answer = httpx.post(site.url(f"/publish?topic={topic}"), content=text, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    return answer.text


@contextlib.contextmanager
def listening(
    site: Site, query: str = "topic=a", since: str | None = None
) -> Iterator[Iterator[dict[str, str]]]:
    """The events of a client."""
    headers = {} if since is None else {"Last-Event-ID": since}
    with httpx.Client(timeout=DEADLINE_S) as client:
        with client.stream("GET", site.url(f"/events?{query}"), headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            yield parsed(response.iter_lines())


def parsed(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}


@pytest.mark.long
def test_server_sent_events_resume_where_they_stopped(site: Site) -> None:
    with listening(site) as events, listening(site) as others:
        greeting = next(events)
        assert greeting["event"] == next(others)["event"] == "complete"
        for text in ("one", "two"):
            identity = published(site, text)
            for each in (events, others):
                assert next(each) == {"event": "a", "id": identity, "data": text}
    wait_until(lambda: asked(site, "/count?topic=a") == 0)  # it ends with its client
    for number in range(50):
        last = published(site, str(number))
    with listening(site, since=identity) as events:
        assert next(events)["event"] == "complete"
        got = [next(events) for _ in range(50)]
        assert [each["data"] for each in got] == [str(number) for number in range(50)]
        assert got[-1]["id"] == last
        published(site, "now")
        assert next(events)["data"] == "now"
    for _ in range(101):
        published(site, "more than is kept")
    with listening(site, since=identity) as events:
        assert next(events)["event"] == "incomplete"
        published(site, "what is new comes")
        assert next(events)["data"] == "what is new comes"


def test_several_topics_are_read_at_once(site: Site) -> None:
    with listening(site, "topic=a&topic=b") as events:
        next(events)
        for topic in ("a", "b", "a"):
            published(site, f"for {topic}", topic)
            event = next(events)
            assert (event["event"], event["data"]) == (topic, f"for {topic}")


def test_a_slow_reader_is_told_how_many_it_lost(site: Site) -> None:
    got = asked(site, "/slow?slow=drop")["got"]
    expected = 0
    for number, lost in got:
        expected += lost
        assert number == expected
        expected += 1
    assert got[-1][0] == 399
    assert sum(lost for _, lost in got) > 200


def test_or_ends_if_it_wants_to(site: Site) -> None:
    told = asked(site, "/slow?slow=close")
    assert "not read" in told["error"]
    assert all(lost == 0 for _, lost in told["got"])  # what had come for it is whole


def test_who_reads_loses_nothing_by_others_that_do_not(site: Site) -> None:
    assert asked(site, "/beside") == list(range(400))


def test_a_loop_of_another_thread_reads_without_a_loss(site: Site) -> None:
    told = asked(site, "/polling")
    numbers = list(map(int, told["got"]))
    assert [n for n in numbers if n % 2 == 0] == list(range(0, 1000, 2))
    assert [n for n in numbers if n % 2] == list(range(1, 1000, 2))


def test_messages_know_their_form(site: Site) -> None:
    assert asked(site, "/forms") == [
        ["text", "str", [1]],
        ["bytes", "bytes", [2]],
        ["json", "str", [3]],
    ]


def test_readers_end_when_the_server_begins_to_stop() -> None:
    """Else each stream would hold up a restart; its client comes back with its last id."""
    with serving(app, timeout_graceful_shutdown=DEADLINE_S) as site:
        with listening(site) as events:
            next(events)
            published(site, "last")
            assert next(events)["data"] == "last"
            site.server.should_exit = True
            assert list(events) == []  # and the response is whole: httpx complains otherwise
        site.wait_ended()


async def test_what_cannot_be_read_is_said_at_once() -> None:
    with pytest.raises(ValueError, match="wants a topic"):
        topics.reading()
    with pytest.raises(ValueError, match="several topics"):
        topics.reading("a", "b", since="1")
    with pytest.raises(RuntimeError, match="async with"):
        await anext(topics.reading("a"))
    assert topics.Message("t", "1", "text", '{"a": 1}').json()
