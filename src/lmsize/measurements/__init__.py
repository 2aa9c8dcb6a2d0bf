"""Measurements that other people published: their columns, their words, what they say."""
