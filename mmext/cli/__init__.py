"""The commands of `mmext`, which the scripts in tools/ run too."""
