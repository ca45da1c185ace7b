"""Events or a peer fault, and nothing else: hypothesis, from good examples that are taken apart.

$FUZZ_MINUTES makes each target run for so long instead of for some hundred examples.
"""

from __future__ import annotations

import os
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))
NAMES = list(TARGETS)


@st.composite
def taken_apart(draw: st.DrawFn, name: str) -> bytes:
    """Slices of examples and any bytes, put together again."""
    slices = []
    for _ in range(draw(st.integers(1, 4))):
        seed = draw(st.sampled_from(SEEDS[name]))
        start, end = sorted((draw(st.integers(0, len(seed))), draw(st.integers(0, len(seed)))))
        slices.append(draw(st.sampled_from([seed, seed[start:end], seed[:end]])))
        slices.append(draw(st.one_of(st.just(b""), st.binary(max_size=12))))
    return b"".join(slices)


@pytest.mark.parametrize("name", NAMES)
def test_good_and_nearly_good_examples(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)
        for end in range(len(seed) if len(seed) < 1000 else 0):
            TARGETS[name](seed[:end])


@pytest.mark.parametrize("name", NAMES)
def test_anything(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.one_of(taken_apart(name), st.binary(max_size=300)))
    def check(data: bytes) -> None:
        target(data)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_mutations(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain mutation: less clever than hypothesis, and ten times as fast."""
    source = random.Random(1 if not MINUTES else None)
    target, count = TARGETS[name], 0
    until = time.monotonic() + MINUTES * 60
    while count < 3000 or time.monotonic() < until:
        data = mutated(source, SEEDS[name])
        try:
            target(data)
        except BaseException:
            print(f"{name}: {data!r}")
            raise
        count += 1
    if MINUTES:
        with capsys.disabled():
            print(f"\n{name}: {count} executions in {MINUTES:g} min")


def mutated(source: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(source.choice(seeds)[:2000])
    for _ in range(source.randint(1, 6)):
        place = source.randint(0, len(data))
        match source.randint(0, 5):
            case 0 if data:
                data[place % len(data)] = source.randint(0, 255)
            case 1:
                data[place:place] = source.randbytes(source.randint(1, 4))
            case 2:
                del data[place : place + source.randint(1, 8)]
            case 3:
                other = source.choice(seeds)[:2000]
                start = source.randint(0, len(other))
                data[place:place] = other[start : start + source.randint(1, 60)]
            case 4:
                piece = data[place : place + source.randint(1, 30)]
                data[place:place] = piece * source.randint(1, 3)
            case 5 if data:
                data[place % len(data)] ^= 1 << source.randint(0, 7)
    return bytes(data)
