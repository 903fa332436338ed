"""Replay of query logs under load: latency and ranking quality of one run, two sides, or a capacity."""
