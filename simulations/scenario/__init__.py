"""Scenarios: checked options, the rows of the table, and what a replay needs built from them."""
