"""What a call costs: credmesh side by side with what a user would pick instead. `make bench` runs it."""
