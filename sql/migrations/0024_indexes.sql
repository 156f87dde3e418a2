-- Indexes that the operator's questions need once there are many rows; each was missed by a plan at a
-- million payments. The questions are in proxy/ledger/questions/ and proxy/ledger/history.py.

-- the newest payments of all agents
CREATE INDEX IF NOT EXISTS idx_payments_created ON payments (created_at DESC, id DESC);
-- doubts by their reason: few rows, looked for at every start
CREATE INDEX IF NOT EXISTS idx_payments_doubt ON payments (doubt_reason, created_at)
    WHERE doubt_reason IS NOT NULL;
-- settled by the provider's word and disproved by the chain: almost none, taken off what was paid
CREATE INDEX IF NOT EXISTS idx_payments_reversed ON payments (id)
    WHERE status = 'FAILED' AND settled_at IS NOT NULL;
-- denials are counted by reason from the index alone
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_denied ON policy_decision_logs (created_at DESC, reason)
    WHERE decision = 'deny';
-- a session by its name, whichever agent's it is
CREATE INDEX IF NOT EXISTS idx_budget_counters_session ON budget_counters (session_id)
    WHERE kind = 'session';
