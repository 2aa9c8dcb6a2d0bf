"""Estimates against measurements that other people published: errors, ranges, reports."""
