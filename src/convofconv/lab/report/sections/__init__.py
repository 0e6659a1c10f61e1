"""The sections of a report, one a file: ``section(runs)`` gives it, or ``None`` where these runs have nothing for it.

``page.SECTIONS`` names them in the order of the page.
"""
