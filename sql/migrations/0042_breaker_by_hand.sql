-- A breaker turned by an operator, in the same row as by the calls: so every proxy hears of it.

-- As before (0034), and who it was, if it was somebody: what people do is told each time.
CREATE OR REPLACE FUNCTION audit_breaker() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_before timestamptz := CASE TG_OP WHEN 'UPDATE' THEN OLD.circuit_open_until END;
    v_by text := nullif(current_setting('autopay.by', true), '');
BEGIN
    IF NEW.circuit_open_until IS NOT DISTINCT FROM v_before THEN
        RETURN NULL;
    END IF;
    PERFORM pg_notify('autopay_breakers', '');
    IF NEW.circuit_open_until > now() AND (v_by IS NOT NULL OR coalesce(v_before, '-infinity') <= now()) THEN
        PERFORM note_event(NULL, 'CIRCUIT_BREAKER', NULL, jsonb_build_object(
            'state', 'open', 'provider', NEW.id, 'open_until', NEW.circuit_open_until,
            'failures', NEW.consecutive_failures, 'error', coalesce(NEW.circuit_error, NEW.last_error))
            || jsonb_strip_nulls(jsonb_build_object('by', v_by)),
            'WARNING');
    ELSIF NEW.circuit_open_until IS NULL THEN
        PERFORM note_event(NULL, 'CIRCUIT_BREAKER', NULL, jsonb_strip_nulls(jsonb_build_object(
            'state', 'closed', 'provider', NEW.id, 'by', v_by)), 'INFO');
    END IF;
    RETURN NULL;
END $$;

-- Opens it for so many seconds from now, whatever it was before; NULL closes it, and its failures are
-- forgotten, or a proxy that starts would open it at the first one. Whether it was otherwise, and until
-- when it is open; no row where there is no record of the provider.
CREATE OR REPLACE FUNCTION turn_breaker_by_hand(p_provider text, p_seconds double precision, p_by text)
RETURNS TABLE (turned boolean, open_until timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM set_config('autopay.by', p_by, true);
    RETURN QUERY
    UPDATE x402_procurement_provider_stats
       SET circuit_open_until = now() + make_interval(secs => p_seconds),
           circuit_error = CASE WHEN p_seconds IS NULL THEN circuit_error
                                ELSE 'an operator keeps everybody off it' END,
           consecutive_failures = CASE WHEN p_seconds IS NULL THEN 0 ELSE consecutive_failures END
     WHERE id = p_provider AND (p_seconds IS NOT NULL OR circuit_open_until IS NOT NULL)
    RETURNING true, circuit_open_until;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, NULL::timestamptz FROM x402_procurement_provider_stats WHERE id = p_provider;
    END IF;
END $$;
GRANT EXECUTE ON FUNCTION turn_breaker_by_hand(text, double precision, text) TO autopay_admin;
