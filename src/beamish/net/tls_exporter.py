"""What a connection of the standard library's `ssl` binds a login to, and its version (XEP-0515).

For `tls-exporter` (RFC 9266) `ssl` has no function. OpenSSL has one; it wants the connection as OpenSSL knows it, a pointer
that CPython keeps in the object behind `ssl.SSLObject`, after the (weak) owner and before the context. That it is there is
seen by the context, whose address is known, before anything is called; where it is not, or where `ssl` does not let OpenSSL
be called, there is no such binding.
"""

from __future__ import annotations

import ctypes
import ssl
import sys
from collections.abc import Callable
from typing import Any, Final

_LABEL: Final = b"EXPORTER-Channel-Binding"
_BYTES: Final = 32
_POINTER: Final = ctypes.sizeof(ctypes.c_void_p)
_OWNER: Final = object.__basicsize__
_CONNECTION: Final = _OWNER + _POINTER
_CONTEXT: Final = _CONNECTION + _POINTER


def _found() -> Callable[..., int] | None:
    if sys.implementation.name != "cpython":
        return None
    try:
        import _ssl

        export: Any = ctypes.CDLL(_ssl.__file__).SSL_export_keying_material
    except (ImportError, AttributeError, OSError):
        return None
    export.restype = ctypes.c_int
    text, size = ctypes.c_char_p, ctypes.c_size_t
    export.argtypes = (ctypes.c_void_p, text, size, text, size, text, size, ctypes.c_int)
    return export  # type: ignore[no-any-return]


_EXPORT: Final = _found()


def tls_exporter(connection: ssl.SSLObject | None) -> bytes | None:
    """The 32 bytes of a connection after its handshake; None before TLS 1.3, where they bind nothing without more."""
    if _EXPORT is None or connection is None or connection.version() != "TLSv1.3":
        return None
    inner: Any = getattr(connection, "_sslobj", None)
    if inner is None or type(inner).__basicsize__ < _CONTEXT + _POINTER:
        return None
    if ctypes.c_void_p.from_address(id(inner) + _CONTEXT).value != id(inner.context):
        return None
    pointer = ctypes.c_void_p.from_address(id(inner) + _CONNECTION).value
    if not pointer:
        return None
    made = ctypes.create_string_buffer(_BYTES)
    done = _EXPORT(pointer, made, _BYTES, _LABEL, len(_LABEL), b"", 0, 1)
    return made.raw if done == 1 else None


_VERSIONS: Final = {"TLSv1.2": "0303", "TLSv1.3": "0304"}


def tls_version(connection: ssl.SSLObject | None) -> str:
    """The number of a connection's version of TLS (RFC 8446 §4.2.1) as XEP-0515 writes it, "" before the handshake."""
    return "" if connection is None else _VERSIONS.get(connection.version() or "", "")


def tls_unique(connection: ssl.SSLObject | None) -> bytes | None:
    """The first Finished message of a connection after its handshake (RFC 5929 §3); None if TLS 1.2 took up a session again.

    There another handshake in between may have ended with the same message (RFC 7627 §1); in a full one it covers the
    certificate. For TLS 1.3 the type is not defined (RFC 9266 §3), yet slixmpp 1.8 and so Poezio take it whatever the version
    is, and where it is refused come with PLAIN in the end; gloox, which ends at TLS 1.2, does not come at all. The message
    proves as much as an exported key: it is a MAC over the whole handshake by a key that only the two ends have.
    """
    if connection is None or (connection.version() != "TLSv1.3" and connection.session_reused):
        return None
    return connection.get_channel_binding("tls-unique")
