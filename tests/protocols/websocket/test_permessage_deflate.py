"""permessage-deflate: what is agreed to, and messages there and back (RFC 7692)."""

from __future__ import annotations

import os
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_poller.errors import WebSocketFault
from asgi_poller.protocols.websocket import permessage_deflate as permessage_deflate_module
from asgi_poller.protocols.websocket.permessage_deflate import Deflate, Inflation, negotiate
from tests.support.frames import deflated, inflated

NAME = "permessage-deflate"
STATELESS = "; server_no_context_takeover; client_no_context_takeover"

# offers, without takeover on our side -> the answer, behind the name; None: declined
NEGOTIATIONS: dict[str, str | None] = {
    # RFC 7692, 7.1 and what browsers send
    f"{NAME}": STATELESS,
    f"{NAME}; client_max_window_bits": STATELESS,
    f"{NAME};client_max_window_bits=15": STATELESS + "; client_max_window_bits=15",
    f"{NAME}; client_max_window_bits=10": STATELESS + "; client_max_window_bits=10",
    f"{NAME}; client_max_window_bits=8": STATELESS + "; client_max_window_bits=8",
    f'{NAME}; client_max_window_bits="10"': STATELESS + "; client_max_window_bits=10",
    f"{NAME}; server_no_context_takeover": STATELESS,
    f"{NAME}; client_no_context_takeover": STATELESS,
    f"{NAME}; server_no_context_takeover; client_no_context_takeover": STATELESS,
    f"{NAME}; server_max_window_bits=15": STATELESS + "; server_max_window_bits=12",
    f"{NAME}; server_max_window_bits=12": STATELESS + "; server_max_window_bits=12",
    f"{NAME}; server_max_window_bits=9": STATELESS + "; server_max_window_bits=9",
    f"{NAME}; server_max_window_bits=10; client_max_window_bits": STATELESS
    + "; server_max_window_bits=10",
    f"{NAME.title()}; Client_Max_Window_Bits": STATELESS,
    f"  {NAME}  ;  client_max_window_bits = 9  ": STATELESS + "; client_max_window_bits=9",
    # 7.1: an offer is declined for parameters that are unknown, repeated or have no such value
    f"{NAME}; server_max_window_bits": None,
    f"{NAME}; server_max_window_bits=8": None,  # zlib cannot: it would use 9 and be wrong
    f"{NAME}; server_max_window_bits=7": None,
    f"{NAME}; server_max_window_bits=16": None,
    f"{NAME}; server_max_window_bits=010": None,
    f"{NAME}; server_max_window_bits=+10": None,
    f"{NAME}; server_max_window_bits=": None,
    f"{NAME}; client_max_window_bits=7": None,
    f"{NAME}; client_max_window_bits=16": None,
    f"{NAME}; client_max_window_bits=": None,
    f"{NAME}; client_max_window_bits=x": None,
    f"{NAME}; client_max_window_bits=\u00b2": None,
    f"{NAME}; server_no_context_takeover=1": None,
    f"{NAME}; client_no_context_takeover=true": None,
    f"{NAME}; client_max_window_bits; client_max_window_bits=10": None,
    f"{NAME}; server_no_context_takeover; server_no_context_takeover": None,
    f"{NAME}; mystery": None,
    f"{NAME}; mystery=1": None,
    f"{NAME}; ": None,
    f"{NAME}; =": None,
    "": None,
    ",": None,
    "permessage-bzip2": None,
    "x-webkit-deflate-frame": None,
    f"x{NAME}": None,
    # 5.1: the first offer that can be met
    f"{NAME}; mystery, {NAME}": STATELESS,
    f"permessage-bzip2, {NAME}; client_max_window_bits=11": STATELESS
    + "; client_max_window_bits=11",
    f"{NAME}; server_max_window_bits=8, {NAME}; server_max_window_bits=10": STATELESS
    + "; server_max_window_bits=10",
    f"{NAME}; server_max_window_bits=10, {NAME}": STATELESS + "; server_max_window_bits=10",
}


@pytest.mark.parametrize("offers", NEGOTIATIONS)
def test_the_answer_to_an_offer(offers: str) -> None:
    expected = NEGOTIATIONS[offers]
    if expected is None:
        assert negotiate(offers, takeover=False) is None
    else:
        answer, deflate = agreed(offers, takeover=False)
        assert answer == NAME + expected
        assert (deflate.server_takeover, deflate.client_takeover) == (False, False)


