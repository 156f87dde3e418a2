-- DEMO DATA, and marked as such: everything here belongs to the agent DemoAutopayAgent, was "bought"
-- from https://demo.invalid, and no transaction of it exists on any chain. Every amount is moved by the
-- functions that move real money, so that the books balance. They name no token account, so that no
-- reconciler looks for them.
--
-- Run it again: nothing happens. Run it where there are payments of others: it refuses.

DO $seed$
DECLARE
    v_agent   CONSTANT uuid := 'de300000-0000-4000-8000-000000000001';
    v_wallet  CONSTANT text := 'Demo1111111111111111111111111111111111111111';
    v_devnet  CONSTANT text := 'solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1';
    v_shop    CONSTANT text := 'https://demo.invalid:443';
    v_chat    CONSTANT uuid := 'de300000-0000-4000-8000-0000000000c0';
    v_payment uuid;
    v_code    text;
    v_number  integer;
    v_name    text;
    v_price   bigint;
    v_asset   text;
    v_tx      text;
BEGIN
    PERFORM pg_advisory_xact_lock(402, 3);
    IF EXISTS (SELECT 1 FROM payments WHERE agent_id <> v_agent) THEN
        RAISE EXCEPTION 'there are real payments in this database: demo data would stand among them'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF EXISTS (SELECT 1 FROM agents WHERE id = v_agent) THEN
        RETURN;
    END IF;

    -- The agent has no token, so nobody can spend as it.
    INSERT INTO agents (id, name, autonomy_level, wallet_address, capture_chat)
    VALUES (v_agent, 'DemoAutopayAgent', 'PHASE1', v_wallet, true);
    INSERT INTO agent_policies (agent_id, updated_by) VALUES (v_agent, 'demo seed');

    -- What may come of a payment, each once. The first three are one task of one session.
    FOR v_number, v_name, v_price, v_asset IN VALUES
        (1, 'verified', 10000, 'USDC'), (2, 'confirmed', 20000, 'CASH'), (3, 'in doubt', 5000, 'USDC'),
        (4, 'never sent', 1000, 'USDC'), (5, 'proved dead', 30000, 'USDC'),
        (6, 'over the limit', 50001, 'USDC')
    LOOP
        v_payment := format('de300000-0000-4000-8000-0000000001%s', lpad(v_number::text, 2, '0'))::uuid;
        v_tx := rpad('DemoTransaction' || v_number, 88, '1');
        v_code := (reserve(jsonb_build_object(
            'payment_id', v_payment, 'agent_id', v_agent, 'price_micros', v_price,
            'amount_atomic', v_price, 'decimals', 6, 'session_id', 'demo-session',
            'trace_id', CASE WHEN v_number <= 3 OR v_number = 6 THEN 'demo-trace' END,
            'tool_name', 'demo ' || v_name, 'provider', v_shop, 'method', 'GET',
            'endpoint', 'https://demo.invalid/api/market-feed', 'api_type', 'MARKET_DATA',
            'x402_version', 2, 'network', v_devnet, 'asset', v_asset, 'symbol', v_asset,
            'pay_to', v_wallet, 'payer', v_wallet,
            'facilitator_url', 'https://facilitator.demo.invalid',
            'memo', 'demo ' || v_name, 'last_valid_block_height', 1,
            'client_signature', rpad('DemoSignature' || v_number, 88, '1'),
            'message_sha256', '\x' || encode(sha256(convert_to('demo ' || v_number, 'UTF8')), 'hex'),
            'instructions', jsonb_build_object(
                'demo', true, 'x402Version', 2, 'error', 'Payment required',
                'accepts', jsonb_build_array(jsonb_build_object(
                    'scheme', 'exact', 'network', v_devnet, 'amount', v_price::text, 'asset', v_asset,
                    'payTo', v_wallet, 'maxTimeoutSeconds', 60))),
            'response_headers', '{"content-type": "application/json"}'::jsonb))).code;
        IF v_code <> (CASE v_number WHEN 6 THEN 'over_per_call_limit' ELSE 'ok' END) THEN
            RAISE EXCEPTION 'the demo payment "%" was answered %', v_name, v_code;
        END IF;

        CASE v_name
        WHEN 'verified', 'confirmed' THEN
            PERFORM settle(jsonb_build_object(
                'payment_id', v_payment, 'claimed', true, 'transaction', v_tx, 'payer', v_wallet,
                'network', v_devnet, 'amount', v_price::text, 'http_status', 200, 'success', true,
                'latency_ms', 120, 'source', 'provider',
                'response', format('{"success": true, "transaction": "%s", "settlementId": "demo"}', v_tx)));
            PERFORM deliver(jsonb_build_object(
                'id', format('de300000-0000-4000-8000-0000000002%s', lpad(v_number::text, 2, '0')),
                'payment_id', v_payment, 'agent_id', v_agent, 'intent', 'demo market feed',
                'provider_id', v_shop, 'url', 'https://demo.invalid/api/market-feed', 'method', 'GET',
                'status', 200, 'paid_amount_atomic', v_price::text, 'response_hash', hex_sha256('demo'),
                'latency_ms', 120, 'success', true, 'schema_ok', true, 'score', 0.9, 'tx_hash', v_tx,
                'pay_to', v_wallet, 'attempt', 1));
            UPDATE api_requests SET data_accessed = '{"demo": true, "signal": "SOL/USDC spread 0.3 %"}'
             WHERE id = v_payment;
        WHEN 'in doubt' THEN
            PERFORM doubt(v_payment, 'answer_lost', 'demo: the connection broke', NULL);
        WHEN 'never sent' THEN
            PERFORM note_retry(jsonb_build_object(
                'id', gen_random_uuid(), 'payment_id', v_payment, 'attempt', n, 'delay', 2 ^ (n - 1),
                'outcome', 'FAILURE', 'error_class', 'connect_failed', 'error', 'demo: refused'))
               FROM generate_series(1, 3) n;
            PERFORM release(v_payment, 'never_sent');
        WHEN 'proved dead' THEN
            PERFORM release(v_payment, 'proved_dead');
        ELSE NULL;
        END CASE;
        IF v_name = 'verified' THEN
            UPDATE payments SET status = 'VERIFIED' WHERE id = v_payment;
        END IF;
        INSERT INTO transaction_logs (agent_id, payment_id, solana_tx_metadata, confirmation_status, gas_fees, error_message)
        SELECT v_agent, v_payment,
               jsonb_build_object('demo', true, 'signature', v_tx, 'slot', 1000 + v_number, 'network', v_devnet),
               level::confirmation_status, 5000, CASE v_name WHEN 'proved dead' THEN 'demo: BlockhashNotFound' END
          FROM unnest(CASE v_name WHEN 'verified'    THEN ARRAY['PROCESSED', 'CONFIRMED', 'FINALIZED']
                                  WHEN 'confirmed'   THEN ARRAY['PROCESSED', 'CONFIRMED']
                                  WHEN 'proved dead' THEN ARRAY['PROCESSED'] ELSE '{}' END) level;
    END LOOP;
    UPDATE x402_traces SET user_prompt = 'demo: what is the spread?' WHERE agent_id = v_agent;

    -- Its wallet runs low, a provider breaks, and an auditor finds both.
    PERFORM note_balance(v_wallet, v_devnet, 1.25, 0.5, 0.1);
    PERFORM note_balance(v_wallet, v_devnet, 0.004, 0, 0.1);
    PERFORM note_event(v_agent, 'NETWORK_ISSUE', NULL, '{"demo": true, "error": "RPC timeout"}', 'ERROR');
    INSERT INTO x402_procurement_provider_stats (id, calls, successes, failures, avg_latency_ms,
        schema_passes, consecutive_failures, last_status, last_error, last_seen_at, circuit_open_until)
    VALUES (v_shop, 5, 2, 3, 120, 2, 3, 599, 'demo: refused', now(), now() + interval '3 minutes')
    ON CONFLICT (id) DO NOTHING;

    INSERT INTO chat_sessions (id, wallet_address, title, agent_id, session_key, message_count)
    VALUES (v_chat, v_wallet, 'Demo chat', v_agent, 'demo-session', 2);
    INSERT INTO chat_messages (session_id, message_id, content, is_user, tx_hash, payment_id)
    VALUES (v_chat, 'demo-question', 'demo: what is the spread?', true, NULL, NULL),
           (v_chat, 'demo-answer', 'demo: SOL/USDC spread is 0.3 %', false, rpad('DemoTransaction1', 88, '1'),
            'de300000-0000-4000-8000-000000000101');
    INSERT INTO message_ratings (message_id, user_address, agent_id, is_positive)
    VALUES ('demo-answer', v_wallet, v_agent::text, true);
END $seed$;
