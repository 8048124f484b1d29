"""Contenders of the throughput benchmark: one module per library, run as a process of its own that prints one JSON line."""
