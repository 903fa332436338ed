"""A seeded, believable catalog and query log, for the demo and the tests."""
