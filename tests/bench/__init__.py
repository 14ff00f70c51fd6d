"""Benchmarks: speed and memory as ratios against a named baseline, none of them a test."""
