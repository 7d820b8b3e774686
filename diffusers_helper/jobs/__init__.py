"""The queue: requests as jobs in a store, one worker that owns the device. Knows no tensors and no page."""
