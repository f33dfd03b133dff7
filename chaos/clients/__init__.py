"""The clients of the mesh in the test bed: one process with one event loop. See `__main__`."""
