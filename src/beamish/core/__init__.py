"""The kernel: hooks, sessions, routing, modules. Knows neither sockets nor any feature."""
