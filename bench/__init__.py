"""Measurements. Each compares two things in one run; results/ keeps the numbers with the command and the machine."""
