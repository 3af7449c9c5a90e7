"""Meterhouse: the meter and the books of an LLM platform."""
