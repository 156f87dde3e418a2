-- Logs that grow without end are kept by the month: what is too old goes as a whole partition.

DO $$ BEGIN
    CREATE TYPE confirmation_status AS ENUM ('PROCESSED', 'CONFIRMED', 'FINALIZED');
    CREATE TYPE audit_severity AS ENUM ('INFO', 'WARNING', 'ERROR');
    CREATE TYPE audit_event_type AS ENUM (
        'PAYMENT_SUCCESS', 'PAYMENT_FAILURE', 'LOW_BALANCE', 'NETWORK_ISSUE', 'CIRCUIT_BREAKER',
        'API_ACCESS', 'PAYMENT_STATUS', 'POLICY_CHANGE', 'AGENT_CHANGE', 'ALARM', 'MAINTENANCE');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

-- The decisions of before become the first rows of the partitioned log.
DO $$ BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = 'policy_decision_logs'::regclass) = 'r' THEN
        ALTER TABLE policy_decision_logs RENAME TO policy_decision_logs_before;
        ALTER TABLE policy_decision_logs_before RENAME CONSTRAINT policy_decision_logs_pkey
            TO policy_decision_logs_before_pkey;
        DROP INDEX idx_policy_decision_logs_agent, idx_policy_decision_logs_created,
                   idx_policy_decision_logs_trace, idx_policy_decision_logs_payment;
        CREATE TABLE policy_decision_logs (
            LIKE policy_decision_logs_before
            INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING COMMENTS,
            PRIMARY KEY (id, created_at)
        ) PARTITION BY RANGE (created_at);
    END IF;
