-- Notices: what happened, in an order in which nothing is ever missed.

-- In a transaction of its own no new value can be used: the functions below name it in their bodies
-- only, which are read when they run.
ALTER TYPE audit_event_type ADD VALUE IF NOT EXISTS 'BUDGET_ALERT';

-- Events are committed in another order than that of their times or ids: whoever asked for all after
-- the last one it has seen would miss those that were begun earlier and committed later. So a row
-- says which transaction wrote it. Transactions below the oldest that still runs are all over, so what
-- they wrote is complete: that far, and no further, events are told, in the order (xid, id).
-- Rows from before have no place among them.
ALTER TABLE audit_events ADD COLUMN IF NOT EXISTS xid xid8;
ALTER TABLE audit_events ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
ALTER TABLE policy_decision_logs ADD COLUMN IF NOT EXISTS xid xid8;
ALTER TABLE policy_decision_logs ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
COMMENT ON COLUMN audit_events.xid IS 'the transaction that wrote it; NULL from before there were notices';
COMMENT ON COLUMN policy_decision_logs.xid IS 'the transaction that wrote it; NULL from before there were notices';
CREATE INDEX IF NOT EXISTS idx_audit_events_told ON audit_events (xid, id) WHERE xid IS NOT NULL;
-- A denial is told from its decision row: there is no second row for it.
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_told ON policy_decision_logs (xid, id)
    WHERE xid IS NOT NULL AND decision = 'deny';

-- A server counts its transactions by itself, so what a restored backup says of another server's is
-- nothing here: of rows with such numbers, only those from `told_from` on are told.
CREATE TABLE IF NOT EXISTS event_servers (
    system_identifier bigint PRIMARY KEY,
    told_from         timestamptz NOT NULL
);
COMMENT ON TABLE event_servers IS 'the servers that this database has been on';
SELECT open_table('event_servers', ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
GRANT SELECT ON event_servers TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;

-- From when on events are told on this server.
CREATE OR REPLACE FUNCTION events_since() RETURNS timestamptz
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_server bigint := (SELECT c.system_identifier FROM pg_control_system() c);
BEGIN
    INSERT INTO event_servers (system_identifier, told_from)
    SELECT v_server, CASE WHEN EXISTS (
            SELECT 1 FROM audit_events e WHERE e.xid > pg_current_xact_id()
            UNION ALL
            SELECT 1 FROM policy_decision_logs d WHERE d.decision = 'deny' AND d.xid > pg_current_xact_id())
        THEN now() ELSE 'epoch' END
     WHERE NOT EXISTS (SELECT 1 FROM event_servers s WHERE s.system_identifier = v_server)
    ON CONFLICT DO NOTHING;
    RETURN (SELECT s.told_from FROM event_servers s WHERE s.system_identifier = v_server);
END $$;
REVOKE ALL ON FUNCTION events_since() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION events_since() TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;

-- Webhooks: which events are sent where, by whichever proxy comes first.

ALTER TYPE audit_event_type ADD VALUE IF NOT EXISTS 'WEBHOOK_CHANGE';

CREATE TABLE IF NOT EXISTS webhooks (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    url        text NOT NULL CHECK (length(url) <= 2000 AND (url ~ '^https://' OR private AND url ~ '^http://')),
    sealed     bytea NOT NULL CHECK (is_sealed(sealed, 32)),
    types      text[] NOT NULL CHECK (cardinality(types) BETWEEN 1 AND 50),
    private    boolean NOT NULL DEFAULT false,
    active     boolean NOT NULL DEFAULT true,
    reason     text CHECK (length(reason) <= 300),
    told_from  xid8 NOT NULL DEFAULT pg_snapshot_xmin(pg_current_snapshot()),
    dropped    bigint NOT NULL DEFAULT 0 CHECK (dropped >= 0),
    created_by text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN webhooks.sealed IS 'the secret that its messages are signed with, 32 bytes, sealed for this id';
COMMENT ON COLUMN webhooks.private IS 'it may lead to loopback or into a private network, and by plain http there';
COMMENT ON COLUMN webhooks.reason IS 'why it is not active, where that was not an operator''s wish';
COMMENT ON COLUMN webhooks.told_from IS 'what older transactions wrote is not sent';
COMMENT ON COLUMN webhooks.dropped IS 'messages for which there was no room behind those that wait';
DROP TRIGGER IF EXISTS webhooks_touch ON webhooks;
CREATE TRIGGER webhooks_touch BEFORE UPDATE ON webhooks FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- Every path of change leaves an event. A webhook's path and query may be its secret: its host is told.
CREATE OR REPLACE FUNCTION audit_webhook() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_row webhooks := coalesce(NEW, OLD);
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.url, NEW.types, NEW.private, NEW.active)
                            IS NOT DISTINCT FROM (OLD.url, OLD.types, OLD.private, OLD.active) THEN
        RETURN NULL;
    END IF;
    PERFORM note_event(NULL, 'WEBHOOK_CHANGE', v_row.id, jsonb_strip_nulls(jsonb_build_object(
        'change', CASE TG_OP WHEN 'INSERT' THEN 'added' WHEN 'DELETE' THEN 'removed' ELSE 'changed' END,
        'host', substring(v_row.url FROM '^https?://(?:[^/?#]*@)?([^/?#]*)'), 'types', v_row.types,
        'private', v_row.private, 'active', v_row.active, 'reason', v_row.reason,
        'by', coalesce(nullif(current_setting('autopay.by', true), ''), session_user::text),
        'origin', nullif(current_setting('autopay.origin', true), ''))), 'INFO');
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS webhooks_audit ON webhooks;
CREATE TRIGGER webhooks_audit AFTER INSERT OR UPDATE OR DELETE ON webhooks
    FOR EACH ROW EXECUTE FUNCTION audit_webhook();

-- A message to one webhook about one event. Its id is the message's, whichever attempt.
CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    webhook_id  uuid NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    event_id    text NOT NULL,
    agent_id    uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    type        text NOT NULL,
    payload     jsonb NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_try    timestamptz NOT NULL DEFAULT now(),
    last_status integer,
    last_error  text CHECK (length(last_error) <= 300),
    created_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (webhook_id, event_id),
    CHECK ((state = 'waiting') = (finished_at IS NULL))
);
COMMENT ON COLUMN webhook_deliveries.next_try IS
    'while an attempt is under way: from when on it is held to be lost, with the process that made it';
