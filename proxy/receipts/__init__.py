"""Receipts that prove themselves: each a link of its agent's chain, signed by the proxy.

The links are written by the database, with the receipts (`sql/migrations/0025_receipts.sql`). Here:
`link.py` what a link is · `signer.py` signs them, behind the paying path · `export.py` and
`spreadsheet.py` take them out · `verify.py` checks what was taken out, with no database and no
network · `on_chain.py` holds it against the chain ·
`history.py` looks for payments in an account's history · `patience.py` an RPC that is asked again.
"""
