"""Real services for tests, each started on free ports in a folder of its own."""
