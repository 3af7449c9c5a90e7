"""Notebooks: their pairs, a house to run them on, and running them."""
