"""Simulated comparisons of two encoders whose truth is known, for the calibration of the paired test."""