END $$;
CREATE TABLE IF NOT EXISTS policy_decision_logs_default PARTITION OF policy_decision_logs DEFAULT;
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_agent ON policy_decision_logs (agent_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_created ON policy_decision_logs (created_at DESC);
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_trace ON policy_decision_logs (trace_id)
    WHERE trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_payment ON policy_decision_logs (payment_id)
    WHERE payment_id IS NOT NULL;

-- What the chain showed of a payment, level by level.
CREATE TABLE IF NOT EXISTS transaction_logs (
    id                  uuid NOT NULL DEFAULT gen_random_uuid(),
    agent_id            uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    payment_id          uuid NOT NULL REFERENCES payments (id) ON DELETE RESTRICT,
    solana_tx_metadata  jsonb NOT NULL,
    confirmation_status confirmation_status NOT NULL,
    gas_fees            numeric(18, 9) CHECK (gas_fees >= 0),
    is_duplicate        boolean NOT NULL DEFAULT false,
    error_message       text,
    created_at          timestamptz NOT NULL DEFAULT now(),
    updated_at          timestamptz GENERATED ALWAYS AS (created_at) STORED,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE IF NOT EXISTS transaction_logs_default PARTITION OF transaction_logs DEFAULT;
COMMENT ON COLUMN transaction_logs.gas_fees IS 'lamports';
COMMENT ON COLUMN transaction_logs.is_duplicate IS 'another transaction of a payment that had one already';
CREATE INDEX IF NOT EXISTS idx_transaction_logs_payment ON transaction_logs (payment_id, created_at DESC);

CREATE TABLE IF NOT EXISTS audit_events (
    id         uuid NOT NULL DEFAULT gen_random_uuid(),
    agent_id   uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    event_type audit_event_type NOT NULL,
    related_id uuid,
    details    jsonb,
    severity   audit_severity NOT NULL DEFAULT 'INFO',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz GENERATED ALWAYS AS (created_at) STORED,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE IF NOT EXISTS audit_events_default PARTITION OF audit_events DEFAULT;
CREATE INDEX IF NOT EXISTS idx_audit_events_agent ON audit_events (agent_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_audit_events_type ON audit_events (event_type, severity, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_audit_events_created ON audit_events (created_at DESC);
CREATE INDEX IF NOT EXISTS idx_audit_events_related ON audit_events (related_id) WHERE related_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_audit_events_details ON audit_events
    USING gin (jsonb_to_tsvector('simple', details, '["all"]'));

CREATE TABLE IF NOT EXISTS query_logs (
    id               uuid NOT NULL DEFAULT gen_random_uuid(),
    response_time_ms integer NOT NULL CHECK (response_time_ms >= 0),
    agent_id         text,
    tx_hash          text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE IF NOT EXISTS query_logs_default PARTITION OF query_logs DEFAULT;
COMMENT ON COLUMN query_logs.agent_id IS 'agents.id, as text';
CREATE INDEX IF NOT EXISTS idx_query_logs_agent ON query_logs (agent_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_query_logs_created ON query_logs (created_at DESC);

-- Log rows are only added; what is too old leaves with its partition. An erased agent's rows lose
-- what identifies it, by erase_agent alone.
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND current_setting('autopay.erasing', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% is not for %: its rows are the books', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'check_violation', CONSTRAINT = 'books_are_final';
END $$;

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['policy_decision_logs', 'transaction_logs', 'audit_events', 'query_logs'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %I', v_table || '_keep', v_table);
        EXECUTE format('CREATE TRIGGER %I BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', v_table || '_keep', v_table);
    END LOOP;
END $$;

-- Makes the partitions of this month (UTC) and the `p_ahead` next ones; how many were missing.
-- Rows that had to go to the default partition meanwhile are taken home.
CREATE OR REPLACE FUNCTION ensure_partitions(p_ahead integer, p_from date DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_first date := date_trunc('month', coalesce(p_from, (now() AT TIME ZONE 'UTC')::date))::date;
    v_last  date := date_trunc('month', (now() AT TIME ZONE 'UTC')::date)::date;
    v_month date;
    v_table text;
    v_name  text;
    v_begin timestamptz;
    v_end   timestamptz;
    v_cols  text;
    v_made  integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(402, 2);
    FOREACH v_table IN ARRAY ARRAY['policy_decision_logs', 'transaction_logs', 'audit_events', 'query_logs'] LOOP
        v_month := v_first;
        WHILE v_month <= v_last + make_interval(months => p_ahead) LOOP
            v_name := v_table || to_char(v_month, '_YYYY_MM');
            v_begin := v_month::timestamp AT TIME ZONE 'UTC';
            v_end := (v_month + interval '1 month')::timestamp AT TIME ZONE 'UTC';
            IF to_regclass(v_name) IS NULL THEN
                EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', v_name, v_table);
                SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO v_cols
                  FROM pg_attribute
                 WHERE attrelid = v_table::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', v_table || '_default');
                EXECUTE format(
                    'WITH moved AS (DELETE FROM %1$I WHERE created_at >= %2$L AND created_at < %3$L RETURNING %4$s) '
                    'INSERT INTO %5$I (%4$s) SELECT %4$s FROM moved',
                    v_table || '_default', v_begin, v_end, v_cols, v_name);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                               v_table, v_name, v_begin, v_end);
                v_made := v_made + 1;
            END IF;
            v_month := v_month + interval '1 month';
        END LOOP;
    END LOOP;
    RETURN v_made;
END $$;

DO $$
DECLARE
    v_cols  text;
    v_since date := NULL;
BEGIN
    IF to_regclass('policy_decision_logs_before') IS NOT NULL THEN
        SELECT min(created_at AT TIME ZONE 'UTC')::date INTO v_since FROM policy_decision_logs_before;
    END IF;
    PERFORM ensure_partitions(3, v_since);
    IF to_regclass('policy_decision_logs_before') IS NOT NULL THEN
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO v_cols
          FROM pg_attribute
         WHERE attrelid = 'policy_decision_logs_before'::regclass
           AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
        EXECUTE format('INSERT INTO policy_decision_logs (%1$s) SELECT %1$s FROM policy_decision_logs_before', v_cols);
        DROP TABLE policy_decision_logs_before;
    END IF;
END $$;

-- Whoever listens hears at once of what is not routine. The routine of payments is left to be looked
-- for: a NOTIFY makes every commit that has one wait for the one before it.
CREATE OR REPLACE FUNCTION note_event(
    p_agent_id uuid, p_type audit_event_type, p_related_id uuid, p_details jsonb,
    p_severity audit_severity DEFAULT 'INFO'
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO audit_events (agent_id, event_type, related_id, details, severity)
    VALUES (coalesce(p_agent_id, '00000000-0000-0000-0000-000000000000'), p_type, p_related_id,
            p_details, p_severity);
    IF p_severity <> 'INFO' OR p_details ? 'code'
       OR p_type::text NOT IN ('PAYMENT_STATUS', 'PAYMENT_SUCCESS', 'API_ACCESS') THEN
        PERFORM pg_notify('autopay_events', '');
    END IF;
END $$;

-- Every change of a payment's status leaves an event, whoever made it and how.
CREATE OR REPLACE FUNCTION audit_payment() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM note_event(NEW.agent_id, 'PAYMENT_STATUS', NEW.id, jsonb_build_object(
            'to', NEW.status, 'reason', 'reserved', 'provider', NEW.provider,
            'price_micros', NEW.price_micros), 'INFO');
    ELSIF NEW.status <> OLD.status THEN
        PERFORM note_event(
            NEW.agent_id,
            CASE NEW.status WHEN 'CONFIRMED' THEN 'PAYMENT_SUCCESS' WHEN 'FAILED' THEN 'PAYMENT_FAILURE'
                 ELSE 'PAYMENT_STATUS' END::audit_event_type,
            NEW.id,
            jsonb_strip_nulls(jsonb_build_object(
                'from', OLD.status, 'to', NEW.status, 'provider', NEW.provider,
                'price_micros', NEW.price_micros, 'transaction', NEW.payment_hash,
                -- Whoever moves it for a reason that its row does not tell says so here.
                'reason', coalesce(nullif(current_setting('autopay.reason', true), ''), NEW.release_reason,
                                   CASE NEW.status WHEN 'CONFIRMED' THEN 'settled'
                                                   WHEN 'VERIFIED' THEN 'finalized'
                                                   WHEN 'SIGNED' THEN 'signed' END))),
            CASE WHEN NEW.status <> 'FAILED' THEN 'INFO'
                 WHEN OLD.status = 'CONFIRMED' THEN 'ERROR' ELSE 'WARNING' END::audit_severity);
    ELSIF NEW.in_doubt_since IS NOT NULL AND OLD.in_doubt_since IS NULL THEN
        PERFORM note_event(NEW.agent_id, 'NETWORK_ISSUE', NEW.id, jsonb_strip_nulls(jsonb_build_object(
            'state', 'in_doubt', 'reason', NEW.doubt_reason, 'provider', NEW.provider,
            'http_status', NEW.doubt_http_status, 'price_micros', NEW.price_micros)), 'WARNING');
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS payments_audit ON payments;
CREATE TRIGGER payments_audit AFTER INSERT OR UPDATE ON payments
    FOR EACH ROW EXECUTE FUNCTION audit_payment();

CREATE OR REPLACE FUNCTION audit_request() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM note_event(NEW.agent_id, 'API_ACCESS', NEW.id, jsonb_build_object(
        'endpoint', NEW.endpoint, 'http_status', NEW.http_status), 'INFO');
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS api_requests_audit ON api_requests;
CREATE TRIGGER api_requests_audit AFTER UPDATE ON api_requests
    FOR EACH ROW WHEN (NEW.status = 'ACCESSED' AND OLD.status <> 'ACCESSED') EXECUTE FUNCTION audit_request();

-- A breaker that opens concerns every agent, and so does its end.
CREATE OR REPLACE FUNCTION audit_breaker() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NEW.circuit_open_until > now() AND (TG_OP = 'INSERT'
        OR OLD.circuit_open_until IS NULL OR OLD.circuit_open_until < now()) THEN
        PERFORM note_event(NULL, 'CIRCUIT_BREAKER', NULL, jsonb_build_object(
            'state', 'open', 'provider', NEW.id, 'open_until', NEW.circuit_open_until,
            'failures', NEW.consecutive_failures, 'error', NEW.last_error), 'WARNING');
    ELSIF TG_OP = 'UPDATE' AND NEW.circuit_open_until IS NULL AND OLD.circuit_open_until IS NOT NULL THEN
        PERFORM note_event(NULL, 'CIRCUIT_BREAKER', NULL, jsonb_build_object(
            'state', 'closed', 'provider', NEW.id), 'INFO');
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS provider_stats_audit ON x402_procurement_provider_stats;
CREATE TRIGGER provider_stats_audit AFTER INSERT OR UPDATE ON x402_procurement_provider_stats
    FOR EACH ROW EXECUTE FUNCTION audit_breaker();

CREATE OR REPLACE FUNCTION audit_agent() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM note_event(NEW.id, 'AGENT_CHANGE', NULL, '{"change": "added"}', 'INFO');
    ELSIF NEW.is_active <> OLD.is_active OR NEW.erased_at IS DISTINCT FROM OLD.erased_at THEN
        PERFORM note_event(NEW.id, 'AGENT_CHANGE', NULL, jsonb_build_object('change',
            CASE WHEN NEW.erased_at IS NOT NULL THEN 'erased'
                 WHEN NEW.is_active THEN 'brought back' ELSE 'removed' END), 'INFO');
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_audit ON agents;
CREATE TRIGGER agents_audit AFTER INSERT OR UPDATE ON agents
    FOR EACH ROW EXECUTE FUNCTION audit_agent();
