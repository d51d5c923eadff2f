"""Benchmarks: one script per question, results as JSON in ``bench/results/``."""