@pytest.mark.parametrize(
    ("offer", "answer", "server_takeover", "client_takeover"),
    [
        ("", "", True, True),
        ("; client_no_context_takeover", "; client_no_context_takeover", True, False),
        ("; server_no_context_takeover", "; server_no_context_takeover", False, True),
        (STATELESS, STATELESS, False, False),
        ("; client_max_window_bits=10", "; client_max_window_bits=10", True, True),
    ],
)
def test_with_takeover(
    offer: str, answer: str, server_takeover: bool, client_takeover: bool
) -> None:
    given, deflate = agreed(NAME + offer, takeover=True)
    assert given == NAME + answer
    assert deflate.server_takeover is server_takeover
    assert deflate.client_takeover is client_takeover


def test_channels_share_what_has_no_state() -> None:
    """An idle channel with compression costs no more than one without."""
    assert agreed(NAME, takeover=False)[1] is agreed(NAME, takeover=False)[1]
    assert agreed(NAME, takeover=True)[1] is not agreed(NAME, takeover=True)[1]


def agreed(offers: str, *, takeover: bool) -> tuple[str, Deflate]:
    """What is agreed to, which must be something."""
    found = negotiate(offers, takeover=takeover)
    assert found is not None
    return found


MESSAGES = [b"", b"a", b"Hello", b"x" * 5000, os.urandom(3000), b"", b"", b"Hello", b"Hello"]


@pytest.mark.parametrize("bits", range(9, 16))
def test_what_we_send_fits_the_window_that_was_asked_for(bits: int) -> None:
    _, deflate = agreed(f"{NAME}; server_max_window_bits={bits}", takeover=False)
    page = os.urandom(600)
    message = page * 20 + os.urandom(5000) + page
    assert inflated(deflate.compress(message), bits) == message


def test_messages_there_without_takeover() -> None:
    deflate = Deflate()
    for message in MESSAGES:
        payload = deflate.compress(message)
        assert payload, "an empty message is an byte, too (RFC 7692, 7.2.3.6)"
        assert inflated(payload) == message


def test_messages_there_with_takeover() -> None:
    deflate = Deflate(server_takeover=True)
    inflater = zlib.decompressobj(-15)
    payloads = []
    for message in MESSAGES:
        payloads.append(deflate.compress(message))
        assert payloads[-1]
        assert inflater.decompress(payloads[-1] + b"\0\0\xff\xff") == message
    assert len(payloads[-1]) < len(deflated(b"Hello"))  # it refers back to the one before


@pytest.mark.parametrize("bits", range(9, 16))
def test_messages_back(bits: int) -> None:
    deflate = Deflate(client_bits=bits)
    for message in MESSAGES:
        assert deflate.decompress(deflated(message, bits), 1 << 20) == message


def test_messages_back_with_takeover() -> None:
    deflate = Deflate(client_takeover=True)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    for message in MESSAGES:
        payload = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
        payload = payload[:-4] or b"\0"
        assert deflate.decompress(payload, 1 << 20) == message


