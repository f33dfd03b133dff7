"""The sample services. Of authentication they know only the caller of a call."""
