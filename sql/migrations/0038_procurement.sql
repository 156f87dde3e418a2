-- What was asked of an intent. The name of one has no space; an attempt of no intent is named by its
-- method and URL, and there are far more of those.
CREATE INDEX IF NOT EXISTS idx_x402_procurement_receipts_intent
    ON x402_procurement_receipts (created_at DESC) WHERE position(' ' IN intent) = 0;
CREATE INDEX IF NOT EXISTS idx_x402_procurement_receipts_agent
    ON x402_procurement_receipts (agent_id, created_at DESC) WHERE position(' ' IN intent) = 0;
