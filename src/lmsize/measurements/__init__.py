"""Measurements as data: their columns."""
