"""The engine factory: from a trained model and a query log to a gated, checked-in engine."""
