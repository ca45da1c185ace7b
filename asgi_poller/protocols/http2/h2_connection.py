"""The h2 library's connection as the server needs it, and the SETTINGS that the peer gets."""

from __future__ import annotations

from typing import Any, Final

from h2.config import H2Configuration
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from asgi_poller.protocols.http2.frames import (
    DEFAULT_WINDOW_BYTES,
    ENABLE_CONNECT_PROTOCOL,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    settings_frame,
)
from asgi_poller.protocols.http2.h2_tuned import TunedH2
from asgi_poller.protocols.http2.limits import Http2Limits

_UNLIMITED: Final = 2**31 - 1


def made_h2(limits: Http2Limits) -> tuple[TunedH2, bytes]:
    """A connection whose peer is to be sent these bytes, and then what h2 has to send.

    h2 looks at no header fields: it would end the connection for one request that is not valid.
    """
    h2 = TunedH2(
        H2Configuration(
            client_side=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    given: dict[Any, int] = {
        INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
        MAX_HEADER_LIST_SIZE: limits.head.head_bytes,
        ENABLE_CONNECT_PROTOCOL: int(limits.websockets),
    }
    # Beyond its limit h2 would end the connection, and peers that have not heard of our limit yet
    # do nothing wrong: the limit that they are told is looked after in `connection.py`.
    unlimited = {**given, MAX_CONCURRENT_STREAMS: _UNLIMITED}
    h2.local_settings = Settings(
        client=False, initial_values={SettingCodes(code): unlimited[code] for code in unlimited}
    )
    h2.decoder.max_header_list_size = limits.head.head_bytes
    h2.initiate_connection()
    h2.clear_outbound_data_buffer()
    more = limits.connection_window_bytes - DEFAULT_WINDOW_BYTES
    if more > 0:
        h2.increment_flow_control_window(more)
    return h2, settings_frame({MAX_CONCURRENT_STREAMS: limits.stream_count, **given})


def words_of(error: ProtocolError) -> str:
    """What h2 says, if it is more than the number of a stream."""
    words = str(error)
    return words if words and not words.isdigit() else "a frame that is not allowed there"
