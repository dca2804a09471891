"""What the `mmext` command and the scripts of tools/ run."""
