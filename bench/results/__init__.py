"""Statistics of the measurements, the reports and the plots."""
