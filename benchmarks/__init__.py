"""Measurements side by side. Each script prints its table and writes results/<name>.json."""
