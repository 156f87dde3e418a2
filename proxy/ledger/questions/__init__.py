"""The operator's questions about what grows large: `events.py` what happened, `spend.py` where the
money went, `totals.py` how things stand, `story.py` one payment whole, `tasks.py` traces and
sessions.

Each is answered from an index or from counters, never by reading a table through; the plans are
tested.
"""
