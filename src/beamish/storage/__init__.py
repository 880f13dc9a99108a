"""The database: what modules may ask of it (`api`), and the engines that keep the promise (`sqlite`, `memory`)."""
