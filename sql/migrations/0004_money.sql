-- The four moves of money. Each is one statement for its caller, one transaction here, and may be
-- repeated by id after a lost acknowledgement.
--
-- Locks are always taken in this order: the payment's id, the payment's row, its counters by scope,
-- the policy. `enable_seqscan = off`: plans are cached, and one made while a table was empty would
-- scan it for as long as the connection lives.

-- Makes everything that is done under one payment id wait its turn, also before there is a row.
CREATE FUNCTION lock_payment_id(p_id uuid) RETURNS void
LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(p_id::text, 402))
$$;

-- The counter of this scope, locked; made if it is the first of its window.
CREATE FUNCTION lock_counter(
    p_scope text, p_kind budget_kind, p_agent_id uuid, p_day date, p_session_id text
) RETURNS budget_counters
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_counter budget_counters;
BEGIN
    SELECT * INTO v_counter FROM budget_counters c WHERE c.scope = p_scope FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO budget_counters (scope, kind, agent_id, day, session_id)
        VALUES (p_scope, p_kind, p_agent_id, p_day, p_session_id)
        ON CONFLICT (scope) DO NOTHING;
        SELECT * INTO v_counter FROM budget_counters c WHERE c.scope = p_scope FOR UPDATE;
    END IF;
    RETURN v_counter;
END $$;

CREATE TYPE reservation AS (
    code             text,         -- 'ok', or why not
    limit_micros     bigint,       -- of the budget that refused, else of the agent's day
    spent_micros     bigint,
    held_micros      bigint,
    remaining_micros bigint,       -- the least that is left in any budget
    day              date,
    resets_at        timestamptz   -- when that budget begins anew, if it ever does
);

