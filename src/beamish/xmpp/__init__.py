"""Pure values of the protocol: addresses, names, errors, stanzas. Nothing here knows a socket, a clock or a loop."""
