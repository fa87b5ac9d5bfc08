"""Layers that several encoders share, and reading of released checkpoints."""
