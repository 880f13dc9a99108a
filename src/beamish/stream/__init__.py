"""The stream engine: bytes in, events and bytes out. No event loop, no clock, no socket below this package."""
