"""The decision on one call."""
