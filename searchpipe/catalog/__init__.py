"""The catalog: from product files to a published snapshot, and back into memory."""
