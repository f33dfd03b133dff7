"""From measurements to a verdict, a table and plots."""
