"""Linear probes on frozen embeddings: which gene is mutated, and who dies sooner."""
