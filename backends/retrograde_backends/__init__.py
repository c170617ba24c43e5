"""One adapter per array library; each imports its library, and only when asked for."""
