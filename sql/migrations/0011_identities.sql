-- Whom the books are about: agents with the wallet that pays for them, and autopay itself.

-- Until a proxy with a wallet has met the agent, its wallet is the system program's address: one
-- that nobody can hold, so that the column needs no NULL.
UPDATE agents SET wallet_address = '11111111111111111111111111111111' WHERE wallet_address IS NULL;
ALTER TABLE agents
    ALTER COLUMN wallet_address SET DEFAULT '11111111111111111111111111111111',
    ALTER COLUMN wallet_address SET NOT NULL,
    ADD COLUMN IF NOT EXISTS capture_chat boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS erased_at timestamptz,
    DROP CONSTRAINT IF EXISTS agents_wallet_address_check,
    ADD CONSTRAINT agents_wallet_address_check CHECK (wallet_address ~ '^[1-9A-HJ-NP-Za-km-z]{32,44}$'),
    DROP CONSTRAINT IF EXISTS agents_erased_check,
    ADD CONSTRAINT agents_erased_check CHECK (erased_at IS NULL OR NOT is_active);
COMMENT ON COLUMN agents.capture_chat IS
    'whether what it says to chat endpoints is kept (chat_sessions, chat_messages)';
COMMENT ON COLUMN agents.erased_at IS 'what identified it was destroyed; its books stay';

-- Events that are no agent's (a breaker, a missing partition) are autopay's own. An agent of that
-- name may be there already; then ours has another.
INSERT INTO agents (id, name, is_active)
SELECT '00000000-0000-0000-0000-000000000000',
       CASE WHEN EXISTS (SELECT 1 FROM agents WHERE name = 'autopay') THEN 'autopay.system'
            ELSE 'autopay' END,
       false
ON CONFLICT (id) DO NOTHING;

ALTER TABLE agent_policies
    ADD COLUMN IF NOT EXISTS trace_limit_micros bigint NOT NULL DEFAULT 1000000
        CHECK (trace_limit_micros BETWEEN 0 AND 999999999999999999);
ALTER TABLE agent_policies
    ADD COLUMN IF NOT EXISTS trace_limit_usd numeric(18, 6)
        GENERATED ALWAYS AS (trace_limit_micros * 0.000001) STORED;

-- Ceilings above the agents' own: per provider, per wallet, for everything together. The row that
-- names the subject goes before the one for '*'; no row is no ceiling.
CREATE TABLE IF NOT EXISTS spend_limits (
    kind         budget_kind NOT NULL
                 CHECK (kind IN ('agent_provider_day', 'provider_day', 'wallet_day', 'fleet_day')),
    agent_id     uuid REFERENCES agents (id) ON DELETE RESTRICT,
    subject      text NOT NULL DEFAULT '*' CHECK (subject <> '' AND length(subject) <= 300),
    limit_micros bigint NOT NULL CHECK (limit_micros BETWEEN 0 AND 999999999999999999),
    limit_usd    numeric(18, 6) GENERATED ALWAYS AS (limit_micros * 0.000001) STORED,
    updated_by   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (kind, agent_id, subject),
    CHECK (agent_id IS NULL OR kind = 'agent_provider_day'),
    CHECK (kind <> 'fleet_day' OR subject = '*')
);
COMMENT ON COLUMN spend_limits.subject IS
    'scheme://host:port of the provider, the address of the wallet, or * for each of them';
DROP TRIGGER IF EXISTS spend_limits_touch ON spend_limits;
CREATE TRIGGER spend_limits_touch BEFORE UPDATE ON spend_limits
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();
