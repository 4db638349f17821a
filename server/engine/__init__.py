"""The batching engine: one queue, late-bound batches, one thread that owns the device."""
