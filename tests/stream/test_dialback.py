import pytest

from beamish.stream.dialback import DialbackSecret


def test_the_key_of_the_specification() -> None:
    """XEP-0185 §3 gives secret, domains, stream id and the key they make."""
    secret = DialbackSecret(b"s3cr3tf0rd14lb4ck")
    key = secret.key("xmpp.example.com", "example.org", "D60000229F")
    assert key == "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643"
    assert secret.proves(key, "xmpp.example.com", "example.org", "D60000229F")
    assert not secret.proves(key, "example.org", "xmpp.example.com", "D60000229F")


def test_a_secret_that_could_be_guessed() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        DialbackSecret(b"short")
