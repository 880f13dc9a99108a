"""Sockets: listeners, connections, TLS, DNS, and how the process talks to its operator and its service manager."""
