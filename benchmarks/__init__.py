"""Speed and size: `make bench`. Every module prints one JSON line per figure; pairs are measured in one run."""
