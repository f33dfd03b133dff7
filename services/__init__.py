"""The sample services. Each knows its domain and who is calling, nothing else of auth."""
