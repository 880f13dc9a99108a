"""Features. One file (or package) each; the registry finds them by looking here. None imports another."""
