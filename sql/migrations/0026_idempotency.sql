-- The same request again: it joins the payment that is open, or gets the answer that was paid for. What
-- a payment looked like when it left is kept, so that the very same bytes can go out again; answers
-- that did not reach their program are kept, so that nobody pays for them twice.

ALTER TABLE payments
    ADD COLUMN IF NOT EXISTS idempotency_key bytea CHECK (octet_length(idempotency_key) = 32),
    ADD COLUMN IF NOT EXISTS payment_header text,
    ADD COLUMN IF NOT EXISTS identified boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS presented smallint NOT NULL DEFAULT 0 CHECK (presented BETWEEN 0 AND 3),
    ADD COLUMN IF NOT EXISTS presented_by uuid;
COMMENT ON COLUMN payments.idempotency_key IS
    'SHA-256 of the key that the program gave; null once its time is over';
COMMENT ON COLUMN payments.payment_header IS
    'the request header that carried it, as it left: to be sent again byte for byte, or not at all';
COMMENT ON COLUMN payments.identified IS
    'it went with a payment identifier: that provider may serve it again after it has landed';
COMMENT ON COLUMN payments.presented IS 'how often the same bytes went out again';
COMMENT ON COLUMN payments.presented_by IS
    'the process that is sending them now; means nothing once that process is gone';
-- It is read when an answer was lost, that is hardly ever: out of the row's way, and no time spent on
-- compressing base64.
ALTER TABLE payments ALTER COLUMN payment_header SET STORAGE EXTERNAL;

