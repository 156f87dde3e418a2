-- What cached answers have saved: statistics and no books, one row for each agent, provider and UTC
-- day. They go with the agent, and when they are as old as the logs may be.

CREATE TABLE IF NOT EXISTS cache_savings (
    agent_id     uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    day          date NOT NULL,
    provider     text NOT NULL,
    answers      bigint NOT NULL,
    saved_micros bigint NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT cache_savings_pkey PRIMARY KEY (agent_id, day, provider),
    CONSTRAINT cache_savings_answers_check CHECK (answers >= 1),
    CONSTRAINT cache_savings_saved_check CHECK (saved_micros >= 0)
);
COMMENT ON TABLE cache_savings IS 'answers that were served from a cache, and what they would have cost';
CREATE INDEX IF NOT EXISTS idx_cache_savings_day ON cache_savings (day);

CREATE OR REPLACE FUNCTION forget_savings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM cache_savings s WHERE s.agent_id = NEW.id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_forget_savings ON agents;
CREATE TRIGGER agents_forget_savings AFTER UPDATE OF erased_at ON agents
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION forget_savings();

-- Those of days that lie wholly more than `p_days` back; how many rows.
CREATE OR REPLACE FUNCTION prune_savings(p_days integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_gone bigint;
BEGIN
    DELETE FROM cache_savings s WHERE s.day < (now() AT TIME ZONE 'UTC')::date - p_days;
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    RETURN v_gone;
END $$;

SELECT open_table('cache_savings', ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
GRANT SELECT ON cache_savings TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT INSERT, UPDATE ON cache_savings TO autopay_writer;
REVOKE ALL ON FUNCTION forget_savings(), prune_savings(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION prune_savings(integer) TO autopay_writer, autopay_admin;

INSERT INTO error_classifications (code, class, party, retryable, counts_for_breaker, description, told) VALUES
    ('not_cached', 'program', 'caller', false, false,
     'the program wanted a cached answer or none, and there is none',
     '504 not_cached; nothing was sent')
ON CONFLICT (code) DO UPDATE SET
    class = excluded.class, party = excluded.party, retryable = excluded.retryable,
    counts_for_breaker = excluded.counts_for_breaker, description = excluded.description, told = excluded.told;
