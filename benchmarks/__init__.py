"""Measurements, each beside what it is to be compared with, in the same run. They print a table, or JSON."""
