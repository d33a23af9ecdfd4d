"""The bundle: one directory between build and run. Everything here needs the standard library only."""
