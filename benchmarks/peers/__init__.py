"""The comparison with what a user would pick instead."""
