from __future__ import annotations

import base64

import pytest

from beamish.stream.sasl import (
    ALGORITHMS,
    Algorithm,
    SaslPrepError,
    ScramKeys,
    check_password,
    decoy_keys,
    derive_keys,
)

SIZES = {"SHA-1": 20, "SHA-256": 32, "SHA-512": 64}


def test_keys_of_a_known_password() -> None:
    # The keys behind the example of RFC 5802 §5, which itself prints only what follows from them.
    keys = derive_keys("pencil", "SHA-1", salt=base64.b64decode("QSXCR+Q6sek8bf92"), iterations=4096)
    assert keys.stored_key.hex() == "e9d94660c39d65c38fbad91c358f14da0eef2bd6"
    assert keys.server_key.hex() == "0fe09258b3ac852ba502cc62ba903eaacdbf7d31"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_derive_and_check(algorithm: Algorithm) -> None:
    keys = derive_keys("pencil", algorithm, iterations=10)
    assert (keys.algorithm, keys.iterations, len(keys.salt)) == (algorithm, 10, 16)
    assert len(keys.stored_key) == len(keys.server_key) == SIZES[algorithm]
    assert check_password(keys, "pencil")
    for wrong in ("pencil ", "Pencil", "", "\x07", "p" * 5000, "\U0001f600"):
        assert not check_password(keys, wrong)
    assert derive_keys("pencil", algorithm, iterations=10).salt != keys.salt


def test_passwords_are_prepared() -> None:
    keys = derive_keys("I\xadX", "SHA-256", iterations=1)
    assert check_password(keys, "\u2168")
    assert check_password(keys, "IX")
    assert not check_password(keys, "ix")


@pytest.mark.parametrize("password", ["", "\x00", "\xad", "\U0001f600", "p" * 1024, "\xe9" * 512])
def test_passwords_that_cannot_be_stored(password: str) -> None:
    with pytest.raises(SaslPrepError):
        derive_keys(password, "SHA-1", iterations=1)


def test_impossible_keys_are_refused() -> None:
    key = b"k" * 20
    for salt, iterations, stored, server in [
        (b"", 1, key, key),
        (b"s", 0, key, key),
        (b"s", 1, key[1:], key),
        (b"s", 1, key, key + b"x"),
    ]:
        with pytest.raises(ValueError, match=r"have 20 bytes|no salt"):
            ScramKeys("SHA-1", salt, iterations, stored, server)


def test_repr_tells_nothing() -> None:
    keys = derive_keys("pencil", "SHA-1", iterations=1)
    assert repr(keys) == "ScramKeys(algorithm='SHA-1', iterations=1)"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_decoys_are_stable_and_look_real(algorithm: Algorithm) -> None:
    decoy = decoy_keys(b"secret", "romeo", algorithm, 4096)
    assert decoy == decoy_keys(b"secret", "romeo", algorithm, 4096)
    real = derive_keys("pencil", algorithm, iterations=4096)
    assert (len(decoy.salt), decoy.iterations) == (len(real.salt), real.iterations)
    others = [
        decoy_keys(b"secret", "juliet", algorithm, 4096),
        decoy_keys(b"another", "romeo", algorithm, 4096),
        decoy_keys(b"secret", "romeo", "SHA-1" if algorithm != "SHA-1" else "SHA-256", 4096),
        decoy_keys(b"secret", "\ud800", algorithm, 4096),
    ]
    assert len({decoy.salt, *(other.salt for other in others)}) == 5


@pytest.mark.parametrize("length", [1, 15, 16, 17, 36, 64, 65, 255])
def test_decoys_have_salts_as_long_as_is_wanted(length: int) -> None:
    decoy = decoy_keys(b"secret", "romeo", "SHA-1", 4096, length)
    assert len(decoy.salt) == length
    assert decoy == decoy_keys(b"secret", "romeo", "SHA-1", 4096, length)
    other = decoy_keys(b"secret", "romeo", "SHA-1", 4096, length + 1)
    assert not other.salt.startswith(decoy.salt[:12]) or length < 12, "one is made from the other"
    assert decoy.stored_key[:16] != decoy.server_key[:16]
