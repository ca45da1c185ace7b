"""Bytes to protocol and back: no sockets, no event loop, no clock."""
