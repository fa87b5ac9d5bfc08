"""Parts of `benchmarks/probes.py`; scikit-survival (GPL-3) is imported here and in tests, never in src."""
