-- An answer that is on its way while its program has gone is known before it is here: that program may
-- ask again at another proxy, and is not to be paid for twice.

ALTER TABLE kept_answers ALTER COLUMN sealed DROP NOT NULL;
COMMENT ON COLUMN kept_answers.sealed IS
    'status, fields and body, under the agent''s own key; null: on its way, as long as its sender lives';

-- As in 0026, but that an answer which is on its way is not here.
CREATE OR REPLACE FUNCTION answer_state(p payments, p_me uuid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p.status = 'FAILED' THEN
        RETURN 'released';
    ELSIF p.status IN ('INITIATED', 'SIGNED') THEN
        RETURN CASE WHEN p.in_doubt_since IS NULL AND is_awaited(p.instance, p_me)
                    THEN 'request_in_progress' ELSE 'payment_in_doubt' END;
    ELSIF EXISTS (SELECT 1 FROM kept_answers k
                   WHERE k.payment_id = p.id AND k.expires_at > now() AND k.sealed IS NOT NULL) THEN
        RETURN 'answer_kept';
    ELSIF EXISTS (SELECT 1 FROM x402_payment_logs l WHERE l.id = p.id AND l.source = 'chain') THEN
        RETURN CASE WHEN p.identified AND p.presented < 3 THEN 'answer_lost' ELSE 'already_paid' END;
    ELSIF NOT is_awaited(p.instance, p_me)
          OR EXISTS (SELECT 1 FROM x402_procurement_receipts d WHERE d.payment_id = p.id) THEN
        RETURN 'already_paid';
    END IF;
    RETURN 'request_in_progress';
END $$;

-- As in 0026, but for answers that are on their way: request_in_progress.
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
    SELECT k.payment_id, CASE WHEN k.sealed IS NULL THEN 'request_in_progress' ELSE 'answer_kept' END
      INTO payment_id, code FROM kept_answers k
     WHERE k.agent_id = p_agent AND k.request_key = p_request AND NOT k.delivered
       AND k.idempotency_key IS NULL AND k.expires_at > now()
       AND (k.sealed IS NOT NULL OR (SELECT answer_state(p, p_me) FROM payments p WHERE p.id = k.payment_id)
                                    = 'request_in_progress')
     ORDER BY k.sealed IS NULL, k.created_at DESC LIMIT 1;
    IF FOUND THEN
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

-- As in 0026. Without `p_sealed` it says that the answer is on its way.
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
    ON CONFLICT (payment_id) DO UPDATE
       SET delivered = k.delivered AND excluded.delivered,
           sealed = coalesce(k.sealed, excluded.sealed),
           expires_at = CASE WHEN k.sealed IS NULL THEN excluded.expires_at ELSE k.expires_at END;
    DELETE FROM kept_answers WHERE payment_id IN (
        SELECT k.payment_id FROM kept_answers k WHERE k.expires_at <= now() LIMIT 100 FOR UPDATE SKIP LOCKED);
    DELETE FROM kept_answers WHERE payment_id IN (
        SELECT k.payment_id FROM kept_answers k WHERE k.agent_id = v.agent_id
         ORDER BY k.created_at DESC OFFSET p_most LIMIT 100 FOR UPDATE SKIP LOCKED);
    RETURN 'kept';
END $$;
