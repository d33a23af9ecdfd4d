"""Rewrites of the portable graphs for one target each: one pass, one file, one contract, one test."""
