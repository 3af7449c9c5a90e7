"""No tenant sees another."""