-- Takes the price from every budget or from none, writes the payment and the decision.
-- Codes: ok, unknown_agent, frozen, over_per_call_limit, over_daily_limit, over_session_limit,
-- duplicate_message (those bytes are another payment's), abandoned (released before or meanwhile).
CREATE FUNCTION reserve(
    p_id                      uuid,
    p_agent_id                uuid,
    p_price_micros            bigint,
    p_amount_atomic           numeric,
    p_session_id              text,
    p_trace_id                text,
    p_provider                text,
    p_method                  text,
    p_endpoint                text,
    p_request_body_sha256     bytea,
    p_x402_version            integer,
    p_network                 text,
    p_asset                   text,
    p_symbol                  text,
    p_pay_to                  text,
    p_payer                   text,
    p_fee_payer               text,
    p_source_account          text,
    p_destination_account     text,
    p_memo                    text,
    p_blockhash               text,
    p_last_valid_block_height bigint,
    p_blockhash_slot          bigint,
    p_client_signature        text,
    p_message_sha256          bytea,
    p_payment_payload         jsonb
) RETURNS reservation
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    r          reservation;
    v_today    date := (now() AT TIME ZONE 'UTC')::date;
    v_counters budget_counters[];
    v_counter  budget_counters;
    v_policy   agent_policies;
    v_limit    bigint;
    v_scope    text;
    v_before   bigint;
BEGIN
    PERFORM lock_payment_id(p_id);

    SELECT d.reason, d.limit_micros, d.scope_spent_micros, d.scope_held_micros, d.remaining_micros,
           d.day, CASE d.reason WHEN 'over_daily_limit' THEN utc_midnight_after(d.day) END
      INTO r FROM policy_decision_logs d WHERE d.payment_id = p_id;
    IF FOUND THEN
        IF r.code = 'ok' AND EXISTS (
            SELECT 1 FROM payments p WHERE p.id = p_id AND p.status = 'FAILED') THEN
            r.code := 'abandoned';
        END IF;
        RETURN r;
    END IF;

    r := ('ok', 0, 0, 0, 0, v_today, NULL);
    IF NOT EXISTS (SELECT 1 FROM agents a WHERE a.id = p_agent_id AND a.is_active) THEN
        r.code := 'unknown_agent';
    ELSE
        v_counter := lock_counter(agent_day_scope(p_agent_id, v_today),
                                  'agent_day', p_agent_id, v_today, NULL);
        v_counters := ARRAY[v_counter];
        IF p_session_id IS NOT NULL THEN
            v_counter := lock_counter(session_scope(p_agent_id, p_session_id),
                                      'session', p_agent_id, NULL, p_session_id);
            v_counters := v_counters || v_counter;
        END IF;

        -- Read after the wait for the counters, and held still until the end: whoever has frozen
        -- this agent and got the answer can be sure that nothing is granted any more.
        SELECT p.* INTO v_policy FROM agent_policies p WHERE p.agent_id = p_agent_id FOR SHARE;
        IF NOT FOUND THEN
            r.code := 'unknown_agent';
        ELSE
            v_counter := v_counters[1];
            r.limit_micros := v_policy.daily_limit_micros;
            r.spent_micros := v_counter.spent_micros;
            r.held_micros := v_counter.held_micros;
            r.remaining_micros := NULL;
            v_scope := v_counter.scope;
            v_before := r.limit_micros - r.spent_micros - r.held_micros;

            IF v_policy.frozen THEN
                r.code := 'frozen';
            ELSIF p_price_micros > v_policy.per_call_limit_micros THEN
                r.code := 'over_per_call_limit';
                r.limit_micros := v_policy.per_call_limit_micros;
                r.spent_micros := 0;
                r.held_micros := 0;
            ELSIF EXISTS (SELECT 1 FROM abandoned_reservations a WHERE a.payment_id = p_id) THEN
                r.code := 'abandoned';
            END IF;

            FOREACH v_counter IN ARRAY v_counters LOOP
                v_limit := budget_limit(v_counter.kind, v_policy);
                r.remaining_micros := least(
                    r.remaining_micros, v_limit - v_counter.spent_micros - v_counter.held_micros);
                IF r.code = 'ok'
                   AND v_counter.spent_micros + v_counter.held_micros + p_price_micros > v_limit THEN
                    r.code := budget_denial(v_counter.kind);
                    r.limit_micros := v_limit;
                    r.spent_micros := v_counter.spent_micros;
                    r.held_micros := v_counter.held_micros;
                    v_scope := v_counter.scope;
                END IF;
            END LOOP;
        END IF;
    END IF;

    IF r.code = 'ok' THEN
        INSERT INTO payments (
            id, agent_id, status, amount_atomic, price_micros, day, scopes, policy_version,
            session_id, trace_id, provider, method, endpoint, request_body_sha256,
            x402_version, network, asset, symbol, pay_to,
            payer, fee_payer, source_account, destination_account, memo, blockhash,
            last_valid_block_height, blockhash_slot, client_signature, message_sha256,
            payment_payload)
        VALUES (
            p_id, p_agent_id,
            CASE WHEN p_message_sha256 IS NULL THEN 'INITIATED' ELSE 'SIGNED' END::payment_status,
            p_amount_atomic, p_price_micros, v_today,
            ARRAY(SELECT (c).scope FROM unnest(v_counters) c), v_policy.version,
            p_session_id, p_trace_id, p_provider, p_method, p_endpoint, p_request_body_sha256,
            p_x402_version, p_network, p_asset, p_symbol, p_pay_to,
            p_payer, p_fee_payer, p_source_account, p_destination_account, p_memo, p_blockhash,
            p_last_valid_block_height, p_blockhash_slot, p_client_signature, p_message_sha256,
            p_payment_payload)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            r.code := 'duplicate_message';
        ELSE
            UPDATE budget_counters c
               SET held_micros = c.held_micros + p_price_micros, updated_at = now()
             WHERE c.scope = ANY (ARRAY(SELECT (x).scope FROM unnest(v_counters) x));
            r.held_micros := r.held_micros + p_price_micros;
            r.remaining_micros := r.remaining_micros - p_price_micros;
        END IF;
    END IF;

    IF r.code = 'over_daily_limit' THEN
        r.resets_at := utc_midnight_after(v_today);
    END IF;

    INSERT INTO policy_decision_logs (
        payment_id, trace_id, session_id, agent_id, method, endpoint, decision, reason,
        policy_version, scope, limit_micros, scope_spent_micros, scope_held_micros,
        quoted_price_micros, spent_today_micros, reserved_micros, remaining_daily_micros,
        budget_before_micros, remaining_micros, day)
    SELECT p_id, p_trace_id, p_session_id, p_agent_id, p_method, p_endpoint,
           CASE r.code WHEN 'ok' THEN 'allow' ELSE 'deny' END, r.code,
           v_policy.version, v_scope, r.limit_micros, r.spent_micros, r.held_micros,
           p_price_micros, coalesce((v_counters[1]).spent_micros, 0),
           coalesce((v_counters[1]).held_micros, 0) + taken.micros,
           coalesce(v_before, 0) - taken.micros, v_before, r.remaining_micros, v_today
      FROM (SELECT CASE r.code WHEN 'ok' THEN p_price_micros ELSE 0 END AS micros) taken;
    RETURN r;
END $$;

-- Held → spent, and the receipt. 'settled'; 'already' if it was; 'absent', 'unsigned' or 'released'
-- if there is nothing to settle, which the caller must report: money may have moved unseen.
CREATE FUNCTION settle(
    p_id              uuid,
    p_claimed         boolean,
    p_transaction     text,
    p_payer           text,
    p_network         text,
    p_amount          text,
    p_response_header text,
    p_response        text,
    p_http_status     integer,
    p_success         boolean,
    p_latency_ms      integer,
    p_error           text,
    p_source          text
) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_payment  payments;
    v_response jsonb := jsonb_or_null(p_response);
    v_hash     text := substring(p_transaction FROM '^[0-9A-Za-z]{32,88}$');
BEGIN
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF v_payment.status IN ('CONFIRMED', 'VERIFIED') THEN
        RETURN 'already';
    ELSIF v_payment.status <> 'SIGNED' THEN
        RETURN CASE v_payment.status WHEN 'FAILED' THEN 'released' ELSE 'unsigned' END;
    END IF;

    PERFORM move_held(v_payment, true);
    LOOP
        BEGIN
            UPDATE payments p
               SET status = 'CONFIRMED', settled_at = now(), payment_hash = v_hash,
                   verification_callback = v_response
             WHERE p.id = p_id;
            EXIT;
        EXCEPTION WHEN unique_violation THEN
            -- A provider named the transaction of another payment. That must not keep this one
            -- from being booked; the claim stays in the receipt.
            v_hash := NULL;
        END;
    END LOOP;

    INSERT INTO x402_payment_logs (
        id, session_id, trace_id, agent_id, endpoint, method, amount, symbol, asset, amount_micros,
        network, pay_to, receipt_ref, tx_hash, settle_payer, settle_network, settle_tx_hash,
        settle_amount, facilitator_settlement_id, facilitator_payment_id,
        payment_response_header, payment_response_hash, settle_response, settle_response_hash,
        settle_extensions, payment_payload, payment_payload_hash,
        source, claimed, success, http_status, latency_ms, error)
    SELECT p.id, p.session_id, p.trace_id, p.agent_id, p.endpoint, p.method, p.amount_atomic::text,
           p.symbol, p.asset, p.price_micros, p.network, p.pay_to, p.id::text, v_hash,
           p_payer, p_network, p_transaction, p_amount,
           v_response ->> 'settlementId', v_response ->> 'paymentId',
           p_response_header, hex_sha256(p_response_header), v_response, hex_sha256(p_response),
           v_response -> 'extensions', p.payment_payload, hex_sha256(p.payment_payload::text),
           p_source, p_claimed, p_success, p_http_status, p_latency_ms, p_error
      FROM payments p WHERE p.id = p_id;
    RETURN 'settled';
END $$;

-- Gives held money back. Only for what can never land: 'never_sent' (no byte left) or 'proved_dead'.
-- 'released'; 'already'; 'absent' (and a reservation of that id that arrives later is refused);
-- 'settled' if it was paid for, and stays so.
CREATE FUNCTION release(p_id uuid, p_reason text) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_payment payments;
BEGIN
    PERFORM lock_payment_id(p_id);
    SELECT * INTO v_payment FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO abandoned_reservations (payment_id) VALUES (p_id) ON CONFLICT DO NOTHING;
        RETURN 'absent';
    ELSIF v_payment.status = 'FAILED' THEN
        RETURN 'already';
    ELSIF v_payment.status NOT IN ('INITIATED', 'SIGNED') THEN
        RETURN 'settled';
    END IF;
    PERFORM move_held(v_payment, false);
    UPDATE payments p SET status = 'FAILED', release_reason = p_reason WHERE p.id = p_id;
    RETURN 'released';
END $$;

-- Notes that the fate of a payment is unknown. The money stays held. 'doubted', or what it is instead.
CREATE FUNCTION doubt(p_id uuid, p_reason text, p_detail text, p_http_status integer) RETURNS text
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_status payment_status;
BEGIN
    SELECT p.status INTO v_status FROM payments p WHERE p.id = p_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'absent';
    ELSIF v_status <> 'SIGNED' THEN
        RETURN lower(v_status::text);
    END IF;
    UPDATE payments p
       SET doubt_reason = p_reason, doubt_detail = p_detail, doubt_http_status = p_http_status,
           in_doubt_since = coalesce(p.in_doubt_since, now())
     WHERE p.id = p_id;
    RETURN 'doubted';
END $$;

-- Takes a payment's price out of "held" of all its counters, into "spent" or back to the budget.
CREATE FUNCTION move_held(p_payment payments, p_spend boolean) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    v_moved integer;
BEGIN
    PERFORM 1 FROM budget_counters c WHERE c.scope = ANY (p_payment.scopes) ORDER BY c.scope FOR UPDATE;
    UPDATE budget_counters c
       SET held_micros = c.held_micros - p_payment.price_micros,
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

-- The decision row of a denial that took no budget: a policy's "no", or a 402 that cannot be paid.
-- The numbers of the agent's day are read here, without waiting for anybody's lock.
CREATE FUNCTION note_denial(
    p_id uuid, p_agent_id uuid, p_session_id text, p_trace_id text, p_method text, p_endpoint text,
    p_reason text, p_detail text, p_policy_version bigint, p_price_micros bigint,
    p_limit_micros bigint
) RETURNS void
LANGUAGE sql SET enable_seqscan = off AS $$
    INSERT INTO policy_decision_logs (
        id, trace_id, session_id, agent_id, method, endpoint, decision, reason, detail,
        policy_version, limit_micros, quoted_price_micros, spent_today_micros, reserved_micros,
        remaining_daily_micros, budget_before_micros, day)
    SELECT p_id, p_trace_id, p_session_id, p_agent_id, p_method, p_endpoint, 'deny', p_reason,
           p_detail, p_policy_version, p_limit_micros, p_price_micros,
           coalesce(c.spent_micros, 0), coalesce(c.held_micros, 0), left_today, left_today, today
      FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) t
      LEFT JOIN budget_counters c ON c.scope = agent_day_scope(p_agent_id, today)
      LEFT JOIN agent_policies p ON p.agent_id = p_agent_id
     CROSS JOIN LATERAL (
           SELECT coalesce(p.daily_limit_micros, 0)
                  - coalesce(c.spent_micros, 0) - coalesce(c.held_micros, 0) AS left_today) l
    ON CONFLICT (id) DO NOTHING
$$;

CREATE FUNCTION utc_midnight_after(p_day date) RETURNS timestamptz
LANGUAGE sql IMMUTABLE AS $$ SELECT (p_day + 1)::timestamp AT TIME ZONE 'UTC' $$;

CREATE FUNCTION hex_sha256(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT encode(sha256(convert_to(p_text, 'UTF8')), 'hex') $$;

-- What a server calls JSON is not always what PostgreSQL can hold (\u0000, 1e999999, depth); a
-- receipt must not fail for that. The text itself is kept beside it.
CREATE FUNCTION jsonb_or_null(p_text text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN p_text::jsonb;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL;
END $$;
