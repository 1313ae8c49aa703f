"""What hardware decides: accumulators, requantizers, proofs about them, analog arrays, variants."""
