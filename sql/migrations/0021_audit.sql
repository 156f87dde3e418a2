-- The books, checked against themselves; and the one switch that stops all spending.

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
GRANT EXECUTE ON FUNCTION note_takeover() TO autopay_writer, autopay_admin;

-- Every way in which the books could be wrong, found; no row is good. `p_since`: only what changed
-- since then (NULL: everything). One snapshot, so that payments under way are no findings.
CREATE OR REPLACE FUNCTION audit_books(p_since timestamptz DEFAULT NULL)
RETURNS TABLE (rule text, subject text, found text, expected text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    -- held = the sum of the open payments
    SELECT 'held_is_open', coalesce(c.scope, o.scope), coalesce(c.held_micros, 0)::text, coalesce(o.sum, 0)::text
      FROM (SELECT b.scope, b.held_micros FROM budget_counters b WHERE b.held_micros <> 0) c
      FULL JOIN (SELECT s AS scope, sum(p.price_micros) AS sum
                   FROM payments p, unnest(p.scopes) s
                  WHERE p.status IN ('INITIATED', 'SIGNED') GROUP BY s) o ON o.scope = c.scope
     WHERE coalesce(c.held_micros, 0) <> coalesce(o.sum, 0)
    UNION ALL
    -- spent = the sum of the settled payments, and as many of them as were counted
    SELECT 'spent_is_settled', c.scope, c.spent_micros || ' in ' || c.paid_calls,
           coalesce(o.sum, 0) || ' in ' || coalesce(o.calls, 0)
      FROM budget_counters c
      LEFT JOIN (SELECT s AS scope, sum(p.price_micros) AS sum, count(*) AS calls
                   FROM payments p, unnest(p.scopes) s
                  WHERE p.status IN ('CONFIRMED', 'VERIFIED')
                    AND (p_since IS NULL OR p.created_at >= date_trunc('day', p_since, 'UTC') - interval '1 day')
                  GROUP BY s) o ON o.scope = c.scope
     WHERE (p_since IS NULL OR c.day >= (p_since AT TIME ZONE 'UTC')::date)
       AND (c.spent_micros <> coalesce(o.sum, 0) OR c.paid_calls <> coalesce(o.calls, 0))
    UNION ALL
    -- nothing ever stood above the highest limit of its window
    SELECT 'within_limit', c.scope, (c.spent_micros + c.held_micros)::text, c.top_limit_micros::text
      FROM budget_counters c
     WHERE c.spent_micros + c.held_micros > c.top_limit_micros
       AND (p_since IS NULL OR c.updated_at >= p_since)
    UNION ALL
    -- a payment's counters are there
    SELECT 'counters_exist', p.id::text, s, 'a counter'
      FROM payments p, unnest(p.scopes) s
     WHERE p.status <> 'FAILED' AND (p_since IS NULL OR p.created_at >= p_since)
       AND NOT EXISTS (SELECT 1 FROM budget_counters c WHERE c.scope = s)
    UNION ALL
    -- what is settled has its receipt, of the same amount
    SELECT 'settled_has_receipt', p.id::text,
           coalesce(l.amount || ' ' || l.symbol, 'none'), p.amount_atomic || ' ' || p.symbol
      FROM payments p LEFT JOIN x402_payment_logs l ON l.id = p.id
     WHERE p.status IN ('CONFIRMED', 'VERIFIED') AND (p_since IS NULL OR p.created_at >= p_since)
       AND (l.id IS NULL OR l.amount <> p.amount_atomic::text OR l.amount_micros <> p.price_micros
            OR l.agent_id <> p.agent_id OR l.pay_to <> p.pay_to)
    UNION ALL
    -- a receipt has its payment, settled or proved to have been a lie
    SELECT 'receipt_has_payment', l.id::text, coalesce(p.status::text, 'none'), 'CONFIRMED or VERIFIED'
      FROM x402_payment_logs l LEFT JOIN payments p ON p.id = l.id
     WHERE (p_since IS NULL OR l.created_at >= p_since)
       AND (p.id IS NULL OR p.status IN ('INITIATED', 'SIGNED')
            OR p.status = 'FAILED' AND p.release_reason <> 'proved_dead')
    UNION ALL
    -- one request has one payment of unknown fate at most
    SELECT 'no_live_duplicates', min(p.id::text), count(*)::text, '1'
      FROM payments p
     WHERE p.status IN ('INITIATED', 'SIGNED') AND p.in_doubt_since IS NOT NULL AND p.request_key IS NOT NULL
     GROUP BY p.agent_id, p.request_key
    HAVING count(*) > 1 AND max(p.created_at) > min(p.in_doubt_since)
    UNION ALL
    -- what was granted was decided
    SELECT 'payment_has_decision', p.id::text, 'none', 'an allow'
      FROM payments p
     WHERE p.created_at >= coalesce(p_since, now() - interval '30 days')
       AND p.created_at >= (SELECT min(d.created_at) FROM policy_decision_logs d)
       AND NOT EXISTS (SELECT 1 FROM policy_decision_logs d
                        WHERE d.payment_id = p.id AND d.decision = 'allow'
                          AND d.created_at >= p.created_at - interval '1 minute'
                          AND d.created_at <= p.created_at + interval '1 minute')
$$;

GRANT EXECUTE ON FUNCTION audit_books(timestamptz)
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT EXECUTE ON FUNCTION halt_spending(boolean, text, text) TO autopay_writer, autopay_admin;
