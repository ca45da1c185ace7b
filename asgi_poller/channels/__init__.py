"""A channel layer for Django Channels, on the topics of this server."""

from asgi_poller.channels.layer import TopicsLayer

__all__ = ["TopicsLayer"]
