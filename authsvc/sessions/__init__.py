"""Issuing credentials, and the sessions that they belong to."""
