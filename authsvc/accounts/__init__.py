"""Users and clients: the records, their passwords and secrets, and the first accounts of a mesh."""
