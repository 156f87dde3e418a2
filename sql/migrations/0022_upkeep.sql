-- What keeps the database well while the proxy runs, which owns nothing and so could drop nothing.

-- When each task was last done, by whichever proxy did it: a new leader goes on from here.
CREATE TABLE IF NOT EXISTS maintenance_tasks (
    task         text PRIMARY KEY CHECK (task IN ('partitions', 'prune', 'backup', 'audit')),
    succeeded_at timestamptz,
    failed_at    timestamptz,
    error        text CHECK (length(error) <= 1000),
    details      jsonb,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN maintenance_tasks.error IS 'why it failed last; null once it has succeeded again';
DROP TRIGGER IF EXISTS maintenance_tasks_touch ON maintenance_tasks;
CREATE TRIGGER maintenance_tasks_touch BEFORE UPDATE ON maintenance_tasks
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- A task was done (`p_error` null), or could not be. What is worth an event leaves one.
CREATE OR REPLACE FUNCTION note_maintenance(p_task text, p_error text, p_details jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO maintenance_tasks AS t (task, succeeded_at, failed_at, error, details)
    VALUES (p_task, CASE WHEN p_error IS NULL THEN now() END, CASE WHEN p_error IS NOT NULL THEN now() END,
            left(p_error, 1000), p_details)
    ON CONFLICT (task) DO UPDATE SET
        succeeded_at = coalesce(excluded.succeeded_at, t.succeeded_at),
        failed_at = coalesce(excluded.failed_at, t.failed_at),
        error = excluded.error,
        details = coalesce(excluded.details, t.details);
    IF p_error IS NOT NULL OR p_details IS NOT NULL THEN
        PERFORM note_event(NULL, 'MAINTENANCE', NULL, jsonb_strip_nulls(jsonb_build_object(
                'task', p_task, 'error', left(p_error, 1000), 'details', p_details)),
            CASE WHEN p_error IS NULL THEN 'INFO' ELSE 'ERROR' END::audit_severity);
    END IF;
END $$;

-- The partitioned logs: what retention is about. The books are not among them.
CREATE OR REPLACE FUNCTION kept_by_the_month() RETURNS regclass[]
LANGUAGE sql STABLE SET search_path = public, pg_temp AS $$
    SELECT ARRAY['policy_decision_logs', 'transaction_logs', 'audit_events', 'query_logs']::regclass[]
$$;

-- Every month that lies wholly more than `p_days` back leaves as a whole partition, never as rows.
-- Returns what went, or with `p_dry_run` what would.
CREATE OR REPLACE FUNCTION prune_partitions(p_days integer, p_dry_run boolean DEFAULT false)
RETURNS TABLE (name text, ended_at timestamptz, bytes bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    v_parent text;
BEGIN
    -- Whoever has taken over the proxy shall not wipe out what it did.
    IF p_days < 31 THEN
        RAISE EXCEPTION 'logs are kept for 31 days at least, not for %', p_days
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(402, 2);  -- no partition is made meanwhile
    FOR v_parent, name, ended_at, bytes IN
        SELECT i.inhparent::regclass::text, c.relname::text,
               (regexp_match(pg_get_expr(c.relpartbound, c.oid), $re$TO \('([^']+)'\)$re$))[1]::timestamptz,
               pg_total_relation_size(c.oid)
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = ANY (kept_by_the_month())
         ORDER BY 1, 2
    LOOP
        CONTINUE WHEN ended_at IS NULL OR ended_at > now() - make_interval(days => p_days);
        IF NOT p_dry_run THEN
            EXECUTE format('ALTER TABLE %s DETACH PARTITION %I', v_parent, name);
            EXECUTE format('DROP TABLE %I', name);
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- Rows that found no month to go to: how many of each log, counted to 10,000 at most.
CREATE OR REPLACE FUNCTION default_partition_rows() RETURNS TABLE (name text, row_count bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    FOR name IN SELECT unnest(kept_by_the_month())::text LOOP
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %I LIMIT 10000) AS found', name || '_default')
            INTO row_count;
        IF row_count > 0 THEN
            RETURN NEXT;
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION note_maintenance(text, text, jsonb), kept_by_the_month(),
    prune_partitions(integer, boolean), default_partition_rows() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION note_maintenance(text, text, jsonb), prune_partitions(integer, boolean),
    default_partition_rows() TO autopay_writer, autopay_admin;

DO $$ BEGIN
    PERFORM open_table('maintenance_tasks',
        ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
END $$;
GRANT SELECT ON maintenance_tasks TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
