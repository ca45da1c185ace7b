"""A Django project in one module, with Channels on TopicsLayer: a chat room, and a view."""

# ruff: noqa: E402  # Django wants its settings before most of its modules

from __future__ import annotations

import os
import threading
from typing import Any

import django
from asgiref.sync import async_to_sync
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "asgi_poller.channels.TopicsLayer",
            "CONFIG": {"capacity": 5, "channel_capacity": {"specific.*": 50}},
        }
    },
    DATABASES={},
    ROOT_URLCONF=__name__,
    SECRET_KEY="for tests",
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from asgi_poller.channels import TopicsLayer


def where() -> list[int]:
    """Differs between workers and between loops."""
    return [os.getpid(), threading.get_ident()]


async def where_now() -> list[int]:
    return where()


class AsyncRoom(AsyncJsonWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    async def connect(self) -> None:
        await self.channel_layer.group_add("chat", self.channel_name)
        await self.accept()
        await self.send_json({"where": where(), "channel": self.channel_name})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("chat", self.channel_name)

    async def receive_json(self, content: Any, **_: Any) -> None:
        layer: TopicsLayer = self.channel_layer
        message = {"type": "chat.message", "text": content.get("text", ""), "raw": b"\xff"}
        if "to" in content:
            await layer.send(content["to"], message)
        elif "add" in content:
            await layer.group_add(content["group"], content["add"])
            await self.send_json("added")
        elif "discard" in content:
            await layer.group_discard(content["group"], content["discard"])
            await self.send_json("discarded")
        else:
            await layer.group_send(content.get("group", "chat"), message)

    async def chat_message(self, event: Any) -> None:
        assert event["raw"] == b"\xff"
        await self.send_json({"text": event["text"]})


class SyncRoom(JsonWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    groups = ("chat",)

    def connect(self) -> None:
        self.accept()
        # its methods run in other threads; this one on its loop
        self.send_json({"where": async_to_sync(where_now)(), "channel": self.channel_name})

    def receive_json(self, content: Any, **_: Any) -> None:
        message = {"type": "chat.message", "text": content["text"], "raw": b"\xff"}
        async_to_sync(self.channel_layer.group_send)("chat", message)

    def chat_message(self, event: Any) -> None:
        self.send_json({"text": event["text"]})


def say(request: HttpRequest) -> HttpResponse:
    """A view that is no coroutine: in a thread."""
    message = {"type": "chat.message", "text": request.GET["text"], "raw": b"\xff"}
    async_to_sync(get_channel_layer().group_send)("chat", message)
    return HttpResponse("said")


urlpatterns = [path("say", say)]

app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter(
            [path("async", AsyncRoom.as_asgi()), path("sync", SyncRoom.as_asgi())]
        ),
    }
)
