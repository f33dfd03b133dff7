"""Who uses the mesh in the test bed: a process of its own, in one event loop. See `__main__`."""
