"""What a user would pick instead, each set up as its own documentation says."""
