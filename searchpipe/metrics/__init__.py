"""What a pipeline does, for those who run it: metrics, spans, logs. Each behind an extra, none required."""
