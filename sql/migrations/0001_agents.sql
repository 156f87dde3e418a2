-- Who spends, how they prove who they are, and what they may spend.

CREATE TYPE autonomy_level AS ENUM ('PHASE1', 'PHASE2', 'PHASE3');

CREATE TABLE agents (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- The user name of a proxy credential, so it can hold no colon.
    name           varchar(100) NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
    autonomy_level autonomy_level NOT NULL DEFAULT 'PHASE1',
    wallet_address varchar(44),
    is_active      boolean NOT NULL DEFAULT true,
    created_at     timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN agents.is_active IS
    'false: removed. The row and its books stay; a new agent of this name continues them.';

-- A token has 256 random bits, so a plain SHA-256 of it is as hard to turn back as the token is to
-- guess; the token itself is shown once and kept nowhere.
CREATE TABLE agent_tokens (
    token_sha256 bytea PRIMARY KEY CHECK (octet_length(token_sha256) = 32),
    agent_id     uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    created_at   timestamptz NOT NULL DEFAULT now(),
    revoked_at   timestamptz
);
CREATE INDEX idx_agent_tokens_agent ON agent_tokens (agent_id) WHERE revoked_at IS NULL;

-- Limits are whole micro-dollars; the *_usd columns are the same numbers as people write them.
CREATE TABLE agent_policies (
    agent_id              uuid PRIMARY KEY REFERENCES agents (id) ON DELETE RESTRICT,
    frozen                boolean NOT NULL DEFAULT false,
    daily_limit_micros    bigint NOT NULL DEFAULT 1000000
                          CHECK (daily_limit_micros BETWEEN 0 AND 999999999999999999),
    per_call_limit_micros bigint NOT NULL DEFAULT 50000
                          CHECK (per_call_limit_micros BETWEEN 0 AND 999999999999999999),
    session_limit_micros  bigint NOT NULL DEFAULT 1000000
                          CHECK (session_limit_micros BETWEEN 0 AND 999999999999999999),
    -- Multiplied, not divided: numeric division rounds to 16 significant digits.
    daily_limit_usd       numeric(18, 6) GENERATED ALWAYS AS (daily_limit_micros * 0.000001) STORED,
    per_call_limit_usd    numeric(18, 6) GENERATED ALWAYS AS (per_call_limit_micros * 0.000001) STORED,
    session_limit_usd     numeric(18, 6) GENERATED ALWAYS AS (session_limit_micros * 0.000001) STORED,
    allowed_endpoints     text[] NOT NULL DEFAULT '{}',
    allowed_pay_to        text[] NOT NULL DEFAULT '{}',
    allowed_assets        text[] NOT NULL DEFAULT '{}',
    allowed_networks      text[] NOT NULL DEFAULT '{}',
    version               bigint NOT NULL DEFAULT 1,
    updated_by            text,
    updated_at            timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER agents_touch BEFORE UPDATE ON agents
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- Decisions name the version of the policy they were made under, so no change may go unnumbered.
CREATE FUNCTION number_policy_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    RETURN NEW;
END $$;

CREATE TRIGGER agent_policies_version BEFORE UPDATE ON agent_policies
    FOR EACH ROW EXECUTE FUNCTION number_policy_version();

-- Every proxy keeps these three tables in memory and reads them again when it hears this.
CREATE FUNCTION announce_directory() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('autopay_directory', '');
    RETURN NULL;
END $$;

CREATE TRIGGER agents_announce AFTER INSERT OR UPDATE OR DELETE ON agents
    FOR EACH STATEMENT EXECUTE FUNCTION announce_directory();
CREATE TRIGGER agent_tokens_announce AFTER INSERT OR UPDATE OR DELETE ON agent_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION announce_directory();
CREATE TRIGGER agent_policies_announce AFTER INSERT OR UPDATE OR DELETE ON agent_policies
    FOR EACH STATEMENT EXECUTE FUNCTION announce_directory();