-- One landing for each key. What was never sent, or is proved dead, is no landing.
CREATE UNIQUE INDEX IF NOT EXISTS idx_payments_idempotency ON payments (agent_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL AND status <> 'FAILED';
-- Landed, and the answer was lost: few.
CREATE INDEX IF NOT EXISTS idx_payments_answer_lost ON payments (agent_id, request_key, created_at DESC)
    WHERE status IN ('CONFIRMED', 'VERIFIED') AND in_doubt_since IS NOT NULL AND identified;

ALTER TABLE retry_attempts
    ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'connection'
        CHECK (kind IN ('connection', 'representation'));
COMMENT ON COLUMN retry_attempts.kind IS
    'connection: nothing had left yet; representation: the same signed bytes went out again';

-- Answers that were paid for: those that did not reach their program, and those under a key. Private:
-- sealed under the agent's own key, erased with the agent, removed when their time is over.
CREATE TABLE IF NOT EXISTS kept_answers (
    payment_id      uuid PRIMARY KEY REFERENCES payments (id) ON DELETE RESTRICT,
    agent_id        uuid NOT NULL REFERENCES agents (id) ON DELETE RESTRICT,
    request_key     bytea CHECK (octet_length(request_key) = 32),
    idempotency_key bytea CHECK (octet_length(idempotency_key) = 32),
    delivered       boolean NOT NULL,
    sealed          bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL
);
COMMENT ON COLUMN kept_answers.delivered IS
    'the program had it whole: it is for those who wait for the same payment, or give its key';
COMMENT ON COLUMN kept_answers.sealed IS 'status, fields and body, under the agent''s own key';
ALTER TABLE kept_answers ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX IF NOT EXISTS idx_kept_answers_request ON kept_answers (agent_id, request_key, created_at DESC)
    WHERE NOT delivered AND idempotency_key IS NULL;
CREATE INDEX IF NOT EXISTS idx_kept_answers_agent ON kept_answers (agent_id, created_at DESC);
CREATE INDEX IF NOT EXISTS idx_kept_answers_expiry ON kept_answers (expires_at);

-- Which processes live: each holds a lock of its own for as long as its connection does. One that was
-- killed is gone at once, without a clock. The ids are those of `instance_key`.
CREATE OR REPLACE FUNCTION instance_key(p_instance uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT hashtextextended('instance ' || p_instance, 402) $$;

CREATE OR REPLACE FUNCTION running_instances() RETURNS bigint[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(l.classid::bigint << 32 | l.objid::bigint), '{}')
      FROM pg_locks l
     WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.mode = 'ShareLock'
       AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$$;

-- Whether whoever waits for this payment's answer is still there. Unknown senders are given credit.
CREATE OR REPLACE FUNCTION is_awaited(p_instance uuid, p_me uuid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN p_instance IS NULL OR p_instance IS NOT DISTINCT FROM p_me
        OR instance_key(p_instance) = ANY (running_instances());
END $$;

-- What the same request as this payment's gets: payment_in_doubt; request_in_progress; answer_kept;
-- answer_lost (it landed, and its provider may serve it again); already_paid (it landed, and there is
-- no answer to be had); released (nothing was paid).
CREATE OR REPLACE FUNCTION answer_state(p payments, p_me uuid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p.status = 'FAILED' THEN
        RETURN 'released';
    ELSIF p.status IN ('INITIATED', 'SIGNED') THEN
        RETURN CASE WHEN p.in_doubt_since IS NULL AND is_awaited(p.instance, p_me)
                    THEN 'request_in_progress' ELSE 'payment_in_doubt' END;
    ELSIF EXISTS (SELECT 1 FROM kept_answers k WHERE k.payment_id = p.id AND k.expires_at > now()) THEN
        RETURN 'answer_kept';
    ELSIF EXISTS (SELECT 1 FROM x402_payment_logs l WHERE l.id = p.id AND l.source = 'chain') THEN
        RETURN CASE WHEN p.identified AND p.presented < 3 THEN 'answer_lost' ELSE 'already_paid' END;
    ELSIF NOT is_awaited(p.instance, p_me)
          OR EXISTS (SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = p.id) THEN
        RETURN 'already_paid';
    END IF;
    RETURN 'request_in_progress';
END $$;

-- What a request has to do with payments from before; no code if nothing. Beside the codes of
-- `answer_state` there are idempotency_key_reused, and request_elsewhere: an equal payment is open that
-- another process sent and seems to wait for. Whether this is a second purchase beside that one, or the
-- first asking again, only that process knows. So it is asked (proxy/ledger/presence.py), and until it has
-- said that its program still waits, nothing is signed for anew. With the caller's rights and settings:
-- every reservation asks, and to change those for each costs as much as the answer.
CREATE OR REPLACE FUNCTION prior_payment(
    p_agent uuid, p_request bytea, p_key bytea, p_key_seconds double precision, p_share boolean,
    p_me uuid, OUT code text, OUT payment_id uuid
) LANGUAGE plpgsql AS $$
DECLARE
    v           payments;
    v_doubtful  boolean;
    v_elsewhere uuid;
    v_since     timestamptz := now() - make_interval(secs => coalesce(p_key_seconds, 86400));
BEGIN
    IF p_key IS NOT NULL THEN
        SELECT * INTO v FROM payments p
         WHERE p.agent_id = p_agent AND p.idempotency_key = p_key AND p.status <> 'FAILED'
           AND (p.status IN ('INITIATED', 'SIGNED') OR p.created_at > v_since);
        IF FOUND THEN
            payment_id := v.id;
            -- A body that is not known whole is equal to none.
            code := CASE WHEN v.request_key = p_request THEN answer_state(v, p_me)
                         ELSE 'idempotency_key_reused' END;
            RETURN;
        END IF;
    END IF;
    IF p_request IS NULL THEN
        RETURN;
    END IF;
    -- Four statements, not one: each is planned once and for all, and most requests have nothing to
    -- find (60 us for all of them together).
    SELECT p.id, p.in_doubt_since IS NOT NULL
                 OR instance_key(p.instance) <> ALL ((SELECT running_instances())::bigint[])
      INTO payment_id, v_doubtful FROM payments p
     WHERE p.agent_id = p_agent AND p.request_key = p_request AND p.status IN ('INITIATED', 'SIGNED')
       AND (p.in_doubt_since IS NOT NULL OR p.instance <> p_me)
     ORDER BY 2 DESC, p.created_at DESC LIMIT 1;
    IF v_doubtful THEN
        code := 'payment_in_doubt';
        RETURN;
    END IF;
    v_elsewhere := payment_id;
    payment_id := NULL;
    IF p_key IS NOT NULL THEN
        RETURN;  -- a key of its own says that it is a request of its own
    END IF;
    SELECT k.payment_id INTO payment_id FROM kept_answers k
     WHERE k.agent_id = p_agent AND k.request_key = p_request AND NOT k.delivered
       AND k.idempotency_key IS NULL AND k.expires_at > now()
     ORDER BY k.created_at DESC LIMIT 1;
    IF FOUND THEN
        code := 'answer_kept';
        RETURN;
    END IF;
    SELECT p.id INTO payment_id FROM payments p
     WHERE p.agent_id = p_agent AND p.request_key = p_request AND p.status IN ('CONFIRMED', 'VERIFIED')
       AND p.in_doubt_since IS NOT NULL AND p.identified AND p.presented < 3 AND p.created_at > v_since
       AND EXISTS (SELECT 1 FROM x402_payment_logs l WHERE l.id = p.id AND l.source = 'chain')
     ORDER BY p.created_at DESC LIMIT 1;
    IF FOUND THEN
        code := 'answer_lost';
        RETURN;
    END IF;
    IF p_share THEN
        SELECT p.id INTO payment_id FROM payments p
         WHERE p.agent_id = p_agent AND p.request_key = p_request AND p.status IN ('INITIATED', 'SIGNED')
         ORDER BY p.created_at DESC LIMIT 1;
        IF FOUND THEN
            code := 'request_in_progress';
        END IF;
    ELSIF v_elsewhere IS NOT NULL THEN
        payment_id := v_elsewhere;
        code := 'request_elsewhere';
    END IF;
END $$;

-- A key whose time is over is free for another request. Rows that somebody holds are left for later:
-- the caller has other locks already.
CREATE OR REPLACE FUNCTION free_idempotency_key(p_agent uuid, p_key bytea, p_key_seconds double precision) RETURNS void
LANGUAGE sql AS $$
    UPDATE payments SET idempotency_key = NULL
     WHERE id IN (SELECT p.id FROM payments p
                   WHERE p.agent_id = p_agent AND p.idempotency_key = p_key
                     AND p.status IN ('CONFIRMED', 'VERIFIED')
                     AND p.created_at <= now() - make_interval(secs => coalesce(p_key_seconds, 86400))
                     FOR UPDATE SKIP LOCKED)
$$;

-- Leave to send the same bytes again, for one process at a time and three times in all: 'ok', 'busy',
-- 'exhausted', or the code of `answer_state` that it has come to meanwhile. Whoever gets it owes
-- `end_presenting`, or dies.
CREATE OR REPLACE FUNCTION begin_presenting(p_id uuid, p_instance uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v       payments;
    v_state text;
BEGIN
    SELECT * INTO v FROM payments p WHERE p.id = p_id FOR UPDATE;
    v_state := answer_state(v, p_instance);
    IF v_state NOT IN ('payment_in_doubt', 'answer_lost') THEN
        RETURN v_state;
    ELSIF v.presented_by IS NOT NULL AND is_awaited(v.presented_by, p_instance) THEN
        RETURN 'busy';
    ELSIF v.presented >= 3 OR v.payment_header IS NULL THEN
        RETURN 'exhausted';
    END IF;
    UPDATE payments p
       SET presented = p.presented + 1, presented_by = p_instance, instance = p_instance,
           in_doubt_since = CASE p.status WHEN 'SIGNED' THEN coalesce(p.in_doubt_since, now())
                                          ELSE p.in_doubt_since END,
           doubt_reason = CASE p.status WHEN 'SIGNED' THEN coalesce(p.doubt_reason, 'sender_lost')
                                        ELSE p.doubt_reason END
     WHERE p.id = p_id;
    PERFORM note_event(v.agent_id, 'PAYMENT_STATUS', p_id, jsonb_build_object(
        'code', 'presented_again', 'attempt', v.presented + 1, 'provider', v.provider), 'INFO');
    RETURN 'ok';
END $$;

-- What came of it. `last`: there is no point in another. Repeatable by `id`.
CREATE OR REPLACE FUNCTION end_presenting(q jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v payments;
BEGIN
    SELECT * INTO v FROM payments p WHERE p.id = (q ->> 'payment_id')::uuid FOR UPDATE;
    IF NOT FOUND OR EXISTS (SELECT 1 FROM retry_attempts r WHERE r.id = (q ->> 'id')::uuid) THEN
        RETURN 'noted';
    END IF;
    INSERT INTO retry_attempts (id, agent_id, api_request_id, payment_id, kind, attempt_number, backoff_delay,
                                outcome, error_class, error_message)
    VALUES ((q ->> 'id')::uuid, v.agent_id, v.api_request_id, v.id, 'representation',
            greatest(v.presented, 1), '0', (q ->> 'outcome')::retry_outcome,
            (SELECT e.code FROM error_classifications e WHERE e.code = q ->> 'error_class'), q ->> 'error');
    UPDATE payments p
       SET presented_by = NULL, presented = CASE WHEN (q ->> 'last')::boolean THEN 3 ELSE p.presented END
     WHERE p.id = v.id AND p.presented_by = (q ->> 'instance')::uuid;
    PERFORM note_event(v.agent_id, 'PAYMENT_STATUS', v.id, jsonb_strip_nulls(jsonb_build_object(
        'code', 'presented_outcome', 'attempt', v.presented, 'outcome', q ->> 'outcome',
        'reason', q ->> 'error_class', 'detail', q ->> 'error')), 'INFO');
    RETURN 'noted';
END $$;

-- Keeps an answer, once, and makes room: what has expired goes, then the agent's oldest past `p_most`.
-- Not for an agent that was erased meanwhile. 'kept'; 'already'; 'erased'.
CREATE OR REPLACE FUNCTION keep_answer(
    p_payment uuid, p_delivered boolean, p_sealed bytea, p_seconds double precision, p_most integer
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    v      payments;
BEGIN
    SELECT * INTO v FROM payments p WHERE p.id = p_payment;
    -- Held still until the end, so that it is not kept behind an erasure's back.
    PERFORM 1 FROM agents a WHERE a.id = v.agent_id AND a.erased_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'erased';
    END IF;
    INSERT INTO kept_answers AS k (payment_id, agent_id, request_key, idempotency_key, delivered, sealed, expires_at)
    VALUES (v.id, v.agent_id, v.request_key, v.idempotency_key, p_delivered, p_sealed,
            now() + make_interval(secs => p_seconds))
    ON CONFLICT (payment_id) DO UPDATE SET delivered = k.delivered AND excluded.delivered;
    DELETE FROM kept_answers WHERE payment_id IN (
        SELECT k.payment_id FROM kept_answers k WHERE k.expires_at <= now() LIMIT 100 FOR UPDATE SKIP LOCKED);
    DELETE FROM kept_answers WHERE payment_id IN (
        SELECT k.payment_id FROM kept_answers k WHERE k.agent_id = v.agent_id
         ORDER BY k.created_at DESC OFFSET p_most LIMIT 100 FOR UPDATE SKIP LOCKED);
    RETURN 'kept';
END $$;

SELECT open_table('kept_answers', ARRAY['autopay_writer']);
GRANT SELECT, DELETE ON kept_answers TO autopay_writer;
REVOKE ALL ON FUNCTION instance_key(uuid), running_instances(), is_awaited(uuid, uuid),
    answer_state(payments, uuid), free_idempotency_key(uuid, bytea, double precision),
    prior_payment(uuid, bytea, bytea, double precision, boolean, uuid), begin_presenting(uuid, uuid),
    end_presenting(jsonb), keep_answer(uuid, boolean, bytea, double precision, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION instance_key(uuid), running_instances(), is_awaited(uuid, uuid),
    answer_state(payments, uuid),
    prior_payment(uuid, bytea, bytea, double precision, boolean, uuid), begin_presenting(uuid, uuid),
    end_presenting(jsonb), keep_answer(uuid, boolean, bytea, double precision, integer) TO autopay_writer;
