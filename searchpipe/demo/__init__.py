"""The demo's input: a seeded, believable catalog, query log and labelled queries."""

from searchpipe.demo.generate import DemoFiles, write_demo

__all__ = ["DemoFiles", "write_demo"]
