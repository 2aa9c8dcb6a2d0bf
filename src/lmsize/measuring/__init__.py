"""Measuring a real step on the machine's own accelerator or CPU; an extra.

::

    options ──► Case ──► running.measured ──► Measured ──► rows ──► a CSV file
    grid.toml ──► many Cases, each in a process of its own (campaign)
"""
