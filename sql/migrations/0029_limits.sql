-- Limits over every window: hour, day, month, lifetime, or the last N hours; in money, in payments, or
-- both; of an agent, of all agents at the providers that a pattern covers, of an agent at these.
--
-- A limit counts what its layer matches, on counters of its own (budget_counters; 80/hour and up), which
-- are made where a limit asks for them only. A limit that is set in mid-window starts with all that was
-- spent and is held in that window already (`count_window`).
--
-- A rolling window is the sum of the counters of its hours: N whole ones and the one under way, so that it
-- is never less strict than N hours. Two payments on either side of a full hour share no such counter;
-- what makes them wait for each other is the row 84/rolling, which holds no money.
--
-- Denials come in the order of the questions: frozen, spending_halted, over_per_call_limit, payments from
-- before (0026), abandoned, `policy_gate` (0030); then the counters by scope, each its money before its
-- number of payments. Locks are taken in the order that 0017 tells.

-- Not used before this transaction is over: functions name them as text, or in plpgsql, which binds late.
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'hour';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'day';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'month';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'lifetime';
ALTER TYPE budget_kind ADD VALUE IF NOT EXISTS 'rolling';

DO $$
DECLARE
    v_new boolean := NOT EXISTS (SELECT 1 FROM pg_attribute a
        WHERE a.attrelid = 'budget_counters'::regclass AND a.attname = 'held_calls');
BEGIN
    ALTER TABLE budget_counters
        ADD COLUMN IF NOT EXISTS held_calls bigint NOT NULL DEFAULT 0 CHECK (held_calls >= 0),
        ADD COLUMN IF NOT EXISTS brought_micros bigint NOT NULL DEFAULT 0 CHECK (brought_micros >= 0),
        ADD COLUMN IF NOT EXISTS brought_calls bigint NOT NULL DEFAULT 0 CHECK (brought_calls >= 0),
        ADD COLUMN IF NOT EXISTS alerted smallint NOT NULL DEFAULT 0 CHECK (alerted IN (0, 50, 80, 100));
    IF v_new THEN  -- once: from here on the moves count them
        UPDATE budget_counters c SET held_calls = o.calls
          FROM (SELECT s AS scope, count(*) AS calls FROM payments p, unnest(p.scopes) s
                 WHERE p.status IN ('INITIATED', 'SIGNED') GROUP BY s) o
         WHERE c.scope = o.scope;
    END IF;
END $$;
COMMENT ON COLUMN budget_counters.held_calls IS 'how many payments hold held_micros';
COMMENT ON COLUMN budget_counters.brought_micros IS
    'of spent_micros: by payments that were final when this began to be counted, and do not name it';
COMMENT ON COLUMN budget_counters.brought_calls IS 'of paid_calls: likewise';
COMMENT ON COLUMN budget_counters.alerted IS 'the highest share of its limit, in percent, that somebody was told of';

-- What policy_rules says of windows, one row each.
CREATE TABLE IF NOT EXISTS policy_limits (
    agent_id       uuid REFERENCES agents (id) ON DELETE RESTRICT,
    provider       text,
    win            text NOT NULL CHECK (win IN ('hour', 'day', 'month', 'session', 'trace', 'lifetime', 'rolling')),
    hours          smallint CHECK (hours BETWEEN 1 AND 744),
    limit_micros   bigint CHECK (limit_micros BETWEEN 0 AND 999999999999999999),
    limit_payments bigint CHECK (limit_payments >= 0),
    UNIQUE NULLS NOT DISTINCT (agent_id, provider, win, hours),
    CONSTRAINT policy_limits_hours_check1 CHECK ((win = 'rolling') = (hours IS NOT NULL)),
    CONSTRAINT policy_limits_says_check CHECK (num_nonnulls(limit_micros, limit_payments) > 0)
);
COMMENT ON TABLE policy_limits IS
    'neither agent nor provider: of each agent for itself, where its own layer does not name that limit';
COMMENT ON COLUMN policy_limits.win IS 'the window: in UTC, or rolling over so many hours';

ALTER TABLE policy_decision_logs
    ADD COLUMN IF NOT EXISTS resets_at timestamptz,
    ADD COLUMN IF NOT EXISTS facts jsonb;
COMMENT ON COLUMN policy_decision_logs.resets_at IS 'when the window that refused has room again, if it ever has';
COMMENT ON COLUMN policy_decision_logs.facts IS 'what a program is told beside the numbers';

