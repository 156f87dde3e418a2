-- The same request at another proxy, before the first one's doubt about its payment is on disk: whether
-- it is a second purchase beside the first, or the first asking again, only that other proxy knows. So
-- it is asked (proxy/ledger/presence.py), and until it has said that its program still waits, nothing is
-- signed for anew. More that the books are checked for; and payments that they have lost, written down
-- again.

DO $$ BEGIN
    ALTER TYPE reservation_request ADD ATTRIBUTE beside boolean;
EXCEPTION WHEN duplicate_column THEN NULL;
END $$;

-- What a request has to do with payments from before; no code if nothing. Beside the codes of
-- `answer_state` there are idempotency_key_reused, and request_elsewhere: an equal payment is open that
-- another process sent and seems to wait for. With the caller's rights and settings: every
-- reservation asks, and to change those for each costs as much as the answer.
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

-- Takes the price from every budget or from none; writes the request, the payment, the decision and
-- the step. Codes: ok, unknown_agent, frozen, spending_halted (by the one switch), over_per_call_limit,
-- over_…_limit, what `prior_payment` says of the same request (`joined` is the payment it was about),
-- duplicate_message (those bytes are another payment's), abandoned (released before or meanwhile).
-- `beside`: whether the senders of equal payments that were open when this request came have been asked,
-- and their programs still wait (those that came later are no matter); null from a proxy that can't ask.
CREATE OR REPLACE FUNCTION reserve(p_request jsonb) RETURNS reservation
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    q          reservation_request := jsonb_populate_record(NULL::reservation_request, p_request);
    r          reservation;
    v_today    date := (now() AT TIME ZONE 'UTC')::date;
    v_scopes   text[];
    v_day      budget_counters;   -- the agent's
    v_counter  budget_counters;
    v_policy   agent_policies;
    v_limit    bigint;
    v_scope    text;
    v_before   bigint;
    v_session  bigint := 0;
    v_trace    bigint;            -- left to the trace, before
    v_taken    bigint := 0;
    v_prior    text;
BEGIN
    PERFORM lock_payment_id(q.payment_id);

    SELECT d.reason, d.limit_micros, d.scope_spent_micros, d.scope_held_micros, d.remaining_micros,
           d.day, CASE WHEN d.scope LIKE '%-day/%' AND d.decision = 'deny' THEN utc_midnight_after(d.day) END
      INTO r FROM policy_decision_logs d
     WHERE d.payment_id = q.payment_id AND d.created_at > now() - interval '1 day';
    IF FOUND THEN
        IF r.code = 'ok' AND EXISTS (
            SELECT 1 FROM payments p WHERE p.id = q.payment_id AND p.status = 'FAILED') THEN
            r.code := 'abandoned';
        END IF;
        RETURN r;
    END IF;

    r := ('ok', 0, 0, 0, 0, v_today, NULL, NULL);
    IF NOT EXISTS (SELECT 1 FROM agents a WHERE a.id = q.agent_id AND a.is_active) THEN
        r.code := 'unknown_agent';
    ELSE
        v_scopes := lock_counters(ARRAY[q], v_today);
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
            IF v_prior = 'request_elsewhere' AND q.beside IS DISTINCT FROM false THEN
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
            END IF;
            -- Whoever may not pay at all is told that, and not of the payment from before.
            IF r.code IS DISTINCT FROM v_prior THEN
                r.joined := NULL;
            END IF;

            FOR v_counter IN SELECT * FROM budget_counters b WHERE b.scope = ANY (v_scopes) ORDER BY b.scope LOOP
                v_limit := counter_limit(v_counter, v_policy);
                r.remaining_micros := least(
                    r.remaining_micros, v_limit - v_counter.spent_micros - v_counter.held_micros);
                IF v_counter.kind = 'session' THEN
                    v_session := v_counter.spent_micros;
                ELSIF v_counter.kind = 'trace' THEN
                    v_trace := v_limit - v_counter.spent_micros - v_counter.held_micros;
                END IF;
                IF r.code = 'ok'
                   AND v_counter.spent_micros + v_counter.held_micros + q.price_micros > v_limit THEN
                    r.code := budget_denial(v_counter.kind);
                    r.limit_micros := v_limit;
                    r.spent_micros := v_counter.spent_micros;
                    r.held_micros := v_counter.held_micros;
                    v_scope := v_counter.scope;
                    IF v_counter.day IS NOT NULL THEN
                        r.resets_at := utc_midnight_after(v_today);
                    END IF;
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
            q.amount_atomic, q.price_micros, v_today, v_scopes, v_policy.version,
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
               SET held_micros = c.held_micros + q.price_micros, updated_at = now()
             WHERE c.scope = ANY (v_scopes);
            v_taken := q.price_micros;
            r.held_micros := r.held_micros + v_taken;
            r.remaining_micros := r.remaining_micros - v_taken;
        END IF;
    END IF;

    INSERT INTO policy_decision_logs (
        payment_id, trace_id, session_id, agent_id, method, endpoint, decision, reason,
        policy_version, scope, limit_micros, scope_spent_micros, scope_held_micros,
        quoted_price_micros, spent_today_micros, reserved_micros, remaining_daily_micros,
        budget_before_micros, remaining_micros, day)
    VALUES (q.payment_id, q.trace_id, q.session_id, q.agent_id, q.method, q.endpoint,
            CASE r.code WHEN 'ok' THEN 'allow' ELSE 'deny' END, r.code,
            v_policy.version, v_scope, r.limit_micros, r.spent_micros, r.held_micros,
            q.price_micros, coalesce(v_day.spent_micros, 0), coalesce(v_day.held_micros, 0) + v_taken,
            coalesce(v_before, 0) - v_taken, v_before, r.remaining_micros, v_today);
    -- A second try, under a newer blockhash or once others were asked, is the same step.
    IF v_trace IS NOT NULL AND r.code NOT IN ('duplicate_message', 'request_elsewhere') THEN
        PERFORM add_step(q.agent_id, q.trace_id, q.session_id, coalesce(q.tool_name, q.provider), q.endpoint,
                         q.price_micros, r.code, v_trace, v_trace - v_taken, v_policy.trace_limit_micros,
                         v_session, CASE r.code WHEN 'ok' THEN 'reserved' ELSE 'denied' END,
                         CASE r.code WHEN 'ok' THEN q.payment_id END);
    END IF;
    RETURN r;
END $$;

CREATE INDEX IF NOT EXISTS idx_receipt_links_recorded ON receipt_links (recorded_at);

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

-- A payment that the chain has and the books have not, as after a restore: written down from its
-- transaction, with a receipt of source 'chain'. Its agent is the only one that can have paid from its
-- wallet, else 'autopay'; its provider whoever was last paid at its receiver; of its request nothing is known.
-- Its budgets are those of the day of its block, whatever their limits: the money is gone.
--
-- `p`: {transaction, payer, fee_payer, client_signature, message_sha256, blockhash, source_account,
-- destination_account, memo, amount_atomic, price_micros, network, asset, symbol, decimals, pay_to, day,
-- seen: as in chain_seen}. 'rebuilt'; 'known' if the books have it; 'freed' if they have it as proved
-- dead, which it is not.
CREATE OR REPLACE FUNCTION rebuild_payment(p jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET enable_seqscan = off SET search_path = public, pg_temp AS $$
DECLARE
    q         reservation_request := jsonb_populate_record(NULL::reservation_request, p);
    v_day     date := p ->> 'day';
    v_scopes  text[];
    v_status  payment_status;
    v_policy  agent_policies;
    v_outcome text;
BEGIN
    q.payment_id := md5(p ->> 'transaction')::uuid;  -- the same again, if it is done again
    PERFORM lock_payment_id(q.payment_id);
    SELECT x.status INTO v_status FROM payments x
     WHERE x.client_signature = q.client_signature OR x.message_sha256 = q.message_sha256;
    IF FOUND THEN
        RETURN CASE v_status WHEN 'FAILED' THEN 'freed' ELSE 'known' END;
    END IF;
    -- Agents that have not paid yet have no wallet of their own in the books.
    SELECT CASE count(*) WHEN 1 THEN min(a.id::text) ELSE '00000000-0000-0000-0000-000000000000' END::uuid
      INTO q.agent_id FROM agents a
     WHERE a.wallet_address IN (q.payer, '11111111111111111111111111111111') AND a.is_active
       AND a.id <> '00000000-0000-0000-0000-000000000000';
    SELECT x.provider INTO q.provider FROM payments x
     WHERE x.pay_to = q.pay_to AND x.network = q.network ORDER BY x.created_at DESC LIMIT 1;
    q.provider := coalesce(q.provider, 'unknown');
    v_scopes := lock_counters(ARRAY[q], v_day);
    SELECT x.* INTO v_policy FROM agent_policies x WHERE x.agent_id = q.agent_id FOR SHARE;

    INSERT INTO api_requests (id, agent_id, provider, method, endpoint, api_type, http_status, status)
    VALUES (q.payment_id, q.agent_id, q.provider, 'UNKNOWN', 'unknown', 'MARKET_DATA', 402, 'PAYMENT_REQUIRED');
    INSERT INTO payments (
        id, agent_id, status, amount_atomic, price_micros, day, scopes, policy_version, provider, method,
        endpoint, api_request_id, x402_version, network, asset, symbol, decimals, pay_to, payer, fee_payer,
        source_account, destination_account, memo, blockhash, client_signature, message_sha256)
    VALUES (
        q.payment_id, q.agent_id, 'SIGNED', q.amount_atomic, q.price_micros, v_day, v_scopes,
        coalesce(v_policy.version, 0), q.provider, 'UNKNOWN', 'unknown', q.payment_id, 0, q.network, q.asset,
        q.symbol, q.decimals, q.pay_to, q.payer, q.fee_payer, q.source_account, q.destination_account, q.memo,
        q.blockhash, q.client_signature, q.message_sha256);
    INSERT INTO policy_decision_logs (
        payment_id, agent_id, method, endpoint, decision, reason, detail, policy_version,
        quoted_price_micros, spent_today_micros, reserved_micros, remaining_daily_micros, day)
    VALUES (q.payment_id, q.agent_id, 'UNKNOWN', 'unknown', 'allow', 'rebuilt',
            'the decision is lost; the payment was found on the chain', v_policy.version,
            q.price_micros, 0, 0, 0, v_day);
    PERFORM set_config('autopay.reason', 'rebuilt', true);
    UPDATE budget_counters c
       SET held_micros = c.held_micros + q.price_micros, updated_at = now(),
           top_limit_micros = CASE WHEN counter_limit(c, v_policy) IS NULL THEN 999999999999999999
                                   ELSE greatest(c.top_limit_micros, counter_limit(c, v_policy)) END
     WHERE c.scope = ANY (v_scopes);
    PERFORM set_config('autopay.reason', '', true);
    v_outcome := verify_payment(q.payment_id, p -> 'seen');
    IF v_outcome <> 'verified' THEN
        RAISE EXCEPTION 'payment % of % cannot be written down: %', q.payment_id, p ->> 'transaction', v_outcome;
    END IF;
    PERFORM note_event(q.agent_id, 'PAYMENT_STATUS', q.payment_id, jsonb_build_object(
        'code', 'rebuilt_from_chain', 'transaction', p ->> 'transaction', 'provider', q.provider,
        'price_micros', q.price_micros), 'WARNING');
    RETURN 'rebuilt';
END $$;

-- What was paid is written down, even past a limit: the audit tells of that.
DROP TRIGGER IF EXISTS budget_counters_guard_update ON budget_counters;
CREATE TRIGGER budget_counters_guard_update BEFORE UPDATE ON budget_counters
    FOR EACH ROW WHEN (NEW.spent_micros + NEW.held_micros > OLD.spent_micros + OLD.held_micros
                       AND current_setting('autopay.reason', true) IS DISTINCT FROM 'rebuilt')
    EXECUTE FUNCTION guard_budget();

REVOKE ALL ON FUNCTION rebuild_payment(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rebuild_payment(jsonb) TO autopay_writer, autopay_admin;
