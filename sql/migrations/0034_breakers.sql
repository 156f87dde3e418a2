-- Breakers: that a provider is left alone is one fact for every proxy of this database, by its clock.
-- circuit_open_until in the future: open; past: half-open, to be tried by one call at a time; NULL: closed.

-- It begins at the time, in milliseconds, so that of a row which is made anew the version is newer too.
ALTER TABLE x402_procurement_provider_stats ADD COLUMN IF NOT EXISTS circuit_version bigint NOT NULL
    DEFAULT (extract(epoch FROM clock_timestamp()) * 1000);
ALTER TABLE x402_procurement_provider_stats ADD COLUMN IF NOT EXISTS circuit_error text;
ALTER TABLE x402_procurement_provider_stats ADD COLUMN IF NOT EXISTS circuit_successes integer NOT NULL DEFAULT 0;
ALTER TABLE x402_procurement_provider_stats ADD COLUMN IF NOT EXISTS probe_owner uuid;
ALTER TABLE x402_procurement_provider_stats ADD COLUMN IF NOT EXISTS probe_until timestamptz;
ALTER TABLE x402_procurement_provider_stats DROP CONSTRAINT IF EXISTS x402_procurement_provider_stats_probe_check;
ALTER TABLE x402_procurement_provider_stats ADD CONSTRAINT x402_procurement_provider_stats_probe_check
    CHECK ((probe_owner IS NULL) = (probe_until IS NULL));
COMMENT ON COLUMN x402_procurement_provider_stats.circuit_version IS
    'rises with every turn of the breaker: what was read before is out of date';
COMMENT ON COLUMN x402_procurement_provider_stats.circuit_error IS 'why the breaker was opened last';
COMMENT ON COLUMN x402_procurement_provider_stats.circuit_successes IS
    'calls that went well since it was half-open; enough of them close it';
COMMENT ON COLUMN x402_procurement_provider_stats.probe_owner IS 'the one call that may try the provider now';
COMMENT ON COLUMN x402_procurement_provider_stats.probe_until IS
    'until when, unless its process says again that it is under way';
CREATE INDEX IF NOT EXISTS idx_provider_stats_tripped ON x402_procurement_provider_stats (circuit_open_until)
    WHERE circuit_open_until IS NOT NULL;

-- Whoever turns a breaker, an operator by hand as well, begins its next version.
CREATE OR REPLACE FUNCTION turn_breaker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.circuit_version := OLD.circuit_version + 1;
    NEW.circuit_successes := 0;
    NEW.probe_owner := NULL;
    NEW.probe_until := NULL;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS provider_stats_turn ON x402_procurement_provider_stats;
CREATE TRIGGER provider_stats_turn BEFORE UPDATE OF circuit_open_until ON x402_procurement_provider_stats
    FOR EACH ROW WHEN (NEW.circuit_open_until IS DISTINCT FROM OLD.circuit_open_until)
    EXECUTE FUNCTION turn_breaker();

-- As before; and every proxy hears of it.
CREATE OR REPLACE FUNCTION audit_breaker() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_before timestamptz := CASE TG_OP WHEN 'UPDATE' THEN OLD.circuit_open_until END;
BEGIN
    IF NEW.circuit_open_until IS NOT DISTINCT FROM v_before THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('autopay_breakers', '');
    IF NEW.circuit_open_until > now() AND coalesce(v_before, '-infinity') <= now() THEN
        PERFORM note_event(NULL, 'CIRCUIT_BREAKER', NULL, jsonb_build_object(
            'state', 'open', 'provider', NEW.id, 'open_until', NEW.circuit_open_until,
            'failures', NEW.consecutive_failures, 'error', coalesce(NEW.circuit_error, NEW.last_error)),
            'WARNING');
    ELSIF NEW.circuit_open_until IS NULL THEN
        PERFORM note_event(NULL, 'CIRCUIT_BREAKER', NULL, jsonb_build_object(
            'state', 'closed', 'provider', NEW.id), 'INFO');
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS provider_stats_audit ON x402_procurement_provider_stats;
CREATE TRIGGER provider_stats_audit AFTER INSERT OR UPDATE OF circuit_open_until ON x402_procurement_provider_stats
    FOR EACH ROW EXECUTE FUNCTION audit_breaker();