-- How a pattern may name this provider (scheme://host:port): its host, the domains above, its origin.
CREATE OR REPLACE FUNCTION provider_names(p_provider text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    v_parts text[] := regexp_match(lower(p_provider), '^([a-z]+)://(.+?)\.?:([0-9]+)$');
    v_host  text := v_parts[2];
    v_names text[];
BEGIN
    IF v_parts IS NULL THEN
        RETURN ARRAY[p_provider];
    END IF;
    v_names := ARRAY[v_host, v_parts[1] || '://' || v_host || ':' || v_parts[3]];
    IF (v_parts[1], v_parts[3]) IN (('http', '80'), ('https', '443')) THEN
        v_names := v_names || (v_parts[1] || '://' || v_host);
    END IF;
    IF v_host !~ '^([0-9]+(\.[0-9]+){3}|\[.*\])$' THEN  -- an address has no domain
        WHILE strpos(v_host, '.') > 0 LOOP
            v_host := substr(v_host, strpos(v_host, '.') + 1);
            v_names := v_names || ('*.' || v_host);
        END LOOP;
    END IF;
    RETURN v_names;
END $$;

-- The key of a window's counter at a moment. Its rank keeps all of them behind those of 0017.
CREATE OR REPLACE FUNCTION window_scope(p_kind text, p_agent uuid, p_subject text, p_at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE p_kind WHEN 'hour' THEN '80/hour/' WHEN 'day' THEN '81/day/' WHEN 'month' THEN '82/month/'
                       WHEN 'lifetime' THEN '83/lifetime/' WHEN 'rolling' THEN '84/rolling/' END
        || coalesce(p_agent::text, '*') || '/' || coalesce(p_subject, '*')
        || CASE p_kind WHEN 'hour'  THEN to_char(p_at AT TIME ZONE 'UTC', '/YYYY-MM-DD"T"HH24')
                       WHEN 'day'   THEN to_char(p_at AT TIME ZONE 'UTC', '/YYYY-MM-DD')
                       WHEN 'month' THEN to_char(p_at AT TIME ZONE 'UTC', '/YYYY-MM') ELSE '' END
$$;

-- When a fixed window that is open at a moment ends; NULL for one that does not.
CREATE OR REPLACE FUNCTION window_end(p_kind text, p_at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_kind IN ('hour', 'month')
                THEN date_trunc(p_kind, p_at, 'UTC') AT TIME ZONE 'UTC' + ('1 ' || p_kind)::interval
                WHEN p_kind LIKE '%day' THEN date_trunc('day', p_at, 'UTC') AT TIME ZONE 'UTC' + interval '1 day'
           END AT TIME ZONE 'UTC'
$$;

-- All limits that a payment of this agent to this provider is under, beside those of its policy's
-- columns; NULL if there are none. Those of the defaults are its own where it has no own.
CREATE OR REPLACE FUNCTION limits_of(p_agent uuid, p_provider text) RETURNS policy_limits[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_names text[];
BEGIN
    IF NOT EXISTS (SELECT 1 FROM policy_limits) THEN
        RETURN NULL;
    END IF;
    v_names := provider_names(p_provider);
    RETURN (
        SELECT array_agg((x.agent_id, x.provider, x.win, x.hours, x.micros, x.payments)::policy_limits)
          FROM (SELECT CASE WHEN l.agent_id IS NOT NULL OR l.provider IS NULL THEN p_agent END AS agent_id,
                       l.provider, l.win, l.hours,
                       coalesce(max(l.limit_micros) FILTER (WHERE l.agent_id IS NOT NULL), max(l.limit_micros)) AS micros,
                       coalesce(max(l.limit_payments) FILTER (WHERE l.agent_id IS NOT NULL), max(l.limit_payments)) AS payments
                  FROM policy_limits l
                 WHERE (l.agent_id = p_agent OR l.agent_id IS NULL)
                   AND (l.provider IS NULL OR l.provider = ANY (v_names))
                 GROUP BY 1, 2, 3, 4) x);
END $$;

-- One of these limits.
CREATE OR REPLACE FUNCTION window_limit(
    p_agent uuid, p_provider text, p_win text, p_hours smallint, OUT micros bigint, OUT payments bigint
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT coalesce(max(l.limit_micros) FILTER (WHERE l.agent_id IS NOT NULL), max(l.limit_micros)),
           coalesce(max(l.limit_payments) FILTER (WHERE l.agent_id IS NOT NULL), max(l.limit_payments))
      INTO micros, payments FROM policy_limits l
     WHERE (l.agent_id = p_agent OR l.agent_id IS NULL AND (p_agent IS NULL OR p_provider IS NULL))
       AND l.provider IS NOT DISTINCT FROM p_provider
       AND l.win = p_win AND l.hours IS NOT DISTINCT FROM p_hours;
END $$;

-- What the last so many hours hold together, with those after `p_at`: a payment whose transaction began
-- later may have been before us.
CREATE OR REPLACE FUNCTION rolling_sum(
    p_agent uuid, p_subject text, p_hours integer, p_at timestamptz,
    OUT spent bigint, OUT held bigint, OUT calls bigint
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT coalesce(sum(b.spent_micros), 0), coalesce(sum(b.held_micros), 0),
           coalesce(sum(b.paid_calls + b.held_calls), 0)
      INTO spent, held, calls FROM budget_counters b
     WHERE b.scope >= window_scope('hour', p_agent, p_subject, p_at - make_interval(hours => p_hours))
       AND b.scope < left(window_scope('hour', p_agent, p_subject, p_at), -13) || '~';
END $$;

-- When so much (micro-USD, or payments) will have left a rolling window; NULL if there is not so much in it.
CREATE OR REPLACE FUNCTION rolling_end(
    p_agent uuid, p_subject text, p_hours integer, p_at timestamptz, p_micros bigint, p_calls bigint
) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT min((right(x.scope, 13) || ':00Z')::timestamptz) + make_interval(hours => p_hours + 1)
          FROM (SELECT b.scope, sum(b.spent_micros + b.held_micros) OVER w AS micros,
                       sum(b.paid_calls + b.held_calls) OVER w AS calls
                  FROM budget_counters b
                 WHERE b.scope >= window_scope('hour', p_agent, p_subject, p_at - make_interval(hours => p_hours))
                   AND b.scope < left(window_scope('hour', p_agent, p_subject, p_at), -13) || '~'
                WINDOW w AS (ORDER BY b.scope)) x
         WHERE x.micros >= p_micros AND x.calls >= p_calls);
END $$;

-- The last wall, should a caller ever come around the functions: neither spent + held nor the number of
-- payments ever RISES past its limit. They may stand above it (a limit lowered while money is held, or
-- set where more was spent already), and they may always fall. What rises by a payment counts it, and is
-- looked at for alerts (0031).
CREATE OR REPLACE FUNCTION guard_budget() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_kind   text := NEW.kind;
    v_own    boolean := v_kind IN ('agent_day', 'session', 'trace');
    v_stands bigint := NEW.spent_micros + NEW.held_micros;
    v_calls  bigint := NEW.paid_calls + NEW.held_calls;
    v_policy agent_policies;
    v_limit  bigint;
    v_most   bigint;
    v_window record;
    v_told   bigint;
    v_share  smallint;
BEGIN
    IF v_own THEN
        SELECT p.* INTO v_policy FROM agent_policies p WHERE p.agent_id = NEW.agent_id;
    END IF;
    v_limit := counter_limit(NEW, v_policy);
    IF (v_own OR v_kind IN ('hour', 'day', 'month', 'lifetime')) AND EXISTS (SELECT 1 FROM policy_limits) THEN
        SELECT least(v_limit, w.micros), w.payments INTO v_limit, v_most
          FROM window_limit(NEW.agent_id, CASE WHEN NOT v_own THEN NEW.subject END,
                            CASE v_kind WHEN 'agent_day' THEN 'day' ELSE v_kind END, NULL) w;
    END IF;
    v_told := v_limit;

    IF current_setting('autopay.counting', true) IS DISTINCT FROM 'on' THEN
        IF v_stands > v_limit OR v_calls > v_most OR v_limit IS NULL AND v_own THEN
            RAISE EXCEPTION 'budget % would rise to % of % in % of %', NEW.scope, v_stands, v_limit, v_calls, v_most
                USING ERRCODE = 'check_violation', CONSTRAINT = 'budget_guard';
        ELSIF TG_OP = 'UPDATE' AND NEW.held_micros > OLD.held_micros AND NEW.held_calls <= OLD.held_calls THEN
            RAISE EXCEPTION 'budget % would rise by no payment', NEW.scope
                USING ERRCODE = 'check_violation', CONSTRAINT = 'budget_guard';
        END IF;
        IF v_kind = 'hour' THEN
            FOR v_window IN
                SELECT l.hours, w.micros, w.payments,
                       s.spent + s.held + v_stands - CASE TG_OP WHEN 'UPDATE' THEN OLD.spent_micros + OLD.held_micros ELSE 0 END AS stands,
                       s.calls + v_calls - CASE TG_OP WHEN 'UPDATE' THEN OLD.paid_calls + OLD.held_calls ELSE 0 END AS calls
                  FROM (SELECT DISTINCT l.hours FROM policy_limits l
                         WHERE l.win = 'rolling' AND l.provider IS NOT DISTINCT FROM NEW.subject
                           AND (l.agent_id = NEW.agent_id OR l.agent_id IS NULL)) l,
                       window_limit(NEW.agent_id, NEW.subject, 'rolling', l.hours) w,
                       rolling_sum(NEW.agent_id, NEW.subject, l.hours, now()) s
            LOOP
                IF v_window.stands > v_window.micros OR v_window.calls > v_window.payments THEN
                    RAISE EXCEPTION 'budget % over % h would rise to % of % in % of %', NEW.scope, v_window.hours,
                        v_window.stands, v_window.micros, v_window.calls, v_window.payments
                        USING ERRCODE = 'check_violation', CONSTRAINT = 'budget_guard';
                END IF;
            END LOOP;
        END IF;
    ELSIF v_limit IS NOT NULL THEN
        v_limit := greatest(v_limit, v_stands);
    END IF;
    -- Once without a limit, it may stand anywhere.
    IF v_limit IS NULL THEN
        NEW.top_limit_micros := 999999999999999999;
    ELSE
        NEW.top_limit_micros := greatest(NEW.top_limit_micros, v_limit);
    END IF;
    IF NEW.alerted < 100 AND (2 * v_stands >= v_told OR 2 * v_calls >= v_most) THEN
        v_share := greatest(budget_share(v_stands, v_told), budget_share(v_calls, v_most));
        IF v_share > NEW.alerted THEN
            NEW.alerted := v_share;
            IF v_share = budget_share(v_stands, v_told) THEN
                PERFORM alert_budget(NEW, v_share, v_stands, v_told, false);
            ELSE
                PERFORM alert_budget(NEW, v_share, v_calls, v_most, true);
            END IF;
        END IF;
    END IF;
    RETURN NEW;
END $$;
DROP FUNCTION IF EXISTS budget_limit(budget_kind, agent_policies);
DROP TRIGGER IF EXISTS budget_counters_guard_insert ON budget_counters;
CREATE TRIGGER budget_counters_guard_insert BEFORE INSERT ON budget_counters
    FOR EACH ROW WHEN (NEW.spent_micros + NEW.held_micros + NEW.paid_calls + NEW.held_calls > 0)
    EXECUTE FUNCTION guard_budget();
-- What was paid is written down (0027), even past a limit: the audit tells of that.
DROP TRIGGER IF EXISTS budget_counters_guard_update ON budget_counters;
CREATE TRIGGER budget_counters_guard_update BEFORE UPDATE ON budget_counters
    FOR EACH ROW WHEN ((NEW.spent_micros + NEW.held_micros > OLD.spent_micros + OLD.held_micros
                        OR NEW.paid_calls + NEW.held_calls > OLD.paid_calls + OLD.held_calls)
                       AND current_setting('autopay.reason', true) IS DISTINCT FROM 'rebuilt')
    EXECUTE FUNCTION guard_budget();

-- Takes a payment's price out of "held" of all its counters, into "spent" or back to the budget.
CREATE OR REPLACE FUNCTION move_held(p_payment payments, p_spend boolean) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_moved integer;
BEGIN
    PERFORM 1 FROM budget_counters c WHERE c.scope = ANY (p_payment.scopes) ORDER BY c.scope FOR UPDATE;
    UPDATE budget_counters c
       SET held_micros = c.held_micros - p_payment.price_micros,
           held_calls = c.held_calls - 1,
           spent_micros = c.spent_micros + CASE WHEN p_spend THEN p_payment.price_micros ELSE 0 END,
           paid_calls = c.paid_calls + p_spend::integer,
           updated_at = now()
     WHERE c.scope = ANY (p_payment.scopes);
    GET DIAGNOSTICS v_moved = ROW_COUNT;
    IF v_moved <> cardinality(p_payment.scopes) THEN
        RAISE EXCEPTION 'payment %: % of its % counters exist',
            p_payment.id, v_moved, cardinality(p_payment.scopes);
    END IF;
END $$;

-- Every counter that a payment takes from, unlocked and not yet made, in lock order; and the rows that
-- rolling windows lock.
CREATE OR REPLACE FUNCTION counters_of(q reservation_request, p_limits policy_limits[], p_at timestamptz) RETURNS TABLE (
    scope text, kind text, agent_id uuid, day date, session_id text, subject text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_today date := (p_at AT TIME ZONE 'UTC')::date;
    v_day   text := to_char(v_today, '/YYYY-MM-DD');
BEGIN
    RETURN QUERY SELECT c.* FROM (VALUES
        (agent_day_scope(q.agent_id, v_today), 'agent_day', q.agent_id, v_today, NULL, NULL),
        (session_scope(q.agent_id, q.session_id), 'session', q.agent_id, NULL, q.session_id, NULL),
        (trace_scope(q.agent_id, q.trace_id), 'trace', q.agent_id, NULL, NULL, q.trace_id),
        ('40/agent-provider-day/' || q.agent_id || '/' || q.provider || v_day,
            'agent_provider_day', q.agent_id, v_today, NULL, q.provider),
        ('50/provider-day/' || q.provider || v_day, 'provider_day', NULL, v_today, NULL, q.provider),
        ('60/wallet-day/' || q.network || '/' || q.payer || v_day, 'wallet_day', NULL, v_today, NULL, q.payer),
        ('70/fleet-day' || v_day, 'fleet_day', NULL, v_today, NULL, NULL)
      ) AS c (scope, kind, agent_id, day, session_id, subject) WHERE c.scope IS NOT NULL;
    IF p_limits IS NOT NULL THEN
        RETURN QUERY SELECT DISTINCT window_scope(w.kind, l.agent_id, l.provider, p_at), w.kind, l.agent_id,
               CASE w.kind WHEN 'hour' THEN v_today WHEN 'day' THEN v_today
                           WHEN 'month' THEN date_trunc('month', v_today)::date END,
               NULL, l.provider
          FROM unnest(p_limits) l, unnest(CASE l.win WHEN 'rolling' THEN '{hour,rolling}' ELSE ARRAY[l.win] END) w (kind)
         -- an agent's own day, sessions and traces are counted above
         WHERE l.win NOT IN ('session', 'trace') AND (l.win <> 'day' OR l.provider IS NOT NULL)
         ORDER BY 1;
    END IF;
END $$;

-- The counters of these requests, made where they are missing, and others that are there: all locked,
-- in the one order. What was decided under another version of the book is not granted: it needs none.
CREATE OR REPLACE FUNCTION lock_counters(
    p_requests reservation_request[], p_at timestamptz, p_others text[] DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_scopes  text[];
    v_version bigint := policy_version();
BEGIN
    SELECT coalesce(array_agg(DISTINCT c.scope), '{}') INTO v_scopes
      FROM unnest(p_requests) q, counters_of(q, limits_of(q.agent_id, q.provider), p_at) c
     WHERE coalesce(q.policy_version, v_version) = v_version;
    IF (SELECT count(*) FROM budget_counters b WHERE b.scope = ANY (v_scopes)) < cardinality(v_scopes) THEN
        INSERT INTO budget_counters (scope, kind, agent_id, day, session_id, subject)
        SELECT DISTINCT ON (c.scope COLLATE "C") c.scope, c.kind::budget_kind, c.agent_id, c.day, c.session_id, c.subject
          FROM unnest(p_requests) q, counters_of(q, limits_of(q.agent_id, q.provider), p_at) c
         WHERE coalesce(q.policy_version, v_version) = v_version
           AND EXISTS (SELECT 1 FROM agents a WHERE a.id = q.agent_id)
         ORDER BY c.scope COLLATE "C"
        ON CONFLICT (scope) DO NOTHING;
    END IF;
    PERFORM 1 FROM budget_counters b
      WHERE b.scope = ANY (v_scopes || p_others) ORDER BY b.scope FOR UPDATE;
END $$;

-- Takes the price from every budget or from none; writes the request, the payment, the decision and
-- the step. Codes: ok, policy_changed (`policy_version` is not the book's: nothing is written, decide
-- anew), unknown_agent, frozen, spending_halted (by the one switch), over_per_call_limit, what
-- `prior_payment` says of the same request (`joined` is the payment it was about), abandoned (released
-- before or meanwhile), what `policy_gate` says, over_…_limit, too_many_payments, duplicate_message
-- (those bytes are another payment's).
-- `beside`: the senders of equal payments that were open when this request came have been asked, and
-- their programs still wait; those that came later are no matter.
-- The caller holds the book, the id and the counters.
CREATE OR REPLACE FUNCTION take(q reservation_request) RETURNS reservation
LANGUAGE plpgsql AS $$
DECLARE
    r          reservation;
    v_version  bigint := policy_version();
    v_today    date := (now() AT TIME ZONE 'UTC')::date;
    v_limits   policy_limits[] := limits_of(q.agent_id, q.provider);
    v_scopes   text[];
    v_day      budget_counters;   -- the agent's
    v_counter  budget_counters;
    v_window   policy_limits;     -- what is asked of it
    v_row      record;
    v_calls    bigint;
    v_policy   agent_policies;
    v_limit    bigint;
    v_scope    text;
    v_before   bigint;
    v_session  bigint := 0;
    v_trace    bigint;            -- left to the trace, before
    v_taken    bigint := 0;
    v_prior    text;
    v_gate     record;
BEGIN
    SELECT d.reason, d.limit_micros, d.scope_spent_micros, d.scope_held_micros, d.remaining_micros,
           d.day, d.resets_at, NULL, d.facts
      INTO r FROM policy_decision_logs d
     WHERE d.payment_id = q.payment_id AND d.created_at > now() - interval '1 day';
    IF FOUND THEN
        IF r.code = 'ok' AND EXISTS (
            SELECT 1 FROM payments p WHERE p.id = q.payment_id AND p.status = 'FAILED') THEN
            r.code := 'abandoned';
        END IF;
        RETURN r;
    END IF;

    r := ('ok', 0, 0, 0, 0, v_today, NULL, NULL, NULL);
    IF q.policy_version <> v_version THEN
        r.code := 'policy_changed';
        RETURN r;
    ELSIF NOT EXISTS (SELECT 1 FROM agents a WHERE a.id = q.agent_id AND a.is_active) THEN
        r.code := 'unknown_agent';
    ELSE
        v_scopes := ARRAY(SELECT c.scope FROM counters_of(q, v_limits, now()) c);
        SELECT * INTO v_day FROM budget_counters b WHERE b.scope = agent_day_scope(q.agent_id, v_today);

        -- Read after the wait for the counters, and held still until the end: whoever has frozen
        -- this agent and got the answer can be sure that nothing is granted any more.
        SELECT p.* INTO v_policy FROM agent_policies p WHERE p.agent_id = q.agent_id FOR SHARE;
        IF NOT FOUND THEN
            r.code := 'unknown_agent';
        ELSE
            PERFORM 1 FROM spend_limits l
              WHERE (l.agent_id = q.agent_id OR l.agent_id IS NULL)
                AND l.subject IN (q.provider, q.payer, '*') FOR SHARE;
            r.limit_micros := v_policy.daily_limit_micros;
            r.spent_micros := v_day.spent_micros;
            r.held_micros := v_day.held_micros;
            r.remaining_micros := NULL;
            v_scope := v_day.scope;
            v_before := r.limit_micros - r.spent_micros - r.held_micros;

            SELECT x.code, x.payment_id INTO v_prior, r.joined
              FROM prior_payment(q.agent_id, q.request_key, q.idempotency_key, q.key_seconds, q.share, q.instance) x;
            IF v_prior = 'request_elsewhere' AND q.beside THEN
                v_prior := NULL;
            END IF;
            IF v_prior IS NULL AND q.idempotency_key IS NOT NULL THEN
                PERFORM free_idempotency_key(q.agent_id, q.idempotency_key, q.key_seconds);
            END IF;
            IF v_policy.frozen THEN
                r.code := 'frozen';
            ELSIF (SELECT s.halted OR s.timeline <> current_timeline() AND NOT s.failover_safe
                     FROM spending s FOR SHARE) THEN
                r.code := 'spending_halted';
            ELSIF q.price_micros > v_policy.per_call_limit_micros THEN
                r.code := 'over_per_call_limit';
                r.limit_micros := v_policy.per_call_limit_micros;
                r.spent_micros := 0;
                r.held_micros := 0;
            ELSIF v_prior IS NOT NULL THEN
                r.code := v_prior;
            ELSIF EXISTS (SELECT 1 FROM abandoned_reservations a WHERE a.payment_id = q.payment_id) THEN
                r.code := 'abandoned';
            ELSIF q.rules IS NOT NULL THEN
                SELECT g.code, g.limit_micros, g.detail INTO v_gate FROM policy_gate(q, q.rules) g LIMIT 1;
                IF v_gate.code IS NOT NULL THEN
                    r.code := v_gate.code;
                    r.limit_micros := v_gate.limit_micros;
                    r.spent_micros := 0;
                    r.held_micros := 0;
                    r.detail := v_gate.detail;
                    r.resets_at := v_gate.detail ->> 'resets_at';
                END IF;
            END IF;
            -- Whoever may not pay at all is told that, and not of the payment from before.
            IF r.code IS DISTINCT FROM v_prior THEN
                r.joined := NULL;
            END IF;

            FOR v_row IN
                SELECT b AS counter, l AS asked FROM budget_counters b
                  LEFT JOIN unnest(v_limits) l
                    ON l.win = CASE b.kind::text WHEN 'agent_day' THEN 'day' ELSE b.kind::text END
                   AND l.agent_id IS NOT DISTINCT FROM b.agent_id
                   AND (b.kind::text IN ('agent_day', 'session', 'trace') AND l.provider IS NULL
                        OR b.kind::text NOT IN ('agent_day', 'session', 'trace')
                           AND l.provider IS NOT DISTINCT FROM b.subject)
                 WHERE b.scope = ANY (v_scopes) ORDER BY b.scope, l.hours
            LOOP
                v_counter := v_row.counter;
                v_window := v_row.asked;
                IF v_window.hours IS NOT NULL THEN
                    SELECT s.spent, s.held, s.calls INTO v_counter.spent_micros, v_counter.held_micros, v_calls
                      FROM rolling_sum(v_counter.agent_id, v_counter.subject, v_window.hours, now()) s;
                ELSE
                    v_calls := v_counter.paid_calls + v_counter.held_calls;
                END IF;
                v_limit := least(counter_limit(v_counter, v_policy), v_window.limit_micros);
                r.remaining_micros := least(
                    r.remaining_micros, v_limit - v_counter.spent_micros - v_counter.held_micros);
                IF v_counter.kind = 'session' THEN
                    v_session := v_counter.spent_micros;
                ELSIF v_counter.kind = 'trace' THEN
                    v_trace := v_limit - v_counter.spent_micros - v_counter.held_micros;
                END IF;
                IF r.code <> 'ok' THEN
                    CONTINUE;
                ELSIF v_counter.spent_micros + v_counter.held_micros + q.price_micros > v_limit THEN
                    r.code := budget_denial(v_counter.kind);
                ELSIF v_calls >= v_window.limit_payments THEN
                    r.code := 'too_many_payments';
                ELSE
                    CONTINUE;
                END IF;
                r.limit_micros := v_limit;
                r.spent_micros := v_counter.spent_micros;
                r.held_micros := v_counter.held_micros;
                v_scope := v_counter.scope;
                r.resets_at := CASE
                    WHEN v_window.hours IS NULL THEN window_end(v_counter.kind::text, now())
                    WHEN r.code = 'too_many_payments' THEN
                        rolling_end(v_counter.agent_id, v_counter.subject, v_window.hours, now(),
                                    0, v_calls + 1 - v_window.limit_payments)
                    ELSE rolling_end(v_counter.agent_id, v_counter.subject, v_window.hours, now(),
                             v_counter.spent_micros + v_counter.held_micros + q.price_micros - v_limit, 0) END;
                IF v_window.win IS NOT NULL THEN
                    r.detail := jsonb_strip_nulls(jsonb_build_object(
                        'window', CASE WHEN v_window.hours IS NULL THEN v_window.win
                                       WHEN v_window.hours % 24 = 0 AND v_window.hours > 24 THEN v_window.hours / 24 || 'd'
                                       ELSE v_window.hours || 'h' END,
                        'of', CASE WHEN v_counter.agent_id IS NULL THEN 'provider'
                                   WHEN v_window.provider IS NULL THEN 'agent' ELSE 'agent_provider' END,
                        'provider', v_window.provider,
                        'payments', v_calls, 'limit_payments', v_window.limit_payments));
                END IF;
            END LOOP;
        END IF;
        INSERT INTO api_requests (id, agent_id, session_id, trace_id, provider, method, endpoint, api_type,
                                  http_status, x402_instructions, response_headers, status, error_class)
        VALUES (coalesce(q.api_request_id, q.payment_id), q.agent_id, q.session_id, q.trace_id, q.provider,
                q.method, q.endpoint, coalesce(q.api_type, 'MARKET_DATA'), 402, q.instructions,
                q.response_headers,
                CASE r.code WHEN 'ok' THEN 'PAYMENT_REQUIRED' ELSE 'FAILED' END::request_status,
                CASE r.code WHEN 'ok' THEN NULL ELSE 'denied' END)
        ON CONFLICT (id) DO NOTHING;
    END IF;

    IF r.code = 'ok' THEN
        IF v_limits IS NOT NULL THEN  -- what holds no money is no budget of the payment's
            v_scopes := ARRAY(SELECT s FROM unnest(v_scopes) WITH ORDINALITY o (s, n)
                               WHERE s NOT LIKE '84/rolling/%' ORDER BY o.n);
        END IF;
        INSERT INTO payments (
            id, agent_id, status, amount_atomic, price_micros, day, scopes, policy_version,
            session_id, trace_id, provider, method, endpoint, url_sealed, request_key,
            request_body_sha256, instance, api_request_id,
            x402_version, network, asset, symbol, decimals, pay_to, facilitator_url,
            payer, fee_payer, source_account, destination_account, memo, blockhash,
            last_valid_block_height, blockhash_slot, client_signature, message_sha256,
            payment_payload, idempotency_key, payment_header, identified)
        VALUES (
            q.payment_id, q.agent_id,
            CASE WHEN q.message_sha256 IS NULL THEN 'INITIATED' ELSE 'SIGNED' END::payment_status,
            q.amount_atomic, q.price_micros, v_today, v_scopes, v_version,
            q.session_id, q.trace_id, q.provider, q.method, q.endpoint, q.url_sealed, q.request_key,
            q.request_body_sha256, q.instance, coalesce(q.api_request_id, q.payment_id),
            q.x402_version, q.network, q.asset, q.symbol, coalesce(q.decimals, 6), q.pay_to,
            q.facilitator_url,
            q.payer, q.fee_payer, q.source_account, q.destination_account, q.memo, q.blockhash,
            q.last_valid_block_height, q.blockhash_slot, q.client_signature, q.message_sha256,
            q.payment_payload, q.idempotency_key, q.payment_header, coalesce(q.identified, false))
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            r.code := 'duplicate_message';
            UPDATE api_requests a SET status = 'FAILED', error_class = 'blockhash_in_use'
             WHERE a.id = coalesce(q.api_request_id, q.payment_id) AND a.status = 'PAYMENT_REQUIRED';
        ELSE
            UPDATE budget_counters c
               SET held_micros = c.held_micros + q.price_micros, held_calls = c.held_calls + 1, updated_at = now()
             WHERE c.scope = ANY (v_scopes);
            IF q.rules IS NOT NULL THEN
                PERFORM policy_gate_taken(q, q.rules);
            END IF;
            v_taken := q.price_micros;
            r.held_micros := r.held_micros + v_taken;
            r.remaining_micros := r.remaining_micros - v_taken;
        END IF;
    END IF;

    INSERT INTO policy_decision_logs (
        payment_id, trace_id, session_id, agent_id, method, endpoint, decision, reason,
        policy_version, scope, limit_micros, scope_spent_micros, scope_held_micros,
        quoted_price_micros, spent_today_micros, reserved_micros, remaining_daily_micros,
        budget_before_micros, remaining_micros, day, shadow_reason, resets_at, facts)
    VALUES (q.payment_id, q.trace_id, q.session_id, q.agent_id, q.method, q.endpoint,
            CASE r.code WHEN 'ok' THEN 'allow' ELSE 'deny' END, r.code,
            v_version, v_scope, r.limit_micros, r.spent_micros, r.held_micros,
            q.price_micros, coalesce(v_day.spent_micros, 0), coalesce(v_day.held_micros, 0) + v_taken,
            coalesce(v_before, 0) - v_taken, v_before, r.remaining_micros, v_today, q.shadow_reason,
            r.resets_at, r.detail);
    -- A second try, under a newer blockhash or once others were asked, is the same step.
    IF v_trace IS NOT NULL AND r.code NOT IN ('duplicate_message', 'request_elsewhere') THEN
        PERFORM add_step(q.agent_id, q.trace_id, q.session_id, coalesce(q.tool_name, q.provider), q.endpoint,
                         q.price_micros, r.code, v_trace, v_trace - v_taken, v_policy.trace_limit_micros,
                         v_session, CASE r.code WHEN 'ok' THEN 'reserved' ELSE 'denied' END,
                         CASE r.code WHEN 'ok' THEN q.payment_id END);
    END IF;
    RETURN r;
END $$;

-- Makes the counters of a limit that is new, with what was spent and is held in its open windows. The
-- caller holds the book alone, so nothing moves meanwhile; the counters are locked before payments, as
-- erasing an agent does it. Whoever waited for the book may be of the window before: it is counted too.
--
-- Days and longer are sums of the counters of days, hours are sums of payments. Those that may still move
-- get the counter among their scopes; the others are `brought` by it.
CREATE OR REPLACE FUNCTION count_window(p_agent uuid, p_provider text, p_win text, p_hours integer) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_now     timestamptz := clock_timestamp();
    v_earlier timestamptz := v_now - interval '1 minute';
    v_kind    text := CASE p_win WHEN 'rolling' THEN 'hour' ELSE p_win END;
    v_from    timestamptz := CASE p_win
        WHEN 'lifetime' THEN '-infinity'
        ELSE date_trunc(v_kind, v_earlier - make_interval(hours => coalesce(p_hours, 0)), 'UTC') END;
    v_first   date := CASE WHEN p_win = 'lifetime' THEN '-infinity' ELSE (v_from AT TIME ZONE 'UTC')::date END;
    v_source  budget_kind := CASE WHEN p_provider IS NULL THEN 'agent_day'
                                  WHEN p_agent IS NULL THEN 'provider_day' ELSE 'agent_provider_day' END;
    v_origins text[];
BEGIN
    IF p_win IN ('session', 'trace') OR p_win = 'day' AND p_provider IS NULL THEN
        RETURN;  -- counted from the first payment on
    END IF;
    IF p_provider IS NOT NULL THEN
        v_origins := ARRAY(
            SELECT s.subject FROM (SELECT DISTINCT c.subject FROM budget_counters c
                                    WHERE c.kind = 'provider_day' AND c.day >= v_first) s
             WHERE p_provider = ANY (provider_names(s.subject)));
    END IF;
    PERFORM set_config('autopay.counting', 'on', true);
    PERFORM 1 FROM budget_counters c
      WHERE c.scope >= left(window_scope(v_kind, NULL, NULL, 'epoch'), 3)
        AND c.scope < left(window_scope(v_kind, NULL, NULL, 'epoch'), 3) || '~'
        AND c.subject IS NOT DISTINCT FROM p_provider
        AND (c.agent_id = p_agent OR p_agent IS NULL AND (c.agent_id IS NULL) = (p_provider IS NOT NULL))
        AND (c.day >= v_first OR c.day IS NULL)
      ORDER BY c.scope FOR UPDATE;

    WITH open AS MATERIALIZED (  -- or reversible
        SELECT p.id FROM payments p WHERE p.status IN ('INITIATED', 'SIGNED')
         UNION
        SELECT p.id FROM payments p WHERE p.status IN ('SIGNED', 'CONFIRMED')
    ), named AS (
        UPDATE payments p SET scopes = p.scopes || w.scope
          FROM (SELECT x.id, window_scope(
                           v_kind, CASE WHEN p_agent IS NOT NULL OR p_provider IS NULL THEN x.agent_id END, p_provider,
                           CASE v_kind WHEN 'hour' THEN x.created_at ELSE x.day::timestamp AT TIME ZONE 'UTC' END) AS scope
                  FROM open o JOIN payments x ON x.id = o.id
                 WHERE CASE v_kind WHEN 'hour' THEN x.created_at >= v_from ELSE x.day >= v_first END AND (p_agent IS NULL OR x.agent_id = p_agent)
                   AND (p_provider IS NULL OR x.provider = ANY (v_origins))) w
         WHERE p.id = w.id AND w.scope <> ALL (p.scopes)
        RETURNING w.scope, p.status, p.price_micros
    ), added AS (  -- to what the counter knows to be spent by payments that name it
        SELECT n.scope, sum(n.price_micros) AS micros, count(*) AS calls
          FROM named n WHERE n.status = 'CONFIRMED' GROUP BY n.scope
    ), found AS (
        SELECT window_scope(v_kind, y.agent, p_provider, y.at) AS scope, y.agent, min(y.day) AS day,
               sum(y.spent) AS spent, sum(y.held) AS held, sum(y.paid) AS paid, sum(y.open) AS open,
               sum(y.spent) FILTER (WHERE window_scope(v_kind, y.agent, p_provider, y.at) = ANY (y.scopes)) AS named,
               sum(y.paid) FILTER (WHERE window_scope(v_kind, y.agent, p_provider, y.at) = ANY (y.scopes)) AS calls
          FROM (SELECT CASE WHEN p_agent IS NOT NULL OR p_provider IS NULL THEN c.agent_id END AS agent,
                       c.day::timestamp AT TIME ZONE 'UTC' AS at,
                       CASE v_kind WHEN 'day' THEN c.day WHEN 'month' THEN date_trunc('month', c.day)::date END AS day,
                       c.spent_micros AS spent, c.held_micros AS held, c.paid_calls AS paid, c.held_calls AS open,
                       NULL::text[] AS scopes
                  FROM budget_counters c
                 WHERE v_kind <> 'hour' AND c.kind = v_source AND c.day >= v_first
                   AND (p_agent IS NULL OR c.agent_id = p_agent)
                   AND (p_provider IS NULL OR c.subject = ANY (v_origins))
                 UNION ALL
                SELECT CASE WHEN p_agent IS NOT NULL OR p_provider IS NULL THEN p.agent_id END,
                       p.created_at, (p.created_at AT TIME ZONE 'UTC')::date,  -- p.day of one rebuilt is its block's
                       CASE WHEN p.status IN ('CONFIRMED', 'VERIFIED') THEN p.price_micros ELSE 0 END,
                       CASE WHEN p.status IN ('INITIATED', 'SIGNED') THEN p.price_micros ELSE 0 END,
                       (p.status IN ('CONFIRMED', 'VERIFIED'))::integer,
                       (p.status IN ('INITIATED', 'SIGNED'))::integer, p.scopes
                  FROM payments p
                 WHERE v_kind = 'hour' AND p.created_at >= v_from AND p.status <> 'FAILED'
                   AND (p_agent IS NULL OR p.agent_id = p_agent)
                   AND (p_provider IS NULL OR p.provider = ANY (v_origins))) y
         GROUP BY 1, 2
    )
    INSERT INTO budget_counters AS b (scope, kind, agent_id, day, subject, spent_micros, held_micros, paid_calls,
                                      held_calls, brought_micros, brought_calls)
    SELECT f.scope, v_kind::budget_kind, f.agent, f.day, p_provider, f.spent, f.held, f.paid, f.open,
           f.spent - coalesce(a.micros, 0) - coalesce(f.named, k.spent_micros - k.brought_micros, 0),
           f.paid - coalesce(a.calls, 0) - coalesce(f.calls, k.paid_calls - k.brought_calls, 0)
      FROM found f
      LEFT JOIN added a ON a.scope = f.scope
      -- A counter of an hour may be gone (prune_hours), with payments that name it still there.
      LEFT JOIN budget_counters k ON k.scope = f.scope AND v_kind <> 'hour'
    ON CONFLICT (scope) DO UPDATE SET
        spent_micros = excluded.spent_micros, held_micros = excluded.held_micros, paid_calls = excluded.paid_calls,
        held_calls = excluded.held_calls, brought_micros = excluded.brought_micros,
        brought_calls = excluded.brought_calls, updated_at = now();
    PERFORM set_config('autopay.counting', 'off', true);
END $$;

-- The limits that a layer's rules name. Of each agent's day, sessions and traces, the policy's own columns
-- have the amount; those of the defaults are there already (0028).
CREATE OR REPLACE FUNCTION limits_in(p_agent uuid, p_provider text, p_rules jsonb) RETURNS SETOF policy_limits
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT p_agent, p_provider, x.win, x.hours::smallint, max(x.micros)::bigint, max(x.payments)::bigint
      FROM (SELECT coalesce(f.win, 'rolling') AS win,
                   CASE WHEN f.win IS NULL THEN
                       left(s.name, -1)::integer * CASE right(s.name, 1) WHEN 'd' THEN 24 ELSE 1 END END AS hours,
                   CASE WHEN NOT s.counts THEN trunc(ltrim(s.value, '$')::numeric * 1000000) END AS micros,
                   CASE WHEN s.counts THEN s.value::numeric END AS payments
              FROM (SELECT m.key AS name, m.value #>> '{}' AS value, false AS counts FROM jsonb_each(p_rules) m
                     WHERE m.key IN ('hourly', 'daily', 'monthly', 'lifetime', 'session', 'trace')
                       AND (p_provider IS NOT NULL OR m.key NOT IN ('daily', 'session', 'trace'))
                    UNION ALL
                    SELECT m.key, m.value, false FROM jsonb_each_text(coalesce(p_rules -> 'rolling', '{}')) m
                    UNION ALL
                    SELECT m.key, m.value, true FROM jsonb_each_text(coalesce(p_rules -> 'payments', '{}')) m) s
              LEFT JOIN (VALUES ('hourly', 'hour'), ('daily', 'day'), ('monthly', 'month'), ('hour', 'hour'),
                                ('day', 'day'), ('month', 'month'), ('lifetime', 'lifetime'),
                                ('session', 'session'), ('trace', 'trace')) f (name, win) ON f.name = s.name) x
     GROUP BY x.win, x.hours;
END $$;

-- Keeps policy_limits to what policy_rules says. Comes before that change is numbered: whoever erases an
-- agent takes the counters before the book's row.
CREATE OR REPLACE FUNCTION apply_limits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_limit policy_limits;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'policies are changed under READ COMMITTED: what others have spent must be seen'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM policy_limits l
         WHERE l.agent_id IS NOT DISTINCT FROM OLD.agent_id AND l.provider IS NOT DISTINCT FROM OLD.provider
           AND (TG_OP = 'DELETE' OR (NEW.agent_id, NEW.provider) IS DISTINCT FROM (OLD.agent_id, OLD.provider)
                OR NOT EXISTS (SELECT 1 FROM limits_in(NEW.agent_id, NEW.provider, NEW.rules) n
                                WHERE n.win = l.win AND n.hours IS NOT DISTINCT FROM l.hours));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        FOR v_limit IN SELECT * FROM limits_in(NEW.agent_id, NEW.provider, NEW.rules) n ORDER BY n.win, n.hours LOOP
            UPDATE policy_limits l
               SET limit_micros = v_limit.limit_micros, limit_payments = v_limit.limit_payments
             WHERE l.agent_id IS NOT DISTINCT FROM v_limit.agent_id AND l.provider IS NOT DISTINCT FROM v_limit.provider
               AND l.win = v_limit.win AND l.hours IS NOT DISTINCT FROM v_limit.hours;
            IF NOT FOUND THEN
                INSERT INTO policy_limits SELECT v_limit.*;
                PERFORM count_window(v_limit.agent_id, v_limit.provider, v_limit.win, v_limit.hours);
            END IF;
        END LOOP;
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS policy_rules_apply ON policy_rules;
CREATE TRIGGER policy_rules_apply AFTER INSERT OR UPDATE OR DELETE ON policy_rules
    FOR EACH ROW EXECUTE FUNCTION apply_limits();

-- Counters of hours that no window reaches back to any more, and that nothing can move; how many went.
CREATE OR REPLACE FUNCTION prune_hours() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_most integer := (SELECT coalesce(max(l.hours), 0) FROM policy_limits l);
    v_gone bigint;
BEGIN
    PERFORM hold_policies();  -- none is counted anew meanwhile
    DELETE FROM budget_counters c
     WHERE c.kind = 'hour' AND c.day < ((now() - make_interval(hours => v_most + 48)) AT TIME ZONE 'UTC')::date
       AND c.held_calls = 0
       AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.status IN ('SIGNED', 'CONFIRMED') AND c.scope = ANY (p.scopes));
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    RETURN v_gone;
END $$;

-- Every way in which the books could be wrong, found; no row is good. `p_since`: only what changed
-- since then (NULL: everything). One snapshot, so that payments under way are no findings. It stands
-- here because a function in SQL can name only what is there already.
CREATE OR REPLACE FUNCTION audit_books(p_since timestamptz DEFAULT NULL)
RETURNS TABLE (rule text, subject text, found text, expected text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    -- held = the sum of the open payments
    SELECT 'held_is_open', coalesce(c.scope, o.scope),
           coalesce(c.held_micros, 0) || ' in ' || coalesce(c.held_calls, 0),
           coalesce(o.sum, 0) || ' in ' || coalesce(o.calls, 0)
      FROM (SELECT b.scope, b.held_micros, b.held_calls FROM budget_counters b
             WHERE b.held_micros <> 0 OR b.held_calls <> 0) c
      FULL JOIN (SELECT s AS scope, sum(p.price_micros) AS sum, count(*) AS calls
                   FROM payments p, unnest(p.scopes) s
                  WHERE p.status IN ('INITIATED', 'SIGNED') GROUP BY s) o ON o.scope = c.scope
     WHERE coalesce(c.held_micros, 0) <> coalesce(o.sum, 0) OR coalesce(c.held_calls, 0) <> coalesce(o.calls, 0)
    UNION ALL
    -- spent = the sum of the settled payments and of what was brought, and as many of them as were counted
    SELECT 'spent_is_settled', c.scope, c.spent_micros || ' in ' || c.paid_calls,
           c.brought_micros + coalesce(o.sum, 0) || ' in ' || c.brought_calls + coalesce(o.calls, 0)
      FROM budget_counters c
      LEFT JOIN (SELECT s AS scope, sum(p.price_micros) AS sum, count(*) AS calls
                   FROM payments p, unnest(p.scopes) s
                  WHERE p.status IN ('CONFIRMED', 'VERIFIED')
                    AND (p_since IS NULL OR p.created_at >= date_trunc('day', p_since, 'UTC') - interval '1 day')
                  GROUP BY s) o ON o.scope = c.scope
     WHERE (p_since IS NULL OR c.day >= (p_since AT TIME ZONE 'UTC')::date)
       AND (c.spent_micros <> c.brought_micros + coalesce(o.sum, 0)
            OR c.paid_calls <> c.brought_calls + coalesce(o.calls, 0))
    UNION ALL
    -- nothing ever stood above the highest limit of its window
    SELECT 'within_limit', c.scope, (c.spent_micros + c.held_micros)::text, c.top_limit_micros::text
      FROM budget_counters c
     WHERE c.spent_micros + c.held_micros > c.top_limit_micros
       AND (p_since IS NULL OR c.updated_at >= p_since)
    UNION ALL
    -- a payment's counters are there, but for hours that are long over
    SELECT 'counters_exist', p.id::text, s, 'a counter'
      FROM payments p, unnest(p.scopes) s
     WHERE p.status <> 'FAILED' AND (p_since IS NULL OR p.created_at >= p_since)
       AND NOT (p.status = 'VERIFIED' AND s LIKE '80/hour/%'
                AND right(s, 13) < to_char((now() - interval '2 days') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24'))
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
    -- a receipt has its link in its agent's chain, and a reversed one that link too
    SELECT 'receipt_has_link', l.id::text, coalesce(k.canonical::jsonb ->> 'amount_atomic', 'none'), l.amount
      FROM x402_payment_logs l LEFT JOIN receipt_links k ON k.receipt_id = l.id AND k.kind = 'receipt'
     WHERE (p_since IS NULL OR l.created_at >= p_since)
       AND (k.agent_id IS DISTINCT FROM l.agent_id OR k.canonical::jsonb ->> 'amount_atomic' <> l.amount)
    UNION ALL
    SELECT 'receipt_has_link', l.id::text, 'no reversal', 'a reversal'
      FROM payments p JOIN x402_payment_logs l ON l.id = p.id
     WHERE p.status = 'FAILED' AND (p_since IS NULL OR p.updated_at >= p_since)
       AND NOT EXISTS (SELECT 1 FROM receipt_links k WHERE k.receipt_id = l.id AND k.kind = 'reversal')
    UNION ALL
    -- a link has its receipt, and what it tells of it is so
    SELECT 'link_has_receipt', k.agent_id || ' ' || k.seq, coalesce(k.kind || ' of ' || p.status, 'none'), k.kind
      FROM receipt_links k
      LEFT JOIN (x402_payment_logs l JOIN payments p ON p.id = l.id)
             ON l.id = k.receipt_id AND l.agent_id = k.agent_id
     WHERE (p_since IS NULL OR k.recorded_at >= p_since)
       AND (p.id IS NULL OR k.kind = 'reversal' AND p.status <> 'FAILED'
            OR k.kind = 'correction' AND p.status <> 'VERIFIED')
    UNION ALL
    -- a chain ends in its newest link, and none is missing
    SELECT 'chain_is_whole', c.agent_id::text, coalesce(k.seq, 0) || ' of ' || coalesce(k.links, 0) || ' links',
           c.length || ' of ' || c.length || ' links'
      FROM receipt_chains c
      LEFT JOIN LATERAL (
          SELECT n.seq, n.sha256, CASE WHEN p_since IS NOT NULL THEN n.seq
                 ELSE (SELECT count(*) FROM receipt_links a WHERE a.agent_id = c.agent_id) END AS links
            FROM receipt_links n WHERE n.agent_id = c.agent_id ORDER BY n.seq DESC LIMIT 1) k ON true
     WHERE coalesce(k.seq, 0) <> c.length OR coalesce(k.links, 0) <> c.length
        OR c.length > 0 AND k.sha256 <> c.head
    UNION ALL
    SELECT 'chain_is_whole', k.agent_id || ' ' || k.seq, encode(k.previous, 'hex'),
           coalesce(encode(b.sha256, 'hex'), 'none')
      FROM receipt_links k LEFT JOIN receipt_links b ON b.agent_id = k.agent_id AND b.seq = k.seq - 1
     WHERE (p_since IS NULL OR k.recorded_at >= p_since)
       AND k.previous IS DISTINCT FROM CASE k.seq WHEN 1 THEN decode(repeat('00', 32), 'hex') ELSE b.sha256 END
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

SELECT open_table('policy_limits', ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin']);
GRANT SELECT ON policy_limits TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
REVOKE ALL ON FUNCTION provider_names(text), window_scope(text, uuid, text, timestamptz), window_end(text, timestamptz),
    limits_of(uuid, text), window_limit(uuid, text, text, smallint), rolling_sum(uuid, text, integer, timestamptz),
    rolling_end(uuid, text, integer, timestamptz, bigint, bigint), counters_of(reservation_request, policy_limits[], timestamptz),
    lock_counters(reservation_request[], timestamptz, text[]), take(reservation_request),
    count_window(uuid, text, text, integer), limits_in(uuid, text, jsonb), apply_limits(), prune_hours(),
    audit_books(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION provider_names(text), window_scope(text, uuid, text, timestamptz), window_end(text, timestamptz),
    limits_of(uuid, text), window_limit(uuid, text, text, smallint), rolling_sum(uuid, text, integer, timestamptz),
    rolling_end(uuid, text, integer, timestamptz, bigint, bigint), audit_books(timestamptz)
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT EXECUTE ON FUNCTION prune_hours() TO autopay_writer, autopay_admin;
