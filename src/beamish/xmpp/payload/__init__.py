"""Payloads that several features share, as frozen values: `from_xml` raises `StanzaError`, `to_xml` cannot fail."""
