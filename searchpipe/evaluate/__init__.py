"""Ranking quality on labelled queries."""
