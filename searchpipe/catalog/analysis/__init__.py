"""From text to the terms of the lexical index, the same way for documents and queries."""

from searchpipe.catalog.analysis.analyzer import Analyzer, AnalyzerSpec

__all__ = ["Analyzer", "AnalyzerSpec"]
