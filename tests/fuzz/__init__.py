"""Calls that nobody would make."""
