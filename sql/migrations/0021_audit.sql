-- The one switch that stops all spending: thrown by an operator, by an audit that finds the books wrong
-- (`audit_books`, 0029), or when the database is not the one that it was.

-- A server that another takes over from begins a new timeline: what the old one acknowledged last may
-- not be there. Reservations that are lost would be spent twice.
CREATE OR REPLACE FUNCTION current_timeline() RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint
$$;

-- One row for ever. Reservations read it under a lock, so whoever has thrown the switch and got the
-- answer can be sure that nothing is granted any more.
CREATE TABLE IF NOT EXISTS spending (
    single        boolean PRIMARY KEY DEFAULT true CHECK (single),
    halted        boolean NOT NULL DEFAULT false,
    reason        text,
    by            text,
    timeline      bigint NOT NULL DEFAULT current_timeline(),
    failover_safe boolean NOT NULL DEFAULT false,
    since         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN spending.timeline IS 'of the server when spending was last known to be in order';
COMMENT ON COLUMN spending.failover_safe IS
    'standbys are synchronous, so that nothing is lost when one takes over, and spending goes on';
INSERT INTO spending DEFAULT VALUES ON CONFLICT DO NOTHING;
SELECT open_table('spending', ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
GRANT SELECT ON spending TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;

-- Whether it was the other way before.
CREATE OR REPLACE FUNCTION halt_spending(p_halt boolean, p_reason text, p_by text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE spending
       SET halted = p_halt, reason = p_reason, by = p_by, since = now(),
           timeline = CASE WHEN p_halt THEN timeline ELSE current_timeline() END
     WHERE halted <> p_halt OR NOT p_halt AND timeline <> current_timeline();
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM note_event(NULL, 'ALARM', NULL, jsonb_build_object(
        'code', CASE WHEN p_halt THEN 'spending_halted' ELSE 'spending_resumed' END,
        'reason', p_reason, 'by', p_by), CASE WHEN p_halt THEN 'ERROR' ELSE 'INFO' END::audit_severity);
    RETURN true;
END $$;

-- Makes a takeover that stopped all spending plain to see. Whether there was one.
CREATE OR REPLACE FUNCTION note_takeover() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM spending WHERE timeline <> current_timeline() AND failover_safe) THEN
        UPDATE spending SET timeline = current_timeline();
        PERFORM note_event(NULL, 'ALARM', NULL, '{"code": "database_taken_over"}', 'WARNING');
    END IF;
    RETURN EXISTS (SELECT 1 FROM spending WHERE timeline <> current_timeline())
       AND halt_spending(true, 'the database was taken over by another server: what was acknowledged last '
                               'may be lost', 'autopay upkeep');
END $$;
GRANT EXECUTE ON FUNCTION note_takeover(), halt_spending(boolean, text, text) TO autopay_writer, autopay_admin;
