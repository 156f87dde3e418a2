-- What operators need of the database: tokens that can be named and that end by themselves, and one
-- event for everything that was changed through their API.

-- A token is spoken of by its id: its hash is nobody's business.
ALTER TABLE agent_tokens
    ADD COLUMN IF NOT EXISTS id uuid NOT NULL DEFAULT gen_random_uuid(),
    ADD COLUMN IF NOT EXISTS expires_at timestamptz,
    DROP CONSTRAINT IF EXISTS agent_tokens_expires_at_check,
    ADD CONSTRAINT agent_tokens_expires_at_check CHECK (expires_at > created_at);
CREATE UNIQUE INDEX IF NOT EXISTS idx_agent_tokens_id ON agent_tokens (id);
COMMENT ON COLUMN agent_tokens.expires_at IS
    'from then on it opens nothing, by this database''s clock; NULL: it holds until it is revoked';

ALTER TYPE audit_event_type ADD VALUE IF NOT EXISTS 'OPERATOR_ACTION';

-- Called last in an operator's transaction: one event if anything was written in it, none if nothing
-- was. Names of agents stay out of the details: the agent may have to be forgotten. Whether there is one.
CREATE OR REPLACE FUNCTION note_change(p_agent text, p_details jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN false;
    END IF;
    PERFORM note_event((SELECT a.id FROM agents a WHERE a.name = p_agent), 'OPERATOR_ACTION', NULL,
                       p_details, 'INFO');
    RETURN true;
END $$;
GRANT EXECUTE ON FUNCTION note_change(text, jsonb) TO autopay_admin;

-- Every budget with a window of time that is in force: of each active agent, at a provider or not, and
-- of all agents together at one. What is spent and held is what the next reservation would meet.
CREATE OR REPLACE FUNCTION budgets_now(p_agent text) RETURNS TABLE (
    agent text, provider text, win text, hours integer, limit_micros bigint, limit_payments bigint,
    spent_micros bigint, held_micros bigint, payments bigint, resets_at timestamptz
) LANGUAGE plpgsql STABLE SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH known AS (
        SELECT a.id, a.name::text AS name, x.daily_limit_micros AS daily
          FROM agents a JOIN agent_policies x ON x.agent_id = a.id
         WHERE a.is_active AND (p_agent IS NULL OR a.name = p_agent)
    ), said AS (
        SELECT k.id, k.name, l.provider, l.win, l.hours::integer AS hours,
               coalesce(max(l.limit_micros) FILTER (WHERE l.agent_id IS NOT NULL), max(l.limit_micros)) AS micros,
               coalesce(max(l.limit_payments) FILTER (WHERE l.agent_id IS NOT NULL), max(l.limit_payments)) AS times
          FROM known k JOIN policy_limits l ON l.agent_id = k.id OR l.agent_id IS NULL AND l.provider IS NULL
         WHERE l.win NOT IN ('session', 'trace')
         GROUP BY 1, 2, 3, 4, 5
        UNION ALL
        SELECT NULL, NULL, l.provider, l.win, l.hours::integer, l.limit_micros, l.limit_payments FROM policy_limits l
         WHERE p_agent IS NULL AND l.agent_id IS NULL AND l.provider IS NOT NULL
    )
    SELECT k.name, NULL::text, 'day', NULL::integer, k.daily, NULL::bigint, coalesce(c.spent_micros, 0),
           coalesce(c.held_micros, 0), coalesce(c.paid_calls + c.held_calls, 0), utc_midnight_after(t.today)
      FROM known k CROSS JOIN (SELECT (now() AT TIME ZONE 'UTC')::date AS today) t
      LEFT JOIN budget_counters c ON c.scope = agent_day_scope(k.id, t.today)
    UNION ALL
    SELECT s.name, s.provider, s.win, s.hours, s.micros, s.times, u.spent, u.held, u.times, window_end(s.win, now())
      FROM said s CROSS JOIN LATERAL (
        SELECT coalesce(sum(c.spent_micros), 0)::bigint AS spent, coalesce(sum(c.held_micros), 0)::bigint AS held,
               coalesce(sum(c.paid_calls + c.held_calls), 0)::bigint AS times
          FROM budget_counters c
         WHERE s.win <> 'rolling' AND c.scope = window_scope(s.win, s.id, s.provider, now())
        HAVING s.win <> 'rolling'
        UNION ALL
        SELECT r.spent, r.held, r.calls FROM rolling_sum(s.id, s.provider, s.hours, now()) r WHERE s.win = 'rolling'
      ) u
    ORDER BY 1 NULLS LAST, 2 NULLS FIRST, 3, 4;
END $$;
GRANT EXECUTE ON FUNCTION budgets_now(text) TO autopay_reader, autopay_auditor, autopay_admin;
