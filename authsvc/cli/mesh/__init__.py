"""How the command reaches the auth service: profile, sign-in, calls, and advice when a call fails."""
