"""The engine room: what makes the core fast and safe. A student need never open it."""
