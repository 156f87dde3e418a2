-- What is asked of a payment beside its limits, in the transaction that reserves it: whether its receiver
-- is the one that was paid before; whether the price has jumped; how much was paid today and not
-- delivered; whether an operator has approved it. Which of these are asked is said by the policy
-- (`rules`, made by the proxy): {"pinning": "first_use", "ratio_last": "1.5", "ratio_median": "2",
-- "loss_cap": [{"layer", "provider", "per_agent", "micros"}], "approval": true}.

-- A dot at the end of a host is another spelling of the same.
CREATE OR REPLACE FUNCTION plain_origin(p_provider text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT regexp_replace(p_provider, '\.(:[0-9]+)$', '\1') $$;

-- Whether a provider pattern (a host, *.domain, or a whole origin) is about this origin.
CREATE OR REPLACE FUNCTION provider_covers(p_pattern text, p_provider text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN p_pattern = ANY (provider_names(p_provider));
END $$;

-- Receivers. ---------------------------------------------------------------------------------------

-- Whom each provider is paid to on each network, for all agents together: the first receiver is pinned
-- with the payment that it is for. Others wait for an operator, who accepts them or forgets the first.
CREATE TABLE IF NOT EXISTS pay_to_pins (
    provider   text NOT NULL,
    network    text NOT NULL,
    pay_to     text NOT NULL,
    accepted   boolean NOT NULL,
    agent_id   uuid REFERENCES agents (id) ON DELETE RESTRICT,
    updated_by text NOT NULL DEFAULT '',
    refusals   bigint NOT NULL DEFAULT 0 CHECK (refusals >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, network, pay_to)
);
COMMENT ON COLUMN pay_to_pins.accepted IS 'false: it waits for an operator, and nothing is paid to it';
COMMENT ON COLUMN pay_to_pins.agent_id IS 'whose request met it first; NULL: an operator wrote it down';
COMMENT ON COLUMN pay_to_pins.refusals IS 'payments that were refused because they would have gone there';

-- Why this receiver is not to be paid; NULL if it may be. Past twenty that wait for one provider, no
-- more are written down: a new one with every answer must not fill the books, nor the operator's day.
CREATE OR REPLACE FUNCTION pin_denial(q reservation_request) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_provider text := plain_origin(q.provider);
    v_pinned   text[];
    v_known    boolean;
BEGIN
    FOR v_try IN 1..2 LOOP
        v_pinned := ARRAY(SELECT p.pay_to FROM pay_to_pins p
                           WHERE p.provider = v_provider AND p.network = q.network AND p.accepted
                           ORDER BY p.created_at, p.pay_to);
        IF q.pay_to = ANY (v_pinned) THEN
            RETURN NULL;
        END IF;
        EXIT WHEN v_pinned <> '{}';
        -- The first use: of two at once the second waits here, and looks again.
        PERFORM pg_advisory_xact_lock(hashtextextended('pin ' || v_provider || ' ' || q.network, 402));
    END LOOP;
    IF v_pinned = '{}' THEN
        RETURN NULL;
    END IF;

    UPDATE pay_to_pins p SET refusals = p.refusals + 1, updated_at = now()
     WHERE p.provider = v_provider AND p.network = q.network AND p.pay_to = q.pay_to;
    v_known := FOUND;
    IF NOT v_known AND (SELECT count(*) FROM pay_to_pins p
                         WHERE p.provider = v_provider AND p.network = q.network AND NOT p.accepted) < 20 THEN
        INSERT INTO pay_to_pins (provider, network, pay_to, accepted, agent_id, refusals)
        VALUES (v_provider, q.network, q.pay_to, false, q.agent_id, 1)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            PERFORM note_event(q.agent_id, 'ALARM', NULL, jsonb_build_object(
                'code', 'pay_to_changed', 'provider', v_provider, 'network', q.network,
                'pay_to', q.pay_to, 'pinned', v_pinned), 'WARNING');
        END IF;
    END IF;
    RETURN jsonb_build_object('pay_to', q.pay_to, 'pinned', v_pinned, 'network', q.network);
END $$;

-- An operator's word for a receiver, one that waits or one that was never met. The ones before stay
-- good. Whether it was otherwise.
CREATE OR REPLACE FUNCTION accept_pin(p_provider text, p_network text, p_pay_to text, p_by text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO pay_to_pins AS p (provider, network, pay_to, accepted, updated_by)
    VALUES (plain_origin(p_provider), p_network, p_pay_to, true, p_by)
    ON CONFLICT (provider, network, pay_to) DO UPDATE
       SET accepted = true, updated_by = excluded.updated_by, updated_at = now() WHERE NOT p.accepted;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM note_event(NULL, 'POLICY_CHANGE', NULL, jsonb_build_object(
        'code', 'pay_to_accepted', 'by', p_by, 'provider', plain_origin(p_provider),
        'network', p_network, 'pay_to', p_pay_to), 'INFO');
    RETURN true;
END $$;

-- Forgets receivers of a provider, pinned and waiting (NULL: all of them); how many. Where none is left,
-- the next one is a first use.
CREATE OR REPLACE FUNCTION forget_pins(p_provider text, p_network text, p_pay_to text, p_by text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_pin       pay_to_pins;
    v_forgotten integer := 0;
BEGIN
    FOR v_pin IN
        DELETE FROM pay_to_pins p
         WHERE p.provider = plain_origin(p_provider) AND (p_network IS NULL OR p.network = p_network)
           AND (p_pay_to IS NULL OR p.pay_to = p_pay_to) RETURNING p.*
    LOOP
        v_forgotten := v_forgotten + 1;
        PERFORM note_event(NULL, 'POLICY_CHANGE', NULL, jsonb_build_object(
            'code', 'pay_to_forgotten', 'by', p_by, 'provider', v_pin.provider, 'network', v_pin.network,
            'pay_to', v_pin.pay_to, 'accepted', v_pin.accepted), 'INFO');
    END LOOP;
    RETURN v_forgotten;
END $$;

-- Prices. ------------------------------------------------------------------------------------------

-- What was paid for one endpoint, newest first. By a hash, since an endpoint may be longer than an index
-- can hold; the statement below looks at the names themselves.
CREATE INDEX IF NOT EXISTS idx_payments_price ON payments (
    hashtextextended(provider || ' ' || method || ' ' || endpoint, 402), created_at DESC, id DESC
) WHERE status IN ('CONFIRMED', 'VERIFIED');

-- The price beside what was paid for the same method and endpoint before, by whichever agent: the last
-- time, and the median of the last 21 times. Exact: no number here is a float. No code if the price is
-- in order, or nothing was paid before.
CREATE OR REPLACE FUNCTION drift_denial(
    q reservation_request, p_ratio_last numeric, p_ratio_median numeric,
    OUT limit_micros bigint, OUT detail jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    v_paid   bigint[] := ARRAY(
        SELECT p.price_micros FROM payments p
         WHERE hashtextextended(p.provider || ' ' || p.method || ' ' || p.endpoint, 402)
               = hashtextextended(q.provider || ' ' || q.method || ' ' || q.endpoint, 402)
           AND p.provider = q.provider AND p.method = q.method AND p.endpoint = q.endpoint
           AND p.status IN ('CONFIRMED', 'VERIFIED')
         ORDER BY p.created_at DESC, p.id DESC LIMIT 21);
    v_count  integer := cardinality(v_paid);
    v_sorted bigint[];
    v_median numeric;
    v_most   numeric;
BEGIN
    IF v_count = 0 THEN
        RETURN;
    END IF;
    v_sorted := ARRAY(SELECT x FROM unnest(v_paid) x ORDER BY 1);
    v_median := (v_sorted[(v_count + 1) / 2]::numeric + v_sorted[v_count / 2 + 1]) * 0.5;
    v_most := least(p_ratio_last * v_paid[1], p_ratio_median * v_median);  -- without those that are NULL
    IF q.price_micros <= v_most THEN
        RETURN;
    END IF;
    limit_micros := least(floor(v_most), 999999999999999999);
    detail := jsonb_strip_nulls(jsonb_build_object(
        'rule', CASE WHEN v_most = p_ratio_last * v_paid[1] THEN 'max_price_ratio_last'
                     ELSE 'max_price_ratio_median' END,
        'last_micros', v_paid[1], 'median_micros', trim_scale(v_median)::text, 'payments', v_count,
        -- rounded up: one that is too high shall look so
        'ratio_last', trim_scale(ceil(q.price_micros * 1000000::numeric / nullif(v_paid[1], 0)) * 0.000001)::text,
        'ratio_median', trim_scale(ceil(q.price_micros * 1000000::numeric / nullif(v_median, 0)) * 0.000001)::text,
        'max_ratio_last', trim_scale(p_ratio_last)::text, 'max_ratio_median', trim_scale(p_ratio_median)::text));
END $$;

-- Losses. ------------------------------------------------------------------------------------------

-- Paid, and not delivered: the money is spent (the provider says so, or the chain), and the program has
-- no whole, good answer for it, because of the provider: it answered with an error, its answer broke
-- off, or it was lost and the payment then found on the chain. A program that hung up has lost nothing
-- of this kind; but for one that a provider has let wait in vain. What is delivered after all, or proved dead, is no loss any more.
CREATE TABLE IF NOT EXISTS losses (
    payment_id uuid PRIMARY KEY REFERENCES payments (id) ON DELETE RESTRICT,
    agent_id   uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    provider   text NOT NULL,
    day        date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    micros     bigint NOT NULL CHECK (micros >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN losses.day IS 'the UTC day on which it came out: the cap of that day is what it can still help';
CREATE INDEX IF NOT EXISTS idx_losses_created ON losses (created_at DESC);

-- Their sums by the day: of an agent, of a provider, of an agent with a provider.
CREATE TABLE IF NOT EXISTS loss_counters (
    day         date NOT NULL,
    agent_id    uuid REFERENCES agents (id) ON DELETE RESTRICT,
    provider    text,
    lost_micros bigint NOT NULL DEFAULT 0 CHECK (lost_micros >= 0),
    lost_calls  bigint NOT NULL DEFAULT 0 CHECK (lost_calls >= 0),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (day, agent_id, provider),
    CHECK (agent_id IS NOT NULL OR provider IS NOT NULL)
);
COMMENT ON COLUMN loss_counters.agent_id IS 'NULL: of all agents together';
COMMENT ON COLUMN loss_counters.provider IS 'NULL: with all providers together';

-- Whether this payment is a loss now, and the counters with it. A delivery and a settlement of one payment
-- wait for each other at its row, so the second sees what the first wrote. One transaction weighs at a
-- time: a batch has deliveries in any order, and two of them must not wait for each other's counters.
CREATE OR REPLACE FUNCTION weigh_loss(p_payment uuid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v      payments;
    v_loss losses;
BEGIN
    PERFORM pg_advisory_xact_lock(402, 5);
    SELECT * INTO v FROM payments p WHERE p.id = p_payment;
    IF v.status IN ('CONFIRMED', 'VERIFIED')
       AND NOT EXISTS (SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = v.id AND d.success)
       AND (EXISTS (SELECT 1 FROM x402_payment_logs l WHERE l.id = v.id AND l.source = 'chain')
            OR EXISTS (SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = v.id
                          AND (d.status >= 400 OR d.error IS NULL OR d.error NOT IN (
                              'the program hung up', 'the program hung up, and its answer is too large to be kept'))))
    THEN
        INSERT INTO losses (payment_id, agent_id, provider, micros)
        VALUES (v.id, v.agent_id, plain_origin(v.provider), v.price_micros)
        ON CONFLICT DO NOTHING RETURNING * INTO v_loss;
        INSERT INTO loss_counters AS c (day, agent_id, provider, lost_micros, lost_calls)
        SELECT v_loss.day, k.agent_id, k.provider, v_loss.micros, 1
          FROM (VALUES (v_loss.agent_id, NULL), (NULL, v_loss.provider), (v_loss.agent_id, v_loss.provider))
               k (agent_id, provider)
         WHERE v_loss.payment_id IS NOT NULL
        ON CONFLICT (day, agent_id, provider) DO UPDATE
           SET lost_micros = c.lost_micros + excluded.lost_micros, lost_calls = c.lost_calls + 1,
               updated_at = now();
    ELSE
        DELETE FROM losses l WHERE l.payment_id = p_payment RETURNING * INTO v_loss;
        UPDATE loss_counters c
           SET lost_micros = c.lost_micros - v_loss.micros, lost_calls = c.lost_calls - 1, updated_at = now()
         WHERE c.day = v_loss.day AND (c.agent_id IS NULL OR c.agent_id = v_loss.agent_id)
           AND (c.provider IS NULL OR c.provider = v_loss.provider);
    END IF;
END $$;

-- A delivery and its receipt come in either order, and from two processes where the answer was lost.
-- Nearly all are good and know no doubt: those are not weighed.
CREATE OR REPLACE FUNCTION note_loss() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'x402_procurement_receipts' THEN
        IF NOT NEW.success
           OR EXISTS (SELECT 1 FROM payments p WHERE p.id = NEW.payment_id AND p.in_doubt_since IS NOT NULL)
           OR EXISTS (SELECT 1 FROM losses l WHERE l.payment_id = NEW.payment_id) THEN
            PERFORM weigh_loss(NEW.payment_id);
        END IF;
    ELSIF TG_TABLE_NAME = 'payments' THEN
        PERFORM weigh_loss(NEW.id);
    ELSIF NEW.source = 'chain' OR EXISTS (
        SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = NEW.id AND NOT d.success) THEN
        PERFORM weigh_loss(NEW.id);
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS x402_procurement_receipts_loss ON x402_procurement_receipts;
CREATE TRIGGER x402_procurement_receipts_loss AFTER INSERT ON x402_procurement_receipts
    FOR EACH ROW WHEN (NEW.payment_id IS NOT NULL) EXECUTE FUNCTION note_loss();
DROP TRIGGER IF EXISTS x402_payment_logs_loss ON x402_payment_logs;
CREATE TRIGGER x402_payment_logs_loss AFTER INSERT ON x402_payment_logs
    FOR EACH ROW EXECUTE FUNCTION note_loss();
DROP TRIGGER IF EXISTS payments_loss ON payments;
CREATE TRIGGER payments_loss AFTER UPDATE OF status ON payments
    FOR EACH ROW WHEN (OLD.status = 'CONFIRMED' AND NEW.status = 'FAILED') EXECUTE FUNCTION note_loss();

-- What was lost on a day, as a layer counts it: with the providers of its pattern (NULL: all), by this
-- agent (NULL: by all together).
CREATE OR REPLACE FUNCTION lost_micros(p_day date, p_agent_id uuid, p_pattern text) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_pattern IS NULL THEN
        RETURN coalesce((SELECT c.lost_micros FROM loss_counters c
                          WHERE c.day = p_day AND c.agent_id = p_agent_id AND c.provider IS NULL), 0);
    ELSIF p_agent_id IS NULL THEN
        RETURN (SELECT coalesce(sum(c.lost_micros), 0) FROM loss_counters c
                 WHERE c.day = p_day AND c.agent_id IS NULL AND provider_covers(p_pattern, c.provider));
    END IF;
    RETURN (SELECT coalesce(sum(c.lost_micros), 0) FROM loss_counters c
             WHERE c.day = p_day AND c.agent_id = p_agent_id AND c.provider IS NOT NULL
               AND provider_covers(p_pattern, c.provider));
END $$;

-- The first layer whose cap this price, were it lost too, would pass. What is under way at the same time
-- is not known to be lost: so much more it can become.
CREATE OR REPLACE FUNCTION loss_denial(
    q reservation_request, p_caps jsonb, OUT limit_micros bigint, OUT detail jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    v_today date := (now() AT TIME ZONE 'UTC')::date;
    v_cap   record;
    v_lost  bigint;
BEGIN
    FOR v_cap IN SELECT * FROM jsonb_to_recordset(p_caps) AS c (layer text, provider text, per_agent boolean, micros bigint) LOOP
        v_lost := lost_micros(v_today, CASE WHEN v_cap.per_agent OR v_cap.provider IS NULL THEN q.agent_id END,
                              v_cap.provider);
        IF v_lost + q.price_micros > v_cap.micros THEN
            limit_micros := v_cap.micros;
            detail := jsonb_build_object(
                'layer', v_cap.layer, 'lost_micros', v_lost, 'resets_at', utc_midnight_after(v_today),
                'of', CASE WHEN v_cap.provider IS NULL THEN 'agent'
                           WHEN v_cap.per_agent THEN 'agent_provider' ELSE 'provider' END);
            RETURN;
        END IF;
    END LOOP;
END $$;

-- Approvals. ---------------------------------------------------------------------------------------

-- A payment that an operator has to say yes to, and what was said. It is for one request (the agent's
-- method, URL and body) to one receiver, in one asset, at this price at most; and it pays once.
CREATE TABLE IF NOT EXISTS approvals (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id     uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    state        text NOT NULL DEFAULT 'pending'
                 CHECK (state IN ('pending', 'approved', 'rejected', 'used', 'expired')),
    bound        bytea NOT NULL CHECK (octet_length(bound) = 32),
    provider     text NOT NULL,
    method       text NOT NULL,
    endpoint     text NOT NULL,
    network      text NOT NULL,
    asset        text NOT NULL,
    symbol       text NOT NULL,
    pay_to       text NOT NULL,
    price_micros bigint NOT NULL CHECK (price_micros BETWEEN 0 AND 999999999999999999),
    asks         bigint NOT NULL DEFAULT 1 CHECK (asks >= 1),
    expires_at   timestamptz NOT NULL,
    decided_by   text,
    decided_at   timestamptz,
    note         text NOT NULL DEFAULT '' CHECK (length(note) <= 500),
    payment_id   uuid REFERENCES payments (id) ON DELETE RESTRICT,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (state <> 'used' OR payment_id IS NOT NULL),
    CHECK (state IN ('pending', 'expired') OR decided_at IS NOT NULL)
) WITH (fillfactor = 80);
COMMENT ON COLUMN approvals.bound IS 'SHA-256 of all that it is for, but the price; see approval_bound';
COMMENT ON COLUMN approvals.price_micros IS 'the most that it may cost';
COMMENT ON COLUMN approvals.asks IS 'how often it was asked for while it was pending';
COMMENT ON COLUMN approvals.expires_at IS
    'pending: until when it can be approved; approved: until when it pays; rejected: until when the same is '
    'not asked again';
-- The same that waits, waits once.
CREATE UNIQUE INDEX IF NOT EXISTS idx_approvals_pending ON approvals (bound) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS idx_approvals_bound ON approvals (bound, state, price_micros);
CREATE INDEX IF NOT EXISTS idx_approvals_agent ON approvals (agent_id, state, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_approvals_payment ON approvals (payment_id) WHERE payment_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_approvals_created ON approvals (created_at DESC);
CREATE INDEX IF NOT EXISTS idx_approvals_expiry ON approvals (expires_at) WHERE state IN ('pending', 'approved');
DROP TRIGGER IF EXISTS approvals_touch ON approvals;
CREATE TRIGGER approvals_touch BEFORE UPDATE ON approvals
    FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

-- What an approval is for. `request_key` holds method, whole URL and body.
CREATE OR REPLACE FUNCTION approval_bound(q reservation_request) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN sha256(convert_to(jsonb_build_array(
        q.agent_id, q.method, q.endpoint, encode(q.request_key, 'hex'), q.provider, q.network, q.asset,
        q.pay_to)::text, 'UTF8'));
END $$;

-- The approval that pays for it: of several, the one that allows least.
CREATE OR REPLACE FUNCTION good_approval(q reservation_request) RETURNS uuid
LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT a.id FROM approvals a
             WHERE q.request_key IS NOT NULL AND a.bound = approval_bound(q) AND a.state = 'approved' AND a.price_micros >= q.price_micros
               AND a.expires_at > now()
             ORDER BY a.price_micros, a.expires_at, a.id LIMIT 1 FOR UPDATE);
END $$;

CREATE OR REPLACE FUNCTION note_approval(a approvals, p_type audit_event_type, p_code text, p_more jsonb DEFAULT '{}')
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note_event(a.agent_id, p_type, a.id, jsonb_build_object(
        'code', p_code, 'provider', a.provider, 'method', a.method, 'endpoint', a.endpoint,
        'price_micros', a.price_micros, 'symbol', a.symbol, 'network', a.network, 'pay_to', a.pay_to,
        'expires_at', a.expires_at) || p_more,
        -- The one that somebody has to act upon.
        CASE p_code WHEN 'approval_requested' THEN 'WARNING' ELSE 'INFO' END::audit_severity);
END $$;

-- Ends what nobody has decided or used in time; how many. Of one request only, with `p_bound`. Rows that
-- somebody holds are decided upon right now. What was never decided is kept for a month.
CREATE OR REPLACE FUNCTION expire_approvals(p_bound bytea DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    a         approvals;
    v_expired integer := 0;
BEGIN
    FOR a IN
        SELECT * FROM approvals x
         WHERE x.state IN ('pending', 'approved') AND x.expires_at <= now()
           AND (p_bound IS NULL OR x.bound = p_bound)
         ORDER BY x.id FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE approvals x SET state = 'expired' WHERE x.id = a.id;
        PERFORM note_approval(a, 'PAYMENT_STATUS', 'approval_expired', jsonb_build_object('was', a.state));
        v_expired := v_expired + 1;
    END LOOP;
    IF p_bound IS NULL THEN
        DELETE FROM approvals WHERE id IN (
            SELECT x.id FROM approvals x
             WHERE x.state = 'expired' AND x.decided_at IS NULL AND x.created_at < now() - interval '30 days'
             LIMIT 1000 FOR UPDATE SKIP LOCKED);
    END IF;
    RETURN v_expired;
END $$;

-- Why it is not paid yet: it waits for an operator (asked for now, or before), or was rejected for as
-- much or less. NULL if it is approved. An agent may have a hundred waiting; then it is not even asked for.
CREATE OR REPLACE FUNCTION approval_denial(q reservation_request) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    v_bound bytea := approval_bound(q);
    a       approvals;
BEGIN
    IF q.request_key IS NULL THEN  -- the provider asked before it had the whole body: nobody can know it again
        RETURN '{"state": "body_unknown"}';
    ELSIF good_approval(q) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    PERFORM expire_approvals(v_bound);
    SELECT * INTO a FROM approvals x
     WHERE x.bound = v_bound AND x.state = 'rejected' AND x.price_micros <= q.price_micros AND x.expires_at > now()
     ORDER BY x.expires_at DESC LIMIT 1;
    IF FOUND THEN
        RETURN jsonb_build_object('approval', a.id, 'state', 'rejected', 'expires_at', a.expires_at);
    END IF;

    SELECT * INTO a FROM approvals x WHERE x.bound = v_bound AND x.state = 'pending' FOR UPDATE;
    IF a.price_micros >= q.price_micros THEN
        UPDATE approvals x SET asks = x.asks + 1 WHERE x.id = a.id;
    ELSE
        -- However a provider turns its price or its receiver: so many questions in an hour, and no more.
        IF (SELECT count(*) FROM approvals x
             WHERE x.agent_id = q.agent_id AND x.provider = q.provider AND x.state IN ('pending', 'expired')
               AND x.created_at > now() - interval '1 hour') >= 100 THEN
            RETURN jsonb_build_object('state', 'too_many');
        ELSIF a.id IS NOT NULL THEN  -- what an operator looks at must not grow dearer under his eyes
            UPDATE approvals x SET state = 'expired', note = 'it costs more now' WHERE x.id = a.id;
            PERFORM note_approval(a, 'PAYMENT_STATUS', 'approval_expired', '{"was": "pending", "why": "it costs more now"}');
        ELSIF (SELECT count(*) FROM approvals x
                WHERE x.agent_id = q.agent_id AND x.state = 'pending' AND x.expires_at > now()) >= 100 THEN
            RETURN jsonb_build_object('state', 'too_many');
        END IF;
        INSERT INTO approvals (agent_id, bound, provider, method, endpoint, network, asset, symbol, pay_to,
                               price_micros, expires_at)
        VALUES (q.agent_id, v_bound, q.provider, q.method, q.endpoint, q.network, q.asset, q.symbol, q.pay_to,
                q.price_micros, now() + interval '1 hour')
        RETURNING * INTO a;
        PERFORM note_approval(a, 'PAYMENT_STATUS', 'approval_requested');
    END IF;
    RETURN jsonb_build_object('approval', a.id, 'state', 'pending', 'expires_at', a.expires_at);
END $$;

-- An operator's yes, good for so long. 'approved', 'already'; else what it is: expired, used, absent.
-- What was rejected can still be approved.
CREATE OR REPLACE FUNCTION approve(p_id uuid, p_by text, p_good interval DEFAULT '1 hour', p_note text DEFAULT '') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    a approvals;
BEGIN
    SELECT * INTO a FROM approvals x WHERE x.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF a.state IN ('pending', 'approved') AND a.expires_at <= now() THEN
        PERFORM expire_approvals(a.bound);
        RETURN 'expired';
    ELSIF a.state NOT IN ('pending', 'rejected') THEN
        RETURN CASE a.state WHEN 'approved' THEN 'already' ELSE a.state END;
    END IF;
    UPDATE approvals x
       SET state = 'approved', decided_by = p_by, decided_at = now(), expires_at = now() + p_good,
           note = coalesce(p_note, '')
     WHERE x.id = p_id RETURNING * INTO a;
    PERFORM note_approval(a, 'POLICY_CHANGE', 'approval_approved', jsonb_build_object('by', p_by, 'note', a.note));
    RETURN 'approved';
END $$;

-- An operator's no: for an hour the same is not asked again. What was approved and not used yet can
-- still be rejected. 'rejected', 'already'; else what it is: expired, used, absent.
CREATE OR REPLACE FUNCTION reject(p_id uuid, p_by text, p_note text DEFAULT '') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    a approvals;
BEGIN
    SELECT * INTO a FROM approvals x WHERE x.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF a.state IN ('pending', 'approved') AND a.expires_at <= now() THEN
        PERFORM expire_approvals(a.bound);
        RETURN 'expired';
    ELSIF a.state NOT IN ('pending', 'approved') THEN
        RETURN CASE a.state WHEN 'rejected' THEN 'already' ELSE a.state END;
    END IF;
    UPDATE approvals x
       SET state = 'rejected', decided_by = p_by, decided_at = now(), expires_at = now() + interval '1 hour',
           note = coalesce(p_note, '')
     WHERE x.id = p_id RETURNING * INTO a;
    PERFORM note_approval(a, 'POLICY_CHANGE', 'approval_rejected', jsonb_build_object('by', p_by, 'note', a.note));
    RETURN 'rejected';
END $$;

-- A payment that never left has used nothing up. One that left has, whatever became of it.
CREATE OR REPLACE FUNCTION return_approval() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    a approvals;
BEGIN
    UPDATE approvals x SET state = 'approved', payment_id = NULL WHERE x.payment_id = NEW.id RETURNING * INTO a;
    IF FOUND THEN
        PERFORM note_approval(a, 'PAYMENT_STATUS', 'approval_returned', jsonb_build_object('payment', NEW.id));
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS payments_approval ON payments;
CREATE TRIGGER payments_approval AFTER UPDATE OF status ON payments
    FOR EACH ROW WHEN (NEW.status = 'FAILED' AND NEW.release_reason = 'never_sent')
    EXECUTE FUNCTION return_approval();

-- An erased agent's approvals go: they tell where it went.
CREATE OR REPLACE FUNCTION forget_approvals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM approvals a WHERE a.agent_id = NEW.id;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS agents_approvals ON agents;
CREATE TRIGGER agents_approvals AFTER UPDATE ON agents
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL AND OLD.erased_at IS NULL) EXECUTE FUNCTION forget_approvals();

-- The gate. ----------------------------------------------------------------------------------------

-- The first "no", in this order: pay_to_changed, price_drift, over_loss_cap, approval_required. No row if
-- there is none. It writes what an operator has to see, denied or not; so it is asked last, and once.
CREATE OR REPLACE FUNCTION policy_gate(q reservation_request, p_rules jsonb)
RETURNS TABLE (code text, limit_micros bigint, detail jsonb)
LANGUAGE plpgsql AS $$
BEGIN
    IF p_rules IS NULL OR p_rules = '{}' THEN
        RETURN;
    END IF;
    IF p_rules ->> 'pinning' = 'first_use' THEN
        detail := pin_denial(q);
        IF detail IS NOT NULL THEN
            code := 'pay_to_changed';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    IF p_rules ?| ARRAY['ratio_last', 'ratio_median'] THEN
        SELECT d.limit_micros, d.detail INTO limit_micros, detail
          FROM drift_denial(q, (p_rules ->> 'ratio_last')::numeric, (p_rules ->> 'ratio_median')::numeric) d;
        IF detail IS NOT NULL THEN
            code := 'price_drift';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    IF jsonb_typeof(p_rules -> 'loss_cap') = 'array' THEN
        SELECT d.limit_micros, d.detail INTO limit_micros, detail FROM loss_denial(q, p_rules -> 'loss_cap') d;
        IF detail IS NOT NULL THEN
            code := 'over_loss_cap';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    IF (p_rules ->> 'approval')::boolean THEN
        detail := approval_denial(q);
        IF detail IS NOT NULL THEN
            code := 'approval_required';
            RETURN NEXT;
        END IF;
    END IF;
END $$;

-- The payment is made, in this very transaction: its receiver is pinned, its approval used up.
CREATE OR REPLACE FUNCTION policy_gate_taken(q reservation_request, p_rules jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    a approvals;
BEGIN
    IF p_rules ->> 'pinning' = 'first_use' THEN
        INSERT INTO pay_to_pins AS p (provider, network, pay_to, accepted, agent_id, updated_by)
        VALUES (plain_origin(q.provider), q.network, q.pay_to, true, q.agent_id, 'first use')
        ON CONFLICT (provider, network, pay_to) DO UPDATE
           SET accepted = true, updated_by = 'first use', updated_at = now() WHERE NOT p.accepted;
    END IF;
    IF (p_rules ->> 'approval')::boolean THEN
        UPDATE approvals x SET state = 'used', payment_id = q.payment_id
         WHERE x.id = good_approval(q) RETURNING * INTO a;
        IF NOT FOUND THEN  -- the gate has locked it in this transaction
            RAISE EXCEPTION 'payment % has no approval', q.payment_id;
        END IF;
        PERFORM note_approval(a, 'PAYMENT_STATUS', 'approval_used', jsonb_build_object('payment', q.payment_id));
    END IF;
END $$;

-- Who may what: the operator decides, the proxy asks.
SELECT open_table(t, ARRAY['autopay_writer', 'autopay_reader', 'autopay_auditor', 'autopay_admin'])
  FROM unnest(ARRAY['pay_to_pins', 'losses', 'loss_counters', 'approvals']::regclass[]) t;
GRANT SELECT ON pay_to_pins, losses, loss_counters, approvals
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
REVOKE ALL ON FUNCTION plain_origin(text), provider_covers(text, text), pin_denial(reservation_request),
    accept_pin(text, text, text, text), forget_pins(text, text, text, text),
    drift_denial(reservation_request, numeric, numeric), weigh_loss(uuid), note_loss(),
    lost_micros(date, uuid, text), loss_denial(reservation_request, jsonb),
    approval_bound(reservation_request), good_approval(reservation_request),
    note_approval(approvals, audit_event_type, text, jsonb), expire_approvals(bytea),
    approval_denial(reservation_request), approve(uuid, text, interval, text), reject(uuid, text, text),
    return_approval(), forget_approvals(), policy_gate(reservation_request, jsonb),
    policy_gate_taken(reservation_request, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION plain_origin(text), provider_covers(text, text), lost_micros(date, uuid, text)
    TO autopay_writer, autopay_reader, autopay_auditor, autopay_admin;
GRANT EXECUTE ON FUNCTION expire_approvals(bytea) TO autopay_writer, autopay_admin;
GRANT EXECUTE ON FUNCTION accept_pin(text, text, text, text), forget_pins(text, text, text, text),
    approve(uuid, text, interval, text), reject(uuid, text, text) TO autopay_admin;
