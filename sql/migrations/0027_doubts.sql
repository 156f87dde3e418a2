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
    PERFORM hold_policies();
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
    PERFORM lock_counters(ARRAY[q], least((v_day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 s', now()));
    v_scopes := ARRAY(
        SELECT c.scope FROM counters_of(q, limits_of(q.agent_id, q.provider),
                                        least((v_day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 s', now())) c
         WHERE c.kind <> 'rolling');
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
       SET held_micros = c.held_micros + q.price_micros, held_calls = c.held_calls + 1, updated_at = now(),
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

REVOKE ALL ON FUNCTION rebuild_payment(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rebuild_payment(jsonb) TO autopay_writer, autopay_admin;
