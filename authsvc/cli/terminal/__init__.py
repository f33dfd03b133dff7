"""What the command prints to the terminal and reads from it."""
