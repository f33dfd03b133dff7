"""What the command prints and asks."""