def test_takeover_goes_on_over_fragmented_and_whole_messages() -> None:
    deflate = Deflate(client_takeover=True)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    for number in range(6):
        message = b"the same again and again " * 3
        payload = (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        if number % 2:
            inflation = Inflation(deflate, 1 << 20)
            pieces = [inflation.feed(payload[:5]), inflation.feed(payload[5:]), inflation.finish()]
            assert b"".join(pieces) == message
        else:
            assert deflate.decompress(payload, 1 << 20) == message


FINAL = bytes.fromhex("f348cdc9c90700")  # "Hello" in a block with BFINAL set (RFC 7692, 7.2.3.4)


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (FINAL + b"\0", b"Hello"),
        (FINAL, b"Hello"),
        (FINAL * 3 + b"\0", b"HelloHelloHello"),
        (FINAL + deflated(b", world"), b"Hello, world"),
    ],
)
def test_a_final_block_ends_a_stream_but_not_the_message(
    payload: bytes, expected: bytes, takeover: bool
) -> None:
    deflate = Deflate(client_takeover=takeover)
    for _ in range(2):
        assert deflate.decompress(payload, 100) == expected
        for at in range(1, len(payload)):
            inflation = Inflation(deflate, 100)
            pieces = [
                inflation.feed(payload[:at]),
                inflation.feed(payload[at:]),
                inflation.finish(),
            ]
            assert b"".join(pieces) == expected
        assert deflate.decompress(deflated(b"afterwards"), 100) == b"afterwards"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (deflated(b"x" * 101), 1009),
        (deflated(bytes(10_000_000)), 1009),
        (b"\xff\xff\xff", 1007),
        (FINAL + b"\xff\xff\xff", 1007),
        (FINAL + deflated(b"x" * 96), 1009),
        (FINAL * 21, 1009),
        (b"\x03\x00" * 100, 1007),
    ],
)
def test_what_is_refused(payload: bytes, code: int) -> None:
    with pytest.raises(WebSocketFault) as whole:
        Deflate().decompress(payload, 100)
    assert whole.value.code == code
    with pytest.raises(WebSocketFault) as parts:
        in_pieces(Deflate(), payload, 100)
    assert parts.value.code == code


def in_pieces(deflate: Deflate, payload: bytes, limit: int, size: int = 1) -> bytes:
    inflation = Inflation(deflate, limit)
    pieces = [inflation.feed(payload[at : at + size]) for at in range(0, len(payload), size)]
    return b"".join([*pieces, inflation.finish()])


def outcome(payload: bytes, size: int | None) -> bytes | int:
    try:
        if size is None:
            return Deflate().decompress(payload, 200)
        return in_pieces(Deflate(), payload, 200, size)
    except WebSocketFault as fault:
        return fault.code


blocks = (
    st.sampled_from([FINAL, b"\0", b"\x03\x00"])
    | st.binary(max_size=9)
    | st.builds(deflated, st.binary(max_size=120))
)


@settings(max_examples=300)
@given(payload=st.lists(blocks, max_size=6).map(b"".join), size=st.integers(1, 40))
def test_fragments_and_whole_messages_come_to_the_same(payload: bytes, size: int) -> None:
    whole, parts = outcome(payload, None), outcome(payload, size)
    # where there is more than one thing wrong, either may be found first
    assert whole == parts or (isinstance(whole, int) and isinstance(parts, int))


@settings(max_examples=100)
@given(message=st.binary(max_size=2000), bits=st.integers(9, 15))
def test_there_and_back(message: bytes, bits: int) -> None:
    deflate = Deflate(server_bits=bits, client_bits=bits)
    assert deflate.decompress(deflate.compress(message), 2000) == message


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("step", [1, 500, 65536])
@pytest.mark.parametrize("size", [None, 1, 7, 100, 4096])
def test_how_much_may_be_inflated_does_not_depend_on_the_cuts(
    size: int | None, step: int, takeover: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros first and noise behind, the other way round, and over final blocks: one verdict."""
    monkeypatch.setattr(permessage_deflate_module, "_FREE_BYTES", 1000)
    monkeypatch.setattr(permessage_deflate_module, "_RATIO", 4)
    monkeypatch.setattr(permessage_deflate_module, "_STEP_BYTES", step)
    noise, zeros = os.urandom(3000), bytes(8000)
    final = zlib.compressobj(9, zlib.DEFLATED, -15)
    ended = final.compress(noise) + final.flush(zlib.Z_FINISH)
    payloads = {
        "zeros first": (deflated(zeros + noise), zeros + noise),
        "noise first": (deflated(noise + zeros), noise + zeros),
        "behind a final block": (ended + deflated(zeros), noise + zeros),
        "a bomb": (deflated(zeros), None),
        "a bomb behind noise": (deflated(noise + bytes(20_000)), None),
        "a bomb behind a final block": (ended + deflated(bytes(20_000)), None),
    }
    for name, (payload, message) in payloads.items():
        deflate = Deflate(client_takeover=takeover)
        found: bytes | int
        try:
            if size is None:
                found = deflate.decompress(payload, 1 << 20)
            else:
                found = in_pieces(deflate, payload, 1 << 20, size)
        except WebSocketFault as fault:
            found = fault.code
        assert found == (1009 if message is None else message), name