CREATE INDEX IF NOT EXISTS idx_webhook_deliveries_due ON webhook_deliveries (webhook_id, next_try)
    WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS idx_webhook_deliveries_finished ON webhook_deliveries (finished_at)
    WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_webhook_deliveries_newest ON webhook_deliveries (webhook_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_webhook_deliveries_agent ON webhook_deliveries (agent_id);

-- How far events have been made messages of, for all webhooks. One row for ever.
CREATE TABLE IF NOT EXISTS webhook_progress (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    xid    xid8 NOT NULL DEFAULT '0',
    id     uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
INSERT INTO webhook_progress DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Makes messages of events: each of `p_messages` {webhook, event_id, agent_id, agent, type, payload} a
-- delivery, and goes on from the place before them to the one behind. NULL, and nothing is done, if
-- another proxy has been here since; else how many. A webhook that has `p_most` waiting gets no more.
CREATE OR REPLACE FUNCTION queue_deliveries(
    p_from_xid text, p_from_id uuid, p_to_xid text, p_to_id uuid, p_messages jsonb, p_most integer
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_queued integer;
BEGIN
    UPDATE webhook_progress SET xid = p_to_xid::xid8, id = p_to_id
     WHERE xid = p_from_xid::xid8 AND id = p_from_id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF p_messages = '[]' THEN
        RETURN 0;
    END IF;
    -- Held still until the end: no message names an agent that is being forgotten meanwhile.
    PERFORM 1 FROM agents a WHERE a.id IN (SELECT (m ->> 'agent_id')::uuid FROM jsonb_array_elements(p_messages) m)
      ORDER BY a.id FOR SHARE;
    WITH wanted AS (
        SELECT w.id AS webhook_id, m, n,
               row_number() OVER (PARTITION BY w.id ORDER BY n)
               + (SELECT count(*) FROM webhook_deliveries d
                   WHERE d.webhook_id = w.id AND d.state = 'waiting') <= p_most AS fits
          FROM jsonb_array_elements(p_messages) WITH ORDINALITY t (m, n)
          JOIN webhooks w ON w.id = (m ->> 'webhook')::uuid AND w.active
          JOIN agents a ON a.id = (m ->> 'agent_id')::uuid AND a.name = m ->> 'agent'
    ), queued AS (
        INSERT INTO webhook_deliveries (webhook_id, event_id, agent_id, type, payload)
        SELECT webhook_id, m ->> 'event_id', (m ->> 'agent_id')::uuid, m ->> 'type', m -> 'payload'
          FROM wanted WHERE fits ORDER BY n
        ON CONFLICT (webhook_id, event_id) DO NOTHING RETURNING 1
    ), counted AS (
        UPDATE webhooks w SET dropped = w.dropped + x.dropped
          FROM (SELECT webhook_id, count(*) AS dropped FROM wanted WHERE NOT fits GROUP BY 1) x
         WHERE w.id = x.webhook_id
    )
    SELECT count(*) INTO v_queued FROM queued;
    RETURN v_queued;
END $$;

-- What is waiting to be said about an agent is not said any more once it has to be forgotten.
CREATE OR REPLACE FUNCTION forget_deliveries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM webhook_deliveries WHERE agent_id = NEW.id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_forget_deliveries ON agents;
CREATE TRIGGER agents_forget_deliveries AFTER UPDATE OF erased_at ON agents
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION forget_deliveries();

SELECT open_table('webhooks', ARRAY['autopay_writer', 'autopay_admin']);
SELECT open_table('webhook_deliveries', ARRAY['autopay_writer', 'autopay_admin']);
SELECT open_table('webhook_progress', ARRAY['autopay_writer', 'autopay_admin']);
GRANT SELECT ON webhooks, webhook_deliveries, webhook_progress TO autopay_writer, autopay_admin;
GRANT UPDATE (active, reason) ON webhooks TO autopay_writer;
GRANT UPDATE (state, attempts, next_try, last_status, last_error, finished_at), DELETE
    ON webhook_deliveries TO autopay_writer;
GRANT INSERT, UPDATE, DELETE ON webhooks TO autopay_admin;
REVOKE ALL ON FUNCTION queue_deliveries(text, uuid, text, uuid, jsonb, integer), audit_webhook(),
    forget_deliveries() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION queue_deliveries(text, uuid, text, uuid, jsonb, integer) TO autopay_writer;

-- Budget alerts: a counter that reaches 50, 80 or 100 % of its limit leaves one event for each, by
-- itself, in the transaction that takes it there (`guard_budget`, 0029). A payment that passes several
-- leaves that of the highest. 100 % is a counter that is full, or the first payment that was denied
-- because it did not fit: what is left may be too little for any price. A limit that is raised later
-- begins no new count.

-- `p_payments`: what is used and the limit are numbers of payments.
CREATE OR REPLACE FUNCTION alert_budget(
    p_counter budget_counters, p_percent smallint, p_used bigint, p_limit bigint, p_payments boolean
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_event(p_counter.agent_id, 'BUDGET_ALERT', NULL, jsonb_strip_nulls(jsonb_build_object(
        'percent', p_percent, 'window', p_counter.kind, 'day', p_counter.day,
        'provider', CASE WHEN p_counter.kind::text NOT IN ('trace', 'wallet_day') THEN p_counter.subject END,
        'used_micros', CASE WHEN NOT p_payments THEN p_used END, 'limit_micros', CASE WHEN NOT p_payments THEN p_limit END,
        'used', CASE WHEN p_payments THEN p_used END, 'limit', CASE WHEN p_payments THEN p_limit END)),
        CASE p_percent WHEN 50 THEN 'INFO' ELSE 'WARNING' END::audit_severity);
END $$;

-- 50, 80 or 100; 0 below, and where there is no limit.
CREATE OR REPLACE FUNCTION budget_share(p_used bigint, p_limit bigint) RETURNS smallint
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN CASE WHEN p_used >= p_limit THEN 100 WHEN 5 * p_used >= 4 * p_limit THEN 80
                WHEN 2 * p_used >= p_limit THEN 50 ELSE 0 END;
END $$;

-- A rolling window is no counter that could be full once: of it, the first denial of each day is told.
CREATE OR REPLACE FUNCTION alert_denial() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_counter  budget_counters;
    v_payments boolean := NEW.reason = 'too_many_payments';
BEGIN
    SELECT * INTO v_counter FROM budget_counters c WHERE c.scope = NEW.scope;
    IF NOT FOUND THEN
        RETURN NULL;
    ELSIF v_counter.kind::text = 'rolling' THEN
        IF v_counter.updated_at >= date_trunc('day', now(), 'UTC') AND v_counter.alerted = 100 THEN
            RETURN NULL;
        END IF;
        v_counter.spent_micros := NEW.scope_spent_micros;
        v_counter.held_micros := NEW.scope_held_micros;
    ELSIF v_counter.alerted = 100 THEN
        RETURN NULL;
    END IF;
    UPDATE budget_counters c SET alerted = 100, updated_at = now() WHERE c.scope = NEW.scope;
    PERFORM alert_budget(v_counter, 100::smallint,
        CASE WHEN v_payments THEN (NEW.facts ->> 'payments')::bigint ELSE v_counter.spent_micros + v_counter.held_micros END,
        CASE WHEN v_payments THEN (NEW.facts ->> 'limit_payments')::bigint ELSE NEW.limit_micros END, v_payments);
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS policy_decision_logs_alert ON policy_decision_logs;
CREATE TRIGGER policy_decision_logs_alert AFTER INSERT ON policy_decision_logs FOR EACH ROW
    WHEN (NEW.decision = 'deny' AND NEW.scope IS NOT NULL
          AND (NEW.reason LIKE 'over\_%' AND NEW.reason NOT IN ('over_per_call_limit', 'over_loss_cap') OR NEW.reason = 'too_many_payments'))
    EXECUTE FUNCTION alert_denial();
REVOKE ALL ON FUNCTION alert_budget(budget_counters, smallint, bigint, bigint, boolean),
    budget_share(bigint, bigint), alert_denial() FROM PUBLIC;

-- What an agent may know of itself: its limits, what is used of them, and why it was refused last. An
-- agent that is bound to a session (`p_bound`) learns of no denial of another's. Of what refused it and
-- counts other agents too, it learns the limit, and no figure of theirs. Reads, and no more.
CREATE INDEX IF NOT EXISTS idx_policy_decision_logs_refused ON policy_decision_logs (agent_id, created_at DESC)
    WHERE decision = 'deny';
CREATE OR REPLACE FUNCTION agent_standing(p_agent_id uuid, p_session_id text, p_trace_id text, p_bound boolean)
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v_today  date := (now() AT TIME ZONE 'UTC')::date;
    v_policy agent_policies;
BEGIN
    SELECT p.* INTO v_policy FROM agent_policies p JOIN agents a ON a.id = p.agent_id
     WHERE p.agent_id = p_agent_id AND a.is_active;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object(
        'frozen', v_policy.frozen OR EXISTS (
            SELECT 1 FROM policy_rules l
             WHERE l.agent_id IS NULL AND l.provider IS NULL AND (l.rules ->> 'frozen')::boolean),
        'halted', (SELECT s.halted OR s.timeline <> current_timeline() AND NOT s.failover_safe FROM spending s),
        'version', policy_version(),
        'per_call_micros', v_policy.per_call_limit_micros,
        'windows', (
            SELECT jsonb_agg(jsonb_build_object(
                'window', CASE WHEN l.hours IS NULL THEN l.win ELSE l.hours || 'h' END,
                'provider', l.provider, 'limit_micros', least(w.micros, CASE WHEN l.provider IS NULL THEN CASE l.win
                    WHEN 'day' THEN v_policy.daily_limit_micros
                    WHEN 'session' THEN least(v_policy.session_limit_micros, c.limit_micros)
                    WHEN 'trace' THEN v_policy.trace_limit_micros END END),
                'spent_micros', coalesce(r.spent, c.spent_micros, 0), 'held_micros', coalesce(r.held, c.held_micros, 0),
                'limit_payments', w.payments, 'payments', coalesce(r.calls, c.paid_calls + c.held_calls, 0),
                'resets_at', window_end(l.win, now()))
                ORDER BY l.provider NULLS FIRST, array_position(
                    ARRAY['hour', 'day', 'month', 'lifetime', 'session', 'trace', 'rolling'], l.win), l.hours)
              FROM (SELECT 'day' AS win, NULL AS provider, NULL::smallint AS hours
                    UNION SELECT 'session', NULL, NULL UNION SELECT 'trace', NULL, NULL
                    UNION SELECT p.win, p.provider, p.hours FROM policy_limits p
                     WHERE p.agent_id = p_agent_id OR p.agent_id IS NULL AND p.provider IS NULL) l
              CROSS JOIN window_limit(p_agent_id, l.provider, l.win, l.hours) w
              LEFT JOIN budget_counters c ON c.scope = CASE
                    WHEN l.win = 'session' THEN session_scope(p_agent_id, p_session_id)
                    WHEN l.win = 'trace' THEN trace_scope(p_agent_id, p_trace_id)
                    WHEN l.win = 'day' AND l.provider IS NULL THEN agent_day_scope(p_agent_id, v_today)
                    WHEN l.win <> 'rolling' THEN window_scope(l.win, p_agent_id, l.provider, now()) END
              LEFT JOIN LATERAL rolling_sum(p_agent_id, l.provider, l.hours, now()) r ON l.win = 'rolling'
             WHERE (l.win <> 'session' OR p_session_id IS NOT NULL) AND (l.win <> 'trace' OR p_trace_id IS NOT NULL)),
        'denial', (
            SELECT jsonb_build_object(
                'code', d.reason, 'detail', d.detail, 'at', d.created_at, 'method', d.method,
                'endpoint', d.endpoint, 'session', d.session_id, 'price_micros', d.quoted_price_micros,
                'limit_micros', d.limit_micros,
                'spent_micros', CASE WHEN NOT s.shared THEN d.scope_spent_micros END,
                'held_micros', CASE WHEN NOT s.shared THEN d.scope_held_micros END,
                'possible_again', d.resets_at,
                'facts', CASE WHEN NOT s.shared THEN d.facts ELSE (
                    SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(d.facts) f
                     WHERE f.key IN ('rule', 'layer', 'window', 'of', 'provider', 'limit_payments', 'resets_at')) END)
              FROM policy_decision_logs d
              CROSS JOIN LATERAL (
                SELECT d.reason = 'price_drift' OR coalesce(d.facts ->> 'of' = 'provider', false)
                    OR d.scope IS NOT NULL AND NOT EXISTS (
                        SELECT 1 FROM budget_counters c WHERE c.scope = d.scope AND c.agent_id = p_agent_id)) s (shared)
             WHERE d.agent_id = p_agent_id AND d.decision = 'deny'
               AND (NOT p_bound OR d.session_id = p_session_id)
               AND d.created_at > now() - interval '31 days'
             ORDER BY d.created_at DESC, d.xid DESC LIMIT 1));
END $$;
REVOKE ALL ON FUNCTION agent_standing(uuid, text, text, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION agent_standing(uuid, text, text, boolean)
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
