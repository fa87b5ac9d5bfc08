"""Parts of `benchmarks/embed.py`."""
