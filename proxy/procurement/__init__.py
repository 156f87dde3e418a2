"""What an agent wants, from whoever serves it best: `intents` (what may be asked of whom),
`ranking` (who goes first, and why), `procurement` (one after another, under one cap), `doors` (how
programs that know nothing of it come here)."""
