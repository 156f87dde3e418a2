"""What agents say to chat endpoints, where the operator asked for it to be kept.

`endpoint.py` which requests · `asked.py` and `answered.py` what they say (`parts.py`, `events.py`)
· `history.py` what of it is new · `writer.py` into the database · `store.py`, `dashboard.py` out of
it, for people.
"""
